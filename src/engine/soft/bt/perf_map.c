/* Names for translated code, in the file that `perf report` looks for. */
#include <stdio.h>
#include <unistd.h>

#include "engine/soft/bt/bt.h"

void bt_write_perf_map(struct bt *bt)
{
	char path[64];
	FILE *file;

	snprintf(path, sizeof(path), "/tmp/perf-%d.map", (int)getpid());
	file = fopen(path, "a");
	if (!file)
		return;
	fprintf(file, "%lx %lx nestor:thunks\n", (unsigned long)bt->code_exec,
		(unsigned long)(bt->code_start - bt->code_rw));
	fprintf(file, "%lx %lx nestor:cold\n", (unsigned long)(bt->cold_start + bt->cold.exec_offset),
		(unsigned long)(bt->cold.p - bt->cold_start));
	for (uint32_t i = 0; i < bt->in_order_count; i++) {
		const struct block *b = record_at(bt, bt->in_order[i]);
		const char *level = b->key & MODE_NONROOT ? "L2" : "L1";

		fprintf(file, "%lx %x %s:%s:%lx%s\n", (unsigned long)block_code_mem(bt, b), b->code_size, level,
			b->linear ? "linear" : "physical", (unsigned long)(b->linear ? b->linear : b->gpa),
			b->key & KEY_NO_GROUPS ? ":single" : b->key & KEY_ONE ? ":one" : "");
	}
	fclose(file);
	fprintf(stderr, "translator: %lu blocks translated, %lu dropped, code memory emptied %lu times; present: %u blocks, "
		"%lu KiB of main lines, %lu KiB aside, %lu KiB of records\n",
		(unsigned long)bt->translated_blocks, (unsigned long)bt->drops, (unsigned long)bt->flushes,
		bt->in_order_count, (unsigned long)(bt->e.p - bt->code_start) >> 10,
		(unsigned long)(bt->cold.p - bt->cold_start) >> 10, (unsigned long)(bt->arena - bt->arena_start) >> 10);
}

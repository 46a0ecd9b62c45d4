/* Names for translated code, in the file that `perf report` looks for. */
#include <stdio.h>
#include <unistd.h>

#include "engine/soft/bt/bt.h"

static void write_blocks(FILE *file, const struct bt *bt, const struct code_part *part)
{
	for (uint32_t i = 0; i < part->count; i++) {
		const struct block *b = record_at(bt, part->in_order[i]);
		const char *level = b->key & MODE_NONROOT ? "L2" : "L1";

		fprintf(file, "%lx %x %s:%s:%lx%s\n", (unsigned long)block_code_mem(bt, b), b->code_size, level,
			b->linear ? "linear" : "physical", (unsigned long)(b->linear ? b->linear : b->gpa),
			b->key & KEY_NO_GROUPS ? ":single" : b->key & KEY_ONE ? ":one" : "");
	}
}

void bt_write_perf_map(struct bt *bt)
{
	char path[64];
	FILE *file;
	uint32_t blocks = 0;
	size_t main = 0, aside = 0, records = 0;

	snprintf(path, sizeof(path), "/tmp/perf-%d.map", (int)getpid());
	file = fopen(path, "a");
	if (!file)
		return;
	fprintf(file, "%lx %lx nestor:thunks\n", (unsigned long)bt->code_exec,
		(unsigned long)(bt->code_start - bt->code_rw));
	fprintf(file, "%lx %lx nestor:cold\n", (unsigned long)(bt->cold_start + bt->cold.exec_offset),
		(unsigned long)(bt->code_rw + bt->code_size - bt->cold_start));
	code_parts_note_used(bt);
	for (unsigned p = 0; p < bt->part_count; p++) {
		const struct code_part *part = &bt->part[p];

		write_blocks(file, bt, part);
		blocks += part->count;
		main += part->code_used - part->code;
		aside += part->cold_used - part->cold;
		records += part->arena_used - part->arena;
	}
	fclose(file);
	fprintf(stderr, "translator: %lu blocks translated, %lu dropped, code memory emptied %lu times (1/%u each); present: "
		"%u blocks, %zu KiB of main lines, %zu KiB aside, %zu KiB of records\n",
		(unsigned long)bt->translated_blocks, (unsigned long)bt->drops, (unsigned long)bt->emptied, bt->part_count,
		blocks, main >> 10, aside >> 10, records >> 10);
}

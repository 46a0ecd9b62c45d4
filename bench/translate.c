/*
 * What translating costs: this program's own code, and its libraries', goes through the translator page by page as
 * 64-bit user code; nothing of it runs. Prints microseconds per block and nanoseconds per instruction.
 *
 *	translate [ROUNDS]
 *
 * The blocks are those that straight execution would make: each begins where the one before ends. Bytes that are no
 * code (tables between functions) are translated as well, which is rare enough.
 */
#include <link.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "differential_guest.h"
#include "engine/soft/bt/bt.h"
#include "engine/soft/bt/code_table.h"
#include "engine/soft/bt/decode.h"

#define PAGES_MAX 4096

static uint64_t zero(void)
{
	return 0;
}

static const uint8_t *pages[PAGES_MAX];
static unsigned page_count;

static int collect(struct dl_phdr_info *info, size_t size, void *data)
{
	for (unsigned i = 0; i < info->dlpi_phnum; i++) {
		const ElfW(Phdr) *ph = &info->dlpi_phdr[i];
		uintptr_t start = (info->dlpi_addr + ph->p_vaddr + PAGE_SIZE - 1) & PAGE_MASK;
		uintptr_t end = (info->dlpi_addr + ph->p_vaddr + ph->p_memsz) & PAGE_MASK;

		if (ph->p_type != PT_LOAD || !(ph->p_flags & PF_X))
			continue;
		for (; start < end && page_count < PAGES_MAX; start += PAGE_SIZE)
			pages[page_count++] = (const uint8_t *)start;
	}
	return 0;
}

static double cpu_seconds(void)
{
	struct timespec t;

	clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
	return t.tv_sec + t.tv_nsec * 1e-9;
}

static unsigned length_of(const struct block *block, const uint8_t *code, unsigned available)
{
	unsigned length = 0;

	for (unsigned i = 0; i < block->insn_count && length < available; i++) {
		struct insn insn;

		decode(&insn, code + length, available - length, 8, true);
		length += insn.length;
	}
	return length;
}

/* Where the blocks of all pages begin, so that the measured rounds do nothing but translate. */
static unsigned find_starts(struct bt *bt, uint32_t key, uint32_t *start)
{
	unsigned count = 0;

	for (unsigned p = 0; p < page_count; p++) {
		for (unsigned offset = 0; offset < PAGE_SIZE;) {
			uint64_t address = (uint64_t)p << PAGE_SHIFT | offset;
			struct block *block = translate(bt, address, address, key, pages[p], BLOCK_MAX_INSNS, NULL, 0);

			if (!block) {
				bt_flush(bt);
				continue;
			}
			if (!block->insn_count)
				break;
			start[count++] = (uint32_t)address;
			offset += length_of(block, pages[p] + offset, PAGE_SIZE - offset);
		}
	}
	return count;
}

static uint64_t translate_all(struct bt *bt, uint32_t key, const uint32_t *start, unsigned count)
{
	uint64_t instructions = 0;

	bt_flush(bt);
	for (unsigned i = 0; i < count; i++) {
		struct block *block = block_find(bt, start[i], key, start[i]);

		if (!block)
			block = translate(bt, start[i], start[i], key, pages[start[i] >> PAGE_SHIFT], BLOCK_MAX_INSNS, NULL, 0);
		if (!block || present_part(bt)->count >= present_part(bt)->max) {
			bt_make_room(bt);
			continue;
		}
		block_insert(bt, block);
		code_table_enter(bt, block);
		instructions += block->insn_count;
	}
	return instructions;
}

int main(int argc, char **argv)
{
	static const uint8_t ud2[] = { 0x0f, 0x0b };
	static uint8_t data[4096];
	const struct differential_setup setup = { .code = 0x40000000, .data = 0x40200000, .stack = 0x40210000,
						  .code_size = 4096, .data_size = 4096, .stack_size = 4096,
						  .code_memory = 96u << 20 };
	struct differential_state in = { .rip = setup.code, .rflags = 2 }, out;
	unsigned rounds = argc > 1 ? atoi(argv[1]) : 5, count;
	uint32_t *start = calloc(PAGES_MAX * 512, sizeof(*start)), key;
	double best = 1e9;
	uint64_t instructions = 0;
	struct cpu *cpu;

	if (!start || !differential_create(&setup))
		return 1;
	cpu = differential_cpu();
	differential_fpu_init(in.fpu, zero);
	differential_run(&in, &out, ud2, sizeof(ud2), data, sizeof(data));
	key = cpu->mode & MODE_BITS;
	dl_iterate_phdr(collect, NULL);
	count = find_starts(cpu->bt, key, start);
	for (unsigned i = 0; i < rounds; i++) {
		double began = cpu_seconds();

		instructions = translate_all(cpu->bt, key, start, count);
		double took = cpu_seconds() - began;

		best = took < best ? took : best;
	}
	printf("%u blocks of %.1f instructions: %.3f us a block, %.1f ns an instruction\n", count,
	       (double)instructions / count, best * 1e6 / count, best * 1e9 / instructions);
	return 0;
}

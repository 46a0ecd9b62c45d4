#include "engine/soft/bt/code_parts.h"

#include "engine/soft/bt/bt.h"
#include "engine/soft/bt/code_table.h"
#include "engine/soft/bt/return_stack.h"

#define CODE_ALIGN 64

static void begin_part(struct bt *bt, unsigned number)
{
	struct code_part *part = &bt->part[number];

	bt->present = number;
	bt->e.p = part->code;
	bt->e.end = part->code_end;
	bt->cold.p = part->cold;
	bt->cold.end = part->cold_end;
	bt->arena = part->arena;
	bt->arena_limit = part->arena_end;
	part->count = 0;
	part->cached = 0;
}

void code_parts_note_used(struct bt *bt)
{
	struct code_part *part = present_part(bt);

	part->code_used = bt->e.p;
	part->cold_used = bt->cold.p;
	part->arena_used = bt->arena;
}

/* Where part `number` of `count` begins in [start, end). */
static uint8_t *boundary(uint8_t *start, uint8_t *end, unsigned number, unsigned count, unsigned align)
{
	return number == count ? end : start + ((size_t)(end - start) / count * number & ~(size_t)(align - 1));
}

void code_parts_lay_out(struct bt *bt)
{
	uint8_t *arena = bt->arena_start + RECORD_UNIT, *arena_end = bt->arena_end; /* place 0 is nobody's */
	uint8_t *cold_end = bt->code_rw + bt->code_size;
	unsigned n = bt->part_count;

	for (unsigned i = 0; i < n; i++) {
		struct code_part *part = &bt->part[i];

		*part = (struct code_part){
			.code = boundary(bt->code_start, bt->cold_start, i, n, CODE_ALIGN),
			.code_end = boundary(bt->code_start, bt->cold_start, i + 1, n, CODE_ALIGN),
			.cold = boundary(bt->cold_start, cold_end, i, n, CODE_ALIGN),
			.cold_end = boundary(bt->cold_start, cold_end, i + 1, n, CODE_ALIGN),
			.arena = boundary(arena, arena_end, i, n, RECORD_UNIT),
			.arena_end = boundary(arena, arena_end, i + 1, n, RECORD_UNIT),
			.in_order = bt->in_order + bt->in_order_max / n * i,
			.max = bt->in_order_max / n,
		};
		part->code_used = part->code;
		part->cold_used = part->cold;
		part->arena_used = part->arena;
	}
	begin_part(bt, 0);
}

void *bt_alloc(struct bt *bt, size_t size)
{
	void *result = bt->arena;

	size = (size + RECORD_UNIT - 1) & ~(size_t)(RECORD_UNIT - 1);
	if ((size_t)(bt->arena_limit - bt->arena) < size)
		return NULL;
	bt->arena += size;
	return result;
}

/* What may lead to code that is gone, besides blocks: nothing of that knows to which part it leads. */
static void forget_ways(struct bt *bt)
{
	bt->single.patch = 0;
	bt->emptied++;
	return_stack_forget(bt->cpu);
	tlb_flush_jumps(bt->cpu, true);
}

static void empty_part(struct bt *bt, struct code_part *part)
{
	for (uint32_t i = 0; i < part->count; i++) {
		struct block *b = record_at(bt, part->in_order[i]);

		if (!b->dropped)
			b->dropped = b->leaving = true;
	}
	block_forget_singles(bt);
	links_forget_cached(bt, part);
	for (uint32_t i = 0; i < part->count; i++) {
		struct block *b = record_at(bt, part->in_order[i]);

		if (b->leaving)
			block_leave(bt, b);
	}
	forget_ways(bt);
}

void bt_make_room(struct bt *bt)
{
	unsigned next = (bt->present + 1) % bt->part_count;

	if (bt->part_count == 1) {
		bt_flush(bt);
		return;
	}
	code_parts_note_used(bt);
	if (bt->part[next].count)
		empty_part(bt, &bt->part[next]);
	begin_part(bt, next);
}

void bt_flush(struct bt *bt)
{
	uint32_t count = 0;
	bool few;

	for (unsigned p = 0; p < bt->part_count; p++)
		count += bt->part[p].count;
	few = count < (1u << CODE_TABLE_BITS) / 32; /* … to empty the table by blocks */
	for (unsigned p = 0; p < bt->part_count; p++) {
		for (uint32_t i = 0; i < bt->part[p].count; i++) {
			struct block *b = record_at(bt, bt->part[p].in_order[i]);

			if (b->transient)
				continue;
			if (few)
				*code_slot(bt, code_ident(b->gpa, b->key)) = (struct code_entry){ 0 };
			block_forget_page(bt, b->gpa >> PAGE_SHIFT);
			if (b->crosses_page)
				block_forget_page(bt, block_gpa2(bt, b) >> PAGE_SHIFT);
		}
	}
	if (!few)
		memset(bt->code_table, 0, CODE_TABLE_SIZE);
	bt->single_way_count = 0;
	code_parts_lay_out(bt);
	links_flush(bt);
	forget_ways(bt);
}

/* Blocks were entered as their code was made, upwards. */
struct block *block_at(struct bt *bt, const uint8_t *address)
{
	const uint8_t *written = address - bt->e.exec_offset;
	unsigned p = 0;
	uint32_t low = 0, high;

	while (p < bt->part_count && (written < bt->part[p].code || written >= bt->part[p].code_end))
		p++;
	if (p == bt->part_count)
		return NULL;
	high = bt->part[p].count;
	while (low < high) {
		uint32_t middle = low + (high - low) / 2;
		struct block *b = record_at(bt, bt->part[p].in_order[middle]);
		uint8_t *code = block_code_mem(bt, b);

		if (address < code)
			high = middle;
		else if (address >= code + b->code_size)
			low = middle + 1;
		else
			return b;
	}
	return NULL;
}

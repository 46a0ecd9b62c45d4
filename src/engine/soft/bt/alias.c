/*
 * Code pages that one address space maps at two linear addresses.
 *
 * A block of the lower half of the address space does not know its linear address, so that all processes share it,
 * and its branches to other pages go through one slot per context. That holds as long as a context knows the page at
 * one address only; what lies around it may differ at the other one. Here every fetch mapping of a context is
 * compared with the last one of the same page. A page found twice has its branches translated anew, through the
 * jump cache, which goes by the whole address.
 */
#include "engine/soft/bt/bt.h"

#define LINEAR_BITS 36 /* of a page number in the lower half: 47 - 12, and the CPU has no five-level paging */

/* A page number of the lower half and a generation in a word; never 0. */
static uint64_t seen_word(uint64_t linear, uint32_t generation)
{
	return (linear >> PAGE_SHIFT & ((1ull << LINEAR_BITS) - 1)) | (uint64_t)(generation | 1u << 27) << LINEAR_BITS;
}

bool bt_is_aliased(const struct bt *bt, uint64_t gpa)
{
	uint64_t page = gpa >> PAGE_SHIFT;

	return page < bt->page_count && bt->aliased[page / 8] >> page % 8 & 1;
}

static void make_aliased(struct bt *bt, uint64_t page)
{
	struct block *next;

	bt->aliased[page / 8] |= 1u << page % 8;
	for (struct block *b = record_at(bt, bt->pages[page].blocks); b; b = next) {
		next = record_at(bt, *block_next_in_page(bt, b, page));
		if (!block_is_second_page(bt, b, page) && !b->linear)
			block_drop(bt, b);
	}
}

void bt_note_fetch(struct cpu *cpu, unsigned context, unsigned class, uint32_t generation, gpa_t gpa, uint64_t linear)
{
	struct bt *bt = cpu->bt;
	uint64_t page = gpa.v >> PAGE_SHIFT, now = seen_word(linear, generation & ((1u << 27) - 1)), *seen;

	if (!bt || linear >> 63 || page >= bt->page_count)
		return;
	seen = &bt->seen[(page * TLB_CONTEXTS + context) * 2 + class];
	if (*seen != now && *seen >> LINEAR_BITS == now >> LINEAR_BITS && !bt_is_aliased(bt, gpa.v))
		make_aliased(bt, page);
	*seen = now;
}

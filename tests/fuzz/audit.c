#include "audit.h"

#include <stdbool.h>
#include <stdlib.h>

#include "engine/soft/bt/bt.h"
#include "engine/soft/bt/code_table.h"

static struct bt *bt;
static uint32_t *users[LINK_TABLES]; /* of each slot, as counted */

static bool is_live(const struct block *block)
{
	return block && !block->dropped;
}

static bool has_slot(const struct block_link *link)
{
	return link->table != LINK_PATCHED && link->table < LINK_TABLES;
}

static bool is_in_page(struct block *block, uint64_t page)
{
	for (struct block *b = record_at(bt, bt->pages[page].blocks); b; b = record_at(bt, *block_next_in_page(bt, b, page)))
		if (b == block)
			return true;
	return false;
}

static bool is_incoming(const struct block_link *wanted, const struct block *to)
{
	for (const struct block_link *link = record_at(bt, to->incoming); link; link = record_at(bt, link->next))
		if (link == wanted)
			return true;
	return false;
}

static const char *check_link(const struct block_link *link, const struct block *from)
{
	const struct block *to = record_at(bt, link->to);

	if (from->dropped && (to || has_slot(link)))
		return "a dropped block leads somewhere";
	if (to && !is_live(to))
		return "a link leads to a dropped block";
	if (to && !is_incoming(link, to))
		return "a link is not in the list of those that lead to its block";
	if (has_slot(link)) {
		const struct block_link *owner = record_at(bt, bt->slots[link->table].owner[link->index]);

		users[link->table][link->index]++;
		if (!owner || owner->table != link->table || owner->index != link->index || owner->to != link->to)
			return "a slot's owner does not have it";
	}
	return NULL;
}

static const char *check_block(struct block *block)
{
	const char *wrong = NULL;

	if (block->leaving)
		return "a block leaves, but stays";
	for (unsigned i = 0; i < block->link_count && !wrong; i++)
		wrong = check_link(&block->link[i], block);
	for (const struct block_link *link = record_at(bt, block->incoming); link && !wrong; link = record_at(bt, link->next))
		if (record_at(bt, link->to) != block || !is_live(link_from(link)))
			wrong = "what leads to a block does not";
	if (wrong || block->transient || block->dropped)
		return wrong;
	if (block_find(bt, block->gpa, block->key, block->linear ? block->linear : 1ull << 40) != block)
		return "a block is not found";
	if (!is_in_page(block, block->gpa >> PAGE_SHIFT) || !bt->pages[block->gpa >> PAGE_SHIFT].granules)
		return "a block is not in its page's list";
	return NULL;
}

static const char *check_parts(void)
{
	code_parts_note_used(bt);
	for (const struct code_part *part = bt->part; part < bt->part + bt->part_count; part++) {
		for (uint32_t i = 0; i < part->count; i++) {
			struct block *block = record_at(bt, part->in_order[i]);
			const uint8_t *code = bt->code_rw + block->code_mem;
			const char *wrong;

			if ((uint8_t *)block < part->arena || (uint8_t *)block >= part->arena_used || code < part->code ||
			    code + block->code_size > part->code_used || bt->code_rw + block->aside < part->cold ||
			    bt->code_rw + block->aside > part->cold_used)
				return "a block is not all in one part";
			wrong = check_block(block);
			if (wrong)
				return wrong;
		}
		for (const struct block_link *link = record_at(bt, part->cached); link; link = record_at(bt, link->next))
			if (link->table != LINK_CACHED)
				return "a link through the jump cache is none";
	}
	return NULL;
}

static const char *check_slots(const struct tlb_tables *tables)
{
	for (unsigned table = LINK_CONTEXT; table < LINK_TABLES; table++) {
		const struct link_slots *slots = &bt->slots[table];

		for (uint32_t i = 0; i < slots->used; i++) {
			const struct block_link *owner = record_at(bt, slots->owner[i]);
			const struct block *to = owner ? record_at(bt, owner->to) : NULL;
			const void *held = table == LINK_CONTEXT ? tables->link[i] :
					   table == LINK_GLOBAL	 ? bt->cpu->global_link[i] :
								   bt->cpu->guest_link[i];

			if (owner && slots->users[i] != users[table][i])
				return "a slot's users are miscounted";
			if (!owner)
				continue;
			if (slots->stub[i] != link_stub(bt, owner))
				return "a slot's stub is not its owner's";
			if (held != slots->stub[i] && (!to || (held != block_code(bt, to) && held != block_code_mem(bt, to))))
				return "a slot leads astray";
		}
	}
	return NULL;
}

static const char *check_ways(const struct tlb_tables *tables)
{
	for (unsigned class = 0; class < TLB_CLASSES; class ++) {
		for (unsigned i = 0; i < JUMP_CACHE_SLOTS; i++)
			if (jump_slot_of(tables->jump[class][i].rip) == i && !is_live(block_at(bt, tables->jump[class][i].code)))
				return "a jump cache leads astray";
		for (unsigned i = 0; i < CALL_SITES; i++)
			if (tables->site[class][i].rip != SITE_EMPTY && !is_live(block_at(bt, tables->site[class][i].code)))
				return "a call site leads astray";
	}
	for (uint32_t i = 0; i < 1u << CODE_TABLE_BITS; i++)
		if (bt->code_table[i].ident && !is_live(block_at(bt, bt->code_table[i].code)))
			return "the code table leads astray";
	for (uint32_t i = 0; i < bt->single_way_count; i++)
		if (!is_live(record_at(bt, bt->single_way[i].to)))
			return "a slow path leads astray";
	return NULL;
}

const char *audit_code_cache(struct cpu *cpu)
{
	const char *wrong = NULL;

	bt = cpu->bt;
	for (unsigned table = 0; table < LINK_TABLES; table++)
		users[table] = calloc(UINT16_MAX + 1, sizeof(*users[table]));
	for (unsigned table = 0; table < LINK_TABLES; table++)
		if (!users[table])
			wrong = "no memory to look";
	if (!wrong)
		wrong = check_parts();
	if (!wrong)
		wrong = check_slots(&cpu->region->tables);
	if (!wrong)
		wrong = check_ways(&cpu->region->tables);
	for (unsigned table = 0; table < LINK_TABLES; table++)
		free(users[table]);
	return wrong;
}

/*
 * Where the code of a guest-physical address is: one table for all contexts, looked into by translated code itself
 * when a context's own caches (jump cache, links) do not know the way yet. A new address space over known code,
 * which is what a new process is, thus finds it without C.
 *
 * What translated code sees of the table forgets whatever falls into the slot of something else. For C a slot begins
 * the list of all blocks that belong there (block.c): one cache line tells both, and each is bound to be a miss.
 */
#ifndef NESTOR_BT_CODE_TABLE_H
#define NESTOR_BT_CODE_TABLE_H

#include "engine/soft/bt/bt.h"

#define CODE_TABLE_BITS 18
#define CODE_TABLE_SIZE (sizeof(struct code_entry) << CODE_TABLE_BITS)

#define CODE_IDENT_MODE_SHIFT 42 /* guest-physical addresses of code are below that, mode keys have 22 bits */
#define CODE_HASH_FACTOR      0x5bd1e995 /* odd, positive as an imm32 */
#define CODE_HASH_SHIFT       (64 - CODE_TABLE_BITS - 16)

struct code_entry {
	uint64_t ident;    /* gpa | mode key << CODE_IDENT_MODE_SHIFT; 0 where empty */
	uint64_t linear;   /* what rip must be; 0: anything */
	const void *code;  /* code_mem of the block */
	struct block_ref first; /* of all blocks of this slot */
};

static inline uint64_t code_ident(uint64_t gpa, uint32_t key)
{
	return gpa | (uint64_t)key << CODE_IDENT_MODE_SHIFT;
}

static inline struct code_entry *code_slot(struct bt *bt, uint64_t ident)
{
	uint64_t hash = ident * CODE_HASH_FACTOR >> CODE_HASH_SHIFT;

	return &bt->code_table[hash & ((1u << CODE_TABLE_BITS) - 1)];
}

/* Only a block that is found by nothing but its key and address may be entered. */
static inline void code_table_enter(struct bt *bt, const struct block *block)
{
	if (block->key & ~MODE_BITS || block->key & MODE_STEP || block->crosses_page || block->transient ||
	    block->gpa >> CODE_IDENT_MODE_SHIFT)
		return;
	uint64_t ident = code_ident(block->gpa, block->key);

	struct code_entry *entry = code_slot(bt, ident);

	entry->ident = ident;
	entry->linear = block->linear;
	entry->code = block_code_mem(bt, block);
}

static inline void code_table_forget(struct bt *bt, const struct block *block)
{
	struct code_entry *entry = code_slot(bt, code_ident(block->gpa, block->key));

	if (entry->code == block_code_mem(bt, block))
		*entry = (struct code_entry){ .first = entry->first };
}

#define SITE_TARGET_SHIFT 4

/* Whether entries of tlb_tables.site may lead to that code. */
static inline bool is_site_target(const struct cpu *cpu, const uint8_t *code)
{
	return cpu->site_targets[(uint32_t)(uintptr_t)code >> SITE_TARGET_SHIFT & (SITE_TARGETS - 1)];
}

#endif

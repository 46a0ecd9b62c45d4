/*
 * The memory of blocks: their code, main lines and what stands aside, and their records.
 *
 * It has parts, each with some of all three, that are filled one after the other; what a block needs is all in one part.
 * When the last one is full the first, which is the oldest, is emptied and filled again. So a guest with a little more code
 * than there is room for loses what it used at its start, not all at once.
 */
#ifndef NESTOR_BT_CODE_PARTS_H
#define NESTOR_BT_CODE_PARTS_H

#include <stddef.h>
#include <stdint.h>

#include "engine/soft/bt/records.h"

#define CODE_PARTS 8
#define CODE_PART_MIN (64u << 10) /* bytes of code, of all kinds: room for the thunks and some blocks */

struct bt;

struct code_part {
	uint8_t *code, *code_end; /* writable addresses, as all of these */
	uint8_t *cold, *cold_end;
	uint8_t *arena, *arena_end;
	uint8_t *code_used, *cold_used, *arena_used; /* up to where; of the present one after code_parts_note_used() */
	record_place *in_order;
	uint32_t count, max;
	record_place cached; /* the first link whose way to the jump cache stands in this part (links.c) */
};

/* Divides the memory behind the thunks, of which nothing is used yet, into bt->part_count parts, and begins with the first. */
void code_parts_lay_out(struct bt *bt);
void code_parts_note_used(struct bt *bt);
/* Memory for a record in the present part; NULL where there is none. */
void *bt_alloc(struct bt *bt, size_t size);
/* The next part becomes the present one, and is emptied before. While no translated code is under way. */
void bt_make_room(struct bt *bt);
/* Forgets every translation. The same holds. */
void bt_flush(struct bt *bt);
/* The block whose main line holds the executable address, or NULL. Async-signal-safe. */
struct block *block_at(struct bt *bt, const uint8_t *address);

#endif

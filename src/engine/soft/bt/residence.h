/*
 * Which host register a guest register lives in, within a block.
 *
 * Between blocks it is the same for all (bt.h): r8 to r11 have none. A block that is a loop, branching back to
 * its own start, lends them those of guest registers that the loop does not name, from the entry to whatever leaves
 * the loop: `lodgers`. Entering and leaving take two moves for each, outside of the loop; everything that calls C
 * from within it puts all registers into their ordinary places around the call.
 */
#ifndef NESTOR_BT_RESIDENCE_H
#define NESTOR_BT_RESIDENCE_H

#include <stdint.h>

struct translation;

#define LODGERS_MAX 4

/* Guest register `guest` lives in host register `host`, whose own guest register waits in struct cpu. */
struct lodger {
	uint8_t guest, host;
};

/* The guest register of a host register between blocks; not for r8, r10 and r11. */
unsigned residence_owner(unsigned host);
/* Fills t->home from the decoded instructions, and t->lodger where the block is a loop that needs some. */
void residence_plan(struct translation *t);
/* Emits the moves at the entry, and where something leaves. Flags and all other registers are kept. */
void emit_residence_enter(struct translation *t);
void emit_residence_leave(struct translation *t);

#endif

/*
 * One TLB lookup for several accesses.
 *
 * Accesses of a block through the same base register, at constant distances, mostly fall into one page: stack
 * frames, structures, pushes and pops. So do those through the same base and index: an element of an array, read and
 * written. The first of such a group looks up the range that the whole group
 * touches and leaves its addend in struct cpu; the others take it from there, without a check and without
 * touching the flags. Nothing between them may change a mapping: C code ends every group.
 *
 * Where not all of the group may access its range directly, in one page or in two that are neighbours in the host's
 * memory too, the instructions are done over by a translation without groups (KEY_NO_GROUPS), which faults exactly
 * where it should. That is where the leader's slow path leads from then on (block_connect_single), at once for a range
 * over two pages: a structure or a frame that lies so may be used millions of times.
 */
#ifndef NESTOR_BT_GROUP_H
#define NESTOR_BT_GROUP_H

#include <stdbool.h>
#include <stdint.h>

struct translation;

#define GROUP_SLOTS 8	 /* addends that struct cpu holds */
#define GROUP_RANGE 1024 /* bytes that a group may span */
#define GROUPS_MAX  24
#define NO_GROUP    0xff
#define GROUP_WINDOW GROUP_SLOTS /* in a slot's place: the stack window's own addend */

struct access_group {
	uint8_t base, index;	 /* guest registers; index: or INSN_NO_REG */
	uint8_t scale;		 /* … of the index, as a shift */
	uint8_t version[2];	 /* of their values: counts the changes that are not known constants */
	uint8_t use;	 /* USE_*, of all together */
	uint8_t members;
	uint8_t slot; /* NO_GROUP: it does not pay, or no slot is left */
	bool open;
	bool mixed; /* off the stack pointer, and another access off it comes between: that may move the stack window */
	int32_t low, high;     /* the range, from what the registers gave at their last unknown change */
	int32_t leader_offset; /* what they give at the leader, likewise */
	uint8_t leader_insn, leader_access;
};

/* Fills t->group and t->group_of from the decoded instructions. */
void plan_groups(struct translation *t);

#endif

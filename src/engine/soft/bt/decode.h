/* Guest bytes -> struct insn. Table-driven; knows lengths and fields, not meanings. */
#ifndef NESTOR_BT_DECODE_H
#define NESTOR_BT_DECODE_H

#include "engine/soft/cpu/insn.h"

#define INSN_MAX_LENGTH 15

enum decode_result {
	DECODE_OK,
	DECODE_SHORT,   /* the bytes end before the instruction does */
	DECODE_INVALID, /* no such instruction: #UD. length is set as far as known */
	DECODE_LONG,    /* more than 15 bytes: #GP(0) */
};

/*
 * Decodes one instruction. bytes: at least `available` readable bytes. code_size: 2, 4 or 8, the mode's
 * default (16-bit, 32-bit, 64-bit code). vex: VEX encodings exist (protected mode). Fills *insn except op.
 */
enum decode_result decode(struct insn *insn, const uint8_t *bytes, unsigned available, unsigned code_size,
			  bool vex);

#endif

/* What the translator does with each instruction. */
#ifndef NESTOR_BT_CLASSIFY_H
#define NESTOR_BT_CLASSIFY_H

#include "engine/soft/bt/bt.h"

enum bt_op {
	BT_UNDEFINED, /* #UD */
	BT_NATIVE,    /* the same operation on the host */
	BT_NOP,
	BT_LEA,
	BT_JCC, BT_JMP, BT_CALL, BT_RET, BT_JMP_RM, BT_CALL_RM, BT_LOOP,
	BT_PUSH, BT_POP, BT_PUSH_IMM, BT_PUSH_RM, BT_LEAVE,
	BT_MOV_IMM,   /* B8+r */
	BT_XLAT,
	BT_BSWAP,
	BT_BIT_STRING, /* BT, BTS, BTR, BTC with memory and a register index */
	BT_FLAG_DF,   /* CLD, STD */
	BT_CLI, BT_STI, BT_STAC, BT_CLAC, BT_SWAPGS, BT_RDTSC, BT_RDTSCP, BT_PUSHF, BT_MOV_FROM_SEGMENT, /* inline_ops.c */
	BT_POPF,      /* stack_forms.c */
	BT_STRING,    /* MOVS, STOS, single LODS: string_forms.c */
	BT_SYSCALL, BT_SYSRET, /* system_calls.c */
	BT_MOV_FROM_CR, BT_READ_BASE, BT_WRITE_BASE, /* inline_ops.c */
	BT_FPU_UNAVAILABLE, /* #NM or #UD */
	BT_OP,        /* a C function: bt_op_table[op - BT_OP] */
};

struct op_entry {
	op_function *function;
	bool ends; /* leaves to the dispatcher: the mode, the mapping or the flow may have changed */
};

extern const struct op_entry bt_op_table[];

/*
 * Sets insn->op, and rewrites one-byte register forms into their ModRM equivalents where that helps.
 * key: the mode key. Returns the shape where op is BT_NATIVE, else NULL.
 */
const struct shape *classify(struct bt *bt, struct insn *insn, const uint8_t *bytes, uint32_t key);

#endif

/* Forms that translate.c does not leave to native.c: what each file emits for the instructions that it knows. */
#ifndef NESTOR_BT_FORMS_H
#define NESTOR_BT_FORMS_H

#include "engine/soft/bt/translate.h"

/* The scratch register that a checked operand leaves free. */
static inline unsigned other_scratch(struct place place)
{
	return place.base == H_R11 || place.index == H_R11 ? H_R10 : H_R11;
}

/* ---- native.c: an instruction that is done inline where checks allow it, else in C, apart from the main line ---- */

#define SLOW_WAYS_MAX 8

struct slow_ways {
	uint8_t *from[SLOW_WAYS_MAX]; /* rel32 of the branches where a check fails */
	unsigned count;
};

void emit_slow_if(struct translation *t, struct slow_ways *ways, unsigned condition);
/* The flags are in struct cpu. Behind the C function it goes on at `resume` (executable); NULL: it ends the block. */
void emit_slow_ways(struct translation *t, const struct insn *insn, const struct slow_ways *ways, op_function *op,
		    const uint8_t *resume);

/* ---- exits.c. next: page offset behind the instruction; live: SHAPE_* that the successor needs ---- */

/* rip at `offset` from the block's page, into r11. */
void emit_target(struct translation *t, int64_t offset);
/* JMP to r11. */
void emit_indirect_jump(struct translation *t);
/* To `offset` from the block's page. t->flags stays as it is: another exit may start from it. */
void emit_direct_exit(struct translation *t, int64_t offset, unsigned live);
/* To the instruction behind the block. */
void emit_next_exit(struct translation *t);
/* As emit_direct_exit, and a call to scratch[0]: with the return address pushed, and in r11. */
void emit_direct_call(struct translation *t, int64_t offset, unsigned live);
void emit_indirect_call(struct translation *t);
/* RET of `size` bytes to r11, popped; extra: the bytes that RET n drops. */
void emit_return(struct translation *t, unsigned size, uint16_t extra);
void emit_conditional(struct translation *t, const struct insn *insn, int64_t next);
/* LOOPcc and JrCXZ: both ways. */
void emit_loop_exit(struct translation *t, const struct insn *insn, int64_t next);
/* Behind the main line: what t->cold collected. */
void emit_cold_exits(struct translation *t);

/* ---- stack_forms.c ---- */
/* Host r9 is guest rsp from here on. Keeps the flags. */
void emit_stack_settle(struct translation *t);
/* The same before the present instruction, where that does not bear a delay. */
void emit_stack_pointer(struct translation *t);
void emit_push(struct translation *t, const struct insn *insn);
void emit_pop(struct translation *t, const struct insn *insn);
void emit_push_imm(struct translation *t, const struct insn *insn);
void emit_push_rm(struct translation *t, const struct insn *insn);
/* The r/m operand of FF /2, /4, /6 into r11, keeping the flags where no memory is looked up. */
void emit_rm_to_r11(struct translation *t, const struct insn *insn);
/* The same into scratch[0]; scratch[0] onto the stack; the return address onto the stack. */
void emit_rm_to_scratch(struct translation *t, const struct insn *insn, unsigned size);
void emit_push_scratch(struct translation *t, unsigned size);
void emit_push_return(struct translation *t, unsigned size);
void emit_leave(struct translation *t, const struct insn *insn);
void emit_popf(struct translation *t, const struct insn *insn);
/* RET, with its exit. */
void emit_ret(struct translation *t, const struct insn *insn);

/* ---- special_forms.c ---- */
void emit_lea_insn(struct translation *t, const struct insn *insn);
void emit_mov_imm_insn(struct translation *t, const struct insn *insn);
void emit_bswap(struct translation *t, const struct insn *insn);
void emit_xlat(struct translation *t, const struct insn *insn);
void emit_bit_string(struct translation *t, const struct insn *insn);

/* ---- string_forms.c: MOVS, STOS and single LODS, of 32-bit or 64-bit addresses in segments without a base ---- */
void emit_string(struct translation *t, const struct insn *insn);

/* ---- system_calls.c ---- */
void emit_syscall(struct translation *t, const struct insn *insn);
void emit_sysret(struct translation *t, const struct insn *insn);

#endif

/*
 * MOVS and STOS without the way through C, where what they touch lies in one page at either end, forward, and the TLB
 * knows the pages: the host's own instruction then does it, between the host addresses. Everything else is string.c's,
 * called from code that stands apart.
 *
 *	cmp  rcx, 4096 / size		; so that the sum below cannot wrap
 *	ja   slow
 *	test dword gs:[rflags], DF
 *	jne  slow
 *	rorx r10, rdi, 8		; the TLB's entry for a write, as for any access
 *	and  r10d, 0xfff0
 *	mov  r11, rdi
 *	xor  r11, gs:[r10+write]
 *	cmp  r11, 4095			; the page matches: r11 is the offset in it
 *	ja   slow
 *	lea  r11, [r11+rcx*size]
 *	cmp  r11, 4096
 *	ja   slow
 *	mov  r10, gs:[r10+write+8]
 *	add  rdi, r10
 *	rep stos
 *	sub  rdi, r10
 */
#include "engine/soft/bt/forms.h"

struct string_form {
	bool repeat;
	unsigned shift;		    /* log2 of the element's size */
	struct slow_ways slow;	    /* to string.c */
};

static void emit_cmp_imm(struct translation *t, unsigned reg, uint32_t value)
{
	emit_op(t->e, true, 0x81, 7, in_reg(reg));
	emit32(t->e, value);
}

/* Checks the elements from `reg` on; leaves the addend in r10. Clobbers r11. */
static void emit_range_lookup(struct translation *t, struct string_form *form, unsigned reg, int32_t table)
{
	struct emitter *e = t->e;

	emit_tlb_slot(t, reg);
	emit_op(e, true, 0x8b, H_R11, in_reg(reg));
	emit_op(e, true, 0x33, H_R11, in_cpu_indexed(H_R10, table)); /* xor r11, page */
	if (form->repeat) {
		emit_cmp_imm(t, H_R11, PAGE_SIZE - 1);
		emit_slow_if(t, &form->slow, CC_A);
		emit_lea(e, H_R11, at_indexed(H_R11, H_RCX, form->shift, 0));
		emit_cmp_imm(t, H_R11, PAGE_SIZE);
	} else {
		emit_cmp_imm(t, H_R11, PAGE_SIZE - (1u << form->shift));
	}
	emit_slow_if(t, &form->slow, CC_A);
	emit_load(e, H_R10, in_cpu_indexed(H_R10, table + 8));
}

/* add or sub reg, addend */
static void emit_move_pointer(struct translation *t, bool back, unsigned reg, unsigned addend)
{
	emit_op(t->e, true, back ? 0x2b : 0x03, reg, in_reg(addend));
}

static void emit_host_string(struct translation *t, const struct insn *insn, const struct string_form *form)
{
	if (form->repeat)
		emit8(t->e, 0xf3);
	if (form->shift == 1)
		emit8(t->e, 0x66);
	if (form->shift == 3)
		emit8(t->e, 0x48);
	emit8(t->e, insn->opcode);
}

void emit_string(struct translation *t, const struct insn *insn)
{
	enum tlb_class class = MODE_CLASS(t->key);
	bool moves = insn->opcode == 0xa4 || insn->opcode == 0xa5;
	unsigned size = insn->opcode & 1 ? insn->operand_size : 1;
	struct string_form form = { .repeat = insn->prefixes & (PREFIX_REP | PREFIX_REPNE),
				    .shift = __builtin_ctz(size) };
	struct emitter *e = t->e;

	if (t->careful) {
		emit_op_call(t, insn, moves ? op_movs : op_stos, false);
		return;
	}
	flags_to_cpu(t);
	if (form.repeat) {
		emit_cmp_imm(t, H_RCX, PAGE_SIZE >> form.shift);
		emit_slow_if(t, &form.slow, CC_A);
	}
	emit_op(e, false, 0xf7, 0, in_cpu(CPU_FIELD(rflags_system))); /* test */
	emit32(e, FLAG_DF);
	emit_slow_if(t, &form.slow, CC_NE);
	if (moves) {
		emit_range_lookup(t, &form, H_RSI, TLB_READ(class));
		emit_store(e, in_cpu(CPU_SCRATCH(0)), H_R10);
	}
	emit_range_lookup(t, &form, H_RDI, TLB_WRITE(class));
	if (moves) {
		emit_load(e, H_R11, in_cpu(CPU_SCRATCH(0)));
		emit_move_pointer(t, false, H_RSI, H_R11);
	}
	emit_move_pointer(t, false, H_RDI, H_R10);
	emit_host_string(t, insn, &form);
	emit_move_pointer(t, true, H_RDI, H_R10);
	if (moves)
		emit_move_pointer(t, true, H_RSI, H_R11);
	emit_slow_ways(t, insn, &form.slow, moves ? op_movs : op_stos, emit_exec(e));
}

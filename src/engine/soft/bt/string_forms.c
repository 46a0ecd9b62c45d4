/*
 * MOVS, STOS and LODS without the way through C, where what they touch lies in one page at either end and
 * the TLB knows the pages. Repeated MOVS and STOS, forward and up to a page only, are the host's own, between
 * the host addresses; a single one is a load, a store, or both. Everything else is string.c's, called from
 * code that stands apart.
 *
 *	cmp   rcx, 4096 / size		; so that the sum below cannot wrap
 *	ja    slow
 *	test  dword [r8+rflags], DF
 *	jne   slow
 *	mov   r11, rdi
 *	bextr r10, rdi, r8		; the TLB's entry for a write, as for any access
 *	xor   r11, [r8+r10*8+pages]
 *	cmp   r11, 4095			; the page matches: r11 is the offset in it
 *	ja    slow
 *	lea   r11, [r11+rcx*size]
 *	cmp   r11, 4096
 *	ja    slow
 *	mov   r10, [r8+r10*8+addends]
 *	add   rdi, r10
 *	rep stos
 *	sub   rdi, r10
 *
 * With addresses of 32 bits (32-bit code with flat segments, or 67H in 64-bit code) the registers' upper
 * halves must be zero, else C takes over; the subtraction at the end is one of 32 bits, so that a pointer
 * wraps at 4G.
 */
#include "engine/soft/bt/forms.h"

struct string_form {
	bool repeat;
	bool wide;		    /* addresses of 64 bits, else 32 */
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

	emit_op(e, form->wide, 0x8b, H_R11, in_reg(reg));
	if (!form->wide) {
		emit_op(e, true, 0x3b, H_R11, in_reg(reg)); /* cmp: the upper half is zero */
		emit_slow_if(t, &form->slow, CC_NE);
	}
	emit_tlb_slot(t, reg);
	emit_op(e, true, 0x33, H_R11, in_tlb(table)); /* xor r11, page */
	if (form->repeat) {
		emit_cmp_imm(t, H_R11, PAGE_SIZE - 1);
		emit_slow_if(t, &form->slow, CC_A);
		emit_lea(e, H_R11, at_indexed(H_R11, H_RCX, form->shift, 0));
		emit_cmp_imm(t, H_R11, PAGE_SIZE);
	} else {
		emit_cmp_imm(t, H_R11, PAGE_SIZE - (1u << form->shift));
	}
	emit_slow_if(t, &form->slow, CC_A);
	emit_load(e, H_R10, in_tlb(table + TLB_ADDEND));
}

/* ---- repeated ---- */

static void emit_to_host(struct translation *t, unsigned reg, unsigned addend)
{
	emit_op(t->e, true, 0x03, reg, in_reg(addend)); /* add */
}

static void emit_to_guest(struct translation *t, const struct string_form *form, unsigned reg,
			  unsigned addend)
{
	emit_op(t->e, form->wide, 0x2b, reg, in_reg(addend)); /* sub */
}

static void emit_host_string(struct translation *t, const struct insn *insn, const struct string_form *form)
{
	emit8(t->e, 0xf3);
	if (form->shift == 1)
		emit8(t->e, 0x66);
	if (form->shift == 3)
		emit8(t->e, 0x48);
	emit8(t->e, insn->opcode);
}

static void emit_repeated(struct translation *t, const struct insn *insn, struct string_form *form,
			  bool moves)
{
	enum tlb_class class = MODE_CLASS(t->key);
	struct emitter *e = t->e;

	emit_cmp_imm(t, H_RCX, PAGE_SIZE >> form->shift);
	emit_slow_if(t, &form->slow, CC_A);
	emit_op(e, false, 0xf7, 0, in_cpu(CPU_FIELD(rflags_system))); /* test */
	emit32(e, FLAG_DF);
	emit_slow_if(t, &form->slow, CC_NE);
	if (moves) {
		emit_range_lookup(t, form, H_RSI, TLB_READ(class));
		emit_store(e, in_cpu(CPU_SCRATCH(0)), H_R10);
	}
	emit_range_lookup(t, form, H_RDI, TLB_WRITE(class));
	if (moves) {
		emit_load(e, H_R11, in_cpu(CPU_SCRATCH(0)));
		emit_to_host(t, H_RSI, H_R11);
	}
	emit_to_host(t, H_RDI, H_R10);
	emit_host_string(t, insn, form);
	emit_to_guest(t, form, H_RDI, H_R10);
	if (moves)
		emit_to_guest(t, form, H_RSI, H_R11);
}

/* ---- single, in either direction ---- */

static void emit_element_load(struct translation *t, const struct string_form *form, unsigned to,
			      struct place from)
{
	static const uint8_t narrow[] = { 0xb6, 0xb7 }; /* movzx */

	if (form->shift < 2)
		emit_insn(t->e, (struct form){ .map = 1, .opcode = narrow[form->shift] }, to, from);
	else
		emit_op(t->e, form->shift == 3, 0x8b, to, from);
}

/* A MOV of the element's size, of this opcode for bytes. */
static struct form element_move(const struct string_form *form, uint8_t opcode)
{
	return (struct form){ .prefix = form->shift == 1 ? 0x66 : 0, .opcode = opcode | !!form->shift,
			      .w = form->shift == 3 };
}

/* r11: twice the element's size where the direction is down, else 0. */
static void emit_way_back(struct translation *t, const struct string_form *form)
{
	_Static_assert(FLAG_DF == 1u << 10, "shifted to twice a size");
	emit_load32(t->e, H_R11, in_cpu(CPU_FIELD(rflags_system)));
	emit_op(t->e, false, 0x81, 4, in_reg(H_R11)); /* and */
	emit32(t->e, FLAG_DF);
	emit_op(t->e, false, 0xc1, 5, in_reg(H_R11)); /* shr */
	emit8(t->e, 9 - form->shift);
}

static void emit_step(struct translation *t, const struct string_form *form, unsigned reg)
{
	if (form->wide)
		emit_lea(t->e, reg, at(reg, 1 << form->shift));
	else
		emit_lea32(t->e, reg, at(reg, 1 << form->shift));
	emit_op(t->e, form->wide, 0x2b, reg, in_reg(H_R11)); /* sub */
}

/* LODS writes as much of RAX as a MOV of its size. */
static void emit_single_load(struct translation *t, struct string_form *form)
{
	emit_range_lookup(t, form, H_RSI, TLB_READ(MODE_CLASS(t->key)));
	emit_insn(t->e, element_move(form, 0x8a), H_RAX, at_indexed(H_RSI, H_R10, 0, 0));
	emit_way_back(t, form);
	emit_step(t, form, H_RSI);
}

static void emit_single(struct translation *t, struct string_form *form, bool moves)
{
	enum tlb_class class = MODE_CLASS(t->key);
	unsigned value = H_RAX;

	if (moves) {
		emit_range_lookup(t, form, H_RSI, TLB_READ(class));
		emit_element_load(t, form, H_R11, at_indexed(H_RSI, H_R10, 0, 0));
		emit_store(t->e, in_cpu(CPU_SCRATCH(0)), H_R11);
	}
	emit_range_lookup(t, form, H_RDI, TLB_WRITE(class));
	if (moves) {
		emit_load(t->e, H_R11, in_cpu(CPU_SCRATCH(0)));
		value = H_R11;
	}
	emit_insn(t->e, element_move(form, 0x88), value, at_indexed(H_RDI, H_R10, 0, 0));
	emit_way_back(t, form);
	emit_step(t, form, H_RDI);
	if (moves)
		emit_step(t, form, H_RSI);
}

void emit_string(struct translation *t, const struct insn *insn)
{
	bool moves = insn->opcode == 0xa4 || insn->opcode == 0xa5;
	bool loads = insn->opcode == 0xac || insn->opcode == 0xad;
	unsigned size = insn->opcode & 1 ? insn->operand_size : 1;
	struct string_form form = { .repeat = insn->prefixes & (PREFIX_REP | PREFIX_REPNE),
				    .wide = insn->address_size == 8,
				    .shift = __builtin_ctz(size) };
	op_function *op = moves ? op_movs : loads ? op_lods : op_stos;

	if (t->careful) {
		emit_op_call(t, insn, op, false);
		return;
	}
	flags_to_cpu(t);
	if (loads)
		emit_single_load(t, &form);
	else if (form.repeat)
		emit_repeated(t, insn, &form, moves);
	else
		emit_single(t, &form, moves);
	emit_slow_ways(t, insn, &form.slow, op, emit_exec(t->e));
}

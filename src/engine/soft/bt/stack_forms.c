/* Instructions that push and pop, with a flat stack pointer of 32 or 64 bits. */
#include "engine/soft/bt/forms.h"

/*
 * Pushes and pops that follow one another are members of one group, whose accesses cannot fault or lead to C. Between them
 * the stack pointer need not be exact: t->stack_owed is added to their displacements, and to host r9 at the end of the
 * row.
 */
static void emit_rsp_add(struct translation *t, int32_t bytes)
{
	if (t->code64 && !t->careful)
		t->stack_owed += bytes;
	else if (t->code64)
		emit_lea(t->e, H_GUEST_SP, at(H_GUEST_SP, bytes));
	else
		emit_lea32(t->e, H_GUEST_SP, at(H_GUEST_SP, bytes));
}

void emit_stack_settle(struct translation *t)
{
	if (t->stack_owed)
		emit_lea(t->e, H_GUEST_SP, at(H_GUEST_SP, t->stack_owed));
	t->stack_owed = 0;
}

static bool names_rsp(const struct insn *insn, const struct shape *shape)
{
	return (shape->reg_use && register_of(insn, insn->reg, shape->reg_is_byte) == REG_RSP) ||
	       (shape->rm_use && register_of(insn, insn->rm, shape->rm_is_byte) == REG_RSP) ||
	       (shape->vvvv_use && (insn->vex_vvvv & 15) == REG_RSP) || shape->implicit >> REG_RSP & 1;
}

/* Instructions that may stand between pushes and pops: they neither name the stack pointer nor lead out of the block. */
static bool bears_delay(const struct translation *t)
{
	const struct insn *insn = &t->insn[t->i];
	const struct shape *shape = &t->shape[t->i];

	switch (insn->op) {
	case BT_PUSH:
	case BT_POP:
		return insn->rm != REG_RSP;
	case BT_PUSH_IMM:
	case BT_CALL:
	case BT_RET:
	case BT_NOP:
		return true;
	case BT_MOV_IMM:
		return insn->rm != REG_RSP;
	case BT_LEA:
		return insn->reg != REG_RSP && insn->base != REG_RSP;
	case BT_NATIVE:
		return !insn->is_memory && !shape->may_fault && !names_rsp(insn, shape);
	default:
		return false;
	}
}

void emit_stack_pointer(struct translation *t)
{
	if (t->stack_owed && !bears_delay(t))
		emit_stack_settle(t);
}

/* Checks an access at rsp + delta; returns the host operand. */
static struct place emit_stack_access(struct translation *t, int32_t delta, unsigned size, unsigned use)
{
	struct insn at_stack = { .base = REG_RSP, .index = INSN_NO_REG, .displacement = delta, .segment = SEG_SS,
				 .address_size = t->code64 ? 8 : 4, .is_memory = true };

	return emit_access(t, &at_stack, size, use, t->live_before[t->i]);
}

static void emit_sized_store(struct translation *t, unsigned size, struct place to, unsigned reg)
{
	emit_insn(t->e, (struct form){ .prefix = size == 2 ? 0x66 : 0, .opcode = 0x89, .w = size == 8 }, reg, to);
}

void emit_push(struct translation *t, const struct insn *insn)
{
	unsigned size = insn->operand_size;
	struct place to = emit_stack_access(t, -(int)size, size, USE_WRITE);

	emit_sized_store(t, size, to, use_guest_register(t, insn->rm, other_scratch(to)));
	emit_rsp_add(t, -(int)size);
	emit_commit(t, USE_WRITE);
}

void emit_pop(struct translation *t, const struct insn *insn)
{
	unsigned size = insn->operand_size, host = home_of(t, insn->rm);
	struct place from = emit_stack_access(t, 0, size, USE_READ);
	struct form load = { .prefix = size == 2 ? 0x66 : 0, .opcode = 0x8b, .w = size == 8 };

	if (insn->rm == REG_RSP) {
		if (size == 2) {
			/* the low half of the incremented RSP */
			emit_insn(t->e, (struct form){ .map = 1, .opcode = 0xb7 }, H_R11, from);
			emit_rsp_add(t, size);
			emit_stack_settle(t);
			emit_sized_store(t, 2, in_reg(H_GUEST_SP), H_R11);
		} else {
			emit_insn(t->e, load, H_GUEST_SP, from);
		}
		return;
	}
	if (host == H_NONE) {
		host = other_scratch(from);
		if (size == 2)
			emit_load(t->e, host, in_cpu(CPU_GPR(insn->rm)));
		emit_insn(t->e, load, host, from);
		emit_store(t->e, in_cpu(CPU_GPR(insn->rm)), host);
	} else {
		emit_insn(t->e, load, host, from);
	}
	emit_rsp_add(t, size);
}

void emit_push_imm(struct translation *t, const struct insn *insn)
{
	unsigned size = insn->operand_size;
	struct place to = emit_stack_access(t, -(int)size, size, USE_WRITE);

	emit_insn(t->e, (struct form){ .prefix = size == 2 ? 0x66 : 0, .opcode = 0xc7, .w = size == 8 }, 0, to);
	emit_bytes(t->e, insn->imm, size == 2 ? 2 : 4);
	emit_rsp_add(t, -(int)size);
	emit_commit(t, USE_WRITE);
}

/* The register or memory operand (FF /2, /4, /6): returns its host register, r11 or the home of its own. */
static unsigned emit_rm_value(struct translation *t, const struct insn *insn, unsigned size)
{
	unsigned reg;

	if (!insn->is_memory) {
		reg = use_guest_register(t, insn->rm, H_R11);
	} else {
		struct place from = emit_access(t, insn, size, USE_READ, t->live_before[t->i]);

		reg = H_R11;
		if (size == 2)
			emit_insn(t->e, (struct form){ .map = 1, .opcode = 0xb7 }, H_R11, from);
		else
			emit_op(t->e, size == 8, 0x8b, H_R11, from);
	}
	if (size == 4)
		emit_op(t->e, false, 0x8b, H_R11, in_reg(reg)); /* zero-extend */
	return size == 4 ? H_R11 : reg;
}

void emit_rm_to_r11(struct translation *t, const struct insn *insn)
{
	unsigned reg = emit_rm_value(t, insn, insn->operand_size);

	if (reg != H_R11)
		emit_op(t->e, true, 0x8b, H_R11, in_reg(reg));
}

void emit_rm_to_scratch(struct translation *t, const struct insn *insn, unsigned size)
{
	emit_store(t->e, in_cpu(CPU_SCRATCH(0)), emit_rm_value(t, insn, size));
}

/* Pushes scratch[0]. */
void emit_push_scratch(struct translation *t, unsigned size)
{
	struct place to = emit_stack_access(t, -(int)size, size, USE_WRITE);
	unsigned reg = other_scratch(to);

	emit_load(t->e, reg, in_cpu(CPU_SCRATCH(0)));
	emit_sized_store(t, size, to, reg);
	emit_rsp_add(t, -(int)size);
	emit_commit(t, USE_WRITE);
}

void emit_push_rm(struct translation *t, const struct insn *insn)
{
	unsigned size = insn->operand_size;

	emit_rm_to_scratch(t, insn, size);
	emit_push_scratch(t, size);
}

void emit_leave(struct translation *t, const struct insn *insn)
{
	unsigned size = insn->operand_size;
	struct insn at_frame = { .base = REG_RBP, .index = INSN_NO_REG, .segment = SEG_SS,
				 .address_size = t->code64 ? 8 : 4, .is_memory = true };

	struct place from = emit_access(t, &at_frame, size, USE_READ, t->live_before[t->i]);

	emit_op(t->e, true, 0x8d, H_GUEST_SP, at(H_RBP, size));
	if (!t->code64)
		emit_op(t->e, false, 0x8b, H_GUEST_SP, in_reg(H_GUEST_SP));
	emit_op(t->e, size == 8, 0x8b, H_RBP, from);
}

/* POPF where only arithmetic flags change; else C does it and ends the block, for an interrupt may get in. */
void emit_popf(struct translation *t, const struct insn *insn)
{
	struct emitter *e = t->e;
	struct slow_ways slow = { .count = 0 };
	struct place from;

	flags_to_cpu(t);
	from = emit_stack_access(t, 0, insn->operand_size, USE_READ);
	emit_op(e, false, 0x8b, H_R11, from);
	t->r10_slot = NO_GROUP;
	emit_op(e, false, 0x8b, H_R10, in_reg(H_R11));
	emit_op(e, false, 0x33, H_R10, in_cpu(CPU_FIELD(rflags_system))); /* xor */
	emit_op(e, false, 0xf7, 0, in_reg(H_R10)); /* test */
	emit32(e, FLAG_TF | FLAG_IF | FLAG_DF | FLAG_IOPL | FLAG_NT | FLAG_AC | FLAG_ID);
	emit_slow_if(t, &slow, CC_NE);
	emit_op(e, false, 0x8b, H_R10, in_reg(H_R11));
	emit_op(e, false, 0x81, 4, in_reg(H_R10)); /* and */
	emit32(e, FLAGS_ARITHMETIC & 0xff);
	emit_op(e, false, 0x83, 1, in_reg(H_R10)); /* or */
	emit8(e, 2);
	emit_insn(e, (struct form){ .opcode = 0x88 }, H_R10, in_cpu(CPU_FIELD(cc_low)));
	emit_op(e, false, 0xc1, 5, in_reg(H_R11)); /* shr */
	emit8(e, 11);
	emit_op(e, false, 0x83, 4, in_reg(H_R11)); /* and */
	emit8(e, 1);
	emit_insn(e, (struct form){ .opcode = 0x88 }, H_R11, in_cpu(CPU_FIELD(cc_of)));
	emit_rsp_add(t, insn->operand_size);
	emit_slow_ways(t, insn, &slow, op_popf, NULL);
}

/* Pushes the return address, which is in r11 then; the caller has put what it needs into scratch[0]. */
void emit_push_return(struct translation *t, unsigned size)
{
	struct place to = emit_stack_access(t, -(int)size, size, USE_WRITE);
	unsigned reg = other_scratch(to); /* r11: an operand off rsp takes r10 */
	uint32_t offset = t->offset[t->count];

	if (t->linear_known) {
		emit_mov_imm(t->e, reg, t->linear + offset);
	} else {
		emit_load(t->e, reg, in_cpu(CPU_FIELD(rip_page)));
		emit_lea(t->e, reg, at(reg, offset));
	}
	emit_sized_store(t, size, to, reg);
	emit_rsp_add(t, -(int)size);
	emit_stack_settle(t);
	emit_commit(t, USE_WRITE);
}

void emit_ret(struct translation *t, const struct insn *insn)
{
	unsigned size = insn->operand_size;
	struct place from = emit_stack_access(t, 0, size, USE_READ);

	emit_op(t->e, size == 8, 0x8b, H_R11, from);
	uint16_t extra = insn->opcode == 0xc2 ? insn->imm : 0;

	emit_rsp_add(t, size + extra);
	emit_stack_settle(t);
	emit_return(t, size, extra);
}

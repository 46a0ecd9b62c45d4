/*
 * Where the guest's arithmetic flags are while a block is translated. The host computes them in its own; what would
 * clobber them, a look-up above all, first saves them to struct cpu. Or leaves them: where the registers that they were
 * computed from, or the result, stay as they are until somebody asks, the same flags can be computed again
 * (FLAGS_AGAIN), which takes one or two instructions instead of ten. Stubs that lead to C compute them too, for C
 * sees them exactly.
 */
#include "engine/soft/bt/translate.h"

/* The host's flags to struct cpu by way of rax. */
static void emit_rax_flags(struct emitter *e)
{
	emit8(e, 0x9f); /* lahf */
	emit_insn(e, (struct form){ .map = 1, .opcode = 0x90 }, 0, in_reg(H_RAX)); /* seto al */
	emit_insn(e, (struct form){ .prefix = 0x66, .opcode = 0x89 }, H_RAX, in_cpu(CPU_FIELD(cc_of)));
}

void flags_emit_save(struct emitter *e, unsigned free)
{
	emit_op(e, true, 0x8b, free, in_reg(H_RAX)); /* mov free, rax */
	emit_rax_flags(e);
	emit_op(e, true, 0x8b, H_RAX, in_reg(free));
}

void flags_emit_fixed(struct emitter *e)
{
	emit_insn(e, (struct form){ .prefix = 0x66, .opcode = 0xc7 }, 0, in_cpu(CPU_FIELD(cc_of)));
	emit_bytes(e, 0x0200, 2);
}

void flags_emit_restore(struct emitter *e, unsigned free)
{
	struct place keep = free == H_NONE ? in_cpu(CPU_SCRATCH(3)) : in_reg(free);

	emit_store(e, keep, H_RAX);
	emit_insn(e, (struct form){ .map = 1, .opcode = 0xb7 }, H_RAX, in_cpu(CPU_FIELD(cc_of))); /* movzx */
	emit8(e, 0x04); /* add al, 127: OF = (al == 1) */
	emit8(e, 0x7f);
	emit8(e, 0x9e); /* sahf */
	emit_load(e, H_RAX, keep);
}

/* ---- what can be computed again ---- */

enum flags_again {
	AGAIN_NOT,
	AGAIN_SAME,   /* the instruction itself: CMP, TEST of registers */
	AGAIN_RESULT, /* TEST of the result: AND, OR, XOR */
	AGAIN_STEP,   /* the operation on the result with the step undone: ADD, SUB of a constant */
};

struct flags_way {
	enum flags_again how;
	uint8_t guest;	 /* _RESULT, _STEP: the register */
	uint16_t inputs; /* guest registers that must stay as they are */
};

/* One of the eight operations of opcodes 00 to 3D and 80, 81, 83 (SDM, One-Byte Opcode Map), or NO_OPERATION. */
enum { OPERATION_ADD, OPERATION_OR, OPERATION_ADC, OPERATION_SBB, OPERATION_AND, OPERATION_SUB, OPERATION_XOR, OPERATION_CMP,
       NO_OPERATION };

static unsigned operation_of(const struct insn *insn)
{
	if (insn->opcode == 0x80 || insn->opcode == 0x81 || insn->opcode == 0x83)
		return insn->reg & 7;
	return insn->opcode < 0x40 && (insn->opcode & 7) < 6 ? insn->opcode >> 3 : NO_OPERATION;
}

static bool is_test(const struct insn *insn)
{
	return insn->opcode == 0x84 || insn->opcode == 0x85 || insn->opcode == 0xa8 || insn->opcode == 0xa9 ||
	       ((insn->opcode == 0xf6 || insn->opcode == 0xf7) && (insn->reg & 7) < 2);
}

/* The register operands of an instruction with those operations; RAX where it has no ModRM. */
static uint16_t operands_of(const struct insn *insn, const struct shape *shape)
{
	uint16_t operands = 0;

	if (!insn->has_modrm)
		return 1u << REG_RAX;
	if (!insn->is_memory)
		operands |= 1u << (insn->rm & 15);
	if (shape->reg_use)
		operands |= 1u << (insn->reg & 15);
	return operands;
}

static bool names_high_byte(const struct insn *insn, const struct shape *shape)
{
	return (shape->rm_is_byte && is_high_byte(insn, insn->rm)) || (shape->reg_is_byte && is_high_byte(insn, insn->reg));
}

/* In host registers of their own, within the block and where it is left? */
static bool all_at_home(const struct translation *t, uint16_t guests)
{
	for (; guests; guests &= guests - 1) {
		unsigned guest = (unsigned)__builtin_ctz(guests);

		if (host_register(guest) == H_NONE || home_of(t, guest) != host_register(guest))
			return false;
	}
	return true;
}

/* How the flags that the instruction leaves can be computed again, right behind it. */
static struct flags_way way_to(const struct translation *t, const struct insn *insn, const struct shape *shape)
{
	struct flags_way way = { .how = AGAIN_NOT };
	unsigned operation = operation_of(insn);
	bool to_reg = insn->has_modrm && insn->opcode < 0x40 && insn->opcode & 2;

	if (insn->map != 0 || insn->prefixes & PREFIX_VEX || names_high_byte(insn, shape) || shape->flags_killed != SHAPE_ALL)
		return way;
	if (operation == OPERATION_CMP || is_test(insn)) {
		if (insn->is_memory)
			return way;
		way = (struct flags_way){ .how = AGAIN_SAME, .inputs = operands_of(insn, shape) };
	} else if (!(insn->is_memory && !to_reg)) {
		way.guest = !insn->has_modrm ? REG_RAX : to_reg ? insn->reg & 15 : insn->rm & 15;
		way.inputs = 1u << way.guest;
		if (operation == OPERATION_AND || operation == OPERATION_OR || operation == OPERATION_XOR)
			way.how = AGAIN_RESULT;
		else if ((operation == OPERATION_ADD || operation == OPERATION_SUB) && insn->imm_size && fits32(-insn->imm))
			way.how = AGAIN_STEP;
	}
	if (!all_at_home(t, way.inputs))
		way.how = AGAIN_NOT;
	return way;
}

/* tmp: a host register, for _STEP; it may be the home of the result itself. */
static void emit_again(struct translation *t, unsigned source, unsigned tmp)
{
	const struct insn *insn = &t->insn[source - 1];
	const struct shape *shape = &t->shape[source - 1];
	struct flags_way way = way_to(t, insn, shape);
	bool byte = is_byte_operation(insn);
	struct place rm = in_reg(way.how == AGAIN_SAME ? home_of(t, insn->rm & 15) : home_of(t, way.guest));
	struct form form = { .prefix = insn->operand_size == 2 && !byte ? 0x66 : 0, .w = insn->operand_size == 8 && !byte,
			     .force_rex = byte };
	bool subtract = operation_of(insn) == OPERATION_SUB;

	switch (way.how) {
	case AGAIN_NOT:
		break;
	case AGAIN_SAME:
		if (insn->has_modrm)
			emit_operation(t, insn, shape->reg_use ? home_of(t, insn->reg & 15) : insn->reg, &rm, 0, byte);
		else
			emit_plain(t, insn);
		break;
	case AGAIN_RESULT:
		form.opcode = byte ? 0x84 : 0x85;
		emit_insn(t->e, form, rm.reg, rm);
		break;
	case AGAIN_STEP:
		emit_lea(t->e, tmp, at(rm.reg, (int32_t)(subtract ? insn->imm : -insn->imm)));
		form.opcode = byte ? 0x80 : 0x81;
		emit_insn(t->e, form, subtract ? OPERATION_SUB : OPERATION_ADD, in_reg(tmp));
		emit_bytes(t->e, insn->imm, byte ? 1 : insn->operand_size == 2 ? 2 : 4);
		break;
	}
}

/* The flags of `source` again, by way of `free`, or where that is H_NONE keeping every register. */
static void emit_again_by(struct translation *t, unsigned source, unsigned free)
{
	bool borrow = free == H_NONE && way_to(t, &t->insn[source - 1], &t->shape[source - 1]).how == AGAIN_STEP;

	if (borrow)
		emit_store(t->e, in_cpu(CPU_SCRATCH(3)), H_RAX);
	emit_again(t, source, free == H_NONE ? H_RAX : free);
	if (borrow)
		emit_load(t->e, H_RAX, in_cpu(CPU_SCRATCH(3)));
}

/* The guest registers that it writes; all, where that is not known. */
static uint16_t written_by(const struct insn *insn, const struct shape *shape)
{
	uint16_t written = 0;

	switch (insn->op) {
	case BT_NATIVE:
		written = shape->implicit;
		if (shape->reg_use & USE_WRITE)
			written |= 1u << register_of(insn, insn->reg, shape->reg_is_byte);
		if (!insn->is_memory && shape->rm_use & USE_WRITE)
			written |= 1u << register_of(insn, insn->rm, shape->rm_is_byte);
		if (shape->vvvv_use & USE_WRITE)
			written |= 1u << (insn->vex_vvvv & 15);
		return written;
	case BT_NOP:
	case BT_JCC:
	case BT_JMP:
		return 0;
	case BT_LEA:
		return 1u << insn->reg;
	case BT_MOV_IMM:
	case BT_BSWAP:
		return 1u << insn->rm;
	case BT_POP:
		return 1u << insn->rm | 1u << REG_RSP;
	case BT_PUSH:
	case BT_PUSH_IMM:
	case BT_CALL:
		return 1u << REG_RSP;
	case BT_LEAVE:
		return 1u << REG_RSP | 1u << REG_RBP;
	default:
		return 0xffff;
	}
}

/*
 * Can the flags of t->flags_source still be computed wherever the rest of the block, from the present instruction's
 * look-up on, needs them next?
 */
static bool lasts(const struct translation *t)
{
	if (t->flags_source == NO_SOURCE)
		return false;
	for (unsigned i = t->i; i < t->count; i++) {
		const struct insn *insn = &t->insn[i];
		const struct shape *shape = &t->shape[i];
		unsigned live_after = t->live_before[i + 1];

		if (insn->op == BT_JCC || insn->op == BT_JMP)
			return true;
		if (insn->op == BT_NATIVE && (shape->flags_read || shape->flags_written))
			return true; /* the old ones are needed before it writes a register, or not at all */
		if (written_by(insn, shape) & t->flags_inputs)
			return !live_after && insn->op != BT_CALL;
		if (insn->op == BT_CALL || !live_after)
			return true;
	}
	return true;
}

void flags_note_source(struct translation *t)
{
	const struct insn *insn = &t->insn[t->i];
	const struct shape *shape = &t->shape[t->i];

	if (insn->op == BT_NATIVE && shape->flags_written) {
		struct flags_way way = { .how = AGAIN_NOT };

		if (t->live_before[t->i + 1] && !t->careful && !(t->bt->cpu->tune_off & ENGINE_TUNE_FLAGS))
			way = way_to(t, insn, shape);
		t->flags_source = way.how != AGAIN_NOT ? t->i + 1 : NO_SOURCE;
		t->flags_inputs = way.inputs;
	} else if (t->flags_source != NO_SOURCE && written_by(insn, shape) & t->flags_inputs) {
		t->flags_source = NO_SOURCE;
		if (t->flags == FLAGS_AGAIN)
			t->flags = FLAGS_DEAD; /* lasts() has seen to that */
	}
}

bool flags_may_wait(const struct translation *t)
{
	if (t->careful)
		return false;
	switch (t->insn[t->i].op) {
	case BT_NATIVE:
	case BT_NOP:
	case BT_LEA:
	case BT_MOV_IMM:
	case BT_BSWAP:
	case BT_PUSH:
	case BT_POP:
	case BT_PUSH_IMM:
	case BT_LEAVE:
	case BT_CALL:
	case BT_JCC:
	case BT_JMP:
		return true;
	default:
		return false;
	}
}

void flags_emit_save_again(struct translation *t, unsigned source)
{
	emit_again_by(t, source, H_NONE);
	emit_call(t->e, t->bt->save_flags);
}

void flags_emit_save_thunk(struct bt *bt)
{
	struct emitter *e = &bt->e;

	bt->save_flags = emit_exec(e);
	emit_store(e, in_cpu(CPU_SCRATCH(3)), H_RAX);
	emit_rax_flags(e);
	emit_load(e, H_RAX, in_cpu(CPU_SCRATCH(3)));
	emit8(e, 0xc3);
}

/* ---- where they are ---- */

void flags_before_clobber(struct translation *t, bool needed)
{
	if (t->flags == FLAGS_AGAIN) {
		if (!needed)
			t->flags = FLAGS_DEAD;
	} else if (t->flags == FLAGS_HOST && needed && flags_may_wait(t) && lasts(t)) {
		t->flags = FLAGS_AGAIN;
	} else if (t->flags == FLAGS_HOST) {
		if (needed) {
			flags_emit_save(t->e, H_R10);
			t->r10_slot = NO_GROUP;
		}
		t->flags = needed ? FLAGS_CPU : FLAGS_DEAD;
	} else if (t->flags == FLAGS_BOTH) {
		t->flags = FLAGS_CPU;
	}
}

void flags_to_host(struct translation *t, unsigned free)
{
	if (t->flags == FLAGS_AGAIN) {
		if (free == H_R10)
			t->r10_slot = NO_GROUP;
		emit_again_by(t, t->flags_source, free);
		t->flags = FLAGS_HOST;
		return;
	}
	if (t->flags != FLAGS_CPU)
		return;
	flags_emit_restore(t->e, free);
	if (free == H_R10)
		t->r10_slot = NO_GROUP;
	t->flags = FLAGS_BOTH;
}

void flags_to_cpu(struct translation *t)
{
	if (t->flags == FLAGS_AGAIN)
		flags_to_host(t, H_R10);
	if (t->flags == FLAGS_HOST) {
		flags_emit_save(t->e, H_R10);
		t->r10_slot = NO_GROUP;
	} else if (t->flags == FLAGS_DEAD) {
		flags_emit_fixed(t->e);
	}
	t->flags = FLAGS_CPU;
}

void flags_settle(struct translation *t, unsigned live)
{
	if (t->flags == FLAGS_AGAIN && !live)
		t->flags = FLAGS_DEAD;
	if (t->flags == FLAGS_AGAIN)
		flags_to_host(t, H_R10);
}

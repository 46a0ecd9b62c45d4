/* Computing instructions that do not fit emit_native's pattern. */
#include "engine/soft/bt/forms.h"

static unsigned home_or_none(const struct translation *t, unsigned guest)
{
	return guest == INSN_NO_REG ? H_NONE : home_of(t, guest);
}

/*
 * Can the host do it in the registers' homes? A result of 32 bits, and an address of them, which clears the upper half,
 * need no more than the lower halves.
 */
static bool is_plain_lea(const struct translation *t, const struct insn *insn)
{
	if (insn->base == INSN_BASE_RIP || insn->operand_size == 2 || insn->address_size == 2 ||
	    (insn->base == INSN_NO_REG && insn->index == INSN_NO_REG) || insn->displacement != (int32_t)insn->displacement)
		return false;
	return (insn->base == INSN_NO_REG || home_of(t, insn->base) != H_NONE) &&
	       (insn->index == INSN_NO_REG || home_of(t, insn->index) != H_NONE);
}

/* RIP-relative, 64 bits, in code that does not know its page's address. */
static bool is_lea_of_own_page(const struct translation *t, const struct insn *insn)
{
	return insn->base == INSN_BASE_RIP && !t->linear_known && t->code64 && insn->operand_size == 8 &&
	       insn->address_size == 8 && fits32(insn->displacement + t->offset[t->i + 1]);
}

void emit_lea_insn(struct translation *t, const struct insn *insn)
{
	struct emitter *e = t->e;
	unsigned host = home_of(t, insn->reg);
	struct insn address = *insn;

	address.segment = SEG_DS; /* LEA ignores segments */
	if (host != H_NONE && is_plain_lea(t, insn)) {
		struct place place = { .memory = true, .base = home_or_none(t, insn->base), .index = home_or_none(t, insn->index),
				       .scale = insn->scale, .disp = (int32_t)insn->displacement };

		if (insn->operand_size == 8 && insn->address_size == 8)
			emit_lea(e, host, place);
		else
			emit_lea32(e, host, place);
		return;
	}
	if (host != H_NONE && is_lea_of_own_page(t, insn)) {
		emit_load(e, host, in_cpu(CPU_FIELD(rip_page)));
		emit_lea(e, host, at(host, t->offset[t->i + 1] + (int32_t)insn->displacement));
		return;
	}
	emit_effective_address(t, &address);
	if (host == H_NONE) {
		if (insn->operand_size == 2) {
			emit_insn(e, (struct form){ .prefix = 0x66, .opcode = 0x89 }, H_R11, in_cpu(CPU_GPR(insn->reg)));
			return;
		}
		if (insn->operand_size == 4)
			emit_op(e, false, 0x8b, H_R11, in_reg(H_R11));
		emit_store(e, in_cpu(CPU_GPR(insn->reg)), H_R11);
	} else {
		emit_insn(e, (struct form){ .prefix = insn->operand_size == 2 ? 0x66 : 0, .opcode = 0x8b,
					    .w = insn->operand_size == 8 }, host, in_reg(H_R11));
	}
}

void emit_mov_imm_insn(struct translation *t, const struct insn *insn)
{
	struct emitter *e = t->e;
	unsigned host = home_of(t, insn->rm);
	uint64_t value = insn->operand_size == 4 ? (uint32_t)insn->imm : (uint64_t)insn->imm;

	if (insn->operand_size == 2) {
		struct place to = host == H_NONE ? in_cpu(CPU_GPR(insn->rm)) : in_reg(host);

		emit_insn(e, (struct form){ .prefix = 0x66, .opcode = 0xc7 }, 0, to);
		emit_bytes(e, insn->imm, 2);
	} else if (host == H_NONE) {
		emit_mov_imm(e, H_R11, value);
		emit_store(e, in_cpu(CPU_GPR(insn->rm)), H_R11);
	} else {
		emit_mov_imm(e, host, value);
	}
}

void emit_bswap(struct translation *t, const struct insn *insn)
{
	unsigned reg = use_guest_register(t, insn->rm, H_R11);
	bool w = insn->operand_size == 8;

	if (w || reg & 8)
		emit8(t->e, 0x40 | (w ? 8 : 0) | (reg & 8 ? 1 : 0));
	emit8(t->e, 0x0f);
	emit8(t->e, 0xc8 | (reg & 7));
	if (reg == H_R11)
		emit_store(t->e, in_cpu(CPU_GPR(insn->rm)), H_R11);
}

/* XLAT: AL = [rBX + AL]. */
void emit_xlat(struct translation *t, const struct insn *insn)
{
	struct emitter *e = t->e;

	flags_before_clobber(t, t->live_before[t->i]);
	emit_insn(e, (struct form){ .map = 1, .opcode = 0xb6 }, H_R11, in_reg(H_RAX)); /* movzx r11d, al */
	emit_lea(e, H_R11, at_indexed(H_R11, H_RBX, 0, 0));
	if (insn->address_size == 4)
		emit_op(e, false, 0x8b, H_R11, in_reg(H_R11));
	else if (insn->address_size == 2)
		emit_insn(e, (struct form){ .map = 1, .opcode = 0xb7 }, H_R11, in_reg(H_R11));
	if (!t->careful && t->code64 && (insn->segment == SEG_FS || insn->segment == SEG_GS))
		emit_op(e, true, 0x03, H_R11, in_cpu(CPU_SEG_BASE(insn->segment)));
	emit_op(e, false, 0x8a, H_RAX, emit_access_r11(t, 1, USE_READ, insn->segment));
}

/*
 * BT, BTS, BTR, BTC m, r: the register is a signed bit index into memory far beyond the operand. The address
 * moves by index >> 3 rounded to the operand's size; the operation then takes the index modulo the size.
 */
void emit_bit_string(struct translation *t, const struct insn *insn)
{
	struct emitter *e = t->e;
	unsigned size = insn->operand_size, shift = size == 8 ? 6 : size == 4 ? 5 : 4;
	unsigned index_reg = home_of(t, insn->reg), use = insn->opcode == 0xa3 ? USE_READ : USE_READ | USE_WRITE;

	flags_before_clobber(t, t->live_before[t->i] != 0);
	emit_effective_address(t, insn);
	/* r10 = (sign-extended index >> shift) * size */
	if (index_reg == H_NONE)
		emit_load(e, H_R10, in_cpu(CPU_GPR(insn->reg)));
	if (size == 8)
		emit_op(e, true, 0x8b, H_R10, index_reg == H_NONE ? in_reg(H_R10) : in_reg(index_reg));
	else if (size == 4)
		emit_op(e, true, 0x63, H_R10, index_reg == H_NONE ? in_reg(H_R10) : in_reg(index_reg)); /* movsxd */
	else
		emit_insn(e, (struct form){ .map = 1, .opcode = 0xbf, .w = true }, H_R10,
			  index_reg == H_NONE ? in_reg(H_R10) : in_reg(index_reg)); /* movsx r10, r16 */
	emit_op(e, true, 0xc1, 7, in_reg(H_R10)); /* sar */
	emit8(e, shift);
	emit_lea(e, H_R11, at_indexed(H_R11, H_R10, size == 8 ? 3 : size == 4 ? 2 : 1, 0));
	if (insn->address_size == 4 && !(insn->segment == SEG_FS || insn->segment == SEG_GS))
		emit_op(e, false, 0x8b, H_R11, in_reg(H_R11));
	else if (insn->address_size == 2)
		emit_insn(e, (struct form){ .map = 1, .opcode = 0xb7 }, H_R11, in_reg(H_R11));
	struct place place = emit_access_r11(t, size, use, insn->segment);
	unsigned reg = use_guest_register(t, insn->reg, other_scratch(place));

	/* The host would add the index to the address again: reduce it in a scratch register. */
	if (reg != H_R10 && reg != H_R11) {
		unsigned scratch = other_scratch(place);

		emit_op(e, true, 0x8b, scratch, in_reg(reg));
		reg = scratch;
	}
	emit_op(e, false, 0x83, 4, in_reg(reg)); /* and */
	emit8(e, (1u << shift) - 1);
	/* All six flags may be needed: only CF is the instruction's. */
	flags_to_host(t, H_NONE);
	emit_insn(e, (struct form){ .prefix = size == 2 ? 0x66 : 0, .map = 1, .opcode = insn->opcode, .w = size == 8,
				    .lock = insn->prefixes & PREFIX_LOCK }, reg, place);
	t->flags = FLAGS_HOST;
	emit_commit(t, use);
}

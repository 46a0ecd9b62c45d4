/*
 * System instructions that 64-bit kernels execute all the time, without the way through C. Each has its twin in
 * cpu/, which does every other mode; classify.c decides by the mode key which of the two applies.
 */
#include "engine/soft/bt/inline_ops.h"

#include "engine/soft/bt/forms.h"

/* and/or dword [field], imm32 */
static void emit_flag_word(struct translation *t, bool set, uint32_t bits)
{
	flags_before_clobber(t, t->live_before[t->i + 1]);
	emit_op(t->e, false, 0x81, set ? 1 : 4, in_cpu(CPU_FIELD(rflags_system)));
	emit32(t->e, set ? bits : ~bits);
}

void emit_cli(struct translation *t)
{
	emit_flag_word(t, false, FLAG_IF);
}

/* Executed by inline code alone, and the block goes on. */
static bool has_simple_form(const struct insn *insn)
{
	switch (insn->op) {
	case BT_UNDEFINED:
	case BT_STRING:
	case BT_POPF:
	case BT_SYSCALL:
	case BT_SYSRET:
	case BT_WRITE_BASE:
		return false;
	default:
		return insn->op < BT_OP;
	}
}

/*
 * Whether nobody can see that the instruction after an STI runs under its shadow: no interrupt gets in before the block's
 * next look at the kick word, but in non-root operation a VM exit of the instruction itself would save the shadow. Linux
 * has a NOP or a jump there.
 */
static bool hides_shadow(const struct translation *t, unsigned i)
{
	if (i >= t->count)
		return false;
	if (t->key & MODE_NONROOT)
		return t->insn[i].op == BT_NOP || t->insn[i].op == BT_JMP;
	return has_simple_form(&t->insn[i]);
}

/* STI. What was found pending while IF was clear is the slow way's business. */
void emit_sti(struct translation *t, const struct insn *insn)
{
	struct cold_exit *cold;

	if (!hides_shadow(t, t->i + 1) ||
	    t->cold_count >= sizeof(t->cold) / sizeof(t->cold[0]) - 2) {
		emit_op_call(t, insn, op_sti, true);
		return;
	}
	flags_before_clobber(t, t->live_before[t->i + 1]);
	emit_op(t->e, false, 0x80, 7, in_cpu(CPU_FIELD(interrupt_blocked))); /* cmp byte, 0 */
	emit8(t->e, 0);
	cold = &t->cold[t->cold_count++];
	*cold = (struct cold_exit){ .flags = t->flags, .insn = t->i, .key = t->key, .op = op_sti };
	cold->from = emit_branch_later(t->e, CC_NE);
	emit_op(t->e, false, 0x81, 1, in_cpu(CPU_FIELD(rflags_system)));
	emit32(t->e, FLAG_IF);
}

/* STAC and CLAC choose among the supervisor's TLB tables: the rest of the block is for the other mode key. */
void emit_set_ac(struct translation *t, bool set)
{
	uint32_t class = set ? TLB_SUPER_AC : TLB_SUPER;

	emit_flag_word(t, set, FLAG_AC);
	t->key = (t->key & ~(3u << MODE_CLASS_SHIFT)) | class << MODE_CLASS_SHIFT;
	emit_op(t->e, false, 0xc7, 0, in_cpu(CPU_FIELD(mode)));
	emit32(t->e, t->key & MODE_BITS);
}

void emit_swapgs(struct translation *t)
{
	struct place base = in_cpu(CPU_SEG_BASE(SEG_GS)), kernel = in_cpu(CPU_FIELD(msr.kernel_gs_base));

	emit_load(t->e, H_R10, base);
	emit_load(t->e, H_R11, kernel);
	emit_store(t->e, kernel, H_R10);
	emit_store(t->e, base, H_R11);
}

/* RDTSC, RDTSCP: the host's TSC plus offset and IA32_TSC_ADJUST; in non-root operation, plus the VMCS's offset. */
void emit_rdtsc(struct translation *t, bool with_aux)
{
	struct emitter *e = t->e;

	flags_before_clobber(t, t->live_before[t->i + 1]);
	emit8(e, 0x0f);
	emit8(e, 0x31);
	emit_op(e, true, 0xc1, 4, in_reg(H_RDX)); /* shl rdx, 32 */
	emit8(e, 32);
	emit_op(e, true, 0x0b, H_RAX, in_reg(H_RDX)); /* or rax, rdx */
	emit_op(e, true, 0x03, H_RAX, in_cpu(CPU_FIELD(tsc_offset)));
	emit_op(e, true, 0x03, H_RAX, in_cpu(CPU_FIELD(msr.tsc_adjust)));
	if (t->key & MODE_NONROOT)
		emit_op(e, true, 0x03, H_RAX, in_cpu(CPU_FIELD(virt_tsc_offset)));
	emit_op(e, true, 0x8b, H_RDX, in_reg(H_RAX));
	emit_op(e, true, 0xc1, 5, in_reg(H_RDX)); /* shr rdx, 32 */
	emit8(e, 32);
	emit_op(e, false, 0x8b, H_RAX, in_reg(H_RAX));
	if (with_aux)
		emit_load32(e, H_RCX, in_cpu(CPU_FIELD(msr.tsc_aux)));
}

/* PUSHF: the image into scratch[0]; the caller pushes it. */
void emit_flags_image(struct translation *t)
{
	struct emitter *e = t->e;

	flags_to_cpu(t);
	emit_insn(e, (struct form){ .map = 1, .opcode = 0xb6 }, H_R11, in_cpu(CPU_FIELD(cc_low))); /* movzx */
	emit_op(e, false, 0x0b, H_R11, in_cpu(CPU_FIELD(rflags_system)));
	emit_insn(e, (struct form){ .map = 1, .opcode = 0xb6 }, H_R10, in_cpu(CPU_FIELD(cc_of)));
	emit_op(e, false, 0xc1, 4, in_reg(H_R10)); /* shl r10d, 11 */
	emit8(e, 11);
	emit_op(e, false, 0x0b, H_R11, in_reg(H_R10));
	emit_op(e, false, 0x81, 4, in_reg(H_R11)); /* and */
	emit32(e, ~(FLAG_RF | FLAG_VM));
	emit_store(e, in_cpu(CPU_SCRATCH(0)), H_R11);
}

void emit_mov_from_segment(struct translation *t, const struct insn *insn)
{
	struct emitter *e = t->e;
	struct place selector = in_cpu((int32_t)(offsetof(struct cpu, seg) + insn->reg * sizeof(struct segment) +
						 offsetof(struct segment, selector)));
	unsigned host = home_of(t, insn->rm), to = host == H_NONE ? H_R11 : host;

	if (insn->operand_size == 2) {
		if (host == H_NONE)
			emit_load(e, H_R11, in_cpu(CPU_GPR(insn->rm)));
		emit_insn(e, (struct form){ .prefix = 0x66, .opcode = 0x8b }, to, selector);
	} else {
		emit_insn(e, (struct form){ .map = 1, .opcode = 0xb7 }, to, selector); /* movzx r32, m16 */
	}
	if (host == H_NONE)
		emit_store(e, in_cpu(CPU_GPR(insn->rm)), H_R11);
}

/* The guest register that is the destination, from a field of 64 bits, or its lower half. */
static void emit_load_field(struct translation *t, unsigned guest, struct place from, bool w)
{
	unsigned host = home_of(t, guest), to = host == H_NONE ? H_R11 : host;

	emit_op(t->e, w, 0x8b, to, from);
	if (host == H_NONE)
		emit_store(t->e, in_cpu(CPU_GPR(guest)), to);
}

void emit_mov_from_cr(struct translation *t, const struct insn *insn)
{
	static const int32_t fields[] = { CPU_FIELD(cr0), 0, CPU_FIELD(cr2), CPU_FIELD(cr3), CPU_FIELD(cr4) };

	emit_load_field(t, insn->rm, in_cpu(fields[insn->reg]), true);
}

static unsigned base_segment(const struct insn *insn)
{
	return insn->reg & 1 ? SEG_GS : SEG_FS;
}

void emit_read_base(struct translation *t, const struct insn *insn)
{
	emit_load_field(t, insn->rm, in_cpu(CPU_SEG_BASE(base_segment(insn))), insn->operand_size == 8);
}

void emit_write_base(struct translation *t, const struct insn *insn)
{
	struct emitter *e = t->e;
	struct place to = in_cpu(CPU_SEG_BASE(base_segment(insn)));
	unsigned from = use_guest_register(t, insn->rm, H_R11);
	struct slow_ways slow = { .count = 0 };

	if (insn->operand_size != 8) {
		emit_op(e, false, 0x8b, H_R11, in_reg(from));
		emit_store(e, to, H_R11);
		return;
	}
	flags_to_cpu(t); /* for C, which raises #GP where the address is not canonical */
	emit_op(e, true, 0x8b, H_R10, in_reg(from));
	emit_op(e, true, 0xc1, 4, in_reg(H_R10)); /* shl */
	emit8(e, 16);
	emit_op(e, true, 0xc1, 7, in_reg(H_R10)); /* sar */
	emit8(e, 16);
	emit_op(e, true, 0x3b, H_R10, in_reg(from));
	emit_slow_if(t, &slow, CC_NE);
	emit_store(e, to, H_R10);
	emit_slow_ways(t, insn, &slow, insn->reg & 1 ? op_wrgsbase : op_wrfsbase, emit_exec(e));
}

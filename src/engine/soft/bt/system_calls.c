/*
 * SYSCALL and 64-bit SYSRET between translated code of both sides. What the mode key will be is known here but for
 * CR4.SMAP; where the jump cache of the other side holds code of that very key (tlb_jump_mode), nothing else depends
 * on the change, and the way leads on through that cache. Flags that would change more of the key (TF, AC, IOPL),
 * 32-bit targets and pending interrupts are syscall.c's business.
 */
#include "engine/soft/bt/forms.h"
#include "engine/soft/cpu/descriptor.h"

_Static_assert(MODE_SMAP == CR4_SMAP, "copied from one to the other");

/* Slow where any of the bits (none: where all of them are clear) is set in the dword. */
static void emit_test(struct translation *t, struct slow_ways *checks, struct place dword, uint32_t bits, bool none)
{
	emit_op(t->e, false, 0xf7, 0, dword);
	emit32(t->e, bits);
	emit_slow_if(t, checks, none ? CC_E : CC_NE);
}

static void emit_alu32(struct translation *t, unsigned digit, struct place to, uint32_t value)
{
	emit_op(t->e, false, 0x81, digit, to);
	emit32(t->e, value);
}

enum { ALU_OR = 1, ALU_AND = 4, ALU_CMP = 7 };

static void emit_store8(struct translation *t, struct place to, unsigned reg)
{
	emit_insn(t->e, (struct form){ .opcode = 0x88, .force_rex = true }, reg, to);
}

static void emit_set8(struct translation *t, struct place to, uint8_t value)
{
	emit_op(t->e, false, 0xc6, 0, to);
	emit8(t->e, value);
}

static struct place in_segment(unsigned seg, size_t field)
{
	return in_cpu((int32_t)(offsetof(struct cpu, seg) + seg * sizeof(struct segment) + field));
}

/* A flat segment; its selector is in `selector`, whose upper half does not matter. Clobbers r11. */
static void emit_flat_segment(struct translation *t, unsigned seg, uint32_t rights, unsigned selector)
{
	_Static_assert(offsetof(struct segment, rights) == offsetof(struct segment, limit) + 4, "stored as one");
	emit_insn(t->e, (struct form){ .prefix = 0x66, .opcode = 0x89 }, selector,
		  in_segment(seg, offsetof(struct segment, selector)));
	emit_op(t->e, true, 0xc7, 0, in_segment(seg, offsetof(struct segment, base)));
	emit32(t->e, 0);
	emit_mov_imm(t->e, H_R11, (uint64_t)rights << 32 | UINT32_MAX);
	emit_store(t->e, in_segment(seg, offsetof(struct segment, limit)), H_R11);
}

static void emit_new_mode(struct translation *t, struct slow_ways *checks, enum tlb_class class)
{
	emit_op(t->e, false, 0x3b, H_R10, in_cpu(JUMP_MODE(class)));
	emit_slow_if(t, checks, CC_NE);
}

/* Leaves r10d = the new mode key. */
static void emit_syscall_checks(struct translation *t, struct slow_ways *checks)
{
	struct emitter *e = t->e;
	uint32_t dropped = 3u << MODE_CLASS_SHIFT | MODE_ALIGN;
	uint32_t added = MODE_CPL0 | MODE_IOPL_OK | TLB_SUPER << MODE_CLASS_SHIFT |
			 (t->key & MODE_NONROOT ? t->key & MODE_TSC_DIRECT : MODE_TSC_DIRECT);

	emit_test(t, checks, in_cpu(CPU_FIELD(efer)), EFER_SCE, true);
	emit_test(t, checks, in_cpu(CPU_FIELD(msr.sfmask)), FLAG_AC, true);
	emit_load32(e, H_R10, in_cpu(CPU_FIELD(cr4)));
	emit_alu32(t, ALU_AND, in_reg(H_R10), CR4_SMAP);
	emit_alu32(t, ALU_OR, in_reg(H_R10), (t->key & MODE_BITS & ~dropped) | added);
	emit_new_mode(t, checks, TLB_SUPER);
	emit_insn(e, (struct form){ .opcode = 0x89 }, H_R10, in_cpu(CPU_FIELD(mode)));
}

/* R11 = RFLAGS, and the flags that IA32_FMASK names are cleared. */
static void emit_syscall_flags(struct translation *t)
{
	struct emitter *e = t->e;
	struct place low = in_cpu(CPU_FIELD(cc_low)), of = in_cpu(CPU_FIELD(cc_of));

	emit_insn(e, (struct form){ .map = 1, .opcode = 0xb6 }, H_R11, low); /* movzx */
	emit_op(e, false, 0x0b, H_R11, in_cpu(CPU_FIELD(rflags_system)));
	emit_insn(e, (struct form){ .map = 1, .opcode = 0xb6 }, H_R10, of);
	emit_op(e, false, 0xc1, 4, in_reg(H_R10)); /* shl r10d, 11 */
	emit8(e, 11);
	emit_op(e, false, 0x0b, H_R11, in_reg(H_R10));
	emit_store(e, in_cpu(CPU_GPR(REG_R11)), H_R11);
	emit_load32(e, H_R10, in_cpu(CPU_FIELD(msr.sfmask)));
	emit_op(e, false, 0xf7, 2, in_reg(H_R10)); /* not r10d */
	emit_op(e, false, 0x21, H_R10, in_cpu(CPU_FIELD(rflags_system)));
	emit_alu32(t, ALU_OR, in_cpu(CPU_FIELD(rflags_system)), 2);
	emit_op(e, false, 0x20, H_R10, low); /* and byte */
	emit_op(e, false, 0x80, ALU_OR, low);
	emit8(e, 2);
	emit_op(e, false, 0xc1, 5, in_reg(H_R10)); /* shr r10d, 11 */
	emit8(e, 11);
	emit_op(e, false, 0x20, H_R10, of);
}

/*
 * The program's return entries stay: they are good again when SYSRET comes back here before anything has made the
 * dispatcher forget them. Until then two of the kind at the bottom keep the kernel's returns from meeting them.
 */
static void emit_enter_kernel_returns(struct translation *t)
{
	struct emitter *e = t->e;

	emit_store(e, in_cpu(CPU_FIELD(user_return_sp)), H_RSP);
	emit_load(e, H_R10, in_cpu(CPU_FIELD(return_bottom)));
	for (unsigned i = 0; i < 2; i++) {
		emit_op(e, false, 0xff, 6, at(H_R10, offsetof(struct return_entry, guest))); /* push */
		emit_op(e, false, 0xff, 6, at(H_R10, offsetof(struct return_entry, host)));
	}
}

void emit_syscall(struct translation *t, const struct insn *insn)
{
	struct emitter *e = t->e;
	struct slow_ways checks = { .count = 0 };

	flags_to_cpu(t);
	emit_syscall_checks(t, &checks);
	emit_syscall_flags(t);
	emit_load(e, H_RCX, in_cpu(CPU_FIELD(rip_page)));
	emit_lea(e, H_RCX, at(H_RCX, t->offset[t->i + 1]));
	emit_set8(t, in_cpu(CPU_FIELD(cpl)), 0);
	emit_load32(e, H_R10, in_cpu(CPU_FIELD(msr.star) + 4));
	emit_alu32(t, ALU_AND, in_reg(H_R10), 0xfffc);
	emit_flat_segment(t, SEG_CS, RIGHTS_FLAT_CODE64(0), H_R10);
	emit_lea32(e, H_R10, at(H_R10, 8));
	emit_flat_segment(t, SEG_SS, RIGHTS_FLAT_DATA32(0), H_R10);
	emit_enter_kernel_returns(t);
	emit_load(e, H_R11, in_cpu(CPU_FIELD(msr.lstar))); /* canonical: WRMSR sees to it */
	emit_jmp(e, t->bt->jump_cached[TLB_SUPER]);
	emit_slow_ways(t, insn, &checks, op_syscall, NULL);
}

static void emit_sysret_checks(struct translation *t, struct slow_ways *checks)
{
	struct emitter *e = t->e;
	uint32_t dropped = 3u << MODE_CLASS_SHIFT | MODE_CPL0 | MODE_SMAP | MODE_IOPL_OK; /* CR4.TSD is clear: MODE_TSC_DIRECT stays */
	uint32_t added = TLB_USER << MODE_CLASS_SHIFT;

	emit_test(t, checks, in_cpu(CPU_FIELD(efer)), EFER_SCE, true);
	emit_test(t, checks, in_cpu(CPU_FIELD(cr4)), CR4_TSD, false);
	emit_test(t, checks, in_cpu(CPU_GPR(REG_R11)), FLAG_TF | FLAG_AC | FLAG_IOPL, false);
	emit_op(e, false, 0x80, ALU_CMP, in_cpu(CPU_FIELD(interrupt_blocked)));
	emit8(e, 0);
	emit_slow_if(t, checks, CC_NE);
	/* rcx must be canonical */
	emit_op(e, true, 0x8b, H_R11, in_reg(H_RCX));
	emit_op(e, true, 0xc1, 4, in_reg(H_R11)); /* shl */
	emit8(e, 16);
	emit_op(e, true, 0xc1, 7, in_reg(H_R11)); /* sar */
	emit8(e, 16);
	emit_op(e, true, 0x3b, H_R11, in_reg(H_RCX));
	emit_slow_if(t, checks, CC_NE);
	emit_mov_imm(e, H_R10, (t->key & MODE_BITS & ~dropped) | added);
	emit_new_mode(t, checks, TLB_USER);
	emit_insn(e, (struct form){ .opcode = 0x89 }, H_R10, in_cpu(CPU_FIELD(mode)));
}

/* RFLAGS = R11 & 3C7FD7H | 2 (SDM, SYSRET). */
static void emit_sysret_flags(struct translation *t)
{
	struct emitter *e = t->e;

	emit_load32(e, H_R10, in_cpu(CPU_GPR(REG_R11)));
	emit_op(e, false, 0x8b, H_R11, in_reg(H_R10));
	emit_alu32(t, ALU_AND, in_reg(H_R11), FLAGS_ARITHMETIC & 0xff);
	emit_alu32(t, ALU_OR, in_reg(H_R11), 2);
	emit_store8(t, in_cpu(CPU_FIELD(cc_low)), H_R11);
	emit_op(e, false, 0x8b, H_R11, in_reg(H_R10));
	emit_op(e, false, 0xc1, 5, in_reg(H_R11)); /* shr r11d, 11 */
	emit8(e, 11);
	emit_alu32(t, ALU_AND, in_reg(H_R11), 1);
	emit_store8(t, in_cpu(CPU_FIELD(cc_of)), H_R11);
	emit_alu32(t, ALU_AND, in_reg(H_R10), 0x3c7fd7 & ~FLAGS_ARITHMETIC);
	emit_alu32(t, ALU_OR, in_reg(H_R10), 2);
	emit_store(e, in_cpu(CPU_FIELD(rflags_system)), H_R10);
}

void emit_sysret(struct translation *t, const struct insn *insn)
{
	struct emitter *e = t->e;
	struct slow_ways checks = { .count = 0 };

	flags_to_cpu(t);
	emit_sysret_checks(t, &checks);
	emit_sysret_flags(t);
	emit_set8(t, in_cpu(CPU_FIELD(cpl)), 3);
	emit_load32(e, H_R10, in_cpu(CPU_FIELD(msr.star) + 4));
	emit_op(e, false, 0xc1, 5, in_reg(H_R10)); /* shr r10d, 16 */
	emit8(e, 16);
	emit_alu32(t, ALU_OR, in_reg(H_R10), 3);
	emit_lea32(e, H_R10, at(H_R10, 16));
	emit_flat_segment(t, SEG_CS, RIGHTS_FLAT_CODE64(3), H_R10);
	emit_lea32(e, H_R10, at(H_R10, -8));
	emit_flat_segment(t, SEG_SS, RIGHTS_FLAT_DATA32(3), H_R10);
	emit_load(e, H_RSP, in_cpu(CPU_FIELD(user_return_sp)));
	emit_op(e, true, 0x8b, H_R11, in_reg(H_RCX));
	emit_jmp(e, t->bt->jump_cached[TLB_USER]);
	emit_slow_ways(t, insn, &checks, op_sysret, NULL);
}

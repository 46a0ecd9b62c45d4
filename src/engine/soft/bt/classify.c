#include "engine/soft/bt/classify.h"

#include "engine/soft/bt/decode.h"
#include "engine/soft/vmx/vmx.h"

#define OPS(X)                                                                                                 \
	X(movs, 0) X(stos, 0) X(lods, 0) X(scas, 0) X(cmps, 0)                                                  \
	X(push_segment, 0) X(pusha, 0) X(popa, 0) X(enter, 0) X(leave, 0) X(pushf, 0) X(popf, 1)                \
	X(push_rm, 0) X(pop_rm, 0) X(push_imm, 0) X(push_reg, 0) X(pop_reg, 0)                                  \
	X(call_near, 1) X(call_near_rm, 1) X(ret_near, 1) X(ret_near_imm, 1) X(jmp_near_rm, 1)                  \
	X(mov_to_segment, 1) X(mov_from_segment, 0) X(pop_segment, 1) X(load_far_pointer, 1)                    \
	X(lar, 0) X(lsl, 0) X(verr, 0) X(verw, 0) X(arpl, 0) X(bound, 0)                                        \
	X(lgdt, 0) X(lidt, 0) X(sgdt, 0) X(sidt, 0) X(lldt, 0) X(ltr, 0) X(sldt, 0) X(str, 0)                   \
	X(jmp_far, 1) X(call_far, 1) X(ret_far, 1) X(iret, 1) X(int, 1) X(int3, 1) X(into, 1) X(int1, 1)        \
	X(syscall, 1) X(sysret, 1) X(sysenter, 1) X(sysexit, 1)                                                 \
	X(swapgs, 0) X(rdfsbase, 0) X(rdgsbase, 0) X(wrfsbase, 0) X(wrgsbase, 0)                                \
	X(cli, 0) X(sti, 1) X(clac, 1) X(stac, 1)                                                               \
	X(mov_to_cr, 1) X(mov_from_cr, 0) X(mov_to_dr, 1) X(mov_from_dr, 0) X(lmsw, 1) X(smsw, 0) X(clts, 1)    \
	X(invlpg, 1) X(invpcid, 1) X(invd, 1) X(wbinvd, 1) X(hlt, 1) X(monitor, 0) X(mwait, 1) X(pause, 0)      \
	X(cpuid, 0) X(rdmsr, 0) X(wrmsr, 1) X(rdtsc, 0) X(rdtscp, 0) X(rdpmc, 0) X(rdpid, 0) X(rdrand, 0)       \
	X(rdseed, 0) X(getsec, 1) X(rsm, 1) X(ud, 1)                                                            \
	X(in, 1) X(out, 1) X(ins, 1) X(outs, 1)                                                                 \
	X(xgetbv, 0) X(xsetbv, 1) X(xsave, 0) X(xsaveopt, 0) X(xsavec, 0) X(xsaves, 0) X(xrstor, 0)             \
	X(xrstors, 0) X(fxsave, 0) X(fxrstor, 0) X(fnsave, 0) X(frstor, 0) X(fnstenv, 0) X(fldenv, 0)           \
	X(cmpxchg8b, 0) X(salc, 0) X(aaa, 0) X(aas, 0) X(daa, 0) X(das, 0) X(aam, 0) X(aad, 0)                  \
	X(gather, 0) X(maskmov, 0)                                                                              \
	X(vmxon, 1) X(vmxoff, 1) X(vmclear, 1) X(vmptrld, 1) X(vmptrst, 0) X(vmread, 0) X(vmwrite, 0)           \
	X(vmlaunch, 1) X(vmresume, 1) X(vmcall, 1) X(vmfunc, 1) X(invept, 1) X(invvpid, 1)

enum {
#define X(name, ends) OP_##name,
	OPS(X)
#undef X
};

const struct op_entry bt_op_table[] = {
#define X(name, ends) { op_##name, ends },
	OPS(X)
#undef X
};

#define C(name) (BT_OP + OP_##name)

static unsigned group7(const struct insn *insn)
{
	unsigned digit = insn->reg & 7;

	if (insn->is_memory) {
		static const unsigned memory[8] = { C(sgdt), C(sidt), C(lgdt), C(lidt), C(smsw), 0, C(lmsw), C(invlpg) };

		return memory[digit];
	}
	switch (insn->modrm) {
	case 0xc1:
		return C(vmcall);
	case 0xc2:
		return C(vmlaunch);
	case 0xc3:
		return C(vmresume);
	case 0xc4:
		return C(vmxoff);
	case 0xc8:
		return C(monitor);
	case 0xc9:
		return C(mwait);
	case 0xca:
		return C(clac);
	case 0xcb:
		return C(stac);
	case 0xd0:
		return C(xgetbv);
	case 0xd1:
		return C(xsetbv);
	case 0xd4:
		return C(vmfunc);
	case 0xf8:
		return C(swapgs);
	case 0xf9:
		return C(rdtscp);
	}
	if (digit == 4)
		return C(smsw);
	if (digit == 6)
		return C(lmsw);
	return BT_UNDEFINED;
}

static unsigned group15(const struct insn *insn, uint32_t key)
{
	unsigned digit = insn->reg & 7;

	if (insn->prefixes & PREFIX_VEX)
		return BT_NATIVE; /* VLDMXCSR, VSTMXCSR, BLSR … are elsewhere */
	if (insn->is_memory) {
		switch (digit) {
		case 0:
			return C(fxsave);
		case 1:
			return C(fxrstor);
		case 2:
		case 3:
			return BT_NATIVE;
		case 4:
			return C(xsave);
		case 5:
			return C(xrstor);
		case 6: /* 66: CLWB */
			return insn->prefixes & PREFIX_OPSIZE ? BT_NOP : C(xsaveopt);
		default: /* CLFLUSH, CLFLUSHOPT */
			return BT_NOP;
		}
	}
	if (insn->prefixes & PREFIX_REP) {
		static const unsigned base[4] = { C(rdfsbase), C(rdgsbase), C(wrfsbase), C(wrgsbase) };

		return digit < 4 && key & MODE_CODE64 ? base[digit] : BT_UNDEFINED;
	}
	return digit >= 5 && !(insn->prefixes & (PREFIX_OPSIZE | PREFIX_REPNE)) ? BT_NOP /* fences */ : BT_UNDEFINED;
}

static unsigned group9(const struct insn *insn)
{
	unsigned digit = insn->reg & 7;

	if (insn->is_memory) {
		switch (digit) {
		case 1:
			return BT_NATIVE; /* CMPXCHG8B, CMPXCHG16B */
		case 3:
			return C(xrstors);
		case 4:
			return C(xsavec);
		case 5:
			return C(xsaves);
		case 6:
			if (insn->prefixes & PREFIX_OPSIZE)
				return C(vmclear);
			return insn->prefixes & PREFIX_REP ? C(vmxon) : C(vmptrld);
		case 7:
			return C(vmptrst);
		}
		return BT_UNDEFINED;
	}
	if (digit == 6)
		return C(rdrand);
	if (digit == 7)
		return insn->prefixes & PREFIX_REP ? C(rdpid) : C(rdseed);
	return BT_UNDEFINED;
}

static unsigned two_byte(struct insn *insn, uint32_t key)
{
	unsigned op = insn->opcode;

	switch (op) {
	case 0x00: {
		static const unsigned group6[8] = { C(sldt), C(str), C(lldt), C(ltr), C(verr), C(verw), 0, 0 };

		return group6[insn->reg & 7];
	}
	case 0x01:
		return group7(insn);
	case 0x02:
		return C(lar);
	case 0x03:
		return C(lsl);
	case 0x05:
		return C(syscall);
	case 0x06:
		return C(clts);
	case 0x07:
		return C(sysret);
	case 0x08:
		return C(invd);
	case 0x09:
		return C(wbinvd);
	case 0x0b:
	case 0xff:
	case 0xb9:
		return C(ud);
	case 0x0d:
	case 0x18 ... 0x1f:
		return BT_NOP; /* prefetches, hints, ENDBR, multi-byte NOP */
	case 0x20:
	case 0x22:
		return op == 0x20 ? C(mov_from_cr) : C(mov_to_cr);
	case 0x21:
	case 0x23:
		return op == 0x21 ? C(mov_from_dr) : C(mov_to_dr);
	case 0x30:
		return C(wrmsr);
	case 0x31:
		return C(rdtsc);
	case 0x32:
		return C(rdmsr);
	case 0x33:
		return C(rdpmc);
	case 0x34:
		return C(sysenter);
	case 0x35:
		return C(sysexit);
	case 0x37:
		return C(getsec);
	case 0x78:
		return insn->prefixes & (PREFIX_OPSIZE | PREFIX_REP | PREFIX_REPNE) ? BT_UNDEFINED : C(vmread);
	case 0x79:
		return insn->prefixes & (PREFIX_OPSIZE | PREFIX_REP | PREFIX_REPNE) ? BT_UNDEFINED : C(vmwrite);
	case 0x80 ... 0x8f:
		return BT_JCC;
	case 0xa0:
	case 0xa8:
		return C(push_segment);
	case 0xa1:
	case 0xa9:
		return C(pop_segment);
	case 0xa2:
		return C(cpuid);
	case 0xa3:
	case 0xab:
	case 0xb3:
	case 0xbb:
		return insn->is_memory ? BT_BIT_STRING : BT_NATIVE;
	case 0xaa:
		return C(rsm);
	case 0xae:
		return group15(insn, key);
	case 0xb2:
	case 0xb4:
	case 0xb5:
		return insn->is_memory ? C(load_far_pointer) : BT_UNDEFINED;
	case 0xc7:
		return group9(insn);
	case 0xc8 ... 0xcf:
		insn->rm = (op & 7) | (insn->rex & 1) << 3;
		return BT_BSWAP;
	}
	return BT_NATIVE;
}

/* Turns a form without ModRM into its ModRM equivalent. */
static void to_modrm(struct insn *insn, uint8_t opcode, unsigned digit, unsigned rm)
{
	insn->opcode = opcode;
	insn->has_modrm = true;
	insn->reg = digit;
	insn->rm = rm;
	insn->modrm = 0xc0 | (digit & 7) << 3 | (rm & 7);
}

static unsigned one_byte(struct insn *insn, uint32_t key)
{
	unsigned op = insn->opcode, low = op & 7, reg = low | (insn->rex & 1) << 3;
	bool code64 = key & MODE_CODE64;
	/* The stack can be reached with a flat, at least 32 bits wide pointer. */
	bool flat_stack = code64 || ((key & MODE_FLAT) && (key & MODE_STACK32) && (key & MODE_CODE32));

	switch (op) {
	case 0x06:
	case 0x0e:
	case 0x16:
	case 0x1e:
		return code64 ? BT_UNDEFINED : C(push_segment);
	case 0x07:
	case 0x17:
	case 0x1f:
		return code64 ? BT_UNDEFINED : C(pop_segment);
	case 0x27:
		return code64 ? BT_UNDEFINED : C(daa);
	case 0x2f:
		return code64 ? BT_UNDEFINED : C(das);
	case 0x37:
		return code64 ? BT_UNDEFINED : C(aaa);
	case 0x3f:
		return code64 ? BT_UNDEFINED : C(aas);
	case 0x40 ... 0x4f: /* INC, DEC; in 64-bit code these are REX */
		to_modrm(insn, 0xff, op >= 0x48, low);
		return BT_NATIVE;
	case 0x50 ... 0x57:
		insn->rm = reg;
		if (code64 && insn->operand_size == 4)
			insn->operand_size = 8;
		return flat_stack ? BT_PUSH : C(push_reg);
	case 0x58 ... 0x5f:
		insn->rm = reg;
		if (code64 && insn->operand_size == 4)
			insn->operand_size = 8;
		return flat_stack ? BT_POP : C(pop_reg);
	case 0x60:
		return code64 ? BT_UNDEFINED : C(pusha);
	case 0x61:
		return code64 ? BT_UNDEFINED : C(popa);
	case 0x62:
		return code64 || !insn->is_memory ? BT_UNDEFINED : C(bound);
	case 0x63:
		return code64 ? BT_NATIVE : C(arpl);
	case 0x68:
	case 0x6a:
		if (code64 && insn->operand_size == 4)
			insn->operand_size = 8;
		return flat_stack ? BT_PUSH_IMM : C(push_imm);
	case 0x6c:
	case 0x6d:
		return C(ins);
	case 0x6e:
	case 0x6f:
		return C(outs);
	case 0x70 ... 0x7f:
		return BT_JCC;
	case 0x82:
		if (code64)
			return BT_UNDEFINED;
		insn->opcode = 0x80;
		return BT_NATIVE;
	case 0x8c:
		return C(mov_from_segment);
	case 0x8d:
		return insn->is_memory ? BT_LEA : BT_UNDEFINED;
	case 0x8e:
		return C(mov_to_segment);
	case 0x8f:
		if (insn->reg & 7)
			return BT_UNDEFINED;
		if (code64 && insn->operand_size == 4)
			insn->operand_size = 8;
		return C(pop_rm);
	case 0x90:
		if (!(insn->rex & 1)) {
			/* PAUSE: somebody waits for another vCPU */
			return insn->prefixes & PREFIX_REP ? C(pause) : BT_NOP;
		}
		/* fall through */
	case 0x91 ... 0x97:
		to_modrm(insn, 0x87, reg, REG_RAX);
		return BT_NATIVE;
	case 0x9a:
		return code64 ? BT_UNDEFINED : C(call_far);
	case 0x9c:
		if (code64 && insn->operand_size == 4)
			insn->operand_size = 8;
		return C(pushf);
	case 0x9d:
		if (code64 && insn->operand_size == 4)
			insn->operand_size = 8;
		return C(popf);
	case 0xa0 ... 0xa3: {
		static const uint8_t direct[4] = { 0x8a, 0x8b, 0x88, 0x89 };

		insn->opcode = direct[low];
		insn->has_modrm = true;
		insn->reg = REG_RAX;
		insn->modrm = 5;
		return BT_NATIVE;
	}
	case 0xa4:
	case 0xa5:
		return C(movs);
	case 0xa6:
	case 0xa7:
		return C(cmps);
	case 0xaa:
	case 0xab:
		return C(stos);
	case 0xac:
	case 0xad:
		return C(lods);
	case 0xae:
	case 0xaf:
		return C(scas);
	case 0xb0 ... 0xb7: /* MOV r8, imm8 */
		insn->reg = 0;
		insn->rm = reg;
		insn->opcode = 0xc6;
		insn->has_modrm = true;
		insn->modrm = 0xc0 | low;
		return BT_NATIVE;
	case 0xb8 ... 0xbf:
		insn->rm = reg;
		return BT_MOV_IMM;
	case 0xc2:
	case 0xc3:
		if (code64)
			insn->operand_size = 8;
		return flat_stack && insn->operand_size != 2 ? BT_RET : op == 0xc2 ? C(ret_near_imm) : C(ret_near);
	case 0xc4:
	case 0xc5:
		return code64 || !insn->is_memory ? BT_UNDEFINED : C(load_far_pointer);
	case 0xc6:
	case 0xc7:
		return insn->reg & 7 ? BT_UNDEFINED : BT_NATIVE;
	case 0xc8:
		if (code64 && insn->operand_size == 4)
			insn->operand_size = 8;
		return C(enter);
	case 0xc9:
		if (code64 && insn->operand_size == 4)
			insn->operand_size = 8;
		return flat_stack && insn->operand_size != 2 ? BT_LEAVE : C(leave);
	case 0xca:
	case 0xcb:
		return C(ret_far);
	case 0xcc:
		return C(int3);
	case 0xcd:
		return C(int);
	case 0xce:
		return code64 ? BT_UNDEFINED : C(into);
	case 0xcf:
		return C(iret);
	case 0xd4:
		return code64 ? BT_UNDEFINED : C(aam);
	case 0xd5:
		return code64 ? BT_UNDEFINED : C(aad);
	case 0xd6:
		return code64 ? BT_UNDEFINED : C(salc);
	case 0xd7:
		return BT_XLAT;
	case 0xd9:
		if (insn->is_memory && (insn->reg & 7) == 4)
			return C(fldenv);
		if (insn->is_memory && (insn->reg & 7) == 6)
			return C(fnstenv);
		return BT_NATIVE;
	case 0xdd:
		if (insn->is_memory && (insn->reg & 7) == 4)
			return C(frstor);
		if (insn->is_memory && (insn->reg & 7) == 6)
			return C(fnsave);
		return BT_NATIVE;
	case 0xe0 ... 0xe3:
		return BT_LOOP;
	case 0xe4 ... 0xe5:
	case 0xec ... 0xed:
		return C(in);
	case 0xe6 ... 0xe7:
	case 0xee ... 0xef:
		return C(out);
	case 0xe8:
		return flat_stack && insn->operand_size != 2 ? BT_CALL : C(call_near);
	case 0xe9:
	case 0xeb:
		return BT_JMP;
	case 0xea:
		return code64 ? BT_UNDEFINED : C(jmp_far);
	case 0xf1:
		return C(int1);
	case 0xf4:
		return C(hlt);
	case 0xfa:
		return C(cli);
	case 0xfb:
		return C(sti);
	case 0xfc:
	case 0xfd:
		return BT_FLAG_DF;
	case 0xfe:
		return (insn->reg & 7) > 1 ? BT_UNDEFINED : BT_NATIVE;
	case 0xff:
		switch (insn->reg & 7) {
		case 0:
		case 1:
			return BT_NATIVE;
		case 2:
			if (code64)
				insn->operand_size = 8;
			return flat_stack && insn->operand_size != 2 ? BT_CALL_RM : C(call_near_rm);
		case 3:
			return insn->is_memory ? C(call_far) : BT_UNDEFINED;
		case 4:
			if (code64)
				insn->operand_size = 8;
			return insn->operand_size != 2 ? BT_JMP_RM : C(jmp_near_rm);
		case 5:
			return insn->is_memory ? C(jmp_far) : BT_UNDEFINED;
		case 6:
			if (code64 && insn->operand_size == 4)
				insn->operand_size = 8;
			return flat_stack ? BT_PUSH_RM : C(push_rm);
		default:
			return BT_UNDEFINED;
		}
	}
	return BT_NATIVE;
}

/* The bytes of a rewritten instruction, for Zydis; displacement and immediate do not matter. Returns the length. */
static unsigned encode_equivalent(const struct insn *insn, uint8_t *to, unsigned code_size)
{
	unsigned n = 0;

	if (insn->prefixes & PREFIX_OPSIZE)
		to[n++] = 0x66;
	if (insn->prefixes & PREFIX_REX)
		to[n++] = insn->rex;
	if (insn->map == 1)
		to[n++] = 0x0f;
	to[n++] = insn->opcode;
	to[n++] = insn->is_memory ? (insn->modrm & 0x38) | (code_size == 2 ? 6 : 5) : insn->modrm;
	for (unsigned i = 0; insn->is_memory && i < (code_size == 2 ? 2 : 4); i++)
		to[n++] = 0;
	for (unsigned i = 0; i < insn->imm_size; i++)
		to[n++] = 0;
	return n;
}

/* May the instruction be LOCKed? SDM, LOCK — Assert LOCK# Signal Prefix. */
static bool lockable(const struct insn *insn)
{
	unsigned digit = insn->reg & 7;

	if (!insn->is_memory || insn->prefixes & PREFIX_VEX)
		return false;
	if (insn->map == 0)
		switch (insn->opcode) {
		case 0x00 ... 0x3f:
			return (insn->opcode & 7) < 2 && insn->opcode < 0x38;
		case 0x80 ... 0x83:
			return digit != 7;
		case 0x86:
		case 0x87:
			return true;
		case 0xf6:
		case 0xf7:
			return digit == 2 || digit == 3;
		case 0xfe:
		case 0xff:
			return digit < 2;
		}
	else if (insn->map == 1)
		switch (insn->opcode) {
		case 0xab:
		case 0xb3:
		case 0xbb:
		case 0xb0:
		case 0xb1:
		case 0xc0:
		case 0xc1:
			return true;
		case 0xba:
			return digit >= 5;
		case 0xc7:
			return digit == 1;
		}
	return false;
}

static bool unit_usable(const struct shape *shape, const struct insn *insn, uint32_t key)
{
	switch (shape->unit) {
	case UNIT_X87:
		if (insn->map == 0 && insn->opcode == 0x9b)
			return !(key & MODE_WAIT_TS);
		return key & MODE_FPU;
	case UNIT_MMX:
		return key & MODE_FPU;
	case UNIT_SSE:
		return key & MODE_SSE;
	case UNIT_AVX:
		return key & MODE_AVX;
	}
	return true;
}

/* TZCNT and LZCNT are BSF and BSR with a prefix that processors without BMI1 and LZCNT ignore; Linux relies on it. */
static bool ignores_scan_prefix(const struct bt *bt, const struct insn *insn)
{
	if (insn->map != 1 || !(insn->prefixes & PREFIX_REP) || insn->prefixes & PREFIX_VEX)
		return false;
	if (insn->opcode == 0xbc)
		return !cpu_model_has(bt->shapes->model, 7, 0, 1, 3);
	return insn->opcode == 0xbd && !cpu_model_has(bt->shapes->model, 0x80000001, 0, 2, 5);
}

/* Gathers and MASKMOV: see vector_memory.c. */
static bool names_other_memory(const struct insn *insn)
{
	if (insn->map == 2 && insn->prefixes & PREFIX_VEX)
		return insn->opcode >= 0x90 && insn->opcode <= 0x93;
	return insn->map == 1 && insn->opcode == 0xf7 && !(insn->prefixes & (PREFIX_REP | PREFIX_REPNE));
}

static unsigned other_memory(struct bt *bt, const struct insn *insn, uint32_t key)
{
	bool vex = insn->prefixes & PREFIX_VEX;

	if (insn->map == 2) {
		if (insn->vex_pp != 1 || !cpu_model_has(bt->cpu->model, 7, 0, 1, 5))
			return BT_UNDEFINED;
		return key & MODE_AVX ? C(gather) : BT_FPU_UNAVAILABLE;
	}
	if (vex && !cpu_model_has(bt->cpu->model, 1, 0, 2, 28))
		return BT_UNDEFINED;
	if (vex)
		return key & MODE_AVX ? C(maskmov) : BT_FPU_UNAVAILABLE;
	return key & (insn->prefixes & PREFIX_OPSIZE ? MODE_SSE : MODE_FPU) ? C(maskmov) : BT_FPU_UNAVAILABLE;
}

/* SYSCALL and SYSRET go on through the jump cache, at once. */
static bool has_inline_call(const struct cpu *cpu, uint32_t key)
{
	return !(key & ~MODE_BITS) && !(cpu->tune_off & (ENGINE_TUNE_SYSCALLS | ENGINE_TUNE_JUMP_CACHE));
}

static bool has_inline_string(const struct cpu *cpu, const struct insn *insn, uint32_t key)
{
	bool code64 = key & MODE_CODE64, flat = code64 || (key & MODE_FLAT && key & MODE_CODE32);
	/* 64-bit code knows no base but those of FS and GS; flat segments are DS, ES and SS. */
	bool other = insn->prefixes & PREFIX_SEGMENT &&
		     (insn->segment >= SEG_FS || (!code64 && insn->segment == SEG_CS));

	return flat && insn->address_size >= 4 && !other && !(key & (KEY_CAREFUL | MODE_ALIGN)) &&
	       !(cpu->tune_off & ENGINE_TUNE_STRINGS);
}

/* PUSHF and POPF of the stack pointer's own width, in 32-bit and 64-bit code. */
static bool has_inline_flags(const struct insn *insn, uint32_t key)
{
	if (key & (KEY_CAREFUL | MODE_ALIGN))
		return false;
	return key & MODE_CODE64 ? insn->operand_size == 8 : mode_is_flat32(key) && insn->operand_size == 4;
}

/* The inline form of a C function where the mode key allows it. */
static unsigned inline_form(struct bt *bt, const struct insn *insn, uint32_t key)
{
	const uint32_t kernel = MODE_CODE64 | MODE_CPL0 | MODE_IOPL_OK;
	const struct cpu *cpu = bt->cpu;
	bool real = cpu->clock == ENGINE_CLOCK_REAL, direct_tsc = real && key & MODE_TSC_DIRECT && !cpu->tsc_ratio;

	if (key & MODE_STEP || cpu->tune_off & ENGINE_TUNE_INLINE)
		return insn->op;
	if ((key & kernel) == kernel) {
		switch (insn->op) {
		case C(cli):
			return BT_CLI;
		case C(sti):
			return real && !(key & (KEY_ONE | KEY_CAREFUL)) ? BT_STI : insn->op;
		case C(stac):
			return key & MODE_SMAP ? BT_STAC : insn->op;
		case C(clac):
			return key & MODE_SMAP ? BT_CLAC : insn->op;
		case C(swapgs):
			return BT_SWAPGS;
		case C(mov_from_cr):
			/* no control of VMX stands before CR2 */
			return insn->reg == 2 || (!(key & MODE_NONROOT) && insn->reg <= 4 && insn->reg != 1)
				       ? BT_MOV_FROM_CR : insn->op;
		}
	}
	switch (insn->op) {
	case C(lods):
		if (insn->prefixes & (PREFIX_REP | PREFIX_REPNE))
			return insn->op;
		/* fall through */
	case C(movs):
	case C(stos):
		return has_inline_string(cpu, insn, key) ? BT_STRING : insn->op;
	case C(pushf):
		return has_inline_flags(insn, key) ? BT_PUSHF : insn->op;
	case C(popf):
		return has_inline_flags(insn, key) ? BT_POPF : insn->op;
	}
	if (!(key & MODE_CODE64))
		return insn->op;
	switch (insn->op) {
	case C(syscall):
		return has_inline_call(cpu, key) && !(key & (MODE_CPL0 | MODE_ALIGN)) ? BT_SYSCALL : insn->op;
	case C(sysret):
		return has_inline_call(cpu, key) && (key & kernel) == kernel && insn->operand_size == 8 ? BT_SYSRET : insn->op;
	case C(rdtsc):
		return direct_tsc ? BT_RDTSC : insn->op;
	case C(rdtscp):
		return direct_tsc && cpu_model_has(cpu->model, 0x80000001, 0, 3, 27) ? BT_RDTSCP : insn->op;
	case C(rdfsbase):
	case C(rdgsbase):
		return key & MODE_FSGSBASE ? BT_READ_BASE : insn->op;
	case C(wrfsbase):
	case C(wrgsbase):
		return key & MODE_FSGSBASE ? BT_WRITE_BASE : insn->op;
	case C(mov_from_segment):
		return !insn->is_memory && insn->reg <= SEG_GS ? BT_MOV_FROM_SEGMENT : insn->op;
	}
	return insn->op;
}

const struct shape *classify(struct bt *bt, struct insn *insn, const uint8_t *bytes, uint32_t key)
{
	unsigned code_size = key & MODE_CODE64 ? 8 : key & MODE_CODE32 ? 4 : 2;
	uint8_t original = insn->opcode, equivalent[INSN_MAX_LENGTH];
	const struct shape *shape;
	uint64_t key_of_shape;
	bool rewritten = false;

	if (insn->prefixes & PREFIX_LOCK && !lockable(insn)) {
		insn->op = BT_UNDEFINED;
		return NULL;
	}
	if (names_other_memory(insn)) {
		insn->op = other_memory(bt, insn, key);
	} else if (insn->prefixes & PREFIX_VEX) {
		insn->op = BT_NATIVE;
	} else if (insn->map == 0) {
		insn->op = one_byte(insn, key);
	} else if (insn->map == 1) {
		insn->op = two_byte(insn, key);
	} else if (insn->map == 2 && insn->opcode >= 0x80 && insn->opcode <= 0x82) {
		static const unsigned invalidate[3] = { C(invept), C(invvpid), C(invpcid) };

		insn->op = insn->is_memory && insn->prefixes & PREFIX_OPSIZE ? invalidate[insn->opcode - 0x80]
									      : BT_UNDEFINED;
	} else {
		insn->op = BT_NATIVE;
	}
	/* LODS … read no flags; CS = ES in prefixes of REP are the C functions' business. */
	if (insn->op >= BT_OP)
		insn->op = inline_form(bt, insn, key);
	if (insn->op != BT_NATIVE)
		return NULL;
	if (ignores_scan_prefix(bt, insn)) {
		insn->prefixes &= ~PREFIX_REP;
		rewritten = true;
	}
	key_of_shape = shape_key(insn, code_size);
	shape = shape_find(bt->shapes, key_of_shape);
	if (!shape) {
		unsigned length = insn->length;

		if (rewritten || insn->opcode != original) {
			bytes = equivalent;
			length = encode_equivalent(insn, equivalent, code_size);
		}
		fpu_stash(bt->cpu);
		shape = shape_make(bt->shapes, key_of_shape, insn, bytes, length, code_size);
	}
	if (!shape->valid) {
		insn->op = BT_UNDEFINED;
		return NULL;
	}
	if (!unit_usable(shape, insn, key)) {
		insn->op = BT_FPU_UNAVAILABLE;
		return NULL;
	}
	return shape;
}

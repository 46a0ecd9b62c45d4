/* Integer instructions that the translator leaves to C: wide compare-exchange and decimal adjustment. */
#include "engine/soft/cpu/cpu.h"
#include "engine/soft/cpu/memory.h"
#include "engine/soft/cpu/memory_direct.h"
#include "engine/soft/cpu/ops.h"

/* ---- CMPXCHG8B and CMPXCHG16B ---- */

static inline void set_zero_flag(struct cpu *cpu, bool equal)
{
	cpu->cc_low = (cpu->cc_low & ~FLAG_ZF) | (equal ? FLAG_ZF : 0);
}

static bool host_compare_exchange_16(void *host, uint64_t *low, uint64_t *high, uint64_t new_low,
                                     uint64_t new_high)
{
	bool equal;

	__asm__ volatile("lock cmpxchg16b %[memory]"
	                 : [memory] "+m"(*(uint8_t(*)[16])host), "+a"(*low), "+d"(*high), "=@ccz"(equal)
	                 : "b"(new_low), "c"(new_high)
	                 : "memory");
	return equal;
}

static void compare_exchange_8(struct cpu *cpu, gla_t gla)
{
	uint64_t expected = (uint32_t)cpu->gpr[REG_RAX] | cpu->gpr[REG_RDX] << 32;
	uint64_t replacement = (uint32_t)cpu->gpr[REG_RBX] | cpu->gpr[REG_RCX] << 32;
	uint64_t found = expected;
	uint8_t *host = NULL;
	bool equal;

	if ((gla.v & ~PAGE_MASK) <= PAGE_SIZE - 8)
		host = mem_direct(cpu, gla, 8, ACCESS_WRITE, mem_class(cpu));
	if (host) {
		__asm__ volatile("lock cmpxchgq %[replacement], %[memory]"
		                 : [memory] "+m"(*(uint8_t(*)[8])host), "+a"(found), "=@ccz"(equal)
		                 : [replacement] "r"(replacement)
		                 : "memory");
	} else {
		/* Across pages or not RAM: written back in either case, as the processor does. */
		mem_check_write(cpu, gla, 8, mem_class(cpu));
		found = mem_read_linear(cpu, gla, 8, mem_class(cpu));
		equal = found == expected;
		mem_write_linear(cpu, gla, 8, equal ? replacement : found, mem_class(cpu));
	}
	if (!equal) {
		cpu->gpr[REG_RAX] = (uint32_t)found;
		cpu->gpr[REG_RDX] = found >> 32;
	}
	set_zero_flag(cpu, equal);
}

static void compare_exchange_16(struct cpu *cpu, gla_t gla)
{
	uint64_t low = cpu->gpr[REG_RAX], high = cpu->gpr[REG_RDX];
	uint8_t *host;
	bool equal;

	if (gla.v & 15)
		cpu_raise_error(cpu, VECTOR_GP, 0);
	host = mem_direct(cpu, gla, 16, ACCESS_WRITE, mem_class(cpu));
	if (host) {
		equal = host_compare_exchange_16(host, &low, &high, cpu->gpr[REG_RBX], cpu->gpr[REG_RCX]);
	} else {
		uint64_t value[2];

		mem_check_write(cpu, gla, 16, mem_class(cpu));
		mem_read_block(cpu, gla, value, 16, mem_class(cpu));
		equal = value[0] == low && value[1] == high;
		low = value[0];
		high = value[1];
		if (equal) {
			value[0] = cpu->gpr[REG_RBX];
			value[1] = cpu->gpr[REG_RCX];
		}
		mem_write_block(cpu, gla, value, 16, mem_class(cpu));
	}
	if (!equal) {
		cpu->gpr[REG_RAX] = low;
		cpu->gpr[REG_RDX] = high;
	}
	set_zero_flag(cpu, equal);
}

void op_cmpxchg8b(struct cpu *cpu, const struct insn *insn)
{
	unsigned size = insn->operand_size == 8 ? 16 : 8;
	uint64_t offset = operand_offset(cpu, insn);
	gla_t gla = mem_linear(cpu, insn->segment, offset, size, ACCESS_WRITE);

	if (size == 16) {
		compare_exchange_16(cpu, gla);
		return;
	}
	/* 8 bytes at CPL 3 with alignment checking. */
	if ((cpu->mode & MODE_ALIGN) && mem_class(cpu) == TLB_USER && (gla.v & 7))
		cpu_raise_error(cpu, VECTOR_AC, 0);
	compare_exchange_8(cpu, gla);
}

/* ---- decimal adjustment (SDM, Decimal Arithmetic Instructions); not in 64-bit mode ---- */

static inline uint8_t al_of(const struct cpu *cpu)
{
	return cpu->gpr[REG_RAX];
}

static inline void set_ax(struct cpu *cpu, uint16_t ax)
{
	cpu->gpr[REG_RAX] = (cpu->gpr[REG_RAX] & ~0xffffull) | ax;
}

static inline void set_al(struct cpu *cpu, uint8_t al)
{
	cpu->gpr[REG_RAX] = (cpu->gpr[REG_RAX] & ~0xffull) | al;
}

/* SF, ZF and PF of a byte with the given CF and AF; OF, where undefined, clear. */
static void set_result_flags(struct cpu *cpu, uint8_t result, bool carry, bool adjust)
{
	cpu->cc_low = 2 | (carry ? FLAG_CF : 0) | (adjust ? FLAG_AF : 0) | (result ? 0 : FLAG_ZF) |
	              (result & 0x80 ? FLAG_SF : 0) | (__builtin_parity(result) ? 0 : FLAG_PF);
	cpu->cc_of = 0;
}

void op_salc(struct cpu *cpu, const struct insn *insn)
{
	set_al(cpu, cpu->cc_low & FLAG_CF ? 0xff : 0);
}

void op_aaa(struct cpu *cpu, const struct insn *insn)
{
	uint16_t ax = cpu->gpr[REG_RAX];
	bool adjust = (ax & 0xf) > 9 || (cpu->cc_low & FLAG_AF);

	if (adjust)
		ax += 0x106;
	set_ax(cpu, ax & 0xff0f);
	set_result_flags(cpu, ax & 0xf, adjust, adjust);
}

void op_aas(struct cpu *cpu, const struct insn *insn)
{
	uint16_t ax = cpu->gpr[REG_RAX];
	bool adjust = (ax & 0xf) > 9 || (cpu->cc_low & FLAG_AF);

	if (adjust)
		ax -= 0x106;
	set_ax(cpu, ax & 0xff0f);
	set_result_flags(cpu, ax & 0xf, adjust, adjust);
}

void op_daa(struct cpu *cpu, const struct insn *insn)
{
	uint8_t al = al_of(cpu), old = al;
	bool adjust = (al & 0xf) > 9 || (cpu->cc_low & FLAG_AF);
	bool carry = old > 0x99 || (cpu->cc_low & FLAG_CF);

	if (adjust)
		al += 6;
	if (carry)
		al += 0x60;
	set_al(cpu, al);
	set_result_flags(cpu, al, carry, adjust);
}

void op_das(struct cpu *cpu, const struct insn *insn)
{
	uint8_t al = al_of(cpu), old = al;
	bool adjust = (al & 0xf) > 9 || (cpu->cc_low & FLAG_AF);
	bool high = old > 0x99 || (cpu->cc_low & FLAG_CF);
	bool carry = high || (adjust && old < 6);

	if (adjust)
		al -= 6;
	if (high)
		al -= 0x60;
	set_al(cpu, al);
	set_result_flags(cpu, al, carry, adjust);
}

void op_aam(struct cpu *cpu, const struct insn *insn)
{
	uint8_t al = al_of(cpu), divisor = insn->imm;

	if (!divisor)
		cpu_raise(cpu, VECTOR_DE);
	set_ax(cpu, (al / divisor) << 8 | al % divisor);
	set_result_flags(cpu, al % divisor, false, false);
}

void op_aad(struct cpu *cpu, const struct insn *insn)
{
	uint16_t ax = cpu->gpr[REG_RAX];
	uint8_t result = (ax & 0xff) + (ax >> 8) * (uint8_t)insn->imm;

	set_ax(cpu, result);
	set_result_flags(cpu, result, false, false);
}

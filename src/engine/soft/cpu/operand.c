/* The operands of an instruction and the stack, for instructions that are executed in C. */
#include "engine/soft/cpu/cpu.h"
#include "engine/soft/cpu/memory.h"

static inline uint64_t truncated(uint64_t value, unsigned size)
{
	return size == 8 ? value : value & ((1ull << 8 * size) - 1);
}

uint64_t operand_offset(struct cpu *cpu, const struct insn *insn)
{
	uint64_t offset = insn->displacement;

	if (insn->base == INSN_BASE_RIP)
		offset += cpu->next_rip;
	else if (insn->base != INSN_NO_REG)
		offset += cpu->gpr[insn->base & 15];
	if (insn->index != INSN_NO_REG)
		offset += cpu->gpr[insn->index & 15] << insn->scale;
	return truncated(offset, insn->address_size);
}

/* AH, CH, DH, BH: numbers 4-7 of byte operands without a REX (or VEX) prefix. */
static inline bool is_high_byte(const struct insn *insn, unsigned number, unsigned size)
{
	return size == 1 && number >= 4 && number < 8 && !(insn->prefixes & (PREFIX_REX | PREFIX_VEX));
}

uint64_t operand_register(struct cpu *cpu, const struct insn *insn, unsigned number, unsigned size)
{
	if (is_high_byte(insn, number, size))
		return cpu->gpr[number - 4] >> 8 & 0xff;
	return truncated(cpu->gpr[number & 15], size);
}

void operand_set_register(struct cpu *cpu, const struct insn *insn, unsigned number, unsigned size,
                          uint64_t value)
{
	uint64_t *reg = &cpu->gpr[number & 15];

	switch (size) {
	case 1:
		if (is_high_byte(insn, number, size))
			cpu->gpr[number - 4] = (cpu->gpr[number - 4] & ~0xff00ull) | (value & 0xff) << 8;
		else
			*reg = (*reg & ~0xffull) | (value & 0xff);
		break;
	case 2:
		*reg = (*reg & ~0xffffull) | (value & 0xffff);
		break;
	case 4:
		*reg = (uint32_t)value;
		break;
	default:
		*reg = value;
		break;
	}
}

uint64_t operand_rm(struct cpu *cpu, const struct insn *insn, unsigned size)
{
	if (!insn->is_memory)
		return operand_register(cpu, insn, insn->rm, size);
	return mem_read(cpu, insn->segment, operand_offset(cpu, insn), size);
}

void operand_set_rm(struct cpu *cpu, const struct insn *insn, unsigned size, uint64_t value)
{
	if (!insn->is_memory)
		operand_set_register(cpu, insn, insn->rm, size, value);
	else
		mem_write(cpu, insn->segment, operand_offset(cpu, insn), size, value);
}

/* ---- stack ---- */

unsigned stack_address_size(const struct cpu *cpu)
{
	if (cpu_is_64bit(cpu))
		return 8;
	return cpu->seg[SEG_SS].rights & RIGHTS_DB ? 4 : 2;
}

uint64_t stack_offset(const struct cpu *cpu, int64_t change)
{
	return truncated(cpu->gpr[REG_RSP] + change, stack_address_size(cpu));
}

void stack_set_pointer(struct cpu *cpu, uint64_t offset)
{
	switch (stack_address_size(cpu)) {
	case 2:
		cpu->gpr[REG_RSP] = (cpu->gpr[REG_RSP] & ~0xffffull) | (offset & 0xffff);
		break;
	case 4:
		cpu->gpr[REG_RSP] = (uint32_t)offset;
		break;
	default:
		cpu->gpr[REG_RSP] = offset;
		break;
	}
}

void stack_push(struct cpu *cpu, unsigned size, uint64_t value)
{
	uint64_t offset = stack_offset(cpu, -(int64_t)size);

	mem_write(cpu, SEG_SS, offset, size, value);
	stack_set_pointer(cpu, offset);
}

uint64_t stack_pop(struct cpu *cpu, unsigned size)
{
	uint64_t value = mem_read(cpu, SEG_SS, stack_offset(cpu, 0), size);

	stack_set_pointer(cpu, stack_offset(cpu, size));
	return value;
}

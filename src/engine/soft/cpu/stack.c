/*
 * Instructions of the stack and near transfers in all their forms: the translator does the common ones
 * inline, these serve stacks that are not flat, memory operands that alias the stack and modes with extra
 * rules. Everything that may fault comes before the first change of a register.
 */
#include "engine/soft/cpu/cpu.h"
#include "engine/soft/cpu/memory.h"
#include "engine/soft/cpu/ops.h"

/* PUSH, POP, ENTER, LEAVE, PUSHF and POPF have no 32-bit form in 64-bit mode. */
static inline unsigned stack_operand_size(const struct cpu *cpu, const struct insn *insn)
{
	if (cpu_is_64bit(cpu) && insn->operand_size != 2)
		return 8;
	return insn->operand_size;
}

/* Near branches in 64-bit mode ignore the operand-size prefix. */
static inline unsigned branch_size(const struct cpu *cpu, const struct insn *insn)
{
	return cpu_is_64bit(cpu) ? 8 : insn->operand_size;
}

static inline uint64_t truncated(uint64_t value, unsigned size)
{
	return size == 8 ? value : value & ((1ull << 8 * size) - 1);
}

/* ---- PUSH and POP ---- */

void op_push_segment(struct cpu *cpu, const struct insn *insn)
{
	unsigned size = stack_operand_size(cpu, insn), seg;
	uint64_t offset = stack_offset(cpu, -(int64_t)size);

	if (insn->map == 1) /* 0F A0, 0F A8 */
		seg = insn->opcode == 0xa0 ? SEG_FS : SEG_GS;
	else /* 06, 0E, 16, 1E */
		seg = insn->opcode >> 3 & 3;
	/* SDM, PUSH: with 32-bit operands today's processors write the selector only. */
	mem_write(cpu, SEG_SS, offset, size == 4 ? 2 : size, cpu->seg[seg].selector);
	stack_set_pointer(cpu, offset);
}

void op_push_imm(struct cpu *cpu, const struct insn *insn)
{
	unsigned size = stack_operand_size(cpu, insn);

	stack_push(cpu, size, truncated(insn->imm, size));
}

void op_push_reg(struct cpu *cpu, const struct insn *insn)
{
	unsigned size = stack_operand_size(cpu, insn), reg = (insn->opcode & 7) | (insn->rex & 1 ? 8 : 0);

	stack_push(cpu, size, truncated(cpu->gpr[reg], size));
}

void op_pop_reg(struct cpu *cpu, const struct insn *insn)
{
	unsigned size = stack_operand_size(cpu, insn), reg = (insn->opcode & 7) | (insn->rex & 1 ? 8 : 0);
	uint64_t value = stack_pop(cpu, size);

	/* POP rSP: the popped value wins over the increment. */
	operand_set_register(cpu, insn, reg, size, value);
}

void op_push_rm(struct cpu *cpu, const struct insn *insn)
{
	unsigned size = stack_operand_size(cpu, insn);

	stack_push(cpu, size, operand_rm(cpu, insn, size));
}

void op_pop_rm(struct cpu *cpu, const struct insn *insn)
{
	unsigned size = stack_operand_size(cpu, insn);
	uint64_t old = cpu->gpr[REG_RSP], popped, value, offset;
	gla_t target;

	value = mem_read(cpu, SEG_SS, stack_offset(cpu, 0), size);
	if (!insn->is_memory) {
		stack_set_pointer(cpu, stack_offset(cpu, size));
		operand_set_register(cpu, insn, insn->rm, size, value);
		return;
	}
	/* SDM, POP: an address based on rSP is computed after the increment. */
	stack_set_pointer(cpu, stack_offset(cpu, size));
	popped = cpu->gpr[REG_RSP];
	offset = operand_offset(cpu, insn);
	cpu->gpr[REG_RSP] = old; /* until the write has succeeded */
	target = mem_linear(cpu, insn->segment, offset, size, ACCESS_WRITE);
	mem_write_linear(cpu, target, size, value, mem_class(cpu));
	cpu->gpr[REG_RSP] = popped;
}

void op_pusha(struct cpu *cpu, const struct insn *insn)
{
	unsigned size = insn->operand_size == 2 ? 2 : 4;

	/* Every slot is checked before the first is written. */
	for (unsigned i = 1; i <= 8; i++)
		mem_check_write(
		    cpu, mem_linear(cpu, SEG_SS, stack_offset(cpu, -(int64_t)(i * size)), size, ACCESS_WRITE),
		    size, mem_class(cpu));
	for (unsigned i = 0; i < 8; i++)
		mem_write(cpu, SEG_SS, stack_offset(cpu, -(int64_t)((i + 1) * size)), size,
		          truncated(cpu->gpr[i], size));
	stack_set_pointer(cpu, stack_offset(cpu, -(int64_t)(8 * size)));
}

void op_popa(struct cpu *cpu, const struct insn *insn)
{
	unsigned size = insn->operand_size == 2 ? 2 : 4;
	uint64_t value[8], end = stack_offset(cpu, 8 * size);

	for (unsigned i = 0; i < 8; i++)
		value[i] = mem_read(cpu, SEG_SS, stack_offset(cpu, i * size), size);
	for (unsigned i = 0; i < 8; i++)
		if (7 - i != REG_RSP)
			operand_set_register(cpu, insn, 7 - i, size, value[i]);
	stack_set_pointer(cpu, end);
}

/* ---- ENTER and LEAVE ---- */

void op_enter(struct cpu *cpu, const struct insn *insn)
{
	unsigned size = stack_operand_size(cpu, insn), level = insn->imm2 & 31, pushed = 1;
	unsigned allocate = insn->imm & 0xffff, width = stack_address_size(cpu);
	uint64_t frame, offset;

	offset = stack_offset(cpu, -(int64_t)size);
	frame = offset;
	mem_write(cpu, SEG_SS, offset, size, truncated(cpu->gpr[REG_RBP], size));
	for (unsigned i = 1; i < level; i++) {
		uint64_t from = truncated(cpu->gpr[REG_RBP] - i * size, width);
		uint64_t value = mem_read(cpu, SEG_SS, from, size);

		pushed++;
		mem_write(cpu, SEG_SS, stack_offset(cpu, -(int64_t)(pushed * size)), size, value);
	}
	if (level) {
		pushed++;
		mem_write(cpu, SEG_SS, stack_offset(cpu, -(int64_t)(pushed * size)), size,
		          truncated(frame, size));
	}
	offset = stack_offset(cpu, -(int64_t)(pushed * size + allocate));
	/* SDM, ENTER: faults where a write by the final stack pointer would. */
	mem_check_write(cpu, mem_linear(cpu, SEG_SS, offset, size, ACCESS_WRITE), size, mem_class(cpu));
	operand_set_register(cpu, insn, REG_RBP, size, frame);
	stack_set_pointer(cpu, offset);
}

void op_leave(struct cpu *cpu, const struct insn *insn)
{
	unsigned size = stack_operand_size(cpu, insn), width = stack_address_size(cpu);
	uint64_t frame = truncated(cpu->gpr[REG_RBP], width);
	uint64_t value = mem_read(cpu, SEG_SS, frame, size);

	stack_set_pointer(cpu, truncated(frame + size, width));
	operand_set_register(cpu, insn, REG_RBP, size, value);
}

/* ---- PUSHF and POPF ---- */

void op_pushf(struct cpu *cpu, const struct insn *insn)
{
	unsigned size = stack_operand_size(cpu, insn);
	uint64_t flags = cpu_rflags(cpu) & ~(uint64_t)(FLAG_RF | FLAG_VM);

	if ((cpu->mode & MODE_V86) && (flags & FLAG_IOPL) != FLAG_IOPL) {
		/* SDM, Interrupt and Exception Handling in Virtual-8086 Mode: VME shows VIF as IF. */
		if (size != 2 || !(cpu->cr4 & CR4_VME))
			cpu_raise_error(cpu, VECTOR_GP, 0);
		flags &= ~(uint64_t)FLAG_IF;
		flags |= FLAG_IOPL | (flags & FLAG_VIF ? FLAG_IF : 0);
	}
	stack_push(cpu, size, truncated(flags, size));
}

void op_popf(struct cpu *cpu, const struct insn *insn)
{
	const uint64_t keyed = FLAG_TF | FLAG_AC | FLAG_IOPL;
	unsigned size = stack_operand_size(cpu, insn);
	uint64_t old = cpu_rflags(cpu), mask, value, flags;
	bool virtual_if = false;

	/* SDM, POPF, Effect of POPF/POPFD on the EFLAGS Register. */
	mask = FLAGS_ARITHMETIC | FLAG_TF | FLAG_DF | FLAG_NT;
	if (size != 2)
		mask |= FLAG_AC | FLAG_ID;
	if (cpu->mode & MODE_V86) {
		if ((old & FLAG_IOPL) == FLAG_IOPL) {
			mask |= FLAG_IF;
		} else if (size == 2 && (cpu->cr4 & CR4_VME)) {
			mask |= FLAG_VIF;
			virtual_if = true;
		} else {
			cpu_raise_error(cpu, VECTOR_GP, 0);
		}
	} else if (!(cpu->mode & MODE_PROTECTED) || cpu->cpl == 0) {
		mask |= FLAG_IF | FLAG_IOPL;
	} else if (cpu->cpl <= (old & FLAG_IOPL) >> 12) {
		mask |= FLAG_IF;
	}
	value = mem_read(cpu, SEG_SS, stack_offset(cpu, 0), size);
	if (virtual_if) {
		if ((value & FLAG_TF) || ((value & FLAG_IF) && (old & FLAG_VIP)))
			cpu_raise_error(cpu, VECTOR_GP, 0);
		value = (value & ~(uint64_t)FLAG_VIF) | (value & FLAG_IF ? FLAG_VIF : 0);
	}
	flags = ((old & ~mask) | (value & mask)) & ~(uint64_t)FLAG_RF;
	stack_set_pointer(cpu, stack_offset(cpu, size));
	cpu_set_rflags(cpu, flags);
	if ((flags ^ old) & keyed)
		cpu_update_mode(cpu);
	if ((flags ^ old) & (FLAG_IF | FLAG_TF | FLAG_AC))
		cpu_poll_soon(cpu);
}

/* ---- near transfers ---- */

/* The target truncated to the operand size, checked against CS: canonical in 64-bit mode, else the limit. */
static uint64_t branch_target(struct cpu *cpu, uint64_t target, unsigned size)
{
	if (cpu_is_64bit(cpu)) {
		if ((uint64_t)((int64_t)(target << 16) >> 16) != target)
			cpu_raise_error(cpu, VECTOR_GP, 0);
		return target;
	}
	target = truncated(target, size == 2 ? 2 : 4);
	if (target > cpu->seg[SEG_CS].limit)
		cpu_raise_error(cpu, VECTOR_GP, 0);
	return target;
}

static void call_near(struct cpu *cpu, uint64_t target, unsigned size)
{
	target = branch_target(cpu, target, size);
	stack_push(cpu, size, truncated(cpu->next_rip, size));
	cpu->next_rip = target;
}

void op_call_near(struct cpu *cpu, const struct insn *insn)
{
	call_near(cpu, cpu->next_rip + insn->imm, branch_size(cpu, insn));
}

void op_call_near_rm(struct cpu *cpu, const struct insn *insn)
{
	unsigned size = branch_size(cpu, insn);

	call_near(cpu, operand_rm(cpu, insn, size), size);
}

void op_jmp_near_rm(struct cpu *cpu, const struct insn *insn)
{
	unsigned size = branch_size(cpu, insn);

	cpu->next_rip = branch_target(cpu, operand_rm(cpu, insn, size), size);
}

static void ret_near(struct cpu *cpu, unsigned size, unsigned release)
{
	uint64_t target = mem_read(cpu, SEG_SS, stack_offset(cpu, 0), size);

	target = branch_target(cpu, target, size);
	stack_set_pointer(cpu, stack_offset(cpu, size + release));
	cpu->next_rip = target;
}

void op_ret_near(struct cpu *cpu, const struct insn *insn)
{
	ret_near(cpu, branch_size(cpu, insn), 0);
}

void op_ret_near_imm(struct cpu *cpu, const struct insn *insn)
{
	ret_near(cpu, branch_size(cpu, insn), insn->imm & 0xffff);
}

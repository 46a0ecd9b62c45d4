/* Fast system calls, as Intel's processors do them, and the FS and GS bases. */
#include "engine/soft/cpu/descriptor.h"
#include "engine/soft/cpu/ops.h"

static void load_flat(struct cpu *cpu, uint16_t cs, uint16_t ss, bool code64, unsigned cpl)
{
	cpu->seg[SEG_CS] = (struct segment){
	    .limit = UINT32_MAX, .rights = code64 ? RIGHTS_FLAT_CODE64(cpl) : RIGHTS_FLAT_CODE32(cpl), .selector = cs};
	cpu->seg[SEG_SS] =
	    (struct segment){.limit = UINT32_MAX, .rights = RIGHTS_FLAT_DATA32(cpl), .selector = ss};
	cpu->cpl = cpl;
}

void op_syscall(struct cpu *cpu, const struct insn *insn)
{
	uint64_t flags = cpu_rflags(cpu);
	uint16_t selector = (cpu->msr.star >> 32) & 0xfffc;

	if (!cpu_is_64bit(cpu) || !(cpu->efer & EFER_SCE))
		cpu_raise(cpu, VECTOR_UD);
	cpu->gpr[REG_RCX] = cpu->next_rip;
	cpu->gpr[REG_R11] = flags;
	cpu_set_rflags(cpu, flags & ~(cpu->msr.sfmask | FLAG_RF));
	cpu->step_recheck = (flags | cpu_rflags(cpu)) & FLAG_TF;
	cpu->next_rip = cpu->msr.lstar;
	load_flat(cpu, selector, selector + 8, true, 0);
	cpu_update_mode(cpu);
}

void op_sysret(struct cpu *cpu, const struct insn *insn)
{
	bool code64 = insn->operand_size == 8;
	uint16_t selector = (cpu->msr.star >> 48) | 3;

	if (!cpu_is_64bit(cpu) || !(cpu->efer & EFER_SCE))
		cpu_raise(cpu, VECTOR_UD);
	/* SDM, SYSRET: the check comes before the privilege level changes, so the fault is the kernel's. */
	if (cpu->cpl != 0 || (code64 && !is_canonical(cpu->gpr[REG_RCX])))
		cpu_raise_error(cpu, VECTOR_GP, 0);
	cpu->next_rip = code64 ? cpu->gpr[REG_RCX] : (uint32_t)cpu->gpr[REG_RCX];
	cpu->step_recheck = (cpu->rflags_system | cpu->gpr[REG_R11]) & FLAG_TF;
	cpu_set_rflags(cpu, (cpu->gpr[REG_R11] & 0x3c7fd7) | 2);
	load_flat(cpu, code64 ? (uint16_t)(selector + 16) | 3 : selector, (uint16_t)(selector + 8) | 3,
	          code64, 3);
	cpu_update_mode(cpu);
	cpu_interrupts_enabled(cpu);
}

void op_sysenter(struct cpu *cpu, const struct insn *insn)
{
	uint16_t selector = cpu->msr.sysenter_cs & 0xfffc;
	bool long_mode = cpu_is_long(cpu);

	if (!(cpu->cr0 & CR0_PE) || !selector)
		cpu_raise_error(cpu, VECTOR_GP, 0);
	cpu->rflags_system &= ~(uint64_t)(FLAG_VM | FLAG_IF | FLAG_RF);
	cpu->gpr[REG_RSP] = long_mode ? cpu->msr.sysenter_esp : (uint32_t)cpu->msr.sysenter_esp;
	cpu->next_rip = long_mode ? cpu->msr.sysenter_eip : (uint32_t)cpu->msr.sysenter_eip;
	load_flat(cpu, selector, selector + 8, long_mode, 0);
	cpu_update_mode(cpu);
}

void op_sysexit(struct cpu *cpu, const struct insn *insn)
{
	bool code64 = insn->operand_size == 8;
	uint16_t selector = cpu->msr.sysenter_cs & 0xfffc;
	uint64_t rip = cpu->gpr[REG_RDX], rsp = cpu->gpr[REG_RCX];

	if (!selector || !(cpu->mode & MODE_PROTECTED) || cpu->cpl != 0)
		cpu_raise_error(cpu, VECTOR_GP, 0);
	if (code64 && (!is_canonical(rip) || !is_canonical(rsp)))
		cpu_raise_error(cpu, VECTOR_GP, 0);
	cpu->next_rip = code64 ? rip : (uint32_t)rip;
	cpu->gpr[REG_RSP] = code64 ? rsp : (uint32_t)rsp;
	selector = (selector + (code64 ? 32 : 16)) | 3;
	load_flat(cpu, selector, selector + 8, code64, 3);
	cpu_update_mode(cpu);
}

void op_swapgs(struct cpu *cpu, const struct insn *insn)
{
	uint64_t base = cpu->seg[SEG_GS].base;

	if (!cpu_is_64bit(cpu))
		cpu_raise(cpu, VECTOR_UD);
	if (cpu->cpl != 0)
		cpu_raise_error(cpu, VECTOR_GP, 0);
	cpu->seg[SEG_GS].base = cpu->msr.kernel_gs_base;
	cpu->msr.kernel_gs_base = base;
}

static void check_fsgsbase(struct cpu *cpu)
{
	if (!cpu_is_64bit(cpu) || !(cpu->cr4 & CR4_FSGSBASE))
		cpu_raise(cpu, VECTOR_UD);
}

static void read_base(struct cpu *cpu, const struct insn *insn, unsigned index)
{
	check_fsgsbase(cpu);
	operand_set_register(cpu, insn, insn->rm, insn->operand_size == 8 ? 8 : 4, cpu->seg[index].base);
}

static void write_base(struct cpu *cpu, const struct insn *insn, unsigned index)
{
	uint64_t base;

	check_fsgsbase(cpu);
	base = operand_register(cpu, insn, insn->rm, insn->operand_size == 8 ? 8 : 4);
	if (!is_canonical(base))
		cpu_raise_error(cpu, VECTOR_GP, 0);
	cpu->seg[index].base = base;
}

void op_rdfsbase(struct cpu *cpu, const struct insn *insn)
{
	read_base(cpu, insn, SEG_FS);
}

void op_rdgsbase(struct cpu *cpu, const struct insn *insn)
{
	read_base(cpu, insn, SEG_GS);
}

void op_wrfsbase(struct cpu *cpu, const struct insn *insn)
{
	write_base(cpu, insn, SEG_FS);
}

void op_wrgsbase(struct cpu *cpu, const struct insn *insn)
{
	write_base(cpu, insn, SEG_GS);
}

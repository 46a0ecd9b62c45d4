/* CLI and STI with the virtual interrupt flag of VME and PVI; CLAC and STAC. */
#include "engine/soft/cpu/ops.h"

enum if_access { IF_REAL, IF_VIRTUAL };

/* SDM, CLI and STI: which flag the instruction works on, or #GP(0). */
static enum if_access interrupt_flag_access(struct cpu *cpu)
{
	if (!(cpu->cr0 & CR0_PE) || (cpu->mode & MODE_IOPL_OK))
		return IF_REAL;
	if (cpu->mode & MODE_V86 ? cpu->cr4 & CR4_VME : cpu->cpl == 3 && (cpu->cr4 & CR4_PVI))
		return IF_VIRTUAL;
	cpu_raise_error(cpu, VECTOR_GP, 0);
}

void op_cli(struct cpu *cpu, const struct insn *insn)
{
	if (interrupt_flag_access(cpu) == IF_REAL)
		cpu->rflags_system &= ~(uint64_t)FLAG_IF;
	else
		cpu->rflags_system &= ~(uint64_t)FLAG_VIF;
}

void op_sti(struct cpu *cpu, const struct insn *insn)
{
	if (interrupt_flag_access(cpu) == IF_VIRTUAL) {
		if (cpu->rflags_system & FLAG_VIP)
			cpu_raise_error(cpu, VECTOR_GP, 0);
		cpu->rflags_system |= FLAG_VIF;
		return;
	}
	if (!(cpu->rflags_system & FLAG_IF)) {
		cpu->rflags_system |= FLAG_IF;
		cpu->shadow |= SHADOW_STI;
	}
	cpu_interrupts_enabled(cpu);
}

static void set_ac(struct cpu *cpu, bool value)
{
	if (cpu->cpl != 0 || (cpu->mode & MODE_V86))
		cpu_raise(cpu, VECTOR_UD);
	if (value)
		cpu->rflags_system |= FLAG_AC;
	else
		cpu->rflags_system &= ~(uint64_t)FLAG_AC;
	cpu_update_mode(cpu);
}

void op_clac(struct cpu *cpu, const struct insn *insn)
{
	set_ac(cpu, false);
}

void op_stac(struct cpu *cpu, const struct insn *insn)
{
	set_ac(cpu, true);
}

/* CPUID, MSRs, the TSC and random numbers: the instructions. */
#include "engine/soft/cpu/apic.h"
#include "engine/soft/cpu/fpu.h"
#include "engine/soft/cpu/host_call.h"
#include "engine/soft/cpu/hot.h"
#include "engine/soft/cpu/memory.h"
#include "engine/soft/cpu/msr.h"
#include "engine/soft/cpu/ops.h"

#define APIC_BASE_EN (1u << 11)

static void intercept(struct cpu *cpu, enum intercept what, uint64_t info, const struct insn *insn)
{
	if (cpu->virt)
		cpu->virt->instruction(cpu, what, info, insn);
}

/* ---- CPUID ---- */

/* What depends on the vCPU and its registers (SDM, CPUID). */
static void add_dynamic(struct cpu *cpu, uint32_t leaf, uint32_t subleaf, uint32_t out[4])
{
	switch (leaf) {
	case 1:
		out[1] |= cpu->index << 24;
		if (cpu->cr4 & CR4_OSXSAVE)
			out[2] |= 1u << 27;
		if (!(cpu->msr.apic_base & APIC_BASE_EN))
			out[3] &= ~(1u << 9);
		break;
	case 0xb:
		out[3] = cpu->index;
		break;
	case 0xd:
		if (subleaf > 1 || !out[0])
			break;
		/* Sizes for what is enabled now; both formats need the same, as AVX is the only extension. */
		out[1] = cpu->xcr0 & XSTATE_AVX ? FPU_AREA_SIZE : XSAVE_EXTENDED;
		break;
	case 0x80000001:
		/* SYSCALL exists in 64-bit mode only, and elsewhere is not announced either. */
		if (!(cpu->mode & MODE_CODE64))
			out[3] &= ~(1u << 11);
		break;
	}
}

void op_cpuid(struct cpu *cpu, const struct insn *insn)
{
	uint32_t leaf = (uint32_t)cpu->gpr[REG_RAX], subleaf = (uint32_t)cpu->gpr[REG_RCX], out[4];

	intercept(cpu, INTERCEPT_CPUID, 0, insn);
	cpu_model_cpuid(cpu->model, leaf, subleaf, out);
	add_dynamic(cpu, leaf, subleaf, out);
	cpu->gpr[REG_RAX] = out[0];
	cpu->gpr[REG_RBX] = out[1];
	cpu->gpr[REG_RCX] = out[2];
	cpu->gpr[REG_RDX] = out[3];
}

/* ---- MSRs ---- */

static void trace_msr(struct cpu *cpu, const char *what, uint32_t msr, uint64_t value, bool done)
{
	if (cpu->trace & ENGINE_TRACE_MSR)
		cpu_trace(cpu, "%s %08x %016llx%s at %llx", what, msr, (unsigned long long)value,
		          done ? "" : " #GP", (unsigned long long)cpu->rip);
}

void op_rdmsr(struct cpu *cpu, const struct insn *insn)
{
	uint32_t msr = (uint32_t)cpu->gpr[REG_RCX];
	uint64_t value = 0;
	bool done;

	if (cpu->cpl)
		cpu_raise_error(cpu, VECTOR_GP, 0);
	intercept(cpu, INTERCEPT_RDMSR, msr, insn);
	done = (cpu->virt && cpu->virt->read_msr(cpu, msr, &value)) || msr_read(cpu, msr, &value);
	trace_msr(cpu, "rdmsr", msr, value, done);
	if (!done)
		cpu_raise_error(cpu, VECTOR_GP, 0);
	cpu->gpr[REG_RAX] = (uint32_t)value;
	cpu->gpr[REG_RDX] = value >> 32;
}

void op_wrmsr(struct cpu *cpu, const struct insn *insn)
{
	uint32_t msr = (uint32_t)cpu->gpr[REG_RCX];
	uint64_t value = (uint32_t)cpu->gpr[REG_RAX] | cpu->gpr[REG_RDX] << 32;
	bool done;

	if (cpu->cpl)
		cpu_raise_error(cpu, VECTOR_GP, 0);
	intercept(cpu, INTERCEPT_WRMSR, msr, insn);
	done = (cpu->virt && cpu->virt->write_msr(cpu, msr, value)) || msr_write(cpu, msr, value);
	trace_msr(cpu, "wrmsr", msr, value, done);
	if (!done)
		cpu_raise_error(cpu, VECTOR_GP, 0);
}

/* ---- time ---- */

static void read_time_stamp(struct cpu *cpu)
{
	uint64_t tsc = cpu_tsc(cpu);

	if (cpu->virt)
		tsc = cpu->virt->guest_tsc(cpu, tsc);
	cpu->gpr[REG_RAX] = (uint32_t)tsc;
	cpu->gpr[REG_RDX] = tsc >> 32;
}

void op_rdtsc(struct cpu *cpu, const struct insn *insn)
{
	if (cpu->cr4 & CR4_TSD && cpu->cpl)
		cpu_raise_error(cpu, VECTOR_GP, 0);
	intercept(cpu, INTERCEPT_RDTSC, 0, insn);
	read_time_stamp(cpu);
}

void op_rdtscp(struct cpu *cpu, const struct insn *insn)
{
	if (!cpu_model_has(cpu->model, 0x80000001, 0, 3, 27))
		cpu_raise(cpu, VECTOR_UD);
	if (cpu->cr4 & CR4_TSD && cpu->cpl)
		cpu_raise_error(cpu, VECTOR_GP, 0);
	intercept(cpu, INTERCEPT_RDTSCP, 0, insn);
	read_time_stamp(cpu);
	cpu->gpr[REG_RCX] = (uint32_t)cpu->msr.tsc_aux;
}

void op_rdpmc(struct cpu *cpu, const struct insn *insn)
{
	if (!(cpu->cr4 & CR4_PCE) && cpu->cpl)
		cpu_raise_error(cpu, VECTOR_GP, 0);
	intercept(cpu, INTERCEPT_RDPMC, 0, insn);
	/* There are no counters, so every number is out of range. */
	cpu_raise_error(cpu, VECTOR_GP, 0);
}

void op_rdpid(struct cpu *cpu, const struct insn *insn)
{
	if (!cpu_model_has(cpu->model, 7, 0, 2, 22) || insn->is_memory)
		cpu_raise(cpu, VECTOR_UD);
	/* The operand is 64 bits in 64-bit mode, else 32, whatever the prefixes. */
	operand_set_register(cpu, insn, insn->rm, cpu_is_64bit(cpu) ? 8 : 4, cpu->msr.tsc_aux);
}

/* ---- random numbers ---- */

static void random_number(struct cpu *cpu, const struct insn *insn)
{
	uint64_t value = 0;
	bool got = cpu_host_random(cpu, &value);

	operand_set_register(cpu, insn, insn->rm, insn->operand_size, got ? value : 0);
	cpu_set_arithmetic(cpu, FLAGS_ARITHMETIC, got ? FLAG_CF : 0);
}

void op_rdrand(struct cpu *cpu, const struct insn *insn)
{
	if (!cpu_model_has(cpu->model, 1, 0, 2, 30) || insn->is_memory)
		cpu_raise(cpu, VECTOR_UD);
	intercept(cpu, INTERCEPT_RDRAND, 0, insn);
	random_number(cpu, insn);
}

void op_rdseed(struct cpu *cpu, const struct insn *insn)
{
	if (!cpu_model_has(cpu->model, 7, 0, 1, 18) || insn->is_memory)
		cpu_raise(cpu, VECTOR_UD);
	intercept(cpu, INTERCEPT_RDSEED, 0, insn);
	random_number(cpu, insn);
}

/* ---- what is not there ---- */

/* CR4.SMXE cannot be set, and without it GETSEC is undefined. */
void op_getsec(struct cpu *cpu, const struct insn *insn)
{
	cpu_raise(cpu, VECTOR_UD);
}

/* Undefined outside system-management mode. */
void op_rsm(struct cpu *cpu, const struct insn *insn)
{
	cpu_raise(cpu, VECTOR_UD);
}

void op_ud(struct cpu *cpu, const struct insn *insn)
{
	cpu_raise(cpu, VECTOR_UD);
}

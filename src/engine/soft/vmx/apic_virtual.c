/*
 * APIC virtualization as far as it is announced: the APIC-access page, the TPR shadow through memory-mapped
 * accesses, CR8 and (in x2APIC mode) MSR 808H, and the TPR threshold (SDM, APIC Virtualization and Virtual
 * Interrupts).
 */
#include "engine/soft/vmx/vmx_local.h"

#define APIC_TPR       0x80
#define MSR_X2APIC_TPR 0x808
#define MSR_TSC        0x10

/* Access types in bits 15:12 of the exit qualification. */
enum apic_access_type {
	APIC_LINEAR_READ = 0,
	APIC_LINEAR_WRITE = 1,
	APIC_LINEAR_FETCH = 2,
	APIC_LINEAR_DELIVERY = 3
};

uint8_t vmx_virtual_tpr(struct cpu *cpu)
{
	const struct vmx_runtime *rt = vmx_runtime(cpu);

	if (rt->virtual_apic)
		return rt->virtual_apic[APIC_TPR];
	return phys_read(cpu, GPA(running(cpu, VMCS_VIRTUAL_APIC_ADDRESS) + APIC_TPR), 1);
}

bool vmx_tpr_below_threshold(struct cpu *cpu)
{
	return vmx_virtual_tpr(cpu) >> 4 < (running(cpu, VMCS_TPR_THRESHOLD) & 0xf);
}

/* SDM, TPR Virtualization, without virtual-interrupt delivery: an exit behind the instruction. */
static void tpr_virtualization(struct cpu *cpu)
{
	if (vmx_tpr_below_threshold(cpu)) {
		vmx_runtime(cpu)->tpr_exit = true;
		cpu_poll_soon(cpu);
	}
}

void vmx_set_virtual_tpr(struct cpu *cpu, uint32_t value)
{
	phys_write(cpu, GPA(running(cpu, VMCS_VIRTUAL_APIC_ADDRESS) + APIC_TPR), 4, value);
	tpr_virtualization(cpu);
}

/* ---- memory-mapped accesses (SDM, Virtualizing Memory-Mapped APIC Accesses) ---- */

static _Noreturn void exit_apic_access(struct cpu *cpu, gpa_t l2_gpa, enum mem_access access)
{
	static const uint8_t type_of[] = {
	    [ACCESS_READ] = APIC_LINEAR_READ,
	    [ACCESS_WRITE] = APIC_LINEAR_WRITE,
	    [ACCESS_FETCH] = APIC_LINEAR_FETCH,
	};
	enum apic_access_type type = cpu->delivering.valid ? APIC_LINEAR_DELIVERY : type_of[access];

	vmx_exit_full(cpu, &(struct vmx_exit_record){
	                       .reason = EXIT_REASON_APIC_ACCESS,
	                       .qualification = (l2_gpa.v & ~PAGE_MASK) | (uint64_t)type << 12,
	                       .instruction_length = type < APIC_LINEAR_FETCH ? insn_length_at_rip(cpu) : 0,
	                   });
}

bool vmx_apic_access(struct cpu *cpu, gpa_t l2_gpa, unsigned size, enum mem_access access, uint64_t *value)
{
	unsigned offset = l2_gpa.v & ~PAGE_MASK;
	bool tpr = (vmx_runtime(cpu)->primary & CPU_USE_TPR_SHADOW) && offset == APIC_TPR && size <= 4;

	if (!tpr || access == ACCESS_FETCH || cpu->delivering.valid)
		exit_apic_access(cpu, l2_gpa, access);
	if (access == ACCESS_READ) {
		*value = phys_read(cpu, GPA(running(cpu, VMCS_VIRTUAL_APIC_ADDRESS) + APIC_TPR), size);
	} else {
		phys_write(cpu, GPA(running(cpu, VMCS_VIRTUAL_APIC_ADDRESS) + APIC_TPR), size, *value);
		tpr_virtualization(cpu);
	}
	return true;
}

/* ---- MSRs (SDM, Virtualizing MSR-Based APIC Accesses; Use of TSC offsetting) ---- */

static bool virtualizes_tpr_msr(struct cpu *cpu, uint32_t msr)
{
	const struct vmx_runtime *rt = vmx_runtime(cpu);

	return msr == MSR_X2APIC_TPR && (rt->secondary & CPU2_VIRTUALIZE_X2APIC_MODE) &&
	       (rt->primary & CPU_USE_TPR_SHADOW);
}

bool vmx_virtual_read_msr(struct cpu *cpu, uint32_t msr, uint64_t *value)
{
	if (msr == MSR_TSC) {
		*value = cpu->virt->guest_tsc(cpu, cpu_tsc(cpu));
		return true;
	}
	if (!virtualizes_tpr_msr(cpu, msr))
		return false;
	*value = phys_read(cpu, GPA(running(cpu, VMCS_VIRTUAL_APIC_ADDRESS) + APIC_TPR), 8);
	return true;
}

bool vmx_virtual_write_msr(struct cpu *cpu, uint32_t msr, uint64_t value)
{
	if (!virtualizes_tpr_msr(cpu, msr))
		return false;
	if (value >> 8)
		cpu_raise_error(cpu, VECTOR_GP, 0);
	phys_write(cpu, GPA(running(cpu, VMCS_VIRTUAL_APIC_ADDRESS) + APIC_TPR), 8, value);
	tpr_virtualization(cpu);
	return true;
}

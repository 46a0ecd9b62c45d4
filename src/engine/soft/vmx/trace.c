/* --trace vmx: VM entries and exits in words. Cold: prints, and is called with the guest's FPU state put
 * away. */
#include <stdio.h>
#include <string.h>

#include "engine/soft/vmx/vmx_local.h"

static const char *const reason_names[] = {
    [EXIT_REASON_EXCEPTION_OR_NMI] = "exception or NMI",
    [EXIT_REASON_EXTERNAL_INTERRUPT] = "external interrupt",
    [EXIT_REASON_TRIPLE_FAULT] = "triple fault",
    [EXIT_REASON_INIT] = "INIT signal",
    [EXIT_REASON_SIPI] = "start-up IPI",
    [EXIT_REASON_IO_SMI] = "I/O SMI",
    [EXIT_REASON_OTHER_SMI] = "other SMI",
    [EXIT_REASON_INTERRUPT_WINDOW] = "interrupt window",
    [EXIT_REASON_NMI_WINDOW] = "NMI window",
    [EXIT_REASON_TASK_SWITCH] = "task switch",
    [EXIT_REASON_CPUID] = "CPUID",
    [EXIT_REASON_GETSEC] = "GETSEC",
    [EXIT_REASON_HLT] = "HLT",
    [EXIT_REASON_INVD] = "INVD",
    [EXIT_REASON_INVLPG] = "INVLPG",
    [EXIT_REASON_RDPMC] = "RDPMC",
    [EXIT_REASON_RDTSC] = "RDTSC",
    [EXIT_REASON_RSM] = "RSM",
    [EXIT_REASON_VMCALL] = "VMCALL",
    [EXIT_REASON_VMCLEAR] = "VMCLEAR",
    [EXIT_REASON_VMLAUNCH] = "VMLAUNCH",
    [EXIT_REASON_VMPTRLD] = "VMPTRLD",
    [EXIT_REASON_VMPTRST] = "VMPTRST",
    [EXIT_REASON_VMREAD] = "VMREAD",
    [EXIT_REASON_VMRESUME] = "VMRESUME",
    [EXIT_REASON_VMWRITE] = "VMWRITE",
    [EXIT_REASON_VMXOFF] = "VMXOFF",
    [EXIT_REASON_VMXON] = "VMXON",
    [EXIT_REASON_CR_ACCESS] = "control-register access",
    [EXIT_REASON_MOV_DR] = "MOV DR",
    [EXIT_REASON_IO_INSTRUCTION] = "I/O instruction",
    [EXIT_REASON_RDMSR] = "RDMSR",
    [EXIT_REASON_WRMSR] = "WRMSR",
    [EXIT_REASON_ENTRY_INVALID_GUEST_STATE] = "invalid guest state",
    [EXIT_REASON_ENTRY_MSR_LOADING] = "MSR loading",
    [EXIT_REASON_MWAIT] = "MWAIT",
    [EXIT_REASON_MONITOR_TRAP_FLAG] = "monitor trap flag",
    [EXIT_REASON_MONITOR] = "MONITOR",
    [EXIT_REASON_PAUSE] = "PAUSE",
    [EXIT_REASON_ENTRY_MACHINE_CHECK] = "machine check during entry",
    [EXIT_REASON_TPR_BELOW_THRESHOLD] = "TPR below threshold",
    [EXIT_REASON_APIC_ACCESS] = "APIC access",
    [EXIT_REASON_VIRTUALIZED_EOI] = "virtualized EOI",
    [EXIT_REASON_GDTR_IDTR] = "GDTR or IDTR access",
    [EXIT_REASON_LDTR_TR] = "LDTR or TR access",
    [EXIT_REASON_EPT_VIOLATION] = "EPT violation",
    [EXIT_REASON_EPT_MISCONFIGURATION] = "EPT misconfiguration",
    [EXIT_REASON_INVEPT] = "INVEPT",
    [EXIT_REASON_RDTSCP] = "RDTSCP",
    [EXIT_REASON_PREEMPTION_TIMER] = "preemption timer",
    [EXIT_REASON_INVVPID] = "INVVPID",
    [EXIT_REASON_WBINVD] = "WBINVD",
    [EXIT_REASON_XSETBV] = "XSETBV",
    [EXIT_REASON_APIC_WRITE] = "APIC write",
    [EXIT_REASON_RDRAND] = "RDRAND",
    [EXIT_REASON_INVPCID] = "INVPCID",
    [EXIT_REASON_VMFUNC] = "VMFUNC",
    [EXIT_REASON_ENCLS] = "ENCLS",
    [EXIT_REASON_RDSEED] = "RDSEED",
    [EXIT_REASON_PML_FULL] = "page-modification log full",
    [EXIT_REASON_XSAVES] = "XSAVES",
    [EXIT_REASON_XRSTORS] = "XRSTORS",
};

static const char *const register_names[] = {
    "rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi",
    "r8",  "r9",  "r10", "r11", "r12", "r13", "r14", "r15",
};

static const char *const event_type_names[] = {
    "external interrupt", "type 1", "NMI", "exception", "INT n", "INT1", "software exception", "other event",
};

const char *vmx_exit_reason_name(uint32_t reason)
{
	reason &= 0xffff;
	if (reason >= sizeof reason_names / sizeof *reason_names || !reason_names[reason])
		return "unknown reason";
	return reason_names[reason];
}

/* Interruption or vectoring information in words; an empty string where it is not valid. */
static void describe_event(char *text, size_t size, const char *label, uint32_t information, uint32_t error)
{
	int length;

	*text = 0;
	if (!(information & INTERRUPTION_VALID))
		return;
	length = snprintf(text, size, ", %s: %s %u", label, event_type_names[INTERRUPTION_TYPE(information)],
	                  INTERRUPTION_VECTOR(information));
	if ((information & INTERRUPTION_ERROR_CODE) && length > 0 && (size_t)length < size)
		snprintf(text + length, size - length, " error %#x", error);
}

static void describe_cr_access(char *text, size_t size, uint64_t q)
{
	static const char *const access[] = {"write of", "read of", "CLTS on", "LMSW on"};
	unsigned type = q >> 4 & 3;

	if (type < 2)
		snprintf(text, size, " (%s cr%u, %s)", access[type], (unsigned)q & 15,
		         register_names[q >> 8 & 15]);
	else
		snprintf(text, size, " (%s cr%u, source %#x)", access[type], (unsigned)q & 15,
		         (unsigned)(q >> 16) & 0xffff);
}

static void describe_io(char *text, size_t size, uint64_t q)
{
	snprintf(text, size, " (%s%s%s port %#x, %u bytes)", q & 1 << 5 ? "rep " : "",
	         q & 1 << 3 ? "in" : "out", q & 1 << 4 ? "s" : "", (unsigned)(q >> 16) & 0xffff,
	         ((unsigned)q & 7) + 1);
}

static void describe_violation(char *text, size_t size, const struct vmcs *vmcs, uint64_t q)
{
	snprintf(text, size, " (%s%s%sof %#llx, page allows %s%s%s, %s %#llx)", q & 1 ? "read " : "",
	         q & 2 ? "write " : "", q & 4 ? "fetch " : "",
	         (unsigned long long)vmcs_get(vmcs, VMCS_GUEST_PHYSICAL_ADDRESS), q & 8 ? "r" : "-",
	         q & 16 ? "w" : "-", q & 32 ? "x" : "-", q & 1 << 8 ? "at linear" : "walking for linear",
	         (unsigned long long)vmcs_get(vmcs, VMCS_GUEST_LINEAR_ADDRESS));
}

static void describe_msr(char *text, size_t size, const struct cpu *cpu)
{
	snprintf(text, size, " (msr %#x)", (unsigned)cpu->gpr[REG_RCX]);
}

static void describe_qualification(char *text, size_t size, const struct cpu *cpu, const struct vmcs *vmcs)
{
	uint64_t q = vmcs_get(vmcs, VMCS_EXIT_QUALIFICATION);

	*text = 0;
	switch (vmcs_get(vmcs, VMCS_EXIT_REASON) & 0xffff) {
	case EXIT_REASON_CR_ACCESS:
		describe_cr_access(text, size, q);
		break;
	case EXIT_REASON_IO_INSTRUCTION:
		describe_io(text, size, q);
		break;
	case EXIT_REASON_EPT_VIOLATION:
		describe_violation(text, size, vmcs, q);
		break;
	case EXIT_REASON_EPT_MISCONFIGURATION:
		snprintf(text, size, " (at %#llx)",
		         (unsigned long long)vmcs_get(vmcs, VMCS_GUEST_PHYSICAL_ADDRESS));
		break;
	case EXIT_REASON_RDMSR:
	case EXIT_REASON_WRMSR:
		describe_msr(text, size, cpu);
		break;
	case EXIT_REASON_CPUID:
		snprintf(text, size, " (leaf %#x.%u)", (unsigned)cpu->gpr[REG_RAX],
		         (unsigned)cpu->gpr[REG_RCX]);
		break;
	case EXIT_REASON_APIC_ACCESS:
		snprintf(text, size, " (offset %#x, %s)", (unsigned)q & 0xfff,
		         (q >> 12 & 15) == 0   ? "read"
		         : (q >> 12 & 15) == 1 ? "write"
		         : (q >> 12 & 15) == 2 ? "fetch"
		                               : "event delivery");
		break;
	case EXIT_REASON_TASK_SWITCH:
		snprintf(text, size, " (to TSS %#x by %s)", (unsigned)q & 0xffff,
		         (const char *const[]){"CALL", "IRET", "JMP", "task gate"}[q >> 30 & 3]);
		break;
	default:
		if (q)
			snprintf(text, size, " (qualification %#llx)", (unsigned long long)q);
	}
}

void vmx_trace_entry(struct cpu *cpu, bool launch)
{
	const struct vmcs *vmcs = vmx_runtime(cpu)->vmcs;
	uint32_t information = vmcs_get(vmcs, VMCS_VM_ENTRY_INTERRUPTION_INFORMATION);
	char injected[96];

	describe_event(injected, sizeof injected, "injecting", information,
	               vmcs_get(vmcs, VMCS_VM_ENTRY_EXCEPTION_ERROR_CODE));
	cpu_trace(cpu, "VM entry (%s) VMCS %#llx to rip %#llx cr3 %#llx cpl %u%s%s",
	          launch ? "launch" : "resume", (unsigned long long)vmcs->gpa.v, (unsigned long long)cpu->rip,
	          (unsigned long long)cpu->cr3, cpu->cpl, cpu->activity == ACTIVITY_HLT ? ", halted" : "",
	          injected);
}

void vmx_trace_exit(struct cpu *cpu)
{
	const struct vmcs *vmcs = vmx_runtime(cpu)->vmcs;
	uint32_t reason = vmcs_get(vmcs, VMCS_EXIT_REASON);
	char qualification[128], event[96], vectoring[96];

	describe_qualification(qualification, sizeof qualification, cpu, vmcs);
	describe_event(event, sizeof event, "by", vmcs_get(vmcs, VMCS_VM_EXIT_INTERRUPTION_INFORMATION),
	               vmcs_get(vmcs, VMCS_VM_EXIT_INTERRUPTION_ERROR_CODE));
	describe_event(vectoring, sizeof vectoring, "delivering",
	               vmcs_get(vmcs, VMCS_IDT_VECTORING_INFORMATION),
	               vmcs_get(vmcs, VMCS_IDT_VECTORING_ERROR_CODE));
	cpu_trace(cpu, "VM exit %u %s%s at rip %#llx%s%s, length %u", reason & 0xffff,
	          vmx_exit_reason_name(reason), qualification, (unsigned long long)cpu->rip, event, vectoring,
	          (unsigned)vmcs_get(vmcs, VMCS_VM_EXIT_INSTRUCTION_LENGTH));
}

/*
 * Names for the bits of VMX controls, exit reasons, and the formats of VMX data: the SDM's tables as constants.
 */
#ifndef NESTOR_VMX_CONTROLS_H
#define NESTOR_VMX_CONTROLS_H

#include <stdint.h>

/* SDM, Pin-Based VM-Execution Controls */
#define PIN_EXTERNAL_INTERRUPT_EXITING (1u << 0)
#define PIN_NMI_EXITING                (1u << 3)
#define PIN_VIRTUAL_NMIS               (1u << 5)
#define PIN_ACTIVATE_PREEMPTION_TIMER  (1u << 6)
#define PIN_PROCESS_POSTED_INTERRUPTS  (1u << 7)

/* SDM, Primary Processor-Based VM-Execution Controls */
#define CPU_INTERRUPT_WINDOW_EXITING    (1u << 2)
#define CPU_USE_TSC_OFFSETTING          (1u << 3)
#define CPU_HLT_EXITING                 (1u << 7)
#define CPU_INVLPG_EXITING              (1u << 9)
#define CPU_MWAIT_EXITING               (1u << 10)
#define CPU_RDPMC_EXITING               (1u << 11)
#define CPU_RDTSC_EXITING               (1u << 12)
#define CPU_CR3_LOAD_EXITING            (1u << 15)
#define CPU_CR3_STORE_EXITING           (1u << 16)
#define CPU_ACTIVATE_TERTIARY_CONTROLS  (1u << 17)
#define CPU_CR8_LOAD_EXITING            (1u << 19)
#define CPU_CR8_STORE_EXITING           (1u << 20)
#define CPU_USE_TPR_SHADOW              (1u << 21)
#define CPU_NMI_WINDOW_EXITING          (1u << 22)
#define CPU_MOV_DR_EXITING              (1u << 23)
#define CPU_UNCONDITIONAL_IO_EXITING    (1u << 24)
#define CPU_USE_IO_BITMAPS              (1u << 25)
#define CPU_MONITOR_TRAP_FLAG           (1u << 27)
#define CPU_USE_MSR_BITMAPS             (1u << 28)
#define CPU_MONITOR_EXITING             (1u << 29)
#define CPU_PAUSE_EXITING               (1u << 30)
#define CPU_ACTIVATE_SECONDARY_CONTROLS (1u << 31)

/* SDM, Secondary Processor-Based VM-Execution Controls */
#define CPU2_VIRTUALIZE_APIC_ACCESSES     (1u << 0)
#define CPU2_ENABLE_EPT                   (1u << 1)
#define CPU2_DESCRIPTOR_TABLE_EXITING     (1u << 2)
#define CPU2_ENABLE_RDTSCP                (1u << 3)
#define CPU2_VIRTUALIZE_X2APIC_MODE       (1u << 4)
#define CPU2_ENABLE_VPID                  (1u << 5)
#define CPU2_WBINVD_EXITING               (1u << 6)
#define CPU2_UNRESTRICTED_GUEST           (1u << 7)
#define CPU2_APIC_REGISTER_VIRTUALIZATION (1u << 8)
#define CPU2_VIRTUAL_INTERRUPT_DELIVERY   (1u << 9)
#define CPU2_PAUSE_LOOP_EXITING           (1u << 10)
#define CPU2_RDRAND_EXITING               (1u << 11)
#define CPU2_ENABLE_INVPCID               (1u << 12)
#define CPU2_ENABLE_VM_FUNCTIONS          (1u << 13)
#define CPU2_VMCS_SHADOWING               (1u << 14)
#define CPU2_ENABLE_ENCLS_EXITING         (1u << 15)
#define CPU2_RDSEED_EXITING               (1u << 16)
#define CPU2_ENABLE_PML                   (1u << 17)
#define CPU2_EPT_VIOLATION_VE             (1u << 18)
#define CPU2_CONCEAL_VMX_FROM_PT          (1u << 19)
#define CPU2_ENABLE_XSAVES                (1u << 20)
#define CPU2_MODE_BASED_EXECUTE           (1u << 22)
#define CPU2_USE_TSC_SCALING              (1u << 25)
#define CPU2_ENABLE_USER_WAIT             (1u << 26)

/* SDM, VM-Exit Controls */
#define EXIT_SAVE_DEBUG_CONTROLS        (1u << 2)
#define EXIT_HOST_ADDRESS_SPACE_SIZE    (1u << 9)
#define EXIT_LOAD_IA32_PERF_GLOBAL_CTRL (1u << 12)
#define EXIT_ACKNOWLEDGE_INTERRUPT      (1u << 15)
#define EXIT_SAVE_IA32_PAT              (1u << 18)
#define EXIT_LOAD_IA32_PAT              (1u << 19)
#define EXIT_SAVE_IA32_EFER             (1u << 20)
#define EXIT_LOAD_IA32_EFER             (1u << 21)
#define EXIT_SAVE_PREEMPTION_TIMER      (1u << 22)
#define EXIT_CLEAR_IA32_BNDCFGS         (1u << 23)

/* SDM, VM-Entry Controls */
#define ENTRY_LOAD_DEBUG_CONTROLS        (1u << 2)
#define ENTRY_IA32E_MODE_GUEST           (1u << 9)
#define ENTRY_TO_SMM                     (1u << 10)
#define ENTRY_DEACTIVATE_DUAL_MONITOR    (1u << 11)
#define ENTRY_LOAD_IA32_PERF_GLOBAL_CTRL (1u << 13)
#define ENTRY_LOAD_IA32_PAT              (1u << 14)
#define ENTRY_LOAD_IA32_EFER             (1u << 15)
#define ENTRY_LOAD_IA32_BNDCFGS          (1u << 16)

/* SDM, Appendix "VMX Basic Exit Reasons" */
enum exit_reason {
	EXIT_REASON_EXCEPTION_OR_NMI = 0,
	EXIT_REASON_EXTERNAL_INTERRUPT = 1,
	EXIT_REASON_TRIPLE_FAULT = 2,
	EXIT_REASON_INIT = 3,
	EXIT_REASON_SIPI = 4,
	EXIT_REASON_IO_SMI = 5,
	EXIT_REASON_OTHER_SMI = 6,
	EXIT_REASON_INTERRUPT_WINDOW = 7,
	EXIT_REASON_NMI_WINDOW = 8,
	EXIT_REASON_TASK_SWITCH = 9,
	EXIT_REASON_CPUID = 10,
	EXIT_REASON_GETSEC = 11,
	EXIT_REASON_HLT = 12,
	EXIT_REASON_INVD = 13,
	EXIT_REASON_INVLPG = 14,
	EXIT_REASON_RDPMC = 15,
	EXIT_REASON_RDTSC = 16,
	EXIT_REASON_RSM = 17,
	EXIT_REASON_VMCALL = 18,
	EXIT_REASON_VMCLEAR = 19,
	EXIT_REASON_VMLAUNCH = 20,
	EXIT_REASON_VMPTRLD = 21,
	EXIT_REASON_VMPTRST = 22,
	EXIT_REASON_VMREAD = 23,
	EXIT_REASON_VMRESUME = 24,
	EXIT_REASON_VMWRITE = 25,
	EXIT_REASON_VMXOFF = 26,
	EXIT_REASON_VMXON = 27,
	EXIT_REASON_CR_ACCESS = 28,
	EXIT_REASON_MOV_DR = 29,
	EXIT_REASON_IO_INSTRUCTION = 30,
	EXIT_REASON_RDMSR = 31,
	EXIT_REASON_WRMSR = 32,
	EXIT_REASON_ENTRY_INVALID_GUEST_STATE = 33,
	EXIT_REASON_ENTRY_MSR_LOADING = 34,
	EXIT_REASON_MWAIT = 36,
	EXIT_REASON_MONITOR_TRAP_FLAG = 37,
	EXIT_REASON_MONITOR = 39,
	EXIT_REASON_PAUSE = 40,
	EXIT_REASON_ENTRY_MACHINE_CHECK = 41,
	EXIT_REASON_TPR_BELOW_THRESHOLD = 43,
	EXIT_REASON_APIC_ACCESS = 44,
	EXIT_REASON_VIRTUALIZED_EOI = 45,
	EXIT_REASON_GDTR_IDTR = 46,
	EXIT_REASON_LDTR_TR = 47,
	EXIT_REASON_EPT_VIOLATION = 48,
	EXIT_REASON_EPT_MISCONFIGURATION = 49,
	EXIT_REASON_INVEPT = 50,
	EXIT_REASON_RDTSCP = 51,
	EXIT_REASON_PREEMPTION_TIMER = 52,
	EXIT_REASON_INVVPID = 53,
	EXIT_REASON_WBINVD = 54,
	EXIT_REASON_XSETBV = 55,
	EXIT_REASON_APIC_WRITE = 56,
	EXIT_REASON_RDRAND = 57,
	EXIT_REASON_INVPCID = 58,
	EXIT_REASON_VMFUNC = 59,
	EXIT_REASON_ENCLS = 60,
	EXIT_REASON_RDSEED = 61,
	EXIT_REASON_PML_FULL = 62,
	EXIT_REASON_XSAVES = 63,
	EXIT_REASON_XRSTORS = 64,
};
#define EXIT_REASON_ENTRY_FAILURE (1u << 31) /* the VM entry failed */

/* Exit qualification of a failed entry (SDM, VM-Entry Failures During or After Loading Guest State) */
#define ENTRY_FAILURE_DEFAULT       0
#define ENTRY_FAILURE_PDPTE         2
#define ENTRY_FAILURE_NMI_INJECTION 3
#define ENTRY_FAILURE_LINK_POINTER  4

/* SDM, VM-Instruction Error Numbers */
enum vm_instruction_error {
	VMERROR_VMCALL_IN_ROOT = 1,
	VMERROR_VMCLEAR_ADDRESS = 2,
	VMERROR_VMCLEAR_VMXON_POINTER = 3,
	VMERROR_VMLAUNCH_NOT_CLEAR = 4,
	VMERROR_VMRESUME_NOT_LAUNCHED = 5,
	VMERROR_VMRESUME_AFTER_VMXOFF = 6,
	VMERROR_ENTRY_CONTROLS = 7,
	VMERROR_ENTRY_HOST_STATE = 8,
	VMERROR_VMPTRLD_ADDRESS = 9,
	VMERROR_VMPTRLD_VMXON_POINTER = 10,
	VMERROR_VMPTRLD_REVISION = 11,
	VMERROR_UNSUPPORTED_FIELD = 12,
	VMERROR_READ_ONLY_FIELD = 13,
	VMERROR_VMXON_IN_ROOT = 15,
	VMERROR_ENTRY_MOV_SS = 26,
	VMERROR_INVALID_OPERAND = 28, /* of INVEPT or INVVPID */
};

/* SDM, Format of the interruption-information and IDT-vectoring-information fields. type: enum event_type. */
#define INTERRUPTION_VECTOR(i)       ((i) & 0xffu)
#define INTERRUPTION_TYPE(i)         (((i) >> 8) & 7u)
#define INTERRUPTION_TYPE_SHIFT      8
#define INTERRUPTION_ERROR_CODE      (1u << 11) /* the error-code field is valid, or delivered */
#define INTERRUPTION_NMI_UNBLOCKING  (1u << 12) /* exits: NMI unblocking due to IRET */
#define INTERRUPTION_RESERVED_ENTRY  0x7ffff000u
#define INTERRUPTION_VALID           (1u << 31)

/* SDM, Format of Interruptibility State */
#define INTERRUPTIBILITY_STI      (1u << 0)
#define INTERRUPTIBILITY_MOV_SS   (1u << 1)
#define INTERRUPTIBILITY_SMI      (1u << 2)
#define INTERRUPTIBILITY_NMI      (1u << 3)
#define INTERRUPTIBILITY_ENCLAVE  (1u << 4)

/* SDM, Guest Non-Register State, activity state */
#define VMCS_ACTIVITY_ACTIVE    0
#define VMCS_ACTIVITY_HLT       1
#define VMCS_ACTIVITY_SHUTDOWN  2
#define VMCS_ACTIVITY_WAIT_SIPI 3

/* SDM, Format of Pending-Debug-Exceptions */
#define PENDING_DEBUG_B          0xfu
#define PENDING_DEBUG_ENABLED_BP (1u << 12)
#define PENDING_DEBUG_BS         (1u << 14)
#define PENDING_DEBUG_RTM        (1u << 16)

/* IA32_DEBUGCTL */
#define DEBUGCTL_LBR (1u << 0)
#define DEBUGCTL_BTF (1u << 1)

/* IA32_VMX_BASIC */
#define VMX_BASIC_INS_OUTS_INFORMATION (1ull << 54)
#define VMX_BASIC_TRUE_CONTROLS        (1ull << 55)

/* IA32_VMX_MISC */
#define VMX_MISC_PREEMPTION_SHIFT        5 /* bits 4:0: the timer counts once per 2^5 TSC cycles */
#define VMX_MISC_STORES_LMA              (1u << 5)
#define VMX_MISC_ACTIVITY_HLT            (1u << 6)
#define VMX_MISC_ACTIVITY_SHUTDOWN       (1u << 7)
#define VMX_MISC_ACTIVITY_WAIT_SIPI      (1u << 8)
#define VMX_MISC_CR3_TARGETS             4u
#define VMX_MISC_VMWRITE_ANY             (1u << 29)
#define VMX_MISC_ZERO_LENGTH_INJECTION   (1u << 30)
#define VMX_MSR_LIST_MAXIMUM             512u /* MISC[27:25] = 0 */

/* IA32_VMX_EPT_VPID_CAP */
#define EPT_VPID_CAP_EXECUTE_ONLY          (1ull << 0)
#define EPT_VPID_CAP_WALK_4                (1ull << 6)
#define EPT_VPID_CAP_UC                    (1ull << 8)
#define EPT_VPID_CAP_WB                    (1ull << 14)
#define EPT_VPID_CAP_2M                    (1ull << 16)
#define EPT_VPID_CAP_1G                    (1ull << 17)
#define EPT_VPID_CAP_INVEPT                (1ull << 20)
#define EPT_VPID_CAP_ACCESSED_DIRTY        (1ull << 21)
#define EPT_VPID_CAP_ADVANCED_INFORMATION  (1ull << 22)
#define EPT_VPID_CAP_INVEPT_SINGLE         (1ull << 25)
#define EPT_VPID_CAP_INVEPT_ALL            (1ull << 26)
#define EPT_VPID_CAP_INVVPID               (1ull << 32)
#define EPT_VPID_CAP_INVVPID_ADDRESS       (1ull << 40)
#define EPT_VPID_CAP_INVVPID_SINGLE        (1ull << 41)
#define EPT_VPID_CAP_INVVPID_ALL           (1ull << 42)
#define EPT_VPID_CAP_INVVPID_SINGLE_GLOBAL (1ull << 43) /* retaining globals */

/* EPTP */
#define EPTP_MEMORY_TYPE(e)  ((e) & 7u)
#define EPTP_WALK_LENGTH(e)  (((e) >> 3) & 7u) /* less one */
#define EPTP_ACCESSED_DIRTY  (1u << 6)

/* Capability MSRs */
#define MSR_IA32_VMX_BASIC               0x480
#define MSR_IA32_VMX_PINBASED_CTLS       0x481
#define MSR_IA32_VMX_PROCBASED_CTLS      0x482
#define MSR_IA32_VMX_EXIT_CTLS           0x483
#define MSR_IA32_VMX_ENTRY_CTLS          0x484
#define MSR_IA32_VMX_MISC                0x485
#define MSR_IA32_VMX_CR0_FIXED0          0x486
#define MSR_IA32_VMX_CR0_FIXED1          0x487
#define MSR_IA32_VMX_CR4_FIXED0          0x488
#define MSR_IA32_VMX_CR4_FIXED1          0x489
#define MSR_IA32_VMX_VMCS_ENUM           0x48a
#define MSR_IA32_VMX_PROCBASED_CTLS2     0x48b
#define MSR_IA32_VMX_EPT_VPID_CAP        0x48c
#define MSR_IA32_VMX_TRUE_PINBASED_CTLS  0x48d
#define MSR_IA32_VMX_TRUE_PROCBASED_CTLS 0x48e
#define MSR_IA32_VMX_TRUE_EXIT_CTLS      0x48f
#define MSR_IA32_VMX_TRUE_ENTRY_CTLS     0x490
#define MSR_IA32_VMX_VMFUNC              0x491

#define FEATURE_CONTROL_LOCK        (1u << 0)
#define FEATURE_CONTROL_VMX_OUTSIDE (1u << 2) /* VMX outside SMX operation */

#endif

/*
 * Every rule of VM entry violated once (SDM, Checks on VMX Controls and Host-State Area; Checks on the Guest
 * State Area): from a state that enters, one change, and what the failed entry reports. After each one the
 * unchanged state enters again.
 */
#include "runtime/guest.h"
#include "vmx.h"

L2(leave, "vmcall");

/* A 16-bit leave for real and virtual-8086 mode is the same bytes. */
#define LEAVE_SIZE 3

enum mode { LONG, LONG_EPT, REAL, V86, PROTECTED, PAE, PAE_NO_EPT };

struct change {
	uint32_t field; /* 0: none (VPID is never changed first) */
	uint64_t clear, set;
};

struct rule {
	const char *sentence;
	enum mode mode;
	uint32_t expected; /* CONTROLS, HOST, or GUEST | qualification */
	struct change change[4];
};

#define CONTROLS            (RUN_FAILED | VMERROR_ENTRY_CONTROLS)
#define HOST                (RUN_FAILED | VMERROR_ENTRY_HOST_STATE)
#define GUEST               (EXIT_REASON_ENTRY_FAILURE | EXIT_REASON_ENTRY_INVALID_GUEST_STATE)
#define QUALIFICATION_SHIFT 8
#define PDPTE               (GUEST | 2u << QUALIFICATION_SHIFT)
#define LINK                (GUEST | 4u << QUALIFICATION_SHIFT)

#define ALL           ~0ull
#define BEYOND        (1ull << 51) /* no processor that this runs on has so many address bits */
#define NOT_CANONICAL (1ull << 63)

#define PRIMARY(bits)                                                                                        \
	{                                                                                                    \
		PRIMARY_PROCESSOR_CONTROLS, 0, (bits)                                                        \
	}
#define SECONDARY(bits)                                                                                      \
	{                                                                                                    \
		SECONDARY_PROCESSOR_CONTROLS, 0, (bits)                                                      \
	}
#define PIN(bits)                                                                                            \
	{                                                                                                    \
		PIN_BASED_CONTROLS, 0, (bits)                                                                \
	}
#define TPR_SHADOW PRIMARY(CPU_USE_TPR_SHADOW)
#define INJECT(value)                                                                                        \
	{                                                                                                    \
		VM_ENTRY_INTERRUPTION_INFORMATION, ALL, 0x80000000u | (value)                                \
	}

/* clang-format off */
static const struct rule control_rules[] = {
	{"pin-based: a default1 bit", LONG, CONTROLS, {{PIN_BASED_CONTROLS, 2, 0}}},
	{"pin-based: a bit not allowed", LONG, CONTROLS, {PIN(1u << 31)}},
	{"primary: a default1 bit", LONG, CONTROLS, {{PRIMARY_PROCESSOR_CONTROLS, 2, 0}}},
	{"primary: a bit not allowed", LONG, CONTROLS, {PRIMARY(1)}},
	{"secondary: a bit not allowed", LONG, CONTROLS, {SECONDARY(1u << 31)}},
	{"CR3-target count", LONG, CONTROLS, {{CR3_TARGET_COUNT, ALL, 5}}},
	{"I/O bitmap A aligned", LONG, CONTROLS, {{IO_BITMAP_A_ADDRESS, 0, 1}}},
	{"I/O bitmap B aligned", LONG, CONTROLS, {{IO_BITMAP_B_ADDRESS, 0, 0x800}}},
	{"I/O bitmap A within the width", LONG, CONTROLS, {{IO_BITMAP_A_ADDRESS, 0, BEYOND}}},
	{"I/O bitmap B within the width", LONG, CONTROLS, {{IO_BITMAP_B_ADDRESS, 0, BEYOND}}},
	{"MSR bitmap aligned", LONG, CONTROLS, {{MSR_BITMAP_ADDRESS, 0, 8}}},
	{"MSR bitmap within the width", LONG, CONTROLS, {{MSR_BITMAP_ADDRESS, 0, BEYOND}}},
	{"virtual-APIC page aligned", LONG, CONTROLS, {TPR_SHADOW, {VIRTUAL_APIC_ADDRESS, 0, 1}}},
	{"virtual-APIC page within the width", LONG, CONTROLS, {TPR_SHADOW, {VIRTUAL_APIC_ADDRESS, 0, BEYOND}}},
	{"TPR threshold 31:4", LONG, CONTROLS, {TPR_SHADOW, {TPR_THRESHOLD, ALL, 0x10}}},
	{"TPR threshold above VTPR", LONG, CONTROLS, {TPR_SHADOW, {TPR_THRESHOLD, ALL, 1}}},
	{"x2APIC mode needs the TPR shadow", LONG, CONTROLS, {SECONDARY(CPU2_VIRTUALIZE_X2APIC_MODE)}},
	{"register virtualization needs the TPR shadow", LONG, CONTROLS, {SECONDARY(CPU2_APIC_REGISTER_VIRTUALIZATION)}},
	{"virtual NMIs need NMI exiting", LONG, CONTROLS, {PIN(PIN_VIRTUAL_NMIS)}},
	{"NMI-window exiting needs virtual NMIs", LONG, CONTROLS, {PRIMARY(CPU_NMI_WINDOW_EXITING)}},
	{"NMI-window exiting needs virtual NMIs too", LONG, CONTROLS, {PRIMARY(CPU_NMI_WINDOW_EXITING), PIN(PIN_NMI_EXITING)}},
	{"APIC-access page aligned", LONG, CONTROLS, {SECONDARY(CPU2_VIRTUALIZE_APIC_ACCESSES), {APIC_ACCESS_ADDRESS, 0, 4}}},
	{"APIC-access page within the width", LONG, CONTROLS, {SECONDARY(CPU2_VIRTUALIZE_APIC_ACCESSES), {APIC_ACCESS_ADDRESS, 0, BEYOND}}},
	{"x2APIC mode or APIC accesses", LONG, CONTROLS, {TPR_SHADOW, SECONDARY(CPU2_VIRTUALIZE_APIC_ACCESSES | CPU2_VIRTUALIZE_X2APIC_MODE)}},
	{"virtual-interrupt delivery needs external-interrupt exiting", LONG, CONTROLS, {TPR_SHADOW, SECONDARY(CPU2_VIRTUAL_INTERRUPT_DELIVERY)}},
	{"posted interrupts need virtual-interrupt delivery", LONG, CONTROLS, {PIN(PIN_PROCESS_POSTED_INTERRUPTS)}},
	{"VPID 0", LONG, CONTROLS, {SECONDARY(CPU2_ENABLE_VPID), {VPID, ALL, 0}}},
	{"EPTP: memory type", LONG_EPT, CONTROLS, {{EPT_POINTER, 7, 1}}},
	{"EPTP: walk length", LONG_EPT, CONTROLS, {{EPT_POINTER, 7 << 3, 2 << 3}}},
	{"EPTP: bit 7", LONG_EPT, CONTROLS, {{EPT_POINTER, 0, 1 << 7}}},
	{"EPTP: bit 11", LONG_EPT, CONTROLS, {{EPT_POINTER, 0, 1 << 11}}},
	{"EPTP within the width", LONG_EPT, CONTROLS, {{EPT_POINTER, 0, BEYOND}}},
	{"PML needs EPT", LONG, CONTROLS, {SECONDARY(CPU2_ENABLE_PML)}},
	{"unrestricted guest needs EPT", LONG, CONTROLS, {SECONDARY(CPU2_UNRESTRICTED_GUEST)}},
	{"mode-based execution needs EPT", LONG, CONTROLS, {SECONDARY(CPU2_MODE_BASED_EXECUTE)}},
	{"VMREAD bitmap aligned", LONG, CONTROLS, {SECONDARY(CPU2_VMCS_SHADOWING), {VMREAD_BITMAP_ADDRESS, ALL, 1}}},
	{"VMWRITE bitmap aligned", LONG, CONTROLS, {SECONDARY(CPU2_VMCS_SHADOWING), {VMWRITE_BITMAP_ADDRESS, ALL, 1}}},
	{"VMREAD bitmap within the width", LONG, CONTROLS, {SECONDARY(CPU2_VMCS_SHADOWING), {VMREAD_BITMAP_ADDRESS, ALL, BEYOND}}},
	{"VMWRITE bitmap within the width", LONG, CONTROLS, {SECONDARY(CPU2_VMCS_SHADOWING), {VMWRITE_BITMAP_ADDRESS, ALL, BEYOND}}},
	{"VM functions are not there", LONG, CONTROLS, {SECONDARY(CPU2_ENABLE_VM_FUNCTIONS)}},
	{"exit controls: a default1 bit", LONG, CONTROLS, {{VM_EXIT_CONTROLS, 1, 0}}},
	{"exit controls: a bit not allowed", LONG, CONTROLS, {{VM_EXIT_CONTROLS, 0, 1u << 30}}},
	{"save the timer only where it is activated", LONG, CONTROLS, {{VM_EXIT_CONTROLS, 0, EXIT_SAVE_PREEMPTION_TIMER}}},
	{"MSR-store area aligned", LONG, CONTROLS, {{VM_EXIT_MSR_STORE_COUNT, ALL, 1}, {VM_EXIT_MSR_STORE_ADDRESS, 0, 8}}},
	{"MSR-store area within the width", LONG, CONTROLS, {{VM_EXIT_MSR_STORE_COUNT, ALL, 1}, {VM_EXIT_MSR_STORE_ADDRESS, 0, BEYOND}}},
	{"MSR-store area's end", LONG, CONTROLS, {{VM_EXIT_MSR_STORE_COUNT, ALL, 2}, {VM_EXIT_MSR_STORE_ADDRESS, ALL, (1ull << 52) - 16}}},
	{"exit MSR-load area aligned", LONG, CONTROLS, {{VM_EXIT_MSR_LOAD_COUNT, ALL, 1}, {VM_EXIT_MSR_LOAD_ADDRESS, 0, 4}}},
	{"exit MSR-load area within the width", LONG, CONTROLS, {{VM_EXIT_MSR_LOAD_COUNT, ALL, 1}, {VM_EXIT_MSR_LOAD_ADDRESS, 0, BEYOND}}},
	{"exit MSR-load area wraps", LONG, CONTROLS, {{VM_EXIT_MSR_LOAD_COUNT, ALL, 0xffffffff}, {VM_EXIT_MSR_LOAD_ADDRESS, ALL, ~15ull}}},
	{"entry MSR-load area aligned", LONG, CONTROLS, {{VM_ENTRY_MSR_LOAD_COUNT, ALL, 1}, {VM_ENTRY_MSR_LOAD_ADDRESS, 0, 1}}},
	{"entry MSR-load area within the width", LONG, CONTROLS, {{VM_ENTRY_MSR_LOAD_COUNT, ALL, 1}, {VM_ENTRY_MSR_LOAD_ADDRESS, 0, BEYOND}}},
	{"entry controls: a default1 bit", LONG, CONTROLS, {{VM_ENTRY_CONTROLS, 1, 0}}},
	{"entry controls: a bit not allowed", LONG, CONTROLS, {{VM_ENTRY_CONTROLS, 0, 1u << 30}}},
	{"entry to SMM", LONG, CONTROLS, {{VM_ENTRY_CONTROLS, 0, ENTRY_TO_SMM}}},
	{"deactivate dual-monitor treatment", LONG, CONTROLS, {{VM_ENTRY_CONTROLS, 0, ENTRY_DEACTIVATE_DUAL_MONITOR}}},
	{"injection: type 1", LONG, CONTROLS, {INJECT(0x120)}},
	{"injection: an NMI's vector", LONG, CONTROLS, {INJECT(0x203)}},
	{"injection: an exception's vector", LONG, CONTROLS, {INJECT(0x320)}},
	{"injection: other event's vector", LONG, CONTROLS, {INJECT(0x701)}},
	{"injection: #GP without error code", LONG, CONTROLS, {INJECT(0x30d)}},
	{"injection: #UD with error code", LONG, CONTROLS, {INJECT(0xb06)}},
	{"injection: an interrupt with error code", LONG, CONTROLS, {INJECT(0x820), {GUEST_RFLAGS, 0, 0x200}}},
	{"injection: error code in real mode", REAL, CONTROLS, {INJECT(0xb0d)}},
	{"injection: bit 12", LONG, CONTROLS, {INJECT(0x1306)}},
	{"injection: bit 30", LONG, CONTROLS, {INJECT(0x40000306)}},
	{"injection: error code 31:16", LONG, CONTROLS, {INJECT(0xb0d), {VM_ENTRY_EXCEPTION_ERROR_CODE, ALL, 0x10000}}},
	{"injection: software interrupt's length", LONG, CONTROLS, {INJECT(0x480), {VM_ENTRY_INSTRUCTION_LENGTH, ALL, 16}}},
	{"injection: privileged software exception's length", LONG, CONTROLS, {INJECT(0x501), {VM_ENTRY_INSTRUCTION_LENGTH, ALL, 16}}},
	{"injection: software exception's length", LONG, CONTROLS, {INJECT(0x603), {VM_ENTRY_INSTRUCTION_LENGTH, ALL, 255}}},
};

static const struct rule host_rules[] = {
	{"host CR0.NE", LONG, HOST, {{HOST_CR0, 0x20, 0}}},
	{"host CR0.PG", LONG, HOST, {{HOST_CR0, 1ull << 31, 0}}},
	{"host CR0 63:32", LONG, HOST, {{HOST_CR0, 0, 1ull << 32}}},
	{"host CR4.VMXE", LONG, HOST, {{HOST_CR4, 1 << 13, 0}}},
	{"host CR4 reserved", LONG, HOST, {{HOST_CR4, 0, 1ull << 31}}},
	{"host CR3 within the width", LONG, HOST, {{HOST_CR3, 0, BEYOND}}},
	{"host SYSENTER_ESP canonical", LONG, HOST, {{HOST_IA32_SYSENTER_ESP, ALL, NOT_CANONICAL}}},
	{"host SYSENTER_EIP canonical", LONG, HOST, {{HOST_IA32_SYSENTER_EIP, ALL, 1ull << 47}}},
	{"host PAT", LONG, HOST, {{HOST_IA32_PAT, 0xff, 2}}},
	{"host PAT's last byte", LONG, HOST, {{HOST_IA32_PAT, 0xffull << 56, 8ull << 56}}},
	{"host EFER reserved", LONG, HOST, {{HOST_IA32_EFER, 0, 2}}},
	{"host EFER.LMA", LONG, HOST, {{HOST_IA32_EFER, 1 << 10, 0}}},
	{"host EFER.LME", LONG, HOST, {{HOST_IA32_EFER, 1 << 8, 0}}},
	{"host ES RPL", LONG, HOST, {{HOST_ES_SELECTOR, 0, 3}}},
	{"host CS TI", LONG, HOST, {{HOST_CS_SELECTOR, 0, 4}}},
	{"host SS RPL", LONG, HOST, {{HOST_SS_SELECTOR, 0, 1}}},
	{"host DS TI", LONG, HOST, {{HOST_DS_SELECTOR, 0, 4}}},
	{"host FS RPL", LONG, HOST, {{HOST_FS_SELECTOR, 0, 2}}},
	{"host GS RPL", LONG, HOST, {{HOST_GS_SELECTOR, 0, 3}}},
	{"host TR TI", LONG, HOST, {{HOST_TR_SELECTOR, 0, 4}}},
	{"host CS null", LONG, HOST, {{HOST_CS_SELECTOR, ALL, 0}}},
	{"host TR null", LONG, HOST, {{HOST_TR_SELECTOR, ALL, 0}}},
	{"host FS base canonical", LONG, HOST, {{HOST_FS_BASE, ALL, NOT_CANONICAL}}},
	{"host GS base canonical", LONG, HOST, {{HOST_GS_BASE, ALL, NOT_CANONICAL}}},
	{"host GDTR base canonical", LONG, HOST, {{HOST_GDTR_BASE, 0, NOT_CANONICAL}}},
	{"host IDTR base canonical", LONG, HOST, {{HOST_IDTR_BASE, 0, NOT_CANONICAL}}},
	{"host TR base canonical", LONG, HOST, {{HOST_TR_BASE, 0, NOT_CANONICAL}}},
	{"host address-space size in IA-32e mode", LONG, HOST,
	 {{VM_EXIT_CONTROLS, EXIT_HOST_ADDRESS_SPACE_SIZE | EXIT_LOAD_IA32_EFER, 0}, {VM_ENTRY_CONTROLS, ENTRY_IA32E_MODE_GUEST | ENTRY_LOAD_IA32_EFER, 0}}},
	{"host address-space size with an IA-32e guest", LONG, HOST,
	 {{VM_EXIT_CONTROLS, EXIT_HOST_ADDRESS_SPACE_SIZE | EXIT_LOAD_IA32_EFER, 0}}},
	{"host CR4.PAE", LONG, HOST, {{HOST_CR4, 0x20, 0}}},
	{"host RIP canonical", LONG, HOST, {{HOST_RIP, 0, NOT_CANONICAL}}},
};

#define SEGMENT_RULES(name)                                                                                       \
	{"guest " #name " present", LONG, GUEST, {{GUEST_##name##_ACCESS_RIGHTS, 0x80, 0}}},                      \
	{"guest " #name " access rights 11:8", LONG, GUEST, {{GUEST_##name##_ACCESS_RIGHTS, 0, 0x100}}},          \
	{"guest " #name " access rights 31:17", LONG, GUEST, {{GUEST_##name##_ACCESS_RIGHTS, 0, 0x20000}}},       \
	{"guest " #name " G = 1 with limit 11:0 not all ones", LONG, GUEST,                                       \
	 {{GUEST_##name##_ACCESS_RIGHTS, 0, 0x8000}, {GUEST_##name##_LIMIT, ALL, 0xfffff0fe}}},                   \
	{"guest " #name " G = 0 with limit 31:20 not zero", LONG, GUEST,                                          \
	 {{GUEST_##name##_ACCESS_RIGHTS, 0x8000, 0}, {GUEST_##name##_LIMIT, ALL, 0x100fff}}}
#define CODE_DATA_RULES(name)                                                                                     \
	SEGMENT_RULES(name), {"guest " #name " S", LONG, GUEST, {{GUEST_##name##_ACCESS_RIGHTS, 0x10, 0}}},       \
	{"guest " #name " in virtual-8086 mode: base", V86, GUEST, {{GUEST_##name##_BASE, ALL, 0x10}}},           \
	{"guest " #name " in virtual-8086 mode: limit", V86, GUEST, {{GUEST_##name##_LIMIT, ALL, 0xfffe}}},       \
	{"guest " #name " in virtual-8086 mode: access rights", V86, GUEST, {{GUEST_##name##_ACCESS_RIGHTS, ALL, 0x93}}}
#define DATA_RULES(name)                                                                                          \
	CODE_DATA_RULES(name),                                                                                    \
	{"guest " #name " accessed", LONG, GUEST, {{GUEST_##name##_ACCESS_RIGHTS, 1, 0}}},                        \
	{"guest " #name " readable where code", LONG, GUEST, {{GUEST_##name##_ACCESS_RIGHTS, 15, 9}}},            \
	{"guest " #name " DPL below RPL", LONG, GUEST, {{GUEST_##name##_SELECTOR, 0, 3}}}
#define USABLE_LDTR {GUEST_LDTR_ACCESS_RIGHTS, ALL, 0x82}

static const struct rule guest_rules[] = {
	{"guest CR0.NE", LONG, GUEST, {{GUEST_CR0, 0x20, 0}}},
	{"guest CR0.PE without unrestricted guest", LONG, GUEST, {{GUEST_CR0, 1ull << 31 | 1, 0}}},
	{"guest CR0.PG without unrestricted guest", LONG, GUEST, {{GUEST_CR0, 1ull << 31, 0}}},
	{"guest CR0 63:32", LONG, GUEST, {{GUEST_CR0, 0, 1ull << 32}}},
	{"guest CR0.PG without PE", REAL, GUEST, {{GUEST_CR0, 0, 1ull << 31}}},
	{"guest CR4.VMXE", LONG, GUEST, {{GUEST_CR4, 1 << 13, 0}}},
	{"guest CR4 reserved", LONG, GUEST, {{GUEST_CR4, 0, 1ull << 30}}},
	{"guest DEBUGCTL reserved", LONG, GUEST, {{GUEST_IA32_DEBUGCTL, 0, 1ull << 32}}},
	{"IA-32e guest without PG", LONG_EPT, GUEST, {SECONDARY(CPU2_UNRESTRICTED_GUEST), {GUEST_CR0, 1ull << 31, 0}}},
	{"IA-32e guest without PAE", LONG, GUEST, {{GUEST_CR4, 0x20, 0}}},
	{"guest CR4.PCIDE outside IA-32e mode", PROTECTED, GUEST, {{GUEST_CR4, 0, 1 << 17}}},
	{"guest CR3 within the width", LONG, GUEST, {{GUEST_CR3, 0, BEYOND}}},
	{"guest CR3 63", LONG, GUEST, {{GUEST_CR3, 0, 1ull << 63}}},
	{"guest DR7 63:32", LONG, GUEST, {{GUEST_DR7, 0, 1ull << 32}}},
	{"guest SYSENTER_ESP canonical", LONG, GUEST, {{GUEST_IA32_SYSENTER_ESP, ALL, NOT_CANONICAL}}},
	{"guest SYSENTER_EIP canonical", LONG, GUEST, {{GUEST_IA32_SYSENTER_EIP, ALL, NOT_CANONICAL}}},
	{"guest PAT", LONG, GUEST, {{GUEST_IA32_PAT, 0xff00, 0x0300}}},
	{"guest EFER reserved", LONG, GUEST, {{GUEST_IA32_EFER, 0, 1ull << 40}}},
	{"guest EFER.LMA", LONG, GUEST, {{GUEST_IA32_EFER, 1 << 10, 0}}},
	{"guest EFER.LME", LONG, GUEST, {{GUEST_IA32_EFER, 1 << 8, 0}}},
	{"guest EFER.LMA outside IA-32e mode", PROTECTED, GUEST, {{GUEST_IA32_EFER, 0, 1 << 10}}},
	{"guest TR TI", LONG, GUEST, {{GUEST_TR_SELECTOR, 0, 4}}},
	{"guest LDTR TI", LONG, GUEST, {USABLE_LDTR, {GUEST_LDTR_SELECTOR, 0, 4}}},
	{"guest SS RPL and CS RPL", LONG, GUEST, {{GUEST_SS_SELECTOR, 0, 3}, {GUEST_SS_ACCESS_RIGHTS, 0, 0x60}, {GUEST_CS_ACCESS_RIGHTS, 0, 0x60}}},
	{"guest TR base canonical", LONG, GUEST, {{GUEST_TR_BASE, 0, NOT_CANONICAL}}},
	{"guest FS base canonical", LONG, GUEST, {{GUEST_FS_BASE, 0, NOT_CANONICAL}}},
	{"guest GS base canonical", LONG, GUEST, {{GUEST_GS_BASE, 0, 1ull << 47}}},
	{"guest LDTR base canonical", LONG, GUEST, {USABLE_LDTR, {GUEST_LDTR_BASE, 0, NOT_CANONICAL}}},
	{"guest CS base 63:32", LONG, GUEST, {{GUEST_CS_BASE, 0, 1ull << 32}}},
	{"guest SS base 63:32", LONG, GUEST, {{GUEST_SS_BASE, 0, 1ull << 32}}},
	{"guest DS base 63:32", LONG, GUEST, {{GUEST_DS_BASE, 0, 1ull << 40}}},
	{"guest ES base 63:32", LONG, GUEST, {{GUEST_ES_BASE, 0, ~0ull << 32}}},
	{"guest CS type 3 without unrestricted guest", LONG, GUEST, {{GUEST_CS_ACCESS_RIGHTS, 15, 3}}},
	{"guest CS not accessed", LONG, GUEST, {{GUEST_CS_ACCESS_RIGHTS, 1, 0}}},
	{"guest CS unusable is checked all the same", LONG, GUEST, {{GUEST_CS_ACCESS_RIGHTS, 0x80, 0x10000}}},
	{"guest SS type", LONG, GUEST, {{GUEST_SS_ACCESS_RIGHTS, 15, 1}}},
	{"guest SS code", LONG, GUEST, {{GUEST_SS_ACCESS_RIGHTS, 15, 11}}},
	{"guest CS DPL not SS's", LONG, GUEST, {{GUEST_CS_ACCESS_RIGHTS, 0, 0x60}}},
	{"guest CS conforming, DPL above SS's", LONG, GUEST, {{GUEST_CS_ACCESS_RIGHTS, 0, 0x64}}},
	{"guest CS type 3, DPL not 0", LONG_EPT, GUEST, {SECONDARY(CPU2_UNRESTRICTED_GUEST), {GUEST_CS_ACCESS_RIGHTS, 15, 0x63}}},
	{"guest SS DPL not RPL", LONG, GUEST, {{GUEST_SS_ACCESS_RIGHTS, 0, 0x60}, {GUEST_CS_ACCESS_RIGHTS, 0, 0x60}}},
	{"guest SS DPL where PE is 0", REAL, GUEST, {{GUEST_SS_ACCESS_RIGHTS, 0, 0x60}, {GUEST_CS_ACCESS_RIGHTS, 0, 0x60}}},
	{"guest CS L and D", LONG, GUEST, {{GUEST_CS_ACCESS_RIGHTS, 0, 0x4000}}},
	CODE_DATA_RULES(CS),
	CODE_DATA_RULES(SS),
	DATA_RULES(ES),
	DATA_RULES(DS),
	DATA_RULES(FS),
	DATA_RULES(GS),
	SEGMENT_RULES(TR),
	{"guest TR type", LONG, GUEST, {{GUEST_TR_ACCESS_RIGHTS, 15, 9}}},
	{"guest TR type 3 in IA-32e mode", LONG, GUEST, {{GUEST_TR_ACCESS_RIGHTS, 15, 3}}},
	{"guest TR S", LONG, GUEST, {{GUEST_TR_ACCESS_RIGHTS, 0, 0x10}}},
	{"guest TR unusable", LONG, GUEST, {{GUEST_TR_ACCESS_RIGHTS, 0, 0x10000}}},
	{"guest LDTR type", LONG, GUEST, {USABLE_LDTR, {GUEST_LDTR_ACCESS_RIGHTS, 15, 3}}},
	{"guest LDTR S", LONG, GUEST, {USABLE_LDTR, {GUEST_LDTR_ACCESS_RIGHTS, 0, 0x10}}},
	{"guest LDTR present", LONG, GUEST, {USABLE_LDTR, {GUEST_LDTR_ACCESS_RIGHTS, 0x80, 0}}},
	{"guest LDTR access rights 11:8", LONG, GUEST, {USABLE_LDTR, {GUEST_LDTR_ACCESS_RIGHTS, 0, 0x800}}},
	{"guest LDTR access rights 31:17", LONG, GUEST, {USABLE_LDTR, {GUEST_LDTR_ACCESS_RIGHTS, 0, 1u << 31}}},
	{"guest LDTR granularity", LONG, GUEST, {USABLE_LDTR, {GUEST_LDTR_LIMIT, ALL, 0x100000}}},
	{"guest GDTR base canonical", LONG, GUEST, {{GUEST_GDTR_BASE, 0, NOT_CANONICAL}}},
	{"guest IDTR base canonical", LONG, GUEST, {{GUEST_IDTR_BASE, 0, NOT_CANONICAL}}},
	{"guest GDTR limit", LONG, GUEST, {{GUEST_GDTR_LIMIT, ALL, 0x10000}}},
	{"guest IDTR limit", LONG, GUEST, {{GUEST_IDTR_LIMIT, ALL, 0x10000}}},
	{"guest RIP 63:32 outside 64-bit code", PROTECTED, GUEST, {{GUEST_RIP, 0, 1ull << 32}}},
	{"guest RIP 63:48 in 64-bit code", LONG, GUEST, {{GUEST_RIP, 0, 1ull << 48}}},
	{"guest RFLAGS bit 1", LONG, GUEST, {{GUEST_RFLAGS, 2, 0}}},
	{"guest RFLAGS bit 3", LONG, GUEST, {{GUEST_RFLAGS, 0, 8}}},
	{"guest RFLAGS bit 15", LONG, GUEST, {{GUEST_RFLAGS, 0, 0x8000}}},
	{"guest RFLAGS bit 22", LONG, GUEST, {{GUEST_RFLAGS, 0, 1 << 22}}},
	{"guest RFLAGS bit 63", LONG, GUEST, {{GUEST_RFLAGS, 0, 1ull << 63}}},
	{"guest RFLAGS.VM in IA-32e mode", LONG, GUEST, {{GUEST_RFLAGS, 0, 1 << 17}}},
	{"guest RFLAGS.VM without PE", REAL, GUEST, {{GUEST_RFLAGS, 0, 1 << 17}}},
	{"guest RFLAGS.IF for an injected interrupt", LONG, GUEST, {INJECT(0x20)}},
	{"activity state 4", LONG, GUEST, {{GUEST_ACTIVITY_STATE, ALL, 4}}},
	{"HLT with SS's DPL 3", LONG, GUEST, {{GUEST_ACTIVITY_STATE, ALL, 1}, {GUEST_SS_ACCESS_RIGHTS, 0, 0x60}, {GUEST_CS_ACCESS_RIGHTS, 0, 0x60}}},
	{"HLT under blocking by STI", LONG, GUEST, {{GUEST_ACTIVITY_STATE, ALL, 1}, {GUEST_INTERRUPTIBILITY_STATE, ALL, 1}, {GUEST_RFLAGS, 0, 0x200}}},
	{"HLT under blocking by MOV SS", LONG, GUEST, {{GUEST_ACTIVITY_STATE, ALL, 1}, {GUEST_INTERRUPTIBILITY_STATE, ALL, 2}}},
	{"HLT blocks an injected #GP", LONG, GUEST, {{GUEST_ACTIVITY_STATE, ALL, 1}, INJECT(0xb0d)}},
	{"HLT blocks a software interrupt", LONG, GUEST, {{GUEST_ACTIVITY_STATE, ALL, 1}, INJECT(0x480)}},
	{"shutdown blocks an interrupt", LONG, GUEST, {{GUEST_ACTIVITY_STATE, ALL, 2}, INJECT(0x20), {GUEST_RFLAGS, 0, 0x200}}},
	{"shutdown blocks #DB", LONG, GUEST, {{GUEST_ACTIVITY_STATE, ALL, 2}, INJECT(0x301)}},
	{"wait-for-SIPI blocks an NMI", LONG, GUEST, {{GUEST_ACTIVITY_STATE, ALL, 3}, INJECT(0x202)}},
	{"interruptibility 31:5", LONG, GUEST, {{GUEST_INTERRUPTIBILITY_STATE, ALL, 0x20}}},
	{"interruptibility: enclave without SGX", LONG, GUEST, {{GUEST_INTERRUPTIBILITY_STATE, ALL, 0x10}}},
	{"both STI and MOV SS", LONG, GUEST, {{GUEST_INTERRUPTIBILITY_STATE, ALL, 3}, {GUEST_RFLAGS, 0, 0x200}}},
	{"blocking by STI without IF", LONG, GUEST, {{GUEST_INTERRUPTIBILITY_STATE, ALL, 1}}},
	{"an interrupt under blocking by STI", LONG, GUEST, {{GUEST_INTERRUPTIBILITY_STATE, ALL, 1}, {GUEST_RFLAGS, 0, 0x200}, INJECT(0x20)}},
	{"an interrupt under blocking by MOV SS", LONG, GUEST, {{GUEST_INTERRUPTIBILITY_STATE, ALL, 2}, {GUEST_RFLAGS, 0, 0x200}, INJECT(0x20)}},
	{"an NMI under blocking by MOV SS", LONG, GUEST, {{GUEST_INTERRUPTIBILITY_STATE, ALL, 2}, INJECT(0x202)}},
	{"blocking by SMI outside SMM", LONG, GUEST, {{GUEST_INTERRUPTIBILITY_STATE, ALL, 4}}},
	{"an NMI under virtual-NMI blocking", LONG, GUEST, {{GUEST_INTERRUPTIBILITY_STATE, ALL, 8}, PIN(PIN_VIRTUAL_NMIS | PIN_NMI_EXITING), INJECT(0x202)}},
	{"pending debug exceptions 11:4", LONG, GUEST, {{GUEST_PENDING_DEBUG_EXCEPTIONS, ALL, 0x10}}},
	{"pending debug exceptions 13", LONG, GUEST, {{GUEST_PENDING_DEBUG_EXCEPTIONS, ALL, 0x2000}}},
	{"pending debug exceptions 63:17", LONG, GUEST, {{GUEST_PENDING_DEBUG_EXCEPTIONS, ALL, 1ull << 63}}},
	{"pending debug exceptions RTM without RTM", LONG, GUEST, {{GUEST_PENDING_DEBUG_EXCEPTIONS, ALL, 0x11000}}},
	{"pending BS must be 1 under STI with TF", LONG, GUEST, {{GUEST_INTERRUPTIBILITY_STATE, ALL, 1}, {GUEST_RFLAGS, 0, 0x300}}},
	{"pending BS must be 1 in HLT with TF", LONG, GUEST, {{GUEST_ACTIVITY_STATE, ALL, 1}, {GUEST_RFLAGS, 0, 0x100}}},
	{"pending BS must be 0 under MOV SS without TF", LONG, GUEST, {{GUEST_INTERRUPTIBILITY_STATE, ALL, 2}, {GUEST_PENDING_DEBUG_EXCEPTIONS, ALL, 0x4000}}},
	{"pending BS must be 0 with BTF", LONG, GUEST, {{GUEST_INTERRUPTIBILITY_STATE, ALL, 2}, {GUEST_PENDING_DEBUG_EXCEPTIONS, ALL, 0x4000}, {GUEST_RFLAGS, 0, 0x100}, {GUEST_IA32_DEBUGCTL, ALL, 2}}},
	{"link pointer aligned", LONG, LINK, {{VMCS_LINK_POINTER, ALL, 0x1001}}},
	{"link pointer within the width", LONG, LINK, {{VMCS_LINK_POINTER, ALL, BEYOND}}},
	{"link pointer's revision", LONG, LINK, {{VMCS_LINK_POINTER, ALL, 0x1000}}},
	{"PDPTE fields reserved 2:1", PAE, PDPTE, {{GUEST_PDPTE0, ALL, 3}}},
	{"PDPTE fields reserved 8:5", PAE, PDPTE, {{GUEST_PDPTE3, ALL, 0x101}}},
	{"PDPTE fields within the width", PAE, PDPTE, {{GUEST_PDPTE2, ALL, BEYOND | 1}}},
	{"PDPTEs in memory", PAE_NO_EPT, PDPTE, {{GUEST_CR3, 0, 0x20}}},
};

/* States near a rule that it does not forbid: they enter. */
static const struct rule allowed[] = {
	{"as it is", LONG, EXIT_REASON_VMCALL, {{0}}},
	{"as it is, EPT", LONG_EPT, EXIT_REASON_VMCALL, {{0}}},
	{"as it is, real mode", REAL, EXIT_REASON_VMCALL, {{0}}},
	{"as it is, virtual-8086 mode", V86, EXIT_REASON_VMCALL, {{0}}},
	{"as it is, protected mode", PROTECTED, EXIT_REASON_VMCALL, {{0}}},
	{"as it is, PAE paging", PAE, EXIT_REASON_VMCALL, {{0}}},
	{"as it is, PAE paging without EPT", PAE_NO_EPT, EXIT_REASON_VMCALL, {{0}}},
	{"PDPTEs that are not present", PAE, EXIT_REASON_VMCALL, {{GUEST_PDPTE3, ALL, BEYOND | 0x1e6}}},
	{"four CR3 targets", LONG, EXIT_REASON_VMCALL, {{CR3_TARGET_COUNT, ALL, 4}}},
	{"secondary controls that are not activated", LONG, EXIT_REASON_VMCALL,
	 {{PRIMARY_PROCESSOR_CONTROLS, CPU_ACTIVATE_SECONDARY_CONTROLS, 0}, SECONDARY(~0u)}},
	{"unused bitmaps", LONG, EXIT_REASON_VMCALL, {{PRIMARY_PROCESSOR_CONTROLS, CPU_USE_MSR_BITMAPS | CPU_USE_IO_BITMAPS, 0}, {MSR_BITMAP_ADDRESS, 0, 1}, {IO_BITMAP_A_ADDRESS, 0, 1}}},
	{"unused MSR areas", LONG, EXIT_REASON_VMCALL, {{VM_EXIT_MSR_LOAD_ADDRESS, ALL, 1}, {VM_ENTRY_MSR_LOAD_ADDRESS, ALL, ~0ull}}},
	{"EPTP of uncacheable memory", LONG_EPT, EXIT_REASON_VMCALL, {{EPT_POINTER, 7, 0}}},
	{"EPTP with accessed and dirty flags", LONG_EPT, EXIT_REASON_VMCALL, {{EPT_POINTER, 0, 1 << 6}}},
	{"interruption information that is not valid", LONG, EXIT_REASON_VMCALL, {{VM_ENTRY_INTERRUPTION_INFORMATION, ALL, 0x7fffffff}}},
	{"unusable data segments may be anything", LONG, EXIT_REASON_VMCALL, {{GUEST_FS_ACCESS_RIGHTS, ALL, 0x10000}, {GUEST_ES_ACCESS_RIGHTS, ALL, ~0u}}},
	{"SS unusable in 64-bit mode", LONG, EXIT_REASON_VMCALL, {{GUEST_SS_ACCESS_RIGHTS, ALL, 0x10000}, {GUEST_SS_SELECTOR, ALL, 0}}},
	{"unusable LDTR", LONG, EXIT_REASON_VMCALL, {{GUEST_LDTR_BASE, ALL, NOT_CANONICAL}, {GUEST_LDTR_SELECTOR, ALL, 4}}},
	{"host SS null in 64-bit mode", LONG, EXIT_REASON_VMCALL, {{HOST_SS_SELECTOR, ALL, 0}, {HOST_FS_SELECTOR, ALL, 0}}},
	{"debug controls that are not loaded", LONG, EXIT_REASON_VMCALL, {{VM_ENTRY_CONTROLS, ENTRY_LOAD_DEBUG_CONTROLS, 0}, {GUEST_DR7, 0, 1ull << 32}, {GUEST_IA32_DEBUGCTL, ALL, ~0ull}}},
	{"PAT and EFER that are not loaded", LONG, EXIT_REASON_VMCALL, {{VM_ENTRY_CONTROLS, ENTRY_LOAD_IA32_PAT | ENTRY_LOAD_IA32_EFER, 0}, {GUEST_IA32_PAT, ALL, ~0ull}, {GUEST_IA32_EFER, ALL, ~0ull}}},
	{"VTPR that reaches the threshold", LONG, EXIT_REASON_VMCALL, {TPR_SHADOW, {TPR_THRESHOLD, ALL, 0}}},
};
/* clang-format on */

static uint64_t pae_table[8] __attribute__((aligned(64)));
static uint64_t pae_directory[512] __attribute__((aligned(4096)));

static void prepare(enum mode mode)
{
	vmx_fresh(leave);
	switch (mode) {
	case LONG:
		break;
	case LONG_EPT:
		vmx_ept(0);
		break;
	case REAL:
		vmx_real(leave, LEAVE_SIZE);
		break;
	case V86:
		vmx_virtual_8086(leave, LEAVE_SIZE);
		break;
	case PROTECTED:
		vmx_protected_32(leave, LEAVE_SIZE);
		break;
	case PAE:
	case PAE_NO_EPT:
		vmx_protected_32(leave, LEAVE_SIZE);
		vmx_set(GUEST_CR0, 1ull << 31);
		vmx_set(GUEST_CR4, 0x20);
		for (uint64_t i = 0; i < 512; i++)
			pae_directory[i] = i << 21 | 0x83;
		pae_table[0] = (uint64_t)pae_directory | 1;
		pae_table[4] = 3;
		vmwrite(GUEST_CR3, (uint64_t)pae_table);
		vmwrite(GUEST_PDPTE0, pae_table[0]);
		if (mode == PAE_NO_EPT)
			vmx_clear(SECONDARY_PROCESSOR_CONTROLS, CPU2_ENABLE_EPT | CPU2_UNRESTRICTED_GUEST);
		break;
	}
}

static void apply(const struct rule *r)
{
	prepare(r->mode);
	for (unsigned i = 0; i < 4; i++) {
		const struct change *change = &r->change[i];

		if (!change->clear && !change->set)
			continue;
		CHECK_EQ(vmwrite(change->field, (vmread(change->field) & ~change->clear) | change->set) &
		             ~(uint32_t)VM_FAIL_VALID,
		         VM_SUCCEED);
	}
}

static void check_table(const struct rule *table, unsigned count)
{
	for (const struct rule *r = table; r < table + count; r++) {
		uint32_t reported;

		rule(r->sentence);
		apply(r);
		reported = vmx_run();
		if ((reported & 0xff) == EXIT_REASON_ENTRY_INVALID_GUEST_STATE && reported >> 31)
			reported |= (uint32_t)vmread(EXIT_QUALIFICATION) << QUALIFICATION_SHIFT;
		CHECK_EQ(reported, r->expected);
		if (r->expected == CONTROLS || r->expected == HOST) {
			/* The instruction has done nothing else: no exit is recorded. */
			CHECK_EQ(vmread(EXIT_REASON), 0);
		}
		/* Another try fails alike: nothing was marked as checked. */
		if (r->expected >> 30)
			CHECK_EQ(vmx_run() & 0x400000ff, r->expected & 0x400000ff);
	}
	rule("after all of them");
	CHECK_EQ(vmx_try(leave), EXIT_REASON_VMCALL);
}

#define CHECK_TABLE(table) check_table(table, sizeof(table) / sizeof(table[0]))

/* What the table's form cannot say. */
static void others(void)
{
	static uint8_t other[4096] __attribute__((aligned(4096)));
	uint32_t revision = (uint32_t)rdmsr(MSR_IA32_VMX_BASIC);

	rule("the link pointer is not the current VMCS");
	vmx_fresh(leave);
	vmwrite(VMCS_LINK_POINTER, (uint64_t)vmcs_region);
	CHECK_EQ(vmx_run(), GUEST);
	CHECK_EQ(vmread(EXIT_QUALIFICATION), 4);

	rule("a link pointer to a VMCS of this revision");
	vmx_fresh(leave);
	memcpy(other, &revision, 4);
	vmwrite(VMCS_LINK_POINTER, (uint64_t)other);
	CHECK_EQ(vmx_run(), EXIT_REASON_VMCALL);

	rule("a link pointer needs the shadow indicator exactly under VMCS shadowing");
	vmx_fresh(leave);
	other[3] |= 0x80;
	vmwrite(VMCS_LINK_POINTER, (uint64_t)other);
	CHECK_EQ(vmx_run(), GUEST);
	vmx_fresh(leave);
	vmwrite(VMCS_LINK_POINTER, (uint64_t)other);
	vmwrite(VMREAD_BITMAP_ADDRESS, (uint64_t)io_bitmap_a);
	vmwrite(VMWRITE_BITMAP_ADDRESS, (uint64_t)io_bitmap_a);
	vmx_secondary(CPU2_VMCS_SHADOWING);
	CHECK_EQ(vmx_run(), EXIT_REASON_VMCALL);
	other[3] &= 0x7f;
	CHECK_EQ(vmx_run(), GUEST);

	rule("a late failure leaves launch state and the interruption field, and records no more");
	vmx_fresh(leave);
	vmwrite(VM_ENTRY_INTERRUPTION_INFORMATION, 0x80000306);
	vmwrite(VM_EXIT_INSTRUCTION_LENGTH, 9);
	vmwrite(IDT_VECTORING_INFORMATION, 0x12345678);
	vmwrite(GUEST_RFLAGS, 0);
	CHECK_EQ(vmx_run(), GUEST);
	CHECK_EQ(vmread(VM_ENTRY_INTERRUPTION_INFORMATION), 0x80000306);
	CHECK_EQ(vmread(VM_EXIT_INSTRUCTION_LENGTH), 9);
	CHECK_EQ(vmread(IDT_VECTORING_INFORMATION), 0x12345678);
	CHECK_EQ(vmread(GUEST_RFLAGS), 0);
	CHECK_EQ(vmresume(), VM_FAIL_VALID);
	CHECK_EQ(vmread(VM_INSTRUCTION_ERROR), VMERROR_VMRESUME_NOT_LAUNCHED);
	vmwrite(GUEST_RFLAGS, 2);
	CHECK(l2_took(vmx_run(), 6));

	rule("controls come before host state, host state before guest state");
	vmx_fresh(leave);
	vmwrite(GUEST_RFLAGS, 0);
	vmwrite(HOST_CS_SELECTOR, 0);
	vmwrite(CR3_TARGET_COUNT, 5);
	CHECK_EQ(vmx_run(), CONTROLS);
	vmwrite(CR3_TARGET_COUNT, 0);
	CHECK_EQ(vmx_run(), HOST);
	vmwrite(HOST_CS_SELECTOR, CODE64);
	CHECK_EQ(vmx_run(), GUEST);

	rule("a rule that held before is checked again when its field changes after an entry");
	vmx_fresh(leave);
	CHECK_EQ(vmx_run(), EXIT_REASON_VMCALL);
	vmwrite(GUEST_SS_ACCESS_RIGHTS, 0xc091);
	CHECK_EQ(vmx_run(), GUEST);
	vmwrite(GUEST_SS_ACCESS_RIGHTS, 0xc093);
	vmwrite(HOST_TR_BASE, 1ull << 63);
	CHECK_EQ(vmx_run(), HOST);
	vmwrite(HOST_TR_BASE, (uint64_t)runtime_tss);
	vmwrite(VPID, 0);
	vmx_secondary(CPU2_ENABLE_VPID);
	CHECK_EQ(vmx_run(), CONTROLS);
	vmwrite(VPID, 7);
	CHECK_EQ(vmx_run(), EXIT_REASON_VMCALL);
}

void guest_main(void)
{
	vmx_start();
	CHECK_TABLE(allowed);
	CHECK_TABLE(control_rules);
	CHECK_TABLE(host_rules);
	CHECK_TABLE(guest_rules);
	others();
}

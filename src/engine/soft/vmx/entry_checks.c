/*
 * SDM, Checks on VMX Controls and Host-State Area: one row per rule, in the SDM's order. A violated rule
 * about controls is VM-instruction error 7, about host state error 8.
 */
#include "engine/soft/cpu/memory.h"
#include "engine/soft/vmx/entry_rules.h"

#define SECTION_EXECUTION "VM-Execution Control Fields"
#define SECTION_EXIT      "VM-Exit Control Fields"
#define SECTION_ENTRY     "VM-Entry Control Fields"
#define SECTION_HOST_CR   "Checks on Host Control Registers, MSRs, and SSP"
#define SECTION_HOST_SEG  "Checks on Host Segment and Descriptor-Table Registers"
#define SECTION_SIZE      "Checks Related to Address-Space Size"

/* ---- VM-execution control fields ---- */

static bool primary(const struct vmcs *v, uint32_t bit)
{
	return F(PRIMARY_PROCESSOR_CONTROLS) & bit;
}

static bool pin(const struct vmcs *v, uint32_t bit)
{
	return F(PIN_BASED_CONTROLS) & bit;
}

HOLDS(pin_reserved)
{
	return control_allowed(capabilities(cpu)->true_pin, F(PIN_BASED_CONTROLS));
}

HOLDS(primary_reserved)
{
	return control_allowed(capabilities(cpu)->true_primary, F(PRIMARY_PROCESSOR_CONTROLS));
}

HOLDS(secondary_reserved)
{
	return control_allowed(capabilities(cpu)->secondary, vmcs_secondary(v));
}

HOLDS(cr3_targets)
{
	return F(CR3_TARGET_COUNT) <= (capabilities(cpu)->misc >> 16 & 0x1ff);
}

HOLDS(io_bitmaps_aligned)
{
	return !primary(v, CPU_USE_IO_BITMAPS) ||
	       (page_aligned(F(IO_BITMAP_A_ADDRESS)) && page_aligned(F(IO_BITMAP_B_ADDRESS)));
}

HOLDS(io_bitmaps_width)
{
	return !primary(v, CPU_USE_IO_BITMAPS) ||
	       (within_width(cpu, F(IO_BITMAP_A_ADDRESS)) && within_width(cpu, F(IO_BITMAP_B_ADDRESS)));
}

HOLDS(msr_bitmaps_aligned)
{
	return !primary(v, CPU_USE_MSR_BITMAPS) || page_aligned(F(MSR_BITMAP_ADDRESS));
}

HOLDS(msr_bitmaps_width)
{
	return !primary(v, CPU_USE_MSR_BITMAPS) || within_width(cpu, F(MSR_BITMAP_ADDRESS));
}

HOLDS(virtual_apic_aligned)
{
	return !primary(v, CPU_USE_TPR_SHADOW) || page_aligned(F(VIRTUAL_APIC_ADDRESS));
}

HOLDS(virtual_apic_width)
{
	return !primary(v, CPU_USE_TPR_SHADOW) || within_width(cpu, F(VIRTUAL_APIC_ADDRESS));
}

HOLDS(tpr_threshold_reserved)
{
	return !primary(v, CPU_USE_TPR_SHADOW) || secondary(v, CPU2_VIRTUAL_INTERRUPT_DELIVERY) ||
	       !(F(TPR_THRESHOLD) >> 4);
}

HOLDS(tpr_shadow_needed)
{
	return primary(v, CPU_USE_TPR_SHADOW) ||
	       !secondary(v, CPU2_VIRTUALIZE_X2APIC_MODE | CPU2_APIC_REGISTER_VIRTUALIZATION |
	                         CPU2_VIRTUAL_INTERRUPT_DELIVERY);
}

HOLDS(virtual_nmis)
{
	return pin(v, PIN_NMI_EXITING) || !pin(v, PIN_VIRTUAL_NMIS);
}

HOLDS(nmi_window)
{
	return pin(v, PIN_VIRTUAL_NMIS) || !primary(v, CPU_NMI_WINDOW_EXITING);
}

HOLDS(apic_access_aligned)
{
	return !secondary(v, CPU2_VIRTUALIZE_APIC_ACCESSES) || page_aligned(F(APIC_ACCESS_ADDRESS));
}

HOLDS(apic_access_width)
{
	return !secondary(v, CPU2_VIRTUALIZE_APIC_ACCESSES) || within_width(cpu, F(APIC_ACCESS_ADDRESS));
}

HOLDS(x2apic_or_accesses)
{
	return !secondary(v, CPU2_VIRTUALIZE_X2APIC_MODE) || !secondary(v, CPU2_VIRTUALIZE_APIC_ACCESSES);
}

HOLDS(interrupt_delivery)
{
	return !secondary(v, CPU2_VIRTUAL_INTERRUPT_DELIVERY) || pin(v, PIN_EXTERNAL_INTERRUPT_EXITING);
}

HOLDS(posted_delivery)
{
	return !pin(v, PIN_PROCESS_POSTED_INTERRUPTS) || secondary(v, CPU2_VIRTUAL_INTERRUPT_DELIVERY);
}

HOLDS(posted_acknowledge)
{
	return !pin(v, PIN_PROCESS_POSTED_INTERRUPTS) || F(VM_EXIT_CONTROLS) & EXIT_ACKNOWLEDGE_INTERRUPT;
}

HOLDS(posted_vector)
{
	return !pin(v, PIN_PROCESS_POSTED_INTERRUPTS) || F(POSTED_INTERRUPT_NOTIFICATION_VECTOR) <= 0xff;
}

HOLDS(posted_descriptor_aligned)
{
	return !pin(v, PIN_PROCESS_POSTED_INTERRUPTS) || !(F(POSTED_INTERRUPT_DESCRIPTOR_ADDRESS) & 0x3f);
}

HOLDS(posted_descriptor_width)
{
	return !pin(v, PIN_PROCESS_POSTED_INTERRUPTS) ||
	       within_width(cpu, F(POSTED_INTERRUPT_DESCRIPTOR_ADDRESS));
}

HOLDS(vpid_nonzero)
{
	return !secondary(v, CPU2_ENABLE_VPID) || F(VPID) != 0;
}

HOLDS(eptp_memory_type)
{
	uint64_t offered = capabilities(cpu)->ept_vpid;
	unsigned type = EPTP_MEMORY_TYPE(F(EPT_POINTER));

	return !secondary(v, CPU2_ENABLE_EPT) || (type == 6 && offered & EPT_VPID_CAP_WB) ||
	       (type == 0 && offered & EPT_VPID_CAP_UC);
}

HOLDS(eptp_walk_length)
{
	return !secondary(v, CPU2_ENABLE_EPT) || EPTP_WALK_LENGTH(F(EPT_POINTER)) == 3;
}

HOLDS(eptp_accessed_dirty)
{
	return !secondary(v, CPU2_ENABLE_EPT) || !(F(EPT_POINTER) & EPTP_ACCESSED_DIRTY) ||
	       capabilities(cpu)->ept_vpid & EPT_VPID_CAP_ACCESSED_DIRTY;
}

HOLDS(eptp_reserved)
{
	return !secondary(v, CPU2_ENABLE_EPT) ||
	       (!(F(EPT_POINTER) & 0xf80) && within_width(cpu, F(EPT_POINTER)));
}

HOLDS(pml_needs_ept)
{
	return !secondary(v, CPU2_ENABLE_PML) || secondary(v, CPU2_ENABLE_EPT);
}

HOLDS(pml_aligned)
{
	return !secondary(v, CPU2_ENABLE_PML) || page_aligned(F(PML_ADDRESS));
}

HOLDS(pml_width)
{
	return !secondary(v, CPU2_ENABLE_PML) || within_width(cpu, F(PML_ADDRESS));
}

HOLDS(unrestricted_needs_ept)
{
	return !secondary(v, CPU2_UNRESTRICTED_GUEST) || secondary(v, CPU2_ENABLE_EPT);
}

HOLDS(mode_based_needs_ept)
{
	return !secondary(v, CPU2_MODE_BASED_EXECUTE) || secondary(v, CPU2_ENABLE_EPT);
}

HOLDS(shadowing_aligned)
{
	return !secondary(v, CPU2_VMCS_SHADOWING) ||
	       (page_aligned(F(VMREAD_BITMAP_ADDRESS)) && page_aligned(F(VMWRITE_BITMAP_ADDRESS)));
}

HOLDS(shadowing_width)
{
	return !secondary(v, CPU2_VMCS_SHADOWING) ||
	       (within_width(cpu, F(VMREAD_BITMAP_ADDRESS)) && within_width(cpu, F(VMWRITE_BITMAP_ADDRESS)));
}

#define EXECUTION(sentence, function, ...)                                                                   \
	{                                                                                                    \
		SECTION_EXECUTION, sentence, VMERROR_ENTRY_CONTROLS, {__VA_ARGS__}, function                 \
	}

static const struct vmx_rule execution_rules[] = {
    EXECUTION("reserved bits of the pin-based controls must be as IA32_VMX_TRUE_PINBASED_CTLS says",
              pin_reserved, VMCS_PIN_BASED_CONTROLS),
    EXECUTION(
        "reserved bits of the primary processor-based controls must be as IA32_VMX_TRUE_PROCBASED_CTLS says",
        primary_reserved, VMCS_PRIMARY_PROCESSOR_CONTROLS),
    EXECUTION(
        "reserved bits of the secondary processor-based controls must be as IA32_VMX_PROCBASED_CTLS2 says",
        secondary_reserved, VMCS_SECONDARY_PROCESSOR_CONTROLS),
    EXECUTION("the CR3-target count must not be greater than IA32_VMX_MISC[24:16]", cr3_targets,
              VMCS_CR3_TARGET_COUNT),
    EXECUTION("with \"use I/O bitmaps\", bits 11:0 of both I/O-bitmap addresses must be 0",
              io_bitmaps_aligned, VMCS_PRIMARY_PROCESSOR_CONTROLS, VMCS_IO_BITMAP_A_ADDRESS,
              VMCS_IO_BITMAP_B_ADDRESS),
    EXECUTION("with \"use I/O bitmaps\", neither I/O-bitmap address may exceed the physical-address width",
              io_bitmaps_width, VMCS_PRIMARY_PROCESSOR_CONTROLS, VMCS_IO_BITMAP_A_ADDRESS,
              VMCS_IO_BITMAP_B_ADDRESS),
    EXECUTION("with \"use MSR bitmaps\", bits 11:0 of the MSR-bitmap address must be 0", msr_bitmaps_aligned,
              VMCS_PRIMARY_PROCESSOR_CONTROLS, VMCS_MSR_BITMAP_ADDRESS),
    EXECUTION("with \"use MSR bitmaps\", the MSR-bitmap address must not exceed the physical-address width",
              msr_bitmaps_width, VMCS_PRIMARY_PROCESSOR_CONTROLS, VMCS_MSR_BITMAP_ADDRESS),
    EXECUTION("with \"use TPR shadow\", bits 11:0 of the virtual-APIC address must be 0",
              virtual_apic_aligned, VMCS_PRIMARY_PROCESSOR_CONTROLS, VMCS_VIRTUAL_APIC_ADDRESS),
    EXECUTION("with \"use TPR shadow\", the virtual-APIC address must not exceed the physical-address width",
              virtual_apic_width, VMCS_PRIMARY_PROCESSOR_CONTROLS, VMCS_VIRTUAL_APIC_ADDRESS),
    EXECUTION(
        "with \"use TPR shadow\" and no virtual-interrupt delivery, bits 31:4 of the TPR threshold must be 0",
        tpr_threshold_reserved, VMCS_PRIMARY_PROCESSOR_CONTROLS, VMCS_SECONDARY_PROCESSOR_CONTROLS,
        VMCS_TPR_THRESHOLD),
    EXECUTION("without \"use TPR shadow\", \"virtualize x2APIC mode\", \"APIC-register virtualization\" and "
              "\"virtual-interrupt delivery\" must be 0",
              tpr_shadow_needed, VMCS_PRIMARY_PROCESSOR_CONTROLS, VMCS_SECONDARY_PROCESSOR_CONTROLS),
    EXECUTION("without \"NMI exiting\", \"virtual NMIs\" must be 0", virtual_nmis, VMCS_PIN_BASED_CONTROLS),
    EXECUTION("without \"virtual NMIs\", \"NMI-window exiting\" must be 0", nmi_window,
              VMCS_PIN_BASED_CONTROLS, VMCS_PRIMARY_PROCESSOR_CONTROLS),
    EXECUTION("with \"virtualize APIC accesses\", bits 11:0 of the APIC-access address must be 0",
              apic_access_aligned, VMCS_SECONDARY_PROCESSOR_CONTROLS, VMCS_APIC_ACCESS_ADDRESS),
    EXECUTION("with \"virtualize APIC accesses\", the APIC-access address must not exceed the "
              "physical-address width",
              apic_access_width, VMCS_SECONDARY_PROCESSOR_CONTROLS, VMCS_APIC_ACCESS_ADDRESS),
    EXECUTION("with \"virtualize x2APIC mode\", \"virtualize APIC accesses\" must be 0", x2apic_or_accesses,
              VMCS_SECONDARY_PROCESSOR_CONTROLS),
    EXECUTION("with \"virtual-interrupt delivery\", \"external-interrupt exiting\" must be 1",
              interrupt_delivery, VMCS_PIN_BASED_CONTROLS, VMCS_SECONDARY_PROCESSOR_CONTROLS),
    EXECUTION("with \"process posted interrupts\", \"virtual-interrupt delivery\" must be 1", posted_delivery,
              VMCS_PIN_BASED_CONTROLS, VMCS_SECONDARY_PROCESSOR_CONTROLS),
    EXECUTION("with \"process posted interrupts\", \"acknowledge interrupt on exit\" must be 1",
              posted_acknowledge, VMCS_PIN_BASED_CONTROLS, VMCS_VM_EXIT_CONTROLS),
    EXECUTION("with \"process posted interrupts\", the notification vector must be in 0-255", posted_vector,
              VMCS_PIN_BASED_CONTROLS, VMCS_POSTED_INTERRUPT_NOTIFICATION_VECTOR),
    EXECUTION("with \"process posted interrupts\", bits 5:0 of the descriptor address must be 0",
              posted_descriptor_aligned, VMCS_PIN_BASED_CONTROLS, VMCS_POSTED_INTERRUPT_DESCRIPTOR_ADDRESS),
    EXECUTION("with \"process posted interrupts\", the descriptor address must not exceed the "
              "physical-address width",
              posted_descriptor_width, VMCS_PIN_BASED_CONTROLS, VMCS_POSTED_INTERRUPT_DESCRIPTOR_ADDRESS),
    EXECUTION("with \"enable VPID\", the VPID must not be 0000H", vpid_nonzero,
              VMCS_SECONDARY_PROCESSOR_CONTROLS, VMCS_VPID),
    EXECUTION("with \"enable EPT\", the EPTP's memory type (bits 2:0) must be one that IA32_VMX_EPT_VPID_CAP "
              "offers",
              eptp_memory_type, VMCS_SECONDARY_PROCESSOR_CONTROLS, VMCS_EPT_POINTER),
    EXECUTION("with \"enable EPT\", the EPTP's bits 5:3 must be 3: a page-walk length of 4", eptp_walk_length,
              VMCS_SECONDARY_PROCESSOR_CONTROLS, VMCS_EPT_POINTER),
    EXECUTION(
        "with \"enable EPT\", the EPTP's bit 6 must be 0 where accessed and dirty flags are not offered",
        eptp_accessed_dirty, VMCS_SECONDARY_PROCESSOR_CONTROLS, VMCS_EPT_POINTER),
    EXECUTION(
        "with \"enable EPT\", the EPTP's bits 11:7 and those beyond the physical-address width must be 0",
        eptp_reserved, VMCS_SECONDARY_PROCESSOR_CONTROLS, VMCS_EPT_POINTER),
    EXECUTION("with \"enable PML\", \"enable EPT\" must be 1", pml_needs_ept,
              VMCS_SECONDARY_PROCESSOR_CONTROLS),
    EXECUTION("with \"enable PML\", bits 11:0 of the PML address must be 0", pml_aligned,
              VMCS_SECONDARY_PROCESSOR_CONTROLS, VMCS_PML_ADDRESS),
    EXECUTION("with \"enable PML\", the PML address must not exceed the physical-address width", pml_width,
              VMCS_SECONDARY_PROCESSOR_CONTROLS, VMCS_PML_ADDRESS),
    EXECUTION("with \"unrestricted guest\", \"enable EPT\" must be 1", unrestricted_needs_ept,
              VMCS_SECONDARY_PROCESSOR_CONTROLS),
    EXECUTION("with \"mode-based execute control for EPT\", \"enable EPT\" must be 1", mode_based_needs_ept,
              VMCS_SECONDARY_PROCESSOR_CONTROLS),
    EXECUTION("with \"VMCS shadowing\", bits 11:0 of the VMREAD- and VMWRITE-bitmap addresses must be 0",
              shadowing_aligned, VMCS_SECONDARY_PROCESSOR_CONTROLS, VMCS_VMREAD_BITMAP_ADDRESS,
              VMCS_VMWRITE_BITMAP_ADDRESS),
    EXECUTION("with \"VMCS shadowing\", neither bitmap address may exceed the physical-address width",
              shadowing_width, VMCS_SECONDARY_PROCESSOR_CONTROLS, VMCS_VMREAD_BITMAP_ADDRESS,
              VMCS_VMWRITE_BITMAP_ADDRESS),
};

/* Looks at the virtual-APIC page, so it cannot be skipped. */
HOLDS(tpr_threshold_above)
{
	return !primary(v, CPU_USE_TPR_SHADOW) ||
	       secondary(v, CPU2_VIRTUALIZE_APIC_ACCESSES | CPU2_VIRTUAL_INTERRUPT_DELIVERY) ||
	       F(TPR_THRESHOLD) == 0 ||
	       (F(TPR_THRESHOLD) & 15) <=
	           phys_read((struct cpu *)cpu, GPA(F(VIRTUAL_APIC_ADDRESS) + 0x80), 1) >> 4;
}

static const struct vmx_rule virtual_tpr_rules[] = {
    EXECUTION("with \"use TPR shadow\" and neither \"virtualize APIC accesses\" nor \"virtual-interrupt "
              "delivery\", the "
              "TPR threshold must not be greater than VTPR[7:4]",
              tpr_threshold_above, VMCS_PRIMARY_PROCESSOR_CONTROLS, VMCS_SECONDARY_PROCESSOR_CONTROLS,
              VMCS_TPR_THRESHOLD, VMCS_VIRTUAL_APIC_ADDRESS),
};

/* ---- VM-exit control fields ---- */

HOLDS(exit_reserved)
{
	return control_allowed(capabilities(cpu)->true_exit, F(VM_EXIT_CONTROLS));
}

HOLDS(save_timer)
{
	return pin(v, PIN_ACTIVATE_PREEMPTION_TIMER) || !(F(VM_EXIT_CONTROLS) & EXIT_SAVE_PREEMPTION_TIMER);
}

static const struct vmx_rule exit_rules[] = {
    {SECTION_EXIT,
     "reserved bits of the VM-exit controls must be as IA32_VMX_TRUE_EXIT_CTLS says",
     VMERROR_ENTRY_CONTROLS,
     {VMCS_VM_EXIT_CONTROLS},
     exit_reserved},
    {SECTION_EXIT,
     "without \"activate VMX-preemption timer\", \"save VMX-preemption timer value\" must be 0",
     VMERROR_ENTRY_CONTROLS,
     {VMCS_PIN_BASED_CONTROLS, VMCS_VM_EXIT_CONTROLS},
     save_timer},
};

static bool list_aligned(uint64_t count, uint64_t address)
{
	return count == 0 || !(address & 15);
}

/* Neither the first byte nor the last one exceeds the width; the sum cannot wrap for a count of 32 bits then.
 */
static bool list_width(const struct cpu *cpu, uint64_t count, uint64_t address)
{
	return count == 0 || (within_width(cpu, address) && within_width(cpu, address + count * 16 - 1));
}

HOLDS(exit_store_aligned)
{
	return list_aligned(F(VM_EXIT_MSR_STORE_COUNT), F(VM_EXIT_MSR_STORE_ADDRESS));
}

HOLDS(exit_store_width)
{
	return list_width(cpu, F(VM_EXIT_MSR_STORE_COUNT), F(VM_EXIT_MSR_STORE_ADDRESS));
}

HOLDS(exit_load_aligned)
{
	return list_aligned(F(VM_EXIT_MSR_LOAD_COUNT), F(VM_EXIT_MSR_LOAD_ADDRESS));
}

HOLDS(exit_load_width)
{
	return list_width(cpu, F(VM_EXIT_MSR_LOAD_COUNT), F(VM_EXIT_MSR_LOAD_ADDRESS));
}

HOLDS(entry_load_aligned)
{
	return list_aligned(F(VM_ENTRY_MSR_LOAD_COUNT), F(VM_ENTRY_MSR_LOAD_ADDRESS));
}

HOLDS(entry_load_width)
{
	return list_width(cpu, F(VM_ENTRY_MSR_LOAD_COUNT), F(VM_ENTRY_MSR_LOAD_ADDRESS));
}

static const struct vmx_rule exit_list_rules[] = {
    {SECTION_EXIT,
     "where the VM-exit MSR-store count is not 0, bits 3:0 of its address must be 0",
     VMERROR_ENTRY_CONTROLS,
     {VMCS_VM_EXIT_MSR_STORE_COUNT, VMCS_VM_EXIT_MSR_STORE_ADDRESS},
     exit_store_aligned},
    {SECTION_EXIT,
     "the VM-exit MSR-store area must lie within the physical-address width",
     VMERROR_ENTRY_CONTROLS,
     {VMCS_VM_EXIT_MSR_STORE_COUNT, VMCS_VM_EXIT_MSR_STORE_ADDRESS},
     exit_store_width},
    {SECTION_EXIT,
     "where the VM-exit MSR-load count is not 0, bits 3:0 of its address must be 0",
     VMERROR_ENTRY_CONTROLS,
     {VMCS_VM_EXIT_MSR_LOAD_COUNT, VMCS_VM_EXIT_MSR_LOAD_ADDRESS},
     exit_load_aligned},
    {SECTION_EXIT,
     "the VM-exit MSR-load area must lie within the physical-address width",
     VMERROR_ENTRY_CONTROLS,
     {VMCS_VM_EXIT_MSR_LOAD_COUNT, VMCS_VM_EXIT_MSR_LOAD_ADDRESS},
     exit_load_width},
};

/* ---- VM-entry control fields ---- */

HOLDS(entry_reserved)
{
	return control_allowed(capabilities(cpu)->true_entry, F(VM_ENTRY_CONTROLS));
}

HOLDS(entry_smm)
{
	return !(F(VM_ENTRY_CONTROLS) & (ENTRY_TO_SMM | ENTRY_DEACTIVATE_DUAL_MONITOR));
}

static const struct vmx_rule entry_rules[] = {
    {SECTION_ENTRY,
     "reserved bits of the VM-entry controls must be as IA32_VMX_TRUE_ENTRY_CTLS says",
     VMERROR_ENTRY_CONTROLS,
     {VMCS_VM_ENTRY_CONTROLS},
     entry_reserved},
    {SECTION_ENTRY,
     "outside SMM, \"entry to SMM\" and \"deactivate dual-monitor treatment\" must be 0",
     VMERROR_ENTRY_CONTROLS,
     {VMCS_VM_ENTRY_CONTROLS},
     entry_smm},
};

static uint32_t injection(const struct vmcs *v)
{
	return F(VM_ENTRY_INTERRUPTION_INFORMATION);
}

HOLDS(injection_type)
{
	return !injects(v) || (INTERRUPTION_TYPE(injection(v)) != 1 &&
	                       (INTERRUPTION_TYPE(injection(v)) != EVENT_OTHER ||
	                        capabilities(cpu)->primary >> 32 & CPU_MONITOR_TRAP_FLAG));
}

HOLDS(injection_vector_nmi)
{
	return !injects_type(v, EVENT_NMI) || injected_vector(v) == VECTOR_NMI;
}

HOLDS(injection_vector_exception)
{
	return !injects_type(v, EVENT_EXCEPTION) || injected_vector(v) <= 31;
}

HOLDS(injection_vector_other)
{
	return !injects_type(v, EVENT_OTHER) || injected_vector(v) == 0;
}

/* Exceptions that push an error code: #DF, #TS, #NP, #SS, #GP, #PF, #AC. */
#define VECTORS_WITH_ERROR (1u << 8 | 1u << 10 | 1u << 11 | 1u << 12 | 1u << 13 | 1u << 14 | 1u << 17)

HOLDS(injection_error_code)
{
	bool delivers = (!secondary(v, CPU2_UNRESTRICTED_GUEST) || F(GUEST_CR0) & CR0_PE) &&
	                injects_type(v, EVENT_EXCEPTION) && injected_vector(v) <= 31 &&
	                VECTORS_WITH_ERROR >> injected_vector(v) & 1;

	return !injects(v) || !!(injection(v) & INTERRUPTION_ERROR_CODE) == delivers;
}

HOLDS(injection_reserved)
{
	return !injects(v) || !(injection(v) & INTERRUPTION_RESERVED_ENTRY);
}

HOLDS(injection_error_value)
{
	return !injects(v) || !(injection(v) & INTERRUPTION_ERROR_CODE) ||
	       !(F(VM_ENTRY_EXCEPTION_ERROR_CODE) >> 16);
}

HOLDS(injection_length)
{
	uint64_t length = F(VM_ENTRY_INSTRUCTION_LENGTH);

	if (!injects_type(v, EVENT_SOFT_INT) && !injects_type(v, EVENT_PRIV_SOFT) &&
	    !injects_type(v, EVENT_SOFT_EXCEPTION))
		return true;
	return length <= 15 && (length > 0 || capabilities(cpu)->misc & VMX_MISC_ZERO_LENGTH_INJECTION);
}

#define INJECTION(sentence, function, ...)                                                                   \
	{                                                                                                    \
		SECTION_ENTRY, sentence, VMERROR_ENTRY_CONTROLS,                                             \
		    {VMCS_VM_ENTRY_INTERRUPTION_INFORMATION, ##__VA_ARGS__}, function                        \
	}

static const struct vmx_rule injection_rules[] = {
    INJECTION(
        "an injected event's interruption type must not be 1, and 7 only where the monitor trap flag exists",
        injection_type),
    INJECTION("an injected NMI must have vector 2", injection_vector_nmi),
    INJECTION("an injected hardware exception must have a vector of at most 31", injection_vector_exception),
    INJECTION("an injected \"other event\" must have vector 0: a pending MTF VM exit",
              injection_vector_other),
    INJECTION("the deliver-error-code bit must be 1 exactly for a hardware exception that has an error code, "
              "in a guest "
              "with CR0.PE = 1 or without \"unrestricted guest\"",
              injection_error_code, VMCS_SECONDARY_PROCESSOR_CONTROLS, VMCS_GUEST_CR0),
    INJECTION("bits 30:12 of the VM-entry interruption information must be 0", injection_reserved),
    INJECTION("where an error code is delivered, bits 31:16 of the VM-entry exception error code must be 0",
              injection_error_value, VMCS_VM_ENTRY_EXCEPTION_ERROR_CODE),
    INJECTION("an injected software interrupt or exception must have an instruction length of 0-15",
              injection_length, VMCS_VM_ENTRY_INSTRUCTION_LENGTH),
};

static const struct vmx_rule entry_list_rules[] = {
    {SECTION_ENTRY,
     "where the VM-entry MSR-load count is not 0, bits 3:0 of its address must be 0",
     VMERROR_ENTRY_CONTROLS,
     {VMCS_VM_ENTRY_MSR_LOAD_COUNT, VMCS_VM_ENTRY_MSR_LOAD_ADDRESS},
     entry_load_aligned},
    {SECTION_ENTRY,
     "the VM-entry MSR-load area must lie within the physical-address width",
     VMERROR_ENTRY_CONTROLS,
     {VMCS_VM_ENTRY_MSR_LOAD_COUNT, VMCS_VM_ENTRY_MSR_LOAD_ADDRESS},
     entry_load_width},
};

/* ---- host control registers and MSRs ---- */

static bool host_64(const struct vmcs *v)
{
	return F(VM_EXIT_CONTROLS) & EXIT_HOST_ADDRESS_SPACE_SIZE;
}

HOLDS(host_cr0)
{
	return !(capabilities(cpu)->cr0_fixed0 & ~F(HOST_CR0)) &&
	       !(F(HOST_CR0) & ~capabilities(cpu)->cr0_fixed1);
}

HOLDS(host_cr4)
{
	return !(capabilities(cpu)->cr4_fixed0 & ~F(HOST_CR4)) &&
	       !(F(HOST_CR4) & ~capabilities(cpu)->cr4_fixed1);
}

HOLDS(host_cr3)
{
	return within_width(cpu, F(HOST_CR3));
}

HOLDS(host_sysenter_esp)
{
	return is_canonical(F(HOST_IA32_SYSENTER_ESP));
}

HOLDS(host_sysenter_eip)
{
	return is_canonical(F(HOST_IA32_SYSENTER_EIP));
}

HOLDS(host_pat)
{
	return !(F(VM_EXIT_CONTROLS) & EXIT_LOAD_IA32_PAT) || pat_valid(F(HOST_IA32_PAT));
}

HOLDS(host_efer_reserved)
{
	return !(F(VM_EXIT_CONTROLS) & EXIT_LOAD_IA32_EFER) ||
	       !(F(HOST_IA32_EFER) & ~capabilities(cpu)->efer_allowed);
}

HOLDS(host_efer_size)
{
	return !(F(VM_EXIT_CONTROLS) & EXIT_LOAD_IA32_EFER) ||
	       (!!(F(HOST_IA32_EFER) & EFER_LMA) == host_64(v) &&
	        !!(F(HOST_IA32_EFER) & EFER_LME) == host_64(v));
}

#define HOST(section, sentence, function, ...)                                                               \
	{                                                                                                    \
		section, sentence, VMERROR_ENTRY_HOST_STATE, {__VA_ARGS__}, function                         \
	}

static const struct vmx_rule host_register_rules[] = {
    HOST(SECTION_HOST_CR, "host CR0 must have the bits that IA32_VMX_CR0_FIXED0 and _FIXED1 fix", host_cr0,
         VMCS_HOST_CR0),
    HOST(SECTION_HOST_CR, "host CR4 must have the bits that IA32_VMX_CR4_FIXED0 and _FIXED1 fix", host_cr4,
         VMCS_HOST_CR4),
    HOST(SECTION_HOST_CR, "host IA32_SYSENTER_ESP must be canonical", host_sysenter_esp,
         VMCS_HOST_IA32_SYSENTER_ESP),
    HOST(SECTION_HOST_CR, "host IA32_SYSENTER_EIP must be canonical", host_sysenter_eip,
         VMCS_HOST_IA32_SYSENTER_EIP),
    HOST(SECTION_HOST_CR, "with \"load IA32_PAT\", every byte of host IA32_PAT must be 0, 1, 4, 5, 6 or 7",
         host_pat, VMCS_VM_EXIT_CONTROLS, VMCS_HOST_IA32_PAT),
    HOST(SECTION_HOST_CR, "with \"load IA32_EFER\", reserved bits of host IA32_EFER must be 0",
         host_efer_reserved, VMCS_VM_EXIT_CONTROLS, VMCS_HOST_IA32_EFER),
    HOST(SECTION_HOST_CR,
         "with \"load IA32_EFER\", LMA and LME of host IA32_EFER must equal \"host address-space size\"",
         host_efer_size, VMCS_VM_EXIT_CONTROLS, VMCS_HOST_IA32_EFER),
};

static const struct vmx_rule host_cr3_rules[] = {
    HOST(SECTION_HOST_CR, "host CR3 must not exceed the physical-address width", host_cr3, VMCS_HOST_CR3),
};

/* ---- host segment and descriptor-table registers ---- */

HOLDS(host_selectors)
{
	return !((F(HOST_ES_SELECTOR) | F(HOST_CS_SELECTOR) | F(HOST_SS_SELECTOR) | F(HOST_DS_SELECTOR) |
	          F(HOST_FS_SELECTOR) | F(HOST_GS_SELECTOR)) &
	         7);
}

HOLDS(host_tr_selector)
{
	return !(F(HOST_TR_SELECTOR) & 7);
}

HOLDS(host_cs_null)
{
	return F(HOST_CS_SELECTOR) != 0;
}

HOLDS(host_tr_null)
{
	return F(HOST_TR_SELECTOR) != 0;
}

HOLDS(host_ss_null)
{
	return host_64(v) || F(HOST_SS_SELECTOR) != 0;
}

HOLDS(host_fs_gs_base)
{
	return is_canonical(F(HOST_FS_BASE)) && is_canonical(F(HOST_GS_BASE));
}

HOLDS(host_table_base)
{
	return is_canonical(F(HOST_GDTR_BASE)) && is_canonical(F(HOST_IDTR_BASE));
}

HOLDS(host_tr_base)
{
	return is_canonical(F(HOST_TR_BASE));
}

static const struct vmx_rule host_selector_rules[] = {
    HOST(SECTION_HOST_SEG, "RPL and TI of the host ES, CS, SS, DS, FS and GS selectors must be 0",
         host_selectors, VMCS_HOST_ES_SELECTOR, VMCS_HOST_CS_SELECTOR, VMCS_HOST_SS_SELECTOR,
         VMCS_HOST_DS_SELECTOR, VMCS_HOST_FS_SELECTOR, VMCS_HOST_GS_SELECTOR),
    HOST(SECTION_HOST_SEG, "RPL and TI of the host TR selector must be 0", host_tr_selector,
         VMCS_HOST_TR_SELECTOR),
    HOST(SECTION_HOST_SEG, "the host CS selector must not be 0000H", host_cs_null, VMCS_HOST_CS_SELECTOR),
    HOST(SECTION_HOST_SEG, "the host TR selector must not be 0000H", host_tr_null, VMCS_HOST_TR_SELECTOR),
    HOST(SECTION_HOST_SEG, "without \"host address-space size\", the host SS selector must not be 0000H",
         host_ss_null, VMCS_VM_EXIT_CONTROLS, VMCS_HOST_SS_SELECTOR),
};

static const struct vmx_rule host_base_rules[] = {
    HOST(SECTION_HOST_SEG, "host FS and GS bases must be canonical", host_fs_gs_base, VMCS_HOST_FS_BASE,
         VMCS_HOST_GS_BASE),
    HOST(SECTION_HOST_SEG, "host GDTR and IDTR bases must be canonical", host_table_base, VMCS_HOST_GDTR_BASE,
         VMCS_HOST_IDTR_BASE),
    HOST(SECTION_HOST_SEG, "the host TR base must be canonical", host_tr_base, VMCS_HOST_TR_BASE),
};

/* ---- address-space size ---- */

HOLDS(outside_ia32e)
{
	return cpu->efer & EFER_LMA || (!ia32e_guest(v) && !host_64(v));
}

HOLDS(in_ia32e)
{
	return !(cpu->efer & EFER_LMA) || host_64(v);
}

HOLDS(host_32_guest)
{
	return host_64(v) || !ia32e_guest(v);
}

HOLDS(host_32_pcide)
{
	return host_64(v) || !(F(HOST_CR4) & CR4_PCIDE);
}

HOLDS(host_32_rip)
{
	return host_64(v) || !(F(HOST_RIP) >> 32);
}

HOLDS(host_64_pae)
{
	return !host_64(v) || F(HOST_CR4) & CR4_PAE;
}

HOLDS(host_64_rip)
{
	return !host_64(v) || is_canonical(F(HOST_RIP));
}

/* Looks at the present IA32_EFER, so it cannot be skipped. */
static const struct vmx_rule present_size_rules[] = {
    HOST(SECTION_SIZE, "outside IA-32e mode, \"IA-32e mode guest\" and \"host address-space size\" must be 0",
         outside_ia32e, VMCS_VM_ENTRY_CONTROLS, VMCS_VM_EXIT_CONTROLS),
    HOST(SECTION_SIZE, "in IA-32e mode, \"host address-space size\" must be 1", in_ia32e,
         VMCS_VM_EXIT_CONTROLS),
};

static const struct vmx_rule size_rules[] = {
    HOST(SECTION_SIZE, "without \"host address-space size\", \"IA-32e mode guest\" must be 0", host_32_guest,
         VMCS_VM_EXIT_CONTROLS, VMCS_VM_ENTRY_CONTROLS),
    HOST(SECTION_SIZE, "without \"host address-space size\", host CR4.PCIDE must be 0", host_32_pcide,
         VMCS_VM_EXIT_CONTROLS, VMCS_HOST_CR4),
    HOST(SECTION_SIZE, "without \"host address-space size\", bits 63:32 of host RIP must be 0", host_32_rip,
         VMCS_VM_EXIT_CONTROLS, VMCS_HOST_RIP),
    HOST(SECTION_SIZE, "with \"host address-space size\", host CR4.PAE must be 1", host_64_pae,
         VMCS_VM_EXIT_CONTROLS, VMCS_HOST_CR4),
    HOST(SECTION_SIZE, "with \"host address-space size\", host RIP must be canonical", host_64_rip,
         VMCS_VM_EXIT_CONTROLS, VMCS_HOST_RIP),
};

HOLDS(no_injection)
{
	return !injects(v);
}

#define G(name) VMCS_GROUP_##name

const struct rule_group vmx_rules_controls_and_host[] = {
    RULE_GROUP(execution_rules, G(CONTROLS) | G(WINDOWS) | G(APIC)),
    RULE_GROUP(virtual_tpr_rules, DEPENDS_ALWAYS),
    RULE_GROUP(exit_rules, G(CONTROLS)),
    RULE_GROUP(exit_list_rules, G(MSR_LISTS)),
    RULE_GROUP(entry_rules, G(CONTROLS)),
    RULE_GROUP_QUICK(injection_rules, G(CONTROLS) | G(WINDOWS) | G(INJECTION) | G(GUEST_CONTROL_REGISTERS),
                     no_injection),
    RULE_GROUP(entry_list_rules, G(MSR_LISTS)),
    RULE_GROUP(host_register_rules, G(CONTROLS) | G(HOST_CONTROL_REGISTERS)),
    RULE_GROUP(host_cr3_rules, G(HOST_CR3)),
    RULE_GROUP(host_selector_rules, G(CONTROLS) | G(HOST_SEGMENTS)),
    RULE_GROUP(host_base_rules, G(HOST_BASES)),
    RULE_GROUP(present_size_rules, DEPENDS_ALWAYS),
    RULE_GROUP(size_rules, G(CONTROLS) | G(HOST_CONTROL_REGISTERS) | G(HOST_RIP)),
};
const unsigned vmx_rules_controls_and_host_count =
    sizeof(vmx_rules_controls_and_host) / sizeof(vmx_rules_controls_and_host[0]);

const struct vmx_rule *vmx_check_controls_and_host(struct cpu *cpu, struct vmcs *vmcs)
{
	const struct vmx_rule *rule = first_violated(
	    cpu, vmcs, vmcs->dirty_checks, vmx_rules_controls_and_host, vmx_rules_controls_and_host_count);

	cpu->vmx->failed_rule = rule;
	return rule;
}

const struct vmx_rule *vmx_rule_at(unsigned i)
{
	for (unsigned g = 0; g < vmx_rules_controls_and_host_count + vmx_rules_guest_count; g++) {
		const struct rule_group *group =
		    g < vmx_rules_controls_and_host_count
		        ? &vmx_rules_controls_and_host[g]
		        : &vmx_rules_guest[g - vmx_rules_controls_and_host_count];

		if (i < group->count)
			return &group->rule[i];
		i -= group->count;
	}
	return NULL;
}

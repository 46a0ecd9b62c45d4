/*
 * VM exit (SDM, VM Exits): records why, saves guest state, stores MSRs, loads host state, loads MSRs. A
 * VM-entry failure after the checks on controls shares the second half. Everything ends in cpu_leave(), in
 * root operation.
 */
#include "engine/soft/vmx/vmx_local.h"

#define SEGMENT_FIELD(first, s) ((enum vmcs_field)((first) + (s)))

/* Segments as "Loading Host Segment and Descriptor-Table Registers" fixes them. */
#define HOST_CS_RIGHTS   (0xbu | RIGHTS_S | RIGHTS_P | RIGHTS_G)
#define HOST_DATA_RIGHTS (0x3u | RIGHTS_S | RIGHTS_P | RIGHTS_DB | RIGHTS_G)
#define HOST_TR_RIGHTS   (0xbu | RIGHTS_P)
#define HOST_TR_LIMIT    0x67
#define HOST_DT_LIMIT    0xffff
#define HOST_DR7         0x400

/* SDM, VMX Aborts: the indicator's values. */
#define ABORT_SAVING_MSRS  1
#define ABORT_HOST_PDPTES  2
#define ABORT_LOADING_MSRS 4

/* Back to root operation: the address space and everything that non-root operation had switched on. */
static void leave_nonroot(struct cpu *cpu)
{
	struct vmx_runtime *rt = vmx_runtime(cpu);

	cpu->virt = NULL;
	cpu->vmx->in_nonroot = false;
	cpu->init_blocked = cpu->vmx->in_vmx_operation;
	cpu->nested_paging = false;
	cpu->eptp = 0;
	cpu->apic_access_page = 0;
	cpu->monitor_trap = false;
	cpu->vpid = 0;
	if (!(rt->secondary & CPU2_ENABLE_VPID))
		tlb_flush_vpid(cpu, 1, 0, GLA(0));
}

/* SDM, VMX Aborts: the processor is shut down until RESET. */
static _Noreturn void abort_vmx(struct cpu *cpu, uint32_t indicator)
{
	vmcs_write_abort(cpu, vmx_runtime(cpu)->vmcs, indicator);
	if (unlikely(cpu->trace & ENGINE_TRACE_VMX)) {
		fpu_stash(cpu);
		cpu_trace(cpu, "VMX abort, indicator %u", indicator);
	}
	vmx_runtime(cpu)->vmcs = NULL;
	cpu->activity = ACTIVITY_SHUTDOWN;
	tlb_select_context(cpu);
	cpu_update_mode(cpu);
	cpu_poll_soon(cpu);
	cpu_leave(cpu);
}

/* SDM, Loading Host Control Registers, Debug Registers, MSRs */
static void load_host_control_registers(struct cpu *cpu, const struct vmx_runtime *rt, const uint64_t *f)
{
	bool long_mode = rt->exit & EXIT_HOST_ADDRESS_SPACE_SIZE;

	cpu->cr0 = (f[VMCS_HOST_CR0] & ~VMX_CR0_KEPT) | (cpu->cr0 & VMX_CR0_KEPT);
	cpu->cr3 = f[VMCS_HOST_CR3];
	cpu->cr4 = f[VMCS_HOST_CR4];
	if (long_mode)
		cpu->cr4 |= CR4_PAE;
	else
		cpu->cr4 &= ~(uint64_t)CR4_PCIDE;
	cpu->dr7 = HOST_DR7;
	cpu->msr.debugctl = 0;
	cpu->msr.sysenter_cs = f[VMCS_HOST_IA32_SYSENTER_CS];
	cpu->msr.sysenter_esp = f[VMCS_HOST_IA32_SYSENTER_ESP];
	cpu->msr.sysenter_eip = f[VMCS_HOST_IA32_SYSENTER_EIP];
	if (rt->exit & EXIT_LOAD_IA32_EFER)
		cpu->efer = f[VMCS_HOST_IA32_EFER];
	else
		cpu->efer =
		    (cpu->efer & ~(uint64_t)(EFER_LMA | EFER_LME)) | (long_mode ? EFER_LMA | EFER_LME : 0);
	if (rt->exit & EXIT_LOAD_IA32_PAT)
		cpu->msr.pat = f[VMCS_HOST_IA32_PAT];
	if (rt->exit & EXIT_LOAD_IA32_PERF_GLOBAL_CTRL)
		cpu->msr.perf_global_ctrl = f[VMCS_HOST_IA32_PERF_GLOBAL_CTRL];
}

static void load_host_data_segment(struct cpu *cpu, unsigned s, uint16_t selector, uint64_t base)
{
	cpu->seg[s] = (struct segment){
	    .selector = selector,
	    .base = base,
	    .limit = 0xffffffff,
	    .rights = selector ? HOST_DATA_RIGHTS : HOST_DATA_RIGHTS | RIGHTS_UNUSABLE,
	};
}

/* SDM, Loading Host Segment and Descriptor-Table Registers */
static void load_host_segments(struct cpu *cpu, const struct vmx_runtime *rt, const uint64_t *f)
{
	cpu->seg[SEG_CS] = (struct segment){
	    .selector = f[VMCS_HOST_CS_SELECTOR],
	    .limit = 0xffffffff,
	    .rights = HOST_CS_RIGHTS | (rt->exit & EXIT_HOST_ADDRESS_SPACE_SIZE ? RIGHTS_L : RIGHTS_DB),
	};
	load_host_data_segment(cpu, SEG_ES, f[VMCS_HOST_ES_SELECTOR], 0);
	load_host_data_segment(cpu, SEG_SS, f[VMCS_HOST_SS_SELECTOR], 0);
	load_host_data_segment(cpu, SEG_DS, f[VMCS_HOST_DS_SELECTOR], 0);
	load_host_data_segment(cpu, SEG_FS, f[VMCS_HOST_FS_SELECTOR], f[VMCS_HOST_FS_BASE]);
	load_host_data_segment(cpu, SEG_GS, f[VMCS_HOST_GS_SELECTOR], f[VMCS_HOST_GS_BASE]);
	cpu->seg[SEG_TR] = (struct segment){
	    .selector = f[VMCS_HOST_TR_SELECTOR],
	    .base = f[VMCS_HOST_TR_BASE],
	    .limit = HOST_TR_LIMIT,
	    .rights = HOST_TR_RIGHTS,
	};
	cpu->seg[SEG_LDTR] = (struct segment){.rights = RIGHTS_UNUSABLE};
	cpu->gdtr = (struct descriptor_table){f[VMCS_HOST_GDTR_BASE], HOST_DT_LIMIT};
	cpu->idtr = (struct descriptor_table){f[VMCS_HOST_IDTR_BASE], HOST_DT_LIMIT};
	cpu->cpl = 0;
}

/* SDM, Updating Non-Register State. Blocking by NMI is the caller's. */
static void load_host_non_register_state(struct cpu *cpu)
{
	cpu->activity = ACTIVITY_ACTIVE;
	cpu->shadow = 0;
	cpu->debug_trap_pending = false;
	cpu->dr6_pending = 0;
	cpu->monitor_address = 0;
	cpu->event.valid = false;
	cpu->delivering.valid = false;
}

/* SDM, Loading Host State and Loading MSRs; ends in root operation at the host's RIP. */
static _Noreturn void load_host_state(struct cpu *cpu, const struct vmcs *vmcs)
{
	struct vmx_runtime *rt = vmx_runtime(cpu);
	const uint64_t *f = vmcs->f;

	load_host_control_registers(cpu, rt, f);
	load_host_segments(cpu, rt, f);
	load_host_non_register_state(cpu);
	cpu->gpr[REG_RSP] = f[VMCS_HOST_RSP];
	cpu->rip = cpu->next_rip = f[VMCS_HOST_RIP];
	cpu_set_rflags(cpu, 2);
	if (unlikely(vmx_pae_paging(cpu->cr0, cpu->cr4, cpu->efer)) &&
	    !cpu_read_pdptes(cpu, cpu->cr3, cpu->pdpte))
		abort_vmx(cpu, ABORT_HOST_PDPTES);
	/* The root contexts hold what was translated under the paging bits that VM entry left behind. */
	if (unlikely(vmx_paging_bits(cpu->cr0, cpu->cr4, cpu->efer) != rt->root_paging))
		tlb_flush_vpid(cpu, 1, 0, GLA(0));
	tlb_select_context(cpu);
	cpu_update_mode(cpu);
	if (unlikely(f[VMCS_VM_EXIT_MSR_LOAD_COUNT]) &&
	    vmx_load_msrs(cpu, f[VMCS_VM_EXIT_MSR_LOAD_ADDRESS], f[VMCS_VM_EXIT_MSR_LOAD_COUNT]))
		abort_vmx(cpu, ABORT_LOADING_MSRS);
	rt->vmcs = NULL;
	if (cpu->nmi_pending)
		cpu_poll_soon(cpu);
	cpu_leave(cpu);
}

/* SDM, Saving Control Registers, Debug Registers, and MSRs */
static void save_control_registers(struct cpu *cpu, const struct vmx_runtime *rt, struct vmcs *vmcs)
{
	uint64_t *f = vmcs->f;

	f[VMCS_GUEST_CR0] = cpu->cr0;
	f[VMCS_GUEST_CR3] = cpu->cr3;
	f[VMCS_GUEST_CR4] = cpu->cr4;
	f[VMCS_GUEST_IA32_SYSENTER_CS] = cpu->msr.sysenter_cs & 0xffffffff;
	f[VMCS_GUEST_IA32_SYSENTER_ESP] = cpu->msr.sysenter_esp;
	f[VMCS_GUEST_IA32_SYSENTER_EIP] = cpu->msr.sysenter_eip;
	if (rt->exit & EXIT_SAVE_DEBUG_CONTROLS) {
		f[VMCS_GUEST_DR7] = cpu->dr7;
		f[VMCS_GUEST_IA32_DEBUGCTL] = cpu->msr.debugctl;
	}
	if (rt->exit & EXIT_SAVE_IA32_PAT)
		f[VMCS_GUEST_IA32_PAT] = cpu->msr.pat;
	if (rt->exit & EXIT_SAVE_IA32_EFER)
		f[VMCS_GUEST_IA32_EFER] = cpu->efer;
	/* IA32_VMX_MISC[5]: exits store LMA into the control, so that the next entry is to the same mode. */
	f[VMCS_VM_ENTRY_CONTROLS] = (f[VMCS_VM_ENTRY_CONTROLS] & ~(uint64_t)ENTRY_IA32E_MODE_GUEST) |
	                            (cpu->efer & EFER_LMA ? ENTRY_IA32E_MODE_GUEST : 0);
	if (cpu->nested_paging && vmx_pae_paging(cpu->cr0, cpu->cr4, cpu->efer))
		for (unsigned i = 0; i < 4; i++)
			f[VMCS_GUEST_PDPTE0 + i] = cpu->pdpte[i];
}

/* SDM, Saving Segment Registers and Descriptor-Table Registers */
static void save_segments(struct cpu *cpu, struct vmcs *vmcs)
{
	uint64_t *f = vmcs->f;

	for (unsigned s = 0; s < SEG_COUNT; s++) {
		const struct segment *segment = &cpu->seg[s];

		f[SEGMENT_FIELD(VMCS_GUEST_ES_SELECTOR, s)] = segment->selector;
		f[SEGMENT_FIELD(VMCS_GUEST_ES_BASE, s)] = segment->base;
		f[SEGMENT_FIELD(VMCS_GUEST_ES_LIMIT, s)] = segment->limit;
		f[SEGMENT_FIELD(VMCS_GUEST_ES_ACCESS_RIGHTS, s)] = segment->rights;
	}
	/* The CPL is the DPL of SS, whatever SS holds. */
	f[VMCS_GUEST_SS_ACCESS_RIGHTS] = (cpu->seg[SEG_SS].rights & ~0x60u) | (uint32_t)cpu->cpl << 5;
	f[VMCS_GUEST_GDTR_BASE] = cpu->gdtr.base;
	f[VMCS_GUEST_GDTR_LIMIT] = cpu->gdtr.limit;
	f[VMCS_GUEST_IDTR_BASE] = cpu->idtr.base;
	f[VMCS_GUEST_IDTR_LIMIT] = cpu->idtr.limit;
}

/* The saved RF is the one that the event's own delivery would have pushed, or for a fault met on the way
 * through memory (EPT, APIC page) 1, so that the instruction's restart meets no breakpoint twice. */
static bool saves_rf(const struct cpu *cpu, const struct vmx_exit_record *record)
{
	switch (record->reason) {
	case EXIT_REASON_EXCEPTION_OR_NMI:
		return INTERRUPTION_TYPE(record->interruption_info) == EVENT_EXCEPTION &&
		       !record->caused_by_db;
	case EXIT_REASON_EPT_VIOLATION:
	case EXIT_REASON_EPT_MISCONFIGURATION:
	case EXIT_REASON_APIC_ACCESS:
		return !cpu->delivering.valid;
	default:
		return false;
	}
}

/*
 * SDM, Saving Non-Register State. A single-step trap that MOV SS, STI or HLT holds back must be in the field,
 * and must not without TF: the next entry checks just that.
 */
static uint64_t pending_debug_exceptions(const struct cpu *cpu, const struct vmx_exit_record *record)
{
	uint64_t pending = 0;

	if (record->caused_by_db)
		return 0;
	if (cpu->debug_trap_pending) {
		pending = cpu->dr6_pending & (PENDING_DEBUG_B | PENDING_DEBUG_BS);
		if (pending & PENDING_DEBUG_B)
			pending |= PENDING_DEBUG_ENABLED_BP;
	}
	if (cpu->shadow || cpu->activity == ACTIVITY_HLT) {
		if ((cpu->rflags_system & FLAG_TF) && !(cpu->msr.debugctl & DEBUGCTL_BTF))
			pending |= PENDING_DEBUG_BS;
		else
			pending &= ~(uint64_t)PENDING_DEBUG_BS;
	}
	return pending;
}

static void save_guest_state(struct cpu *cpu, struct vmcs *vmcs, const struct vmx_exit_record *record)
{
	struct vmx_runtime *rt = vmx_runtime(cpu);
	uint64_t *f = vmcs->f;
	uint32_t timer;

	save_control_registers(cpu, rt, vmcs);
	save_segments(cpu, vmcs);
	f[VMCS_GUEST_RSP] = cpu->gpr[REG_RSP];
	f[VMCS_GUEST_RIP] = cpu->rip;
	f[VMCS_GUEST_RFLAGS] = cpu_rflags(cpu) | (saves_rf(cpu, record) ? FLAG_RF : 0);
	f[VMCS_GUEST_ACTIVITY_STATE] = cpu->activity;
	f[VMCS_GUEST_INTERRUPTIBILITY_STATE] =
	    (cpu->shadow & (SHADOW_STI | SHADOW_MOVSS)) | (cpu->nmi_blocked ? INTERRUPTIBILITY_NMI : 0);
	f[VMCS_GUEST_PENDING_DEBUG_EXCEPTIONS] = pending_debug_exceptions(cpu, record);
	timer = vmx_events_left(cpu);
	if (rt->exit & EXIT_SAVE_PREEMPTION_TIMER)
		f[VMCS_VMX_PREEMPTION_TIMER_VALUE] = timer;
}

/* SDM, Recording VM-Exit Information and Updating VM-Entry Control Fields */
static void record_exit(struct cpu *cpu, struct vmcs *vmcs, const struct vmx_exit_record *record)
{
	const struct event *vectoring = &cpu->delivering;
	uint64_t *f = vmcs->f;

	f[VMCS_EXIT_REASON] = record->reason;
	f[VMCS_EXIT_QUALIFICATION] = record->qualification;
	f[VMCS_VM_EXIT_INTERRUPTION_INFORMATION] = record->interruption_info;
	f[VMCS_VM_EXIT_INTERRUPTION_ERROR_CODE] = record->interruption_error;
	f[VMCS_VM_EXIT_INSTRUCTION_LENGTH] = record->instruction_length;
	f[VMCS_VM_EXIT_INSTRUCTION_INFORMATION] = record->instruction_info;
	f[VMCS_GUEST_LINEAR_ADDRESS] = record->guest_linear;
	f[VMCS_GUEST_PHYSICAL_ADDRESS] = record->guest_physical;
	f[VMCS_IDT_VECTORING_INFORMATION] = 0;
	if (vectoring->valid && !record->clear_vectoring) {
		f[VMCS_IDT_VECTORING_INFORMATION] = INTERRUPTION_VALID | vectoring->vector |
		                                    (uint32_t)vectoring->type << INTERRUPTION_TYPE_SHIFT |
		                                    (vectoring->has_error ? INTERRUPTION_ERROR_CODE : 0);
		f[VMCS_IDT_VECTORING_ERROR_CODE] = vectoring->has_error ? vectoring->error : 0;
		if (vectoring->type >= EVENT_SOFT_INT)
			f[VMCS_VM_EXIT_INSTRUCTION_LENGTH] = vectoring->insn_length;
	}
	f[VMCS_VM_ENTRY_INTERRUPTION_INFORMATION] &= ~(uint64_t)INTERRUPTION_VALID;
}

/* NMIs after the exit: blocked by the NMI that exits, else as they were; virtual-NMI blocking blocked none.
 */
static void settle_nmi_blocking(struct cpu *cpu, const struct vmx_exit_record *record)
{
	if (record->reason == EXIT_REASON_EXCEPTION_OR_NMI &&
	    INTERRUPTION_TYPE(record->interruption_info) == EVENT_NMI)
		cpu->nmi_blocked = true;
	else if (vmx_runtime(cpu)->pin & PIN_VIRTUAL_NMIS)
		cpu->nmi_blocked = false;
}

/* The guest has changed its paging bits itself, so what its translations were made under is no longer what
 * the tag says. */
static void forget_paging(struct cpu *cpu)
{
	struct vmx_runtime *rt = vmx_runtime(cpu);

	if (unlikely(vmx_paging_bits(cpu->cr0, cpu->cr4, cpu->efer) != rt->guest_paging))
		vmx_paging_tag(rt, cpu->eptp, cpu->vpid)->bits = 0;
}

_Noreturn void vmx_exit_full(struct cpu *cpu, const struct vmx_exit_record *record)
{
	struct vmcs *vmcs = vmx_runtime(cpu)->vmcs;

	record_exit(cpu, vmcs, record);
	save_guest_state(cpu, vmcs, record);
	settle_nmi_blocking(cpu, record);
	if (unlikely(cpu->trace & ENGINE_TRACE_VMX)) {
		fpu_stash(cpu);
		vmx_trace_exit(cpu);
	}
	forget_paging(cpu);
	leave_nonroot(cpu);
	if (unlikely(vmcs->f[VMCS_VM_EXIT_MSR_STORE_COUNT]) &&
	    !vmx_store_msrs(cpu, vmcs->f[VMCS_VM_EXIT_MSR_STORE_ADDRESS],
	                    vmcs->f[VMCS_VM_EXIT_MSR_STORE_COUNT]))
		abort_vmx(cpu, ABORT_SAVING_MSRS);
	load_host_state(cpu, vmcs);
}

_Noreturn void vmx_exit(struct cpu *cpu, uint32_t reason, uint64_t qualification)
{
	vmx_exit_full(cpu, &(struct vmx_exit_record){.reason = reason, .qualification = qualification});
}

_Noreturn void vmx_exit_instruction(struct cpu *cpu, uint32_t reason, uint64_t qualification,
                                    uint32_t information)
{
	vmx_exit_full(cpu, &(struct vmx_exit_record){
	                       .reason = reason,
	                       .qualification = qualification,
	                       .instruction_length = (cpu->next_rip - cpu->rip) & 0xf,
	                       .instruction_info = information,
	                   });
}

_Noreturn void vmx_fail_entry(struct cpu *cpu, uint32_t reason, uint64_t qualification)
{
	struct vmx *vmx = cpu->vmx;
	struct vmcs *vmcs = vmx->runtime.vmcs;

	vmcs->f[VMCS_EXIT_REASON] = reason | EXIT_REASON_ENTRY_FAILURE;
	vmcs->f[VMCS_EXIT_QUALIFICATION] = qualification;
	if (unlikely(cpu->trace & ENGINE_TRACE_VMX)) {
		fpu_stash(cpu);
		cpu_trace(cpu, "VM entry failed: %s, qualification %llu", vmx_exit_reason_name(reason),
		          (unsigned long long)qualification);
		if (reason == EXIT_REASON_ENTRY_INVALID_GUEST_STATE && vmx->failed_rule)
			vmx_explain_rule(cpu, vmcs, vmx->failed_rule);
	}
	leave_nonroot(cpu);
	cpu->nmi_blocked = vmx->runtime.root_nmi_blocked;
	load_host_state(cpu, vmcs);
}

void vmx_runtime_reset(struct cpu *cpu)
{
	struct vmx_runtime *rt = vmx_runtime(cpu);

	if (cpu->virt)
		vmx_events_left(cpu);
	memset(rt, 0, sizeof *rt);
	leave_nonroot(cpu);
}

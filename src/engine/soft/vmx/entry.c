/*
 * VM entry (SDM, VM Entries), stage by stage in the manual's order: checks on controls and host state, checks
 * on guest state, loading guest state, loading MSRs, event injection. Loading writes registers directly and
 * brings derived state (mode key, TLB context) up to date once at the end.
 */
#include "engine/soft/vmx/vmx_local.h"

#define SEGMENT_FIELD(first, s) ((enum vmcs_field)((first) + (s)))

/* DR7 and IA32_DEBUGCTL as VM entry loads them. */
#define DR7_CLEARED ((uint64_t)(1u << 12 | 1u << 14 | 1u << 15))
#define DR7_ONE     (1u << 10)
#define DR7_ENABLED 0xff

/* VMfailValid: the instruction is over, and nothing else has happened. */
static _Noreturn void fail_instruction(struct cpu *cpu, const struct vmx_rule *rule)
{
	cpu->vmx->failed_rule = rule;
	if (unlikely(cpu->trace & ENGINE_TRACE_VMX)) {
		fpu_stash(cpu);
		cpu_trace(cpu, "VM entry refused (VM-instruction error %u)", rule->failure);
		vmx_explain_rule(cpu, cpu->vmx->current, rule);
	}
	vmx_fail_valid(cpu, (enum vm_instruction_error)rule->failure);
	cpu->rip = cpu->next_rip;
	cpu->shadow = 0;
	if (cpu->rflags_system & FLAG_TF) {
		cpu->debug_trap_pending = true;
		cpu->dr6_pending |= PENDING_DEBUG_BS;
		cpu_poll_soon(cpu);
	}
	cpu_leave(cpu);
}

/* The controls in force from now to the exit. */
static void load_controls(struct cpu *cpu, struct vmx_runtime *rt, struct vmcs *vmcs)
{
	rt->vmcs = vmcs;
	rt->pin = vmcs->f[VMCS_PIN_BASED_CONTROLS];
	rt->primary = vmcs->f[VMCS_PRIMARY_PROCESSOR_CONTROLS];
	rt->secondary = vmcs_secondary(vmcs);
	rt->entry = vmcs->f[VMCS_VM_ENTRY_CONTROLS];
	rt->exit = vmcs->f[VMCS_VM_EXIT_CONTROLS];
	rt->tsc_offset = rt->primary & CPU_USE_TSC_OFFSETTING ? vmcs->f[VMCS_TSC_OFFSET] : 0;
	rt->tsc_multiplier = (rt->primary & CPU_USE_TSC_OFFSETTING) && (rt->secondary & CPU2_USE_TSC_SCALING)
	                         ? vmcs->f[VMCS_TSC_MULTIPLIER]
	                         : 0;
	cpu->virt_tsc_offset = rt->tsc_offset;
	cpu->virt_tsc_direct =
	    !(rt->primary & CPU_RDTSC_EXITING) && rt->secondary & CPU2_ENABLE_RDTSCP && !rt->tsc_multiplier;
	vmcs->dirty_runtime = 0;
}

/* SDM, Loading Guest Control Registers, Debug Registers, and MSRs */
static void load_control_registers(struct cpu *cpu, const struct vmx_runtime *rt, const struct vmcs *vmcs)
{
	const uint64_t *f = vmcs->f;

	cpu->cr0 = (f[VMCS_GUEST_CR0] & ~VMX_CR0_KEPT) | (cpu->cr0 & VMX_CR0_KEPT);
	cpu->cr3 = f[VMCS_GUEST_CR3];
	cpu->cr4 = f[VMCS_GUEST_CR4];
	if (rt->entry & ENTRY_LOAD_DEBUG_CONTROLS) {
		cpu->dr7 = (f[VMCS_GUEST_DR7] & ~DR7_CLEARED & 0xffffffff) | DR7_ONE;
		cpu->msr.debugctl = f[VMCS_GUEST_IA32_DEBUGCTL];
	}
	cpu->msr.sysenter_cs = f[VMCS_GUEST_IA32_SYSENTER_CS];
	cpu->msr.sysenter_esp = f[VMCS_GUEST_IA32_SYSENTER_ESP];
	cpu->msr.sysenter_eip = f[VMCS_GUEST_IA32_SYSENTER_EIP];
	if (rt->entry & ENTRY_LOAD_IA32_EFER) {
		cpu->efer = f[VMCS_GUEST_IA32_EFER];
	} else {
		uint64_t lma = rt->entry & ENTRY_IA32E_MODE_GUEST ? EFER_LMA | EFER_LME : 0;

		cpu->efer = (cpu->efer & ~(uint64_t)EFER_LMA) | lma;
		if (cpu->cr0 & CR0_PG)
			cpu->efer = (cpu->efer & ~(uint64_t)EFER_LME) | lma;
	}
	if (rt->entry & ENTRY_LOAD_IA32_PAT)
		cpu->msr.pat = f[VMCS_GUEST_IA32_PAT];
	if (rt->entry & ENTRY_LOAD_IA32_PERF_GLOBAL_CTRL)
		cpu->msr.perf_global_ctrl = f[VMCS_GUEST_IA32_PERF_GLOBAL_CTRL];
}

/* SDM, Loading Guest Segment Registers and Descriptor-Table Registers */
static void load_segments(struct cpu *cpu, const struct vmcs *vmcs)
{
	const uint64_t *f = vmcs->f;

	for (unsigned s = 0; s < SEG_COUNT; s++)
		cpu->seg[s] = (struct segment){
		    .base = f[SEGMENT_FIELD(VMCS_GUEST_ES_BASE, s)],
		    .limit = f[SEGMENT_FIELD(VMCS_GUEST_ES_LIMIT, s)],
		    .rights = f[SEGMENT_FIELD(VMCS_GUEST_ES_ACCESS_RIGHTS, s)],
		    .selector = f[SEGMENT_FIELD(VMCS_GUEST_ES_SELECTOR, s)],
		};
	/* The DPL of SS is the CPL even where SS is unusable; DS, ES and SS have 32-bit bases. */
	cpu->cpl = RIGHTS_DPL(cpu->seg[SEG_SS].rights);
	cpu->seg[SEG_ES].base &= 0xffffffff;
	cpu->seg[SEG_SS].base &= 0xffffffff;
	cpu->seg[SEG_DS].base &= 0xffffffff;
	cpu->seg[SEG_CS].base &= 0xffffffff;
	cpu->gdtr = (struct descriptor_table){f[VMCS_GUEST_GDTR_BASE], f[VMCS_GUEST_GDTR_LIMIT]};
	cpu->idtr = (struct descriptor_table){f[VMCS_GUEST_IDTR_BASE], f[VMCS_GUEST_IDTR_LIMIT]};
}

/*
 * SDM, Loading Guest Non-Register State and Delivery of Pending Debug Exceptions after VM Entry: what the
 * fields say holds unless an event is injected, which ends a wait and blocking, and replaces debug traps
 * (software events only where MOV SS does not block).
 */
static void load_non_register_state(struct cpu *cpu, const struct vmcs *vmcs, bool vectoring, unsigned type)
{
	const uint64_t *f = vmcs->f;
	uint32_t interruptibility = f[VMCS_GUEST_INTERRUPTIBILITY_STATE];
	uint64_t pending = f[VMCS_GUEST_PENDING_DEBUG_EXCEPTIONS];
	bool software = type == EVENT_SOFT_INT || type == EVENT_SOFT_EXCEPTION;

	cpu->nmi_blocked = interruptibility & INTERRUPTIBILITY_NMI;
	cpu->activity = vectoring ? ACTIVITY_ACTIVE : f[VMCS_GUEST_ACTIVITY_STATE];
	cpu->shadow = vectoring ? 0 : interruptibility & (SHADOW_STI | SHADOW_MOVSS);
	if (vectoring && !(software && (interruptibility & INTERRUPTIBILITY_MOV_SS)))
		pending = 0;
	if (cpu->activity == ACTIVITY_SHUTDOWN || cpu->activity == ACTIVITY_WAIT_SIPI)
		pending = 0;
	cpu->debug_trap_pending = pending & (PENDING_DEBUG_ENABLED_BP | PENDING_DEBUG_BS);
	cpu->dr6_pending = cpu->debug_trap_pending ? pending & (PENDING_DEBUG_B | PENDING_DEBUG_BS) : 0;
	cpu->monitor_address = 0;
}

/* SDM, Event Injection. A pending MTF VM exit is no event: it is noted for the first boundary. */
static void inject(struct cpu *cpu, struct vmx_runtime *rt, const struct vmcs *vmcs, uint32_t information)
{
	unsigned type = INTERRUPTION_TYPE(information), vector = INTERRUPTION_VECTOR(information);

	if (type == EVENT_OTHER) {
		rt->mtf_now = true;
		return;
	}
	cpu->event = (struct event){
	    .valid = true,
	    .injected = true,
	    .type = type,
	    .vector = vector,
	    .has_error = information & INTERRUPTION_ERROR_CODE,
	    .error = vmcs->f[VMCS_VM_ENTRY_EXCEPTION_ERROR_CODE],
	};
	if (type >= EVENT_SOFT_INT)
		cpu->event.insn_length = vmcs->f[VMCS_VM_ENTRY_INSTRUCTION_LENGTH];
	/* Injection leaves CR2 and DR6 as they are. */
	if (type == EVENT_EXCEPTION && vector == VECTOR_PF)
		cpu->event.payload = cpu->cr2;
}

/*
 * Translations of this (EPTP, VPID) made under other paging bits cannot serve. The hypervisor may change CR0,
 * CR4 and EFER of a guest by VMWRITE, which real processors cope with because they check permissions at each
 * use.
 */
static void settle_paging(struct cpu *cpu, struct vmx_runtime *rt, uint32_t bits)
{
	struct paging_tag *tag = vmx_paging_tag(rt, cpu->eptp, cpu->vpid);

	rt->guest_paging = bits;
	if (tag->eptp == cpu->eptp && tag->vpid == cpu->vpid && tag->bits == bits)
		return;
	/* Type 1: single context. With VPID 0 the entry has flushed it already. */
	if (cpu->vpid)
		tlb_flush_vpid(cpu, 1, cpu->vpid, GLA(0));
	*tag = (struct paging_tag){cpu->eptp, cpu->vpid, bits};
}

/* SDM, VM Entries and Translation Caches: which cached translations the guest uses, and what is dropped. */
static void enter_address_space(struct cpu *cpu, struct vmx_runtime *rt, const struct vmcs *vmcs)
{
	bool ept = rt->secondary & CPU2_ENABLE_EPT;
	uint64_t eptp = ept ? vmcs->f[VMCS_EPT_POINTER] : 0;

	rt->ept_dirty = eptp & EPTP_ACCESSED_DIRTY;
	cpu->nested_paging = ept;
	cpu->eptp = eptp & PAGE_MASK;
	cpu->apic_access_page =
	    rt->secondary & CPU2_VIRTUALIZE_APIC_ACCESSES ? vmcs->f[VMCS_APIC_ACCESS_ADDRESS] & PAGE_MASK : 0;
	if (rt->secondary & CPU2_ENABLE_VPID) {
		cpu->vpid = vmcs->f[VMCS_VPID];
	} else {
		cpu->vpid = 0;
		tlb_flush_vpid(cpu, 1, 0, GLA(0));
	}
	settle_paging(cpu, rt, vmx_paging_bits(cpu->cr0, cpu->cr4, cpu->efer));
}

/* SDM, Loading Page-Directory-Pointer-Table Entries. False where memory holds a bad one. */
static bool load_pdptes(struct cpu *cpu, const struct vmcs *vmcs)
{
	if (!vmx_pae_paging(cpu->cr0, cpu->cr4, cpu->efer))
		return true;
	if (!cpu->nested_paging)
		return cpu_read_pdptes(cpu, cpu->cr3, cpu->pdpte);
	for (unsigned i = 0; i < 4; i++)
		cpu->pdpte[i] = vmcs->f[VMCS_GUEST_PDPTE0 + i];
	return true;
}

static void find_virtual_apic(struct cpu *cpu, struct vmx_runtime *rt, const struct vmcs *vmcs)
{
	rt->virtual_apic = NULL;
	if (rt->primary & CPU_USE_TPR_SHADOW)
		rt->virtual_apic =
		    guest_memory_host(cpu->memory, GPA(vmcs->f[VMCS_VIRTUAL_APIC_ADDRESS]), PAGE_SIZE);
}

_Noreturn void vmx_enter(struct cpu *cpu, bool launch)
{
	struct vmx *vmx = cpu->vmx;
	struct vmx_runtime *rt = &vmx->runtime;
	struct vmcs *vmcs = vmx->current;
	const struct vmx_rule *rule = vmx_check_controls_and_host(cpu, vmcs);
	uint32_t information, failed_msr;
	bool vectoring;

	if (unlikely(rule))
		fail_instruction(cpu, rule);
	load_controls(cpu, rt, vmcs);
	rt->root_paging = vmx_paging_bits(cpu->cr0, cpu->cr4, cpu->efer);
	rt->root_nmi_blocked = cpu->nmi_blocked;
	rule = vmx_check_guest(cpu, vmcs);
	if (unlikely(rule)) {
		vmx->failed_rule = rule;
		vmx_fail_entry(cpu, EXIT_REASON_ENTRY_INVALID_GUEST_STATE, rule->failure);
	}

	information = vmcs->f[VMCS_VM_ENTRY_INTERRUPTION_INFORMATION];
	if (!(information & INTERRUPTION_VALID))
		information = 0;
	vectoring = information && INTERRUPTION_TYPE(information) != EVENT_OTHER;

	load_control_registers(cpu, rt, vmcs);
	load_segments(cpu, vmcs);
	cpu->gpr[REG_RSP] = vmcs->f[VMCS_GUEST_RSP];
	cpu->rip = cpu->next_rip = vmcs->f[VMCS_GUEST_RIP];
	cpu_set_rflags(cpu, vmcs->f[VMCS_GUEST_RFLAGS]);
	cpu->event.valid = false;
	cpu->delivering.valid = false;
	load_non_register_state(cpu, vmcs, vectoring, INTERRUPTION_TYPE(information));
	find_virtual_apic(cpu, rt, vmcs);

	if (vmcs->f[VMCS_VM_ENTRY_MSR_LOAD_COUNT]) {
		failed_msr = vmx_load_msrs(cpu, vmcs->f[VMCS_VM_ENTRY_MSR_LOAD_ADDRESS],
		                           vmcs->f[VMCS_VM_ENTRY_MSR_LOAD_COUNT]);
		if (unlikely(failed_msr))
			vmx_fail_entry(cpu, EXIT_REASON_ENTRY_MSR_LOADING, failed_msr);
	}

	enter_address_space(cpu, rt, vmcs);
	if (unlikely(!load_pdptes(cpu, vmcs)))
		vmx_fail_entry(cpu, EXIT_REASON_ENTRY_INVALID_GUEST_STATE, ENTRY_FAILURE_PDPTE);
	cpu->virt = &vmx_hooks;
	vmx->in_nonroot = true;
	cpu->init_blocked = false;
	if (launch)
		vmcs->launch_state = VMCS_LAUNCHED;
	rt->mtf_now = false;
	if (information)
		inject(cpu, rt, vmcs, information);
	vmx_events_entered(cpu);
	tlb_select_context(cpu);
	if (unlikely(cpu->dr7 & DR7_ENABLED))
		tlb_watch_changed(cpu);
	cpu_update_mode(cpu);
	if (unlikely(cpu->trace & ENGINE_TRACE_VMX)) {
		fpu_stash(cpu);
		vmx_trace_entry(cpu, launch);
	}
	cpu_leave(cpu);
}

/*
 * SDM, Checks on the Guest State Area: one row per rule, in the SDM's order. vmx_rule.failure is the exit
 * qualification that the failed entry reports.
 */
#include "engine/soft/cpu/memory.h"
#include "engine/soft/vmx/entry_rules.h"

#define SECTION_REGISTERS "Checks on Guest Control Registers, Debug Registers, and MSRs"
#define SECTION_TABLES    "Checks on Guest Descriptor-Table Registers"
#define SECTION_RIP       "Checks on Guest RIP, RFLAGS, and SSP"
#define SECTION_STATE     "Checks on Guest Non-Register State"
#define SECTION_PDPTE     "Checks on Guest Page-Directory-Pointer-Table Entries"

static bool entry_control(const struct vmcs *v, uint32_t bit)
{
	return F(VM_ENTRY_CONTROLS) & bit;
}

/* ---- control registers, debug registers, MSRs ---- */

HOLDS(cr0_fixed)
{
	uint64_t must = capabilities(cpu)->cr0_fixed0;

	if (unrestricted(v))
		must &= ~(uint64_t)(CR0_PE | CR0_PG);
	return !(must & ~F(GUEST_CR0)) && !(F(GUEST_CR0) & ~capabilities(cpu)->cr0_fixed1);
}

HOLDS(cr0_paging)
{
	return !(F(GUEST_CR0) & CR0_PG) || F(GUEST_CR0) & CR0_PE;
}

HOLDS(cr4_fixed)
{
	return !(capabilities(cpu)->cr4_fixed0 & ~F(GUEST_CR4)) &&
	       !(F(GUEST_CR4) & ~capabilities(cpu)->cr4_fixed1);
}

/* Last-branch recording and branch single-stepping are what the virtual processor has of IA32_DEBUGCTL. */
HOLDS(debugctl)
{
	return !entry_control(v, ENTRY_LOAD_DEBUG_CONTROLS) ||
	       !(F(GUEST_IA32_DEBUGCTL) & ~(uint64_t)(DEBUGCTL_LBR | DEBUGCTL_BTF));
}

HOLDS(ia32e_paging)
{
	return !ia32e_guest(v) || (F(GUEST_CR0) & CR0_PG && F(GUEST_CR4) & CR4_PAE);
}

HOLDS(pcide)
{
	return ia32e_guest(v) || !(F(GUEST_CR4) & CR4_PCIDE);
}

HOLDS(cr3)
{
	return within_width(cpu, F(GUEST_CR3));
}

HOLDS(dr7)
{
	return !entry_control(v, ENTRY_LOAD_DEBUG_CONTROLS) || !(F(GUEST_DR7) >> 32);
}

HOLDS(sysenter_esp)
{
	return is_canonical(F(GUEST_IA32_SYSENTER_ESP));
}

HOLDS(sysenter_eip)
{
	return is_canonical(F(GUEST_IA32_SYSENTER_EIP));
}

HOLDS(pat)
{
	return !entry_control(v, ENTRY_LOAD_IA32_PAT) || pat_valid(F(GUEST_IA32_PAT));
}

HOLDS(efer_reserved)
{
	return !entry_control(v, ENTRY_LOAD_IA32_EFER) ||
	       !(F(GUEST_IA32_EFER) & ~capabilities(cpu)->efer_allowed);
}

HOLDS(efer_lma)
{
	return !entry_control(v, ENTRY_LOAD_IA32_EFER) || !!(F(GUEST_IA32_EFER) & EFER_LMA) == ia32e_guest(v);
}

HOLDS(efer_lme)
{
	return !entry_control(v, ENTRY_LOAD_IA32_EFER) || !(F(GUEST_CR0) & CR0_PG) ||
	       !!(F(GUEST_IA32_EFER) & EFER_LMA) == !!(F(GUEST_IA32_EFER) & EFER_LME);
}

static const struct vmx_rule register_rules[] = {
    GUEST(SECTION_REGISTERS,
          "guest CR0 must have the bits that IA32_VMX_CR0_FIXED0 and _FIXED1 fix (PE and PG excepted with "
          "\"unrestricted guest\")",
          cr0_fixed, VMCS_GUEST_CR0, VMCS_SECONDARY_PROCESSOR_CONTROLS),
    GUEST(SECTION_REGISTERS, "guest CR0.PE must be 1 where CR0.PG is 1", cr0_paging, VMCS_GUEST_CR0),
    GUEST(SECTION_REGISTERS, "guest CR4 must have the bits that IA32_VMX_CR4_FIXED0 and _FIXED1 fix",
          cr4_fixed, VMCS_GUEST_CR4),
    GUEST(SECTION_REGISTERS, "with \"load debug controls\", reserved bits of guest IA32_DEBUGCTL must be 0",
          debugctl, VMCS_VM_ENTRY_CONTROLS, VMCS_GUEST_IA32_DEBUGCTL),
    GUEST(SECTION_REGISTERS, "with \"IA-32e mode guest\", guest CR0.PG and CR4.PAE must be 1", ia32e_paging,
          VMCS_VM_ENTRY_CONTROLS, VMCS_GUEST_CR0, VMCS_GUEST_CR4),
    GUEST(SECTION_REGISTERS, "without \"IA-32e mode guest\", guest CR4.PCIDE must be 0", pcide,
          VMCS_VM_ENTRY_CONTROLS, VMCS_GUEST_CR4),
    GUEST(SECTION_REGISTERS, "with \"load debug controls\", bits 63:32 of guest DR7 must be 0", dr7,
          VMCS_VM_ENTRY_CONTROLS, VMCS_GUEST_DR7),
    GUEST(SECTION_REGISTERS, "guest IA32_SYSENTER_ESP must be canonical", sysenter_esp,
          VMCS_GUEST_IA32_SYSENTER_ESP),
    GUEST(SECTION_REGISTERS, "guest IA32_SYSENTER_EIP must be canonical", sysenter_eip,
          VMCS_GUEST_IA32_SYSENTER_EIP),
    GUEST(SECTION_REGISTERS,
          "with \"load IA32_PAT\", every byte of guest IA32_PAT must be 0, 1, 4, 5, 6 or 7", pat,
          VMCS_VM_ENTRY_CONTROLS, VMCS_GUEST_IA32_PAT),
    GUEST(SECTION_REGISTERS, "with \"load IA32_EFER\", reserved bits of guest IA32_EFER must be 0",
          efer_reserved, VMCS_VM_ENTRY_CONTROLS, VMCS_GUEST_IA32_EFER),
    GUEST(SECTION_REGISTERS, "with \"load IA32_EFER\", guest IA32_EFER.LMA must equal \"IA-32e mode guest\"",
          efer_lma, VMCS_VM_ENTRY_CONTROLS, VMCS_GUEST_IA32_EFER),
    GUEST(SECTION_REGISTERS,
          "with \"load IA32_EFER\" and guest CR0.PG = 1, guest IA32_EFER.LMA and LME must be equal", efer_lme,
          VMCS_VM_ENTRY_CONTROLS, VMCS_GUEST_IA32_EFER, VMCS_GUEST_CR0),
};

static const struct vmx_rule cr3_rules[] = {
    GUEST(SECTION_REGISTERS, "guest CR3 must not exceed the physical-address width", cr3, VMCS_GUEST_CR3),
};

/* ---- descriptor-table registers ---- */

HOLDS(gdtr_base)
{
	return is_canonical(F(GUEST_GDTR_BASE));
}

HOLDS(idtr_base)
{
	return is_canonical(F(GUEST_IDTR_BASE));
}

HOLDS(gdtr_limit)
{
	return !(F(GUEST_GDTR_LIMIT) >> 16);
}

HOLDS(idtr_limit)
{
	return !(F(GUEST_IDTR_LIMIT) >> 16);
}

static const struct vmx_rule table_rules[] = {
    GUEST(SECTION_TABLES, "guest GDTR: the base must be canonical", gdtr_base, VMCS_GUEST_GDTR_BASE),
    GUEST(SECTION_TABLES, "guest IDTR: the base must be canonical", idtr_base, VMCS_GUEST_IDTR_BASE),
    GUEST(SECTION_TABLES, "guest GDTR: bits 31:16 of the limit must be 0", gdtr_limit, VMCS_GUEST_GDTR_LIMIT),
    GUEST(SECTION_TABLES, "guest IDTR: bits 31:16 of the limit must be 0", idtr_limit, VMCS_GUEST_IDTR_LIMIT),
};

/* ---- RIP and RFLAGS ---- */

static bool code_64(const struct vmcs *v)
{
	return ia32e_guest(v) && segment_rights(v, SEG_CS) & RIGHTS_L;
}

HOLDS(rip_32)
{
	return code_64(v) || !(F(GUEST_RIP) >> 32);
}

/* Alike, not canonical: bit 47 may differ. */
HOLDS(rip_64)
{
	return !code_64(v) || F(GUEST_RIP) >> 48 == 0 || F(GUEST_RIP) >> 48 == 0xffff;
}

HOLDS(rflags_reserved)
{
	return (F(GUEST_RFLAGS) & (~(uint64_t)0x3fffff | 1u << 15 | 1u << 5 | 1u << 3 | 1u << 1)) == 2;
}

HOLDS(rflags_vm)
{
	return !virtual_8086(v) || (!ia32e_guest(v) && F(GUEST_CR0) & CR0_PE);
}

HOLDS(rflags_if)
{
	return !injects_type(v, EVENT_EXTERNAL) || F(GUEST_RFLAGS) & FLAG_IF;
}

static const struct vmx_rule rip_rules[] = {
    GUEST(SECTION_RIP, "bits 63:32 of guest RIP must be 0 outside 64-bit code", rip_32, VMCS_GUEST_RIP,
          VMCS_VM_ENTRY_CONTROLS, VMCS_GUEST_CS_ACCESS_RIGHTS),
    GUEST(SECTION_RIP, "bits 63:48 of guest RIP must be identical in 64-bit code", rip_64, VMCS_GUEST_RIP,
          VMCS_VM_ENTRY_CONTROLS, VMCS_GUEST_CS_ACCESS_RIGHTS),
};

static const struct vmx_rule rflags_rules[] = {
    GUEST(SECTION_RIP, "bits 63:22, 15, 5 and 3 of guest RFLAGS must be 0 and bit 1 must be 1",
          rflags_reserved, VMCS_GUEST_RFLAGS),
    GUEST(SECTION_RIP, "guest RFLAGS.VM must be 0 in an IA-32e mode guest and where CR0.PE is 0", rflags_vm,
          VMCS_GUEST_RFLAGS, VMCS_VM_ENTRY_CONTROLS, VMCS_GUEST_CR0),
    GUEST(SECTION_RIP, "guest RFLAGS.IF must be 1 when an external interrupt is injected", rflags_if,
          VMCS_GUEST_RFLAGS, VMCS_VM_ENTRY_INTERRUPTION_INFORMATION),
};

/* ---- non-register state ---- */

static bool blocked(const struct vmcs *v, uint32_t bits)
{
	return F(GUEST_INTERRUPTIBILITY_STATE) & bits;
}

HOLDS(activity_supported)
{
	uint64_t activity = F(GUEST_ACTIVITY_STATE);

	return activity == VMCS_ACTIVITY_ACTIVE ||
	       (activity <= VMCS_ACTIVITY_WAIT_SIPI &&
	        capabilities(cpu)->misc & (VMX_MISC_ACTIVITY_HLT << (activity - 1)));
}

HOLDS(hlt_dpl)
{
	return F(GUEST_ACTIVITY_STATE) != VMCS_ACTIVITY_HLT || RIGHTS_DPL(segment_rights(v, SEG_SS)) == 0;
}

HOLDS(blocking_active)
{
	return F(GUEST_ACTIVITY_STATE) == VMCS_ACTIVITY_ACTIVE ||
	       !blocked(v, INTERRUPTIBILITY_STI | INTERRUPTIBILITY_MOV_SS);
}

HOLDS(activity_injection)
{
	unsigned vector = injected_vector(v);

	if (!injects(v))
		return true;
	switch (F(GUEST_ACTIVITY_STATE)) {
	case VMCS_ACTIVITY_ACTIVE:
		return true;
	case VMCS_ACTIVITY_HLT:
		return injects_type(v, EVENT_EXTERNAL) || injects_type(v, EVENT_NMI) ||
		       (injects_type(v, EVENT_EXCEPTION) && (vector == VECTOR_DB || vector == VECTOR_MC)) ||
		       injects_type(v, EVENT_OTHER);
	case VMCS_ACTIVITY_SHUTDOWN:
		return injects_type(v, EVENT_NMI) ||
		       (injects_type(v, EVENT_EXCEPTION) && vector == VECTOR_MC);
	default:
		return false;
	}
}

/* Bit 4 (enclave interruption) is reserved where there is no SGX. */
HOLDS(interruptibility_reserved)
{
	return !(F(GUEST_INTERRUPTIBILITY_STATE) >> 4);
}

HOLDS(not_both_blockings)
{
	return !blocked(v, INTERRUPTIBILITY_STI) || !blocked(v, INTERRUPTIBILITY_MOV_SS);
}

HOLDS(sti_if)
{
	return !blocked(v, INTERRUPTIBILITY_STI) || F(GUEST_RFLAGS) & FLAG_IF;
}

HOLDS(external_unblocked)
{
	return !injects_type(v, EVENT_EXTERNAL) ||
	       !blocked(v, INTERRUPTIBILITY_STI | INTERRUPTIBILITY_MOV_SS);
}

HOLDS(nmi_mov_ss)
{
	return !injects_type(v, EVENT_NMI) || !blocked(v, INTERRUPTIBILITY_MOV_SS);
}

HOLDS(smi_blocking)
{
	return !blocked(v, INTERRUPTIBILITY_SMI);
}

HOLDS(virtual_nmi_blocking)
{
	return !(F(PIN_BASED_CONTROLS) & PIN_VIRTUAL_NMIS) || !injects_type(v, EVENT_NMI) ||
	       !blocked(v, INTERRUPTIBILITY_NMI);
}

/* Bit 16 (RTM) is reserved where there is no RTM. */
HOLDS(pending_debug_reserved)
{
	return !(F(GUEST_PENDING_DEBUG_EXCEPTIONS) &
	         ~(uint64_t)(PENDING_DEBUG_B | PENDING_DEBUG_ENABLED_BP | PENDING_DEBUG_BS));
}

/* Where a single-step trap would have been held back, BS says whether there is one. */
static bool trap_held_back(const struct vmcs *v)
{
	return blocked(v, INTERRUPTIBILITY_STI | INTERRUPTIBILITY_MOV_SS) ||
	       F(GUEST_ACTIVITY_STATE) == VMCS_ACTIVITY_HLT;
}

static bool single_steps(const struct vmcs *v)
{
	return F(GUEST_RFLAGS) & FLAG_TF && !(F(GUEST_IA32_DEBUGCTL) & DEBUGCTL_BTF);
}

HOLDS(pending_bs_set)
{
	return !trap_held_back(v) || !single_steps(v) || F(GUEST_PENDING_DEBUG_EXCEPTIONS) & PENDING_DEBUG_BS;
}

HOLDS(pending_bs_clear)
{
	return !trap_held_back(v) || single_steps(v) ||
	       !(F(GUEST_PENDING_DEBUG_EXCEPTIONS) & PENDING_DEBUG_BS);
}

static const struct vmx_rule state_rules[] = {
    GUEST(SECTION_STATE, "the activity state must be 0-3 and one that IA32_VMX_MISC[8:6] offers",
          activity_supported, VMCS_GUEST_ACTIVITY_STATE),
    GUEST(SECTION_STATE, "the activity state must not be HLT where SS's DPL is not 0", hlt_dpl,
          VMCS_GUEST_ACTIVITY_STATE, VMCS_GUEST_SS_ACCESS_RIGHTS),
    GUEST(SECTION_STATE, "the activity state must be active under blocking by STI or MOV SS", blocking_active,
          VMCS_GUEST_ACTIVITY_STATE, VMCS_GUEST_INTERRUPTIBILITY_STATE),
    GUEST(SECTION_STATE, "an injected event must be one that the activity state does not block",
          activity_injection, VMCS_GUEST_ACTIVITY_STATE, VMCS_VM_ENTRY_INTERRUPTION_INFORMATION),
    GUEST(SECTION_STATE, "bits 31:4 of the interruptibility state must be 0", interruptibility_reserved,
          VMCS_GUEST_INTERRUPTIBILITY_STATE),
    GUEST(SECTION_STATE, "blocking by STI and blocking by MOV SS must not both be 1", not_both_blockings,
          VMCS_GUEST_INTERRUPTIBILITY_STATE),
    GUEST(SECTION_STATE, "blocking by STI must be 0 where RFLAGS.IF is 0", sti_if,
          VMCS_GUEST_INTERRUPTIBILITY_STATE, VMCS_GUEST_RFLAGS),
    GUEST(SECTION_STATE, "blocking by STI and by MOV SS must be 0 when an external interrupt is injected",
          external_unblocked, VMCS_GUEST_INTERRUPTIBILITY_STATE, VMCS_VM_ENTRY_INTERRUPTION_INFORMATION),
    GUEST(SECTION_STATE, "blocking by MOV SS must be 0 when an NMI is injected", nmi_mov_ss,
          VMCS_GUEST_INTERRUPTIBILITY_STATE, VMCS_VM_ENTRY_INTERRUPTION_INFORMATION),
    GUEST(SECTION_STATE, "blocking by SMI must be 0 outside SMM", smi_blocking,
          VMCS_GUEST_INTERRUPTIBILITY_STATE),
    GUEST(SECTION_STATE, "blocking by NMI must be 0 when an NMI is injected under \"virtual NMIs\"",
          virtual_nmi_blocking, VMCS_GUEST_INTERRUPTIBILITY_STATE, VMCS_PIN_BASED_CONTROLS,
          VMCS_VM_ENTRY_INTERRUPTION_INFORMATION),
    GUEST(SECTION_STATE, "bits 11:4, 13 and 63:15 of the pending debug exceptions must be 0",
          pending_debug_reserved, VMCS_GUEST_PENDING_DEBUG_EXCEPTIONS),
    GUEST(SECTION_STATE,
          "pending debug exceptions: BS must be 1 under blocking by STI or MOV SS, or in HLT, where "
          "RFLAGS.TF is 1 and "
          "IA32_DEBUGCTL.BTF is 0",
          pending_bs_set, VMCS_GUEST_PENDING_DEBUG_EXCEPTIONS, VMCS_GUEST_INTERRUPTIBILITY_STATE,
          VMCS_GUEST_ACTIVITY_STATE, VMCS_GUEST_RFLAGS, VMCS_GUEST_IA32_DEBUGCTL),
    GUEST(SECTION_STATE,
          "pending debug exceptions: BS must be 0 under blocking by STI or MOV SS, or in HLT, where "
          "RFLAGS.TF is 0 or "
          "IA32_DEBUGCTL.BTF is 1",
          pending_bs_clear, VMCS_GUEST_PENDING_DEBUG_EXCEPTIONS, VMCS_GUEST_INTERRUPTIBILITY_STATE,
          VMCS_GUEST_ACTIVITY_STATE, VMCS_GUEST_RFLAGS, VMCS_GUEST_IA32_DEBUGCTL),
};

/* ---- VMCS link pointer: the region it names may change at any time ---- */

static bool linked(const struct vmcs *v)
{
	return F(VMCS_LINK_POINTER) != VMCS_NO_POINTER;
}

HOLDS(link_aligned)
{
	return !linked(v) || page_aligned(F(VMCS_LINK_POINTER));
}

HOLDS(link_width)
{
	return !linked(v) || within_width(cpu, F(VMCS_LINK_POINTER));
}

HOLDS(link_revision)
{
	uint32_t expected = VMCS_REVISION | (secondary(v, CPU2_VMCS_SHADOWING) ? VMCS_SHADOW : 0);

	return !linked(v) || phys_read((struct cpu *)cpu, GPA(F(VMCS_LINK_POINTER)), 4) == expected;
}

HOLDS(link_not_current)
{
	return !linked(v) || F(VMCS_LINK_POINTER) != v->gpa.v;
}

#define LINK(sentence, function, ...)                                                                        \
	{                                                                                                    \
		SECTION_STATE, "the VMCS link pointer " sentence, ENTRY_FAILURE_LINK_POINTER,                \
		    {VMCS_VMCS_LINK_POINTER, ##__VA_ARGS__}, function                                        \
	}

static const struct vmx_rule link_rules[] = {
    LINK("must have bits 11:0 0, or be FFFFFFFF_FFFFFFFFH", link_aligned),
    LINK("must not exceed the physical-address width", link_width),
    LINK("must point to this processor's VMCS revision identifier, with bit 31 set exactly under \"VMCS "
         "shadowing\"",
         link_revision, VMCS_SECONDARY_PROCESSOR_CONTROLS),
    LINK("must not be the current-VMCS pointer", link_not_current),
};

/* ---- PDPTEs ---- */

static bool pae_paging(const struct vmcs *v)
{
	return !ia32e_guest(v) && F(GUEST_CR0) & CR0_PG && F(GUEST_CR4) & CR4_PAE;
}

/* Bits 2:1 and 8:5 of a present PDPTE are reserved, and those beyond the width. */
static bool pdpte_valid(const struct cpu *cpu, uint64_t pdpte)
{
	return !(pdpte & 1) || (!(pdpte & 0x1e6) && within_width(cpu, pdpte));
}

HOLDS(pdptes_in_vmcs)
{
	return !pae_paging(v) || !secondary(v, CPU2_ENABLE_EPT) ||
	       (pdpte_valid(cpu, F(GUEST_PDPTE0)) && pdpte_valid(cpu, F(GUEST_PDPTE1)) &&
	        pdpte_valid(cpu, F(GUEST_PDPTE2)) && pdpte_valid(cpu, F(GUEST_PDPTE3)));
}

HOLDS(pdptes_in_memory)
{
	uint64_t table = F(GUEST_CR3) & ~(uint64_t)0x1f;

	if (!pae_paging(v) || secondary(v, CPU2_ENABLE_EPT))
		return true;
	for (unsigned i = 0; i < 4; i++)
		if (!pdpte_valid(cpu, phys_read((struct cpu *)cpu, GPA((table & 0xffffffff) + 8 * i), 8)))
			return false;
	return true;
}

static const struct vmx_rule pdpte_rules[] = {
    {SECTION_PDPTE,
     "under EPT with PAE paging, reserved bits of the PDPTE fields must be 0 where P is 1",
     ENTRY_FAILURE_PDPTE,
     {VMCS_GUEST_CR4, VMCS_GUEST_PDPTE0, VMCS_GUEST_PDPTE1, VMCS_GUEST_PDPTE2, VMCS_GUEST_PDPTE3},
     pdptes_in_vmcs},
};

static const struct vmx_rule pdpte_memory_rules[] = {
    {SECTION_PDPTE,
     "with PAE paging and no EPT, reserved bits of the PDPTEs that guest CR3 names must be 0 where P is 1",
     ENTRY_FAILURE_PDPTE,
     {VMCS_GUEST_CR4, VMCS_GUEST_CR3},
     pdptes_in_memory},
};

/* ---- what nearly every entry finds ---- */

HOLDS(state_ordinary)
{
	return !(F(GUEST_ACTIVITY_STATE) | F(GUEST_INTERRUPTIBILITY_STATE) |
	         F(GUEST_PENDING_DEBUG_EXCEPTIONS)) &&
	       !injects(v);
}

HOLDS(not_linked)
{
	return !linked(v);
}

#define G(name) VMCS_GROUP_##name
#define G_MODE  (G(CONTROLS) | G(WINDOWS)) /* unrestricted guest, IA-32e mode guest */

const struct rule_group vmx_rules_guest[] = {
    RULE_GROUP(register_rules, G(GUEST_CONTROL_REGISTERS) | G_MODE),
    RULE_GROUP(cr3_rules, G(GUEST_CR3)),
    {vmx_segment_rules, VMX_SEGMENT_RULES, G(SEGMENTS) | G(GUEST_CONTROL_REGISTERS) | G_MODE,
     vmx_segments_ordinary},
    RULE_GROUP(table_rules, G(DESCRIPTOR_TABLES)),
    RULE_GROUP(rip_rules, G(RIP) | G(SEGMENTS) | G_MODE),
    RULE_GROUP(rflags_rules, G(RFLAGS) | G(INJECTION) | G(GUEST_CONTROL_REGISTERS) | G_MODE),
    RULE_GROUP_QUICK(state_rules,
                     G(NON_REGISTER) | G(RFLAGS) | G(INJECTION) | G(SEGMENTS) | G(GUEST_CONTROL_REGISTERS) |
                         G_MODE,
                     state_ordinary),
    RULE_GROUP_QUICK(link_rules, DEPENDS_ALWAYS, not_linked),
    RULE_GROUP(pdpte_rules, G(PDPTES) | G(GUEST_CONTROL_REGISTERS) | G_MODE),
    RULE_GROUP(pdpte_memory_rules, DEPENDS_ALWAYS),
};
const unsigned vmx_rules_guest_count = sizeof(vmx_rules_guest) / sizeof(vmx_rules_guest[0]);

const struct vmx_rule *vmx_check_guest(struct cpu *cpu, struct vmcs *vmcs)
{
	const struct vmx_rule *rule;
	uint32_t dirty = vmcs->dirty_checks;

	/* RFLAGS changes with every exit; to the segment rules only VM matters. */
	if (virtual_8086(vmcs) != vmcs->checked_v86)
		dirty |= G(SEGMENTS);
	rule = first_violated(cpu, vmcs, dirty, vmx_rules_guest, vmx_rules_guest_count);
	cpu->vmx->failed_rule = rule;
	if (!rule) {
		vmcs->dirty_checks = 0;
		vmcs->checked_v86 = virtual_8086(vmcs);
	}
	return rule;
}

/*
 * SDM, Checks on the Guest State Area: one row per rule, in the SDM's order. vmx_rule.failure is the exit
 * qualification that the failed entry reports.
 *
 * The segment rules are the same sentence for several registers. Their functions are made per register by
 * macros, so that a failed rule names the register and its fields.
 */
#include "engine/soft/cpu/memory.h"
#include "engine/soft/vmx/entry_rules.h"

#define SECTION_REGISTERS "Checks on Guest Control Registers, Debug Registers, and MSRs"
#define SECTION_SEGMENTS  "Checks on Guest Segment Registers"
#define SECTION_TABLES    "Checks on Guest Descriptor-Table Registers"
#define SECTION_RIP       "Checks on Guest RIP, RFLAGS, and SSP"
#define SECTION_STATE     "Checks on Guest Non-Register State"
#define SECTION_PDPTE     "Checks on Guest Page-Directory-Pointer-Table Entries"

#define GUEST(section, sentence, function, ...) \
	{ section, sentence, ENTRY_FAILURE_DEFAULT, { __VA_ARGS__ }, function }

static bool unrestricted(const struct vmcs *v)
{
	return secondary(v, CPU2_UNRESTRICTED_GUEST);
}

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

HOLDS(cr0_paging) { return !(F(GUEST_CR0) & CR0_PG) || F(GUEST_CR0) & CR0_PE; }

HOLDS(cr4_fixed)
{
	return !(capabilities(cpu)->cr4_fixed0 & ~F(GUEST_CR4)) && !(F(GUEST_CR4) & ~capabilities(cpu)->cr4_fixed1);
}

/* Last-branch recording and branch single-stepping are what the virtual processor has of IA32_DEBUGCTL. */
HOLDS(debugctl)
{
	return !entry_control(v, ENTRY_LOAD_DEBUG_CONTROLS) ||
	       !(F(GUEST_IA32_DEBUGCTL) & ~(uint64_t)(DEBUGCTL_LBR | DEBUGCTL_BTF));
}

HOLDS(ia32e_paging) { return !ia32e_guest(v) || (F(GUEST_CR0) & CR0_PG && F(GUEST_CR4) & CR4_PAE); }
HOLDS(pcide) { return ia32e_guest(v) || !(F(GUEST_CR4) & CR4_PCIDE); }
HOLDS(cr3) { return within_width(cpu, F(GUEST_CR3)); }
HOLDS(dr7) { return !entry_control(v, ENTRY_LOAD_DEBUG_CONTROLS) || !(F(GUEST_DR7) >> 32); }
HOLDS(sysenter_esp) { return is_canonical(F(GUEST_IA32_SYSENTER_ESP)); }
HOLDS(sysenter_eip) { return is_canonical(F(GUEST_IA32_SYSENTER_EIP)); }
HOLDS(pat) { return !entry_control(v, ENTRY_LOAD_IA32_PAT) || pat_valid(F(GUEST_IA32_PAT)); }

HOLDS(efer_reserved)
{
	return !entry_control(v, ENTRY_LOAD_IA32_EFER) || !(F(GUEST_IA32_EFER) & ~capabilities(cpu)->efer_allowed);
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
	GUEST(SECTION_REGISTERS, "guest CR4 must have the bits that IA32_VMX_CR4_FIXED0 and _FIXED1 fix", cr4_fixed,
	      VMCS_GUEST_CR4),
	GUEST(SECTION_REGISTERS, "with \"load debug controls\", reserved bits of guest IA32_DEBUGCTL must be 0", debugctl,
	      VMCS_VM_ENTRY_CONTROLS, VMCS_GUEST_IA32_DEBUGCTL),
	GUEST(SECTION_REGISTERS, "with \"IA-32e mode guest\", guest CR0.PG and CR4.PAE must be 1", ia32e_paging,
	      VMCS_VM_ENTRY_CONTROLS, VMCS_GUEST_CR0, VMCS_GUEST_CR4),
	GUEST(SECTION_REGISTERS, "without \"IA-32e mode guest\", guest CR4.PCIDE must be 0", pcide, VMCS_VM_ENTRY_CONTROLS,
	      VMCS_GUEST_CR4),
	GUEST(SECTION_REGISTERS, "with \"load debug controls\", bits 63:32 of guest DR7 must be 0", dr7,
	      VMCS_VM_ENTRY_CONTROLS, VMCS_GUEST_DR7),
	GUEST(SECTION_REGISTERS, "guest IA32_SYSENTER_ESP must be canonical", sysenter_esp, VMCS_GUEST_IA32_SYSENTER_ESP),
	GUEST(SECTION_REGISTERS, "guest IA32_SYSENTER_EIP must be canonical", sysenter_eip, VMCS_GUEST_IA32_SYSENTER_EIP),
	GUEST(SECTION_REGISTERS, "with \"load IA32_PAT\", every byte of guest IA32_PAT must be 0, 1, 4, 5, 6 or 7", pat,
	      VMCS_VM_ENTRY_CONTROLS, VMCS_GUEST_IA32_PAT),
	GUEST(SECTION_REGISTERS, "with \"load IA32_EFER\", reserved bits of guest IA32_EFER must be 0", efer_reserved,
	      VMCS_VM_ENTRY_CONTROLS, VMCS_GUEST_IA32_EFER),
	GUEST(SECTION_REGISTERS, "with \"load IA32_EFER\", guest IA32_EFER.LMA must equal \"IA-32e mode guest\"", efer_lma,
	      VMCS_VM_ENTRY_CONTROLS, VMCS_GUEST_IA32_EFER),
	GUEST(SECTION_REGISTERS, "with \"load IA32_EFER\" and guest CR0.PG = 1, guest IA32_EFER.LMA and LME must be equal",
	      efer_lme, VMCS_VM_ENTRY_CONTROLS, VMCS_GUEST_IA32_EFER, VMCS_GUEST_CR0),
};

static const struct vmx_rule cr3_rules[] = {
	GUEST(SECTION_REGISTERS, "guest CR3 must not exceed the physical-address width", cr3, VMCS_GUEST_CR3),
};

/* ---- segment registers ---- */

static uint64_t segment_field(const struct vmcs *v, enum vmcs_field es_field, unsigned segment)
{
	return vmcs_get(v, (enum vmcs_field)(es_field + segment));
}

static uint64_t selector(const struct vmcs *v, unsigned segment)
{
	return segment_field(v, VMCS_GUEST_ES_SELECTOR, segment);
}

static uint64_t base(const struct vmcs *v, unsigned segment)
{
	return segment_field(v, VMCS_GUEST_ES_BASE, segment);
}

static uint64_t limit(const struct vmcs *v, unsigned segment)
{
	return segment_field(v, VMCS_GUEST_ES_LIMIT, segment);
}

static uint64_t rights(const struct vmcs *v, unsigned segment)
{
	return segment_field(v, VMCS_GUEST_ES_ACCESS_RIGHTS, segment);
}

static bool usable(const struct vmcs *v, unsigned segment)
{
	return !(rights(v, segment) & RIGHTS_UNUSABLE);
}

static bool virtual_8086(const struct vmcs *v)
{
	return F(GUEST_RFLAGS) & FLAG_VM;
}

/* CS and TR are checked even where marked unusable; TR and LDTR also in virtual-8086 mode. */
static bool rights_matter(const struct vmcs *v, unsigned segment)
{
	if (segment == SEG_TR)
		return true;
	if (segment == SEG_LDTR)
		return usable(v, segment);
	return !virtual_8086(v) && (segment == SEG_CS || usable(v, segment));
}

static bool base_v86(const struct vmcs *v, unsigned segment)
{
	return !virtual_8086(v) || base(v, segment) == selector(v, segment) << 4;
}

static bool limit_v86(const struct vmcs *v, unsigned segment)
{
	return !virtual_8086(v) || limit(v, segment) == 0xffff;
}

static bool rights_v86(const struct vmcs *v, unsigned segment)
{
	return !virtual_8086(v) || rights(v, segment) == 0xf3;
}

static bool base_canonical(const struct vmcs *v, unsigned segment)
{
	return (segment == SEG_LDTR && !usable(v, segment)) || is_canonical(base(v, segment));
}

static bool base_32(const struct vmcs *v, unsigned segment)
{
	return (segment != SEG_CS && !usable(v, segment)) || !(base(v, segment) >> 32);
}

/* DS, ES, FS, GS: accessed, and readable where code. */
static bool type_data(const struct vmcs *v, unsigned segment)
{
	unsigned type = RIGHTS_TYPE(rights(v, segment));

	return !rights_matter(v, segment) || ((type & 1) && (!(type & 8) || type & 2));
}

static bool code_or_data(const struct vmcs *v, unsigned segment)
{
	return !rights_matter(v, segment) || rights(v, segment) & RIGHTS_S;
}

static bool system(const struct vmcs *v, unsigned segment)
{
	return !rights_matter(v, segment) || !(rights(v, segment) & RIGHTS_S);
}

static bool dpl_data(const struct vmcs *v, unsigned segment)
{
	return !rights_matter(v, segment) || unrestricted(v) || RIGHTS_TYPE(rights(v, segment)) > 11 ||
	       RIGHTS_DPL(rights(v, segment)) >= (selector(v, segment) & 3);
}

static bool present(const struct vmcs *v, unsigned segment)
{
	return !rights_matter(v, segment) || rights(v, segment) & RIGHTS_P;
}

static bool reserved_low(const struct vmcs *v, unsigned segment)
{
	return !rights_matter(v, segment) || !(rights(v, segment) & 0xf00);
}

static bool reserved_high(const struct vmcs *v, unsigned segment)
{
	return !rights_matter(v, segment) || !(rights(v, segment) >> 17);
}

static bool granularity(const struct vmcs *v, unsigned segment)
{
	uint64_t l = limit(v, segment);

	if (!rights_matter(v, segment))
		return true;
	return rights(v, segment) & RIGHTS_G ? (l & 0xfff) == 0xfff : !(l >> 20);
}

HOLDS(tr_selector_ti) { return !(selector(v, SEG_TR) & 4); }
HOLDS(ldtr_selector_ti) { return !usable(v, SEG_LDTR) || !(selector(v, SEG_LDTR) & 4); }

HOLDS(ss_rpl)
{
	return virtual_8086(v) || unrestricted(v) || (selector(v, SEG_SS) & 3) == (selector(v, SEG_CS) & 3);
}

HOLDS(cs_type)
{
	unsigned type = RIGHTS_TYPE(rights(v, SEG_CS));

	return virtual_8086(v) || (type & 9) == 9 || (type == 3 && unrestricted(v));
}

HOLDS(ss_type)
{
	unsigned type = RIGHTS_TYPE(rights(v, SEG_SS));

	return !rights_matter(v, SEG_SS) || type == 3 || type == 7;
}

HOLDS(cs_dpl)
{
	unsigned dpl = RIGHTS_DPL(rights(v, SEG_CS)), ss_dpl = RIGHTS_DPL(rights(v, SEG_SS));

	if (virtual_8086(v))
		return true;
	switch (RIGHTS_TYPE(rights(v, SEG_CS))) {
	case 3: return dpl == 0;
	case 9:
	case 11: return dpl == ss_dpl;
	case 13:
	case 15: return dpl <= ss_dpl;
	default: return true;
	}
}

HOLDS(ss_dpl_rpl)
{
	return virtual_8086(v) || unrestricted(v) || RIGHTS_DPL(rights(v, SEG_SS)) == (selector(v, SEG_SS) & 3);
}

HOLDS(ss_dpl_zero)
{
	return virtual_8086(v) || (RIGHTS_TYPE(rights(v, SEG_CS)) != 3 && F(GUEST_CR0) & CR0_PE) ||
	       RIGHTS_DPL(rights(v, SEG_SS)) == 0;
}

HOLDS(cs_l_db)
{
	return virtual_8086(v) || !ia32e_guest(v) ||
	       (rights(v, SEG_CS) & (RIGHTS_L | RIGHTS_DB)) != (RIGHTS_L | RIGHTS_DB);
}

HOLDS(tr_type)
{
	unsigned type = RIGHTS_TYPE(rights(v, SEG_TR));

	return type == 11 || (type == 3 && !ia32e_guest(v));
}

HOLDS(tr_usable) { return usable(v, SEG_TR); }
HOLDS(ldtr_type) { return !usable(v, SEG_LDTR) || RIGHTS_TYPE(rights(v, SEG_LDTR)) == 2; }

/* One rule about one register: a function and, in the table, its row. */
#define EACH_SIX(X, check) \
	X(ES, check) X(CS, check) X(SS, check) X(DS, check) X(FS, check) X(GS, check)
#define EACH_DATA(X, check) X(ES, check) X(DS, check) X(FS, check) X(GS, check)
#define EACH_EIGHT(X, check) EACH_SIX(X, check) X(LDTR, check) X(TR, check)

#define FUNCTION(register, check) \
	HOLDS(register##_##check) { return check(v, SEG_##register); }

EACH_SIX(FUNCTION, base_v86)
EACH_SIX(FUNCTION, limit_v86)
EACH_SIX(FUNCTION, rights_v86)
FUNCTION(FS, base_canonical)
FUNCTION(GS, base_canonical)
FUNCTION(LDTR, base_canonical)
FUNCTION(TR, base_canonical)
FUNCTION(ES, base_32)
FUNCTION(CS, base_32)
FUNCTION(SS, base_32)
FUNCTION(DS, base_32)
EACH_DATA(FUNCTION, type_data)
EACH_SIX(FUNCTION, code_or_data)
FUNCTION(LDTR, system)
FUNCTION(TR, system)
EACH_DATA(FUNCTION, dpl_data)
EACH_EIGHT(FUNCTION, present)
EACH_EIGHT(FUNCTION, reserved_low)
EACH_EIGHT(FUNCTION, granularity)
EACH_EIGHT(FUNCTION, reserved_high)

#define ROW(register, check, sentence, ...) \
	GUEST(SECTION_SEGMENTS, "guest " #register ": " sentence, register##_##check, ##__VA_ARGS__)
#define ROW_RIGHTS(register, check, sentence) ROW(register, check, sentence, VMCS_GUEST_##register##_ACCESS_RIGHTS)
#define ROW_base_v86(register, check) \
	ROW(register, check, "in virtual-8086 mode the base must be the selector times 16", VMCS_GUEST_RFLAGS, \
	    VMCS_GUEST_##register##_SELECTOR, VMCS_GUEST_##register##_BASE),
#define ROW_limit_v86(register, check) \
	ROW(register, check, "in virtual-8086 mode the limit must be FFFFH", VMCS_GUEST_RFLAGS, \
	    VMCS_GUEST_##register##_LIMIT),
#define ROW_rights_v86(register, check) \
	ROW(register, check, "in virtual-8086 mode the access rights must be F3H", VMCS_GUEST_RFLAGS, \
	    VMCS_GUEST_##register##_ACCESS_RIGHTS),
#define ROW_base_canonical(register, check) \
	ROW(register, check, "the base must be canonical", VMCS_GUEST_##register##_BASE),
#define ROW_base_32(register, check) \
	ROW(register, check, "bits 63:32 of the base must be 0", VMCS_GUEST_##register##_BASE, \
	    VMCS_GUEST_##register##_ACCESS_RIGHTS),
#define ROW_type_data(register, check) \
	ROW_RIGHTS(register, check, "the type must be accessed, and readable where it is code"),
#define ROW_code_or_data(register, check) ROW_RIGHTS(register, check, "S must be 1 (code or data)"),
#define ROW_system(register, check) ROW_RIGHTS(register, check, "S must be 0 (system)"),
#define ROW_dpl_data(register, check) \
	ROW(register, check, "DPL must not be less than the selector's RPL (data or non-conforming code)", \
	    VMCS_GUEST_##register##_ACCESS_RIGHTS, VMCS_GUEST_##register##_SELECTOR, \
	    VMCS_SECONDARY_PROCESSOR_CONTROLS),
#define ROW_present(register, check) ROW_RIGHTS(register, check, "P must be 1"),
#define ROW_reserved_low(register, check) ROW_RIGHTS(register, check, "bits 11:8 of the access rights must be 0"),
#define ROW_granularity(register, check) \
	ROW(register, check, "G must fit the limit: 0 where a bit of 11:0 is 0, 1 where a bit of 31:20 is 1", \
	    VMCS_GUEST_##register##_ACCESS_RIGHTS, VMCS_GUEST_##register##_LIMIT),
#define ROW_reserved_high(register, check) ROW_RIGHTS(register, check, "bits 31:17 of the access rights must be 0"),

static const struct vmx_rule segment_rules[] = {
	GUEST(SECTION_SEGMENTS, "guest TR: TI of the selector must be 0", tr_selector_ti, VMCS_GUEST_TR_SELECTOR),
	GUEST(SECTION_SEGMENTS, "guest LDTR: TI of the selector must be 0 where LDTR is usable", ldtr_selector_ti,
	      VMCS_GUEST_LDTR_SELECTOR, VMCS_GUEST_LDTR_ACCESS_RIGHTS),
	GUEST(SECTION_SEGMENTS,
	      "guest SS: the selector's RPL must equal CS's (outside virtual-8086 mode, without \"unrestricted guest\")",
	      ss_rpl, VMCS_GUEST_SS_SELECTOR, VMCS_GUEST_CS_SELECTOR, VMCS_SECONDARY_PROCESSOR_CONTROLS),
	EACH_SIX(ROW_base_v86, base_v86)
	ROW_base_canonical(TR, base_canonical)
	ROW_base_canonical(FS, base_canonical)
	ROW_base_canonical(GS, base_canonical)
	ROW_base_canonical(LDTR, base_canonical)
	ROW_base_32(CS, base_32)
	ROW_base_32(SS, base_32)
	ROW_base_32(DS, base_32)
	ROW_base_32(ES, base_32)
	EACH_SIX(ROW_limit_v86, limit_v86)
	EACH_SIX(ROW_rights_v86, rights_v86)
	GUEST(SECTION_SEGMENTS, "guest CS: the type must be 9, 11, 13 or 15, or 3 with \"unrestricted guest\"", cs_type,
	      VMCS_GUEST_CS_ACCESS_RIGHTS, VMCS_SECONDARY_PROCESSOR_CONTROLS),
	GUEST(SECTION_SEGMENTS, "guest SS: the type must be 3 or 7 where SS is usable", ss_type,
	      VMCS_GUEST_SS_ACCESS_RIGHTS),
	EACH_DATA(ROW_type_data, type_data)
	EACH_SIX(ROW_code_or_data, code_or_data)
	GUEST(SECTION_SEGMENTS,
	      "guest CS: DPL must be 0 for type 3, equal SS's DPL for types 9 and 11, and not exceed it for 13 and 15",
	      cs_dpl, VMCS_GUEST_CS_ACCESS_RIGHTS, VMCS_GUEST_SS_ACCESS_RIGHTS),
	GUEST(SECTION_SEGMENTS, "guest SS: DPL must equal the selector's RPL without \"unrestricted guest\"", ss_dpl_rpl,
	      VMCS_GUEST_SS_ACCESS_RIGHTS, VMCS_GUEST_SS_SELECTOR, VMCS_SECONDARY_PROCESSOR_CONTROLS),
	GUEST(SECTION_SEGMENTS, "guest SS: DPL must be 0 where CS's type is 3 or CR0.PE is 0", ss_dpl_zero,
	      VMCS_GUEST_SS_ACCESS_RIGHTS, VMCS_GUEST_CS_ACCESS_RIGHTS, VMCS_GUEST_CR0),
	EACH_DATA(ROW_dpl_data, dpl_data)
	EACH_SIX(ROW_present, present)
	EACH_SIX(ROW_reserved_low, reserved_low)
	GUEST(SECTION_SEGMENTS, "guest CS: D/B must be 0 where L is 1 in an IA-32e mode guest", cs_l_db,
	      VMCS_GUEST_CS_ACCESS_RIGHTS, VMCS_VM_ENTRY_CONTROLS),
	EACH_SIX(ROW_granularity, granularity)
	EACH_SIX(ROW_reserved_high, reserved_high)
	GUEST(SECTION_SEGMENTS, "guest TR: the type must be 11, or 3 outside an IA-32e mode guest", tr_type,
	      VMCS_GUEST_TR_ACCESS_RIGHTS, VMCS_VM_ENTRY_CONTROLS),
	ROW_system(TR, system)
	ROW_present(TR, present)
	ROW_reserved_low(TR, reserved_low)
	ROW_granularity(TR, granularity)
	GUEST(SECTION_SEGMENTS, "guest TR: it must not be unusable", tr_usable, VMCS_GUEST_TR_ACCESS_RIGHTS),
	ROW_reserved_high(TR, reserved_high)
	GUEST(SECTION_SEGMENTS, "guest LDTR: the type must be 2 where LDTR is usable", ldtr_type,
	      VMCS_GUEST_LDTR_ACCESS_RIGHTS),
	ROW_system(LDTR, system)
	ROW_present(LDTR, present)
	ROW_reserved_low(LDTR, reserved_low)
	ROW_granularity(LDTR, granularity)
	ROW_reserved_high(LDTR, reserved_high)
};

/* ---- descriptor-table registers ---- */

HOLDS(gdtr_base) { return is_canonical(F(GUEST_GDTR_BASE)); }
HOLDS(idtr_base) { return is_canonical(F(GUEST_IDTR_BASE)); }
HOLDS(gdtr_limit) { return !(F(GUEST_GDTR_LIMIT) >> 16); }
HOLDS(idtr_limit) { return !(F(GUEST_IDTR_LIMIT) >> 16); }

static const struct vmx_rule table_rules[] = {
	GUEST(SECTION_TABLES, "guest GDTR: the base must be canonical", gdtr_base, VMCS_GUEST_GDTR_BASE),
	GUEST(SECTION_TABLES, "guest IDTR: the base must be canonical", idtr_base, VMCS_GUEST_IDTR_BASE),
	GUEST(SECTION_TABLES, "guest GDTR: bits 31:16 of the limit must be 0", gdtr_limit, VMCS_GUEST_GDTR_LIMIT),
	GUEST(SECTION_TABLES, "guest IDTR: bits 31:16 of the limit must be 0", idtr_limit, VMCS_GUEST_IDTR_LIMIT),
};

/* ---- RIP and RFLAGS ---- */

static bool code_64(const struct vmcs *v)
{
	return ia32e_guest(v) && rights(v, SEG_CS) & RIGHTS_L;
}

HOLDS(rip_32) { return code_64(v) || !(F(GUEST_RIP) >> 32); }

/* Alike, not canonical: bit 47 may differ. */
HOLDS(rip_64) { return !code_64(v) || F(GUEST_RIP) >> 48 == 0 || F(GUEST_RIP) >> 48 == 0xffff; }

HOLDS(rflags_reserved)
{
	return (F(GUEST_RFLAGS) & (~(uint64_t)0x3fffff | 1u << 15 | 1u << 5 | 1u << 3 | 1u << 1)) == 2;
}

HOLDS(rflags_vm) { return !virtual_8086(v) || (!ia32e_guest(v) && F(GUEST_CR0) & CR0_PE); }
HOLDS(rflags_if) { return !injects_type(v, EVENT_EXTERNAL) || F(GUEST_RFLAGS) & FLAG_IF; }

static const struct vmx_rule rip_rules[] = {
	GUEST(SECTION_RIP, "bits 63:32 of guest RIP must be 0 outside 64-bit code", rip_32, VMCS_GUEST_RIP,
	      VMCS_VM_ENTRY_CONTROLS, VMCS_GUEST_CS_ACCESS_RIGHTS),
	GUEST(SECTION_RIP, "bits 63:48 of guest RIP must be identical in 64-bit code", rip_64, VMCS_GUEST_RIP,
	      VMCS_VM_ENTRY_CONTROLS, VMCS_GUEST_CS_ACCESS_RIGHTS),
};

static const struct vmx_rule rflags_rules[] = {
	GUEST(SECTION_RIP, "bits 63:22, 15, 5 and 3 of guest RFLAGS must be 0 and bit 1 must be 1", rflags_reserved,
	      VMCS_GUEST_RFLAGS),
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
	       (activity <= VMCS_ACTIVITY_WAIT_SIPI && capabilities(cpu)->misc & (VMX_MISC_ACTIVITY_HLT << (activity - 1)));
}

HOLDS(hlt_dpl) { return F(GUEST_ACTIVITY_STATE) != VMCS_ACTIVITY_HLT || RIGHTS_DPL(rights(v, SEG_SS)) == 0; }

HOLDS(blocking_active)
{
	return F(GUEST_ACTIVITY_STATE) == VMCS_ACTIVITY_ACTIVE || !blocked(v, INTERRUPTIBILITY_STI | INTERRUPTIBILITY_MOV_SS);
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
		return injects_type(v, EVENT_NMI) || (injects_type(v, EVENT_EXCEPTION) && vector == VECTOR_MC);
	default:
		return false;
	}
}

/* Bit 4 (enclave interruption) is reserved where there is no SGX. */
HOLDS(interruptibility_reserved) { return !(F(GUEST_INTERRUPTIBILITY_STATE) >> 4); }

HOLDS(not_both_blockings)
{
	return !blocked(v, INTERRUPTIBILITY_STI) || !blocked(v, INTERRUPTIBILITY_MOV_SS);
}

HOLDS(sti_if) { return !blocked(v, INTERRUPTIBILITY_STI) || F(GUEST_RFLAGS) & FLAG_IF; }

HOLDS(external_unblocked)
{
	return !injects_type(v, EVENT_EXTERNAL) || !blocked(v, INTERRUPTIBILITY_STI | INTERRUPTIBILITY_MOV_SS);
}

HOLDS(nmi_mov_ss) { return !injects_type(v, EVENT_NMI) || !blocked(v, INTERRUPTIBILITY_MOV_SS); }
HOLDS(smi_blocking) { return !blocked(v, INTERRUPTIBILITY_SMI); }

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
	return !trap_held_back(v) || single_steps(v) || !(F(GUEST_PENDING_DEBUG_EXCEPTIONS) & PENDING_DEBUG_BS);
}

static const struct vmx_rule state_rules[] = {
	GUEST(SECTION_STATE, "the activity state must be 0-3 and one that IA32_VMX_MISC[8:6] offers", activity_supported,
	      VMCS_GUEST_ACTIVITY_STATE),
	GUEST(SECTION_STATE, "the activity state must not be HLT where SS's DPL is not 0", hlt_dpl,
	      VMCS_GUEST_ACTIVITY_STATE, VMCS_GUEST_SS_ACCESS_RIGHTS),
	GUEST(SECTION_STATE, "the activity state must be active under blocking by STI or MOV SS", blocking_active,
	      VMCS_GUEST_ACTIVITY_STATE, VMCS_GUEST_INTERRUPTIBILITY_STATE),
	GUEST(SECTION_STATE, "an injected event must be one that the activity state does not block", activity_injection,
	      VMCS_GUEST_ACTIVITY_STATE, VMCS_VM_ENTRY_INTERRUPTION_INFORMATION),
	GUEST(SECTION_STATE, "bits 31:4 of the interruptibility state must be 0", interruptibility_reserved,
	      VMCS_GUEST_INTERRUPTIBILITY_STATE),
	GUEST(SECTION_STATE, "blocking by STI and blocking by MOV SS must not both be 1", not_both_blockings,
	      VMCS_GUEST_INTERRUPTIBILITY_STATE),
	GUEST(SECTION_STATE, "blocking by STI must be 0 where RFLAGS.IF is 0", sti_if, VMCS_GUEST_INTERRUPTIBILITY_STATE,
	      VMCS_GUEST_RFLAGS),
	GUEST(SECTION_STATE, "blocking by STI and by MOV SS must be 0 when an external interrupt is injected",
	      external_unblocked, VMCS_GUEST_INTERRUPTIBILITY_STATE, VMCS_VM_ENTRY_INTERRUPTION_INFORMATION),
	GUEST(SECTION_STATE, "blocking by MOV SS must be 0 when an NMI is injected", nmi_mov_ss,
	      VMCS_GUEST_INTERRUPTIBILITY_STATE, VMCS_VM_ENTRY_INTERRUPTION_INFORMATION),
	GUEST(SECTION_STATE, "blocking by SMI must be 0 outside SMM", smi_blocking, VMCS_GUEST_INTERRUPTIBILITY_STATE),
	GUEST(SECTION_STATE, "blocking by NMI must be 0 when an NMI is injected under \"virtual NMIs\"",
	      virtual_nmi_blocking, VMCS_GUEST_INTERRUPTIBILITY_STATE, VMCS_PIN_BASED_CONTROLS,
	      VMCS_VM_ENTRY_INTERRUPTION_INFORMATION),
	GUEST(SECTION_STATE, "bits 11:4, 13 and 63:15 of the pending debug exceptions must be 0", pending_debug_reserved,
	      VMCS_GUEST_PENDING_DEBUG_EXCEPTIONS),
	GUEST(SECTION_STATE,
	      "pending debug exceptions: BS must be 1 under blocking by STI or MOV SS, or in HLT, where RFLAGS.TF is 1 and "
	      "IA32_DEBUGCTL.BTF is 0",
	      pending_bs_set, VMCS_GUEST_PENDING_DEBUG_EXCEPTIONS, VMCS_GUEST_INTERRUPTIBILITY_STATE,
	      VMCS_GUEST_ACTIVITY_STATE, VMCS_GUEST_RFLAGS, VMCS_GUEST_IA32_DEBUGCTL),
	GUEST(SECTION_STATE,
	      "pending debug exceptions: BS must be 0 under blocking by STI or MOV SS, or in HLT, where RFLAGS.TF is 0 or "
	      "IA32_DEBUGCTL.BTF is 1",
	      pending_bs_clear, VMCS_GUEST_PENDING_DEBUG_EXCEPTIONS, VMCS_GUEST_INTERRUPTIBILITY_STATE,
	      VMCS_GUEST_ACTIVITY_STATE, VMCS_GUEST_RFLAGS, VMCS_GUEST_IA32_DEBUGCTL),
};

/* ---- VMCS link pointer: the region it names may change at any time ---- */

static bool linked(const struct vmcs *v)
{
	return F(VMCS_LINK_POINTER) != VMCS_NO_POINTER;
}

HOLDS(link_aligned) { return !linked(v) || page_aligned(F(VMCS_LINK_POINTER)); }
HOLDS(link_width) { return !linked(v) || within_width(cpu, F(VMCS_LINK_POINTER)); }

HOLDS(link_revision)
{
	uint32_t expected = VMCS_REVISION | (secondary(v, CPU2_VMCS_SHADOWING) ? VMCS_SHADOW : 0);

	return !linked(v) || phys_read((struct cpu *)cpu, GPA(F(VMCS_LINK_POINTER)), 4) == expected;
}

HOLDS(link_not_current) { return !linked(v) || F(VMCS_LINK_POINTER) != v->gpa.v; }

#define LINK(sentence, function, ...) \
	{ SECTION_STATE, "the VMCS link pointer " sentence, ENTRY_FAILURE_LINK_POINTER, \
	  { VMCS_VMCS_LINK_POINTER, ##__VA_ARGS__ }, function }

static const struct vmx_rule link_rules[] = {
	LINK("must have bits 11:0 0, or be FFFFFFFF_FFFFFFFFH", link_aligned),
	LINK("must not exceed the physical-address width", link_width),
	LINK("must point to this processor's VMCS revision identifier, with bit 31 set exactly under \"VMCS shadowing\"",
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
	{ SECTION_PDPTE, "under EPT with PAE paging, reserved bits of the PDPTE fields must be 0 where P is 1",
	  ENTRY_FAILURE_PDPTE,
	  { VMCS_GUEST_CR4, VMCS_GUEST_PDPTE0, VMCS_GUEST_PDPTE1, VMCS_GUEST_PDPTE2, VMCS_GUEST_PDPTE3 },
	  pdptes_in_vmcs },
};

static const struct vmx_rule pdpte_memory_rules[] = {
	{ SECTION_PDPTE, "with PAE paging and no EPT, reserved bits of the PDPTEs that guest CR3 names must be 0 where P is 1",
	  ENTRY_FAILURE_PDPTE, { VMCS_GUEST_CR4, VMCS_GUEST_CR3 }, pdptes_in_memory },
};

/* ---- what nearly every entry finds ---- */

/* Flat, present, writable and accessed, or unusable; its DPL not below its RPL. */
static bool data_ordinary(const struct vmcs *v, unsigned segment)
{
	uint64_t r = rights(v, segment);

	return !usable(v, segment) || ((r == 0xc093 || r == 0xc0f3) && limit(v, segment) == 0xffffffff &&
				       RIGHTS_DPL(r) >= (selector(v, segment) & 3));
}

/* A protected-mode guest on flat segments, whose CPL, RPLs and DPLs of CS and SS agree, and a busy 32- or 64-bit TSS. */
HOLDS(segments_ordinary)
{
	uint64_t cs = rights(v, SEG_CS), ss = rights(v, SEG_SS), ldtr = rights(v, SEG_LDTR);
	unsigned cpl = RIGHTS_DPL(ss);

	return !virtual_8086(v) && F(GUEST_CR0) & CR0_PE &&
	       ((cs & ~(uint64_t)0x60) == 0xa09b || (cs & ~(uint64_t)0x60) == 0xc09b) && limit(v, SEG_CS) == 0xffffffff &&
	       RIGHTS_DPL(cs) == cpl && (selector(v, SEG_CS) & 3) == cpl && (selector(v, SEG_SS) & 3) == cpl &&
	       data_ordinary(v, SEG_SS) && data_ordinary(v, SEG_DS) && data_ordinary(v, SEG_ES) &&
	       data_ordinary(v, SEG_FS) && data_ordinary(v, SEG_GS) &&
	       !((base(v, SEG_CS) | base(v, SEG_SS) | base(v, SEG_DS) | base(v, SEG_ES)) >> 32) &&
	       is_canonical(base(v, SEG_FS)) && is_canonical(base(v, SEG_GS)) &&
	       rights(v, SEG_TR) == 0x8b && !(limit(v, SEG_TR) >> 20) && !(selector(v, SEG_TR) & 4) &&
	       is_canonical(base(v, SEG_TR)) &&
	       (ldtr & RIGHTS_UNUSABLE || (ldtr == 0x82 && !(limit(v, SEG_LDTR) >> 20) &&
					   !(selector(v, SEG_LDTR) & 4) && is_canonical(base(v, SEG_LDTR))));
}

HOLDS(state_ordinary)
{
	return !(F(GUEST_ACTIVITY_STATE) | F(GUEST_INTERRUPTIBILITY_STATE) | F(GUEST_PENDING_DEBUG_EXCEPTIONS)) &&
	       !injects(v);
}

HOLDS(not_linked) { return !linked(v); }

#define G(name) VMCS_GROUP_##name
#define G_MODE (G(CONTROLS) | G(WINDOWS)) /* unrestricted guest, IA-32e mode guest */

const struct rule_group vmx_rules_guest[] = {
	RULE_GROUP(register_rules, G(GUEST_CONTROL_REGISTERS) | G_MODE),
	RULE_GROUP(cr3_rules, G(GUEST_CR3)),
	RULE_GROUP_QUICK(segment_rules, G(SEGMENTS) | G(GUEST_CONTROL_REGISTERS) | G_MODE, segments_ordinary),
	RULE_GROUP(table_rules, G(DESCRIPTOR_TABLES)),
	RULE_GROUP(rip_rules, G(RIP) | G(SEGMENTS) | G_MODE),
	RULE_GROUP(rflags_rules, G(RFLAGS) | G(INJECTION) | G(GUEST_CONTROL_REGISTERS) | G_MODE),
	RULE_GROUP_QUICK(state_rules, G(NON_REGISTER) | G(RFLAGS) | G(INJECTION) | G(SEGMENTS) |
					      G(GUEST_CONTROL_REGISTERS) | G_MODE, state_ordinary),
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

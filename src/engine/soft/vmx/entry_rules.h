/* What the tables of entry rules (entry_checks.c, entry_checks_guest.c) share. */
#ifndef NESTOR_VMX_ENTRY_RULES_H
#define NESTOR_VMX_ENTRY_RULES_H

#include "engine/soft/vmx/vmcs.h"

/* A rule's function: true where vmcs (v) obeys it. */
#define HOLDS(name) static bool name(const struct cpu *cpu, const struct vmcs *v)

/* In struct rule_group's depends: looks at more than the VMCS, so is checked at every entry. */
#define DEPENDS_ALWAYS (1u << 31)

/* Rules that depend on the same groups of fields, skipped together while those are clean. */
struct rule_group {
	const struct vmx_rule *rule;
	unsigned count;
	uint32_t depends; /* enum vmcs_group | DEPENDS_ALWAYS */
	/* NULL, or a quick test of the values found nearly always: where it is true every rule holds. */
	bool (*ordinary)(const struct cpu *cpu, const struct vmcs *vmcs);
};

#define RULE_GROUP(rules, depends)                                                                           \
	{                                                                                                    \
		rules, sizeof(rules) / sizeof((rules)[0]), (depends), NULL                                   \
	}
#define RULE_GROUP_QUICK(rules, depends, ordinary)                                                           \
	{                                                                                                    \
		rules, sizeof(rules) / sizeof((rules)[0]), (depends), ordinary                               \
	}

/* The files' groups, each in the order of checking. */
extern const struct rule_group vmx_rules_controls_and_host[], vmx_rules_guest[];
extern const unsigned vmx_rules_controls_and_host_count, vmx_rules_guest_count;

/* dirty: changed groups. */
static inline const struct vmx_rule *first_violated(const struct cpu *cpu, const struct vmcs *vmcs,
                                                    uint32_t dirty, const struct rule_group *group,
                                                    unsigned count)
{
	dirty |= DEPENDS_ALWAYS;

	for (unsigned i = 0; i < count; i++) {
		if (!(dirty & group[i].depends))
			continue;
		if (group[i].ordinary && group[i].ordinary(cpu, vmcs))
			continue;
		for (unsigned j = 0; j < group[i].count; j++)
			if (!group[i].rule[j].holds(cpu, vmcs))
				return &group[i].rule[j];
	}
	return NULL;
}

#define F(name) vmcs_get(v, VMCS_##name)

static inline const struct vmx_capabilities *capabilities(const struct cpu *cpu)
{
	return &cpu->vmx->cap;
}

static inline bool within_width(const struct cpu *cpu, uint64_t address)
{
	return !(address & capabilities(cpu)->address_mask);
}

static inline bool page_aligned(uint64_t address)
{
	return !(address & (PAGE_SIZE - 1));
}

/* Every byte of a PAT value is a memory type: 0, 1, 4, 5, 6 or 7. */
static inline bool pat_valid(uint64_t pat)
{
	/* Bits 7:3 clear, and bit 1 only together with bit 2. */
	return !(pat & 0xf8f8f8f8f8f8f8f8ull) &&
	       !((pat & 0x0202020202020202ull) & ~(pat >> 1 & 0x0202020202020202ull));
}

/* A control word against its capability: allowed-0 bits set, bits not allowed-1 clear. */
static inline bool control_allowed(uint64_t capability, uint64_t value)
{
	return !((uint32_t)capability & ~value) && !(value & ~(capability >> 32));
}

/* The secondary controls, 0 where not activated. */
static inline bool secondary(const struct vmcs *v, uint32_t bit)
{
	return vmcs_secondary(v) & bit;
}

static inline bool ia32e_guest(const struct vmcs *v)
{
	return F(VM_ENTRY_CONTROLS) & ENTRY_IA32E_MODE_GUEST;
}

/* The event that the entry injects: is there one, and of this type? */
static inline bool injects(const struct vmcs *v)
{
	return F(VM_ENTRY_INTERRUPTION_INFORMATION) & INTERRUPTION_VALID;
}

static inline bool injects_type(const struct vmcs *v, enum event_type type)
{
	return injects(v) && INTERRUPTION_TYPE(F(VM_ENTRY_INTERRUPTION_INFORMATION)) == type;
}

static inline unsigned injected_vector(const struct vmcs *v)
{
	return INTERRUPTION_VECTOR(F(VM_ENTRY_INTERRUPTION_INFORMATION));
}

/* ---- guest state ---- */

#define GUEST(section, sentence, function, ...)                                                              \
	{                                                                                                    \
		section, sentence, ENTRY_FAILURE_DEFAULT, {__VA_ARGS__}, function                            \
	}

static inline bool unrestricted(const struct vmcs *v)
{
	return secondary(v, CPU2_UNRESTRICTED_GUEST);
}

static inline uint64_t segment_field(const struct vmcs *v, enum vmcs_field es_field, unsigned segment)
{
	return vmcs_get(v, (enum vmcs_field)(es_field + segment));
}

static inline uint64_t segment_selector(const struct vmcs *v, unsigned segment)
{
	return segment_field(v, VMCS_GUEST_ES_SELECTOR, segment);
}

static inline uint64_t segment_base(const struct vmcs *v, unsigned segment)
{
	return segment_field(v, VMCS_GUEST_ES_BASE, segment);
}

static inline uint64_t segment_limit(const struct vmcs *v, unsigned segment)
{
	return segment_field(v, VMCS_GUEST_ES_LIMIT, segment);
}

static inline uint64_t segment_rights(const struct vmcs *v, unsigned segment)
{
	return segment_field(v, VMCS_GUEST_ES_ACCESS_RIGHTS, segment);
}

static inline bool segment_usable(const struct vmcs *v, unsigned segment)
{
	return !(segment_rights(v, segment) & RIGHTS_UNUSABLE);
}

static inline bool virtual_8086(const struct vmcs *v)
{
	return F(GUEST_RFLAGS) & FLAG_VM;
}

/* entry_checks_segments.c */
#define VMX_SEGMENT_RULES 86
extern const struct vmx_rule vmx_segment_rules[];
bool vmx_segments_ordinary(const struct cpu *cpu, const struct vmcs *v);

#endif

/*
 * The VMCS as the engine keeps it, and one vCPU's VMX state.
 *
 * A VMCS region in guest memory is only storage (its layout is vmcs_cache.c's). VMPTRLD brings it into a
 * struct vmcs, which is what every other part reads and writes; VMCLEAR, VMXOFF's owner and eviction from
 * the bounded cache write it back. Field values in a struct vmcs are not trusted until the entry checks have
 * passed: a hostile guest may have written any bytes into the region. They are always truncated to the
 * field's width.
 */
#ifndef NESTOR_VMX_VMCS_H
#define NESTOR_VMX_VMCS_H

#include <stdbool.h>
#include <stdint.h>

#include "engine/soft/cpu/cpu.h"
#include "engine/soft/vmx/controls.h"
#include "util/address.h"

/* Changes with every change of vmcs_fields.def or of the region's layout. Bit 31 is the shadow indicator. */
#define VMCS_REVISION    0x4e560001u
#define VMCS_REGION_SIZE 4096u
#define VMCS_SHADOW      (1u << 31)
#define VMCS_NO_POINTER  UINT64_MAX

/* VMCS_NONE (0) is no field; the fields follow in the order of vmcs_fields.def. */
enum vmcs_field {
	VMCS_NONE,
#define VMCS_FIELD(name, encoding, width, type, group, word, bit) VMCS_##name,
#include "engine/soft/vmx/vmcs_fields.def"
#undef VMCS_FIELD
	VMCS_FIELD_COUNT
};

/* What a VMWRITE marks as changed. Entry checks (and state loading) skip what depends on clean groups only.
 */
enum vmcs_group {
	VMCS_GROUP_NONE = 0,          /* no rule looks at it */
	VMCS_GROUP_CONTROLS = 1 << 0, /* controls and the addresses that they name */
	VMCS_GROUP_WINDOWS = 1 << 1,  /* the primary controls: hypervisors toggle window exiting */
	VMCS_GROUP_MSR_LISTS = 1 << 2,
	VMCS_GROUP_INJECTION = 1 << 3,
	VMCS_GROUP_APIC = 1 << 4,       /* TPR threshold, EOI-exit bitmaps */
	VMCS_GROUP_INTERCEPTS = 1 << 5, /* bitmaps and masks that entry does not check */
	VMCS_GROUP_TSC = 1 << 6,
	VMCS_GROUP_HOST_CONTROL_REGISTERS = 1 << 7,
	VMCS_GROUP_HOST_CR3 = 1 << 8,
	VMCS_GROUP_HOST_SEGMENTS = 1 << 9, /* selectors */
	VMCS_GROUP_HOST_BASES = 1 << 10,
	VMCS_GROUP_HOST_RIP = 1 << 11,
	VMCS_GROUP_GUEST_CONTROL_REGISTERS = 1 << 12, /* CR0, CR4, DR7 and MSRs */
	VMCS_GROUP_GUEST_CR3 = 1 << 13,
	VMCS_GROUP_SEGMENTS = 1 << 14,          /* the guest's */
	VMCS_GROUP_DESCRIPTOR_TABLES = 1 << 15, /* the guest's GDTR and IDTR */
	VMCS_GROUP_RIP = 1 << 16,
	VMCS_GROUP_RFLAGS = 1 << 17,
	VMCS_GROUP_NON_REGISTER = 1 << 18,
	VMCS_GROUP_LINK = 1 << 19,
	VMCS_GROUP_PDPTES = 1 << 20,
	VMCS_GROUP_ALL = (1 << 21) - 1,
};

enum vmcs_width { VMCS_WIDTH_16 = 0, VMCS_WIDTH_64 = 1, VMCS_WIDTH_32 = 2, VMCS_WIDTH_NATURAL = 3 };
enum vmcs_type { VMCS_TYPE_CONTROL = 0, VMCS_TYPE_READ_ONLY = 1, VMCS_TYPE_GUEST = 2, VMCS_TYPE_HOST = 3 };

/* Which control word a field's existence depends on. */
enum vmcs_word {
	VMCS_WORD_ALWAYS,
	VMCS_WORD_PIN,
	VMCS_WORD_PRIMARY,
	VMCS_WORD_SECONDARY,
	VMCS_WORD_EXIT,
	VMCS_WORD_ENTRY
};

struct vmcs_field_info {
	const char *name; /* the SDM's, in upper snake case */
	uint64_t mask;    /* of the field's width */
	uint32_t group;   /* enum vmcs_group */
	uint32_t bit;     /* of word */
	uint16_t encoding;
	uint8_t width, type, word;
};

/* vmcs_cache.c. [VMCS_NONE] is named "none". */
extern const struct vmcs_field_info vmcs_field_info[VMCS_FIELD_COUNT];

/* SDM, VMCS launch state. */
enum vmcs_launch_state { VMCS_CLEAR = 0, VMCS_LAUNCHED = 1 };

struct vmcs {
	uint64_t f[VMCS_FIELD_COUNT];
	uint32_t
	    dirty_checks; /* groups changed since the entry checks last passed; entry_checks*.c clears them */
	uint32_t dirty_runtime; /* the same for VM entry's own caches; VM entry clears them */
	uint32_t launch_state;  /* enum vmcs_launch_state */
	gpa_t gpa;              /* of the region; VMCS_NO_POINTER: this cache slot is free */
	uint64_t used;          /* for LRU */
	bool checked_v86;       /* entry checks last passed with RFLAGS.VM = 1 */
	bool shadow;            /* the shadow-VMCS indicator was set at VMPTRLD */
};

/* What the processor announces: the capability MSRs, taken apart (capabilities.c). */
struct vmx_capabilities {
	/* allowed-0 settings (bits that must be 1) in the low word, allowed-1 in the high word, as in the
	 * MSRs */
	uint64_t basic, pin, primary, exit, entry, misc, cr0_fixed0, cr0_fixed1, cr4_fixed0, cr4_fixed1,
	    vmcs_enum;
	uint64_t secondary, ept_vpid, true_pin, true_primary, true_exit, true_entry;
	uint64_t efer_allowed; /* bits that guest and host IA32_EFER may have */
	uint64_t address_mask; /* bits beyond the physical-address width */
};

#include "engine/soft/vmx/vmx_runtime.h"

#define VMCS_CACHE_SIZE 24
#define VMCS_ENCODINGS  1024

struct vmx_rule;

/* One vCPU's VMX state. Belongs to the vCPU's thread. */
struct vmx {
	struct vmcs
	    *current; /* the current VMCS, in the cache, or NULL where the pointer is FFFFFFFF_FFFFFFFFH */
	struct vmcs *shadow; /* VMCS shadowing: a cached VMCS that non-root accesses went to last, or NULL */
	bool in_vmx_operation;
	bool in_nonroot;                    /* set by VM entry, cleared by VM exit; cpu->virt follows it */
	gpa_t vmxon;                        /* the VMXON region; VMCS_NO_POINTER outside VMX operation */
	const struct vmx_rule *failed_rule; /* the last one that an entry of this vCPU violated, or NULL */
	struct vmx_capabilities cap;
	uint64_t use_counter;
	uint8_t
	    field_of[VMCS_ENCODINGS]; /* compact encoding -> enum vmcs_field; VMCS_NONE where not supported */
	struct vmcs cache[VMCS_CACHE_SIZE];
	struct vmx_runtime runtime; /* VM entry's and exit's own (vmx_runtime.h) */
};

/* Value of a field, zero-extended. */
static inline uint64_t vmcs_get(const struct vmcs *vmcs, enum vmcs_field field)
{
	return vmcs->f[field];
}

/*
 * Sets a field as VMWRITE does, marking its group only where the value changes. The value must fit the
 * field's width. (VM exit may store guest state into f[] directly: what it saves has been valid.)
 */
static inline void vmcs_set(struct vmcs *vmcs, enum vmcs_field field, uint64_t value)
{
	if (vmcs->f[field] != value) {
		vmcs->f[field] = value;
		vmcs->dirty_checks |= vmcs_field_info[field].group;
		vmcs->dirty_runtime |= vmcs_field_info[field].group;
	}
}

/* The secondary controls count as 0 where "activate secondary controls" is 0. */
static inline uint32_t vmcs_secondary(const struct vmcs *vmcs)
{
	return vmcs->f[VMCS_PRIMARY_PROCESSOR_CONTROLS] & CPU_ACTIVATE_SECONDARY_CONTROLS
	           ? vmcs->f[VMCS_SECONDARY_PROCESSOR_CONTROLS]
	           : 0;
}

/* Compact form of an encoding (bits 31:0) as an index of field_of, without the access type (bit 0); -1 where
 * a reserved bit is set or the index is beyond any field's. */
static inline int vmcs_compact(uint64_t encoding)
{
	if (encoding & ~0x6c7full)
		return -1;
	return ((encoding >> 1) & 0x3f) | ((encoding >> 4) & 0xc0) | ((encoding >> 5) & 0x300);
}

/*
 * The field of an encoding as VMREAD and VMWRITE take it, or VMCS_NONE. *high is set for the upper half of a
 * 64-bit field.
 */
static inline enum vmcs_field vmcs_lookup(const struct vmx *vmx, uint64_t encoding, bool *high)
{
	int compact = vmcs_compact(encoding);

	if (compact < 0)
		return VMCS_NONE;
	*high = encoding & 1;
	if (*high && ((encoding >> 13) & 3) != VMCS_WIDTH_64)
		return VMCS_NONE;
	return (enum vmcs_field)vmx->field_of[compact];
}

/* ---- vmcs_cache.c ---- */

/* Fills vmx->field_of from the announced capabilities and frees every cache slot. */
void vmcs_cache_reset(struct vmx *vmx);

/*
 * The cached VMCS at gpa (page aligned, within the physical-address width), read from guest memory where it
 * is not cached; another one may be written back to make room. Never the current one. Never NULL.
 */
struct vmcs *vmcs_cache_load(struct cpu *cpu, gpa_t gpa);

/* The cached VMCS at gpa or NULL. */
struct vmcs *vmcs_cache_find(struct vmx *vmx, gpa_t gpa);

/* VMCLEAR: writes the VMCS to its region with launch state clear, and frees its slot. */
void vmcs_cache_clear(struct cpu *cpu, gpa_t gpa);

/* Writes every cached VMCS to its region (VMXOFF, before the machine is saved); the cache keeps them unless
 * `drop`. The current pointer is the caller's business. */
void vmcs_cache_write_back(struct cpu *cpu, bool drop);

/* Writes the VMX-abort indicator into the region (SDM, VMX Aborts). */
void vmcs_write_abort(struct cpu *cpu, struct vmcs *vmcs, uint32_t indicator);

/* ---- capabilities.c ---- */
void vmx_capabilities_make(struct vmx_capabilities *cap, const struct cpu_model *model);

/* True where some announced control lets the field exist. */
bool vmx_field_supported(const struct vmx_capabilities *cap, enum vmcs_field field);

/* ---- instructions.c ---- */

/* SDM, Conventions of VMX instructions: sets RFLAGS, and the VM-instruction error field of the current VMCS.
 */
void vmx_succeed(struct cpu *cpu);
void vmx_fail_invalid(struct cpu *cpu);
void vmx_fail_valid(struct cpu *cpu, enum vm_instruction_error error); /* needs a current VMCS */
/* VMfailValid with a current VMCS, else VMfailInvalid. */
void vmx_fail(struct cpu *cpu, enum vm_instruction_error error);

/* An EPTP that VM entry accepts (SDM, Checks on VM-Execution Control Fields). */
bool vmx_eptp_valid(const struct vmx_capabilities *cap, uint64_t eptp);

/* Leaves VMX operation without writing anything back. */
void vmx_leave_operation(struct cpu *cpu);

/* ---- entry_checks.c, entry_checks_guest.c, entry_checks_segments.c ---- */

#define VMX_RULE_FIELDS 6

/* One rule of VM entry. */
struct vmx_rule {
	const char *section;  /* the SDM's section title */
	const char *sentence; /* what must hold */
	uint8_t
	    failure; /* controls and host: the VM-instruction error (7, 8); guest: the exit qualification */
	uint8_t field[VMX_RULE_FIELDS]; /* enum vmcs_field; VMCS_NONE ends */
	bool (*holds)(const struct cpu *cpu, const struct vmcs *vmcs);
};

/*
 * The first rule of "Checks on VMX Controls and Host-State Area" that vmcs violates, in the SDM's order
 * (controls, then host state), or NULL. Does not change guest state. Call before vmx_check_guest.
 */
const struct vmx_rule *vmx_check_controls_and_host(struct cpu *cpu, struct vmcs *vmcs);

/*
 * The same for "Checks on the Guest State Area" (PDPTEs in memory included: SDM, Checks on Guest
 * Page-Directory-Pointer-Table Entries). rule->failure is the exit qualification of exit reason 33.
 */
const struct vmx_rule *vmx_check_guest(struct cpu *cpu, struct vmcs *vmcs);

/* Every rule, for documentation and tests: returns rule number i in the order of checking, or NULL. */
const struct vmx_rule *vmx_rule_at(unsigned i);

/* ---- entry_explain.c ---- */

/* Writes the rule's section, its sentence and the values of its fields to the trace stream. */
void vmx_explain_rule(struct cpu *cpu, const struct vmcs *vmcs, const struct vmx_rule *rule);

#endif

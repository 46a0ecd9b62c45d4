/*
 * The bounded cache of active VMCSs of one vCPU, and the layout of VMCS regions in guest memory.
 *
 * A hypervisor may keep any number of VMCSs active; the cache holds the VMCS_CACHE_SIZE most recently used
 * and writes the others back, so that the limit is invisible. The region's layout is private to the processor
 * (SDM, Format of the VMCS Region); ours is:
 *
 *   0   VMCS revision identifier (bit 31: shadow-VMCS indicator); only the guest writes it
 *   4   VMX-abort indicator
 *   8   launch state
 *   64  the fields, 8 bytes each, in the order of vmcs_fields.def (VMCS_NONE's unused slot first)
 *
 * Nothing in a region is believed: fields are truncated to their widths, everything else is for the entry
 * checks. Stores by the guest into an active region are lost or found as the cache happens to write back, as
 * on hardware.
 */
#include "engine/soft/cpu/memory.h"
#include "engine/soft/vmx/vmcs.h"

#define REGION_LAUNCH_STATE 8
#define REGION_FIELDS       64

_Static_assert(REGION_FIELDS + sizeof(uint64_t) * VMCS_FIELD_COUNT <= VMCS_REGION_SIZE,
               "fields fit the region");
_Static_assert(VMCS_FIELD_COUNT <= 255, "a field number fits a byte");
_Static_assert(VMCS_FIELD_COUNT == 153, "another set of fields needs another VMCS_REVISION");

#define MASK_16      0xffffull
#define MASK_32      0xffffffffull
#define MASK_64      UINT64_MAX
#define MASK_NATURAL UINT64_MAX

const struct vmcs_field_info vmcs_field_info[VMCS_FIELD_COUNT] = {
    [VMCS_NONE] = {.name = "none"},
#define VMCS_FIELD(name_, encoding_, width_, type_, group_, word_, bit_)                                     \
	[VMCS_##name_] = {                                                                                   \
	    .name = #name_,                                                                                  \
	    .mask = MASK_##width_,                                                                           \
	    .group = VMCS_GROUP_##group_,                                                                    \
	    .bit = bit_,                                                                                     \
	    .encoding = encoding_,                                                                           \
	    .width = VMCS_WIDTH_##width_,                                                                    \
	    .type = VMCS_TYPE_##type_,                                                                       \
	    .word = VMCS_WORD_##word_,                                                                       \
	},
#include "engine/soft/vmx/vmcs_fields.def"
#undef VMCS_FIELD
};

void vmcs_cache_reset(struct vmx *vmx)
{
	for (unsigned i = 0; i < VMCS_ENCODINGS; i++)
		vmx->field_of[i] = VMCS_NONE;
	for (unsigned i = VMCS_NONE + 1; i < VMCS_FIELD_COUNT; i++)
		if (vmx_field_supported(&vmx->cap, (enum vmcs_field)i))
			vmx->field_of[vmcs_compact(vmcs_field_info[i].encoding)] = i;
	for (unsigned i = 0; i < VMCS_CACHE_SIZE; i++)
		vmx->cache[i].gpa = GPA(VMCS_NO_POINTER);
	vmx->current = NULL;
	vmx->shadow = NULL;
}

static void store(struct cpu *cpu, const struct vmcs *vmcs)
{
	phys_write(cpu, GPA(vmcs->gpa.v + REGION_LAUNCH_STATE), 4, vmcs->launch_state);
	phys_write_block(cpu, GPA(vmcs->gpa.v + REGION_FIELDS), vmcs->f, sizeof(vmcs->f));
}

static void load(struct cpu *cpu, struct vmcs *vmcs, gpa_t gpa)
{
	vmcs->gpa = gpa;
	vmcs->shadow = phys_read(cpu, gpa, 4) & VMCS_SHADOW;
	vmcs->launch_state =
	    phys_read(cpu, GPA(gpa.v + REGION_LAUNCH_STATE), 4) == VMCS_LAUNCHED ? VMCS_LAUNCHED : VMCS_CLEAR;
	phys_read_block(cpu, GPA(gpa.v + REGION_FIELDS), vmcs->f, sizeof(vmcs->f));
	for (unsigned i = 0; i < VMCS_FIELD_COUNT; i++)
		vmcs->f[i] &= vmcs_field_info[i].mask;
	vmcs->dirty_checks = vmcs->dirty_runtime = VMCS_GROUP_ALL;
}

static void drop(struct vmx *vmx, struct vmcs *vmcs)
{
	vmcs->gpa = GPA(VMCS_NO_POINTER);
	if (vmx->shadow == vmcs)
		vmx->shadow = NULL;
}

struct vmcs *vmcs_cache_find(struct vmx *vmx, gpa_t gpa)
{
	for (unsigned i = 0; i < VMCS_CACHE_SIZE; i++)
		if (vmx->cache[i].gpa.v == gpa.v)
			return gpa.v == VMCS_NO_POINTER ? NULL : &vmx->cache[i];
	return NULL;
}

struct vmcs *vmcs_cache_load(struct cpu *cpu, gpa_t gpa)
{
	struct vmx *vmx = cpu->vmx;
	struct vmcs *vmcs = vmcs_cache_find(vmx, gpa);

	if (!vmcs) {
		for (unsigned i = 0; i < VMCS_CACHE_SIZE; i++) {
			struct vmcs *v = &vmx->cache[i];

			if (v->gpa.v == VMCS_NO_POINTER) {
				vmcs = v;
				break;
			}
			if (v != vmx->current && (!vmcs || v->used < vmcs->used))
				vmcs = v;
		}
		if (vmcs->gpa.v != VMCS_NO_POINTER) {
			store(cpu, vmcs);
			drop(vmx, vmcs);
		}
		load(cpu, vmcs, gpa);
	}
	vmcs->used = ++vmx->use_counter;
	return vmcs;
}

void vmcs_cache_clear(struct cpu *cpu, gpa_t gpa)
{
	struct vmcs *vmcs = vmcs_cache_find(cpu->vmx, gpa);

	if (!vmcs) {
		phys_write(cpu, GPA(gpa.v + REGION_LAUNCH_STATE), 4, VMCS_CLEAR);
		return;
	}
	vmcs->launch_state = VMCS_CLEAR;
	store(cpu, vmcs);
	drop(cpu->vmx, vmcs);
}

void vmcs_cache_write_back(struct cpu *cpu, bool drop_all)
{
	struct vmx *vmx = cpu->vmx;

	for (unsigned i = 0; i < VMCS_CACHE_SIZE; i++) {
		struct vmcs *vmcs = &vmx->cache[i];

		if (vmcs->gpa.v == VMCS_NO_POINTER)
			continue;
		store(cpu, vmcs);
		if (drop_all)
			drop(vmx, vmcs);
	}
}

void vmcs_write_abort(struct cpu *cpu, struct vmcs *vmcs, uint32_t indicator)
{
	phys_write(cpu, GPA(vmcs->gpa.v + 4), 4, indicator);
}

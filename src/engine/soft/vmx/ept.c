/*
 * EPT: guest-physical to L1-physical (SDM, The Extended Page Table Mechanism). Four levels, 4 KiB, 2 MiB and
 * 1 GiB pages, execute-only pages, accessed and dirty flags.
 *
 * Callers are page walks that miss the TLB, so a small cache of finished translations serves the guest's own
 * paging structures. It holds what the SDM calls guest-physical mappings and lives by their rules: it only
 * ever grants, INVEPT empties it, and an EPT violation drops the address that it is about.
 */
#include "engine/soft/vmx/vmx_local.h"

#define EPT_R              (1u << 0)
#define EPT_W              (1u << 1)
#define EPT_X              (1u << 2)
#define EPT_RWX            7u
#define EPT_LARGE          (1u << 7)
#define EPT_A              (1u << 8)
#define EPT_D              (1u << 9)
#define EPT_MEMORY_TYPE(e) (((e) >> 3) & 7)
#define EPT_ADDRESS        0x000ffffffffff000ull

/* Exit qualification of EPT violations. */
#define VIOLATION_READ          (1u << 0)
#define VIOLATION_WRITE         (1u << 1)
#define VIOLATION_FETCH         (1u << 2)
#define VIOLATION_RIGHTS_SHIFT  3
#define VIOLATION_LINEAR_VALID  (1u << 7)
#define VIOLATION_LINEAR        (1u << 8)
#define VIOLATION_USER          (1u << 9)
#define VIOLATION_WRITABLE      (1u << 10)
#define VIOLATION_NX            (1u << 11)
#define VIOLATION_NMI_UNBLOCKED (1u << 12)

#define LARGE_SHIFT 21
#define LARGE_MASK  (~0ull << LARGE_SHIFT)

/* ept_cache_entry.tag */
#define TAG_WRITABLE (1u << 3) /* writes need no dirty flag set */
#define TAG_VALID    (1u << 11)

enum walk_result { WALK_MAPPED, WALK_NOT_PRESENT, WALK_MISCONFIGURED };

struct ept_walk {
	uint64_t l1_gpa; /* of the byte */
	uint32_t rights; /* EPT_R, EPT_W, EPT_X of the whole path */
	unsigned depth;  /* entries used */
	uint64_t entry[4], entry_gpa[4];
};

/* SDM, EPT Misconfigurations. `shift`: of the pages that this level maps. */
static bool misconfigured(struct cpu *cpu, uint64_t entry, unsigned shift, bool leaf)
{
	unsigned type = EPT_MEMORY_TYPE(entry);

	if ((entry & (EPT_R | EPT_W)) == EPT_W)
		return true;
	if ((entry & EPT_RWX) == EPT_X && !(cpu->vmx->cap.ept_vpid & EPT_VPID_CAP_EXECUTE_ONLY))
		return true;
	if (entry & cpu->vmx->cap.address_mask & EPT_ADDRESS)
		return true;
	if (!leaf)
		return entry & (shift == 39 ? 0xf8 : 0x78);
	if (type == 2 || type == 3 || type == 7)
		return true;
	return entry & ((1ull << shift) - 1) & ~0xfffull; /* a large page's low address bits */
}

static enum walk_result ept_walk(struct cpu *cpu, uint64_t eptp, uint64_t l2_gpa, struct ept_walk *walk)
{
	uint64_t table = eptp & EPT_ADDRESS;

	walk->rights = EPT_RWX;
	walk->depth = 0;
	if (l2_gpa >> 48) {
		walk->rights = 0;
		return WALK_NOT_PRESENT;
	}
	for (unsigned shift = 39;; shift -= 9) {
		uint64_t gpa = table | ((l2_gpa >> shift & 0x1ff) << 3);
		const uint64_t *host = guest_memory_host(cpu->memory, GPA(gpa), 8);
		uint64_t entry = host ? __atomic_load_n(host, __ATOMIC_ACQUIRE) : phys_read(cpu, GPA(gpa), 8);
		bool leaf = shift == 12 || (shift < 39 && (entry & EPT_LARGE));

		walk->entry_gpa[walk->depth] = gpa;
		walk->entry[walk->depth++] = entry;
		walk->rights &= entry;
		if (!(entry & EPT_RWX))
			return WALK_NOT_PRESENT;
		if (misconfigured(cpu, entry, shift, leaf))
			return WALK_MISCONFIGURED;
		if (leaf) {
			uint64_t offset = (1ull << shift) - 1;

			walk->l1_gpa = (entry & EPT_ADDRESS & ~offset) | (l2_gpa & offset);
			return WALK_MAPPED;
		}
		table = entry & EPT_ADDRESS;
	}
}

static void set_flag(struct cpu *cpu, uint64_t gpa, uint64_t flag)
{
	const struct guest_memory_slot *slot = guest_memory_slot_of(cpu->memory, GPA(gpa));
	uint64_t *host;

	if (!slot || slot->read_only)
		return;
	if (bt_code_map(cpu, GPA(gpa & PAGE_MASK)) & 1ull << ((gpa & ~PAGE_MASK) >> 6))
		bt_code_written(cpu, GPA(gpa), 8);
	host = (uint64_t *)(slot->host + (gpa - slot->gpa));
	__atomic_fetch_or(host, flag, __ATOMIC_ACQ_REL);
}

/* SDM, Accessed and Dirty Flags for EPT */
static void set_accessed_dirty(struct cpu *cpu, struct ept_walk *walk, bool write)
{
	for (unsigned i = 0; i < walk->depth; i++) {
		uint64_t flags = EPT_A | (write && i + 1 == walk->depth ? EPT_D : 0);

		if ((walk->entry[i] & flags) == flags)
			continue;
		set_flag(cpu, walk->entry_gpa[i], flags);
		walk->entry[i] |= flags;
	}
}

/* Where a page may be: by itself, and as part of 2 MiB that one entry maps. */
struct cache_slots {
	struct ept_cache_entry *page, *large;
};

static struct cache_slots cache_slots(struct vmx_runtime *rt, uint64_t l2_gpa)
{
	return (struct cache_slots){
	    .page = &rt->ept_cache[(l2_gpa >> PAGE_SHIFT ^ l2_gpa >> LARGE_SHIFT) % EPT_CACHE_SLOTS],
	    .large = &rt->ept_large_cache[(l2_gpa >> LARGE_SHIFT) % EPT_CACHE_SLOTS],
	};
}

static void cache_drop(const struct cache_slots *slots)
{
	slots->page->tag = slots->large->tag = 0;
}

static void cache_fill(const struct cache_slots *slots, uint64_t eptp, uint64_t l2_gpa, const struct ept_walk *walk,
                       bool writable)
{
	bool large = walk->depth < 4;
	uint64_t mask = large ? LARGE_MASK : PAGE_MASK;

	*(large ? slots->large : slots->page) = (struct ept_cache_entry){
	    .tag = (l2_gpa & mask) | TAG_VALID | (walk->rights & EPT_RWX) | (writable ? TAG_WRITABLE : 0),
	    .l1_gpa = walk->l1_gpa & mask,
	    .eptp = eptp,
	};
}

static bool grants(const struct ept_cache_entry *entry, uint64_t eptp, uint64_t l2_gpa, uint64_t mask, uint64_t tag)
{
	return entry->eptp == eptp && (entry->tag & (mask | tag)) == ((l2_gpa & mask) | tag);
}

/* needed: EPT_W of a write, else EPT_R or EPT_X. False where the cache does not grant it. */
static bool cache_find(const struct cpu *cpu, const struct cache_slots *slots, uint64_t eptp, uint64_t l2_gpa,
                       uint32_t needed, struct nested_mapping *mapping)
{
	const struct ept_cache_entry *entry = slots->large;
	uint64_t mask = LARGE_MASK, tag = TAG_VALID | (needed == EPT_W ? TAG_WRITABLE : needed);

	if (cpu->tune_off & ENGINE_TUNE_WALK_CACHE)
		return false;
	if (!grants(entry, eptp, l2_gpa, mask, tag)) {
		entry = slots->page;
		mask = PAGE_MASK;
		if (!grants(entry, eptp, l2_gpa, mask, tag))
			return false;
	}
	mapping->l1_gpa = GPA(entry->l1_gpa | (l2_gpa & ~mask & PAGE_MASK));
	mapping->writable = entry->tag & TAG_WRITABLE;
	mapping->executable = entry->tag & EPT_X;
	mapping->apic_access = cpu->apic_access_page && mapping->l1_gpa.v == cpu->apic_access_page;
	return true;
}

void vmx_ept_cache_flush(struct cpu *cpu)
{
	struct vmx_runtime *rt = vmx_runtime(cpu);

	memset(rt->ept_cache, 0, sizeof rt->ept_cache);
	memset(rt->ept_large_cache, 0, sizeof rt->ept_large_cache);
}

static _Noreturn void exit_violation(struct cpu *cpu, uint64_t l2_gpa, const struct nested_access *access,
                                     uint32_t attempted, uint32_t rights)
{
	uint64_t qualification = attempted | rights << VIOLATION_RIGHTS_SHIFT;
	bool advanced = cpu->vmx->cap.ept_vpid & EPT_VPID_CAP_ADVANCED_INFORMATION;

	if (access->linear_valid) {
		qualification |= VIOLATION_LINEAR_VALID;
		if (!access->is_walk) {
			qualification |= VIOLATION_LINEAR;
			if (advanced)
				qualification |= (access->user_page ? VIOLATION_USER : 0) |
				                 (access->writable_page ? VIOLATION_WRITABLE : 0) |
				                 (access->nx_page ? VIOLATION_NX : 0);
		}
	}
	if (vmx_iret_unblocks(cpu))
		qualification |= VIOLATION_NMI_UNBLOCKED;
	vmx_exit_full(cpu, &(struct vmx_exit_record){
	                       .reason = EXIT_REASON_EPT_VIOLATION,
	                       .qualification = qualification,
	                       .guest_physical = l2_gpa,
	                       .guest_linear = access->linear_valid ? access->gla.v : 0,
	                   });
}

/* No instruction length is due, but hypervisors under no hypervisor trust it for MMIO. */
static _Noreturn void exit_misconfiguration(struct cpu *cpu, uint64_t l2_gpa)
{
	vmx_exit_full(cpu, &(struct vmx_exit_record){
	                       .reason = EXIT_REASON_EPT_MISCONFIGURATION,
	                       .instruction_length = cpu->delivering.valid ? 0 : insn_length_at_rip(cpu),
	                       .guest_physical = l2_gpa,
	                   });
}

void vmx_translate(struct cpu *cpu, gpa_t l2_gpa, const struct nested_access *access,
                   struct nested_mapping *mapping)
{
	struct vmx_runtime *rt = vmx_runtime(cpu);
	uint64_t eptp = running(cpu, VMCS_EPT_POINTER);
	const struct cache_slots slots = cache_slots(rt, l2_gpa.v);
	/* With dirty flags on, accesses to the guest's paging structures count as writes. */
	bool write = access->access == ACCESS_WRITE || (access->is_walk && rt->ept_dirty);
	uint32_t needed = write ? EPT_W : access->access == ACCESS_FETCH ? EPT_X : EPT_R;
	struct ept_walk walk;

	if (cache_find(cpu, &slots, eptp, l2_gpa.v, needed, mapping))
		return;
	switch (ept_walk(cpu, eptp, l2_gpa.v, &walk)) {
	case WALK_MISCONFIGURED:
		cache_drop(&slots);
		exit_misconfiguration(cpu, l2_gpa.v);
	case WALK_NOT_PRESENT:
		break;
	case WALK_MAPPED:
		/* A read that will be a write (of a paging-structure entry's flags) needs both rights; W
		 * implies R. */
		if (walk.rights & needed)
			goto mapped;
		break;
	}
	cache_drop(&slots);
	exit_violation(cpu, l2_gpa.v, access,
	               access->is_walk && write ? VIOLATION_READ | VIOLATION_WRITE
	               : write                  ? VIOLATION_WRITE
	               : needed == EPT_X        ? VIOLATION_FETCH
	                                        : VIOLATION_READ,
	               walk.rights & EPT_RWX);

mapped:
	if (rt->ept_dirty)
		set_accessed_dirty(cpu, &walk, write);
	mapping->writable = (walk.rights & EPT_W) && (!rt->ept_dirty || (walk.entry[walk.depth - 1] & EPT_D));
	mapping->l1_gpa = GPA(walk.l1_gpa & PAGE_MASK);
	mapping->executable = walk.rights & EPT_X;
	mapping->apic_access = cpu->apic_access_page && mapping->l1_gpa.v == cpu->apic_access_page;
	cache_fill(&slots, eptp, l2_gpa.v, &walk, mapping->writable);
}

bool vmx_peek(struct cpu *cpu, gpa_t l2_gpa, enum mem_access access, struct nested_mapping *mapping)
{
	const struct cache_slots slots = cache_slots(vmx_runtime(cpu), l2_gpa.v);

	return cache_find(cpu, &slots, running(cpu, VMCS_EPT_POINTER), l2_gpa.v,
	                  access == ACCESS_WRITE ? EPT_W : access == ACCESS_FETCH ? EPT_X : EPT_R, mapping);
}

bool vmx_probe(struct cpu *cpu, gpa_t l2_gpa, gpa_t *l1_gpa)
{
	struct ept_walk walk;

	if (ept_walk(cpu, running(cpu, VMCS_EPT_POINTER), l2_gpa.v, &walk) != WALK_MAPPED)
		return false;
	*l1_gpa = GPA(walk.l1_gpa);
	return true;
}

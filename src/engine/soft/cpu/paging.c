/*
 * The guest's page walk in every paging mode (SDM, Paging): none, 32-bit with PSE, PAE with its PDPTE
 * registers, 4-level with 2 MiB and 1 GiB pages. Under EPT or NPT every table access and the final address go
 * through cpu->virt->translate, so that the result is the combined mapping.
 *
 * Order: the tables are read from the top; a not-present entry or a reserved bit faults where it is met; then
 * rights are judged on the whole path; only a permitted access sets flags, accessed ones on every level and
 * dirty on the last, each by compare-exchange and only where it is missing. Another processor that changes an
 * entry in between makes the walk start again.
 *
 * The paging-structure cache makes most walks one table access or none. It is a short cut to success and to pages that
 * are not present: whatever else is not plainly permitted through it takes the full walk, which raises all other faults.
 */
#include "engine/soft/cpu/cpu.h"
#include "engine/soft/cpu/memory.h"
#include "engine/soft/cpu/paging.h"
#include "engine/soft/cpu/tlb_state.h"

#define ENTRY_P  (1ull << 0)
#define ENTRY_W  (1ull << 1)
#define ENTRY_U  (1ull << 2)
#define ENTRY_A  (1ull << 5)
#define ENTRY_D  (1ull << 6)
#define ENTRY_PS (1ull << 7)
#define ENTRY_G  (1ull << 8)
#define ENTRY_NX (1ull << 63)

_Static_assert(WALK_WRITABLE == ENTRY_W && WALK_USER == ENTRY_U && WALK_DIRTY == ENTRY_D &&
                   WALK_GLOBAL == ENTRY_G,
               "rights are kept at their places in an entry");

/* Page-fault error code. */
#define FAULT_P    (1u << 0)
#define FAULT_W    (1u << 1)
#define FAULT_U    (1u << 2)
#define FAULT_RSVD (1u << 3)
#define FAULT_I    (1u << 4)

enum paging_mode { PAGING_NONE, PAGING_32BIT, PAGING_PAE, PAGING_4LEVEL };

static inline enum paging_mode paging_mode(const struct cpu *cpu)
{
	if (!(cpu->cr0 & CR0_PG))
		return PAGING_NONE;
	if (!(cpu->cr4 & CR4_PAE))
		return PAGING_32BIT;
	return cpu->efer & EFER_LMA ? PAGING_4LEVEL : PAGING_PAE;
}

/* One paging-structure entry on the way. */
struct step {
	uint8_t *host;   /* NULL where the table is not RAM; A/D flags are not kept then */
	uint8_t *table;  /* of the whole table, page aligned */
	uint64_t gpa;    /* of the entry, L1's */
	uint64_t l2_gpa; /* before nested translation */
	uint64_t value;
	bool writable; /* no further nested walk for an update */
};

struct walk_request {
	gla_t gla;
	enum mem_access access;
	enum tlb_class class;
	bool probe;
	bool peek; /* without effect, by what is remembered only */
};

/* Bits of an entry that must be 0 in this mode, those of large pages apart. */
static inline uint64_t reserved_bits(const struct cpu *cpu, enum paging_mode mode)
{
	uint64_t reserved;

	if (mode == PAGING_32BIT)
		return 0;
	/* In 4-level paging bits 62:52 are ignored, in PAE paging they are reserved. */
	reserved = mode == PAGING_4LEVEL ? 0x000fffffffffffffull : 0x7fffffffffffffffull;
	reserved &= ~0ull << cpu->model->physical_address_bits;
	if (!(cpu->efer & EFER_NXE))
		reserved |= ENTRY_NX;
	return reserved;
}

/* SDM, Determination of Access Rights. */
static inline bool permitted(const struct cpu *cpu, uint32_t rights, enum mem_access access,
                             enum tlb_class class)
{
	if (class == TLB_USER) {
		if (!(rights & WALK_USER))
			return false;
		if (access == ACCESS_WRITE)
			return rights & WALK_WRITABLE;
		return access == ACCESS_READ || (rights & WALK_EXECUTABLE);
	}
	if (rights & WALK_USER) {
		if (access == ACCESS_FETCH) {
			if (cpu->cr4 & CR4_SMEP)
				return false;
		} else if (class == TLB_SUPER && (cpu->cr4 & CR4_SMAP)) {
			return false;
		}
	}
	if (access == ACCESS_WRITE)
		return (rights & WALK_WRITABLE) || !(cpu->cr0 & CR0_WP);
	return access == ACCESS_READ || (rights & WALK_EXECUTABLE);
}

/* SDM, Page-Fault Exceptions: the error code, but for P and RSVD. */
static _Noreturn void page_fault(struct cpu *cpu, const struct walk_request *request, uint32_t cause)
{
	uint32_t error = cause;

	if (request->access == ACCESS_WRITE)
		error |= FAULT_W;
	if (request->class == TLB_USER)
		error |= FAULT_U;
	if (request->access == ACCESS_FETCH &&
	    ((cpu->cr4 & CR4_SMEP) || ((cpu->cr4 & CR4_PAE) && (cpu->efer & EFER_NXE))))
		error |= FAULT_I;
	cpu_raise_page_fault(cpu, request->gla, error);
}

/* Nested translation of a paging-structure entry's address. */
static void translate_entry(struct cpu *cpu, const struct walk_request *request, struct step *step,
                            enum mem_access access)
{
	struct nested_access nested = {
	    .access = access,
	    .linear_valid = true,
	    .is_walk = true,
	    .gla = request->gla,
	};
	struct nested_mapping mapping = {0};

	cpu->virt->translate(cpu, GPA(step->l2_gpa), &nested, &mapping);
	step->gpa = (mapping.l1_gpa.v & PAGE_MASK) | (step->l2_gpa & ~PAGE_MASK);
	step->writable = mapping.writable;
}

static inline uint64_t load_entry(const uint8_t *host, unsigned size)
{
	if (size == 4)
		return __atomic_load_n((const uint32_t *)host, __ATOMIC_ACQUIRE);
	return __atomic_load_n((const uint64_t *)host, __ATOMIC_ACQUIRE);
}

/* Reads the entry at step->l2_gpa. False only for probes. */
static bool read_entry(struct cpu *cpu, const struct walk_request *request, struct step *step, unsigned size)
{
	struct tlb_state *state = tlb_state_of(cpu);
	struct ram_window *ram;

	if (!cpu->nested_paging) {
		step->gpa = step->l2_gpa;
		step->writable = true;
	} else if (request->probe) {
		gpa_t l1_gpa;

		if (!cpu->virt->probe || !cpu->virt->probe(cpu, GPA(step->l2_gpa), &l1_gpa))
			return false;
		step->gpa = (l1_gpa.v & PAGE_MASK) | (step->l2_gpa & ~PAGE_MASK);
		step->writable = false;
	} else {
		translate_entry(cpu, request, step, ACCESS_READ);
	}
	ram = ram_window_of(cpu, state, step->gpa);
	if (ram) {
		step->host = ram->host + (step->gpa - ram->gpa);
		step->table = ram->host + ((step->gpa & PAGE_MASK) - ram->gpa);
		step->value = load_entry(step->host, size);
		if (ram->read_only)
			step->host = step->table = NULL;
	} else {
		if (request->probe)
			return false;
		step->host = step->table = NULL;
		step->value = phys_read(cpu, GPA(step->gpa), size);
	}
	return true;
}

/* Sets `flags` in an entry that lacks them. False where it has changed since it was read: walk again. */
static bool set_flags(struct cpu *cpu, const struct walk_request *request, struct step *step, unsigned size,
                      uint64_t flags)
{
	uint64_t granule;

	if (!step->host)
		return true; /* ROM and MMIO keep no flags */
	if (!step->writable) {
		uint64_t gpa = step->gpa;

		translate_entry(cpu, request, step, ACCESS_WRITE);
		if (step->gpa != gpa)
			return false;
	}
	granule = code_granules(step->gpa & ~PAGE_MASK, size);
	if (bt_code_map(cpu, GPA(step->gpa & PAGE_MASK)) & granule)
		bt_code_written(cpu, GPA(step->gpa), size);
	if (size == 4) {
		uint32_t expected = step->value;

		return __atomic_compare_exchange_n((uint32_t *)step->host, &expected,
		                                   (uint32_t)(step->value | flags), false, __ATOMIC_ACQ_REL,
		                                   __ATOMIC_RELAXED);
	}
	uint64_t expected = step->value;

	return __atomic_compare_exchange_n((uint64_t *)step->host, &expected, step->value | flags, false,
	                                   __ATOMIC_ACQ_REL, __ATOMIC_RELAXED);
}

/* The last stage: the page's own address through nested paging. False only for a peek. */
static bool finish(struct cpu *cpu, const struct walk_request *request, uint64_t page, uint32_t rights,
                   struct page_walk *walk)
{
	walk->rights = rights;
	walk->l2_gpa = GPA(page);
	if (!cpu->nested_paging) {
		walk->gpa = GPA(page);
		walk->apic_access = false;
		walk->nested_writable = true;
		return true;
	}

	struct nested_access nested = {
	    .access = request->access,
	    .linear_valid = true,
	    .is_walk = false,
	    .gla = request->gla,
	    .user_page = rights & WALK_USER,
	    .writable_page = rights & WALK_WRITABLE,
	    .nx_page = !(rights & WALK_EXECUTABLE),
	};
	struct nested_mapping mapping = {0};

	if (!request->peek)
		cpu->virt->translate(cpu, GPA(page | (request->gla.v & ~PAGE_MASK)), &nested, &mapping);
	else if (!cpu->virt->peek || !cpu->virt->peek(cpu, GPA(page), request->access, &mapping))
		return false;
	walk->gpa = GPA(mapping.l1_gpa.v & PAGE_MASK);
	walk->apic_access = mapping.apic_access;
	walk->nested_writable = mapping.writable;
	return true;
}

/* Reserved bits of an entry that maps a large page. */
static uint64_t large_reserved(const struct cpu *cpu, enum paging_mode mode, unsigned shift)
{
	if (mode == PAGING_32BIT) {
		/* SDM, 32-Bit Paging: PDE bits 20:13 are address bits 39:32, as far as they exist. */
		unsigned bits = cpu->model->physical_address_bits;

		if (bits > 40)
			bits = 40;
		return bits <= 32 ? 0x3fe000 : 0x3fe000 & ~((1ull << (bits - 19)) - 1);
	}
	return ((1ull << shift) - 1) & ~0x1fffull; /* bit 12 is PAT */
}

static inline uint64_t large_frame(enum paging_mode mode, uint64_t value, unsigned shift)
{
	if (mode == PAGING_32BIT)
		return (value & 0xffc00000) | ((value & 0x1fe000) << 19);
	return value & 0x000fffffffffffffull & ~((1ull << shift) - 1);
}

static inline uint32_t entry_rights(uint64_t value)
{
	return (uint32_t)(value & (WALK_WRITABLE | WALK_USER)) | (value & ENTRY_NX ? 0 : WALK_EXECUTABLE);
}

struct walk_shape {
	uint8_t levels, top_shift, index_bits, entry_size;
};

static const struct walk_shape shapes[] = {
    [PAGING_32BIT] = {2, 22, 10, 4},
    [PAGING_PAE] = {2, 21, 9, 8},
    [PAGING_4LEVEL] = {4, 39, 9, 8},
};

/* What a full walk found. */
struct walk_path {
	struct step step[4];
	unsigned depth; /* of the last step */
	unsigned shift; /* of the page */
	uint64_t frame; /* of the page, large or not */
	uint32_t rights;
};

enum walk_end { WALK_OK, WALK_NOT_PRESENT, WALK_RESERVED, WALK_UNREACHABLE /* probes only */ };

/* Reads the tables from the top, judging nothing but presence and reserved bits. */
static enum walk_end read_path(struct cpu *cpu, const struct walk_request *request, enum paging_mode mode,
                               struct walk_path *path)
{
	const struct walk_shape shape = shapes[mode];
	const uint64_t reserved = reserved_bits(cpu, mode);
	const uint64_t address_bits = mode == PAGING_32BIT ? 0xfffff000 : 0x000ffffffffff000ull;
	uint64_t gla = request->gla.v, table;
	uint32_t rights = WALK_WRITABLE | WALK_USER | WALK_EXECUTABLE;
	unsigned shift = shape.top_shift;

	if (mode == PAGING_PAE) {
		uint64_t pdpte = cpu->pdpte[(gla >> 30) & 3];

		if (!(pdpte & ENTRY_P))
			return WALK_NOT_PRESENT;
		table = pdpte & address_bits;
	} else {
		table = cpu->cr3 & address_bits;
	}
	for (unsigned i = 0;; i++, shift -= shape.index_bits) {
		struct step *step = &path->step[i];
		uint64_t index = (gla >> shift) & ((1u << shape.index_bits) - 1);

		step->l2_gpa = table + index * shape.entry_size;
		if (!read_entry(cpu, request, step, shape.entry_size))
			return WALK_UNREACHABLE;
		if (!(step->value & ENTRY_P))
			return WALK_NOT_PRESENT;
		if (step->value & reserved)
			return WALK_RESERVED;
		path->depth = i;
		path->shift = shift;
		path->rights = rights &= entry_rights(step->value);
		if (shift == PAGE_SHIFT) {
			path->frame = step->value & address_bits;
			return WALK_OK;
		}
		if (step->value & ENTRY_PS) {
			if (shift >= 39)
				return WALK_RESERVED;
			if (mode != PAGING_32BIT || (cpu->cr4 & CR4_PSE)) {
				if (step->value & large_reserved(cpu, mode, shift))
					return WALK_RESERVED;
				path->frame = large_frame(mode, step->value, shift);
				return WALK_OK;
			}
		}
		table = step->value & address_bits;
	}
}

static inline uint32_t leaf_rights(const struct cpu *cpu, uint64_t value)
{
	uint32_t rights = value & WALK_DIRTY;

	if (cpu->cr4 & CR4_PGE)
		rights |= value & WALK_GLOBAL;
	return rights;
}

/* Enters what a successful walk found: its page table, or its large page. */
static void fill_walk_cache(struct walk_cache *cache, const struct walk_request *request,
                            const struct walk_path *path, uint32_t rights)
{
	uint64_t gla = request->gla.v;
	struct walk_entry *entry = &cache->entry[(gla >> 21) % WALK_SLOTS];

	if (path->shift > PAGE_SHIFT) {
		entry->frame = path->frame + (gla & ((1ull << path->shift) - 1) & ~0x1fffffull);
		entry->rights = rights | WALK_LARGE;
	} else {
		const struct step *last = &path->step[path->depth];
		uint32_t upper = WALK_WRITABLE | WALK_USER | WALK_EXECUTABLE;

		if (!last->table)
			return;
		for (unsigned i = 0; i < path->depth; i++)
			upper &= entry_rights(path->step[i].value);
		entry->table = last->table;
		entry->table_gpa = last->gpa & PAGE_MASK;
		entry->table_l2 = last->l2_gpa & PAGE_MASK;
		entry->rights = upper | (last->writable ? WALK_TABLE_WRITABLE : 0);
	}
	entry->tag = gla >> 21;
	entry->generation = cache->generation;
	entry->absent = 0;
}

static void full_walk(struct cpu *cpu, struct walk_cache *cache, const struct walk_request *request,
                      enum paging_mode mode, struct page_walk *walk)
{
	const unsigned size = shapes[mode].entry_size;
	struct walk_path path;
	uint32_t rights;

again:
	switch (read_path(cpu, request, mode, &path)) {
	case WALK_OK:
		break;
	case WALK_RESERVED:
		page_fault(cpu, request, FAULT_P | FAULT_RSVD);
	default:
		page_fault(cpu, request, 0);
	}
	if (!permitted(cpu, path.rights, request->access, request->class))
		page_fault(cpu, request, FAULT_P);
	for (unsigned i = 0; i <= path.depth; i++) {
		uint64_t wanted = ENTRY_A;

		if (i == path.depth && request->access == ACCESS_WRITE)
			wanted |= ENTRY_D;
		if ((path.step[i].value & wanted) == wanted)
			continue;
		if (!set_flags(cpu, request, &path.step[i], size, wanted))
			goto again;
		path.step[i].value |= wanted;
	}
	rights = path.rights | leaf_rights(cpu, path.step[path.depth].value);
	walk->page_shift = path.shift;
	fill_walk_cache(cache, request, &path, rights);
	finish(cpu, request, path.frame + (request->gla.v & ((1ull << path.shift) - 1) & PAGE_MASK), rights,
	       walk);
}

/* Of an address's entry in its page table. */
static inline unsigned table_index(enum paging_mode mode, uint64_t gla)
{
	return (gla >> PAGE_SHIFT) & ((1u << shapes[mode].index_bits) - 1);
}

/*
 * Does the cached page table alone tell that the page is not present? SDM, Invalidation of TLBs and Paging-Structure
 * Caches: a fault forgets what it came from, for the table may have been replaced without INVLPG. Here the entry stays,
 * but it has to prove itself before the next such fault: the guest has meanwhile entered, in this very table, the page
 * that the last one was about.
 */
static bool plainly_absent(struct walk_entry *entry, enum paging_mode mode, uint64_t gla)
{
	const unsigned size = shapes[mode].entry_size, index = table_index(mode, gla);

	if (entry->rights & WALK_LARGE || load_entry(entry->table + index * size, size) & ENTRY_P)
		return false;
	if (entry->absent && !(load_entry(entry->table + (entry->absent - 1u) * size, size) & ENTRY_P))
		return false;
	entry->absent = index + 1;
	return true;
}

/* False where the full walk has to decide. */
static bool cached_walk(struct cpu *cpu, const struct walk_entry *entry, const struct walk_request *request,
                        enum paging_mode mode, struct page_walk *walk)
{
	uint64_t gla = request->gla.v, wanted = ENTRY_A;
	const unsigned size = shapes[mode].entry_size;
	struct step step;
	uint32_t rights;

	if (entry->rights & WALK_LARGE) {
		if (!permitted(cpu, entry->rights, request->access, request->class))
			return false;
		if (request->access == ACCESS_WRITE && !(entry->rights & WALK_DIRTY))
			return false;
		walk->page_shift = 21;
		return finish(cpu, request, entry->frame + (gla & 0x1ff000), entry->rights & ~WALK_LARGE, walk);
	}
	step.gpa = table_index(mode, gla) * size;
	step.host = entry->table + step.gpa;
	step.value = load_entry(step.host, size);
	if (!(step.value & ENTRY_P) || (step.value & reserved_bits(cpu, mode)))
		return false;
	rights = entry->rights & (entry_rights(step.value) | WALK_TABLE_WRITABLE);
	if (!permitted(cpu, rights, request->access, request->class))
		return false;
	if (request->access == ACCESS_WRITE)
		wanted |= ENTRY_D;
	if ((step.value & wanted) != wanted) {
		step.l2_gpa = entry->table_l2 + step.gpa;
		step.gpa += entry->table_gpa;
		step.writable = entry->rights & WALK_TABLE_WRITABLE;
		if (!set_flags(cpu, request, &step, size, wanted))
			return false;
		step.value |= wanted;
	}
	rights = (rights & ~WALK_TABLE_WRITABLE) | leaf_rights(cpu, step.value);
	walk->page_shift = PAGE_SHIFT;
	return finish(cpu, request, step.value & (mode == PAGING_32BIT ? 0xfffff000 : 0x000ffffffffff000ull), rights,
		      walk);
}

/* What the cache has for an address, or NULL. */
static inline struct walk_entry *remembered(const struct cpu *cpu, struct walk_cache *cache, uint64_t gla)
{
	struct walk_entry *entry = &cache->entry[(gla >> 21) % WALK_SLOTS];
	bool holds = entry->tag == gla >> 21 && entry->generation == cache->generation;

	return holds && !(cpu->tune_off & ENGINE_TUNE_WALK_CACHE) ? entry : NULL;
}

void paging_walk(struct cpu *cpu, struct walk_cache *cache, gla_t gla, enum mem_access access,
                 enum tlb_class class, struct page_walk *walk)
{
	const struct walk_request request = {.gla = gla, .access = access, .class = class};
	const enum paging_mode mode = paging_mode(cpu);
	struct walk_entry *entry;

	if (mode == PAGING_NONE) {
		/* SDM, Exit Qualification for EPT Violations: without paging every page counts as a user's,
		 * writable and executable. */
		walk->page_shift = PAGE_SHIFT;
		finish(cpu, &request, gla.v & 0xfffff000,
		       WALK_USER | WALK_WRITABLE | WALK_EXECUTABLE | WALK_DIRTY, walk);
		return;
	}
	entry = remembered(cpu, cache, gla.v);
	if (entry) {
		if (cached_walk(cpu, entry, &request, mode, walk))
			return;
		if (plainly_absent(entry, mode, gla.v))
			page_fault(cpu, &request, 0);
	}
	full_walk(cpu, cache, &request, mode, walk);
}

bool paging_peek(struct cpu *cpu, struct walk_cache *cache, gla_t gla, enum mem_access access, enum tlb_class class,
                 struct page_walk *walk)
{
	const struct walk_request request = {.gla = gla, .access = access, .class = class, .peek = true};
	const enum paging_mode mode = paging_mode(cpu);
	const struct walk_entry *entry = remembered(cpu, cache, gla.v);
	const uint64_t wanted = access == ACCESS_WRITE ? ENTRY_A | ENTRY_D : ENTRY_A;

	if (mode == PAGING_NONE || !entry)
		return false;
	if (!(entry->rights & WALK_LARGE)) {
		const unsigned size = shapes[mode].entry_size;

		if ((load_entry(entry->table + table_index(mode, gla.v) * size, size) & wanted) != wanted)
			return false;
	}
	return cached_walk(cpu, entry, &request, mode, walk);
}

bool paging_fetches_from(struct cpu *cpu, gla_t gla, enum tlb_class class, gpa_t gpa)
{
	const struct walk_request request = {.gla = gla, .access = ACCESS_FETCH, .class = class, .probe = true};
	const enum paging_mode mode = paging_mode(cpu);
	struct walk_path path;

	if (mode == PAGING_NONE || cpu->nested_paging || read_path(cpu, &request, mode, &path) != WALK_OK)
		return false;
	for (unsigned i = 0; i <= path.depth; i++)
		if (!(path.step[i].value & ENTRY_A))
			return false;
	return permitted(cpu, path.rights, ACCESS_FETCH, class) &&
	       path.frame + (gla.v & ((1ull << path.shift) - 1) & PAGE_MASK) == gpa.v;
}

bool paging_probe(struct cpu *cpu, gla_t gla, gpa_t *gpa)
{
	const struct walk_request request = {.gla = gla, .probe = true};
	const enum paging_mode mode = paging_mode(cpu);
	struct walk_path path;
	gpa_t page;

	if (mode == PAGING_NONE) {
		page = GPA(gla.v & 0xffffffff);
	} else {
		if (read_path(cpu, &request, mode, &path) != WALK_OK)
			return false;
		page = GPA(path.frame + (gla.v & ((1ull << path.shift) - 1)));
	}
	if (!cpu->nested_paging) {
		*gpa = page;
		return true;
	}
	if (!cpu->virt->probe || !cpu->virt->probe(cpu, page, gpa))
		return false;
	gpa->v = (gpa->v & PAGE_MASK) | (page.v & ~PAGE_MASK);
	return true;
}

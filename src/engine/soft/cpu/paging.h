/*
 * The guest's page walk (SDM, Paging), nested walk included. Used by tlb.c on a miss, and by nobody else.
 */
#ifndef NESTOR_CPU_PAGING_H
#define NESTOR_CPU_PAGING_H

#include "engine/soft/cpu/cpu.h"

/*
 * The combined paging-structure cache of one TLB context (SDM, Caching Paging Structures): for 2 MiB of
 * linear addresses either the page table that maps them or, where a large page does, the page itself. Only
 * what was present, had no reserved bit and has its accessed flags set is entered; a permission miss goes
 * round it. An entry counts where tag and generation match: emptying the cache is one addition.
 */
#define WALK_SLOTS 256

struct walk_entry {
	uint64_t tag; /* linear address >> 21 */
	union {
		uint64_t frame; /* large page: physical address (L2's under EPT) of this 2 MiB piece */
		uint8_t *table; /* otherwise: host address of the page table */
	};
	uint32_t generation;
	uint32_t rights;    /* WALK_* of all levels above the page table; of the page where WALK_LARGE */
	uint64_t table_gpa; /* L1-physical, for telling the translator of A/D updates */
	uint64_t table_l2;  /* the page table's address before nested translation */
	uint16_t absent;    /* 1 + the index of the last page that was found not present without a full walk, or 0 */
};

#define WALK_WRITABLE       (1u << 1) /* the places of R/W, U/S, D and G in an entry */
#define WALK_USER           (1u << 2)
#define WALK_DIRTY          (1u << 6)
#define WALK_GLOBAL         (1u << 8)
#define WALK_EXECUTABLE     (1u << 16)
#define WALK_LARGE          (1u << 17)
#define WALK_TABLE_WRITABLE (1u << 18) /* A/D updates in the table need no further nested walk */

struct walk_cache {
	uint32_t generation; /* never 0 */
	struct walk_entry entry[WALK_SLOTS];
};

struct page_walk {
	gpa_t gpa;            /* result: L1-physical address of the 4 KiB page */
	gpa_t l2_gpa;         /* the same before nested translation (equal to gpa without) */
	uint32_t rights;      /* WALK_* of the whole translation */
	uint8_t page_shift;   /* 12, 21, 22 or 30; only exact where no cached large page was used */
	bool apic_access;     /* nested mapping: every access is a slow one */
	bool nested_writable; /* true without nested paging */
};

/*
 * Walks for an access of kind `access` by code of class `class` (fetches: TLB_USER or TLB_SUPER) to gla,
 * which is canonical. Sets accessed and dirty flags. Raises #PF, or leaves by a VM exit, where the access
 * faults. cache: of the current context.
 */
void paging_walk(struct cpu *cpu, struct walk_cache *cache, gla_t gla, enum mem_access access,
                 enum tlb_class class, struct page_walk *walk);

/*
 * The same as far as it has no effect: false where it is not known from the cache and what nested paging remembers, is not
 * permitted, or would set a flag.
 */
bool paging_peek(struct cpu *cpu, struct walk_cache *cache, gla_t gla, enum mem_access access, enum tlb_class class,
                 struct page_walk *walk);

/* Would a fetch from gla by code of class `class` go to the 4 KiB page at `gpa`, without a flag to set? Without nested paging. */
bool paging_fetches_from(struct cpu *cpu, gla_t gla, enum tlb_class class, gpa_t gpa);

/* Only translates: no rights checked, no flags set, nothing raised. False where not mapped. */
bool paging_probe(struct cpu *cpu, gla_t gla, gpa_t *gpa);

#endif

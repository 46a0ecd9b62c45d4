/*
 * What tlb.c keeps beside the tables that translated code sees: the contexts' keys, the journals that make a
 * flush cost only what was filled, and the RAM map in the shape that a miss wants. Private to tlb.c,
 * tlb_regions.c, paging.c and memory.c.
 */
#ifndef NESTOR_CPU_TLB_STATE_H
#define NESTOR_CPU_TLB_STATE_H

#include "engine/soft/cpu/paging.h"

#define TLB_ARRAYS (2 * TLB_CLASSES) /* read[class] then write[class] */

/* Fetches know two classes: SMAP does not concern them. */
#define FETCH_CLASSES 2
_Static_assert(TLB_USER == 0 && TLB_SUPER == 1, "fetch classes index by these");

/* tlb_context.slot: which journals name the slot, and what it holds. */
#define SLOT_IN_LOCAL  (1u << 0)
#define SLOT_IN_GLOBAL (1u << 1)
#define SLOT_IS_GLOBAL (1u << 2)

/* A flush that a context owes before it is used again. */
enum tlb_pending { PENDING_NONE, PENDING_LOCAL /* non-global mappings */, PENDING_ALL };

#define GIANT_PAGES 8

struct tlb_context {
	struct tlb_region *region;
	uint64_t last_used;
	uint8_t pending;                 /* enum tlb_pending */
	bool pending_jumps;              /* the jump caches alone */
	bool untouched;                  /* it was never used: the memory of its tables does not exist yet */

	/*
	 * Slots filled since they were last flushed, each at most once per journal. A CR3 load looks only at
	 * the local one. A slot in both is what slot[] says it is.
	 */
	uint16_t local_count[TLB_ARRAYS], global_count[TLB_ARRAYS];
	uint8_t slot[TLB_ARRAYS][TLB_SLOTS];
	uint16_t local[TLB_ARRAYS][TLB_SLOTS], global[TLB_ARRAYS][TLB_SLOTS];

	uint16_t fetch_count[FETCH_CLASSES];
	bool fetch_evicted[FETCH_CLASSES]; /* fetch[] has forgotten a page since the last flush */
	bool fetch_local[FETCH_CLASSES]; /* a non-global page was entered since the last flush */
	uint32_t fetch_generation[FETCH_CLASSES]; /* of bt_note_fetch */
	bool fetch_listed[FETCH_CLASSES][FETCH_SLOTS];
	uint16_t fetch_list[FETCH_CLASSES][FETCH_SLOTS];
	/*
	 * Pages that code was fetched from since the last flush, as a Bloom filter of two bits and a range:
	 * the jump cache may know them even where fetch[] has forgotten them. INVLPG of any other page leaves
	 * the jump cache alone.
	 */
	uint64_t fetched[FETCH_CLASSES][TLB_SLOTS / 64];
	uint64_t fetched_low[FETCH_CLASSES], fetched_high[FETCH_CLASSES];

	/* Large pages that were entered in pieces: INVLPG anywhere in one removes all of it. Hashed by 4 MiB.
	 */
	bool large_used;
	uint64_t large[64];
	uint8_t
	    giant_count; /* 1 GiB pages, exact; GIANT_PAGES + 1: too many, suppose any address is in one */
	uint64_t giant[GIANT_PAGES]; /* linear address >> 30 */

	struct walk_cache walk;
};

/* Identity of a context; compared as two words. */
struct tlb_key {
	uint64_t space; /* EPTP[51:12] in place, bit 0 non-root, bit 1 nested paging, bit 2 valid */
	uint32_t vpid, pcid;
};

struct ram_window {
	uint64_t gpa, size;
	uint8_t *host;
	uint64_t first_page; /* index of its first page in write_hint[] */
	bool read_only;
};

/* Why tlb_access returned NULL. */
enum tlb_slow { SLOW_MMIO, SLOW_ROM, SLOW_CODE, SLOW_WATCH, SLOW_APIC_ACCESS };

/*
 * Per guest page of RAM, which write TLB slots may map it: two slot numbers + 1, 0 where free; HINT_MANY in
 * the upper half where two did not suffice. The window is reserved address space; pages beyond it get no
 * write entries.
 */
#define HINT_PAGES (1ull << 26) /* 256 GiB of guest RAM */
#define HINT_MANY  0xffffu

struct tlb_state {
	struct tlb_context *current;
	struct tlb_key key[TLB_CONTEXTS];
	struct tlb_key linked_guest; /* space and vpid: whose global mappings bt's links between them rest on */
	uint64_t clock; /* for LRU */

	struct ram_window ram[GUEST_MEMORY_SLOTS]; /* the two in front are tried first */
	unsigned ram_count;                        /* 0: not read from cpu->memory yet */
	uint32_t *write_hint;
	uint8_t *regions; /* tlb_regions.c */

	enum tlb_slow slow; /* of the last tlb_access that returned NULL */
	gpa_t slow_l2_gpa;
	uint64_t table_walks; /* statistics: misses that walked */

	struct fetch_entry uncached; /* what tlb_fetch returns for a page that may not be cached */
	struct tlb_context context[TLB_CONTEXTS];
};

static inline struct tlb_state *tlb_state_of(const struct cpu *cpu)
{
	return cpu->tlb;
}

/* The slow half of ram_window_of. */
struct ram_window *tlb_find_ram(struct cpu *cpu, struct tlb_state *state, uint64_t gpa);

/* The RAM or ROM slot that holds gpa, or NULL. */
static inline struct ram_window *ram_window_of(struct cpu *cpu, struct tlb_state *state, uint64_t gpa)
{
	if (gpa - state->ram[0].gpa < state->ram[0].size)
		return &state->ram[0];
	if (gpa - state->ram[1].gpa < state->ram[1].size)
		return &state->ram[1];
	return tlb_find_ram(cpu, state, gpa);
}

/* One bit per 64-byte granule of a page that [offset, offset + size) touches; size >= 1, within the page. */
static inline uint64_t code_granules(unsigned offset, unsigned size)
{
	unsigned first = offset >> 6, last = (offset + size - 1) >> 6;

	return (~0ull >> (63 - (last - first))) << first;
}

/* Puts a context into the state after tlb_cpu_create, untouched. */
void tlb_context_init(struct tlb_context *context, struct tlb_region *region);
/* Before such a one is used for the first time; what is pending then empties it. */
void tlb_context_begin(struct tlb_context *context);

#endif

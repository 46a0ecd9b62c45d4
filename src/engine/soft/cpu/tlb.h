/*
 * The software TLB's layout. Translated code looks entries up inline, so the layout is an ABI
 * between this folder and bt/.
 *
 * A vCPU has several *contexts*, one per address space that it has recently run: (VMX root or non-root,
 * EPTP, VPID, PCID). Each context is one contiguous region of host memory: first an alias (second mapping of
 * the same pages) of struct cpu, then struct tlb_tables. A host register points to the current context's
 * region, so that changing address spaces changes one register and flushes nothing, and translated code
 * reaches both struct cpu and the tables with constant displacements.
 *
 * An entry caches guest-linear page -> host page for one kind of access. With `ea` a guest-linear address and
 * an access of `size` bytes, (ea ^ page) <= 4096 - size exactly when the entry matches and the access stays
 * within the page; then the host address is ea + addend. Entries whose slot is empty hold a page number that
 * belongs to another slot (tlb_entry_empty), so they never match. Only canonical pages of ordinary RAM are
 * ever entered: MMIO, pages that hold translated code (for writes), watched pages and APIC-access pages are
 * never entered, and so always take the slow path.
 */
#ifndef NESTOR_CPU_TLB_H
#define NESTOR_CPU_TLB_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "util/address.h"

struct cpu;

#define HUGE_PAGE	 ((size_t)2 << 20) /* of the host */
#define TLB_SLOT_BITS    12
#define TLB_SLOTS        (1u << TLB_SLOT_BITS)
#define JUMP_CACHE_SLOTS 16384
#define JUMP_HASH_SHIFT  4
#define FETCH_SLOTS      1024
#define CPU_AREA_SIZE    (576 * 1024) /* bytes of struct cpu's alias at the start of each region */
#define CONTEXT_LINKS    65536 /* direct branches out of a page, per context */
#define GLOBAL_LINKS     32768 /* the same between global pages, in struct cpu: of root operation, of a guest */
#define TLB_CONTEXTS     12
#define CALL_SITES       2048 /* entries for jumps and calls through pointers at fixed places, per class */

/* Selected at translation time by CPL, and for supervisor code by EFLAGS.AC under CR4.SMAP. */
enum tlb_class {
	TLB_USER,     /* CPL 3 */
	TLB_SUPER,    /* CPL 0-2; under CR4.SMAP with AC = 0 */
	TLB_SUPER_AC, /* CPL 0-2 under CR4.SMAP with AC = 1 */
	TLB_CLASSES
};

/* By slot (tlb_slot). Apart, so that translated code reaches either by a scaled index. */
struct tlb_entries {
	uint64_t page[TLB_SLOTS];   /* guest-linear address of the page */
	uint64_t addend[TLB_SLOTS]; /* host address minus guest-linear address */
};

/* Guest-linear -> guest-physical (L1's) for instruction fetch. Used from C only. */
struct fetch_entry {
	uint64_t page;  /* guest-linear page | 1 where valid */
	uint64_t gpa;   /* guest-physical page, in the machine's memory map */
	uint8_t *host;  /* host address of the page's first byte */
	uint64_t global;
};

/* Filled and read by bt/ only; cpu/ empties it when a fetch mapping may have changed. */
struct jump_entry {
	uint64_t rip;  /* guest-linear; where empty, one that is not of this slot */
	void *code;
};

/*
 * Which entries of a table were filled since it was emptied: most address spaces fill a few hundred, and to empty those
 * costs less than to empty all. count: TLB_LOG_MAX + 1 where there were more.
 */
#define TLB_LOG_MAX 2047

struct tlb_log {
	uint32_t count;
	uint16_t index[TLB_LOG_MAX + 1];
};

/* A signal handler may empty the table and its log in between (native_rescue): the entry is then still in the log. */
static inline void tlb_log_add(struct tlb_log *log, unsigned index)
{
	uint32_t count = log->count;

	if (count > TLB_LOG_MAX)
		return;
	log->index[count] = index;
	__atomic_signal_fence(__ATOMIC_SEQ_CST);
	log->count = count + 1;
}

/*
 * The page of the last access off the stack pointer, a copy of an entry of the current context's write[]: translated
 * code compares with it instead of looking its slot up. `positions`: at how many offsets of the page an access may begin
 * that reaches no further than STACK_REACH(i) bytes; 0 where the entry is gone. base and addend then stay what they were.
 */
#define STACK_REACHES 2
#define STACK_REACH(i) ((i) ? 1024 : 128)

struct stack_window {
	uint64_t base;   /* guest-linear */
	uint64_t addend; /* host minus guest */
	uint64_t positions[STACK_REACHES];
};

struct tlb_tables {
	struct tlb_entries read[TLB_CLASSES];
	struct tlb_entries write[TLB_CLASSES];
	struct jump_entry jump[TLB_CLASSES][JUMP_CACHE_SLOTS];
	struct fetch_entry fetch[TLB_CLASSES][FETCH_SLOTS];
	/* bt/: where a direct branch to another page leads in this context. Reset with the jump caches. */
	void *link[CONTEXT_LINKS];
	/* bt/: where jumps and calls through pointers at fixed places led last, an entry for each. Emptied likewise. */
	struct jump_entry site[TLB_CLASSES][CALL_SITES];
	struct tlb_log jump_log[TLB_CLASSES], link_log, site_log[TLB_CLASSES];
	/* A class's jump cache or links may hold something to empty. Also set by translated code. */
	uint8_t jump_used[TLB_CLASSES];
	uint32_t jump_mode[TLB_CLASSES]; /* the mode key that each jump cache was filled under */
} __attribute__((aligned(4096)));

struct tlb_region {
	uint8_t cpu_area[CPU_AREA_SIZE];
	struct tlb_tables tables;
};

/* Entries of functions, which are aligned, spread over all slots as well as other addresses do. */
static inline unsigned jump_slot_of(uint64_t rip)
{
	return (rip ^ rip >> JUMP_HASH_SHIFT) & (JUMP_CACHE_SLOTS - 1);
}

static inline void tlb_fill_jump(struct tlb_tables *tables, enum tlb_class class, uint64_t rip, void *code)
{
	unsigned slot = jump_slot_of(rip);

	tables->jump[class][slot] = (struct jump_entry){ rip, code };
	tlb_log_add(&tables->jump_log[class], slot);
}

/* What an empty slot holds: a rip of another one. */
static inline uint64_t jump_entry_empty(unsigned slot)
{
	return slot == jump_slot_of(~0ull) ? 1 : ~0ull;
}

/* The rip of an empty entry of site[]. A guest may go there, too: so its code is cpu->site_empty, which takes it there. */
#define SITE_EMPTY (~0ull)

static inline unsigned tlb_slot(uint64_t gla)
{
	return (gla >> PAGE_SHIFT) & (TLB_SLOTS - 1);
}

/* What an empty slot holds: a page of another slot. */
static inline uint64_t tlb_entry_empty(unsigned slot)
{
	return slot == 0 ? PAGE_SIZE : 0;
}

static inline void tlb_empty_slot(struct tlb_entries *entries, unsigned slot)
{
	entries->page[slot] = tlb_entry_empty(slot);
}

/* The host address of [gla, gla + size), or NULL where the entry is another one or the page ends before. */
static inline void *tlb_look_up(const struct tlb_entries *entries, uint64_t gla, unsigned size)
{
	unsigned slot = tlb_slot(gla);

	if (__builtin_expect((gla ^ entries->page[slot]) > PAGE_SIZE - size, 0))
		return NULL;
	return (void *)(uintptr_t)(gla + entries->addend[slot]);
}

enum mem_access {
	ACCESS_READ = 0,
	ACCESS_WRITE = 1,  /* read-modify-write counts as a write */
	ACCESS_FETCH = 2,
};

/*
 * Translates gla for an access of kind `access` (READ or WRITE) by code of class `class`, walking the guest's
 * tables (and EPT) on a miss, setting accessed and dirty bits, and entering the result into the current
 * context where it may be cached. The access must not cross a page.
 * Returns the host address of the byte, or NULL where the access is permitted but cannot go straight to host
 * memory (MMIO, ROM write, write to a granule that holds translated code, watchpoint, APIC-access page): then
 * *gpa tells the guest-physical address and the caller uses memory.h's slow functions.
 * Does not return where the access faults: the #PF (or VM exit) is raised at cpu->rip.
 */
void *tlb_access(struct cpu *cpu, gla_t gla, unsigned size, enum mem_access access, enum tlb_class class,
		 gpa_t *gpa);

/*
 * Where gla may be accessed directly and that can be found out without any effect but an entry's being filled: true,
 * and the entry is filled. Never raises anything.
 */
bool tlb_peek(struct cpu *cpu, gla_t gla, enum mem_access access, enum tlb_class class);

/*
 * Translates the page of an instruction fetch at gla by the current CPL. Returns a pointer to the entry, valid until the
 * next call. *host in the entry is NULL where the page is not RAM or ROM. Raises the fault otherwise.
 */
const struct fetch_entry *tlb_fetch(struct cpu *cpu, gla_t gla);

/*
 * Host-visible set-up. Allocates the regions and the memory of struct cpu itself; returns struct cpu's
 * canonical mapping, zeroed, or NULL with error_text(). huge_contexts: so many of the contexts, those taken first, have
 * their tables in huge pages, which are faster and take their whole size once they are used.
 */
struct cpu *tlb_cpu_create(unsigned huge_contexts);
void tlb_cpu_destroy(struct cpu *cpu);

/*
 * Makes the context for the vCPU's present (root/non-root, EPTP, VPID, PCID) current: finds it or takes the
 * least recently used one. Updates cpu->region. Called after every change of those; cheap when unchanged.
 */
void tlb_select_context(struct cpu *cpu);

/* Every translation of every context (CR0.PG, CR0.WP, CR4.PAE/PSE/PGE/PCIDE/SMEP/SMAP, EFER.NXE … changes). */
void tlb_flush_all(struct cpu *cpu);
/* The current context; keep_global as for MOV to CR3 with CR4.PGE = 1. */
void tlb_flush_current(struct cpu *cpu, bool keep_global);
/* INVLPG: gla's page, global or not, in the current PCID and, where global, in all PCIDs of this VPID. */
void tlb_flush_page(struct cpu *cpu, gla_t gla);
/* INVPCID types 0-3 (SDM, INVPCID). */
void tlb_flush_pcid(struct cpu *cpu, unsigned type, uint16_t pcid, gla_t gla);
/* INVVPID and the implicit flush of VPID 0: linear and combined mappings. type as INVVPID's. */
void tlb_flush_vpid(struct cpu *cpu, unsigned type, uint16_t vpid, gla_t gla);
/* INVEPT: type 1 by EPTP[51:12], type 2 all. */
void tlb_flush_ept(struct cpu *cpu, unsigned type, uint64_t eptp);
/* Closes the stack window; translated code finds `addend` there for the accesses that it does next. */
void tlb_lend_window(struct cpu *cpu, enum tlb_class class, uint64_t addend);
/* Revokes every write entry for the guest-physical page, in every context (the page now holds code). */
void tlb_revoke_write(struct cpu *cpu, gpa_t page);
/* The same for every page. */
void tlb_revoke_all_writes(struct cpu *cpu);
/* bt/: sets link[index] of every context. */
void tlb_set_link(struct cpu *cpu, unsigned index, void *code);
/* bt/: bt_reset_links for every context but the current one. */
void tlb_reset_other_links(struct cpu *cpu);
/* bt/: removes the jump cache entries of `class` that lead to `code`, a block that starts at `rip`, or, where it can be at
 * any page, at that offset of one. */
void tlb_forget_jump(struct cpu *cpu, enum tlb_class class, uint64_t rip, bool any_page, const void *code);
/* bt/: empties site[] of every context, which with `first` hold nothing yet. */
void tlb_empty_sites(struct cpu *cpu, bool first);
/* Empties the jump caches of all contexts, or the current one only. */
void tlb_flush_jumps(struct cpu *cpu, bool all_contexts);

/*
 * For cpu_update_mode, after cpu->mode took its new value: empties the current context's jump cache of the
 * present class where it was filled under another mode key, and the new mode uses it. So a change to and fro
 * between two classes (system calls) or two contexts (VM entry and exit) empties nothing. Relies on bt/ filling
 * jump[class] only after a tlb_fetch under the same mode.
 */
void tlb_jump_mode(struct cpu *cpu);

/* After a change of DR0-DR3 or DR7: removes pages that are now watched from every context. */
void tlb_watch_changed(struct cpu *cpu);

#endif

/*
 * The software TLB (see tlb.h for what translated code sees of it).
 *
 * Contexts. Every address space that ran lately keeps its tables, keyed by what the processor tags mappings
 * with: root or non-root operation, EPTP, VPID and PCID (SDM, Caching Translation Information). A change of
 * address space finds its context again or takes over the least recently used one. Flushes act at once on the
 * current context; every other one notes what it owes (tlb_pending) and pays when it is selected, so that a
 * guest that flushes often does not pay for contexts it does not use.
 *
 * Journals. Each array has a list of the slots filled since they were last emptied, global and other mappings
 * apart. A flush walks a list instead of 4,096 slots.
 *
 * Jump caches go from linear address to host code without asking for the translation, so they are emptied
 * whenever a mapping that they may depend on goes. fetched[] says which pages those are, and jump_used[]
 * whether there is anything to empty at all.
 */
#include "engine/soft/cpu/cpu.h"
#include "engine/soft/cpu/apic.h"
#include "engine/soft/cpu/debugger.h"
#include "engine/soft/cpu/memory.h"
#include "engine/soft/cpu/paging.h"
#include "engine/soft/cpu/tlb_state.h"

_Static_assert(offsetof(struct tlb_tables, write) == sizeof(((struct tlb_tables *)0)->read),
               "the arrays are numbered through");

/* Array number `array` of a context: read[class], then write[class]. */
static inline struct tlb_entries *entries_of(struct tlb_context *context, unsigned array)
{
	return (struct tlb_entries *)&context->region->tables + array;
}

static inline unsigned array_of(enum mem_access access, enum tlb_class class)
{
	return access == ACCESS_WRITE ? TLB_CLASSES + class : class;
}

static inline unsigned fetch_slot(uint64_t gla)
{
	return (gla >> PAGE_SHIFT) % FETCH_SLOTS;
}

/* ---- emptying ---- */

/* tlb_key.space */
#define SPACE_NONROOT 1u
#define SPACE_NESTED  2u
#define SPACE_VALID   4u
#define EPTP_MASK     0x000ffffffffff000ull

/* The vCPU that the context belongs to: the start of its region is an alias of it. */
static struct cpu *cpu_of(const struct tlb_context *context)
{
	return ((const struct cpu *)context->region->cpu_area)->self;
}

static void empty_sites(struct tlb_context *context, unsigned class)
{
	const struct jump_entry empty = {SITE_EMPTY, cpu_of(context)->site_empty};
	struct jump_entry *site = context->region->tables.site[class];
	struct tlb_log *log = &context->region->tables.site_log[class];

	if (log->count <= TLB_LOG_MAX)
		for (unsigned i = 0; i < log->count; i++)
			site[log->index[i]] = empty;
	else
		for (unsigned i = 0; i < CALL_SITES; i++)
			site[i] = empty;
	log->count = 0;
}

static void empty_jump_class(struct tlb_context *context, unsigned class)
{
	struct tlb_tables *tables = &context->region->tables;
	struct jump_entry *entry = tables->jump[class];
	struct tlb_log *log = &tables->jump_log[class];

	if (!tables->jump_used[class])
		return;
	tables->jump_used[class] = context->untouched = false;
	bt_reset_links(cpu_of(context), tables);
	if (log->count <= TLB_LOG_MAX) {
		for (unsigned i = 0; i < log->count; i++)
			entry[log->index[i]].rip = jump_entry_empty(log->index[i]);
	} else {
		/* Guests do jump to FFFFFFFF_FFFFFFFFH, so the slot of that rip is empty by another. */
		memset(entry, 0xff, JUMP_CACHE_SLOTS * sizeof(*entry));
		entry[jump_slot_of(~0ull)].rip = jump_entry_empty(jump_slot_of(~0ull));
	}
	log->count = 0;
	empty_sites(context, class);
}

static void empty_jumps(struct tlb_context *context)
{
	for (unsigned class = 0; class < TLB_CLASSES; class ++)
		empty_jump_class(context, class);
	context->pending_jumps = false;
}

/* The jump caches that depend on the fetch class. */
static void empty_jumps_of_fetch(struct tlb_context *context, unsigned fetch_class)
{
	if (fetch_class == TLB_USER) {
		empty_jump_class(context, TLB_USER);
	} else {
		empty_jump_class(context, TLB_SUPER);
		empty_jump_class(context, TLB_SUPER_AC);
	}
}

static void empty_journal(struct tlb_entries *entries, const uint16_t *journal, unsigned count)
{
	for (unsigned i = 0; i < count; i++)
		tlb_empty_slot(entries, journal[i]);
}

static inline void close_window(struct stack_window *window)
{
	for (unsigned i = 0; i < STACK_REACHES; i++)
		window->positions[i] = 0;
}

/* The vCPU's; of another context than the current one they lose nothing by being closed. */
static inline struct stack_window *windows_of(const struct tlb_context *context)
{
	return ((struct cpu *)context->region->cpu_area)->stack;
}

/* Some of the entries that write[] had are gone. */
static inline void close_windows(struct stack_window *windows)
{
	for (unsigned class = 0; class < TLB_CLASSES; class ++)
		close_window(&windows[class]);
}

static void empty_walk_cache(struct tlb_context *context)
{
	if (++context->walk.generation == 0) {
		memset(context->walk.entry, 0, sizeof(context->walk.entry));
		context->walk.generation = 1;
	}
}

static inline unsigned fetched_hash(uint64_t page)
{
	return (page >> PAGE_SHIFT) * 0x9e3779b97f4a7c15ull >> 52; /* 0..4095 */
}

static inline void mark_fetched(struct tlb_context *context, unsigned class, uint64_t page)
{
	unsigned a = tlb_slot(page), b = fetched_hash(page);

	context->fetched[class][a / 64] |= 1ull << a % 64;
	context->fetched[class][b / 64] |= 1ull << b % 64;
	if (page < context->fetched_low[class])
		context->fetched_low[class] = page;
	if (page > context->fetched_high[class])
		context->fetched_high[class] = page;
}

/* False where no code can have been fetched from the page since the last flush. */
static inline bool was_fetched(const struct tlb_context *context, unsigned class, uint64_t page)
{
	unsigned a = tlb_slot(page), b = fetched_hash(page);

	return page >= context->fetched_low[class] && page <= context->fetched_high[class] &&
	       (context->fetched[class][a / 64] >> a % 64 & context->fetched[class][b / 64] >> b % 64 & 1);
}

static void empty_fetch(struct tlb_context *context, unsigned class, bool keep_global)
{
	struct fetch_entry *entries = context->region->tables.fetch[class];
	unsigned kept = 0;

	if (keep_global && !context->fetch_local[class])
		return;
	memset(context->fetched[class], 0, sizeof(context->fetched[class]));
	context->fetched_low[class] = ~0ull;
	context->fetched_high[class] = 0;
	for (unsigned i = 0; i < context->fetch_count[class]; i++) {
		unsigned slot = context->fetch_list[class][i];

		if (keep_global && (entries[slot].page & 1) && entries[slot].global) {
			context->fetch_list[class][kept++] = slot;
			mark_fetched(context, class, entries[slot].page & PAGE_MASK);
			continue;
		}
		entries[slot].page = 0;
		context->fetch_listed[class][slot] = false;
	}
	context->fetch_count[class] = kept;
	if (!kept)
		context->fetch_generation[class]++;
	context->fetch_local[class] = context->fetch_evicted[class] = false;
	empty_jumps_of_fetch(context, class);
}

static void flush_all_of(struct tlb_context *context)
{
	for (unsigned array = 0; array < TLB_ARRAYS; array++) {
		struct tlb_entries *entries = entries_of(context, array);
		unsigned local = context->local_count[array], global = context->global_count[array];

		empty_journal(entries, context->local[array], local);
		empty_journal(entries, context->global[array], global);
		for (unsigned i = 0; i < local; i++)
			context->slot[array][context->local[array][i]] = 0;
		for (unsigned i = 0; i < global; i++)
			context->slot[array][context->global[array][i]] = 0;
		context->local_count[array] = context->global_count[array] = 0;
	}
	close_windows(windows_of(context));
	for (unsigned class = 0; class < FETCH_CLASSES; class ++)
		empty_fetch(context, class, false);
	empty_walk_cache(context);
	if (context->large_used) {
		context->large_used = false;
		memset(context->large, 0, sizeof(context->large));
		context->giant_count = 0;
	}
	context->pending = PENDING_NONE;
}

#define CODE_PAGES_LOOKED_AT 256 /* beyond that many, filling the jump cache anew is cheaper */

/*
 * After a MOV to CR3 that flushes: do the new tables lead to the same code, for all pages that the jump caches may know
 * of? Then these stay, as if the processor had fetched from each page at once. Programs that unmap or share memory
 * flush often, and change no code by it. Not in the middle of a VM entry or exit.
 */
static bool code_stays(struct cpu *cpu, const struct tlb_context *context, unsigned class)
{
	const struct fetch_entry *entries = context->region->tables.fetch[class];

	if (cpu->virt || cpu->mode & MODE_NONROOT || cpu->tune_off & ENGINE_TUNE_KEEP_CODE ||
	    context->fetch_evicted[class] || context->fetch_count[class] > CODE_PAGES_LOOKED_AT)
		return false;
	for (unsigned i = 0; i < context->fetch_count[class]; i++) {
		const struct fetch_entry *entry = &entries[context->fetch_list[class][i]];

		if (entry->page & 1 && !entry->global &&
		    !paging_fetches_from(cpu, GLA(entry->page & PAGE_MASK), class, GPA(entry->gpa)))
			return false;
	}
	return true;
}

/* Everything but global mappings. cpu: the context is that of its CR3; else NULL. */
static void flush_local_of(struct tlb_context *context, struct cpu *cpu)
{
	for (unsigned array = 0; array < TLB_ARRAYS; array++) {
		struct tlb_entries *entries = entries_of(context, array);

		for (unsigned i = 0; i < context->local_count[array]; i++) {
			unsigned slot = context->local[array][i];

			context->slot[array][slot] &= ~SLOT_IN_LOCAL;
			if (!(context->slot[array][slot] & SLOT_IS_GLOBAL))
				tlb_empty_slot(entries, slot);
		}
		context->local_count[array] = 0;
	}
	close_windows(windows_of(context));
	for (unsigned class = 0; class < FETCH_CLASSES; class ++)
		if (!cpu || !code_stays(cpu, context, class))
			empty_fetch(context, class, true);
	empty_walk_cache(context);
	context->pending = PENDING_NONE;
}

/* Same VPID, EPTP and operation: what INVLPG and INVPCID reach, and what shares global mappings. */
static inline bool same_guest(const struct tlb_key *a, const struct tlb_key *b)
{
	return a->space == b->space && a->vpid == b->vpid;
}

/* Now where the context is current, else when it is next selected. */
static void flush_context(struct tlb_state *state, struct tlb_context *context, bool keep_global)
{
	const struct tlb_key *key = &state->key[context - state->context];

	if (!keep_global && !(key->space & SPACE_NONROOT))
		bt_reset_global_links(cpu_of(context), false);
	else if (!keep_global && same_guest(key, &state->linked_guest))
		bt_reset_global_links(cpu_of(context), true);
	if (context != state->current) {
		if (!keep_global)
			context->pending = PENDING_ALL;
		else if (context->pending == PENDING_NONE)
			context->pending = PENDING_LOCAL;
	} else if (keep_global) {
		flush_local_of(context, cpu_of(context));
	} else {
		flush_all_of(context);
	}
}

/* One 4 KiB piece out of every array, or only where it is global. */
static void drop_page(struct tlb_state *state, struct tlb_context *context, uint64_t page, bool only_global)
{
	const bool nonroot = state->key[context - state->context].space & SPACE_NONROOT;
	unsigned slot = tlb_slot(page);

	for (unsigned array = 0; array < TLB_ARRAYS; array++) {
		struct tlb_entries *entries = entries_of(context, array);

		if (entries->page[slot] == page && (!only_global || (context->slot[array][slot] & SLOT_IS_GLOBAL)))
			tlb_empty_slot(entries, slot);
	}
	close_windows(windows_of(context));
	for (unsigned class = 0; class < FETCH_CLASSES; class ++) {
		struct fetch_entry *entry = &context->region->tables.fetch[class][fetch_slot(page)];

		if (entry->page == (page | 1) && (!only_global || entry->global))
			entry->page = 0;
		/* fetched[] cannot tell global pages; a needless emptying is harmless. */
		if (was_fetched(context, class, page)) {
			empty_jumps_of_fetch(context, class);
			bt_reset_global_links(cpu_of(context), nonroot);
		}
	}
	/* Links between global pages are followed in contexts that never fetched from the page. */
	bt_reset_global_links_to(cpu_of(context), page, nonroot);
}

/* Every piece in the 4 MiB around gla. */
static void drop_large(struct tlb_state *state, struct tlb_context *context, uint64_t gla)
{
	const uint64_t size = 4u << 20, base = gla & ~(size - 1);
	const unsigned first = tlb_slot(base);

	for (unsigned array = 0; array < TLB_ARRAYS; array++) {
		struct tlb_entries *entries = entries_of(context, array);

		if (!context->local_count[array] && !context->global_count[array])
			continue;
		for (unsigned slot = first; slot < first + size / PAGE_SIZE; slot++)
			if (entries->page[slot] - base < size)
				tlb_empty_slot(entries, slot);
	}
	close_windows(windows_of(context));
	for (unsigned class = 0; class < FETCH_CLASSES; class ++) {
		struct fetch_entry *entries = context->region->tables.fetch[class];

		for (unsigned slot = 0; slot < FETCH_SLOTS; slot++)
			if ((entries[slot].page & 1) && entries[slot].page - base < size)
				entries[slot].page = 0;
	}
	empty_jumps(context);
	bt_reset_global_links(cpu_of(context), state->key[context - state->context].space & SPACE_NONROOT);
}

static inline unsigned large_bit(uint64_t gla)
{
	return ((gla >> 22) * 0x9e3779b97f4a7c15ull) >> 52; /* 0..4095 */
}

/* Notes that gla's page is entered in pieces. */
static void note_large(struct tlb_context *context, uint64_t gla, unsigned page_shift)
{
	unsigned bit = large_bit(gla);

	context->large_used = true;
	if (page_shift < 30) {
		context->large[bit / 64] |= 1ull << bit % 64;
		return;
	}
	for (unsigned i = 0; i < context->giant_count && i < GIANT_PAGES; i++)
		if (context->giant[i] == gla >> 30)
			return;
	if (context->giant_count < GIANT_PAGES)
		context->giant[context->giant_count] = gla >> 30;
	if (context->giant_count <= GIANT_PAGES)
		context->giant_count++;
}

static bool in_giant(const struct tlb_context *context, uint64_t gla)
{
	if (context->giant_count > GIANT_PAGES)
		return true;
	for (unsigned i = 0; i < context->giant_count; i++)
		if (context->giant[i] == gla >> 30)
			return true;
	return false;
}

/* INVLPG's effect on one context. */
static void invalidate_page(struct tlb_state *state, struct tlb_context *context, uint64_t gla,
                            bool only_global)
{
	if (context->pending == PENDING_ALL)
		return;
	empty_walk_cache(context);
	if (context->large_used) {
		unsigned bit = large_bit(gla);

		if (in_giant(context, gla)) {
			flush_context(state, context, false);
			return;
		}
		if (context->large[bit / 64] >> bit % 64 & 1)
			drop_large(state, context, gla);
	}
	drop_page(state, context, gla & PAGE_MASK, only_global);
}

/* ---- contexts ---- */

void tlb_context_init(struct tlb_context *context, struct tlb_region *region)
{
	context->region = region;
	context->walk.generation = 1;
	context->pending = PENDING_ALL;
	context->pending_jumps = context->untouched = true;
}

void tlb_context_begin(struct tlb_context *context)
{
	struct tlb_tables *tables = &context->region->tables;

	for (unsigned array = 0; array < TLB_ARRAYS; array++)
		tlb_empty_slot(entries_of(context, array), 0);
	/* What is pending empties the jump caches (sets them to all ones). */
	for (unsigned class = 0; class < TLB_CLASSES; class ++) {
		tables->jump_used[class] = true;
		tables->jump_log[class].count = tables->site_log[class].count = TLB_LOG_MAX + 1;
	}
	tables->link_log.count = TLB_LOG_MAX + 1;
}

static inline struct tlb_key present_key(const struct cpu *cpu)
{
	return (struct tlb_key){
	    .space = (cpu->eptp & EPTP_MASK) | (cpu->nested_paging ? SPACE_NESTED : 0) |
	             (cpu->virt ? SPACE_NONROOT : 0) | SPACE_VALID,
	    .vpid = cpu->vpid,
	    .pcid = cpu->cr4 & CR4_PCIDE ? cpu->cr3 & 0xfff : 0,
	};
}

static inline bool same_key(const struct tlb_key *a, const struct tlb_key *b)
{
	return a->space == b->space && a->vpid == b->vpid && a->pcid == b->pcid;
}

void tlb_select_context(struct cpu *cpu)
{
	struct tlb_state *state = tlb_state_of(cpu);
	struct tlb_key key = present_key(cpu);
	struct tlb_context *context = state->current;
	unsigned victim = 0;

	if (same_key(&state->key[context - state->context], &key))
		return;
	context->last_used = ++state->clock;
	for (unsigned i = 0; i < TLB_CONTEXTS; i++) {
		if (same_key(&state->key[i], &key)) {
			context = &state->context[i];
			goto found;
		}
		if (state->context[i].last_used < state->context[victim].last_used)
			victim = i;
	}
	context = &state->context[victim];
	if (state->key[victim].space)
		context->pending = PENDING_ALL;
	state->key[victim] = key;
found:
	if (context->untouched)
		tlb_context_begin(context);
	state->current = context;
	cpu->region = context->region;
	close_windows(cpu->stack);
	if (cpu->virt && !same_guest(&key, &state->linked_guest)) {
		bt_reset_global_links(cpu, true);
		state->linked_guest = key;
	}
	if (context->pending == PENDING_ALL)
		flush_all_of(context);
	else if (context->pending == PENDING_LOCAL)
		flush_local_of(context, NULL);
	if (context->pending_jumps)
		empty_jumps(context);
	tlb_jump_mode(cpu);
}

void tlb_jump_mode(struct cpu *cpu)
{
	struct tlb_state *state = tlb_state_of(cpu);
	struct tlb_context *context = state->current;
	unsigned class = mem_class(cpu);

	/* A caller of firmware that comes back from 16-bit code finds its jump cache as it left it. */
	if (context->region->tables.jump_mode[class] == cpu->mode || !mode_has_jump_cache(cpu->mode))
		return;
	/* In the middle of a VM entry or exit: tlb_select_context or cpu_update_mode is still to come. */
	if (!(state->key[context - state->context].space & SPACE_NONROOT) != !cpu->virt ||
	    !(cpu->mode & MODE_NONROOT) != !cpu->virt)
		return;
	/* Translated code goes from one supervisor class to the other by itself: both change together. */
	for (unsigned c = class == TLB_USER ? TLB_USER : TLB_SUPER; c <= (class == TLB_USER ? TLB_USER : TLB_SUPER_AC); c++) {
		uint32_t mode = (cpu->mode & ~(3u << MODE_CLASS_SHIFT)) | c << MODE_CLASS_SHIFT;

		if (context->region->tables.jump_mode[c] == mode)
			continue;
		empty_jump_class(context, c);
		context->region->tables.jump_mode[c] = mode;
	}
}

void tlb_set_link(struct cpu *cpu, unsigned index, void *code)
{
	struct tlb_state *state = tlb_state_of(cpu);

	/* A context gets all of them when its jump caches are first emptied, before it is used. */
	for (unsigned i = 0; i < TLB_CONTEXTS; i++)
		if (!state->context[i].untouched)
			state->context[i].region->tables.link[index] = code;
}

void tlb_reset_other_links(struct cpu *cpu)
{
	struct tlb_state *state = tlb_state_of(cpu);

	for (unsigned i = 0; i < TLB_CONTEXTS; i++)
		if (&state->context[i] != state->current && !state->context[i].untouched)
			bt_reset_links(cpu, &state->context[i].region->tables);
}

static void forget_jump_at(struct jump_entry *jump, uint64_t rip, const void *code)
{
	unsigned slot = jump_slot_of(rip);

	if (jump[slot].code == code)
		jump[slot] = (struct jump_entry){jump_entry_empty(slot), NULL};
}

void tlb_forget_jump(struct cpu *cpu, enum tlb_class class, uint64_t rip, bool any_page, const void *code)
{
	struct tlb_state *state = tlb_state_of(cpu);

	for (unsigned i = 0; i < TLB_CONTEXTS; i++) {
		struct tlb_tables *tables = &state->context[i].region->tables;

		if (state->context[i].untouched || !tables->jump_used[class])
			continue;
		if (!any_page) {
			forget_jump_at(tables->jump[class], rip, code);
			continue;
		}
		/* Every address that the block may have, as far as it matters for the slot. */
		for (uint64_t at = rip & ~PAGE_MASK; at < JUMP_CACHE_SLOTS << JUMP_HASH_SHIFT; at += PAGE_SIZE)
			forget_jump_at(tables->jump[class], at, code);
	}
}

void tlb_empty_sites(struct cpu *cpu, bool first)
{
	struct tlb_state *state = tlb_state_of(cpu);

	for (unsigned i = 0; i < TLB_CONTEXTS; i++) {
		struct tlb_context *context = &state->context[i];

		for (unsigned class = 0; class < TLB_CLASSES && !context->untouched; class ++) {
			if (first)
				context->region->tables.site_log[class].count = TLB_LOG_MAX + 1;
			empty_sites(context, class);
		}
	}
}

void tlb_flush_jumps(struct cpu *cpu, bool all_contexts)
{
	struct tlb_state *state = tlb_state_of(cpu);

	empty_jumps(state->current);
	/* Flushed for want of room, after tlb_fetch: the jump cache is about to be filled all the same. */
	state->current->region->tables.jump_used[mem_class(cpu)] = true;
	if (!all_contexts)
		return;
	for (unsigned i = 0; i < TLB_CONTEXTS; i++)
		if (&state->context[i] != state->current)
			state->context[i].pending_jumps = true;
}

void tlb_flush_all(struct cpu *cpu)
{
	struct tlb_state *state = tlb_state_of(cpu);

	state->ram_count = 0; /* a reset may come with another memory map */
	state->ram[0].size = state->ram[1].size = 0;
	for (unsigned i = 0; i < TLB_CONTEXTS; i++)
		flush_context(state, &state->context[i], false);
	bt_reset_global_links(cpu, false);
	bt_reset_global_links(cpu, true);
}

void tlb_flush_current(struct cpu *cpu, bool keep_global)
{
	struct tlb_state *state = tlb_state_of(cpu);

	flush_context(state, state->current, keep_global);
}

void tlb_flush_page(struct cpu *cpu, gla_t gla)
{
	struct tlb_state *state = tlb_state_of(cpu);
	struct tlb_key key = present_key(cpu);

	for (unsigned i = 0; i < TLB_CONTEXTS; i++)
		if (same_guest(&state->key[i], &key))
			invalidate_page(state, &state->context[i], gla.v, state->key[i].pcid != key.pcid);
}

void tlb_flush_pcid(struct cpu *cpu, unsigned type, uint16_t pcid, gla_t gla)
{
	struct tlb_state *state = tlb_state_of(cpu);
	struct tlb_key key = present_key(cpu);

	for (unsigned i = 0; i < TLB_CONTEXTS; i++) {
		struct tlb_context *context = &state->context[i];

		if (!same_guest(&state->key[i], &key))
			continue;
		if (type >= 2)
			flush_context(state, context, type == 3);
		else if (state->key[i].pcid == pcid && type == 1)
			flush_context(state, context, true);
		else if (state->key[i].pcid == pcid)
			invalidate_page(state, context, gla.v, false);
	}
}

void tlb_flush_vpid(struct cpu *cpu, unsigned type, uint16_t vpid, gla_t gla)
{
	struct tlb_state *state = tlb_state_of(cpu);

	/* The guest's contexts may all have been taken over; its links may be there all the same. */
	if (type == 0)
		bt_reset_global_links_to(cpu, gla.v, true);
	else if (type != 3)
		bt_reset_global_links(cpu, true);
	for (unsigned i = 0; i < TLB_CONTEXTS; i++) {
		struct tlb_context *context = &state->context[i];
		const struct tlb_key *key = &state->key[i];

		if (!key->space)
			continue;
		/* SDM, INVVPID: all-context invalidation spares VPID 0000H. */
		if (type == 2 ? key->vpid == 0 : key->vpid != vpid)
			continue;
		if (type == 0)
			invalidate_page(state, context, gla.v, false);
		else
			flush_context(state, context, type == 3);
	}
}

void tlb_flush_ept(struct cpu *cpu, unsigned type, uint64_t eptp)
{
	struct tlb_state *state = tlb_state_of(cpu);

	if (type != 1 || !((state->linked_guest.space ^ eptp) & EPTP_MASK))
		bt_reset_global_links(cpu, true);
	for (unsigned i = 0; i < TLB_CONTEXTS; i++) {
		if (!(state->key[i].space & SPACE_NESTED))
			continue;
		if (type == 1 && ((state->key[i].space ^ eptp) & EPTP_MASK))
			continue;
		flush_context(state, &state->context[i], false);
	}
}

/* ---- write entries of a guest page ---- */

struct ram_window *tlb_find_ram(struct cpu *cpu, struct tlb_state *state, uint64_t gpa)
{
	const struct guest_memory *memory = cpu->memory;

	if (!state->ram_count) {
		uint64_t page = 0;

		for (unsigned i = 0; i < memory->slot_count && i < GUEST_MEMORY_SLOTS; i++) {
			const struct guest_memory_slot *slot = &memory->slot[i];

			state->ram[i] =
			    (struct ram_window){slot->gpa, slot->size, slot->host, page, slot->read_only};
			page += slot->size >> PAGE_SHIFT;
			state->ram_count = i + 1;
		}
	}
	for (unsigned i = 0; i < state->ram_count; i++) {
		struct ram_window found = state->ram[i];

		if (gpa - found.gpa >= found.size)
			continue;
		/* Keep the two windows in use in front. ROM is too rare to be worth a place. */
		if (i < 2 || found.read_only)
			return &state->ram[i];
		state->ram[i] = state->ram[1];
		state->ram[1] = state->ram[0];
		state->ram[0] = found;
		return &state->ram[0];
	}
	return NULL;
}

/* Remembers that write slot `slot` may map the page. False where the page must not get a write entry. */
static inline bool note_write(struct tlb_state *state, uint64_t index, unsigned slot)
{
	uint32_t mark = slot + 1, *hint;

	if (index >= HINT_PAGES)
		return false;
	hint = &state->write_hint[index];
	if ((*hint & 0xffff) == mark || *hint >> 16 == mark || *hint >> 16 == HINT_MANY)
		return true;
	if (!(*hint & 0xffff))
		*hint |= mark;
	else if (!(*hint >> 16))
		*hint |= mark << 16;
	else
		*hint |= HINT_MANY << 16;
	return true;
}

static inline void revoke_slot(struct tlb_entries *entries, unsigned slot, uint64_t host)
{
	/* An entry belongs to the page where it leads to its host address; an empty one does not care. */
	if (entries->page[slot] + entries->addend[slot] == host)
		tlb_empty_slot(entries, slot);
}

static void revoke_journal(struct tlb_entries *entries, const uint16_t *journal, unsigned count, uint64_t host)
{
	for (unsigned i = 0; i < count; i++)
		revoke_slot(entries, journal[i], host);
}

void tlb_revoke_write(struct cpu *cpu, gpa_t page)
{
	struct tlb_state *state = tlb_state_of(cpu);
	const struct ram_window *ram = ram_window_of(cpu, state, page.v);
	uint64_t index, host;
	uint32_t hint;

	if (!ram)
		return;
	page.v &= PAGE_MASK;
	index = ram->first_page + ((page.v - ram->gpa) >> PAGE_SHIFT);
	if (index >= HINT_PAGES || !state->write_hint[index])
		return;
	hint = state->write_hint[index];
	state->write_hint[index] = 0;
	host = (uintptr_t)ram->host + (page.v - ram->gpa);
	for (unsigned class = 0; class < TLB_CLASSES; class ++)
		if (cpu->stack[class].base + cpu->stack[class].addend == host)
			close_window(&cpu->stack[class]);
	for (unsigned i = 0; i < TLB_CONTEXTS; i++) {
		struct tlb_context *context = &state->context[i];

		if (context->pending == PENDING_ALL)
			continue;
		for (unsigned array = TLB_CLASSES; array < TLB_ARRAYS; array++) {
			struct tlb_entries *entries = entries_of(context, array);

			if (hint >> 16 == HINT_MANY) {
				revoke_journal(entries, context->local[array], context->local_count[array],
				               host);
				revoke_journal(entries, context->global[array], context->global_count[array],
				               host);
				continue;
			}
			revoke_slot(entries, (hint & 0xffff) - 1, host);
			if (hint >> 16)
				revoke_slot(entries, (hint >> 16) - 1, host);
		}
	}
}

void tlb_revoke_all_writes(struct cpu *cpu)
{
	tlb_flush_all(cpu);
}

void tlb_lend_window(struct cpu *cpu, enum tlb_class class, uint64_t addend)
{
	struct stack_window *window = &cpu->stack[class];

	close_window(window);
	window->addend = addend;
}

/* ---- watched pages ---- */

/* Linear address and length of data breakpoint i. False where it is off or not for data. */
static bool data_breakpoint(const struct cpu *cpu, unsigned i, uint64_t *address, unsigned *length)
{
	static const uint8_t lengths[] = {1, 2, 8, 4};
	unsigned control = cpu->dr7 >> (16 + 4 * i);

	if (!(cpu->dr7 >> 2 * i & 3) || !(control & 1)) /* R/W: 01 writes, 11 reads and writes */
		return false;
	*length = lengths[control >> 2 & 3];
	*address = cpu->dr[i] & ~(uint64_t)(*length - 1);
	return true;
}

/* 0: no watched address in the page; 1: in the page; 2: in [gla, gla + size). */
static unsigned watched_bytes(const struct cpu *cpu, uint64_t gla, unsigned size)
{
	unsigned result = debugger_watches(cpu) ? debugger_watched(cpu, gla, size) : 0, length;
	uint64_t address;

	for (unsigned i = 0; i < 4 && result < 2; i++) {
		if (!data_breakpoint(cpu, i, &address, &length))
			continue;
		if (address < gla + size && gla < address + length)
			return 2;
		if (!((address ^ gla) & PAGE_MASK))
			result = 1;
	}
	return result;
}

void tlb_watch_changed(struct cpu *cpu)
{
	struct tlb_state *state = tlb_state_of(cpu);
	unsigned length;
	uint64_t address;

	for (unsigned i = 0; i < 4; i++) {
		if (!data_breakpoint(cpu, i, &address, &length))
			continue;
		for (unsigned k = 0; k < TLB_CONTEXTS; k++)
			drop_page(state, &state->context[k], address & PAGE_MASK, false);
	}
	for (unsigned i = 0; debugger_watches(cpu) && i < cpu->debugger->wish.count; i++) {
		const struct engine_debug_point *point = &cpu->debugger->wish.point[i];

		for (uint64_t page = point->gla & PAGE_MASK; point->access != ENGINE_POINT_EXECUTE && page < point->gla + point->size;
		     page += PAGE_SIZE)
			for (unsigned k = 0; k < TLB_CONTEXTS; k++)
				drop_page(state, &state->context[k], page, false);
	}
}

/* ---- misses ---- */

static inline void fill(struct tlb_context *context, unsigned array, unsigned slot, uint64_t page,
                        uint64_t addend, bool global)
{
	struct tlb_entries *entries = entries_of(context, array);
	uint8_t *flags = &context->slot[array][slot];

	if (array >= TLB_CLASSES && tlb_slot(windows_of(context)[array - TLB_CLASSES].base) == slot)
		close_window(&windows_of(context)[array - TLB_CLASSES]);
	entries->page[slot] = page;
	entries->addend[slot] = addend;
	if (global) {
		if (!(*flags & SLOT_IN_GLOBAL))
			context->global[array][context->global_count[array]++] = slot;
		*flags |= SLOT_IN_GLOBAL | SLOT_IS_GLOBAL;
	} else {
		if (!(*flags & SLOT_IN_LOCAL))
			context->local[array][context->local_count[array]++] = slot;
		*flags = (*flags | SLOT_IN_LOCAL) & ~SLOT_IS_GLOBAL;
	}
}

/* True where the local APIC's page lies over RAM. */
static inline bool covered_by_apic(const struct cpu *cpu, uint64_t gpa)
{
	return (cpu->msr.apic_base ^ gpa) < PAGE_SIZE && apic_owns(cpu, GPA(gpa));
}

/* SDM, Virtualizing Memory-Mapped APIC Accesses: through EPT (the mapping says so) or without. */
static inline bool is_apic_access(const struct cpu *cpu, const struct page_walk *walk)
{
	return walk->apic_access ||
	       (cpu->apic_access_page && cpu->virt && walk->gpa.v == cpu->apic_access_page);
}

/* SDM, Canonical Addressing. Segment checks come before this; a caller without them gets #GP. */
static inline void check_canonical(struct cpu *cpu, uint64_t gla)
{
	if ((uint64_t)((int64_t)(gla << 16) >> 16) != gla)
		cpu_raise_error(cpu, VECTOR_GP, 0);
}

static void *tlb_miss(struct cpu *cpu, gla_t gla, unsigned size, enum mem_access access, enum tlb_class class,
                      gpa_t *gpa)
{
	struct tlb_state *state = tlb_state_of(cpu);
	struct tlb_context *context = state->current;
	const uint64_t page = gla.v & PAGE_MASK;
	const unsigned offset = gla.v & ~PAGE_MASK, slot = tlb_slot(gla.v);
	struct page_walk walk;
	const struct tlb_entries *reads;
	struct ram_window *ram;
	uint64_t addend, code = 0;
	bool global;
	uint8_t *host;

	check_canonical(cpu, gla.v);
	paging_walk(cpu, &context->walk, gla, access, class, &walk);
	state->table_walks++;
	if (walk.page_shift > PAGE_SHIFT)
		note_large(context, gla.v, walk.page_shift);

	gpa->v = walk.gpa.v | offset;
	if (is_apic_access(cpu, &walk)) {
		state->slow = SLOW_APIC_ACCESS;
		state->slow_l2_gpa = GPA(walk.l2_gpa.v | offset);
		return NULL;
	}
	ram = ram_window_of(cpu, state, walk.gpa.v);
	if (!ram || covered_by_apic(cpu, walk.gpa.v)) {
		state->slow = SLOW_MMIO;
		return NULL;
	}
	host = ram->host + (walk.gpa.v - ram->gpa);
	if (access == ACCESS_WRITE) {
		if (ram->read_only) {
			state->slow = SLOW_ROM;
			return NULL;
		}
		code = bt_code_map_for_writing(cpu, walk.gpa);
	}
	if (cpu->dr7 & 0xff || debugger_watches(cpu)) {
		unsigned watch = watched_bytes(cpu, gla.v, size);

		if (watch) {
			state->slow = watch == 2 ? SLOW_WATCH : SLOW_CODE;
			return watch == 2 || (code & code_granules(offset, size)) ? NULL : host + offset;
		}
	}
	addend = (uintptr_t)host - page;
	global = walk.rights & WALK_GLOBAL;
	if (access != ACCESS_WRITE) {
		fill(context, array_of(ACCESS_READ, class), slot, page, addend, global);
		return host + offset;
	}
	/* Whoever may write may read; the read entry can also be stale where the guest remapped the page. */
	reads = entries_of(context, array_of(ACCESS_READ, class));
	if (reads->page[slot] != page || reads->addend[slot] != addend)
		fill(context, array_of(ACCESS_READ, class), slot, page, addend, global);
	if (code) {
		state->slow = SLOW_CODE;
		return code & code_granules(offset, size) ? NULL : host + offset;
	}
	if (walk.nested_writable &&
	    note_write(state, ram->first_page + ((walk.gpa.v - ram->gpa) >> PAGE_SHIFT), slot))
		fill(context, array_of(ACCESS_WRITE, class), slot, page, addend, global);
	return host + offset;
}

void *tlb_access(struct cpu *cpu, gla_t gla, unsigned size, enum mem_access access, enum tlb_class class,
                 gpa_t *gpa)
{
	struct tlb_context *context = tlb_state_of(cpu)->current;
	void *host = tlb_look_up(entries_of(context, array_of(access, class)), gla.v, size);

	return host ? host : tlb_miss(cpu, gla, size, access, class, gpa);
}

bool tlb_peek(struct cpu *cpu, gla_t gla, enum mem_access access, enum tlb_class class)
{
	struct tlb_state *state = tlb_state_of(cpu);
	struct tlb_context *context = state->current;
	const uint64_t page = gla.v & PAGE_MASK;
	const unsigned slot = tlb_slot(gla.v);
	struct page_walk walk;
	const struct ram_window *ram;

	if (entries_of(context, array_of(access, class))->page[slot] == page)
		return true;
	if (!is_canonical(gla.v) || cpu->dr7 & 0xff || debugger_watches(cpu) || !paging_peek(cpu, &context->walk, gla, access, class, &walk))
		return false;
	ram = ram_window_of(cpu, state, walk.gpa.v);
	if (!ram || covered_by_apic(cpu, walk.gpa.v) || is_apic_access(cpu, &walk))
		return false;
	if (access == ACCESS_WRITE && (ram->read_only || bt_code_map_for_writing(cpu, walk.gpa) ||
				       !note_write(state, ram->first_page + ((walk.gpa.v - ram->gpa) >> PAGE_SHIFT), slot)))
		return false;
	if (walk.page_shift > PAGE_SHIFT)
		note_large(context, gla.v, walk.page_shift);
	fill(context, array_of(access, class), slot, page, (uintptr_t)ram->host + (walk.gpa.v - ram->gpa) - page,
	     walk.rights & WALK_GLOBAL);
	return true;
}

const struct fetch_entry *tlb_fetch(struct cpu *cpu, gla_t gla)
{
	struct tlb_state *state = tlb_state_of(cpu);
	struct tlb_context *context = state->current;
	const unsigned class = cpu->cpl == 3 ? TLB_USER : TLB_SUPER, slot = fetch_slot(gla.v);
	struct fetch_entry *entry = &context->region->tables.fetch[class][slot];
	const uint64_t page = gla.v & PAGE_MASK;
	struct page_walk walk;
	struct ram_window *ram;

	/* The caller is about to fill the jump cache. */
	if (mode_has_jump_cache(cpu->mode))
		context->region->tables.jump_used[mem_class(cpu)] = true;
	if (entry->page == (page | 1))
		return entry;
	if (entry->page & 1)
		context->fetch_evicted[class] = true;

	check_canonical(cpu, gla.v);
	paging_walk(cpu, &context->walk, gla, ACCESS_FETCH, class, &walk);
	state->table_walks++;
	if (walk.page_shift > PAGE_SHIFT)
		note_large(context, gla.v, walk.page_shift);
	if (is_apic_access(cpu, &walk)) {
		uint64_t ignored;

		/* A fetch is never virtualized: this leaves. */
		cpu->virt->apic_access(cpu, GPA(walk.l2_gpa.v | (gla.v & ~PAGE_MASK)), 1, ACCESS_FETCH, &ignored);
		entry = &state->uncached;
	} else if (!context->fetch_listed[class][slot]) {
		context->fetch_listed[class][slot] = true;
		context->fetch_list[class][context->fetch_count[class]++] = slot;
	}
	ram = entry == &state->uncached ? NULL : ram_window_of(cpu, state, walk.gpa.v);
	if (ram && covered_by_apic(cpu, walk.gpa.v))
		ram = NULL;
	entry->page = page | 1;
	entry->gpa = walk.gpa.v;
	entry->host = ram ? ram->host + (walk.gpa.v - ram->gpa) : NULL;
	entry->global = !!(walk.rights & WALK_GLOBAL);
	if (!entry->global)
		context->fetch_local[class] = true;
	mark_fetched(context, class, page);
	if (entry->host)
		bt_note_fetch(cpu, context - state->context, class, context->fetch_generation[class], walk.gpa, page);
	return entry;
}

/*
 * Where the direct exits of blocks lead.
 *
 * Within a page the branch itself is patched. To another page, which may be mapped elsewhere in another address space, it
 * goes through a slot of a table: one for each context or, between global pages, one for all of them. What a slot holds
 * is right for whoever branches to the same linear address in the same mode: branches of code that knows its linear
 * address share the slot of their successor. (A compiler's run takes 64,000 such branches to 22,000 places.) One of them
 * owns it: while nothing is known of the place in a context, all go by the owner's stub.
 *
 * A slot that branches share holds for all of them the same successor, in whose list of incoming links they are.
 */
#include "engine/soft/bt/bt.h"
#include "engine/soft/bt/translate.h"

#define JUMP_OPCODE	   0xe9
#define JUMP_SIZE	   5
#define SHARERS_LOOKED_AT 16
#define LITTLE_CODE_MEMORY (16u << 20)
#define RECLAIM_WAIT	   8192 /* slots wanted in vain until the next try, where few were to be had */

_Static_assert(CONTEXT_LINKS <= UINT16_MAX + 1 && GLOBAL_LINKS <= UINT16_MAX + 1, "block_link.index and the logs");

static bool has_slot(const struct block_link *link)
{
	return link->table != LINK_PATCHED && link->table < LINK_TABLES;
}

static struct link_slots *slots_of(struct bt *bt, const struct block_link *link)
{
	return &bt->slots[link->table];
}

/* Few with little code memory, so that tests run out of them, too. */
static uint32_t slots_max(const struct bt *bt, unsigned table)
{
	uint32_t size = table == LINK_CONTEXT ? CONTEXT_LINKS : GLOBAL_LINKS;

	return bt->code_size < LITTLE_CODE_MEMORY ? bt->code_size >> 12 : size;
}

static void **global_table(struct cpu *cpu, unsigned table)
{
	return table == LINK_GUEST ? cpu->guest_link : cpu->global_link;
}

static unsigned connected_bit(uint64_t linear)
{
	return (linear >> 21) * 0x9e3779b97f4a7c15ull >> 52;
}

_Static_assert(CONNECTED_TO == 1 << 12, "connected_bit() has 12 bits");

/* Of a global link. */
static void note_connected(struct bt *bt, const struct block_link *link, uint64_t linear)
{
	unsigned table = link->table, bit = connected_bit(linear);

	bt->connected_to[table][bit / 64] |= 1ull << bit % 64;
	if (bt->connected_count[table] > CONNECTED_LINKS)
		return;
	if (bt->connected_count[table] < CONNECTED_LINKS)
		bt->connected[table][bt->connected_count[table]] = link->index;
	bt->connected_count[table]++;
}

/* A jump to what stands behind it becomes a NOP: large programs spend their time with branches that are taken. */
static void patch_branch(const struct bt *bt, const struct block_link *link, const uint8_t *code)
{
	static const uint8_t nop[JUMP_SIZE] = { 0x0f, 0x1f, 0x44 };
	uint8_t *patch = link_patch(bt, link), *opcode = patch - 1;

	if (*opcode == JUMP_OPCODE && code == patch + 4 + bt->e.exec_offset) {
		memcpy(opcode, nop, sizeof(nop));
		return;
	}
	if (*opcode == nop[0])
		*opcode = JUMP_OPCODE;
	emit_patch(&bt->e, patch, code);
}

/* Where the link's branch or slot leads from now on, in every context. */
static void point_link(struct bt *bt, const struct block_link *link, void *code)
{
	if (!has_slot(link))
		patch_branch(bt, link, code);
	else if (link->table == LINK_CONTEXT)
		tlb_set_link(bt->cpu, link->index, code);
	else
		global_table(bt->cpu, link->table)[link->index] = code;
}

static void disconnect(struct bt *bt, const struct block_link *link)
{
	point_link(bt, link, has_slot(link) ? slots_of(bt, link)->stub[link->index] : link_stub(bt, link));
}

/* ---- slots ---- */

static void own_slot(struct bt *bt, const struct block_link *link)
{
	struct link_slots *slots = slots_of(bt, link);

	slots->owner[link->index] = place_of(bt, link);
	slots->stub[link->index] = link_stub(bt, link);
	disconnect(bt, link);
}

/* Where a jump or call to the stub stands, behind a NOP, there is room for one through the table. */
static void branch_through_slot(struct bt *bt, const struct block_link *link)
{
	static const int32_t base[LINK_TABLES] = { 0, LINK_TABLE, CPU_FIELD(global_link), CPU_FIELD(guest_link) };
	struct emitter e = bt->e;

	e.p = link_patch(bt, link) - FAR_BRANCH_PATCH;
	e.end = e.p + INSN_ROOM; /* it may stand in another part of the memory than what is written now */
	emit_op(&e, false, 0xff, link->call ? 2 : 4, in_cpu(base[link->table] + 8 * link->index));
}

static void branch_to_stub(struct bt *bt, const struct block_link *link)
{
	static const uint8_t jump[FAR_BRANCH_PATCH] = { FAR_BRANCH_NOP, 0xe9 }, call[FAR_BRANCH_PATCH] = { FAR_BRANCH_NOP, 0xe8 };

	memcpy(link_patch(bt, link) - FAR_BRANCH_PATCH, link->call ? call : jump, FAR_BRANCH_PATCH);
	emit_patch(&bt->e, link_patch(bt, link), link_stub(bt, link));
}

static bool has_same_slot(const struct block_link *a, const struct block_link *b)
{
	return a->table == b->table && a->index == b->index;
}

/* The branch is again as if it had never been taken, also where its block still runs; `to` stays. */
static void leave_slot(struct bt *bt, struct block_link *link)
{
	struct link_slots *slots = slots_of(bt, link);
	const struct block *to = record_at(bt, link->to);
	struct block_link *other;

	if (!--slots->users[link->index]) {
		slots->owner[link->index] = 0;
		slots->free[slots->free_count++] = link->index;
	} else if (slots->owner[link->index] == place_of(bt, link)) {
		/* Where only links that leave are left, it stays as it is until they have left, too. */
		other = to ? record_at(bt, to->incoming) : NULL;
		while (other && (other == link || link_from(other)->dropped || !has_same_slot(other, link)))
			other = record_at(bt, other->next);
		if (other)
			own_slot(bt, other);
	}
	branch_to_stub(bt, link);
	link->table = LINK_FAR;
}

static bool is_shared(struct bt *bt, const struct block_link *link)
{
	return has_slot(link) && slots_of(bt, link)->users[link->index] > 1;
}

/* From everybody who shares the slot that the link owns. */
static void empty_slot(struct bt *bt, struct block_link *owner)
{
	const struct block *to = record_at(bt, owner->to);

	for (struct block_link *link = to ? record_at(bt, to->incoming) : NULL; link && is_shared(bt, owner);
	     link = record_at(bt, link->next))
		if (link != owner && has_same_slot(link, owner))
			leave_slot(bt, link);
	leave_slot(bt, owner);
}

/*
 * No slot is left: a compiler's run may take them all, and keeps them when it has ended. Takes some back that the current
 * context has not used since its links were reset; not all, for the compiler may run again. False where there is none.
 */
static bool reclaim_slots(struct bt *bt)
{
	struct link_slots *slots = &bt->slots[LINK_CONTEXT];
	void *const *present = bt->cpu->region->tables.link;
	uint32_t wanted = slots_max(bt, LINK_CONTEXT) / 8, freed = 0;

	if (bt->reclaim_wait) {
		bt->reclaim_wait--;
		return false;
	}
	tlb_reset_other_links(bt->cpu);
	for (uint32_t looked_at = 0; looked_at < slots->used && freed < wanted; looked_at++) {
		uint32_t index = bt->reclaim_next++ % slots->used;

		if (!slots->owner[index] || present[index] != slots->stub[index])
			continue;
		empty_slot(bt, record_at(bt, slots->owner[index]));
		freed++;
	}
	if (freed < wanted)
		bt->reclaim_wait = RECLAIM_WAIT;
	return freed;
}

/* A link with a slot that serves `link`, too, or NULL. Only what knows its linear address, at both ends, may share. */
static const struct block_link *find_sharer(struct bt *bt, const struct block_link *link, unsigned table, const struct block *to)
{
	const struct block_link *other = record_at(bt, to->incoming);

	if (!to->linear || !link_from(link)->linear || bt->cpu->tune_off & ENGINE_TUNE_SHARED_LINKS)
		return NULL;
	for (unsigned i = 0; other && i < SHARERS_LOOKED_AT; other = record_at(bt, other->next), i++)
		if (other->table == table && other->flags == link->flags && link_key(other) == link_key(link) &&
		    link_from(other)->linear)
			return other;
	return NULL;
}

/* A slot for a branch that is taken for the first time; unconnected, if it is nobody else's. False where none is left. */
static bool take_slot(struct bt *bt, struct block_link *link, const struct block *to)
{
	unsigned table = !link->global ? LINK_CONTEXT : link_key(link) & MODE_NONROOT ? LINK_GUEST : LINK_GLOBAL;
	const struct block_link *sharer = find_sharer(bt, link, table, to);
	struct link_slots *slots = &bt->slots[table];

	if (!sharer && !slots->free_count && slots->used >= slots_max(bt, table) && (table != LINK_CONTEXT || !reclaim_slots(bt)))
		return false;
	link->table = table;
	if (sharer) {
		link->index = sharer->index;
		slots->users[link->index]++;
	} else {
		link->index = slots->free_count ? slots->free[--slots->free_count] : slots->used++;
		slots->users[link->index] = 1;
		own_slot(bt, link);
	}
	branch_through_slot(bt, link);
	return true;
}

void bt_reset_links(struct cpu *cpu, struct tlb_tables *tables)
{
	struct bt *bt = cpu ? cpu->bt : NULL;
	const struct link_slots *slots = bt ? &bt->slots[LINK_CONTEXT] : NULL;

	if (!bt || !slots->stub)
		return;
	bt->link_resets++;
	if (tables->link_log.count > TLB_LOG_MAX)
		memcpy(tables->link, slots->stub, slots->used * sizeof(void *));
	else
		for (unsigned i = 0; i < tables->link_log.count; i++)
			tables->link[tables->link_log.index[i]] = slots->stub[tables->link_log.index[i]];
	tables->link_log.count = 0;
}

void bt_reset_global_links(struct cpu *cpu, bool nonroot)
{
	unsigned table = nonroot ? LINK_GUEST : LINK_GLOBAL;
	struct bt *bt = cpu ? cpu->bt : NULL;
	uint32_t count;
	void **link, **stub;

	if (!bt)
		return;
	bt->link_resets++;
	count = bt->connected_count[table];
	if (!count)
		return;
	link = global_table(cpu, table);
	stub = bt->slots[table].stub;
	if (count > CONNECTED_LINKS)
		memcpy(link, stub, bt->slots[table].used * sizeof(void *));
	for (uint32_t i = 0; i < count && count <= CONNECTED_LINKS; i++)
		link[bt->connected[table][i]] = stub[bt->connected[table][i]];
	bt->connected_count[table] = 0;
	memset(bt->connected_to[table], 0, sizeof(bt->connected_to[table]));
}

void bt_reset_global_links_to(struct cpu *cpu, uint64_t gla, bool nonroot)
{
	unsigned table = nonroot ? LINK_GUEST : LINK_GLOBAL, bit = connected_bit(gla);

	if (cpu && cpu->bt && cpu->bt->connected_to[table][bit / 64] >> bit % 64 & 1)
		bt_reset_global_links(cpu, nonroot);
}

/* ---- links ---- */

static void unlink_outgoing(struct bt *bt, struct block_link *link)
{
	struct block *to = record_at(bt, link->to);
	record_place place = place_of(bt, link);
	struct block_link *before;

	if (!to)
		return;
	before = record_at(bt, to->incoming);
	if (before == link) {
		to->incoming = link->next;
	} else {
		while (before && before->next != place)
			before = record_at(bt, before->next);
		if (before)
			before->next = link->next;
	}
	link->to = 0;
}

void block_link_to(struct bt *bt, struct block_link *link, struct block *to)
{
	uint8_t *code = link->flags_in_cpu ? block_code_mem(bt, to) : block_code(bt, to);
	record_place place = place_of(bt, to);

	if (link_from(link)->dropped || to->dropped || link->table == LINK_CACHED)
		return;
	if (link->to && link->to != place) {
		/* another context's */
		if (is_shared(bt, link))
			leave_slot(bt, link);
		else
			disconnect(bt, link);
		unlink_outgoing(bt, link);
	}
	if (link->table == LINK_FAR && !take_slot(bt, link, to)) {
		block_link_through_cache(bt, link);
		return;
	}
	if (!link->to) {
		link->to = place;
		link->next = to->incoming;
		to->incoming = place_of(bt, link);
	}
	if (link->table == LINK_CONTEXT) {
		struct tlb_tables *tables = &bt->cpu->region->tables;

		tables->link[link->index] = code;
		tlb_log_add(&tables->link_log, link->index);
		return;
	}
	point_link(bt, link, code);
	if (has_slot(link))
		note_connected(bt, link, to->linear);
}

#define THROUGH_CACHE_SIZE (64 + INSN_ROOM) /* bytes of code, at most, and what the last instruction asks for */

void block_link_through_cache(struct bt *bt, struct block_link *link)
{
	struct code_part *part = present_part(bt);
	struct emitter *e = &bt->cold;

	if (link_from(link)->dropped || link->table == LINK_CACHED || has_slot(link) || e->end - e->p < THROUGH_CACHE_SIZE)
		return;
	unlink_outgoing(bt, link);
	link->index = link->table;
	link->table = LINK_CACHED;
	link->next = part->cached;
	part->cached = place_of(bt, link);
	emit_patch_here(e, link_patch(bt, link));
	if (!link->flags_in_cpu)
		flags_emit_save(e, H_R10);
	/* The target's page is the running one, or the branch has made it so. */
	emit_load(e, H_R11, in_cpu(CPU_FIELD(rip_page)));
	emit_lea(e, H_R11, at(H_R11, link->target));
	emit_jmp(e, bt->jump_cached[link->class]);
}

/* Nobody leads straight to the block any more. A slot that was shared remains with its owner. */
static void unlink_incoming(struct bt *bt, struct block *block)
{
	for (struct block_link *link = record_at(bt, block->incoming); link; link = record_at(bt, link->next)) {
		link->to = 0;
		if (link_from(link)->leaving)
			continue; /* it leaves its slot itself */
		if (is_shared(bt, link) && slots_of(bt, link)->owner[link->index] != place_of(bt, link))
			leave_slot(bt, link);
		else
			disconnect(bt, link);
	}
	block->incoming = 0;
}

void links_drop(struct bt *bt, struct block *block)
{
	unlink_incoming(bt, block);
	for (unsigned i = 0; i < block->link_count; i++) {
		struct block_link *link = &block->link[i];

		/* The block may still be running: it must leave. */
		if (has_slot(link))
			leave_slot(bt, link);
		else
			disconnect(bt, link);
		unlink_outgoing(bt, link);
	}
}

/* All that leave, out of the block's list at once. */
static void unlink_leaving(struct bt *bt, struct block *to)
{
	record_place next, kept = 0;
	struct block_link *last = NULL;

	for (struct block_link *link = record_at(bt, to->incoming); link; link = record_at(bt, link->next))
		if (link_from(link)->leaving && has_slot(link))
			leave_slot(bt, link);
	for (struct block_link *link = record_at(bt, to->incoming); link; link = record_at(bt, next)) {
		next = link->next;
		if (link_from(link)->leaving) {
			link->to = 0;
			continue;
		}
		if (last)
			last->next = place_of(bt, link);
		else
			kept = place_of(bt, link);
		last = link;
	}
	if (last)
		last->next = 0;
	to->incoming = kept;
}

void links_leave(struct bt *bt, struct block *block)
{
	unlink_incoming(bt, block);
	for (unsigned i = 0; i < block->link_count; i++) {
		struct block_link *link = &block->link[i];

		if (link->table == LINK_CACHED)
			continue;
		if (link->to)
			unlink_leaving(bt, record_at(bt, link->to));
		else if (has_slot(link))
			leave_slot(bt, link);
	}
}

void links_forget_cached(struct bt *bt, struct code_part *emptied)
{
	for (struct code_part *part = bt->part; part < bt->part + bt->part_count; part++) {
		struct block_link *link = record_at(bt, part->cached);

		part->cached = 0;
		while (link) {
			struct block_link *next = record_at(bt, link->next);

			if (part == emptied && !link_from(link)->dropped) {
				patch_branch(bt, link, link_stub(bt, link));
				link->table = link->index;
			} else if (!link_from(link)->dropped) {
				link->next = part->cached;
				part->cached = place_of(bt, link);
			}
			link = next;
		}
	}
}

void links_flush(struct bt *bt)
{
	for (unsigned table = LINK_CONTEXT; table < LINK_TABLES; table++)
		bt->slots[table].used = bt->slots[table].free_count = 0;
	bt->reclaim_wait = bt->reclaim_next = 0;
}

/*
 * The code cache: blocks by guest-physical address and key, and their pages.
 *
 * A dropped block's memory stays valid until its part of the memory is emptied, also while it is being executed.
 */
#include "engine/soft/bt/bt.h"
#include "engine/soft/bt/code_table.h"
#include "engine/soft/bt/coherence.h"
#include "engine/soft/bt/decode.h"
#include "engine/soft/bt/return_stack.h"
#include "engine/soft/bt/translate.h"

struct block_extra *block_make_extra(struct bt *bt, struct block *block)
{
	struct block_extra *extra = record_at(bt, block->extra);

	if (extra)
		return extra;
	extra = bt_alloc(bt, sizeof(*extra));
	if (!extra)
		return NULL;
	*extra = (struct block_extra){ 0 };
	block->extra = place_of(bt, extra);
	return extra;
}

/* Other vCPUs look at them before they store. */
static void set_granules(struct page_info *info, uint64_t granules)
{
	__atomic_store_n(&info->granules, granules, __ATOMIC_RELEASE);
}

/* The page's code is just that of these granules. */
static void settle(struct bt *bt, uint64_t page, uint64_t granules)
{
	set_granules(&bt->pages[page], granules);
	if (!granules && bt->cpu->coherence)
		coherence_release(bt->cpu, page);
}

static struct block_ref *first_of_slot(struct bt *bt, uint64_t gpa, uint32_t key)
{
	return &code_slot(bt, code_ident(gpa, key))->first;
}

static uint32_t tag_of(uint64_t gpa, uint32_t key, uint64_t linear_key)
{
	return (gpa ^ linear_key * 31 ^ (uint64_t)key << 32) * 0x9e3779b97f4a7c15ull >> 33;
}

struct block *block_find(struct bt *bt, uint64_t gpa, uint32_t key, uint64_t linear)
{
	uint64_t linear_key = block_linear_key(bt, linear, key);
	uint32_t tag = tag_of(gpa, key, linear_key);
	struct block_ref ref = *first_of_slot(bt, gpa, key);

	while (ref.at && (ref.tag == tag || ref.more)) {
		struct block *b = record_at(bt, ref.at);

		if (ref.tag == tag && b->gpa == gpa && b->key == key && b->linear == linear_key)
			return b;
		ref = b->slot_next;
	}
	return NULL;
}

void block_hold_page(struct bt *bt, unsigned which, uint64_t page)
{
	if (page >= bt->page_count)
		return;
	if (!bt->pages[page].granules)
		tlb_revoke_write(bt->cpu, GPA(page << PAGE_SHIFT));
	if (!bt->cpu->coherence)
		return;
	__atomic_store_n(&bt->translating[which], page + 1, __ATOMIC_SEQ_CST);
	coherence_hold(bt->cpu, page);
}

void block_settle_pages(struct bt *bt)
{
	for (unsigned which = 0; which < 2; which++) {
		uint64_t page = bt->translating[which] - 1;

		if (!bt->translating[which])
			continue;
		if (!bt->pages[page].granules)
			coherence_release(bt->cpu, page);
		__atomic_store_n(&bt->translating[which], 0, __ATOMIC_RELEASE);
	}
}

/*
 * The granules of the page that the block depends on. An instruction reaches at most 14 bytes into the second page: its
 * first granule.
 */
static uint64_t granules_in(const struct bt *bt, const struct block *block, uint64_t page)
{
	const struct block_extra *extra = record_at(bt, block->extra);
	uint64_t granules;

	if (block_is_second_page(bt, block, page))
		return 1;
	if (extra && extra->granules)
		return extra->granules;
	granules = range_granules(block_own_bytes(block));
	for (unsigned i = 0; i < BLOCK_RANGES_AHEAD; i++)
		granules |= range_granules(block->ahead[i]);
	return block->crosses_page && block_gpa2(bt, block) >> PAGE_SHIFT == page ? granules | 1 : granules;
}

static void add_to_page(struct bt *bt, struct block *block, uint64_t page)
{
	struct page_info *info = &bt->pages[page];

	*block_next_in_page(bt, block, page) = info->blocks;
	info->blocks = place_of(bt, block);
	set_granules(info, info->granules | granules_in(bt, block, page));
}

/* Is it in the lists of two pages? */
static bool has_second_page(const struct bt *bt, const struct block *block)
{
	return block->crosses_page && block_is_second_page(bt, block, block_gpa2(bt, block) >> PAGE_SHIFT);
}

void block_insert(struct bt *bt, struct block *block)
{
	struct block_ref *first = first_of_slot(bt, block->gpa, block->key);
	struct code_part *part = present_part(bt);

	part->in_order[part->count++] = place_of(bt, block); /* a native fault looks for it there */
	if (block->transient)
		return;
	block->slot_next = *first;
	*first = (struct block_ref){ .at = place_of(bt, block), .tag = tag_of(block->gpa, block->key, block->linear),
				     .more = first->at != 0 };
	add_to_page(bt, block, block->gpa >> PAGE_SHIFT);
	if (has_second_page(bt, block))
		add_to_page(bt, block, block_gpa2(bt, block) >> PAGE_SHIFT);
}

void block_connect_single(struct bt *bt, struct block *block)
{
	if (block->key != (bt->single.mode | KEY_NO_GROUPS) || block->gpa != bt->single.gpa ||
	    block->linear != block_linear_key(bt, bt->single.linear, block->key) || block->crosses_page || block->transient)
		return;
	if (bt->single_way_count == SINGLE_WAYS)
		block_forget_singles(bt);
	bt->single_way[bt->single_way_count++] =
		(struct single_way){ .patch = bt->single.patch, .to = place_of(bt, block) };
	block->has_single_ways = true;
	emit_patch(&bt->e, bt->code_rw + bt->single.patch, block_code_mem(bt, block));
}

/* Goes on behind the branch, to C. */
static void end_single_way(struct bt *bt, const struct single_way *way)
{
	struct block *to = record_at(bt, way->to);

	to->has_single_ways = false;
	emit_patch(&bt->e, bt->code_rw + way->patch, bt->code_exec + way->patch + 4);
}

void block_forget_singles(struct bt *bt)
{
	for (uint32_t i = 0; i < bt->single_way_count; i++)
		end_single_way(bt, &bt->single_way[i]);
	bt->single_way_count = 0;
}

static void unlink_singles(struct bt *bt, struct block *block)
{
	uint32_t kept = 0;

	if (!block->has_single_ways)
		return;
	for (uint32_t i = 0; i < bt->single_way_count; i++) {
		if (bt->single_way[i].to == place_of(bt, block))
			end_single_way(bt, &bt->single_way[i]);
		else
			bt->single_way[kept++] = bt->single_way[i];
	}
	bt->single_way_count = kept;
}

static void remove_from_list(struct bt *bt, struct block *block, uint64_t page)
{
	record_place *next = &bt->pages[page].blocks, place = place_of(bt, block);

	while (*next && *next != place)
		next = block_next_in_page(bt, record_at(bt, *next), page);
	if (*next)
		*next = *block_next_in_page(bt, block, page);
}

/* What goes through site[] finds its way anew. */
static void forget_sites(struct bt *bt)
{
	tlb_empty_sites(bt->cpu, false);
	memset(bt->cpu->site_targets, 0, sizeof(bt->cpu->site_targets));
}

static void leave_table(struct bt *bt, struct block *block)
{
	struct block_ref *ref = first_of_slot(bt, block->gpa, block->key);
	record_place place = place_of(bt, block);

	while (ref->at && ref->at != place)
		ref = &((struct block *)record_at(bt, ref->at))->slot_next;
	if (ref->at)
		*ref = block->slot_next;
	code_table_forget(bt, block);
}

void block_drop(struct bt *bt, struct block *block)
{
	if (block->dropped)
		return;
	block->dropped = true;
	bt->drops++;
	leave_table(bt, block);
	links_drop(bt, block);
	unlink_singles(bt, block);
	if (is_site_target(bt->cpu, block_code_mem(bt, block)))
		forget_sites(bt);
	if (mode_has_jump_cache(block->key) && !(block->key & KEY_ONE))
		tlb_forget_jump(bt->cpu, MODE_CLASS(block->key), block->linear ? block->linear : block->gpa & ~PAGE_MASK,
				!block->linear, block_code_mem(bt, block));
	remove_from_list(bt, block, block->gpa >> PAGE_SHIFT);
	if (has_second_page(bt, block))
		remove_from_list(bt, block, block_gpa2(bt, block) >> PAGE_SHIFT);
}

/* All that leave, out of the page's list at once. */
static void unlist_leaving(struct bt *bt, uint64_t page)
{
	record_place *next = &bt->pages[page].blocks;
	uint64_t granules = 0;

	while (*next) {
		struct block *block = record_at(bt, *next);
		record_place *after = block_next_in_page(bt, block, page);

		if (block->leaving) {
			block->unlisted |= !block_is_second_page(bt, block, page);
			*next = *after;
		} else {
			granules |= granules_in(bt, block, page);
			next = after;
		}
	}
	settle(bt, page, granules);
}

void block_leave(struct bt *bt, struct block *block)
{
	links_leave(bt, block);
	if (block->transient)
		return;
	leave_table(bt, block);
	if (!block->unlisted)
		unlist_leaving(bt, block->gpa >> PAGE_SHIFT);
	if (has_second_page(bt, block))
		unlist_leaving(bt, block_gpa2(bt, block) >> PAGE_SHIFT);
}

uint64_t bt_code_map(struct cpu *cpu, gpa_t gpa)
{
	uint64_t page = gpa.v >> PAGE_SHIFT;

	if (cpu->coherence && cpu->coherence->writers)
		return coherence_code_map(cpu, page);
	return page < cpu->bt->page_count ? cpu->bt->pages[page].granules : 0;
}

uint64_t bt_code_map_for_writing(struct cpu *cpu, gpa_t gpa)
{
	uint64_t page = gpa.v >> PAGE_SHIFT;

	if (cpu->coherence && cpu->coherence->writers && page < cpu->coherence->page_count)
		coherence_will_write(cpu, page);
	return bt_code_map(cpu, gpa);
}

static bool overlap(const struct byte_range *range, unsigned first, unsigned end)
{
	return first < range->end && range->first < end;
}

/* Does the block depend on any of the bytes [first, end) of the page? */
static bool depends_on(const struct bt *bt, const struct block *block, uint64_t page, unsigned first, unsigned end)
{
	struct byte_range own = block_own_bytes(block);

	if (block->crosses_page && block_gpa2(bt, block) >> PAGE_SHIFT == page && first < INSN_MAX_LENGTH)
		return true;
	if (block->gpa >> PAGE_SHIFT != page)
		return false;
	for (unsigned i = 0; i < BLOCK_RANGES_AHEAD; i++)
		if (overlap(&block->ahead[i], first, end))
			return true;
	return overlap(&own, first, end);
}

/* Drops the blocks that depend on any granule of `hit`, and on any of the bytes [first, end) among them. */
static void drop_blocks(struct bt *bt, uint64_t page, uint64_t hit, unsigned first, unsigned end)
{
	struct block *next;
	uint64_t granules = 0;
	bool dropped = false;

	if (!(bt->pages[page].granules & hit))
		return;
	for (struct block *b = record_at(bt, bt->pages[page].blocks); b; b = next) {
		uint64_t mine = granules_in(bt, b, page);

		next = record_at(bt, *block_next_in_page(bt, b, page));
		if (mine & hit && depends_on(bt, b, page, first, end)) {
			block_drop(bt, b);
			dropped = true;
		} else {
			granules |= mine;
		}
	}
	settle(bt, page, granules);
	/* The running block may be among them. */
	if (dropped)
		cpu_poll_soon(bt->cpu);
}

void block_drop_granules(struct bt *bt, uint64_t page, uint64_t hit)
{
	drop_blocks(bt, page, hit, 0, PAGE_SIZE);
}

/*
 * Loaders keep variables beside their code, and write them at every call of the firmware: only blocks of the
 * very bytes are dropped. The other vCPUs are told of granules.
 */
void bt_code_written(struct cpu *cpu, gpa_t gpa, unsigned size)
{
	struct bt *bt = cpu->bt;
	uint64_t page = gpa.v >> PAGE_SHIFT, hit = 0;
	unsigned first = gpa.v & (PAGE_SIZE - 1), end = first + size;

	if (!size || page >= bt->page_count)
		return;
	for (unsigned g = first >> 6; g <= (end - 1) >> 6 && g < 64; g++)
		hit |= 1ull << g;
	if (cpu->coherence && cpu->coherence->writers)
		coherence_tell(cpu, page, hit);
	drop_blocks(bt, page, hit, first, end);
}

void block_forget_page(struct bt *bt, uint64_t page)
{
	bt->pages[page].blocks = 0;
	settle(bt, page, 0);
}

void bt_memory_gone(struct cpu *cpu, gpa_t gpa, uint64_t size)
{
	struct bt *bt = cpu->bt;
	uint64_t end = (gpa.v + size) >> PAGE_SHIFT;

	for (uint64_t page = gpa.v >> PAGE_SHIFT; page < end && page < bt->page_count; page++) {
		if (bt->pages[page].granules) {
			bt_flush(bt);
			return;
		}
	}
}

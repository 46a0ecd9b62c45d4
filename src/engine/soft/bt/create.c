/* Set-up of the translator: code memory (two mappings of one file, W^X), tables, and the thread's signals. */
#include <cpuid.h>
#include <errno.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <unistd.h>

#include "engine/soft/bt/bt.h"
#include "engine/soft/bt/code_table.h"
#include "engine/soft/bt/native_signal.h"
#include "engine/soft/bt/return_stack.h"
#include "util/error.h"

/*
 * A compiler's run leaves about 38 MiB of main lines, 22 MiB aside and 25 MiB of records. This holds them, and the
 * process stays under 160 MB above the guest's RAM.
 */
#define CODE_SIZE	(70u << 20)
#define MAIN_OF(code)	((code) / 64 * 41)
#define ARENA_OF(code)	((code) / 16 * 7) /* bytes of block records beside so much code */
#define BLOCKS_OF(code) ((code) / 192)
#define SEEN_SIZE(bt)	((bt)->page_count * TLB_CONTEXTS * 2 * sizeof(uint64_t)) /* touched for code only */

_Static_assert(ARENA_OF((uint64_t)ENGINE_CODE_MEMORY_MAX) / RECORD_UNIT <= 1ull << LINK_TO_BITS, "places fit into links");
_Static_assert(MAIN_OF(ENGINE_CODE_MEMORY_MIN) >= BLOCK_BUFFER + (12u << 10) &&
	       ENGINE_CODE_MEMORY_MIN - MAIN_OF(ENGINE_CODE_MEMORY_MIN) >= BLOCK_BUFFER_ASIDE + (4u << 10) &&
	       CODE_PART_MIN >= ENGINE_CODE_MEMORY_MIN,
	       "room for the thunks and a few blocks, in each part");

/* The vCPU that runs on this thread: what a native fault belongs to. */
static _Thread_local struct cpu *running;

static void *map_anonymous(size_t size)
{
	void *p = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	return p == MAP_FAILED ? NULL : p;
}

#define LINK_SLOTS (CONTEXT_LINKS > GLOBAL_LINKS ? CONTEXT_LINKS : GLOBAL_LINKS) /* of any link table */

#ifndef MADV_COLLAPSE
#define MADV_COLLAPSE 25
#endif

/* Address space for `size` bytes, whole pages, from the start of a huge page. NULL: there is none. */
static uint8_t *reserve_aligned(size_t size)
{
	uint8_t *room = mmap(NULL, size + HUGE_PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	uint8_t *start = (uint8_t *)(((uintptr_t)room + HUGE_PAGE - 1) & ~(HUGE_PAGE - 1));

	if (room == MAP_FAILED)
		return NULL;
	if (start > room)
		munmap(room, start - room);
	munmap(start + size, room + HUGE_PAGE - start);
	return start;
}

/*
 * A table that is looked into at random: of the host's small pages every look would also miss its data TLB. The rest of
 * the last huge page is not asked for.
 */
static void *map_huge(size_t size)
{
	uint8_t *start;

	size = (size + PAGE_SIZE - 1) & PAGE_MASK;
	start = reserve_aligned(size);
	if (!start)
		return NULL;
	if (mprotect(start, size, PROT_READ | PROT_WRITE)) {
		munmap(start, size);
		return NULL;
	}
	madvise(start, size, MADV_HUGEPAGE);
	return start;
}

/* Maps the file, `size` bytes, at an address where it can be held in huge pages. NULL: no room. */
static uint8_t *map_file_aligned(int fd, size_t size, int protection)
{
	uint8_t *start = reserve_aligned(size);

	if (!start || mmap(start, size, protection, MAP_SHARED | MAP_FIXED, fd, 0) != MAP_FAILED)
		return start;
	munmap(start, size);
	return NULL;
}

/*
 * Translated code is many times the size of what it was made of: with small pages every other branch of a large program
 * would miss the host's instruction TLB. A host that cannot do this runs on with small ones.
 */
static void make_huge(const uint8_t *used, const uint8_t *end, uint8_t **made)
{
	while (*made < end && *made < used + HUGE_AHEAD) {
		if ((size_t)(end - *made) >= HUGE_PAGE) {
			if (*made >= used)
				**made = 0; /* where nothing is present nothing is collapsed */
			madvise(*made, HUGE_PAGE, MADV_COLLAPSE);
		}
		*made += HUGE_PAGE;
	}
}

void bt_make_code_huge(struct bt *bt)
{
	make_huge(bt->e.p, bt->cold_start, &bt->huge_end);
	make_huge(bt->cold.p, bt->code_rw + bt->code_size, &bt->cold_huge_end);
}

static int map_code(struct bt *bt)
{
	int fd = memfd_create("nestor-code", MFD_CLOEXEC);
	size_t size = bt->code_size;

	if (fd < 0 || ftruncate(fd, size) < 0) {
		if (fd >= 0)
			close(fd);
		return -errno;
	}
	bt->code_rw = map_file_aligned(fd, size, PROT_READ | PROT_WRITE);
	bt->code_exec = map_file_aligned(fd, size, PROT_READ | PROT_EXEC);
	close(fd);
	if (!bt->code_rw || !bt->code_exec)
		return -ENOMEM;
	bt->cold_start = bt->code_rw + MAIN_OF(size);
	if (size >= 8 * HUGE_PAGE)
		bt->cold_start = (uint8_t *)((uintptr_t)bt->cold_start & ~(HUGE_PAGE - 1));
	bt->huge_end = bt->code_rw;
	bt->cold_huge_end = bt->cold_start;
	bt->e = (struct emitter){ .p = bt->code_rw, .end = bt->cold_start, .exec_offset = bt->code_exec - bt->code_rw };
	bt->cold = (struct emitter){ .p = bt->cold_start, .end = bt->code_rw + size, .exec_offset = bt->e.exec_offset };
	return 0;
}

/* Code above, in memory that a device maps there, is translated anew each time. */
uint64_t bt_page_count(const struct guest_memory *memory)
{
	uint64_t end = UINT64_C(1) << 32; /* firmware, and BARs with option ROMs */

	for (unsigned i = 0; i < memory->slot_count; i++)
		if (memory->slot[i].gpa + memory->slot[i].size > end)
			end = memory->slot[i].gpa + memory->slot[i].size;
	return end >> PAGE_SHIFT;
}

int bt_create(struct cpu *cpu, size_t code_memory)
{
	size_t code_size = code_memory ? code_memory : CODE_SIZE;
	struct bt *bt = calloc(1, sizeof(*bt));
	bool has_tables = true;
	unsigned a, b, c, d;

	if (!bt)
		return error_set(ENOMEM, "not enough memory for the translator");
	cpu->bt = bt;
	bt->cpu = cpu;
	bt->page_count = bt_page_count(cpu->memory);
	bt->code_size = code_size;
	cpu->records = bt->arena_start = map_huge(ARENA_OF(code_size));
	bt->in_order_max = BLOCKS_OF(code_size);
	bt->in_order = map_anonymous(bt->in_order_max * sizeof(*bt->in_order));
	bt->code_table = cpu->code_table = map_huge(CODE_TABLE_SIZE);
	bt->pages = map_anonymous(bt->page_count * sizeof(*bt->pages));
	bt->seen = map_anonymous(SEEN_SIZE(bt));
	bt->aliased = map_anonymous(bt->page_count / 8 + 1);
	bt->shapes = shape_cache_create(cpu->model);
	for (unsigned table = LINK_CONTEXT; table < LINK_TABLES; table++) {
		struct link_slots *slots = &bt->slots[table];

		slots->stub = map_anonymous(LINK_SLOTS * sizeof(*slots->stub));
		slots->owner = map_anonymous(LINK_SLOTS * sizeof(*slots->owner));
		slots->users = map_anonymous(LINK_SLOTS * sizeof(*slots->users));
		slots->free = map_anonymous(LINK_SLOTS * sizeof(*slots->free));
		has_tables = has_tables && slots->stub && slots->owner && slots->users && slots->free;
	}
	if (!bt->arena_start || !bt->in_order || !bt->code_table || !bt->pages || !bt->seen || !bt->aliased || !bt->shapes ||
	    !has_tables || map_code(bt) < 0 ||
	    return_stack_create(cpu) < 0) {
		bt_destroy(cpu);
		return error_set(ENOMEM, "not enough memory for the translator's tables");
	}
	bt->arena_end = bt->arena_start + ARENA_OF(code_size);
	cpu->code = bt->code_exec;
	bt->host_bextr = __get_cpuid_count(7, 0, &a, &b, &c, &d) && b & bit_BMI && !(cpu->tune_off & ENGINE_TUNE_BEXTR);
	bt_make_code_huge(bt);
	bt_emit_thunks(bt);
	bt->part_count = code_size / CODE_PART_MIN < CODE_PARTS ? code_size / CODE_PART_MIN : CODE_PARTS;
	if (!bt->part_count)
		bt->part_count = 1;
	code_parts_lay_out(bt);
	return_stack_set_bottom(cpu, bt->return_without_call);
	cpu->site_empty = bt->site_empty;
	tlb_empty_sites(cpu, true);
	return 0;
}

static void unmap(void *p, size_t size)
{
	if (p)
		munmap(p, size);
}

void bt_destroy(struct cpu *cpu)
{
	struct bt *bt = cpu->bt;

	if (!bt)
		return;
	if (cpu->trace & ENGINE_TRACE_PERF)
		bt_write_perf_map(bt);
	unmap(bt->arena_start, ARENA_OF(bt->code_size));
	unmap(bt->in_order, bt->in_order_max * sizeof(*bt->in_order));
	unmap(bt->code_table, CODE_TABLE_SIZE);
	unmap(bt->seen, SEEN_SIZE(bt));
	unmap(bt->aliased, bt->page_count / 8 + 1);
	unmap(bt->pages, bt->page_count * sizeof(*bt->pages));
	for (unsigned table = LINK_CONTEXT; table < LINK_TABLES; table++) {
		struct link_slots *slots = &bt->slots[table];

		unmap(slots->stub, LINK_SLOTS * sizeof(*slots->stub));
		unmap(slots->owner, LINK_SLOTS * sizeof(*slots->owner));
		unmap(slots->users, LINK_SLOTS * sizeof(*slots->users));
		unmap(slots->free, LINK_SLOTS * sizeof(*slots->free));
	}
	unmap(bt->code_rw, bt->code_size);
	unmap(bt->code_exec, bt->code_size);
	return_stack_destroy(cpu);
	shape_cache_destroy(bt->shapes);
	free(bt);
	cpu->bt = NULL;
}

/* ---- native faults ---- */

static const struct native_site *site_at(const struct bt *bt, const struct block *block, const uint8_t *address)
{
	const struct block_extra *extra = record_at(bt, block->extra);
	const struct native_sites *sites = extra ? record_at(bt, extra->sites) : NULL;

	for (uint32_t i = 0; sites && i < sites->count; i++)
		if (block_code_mem(bt, block) + sites->site[i].code_offset == address)
			return &sites->site[i];
	return NULL;
}

bool native_fault_redirect(uint64_t host_rip, unsigned trap, uint64_t rflags, struct native_redirect *redirect)
{
	struct cpu *cpu = running;
	struct block *block = cpu ? block_at(cpu->bt, (const uint8_t *)host_rip) : NULL;
	const struct native_site *site = block ? site_at(cpu->bt, block, (const uint8_t *)host_rip) : NULL;

	if (!site)
		return false;
	*redirect = (struct native_redirect){ .exchange = { { site->spilled, NULL, &cpu->scratch[0] },
							    { site->spilled2, NULL, &cpu->scratch[1] } },
					      .r10 = (uintptr_t)site,
					      .rip = (uintptr_t)cpu->bt->native_fault };
	const struct block_extra *extra = record_at(cpu->bt, block->extra);

	for (unsigned i = 0; i < LODGERS_MAX; i++) {
		struct native_exchange *exchange = &redirect->exchange[2 + i];

		*exchange = (struct native_exchange){ .host = H_NONE };
		if (extra && i < extra->lodgers)
			*exchange = (struct native_exchange){ extra->lodger[i].host, &cpu->gpr[extra->lodger[i].guest],
							      &cpu->gpr[residence_owner(extra->lodger[i].host)] };
	}
	cpu->scratch[2] = trap;
	if (site->flags_in_host)
		cpu_set_arithmetic(cpu, FLAGS_ARITHMETIC, rflags);
	return true;
}

/* Async-signal-safe: copies words. What the interrupted code is just connecting, the next tick disconnects. */
void native_rescue(uint64_t stack_pointer)
{
	struct cpu *cpu = running;

	if (!cpu || !cpu->bt)
		return;
	bt_reset_links(cpu, &cpu->region->tables);
	for (unsigned class = 0; class < TLB_CLASSES; class++)
		for (unsigned i = 0; i < CALL_SITES; i++)
			cpu->region->tables.site[class][i].rip = SITE_EMPTY;
	cpu->bt->rescued = true; /* what goes there before the entries' code is empty, too, is gone astray by its own doing */
	bt_reset_global_links(cpu, false);
	bt_reset_global_links(cpu, true);
	return_stack_wipe(cpu, stack_pointer);
}

uint64_t native_stack_overflow(uint64_t address)
{
	if (!running || !return_stack_is_guard(running, address))
		return 0;
	return_stack_forget(running);
	return (uint64_t)running->return_bottom;
}

int bt_thread_init(struct cpu *cpu)
{
	if (native_signals_init() < 0)
		return error_set(ENOMEM, "no memory for a signal stack");
	prctl(PR_SET_TIMERSLACK, 1000, 0, 0, 0); /* short sleeps while others are waited for: wait.h */
	running = cpu;
	return 0;
}

/*
 * The binary translator: guest blocks -> host code.
 *
 * Guest registers live in host registers of the same name, with these exceptions:
 *
 *	host rsp       the return stack (return_stack.h); guest rsp is in host r9
 *	host r8        the current TLB context's region: struct cpu's alias, then the TLB (tlb.h)
 *	host r10, r11  scratch
 *
 * Guest r8 to r11, the least used ones, are in struct cpu. The region could also be reached through gs, which takes no
 * register; but each access would be longer by two bytes, and on some processors a cycle, and a host without FSGSBASE
 * takes a system call for each change of context.
 *
 * The arithmetic flags are in the host's flags or in cpu->cc_*, and at every point of a block the translator
 * knows where (enum flags_place). A block has two entries: `code` expects them in the host's flags,
 * `code_mem` in struct cpu. Branches between blocks of one page are patched to jump directly; all others go
 * through the current context's jump cache, or leave to the dispatcher.
 *
 * Worked example: `add rax, [rdi+8]; jnz …` becomes
 *
 *	lea   r11, [rdi+8]		; guest-linear address
 *	bextr r10, r11, r8		; the slot: r8's low bits say where in an address it is
 *	xor   r11, [r8+r10*8+pages]	; offset in page, where the page matches
 *	cmp   r11, 4096-8
 *	ja    slow
 *	mov   r10, [r8+r10*8+addends]	; host minus guest
 *	add   rax, [rdi+r10+8]
 *	jnz   taken			; patched once the target is translated
 *	jmp   next
 *
 * What a memory access cannot do directly is done "carefully": the instruction is translated once more, alone,
 * with its operand in a bounce buffer that C code fills before and writes back after it. All code with
 * segments that are not flat, and 16-bit code, is translated that way throughout.
 */
#ifndef NESTOR_BT_BT_H
#define NESTOR_BT_BT_H

#include "engine/soft/bt/code_parts.h"
#include "engine/soft/bt/emit.h"
#include "engine/soft/bt/records.h"
#include "engine/soft/bt/shape.h"
#include "engine/soft/cpu/cpu.h"
#include "engine/soft/cpu/ops.h"

#define H_CPU	   H_R8 /* points CPU_CENTER bytes behind the region's start */
#define H_GUEST_SP H_R9

/* A field of struct cpu or of the TLB, at this offset in the region. */
static inline struct place in_cpu(int32_t offset)
{
	return at(H_CPU, offset - CPU_CENTER);
}

static inline struct place in_cpu_indexed(unsigned index, unsigned scale, int32_t offset)
{
	return at_indexed(H_CPU, index, scale, offset - CPU_CENTER);
}

/* Of the entry whose slot is in r10, the page or the addend: those of its table begin at this offset in the region. */
static inline struct place in_tlb(int32_t offset)
{
	return in_cpu_indexed(H_R10, 3, offset);
}

#define HUGE_AHEAD (64 * 1024) /* code memory is made huge so far ahead of what is used; more than two blocks */

/* Key bits besides cpu->mode. */
#define KEY_ONE     (1u << 30) /* one instruction, always leaves to the dispatcher */
#define KEY_CAREFUL (1u << 31) /* every memory operand through C */
#define KEY_NO_GROUPS (1u << 29) /* every access looked up by itself (group.h); leaves to the dispatcher */
#define KEY_SHORT   (1u << 28) /* cut where the deterministic clock's budget ends; leaves to the dispatcher */
#define MODE_BITS   0x0fffffffu

/* Where the arithmetic flags are at a point of a block. */
enum flags_place {
	FLAGS_DEAD, /* nowhere: nothing reads them before they are written */
	FLAGS_HOST,
	FLAGS_CPU,  /* cpu->cc_* */
	FLAGS_BOTH,
	FLAGS_PLACES, /* one of those at every exit */
	FLAGS_AGAIN = FLAGS_PLACES /* within a block: nowhere, but the registers that make them still are as they were */
};

struct page_info {
	uint64_t granules;   /* 64-byte granules that hold translated bytes */
	record_place blocks; /* that start in the page, or run into it */
};

/* Of a link table (links.c), by slot. */
struct link_slots {
	void **stub;         /* what it holds while unconnected: the owner's */
	record_place *owner; /* a link that goes through it; 0: it is free */
	uint32_t *users;     /* how many links go through it */
	uint16_t *free;      /* slots that were used before */
	uint32_t used, free_count;
};

/* A slow path that leads to a block without groups. */
struct single_way {
	code_place patch; /* where the rel32 of its branch is */
	record_place to;
};

#define SINGLE_WAYS 4096

#define CONNECTED_LINKS  2048
#define CONNECTED_TO     4096

struct bt {
	struct cpu *cpu;
	struct emitter e;    /* the main lines of blocks */
	struct emitter cold; /* what is seldom executed, kept apart so that the main lines lie close together */
	uint8_t *code_rw, *code_exec;
	size_t code_size;
	uint8_t *code_start; /* behind the thunks, writable */
	uint8_t *cold_start;
	uint8_t *huge_end, *cold_huge_end; /* up to where each kind's memory is in huge pages */
	uint8_t *arena_start, *arena_end; /* block records */
	uint8_t *arena, *arena_limit;     /* where the next one goes, and the end of the part's */
	record_place *in_order; /* the blocks of each part, by code address */
	uint32_t in_order_max;
	struct code_part part[CODE_PARTS]; /* code_parts.h */
	unsigned part_count, present;
	struct code_entry *code_table; /* code_table.h */
	struct page_info *pages; /* by guest-physical page */
	uint64_t page_count;
	uint64_t translating[2]; /* pages + 1 whose bytes are being read; 0: none. Others read it */
	/* alias.c: for each page, context and fetch class where it was seen last; a bit per page found at two places */
	uint64_t *seen;
	uint8_t *aliased;
	struct shape_cache *shapes;
	uint32_t careful_key;  /* KEY_* for the next instruction only */
	/* With KEY_NO_GROUPS there: whose slow path may lead to that block from now on. patch 0: nobody's. */
	struct {
		uint32_t patch; /* struct single_way's */
		uint32_t mode;
		uint64_t gpa, linear; /* of the instruction */
	} single;
	struct single_way single_way[SINGLE_WAYS];
	uint32_t single_way_count;
	/* a write in progress from the bounce buffer */
	struct {
		uint64_t offset;
		unsigned segment, size, rest; /* size 0: the operand was direct */
		const uint8_t *bounce;
		bool write;
	} careful;
	bool host_bextr;
	struct tlb_region *entered; /* the region that translated code was last in: that of the return entries */
	struct link_slots slots[LINK_TABLES];
	uint32_t reclaim_next, reclaim_wait; /* the slot to look at next; how many are wanted in vain before */
	/*
	 * The global links connected since the last reset, so that a guest that empties its TLB again and again (VMX
	 * without VPIDs) does not pay for the whole table each time. More than fit: the count says so.
	 */
	uint16_t connected[LINK_TABLES][CONNECTED_LINKS];
	uint32_t connected_count[LINK_TABLES];
	uint64_t connected_to[LINK_TABLES][CONNECTED_TO / 64]; /* a bit per 2 MiB that they lead to, hashed */
	uint64_t emptied; /* how often the code memory was emptied, all of it or a part */
	uint64_t translated_blocks, drops; /* statistics */
	uint32_t sites; /* how many instructions have got an entry of tlb_tables.site; they share them when these run out */
	bool rescued;   /* native_rescue() has left site[] half emptied */
	uint64_t link_resets; /* how often bt_reset_links was called */

	/* thunks, executable addresses */
	uint64_t (*enter)(struct cpu *cpu, const void *code);
	uint8_t *exit, *exit_indirect, *leave[FLAGS_PLACES], *call_op, *slow_access, *slow_group, *save_flags, *careful_access, *careful_commit, *native_fault;
	uint8_t *jump_cached[TLB_CLASSES], *link_missed[TLB_CLASSES][FLAGS_PLACES], *window_missed[TLB_CLASSES][2 /* for a write */], *window_access[TLB_CLASSES][2], *return_unpaired[TLB_CLASSES], *return_without_call, *site_missed[TLB_CLASSES], *site_empty;
};

/* ---- create.c (cold) ---- */
/* Guest-physical pages whose code is kept, of this memory. */
uint64_t bt_page_count(const struct guest_memory *memory);
/* code_memory: bytes of translated code after which the oldest is forgotten, 0: the default; records are in proportion. */
int bt_create(struct cpu *cpu, size_t code_memory);
/* Lets the code memory that is used next lie in huge pages. The guest's FPU state must be stashed. */
void bt_make_code_huge(struct bt *bt);
/* Appends the present blocks to /tmp/perf-PID.map. */
void bt_write_perf_map(struct bt *bt);
void bt_destroy(struct cpu *cpu);

/* ---- dispatch.c ---- */

/* Runs until the machine is wanted: returns ENGINE_EXIT_*. */
enum engine_exit bt_run(struct cpu *cpu);

/* ---- block.c ---- */
struct block *block_find(struct bt *bt, uint64_t gpa, uint32_t key, uint64_t linear);
/* Enters a finished block into the code table's lists and its pages' lists; a transient one only where native faults are sought. */
void block_insert(struct bt *bt, struct block *block);
void block_drop(struct bt *bt, struct block *block);
/* Drops the blocks that depend on any of these 64-byte granules of the page. */
void block_drop_granules(struct bt *bt, uint64_t page, uint64_t granules);
/*
 * Around a translation: before a byte of the guest-physical page (`which`: the block's first, 0, or second, 1) is
 * read, so that every store into it is told from then on; and after the block was entered, or was not made after all.
 */
void block_hold_page(struct bt *bt, unsigned which, uint64_t page);
void block_settle_pages(struct bt *bt);
/* The slow path bt->single leads to the block from now on, if that is what stands there. */
void block_connect_single(struct bt *bt, struct block *block);
/* The block's part of the memory is emptied: nothing leads to it any more but other blocks that leave with it. */
void block_leave(struct bt *bt, struct block *block);
/* Slow paths that lead to blocks without groups do not any more. */
void block_forget_singles(struct bt *bt);
/* [gpa, gpa + size) is other memory from now on. While the vCPU does not run. */
void bt_memory_gone(struct cpu *cpu, gpa_t gpa, uint64_t size);
/* Forgets that the page has code. */
void block_forget_page(struct bt *bt, uint64_t page);
/* The block's struct block_extra, made where it has none yet; NULL: the memory is full. */
struct block_extra *block_make_extra(struct bt *bt, struct block *block);
/* The part that new blocks go into. */
static inline struct code_part *present_part(struct bt *bt)
{
	return &bt->part[bt->present];
}

/* NULL where there is none. */
static inline void *record_at(const struct bt *bt, record_place place)
{
	return place ? bt->arena_start + (size_t)place * RECORD_UNIT : NULL;
}

static inline record_place place_of(const struct bt *bt, const void *record)
{
	return ((const uint8_t *)record - bt->arena_start) / RECORD_UNIT;
}

/* The block's entries, executable addresses: with the flags in struct cpu, and in the host's. */
static inline uint8_t *block_code_mem(const struct bt *bt, const struct block *block)
{
	return bt->code_exec + block->code_mem;
}

static inline uint8_t *block_code(const struct bt *bt, const struct block *block)
{
	return block_code_mem(bt, block) + block->host_entry;
}

/* Of a block that crosses pages: the second one. */
static inline uint64_t block_gpa2(const struct bt *bt, const struct block *block)
{
	const struct block_extra *extra = record_at(bt, block->extra);

	return extra->gpa2;
}

/* In the list of `page` as its second page. Both may be the same one, mapped twice: then the first counts. */
static inline bool block_is_second_page(const struct bt *bt, const struct block *block, uint64_t page)
{
	return block->crosses_page && block_gpa2(bt, block) >> PAGE_SHIFT == page && block->gpa >> PAGE_SHIFT != page;
}

/* Where the next one in the list of `page` stands. */
static inline record_place *block_next_in_page(const struct bt *bt, struct block *block, uint64_t page)
{
	struct block_extra *extra = record_at(bt, block->extra);

	return block_is_second_page(bt, block, page) ? &extra->page2_next : &block->page_next;
}

/* ---- links.c ---- */
/* The link leads to the block from now on, in the current context at least. */
void block_link_to(struct bt *bt, struct block_link *link, struct block *to);
/* A link that is never to lead straight to its successor, and has no slot: it goes through the jump cache from now on. */
void block_link_through_cache(struct bt *bt, struct block_link *link);
/* The block is dropped: nothing leads to it or from it any more. */
void links_drop(struct bt *bt, struct block *block);
/* The same for a block that leaves with others (all are marked so). */
void links_leave(struct bt *bt, struct block *block);
/* All blocks are gone. */
void links_flush(struct bt *bt);
/* Of the links of blocks that leave, and of those whose way to the jump cache stands in the part that is emptied. */
void links_forget_cached(struct bt *bt, struct code_part *emptied);

/* The mode key at the exit: STAC and CLAC change the class within a block. */
static inline uint32_t link_key(const struct block_link *link)
{
	return (link_from(link)->key & ~(KEY_NO_GROUPS | 3u << MODE_CLASS_SHIFT)) | (uint32_t)link->class << MODE_CLASS_SHIFT;
}

static inline uint8_t *link_patch(const struct bt *bt, const struct block_link *link)
{
	const struct block *from = link_from(link);

	return bt->code_rw + (link->patch_aside ? from->aside : from->code_mem) + link->patch;
}

static inline uint8_t *link_stub(const struct bt *bt, const struct block_link *link)
{
	return bt->code_exec + link_from(link)->aside + link->stub;
}

/*
 * The linear address that a block is found by, too, since its translation embeds it: 64-bit code in the upper half, which
 * is the kernel, and in the lowest 2 GiB, where programs are that must be there and so always are at the same place. All
 * others are found wherever they are mapped (0).
 */
static inline uint64_t block_linear_key(const struct bt *bt, uint64_t linear, uint32_t key)
{
	bool fixed = linear >> 63 || (linear <= INT32_MAX && !(bt->cpu->tune_off & ENGINE_TUNE_FIXED_PROGRAMS));

	return key & MODE_CODE64 && fixed ? linear : 0;
}

/* ---- alias.c ---- */
/* Is the page mapped twice in some address space: is a branch out of it bound to go by the whole address? */
bool bt_is_aliased(const struct bt *bt, uint64_t gpa);

/* ---- translate.c ---- */

/*
 * Translates from the guest bytes at `bytes` (page_left of them in the page; when an instruction crosses, its
 * remaining bytes come from second, up to 15, whose page is gpa2). Returns the block, entered nowhere yet, or
 * NULL when the code memory is full.
 */
struct block *translate(struct bt *bt, uint64_t gpa, uint64_t linear, uint32_t key, const uint8_t *page,
			unsigned max_insns, const uint8_t *second, uint64_t gpa2);

/* ---- thunks.c ---- */
void bt_emit_thunks(struct bt *bt);
/* ---- jump_thunks.c, after those ---- */
void bt_emit_jump_thunks(struct bt *bt);

/* ---- runtime.c: called from translated code ---- */
uint64_t bt_run_op(struct cpu *cpu, struct op_call *call);
uint64_t bt_slow_access(struct cpu *cpu, uint64_t gla, uint32_t access);
#define SLOW_GROUP_CALL 11 /* bytes of the MOV and the CALL that lead there */
/* Where a group's leader goes on: with its addend, or in a block without groups. */
struct group_way {
	uint64_t addend;
	const void *single; /* executable; NULL: with the addend */
};
/* place: of the struct group_access, in bytes from the start of the records. */
struct group_way bt_slow_group(struct cpu *cpu, uint64_t gla, uint64_t place);
uint64_t bt_careful_access(struct cpu *cpu, uint64_t offset, uint32_t access);
void bt_careful_commit(struct cpu *cpu);
_Noreturn void bt_native_fault(struct cpu *cpu, struct native_site *site);
/* Cold: installs the signal handlers that turn native faults into guest exceptions; per thread, with a stack of its own. */
int bt_thread_init(struct cpu *cpu);

/*
 * How translated code describes an access to the slow path, in 32 bits:
 * page offset of the instruction 11:0, size code 15:12, use 17:16, segment 20:18, flags dead 21, instructions of
 * the block from this one on 29:22, the block is this instruction alone and leaves to the dispatcher 30, locked 31.
 */
#define ACCESS_PAGE_OFFSET(a) ((a) & 0xfff)
#define ACCESS_SIZE_CODE(a)   (((a) >> 12) & 15)
#define ACCESS_USE(a)         (((a) >> 16) & 3)
#define ACCESS_SEGMENT(a)     (((a) >> 18) & 7)
#define ACCESS_FLAGS_DEAD(a)  (((a) >> 21) & 1)
#define ACCESS_REST(a)        (((a) >> 22) & 255)
#define ACCESS_ALONE(a)       (((a) >> 30) & 1)
#define ACCESS_LOCKED(a)      ((a) >> 31)
extern const uint8_t access_sizes[16];

/*
 * The deterministic clock. A block takes all its instructions out of cpu->budget when it is entered; C code that
 * is called in its middle first gives back those that have not retired, so that retired - budget is the exact
 * count whenever anything can look at it, and takes them again before it returns into the block.
 */
static inline void bt_give_back(struct cpu *cpu, unsigned instructions)
{
	if (cpu->clock == ENGINE_CLOCK_DETERMINISTIC)
		cpu->budget += instructions;
}

static inline void bt_take(struct cpu *cpu, unsigned instructions)
{
	if (cpu->clock == ENGINE_CLOCK_DETERMINISTIC)
		cpu->budget -= instructions;
}

/*
 * cpu->branch, set by indirect branches of 64-bit code on their way out: bit 31, the bytes that RET n drops 29:14,
 * the kind 13:12, the branch's page offset 11:0.
 */
enum branch_kind { BRANCH_JMP, BRANCH_CALL, BRANCH_RET };
#define BRANCH_RECORD(kind, offset, extra) (1u << 31 | (uint32_t)(extra) << 14 | (uint32_t)(kind) << 12 | (offset))
#define BRANCH_EXTRA(b)	 (((b) >> 14) & 0xffff)
#define BRANCH_KIND(b)	 (((b) >> 12) & 3)
#define BRANCH_OFFSET(b) ((b) & 0xfff)

/* rip for a page offset of the running block. */
static inline uint64_t bt_rip(const struct cpu *cpu, unsigned page_offset)
{
	uint64_t rip = cpu->rip_page + page_offset;

	return cpu->mode & MODE_CODE64 ? rip : (uint32_t)rip;
}

#endif

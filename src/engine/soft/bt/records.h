/*
 * What the translator remembers of a block, in the same part of its memory as the block's code (code_parts.h).
 *
 * A compiler's run makes 200,000 blocks, so the records are kept small: one names another by its place, and code
 * by its distance from the start of the code memory. The exits of a block follow it directly, in the order of their
 * numbers; what only few blocks have is in a record of its own.
 */
#ifndef NESTOR_BT_RECORDS_H
#define NESTOR_BT_RECORDS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "engine/soft/bt/residence.h"
#include "engine/soft/cpu/cpu.h"
#include "engine/soft/cpu/insn.h"
#include "engine/soft/cpu/ops.h"

#define BLOCK_MAX_INSNS 48
#define BLOCK_SIDE_EXITS 5 /* conditional branches that a block goes on behind */
#define BLOCK_BUFFER    (24 * 1024) /* bytes of host code that a block may take at most in its main line, */
#define BLOCK_BUFFER_ASIDE (12 * 1024) /* … and aside */

#define RECORD_UNIT 8 /* bytes: records begin at a multiple of that */

/* Where a record is, in units from the start of the arena, whose first unit is nobody's; 0: none. */
typedef uint32_t record_place;

/* Where code is, in bytes from the start of the code memory. */
typedef uint32_t code_place;

/* Bits of the first word of struct block_link, for translated code. */
#define LINK_TO_BITS      26
#define LINK_TABLE_SHIFT  LINK_TO_BITS
#define LINK_TABLE_MASK   7u
#define LINK_FLAGS_IN_CPU (1u << 29)

/* A direct exit of a block, patched to its successor. */
struct block_link {
	record_place to : LINK_TO_BITS; /* its successor */
	uint32_t table : 3;       /* LINK_*: how it leads there */
	uint32_t flags_in_cpu : 1; /* enter the successor by code_mem */
	uint32_t patch_aside : 1; /* `patch` counts from the start of the block's code aside, not from code_mem */
	record_place next : LINK_TO_BITS; /* in to->incoming; LINK_CACHED: in code_part.cached */
	uint32_t number : 4;      /* of its block's exits */
	uint32_t flags : 2;       /* LINK_FAR: enum flags_place at the exit */
	uint16_t patch;           /* where its rel32 is; 0: not emitted yet */
	uint16_t stub;            /* where it leads while unlinked, from the start of the block's code aside */
	uint16_t index;           /* in the table; LINK_CACHED: what `table` was before */
	uint16_t target : 12;     /* byte offset in its page */
	uint16_t class : 2;       /* of the mode key at the exit */
	uint16_t call : 1;        /* a host call: code that behind it goes on after a return */
	uint16_t global : 1;      /* LINK_FAR: may become LINK_GLOBAL or LINK_GUEST */
};

#define BLOCK_LINKS_MAX 16 /* numbers of 4 bits */
_Static_assert(BLOCK_SIDE_EXITS + 1 /* the last branch */ + 2 <= BLOCK_LINKS_MAX, "a block's end has two exits at most");

enum {
	LINK_PATCHED, /* within the page: the branch itself is patched */
	LINK_CONTEXT, /* through tlb_tables.link[index] (links.c): another page of this context */
	LINK_GLOBAL,  /* through cpu->global_link[index]: another global page of root operation */
	LINK_GUEST,   /* through cpu->guest_link[index]: another global page of the guest that ran last */
	LINK_TABLES,
	LINK_FAR = LINK_TABLES, /* to another page, not taken yet: becomes one of those three, or LINK_CACHED */
	LINK_CACHED,  /* through the jump cache: no slot was left, or its successor lies in two pages */
};

/* Where a host instruction may fault natively. */
struct native_site {
	uint16_t code_offset; /* of the instruction, from the block's code_mem */
	uint16_t page_offset; /* of the guest instruction */
	uint8_t spilled;      /* a host register that holds something else, its value in scratch[0]; H_NONE */
	uint8_t spilled2;     /* the same with scratch[1] */
	uint8_t rest;         /* instructions of the block from this one on */
	bool flags_dead : 1;
	bool flags_in_host : 1; /* they are in the host's RFLAGS at the fault */
};

/* All of a block. */
struct native_sites {
	uint32_t count;
	struct native_site site[];
};

/* What the slow path of a group's leader needs (group.h). */
struct group_access {
	uint64_t page_offset : 12, range : 11, leader_distance : 10 /* from the range's start */, leader_size : 8;
	uint64_t rest : 6, leader_use : 2, use : 2, flags_dead : 1;
	uint64_t in_window : 1; /* the others find the addend in the stack window */
	uint64_t behind : 11;   /* the block's record stands so many units before this one */
};

/* A call from translated code to an op. */
struct op_call {
	op_function *function;
	record_place block;
	uint16_t page_offset;
	uint8_t rest;   /* instructions of the block from this one on */
	bool ends;      /* leave to the dispatcher afterwards */
	struct insn insn;
};

/*
 * A block in the list of those with one slot of the code table, with a hash of what it is found by, so that the
 * record of another one is not even looked at where it is the last of the list. `more` may be set for the last one,
 * too.
 */
struct block_ref {
	record_place at;
	uint32_t tag : 31, more : 1;
};

/* Bytes [first, end) of a page; end 0: none. */
struct byte_range {
	uint16_t first, end;
};

#define BLOCK_RANGES_AHEAD 2

/* What few blocks have. */
struct block_extra {
	uint64_t gpa2;            /* of a block that crosses pages: the second one's */
	uint64_t granules;        /* it depends on just these, where its ranges say more; else 0 */
	record_place page2_next;  /* of one that crosses pages: the next one in the second page's list */
	record_place sites;       /* struct native_sites */
	uint8_t lodgers;          /* residence.h */
	struct lodger lodger[LODGERS_MAX];
};

struct block {
	uint64_t gpa;    /* of its first byte */
	uint64_t linear; /* of its first byte; 0 where the block is position-independent */
	struct block_ref slot_next;
	uint32_t key;
	code_place code_mem; /* the entry with the flags in struct cpu: everything of its main line counts from here */
	code_place aside;    /* what stands apart from its main line */
	record_place page_next;
	record_place incoming; /* the first link that leads here */
	record_place extra;    /* struct block_extra */
	struct byte_range ahead[BLOCK_RANGES_AHEAD]; /* bytes besides its own that its flags depend on */
	uint16_t own_end; /* of the bytes of its instructions, in its page; they may run on into the second one */
	uint16_t code_size;
	int8_t host_entry; /* where the entry with the flags in the host's is, in bytes from code_mem */
	uint8_t insn_count, link_count;
	bool crosses_page : 1; /* a single instruction over two pages */
	bool dropped : 1;
	bool transient : 1; /* of bytes outside RAM and ROM: fetched anew each time, found by nobody */
	bool has_single_ways : 1; /* bt->single_way leads here */
	bool leaving : 1;  /* dropped, while its part of the memory is emptied: */
	bool unlisted : 1; /* … and no longer in its page's list */
	struct block_link link[]; /* its direct exits */
};

_Static_assert(sizeof(struct block) == 64 && offsetof(struct block, link) == 64, "small, and no gap");
_Static_assert(sizeof(struct block_link) == 16 && 16 % RECORD_UNIT == 0, "small, and each has a place");
_Static_assert(sizeof(struct native_site) == 8 && sizeof(struct group_access) == 8, "small");
_Static_assert(BLOCK_BUFFER <= UINT16_MAX && BLOCK_BUFFER_ASIDE <= UINT16_MAX, "offsets in a block's code have 16 bits");

/* The 64-byte granules of a page that the range touches. */
static inline uint64_t range_granules(struct byte_range range)
{
	unsigned last = range.end > PAGE_SIZE ? PAGE_SIZE - 1 : range.end - 1u;

	return range.end ? ~0ull << (range.first >> 6) & ~0ull >> (63 - (last >> 6)) : 0;
}

static inline struct byte_range block_own_bytes(const struct block *block)
{
	return (struct byte_range){ block->gpa & (PAGE_SIZE - 1), block->own_end };
}

/* The block that the link leaves. */
static inline struct block *link_from(const struct block_link *link)
{
	return (struct block *)((uintptr_t)(link - link->number) - offsetof(struct block, link));
}

static inline const struct block *group_block(const struct group_access *access)
{
	return (const struct block *)((uintptr_t)access - access->behind * RECORD_UNIT);
}

#endif

/*
 * What the translator remembers of a block, all in one memory (bt->arena) that is emptied as a whole.
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

/* A direct exit of a block, patched to its successor. */
struct block_link {
	record_place to, next; /* its successor; the next one in to->incoming */
	code_place patch;      /* where its rel32 is */
	code_place stub;       /* where it leads while unlinked */
	uint16_t target;       /* byte offset in its page */
	uint16_t index;        /* in the table */
	uint8_t table;         /* LINK_*: how it leads there */
	bool flags_in_cpu;     /* enter the successor by code_mem */
	uint8_t number;        /* of its block's exits */
	uint8_t class : 2;     /* of the mode key at the exit */
	bool call : 1;         /* a host call: code that behind it goes on after a return */
	bool global : 1;       /* LINK_FAR: may become LINK_GLOBAL or LINK_GUEST */
};

enum {
	LINK_PATCHED, /* within the page: the branch itself is patched */
	LINK_CONTEXT, /* through tlb_tables.link[index]: another page of this context */
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

/* A slow path that leads to a block without groups: where the rel32 of its branch is. */
struct single_way {
	code_place patch;
	record_place next;
};

/* What few blocks have. */
struct block_extra {
	uint64_t gpa2;            /* of a block that crosses pages: the second one's */
	record_place page2_next;  /* … the next one in that page's list */
	record_place single_ways; /* of a block without groups */
	uint8_t lodgers;          /* residence.h */
	struct lodger lodger[LODGERS_MAX];
};

struct block {
	uint64_t gpa;    /* of its first byte */
	uint64_t linear; /* of its first byte; 0 where the block is position-independent */
	uint64_t granules; /* of its page that it depends on */
	struct block_ref slot_next;
	uint32_t key;
	code_place code_mem; /* its first byte: the entry with the flags in struct cpu */
	record_place page_next;
	record_place incoming; /* the first link that leads here */
	record_place sites;    /* struct native_sites */
	record_place extra;    /* struct block_extra */
	struct byte_range ahead[BLOCK_RANGES_AHEAD]; /* bytes besides its own that its flags depend on */
	uint16_t own_end; /* of the bytes of its instructions, in its page; they may run on into the second one */
	uint16_t code_size;
	uint8_t flags_restore; /* bytes of code before its entry with the flags in the host's */
	uint8_t insn_count, link_count;
	bool crosses_page : 1; /* a single instruction over two pages */
	bool dropped : 1;
	bool transient : 1; /* of bytes outside RAM and ROM: fetched anew each time, found by nobody */
	struct block_link link[]; /* its direct exits */
};

_Static_assert(sizeof(struct block) == 72 && offsetof(struct block, link) == 72, "small, and no gap");
_Static_assert(sizeof(struct block_link) == 24 && 24 % RECORD_UNIT == 0, "small, and each has a place");
_Static_assert(sizeof(struct native_site) == 8, "small");
_Static_assert(BLOCK_BUFFER <= UINT16_MAX, "offsets in a block's code have 16 bits");

static inline struct byte_range block_own_bytes(const struct block *block)
{
	return (struct byte_range){ block->gpa & (PAGE_SIZE - 1), block->own_end };
}

/* The block that the link leaves. */
static inline struct block *link_from(const struct block_link *link)
{
	return (struct block *)((uintptr_t)(link - link->number) - offsetof(struct block, link));
}

#endif

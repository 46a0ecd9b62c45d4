/* The state of one translation, shared by translate.c (flow) and native.c (one instruction at a time). */
#ifndef NESTOR_BT_TRANSLATE_H
#define NESTOR_BT_TRANSLATE_H

#include "engine/soft/bt/bt.h"
#include "engine/soft/bt/classify.h"
#include "engine/soft/bt/group.h"
#include "engine/soft/bt/return_stack.h"

/* How the main line looked up what a stub does: what it has left in the registers, and what it wants there. */
enum look_up {
	LOOK_UP_ADDEND,   /* r11: address ^ page, r10: the TLB slot; wants the addend in r10 */
	LOOK_UP_ADDRESS,  /* the same; wants the host address in r11 */
	LOOK_UP_CONSTANT, /* the address is known; wants the addend in r10 */
	LOOK_UP_PAGE,     /* r11: the page's address; wants the page's host address there */
	LOOK_UP_WINDOW,   /* r11: distance from the stack window; wants the addend in r10 */
};

/* Code out of the main line, emitted behind it. */
struct slow_stub {
	uint8_t *from;   /* rel32 of the branch to it */
	uint8_t *resume; /* writable address to go back to */
	uint32_t access;
	uint32_t key;    /* the mode key there */
	enum look_up kind;
	union {
		int32_t tlb_offset; /* _ADDEND, _ADDRESS: of the table */
		int32_t address;    /* _CONSTANT */
		unsigned offset;    /* _PAGE: of the operand in it */
		unsigned reach;     /* _WINDOW: bytes */
	};
	struct group_access *group; /* a leader's, else NULL */
	uint8_t flags_source;	    /* with FLAGS_AGAIN; else NO_SOURCE */
};

/* An exit whose code stands behind the main line, or aside. */
struct cold_exit {
	uint8_t *from;		  /* rel32 of the branch to it */
	struct block_link *link;  /* connected by patching `from`; NULL: the code there makes its own exit */
	bool kicked;		  /* out of a loop: to `offset`, by the dispatcher */
	int64_t offset;
	enum flags_place flags;
	uint8_t flags_source;
	uint8_t insn;		  /* the branch */
	uint32_t key;		  /* the mode key there */
	op_function *op;	  /* instead of an exit: does the instruction in C and leaves */
	uint32_t site;		  /* instead of an exit: of the entry (SITE) that led elsewhere; `branch`: what cpu->branch gets */
	uint32_t branch;
	uint8_t *way_on;	  /* with site: of a call, the executable address that takes the way in r10 */
	uint32_t unpaired_return; /* instead of an exit: what cpu->branch gets; to r11 through the jump cache */
};

#define NO_SOURCE 0 /* of flags; else 1 + the number of an instruction */
#define MAX_STUBS (BLOCK_MAX_INSNS * 2)
#define MAX_SITES BLOCK_MAX_INSNS

struct translation {
	struct bt *bt;
	struct emitter *e; /* bt's e or cold: emit_aside */
	struct block *block;
	uint32_t key;
	bool code64, careful;
	bool single;  /* every access is looked up by itself: KEY_NO_GROUPS, which `key` does not have */
	bool counted; /* deterministic clock: count instructions, keep all flags exact */
	uint64_t gpa_page;
	uint64_t linear; /* of the block's page, where linear_known */
	bool linear_known;
	uint64_t granules; /* of its page that the block depends on */
	bool ranges_joined; /* its ranges contain others as well */
	unsigned count;
	uint8_t home[16]; /* the host register of each guest register; H_NONE: it is in struct cpu */
	uint8_t lodgers; /* residence.h */
	struct lodger lodger[LODGERS_MAX];
	uint8_t *loop; /* executable: where the block's branches to its own start lead; NULL: out of it, as any other */
	struct insn insn[BLOCK_MAX_INSNS];
	struct shape shape[BLOCK_MAX_INSNS]; /* where op is BT_NATIVE; copies, for the memo forgets */
	uint16_t offset[BLOCK_MAX_INSNS + 1]; /* page offset of each instruction, and of the next one */
	uint8_t live_before[BLOCK_MAX_INSNS + 1]; /* SHAPE_*: flags needed before instruction i */
	uint8_t live_at_target[BLOCK_MAX_INSNS];  /* … at the target of its branch */
	struct access_group group[GROUPS_MAX];
	uint8_t group_of[BLOCK_MAX_INSNS][2]; /* of each instruction's accesses, in their order; NO_GROUP: none */
	unsigned i; /* the present instruction */
	unsigned access; /* its accesses emitted so far */
	int32_t stack_owed; /* bytes by which host r9 is above guest rsp, between pushes and pops (stack_forms.c) */
	uint8_t r10_slot; /* the group slot whose addend is in r10; NO_GROUP: something else */
	uint8_t r11_guest; /* the guest register of struct cpu whose value r11 has as the instruction begins, or INSN_NO_REG */
	enum flags_place flags;
	uint8_t flags_source;  /* whose flags can be computed again from here */
	uint16_t flags_inputs; /* … while these guest registers stay as they are */
	struct slow_stub stub[MAX_STUBS];
	unsigned stub_count;
	struct cold_exit cold[BLOCK_SIDE_EXITS + 8];
	unsigned cold_count;
	struct native_site site[MAX_SITES];
	unsigned site_count;
	uint8_t *base_rw;
};

/* The host register of a guest register between blocks; H_NONE for those in struct cpu. */
static inline unsigned host_register(unsigned guest)
{
	return guest == REG_RSP			       ? H_GUEST_SP
	       : guest >= REG_R8 && guest <= REG_R11 ? H_NONE
							       : guest;
}

/* … and within this one. */
static inline unsigned home_of(const struct translation *t, unsigned guest)
{
	return t->home[guest];
}

/* A byte register without REX: numbers 4 to 7 are AH, CH, DH, BH. */
static inline bool is_high_byte(const struct insn *insn, unsigned number)
{
	return !(insn->prefixes & (PREFIX_REX | PREFIX_VEX)) && number >= 4 && number < 8;
}

/* The guest register that a field names, or that has the byte which it names. */
static inline unsigned register_of(const struct insn *insn, unsigned number, bool byte)
{
	return byte && is_high_byte(insn, number) ? number - 4 : number & 15;
}

/* Does the direct branch lead back to where the block starts? */
static inline bool returns_to_start(const struct translation *t, unsigned insn)
{
	return t->offset[insn + 1] + t->insn[insn].imm == t->offset[0];
}

/* What is emitted from here on stands apart, reached by jumps only; returns the emitter for it. */
static inline struct emitter *emit_aside(struct translation *t)
{
	t->e = &t->bt->cold;
	return t->e;
}

/* … and is the block's main line again. */
static inline struct emitter *emit_main_line(struct translation *t)
{
	t->e = &t->bt->e;
	return t->e;
}

#define CPU_FIELD(field)   ((int32_t)offsetof(struct cpu, field))
#define CPU_GPR(n)	   ((int32_t)(offsetof(struct cpu, gpr) + 8 * (n)))
#define CPU_SCRATCH(n)	   ((int32_t)(offsetof(struct cpu, scratch) + 8 * (n)))
#define CPU_GROUP(slot)	   ((int32_t)(offsetof(struct cpu, group_addend) + 8 * (slot)))
#define CPU_SEG_BASE(s)	   ((int32_t)(offsetof(struct cpu, seg) + (s) * sizeof(struct segment) + offsetof(struct segment, base)))
#define TLB_READ(class)	   ((int32_t)(offsetof(struct tlb_region, tables.read) + (class) * sizeof(struct tlb_entries)))
#define TLB_WRITE(class)   ((int32_t)(offsetof(struct tlb_region, tables.write) + (class) * sizeof(struct tlb_entries)))
/* The guest addresses of the topmost return entry and of the one below, from the stack pointer. */
#define RETURN_TOP	   ((int32_t)offsetof(struct return_entry, guest))
#define RETURN_BELOW	   (RETURN_TOP + (int32_t)sizeof(struct return_entry))
/* A branch to another page: its code is a NOP, then a jump or call, whose rel32 begins here. */
#define FAR_BRANCH_PATCH 3
#define FAR_BRANCH_NOP	 0x66, 0x90
#define JUMP_BACK 5 /* bytes of a slow path's jump to where it goes on, behind its call */
/* A field of the class's stack window. */
#define WINDOW(class, field) ((int32_t)(offsetof(struct cpu, stack) + (class) * sizeof(struct stack_window) + \
					offsetof(struct stack_window, field)))
/* From the pages of TLB entries to their addends. */
#define TLB_ADDEND	   ((int32_t)offsetof(struct tlb_entries, addend))
#define JUMP_MODE(class)   ((int32_t)(offsetof(struct tlb_region, tables.jump_mode) + (class) * sizeof(uint32_t)))
#define JUMP_LOG(class)	   ((int32_t)(offsetof(struct tlb_region, tables.jump_log) + (class) * sizeof(struct tlb_log)))
#define LINK_LOG	   ((int32_t)offsetof(struct tlb_region, tables.link_log))
#define LINK_TABLE	   ((int32_t)offsetof(struct tlb_region, tables.link))
#define SITE_LOG(class)	   ((int32_t)(offsetof(struct tlb_region, tables.site_log) + (class) * sizeof(struct tlb_log)))
#define SITE(class)	   ((int32_t)(offsetof(struct tlb_region, tables.site) + (class) * sizeof(struct jump_entry) * CALL_SITES))
#define JUMP_TABLE(class)  ((int32_t)(offsetof(struct tlb_region, tables.jump) + (class) * sizeof(struct jump_entry) * JUMP_CACHE_SLOTS))

/* cmp dword kick, 0: not equal where the vCPU must leave translated code. */
static inline void emit_compare_kick(struct emitter *e)
{
	emit_op(e, false, 0x83, 7, in_cpu(CPU_FIELD(kick)));
	emit8(e, 0);
}

static inline bool fits32(int64_t value)
{
	return value == (int32_t)value;
}

/* ---- flags.c ---- */
/* Emits the copy host flags -> struct cpu; clobbers `free` (H_R10 or H_R11). */
void flags_emit_save(struct emitter *e, unsigned free);
/* Emits the same where nobody reads them: a fixed value keeps runs reproducible. */
void flags_emit_fixed(struct emitter *e);
/* Emits the copy back; keeps every register but `free` (H_R10 or H_R11; H_NONE: none is free). */
void flags_emit_restore(struct emitter *e, unsigned free);
/*
 * Before something that clobbers the host's flags: where `needed` says that someone reads them, saves them or knows them
 * to be FLAGS_AGAIN.
 */
void flags_before_clobber(struct translation *t, bool needed);
/* Before a reader: they are in the host's flags afterwards. */
void flags_to_host(struct translation *t, unsigned free);
/* Before C code, exact: they are in struct cpu afterwards. */
void flags_to_cpu(struct translation *t);
/* Before an exit, whose successor needs `live` (SHAPE_*): anything but FLAGS_AGAIN afterwards. Clobbers r10. */
void flags_settle(struct translation *t, unsigned live);
/* Behind the present instruction: what it means for t->flags_source. */
void flags_note_source(struct translation *t);
/* Does the code for the present instruction know of FLAGS_AGAIN? Before any other one they must be somewhere. */
bool flags_may_wait(const struct translation *t);
/* Emits the way of a source's flags, FLAGS_AGAIN, to struct cpu; keeps every register. */
void flags_emit_save_again(struct translation *t, unsigned source);
/* Emits what that calls. */
void flags_emit_save_thunk(struct bt *bt);

/* ---- native.c ---- */

/* Emits the guest-linear address (careful: the offset) of the memory operand into r11. Clobbers r10 at most,
 * and the host's flags where a segment base is added. */
void emit_effective_address(struct translation *t, const struct insn *insn);
/*
 * Emits the check of an access of `size` bytes at the memory operand of insn; returns the host operand. It uses
 * r10 or r11 or both; the caller must look. Where the check clobbers the host's flags it saves them first, if
 * `live` (SHAPE_*) says that anything is needed.
 */
struct place emit_access(struct translation *t, const struct insn *insn, unsigned size, unsigned use,
			 unsigned live);
/* The same for the address already in r11 (a whole guest-linear address); result is [r11], r10 free. The host's
 * flags are clobbered: call flags_before_clobber first. */
struct place emit_access_r11(struct translation *t, unsigned size, unsigned use, unsigned segment);
/* Emits the TLB slot of the address in reg into r10 (bt.h: in_tlb). Clobbers the host's flags. */
void emit_tlb_slot(struct translation *t, unsigned reg);
/* The same outside of a block. bextr: the host has it. */
void emit_tlb_slot_of(struct emitter *e, bool bextr, unsigned reg);
/* After the operation of a careful write: writes the bounce buffer back. */
void emit_commit(struct translation *t, unsigned use);
void emit_native(struct translation *t, const struct insn *insn, const struct shape *shape);
/* Its operation alone, on operands that are checked or in host registers already; and one without ModRM. */
void emit_operation(struct translation *t, const struct insn *insn, unsigned reg, const struct place *rm, unsigned vvvv,
		    bool force_rex);
void emit_plain(struct translation *t, const struct insn *insn);
/* Is its operand a byte, by its opcode (integer operations)? */
bool is_byte_operation(const struct insn *insn);
void emit_op_call(struct translation *t, const struct insn *insn, op_function *function, bool ends);
/* Loads a guest register's 64 bits into a host register; returns the register it is in when it has its own. */
unsigned use_guest_register(struct translation *t, unsigned guest, unsigned temporary);

#endif

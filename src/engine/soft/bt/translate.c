/*
 * Guest block -> host block: decoding, liveness of the flags, control transfers and the stack. What one
 * computing instruction becomes is native.c's business.
 *
 * A block ends at a control transfer, before the end of its page, or after an op that may change the mode key
 * or the mapping. Liveness runs backwards over the decoded instructions; at the block's end every flag is
 * taken to be live, unless the successor, looked at in the same page, overwrites it first. The bytes looked at
 * count as bytes that the block depends on.
 */
#include "engine/soft/bt/translate.h"

#include "engine/soft/bt/decode.h"
#include "engine/soft/bt/inline_ops.h"

#define LOOK_AHEAD 6

static unsigned code_size_of(uint32_t key)
{
	return key & MODE_CODE64 ? 8 : key & MODE_CODE32 ? 4 : 2;
}

static bool ends_block(const struct insn *insn)
{
	switch (insn->op) {
	case BT_UNDEFINED:
	case BT_FPU_UNAVAILABLE:
	case BT_JCC:
	case BT_JMP:
	case BT_CALL:
	case BT_RET:
	case BT_JMP_RM:
	case BT_CALL_RM:
	case BT_LOOP:
		return true;
	default:
		return insn->op >= BT_OP && bt_op_table[insn->op - BT_OP].ends;
	}
}

/* SHAPE_* flags that Jcc, SETcc and CMOVcc read, by condition >> 1. */
static const uint8_t condition_flags[8] = { SHAPE_OF, SHAPE_CF, SHAPE_ZF, SHAPE_CF | SHAPE_ZF, SHAPE_SF, SHAPE_PF,
					    SHAPE_SF | SHAPE_OF, SHAPE_SF | SHAPE_OF | SHAPE_ZF };

static unsigned live_through(const struct insn *insn, const struct shape *shape, unsigned live_after)
{
	switch (insn->op) {
	case BT_NATIVE:
		return (live_after & ~shape->flags_killed) | shape->flags_read;
	case BT_JCC:
		return live_after | condition_flags[(insn->opcode >> 1) & 7];
	case BT_LOOP:
		return live_after | (insn->opcode <= 0xe1 ? SHAPE_ZF : 0);
	case BT_BIT_STRING:
		return live_after | SHAPE_ALL;
	case BT_NOP:
	case BT_LEA:
	case BT_JMP:
	case BT_CALL:
	case BT_RET:
	case BT_JMP_RM:
	case BT_CALL_RM:
	case BT_PUSH:
	case BT_POP:
	case BT_PUSH_IMM:
	case BT_PUSH_RM:
	case BT_LEAVE:
	case BT_MOV_IMM:
	case BT_XLAT:
	case BT_BSWAP:
	case BT_FLAG_DF:
	case BT_CLI:
	case BT_STAC:
	case BT_CLAC:
	case BT_SWAPGS:
	case BT_RDTSC:
	case BT_RDTSCP:
	case BT_MOV_FROM_SEGMENT:
		return live_after;
	default:
		return SHAPE_ALL; /* C code sees them exactly */
	}
}

/*
 * The flags that code at `offset` of the page needs, as far as a few instructions tell. Adds the granules of
 * what it looked at to the block's.
 */
static unsigned look_ahead(struct translation *t, const uint8_t *page, int64_t offset)
{
	unsigned written = 0, needed = 0;

	if (offset < 0 || offset >= (int64_t)PAGE_SIZE)
		return SHAPE_ALL;
	for (unsigned n = 0; n < LOOK_AHEAD && offset < (int64_t)PAGE_SIZE; n++) {
		struct insn insn;
		const struct shape *shape;
		unsigned live;

		if (decode(&insn, page + offset, PAGE_SIZE - offset, code_size_of(t->key), !(t->key & MODE_V86) &&
			   t->key & MODE_PROTECTED) != DECODE_OK)
			break;
		shape = classify(t->bt, &insn, page + offset, t->key);
		live = live_through(&insn, shape, 0);
		needed |= live & ~written;
		t->block->granules |= 1ull << (offset >> 6) | 1ull << (((offset + insn.length - 1) >> 6) & 63);
		if (insn.op == BT_NATIVE)
			written |= shape->flags_killed;
		if (written == SHAPE_ALL || needed == SHAPE_ALL)
			return needed;
		if (ends_block(&insn))
			break;
		offset += insn.length;
	}
	return needed | (SHAPE_ALL & ~written);
}

static bool has_target(const struct insn *insn)
{
	return insn->op == BT_JCC || insn->op == BT_LOOP || insn->op == BT_JMP || insn->op == BT_CALL;
}

/* What is needed behind the last instruction, where control may go on there. */
static unsigned live_at_end(struct translation *t, const uint8_t *page)
{
	const struct insn *last = &t->insn[t->count - 1];

	if (last->op == BT_JMP || last->op == BT_CALL)
		return 0;
	if (ends_block(last) && !has_target(last))
		return SHAPE_ALL;
	return look_ahead(t, page, t->offset[t->count]);
}

static void compute_liveness(struct translation *t, const uint8_t *page)
{
	if (t->counted) {
		/* What a fault or an interrupt pushes must not depend on where blocks end, nor on the TLB. */
		memset(t->live_before, SHAPE_ALL, sizeof(t->live_before));
		return;
	}
	bool alone = t->key & (MODE_STEP | KEY_ONE) || t->block->crosses_page;
	unsigned live = alone ? SHAPE_ALL : live_at_end(t, page);

	t->live_before[t->count] = live;
	for (unsigned i = t->count; i-- > 0;) {
		if (has_target(&t->insn[i])) {
			int64_t target = t->offset[i + 1] + t->insn[i].imm;

			t->live_at_target[i] = alone ? SHAPE_ALL : look_ahead(t, page, target);
			live |= t->live_at_target[i];
		}
		live = live_through(&t->insn[i], &t->shape[i], live);
		t->live_before[i] = live;
	}
}

/* ---- leaving the block ---- */

/* r11 holds the target (offset in CS). Everything that C could want is in struct cpu. */
static void emit_indirect_exit(struct translation *t)
{
	bool cached = !(t->key & (MODE_STEP | KEY_ONE | KEY_SHORT | KEY_NO_GROUPS)) && !(t->bt->cpu->tune_off & ENGINE_TUNE_JUMP_CACHE) &&
		      (t->code64 || (t->key & MODE_FLAT && t->key & MODE_CODE32));

	flags_to_cpu(t);
	emit_jmp(t->e, cached ? t->bt->jump_cached[MODE_CLASS(t->key)] : t->bt->exit_indirect);
}

/* JMP, CALL and RET to r11: the dispatcher must find the branch where the target is not canonical. */
static void emit_branch_exit(struct translation *t, enum branch_kind kind, uint16_t extra)
{
	if (t->code64) {
		emit_op(t->e, false, 0xc7, 0, in_cpu(CPU_FIELD(branch)));
		emit32(t->e, BRANCH_RECORD(kind, t->offset[t->i], extra));
	}
	emit_indirect_exit(t);
}

/* The target as a value in r11: the page of this block plus an offset. */
static void emit_target(struct translation *t, int64_t offset)
{
	if (t->linear_known) {
		emit_mov_imm(t->e, H_R11, t->linear + offset);
	} else {
		emit_load(t->e, H_R11, in_cpu(CPU_FIELD(rip_page)));
		emit_lea(t->e, H_R11, at(H_R11, (int32_t)offset));
		if (!t->code64)
			emit_op(t->e, false, 0x8b, H_R11, in_reg(H_R11));
	}
}

/* A backward branch within the page leaves when there is something to poll. */
static void emit_kick_check(struct translation *t, uint8_t **leave)
{
	emit_op(t->e, false, 0x83, 7, in_cpu(CPU_FIELD(kick))); /* cmp dword kick, 0 */
	emit8(t->e, 0);
	*leave = emit_branch_later(t->e, CC_NE);
}

static struct block_link *new_link(struct translation *t)
{
	return &t->block->link[t->block->link_count++];
}

/*
 * A direct exit to another page, through a slot of the context's (or the global) link table, which holds the
 * successor's code or the stub. False where that is not possible. Consumes t->flags.
 */
static bool emit_far_exit(struct translation *t, int64_t offset, unsigned live)
{
	struct emitter *e = t->e;
	struct block_link *link = new_link(t);
	bool global = t->linear_known && !(t->key & MODE_NONROOT) && t->bt->cpu->cr4 & CR4_PGE;
	bool backward = offset < 0 && t->insn[t->i].op != BT_CALL;
	int64_t page = offset & ~(int64_t)(PAGE_SIZE - 1);
	unsigned table = global ? LINK_GLOBAL : LINK_CONTEXT;
	uint8_t *leave = NULL;

	if (!t->code64 || t->key & (MODE_STEP | KEY_ONE | KEY_SHORT | KEY_NO_GROUPS) || t->block->crosses_page ||
	    t->bt->cpu->tune_off & (ENGINE_TUNE_CHAIN | ENGINE_TUNE_JUMP_CACHE) || !fits32(page))
		return false;
	*link = (struct block_link){ .from = t->block, .key = t->key, .target = offset & (PAGE_SIZE - 1) };
	if (!block_link_slot(t->bt, link, table)) {
		link->from = NULL;
		return false;
	}
	if (backward) {
		/* Every loop has a backward jump or an indirect one: calls need no look at the kick word. */
		flags_before_clobber(t, live);
		emit_kick_check(t, &leave);
	}
	link->flags_in_cpu = t->flags == FLAGS_CPU;
	if (t->linear_known && fits32((int64_t)t->linear + page)) {
		emit_op(e, true, 0xc7, 0, in_cpu(CPU_FIELD(rip_page)));
		emit32(e, t->linear + page);
	} else {
		emit_load(e, H_R11, in_cpu(CPU_FIELD(rip_page)));
		emit_lea(e, H_R11, at(H_R11, page));
		emit_store(e, in_cpu(CPU_FIELD(rip_page)), H_R11);
	}
	/* jmp *slot */
	emit_op(e, false, 0xff, 4,
		in_cpu(table == LINK_GLOBAL ? CPU_FIELD(global_link) + 8 * link->index : LINK_TABLE + 8 * link->index));
	link->stub = emit_exec(e);
	if (!e->overflow) {
		t->bt->stub[table][link->index] = link->stub;
		if (table == LINK_GLOBAL)
			t->bt->cpu->global_link[link->index] = link->stub;
		else
			tlb_set_link(t->bt->cpu, link->index, link->stub);
	}
	enum flags_place at_slot = t->flags;

	flags_to_cpu(t);
	emit_mov_imm(e, H_R10, (uintptr_t)link);
	emit_jmp(e, t->bt->exit);
	if (leave) {
		emit_patch_here(e, leave);
		t->flags = at_slot;
		flags_to_cpu(t);
		emit_target(t, offset);
		emit_jmp(e, t->bt->exit_indirect);
	}
	return true;
}

/*
 * A direct exit to `offset`. The block's flags state at this point is t->flags and is left as it was, because
 * the other exit of the block starts from it.
 */
static void emit_direct_exit(struct translation *t, int64_t offset, unsigned live)
{
	struct emitter *e = t->e;
	struct block_link *link;
	enum flags_place before = t->flags;
	uint8_t *leave = NULL;
	bool in_page = offset >= 0 && offset < (int64_t)PAGE_SIZE;

	if (t->counted)
		flags_to_cpu(t); /* every block expects them there */
	if (!t->code64 && !(t->key & MODE_CODE32)) {
		/* 16-bit code wraps at 64 KiB */
		emit_target(t, offset);
		emit_insn(e, (struct form){ .map = 1, .opcode = 0xb7 }, H_R11, in_reg(H_R11));
		emit_indirect_exit(t);
		t->flags = before;
		return;
	}
	if (!in_page && emit_far_exit(t, offset, live)) {
		t->flags = before;
		return;
	}
	if (!in_page || t->key & (MODE_STEP | KEY_ONE | KEY_SHORT) || t->bt->cpu->tune_off & ENGINE_TUNE_CHAIN) {
		flags_to_cpu(t);
		emit_target(t, offset);
		emit_indirect_exit(t);
		t->flags = before;
		return;
	}
	link = new_link(t);
	if (offset <= t->offset[t->i]) {
		flags_before_clobber(t, live);
		emit_kick_check(t, &leave);
	}
	*link = (struct block_link){ .from = t->block, .key = t->key, .target = (int32_t)offset, .flags_in_cpu = t->flags == FLAGS_CPU };
	/* The patched rel32 must not straddle a cache line, so that patching is one atomic store. */
	while (((uintptr_t)e->p + 1) & 3)
		emit8(e, 0x90);
	link->patch = emit_branch_later(e, CC_ALWAYS);
	if (leave)
		emit_patch_here(e, leave);
	link->stub = emit_exec(e);
	if (!e->overflow)
		emit_patch(e, link->patch, link->stub);
	flags_to_cpu(t);
	emit_mov_imm(e, H_R10, (uintptr_t)link);
	emit_jmp(e, t->bt->exit);
	t->flags = before;
}

/* May the branch be patched to lead straight to its target's block? */
static bool is_patchable(const struct translation *t, int64_t offset)
{
	return (t->code64 || t->key & MODE_CODE32) && offset > t->offset[t->i] && offset < (int64_t)PAGE_SIZE &&
	       !(t->key & (MODE_STEP | KEY_ONE | KEY_SHORT)) && !(t->bt->cpu->tune_off & ENGINE_TUNE_CHAIN);
}

/* Jcc: the taken way's code stands behind the main line, which goes on with the next instruction. */
static void emit_conditional(struct translation *t, const struct insn *insn, int64_t next)
{
	struct emitter *e = t->e;
	struct cold_exit *cold = &t->cold[t->cold_count++];

	flags_to_host(t, H_R11);
	if (t->counted && t->flags == FLAGS_HOST) {
		/* every block expects them in struct cpu */
		flags_emit_save(e);
		t->flags = FLAGS_BOTH;
	}
	*cold = (struct cold_exit){ .offset = next + insn->imm, .flags = t->flags, .insn = t->i,
				    .key = t->key };
	if (is_patchable(t, cold->offset)) {
		cold->link = new_link(t);
		*cold->link = (struct block_link){ .from = t->block, .key = t->key, .target = (int32_t)cold->offset };
		/* The patched rel32 must not straddle a cache line. */
		while (((uintptr_t)e->p + 2) & 3)
			emit8(e, 0x90);
	}
	cold->from = emit_branch_later(e, insn->opcode & 15);
	if (cold->link)
		cold->link->patch = cold->from;
}

static void emit_cold_exits(struct translation *t)
{
	struct emitter *e = t->e;

	for (unsigned i = 0; i < t->cold_count && !e->overflow; i++) {
		struct cold_exit *cold = &t->cold[i];

		emit_patch_here(e, cold->from);
		t->i = cold->insn;
		t->flags = cold->flags;
		t->key = cold->key;
		if (cold->op) {
			emit_op_call(t, &t->insn[t->i], cold->op, true);
		} else if (cold->link) {
			cold->link->stub = emit_exec(e);
			flags_to_cpu(t);
			emit_mov_imm(e, H_R10, (uintptr_t)cold->link);
			emit_jmp(e, t->bt->exit);
		} else {
			emit_direct_exit(t, cold->offset, t->live_at_target[cold->insn]);
		}
	}
}

/* LOOPNE, LOOPE, LOOP, JCXZ: through RCX of the address size, flags untouched. */
static void emit_loop_exit(struct translation *t, const struct insn *insn, int64_t next)
{
	struct emitter *e = t->e;
	unsigned size = insn->address_size;
	uint8_t *not_taken[2] = { 0 }, *taken;

	flags_to_host(t, H_R11);
	if (insn->opcode != 0xe3) {
		/* rcx - 1 without flags */
		if (size == 8) {
			emit_lea(e, H_RCX, at(H_RCX, -1));
		} else if (size == 4) {
			emit_lea32(e, H_RCX, at(H_RCX, -1));
		} else {
			emit_lea32(e, H_R11, at(H_RCX, -1));
			emit_insn(e, (struct form){ .prefix = 0x66, .opcode = 0x89 }, H_R11, in_reg(H_RCX));
		}
	}
	if (insn->opcode <= 0xe1)
		not_taken[0] = emit_branch_later(e, insn->opcode == 0xe0 ? CC_E : CC_NE);
	/* jrcxz over a short jump; 16-bit: through r11 in rcx's place */
	if (size == 2) {
		emit_store(e, in_cpu(CPU_SCRATCH(2)), H_RCX);
		emit_insn(e, (struct form){ .map = 1, .opcode = 0xb7 }, H_RCX, in_reg(H_RCX)); /* movzx ecx, cx */
	}
	if (size == 4)
		emit8(e, 0x67);
	emit8(e, 0xe3);
	uint8_t *short_jump = e->p;

	emit8(e, 0);
	/* rcx != 0 */
	if (size == 2)
		emit_load(e, H_RCX, in_cpu(CPU_SCRATCH(2)));
	if (insn->opcode == 0xe3) {
		not_taken[1] = emit_branch_later(e, CC_ALWAYS);
		if (!e->overflow)
			*short_jump = e->p - short_jump - 1;
		if (size == 2)
			emit_load(e, H_RCX, in_cpu(CPU_SCRATCH(2)));
	} else {
		taken = emit_branch_later(e, CC_ALWAYS);
		if (!e->overflow)
			*short_jump = e->p - short_jump - 1;
		if (size == 2)
			emit_load(e, H_RCX, in_cpu(CPU_SCRATCH(2)));
		not_taken[1] = emit_branch_later(e, CC_ALWAYS);
		emit_patch_here(e, taken);
	}
	emit_direct_exit(t, next + insn->imm, t->live_at_target[t->i]);
	for (unsigned i = 0; i < 2; i++)
		if (not_taken[i])
			emit_patch_here(e, not_taken[i]);
	emit_direct_exit(t, next, t->live_before[t->count]);
}

/* ---- the stack ---- */

static void emit_rsp_add(struct translation *t, int32_t bytes)
{
	if (t->code64)
		emit_lea(t->e, H_R15, at(H_R15, bytes));
	else
		emit_lea32(t->e, H_R15, at(H_R15, bytes));
}

/* Checks an access at rsp + delta; returns the host operand. */
static struct place emit_stack_access(struct translation *t, int32_t delta, unsigned size, unsigned use)
{
	struct insn at_stack = { .base = REG_RSP, .index = INSN_NO_REG, .displacement = delta, .segment = SEG_SS,
				 .address_size = t->code64 ? 8 : 4, .is_memory = true };

	return emit_access(t, &at_stack, size, use, t->live_before[t->i]);
}

static void emit_sized_store(struct translation *t, unsigned size, struct place to, unsigned reg)
{
	emit_insn(t->e, (struct form){ .prefix = size == 2 ? 0x66 : 0, .opcode = 0x89, .w = size == 8 }, reg, to);
}

static unsigned other_scratch(struct place place)
{
	return place.base == H_R11 || place.index == H_R11 ? H_R10 : H_R11;
}

static void emit_push(struct translation *t, const struct insn *insn)
{
	unsigned size = insn->operand_size;
	struct place to = emit_stack_access(t, -(int)size, size, USE_WRITE);

	emit_sized_store(t, size, to, use_guest_register(t, insn->rm, other_scratch(to)));
	emit_rsp_add(t, -(int)size);
	emit_commit(t, USE_WRITE);
}

static void emit_pop(struct translation *t, const struct insn *insn)
{
	unsigned size = insn->operand_size, host = host_register(insn->rm);
	struct place from = emit_stack_access(t, 0, size, USE_READ);
	struct form load = { .prefix = size == 2 ? 0x66 : 0, .opcode = 0x8b, .w = size == 8 };

	if (insn->rm == REG_RSP) {
		if (size == 2) {
			/* the low half of the incremented RSP */
			emit_insn(t->e, (struct form){ .map = 1, .opcode = 0xb7 }, H_R11, from);
			emit_rsp_add(t, size);
			emit_sized_store(t, 2, in_reg(H_R15), H_R11);
		} else {
			emit_insn(t->e, load, H_R15, from);
		}
		return;
	}
	if (host == H_NONE) {
		host = other_scratch(from);
		if (size == 2)
			emit_load(t->e, host, in_cpu(CPU_GPR(insn->rm)));
		emit_insn(t->e, load, host, from);
		emit_store(t->e, in_cpu(CPU_GPR(insn->rm)), host);
	} else {
		emit_insn(t->e, load, host, from);
	}
	emit_rsp_add(t, size);
}

static void emit_push_imm(struct translation *t, const struct insn *insn)
{
	unsigned size = insn->operand_size;
	struct place to = emit_stack_access(t, -(int)size, size, USE_WRITE);

	emit_insn(t->e, (struct form){ .prefix = size == 2 ? 0x66 : 0, .opcode = 0xc7, .w = size == 8 }, 0, to);
	emit_bytes(t->e, insn->imm, size == 2 ? 2 : 4);
	emit_rsp_add(t, -(int)size);
	emit_commit(t, USE_WRITE);
}

/* Loads the register or memory operand (FF /2, /4, /6) into scratch[0]. */
static void emit_rm_to_scratch(struct translation *t, const struct insn *insn, unsigned size)
{
	unsigned reg;

	if (!insn->is_memory) {
		reg = use_guest_register(t, insn->rm, H_R11);
	} else {
		struct place from = emit_access(t, insn, size, USE_READ, t->live_before[t->i]);

		reg = H_R11;
		if (size == 2)
			emit_insn(t->e, (struct form){ .map = 1, .opcode = 0xb7 }, H_R11, from);
		else
			emit_op(t->e, size == 8, 0x8b, H_R11, from);
	}
	if (size == 4)
		emit_op(t->e, false, 0x8b, H_R11, in_reg(reg)); /* zero-extend */
	emit_store(t->e, in_cpu(CPU_SCRATCH(0)), size == 4 ? H_R11 : reg);
}

/* Pushes scratch[0]. */
static void emit_push_scratch(struct translation *t, unsigned size)
{
	struct place to = emit_stack_access(t, -(int)size, size, USE_WRITE);
	unsigned reg = other_scratch(to);

	emit_load(t->e, reg, in_cpu(CPU_SCRATCH(0)));
	emit_sized_store(t, size, to, reg);
	emit_rsp_add(t, -(int)size);
	emit_commit(t, USE_WRITE);
}

static void emit_push_rm(struct translation *t, const struct insn *insn)
{
	unsigned size = insn->operand_size;

	emit_rm_to_scratch(t, insn, size);
	emit_push_scratch(t, size);
}

static void emit_leave(struct translation *t, const struct insn *insn)
{
	unsigned size = insn->operand_size;
	struct insn at_frame = { .base = REG_RBP, .index = INSN_NO_REG, .segment = SEG_SS,
				 .address_size = t->code64 ? 8 : 4, .is_memory = true };

	struct place from = emit_access(t, &at_frame, size, USE_READ, t->live_before[t->i]);

	emit_op(t->e, true, 0x8d, H_R15, at(H_RBP, size));
	if (!t->code64)
		emit_op(t->e, false, 0x8b, H_R15, in_reg(H_R15));
	emit_op(t->e, size == 8, 0x8b, H_RBP, from);
}

/* Pushes the return address; the caller has put what it needs into scratch[0]. */
static void emit_push_return(struct translation *t, unsigned size)
{
	struct place to = emit_stack_access(t, -(int)size, size, USE_WRITE);
	unsigned reg = other_scratch(to);
	uint32_t offset = t->offset[t->count];

	if (t->linear_known) {
		emit_mov_imm(t->e, reg, t->linear + offset);
	} else {
		emit_load(t->e, reg, in_cpu(CPU_FIELD(rip_page)));
		emit_lea(t->e, reg, at(reg, offset));
	}
	emit_sized_store(t, size, to, reg);
	emit_rsp_add(t, -(int)size);
	emit_commit(t, USE_WRITE);
}

static void emit_ret(struct translation *t, const struct insn *insn)
{
	unsigned size = insn->operand_size;
	struct place from = emit_stack_access(t, 0, size, USE_READ);

	emit_op(t->e, size == 8, 0x8b, H_R11, from);
	uint16_t extra = insn->opcode == 0xc2 ? insn->imm : 0;

	emit_rsp_add(t, size + extra);
	emit_branch_exit(t, BRANCH_RET, extra);
}

/* ---- other special forms ---- */

static void emit_lea_insn(struct translation *t, const struct insn *insn)
{
	struct emitter *e = t->e;
	unsigned host = host_register(insn->reg);
	struct insn address = *insn;

	address.segment = SEG_DS; /* LEA ignores segments */
	if (insn->base != INSN_BASE_RIP && insn->address_size == 8 && insn->operand_size == 8 && host != H_NONE &&
	    insn->base != INSN_NO_REG && host_register(insn->base) != H_NONE &&
	    (insn->index == INSN_NO_REG || host_register(insn->index) != H_NONE)) {
		unsigned index = insn->index == INSN_NO_REG ? H_NONE : host_register(insn->index);

		emit_lea(e, host,
			 (struct place){ .memory = true, .base = host_register(insn->base), .index = index,
					 .scale = insn->scale, .disp = (int32_t)insn->displacement });
		return;
	}
	emit_effective_address(t, &address);
	if (host == H_NONE) {
		if (insn->operand_size == 2) {
			emit_insn(e, (struct form){ .prefix = 0x66, .opcode = 0x89 }, H_R11, in_cpu(CPU_GPR(insn->reg)));
			return;
		}
		if (insn->operand_size == 4)
			emit_op(e, false, 0x8b, H_R11, in_reg(H_R11));
		emit_store(e, in_cpu(CPU_GPR(insn->reg)), H_R11);
	} else {
		emit_insn(e, (struct form){ .prefix = insn->operand_size == 2 ? 0x66 : 0, .opcode = 0x8b,
					    .w = insn->operand_size == 8 }, host, in_reg(H_R11));
	}
}

static void emit_mov_imm_insn(struct translation *t, const struct insn *insn)
{
	struct emitter *e = t->e;
	unsigned host = host_register(insn->rm);
	uint64_t value = insn->operand_size == 4 ? (uint32_t)insn->imm : (uint64_t)insn->imm;

	if (insn->operand_size == 2) {
		struct place to = host == H_NONE ? in_cpu(CPU_GPR(insn->rm)) : in_reg(host);

		emit_insn(e, (struct form){ .prefix = 0x66, .opcode = 0xc7 }, 0, to);
		emit_bytes(e, insn->imm, 2);
	} else if (host == H_NONE) {
		emit_mov_imm(e, H_R11, value);
		emit_store(e, in_cpu(CPU_GPR(insn->rm)), H_R11);
	} else {
		emit_mov_imm(e, host, value);
	}
}

static void emit_bswap(struct translation *t, const struct insn *insn)
{
	unsigned reg = use_guest_register(t, insn->rm, H_R11);
	bool w = insn->operand_size == 8;

	if (w || reg & 8)
		emit8(t->e, 0x40 | (w ? 8 : 0) | (reg & 8 ? 1 : 0));
	emit8(t->e, 0x0f);
	emit8(t->e, 0xc8 | (reg & 7));
	if (reg == H_R11)
		emit_store(t->e, in_cpu(CPU_GPR(insn->rm)), H_R11);
}

/* XLAT: AL = [rBX + AL]. */
static void emit_xlat(struct translation *t, const struct insn *insn)
{
	struct emitter *e = t->e;

	flags_before_clobber(t, t->live_before[t->i]);
	emit_insn(e, (struct form){ .map = 1, .opcode = 0xb6 }, H_R11, in_reg(H_RAX)); /* movzx r11d, al */
	emit_lea(e, H_R11, at_indexed(H_R11, H_RBX, 0, 0));
	if (insn->address_size == 4)
		emit_op(e, false, 0x8b, H_R11, in_reg(H_R11));
	else if (insn->address_size == 2)
		emit_insn(e, (struct form){ .map = 1, .opcode = 0xb7 }, H_R11, in_reg(H_R11));
	if (!t->careful && t->code64 && (insn->segment == SEG_FS || insn->segment == SEG_GS))
		emit_op(e, true, 0x03, H_R11, in_cpu(CPU_SEG_BASE(insn->segment)));
	emit_op(e, false, 0x8a, H_RAX, emit_access_r11(t, 1, USE_READ, insn->segment));
}

/*
 * BT, BTS, BTR, BTC m, r: the register is a signed bit index into memory far beyond the operand. The address
 * moves by index >> 3 rounded to the operand's size; the operation then takes the index modulo the size.
 */
static void emit_bit_string(struct translation *t, const struct insn *insn)
{
	struct emitter *e = t->e;
	unsigned size = insn->operand_size, shift = size == 8 ? 6 : size == 4 ? 5 : 4;
	unsigned index_reg = host_register(insn->reg), use = insn->opcode == 0xa3 ? USE_READ : USE_READ | USE_WRITE;

	flags_before_clobber(t, t->live_before[t->i] != 0);
	emit_effective_address(t, insn);
	/* r10 = (sign-extended index >> shift) * size */
	if (index_reg == H_NONE)
		emit_load(e, H_R10, in_cpu(CPU_GPR(insn->reg)));
	if (size == 8)
		emit_op(e, true, 0x8b, H_R10, index_reg == H_NONE ? in_reg(H_R10) : in_reg(index_reg));
	else if (size == 4)
		emit_op(e, true, 0x63, H_R10, index_reg == H_NONE ? in_reg(H_R10) : in_reg(index_reg)); /* movsxd */
	else
		emit_insn(e, (struct form){ .map = 1, .opcode = 0xbf, .w = true }, H_R10,
			  index_reg == H_NONE ? in_reg(H_R10) : in_reg(index_reg)); /* movsx r10, r16 */
	emit_op(e, true, 0xc1, 7, in_reg(H_R10)); /* sar */
	emit8(e, shift);
	emit_lea(e, H_R11, at_indexed(H_R11, H_R10, size == 8 ? 3 : size == 4 ? 2 : 1, 0));
	if (insn->address_size == 4 && !(insn->segment == SEG_FS || insn->segment == SEG_GS))
		emit_op(e, false, 0x8b, H_R11, in_reg(H_R11));
	else if (insn->address_size == 2)
		emit_insn(e, (struct form){ .map = 1, .opcode = 0xb7 }, H_R11, in_reg(H_R11));
	struct place place = emit_access_r11(t, size, use, insn->segment);
	unsigned reg = use_guest_register(t, insn->reg, other_scratch(place));

	/* The host would add the index to the address again: reduce it in a scratch register. */
	if (reg != H_R10 && reg != H_R11) {
		unsigned scratch = other_scratch(place);

		emit_op(e, true, 0x8b, scratch, in_reg(reg));
		reg = scratch;
	}
	emit_op(e, false, 0x83, 4, in_reg(reg)); /* and */
	emit8(e, (1u << shift) - 1);
	/* All six flags may be needed: only CF is the instruction's. */
	flags_to_host(t, H_NONE);
	emit_insn(e, (struct form){ .prefix = size == 2 ? 0x66 : 0, .map = 1, .opcode = insn->opcode, .w = size == 8,
				    .lock = insn->prefixes & PREFIX_LOCK }, reg, place);
	t->flags = FLAGS_HOST;
	emit_commit(t, use);
}

static void op_fpu_unavailable(struct cpu *cpu, const struct insn *insn)
{
	bool avx = insn->prefixes & PREFIX_VEX, sse = insn->map != 0;

	if (avx && !((cpu->cr4 & CR4_OSXSAVE) && (cpu->xcr0 & 6) == 6 && (cpu->mode & MODE_PROTECTED)))
		cpu_raise(cpu, VECTOR_UD);
	if (sse && !avx && ((cpu->cr0 & CR0_EM)))
		cpu_raise(cpu, VECTOR_UD);
	if (cpu->cr0 & (CR0_TS | CR0_EM))
		cpu_raise(cpu, VECTOR_NM);
	cpu_raise(cpu, VECTOR_UD); /* SSE without CR4.OSFXSR */
}

static void op_too_long(struct cpu *cpu, const struct insn *insn)
{
	cpu_raise_error(cpu, VECTOR_GP, 0);
}

static void emit_one(struct translation *t, const struct insn *insn, const struct shape *shape)
{
	struct emitter *e = t->e;
	int64_t next = t->offset[t->i + 1];

	switch ((enum bt_op)insn->op) {
	case BT_UNDEFINED:
		emit_op_call(t, insn, insn->length > INSN_MAX_LENGTH ? op_too_long : op_ud, true);
		break;
	case BT_FPU_UNAVAILABLE:
		emit_op_call(t, insn, op_fpu_unavailable, true);
		break;
	case BT_NATIVE:
		emit_native(t, insn, shape);
		break;
	case BT_NOP:
		break;
	case BT_LEA:
		emit_lea_insn(t, insn);
		break;
	case BT_JCC:
		emit_conditional(t, insn, next);
		break;
	case BT_JMP:
		emit_direct_exit(t, next + insn->imm, t->live_at_target[t->i]);
		break;
	case BT_CALL:
		emit_push_return(t, insn->operand_size);
		emit_direct_exit(t, next + insn->imm, t->live_at_target[t->i]);
		break;
	case BT_RET:
		emit_ret(t, insn);
		break;
	case BT_JMP_RM:
		emit_rm_to_scratch(t, insn, insn->operand_size);
		emit_load(e, H_R11, in_cpu(CPU_SCRATCH(0)));
		emit_branch_exit(t, BRANCH_JMP, 0);
		break;
	case BT_CALL_RM:
		emit_rm_to_scratch(t, insn, insn->operand_size);
		emit_push_return(t, insn->operand_size);
		emit_load(e, H_R11, in_cpu(CPU_SCRATCH(0)));
		emit_branch_exit(t, BRANCH_CALL, 0);
		break;
	case BT_LOOP:
		emit_loop_exit(t, insn, next);
		break;
	case BT_PUSH:
		emit_push(t, insn);
		break;
	case BT_POP:
		emit_pop(t, insn);
		break;
	case BT_PUSH_IMM:
		emit_push_imm(t, insn);
		break;
	case BT_PUSH_RM:
		emit_push_rm(t, insn);
		break;
	case BT_LEAVE:
		emit_leave(t, insn);
		break;
	case BT_MOV_IMM:
		emit_mov_imm_insn(t, insn);
		break;
	case BT_XLAT:
		emit_xlat(t, insn);
		break;
	case BT_BSWAP:
		emit_bswap(t, insn);
		break;
	case BT_BIT_STRING:
		emit_bit_string(t, insn);
		break;
	case BT_FLAG_DF:
		flags_before_clobber(t, t->live_before[t->i + 1]);
		/* and/or dword rflags_system, DF */
		emit_op(e, false, 0x81, insn->opcode == 0xfc ? 4 : 1, in_cpu(CPU_FIELD(rflags_system)));
		emit32(e, insn->opcode == 0xfc ? ~FLAG_DF : FLAG_DF);
		break;
	case BT_CLI:
		emit_cli(t);
		break;
	case BT_STI:
		emit_sti(t, insn);
		break;
	case BT_STAC:
	case BT_CLAC:
		emit_set_ac(t, insn->op == BT_STAC);
		break;
	case BT_SWAPGS:
		emit_swapgs(t);
		break;
	case BT_RDTSC:
	case BT_RDTSCP:
		emit_rdtsc(t, insn->op == BT_RDTSCP);
		break;
	case BT_PUSHF:
		emit_flags_image(t);
		emit_push_scratch(t, 8);
		break;
	case BT_MOV_FROM_SEGMENT:
		emit_mov_from_segment(t, insn);
		break;
	case BT_OP:
	default:
		emit_op_call(t, insn, bt_op_table[insn->op - BT_OP].function, bt_op_table[insn->op - BT_OP].ends);
		break;
	}
}

static void emit_stubs(struct translation *t)
{
	struct emitter *e = t->e;

	for (unsigned i = 0; i < t->stub_count && !e->overflow; i++) {
		const struct slow_stub *stub = &t->stub[i];

		emit_patch_here(e, stub->from);
		if (stub->constant) {
			emit_mov_imm(e, H_R11, (int64_t)stub->address);
		} else {
			/* the main line left address ^ page in r11 and the slot in r10 */
			emit_op(e, true, 0x33, H_R11, in_cpu_indexed(H_R10, stub->tlb_offset));
		}
		if (stub->group) {
			emit_mov_imm(e, H_R10, (uintptr_t)stub->group);
			emit_call(e, t->bt->slow_group);
		} else {
			emit_mov_imm(e, H_R10, stub->access);
			emit_call(e, t->bt->slow_access);
		}
		if (stub->address_form)
			emit_op(e, true, 0x03, H_R11, in_reg(H_R10));
		emit_jmp(e, stub->resume + e->exec_offset);
	}
}

static bool is_byte_shift(const struct insn *insn)
{
	return insn->map == 0 && insn->opcode == 0xc0;
}

/* A shift by an immediate that is not zero writes its flags for certain, which the opcode alone does not tell. */
static struct shape shape_of_insn(const struct shape *of_opcode, const struct insn *insn)
{
	struct shape shape = *of_opcode;
	bool shift = insn->map == 0 && (insn->opcode == 0xc0 || insn->opcode == 0xc1);
	bool shift_double = insn->map == 1 && (insn->opcode == 0xa4 || insn->opcode == 0xac);
	unsigned count = insn->imm & (insn->operand_size == 8 ? 63 : 31);
	bool through_carry = shift && (insn->reg & 6) == 2;

	if ((shift || shift_double) && count && !through_carry) {
		/* OF is defined for a count of 1 only, and rotations write nothing but CF and OF */
		shape.flags_killed = shift && (insn->reg & 7) < 4 ? SHAPE_CF : SHAPE_ALL & ~(SHAPE_OF | SHAPE_AF);
		/* CF is undefined where everything is shifted out */
		if (count >= (is_byte_shift(insn) ? 8u : insn->operand_size * 8u))
			shape.flags_killed &= ~SHAPE_CF;
	}
	return shape;
}

/* A block goes on behind some conditional branches. Not under the deterministic clock, which counts whole blocks. */
static bool goes_on_behind(const struct translation *t)
{
	unsigned branches = 0;

	for (unsigned i = 0; i < t->count; i++)
		branches += t->insn[i].op == BT_JCC;
	return branches <= BLOCK_SIDE_EXITS && t->bt->cpu->clock == ENGINE_CLOCK_REAL &&
	       !(t->bt->cpu->tune_off & ENGINE_TUNE_EXTEND);
}

/* Decodes up to max instructions; returns false where the first one faults already at decoding. */
static void decode_block(struct translation *t, const uint8_t *page, unsigned offset, unsigned max,
			 const uint8_t *second)
{
	unsigned code_size = code_size_of(t->key);
	bool vex = t->key & MODE_PROTECTED && !(t->key & MODE_V86);

	t->offset[0] = offset;
	while (t->count < max && offset < PAGE_SIZE) {
		struct insn *insn = &t->insn[t->count];
		const uint8_t *bytes = page + offset;
		unsigned available = PAGE_SIZE - offset;
		uint8_t joined[2 * INSN_MAX_LENGTH];

		if (second && t->count == 0) {
			for (unsigned i = 0; i < INSN_MAX_LENGTH; i++)
				joined[i] = i < available ? bytes[i] : second[i - available];
			bytes = joined;
			available = INSN_MAX_LENGTH;
		}
		enum decode_result result = decode(insn, bytes, available, code_size, vex);

		if (result == DECODE_SHORT)
			return;
		if (result == DECODE_INVALID) {
			insn->op = BT_UNDEFINED;
		} else if (result == DECODE_LONG) {
			insn->op = BT_UNDEFINED; /* run time tells #GP from #UD by the length */
			insn->length = 16;
		} else {
			const struct shape *shape = classify(t->bt, insn, bytes, t->key);

			if (shape)
				t->shape[t->count] = shape_of_insn(shape, insn);
		}
		offset += insn->length;
		t->offset[++t->count] = offset;
		if (insn->op == BT_JCC && goes_on_behind(t))
			continue;
		if (ends_block(insn))
			return;
	}
}

static unsigned count_branches(const struct translation *t)
{
	unsigned branches = 0;

	for (unsigned i = 0; i < t->count; i++)
		branches += has_target(&t->insn[i]);
	return branches;
}

static void note_granules(struct translation *t)
{
	unsigned first = t->offset[0] >> 6, last = (t->offset[t->count] - 1) >> 6;

	for (unsigned g = first; g <= last && g < 64; g++)
		t->block->granules |= 1ull << g;
}

/* LOCKs the record of what was emitted into the block. */
static bool finish(struct translation *t)
{
	struct bt *bt = t->bt;
	struct block *block = t->block;

	block->insn_count = t->count;
	block->code_size = t->e->p - t->base_rw;
	block->site_count = t->site_count;
	if (t->site_count) {
		block->site = bt_alloc(bt, t->site_count * sizeof(struct native_site));
		if (!block->site)
			return false;
		for (unsigned i = 0; i < t->site_count; i++)
			block->site[i] = t->site[i];
	}
	return !t->e->overflow;
}

struct block *translate(struct bt *bt, uint64_t gpa, uint64_t linear, uint32_t key, const uint8_t *page,
			unsigned max_insns, const uint8_t *second, uint64_t gpa2)
{
	struct translation t;
	struct emitter *e = &bt->e;
	struct block *block = bt_alloc(bt, sizeof(*block));
	uint8_t *used_up = NULL;

	if (!block || e->end - e->p < BLOCK_BUFFER)
		return NULL;
	*block = (struct block){ .gpa = gpa, .key = key, .linear = block_linear_key(linear) };
	t.bt = bt;
	t.e = e;
	t.block = block;
	t.key = key;
	t.code64 = key & MODE_CODE64;
	t.careful = key & (KEY_CAREFUL | MODE_ALIGN) || (!t.code64 && !(key & MODE_FLAT && key & MODE_CODE32)) ||
		    bt->cpu->tune_off & ENGINE_TUNE_FAST_TLB;
	/* Non-flat segments in 32-bit code are seen per instruction. */
	t.linear_known = t.code64 && block->linear;
	t.counted = bt->cpu->clock == ENGINE_CLOCK_DETERMINISTIC;
	t.linear = linear & PAGE_MASK;
	t.count = t.stub_count = t.site_count = t.cold_count = 0;
	decode_block(&t, page, gpa & (PAGE_SIZE - 1), key & (MODE_STEP | KEY_ONE) ? 1 : max_insns, second);
	if (t.count == 0)
		return block; /* the first instruction runs into the next page: insn_count 0 says so */
	note_granules(&t);
	if (second) {
		block->crosses_page = true;
		block->gpa2 = gpa2;
	}
	/* One exit for each branch, a second one for the last instruction. */
	block->link = bt_alloc(bt, (count_branches(&t) + 2) * sizeof(struct block_link));
	if (!block->link)
		return NULL;
	memset(block->link, 0, (count_branches(&t) + 2) * sizeof(struct block_link));
	compute_liveness(&t, page);
	plan_groups(&t);

	e->overflow = false;
	t.base_rw = e->p;
	block->base = emit_exec(e);
	block->code_mem = emit_exec(e);
	if (t.counted) {
		emit_op(e, true, 0x81, 5, in_cpu(CPU_FIELD(budget))); /* sub */
		emit32(e, t.count);
		used_up = emit_branch_later(e, CC_S);
		block->code = block->code_mem;
		t.flags = FLAGS_CPU;
	} else {
		if (t.live_before[0])
			flags_emit_restore(e, H_R10);
		block->code = emit_exec(e);
		t.flags = FLAGS_HOST;
	}
	for (t.i = 0; t.i < t.count; t.i++) {
		bool careful = t.careful;

		/* FS and GS have limits of their own outside 64-bit code, and CS is not writable. */
		if (!t.code64 && (t.insn[t.i].is_memory || t.insn[t.i].op == BT_XLAT) &&
		    (t.insn[t.i].segment == SEG_FS || t.insn[t.i].segment == SEG_GS || t.insn[t.i].segment == SEG_CS))
			t.careful = true;
		t.access = 0;
		emit_one(&t, &t.insn[t.i], &t.shape[t.i]);
		t.careful = careful;
	}
	const struct insn *last = &t.insn[t.count - 1];

	if (!ends_block(last) || last->op == BT_JCC) {
		t.i = t.count - 1;
		emit_direct_exit(&t, t.offset[t.count], t.live_before[t.count]);
	}
	emit_cold_exits(&t);
	emit_stubs(&t);
	if (used_up) {
		/* The budget ends within the block: the dispatcher makes a shorter one. */
		emit_patch_here(e, used_up);
		emit_op(e, true, 0x81, 0, in_cpu(CPU_FIELD(budget))); /* add */
		emit32(e, t.count);
		emit_target(&t, t.offset[0]);
		emit_jmp(e, bt->exit_indirect);
	}
	if (!finish(&t)) {
		e->p = t.base_rw;
		return NULL;
	}
	bt->translated_blocks++;
	return block;
}

/*
 * The ways from one block to the next that are not patched: the jump cache, the code table behind it, links that this
 * context has not seen yet, and returns that found no entry. In all of them the flags are in struct cpu.
 */
#include "engine/soft/bt/code_table.h"
#include "engine/soft/bt/translate.h"

static uint8_t *emit_kicked(struct emitter *e)
{
	emit_compare_kick(e);
	return emit_branch_later(e, CC_NE);
}

static void emit_shift(struct emitter *e, unsigned digit, unsigned reg, unsigned count)
{
	emit_op(e, true, 0xc1, digit, in_reg(reg));
	emit8(e, count);
}

#define LEFT  4
#define RIGHT 5

static void emit_and(struct emitter *e, bool wide, unsigned reg, uint32_t mask)
{
	emit_op(e, wide, 0x81, 4, in_reg(reg));
	emit32(e, mask);
}

#define MISSES 3
/* A field of the fetch entries of the class; both of the supervisor's have the same ones. */
#define FETCH(class, field) ((int32_t)(offsetof(struct tlb_region, tables.fetch) + \
				       sizeof(struct fetch_entry) * FETCH_SLOTS * ((class) == TLB_USER ? TLB_USER : TLB_SUPER) + \
				       offsetof(struct fetch_entry, field)))

/*
 * r11, also in cpu->rip: an address. Leaves the offset of its page's fetch entry in r10, or goes to `miss`. Clobbers rax,
 * keeps r11.
 */
static void emit_find_fetch(struct emitter *e, enum tlb_class class, uint8_t **miss)
{
	_Static_assert(sizeof(struct fetch_entry) == 32, "indexed by a shift");
	emit_op(e, true, 0x8b, H_R10, in_reg(H_R11));
	emit_shift(e, RIGHT, H_R10, PAGE_SHIFT - 5);
	emit_and(e, false, H_R10, (FETCH_SLOTS - 1) << 5);
	emit_op(e, true, 0x8b, H_RAX, in_reg(H_R11));
	emit_and(e, true, H_RAX, (uint32_t)PAGE_MASK);
	emit_lea(e, H_RAX, at(H_RAX, 1));
	emit_op(e, true, 0x3b, H_RAX, in_cpu_indexed(H_R10, 0, FETCH(class, page)));
	*miss = emit_branch_later(e, CC_NE);
}

/* ORs the guest-physical address of r11 to what is in rax, by the fetch entry at r10. Clobbers r10. */
static void emit_or_gpa(struct emitter *e, enum tlb_class class)
{
	emit_op(e, true, 0x0b, H_RAX, in_cpu_indexed(H_R10, 0, FETCH(class, gpa)));
	emit_op(e, true, 0x8b, H_R10, in_reg(H_R11));
	emit_and(e, false, H_R10, PAGE_SIZE - 1);
	emit_op(e, true, 0x0b, H_RAX, in_reg(H_R10));
}

/* A block's linear address, at `linear`, must be that in r11 if there is one. Clobbers rax. Returns the way out. */
static uint8_t *emit_check_linear(struct emitter *e, struct place linear)
{
	uint8_t *any, *miss;

	emit_load(e, H_RAX, linear);
	emit_op(e, true, 0x85, H_RAX, in_reg(H_RAX)); /* test */
	any = emit_branch_later(e, CC_E);
	emit_op(e, true, 0x3b, H_RAX, in_reg(H_R11));
	miss = emit_branch_later(e, CC_NE);
	emit_patch_here(e, any);
	return miss;
}

/*
 * r11, also in cpu->rip: an address. Leaves code_mem of its block in r10, or goes to one of the misses. Clobbers rax,
 * keeps r11.
 */
static void emit_find_code(struct emitter *e, enum tlb_class class, uint8_t *miss[MISSES])
{
	_Static_assert(sizeof(struct code_entry) == 32, "indexed by a shift");
	emit_find_fetch(e, class, &miss[0]);
	/* code_ident() */
	emit_load32(e, H_RAX, in_cpu(CPU_FIELD(mode)));
	emit_shift(e, LEFT, H_RAX, CODE_IDENT_MODE_SHIFT);
	emit_or_gpa(e, class);
	/* code_slot() */
	emit_op(e, true, 0x69, H_R10, in_reg(H_RAX)); /* imul */
	emit32(e, CODE_HASH_FACTOR);
	emit_shift(e, RIGHT, H_R10, CODE_HASH_SHIFT - 5);
	emit_and(e, false, H_R10, ((1u << CODE_TABLE_BITS) - 1) << 5);
	emit_op(e, true, 0x03, H_R10, in_cpu(CPU_FIELD(code_table)));
	emit_op(e, true, 0x3b, H_RAX, at(H_R10, offsetof(struct code_entry, ident)));
	miss[1] = emit_branch_later(e, CC_NE);
	miss[2] = emit_check_linear(e, at(H_R10, offsetof(struct code_entry, linear)));
	emit_load(e, H_R10, at(H_R10, offsetof(struct code_entry, code)));
}

/* The context has something to empty now (tlb.h: jump_used). */
static void emit_mark_used(struct emitter *e, enum tlb_class class)
{
	emit_op(e, false, 0xc6, 0,
		in_cpu((int32_t)(offsetof(struct tlb_region, tables.jump_used) + class))); /* mov byte, 1 */
	emit8(e, 1);
}

/* tlb_log_add() of the index in reg, in the same order, by way of `free`. `log`: its offset in the region. */
static void emit_log(struct emitter *e, int32_t log, unsigned reg, unsigned free)
{
	int32_t count = log + (int32_t)offsetof(struct tlb_log, count), index = log + (int32_t)offsetof(struct tlb_log, index);
	uint8_t *full;

	emit_load32(e, free, in_cpu(count));
	emit_op(e, false, 0x81, 7, in_reg(free)); /* cmp */
	emit32(e, TLB_LOG_MAX);
	full = emit_branch_later(e, CC_A);
	emit_insn(e, (struct form){ .prefix = 0x66, .opcode = 0x89 }, reg,
		  in_cpu_indexed(free, 1, index));
	emit_lea32(e, free, at(free, 1));
	emit_op(e, false, 0x89, free, in_cpu(count)); /* mov */
	emit_patch_here(e, full);
}

/* The offset of jump_slot_of(r11), in its table, into reg. */
static void emit_jump_slot(struct emitter *e, unsigned reg)
{
	_Static_assert(sizeof(struct jump_entry) == 1 << JUMP_HASH_SHIFT, "one shift for the hash and the index");
	emit_op(e, false, 0x8b, reg, in_reg(H_R11));
	emit_shift(e, LEFT, reg, JUMP_HASH_SHIFT);
	emit_op(e, false, 0x33, reg, in_reg(H_R11));
	emit_and(e, false, reg, (JUMP_CACHE_SLOTS - 1) << JUMP_HASH_SHIFT);
}

/* r11: the target rip, in this class. The flags are in struct cpu. */
static void emit_jump_thunk(struct bt *bt, enum tlb_class class)
{
	struct emitter *e = &bt->e;
	uint8_t *kicked, *missed, *miss[MISSES];
	bool table = !(bt->cpu->tune_off & ENGINE_TUNE_CODE_TABLE);

	bt->jump_cached[class] = emit_exec(e);
	kicked = emit_kicked(e);
	emit_jump_slot(e, H_R10);
	emit_op(e, true, 0x3b, H_R11, in_cpu_indexed(H_R10, 0, JUMP_TABLE(class)));
	missed = emit_branch_later(e, CC_NE);
	emit_load(e, H_R10, in_cpu_indexed(H_R10, 0, JUMP_TABLE(class) + 8));
	emit_and(e, true, H_R11, (uint32_t)PAGE_MASK);
	emit_store(e, in_cpu(CPU_FIELD(rip_page)), H_R11);
	emit_jmp_reg(e, H_R10);

	emit_patch_here(e, missed);
	if (table) {
		emit_store(e, in_cpu(CPU_FIELD(rip)), H_R11);
		emit_store(e, in_cpu(CPU_SCRATCH(3)), H_RAX);
		emit_find_code(e, class, miss);
		emit_jump_slot(e, H_RAX);
		emit_store(e, in_cpu_indexed(H_RAX, 0, JUMP_TABLE(class)), H_R11);
		emit_store(e, in_cpu_indexed(H_RAX, 0, JUMP_TABLE(class) + 8), H_R10);
		emit_mark_used(e, class);
		emit_and(e, true, H_R11, (uint32_t)PAGE_MASK);
		emit_store(e, in_cpu(CPU_FIELD(rip_page)), H_R11);
		emit_shift(e, RIGHT, H_RAX, JUMP_HASH_SHIFT);
		emit_log(e, JUMP_LOG(class), H_RAX, H_R11);
		emit_load(e, H_RAX, in_cpu(CPU_SCRATCH(3)));
		emit_jmp_reg(e, H_R10);
		for (unsigned i = 0; i < MISSES; i++)
			emit_patch_here(e, miss[i]);
		emit_load(e, H_RAX, in_cpu(CPU_SCRATCH(3)));
	}
	emit_patch_here(e, kicked);
	emit_jmp(e, bt->exit_indirect);
}

/*
 * r11: where a jump or call through a pointer leads, scratch[1]: its entry, of site[], whose target is another one. Where the
 * jump cache knows the way, the entry learns it. A bit keeps what block_drop() wants to know.
 */
static void emit_site_thunk(struct bt *bt, enum tlb_class class)
{
	struct emitter *e = &bt->e;

	bt->site_missed[class] = emit_exec(e);
	emit_compare_kick(e);
	emit_jcc(e, CC_NE, bt->jump_cached[class]);
	emit_jump_slot(e, H_R10);
	emit_op(e, true, 0x3b, H_R11, in_cpu_indexed(H_R10, 0, JUMP_TABLE(class))); /* cmp */
	emit_jcc(e, CC_NE, bt->jump_cached[class]);
	emit_load(e, H_R10, in_cpu_indexed(H_R10, 0, JUMP_TABLE(class) + 8));
	emit_store(e, in_cpu(CPU_SCRATCH(3)), H_RAX);
	emit_load(e, H_RAX, in_cpu(CPU_SCRATCH(1)));
	emit_store(e, in_cpu_indexed(H_RAX, 0, 0), H_R11);
	emit_store(e, in_cpu_indexed(H_RAX, 0, offsetof(struct jump_entry, code)), H_R10);
	emit_lea(e, H_RAX, at(H_RAX, -SITE(class)));
	emit_shift(e, RIGHT, H_RAX, JUMP_HASH_SHIFT);
	emit_store(e, in_cpu(CPU_SCRATCH(2)), H_R11);
	emit_log(e, SITE_LOG(class), H_RAX, H_R11);
	emit_op(e, false, 0x8b, H_R11, in_reg(H_R10)); /* is_site_target() */
	emit_shift(e, RIGHT, H_R11, SITE_TARGET_SHIFT);
	emit_and(e, false, H_R11, SITE_TARGETS - 1);
	emit_op(e, false, 0xc6, 0, in_cpu_indexed(H_R11, 0, CPU_FIELD(site_targets))); /* mov byte, 1 */
	emit8(e, 1);
	emit_load(e, H_R11, in_cpu(CPU_SCRATCH(2)));
	emit_mark_used(e, class);
	emit_load(e, H_RAX, in_cpu(CPU_SCRATCH(3)));
	emit_and(e, true, H_R11, (uint32_t)PAGE_MASK);
	emit_store(e, in_cpu(CPU_FIELD(rip_page)), H_R11);
	emit_jmp_reg(e, H_R10);
}

/* Where empty entries of site[] lead, for a guest that goes to the address which stands for that. */
static void emit_site_empty_thunk(struct bt *bt)
{
	struct emitter *e = &bt->e;

	bt->site_empty = emit_exec(e);
	emit_mov_imm(e, H_R11, SITE_EMPTY);
	emit_jmp(e, bt->exit_indirect);
}

/* At a stub: puts the flags into struct cpu, and makes r10, the link's offset among the records, a pointer. */
static void emit_stub_begins(struct emitter *e, enum flags_place flags)
{
	if (flags == FLAGS_HOST)
		flags_emit_save(e, H_R11);
	else if (flags == FLAGS_DEAD)
		flags_emit_fixed(e);
	emit_op(e, true, 0x03, H_R10, in_cpu(CPU_FIELD(records)));
}

static void emit_leave_thunks(struct bt *bt)
{
	for (unsigned flags = 0; flags < FLAGS_PLACES; flags++) {
		bt->leave[flags] = emit_exec(&bt->e);
		emit_stub_begins(&bt->e, flags);
		emit_jmp(&bt->e, bt->exit);
	}
}

#define LINK_MISSES 4
#define LINK_TO_MASK ((1u << LINK_TO_BITS) - 1)
#define LINK_TARGET  ((int32_t)offsetof(struct block_link, index) + 2) /* the word that has `target` in its lower bits */

/* Compares bits of the first word of the link in reg: equal where all are 0. */
static void emit_test_link(struct emitter *e, unsigned reg, uint32_t bits)
{
	emit_op(e, false, 0xf7, 0, at(reg, 0));
	emit32(e, bits);
}

/*
 * r11: an address, scratch[2]: a link that leads somewhere. Leaves the record of the link's successor in r10, if that is
 * what is at the address in this context; else goes to one of the misses. Clobbers rax, keeps r11.
 */
static void emit_find_successor(struct emitter *e, enum tlb_class class, uint8_t *miss[LINK_MISSES])
{
	_Static_assert(RECORD_UNIT == 8, "a shift by 3");
	emit_find_fetch(e, class, &miss[0]);
	emit_mov_imm(e, H_RAX, 0);
	emit_or_gpa(e, class);
	emit_load(e, H_R10, in_cpu(CPU_SCRATCH(2)));
	emit_load32(e, H_R10, at(H_R10, 0));
	emit_and(e, false, H_R10, LINK_TO_MASK);
	emit_shift(e, LEFT, H_R10, 3);
	emit_op(e, true, 0x03, H_R10, in_cpu(CPU_FIELD(records)));
	emit_op(e, true, 0x3b, H_RAX, at(H_R10, offsetof(struct block, gpa))); /* cmp */
	miss[1] = emit_branch_later(e, CC_NE);
	emit_load32(e, H_RAX, in_cpu(CPU_FIELD(mode)));
	emit_op(e, false, 0x3b, H_RAX, at(H_R10, offsetof(struct block, key)));
	miss[2] = emit_branch_later(e, CC_NE);
	miss[3] = emit_check_linear(e, at(H_R10, offsetof(struct block, linear)));
}

/*
 * r10: a link that leads nowhere in this context; rip_page is the target's page already. Where it leads somewhere in
 * another context, and to the same block here, this context's slot learns it.
 */
static void emit_link_thunk(struct bt *bt, enum tlb_class class)
{
	struct emitter *e = &bt->e;
	uint8_t *leave[3], *miss[LINK_MISSES], *in_host, *to_body[FLAGS_PLACES];

	for (unsigned flags = 0; flags < FLAGS_PLACES; flags++) {
		bt->link_missed[class][flags] = emit_exec(e);
		emit_stub_begins(e, flags);
		to_body[flags] = emit_branch_later(e, CC_ALWAYS);
	}
	for (unsigned flags = 0; flags < FLAGS_PLACES; flags++)
		emit_patch_here(e, to_body[flags]);
	if (bt->cpu->tune_off & ENGINE_TUNE_CODE_TABLE) {
		emit_jmp(e, bt->exit);
		return;
	}
	leave[0] = emit_kicked(e);
	emit_load32(e, H_R11, at(H_R10, 0));
	emit_and(e, false, H_R11, LINK_TABLE_MASK << LINK_TABLE_SHIFT);
	emit_op(e, false, 0x81, 7, in_reg(H_R11)); /* cmp */
	emit32(e, LINK_CONTEXT << LINK_TABLE_SHIFT);
	leave[1] = emit_branch_later(e, CC_NE);
	emit_test_link(e, H_R10, LINK_TO_MASK);
	leave[2] = emit_branch_later(e, CC_E);
	emit_store(e, in_cpu(CPU_SCRATCH(3)), H_RAX);
	emit_store(e, in_cpu(CPU_SCRATCH(2)), H_R10);
	emit_insn(e, (struct form){ .map = 1, .opcode = 0xb7 }, H_R11, at(H_R10, LINK_TARGET)); /* movzx */
	emit_and(e, false, H_R11, PAGE_SIZE - 1);
	emit_op(e, true, 0x03, H_R11, in_cpu(CPU_FIELD(rip_page)));
	emit_store(e, in_cpu(CPU_FIELD(rip)), H_R11);
	emit_find_successor(e, class, miss);
	emit_load(e, H_R11, in_cpu(CPU_SCRATCH(2)));
	emit_load32(e, H_RAX, at(H_R10, offsetof(struct block, code_mem)));
	emit_op(e, true, 0x03, H_RAX, in_cpu(CPU_FIELD(code)));
	emit_store(e, in_cpu(CPU_SCRATCH(2)), H_RAX); /* the way on from here */
	emit_insn(e, (struct form){ .map = 1, .opcode = 0xbe, .w = true }, H_R10, at(H_R10, offsetof(struct block, host_entry))); /* movsx */
	emit_test_link(e, H_R11, LINK_FLAGS_IN_CPU);
	in_host = emit_branch_later(e, CC_E);
	emit_mov_imm(e, H_R10, 0);
	emit_patch_here(e, in_host);
	emit_op(e, true, 0x03, H_R10, in_reg(H_RAX));
	emit_insn(e, (struct form){ .map = 1, .opcode = 0xb7 }, H_R11, at(H_R11, offsetof(struct block_link, index))); /* movzx */
	emit_store(e, in_cpu_indexed(H_R11, 3, LINK_TABLE), H_R10);
	emit_mark_used(e, class);
	emit_log(e, LINK_LOG, H_R11, H_RAX);
	emit_load(e, H_R10, in_cpu(CPU_SCRATCH(2)));
	emit_load(e, H_RAX, in_cpu(CPU_SCRATCH(3)));
	emit_jmp_reg(e, H_R10);

	for (unsigned i = 0; i < LINK_MISSES; i++)
		emit_patch_here(e, miss[i]);
	emit_load(e, H_RAX, in_cpu(CPU_SCRATCH(3)));
	emit_load(e, H_R10, in_cpu(CPU_SCRATCH(2)));
	for (unsigned i = 0; i < 3; i++)
		emit_patch_here(e, leave[i]);
	emit_jmp(e, bt->exit);
}

/*
 * r11: where a return goes that is not to the address on top of the return stack. Often it is to the one below: a
 * function was left by other means, or its call was only to learn where it stands.
 */
static void emit_return_thunk(struct bt *bt, enum tlb_class class)
{
	struct emitter *e = &bt->e;

	bt->return_unpaired[class] = emit_exec(e);
	emit_op(e, true, 0x3b, H_R11, at(H_RSP, RETURN_BELOW));
	emit_jcc(e, CC_NE, bt->jump_cached[class]);
	emit_lea(e, H_RSP, at(H_RSP, sizeof(struct return_entry)));
	emit8(e, 0xc3);
}

/* r11: where a return goes that met an entry without a call. */
static void emit_bottom_thunk(struct bt *bt)
{
	struct emitter *e = &bt->e;

	bt->return_without_call = emit_exec(e);
	emit_load(e, H_RSP, in_cpu(CPU_FIELD(return_bottom)));
	emit_store(e, in_cpu(CPU_FIELD(user_return_sp)), H_RSP);
	emit_jmp(e, bt->exit_indirect);
}

void bt_emit_jump_thunks(struct bt *bt)
{
	emit_leave_thunks(bt);
	for (unsigned class = 0; class < TLB_CLASSES; class++) {
		emit_jump_thunk(bt, class);
		emit_link_thunk(bt, class);
		emit_return_thunk(bt, class);
		emit_site_thunk(bt, class);
	}
	emit_site_empty_thunk(bt);
	emit_bottom_thunk(bt);
}

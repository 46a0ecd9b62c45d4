/*
 * Leaving a block: direct exits, which are linked to their successors (bt.h: struct block_link), and indirect ones,
 * which look into the jump cache. What is rarely executed stands behind the main line.
 */
#include "engine/soft/bt/forms.h"

/* r11 holds the target (offset in CS). Everything that C could want is in struct cpu. */
static void emit_indirect_exit(struct translation *t)
{
	bool cached = !(t->key & (MODE_STEP | KEY_ONE | KEY_SHORT)) && !(t->bt->cpu->tune_off & ENGINE_TUNE_JUMP_CACHE) &&
		      mode_has_jump_cache(t->key);

	flags_to_cpu(t);
	emit_jmp(t->e, cached ? t->bt->jump_cached[MODE_CLASS(t->key)] : t->bt->exit_indirect);
}

static void emit_branch_record(struct translation *t, uint32_t record)
{
	if (!t->code64)
		return;
	emit_op(t->e, false, 0xc7, 0, in_cpu(CPU_FIELD(branch)));
	emit32(t->e, record);
}

/* JMP, CALL and RET to r11: the dispatcher must find the branch where the target is not canonical. */
static void emit_branch_exit(struct translation *t, enum branch_kind kind, uint16_t extra)
{
	emit_branch_record(t, BRANCH_RECORD(kind, t->offset[t->i], extra));
	emit_indirect_exit(t);
}

/*
 * Jumps and calls through a pointer at a fixed place, which is what a PLT is made of, lead where they led last: an entry of
 * the context's site[] says so. (Other calls through pointers lead elsewhere too often.) Without a look at the kick word:
 * every loop also has a backward jump or another indirect one, and a hostile one is what native_rescue() is for.
 */
static bool has_site(const struct translation *t)
{
	const struct insn *insn = &t->insn[t->i];

	return t->code64 && !(t->key & (MODE_STEP | KEY_ONE | KEY_SHORT)) && insn->is_memory &&
	       insn->base == INSN_BASE_RIP && insn->index == INSN_NO_REG &&
	       !(t->bt->cpu->tune_off & (ENGINE_TUNE_SITES | ENGINE_TUNE_JUMP_CACHE));
}

/* r11: the target. Goes aside where it is another one than last time; else rip_page is set. Returns the entry's offset. */
static int32_t emit_site(struct translation *t, enum branch_kind kind, struct cold_exit **cold)
{
	struct emitter *e = t->e;
	int32_t site = SITE(MODE_CLASS(t->key)) + (int32_t)(t->bt->sites++ % CALL_SITES * sizeof(struct jump_entry));

	flags_to_cpu(t);
	emit_op(e, true, 0x3b, H_R11, in_cpu(site)); /* cmp */
	*cold = &t->cold[t->cold_count++];
	**cold = (struct cold_exit){ .flags = t->flags, .insn = t->i, .key = t->key, .site = site,
				     .branch = BRANCH_RECORD(kind, t->offset[t->i], 0) };
	(*cold)->from = emit_branch_later(e, CC_NE);
	emit_op(e, true, 0x81, 4, in_reg(H_R11)); /* and */
	emit32(e, (uint32_t)PAGE_MASK);
	emit_store(e, in_cpu(CPU_FIELD(rip_page)), H_R11);
	return site + (int32_t)offsetof(struct jump_entry, code);
}

static void emit_site_missed(struct translation *t, const struct cold_exit *cold)
{
	struct emitter *e = t->e;

	emit_branch_record(t, cold->branch);
	emit_op(e, true, 0xc7, 0, in_cpu(CPU_SCRATCH(1)));
	emit32(e, cold->site);
	if (!cold->way_on) {
		emit_jmp(e, t->bt->site_missed[MODE_CLASS(t->key)]);
		return;
	}
	emit_mov_imm(e, H_R10, (uintptr_t)t->bt->site_missed[MODE_CLASS(t->key)]);
	emit_jmp(e, cold->way_on);
}

void emit_indirect_jump(struct translation *t)
{
	struct cold_exit *cold;

	if (!has_site(t)) {
		emit_branch_exit(t, BRANCH_JMP, 0);
		return;
	}
	emit_op(t->e, false, 0xff, 4, in_cpu(emit_site(t, BRANCH_JMP, &cold))); /* jmp */
}

/*
 * May calls and returns use the return stack? The key must be the same at the return, and nothing but STAC and CLAC
 * changes it within translated code.
 */
static bool has_return_stack(const struct translation *t)
{
	return t->code64 && !(t->key & (MODE_STEP | KEY_ONE | KEY_SHORT)) &&
	       MODE_CLASS(t->key) != TLB_SUPER_AC && !t->block->crosses_page &&
	       !(t->bt->cpu->tune_off & (ENGINE_TUNE_CHAIN | ENGINE_TUNE_JUMP_CACHE | ENGINE_TUNE_RETURNS));
}

/*
 * A call whose return address is on another page has no entry, for that page may be mapped elsewhere; nor has one
 * whose push comes back from C without the address in r11.
 */
static bool has_return_entry(const struct translation *t)
{
	return has_return_stack(t) && !t->careful && t->insn[t->i].operand_size == 8 && t->offset[t->count] < PAGE_SIZE;
}

/* The guest's return address, in r11, onto the return stack. A host call must follow. Keeps the flags. */
static void emit_push_entry(struct translation *t)
{
	emit_push_reg(t->e, H_R11);
}

/* Behind a host call: a return has come back, with its target in r11 and the flags in struct cpu. */
static void emit_return_point(struct translation *t)
{
	struct emitter *e = t->e;
	enum flags_place before = t->flags;

	emit_pop_reg(e, H_R11); /* what is there already, in fewer bytes than another way to drop it */
	if (t->linear_known && fits32((int64_t)t->linear)) {
		emit_op(e, true, 0xc7, 0, in_cpu(CPU_FIELD(rip_page)));
		emit32(e, t->linear);
	} else {
		emit_op(e, true, 0x81, 4, in_reg(H_R11)); /* and r11, page */
		emit32(e, (uint32_t)PAGE_MASK);
		emit_store(e, in_cpu(CPU_FIELD(rip_page)), H_R11);
	}
	t->flags = FLAGS_CPU;
	emit_next_exit(t);
	t->flags = before;
}

/* The target as a value in r11: the page of this block plus an offset. */
void emit_target(struct translation *t, int64_t offset)
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

/* To `offset` by the dispatcher, whatever links and caches know. */
static void emit_dispatch(struct translation *t, int64_t offset)
{
	flags_to_cpu(t);
	emit_target(t, offset);
	emit_jmp(t->e, t->bt->exit_indirect);
}

/* A backward branch within the page leaves when there is something to poll. */
static void emit_kick_check(struct translation *t, uint8_t **leave)
{
	emit_compare_kick(t->e);
	*leave = emit_branch_later(t->e, CC_NE);
}

static struct block_link *new_link(struct translation *t, int64_t target)
{
	uint8_t number = t->block->link_count++;
	struct block_link *link = &t->block->link[number];

	*link = (struct block_link){ .number = number, .class = MODE_CLASS(t->key), .target = target & (PAGE_SIZE - 1) };
	return link;
}

/* The link's rel32 stands there. */
static void set_patch(const struct translation *t, struct block_link *link, const uint8_t *at_rw)
{
	const uint8_t *aside = t->bt->code_rw + t->block->aside;

	link->patch_aside = at_rw >= aside;
	link->patch = at_rw - (link->patch_aside ? aside : t->base_rw);
}

/*
 * Where a link leads that leads nowhere yet, or when kicked. The thunk does what its flags need, and finds the link by
 * its place among the records (code_parts.h: bt_alloc).
 */
static void emit_link_stub(struct translation *t, struct block_link *link, uint8_t *const thunk[FLAGS_PLACES])
{
	link->stub = t->e->p - (t->bt->code_rw + t->block->aside);
	emit_mov_imm(t->e, H_R10, (uint8_t *)link - t->bt->arena_start);
	emit_jmp(t->e, thunk[t->flags]);
}

/*
 * A direct exit to another page. Taken for the first time it gets a slot of the context's (or a global) link table
 * (links.c: take_slot). False where that is not possible. Consumes t->flags.
 */
static bool emit_far_exit(struct translation *t, int64_t offset, unsigned live, bool call)
{
	static const uint8_t nop[] = { FAR_BRANCH_NOP };
	struct emitter *e = t->e;
	struct block_link *link;
	bool backward = offset < 0 && t->insn[t->i].op != BT_CALL;
	int64_t page = offset & ~(int64_t)(PAGE_SIZE - 1);
	uint8_t *leave = NULL;
	enum flags_place at_kick;

	if (!t->code64 || t->key & (MODE_STEP | KEY_ONE | KEY_SHORT) || t->block->crosses_page ||
	    (!t->linear_known && bt_is_aliased(t->bt, t->block->gpa)) ||
	    t->bt->cpu->tune_off & (ENGINE_TUNE_CHAIN | ENGINE_TUNE_JUMP_CACHE) || !fits32(page) || !fits32(page - (int64_t)PAGE_SIZE))
		return false;
	link = new_link(t, offset);
	if (backward) {
		/* Every loop has a backward jump or an indirect one: calls need no look at the kick word. */
		flags_before_clobber(t, live);
		emit_kick_check(t, &leave);
	}
	at_kick = t->flags;
	flags_settle(t, live);
	link->table = LINK_FAR;
	link->call = call;
	link->flags = t->flags;
	link->flags_in_cpu = t->flags == FLAGS_CPU;
	link->global = t->linear_known && t->linear >> 63 && t->bt->cpu->cr4 & CR4_PGE;
	if (call)
		emit_push_entry(t);
	if (t->linear_known && fits32((int64_t)t->linear + page)) {
		emit_op(e, true, 0xc7, 0, in_cpu(CPU_FIELD(rip_page)));
		emit32(e, t->linear + page);
	} else {
		/* a call has left the return address in r11 */
		if (!call)
			emit_load(e, H_R11, in_cpu(CPU_FIELD(rip_page)));
		emit_lea(e, H_R11, at(H_R11, page - (call ? t->offset[t->count] : 0)));
		emit_store(e, in_cpu(CPU_FIELD(rip_page)), H_R11);
	}
	for (unsigned i = 0; i < sizeof(nop); i++)
		emit8(e, nop[i]);
	set_patch(t, link, call ? emit_call_later(e) : emit_branch_later(e, CC_ALWAYS));
	if (call)
		emit_return_point(t);
	e = emit_aside(t);
	emit_patch_here(e, link_patch(t->bt, link));
	emit_link_stub(t, link, t->bt->link_missed[MODE_CLASS(t->key)]);
	if (leave) {
		emit_patch_here(e, leave);
		t->flags = at_kick;
		emit_dispatch(t, offset);
	}
	emit_main_line(t);
	return true;
}

enum exit_kind { EXIT_NEXT, EXIT_JUMP, EXIT_CALL };

/* A jump back to the start of a block that is a loop. Consumes t->flags. */
static void emit_loop_jump(struct translation *t, unsigned live)
{
	struct cold_exit *cold = &t->cold[t->cold_count++];

	flags_before_clobber(t, live);
	emit_compare_kick(t->e);
	*cold = (struct cold_exit){ .offset = t->offset[0], .flags = t->flags, .flags_source = t->flags_source, .insn = t->i, .key = t->key, .kicked = true };
	cold->from = emit_branch_later(t->e, CC_NE);
	emit_jmp(t->e, t->loop);
}

/* SDM, JMP: an operand size of 16 bits clears the upper half of EIP. What merely goes on keeps it, also in 16-bit code. */
static bool cuts_target(const struct translation *t)
{
	return !t->code64 && t->insn[t->i].operand_size == 2;
}

/*
 * A direct exit to `offset`. The block's flags state at this point is t->flags and is left as it was, because
 * the other exit of the block starts from it. EXIT_CALL: r11 has the return address, of which an entry is made.
 */
static void emit_exit_to(struct translation *t, int64_t offset, unsigned live, enum exit_kind kind)
{
	bool call = kind == EXIT_CALL && has_return_entry(t), cut = kind != EXIT_NEXT && cuts_target(t);
	struct emitter *e = t->e;
	struct block_link *link;
	enum flags_place before = t->flags, at_kick, settled;
	uint8_t *leave = NULL;
	bool in_page = offset >= 0 && offset < (int64_t)PAGE_SIZE;

	if (t->loop && kind == EXIT_JUMP && offset == t->offset[0]) {
		emit_loop_jump(t, live);
		t->flags = before;
		return;
	}
	emit_residence_leave(t);
	if (t->counted)
		flags_to_cpu(t); /* every block expects them there */
	if (cut || (!t->code64 && !(t->key & MODE_CODE32))) {
		emit_target(t, offset);
		if (cut)
			emit_insn(e, (struct form){ .map = 1, .opcode = 0xb7 }, H_R11, in_reg(H_R11)); /* movzx */
		emit_indirect_exit(t);
		t->flags = before;
		return;
	}
	if (!in_page && emit_far_exit(t, offset, live, call)) {
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
	link = new_link(t, offset);
	if (offset <= t->offset[t->i]) {
		flags_before_clobber(t, live);
		emit_kick_check(t, &leave);
	}
	at_kick = t->flags;
	flags_settle(t, live);
	link->flags_in_cpu = t->flags == FLAGS_CPU;
	if (call)
		emit_push_entry(t);
	set_patch(t, link, call ? emit_call_later(e) : emit_branch_later(e, CC_ALWAYS));
	if (call)
		emit_return_point(t);
	settled = t->flags;
	e = emit_aside(t);
	if (leave) {
		emit_patch_here(e, leave);
		t->flags = at_kick;
		flags_settle(t, live);
	}
	t->flags = settled;
	emit_patch_here(e, link_patch(t->bt, link));
	emit_link_stub(t, link, t->bt->leave);
	emit_main_line(t);
	t->flags = before;
}

void emit_direct_exit(struct translation *t, int64_t offset, unsigned live)
{
	emit_exit_to(t, offset, live, EXIT_JUMP);
}

void emit_next_exit(struct translation *t)
{
	emit_exit_to(t, t->offset[t->count], t->live_before[t->count], EXIT_NEXT);
}

void emit_direct_call(struct translation *t, int64_t offset, unsigned live)
{
	emit_exit_to(t, offset, live, EXIT_CALL);
}

void emit_indirect_call(struct translation *t)
{
	bool entry = has_return_entry(t);

	if (entry)
		emit_push_entry(t);
	emit_load(t->e, H_R11, in_cpu(CPU_SCRATCH(0)));
	if (!entry) {
		emit_branch_exit(t, BRANCH_CALL, 0);
		return;
	}
	if (has_site(t)) {
		struct cold_exit *cold;

		emit_load(t->e, H_R10, in_cpu(emit_site(t, BRANCH_CALL, &cold)));
		cold->way_on = emit_exec(t->e);
		emit_op(t->e, false, 0xff, 2, in_reg(H_R10)); /* call */
	} else {
		emit_branch_record(t, BRANCH_RECORD(BRANCH_CALL, t->offset[t->i], 0));
		flags_to_cpu(t);
		emit_call(t->e, t->bt->jump_cached[MODE_CLASS(t->key)]);
	}
	emit_return_point(t);
}

void emit_return(struct translation *t, unsigned size, uint16_t extra)
{
	struct emitter *e = t->e;
	struct cold_exit *cold;

	if (!has_return_stack(t) || size != 8) {
		emit_branch_exit(t, BRANCH_RET, extra);
		return;
	}
	flags_to_cpu(t);
	emit_op(e, true, 0x3b, H_R11, at(H_RSP, RETURN_TOP)); /* cmp */
	cold = &t->cold[t->cold_count++];
	*cold = (struct cold_exit){ .flags = t->flags, .insn = t->i, .key = t->key,
				    .unpaired_return = BRANCH_RECORD(BRANCH_RET, t->offset[t->i], extra) };
	cold->from = emit_branch_later(e, CC_NE);
	emit8(e, 0xc3); /* ret */
}

/* May the branch be patched to lead straight to its target's block? */
static bool is_patchable(const struct translation *t, int64_t offset)
{
	return (t->code64 || t->key & MODE_CODE32) && !cuts_target(t) && offset >= 0 && offset < (int64_t)PAGE_SIZE &&
	       !(t->key & (MODE_STEP | KEY_ONE | KEY_SHORT)) && !(t->bt->cpu->tune_off & ENGINE_TUNE_CHAIN);
}

/*
 * The backward branch of a loop, with its look at the kick word in the main line: taken, it is one branch. Leaves
 * t->flags as they are where it is not taken.
 */
static void emit_loop_branch(struct translation *t, unsigned condition, struct cold_exit *cold)
{
	struct emitter *e = t->e;
	enum flags_place before = t->flags;
	uint8_t *not_taken = emit_branch_later(e, condition ^ 1);

	flags_before_clobber(t, cold->kicked ? t->live_before[0] : t->live_at_target[t->i]);
	emit_compare_kick(e);
	cold->flags = t->flags;
	if (cold->kicked) {
		emit_jcc(e, CC_E, t->loop);
		cold->from = emit_branch_later(e, CC_ALWAYS);
	} else if (t->lodgers || t->flags == FLAGS_AGAIN) {
		cold->from = emit_branch_later(e, CC_NE);
		flags_settle(t, t->live_at_target[t->i]);
		emit_residence_leave(t);
		set_patch(t, cold->link, emit_branch_later(e, CC_ALWAYS));
	} else {
		set_patch(t, cold->link, emit_branch_later(e, CC_E));
		cold->from = emit_branch_later(e, CC_ALWAYS);
	}
	if (cold->link)
		cold->link->flags_in_cpu = t->flags == FLAGS_CPU;
	emit_patch_here(e, not_taken);
	t->flags = before;
}

/* Jcc: the taken way's code stands behind the main line, which goes on with the next instruction. */
void emit_conditional(struct translation *t, const struct insn *insn, int64_t next)
{
	struct emitter *e = t->e;
	struct cold_exit *cold = &t->cold[t->cold_count++];
	unsigned condition = insn->opcode & 15;

	flags_to_host(t, H_R11);
	if (t->counted && t->flags == FLAGS_HOST) {
		/* every block expects them in struct cpu */
		flags_emit_save(e, H_R10);
		t->r10_slot = NO_GROUP;
		t->flags = FLAGS_BOTH;
	}
	*cold = (struct cold_exit){ .offset = next + insn->imm, .flags = t->flags, .flags_source = t->flags_source,
				    .insn = t->i, .key = t->key };
	if (t->loop && returns_to_start(t, t->i)) {
		cold->kicked = true;
		emit_loop_branch(t, condition, cold);
		return;
	}
	if (is_patchable(t, cold->offset)) {
		cold->link = new_link(t, cold->offset);
		if (cold->offset <= t->offset[t->i]) {
			emit_loop_branch(t, condition, cold);
			return;
		}
	}
	cold->from = emit_branch_later(e, condition);
	if (cold->link && !t->lodgers)
		set_patch(t, cold->link, cold->from);
}

static void emit_cold_exit(struct translation *t, const struct cold_exit *cold)
{
	struct emitter *e = t->e;

	emit_patch_here(e, cold->from);
	if (cold->link)
		flags_settle(t, t->live_at_target[t->i]);
	if (cold->unpaired_return) {
		emit_branch_record(t, cold->unpaired_return);
		emit_jmp(e, t->bt->return_unpaired[MODE_CLASS(t->key)]);
	} else if (cold->site) {
		emit_site_missed(t, cold);
	} else if (cold->op) {
		emit_op_call(t, &t->insn[t->i], cold->op, true);
	} else if (cold->kicked) {
		emit_residence_leave(t);
		emit_dispatch(t, cold->offset);
	} else if (cold->link) {
		emit_residence_leave(t);
		if (!cold->link->patch)
			set_patch(t, cold->link, emit_branch_later(e, CC_ALWAYS));
		emit_patch_here(e, link_patch(t->bt, cold->link));
		emit_link_stub(t, cold->link, t->bt->leave);
	} else {
		emit_direct_exit(t, cold->offset, t->live_at_target[t->i]);
	}
}

void emit_cold_exits(struct translation *t)
{
	for (unsigned i = 0; i < t->cold_count && !t->bt->e.overflow; i++) {
		const struct cold_exit *cold = &t->cold[i];

		t->i = cold->insn;
		t->flags = cold->flags;
		t->flags_source = cold->flags_source;
		t->key = cold->key;
		/* An exit to another page is as often taken as not; the others lead out of translated code. */
		if (cold->unpaired_return || cold->site || cold->op || cold->link || cold->kicked)
			emit_aside(t);
		emit_cold_exit(t, cold);
		emit_main_line(t);
	}
}

/* LOOPNE, LOOPE, LOOP, JCXZ: through RCX of the address size, flags untouched. */
void emit_loop_exit(struct translation *t, const struct insn *insn, int64_t next)
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
	emit_next_exit(t);
}

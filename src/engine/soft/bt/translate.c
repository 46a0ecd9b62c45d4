/*
 * Guest block -> host block: decoding, liveness of the flags, and the way from instruction to instruction. What a
 * computing instruction becomes is native.c's business, the others are forms.h's and inline_ops.h's.
 *
 * A block ends at a control transfer, before the end of its page, or after an op that may change the mode key
 * or the mapping. Liveness runs backwards over the decoded instructions; at the block's end every flag is
 * taken to be live, unless the successor, looked at in the same page, overwrites it first. The bytes looked at
 * count as bytes that the block depends on.
 */
#include "engine/soft/bt/translate.h"

#include "engine/soft/bt/decode.h"
#include "engine/soft/bt/forms.h"
#include "engine/soft/bt/inline_ops.h"
#include "engine/soft/cpu/debugger.h"

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
	case BT_SYSCALL:
	case BT_SYSRET:
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
	case BT_MOV_FROM_CR:
	case BT_READ_BASE:
		return live_after;
	default:
		return SHAPE_ALL; /* C code sees them exactly */
	}
}

/* The block depends on bytes [first, end) of its page, which may lie apart from its own. */
static void note_bytes_ahead(struct translation *t, unsigned first, unsigned end)
{
	struct block *block = t->block;
	struct byte_range *last = &block->ahead[BLOCK_RANGES_AHEAD - 1], own = block_own_bytes(block);

	t->granules |= range_granules((struct byte_range){ first, end });
	if (first >= own.first && end <= own.end)
		return;
	for (unsigned i = 0; i < BLOCK_RANGES_AHEAD; i++) {
		struct byte_range *range = &block->ahead[i];

		if (!range->end) {
			*range = (struct byte_range){ first, end };
			return;
		}
		if (first <= range->end && end >= range->first) {
			last = range;
			break;
		}
	}
	/* Where there is no place left, a range gets what lies between as well. */
	t->ranges_joined |= first > last->end || end < last->first;
	if (first < last->first)
		last->first = first;
	if (end > last->end)
		last->end = end;
}

/*
 * The flags that code at `offset` of the page needs, as far as a few instructions tell. Notes the bytes that it
 * looked at.
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
		note_bytes_ahead(t, offset, offset + insn.length);
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

/* Does all code for the instruction that uses r10 say so in t->r10_slot? */
static bool tells_of_r10(const struct insn *insn)
{
	switch (insn->op) {
	case BT_NATIVE:
	case BT_NOP:
	case BT_LEA:
	case BT_MOV_IMM:
	case BT_JCC:
	case BT_PUSH:
	case BT_POP:
	case BT_PUSH_IMM:
	case BT_LEAVE:
	case BT_CALL:
	case BT_RET:
		return true;
	default:
		return false;
	}
}

static void emit_one(struct translation *t, const struct insn *insn, const struct shape *shape)
{
	struct emitter *e = t->e;
	int64_t next = t->offset[t->i + 1];

	if (!tells_of_r10(insn))
		t->r10_slot = NO_GROUP;
	if (insn->op != BT_NATIVE)
		t->r11_guest = INSN_NO_REG;
	emit_stack_pointer(t);
	if (t->flags == FLAGS_AGAIN && !flags_may_wait(t))
		flags_to_host(t, H_R10);

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
		emit_direct_call(t, next + insn->imm, t->live_at_target[t->i]);
		break;
	case BT_RET:
		emit_ret(t, insn);
		break;
	case BT_JMP_RM:
		emit_rm_to_r11(t, insn);
		emit_indirect_jump(t);
		break;
	case BT_CALL_RM:
		emit_rm_to_scratch(t, insn, insn->operand_size);
		emit_push_return(t, insn->operand_size);
		emit_indirect_call(t);
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
		emit_push_scratch(t, insn->operand_size);
		break;
	case BT_POPF:
		emit_popf(t, insn);
		break;
	case BT_STRING:
		emit_string(t, insn);
		break;
	case BT_SYSCALL:
		emit_syscall(t, insn);
		break;
	case BT_SYSRET:
		emit_sysret(t, insn);
		break;
	case BT_MOV_FROM_CR:
		emit_mov_from_cr(t, insn);
		break;
	case BT_READ_BASE:
		emit_read_base(t, insn);
		break;
	case BT_WRITE_BASE:
		emit_write_base(t, insn);
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

/*
 * The address of a group's range in r11: a range over two pages may have a way to a block without groups, which stands in
 * the rel32 of the branch (block_connect_single); all else C looks at.
 */
static void emit_slow_group(struct translation *t, const struct group_access *group)
{
	struct emitter *e = t->e;

	if (!t->counted) {
		emit_lea(e, H_R10, at(H_R11, group->range - 1));
		emit_op(e, false, 0x33, H_R10, in_reg(H_R11)); /* xor */
		emit_op(e, false, 0xc1, 5, in_reg(H_R10)); /* shr */
		emit8(e, PAGE_SHIFT);
		emit_branch_later(e, CC_NE);
	}
	emit_mov_imm(e, H_R10, (uint32_t)((const uint8_t *)group - t->bt->arena_start));
	emit_call(e, t->bt->slow_group);
}

/* The stack window's thunk, and the jump back that it returns to where it has found the page. */
static void emit_window_call(struct translation *t, const struct slow_stub *stub, uint8_t *const thunk[TLB_CLASSES][2])
{
	bool write = ACCESS_USE(stub->access) & USE_WRITE;

	emit_mov_imm(t->e, H_R10, PAGE_SIZE - stub->reach);
	emit_call(t->e, thunk[MODE_CLASS(stub->key)][write]);
	emit_jmp(t->e, stub->resume + t->e->exec_offset);
}

/*
 * An access by itself through the stack window: its description follows the jump back (thunks.c: emit_described_thunk),
 * for it is hardly ever looked at.
 */
static void emit_window_stub(struct translation *t, const struct slow_stub *stub)
{
	emit_window_call(t, stub, t->bt->window_access);
	emit32(t->e, stub->access);
}

/* The address of a stub's access into r11; or back to the main line where the stack window's thunk has found the page. */
static void emit_stub_address(struct translation *t, const struct slow_stub *stub)
{
	struct emitter *e = t->e;

	switch (stub->kind) {
	case LOOK_UP_ADDEND:
	case LOOK_UP_ADDRESS:
		emit_op(e, true, 0x33, H_R11, in_tlb(stub->tlb_offset)); /* xor */
		break;
	case LOOK_UP_CONSTANT:
		emit_mov_imm(e, H_R11, (int64_t)stub->address);
		break;
	case LOOK_UP_PAGE:
		emit_lea(e, H_R11, at(H_R11, stub->offset));
		break;
	case LOOK_UP_WINDOW:
		emit_window_call(t, stub, t->bt->window_missed); /* or behind the jump, with the address in r11 */
		break;
	}
}

static void emit_stubs(struct translation *t)
{
	struct emitter *e = emit_aside(t);

	for (unsigned i = 0; i < t->stub_count && !e->overflow; i++) {
		const struct slow_stub *stub = &t->stub[i];

		emit_patch_here(e, stub->from);
		if (stub->flags_source != NO_SOURCE)
			flags_emit_save_again(t, stub->flags_source);
		if (stub->kind == LOOK_UP_WINDOW && !stub->group && !t->lodgers) {
			emit_window_stub(t, stub);
			continue;
		}
		emit_stub_address(t, stub);
		emit_residence_leave(t);
		if (stub->group) {
			emit_slow_group(t, stub->group);
		} else {
			emit_mov_imm(e, H_R10, stub->access);
			emit_call(e, t->bt->slow_access);
		}
		emit_residence_enter(t);
		if (stub->kind == LOOK_UP_PAGE)
			emit_lea(e, H_R11, at_indexed(H_R11, H_R10, 0, -(int32_t)stub->offset));
		else if (stub->kind == LOOK_UP_ADDRESS)
			emit_op(e, true, 0x03, H_R11, in_reg(H_R10));
		emit_jmp(e, stub->resume + e->exec_offset);
	}
	emit_main_line(t);
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

/*
 * A block goes on behind some conditional branches: not behind that of a loop, for what follows would take registers that
 * the loop lends (residence.h), nor where a block begins already, so that less code stands twice. Nor under the
 * deterministic clock, which counts whole blocks.
 */
static bool goes_on_behind(const struct translation *t)
{
	unsigned branches = 0, offset = t->offset[t->count];

	for (unsigned i = 0; i < t->count; i++)
		branches += t->insn[i].op == BT_JCC;
	if (branches > BLOCK_SIDE_EXITS || t->bt->cpu->clock != ENGINE_CLOCK_REAL || t->bt->cpu->tune_off & ENGINE_TUNE_EXTEND)
		return false;
	return !returns_to_start(t, t->count - 1) &&
	       !(offset < PAGE_SIZE && block_find(t->bt, t->gpa_page + offset, t->key, t->linear + offset));
}

/* Decodes up to max instructions; returns false where the first one faults already at decoding. */
static void decode_block(struct translation *t, const uint8_t *page, unsigned offset, unsigned max,
			 const uint8_t *second)
{
	unsigned code_size = code_size_of(t->key);
	bool vex = t->key & MODE_PROTECTED && !(t->key & MODE_V86);

	t->offset[0] = offset;
	while (t->count < max && offset < PAGE_SIZE && !(t->count && debugger_cuts(t->bt->cpu, offset))) {
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

/* How many links the block can have at most. */
static unsigned count_links(const struct translation *t)
{
	const struct insn *last = &t->insn[t->count - 1];
	unsigned links = !ends_block(last) || last->op == BT_JCC; /* where it goes on behind the last one */

	for (unsigned i = 0; i < t->count; i++) {
		const struct insn *insn = &t->insn[i];

		/* LOOP has two ways, and a call comes back. */
		links += has_target(insn) + (insn->op == BT_LOOP || insn->op == BT_CALL || insn->op == BT_CALL_RM);
	}
	return links;
}

static void note_bytes(struct translation *t)
{
	unsigned end = t->offset[t->count];

	/* What is not an instruction may be one with other bytes behind it. */
	if (t->insn[t->count - 1].op == BT_UNDEFINED)
		end = t->offset[t->count - 1] + INSN_MAX_LENGTH + 1;
	t->block->own_end = end;
	t->granules = range_granules(block_own_bytes(t->block));
	t->ranges_joined = false;
}

/* Where native faults may be; 0: no memory. */
static record_place make_sites(struct translation *t)
{
	struct native_sites *sites = bt_alloc(t->bt, sizeof(*sites) + t->site_count * sizeof(sites->site[0]));

	if (!sites)
		return 0;
	sites->count = t->site_count;
	memcpy(sites->site, t->site, t->site_count * sizeof(sites->site[0]));
	return place_of(t->bt, sites);
}

/* What few blocks have. False: no memory. */
static bool make_extra(struct translation *t)
{
	struct block_extra *extra;

	if (!t->site_count && !t->lodgers && !t->ranges_joined)
		return true;
	extra = block_make_extra(t->bt, t->block);
	if (!extra)
		return false;
	if (t->ranges_joined)
		extra->granules = t->granules;
	if (t->site_count) {
		extra->sites = make_sites(t);
		if (!extra->sites)
			return false;
	}
	extra->lodgers = t->lodgers;
	memcpy(extra->lodger, t->lodger, sizeof(extra->lodger));
	return true;
}

/* LOCKs the record of what was emitted into the block. */
static bool finish(struct translation *t)
{
	struct bt *bt = t->bt;
	struct block *block = t->block;

	block->insn_count = t->count;
	block->code_size = t->e->p - t->base_rw;
	return make_extra(t) && !bt->e.overflow && !bt->cold.overflow;
}

static bool note_second_page(struct translation *t, uint64_t gpa2)
{
	struct block_extra *extra = block_make_extra(t->bt, t->block);

	if (!extra)
		return false;
	t->block->crosses_page = true;
	extra->gpa2 = gpa2;
	return true;
}

/*
 * Is the first thing that the block does with its flags to save them? Then it begins with them in struct cpu, where jump
 * caches, returns and C leave them, and its other entry saves them.
 */
static bool saves_flags_first(const struct translation *t)
{
	if (!t->live_before[0] || t->bt->cpu->tune_off & ENGINE_TUNE_FLAGS)
		return false;
	for (unsigned i = 0; i < t->count; i++) {
		const struct insn *insn = &t->insn[i];
		const struct shape *shape = &t->shape[i];

		switch (insn->op) {
		case BT_NOP:
		case BT_LEA:
		case BT_MOV_IMM:
		case BT_BSWAP:
			break;
		case BT_NATIVE:
			if (insn->is_memory && shape->memory_use)
				return true;
			if (shape->flags_read || shape->flags_written)
				return false;
			break;
		case BT_PUSH:
		case BT_POP:
		case BT_PUSH_IMM:
		case BT_PUSH_RM:
		case BT_LEAVE:
		case BT_CALL:
		case BT_CALL_RM:
		case BT_RET:
		case BT_JMP_RM:
			return true;
		default:
			return insn->op >= BT_OP;
		}
	}
	return false;
}

struct block *translate(struct bt *bt, uint64_t gpa, uint64_t linear, uint32_t key, const uint8_t *page,
			unsigned max_insns, const uint8_t *second, uint64_t gpa2)
{
	struct translation t;
	struct emitter *e = &bt->e;
	uint8_t *used_up = NULL, *start_rw, *cold_rw;
	struct block *block;

	if (e->end - e->p < BLOCK_BUFFER || bt->cold.end - bt->cold.p < BLOCK_BUFFER_ASIDE)
		return NULL;
	t.bt = bt;
	t.e = e;
	t.key = key & ~KEY_NO_GROUPS;
	t.single = key & KEY_NO_GROUPS;
	t.code64 = key & MODE_CODE64;
	t.careful = key & (KEY_CAREFUL | MODE_ALIGN) || (!t.code64 && !(key & MODE_FLAT && key & MODE_CODE32)) ||
		    bt->cpu->tune_off & ENGINE_TUNE_FAST_TLB;
	/* Non-flat segments in 32-bit code are seen per instruction. */
	t.counted = bt->cpu->clock == ENGINE_CLOCK_DETERMINISTIC;
	t.linear = linear & PAGE_MASK;
	t.gpa_page = gpa & PAGE_MASK;
	t.count = t.stub_count = t.site_count = t.cold_count = 0;
	decode_block(&t, page, gpa & (PAGE_SIZE - 1), key & (MODE_STEP | KEY_ONE) ? 1 : max_insns, second);
	t.block = block = bt_alloc(bt, sizeof(*block) + (t.count ? count_links(&t) : 0) * sizeof(block->link[0]));
	if (!block)
		return NULL;
	*block = (struct block){ .gpa = gpa, .key = key, .linear = block_linear_key(bt, linear, key) };
	t.linear_known = block->linear;
	if (t.count == 0)
		return block; /* the first instruction runs into the next page: insn_count 0 says so */
	note_bytes(&t);
	if (second && !note_second_page(&t, gpa2))
		return NULL;
	compute_liveness(&t, page);
	plan_groups(&t);
	residence_plan(&t);

	e->overflow = bt->cold.overflow = false;
	start_rw = e->p;
	t.flags = FLAGS_CPU;
	if (!t.counted && !saves_flags_first(&t))
		t.flags = FLAGS_HOST;
	else if (!t.counted)
		flags_emit_save(e, H_R10);
	t.base_rw = e->p;
	cold_rw = bt->cold.p;
	block->code_mem = e->p - bt->code_rw;
	block->aside = cold_rw - bt->code_rw;
	if (t.counted) {
		emit_op(e, true, 0x81, 5, in_cpu(CPU_FIELD(budget))); /* sub */
		emit32(e, t.count);
		used_up = emit_branch_later(e, CC_S);
	} else if (t.flags == FLAGS_CPU) {
		block->host_entry = start_rw - t.base_rw;
	} else {
		if (t.live_before[0])
			flags_emit_restore(e, H_R10);
		block->host_entry = e->p - t.base_rw;
	}
	emit_residence_enter(&t);
	t.loop = t.lodgers ? emit_exec(e) : NULL;
	t.r10_slot = NO_GROUP;
	t.r11_guest = INSN_NO_REG;
	t.stack_owed = 0;
	t.flags_source = NO_SOURCE;
	for (t.i = 0; t.i < t.count; t.i++) {
		bool careful = t.careful;

		/* FS and GS have limits of their own outside 64-bit code, and CS is not writable. */
		if (!t.code64 && (t.insn[t.i].is_memory || t.insn[t.i].op == BT_XLAT) &&
		    (t.insn[t.i].segment == SEG_FS || t.insn[t.i].segment == SEG_GS || t.insn[t.i].segment == SEG_CS))
			t.careful = true;
		t.access = 0;
		emit_one(&t, &t.insn[t.i], &t.shape[t.i]);
		flags_note_source(&t);
		t.careful = careful;
	}
	const struct insn *last = &t.insn[t.count - 1];

	emit_stack_settle(&t);
	if (!ends_block(last) || last->op == BT_JCC) {
		t.i = t.count - 1;
		emit_next_exit(&t);
	}
	emit_cold_exits(&t);
	emit_stubs(&t);
	if (used_up) {
		/* The budget ends within the block: the dispatcher makes a shorter one. */
		e = emit_aside(&t);
		emit_patch_here(e, used_up);
		emit_op(e, true, 0x81, 0, in_cpu(CPU_FIELD(budget))); /* add */
		emit32(e, t.count);
		emit_target(&t, t.offset[0]);
		emit_jmp(e, bt->exit_indirect);
		e = emit_main_line(&t);
	}
	if (!finish(&t)) {
		e->p = start_rw;
		bt->cold.p = cold_rw;
		return NULL;
	}
	bt->translated_blocks++;
	return block;
}

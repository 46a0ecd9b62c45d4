/*
 * One computing instruction: registers renamed, memory operand redirected, everything else as it is.
 *
 * The order within an instruction is what makes exceptions exact: first every memory access is checked (the
 * only step that can fault into C), then registers are borrowed for guest registers that live in memory, then
 * the operation runs, then results and borrowed registers go back. A native fault of the operation itself
 * finds the borrowed registers through its native_site.
 */
#include "engine/soft/bt/forms.h"

const uint8_t access_sizes[16] = { 1, 2, 4, 8, 16, 32, 6, 10, 12, 14, 28, 64, 3, 5, 0, 0 };

static unsigned size_code(unsigned size)
{
	for (unsigned i = 0; i < 14; i++)
		if (access_sizes[i] == size)
			return i;
	return 15;
}

unsigned use_guest_register(struct translation *t, unsigned guest, unsigned temporary)
{
	unsigned host = home_of(t, guest);

	if (host != H_NONE)
		return host;
	if (temporary != H_R11 || t->r11_guest != guest)
		emit_load(t->e, temporary, in_cpu(CPU_GPR(guest)));
	if (temporary == H_R10)
		t->r10_slot = NO_GROUP;
	else
		t->r11_guest = INSN_NO_REG; /* the caller does with it what it wants */
	return temporary;
}

/* The linear address of a RIP-relative or absolute operand whose value the translator knows. */
static bool constant_address(const struct translation *t, const struct insn *insn, uint64_t *address)
{
	if (insn->index != INSN_NO_REG || insn->segment == SEG_FS || insn->segment == SEG_GS || !t->code64 ||
	    insn->address_size != 8)
		return false;
	if (insn->base == INSN_NO_REG) {
		*address = insn->displacement;
		return true;
	}
	if (insn->base == INSN_BASE_RIP && t->linear_known) {
		*address = t->linear + t->offset[t->i + 1] + insn->displacement;
		return true;
	}
	return false;
}

void emit_effective_address(struct translation *t, const struct insn *insn)
{
	struct emitter *e = t->e;
	unsigned base = H_NONE, index = H_NONE;
	int64_t disp = insn->displacement;

	if (insn->base == INSN_BASE_RIP) {
		disp += t->offset[t->i + 1];
		if (t->linear_known) {
			emit_mov_imm(e, H_R11, t->linear + disp);
		} else {
			emit_load(e, H_R11, in_cpu(CPU_FIELD(rip_page)));
			if (fits32(disp)) {
				emit_lea(e, H_R11, at(H_R11, disp));
			} else {
				t->r10_slot = NO_GROUP;
				emit_mov_imm(e, H_R10, disp);
				emit_lea(e, H_R11, at_indexed(H_R11, H_R10, 0, 0));
			}
		}
	} else {
		if (insn->index != INSN_NO_REG)
			index = use_guest_register(t, insn->index, H_R11);
		if (insn->base != INSN_NO_REG)
			base = use_guest_register(t, insn->base, index == H_R11 ? H_R10 : H_R11);
		if (base == H_NONE && index == H_NONE)
			emit_mov_imm(e, H_R11, disp);
		else
			emit_lea(e, H_R11,
				 (struct place){ .memory = true, .base = base, .index = index, .scale = insn->scale, .disp = disp });
	}
	if (insn->address_size == 4)
		emit_op(e, false, 0x8b, H_R11, in_reg(H_R11));
	else if (insn->address_size == 2)
		emit_insn(e, (struct form){ .map = 1, .opcode = 0xb7 }, H_R11, in_reg(H_R11)); /* movzx r11d, r11w */
	if (!t->careful && t->code64 && (insn->segment == SEG_FS || insn->segment == SEG_GS))
		emit_op(e, true, 0x03, H_R11, in_cpu(CPU_SEG_BASE(insn->segment)));
}

/* LOCK, or XCHG with memory (SDM, Locked Atomic Operations). */
static bool is_locked(const struct insn *insn)
{
	return insn->prefixes & PREFIX_LOCK || (insn->map == 0 && (insn->opcode & 0xfe) == 0x86);
}

static uint32_t describe_access(const struct translation *t, unsigned size, unsigned use, unsigned segment)
{
	return (is_locked(&t->insn[t->i]) ? 1u << 31 : 0) |
	       t->offset[t->i] | size_code(size) << 12 | use << 16 | segment << 18 |
	       (t->flags == FLAGS_DEAD ? 1u << 21 : 0) | (t->count - t->i) << 22 |
	       (t->key & (KEY_ONE | MODE_STEP) ? 1u << 30 : 0);
}

static struct slow_stub *new_stub(struct translation *t, enum look_up kind)
{
	struct slow_stub *stub = &t->stub[t->stub_count++];

	*stub = (struct slow_stub){ .key = t->key, .kind = kind,
				    .flags_source = t->flags == FLAGS_AGAIN ? t->flags_source : NO_SOURCE };
	return stub;
}

void emit_tlb_slot(struct translation *t, unsigned reg)
{
	t->r10_slot = NO_GROUP;
	emit_tlb_slot_of(t->e, t->bt->host_bextr, reg);
}

void emit_tlb_slot_of(struct emitter *e, bool bextr, unsigned reg)
{
	if (bextr) {
		emit_vex(e, 2, 0, true, false, H_CPU, 0xf7, H_R10, in_reg(reg)); /* bextr r10, reg, cpu: see CPU_CENTER */
		return;
	}
	emit_op(e, true, 0x8b, H_R10, in_reg(reg));
	emit_op(e, true, 0xc1, 5, in_reg(H_R10)); /* shr r10, 12 */
	emit8(e, PAGE_SHIFT);
	emit_op(e, false, 0x81, 4, in_reg(H_R10)); /* and r10d, slots - 1 */
	emit32(e, TLB_SLOTS - 1);
}

/*
 * The inline lookup of the address in r11. address_form: afterwards the host address is in r11 (r10 free);
 * else the addend is in r10 (r11 free).
 */
static void emit_lookup(struct translation *t, unsigned size, unsigned use, unsigned segment, bool address_form)
{
	struct emitter *e = t->e;
	enum tlb_class class = MODE_CLASS(t->key);
	int32_t table = use & USE_WRITE ? TLB_WRITE(class) : TLB_READ(class);
	struct slow_stub *stub = new_stub(t, address_form ? LOOK_UP_ADDRESS : LOOK_UP_ADDEND);

	emit_tlb_slot(t, H_R11);
	emit_op(e, true, 0x33, H_R11, in_tlb(table)); /* xor r11, page */
	emit_op(e, true, 0x81, 7, in_reg(H_R11));
	emit32(e, PAGE_SIZE - size);
	stub->from = emit_branch_later(e, CC_A);
	stub->access = describe_access(t, size, use, segment);
	stub->tlb_offset = table;
	if (address_form) {
		emit_op(e, true, 0x33, H_R11, in_tlb(table));
		emit_op(e, true, 0x03, H_R11, in_tlb(table + TLB_ADDEND));
	} else {
		emit_load(e, H_R10, in_tlb(table + TLB_ADDEND));
	}
	stub->resume = e->p;
}

/* Is it an access off the stack pointer, done through the stack window? */
static bool through_window(const struct translation *t, const struct insn *insn, unsigned range)
{
	/* An array on the stack mostly lies in that page, too; group.c plans with the same homes. */
	bool index = insn->index == INSN_NO_REG ||
		     (home_of(t, insn->index) != H_NONE && host_register(insn->index) != H_NONE);

	return t->code64 && !t->careful && insn->base == REG_RSP && index && insn->address_size == 8 &&
	       insn->segment != SEG_FS && insn->segment != SEG_GS && range <= STACK_REACH(STACK_REACHES - 1) &&
	       !(t->bt->cpu->tune_off & ENGINE_TUNE_STACK_WINDOW);
}

/*
 * The look-up of the range that begins at the address in r11, in the page of the last access off the stack pointer.
 * Leaves the addend in r10.
 */
static void emit_window_lookup(struct translation *t, unsigned range, unsigned size, unsigned use, unsigned segment)
{
	struct emitter *e = t->e;
	enum tlb_class class = MODE_CLASS(t->key);
	struct slow_stub *stub = new_stub(t, LOOK_UP_WINDOW);

	t->r10_slot = NO_GROUP;
	emit_op(e, true, 0x2b, H_R11, in_cpu(WINDOW(class, base))); /* sub */
	emit_op(e, true, 0x3b, H_R11, in_cpu(WINDOW(class, positions[range > STACK_REACH(0)]))); /* cmp */
	stub->from = emit_branch_later(e, CC_AE);
	stub->access = describe_access(t, size, use, segment);
	stub->reach = range;
	emit_load(e, H_R10, in_cpu(WINDOW(class, addend)));
	stub->resume = e->p;
}

static struct place emit_careful(struct translation *t, unsigned size, unsigned use, unsigned segment)
{
	/* r11: the offset; C returns the host address in r10. A size without a code has no inline form. */
	t->r10_slot = NO_GROUP;
	emit_mov_imm(t->e, H_R10, describe_access(t, size, use, segment));
	emit_call(t->e, t->bt->careful_access);
	return at(H_R10, 0);
}

/* A 64-bit operand whose page and slot are known now: one compare. */
static struct place emit_constant_lookup(struct translation *t, uint64_t address, unsigned size, unsigned use)
{
	struct emitter *e = t->e;
	enum tlb_class class = MODE_CLASS(t->key);
	int32_t table = (use & USE_WRITE ? TLB_WRITE(class) : TLB_READ(class)) +
			(int32_t)(tlb_slot(address) * sizeof(uint64_t));
	struct slow_stub *stub = new_stub(t, LOOK_UP_CONSTANT);

	t->r10_slot = NO_GROUP;
	emit_op(e, true, 0x81, 7, in_cpu(table)); /* cmp page, imm32 */
	emit32(e, address & PAGE_MASK);
	stub->from = emit_branch_later(e, CC_NE);
	stub->access = describe_access(t, size, use, SEG_DS);
	stub->address = address;
	emit_load(e, H_R10, in_cpu(table + TLB_ADDEND));
	stub->resume = e->p;
	return at(H_R10, (int32_t)address);
}

/* A RIP-relative operand of code that does not know its page's address: its offset in its own page is known. */
static bool has_known_offset(const struct translation *t, const struct insn *insn, unsigned size)
{
	int64_t offset = t->offset[t->i + 1] + insn->displacement;

	return insn->base == INSN_BASE_RIP && t->code64 && insn->address_size == 8 && insn->segment != SEG_FS &&
	       insn->segment != SEG_GS && (offset & (PAGE_SIZE - 1)) + size <= PAGE_SIZE && fits32(offset);
}

/* Such an operand: the page is looked up, with one compare. */
static struct place emit_page_lookup(struct translation *t, const struct insn *insn, unsigned size, unsigned use)
{
	struct emitter *e = t->e;
	enum tlb_class class = MODE_CLASS(t->key);
	int32_t table = use & USE_WRITE ? TLB_WRITE(class) : TLB_READ(class);
	int32_t offset = t->offset[t->i + 1] + insn->displacement, in_page = offset & (PAGE_SIZE - 1);
	struct slow_stub *stub = new_stub(t, LOOK_UP_PAGE);

	emit_load(e, H_R11, in_cpu(CPU_FIELD(rip_page)));
	if (offset != in_page)
		emit_lea(e, H_R11, at(H_R11, offset - in_page));
	emit_tlb_slot(t, H_R11);
	emit_op(e, true, 0x3b, H_R11, in_tlb(table)); /* cmp */
	stub->from = emit_branch_later(e, CC_NE);
	stub->access = describe_access(t, size, use, insn->segment);
	stub->offset = in_page;
	emit_op(e, true, 0x03, H_R11, in_tlb(table + TLB_ADDEND)); /* add */
	stub->resume = e->p;
	return at(H_R11, in_page);
}

/*
 * A member's operand: base and displacement as they are, the group's addend from struct cpu where r10 does not have it
 * still. Keeps the flags.
 */
static struct place grouped_operand(struct translation *t, const struct insn *insn, unsigned slot)
{
	unsigned base = home_of(t, insn->base);
	int32_t disp = insn->displacement + (insn->base == REG_RSP ? t->stack_owed : 0);

	if (t->r10_slot != slot)
		emit_load(t->e, H_R10, in_cpu(slot == GROUP_WINDOW ? WINDOW(MODE_CLASS(t->key), addend) : CPU_GROUP(slot)));
	t->r10_slot = slot;
	if (insn->index != INSN_NO_REG) {
		t->r10_slot = NO_GROUP;
		emit_lea(t->e, H_R10, at_indexed(H_R10, base, 0, 0));
		return at_indexed(H_R10, home_of(t, insn->index), insn->scale, disp);
	}
	if (base == H_NONE) {
		t->r10_slot = NO_GROUP;
		emit_load(t->e, H_R11, in_cpu(CPU_GPR(insn->base)));
		emit_lea(t->e, H_R10, at_indexed(H_R10, H_R11, 0, 0));
		return at(H_R10, disp);
	}
	return at_indexed(base, H_R10, 0, disp);
}

_Static_assert(GROUP_RANGE <= 1024 && BLOCK_MAX_INSNS < 64 && GROUPS_MAX * sizeof(struct group_access) + sizeof(struct block) +
	       BLOCK_LINKS_MAX * sizeof(struct block_link) + sizeof(struct block_extra) +
	       2 * BLOCK_MAX_INSNS * sizeof(struct op_call) < RECORD_UNIT << 11, "the bits of struct group_access");

/* A leader looks up the group's whole range. */
static struct place emit_group_lookup(struct translation *t, const struct insn *insn, const struct access_group *group,
				      unsigned size, unsigned use)
{
	struct emitter *e = t->e;
	struct group_access *access = bt_alloc(t->bt, sizeof(*access));
	int32_t low = group->low - group->leader_offset;
	unsigned range = group->high - group->low, base;

	if (!access) {
		e->overflow = true;
		return at(H_R10, 0);
	}
	*access = (struct group_access){ .page_offset = t->offset[t->i], .range = range,
					 .leader_distance = insn->displacement - low, .leader_size = size,
					 .leader_use = use, .use = group->use,
					 .behind = place_of(t->bt, access) - place_of(t->bt, t->block),
					 .rest = t->count - t->i, .flags_dead = t->flags == FLAGS_DEAD,
					 .in_window = group->slot == GROUP_WINDOW };
	base = use_guest_register(t, insn->base, H_R11);
	if (insn->index == INSN_NO_REG)
		emit_lea(e, H_R11, at(base, low));
	else
		emit_lea(e, H_R11, at_indexed(base, home_of(t, insn->index), insn->scale, low));
	if (through_window(t, insn, range))
		emit_window_lookup(t, range, size, group->use, insn->segment);
	else
		emit_lookup(t, range, group->use, insn->segment, false);
	t->stub[t->stub_count - 1].group = access;
	if (group->slot != GROUP_WINDOW)
		emit_store(e, in_cpu(CPU_GROUP(group->slot)), H_R10);
	t->r10_slot = group->slot;
	return grouped_operand(t, insn, group->slot);
}

/* Of a register that stands in struct cpu: its value is added to the addend in r10. Returns H_R10; else its home. */
static unsigned into_r10(struct translation *t, unsigned guest)
{
	if (guest == INSN_NO_REG)
		return H_NONE;
	if (home_of(t, guest) != H_NONE)
		return home_of(t, guest);
	emit_op(t->e, true, 0x03, H_R10, in_cpu(CPU_GPR(guest)));
	return H_R10;
}

/* The operand whose look-up has left its addend in r10. */
static struct place operand_by_addend(struct translation *t, const struct insn *insn)
{
	unsigned base = into_r10(t, insn->base), index = into_r10(t, insn->index);

	if (base == H_R10 || base == H_NONE)
		base = H_R10;
	else if (index == H_R10 || index == H_NONE)
		index = H_R10;
	else
		emit_lea(t->e, H_R10, at_indexed(H_R10, base, 0, 0)), base = H_R10;
	if (index == H_NONE || index == base)
		return at(H_R10, insn->displacement);
	return at_indexed(base, index, index == H_R10 ? 0 : insn->scale, insn->displacement);
}

struct place emit_access(struct translation *t, const struct insn *insn, unsigned size, unsigned use, unsigned live)
{
	unsigned number = t->access++;
	uint64_t constant;

	if (number < 2 && t->group_of[t->i][number] != NO_GROUP) {
		const struct access_group *group = &t->group[t->group_of[t->i][number]];

		if (group->slot != NO_GROUP) {
			if (group->leader_insn != t->i || group->leader_access != number)
				return grouped_operand(t, insn, group->slot);
			emit_stack_settle(t);
			flags_before_clobber(t, live);
			return emit_group_lookup(t, insn, group, size, use);
		}
	}
	emit_stack_settle(t);
	flags_before_clobber(t, live);
	if (t->careful) {
		emit_effective_address(t, insn);
		return emit_careful(t, size, use, insn->segment);
	}
	if (constant_address(t, insn, &constant) && fits32(constant) && (constant & 0xfff) <= PAGE_SIZE - size)
		return emit_constant_lookup(t, constant, size, use);
	if (has_known_offset(t, insn, size))
		return emit_page_lookup(t, insn, size, use);
	emit_effective_address(t, insn);
	bool simple = t->code64 && insn->address_size == 8 && insn->segment != SEG_FS && insn->segment != SEG_GS &&
		      insn->base != INSN_BASE_RIP && fits32(insn->displacement) &&
		      (insn->index == INSN_NO_REG || insn->scale == 0 || home_of(t, insn->index) != H_NONE);

	if (through_window(t, insn, size))
		emit_window_lookup(t, size, size, use, insn->segment);
	else
		emit_lookup(t, size, use, insn->segment, !simple);
	return simple ? operand_by_addend(t, insn) : at(H_R11, 0);
}

struct place emit_access_r11(struct translation *t, unsigned size, unsigned use, unsigned segment)
{
	if (t->careful)
		return emit_careful(t, size, use, segment);
	emit_lookup(t, size, use, segment, true);
	return at(H_R11, 0);
}

void emit_commit(struct translation *t, unsigned use)
{
	if (!t->careful || !(use & USE_WRITE))
		return;
	t->r11_guest = INSN_NO_REG;
	flags_before_clobber(t, t->live_before[t->i + 1]);
	if (t->flags == FLAGS_DEAD)
		flags_to_cpu(t);
	emit_call(t->e, t->bt->careful_commit);
}

void emit_op_call(struct translation *t, const struct insn *insn, op_function *function, bool ends)
{
	struct op_call *call = bt_alloc(t->bt, sizeof(*call));

	if (!call) {
		t->e->overflow = true;
		return;
	}
	*call = (struct op_call){ .function = function, .block = place_of(t->bt, t->block),
				  .page_offset = t->offset[t->i], .rest = t->count - t->i, .ends = ends, .insn = *insn };
	flags_to_cpu(t);
	emit_residence_leave(t);
	emit_mov_imm(t->e, H_R10, (uintptr_t)call);
	emit_call(t->e, t->bt->call_op);
}

void emit_slow_if(struct translation *t, struct slow_ways *ways, unsigned condition)
{
	ways->from[ways->count++] = emit_branch_later(t->e, condition);
}

void emit_slow_ways(struct translation *t, const struct insn *insn, const struct slow_ways *ways, op_function *op,
		    const uint8_t *resume)
{
	struct emitter *e = emit_aside(t);

	for (unsigned i = 0; i < ways->count; i++)
		emit_patch_here(e, ways->from[i]);
	emit_op_call(t, insn, op, !resume);
	if (resume)
		emit_jmp(e, resume);
	emit_main_line(t);
}

/* ---- borrowing host registers for guest registers that live in memory ---- */

struct borrowed {
	uint8_t host;	/* the host register lent */
	uint8_t guest;	/* the guest register it stands for; H_NONE: an address */
	uint8_t scratch; /* index of the scratch slot with the lender's value, or H_NONE (r10, r11) */
	bool written;
};

struct registers {
	uint16_t used; /* host registers that the instruction needs as they are */
	struct borrowed borrowed[4];
	unsigned count, scratch_count;
};

static unsigned borrow(struct translation *t, struct registers *r, uint16_t allowed)
{
	static const uint8_t order[] = { H_R11, H_R10, H_RBX, H_RBP, H_RSI, H_RDI, H_RDX, H_RCX,
					 H_R12, H_R13, H_R14, H_R15, H_RAX };

	for (unsigned i = 0; i < sizeof(order); i++) {
		unsigned host = order[i];
		struct borrowed *b = &r->borrowed[r->count];

		if (r->used >> host & 1 || !(allowed >> host & 1))
			continue;
		r->used |= 1u << host;
		if (host == H_R10)
			t->r10_slot = NO_GROUP;
		*b = (struct borrowed){ .host = host, .guest = H_NONE, .scratch = H_NONE };
		if (host != H_R10 && host != H_R11) {
			b->scratch = r->scratch_count++;
			emit_store(t->e, in_cpu(CPU_SCRATCH(b->scratch)), host);
		}
		r->count++;
		return host;
	}
	t->e->overflow = true; /* cannot happen: an instruction names few registers */
	return H_RAX;
}

/* whole: a write replaces all 64 bits, so that the old value is not needed where it is not read. */
static unsigned borrow_for_guest(struct translation *t, struct registers *r, unsigned guest, unsigned use, bool whole)
{
	unsigned host = home_of(t, guest);

	if (host != H_NONE)
		return host;
	for (unsigned i = 0; i < r->count; i++)
		if (r->borrowed[i].guest == guest) {
			r->borrowed[i].written |= use & USE_WRITE;
			return r->borrowed[i].host;
		}
	host = borrow(t, r, 0xffff);
	r->borrowed[r->count - 1].guest = guest;
	r->borrowed[r->count - 1].written = use & USE_WRITE;
	if ((use & USE_READ || !whole) && !(host == H_R11 && t->r11_guest == guest))
		emit_load(t->e, host, in_cpu(CPU_GPR(guest)));
	if (host == H_R11)
		t->r11_guest = INSN_NO_REG; /* until the instruction is over */
	return host;
}

static void give_back(struct translation *t, struct registers *r)
{
	for (unsigned i = r->count; i-- > 0;) {
		struct borrowed *b = &r->borrowed[i];

		if (b->guest != H_NONE && b->written)
			emit_store(t->e, in_cpu(CPU_GPR(b->guest)), b->host);
		if (b->guest != H_NONE && b->host == H_R11)
			t->r11_guest = b->guest;
		if (b->scratch != H_NONE)
			emit_load(t->e, b->host, in_cpu(CPU_SCRATCH(b->scratch)));
	}
}

static void note_site(struct translation *t, const struct registers *r)
{
	struct native_site *site = &t->site[t->site_count++];

	*site = (struct native_site){ .code_offset = t->e->p - t->base_rw, .page_offset = t->offset[t->i],
				      .spilled = H_NONE, .spilled2 = H_NONE,
				      .flags_dead = t->flags == FLAGS_DEAD,
				      .flags_in_host = t->flags == FLAGS_HOST || t->flags == FLAGS_BOTH,
				      .rest = t->count - t->i };
	for (unsigned i = 0; i < r->count; i++) {
		if (r->borrowed[i].scratch == 0)
			site->spilled = r->borrowed[i].host;
		else if (r->borrowed[i].scratch == 1)
			site->spilled2 = r->borrowed[i].host;
	}
}

/* Does 66H mean the operand size (and not a mandatory prefix)? */
static bool has_integer_size(const struct insn *insn)
{
	if (insn->map == 0)
		return insn->opcode < 0xd8 || insn->opcode > 0xdf;
	if (insn->map == 1)
		switch (insn->opcode) {
		case 0x40 ... 0x4f:
		case 0xa3 ... 0xa5:
		case 0xab ... 0xad:
		case 0xaf ... 0xb1:
		case 0xb3:
		case 0xb6 ... 0xc1:
			return true;
		}
	return insn->map == 2 && (insn->opcode == 0xf0 || insn->opcode == 0xf1);
}

bool is_byte_operation(const struct insn *insn)
{
	return insn->map == 0 && !(insn->opcode & 1) &&
	       (insn->opcode < 0x40 || (insn->opcode >= 0x80 && insn->opcode < 0x8c) || insn->opcode == 0xa8 ||
		insn->opcode == 0xc0 || insn->opcode == 0xc6 || insn->opcode == 0xd0 || insn->opcode == 0xd2 ||
		insn->opcode == 0xf6 || insn->opcode == 0xfe);
}

void emit_operation(struct translation *t, const struct insn *insn, unsigned reg, const struct place *rm,
			   unsigned vvvv, bool force_rex)
{
	struct emitter *e = t->e;
	struct form f = { .map = insn->map, .opcode = insn->opcode, .lock = insn->prefixes & PREFIX_LOCK,
			  .force_rex = force_rex };

	if (insn->prefixes & PREFIX_VEX) {
		emit_vex(e, insn->map, insn->vex_pp, insn->rex & 8, insn->vex_l, vvvv, insn->opcode, reg, *rm);
	} else {
		f.w = insn->rex & 8;
		if (has_integer_size(insn)) {
			if (insn->operand_size == 2 && !is_byte_operation(insn))
				f.prefix = 0x66;
		} else if (insn->prefixes & PREFIX_OPSIZE) {
			f.prefix = 0x66;
		}
		if (insn->prefixes & (PREFIX_REP | PREFIX_REPNE)) {
			uint8_t repeat = insn->prefixes & PREFIX_REP ? 0xf3 : 0xf2;

			if (f.prefix)
				f.prefix2 = repeat;
			else
				f.prefix = repeat;
		}
		emit_form(e, &f, reg, rm);
	}
	emit_bytes(e, insn->imm, insn->imm_size);
}

/* An instruction without ModRM: accumulator forms, CBW, CWD, CMC, CLC, STC, LAHF, SAHF, EMMS, VZEROUPPER, WAIT. */
void emit_plain(struct translation *t, const struct insn *insn)
{
	struct emitter *e = t->e;

	if (insn->prefixes & PREFIX_VEX) {
		emit8(e, 0xc5);
		emit8(e, 0xf8 | insn->vex_l << 2 | insn->vex_pp);
		emit8(e, insn->opcode);
		return;
	}
	if (has_integer_size(insn) && insn->operand_size == 2 && !is_byte_operation(insn))
		emit8(e, 0x66);
	if (insn->rex & 8)
		emit8(e, 0x48);
	emit_opcode_map(e, insn->map);
	emit8(e, insn->opcode);
	emit_bytes(e, insn->imm, insn->imm_size);
}

/*
 * May the operation use the home in struct cpu of a guest register as its r/m operand? Integer operations, where a
 * write touches no more than the register's own bits: one of 32 bits must clear the upper half as well.
 */
static bool can_stay_in_memory(const struct translation *t, const struct insn *insn, const struct shape *shape)
{
	if (home_of(t, insn->rm) != H_NONE || shape->unit != UNIT_INTEGER || insn->prefixes & PREFIX_LOCK)
		return false;
	/* Two copies of one register would not agree. */
	if ((shape->reg_use && insn->reg == insn->rm) || (shape->vvvv_use && insn->vex_vvvv == insn->rm))
		return false;
	if (insn->map == 0 && (insn->opcode == 0x86 || insn->opcode == 0x87))
		return false; /* XCHG with memory locks */
	if (insn->map == 0 && ((insn->opcode >= 0xd0 && insn->opcode <= 0xd3) || insn->opcode == 0xc0 || insn->opcode == 0xc1))
		return false; /* hosts leave another undefined OF in memory forms */
	/* with a memory operand BT and its kin take the register as a far offset */
	if (insn->map == 1 && (insn->opcode == 0xa3 || insn->opcode == 0xab || insn->opcode == 0xb3 || insn->opcode == 0xbb))
		return false;
	return !(shape->rm_use & USE_WRITE) || insn->operand_size == 8 || insn->operand_size == 2 || shape->rm_is_byte;
}

/* The guest register's own host register, if it has one, is not to be lent. */
static void keep_home(const struct translation *t, struct registers *r, unsigned guest)
{
	if (home_of(t, guest) != H_NONE)
		r->used |= 1u << home_of(t, guest);
}

static unsigned free_scratch(const struct registers *r)
{
	return !(r->used >> H_R11 & 1) ? H_R11 : !(r->used >> H_R10 & 1) ? H_R10 : H_NONE;
}

static void bring_flags(struct translation *t, const struct registers *r)
{
	unsigned free = free_scratch(r);

	flags_to_host(t, free);
	if (free == H_R11)
		t->r11_guest = INSN_NO_REG;
}

void emit_native(struct translation *t, const struct insn *insn, const struct shape *shape)
{
	struct registers r = { .used = shape->implicit };
	unsigned live_after = t->live_before[t->i + 1], live = t->live_before[t->i];
	struct place rm = in_reg(insn->rm & 15);
	unsigned reg = insn->reg, vvvv = insn->vex_vvvv;
	bool force_rex = false, high = false, in_home = false;
	/* BSF and BSR of zero leave their destination. */
	bool bit_scan = insn->map == 1 && (insn->opcode == 0xbc || insn->opcode == 0xbd);
	bool whole = (insn->operand_size >= 4 || !has_integer_size(insn)) && !bit_scan;

	/* The stack pointer is named implicitly only by instructions that never come here. */
	if (insn->is_memory && shape->memory_use) {
		if (size_code(shape->memory_size) == 15) {
			emit_op_call(t, insn, op_ud, true); /* no announced instruction has such an operand */
			return;
		}
		rm = emit_access(t, insn, shape->memory_size, shape->memory_use, live);
		t->r11_guest = INSN_NO_REG;
	} else if (insn->is_memory) {
		/* No such instruction comes here; natively it would see the host's memory. */
		emit_op_call(t, insn, op_ud, true);
		return;
	}
	if (rm.memory) {
		if (rm.base != H_NONE)
			r.used |= 1u << rm.base;
		if (rm.index != H_NONE)
			r.used |= 1u << rm.index;
	}
	if (t->flags == FLAGS_AGAIN)
		r.used |= t->flags_inputs; /* those are at home, where host and guest have one number (the stack pointer is not lent) */
	/* First what is in its own register, so that it is not lent. */
	if (shape->reg_use)
		keep_home(t, &r, register_of(insn, reg, shape->reg_is_byte));
	if (shape->rm_use)
		keep_home(t, &r, register_of(insn, insn->rm, shape->rm_is_byte));
	if (shape->vvvv_use)
		keep_home(t, &r, vvvv & 15);

	if (shape->reg_use) {
		if (shape->reg_is_byte && is_high_byte(insn, reg)) {
			high = true;
		} else {
			bool alone = !(shape->rm_use && !rm.memory && insn->rm == reg) &&
				     !(shape->vvvv_use && vvvv == reg);

			reg = borrow_for_guest(t, &r, reg, shape->reg_use, alone && whole && !shape->reg_is_byte);
			force_rex |= shape->reg_is_byte && reg >= 4;
		}
	}
	if (shape->rm_use && !rm.memory) {
		if (shape->rm_is_byte && is_high_byte(insn, insn->rm)) {
			high = true;
		} else if (can_stay_in_memory(t, insn, shape)) {
			rm = in_cpu(CPU_GPR(insn->rm));
			in_home = true;
			if (t->r11_guest == insn->rm && shape->rm_use & USE_WRITE)
				t->r11_guest = INSN_NO_REG;
		} else {
			bool alone = !(shape->vvvv_use && vvvv == insn->rm);

			rm.reg = borrow_for_guest(t, &r, insn->rm, shape->rm_use, alone && whole && !shape->rm_is_byte);
			force_rex |= shape->rm_is_byte && rm.reg >= 4;
		}
	}
	if (shape->vvvv_use)
		vvvv = borrow_for_guest(t, &r, vvvv, shape->vvvv_use, true);
	if (high && rm.memory && (rm.base >= H_R8 || (rm.index != H_NONE && rm.index >= H_R8))) {
		/* AH…BH cannot be named beside a REX prefix: move the address to a low register. */
		unsigned low = borrow(t, &r, 0xff & ~(1u << H_RSP));

		emit_lea(t->e, low, rm);
		rm = at(low, 0);
	}

	if (shape->flags_read || (live_after & ~shape->flags_killed)) {
		if (shape->flags_read || shape->flags_written)
			bring_flags(t, &r);
	}
	if (shape->may_fault) {
		if (t->flags == FLAGS_AGAIN)
			bring_flags(t, &r);
		note_site(t, &r);
	}
	if (insn->has_modrm)
		emit_operation(t, insn, reg, &rm, vvvv, force_rex);
	else
		emit_plain(t, insn);
	if (shape->flags_written)
		t->flags = FLAGS_HOST;
	give_back(t, &r);
	if (rm.memory && !in_home && shape->memory_use)
		emit_commit(t, shape->memory_use);
}

#include "engine/soft/bt/group.h"

#include "engine/soft/bt/translate.h"

struct register_value {
	uint8_t version;
	int32_t offset; /* since that version began */
};

struct planner {
	struct translation *t;
	struct register_value value[16];
	unsigned count;
	unsigned last_on_stack; /* the group of the last access off the stack pointer */
};

/* An access off the stack pointer, of group g or of none (NO_GROUP). */
static void note_on_stack(struct planner *p, unsigned g, bool leads)
{
	if (g != NO_GROUP && !leads && p->last_on_stack != g)
		p->t->group[g].mixed = true;
	p->last_on_stack = g;
}

static void close_groups(struct planner *p)
{
	for (unsigned g = 0; g < p->count; g++)
		p->t->group[g].open = false;
}

/* The registers of an operand. */
struct address {
	uint8_t base, index; /* index: INSN_NO_REG where there is none */
	uint8_t scale;
};

static struct address off(unsigned base)
{
	return (struct address){ .base = base, .index = INSN_NO_REG };
}

static bool is_of(const struct planner *p, const struct access_group *group, struct address address)
{
	if (!group->open || group->base != address.base || group->index != address.index ||
	    group->version[0] != p->value[address.base].version)
		return false;
	return address.index == INSN_NO_REG ||
	       (group->scale == address.scale && group->version[1] == p->value[address.index].version);
}

/* Returns the access's group, or NO_GROUP. position: what the registers give, from their last unknown change. */
static unsigned find_group(struct planner *p, unsigned insn, unsigned access, struct address address, int64_t position,
			   int64_t low, int64_t high, unsigned use)
{
	if (low < INT32_MIN / 2 || high > INT32_MAX / 2 || position < INT32_MIN / 2 || position > INT32_MAX / 2)
		return NO_GROUP;
	for (unsigned g = 0; g < p->count; g++) {
		struct access_group *group = &p->t->group[g];
		int64_t new_low = low < group->low ? low : group->low;
		int64_t new_high = high > group->high ? high : group->high;

		if (!is_of(p, group, address) || new_high - new_low > GROUP_RANGE)
			continue;
		group->low = new_low;
		group->high = new_high;
		group->use |= use;
		group->members++;
		return g;
	}
	if (p->count == GROUPS_MAX)
		return NO_GROUP;
	p->t->group[p->count] = (struct access_group){ .base = address.base, .index = address.index, .scale = address.scale,
						       .version = { p->value[address.base].version }, .use = use,
						       .members = 1, .slot = NO_GROUP, .open = true, .low = low,
						       .high = high, .leader_offset = position, .leader_insn = insn,
						       .leader_access = access };
	if (address.index != INSN_NO_REG)
		p->t->group[p->count].version[1] = p->value[address.index].version;
	return p->count++;
}

static void join(struct planner *p, unsigned insn, unsigned access, struct address address, int64_t disp, unsigned size,
		 unsigned use)
{
	int64_t position = p->value[address.base].offset;
	unsigned g;

	if (address.index != INSN_NO_REG)
		position += (int64_t)p->value[address.index].offset * (1 << address.scale);
	g = find_group(p, insn, access, address, position, position + disp, position + disp + size, use);
	p->t->group_of[insn][access] = g;
	if (address.base == REG_RSP && address.index == INSN_NO_REG)
		note_on_stack(p, g, g != NO_GROUP && p->t->group[g].members == 1);
	else if (address.base == REG_RSP && (g == NO_GROUP || p->t->group[g].members == 1))
		note_on_stack(p, NO_GROUP, true); /* it goes through the window, but is not of that one's group */
}

static void join_operand(struct planner *p, unsigned i, unsigned access, unsigned size, unsigned use)
{
	const struct insn *insn = &p->t->insn[i];
	bool indexed = insn->index != INSN_NO_REG;

	if (!insn->is_memory || insn->base >= 16 || insn->address_size != 8 || insn->segment == SEG_FS ||
	    insn->segment == SEG_GS || !use || !size)
		return;
	/* With registers that live in memory it is no shorter than a look-up. */
	if (indexed && (host_register(insn->base) == H_NONE || host_register(insn->index) == H_NONE))
		return;
	join(p, i, access, (struct address){ .base = insn->base, .index = insn->index, .scale = indexed ? insn->scale : 0 },
	     insn->displacement, size, use);
}

static void changed(struct planner *p, unsigned reg)
{
	p->value[reg].version++;
	p->value[reg].offset = 0;
}

static void moved(struct planner *p, unsigned reg, int64_t by)
{
	int64_t offset = p->value[reg].offset + by;

	if (offset < INT32_MIN / 2 || offset > INT32_MAX / 2)
		changed(p, reg);
	else
		p->value[reg].offset = offset;
}

/* ADD, SUB, INC, DEC of a 64-bit register by a constant. */
static bool is_constant_step(const struct insn *insn, int64_t *by)
{
	unsigned digit = insn->reg & 7;

	if (insn->map != 0 || insn->is_memory || insn->operand_size != 8)
		return false;
	if (insn->opcode == 0x81 || insn->opcode == 0x83) {
		*by = digit == 0 ? insn->imm : -insn->imm;
		return digit == 0 || digit == 5;
	}
	*by = digit ? -1 : 1;
	return insn->opcode == 0xff && digit < 2;
}

static void note_native_writes(struct planner *p, const struct insn *insn, const struct shape *shape)
{
	int64_t by;

	if (is_constant_step(insn, &by)) {
		moved(p, insn->rm, by);
		return;
	}
	if (shape->reg_use & USE_WRITE)
		changed(p, register_of(insn, insn->reg, shape->reg_is_byte));
	if (!insn->is_memory && shape->rm_use & USE_WRITE)
		changed(p, register_of(insn, insn->rm, shape->rm_is_byte));
	if (shape->vvvv_use & USE_WRITE)
		changed(p, insn->vex_vvvv & 15);
	for (unsigned implicit = shape->implicit; implicit; implicit &= implicit - 1)
		changed(p, (unsigned)__builtin_ctz(implicit));
}

static void plan_insn(struct planner *p, unsigned i)
{
	const struct insn *insn = &p->t->insn[i];
	const struct shape *shape = &p->t->shape[i];
	int size = insn->operand_size;

	switch (insn->op) {
	case BT_NATIVE:
		join_operand(p, i, 0, shape->memory_size, shape->memory_use);
		note_native_writes(p, insn, shape);
		break;
	case BT_LEA:
		if (size == 8 && insn->address_size == 8 && insn->base == insn->reg && insn->index == INSN_NO_REG)
			moved(p, insn->reg, insn->displacement);
		else
			changed(p, insn->reg);
		break;
	case BT_MOV_IMM:
	case BT_BSWAP:
		changed(p, insn->rm);
		break;
	case BT_XLAT:
		changed(p, REG_RAX);
		break;
	case BT_PUSH_RM:
	case BT_CALL_RM:
		join_operand(p, i, 0, size, USE_READ);
		join(p, i, insn->is_memory, off(REG_RSP), -size, size, USE_WRITE);
		moved(p, REG_RSP, -size);
		break;
	case BT_JMP_RM:
		join_operand(p, i, 0, size, USE_READ);
		break;
	case BT_PUSH:
	case BT_PUSH_IMM:
	case BT_CALL:
		join(p, i, 0, off(REG_RSP), -size, size, USE_WRITE);
		moved(p, REG_RSP, -size);
		break;
	case BT_POP:
		join(p, i, 0, off(REG_RSP), 0, size, USE_READ);
		moved(p, REG_RSP, size);
		changed(p, insn->rm);
		break;
	case BT_RET:
		join(p, i, 0, off(REG_RSP), 0, size, USE_READ);
		break;
	case BT_LEAVE:
		join(p, i, 0, off(REG_RBP), 0, size, USE_READ);
		changed(p, REG_RSP);
		changed(p, REG_RBP);
		break;
	case BT_PUSHF:
		join(p, i, 0, off(REG_RSP), -8, 8, USE_WRITE);
		moved(p, REG_RSP, -8);
		break;
	case BT_STAC:
	case BT_CLAC:
		close_groups(p); /* another TLB table from here on */
		break;
	case BT_RDTSCP:
		changed(p, REG_RCX);
		/* fall through */
	case BT_RDTSC:
		changed(p, REG_RAX);
		changed(p, REG_RDX);
		break;
	case BT_MOV_FROM_SEGMENT:
		changed(p, insn->rm);
		break;
	case BT_CLI:
	case BT_SWAPGS:
	case BT_NOP:
	case BT_JCC:
	case BT_JMP:
	case BT_FLAG_DF:
	case BT_BIT_STRING:
		break;
	default:
		close_groups(p);
		for (unsigned reg = 0; reg < 16; reg++)
			changed(p, reg);
	}
}

void plan_groups(struct translation *t)
{
	struct planner p = { .t = t, .last_on_stack = NO_GROUP };
	bool window = !(t->bt->cpu->tune_off & ENGINE_TUNE_STACK_WINDOW);
	unsigned slots = 0;

	for (unsigned i = 0; i < t->count; i++)
		t->group_of[i][0] = t->group_of[i][1] = NO_GROUP;
	if (!t->code64 || t->careful || t->single || t->key & (KEY_ONE | MODE_STEP) ||
	    t->bt->cpu->tune_off & ENGINE_TUNE_GROUPS)
		return;
	for (unsigned i = 0; i < t->count; i++)
		plan_insn(&p, i);
	for (unsigned g = 0; g < p.count; g++) {
		struct access_group *group = &t->group[g];

		if (group->members > 1 && group->base == REG_RSP && group->index == INSN_NO_REG && !group->mixed && window)
			group->slot = GROUP_WINDOW;
		else if (group->members > 1 && slots < GROUP_SLOTS)
			group->slot = slots++;
	}
}

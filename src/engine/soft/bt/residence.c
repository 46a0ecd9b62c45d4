#include "engine/soft/bt/residence.h"

#include "engine/soft/bt/translate.h"

struct uses {
	uint8_t count[16]; /* of each guest register by the block's instructions */
	bool lodging;	   /* all of them can find a register elsewhere */
};

static void use(struct uses *u, unsigned guest)
{
	if (guest < 16 && u->count[guest] < UINT8_MAX)
		u->count[guest]++;
}

static void use_operand(struct uses *u, const struct insn *insn)
{
	if (!insn->is_memory)
		return;
	use(u, insn->base);
	use(u, insn->index);
}

static void count_native(struct uses *u, const struct insn *insn, const struct shape *shape)
{
	use_operand(u, insn);
	if (shape->reg_use)
		use(u, register_of(insn, insn->reg, shape->reg_is_byte));
	if (shape->rm_use && !insn->is_memory)
		use(u, register_of(insn, insn->rm, shape->rm_is_byte));
	if (shape->vvvv_use)
		use(u, insn->vex_vvvv);
	for (unsigned implicit = shape->implicit; implicit; implicit &= implicit - 1)
		use(u, (unsigned)__builtin_ctz(implicit));
}

static void count_insn(struct uses *u, const struct insn *insn, const struct shape *shape)
{
	switch (insn->op) {
	case BT_NATIVE:
		count_native(u, insn, shape);
		break;
	case BT_LEA:
		use(u, insn->reg);
		use(u, insn->base);
		use(u, insn->index);
		break;
	case BT_MOV_IMM:
	case BT_BSWAP:
		use(u, insn->rm);
		break;
	case BT_PUSH:
	case BT_POP:
		use(u, insn->rm);
		use(u, REG_RSP);
		break;
	case BT_PUSH_IMM:
		use(u, REG_RSP);
		break;
	case BT_NOP:
	case BT_JCC:
	case BT_JMP:
		break;
	default:
		u->lodging = false;
	}
}

/* A branch back to where the block starts. */
static bool is_loop(const struct translation *t)
{
	for (unsigned i = 0; i < t->count; i++)
		if ((t->insn[i].op == BT_JCC || t->insn[i].op == BT_JMP) && returns_to_start(t, i))
			return true;
	return false;
}

unsigned residence_owner(unsigned host)
{
	return host == H_GUEST_SP ? REG_RSP : host;
}

/* A host register whose guest register the block does not name, or H_NONE. */
static unsigned free_host(const struct uses *u)
{
	static const uint8_t order[] = { H_RBX, H_RBP, H_R12, H_R13, H_R14, H_R15, H_RDI, H_RSI, H_GUEST_SP,
					 H_RDX, H_RCX, H_RAX };

	for (unsigned i = 0; i < sizeof(order); i++)
		if (!u->count[residence_owner(order[i])])
			return order[i];
	return H_NONE;
}

static void take_lodgers(struct translation *t, struct uses *u)
{
	static const uint8_t homeless[LODGERS_MAX] = { REG_R8, REG_R9, REG_R10, REG_R11 };
	for (unsigned i = 0; i < LODGERS_MAX; i++) {
		unsigned guest = homeless[i], host = u->count[guest] ? free_host(u) : H_NONE;

		if (host == H_NONE)
			continue;
		use(u, residence_owner(host));
		t->home[residence_owner(host)] = H_NONE;
		t->home[guest] = host;
		t->lodger[t->lodgers++] = (struct lodger){ .guest = guest, .host = host };
	}
}

void residence_plan(struct translation *t)
{
	struct uses u = { .lodging = true };

	t->lodgers = 0;
	for (unsigned guest = 0; guest < 16; guest++)
		t->home[guest] = host_register(guest);
	if (!t->code64 || t->careful || t->counted || t->key & (MODE_STEP | KEY_ONE | KEY_SHORT) ||
	    t->block->crosses_page || t->live_before[0] ||
	    t->bt->cpu->tune_off & (ENGINE_TUNE_LODGERS | ENGINE_TUNE_CHAIN) || !is_loop(t))
		return;
	for (unsigned i = 0; i < t->count && u.lodging; i++)
		count_insn(&u, &t->insn[i], &t->shape[i]);
	if (u.lodging)
		take_lodgers(t, &u);
}

void emit_residence_enter(struct translation *t)
{
	for (unsigned i = 0; i < t->lodgers; i++) {
		struct lodger lodger = t->lodger[i];

		emit_store(t->e, in_cpu(CPU_GPR(residence_owner(lodger.host))), lodger.host);
		emit_load(t->e, lodger.host, in_cpu(CPU_GPR(lodger.guest)));
	}
}

void emit_residence_leave(struct translation *t)
{
	for (unsigned i = 0; i < t->lodgers; i++) {
		struct lodger lodger = t->lodger[i];

		emit_store(t->e, in_cpu(CPU_GPR(lodger.guest)), lodger.host);
		emit_load(t->e, lodger.host, in_cpu(CPU_GPR(residence_owner(lodger.host))));
	}
}

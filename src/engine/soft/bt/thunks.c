/* The fixed pieces of host code around translated blocks, emitted once per vCPU. */
#include "engine/soft/bt/translate.h"

/* Guest registers that live in host registers. */
static const uint8_t resident[] = { REG_RAX, REG_RCX, REG_RDX, REG_RBX, REG_RSP, REG_RBP, REG_RSI,
				    REG_RDI, REG_R12, REG_R13, REG_R14, REG_R15 };

static void emit_spill(struct emitter *e)
{
	for (unsigned i = 0; i < sizeof(resident); i++)
		emit_store(e, in_cpu(CPU_GPR(resident[i])), host_register(resident[i]));
}

static void emit_reload(struct emitter *e)
{
	for (unsigned i = 0; i < sizeof(resident); i++)
		emit_load(e, host_register(resident[i]), in_cpu(CPU_GPR(resident[i])));
}

/* H_CPU from the pointer to the region that stands at `from`. */
static void emit_load_region(struct emitter *e, struct place from)
{
	emit_load(e, H_CPU, from);
	emit_lea(e, H_CPU, at(H_CPU, CPU_CENTER));
}

/* Behind the call it is the region of the context that C has made the current one. */
static void emit_call_c(struct emitter *e, const void *function)
{
	emit_op(e, true, 0x8b, H_RBX, in_reg(H_CPU)); /* which C keeps */
	emit_mov_imm(e, H_RAX, (uintptr_t)function);
	emit8(e, 0xff); /* call rax */
	emit8(e, 0xd0);
	emit_load_region(e, at(H_RBX, CPU_FIELD(region) - CPU_CENTER));
}

static void emit_rsp_adjust(struct emitter *e, int32_t bytes)
{
	emit_lea(e, H_RSP, at(H_RSP, bytes));
}

static const uint8_t callee_saved[] = { H_RBX, H_RBP, H_R12, H_R13, H_R14, H_R15 };

/* From translated code's stack to C's, which is aligned as a call wants it, and back. */
static void emit_to_c_stack(struct emitter *e)
{
	emit_store(e, in_cpu(CPU_FIELD(return_sp)), H_RSP);
	emit_load(e, H_RSP, in_cpu(CPU_FIELD(c_stack)));
}

static void emit_to_return_stack(struct emitter *e)
{
	emit_load(e, H_RSP, in_cpu(CPU_FIELD(return_sp)));
}

/* On C's stack: what enter() returns is in rax. */
static void emit_return_to_c(struct emitter *e)
{
	emit_rsp_adjust(e, 8);
	for (unsigned i = sizeof(callee_saved); i-- > 0;)
		emit_pop_reg(e, callee_saved[i]);
	emit8(e, 0xc3);
}

/* uint64_t enter(struct cpu *cpu, const void *code): returns what the block left in r10. */
static void emit_enter(struct bt *bt)
{
	struct emitter *e = &bt->e;

	bt->enter = (void *)emit_exec(e);
	for (unsigned i = 0; i < sizeof(callee_saved); i++)
		emit_push_reg(e, callee_saved[i]);
	emit_rsp_adjust(e, -8);
	emit_load_region(e, at(H_RDI, CPU_FIELD(region)));
	emit_store(e, in_cpu(CPU_FIELD(c_stack)), H_RSP);
	emit_to_return_stack(e);
	emit_op(e, true, 0x8b, H_R11, in_reg(H_RSI));
	emit_reload(e);
	emit_jmp_reg(e, H_R11);
}

static void emit_exits(struct bt *bt)
{
	struct emitter *e = &bt->e;

	/* r11: the target */
	bt->exit_indirect = emit_exec(e);
	emit_store(e, in_cpu(CPU_FIELD(rip)), H_R11);
	emit_mov_imm(e, H_R10, 0);
	/* r10: the link that was not connected, or 0 */
	bt->exit = emit_exec(e);
	emit_spill(e);
	emit_op(e, true, 0x8b, H_RAX, in_reg(H_R10));
	emit_to_c_stack(e);
	emit_return_to_c(e);
}

/* r10: struct op_call. */
static void emit_op_thunk(struct bt *bt)
{
	struct emitter *e = &bt->e;
	uint8_t *leave, *way_on;

	bt->call_op = emit_exec(e);
	emit_spill(e);
	emit_load(e, H_RDI, in_cpu(CPU_FIELD(self)));
	emit_op(e, true, 0x8b, H_RSI, in_reg(H_R10));
	emit_to_c_stack(e);
	emit_call_c(e, (void *)bt_run_op);
	emit_op(e, true, 0x83, 7, in_reg(H_RAX)); /* cmp rax, 1 */
	emit8(e, 1);
	way_on = emit_branch_later(e, CC_A);
	leave = emit_branch_later(e, CC_E);
	emit_to_return_stack(e);
	emit_reload(e);
	emit8(e, 0xc3);
	emit_patch_here(e, way_on);
	emit_op(e, true, 0x8b, H_R10, in_reg(H_RAX));
	emit_to_return_stack(e);
	emit_reload(e);
	emit_load(e, H_R11, in_cpu(CPU_FIELD(rip)));
	emit_jmp_reg(e, H_R10);
	emit_patch_here(e, leave);
	/* The op may have changed the context or the mode: no entry holds. */
	emit_load(e, H_RAX, in_cpu(CPU_FIELD(return_bottom)));
	emit_store(e, in_cpu(CPU_FIELD(return_sp)), H_RAX);
	emit_store(e, in_cpu(CPU_FIELD(user_return_sp)), H_RAX);
	emit_mov_imm(e, H_RAX, 0);
	emit_return_to_c(e);
}

/* Calls C with the address or offset in r11 and its description in r10. */
static void emit_begin_access(struct emitter *e, const void *function)
{
	emit_spill(e);
	emit_store(e, in_cpu(CPU_SCRATCH(3)), H_R11);
	emit_load(e, H_RDI, in_cpu(CPU_FIELD(self)));
	emit_op(e, true, 0x8b, H_RSI, in_reg(H_R11));
	emit_op(e, true, 0x8b, H_RDX, in_reg(H_R10));
	emit_to_c_stack(e);
	emit_call_c(e, function);
}

/* … what is in rax goes to r10, and r11 is what it was. */
static void emit_end_access(struct emitter *e)
{
	emit_to_return_stack(e);
	emit_op(e, true, 0x8b, H_R10, in_reg(H_RAX));
	emit_load(e, H_R11, in_cpu(CPU_SCRATCH(3)));
	emit_reload(e);
}

/* r11: address or offset, r10: description. Result in r10; r11 is kept. */
static uint8_t *emit_access_thunk(struct bt *bt, const void *function)
{
	struct emitter *e = &bt->e;
	uint8_t *start = emit_exec(e);

	emit_begin_access(e, function);
	emit_end_access(e);
	emit8(e, 0xc3);
	return start;
}

/*
 * As above, but the description stands in the code, behind the jump that follows the call. Read there it takes longer,
 * but the stub less room.
 */
static uint8_t *emit_described_thunk(struct bt *bt)
{
	struct emitter *e = &bt->e;
	uint8_t *start = emit_exec(e);

	emit_load(e, H_R10, at(H_RSP, 0));
	emit_load32(e, H_R10, at(H_R10, JUMP_BACK));
	emit_jmp(e, bt->slow_access);
	return start;
}

/* As above, r10: a struct group_access' place. Or it goes to what bt_slow_group says. */
static void emit_group_thunk(struct bt *bt)
{
	struct emitter *e = &bt->e;
	uint8_t *single;

	bt->slow_group = emit_exec(e);
	emit_begin_access(e, (void *)bt_slow_group);
	emit_op(e, true, 0x85, H_RDX, in_reg(H_RDX)); /* test */
	single = emit_branch_later(e, CC_NE);
	emit_end_access(e);
	emit8(e, 0xc3);
	emit_patch_here(e, single);
	emit_op(e, true, 0x8b, H_RAX, in_reg(H_RDX));
	emit_end_access(e);
	emit_rsp_adjust(e, 8); /* without the thunk's own return address */
	emit_jmp_reg(e, H_R10);
}

/* Is the address in r11 in a page of the table? Leaves its offset there, and the slot's in r10. Limit: scratch[2]. */
static uint8_t *emit_look_up(struct bt *bt, int32_t table)
{
	struct emitter *e = &bt->e;

	emit_tlb_slot_of(e, bt->host_bextr, H_R11);
	emit_op(e, true, 0x33, H_R11, in_tlb(table)); /* xor */
	emit_op(e, true, 0x3b, H_R11, in_cpu(CPU_SCRATCH(2)));
	return emit_branch_later(e, CC_A);
}

static void emit_positions(struct emitter *e, enum tlb_class class, bool open)
{
	for (unsigned i = 0; i < STACK_REACHES; i++) {
		emit_op(e, true, 0xc7, 0, in_cpu(WINDOW(class, positions[i]))); /* mov */
		emit32(e, open ? PAGE_SIZE - STACK_REACH(i) + 1 : 0);
	}
}

/*
 * r11: distance from the stack window to the start of a range off the stack pointer, r10: the last offset in a page
 * that the range can begin at. Returns the addend in r10, and the window moved there. Without a usable entry it goes to
 * `described`, with the address in r11, or, where that is NULL, behind the jump that follows the call. What may only be
 * read leaves its addend, for the rest of a group, in a closed window.
 */
static uint8_t *emit_window_thunk(struct bt *bt, enum tlb_class class, bool write, const uint8_t *described)
{
	struct emitter *e = &bt->e;
	uint8_t *missed, *start = emit_exec(e);

	emit_store(e, in_cpu(CPU_SCRATCH(2)), H_R10);
	emit_op(e, true, 0x03, H_R11, in_cpu(WINDOW(class, base))); /* add */
	missed = emit_look_up(bt, TLB_WRITE(class));
	emit_op(e, true, 0x33, H_R11, in_tlb(TLB_WRITE(class)));
	emit_op(e, true, 0x81, 4, in_reg(H_R11)); /* and */
	emit32(e, (uint32_t)PAGE_MASK);
	emit_store(e, in_cpu(WINDOW(class, base)), H_R11);
	emit_load(e, H_R10, in_tlb(TLB_WRITE(class) + TLB_ADDEND));
	emit_store(e, in_cpu(WINDOW(class, addend)), H_R10);
	emit_positions(e, class, true);
	emit8(e, 0xc3);
	emit_patch_here(e, missed);
	emit_op(e, true, 0x33, H_R11, in_tlb(TLB_WRITE(class)));
	if (!write) {
		missed = emit_look_up(bt, TLB_READ(class));
		emit_load(e, H_R10, in_tlb(TLB_READ(class) + TLB_ADDEND));
		emit_store(e, in_cpu(WINDOW(class, addend)), H_R10);
		emit_positions(e, class, false);
		emit8(e, 0xc3);
		emit_patch_here(e, missed);
		emit_op(e, true, 0x33, H_R11, in_tlb(TLB_READ(class)));
	}
	if (described) {
		emit_jmp(e, described);
		return start;
	}
	emit_op(e, true, 0x83, 0, at(H_RSP, 0)); /* add */
	emit8(e, JUMP_BACK);
	emit8(e, 0xc3);
	return start;
}

static void emit_commit_thunk(struct bt *bt)
{
	struct emitter *e = &bt->e;

	bt->careful_commit = emit_exec(e);
	emit_spill(e);
	emit_load(e, H_RDI, in_cpu(CPU_FIELD(self)));
	emit_to_c_stack(e);
	emit_call_c(e, (void *)bt_careful_commit);
	emit_to_return_stack(e);
	emit_reload(e);
	emit8(e, 0xc3);
}

/* r10: struct native_site. Entered from the signal handler; does not return. */
static void emit_fault_thunk(struct bt *bt)
{
	struct emitter *e = &bt->e;

	bt->native_fault = emit_exec(e);
	emit_spill(e);
	emit_load(e, H_RDI, in_cpu(CPU_FIELD(self)));
	emit_op(e, true, 0x8b, H_RSI, in_reg(H_R10));
	emit_to_c_stack(e);
	emit_call_c(e, (void *)bt_native_fault);
}

void bt_emit_thunks(struct bt *bt)
{
	uint8_t *described;

	emit_enter(bt);
	emit_exits(bt);
	emit_op_thunk(bt);
	bt->slow_access = emit_access_thunk(bt, (void *)bt_slow_access);
	emit_group_thunk(bt);
	bt->careful_access = emit_access_thunk(bt, (void *)bt_careful_access);
	emit_commit_thunk(bt);
	emit_fault_thunk(bt);
	flags_emit_save_thunk(bt);
	described = emit_described_thunk(bt);
	for (unsigned class = 0; class < TLB_CLASSES; class++) {
		for (unsigned write = 0; write < 2; write++) {
			bt->window_access[class][write] = emit_window_thunk(bt, class, write, described);
			bt->window_missed[class][write] = emit_window_thunk(bt, class, write, NULL);
		}
	}
	bt_emit_jump_thunks(bt);
	bt->code_start = bt->e.p;
}

/* The dispatcher: events, waiting, and the way from cpu->rip to a block. */
#include "engine/soft/bt/bt.h"
#include "engine/soft/bt/code_table.h"
#include "engine/soft/bt/coherence.h"
#include "engine/soft/bt/return_stack.h"
#include "engine/soft/bt/turns.h"
#include "engine/soft/bt/virtual_clock.h"
#include "engine/soft/bt/wait.h"
#include "engine/soft/cpu/apic.h"
#include "engine/soft/cpu/debugger.h"
#include "engine/soft/cpu/memory.h"

_Noreturn void cpu_leave(struct cpu *cpu)
{
	__builtin_longjmp(cpu->leave_buffer, 1);
}

static uint64_t linear_rip(const struct cpu *cpu)
{
	if (cpu->mode & MODE_CODE64)
		return cpu->rip;
	return (uint32_t)(cpu->seg[SEG_CS].base + cpu->rip);
}

static void check_fetch(struct cpu *cpu)
{
	if (cpu->mode & MODE_CODE64) {
		if (!is_canonical(cpu->rip))
			cpu_raise_error(cpu, VECTOR_GP, 0);
	} else if (cpu->rip > cpu->seg[SEG_CS].limit) {
		cpu_raise_error(cpu, VECTOR_GP, 0);
	}
}

/* Instruction breakpoints (SDM, Instruction-Breakpoint Exception Condition). */
static void check_breakpoints(struct cpu *cpu, uint64_t linear)
{
	uint64_t hit = 0;

	if (!(cpu->dr7 & 0xff) || cpu->rflags_system & FLAG_RF || cpu->shadow & SHADOW_MOVSS)
		return;
	for (unsigned i = 0; i < 4; i++)
		if (cpu->dr7 >> (2 * i) & 3 && !(cpu->dr7 >> (16 + 4 * i) & 15) && cpu->dr[i] == linear)
			hit |= 1u << i;
	if (hit)
		cpu_raise_debug(cpu, hit);
}

/* Code that is not in RAM or ROM is fetched through this copy, and translated for one instruction only. */
static const uint8_t *fetch_elsewhere(struct cpu *cpu, uint64_t gpa_page, uint8_t *buffer, unsigned offset)
{
	for (unsigned i = 0; i < 15 && offset + i < PAGE_SIZE; i++)
		buffer[offset + i] = phys_read(cpu, GPA(gpa_page + offset + i), 1);
	return buffer;
}

/* translate(), after making room where the code memory is full. */
static struct block *translate_with_room(struct bt *bt, uint64_t gpa, uint64_t linear, uint32_t key,
					 const uint8_t *page, unsigned max_insns, const uint8_t *second, uint64_t gpa2)
{
	struct block *block = translate(bt, gpa, linear, key, page, max_insns, second, gpa2);

	if (block)
		return block;
	bt_make_room(bt);
	block_hold_page(bt, 0, gpa >> PAGE_SHIFT);
	if (second)
		block_hold_page(bt, 1, gpa2 >> PAGE_SHIFT);
	return translate(bt, gpa, linear, key, page, max_insns, second, gpa2);
}

/* A single instruction that runs into the next page, whose mapping counts at every execution. */
static struct block *make_crossing_block(struct cpu *cpu, uint64_t gpa, uint64_t linear, uint32_t key,
					 const uint8_t *page, bool *in_memory)
{
	struct bt *bt = cpu->bt;
	uint64_t next_linear = (linear | (PAGE_SIZE - 1)) + 1;
	struct fetch_entry second;
	uint8_t bytes[16];

	if (!(cpu->mode & MODE_CODE64))
		next_linear = (uint32_t)next_linear;
	second = *tlb_fetch(cpu, GLA(next_linear));
	block_hold_page(bt, 1, second.gpa >> PAGE_SHIFT);
	if (second.host)
		memcpy(bytes, second.host, 15);
	else
		for (unsigned i = 0; i < 15; i++)
			bytes[i] = phys_read(cpu, GPA(second.gpa + i), 1);
	*in_memory = *in_memory && second.host && second.gpa >> PAGE_SHIFT < bt->page_count;
	return translate_with_room(bt, gpa, linear, key, page, 1, bytes, second.gpa);
}

static struct block *make_block(struct cpu *cpu, const struct fetch_entry *entry, uint64_t linear, uint32_t key,
				unsigned max_insns)
{
	struct bt *bt = cpu->bt;
	unsigned offset = linear & (PAGE_SIZE - 1);
	const struct fetch_entry fetch = *entry; /* who waits for another vCPU may have to flush */
	uint64_t gpa = fetch.gpa | offset;
	uint8_t buffer[PAGE_SIZE];
	const uint8_t *page = fetch.host;
	struct block *block;
	bool in_memory = page && gpa >> PAGE_SHIFT < bt->page_count;

	if (present_part(bt)->count >= present_part(bt)->max)
		bt_make_room(bt);
	if (bt->huge_end < bt->e.p + BLOCK_BUFFER || bt->cold_huge_end < bt->cold.p + BLOCK_BUFFER) {
		fpu_stash(cpu);
		bt_make_code_huge(bt);
	}
	block_settle_pages(bt); /* what a fault has left */
	block_hold_page(bt, 0, gpa >> PAGE_SHIFT);
	if (!page)
		page = fetch_elsewhere(cpu, fetch.gpa, buffer, offset);
	block = translate_with_room(bt, gpa, linear, key, page, max_insns, NULL, 0);
	if (block && block->insn_count == 0)
		block = make_crossing_block(cpu, gpa, linear, key, page, &in_memory);
	if (!block) {
		/* cannot happen: a part of the memory holds many blocks */
		cpu->activity = ACTIVITY_SHUTDOWN;
		cpu_leave(cpu);
	}
	block->transient = !in_memory;
	block_insert(bt, block);
	block_settle_pages(bt);
	return block;
}

/* A block over two pages is valid only while its second page is mapped as when it was made. */
static bool second_page_holds(struct cpu *cpu, struct block *block, uint64_t linear)
{
	uint64_t next_linear = (linear | (PAGE_SIZE - 1)) + 1;

	if (!(cpu->mode & MODE_CODE64))
		next_linear = (uint32_t)next_linear;
	return tlb_fetch(cpu, GLA(next_linear))->gpa == block_gpa2(cpu->bt, block);
}

static const struct jump_entry *jump_slot(const struct cpu *cpu)
{
	return &cpu->region->tables.jump[MODE_CLASS(cpu->mode)][jump_slot_of(cpu->rip)];
}

static bool may_cache(const struct cpu *cpu, const struct block *block)
{
	/* One over two pages may be: a change of either mapping empties the cache. */
	if (block->transient || block->key & (KEY_ONE | KEY_SHORT | KEY_NO_GROUPS | MODE_STEP))
		return false;
	return mode_has_jump_cache(cpu->mode) && !debugger_cuts(cpu, block->gpa & (PAGE_SIZE - 1));
}

/* expected: the block that the way here led to last time, or NULL. */
static struct block *find_or_make(struct cpu *cpu, uint64_t linear, uint32_t key, unsigned max_insns,
				  struct block *expected)
{
	const struct fetch_entry *fetch = tlb_fetch(cpu, GLA(linear));
	uint64_t gpa = fetch->gpa | (linear & (PAGE_SIZE - 1));
	struct block *block = NULL;

	if (expected && !expected->dropped && expected->gpa == gpa && expected->key == key &&
	    expected->linear == block_linear_key(cpu->bt, linear, key))
		block = expected;
	else if (fetch->host)
		block = block_find(cpu->bt, gpa, key, linear);

	if (block && block->crosses_page && !second_page_holds(cpu, block, linear)) {
		block_drop(cpu->bt, block);
		block = NULL;
		fetch = tlb_fetch(cpu, GLA(linear));
	}
	/* Cut blocks are rarely wanted again in the same length. */
	if (block && block->insn_count > max_insns) {
		block_drop(cpu->bt, block);
		block = NULL;
	}
	return block ? block : make_block(cpu, fetch, linear, key, max_insns);
}

/* A global link holds in every context only where its target's page is global. */
static bool may_link(struct cpu *cpu, const struct block_link *link, uint64_t linear)
{
	return !link->global || (cpu->cr4 & CR4_PGE && tlb_fetch(cpu, GLA(linear))->global);
}

/* SDM, JMP, CALL and RET: #GP(0) belongs to the branch, which then has changed nothing. */
static _Noreturn void fault_at_branch(struct cpu *cpu)
{
	uint32_t branch = cpu->branch;

	cpu->rip = bt_rip(cpu, BRANCH_OFFSET(branch));
	if (BRANCH_KIND(branch) == BRANCH_CALL)
		cpu->gpr[REG_RSP] += 8;
	else if (BRANCH_KIND(branch) == BRANCH_RET)
		cpu->gpr[REG_RSP] -= 8 + BRANCH_EXTRA(branch);
	if (cpu->clock == ENGINE_CLOCK_DETERMINISTIC)
		cpu->budget++; /* what faults does not count */
	cpu_raise_error(cpu, VECTOR_GP, 0);
}

/* Runs translated code that starts at cpu->rip, whose linear address is given. Returns the exit it left by. */
static struct block_link *enter_code(struct cpu *cpu, const void *code, uint64_t linear)
{
	struct bt *bt = cpu->bt;
	struct block_link *next;

	/* RF has done its duty; a fault pushes it as 1 by itself, and IRET may set it anew. */
	cpu->rflags_system &= ~(uint64_t)FLAG_RF;
	cpu->rip_page = cpu->rip - (linear & (PAGE_SIZE - 1));
	if (cpu->fpu_stashed)
		fpu_unstash(cpu);
	if (bt->entered != cpu->region) {
		bt->entered = cpu->region;
		return_stack_forget(cpu);
	}
	cpu->branch = 0;
	next = (struct block_link *)bt->enter(cpu, code);
	if (next)
		cpu->rip = bt_rip(cpu, next->target);
	else if (cpu->branch && cpu->mode & MODE_CODE64 && !is_canonical(cpu->rip))
		fault_at_branch(cpu);
	return next;
}

/* Runs from cpu->rip until translated code comes back. `link`: the exit that led here, or NULL. Returns the next. */
static struct block_link *run_block(struct cpu *cpu, struct block_link *link)
{
	struct bt *bt = cpu->bt;
	bool stepping = debugger_is_stepping(cpu);
	uint32_t one = bt->careful_key | (cpu->shadow || stepping ? KEY_ONE : 0);
	uint32_t key = cpu->mode | one;
	uint64_t linear = linear_rip(cpu), emptied = bt->emptied;
	uint8_t shadow = cpu->shadow;
	bool trap = cpu->rflags_system & FLAG_TF;
	struct block_link *next;
	struct block *block;

	bt->careful_key = 0;
	if (cpu->debugger)
		cpu->debugger->pass = false;
	if (!one && (!link || link->table == LINK_CACHED) && !(cpu->mode & MODE_STEP) && cpu->clock == ENGINE_CLOCK_REAL) {
		const struct jump_entry *entry = jump_slot(cpu);

		if (entry->rip == cpu->rip && mode_has_jump_cache(cpu->mode))
			return enter_code(cpu, entry->code, linear);
	}
	check_fetch(cpu);
	if (cpu->mode & MODE_STEP)
		check_breakpoints(cpu, linear);
	block = find_or_make(cpu, linear, key, BLOCK_MAX_INSNS, link ? record_at(bt, link->to) : NULL);
	if (cpu->clock == ENGINE_CLOCK_DETERMINISTIC && cpu->budget < block->insn_count) {
		one |= KEY_SHORT;
		block = find_or_make(cpu, linear, key | KEY_SHORT, cpu->budget, NULL);
	}
	if (bt->single.patch) {
		if (one == KEY_NO_GROUPS && !cpu->debugger)
			block_connect_single(bt, block);
		bt->single.patch = 0;
	}
	if (may_cache(cpu, block)) {
		tlb_fill_jump(&cpu->region->tables, MODE_CLASS(cpu->mode), cpu->rip, block_code_mem(bt, block));
		code_table_enter(bt, block);
	}
	if (link && bt->emptied == emptied && !one && !block->transient && !(cpu->mode & MODE_STEP) &&
	    cpu->mode == link_key(link) && !debugger_cuts(cpu, linear & (PAGE_SIZE - 1))) {
		if (block->crosses_page || !may_link(cpu, link, linear))
			block_link_through_cache(bt, link);
		else
			block_link_to(bt, link, block);
	}
	next = enter_code(cpu, block_code_mem(bt, block), linear);
	if (stepping)
		cpu->debugger->stepped = true;
	if (shadow && cpu->shadow == shadow)
		cpu->shadow = 0;
	if (cpu->step_recheck) {
		cpu->step_recheck = false;
		trap = cpu->rflags_system & FLAG_TF;
	}
	if (cpu->mode & MODE_STEP || trap) {
		if (trap) {
			cpu->debug_trap_pending = true;
			cpu->dr6_pending |= 1u << 14; /* BS */
		}
		cpu_poll_soon(cpu);
		return NULL;
	}
	return next;
}

static bool stop_requested(struct cpu *cpu)
{
	if (!(__atomic_load_n(&cpu->pending_async, __ATOMIC_ACQUIRE) & ASYNC_STOP))
		return false;
	__atomic_fetch_and(&cpu->pending_async, ~ASYNC_STOP, __ATOMIC_ACQ_REL);
	return true;
}

/* False: the machine wants the vCPU although it is not its turn. */
static __attribute__((noinline)) bool await_turn(struct cpu *cpu)
{
	fpu_stash(cpu);
	return turns_await(cpu) || !stop_requested(cpu);
}

static __attribute__((noinline)) void end_turn(struct cpu *cpu)
{
	fpu_stash(cpu);
	if (!turns_left(cpu))
		turns_pass(cpu);
}

/* MWAIT: others run, or time passes. */
static __attribute__((noinline)) void nap(struct cpu *cpu)
{
	fpu_stash(cpu);
	if (cpu->turns)
		turns_pass(cpu);
	else
		virtual_clock_skip_idle(cpu);
}

/* One turn; returns false with *exit where the machine is wanted. */
static __attribute__((noinline)) bool turn(struct cpu *cpu, struct block_link **link, enum engine_exit *exit)
{
	if (cpu->turns && !turns_is_mine(cpu)) {
		*link = NULL;
		if (!await_turn(cpu)) {
			*exit = ENGINE_EXIT_KICKED;
			return false;
		}
		return true;
	}
	if (__builtin_expect(cpu->debugger != NULL, 0) && !cpu->event.valid && !cpu->bt->careful_key &&
	    debugger_stops(cpu, linear_rip(cpu))) {
		*exit = ENGINE_EXIT_DEBUG;
		return false;
	}
	if (cpu->event.valid) {
		*link = NULL;
		return_stack_forget(cpu);
		cpu->napping = false;
		cpu_deliver_event(cpu);
		return true;
	}
	if (virtual_clock_is_due(cpu)) {
		virtual_clock_refill(cpu);
		if (cpu->turns) {
			end_turn(cpu);
			if (!turns_is_mine(cpu))
				return true;
		}
	}
	if (__atomic_load_n(&cpu->kick, __ATOMIC_ACQUIRE)) {
		*link = NULL;
		return_stack_forget(cpu);
		if (cpu->bt->rescued) {
			cpu->bt->rescued = false;
			tlb_empty_sites(cpu, true);
		}
		if (stop_requested(cpu)) {
			*exit = ENGINE_EXIT_KICKED;
			return false;
		}
		cpu_poll_events(cpu);
		if (cpu->event.valid || virtual_clock_is_due(cpu))
			return true;
	}
	if (cpu->napping) {
		cpu->napping = false;
		if (!cpu->interrupt_blocked)
			nap(cpu);
		return true;
	}
	if (cpu->activity != ACTIVITY_ACTIVE) {
		*link = NULL;
		return_stack_forget(cpu);
		if (cpu->activity == ACTIVITY_SHUTDOWN && !cpu->virt) {
			*exit = ENGINE_EXIT_SHUTDOWN;
			return false;
		}
		fpu_stash(cpu);
		bt_wait(cpu);
		return true;
	}
	*link = run_block(cpu, *link);
	return true;
}

enum engine_exit bt_run(struct cpu *cpu)
{
	struct block_link *volatile link = NULL;
	volatile enum engine_exit exit = ENGINE_EXIT_ERROR;

	/* Whatever abandons an instruction comes back here. */
	if (__builtin_setjmp(cpu->leave_buffer)) {
		link = NULL;
		if (cpu->debugger && !cpu->bt->careful_key)
			cpu->debugger->stepped = true;
	}
	coherence_end_alone(cpu);
	return_stack_forget(cpu);
	for (;;) {
		struct block_link *l = link;
		enum engine_exit x;

		if (!turn(cpu, &l, &x)) {
			exit = x;
			break;
		}
		link = l;
	}
	fpu_stash(cpu);
	return exit;
}

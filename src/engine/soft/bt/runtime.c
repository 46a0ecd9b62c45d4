/* What translated code calls: ops, and memory accesses that the inline lookup could not do. */
#include "engine/soft/bt/bt.h"
#include "engine/soft/bt/coherence.h"
#include "engine/soft/bt/group.h"
#include "engine/soft/bt/return_stack.h"
#include "engine/soft/cpu/apic.h"
#include "engine/soft/cpu/debugger.h"
#include "engine/soft/cpu/memory.h"
#include "engine/soft/cpu/memory_direct.h"

#ifdef NESTOR_SANITIZED
/* Instrumented code may use vector registers: put the guest's away around it. */
#define C_BEGIN(cpu) fpu_stash(cpu)
#else
#define C_BEGIN(cpu) ((void)0)
#endif
/* Translated code goes on: its vector state belongs into the host's registers again. */
#define C_END(cpu)                                                                                             \
	do {                                                                                                   \
		if ((cpu)->fpu_stashed)                                                                        \
			fpu_unstash(cpu);                                                                      \
	} while (0)

/* No value is read before it is written; a fixed one keeps runs reproducible. */
static void flags_canonical(struct cpu *cpu)
{
	cpu->cc_of = 0;
	cpu->cc_low = 2;
}

/* INS, OUTS, MOVS, CMPS, STOS, LODS, SCAS: a repeated one counts once, when it ends, however often it is resumed. */
static bool is_string(const struct insn *insn)
{
	return insn->map == 0 && ((insn->opcode >= 0x6c && insn->opcode <= 0x6f) ||
				  (insn->opcode >= 0xa4 && insn->opcode <= 0xa7) ||
				  (insn->opcode >= 0xaa && insn->opcode <= 0xaf));
}

/*
 * Under the deterministic clock what an instruction makes pending is looked at right after it, wherever blocks end. A
 * device may also have stored into the code that follows.
 */
static bool must_look_up(const struct cpu *cpu)
{
	if (!__atomic_load_n(&cpu->kick, __ATOMIC_RELAXED))
		return false;
	return cpu->clock == ENGINE_CLOCK_DETERMINISTIC ||
	       __atomic_load_n(&cpu->pending_async, __ATOMIC_RELAXED) & (ASYNC_CODE | ASYNC_STOP);
}

/* What an op that ends its block finds changed behind itself. */
struct before_op {
	uint32_t mode;
	const struct tlb_region *region;
	uint64_t link_resets;
};

/*
 * After an op that ends its block: where the next instruction needs nothing of the dispatcher, the way there through
 * the jump cache; else 1. Return entries stay good where neither the mode key nor any mapping of code changed.
 */
static uint64_t way_on(struct cpu *cpu, const struct op_call *call, const struct before_op *before)
{
	struct bt *bt = cpu->bt;
	const struct block *block = record_at(bt, call->block);

	if (cpu->tune_off & (ENGINE_TUNE_OPS_GO_ON | ENGINE_TUNE_JUMP_CACHE) || cpu->clock != ENGINE_CLOCK_REAL ||
	    block->key & ~(MODE_BITS | KEY_NO_GROUPS) || cpu->mode & MODE_STEP || !mode_has_jump_cache(cpu->mode))
		return 1;
	if (cpu->shadow || cpu->event.valid || cpu->step_recheck || cpu->napping || cpu->activity != ACTIVITY_ACTIVE)
		return 1;
	bt->entered = cpu->region;
	if (cpu->mode == before->mode && cpu->region == before->region && bt->link_resets == before->link_resets)
		cpu->return_sp = (uint8_t *)cpu->return_sp + 8; /* without the thunk's own return address */
	else
		return_stack_forget(cpu);
	cpu->branch = 0;
	cpu->rflags_system &= ~(uint64_t)FLAG_RF; /* as wherever translated code is entered */
	C_END(cpu);
	return (uintptr_t)bt->jump_cached[MODE_CLASS(cpu->mode)];
}

/* Returns 0: the block goes on; 1: leave to the dispatcher; else what to jump to, with rip in r11. */
uint64_t bt_run_op(struct cpu *cpu, struct op_call *call)
{
	const struct before_op before = { cpu->mode, cpu->region, cpu->bt->link_resets };
	const struct insn *insn = &call->insn;
	const struct block *block = record_at(cpu->bt, call->block);
	uint64_t expected;
	uint8_t shadow = cpu->shadow;

	C_BEGIN(cpu);
	bt_give_back(cpu, call->rest);
	cpu->rip = bt_rip(cpu, call->page_offset);
	expected = bt_rip(cpu, call->page_offset + insn->length);
	cpu->next_rip = expected;
	call->function(cpu, insn);
	if (!(insn->prefixes & (PREFIX_REP | PREFIX_REPNE) && cpu->next_rip == cpu->rip && is_string(insn)))
		bt_take(cpu, 1);
	cpu->rip = cpu->next_rip;
	if (shadow && cpu->shadow == shadow)
		cpu->shadow = 0;
	if (call->ends)
		return way_on(cpu, call, &before);
	if (cpu->next_rip != expected || block->dropped || must_look_up(cpu) ||
	    __builtin_expect(cpu->debugger && cpu->debugger->hit, 0))
		return 1;
	bt_take(cpu, call->rest - 1);
	C_END(cpu);
	return 0;
}

static void begin_access(struct cpu *cpu, uint32_t access)
{
	unsigned offset = ACCESS_PAGE_OFFSET(access);

	C_BEGIN(cpu);
	bt_give_back(cpu, ACCESS_REST(access));
	cpu->rip = bt_rip(cpu, offset);
	if (ACCESS_FLAGS_DEAD(access))
		flags_canonical(cpu);
}

/* The instruction is done over, alone, with a bounce buffer. */
static _Noreturn void retry_carefully(struct cpu *cpu)
{
	cpu->bt->careful_key = KEY_ONE | KEY_CAREFUL;
	cpu_leave(cpu);
}

static void read_linear(struct cpu *cpu, gla_t gla, uint8_t *to, unsigned size)
{
	enum tlb_class class = mem_class(cpu);

	if (size == 1 || size == 2 || size == 4 || size == 8) {
		uint64_t value = mem_read_linear(cpu, gla, size, class);

		memcpy(to, &value, size);
	} else {
		mem_read_block(cpu, gla, to, size, class);
	}
}

/* Returns what to add to gla for the host address. */
uint64_t bt_slow_access(struct cpu *cpu, uint64_t gla, uint32_t access)
{
	unsigned size = access_sizes[ACCESS_SIZE_CODE(access)];
	bool write = ACCESS_USE(access) & USE_WRITE;
	bool crosses = (gla & (PAGE_SIZE - 1)) + size > PAGE_SIZE;
	uint64_t addend;

	begin_access(cpu, access);
	if (!is_canonical(gla) || !is_canonical(gla + size - 1)) {
		if (ACCESS_SEGMENT(access) == SEG_SS)
			cpu_raise_error(cpu, VECTOR_SS, 0);
		cpu_raise_error(cpu, VECTOR_GP, 0);
	}
	if (!crosses) {
		gpa_t gpa;
		uint8_t *host = tlb_access(cpu, GLA(gla), size, write ? ACCESS_WRITE : ACCESS_READ, mem_class(cpu), &gpa);

		if (host) {
			bt_take(cpu, ACCESS_REST(access));
			C_END(cpu);
			return (uint64_t)host - gla;
		}
	}
	if (write || cpu->clock == ENGINE_CLOCK_DETERMINISTIC || debugger_watches(cpu))
		retry_carefully(cpu);
	uint8_t *bounce = cpu->bounce + (gla & 63);

	read_linear(cpu, GLA(gla), bounce, size);
	addend = (uint64_t)bounce - gla;
	C_END(cpu);
	return addend;
}

/* The addend of the page where all that a group does to it may be done directly. */
static bool group_page(struct cpu *cpu, uint64_t gla, const struct group_access *group, uint64_t *addend)
{
	enum mem_access access = group->use & USE_WRITE ? ACCESS_WRITE : ACCESS_READ;
	enum tlb_class class = mem_class(cpu);
	const struct tlb_tables *tables = &cpu->region->tables;
	const struct tlb_entries *entries = &(access == ACCESS_WRITE ? tables->write : tables->read)[class];
	unsigned slot = tlb_slot(gla);

	if (entries->page[slot] != (gla & PAGE_MASK) && !tlb_peek(cpu, GLA(gla), access, class))
		return false;
	*addend = entries->addend[slot];
	return true;
}

/*
 * The rel32 of the branch in a group's slow path (translate.c: emit_slow_group) by which it may lead to a block without
 * groups: the call that has come here stands at a known distance behind it. It leads nowhere while it is 0.
 */
static uint8_t *single_branch(const struct cpu *cpu)
{
	const uint8_t *behind_call = *(uint8_t *const *)cpu->return_sp;

	return (uint8_t *)behind_call - cpu->bt->e.exec_offset - SLOW_GROUP_CALL - 4;
}

/* The members of a group are to be done one by one. Returns where they are, or leaves to the dispatcher, which finds it. */
static const void *single_way(struct cpu *cpu, const struct group_access *group)
{
	struct bt *bt = cpu->bt;

	if (cpu->clock == ENGINE_CLOCK_REAL && !(cpu->tune_off & ENGINE_TUNE_SINGLES)) {
		uint8_t *branch = single_branch(cpu);
		int32_t distance;

		memcpy(&distance, branch, sizeof(distance));
		if (distance)
			return branch + bt->e.exec_offset + 4 + distance;
		bt->single.patch = branch - bt->code_rw;
		bt->single.mode = cpu->mode;
		bt->single.linear = cpu->rip;
		bt->single.gpa = (group_block(group)->gpa & PAGE_MASK) | group->page_offset;
	}
	bt->careful_key = KEY_NO_GROUPS;
	cpu_leave(cpu);
}

/*
 * The leader of a group of accesses (group.h): gla is the start of the group's range. The leader's own access may
 * fault; what the others need is looked for without any effect, and where it is not to be had they are done one by
 * one. A range over two pages will do where they follow one another in the host's memory, too.
 */
struct group_way bt_slow_group(struct cpu *cpu, uint64_t gla, uint64_t place)
{
	const struct group_access *group = (const struct group_access *)(cpu->bt->arena_start + place);
	uint64_t own = gla + group->leader_distance, last = gla + group->range - 1, addend, addend_of_last;
	bool write = group->leader_use & USE_WRITE;
	gpa_t gpa;

	C_BEGIN(cpu);
	bt_give_back(cpu, group->rest);
	cpu->rip = bt_rip(cpu, group->page_offset);
	if (group->flags_dead)
		flags_canonical(cpu);
	if (is_canonical(gla) && is_canonical(last) && (own & (PAGE_SIZE - 1)) + group->leader_size <= PAGE_SIZE &&
	    tlb_access(cpu, GLA(own), group->leader_size, write ? ACCESS_WRITE : ACCESS_READ, mem_class(cpu), &gpa) &&
	    group_page(cpu, gla, group, &addend) &&
	    (!((gla ^ last) & PAGE_MASK) || (group_page(cpu, last, group, &addend_of_last) && addend_of_last == addend))) {
		if (group->in_window)
			tlb_lend_window(cpu, mem_class(cpu), addend);
		bt_take(cpu, group->rest);
		C_END(cpu);
		return (struct group_way){ .addend = addend };
	}
	const void *single = single_way(cpu, group);

	C_END(cpu);
	return (struct group_way){ .single = single };
}

/* An access to RAM within one page, and to nothing that is watched. Raises the access's faults. */
static bool is_plain(struct cpu *cpu, gla_t gla, unsigned size, bool write)
{
	gpa_t gpa;

	return (gla.v & (PAGE_SIZE - 1)) + size <= PAGE_SIZE &&
	       tlb_access(cpu, gla, size, write ? ACCESS_WRITE : ACCESS_READ, mem_class(cpu), &gpa);
}

/* A write that may drop the running block. Raises the access's faults. */
static bool writes_code(struct cpu *cpu, gla_t gla, unsigned size)
{
	unsigned offset = gla.v & (PAGE_SIZE - 1);
	gpa_t gpa;

	if (offset + size > PAGE_SIZE)
		return true;
	if (tlb_access(cpu, gla, size, ACCESS_WRITE, mem_class(cpu), &gpa))
		return false;
	return bt_code_map(cpu, gpa) >> (offset >> 6) & 1 || bt_code_map(cpu, gpa) >> ((offset + size - 1) >> 6) & 1;
}

/* Returns the host address of the operand: the bounce buffer. */
uint64_t bt_careful_access(struct cpu *cpu, uint64_t offset, uint32_t access)
{
	struct bt *bt = cpu->bt;
	unsigned size = access_sizes[ACCESS_SIZE_CODE(access)], use = ACCESS_USE(access);
	unsigned segment = ACCESS_SEGMENT(access);
	bool write = use & USE_WRITE;

	begin_access(cpu, access);
	gla_t gla = mem_linear(cpu, segment, offset, size, write ? ACCESS_WRITE : ACCESS_READ);

	if (cpu->mode & MODE_ALIGN && size <= 8 && gla.v & (size - 1))
		cpu_raise_error(cpu, VECTOR_AC, 0);
	/*
	 * A locked access over two of the host's cache lines must not be one on the host, which may make it take a second
	 * (split lock detection); alignment means nothing to it otherwise.
	 */
	bool splits = ACCESS_LOCKED(access) && (gla.v & 63) + size > 64;
	uint8_t *bounce = cpu->bounce + (splits ? 0 : gla.v & 63);

	/* What reaches a device ends its block: the device may have made something pending. */
	if (cpu->clock == ENGINE_CLOCK_DETERMINISTIC && !ACCESS_ALONE(access) && !is_plain(cpu, gla, size, write))
		retry_carefully(cpu);
	if (write && !ACCESS_ALONE(access) && writes_code(cpu, gla, size))
		retry_carefully(cpu);
	if (write && ACCESS_LOCKED(access) && cpu->coherence && cpu->coherence->writers) {
		/* A lock beside code, as firmware has them: the host's own locked instruction is atomic. */
		uint8_t *host = splits ? NULL : mem_direct(cpu, gla, size, ACCESS_WRITE, mem_class(cpu));

		if (host) {
			bt->careful.size = 0; /* nothing to write back */
			bt_take(cpu, ACCESS_REST(access));
			C_END(cpu);
			return (uint64_t)host;
		}
		coherence_be_alone(cpu); /* until the operand is written back */
	}
	if (write)
		mem_check_write(cpu, gla, size, mem_class(cpu));
	if (use & USE_READ)
		read_linear(cpu, gla, bounce, size);
	bt->careful.offset = gla.v;
	bt->careful.size = size;
	bt->careful.bounce = bounce;
	bt->careful.write = write;
	bt->careful.rest = ACCESS_REST(access);
	bt_take(cpu, ACCESS_REST(access));
	C_END(cpu);
	return (uint64_t)bounce;
}

void bt_careful_commit(struct cpu *cpu)
{
	struct bt *bt = cpu->bt;
	gla_t gla = GLA(bt->careful.offset);
	unsigned size = bt->careful.size;
	const uint8_t *bounce = bt->careful.bounce;

	if (!size)
		return;
	C_BEGIN(cpu);
	bt_give_back(cpu, bt->careful.rest);
	if (size == 1 || size == 2 || size == 4 || size == 8) {
		uint64_t value = 0;

		memcpy(&value, bounce, size);
		mem_write_linear(cpu, gla, size, value, mem_class(cpu));
	} else {
		mem_write_block(cpu, gla, bounce, size, mem_class(cpu));
	}
	coherence_end_alone(cpu);
	bt_take(cpu, bt->careful.rest);
	C_END(cpu);
}

void bt_native_fault(struct cpu *cpu, struct native_site *site)
{
	unsigned vector = cpu->scratch[2];

	C_BEGIN(cpu);
	bt_give_back(cpu, site->rest);
	cpu->rip = bt_rip(cpu, site->page_offset);
	if (site->flags_dead)
		flags_canonical(cpu);
	switch (vector) {
	case VECTOR_XM:
		if (!(cpu->cr4 & CR4_OSXMMEXCPT))
			cpu_raise(cpu, VECTOR_UD);
		cpu_raise(cpu, VECTOR_XM);
	case VECTOR_GP:
		cpu_raise_error(cpu, VECTOR_GP, 0);
	case VECTOR_AC:
		cpu_raise_error(cpu, VECTOR_AC, 0);
	default:
		cpu_raise(cpu, vector);
	}
}

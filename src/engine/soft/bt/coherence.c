#include "engine/soft/bt/coherence.h"

#include "engine/soft/bt/bt.h"
#include "engine/soft/bt/turns.h"
#include "engine/soft/bt/wait.h"
#include "engine/soft/cpu/host_call.h"

static void lock(struct code_inbox *inbox)
{
	while (__atomic_exchange_n(&inbox->lock, 1, __ATOMIC_ACQUIRE))
		__builtin_ia32_pause();
}

static void unlock(struct code_inbox *inbox)
{
	__atomic_store_n(&inbox->lock, 0, __ATOMIC_RELEASE);
}

static uint64_t bit_of(const struct cpu *cpu)
{
	return 1ull << cpu->index;
}

/*
 * Makes the other vCPU look into its inbox. It need not be woken for it: it looks before it goes on. Where vCPUs take
 * turns a kick would be a reason to give it one, although the guest sees nothing of this.
 */
static void ring(struct cpu *other)
{
	__atomic_fetch_or(&other->pending_async, ASYNC_CODE, __ATOMIC_RELEASE);
	if (!other->turns || turns_has_turn(other))
		__atomic_store_n(&other->kick, 1, __ATOMIC_RELEASE);
}

/* ---- what changed ---- */

static void post_change(struct cpu *other, uint64_t page, uint64_t granules)
{
	struct code_inbox *inbox = other->inbox;
	struct code_change *list;
	uint32_t count;

	lock(inbox);
	list = inbox->change[inbox->filling];
	count = inbox->change_count;
	if (count && list[count - 1].page == page)
		list[count - 1].granules |= granules;
	else if (count < COHERENCE_CHANGES)
		list[inbox->change_count++] = (struct code_change){ page, granules };
	else
		inbox->change_all = true;
	unlock(inbox);
	ring(other);
}

/* The granules of the page that vCPU `i` has translated. It may be translating just now: then all. */
static uint64_t granules_of(const struct coherence *coherence, unsigned i, uint64_t page)
{
	struct bt *bt = coherence->cpu[i]->bt;

	/* In this order: what was being translated is in granules when it is so no more. */
	for (unsigned which = 0; which < 2; which++)
		if (__atomic_load_n(&bt->translating[which], __ATOMIC_SEQ_CST) == page + 1)
			return ~0ull;
	return __atomic_load_n(&bt->pages[page].granules, __ATOMIC_ACQUIRE);
}

static bool post_to_holders(struct coherence *coherence, uint64_t holders, uint64_t page, uint64_t granules)
{
	bool posted = false;

	for (; holders; holders &= holders - 1) {
		unsigned i = (unsigned)__builtin_ctzll(holders);

		if (granules_of(coherence, i, page) & granules) {
			post_change(coherence->cpu[i], page, granules);
			posted = true;
		}
	}
	return posted;
}

uint64_t coherence_code_map(struct cpu *cpu, uint64_t page)
{
	struct coherence *coherence = cpu->coherence;
	uint64_t holders, map = 0;

	if (page >= coherence->page_count)
		return 0;
	for (holders = __atomic_load_n(&coherence->holders[page], __ATOMIC_SEQ_CST); holders; holders &= holders - 1)
		map |= granules_of(coherence, (unsigned)__builtin_ctzll(holders), page);
	return map;
}

void coherence_tell_all(struct coherence *coherence, uint64_t page, uint64_t granules)
{
	post_to_holders(coherence, __atomic_load_n(&coherence->holders[page], __ATOMIC_SEQ_CST), page, granules);
}

void coherence_tell(struct cpu *cpu, uint64_t page, uint64_t granules)
{
	struct coherence *coherence = cpu->coherence;
	struct code_inbox *inbox = cpu->inbox;
	uint64_t others = __atomic_load_n(&coherence->holders[page], __ATOMIC_SEQ_CST) & ~bit_of(cpu);

	if (!others || !post_to_holders(coherence, others, page, granules))
		return;
	if (inbox->said_count && inbox->said[inbox->said_count - 1].page == page)
		inbox->said[inbox->said_count - 1].granules |= granules;
	else if (inbox->said_count < COHERENCE_SAID)
		inbox->said[inbox->said_count++] = (struct code_change){ page, granules };
	else
		inbox->said_all = true;
	__atomic_fetch_or(&cpu->pending_async, ASYNC_CODE, __ATOMIC_RELAXED);
	cpu_poll_soon(cpu);
}

/* The stores are done: who translated the page again before they were must do so once more. */
static void say_again(struct cpu *cpu)
{
	struct coherence *coherence = cpu->coherence;
	struct code_inbox *inbox = cpu->inbox;

	for (uint32_t i = 0; i < inbox->said_count; i++) {
		uint64_t page = inbox->said[i].page;
		uint64_t others = __atomic_load_n(&coherence->holders[page], __ATOMIC_SEQ_CST) & ~bit_of(cpu);

		post_to_holders(coherence, others, page, inbox->said[i].granules);
	}
	for (unsigned i = 0; inbox->said_all && i < coherence->count; i++) {
		struct cpu *other = coherence->cpu[i];

		if (other == cpu)
			continue;
		lock(other->inbox);
		other->inbox->change_all = true;
		unlock(other->inbox);
		ring(other);
	}
	inbox->said_count = 0;
	inbox->said_all = false;
}

/* ---- who may store ---- */

void coherence_serve_revokes(struct cpu *cpu)
{
	struct code_inbox *inbox = cpu->inbox;
	struct coherence *coherence = cpu->coherence;

	lock(inbox);
	for (uint32_t i = 0; i < inbox->revoke_count; i++) {
		__atomic_fetch_and(&coherence->writers[inbox->revoke[i]], ~bit_of(cpu), __ATOMIC_RELAXED);
		tlb_revoke_write(cpu, GPA(inbox->revoke[i] << PAGE_SHIFT));
	}
	if (inbox->revoke_all)
		tlb_revoke_all_writes(cpu);
	inbox->revoke_count = 0;
	inbox->revoke_all = false;
	__atomic_store_n(&inbox->revokes_done, inbox->revokes_asked, __ATOMIC_RELEASE);
	unlock(inbox);
}

/* Returns what revokes_done must reach. */
static uint64_t ask_to_revoke(struct cpu *other, uint64_t page)
{
	struct code_inbox *inbox = other->inbox;
	uint64_t asked;

	lock(inbox);
	if (inbox->revoke_count < COHERENCE_REVOKES)
		inbox->revoke[inbox->revoke_count++] = page;
	else
		inbox->revoke_all = true;
	asked = ++inbox->revokes_asked;
	unlock(inbox);
	ring(other);
	return asked;
}

#define YIELDS_BEFORE_SLEEP 16
#define WAIT_NS             20000

/* What others do may take until they run again: the host has fewer processors. */
static void wait_a_little(struct cpu *cpu, unsigned turns)
{
	if (turns < 200) {
		__builtin_ia32_pause();
	} else if (turns < 200 + YIELDS_BEFORE_SLEEP) {
		cpu_host_yield(cpu);
	} else {
		fpu_stash(cpu);
		bt_sleep(WAIT_NS);
	}
}

static bool try_custody(struct cpu *other)
{
	uint32_t expected = CUSTODY_SLEEPS;

	return __atomic_compare_exchange_n(&other->inbox->custody, &expected, CUSTODY_SERVED, false, __ATOMIC_ACQUIRE,
					   __ATOMIC_RELAXED);
}

/* Until `other` has served what was asked of it, or we have in its place. */
static void wait_for(struct cpu *cpu, struct cpu *other, uint64_t asked)
{
	for (unsigned turns = 0; __atomic_load_n(&other->inbox->revokes_done, __ATOMIC_ACQUIRE) < asked; turns++) {
		if (try_custody(other)) {
			coherence_serve_revokes(other);
			__atomic_store_n(&other->inbox->custody, CUSTODY_SLEEPS, __ATOMIC_RELEASE);
		} else {
			wait_a_little(cpu, turns);
		}
	}
}

void coherence_hold(struct cpu *cpu, uint64_t page)
{
	struct coherence *coherence = cpu->coherence;
	uint64_t others, asked[COHERENCE_CPUS];

	if (__atomic_load_n(&coherence->holders[page], __ATOMIC_RELAXED) & bit_of(cpu))
		return;
	__atomic_fetch_or(&coherence->holders[page], bit_of(cpu), __ATOMIC_SEQ_CST);
	if (!coherence->writers)
		return;
	others = __atomic_load_n(&coherence->writers[page], __ATOMIC_SEQ_CST) & ~bit_of(cpu);
	if (!others)
		return;
	for (uint64_t left = others; left; left &= left - 1) {
		unsigned i = (unsigned)__builtin_ctzll(left);

		asked[i] = ask_to_revoke(coherence->cpu[i], page);
	}
	/* Meanwhile this vCPU stands still for all who wait for it, or there would be circles of them. */
	coherence_sleep(cpu);
	for (uint64_t left = others; left; left &= left - 1) {
		unsigned i = (unsigned)__builtin_ctzll(left);

		wait_for(cpu, coherence->cpu[i], asked[i]);
	}
	coherence_wake(cpu);
}

void coherence_release(struct cpu *cpu, uint64_t page)
{
	__atomic_fetch_and(&cpu->coherence->holders[page], ~bit_of(cpu), __ATOMIC_SEQ_CST);
}

/* ---- one alone ---- */

/* At an instruction boundary: while another vCPU must be alone this one stands still. */
static void stand_aside(struct cpu *cpu)
{
	uint32_t *alone = &cpu->coherence->alone, own = cpu->index + 1;

	coherence_sleep(cpu);
	for (unsigned turns = 0;; turns++) {
		uint32_t who = __atomic_load_n(alone, __ATOMIC_ACQUIRE);

		if (!who || who == own)
			break;
		wait_a_little(cpu, turns);
	}
	coherence_wake(cpu);
}

void coherence_be_alone(struct cpu *cpu)
{
	struct coherence *coherence = cpu->coherence;
	uint32_t nobody = 0;

	while (!__atomic_compare_exchange_n(&coherence->alone, &nobody, cpu->index + 1, false, __ATOMIC_ACQUIRE,
					    __ATOMIC_RELAXED)) {
		nobody = 0;
		stand_aside(cpu);
	}
	for (unsigned i = 0; i < coherence->count; i++) {
		struct cpu *other = coherence->cpu[i];

		if (other == cpu)
			continue;
		ring(other);
		for (unsigned turns = 0; !try_custody(other); turns++) {
			coherence_serve_revokes(cpu);
			wait_a_little(cpu, turns);
		}
	}
}

void coherence_end_alone(struct cpu *cpu)
{
	struct coherence *coherence = cpu->coherence;

	if (!coherence || __atomic_load_n(&coherence->alone, __ATOMIC_RELAXED) != cpu->index + 1)
		return;
	for (unsigned i = 0; i < coherence->count; i++)
		if (coherence->cpu[i] != cpu)
			__atomic_store_n(&coherence->cpu[i]->inbox->custody, CUSTODY_SLEEPS, __ATOMIC_RELEASE);
	__atomic_store_n(&coherence->alone, 0, __ATOMIC_RELEASE);
}

/* ---- the inbox ---- */

void bt_serve_others(struct cpu *cpu)
{
	struct code_inbox *inbox = cpu->inbox;
	const struct code_change *change;
	uint32_t count;
	bool all;

	if (__atomic_load_n(&cpu->coherence->alone, __ATOMIC_ACQUIRE))
		stand_aside(cpu);
	say_again(cpu);
	coherence_serve_revokes(cpu);
	lock(inbox);
	count = inbox->change_count;
	all = inbox->change_all;
	change = inbox->change[inbox->filling];
	inbox->filling = !inbox->filling;
	inbox->change_count = 0;
	inbox->change_all = false;
	unlock(inbox);
	if (all) {
		bt_flush(cpu->bt);
		return;
	}
	for (uint32_t i = 0; i < count; i++)
		block_drop_granules(cpu->bt, change[i].page, change[i].granules);
}

void coherence_sleep(struct cpu *cpu)
{
	if (cpu->coherence)
		__atomic_store_n(&cpu->inbox->custody, CUSTODY_SLEEPS, __ATOMIC_RELEASE);
}

void coherence_wake(struct cpu *cpu)
{
	uint32_t expected = CUSTODY_SLEEPS;

	if (!cpu->coherence)
		return;
	while (!__atomic_compare_exchange_n(&cpu->inbox->custody, &expected, CUSTODY_RUNS, false, __ATOMIC_ACQUIRE,
					    __ATOMIC_RELAXED)) {
		expected = CUSTODY_SLEEPS;
		__builtin_ia32_pause();
	}
}

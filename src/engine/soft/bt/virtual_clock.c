#include "engine/soft/bt/virtual_clock.h"

#include "engine/soft/bt/turns.h"
#include "engine/soft/cpu/time.h"

/* A budget's end is also when other threads see the machine's clock move. */
#define LONGEST_BUDGET_NS 1000000u

/* Ticks until the machine's earliest timer is due; UINT64_MAX where there is none. */
static uint64_t ticks_left(const struct cpu *cpu)
{
	uint64_t deadline = cpu->host->next_deadline(cpu->host->context), tick, now;

	if (deadline == UINT64_MAX)
		return UINT64_MAX;
	tick = time_ns_to_ticks(cpu, deadline);
	now = time_ticks(cpu);
	return tick > now ? tick - now : 0;
}

void virtual_clock_refill(struct cpu *cpu)
{
	uint64_t left, longest = time_ns_to_ticks(cpu, LONGEST_BUDGET_NS);

	fpu_stash(cpu);
	cpu->deadline_changed = false;
	cpu->host->clock_advance(cpu->host->context, cpu_now_ns(cpu));
	left = ticks_left(cpu);
	if (left > longest)
		left = longest;
	if (cpu->turns && left > turns_left(cpu))
		left = turns_left(cpu);
	/* A timer that is armed again for the past must not keep the guest from going on. */
	if (left == 0)
		left = 1;
	cpu->retired += left - (uint64_t)cpu->budget;
	cpu->budget = (int64_t)left;
}

bool virtual_clock_skip_idle(struct cpu *cpu)
{
	uint64_t left;

	fpu_stash(cpu);
	left = ticks_left(cpu);
	if (left == UINT64_MAX)
		return false;
	cpu->retired += left;
	cpu->idle_ticks += left;
	virtual_clock_refill(cpu);
	return true;
}

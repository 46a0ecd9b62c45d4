/*
 * The TSC and the machine's clock. All of it is arithmetic on the host's TSC (real clock) or on the count of
 * retired instructions (deterministic clock): no system call, so that RDTSC and timer checks cost
 * nanoseconds.
 */
#include "engine/soft/cpu/time.h"

#define NS_PER_SECOND 1000000000u

static uint64_t host_tsc(void)
{
	uint32_t low, high;

	__asm__ volatile("rdtsc" : "=a"(low), "=d"(high));
	return (uint64_t)high << 32 | low;
}

uint64_t time_ticks(const struct cpu *cpu)
{
	uint64_t ticks;

	if (cpu->clock == ENGINE_CLOCK_DETERMINISTIC)
		return cpu->retired - (uint64_t)cpu->budget + (uint64_t)cpu->tsc_offset;
	ticks = host_tsc();
	if (cpu->tsc_ratio)
		ticks = (uint64_t)((unsigned __int128)ticks * cpu->tsc_ratio >> 48);
	return ticks + (uint64_t)cpu->tsc_offset;
}

uint64_t cpu_tsc(const struct cpu *cpu)
{
	return time_ticks(cpu) + cpu->msr.tsc_adjust;
}

/* Machine-clock time at `ticks`, which is not before the anchor. */
static uint64_t ns_at(const struct cpu *cpu, uint64_t ticks)
{
	uint64_t ns;

	if (cpu->clock == ENGINE_CLOCK_DETERMINISTIC)
		return time_mul_div(ticks, NS_PER_SECOND, cpu->model->tsc_hz);
	ns = time_mul_div(ticks - cpu->clock_anchor_ticks, NS_PER_SECOND, cpu->model->tsc_hz);
	return ns > UINT64_MAX - cpu->clock_anchor_ns ? UINT64_MAX : ns + cpu->clock_anchor_ns;
}

uint64_t cpu_now_ns(const struct cpu *cpu)
{
	return ns_at(cpu, time_ticks(cpu));
}

uint64_t time_ticks_to_ns(const struct cpu *cpu, uint64_t ticks)
{
	uint64_t now = time_ticks(cpu), ns;

	if ((int64_t)(ticks - now) <= 0)
		return ns_at(cpu, now);
	ns = ns_at(cpu, ticks);
	/* Where a tick lasts a nanosecond or longer the time is exact: time_ns_to_ticks gives the tick back. */
	if (cpu->clock == ENGINE_CLOCK_DETERMINISTIC)
		return time_ns_to_ticks(cpu, ns) < ticks ? ns + 1 : ns;
	return ns >= UINT64_MAX - 1 ? UINT64_MAX : ns + 1;
}

uint64_t time_ns_to_ticks(const struct cpu *cpu, uint64_t ns)
{
	uint64_t tick = time_mul_div(ns, cpu->model->tsc_hz, NS_PER_SECOND);

	return tick < UINT64_MAX && ns_at(cpu, tick) < ns ? tick + 1 : tick;
}

uint64_t cpu_tsc_to_ns(const struct cpu *cpu, uint64_t tsc)
{
	uint64_t now = cpu_tsc(cpu);

	/* The deadline is an unsigned comparison with the TSC, which the guest may have set to any value. */
	if (tsc <= now)
		return cpu_now_ns(cpu);
	if (tsc - now > INT64_MAX)
		return UINT64_MAX;
	return time_ticks_to_ns(cpu, time_ticks(cpu) + (tsc - now));
}

void time_anchor(struct cpu *cpu, uint64_t host_ns)
{
	uint64_t ticks = time_ticks(cpu);

	if (cpu->clock == ENGINE_CLOCK_DETERMINISTIC)
		return;
	/* Our clock must not go back: where it is ahead it stands still until the machine's has caught up. */
	if (host_ns > ns_at(cpu, ticks)) {
		cpu->clock_anchor_ticks = ticks;
		cpu->clock_anchor_ns = host_ns;
	}
}

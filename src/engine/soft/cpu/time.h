/* Time as the vCPU counts it: ticks of the guest's TSC, before IA32_TSC_ADJUST. */
#ifndef NESTOR_CPU_TIME_H
#define NESTOR_CPU_TIME_H

#include "engine/soft/cpu/cpu.h"

/*
 * Sets the fields of *cpu that the functions below need. Call once, after host, model and clock are set and
 * before the vCPU runs. Under the real clock tick 0 is the machine's start, the same for every vCPU of a
 * machine. Create a machine's vCPUs on one thread. Cold.
 */
void time_init(struct cpu *cpu);

/*
 * Ticks at model->tsc_hz: never written by the guest, never going back. cpu_tsc() is this plus
 * IA32_TSC_ADJUST. Real clock: the host's TSC, scaled where cpu->tsc_ratio is set, plus cpu->tsc_offset.
 * Deterministic clock: one tick per retired instruction (retired - budget), plus what was skipped while idle
 * (in `retired`).
 */
uint64_t time_ticks(const struct cpu *cpu);

/* Machine-clock nanoseconds of a tick, rounded up, so that at that time the tick has come. A tick in the past
 * gives the present time; one beyond the range of the clock gives UINT64_MAX. */
uint64_t time_ticks_to_ns(const struct cpu *cpu, uint64_t ticks);

/* Deterministic clock: the first tick at or after a time of the machine's clock. */
uint64_t time_ns_to_ticks(const struct cpu *cpu, uint64_t ns);

/* Notes that it is now host_ns by the machine's clock, so that the two do not drift apart. */
void time_anchor(struct cpu *cpu, uint64_t host_ns);

/* a * b / c through 128 bits, rounded down; UINT64_MAX where the result does not fit (or c is 0). */
static inline uint64_t time_mul_div(uint64_t a, uint64_t b, uint64_t c)
{
	uint64_t low, high;

	__asm__("mulq %3" : "=a"(low), "=d"(high) : "0"(a), "rm"(b) : "cc");
	if (high >= c)
		return UINT64_MAX;
	__asm__("divq %2" : "+a"(low), "+d"(high) : "rm"(c) : "cc");
	return low;
}

#endif

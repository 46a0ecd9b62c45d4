/*
 * The machine's clock: nanoseconds since the start. Real: CLOCK_MONOTONIC, with the host TSC read at the same
 * moment so that an engine can convert. Deterministic: moved only by the vCPU, from retired instructions.
 */
#ifndef NESTOR_MACHINE_CLOCK_H
#define NESTOR_MACHINE_CLOCK_H

#include <stdatomic.h>
#include <stdint.h>

#include "engine/engine.h"

struct clock {
	enum engine_clock kind;
	uint64_t start_monotonic;    /* real: CLOCK_MONOTONIC in ns at the start */
	uint64_t start_tsc;          /* real: the host's TSC at that moment */
	_Atomic uint64_t virtual_ns; /* deterministic */
};

void clock_init(struct clock *clock, enum engine_clock kind);
/* [any] */
uint64_t clock_now(struct clock *clock);
/* Deterministic: sets the time; never backward. No effect on a real clock. */
void clock_advance(struct clock *clock, uint64_t now_ns);
/* Real: CLOCK_MONOTONIC's ns for a machine-clock time, saturating. */
uint64_t clock_to_monotonic(const struct clock *clock, uint64_t ns);

/* (a * b) / c without overflow of the product; saturates at UINT64_MAX. c must not be 0. */
static inline uint64_t clock_scale(uint64_t a, uint64_t b, uint64_t c)
{
	unsigned __int128 result = (unsigned __int128)a * b / c;

	return result > UINT64_MAX ? UINT64_MAX : (uint64_t)result;
}

#endif

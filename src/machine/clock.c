#include "machine/clock.h"

#include <time.h>
#include <x86intrin.h>

static uint64_t monotonic(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

/* The pair is the tightest of a few tries, so that a preemption between the two reads does not matter. */
void clock_init(struct clock *clock, enum engine_clock kind)
{
	uint64_t best = UINT64_MAX;

	clock->kind = kind;
	atomic_init(&clock->virtual_ns, 0);
	for (int i = 0; i < 8; i++) {
		uint64_t before = __rdtsc();
		uint64_t now = monotonic();
		uint64_t after = __rdtsc();

		if (after - before < best) {
			best = after - before;
			clock->start_tsc = before + (after - before) / 2;
			clock->start_monotonic = now;
		}
	}
}

uint64_t clock_now(struct clock *clock)
{
	if (clock->kind == ENGINE_CLOCK_DETERMINISTIC)
		return atomic_load_explicit(&clock->virtual_ns, memory_order_acquire);

	uint64_t now = monotonic();

	return now > clock->start_monotonic ? now - clock->start_monotonic : 0;
}

void clock_advance(struct clock *clock, uint64_t now_ns)
{
	if (clock->kind == ENGINE_CLOCK_DETERMINISTIC && now_ns > atomic_load(&clock->virtual_ns))
		atomic_store_explicit(&clock->virtual_ns, now_ns, memory_order_release);
}

uint64_t clock_to_monotonic(const struct clock *clock, uint64_t ns)
{
	uint64_t sum = clock->start_monotonic + ns;

	return sum < ns ? UINT64_MAX : sum;
}

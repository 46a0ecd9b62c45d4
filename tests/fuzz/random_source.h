/* What a fuzzer draws from: the same seed gives the same run. */
#ifndef NESTOR_TESTS_RANDOM_SOURCE_H
#define NESTOR_TESTS_RANDOM_SOURCE_H

#include <stdint.h>
#include <stdlib.h>

static uint64_t seed;

/* The argument at this place, or 1. Small seeds are spread, and none is 0. */
static inline void seed_from(int argc, char **argv, int place)
{
	seed = (argc > place ? strtoull(argv[place], NULL, 0) : 1) * UINT64_C(0x9e3779b97f4a7c15) | 1;
}

/* xorshift64* */
static inline uint64_t any(void)
{
	seed ^= seed >> 12;
	seed ^= seed << 25;
	seed ^= seed >> 27;
	return seed * UINT64_C(0x2545f4914f6cdd1d);
}

static inline uint64_t below(uint64_t limit)
{
	return any() % limit;
}

#endif

/*
 * The small workloads of the benchmark: one static program, so that every peer and every level runs the same
 * instructions. Each function does `size` units of its work and returns a number that depends on all of its results;
 * the numbers of two machines must be equal.
 */
#ifndef BENCH_MICRO_H
#define BENCH_MICRO_H

#include <stdint.h>

/* Prints to standard output, and returns nothing worth comparing. */
uint64_t micro_text(unsigned long megabytes);
uint64_t micro_lines(unsigned long lines);
uint64_t micro_sql(unsigned long rows);

uint64_t micro_stream(unsigned long passes);
uint64_t micro_chase(unsigned long million_steps);

uint64_t micro_matrix_sse2(unsigned long products);
uint64_t micro_matrix_avx2(unsigned long products);
uint64_t micro_nbody(unsigned long thousand_steps);

uint64_t micro_faults(unsigned long passes);
uint64_t micro_pipes(unsigned long round_trips);

uint64_t micro_cpuid(unsigned long exits);
uint64_t micro_port(unsigned long exits);
uint64_t micro_touch(unsigned long megabytes);
uint64_t micro_timer(unsigned long interrupts);

/* Ends the program with the message and what errno says. */
_Noreturn void micro_fail(const char *what);

/* A pseudo-random number; *state is the seed and must not be 0. The same everywhere. */
static inline uint64_t next_random(uint64_t *state)
{
	*state ^= *state << 13;
	*state ^= *state >> 7;
	*state ^= *state << 17;
	return *state;
}

#endif

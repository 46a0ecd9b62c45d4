/* Calls that leave hot C beyond those in cpu.h. Each stashes the guest's FPU state first. */
#ifndef NESTOR_CPU_HOST_CALL_H
#define NESTOR_CPU_HOST_CALL_H

#include <stdarg.h>

#include "engine/soft/cpu/cpu.h"

/* Random 64 bits for RDRAND and RDSEED: the host kernel's; reproducible under the deterministic clock. False
 * where the host has none to give. */
bool cpu_host_random(struct cpu *cpu, uint64_t *value);

/*
 * MWAIT: gives the host's CPU away until the vCPU has something to look at, the 8 bytes at `watched` (a host
 * address, or NULL) no longer hold `armed_value`, or about a millisecond has passed. Never under the
 * deterministic clock, where nothing outside the vCPU can happen.
 */
void cpu_host_nap(struct cpu *cpu, const void *watched, uint64_t armed_value);

/* PAUSE: another thread of the host may run for a while. Real clock. */
void cpu_host_yield(struct cpu *cpu);

/* The cold halves (trace.c): call only with the FPU stashed. */
void trace_line(unsigned cpu_index, bool nonroot, const char *format, va_list arguments)
    __attribute__((format(printf, 3, 0)));
bool random_from_host(uint64_t *value);
void yield(void);
void nap(const uint32_t *kick, const void *watched, uint64_t armed_value);

#endif

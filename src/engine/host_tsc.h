/* The host's TSC frequency. */
#ifndef NESTOR_ENGINE_HOST_TSC_H
#define NESTOR_ENGINE_HOST_TSC_H

#include <stdint.h>

/*
 * Ticks per second of this host's TSC: what CPUID or a hypervisor says where a measurement agrees with it,
 * else measured. Found once (some milliseconds), then remembered. [any]
 */
uint64_t host_tsc_hz(void);

#endif

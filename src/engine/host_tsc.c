#include "engine/host_tsc.h"

#include <cpuid.h>
#include <pthread.h>
#include <time.h>
#include <x86intrin.h>

#define QUICK_NS    4000000u  /* enough to tell whether an announced frequency can be true */
#define THOROUGH_NS 30000000u /* when nothing is announced: error around one part per million */

struct moment {
	uint64_t tsc, ns;
};

/* The tightest of a few tries, so that a preemption between the two readings does not matter. */
static struct moment read_clocks(void)
{
	struct moment best = {0};
	uint64_t tightest = UINT64_MAX;

	for (int i = 0; i < 16; i++) {
		struct timespec now;
		uint64_t before = __rdtsc();
		clock_gettime(CLOCK_MONOTONIC, &now);
		uint64_t after = __rdtsc();

		if (after - before < tightest) {
			tightest = after - before;
			best.tsc = before + (after - before) / 2;
			best.ns = (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
		}
	}
	return best;
}

static uint64_t measure(struct moment start, uint64_t at_least_ns)
{
	struct moment end = read_clocks();

	if (end.ns - start.ns < at_least_ns) {
		struct timespec rest = {.tv_nsec = (long)(at_least_ns - (end.ns - start.ns))};

		nanosleep(&rest, NULL);
		end = read_clocks();
	}
	return (uint64_t)((unsigned __int128)(end.tsc - start.tsc) * 1000000000u / (end.ns - start.ns));
}

/* SDM, Determining the Processor Base Frequency: CPUID 15H; else the timing leaf that hypervisors share. 0:
 * none. */
static uint64_t announced(void)
{
	uint32_t eax, ebx, ecx, edx;

	__cpuid(0, eax, ebx, ecx, edx);
	if (eax >= 0x15) {
		__cpuid(0x15, eax, ebx, ecx, edx);
		if (eax && ebx && ecx)
			return (uint64_t)ecx * ebx / eax;
	}
	__cpuid(1, eax, ebx, ecx, edx);
	if (ecx >> 31 & 1) {
		__cpuid(0x40000000, eax, ebx, ecx, edx);
		if (eax >= 0x40000010 && eax < 0x40001000) {
			__cpuid(0x40000010, eax, ebx, ecx, edx);
			return (uint64_t)eax * 1000;
		}
	}
	return 0;
}

static uint64_t hz;

static void find(void)
{
	struct moment start = read_clocks();
	uint64_t told = announced(), measured;

	if (told) {
		measured = measure(start, QUICK_NS);
		if ((measured > told ? measured - told : told - measured) <= told / 2000) {
			hz = told;
			return;
		}
	}
	hz = measure(start, THOROUGH_NS);
}

uint64_t host_tsc_hz(void)
{
	static pthread_once_t once = PTHREAD_ONCE_INIT;

	pthread_once(&once, find);
	return hz;
}

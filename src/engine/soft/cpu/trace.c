/* The cold halves of host_call.c: what needs libc. */
#include <sched.h>
#include <stdio.h>
#include <sys/random.h>
#include <time.h>

#include "engine/soft/cpu/host_call.h"

/* One write per line, so that the lines of several vCPUs do not mix. */
void trace_line(unsigned cpu_index, bool nonroot, const char *format, va_list arguments)
{
	char line[1024];
	int used = snprintf(line, sizeof(line), "[cpu%u %s] ", cpu_index, nonroot ? "non-root" : "root");
	int rest = vsnprintf(line + used, sizeof(line) - 1 - (size_t)used, format, arguments);

	if (rest < 0)
		return;
	used += rest;
	if ((size_t)used > sizeof(line) - 2)
		used = sizeof(line) - 2;
	line[used++] = '\n';
	fwrite(line, 1, (size_t)used, stderr);
}

bool random_from_host(uint64_t *value)
{
	static _Thread_local uint64_t pool[32];
	static _Thread_local unsigned left;

	if (!left) {
		/* The kernel never gives less than asked for up to 256 bytes, once its pool is initialized.
		 */
		if (getrandom(pool, sizeof(pool), 0) != (ssize_t)sizeof(pool))
			return false;
		left = sizeof(pool) / sizeof(pool[0]);
	}
	*value = pool[--left];
	return true;
}

#define NAP_STEP_NS 50000
#define NAP_STEPS   20

void nap(const uint32_t *kick, const void *watched, uint64_t armed_value)
{
	for (int i = 0; i < NAP_STEPS; i++) {
		if (__atomic_load_n(kick, __ATOMIC_ACQUIRE))
			return;
		if (watched && __atomic_load_n((const uint64_t *)watched, __ATOMIC_RELAXED) != armed_value)
			return;
		nanosleep(&(struct timespec){.tv_nsec = NAP_STEP_NS}, NULL);
	}
}

void yield(void)
{
	sched_yield();
}

#include "engine/soft/bt/wait.h"

#include <limits.h>
#include <linux/futex.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "engine/soft/bt/coherence.h"
#include "engine/soft/bt/turns.h"
#include "engine/soft/bt/virtual_clock.h"

static void sleep_until_kicked(struct cpu *cpu)
{
	if (cpu->clock == ENGINE_CLOCK_DETERMINISTIC) {
		/* Where nothing will ever happen by itself only another thread can help. */
		if (!__atomic_load_n(&cpu->kick, __ATOMIC_ACQUIRE) && !virtual_clock_skip_idle(cpu))
			syscall(SYS_futex, &cpu->kick, FUTEX_WAIT_PRIVATE, 0, NULL, NULL, 0);
		return;
	}
	while (!__atomic_load_n(&cpu->kick, __ATOMIC_ACQUIRE))
		syscall(SYS_futex, &cpu->kick, FUTEX_WAIT_PRIVATE, 0, NULL, NULL, 0);
}

void bt_wait(struct cpu *cpu)
{
	fpu_stash(cpu);
	if (cpu->turns) {
		turns_wait_for_event(cpu);
		return;
	}
	coherence_sleep(cpu);
	sleep_until_kicked(cpu);
	coherence_wake(cpu);
}

void bt_wait_briefly(struct cpu *cpu, uint64_t ns)
{
	const struct timespec time = { .tv_nsec = (long)ns };

	syscall(SYS_futex, &cpu->kick, FUTEX_WAIT_PRIVATE, 0, &time, NULL, 0);
}

void bt_sleep(uint32_t ns)
{
	nanosleep(&(struct timespec){ .tv_nsec = ns }, NULL);
}

void bt_wake(struct cpu *cpu)
{
	syscall(SYS_futex, &cpu->kick, FUTEX_WAKE_PRIVATE, INT_MAX, NULL, NULL, 0);
	turns_wake(cpu);
}

#include "engine/soft/bt/wait.h"

#include <limits.h>
#include <linux/futex.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "engine/soft/cpu/cpu.h"
#include "engine/soft/cpu/time.h"

static void wait_deterministic(struct cpu *cpu)
{
	const struct engine_host *host = cpu->host;
	uint64_t deadline = host->next_deadline(host->context), now = cpu_now_ns(cpu);

	if (deadline == UINT64_MAX) {
		/* Nothing will ever happen by itself: only another thread can help. */
		syscall(SYS_futex, &cpu->kick, FUTEX_WAIT_PRIVATE, 0, NULL, NULL, 0);
		return;
	}
	if (deadline > now)
		cpu->retired += time_mul_div(deadline - now, cpu->model->tsc_hz, 1000000000u) + 1;
	host->clock_advance(host->context, cpu_now_ns(cpu));
}

void bt_wait(struct cpu *cpu)
{
	fpu_stash(cpu);
	if (cpu->clock == ENGINE_CLOCK_DETERMINISTIC) {
		if (!__atomic_load_n(&cpu->kick, __ATOMIC_ACQUIRE))
			wait_deterministic(cpu);
		return;
	}
	while (!__atomic_load_n(&cpu->kick, __ATOMIC_ACQUIRE))
		syscall(SYS_futex, &cpu->kick, FUTEX_WAIT_PRIVATE, 0, NULL, NULL, 0);
}

void bt_wake(struct cpu *cpu)
{
	syscall(SYS_futex, &cpu->kick, FUTEX_WAKE_PRIVATE, INT_MAX, NULL, NULL, 0);
}

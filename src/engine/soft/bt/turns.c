#include "engine/soft/bt/turns.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>

#include "engine/soft/bt/coherence.h"
#include "engine/soft/bt/virtual_clock.h"
#include "engine/soft/cpu/time.h"
#include "util/error.h"

#define SLICE_NS 50000u

struct turns {
	pthread_mutex_t lock;
	pthread_cond_t changed;
	unsigned count;
	struct cpu *cpu[COHERENCE_CPUS];
	bool waits[COHERENCE_CPUS]; /* for an event; under lock */
	uint64_t now; /* the holder's: ticks */
};

struct turns *turns_create(void)
{
	struct turns *turns = calloc(1, sizeof(*turns));

	if (!turns) {
		error_set(ENOMEM, "not enough memory for a VM");
		return NULL;
	}
	pthread_mutex_init(&turns->lock, NULL);
	pthread_cond_init(&turns->changed, NULL);
	return turns;
}

void turns_destroy(struct turns *turns)
{
	if (!turns)
		return;
	pthread_mutex_destroy(&turns->lock);
	pthread_cond_destroy(&turns->changed);
	free(turns);
}

void turns_add(struct turns *turns, struct cpu *cpu)
{
	cpu->turns = turns;
	cpu->has_turn = turns->count == 0;
	turns->cpu[turns->count++] = cpu;
}

static bool is_kicked(const struct cpu *cpu)
{
	return __atomic_load_n(&cpu->kick, __ATOMIC_ACQUIRE);
}

static bool must_stop(const struct cpu *cpu)
{
	return __atomic_load_n(&cpu->pending_async, __ATOMIC_ACQUIRE) & ASYNC_STOP;
}

/* The time that passed meanwhile is not this vCPU's: it has retired nothing. */
static void take_over(struct cpu *cpu)
{
	struct turns *turns = cpu->turns;
	uint64_t passed = turns->now - time_ticks(cpu);

	cpu->retired += passed;
	cpu->idle_ticks += passed;
	cpu->turn_end = turns->now + time_ns_to_ticks(cpu, SLICE_NS);
	cpu->turn_taken = true;
	cpu->deadline_changed = true;
	if (__atomic_load_n(&cpu->pending_async, __ATOMIC_ACQUIRE) & ASYNC_CODE)
		cpu_poll_soon(cpu);
}

/* Under lock. */
static bool sleep_until_mine(struct cpu *cpu)
{
	struct turns *turns = cpu->turns;

	coherence_sleep(cpu);
	while (!turns_has_turn(cpu) && !must_stop(cpu))
		pthread_cond_wait(&turns->changed, &turns->lock);
	coherence_wake(cpu);
	return turns_has_turn(cpu);
}

bool turns_await(struct cpu *cpu)
{
	struct turns *turns = cpu->turns;
	bool mine;

	pthread_mutex_lock(&turns->lock);
	mine = sleep_until_mine(cpu);
	if (mine)
		take_over(cpu);
	pthread_mutex_unlock(&turns->lock);
	return mine;
}

uint64_t turns_left(const struct cpu *cpu)
{
	uint64_t now = time_ticks(cpu), end = cpu->turn_end;

	return end > now ? end - now : 0;
}

/* The next vCPU after this one that can run; this one, which comes last, only where it does not wait itself. */
static bool find_next(const struct turns *turns, const struct cpu *cpu, unsigned *next)
{
	for (unsigned i = 1; i <= turns->count; i++) {
		unsigned k = (cpu->index + i) % turns->count;

		if (!turns->waits[k] || is_kicked(turns->cpu[k])) {
			*next = k;
			return true;
		}
	}
	return false;
}

/* Under lock. */
static void give(struct cpu *cpu, unsigned next)
{
	struct turns *turns = cpu->turns;

	turns->now = time_ticks(cpu);
	cpu->turn_taken = false;
	__atomic_store_n(&cpu->has_turn, 0, __ATOMIC_RELEASE);
	__atomic_store_n(&turns->cpu[next]->has_turn, 1, __ATOMIC_RELEASE);
	if (next == cpu->index)
		take_over(cpu);
	else
		pthread_cond_broadcast(&turns->changed);
}

void turns_pass(struct cpu *cpu)
{
	struct turns *turns = cpu->turns;
	unsigned next = cpu->index;

	pthread_mutex_lock(&turns->lock);
	find_next(turns, cpu, &next);
	give(cpu, next);
	pthread_mutex_unlock(&turns->lock);
}

void turns_wait_for_event(struct cpu *cpu)
{
	struct turns *turns = cpu->turns;
	unsigned next;

	pthread_mutex_lock(&turns->lock);
	turns->waits[cpu->index] = true;
	while (!is_kicked(cpu)) {
		if (!cpu->turn_taken) {
			if (!sleep_until_mine(cpu))
				break;
			take_over(cpu);
		} else if (find_next(turns, cpu, &next)) {
			give(cpu, next);
		} else {
			bool skipped;

			pthread_mutex_unlock(&turns->lock); /* timers kick vCPUs */
			skipped = virtual_clock_skip_idle(cpu);
			pthread_mutex_lock(&turns->lock);
			/* Where nothing will ever happen by itself only another thread can help. */
			if (!skipped && !is_kicked(cpu) && !find_next(turns, cpu, &next))
				pthread_cond_wait(&turns->changed, &turns->lock);
		}
	}
	turns->waits[cpu->index] = false;
	pthread_mutex_unlock(&turns->lock);
}

void turns_wake(struct cpu *cpu)
{
	if (!cpu->turns)
		return;
	pthread_mutex_lock(&cpu->turns->lock);
	pthread_cond_broadcast(&cpu->turns->changed);
	pthread_mutex_unlock(&cpu->turns->lock);
}

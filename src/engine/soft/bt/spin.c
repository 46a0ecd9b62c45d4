/*
 * Loops of PAUSE: a vCPU waits for another one, which the host may not even be running.
 *
 * At first the host's processor is offered to other threads now and then. Who still waits after some 30 microseconds
 * sleeps: until an interrupt comes, until another vCPU returns from one (what is waited for at length is mostly an answer
 * to an inter-processor interrupt), or for a time in proportion to how long it has waited already, since it may wait for
 * a mere store. Before the first sleep it says so (`spinning`) and looks once more, so that who answers meanwhile finds it.
 */
#include "engine/soft/bt/bt.h"
#include "engine/soft/bt/coherence.h"
#include "engine/soft/bt/wait.h"
#include "engine/soft/cpu/host_call.h"
#include "engine/soft/cpu/time.h"

#define LOOK_SHIFT   16 /* a second >> 16, 15 microseconds: PAUSEs further apart are of another loop */
#define SPIN_LOOKS   2  /* times that: how long a vCPU spins */
#define SLEEP_MIN_NS 30000u
#define SLEEP_MAX_NS 300000u

static void sleep_in_loop(struct cpu *cpu, uint64_t waited)
{
	uint64_t ns = time_mul_div(waited, 1000000000u / 2, cpu->model->tsc_hz);

	fpu_stash(cpu);
	coherence_sleep(cpu);
	bt_wait_briefly(cpu, ns < SLEEP_MIN_NS ? SLEEP_MIN_NS : ns > SLEEP_MAX_NS ? SLEEP_MAX_NS : ns);
	coherence_wake(cpu);
}

void bt_spin(struct cpu *cpu)
{
	uint64_t unit = cpu->model->tsc_hz >> LOOK_SHIFT, bit = 1ull << cpu->index, now = time_ticks(cpu), *spinning;

	if (now - cpu->spin_looked > unit)
		cpu->spin_began = now;
	if (now - cpu->spin_began < SPIN_LOOKS * unit || !cpu->coherence || cpu->coherence->count < 2 ||
	    cpu->tune_off & ENGINE_TUNE_SLEEP) {
		cpu_host_yield(cpu);
		cpu->spin_looked = time_ticks(cpu);
		return;
	}
	spinning = &cpu->coherence->spinning;
	if (!(__atomic_load_n(spinning, __ATOMIC_RELAXED) & bit)) {
		__atomic_fetch_or(spinning, bit, __ATOMIC_SEQ_CST);
	} else {
		sleep_in_loop(cpu, now - cpu->spin_began);
		__atomic_fetch_and(spinning, ~bit, __ATOMIC_RELAXED);
	}
	cpu->spin_looked = time_ticks(cpu);
}

void bt_interrupt_served(struct cpu *cpu)
{
	uint64_t others;

	cpu->serves_interrupt = false;
	if (!cpu->coherence || !__atomic_load_n(&cpu->coherence->spinning, __ATOMIC_RELAXED))
		return;
	others = __atomic_exchange_n(&cpu->coherence->spinning, 0, __ATOMIC_SEQ_CST) & ~(1ull << cpu->index);
	fpu_stash(cpu);
	for (; others; others &= others - 1) {
		struct cpu *other = cpu->coherence->cpu[__builtin_ctzll(others)];

		__atomic_store_n(&other->kick, 1, __ATOMIC_RELEASE);
		bt_wake(other);
	}
}

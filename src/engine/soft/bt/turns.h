/*
 * Several vCPUs under the deterministic clock take turns: one at a time executes, for a slice of virtual time or until
 * it waits, then the next in order that has something to do. Each keeps its thread; who has not got the turn sleeps.
 * There is one virtual time: a vCPU that gets the turn goes on at the tick at which its predecessor stopped. Whose turn
 * comes next depends on nothing but the vCPUs' states, so a run is repeatable as with one vCPU.
 */
#ifndef NESTOR_BT_TURNS_H
#define NESTOR_BT_TURNS_H

#include "engine/soft/cpu/cpu.h"

struct turns; /* of a VM */

/* Return NULL with error_text() where there is no memory. */
struct turns *turns_create(void);
void turns_destroy(struct turns *turns);
/* In the order of their turns. */
void turns_add(struct turns *turns, struct cpu *cpu);

/* Does the vCPU go on with its turn? On its own thread. */
static inline bool turns_is_mine(const struct cpu *cpu)
{
	return cpu->turn_taken;
}

/*
 * Where it does not: waits for the turn and takes it. False where the vCPU was kicked out of its wait (ASYNC_STOP).
 * The guest's FPU state must be stashed.
 */
bool turns_await(struct cpu *cpu);
/* Is it the vCPU's turn? [any thread] */
static inline bool turns_has_turn(const struct cpu *cpu)
{
	return __atomic_load_n(&cpu->has_turn, __ATOMIC_ACQUIRE);
}

/* Ticks until the turn is over. */
uint64_t turns_left(const struct cpu *cpu);
/* The turn is over: it goes to the next that can run, which may be the same one again. */
void turns_pass(struct cpu *cpu);

/* The vCPU waits for an event: gives its turn away, or lets time pass where nobody can run. Until it was kicked. */
void turns_wait_for_event(struct cpu *cpu);

/* After setting cpu->kick. [any thread] */
void turns_wake(struct cpu *cpu);

#endif

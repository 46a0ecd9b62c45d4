/*
 * The deterministic clock: time is the number of retired instructions, plus what was skipped while idle.
 *
 * The same guest and the same input give the same run, bit for bit, because nothing that the guest can see
 * depends on how its code was cut into blocks, chained or cached:
 *
 *  - Every block takes its instructions out of cpu->budget when it is entered, and whatever leaves it early gives
 *    back what did not retire (bt.h), so that retired - budget is exact at each instruction. One that faults,
 *    or exits to a hypervisor, has not retired; a repeated string instruction counts once, when it ends.
 *  - A budget ends where the earliest timer is due. A block with more instructions than are left is replaced by
 *    one cut to what is left (KEY_SHORT), so that timers fire exactly at their tick.
 *  - Timers and devices run on the vCPU's thread, at ticks only: when a budget is used up, and before each access to
 *    a device.
 *  - An instruction that may have made an event pending is the last of its block; so events are taken at the
 *    first boundary that they can be taken at, and looking more often finds nothing.
 *  - All flags are kept exact, for faults and interrupts push them.
 *
 * What remains is input: bytes that come in on a serial port, and signals. A guest that changes page tables
 * without the invalidation that the SDM demands may see which translations happened to be cached.
 */
#ifndef NESTOR_BT_VIRTUAL_CLOCK_H
#define NESTOR_BT_VIRTUAL_CLOCK_H

#include "engine/soft/cpu/cpu.h"

/* Must virtual_clock_refill be called before the next instruction? */
static inline bool virtual_clock_is_due(const struct cpu *cpu)
{
	return cpu->clock == ENGINE_CLOCK_DETERMINISTIC && (cpu->budget <= 0 || cpu->deadline_changed);
}

/* Runs what is due, and sets the budget to the instructions until something is due again, at least 1. */
void virtual_clock_refill(struct cpu *cpu);

/* Nothing happens before the next timer: lets the time until then pass, and runs it. False where there is none. */
bool virtual_clock_skip_idle(struct cpu *cpu);

#endif

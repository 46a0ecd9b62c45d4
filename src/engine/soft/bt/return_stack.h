/*
 * The stack that translated code runs on: returns by the host's return predictor.
 *
 * A guest's CALL pushes the guest's return address here and does a host call; behind that call stands the way to the
 * block at the return address. A guest's RET that is about to go to the address on top does a host return, any
 * other goes through the jump cache. An entry promises: while the context and the mode key are those of the call,
 * the host address leads to the code at the guest address. Whatever may change them leaves translated code by
 * another way than a branch, and the dispatcher then forgets all entries (return_stack_forget).
 *
 * Too deep a recursion runs into the guard page below, whose fault forgets all entries as well.
 */
#ifndef NESTOR_BT_RETURN_STACK_H
#define NESTOR_BT_RETURN_STACK_H

#include "engine/soft/cpu/cpu.h"

/* An entry, upwards from the stack pointer. */
struct return_entry {
	const void *host; /* executable address behind the call */
	uint64_t guest;   /* the return address */
};

/* Makes the vCPU's stack. Returns 0 or -1 (no memory). */
int return_stack_create(struct cpu *cpu);
void return_stack_destroy(struct cpu *cpu);
/* unpaired: where the entry below all others leads, which stands for no call: code that takes r11 for the target. */
void return_stack_set_bottom(struct cpu *cpu, const void *unpaired);

/* Is it the guard page below this vCPU's stack? */
bool return_stack_is_guard(const struct cpu *cpu, uint64_t host_address);
/*
 * Async-signal-safe: all entries become like the one at the bottom. stack_pointer: the interrupted code's, whatever
 * code it is.
 */
void return_stack_wipe(struct cpu *cpu, uint64_t stack_pointer);

/* The next entry into translated code starts with an empty stack. */
static inline void return_stack_forget(struct cpu *cpu)
{
	cpu->return_sp = cpu->user_return_sp = cpu->return_bottom;
}

#endif

/* Faults of guest instructions that run on the host arrive as signals. */
#ifndef NESTOR_BT_NATIVE_SIGNAL_H
#define NESTOR_BT_NATIVE_SIGNAL_H

#include <stdbool.h>
#include <stdint.h>

#define NATIVE_EXCHANGES 6 /* two registers that an instruction borrowed, four lodgers (residence.h) */

/* A host register that gets another value (number 0xff: none), after the value it has was put somewhere (NULL: lost). */
struct native_exchange {
	uint8_t host;
	uint64_t *keep;
	const uint64_t *value;
};

/* Where to go on after the signal, and what changes before, in this order. */
struct native_redirect {
	struct native_exchange exchange[NATIVE_EXCHANGES];
	uint64_t r10, rip;
};

/* Installs the handlers, and an alternate signal stack for this thread, until it ends. Returns 0 or -1. */
int native_signals_init(void);

/* Provided by create.c; called in the handler. trap: the exception's vector. rflags: the host's. False: not the
 * guest's doing. */
bool native_fault_redirect(uint64_t host_rip, unsigned trap, uint64_t rflags, struct native_redirect *redirect);

/* The number of the signal that makes a vCPU's thread call native_rescue(). */
int native_rescue_signal(void);
/*
 * Provided by create.c; called in the handler: translated code of this thread's vCPU finds its way to the dispatcher.
 * stack_pointer: the interrupted code's.
 */
void native_rescue(uint64_t stack_pointer);
/*
 * Provided by create.c; called in the handler: where the return stack (return_stack.h) has overflowed, the stack pointer to
 * do the same instruction with; 0: the access at this address is something else.
 */
uint64_t native_stack_overflow(uint64_t address);

#endif

/* Faults of guest instructions that run on the host arrive as signals. */
#ifndef NESTOR_BT_NATIVE_SIGNAL_H
#define NESTOR_BT_NATIVE_SIGNAL_H

#include <stdbool.h>
#include <stdint.h>

/* Where to go on after the signal, and which host registers get other values (number 0xff: none). */
struct native_redirect {
	uint8_t lent[2];
	uint64_t value[2];
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

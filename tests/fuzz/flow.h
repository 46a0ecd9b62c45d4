/* Sequences that call, return, repeat and rewrite themselves: what translators remember between blocks. */
#ifndef NESTOR_TESTS_FLOW_H
#define NESTOR_TESTS_FLOW_H

#include <stdint.h>

#define FLOW_FILLER 0x06 /* between and behind functions: not an instruction in 64-bit mode */

/*
 * Writes a sequence of about `length` pieces into code[], ended by UD2, and the functions that it calls behind it.
 * instruction: emits any one instruction that leaves rsp alone. Returns the rsp to start with; STACK is the
 * sequence's own, zeroed by the caller.
 */
uint64_t flow_sequence(unsigned length, void (*instruction)(void));

/* One piece that needs neither stack nor functions, for sequences of any kind. */
void flow_piece(void);

#endif

/* Sequences of 32-bit code with flat segments: string instructions above all, in loops and over each other. */
#ifndef NESTOR_TESTS_FLAT32_H
#define NESTOR_TESTS_FLAT32_H

#include <stdint.h>

/* The last pages below 4G, where indices wrap; what is above them is not mapped. */
#define TOP	 0xffffe000ul
#define TOP_SIZE 0x2000u

/* Writes a sequence of about `length` pieces into code[], ended by UD2; returns the esp to start with. */
uint64_t flat32_sequence(unsigned length);

#endif

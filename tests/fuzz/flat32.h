/* Sequences of 32-bit code with flat segments: string instructions above all, in loops and over each other. */
#ifndef NESTOR_TESTS_FLAT32_H
#define NESTOR_TESTS_FLAT32_H

#include <stdbool.h>
#include <stdint.h>

/* The last pages below 4G, where indices wrap; what is above them is not mapped. */
#define TOP	 0xffffe000ul
#define TOP_SIZE 0x2000u
#ifdef NESTOR_SANITIZED
#define TOP_IS_FREE false /* the sanitizer's shadow memory lies there */
#else
#define TOP_IS_FREE true
#endif

/* Writes a sequence of about `length` pieces into code[], ended by UD2; returns the esp to start with. */
uint64_t flat32_sequence(unsigned length);

#endif

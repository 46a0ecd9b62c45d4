/*
 * Force-included into every file of hot C (see cpu.h): the compiler's own calls to memcpy and friends go to
 * integer-only versions, because libc's would clobber the guest's vector registers.
 */
#ifndef NESTOR_CPU_HOT_H
#define NESTOR_CPU_HOT_H

#include <stddef.h>

void *memcpy(void *to, const void *from, size_t size) __asm__("hot_memcpy");
void *memmove(void *to, const void *from, size_t size) __asm__("hot_memmove");
void *memset(void *to, int value, size_t size) __asm__("hot_memset");
int memcmp(const void *a, const void *b, size_t size) __asm__("hot_memcmp");

#include <string.h>

/* A small constant size needs no call. -ffreestanding makes one of it all the same, unless asked like this. */
#define HOT_INLINE_SIZE 128
#define memcpy(to, from, size)                                                                                 \
	(__builtin_constant_p(size) && (size) <= HOT_INLINE_SIZE ? __builtin_memcpy(to, from, size)             \
								  : memcpy(to, from, size))
#define memset(to, value, size)                                                                                \
	(__builtin_constant_p(size) && (size) <= HOT_INLINE_SIZE ? __builtin_memset(to, value, size)            \
								  : memset(to, value, size))

#endif

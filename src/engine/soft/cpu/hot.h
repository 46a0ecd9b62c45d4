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

#endif

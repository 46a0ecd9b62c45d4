/* Host pointers to guest memory, for the C functions that work on more than one value at a time. */
#ifndef NESTOR_CPU_MEMORY_DIRECT_H
#define NESTOR_CPU_MEMORY_DIRECT_H

#include "engine/soft/cpu/memory.h"

/*
 * Host address of [gla, gla + size), which lies in one page, for an access by `class`; raises the fault where
 * the access is not permitted. NULL where it has to go through mem_read or mem_write (MMIO, ROM write,
 * watched address, APIC-access page). Before a write the translator has been told of the code that it hits.
 * Valid until the next access that may miss.
 */
uint8_t *mem_direct(struct cpu *cpu, gla_t gla, unsigned size, enum mem_access access, enum tlb_class class);

#endif

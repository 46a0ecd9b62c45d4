/* Address kinds are different types, so that the compiler catches a mix-up. Host addresses are void *. */
#ifndef NESTOR_UTIL_ADDRESS_H
#define NESTOR_UTIL_ADDRESS_H

#include <stdbool.h>
#include <stdint.h>

/* A guest-linear address: after segmentation, before paging. */
typedef struct {
	uint64_t v;
} gla_t;

/*
 * A guest-physical address. Where nested paging distinguishes two kinds the variable's name says whose it
 * is: l2_gpa is an input of EPT or NPT, l1_gpa (or plain gpa) indexes the machine's memory map.
 */
typedef struct {
	uint64_t v;
} gpa_t;

#define GLA(x) ((gla_t){(x)})
#define GPA(x) ((gpa_t){(x)})

#define PAGE_SHIFT 12
#define PAGE_SIZE  4096u
#define PAGE_MASK  (~(uint64_t)(PAGE_SIZE - 1))

/* Are bits 63:47 all the same (SDM, Canonical Addressing, with 48-bit linear addresses)? */
static inline bool is_canonical(uint64_t address)
{
	return (uint64_t)((int64_t)(address << 16) >> 16) == address;
}

#endif

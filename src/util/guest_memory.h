/*
 * The guest-physical RAM map: contiguous slots, disjoint, each backed by host memory that lives as long
 * as the machine. RAM comes first, by address. Owned by machine/, borrowed by engines (which only translate)
 * and boot/ (which fills it).
 */
#ifndef NESTOR_UTIL_GUEST_MEMORY_H
#define NESTOR_UTIL_GUEST_MEMORY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "util/address.h"

#define GUEST_MEMORY_SLOTS 48

struct guest_memory_slot {
	uint64_t gpa;   /* first guest-physical address, page aligned */
	uint64_t size;  /* bytes, page aligned */
	uint8_t *host;  /* host address of the first byte */
	bool read_only; /* ROM: guest writes go to the MMIO bus */
};

struct guest_memory {
	struct guest_memory_slot slot[GUEST_MEMORY_SLOTS];
	unsigned slot_count;
};

/*
 * Host address of [gpa, gpa + size) or NULL where any byte of it is not RAM or ROM of one slot.
 * size: bytes, may be 0. No permission is implied: the caller heeds read_only by guest_memory_slot_of().
 */
static inline const struct guest_memory_slot *guest_memory_slot_of(const struct guest_memory *memory,
                                                                   gpa_t gpa)
{
	for (unsigned i = 0; i < memory->slot_count; i++)
		if (gpa.v - memory->slot[i].gpa < memory->slot[i].size)
			return &memory->slot[i];
	return NULL;
}

static inline void *guest_memory_host(const struct guest_memory *memory, gpa_t gpa, uint64_t size)
{
	const struct guest_memory_slot *slot = guest_memory_slot_of(memory, gpa);

	if (!slot || size > slot->size - (gpa.v - slot->gpa))
		return NULL;
	return slot->host + (gpa.v - slot->gpa);
}

#endif

/*
 * What a machine's guest-physical memory is made of: RAM, and memory that devices lay over or beside it (flash,
 * option ROMs, shadowed ROMs, frame buffers). A device's change is first noted; once all vCPUs stand still
 * (run.c) it becomes the guest_memory that everybody reads.
 */
#ifndef NESTOR_MACHINE_MEMORY_MAP_H
#define NESTOR_MACHINE_MEMORY_MAP_H

#include <stdbool.h>
#include <stdint.h>

#include "util/guest_memory.h"

#define MEMORY_RAM_PARTS 3
#define MEMORY_OVERLAYS  20

struct machine;

struct memory_map {
	void *mapping; /* the whole of RAM, one mapping */
	uint64_t mapping_size;
	struct guest_memory_slot ram[MEMORY_RAM_PARTS];
	unsigned ram_count;
	struct guest_memory_slot overlay[MEMORY_OVERLAYS]; /* disjoint; each hides the RAM under it */
	unsigned overlay_count;
};

/*
 * Memory that a device provides: guests access [gpa, gpa + size), all page aligned, at host directly; what they
 * write to a read-only range goes to the MMIO bus instead. RAM under it is out of reach until it is unmapped. host is
 * the device's, valid until the machine is destroyed. Under the machine lock. A change holds before the vCPU whose
 * access caused it executes another instruction. Return 0, or -EINVAL, -EEXIST or -ENOSPC with error_text(); unmapping
 * what is not mapped does nothing.
 */
int machine_map_memory(struct machine *machine, gpa_t gpa, uint64_t size, void *host, bool read_only);
void machine_unmap_memory(struct machine *machine, gpa_t gpa);

/* For machine.c and run.c: RAM of config.memory_size bytes; returns 0, or a negative errno with error_text(). */
int memory_map_create(struct machine *machine);
void memory_map_destroy(struct machine *machine);
/* All of RAM becomes zero. While no vCPU runs. */
void memory_map_clear_ram(struct machine *machine);
/* Makes what was noted true and tells the engine. While no vCPU runs, under the machine lock. */
void memory_map_apply(struct machine *machine);

#endif

#include "machine/memory_map.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>

#include "device/serial/terminal.h"
#include "machine/machine.h"
#include "util/error.h"

#define HUGE_PAGE (UINT64_C(2) << 20)

_Static_assert(MEMORY_RAM_PARTS + 2 * MEMORY_OVERLAYS <= GUEST_MEMORY_SLOTS, "an overlay may cut RAM in two");

/* Where the slot meets [gpa, gpa + size). */
static bool overlaps(const struct guest_memory_slot *slot, uint64_t gpa, uint64_t size)
{
	return slot->gpa - gpa < size || gpa - slot->gpa < slot->size;
}

/* The lowest overlay that meets [gpa, gpa + size), or NULL. */
static const struct guest_memory_slot *first_overlay(const struct memory_map *map, uint64_t gpa,
                                                     uint64_t size)
{
	const struct guest_memory_slot *first = NULL;

	for (unsigned i = 0; i < map->overlay_count; i++)
		if (overlaps(&map->overlay[i], gpa, size) && (!first || map->overlay[i].gpa < first->gpa))
			first = &map->overlay[i];
	return first;
}

static void add_slot(struct guest_memory *memory, uint64_t gpa, uint64_t size, uint8_t *host, bool read_only)
{
	memory->slot[memory->slot_count++] = (struct guest_memory_slot){gpa, size, host, read_only};
}

/* The part of RAM that no overlay hides. */
static void add_ram(struct guest_memory *memory, const struct memory_map *map,
                    const struct guest_memory_slot *ram)
{
	uint64_t gpa = ram->gpa, end = ram->gpa + ram->size;

	while (gpa < end) {
		const struct guest_memory_slot *overlay = first_overlay(map, gpa, end - gpa);
		uint64_t stop = overlay ? overlay->gpa : end;

		if (stop > gpa)
			add_slot(memory, gpa, stop - gpa, ram->host + (gpa - ram->gpa), false);
		gpa = overlay ? overlay->gpa + overlay->size : end;
	}
}

void memory_map_apply(struct machine *machine)
{
	const struct memory_map *map = &machine->map;
	struct guest_memory memory = {0};

	for (unsigned i = 0; i < map->ram_count; i++)
		add_ram(&memory, map, &map->ram[i]);
	for (unsigned i = 0; i < map->overlay_count; i++)
		add_slot(&memory, map->overlay[i].gpa, map->overlay[i].size, map->overlay[i].host,
		         map->overlay[i].read_only);
	pthread_rwlock_wrlock(&machine->dma_lock);
	machine->memory = memory;
	pthread_rwlock_unlock(&machine->dma_lock);
	if (machine->vm && machine->engine->memory_changed && machine->engine->memory_changed(machine->vm)) {
		fprintf(stderr, "nestor: %s%s", error_text(), terminal_newline());
		machine_stop(machine, 1);
	}
	atomic_store(&machine->map_changed, false); /* last: this is what keeps vCPUs from going on */
}

/* Before the vCPUs run nobody needs to wait. */
static void note_change(struct machine *machine)
{
	pthread_mutex_lock(&machine->run_lock);
	bool runs = machine->running;

	atomic_store(&machine->map_changed, true);
	pthread_mutex_unlock(&machine->run_lock);
	if (runs)
		machine->stop_kick = true;
	else
		memory_map_apply(machine);
}

int machine_map_memory(struct machine *machine, gpa_t gpa, uint64_t size, void *host, bool read_only)
{
	struct memory_map *map = &machine->map;

	if (gpa.v % PAGE_SIZE || size % PAGE_SIZE || !size || gpa.v + size < gpa.v ||
	    (uintptr_t)host % PAGE_SIZE)
		return error_set(EINVAL, "bad memory range at %#" PRIx64, gpa.v);
	if (first_overlay(map, gpa.v, size))
		return error_set(EEXIST, "the memory at %#" PRIx64 " is another device's", gpa.v);
	if (map->overlay_count == MEMORY_OVERLAYS)
		return error_set(ENOSPC, "too many devices with memory");
	map->overlay[map->overlay_count++] = (struct guest_memory_slot){gpa.v, size, host, read_only};
	note_change(machine);
	return 0;
}

void machine_unmap_memory(struct machine *machine, gpa_t gpa)
{
	struct memory_map *map = &machine->map;

	for (unsigned i = 0; i < map->overlay_count; i++) {
		if (map->overlay[i].gpa != gpa.v)
			continue;
		map->overlay[i] = map->overlay[--map->overlay_count];
		note_change(machine);
		return;
	}
}

static void add_ram_part(struct memory_map *map, uint64_t gpa, uint64_t end, uint8_t *host)
{
	if (end > gpa)
		map->ram[map->ram_count++] = (struct guest_memory_slot){.gpa = gpa, .size = end - gpa, .host = host};
}

/* One private anonymous mapping, aligned so that a guest's large page can be a host's. */
int memory_map_create(struct machine *machine)
{
	struct memory_map *map = &machine->map;
	uint64_t size = machine->config.memory_size;
	uint64_t low = size < PLATFORM_LOW_RAM_END ? size : PLATFORM_LOW_RAM_END;
	uint8_t *base;

	if (size < (1u << 20) || size % PAGE_SIZE || size > (UINT64_C(1) << 45))
		return error_set(EINVAL, "memory of %" PRIu64 " bytes: give at least 1M, in whole pages",
		                 size);
	map->mapping_size = size + HUGE_PAGE;
	map->mapping = mmap(NULL, map->mapping_size, PROT_READ | PROT_WRITE,
	                    MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (map->mapping == MAP_FAILED) {
		map->mapping = NULL;
		return error_set(ENOMEM,
		                 "cannot reserve %" PRIu64 " MiB for the guest's memory: ask for less",
		                 size >> 20);
	}
	base = (uint8_t *)(((uintptr_t)map->mapping + HUGE_PAGE - 1) & ~(uintptr_t)(HUGE_PAGE - 1));
	madvise(base, size, MADV_HUGEPAGE); /* a refusal costs speed only */
	add_ram_part(map, 0, PLATFORM_VGA_HOLE, base);
	add_ram_part(map, PLATFORM_VGA_HOLE_END, low, base + PLATFORM_VGA_HOLE_END);
	add_ram_part(map, PLATFORM_HIGH_RAM, PLATFORM_HIGH_RAM + (size - low), base + low);
	memory_map_apply(machine);
	return 0;
}

void memory_map_destroy(struct machine *machine)
{
	if (machine->map.mapping)
		munmap(machine->map.mapping, machine->map.mapping_size);
}

void memory_map_clear_ram(struct machine *machine)
{
	for (unsigned i = 0; i < machine->map.ram_count; i++)
		madvise(machine->map.ram[i].host, machine->map.ram[i].size, MADV_DONTNEED);
}

void *machine_memory(struct machine *machine, gpa_t gpa, uint64_t size)
{
	return guest_memory_host(&machine->memory, gpa, size);
}

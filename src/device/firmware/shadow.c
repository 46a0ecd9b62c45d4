#include "device/firmware/shadow.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "device/devices.h"
#include "machine/machine.h"
#include "util/error.h"

#define START    0xc0000u
#define END      0x100000u
#define PARTS    13 /* twelve of 16 KiB, then F0000-FFFFF */
#define ROM_SIZE (END - START)
#define PAM_READ  1 /* reads come from RAM … */
#define PAM_WRITE 2 /* … and writes go there */

struct shadow {
	struct machine *machine;
	uint8_t *rom; /* what is seen where RAM is not: all ones, and the firmware at the end */
	uint8_t mode[PARTS];
	bool mapped[PARTS]; /* an overlay starts at this part */
};

static uint32_t part_start(unsigned part)
{
	return START + part * 0x4000;
}

static uint32_t part_end(unsigned part)
{
	return part == PARTS - 1 ? END : part_start(part + 1);
}

/* RAM under the overlays. */
static uint8_t *ram_at(struct machine *machine, uint32_t gpa)
{
	for (unsigned i = 0; i < machine->map.ram_count; i++) {
		const struct guest_memory_slot *ram = &machine->map.ram[i];

		if (gpa - ram->gpa < ram->size && END - ram->gpa <= ram->size)
			return ram->host + (gpa - ram->gpa);
	}
	return NULL;
}

/* Parts of one kind that adjoin become one piece of the memory map. */
static void map_parts(struct shadow *shadow)
{
	struct machine *machine = shadow->machine;

	for (unsigned part = 0; part < PARTS; part++) {
		if (shadow->mapped[part])
			machine_unmap_memory(machine, GPA(part_start(part)));
		shadow->mapped[part] = false;
	}
	for (unsigned part = 0, next; part < PARTS; part = next) {
		uint8_t mode = shadow->mode[part];
		uint32_t start = part_start(part);
		uint8_t *host = mode & PAM_READ ? ram_at(machine, start) : shadow->rom + (start - START);

		for (next = part + 1; next < PARTS && shadow->mode[next] == mode;)
			next++;
		if (mode == (PAM_READ | PAM_WRITE) || !host)
			continue; /* RAM is what lies there anyway */
		shadow->mapped[part] =
		    !machine_map_memory(machine, GPA(start), part_end(next - 1) - start, host, true);
	}
}

void shadow_set(struct machine *machine, const uint8_t pam[SHADOW_REGISTERS])
{
	struct shadow *shadow = machine->shadow;
	uint8_t mode[PARTS];

	if (!shadow)
		return;
	for (unsigned part = 0; part < PARTS - 1; part++)
		mode[part] = pam[1 + part / 2] >> (part % 2 * 4) & 3;
	mode[PARTS - 1] = pam[0] >> 4 & 3;
	if (!memcmp(mode, shadow->mode, sizeof(mode)))
		return;
	memcpy(shadow->mode, mode, sizeof(mode));
	map_parts(shadow);
}

void shadow_set_rom(struct machine *machine, uint8_t *host, uint32_t size)
{
	uint32_t room = 128u << 10;

	if (size > room) {
		host += size - room;
		size = room;
	}
	memcpy(machine->shadow->rom + ROM_SIZE - size, host, size);
	map_parts(machine->shadow);
}

/* What reaches the bus is a write where not all is RAM: to RAM that reads do not show, or to nowhere. */
static void shadow_write(void *state, uint64_t offset, unsigned size, uint64_t value)
{
	struct shadow *shadow = state;
	unsigned part = (unsigned)(offset / 0x4000 < PARTS - 1 ? offset / 0x4000 : PARTS - 1);
	uint8_t *ram = ram_at(shadow->machine, START + (uint32_t)offset);

	if (shadow->mode[part] & PAM_WRITE && ram)
		memcpy(ram, &value, size);
}

/* Reads reach the bus only where there is neither RAM nor ROM. */
static uint64_t shadow_read(void *state, uint64_t offset, unsigned size)
{
	struct shadow *shadow = state;

	return bus_read_bytes(shadow->rom, offset, size);
}

static void shadow_destroy(void *state)
{
	struct shadow *shadow = state;

	munmap(shadow->rom, ROM_SIZE);
	free(shadow);
}

static const struct bus_ops shadow_ops = {8, shadow_read, shadow_write};

int shadow_create(struct machine *machine)
{
	struct shadow *shadow;
	int error;

	if (!machine->config.firmware)
		return 0;
	shadow = calloc(1, sizeof(*shadow));
	if (!shadow)
		return error_set(ENOMEM, "out of memory");
	shadow->machine = machine;
	shadow->rom = mmap(NULL, ROM_SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (shadow->rom == MAP_FAILED) {
		free(shadow);
		return error_set(ENOMEM, "out of memory for the firmware");
	}
	memset(shadow->rom, 0xff, ROM_SIZE);
	error = machine_add_device(machine, "shadow", shadow, NULL, shadow_destroy);
	if (error) {
		shadow_destroy(shadow);
		return error;
	}
	machine->shadow = shadow;
	return bus_add(&machine->mmio, START, ROM_SIZE, &shadow_ops, shadow, "shadow");
}

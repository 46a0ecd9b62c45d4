/*
 * A bus: address ranges that devices claim, looked up by binary search. One for ports, one for memory. The
 * bus hands a device only accesses that lie inside one of its ranges and are of a size it takes; wider or
 * straddling ones are split, low address first, as a chipset splits them. Unclaimed bytes read as all ones.
 */
#ifndef NESTOR_MACHINE_BUS_H
#define NESTOR_MACHINE_BUS_H

#include <stdbool.h>
#include <stdint.h>

#define BUS_RANGES 384

struct bus_ops {
	unsigned max_size; /* widest access the device takes: 1, 2, 4 or 8 */
	/* offset: from the range's start. size: a power of two up to max_size. NULL: reads all ones, ignores
	 * writes */
	uint64_t (*read)(void *device, uint64_t offset, unsigned size);
	void (*write)(void *device, uint64_t offset, unsigned size, uint64_t value);
};

struct bus_range {
	uint64_t start, size;
	const struct bus_ops *ops;
	void *device;
	const char *name;
};

struct bus {
	struct bus_range range[BUS_RANGES]; /* sorted by start, disjoint */
	unsigned count;
	unsigned last; /* where the last lookup hit */
};

/* Claims [start, start + size). name, ops: borrowed. Returns 0, -EEXIST on overlap or -ENOSPC, with
 * error_text(). */
int bus_add(struct bus *bus, uint64_t start, uint64_t size, const struct bus_ops *ops, void *device,
            const char *name);

/* Gives up the range that starts at `start`; does nothing where none does. */
void bus_remove(struct bus *bus, uint64_t start);

/* Whether some byte of [start, start + size) is claimed. */
bool bus_is_claimed(const struct bus *bus, uint64_t start, uint64_t size);

/* The range that claims address, or NULL. */
const struct bus_range *bus_find(struct bus *bus, uint64_t address);

/* size: 1, 2, 4 or 8. The caller holds the machine lock. A device may claim and give up ranges meanwhile. */
uint64_t bus_read(struct bus *bus, uint64_t address, unsigned size);
void bus_write(struct bus *bus, uint64_t address, unsigned size, uint64_t value);

/* For bus_ops: registers that keep what is written. The device is their array of bytes. */
uint64_t bus_read_bytes(void *bytes, uint64_t offset, unsigned size);
void bus_write_bytes(void *bytes, uint64_t offset, unsigned size, uint64_t value);

/* All ones in `size` bytes. */
static inline uint64_t bus_ones(unsigned size)
{
	return size >= 8 ? UINT64_MAX : (UINT64_C(1) << (size * 8)) - 1;
}

#endif

#include "machine/bus.h"

#include <errno.h>
#include <string.h>

#include "util/error.h"

/* The first range that starts at or after `start`. */
static unsigned place_of(const struct bus *bus, uint64_t start)
{
	unsigned low = 0, high = bus->count;

	while (low < high) {
		unsigned middle = (low + high) / 2;

		if (bus->range[middle].start < start)
			low = middle + 1;
		else
			high = middle;
	}
	return low;
}

bool bus_is_claimed(const struct bus *bus, uint64_t start, uint64_t size)
{
	unsigned place = place_of(bus, start);

	return (place > 0 && start - bus->range[place - 1].start < bus->range[place - 1].size) ||
	       (place < bus->count && bus->range[place].start - start < size);
}

int bus_add(struct bus *bus, uint64_t start, uint64_t size, const struct bus_ops *ops, void *device,
            const char *name)
{
	unsigned place = place_of(bus, start);

	if (size == 0 || start + size - 1 < start)
		return error_set(EINVAL, "%s: bad bus range at %#llx", name, (unsigned long long)start);
	if (bus->count == BUS_RANGES)
		return error_set(ENOSPC, "%s: too many bus ranges", name);
	if (bus_is_claimed(bus, start, size))
		return error_set(EEXIST, "%s: bus range at %#llx is taken", name, (unsigned long long)start);
	memmove(&bus->range[place + 1], &bus->range[place], (bus->count - place) * sizeof(bus->range[0]));
	bus->range[place] =
	    (struct bus_range){.start = start, .size = size, .ops = ops, .device = device, .name = name};
	bus->count++;
	bus->last = 0;
	return 0;
}

void bus_remove(struct bus *bus, uint64_t start)
{
	unsigned place = place_of(bus, start);

	if (place == bus->count || bus->range[place].start != start)
		return;
	bus->count--;
	memmove(&bus->range[place], &bus->range[place + 1], (bus->count - place) * sizeof(bus->range[0]));
	bus->last = 0;
}

const struct bus_range *bus_find(struct bus *bus, uint64_t address)
{
	unsigned low = 0, high = bus->count;

	if (bus->last < bus->count && address - bus->range[bus->last].start < bus->range[bus->last].size)
		return &bus->range[bus->last];
	while (low < high) {
		unsigned middle = (low + high) / 2;

		if (bus->range[middle].start <= address)
			low = middle + 1;
		else
			high = middle;
	}
	if (low == 0 || address - bus->range[low - 1].start >= bus->range[low - 1].size)
		return NULL;
	bus->last = low - 1;
	return &bus->range[low - 1];
}

/* True where one access of `size` bytes may go to the device as it is. */
static bool fits(const struct bus_range *range, uint64_t address, unsigned size)
{
	return size <= range->ops->max_size && size <= range->size - (address - range->start);
}

uint64_t bus_read(struct bus *bus, uint64_t address, unsigned size)
{
	const struct bus_range *range = bus_find(bus, address);

	if (range && fits(range, address, size)) {
		if (!range->ops->read)
			return bus_ones(size);
		return range->ops->read(range->device, address - range->start, size) & bus_ones(size);
	}
	if (size == 1)
		return bus_ones(1);

	uint64_t low = bus_read(bus, address, size / 2);
	uint64_t high = bus_read(bus, address + size / 2, size / 2);

	return low | high << (size * 4);
}

void bus_write(struct bus *bus, uint64_t address, unsigned size, uint64_t value)
{
	const struct bus_range *range = bus_find(bus, address);

	if (range && fits(range, address, size)) {
		if (range->ops->write)
			range->ops->write(range->device, address - range->start, size,
			                  value & bus_ones(size));
		return;
	}
	if (size == 1)
		return;
	bus_write(bus, address, size / 2, value & bus_ones(size / 2));
	bus_write(bus, address + size / 2, size / 2, value >> (size * 4));
}

uint64_t bus_read_bytes(void *bytes, uint64_t offset, unsigned size)
{
	uint64_t value = 0;

	memcpy(&value, (const uint8_t *)bytes + offset, size);
	return value;
}

void bus_write_bytes(void *bytes, uint64_t offset, unsigned size, uint64_t value)
{
	memcpy((uint8_t *)bytes + offset, &value, size);
}

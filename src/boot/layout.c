#include "boot/layout.h"

#include <errno.h>

#include "util/error.h"

/* The claim that overlaps [start, end), or NULL's index count. */
static unsigned overlapping(const struct boot_layout *layout, uint64_t start, uint64_t end)
{
	unsigned i;

	for (i = 0; i < layout->count; i++)
		if (start < layout->claim[i].end && layout->claim[i].start < end)
			break;
	return i;
}

static int add(struct boot_layout *layout, const char *name, const char *what, uint64_t start, uint64_t end)
{
	if (start == end)
		return 0;
	if (layout->count == LAYOUT_CLAIMS)
		return error_set(E2BIG, "%s: too many segments and modules to place; give fewer", name);
	layout->claim[layout->count].start = start;
	layout->claim[layout->count].end = end;
	layout->claim[layout->count].what = what;
	layout->count++;
	return 0;
}

int layout_claim(struct boot_layout *layout, const char *name, const char *what, uint64_t gpa, uint64_t size)
{
	unsigned other;

	if (gpa + size < gpa)
		return error_set(EINVAL,
		                 "%s: its %s at %#llx wraps around the address space; the file is corrupt",
		                 name, what, (unsigned long long)gpa);
	if (!guest_memory_host(layout->memory, GPA(gpa), size))
		return error_set(
		    ENOMEM,
		    "%s: its %s needs the addresses %#llx to %#llx, which are not all RAM; give the "
		    "VM more --memory, or link it elsewhere",
		    name, what, (unsigned long long)gpa, (unsigned long long)(gpa + size));
	other = overlapping(layout, gpa, gpa + size);
	if (size && other < layout->count)
		return error_set(EINVAL, "%s: its %s at %#llx to %#llx overlaps the %s; link it elsewhere",
		                 name, what, (unsigned long long)gpa, (unsigned long long)(gpa + size),
		                 layout->claim[other].what);
	return add(layout, name, what, gpa, gpa + size);
}

/* The highest place for size bytes in [min, max) that overlaps no claim. */
static bool find_high(const struct boot_layout *layout, uint64_t size, uint64_t align, uint64_t min,
                      uint64_t max, uint64_t *gpa)
{
	while (max >= min && max - min >= size) {
		uint64_t start = (max - size) & ~(align - 1);
		unsigned other;

		if (start < min)
			return false;
		other = overlapping(layout, start, start + size);
		if (other == layout->count) {
			*gpa = start;
			return true;
		}
		max = layout->claim[other].start;
	}
	return false;
}

static bool find_low(const struct boot_layout *layout, uint64_t size, uint64_t align, uint64_t min,
                     uint64_t max, uint64_t *gpa)
{
	while (min < max) {
		uint64_t start = (min + align - 1) & ~(align - 1);
		unsigned other;

		if (start < min || start > max || max - start < size)
			return false;
		other = overlapping(layout, start, start + size);
		if (other == layout->count) {
			*gpa = start;
			return true;
		}
		min = layout->claim[other].end;
	}
	return false;
}

int layout_find(struct boot_layout *layout, const char *name, const char *what, uint64_t size, uint64_t align,
                uint64_t min, uint64_t max, bool high, uint64_t *gpa)
{
	bool found = false;

	for (unsigned i = 0; i < layout->memory->slot_count; i++) {
		const struct guest_memory_slot *slot = &layout->memory->slot[i];
		uint64_t start = slot->gpa > min ? slot->gpa : min;
		uint64_t end = slot->gpa + slot->size < max ? slot->gpa + slot->size : max;
		uint64_t place;

		if (slot->read_only || start >= end)
			continue;
		if (!(high ? find_high : find_low)(layout, size, align, start, end, &place))
			continue;
		if (!found || (place > *gpa) == high)
			*gpa = place;
		found = true;
	}
	if (!found)
		return error_set(
		    ENOMEM,
		    "%s: %llu KiB for its %s find no room in RAM below %llu MiB beside what is loaded "
		    "already; give the VM more --memory",
		    name, (unsigned long long)(size + 1023) >> 10, what, (unsigned long long)(max >> 20));
	return add(layout, name, what, *gpa, *gpa + size);
}

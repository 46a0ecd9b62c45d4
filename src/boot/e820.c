#include <string.h>

#include "boot/loader.h"

static unsigned add(struct e820_entry *entry, unsigned count, uint64_t start, uint64_t end, uint32_t type)
{
	if (start >= end)
		return count;
	if (count && entry[count - 1].type == type &&
	    entry[count - 1].start + entry[count - 1].size == start) {
		entry[count - 1].size += end - start;
		return count;
	}
	if (count == E820_ENTRIES)
		return count;
	entry[count] = (struct e820_entry){.start = start, .size = end - start, .type = type};
	return count + 1;
}

/* The part of [start, end) inside [low, high). */
static unsigned add_part(struct e820_entry *entry, unsigned count, uint64_t start, uint64_t end, uint64_t low,
                         uint64_t high, uint32_t type)
{
	return add(entry, count, start > low ? start : low, end < high ? end : high, type);
}

static unsigned add_slot(struct e820_entry *entry, unsigned count, const struct guest_memory_slot *slot)
{
	uint64_t start = slot->gpa, end = slot->gpa + slot->size;

	if (slot->read_only)
		return add(entry, count, start, end, E820_RESERVED);
	count = add_part(entry, count, start, end, 0, LOW_EBDA, E820_RAM);
	count = add_part(entry, count, start, end, LOW_EBDA, 0xa0000, E820_RESERVED);
	count = add_part(entry, count, start, end, LOW_ACPI, 0x100000, E820_RESERVED);
	return add_part(entry, count, start, end, 0x100000, UINT64_MAX, E820_RAM);
}

unsigned e820_make(const struct boot_request *request, const struct guest_memory *memory,
                   struct e820_entry entry[E820_ENTRIES])
{
	bool done[GUEST_MEMORY_SLOTS] = {false};
	bool ecam_done = !request->platform.ecam;
	uint64_t ecam = request->platform.ecam;
	unsigned count = 0;

	for (unsigned left = memory->slot_count; left || !ecam_done;) {
		const struct guest_memory_slot *lowest = NULL;

		for (unsigned i = 0; i < memory->slot_count; i++)
			if (!done[i] && (!lowest || memory->slot[i].gpa < lowest->gpa))
				lowest = &memory->slot[i];
		if (!ecam_done && (!lowest || ecam < lowest->gpa)) {
			count = add(entry, count, ecam, ecam + (256u << 20), E820_RESERVED);
			ecam_done = true;
			continue;
		}
		count = add_slot(entry, count, lowest);
		done[lowest - memory->slot] = true;
		left--;
	}
	return count;
}

uint32_t e820_extended_kib(const struct e820_entry *entry, unsigned count)
{
	for (unsigned i = 0; i < count; i++)
		if (entry[i].type == E820_RAM && entry[i].start == 0x100000) {
			uint64_t kib = entry[i].size >> 10;

			return kib > UINT32_MAX ? UINT32_MAX : (uint32_t)kib;
		}
	return 0;
}

uint64_t e820_low_end(const struct e820_entry *entry, unsigned count)
{
	uint64_t low_end = 0;

	for (unsigned i = 0; i < count; i++)
		if (entry[i].type == E820_RAM && entry[i].start < 1ull << 32)
			low_end = entry[i].start + entry[i].size;
	return low_end < 1ull << 32 ? low_end : 1ull << 32;
}

uint64_t boot_ram_size(const struct guest_memory *memory)
{
	uint64_t size = 0;

	for (unsigned i = 0; i < memory->slot_count; i++)
		if (!memory->slot[i].read_only)
			size += memory->slot[i].size;
	return size;
}

uint64_t boot_low_ram_end(const struct guest_memory *memory)
{
	uint64_t end = 0;

	for (unsigned i = 0; i < memory->slot_count; i++) {
		const struct guest_memory_slot *slot = &memory->slot[i];

		if (!slot->read_only && slot->gpa < 1ull << 32 && slot->gpa + slot->size > end)
			end = slot->gpa + slot->size;
	}
	return end;
}

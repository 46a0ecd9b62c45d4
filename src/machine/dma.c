#include "machine/dma.h"

#include <errno.h>
#include <string.h>

#include "machine/machine.h"

/* The RAM or ROM in one piece at gpa, or NULL; *room: how much of size it has. */
static uint8_t *piece(struct machine *machine, uint64_t gpa, size_t size, bool writable, size_t *room)
{
	const struct guest_memory_slot *slot = guest_memory_slot_of(&machine->memory, GPA(gpa));
	uint64_t left;

	if (!slot || (writable && slot->read_only))
		return NULL;
	left = slot->size - (gpa - slot->gpa);
	*room = left < size ? (size_t)left : size;
	return slot->host + (gpa - slot->gpa);
}

/* Visits [gpa, gpa + size), which may lie in several slots that adjoin; to, from: what to copy, or both NULL. */
static int visit(struct machine *machine, uint64_t gpa, void *to, const void *from, size_t size)
{
	while (size) {
		size_t room;
		uint8_t *host = piece(machine, gpa, size, from != NULL, &room);

		if (!host)
			return -EFAULT;
		if (to) {
			memcpy(to, host, room);
			to = (uint8_t *)to + room;
		}
		if (from) {
			memcpy(host, from, room);
			dma_written(machine, gpa, room);
			from = (const uint8_t *)from + room;
		}
		gpa += room;
		size -= room;
	}
	return 0;
}

static bool is_memory(struct machine *machine, uint64_t gpa, size_t size, bool writable)
{
	size_t room;

	for (uint8_t *host; size; gpa += room, size -= room) {
		host = piece(machine, gpa, size, writable, &room);
		if (!host)
			return false;
	}
	return true;
}

int dma_read(struct machine *machine, uint64_t gpa, void *to, size_t size)
{
	int result;

	pthread_rwlock_rdlock(&machine->dma_lock);
	result = is_memory(machine, gpa, size, false) ? visit(machine, gpa, to, NULL, size) : -EFAULT;
	pthread_rwlock_unlock(&machine->dma_lock);
	return result;
}

int dma_write(struct machine *machine, uint64_t gpa, const void *from, size_t size)
{
	int result;

	pthread_rwlock_rdlock(&machine->dma_lock);
	result = is_memory(machine, gpa, size, true) ? visit(machine, gpa, NULL, from, size) : -EFAULT;
	pthread_rwlock_unlock(&machine->dma_lock);
	return result;
}

void *dma_host(struct machine *machine, uint64_t gpa, size_t size)
{
	size_t room;
	uint8_t *host;

	pthread_rwlock_rdlock(&machine->dma_lock);
	host = piece(machine, gpa, size, true, &room);
	pthread_rwlock_unlock(&machine->dma_lock);
	return host && room == size ? host : NULL;
}

void dma_written(struct machine *machine, uint64_t gpa, size_t size)
{
	if (size && machine->vm && machine->engine->memory_written)
		machine->engine->memory_written(machine->vm, GPA(gpa), size);
}

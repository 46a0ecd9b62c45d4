/*
 * The driver's side of a split virtqueue in a test's guest memory, written from the specification alone
 * ("Split Virtqueues"): what the device under test does is checked against it. The test lays the queue out,
 * adds chains of buffers by number, and takes what was used.
 */
#ifndef NESTOR_TESTS_QUEUE_DRIVER_H
#define NESTOR_TESTS_QUEUE_DRIVER_H

#include <assert.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>

#include "machine/machine.h"

#define DESC_NEXT     1
#define DESC_WRITE    2
#define DESC_INDIRECT 4

struct queue_driver {
	struct machine *machine;
	unsigned size;
	uint64_t desc, avail, used; /* guest-physical */
	uint16_t avail_index, used_index, next_free;
};

static inline void *guest(struct machine *machine, uint64_t gpa, size_t size)
{
	void *host = machine_memory(machine, GPA(gpa), size);

	assert(host);
	return host;
}

static inline uint16_t get16(struct machine *machine, uint64_t gpa)
{
	uint16_t value;

	memcpy(&value, guest(machine, gpa, 2), 2);
	return value;
}

static inline uint32_t get32(struct machine *machine, uint64_t gpa)
{
	uint32_t value;

	memcpy(&value, guest(machine, gpa, 4), 4);
	return value;
}

static inline void put16(struct machine *machine, uint64_t gpa, uint16_t value)
{
	memcpy(guest(machine, gpa, 2), &value, 2);
}

/* Rings at `gpa` on, in the layout of legacy devices: modern ones take it as well. */
static inline void queue_driver_init(struct queue_driver *q, struct machine *machine, unsigned size,
                                     uint64_t gpa)
{
	*q = (struct queue_driver){.machine = machine, .size = size, .desc = gpa};
	q->avail = gpa + 16 * size;
	q->used = (q->avail + 6 + 2 * size + 4095) & ~UINT64_C(4095);
	memset(guest(machine, gpa, q->used + 6 + 8 * size - gpa), 0, q->used + 6 + 8 * size - gpa);
}

static inline void write_desc(struct machine *machine, uint64_t table, unsigned index, uint64_t gpa,
                              uint32_t size, uint16_t flags, uint16_t next)
{
	uint8_t *at = guest(machine, table + 16 * index, 16);

	memcpy(at, &gpa, 8);
	memcpy(at + 8, &size, 4);
	memcpy(at + 12, &flags, 2);
	memcpy(at + 14, &next, 2);
}

/* Puts `head` into the available ring; the index moves with queue_publish. */
static inline void queue_offer(struct queue_driver *q, uint16_t head)
{
	put16(q->machine, q->avail + 4 + 2 * (q->avail_index % q->size), head);
	q->avail_index++;
}

static inline void queue_publish(struct queue_driver *q)
{
	put16(q->machine, q->avail + 2, q->avail_index);
}

struct buffer {
	uint64_t gpa;
	uint32_t size;
	bool writable;
};

/* One chain from the next descriptors in turn; returns its head. The caller knows that they are free. */
static inline uint16_t queue_add(struct queue_driver *q, const struct buffer *buffer, unsigned count)
{
	uint16_t head = q->next_free;

	for (unsigned i = 0; i < count; i++) {
		uint16_t next = (uint16_t)((q->next_free + 1) % q->size);

		write_desc(
		    q->machine, q->desc, q->next_free, buffer[i].gpa, buffer[i].size,
		    (uint16_t)((buffer[i].writable ? DESC_WRITE : 0) | (i + 1 < count ? DESC_NEXT : 0)),
		    next);
		q->next_free = next;
	}
	queue_offer(q, head);
	queue_publish(q);
	return head;
}

static inline uint16_t queue_used_index(const struct queue_driver *q)
{
	return get16(q->machine, q->used + 2);
}

/* Takes the next used chain: false where there is none. */
static inline bool queue_take(struct queue_driver *q, uint32_t *head, uint32_t *written)
{
	uint64_t at = q->used + 4 + 8 * (q->used_index % q->size);

	if (queue_used_index(q) == q->used_index)
		return false;
	*head = get32(q->machine, at);
	*written = get32(q->machine, at + 4);
	q->used_index++;
	return true;
}

/* Event index fields: what the driver sets (used_event) and what the device sets (avail_event). */
static inline void queue_set_used_event(struct queue_driver *q, uint16_t value)
{
	put16(q->machine, q->avail + 4 + 2 * q->size, value);
}

static inline uint16_t queue_avail_event(const struct queue_driver *q)
{
	return get16(q->machine, q->used + 4 + 8 * q->size);
}

#endif

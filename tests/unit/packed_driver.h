/*
 * The driver's side of a packed virtqueue in a test's guest memory, written from the specification alone ("Packed
 * Virtqueues"). Over queue_driver.h, whose buffers and flags it takes.
 */
#ifndef NESTOR_TESTS_PACKED_DRIVER_H
#define NESTOR_TESTS_PACKED_DRIVER_H

#include "queue_driver.h"

#define FEATURE_PACKED (UINT64_C(1) << 34)

#define PACKED_AVAIL (1u << 7)
#define PACKED_USED  (1u << 15)

/* Event suppression: the flags' values; a slot's lap is in bit 15. */
#define EVENT_ENABLE  0
#define EVENT_DISABLE 1
#define EVENT_DESC    2
#define EVENT_LAP     0x8000u

struct packed_driver {
	struct machine *machine;
	unsigned size;
	uint64_t ring, driver_event, device_event; /* guest-physical */
	uint16_t next_available, next_used;
	bool available_counter, used_counter; /* the wrap counters */
	uint16_t next_id, slots[1024];        /* slots: of a chain, by its buffer ID */
};

static inline void packed_init(struct packed_driver *q, struct machine *machine, unsigned size, uint64_t gpa)
{
	*q = (struct packed_driver){.machine = machine, .size = size, .ring = gpa, .driver_event = gpa + 16 * size,
	                            .device_event = gpa + 16 * size + 4, .available_counter = true, .used_counter = true};
	memset(guest(machine, gpa, 16 * size + 8), 0, 16 * size + 8);
}

/* A slot as the specification lays it out: address, length, buffer ID, flags. */
static inline void packed_write(struct packed_driver *q, unsigned slot, uint64_t gpa, uint32_t size,
                                uint16_t id, uint16_t flags)
{
	write_desc(q->machine, q->ring, slot, gpa, size, id, flags);
}

/* What makes a descriptor available on this lap. */
static inline uint16_t packed_lap(const struct packed_driver *q)
{
	return q->available_counter ? PACKED_AVAIL : PACKED_USED;
}

static inline void packed_move(const struct packed_driver *q, uint16_t *place, bool *counter, unsigned slots)
{
	for (; slots; slots--)
		if (++*place == q->size) {
			*place = 0;
			*counter = !*counter;
		}
}

/* Slots that the device has, or that are used and not taken yet. */
static inline unsigned packed_outstanding(const struct packed_driver *q)
{
	return (q->available_counter == q->used_counter ? 0 : q->size) + q->next_available - q->next_used;
}

/* One chain, its first descriptor last. The caller knows that there is room. Returns its buffer ID. */
static inline uint16_t packed_add(struct packed_driver *q, const struct buffer *buffer, unsigned count)
{
	uint16_t id = q->next_id++ % 1024, head = q->next_available, head_flags = 0;

	for (unsigned i = 0; i < count; i++) {
		uint16_t flags = (uint16_t)(packed_lap(q) | (buffer[i].writable ? DESC_WRITE : 0) |
		                            (i + 1 < count ? DESC_NEXT : 0));

		packed_write(q, q->next_available, buffer[i].gpa, buffer[i].size, i + 1 < count ? 0xdead : id,
		             i ? flags : (uint16_t)(flags ^ PACKED_AVAIL ^ PACKED_USED));
		if (!i)
			head_flags = flags;
		packed_move(q, &q->next_available, &q->available_counter, 1);
	}
	put16(q->machine, q->ring + 16 * head + 14, head_flags);
	q->slots[id] = (uint16_t)count;
	return id;
}

/* Takes the next used chain: false where there is none. */
static inline bool packed_take(struct packed_driver *q, uint16_t *id, uint32_t *written)
{
	uint64_t at = q->ring + 16 * q->next_used;
	uint16_t flags = get16(q->machine, at + 14);
	bool avail = flags & PACKED_AVAIL, used = flags & PACKED_USED;

	if (avail != q->used_counter || used != q->used_counter)
		return false;
	*id = get16(q->machine, at + 12);
	*written = flags & DESC_WRITE ? get32(q->machine, at + 8) : 0;
	packed_move(q, &q->next_used, &q->used_counter, q->slots[*id % 1024]);
	return true;
}

static inline void packed_set_event(struct packed_driver *q, uint16_t place, uint16_t flags)
{
	put16(q->machine, q->driver_event, place);
	put16(q->machine, q->driver_event + 2, flags);
}

#endif

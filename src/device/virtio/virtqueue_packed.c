/*
 * Packed virtqueues: one ring of descriptors, in which the driver makes chains available and the device writes used
 * elements over them, in the order in which it is done. Two bits of a descriptor's flags say whose it is: both sides
 * count their laps of the ring (the wrap counter, 1 at first), AVAIL is the driver's counter when it wrote the descriptor,
 * USED differs from it until the device is done with it. A chain stands in consecutive slots; its used element takes
 * the first of as many, and the others are skipped. Two event areas say who wants to be told of what.
 */
#include <string.h>

#include "device/virtio/virtqueue_format.h"
#include "machine/dma.h"
#include "machine/machine.h"

/* A descriptor, and a used element, which has no address. */
#define AT_SIZE  8
#define AT_ID    12
#define AT_FLAGS 14

#define FLAG_AVAIL (1u << 7)
#define FLAG_USED  (1u << 15)

/* "Event Suppression Structure Format": a slot with the wrap counter in bit 15, then flags. */
#define EVENT_SIZE  4
#define EVENT_FLAGS 16 /* their place in the word */
#define EVENT_WRAP  (1u << 15)

enum { EVENTS_ENABLE, EVENTS_DISABLE, EVENTS_DESC };

struct descriptor {
	uint64_t gpa;
	uint32_t size;
	uint16_t id, flags;
};

_Static_assert(sizeof(struct descriptor) == DESCRIPTOR_SIZE,
               "Packed Virtqueues, The Virtqueue Descriptor Table");

static uint8_t *slot(const struct virtqueue *queue, unsigned place)
{
	return queue->descriptor + DESCRIPTOR_SIZE * (size_t)place;
}

static const char *find(struct virtqueue *queue)
{
	struct machine *machine = queue->virtio->machine;

	if (queue->descriptor_gpa % 16 || queue->available_gpa % 4 || queue->used_gpa % 4)
		return "a ring's address is not aligned";
	queue->descriptor = dma_host(machine, queue->descriptor_gpa, DESCRIPTOR_SIZE * (size_t)queue->size);
	queue->available = dma_host(machine, queue->available_gpa, EVENT_SIZE);
	queue->used = dma_host(machine, queue->used_gpa, EVENT_SIZE);
	return queue->descriptor && queue->available && queue->used ? NULL : "a ring is not in memory";
}

static unsigned waiting(struct virtqueue *queue)
{
	uint16_t flags = load16(slot(queue, queue->next_available) + AT_FLAGS);
	bool counter = !queue->packed.available_wrapped, avail = flags & FLAG_AVAIL, used = flags & FLAG_USED;

	return avail == counter && used != counter;
}

/* "Driver and Device Event Suppression" */
static void ask(struct virtqueue *queue, bool want)
{
	uint32_t event = EVENTS_DISABLE << EVENT_FLAGS;

	if (want && virtio_has(queue->virtio, VIRTIO_F_EVENT_IDX))
		event = EVENTS_DESC << EVENT_FLAGS | (queue->packed.available_wrapped ? 0 : EVENT_WRAP) |
		        queue->next_available;
	else if (want)
		event = EVENTS_ENABLE << EVENT_FLAGS;
	__atomic_store_n((uint32_t *)queue->used, event, __ATOMIC_RELEASE);
	dma_written(queue->virtio->machine, queue->used_gpa, EVENT_SIZE);
}

/* "Indirect Flag: Scatter-Gather Support": the table's descriptors in order; of their flags only WRITE counts. */
static const char *walk_table(struct virtqueue *queue, const struct descriptor *indirect,
                              struct pieces *pieces)
{
	const char *why = NULL;
	uint32_t count;
	const uint8_t *table = virtqueue_indirect_table(queue, indirect->gpa, indirect->size, &count, &why);

	if (table && count > queue->size)
		return "a chain is longer than its queue";
	for (uint32_t i = 0; table && i < count && !why; i++) {
		struct descriptor descriptor;

		memcpy(&descriptor, table + DESCRIPTOR_SIZE * (size_t)i, sizeof(descriptor));
		why = virtqueue_add_buffer(queue, pieces, descriptor.gpa, descriptor.size,
		                           descriptor.flags & DESCRIPTOR_WRITE);
	}
	return why;
}

/* The buffer ID is in the chain's last descriptor. */
static const char *walk(struct virtqueue *queue, struct pieces *pieces)
{
	unsigned place = queue->next_available;

	for (unsigned slots = 1; slots <= queue->size; slots++) {
		struct descriptor descriptor;
		const char *why;

		memcpy(&descriptor, slot(queue, place), sizeof(descriptor));
		pieces->head = descriptor.id;
		pieces->slots = (uint16_t)slots;
		if (descriptor.flags & DESCRIPTOR_INDIRECT)
			return slots > 1 || descriptor.flags & DESCRIPTOR_NEXT
			           ? "a bad indirect descriptor"
			           : walk_table(queue, &descriptor, pieces);
		why = virtqueue_add_buffer(queue, pieces, descriptor.gpa, descriptor.size,
		                           descriptor.flags & DESCRIPTOR_WRITE);
		if (why || !(descriptor.flags & DESCRIPTOR_NEXT))
			return why;
		place = place + 1 < queue->size ? place + 1 : 0;
	}
	return "a chain is longer than its queue";
}

/* slots: no more than the ring has. */
static void move(const struct virtqueue *queue, uint16_t *place, bool *wrapped, unsigned slots)
{
	unsigned to = *place + slots;

	if (to >= queue->size) {
		to -= queue->size;
		*wrapped = !*wrapped;
	}
	*place = (uint16_t)to;
}

static void advance(struct virtqueue *queue, unsigned slots)
{
	move(queue, &queue->next_available, &queue->packed.available_wrapped, slots);
}

static void retreat(struct virtqueue *queue, unsigned slots)
{
	if (slots > queue->next_available)
		queue->packed.available_wrapped = !queue->packed.available_wrapped;
	queue->next_available = (uint16_t)((queue->next_available + queue->size - slots) % queue->size);
}

/* The driver looks at the used elements in order: as long as the first one's flags are missing it finds none of them. */
static void fill(struct virtqueue *queue, const struct virtio_chain *chain, uint32_t written)
{
	bool first = queue->filled == 0, counter;
	uint16_t flags;
	uint8_t *at;

	if (first) {
		queue->packed.fill = queue->next_used;
		queue->packed.fill_wrapped = queue->packed.used_wrapped;
	}
	counter = !queue->packed.fill_wrapped;
	flags = (uint16_t)((counter ? FLAG_AVAIL | FLAG_USED : 0) | (written ? DESCRIPTOR_WRITE : 0));
	at = slot(queue, queue->packed.fill);
	memcpy(at + AT_SIZE, &written, sizeof(written));
	memcpy(at + AT_ID, &chain->head, sizeof(chain->head));
	if (first)
		queue->packed.first_flags = flags;
	else
		store16(at + AT_FLAGS, flags);
	dma_written(queue->virtio->machine, queue->descriptor_gpa + (uint64_t)(at - queue->descriptor),
	            DESCRIPTOR_SIZE);
	move(queue, &queue->packed.fill, &queue->packed.fill_wrapped, chain->slots);
	queue->filled += chain->slots;
}

static void flush(struct virtqueue *queue)
{
	uint8_t *at = slot(queue, queue->next_used);

	store16(at + AT_FLAGS, queue->packed.first_flags);
	dma_written(queue->virtio->machine, queue->descriptor_gpa + (uint64_t)(at - queue->descriptor),
	            DESCRIPTOR_SIZE);
	queue->next_used = queue->packed.fill;
	queue->packed.used_wrapped = queue->packed.fill_wrapped;
	queue->packed.unsignalled += queue->filled;
	queue->filled = 0;
}

static bool wants_interrupt(struct virtqueue *queue)
{
	unsigned count = queue->packed.unsignalled, flags, place;
	bool counter = !queue->packed.used_wrapped;
	uint32_t event;

	if (!count)
		return false;
	queue->packed.unsignalled = 0;
	/* The used elements are out before the driver's wishes are read. */
	__atomic_thread_fence(__ATOMIC_SEQ_CST);
	event = __atomic_load_n((const uint32_t *)queue->available, __ATOMIC_ACQUIRE);
	flags = event >> EVENT_FLAGS & 3;
	if (flags == EVENTS_DISABLE)
		return false;
	if (flags != EVENTS_DESC || !virtio_has(queue->virtio, VIRTIO_F_EVENT_IDX) || count >= queue->size)
		return true;
	/* Is the slot among the `count` before the next one? Of the last lap it is as if it stood before slot 0. */
	place = event & (EVENT_WRAP - 1);
	if (!(event & EVENT_WRAP) == counter)
		place -= queue->size;
	return (uint16_t)(queue->next_used - place - 1) < count;
}

const struct virtqueue_format virtqueue_packed = {
    .find = find,
    .waiting = waiting,
    .ask = ask,
    .walk = walk,
    .advance = advance,
    .retreat = retreat,
    .fill = fill,
    .flush = flush,
    .wants_interrupt = wants_interrupt,
};

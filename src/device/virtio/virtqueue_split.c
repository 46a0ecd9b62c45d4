/* Split virtqueues: a table of descriptors, a ring of the driver's and one of the device's. */
#include <string.h>

#include "device/virtio/virtqueue_format.h"
#include "machine/dma.h"
#include "machine/machine.h"

/* Both rings: flags, index, ring … ; then what the event index feature adds. */
#define RING_FLAGS             0
#define RING_INDEX             2
#define RING_ENTRIES           4
#define AVAILABLE_ENTRY        2
#define USED_ENTRY             8
#define AVAILABLE_NO_INTERRUPT 1
#define USED_NO_NOTIFY         1

struct descriptor {
	uint64_t gpa;
	uint32_t size;
	uint16_t flags, next;
};

_Static_assert(sizeof(struct descriptor) == DESCRIPTOR_SIZE,
               "Split Virtqueues, The Virtqueue Descriptor Table");

static size_t available_size(const struct virtqueue *queue)
{
	return RING_ENTRIES + AVAILABLE_ENTRY * (size_t)queue->size + 2;
}

static size_t used_size(const struct virtqueue *queue)
{
	return RING_ENTRIES + USED_ENTRY * (size_t)queue->size + 2;
}

static const char *find(struct virtqueue *queue)
{
	struct machine *machine = queue->virtio->machine;

	if (queue->descriptor_gpa % 16 || queue->available_gpa % 2 || queue->used_gpa % 4)
		return "a ring's address is not aligned";
	queue->descriptor = dma_host(machine, queue->descriptor_gpa, DESCRIPTOR_SIZE * (size_t)queue->size);
	queue->available = dma_host(machine, queue->available_gpa, available_size(queue));
	queue->used = dma_host(machine, queue->used_gpa, used_size(queue));
	return queue->descriptor && queue->available && queue->used ? NULL : "a ring is not in memory";
}

/* An index that moved by more than the ring holds breaks the queue. */
static unsigned waiting(struct virtqueue *queue)
{
	uint16_t count = (uint16_t)(load16(queue->available + RING_INDEX) - queue->next_available);

	if (count > queue->size) {
		virtqueue_fail(queue, "the available index jumped");
		return 0;
	}
	return count;
}

/* "Available Buffer Notification Suppression" */
static void ask(struct virtqueue *queue, bool want)
{
	size_t event = used_size(queue) - 2; /* avail_event */

	if (virtio_has(queue->virtio, VIRTIO_F_EVENT_IDX)) {
		if (want) {
			store16(queue->used + event, queue->next_available);
			dma_written(queue->virtio->machine, queue->used_gpa + event, 2);
		}
	} else {
		store16(queue->used + RING_FLAGS, want ? 0 : USED_NO_NOTIFY);
		dma_written(queue->virtio->machine, queue->used_gpa, 2);
	}
}

/* Follows the chain: at most as many descriptors as the queue has, direct ones and indirect ones. */
static const char *walk(struct virtqueue *queue, struct pieces *pieces)
{
	const uint8_t *table = queue->descriptor;
	uint32_t limit = queue->size, index;
	bool indirect = false;

	index = load16(queue->available + RING_ENTRIES +
	               AVAILABLE_ENTRY * (size_t)(queue->next_available % queue->size));
	pieces->head = (uint16_t)index;
	pieces->slots = 1;
	for (unsigned steps = 0; steps <= queue->size; steps++) {
		struct descriptor descriptor;
		const char *why = NULL;

		if (index >= limit)
			return "a descriptor's number is too large";
		memcpy(&descriptor, table + DESCRIPTOR_SIZE * (size_t)index, sizeof(descriptor));
		if (descriptor.flags & DESCRIPTOR_INDIRECT) {
			if (indirect || descriptor.flags & DESCRIPTOR_NEXT)
				return "a bad indirect descriptor";
			table = virtqueue_indirect_table(queue, descriptor.gpa, descriptor.size, &limit, &why);
			if (!table)
				return why;
			index = 0;
			indirect = true;
			continue;
		}
		why = virtqueue_add_buffer(queue, pieces, descriptor.gpa, descriptor.size,
		                           descriptor.flags & DESCRIPTOR_WRITE);
		if (why || !(descriptor.flags & DESCRIPTOR_NEXT))
			return why;
		index = descriptor.next;
	}
	return "a chain is longer than its queue";
}

static void advance(struct virtqueue *queue, unsigned slots)
{
	queue->next_available = (uint16_t)(queue->next_available + slots);
}

static void retreat(struct virtqueue *queue, unsigned slots)
{
	queue->next_available = (uint16_t)(queue->next_available - slots);
}

static void fill(struct virtqueue *queue, const struct virtio_chain *chain, uint32_t written)
{
	uint32_t entry[2] = {chain->head, written};
	size_t place = RING_ENTRIES + USED_ENTRY * (size_t)((uint16_t)(queue->next_used + queue->filled) % queue->size);

	memcpy(queue->used + place, entry, sizeof(entry));
	dma_written(queue->virtio->machine, queue->used_gpa + place, sizeof(entry));
	queue->filled++;
}

static void flush(struct virtqueue *queue)
{
	queue->next_used = (uint16_t)(queue->next_used + queue->filled);
	queue->filled = 0;
	store16(queue->used + RING_INDEX, queue->next_used);
	dma_written(queue->virtio->machine, queue->used_gpa + RING_INDEX, 2);
}

/* "Used Buffer Notification Suppression" */
static bool wants_interrupt(struct virtqueue *queue)
{
	uint16_t old = queue->split.signalled, now = queue->next_used, event;
	bool valid = queue->split.signalled_valid;

	if (valid ? old == now : now == 0)
		return false;
	queue->split.signalled = now;
	queue->split.signalled_valid = true;
	/* The used index is out before the driver's wishes are read. */
	__atomic_thread_fence(__ATOMIC_SEQ_CST);
	if (!virtio_has(queue->virtio, VIRTIO_F_EVENT_IDX))
		return !(load16(queue->available + RING_FLAGS) & AVAILABLE_NO_INTERRUPT);
	event = load16(queue->available + available_size(queue) - 2);
	return !valid || (uint16_t)(now - event - 1) < (uint16_t)(now - old);
}

const struct virtqueue_format virtqueue_split = {
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

#include "device/virtio/virtqueue.h"

#include <stdlib.h>
#include <string.h>

#include "device/virtio/virtio.h"
#include "machine/dma.h"
#include "machine/machine.h"

#define DESCRIPTOR_SIZE     16
#define DESCRIPTOR_NEXT     1
#define DESCRIPTOR_WRITE    2
#define DESCRIPTOR_INDIRECT 4

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

/* What a chain is put together from; its memory is looked up as it grows. */
struct pieces {
	struct iovec iov[VIRTQUEUE_SIZE_MAX];
	uint64_t gpa[VIRTQUEUE_SIZE_MAX];
	unsigned count, readable;
	uint64_t size, readable_size;
};

/* ---- the rings ---- */

static uint16_t load16(const uint8_t *at)
{
	return __atomic_load_n((const uint16_t *)at, __ATOMIC_ACQUIRE);
}

static void store16(uint8_t *at, uint16_t value)
{
	__atomic_store_n((uint16_t *)at, value, __ATOMIC_RELEASE);
}

static void fail(struct virtqueue *queue, const char *why)
{
	queue->broken = true;
	virtio_fail(queue->virtio, why);
}

static size_t available_size(const struct virtqueue *queue)
{
	return RING_ENTRIES + AVAILABLE_ENTRY * (size_t)queue->size + 2;
}

static size_t used_size(const struct virtqueue *queue)
{
	return RING_ENTRIES + USED_ENTRY * (size_t)queue->size + 2;
}

/* Where the driver reads what notifications the device wants (avail_event). */
static uint8_t *available_event(const struct virtqueue *queue)
{
	return queue->used + used_size(queue) - 2;
}

static bool find_rings(struct virtqueue *queue)
{
	struct machine *machine = queue->virtio->machine;

	if (queue->descriptor_gpa % 16 || queue->available_gpa % 2 || queue->used_gpa % 4) {
		fail(queue, "a ring's address is not aligned");
		return false;
	}
	queue->descriptor = dma_host(machine, queue->descriptor_gpa, DESCRIPTOR_SIZE * (size_t)queue->size);
	queue->available = dma_host(machine, queue->available_gpa, available_size(queue));
	queue->used = dma_host(machine, queue->used_gpa, used_size(queue));
	if (!queue->descriptor || !queue->available || !queue->used) {
		queue->used = NULL;
		fail(queue, "a ring is not in memory");
		return false;
	}
	return true;
}

static bool is_usable(struct virtqueue *queue)
{
	if (!queue->enabled || queue->broken || !virtio_running(queue->virtio))
		return false;
	return queue->used || find_rings(queue);
}

/* How many chains wait. An index that moved by more than the ring holds breaks the queue. */
static unsigned waiting(struct virtqueue *queue)
{
	uint16_t count = (uint16_t)(load16(queue->available + RING_INDEX) - queue->next_available);

	if (count > queue->size) {
		fail(queue, "the available index jumped");
		return 0;
	}
	return count;
}

/*
 * As waiting(); where there is none, asks for a notification of the next one first ("Available Buffer
 * Notification Suppression") and looks again, so that none is missed. While there are some nobody need
 * notify.
 */
static unsigned wait_for_more(struct virtqueue *queue)
{
	unsigned count = waiting(queue);

	if (count || queue->quiet || queue->broken || !virtio_has(queue->virtio, VIRTIO_F_EVENT_IDX))
		return count;
	store16(available_event(queue), queue->next_available);
	dma_written(queue->virtio->machine, queue->used_gpa + used_size(queue) - 2, 2);
	__atomic_thread_fence(__ATOMIC_SEQ_CST);
	return waiting(queue);
}

bool virtqueue_has(struct virtqueue *queue)
{
	return is_usable(queue) && wait_for_more(queue) > 0;
}

void virtqueue_want_notifications(struct virtqueue *queue, bool want)
{
	if (!is_usable(queue) || queue->quiet == !want)
		return;
	queue->quiet = !want;
	if (virtio_has(queue->virtio, VIRTIO_F_EVENT_IDX)) {
		if (want) {
			store16(available_event(queue), queue->next_available);
			dma_written(queue->virtio->machine, queue->used_gpa + used_size(queue) - 2, 2);
		}
	} else {
		store16(queue->used + RING_FLAGS, want ? 0 : USED_NO_NOTIFY);
		dma_written(queue->virtio->machine, queue->used_gpa, 2);
	}
	__atomic_thread_fence(__ATOMIC_SEQ_CST);
}

/* ---- taking a chain ---- */

static const char *add_piece(struct pieces *pieces, uint8_t *host, uint64_t gpa, size_t size)
{
	if (pieces->count == VIRTQUEUE_SIZE_MAX)
		return "a chain has too many pieces";
	pieces->iov[pieces->count] = (struct iovec){host, size};
	pieces->gpa[pieces->count++] = gpa;
	return NULL;
}

/* A buffer that is not in one piece of memory (it may cross from one slot to the next): page by page. */
static const char *add_pages(struct pieces *pieces, struct machine *machine, uint64_t gpa, uint32_t size,
                             bool writable)
{
	while (size) {
		uint32_t room = PAGE_SIZE - (uint32_t)(gpa % PAGE_SIZE);
		struct iovec *last = pieces->count ? &pieces->iov[pieces->count - 1] : NULL;
		const char *why = NULL;
		uint8_t *host;

		room = room < size ? room : size;
		host = dma_host(machine, gpa, room);
		if (!host && !writable)
			host = machine_memory(machine, GPA(gpa), room); /* firmware sends from its ROM */
		if (!host)
			return "a buffer is not in memory";
		if (last && (uint8_t *)last->iov_base + last->iov_len == host &&
		    pieces->gpa[pieces->count - 1] + last->iov_len == gpa && pieces->count > pieces->readable)
			last->iov_len += room;
		else
			why = add_piece(pieces, host, gpa, room);
		if (why)
			return why;
		gpa += room;
		size -= room;
	}
	return NULL;
}

static const char *add_buffer(struct pieces *pieces, struct machine *machine,
                              const struct descriptor *descriptor)
{
	bool writable = descriptor->flags & DESCRIPTOR_WRITE;
	const char *why = NULL;
	uint8_t *host;

	if (!writable && pieces->size > pieces->readable_size)
		return "a readable buffer follows a writable one";
	if (descriptor->size > UINT32_MAX - pieces->size)
		return "a chain has 4 GiB or more";
	if (descriptor->size == 0)
		return NULL;
	host = dma_host(machine, descriptor->gpa, descriptor->size);
	if (host)
		why = add_piece(pieces, host, descriptor->gpa, descriptor->size);
	else
		why = add_pages(pieces, machine, descriptor->gpa, descriptor->size, writable);
	pieces->size += descriptor->size;
	if (!writable) {
		pieces->readable = pieces->count;
		pieces->readable_size = pieces->size;
	}
	return why;
}

/* Follows the chain from descriptor `head`: at most as many as the queue has, direct ones and indirect ones.
 */
static const char *walk(struct virtqueue *queue, unsigned head, struct pieces *pieces)
{
	struct machine *machine = queue->virtio->machine;
	const uint8_t *table = queue->descriptor;
	uint32_t limit = queue->size, index = head;
	bool indirect = false;

	for (unsigned steps = 0; steps <= queue->size; steps++) {
		struct descriptor descriptor;
		const char *why;

		if (index >= limit)
			return "a descriptor's number is too large";
		memcpy(&descriptor, table + DESCRIPTOR_SIZE * (size_t)index, sizeof(descriptor));
		if (descriptor.flags & DESCRIPTOR_INDIRECT) {
			if (indirect || descriptor.flags & DESCRIPTOR_NEXT || descriptor.size == 0 ||
			    descriptor.size % DESCRIPTOR_SIZE)
				return "a bad indirect descriptor";
			if (!virtio_has(queue->virtio, VIRTIO_F_INDIRECT_DESC))
				return "an indirect descriptor that was not negotiated";
			table = dma_host(machine, descriptor.gpa, descriptor.size);
			if (!table)
				return "an indirect table is not in memory";
			limit = descriptor.size / DESCRIPTOR_SIZE;
			index = 0;
			indirect = true;
			continue;
		}
		why = add_buffer(pieces, machine, &descriptor);
		if (why || !(descriptor.flags & DESCRIPTOR_NEXT))
			return why;
		index = descriptor.next;
	}
	return "a chain is longer than its queue";
}

static struct virtio_chain *make_chain(struct virtqueue *queue, uint16_t head, const struct pieces *pieces)
{
	unsigned writable = pieces->count - pieces->readable;
	size_t iov_size = pieces->count * sizeof(struct iovec), gpa_size = pieces->count * sizeof(uint64_t);
	struct virtio_chain *chain = malloc(sizeof(*chain) + iov_size + gpa_size);

	if (!chain)
		return NULL;
	*chain = (struct virtio_chain){
	    .queue = queue,
	    .readable = (struct iovec *)(chain + 1),
	    .readable_count = pieces->readable,
	    .writable_count = writable,
	    .readable_size = pieces->readable_size,
	    .writable_size = pieces->size - pieces->readable_size,
	    .generation = queue->generation,
	    .head = head,
	};
	chain->writable = chain->readable + pieces->readable;
	chain->readable_gpa = (uint64_t *)(chain->readable + pieces->count);
	chain->writable_gpa = chain->readable_gpa + pieces->readable;
	memcpy(chain->readable, pieces->iov, iov_size);
	memcpy(chain->readable_gpa, pieces->gpa, gpa_size);
	return chain;
}

struct virtio_chain *virtqueue_pop(struct virtqueue *queue)
{
	struct virtio_chain *chain;
	struct pieces pieces;
	const char *why;
	uint16_t head;

	if (!is_usable(queue) || wait_for_more(queue) == 0)
		return NULL;
	if (queue->limited && queue->budget == 0) {
		virtio_continue(queue->virtio);
		return NULL;
	}
	if (queue->in_flight >= queue->size) {
		fail(queue, "more buffers are available than the queue has");
		return NULL;
	}
	head = load16(queue->available + RING_ENTRIES +
	              AVAILABLE_ENTRY * (size_t)(queue->next_available % queue->size));
	pieces.count = pieces.readable = 0;
	pieces.size = pieces.readable_size = 0;
	why = walk(queue, head, &pieces);
	if (why) {
		fail(queue, why);
		return NULL;
	}
	chain = make_chain(queue, head, &pieces);
	if (!chain)
		return NULL;
	queue->next_available++;
	queue->in_flight++;
	queue->budget -= queue->limited;
	return chain;
}

/* ---- giving it back ---- */

static bool is_current(const struct virtio_chain *chain)
{
	return chain->generation == chain->queue->generation;
}

void virtqueue_drop(struct virtio_chain *chain)
{
	if (is_current(chain))
		chain->queue->in_flight--;
	free(chain);
}

void virtqueue_unpop(struct virtio_chain *chain)
{
	if (is_current(chain))
		chain->queue->next_available--;
	virtqueue_drop(chain);
}

static void mark_written(const struct virtio_chain *chain, size_t written)
{
	for (unsigned i = 0; i < chain->writable_count && written; i++) {
		size_t size = chain->writable[i].iov_len < written ? chain->writable[i].iov_len : written;

		dma_written(chain->queue->virtio->machine, chain->writable_gpa[i], size);
		written -= size;
	}
}

void virtqueue_fill(struct virtio_chain *chain, size_t written)
{
	struct virtqueue *queue = chain->queue;
	uint32_t entry[2] = {chain->head, (uint32_t)written};
	size_t place;

	mark_written(chain, written); /* the stores have happened, whatever became of the queue */
	if (is_current(chain) && is_usable(queue)) {
		place = RING_ENTRIES +
		        USED_ENTRY * (size_t)((uint16_t)(queue->next_used + queue->filled) % queue->size);
		memcpy(queue->used + place, entry, sizeof(entry));
		dma_written(queue->virtio->machine, queue->used_gpa + place, sizeof(entry));
		queue->filled++;
	}
	virtqueue_drop(chain);
}

void virtqueue_flush(struct virtqueue *queue)
{
	if (queue->filled == 0 || !is_usable(queue))
		return;
	queue->next_used = (uint16_t)(queue->next_used + queue->filled);
	queue->filled = 0;
	store16(queue->used + RING_INDEX, queue->next_used);
	dma_written(queue->virtio->machine, queue->used_gpa + RING_INDEX, 2);
}

void virtqueue_push(struct virtio_chain *chain, size_t written)
{
	struct virtqueue *queue = chain->queue;

	virtqueue_fill(chain, written);
	virtqueue_flush(queue);
}

/* "Used Buffer Notification Suppression" */
static bool driver_wants_interrupt(struct virtqueue *queue)
{
	uint16_t old = queue->signalled_used, now = queue->next_used, event;
	bool valid = queue->signalled_valid;

	if (valid && old == now)
		return false;
	queue->signalled_used = now;
	queue->signalled_valid = true;
	__atomic_thread_fence(
	    __ATOMIC_SEQ_CST); /* the used index is out before the driver's wishes are read */
	if (!virtio_has(queue->virtio, VIRTIO_F_EVENT_IDX))
		return !(load16(queue->available + RING_FLAGS) & AVAILABLE_NO_INTERRUPT);
	event = load16(queue->available + available_size(queue) - 2);
	return !valid || (uint16_t)(now - event - 1) < (uint16_t)(now - old);
}

void virtqueue_notify(struct virtqueue *queue)
{
	if (is_usable(queue) && (queue->signalled_valid || queue->next_used) && driver_wants_interrupt(queue))
		virtio_interrupt(queue->virtio, queue->vector);
}

void virtqueue_reset(struct virtqueue *queue)
{
	*queue = (struct virtqueue){
	    .virtio = queue->virtio,
	    .index = queue->index,
	    .notified = queue->notified,
	    .size_max = queue->size_max,
	    .size = queue->size_max,
	    .vector = VIRTIO_NO_VECTOR,
	    .generation = queue->generation + 1,
	};
}

/* ---- what is in a chain ---- */

/* Copies between the pieces' bytes [offset, offset + size) and a buffer. */
static size_t copy(const struct iovec *iov, unsigned count, size_t offset, void *to, const void *from,
                   size_t size)
{
	size_t done = 0;

	for (unsigned i = 0; i < count && done < size; i++) {
		size_t room = iov[i].iov_len;
		uint8_t *host = iov[i].iov_base;

		if (offset >= room) {
			offset -= room;
			continue;
		}
		host += offset;
		room -= offset;
		offset = 0;
		room = room < size - done ? room : size - done;
		if (to)
			memcpy((uint8_t *)to + done, host, room);
		else
			memcpy(host, (const uint8_t *)from + done, room);
		done += room;
	}
	return done;
}

size_t virtio_chain_read(const struct virtio_chain *chain, size_t offset, void *to, size_t size)
{
	return copy(chain->readable, chain->readable_count, offset, to, NULL, size);
}

size_t virtio_chain_write(struct virtio_chain *chain, size_t offset, const void *from, size_t size)
{
	return copy(chain->writable, chain->writable_count, offset, NULL, from, size);
}

unsigned virtio_iov_slice(struct iovec *to, const struct iovec *from, unsigned from_count, size_t offset,
                          size_t size, size_t *got)
{
	unsigned count = 0;
	size_t done = 0;

	for (unsigned i = 0; i < from_count && done < size; i++) {
		size_t room = from[i].iov_len;

		if (offset >= room) {
			offset -= room;
			continue;
		}
		room -= offset;
		room = room < size - done ? room : size - done;
		to[count++] = (struct iovec){(uint8_t *)from[i].iov_base + offset, room};
		offset = 0;
		done += room;
	}
	if (got)
		*got = done;
	return count;
}

#include "device/virtio/virtqueue.h"

#include <stdlib.h>
#include <string.h>

#include "device/virtio/virtio.h"
#include "device/virtio/virtqueue_format.h"
#include "machine/dma.h"
#include "machine/machine.h"

/* ---- the rings ---- */

void virtqueue_fail(struct virtqueue *queue, const char *why)
{
	queue->broken = true;
	virtio_fail(queue->virtio, why);
}

static bool find_rings(struct virtqueue *queue)
{
	/* A legacy driver has no such feature, whatever it has written where modern ones negotiate. */
	bool packed = virtio_has(queue->virtio, VIRTIO_F_RING_PACKED) && !queue->virtio->legacy;
	const struct virtqueue_format *format = packed ? &virtqueue_packed : &virtqueue_split;
	const char *why = format->find(queue);

	if (why)
		virtqueue_fail(queue, why);
	else
		queue->format = format;
	return !why;
}

static bool is_usable(struct virtqueue *queue)
{
	if (!queue->enabled || queue->broken || !virtio_running(queue->virtio))
		return false;
	return queue->format || find_rings(queue);
}

/*
 * How many chains wait; where there is none, asks for a notification of the next one first and looks again, so that none
 * is missed. While there are some nobody need notify.
 */
static unsigned wait_for_more(struct virtqueue *queue)
{
	unsigned count = queue->format->waiting(queue);

	if (count || queue->quiet || queue->broken || !virtio_has(queue->virtio, VIRTIO_F_EVENT_IDX))
		return count;
	queue->format->ask(queue, true);
	__atomic_thread_fence(__ATOMIC_SEQ_CST);
	return queue->format->waiting(queue);
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
	queue->format->ask(queue, want);
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

const char *virtqueue_add_buffer(struct virtqueue *queue, struct pieces *pieces, uint64_t gpa, uint32_t size,
                                 bool writable)
{
	struct machine *machine = queue->virtio->machine;
	const char *why = NULL;
	uint8_t *host;

	if (!writable && pieces->size > pieces->readable_size)
		return "a readable buffer follows a writable one";
	if (size > UINT32_MAX - pieces->size)
		return "a chain has 4 GiB or more";
	if (size == 0)
		return NULL;
	host = dma_host(machine, gpa, size);
	if (host)
		why = add_piece(pieces, host, gpa, size);
	else
		why = add_pages(pieces, machine, gpa, size, writable);
	pieces->size += size;
	if (!writable) {
		pieces->readable = pieces->count;
		pieces->readable_size = pieces->size;
	}
	return why;
}

const uint8_t *virtqueue_indirect_table(struct virtqueue *queue, uint64_t gpa, uint32_t size, uint32_t *count,
                                        const char **why)
{
	const uint8_t *table = NULL;

	if (size == 0 || size % DESCRIPTOR_SIZE)
		*why = "a bad indirect descriptor";
	else if (!virtio_has(queue->virtio, VIRTIO_F_INDIRECT_DESC))
		*why = "an indirect descriptor that was not negotiated";
	else if (!(table = dma_host(queue->virtio->machine, gpa, size)))
		*why = "an indirect table is not in memory";
	*count = size / DESCRIPTOR_SIZE;
	return table;
}

static struct virtio_chain *make_chain(struct virtqueue *queue, const struct pieces *pieces)
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
	    .head = pieces->head,
	    .slots = pieces->slots,
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

	if (!is_usable(queue) || wait_for_more(queue) == 0)
		return NULL;
	if (queue->limited && queue->budget == 0) {
		virtio_continue(queue->virtio);
		return NULL;
	}
	pieces.count = pieces.readable = 0;
	pieces.size = pieces.readable_size = 0;
	why = queue->format->walk(queue, &pieces);
	if (!why && queue->in_flight + pieces.slots > queue->size)
		why = "more buffers are available than the queue has";
	if (why) {
		virtqueue_fail(queue, why);
		return NULL;
	}
	chain = make_chain(queue, &pieces);
	if (!chain)
		return NULL;
	queue->format->advance(queue, chain->slots);
	queue->in_flight += chain->slots;
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
		chain->queue->in_flight -= chain->slots;
	free(chain);
}

void virtqueue_unpop(struct virtio_chain *chain)
{
	if (is_current(chain))
		chain->queue->format->retreat(chain->queue, chain->slots);
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

	mark_written(chain, written); /* the stores have happened, whatever became of the queue */
	if (is_current(chain) && is_usable(queue))
		queue->format->fill(queue, chain, (uint32_t)written);
	virtqueue_drop(chain);
}

void virtqueue_flush(struct virtqueue *queue)
{
	if (queue->filled && is_usable(queue))
		queue->format->flush(queue);
}

void virtqueue_push(struct virtio_chain *chain, size_t written)
{
	struct virtqueue *queue = chain->queue;

	virtqueue_fill(chain, written);
	virtqueue_flush(queue);
}

void virtqueue_notify(struct virtqueue *queue)
{
	if (is_usable(queue) && queue->format->wants_interrupt(queue))
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

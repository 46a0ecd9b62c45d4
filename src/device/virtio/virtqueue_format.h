/*
 * What virtqueue.c asks of a queue's format: virtqueue_split.c or virtqueue_packed.c. All under the machine lock, and but
 * for find() with rings that are in memory.
 */
#ifndef NESTOR_DEVICE_VIRTQUEUE_FORMAT_H
#define NESTOR_DEVICE_VIRTQUEUE_FORMAT_H

#include "device/virtio/virtio.h"
#include "device/virtio/virtqueue.h"

#define DESCRIPTOR_SIZE     16
#define DESCRIPTOR_NEXT     1
#define DESCRIPTOR_WRITE    2
#define DESCRIPTOR_INDIRECT 4

/* What a chain is put together from; its memory is looked up as it grows. */
struct pieces {
	struct iovec iov[VIRTQUEUE_SIZE_MAX];
	uint64_t gpa[VIRTQUEUE_SIZE_MAX];
	unsigned count, readable;
	uint64_t size, readable_size;
	uint16_t head, slots; /* as in struct virtio_chain */
};

struct virtqueue_format {
	/* Looks the rings up. Returns NULL, or why they cannot be used. */
	const char *(*find)(struct virtqueue *queue);
	/* How many chains wait, or just whether one does. May break the queue (virtqueue_fail). */
	unsigned (*waiting)(struct virtqueue *queue);
	/* Tells the driver whether it is to notify of the next chain; with event indices, of that one alone. */
	void (*ask)(struct virtqueue *queue, bool want);
	/* Reads the next chain. Returns NULL, or what is wrong with it. */
	const char *(*walk)(struct virtqueue *queue, struct pieces *pieces);
	/* The next chain is so many slots further on, or back. */
	void (*advance)(struct virtqueue *queue, unsigned slots);
	void (*retreat)(struct virtqueue *queue, unsigned slots);
	/* Writes a used element behind the others that the driver must not see yet, and counts it (filled). */
	void (*fill)(struct virtqueue *queue, const struct virtio_chain *chain, uint32_t written);
	/* Shows them all. */
	void (*flush)(struct virtqueue *queue);
	/* Does the driver want an interrupt for what was flushed since the last call? */
	bool (*wants_interrupt)(struct virtqueue *queue);
};

extern const struct virtqueue_format virtqueue_split, virtqueue_packed;

/* The queue makes no sense: see virtqueue.h. */
void virtqueue_fail(struct virtqueue *queue, const char *why);

/* A buffer more. Returns NULL, or what is wrong with it. */
const char *virtqueue_add_buffer(struct virtqueue *queue, struct pieces *pieces, uint64_t gpa, uint32_t size,
                                 bool writable);

/* The host address of an indirect table, and the number of its descriptors; NULL with *why set. */
const uint8_t *virtqueue_indirect_table(struct virtqueue *queue, uint64_t gpa, uint32_t size, uint32_t *count,
                                        const char **why);

static inline uint16_t load16(const uint8_t *at)
{
	return __atomic_load_n((const uint16_t *)at, __ATOMIC_ACQUIRE);
}

static inline void store16(uint8_t *at, uint16_t value)
{
	__atomic_store_n((uint16_t *)at, value, __ATOMIC_RELEASE);
}

#endif

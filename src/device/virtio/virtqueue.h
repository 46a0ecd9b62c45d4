/*
 * Virtqueues, the device's side: chains of descriptors come out of a ring as host addresses of guest memory and go back
 * through it (packed queues) or another one (split queues). What stands in guest memory is trusted nowhere: a queue
 * whose contents make no sense is broken, its device asks for a reset (virtio_fail), and nothing is popped
 * any more. Everything runs under the machine lock; the memory of a chain may be read and written by any
 * thread between pop and push. Rules: Virtual I/O Device (VIRTIO) Version 1.2, "Split Virtqueues", "Packed
 * Virtqueues". The two formats have a file each (virtqueue_format.h).
 */
#ifndef NESTOR_DEVICE_VIRTQUEUE_H
#define NESTOR_DEVICE_VIRTQUEUE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

#define VIRTQUEUE_SIZE_MAX 1024

struct virtio_device;
struct virtqueue;

/* One buffer that the driver made available. Device-readable bytes come before device-writable ones. */
struct virtio_chain {
	struct virtqueue *queue;
	void *user;             /* the device's */
	struct iovec *readable; /* host memory that the driver filled; may change while it is read */
	struct iovec *writable; /* host memory for the answer */
	unsigned readable_count, writable_count;
	size_t readable_size, writable_size;   /* bytes in all; their sum is below 4 GiB */
	uint64_t *readable_gpa, *writable_gpa; /* where they are in the guest's memory, piece by piece */
	/* virtqueue.c's */
	uint32_t generation;
	uint16_t head;  /* what the driver knows it by: its first descriptor's number, or its buffer ID */
	uint16_t slots; /* of the packed ring, which it takes up; 1 in a split queue */
};

struct virtqueue_format;

struct virtqueue {
	struct virtio_device *virtio;
	unsigned index;
	/* The driver has made buffers available (or the device starts). Pops until there is none. Under lock.
	 */
	void (*notified)(void *device, struct virtqueue *queue);

	/* ---- virtqueue.c's and virtio's own ---- */
	const struct virtqueue_format *format; /* as negotiated, once the rings have been looked up; NULL: not yet */
	uint16_t size_max; /* a power of two */
	uint16_t size;     /* as the driver set it */
	bool enabled, broken;
	uint16_t vector; /* MSI-X */
	uint64_t descriptor_gpa, available_gpa, used_gpa; /* packed: the ring, the driver's and the device's event area */
	uint8_t *descriptor, *used; /* host */
	const uint8_t *available;
	uint16_t next_available, next_used; /* split: counters that run freely; packed: slots */
	union {
		struct {
			uint16_t signalled; /* next_used at the last look whether to interrupt */
			bool signalled_valid;
		} split;
		struct {
			bool available_wrapped, used_wrapped; /* the wrap counters of the next slots are 0 */
			unsigned unsignalled;                 /* slots used since the last look whether to interrupt */
			/*
			 * Of what is filled and not flushed: where the next one goes, and the first one's
			 * flags, still to come.
			 */
			uint16_t fill, first_flags;
			bool fill_wrapped;
		} packed;
	};
	bool quiet; /* the device wants no notifications */
	/* While notified() runs: how much more it may pop, so that a guest which goes on adding cannot keep
	 * it. */
	bool limited;
	unsigned budget;
	unsigned in_flight;  /* slots of the chains that were popped */
	unsigned filled;     /* slots of those that were filled and not flushed yet */
	uint32_t generation; /* counts resets: chains of an earlier one go nowhere */
};

/*
 * The next chain, or NULL where there is none (or the queue is not enabled, or broken). It is given back with
 * virtqueue_push or virtqueue_drop. Contents of size 0 are possible.
 */
struct virtio_chain *virtqueue_pop(struct virtqueue *queue);

/* Is there something to pop? */
bool virtqueue_has(struct virtqueue *queue);

/* Undoes the last pops, newest first: the chain will be popped again. Frees the chain. */
void virtqueue_unpop(struct virtio_chain *chain);

/*
 * Gives the chain back to the driver and frees it. written: bytes from the start of the writable part that
 * the device may have stored to. Nothing happens (but freeing) where the queue was reset meanwhile. The
 * driver is not interrupted before virtqueue_notify.
 */
void virtqueue_push(struct virtio_chain *chain, size_t written);

/*
 * The same in two steps, for answers that consist of several chains which the driver must see at once:
 * virtqueue_fill for each of them in order, then virtqueue_flush shows them all.
 */
void virtqueue_fill(struct virtio_chain *chain, size_t written);
void virtqueue_flush(struct virtqueue *queue);

/* Frees the chain without giving it back: for chains that outlive their queue. */
void virtqueue_drop(struct virtio_chain *chain);

/* Interrupts the driver for what was pushed since the last call, if it wants to know. */
void virtqueue_notify(struct virtqueue *queue);

/*
 * Asks the driver to notify (or not) of buffers to come. It is a hint. After switching on, look once more
 * with virtqueue_has.
 */
void virtqueue_want_notifications(struct virtqueue *queue, bool want);

/*
 * Copy from the chain's readable part, or into its writable part, from byte `offset` of it on. Return how
 * many bytes were copied: less than size where the part ends. [any thread]
 */
size_t virtio_chain_read(const struct virtio_chain *chain, size_t offset, void *to, size_t size);
size_t virtio_chain_write(struct virtio_chain *chain, size_t offset, const void *from, size_t size);

/*
 * The pieces of [offset, offset + size) of `from` (a chain's readable or writable array of from_count) into
 * `to`, which has room for from_count. Returns how many pieces; *got (may be NULL): bytes in them, less than
 * size where `from` ends.
 */
unsigned virtio_iov_slice(struct iovec *to, const struct iovec *from, unsigned from_count, size_t offset,
                          size_t size, size_t *got);

/* For virtio: to the state after a reset. */
void virtqueue_reset(struct virtqueue *queue);

#endif

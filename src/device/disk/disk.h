/*
 * One drive as every disk controller sees it: requests on guest memory, completed under the machine lock. Keeps
 * what controllers must not get wrong: no completion inside disk_submit, none after disk_reset, no late DMA
 * into memory that the guest has taken back, dma_written before the guest learns of the data, and under the
 * deterministic clock completion at a fixed virtual time in the order of submission.
 */
#ifndef NESTOR_DEVICE_DISK_H
#define NESTOR_DEVICE_DISK_H

#include <stdbool.h>
#include <stdint.h>

#include "block/block.h"
#include "machine/machine_config.h"

#define DISK_SERIAL_MAX 20 /* what ATA and virtio have room for */

struct disk;
struct machine;

/* A piece of guest-physical memory. */
struct disk_segment {
	uint64_t gpa;
	uint32_t size; /* bytes, may be 0 */
};

/* Part of a controller's own per-command state. */
struct disk_request {
	/* ---- the controller's: set before disk_submit, unchanged until completed() or disk_reset ---- */
	enum block_operation operation;
	uint64_t offset, size; /* bytes, multiples of BLOCK_SECTOR; no more than INT32_MAX for reads and writes */
	const struct disk_segment *segment; /* BLOCK_READ, BLOCK_WRITE: `size` bytes together, else -EINVAL */
	unsigned segment_count;
	bool durable, keep_room; /* as in struct block_request */
	/*
	 * result: 0 or a negative errno; -EFAULT: not all segments are memory that the transfer may use. Under the
	 * machine lock. May submit requests, also this one again. Data of a read is in guest memory.
	 */
	void (*completed)(struct disk_request *request, int result);
	void *context; /* for the controller */

	/* ---- disk.c's ---- */
	struct disk *disk;
	struct disk_request *next;
	struct block_request block;
	struct iovec *iov, inline_iov[8];
	void *bounce; /* where the transfer does not go to guest memory directly */
	int result;
	bool busy, io_done;
	uint64_t deadline; /* deterministic clock */
};

/*
 * Opens config's image (config is borrowed); a CD drive whose file is NULL is empty. Returns 0, or a negative errno with
 * error_text().
 */
int disk_create(struct disk **disk, struct machine *machine, const struct disk_config *config);
/* Waits for what is in flight. No lock held. NULL does nothing. */
void disk_destroy(struct disk *disk);

uint64_t disk_size(const struct disk *disk); /* bytes, a multiple of BLOCK_SECTOR; 0: no medium */
bool disk_read_only(const struct disk *disk);
/* As created, but for file and format, which are the present medium's; file is NULL without one. */
const struct disk_config *disk_config(const struct disk *disk);
/* The configured serial number, or one made from the drive's place on the command line ("NESTOR0000000003"). */
const char *disk_serial(const struct disk *disk);

/* What is in a drive, and can be taken out: an image that is open, to be read only. */
struct disk_medium {
	struct block *block;
	char *file, *format; /* format NULL: guessed */
};

/* Opens an image. No lock held. Returns 0, or a negative errno with error_text(). */
int disk_medium_open(struct disk_medium *medium, const char *file, const char *format);
void disk_medium_close(struct disk_medium *medium);
/* The medium into the drive, and what was in it into *medium; all zero: none. Nothing is in flight. Under lock. */
void disk_exchange(struct disk *disk, struct disk_medium *medium);

/* Starts *request, which must not be in flight; there is a medium. Under lock. */
void disk_submit(struct disk *disk, struct disk_request *request);
/* Requests whose completed() has not been called. Under lock. */
unsigned disk_in_flight(const struct disk *disk);

/*
 * Forgets all requests: none of their completed() is called any more, none touches guest memory any more, and
 * their structs are the controller's. Waits for the I/O of those that are under way. What they write may or may
 * not have been written. Under lock.
 */
void disk_reset(struct disk *disk);

#endif

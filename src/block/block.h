/*
 * Disk images: a file, block device or NBD server as an array of bytes with asynchronous requests. Every image
 * is written back: a write is safe from a host's crash once a flush that was submitted after the write's
 * completion has completed (or the write was `durable`). After a killed process nothing that completed is lost.
 *
 * Requests that are in flight together may be executed in any order.
 */
#ifndef NESTOR_BLOCK_BLOCK_H
#define NESTOR_BLOCK_BLOCK_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/uio.h>

#define BLOCK_SECTOR 512u

struct block;

struct block_config {
	const char *file;     /* a path, or nbd://…, nbds://… or nbd+unix://… */
	const char *format;   /* "raw", "qcow2", "vmdk", "vhdx" or "vdi"; NULL: by the file's first bytes */
	bool read_only;       /* writes fail with -EROFS */
	bool snapshot;        /* writes go to a temporary file and are gone after block_close */
	/* Gets a line for the user (without a newline) about what happens later, such as a lost server; on any
	 * thread. May be NULL. */
	void (*warn)(const char *text);
};

enum block_operation {
	BLOCK_READ,
	BLOCK_WRITE,
	BLOCK_FLUSH,        /* everything that has completed is on stable storage; no range */
	BLOCK_DISCARD,      /* advice: the range's content is not needed any more */
	BLOCK_WRITE_ZEROES, /* the range reads as zeros */
};

struct block_request {
	/* ---- the caller's: set before block_submit, unchanged until done() ---- */
	enum block_operation operation;
	uint64_t offset, size;   /* bytes, multiples of BLOCK_SECTOR */
	const struct iovec *iov; /* BLOCK_READ, BLOCK_WRITE: where from or to, `size` bytes together */
	unsigned iov_count;
	bool durable;   /* BLOCK_WRITE, BLOCK_WRITE_ZEROES: done when it is on stable storage (FUA) */
	bool keep_room; /* BLOCK_WRITE_ZEROES: make no holes */
	void *context;  /* for done() */
	/*
	 * result: 0 or a negative errno (-EIO, -ENOSPC …; then what a write's range holds is unknown). Runs on an
	 * I/O thread with no lock held, never from inside block_submit. The request is the caller's again.
	 */
	void (*done)(struct block_request *request, int result);

	/* ---- the block layer's ---- */
	struct block *block;
	struct block_request *next;
	uint64_t length; /* of `size`, the bytes that the image has */
	int result;
	bool settled; /* result is known; only done() is to be called */
};

/*
 * Opens an image: config's strings are not kept. Raw files and block devices are locked against others: one
 * writer, or any number of readers. Call it from a thread that lives as long as the image where a helper
 * process may be started. Returns 0, or a negative errno with error_text() that names the file.
 */
int block_open(struct block **block, const struct block_config *config);

/* Bytes: what the file has, rounded up to whole sectors. */
uint64_t block_size(const struct block *block);
bool block_read_only(const struct block *block);
/* "raw", "qcow2", …, "nbd". */
const char *block_format(const struct block *block);

/* Starts a request; an invalid one (range, alignment) completes with -EINVAL. [any thread, any lock] */
void block_submit(struct block *block, struct block_request *request);

/* Returns when every request submitted before has completed and its done() has returned. Not from done(). */
void block_drain(struct block *block);

/* What can be cut short ends soon with an error: requests to a server that does not answer. For good. [any] */
void block_cancel(struct block *block);

/* Drains, then closes and frees. NULL does nothing. */
void block_close(struct block *block);

#endif

/* Inside src/block/: what a kind of image offers block.c, and what block.c offers it. */
#ifndef NESTOR_BLOCK_DRIVER_H
#define NESTOR_BLOCK_DRIVER_H

#include <pthread.h>

#include "block/block.h"

#define BLOCK_THREADS_MAX 8

struct block_driver {
	/* Starts a valid request of at least one byte (or a flush); uses request->length, not size. The driver ends it
	 * with block_complete, from another thread. NULL: run() in an I/O thread. */
	void (*submit)(struct block *block, struct block_request *request);
	/* Executes a request in an I/O thread; returns its result. */
	int (*run)(struct block *block, struct block_request *request);
	void (*cancel)(struct block *block); /* may be NULL */
	void (*close)(struct block *block);  /* frees the driver's struct; nothing is in flight */
};

/* A driver's own struct begins with it. */
struct block {
	const struct block_driver *driver;
	char *file;         /* for messages */
	const char *format; /* static */
	uint64_t exact_size; /* bytes that the image really has */
	bool read_only;
	void (*warn)(const char *text);

	/* Threads of this image, started as requests pile up. */
	pthread_mutex_t lock; /* the fields below */
	pthread_cond_t work, idle;
	struct block_request *first, **last; /* waiting for a thread */
	pthread_t thread[BLOCK_THREADS_MAX];
	unsigned thread_count, thread_max, waiting; /* waiting: threads with nothing to do */
	unsigned in_flight;
	bool quit;
};

/* Initializes what block.c owns; starts the first thread. Returns 0, or a negative errno with error_text(). */
int block_init(struct block *block, const struct block_driver *driver, const struct block_config *config,
               const char *format, unsigned threads);
/* Undoes block_init: ends the threads. */
void block_fini(struct block *block);
/* Ends a request. Not from inside submit(). */
void block_complete(struct block_request *request, int result);
/* Has an I/O thread end it with that result; also from inside submit(). */
void block_settle(struct block_request *request, int result);
/* Formats a line and gives it to block->warn. */
void block_warn(struct block *block, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* Each opens its kind of image. format: static text. guessed: found out from the content. Return 0, or a negative
 * errno with error_text(). */
int raw_open(struct block **block, const struct block_config *config, bool guessed);
int nbd_open(struct block **block, const struct block_config *config); /* config->file is a URI */
int qemu_nbd_open(struct block **block, const struct block_config *config, const char *format);
/* Takes base over; it is closed with the overlay, or here where this fails. */
int overlay_open(struct block **block, struct block *base, const struct block_config *config);

/* An image over fd, which it owns from then on also where this fails; no locks. */
int raw_open_fd(struct block **block, const struct block_config *config, int fd, uint64_t size);

#define PROBE_SIZE 512
/* The format, "qcow2" …, that an image's first PROBE_SIZE bytes announce, or NULL: raw. */
const char *probe_format(const uint8_t head[PROBE_SIZE]);
/* The static name that equals `word`, or NULL where it is not known. */
const char *format_name(const char *word);

#endif

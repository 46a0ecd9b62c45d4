#include "block/block.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "block/driver.h"
#include "block/iov.h"
#include "util/error.h"
#include "util/thread.h"

/* ---- threads ---- */

/* Under lock. */
static struct block_request *take(struct block *block)
{
	struct block_request *request;

	while (!block->first && !block->quit) {
		block->waiting++;
		pthread_cond_wait(&block->work, &block->lock);
		block->waiting--;
	}
	request = block->first;
	if (request) {
		block->first = request->next;
		if (!block->first)
			block->last = &block->first;
	}
	return request;
}

static void *io_thread(void *argument)
{
	struct block *block = argument;
	struct block_request *request;

	pthread_setname_np(pthread_self(), "nestor-block");
	for (;;) {
		pthread_mutex_lock(&block->lock);
		request = take(block);
		pthread_mutex_unlock(&block->lock);
		if (!request)
			return NULL;
		if (!request->settled)
			request->result = block->driver->run(block, request);
		block_complete(request, request->result);
	}
}

/*
 * Under lock (or before anybody else knows the image). Signals are for other threads; SIGXFSZ must not kill anybody
 * where the user's limit on file sizes (ulimit -f) makes a write fail.
 */
static int start_thread(struct block *block)
{
	int error = thread_start(&block->thread[block->thread_count], io_thread, block);

	if (!error)
		block->thread_count++;
	return error;
}

/* Hands a request to a thread. A thread that cannot be started is no loss: there is at least one. */
static void enqueue(struct block *block, struct block_request *request)
{
	pthread_mutex_lock(&block->lock);
	request->next = NULL;
	*block->last = request;
	block->last = &request->next;
	if (!block->waiting && block->thread_count < block->thread_max)
		start_thread(block);
	pthread_cond_signal(&block->work);
	pthread_mutex_unlock(&block->lock);
}

int block_init(struct block *block, const struct block_driver *driver, const struct block_config *config,
               const char *format, unsigned threads)
{
	int error;

	block->driver = driver;
	block->format = format;
	block->read_only = config->read_only;
	block->warn = config->warn;
	block->thread_max = threads;
	block->last = &block->first;
	block->file = strdup(config->file);
	if (!block->file)
		return error_set(ENOMEM, "out of memory");
	pthread_mutex_init(&block->lock, NULL);
	pthread_cond_init(&block->work, NULL);
	pthread_cond_init(&block->idle, NULL);
	error = start_thread(block);
	if (error) {
		block_fini(block);
		return error_set(error, "%s: cannot start an I/O thread: %s", config->file, strerror(error));
	}
	return 0;
}

void block_fini(struct block *block)
{
	pthread_mutex_lock(&block->lock);
	block->quit = true;
	pthread_cond_broadcast(&block->work);
	pthread_mutex_unlock(&block->lock);
	for (unsigned i = 0; i < block->thread_count; i++)
		pthread_join(block->thread[i], NULL);
	pthread_mutex_destroy(&block->lock);
	pthread_cond_destroy(&block->work);
	pthread_cond_destroy(&block->idle);
	free(block->file);
}

/* ---- requests ---- */

/*
 * The last sector of a file whose size is no multiple of it: what the file does not have reads as zeros, and can be
 * written only with zeros.
 */
static int trim_to_file(struct block *block, struct block_request *request)
{
	static const uint8_t zeros[BLOCK_SECTOR];
	uint8_t tail[BLOCK_SECTOR];
	uint64_t excess;

	request->length = request->size;
	if (request->operation == BLOCK_FLUSH || request->offset + request->size <= block->exact_size)
		return 0;
	excess = request->offset + request->size - block->exact_size; /* less than a sector */
	request->length -= excess;
	if (request->operation == BLOCK_READ) {
		memset(tail, 0, sizeof(tail));
		iov_copy(IOV_SCATTER, request->iov, request->iov_count, request->length, tail, excess);
	} else if (request->operation == BLOCK_WRITE) {
		iov_copy(IOV_GATHER, request->iov, request->iov_count, request->length, tail, excess);
		if (memcmp(tail, zeros, excess))
			return -ENOSPC;
	}
	return 0;
}

static int check(struct block *block, struct block_request *request)
{
	uint64_t size = block_size(block);

	if (request->operation == BLOCK_FLUSH)
		return 0;
	if (block->read_only && request->operation != BLOCK_READ)
		return -EROFS;
	if (request->offset % BLOCK_SECTOR || request->size % BLOCK_SECTOR || request->offset > size ||
	    request->size > size - request->offset)
		return -EINVAL;
	if (request->operation <= BLOCK_WRITE && iov_size(request->iov, request->iov_count) < request->size)
		return -EINVAL;
	return trim_to_file(block, request);
}

void block_submit(struct block *block, struct block_request *request)
{
	int error;

	request->block = block;
	request->settled = false;
	pthread_mutex_lock(&block->lock);
	block->in_flight++;
	pthread_mutex_unlock(&block->lock);
	error = check(block, request);
	if (error || (request->operation != BLOCK_FLUSH && !request->length))
		block_settle(request, error);
	else if (block->driver->submit)
		block->driver->submit(block, request);
	else
		enqueue(block, request);
}

void block_settle(struct block_request *request, int result)
{
	request->result = result;
	request->settled = true;
	enqueue(request->block, request);
}

void block_complete(struct block_request *request, int result)
{
	struct block *block = request->block;

	request->done(request, result); /* *request may be gone */
	pthread_mutex_lock(&block->lock);
	if (--block->in_flight == 0)
		pthread_cond_broadcast(&block->idle);
	pthread_mutex_unlock(&block->lock);
}

void block_drain(struct block *block)
{
	pthread_mutex_lock(&block->lock);
	while (block->in_flight)
		pthread_cond_wait(&block->idle, &block->lock);
	pthread_mutex_unlock(&block->lock);
}

void block_cancel(struct block *block)
{
	if (block->driver->cancel)
		block->driver->cancel(block);
}

uint64_t block_size(const struct block *block)
{
	return (block->exact_size + BLOCK_SECTOR - 1) & ~(uint64_t)(BLOCK_SECTOR - 1);
}

bool block_read_only(const struct block *block)
{
	return block->read_only;
}

const char *block_format(const struct block *block)
{
	return block->format;
}

void block_warn(struct block *block, const char *format, ...)
{
	char text[512];
	va_list arguments;

	va_start(arguments, format);
	vsnprintf(text, sizeof(text), format, arguments);
	va_end(arguments);
	if (block->warn)
		block->warn(text);
}

/* ---- opening and closing ---- */

static bool is_uri(const char *file)
{
	static const char *const schemes[] = {"nbd://", "nbds://", "nbd+unix://", "nbds+unix://"};

	for (size_t i = 0; i < sizeof(schemes) / sizeof(schemes[0]); i++)
		if (!strncmp(file, schemes[i], strlen(schemes[i])))
			return true;
	return false;
}

/* The format that the file's content announces: "raw" where it announces nothing. */
static int probe(const char *file, const char **format)
{
	uint8_t head[PROBE_SIZE] = {0};
	int fd = open(file, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
	int error = 0;

	if (fd < 0)
		return error_set(errno, "cannot open %s: %s", file, strerror(errno));
	/* What cannot be read (a folder, a pipe) is raw.c's to name. */
	if (pread(fd, head, sizeof(head), 0) < 0)
		error = errno == EIO ? error_set(EIO, "cannot read %s: %s", file, strerror(errno)) : 0;
	close(fd);
	*format = probe_format(head);
	if (!*format)
		*format = "raw";
	return error;
}

static int open_image(struct block **block, const struct block_config *config)
{
	const char *format = NULL;
	int error;

	if (config->format) {
		format = format_name(config->format);
		if (!format)
			return error_set(EINVAL,
			                 "%s: format %s is not known; must be raw, qcow2, vmdk, vhdx or vdi",
			                 config->file, config->format);
	}
	if (is_uri(config->file)) {
		if (format && strcmp(format, "raw"))
			return error_set(EINVAL, "%s: what a server exports is raw; format=%s cannot be read through it",
					 config->file, format);
		return nbd_open(block, config);
	}
	if (!format) {
		error = probe(config->file, &format);
		if (error)
			return error;
	}
	if (!strcmp(format, "raw"))
		return raw_open(block, config, !config->format);
	return qemu_nbd_open(block, config, format);
}

int block_open(struct block **result, const struct block_config *config)
{
	struct block_config base = *config;
	struct block *block;
	int error;

	if (config->snapshot)
		base.read_only = true;
	error = open_image(&block, &base);
	if (error)
		return error;
	if (!block_size(block)) {
		block_close(block);
		return error_set(EINVAL, "%s is empty; a disk has at least one sector of %u bytes",
		                 config->file, BLOCK_SECTOR);
	}
	if (config->snapshot && !config->read_only)
		return overlay_open(result, block, config);
	*result = block;
	return 0;
}

void block_close(struct block *block)
{
	if (!block)
		return;
	block_drain(block);
	block->driver->close(block);
}

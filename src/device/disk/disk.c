/*
 * Under the real clock a request's I/O runs at once. Its end comes on an I/O thread, which puts it on a list and, if
 * nobody holds the machine lock, serves the list itself. Otherwise the drive's own thread waits for the lock: an I/O
 * thread must never do so, because disk_reset waits with the lock held for the other requests that it has to serve.
 *
 * Under the deterministic clock a request waits in a queue until its virtual time has come; then its I/O is done while
 * the vCPU stands still.
 */
#include "device/disk/disk.h"

#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "device/serial/terminal.h"
#include "machine/dma.h"
#include "machine/machine.h"
#include "util/error.h"
#include "util/thread.h"

#define LATENCY_NS       100000u /* of every request under the deterministic clock */
#define RESET_PATIENCE_S 5       /* then what does not answer is given up */
#define BOUNCE_MAX       (64u << 20) /* bytes of all requests of a drive together; few guests need any */

struct request_list {
	struct disk_request *first, **last;
};

struct disk {
	struct machine *machine;
	struct block *block;
	struct disk_config config;
	char *file, *format; /* owned: config's, once the medium has been exchanged */
	char serial[DISK_SERIAL_MAX + 1];

	/* Under the machine lock. */
	unsigned in_flight;
	uint64_t bounced; /* bytes that requests in flight hold beside guest memory */
	bool deterministic;
	struct machine_timer timer;
	struct request_list queue; /* deterministic: waiting for their time */

	pthread_mutex_t lock; /* inside the machine lock; the fields below */
	pthread_cond_t io_ended, work;
	struct request_list ended; /* their I/O has ended, completed() has not been called */
	unsigned in_io;
	bool quit;

	pthread_t thread;
	bool started;
};

static void list_clear(struct request_list *list)
{
	list->first = NULL;
	list->last = &list->first;
}

static void list_add(struct request_list *list, struct disk_request *request)
{
	request->next = NULL;
	*list->last = request;
	list->last = &request->next;
}

static struct disk_request *list_take(struct request_list *list)
{
	struct disk_request *request = list->first;

	if (request) {
		list->first = request->next;
		if (!list->first)
			list->last = &list->first;
	}
	return request;
}

/* ---- guest memory ---- */

/* Maps the segments; false where one of them is no plain memory, and the data has to be copied. */
static bool map_segments(struct disk_request *request)
{
	struct machine *machine = request->disk->machine;
	unsigned used = 0;

	for (unsigned i = 0; i < request->segment_count; i++) {
		const struct disk_segment *segment = &request->segment[i];
		void *host;

		if (!segment->size)
			continue;
		host = dma_host(machine, segment->gpa, segment->size);
		if (!host)
			return false;
		request->iov[used++] = (struct iovec){host, segment->size};
	}
	request->block.iov_count = used;
	return true;
}

/* The data passes through a buffer; a write's is fetched now. */
static int use_bounce(struct disk_request *request)
{
	struct disk *disk = request->disk;
	uint8_t *at = NULL;

	if (request->size <= BOUNCE_MAX - disk->bounced)
		at = request->bounce = malloc(request->size ? request->size : 1);
	if (!at)
		return -ENOMEM;
	disk->bounced += request->size;
	for (unsigned i = 0; i < request->segment_count && request->operation == BLOCK_WRITE; i++) {
		const struct disk_segment *segment = &request->segment[i];

		if (dma_read(request->disk->machine, segment->gpa, at, segment->size))
			return -EFAULT;
		at += segment->size;
	}
	request->iov[0] = (struct iovec){request->bounce, request->size};
	request->block.iov_count = 1;
	return 0;
}

static int prepare_memory(struct disk_request *request)
{
	uint64_t size = 0;

	for (unsigned i = 0; i < request->segment_count; i++)
		size += request->segment[i].size;
	if (size != request->size || size > INT32_MAX)
		return -EINVAL;
	request->iov = request->inline_iov;
	if (request->segment_count > sizeof(request->inline_iov) / sizeof(request->inline_iov[0]))
		request->iov = malloc(request->segment_count * sizeof(request->iov[0]));
	if (!request->iov) {
		request->iov = request->inline_iov;
		return -ENOMEM;
	}
	request->block.iov = request->iov;
	return map_segments(request) ? 0 : use_bounce(request);
}

/* The guest learns of it by its own controller's means; who looks at the machine from outside, by this. */
static void report_error(const struct disk *disk, int result)
{
	char text[96];

	snprintf(text, sizeof(text), "%.60s: %s", disk->config.file, strerror(-result));
	machine_notify(disk->machine, MACHINE_EVENT_BLOCK_ERROR, text);
}

/* After a read: the data is where it belongs, and translated code of those pages is known to be old. */
static int deliver_data(struct disk_request *request, int result)
{
	const uint8_t *from = request->bounce;

	for (unsigned i = 0; i < request->segment_count; i++) {
		const struct disk_segment *segment = &request->segment[i];

		if (!request->bounce) {
			dma_written(request->disk->machine, segment->gpa, segment->size);
		} else if (!result) {
			if (dma_write(request->disk->machine, segment->gpa, from, segment->size))
				return -EFAULT;
			from += segment->size;
		}
	}
	return result;
}

static void release_memory(struct disk_request *request)
{
	if (request->iov && request->iov != request->inline_iov)
		free(request->iov);
	if (request->bounce)
		request->disk->bounced -= request->size;
	free(request->bounce);
	request->iov = NULL;
	request->bounce = NULL;
}

/* ---- completion ---- */

static void forget(struct disk_request *request)
{
	release_memory(request);
	request->busy = false;
	request->disk->in_flight--;
}

/* Under the machine lock. */
static void complete(struct disk_request *request)
{
	int result = request->result;

	/* Also a read that failed may have stored something. */
	if (request->operation == BLOCK_READ && request->iov)
		result = deliver_data(request, result);
	forget(request);
	if (result && result != -EFAULT && result != -EINVAL)
		report_error(request->disk, result);
	request->completed(request, result); /* may submit it again */
}

/* Calls completed() of all whose I/O has ended. Under the machine lock. */
static void serve_ended(struct disk *disk)
{
	struct disk_request *request;

	for (;;) {
		pthread_mutex_lock(&disk->lock);
		request = list_take(&disk->ended);
		pthread_mutex_unlock(&disk->lock);
		if (!request)
			return;
		complete(request);
	}
}

/* On an I/O thread. */
static void io_done(struct block_request *block_request, int result)
{
	struct disk_request *request = block_request->context;
	struct disk *disk = request->disk;
	struct machine *machine = disk->machine;

	pthread_mutex_lock(&disk->lock);
	if (!request->result)
		request->result = result;
	request->io_done = true;
	if (!disk->deterministic)
		list_add(&disk->ended, request);
	disk->in_io--;
	pthread_cond_broadcast(&disk->io_ended);
	pthread_mutex_unlock(&disk->lock);
	if (disk->deterministic)
		return;
	if (machine_trylock(machine)) {
		serve_ended(disk);
		machine_unlock(machine);
		return;
	}
	pthread_mutex_lock(&disk->lock);
	pthread_cond_signal(&disk->work);
	pthread_mutex_unlock(&disk->lock);
}

static void *disk_thread(void *argument)
{
	struct disk *disk = argument;

	pthread_setname_np(pthread_self(), "nestor-disk");
	pthread_mutex_lock(&disk->lock);
	while (!disk->quit) {
		if (!disk->ended.first) {
			pthread_cond_wait(&disk->work, &disk->lock);
			continue;
		}
		pthread_mutex_unlock(&disk->lock);
		machine_lock(disk->machine);
		serve_ended(disk);
		machine_unlock(disk->machine);
		pthread_mutex_lock(&disk->lock);
	}
	pthread_mutex_unlock(&disk->lock);
	return NULL;
}

/* ---- submission ---- */

static void start_io(struct disk_request *request)
{
	struct disk *disk = request->disk;
	struct block_request *block = &request->block;

	*block = (struct block_request){.operation = request->operation, .offset = request->offset, .size = request->size,
		.durable = request->durable, .keep_room = request->keep_room, .done = io_done, .context = request};
	request->result = 0;
	request->io_done = false;
	if (request->operation <= BLOCK_WRITE)
		request->result = prepare_memory(request);
	if (request->result) { /* nothing to do but to complete */
		release_memory(request);
		block->operation = BLOCK_READ;
		block->offset = block->size = 0;
		block->iov_count = 0;
	}
	pthread_mutex_lock(&disk->lock);
	disk->in_io++;
	pthread_mutex_unlock(&disk->lock);
	block_submit(disk->block, block);
}

static void wait_for_io(struct disk *disk, const struct disk_request *request)
{
	pthread_mutex_lock(&disk->lock);
	while (!request->io_done)
		pthread_cond_wait(&disk->io_ended, &disk->lock);
	pthread_mutex_unlock(&disk->lock);
}

/* Deterministic: does the I/O of the requests whose time has come. What those submit waits for a later time. */
static void time_has_come(void *context)
{
	struct disk *disk = context;
	uint64_t now = machine_now(disk->machine);

	while (disk->queue.first && disk->queue.first->deadline <= now) {
		struct disk_request *request = list_take(&disk->queue);

		start_io(request);
		wait_for_io(disk, request);
		complete(request);
	}
	if (disk->queue.first)
		timer_arm(&disk->timer, disk->queue.first->deadline);
}

void disk_submit(struct disk *disk, struct disk_request *request)
{
	request->disk = disk;
	request->busy = true;
	request->iov = NULL;
	request->bounce = NULL;
	disk->in_flight++;
	if (!disk->deterministic) {
		start_io(request);
		return;
	}
	request->deadline = machine_now(disk->machine) + LATENCY_NS;
	list_add(&disk->queue, request);
	if (disk->queue.first == request)
		timer_arm(&disk->timer, request->deadline);
}

unsigned disk_in_flight(const struct disk *disk)
{
	return disk->in_flight;
}

void disk_reset(struct disk *disk)
{
	struct disk_request *request;
	struct timespec until;
	bool cancelled = false;

	while ((request = list_take(&disk->queue)))
		forget(request);
	if (disk->deterministic)
		timer_cancel(&disk->timer);
	clock_gettime(CLOCK_REALTIME, &until);
	until.tv_sec += RESET_PATIENCE_S;
	pthread_mutex_lock(&disk->lock);
	while (disk->in_io) {
		if (cancelled)
			pthread_cond_wait(&disk->io_ended, &disk->lock);
		else if (pthread_cond_timedwait(&disk->io_ended, &disk->lock, &until) == ETIMEDOUT) {
			block_cancel(disk->block);
			cancelled = true;
		}
	}
	while ((request = list_take(&disk->ended))) {
		if (request->operation == BLOCK_READ && !request->bounce && request->iov)
			deliver_data(request, 0);
		forget(request);
	}
	pthread_mutex_unlock(&disk->lock);
}

/* ---- creation ---- */

static void warn(const char *text)
{
	fprintf(stderr, "nestor: %s%s", text, terminal_newline());
}

static int start_thread(struct disk *disk)
{
	int error = thread_start(&disk->thread, disk_thread, disk);

	if (error)
		return error_set(error, "%s: cannot start a thread: %s", disk->config.file, strerror(error));
	disk->started = true;
	return 0;
}

static void make_serial(struct disk *disk, const struct disk_config *config)
{
	const struct machine *machine = disk->machine;
	unsigned short place = 0;

	if (config >= machine->config.disk && config < machine->config.disk + MACHINE_DISKS)
		place = (unsigned short)(config - machine->config.disk);
	if (config->serial)
		snprintf(disk->serial, sizeof(disk->serial), "%s", config->serial);
	else
		snprintf(disk->serial, sizeof(disk->serial), "NESTOR%010hu", place);
}

int disk_create(struct disk **result, struct machine *machine, const struct disk_config *config)
{
	struct block_config image = {.file = config->file, .format = config->format, .snapshot = config->snapshot,
		.read_only = config->read_only, .warn = warn};
	struct disk *disk = calloc(1, sizeof(*disk));
	int error;

	if (!disk)
		return error_set(ENOMEM, "out of memory");
	disk->machine = machine;
	disk->config = *config;
	disk->deterministic = machine->config.clock == ENGINE_CLOCK_DETERMINISTIC;
	list_clear(&disk->queue);
	list_clear(&disk->ended);
	make_serial(disk, config);
	pthread_mutex_init(&disk->lock, NULL);
	pthread_cond_init(&disk->io_ended, NULL);
	pthread_cond_init(&disk->work, NULL);
	error = config->file ? block_open(&disk->block, &image) : 0;
	if (!error && disk->deterministic)
		error = timer_init(&disk->timer, &machine->timers, time_has_come, disk);
	else if (!error)
		error = start_thread(disk);
	if (error) {
		block_close(disk->block);
		free(disk);
		return error;
	}
	*result = disk;
	return 0;
}

void disk_destroy(struct disk *disk)
{
	if (!disk)
		return;
	machine_lock(disk->machine);
	disk_reset(disk);
	machine_unlock(disk->machine);
	block_close(disk->block);
	free(disk->file);
	free(disk->format);
	pthread_mutex_lock(&disk->lock);
	disk->quit = true;
	pthread_cond_signal(&disk->work);
	pthread_mutex_unlock(&disk->lock);
	if (disk->started)
		pthread_join(disk->thread, NULL);
	pthread_mutex_destroy(&disk->lock);
	pthread_cond_destroy(&disk->io_ended);
	pthread_cond_destroy(&disk->work);
	free(disk);
}

uint64_t disk_size(const struct disk *disk)
{
	return disk->block ? block_size(disk->block) : 0;
}

bool disk_read_only(const struct disk *disk)
{
	return !disk->block || block_read_only(disk->block);
}

const struct disk_config *disk_config(const struct disk *disk)
{
	return &disk->config;
}

const char *disk_serial(const struct disk *disk)
{
	return disk->serial;
}

/* ---- media ---- */

int disk_medium_open(struct disk_medium *medium, const char *file, const char *format)
{
	const struct block_config image = {.file = file, .format = format, .read_only = true, .warn = warn};
	int error;

	*medium = (struct disk_medium){.file = strdup(file), .format = format ? strdup(format) : NULL};
	if (!medium->file || (format && !medium->format))
		error = error_set(ENOMEM, "out of memory");
	else
		error = block_open(&medium->block, &image);
	if (error)
		disk_medium_close(medium);
	return error;
}

void disk_medium_close(struct disk_medium *medium)
{
	block_close(medium->block);
	free(medium->file);
	free(medium->format);
	*medium = (struct disk_medium){0};
}

void disk_exchange(struct disk *disk, struct disk_medium *medium)
{
	struct disk_medium old = {disk->block, disk->file, disk->format};

	disk->block = medium->block;
	disk->config.file = disk->file = medium->file;
	disk->config.format = disk->format = medium->format;
	*medium = old;
}

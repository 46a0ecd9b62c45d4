/*
 * Images behind an NBD server, by libnbd's asynchronous calls. One thread owns the connection: it takes requests from
 * a queue, cuts them into commands of a moderate size, and polls the socket. A server that is gone fails all its
 * requests from then on: what it had not yet flushed may be lost, so that going on with a new one would be wrong.
 */
#include "block/nbd.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "block/driver.h"
#include "block/iov.h"
#include "util/error.h"
#include "util/thread.h"

#ifdef NESTOR_HAVE_LIBNBD

#include <libnbd.h>

#define CHUNK_DATA  (1u << 20) /* bytes of one read or write command */
#define CHUNK_RANGE (1u << 30) /* of one trim or zero command */
#define PATIENCE_MS 30000      /* for a server to answer at the start */

struct nbd;

/* A request on its way: commands one after another until all of it is done. */
struct nbd_job {
	struct nbd *nbd;
	struct block_request *request;
	uint64_t done, chunk; /* bytes; of the command under way */
	bool flushing;        /* the last command: durable without FUA */
	int result;
	void *bounce; /* where the chunk is not one piece of the caller's buffers */
	struct nbd_job *next;
};

struct nbd {
	struct block block;
	struct nbd_handle *handle;
	struct nbd_server server;
	bool can_trim, can_zero, can_flush, can_fua;
	uint64_t chunk_data;
	pthread_t thread;
	bool started;
	int wake; /* an eventfd */

	pthread_mutex_t queue_lock; /* the fields below */
	struct block_request *first, **last;
	bool quit, cancelled;

	/* The thread's own. */
	struct nbd_job *ready; /* their command has ended */
	bool dead;
	char said[256]; /* of the server, up to the next newline */
	size_t said_size;
};

/* ---- commands ---- */

static void tell_lost(struct nbd *nbd)
{
	if (!nbd->dead)
		block_warn(&nbd->block,
		           "%s: the connection to the %s server is lost; all requests fail from now on",
		           nbd->block.file, nbd->server.pid ? "qemu-nbd" : "NBD");
	nbd->dead = true;
}

static int command_ended(void *context, int *error)
{
	struct nbd_job *job = context;

	job->result = *error == ENOSPC ? -ENOSPC : *error ? -EIO : 0;
	job->next = job->nbd->ready;
	job->nbd->ready = job;
	return 1; /* retire it */
}

static void finish(struct nbd_job *job, int result)
{
	struct block_request *request = job->request;

	free(job->bounce);
	free(job);
	block_complete(request, result);
}

/* One piece of memory with the next chunk of the request's data, or NULL where there is no memory for it. */
static void *chunk_buffer(struct nbd_job *job, uint64_t *size)
{
	struct block_request *request = job->request;
	uint64_t taken;
	struct iovec piece;

	if (*size > job->nbd->chunk_data)
		*size = job->nbd->chunk_data;
	if (iov_slice(request->iov, request->iov_count, job->done, *size, &piece, 1, &taken) &&
	    taken == *size) {
		free(job->bounce);
		job->bounce = NULL;
		return piece.iov_base;
	}
	if (!job->bounce)
		job->bounce = malloc(job->nbd->chunk_data);
	if (job->bounce && request->operation == BLOCK_WRITE)
		iov_copy(IOV_GATHER, request->iov, request->iov_count, job->done, job->bounce, *size);
	return job->bounce;
}

static int64_t issue_data(struct nbd_job *job, uint64_t size, nbd_completion_callback ended, uint32_t fua)
{
	struct block_request *request = job->request;
	uint64_t offset = request->offset + job->done;
	void *buffer = chunk_buffer(job, &size);

	if (!buffer)
		return -1;
	job->chunk = size;
	if (request->operation == BLOCK_READ)
		return nbd_aio_pread(job->nbd->handle, buffer, size, offset, ended, 0);
	return nbd_aio_pwrite(job->nbd->handle, buffer, size, offset, ended, fua);
}

static int64_t issue_range(struct nbd_job *job, uint64_t size, nbd_completion_callback ended, uint32_t fua)
{
	struct block_request *request = job->request;
	uint64_t offset = request->offset + job->done;

	job->chunk = size < CHUNK_RANGE ? size : CHUNK_RANGE;
	if (request->operation == BLOCK_DISCARD)
		return nbd_aio_trim(job->nbd->handle, job->chunk, offset, ended, 0);
	return nbd_aio_zero(job->nbd->handle, job->chunk, offset, ended,
	                    fua | (request->keep_room ? LIBNBD_CMD_FLAG_NO_HOLE : 0));
}

/* A server that cannot write zeros by itself gets them. */
static int64_t issue_zeros(struct nbd_job *job, uint64_t size, nbd_completion_callback ended, uint32_t fua)
{
	if (!job->bounce)
		job->bounce = calloc(1, job->nbd->chunk_data);
	if (!job->bounce)
		return -1;
	job->chunk = size < job->nbd->chunk_data ? size : job->nbd->chunk_data;
	return nbd_aio_pwrite(job->nbd->handle, job->bounce, job->chunk, job->request->offset + job->done,
	                      ended, fua);
}

/* Issues the job's next command, or finishes it. */
static void go_on(struct nbd_job *job)
{
	struct nbd *nbd = job->nbd;
	struct block_request *request = job->request;
	nbd_completion_callback ended = {.callback = command_ended, .user_data = job};
	uint64_t left = request->operation == BLOCK_FLUSH ? 0 : request->length - job->done;
	uint32_t fua = request->durable && nbd->can_fua ? LIBNBD_CMD_FLAG_FUA : 0;
	int64_t issued;

	if (nbd->dead || job->result) {
		finish(job, nbd->dead ? -EIO : job->result);
		return;
	}
	if (!left && !job->flushing && nbd->can_flush &&
	    (request->operation == BLOCK_FLUSH || (request->durable && !nbd->can_fua))) {
		job->flushing = true;
		job->chunk = 0;
		issued = nbd_aio_flush(nbd->handle, ended, 0);
	} else if (!left || (request->operation == BLOCK_DISCARD && !nbd->can_trim)) {
		finish(job, 0);
		return;
	} else if (request->operation <= BLOCK_WRITE) {
		issued = issue_data(job, left, ended, fua);
	} else if (request->operation == BLOCK_WRITE_ZEROES && !nbd->can_zero) {
		issued = issue_zeros(job, left, ended, fua);
	} else {
		issued = issue_range(job, left, ended, fua);
	}
	if (issued < 0)
		finish(job, -EIO);
}

static void command_done(struct nbd_job *job)
{
	struct block_request *request = job->request;

	if (!job->result && job->bounce && request->operation == BLOCK_READ)
		iov_copy(IOV_SCATTER, request->iov, request->iov_count, job->done, job->bounce, job->chunk);
	if (!job->result)
		job->done += job->chunk;
	go_on(job);
}

/* ---- the thread ---- */

static struct block_request *take_all(struct nbd *nbd, bool *quit, bool *cancelled)
{
	struct block_request *list;

	pthread_mutex_lock(&nbd->queue_lock);
	list = nbd->first;
	nbd->first = NULL;
	nbd->last = &nbd->first;
	*quit = nbd->quit;
	*cancelled = nbd->cancelled;
	pthread_mutex_unlock(&nbd->queue_lock);
	return list;
}

static void start_all(struct nbd *nbd, struct block_request *request)
{
	for (struct block_request *next; request; request = next) {
		struct nbd_job *job = calloc(1, sizeof(*job));

		next = request->next;
		if (!job) {
			block_complete(request, -ENOMEM);
			continue;
		}
		job->nbd = nbd;
		job->request = request;
		go_on(job);
	}
}

/* Passes on what the server says, line by line. */
static void hear_server(struct nbd *nbd)
{
	char *newline;
	ssize_t got = read(nbd->server.errors, nbd->said + nbd->said_size, sizeof(nbd->said) - 1 - nbd->said_size);

	if (got <= 0) {
		close(nbd->server.errors);
		nbd->server.errors = -1;
		return;
	}
	nbd->said_size += (size_t)got;
	nbd->said[nbd->said_size] = '\0';
	while ((newline = strchr(nbd->said, '\n')) || nbd->said_size == sizeof(nbd->said) - 1) {
		size_t length = newline ? (size_t)(newline - nbd->said) + 1 : nbd->said_size;

		if (newline)
			*newline = '\0';
		block_warn(&nbd->block, "%s: %s", nbd->block.file, nbd->said);
		nbd->said_size -= length;
		memmove(nbd->said, nbd->said + length, nbd->said_size + 1);
	}
}

/* Waits for the server, for new requests, or for what the helper says, and lets libnbd work. */
static void wait_and_notify(struct nbd *nbd)
{
	unsigned direction = nbd->dead ? 0 : nbd_aio_get_direction(nbd->handle);
	struct pollfd fd[3] = {
		{.fd = nbd->wake, .events = POLLIN},
		{.fd = nbd->server.pid ? nbd->server.errors : -1, .events = POLLIN},
		{.fd = nbd->dead ? -1 : nbd_aio_get_fd(nbd->handle)},
	};
	uint64_t ignored;
	int failed = 0;

	if (direction & LIBNBD_AIO_DIRECTION_READ)
		fd[2].events |= POLLIN;
	if (direction & LIBNBD_AIO_DIRECTION_WRITE)
		fd[2].events |= POLLOUT;
	if (poll(fd, 3, -1) < 0)
		return;
	if (fd[0].revents && read(nbd->wake, &ignored, sizeof(ignored)) < 0)
		return;
	if (fd[1].revents)
		hear_server(nbd);
	if (fd[2].revents & (POLLIN | POLLHUP) && direction & LIBNBD_AIO_DIRECTION_READ)
		failed = nbd_aio_notify_read(nbd->handle);
	else if (fd[2].revents & POLLOUT && direction & LIBNBD_AIO_DIRECTION_WRITE)
		failed = nbd_aio_notify_write(nbd->handle);
	else if (fd[2].revents)
		failed = -1;
	if (!nbd->dead && (failed || nbd_aio_is_dead(nbd->handle) || nbd_aio_is_closed(nbd->handle)))
		tell_lost(nbd);
}

static void *nbd_thread(void *argument)
{
	struct nbd *nbd = argument;

	pthread_setname_np(pthread_self(), "nestor-nbd");
	for (;;) {
		bool quit, cancelled;
		struct block_request *list = take_all(nbd, &quit, &cancelled);

		if (quit)
			return NULL;
		if (cancelled && !nbd->dead)
			shutdown(nbd_aio_get_fd(nbd->handle), SHUT_RDWR); /* libnbd then ends all commands */
		start_all(nbd, list);
		while (nbd->ready) {
			struct nbd_job *job = nbd->ready;

			nbd->ready = job->next;
			command_done(job);
		}
		wait_and_notify(nbd);
	}
}

static void wake_thread(struct nbd *nbd)
{
	uint64_t one = 1;
	ssize_t written = write(nbd->wake, &one, sizeof(one));

	(void)written; /* a full counter wakes as well */
}

static void nbd_submit(struct block *block, struct block_request *request)
{
	struct nbd *nbd = (struct nbd *)block;

	pthread_mutex_lock(&nbd->queue_lock);
	request->next = NULL;
	*nbd->last = request;
	nbd->last = &request->next;
	pthread_mutex_unlock(&nbd->queue_lock);
	wake_thread(nbd);
}

static int nbd_run(struct block *block, struct block_request *request)
{
	return -EINVAL; /* only settled requests come to block.c's threads */
}

static void nbd_cancel(struct block *block)
{
	struct nbd *nbd = (struct nbd *)block;

	pthread_mutex_lock(&nbd->queue_lock);
	nbd->cancelled = true;
	pthread_mutex_unlock(&nbd->queue_lock);
	wake_thread(nbd);
}

static void nbd_close_block(struct block *block)
{
	struct nbd *nbd = (struct nbd *)block;

	if (nbd->started) {
		pthread_mutex_lock(&nbd->queue_lock);
		nbd->quit = true;
		pthread_mutex_unlock(&nbd->queue_lock);
		wake_thread(nbd);
		pthread_join(nbd->thread, NULL);
		if (!nbd->dead)
			nbd_shutdown(nbd->handle, 0);
	}
	nbd_close(nbd->handle);
	nbd_server_end(&nbd->server);
	if (nbd->wake >= 0)
		close(nbd->wake);
	pthread_mutex_destroy(&nbd->queue_lock);
	block_fini(block);
	free(nbd);
}

static const struct block_driver nbd_driver = {nbd_submit, nbd_run, nbd_cancel, nbd_close_block};

/* ---- opening ---- */

static uint64_t now_ms(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
}

/* Runs the handshake to its end. Returns 0; -1: see nbd_get_error(), or -ETIMEDOUT. */
static int shake_hands(struct nbd_handle *handle)
{
	uint64_t until = now_ms() + PATIENCE_MS;

	while (!nbd_aio_is_ready(handle)) {
		uint64_t now = now_ms();

		if (nbd_aio_is_dead(handle) || nbd_aio_is_closed(handle))
			return -1;
		if (now >= until)
			return -ETIMEDOUT;
		if (nbd_poll(handle, (int)(until - now)) < 0)
			return -1;
	}
	return 0;
}

/* libnbd's messages begin with the function's name. */
static const char *library_error(void)
{
	const char *text = nbd_get_error(), *colon;

	if (!text)
		return "unknown error";
	colon = strncmp(text, "nbd_", 4) ? NULL : strstr(text, ": ");
	return colon ? colon + 2 : text;
}

static int connect_error(struct nbd *nbd, int failure)
{
	char complaint[400] = "";

	if (failure == -ETIMEDOUT)
		return error_set(ETIMEDOUT, "%s: the %s server does not answer", nbd->block.file,
				 nbd->server.pid ? "qemu-nbd" : "NBD");
	if (nbd->server.pid)
		nbd_server_complaint(&nbd->server, complaint, sizeof(complaint));
	if (*complaint)
		return error_set(EIO, "cannot open %s as %s: %s", nbd->block.file, nbd->block.format,
		                 complaint);
	return error_set(EIO, "cannot open %s: %s", nbd->block.file, library_error());
}

/* What the server can do, and whether that is enough. */
static int examine(struct nbd *nbd)
{
	int64_t size = nbd_get_size(nbd->handle);
	int64_t smallest = nbd_get_block_size(nbd->handle, LIBNBD_SIZE_MINIMUM);
	int64_t largest = nbd_get_block_size(nbd->handle, LIBNBD_SIZE_MAXIMUM);

	if (size < 0)
		return error_set(EIO, "%s: no size: %s", nbd->block.file, library_error());
	if (smallest > (int64_t)BLOCK_SECTOR)
		return error_set(ENOTSUP,
		                 "%s: the server takes no requests shorter than %lld bytes; a disk needs %u",
		                 nbd->block.file, (long long)smallest, BLOCK_SECTOR);
	if (!nbd->block.read_only && nbd_is_read_only(nbd->handle) != 0)
		return error_set(EROFS, "%s: the server allows reading only; give readonly or snapshot",
		                 nbd->block.file);
	nbd->chunk_data = largest >= (int64_t)BLOCK_SECTOR && largest < (int64_t)CHUNK_DATA
			      ? (uint64_t)largest & ~(uint64_t)(BLOCK_SECTOR - 1)
			      : CHUNK_DATA;
	nbd->block.exact_size = (uint64_t)size;
	nbd->can_trim = nbd_can_trim(nbd->handle) == 1;
	nbd->can_zero = nbd_can_zero(nbd->handle) == 1;
	nbd->can_flush = nbd_can_flush(nbd->handle) == 1;
	nbd->can_fua = nbd_can_fua(nbd->handle) == 1;
	return 0;
}

static int start_thread(struct nbd *nbd)
{
	int error;

	nbd->wake = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (nbd->wake < 0)
		return error_set(errno, "%s: no event file: %s", nbd->block.file, strerror(errno));
	error = thread_start(&nbd->thread, nbd_thread, nbd);
	if (error)
		return error_set(error, "%s: cannot start an I/O thread: %s", nbd->block.file,
		                 strerror(error));
	nbd->started = true;
	return 0;
}

/* socket: -1: connect to the URI. */
static int open_any(struct block **block, const struct block_config *config, const char *format, int socket,
                    const struct nbd_server *server)
{
	struct nbd *nbd = calloc(1, sizeof(*nbd));
	int error = nbd ? block_init(&nbd->block, &nbd_driver, config, format, 1)
	                : error_set(ENOMEM, "out of memory");

	if (error) {
		if (socket >= 0)
			close(socket);
		nbd_server_end(server);
		free(nbd);
		return error;
	}
	pthread_mutex_init(&nbd->queue_lock, NULL);
	nbd->last = &nbd->first;
	nbd->server = *server;
	nbd->wake = -1;
	nbd->handle = nbd_create();
	if (!nbd->handle) {
		if (socket >= 0)
			close(socket);
		error = error_set(ENOMEM, "%s: %s", config->file, library_error());
	} else if ((socket >= 0 ? nbd_aio_connect_socket(nbd->handle, socket)
				: nbd_aio_connect_uri(nbd->handle, config->file)) < 0) {
		error = connect_error(nbd, -1);
	} else {
		int failure = shake_hands(nbd->handle);

		error = failure ? connect_error(nbd, failure) : examine(nbd);
	}
	if (!error)
		error = start_thread(nbd);
	if (error) {
		nbd_close_block(&nbd->block);
		return error;
	}
	*block = &nbd->block;
	return 0;
}

int nbd_open(struct block **block, const struct block_config *config)
{
	return open_any(block, config, "nbd", -1, &(struct nbd_server){.errors = -1});
}

int nbd_open_socket(struct block **block, const struct block_config *config, const char *format, int socket,
                    const struct nbd_server *server)
{
	return open_any(block, config, format, socket, server);
}

#else

int nbd_open(struct block **block, const struct block_config *config)
{
	return error_set(ENOTSUP, "%s: this build of Nestor has no libnbd (Debian's package libnbd-dev)",
	                 config->file);
}

int nbd_open_socket(struct block **block, const struct block_config *config, const char *format, int socket,
                    const struct nbd_server *server)
{
	close(socket);
	nbd_server_end(server);
	return nbd_open(block, config);
}

#endif

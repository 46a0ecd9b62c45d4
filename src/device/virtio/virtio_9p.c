/*
 * virtio-9p: a folder of the host, served by share/p9.h. Requests are handled in a thread of the device's
 * own, one after the other, so that the guest goes on while the host's file system works; under the
 * deterministic clock at once, in no time. Rules: VIRTIO 1.2 leaves "9P Transport" to its implementations:
 * one queue, T-message readable, R-message writable.
 */
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>

#include "device/devices.h"
#include "device/virtio/virtio.h"
#include "machine/machine.h"
#include "share/p9.h"
#include "util/error.h"
#include "util/thread.h"

#define CLASS_NETWORK_OTHER 0x028000
#define QUEUE_SIZE          128
#define F_MOUNT_TAG         (1u << 0)
#define CONFIG_TAG          2 /* behind its length */
#define DESCRIPTORS_MAX     16384u

struct job {
	struct job *next;
	struct virtio_chain *chain;
	size_t answer; /* bytes */
};

struct share {
	struct virtio_device virtio;
	struct p9_server *server; /* of the thread while it is busy, else under `lock` */
	bool deterministic;
	pthread_t thread;
	bool thread_started;

	pthread_mutex_t lock; /* the fields below; taken inside the machine lock, never the other way round */
	pthread_cond_t work, idle;
	struct job *waiting, **waiting_end;
	struct job *done, **done_end;
	bool busy, quit;
};

static void append(struct job ***end, struct job *job)
{
	job->next = NULL;
	**end = job;
	*end = &job->next;
}

static size_t handle(struct share *share, const struct virtio_chain *chain)
{
	struct p9_request request = {
	    .in = chain->readable,
	    .in_count = chain->readable_count,
	    .in_size = chain->readable_size,
	    .out = chain->writable,
	    .out_count = chain->writable_count,
	    .out_size = chain->writable_size,
	};

	return p9_handle(share->server, &request);
}

/* Gives the chain back. Under the machine lock. */
static void answer(struct share *share, struct virtio_chain *chain, size_t size)
{
	if (size) {
		virtqueue_push(chain, size);
		return;
	}
	virtqueue_drop(chain);
	virtio_fail(&share->virtio, "a request that is no 9P message");
}

/* ---- the thread ---- */

/* Under the machine lock. */
static void answer_done(struct share *share)
{
	struct job *job;

	pthread_mutex_lock(&share->lock);
	job = share->done;
	share->done = NULL;
	share->done_end = &share->done;
	pthread_mutex_unlock(&share->lock);
	while (job) {
		struct job *next = job->next;

		answer(share, job->chain, job->answer);
		free(job);
		job = next;
	}
	virtqueue_notify(&share->virtio.queue[0]);
}

static void *serve(void *argument)
{
	struct share *share = argument;

	pthread_setname_np(pthread_self(), "nestor-9p");
	pthread_mutex_lock(&share->lock);
	for (;;) {
		struct job *job;

		while (!share->waiting && !share->quit)
			pthread_cond_wait(&share->work, &share->lock);
		if (share->quit)
			break;
		job = share->waiting;
		share->waiting = job->next;
		if (!share->waiting)
			share->waiting_end = &share->waiting;
		share->busy = true;
		pthread_mutex_unlock(&share->lock);
		job->answer = handle(share, job->chain);
		pthread_mutex_lock(&share->lock);
		share->busy = false;
		append(&share->done_end, job);
		pthread_cond_signal(&share->idle);
		pthread_mutex_unlock(&share->lock);
		machine_lock(share->virtio.machine);
		answer_done(share);
		machine_unlock(share->virtio.machine);
		pthread_mutex_lock(&share->lock);
	}
	pthread_mutex_unlock(&share->lock);
	return NULL;
}

/* No signal is the thread's: not the event loop's, and a file that grows too large is an error to the guest.
 */
static int start_thread(struct share *share)
{
	int error = thread_start(&share->thread, serve, share);

	if (error)
		return error_set(error, "cannot start a thread for a shared folder: %s", strerror(error));
	share->thread_started = true;
	return 0;
}

/* ---- the device ---- */

static void notified(void *device, struct virtqueue *queue)
{
	struct share *share = device;
	struct virtio_chain *chain;

	while ((chain = virtqueue_pop(queue))) {
		struct job *job;

		if (share->deterministic) {
			answer(share, chain, handle(share, chain));
			continue;
		}
		job = malloc(sizeof(*job));
		if (!job) {
			virtqueue_unpop(chain);
			virtio_continue(&share->virtio);
			break;
		}
		job->chain = chain;
		pthread_mutex_lock(&share->lock);
		append(&share->waiting_end, job);
		pthread_cond_signal(&share->work);
		pthread_mutex_unlock(&share->lock);
	}
	virtqueue_notify(queue);
}

static void drop_jobs(struct job **list, struct job ***end)
{
	while (*list) {
		struct job *job = *list;

		*list = job->next;
		virtqueue_drop(job->chain);
		free(job);
	}
	*end = list;
}

/* The request that the thread works on touches guest memory: it is waited for. */
static void reset(void *device)
{
	struct share *share = device;

	pthread_mutex_lock(&share->lock);
	drop_jobs(&share->waiting, &share->waiting_end);
	while (share->busy)
		pthread_cond_wait(&share->idle, &share->lock);
	drop_jobs(&share->done, &share->done_end);
	p9_reset(share->server);
	pthread_mutex_unlock(&share->lock);
}

static void destroy(void *device)
{
	struct share *share = device;

	if (share->thread_started) {
		pthread_mutex_lock(&share->lock);
		share->quit = true;
		pthread_cond_signal(&share->work);
		pthread_mutex_unlock(&share->lock);
		pthread_join(share->thread, NULL);
	}
	drop_jobs(&share->waiting, &share->waiting_end);
	drop_jobs(&share->done, &share->done_end);
	p9_destroy(share->server);
	pthread_mutex_destroy(&share->lock);
	pthread_cond_destroy(&share->work);
	pthread_cond_destroy(&share->idle);
	free(share);
}

static const struct virtio_ops ops = {.reset = reset, .destroy = destroy};

/* The guest's open files are ours: as many as the system lets us have, and some left for all else. */
static unsigned descriptors(const struct machine *machine)
{
	struct rlimit limit;
	rlim_t each;

	if (getrlimit(RLIMIT_NOFILE, &limit))
		return 16;
	if (limit.rlim_cur < limit.rlim_max) {
		limit.rlim_cur = limit.rlim_max;
		setrlimit(RLIMIT_NOFILE, &limit);
		getrlimit(RLIMIT_NOFILE, &limit);
	}
	each = limit.rlim_cur / 2 / machine->config.share_count;
	return each < DESCRIPTORS_MAX ? (unsigned)each : DESCRIPTORS_MAX;
}

static int create(struct machine *machine, const struct share_config *config)
{
	struct share *share = calloc(1, sizeof(*share));
	struct virtio_setup setup = {
	    .name = "virtio-9p",
	    .type = VIRTIO_ID_9P,
	    .class_code = CLASS_NETWORK_OTHER,
	    .features = F_MOUNT_TAG,
	    .config_size = (unsigned)(CONFIG_TAG + strlen(config->tag)),
	    .ops = &ops,
	    .device = share,
	};
	struct p9_config p9 = {
	    .directory = config->directory,
	    .read_only = config->read_only,
	    .copy_on_write = config->copy_on_write,
	    .descriptors = descriptors(machine),
	};
	int error;

	if (!share)
		return error_set(ENOMEM, "out of memory");
	pthread_mutex_init(&share->lock, NULL);
	pthread_cond_init(&share->work, NULL);
	pthread_cond_init(&share->idle, NULL);
	share->waiting_end = &share->waiting;
	share->done_end = &share->done;
	share->deterministic = machine->config.clock == ENGINE_CLOCK_DETERMINISTIC;
	virtio_create(&share->virtio, machine, &setup);
	virtio_put16(share->virtio.config, (uint16_t)strlen(config->tag));
	memcpy(share->virtio.config + CONFIG_TAG, config->tag, strlen(config->tag));
	virtio_add_queue(&share->virtio, QUEUE_SIZE, notified);
	error = p9_create(&share->server, &p9);
	if (!error && !share->deterministic)
		error = start_thread(share);
	if (!error)
		error = virtio_add(&share->virtio, PCI_SLOT_ANY);
	if (error)
		destroy(share);
	return error;
}

int virtio_9p_create(struct machine *machine)
{
	int error = 0;

	for (unsigned i = 0; i < machine->config.share_count && !error; i++)
		error = create(machine, &machine->config.share[i]);
	return error;
}

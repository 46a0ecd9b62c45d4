/*
 * The two queues of a network and its thread. Frames to send come from any thread under `lock`, which is held
 * for the copy of a pointer only; frames from outside belong to the network's thread, which hands them to the
 * card.
 */
#include "net/net.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

#include "net/backend.h"
#include "util/error.h"
#include "util/thread.h"

#define OUT_BYTES_MAX (1u << 20) /* a card that has queued more waits */
#define IN_BYTES_WAIT (1u << 18) /* where the card has left more, nothing is read from outside */
#define IN_BYTES_MAX  (1u << 22) /* what comes though is dropped beyond this */
#define FRAME_COST    512        /* counted for each frame besides its bytes */
#define LARGE_SEGMENT 61440

struct frame_queue {
	struct net_frame *first, **last;
	size_t bytes;
};

struct net {
	/* ---- constant ---- */
	const struct net_backend *ops;
	void *backend;
	struct net_receiver receiver;
	bool threaded;
	int wake_fd;
	pthread_t thread;
	bool started;
	atomic_bool link;

	pthread_mutex_t lock; /* the fields below */
	struct frame_queue out;
	bool sleeping; /* the thread is, or soon will be, in its poll: write to wake_fd */
	bool refused, resumed, closing;

	/* ---- the network's thread ---- */
	struct frame_queue in;
	bool left, link_told; /* left: the card did not take all */
};

/* ---- queues ---- */

static void queue_init(struct frame_queue *queue)
{
	*queue = (struct frame_queue){.last = &queue->first};
}

static void queue_put(struct frame_queue *queue, struct net_frame *frame)
{
	frame->next = NULL;
	*queue->last = frame;
	queue->last = &frame->next;
	queue->bytes += frame->size + FRAME_COST;
}

static struct net_frame *queue_take(struct frame_queue *queue)
{
	struct net_frame *frame = queue->first;

	if (!frame)
		return NULL;
	queue->first = frame->next;
	if (!queue->first)
		queue->last = &queue->first;
	queue->bytes -= frame->size + FRAME_COST;
	return frame;
}

static void queue_free(struct frame_queue *queue)
{
	for (struct net_frame *frame; (frame = queue_take(queue));)
		free(frame);
}

/* ---- the card's side ---- */

static void wake(struct net *net)
{
	uint64_t one = 1;
	ssize_t written = write(net->wake_fd, &one, sizeof(one));

	(void)written; /* a full counter wakes as well */
}

bool net_send(struct net *net, const struct iovec *piece, unsigned count, const struct net_offload *offload)
{
	struct net_frame *frame;
	size_t size = 0, at = 0;
	bool refuse, asleep;

	for (unsigned i = 0; i < count; i++)
		size += piece[i].iov_len;
	if (size < NET_HEADER_SIZE || size > NET_FRAME_MAX)
		return true;
	/* Looked at without the copy; a few frames more than the limit do not matter. */
	pthread_mutex_lock(&net->lock);
	refuse = net->out.bytes > OUT_BYTES_MAX;
	net->refused |= refuse;
	pthread_mutex_unlock(&net->lock);
	if (refuse)
		return false;
	frame = malloc(sizeof(*frame) + size);
	if (!frame)
		return true;
	for (unsigned i = 0; i < count; i++) {
		memcpy(frame->data + at, piece[i].iov_base, piece[i].iov_len);
		at += piece[i].iov_len;
	}
	frame->size = size;
	frame->offload = offload ? *offload : (struct net_offload){0};
	pthread_mutex_lock(&net->lock);
	queue_put(&net->out, frame);
	asleep = net->sleeping;
	net->sleeping = false;
	pthread_mutex_unlock(&net->lock);
	if (asleep)
		wake(net);
	return true;
}

const struct net_frame *net_first(struct net *net)
{
	return net->in.first;
}

void net_drop_first(struct net *net)
{
	free(queue_take(&net->in));
}

void net_resume(struct net *net)
{
	bool asleep;

	pthread_mutex_lock(&net->lock);
	net->resumed = true;
	asleep = net->sleeping;
	net->sleeping = false;
	pthread_mutex_unlock(&net->lock);
	if (asleep)
		wake(net);
}

bool net_link_up(const struct net *net)
{
	return atomic_load(&net->link);
}

/* ---- the backend's side ---- */

void net_let_in(struct net *net, const uint8_t *data, size_t size)
{
	struct net_frame *frame;

	if (size < NET_HEADER_SIZE || size > NET_FRAME_MAX || net->in.bytes > IN_BYTES_MAX)
		return;
	frame = malloc(sizeof(*frame) + size);
	if (!frame)
		return;
	memcpy(frame->data, data, size);
	frame->size = size;
	frame->good = net->ops->good;
	queue_put(&net->in, frame);
}

void net_set_link(struct net *net, bool up)
{
	atomic_store(&net->link, up);
}

uint64_t net_now(struct net *net)
{
	struct timespec now;

	if (net->receiver.now_ns)
		return net->receiver.now_ns(net->receiver.context);
	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

bool net_is_threaded(const struct net *net)
{
	return net->threaded;
}

static void send_one(void *context, uint8_t *data, size_t size)
{
	struct net *net = context;

	net->ops->send(net->backend, data, size);
}

/* Sends what is queued. Returns false where the network closes. */
static bool serve_out(struct net *net, bool *resumed)
{
	struct frame_queue batch;
	struct net_frame *frame;
	bool refused, closing;

	pthread_mutex_lock(&net->lock);
	batch = net->out;
	if (!batch.first)
		batch.last = &batch.first;
	queue_init(&net->out);
	refused = net->refused;
	net->refused = false;
	*resumed = net->resumed;
	net->resumed = false;
	closing = net->closing;
	pthread_mutex_unlock(&net->lock);
	while ((frame = queue_take(&batch))) {
		net_offload_do(&frame->offload, frame->data, frame->size, net->ops->large ? LARGE_SEGMENT : 0,
		               send_one, net);
		free(frame);
	}
	if (refused && !closing && net->receiver.sendable)
		net->receiver.sendable(net->receiver.context);
	return !closing;
}

/* Hands over what has come in, and a changed link. */
static void serve_in(struct net *net, bool resumed)
{
	bool link = net_link_up(net);

	if (net->link_told != link) {
		net->link_told = link;
		if (net->receiver.link_changed)
			net->receiver.link_changed(net->receiver.context);
	}
	if (!net->in.first || (net->left && !resumed))
		return;
	net->receiver.received(net->receiver.context);
	net->left = net->in.first != NULL;
}

static bool must_not_sleep(struct net *net)
{
	bool busy;

	pthread_mutex_lock(&net->lock);
	busy = net->out.first || net->resumed || net->closing;
	net->sleeping = !busy;
	pthread_mutex_unlock(&net->lock);
	return busy;
}

static void awake(struct net *net)
{
	uint64_t ignored;
	ssize_t got;

	pthread_mutex_lock(&net->lock);
	net->sleeping = false;
	pthread_mutex_unlock(&net->lock);
	got = read(net->wake_fd, &ignored, sizeof(ignored));
	(void)got;
}

static void *net_thread(void *argument)
{
	struct net *net = argument;
	int next = -1;

	pthread_setname_np(pthread_self(), "nestor-net");
	for (;;) {
		bool resumed;

		if (!serve_out(net, &resumed))
			return NULL;
		serve_in(net, resumed);
		next = net->ops->round(net->backend, net->wake_fd, net->in.bytes < IN_BYTES_WAIT,
		                       must_not_sleep(net) ? 0 : -1, -1);
		(void)next; /* a round's own timeout is what it last returned */
		awake(net);
		if (!net->left)
			serve_in(net, false);
	}
}

uint64_t net_poll(struct net *net, unsigned wait_ms)
{
	sigset_t previous;
	bool resumed;
	int next = -1;

	thread_block_signals(&previous); /* a closed socket must not end the process */
	if (serve_out(net, &resumed)) {
		next = net->ops->round(net->backend, -1, net->in.bytes < IN_BYTES_WAIT, 0, (int)wait_ms);
		serve_in(net, resumed || !net->left);
	}
	pthread_sigmask(SIG_SETMASK, &previous, NULL);
	return next < 0 ? UINT64_MAX : (uint64_t)next * 1000000u;
}

int net_open(struct net **result, const struct net_config *config, const struct net_receiver *receiver,
             bool threaded)
{
	static const struct net_backend *const kinds[] = {
	    [NET_USER] = &net_backend_user, [NET_TAP] = &net_backend_tap};
	struct net *net = calloc(1, sizeof(*net));
	int error;

	if (!net)
		return error_set(ENOMEM, "out of memory for a network");
	net->ops = kinds[config->kind];
	net->receiver = *receiver;
	net->threaded = threaded;
	atomic_store(&net->link, true);
	net->link_told = true;
	queue_init(&net->in);
	queue_init(&net->out);
	pthread_mutex_init(&net->lock, NULL);
	net->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	error = net->wake_fd < 0
	            ? error_set(errno, "--net: cannot make an event descriptor: %s", strerror(errno))
	            : net->ops->open(&net->backend, net, config);
	if (!error && threaded) {
		error = thread_start(&net->thread, net_thread, net);
		net->started = !error;
		if (error)
			error = error_set(error, "--net: cannot start its thread: %s", strerror(error));
	}
	if (error) {
		net_close(net);
		return error;
	}
	*result = net;
	return 0;
}

void net_close(struct net *net)
{
	if (!net)
		return;
	if (net->started) {
		pthread_mutex_lock(&net->lock);
		net->closing = true;
		pthread_mutex_unlock(&net->lock);
		wake(net);
		pthread_join(net->thread, NULL);
	}
	if (net->backend)
		net->ops->close(net->backend);
	if (net->wake_fd >= 0)
		close(net->wake_fd);
	queue_free(&net->in);
	queue_free(&net->out);
	pthread_mutex_destroy(&net->lock);
	free(net);
}

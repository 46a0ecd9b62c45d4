#include "machine/timer.h"

#include <errno.h>
#include <string.h>

#include "util/error.h"

/* How often wake() is called without the lock, overtaken by others each time, before it is called with it. */
#define WAKE_TURNS 4

/* wake() is not called for this much, ns: the same deadline, computed again, differs by that. */
#define WAKE_SLACK_NS 2000

void timer_queue_init(struct timer_queue *queue)
{
	pthread_mutexattr_t attributes;

	memset(queue, 0, sizeof(*queue));
	/* It is held for some ten instructions at a time, by threads that react to each other: not worth sleeping for. */
	pthread_mutexattr_init(&attributes);
	pthread_mutexattr_settype(&attributes, PTHREAD_MUTEX_ADAPTIVE_NP);
	pthread_mutex_init(&queue->lock, &attributes);
	pthread_mutexattr_destroy(&attributes);
	queue->programmed = TIMER_NEVER;
}

int timer_init(struct machine_timer *timer, struct timer_queue *queue, void (*expired)(void *context),
               void *context)
{
	bool room;

	memset(timer, 0, sizeof(*timer));
	timer->queue = queue;
	timer->expired = expired;
	timer->context = context;
	timer->place = -1;
	pthread_mutex_lock(&queue->lock);
	room = queue->known < TIMER_QUEUE_MAX;
	queue->known += room;
	pthread_mutex_unlock(&queue->lock);
	return room ? 0 : error_set(ENOSPC, "too many timers");
}

static bool earlier(const struct machine_timer *a, const struct machine_timer *b)
{
	return a->deadline != b->deadline ? a->deadline < b->deadline : a->sequence < b->sequence;
}

static void put(struct timer_queue *queue, unsigned place, struct machine_timer *timer)
{
	queue->heap[place] = timer;
	timer->place = (int)place;
}

/* Moves the timer at `place` to where the heap's order wants it. */
static void sift(struct timer_queue *queue, unsigned place)
{
	struct machine_timer *timer = queue->heap[place];

	while (place > 0 && earlier(timer, queue->heap[(place - 1) / 2])) {
		put(queue, place, queue->heap[(place - 1) / 2]);
		place = (place - 1) / 2;
	}
	for (;;) {
		unsigned child = 2 * place + 1;

		if (child + 1 < queue->count && earlier(queue->heap[child + 1], queue->heap[child]))
			child++;
		if (child >= queue->count || !earlier(queue->heap[child], timer))
			break;
		put(queue, place, queue->heap[child]);
		place = child;
	}
	put(queue, place, timer);
}

static void take_out(struct timer_queue *queue, struct machine_timer *timer)
{
	unsigned place = (unsigned)timer->place;
	struct machine_timer *last = queue->heap[--queue->count];

	timer->place = -1;
	if (last != timer) {
		put(queue, place, last);
		sift(queue, place);
	}
}

/*
 * Calls wake() for `programmed` or, while others move it, for what it then is. It is called without the lock, since it is a
 * system call for which another vCPU or the owner should not have to wait; so it may be overtaken, and has to look again.
 * [the queue's lock, which is held again afterwards]
 */
static void wake_owner(struct timer_queue *queue)
{
	uint64_t told;

	if (!queue->wake)
		return;
	for (unsigned turn = 0; turn < WAKE_TURNS; turn++) {
		told = queue->programmed;
		pthread_mutex_unlock(&queue->lock);
		queue->wake(queue->wake_context, told);
		pthread_mutex_lock(&queue->lock);
		queue->overtaken |= queue->programmed == 0;
		if (queue->programmed == 0 || queue->programmed >= told)
			return;
	}
	queue->wake(queue->wake_context, queue->programmed);
}

void timer_arm(struct machine_timer *timer, uint64_t deadline_ns)
{
	struct timer_queue *queue = timer->queue;

	pthread_mutex_lock(&queue->lock);
	if (timer->place >= 0)
		take_out(queue, timer);
	if (deadline_ns != TIMER_NEVER) {
		timer->deadline = deadline_ns;
		timer->sequence = queue->sequence++;
		put(queue, queue->count++, timer);
		sift(queue, queue->count - 1);
		if (queue->programmed > WAKE_SLACK_NS && deadline_ns < queue->programmed - WAKE_SLACK_NS) {
			queue->programmed = deadline_ns;
			wake_owner(queue);
		}
	}
	pthread_mutex_unlock(&queue->lock);
}

void timer_cancel(struct machine_timer *timer)
{
	timer_arm(timer, TIMER_NEVER);
}

static uint64_t first_deadline(const struct timer_queue *queue)
{
	return queue->count ? queue->heap[0]->deadline : TIMER_NEVER;
}

uint64_t timer_queue_next(struct timer_queue *queue)
{
	uint64_t next;

	pthread_mutex_lock(&queue->lock);
	next = first_deadline(queue);
	pthread_mutex_unlock(&queue->lock);
	return next;
}

struct machine_timer *timer_queue_take(struct timer_queue *queue, uint64_t now_ns)
{
	struct machine_timer *timer = NULL;

	pthread_mutex_lock(&queue->lock);
	if (queue->count && queue->heap[0]->deadline <= now_ns) {
		timer = queue->heap[0];
		take_out(queue, timer);
	}
	pthread_mutex_unlock(&queue->lock);
	return timer;
}

void timer_queue_serve(struct timer_queue *queue)
{
	pthread_mutex_lock(&queue->lock);
	queue->programmed = 0;
	pthread_mutex_unlock(&queue->lock);
}

uint64_t timer_queue_served(struct timer_queue *queue)
{
	uint64_t told = TIMER_NEVER, next;

	pthread_mutex_lock(&queue->lock);
	for (unsigned turn = 0;; turn++) {
		next = first_deadline(queue);
		if (!queue->wake || (next == told && !queue->overtaken))
			break;
		queue->overtaken = false;
		if (turn == WAKE_TURNS) {
			queue->wake(queue->wake_context, next);
			break;
		}
		pthread_mutex_unlock(&queue->lock);
		queue->wake(queue->wake_context, next);
		told = next;
		pthread_mutex_lock(&queue->lock);
	}
	queue->programmed = next;
	pthread_mutex_unlock(&queue->lock);
	return next;
}

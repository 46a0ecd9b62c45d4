/*
 * One-shot timers on the machine's clock, in one queue ordered by deadline, then by order of arming (so that
 * a deterministic run is one). Under the real clock the event loop's thread runs what is due; under the
 * deterministic clock the vCPU's thread does, through machine_run_timers.
 */
#ifndef NESTOR_MACHINE_TIMER_H
#define NESTOR_MACHINE_TIMER_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

#define TIMER_NEVER     UINT64_MAX
#define TIMER_QUEUE_MAX 160

struct machine;

struct machine_timer {
	struct timer_queue *queue;
	void (*expired)(void *context);
	void *context;
	bool unlocked;     /* expired() is called without the machine lock (vCPU timers) */
	uint64_t deadline; /* under the queue's lock, as what follows */
	uint64_t sequence;
	int place; /* in the heap, -1: not armed */
};

struct timer_queue {
	pthread_mutex_t lock;
	struct machine_timer *heap[TIMER_QUEUE_MAX];
	unsigned count, known; /* known: timers that exist; bounds count */
	uint64_t sequence;
	bool overtaken;      /* somebody's wake() may have come after the owner's: the owner is to call it again */
	uint64_t programmed; /* the deadline that wake() was last called for; 0: the owner is at work */
	/* Called when the earliest deadline moves before `programmed`, by several threads at once; the last one counts.
	 * May be NULL. */
	void (*wake)(void *context, uint64_t deadline);
	void *wake_context;
};

void timer_queue_init(struct timer_queue *queue);

/* Makes *timer known to the queue. expired runs under the machine lock and may arm and cancel timers.
 * Returns 0, or -ENOSPC with error_text(). */
int timer_init(struct machine_timer *timer, struct timer_queue *queue, void (*expired)(void *context),
               void *context);

/*
 * (Re-)arms for deadline_ns of the machine's clock; TIMER_NEVER disarms; a time that has passed fires soon.
 * [any] A locked timer is armed and cancelled under the machine lock, and then never fires after its
 * cancellation; an unlocked one may fire once more.
 */
void timer_arm(struct machine_timer *timer, uint64_t deadline_ns);
void timer_cancel(struct machine_timer *timer);

/* The earliest deadline, or TIMER_NEVER. [any] */
uint64_t timer_queue_next(struct timer_queue *queue);

/* Removes and returns a timer whose deadline is at or before now_ns, or NULL. */
struct machine_timer *timer_queue_take(struct timer_queue *queue, uint64_t now_ns);

/* The queue's owner begins to serve wake(): nobody needs to call it until timer_queue_served. */
void timer_queue_serve(struct timer_queue *queue);

/* The queue's owner has served wake(): it calls it itself for what is next; then armings do again. Returns the earliest
 * deadline. */
uint64_t timer_queue_served(struct timer_queue *queue);

#endif

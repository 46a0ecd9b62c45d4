/*
 * What happened to the machine, on its way from the thread where it happened to the control thread: a ring that
 * never makes anybody wait. What does not fit is lost, except the machine's end.
 */
#ifndef NESTOR_CONTROL_EVENTS_H
#define NESTOR_CONTROL_EVENTS_H

#include <jansson.h>
#include <pthread.h>
#include <stdbool.h>
#include <time.h>

#include "machine/notify.h"

#define EVENTS_MAX        64
#define EVENT_DETAIL_MAX  96

struct event_record {
	enum machine_event event;
	struct timespec at; /* CLOCK_REALTIME */
	char detail[EVENT_DETAIL_MAX];
};

struct event_ring {
	pthread_mutex_t lock;
	struct event_record record[EVENTS_MAX]; /* under lock, as the rest */
	unsigned first, count;
	int wake_fd; /* an eventfd, owned */
};

/* Returns 0, or a negative errno with error_text(). */
int event_ring_init(struct event_ring *ring);
void event_ring_free(struct event_ring *ring);

/* A machine_listener's notify, with the ring as context. [any] */
void event_ring_put(void *ring, enum machine_event event, const char *detail);
/* False where there is none. */
bool event_ring_take(struct event_ring *ring, struct event_record *record);

/* QMP's message for it, owned by the caller; NULL where it is none for clients. */
json_t *event_message(const struct event_record *record);

#endif

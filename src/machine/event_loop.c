#include "machine/event_loop.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/timerfd.h>
#include <unistd.h>

#include "machine/machine.h"
#include "util/error.h"

#define LOOP_FDS 16

struct watched_fd {
	int fd; /* -1: free */
	short events;
	void (*ready)(void *context, short revents);
	void *context;
};

struct event_loop {
	struct machine *machine;
	int timer_fd, wake_fd, signal_fd;
	pthread_t thread;
	bool started;
	sigset_t signals, previous_mask;
	pthread_mutex_t lock; /* the fields below */
	pthread_cond_t idle;  /* `serving` changed */
	struct watched_fd watched[LOOP_FDS];
	int serving; /* the fd whose ready() runs, -1: none */
	bool quit;
};

static void wake_thread(struct event_loop *loop)
{
	uint64_t one = 1;
	ssize_t written = write(loop->wake_fd, &one, sizeof(one));

	(void)written; /* a full counter wakes as well */
}

/* timer_queue.wake: sets the timerfd from the arming thread, which spares the loop a wake-up. */
static void program_timer(void *context, uint64_t deadline)
{
	struct event_loop *loop = context;
	uint64_t at = clock_to_monotonic(&loop->machine->clock, deadline);
	struct itimerspec spec = {.it_value = {(time_t)(at / 1000000000u), (long)(at % 1000000000u)}};

	if (at > INT64_MAX / 2)
		return; /* centuries away */
	if (at == 0)
		spec.it_value.tv_nsec = 1;
	timerfd_settime(loop->timer_fd, TFD_TIMER_ABSTIME, &spec, NULL);
}

int event_loop_create(struct event_loop **result, struct machine *machine)
{
	struct event_loop *loop = calloc(1, sizeof(*loop));

	if (!loop)
		return error_set(ENOMEM, "out of memory for the event loop");
	loop->machine = machine;
	loop->serving = -1;
	for (unsigned i = 0; i < LOOP_FDS; i++)
		loop->watched[i].fd = -1;
	pthread_mutex_init(&loop->lock, NULL);
	pthread_cond_init(&loop->idle, NULL);
	sigemptyset(&loop->signals);
	sigaddset(&loop->signals, SIGINT);
	sigaddset(&loop->signals, SIGTERM);
	sigaddset(&loop->signals, SIGHUP);
	sigaddset(&loop->signals, SIGQUIT);
	loop->timer_fd = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
	loop->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	loop->signal_fd = signalfd(-1, &loop->signals, SFD_CLOEXEC | SFD_NONBLOCK);
	if (loop->timer_fd < 0 || loop->wake_fd < 0 || loop->signal_fd < 0) {
		int error = errno;

		event_loop_destroy(loop);
		return error_set(error, "cannot make the event loop: %s", strerror(error));
	}
	if (machine->clock.kind == ENGINE_CLOCK_REAL) {
		machine->timers.wake_context = loop;
		machine->timers.wake = program_timer;
		timer_queue_served(&machine->timers);
	}
	*result = loop;
	return 0;
}

void event_loop_destroy(struct event_loop *loop)
{
	if (!loop)
		return;
	event_loop_stop(loop);
	loop->machine->timers.wake = NULL;
	if (loop->timer_fd >= 0)
		close(loop->timer_fd);
	if (loop->wake_fd >= 0)
		close(loop->wake_fd);
	if (loop->signal_fd >= 0)
		close(loop->signal_fd);
	pthread_mutex_destroy(&loop->lock);
	pthread_cond_destroy(&loop->idle);
	free(loop);
}

/* The first signal stops the machine; the same once more, if that does not help, kills the process. */
static void take_signals(struct event_loop *loop)
{
	struct signalfd_siginfo info;

	while (read(loop->signal_fd, &info, sizeof(info)) == sizeof(info)) {
		machine_stop_because(loop->machine, 128 + (int)info.ssi_signo, STOP_HOST_SIGNAL);
		pthread_sigmask(SIG_UNBLOCK, &loop->signals, NULL);
	}
}

static void serve_fd(struct event_loop *loop, const struct pollfd *polled)
{
	struct watched_fd found = {.fd = -1};

	pthread_mutex_lock(&loop->lock);
	for (unsigned i = 0; i < LOOP_FDS; i++)
		if (loop->watched[i].fd == polled->fd && loop->watched[i].events)
			found = loop->watched[i];
	if (found.fd >= 0)
		loop->serving = found.fd;
	pthread_mutex_unlock(&loop->lock);
	if (found.fd < 0)
		return;
	found.ready(found.context, polled->revents);
	pthread_mutex_lock(&loop->lock);
	loop->serving = -1;
	pthread_cond_broadcast(&loop->idle);
	pthread_mutex_unlock(&loop->lock);
}

static void *event_loop_thread(void *argument)
{
	struct event_loop *loop = argument;
	struct machine *machine = loop->machine;

	pthread_setname_np(pthread_self(), "nestor-events");
	prctl(PR_SET_TIMERSLACK, 1000, 0, 0, 0); /* guests notice late timers */
	for (;;) {
		struct pollfd poll_fd[3 + LOOP_FDS] = {
		    {.fd = loop->timer_fd, .events = POLLIN},
		    {.fd = loop->wake_fd, .events = POLLIN},
		    {.fd = loop->signal_fd, .events = POLLIN},
		};
		unsigned count = 3;
		uint64_t ignored;
		bool quit;

		pthread_mutex_lock(&loop->lock);
		quit = loop->quit;
		for (unsigned i = 0; i < LOOP_FDS; i++)
			if (loop->watched[i].fd >= 0 && loop->watched[i].events)
				poll_fd[count++] =
				    (struct pollfd){loop->watched[i].fd, loop->watched[i].events, 0};
		pthread_mutex_unlock(&loop->lock);
		if (quit)
			return NULL;
		if (ppoll(poll_fd, count, NULL, NULL) < 0)
			continue;
		if (poll_fd[1].revents && read(loop->wake_fd, &ignored, sizeof(ignored)) < 0)
			continue;
		if (poll_fd[0].revents && read(loop->timer_fd, &ignored, sizeof(ignored)) > 0) {
			timer_queue_serve(&machine->timers);
			machine_run_timers(machine, clock_now(&machine->clock));
			timer_queue_served(&machine->timers);
		}
		if (poll_fd[2].revents)
			take_signals(loop);
		for (unsigned i = 3; i < count; i++)
			if (poll_fd[i].revents)
				serve_fd(loop, &poll_fd[i]);
	}
}

int event_loop_start(struct event_loop *loop)
{
	int error;

	pthread_sigmask(SIG_BLOCK, &loop->signals, &loop->previous_mask);
	loop->quit = false;
	error = pthread_create(&loop->thread, NULL, event_loop_thread, loop);
	if (error) {
		pthread_sigmask(SIG_SETMASK, &loop->previous_mask, NULL);
		return error_set(error, "cannot start the event thread: %s", strerror(error));
	}
	loop->started = true;
	return 0;
}

void event_loop_stop(struct event_loop *loop)
{
	if (!loop->started)
		return;
	pthread_mutex_lock(&loop->lock);
	loop->quit = true;
	pthread_mutex_unlock(&loop->lock);
	wake_thread(loop);
	pthread_join(loop->thread, NULL);
	loop->started = false;
	pthread_sigmask(SIG_SETMASK, &loop->previous_mask, NULL);
}

int event_loop_add_fd(struct event_loop *loop, int fd, short events,
                      void (*ready)(void *context, short revents), void *context)
{
	pthread_mutex_lock(&loop->lock);
	for (unsigned i = 0; i < LOOP_FDS; i++) {
		if (loop->watched[i].fd >= 0)
			continue;
		loop->watched[i] = (struct watched_fd){fd, events, ready, context};
		pthread_mutex_unlock(&loop->lock);
		wake_thread(loop);
		return 0;
	}
	pthread_mutex_unlock(&loop->lock);
	return error_set(ENOSPC, "too many files for the event loop");
}

void event_loop_set_events(struct event_loop *loop, int fd, short events)
{
	pthread_mutex_lock(&loop->lock);
	for (unsigned i = 0; i < LOOP_FDS; i++)
		if (loop->watched[i].fd == fd)
			loop->watched[i].events = events;
	pthread_mutex_unlock(&loop->lock);
	wake_thread(loop);
}

void event_loop_remove_fd(struct event_loop *loop, int fd)
{
	pthread_mutex_lock(&loop->lock);
	for (unsigned i = 0; i < LOOP_FDS; i++)
		if (loop->watched[i].fd == fd)
			loop->watched[i].fd = -1;
	while (loop->serving == fd && !pthread_equal(loop->thread, pthread_self()))
		pthread_cond_wait(&loop->idle, &loop->lock);
	pthread_mutex_unlock(&loop->lock);
	wake_thread(loop);
}

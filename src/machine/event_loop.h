/*
 * The host event loop: one thread that sleeps in ppoll and serves the timer queue (real clock), file
 * descriptors of character devices, and termination signals (which stop the machine in an orderly way).
 */
#ifndef NESTOR_MACHINE_EVENT_LOOP_H
#define NESTOR_MACHINE_EVENT_LOOP_H

struct event_loop;
struct machine;

/* Returns 0, or a negative errno with error_text(). Owned by the caller; machine is borrowed. */
int event_loop_create(struct event_loop **loop, struct machine *machine);
/* Stops the thread if it runs. */
void event_loop_destroy(struct event_loop *loop);

/* Starts and ends the thread. While it runs SIGINT, SIGTERM, SIGHUP and SIGQUIT are blocked in the caller and
 * the threads it creates. Returns 0, or a negative errno with error_text(). */
int event_loop_start(struct event_loop *loop);
void event_loop_stop(struct event_loop *loop);

/*
 * Watches fd (borrowed): ready(context, revents) runs in the loop's thread with no lock held. events: POLLIN
 * … or 0 for "not now". Returns 0, or -ENOSPC with error_text().
 */
int event_loop_add_fd(struct event_loop *loop, int fd, short events,
                      void (*ready)(void *context, short revents), void *context);
/* Changes what is watched for; takes effect at once. [any thread] */
void event_loop_set_events(struct event_loop *loop, int fd, short events);
/* After it returns ready() is not called any more, unless the caller is ready() itself. */
void event_loop_remove_fd(struct event_loop *loop, int fd);

#endif

/* Threads that serve devices and sockets. */
#ifndef NESTOR_UTIL_THREAD_H
#define NESTOR_UTIL_THREAD_H

#include <pthread.h>
#include <signal.h>

/*
 * Starts run(argument) on a thread that takes no signals but those of its own faults: termination is the event loop's
 * business, and a closed pipe or a file that grows too large is an error to who uses it. Returns 0, or a positive errno
 * as pthread_create does; *thread is then untouched.
 */
int thread_start(pthread_t *thread, void *(*run)(void *argument), void *argument);

/* The same for a while, for a thread that does such work besides its own: *previous is what to restore. */
void thread_block_signals(sigset_t *previous);

#endif

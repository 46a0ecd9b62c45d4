/* Threads that serve devices and sockets. */
#ifndef NESTOR_UTIL_THREAD_H
#define NESTOR_UTIL_THREAD_H

#include <pthread.h>

/*
 * Starts run(argument) on a thread that takes no signals but those of its own faults: termination is the event loop's
 * business, and a closed pipe or a file that grows too large is an error to who uses it. Returns 0, or a positive errno
 * as pthread_create does; *thread is then untouched.
 */
int thread_start(pthread_t *thread, void *(*run)(void *argument), void *argument);

#endif

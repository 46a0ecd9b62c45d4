#include "util/thread.h"

void thread_block_signals(sigset_t *previous)
{
	sigset_t blocked;

	sigfillset(&blocked);
	sigdelset(&blocked, SIGSEGV);
	sigdelset(&blocked, SIGBUS);
	sigdelset(&blocked, SIGABRT);
	sigdelset(&blocked, SIGFPE);
	sigdelset(&blocked, SIGILL);
	pthread_sigmask(SIG_SETMASK, &blocked, previous);
}

int thread_start(pthread_t *thread, void *(*run)(void *argument), void *argument)
{
	sigset_t previous;
	int error;

	thread_block_signals(&previous);
	error = pthread_create(thread, NULL, run, argument);
	pthread_sigmask(SIG_SETMASK, &previous, NULL);
	return error;
}

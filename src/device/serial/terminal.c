#include "device/serial/terminal.h"

#include <errno.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <termios.h>
#include <unistd.h>

#include "util/error.h"

static struct termios saved, raw;
static atomic_bool is_raw;

void terminal_restore(void)
{
	if (atomic_exchange(&is_raw, false))
		tcsetattr(STDIN_FILENO, TCSANOW, &saved);
}

/* SA_RESETHAND has put the default action back: the signal, raised again, does what it would have done. */
static void on_fatal_signal(int number)
{
	terminal_restore();
	raise(number);
}

/* The shell may have changed the terminal while we were stopped. */
static void on_continue(int number)
{
	int error = errno;

	if (atomic_load(&is_raw))
		tcsetattr(STDIN_FILENO, TCSANOW, &raw);
	errno = error;
}

static void catch_default(int number, void (*handler)(int), int flags)
{
	struct sigaction action, old;

	if (sigaction(number, NULL, &old) || old.sa_handler != SIG_DFL)
		return;
	memset(&action, 0, sizeof(action));
	action.sa_handler = handler;
	action.sa_flags = flags;
	sigemptyset(&action.sa_mask);
	sigaction(number, &action, NULL);
}

const char *terminal_newline(void)
{
	return atomic_load(&is_raw) && !(raw.c_oflag & OPOST) ? "\r\n" : "\n";
}

int terminal_raw(bool keep_output)
{
	static const int fatal[] = {SIGINT,  SIGTERM, SIGHUP, SIGQUIT, SIGABRT,
	                            SIGSEGV, SIGBUS,  SIGILL, SIGFPE};
	static bool prepared;

	if (!isatty(STDIN_FILENO))
		return 0;
	if (tcgetpgrp(STDIN_FILENO) != getpgrp())
		return error_set(EIO,
		                 "the terminal belongs to a foreground job: start in the foreground, or give "
		                 "--serial null or file:PATH");
	if (tcgetattr(STDIN_FILENO, &saved))
		return error_set(errno, "cannot use the terminal: %s", strerror(errno));
	if (!prepared) {
		prepared = true;
		atexit(terminal_restore);
		for (size_t i = 0; i < sizeof(fatal) / sizeof(fatal[0]); i++)
			catch_default(fatal[i], on_fatal_signal, (int)(SA_RESETHAND | SA_NODEFER));
		catch_default(SIGCONT, on_continue, SA_RESTART);
	}
	raw = saved;
	cfmakeraw(&raw);
	if (keep_output)
		raw.c_oflag |= OPOST;
	raw.c_cc[VMIN] = 1;
	raw.c_cc[VTIME] = 0;
	atomic_store(&is_raw, true);
	if (tcsetattr(STDIN_FILENO, TCSANOW, &raw)) {
		atomic_store(&is_raw, false);
		return error_set(errno, "cannot put the terminal into raw mode: %s", strerror(errno));
	}
	return 1;
}

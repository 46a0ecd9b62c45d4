#include "cli/detach.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "machine/machine.h"
#include "machine/notify.h"
#include "util/error.h"

static _Noreturn void wait_for_start(pid_t child, int fd, const char *name)
{
	char byte;
	int status;
	ssize_t got;

	do
		got = read(fd, &byte, 1);
	while (got < 0 && errno == EINTR);
	if (got == 1) {
		printf("%s\n", name);
		exit(fflush(stdout) ? 1 : 0);
	}
	while (waitpid(child, &status, 0) < 0 && errno == EINTR)
		;
	if (WIFSIGNALED(status))
		fprintf(stderr, "nestor run: the machine's process was killed by signal %d\n",
		        WTERMSIG(status));
	exit(WIFEXITED(status) ? WEXITSTATUS(status) : 1);
}

int detach_fork(struct detach *detach, const char *name, const char *log_path)
{
	int fd[2];
	pid_t child;

	if (pipe2(fd, O_CLOEXEC))
		return error_set(errno, "cannot make a pipe: %s", strerror(errno));
	snprintf(detach->log_path, sizeof(detach->log_path), "%s", log_path);
	fflush(NULL);
	child = fork();
	if (child < 0) {
		close(fd[0]);
		close(fd[1]);
		return error_set(errno, "cannot start another process: %s", strerror(errno));
	}
	if (child) {
		close(fd[1]);
		wait_for_start(child, fd[0], name);
	}
	close(fd[0]);
	setsid();
	detach->ready_fd = fd[1];
	return 0;
}

/* The terminal is the user's again; what there is to say goes to the log. */
static void leave_terminal(const char *log_path)
{
	int null = open("/dev/null", O_RDWR | O_CLOEXEC);
	int log = open(log_path, O_WRONLY | O_CREAT | O_TRUNC | O_APPEND | O_CLOEXEC | O_NOFOLLOW, 0600);

	dup2(null, STDIN_FILENO);
	dup2(null, STDOUT_FILENO);
	dup2(log < 0 ? null : log, STDERR_FILENO);
	if (null > STDERR_FILENO)
		close(null);
	if (log > STDERR_FILENO)
		close(log);
}

static void on_event(void *context, enum machine_event event, const char *detail)
{
	struct detach *detach = context;
	char byte = 1;

	if (event != MACHINE_EVENT_STARTED || detach->ready_fd < 0)
		return;
	leave_terminal(detach->log_path);
	if (write(detach->ready_fd, &byte, 1) != 1)
		fprintf(stderr, "nestor: nobody waits for the machine to start\n");
	close(detach->ready_fd);
	detach->ready_fd = -1;
}

int detach_watch(struct detach *detach, struct machine *machine)
{
	return machine_add_listener(machine, on_event, detach);
}

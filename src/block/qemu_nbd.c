/*
 * Formats that Nestor does not read itself: Debian's qemu-nbd serves the image as a child, over a UNIX socket that it
 * finds open when it starts (systemd's socket activation, sd_listen_fds(3)). Its client connects before the child is
 * started; then the socket's name and folder are removed, so that whatever happens later nothing is left behind.
 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "block/driver.h"
#include "block/nbd.h"
#include "util/error.h"

#define PROGRAM     "qemu-nbd"
#define PATIENCE_MS 30000
#define FIRST_FD    3 /* SD_LISTEN_FDS_START */

/* ---- the socket ---- */

/* Both ends: one that listens and one that is connected to it. Returns 0 or a negative errno with error_text(). */
static int make_sockets(const char *file, int *listening, int *connected)
{
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	char folder[] = "/tmp/nestor-XXXXXX";
	int error = 0;

	*listening = *connected = -1;
	if (!mkdtemp(folder))
		return error_set(errno, "%s: cannot make a folder in /tmp for a socket: %s", file,
		                 strerror(errno));
	snprintf(address.sun_path, sizeof(address.sun_path), "%s/nbd", folder);
	*listening = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	*connected = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (*listening < 0 || *connected < 0 ||
	    bind(*listening, (struct sockaddr *)&address, sizeof(address)) || listen(*listening, 1) ||
	    connect(*connected, (struct sockaddr *)&address, sizeof(address)))
		error = error_set(errno, "%s: cannot make a socket in %s: %s", file, folder, strerror(errno));
	unlink(address.sun_path);
	rmdir(folder);
	if (error) {
		close(*listening);
		close(*connected);
	}
	return error;
}

/* ---- the child ---- */

struct launch {
	char *argv[12];
	char **environment;
	char *listen_pid; /* where the child writes its process ID, within the environment */
	int listening, errors, failure;
	pid_t parent;
};

static void write_decimal(char *to, unsigned number)
{
	char digit[12];
	unsigned count = 0;

	do {
		digit[count++] = (char)('0' + number % 10);
		number /= 10;
	} while (number);
	while (count)
		*to++ = digit[--count];
	*to = '\0';
}

/* In the child: only what is safe between fork and exec in a process that has threads. */
static _Noreturn void become_server(struct launch *launch)
{
	sigset_t none;
	int null = open("/dev/null", O_RDWR);
	int kept[2];

	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
	/* A signal that asks lets it write what it holds. Keys on the terminal are for Nestor alone. */
	prctl(PR_SET_PDEATHSIG, SIGTERM);
	if (getppid() != launch->parent)
		_exit(1);
	setpgid(0, 0);
	kept[0] = fcntl(launch->listening, F_DUPFD, FIRST_FD + 2);
	kept[1] = fcntl(launch->failure, F_DUPFD_CLOEXEC, FIRST_FD + 2);
	dup2(null, 0);
	dup2(null, 1);
	dup2(launch->errors, 2);
	dup2(kept[0], FIRST_FD);
	dup3(kept[1], FIRST_FD + 1, O_CLOEXEC);
	close_range(FIRST_FD + 2, ~0u, 0);
	write_decimal(launch->listen_pid, (unsigned)getpid());
	execvpe(PROGRAM, launch->argv, launch->environment);

	int error = errno;
	ssize_t written = write(FIRST_FD + 1, &error, sizeof(error));

	_exit(written == sizeof(error) ? 127 : 126);
}

/* The environment and the two variables of socket activation. */
static int make_environment(struct launch *launch)
{
	static char listen_fds[] = "LISTEN_FDS=1";
	extern char **environ;
	size_t count = 0, used = 0;
	char *pid = strdup("LISTEN_PID=0123456789ab");

	while (environ[count])
		count++;
	launch->environment = calloc(count + 3, sizeof(char *));
	if (!launch->environment || !pid) {
		free(pid);
		return error_set(ENOMEM, "out of memory");
	}
	for (size_t i = 0; i < count; i++)
		if (strncmp(environ[i], "LISTEN_", 7))
			launch->environment[used++] = environ[i];
	launch->environment[used++] = listen_fds;
	launch->environment[used] = pid;
	launch->listen_pid = pid + strlen("LISTEN_PID=");
	return 0;
}

/* QEMU's form of one image, where no character of the name has a meaning but the comma. */
static char *image_options(const struct block_config *config, const char *format)
{
	size_t length = strlen(config->file), used;
	char *text = malloc(2 * length + 64);

	if (!text)
		return NULL;
	used = (size_t)sprintf(text, "driver=%s,file.driver=file,file.filename=", format);
	for (const char *p = config->file; *p; p++) {
		if (*p == ',')
			text[used++] = ',';
		text[used++] = *p;
	}
	text[used] = '\0';
	return text;
}

static int fork_server(struct launch *launch, const char *file, const char *format, struct nbd_server *server)
{
	int pipes[2][2], error = 0;
	ssize_t got;

	if (pipe2(pipes[0], O_CLOEXEC))
		return error_set(errno, "%s: no pipe: %s", file, strerror(errno));
	if (pipe2(pipes[1], O_CLOEXEC)) {
		error = errno;
		close(pipes[0][0]);
		close(pipes[0][1]);
		return error_set(error, "%s: no pipe: %s", file, strerror(error));
	}
	launch->errors = pipes[0][1];
	launch->failure = pipes[1][1];
	launch->parent = getpid();
	server->errors = pipes[0][0];
	server->pid = fork();
	if (server->pid == 0)
		become_server(launch);
	if (server->pid < 0)
		error = errno;
	close(pipes[0][1]);
	close(pipes[1][1]);
	do
		got = server->pid < 0 ? 0 : read(pipes[1][0], &error, sizeof(error)); /* nothing: it was executed */
	while (got < 0 && errno == EINTR);
	close(pipes[1][0]);
	if (!error)
		return 0;
	close(server->errors);
	if (server->pid > 0)
		waitpid(server->pid, NULL, 0);
	if (error == ENOENT)
		return error_set(ENOENT,
		                 "%s: a %s image needs the program %s: install Debian's package qemu-utils",
		                 file, format, PROGRAM);
	return error_set(error, "%s: cannot start %s: %s", file, PROGRAM, strerror(error));
}

int qemu_nbd_open(struct block **block, const struct block_config *config, const char *format)
{
	static char name[] = PROGRAM, image_opts[] = "--image-opts", cache[] = "--cache=writeback",
	            unmap[] = "--discard=unmap", read_only[] = "--read-only";
	struct launch launch = {.argv = {name, image_opts, cache, unmap}};
	struct nbd_server server = {0};
	char *options = image_options(config, format);
	int connected, error, used = 4;

#ifndef NESTOR_HAVE_LIBNBD
	free(options);
	return error_set(ENOTSUP, "%s: a %s image needs libnbd, which this build of Nestor lacks; convert it: qemu-img convert "
				  "-O raw", config->file, format);
#endif
	if (access(config->file, config->read_only ? R_OK : R_OK | W_OK)) {
		free(options);
		return error_set(errno, "cannot open %s%s: %s", config->file,
		                 config->read_only ? "" : " for writing", strerror(errno));
	}
	if (config->read_only)
		launch.argv[used++] = read_only;
	launch.argv[used] = options;
	error = options ? make_environment(&launch) : error_set(ENOMEM, "out of memory");
	if (!error)
		error = make_sockets(config->file, &launch.listening, &connected);
	if (!error) {
		error = fork_server(&launch, config->file, format, &server);
		close(launch.listening);
		if (error)
			close(connected);
	}
	free(options);
	if (launch.listen_pid)
		free(launch.listen_pid - strlen("LISTEN_PID="));
	free(launch.environment);
	return error ? error : nbd_open_socket(block, config, format, connected, &server);
}

void nbd_server_end(const struct nbd_server *server)
{
	const struct timespec pause = {.tv_nsec = 5000000};

	if (server->errors >= 0)
		close(server->errors);
	if (!server->pid)
		return;
	for (unsigned waited = 0; waitpid(server->pid, NULL, WNOHANG) == 0; waited += 5) {
		if (waited == PATIENCE_MS) {
			kill(server->pid, SIGKILL);
			waitpid(server->pid, NULL, 0);
			return;
		}
		nanosleep(&pause, NULL);
	}
}

void nbd_server_complaint(const struct nbd_server *server, char *text, size_t size)
{
	struct pollfd poll_fd = {.fd = server->errors, .events = POLLIN};
	size_t used = 0, prefix = strlen(PROGRAM ": ");
	ssize_t got = 1;

	while (server->errors >= 0 && used < size - 1 && got > 0 && poll(&poll_fd, 1, 2000) > 0) {
		got = read(server->errors, text + used, size - 1 - used);
		used += got > 0 ? (size_t)got : 0;
	}
	text[used] = '\0';
	text[strcspn(text, "\n")] = '\0';
	if (!strncmp(text, PROGRAM ": ", prefix))
		memmove(text, text + prefix, strlen(text + prefix) + 1);
}

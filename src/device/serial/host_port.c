#include "device/serial/host_port.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <termios.h>
#include <time.h>
#include <unistd.h>

#include "device/chipset/acpi_pm.h"
#include "device/serial/terminal.h"
#include "machine/event_loop.h"
#include "machine/machine.h"
#include "util/error.h"
#include "util/listen.h"
#include "util/thread.h"

#define OUTPUT_SIZE 65536
#define INPUT_SIZE  4096
#define GATHER_NS   1000000 /* the writer waits this long for more bytes */

#define ESCAPE 0x01 /* Ctrl-A */

#define HISTORY_SIZE 16384 /* of a console, for who connects */
#define LAG_MS       50    /* a console's terminal is waited for so long, then what it does not take is dropped */

enum kind { KIND_NULL, KIND_STDIO, KIND_STDERR, KIND_FILE, KIND_PTY, KIND_UNIX, KIND_CONSOLE };

struct host_port {
	struct machine *machine;
	enum kind kind;
	const char *name;
	void (*input)(void *context);
	void *context;
	int in_fd, listen_fd, slave_fd; /* event loop's thread, -1: none */
	atomic_int out_fd;
	bool terminal, escape; /* the last byte was Ctrl-A */
	char *socket_path;     /* to unlink */

	pthread_mutex_t console_lock; /* the writer and who connects: history, and what is sent to out_fd */
	uint8_t history[HISTORY_SIZE];
	size_t history_count, history_first;
	bool lagging; /* the terminal did not take all; the writer's */
	bool patient; /* host_port_be_patient */

	uint8_t in[INPUT_SIZE]; /* under the machine lock */
	unsigned in_count, in_first;
	bool in_paused;

	pthread_t writer;
	bool writer_started;
	pthread_mutex_t lock; /* the fields below */
	pthread_cond_t more, room;
	uint8_t out[OUTPUT_SIZE];
	unsigned out_count, out_first;
	bool sleeping, closing;
};

/* ---- output ---- */

static void remember(struct host_port *port, const uint8_t *data, size_t size)
{
	for (size_t i = 0; i < size; i++) {
		port->history[(port->history_first + port->history_count) % HISTORY_SIZE] = data[i];
		if (port->history_count < HISTORY_SIZE)
			port->history_count++;
		else
			port->history_first = (port->history_first + 1) % HISTORY_SIZE;
	}
}

/*
 * Keeps what a console says and shows it to who looks. One that does not read is waited for once; from then on it
 * misses what its socket has no room for, until there is some.
 */
static void write_console(struct host_port *port, const uint8_t *data, size_t size)
{
	int fd;

	pthread_mutex_lock(&port->console_lock);
	remember(port, data, size);
	fd = atomic_load(&port->out_fd);
	while (size && fd >= 0) {
		ssize_t written = send(fd, data, size, MSG_NOSIGNAL | MSG_DONTWAIT);
		struct pollfd wait = {.fd = fd, .events = POLLOUT};

		if (written > 0) {
			data += written;
			size -= (size_t)written;
			port->lagging = false;
		} else if (errno != EINTR) {
			if (errno != EAGAIN || port->lagging || poll(&wait, 1, LAG_MS) <= 0) {
				port->lagging = true;
				break;
			}
		}
	}
	pthread_mutex_unlock(&port->console_lock);
}

/*
 * A socket's other end does not read. Who waits without harm (a patient port) does so until the end; others for a moment,
 * and then not again until it reads.
 */
static bool wait_for_reader(struct host_port *port, int fd)
{
	struct pollfd wait = {.fd = fd, .events = POLLOUT};
	bool patient;

	if (port->lagging && !port->patient)
		return false;
	if (poll(&wait, 1, LAG_MS) > 0)
		return true;
	pthread_mutex_lock(&port->lock);
	patient = port->patient && !port->closing;
	pthread_mutex_unlock(&port->lock);
	port->lagging = !patient;
	return patient;
}

/* False where the bytes could not be written and never will. */
static bool write_all(struct host_port *port, const uint8_t *data, size_t size)
{
	while (size) {
		int fd = atomic_load(&port->out_fd);
		ssize_t written = fd < 0 ? -1 : write(fd, data, size);

		if (written > 0) {
			data += written;
			size -= (size_t)written;
			port->lagging = false;
			continue;
		}
		if (fd >= 0 && errno == EINTR)
			continue;
		if (fd >= 0 && errno == EAGAIN && port->kind == KIND_UNIX && wait_for_reader(port, fd))
			continue;
		if (fd >= 0 && errno == EAGAIN && (port->kind == KIND_STDIO || port->kind == KIND_STDERR)) {
			struct pollfd wait = {.fd = fd, .events = POLLOUT};

			poll(&wait, 1, -1);
			continue;
		}
		return false; /* nobody listens */
	}
	return true;
}

static void *writer_thread(void *argument)
{
	struct host_port *port = argument;
	uint8_t batch[8192];
	const struct timespec gather = {0, GATHER_NS};

	pthread_setname_np(pthread_self(), "nestor-serial");
	pthread_mutex_lock(&port->lock);
	for (;;) {
		unsigned count;

		while (port->out_count == 0 && !port->closing) {
			port->sleeping = true;
			pthread_cond_wait(&port->more, &port->lock);
			port->sleeping = false;
		}
		if (port->out_count == 0)
			break;
		if (port->out_count < sizeof(batch) && !port->closing) {
			pthread_mutex_unlock(&port->lock);
			nanosleep(&gather, NULL);
			pthread_mutex_lock(&port->lock);
		}
		count = OUTPUT_SIZE - port->out_first;
		if (count > port->out_count)
			count = port->out_count;
		if (count > sizeof(batch))
			count = sizeof(batch);
		memcpy(batch, port->out + port->out_first, count);
		port->out_first = (port->out_first + count) % OUTPUT_SIZE;
		port->out_count -= count;
		pthread_cond_signal(&port->room);
		pthread_mutex_unlock(&port->lock);
		if (port->kind == KIND_CONSOLE)
			write_console(port, batch, count);
		else
			write_all(port, batch, count);
		pthread_mutex_lock(&port->lock);
	}
	pthread_mutex_unlock(&port->lock);
	return NULL;
}

void host_port_put(struct host_port *port, uint8_t byte)
{
	if (!port->writer_started)
		return;
	pthread_mutex_lock(&port->lock);
	while (port->out_count == OUTPUT_SIZE)
		pthread_cond_wait(&port->room, &port->lock);
	port->out[(port->out_first + port->out_count++) % OUTPUT_SIZE] = byte;
	if (port->sleeping)
		pthread_cond_signal(&port->more);
	pthread_mutex_unlock(&port->lock);
}

void host_port_be_patient(struct host_port *port)
{
	port->patient = true;
}

size_t host_port_write(struct host_port *port, const uint8_t *data, size_t size)
{
	size_t done = 0;

	if (!port->writer_started)
		return size;
	pthread_mutex_lock(&port->lock);
	while (done < size && port->out_count < OUTPUT_SIZE) {
		unsigned end = (port->out_first + port->out_count) % OUTPUT_SIZE;
		size_t room = end < port->out_first ? port->out_first - end : OUTPUT_SIZE - end;

		room = room < size - done ? room : size - done;
		memcpy(port->out + end, data + done, room);
		port->out_count += (unsigned)room;
		done += room;
	}
	if (done && port->sleeping)
		pthread_cond_signal(&port->more);
	pthread_mutex_unlock(&port->lock);
	return done;
}

static void say(struct host_port *port, const char *text)
{
	pthread_mutex_lock(&port->lock);
	for (; *text && port->out_count < OUTPUT_SIZE; text++)
		port->out[(port->out_first + port->out_count++) % OUTPUT_SIZE] = (uint8_t)*text;
	if (port->sleeping)
		pthread_cond_signal(&port->more);
	pthread_mutex_unlock(&port->lock);
}

/* A signal for the event loop must not end up here, nor a closed pipe end the process. */
static int start_writer(struct host_port *port)
{
	int error = thread_start(&port->writer, writer_thread, port);

	if (error)
		return error_set(error, "%s: cannot start its thread: %s", port->name, strerror(error));
	port->writer_started = true;
	return 0;
}

/* ---- input ---- */

bool host_port_get(struct host_port *port, uint8_t *byte)
{
	if (port->in_count == 0)
		return false;
	*byte = port->in[port->in_first];
	port->in_first = (port->in_first + 1) % INPUT_SIZE;
	port->in_count--;
	if (port->in_paused && port->in_count < INPUT_SIZE / 2) {
		port->in_paused = false;
		if (port->in_fd >= 0)
			event_loop_set_events(port->machine->loop, port->in_fd, POLLIN);
	}
	return true;
}

/* Takes the terminal's commands out of `data`; returns how many bytes are left for the guest. */
static size_t filter_escapes(struct host_port *port, uint8_t *data, size_t size)
{
	size_t kept = 0;

	for (size_t i = 0; i < size; i++) {
		if (!port->escape) {
			port->escape = data[i] == ESCAPE;
			if (!port->escape)
				data[kept++] = data[i];
			continue;
		}
		port->escape = false;
		switch (data[i]) {
		case 'x':
		case 'X':
		case 'x' & 0x1f:
			say(port, "\r\nnestor: left with Ctrl-A x\r\n");
			machine_stop_because(port->machine, 0, STOP_HOST_UI);
			break;
		case 'w':
			say(port, machine_wakeup(port->machine) ? "\r\nnestor: woken\r\n"
			                                        : "\r\nnestor: the guest is not asleep\r\n");
			break;
		case 'p':
			say(port, "\r\nnestor: power button\r\n");
			machine_lock(port->machine);
			acpi_pm_power_button(port->machine->acpi_pm);
			machine_unlock(port->machine);
			break;
		case 'h':
		case '?':
			say(port, "\r\nnestor: Ctrl-A x  leave\r\n"
			          "        Ctrl-A p  press the power button\r\n"
			          "        Ctrl-A w  wake a guest that is suspended to RAM\r\n"
			          "        Ctrl-A h  this help\r\n"
			          "        Ctrl-A Ctrl-A  send a Ctrl-A\r\n");
			break;
		case ESCAPE:
		case 'a':
			data[kept++] = ESCAPE;
			break;
		default: /* not a command: the guest gets both */
			if (kept + 2 <= i + 1)
				data[kept++] = ESCAPE;
			data[kept++] = data[i];
			break;
		}
	}
	return kept;
}

static void stop_input(struct host_port *port)
{
	int fd = port->in_fd;

	machine_lock(port->machine);
	port->in_fd = -1;
	machine_unlock(port->machine);
	event_loop_remove_fd(port->machine->loop, fd);
	if (port->kind == KIND_UNIX || port->kind == KIND_CONSOLE) {
		pthread_mutex_lock(&port->console_lock);
		atomic_store(&port->out_fd, -1);
		close(fd);
		pthread_mutex_unlock(&port->console_lock);
		event_loop_set_events(port->machine->loop, port->listen_fd, POLLIN);
	}
}

static void on_input(void *context, short revents)
{
	struct host_port *port = context;
	uint8_t data[INPUT_SIZE];
	size_t room, kept;
	ssize_t size;

	machine_lock(port->machine);
	room = INPUT_SIZE - port->in_count;
	machine_unlock(port->machine); /* only this thread adds */
	size = read(port->in_fd, data, room);
	if (size < 0 && (errno == EAGAIN || errno == EINTR))
		return;
	if (size <= 0 && room) {
		stop_input(port);
		return;
	}
	kept = port->terminal ? filter_escapes(port, data, (size_t)size) : (size_t)size;
	machine_lock(port->machine);
	for (size_t i = 0; i < kept; i++)
		port->in[(port->in_first + port->in_count++) % INPUT_SIZE] = data[i];
	if (port->in_count == INPUT_SIZE) {
		port->in_paused = true;
		event_loop_set_events(port->machine->loop, port->in_fd, 0);
	}
	port->input(port->context);
	machine_unlock(port->machine);
}

static int watch_input(struct host_port *port, int fd)
{
	port->in_fd = fd;
	return event_loop_add_fd(port->machine->loop, fd, POLLIN, on_input, port);
}

/* ---- kinds ---- */

static int open_stdio(struct host_port *port)
{
	int terminal = terminal_raw(port->machine->config.trace != 0);

	if (terminal < 0)
		return terminal;
	if (fcntl(STDOUT_FILENO, F_GETFL) < 0)
		return error_set(EBADF, "%s: standard output is closed", port->name);
	port->terminal = terminal;
	atomic_store(&port->out_fd, STDOUT_FILENO);
	return fcntl(STDIN_FILENO, F_GETFL) < 0 ? 0 : watch_input(port, STDIN_FILENO);
}

static int open_file(struct host_port *port, const char *path)
{
	int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);

	if (fd < 0)
		return error_set(errno, "%s: cannot write %s: %s", port->name, path, strerror(errno));
	atomic_store(&port->out_fd, fd);
	return 0;
}

/* The slave stays open here too, so that users may come and go. */
static int open_pty(struct host_port *port)
{
	int master = posix_openpt(O_RDWR | O_NOCTTY | O_CLOEXEC | O_NONBLOCK);
	struct termios mode;
	char path[64];

	atomic_store(&port->out_fd, master);
	if (master < 0 || grantpt(master) || unlockpt(master) || ptsname_r(master, path, sizeof(path)))
		return error_set(errno, "%s: cannot make a pseudo terminal: %s", port->name, strerror(errno));
	port->slave_fd = open(path, O_RDWR | O_NOCTTY | O_CLOEXEC);
	if (port->slave_fd < 0 || tcgetattr(port->slave_fd, &mode))
		return error_set(errno, "%s: cannot open %s: %s", port->name, path, strerror(errno));
	cfmakeraw(&mode);
	tcsetattr(port->slave_fd, TCSANOW, &mode);
	fprintf(stderr, "nestor: %s is %s\n", port->name, path);
	return watch_input(port, master);
}

/* A new socket has room for it. */
static void show_history(const struct host_port *port, int fd)
{
	for (size_t done = 0; done < port->history_count;) {
		size_t first = (port->history_first + done) % HISTORY_SIZE, size = port->history_count - done;
		ssize_t sent = send(fd, port->history + first, size < HISTORY_SIZE - first ? size : HISTORY_SIZE - first,
		                    MSG_NOSIGNAL | MSG_DONTWAIT);

		if (sent <= 0)
			return;
		done += (size_t)sent;
	}
}

static void on_connection(void *context, short revents)
{
	struct host_port *port = context;
	int fd = accept4(port->listen_fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);

	if (fd < 0)
		return;
	event_loop_set_events(port->machine->loop, port->listen_fd, 0); /* one at a time */
	pthread_mutex_lock(&port->console_lock);
	show_history(port, fd);
	atomic_store(&port->out_fd, fd);
	port->lagging = false;
	pthread_mutex_unlock(&port->console_lock);
	if (watch_input(port, fd))
		stop_input(port);
}

static int open_unix(struct host_port *port, const char *path)
{
	int fd = listen_at_path(path, 1);

	if (fd == -ENAMETOOLONG)
		return error_set(ENAMETOOLONG, "%s: socket path too long: %s", port->name, path);
	if (fd < 0)
		return error_set(-fd, "%s: cannot listen on %s: %s", port->name, path, strerror(-fd));
	port->listen_fd = fd;
	port->socket_path = strdup(path);
	return event_loop_add_fd(port->machine->loop, port->listen_fd, POLLIN, on_connection, port);
}

static int open_kind(struct host_port *port, const char *spec)
{
	if (strcmp(spec, "null") == 0) {
		port->kind = KIND_NULL;
		return 0;
	}
	if (strcmp(spec, "stdio") == 0) {
		port->kind = KIND_STDIO;
		return open_stdio(port);
	}
	if (strcmp(spec, "stderr") == 0) {
		port->kind = KIND_STDERR;
		atomic_store(&port->out_fd, STDERR_FILENO);
		return 0;
	}
	if (strncmp(spec, "file:", 5) == 0 && spec[5]) {
		port->kind = KIND_FILE;
		return open_file(port, spec + 5);
	}
	if (strcmp(spec, "pty") == 0) {
		port->kind = KIND_PTY;
		return open_pty(port);
	}
	if (strncmp(spec, "unix:", 5) == 0 && spec[5]) {
		port->kind = KIND_UNIX;
		return open_unix(port, spec + 5);
	}
	if (strncmp(spec, "console:", 8) == 0 && spec[8]) {
		port->kind = KIND_CONSOLE;
		return open_unix(port, spec + 8);
	}
	return error_set(EINVAL, "%s: unknown target '%s': give stdio, file:PATH, pty, unix:PATH or null",
	                 port->name, spec);
}

int host_port_open(struct host_port **result, struct machine *machine, const char *spec, const char *name,
                   void (*input)(void *context), void *context)
{
	struct host_port *port = calloc(1, sizeof(*port));
	int error;

	if (!port)
		return error_set(ENOMEM, "out of memory");
	port->machine = machine;
	port->name = name;
	port->input = input;
	port->context = context;
	port->in_fd = port->listen_fd = port->slave_fd = -1;
	atomic_store(&port->out_fd, -1);
	pthread_mutex_init(&port->lock, NULL);
	pthread_mutex_init(&port->console_lock, NULL);
	pthread_cond_init(&port->more, NULL);
	pthread_cond_init(&port->room, NULL);
	error = open_kind(port, spec);
	if (!error && port->kind != KIND_NULL)
		error = start_writer(port);
	if (error) {
		host_port_close(port);
		return error;
	}
	*result = port;
	return 0;
}

void host_port_close(struct host_port *port)
{
	int out;

	if (!port)
		return;
	if (port->in_fd >= 0)
		event_loop_remove_fd(port->machine->loop, port->in_fd);
	if (port->listen_fd >= 0)
		event_loop_remove_fd(port->machine->loop, port->listen_fd);
	if (port->writer_started) {
		pthread_mutex_lock(&port->lock);
		port->closing = true;
		pthread_cond_signal(&port->more);
		pthread_mutex_unlock(&port->lock);
		pthread_join(port->writer, NULL);
	}
	if (port->kind == KIND_STDIO)
		terminal_restore();
	out = atomic_load(&port->out_fd);
	if (out >= 0 && port->kind != KIND_STDIO && port->kind != KIND_STDERR)
		close(out); /* of a pty or a socket this is in_fd too */
	if (port->listen_fd >= 0)
		close(port->listen_fd);
	if (port->slave_fd >= 0)
		close(port->slave_fd);
	if (port->socket_path)
		unlink(port->socket_path);
	free(port->socket_path);
	pthread_mutex_destroy(&port->lock);
	pthread_mutex_destroy(&port->console_lock);
	pthread_cond_destroy(&port->more);
	pthread_cond_destroy(&port->room);
	free(port);
}

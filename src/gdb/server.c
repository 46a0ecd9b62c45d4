/*
 * The thread that talks to GDB: one connection at a time, and the stops of vCPUs, which come from their threads.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include "gdb/gdb.h"
#include "gdb/stub.h"
#include "machine/machine.h"
#include "util/error.h"
#include "util/listen.h"
#include "util/properties.h"
#include "util/thread.h"

#define SEND_MS 10000 /* a debugger that takes nothing for so long is gone */

struct gdb {
	struct machine *machine;
	struct stub stub;
	struct packet_reader reader;
	int listen_fd, client_fd, wake_fd; /* client_fd -1: none */
	char *socket_path;                 /* to unlink; owned */
	bool waiting;                      /* ",wait": the machine stands still until a debugger comes */
	pthread_t thread;
	bool started;
	atomic_bool ended;              /* machine_run has returned */
	int status;                     /* … with this, before ended is set */
	_Atomic uint64_t stopped;       /* vCPUs that stopped, a bit each … */
	atomic_uint stops;              /* … and how many machine_pauses that were */
	char last[2 * PACKET_MAX + 64]; /* the last packet, to be sent again */
	size_t last_size;
	char out[4 * PACKET_MAX + 256];
};

/* ---- sending ---- */

static void drop_client(struct gdb *gdb)
{
	close(gdb->client_fd);
	gdb->client_fd = -1;
}

static void send_bytes(struct gdb *gdb, const char *data, size_t size)
{
	while (size && gdb->client_fd >= 0) {
		ssize_t sent = send(gdb->client_fd, data, size, MSG_NOSIGNAL | MSG_DONTWAIT);
		struct pollfd wait = {.fd = gdb->client_fd, .events = POLLOUT};

		if (sent > 0) {
			data += sent;
			size -= (size_t)sent;
		} else if ((errno != EAGAIN && errno != EINTR) || poll(&wait, 1, SEND_MS) == 0) {
			gdb->stub.closing = true;
			return;
		}
	}
}

static void send_last(struct gdb *gdb)
{
	send_bytes(gdb, gdb->out, packet_write(gdb->last, gdb->last_size, gdb->out));
}

static void send_packet(void *context, const char *data, size_t size)
{
	struct gdb *gdb = context;

	gdb->last_size = size < sizeof(gdb->last) ? size : sizeof(gdb->last);
	memcpy(gdb->last, data, gdb->last_size);
	send_last(gdb);
}

/* ---- receiving ---- */

static void receive_byte(struct gdb *gdb, uint8_t byte)
{
	switch (packet_read(&gdb->reader, byte)) {
	case PACKET_WHOLE:
		if (!gdb->stub.no_ack)
			send_bytes(gdb, "+", 1);
		stub_packet(&gdb->stub, gdb->reader.data, gdb->reader.size);
		break;
	case PACKET_BROKEN:
		if (!gdb->stub.no_ack)
			send_bytes(gdb, "-", 1);
		break;
	case PACKET_REFUSED:
		if (!gdb->stub.no_ack && gdb->last_size)
			send_last(gdb);
		break;
	case PACKET_INTERRUPT:
		stub_interrupt(&gdb->stub);
		break;
	case PACKET_ACCEPTED:
	case PACKET_NOTHING:
		break;
	}
}

static void receive(struct gdb *gdb)
{
	uint8_t data[4096];
	ssize_t size = recv(gdb->client_fd, data, sizeof(data), MSG_DONTWAIT);

	if (size < 0 && (errno == EAGAIN || errno == EINTR))
		return;
	if (size <= 0)
		gdb->stub.closing = true;
	for (ssize_t i = 0; i < size && !gdb->stub.closing; i++)
		receive_byte(gdb, data[i]);
}

static void accept_client(struct gdb *gdb)
{
	int fd = accept4(gdb->listen_fd, NULL, NULL, SOCK_CLOEXEC), one = 1;

	if (fd < 0)
		return;
	/* One debugger at a time; none where the machine is about to end. */
	if (gdb->client_fd >= 0 || stub_attach(&gdb->stub, gdb->waiting)) {
		close(fd);
		return;
	}
	setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one)); /* no harm where it is none of TCP */
	gdb->waiting = false;
	gdb->client_fd = fd;
	gdb->last_size = 0;
	memset(&gdb->reader, 0, sizeof(gdb->reader));
}

/* ---- the vCPUs ---- */

static void wake(struct gdb *gdb)
{
	uint64_t one = 1;
	ssize_t written = write(gdb->wake_fd, &one, sizeof(one));

	(void)written; /* a full counter wakes as well */
}

/* On a vCPU's thread. */
static void on_stop(void *context, unsigned vcpu)
{
	struct gdb *gdb = context;

	atomic_fetch_or(&gdb->stopped, UINT64_C(1) << vcpu);
	atomic_fetch_add(&gdb->stops, 1);
	wake(gdb);
}

/* Each stop has paused the machine once; in place of all that it is paused once, for the stub. */
static void take_stops(struct gdb *gdb)
{
	const struct timespec again = {0, 10000000};
	bool ours = gdb->stub.attached && !gdb->stub.running;
	uint64_t ignored, mask;

	if (read(gdb->wake_fd, &ignored, sizeof(ignored)) < 0)
		return;
	if (!atomic_load(&gdb->stops))
		return;
	if (machine_pause(gdb->machine)) { /* it ends or starts over: later */
		nanosleep(&again, NULL);
		wake(gdb);
		return;
	}
	mask = atomic_exchange(&gdb->stopped, 0);
	for (unsigned count = atomic_exchange(&gdb->stops, 0); count; count--)
		machine_resume(gdb->machine);
	if (ours)
		machine_resume(gdb->machine); /* it has its pause already */
	stub_stopped(&gdb->stub, mask);
}

/* ---- the thread ---- */

static void *gdb_thread(void *argument)
{
	struct gdb *gdb = argument;

	pthread_setname_np(pthread_self(), "nestor-gdb");
	while (!atomic_load(&gdb->ended)) {
		struct pollfd fd[3] = {{.fd = gdb->wake_fd, .events = POLLIN},
		                       {.fd = gdb->listen_fd, .events = POLLIN},
		                       {.fd = gdb->client_fd, .events = POLLIN}};

		if (poll(fd, 3, -1) < 0)
			continue;
		if (fd[0].revents)
			take_stops(gdb);
		if (gdb->client_fd >= 0 && fd[2].revents)
			receive(gdb);
		if (fd[1].revents)
			accept_client(gdb);
		if (gdb->client_fd >= 0 && gdb->stub.closing) {
			stub_detach(&gdb->stub);
			drop_client(gdb);
		}
	}
	stub_exited(&gdb->stub, gdb->status);
	return NULL;
}

static int start_thread(struct gdb *gdb)
{
	int error = thread_start(&gdb->thread, gdb_thread, gdb);

	gdb->started = !error;
	return error ? error_set(error, "--gdb: cannot start its thread: %s", strerror(error)) : 0;
}

/* ---- where to listen ---- */

struct place {
	unsigned port;    /* of TCP, 0: */
	const char *path; /* … this socket; borrowed from the list */
	bool wait;
	enum registers_kind kind;
};

static int parse(struct properties *list, const char *spec, struct place *place)
{
	const char *first, *arch;
	char *end;
	int result = properties_parse(list, "--gdb", spec);
	unsigned long port;

	*place = (struct place){0};
	if (result)
		return result;
	first = properties_first(list);
	if (first && !strncmp(first, "unix:", 5) && first[5]) {
		place->path = first + 5;
		if (strlen(place->path) >= sizeof(((struct sockaddr_un *)0)->sun_path))
			return error_set(EINVAL, "--gdb %s: the path is too long for a socket", spec);
	} else {
		port = first && *first >= '0' && *first <= '9' ? strtoul(first, &end, 10) : 0;
		if (!port || port > 65535 || *end)
			return error_set(EINVAL, "--gdb %s: must be a PORT from 1 to 65535, or unix:PATH, perhaps with ,wait", spec);
		place->port = (unsigned)port;
	}
	result = properties_switch(list, "wait", false, &place->wait);
	arch = properties_get(list, "arch");
	if (arch && strcmp(arch, "i8086") && strcmp(arch, "i386") && strcmp(arch, "x86-64"))
		return error_set(EINVAL,
		                 "--gdb %s: arch must be x86-64, i386 or i8086, for 64-, 32- or 16-bit code",
		                 spec);
	place->kind = !arch || !strcmp(arch, "x86-64") ? REGISTERS_X86_64
		    : !strcmp(arch, "i386")            ? REGISTERS_I386
						       : REGISTERS_I8086;
	return result ? result : properties_check_used(list, "wait and arch=x86-64, i386 or i8086");
}

int gdb_check(const char *spec)
{
	struct properties list;
	struct place place;
	int result = parse(&list, spec, &place);

	properties_free(&list);
	return result;
}

static int listen_at(struct gdb *gdb, const struct place *place)
{
	const struct sockaddr_in tcp = {.sin_family = AF_INET, .sin_port = htons((uint16_t)place->port),
	                                .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	int fd = place->path ? listen_at_path(place->path, 1)
	                     : listen_at_address((const struct sockaddr *)&tcp, sizeof(tcp), 1);

	if (fd < 0 && place->path)
		return error_set(-fd, "--gdb unix:%s: cannot listen there: %s", place->path, strerror(-fd));
	if (fd < 0)
		return error_set(-fd, "--gdb %u: cannot listen on this port: %s", place->port, strerror(-fd));
	gdb->listen_fd = fd;
	gdb->socket_path = place->path ? strdup(place->path) : NULL;
	return 0;
}

int gdb_start(struct gdb **result, struct machine *machine, const char *spec)
{
	struct gdb *gdb = calloc(1, sizeof(*gdb));
	struct properties list = {0};
	struct place place;
	int error;

	if (!gdb)
		return error_set(ENOMEM, "out of memory for the debugger");
	gdb->machine = machine;
	gdb->client_fd = gdb->listen_fd = -1;
	gdb->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	error = gdb->wake_fd < 0
	            ? error_set(errno, "--gdb: cannot make an event counter: %s", strerror(errno))
	            : 0;
	if (!error && !machine->engine->vcpu_set_debug)
		error = error_set(ENOTSUP, "--gdb: the %s engine cannot be debugged", machine->engine->name);
	if (!error)
		error = parse(&list, spec, &place);
	if (!error) {
		stub_init(&gdb->stub, machine, place.kind, send_packet, gdb);
		error = listen_at(gdb, &place);
	}
	if (!error && place.wait)
		error = machine_pause(machine); /* vCPUs that start stand still */
	if (!error) {
		gdb->waiting = place.wait;
		machine_set_debugger(machine, on_stop, gdb);
		error = start_thread(gdb);
	}
	properties_free(&list);
	if (error) {
		gdb_stop(gdb, 0);
		return error;
	}
	*result = gdb;
	return 0;
}

void gdb_stop(struct gdb *gdb, int status)
{
	if (!gdb)
		return;
	if (gdb->started) {
		gdb->status = status;
		atomic_store(&gdb->ended, true);
		wake(gdb);
		pthread_join(gdb->thread, NULL);
	}
	machine_set_debugger(gdb->machine, NULL, NULL);
	if (gdb->client_fd >= 0)
		drop_client(gdb);
	if (gdb->listen_fd >= 0)
		close(gdb->listen_fd);
	if (gdb->wake_fd >= 0)
		close(gdb->wake_fd);
	if (gdb->socket_path)
		unlink(gdb->socket_path);
	free(gdb->socket_path);
	free(gdb);
}

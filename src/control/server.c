/*
 * The control thread: it owns all clients, reads their commands, executes them one after another, and sends answers
 * and events.
 *
 * A client cannot make the machine wait, because nothing here runs under the machine lock but what a command itself
 * needs, and cannot make memory grow: what it may send at once is bounded by framing.h, no command of a client is
 * read while OUTPUT_HIGH bytes of its answers have not been taken, and events for a client that lies so far behind
 * are dropped.
 */
#include "control/control.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "control/command.h"
#include "control/endpoint.h"
#include "control/events.h"
#include "control/framing.h"
#include "machine/machine.h"
#include "util/error.h"
#include "util/thread.h"

#define CLIENTS_MAX   16
#define OUTPUT_HIGH   65536
#define COMMANDS_TURN 64         /* of one client before the others' turn */
#define FAREWELL_MS   500

struct client {
	int fd; /* -1: free */
	bool negotiated, ended; /* ended: sends no more, is closed when its output is gone */
	struct framing framing;
	char input[4096];
	size_t input_size, input_first;
	char *output; /* owned; output_sent of output_size bytes have left */
	size_t output_size, output_sent;
};

struct control {
	struct control_state state;
	struct endpoint *endpoint;
	struct event_ring events;
	int listen_fd;
	pthread_t thread;
	bool started;
	atomic_bool closing;
	struct client client[CLIENTS_MAX];
};

/* ---- output ---- */

static void close_client(struct client *client)
{
	close(client->fd);
	client->fd = -1;
	framing_free(&client->framing);
	free(client->output);
	client->output = NULL;
}

/* Sends what the socket takes. False where the client is gone. */
static bool flush(struct client *client)
{
	while (client->output_sent < client->output_size) {
		ssize_t sent = send(client->fd, client->output + client->output_sent,
		                    client->output_size - client->output_sent, MSG_NOSIGNAL | MSG_DONTWAIT);

		if (sent < 0)
			return errno == EAGAIN || errno == EINTR;
		client->output_sent += (size_t)sent;
	}
	free(client->output);
	client->output = NULL;
	client->output_size = client->output_sent = 0;
	return true;
}

static size_t output_waits(const struct client *client)
{
	return client->output_size - client->output_sent;
}

/* Appends one line. Takes message over. */
static void put_message(struct client *client, json_t *message)
{
	char *text = message ? json_dumps(message, JSON_COMPACT) : NULL, *grown;
	size_t length = text ? strlen(text) : 0;

	json_decref(message);
	grown = text ? realloc(client->output, client->output_size + length + 2) : NULL;
	if (!grown) {
		client->ended = true; /* an answer that cannot be given is no answer */
		free(text);
		return;
	}
	memcpy(grown + client->output_size, text, length);
	memcpy(grown + client->output_size + length, "\r\n", 2);
	client->output = grown;
	client->output_size += length + 2;
	free(text);
}

/* ---- input ---- */

static void execute(struct control *control, struct client *client, enum framing_result result)
{
	if (result == FRAMING_LARGE) {
		put_message(client, json_pack("{s:{s:s,s:s}}", "error", "class", "GenericError", "desc",
		                              "the command is too large or nested too deeply"));
		client->ended = true;
		return;
	}
	put_message(client, command_execute(&control->state, client->framing.text, client->framing.length,
	                                    &client->negotiated));
	framing_next(&client->framing);
}

/* Executes what has been read. Stops where the client must first take its answers. */
static void serve_input(struct control *control, struct client *client)
{
	for (unsigned i = 0; i < COMMANDS_TURN && client->input_first < client->input_size &&
	                     !client->ended && output_waits(client) < OUTPUT_HIGH;
	     i++) {
		size_t taken = 0;
		enum framing_result result = framing_feed(&client->framing, client->input + client->input_first,
		                                          client->input_size - client->input_first, &taken);

		client->input_first += taken;
		if (result != FRAMING_MORE)
			execute(control, client, result);
	}
}

static bool has_input(const struct client *client)
{
	return client->input_first < client->input_size;
}

static void read_input(struct client *client)
{
	ssize_t size = recv(client->fd, client->input, sizeof(client->input), MSG_DONTWAIT);

	if (size < 0 && (errno == EAGAIN || errno == EINTR))
		return;
	client->input_first = 0;
	client->input_size = size > 0 ? (size_t)size : 0;
	if (size <= 0)
		client->ended = true;
}

static void accept_client(struct control *control)
{
	static const char full[] = "{\"error\":{\"class\":\"GenericError\",\"desc\":\"too many clients\"}}\r\n";
	int fd = accept4(control->listen_fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);

	if (fd < 0)
		return;
	for (unsigned i = 0; i < CLIENTS_MAX; i++) {
		struct client *client = &control->client[i];

		if (client->fd >= 0)
			continue;
		*client = (struct client){.fd = fd};
		if (framing_init(&client->framing)) {
			close_client(client);
			return;
		}
		put_message(client, command_greeting());
		return;
	}
	if (send(fd, full, sizeof(full) - 1, MSG_NOSIGNAL | MSG_DONTWAIT) < 0)
		errno = 0; /* it will see the end of the connection */
	close(fd);
}

/* ---- events ---- */

static void follow(struct control_state *state, const struct event_record *record)
{
	struct timespec now;

	switch (record->event) {
	case MACHINE_EVENT_STARTED:
		clock_gettime(CLOCK_MONOTONIC, &now);
		state->started_ns = (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
		break;
	case MACHINE_EVENT_RESET:
		state->suspended = state->panicked = false;
		break;
	case MACHINE_EVENT_SUSPEND:
		state->suspended = true;
		break;
	case MACHINE_EVENT_WAKEUP:
		state->suspended = false;
		break;
	case MACHINE_EVENT_PANICKED:
		state->panicked = true;
		break;
	case MACHINE_EVENT_SHUTDOWN:
		state->shut_down = true;
		break;
	default:
		break;
	}
}

static void send_events(struct control *control)
{
	struct event_record record;
	uint64_t ignored;

	if (read(control->events.wake_fd, &ignored, sizeof(ignored)) < 0 && errno != EAGAIN)
		return;
	while (event_ring_take(&control->events, &record)) {
		json_t *message = event_message(&record);

		follow(&control->state, &record);
		for (unsigned i = 0; message && i < CLIENTS_MAX; i++) {
			struct client *client = &control->client[i];

			if (client->fd >= 0 && client->negotiated && !client->ended &&
			    output_waits(client) < OUTPUT_HIGH)
				put_message(client, json_incref(message));
		}
		json_decref(message);
	}
}

/* ---- the thread ---- */

static short wanted(const struct client *client)
{
	short events = output_waits(client) ? POLLOUT : 0;

	return !client->ended && !has_input(client) && output_waits(client) < OUTPUT_HIGH ? events | POLLIN
	                                                                                  : events;
}

static void serve_client(struct control *control, struct client *client, short revents)
{
	if (revents & (POLLIN | POLLHUP | POLLERR) && !has_input(client) && !client->ended &&
	    output_waits(client) < OUTPUT_HIGH)
		read_input(client);
	serve_input(control, client);
	if (!flush(client) || (client->ended && (!output_waits(client) || revents & (POLLHUP | POLLERR))))
		close_client(client);
}

/* One round; returns whether anybody's output still waits. wait_ms: -1 for as long as it takes. */
static bool serve(struct control *control, int wait_ms)
{
	struct pollfd poll_fd[2 + CLIENTS_MAX] = {
	    {.fd = control->events.wake_fd, .events = POLLIN},
	    {.fd = control->listen_fd, .events = POLLIN},
	};
	bool waits = false;

	for (unsigned i = 0; i < CLIENTS_MAX; i++) {
		const struct client *client = &control->client[i];

		poll_fd[2 + i] = (struct pollfd){.fd = client->fd};
		if (client->fd < 0)
			continue;
		poll_fd[2 + i].events = wanted(client);
		if (has_input(client) && output_waits(client) < OUTPUT_HIGH)
			wait_ms = 0; /* its turn was over */
	}
	if (poll(poll_fd, 2 + CLIENTS_MAX, wait_ms) < 0)
		return true;
	if (poll_fd[0].revents)
		send_events(control);
	for (unsigned i = 0; i < CLIENTS_MAX; i++) {
		struct client *client = &control->client[i];

		if (client->fd >= 0 && client->fd == poll_fd[2 + i].fd)
			serve_client(control, client, poll_fd[2 + i].revents);
		waits = waits || (client->fd >= 0 && output_waits(client));
	}
	if (poll_fd[1].revents)
		accept_client(control);
	return waits;
}

static uint64_t now_ms(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
}

static void *control_thread(void *argument)
{
	struct control *control = argument;
	uint64_t until;

	pthread_setname_np(pthread_self(), "nestor-control");
	while (!atomic_load(&control->closing))
		serve(control, -1);
	for (until = now_ms() + FAREWELL_MS; now_ms() < until && serve(control, 10);)
		;
	return NULL;
}

/* No signal is for this thread. */
static int start_thread(struct control *control)
{
	int error = thread_start(&control->thread, control_thread, control);

	control->started = !error;
	return error ? error_set(error, "cannot start the control thread: %s", strerror(error)) : 0;
}

int control_start(struct control **result, struct machine *machine, struct endpoint *endpoint)
{
	struct control *control = calloc(1, sizeof(*control));
	int error;

	if (!control)
		return error_set(ENOMEM, "out of memory for the control socket");
	control->endpoint = endpoint;
	control->state = (struct control_state){.machine = machine, .name = endpoint->name};
	for (unsigned i = 0; i < CLIENTS_MAX; i++)
		control->client[i].fd = -1;
	control->listen_fd = -1;
	error = event_ring_init(&control->events);
	if (!error) {
		control->listen_fd = endpoint_listen(endpoint->name, ".sock");
		error = control->listen_fd < 0 ? control->listen_fd : 0;
	}
	if (!error)
		error = machine_add_listener(machine, event_ring_put, &control->events);
	if (!error)
		error = start_thread(control);
	if (error) {
		control_stop(control);
		return error;
	}
	*result = control;
	return 0;
}

void control_stop(struct control *control)
{
	uint64_t one = 1;
	ssize_t written;

	if (!control)
		return;
	machine_remove_listener(control->state.machine, &control->events);
	if (control->started) {
		atomic_store(&control->closing, true);
		written = write(control->events.wake_fd, &one, sizeof(one));
		(void)written;
		pthread_join(control->thread, NULL);
	}
	for (unsigned i = 0; i < CLIENTS_MAX; i++)
		if (control->client[i].fd >= 0)
			close_client(&control->client[i]);
	if (control->listen_fd >= 0)
		close(control->listen_fd);
	event_ring_free(&control->events);
	free(control);
}

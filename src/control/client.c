#include "control/client.h"

#include <errno.h>
#include <poll.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "control/endpoint.h"
#include "util/error.h"

#define LINE_MAX_BYTES (64u << 20) /* an answer longer than this is none of Nestor's */

struct control_client {
	char name[ENDPOINT_NAME_MAX + 1];
	int fd, timeout_ms;
	char *input; /* owned: a line that is not complete, or more lines */
	size_t size, room;
	bool ended;
	json_t *events; /* an array of those that came while an answer was awaited */
};

struct listing {
	char text[400];
	size_t length;
};

static void add_name(void *context, const char *name, int pid)
{
	struct listing *listing = context;
	int written = snprintf(listing->text + listing->length, sizeof(listing->text) - listing->length,
	                       "%s%s", listing->length ? ", " : "", name);

	if (written > 0 && listing->length + (size_t)written < sizeof(listing->text))
		listing->length += (size_t)written;
	else
		listing->text[listing->length] = '\0';
}

static int no_such_machine(const char *name)
{
	struct listing listing = {.text = ""};
	int count = endpoint_list(add_name, &listing);

	if (count < 0)
		return count;
	if (!count)
		return error_set(ENOENT,
		                 "no machine named %s runs, nor any other; nestor run --name %s starts one",
		                 name, name);
	return error_set(ENOENT, "no machine named %s runs; these do: %s", name, listing.text);
}

static int64_t now_ms(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

/* Reads more. until: of now_ms, -1: for ever. Returns 0, 1 at the end, or a negative errno with error_text(). */
static int read_more(struct control_client *client, int64_t until)
{
	struct pollfd wait = {.fd = client->fd, .events = POLLIN};
	int64_t left = until < 0 ? -1 : until - now_ms();
	ssize_t got;
	int polled;

	if (client->size == client->room) {
		size_t room = client->room ? client->room * 2 : 4096;
		char *grown = room <= LINE_MAX_BYTES ? realloc(client->input, room) : NULL;

		if (!grown)
			return error_set(ENOMEM, "%s: its answer is too large", client->name);
		client->input = grown;
		client->room = room;
	}
	polled = poll(&wait, 1, until < 0 ? -1 : left > 0 ? (int)left : 0);
	if (polled == 0)
		return error_set(ETIMEDOUT, "%s does not answer", client->name);
	if (polled < 0)
		return errno == EINTR ? 0 : error_set(errno, "%s: %s", client->name, strerror(errno));
	got = recv(client->fd, client->input + client->size, client->room - client->size, 0);
	if (got < 0)
		return errno == EINTR        ? 0
		       : errno == ECONNRESET ? 1
		                             : error_set(errno, "%s: %s", client->name, strerror(errno));
	client->size += (size_t)got;
	return got == 0;
}

/* The next message, or NULL: *result 1 at the end, or a negative errno with error_text(). */
static json_t *next_message(struct control_client *client, int64_t until, int *result)
{
	json_error_t problem;
	json_t *message;
	char *end;

	for (;;) {
		end = client->size ? memchr(client->input, '\n', client->size) : NULL;
		if (end)
			break;
		*result = client->ended ? 1 : read_more(client, until);
		if (*result == 1)
			client->ended = true;
		if (*result)
			return NULL;
	}
	message = json_loadb(client->input, (size_t)(end - client->input), 0, &problem);
	client->size -= (size_t)(end + 1 - client->input);
	memmove(client->input, end + 1, client->size);
	*result = message ? 0 : error_set(EPROTO, "%s: its answer is no JSON: %s", client->name, problem.text);
	return message;
}

static json_t *await_answer(struct control_client *client)
{
	int64_t until = client->timeout_ms < 0 ? -1 : now_ms() + client->timeout_ms;
	json_t *message;
	int result;

	while ((message = next_message(client, until, &result))) {
		if (!json_object_get(message, "event"))
			return message;
		json_array_append_new(client->events, message);
	}
	if (result == 1)
		error_set(ECONNRESET, "%s has ended the connection", client->name);
	return NULL;
}

json_t *client_send_text(struct control_client *client, const char *text)
{
	size_t length = strlen(text), sent = 0;

	while (sent < length) {
		ssize_t part = send(client->fd, text + sent, length - sent, MSG_NOSIGNAL);

		if (part < 0 && errno != EINTR) {
			error_set(errno, "%s has ended the connection: %s", client->name, strerror(errno));
			return NULL;
		}
		sent += part > 0 ? (size_t)part : 0;
	}
	return await_answer(client);
}

json_t *client_execute(struct control_client *client, const char *command, json_t *arguments)
{
	json_t *request = json_pack("{s:s}", "execute", command), *answer = NULL, *result;
	char *text;

	if (arguments)
		json_object_set_new(request, "arguments", arguments);
	text = json_dumps(request, JSON_COMPACT);
	json_decref(request);
	if (!text) {
		error_set(EINVAL, "a name or value is not UTF-8 text");
		return NULL;
	}
	answer = client_send_text(client, text);
	free(text);
	if (!answer)
		return NULL;
	result = json_incref(json_object_get(answer, "return"));
	if (!result) {
		const char *reason = json_string_value(json_object_get(json_object_get(answer, "error"), "desc"));

		error_set(EPROTO, "%s", reason ? reason : "it gave no reason");
	}
	json_decref(answer);
	return result;
}

int client_wait_event(struct control_client *client, const char *event, int timeout_ms)
{
	int64_t until = timeout_ms < 0 ? -1 : now_ms() + timeout_ms;
	int result;

	for (;;) {
		json_t *message = json_incref(json_array_get(client->events, 0));
		const char *name;
		bool found;

		if (message)
			json_array_remove(client->events, 0);
		else
			message = next_message(client, until, &result);
		if (!message)
			return result == 1 ? 0 : result;
		name = json_string_value(json_object_get(message, "event"));
		found = name && !strcmp(name, event);
		json_decref(message);
		if (found)
			return 1;
	}
}

int client_open(struct control_client **result, const char *name, int timeout_ms)
{
	struct control_client *client;
	json_t *message;
	int fd;

	if (endpoint_check_name(name))
		return -ENOENT;
	if (!endpoint_owner(name))
		return no_such_machine(name);
	fd = endpoint_connect(name, ".sock");
	if (fd < 0)
		return fd;
	client = calloc(1, sizeof(*client));
	if (!client) {
		close(fd);
		return error_set(ENOMEM, "out of memory");
	}
	snprintf(client->name, sizeof(client->name), "%s", name);
	client->fd = fd;
	client->timeout_ms = timeout_ms;
	client->events = json_array();
	message = await_answer(client); /* the greeting */
	if (message) {
		json_decref(message);
		message = client_execute(client, "qmp_capabilities", NULL);
	}
	if (!message) {
		client_close(client);
		return -EPROTO;
	}
	json_decref(message);
	*result = client;
	return 0;
}

void client_close(struct control_client *client)
{
	if (!client)
		return;
	close(client->fd);
	json_decref(client->events);
	free(client->input);
	free(client);
}

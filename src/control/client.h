/* The other side of the control socket: how `nestor stop` and its like talk to a running machine. */
#ifndef NESTOR_CONTROL_CLIENT_H
#define NESTOR_CONTROL_CLIENT_H

#include <jansson.h>

struct control_client;

/*
 * Connects to a running machine and leaves negotiation. timeout_ms: how long each answer may take, -1: for ever.
 * Returns 0, or a negative errno with error_text(): -ENOENT where no such machine runs, the text then lists those
 * that do.
 */
int client_open(struct control_client **client, const char *name, int timeout_ms);
void client_close(struct control_client *client);

/*
 * Executes a command. arguments: taken over, may be NULL. Returns what it returned (owned by the caller), or NULL
 * with error_text(): the machine's reason, or that it does not answer. Events that come meanwhile are kept.
 */
json_t *client_execute(struct control_client *client, const char *command, json_t *arguments);

/* Sends a text as it is; returns the answer to it (owned by the caller), or NULL with error_text(). */
json_t *client_send_text(struct control_client *client, const char *text);

/*
 * Waits for an event of that name, or for the connection's end. Returns 1 for the event, 0 for the end, -ETIMEDOUT
 * or another negative errno with error_text().
 */
int client_wait_event(struct control_client *client, const char *event, int timeout_ms);

#endif

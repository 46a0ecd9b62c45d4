/* What `nestor run` is besides the machine: its name among the running ones, its control socket, the background. */
#ifndef NESTOR_CLI_SESSION_H
#define NESTOR_CLI_SESSION_H

#include <stdbool.h>

#include "cli/detach.h"
#include "control/endpoint.h"
#include "machine/machine_config.h"

struct control;
struct gdb;
struct machine;
struct options;

struct session {
	bool named, detached;
	struct endpoint endpoint;
	struct control *control;
	struct gdb *gdb;
	const char *gdb_spec; /* borrowed, or NULL */
	struct detach detach;
	char serial[MACHINE_SERIAL_PORTS][sizeof("console:") + ENDPOINT_PATH_MAX];
};

/*
 * Takes the name, goes to the background where that is wanted (the foreground process ends in here), and completes
 * config. Returns 0, or a negative errno with error_text(). session_end in either case.
 */
int session_begin(struct session *session, const struct options *options, struct machine_config *config);
/* The machine exists, but does not run yet. Returns 0, or a negative errno with error_text(). */
int session_start(struct session *session, struct machine *machine);
/* The machine does not run any more: it ended with `status`. */
void session_stop(struct session *session, int status);
/* The machine does not exist any more. */
void session_end(struct session *session);

#endif

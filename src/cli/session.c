#include "cli/session.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "config/options.h"
#include "control/control.h"
#include "gdb/gdb.h"

/* "console" becomes "console:" and the socket's path. */
static int name_consoles(struct session *session, struct machine_config *config)
{
	for (unsigned i = 0; i < MACHINE_SERIAL_PORTS; i++) {
		char suffix[16], path[ENDPOINT_PATH_MAX];
		int result;

		if (!config->serial[i] || strcmp(config->serial[i], "console") != 0)
			continue;
		snprintf(suffix, sizeof(suffix), ".serial%u", i);
		result = endpoint_path(session->endpoint.name, suffix, path);
		if (result)
			return result;
		snprintf(session->serial[i], sizeof(session->serial[i]), "console:%s", path);
		config->serial[i] = session->serial[i];
	}
	return 0;
}

static int go_to_background(struct session *session)
{
	char log[ENDPOINT_PATH_MAX];
	int result = endpoint_path(session->endpoint.name, ".log", log);

	if (!result)
		result = detach_fork(&session->detach, session->endpoint.name, log);
	if (!result)
		endpoint_set_owner(&session->endpoint);
	return result;
}

int session_begin(struct session *session, const struct options *options, struct machine_config *config)
{
	char made[32];
	const char *name = options->name;
	int result;

	*session = (struct session){.endpoint.lock_fd = -1, .gdb_spec = options->gdb};
	if (options->gdb && gdb_check(options->gdb))
		return -EINVAL;
	if (!name && !options->detach)
		return 0;
	snprintf(made, sizeof(made), "vm-%d", (int)getpid());
	result = endpoint_claim(&session->endpoint, name ? name : made);
	if (result)
		return result;
	session->named = true;
	session->detached = options->detach;
	if (session->detached)
		result = go_to_background(session);
	return result ? result : name_consoles(session, config);
}

int session_start(struct session *session, struct machine *machine)
{
	int result = session->named ? control_start(&session->control, machine, &session->endpoint) : 0;

	if (!result && session->gdb_spec)
		result = gdb_start(&session->gdb, machine, session->gdb_spec);
	return result || !session->detached ? result : detach_watch(&session->detach, machine);
}

void session_stop(struct session *session, int status)
{
	gdb_stop(session->gdb, status);
	session->gdb = NULL;
	control_stop(session->control);
	session->control = NULL;
}

void session_end(struct session *session)
{
	if (session->named)
		endpoint_release(&session->endpoint);
	session->named = false;
}

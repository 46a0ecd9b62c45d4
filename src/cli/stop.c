/* nestor stop: a machine ends. */
#include <errno.h>
#include <time.h>

#include "cli/vm.h"
#include "control/client.h"
#include "control/endpoint.h"
#include "util/error.h"

#define ANSWER_MS 30000
#define END_MS    15000 /* after "quit" */

const char help_stop[] =
	"Usage: nestor stop [--now | --timeout SECONDS] NAME...\n"
	"\n"
	"Presses the machine's power button, as the guest's system expects it, and waits until it has shut\n"
	"down. A guest that has not within the timeout (60 seconds) is ended. A paused machine is resumed first.\n"
	"\n"
	"  --now              end it at once; what it has not written to its disks is lost\n"
	"  --timeout SECONDS  how long to wait for the guest; 0 waits for ever\n"
	"\n"
	"Examples:\n"
	"  nestor stop web\n"
	"  nestor stop --timeout 10 web db\n"
	"  nestor stop --now web\n";

/* The connection ends a little before the process does. */
static int await_end(const char *name)
{
	const struct timespec tick = {0, 20000000};

	for (unsigned i = 0; i < END_MS / 20; i++) {
		if (!endpoint_owner(name))
			return STATUS_OK;
		nanosleep(&tick, NULL);
	}
	error_set(ETIMEDOUT, "it does not end; its process is %d", endpoint_owner(name));
	return vm_refused("stop", name);
}

static int quit(struct control_client *client, const char *name)
{
	json_t *result = client_execute(client, "quit", NULL);

	if (!result && endpoint_owner(name))
		return vm_refused("stop", name);
	json_decref(result);
	return await_end(name);
}

/* The power button, and what follows. */
static int shut_down(struct control_client *client, const char *name, long timeout_s)
{
	json_t *result;
	int event;

	json_decref(client_execute(client, "cont", NULL));
	result = client_execute(client, "system_powerdown", NULL);
	if (!result)
		return vm_refused("stop", name);
	json_decref(result);
	event = client_wait_event(client, "SHUTDOWN", timeout_s ? (int)timeout_s * 1000 : -1);
	if (event >= 0)
		return await_end(name);
	fprintf(stderr, "nestor stop: %s: the guest has not shut down within %ld seconds; ending it\n", name,
	        timeout_s);
	return quit(client, name);
}

static int stop(const char *name, bool now, long timeout_s)
{
	struct control_client *client = vm_connect("stop", name, ANSWER_MS);
	int status;

	if (!client)
		return STATUS_USAGE;
	status = now ? quit(client, name) : shut_down(client, name, timeout_s);
	client_close(client);
	return status;
}

int command_stop(int argc, char **argv)
{
	struct vm_arguments arguments = {.option = {{.name = "--now"}, {.name = "--timeout", .takes_value = true}}};
	int status = vm_parse(&arguments, "stop", help_stop, argc, argv, "the NAME of a machine", 1, VM_WORDS_MAX);
	long timeout_s = 60;

	if (status >= 0)
		return status;
	if (arguments.option[0].value && arguments.option[1].value)
		return usage_error("stop", "--now and --timeout exclude each other");
	if (arguments.option[1].value) {
		status = vm_number("stop", "--timeout", arguments.option[1].value, 0, 1000000, &timeout_s);
		if (status >= 0)
			return status;
	}
	status = STATUS_OK;
	for (unsigned i = 0; i < arguments.count; i++) {
		int one = stop(arguments.word[i], arguments.option[0].value, timeout_s);

		status = one > status ? one : status;
	}
	return status;
}

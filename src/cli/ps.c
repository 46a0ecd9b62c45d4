/* nestor ps: the machines that run. */
#include <string.h>

#include "cli/vm.h"
#include "control/client.h"
#include "control/endpoint.h"
#include "util/error.h"

#define ANSWER_MS 2000

const char help_ps[] =
	"Usage: nestor ps [--json]\n"
	"\n"
	"Lists this user's machines that run and have a name: name, process, state, CPUs, memory, and for how\n"
	"long they have been up. --json prints the same as an array of objects, memory in bytes and uptime in\n"
	"seconds. The state is running, paused, debug (a debugger has stopped it), suspended, guest-panicked,\n"
	"prelaunch or shutdown, or \"silent\" where a machine does not answer.\n"
	"\n"
	"Examples:\n"
	"  nestor ps\n"
	"  nestor ps --json\n";

/* "3d 04:05:06" */
static const char *uptime_text(json_int_t seconds, char *text, size_t size)
{
	int days = (int)(seconds / 86400), rest = (int)(seconds % 86400), length = 0;

	if (days)
		length = snprintf(text, size, "%dd ", days);
	snprintf(text + length, size - (size_t)length, "%02d:%02d:%02d", rest / 3600, rest / 60 % 60,
	         rest % 60);
	return text;
}

static const char *memory_text(json_int_t bytes, char *text, size_t size)
{
	if (bytes % (1 << 30) == 0)
		snprintf(text, size, "%lldG", (long long)(bytes >> 30));
	else if (bytes % (1 << 20) == 0)
		snprintf(text, size, "%lldM", (long long)(bytes >> 20));
	else
		snprintf(text, size, "%lldK", (long long)(bytes >> 10));
	return text;
}

static void ask(void *context, const char *name, int pid)
{
	json_t *list = context, *answer = NULL;
	struct control_client *client;

	if (!client_open(&client, name, ANSWER_MS)) {
		answer = client_execute(client, "query-nestor", NULL);
		client_close(client);
	}
	if (!answer)
		answer = json_pack("{s:s,s:i,s:s}", "name", name, "pid", pid, "status", "silent");
	json_array_append_new(list, answer);
}

static void print_table(json_t *list)
{
	size_t index, width = 4;
	json_t *row;
	char memory[32], uptime[32];

	json_array_foreach(list, index, row) {
		size_t length = strlen(json_string_value(json_object_get(row, "name")));

		width = length > width ? length : width;
	}
	printf("%-*s  %7s  %-14s  %4s  %7s  %s\n", (int)width, "NAME", "PID", "STATE", "CPUS", "MEMORY",
	       "UPTIME");
	json_array_foreach(list, index, row) {
		const char *name = json_string_value(json_object_get(row, "name"));
		const char *status = json_string_value(json_object_get(row, "status"));
		int pid = (int)json_integer_value(json_object_get(row, "pid"));

		if (!json_object_get(row, "cpus")) {
			printf("%-*s  %7d  %s\n", (int)width, name, pid, status);
			continue;
		}
		printf("%-*s  %7d  %-14s  %4d  %7s  %s\n", (int)width, name, pid, status,
		       (int)json_integer_value(json_object_get(row, "cpus")),
		       memory_text(json_integer_value(json_object_get(row, "memory")), memory, sizeof(memory)),
		       uptime_text(json_integer_value(json_object_get(row, "uptime")), uptime, sizeof(uptime)));
	}
}

int command_ps(int argc, char **argv)
{
	struct vm_arguments arguments = {.option = {{.name = "--json"}}};
	int status = vm_parse(&arguments, "ps", help_ps, argc, argv, "", 0, 0);
	json_t *list;

	if (status >= 0)
		return status;
	list = json_array();
	if (endpoint_list(ask, list) < 0) {
		json_decref(list);
		return usage_error("ps", "%s", error_text());
	}
	if (arguments.option[0].value) {
		json_dumpf(list, stdout, JSON_INDENT(2));
		putchar('\n');
	} else {
		print_table(list);
	}
	json_decref(list);
	return STATUS_OK;
}

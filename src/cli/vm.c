#include "cli/vm.h"

#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "control/client.h"
#include "util/error.h"

#define ANSWER_MS 30000

/* Takes an option off. Returns -1, or the exit status after a message. */
static int take_option(struct vm_arguments *arguments, const char *command, char **argv, int argc, int *at)
{
	const char *word = argv[*at], *equals = strchr(word, '=');
	size_t length = equals ? (size_t)(equals - word) : strlen(word);

	for (size_t i = 0; i < sizeof(arguments->option) / sizeof(arguments->option[0]); i++) {
		if (!arguments->option[i].name)
			break;
		if (strlen(arguments->option[i].name) != length ||
		    memcmp(arguments->option[i].name, word, length) != 0)
			continue;
		if (!arguments->option[i].takes_value && equals)
			return usage_error(command, "%.*s takes no value", (int)length, word);
		if (arguments->option[i].takes_value && !equals && *at + 1 == argc)
			return usage_error(command, "%s needs a value (see nestor %s --help)", word, command);
		arguments->option[i].value = !arguments->option[i].takes_value ? ""
		                             : equals                          ? equals + 1
		                                                               : argv[++*at];
		return -1;
	}
	return usage_error(command, "unknown option %s (see nestor %s --help)", word, command);
}

int vm_parse(struct vm_arguments *arguments, const char *command, const char *help, int argc, char **argv,
             const char *usage, unsigned low, unsigned high)
{
	bool options = true;

	for (int i = 1; i < argc; i++) {
		int result;

		if (options && (!strcmp(argv[i], "--help") || !strcmp(argv[i], "-h")))
			return fputs(help, stdout) < 0 ? STATUS_USAGE : STATUS_OK;
		if (options && !strcmp(argv[i], "--")) {
			options = false;
			continue;
		}
		if (options && argv[i][0] == '-' && argv[i][1]) {
			result = take_option(arguments, command, argv, argc, &i);
			if (result >= 0)
				return result;
			continue;
		}
		if (arguments->count == VM_WORDS_MAX || arguments->count == high)
			return usage_error(command, "%s: one word too many; give %s", argv[i],
			                   *usage ? usage : "none");
		arguments->word[arguments->count++] = argv[i];
	}
	return arguments->count < low ? usage_error(command, "give %s (see nestor %s --help)", usage, command)
	                              : -1;
}

int vm_number(const char *command, const char *option, const char *text, long low, long high, long *value)
{
	char *end;

	*value = strtol(text, &end, 10);
	if (end == text || *end || *value < low || *value > high)
		return usage_error(command, "%s %s: must be a number from %ld to %ld", option, text, low,
		                   high);
	return -1;
}

int vm_path(const char *command, const char *file, char *path, size_t size)
{
	char folder[PATH_MAX] = "";
	bool whole = *file == '/' || strstr(file, "://");

	if (!whole && !getcwd(folder, sizeof(folder)))
		return usage_error(command, "%s: the present folder has no name; give the whole path", file);
	if ((size_t)snprintf(path, size, "%s%s%s", folder, *folder ? "/" : "", file) >= size)
		return usage_error(command, "%.60s…: the path is too long", file);
	return -1;
}

struct control_client *vm_connect(const char *command, const char *name, int timeout_ms)
{
	struct control_client *client;

	if (!client_open(&client, name, timeout_ms))
		return client;
	usage_error(command, "%s", error_text());
	return NULL;
}

int vm_refused(const char *command, const char *name)
{
	fprintf(stderr, "nestor %s: %s: %s\n", command, name, error_text());
	return STATUS_REFUSED;
}

int vm_execute(const char *command, const char *name, const char *execute, json_t *arguments)
{
	struct control_client *client = vm_connect(command, name, ANSWER_MS);
	json_t *result;

	if (!client) {
		json_decref(arguments);
		return STATUS_USAGE;
	}
	result = client_execute(client, execute, arguments);
	client_close(client);
	if (!result)
		return vm_refused(command, name);
	json_decref(result);
	return STATUS_OK;
}

int vm_simple(const char *command, const char *help, int argc, char **argv, const char *execute)
{
	struct vm_arguments arguments = {.count = 0};
	int status = vm_parse(&arguments, command, help, argc, argv, "the NAME of a machine", 1, VM_WORDS_MAX);

	if (status >= 0)
		return status;
	status = STATUS_OK;
	for (unsigned i = 0; i < arguments.count; i++) {
		int one = vm_execute(command, arguments.word[i], execute, NULL);

		status = one > status ? one : status;
	}
	return status;
}

int vm_monitor(const char *command, const char *name, const char *line, long cpu)
{
	struct control_client *client = vm_connect(command, name, ANSWER_MS);
	json_t *result;

	if (!client)
		return STATUS_USAGE;
	result = client_execute(client, "human-monitor-command",
	                        json_pack("{s:s,s:I}", "command-line", line, "cpu-index", (json_int_t)cpu));
	client_close(client);
	if (!result)
		return vm_refused(command, name);
	fputs(json_string_value(result) ? json_string_value(result) : "", stdout);
	json_decref(result);
	return STATUS_OK;
}

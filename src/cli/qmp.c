/* nestor qmp: a command of the control socket as it is. */
#include <stdlib.h>

#include "cli/vm.h"
#include "control/client.h"
#include "util/error.h"

#define ANSWER_MS 30000

const char help_qmp[] =
	"Usage: nestor qmp NAME COMMAND [ARGUMENTS]\n"
	"       nestor qmp NAME JSON\n"
	"\n"
	"Sends a command to the machine's control socket and prints the answer. COMMAND is a command's name,\n"
	"ARGUMENTS a JSON object; or JSON is the whole message. Exit status 1 where the answer is an error.\n"
	"docs/control.md lists the commands.\n"
	"\n"
	"Examples:\n"
	"  nestor qmp web query-status\n"
	"  nestor qmp web pmemsave '{\"val\": 0, \"size\": 4096, \"filename\": \"/tmp/page0\"}'\n"
	"  nestor qmp web '{\"execute\": \"query-cpus-fast\", \"id\": 7}'\n";

/* The message to send, owned by the caller, or NULL with a reason. */
static json_t *message_of(const struct vm_arguments *arguments, json_error_t *problem)
{
	const char *first = arguments->word[1];
	json_t *object;

	if (*first == '{')
		return json_loads(first, 0, problem);
	object = arguments->count == 3 ? json_loads(arguments->word[2], 0, problem) : json_object();
	return object ? json_pack("{s:s,s:o}", "execute", first, "arguments", object) : NULL;
}

int command_qmp(int argc, char **argv)
{
	struct vm_arguments arguments = {.count = 0};
	int status = vm_parse(&arguments, "qmp", help_qmp, argc, argv, "the NAME of a machine and a COMMAND", 2, 3);
	struct control_client *client;
	json_t *message, *answer;
	json_error_t problem = {.text = "not UTF-8"};
	char *text;

	if (status >= 0)
		return status;
	message = message_of(&arguments, &problem);
	text = message ? json_dumps(message, JSON_COMPACT) : NULL;
	json_decref(message);
	if (!text)
		return usage_error("qmp", "%s: not JSON: %s", arguments.word[arguments.count - 1],
		                   problem.text);
	client = vm_connect("qmp", arguments.word[0], ANSWER_MS);
	if (!client) {
		free(text);
		return STATUS_USAGE;
	}
	answer = client_send_text(client, text);
	free(text);
	client_close(client);
	if (!answer)
		return vm_refused("qmp", arguments.word[0]);
	json_dumpf(answer, stdout, JSON_INDENT(2));
	putchar('\n');
	status = json_object_get(answer, "error") ? STATUS_REFUSED : STATUS_OK;
	json_decref(answer);
	return status;
}

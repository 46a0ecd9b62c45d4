/* nestor send-key: keys to a machine's keyboard. */
#include <string.h>
#include <time.h>

#include "cli/vm.h"

const char help_send_key[] =
	"Usage: nestor send-key NAME [--hold MS] KEYS...\n"
	"\n"
	"Presses keys on the machine's keyboard, one word after the other. The keys of one word are joined by\n"
	"'-' and pressed together. They have QMP's names: a to z, 0 to 9, ret, spc, esc, tab, backspace, minus,\n"
	"dot, slash, shift, ctrl, alt, meta_l, up, down, left, right, home, end, pgup, pgdn, delete, f1 to f12.\n"
	"\n"
	"  --hold MS  how long keys stay down (100)\n"
	"\n"
	"Examples:\n"
	"  nestor send-key web ctrl-alt-delete\n"
	"  nestor send-key web r o o t ret\n";

/* {"keys": [{"type": "qcode", "data": "ctrl"}, …]} of "ctrl-alt-delete". */
static json_t *chord_of(const char *word, long hold_ms)
{
	json_t *keys = json_array();

	for (const char *p = word; *p;) {
		size_t length = strcspn(p, "-");

		json_array_append_new(keys, json_pack("{s:s,s:s%}", "type", "qcode", "data", p, length));
		p += length + (p[length] == '-');
	}
	return json_pack("{s:o,s:I}", "keys", keys, "hold-time", (json_int_t)hold_ms);
}

int command_send_key(int argc, char **argv)
{
	struct vm_arguments arguments = {.option = {{.name = "--hold", .takes_value = true}}};
	int status = vm_parse(&arguments, "send-key", help_send_key, argc, argv,
	                      "the NAME of a machine and KEYS", 2, VM_WORDS_MAX);
	long hold_ms = 100;

	if (status >= 0)
		return status;
	if (arguments.option[0].value) {
		status = vm_number("send-key", "--hold", arguments.option[0].value, 1, 10000, &hold_ms);
		if (status >= 0)
			return status;
	}
	for (unsigned i = 1; i < arguments.count; i++) {
		/* A second press would end the first one. */
		const struct timespec pressed = {hold_ms / 1000, hold_ms % 1000 * 1000000 + 10000000};

		status = vm_execute("send-key", arguments.word[0], "send-key",
		                    chord_of(arguments.word[i], hold_ms));
		if (status)
			return status;
		nanosleep(&pressed, NULL);
	}
	return STATUS_OK;
}

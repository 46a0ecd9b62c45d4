/* Commands about keyboard and screen. */
#include <string.h>

#include "control/command.h"
#include "device/input/input.h"
#include "display/display.h"
#include "machine/machine.h"
#include "util/error.h"

/* One element of "keys": {"type": "qcode", "data": NAME}, as QMP's KeyValue. Returns 0 after filling *error. */
static unsigned key_of(json_t *value, struct command_error *error)
{
	const char *type = json_string_value(json_object_get(value, "type"));
	json_t *data = json_object_get(value, "data");
	unsigned key;

	if (!type || strcmp(type, "qcode") != 0 || !json_is_string(data)) {
		command_fail(error, "a key must be {\"type\": \"qcode\", \"data\": NAME}");
		return 0;
	}
	key = input_key_by_name(json_string_value(data));
	if (!key)
		command_fail(error, "there is no key '%.60s'", json_string_value(data));
	return key;
}

static json_t *send_key(struct control_state *state, json_t *arguments, struct command_error *error)
{
	json_t *list = json_object_get(arguments, "keys"), *value;
	int64_t hold_ms = command_integer(arguments, "hold-time", 100);
	unsigned keys[INPUT_CHORD_MAX];
	size_t index, count = json_array_size(list);
	int result;

	if (!state->machine->input)
		return command_fail(error, "this machine has no keyboard");
	if (!count || count > INPUT_CHORD_MAX)
		return command_fail(error, "1 to %d keys at a time", INPUT_CHORD_MAX);
	if (hold_ms < 0 || hold_ms > 10000)
		return command_fail(error, "'hold-time' must be from 0 to 10000 ms");
	json_array_foreach(list, index, value) {
		keys[index] = key_of(value, error);
		if (!keys[index])
			return NULL;
	}
	machine_lock(state->machine);
	result = input_send_keys(state->machine->input, keys, count, (unsigned)hold_ms);
	machine_unlock(state->machine);
	return result ? command_fail(error, "%s", error_text()) : json_object();
}

static json_t *screendump(struct control_state *state, json_t *arguments, struct command_error *error)
{
	const char *format = command_string(arguments, "format");

	if (format && strcmp(format, "png") != 0)
		return command_fail(error, "'format' must be png");
	if (display_screenshot(state->machine->display, command_string(arguments, "filename")))
		return command_fail(error, "%s", error_text());
	return json_object();
}

const struct control_command commands_input[] = {
    {"send-key", "keys:a hold-time:i?", send_key},
    {"screendump", "filename:s format:s? device:s? head:i?", screendump},
    {NULL, NULL, NULL},
};

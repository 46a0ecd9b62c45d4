/* From a JSON text to a command and back: QMP's "Protocol Specification". */
#include "control/command.h"

#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include "control/framing.h"

static const struct control_command *const tables[] = {commands_run, commands_query, commands_input,
                                                       commands_media, commands_debug};

json_t *command_fail(struct command_error *error, const char *format, ...)
{
	va_list args;

	error->class = "GenericError";
	va_start(args, format);
	vsnprintf(error->text, sizeof(error->text), format, args);
	va_end(args);
	return NULL;
}

int64_t command_integer(json_t *arguments, const char *name, int64_t otherwise)
{
	json_t *value = json_object_get(arguments, name);

	return value ? json_integer_value(value) : otherwise;
}

bool command_boolean(json_t *arguments, const char *name, bool otherwise)
{
	json_t *value = json_object_get(arguments, name);

	return value ? json_is_true(value) : otherwise;
}

const char *command_string(json_t *arguments, const char *name)
{
	return json_string_value(json_object_get(arguments, name));
}

static json_t *version(void)
{
	int major = 0, minor = 0, micro = 0;

	sscanf(NESTOR_VERSION, "%d.%d.%d", &major, &minor, &micro);
	/* Clients of QMP look for this name. */
	return json_pack("{s:{s:i,s:i,s:i},s:s}", "qemu", "micro", micro, "minor", minor, "major", major,
	                 "package", "nestor-" NESTOR_VERSION);
}

json_t *command_greeting(void)
{
	return json_pack("{s:{s:o,s:[]}}", "QMP", "version", version(), "capabilities");
}

static const struct control_command *find(const char *name)
{
	for (size_t i = 0; i < sizeof(tables) / sizeof(tables[0]); i++)
		for (const struct control_command *command = tables[i]; command->name; command++)
			if (!strcmp(command->name, name))
				return command;
	return NULL;
}

/* query-commands and query-version have no other place: they are about the protocol itself. */
static json_t *query_commands(void)
{
	static const char *const own[] = {"qmp_capabilities", "query-commands", "query-version"};
	json_t *list = json_array();

	for (size_t i = 0; i < sizeof(own) / sizeof(own[0]); i++)
		json_array_append_new(list, json_pack("{s:s}", "name", own[i]));
	for (size_t i = 0; i < sizeof(tables) / sizeof(tables[0]); i++)
		for (const struct control_command *command = tables[i]; command->name; command++)
			json_array_append_new(list, json_pack("{s:s}", "name", command->name));
	return list;
}

static bool has_type(const json_t *value, char type)
{
	switch (type) {
	case 's':
		return json_is_string(value);
	case 'i':
		return json_is_integer(value);
	case 'b':
		return json_is_boolean(value);
	case 'o':
		return json_is_object(value);
	default:
		return json_is_array(value);
	}
}

static const char *type_name(char type)
{
	return type == 's' ? "string" : type == 'i' ? "integer" : type == 'b' ? "boolean" : type == 'o' ? "object" : "array";
}

/* The row of `name` in a specification: where its type stands, or NULL. */
static const char *argument_type(const char *specification, const char *name)
{
	size_t length = strlen(name);

	for (const char *p = specification; *p; p += strspn(p, " ")) {
		size_t size = strcspn(p, ":");

		if (size == length && !memcmp(p, name, length))
			return p + size + 1;
		p += strcspn(p, " ");
	}
	return NULL;
}

static bool check_arguments(const char *specification, json_t *arguments, struct command_error *error)
{
	const char *key;
	json_t *value;

	json_object_foreach(arguments, key, value) {
		const char *type = argument_type(specification, key);

		if (!type) {
			command_fail(error, "Parameter '%s' is unexpected", key);
			return false;
		}
		if (!has_type(value, *type)) {
			command_fail(error, "Invalid parameter type for '%s', expected: %s", key,
			             type_name(*type));
			return false;
		}
	}
	for (const char *p = specification; *p; p += strspn(p, " ")) {
		size_t size = strcspn(p, ":");
		char name[40] = "";

		memcpy(name, p, size < sizeof(name) ? size : sizeof(name) - 1);
		if (p[size + 2] != '?' && !json_object_get(arguments, name)) {
			command_fail(error, "Parameter '%s' is missing", name);
			return false;
		}
		p += strcspn(p, " ");
	}
	return true;
}

static json_t *negotiate(json_t *arguments, bool *negotiated, struct command_error *error)
{
	json_t *enable = json_object_get(arguments, "enable");

	if (!check_arguments("enable:a?", arguments, error))
		return NULL;
	if (*negotiated) {
		error->class = "CommandNotFound";
		snprintf(error->text, sizeof(error->text),
		         "Capabilities negotiation is already complete, command ignored");
		return NULL;
	}
	if (json_array_size(enable))
		return command_fail(error, "Capability %s not available",
		                    json_is_string(json_array_get(enable, 0))
		                        ? json_string_value(json_array_get(enable, 0))
		                        : "");
	*negotiated = true;
	return json_object();
}

static json_t *dispatch(struct control_state *state, const char *name, json_t *arguments, bool *negotiated,
                        struct command_error *error)
{
	const struct control_command *command = find(name);

	if (!strcmp(name, "qmp_capabilities"))
		return negotiate(arguments, negotiated, error);
	if (!*negotiated) {
		error->class = "CommandNotFound";
		snprintf(error->text, sizeof(error->text),
		         "Expecting capabilities negotiation with 'qmp_capabilities'");
		return NULL;
	}
	if (!strcmp(name, "query-commands") || !strcmp(name, "query-version")) {
		if (!check_arguments("", arguments, error))
			return NULL;
		return !strcmp(name, "query-version") ? version() : query_commands();
	}
	if (!command) {
		error->class = "CommandNotFound";
		snprintf(error->text, sizeof(error->text), "The command %.200s has not been found", name);
		return NULL;
	}
	return check_arguments(command->arguments, arguments, error) ? command->run(state, arguments, error)
	                                                             : NULL;
}

static json_t *execute(struct control_state *state, json_t *request, bool *negotiated,
                       struct command_error *error)
{
	json_t *name = json_object_get(request, "execute"),
	       *arguments = json_object_get(request, "arguments"), *value;
	json_t *empty = NULL, *result;
	const char *key;

	if (!json_is_object(request))
		return command_fail(error, "QMP input must be a JSON object");
	json_object_foreach(request, key, value)
		if (strcmp(key, "execute") && strcmp(key, "arguments") && strcmp(key, "id"))
			return command_fail(error, "QMP input member '%.200s' is unexpected", key);
	if (!name)
		return command_fail(error, "QMP input lacks member 'execute'");
	if (!json_is_string(name))
		return command_fail(error, "QMP input member 'execute' must be a string");
	if (arguments && !json_is_object(arguments))
		return command_fail(error, "QMP input member 'arguments' must be an object");
	if (!arguments)
		arguments = empty = json_object();
	result = dispatch(state, json_string_value(name), arguments, negotiated, error);
	json_decref(empty);
	return result;
}

json_t *command_execute(struct control_state *state, const char *text, size_t length, bool *negotiated)
{
	struct command_error error = {.class = "GenericError", .text = "out of memory"};
	json_error_t problem;
	json_t *request = json_loadb(text, length, JSON_REJECT_DUPLICATES | JSON_DECODE_ANY, &problem);
	json_t *id, *result = NULL, *answer;

	if (request)
		result = execute(state, request, negotiated, &error);
	else
		command_fail(&error, "Invalid JSON syntax: %.250s", problem.text);
	if (result)
		answer = json_pack("{s:o}", "return", result);
	else
		answer = json_pack("{s:{s:s,s:s%}}", "error", "class", error.class, "desc", error.text,
		                   strlen(error.text));
	if (!answer) /* a text that is cut within a character is no text */
		answer = json_pack("{s:{s:s,s:s}}", "error", "class", "GenericError", "desc",
		                   "the command failed");
	id = json_object_get(request, "id");
	if (id && answer)
		json_object_set(answer, "id", id);
	json_decref(request);
	return answer;
}

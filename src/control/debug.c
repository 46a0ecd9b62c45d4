/* Commands that look inside: lines of the monitor for people, memory into files. */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "control/command.h"
#include "machine/inspect.h"
#include "machine/machine.h"
#include "util/error.h"

#define SAVE_CHUNK 4096

/* Bytes that are no UTF-8 cannot be in JSON: what is not ASCII becomes a question mark. */
static json_t *text_result(const char *text, size_t size)
{
	char *copy = malloc(size + 1);
	json_t *result;

	if (!copy)
		return NULL;
	for (size_t i = 0; i < size; i++) {
		unsigned char byte = (unsigned char)text[i];

		copy[i] = byte == '\n' || byte == '\t' || (byte >= ' ' && byte < 127) ? text[i] : '?';
	}
	copy[size] = '\0';
	result = json_string(copy);
	free(copy);
	return result;
}

static json_t *human_monitor_command(struct control_state *state, json_t *arguments,
                                     struct command_error *error)
{
	int64_t cpu = command_integer(arguments, "cpu-index", 0);
	char *text = NULL;
	size_t size = 0;
	json_t *result;
	FILE *out;
	int failed;

	if (cpu < 0 || cpu >= state->machine->config.cpu_count)
		return command_fail(error, "there is no CPU %lld: they are 0 to %u", (long long)cpu,
		                    state->machine->config.cpu_count - 1);
	out = open_memstream(&text, &size);
	if (!out)
		return command_fail(error, "out of memory");
	failed = monitor_execute(state, (unsigned)cpu, command_string(arguments, "command-line"), out);
	fclose(out);
	result = failed ? command_fail(error, "%s", error_text()) : text_result(text, size);
	free(text);
	return result;
}

/* A file of the user's to be written; never one that would make us wait (a pipe). */
static int open_output(const char *path)
{
	int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NONBLOCK, 0666);
	struct stat status;

	if (fd >= 0 && (fstat(fd, &status) || !S_ISREG(status.st_mode))) {
		close(fd);
		return error_set(EINVAL, "%s: not an ordinary file", path);
	}
	return fd < 0 ? error_set(errno, "cannot write %s: %s", path, strerror(errno)) : fd;
}

static json_t *save(struct control_state *state, json_t *arguments, bool physical,
                    struct command_error *error)
{
	int64_t address = command_integer(arguments, "val", 0), size = command_integer(arguments, "size", 0);
	int64_t cpu = command_integer(arguments, "cpu-index", 0);
	const char *path = command_string(arguments, "filename");
	uint8_t data[SAVE_CHUNK];
	int fd, result = 0;

	if (size < 0 || cpu < 0 || cpu >= state->machine->config.cpu_count)
		return command_fail(error, "the size or the CPU's number does not exist");
	fd = open_output(path);
	if (fd < 0)
		return command_fail(error, "%s", error_text());
	result = machine_pause(state->machine);
	for (int64_t done = 0; done < size && !result;) {
		size_t part = (size_t)(size - done) < sizeof(data) ? (size_t)(size - done) : sizeof(data);
		uint64_t at = (uint64_t)address + (uint64_t)done;

		result = physical ? machine_peek_physical(state->machine, at, data, part)
		                  : machine_peek(state->machine, (unsigned)cpu, at, data, part);
		if (!result && write(fd, data, part) != (ssize_t)part)
			result = error_set(errno ? errno : ENOSPC, "cannot write %s: %s", path, strerror(errno));
		done += (int64_t)part;
	}
	machine_resume(state->machine);
	close(fd);
	return result ? command_fail(error, "%s", error_text()) : json_object();
}

static json_t *memsave(struct control_state *state, json_t *arguments, struct command_error *error)
{
	return save(state, arguments, false, error);
}

static json_t *pmemsave(struct control_state *state, json_t *arguments, struct command_error *error)
{
	return save(state, arguments, true, error);
}

const struct control_command commands_debug[] = {
    {"human-monitor-command", "command-line:s cpu-index:i?", human_monitor_command},
    {"memsave", "val:i size:i filename:s cpu-index:i?", memsave},
    {"pmemsave", "val:i size:i filename:s", pmemsave},
    {NULL, NULL, NULL},
};

/*
 * The monitor: a line of words in, text for people out, in the manner of QEMU's. What has a QMP command runs that
 * one; only what is for eyes is done here.
 */
#include <ctype.h>
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "control/command.h"
#include "machine/inspect.h"
#include "machine/machine.h"
#include "util/error.h"

#define WORDS_MAX 4
#define DUMP_MAX  4096 /* bytes of one x or xp */

struct line {
	char *word[WORDS_MAX];
	unsigned count;
	char copy[256];
};

static int split(struct line *line, const char *text)
{
	size_t length = strlen(text);

	line->count = 0;
	if (length >= sizeof(line->copy))
		return error_set(EINVAL, "the line is too long");
	memcpy(line->copy, text, length + 1);
	for (char *save = NULL, *word = strtok_r(line->copy, " \t\r\n", &save); word;
	     word = strtok_r(NULL, " \t\r\n", &save)) {
		if (line->count == WORDS_MAX)
			return error_set(EINVAL, "too many words; help lists the commands");
		line->word[line->count++] = word;
	}
	return 0;
}

static int number_of(const char *text, uint64_t *value)
{
	char *end;

	errno = 0;
	*value = strtoull(text, &end, 0);
	if (errno || end == text || *end)
		return error_set(EINVAL, "%.60s: not a number", text);
	return 0;
}

/* ---- x and xp: examine memory ---- */

struct format {
	unsigned count, size; /* size: bytes of an item */
	char kind;            /* 'x', 'd', 'u', 'c', 's' */
};

/* "/4gx": count, size b h w g, kind; any may be left out. */
static int format_of(const char *text, struct format *format)
{
	char *end;

	*format = (struct format){.count = 1, .size = 4, .kind = 'x'};
	if (isdigit((unsigned char)*text)) {
		unsigned long count = strtoul(text, &end, 10);

		format->count = count > DUMP_MAX ? DUMP_MAX + 1 : (unsigned)count;
		text = end;
	}
	for (; *text; text++) {
		switch (*text) {
		case 'b':
			format->size = 1;
			break;
		case 'h':
			format->size = 2;
			break;
		case 'w':
			format->size = 4;
			break;
		case 'g':
			format->size = 8;
			break;
		case 'x':
		case 'd':
		case 'u':
			format->kind = *text;
			break;
		case 'c':
			format->kind = 'c';
			format->size = 1;
			break;
		default:
			return error_set(EINVAL, "'%c' in the format: give a count, a size b, h, w or g, and x, d, u or c", *text);
		}
	}
	if (!format->count || format->count * format->size > DUMP_MAX)
		return error_set(EINVAL, "1 to %d bytes at a time", DUMP_MAX);
	return 0;
}

static void print_item(FILE *out, const struct format *format, uint64_t value)
{
	int64_t wide = (int64_t)(value << (64 - 8 * format->size)) >> (64 - 8 * format->size);

	switch (format->kind) {
	case 'd':
		fprintf(out, " %*" PRId64, (int)format->size * 2, wide);
		break;
	case 'u':
		fprintf(out, " %*" PRIu64, (int)format->size * 2, value);
		break;
	case 'c':
		fprintf(out, " '%c'", value >= ' ' && value < 127 ? (int)value : '.');
		break;
	default:
		fprintf(out, " 0x%0*" PRIx64, (int)format->size * 2, value);
		break;
	}
}

static void dump(FILE *out, const struct format *format, uint64_t address, const uint8_t *data)
{
	unsigned per_line = 16 / format->size;

	for (unsigned i = 0; i < format->count; i++) {
		uint64_t value = 0;

		if (i % per_line == 0)
			fprintf(out, "%s%016" PRIx64 ":", i ? "\n" : "",
			        address + (uint64_t)i * format->size);
		memcpy(&value, data + i * format->size, format->size);
		print_item(out, format, value);
	}
	fputc('\n', out);
}

static int examine(struct control_state *state, unsigned cpu, const struct line *line, FILE *out)
{
	const char *command = line->word[0], *slash = strchr(command, '/');
	bool physical = command[1] == 'p';
	uint8_t data[DUMP_MAX];
	struct format format;
	uint64_t address;
	int result = format_of(slash ? slash + 1 : "", &format);

	if (!result && line->count != 2)
		result = error_set(EINVAL, "%s: give one address", command);
	if (!result)
		result = number_of(line->word[1], &address);
	if (result)
		return result;
	if (machine_pause(state->machine))
		return error_set(EBUSY, "the machine is about to end or to start over; try again");
	result = physical ? machine_peek_physical(state->machine, address, data, format.count * format.size)
	                  : machine_peek(state->machine, cpu, address, data, format.count * format.size);
	machine_resume(state->machine);
	if (!result)
		dump(out, &format, address, data);
	return result;
}

/* gva2gpa ADDRESS */
static int translate(struct control_state *state, unsigned cpu, const struct line *line, FILE *out)
{
	uint64_t gla, gpa;
	int result;

	if (line->count != 2)
		return error_set(EINVAL, "gva2gpa: give one address");
	result = number_of(line->word[1], &gla);
	if (result)
		return result;
	if (machine_pause(state->machine))
		return error_set(EBUSY, "the machine is about to end or to start over; try again");
	result = machine_translate(state->machine, cpu, gla, &gpa);
	machine_resume(state->machine);
	if (!result)
		fprintf(out, "gpa: %#" PRIx64 "\n", gpa);
	return result;
}

static int info(struct control_state *state, unsigned cpu, const struct line *line, FILE *out)
{
	if (line->count == 1) {
		info_list(out);
		return 0;
	}
	return info_print(state, line->word[1], cpu, out);
}

/* ---- what QMP has too ---- */

static const struct {
	const char *word, *command, *argument[2]; /* argument: what the words after it are called, or NULL */
	const char *meaning;
} qmp_words[] = {
    {"stop", "stop", {NULL}, "stop the CPUs"},
    {"cont", "cont", {NULL}, "let them go on"},
    {"c", "cont", {NULL}, "the same"},
    {"system_reset", "system_reset", {NULL}, "start the machine over"},
    {"system_powerdown", "system_powerdown", {NULL}, "press the power button"},
    {"system_wakeup", "system_wakeup", {NULL}, "wake a machine that sleeps"},
    {"nmi", "inject-nmi", {NULL}, "an NMI to every CPU"},
    {"screendump", "screendump", {"filename"}, "write the screen to a PNG file"},
    {"eject", "eject", {"device"}, "take the disc out of a CD drive (disk1 …)"},
    {"change", "blockdev-change-medium", {"device", "filename"}, "put another into it"},
    {"quit", "quit", {NULL}, "end the machine"},
    {"q", "quit", {NULL}, "the same"},
};

static int run_qmp(struct control_state *state, size_t row, const struct line *line)
{
	json_t *arguments = json_object(), *request, *answer, *error;
	char *text;
	bool negotiated = true;
	int result = 0;

	for (unsigned i = 1; i < line->count; i++) {
		const char *name = i <= 2 ? qmp_words[row].argument[i - 1] : NULL;

		if (!name) {
			json_decref(arguments);
			return error_set(EINVAL, "%s: too many words", line->word[0]);
		}
		json_object_set_new(arguments, name, json_string(line->word[i]));
	}
	request = json_pack("{s:s,s:o}", "execute", qmp_words[row].command, "arguments", arguments);
	text = request ? json_dumps(request, 0) : NULL;
	answer = text ? command_execute(state, text, strlen(text), &negotiated) : NULL;
	error = json_object_get(answer, "error");
	if (!answer || error)
		result = error_set(EINVAL, "%s", answer ? json_string_value(json_object_get(error, "desc")) : "out of memory");
	json_decref(answer);
	json_decref(request);
	free(text);
	return result;
}

static void help(FILE *out)
{
	fprintf(out, "info [TOPIC]       what is to be seen; without a topic, the topics\n"
	             "x/FORMAT ADDRESS   memory at a linear address, as 4gx: count, size b h w g, kind x d u c\n"
	             "xp/FORMAT ADDRESS  … at a physical address\n"
	             "gva2gpa ADDRESS    translate a linear address\n");
	for (size_t i = 0; i < sizeof(qmp_words) / sizeof(qmp_words[0]); i++)
		fprintf(out, "%-18s %s\n", qmp_words[i].word, qmp_words[i].meaning);
}

int monitor_execute(struct control_state *state, unsigned cpu, const char *text, FILE *out)
{
	struct line line;
	int result = split(&line, text);
	const char *word = line.count ? line.word[0] : "";

	if (result || !line.count)
		return result;
	if (!strcmp(word, "help") || !strcmp(word, "?")) {
		help(out);
		return 0;
	}
	if (!strcmp(word, "info"))
		return info(state, cpu, &line, out);
	if (!strcmp(word, "gva2gpa"))
		return translate(state, cpu, &line, out);
	if (!strcmp(word, "x") || !strcmp(word, "xp") || !strncmp(word, "x/", 2) || !strncmp(word, "xp/", 3))
		return examine(state, cpu, &line, out);
	for (size_t i = 0; i < sizeof(qmp_words) / sizeof(qmp_words[0]); i++)
		if (!strcmp(word, qmp_words[i].word))
			return run_qmp(state, i, &line);
	return error_set(EINVAL, "unknown command: '%.60s'; help lists the commands", word);
}

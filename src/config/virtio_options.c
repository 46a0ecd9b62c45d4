#include "config/virtio_options.h"

#include <errno.h>
#include <string.h>

#include "machine/machine_config.h"
#include "util/error.h"

int console_option(const char *text, struct machine_config *machine)
{
	static const char *const kinds[] = {"stdio", "pty", "null", "file:", "unix:"};
	bool known = false;
	unsigned count = 0;

	for (unsigned i = 0; i < sizeof(kinds) / sizeof(kinds[0]); i++) {
		size_t length = strlen(kinds[i]);

		known =
		    known || (kinds[i][length - 1] == ':' ? !strncmp(text, kinds[i], length) && text[length]
		                                          : !strcmp(text, kinds[i]));
	}
	if (!known)
		return error_set(EINVAL, "--console %s: must be stdio, pty, null, file:PATH or unix:PATH",
		                 text);
	for (; count < MACHINE_CONSOLES && machine->console[count]; count++)
		if (!strcmp(text, "stdio") && !strcmp(machine->console[count], "stdio"))
			return error_set(EINVAL, "--console stdio: only one console can have the terminal");
	if (count == MACHINE_CONSOLES)
		return error_set(EINVAL, "--console %s: at most %d consoles", text, MACHINE_CONSOLES);
	machine->console[count] = text;
	return 0;
}

/* ---- --share ---- */

static int tag_of(struct properties *list, const struct machine_config *machine, const char **tag)
{
	*tag = properties_get(list, "tag");
	if (!*tag)
		*tag = "share";
	if (!**tag || strlen(*tag) > SHARE_TAG_MAX)
		return error_set(EINVAL, "%s %s: tag must have 1 to %d characters", list->option, list->text,
		                 SHARE_TAG_MAX);
	for (unsigned i = 0; i < machine->share_count; i++)
		if (!strcmp(*tag, machine->share[i].tag))
			return error_set(EINVAL, "%s %s: another share has the tag '%s'; give tag=NAME",
			                 list->option, list->text, *tag);
	return 0;
}

static int parse_share(struct properties *list, struct machine_config *machine)
{
	struct share_config share = {0};
	int error;

	share.directory = properties_name(list);
	if (!share.directory || !*share.directory)
		return error_set(EINVAL, "%s %s: give a folder first", list->option, list->text);
	error = tag_of(list, machine, &share.tag);
	if (!error)
		error = properties_switch(list, "readonly", false, &share.read_only);
	if (!error)
		error = properties_switch(list, "copy-on-write", false, &share.copy_on_write);
	if (!error)
		error = properties_check_used(list, "tag, readonly and copy-on-write");
	if (!error && share.read_only && share.copy_on_write)
		error = error_set(EINVAL, "%s %s: readonly and copy-on-write exclude each other",
		                  list->option, list->text);
	if (!error)
		machine->share[machine->share_count++] = share;
	return error;
}

int share_options_add(struct share_options *options, struct machine_config *machine, const char *text)
{
	int error;

	if (machine->share_count == MACHINE_SHARES)
		return error_set(EINVAL, "--share %s: at most %d shared folders", text, MACHINE_SHARES);
	error = properties_parse(&options->text[options->count], "--share", text);
	options->count++;
	return error ? error : parse_share(&options->text[options->count - 1], machine);
}

void share_options_free(struct share_options *options)
{
	for (unsigned i = 0; i < options->count; i++)
		properties_free(&options->text[i]);
	options->count = 0;
}

/* Commands on the discs of CD drives. */
#include <stdlib.h>
#include <string.h>

#include "control/command.h"
#include "device/disk/cdrom.h"
#include "machine/machine_config.h"
#include "util/error.h"

/* "disk3", as query-block has it, by either of QMP's two names for it; none: the only CD drive. */
static bool drive_of(json_t *arguments, unsigned *index, struct command_error *error)
{
	const char *name = command_string(arguments, "device");
	unsigned long number;
	char *end;

	if (!name)
		name = command_string(arguments, "id");
	*index = CDROM_ONLY;
	if (!name)
		return true;
	number = strncmp(name, "disk", 4) || name[4] < '0' || name[4] > '9' ? MACHINE_DISKS
	                                                                    : strtoul(name + 4, &end, 10);
	if (number >= MACHINE_DISKS || *end) {
		command_fail(error, "Device '%.60s' not found", name);
		return false;
	}
	*index = (unsigned)number;
	return true;
}

static json_t *change(struct control_state *state, json_t *arguments, const char *file,
                      struct command_error *error)
{
	unsigned index;

	if (!drive_of(arguments, &index, error))
		return NULL;
	if (cdrom_change(state->machine, index, file, command_string(arguments, "format"),
	                 command_boolean(arguments, "force", false)))
		return command_fail(error, "%s", error_text());
	return json_object();
}

static json_t *run_eject(struct control_state *state, json_t *arguments, struct command_error *error)
{
	return change(state, arguments, NULL, error);
}

static json_t *run_change_medium(struct control_state *state, json_t *arguments, struct command_error *error)
{
	const char *mode = command_string(arguments, "read-only-mode");

	if (mode && strcmp(mode, "retain") && strcmp(mode, "read-only"))
		return command_fail(error, "read-only-mode '%.40s': a disc can only be read", mode);
	return change(state, arguments, command_string(arguments, "filename"), error);
}

const struct control_command commands_media[] = {
    {"eject", "device:s? id:s? force:b?", run_eject},
    {"blockdev-change-medium", "device:s? id:s? filename:s format:s? force:b? read-only-mode:s?",
     run_change_medium},
    {NULL, NULL, NULL},
};

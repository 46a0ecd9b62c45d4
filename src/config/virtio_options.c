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

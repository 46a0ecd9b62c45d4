/* Argument 1 -> a command. */
#include <stdio.h>
#include <string.h>

#include "cli/cli.h"

int main(int argc, char **argv)
{
	const char *name = argc > 1 ? argv[1] : NULL;

	if (!name)
		return usage_error(NULL, "which command? nestor --help lists them");
	if (!strcmp(name, "--version")) {
		puts("nestor " NESTOR_VERSION);
		return STATUS_OK;
	}
	if (!strcmp(name, "--help") || !strcmp(name, "-h") || !strcmp(name, "help")) {
		const char *topic = argc > 2 ? argv[2] : NULL;

		for (const struct command *command = commands; topic && command->name; command++)
			if (!strcmp(topic, command->name)) {
				fputs(command->help, stdout);
				return STATUS_OK;
			}
		if (topic)
			return usage_error(NULL, "no command %s; nestor --help lists them", topic);
		return print_main_help(stdout) < 0 ? STATUS_USAGE : STATUS_OK;
	}
	for (const struct command *command = commands; command->name; command++)
		if (!strcmp(name, command->name))
			return command->run(argc - 1, argv + 1);
	return usage_error(NULL, "no command %s; nestor --help lists them", name);
}

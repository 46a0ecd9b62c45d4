/* The table of commands, and what is said of all of them. */
#include "cli/cli.h"

#include <stdarg.h>

int usage_error(const char *command, const char *format, ...)
{
	va_list args;

	fprintf(stderr, "nestor%s%s: ", command ? " " : "", command ? command : "");
	va_start(args, format);
	vfprintf(stderr, format, args);
	va_end(args);
	fputc('\n', stderr);
	return STATUS_USAGE;
}

const struct command commands[] = {
	{"run", "run a virtual machine", help_run, command_run},
	{"ps", "list the machines that run", help_ps, command_ps},
	{"stop", "shut a machine down, or end it", help_stop, command_stop},
	{"reset", "start a machine over", help_reset, command_reset},
	{"pause", "stop a machine's CPUs", help_pause, command_pause},
	{"resume", "let a paused machine go on", help_resume, command_resume},
	{"wakeup", "wake a machine that sleeps", help_wakeup, command_wakeup},
	{"console", "connect the terminal to a machine's serial port", help_console, command_console},
	{"screenshot", "write a machine's screen to a file", help_screenshot, command_screenshot},
	{"send-key", "press keys on a machine's keyboard", help_send_key, command_send_key},
	{"eject", "take the disc out of a machine's CD drive", help_eject, command_eject},
	{"insert", "put a disc into a machine's CD drive", help_insert, command_insert},
	{"info", "show what is to be seen of a machine", help_info, command_info},
	{"monitor", "execute a line of a machine's monitor", help_monitor, command_monitor},
	{"qmp", "send a command to a machine's control socket", help_qmp, command_qmp},
	{"nmi", "send a machine's CPUs an NMI", help_nmi, command_nmi},
	{"check", "say what this host offers and what Nestor will use", help_check, command_check},
	{"cpu-models", "list the guest CPUs that this host can carry", help_cpu_models, command_cpu_models},
	{NULL, NULL, NULL, NULL},
};

int print_main_help(FILE *out)
{
	fputs("Usage: nestor COMMAND [OPTIONS]\n"
	      "\n"
	      "Runs virtual machines whose CPU has VT-x, also where this machine's has none.\n"
	      "\n"
	      "Commands:\n", out);
	for (const struct command *command = commands; command->name; command++)
		fprintf(out, "  %-10s  %s\n", command->name, command->summary);
	return fputs("\n"
		     "  nestor COMMAND --help    options and examples of a command\n"
		     "  nestor --version         the version\n"
		     "\n"
		     "Example:\n"
		     "  nestor run --kernel vmlinuz --initrd initrd.img --append console=ttyS0 --memory 2G\n", out);
}

/* nestor monitor: a line of the monitor, for what no command of its own does. */
#include <string.h>

#include "cli/vm.h"

const char help_monitor[] =
	"Usage: nestor monitor NAME [--cpu N] WORD...\n"
	"\n"
	"Executes a line of the machine's monitor, which knows a part of QEMU's commands, and prints what it\n"
	"says. The line \"help\" lists the commands.\n"
	"\n"
	"Examples:\n"
	"  nestor monitor web help\n"
	"  nestor monitor web x/8gx 0xffffffff81000000\n"
	"  nestor monitor web xp/16bx 0x7c00\n";

int command_monitor(int argc, char **argv)
{
	struct vm_arguments arguments = {.option = {{.name = "--cpu", .takes_value = true}}};
	int status = vm_parse(&arguments, "monitor", help_monitor, argc, argv,
	                      "the NAME of a machine and a line", 2, VM_WORDS_MAX);
	char line[256] = "";
	long cpu = 0;

	if (status >= 0)
		return status;
	if (arguments.option[0].value) {
		status = vm_number("monitor", "--cpu", arguments.option[0].value, 0, 63, &cpu);
		if (status >= 0)
			return status;
	}
	for (unsigned i = 1; i < arguments.count; i++) {
		if (strlen(line) + strlen(arguments.word[i]) + 2 > sizeof(line))
			return usage_error("monitor", "the line is too long");
		strcat(strcat(line, i > 1 ? " " : ""), arguments.word[i]);
	}
	return vm_monitor("monitor", arguments.word[0], line, cpu);
}

/* nestor info: what is to be seen of a machine. */
#include "cli/vm.h"

const char help_info[] =
	"Usage: nestor info NAME [TOPIC] [--cpu N]\n"
	"\n"
	"Prints what is to be seen of a running machine. Topics: registers, cpus, tlb, vmcs, irq, devices, pci,\n"
	"mtree, block, network, status, name, version; without one, what each is. registers, tlb, vmcs and irq\n"
	"are of one CPU (0), and stop the machine for a moment.\n"
	"\n"
	"Examples:\n"
	"  nestor info web registers\n"
	"  nestor info web vmcs --cpu 1\n"
	"  nestor info web mtree\n";

int command_info(int argc, char **argv)
{
	struct vm_arguments arguments = {.option = {{.name = "--cpu", .takes_value = true}}};
	int status = vm_parse(&arguments, "info", help_info, argc, argv, "the NAME of a machine, and a TOPIC", 1, 2);
	char line[80];
	long cpu = 0;

	if (status >= 0)
		return status;
	if (arguments.option[0].value) {
		status = vm_number("info", "--cpu", arguments.option[0].value, 0, 63, &cpu);
		if (status >= 0)
			return status;
	}
	snprintf(line, sizeof(line), "info %s", arguments.count == 2 ? arguments.word[1] : "");
	return vm_monitor("info", arguments.word[0], line, cpu);
}

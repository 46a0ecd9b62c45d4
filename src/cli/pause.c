/* nestor pause: a machine's CPUs stand still. */
#include "cli/vm.h"

const char help_pause[] =
	"Usage: nestor pause NAME...\n"
	"\n"
	"Stops the CPUs of machines. Their devices and clocks go on; nestor resume lets the CPUs go on too.\n"
	"\n"
	"Example:\n"
	"  nestor pause web\n";

int command_pause(int argc, char **argv)
{
	return vm_simple("pause", help_pause, argc, argv, "stop");
}

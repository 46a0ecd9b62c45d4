/* nestor wakeup: a sleeping machine wakes. */
#include "cli/vm.h"

const char help_wakeup[] =
	"Usage: nestor wakeup NAME...\n"
	"\n"
	"Wakes machines that sleep (suspend to RAM). Exit status 1 where one does not sleep.\n"
	"\n"
	"Example:\n"
	"  nestor wakeup web\n";

int command_wakeup(int argc, char **argv)
{
	return vm_simple("wakeup", help_wakeup, argc, argv, "system_wakeup");
}

/* nestor reset: a machine starts over. */
#include "cli/vm.h"

const char help_reset[] =
	"Usage: nestor reset NAME...\n"
	"\n"
	"Starts machines over as their reset buttons would: the guest is loaded anew, nothing in it is asked\n"
	"first. A machine that is paused stays paused.\n"
	"\n"
	"Example:\n"
	"  nestor reset web\n";

int command_reset(int argc, char **argv)
{
	return vm_simple("reset", help_reset, argc, argv, "system_reset");
}

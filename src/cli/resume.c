/* nestor resume: a paused machine goes on. */
#include "cli/vm.h"

const char help_resume[] =
	"Usage: nestor resume NAME...\n"
	"\n"
	"Lets the CPUs of paused machines go on.\n"
	"\n"
	"Example:\n"
	"  nestor resume web\n";

int command_resume(int argc, char **argv)
{
	return vm_simple("resume", help_resume, argc, argv, "cont");
}

/* nestor nmi: an NMI to a machine's CPUs. */
#include "cli/vm.h"

const char help_nmi[] =
	"Usage: nestor nmi NAME...\n"
	"\n"
	"Sends a non-maskable interrupt to all CPUs, which makes kernels print where they hang or write a\n"
	"dump, as they are configured.\n"
	"\n"
	"Example:\n"
	"  nestor nmi web\n";

int command_nmi(int argc, char **argv)
{
	return vm_simple("nmi", help_nmi, argc, argv, "inject-nmi");
}

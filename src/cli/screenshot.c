/* nestor screenshot: a machine's screen into a file. */
#include <limits.h>

#include "cli/vm.h"

const char help_screenshot[] =
	"Usage: nestor screenshot NAME FILE.png\n"
	"\n"
	"Writes the picture on the machine's screen to a PNG file.\n"
	"\n"
	"Example:\n"
	"  nestor screenshot web screen.png\n";

int command_screenshot(int argc, char **argv)
{
	struct vm_arguments arguments = {.count = 0};
	int status = vm_parse(&arguments, "screenshot", help_screenshot, argc, argv,
	                      "the NAME of a machine and a FILE.png", 2, 2);
	char path[2 * PATH_MAX];

	if (status < 0)
		status = vm_path("screenshot", arguments.word[1], path, sizeof(path));
	if (status >= 0)
		return status;
	return vm_execute("screenshot", arguments.word[0], "screendump",
			  json_pack("{s:s,s:s}", "filename", path, "format", "png"));
}

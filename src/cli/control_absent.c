/* A build without libjansson: the commands on running machines say so. */
#include "cli/cli.h"

#define ABSENT(symbol, word)                                                                                      \
	const char help_##symbol[] = "nestor " word " needs libjansson, which this build does not have.\n";       \
	int command_##symbol(int argc, char **argv)                                                               \
	{                                                                                                         \
		return usage_error(word, "this build has no libjansson: install libjansson-dev and build again"); \
	}

ABSENT(ps, "ps")
ABSENT(stop, "stop")
ABSENT(reset, "reset")
ABSENT(pause, "pause")
ABSENT(resume, "resume")
ABSENT(wakeup, "wakeup")
ABSENT(nmi, "nmi")
ABSENT(console, "console")
ABSENT(screenshot, "screenshot")
ABSENT(send_key, "send-key")
ABSENT(eject, "eject")
ABSENT(insert, "insert")
ABSENT(info, "info")
ABSENT(monitor, "monitor")
ABSENT(qmp, "qmp")

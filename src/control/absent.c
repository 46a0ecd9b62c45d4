/* A build without libjansson has no control socket, and says so where somebody wants it. */
#include <errno.h>

#include "control/client.h"
#include "control/control.h"
#include "util/error.h"

int control_start(struct control **control, struct machine *machine, struct endpoint *endpoint)
{
	return error_set(ENOTSUP, "this build has no control socket: install libjansson-dev and build again");
}

void control_stop(struct control *control)
{
}

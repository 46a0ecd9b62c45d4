/* Commands about keyboard and screen. */
#include "control/command.h"
#include "machine/machine.h"
#include "util/error.h"

const struct control_command commands_input[] = {
    {NULL, NULL, NULL},
};

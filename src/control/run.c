/* Commands that stop, continue, reset and end the machine. */
#include <errno.h>

#include "control/command.h"
#include "device/chipset/acpi_pm.h"
#include "machine/machine.h"
#include "machine/sleep.h"
#include "util/error.h"

int control_hold(struct control_state *state)
{
	if (state->held)
		return 0;
	if (machine_pause(state->machine))
		return error_set(EBUSY, "the machine is about to end or to start over; try again");
	state->held = true;
	machine_notify(state->machine, MACHINE_EVENT_STOPPED, NULL);
	return 0;
}

void control_unhold(struct control_state *state)
{
	if (!state->held)
		return;
	state->held = false;
	machine_notify(state->machine, MACHINE_EVENT_RESUMED, NULL);
	machine_resume(state->machine);
}

const char *control_status(const struct control_state *state)
{
	if (state->shut_down)
		return "shutdown";
	if (state->held)
		return "paused";
	if (!state->started_ns)
		return "prelaunch";
	if (state->machine && atomic_load(&state->machine->pauses))
		return "debug";
	if (state->suspended)
		return "suspended";
	return state->panicked ? "guest-panicked" : "running";
}

static json_t *run_stop(struct control_state *state, json_t *arguments, struct command_error *error)
{
	return control_hold(state) ? command_fail(error, "%s", error_text()) : json_object();
}

static json_t *run_cont(struct control_state *state, json_t *arguments, struct command_error *error)
{
	control_unhold(state);
	return json_object();
}

static json_t *run_system_reset(struct control_state *state, json_t *arguments, struct command_error *error)
{
	machine_restart(state->machine, STOP_HOST_RESET);
	return json_object();
}

static json_t *run_system_powerdown(struct control_state *state, json_t *arguments,
                                    struct command_error *error)
{
	struct machine *machine = state->machine;

	if (!machine->acpi_pm)
		return command_fail(error, "this machine has no power button");
	machine_lock(machine);
	acpi_pm_power_button(machine->acpi_pm);
	machine_unlock(machine);
	machine_notify(machine, MACHINE_EVENT_POWERDOWN, NULL);
	return json_object();
}

static json_t *run_system_wakeup(struct control_state *state, json_t *arguments, struct command_error *error)
{
	if (!machine_wakeup(state->machine))
		return command_fail(error, "Unable to wake up: guest is not in suspended state");
	return json_object();
}

static json_t *run_quit(struct control_state *state, json_t *arguments, struct command_error *error)
{
	machine_stop_because(state->machine, 0, STOP_HOST_QUIT);
	return json_object();
}

static json_t *run_inject_nmi(struct control_state *state, json_t *arguments, struct command_error *error)
{
	struct machine *machine = state->machine;

	if (!machine->engine->inject_nmi)
		return command_fail(error, "the %s engine cannot inject an NMI", machine->engine->name);
	for (unsigned i = 0; i < machine->config.cpu_count; i++)
		machine->engine->inject_nmi(machine->vm, i);
	return json_object();
}

const struct control_command commands_run[] = {
    {"stop", "", run_stop},
    {"cont", "", run_cont},
    {"system_reset", "", run_system_reset},
    {"system_powerdown", "", run_system_powerdown},
    {"system_wakeup", "", run_system_wakeup},
    {"quit", "", run_quit},
    {"inject-nmi", "", run_inject_nmi},
    {NULL, NULL, NULL},
};

/* isa-debug-exit: a write of v to port F4h ends the run with status (v << 1) | 1; for --host-root with v. */
#include "device/devices.h"
#include "machine/machine.h"

static void debug_exit_write(void *state, uint64_t offset, unsigned size, uint64_t value)
{
	struct machine *machine = state;

	machine_device_exit(machine, (int)((machine->config.exact_exit ? value : value << 1 | 1) & 0xff));
}

static const struct bus_ops debug_exit_ops = {4, NULL, debug_exit_write};

int debug_exit_create(struct machine *machine)
{
	return bus_add(&machine->pio, PLATFORM_DEBUG_EXIT, 4, &debug_exit_ops, machine, "debug-exit");
}

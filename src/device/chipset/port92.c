/* Port 92h, system control port A: fast A20 (kept, not enforced: A20 is never masked) and fast reset. */
#include "device/devices.h"
#include "machine/machine.h"

#define PORT92_RESET 0x01
#define PORT92_A20   0x02

static uint64_t port92_read(void *state, uint64_t offset, unsigned size)
{
	struct machine *machine = state;

	return machine->a20 ? PORT92_A20 : 0;
}

static void port92_write(void *state, uint64_t offset, unsigned size, uint64_t value)
{
	struct machine *machine = state;

	machine->a20 = value & PORT92_A20;
	if (value & PORT92_RESET)
		machine_reset_request(machine, "port 92h");
}

static void port92_reset(void *state)
{
	struct machine *machine = state;

	machine->a20 = true;
}

static const struct bus_ops port92_ops = {1, port92_read, port92_write};

int port92_create(struct machine *machine)
{
	int error = machine_add_device(machine, "port92", machine, port92_reset, NULL);

	return error ? error : bus_add(&machine->pio, PLATFORM_PORT92, 1, &port92_ops, machine, "port92");
}

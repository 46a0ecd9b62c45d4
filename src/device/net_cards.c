#include "device/net_cards.h"

#include "device/devices.h"
#include "machine/machine.h"

int net_cards_create(struct machine *machine)
{
	int error = 0;

	for (unsigned i = 0; i < machine->config.net_count && !error; i++)
		error = machine->config.net[i].model == NET_MODEL_E1000E ? e1000e_create(machine, i)
		                                                         : virtio_net_create(machine, i);
	return error;
}

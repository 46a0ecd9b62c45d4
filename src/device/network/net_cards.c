#include "device/network/net_cards.h"

#include "device/devices.h"
#include "device/firmware/fw_cfg.h"
#include "machine/machine.h"

int net_card_boot_path(struct machine *machine, unsigned index, unsigned slot)
{
	return fw_cfg_add_boot_path(machine->fw_cfg, machine->config.net[index].boot_index,
	                            "/pci@i0cf8/ethernet@%x/ethernet-phy@0", slot);
}

int net_cards_create(struct machine *machine)
{
	int error = 0;

	for (unsigned i = 0; i < machine->config.net_count && !error; i++)
		error = machine->config.net[i].model == NET_MODEL_E1000E ? e1000e_create(machine, i)
		                                                         : virtio_net_create(machine, i);
	return error;
}

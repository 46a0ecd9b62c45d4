#include "device/devices.h"

#include <stddef.h>

#include "device/optional/optional.h"

/* In this order: interrupt controllers before what connects to their lines. */
static int (*const create[])(struct machine *machine) = {
    pic_create,    ioapic_create,  pit_create,      rtc_create, hpet_create,
    serial_create, input_create, i8042_create,   port92_create,   cf9_create, debug_exit_create,
    shadow_create, firmware_rom_create, debug_port_create,
    fw_cfg_create, acpi_pm_create, pci_host_create, ich9_lpc_create, ahci_create,
    screen_create, vga_create, virtio_input_create,
    virtio_blk_create, virtio_console_create, virtio_rng_create, virtio_9p_create,
    net_cards_create,
    optional_devices_create,
    vnc_create, /* last, so that it is the first to go */
};

int devices_create(struct machine *machine)
{
	int error = 0;

	for (size_t i = 0; i < sizeof(create) / sizeof(create[0]) && !error; i++)
		error = create[i](machine);
	return error;
}

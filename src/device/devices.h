/* The table of devices. A device's file has one create function; devices.c names it; nothing else does. */
#ifndef NESTOR_DEVICE_DEVICES_H
#define NESTOR_DEVICE_DEVICES_H

struct machine;

/* Creates every device in order. Returns 0, or a negative errno with error_text(); what was created is then
 * in machine->device and freed with the machine. */
int devices_create(struct machine *machine);

/* Each creates its device, claims its addresses and registers it. Return 0, or a negative errno,
 * error_text(). */
int pic_create(struct machine *machine);
int ioapic_create(struct machine *machine);
int pit_create(struct machine *machine);
int rtc_create(struct machine *machine);
int hpet_create(struct machine *machine);
int serial_create(struct machine *machine);
int i8042_create(struct machine *machine);
int input_create(struct machine *machine);
int screen_create(struct machine *machine);
int vga_create(struct machine *machine);
int vnc_create(struct machine *machine);
int virtio_input_create(struct machine *machine);
int port92_create(struct machine *machine);
int debug_exit_create(struct machine *machine);
int fw_cfg_create(struct machine *machine);
int acpi_pm_create(struct machine *machine);
int cf9_create(struct machine *machine);
int pci_host_create(struct machine *machine);
int ahci_create(struct machine *machine);
int net_cards_create(struct machine *machine);
int virtio_blk_create(struct machine *machine);
int virtio_console_create(struct machine *machine);
int virtio_rng_create(struct machine *machine);
int virtio_9p_create(struct machine *machine);
int ich9_lpc_create(struct machine *machine);
int shadow_create(struct machine *machine);       /* this and the next two: nothing where nobody asks for them */
int firmware_rom_create(struct machine *machine);
int debug_port_create(struct machine *machine);

#endif

/* A guest that starts at the reset vector: what its firmware finds in fw_cfg. Its ROM is a device's. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "boot/boot.h"
#include "boot/file.h"
#include "device/firmware/fw_cfg.h"
#include "device/platform.h"
#include "machine/load.h"
#include "machine/machine.h"
#include "util/error.h"

#define USER_ITEM_MAX (256u << 20)

/* IA32_FEATURE_CONTROL as firmware is to set it: lock; VMX outside SMX. 0: firmware is to leave it alone. */
static uint64_t feature_control(const struct machine *machine)
{
	static const uint64_t value[] = {
	    [VMX_FIRMWARE_ON] = 5, [VMX_FIRMWARE_OFF] = 1, [VMX_FIRMWARE_UNLOCKED] = 0};

	return machine->cpu_model.vmx ? value[machine->config.cpu.vmx_firmware] : 0;
}

static int add_user_item(struct machine *machine, const struct machine_fw_cfg *item)
{
	struct boot_file file = {0};
	int error;

	if (item->text)
		return fw_cfg_add_file(machine->fw_cfg, item->name, item->text, strlen(item->text));
	error = boot_file_read(&file, item->file, "--fw-cfg file", USER_ITEM_MAX);
	if (!error)
		error = fw_cfg_add_file(machine->fw_cfg, item->name, file.data, file.size);
	boot_file_free(&file);
	return error;
}

int machine_fill_fw_cfg(struct machine *machine, const struct boot_fw_cfg *list)
{
	int error = 0;

	for (unsigned i = 0; i < list->count && !error; i++) {
		const struct boot_fw_cfg_item *item = &list->item[i];

		error = item->name[0] ? fw_cfg_add_file(machine->fw_cfg, item->name, item->data, item->size)
		                      : fw_cfg_set(machine->fw_cfg, item->key, item->data, item->size);
	}
	for (unsigned i = 0; i < machine->config.fw_cfg_count && !error; i++)
		error = add_user_item(machine, &machine->config.fw_cfg[i]);
	return error;
}

/* RAM as it is built in, whatever devices have laid over it. */
static struct guest_memory built_in_ram(const struct machine *machine)
{
	struct guest_memory ram = {0};

	for (unsigned i = 0; i < machine->map.ram_count; i++)
		ram.slot[ram.slot_count++] = machine->map.ram[i];
	return ram;
}

int machine_load_firmware(struct machine *machine, const struct boot_request *request)
{
	/* Where nobody sees the display the BIOS talks on the serial line, too. */
	bool seen = machine->config.vnc.host || machine->config.vnc.path,
	     console = machine->config.serial[0] && !seen;
	struct guest_memory ram = built_in_ram(machine);
	struct boot_fw_cfg list = {0};
	int error = boot_firmware_items(request, &ram, feature_control(machine), console ? PLATFORM_COM1 : 0, &list);

	/* The CPUs are as after power-up; the first one goes to the reset vector. */
	if (!error)
		error = machine_fill_fw_cfg(machine, &list);
	boot_fw_cfg_free(&list);
	return error;
}

#include "machine/load.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "boot/boot.h"
#include "device/firmware/fw_cfg.h"
#include "device/pci/pci_bus.h"
#include "engine/vcpu_state.h"
#include "machine/machine.h"
#include "util/error.h"

static struct boot_platform describe_platform(const struct machine *machine)
{
	static const uint16_t port[] = {PLATFORM_COM1, PLATFORM_COM2};
	static const uint8_t irq[] = {PLATFORM_IRQ_COM1, PLATFORM_IRQ_COM2};
	struct boot_platform platform = {
	    .local_apic = PLATFORM_LAPIC_BASE,
	    .io_apic = PLATFORM_IOAPIC_BASE,
	    .io_apic_id = PLATFORM_IOAPIC_ID,
	    .io_apic_pins = PLATFORM_IOAPIC_PINS,
	    .hpet = PLATFORM_HPET_BASE,
	    .pm_base = PLATFORM_PM_BASE,
	    .gpe0_base = PLATFORM_PM_GPE0,
	    .gpe0_length = PLATFORM_PM_GPE0_LENGTH,
	    .smi_port = PLATFORM_SMI_COMMAND,
	    .sci_irq = PLATFORM_IRQ_SCI,
	    .sleep_type_s5 = PLATFORM_S5_TYPE,
	    .sleep_type_s3 = PLATFORM_S3_TYPE,
	    .reset_port = PLATFORM_RESET_CONTROL,
	    .reset_value = PLATFORM_RESET_VALUE,
	    .debug_exit_port = PLATFORM_DEBUG_EXIT,
	    .rtc = true,
	    .rtc_century = PLATFORM_RTC_CENTURY,
	    /* Keyboard and mouse are there always, but without a screen nobody sits before them. */
	    .i8042 = machine->config.vga != MACHINE_VGA_NONE || machine->config.firmware,
	    .vga_text = machine->config.vga != MACHINE_VGA_NONE,
	    .pci = true,
	    .ecam = PLATFORM_ECAM,
	    .pci_hole = PLATFORM_PCI_HOLE,
	    .pci_hole_end = PLATFORM_PCI_HOLE_END,
	};

	platform.pvpanic_port = machine->pvpanic ? PLATFORM_PVPANIC : 0;
	pci_high_window(machine, &platform.pci_high, &platform.pci_high_end);
	for (unsigned i = 0; i < MACHINE_SERIAL_PORTS; i++) {
		if (machine->config.serial[i]) {
			platform.serial[i].port = port[i];
			platform.serial[i].irq = irq[i];
		}
	}
	return platform;
}

static int fill_fw_cfg(struct machine *machine, const struct boot_request *request)
{
	struct boot_fw_cfg list = {0};
	bool vmx_locked_on = machine->cpu_model.vmx && machine->cpu_model.vmx_firmware == VMX_FIRMWARE_ON;
	/* IA32_FEATURE_CONTROL: lock, VMX outside SMX */
	int error = boot_fw_cfg_make(request, &machine->memory, vmx_locked_on ? 5 : 0, &list);

	if (!error)
		error = machine_fill_fw_cfg(machine, &list);
	boot_fw_cfg_free(&list);
	return error;
}

/* "PATH arguments" -> path and command line; both point into a copy that *copy owns. */
static int split_module(const char *text, struct boot_module *module, char **copy)
{
	char *space;

	*copy = strdup(text);
	if (!*copy)
		return error_set(ENOMEM, "out of memory");
	space = strchr(*copy, ' ');
	module->path = *copy;
	module->command_line = *copy;
	if (space) {
		*space = 0;
		module->command_line = space + 1;
	}
	return 0;
}

/* The platform and every CPU as firmware leaves them. */
static int set_up(struct machine *machine)
{
	for (unsigned i = 0; i < machine->config.cpu_count; i++)
		if (machine->engine->vcpu_set_up)
			machine->engine->vcpu_set_up(machine->vcpu[i].engine_vcpu);
	return pci_setup(machine);
}

/* Firmware does as it finds in CMOS; without any we do what it would. */
static int wake_guest(struct machine *machine)
{
	struct vcpu_state start;
	int error = 0;

	if (machine->config.firmware)
		return 0;
	error = boot_wake(&machine->memory, PLATFORM_LAPIC_BASE, &start);
	if (!error)
		error = set_up(machine);
	return error ? error : machine_set_state(machine, 0, &start);
}

int machine_load_guest(struct machine *machine, void *context)
{
	const struct machine_config *config = &machine->config;
	struct boot_module module[MACHINE_BOOT_MODULES];
	char *copy[MACHINE_BOOT_MODULES] = {0};
	struct boot_request request = {
	    .kernel = config->kernel,
	    .initrd = config->initrd,
	    .command_line = config->append,
	    .module = module,
	    .module_count = config->module_count,
	    .mode = config->boot == MACHINE_BOOT_SETUP ? BOOT_MODE_SETUP : BOOT_MODE_DIRECT,
	    .kernel_cache = config->kernel_cache,
	    .cpu_count = config->cpu_count,
	    .platform = describe_platform(machine),
	};
	struct vcpu_state start;
	int error = 0;

	if (machine->waking)
		return wake_guest(machine);
	memcpy(request.uuid, config->uuid, sizeof(request.uuid));
	if (config->firmware)
		return machine_load_firmware(machine, &request);
	if (!config->kernel)
		return error_set(EINVAL, "no guest: give --kernel FILE");
	if (config->module_count > MACHINE_BOOT_MODULES)
		return error_set(EINVAL, "more than %u boot modules", MACHINE_BOOT_MODULES);
	for (unsigned i = 0; i < config->module_count && !error; i++)
		error = split_module(config->module[i], &module[i], &copy[i]);
	memset(&start, 0, sizeof(start));
	if (!error)
		error = boot_load(&request, &machine->memory, &start);
	if (!error)
		error = fill_fw_cfg(machine, &request);
	if (!error)
		error = set_up(machine);
	if (!error)
		error = machine_set_state(machine, 0, &start);
	for (unsigned i = 0; i < MACHINE_BOOT_MODULES; i++)
		free(copy[i]);
	return error;
}

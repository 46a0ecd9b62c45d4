/* nestor run: one virtual machine from its options to its exit status. */
#include "cli/cli.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "boot/boot.h"
#include "config/options.h"
#include "device/fw_cfg.h"
#include "device/platform.h"
#include "engine/cpu_model.h"
#include "engine/vcpu_state.h"
#include "machine/machine.h"
#include "util/error.h"

/* IA32_FEATURE_CONTROL: locked, VMXON outside SMX enabled. */
#define FEATURE_CONTROL_LOCK 1u
#define FEATURE_CONTROL_VMX  4u

static const struct boot_platform platform = {
	.local_apic = PLATFORM_LAPIC_BASE,
	.io_apic = PLATFORM_IOAPIC_BASE,
	.io_apic_id = PLATFORM_IOAPIC_ID,
	.io_apic_pins = PLATFORM_IOAPIC_PINS,
	.hpet = PLATFORM_HPET_BASE,
	.pm_base = PLATFORM_PM_BASE,
	.smi_port = PLATFORM_SMI_COMMAND,
	.sci_irq = PLATFORM_IRQ_SCI,
	.sleep_type_s5 = PLATFORM_S5_TYPE,
	.reset_port = PLATFORM_RESET_CONTROL,
	.reset_value = PLATFORM_RESET_VALUE,
	.debug_exit_port = PLATFORM_DEBUG_EXIT,
	.rtc = true,
	.i8042 = true,
	.pci = true,
	.pci_hole = PLATFORM_PCI_HOLE,
	.pci_hole_end = PLATFORM_PCI_HOLE_END,
};

/* Lets the guest ask fw_cfg for what boot says of the machine. */
static int publish(struct machine *machine, const struct boot_request *request)
{
	const struct machine_config *config = &machine->config;
	uint64_t feature_control = 0;
	struct boot_fw_cfg list;
	int result;

	if (config->cpu.nested_vmx && config->cpu.vmx_firmware == VMX_FIRMWARE_ON)
		feature_control = FEATURE_CONTROL_LOCK | FEATURE_CONTROL_VMX;
	result = boot_fw_cfg_make(request, &machine->memory, feature_control, &list);
	if (result)
		return result;
	for (unsigned i = 0; i < list.count && !result; i++) {
		const struct boot_fw_cfg_item *item = &list.item[i];

		result = item->name[0] ? fw_cfg_add_file(machine->fw_cfg, item->name, item->data, item->size)
				       : fw_cfg_set(machine->fw_cfg, item->key, item->data, item->size);
	}
	boot_fw_cfg_free(&list);
	return result;
}

/* machine_loader: runs at the start and after every reset that restarts. context: unused. */
static int load(struct machine *machine, void *context)
{
	const struct machine_config *config = &machine->config;
	struct boot_module module[MACHINE_BOOT_MODULES];
	char *copy[MACHINE_BOOT_MODULES] = {NULL};
	struct boot_request request = {
		.kernel = config->kernel,
		.initrd = config->initrd,
		.command_line = config->append,
		.module = module,
		.module_count = config->module_count,
		.mode = config->boot == MACHINE_BOOT_SETUP ? BOOT_MODE_SETUP : BOOT_MODE_DIRECT,
		.cpu_count = config->cpu_count,
		.platform = platform,
	};
	static const struct {
		uint16_t port;
		uint8_t irq;
	} serial[MACHINE_SERIAL_PORTS] = {{PLATFORM_COM1, PLATFORM_IRQ_COM1}, {PLATFORM_COM2, PLATFORM_IRQ_COM2}};
	struct vcpu_state start;
	int result = 0;

	for (unsigned i = 0; i < MACHINE_SERIAL_PORTS; i++)
		if (config->serial[i]) {
			request.platform.serial[i].port = serial[i].port;
			request.platform.serial[i].irq = serial[i].irq;
		}
	/* "FILE ARGUMENTS": the file's name ends at the first space. */
	for (unsigned i = 0; i < config->module_count && !result; i++) {
		size_t length = strcspn(config->module[i], " ");

		copy[i] = strndup(config->module[i], length);
		if (!copy[i])
			result = error_set(ENOMEM, "out of memory");
		module[i].path = copy[i];
		module[i].command_line = config->module[i][length] ? config->module[i] + length + 1 : NULL;
	}
	if (!result)
		result = boot_load(&request, &machine->memory, &start);
	if (!result)
		result = publish(machine, &request);
	if (!result)
		result = machine_set_state(machine, 0, &start);
	for (unsigned i = 0; i < MACHINE_BOOT_MODULES; i++)
		free(copy[i]);
	return result;
}

static int run(const struct machine_config *config)
{
	const struct engine_ops *engine;
	struct cpu_model model;
	struct machine *machine;
	int status;

	if (config->firmware)
		return usage_error("run", "--firmware %s: starting firmware is not implemented yet; use --kernel",
				   config->firmware);
	if (cpu_model_make(&model, &config->cpu))
		return usage_error("run", "%s", error_text());
	engine = engine_select(config);
	if (!engine)
		return usage_error("run", "%s", error_text());
	if (machine_create(&machine, config, &model, engine))
		return usage_error("run", "%s", error_text());
	machine_set_loader(machine, load, NULL);
	status = machine_run(machine);
	machine_destroy(machine);
	return status;
}

int command_run(int argc, char **argv)
{
	struct options options;
	int status;

	if (options_parse(&options, argc, argv))
		status = usage_error("run", "%s", error_text());
	else if (options.help)
		status = fputs(help_run, stdout) < 0 ? STATUS_USAGE : STATUS_OK;
	else
		status = run(&options.machine);
	options_free(&options);
	return status;
}

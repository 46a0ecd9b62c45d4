/*
 * pvpanic: a guest that panics writes what happened to a register, on an ISA port with an ACPI device or in a PCI BAR
 * (QEMU's specification, "PVPANIC DEVICE"). Reading tells which events the host knows.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "device/optional/optional.h"
#include "device/pci/pci.h"
#include "device/serial/terminal.h"
#include "machine/machine.h"
#include "util/error.h"
#include "util/properties.h"

#define EVENT_PANICKED     1 /* the guest is at its end */
#define EVENT_CRASH_LOADED 2 /* it has a crash kernel, which runs next */
#define EVENTS             (EVENT_PANICKED | EVENT_CRASH_LOADED)
#define STATUS_PANICKED    1 /* Nestor's exit status */

struct pvpanic {
	struct machine *machine;
	bool stop;
	uint8_t told; /* events since the last reset: one line for each is enough */
	struct pci_function function; /* of pvpanic-pci */
};

static uint64_t pvpanic_read(void *device, uint64_t offset, unsigned size)
{
	return offset == 0 ? EVENTS : 0;
}

static void pvpanic_write(void *device, uint64_t offset, unsigned size, uint64_t value)
{
	struct pvpanic *pvpanic = device;
	struct machine *machine = pvpanic->machine;

	if (offset != 0)
		return;
	if (value & EVENT_CRASH_LOADED & ~pvpanic->told) {
		fprintf(stderr, "nestor: the guest crashed, its crash kernel takes over%s",
		        terminal_newline());
		machine_notify(machine, MACHINE_EVENT_PANICKED, "crashloaded");
	}
	if (value & EVENT_PANICKED & ~pvpanic->told) {
		fprintf(stderr, "nestor: the guest panicked%s", terminal_newline());
		machine_notify(machine, MACHINE_EVENT_PANICKED, "panicked");
		if (pvpanic->stop)
			machine_guest_panicked(machine, STATUS_PANICKED);
	}
	pvpanic->told |= value & EVENTS;
}

static void pvpanic_reset(void *device)
{
	struct pvpanic *pvpanic = device;

	pvpanic->told = 0;
}

static void pvpanic_pci_reset(void *device)
{
	struct pvpanic *pvpanic = device;

	pvpanic->told = 0;
	pci_reset(&pvpanic->function);
}

static const struct bus_ops pvpanic_ops = {1, pvpanic_read, pvpanic_write};

static const struct pci_identity pvpanic_identity = {
    .vendor = 0x1b36,
    .device = 0x0011,
    .subsystem_vendor = 0x1af4,
    .subsystem = 0x1100,
    .class_code = 0x088000, /* system peripheral */
    .revision = 1,
};

static int create(struct machine *machine, struct properties *options, void (*reset)(void *),
                  struct pvpanic **result)
{
	const char *on_panic = properties_get(options, "on-panic");
	struct pvpanic *pvpanic;
	int error;

	if (on_panic && strcmp(on_panic, "stop") && strcmp(on_panic, "continue"))
		return error_set(EINVAL, "--device %s: on-panic must be stop or continue", options->text);
	pvpanic = calloc(1, sizeof(*pvpanic));
	if (!pvpanic)
		return error_set(ENOMEM, "out of memory");
	pvpanic->machine = machine;
	pvpanic->stop = !on_panic || !strcmp(on_panic, "stop");
	error = machine_add_device(machine, "pvpanic", pvpanic, reset, free);
	if (error)
		free(pvpanic);
	else
		*result = pvpanic;
	return error;
}

int pvpanic_create(struct machine *machine, struct properties *options)
{
	struct pvpanic *pvpanic = NULL;
	int error = create(machine, options, pvpanic_reset, &pvpanic);

	if (!error)
		error = bus_add(&machine->pio, PLATFORM_PVPANIC, 1, &pvpanic_ops, pvpanic, "pvpanic");
	machine->pvpanic = !error;
	return error;
}

int pvpanic_pci_create(struct machine *machine, struct properties *options)
{
	struct pvpanic *pvpanic = NULL;
	int error = create(machine, options, pvpanic_pci_reset, &pvpanic);

	if (error)
		return error;
	pci_init(&pvpanic->function, "pvpanic", pvpanic, &pvpanic_identity);
	pci_bar_memory(&pvpanic->function, 0, 16, false, &pvpanic_ops);
	return pci_add(machine, &pvpanic->function, PCI_SLOT_ANY, 0);
}

#include "device/optional/optional.h"

#include <errno.h>
#include <string.h>

#include "machine/machine.h"
#include "util/error.h"
#include "util/properties.h"

static const struct optional_device {
	const char *name;
	const char *options; /* what may follow the name, for messages and the list */
	const char *summary;
	int (*create)(struct machine *machine, struct properties *options);
} optional[] = {
    {"edu", "", "a PCI device to learn from: registers, factorials, DMA, INTx and MSI", edu_create},
    {"pc-testdev", "", "ports, interrupt lines and memory that kvm-unit-tests uses", pc_testdev_create},
    {"pvpanic", "on-panic=stop|continue", "tells the host that the guest panicked: port 0x505, ACPI QEMU0001",
     pvpanic_create},
    {"pvpanic-pci", "on-panic=stop|continue", "the same as a PCI device", pvpanic_pci_create},
};

#define OPTIONAL_COUNT (sizeof(optional) / sizeof(optional[0]))

int optional_devices_list(FILE *out)
{
	for (size_t i = 0; i < OPTIONAL_COUNT; i++)
		fprintf(out, "%s%s%-*s %s\n", optional[i].name, optional[i].options[0] ? "," : "",
		        36 - (int)strlen(optional[i].name) - (optional[i].options[0] != 0),
		        optional[i].options, optional[i].summary);
	return fflush(out);
}

static const struct optional_device *find(const char *name)
{
	for (size_t i = 0; i < OPTIONAL_COUNT; i++)
		if (!strcmp(optional[i].name, name))
			return &optional[i];
	return NULL;
}

static int create(struct machine *machine, struct properties *list)
{
	const char *name = properties_first(list);
	const struct optional_device *device = name ? find(name) : NULL;
	int error;

	if (!device)
		return error_set(EINVAL, "--device %s: there is no such device; see --device list",
		                 list->text);
	error = device->create(machine, list);
	if (error)
		return error;
	return properties_check_used(list, device->options[0] ? device->options : "it takes none");
}

int optional_devices_create(struct machine *machine)
{
	int error = 0;

	for (unsigned i = 0; i < machine->config.device_count && !error; i++) {
		struct properties list;

		error = properties_parse(&list, "--device", machine->config.device[i]);
		if (!error)
			error = create(machine, &list);
		properties_free(&list);
	}
	return error;
}

#include "config/disk_options.h"

#include <errno.h>
#include <string.h>

#include "util/error.h"

#define SERIAL_MAX    20 /* ATA: IDENTIFY DEVICE words 10 … 19; virtio: the answer to GET_ID */
#define AHCI_DISKS    6  /* the controller's ports */
#define BOOTINDEX_MAX 255

static int format_of(struct properties *list, const char **format)
{
	static const char *const formats[] = {"raw", "qcow2", "vmdk", "vhdx", "vdi"};

	*format = properties_get(list, "format");
	if (!*format)
		return 0;
	for (size_t i = 0; i < sizeof(formats) / sizeof(formats[0]); i++)
		if (!strcmp(*format, formats[i]))
			return 0;
	return error_set(EINVAL, "%s %s: format must be raw, qcow2, vmdk, vhdx or vdi", list->option,
	                 list->text);
}

static int interface_of(struct properties *list, enum disk_interface *interface)
{
	const char *word = properties_get(list, "if");

	*interface = DISK_VIRTIO;
	if (!word || !strcmp(word, "virtio"))
		return 0;
	if (strcmp(word, "ahci"))
		return error_set(EINVAL, "%s %s: if must be virtio or ahci", list->option, list->text);
	*interface = DISK_AHCI;
	return 0;
}

static int serial_of(struct properties *list, const char **serial)
{
	*serial = properties_get(list, "serial");
	if (!*serial)
		return 0;
	if (!**serial || strlen(*serial) > SERIAL_MAX)
		return error_set(EINVAL, "%s %s: serial must have 1 to %d characters", list->option,
		                 list->text, SERIAL_MAX);
	for (const char *p = *serial; *p; p++)
		if (*p < 0x20 || *p > 0x7e)
			return error_set(EINVAL, "%s %s: serial must be printable ASCII", list->option,
			                 list->text);
	return 0;
}

/* What is common to disks and CDs. */
static int common_of(struct properties *list, struct disk_config *disk)
{
	uint64_t boot_index = UINT64_MAX;
	int error;

	disk->file = properties_name(list);
	error = format_of(list, &disk->format);
	if (!error)
		error = serial_of(list, &disk->serial);
	if (!error)
		error = properties_number(list, "bootindex", 0, BOOTINDEX_MAX, &boot_index);
	disk->boot_index = boot_index == UINT64_MAX ? -1 : (int)boot_index;
	return error;
}

static int disk_of(struct properties *list, struct disk_config *disk)
{
	int error = common_of(list, disk);

	if (!error)
		error = properties_switch(list, "readonly", false, &disk->read_only);
	if (!error)
		error = properties_switch(list, "snapshot", false, &disk->snapshot);
	if (!error)
		error = interface_of(list, &disk->interface);
	return error ? error : properties_check_used(list, "after the file come format=, readonly, snapshot, if=virtio|ahci, "
							   "serial= and bootindex=");
}

static int cdrom_of(struct properties *list, struct disk_config *disk)
{
	int error = common_of(list, disk);

	disk->cdrom = disk->read_only = true;
	disk->interface = DISK_AHCI;
	if (disk->file && !strcmp(disk->file, "none")) {
		disk->file = NULL;
		if (disk->format)
			return error_set(EINVAL, "%s %s: an empty drive has no format", list->option,
			                 list->text);
	}
	return error ? error
	             : properties_check_used(list, "after the file come format=, serial= and bootindex=");
}

/* What one disk cannot know. */
static int check_together(const struct machine_config *machine, const struct properties *list)
{
	const struct disk_config *last = &machine->disk[machine->disk_count - 1];
	unsigned ahci = 0;

	for (unsigned i = 0; i < machine->disk_count; i++) {
		const struct disk_config *disk = &machine->disk[i];

		ahci += disk->interface == DISK_AHCI;
		if (disk != last && disk->boot_index >= 0 && disk->boot_index == last->boot_index)
			return error_set(EINVAL, "%s %s: %s has bootindex=%d already", list->option,
			                 list->text, disk->file ? disk->file : "an empty drive",
			                 disk->boot_index);
	}
	if (ahci > AHCI_DISKS)
		return error_set(EINVAL, "%s %s: the AHCI controller has only %d ports; use if=virtio",
		                 list->option, list->text, AHCI_DISKS);
	return 0;
}

int disk_options_add(struct disk_options *options, struct machine_config *machine, const char *text,
                     bool cdrom)
{
	const char *option = cdrom ? "--cdrom" : "--disk";
	struct properties *list = &options->text[options->count];
	struct disk_config disk = {0};
	int error;

	if (options->count == MACHINE_DISKS)
		return error_set(EINVAL, "%s %s: at most %d drives", option, text, MACHINE_DISKS);
	error = properties_parse(list, option, text);
	options->count++;
	if (!error)
		error = cdrom ? cdrom_of(list, &disk) : disk_of(list, &disk);
	if (error)
		return error;
	machine->disk[machine->disk_count++] = disk;
	return check_together(machine, list);
}

void disk_options_free(struct disk_options *options)
{
	for (unsigned i = 0; i < options->count; i++)
		properties_free(&options->text[i]);
	options->count = 0;
}

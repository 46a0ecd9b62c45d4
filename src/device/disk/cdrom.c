#include "device/disk/cdrom.h"

#include <errno.h>
#include <time.h>

#include "device/disk/ahci.h"
#include "machine/machine.h"
#include "util/error.h"

#define SECTOR    2048u
#define TRIES     5000 /* of 1 ms: a drive takes one command at a time, and a read is over soon */

static struct ahci_port *port_of(struct machine *machine, unsigned index)
{
	for (unsigned i = 0; machine->ahci && i < AHCI_PORTS; i++) {
		struct ahci_port *port = &machine->ahci->port[i];

		if (port->disk && port->cdrom && port->drive == index)
			return port;
	}
	return NULL;
}

static int find(struct machine *machine, unsigned index, struct ahci_port **port)
{
	unsigned count = 0;

	if (index != CDROM_ONLY) {
		*port = port_of(machine, index);
		return *port ? 0 : error_set(ENODEV, "disk%u is no CD drive", index);
	}
	for (unsigned i = 0; i < machine->config.disk_count; i++) {
		struct ahci_port *drive = port_of(machine, i);

		if (drive)
			*port = drive;
		count += drive != NULL;
	}
	if (!count)
		return error_set(ENODEV,
		                 "this machine has no CD drive; start it with --cdrom FILE or --cdrom none");
	return count == 1 ? 0 : error_set(EINVAL, "this machine has several CD drives; name one of them (info block lists them)");
}

int cdrom_check_size(const char *file, uint64_t size)
{
	if (size < SECTOR)
		return error_set(EINVAL, "%s is too small for a CD; its sectors have %u bytes", file, SECTOR);
	return 0;
}

/* Returns 0; -EBUSY where the guest holds the disc, with error_text(); -EAGAIN where a command is under way. */
static int try_change(struct ahci_port *port, struct disk_medium *medium, bool force)
{
	struct machine *machine = port->ahci->machine;
	int result = 0;

	machine_lock(machine);
	if (atapi_holds_disc(port) && !force) {
		atapi_request_eject(port);
		result = error_set(EBUSY, "disk%u is locked by the guest, which has been asked to let go of the disc; "
		                   "try again then, or force it", port->drive);
	} else if (disk_in_flight(port->disk)) {
		result = -EAGAIN;
	} else {
		atapi_exchange(port, medium);
	}
	machine_unlock(machine);
	return result;
}

int cdrom_change(struct machine *machine, unsigned index, const char *file, const char *format, bool force)
{
	const struct timespec moment = {0, 1000000};
	struct disk_medium medium = {0};
	struct ahci_port *port = NULL;
	int result = find(machine, index, &port);

	if (!result && file)
		result = disk_medium_open(&medium, file, format);
	if (!result && file)
		result = cdrom_check_size(file, block_size(medium.block));
	if (!result)
		result = try_change(port, &medium, force);
	for (unsigned i = 0; i < TRIES && result == -EAGAIN; i++) {
		nanosleep(&moment, NULL);
		result = try_change(port, &medium, force);
	}
	if (result == -EAGAIN)
		result = error_set(EAGAIN, "disk%u: the guest reads without end, or is paused; try again",
		                   port->drive);
	disk_medium_close(&medium); /* the old one, or the new one that has not found its way */
	return result;
}

bool cdrom_status(struct machine *machine, unsigned index, struct cdrom_status *status)
{
	const struct ahci_port *port = port_of(machine, index);

	if (!port)
		return false;
	machine_lock(machine);
	*status = (struct cdrom_status){disk_config(port->disk)->file, disk_config(port->disk)->format,
	                                port->atapi.ejected, port->atapi.locked};
	machine_unlock(machine);
	return true;
}

/*
 * PCI configuration mechanism 1 (ports CF8h and CFCh) over a bus with nothing but its host bridge, so that a
 * guest that probes for PCI finds a sane, empty one. Rules: PCI Local Bus Specification 3.0, "Software
 * Generation of Configuration Transactions" and "Configuration Space Organization".
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "device/cf9.h"
#include "device/devices.h"
#include "machine/machine.h"
#include "util/error.h"

#define ADDRESS_ENABLE   0x80000000u
#define ADDRESS_WRITABLE 0x80fffffcu

struct pci_host {
	struct machine *machine;
	uint32_t address;
	uint8_t config[256]; /* 00:00.0; all read-only but command, cache line size, interrupt line */
};

/*
 * Only a doubleword reaches the address register. Narrower accesses pass it by and are plain port accesses,
 * of which CF9h is the reset control register.
 */
static uint64_t address_read(void *state, uint64_t offset, unsigned size)
{
	struct pci_host *host = state;
	uint64_t value = bus_ones(size);

	if (size == 4)
		return host->address;
	if (offset <= 1 && offset + size > 1) {
		unsigned shift = 8 * (unsigned)(1 - offset);

		value &= ~(UINT64_C(0xff) << shift);
		value |= (uint64_t)cf9_read(host->machine->cf9) << shift;
	}
	return value;
}

static void address_write(void *state, uint64_t offset, unsigned size, uint64_t value)
{
	struct pci_host *host = state;

	if (size == 4)
		host->address = (uint32_t)value & ADDRESS_WRITABLE;
	else if (offset <= 1 && offset + size > 1)
		cf9_write(host->machine->cf9, (uint8_t)(value >> (8 * (1 - offset))));
}

/* The selected function is 00:00.0. */
static bool selects_bridge(const struct pci_host *host)
{
	return host->address & ADDRESS_ENABLE && (host->address & 0x00ffff00) == 0;
}

static uint64_t data_read(void *state, uint64_t offset, unsigned size)
{
	struct pci_host *host = state;
	unsigned place = (host->address & 0xfc) + (unsigned)offset;
	uint64_t value = 0;

	if (!selects_bridge(host))
		return bus_ones(size);
	for (unsigned i = 0; i < size && place + i < sizeof(host->config); i++)
		value |= (uint64_t)host->config[place + i] << (8 * i);
	return value;
}

static void data_write(void *state, uint64_t offset, unsigned size, uint64_t value)
{
	struct pci_host *host = state;
	unsigned place = (host->address & 0xfc) + (unsigned)offset;

	for (unsigned i = 0; i < size && selects_bridge(host); i++) {
		uint8_t byte = (uint8_t)(value >> (8 * i));

		if (place + i == 0x04)
			host->config[0x04] = byte & 0x47; /* command: I/O, memory, master, parity response */
		else if (place + i == 0x05)
			host->config[0x05] = byte & 0x05; /* SERR, interrupt disable */
		else if (place + i == 0x0c || place + i == 0x3c)
			host->config[place + i] = byte; /* cache line size, interrupt line */
	}
}

static void pci_host_reset(void *state)
{
	struct pci_host *host = state;
	static const uint8_t header[] = {
	    0x86, 0x80, 0xc0, 0x29, /* 8086:29c0, the q35 host bridge: drivers expect nothing of it */
	    0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x06, /* class 06 00 00: host bridge */
	};

	memset(host->config, 0, sizeof(host->config));
	memcpy(host->config, header, sizeof(header));
	host->address = 0;
}

static const struct bus_ops address_ops = {4, address_read, address_write};
static const struct bus_ops data_ops = {4, data_read, data_write};

int pci_host_create(struct machine *machine)
{
	struct pci_host *host = calloc(1, sizeof(*host));
	int error;

	if (!host)
		return error_set(ENOMEM, "out of memory");
	host->machine = machine;
	error = machine_add_device(machine, "pci-host", host, pci_host_reset, free);
	if (error) {
		free(host);
		return error;
	}
	error = bus_add(&machine->pio, PLATFORM_PCI_ADDRESS, 4, &address_ops, host, "pci-address");
	if (!error)
		error = bus_add(&machine->pio, PLATFORM_PCI_DATA, 4, &data_ops, host, "pci-data");
	return error;
}

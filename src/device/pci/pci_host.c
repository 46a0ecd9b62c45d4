/*
 * The host bridge of a q35 (Intel 3 Series Express Chipset data sheet, "Host Bridge/DRAM Controller Registers"), and
 * the two ways into configuration space: mechanism 1 (ports CF8h and CFCh; PCI Local Bus Specification 3.0, "Software
 * Generation of Configuration Transactions") and memory (PCI Express Base Specification, "PCI Express Enhanced
 * Configuration Access Mechanism"), which register PCIEXBAR places and switches on.
 *
 * There is one bus. The PAM registers shadow ROM by RAM (shadow.h). There is no SMM: what other registers would do to
 * memory does not happen, they keep what firmware writes.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

#include "device/chipset/cf9.h"
#include "device/devices.h"
#include "device/pci/pci_bus.h"
#include "device/firmware/shadow.h"
#include "machine/machine.h"
#include "util/error.h"

#define ADDRESS_ENABLE      0x80000000u
#define ADDRESS_WRITABLE    0x80fffffcu
#define ADDRESS_BUS(a)      ((a) >> 16 & 0xff)
#define ADDRESS_SLOT(a)     ((a) >> 11 & 0x1f)
#define ADDRESS_FUNCTION(a) ((a) >> 8 & 7)
#define ADDRESS_REGISTER(a) ((a) & 0xfc)

#define ECAM_BUS(offset)      ((unsigned)((offset) >> 20))
#define ECAM_SLOT(offset)     ((unsigned)((offset) >> 15) & 0x1f)
#define ECAM_FUNCTION(offset) ((unsigned)((offset) >> 12) & 7)
#define ECAM_REGISTER(offset) ((unsigned)(offset) & 0xfff)

#define PCIEXBAR        0x60
#define PCIEXBAR_ENABLE 1u
#define PAM0            0x90
#define SMRAM           0x9d
#define SMRAM_LOCK      0x10

/* A register of one or more bytes in configuration space: what it is after power-up and which bits are writable. */
struct config_register {
	uint16_t offset;
	uint8_t reset, writable;
};

static const struct config_register bridge_registers[] = {
    {0x40, 0, 0}, /* EPBAR, MCHBAR (48h), DMIBAR (68h): what they would show does not exist */
    {0x52, 0, 0}, /* GGC: no graphics of the bridge's own */
    {PCIEXBAR, 0, 0x07},
    {PCIEXBAR + 3, 0xe0, 0xfc},
    {PCIEXBAR + 4, 0, 0x0f},
    {PAM0, 0, 0x30}, /* BIOS area */
    {0x91, 0, 0x33},
    {0x92, 0, 0x33},
    {0x93, 0, 0x33},
    {0x94, 0, 0x33},
    {0x95, 0, 0x33},
    {0x96, 0, 0x33},
    {0x97, 0, 0x81},     /* LAC */
    {SMRAM, 0x02, 0x78}, /* compatible SMRAM at A0000h */
    {0x9e, 0x38, 0x87},  /* ESMRAMC */
    {0xa0, 0, 0xff},     /* TOM */
    {0xa1, 0, 0x03},
    {0xa2, 0, 0xff}, /* TOUUD */
    {0xa3, 0, 0xff},
    {0xac, 0, 0xf0}, /* TSEGMB */
    {0xad, 0, 0xff},
    {0xae, 0, 0xff},
    {0xaf, 0, 0xff},
    {0xb0, 0, 0xf0}, /* TOLUD */
    {0xb1, 0, 0xff},
    {0xdc, 0, 0xff}, /* SKPD: scratch */
    {0xdd, 0, 0xff},
    {0xde, 0, 0xff},
    {0xdf, 0, 0xff},
};

static struct pci_function *find(const struct pci_host *host, unsigned bus, unsigned slot, unsigned function)
{
	return bus == 0 ? host->function[slot][function] : NULL;
}

/* ---- mechanism 1 ---- */

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

static struct pci_function *selected(const struct pci_host *host)
{
	uint32_t address = host->address;

	if (!(address & ADDRESS_ENABLE))
		return NULL;
	return find(host, ADDRESS_BUS(address), ADDRESS_SLOT(address), ADDRESS_FUNCTION(address));
}

static uint64_t data_read(void *state, uint64_t offset, unsigned size)
{
	struct pci_host *host = state;
	struct pci_function *function = selected(host);

	return function ? pci_config_read(function, ADDRESS_REGISTER(host->address) + (unsigned)offset, size)
	                : bus_ones(size);
}

static void data_write(void *state, uint64_t offset, unsigned size, uint64_t value)
{
	struct pci_host *host = state;
	struct pci_function *function = selected(host);

	if (function)
		pci_config_write(function, ADDRESS_REGISTER(host->address) + (unsigned)offset, size,
		                 (uint32_t)value);
}

/* ---- ECAM ---- */

static void place_ecam(struct pci_host *host);

/*
 * SeaBIOS, waking from suspend to RAM, switches ECAM off through itself and goes on to write where it is to be: it goes
 * away with the next access that is to anything but PCIEXBAR. Returns whether it has.
 */
static bool ecam_has_ended(struct pci_host *host, uint64_t offset)
{
	if (!host->ecam_ends || offset - PCIEXBAR < 8)
		return false;
	place_ecam(host);
	return true;
}

static uint64_t ecam_read(void *state, uint64_t offset, unsigned size)
{
	if (ecam_has_ended(state, offset))
		return bus_ones(size);

	struct pci_function *function =
	    find(state, ECAM_BUS(offset), ECAM_SLOT(offset), ECAM_FUNCTION(offset));

	return function ? pci_config_read(function, ECAM_REGISTER(offset), size) : bus_ones(size);
}

static void ecam_write(void *state, uint64_t offset, unsigned size, uint64_t value)
{
	struct pci_host *host = state;

	if (ecam_has_ended(host, offset))
		return;

	struct pci_function *function =
	    find(host, ECAM_BUS(offset), ECAM_SLOT(offset), ECAM_FUNCTION(offset));

	host->by_ecam = true;
	if (function)
		pci_config_write(function, ECAM_REGISTER(offset), size, (uint32_t)value);
	host->by_ecam = false;
}

static const struct bus_ops address_ops = {4, address_read, address_write};
static const struct bus_ops data_ops = {4, data_read, data_write};
static const struct bus_ops ecam_ops = {4, ecam_read, ecam_write};

/* "PCIEXBAR": the base is a multiple of the size, which bits 2:1 choose: 256, 128 or 64 MiB. */
static void place_ecam(struct pci_host *host)
{
	uint64_t value = pci_config_read(&host->bridge, PCIEXBAR, 4) |
	                 (uint64_t)pci_config_read(&host->bridge, PCIEXBAR + 4, 4) << 32;
	unsigned length = (unsigned)value >> 1 & 3;
	uint64_t size = UINT64_C(256 << 20) >> (length & 3);
	uint64_t base = value & ~(size - 1);

	if (!(value & PCIEXBAR_ENABLE) || length == 3)
		base = PCI_NOWHERE;
	host->ecam_ends = base == PCI_NOWHERE && host->by_ecam;
	if (host->ecam_ends)
		return;
	if (base == host->ecam && (base == PCI_NOWHERE || size == host->ecam_size))
		return;
	if (host->ecam != PCI_NOWHERE)
		bus_remove(&host->machine->mmio, host->ecam);
	host->ecam = PCI_NOWHERE;
	if (base != PCI_NOWHERE && !bus_add(&host->machine->mmio, base, size, &ecam_ops, host, "pci-ecam")) {
		host->ecam = base;
		host->ecam_size = size;
	}
	pci_retry_bars(host);
}

/* ---- the bridge itself ---- */

static void bridge_written(void *device, unsigned offset, unsigned size)
{
	struct pci_host *host = device;
	struct pci_function *bridge = &host->bridge;

	if (offset < PCIEXBAR + 8 && offset + size > PCIEXBAR)
		place_ecam(host);
	if (offset < PAM0 + SHADOW_REGISTERS && offset + size > PAM0)
		shadow_set(host->machine, bridge->config + PAM0);
	/* "D_LCK": locked until the next reset, together with what SMRAM is. */
	if (bridge->config[SMRAM] & SMRAM_LOCK) {
		bridge->config[SMRAM] &= (uint8_t)~0x40; /* D_OPEN */
		bridge->writable[SMRAM] = 0x20;
		bridge->writable[SMRAM + 1] = 0;
	}
}

static void set_registers(struct pci_function *bridge)
{
	for (size_t i = 0; i < sizeof(bridge_registers) / sizeof(bridge_registers[0]); i++) {
		const struct config_register *row = &bridge_registers[i];

		bridge->config[row->offset] = row->reset;
		bridge->writable[row->offset] = row->writable;
	}
}

/*
 * SeaBIOS wakes from suspend to RAM in its copy in RAM, by which it knows that it wakes, and reaches what it restores by
 * ECAM: both stay. What it then protects against writes it reads from memory that it gave to the guest at the start
 * (1.16, rom_get_max), so this may be the stack on which it wakes the next time: no copy is protected in the sleep.
 */
static void unlock_shadow(struct pci_host *host)
{
	uint8_t *pam = host->bridge.config + PAM0;

	for (unsigned i = 0; i < SHADOW_REGISTERS; i++)
		pam[i] |= (uint8_t)((pam[i] & 0x11) << 1); /* read enable and write enable of two parts */
	shadow_set(host->machine, pam);
}

static void pci_host_reset(void *state)
{
	struct pci_host *host = state;

	if (host->machine->sleeping) {
		unlock_shadow(host);
		return;
	}
	host->address = 0;
	set_registers(&host->bridge);
	pci_reset(&host->bridge);
	place_ecam(host);
	shadow_set(host->machine, host->bridge.config + PAM0);
}

static void describe_bars(const struct pci_function *function, FILE *out)
{
	for (unsigned i = 0; i <= PCI_BARS; i++) {
		const struct pci_bar *bar = &function->bar[i];

		if (!bar->size)
			continue;
		fprintf(out, "    %s %u: %llu bytes of %s", i == PCI_BARS ? "ROM" : "BAR", i,
		        (unsigned long long)bar->size, bar->io ? "ports" : "memory");
		if (bar->mapped == PCI_NOWHERE)
			fprintf(out, ", not decoded\n");
		else
			fprintf(out, " at %#llx\n", (unsigned long long)bar->mapped);
	}
}

static void describe(void *context, FILE *out)
{
	const struct pci_host *host = context;

	for (unsigned slot = 0; slot < PCI_SLOTS; slot++)
		for (unsigned number = 0; number < PCI_FUNCTIONS; number++) {
			const struct pci_function *function = host->function[slot][number];

			if (!function)
				continue;
			fprintf(out, "00:%02x.%u %04x:%04x class %06x %s", slot, number,
			        pci_config_read(function, PCI_VENDOR, 2),
			        pci_config_read(function, PCI_VENDOR + 2, 2),
			        pci_config_read(function, PCI_REVISION, 4) >> 8, function->name);
			if (pci_msix_enabled(function))
				fprintf(out, ", MSI-X");
			else if (pci_msi_enabled(function))
				fprintf(out, ", MSI");
			else if (function->config[PCI_INTERRUPT_PIN])
				fprintf(out, ", INT%c on PIRQ%c%s", '@' + function->config[PCI_INTERRUPT_PIN],
				        'A' + pci_pirq(slot, function->config[PCI_INTERRUPT_PIN]),
				        function->pin.level ? " asserted" : "");
			fprintf(out, "\n");
			describe_bars(function, out);
		}
}

static const struct pci_identity bridge_identity = {
    .vendor = 0x8086,
    .device = 0x29c0,
    .subsystem_vendor = 0x1af4,
    .subsystem = 0x1100,
    .class_code = 0x060000,
    .revision = 2,
};

int pci_host_create(struct machine *machine)
{
	struct pci_host *host = calloc(1, sizeof(*host));
	int error;

	if (!host)
		return error_set(ENOMEM, "out of memory");
	host->machine = machine;
	host->ecam = PCI_NOWHERE;
	error = machine_add_device(machine, "pci-host", host, pci_host_reset, free);
	if (error) {
		free(host);
		return error;
	}
	machine->pci = host;
	pci_init(&host->bridge, "host-bridge", host, &bridge_identity);
	host->bridge.config_written = bridge_written;
	set_registers(&host->bridge);
	error = pci_add(machine, &host->bridge, 0, 0);
	if (!error)
		error = bus_add(&machine->pio, PLATFORM_PCI_ADDRESS, 4, &address_ops, host, "pci-address");
	if (!error)
		error = bus_add(&machine->pio, PLATFORM_PCI_DATA, 4, &data_ops, host, "pci-data");
	machine_add_description(machine, "pci", "bus", describe, host);
	return error;
}

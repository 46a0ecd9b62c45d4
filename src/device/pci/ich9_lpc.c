/*
 * The LPC bridge of an ICH9 (Intel I/O Controller Hub 9 data sheet, "LPC Interface Bridge Registers (D31:F0)"): the
 * interrupt router, the place of the ACPI block (PMBASE) and of the chipset's configuration registers (RCBA). The
 * devices behind the bridge are where a PC has them always; the decode registers keep what firmware writes.
 *
 * PIRQA … PIRQH are the IOAPIC's inputs 16 … 23, and of the ISA interrupt that PIRQx_ROUT names.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "device/chipset/acpi_pm.h"
#include "device/devices.h"
#include "device/pci/pci_bus.h"
#include "machine/machine.h"
#include "util/error.h"

#define PMBASE         0x40
#define ACPI_CNTL      0x44
#define ACPI_CNTL_EN   0x80
#define PMBASE_MASK    0xff80u
#define PIRQ_DISABLED  0x80 /* "PIRQx_ROUT": bit 7, interrupt routing to the 8259 is off */
#define PIRQ_IRQ       0x0f
#define IOAPIC_PIRQA   16

#define RCBA        0xf0
#define RCBA_ENABLE 1u
#define RCBA_MASK   0xffffc000u
#define RCBA_SIZE   0x4000u
#define GCS         0x3410
#define NO_REBOOT   0x20 /* set by a strap: there is no watchdog that could reboot */

struct lpc {
	struct machine *machine;
	struct pci_function bridge;
	struct irq_pin ioapic[PCI_PIRQS], isa[PCI_PIRQS];
	uint64_t rcba; /* where it is decoded, or PCI_NOWHERE */
	uint8_t chipset[RCBA_SIZE];
};

/* What is writable; all is zero after power-up but what `reset` says. */
static const struct {
	uint16_t offset;
	uint8_t reset, writable;
} lpc_registers[] = {
    {PMBASE, 0x01, 0x80},
    {PMBASE + 1, 0, 0xff},
    {ACPI_CNTL, 0, 0x87},
    {0x48, 0x01, 0x80}, /* GPIOBASE */
    {0x49, 0, 0xff},
    {0x4c, 0, 0x11}, /* GC */
    {0x60, 0x80, 0x8f}, /* PIRQA_ROUT … PIRQD_ROUT */
    {0x61, 0x80, 0x8f},
    {0x62, 0x80, 0x8f},
    {0x63, 0x80, 0x8f},
    {0x64, 0x10, 0xc3}, /* SIRQ_CNTL */
    {0x68, 0x80, 0x8f}, /* PIRQE_ROUT … PIRQH_ROUT */
    {0x69, 0x80, 0x8f},
    {0x6a, 0x80, 0x8f},
    {0x6b, 0x80, 0x8f},
    {0x80, 0, 0x77}, /* LPC_I/O_DEC */
    {0x81, 0, 0x13},
    {0x82, 0, 0x0f}, /* LPC_EN */
    {0x83, 0, 0x3f},
    {0x84, 0, 0xfd}, /* GEN1_DEC … GEN4_DEC */
    {0x85, 0, 0xff},
    {0x86, 0, 0xfc},
    {0x88, 0, 0xfd},
    {0x89, 0, 0xff},
    {0x8a, 0, 0xfc},
    {0x8c, 0, 0xfd},
    {0x8d, 0, 0xff},
    {0x8e, 0, 0xfc},
    {0x90, 0, 0xfd},
    {0x91, 0, 0xff},
    {0x92, 0, 0xfc},
    {0xa0, 0, 0xff}, /* GEN_PMCON_1 */
    {0xa1, 0, 0x06},
    {0xa4, 0, 0xdd}, /* GEN_PMCON_3 */
    {0xa5, 0, 0x03},
    {0xa6, 0, 0xff},
    {0xd0, 0x33, 0xff}, /* FWH_SEL1, FWH_SEL2, FWH_DEC_EN1 */
    {0xd1, 0x22, 0xff},
    {0xd2, 0x11, 0xff},
    {0xd3, 0x00, 0xff},
    {0xd4, 0x67, 0xff},
    {0xd5, 0x45, 0xff},
    {0xd8, 0xcf, 0xff},
    {0xd9, 0xff, 0xff},
    {0xdc, 0, 0x1f}, /* BIOS_CNTL */
    {RCBA, 0, 0x01},
    {RCBA + 1, 0, 0xc0},
    {RCBA + 2, 0, 0xff},
    {RCBA + 3, 0, 0xff},
};

/* ---- the interrupt router ---- */

/* The ISA interrupt that PIRQ n goes to, or NULL: some are not the router's to drive. */
static struct irq_line *isa_line(struct lpc *lpc, unsigned n)
{
	const unsigned reserved = 1u << 0 | 1u << 1 | 1u << 2 | 1u << 8 | 1u << 13;
	uint8_t route = lpc->bridge.config[(n < 4 ? 0x60 : 0x64) + n];

	if (route & PIRQ_DISABLED || reserved & 1u << (route & PIRQ_IRQ))
		return NULL;
	return &lpc->machine->irq[route & PIRQ_IRQ];
}

static void route(struct lpc *lpc)
{
	for (unsigned n = 0; n < PCI_PIRQS; n++) {
		struct irq_line *line = isa_line(lpc, n);

		if (line != lpc->isa[n].line)
			irq_pin_connect(&lpc->isa[n], line);
	}
}

static void set_pirq(void *state, unsigned n, bool level)
{
	struct lpc *lpc = state;

	irq_pin_set(&lpc->ioapic[n], level);
	irq_pin_set(&lpc->isa[n], level);
}

/* ---- chipset configuration registers ---- */

static uint64_t chipset_read(void *state, uint64_t offset, unsigned size)
{
	struct lpc *lpc = state;

	return bus_read_bytes(lpc->chipset, offset, size);
}

static void chipset_write(void *state, uint64_t offset, unsigned size, uint64_t value)
{
	struct lpc *lpc = state;

	bus_write_bytes(lpc->chipset, offset, size, value);
	lpc->chipset[GCS] |= NO_REBOOT;
}

static const struct bus_ops chipset_ops = {4, chipset_read, chipset_write};

static void place_chipset(struct lpc *lpc)
{
	uint32_t value = pci_config_read(&lpc->bridge, RCBA, 4);
	uint64_t base = value & RCBA_ENABLE && value & RCBA_MASK ? value & RCBA_MASK : PCI_NOWHERE;

	if (base == lpc->rcba)
		return;
	if (lpc->rcba != PCI_NOWHERE)
		bus_remove(&lpc->machine->mmio, lpc->rcba);
	lpc->rcba = PCI_NOWHERE;
	if (base != PCI_NOWHERE &&
	    !bus_add(&lpc->machine->mmio, base, RCBA_SIZE, &chipset_ops, lpc, "rcba"))
		lpc->rcba = base;
	pci_retry_bars(lpc->machine->pci);
}

/* ---- the bridge ---- */

static void place_acpi(struct lpc *lpc)
{
	uint16_t base = pci_config_read(&lpc->bridge, PMBASE, 2) & PMBASE_MASK;

	if (acpi_pm_place(lpc->machine->acpi_pm, lpc->bridge.config[ACPI_CNTL] & ACPI_CNTL_EN ? base : 0))
		pci_retry_bars(lpc->machine->pci);
}

static void lpc_written(void *device, unsigned offset, unsigned size)
{
	place_acpi(device);
	place_chipset(device);
	route(device);
}

static void lpc_reset(void *state)
{
	struct lpc *lpc = state;

	pci_reset(&lpc->bridge);
	memset(lpc->chipset, 0, sizeof(lpc->chipset));
	lpc->chipset[GCS] = NO_REBOOT;
	lpc_written(lpc, 0, 4);
}

static void describe(void *context, FILE *out)
{
	const struct lpc *lpc = context;

	for (unsigned n = 0; n < PCI_PIRQS; n++) {
		const struct irq_line *line = lpc->isa[n].line;

		fprintf(out, "    PIRQ%c: IOAPIC input %u", 'A' + n, IOAPIC_PIRQA + n);
		if (line)
			fprintf(out, ", IRQ %u", (unsigned)(line - lpc->machine->irq));
		fprintf(out, "%s\n", lpc->ioapic[n].level ? ", asserted" : "");
	}
}

static const struct pci_identity lpc_identity = {
    .vendor = 0x8086,
    .device = 0x2918,
    .subsystem_vendor = 0x1af4,
    .subsystem = 0x1100,
    .class_code = 0x060100,
    .revision = 2,
};

int ich9_lpc_create(struct machine *machine)
{
	struct lpc *lpc = calloc(1, sizeof(*lpc));
	struct pci_host *host = machine->pci;
	int error;

	if (!lpc)
		return error_set(ENOMEM, "out of memory");
	lpc->machine = machine;
	lpc->rcba = PCI_NOWHERE;
	error = machine_add_device(machine, "lpc", lpc, lpc_reset, free);
	if (error) {
		free(lpc);
		return error;
	}
	pci_init(&lpc->bridge, "lpc-bridge", lpc, &lpc_identity);
	lpc->bridge.config_written = lpc_written;
	for (size_t i = 0; i < sizeof(lpc_registers) / sizeof(lpc_registers[0]); i++) {
		lpc->bridge.config[lpc_registers[i].offset] = lpc_registers[i].reset;
		lpc->bridge.writable[lpc_registers[i].offset] = lpc_registers[i].writable;
	}
	for (unsigned n = 0; n < PCI_PIRQS; n++) {
		irq_pin_connect(&lpc->ioapic[n], &machine->irq[IOAPIC_PIRQA + n]);
		irq_line_add_sink(&host->pirq[n], set_pirq, lpc, n);
	}
	machine_add_description(machine, "irq", "PCI router", describe, lpc);
	return pci_add(machine, &lpc->bridge, 31, 0);
}

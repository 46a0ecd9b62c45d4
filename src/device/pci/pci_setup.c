/*
 * What firmware does with the platform before it starts an operating system, done by the host for guests that start
 * without firmware. Addresses are handed out from the largest to the smallest, so that nothing is lost to alignment;
 * what does not fit below 4 GiB and may go above does. Guests see what SeaBIOS would have left them.
 */
#include <errno.h>
#include <string.h>

#include "device/pci/pci_bus.h"
#include "machine/machine.h"
#include "util/error.h"

#define ECAM_REGISTER  0x60
#define LPC_SLOT       31
#define LPC_PMBASE     0x40
#define LPC_ACPI_CNTL  0x44
#define LPC_RCBA       0xf0
#define LPC_PIRQA      0x60
#define LPC_PIRQE      0x68
#define ACPI_ENABLE    0x80
#define PORT_BASE      0xc000u
#define PORT_END       0x10000u
#define GIB            (UINT64_C(1) << 30)
#define HIGH_SIZE      (64 * GIB)

/* PIRQA … PIRQD, and again PIRQE … PIRQH: as SeaBIOS and OVMF route them. */
static const uint8_t pirq_irq[PCI_PIRQS] = {10, 10, 11, 11, 10, 10, 11, 11};

/* A place where BARs may go, filled from `next` upward. */
struct window {
	uint64_t next, end;
};

struct windows {
	struct window port, memory, high;
};

static void write8(struct pci_function *function, unsigned offset, uint8_t value)
{
	pci_config_write(function, offset, 1, value);
}

static void set_up_bridges(struct machine *machine)
{
	struct pci_host *host = machine->pci;
	struct pci_function *bridge = &host->bridge, *lpc = host->function[LPC_SLOT][0];
	uint16_t levels = 0;

	pci_config_write(bridge, ECAM_REGISTER + 4, 4, 0);
	pci_config_write(bridge, ECAM_REGISTER, 4, PLATFORM_ECAM | 1);
	if (!lpc)
		return;
	pci_config_write(lpc, LPC_PMBASE, 4, PLATFORM_PM_BASE | 1);
	write8(lpc, LPC_ACPI_CNTL, ACPI_ENABLE);
	pci_config_write(lpc, LPC_RCBA, 4, PLATFORM_RCBA | 1);
	for (unsigned n = 0; n < PCI_PIRQS; n++) {
		write8(lpc, (n < 4 ? LPC_PIRQA : LPC_PIRQE - 4) + n, pirq_irq[n]);
		levels |= (uint16_t)(1u << pirq_irq[n]);
	}
	bus_write(&machine->pio, PLATFORM_ELCR, 1, levels & 0xff);
	bus_write(&machine->pio, PLATFORM_ELCR + 1, 1, levels >> 8);
}

static bool take(struct window *window, uint64_t size, uint64_t *address)
{
	uint64_t start = (window->next + size - 1) & ~(size - 1);

	if (start < window->next || start >= window->end || window->end - start < size)
		return false;
	*address = start;
	window->next = start + size;
	return true;
}

static int place_bar(struct pci_function *function, unsigned index, struct windows *windows)
{
	const struct pci_bar *bar = &function->bar[index];
	unsigned offset = index == PCI_BARS ? PCI_ROM : PCI_BAR(index);
	/* Small ones apart from each other: guests map whole pages. */
	uint64_t size = !bar->io && bar->size < PAGE_SIZE ? PAGE_SIZE : bar->size;
	uint64_t address;

	if (!(bar->io ? take(&windows->port, size, &address) : take(&windows->memory, size, &address)) &&
	    !(bar->wide && take(&windows->high, size, &address)))
		return error_set(ENOSPC, "%s: its %llu KiB of %s find no room beside the other devices'",
		                 function->name, (unsigned long long)(bar->size + 1023) >> 10,
		                 bar->io ? "ports" : "memory");
	pci_config_write(function, offset, 4, (uint32_t)address);
	if (bar->wide)
		pci_config_write(function, offset + 4, 4, (uint32_t)(address >> 32));
	return 0;
}

/* All BARs of one size. */
static int place_bars(struct pci_host *host, uint64_t size, struct windows *windows)
{
	int error = 0;

	for (unsigned i = 0; i < PCI_SLOTS * PCI_FUNCTIONS && !error; i++) {
		struct pci_function *function = host->function[i / PCI_FUNCTIONS][i % PCI_FUNCTIONS];

		for (unsigned index = 0; function && index <= PCI_BARS && !error; index++)
			if (function->bar[index].size == size)
				error = place_bar(function, index, windows);
	}
	return error;
}

static void enable(struct pci_function *function)
{
	uint32_t command = pci_config_read(function, PCI_COMMAND, 2) | PCI_COMMAND_MASTER;
	uint8_t pin = function->config[PCI_INTERRUPT_PIN];

	for (unsigned index = 0; index <= PCI_BARS; index++)
		if (function->bar[index].size)
			command |= function->bar[index].io ? PCI_COMMAND_IO : PCI_COMMAND_MEMORY;
	pci_config_write(function, PCI_COMMAND, 2, command);
	if (pin)
		write8(function, PCI_INTERRUPT_LINE, pirq_irq[pci_pirq(function->slot, pin)]);
}

static int set_up(struct machine *machine)
{
	struct pci_host *host = machine->pci;
	struct windows windows = {
	    .port = {PORT_BASE, PORT_END},
	    .memory = {PLATFORM_PCI_HOLE, PLATFORM_PCI_HOLE_END},
	};
	int error = 0;

	pci_high_window(machine, &windows.high.next, &windows.high.end);
	set_up_bridges(machine);
	for (unsigned bits = 40; bits-- > 2 && !error;)
		error = place_bars(host, UINT64_C(1) << bits, &windows);
	for (unsigned i = 0; i < PCI_SLOTS * PCI_FUNCTIONS && !error; i++)
		if (host->function[i / PCI_FUNCTIONS][i % PCI_FUNCTIONS])
			enable(host->function[i / PCI_FUNCTIONS][i % PCI_FUNCTIONS]);
	return error;
}

void pci_high_window(const struct machine *machine, uint64_t *start, uint64_t *end)
{
	uint64_t size = machine->config.memory_size;
	uint64_t ram = PLATFORM_HIGH_RAM + (size > PLATFORM_LOW_RAM_END ? size - PLATFORM_LOW_RAM_END : 0);
	unsigned bits = machine->cpu_model.physical_address_bits;
	uint64_t limit = bits >= 33 && bits <= 52 ? UINT64_C(1) << bits : 0;

	*start = (ram + GIB - 1) & ~(GIB - 1);
	*end = *start < limit && limit - *start > HIGH_SIZE ? *start + HIGH_SIZE : limit;
	if (*end < *start)
		*end = *start;
}

int pci_setup(struct machine *machine)
{
	int error;

	machine_lock(machine);
	error = set_up(machine);
	machine_unlock(machine);
	return error;
}

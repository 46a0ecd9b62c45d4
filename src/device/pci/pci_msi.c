/*
 * How functions interrupt: INTx, MSI, MSI-X. Rules: PCI Local Bus Specification 3.0, "MSI and MSI-X Operation",
 * "MSI-X Table Structure", "Interrupt Pin", and the command register's Interrupt Disable.
 */
#include <assert.h>
#include <string.h>

#include "device/pci/pci.h"
#include "device/pci/pci_bus.h"
#include "machine/dma.h"
#include "machine/machine.h"

#define CAPABILITY_MSI  0x05
#define CAPABILITY_MSIX 0x11

/* MSI: offsets in the capability with 64-bit addresses. */
#define MSI_CONTROL 2
#define MSI_ADDRESS 4
#define MSI_DATA    12
#define MSI_SIZE    14
#define MSI_ENABLE  0x01
#define MSI_64      0x80

#define MSIX_CONTROL      2
#define MSIX_TABLE        4
#define MSIX_PENDING      8
#define MSIX_SIZE         12
#define MSIX_ENABLE       0x80 /* in the control's high byte */
#define MSIX_MASK_ALL     0x40
#define MSIX_BAR_SIZE     4096
#define MSIX_PENDING_AT   2048
#define MSIX_ENTRY_MASKED 1u

#define MSI_WINDOW(address) (((address) & ~UINT64_C(0xfffff)) == 0xfee00000)

static_assert(sizeof(struct pci_msix_entry) == 16, "the table's layout is the guest's");
static_assert(PCI_MSIX_MAX * sizeof(struct pci_msix_entry) <= MSIX_PENDING_AT,
              "the table is before the bits");

void pci_add_msi(struct pci_function *function)
{
	unsigned offset = pci_add_capability(function, CAPABILITY_MSI, MSI_SIZE);

	function->msi = (uint8_t)offset;
	function->config[offset + MSI_CONTROL] = MSI_64;
	function->writable[offset + MSI_CONTROL] = MSI_ENABLE;
	memset(function->writable + offset + MSI_ADDRESS, 0xff, MSI_SIZE - MSI_ADDRESS);
	function->writable[offset + MSI_ADDRESS] = 0xfc;
}

void pci_add_msix(struct pci_function *function, unsigned vectors, unsigned bar)
{
	unsigned offset = pci_add_capability(function, CAPABILITY_MSIX, MSIX_SIZE);

	assert(vectors >= 1 && vectors <= PCI_MSIX_MAX && bar < PCI_BARS);
	function->msix = (uint8_t)offset;
	function->msix_count = vectors;
	function->msix_bar = bar;
	function->config[offset + MSIX_CONTROL] = (uint8_t)(vectors - 1);
	function->writable[offset + MSIX_CONTROL + 1] = MSIX_ENABLE | MSIX_MASK_ALL;
	function->config[offset + MSIX_TABLE] = (uint8_t)bar;
	function->config[offset + MSIX_PENDING] = (uint8_t)bar;
	function->config[offset + MSIX_PENDING + 1] = MSIX_PENDING_AT >> 8;
	pci_bar_memory(function, bar, MSIX_BAR_SIZE, false, &pci_msix_ops);
}

bool pci_msi_enabled(const struct pci_function *function)
{
	return function->msi && function->config[function->msi + MSI_CONTROL] & MSI_ENABLE;
}

bool pci_msix_enabled(const struct pci_function *function)
{
	return function->msix && function->config[function->msix + MSIX_CONTROL + 1] & MSIX_ENABLE;
}

/* A message is a memory write like any other: only a bus master sends it, and it goes where its address says. */
static void send(struct pci_function *function, uint64_t address, uint32_t data)
{
	if (!pci_is_master(function))
		return;
	if (MSI_WINDOW(address))
		machine_send_msi(function->machine, address, data);
	else
		dma_write(function->machine, address & ~UINT64_C(3), &data, sizeof(data));
}

void pci_send_msi(struct pci_function *function)
{
	const uint8_t *capability = function->config + function->msi;
	uint64_t address;
	uint16_t data;

	if (!pci_msi_enabled(function))
		return;
	memcpy(&address, capability + MSI_ADDRESS, sizeof(address));
	memcpy(&data, capability + MSI_DATA, sizeof(data));
	send(function, address, data);
}

/* ---- MSI-X ---- */

static bool is_masked(const struct pci_function *function, unsigned vector)
{
	return function->config[function->msix + MSIX_CONTROL + 1] & MSIX_MASK_ALL ||
	       function->msix_entry[vector].control & MSIX_ENTRY_MASKED;
}

void pci_send_msix(struct pci_function *function, unsigned vector)
{
	const struct pci_msix_entry *entry = &function->msix_entry[vector < PCI_MSIX_MAX ? vector : 0];

	if (!pci_msix_enabled(function) || vector >= function->msix_count)
		return;
	if (is_masked(function, vector))
		function->msix_pending |= UINT64_C(1) << vector;
	else
		send(function, entry->address, entry->data);
}

/* "If a masked vector has its Pending bit Set, and the mask is cleared, the function must send the message." */
static void send_pending(struct pci_function *function)
{
	for (unsigned i = 0; i < function->msix_count && function->msix_pending; i++) {
		if (!(function->msix_pending & UINT64_C(1) << i) || is_masked(function, i))
			continue;
		function->msix_pending &= ~(UINT64_C(1) << i);
		send(function, function->msix_entry[i].address, function->msix_entry[i].data);
	}
}

/* "software must use aligned 32 or 64-bit accesses": others find ones and change nothing. */
static uint64_t msix_read(void *state, uint64_t offset, unsigned size)
{
	const struct pci_function *function = state;
	uint64_t value = 0;

	if (size < 4 || offset & (size - 1))
		return bus_ones(size);
	if (offset < function->msix_count * sizeof(struct pci_msix_entry))
		memcpy(&value, (const uint8_t *)function->msix_entry + offset, size);
	else if (offset >= MSIX_PENDING_AT && offset < MSIX_PENDING_AT + 8)
		value = function->msix_pending >> (8 * (offset - MSIX_PENDING_AT));
	return value;
}

static void msix_write(void *state, uint64_t offset, unsigned size, uint64_t value)
{
	struct pci_function *function = state;
	struct pci_msix_entry *entry;

	if (size < 4 || offset & (size - 1) ||
	    offset >= function->msix_count * sizeof(struct pci_msix_entry))
		return;
	entry = &function->msix_entry[offset / sizeof(*entry)];
	memcpy((uint8_t *)function->msix_entry + offset, &value, size);
	entry->control &= MSIX_ENTRY_MASKED;
	entry->address &= ~UINT64_C(3);
	if (pci_msix_enabled(function))
		send_pending(function);
}

const struct bus_ops pci_msix_ops = {8, msix_read, msix_write};

/* ---- INTx ---- */

static void update_intx(struct pci_function *function)
{
	bool disabled = function->config[PCI_COMMAND + 1] & PCI_COMMAND_INTX_DISABLE >> 8;

	if (function->intx)
		function->config[PCI_STATUS] |= PCI_STATUS_INTERRUPT;
	else
		function->config[PCI_STATUS] &= (uint8_t)~PCI_STATUS_INTERRUPT;
	irq_pin_set(&function->pin,
	            function->intx && !disabled && !pci_msi_enabled(function) && !pci_msix_enabled(function));
}

void pci_set_intx(struct pci_function *function, bool asserted)
{
	if (function->intx == asserted)
		return;
	function->intx = asserted;
	update_intx(function);
}

void pci_interrupts_written(struct pci_function *function)
{
	update_intx(function);
	if (pci_msix_enabled(function))
		send_pending(function);
}

void pci_interrupts_reset(struct pci_function *function)
{
	memset(function->msix_entry, 0, sizeof(function->msix_entry));
	for (unsigned i = 0; i < function->msix_count; i++)
		function->msix_entry[i].control = MSIX_ENTRY_MASKED;
	function->msix_pending = 0;
	function->intx = false;
	update_intx(function);
}

/*
 * A PCI function: configuration space as arrays of bytes with masks that say what a guest's write changes, and BARs
 * that claim what their registers and the command register say. Rules: PCI Local Bus Specification 3.0,
 * "Configuration Space Organization", "Base Addresses", "Capabilities List".
 *
 * A BAR is decoded whole or not at all. Where something else has part of its range already it waits (`contended`)
 * until something leaves, so that a guest that moves BARs in any order ends with what its registers say.
 */
#include "device/pci/pci.h"

#include <assert.h>
#include <errno.h>
#include <string.h>

#include "device/pci/pci_bus.h"
#include "machine/machine.h"
#include "util/error.h"

#define BAR_IO           0x1u
#define BAR_64           0x4u
#define BAR_PREFETCHABLE 0x8u
#define ROM_ENABLE       0x1u

#define FIRST_CAPABILITY     0x40
#define CAPABILITY_EXPRESS   0x10
#define ADDRESS_LIMIT        (UINT64_C(1) << 52) /* no x86 has more physical addresses */
#define PORT_LIMIT           0x10000u
#define FIRST_FREE_SLOT      2

static void put(uint8_t *to, uint32_t value, unsigned size)
{
	for (unsigned i = 0; i < size; i++)
		to[i] = (uint8_t)(value >> (8 * i));
}

static uint32_t get(const uint8_t *from, unsigned size)
{
	uint32_t value = 0;

	for (unsigned i = 0; i < size; i++)
		value |= (uint32_t)from[i] << (8 * i);
	return value;
}

/* ---- what a device gives its function ---- */

void pci_init(struct pci_function *function, const char *name, void *device,
              const struct pci_identity *identity)
{
	memset(function, 0, sizeof(*function));
	function->name = name;
	function->device = device;
	function->next_capability = FIRST_CAPABILITY;
	for (unsigned i = 0; i <= PCI_BARS; i++)
		function->bar[i].mapped = PCI_NOWHERE;
	put(function->config + PCI_VENDOR, identity->vendor | (uint32_t)identity->device << 16, 4);
	put(function->config + PCI_REVISION, identity->revision | identity->class_code << 8, 4);
	put(function->config + PCI_SUBSYSTEM_VENDOR,
	    identity->subsystem_vendor | (uint32_t)identity->subsystem << 16, 4);
	function->config[PCI_INTERRUPT_PIN] = identity->interrupt_pin;
	put(function->writable + PCI_COMMAND, PCI_COMMAND_BITS, 2);
	function->writable[PCI_CACHE_LINE] = 0xff;
	function->writable[PCI_LATENCY] = 0xff;
	function->writable[PCI_INTERRUPT_LINE] = 0xff;
}

static void add_bar(struct pci_function *function, unsigned index, const struct pci_bar *bar, uint32_t flags)
{
	bool rom = index == PCI_BARS;
	unsigned offset = rom ? PCI_ROM : PCI_BAR(index);

	assert(index < PCI_BARS + (bar->host != NULL) && (bar->size & (bar->size - 1)) == 0);
	assert(!function->bar[index].size && (!bar->wide || index + 1 < PCI_BARS));
	function->bar[index] = *bar;
	function->bar[index].mapped = PCI_NOWHERE;
	put(function->config + offset, flags, 4);
	put(function->writable + offset, (uint32_t)(0 - bar->size) | (rom ? ROM_ENABLE : 0), 4);
	if (bar->wide)
		put(function->writable + offset + 4, (uint32_t)((0 - bar->size) >> 32), 4);
}

void pci_bar_io(struct pci_function *function, unsigned index, uint64_t size, const struct bus_ops *ops)
{
	struct pci_bar bar = {.ops = ops, .size = size, .io = true};

	assert(size >= 4 && size <= 256); /* "Devices … must not consume more than 256 bytes per I/O BAR" */
	add_bar(function, index, &bar, BAR_IO);
}

void pci_bar_memory(struct pci_function *function, unsigned index, uint64_t size, bool wide,
                    const struct bus_ops *ops)
{
	struct pci_bar bar = {.ops = ops, .size = size, .wide = wide};

	assert(size >= 16 && (wide || size <= UINT64_C(1) << 31));
	add_bar(function, index, &bar, wide ? BAR_64 : 0);
}

/* Memory without side effects is prefetchable; not an option ROM, whose register has no such bit. */
void pci_bar_ram(struct pci_function *function, unsigned index, uint64_t size, void *host, bool read_only)
{
	bool rom = index == PCI_BARS;
	struct pci_bar bar = {
	    .host = host, .size = size, .read_only = read_only || rom, .prefetchable = !rom};

	assert(host && size >= PAGE_SIZE && size <= UINT64_C(1) << 31);
	add_bar(function, index, &bar, rom ? 0 : BAR_PREFETCHABLE);
}

unsigned pci_add_capability(struct pci_function *function, uint8_t id, unsigned size)
{
	unsigned offset = function->next_capability;

	assert(offset + size <= 256);
	function->config[offset] = id;
	if (function->last_capability)
		function->config[function->last_capability + 1] = (uint8_t)offset;
	else
		function->config[PCI_CAPABILITIES] = (uint8_t)offset;
	function->config[PCI_STATUS] |= PCI_STATUS_CAPABILITIES;
	function->last_capability = (uint8_t)offset;
	function->next_capability = (uint16_t)((offset + size + 3) & ~3u);
	return offset;
}

/* PCI Express Base Specification, "PCI Express Capability Structure": version 2, no link as we are inside the root
 * complex. */
void pci_add_express(struct pci_function *function)
{
	unsigned offset = pci_add_capability(function, CAPABILITY_EXPRESS, 0x3c);

	put(function->config + offset + 2, 2 | 9 << 4, 2);  /* root complex integrated endpoint */
	put(function->config + offset + 4, 1 << 15, 4);     /* role-based error reporting */
	put(function->writable + offset + 8, 0x081f, 2);    /* error reporting, relaxed ordering, no snoop */
	put(function->config + offset + 8, 0x0810, 2);
}

/* ---- decoding ---- */

uint64_t pci_bar_address(const struct pci_function *function, unsigned index)
{
	const struct pci_bar *bar = &function->bar[index];
	uint32_t command = get(function->config + PCI_COMMAND, 2);
	bool rom = index == PCI_BARS;
	unsigned offset = rom ? PCI_ROM : PCI_BAR(index);
	uint64_t address = get(function->config + offset, 4);

	if (!bar->size || !(command & (bar->io ? PCI_COMMAND_IO : PCI_COMMAND_MEMORY)) ||
	    (rom && !(address & ROM_ENABLE)))
		return PCI_NOWHERE;
	if (bar->wide)
		address |= (uint64_t)get(function->config + offset + 4, 4) << 32;
	address &= ~(bar->size - 1) & (bar->io ? ~UINT64_C(3) : ~UINT64_C(15));
	/* Zero is where the chipset's own ports and RAM are: it means "not placed". */
	if (address == 0 || address > (bar->io ? PORT_LIMIT : ADDRESS_LIMIT) - bar->size)
		return PCI_NOWHERE;
	/* From the IOAPIC up to 4 GiB the chipset decodes for itself: local APICs and flash are no ranges of the bus. */
	if (!bar->io && address < PLATFORM_HIGH_RAM && address + bar->size > PLATFORM_PCI_HOLE_END)
		return PCI_NOWHERE;
	return address;
}

static struct bus *bus_of(const struct pci_function *function, const struct pci_bar *bar)
{
	return bar->io ? &function->machine->pio : &function->machine->mmio;
}

static void unmap(struct pci_function *function, struct pci_bar *bar)
{
	if (bar->host)
		machine_unmap_memory(function->machine, GPA(bar->mapped));
	else
		bus_remove(bus_of(function, bar), bar->mapped);
	bar->mapped = PCI_NOWHERE;
}

/* Memory of a BAR would hide RAM; in a chipset RAM comes first. */
static bool is_ram(const struct machine *machine, uint64_t address, uint64_t size)
{
	for (unsigned i = 0; i < machine->map.ram_count; i++) {
		const struct guest_memory_slot *ram = &machine->map.ram[i];

		if (address - ram->gpa < ram->size || ram->gpa - address < size)
			return true;
	}
	return false;
}

static bool map(struct pci_function *function, struct pci_bar *bar, uint64_t address)
{
	struct bus *bus = bus_of(function, bar);
	void *device = bar->ops == &pci_msix_ops ? (void *)function : function->device;

	if (bar->host)
		return !bus_is_claimed(bus, address, bar->size) &&
		       !is_ram(function->machine, address, bar->size) &&
		       machine_map_memory(function->machine, GPA(address), bar->size, bar->host,
		                          bar->read_only) == 0;
	return bus_add(bus, address, bar->size, bar->ops, device, function->name) == 0;
}

/* Returns whether something left the buses. */
static bool update_bars(struct pci_host *host, struct pci_function *function)
{
	bool left = false;

	for (unsigned i = 0; i <= PCI_BARS; i++) {
		struct pci_bar *bar = &function->bar[i];

		if (bar->size && bar->mapped != PCI_NOWHERE && bar->mapped != pci_bar_address(function, i)) {
			unmap(function, bar);
			left = true;
		}
	}
	for (unsigned i = 0; i <= PCI_BARS; i++) {
		struct pci_bar *bar = &function->bar[i];
		uint64_t address = pci_bar_address(function, i);

		if (address == PCI_NOWHERE || bar->mapped != PCI_NOWHERE)
			continue;
		if (map(function, bar, address))
			bar->mapped = address;
		else
			host->contended = true;
	}
	return left;
}

void pci_retry_bars(struct pci_host *host)
{
	if (!host->contended)
		return;
	host->contended = false;
	for (unsigned slot = 0; slot < PCI_SLOTS; slot++)
		for (unsigned number = 0; number < PCI_FUNCTIONS; number++)
			if (host->function[slot][number])
				update_bars(host, host->function[slot][number]);
}

static void decode(struct pci_function *function)
{
	struct pci_host *host = function->machine->pci;

	if (update_bars(host, function))
		pci_retry_bars(host);
}

/* ---- configuration space ---- */

uint32_t pci_config_read(const struct pci_function *function, unsigned offset, unsigned size)
{
	uint32_t value = 0;

	if (function->config_reading)
		function->config_reading(function->device, offset, size);
	for (unsigned i = 0; i < size; i++)
		value |= (uint32_t)(offset + i < PCI_CONFIG_SIZE ? function->config[offset + i] : 0xff)
		         << (8 * i);
	return value;
}

static bool overlaps(unsigned offset, unsigned size, unsigned start, unsigned end)
{
	return offset < end && start < offset + size;
}

void pci_config_write(struct pci_function *function, unsigned offset, unsigned size, uint32_t value)
{
	for (unsigned i = 0; i < size && offset + i < PCI_CONFIG_SIZE; i++) {
		uint8_t byte = (uint8_t)(value >> (8 * i)), writable = function->writable[offset + i];
		uint8_t *stored = &function->config[offset + i];

		*stored = (uint8_t)((*stored & ~writable) | (byte & writable));
		*stored &= (uint8_t) ~(byte & function->clears[offset + i]);
	}
	if (overlaps(offset, size, PCI_COMMAND, PCI_COMMAND + 2) ||
	    overlaps(offset, size, PCI_BAR(0), PCI_BAR(PCI_BARS)) ||
	    overlaps(offset, size, PCI_ROM, PCI_ROM + 4))
		decode(function);
	pci_interrupts_written(function);
	if (function->config_written)
		function->config_written(function->device, offset, size);
}

void pci_reset(struct pci_function *function)
{
	memcpy(function->config, function->reset, sizeof(function->config));
	pci_interrupts_reset(function);
	decode(function);
}

bool pci_is_master(const struct pci_function *function)
{
	return function->config[PCI_COMMAND] & PCI_COMMAND_MASTER;
}

/* ---- the bus ---- */

/*
 * As q35 boards are wired and their firmware expects it: slots 0 … 24 rotate over PIRQE … PIRQH, the chipset's own
 * devices above use PIRQA … PIRQD.
 */
unsigned pci_pirq(unsigned slot, unsigned pin)
{
	return slot <= 24 ? 4 + ((slot + pin - 1) & 3) : (pin - 1) & 3;
}

static int find_slot(const struct pci_host *host, const struct pci_function *function, uint8_t *slot)
{
	for (unsigned i = FIRST_FREE_SLOT; i < PCI_SLOTS; i++) {
		bool taken = false;

		for (unsigned number = 0; number < PCI_FUNCTIONS; number++)
			taken |= host->function[i][number] != NULL;
		if (!taken) {
			*slot = (uint8_t)i;
			return 0;
		}
	}
	return error_set(ENOSPC, "%s: all %d slots of the PCI bus are taken; give the VM fewer devices",
	                 function->name, PCI_SLOTS);
}

/* "Header Type": bit 7 of function 0 says that there are others; those need function 0. */
static void mark_multifunction(struct pci_host *host, unsigned slot)
{
	struct pci_function *first = host->function[slot][0];
	bool others = false;

	for (unsigned number = 1; number < PCI_FUNCTIONS; number++)
		others |= host->function[slot][number] != NULL;
	if (first && others) {
		first->config[PCI_HEADER_TYPE] |= PCI_HEADER_MULTIFUNCTION;
		first->reset[PCI_HEADER_TYPE] |= PCI_HEADER_MULTIFUNCTION;
	}
}

int pci_add(struct machine *machine, struct pci_function *function, uint8_t slot, uint8_t number)
{
	struct pci_host *host = machine->pci;
	int error = 0;

	if (slot == PCI_SLOT_ANY)
		error = find_slot(host, function, &slot);
	if (error)
		return error;
	if (slot >= PCI_SLOTS || number >= PCI_FUNCTIONS || host->function[slot][number])
		return error_set(EEXIST, "%s: slot %u, function %u of the PCI bus is taken", function->name,
		                 slot, number);
	function->machine = machine;
	function->slot = slot;
	function->number = number;
	memcpy(function->reset, function->config, sizeof(function->reset));
	host->function[slot][number] = function;
	mark_multifunction(host, slot);
	if (function->config[PCI_INTERRUPT_PIN])
		irq_pin_connect(&function->pin,
		                &host->pirq[pci_pirq(slot, function->config[PCI_INTERRUPT_PIN])]);
	pci_interrupts_reset(function);
	return 0;
}

/*
 * The I/O APIC: 24 inputs, each with a redirection table entry that turns it into an interrupt message.
 * Rules: Intel 82093AA data sheet ("I/O Redirection Table Registers"); version 20h with the EOI register of
 * later chipsets (I/O Controller Hub data sheets, "EOIR"). Messages leave in the format of an MSI.
 */
#include "device/chipset/ioapic.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

#include "device/devices.h"
#include "machine/machine.h"
#include "util/error.h"

#define VERSION 0x20u

#define IOREGSEL 0x00
#define IOWIN    0x10
#define EOIR     0x40

#define REGISTER_ID          0x00
#define REGISTER_VERSION     0x01
#define REGISTER_ARBITRATION 0x02
#define REGISTER_TABLE       0x10

#define RTE_VECTOR     0xffu
#define RTE_MODE(rte)  ((unsigned)((rte) >> 8) & 7)
#define RTE_LOGICAL    (UINT64_C(1) << 11)
#define RTE_STATUS     (UINT64_C(1) << 12)
#define RTE_REMOTE_IRR (UINT64_C(1) << 14)
#define RTE_LEVEL      (UINT64_C(1) << 15)
#define RTE_MASK       (UINT64_C(1) << 16)
#define RTE_WRITABLE   (UINT64_C(0xff000000000000ff) | 0x700 | RTE_LOGICAL | 1u << 13 | RTE_LEVEL | RTE_MASK)
#define RTE_READ_ONLY  (RTE_REMOTE_IRR | RTE_STATUS)

struct ioapic {
	struct machine *machine;
	uint8_t select;
	uint32_t id;
	uint32_t level; /* the inputs' levels */
	uint64_t table[PLATFORM_IOAPIC_PINS];
};

/* Only fixed and lowest-priority interrupts know level triggering and remote IRR. */
static bool is_level(uint64_t entry)
{
	return (entry & RTE_LEVEL) && RTE_MODE(entry) <= 1;
}

static void send(struct ioapic *ioapic, unsigned pin)
{
	uint64_t entry = ioapic->table[pin];
	uint64_t address = 0xfee00000u | (entry >> 56) << 12 | (entry & RTE_LOGICAL ? 1u << 2 : 0);
	uint32_t data = (uint32_t)(entry & RTE_VECTOR) | RTE_MODE(entry) << 8;

	if (is_level(entry)) {
		data |= 1u << 15 | 1u << 14;
		ioapic->table[pin] |= RTE_REMOTE_IRR;
	}
	machine_send_msi(ioapic->machine, address, data);
}

/* A level input that is high, unmasked and not yet in service goes out. */
static void update_level(struct ioapic *ioapic, unsigned pin)
{
	uint64_t entry = ioapic->table[pin];

	if (is_level(entry) && (ioapic->level & 1u << pin) && !(entry & (RTE_MASK | RTE_REMOTE_IRR)))
		send(ioapic, pin);
}

static void ioapic_set_line(void *state, unsigned pin, bool level)
{
	struct ioapic *ioapic = state;
	uint64_t entry = ioapic->table[pin];
	bool rising = level && !(ioapic->level & 1u << pin);

	if (level)
		ioapic->level |= 1u << pin;
	else
		ioapic->level &= ~(1u << pin);
	if (is_level(entry))
		update_level(ioapic, pin);
	else if (rising && !(entry & RTE_MASK)) /* "edge-sensitive interrupts are ignored while masked" */
		send(ioapic, pin);
}

void ioapic_eoi(struct ioapic *ioapic, uint8_t vector)
{
	for (unsigned pin = 0; pin < PLATFORM_IOAPIC_PINS; pin++) {
		uint64_t entry = ioapic->table[pin];

		if (!is_level(entry) || (entry & RTE_VECTOR) != vector || !(entry & RTE_REMOTE_IRR))
			continue;
		ioapic->table[pin] = entry & ~RTE_REMOTE_IRR;
		update_level(ioapic, pin);
	}
}

static void write_entry(struct ioapic *ioapic, unsigned pin, bool high, uint32_t value)
{
	uint64_t entry = ioapic->table[pin];
	uint64_t merged =
	    high ? (entry & 0xffffffffu) | (uint64_t)value << 32 : (entry & ~UINT64_C(0xffffffff)) | value;

	entry = (merged & RTE_WRITABLE) | (entry & RTE_READ_ONLY);
	/* Edge mode clears remote IRR; guests use that as an EOI. */
	if (!is_level(entry))
		entry &= ~RTE_REMOTE_IRR;
	ioapic->table[pin] = entry;
	update_level(ioapic, pin);
}

static uint32_t read_register(struct ioapic *ioapic)
{
	unsigned pin = (unsigned)(ioapic->select - REGISTER_TABLE) / 2;

	switch (ioapic->select) {
	case REGISTER_ID:
	case REGISTER_ARBITRATION:
		return ioapic->id;
	case REGISTER_VERSION:
		return VERSION | (PLATFORM_IOAPIC_PINS - 1) << 16;
	default:
		if (ioapic->select < REGISTER_TABLE || pin >= PLATFORM_IOAPIC_PINS)
			return 0;
		return (uint32_t)(ioapic->select & 1 ? ioapic->table[pin] >> 32 : ioapic->table[pin]);
	}
}

static void write_register(struct ioapic *ioapic, uint32_t value)
{
	unsigned pin = (unsigned)(ioapic->select - REGISTER_TABLE) / 2;

	if (ioapic->select == REGISTER_ID)
		ioapic->id = value & 0x0f000000;
	else if (ioapic->select >= REGISTER_TABLE && pin < PLATFORM_IOAPIC_PINS)
		write_entry(ioapic, pin, ioapic->select & 1, value);
}

/* Registers are 32 bits wide at multiples of 16 bytes; narrower and unaligned accesses are not defined. */
static uint64_t ioapic_read(void *state, uint64_t offset, unsigned size)
{
	struct ioapic *ioapic = state;

	if ((offset & ~UINT64_C(3)) == IOREGSEL)
		return (uint64_t)ioapic->select >> (8 * (offset & 3));
	if ((offset & ~UINT64_C(3)) == IOWIN)
		return read_register(ioapic) >> (8 * (offset & 3));
	return 0;
}

static void ioapic_write(void *state, uint64_t offset, unsigned size, uint64_t value)
{
	struct ioapic *ioapic = state;

	if (offset == IOREGSEL)
		ioapic->select = (uint8_t)value;
	else if (offset == IOWIN && size == 4)
		write_register(ioapic, (uint32_t)value);
	else if (offset == EOIR && size == 4)
		ioapic_eoi(ioapic, (uint8_t)value);
}

static void ioapic_reset(void *state)
{
	struct ioapic *ioapic = state;

	ioapic->select = 0;
	ioapic->id = PLATFORM_IOAPIC_ID << 24;
	for (unsigned pin = 0; pin < PLATFORM_IOAPIC_PINS; pin++)
		ioapic->table[pin] = RTE_MASK;
}

static void describe(void *context, FILE *out)
{
	static const char *const mode[] = {"fixed", "lowest", "SMI", "3", "NMI", "INIT", "6", "ExtINT"};
	const struct ioapic *ioapic = context;

	for (unsigned pin = 0; pin < PLATFORM_IOAPIC_PINS; pin++) {
		uint64_t entry = ioapic->table[pin];

		if (entry & RTE_MASK && !(ioapic->level & 1u << pin))
			continue;
		fprintf(out, "    %2u: vector %#x %s to %s %u, %s%s%s%s\n", pin, (unsigned)(entry & RTE_VECTOR),
		        mode[RTE_MODE(entry)], entry & RTE_LOGICAL ? "logical" : "CPU", (unsigned)(entry >> 56),
		        entry & RTE_LEVEL ? "level" : "edge", entry & RTE_MASK ? ", masked" : "",
		        ioapic->level & 1u << pin ? ", high" : "", entry & RTE_REMOTE_IRR ? ", in service" : "");
	}
}

static const struct bus_ops ioapic_ops = {4, ioapic_read, ioapic_write};

int ioapic_create(struct machine *machine)
{
	struct ioapic *ioapic = calloc(1, sizeof(*ioapic));
	int error;

	if (!ioapic)
		return error_set(ENOMEM, "out of memory");
	ioapic->machine = machine;
	error = machine_add_device(machine, "ioapic", ioapic, ioapic_reset, free);
	if (error) {
		free(ioapic);
		return error;
	}
	machine->ioapic = ioapic;
	machine_add_description(machine, "irq", "IOAPIC", describe, ioapic);
	for (unsigned irq = 0; irq < PLATFORM_IRQ_COUNT; irq++) {
		if (irq == PLATFORM_IRQ_PIT)
			irq_line_add_sink(&machine->irq[irq], ioapic_set_line, ioapic, PLATFORM_PIT_GSI);
		else if (irq != PLATFORM_PIT_GSI)
			irq_line_add_sink(&machine->irq[irq], ioapic_set_line, ioapic, irq);
	}
	return bus_add(&machine->mmio, PLATFORM_IOAPIC_BASE, PAGE_SIZE, &ioapic_ops, ioapic, "ioapic");
}

/*
 * A PCI device for people who learn to write drivers, and for tests: the registers of QEMU's "edu" (its
 * specification, "EDU device"), so that drivers for that one work. Function 1234:11e8, memory BAR 0 of 1 MiB:
 *
 *	00h  ID: 010000EDh                     60h  write: raise these interrupts
 *	04h  reads the complement of what      64h  write: acknowledge these interrupts
 *	     was written                       80h  DMA: source
 *	08h  write n: reads n! when finished   88h  DMA: destination
 *	20h  status: 1 busy, 80h interrupt     90h  DMA: bytes
 *	     when the factorial is finished    98h  DMA: 1 start, 2 from here to RAM, 4 interrupt
 *	24h  which interrupts are raised            100h when finished; bit 0 clears then
 *
 * Its own memory for DMA is 4 KiB at address 40000h. Registers below 80h take 4 bytes, the others 4 or 8.
 * docs/adding-a-device.md explains this file.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "device/optional/optional.h"
#include "device/pci/pci.h"
#include "machine/dma.h"
#include "machine/machine.h"
#include "util/error.h"

#define REGISTER_ID        0x00
#define REGISTER_LIVENESS  0x04
#define REGISTER_FACTORIAL 0x08
#define REGISTER_STATUS    0x20
#define REGISTER_RAISED    0x24
#define REGISTER_RAISE     0x60
#define REGISTER_LOWER     0x64
#define REGISTER_SOURCE    0x80
#define REGISTER_TARGET    0x88
#define REGISTER_COUNT     0x90
#define REGISTER_COMMAND   0x98

#define ID                  0x010000edu
#define STATUS_BUSY         0x01
#define STATUS_INTERRUPT    0x80
#define COMMAND_START       0x01
#define COMMAND_TO_RAM      0x02
#define COMMAND_INTERRUPT   0x04
#define INTERRUPT_FACTORIAL 0x001
#define INTERRUPT_DMA       0x100

#define MEMORY_ADDRESS 0x40000u
#define MEMORY_SIZE    4096u
#define FACTORIAL_NS   1000u
#define DMA_NS         10000u

struct edu {
	struct machine *machine;
	struct pci_function function;
	struct machine_timer factorial_done, dma_done;
	uint32_t liveness, factorial, status, raised;
	uint64_t source, target, count, command;
	uint8_t memory[MEMORY_SIZE];
};

/* The pin stays high until all are acknowledged; a message goes out for each that is raised. */
static void raise_interrupts(struct edu *edu, uint32_t interrupts)
{
	edu->raised |= interrupts;
	pci_set_intx(&edu->function, edu->raised);
	if (edu->raised)
		pci_send_msi(&edu->function);
}

static void lower_interrupts(struct edu *edu, uint32_t interrupts)
{
	edu->raised &= ~interrupts;
	pci_set_intx(&edu->function, edu->raised);
}

/* Modulo 2^32 it is 0 from 34! on. */
static void factorial_done(void *device)
{
	struct edu *edu = device;
	uint32_t result = 1;

	for (uint32_t n = edu->factorial; n > 1 && result; n--)
		result *= n;
	edu->factorial = result;
	edu->status &= ~STATUS_BUSY;
	if (edu->status & STATUS_INTERRUPT)
		raise_interrupts(edu, INTERRUPT_FACTORIAL);
}

/* Guests choose both addresses: what is not in the device's memory, or no RAM, is left alone. */
static void dma_done(void *device)
{
	struct edu *edu = device;
	bool to_ram = edu->command & COMMAND_TO_RAM;
	uint64_t offset = (to_ram ? edu->source : edu->target) - MEMORY_ADDRESS;

	if (pci_is_master(&edu->function) && offset < MEMORY_SIZE && edu->count <= MEMORY_SIZE - offset) {
		if (to_ram)
			dma_write(edu->machine, edu->target, edu->memory + offset, edu->count);
		else
			dma_read(edu->machine, edu->source, edu->memory + offset, edu->count);
	}
	edu->command &= ~(uint64_t)COMMAND_START;
	if (edu->command & COMMAND_INTERRUPT)
		raise_interrupts(edu, INTERRUPT_DMA);
}

static uint64_t *wide_register(struct edu *edu, uint64_t offset)
{
	switch (offset & ~UINT64_C(7)) {
	case REGISTER_SOURCE:
		return &edu->source;
	case REGISTER_TARGET:
		return &edu->target;
	case REGISTER_COUNT:
		return &edu->count;
	case REGISTER_COMMAND:
		return &edu->command;
	default:
		return NULL;
	}
}

static uint64_t edu_read(void *device, uint64_t offset, unsigned size)
{
	struct edu *edu = device;
	uint64_t *wide = wide_register(edu, offset);

	if (size < 4 || offset & (size - 1) || (size == 8 && !wide))
		return bus_ones(size);
	switch (offset) {
	case REGISTER_ID:
		return ID;
	case REGISTER_LIVENESS:
		return edu->liveness;
	case REGISTER_FACTORIAL:
		return edu->factorial;
	case REGISTER_STATUS:
		return edu->status;
	case REGISTER_RAISED:
		return edu->raised;
	default:
		return wide ? *wide >> (8 * (offset & 7)) : bus_ones(size);
	}
}

static void write_wide(struct edu *edu, uint64_t *wide, unsigned shift, unsigned size, uint64_t value)
{
	if (edu->command & COMMAND_START)
		return; /* busy */
	*wide = (*wide & ~(bus_ones(size) << shift)) | value << shift;
	if (edu->command & COMMAND_START)
		timer_arm(&edu->dma_done, machine_now(edu->machine) + DMA_NS);
}

static void edu_write(void *device, uint64_t offset, unsigned size, uint64_t value)
{
	struct edu *edu = device;
	uint64_t *wide = wide_register(edu, offset);

	if (size < 4 || offset & (size - 1))
		return;
	if (wide) {
		write_wide(edu, wide, 8 * (offset & 7), size, value);
		return;
	}
	if (size != 4)
		return;
	switch (offset) {
	case REGISTER_LIVENESS:
		edu->liveness = ~(uint32_t)value;
		break;
	case REGISTER_FACTORIAL:
		if (edu->status & STATUS_BUSY)
			break;
		edu->factorial = (uint32_t)value;
		edu->status |= STATUS_BUSY;
		timer_arm(&edu->factorial_done, machine_now(edu->machine) + FACTORIAL_NS);
		break;
	case REGISTER_STATUS:
		edu->status = (edu->status & STATUS_BUSY) | ((uint32_t)value & STATUS_INTERRUPT);
		break;
	case REGISTER_RAISE:
		raise_interrupts(edu, (uint32_t)value);
		break;
	case REGISTER_LOWER:
		lower_interrupts(edu, (uint32_t)value);
		break;
	default:
		break;
	}
}

static void edu_reset(void *device)
{
	struct edu *edu = device;

	timer_cancel(&edu->factorial_done);
	timer_cancel(&edu->dma_done);
	edu->liveness = edu->factorial = edu->status = edu->raised = 0;
	edu->source = edu->target = edu->count = edu->command = 0;
	memset(edu->memory, 0, sizeof(edu->memory));
	pci_reset(&edu->function);
}

static const struct bus_ops edu_ops = {8, edu_read, edu_write};

static const struct pci_identity edu_identity = {
    .vendor = 0x1234,
    .device = 0x11e8,
    .subsystem_vendor = 0x1af4,
    .subsystem = 0x1100,
    .class_code = 0x00ff00, /* belongs to no class */
    .revision = 0x10,
    .interrupt_pin = 1,
};

int edu_create(struct machine *machine, struct properties *options)
{
	struct edu *edu = calloc(1, sizeof(*edu));
	int error;

	if (!edu)
		return error_set(ENOMEM, "out of memory");
	edu->machine = machine;
	error = machine_add_device(machine, "edu", edu, edu_reset, free);
	if (error) {
		free(edu);
		return error;
	}
	pci_init(&edu->function, "edu", edu, &edu_identity);
	pci_bar_memory(&edu->function, 0, 1u << 20, false, &edu_ops);
	pci_add_msi(&edu->function);
	error = timer_init(&edu->factorial_done, &machine->timers, factorial_done, edu);
	if (!error)
		error = timer_init(&edu->dma_done, &machine->timers, dma_done, edu);
	return error ? error : pci_add(machine, &edu->function, PCI_SLOT_ANY, 0);
}

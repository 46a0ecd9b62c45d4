/*
 * What kvm-unit-tests expects of QEMU's pc-testdev: ports that keep what is written, interrupt lines to pull, memory that
 * is no RAM, and a port that makes the hypervisor look at a page anew.
 *
 *	E0h … E3h        a register of 4 bytes, any width
 *	E4h              write: forget what is known of the page with this address
 *	E8h … EBh        the same register as E0h, byte by byte
 *	2000h … 2017h    write n: interrupt line (port - 2000h) is high where n is not 0
 *	FF000000h        64 KiB of registers that keep what is written
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "device/optional/optional.h"
#include "machine/dma.h"
#include "machine/machine.h"
#include "util/error.h"

#define PORT_REGISTER 0xe0
#define PORT_FLUSH    0xe4
#define PORT_BYTES    0xe8
#define PORT_LINES    0x2000
#define MEMORY_BASE   0xff000000u
#define MEMORY_SIZE   0x10000u

struct testdev {
	struct machine *machine;
	uint8_t value[4];
	struct irq_pin pin[PLATFORM_IRQ_COUNT];
	uint8_t memory[MEMORY_SIZE];
};

static void flush_write(void *device, uint64_t offset, unsigned size, uint64_t value)
{
	struct testdev *testdev = device;

	dma_written(testdev->machine, value & ~(uint64_t)(PAGE_SIZE - 1), PAGE_SIZE);
}

static void line_write(void *device, uint64_t offset, unsigned size, uint64_t value)
{
	struct testdev *testdev = device;

	irq_pin_set(&testdev->pin[offset], value);
}

static void testdev_reset(void *device)
{
	struct testdev *testdev = device;

	memset(testdev->value, 0, sizeof(testdev->value));
	memset(testdev->memory, 0, sizeof(testdev->memory));
	for (unsigned i = 0; i < PLATFORM_IRQ_COUNT; i++)
		irq_pin_set(&testdev->pin[i], false);
}

static const struct bus_ops register_ops = {4, bus_read_bytes, bus_write_bytes};
static const struct bus_ops byte_ops = {1, bus_read_bytes, bus_write_bytes};
static const struct bus_ops flush_ops = {4, NULL, flush_write};
static const struct bus_ops line_ops = {1, NULL, line_write};
static const struct bus_ops memory_ops = {8, bus_read_bytes, bus_write_bytes};

int pc_testdev_create(struct machine *machine, struct properties *options)
{
	struct testdev *testdev = calloc(1, sizeof(*testdev));
	int error;

	if (!testdev)
		return error_set(ENOMEM, "out of memory");
	testdev->machine = machine;
	error = machine_add_device(machine, "pc-testdev", testdev, testdev_reset, free);
	if (error) {
		free(testdev);
		return error;
	}
	for (unsigned i = 0; i < PLATFORM_IRQ_COUNT; i++)
		irq_pin_connect(&testdev->pin[i], &machine->irq[i]);
	error = bus_add(&machine->pio, PORT_REGISTER, 4, &register_ops, testdev->value, "pc-testdev");
	if (!error)
		error = bus_add(&machine->pio, PORT_FLUSH, 4, &flush_ops, testdev, "pc-testdev");
	if (!error)
		error = bus_add(&machine->pio, PORT_BYTES, 4, &byte_ops, testdev->value, "pc-testdev");
	if (!error)
		error = bus_add(&machine->pio, PORT_LINES, PLATFORM_IRQ_COUNT, &line_ops, testdev, "pc-testdev");
	if (!error)
		error = bus_add(&machine->mmio, MEMORY_BASE, MEMORY_SIZE, &memory_ops, testdev->memory,
		                "pc-testdev");
	return error;
}

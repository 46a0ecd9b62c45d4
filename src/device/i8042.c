/*
 * The 8042 keyboard controller with nothing plugged in: self-tests pass, ports answer "no device", A20 and
 * the reset pulse work. Rules: IBM PS/2 Hardware Interface Technical Reference, "Keyboard/Auxiliary Device
 * Controller". What is sent to an empty port comes back as FEh with the time-out bit, so that drivers need
 * not wait for their own time-outs; the auxiliary port's interface test fails, which means that there is
 * none.
 */
#include <errno.h>
#include <stdlib.h>

#include "device/devices.h"
#include "machine/machine.h"
#include "util/error.h"

#define STATUS_OUTPUT_FULL 0x01
#define STATUS_SYSTEM      0x04
#define STATUS_COMMAND     0x08
#define STATUS_UNLOCKED    0x10
#define STATUS_AUX         0x20
#define STATUS_TIMEOUT     0x40

#define CONFIG_KEYBOARD_IRQ 0x01
#define CONFIG_AUX_IRQ      0x02
#define CONFIG_KEYBOARD_OFF 0x10
#define CONFIG_AUX_OFF      0x20

#define OUTPUT_RESET 0x01 /* active low */
#define OUTPUT_A20   0x02

struct i8042 {
	struct machine *machine;
	uint8_t config, ram[32];
	uint8_t data;
	bool full, from_aux, timeout, last_was_command;
	uint8_t pending; /* command that waits for its data byte; 0: none */
	struct irq_pin keyboard, aux;
};

static void update(struct i8042 *kbc)
{
	irq_pin_set(&kbc->keyboard, kbc->full && !kbc->from_aux && kbc->config & CONFIG_KEYBOARD_IRQ);
	irq_pin_set(&kbc->aux, kbc->full && kbc->from_aux && kbc->config & CONFIG_AUX_IRQ);
}

static void answer(struct i8042 *kbc, uint8_t value, bool from_aux)
{
	kbc->data = value;
	kbc->full = true;
	kbc->from_aux = from_aux;
	kbc->timeout = false;
	update(kbc);
}

static void answer_timeout(struct i8042 *kbc, bool from_aux)
{
	answer(kbc, 0xfe, from_aux);
	kbc->timeout = true;
}

static void write_output_port(struct i8042 *kbc, uint8_t value)
{
	kbc->machine->a20 = value & OUTPUT_A20;
	if (!(value & OUTPUT_RESET))
		machine_reset_request(kbc->machine, "the keyboard controller's output port");
}

static void command(struct i8042 *kbc, uint8_t value)
{
	kbc->pending = 0;
	switch (value) {
	case 0x20 ... 0x3f: /* read the command byte or controller RAM */
		answer(kbc, value == 0x20 ? kbc->config : kbc->ram[value & 31], false);
		break;
	case 0x60 ... 0x7f: /* the same, write */
	case 0xd1:          /* write the output port */
	case 0xd2:          /* write the keyboard's output buffer */
	case 0xd3:          /* write the auxiliary device's output buffer */
	case 0xd4:          /* write to the auxiliary device */
		kbc->pending = value;
		break;
	case 0xa7:
		kbc->config |= CONFIG_AUX_OFF;
		break;
	case 0xa8:
		kbc->config &= (uint8_t)~CONFIG_AUX_OFF;
		break;
	case 0xa9: /* auxiliary interface test: clock line stuck low */
		answer(kbc, 0x01, false);
		break;
	case 0xab: /* keyboard interface test: no error */
		answer(kbc, 0x00, false);
		break;
	case 0xaa: /* self-test passed */
		kbc->config |= STATUS_SYSTEM;
		answer(kbc, 0x55, false);
		break;
	case 0xad:
		kbc->config |= CONFIG_KEYBOARD_OFF;
		break;
	case 0xae:
		kbc->config &= (uint8_t)~CONFIG_KEYBOARD_OFF;
		break;
	case 0xc0: /* input port: not locked */
		answer(kbc, 0x80, false);
		break;
	case 0xd0:
		answer(kbc, OUTPUT_RESET | (kbc->machine->a20 ? OUTPUT_A20 : 0), false);
		break;
	case 0xdd:
		kbc->machine->a20 = false;
		break;
	case 0xdf:
		kbc->machine->a20 = true;
		break;
	case 0xf0 ... 0xff: /* pulse the output port's low bits that are 0 here */
		if (!(value & OUTPUT_RESET))
			machine_reset_request(kbc->machine, "the keyboard controller");
		break;
	default:
		break;
	}
	update(kbc);
}

static void data(struct i8042 *kbc, uint8_t value)
{
	uint8_t pending = kbc->pending;

	kbc->pending = 0;
	switch (pending) {
	case 0x60:
		kbc->config = value;
		update(kbc);
		break;
	case 0x61 ... 0x7f:
		kbc->ram[pending & 31] = value;
		break;
	case 0xd1:
		write_output_port(kbc, value);
		break;
	case 0xd2:
		answer(kbc, value, false);
		break;
	case 0xd3: /* without an auxiliary port there is no loop */
		break;
	default: /* to a device that is not there */
		answer_timeout(kbc, pending == 0xd4);
		break;
	}
}

static uint64_t data_read(void *state, uint64_t offset, unsigned size)
{
	struct i8042 *kbc = state;

	kbc->full = false;
	update(kbc);
	return kbc->data;
}

static void data_write(void *state, uint64_t offset, unsigned size, uint64_t value)
{
	struct i8042 *kbc = state;

	kbc->last_was_command = false;
	data(kbc, (uint8_t)value);
}

static uint64_t status_read(void *state, uint64_t offset, unsigned size)
{
	struct i8042 *kbc = state;

	return STATUS_UNLOCKED | (kbc->config & STATUS_SYSTEM) | (kbc->full ? STATUS_OUTPUT_FULL : 0) |
	       (kbc->full && kbc->from_aux ? STATUS_AUX : 0) |
	       (kbc->full && kbc->timeout ? STATUS_TIMEOUT : 0) |
	       (kbc->last_was_command ? STATUS_COMMAND : 0);
}

static void command_write(void *state, uint64_t offset, unsigned size, uint64_t value)
{
	struct i8042 *kbc = state;

	kbc->last_was_command = true;
	command(kbc, (uint8_t)value);
}

static void i8042_reset(void *state)
{
	struct i8042 *kbc = state;

	kbc->config = STATUS_SYSTEM | CONFIG_KEYBOARD_OFF | CONFIG_AUX_OFF;
	kbc->data = 0;
	kbc->full = false;
	kbc->timeout = false;
	kbc->last_was_command = true;
	kbc->pending = 0;
	update(kbc);
}

static const struct bus_ops data_ops = {1, data_read, data_write};
static const struct bus_ops command_ops = {1, status_read, command_write};

int i8042_create(struct machine *machine)
{
	struct i8042 *kbc = calloc(1, sizeof(*kbc));
	int error;

	if (!kbc)
		return error_set(ENOMEM, "out of memory");
	kbc->machine = machine;
	error = machine_add_device(machine, "i8042", kbc, i8042_reset, free);
	if (error) {
		free(kbc);
		return error;
	}
	irq_pin_connect(&kbc->keyboard, &machine->irq[PLATFORM_IRQ_KEYBOARD]);
	irq_pin_connect(&kbc->aux, &machine->irq[PLATFORM_IRQ_MOUSE]);
	error = bus_add(&machine->pio, PLATFORM_I8042_DATA, 1, &data_ops, kbc, "i8042");
	if (!error)
		error = bus_add(&machine->pio, PLATFORM_I8042_COMMAND, 1, &command_ops, kbc, "i8042");
	return error;
}

/*
 * The 8042 keyboard controller with a keyboard and a mouse (ps2_keyboard.c, ps2_mouse.c). Rules: IBM PS/2 Hardware
 * Interface Technical Reference, "Keyboard/Auxiliary Device Controller".
 *
 * One byte at a time stands in the output buffer, until the guest reads it: the controller's own answers first, then
 * the keyboard's bytes, then the mouse's. On the wire a byte takes about a millisecond, and some guests' interrupt
 * handlers read port 60h twice; so the next byte of a device comes only BYTE_NS after one was read.
 */
#include <errno.h>
#include <stdlib.h>

#include "device/devices.h"
#include "device/input/ps2.h"
#include "machine/machine.h"
#include "util/error.h"

#define BYTE_NS 100000u
#define ANSWERS 4

#define STATUS_OUTPUT_FULL 0x01
#define STATUS_SYSTEM      0x04
#define STATUS_COMMAND     0x08
#define STATUS_UNLOCKED    0x10
#define STATUS_AUX         0x20

#define CONFIG_KEYBOARD_IRQ 0x01
#define CONFIG_AUX_IRQ      0x02
#define CONFIG_KEYBOARD_OFF 0x10
#define CONFIG_AUX_OFF      0x20
#define CONFIG_TRANSLATE    0x40

#define OUTPUT_RESET 0x01 /* active low */
#define OUTPUT_A20   0x02

struct i8042 {
	struct machine *machine;
	uint8_t config, ram[32];
	uint8_t data;
	bool full, from_aux, last_was_command;
	uint8_t pending; /* command that waits for its data byte; 0: none */
	uint8_t answer[ANSWERS];
	bool answer_is_aux[ANSWERS];
	unsigned answers;
	bool release;       /* translation: F0h was seen */
	uint64_t not_before; /* when the next byte of a device may come */
	struct machine_timer next;
	struct irq_pin keyboard_irq, aux_irq;
	struct ps2_keyboard keyboard;
	struct ps2_mouse mouse;
};

static void update(struct i8042 *kbc)
{
	irq_pin_set(&kbc->keyboard_irq, kbc->full && !kbc->from_aux && kbc->config & CONFIG_KEYBOARD_IRQ);
	irq_pin_set(&kbc->aux_irq, kbc->full && kbc->from_aux && kbc->config & CONFIG_AUX_IRQ);
}

static void put(struct i8042 *kbc, uint8_t value, bool from_aux)
{
	kbc->data = value;
	kbc->full = true;
	kbc->from_aux = from_aux;
}

/* "Scan code translation": set 2 becomes set 1; F0h is no code but makes the next one a release. */
static bool translate(struct i8042 *kbc, uint8_t *byte)
{
	if (!(kbc->config & CONFIG_TRANSLATE))
		return true;
	if (*byte == 0xf0) {
		kbc->release = true;
		return false;
	}
	*byte = ps2_translate(*byte) | (kbc->release ? 0x80 : 0);
	kbc->release = false;
	return true;
}

static bool take_keyboard(struct i8042 *kbc)
{
	uint8_t byte;

	while (!(kbc->config & CONFIG_KEYBOARD_OFF) && ps2_keyboard_read(&kbc->keyboard, &byte)) {
		if (translate(kbc, &byte)) {
			put(kbc, byte, false);
			return true;
		}
	}
	return false;
}

/* Fills the output buffer where it is empty and something is there for it. */
static void refill(struct i8042 *kbc)
{
	uint8_t byte;

	if (!kbc->full && kbc->answers) {
		put(kbc, kbc->answer[0], kbc->answer_is_aux[0]);
		kbc->answers--;
		for (unsigned i = 0; i < kbc->answers; i++) {
			kbc->answer[i] = kbc->answer[i + 1];
			kbc->answer_is_aux[i] = kbc->answer_is_aux[i + 1];
		}
	} else if (!kbc->full && machine_now(kbc->machine) < kbc->not_before) {
		timer_arm(&kbc->next, kbc->not_before);
	} else if (!kbc->full && !take_keyboard(kbc) && !(kbc->config & CONFIG_AUX_OFF) &&
	           ps2_mouse_read(&kbc->mouse, &byte)) {
		put(kbc, byte, true);
	}
	update(kbc);
}

static void next_byte(void *context)
{
	refill(context);
}

/* The controller answers; from_aux: as if it came from the mouse. */
static void answer(struct i8042 *kbc, uint8_t value, bool from_aux)
{
	if (kbc->answers < ANSWERS) {
		kbc->answer_is_aux[kbc->answers] = from_aux;
		kbc->answer[kbc->answers++] = value;
	}
	refill(kbc);
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
	case 0xa9: /* auxiliary interface test, keyboard interface test: no error */
	case 0xab:
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
	refill(kbc);
}

static void data(struct i8042 *kbc, uint8_t value)
{
	uint8_t pending = kbc->pending;

	kbc->pending = 0;
	switch (pending) {
	case 0x60:
		kbc->config = value;
		break;
	case 0x61 ... 0x7f:
		kbc->ram[pending & 31] = value;
		break;
	case 0xd1:
		write_output_port(kbc, value);
		break;
	case 0xd2:
	case 0xd3:
		answer(kbc, value, pending == 0xd3);
		break;
	case 0xd4:
		ps2_mouse_write(&kbc->mouse, value);
		break;
	default: /* "the keyboard is enabled by data for it" */
		kbc->config &= (uint8_t)~CONFIG_KEYBOARD_OFF;
		ps2_keyboard_write(&kbc->keyboard, value);
		break;
	}
	refill(kbc);
}

static uint64_t data_read(void *state, uint64_t offset, unsigned size)
{
	struct i8042 *kbc = state;
	uint8_t value = kbc->data;

	if (kbc->full) {
		kbc->full = false;
		kbc->not_before = machine_now(kbc->machine) + BYTE_NS;
		update(kbc); /* the line falls, so that the next byte makes an edge */
		refill(kbc);
	}
	return value;
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

	refill(kbc); /* who polls need not wait for the host's timer */
	return STATUS_UNLOCKED | (kbc->config & STATUS_SYSTEM) | (kbc->full ? STATUS_OUTPUT_FULL : 0) |
	       (kbc->full && kbc->from_aux ? STATUS_AUX : 0) | (kbc->last_was_command ? STATUS_COMMAND : 0);
}

static void command_write(void *state, uint64_t offset, unsigned size, uint64_t value)
{
	struct i8042 *kbc = state;

	kbc->last_was_command = true;
	command(kbc, (uint8_t)value);
}

/* As firmware leaves it for a guest that was booted without one: the keyboard with translation and its interrupt. */
static void i8042_reset(void *state)
{
	struct i8042 *kbc = state;

	kbc->config = STATUS_SYSTEM | CONFIG_TRANSLATE | CONFIG_KEYBOARD_IRQ | CONFIG_AUX_OFF;
	kbc->data = 0;
	kbc->full = kbc->from_aux = kbc->release = false;
	kbc->last_was_command = true;
	kbc->pending = 0;
	kbc->answers = 0;
	kbc->not_before = 0;
	timer_cancel(&kbc->next);
	ps2_keyboard_reset(&kbc->keyboard);
	ps2_mouse_reset(&kbc->mouse);
	update(kbc);
}

/* ---- what the user does ---- */

static void key(void *device, unsigned code, bool down)
{
	struct i8042 *kbc = device;

	ps2_keyboard_key(&kbc->keyboard, code, down);
	refill(kbc);
}

static void movement(void *device, int dx, int dy, unsigned buttons, int wheel)
{
	struct i8042 *kbc = device;

	ps2_mouse_move(&kbc->mouse, dx, dy, buttons, wheel);
	refill(kbc);
}

static const struct bus_ops data_ops = {1, data_read, data_write};
static const struct bus_ops command_ops = {1, status_read, command_write};

int i8042_create(struct machine *machine)
{
	struct i8042 *kbc = calloc(1, sizeof(*kbc));
	struct input_sink sink = {.device = kbc, .key = key, .movement = movement};
	int error;

	if (!kbc)
		return error_set(ENOMEM, "out of memory");
	kbc->machine = machine;
	kbc->keyboard.input = machine->input;
	error = machine_add_device(machine, "i8042", kbc, i8042_reset, free);
	if (error) {
		free(kbc);
		return error;
	}
	irq_pin_connect(&kbc->keyboard_irq, &machine->irq[PLATFORM_IRQ_KEYBOARD]);
	irq_pin_connect(&kbc->aux_irq, &machine->irq[PLATFORM_IRQ_MOUSE]);
	error = timer_init(&kbc->next, &machine->timers, next_byte, kbc);
	if (!error)
		error = bus_add(&machine->pio, PLATFORM_I8042_DATA, 1, &data_ops, kbc, "i8042");
	if (!error)
		error = bus_add(&machine->pio, PLATFORM_I8042_COMMAND, 1, &command_ops, kbc, "i8042");
	return error ? error : input_add_sink(machine->input, &sink);
}

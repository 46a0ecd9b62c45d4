/*
 * The two devices behind the i8042: a keyboard and a wheel mouse. The controller writes them bytes and fetches
 * theirs; both are embedded in its state. Everything runs under the machine lock. Rules: IBM PS/2 Hardware Interface
 * Technical Reference, "Keyboards" and "Mouse"; Microsoft's IntelliMouse protocol for the wheel.
 */
#ifndef NESTOR_DEVICE_PS2_H
#define NESTOR_DEVICE_PS2_H

#include <stdbool.h>
#include <stdint.h>

#include "device/input/input.h"

#define PS2_BYTES 256

#define PS2_ACKNOWLEDGE 0xfa
#define PS2_RESEND      0xfe

/* Bytes on their way to the host. */
struct ps2_bytes {
	uint8_t byte[PS2_BYTES];
	unsigned first, count;
};

static inline bool ps2_bytes_get(struct ps2_bytes *bytes, uint8_t *byte)
{
	if (!bytes->count)
		return false;
	*byte = bytes->byte[bytes->first];
	bytes->first = (bytes->first + 1) % PS2_BYTES;
	bytes->count--;
	return true;
}

/* Returns false, and puts nothing, where there is no room. */
static inline bool ps2_bytes_put(struct ps2_bytes *bytes, uint8_t byte)
{
	if (bytes->count == PS2_BYTES)
		return false;
	bytes->byte[(bytes->first + bytes->count++) % PS2_BYTES] = byte;
	return true;
}

struct ps2_keyboard {
	struct input *input; /* learns of the LEDs; borrowed, may be NULL */
	/* Answers go before events. */
	struct ps2_bytes answers, events;
	uint8_t pending; /* a command that waits for its parameter; 0: none */
	uint8_t set;     /* scan code set: 1 … 3 */
	uint8_t last;    /* sent last, for "resend" */
	bool scanning, overrun;
	bool down[INPUT_KEYS];
	uint8_t behaviour[256]; /* set 3: of each code, BEHAVIOUR_… */
};

/* Into the state after power-up. */
void ps2_keyboard_reset(struct ps2_keyboard *keyboard);
void ps2_keyboard_write(struct ps2_keyboard *keyboard, uint8_t byte);
/* The next byte for the host; false: none. */
bool ps2_keyboard_read(struct ps2_keyboard *keyboard, uint8_t *byte);
/* A key (KEY_…) goes down, is repeated, or goes up. */
void ps2_keyboard_key(struct ps2_keyboard *keyboard, unsigned key, bool down);
/* The 8042's translation of one code of set 2 to set 1. */
uint8_t ps2_translate(uint8_t set2);

struct ps2_mouse {
	struct ps2_bytes answers, events;
	uint8_t pending;
	uint8_t id;      /* 0: three buttons; 3: a wheel too; 4: five buttons too */
	uint8_t rates[3]; /* the last ones set, newest first: a knock sequence changes id */
	uint8_t resolution, last;
	bool reporting, remote, wrap, scaled;
	int dx, dy, wheel; /* not reported yet; down and up are positive for dy, wheel */
	uint8_t buttons, reported; /* INPUT_BUTTON_… now, and in the last report */
};

void ps2_mouse_reset(struct ps2_mouse *mouse);
void ps2_mouse_write(struct ps2_mouse *mouse, uint8_t byte);
bool ps2_mouse_read(struct ps2_mouse *mouse, uint8_t *byte);
/* dx, dy: right and down are positive; wheel: up is. */
void ps2_mouse_move(struct ps2_mouse *mouse, int dx, int dy, unsigned buttons, int wheel);

#endif

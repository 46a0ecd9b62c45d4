#include <linux/input-event-codes.h>
#include <string.h>

#include "device/input/ps2.h"

#define KEYBOARD_ECHO   0xee
#define KEYBOARD_PASSED 0xaa
#define OVERRUN_SET1    0xff
#define OVERRUN         0x00
#define SEQUENCE_MAX    8 /* bytes that one key sends */

/* Set 3, what a key sends: "Typematic" repeats its make code, without a break code. */
enum { BEHAVIOUR_TYPEMATIC, BEHAVIOUR_MAKE_BREAK, BEHAVIOUR_MAKE, BEHAVIOUR_ALL };

static const struct {
	uint16_t set2;
	uint8_t set3;
} codes[INPUT_KEYS] = {
#define KEY(key, name, set2, set3) [key] = {set2, set3},
#include "device/input/keys.def"
#undef KEY
};

/* Set 2 to set 1, below 84h; above, codes and answers stay as they are. */
static const uint8_t translation[] = {
	0xff, 0x43, 0x41, 0x3f, 0x3d, 0x3b, 0x3c, 0x58, 0x64, 0x44, 0x42, 0x40, 0x3e, 0x0f, 0x29, 0x59, /* 00 */
	0x65, 0x38, 0x2a, 0x70, 0x1d, 0x10, 0x02, 0x5a, 0x66, 0x71, 0x2c, 0x1f, 0x1e, 0x11, 0x03, 0x5b, /* 10 */
	0x67, 0x2e, 0x2d, 0x20, 0x12, 0x05, 0x04, 0x5c, 0x68, 0x39, 0x2f, 0x21, 0x14, 0x13, 0x06, 0x5d, /* 20 */
	0x69, 0x31, 0x30, 0x23, 0x22, 0x15, 0x07, 0x5e, 0x6a, 0x72, 0x32, 0x24, 0x16, 0x08, 0x09, 0x5f, /* 30 */
	0x6b, 0x33, 0x25, 0x17, 0x18, 0x0b, 0x0a, 0x60, 0x6c, 0x34, 0x35, 0x26, 0x27, 0x19, 0x0c, 0x61, /* 40 */
	0x6d, 0x73, 0x28, 0x74, 0x1a, 0x0d, 0x62, 0x6e, 0x3a, 0x36, 0x1c, 0x1b, 0x75, 0x2b, 0x63, 0x76, /* 50 */
	0x55, 0x56, 0x77, 0x78, 0x79, 0x7a, 0x0e, 0x7b, 0x7c, 0x4f, 0x7d, 0x4b, 0x47, 0x7e, 0x7f, 0x6f, /* 60 */
	0x52, 0x53, 0x50, 0x4c, 0x4d, 0x48, 0x01, 0x45, 0x57, 0x4e, 0x51, 0x4a, 0x37, 0x49, 0x46, 0x54, /* 70 */
	0x80, 0x81, 0x82, 0x41, 0x54,
};

uint8_t ps2_translate(uint8_t set2)
{
	return set2 < sizeof(translation) ? translation[set2] : set2;
}

/* ---- keys ---- */

struct sequence {
	uint8_t byte[SEQUENCE_MAX];
	unsigned count;
};

/* Appends the code of set 2 (E0 in its high byte where it has the prefix) as sets 1 and 2 send it. */
static void append(struct sequence *sequence, const struct ps2_keyboard *keyboard, uint16_t set2, bool down)
{
	if (set2 >> 8)
		sequence->byte[sequence->count++] = (uint8_t)(set2 >> 8);
	if (keyboard->set == 1) {
		sequence->byte[sequence->count++] = ps2_translate((uint8_t)set2) | (down ? 0 : 0x80);
		return;
	}
	if (!down)
		sequence->byte[sequence->count++] = 0xf0;
	sequence->byte[sequence->count++] = (uint8_t)set2;
}

/* "Print Screen": as with the 84-key keyboard's shift; with Alt it is SysRq, a code of its own. */
static void append_print(struct sequence *sequence, const struct ps2_keyboard *keyboard, bool down)
{
	bool alt = keyboard->down[KEY_LEFTALT] || keyboard->down[KEY_RIGHTALT];
	bool shifted = keyboard->down[KEY_LEFTSHIFT] || keyboard->down[KEY_RIGHTSHIFT] ||
	               keyboard->down[KEY_LEFTCTRL] || keyboard->down[KEY_RIGHTCTRL];

	if (alt) {
		append(sequence, keyboard, 0x84, down);
		return;
	}
	if (down && !shifted)
		append(sequence, keyboard, 0xe012, true);
	append(sequence, keyboard, 0xe07c, down);
	if (!down && !shifted)
		append(sequence, keyboard, 0xe012, false);
}

/* "Pause": all at once when it goes down, nothing when it goes up; with Ctrl it is Break. */
static void append_pause(struct sequence *sequence, const struct ps2_keyboard *keyboard, bool down)
{
	if (!down)
		return;
	if (keyboard->down[KEY_LEFTCTRL] || keyboard->down[KEY_RIGHTCTRL]) {
		append(sequence, keyboard, 0xe07e, true);
		append(sequence, keyboard, 0xe07e, false);
		return;
	}
	append(sequence, keyboard, 0xe114, true);
	append(sequence, keyboard, 0x0077, true);
	append(sequence, keyboard, 0xe114, false);
	append(sequence, keyboard, 0x0077, false);
}

static void append_set3(struct sequence *sequence, const struct ps2_keyboard *keyboard, uint8_t code,
                        bool down, bool repeated)
{
	unsigned behaviour = keyboard->behaviour[code];

	if (!code || (!down && (behaviour == BEHAVIOUR_TYPEMATIC || behaviour == BEHAVIOUR_MAKE)) ||
	    (repeated && (behaviour == BEHAVIOUR_MAKE || behaviour == BEHAVIOUR_MAKE_BREAK)))
		return;
	if (!down)
		sequence->byte[sequence->count++] = 0xf0;
	sequence->byte[sequence->count++] = code;
}

/* A sequence goes whole or not at all; where it does not fit the host is told that codes were lost. */
static void send(struct ps2_keyboard *keyboard, const struct sequence *sequence)
{
	if (keyboard->events.count + sequence->count >= PS2_BYTES) {
		if (!keyboard->overrun)
			ps2_bytes_put(&keyboard->events, keyboard->set == 1 ? OVERRUN_SET1 : OVERRUN);
		keyboard->overrun = true;
		return;
	}
	keyboard->overrun = false;
	for (unsigned i = 0; i < sequence->count; i++)
		ps2_bytes_put(&keyboard->events, sequence->byte[i]);
}

void ps2_keyboard_key(struct ps2_keyboard *keyboard, unsigned key, bool down)
{
	struct sequence sequence = {.count = 0};
	bool repeated;

	if (key >= INPUT_KEYS || !codes[key].set2)
		return;
	repeated = down && keyboard->down[key];
	keyboard->down[key] = down;
	if (!keyboard->scanning)
		return;
	if (keyboard->set == 3)
		append_set3(&sequence, keyboard, codes[key].set3, down, repeated);
	else if (key == KEY_SYSRQ)
		append_print(&sequence, keyboard, down);
	else if (key == KEY_PAUSE)
		append_pause(&sequence, keyboard, down && !repeated);
	else if (down || (key != KEY_HANGEUL && key != KEY_HANJA)) /* these two have no break code */
		append(&sequence, keyboard, codes[key].set2, down);
	send(keyboard, &sequence);
}

bool ps2_keyboard_read(struct ps2_keyboard *keyboard, uint8_t *byte)
{
	if (!ps2_bytes_get(&keyboard->answers, byte) && !ps2_bytes_get(&keyboard->events, byte))
		return false;
	keyboard->last = *byte;
	return true;
}

/* ---- commands ---- */

/* "Default conditions" of set 3: these keys send a break code, these only a make code, all others repeat. */
static void default_behaviour(struct ps2_keyboard *keyboard)
{
	static const unsigned make_break[] = {KEY_LEFTSHIFT, KEY_RIGHTSHIFT, KEY_LEFTCTRL, KEY_LEFTALT,
	                                      KEY_CAPSLOCK};
	static const unsigned make[] = {
		KEY_ESC, KEY_F1, KEY_F2, KEY_F3, KEY_F4, KEY_F5, KEY_F6, KEY_F7, KEY_F8, KEY_F9, KEY_F10, KEY_F11,
		KEY_F12, KEY_SYSRQ, KEY_SCROLLLOCK, KEY_PAUSE, KEY_INSERT, KEY_HOME, KEY_END, KEY_PAGEUP, KEY_PAGEDOWN,
		KEY_NUMLOCK, KEY_KPSLASH, KEY_KPASTERISK, KEY_KPMINUS, KEY_KPENTER, KEY_KP0, KEY_KP1, KEY_KP2, KEY_KP3,
		KEY_KP4, KEY_KP5, KEY_KP6, KEY_KP7, KEY_KP8, KEY_KP9, KEY_KPDOT, KEY_RIGHTCTRL, KEY_RIGHTALT,
	};

	memset(keyboard->behaviour, BEHAVIOUR_TYPEMATIC, sizeof(keyboard->behaviour));
	for (unsigned i = 0; i < sizeof(make_break) / sizeof(make_break[0]); i++)
		keyboard->behaviour[codes[make_break[i]].set3] = BEHAVIOUR_MAKE_BREAK;
	for (unsigned i = 0; i < sizeof(make) / sizeof(make[0]); i++)
		keyboard->behaviour[codes[make[i]].set3] = BEHAVIOUR_MAKE;
}

static void clear_events(struct ps2_keyboard *keyboard)
{
	keyboard->events.count = 0;
	keyboard->overrun = false;
}

static void set_leds(struct ps2_keyboard *keyboard, uint8_t leds)
{
	if (keyboard->input)
		input_set_leds(keyboard->input, leds & 7); /* the same bits as INPUT_LED_… */
}

static void set_defaults(struct ps2_keyboard *keyboard)
{
	clear_events(keyboard);
	keyboard->set = 2;
	default_behaviour(keyboard);
}

void ps2_keyboard_reset(struct ps2_keyboard *keyboard)
{
	struct input *input = keyboard->input;

	memset(keyboard, 0, sizeof(*keyboard));
	keyboard->input = input;
	keyboard->scanning = true;
	set_defaults(keyboard);
}

static void answer(struct ps2_keyboard *keyboard, uint8_t byte)
{
	ps2_bytes_put(&keyboard->answers, byte);
}

static void command(struct ps2_keyboard *keyboard, uint8_t byte)
{
	if (byte == KEYBOARD_ECHO) {
		answer(keyboard, KEYBOARD_ECHO);
		return;
	}
	if (byte == 0xfe) { /* resend */
		answer(keyboard, keyboard->last);
		return;
	}
	if (byte < 0xed || byte == 0xef || byte == 0xf1) {
		answer(keyboard, PS2_RESEND);
		return;
	}
	answer(keyboard, PS2_ACKNOWLEDGE);
	switch (byte) {
	case 0xed: /* LEDs */
	case 0xf0: /* scan code set */
	case 0xf3: /* typematic rate and delay: whoever types repeats */
	case 0xfb: /* set 3: keys that follow are typematic */
	case 0xfc: /* … make and break */
	case 0xfd: /* … make only */
		keyboard->pending = byte;
		break;
	case 0xf2: /* identify: an MF2 keyboard */
		answer(keyboard, 0xab);
		answer(keyboard, 0x83);
		break;
	case 0xf4:
		clear_events(keyboard);
		keyboard->scanning = true;
		break;
	case 0xf5:
	case 0xf6:
		set_defaults(keyboard);
		keyboard->scanning = byte == 0xf6;
		break;
	case 0xf7 ... 0xfa: /* set 3: all keys typematic, make and break, make, all of it */
		memset(keyboard->behaviour, byte - 0xf7, sizeof(keyboard->behaviour));
		break;
	case 0xff:
		set_defaults(keyboard);
		set_leds(keyboard, 0);
		keyboard->scanning = true;
		answer(keyboard, KEYBOARD_PASSED);
		break;
	}
}

static void parameter(struct ps2_keyboard *keyboard, uint8_t command_byte, uint8_t byte)
{
	switch (command_byte) {
	case 0xed:
		set_leds(keyboard, byte);
		break;
	case 0xf0:
		if (byte > 3) {
			answer(keyboard, PS2_RESEND);
			return;
		}
		answer(keyboard, PS2_ACKNOWLEDGE);
		if (byte)
			keyboard->set = byte;
		else
			answer(keyboard, keyboard->set);
		clear_events(keyboard);
		return;
	case 0xfb ... 0xfd:
		keyboard->behaviour[byte] = (uint8_t)(command_byte - 0xfb);
		keyboard->pending = command_byte; /* a list, which the next command ends */
		break;
	}
	answer(keyboard, PS2_ACKNOWLEDGE);
}

void ps2_keyboard_write(struct ps2_keyboard *keyboard, uint8_t byte)
{
	uint8_t pending = keyboard->pending;

	/* A new exchange: what was not fetched of the one before is lost, but for what "resend" repeats. */
	keyboard->answers.count = 0;
	keyboard->pending = 0;
	if (pending && byte < 0xed) /* "if a command comes instead, the first one is ended" */
		parameter(keyboard, pending, byte);
	else
		command(keyboard, byte);
}

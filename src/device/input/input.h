/*
 * Keyboard and pointer of the machine: what a viewer or a command does goes to the input devices that the guest
 * uses. Keys are numbered as Linux numbers them (KEY_… and BTN_… of linux/input-event-codes.h), which is also what
 * virtio-input speaks. The PS/2 devices of the i8042 take everything; a virtio keyboard or tablet takes its part
 * instead while its driver runs. All under the machine lock, unless it says otherwise.
 */
#ifndef NESTOR_DEVICE_INPUT_H
#define NESTOR_DEVICE_INPUT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct input;
struct machine;

#define INPUT_KEYS          256   /* keys are below this; KEY_RESERVED (0) is none */
#define INPUT_CHORD_MAX     16    /* keys of one input_send_keys */
#define INPUT_POINTER_RANGE 32767 /* of absolute coordinates: 0 … this */

/* Buttons, as bits. */
#define INPUT_BUTTON_LEFT   0x01
#define INPUT_BUTTON_RIGHT  0x02
#define INPUT_BUTTON_MIDDLE 0x04

/* One that takes events, if it is the first of its kind that is active. */
struct input_sink {
	void *device;
	bool (*active)(void *device); /* NULL: always, but after those that say so */
	void (*key)(void *device, unsigned key, bool down); /* NULL: no keyboard */
	/* Absolute pointers: position 0 … INPUT_POINTER_RANGE, buttons, wheel clicks (up is positive). */
	void (*position)(void *device, unsigned x, unsigned y, unsigned buttons, int wheel);
	/* Relative pointers: movement in pixels, right and down are positive. */
	void (*movement)(void *device, int dx, int dy, unsigned buttons, int wheel);
};

/* Adds a device; *sink is copied. Returns 0, or -ENOSPC with error_text(). */
int input_add_sink(struct input *input, const struct input_sink *sink);

/* The LEDs that the guest has switched on, of INPUT_LED_…, as its active keyboard says. */
#define INPUT_LED_SCROLL 0x01
#define INPUT_LED_NUM    0x02
#define INPUT_LED_CAPS   0x04
void input_set_leds(struct input *input, unsigned leds);
unsigned input_leds(const struct input *input);

/* Key goes down or up. A second down is what a keyboard's repetition sends. */
void input_key(struct input *input, unsigned key, bool down);
/* All keys that are down go up. */
void input_release_all(struct input *input);
bool input_is_down(const struct input *input, unsigned key);

/*
 * The pointer is at pixel (x, y) of a screen of width x height pixels, with these buttons; wheel: clicks since the
 * last call, up is positive.
 */
void input_pointer(struct input *input, unsigned x, unsigned y, unsigned width, unsigned height,
                   unsigned buttons, int wheel);
/* The same by a movement in pixels, for commands. Absolute devices are moved by it too. */
void input_move(struct input *input, int dx, int dy, unsigned buttons, int wheel);

/* The key of a QMP name (QKeyCode: "a", "ret", "ctrl", "f1", "kp_enter" …); 0: there is none. [any] */
unsigned input_key_by_name(const char *name);
/* Its QMP name, or NULL. [any] */
const char *input_key_name(unsigned key);

/*
 * As QMP's send-key: presses the keys in order, and lets go of them after hold_ms of the machine's clock (0: 100).
 * count: at most INPUT_CHORD_MAX. A second call first ends the one before it. Returns 0, or -EINVAL with error_text().
 */
int input_send_keys(struct input *input, const unsigned *keys, size_t count, unsigned hold_ms);

/* Device table: the hub (machine->input). Returns 0 or a negative errno with error_text(). */
int input_create(struct machine *machine);

#endif

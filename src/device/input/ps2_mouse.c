#include <string.h>

#include "device/input/ps2.h"

#define MOUSE_PASSED   0xaa
#define MOUSE_ERROR    0xfc
#define REPORTS_QUEUED 8     /* of movement; a change of buttons may queue twice as many */
#define MOVEMENT_MAX   32767 /* gathered while the host does not listen */

static unsigned report_size(const struct ps2_mouse *mouse)
{
	return mouse->id ? 4 : 3;
}

static int within(int value, int low, int high)
{
	return value < low ? low : value > high ? high : value;
}

/* "Scaling 2:1": small movements stay, larger ones double. Only of stream reports. */
static int scaled(int value)
{
	static const int8_t small[] = {0, 1, 1, 3, 6, 9};
	int size = value < 0 ? -value : value;

	size = size < 6 ? small[size] : 2 * size;
	return value < 0 ? -size : size;
}

/* One report of what has gathered; movement that does not fit into its 9 bits stays for the next one. */
static void report(struct ps2_mouse *mouse, struct ps2_bytes *to, bool scale)
{
	int limit = scale ? 127 : 255;
	int dx = within(mouse->dx, -limit, limit);
	int dy = within(-mouse->dy, -limit, limit); /* the mouse counts upward */
	int wheel = within(-mouse->wheel, -8, 7);   /* and the wheel toward the user */

	mouse->dx -= dx;
	mouse->dy += dy;
	mouse->wheel += wheel;
	if (scale) {
		dx = scaled(dx);
		dy = scaled(dy);
	}
	/* Bits 0 to 2: left, right, middle, as INPUT_BUTTON_… has them. */
	ps2_bytes_put(to, (uint8_t)((mouse->buttons & 7) | 0x08 | (dx < 0 ? 0x10 : 0) | (dy < 0 ? 0x20 : 0)));
	ps2_bytes_put(to, (uint8_t)dx);
	ps2_bytes_put(to, (uint8_t)dy);
	if (mouse->id == 3)
		ps2_bytes_put(to, (uint8_t)wheel);
	else if (mouse->id == 4)
		ps2_bytes_put(to, (uint8_t)(wheel & 0x0f));
	mouse->reported = mouse->buttons;
	if (!mouse->id)
		mouse->wheel = 0;
}

static bool has_news(const struct ps2_mouse *mouse)
{
	return mouse->dx || mouse->dy || (mouse->id && mouse->wheel) || mouse->buttons != mouse->reported;
}

/* Stream mode: reports while there is something to tell and room. */
static void stream(struct ps2_mouse *mouse)
{
	while (mouse->reporting && !mouse->remote && !mouse->wrap && has_news(mouse)) {
		unsigned room = mouse->buttons != mouse->reported ? 2 * REPORTS_QUEUED : REPORTS_QUEUED;

		if (mouse->events.count + report_size(mouse) > room * report_size(mouse))
			break;
		report(mouse, &mouse->events, mouse->scaled);
	}
}

void ps2_mouse_move(struct ps2_mouse *mouse, int dx, int dy, unsigned buttons, int wheel)
{
	mouse->buttons = buttons & 7;
	if (mouse->reporting || mouse->remote) {
		mouse->dx = within(mouse->dx + dx, -MOVEMENT_MAX, MOVEMENT_MAX);
		mouse->dy = within(mouse->dy + dy, -MOVEMENT_MAX, MOVEMENT_MAX);
		mouse->wheel = within(mouse->wheel + within(wheel, -128, 128), -128, 128);
	}
	stream(mouse);
}

bool ps2_mouse_read(struct ps2_mouse *mouse, uint8_t *byte)
{
	if (!ps2_bytes_get(&mouse->answers, byte) && !ps2_bytes_get(&mouse->events, byte))
		return false;
	mouse->last = *byte;
	stream(mouse);
	return true;
}

/* "The counters are reset" by every command but resend, and a report that is on its way is ended. */
static void forget(struct ps2_mouse *mouse)
{
	mouse->events.count = 0;
	mouse->dx = mouse->dy = mouse->wheel = 0;
	mouse->reported = mouse->buttons;
}

static void set_defaults(struct ps2_mouse *mouse)
{
	mouse->rates[0] = 100;
	mouse->rates[1] = mouse->rates[2] = 0;
	mouse->resolution = 2;
	mouse->reporting = mouse->remote = mouse->wrap = mouse->scaled = false;
}

void ps2_mouse_reset(struct ps2_mouse *mouse)
{
	memset(mouse, 0, sizeof(*mouse));
	set_defaults(mouse);
}

static void answer(struct ps2_mouse *mouse, uint8_t byte)
{
	ps2_bytes_put(&mouse->answers, byte);
}

static void answer_status(struct ps2_mouse *mouse)
{
	unsigned buttons = mouse->buttons;

	answer(mouse,
	       (uint8_t)((mouse->remote ? 0x40 : 0) | (mouse->reporting ? 0x20 : 0) |
	                 (mouse->scaled ? 0x10 : 0) | (buttons & INPUT_BUTTON_LEFT ? 4 : 0) |
	                 (buttons & INPUT_BUTTON_MIDDLE ? 2 : 0) | (buttons & INPUT_BUTTON_RIGHT ? 1 : 0)));
	answer(mouse, mouse->resolution);
	answer(mouse, mouse->rates[0]);
}

static void set_rate(struct ps2_mouse *mouse, uint8_t rate)
{
	mouse->rates[2] = mouse->rates[1];
	mouse->rates[1] = mouse->rates[0];
	mouse->rates[0] = rate;
	if (mouse->rates[2] == 200 && mouse->rates[1] == 100 && rate == 80)
		mouse->id = 3;
	else if (mouse->rates[2] == 200 && mouse->rates[1] == 200 && rate == 80)
		mouse->id = 4;
}

static void parameter(struct ps2_mouse *mouse, uint8_t command_byte, uint8_t byte)
{
	static const uint8_t rates[] = {10, 20, 40, 60, 80, 100, 200};

	if (command_byte == 0xe8 && byte <= 3) {
		mouse->resolution = byte;
		answer(mouse, PS2_ACKNOWLEDGE);
	} else if (command_byte == 0xf3 && memchr(rates, byte, sizeof(rates))) {
		set_rate(mouse, byte);
		answer(mouse, PS2_ACKNOWLEDGE);
	} else {
		answer(mouse, MOUSE_ERROR);
	}
}

static void command(struct ps2_mouse *mouse, uint8_t byte)
{
	if (byte == 0xfe) {
		answer(mouse, mouse->last);
		return;
	}
	if (byte == 0xeb) { /* read data: what has gathered so far */
		answer(mouse, PS2_ACKNOWLEDGE);
		report(mouse, &mouse->answers, false);
		return;
	}
	forget(mouse);
	if (byte < 0xe6 || byte == 0xed || byte == 0xef || byte == 0xf1 || (byte >= 0xf7 && byte <= 0xfd)) {
		answer(mouse, PS2_RESEND);
		return;
	}
	answer(mouse, PS2_ACKNOWLEDGE);
	switch (byte) {
	case 0xe6:
	case 0xe7:
		mouse->scaled = byte == 0xe7;
		break;
	case 0xe8: /* resolution */
	case 0xf3: /* sample rate */
		mouse->pending = byte;
		break;
	case 0xe9:
		answer_status(mouse);
		break;
	case 0xea:
	case 0xf0:
		mouse->remote = byte == 0xf0;
		break;
	case 0xec:
	case 0xee:
		mouse->wrap = byte == 0xee;
		break;
	case 0xf2:
		answer(mouse, mouse->id);
		break;
	case 0xf4:
	case 0xf5:
		mouse->reporting = byte == 0xf4;
		break;
	case 0xf6:
		set_defaults(mouse);
		break;
	case 0xff:
		set_defaults(mouse);
		mouse->id = 0;
		answer(mouse, MOUSE_PASSED);
		answer(mouse, 0x00);
		break;
	}
}

void ps2_mouse_write(struct ps2_mouse *mouse, uint8_t byte)
{
	uint8_t pending = mouse->pending;

	mouse->answers.count = 0;
	mouse->pending = 0;
	if (mouse->wrap && byte != 0xec && byte != 0xff)
		answer(mouse, byte); /* "wrap mode": an echo of everything else */
	else if (pending)
		parameter(mouse, pending, byte);
	else
		command(mouse, byte);
}

#include "device/input/input.h"

#include <errno.h>
#include <limits.h>
#include <linux/input-event-codes.h>
#include <stdlib.h>
#include <string.h>

#include "machine/machine.h"
#include "util/error.h"

#define SINKS           6
#define HOLD_MS         100 /* QMP's send-key */
#define HOLD_MS_MAX     60000
#define MOVEMENT_MAX    100000
#define DEFAULT_WIDTH   1024
#define DEFAULT_HEIGHT  768

struct input {
	struct machine *machine;
	struct input_sink sink[SINKS];
	unsigned sink_count;
	const struct input_sink *pressed[INPUT_KEYS]; /* who was told that the key is down; NULL: it is up */
	unsigned leds;
	/* The pointer: pixels, and the size of the screen that they belong to. */
	unsigned x, y, width, height;
	bool placed; /* x and y are known */
	/* What input_send_keys has pressed and not yet let go. */
	unsigned chord[INPUT_CHORD_MAX];
	size_t chord_count;
	struct machine_timer release;
};

/* ---- names ---- */

static const struct {
	unsigned key;
	const char *name;
} names[] = {
#define KEY(key, name, set2, set3) {key, name},
#include "device/input/keys.def"
#undef KEY
	/* Other names of the same keys. */
	{KEY_COMPOSE, "menu"}, {KEY_SYSRQ, "sysrq"}, {KEY_KPASTERISK, "asterisk"},
};

unsigned input_key_by_name(const char *name)
{
	for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++)
		if (!strcmp(names[i].name, name))
			return names[i].key;
	return 0;
}

const char *input_key_name(unsigned key)
{
	for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++)
		if (names[i].key == key)
			return names[i].name;
	return NULL;
}

/* ---- keys ---- */

int input_add_sink(struct input *input, const struct input_sink *sink)
{
	if (input->sink_count == SINKS)
		return error_set(ENOSPC, "too many input devices");
	input->sink[input->sink_count++] = *sink;
	return 0;
}

static bool is_keyboard(const struct input_sink *sink)
{
	return sink->key;
}

static bool is_pointer(const struct input_sink *sink)
{
	return sink->position || sink->movement;
}

/* Who takes the events of a kind now, or NULL. */
static const struct input_sink *taker(const struct input *input, bool (*kind)(const struct input_sink *sink))
{
	const struct input_sink *otherwise = NULL;

	for (unsigned i = 0; i < input->sink_count; i++) {
		const struct input_sink *sink = &input->sink[i];

		if (kind(sink) && sink->active && sink->active(sink->device))
			return sink;
		if (kind(sink) && !sink->active && !otherwise)
			otherwise = sink;
	}
	return otherwise;
}

void input_key(struct input *input, unsigned key, bool down)
{
	const struct input_sink *sink;

	if (!key || key >= INPUT_KEYS)
		return;
	/* Who saw a key go down sees it go up, also where another keyboard has come into use since. */
	sink = input->pressed[key];
	if (!sink && !down)
		return;
	if (!sink)
		sink = taker(input, is_keyboard);
	input->pressed[key] = down ? sink : NULL;
	if (sink)
		sink->key(sink->device, key, down);
}

bool input_is_down(const struct input *input, unsigned key)
{
	return key < INPUT_KEYS && input->pressed[key];
}

void input_release_all(struct input *input)
{
	for (unsigned key = 1; key < INPUT_KEYS; key++)
		input_key(input, key, false);
}

void input_set_leds(struct input *input, unsigned leds)
{
	input->leds = leds;
}

unsigned input_leds(const struct input *input)
{
	return input->leds;
}

static void release_chord(void *context)
{
	struct input *input = context;

	while (input->chord_count)
		input_key(input, input->chord[--input->chord_count], false);
}

int input_send_keys(struct input *input, const unsigned *keys, size_t count, unsigned hold_ms)
{
	if (!count || count > INPUT_CHORD_MAX)
		return error_set(EINVAL, "%zu keys at a time: from 1 to %d", count, INPUT_CHORD_MAX);
	if (hold_ms > HOLD_MS_MAX)
		return error_set(EINVAL, "keys held for %u ms: at most %d", hold_ms, HOLD_MS_MAX);
	for (size_t i = 0; i < count; i++)
		if (!keys[i] || keys[i] >= INPUT_KEYS)
			return error_set(EINVAL, "there is no key %u", keys[i]);
	timer_cancel(&input->release);
	release_chord(input);
	for (size_t i = 0; i < count; i++) {
		input->chord[input->chord_count++] = keys[i];
		input_key(input, keys[i], true);
	}
	timer_arm(&input->release,
	          machine_now(input->machine) + (uint64_t)(hold_ms ? hold_ms : HOLD_MS) * 1000000u);
	return 0;
}

/* ---- pointer ---- */

static unsigned scaled(unsigned value, unsigned size)
{
	return size > 1 ? (unsigned)((uint64_t)value * INPUT_POINTER_RANGE / (size - 1)) : 0;
}

static void point(struct input *input, int dx, int dy, unsigned buttons, int wheel)
{
	const struct input_sink *sink = taker(input, is_pointer);

	if (!sink)
		return;
	if (sink->position)
		sink->position(sink->device, scaled(input->x, input->width), scaled(input->y, input->height),
		               buttons, wheel);
	else
		sink->movement(sink->device, dx, dy, buttons, wheel);
}

void input_pointer(struct input *input, unsigned x, unsigned y, unsigned width, unsigned height,
                   unsigned buttons, int wheel)
{
	int dx = 0, dy = 0;

	if (!width || !height || width > INT16_MAX || height > INT16_MAX)
		return;
	x = x < width ? x : width - 1;
	y = y < height ? y : height - 1;
	if (input->placed && input->width == width && input->height == height) {
		dx = (int)x - (int)input->x;
		dy = (int)y - (int)input->y;
	}
	input->x = x;
	input->y = y;
	input->width = width;
	input->height = height;
	input->placed = true;
	point(input, dx, dy, buttons, wheel);
}

static unsigned moved(unsigned value, int by, unsigned size)
{
	int64_t to = (int64_t)value + by;

	return to < 0 ? 0 : to >= (int64_t)size ? size - 1 : (unsigned)to;
}

static int within(int value, int limit)
{
	return value < -limit ? -limit : value > limit ? limit : value;
}

void input_move(struct input *input, int dx, int dy, unsigned buttons, int wheel)
{
	dx = within(dx, MOVEMENT_MAX);
	dy = within(dy, MOVEMENT_MAX);
	input->x = moved(input->x, dx, input->width);
	input->y = moved(input->y, dy, input->height);
	point(input, dx, dy, buttons, wheel);
}

/* ---- device ---- */

static void input_reset(void *state)
{
	struct input *input = state;

	/* The devices forget their keys themselves. */
	memset(input->pressed, 0, sizeof(input->pressed));
	input->chord_count = 0;
	timer_cancel(&input->release);
	input->leds = 0;
}

int input_create(struct machine *machine)
{
	struct input *input = calloc(1, sizeof(*input));
	int error;

	if (!input)
		return error_set(ENOMEM, "out of memory");
	input->machine = machine;
	input->width = DEFAULT_WIDTH;
	input->height = DEFAULT_HEIGHT;
	error = machine_add_device(machine, "input", input, input_reset, free);
	if (error) {
		free(input);
		return error;
	}
	machine->input = input;
	return timer_init(&input->release, &machine->timers, release_chord, input);
}

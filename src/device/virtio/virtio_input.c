/*
 * virtio-input: a keyboard and a tablet (a pointer with absolute coordinates, so that the guest's pointer is where the
 * viewer's is). They come with the screen; while their drivers run, the PS/2 devices are at rest. Rules: VIRTIO 1.2,
 * "Input Device"; types and codes of events are Linux's.
 */
#include <errno.h>
#include <linux/input.h>
#include <stdlib.h>
#include <string.h>

#include "device/devices.h"
#include "device/input/input.h"
#include "device/virtio/virtio.h"
#include "machine/machine.h"
#include "util/error.h"

#define CLASS_KEYBOARD 0x090000
#define CLASS_POINTER  0x090200
/* High slots: the numbers of disks and network cards do not depend on there being a screen. */
#define SLOT_KEYBOARD  28
#define SLOT_TABLET    29

#define EVENT_QUEUE_SIZE  64
#define STATUS_QUEUE_SIZE 16
#define WAITING_MAX       256 /* events that the driver has no buffers for yet */

/* Configuration: what the driver selects, and the answer. */
#define CONFIG_SELECT    0
#define CONFIG_SUBSELECT 1
#define CONFIG_SIZE      2
#define CONFIG_DATA      8
#define CONFIG_DATA_MAX  128
#define SELECT_NAME      0x01
#define SELECT_SERIAL    0x02
#define SELECT_IDS       0x03
#define SELECT_EVENTS    0x11
#define SELECT_AXIS      0x12

struct event {
	uint16_t type, code;
	uint32_t value;
};

struct virtio_input {
	struct virtio_device virtio;
	bool tablet;
	struct event waiting[WAITING_MAX];
	unsigned first, count;
	unsigned buttons, leds;
	bool down[INPUT_KEYS];
};

/* ---- configuration ---- */

static void set_bit(uint8_t *bitmap, unsigned bit, unsigned *size)
{
	bitmap[bit / 8] |= (uint8_t)(1u << bit % 8);
	if (*size < bit / 8 + 1)
		*size = bit / 8 + 1;
}

/* The codes of one type of events, as bits. Returns the bitmap's size. */
static unsigned event_codes(const struct virtio_input *device, unsigned type, uint8_t *bitmap)
{
	unsigned size = 0;

	if (device->tablet && type == EV_KEY) {
		set_bit(bitmap, BTN_LEFT, &size);
		set_bit(bitmap, BTN_RIGHT, &size);
		set_bit(bitmap, BTN_MIDDLE, &size);
	} else if (device->tablet && type == EV_ABS) {
		set_bit(bitmap, ABS_X, &size);
		set_bit(bitmap, ABS_Y, &size);
	} else if (device->tablet && type == EV_REL) {
		set_bit(bitmap, REL_WHEEL, &size);
	} else if (!device->tablet && type == EV_KEY) {
		for (unsigned key = 1; key < INPUT_KEYS; key++)
			if (input_key_name(key))
				set_bit(bitmap, key, &size);
	} else if (!device->tablet && type == EV_REP) {
		set_bit(bitmap, REP_DELAY, &size); /* the driver repeats keys by itself */
		set_bit(bitmap, REP_PERIOD, &size);
	} else if (!device->tablet && type == EV_LED) {
		set_bit(bitmap, LED_NUML, &size);
		set_bit(bitmap, LED_CAPSL, &size);
		set_bit(bitmap, LED_SCROLLL, &size);
	}
	return size;
}

static unsigned text(uint8_t *to, const char *from)
{
	memcpy(to, from, strlen(from));
	return (unsigned)strlen(from);
}

/* "struct virtio_input_config": the answer to select and subsel. */
static void answer_selection(struct virtio_input *device)
{
	uint8_t *config = device->virtio.config, *data = config + CONFIG_DATA;
	unsigned subselect = config[CONFIG_SUBSELECT], size = 0;

	memset(data, 0, CONFIG_DATA_MAX);
	switch (config[CONFIG_SELECT]) {
	case SELECT_NAME:
		size = text(data, device->tablet ? "Nestor tablet" : "Nestor keyboard");
		break;
	case SELECT_SERIAL:
		size = text(data, "1");
		break;
	case SELECT_IDS:
		virtio_put16(data, BUS_VIRTUAL);
		virtio_put16(data + 2, 0x1af4);
		virtio_put16(data + 4, device->tablet ? 2 : 1);
		virtio_put16(data + 6, 1);
		size = 8;
		break;
	case SELECT_EVENTS:
		size = event_codes(device, subselect, data);
		break;
	case SELECT_AXIS:
		if (device->tablet && subselect <= ABS_Y) {
			virtio_put32(data + 4, INPUT_POINTER_RANGE); /* from 0; no fuzz, flat, resolution */
			size = 20;
		}
		break;
	}
	config[CONFIG_SIZE] = (uint8_t)size;
}

static void config_write(void *state, unsigned offset, unsigned size, uint32_t value)
{
	struct virtio_input *device = state;

	for (unsigned i = 0; i < size; i++)
		if (offset + i <= CONFIG_SUBSELECT)
			device->virtio.config[offset + i] = (uint8_t)(value >> (8 * i));
	answer_selection(device);
}

/* ---- events ---- */

static void flush(struct virtio_input *device)
{
	struct virtqueue *queue = &device->virtio.queue[0];
	struct virtio_chain *chain;

	/* A driver that goes on adding useless buffers does not keep us. */
	for (unsigned left = 2 * WAITING_MAX; left && device->count && (chain = virtqueue_pop(queue));
	     left--) {
		const struct event *event = &device->waiting[device->first];
		uint8_t bytes[8];
		size_t written;

		virtio_put16(bytes, event->type);
		virtio_put16(bytes + 2, event->code);
		virtio_put32(bytes + 4, event->value);
		written = virtio_chain_write(chain, 0, bytes, sizeof(bytes));
		virtqueue_push(chain, written);
		if (written < sizeof(bytes))
			continue; /* a buffer that is too small is none */
		device->first = (device->first + 1) % WAITING_MAX;
		device->count--;
	}
	virtqueue_notify(queue);
}

static void put(struct virtio_input *device, unsigned type, unsigned code, uint32_t value)
{
	device->waiting[(device->first + device->count++) % WAITING_MAX] =
	    (struct event){(uint16_t)type, (uint16_t)code, value};
}

/* Is there room for that many events? They go together or not at all. */
static bool has_room(const struct virtio_input *device, unsigned events)
{
	return device->count + events <= WAITING_MAX;
}

static bool is_running(void *state)
{
	struct virtio_input *device = state;

	return virtio_running(&device->virtio);
}

static void key(void *state, unsigned code, bool down)
{
	struct virtio_input *device = state;

	if (device->down[code] == down || !has_room(device, 2))
		return;
	device->down[code] = down;
	put(device, EV_KEY, code, down);
	put(device, EV_SYN, SYN_REPORT, 0);
	flush(device);
}

static void position(void *state, unsigned x, unsigned y, unsigned buttons, int wheel)
{
	static const struct {
		unsigned button, code;
	} codes[] = {{INPUT_BUTTON_LEFT, BTN_LEFT},
	             {INPUT_BUTTON_RIGHT, BTN_RIGHT},
	             {INPUT_BUTTON_MIDDLE, BTN_MIDDLE}};
	struct virtio_input *device = state;
	unsigned changed = buttons ^ device->buttons;

	if (!has_room(device, 7))
		return;
	put(device, EV_ABS, ABS_X, x);
	put(device, EV_ABS, ABS_Y, y);
	for (unsigned i = 0; i < 3; i++)
		if (changed & codes[i].button)
			put(device, EV_KEY, codes[i].code, (buttons & codes[i].button) != 0);
	if (wheel)
		put(device, EV_REL, REL_WHEEL, (uint32_t)wheel);
	put(device, EV_SYN, SYN_REPORT, 0);
	device->buttons = buttons;
	flush(device);
}

static void events_wanted(void *state, struct virtqueue *queue)
{
	flush(state);
}

/* The status queue: the driver switches LEDs. */
static void status_sent(void *state, struct virtqueue *queue)
{
	static const uint8_t leds[] = {[LED_NUML] = INPUT_LED_NUM, [LED_CAPSL] = INPUT_LED_CAPS,
	                               [LED_SCROLLL] = INPUT_LED_SCROLL};
	struct virtio_input *device = state;
	struct virtio_chain *chain;

	while ((chain = virtqueue_pop(queue))) {
		uint8_t bytes[8] = {0};
		unsigned type, code;

		virtio_chain_read(chain, 0, bytes, sizeof(bytes));
		type = bytes[0] | (unsigned)bytes[1] << 8;
		code = bytes[2] | (unsigned)bytes[3] << 8;
		if (!device->tablet && type == EV_LED && code < sizeof(leds)) {
			device->leds = bytes[4] ? device->leds | leds[code] : device->leds & ~(unsigned)leds[code];
			input_set_leds(device->virtio.machine->input, device->leds);
		}
		virtqueue_push(chain, 0);
	}
	virtqueue_notify(queue);
}

/* ---- device ---- */

static void reset(void *state)
{
	struct virtio_input *device = state;

	device->first = device->count = 0;
	device->buttons = device->leds = 0;
	memset(device->down, 0, sizeof(device->down));
	memset(device->virtio.config, 0, sizeof(device->virtio.config));
}

static const struct virtio_ops ops = {.reset = reset, .config_write = config_write, .destroy = free};

static int create(struct machine *machine, bool tablet)
{
	struct virtio_setup setup = {.name = tablet ? "virtio-tablet" : "virtio-keyboard",
	                             .type = VIRTIO_ID_INPUT,
	                             .class_code = tablet ? CLASS_POINTER : CLASS_KEYBOARD,
	                             .modern_only = true,
	                             .config_size = CONFIG_DATA + CONFIG_DATA_MAX,
	                             .ops = &ops};
	struct virtio_input *device = calloc(1, sizeof(*device));
	struct input_sink sink = {.device = device, .active = is_running};
	int error;

	if (!device)
		return error_set(ENOMEM, "out of memory");
	device->tablet = tablet;
	setup.device = device;
	virtio_create(&device->virtio, machine, &setup);
	virtio_add_queue(&device->virtio, EVENT_QUEUE_SIZE, events_wanted);
	virtio_add_queue(&device->virtio, STATUS_QUEUE_SIZE, status_sent);
	error = virtio_add(&device->virtio, tablet ? SLOT_TABLET : SLOT_KEYBOARD);
	if (error) {
		free(device);
		return error;
	}
	if (tablet)
		sink.position = position;
	else
		sink.key = key;
	return input_add_sink(machine->input, &sink);
}

int virtio_input_create(struct machine *machine)
{
	int error;

	if (machine->config.vga == MACHINE_VGA_NONE)
		return 0;
	error = create(machine, false);
	return error ? error : create(machine, true);
}

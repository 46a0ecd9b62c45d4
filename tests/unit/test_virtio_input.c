/* virtio-input (VIRTIO 1.2, "Input Device"): keyboard and tablet, seen by a driver. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <linux/input.h>

#include <cmocka.h>

#include "device/input/input.h"
#include "virtio_driver.h"

#define INPUT_ID 0x1052 /* 1040h + 18 */
#define RINGS    0x100000u
#define DATA     0x200000u

static struct machine *machine;
static struct virtio_driver keyboard, tablet;
static struct queue_driver events, status;

static int setup(void **state)
{
	struct machine_config config = fixture_config("null");

	config.vga = MACHINE_VGA_STD;
	machine = fixture_create_from(&config);
	if (!virtio_find(&keyboard, machine, INPUT_ID) ||
	    !virtio_find_from(&tablet, machine, INPUT_ID, keyboard.slot + 1))
		return -1;
	return 0;
}

static int teardown(void **state)
{
	machine_destroy(machine);
	return 0;
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

/* Starts a device with `buffers` buffers of 8 bytes for events. */
static void start(struct virtio_driver *v, unsigned buffers)
{
	assert_true(virtio_negotiate(v, virtio_split_features(v)));
	virtio_queue(v, &events, 0, 64, RINGS);
	virtio_queue(v, &status, 1, 16, RINGS + 0x10000);
	virtio_start(v);
	for (unsigned i = 0; i < buffers; i++)
		queue_add(&events, (struct buffer[]){{DATA + 8 * i, 8, true}}, 1);
	virtio_kick(v, 0);
}

static void select_config(struct virtio_driver *v, unsigned select, unsigned subselect)
{
	store(machine, v->config, 1, select);
	store(machine, v->config + 1, 1, subselect);
}

static unsigned config_size(struct virtio_driver *v)
{
	return (unsigned)load(machine, v->config + 2, 1);
}

static bool config_bit(struct virtio_driver *v, unsigned bit)
{
	return bit / 8 < config_size(v) && load(machine, v->config + 8 + bit / 8, 1) >> bit % 8 & 1;
}

/* The next event that the driver has; false: none. */
static bool next(unsigned *type, unsigned *code, int *value)
{
	uint32_t head, written;
	uint64_t gpa;

	if (!queue_take(&events, &head, &written))
		return false;
	assert_int_equal(written, 8);
	memcpy(&gpa, guest(machine, events.desc + 16 * head, 8), 8);
	*type = get16(machine, gpa);
	*code = get16(machine, gpa + 2);
	*value = (int)get32(machine, gpa + 4);
	return true;
}

static void assert_next(unsigned type, unsigned code, int value)
{
	unsigned got_type, got_code;
	int got_value;

	assert_true(next(&got_type, &got_code, &got_value));
	assert_int_equal(got_type, type);
	assert_int_equal(got_code, code);
	assert_int_equal(got_value, value);
}

static void assert_none(void)
{
	assert_int_equal(queue_used_index(&events), events.used_index);
}

static void key(unsigned code, bool down)
{
	machine_lock(machine);
	input_key(machine->input, code, down);
	machine_unlock(machine);
}

static void point(unsigned x, unsigned y, unsigned buttons, int wheel)
{
	machine_lock(machine);
	input_pointer(machine->input, x, y, 1001, 501, buttons, wheel);
	machine_unlock(machine);
}

static void keyboard_describes_itself(void **state)
{
	char name[16] = "";

	start(&keyboard, 0);
	select_config(&keyboard, 1, 0);
	assert_int_equal(config_size(&keyboard), 15);
	for (unsigned i = 0; i < 15; i++)
		name[i] = (char)load(machine, keyboard.config + 8 + i, 1);
	assert_string_equal(name, "Nestor keyboard");
	select_config(&keyboard, 3, 0);
	assert_int_equal(config_size(&keyboard), 8);
	assert_int_equal(load(machine, keyboard.config + 8, 2), BUS_VIRTUAL);
	select_config(&keyboard, 0x11, EV_KEY);
	assert_true(config_bit(&keyboard, KEY_A));
	assert_true(config_bit(&keyboard, KEY_RIGHTMETA));
	assert_false(config_bit(&keyboard, 0));
	assert_false(config_bit(&keyboard, BTN_LEFT));
	select_config(&keyboard, 0x11, EV_LED);
	assert_true(config_bit(&keyboard, LED_CAPSL));
	select_config(&keyboard, 0x11, EV_ABS);
	assert_int_equal(config_size(&keyboard), 0);
	select_config(&keyboard, 0x77, 0xff);
	assert_int_equal(config_size(&keyboard), 0);
}

static void tablet_describes_itself(void **state)
{
	start(&tablet, 0);
	select_config(&tablet, 0x11, EV_KEY);
	assert_true(config_bit(&tablet, BTN_LEFT) && config_bit(&tablet, BTN_RIGHT) &&
	            config_bit(&tablet, BTN_MIDDLE));
	select_config(&tablet, 0x11, EV_ABS);
	assert_int_equal(config_size(&tablet), 1);
	assert_int_equal(load(machine, tablet.config + 8, 1), 3);
	select_config(&tablet, 0x12, ABS_Y);
	assert_int_equal(config_size(&tablet), 20);
	assert_int_equal(load(machine, tablet.config + 8, 4), 0);
	assert_int_equal(load(machine, tablet.config + 12, 4), INPUT_POINTER_RANGE);
	select_config(&tablet, 0x12, ABS_PRESSURE);
	assert_int_equal(config_size(&tablet), 0);
}

static void keys(void **state)
{
	start(&keyboard, 16);
	key(KEY_A, true);
	key(KEY_A, true); /* the driver repeats by itself */
	key(KEY_A, false);
	assert_next(EV_KEY, KEY_A, 1);
	assert_next(EV_SYN, SYN_REPORT, 0);
	assert_next(EV_KEY, KEY_A, 0);
	assert_next(EV_SYN, SYN_REPORT, 0);
	assert_none();
	assert_false(in(machine, 0x64, 1) & 1); /* the i8042 heard nothing */
	set_common(&keyboard, 0x14, 1, 0);      /* the driver goes: PS/2 again */
	key(KEY_B, true);
	assert_true(in(machine, 0x64, 1) & 1);
}

static void pointer(void **state)
{
	start(&tablet, 32);
	point(1000, 0, 0, 0);
	assert_next(EV_ABS, ABS_X, INPUT_POINTER_RANGE);
	assert_next(EV_ABS, ABS_Y, 0);
	assert_next(EV_SYN, SYN_REPORT, 0);
	point(500, 250, INPUT_BUTTON_LEFT | INPUT_BUTTON_MIDDLE, -1);
	assert_next(EV_ABS, ABS_X, INPUT_POINTER_RANGE / 2);
	assert_next(EV_ABS, ABS_Y, INPUT_POINTER_RANGE / 2);
	assert_next(EV_KEY, BTN_LEFT, 1);
	assert_next(EV_KEY, BTN_MIDDLE, 1);
	assert_next(EV_REL, REL_WHEEL, -1);
	assert_next(EV_SYN, SYN_REPORT, 0);
	point(500, 250, INPUT_BUTTON_MIDDLE, 0);
	assert_next(EV_ABS, ABS_X, INPUT_POINTER_RANGE / 2);
	assert_next(EV_ABS, ABS_Y, INPUT_POINTER_RANGE / 2);
	assert_next(EV_KEY, BTN_LEFT, 0);
	assert_next(EV_SYN, SYN_REPORT, 0);
	machine_lock(machine);
	input_move(machine->input, -500, 0, 0, 0); /* a movement moves it too */
	machine_unlock(machine);
	assert_next(EV_ABS, ABS_X, 0);
}

/* Without buffers events wait, a bounded number of them, in whole groups. */
static void events_wait(void **state)
{
	unsigned type, code, last_code = 0, count = 0;
	int value;

	start(&keyboard, 1);
	for (unsigned i = 0; i < 1000; i++)
		key(KEY_A, i % 2 == 0);
	assert_next(EV_KEY, KEY_A, 1);
	assert_none();
	for (unsigned i = 0; i < 600; i++) {
		queue_add(&events, (struct buffer[]){{DATA, 8, true}}, 1);
		virtio_kick(&keyboard, 0);
		if (next(&type, &code, &value)) {
			assert_int_equal(type, count % 2 ? EV_KEY : EV_SYN);
			last_code = type;
			count++;
		} else {
			break;
		}
	}
	assert_in_range(count, 254, 257);
	assert_int_equal(last_code, EV_SYN);
}

static void buffers_of_no_use(void **state)
{
	start(&keyboard, 0);
	queue_add(&events, (struct buffer[]){{DATA, 4, true}}, 1);
	queue_add(&events, (struct buffer[]){{DATA, 8, false}}, 1);
	queue_add(&events, (struct buffer[]){{DATA + 64, 8, true}}, 1);
	virtio_kick(&keyboard, 0);
	key(KEY_A, true);
	assert_int_equal(queue_used_index(&events), 3);
	assert_int_equal(get16(machine, DATA + 66), KEY_A);
}

static void leds(void **state)
{
	static const uint8_t on[] = {EV_LED, 0, LED_CAPSL, 0, 1, 0, 0, 0},
	                     bad[] = {EV_LED, 0, 0xff, 0xff, 1, 0, 0, 0};

	start(&keyboard, 0);
	memcpy(guest(machine, DATA, 8), bad, 8);
	memcpy(guest(machine, DATA + 8, 8), on, 8);
	queue_add(&status, (struct buffer[]){{DATA, 8, false}}, 1);
	queue_add(&status, (struct buffer[]){{DATA + 8, 8, false}}, 1);
	virtio_kick(&keyboard, 1);
	assert_int_equal(queue_used_index(&status), 2);
	assert_int_equal(input_leds(machine->input), INPUT_LED_CAPS);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    TEST(keyboard_describes_itself), TEST(tablet_describes_itself), TEST(keys),
	    TEST(pointer),                   TEST(events_wait),             TEST(buffers_of_no_use),
	    TEST(leds),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

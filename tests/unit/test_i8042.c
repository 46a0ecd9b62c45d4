/* The keyboard controller, keyboard and mouse (IBM PS/2 Hardware Interface Technical Reference; IntelliMouse). */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <linux/input-event-codes.h>

#include <cmocka.h>

#include "device/input/input.h"
#include "device_fixture.h"

#define FULL 0x01
#define AUX  0x20

static uint32_t status(void)
{
	return in(machine, 0x64, 1);
}

static void controller(uint8_t command)
{
	out(machine, 0x64, 1, command);
}

static void set_config(uint8_t value)
{
	controller(0x60);
	out(machine, 0x60, 1, value);
}

/* The next byte, by polling; -1: none comes. */
static int next(void)
{
	for (unsigned i = 0; i < 20; i++) {
		if (status() & FULL)
			return (int)in(machine, 0x60, 1);
		pass(machine, 50000);
	}
	return -1;
}

#define assert_bytes(...)                                                                                            \
	do {                                                                                                         \
		static const int expected[] = {__VA_ARGS__};                                                         \
		for (unsigned n = 0; n < sizeof(expected) / sizeof(expected[0]); n++)                                \
			assert_int_equal(next(), expected[n]);                                                       \
		assert_int_equal(next(), -1);                                                                        \
	} while (0)

static void keyboard(uint8_t byte)
{
	out(machine, 0x60, 1, byte);
}

static void mouse(uint8_t byte)
{
	controller(0xd4);
	out(machine, 0x60, 1, byte);
}

static void key(unsigned code, bool down)
{
	machine_lock(machine);
	input_key(machine->input, code, down);
	machine_unlock(machine);
}

static void move(int dx, int dy, unsigned buttons, int wheel)
{
	machine_lock(machine);
	input_move(machine->input, dx, dy, buttons, wheel);
	machine_unlock(machine);
}

static void controller_tests_pass(void **state)
{
	controller(0xaa);
	assert_bytes(0x55);
	controller(0xab);
	assert_bytes(0x00);
	controller(0xa9);
	assert_bytes(0x00);
}

static void command_byte_and_ram(void **state)
{
	set_config(0x47);
	controller(0x20);
	assert_bytes(0x47);
	controller(0xad);
	controller(0xa7);
	controller(0x20);
	assert_bytes(0x47 | 0x30);
	controller(0xae);
	controller(0xa8);
	controller(0x20);
	assert_bytes(0x47);
	controller(0x65);
	out(machine, 0x60, 1, 0x5a);
	controller(0x25);
	assert_bytes(0x5a);
}

/* How Linux finds the auxiliary port. */
static void loops(void **state)
{
	set_config(0x47);
	controller(0xd3);
	out(machine, 0x60, 1, 0xa5);
	assert_int_equal(status() & (FULL | AUX), FULL | AUX);
	assert_true(machine->irq[12].asserted);
	assert_int_equal(in(machine, 0x60, 1), 0xa5);
	assert_false(machine->irq[12].asserted);
	controller(0xd2);
	out(machine, 0x60, 1, 0x5a);
	assert_int_equal(status() & (FULL | AUX), FULL);
	assert_true(machine->irq[1].asserted);
	assert_bytes(0x5a);
}

static void keyboard_reset_and_identify(void **state)
{
	set_config(0x04);
	keyboard(0xff);
	assert_bytes(0xfa, 0xaa);
	keyboard(0xf2);
	assert_bytes(0xfa, 0xab, 0x83);
	keyboard(0xee);
	assert_bytes(0xee);
	keyboard(0xfe);
	assert_bytes(0xee);
	keyboard(0x12);
	assert_bytes(0xfe);
	set_config(0x44); /* the translator does not spare the identifier */
	keyboard(0xf2);
	assert_bytes(0xfa, 0xab, 0x41);
}

static void translated_keys(void **state)
{
	set_config(0x44);
	key(KEY_A, true);
	key(KEY_A, true);
	key(KEY_A, false);
	assert_bytes(0x1e, 0x1e, 0x9e);
	key(KEY_UP, true);
	key(KEY_UP, false);
	assert_bytes(0xe0, 0x48, 0xe0, 0xc8);
	key(KEY_F7, true);
	key(KEY_F7, false);
	assert_bytes(0x41, 0xc1);
	key(KEY_PAUSE, true);
	key(KEY_PAUSE, false);
	assert_bytes(0xe1, 0x1d, 0x45, 0xe1, 0x9d, 0xc5);
	key(KEY_SYSRQ, true);
	key(KEY_SYSRQ, false);
	assert_bytes(0xe0, 0x2a, 0xe0, 0x37, 0xe0, 0xb7, 0xe0, 0xaa);
	key(KEY_LEFTALT, true);
	key(KEY_SYSRQ, true);
	key(KEY_SYSRQ, false);
	key(KEY_LEFTALT, false);
	assert_bytes(0x38, 0x54, 0xd4, 0xb8);
}

static void scan_code_sets(void **state)
{
	set_config(0x04);
	key(KEY_RIGHTCTRL, true);
	key(KEY_RIGHTCTRL, false);
	assert_bytes(0xe0, 0x14, 0xe0, 0xf0, 0x14);
	keyboard(0xf0);
	keyboard(0x00);
	assert_bytes(0xfa, 0xfa, 0x02);
	keyboard(0xf0);
	keyboard(0x01);
	assert_bytes(0xfa, 0xfa);
	key(KEY_RIGHTCTRL, true);
	key(KEY_RIGHTCTRL, false);
	assert_bytes(0xe0, 0x1d, 0xe0, 0x9d);
	keyboard(0xf0);
	keyboard(0x03);
	assert_bytes(0xfa, 0xfa);
	key(KEY_RIGHTCTRL, true); /* set 3's default: make only */
	key(KEY_RIGHTCTRL, false);
	assert_bytes(0x58);
	keyboard(0xf8); /* all make and break */
	assert_bytes(0xfa);
	key(KEY_F1, true);
	key(KEY_F1, true);
	key(KEY_F1, false);
	assert_bytes(0x07, 0xf0, 0x07);
	keyboard(0xfd); /* F1 make only, as its list says; the next command ends the list */
	assert_bytes(0xfa);
	keyboard(0x07);
	assert_bytes(0xfa);
	keyboard(0xee);
	assert_bytes(0xee);
	key(KEY_F1, true);
	key(KEY_F1, false);
	assert_bytes(0x07);
	keyboard(0xf0);
	keyboard(0x04);
	assert_bytes(0xfa, 0xfe);
}

static void keyboard_switches(void **state)
{
	set_config(0x04);
	keyboard(0xf5);
	assert_bytes(0xfa);
	key(KEY_B, true);
	assert_bytes(-1);
	keyboard(0xf4);
	assert_bytes(0xfa);
	key(KEY_B, false);
	assert_bytes(0xf0, 0x32);
	controller(0xad); /* the keyboard keeps its bytes while the interface is off */
	key(KEY_C, true);
	assert_bytes(-1);
	controller(0xae);
	assert_bytes(0x21);
	keyboard(0xed);
	assert_bytes(0xfa);
	keyboard(0x05);
	assert_bytes(0xfa);
	assert_int_equal(input_leds(machine->input), INPUT_LED_CAPS | INPUT_LED_SCROLL);
	keyboard(0xf3);
	keyboard(0x20);
	assert_bytes(0xfa, 0xfa);
}

static void keyboard_interrupts_are_edges(void **state)
{
	set_config(0x45);
	key(KEY_A, true);
	key(KEY_A, false);
	assert_true(machine->irq[1].asserted);
	assert_int_equal(in(machine, 0x60, 1), 0x1e);
	assert_false(machine->irq[1].asserted);
	assert_int_equal(in(machine, 0x60, 1), 0x1e); /* a handler may look twice */
	pass(machine, 200000);
	assert_true(machine->irq[1].asserted);
	assert_int_equal(in(machine, 0x60, 1), 0x9e);
	pass(machine, 200000);
	assert_false(machine->irq[1].asserted);
}

static void too_many_keys_overrun(void **state)
{
	unsigned count = 0;
	int byte, last = -1;

	set_config(0x04);
	for (unsigned i = 0; i < 1000; i++)
		key(KEY_A, i % 2 == 0);
	while ((byte = next()) >= 0) {
		last = byte;
		count++;
	}
	assert_int_equal(count, 1 + 256 /* one stands in the controller; the last is the overrun */);
	assert_int_equal(last, 0x00);
	key(KEY_B, true);
	assert_bytes(0x32);
}

static void mouse_reset_and_status(void **state)
{
	set_config(0x04);
	mouse(0xff);
	assert_bytes(0xfa, 0xaa, 0x00);
	mouse(0xf2);
	assert_bytes(0xfa, 0x00);
	mouse(0xe8);
	mouse(0x03);
	assert_bytes(0xfa, 0xfa);
	mouse(0xe7);
	assert_bytes(0xfa);
	mouse(0xf4);
	assert_bytes(0xfa);
	move(0, 0, INPUT_BUTTON_LEFT | INPUT_BUTTON_RIGHT, 0);
	mouse(0xe9);
	assert_int_equal(status() & AUX, AUX);
	/* The report that stands in the controller's buffer already, then the answer; the rest of it is gone. */
	assert_bytes(0x0b, 0xfa, 0x35, 0x03, 100);
	mouse(0xf3);
	mouse(0x07);
	assert_bytes(0xfa, 0xfc);
	mouse(0xe1);
	assert_bytes(0xfe);
}

static void mouse_reports(void **state)
{
	set_config(0x04);
	mouse(0xf4);
	assert_bytes(0xfa);
	move(5, 3, 0, 0);
	assert_bytes(0x28, 5, 0xfd); /* the mouse counts upward */
	move(-300, 0, INPUT_BUTTON_MIDDLE, 0);
	assert_bytes(0x1c, 0x01, 0, 0x1c, 0xd3, 0);
	mouse(0xf5);
	assert_bytes(0xfa);
	move(1, 1, 0, 0);
	assert_bytes(-1);
}

static void mouse_wheel(void **state)
{
	static const uint8_t knock[] = {200, 100, 80};

	set_config(0x04);
	for (unsigned i = 0; i < 3; i++) {
		mouse(0xf3);
		assert_bytes(0xfa);
		mouse(knock[i]);
		assert_bytes(0xfa);
	}
	mouse(0xf2);
	assert_bytes(0xfa, 0x03);
	mouse(0xf4);
	assert_bytes(0xfa);
	move(0, 0, 0, 1);
	assert_bytes(0x08, 0, 0, 0xff);
	move(0, 0, 0, -10);
	assert_bytes(0x08, 0, 0, 7, 0x08, 0, 0, 3);
}

static void mouse_remote_and_wrap(void **state)
{
	set_config(0x04);
	mouse(0xf0);
	assert_bytes(0xfa);
	move(7, -7, 0, 0);
	assert_bytes(-1);
	mouse(0xeb);
	assert_bytes(0xfa, 0x08, 7, 7);
	mouse(0xee);
	assert_bytes(0xfa);
	mouse(0xf2);
	assert_bytes(0xf2);
	mouse(0xec);
	assert_bytes(0xfa);
	mouse(0xea);
	assert_bytes(0xfa);
}

/* A host that does not listen: movement gathers, nothing grows, the sum comes out in the end. */
static void mouse_gathers(void **state)
{
	int sum = 0, byte;

	set_config(0x04);
	mouse(0xf4);
	assert_bytes(0xfa);
	for (unsigned i = 0; i < 1000; i++)
		move(3, 0, 0, 0);
	while ((byte = next()) >= 0) {
		int x = next();

		sum += x - (byte & 0x10 ? 256 : 0);
		assert_int_equal(next(), 0);
	}
	assert_int_equal(sum, 3000);
}

static void reset_line(void **state)
{
	controller(0xfe);
	assert_true(machine->stop_requested);
}

/* ---- the hub ---- */

static void names_of_keys(void **state)
{
	assert_int_equal(input_key_by_name("ret"), KEY_ENTER);
	assert_int_equal(input_key_by_name("ctrl"), KEY_LEFTCTRL);
	assert_int_equal(input_key_by_name("kp_enter"), KEY_KPENTER);
	assert_int_equal(input_key_by_name("menu"), KEY_COMPOSE);
	assert_int_equal(input_key_by_name("nosuch"), 0);
	assert_string_equal(input_key_name(KEY_DELETE), "delete");
	assert_null(input_key_name(0));
}

static void chords(void **state)
{
	static const unsigned keys[] = {KEY_LEFTCTRL, KEY_LEFTALT, KEY_DELETE}, bad[] = {KEY_A, 5000};

	set_config(0x44);
	machine_lock(machine);
	assert_int_equal(input_send_keys(machine->input, keys, 3, 0), 0);
	assert_true(input_send_keys(machine->input, bad, 2, 0) < 0);
	assert_true(input_send_keys(machine->input, keys, 0, 0) < 0);
	machine_unlock(machine);
	assert_int_equal(next(), 0x1d);
	assert_int_equal(next(), 0x38);
	assert_int_equal(next(), 0xe0);
	assert_int_equal(next(), 0x53);
	assert_true(input_is_down(machine->input, KEY_DELETE));
	pass(machine, 100000000);
	assert_bytes(0xe0, 0xd3, 0xb8, 0x9d);
	assert_false(input_is_down(machine->input, KEY_DELETE));
}

static void release_all(void **state)
{
	set_config(0x44);
	key(KEY_A, true);
	key(KEY_LEFTSHIFT, true);
	assert_bytes(0x1e, 0x2a);
	machine_lock(machine);
	input_release_all(machine->input);
	machine_unlock(machine);
	assert_bytes(0x9e, 0xaa);
	key(KEY_A, false); /* it is up already */
	assert_bytes(-1);
}

static void pointer_becomes_movement(void **state)
{
	set_config(0x04);
	mouse(0xf4);
	assert_bytes(0xfa);
	machine_lock(machine);
	input_pointer(machine->input, 100, 100, 640, 480, 0, 0); /* where it begins is no movement */
	input_pointer(machine->input, 110, 95, 640, 480, INPUT_BUTTON_LEFT, 0);
	machine_unlock(machine);
	assert_bytes(0x09, 10, 5);
}

struct spy {
	bool used, down;
	unsigned key, x, y;
};

static bool spy_active(void *device)
{
	return ((struct spy *)device)->used;
}

static void spy_key(void *device, unsigned code, bool down)
{
	((struct spy *)device)->key = code;
	((struct spy *)device)->down = down;
}

static void spy_position(void *device, unsigned x, unsigned y, unsigned buttons, int wheel)
{
	((struct spy *)device)->x = x;
	((struct spy *)device)->y = y;
}

static void active_devices_go_first(void **state)
{
	struct spy spy = {.used = false};
	struct input_sink sink = {&spy, spy_active, spy_key, spy_position, NULL};

	set_config(0x44);
	assert_int_equal(input_add_sink(machine->input, &sink), 0);
	key(KEY_A, true);
	assert_int_equal(spy.key, 0);
	assert_bytes(0x1e);
	spy.used = true;
	key(KEY_A, false); /* who saw it go down sees it go up */
	assert_bytes(0x9e);
	key(KEY_A, true);
	assert_int_equal(spy.key, KEY_A);
	assert_true(spy.down);
	assert_bytes(-1);
	machine_lock(machine);
	input_pointer(machine->input, 639, 0, 640, 480, 0, 0);
	machine_unlock(machine);
	assert_int_equal(spy.x, INPUT_POINTER_RANGE);
	assert_int_equal(spy.y, 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    TEST(controller_tests_pass),
	    TEST(command_byte_and_ram),
	    TEST(loops),
	    TEST(keyboard_reset_and_identify),
	    TEST(translated_keys),
	    TEST(scan_code_sets),
	    TEST(keyboard_switches),
	    TEST(keyboard_interrupts_are_edges),
	    TEST(too_many_keys_overrun),
	    TEST(mouse_reset_and_status),
	    TEST(mouse_reports),
	    TEST(mouse_wheel),
	    TEST(mouse_remote_and_wrap),
	    TEST(mouse_gathers),
	    TEST(reset_line),
	    TEST(names_of_keys),
	    TEST(chords),
	    TEST(release_all),
	    TEST(pointer_becomes_movement),
	    TEST(active_devices_go_first),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

/*
 * The 8259 pair, rule by rule (Intel 8259A data sheet).
 * gcc -std=gnu17 -g -fsanitize=address,undefined -D_GNU_SOURCE -Isrc -o /tmp/test_pic \
 *   tests/unit/test_pic.c src/device/[a-z]*.c src/util/error.c -lcmocka -pthread \
 *   $(ls src/machine/[a-z]*.c | grep -v -e load -e engine_select) && /tmp/test_pic
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "device_fixture.h"

static struct irq_pin pin[16];

static int setup_pic(void **state)
{
	setup(state);
	memset(pin, 0, sizeof(pin));
	for (unsigned i = 0; i < 16; i++)
		irq_pin_connect(&pin[i], &machine->irq[i]);
	init_pics(machine, 0x01, 0x01);
	return 0;
}

#undef TEST
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup_pic, teardown)

static void edge(unsigned irq)
{
	set_irq(machine, &pin[irq], false);
	set_irq(machine, &pin[irq], true);
}

static void silent_until_initialized(void **state)
{
	machine_lock(machine);
	machine_reset_devices(machine);
	machine_unlock(machine);
	edge(3);
	assert_false(fake_vm.extint);
	assert_int_equal(acknowledge(machine), -1);
}

static void mask_register_reads_back(void **state)
{
	out(machine, 0xa1, 1, 0xff);
	out(machine, 0x21, 1, 0xfb);
	assert_int_equal(in(machine, 0x21, 1), 0xfb);
	assert_int_equal(in(machine, 0xa1, 1), 0xff);
}

static void edge_request_is_served_once(void **state)
{
	edge(4);
	assert_true(fake_vm.extint);
	assert_int_equal(acknowledge(machine), 0x24);
	assert_false(fake_vm.extint);
	out(machine, 0x20, 1, 0x20);
	assert_false(fake_vm.extint); /* still high, but no new edge */
	edge(4);
	assert_int_equal(acknowledge(machine), 0x24);
}

static void request_withdrawn_before_acknowledge(void **state)
{
	edge(5);
	set_irq(machine, &pin[5], false);
	assert_false(fake_vm.extint);
	assert_int_equal(acknowledge(machine), -1);
}

static void level_request_returns_after_eoi(void **state)
{
	out(machine, 0x4d0, 1, 0x20);
	set_irq(machine, &pin[5], true);
	assert_int_equal(acknowledge(machine), 0x25);
	out(machine, 0x20, 1, 0x20);
	assert_true(fake_vm.extint);
	assert_int_equal(acknowledge(machine), 0x25);
	set_irq(machine, &pin[5], false);
	out(machine, 0x20, 1, 0x20);
	assert_false(fake_vm.extint);
}

static void elcr_forbids_system_inputs(void **state)
{
	out(machine, 0x4d0, 2, 0xffff);
	assert_int_equal(in(machine, 0x4d0, 2), 0xdef8);
}

static void slave_goes_through_cascade(void **state)
{
	edge(12);
	assert_int_equal(acknowledge(machine), 0x2c);
	out(machine, 0x20, 1, 0x0b);
	assert_int_equal(in(machine, 0x20, 1), 0x04); /* ISR of the master: input 2 */
	out(machine, 0xa0, 1, 0x0b);
	assert_int_equal(in(machine, 0xa0, 1), 0x10);
	out(machine, 0xa0, 1, 0x20);
	out(machine, 0x20, 1, 0x20);
	assert_int_equal(in(machine, 0x20, 1), 0);
}

static void second_slave_request_follows(void **state)
{
	edge(9);
	edge(10);
	assert_int_equal(acknowledge(machine), 0x29);
	out(machine, 0xa0, 1, 0x20);
	out(machine, 0x20, 1, 0x20);
	assert_true(fake_vm.extint);
	assert_int_equal(acknowledge(machine), 0x2a);
}

static void fully_nested_priorities(void **state)
{
	edge(4);
	assert_int_equal(acknowledge(machine), 0x24);
	edge(6);
	assert_false(fake_vm.extint);
	edge(1);
	assert_int_equal(acknowledge(machine), 0x21);
	out(machine, 0x20, 1, 0x20); /* non-specific: ends 1 */
	assert_false(fake_vm.extint);
	out(machine, 0x20, 1, 0x64); /* specific: ends 4 */
	assert_int_equal(acknowledge(machine), 0x26);
}

static void special_fully_nested_slave_interrupts_itself(void **state)
{
	init_pics(machine, 0x11, 0x01);
	edge(10);
	assert_int_equal(acknowledge(machine), 0x2a);
	edge(8);
	assert_true(fake_vm.extint);
	assert_int_equal(acknowledge(machine), 0x28);
}

static void special_mask_enables_lower_levels(void **state)
{
	edge(3);
	assert_int_equal(acknowledge(machine), 0x23);
	edge(6);
	assert_false(fake_vm.extint);
	out(machine, 0x21, 1, 0x08);
	assert_false(fake_vm.extint);
	out(machine, 0x20, 1, 0x68);
	assert_int_equal(acknowledge(machine), 0x26);
}

static void automatic_eoi(void **state)
{
	init_pics(machine, 0x03, 0x01);
	edge(3);
	assert_int_equal(acknowledge(machine), 0x23);
	out(machine, 0x20, 1, 0x0b);
	assert_int_equal(in(machine, 0x20, 1), 0);
}

static void rotation_makes_served_input_lowest(void **state)
{
	edge(3);
	assert_int_equal(acknowledge(machine), 0x23);
	out(machine, 0x20, 1, 0xa0);
	edge(3);
	edge(4);
	assert_int_equal(acknowledge(machine), 0x24);
}

static void set_priority(void **state)
{
	out(machine, 0x20, 1, 0xc4); /* 4 lowest: 5 is highest */
	edge(0);
	edge(5);
	assert_int_equal(acknowledge(machine), 0x25);
}

static void poll_command_acknowledges(void **state)
{
	edge(7);
	out(machine, 0x20, 1, 0x0c);
	assert_int_equal(in(machine, 0x20, 1), 0x87);
	assert_false(fake_vm.extint);
	out(machine, 0x20, 1, 0x0c);
	assert_int_equal(in(machine, 0x20, 1) & 0x80, 0);
}

static void masked_request_stays_in_irr(void **state)
{
	out(machine, 0x21, 1, 0x10);
	edge(4);
	assert_false(fake_vm.extint);
	out(machine, 0x20, 1, 0x0a);
	assert_int_equal(in(machine, 0x20, 1) & 0x10, 0x10);
	out(machine, 0x21, 1, 0);
	assert_int_equal(acknowledge(machine), 0x24);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    TEST(silent_until_initialized),
	    TEST(mask_register_reads_back),
	    TEST(edge_request_is_served_once),
	    TEST(request_withdrawn_before_acknowledge),
	    TEST(level_request_returns_after_eoi),
	    TEST(elcr_forbids_system_inputs),
	    TEST(slave_goes_through_cascade),
	    TEST(second_slave_request_follows),
	    TEST(fully_nested_priorities),
	    TEST(special_fully_nested_slave_interrupts_itself),
	    TEST(special_mask_enables_lower_levels),
	    TEST(automatic_eoi),
	    TEST(rotation_makes_served_input_lowest),
	    TEST(set_priority),
	    TEST(poll_command_acknowledges),
	    TEST(masked_request_stays_in_irr),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

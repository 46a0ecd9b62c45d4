/*
 * The I/O APIC, rule by rule (Intel 82093AA data sheet).
 * gcc -std=gnu17 -g -fsanitize=address,undefined -D_GNU_SOURCE -Isrc -o /tmp/test_ioapic \
 *   tests/unit/test_ioapic.c src/device/[a-z]*.c src/util/error.c -lcmocka -pthread \
 *   $(ls src/machine/[a-z]*.c | grep -v -e load -e engine_select) && /tmp/test_ioapic
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "device_fixture.h"

#define BASE 0xfec00000u

static struct irq_pin pin;

static void set_register(unsigned index, uint32_t value)
{
	store(machine, BASE, 4, index);
	store(machine, BASE + 0x10, 4, value);
}

static uint32_t get_register(unsigned index)
{
	store(machine, BASE, 4, index);
	return (uint32_t)load(machine, BASE + 0x10, 4);
}

static void connect(unsigned line)
{
	memset(&pin, 0, sizeof(pin));
	irq_pin_connect(&pin, &machine->irq[line]);
}

static void identification(void **state)
{
	assert_int_equal(get_register(1), 0x00170020);
	set_register(0, 0xffffffff);
	assert_int_equal(get_register(0), 0x0f000000);
	assert_int_equal(get_register(0x10), 0x10000); /* masked after reset */
	assert_int_equal(get_register(0x40), 0);       /* no pin 24 */
}

static void edge_sends_one_message(void **state)
{
	connect(4);
	set_register(0x19, 0x03000000);
	set_register(0x18, 0x34);
	set_irq(machine, &pin, true);
	set_irq(machine, &pin, true);
	assert_int_equal(fake_vm.msi_count, 1);
	assert_int_equal(fake_vm.msi_address[0], 0xfee03000);
	assert_int_equal(fake_vm.msi_data[0], 0x34);
	set_irq(machine, &pin, false);
	set_irq(machine, &pin, true);
	assert_int_equal(fake_vm.msi_count, 2);
}

static void logical_lowest_priority_message(void **state)
{
	connect(4);
	set_register(0x19, 0xff000000);
	set_register(0x18, 0x0934);
	set_irq(machine, &pin, true);
	assert_int_equal(fake_vm.msi_address[0], 0xfeeff004);
	assert_int_equal(fake_vm.msi_data[0], 0x134);
}

static void masked_edge_is_lost(void **state)
{
	connect(4);
	set_register(0x18, 0x10034);
	set_irq(machine, &pin, true);
	set_register(0x18, 0x34);
	assert_int_equal(fake_vm.msi_count, 0);
}

static void level_waits_for_eoi(void **state)
{
	connect(9);
	set_register(0x22, 0x8051);
	set_irq(machine, &pin, true);
	assert_int_equal(fake_vm.msi_count, 1);
	assert_int_equal(fake_vm.msi_data[0], 0xc051);
	assert_int_equal(get_register(0x22), 0xc051); /* remote IRR */
	set_irq(machine, &pin, false);
	set_irq(machine, &pin, true);
	assert_int_equal(fake_vm.msi_count, 1);
	machine->host.eoi(machine, 0x50);
	assert_int_equal(fake_vm.msi_count, 1);
	machine->host.eoi(machine, 0x51);
	assert_int_equal(fake_vm.msi_count, 2);
	set_irq(machine, &pin, false);
	store(machine, BASE + 0x40, 4, 0x51);
	assert_int_equal(fake_vm.msi_count, 2);
	assert_int_equal(get_register(0x22), 0x8051);
}

static void masked_level_goes_out_when_unmasked(void **state)
{
	connect(9);
	set_register(0x22, 0x18051);
	set_irq(machine, &pin, true);
	assert_int_equal(fake_vm.msi_count, 0);
	set_register(0x22, 0x8051);
	assert_int_equal(fake_vm.msi_count, 1);
}

static void edge_mode_clears_remote_irr(void **state)
{
	connect(9);
	set_register(0x22, 0x8051);
	set_irq(machine, &pin, true);
	set_register(0x22, 0x10051);
	assert_int_equal(get_register(0x22), 0x10051);
	set_register(0x22, 0x8051);
	assert_int_equal(fake_vm.msi_count, 2);
}

static void read_only_bits_stay(void **state)
{
	set_register(0x22, 0xffffffff);
	assert_int_equal(get_register(0x22), 0x1afff);
}

static void pit_is_on_pin_2(void **state)
{
	connect(0);
	set_register(0x14, 0x30);
	set_irq(machine, &pin, true);
	assert_int_equal(fake_vm.msi_count, 1);
	assert_int_equal(fake_vm.msi_data[0], 0x30);
}

static void shared_line_is_wired_or(void **state)
{
	struct irq_pin other = {0};

	connect(9);
	irq_pin_connect(&other, &machine->irq[9]);
	set_register(0x22, 0x8051);
	set_irq(machine, &pin, true);
	set_irq(machine, &other, true);
	set_irq(machine, &pin, false);
	machine->host.eoi(machine, 0x51);
	assert_int_equal(fake_vm.msi_count, 2);
	set_irq(machine, &other, false);
	machine->host.eoi(machine, 0x51);
	assert_int_equal(fake_vm.msi_count, 2);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    TEST(identification),
	    TEST(edge_sends_one_message),
	    TEST(logical_lowest_priority_message),
	    TEST(masked_edge_is_lost),
	    TEST(level_waits_for_eoi),
	    TEST(masked_level_goes_out_when_unmasked),
	    TEST(edge_mode_clears_remote_irr),
	    TEST(read_only_bits_stay),
	    TEST(pit_is_on_pin_2),
	    TEST(shared_line_is_wired_or),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

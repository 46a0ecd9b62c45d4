/*
 * The real-time clock (MC146818 data sheet), the HPET (IA-PC HPET Specification) and the ACPI timer.
 * gcc -std=gnu17 -g -fsanitize=address,undefined -D_GNU_SOURCE -Isrc -o /tmp/test_rtc_hpet \
 *   tests/unit/test_rtc_hpet.c src/device/[a-z]*.c src/util/error.c -lcmocka -pthread \
 *   $(ls src/machine/[a-z]*.c | grep -v -e load -e engine_select) && /tmp/test_rtc_hpet
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "device_fixture.h"

#define SECOND UINT64_C(1000000000)
#define HPET   0xfed00000u

static uint8_t cmos(uint8_t index)
{
	out(machine, 0x70, 1, index);
	return (uint8_t)in(machine, 0x71, 1);
}

static void set_cmos(uint8_t index, uint8_t value)
{
	out(machine, 0x70, 1, index);
	out(machine, 0x71, 1, value);
}

static bool rtc_line(void)
{
	return machine->irq[8].asserted;
}

static void time_in_bcd(void **state)
{
	pass(machine, (uint64_t)(13 * 3600 + 45 * 60 + 59) * SECOND);
	assert_int_equal(cmos(0), 0x59);
	assert_int_equal(cmos(2), 0x45);
	assert_int_equal(cmos(4), 0x13);
	assert_int_equal(cmos(6), 5); /* Thursday */
	assert_int_equal(cmos(7), 0x01);
	assert_int_equal(cmos(8), 0x01);
	assert_int_equal(cmos(9), 0x26);
	assert_int_equal(cmos(0x32), 0x20);
}

static void twelve_hours_and_binary(void **state)
{
	pass(machine, UINT64_C(13) * 3600 * SECOND);
	set_cmos(0x0b, 0x04);
	assert_int_equal(cmos(4), 0x81);
	set_cmos(0x0b, 0x06);
	assert_int_equal(cmos(4), 13);
	assert_int_equal(cmos(9), 26);
}

static void setting_the_time(void **state)
{
	set_cmos(0x0b, 0x82);
	set_cmos(0, 0x58);
	set_cmos(2, 0x59);
	set_cmos(4, 0x23);
	set_cmos(7, 0x28);
	set_cmos(8, 0x02);
	set_cmos(9, 0x28); /* 2028 is a leap year */
	pass(machine, 5 * SECOND);
	assert_int_equal(cmos(0), 0x58); /* SET stops the clock */
	set_cmos(0x0b, 0x02);
	pass(machine, 2 * SECOND);
	assert_int_equal(cmos(0), 0x00);
	assert_int_equal(cmos(7), 0x29);
	assert_int_equal(cmos(8), 0x02);
}

static void update_in_progress_before_the_second(void **state)
{
	pass(machine, SECOND / 2);
	assert_int_equal(cmos(0x0a) & 0x80, 0);
	pass(machine, SECOND / 2 - 100000);
	assert_int_equal(cmos(0x0a) & 0x80, 0x80);
	pass(machine, 200000);
	assert_int_equal(cmos(0x0a) & 0x80, 0);
}

static void update_interrupt(void **state)
{
	set_cmos(0x0b, 0x12);
	cmos(0x0c);
	pass(machine, SECOND - 1);
	assert_false(rtc_line());
	pass(machine, 2);
	assert_true(rtc_line());
	assert_int_equal(cmos(0x0c), 0x90);
	assert_false(rtc_line());
	assert_int_equal(cmos(0x0c), 0);
}

static void alarm_interrupt(void **state)
{
	set_cmos(1, 0x05);
	set_cmos(3, 0x01);
	set_cmos(5, 0xff); /* any hour */
	set_cmos(0x0b, 0x22);
	cmos(0x0c);
	pass(machine, 64 * SECOND + SECOND / 2);
	assert_false(rtc_line());
	pass(machine, SECOND);
	assert_true(rtc_line());
	assert_int_equal(cmos(0x0c) & 0xa0, 0xa0);
}

static void periodic_interrupt(void **state)
{
	unsigned count = 0;

	set_cmos(0x0a, 0x26);
	set_cmos(0x0b, 0x42);
	for (uint64_t end = machine_now(machine) + SECOND; machine_next_deadline(machine) <= end;) {
		machine_run_timers(machine, machine_next_deadline(machine));
		count += (cmos(0x0c) & 0xc0) == 0xc0;
	}
	assert_in_range(count, 1023, 1025);
}

static void memory_size(void **state)
{
	assert_int_equal(cmos(0x15) | cmos(0x16) << 8, 640);
	assert_int_equal(cmos(0x30) | cmos(0x31) << 8, 7 * 1024);
	set_cmos(0x40, 0x5a);
	assert_int_equal(cmos(0x40), 0x5a);
	assert_int_equal(cmos(0x0d), 0x80);
}

/* ---- HPET ---- */

static void hpet_capabilities(void **state)
{
	uint64_t value = load(machine, HPET, 8);

	assert_int_equal(value >> 32, 10000000); /* fs */
	assert_int_equal(value >> 8 & 31, 2);    /* three timers */
	assert_int_equal(load(machine, HPET + 4, 4), 10000000);
	assert_int_equal(load(machine, HPET + 0x100, 8) & 0x30, 0x30);
}

static void hpet_counts_while_enabled(void **state)
{
	pass(machine, SECOND);
	assert_int_equal(load(machine, HPET + 0xf0, 8), 0);
	store(machine, HPET + 0x10, 4, 1);
	pass(machine, SECOND);
	assert_int_equal(load(machine, HPET + 0xf0, 8), 100000000);
	store(machine, HPET + 0x10, 4, 0);
	pass(machine, SECOND);
	assert_int_equal(load(machine, HPET + 0xf0, 8), 100000000);
	store(machine, HPET + 0xf0, 8, UINT64_C(0x1ffffffff));
	assert_int_equal(load(machine, HPET + 0xf4, 4), 1);
	assert_int_equal(load(machine, HPET + 0xf0, 4), 0xffffffff);
}

static void route_pin(unsigned gsi, uint32_t entry)
{
	store(machine, 0xfec00000, 4, 0x10 + 2 * gsi);
	store(machine, 0xfec00010, 4, entry);
}

static void hpet_one_shot(void **state)
{
	route_pin(20, 0x44);
	store(machine, HPET + 0x10, 4, 1);
	store(machine, HPET + 0x148, 8, 1000); /* timer 2 */
	store(machine, HPET + 0x140, 4, 20 << 9 | 4);
	pass(machine, 9999);
	assert_int_equal(fake_vm.msi_count, 0);
	pass(machine, 2);
	assert_int_equal(fake_vm.msi_count, 1);
	pass(machine, SECOND);
	assert_int_equal(fake_vm.msi_count, 1);
}

static void hpet_32_bit_wraps(void **state)
{
	route_pin(20, 0x44);
	store(machine, HPET + 0xf0, 8, 0xfffffff0);
	store(machine, HPET + 0x140, 4, 20 << 9 | 4 | 0x100);
	store(machine, HPET + 0x148, 4, 0x10);
	store(machine, HPET + 0x10, 4, 1);
	pass(machine, 0x1f * 10);
	assert_int_equal(fake_vm.msi_count, 0);
	pass(machine, 20);
	assert_int_equal(fake_vm.msi_count, 1);
}

static void hpet_periodic(void **state)
{
	route_pin(20, 0x44);
	store(machine, HPET + 0x10, 4, 1);
	store(machine, HPET + 0x100, 4, 20 << 9 | 4 | 8 | 0x40);
	store(machine, HPET + 0x108, 8, 100000);
	store(machine, HPET + 0x108, 8, 100000); /* VAL_SET is clear: the period */
	pass(machine, SECOND / 5 + 1000);
	assert_int_equal(fake_vm.msi_count, 200);
}

/* Its interrupt is off: no timer runs, and yet all is as if one had. */
static void hpet_periodic_unseen(void **state)
{
	static const uint32_t wide[] = {0, 0x100};

	route_pin(20, 0x44);
	for (unsigned i = 0; i < 2; i++) {
		uint32_t config = 20 << 9 | 8 | wide[i];
		uint64_t periods;

		store(machine, HPET + 0x10, 4, 0);
		store(machine, HPET + 0xf0, 8, 0);
		store(machine, HPET + 0x100, 4, config | 0x40);
		store(machine, HPET + 0x108, 8, 300000);
		store(machine, HPET + 0x108, 8, 300000);
		store(machine, HPET + 0x10, 4, 1);
		assert_int_equal(machine_next_deadline(machine), TIMER_NEVER);
		pass(machine, 100 * SECOND); /* more than twice around 32 bits */
		periods = 100 * SECOND / 10 / 300000 + 1;
		assert_int_equal(load(machine, HPET + 0x108, 8),
		                 wide[i] ? (uint32_t)(periods * 300000) : periods * 300000);
		pass(machine, SECOND);
		fake_vm.msi_count = 0;
		store(machine, HPET + 0x100, 4, config | 4);
		pass(machine, 1999000); /* 101 s are 33,666 periods and two thirds */
		assert_int_equal(fake_vm.msi_count, 1);
		pass(machine, SECOND * 3 / 10);
		assert_int_equal(fake_vm.msi_count, 101);
		store(machine, HPET + 0x100, 4, config);
		assert_int_equal(machine_next_deadline(machine), TIMER_NEVER);
	}
}

static void hpet_level_status(void **state)
{
	route_pin(20, 0x8044);
	store(machine, HPET + 0x10, 4, 1);
	store(machine, HPET + 0x108, 8, 100);
	store(machine, HPET + 0x100, 4, 20 << 9 | 4 | 2);
	pass(machine, 2000);
	assert_int_equal(load(machine, HPET + 0x20, 4), 1);
	assert_true(machine->irq[20].asserted);
	store(machine, HPET + 0x20, 4, 1);
	assert_false(machine->irq[20].asserted);
}

static void hpet_legacy_replacement(void **state)
{
	init_pics(machine, 1, 1);
	out(machine, 0x43, 1, 0x34);
	out(machine, 0x40, 1, 0x00);
	out(machine, 0x40, 1, 0x10);
	store(machine, HPET + 0x10, 4, 3);
	while (acknowledge(machine) >= 0)
		out(machine, 0x20, 1, 0x20);
	pass(machine, SECOND); /* the PIT is cut off */
	assert_int_equal(acknowledge(machine), -1);
	store(machine, HPET + 0x108, 8, 100000100);
	store(machine, HPET + 0x100, 4, 4);
	pass(machine, 2000);
	assert_int_equal(acknowledge(machine), 0x20);
}

static void hpet_hostile_period_does_not_storm(void **state)
{
	unsigned runs = 0;

	route_pin(20, 0x44);
	store(machine, HPET + 0x10, 4, 1);
	store(machine, HPET + 0x100, 4, 20 << 9 | 4 | 8 | 0x40);
	store(machine, HPET + 0x108, 8, 1);
	for (uint64_t end = machine_now(machine) + 10000000; machine_next_deadline(machine) <= end; runs++)
		machine_run_timers(machine, machine_next_deadline(machine));
	assert_in_range(runs, 1, 600);
}

/* ---- ACPI ---- */

static void pm_timer(void **state)
{
	uint32_t start = in(machine, 0x608, 4);

	pass(machine, SECOND);
	assert_in_range(in(machine, 0x608, 4) - start, 3579544, 3579546);
}

static void pm_timer_status_at_overflow(void **state)
{
	out(machine, 0x600, 2, 0xffff);
	out(machine, 0x602, 2, 1);
	pass(machine, 590 * SECOND);
	assert_false(machine->irq[9].asserted);
	pass(machine, 20 * SECOND); /* bit 31 changes after 600 s */
	assert_true(machine->irq[9].asserted);
	assert_int_equal(in(machine, 0x600, 2) & 1, 1);
	out(machine, 0x600, 2, 1);
	assert_false(machine->irq[9].asserted);
}

static void s5_powers_off(void **state)
{
	assert_int_equal(in(machine, 0x604, 2) & 1, 1); /* SCI_EN */
	out(machine, 0x604, 2, 3 << 10 | 0x2000);
	assert_false(machine->stop_requested);
	out(machine, 0x604, 2, 5 << 10);
	assert_false(machine->stop_requested);
	out(machine, 0x604, 2, 5 << 10 | 0x2000);
	assert_true(machine->stop_requested);
	assert_int_equal(machine->exit_status, 0);
	assert_int_equal(fake_vm.kicks, 1);
}

static void debug_exit_status(void **state)
{
	out(machine, 0xf4, 1, 0x10);
	assert_true(machine->stop_requested);
	assert_int_equal(machine->exit_status, 0x21);
	out(machine, 0xf4, 1, 0x20);
	assert_int_equal(machine->exit_status, 0x21); /* the first counts */
}

static void resets(void **state)
{
	out(machine, 0xcf8, 4, 0x80000004); /* a PCI address, not a reset */
	assert_false(machine->stop_requested);
	assert_int_equal(in(machine, 0xcfc, 4) & 0xffff, 0x0004); /* bus master, as firmware leaves it */
	out(machine, 0xcf9, 1, 0x02);
	assert_int_equal(in(machine, 0xcf9, 1), 0x02);
	assert_false(machine->stop_requested);
	out(machine, 0xcf9, 1, 0x06);
	assert_true(machine->stop_requested);
}

static void keyboard_controller_reset(void **state)
{
	out(machine, 0x64, 1, 0xaa);
	assert_int_equal(in(machine, 0x64, 1) & 1, 1);
	assert_int_equal(in(machine, 0x60, 1), 0x55);
	assert_int_equal(in(machine, 0x64, 1) & 1, 0);
	out(machine, 0x64, 1, 0xfe);
	assert_true(machine->stop_requested);
}

static void empty_pci_bus(void **state)
{
	out(machine, 0xcf8, 4, 0x80000000);
	assert_int_equal(in(machine, 0xcf8, 4), 0x80000000);
	assert_int_equal(in(machine, 0xcfc, 4), 0x29c08086);
	assert_int_equal(in(machine, 0xcfe, 2), 0x29c0);
	for (unsigned slot = 1; slot < 31; slot++) {
		out(machine, 0xcf8, 4, 0x80000000 | slot << 11);
		assert_int_equal(in(machine, 0xcfc, 4), 0xffffffff);
	}
	out(machine, 0xcf8, 4, 0);
	assert_int_equal(in(machine, 0xcfc, 4), 0xffffffff);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    TEST(time_in_bcd),
	    TEST(twelve_hours_and_binary),
	    TEST(setting_the_time),
	    TEST(update_in_progress_before_the_second),
	    TEST(update_interrupt),
	    TEST(alarm_interrupt),
	    TEST(periodic_interrupt),
	    TEST(memory_size),
	    TEST(hpet_capabilities),
	    TEST(hpet_counts_while_enabled),
	    TEST(hpet_one_shot),
	    TEST(hpet_32_bit_wraps),
	    TEST(hpet_periodic),
	    TEST(hpet_periodic_unseen),
	    TEST(hpet_level_status),
	    TEST(hpet_legacy_replacement),
	    TEST(hpet_hostile_period_does_not_storm),
	    TEST(pm_timer),
	    TEST(pm_timer_status_at_overflow),
	    TEST(s5_powers_off),
	    TEST(debug_exit_status),
	    TEST(resets),
	    TEST(keyboard_controller_reset),
	    TEST(empty_pci_bus),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

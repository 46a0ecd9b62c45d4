/*
 * The 8254 and port 61h, rule by rule (Intel 8254 data sheet).
 * gcc -std=gnu17 -g -fsanitize=address,undefined -D_GNU_SOURCE -Isrc -o /tmp/test_pit \
 *   tests/unit/test_pit.c src/device/[a-z]*.c src/util/error.c -lcmocka -pthread \
 *   $(ls src/machine/[a-z]*.c | grep -v -e load -e engine_select) && /tmp/test_pit
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "device_fixture.h"

#define TICK_NS 839 /* one tick of 1.193182 MHz, rounded up */

static uint16_t latched(unsigned counter)
{
	uint8_t low;

	out(machine, 0x43, 1, counter << 6);
	low = (uint8_t)in(machine, 0x40 + counter, 1);
	return (uint16_t)(low | in(machine, 0x40 + counter, 1) << 8);
}

static void set_count(unsigned counter, uint16_t count)
{
	out(machine, 0x40 + counter, 1, count & 0xff);
	out(machine, 0x40 + counter, 1, count >> 8);
}

static bool out2(void)
{
	return in(machine, 0x61, 1) & 0x20;
}

/* IRQ 0's interrupts while ns pass. */
static unsigned interrupts_in(uint64_t ns)
{
	uint64_t end = machine_now(machine) + ns;
	unsigned count = 0;

	while (machine_next_deadline(machine) <= end) {
		machine_run_timers(machine, machine_next_deadline(machine));
		if (acknowledge(machine) == 0x20) {
			count++;
			out(machine, 0x20, 1, 0x20);
		}
	}
	machine_run_timers(machine, end);
	return count;
}

static void rate_generator_interrupts_100_times_a_second(void **state)
{
	init_pics(machine, 1, 1);
	out(machine, 0x43, 1, 0x34);
	set_count(0, 11932);
	acknowledge(machine);
	out(machine, 0x20, 1, 0x20);
	assert_in_range(interrupts_in(1000000000), 99, 101);
}

static void square_wave_18_times_a_second(void **state)
{
	init_pics(machine, 1, 1);
	out(machine, 0x43, 1, 0x36);
	set_count(0, 0);
	acknowledge(machine);
	out(machine, 0x20, 1, 0x20);
	assert_in_range(interrupts_in(1000000000), 18, 19);
}

static void mode_0_interrupts_once_at_terminal_count(void **state)
{
	init_pics(machine, 1, 1);
	out(machine, 0x43, 1, 0x30);
	set_count(0, 1000);
	assert_int_equal(interrupts_in(900 * TICK_NS), 0);
	assert_int_equal(interrupts_in(200 * TICK_NS), 1);
	assert_int_equal(interrupts_in(1000000000), 0);
}

static void mode_4_strobes_once(void **state)
{
	init_pics(machine, 1, 1);
	out(machine, 0x43, 1, 0x38);
	set_count(0, 1000);
	acknowledge(machine);
	out(machine, 0x20, 1, 0x20);
	assert_int_equal(interrupts_in(2000 * TICK_NS), 1);
	assert_int_equal(interrupts_in(1000000000), 0);
}

static void counter_2_terminal_count_through_port_61(void **state)
{
	out(machine, 0x61, 1, 0x01);
	out(machine, 0x43, 1, 0xb0);
	set_count(2, 1000);
	assert_false(out2());
	pass(machine, 900 * TICK_NS);
	assert_false(out2());
	pass(machine, 200 * TICK_NS);
	assert_true(out2());
}

static void gate_pauses_mode_0(void **state)
{
	out(machine, 0x61, 1, 0x01);
	out(machine, 0x43, 1, 0xb0);
	set_count(2, 1000);
	pass(machine, 500 * TICK_NS);
	out(machine, 0x61, 1, 0x00);
	uint16_t before = latched(2);

	pass(machine, 5000 * TICK_NS);
	assert_int_equal(latched(2), before);
	assert_false(out2());
	out(machine, 0x61, 1, 0x01);
	pass(machine, 600 * TICK_NS);
	assert_true(out2());
}

static void gate_triggers_one_shot(void **state)
{
	out(machine, 0x61, 1, 0x00);
	out(machine, 0x43, 1, 0xb2);
	set_count(2, 1000);
	assert_true(out2());
	pass(machine, 2000 * TICK_NS);
	assert_true(out2());
	out(machine, 0x61, 1, 0x01);
	pass(machine, 10 * TICK_NS);
	assert_false(out2());
	pass(machine, 1000 * TICK_NS);
	assert_true(out2());
}

static void count_decrements(void **state)
{
	out(machine, 0x43, 1, 0x30);
	set_count(0, 50000);
	pass(machine, 10000000); /* 11931 ticks */
	assert_in_range(latched(0), 50000 - 11935, 50000 - 11927);
}

static void latch_holds_until_read(void **state)
{
	uint8_t low, high;

	out(machine, 0x43, 1, 0x34);
	set_count(0, 50000);
	pass(machine, 1000000);
	out(machine, 0x43, 1, 0x00);
	pass(machine, 1000000);
	out(machine, 0x43, 1, 0x00); /* ignored */
	low = (uint8_t)in(machine, 0x40, 1);
	high = (uint8_t)in(machine, 0x40, 1);
	assert_in_range(low | high << 8, 50000 - 1196, 50000 - 1190);
	assert_in_range(latched(0), 50000 - 2390, 50000 - 2383);
}

static void bcd_counts_in_decimal(void **state)
{
	out(machine, 0x43, 1, 0x31);
	set_count(0, 0x5000);
	pass(machine, 1000 * TICK_NS + TICK_NS);
	assert_in_range(latched(0), 0x3997, 0x4003);
}

static void read_back_status(void **state)
{
	out(machine, 0x43, 1, 0x34);
	out(machine, 0x43, 1, 0xe2);                  /* status of counter 0 */
	assert_int_equal(in(machine, 0x40, 1), 0xf4); /* OUT high, no count yet, low/high, mode 2 */
	set_count(0, 1000);
	pass(machine, 10 * TICK_NS);
	out(machine, 0x43, 1, 0xe2);
	assert_int_equal(in(machine, 0x40, 1), 0xb4);
	out(machine, 0x43, 1, 0xc2); /* status and count: status comes first */
	assert_int_equal(in(machine, 0x40, 1), 0xb4);
	uint8_t low = (uint8_t)in(machine, 0x40, 1);

	assert_in_range(low | in(machine, 0x40, 1) << 8, 980, 995);
}

static void single_byte_access(void **state)
{
	out(machine, 0x43, 1, 0x20); /* high byte only, mode 0 */
	out(machine, 0x40, 1, 0x80);
	pass(machine, 300 * TICK_NS);
	assert_int_equal(in(machine, 0x40, 1), 0x7e);
	assert_int_equal(in(machine, 0x40, 1), 0x7e);
}

static void new_period_waits_for_the_old_one(void **state)
{
	init_pics(machine, 1, 1);
	out(machine, 0x43, 1, 0x34);
	set_count(0, 1000);
	pass(machine, 500 * TICK_NS);
	while (acknowledge(machine) >= 0)
		out(machine, 0x20, 1, 0x20);
	set_count(0, 50000);
	assert_int_equal(interrupts_in(600 * TICK_NS), 1);
	assert_int_equal(interrupts_in(40000 * TICK_NS), 0);
	assert_int_equal(interrupts_in(12000 * TICK_NS), 1);
}

static void shortest_period_does_not_storm(void **state)
{
	init_pics(machine, 1, 1);
	out(machine, 0x43, 1, 0x34);
	set_count(0, 1);
	assert_in_range(interrupts_in(10000000), 1, 1000);
}

static void refresh_toggles(void **state)
{
	uint32_t first = in(machine, 0x61, 1) & 0x10;

	pass(machine, 15100);
	assert_int_not_equal(in(machine, 0x61, 1) & 0x10, first);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    TEST(rate_generator_interrupts_100_times_a_second),
	    TEST(square_wave_18_times_a_second),
	    TEST(mode_0_interrupts_once_at_terminal_count),
	    TEST(mode_4_strobes_once),
	    TEST(counter_2_terminal_count_through_port_61),
	    TEST(gate_pauses_mode_0),
	    TEST(gate_triggers_one_shot),
	    TEST(count_decrements),
	    TEST(latch_holds_until_read),
	    TEST(bcd_counts_in_decimal),
	    TEST(read_back_status),
	    TEST(single_byte_access),
	    TEST(new_period_waits_for_the_old_one),
	    TEST(shortest_period_does_not_storm),
	    TEST(refresh_toggles),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

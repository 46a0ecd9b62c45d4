/*
 * Loops of PAUSE (bt/spin.c), with time, sleep and the other vCPUs replaced by recorders.
 *
 * gcc -D_GNU_SOURCE -Isrc tests/unit/test_spin.c src/engine/soft/bt/spin.c -lcmocka -o /tmp/test_spin
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "engine/cpu_model.h"
#include "engine/engine.h"
#include "engine/soft/bt/coherence.h"
#include "engine/soft/bt/wait.h"
#include "engine/soft/cpu/host_call.h"
#include "engine/soft/cpu/time.h"

#define US 1000u /* ticks: one a nanosecond */

static struct {
	uint64_t now;
	unsigned yields, sleeps, wakes;
	uint64_t slept_ns;
	bool asleep_for_others; /* while it slept */
	const struct cpu *woken;
} seen;

static bool counts_as_asleep;
static struct cpu *cpu[3];
static struct coherence coherence;

void fpu_stash(struct cpu *c)
{
}

uint64_t time_ticks(const struct cpu *c)
{
	return seen.now;
}

void cpu_host_yield(struct cpu *c)
{
	seen.yields++;
}

void coherence_sleep(struct cpu *c)
{
	counts_as_asleep = true;
}

void coherence_wake(struct cpu *c)
{
	counts_as_asleep = false;
}

void bt_wait_briefly(struct cpu *c, uint64_t ns)
{
	seen.sleeps++;
	seen.slept_ns = ns;
	seen.asleep_for_others = counts_as_asleep;
	seen.now += ns;
}

void bt_wake(struct cpu *c)
{
	seen.wakes++;
	seen.woken = c;
}

static int create(void **state)
{
	static struct cpu_model model;

	memset(&seen, 0, sizeof(seen));
	memset(&coherence, 0, sizeof(coherence));
	seen.now = 1000 * US;
	model.tsc_hz = 1000000000u;
	coherence.count = 3;
	for (unsigned i = 0; i < 3; i++) {
		cpu[i] = calloc(1, sizeof(*cpu[i]));
		cpu[i]->index = i;
		cpu[i]->model = &model;
		cpu[i]->coherence = &coherence;
		coherence.cpu[i] = cpu[i];
	}
	return 0;
}

static int destroy(void **state)
{
	for (unsigned i = 0; i < 3; i++)
		free(cpu[i]);
	return 0;
}

/* Looks 2 microseconds apart, for so long. */
static void spin_for(struct cpu *c, uint64_t ticks)
{
	for (uint64_t end = seen.now + ticks; seen.now < end; seen.now += 2 * US)
		bt_spin(c);
}

static void a_short_loop_only_yields(void **state)
{
	spin_for(cpu[1], 28 * US);
	assert_true(seen.yields >= 14);
	assert_int_equal(seen.sleeps, 0);
	assert_int_equal(coherence.spinning, 0);
}

static void a_long_loop_says_so_and_then_sleeps(void **state)
{
	spin_for(cpu[1], 34 * US);
	assert_int_equal(coherence.spinning, 2);
	assert_int_equal(seen.sleeps, 0);
	bt_spin(cpu[1]);
	assert_int_equal(seen.sleeps, 1);
	assert_true(seen.asleep_for_others);
	assert_false(counts_as_asleep);
	assert_int_equal(coherence.spinning, 0);
}

static void sleep_is_short_at_first_and_bounded(void **state)
{
	spin_for(cpu[1], 36 * US);
	assert_int_equal(seen.sleeps, 1);
	assert_true(seen.slept_ns >= 20 * US && seen.slept_ns <= 40 * US);
	spin_for(cpu[1], 100000 * US);
	assert_true(seen.slept_ns <= 300 * US);
	assert_true(seen.sleeps >= 300 && seen.sleeps <= 400);
}

static void pauses_far_apart_are_no_loop(void **state)
{
	for (unsigned i = 0; i < 1000; i++) {
		bt_spin(cpu[1]);
		seen.now += 20 * US;
	}
	assert_int_equal(seen.sleeps, 0);
	assert_int_equal(coherence.spinning, 0);
}

static void who_serves_an_interrupt_wakes_the_others(void **state)
{
	spin_for(cpu[1], 34 * US);
	cpu[2]->serves_interrupt = true;
	bt_interrupt_served(cpu[2]);
	assert_int_equal(seen.wakes, 1);
	assert_ptr_equal(seen.woken, cpu[1]);
	assert_int_equal(cpu[1]->kick, 1);
	assert_int_equal(coherence.spinning, 0);
	assert_false(cpu[2]->serves_interrupt);
	/* Answered between two looks: it says so again instead of sleeping. */
	bt_spin(cpu[1]);
	assert_int_equal(seen.sleeps, 0);
	assert_int_equal(coherence.spinning, 2);
}

static void nobody_wakes_himself(void **state)
{
	spin_for(cpu[1], 34 * US);
	bt_interrupt_served(cpu[1]);
	assert_int_equal(seen.wakes, 0);
	assert_int_equal(cpu[1]->kick, 0);
}

static void one_vcpu_alone_never_sleeps(void **state)
{
	coherence.count = 1;
	spin_for(cpu[0], 1000 * US);
	assert_int_equal(seen.sleeps, 0);
	assert_int_equal(seen.yields, 500);
}

static void sleep_can_be_switched_off(void **state)
{
	cpu[1]->tune_off = ENGINE_TUNE_SLEEP;
	spin_for(cpu[1], 1000 * US);
	assert_int_equal(seen.sleeps, 0);
	assert_int_equal(seen.yields, 500);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, create, destroy)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(a_short_loop_only_yields),
		TEST(a_long_loop_says_so_and_then_sleeps),
		TEST(sleep_is_short_at_first_and_bounded),
		TEST(pauses_far_apart_are_no_loop),
		TEST(who_serves_an_interrupt_wakes_the_others),
		TEST(nobody_wakes_himself),
		TEST(one_vcpu_alone_never_sleeps),
		TEST(sleep_can_be_switched_off),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

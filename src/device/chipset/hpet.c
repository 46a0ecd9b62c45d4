/*
 * The high precision event timer: a 100 MHz 64-bit counter and three comparators, each one-shot or periodic,
 * 32 or 64 bits wide, edge or level. Rules: IA-PC HPET Specification 1.0a ("Register Definitions", "Timer
 * Operation - Interrupts", "Comparator Match").
 */
#include <errno.h>
#include <stdlib.h>

#include "device/devices.h"
#include "machine/machine.h"
#include "util/error.h"

#define TIMERS      3
#define TICK_NS     (PLATFORM_HPET_PERIOD_FS / 1000000u)
#define SHORTEST_NS 20000u /* between two interrupts of a periodic timer */

#define REGISTER_CAPABILITY 0x000
#define REGISTER_CONFIG     0x010
#define REGISTER_STATUS     0x020
#define REGISTER_COUNTER    0x0f0
#define REGISTER_TIMERS     0x100

#define CONFIG_ENABLE UINT64_C(1)
#define CONFIG_LEGACY UINT64_C(2)

#define TIMER_LEVEL            (1u << 1)
#define TIMER_ENABLE           (1u << 2)
#define TIMER_PERIODIC         (1u << 3)
#define TIMER_PERIODIC_CAPABLE (1u << 4)
#define TIMER_64_CAPABLE       (1u << 5)
#define TIMER_SET_VALUE        (1u << 6)
#define TIMER_32               (1u << 8)
#define TIMER_ROUTE(c)         ((unsigned)(c) >> 9 & 31)
#define TIMER_WRITABLE                                                                                        \
	(TIMER_LEVEL | TIMER_ENABLE | TIMER_PERIODIC | TIMER_SET_VALUE | TIMER_32 | 31u << 9)

#define ROUTES UINT32_C(0x00f00000) /* IOAPIC inputs 20-23 */

struct hpet;

struct hpet_timer {
	struct hpet *hpet;
	unsigned number;
	uint32_t config; /* low half; the high half is ROUTES */
	uint64_t comparator, period;
	uint64_t match_ns; /* when the counter meets the comparator; TIMER_NEVER */
	struct machine_timer timer;
	struct irq_pin pin;
};

struct hpet {
	struct machine *machine;
	uint64_t config, status;
	uint64_t counter; /* while stopped, or its value at start_ns */
	uint64_t start_ns;
	struct hpet_timer timer[TIMERS];
};

static uint64_t counter_at(const struct hpet *hpet, uint64_t now)
{
	if (!(hpet->config & CONFIG_ENABLE))
		return hpet->counter;
	return hpet->counter + (now - hpet->start_ns) / TICK_NS;
}

static bool is_32bit(const struct hpet_timer *timer)
{
	return timer->config & TIMER_32;
}

/* Ticks until the counter meets the comparator; 0: now. */
static uint64_t ticks_to_match(const struct hpet_timer *timer, uint64_t counter)
{
	uint64_t ticks = timer->comparator - counter;

	return is_32bit(timer) ? (uint32_t)ticks : ticks;
}

/* Does a match cause an interrupt or set a status bit? */
static bool match_is_seen(const struct hpet_timer *timer)
{
	return timer->config & (TIMER_ENABLE | TIMER_LEVEL);
}

/*
 * Where nobody would see the match no timer runs: Linux leaves its periodic one so for good. catch_up does then what it would
 * have.
 */
static void arm(struct hpet_timer *timer)
{
	struct hpet *hpet = timer->hpet;
	uint64_t now = machine_now(hpet->machine);
	uint64_t ticks = ticks_to_match(timer, counter_at(hpet, now));
	uint64_t since = (now - hpet->start_ns) / TICK_NS;
	uint64_t deadline;

	/* A comparator that the 64-bit counter has passed is centuries away. */
	if (!(hpet->config & CONFIG_ENABLE) || ticks > UINT64_MAX / (4 * TICK_NS) - since)
		timer->match_ns = TIMER_NEVER;
	else
		timer->match_ns = hpet->start_ns + (since + ticks) * TICK_NS;
	deadline = timer->match_ns;
	if (timer->config & TIMER_PERIODIC && deadline < now + SHORTEST_NS)
		deadline = now + SHORTEST_NS;
	timer_arm(&timer->timer, match_is_seen(timer) ? deadline : TIMER_NEVER);
}

/* A periodic comparator that the counter has met moves on. Periods that passed unseen are one. */
static void move_on(struct hpet_timer *timer)
{
	uint64_t late = (machine_now(timer->hpet->machine) - timer->match_ns) / TICK_NS;

	timer->comparator += (late / timer->period + 1) * timer->period;
	if (is_32bit(timer))
		timer->comparator = (uint32_t)timer->comparator;
	arm(timer);
}

static void catch_up(struct hpet_timer *timer)
{
	if (timer->config & TIMER_PERIODIC && timer->period && !match_is_seen(timer) &&
	    machine_now(timer->hpet->machine) >= timer->match_ns)
		move_on(timer);
}

/* Before what decides when comparators are met changes. */
static void catch_up_all(struct hpet *hpet)
{
	for (unsigned i = 0; i < TIMERS; i++)
		catch_up(&hpet->timer[i]);
}

static void connect(struct hpet_timer *timer)
{
	struct machine *machine = timer->hpet->machine;
	unsigned route = TIMER_ROUTE(timer->config);
	struct irq_line *line = NULL;

	if (timer->hpet->config & CONFIG_LEGACY && timer->number < 2)
		line = &machine->irq[timer->number == 0 ? PLATFORM_IRQ_PIT : PLATFORM_IRQ_RTC];
	else if (ROUTES & 1u << route)
		line = &machine->irq[route];
	if (timer->pin.line != line)
		irq_pin_connect(&timer->pin, line);
}

static void expired(void *context)
{
	struct hpet_timer *timer = context;
	struct hpet *hpet = timer->hpet;

	if (timer->config & TIMER_LEVEL) {
		hpet->status |= 1u << timer->number;
		if (timer->config & TIMER_ENABLE)
			irq_pin_set(&timer->pin, true);
	} else if (timer->config & TIMER_ENABLE) {
		irq_pin_pulse(&timer->pin);
	}
	if (timer->config & TIMER_PERIODIC && timer->period)
		move_on(timer);
}

/* Bytes [shift/8, …) of `old` replaced by an access of `size` bytes. */
static uint64_t merge(uint64_t old, uint64_t value, unsigned shift, unsigned size)
{
	uint64_t mask = bus_ones(size) << shift;

	return (old & ~mask) | (value << shift & mask);
}

static void write_config(struct hpet *hpet, uint64_t value)
{
	uint64_t now = machine_now(hpet->machine);
	uint64_t changed = hpet->config ^ value;

	catch_up_all(hpet);
	if (changed & CONFIG_ENABLE) {
		if (value & CONFIG_ENABLE)
			hpet->start_ns = now;
		else
			hpet->counter = counter_at(hpet, now);
	}
	hpet->config = value & (CONFIG_ENABLE | CONFIG_LEGACY);
	if (changed & CONFIG_LEGACY) {
		irq_pin_cut(hpet->machine->pit_pin, value & CONFIG_LEGACY);
		irq_pin_cut(hpet->machine->rtc_pin, value & CONFIG_LEGACY);
	}
	for (unsigned i = 0; i < TIMERS; i++) {
		connect(&hpet->timer[i]);
		if (changed & CONFIG_ENABLE)
			arm(&hpet->timer[i]);
	}
}

static void write_timer_config(struct hpet_timer *timer, uint32_t value)
{
	uint32_t old = timer->config;

	catch_up(timer);
	timer->config = (value & TIMER_WRITABLE) | TIMER_PERIODIC_CAPABLE | TIMER_64_CAPABLE;
	if (is_32bit(timer)) {
		timer->comparator = (uint32_t)timer->comparator;
		timer->period = (uint32_t)timer->period;
	}
	if ((old ^ value) & (TIMER_LEVEL | TIMER_ENABLE)) {
		/* A level interrupt that is due shows as soon as it is enabled. */
		bool due = timer->hpet->status & 1u << timer->number;

		irq_pin_set(&timer->pin, due && timer->config & TIMER_LEVEL && timer->config & TIMER_ENABLE);
	}
	connect(timer);
	arm(timer);
}

/* "Timer N Comparator Value Register": in periodic mode a write sets the period, and with VAL_SET the
 * comparator. */
static void write_comparator(struct hpet_timer *timer, uint64_t value, unsigned shift, unsigned size)
{
	bool periodic = timer->config & TIMER_PERIODIC;

	catch_up(timer);
	if (!periodic || timer->config & TIMER_SET_VALUE)
		timer->comparator = merge(timer->comparator, value, shift, size);
	if (periodic)
		timer->period = merge(timer->period, value, shift, size);
	if (is_32bit(timer)) {
		timer->comparator = (uint32_t)timer->comparator;
		timer->period = (uint32_t)timer->period;
	}
	timer->config &= ~TIMER_SET_VALUE;
	arm(timer);
}

static uint64_t read_timer(struct hpet_timer *timer, unsigned reg)
{
	catch_up(timer);
	if (reg == 0)
		return timer->config | (uint64_t)ROUTES << 32;
	return reg == 8 ? timer->comparator : 0;
}

static uint64_t hpet_read(void *state, uint64_t offset, unsigned size)
{
	struct hpet *hpet = state;
	uint64_t aligned = offset & ~UINT64_C(7);
	unsigned shift = (unsigned)(offset & 7) * 8;
	unsigned number = (unsigned)(aligned - REGISTER_TIMERS) / 0x20;
	uint64_t value = 0;

	if (aligned == REGISTER_CAPABILITY)
		value = (uint64_t)PLATFORM_HPET_PERIOD_FS << 32 | PLATFORM_HPET_ID;
	else if (aligned == REGISTER_CONFIG)
		value = hpet->config;
	else if (aligned == REGISTER_STATUS)
		value = hpet->status;
	else if (aligned == REGISTER_COUNTER)
		value = counter_at(hpet, machine_now(hpet->machine));
	else if (aligned >= REGISTER_TIMERS && number < TIMERS)
		value = read_timer(&hpet->timer[number], aligned & 0x1f);
	return value >> shift;
}

static void write_status(struct hpet *hpet, uint64_t value)
{
	uint64_t cleared = hpet->status & value;

	hpet->status &= ~value;
	for (unsigned i = 0; i < TIMERS; i++)
		if (cleared & 1u << i)
			irq_pin_set(&hpet->timer[i].pin, false);
}

static void write_counter(struct hpet *hpet, uint64_t value, unsigned shift, unsigned size)
{
	uint64_t now = machine_now(hpet->machine);

	catch_up_all(hpet);
	hpet->counter = merge(counter_at(hpet, now), value, shift, size);
	hpet->start_ns = now;
	for (unsigned i = 0; i < TIMERS; i++)
		arm(&hpet->timer[i]);
}

static void hpet_write(void *state, uint64_t offset, unsigned size, uint64_t value)
{
	struct hpet *hpet = state;
	uint64_t aligned = offset & ~UINT64_C(7);
	unsigned shift = (unsigned)(offset & 7) * 8;
	unsigned number = (unsigned)(aligned - REGISTER_TIMERS) / 0x20;

	if (size < 4 || offset & (size - 1))
		return; /* "accesses must be 32 or 64 bits, aligned" */
	if (aligned == REGISTER_CONFIG)
		write_config(hpet, merge(hpet->config, value, shift, size));
	else if (aligned == REGISTER_STATUS)
		write_status(hpet, merge(0, value, shift, size));
	else if (aligned == REGISTER_COUNTER)
		write_counter(hpet, value, shift, size);
	else if (aligned >= REGISTER_TIMERS && number < TIMERS && (aligned & 0x1f) == 0 && shift == 0)
		write_timer_config(&hpet->timer[number], (uint32_t)value);
	else if (aligned >= REGISTER_TIMERS && number < TIMERS && (aligned & 0x1f) == 8)
		write_comparator(&hpet->timer[number], value, shift, size);
}

static void hpet_reset(void *state)
{
	struct hpet *hpet = state;

	write_config(hpet, 0);
	hpet->status = 0;
	hpet->counter = 0;
	for (unsigned i = 0; i < TIMERS; i++) {
		struct hpet_timer *timer = &hpet->timer[i];

		irq_pin_set(&timer->pin, false);
		timer_cancel(&timer->timer);
		timer->match_ns = TIMER_NEVER;
		timer->config = TIMER_PERIODIC_CAPABLE | TIMER_64_CAPABLE;
		timer->comparator = UINT64_MAX;
		timer->period = 0;
		connect(timer);
	}
}

static const struct bus_ops hpet_ops = {8, hpet_read, hpet_write};

int hpet_create(struct machine *machine)
{
	struct hpet *hpet = calloc(1, sizeof(*hpet));
	int error;

	if (!hpet)
		return error_set(ENOMEM, "out of memory");
	hpet->machine = machine;
	for (unsigned i = 0; i < TIMERS; i++) {
		hpet->timer[i].hpet = hpet;
		hpet->timer[i].number = i;
	}
	error = machine_add_device(machine, "hpet", hpet, hpet_reset, free);
	if (error) {
		free(hpet);
		return error;
	}
	for (unsigned i = 0; i < TIMERS && !error; i++)
		error = timer_init(&hpet->timer[i].timer, &machine->timers, expired, &hpet->timer[i]);
	if (!error)
		error = bus_add(&machine->mmio, PLATFORM_HPET_BASE, 1024, &hpet_ops, hpet, "hpet");
	return error;
}

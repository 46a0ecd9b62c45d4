/*
 * The 8254 interval timer and port 61h (speaker). A counter is a function of the machine's clock: we remember
 * at which tick of the 1.193182 MHz input its count was loaded, and derive count and output from the ticks
 * elapsed. Only counter 0's output goes anywhere (IRQ 0), so only its rising edges need a timer. Rules: Intel
 * 8254 data sheet ("Mode Definitions", "Counter Latch Command", "Read-Back Command", "Gate Pin Operations").
 */
#include <errno.h>
#include <stdlib.h>

#include "device/devices.h"
#include "machine/machine.h"
#include "util/error.h"

#define PIT_HZ 1193182u
#define NS     1000000000u
/* A guest may ask for an interrupt each 838 ns; it gets them as fast as it could take them. */
#define SHORTEST_NS 20000u
#define REFRESH_NS  15085u

#define SPEAKER_GATE2   0x01
#define SPEAKER_DATA    0x02
#define SPEAKER_REFRESH 0x10
#define SPEAKER_OUT2    0x20

enum access { ACCESS_LOW = 1, ACCESS_HIGH = 2, ACCESS_BOTH = 3 };

struct counter {
	uint8_t mode;   /* 0-5 */
	uint8_t access; /* enum access */
	bool bcd, gate;
	bool running;    /* a count was loaded and, in modes 1 and 5, triggered */
	bool have_count; /* a count was written since the control word */
	uint32_t count;  /* of the present run, 1 … 65536 (BCD: … 10000) */
	uint64_t start;  /* tick at which it was loaded */
	bool paused;     /* by the gate, `elapsed` ticks into the run */
	uint64_t elapsed;
	bool next_valid; /* modes 2 and 3: another count takes over at next_start */
	uint32_t next_count;
	uint64_t next_start;
	uint32_t written; /* modes 1 and 5: the count that the next trigger loads */
	uint8_t write_low;
	bool write_high, read_high; /* the next access is to the high byte */
	bool count_latched, status_latched, latch_high;
	uint16_t latch;
	uint8_t status;
};

struct pit {
	struct machine *machine;
	struct counter counter[3];
	struct machine_timer timer; /* counter 0's next rising edge */
	struct irq_pin pin;
	uint8_t speaker; /* port 61h, writable bits */
};

static uint64_t tick_at(uint64_t ns)
{
	return clock_scale(ns, PIT_HZ, NS);
}

static uint64_t ns_at(uint64_t tick)
{
	uint64_t ns = clock_scale(tick, NS, PIT_HZ);

	return ns == UINT64_MAX ? ns : ns + 1;
}

static uint64_t now_tick(struct pit *pit)
{
	return tick_at(machine_now(pit->machine));
}

static uint32_t modulus(const struct counter *counter)
{
	return counter->bcd ? 10000 : 65536;
}

static bool is_periodic(const struct counter *counter)
{
	return counter->mode == 2 || counter->mode == 3;
}

/* Takes over a count that waited for the end of the period. */
static void settle(struct counter *counter, uint64_t tick)
{
	if (!counter->next_valid || tick < counter->next_start)
		return;
	counter->start = counter->next_start;
	counter->count = counter->next_count;
	counter->next_valid = false;
}

static uint64_t elapsed(const struct counter *counter, uint64_t tick)
{
	if (counter->paused)
		return counter->elapsed;
	return tick > counter->start ? tick - counter->start : 0;
}

static uint16_t to_bcd(uint32_t value)
{
	return (uint16_t)(value % 10 | value / 10 % 10 << 4 | value / 100 % 10 << 8 |
	                  value / 1000 % 10 << 12);
}

static uint32_t from_bcd(uint32_t value)
{
	return (value & 15) + (value >> 4 & 15) * 10 + (value >> 8 & 15) * 100 + (value >> 12 & 15) * 1000;
}

/* The counting element's contents, as a program reads them. */
static uint16_t counting_element(const struct counter *counter, uint64_t tick)
{
	uint64_t e = elapsed(counter, tick);
	uint32_t count = counter->count, value;

	if (!counter->running || count == 0)
		value = counter->written;
	else if (counter->mode == 2)
		value = count - (uint32_t)(e % count);
	else if (counter->mode == 3)
		/* Decrements by two, so it passes twice per period. */
		value = count - (uint32_t)(2 * (e % count) % count) - (count & 1 && e % count ? 1 : 0);
	else
		value = (uint32_t)((count + modulus(counter) - e % modulus(counter)) % modulus(counter));
	value %= modulus(counter);
	return counter->bcd ? to_bcd(value) : (uint16_t)value;
}

static bool output(const struct counter *counter, uint64_t tick)
{
	uint64_t e = elapsed(counter, tick);
	uint32_t count = counter->count;

	if (!counter->running)
		return counter->mode != 0;
	switch (counter->mode) {
	case 0:
	case 1:
		return e >= count;
	case 2:
		return !counter->gate || e % count != count - 1;
	case 3:
		return !counter->gate || e % count < (count + 1) / 2;
	default:
		return e != count;
	}
}

/* The next tick after `tick` at which the output rises; UINT64_MAX: never. */
static uint64_t next_rise(const struct counter *counter, uint64_t tick)
{
	uint64_t e = elapsed(counter, tick);
	uint64_t rise;

	if (!counter->running || counter->paused)
		return UINT64_MAX;
	switch (counter->mode) {
	case 0:
	case 1:
		rise = counter->start + counter->count;
		return tick < rise ? rise : UINT64_MAX;
	case 2:
	case 3:
		return counter->start + (e / counter->count + 1) * counter->count;
	default:
		rise = counter->start + counter->count + 1;
		return tick < rise ? rise : UINT64_MAX;
	}
}

static void arm(struct pit *pit, uint64_t tick)
{
	uint64_t rise = next_rise(&pit->counter[0], tick);
	uint64_t soonest = machine_now(pit->machine) + SHORTEST_NS;
	uint64_t deadline = rise == UINT64_MAX ? TIMER_NEVER : ns_at(rise);

	timer_arm(&pit->timer, deadline < soonest && is_periodic(&pit->counter[0]) ? soonest : deadline);
}

static void pit_expired(void *context)
{
	struct pit *pit = context;
	uint64_t tick = now_tick(pit);

	settle(&pit->counter[0], tick);
	irq_pin_pulse(&pit->pin);
	arm(pit, tick);
}

/* After any change to counter 0. */
static void update_irq(struct pit *pit, uint64_t tick)
{
	irq_pin_set(&pit->pin, output(&pit->counter[0], tick));
	arm(pit, tick);
}

static void start(struct counter *counter, uint64_t tick)
{
	counter->count = counter->written ? counter->written : modulus(counter);
	counter->start = tick + 1; /* "the count is loaded on the next CLK pulse" */
	counter->running = true;
	counter->paused = false;
	counter->next_valid = false;
	if (!counter->gate && counter->mode != 1 && counter->mode != 5) {
		counter->paused = true;
		counter->elapsed = 0;
	}
}

static void load_count(struct counter *counter, uint16_t value, uint64_t tick)
{
	counter->written = counter->bcd ? from_bcd(value) : value;
	counter->have_count = true;
	if (counter->mode == 1 || counter->mode == 5)
		return;
	if (!is_periodic(counter) || !counter->running || counter->paused) {
		start(counter, tick);
		return;
	}
	/* "Writing a new count while counting does not affect the current counting sequence" */
	counter->next_count = counter->written ? counter->written : modulus(counter);
	counter->next_start = counter->start + (elapsed(counter, tick) / counter->count + 1) * counter->count;
	counter->next_valid = true;
}

static void set_gate(struct counter *counter, bool gate, uint64_t tick)
{
	bool rising = gate && !counter->gate;

	if (gate == counter->gate)
		return;
	if (counter->mode == 1 || counter->mode == 5) {
		counter->gate = gate;
		if (rising && counter->have_count)
			start(counter, tick);
		return;
	}
	if (!gate && counter->running && !counter->paused) {
		counter->elapsed = elapsed(counter, tick);
		counter->paused = true;
	}
	counter->gate = gate;
	if (!rising || !counter->running)
		return;
	if (is_periodic(counter)) {
		start(counter, tick);
	} else {
		counter->start = tick - counter->elapsed;
		counter->paused = false;
	}
}

static void latch_count(struct counter *counter, uint64_t tick)
{
	if (counter->count_latched)
		return; /* "the count is held until it is read" */
	counter->latch = counting_element(counter, tick);
	counter->count_latched = true;
	counter->latch_high = counter->access == ACCESS_HIGH;
}

static void latch_status(struct counter *counter, uint64_t tick)
{
	bool null_count = !counter->running || tick < counter->start || counter->next_valid;

	if (counter->status_latched)
		return;
	counter->status = (uint8_t)((output(counter, tick) ? 0x80 : 0) | (null_count ? 0x40 : 0) |
	                            counter->access << 4 | counter->mode << 1 | counter->bcd);
	counter->status_latched = true;
}

static void write_control(struct pit *pit, uint8_t value)
{
	unsigned select = value >> 6;
	uint64_t tick = now_tick(pit);

	if (select == 3) { /* read-back: bits 5 and 4 low ask for count and status */
		for (unsigned i = 0; i < 3; i++) {
			if (!(value & 2u << i))
				continue;
			settle(&pit->counter[i], tick);
			if (!(value & 0x20))
				latch_count(&pit->counter[i], tick);
			if (!(value & 0x10))
				latch_status(&pit->counter[i], tick);
		}
		return;
	}

	struct counter *counter = &pit->counter[select];

	settle(counter, tick);
	if ((value & 0x30) == 0) {
		latch_count(counter, tick);
		return;
	}
	*counter = (struct counter){
	    .mode = (value >> 1 & 7) > 5 ? (value >> 1 & 3) : (value >> 1 & 7), /* 6, 7 are 2, 3 */
	    .access = value >> 4 & 3,
	    .bcd = value & 1,
	    .gate = counter->gate,
	};
	if (select == 0)
		update_irq(pit, tick);
}

static void write_counter(struct pit *pit, unsigned select, uint8_t value)
{
	struct counter *counter = &pit->counter[select];
	uint64_t tick = now_tick(pit);

	settle(counter, tick);
	switch (counter->access) {
	case ACCESS_LOW:
		load_count(counter, value, tick);
		break;
	case ACCESS_HIGH:
		load_count(counter, (uint16_t)(value << 8), tick);
		break;
	case ACCESS_BOTH:
		if (!counter->write_high) {
			counter->write_low = value;
			counter->write_high = true;
			if (counter->mode == 0 && counter->running && !counter->paused) {
				/* "Writing the first byte disables counting" */
				counter->elapsed = elapsed(counter, tick);
				counter->paused = true;
			}
		} else {
			counter->write_high = false;
			load_count(counter, (uint16_t)(counter->write_low | value << 8), tick);
		}
		break;
	default: /* no control word yet */
		return;
	}
	if (select == 0)
		update_irq(pit, tick);
}

static uint8_t read_counter(struct pit *pit, unsigned select)
{
	struct counter *counter = &pit->counter[select];
	uint64_t tick = now_tick(pit);
	uint16_t value;
	bool high;

	settle(counter, tick);
	if (counter->status_latched) {
		counter->status_latched = false;
		return counter->status;
	}
	if (counter->count_latched) {
		high = counter->latch_high;
		value = counter->latch;
		if (counter->access == ACCESS_BOTH && !high)
			counter->latch_high = true;
		else
			counter->count_latched = false;
		return (uint8_t)(high ? value >> 8 : value);
	}
	value = counting_element(counter, tick);
	high = counter->access == ACCESS_HIGH || (counter->access == ACCESS_BOTH && counter->read_high);
	if (counter->access == ACCESS_BOTH)
		counter->read_high = !counter->read_high;
	return (uint8_t)(high ? value >> 8 : value);
}

static uint64_t pit_read(void *state, uint64_t offset, unsigned size)
{
	return offset == 3 ? 0xff : read_counter(state, (unsigned)offset);
}

static void pit_write(void *state, uint64_t offset, unsigned size, uint64_t value)
{
	if (offset == 3)
		write_control(state, (uint8_t)value);
	else
		write_counter(state, (unsigned)offset, (uint8_t)value);
}

static uint64_t speaker_read(void *state, uint64_t offset, unsigned size)
{
	struct pit *pit = state;
	uint64_t now = machine_now(pit->machine);
	struct counter *counter = &pit->counter[2];

	settle(counter, tick_at(now));
	return pit->speaker | (now / REFRESH_NS & 1 ? SPEAKER_REFRESH : 0) |
	       (output(counter, tick_at(now)) ? SPEAKER_OUT2 : 0);
}

static void speaker_write(void *state, uint64_t offset, unsigned size, uint64_t value)
{
	struct pit *pit = state;
	struct counter *counter = &pit->counter[2];
	uint64_t tick = now_tick(pit);

	settle(counter, tick);
	pit->speaker = value & 0x0f;
	set_gate(counter, value & SPEAKER_GATE2, tick);
}

static void pit_reset(void *state)
{
	struct pit *pit = state;

	pit->speaker = 0;
	for (unsigned i = 0; i < 3; i++)
		pit->counter[i] = (struct counter){.access = ACCESS_BOTH, .mode = 3, .gate = i != 2};
	timer_cancel(&pit->timer);
	irq_pin_set(&pit->pin, false);
}

static const struct bus_ops pit_ops = {1, pit_read, pit_write};
static const struct bus_ops speaker_ops = {1, speaker_read, speaker_write};

int pit_create(struct machine *machine)
{
	struct pit *pit = calloc(1, sizeof(*pit));
	int error;

	if (!pit)
		return error_set(ENOMEM, "out of memory");
	pit->machine = machine;
	error = machine_add_device(machine, "pit", pit, pit_reset, free);
	if (error) {
		free(pit);
		return error;
	}
	machine->pit_pin = &pit->pin;
	irq_pin_connect(&pit->pin, &machine->irq[PLATFORM_IRQ_PIT]);
	error = timer_init(&pit->timer, &machine->timers, pit_expired, pit);
	if (!error)
		error = bus_add(&machine->pio, PLATFORM_PIT, 4, &pit_ops, pit, "pit");
	if (!error)
		error = bus_add(&machine->pio, PLATFORM_SPEAKER, 1, &speaker_ops, pit, "speaker");
	return error;
}

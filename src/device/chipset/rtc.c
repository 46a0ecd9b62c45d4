/*
 * The MC146818 real-time clock with 128 bytes of CMOS memory. The time of day is an offset to the machine's
 * clock; registers are computed when read, and timers exist only for interrupts that are enabled. Rules:
 * Motorola MC146818 data sheet ("Update Cycle", "Periodic Interrupt Selection", "Alarm Bytes").
 */
#include "device/chipset/rtc.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "device/chipset/acpi_pm.h"
#include "device/devices.h"
#include "machine/machine.h"
#include "util/error.h"

#define NS UINT64_C(1000000000)

enum {
	SECONDS = 0x00,
	SECONDS_ALARM,
	MINUTES,
	MINUTES_ALARM,
	HOURS,
	HOURS_ALARM,
	WEEKDAY,
	DAY,
	MONTH,
	YEAR,
	REGISTER_A,
	REGISTER_B,
	REGISTER_C,
	REGISTER_D,
};

#define A_UIP    0x80
#define B_SET    0x80
#define B_PIE    0x40
#define B_AIE    0x20
#define B_UIE    0x10
#define B_BINARY 0x04
#define B_24H    0x02
#define C_IRQF   0x80
#define C_PF     0x40
#define C_AF     0x20
#define C_UF     0x10
#define D_VALID  0x80

#define UPDATE_IN_PROGRESS_NS (UINT64_C(244000))  /* UIP rises this long before an update */
#define DETERMINISTIC_START   INT64_C(1767225600) /* 2026-01-01 00:00:00 UTC */

struct rtc {
	struct machine *machine;
	uint8_t index;
	uint8_t cmos[128];
	int64_t base; /* time of day, seconds since 1970, at machine-clock time base_ns */
	uint64_t base_ns;
	uint64_t flags_ns; /* up to when alarm and update events are accounted for */
	struct machine_timer periodic, update;
	struct irq_pin pin;
};

/* The time of day in whole seconds; stopped while B_SET. */
static int64_t time_of_day(const struct rtc *rtc, uint64_t now)
{
	if (rtc->cmos[REGISTER_B] & B_SET)
		return rtc->base;
	return rtc->base + (int64_t)((now - rtc->base_ns) / NS);
}

static uint8_t encode(const struct rtc *rtc, int value)
{
	if (rtc->cmos[REGISTER_B] & B_BINARY)
		return (uint8_t)value;
	return (uint8_t)(value / 10 % 10 << 4 | value % 10);
}

static int decode(const struct rtc *rtc, uint8_t value)
{
	if (rtc->cmos[REGISTER_B] & B_BINARY)
		return value;
	return (value >> 4) * 10 + (value & 15);
}

static uint8_t encode_hour(const struct rtc *rtc, int hour)
{
	if (rtc->cmos[REGISTER_B] & B_24H)
		return encode(rtc, hour);
	return (uint8_t)(encode(rtc, hour % 12 ? hour % 12 : 12) | (hour >= 12 ? 0x80 : 0));
}

static int decode_hour(const struct rtc *rtc, uint8_t value)
{
	int hour;

	if (rtc->cmos[REGISTER_B] & B_24H)
		return decode(rtc, value);
	hour = decode(rtc, value & 0x7f) % 12;
	return value & 0x80 ? hour + 12 : hour;
}

/* Writes the time into the ten clock bytes. */
static void store_time(struct rtc *rtc, int64_t time)
{
	time_t seconds = (time_t)time;
	struct tm tm;
	int year;

	if (!gmtime_r(&seconds, &tm))
		return;
	year = (tm.tm_year % 10000 + 11900) % 10000; /* hostile bytes can lead before the year 0 */
	rtc->cmos[SECONDS] = encode(rtc, tm.tm_sec);
	rtc->cmos[MINUTES] = encode(rtc, tm.tm_min);
	rtc->cmos[HOURS] = encode_hour(rtc, tm.tm_hour);
	rtc->cmos[WEEKDAY] = encode(rtc, tm.tm_wday + 1);
	rtc->cmos[DAY] = encode(rtc, tm.tm_mday);
	rtc->cmos[MONTH] = encode(rtc, tm.tm_mon + 1);
	rtc->cmos[YEAR] = encode(rtc, year % 100);
	/* The century byte is BCD on PCs whatever the mode. */
	rtc->cmos[PLATFORM_RTC_CENTURY] = (uint8_t)(year / 1000 << 4 | year / 100 % 10);
}

/* The guest changed a clock byte: the bytes are the time now. */
static void load_time(struct rtc *rtc, uint64_t now)
{
	const uint8_t *cmos = rtc->cmos;
	uint8_t century = cmos[PLATFORM_RTC_CENTURY];
	struct tm tm = {
	    .tm_sec = decode(rtc, cmos[SECONDS]),
	    .tm_min = decode(rtc, cmos[MINUTES]),
	    .tm_hour = decode_hour(rtc, cmos[HOURS]),
	    .tm_mday = decode(rtc, cmos[DAY]),
	    .tm_mon = decode(rtc, cmos[MONTH]) - 1,
	    .tm_year = ((century >> 4) * 10 + (century & 15)) * 100 + decode(rtc, cmos[YEAR]) - 1900,
	};
	time_t time = timegm(&tm);

	rtc->base = (int64_t)time;
	/* Keep the second's phase, except where the divider was stopped by B_SET. */
	if (!(cmos[REGISTER_B] & B_SET))
		rtc->base_ns = now - (now - rtc->base_ns) % NS;
}

/* Does the alarm match this time? C0h-FFh in an alarm byte is "don't care". */
static bool alarm_matches(const struct rtc *rtc, int64_t time)
{
	const uint8_t *cmos = rtc->cmos;
	int64_t day_second = ((time % 86400) + 86400) % 86400;

	if (cmos[SECONDS_ALARM] < 0xc0 && decode(rtc, cmos[SECONDS_ALARM]) != day_second % 60)
		return false;
	if (cmos[MINUTES_ALARM] < 0xc0 && decode(rtc, cmos[MINUTES_ALARM]) != day_second / 60 % 60)
		return false;
	return cmos[HOURS_ALARM] >= 0xc0 || decode_hour(rtc, cmos[HOURS_ALARM]) == day_second / 3600;
}

static void update_irq(struct rtc *rtc)
{
	uint8_t *c = &rtc->cmos[REGISTER_C];

	/* PF, AF and UF have the places of PIE, AIE and UIE. */
	if (*c & rtc->cmos[REGISTER_B] & (C_PF | C_AF | C_UF))
		*c |= C_IRQF;
	else
		*c &= (uint8_t)~C_IRQF;
	irq_pin_set(&rtc->pin, *c & C_IRQF);
}

/* Sets UF and AF for the updates since the last look. At most one day is searched for the alarm. */
static void account_updates(struct rtc *rtc, uint64_t now)
{
	uint64_t first, last;

	if (rtc->cmos[REGISTER_B] & B_SET || now <= rtc->flags_ns) {
		rtc->flags_ns = now;
		return;
	}
	first = rtc->flags_ns > rtc->base_ns ? (rtc->flags_ns - rtc->base_ns) / NS : 0;
	last = (now - rtc->base_ns) / NS;
	rtc->flags_ns = now;
	if (last == first)
		return;
	rtc->cmos[REGISTER_C] |= C_UF;
	if (last - first > 86400)
		first = last - 86400;
	for (uint64_t second = first + 1; second <= last; second++) {
		if (alarm_matches(rtc, rtc->base + (int64_t)second)) {
			rtc->cmos[REGISTER_C] |= C_AF;
			if (rtc->cmos[REGISTER_B] & B_AIE && rtc->machine->acpi_pm)
				acpi_pm_rtc_alarm(rtc->machine->acpi_pm);
			break;
		}
	}
}

/* Arms the update timer for the next second where an interrupt could come of it. */
static void arm_update(struct rtc *rtc, uint64_t now)
{
	uint8_t b = rtc->cmos[REGISTER_B];

	if ((b & B_SET) || !(b & (B_AIE | B_UIE)))
		timer_cancel(&rtc->update);
	else
		timer_arm(&rtc->update, rtc->base_ns + ((now - rtc->base_ns) / NS + 1) * NS);
}

static void update_expired(void *context)
{
	struct rtc *rtc = context;
	uint64_t now = machine_now(rtc->machine);

	account_updates(rtc, now);
	update_irq(rtc);
	arm_update(rtc, now);
}

/* "Periodic Interrupt Rate": rates 1 and 2 are those of 8 and 9 with a 32.768 kHz time base. 0: none. */
static uint64_t periodic_ticks(const struct rtc *rtc)
{
	unsigned rate = rtc->cmos[REGISTER_A] & 15;

	if (rate == 0 || (rtc->cmos[REGISTER_A] & 0x70) > 0x20)
		return 0;
	return UINT64_C(1) << ((rate <= 2 ? rate + 7 : rate) - 1);
}

static void arm_periodic(struct rtc *rtc, uint64_t now)
{
	uint64_t ticks = periodic_ticks(rtc);

	if (!ticks || !(rtc->cmos[REGISTER_B] & B_PIE)) {
		timer_cancel(&rtc->periodic);
		return;
	}

	uint64_t tick = clock_scale(now, 32768, NS);

	timer_arm(&rtc->periodic, clock_scale((tick / ticks + 1) * ticks, NS, 32768) + 1);
}

static void periodic_expired(void *context)
{
	struct rtc *rtc = context;

	rtc->cmos[REGISTER_C] |= C_PF;
	update_irq(rtc);
	arm_periodic(rtc, machine_now(rtc->machine));
}

static bool update_in_progress(const struct rtc *rtc, uint64_t now)
{
	return !(rtc->cmos[REGISTER_B] & B_SET) && NS - (now - rtc->base_ns) % NS <= UPDATE_IN_PROGRESS_NS;
}

static uint8_t read_register(struct rtc *rtc, unsigned index)
{
	uint64_t now = machine_now(rtc->machine);
	uint8_t value;

	switch (index) {
	case SECONDS:
	case MINUTES:
	case HOURS:
	case WEEKDAY:
	case DAY:
	case MONTH:
	case YEAR:
	case PLATFORM_RTC_CENTURY:
		if (!(rtc->cmos[REGISTER_B] & B_SET))
			store_time(rtc, time_of_day(rtc, now));
		return rtc->cmos[index];
	case REGISTER_A:
		return (uint8_t)((rtc->cmos[REGISTER_A] & ~A_UIP) |
		                 (update_in_progress(rtc, now) ? A_UIP : 0));
	case REGISTER_C: /* reading clears all flags */
		account_updates(rtc, now);
		update_irq(rtc);
		value = rtc->cmos[REGISTER_C];
		rtc->cmos[REGISTER_C] = 0;
		update_irq(rtc);
		return value;
	case REGISTER_D:
		return D_VALID;
	default:
		return rtc->cmos[index];
	}
}

static void write_b(struct rtc *rtc, uint8_t value, uint64_t now)
{
	uint8_t old = rtc->cmos[REGISTER_B];

	account_updates(rtc, now);
	if (!(old & B_SET)) {
		store_time(rtc, time_of_day(rtc, now));
		if (value & B_SET) { /* the clock stops */
			rtc->base = time_of_day(rtc, now);
			value &= (uint8_t)~B_UIE; /* "SET clears UIE" */
		}
	}
	/* The bytes keep their values over a change of format: the guest must write them anew. */
	rtc->cmos[REGISTER_B] = value;
	if (old & B_SET && !(value & B_SET)) {
		rtc->base_ns = now;
		rtc->flags_ns = now;
		load_time(rtc, now);
	}
	update_irq(rtc);
	arm_update(rtc, now);
	arm_periodic(rtc, now);
}

static void write_register(struct rtc *rtc, unsigned index, uint8_t value)
{
	uint64_t now = machine_now(rtc->machine);

	switch (index) {
	case SECONDS:
	case MINUTES:
	case HOURS:
	case WEEKDAY:
	case DAY:
	case MONTH:
	case YEAR:
	case PLATFORM_RTC_CENTURY:
		account_updates(rtc, now);
		if (!(rtc->cmos[REGISTER_B] & B_SET))
			store_time(rtc, time_of_day(rtc, now));
		rtc->cmos[index] = value;
		load_time(rtc, now);
		arm_update(rtc, now);
		break;
	case REGISTER_A:
		rtc->cmos[REGISTER_A] = value & 0x7f;
		arm_periodic(rtc, now);
		break;
	case REGISTER_B:
		write_b(rtc, value, now);
		break;
	case REGISTER_C:
	case REGISTER_D:
		break; /* read-only */
	default:
		rtc->cmos[index] = value;
		break;
	}
}

/* Port 70h is write-only on a PC, but reads of the index are common enough to answer. Bit 7 gates NMI. */
static uint64_t rtc_read(void *state, uint64_t offset, unsigned size)
{
	struct rtc *rtc = state;

	return offset == 0 ? rtc->index : read_register(rtc, rtc->index & 0x7f);
}

static void rtc_write(void *state, uint64_t offset, unsigned size, uint64_t value)
{
	struct rtc *rtc = state;

	if (offset == 0)
		rtc->index = (uint8_t)value;
	else
		write_register(rtc, rtc->index & 0x7f, (uint8_t)value);
}

void rtc_set_cmos(struct rtc *rtc, unsigned index, uint8_t value)
{
	if (index > REGISTER_D && index < sizeof(rtc->cmos))
		rtc->cmos[index] = value;
}

static void set_cmos16(struct rtc *rtc, unsigned low, unsigned high, uint64_t value)
{
	rtc->cmos[low] = (uint8_t)value;
	rtc->cmos[high] = (uint8_t)(value >> 8);
}

/* The places where a PC's firmware keeps memory sizes and equipment. */
static void fill_cmos(struct rtc *rtc)
{
	uint64_t size = rtc->machine->config.memory_size;
	uint64_t low = size < PLATFORM_LOW_RAM_END ? size : PLATFORM_LOW_RAM_END;
	uint64_t extended = (low - (1u << 20)) >> 10;                           /* KiB above 1 MiB */
	uint64_t above_16m = low > (16u << 20) ? (low - (16u << 20)) >> 16 : 0; /* 64 KiB units */
	uint64_t high = (size - low) >> 16;

	rtc->cmos[0x14] = 0x06; /* equipment: FPU, pointing device */
	set_cmos16(rtc, 0x15, 0x16, 640);
	set_cmos16(rtc, 0x17, 0x18, extended > 0xffff ? 0xffff : extended);
	set_cmos16(rtc, 0x30, 0x31, extended > 0xffff ? 0xffff : extended);
	set_cmos16(rtc, 0x34, 0x35, above_16m > 0xffff ? 0xffff : above_16m);
	set_cmos16(rtc, 0x5b, 0x5c, high);
	rtc->cmos[0x5d] = (uint8_t)(high >> 16);
	/* The BIOS's boot order: hard disk, CD, network; every floppy counts as bootable (bit 0). */
	rtc->cmos[0x3d] = 0x32;
	rtc->cmos[0x38] = 0x41;
	rtc->cmos[0x5f] = (uint8_t)(rtc->machine->config.cpu_count - 1);
}

/* CMOS memory and the time survive a reset; interrupts do not, except the alarm that wakes from suspend to RAM. */
static void rtc_reset(void *state)
{
	struct rtc *rtc = state;

	rtc->index = 0;
	rtc->cmos[REGISTER_B] &= (uint8_t)~(B_PIE | B_UIE | (rtc->machine->sleeping ? 0 : B_AIE));
	rtc->cmos[REGISTER_C] = 0;
	timer_cancel(&rtc->periodic);
	arm_update(rtc, machine_now(rtc->machine));
	update_irq(rtc);
}

static const struct bus_ops rtc_ops = {1, rtc_read, rtc_write};

int rtc_create(struct machine *machine)
{
	struct rtc *rtc = calloc(1, sizeof(*rtc));
	int error;

	if (!rtc)
		return error_set(ENOMEM, "out of memory");
	rtc->machine = machine;
	error = machine_add_device(machine, "rtc", rtc, rtc_reset, free);
	if (error) {
		free(rtc);
		return error;
	}
	if (machine->config.rtc_start != INT64_MIN)
		rtc->base = machine->config.rtc_start;
	else
		rtc->base =
		    machine->clock.kind == ENGINE_CLOCK_REAL ? (int64_t)time(NULL) : DETERMINISTIC_START;
	rtc->base_ns = rtc->flags_ns = machine_now(machine);
	rtc->cmos[REGISTER_A] = 0x26; /* 32.768 kHz, 1024 Hz */
	rtc->cmos[REGISTER_B] = B_24H;
	store_time(rtc, rtc->base);
	fill_cmos(rtc);
	machine->rtc = rtc;
	machine->rtc_pin = &rtc->pin;
	irq_pin_connect(&rtc->pin, &machine->irq[PLATFORM_IRQ_RTC]);
	error = timer_init(&rtc->periodic, &machine->timers, periodic_expired, rtc);
	if (!error)
		error = timer_init(&rtc->update, &machine->timers, update_expired, rtc);
	if (!error)
		error = bus_add(&machine->pio, PLATFORM_RTC, 2, &rtc_ops, rtc, "rtc");
	return error;
}

/*
 * ACPI fixed hardware: PM1a event and control blocks, the power management timer and an empty GPE block, laid out
 * as in an ICH9 ("Power Management I/O Registers"), whose LPC bridge says where (ich9_lpc.c). ACPI mode is always
 * on. Rules: ACPI Specification, "PM1 Event Grouping", "PM1 Control Registers", "Power Management Timer", "Waking and
 * Sleeping". The power button is a fixed-feature one; sleep states are S3 and S5. From S3 the power button and the RTC's
 * alarm wake, where they are enabled.
 */
#include <errno.h>
#include <stdlib.h>

#include "device/chipset/acpi_pm.h"
#include "device/devices.h"
#include "machine/machine.h"
#include "util/error.h"

#define PM_TIMER_HZ 3579545u
#define NS          1000000000u

#define STATUS_TIMER    0x0001
#define STATUS_POWER_BUTTON 0x0100
#define STATUS_RTC      0x0400
#define STATUS_WAKE     0x8000
#define STATUS_BITS     0xcf31 /* those that exist: TMR, BM, GBL, PWRBTN, SLPBTN, RTC, PCIEXP_WAKE, WAK */
#define ENABLE_BITS     0x4721
#define CONTROL_SCI_EN  0x0001
#define CONTROL_SLP_EN  0x2000
#define CONTROL_TYPE(v) ((unsigned)(v) >> 10 & 7)
#define CONTROL_BITS    0x1c03 /* SLP_TYP, BM_RLD, SCI_EN */

#define OFFSET_TIMER   (PLATFORM_PM_TIMER - PLATFORM_PM_BASE)
#define OFFSET_SMI_EN  0x30
#define SMI_EN_APMC    0x20 /* reads as set: firmware takes SMM as set up already, and leaves it alone */

struct acpi_pm {
	struct machine *machine;
	uint16_t base; /* 0: not decoded */
	uint16_t status, enable, control;
	bool sleep;         /* the machine is about to be reset for S3 */
	uint64_t half_seen; /* number of changes of the timer's bit 31 accounted for in TMR_STS */
	struct machine_timer overflow;
	struct irq_pin sci;
};

static uint64_t pm_ticks(struct acpi_pm *pm)
{
	return clock_scale(machine_now(pm->machine), PM_TIMER_HZ, NS);
}

/* "TMR_STS is set any time the most significant bit of the counter changes" */
static void account_timer(struct acpi_pm *pm)
{
	uint64_t half = pm_ticks(pm) >> 31;

	if (half != pm->half_seen)
		pm->status |= STATUS_TIMER;
	pm->half_seen = half;
}

static void update(struct acpi_pm *pm)
{
	account_timer(pm);
	if (pm->machine->sleeping || pm->sleep) {
		if (pm->status & pm->enable & (STATUS_POWER_BUTTON | STATUS_RTC))
			machine_wakeup(pm->machine);
		return;
	}
	irq_pin_set(&pm->sci, pm->status & pm->enable);
	if (pm->enable & STATUS_TIMER)
		timer_arm(&pm->overflow, clock_scale((pm->half_seen + 1) << 31, NS, PM_TIMER_HZ) + 1);
	else
		timer_cancel(&pm->overflow);
}

static void overflow_expired(void *context)
{
	update(context);
}

static void write_control(struct acpi_pm *pm, uint16_t value)
{
	pm->control = (value & CONTROL_BITS) | CONTROL_SCI_EN;
	if (value & CONTROL_SLP_EN &&
	    (CONTROL_TYPE(value) == PLATFORM_S5_TYPE || CONTROL_TYPE(value) == PLATFORM_S5_TYPE_FIRMWARE))
		machine_power_off(pm->machine);
	if (value & CONTROL_SLP_EN && CONTROL_TYPE(value) == PLATFORM_S3_TYPE) {
		pm->sleep = true;
		machine_suspend(pm->machine);
	}
}

/* Registers as an array of bytes would be seen: the block is read and written in any width. */
static uint64_t pm_read(void *state, uint64_t offset, unsigned size)
{
	struct acpi_pm *pm = state;
	uint64_t block;

	account_timer(pm);
	if (offset >= OFFSET_TIMER) {
		block = offset < OFFSET_TIMER + 4                                 ? (uint32_t)pm_ticks(pm)
		        : offset >= OFFSET_SMI_EN && offset < OFFSET_SMI_EN + 4 ? SMI_EN_APMC
		                                                                 : 0;
		return block >> (8 * (offset & 3));
	}
	block = pm->status | (uint64_t)pm->enable << 16 | (uint64_t)pm->control << 32;
	return block >> (8 * offset);
}

static uint16_t merge(uint16_t old, uint8_t byte, bool high)
{
	return high ? (uint16_t)((old & 0xff) | byte << 8) : (uint16_t)((old & 0xff00) | byte);
}

static void pm_write(void *state, uint64_t offset, unsigned size, uint64_t value)
{
	struct acpi_pm *pm = state;
	uint16_t control = pm->control;
	bool control_written = false;

	account_timer(pm);
	for (unsigned i = 0; i < size; i++) {
		uint8_t byte = (uint8_t)(value >> (8 * i));
		bool high = (offset + i) & 1;

		switch ((offset + i) / 2) {
		case 0: /* write one to clear */
			pm->status &= (uint16_t)~merge(0, byte, high);
			break;
		case 1:
			pm->enable = merge(pm->enable, byte, high) & ENABLE_BITS;
			break;
		case 2:
			control = merge(control, byte, high);
			control_written = true;
			break;
		default:
			break;
		}
	}
	pm->status &= STATUS_BITS;
	if (control_written)
		write_control(pm, control);
	update(pm);
}

static void pm_reset(void *state)
{
	struct acpi_pm *pm = state;

	pm->sleep = false;
	if (pm->machine->sleeping) {
		irq_pin_set(&pm->sci, false);
		timer_cancel(&pm->overflow);
		update(pm); /* what has happened meanwhile */
		return;
	}
	pm->status = 0;
	pm->enable = 0;
	pm->control = CONTROL_SCI_EN;
	pm->half_seen = pm_ticks(pm) >> 31;
	update(pm);
}

/* ACPI, "Fixed Power Buttons": pressing sets PWRBTN_STS, and PWRBTN_EN makes it an SCI. */
void acpi_pm_power_button(struct acpi_pm *pm)
{
	pm->status |= STATUS_POWER_BUTTON;
	update(pm);
}

void acpi_pm_rtc_alarm(struct acpi_pm *pm)
{
	pm->status |= STATUS_RTC;
	update(pm);
}

/* "WAK_STS": set by any event that wakes. Enables are as after power-up: whoever wakes sets its own. */
void acpi_pm_wake(struct acpi_pm *pm)
{
	pm->machine->sleeping = false;
	pm->status = (uint16_t)((pm->status & (STATUS_POWER_BUTTON | STATUS_RTC)) | STATUS_WAKE);
	pm->enable = 0;
	pm->control = CONTROL_SCI_EN;
	pm->half_seen = pm_ticks(pm) >> 31;
	update(pm);
}

static const struct bus_ops pm_ops = {4, pm_read, pm_write};

bool acpi_pm_place(struct acpi_pm *pm, uint16_t base)
{
	uint16_t old = pm->base;

	if (base == old)
		return false;
	if (old)
		bus_remove(&pm->machine->pio, old);
	pm->base = base;
	if (base && bus_add(&pm->machine->pio, base, PLATFORM_PM_LENGTH, &pm_ops, pm, "acpi-pm"))
		pm->base = 0;
	return old;
}

int acpi_pm_create(struct machine *machine)
{
	struct acpi_pm *pm = calloc(1, sizeof(*pm));
	int error;

	if (!pm)
		return error_set(ENOMEM, "out of memory");
	pm->machine = machine;
	error = machine_add_device(machine, "acpi-pm", pm, pm_reset, free);
	if (error) {
		free(pm);
		return error;
	}
	machine->acpi_pm = pm;
	irq_pin_connect(&pm->sci, &machine->irq[PLATFORM_IRQ_SCI]);
	return timer_init(&pm->overflow, &machine->timers, overflow_expired, pm);
}

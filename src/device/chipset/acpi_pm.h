/* What others do to the ACPI fixed hardware. */
#ifndef NESTOR_DEVICE_ACPI_PM_H
#define NESTOR_DEVICE_ACPI_PM_H

#include <stdbool.h>
#include <stdint.h>

struct acpi_pm;

/*
 * The block of PLATFORM_PM_LENGTH ports is at base from now on, 0: nowhere (PMBASE, ACPI_EN of the LPC bridge). Where
 * other ports are in its way it is nowhere. Returns whether it left a place. Under lock.
 */
bool acpi_pm_place(struct acpi_pm *pm, uint16_t base);

/* The machine wakes up from suspend to RAM. Under lock. */
void acpi_pm_wake(struct acpi_pm *pm);

/* The RTC's alarm has gone off. Under lock. */
void acpi_pm_rtc_alarm(struct acpi_pm *pm);

/* The user presses the power button once. Under lock. */
void acpi_pm_power_button(struct acpi_pm *pm);

#endif

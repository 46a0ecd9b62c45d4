/* What others do to the ACPI fixed hardware. */
#ifndef NESTOR_DEVICE_ACPI_PM_H
#define NESTOR_DEVICE_ACPI_PM_H

struct acpi_pm;

/* The user presses the power button once. Under lock. */
void acpi_pm_power_button(struct acpi_pm *pm);

#endif

/* Suspend to RAM (ACPI's S3): the machine without running vCPUs and with nothing alive but RAM, the RTC and PM1. */
#ifndef NESTOR_MACHINE_SLEEP_H
#define NESTOR_MACHINE_SLEEP_H

#include <stdbool.h>

struct machine;

/*
 * The guest goes to sleep: its vCPUs end, devices and CPUs are reset, RAM stays; machine_wakeup starts the firmware (or,
 * for a guest that was booted without one, the guest's waking vector). Under lock, from a device.
 */
void machine_suspend(struct machine *machine);

/* Wakes a machine that sleeps or is about to. Returns false where it does not. [any, lock held or not] */
bool machine_wakeup(struct machine *machine);

/* For run.c, after the reset: waits for machine_wakeup. Returns false where the machine ends or restarts instead. */
bool machine_sleep_through(struct machine *machine);

#endif

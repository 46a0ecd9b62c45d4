#include "machine/sleep.h"

#include "device/chipset/acpi_pm.h"
#include "device/chipset/rtc.h"
#include "machine/machine.h"

/* Where firmware looks for what a reset was about (IBM PC AT, "Shutdown Status Byte"), and S3's value there. */
#define CMOS_SHUTDOWN 0x0f
#define SHUTDOWN_S3   0xfe

void machine_suspend(struct machine *machine)
{
	machine->stop_kick = true;
	pthread_mutex_lock(&machine->run_lock);
	if (!atomic_load(&machine->stop_requested)) {
		machine->exit_status = 0;
		machine->restart = true;
		machine->suspend = true;
		machine->wake = false;
		machine->stop_reason = STOP_GUEST_SHUTDOWN;
		atomic_store(&machine->stop_requested, true);
	}
	pthread_cond_broadcast(&machine->run_changed);
	pthread_mutex_unlock(&machine->run_lock);
}

bool machine_wakeup(struct machine *machine)
{
	bool asleep;

	pthread_mutex_lock(&machine->run_lock);
	asleep = machine->suspend && machine->restart;
	if (asleep) {
		machine->wake = true;
		pthread_cond_broadcast(&machine->run_changed);
	}
	pthread_mutex_unlock(&machine->run_lock);
	return asleep;
}

/*
 * Nobody moves virtual time while no vCPU runs: it leaps from one timer to the next, which are the RTC's alone. Without
 * any the machine waits for the host's side, as under the real clock.
 */
static bool pass_virtual_time(struct machine *machine)
{
	uint64_t next;

	if (machine->clock.kind != ENGINE_CLOCK_DETERMINISTIC)
		return false;
	next = machine_next_deadline(machine);
	if (next == TIMER_NEVER)
		return false;
	pthread_mutex_unlock(&machine->run_lock);
	machine_run_timers(machine, next);
	pthread_mutex_lock(&machine->run_lock);
	return true;
}

bool machine_sleep_through(struct machine *machine)
{
	bool woken;

	machine_notify(machine, MACHINE_EVENT_SUSPEND, NULL);
	pthread_mutex_lock(&machine->run_lock);
	while (machine->suspend && machine->restart && !machine->wake)
		if (!pass_virtual_time(machine))
			pthread_cond_wait(&machine->run_changed, &machine->run_lock);
	woken = machine->suspend && machine->restart;
	machine->suspend = false;
	pthread_mutex_unlock(&machine->run_lock);
	if (!woken)
		return false;
	machine_lock(machine);
	acpi_pm_wake(machine->acpi_pm);
	rtc_set_cmos(machine->rtc, CMOS_SHUTDOWN, SHUTDOWN_S3);
	machine_unlock(machine);
	machine_notify(machine, MACHINE_EVENT_WAKEUP, NULL);
	return true;
}

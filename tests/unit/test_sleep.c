/* Suspend to RAM: what PM1 and the RTC do for it, and where a guest without firmware wakes. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "boot/boot.h"
#include "device/chipset/acpi_pm.h"
#include "engine/vcpu_state.h"
#include "device_fixture.h"

#define PM1_STATUS  0x600
#define PM1_ENABLE  0x602
#define PM1_CONTROL 0x604
#define RTC_BIT     0x400
#define BUTTON_BIT  0x100
#define WAKE_BIT    0x8000
#define SLEEP_S3    (1u << 13 | 1u << 10)
#define SECOND      UINT64_C(1000000000)

static void set_cmos(uint8_t index, uint8_t value)
{
	out(machine, 0x70, 1, index);
	out(machine, 0x71, 1, value);
}

/* As machine_run does once the vCPUs have ended. */
static void fall_asleep(void)
{
	out(machine, PM1_CONTROL, 2, SLEEP_S3);
	assert_true(machine->suspend && machine->restart && machine->stop_requested);
	machine_lock(machine);
	machine->sleeping = true;
	machine_reset_devices(machine);
	machine_unlock(machine);
}

/* And what the loader does then for a guest without firmware. */
static void wake_up(void)
{
	assert_true(machine_sleep_through(machine));
	assert_int_equal(pci_setup(machine), 0);
}

static void the_alarm_wakes(void **state)
{
	set_cmos(0x0b, 0x22); /* 24 hours, BCD, alarm interrupt */
	set_cmos(0x01, 0x05); /* at 00:00:05 */
	set_cmos(0x03, 0x00);
	set_cmos(0x05, 0x00);
	out(machine, PM1_ENABLE, 2, RTC_BIT);
	fall_asleep();
	assert_false(machine->wake);
	pass(machine, 4 * SECOND);
	assert_false(machine->wake);
	pass(machine, 2 * SECOND);
	assert_true(machine->wake);
	wake_up();
	assert_false(machine->sleeping);
	assert_int_equal(in(machine, PM1_STATUS, 2), WAKE_BIT | RTC_BIT);
	assert_int_equal(in(machine, PM1_ENABLE, 2), 0);
	out(machine, 0x70, 1, 0x0f);
	assert_int_equal(in(machine, 0x71, 1), 0xfe); /* what firmware looks for */
}

static void an_alarm_that_is_not_enabled_does_not(void **state)
{
	set_cmos(0x0b, 0x22);
	set_cmos(0x01, 0x02);
	set_cmos(0x03, 0xff);
	set_cmos(0x05, 0xff);
	fall_asleep();
	pass(machine, 10 * SECOND);
	assert_false(machine->wake);
}

/* Without any timer virtual time would stand; with the RTC's it leaps to the alarm. */
static void virtual_time_leaps_to_the_alarm(void **state)
{
	set_cmos(0x0b, 0x22);
	set_cmos(0x01, 0x30);
	set_cmos(0x03, 0x00);
	set_cmos(0x05, 0x01); /* an hour later */
	out(machine, PM1_ENABLE, 2, RTC_BIT);
	fall_asleep();
	assert_true(machine_sleep_through(machine));
	assert_true(machine_now(machine) >= 3630 * SECOND && machine_now(machine) < 3632 * SECOND);
}

static void the_button_wakes_where_it_is_enabled(void **state)
{
	out(machine, PM1_ENABLE, 2, BUTTON_BIT);
	fall_asleep();
	machine_lock(machine);
	acpi_pm_power_button(machine->acpi_pm);
	machine_unlock(machine);
	assert_true(machine->wake);
	wake_up();
	assert_int_equal(in(machine, PM1_STATUS, 2), WAKE_BIT | BUTTON_BIT);
}

static void the_user_wakes_only_what_sleeps(void **state)
{
	assert_false(machine_wakeup(machine));
	fall_asleep();
	assert_true(machine_wakeup(machine));
	assert_true(machine_sleep_through(machine));
	assert_false(machine_wakeup(machine));
}

static void an_end_or_a_restart_beats_the_sleep(void **state)
{
	fall_asleep();
	machine_restart(machine, STOP_HOST_RESET);
	assert_false(machine_sleep_through(machine));
	assert_true(machine->restart);
}

static void ram_and_pm1_stay_other_devices_do_not(void **state)
{
	uint8_t *memory = machine_memory(machine, GPA(0x5000), 4);

	memcpy(memory, "kept", 4);
	out(machine, PM1_ENABLE, 2, BUTTON_BIT);
	out(machine, 0x21, 1, 0x55);
	fall_asleep();
	assert_memory_equal(memory, "kept", 4);
	machine_wakeup(machine);
	machine_sleep_through(machine);
	assert_int_not_equal(in(machine, 0x21, 1), 0x55);
}

static uint32_t host_bridge(unsigned offset)
{
	out(machine, 0xcf8, 4, 0x80000000 | (offset & 0xfc));
	return in(machine, 0xcfc, 4);
}

static void set_host_bridge(unsigned offset, uint32_t value)
{
	out(machine, 0xcf8, 4, 0x80000000 | (offset & 0xfc));
	out(machine, 0xcfc, 4, value);
}

/* SeaBIOS wakes on a stack in its copy in RAM, which it may have protected when it woke before. */
static void what_shadows_rom_stays_and_is_no_longer_protected(void **state)
{
	set_host_bridge(0x90, 0x01231110); /* PAM0 … PAM3 */
	set_host_bridge(0x94, 0x32101332); /* PAM4 … PAM6 */
	fall_asleep();
	machine_wakeup(machine);
	machine_sleep_through(machine);
	assert_int_equal(host_bridge(0x90), 0x03233330);
	assert_int_equal(host_bridge(0x94) & 0xffffff, 0x303332);
}

static void a_guest_without_firmware_wakes_at_its_vector(void **state)
{
	uint8_t *facs = machine_memory(machine, GPA(0xe0040), 64);
	uint32_t vector = 0x9a120;
	struct vcpu_state start;

	assert_true(boot_wake(&machine->memory, 0xfee00000, &start) < 0); /* no FACS */
	memcpy(facs, "FACS", 4);
	assert_true(boot_wake(&machine->memory, 0xfee00000, &start) < 0); /* no vector */
	memcpy(facs + 12, &vector, 4);
	assert_int_equal(boot_wake(&machine->memory, 0xfee00000, &start), 0);
	assert_int_equal(start.seg[SEG_CS].selector, 0x9a12);
	assert_int_equal(start.seg[SEG_CS].base, 0x9a120);
	assert_int_equal(start.rip, 0);
	assert_int_equal(start.cr0 & 1, 0); /* real mode */
	vector = 0x100000;
	memcpy(facs + 12, &vector, 4);
	assert_true(boot_wake(&machine->memory, 0xfee00000, &start) < 0);
}

/* Firmware powers off with type 0, Linux with what \_S5 says. */
static void both_types_power_off(void **state)
{
	out(machine, PM1_CONTROL, 2, 1u << 13);
	assert_true(machine->stop_requested && !machine->restart);
	assert_string_equal(machine->stop_reason, STOP_GUEST_SHUTDOWN);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    TEST(the_alarm_wakes),
	    TEST(an_alarm_that_is_not_enabled_does_not),
	    TEST(virtual_time_leaps_to_the_alarm),
	    TEST(the_button_wakes_where_it_is_enabled),
	    TEST(the_user_wakes_only_what_sleeps),
	    TEST(an_end_or_a_restart_beats_the_sleep),
	    TEST(ram_and_pm1_stay_other_devices_do_not),
	    TEST(what_shadows_rom_stays_and_is_no_longer_protected),
	    TEST(a_guest_without_firmware_wakes_at_its_vector),
	    TEST(both_types_power_off),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

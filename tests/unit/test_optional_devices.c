/* The devices of --device: edu (QEMU's specification "EDU device"), pvpanic, pc-testdev. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "machine_fixture.h"

#define SLOT 2 /* the first free one */

static struct machine *machine;
static uint64_t bar;

static uint32_t config(unsigned offset)
{
	out(machine, 0xcf8, 4, 0x80000000 | SLOT << 11 | offset);
	return in(machine, 0xcfc, 4);
}

static void set_config(unsigned offset, uint32_t value)
{
	out(machine, 0xcf8, 4, 0x80000000 | SLOT << 11 | offset);
	out(machine, 0xcfc, 4, value);
}

static int setup_edu(void **state)
{
	machine = fixture_create_with("null", "edu");
	bar = config(0x10);
	return 0;
}

static int setup_pvpanic(void **state)
{
	machine = fixture_create_with("null", "pvpanic");
	return 0;
}

static int setup_pvpanic_pci(void **state)
{
	machine = fixture_create_with("null", "pvpanic-pci,on-panic=continue");
	bar = config(0x10);
	return 0;
}

static int setup_testdev(void **state)
{
	machine = fixture_create_with("null", "pc-testdev");
	return 0;
}

static int teardown(void **state)
{
	machine_destroy(machine);
	return 0;
}

/* ---- edu ---- */

static uint64_t edu(unsigned offset)
{
	return load(machine, bar + offset, 4);
}

static void set_edu(unsigned offset, uint64_t value)
{
	store(machine, bar + offset, offset >= 0x80 ? 8 : 4, value);
}

static void edu_identity(void **state)
{
	assert_int_equal(config(0), 0x11e81234);
	assert_int_equal(edu(0), 0x010000ed);
	set_edu(4, 0x12345678);
	assert_int_equal(edu(4), ~0x12345678u);
	assert_int_equal(load(machine, bar + 4, 2), 0xffff); /* registers take whole words */
	assert_int_equal(load(machine, bar + 0x28, 4), 0xffffffff);
}

static void edu_factorial(void **state)
{
	set_edu(8, 10);
	assert_int_equal(edu(0x20), 1);
	set_edu(8, 3); /* busy */
	pass(machine, 2000);
	assert_int_equal(edu(0x20), 0);
	assert_int_equal(edu(8), 3628800);
	set_edu(8, 0);
	pass(machine, 2000);
	assert_int_equal(edu(8), 1);
	set_edu(8, 0xffffffff);
	pass(machine, 2000);
	assert_int_equal(edu(8), 0);
	assert_int_equal(edu(0x24), 0);
}

static void edu_interrupts_by_pin(void **state)
{
	struct irq_line *line = &machine->irq[16 + pci_pirq(SLOT, 1)];

	set_edu(0x20, 0x80);
	set_edu(8, 4);
	pass(machine, 2000);
	assert_int_equal(edu(0x24), 1);
	assert_true(line->asserted);
	set_edu(0x60, 0x30);
	assert_int_equal(edu(0x24), 0x31);
	set_edu(0x64, 0x1);
	assert_true(line->asserted);
	set_edu(0x64, 0x30);
	assert_false(line->asserted);
}

static void edu_interrupts_by_message(void **state)
{
	unsigned msi = config(0x34) & 0xff;

	set_config(msi + 4, 0xfee00000);
	set_config(msi + 12, 0x4042);
	set_config(msi, 0x10000);
	set_edu(0x60, 2);
	assert_int_equal(fake_vm.msi_count, 1);
	assert_int_equal(fake_vm.msi_data[0], 0x4042);
	set_edu(0x60, 4);
	assert_int_equal(fake_vm.msi_count, 2);
	assert_int_equal(edu(0x24), 6);
}

static void edu_dma(void **state)
{
	uint8_t *ram = machine_memory(machine, GPA(0x200000), 8192);

	for (unsigned i = 0; i < 4096; i++)
		ram[i] = (uint8_t)(i * 7);
	set_edu(0x80, 0x200000);
	set_edu(0x88, 0x40000);
	set_edu(0x90, 4096);
	set_edu(0x98, 1);
	assert_int_equal(edu(0x98) & 1, 1);
	set_edu(0x90, 1); /* busy */
	pass(machine, 20000);
	assert_int_equal(edu(0x98) & 1, 0);
	set_edu(0x80, 0x40010);
	set_edu(0x88, 0x201000);
	set_edu(0x90, 100);
	set_edu(0x98, 7);
	pass(machine, 20000);
	assert_memory_equal(ram + 4096, ram + 16, 100);
	assert_int_equal(ram[4096 + 100], 0);
	assert_int_equal(edu(0x24), 0x100);
}

static void edu_dma_stays_where_it_may(void **state)
{
	static const uint64_t source[] = {0x40000, 0x40fff, 0x41000, 0x3ffff, 0, UINT64_MAX, 0x40000};
	static const uint64_t count[] = {4097, 2, 1, 1, 1, UINT64_MAX, UINT64_MAX};
	uint8_t *ram = machine_memory(machine, GPA(0x200000), 8192);

	for (size_t i = 0; i < sizeof(source) / sizeof(source[0]); i++) {
		memset(ram, 0x11, 8192);
		set_edu(0x80, source[i]);
		set_edu(0x88, 0x200000);
		set_edu(0x90, count[i]);
		set_edu(0x98, 3);
		pass(machine, 20000);
		for (unsigned j = 0; j < 8192; j++)
			assert_int_equal(ram[j], 0x11);
	}
	set_edu(0x80, 0x40000);
	set_edu(0x90, 16);
	set_config(4, 2); /* no bus master */
	set_edu(0x98, 3);
	pass(machine, 20000);
	assert_int_equal(ram[0], 0x11);
	set_config(4, 6);
	set_edu(0x88, UINT64_C(0xfffffffffffffff0)); /* no RAM */
	set_edu(0x98, 3);
	pass(machine, 20000);
}

static void edu_reset(void **state)
{
	set_edu(0x60, 1);
	set_edu(8, 5);
	machine_lock(machine);
	machine_reset_devices(machine);
	machine_unlock(machine);
	pass(machine, 20000);
	pci_setup(machine);
	assert_int_equal(edu(0x24), 0);
	assert_int_equal(edu(8), 0);
	assert_int_equal(edu(0x20), 0);
}

/* ---- pvpanic ---- */

static unsigned panics;
static char detail[16];

static void notified(void *context, enum machine_event event, const char *text)
{
	if (event != MACHINE_EVENT_PANICKED)
		return;
	panics++;
	snprintf(detail, sizeof(detail), "%s", text);
}

static void pvpanic_stops(void **state)
{
	panics = 0;
	machine_add_listener(machine, notified, NULL);
	assert_int_equal(in(machine, 0x505, 1), 3);
	out(machine, 0x505, 1, 2);
	assert_int_equal(panics, 1);
	assert_string_equal(detail, "crashloaded");
	assert_false(machine->stop_requested);
	out(machine, 0x505, 1, 1);
	assert_string_equal(detail, "panicked");
	assert_true(machine->stop_requested);
	assert_int_equal(machine->exit_status, 1);
}

static void pvpanic_continues(void **state)
{
	panics = 0;
	machine_add_listener(machine, notified, NULL);
	assert_int_equal(config(0), 0x00111b36);
	assert_int_equal(load(machine, bar, 1), 3);
	store(machine, bar, 1, 1);
	store(machine, bar + 1, 1, 1);
	store(machine, bar, 1, 1); /* once is enough */
	assert_int_equal(panics, 1);
	assert_false(machine->stop_requested);
}

/* ---- pc-testdev ---- */

static void testdev_registers(void **state)
{
	out(machine, 0xe0, 4, 0x12345678);
	assert_int_equal(in(machine, 0xe0, 4), 0x12345678);
	assert_int_equal(in(machine, 0xe1, 1), 0x56);
	assert_int_equal(in(machine, 0xe8, 4), 0x12345678);
	out(machine, 0xea, 1, 0xff);
	assert_int_equal(in(machine, 0xe2, 2), 0x12ff);
	store(machine, 0xff000ffd, 8, UINT64_C(0x1122334455667788));
	assert_true(load(machine, 0xff000ffd, 8) == UINT64_C(0x1122334455667788));
	assert_int_equal(load(machine, 0xff001000, 1), 0x55);
	out(machine, 0xe4, 4, 0x1000);
	out(machine, 0xe4, 4, 0xfffff000);
}

static void testdev_lines(void **state)
{
	out(machine, 0x2005, 1, 1);
	assert_true(machine->irq[5].asserted);
	out(machine, 0x2005, 1, 0);
	assert_false(machine->irq[5].asserted);
	out(machine, 0x2017, 1, 1);
	assert_true(machine->irq[23].asserted);
	machine_lock(machine);
	machine_reset_devices(machine);
	machine_unlock(machine);
	assert_false(machine->irq[23].asserted);
}

static void table_refuses_what_it_does_not_know(void **state)
{
	static const char *const bad[] = {"frob", "edu,x", "pvpanic,on-panic=x", "edu=1"};

	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		struct machine_config request = {
		    .memory_size = 1u << 20, .cpu_count = 1, .device = {bad[i]}, .device_count = 1};
		struct cpu_model model = {.cpu_count = 1};
		struct machine *none = NULL;

		assert_int_equal(machine_create(&none, &request, &model, &fake_engine), -EINVAL);
		assert_null(none);
		assert_non_null(strstr(error_text(), "--device"));
	}
}

#define EDU(name)     cmocka_unit_test_setup_teardown(name, setup_edu, teardown)
#define TESTDEV(name) cmocka_unit_test_setup_teardown(name, setup_testdev, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
	    EDU(edu_identity),
	    EDU(edu_factorial),
	    EDU(edu_interrupts_by_pin),
	    EDU(edu_interrupts_by_message),
	    EDU(edu_dma),
	    EDU(edu_dma_stays_where_it_may),
	    EDU(edu_reset),
	    cmocka_unit_test_setup_teardown(pvpanic_stops, setup_pvpanic, teardown),
	    cmocka_unit_test_setup_teardown(pvpanic_continues, setup_pvpanic_pci, teardown),
	    TESTDEV(testdev_registers),
	    TESTDEV(testdev_lines),
	    cmocka_unit_test(table_refuses_what_it_does_not_know),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

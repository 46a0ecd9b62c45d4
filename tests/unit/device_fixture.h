/* For tests of one device: a machine of its own for each test. */
#ifndef NESTOR_TESTS_DEVICE_FIXTURE_H
#define NESTOR_TESTS_DEVICE_FIXTURE_H

#include "machine_fixture.h"

static struct machine *machine;

static int setup(void **state)
{
	machine = fixture_create("null");
	return 0;
}

static int teardown(void **state)
{
	machine_destroy(machine);
	return 0;
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

#endif

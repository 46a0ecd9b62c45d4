/*
 * Virtio's PCI transport, features, status and interrupts (VIRTIO 1.2, "Virtio Over PCI Bus" and "Basic
 * Facilities of a Virtio Device"), seen by a driver on the machine's buses. The device is virtio-rng, the
 * simplest.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "device/virtio/virtio.h"
#include "virtio_driver.h"

#define RINGS 0x100000u
#define DATA  0x200000u

static struct machine *machine;
static struct virtio_driver driver;
static struct queue_driver queue;

static int setup(void **state)
{
	struct machine_config config = fixture_config("null");

	config.rng = true;
	machine = fixture_create_from(&config);
	assert_true(virtio_find(&driver, machine, 0x1005));
	return 0;
}

static int teardown(void **state)
{
	machine_destroy(machine);
	return 0;
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

static void start_modern(uint64_t features)
{
	assert_true(virtio_negotiate(&driver, features | FEATURE_VERSION_1));
	virtio_queue(&driver, &queue, 0, 8, RINGS);
	virtio_start(&driver);
	assert_int_equal(common(&driver, 0x14, 1), 15);
}

/* One request; returns how many bytes came. */
static uint32_t ask(uint32_t size)
{
	uint32_t head, written;

	queue_add(&queue, (struct buffer[]){{DATA, size, true}}, 1);
	virtio_kick(&driver, 0);
	return queue_take(&queue, &head, &written) ? written : UINT32_MAX;
}

static void identity(void **state)
{
	assert_int_equal(pci_read(machine, driver.slot, 8, 1), 0); /* transitional: revision 0 */
	assert_int_equal(pci_read(machine, driver.slot, 0x2c, 2), 0x1af4);
	assert_int_equal(pci_read(machine, driver.slot, 0x2e, 2), 4); /* subsystem: the device type */
	assert_true(driver.common && driver.notify && driver.isr && driver.legacy && driver.pci_window);
	assert_int_equal(driver.config, 0); /* this type has none */
	assert_int_equal(common(&driver, 0x12, 2), 1);
}

static void features_must_be_those_offered(void **state)
{
	uint64_t offered = virtio_features(&driver);

	assert_true(offered & FEATURE_VERSION_1);
	assert_true(offered & FEATURE_INDIRECT);
	assert_true(offered & FEATURE_EVENT_IDX);
	assert_true(offered & FEATURE_PACKED);
	set_common(&driver, 0, 4, 2);
	assert_int_equal(common(&driver, 4, 4), 0);
	assert_true(virtio_negotiate(&driver, offered));
	assert_false(virtio_negotiate(&driver, offered & ~FEATURE_VERSION_1));
	for (unsigned bit = 0; bit < 64; bit++)
		if (!(offered >> bit & 1))
			assert_false(virtio_negotiate(&driver, FEATURE_VERSION_1 | UINT64_C(1) << bit));
	/* Without FEATURES_OK there is no DRIVER_OK. */
	set_common(&driver, 0x14, 1, 15);
	assert_false(common(&driver, 0x14, 1) & 4);
	/* What was negotiated stays. */
	assert_true(virtio_negotiate(&driver, FEATURE_VERSION_1));
	set_common(&driver, 8, 4, 0);
	set_common(&driver, 12, 4, UINT32_MAX);
	assert_int_equal(common(&driver, 12, 4), 0);
}

static void queue_registers(void **state)
{
	assert_true(virtio_negotiate(&driver, FEATURE_VERSION_1));
	set_common(&driver, 0x16, 2, 0);
	assert_int_equal(common(&driver, 0x18, 2), 8);
	for (unsigned size = 0; size < 40; size++) {
		set_common(&driver, 0x18, 2, 8);
		set_common(&driver, 0x18, 2, size);
		assert_int_equal(common(&driver, 0x18, 2),
		                 size == 1 || size == 2 || size == 4 || size == 8 ? size : 8);
	}
	assert_true(virtio_negotiate(&driver, FEATURE_VERSION_1 | FEATURE_PACKED));
	set_common(&driver, 0x16, 2, 0);
	for (unsigned size = 0; size < 40; size++) {
		set_common(&driver, 0x18, 2, 8);
		set_common(&driver, 0x18, 2, size);
		assert_int_equal(common(&driver, 0x18, 2), size && size <= 8 ? size : 8);
	}
	set_common(&driver, 0x20, 4, 0x12345000);
	set_common(&driver, 0x24, 4, 0x89);
	assert_int_equal(common(&driver, 0x20, 4), 0x12345000);
	assert_int_equal(common(&driver, 0x24, 4), 0x89);
	assert_int_equal(common(&driver, 0x1c, 2), 0);
	set_common(&driver, 0x1c, 2, 1);
	assert_int_equal(common(&driver, 0x1c, 2), 1);
	set_common(&driver, 0x20, 4, 0); /* fixed once it is enabled */
	assert_int_equal(common(&driver, 0x20, 4), 0x12345000);
	set_common(&driver, 0x16, 2, 1); /* there is no such queue */
	assert_int_equal(common(&driver, 0x18, 2), 0);
	set_common(&driver, 0x1c, 2, 1);
	assert_int_equal(common(&driver, 0x1c, 2), 0);
	set_common(&driver, 0x14, 1, 0);
	set_common(&driver, 0x16, 2, 0);
	assert_int_equal(common(&driver, 0x1c, 2), 0);
	assert_int_equal(common(&driver, 0x20, 4), 0);
}

static void modern_driver_gets_its_answer(void **state)
{
	start_modern(FEATURE_EVENT_IDX | FEATURE_INDIRECT);
	memset(guest(machine, DATA, 64), 0, 64);
	assert_int_equal(ask(64), 64);
	assert_int_not_equal(get32(machine, DATA), 0);
	assert_int_equal(ask(1u << 20), 4096);
}

static void nothing_is_used_before_the_driver_is_ready(void **state)
{
	assert_true(virtio_negotiate(&driver, FEATURE_VERSION_1));
	virtio_queue(&driver, &queue, 0, 8, RINGS);
	queue_add(&queue, (struct buffer[]){{DATA, 4, true}}, 1);
	virtio_kick(&driver, 0);
	assert_int_equal(queue_used_index(&queue), 0);
	virtio_start(&driver); /* which looks at what is there */
	assert_int_equal(queue_used_index(&queue), 1);
	queue.used_index++;
	/* Nor while the function may not access memory. */
	pci_write(machine, driver.slot, 4, 2, 3);
	assert_int_equal(ask(4), UINT32_MAX);
}

static void legacy_driver(void **state)
{
	uint16_t port = driver.legacy;
	uint32_t head, written;

	out(machine, port + 18, 1, 0);
	out(machine, port + 18, 1, 3);
	assert_int_equal(in(machine, port, 4) & (1u << 27), 1u << 27); /* VIRTIO_F_ANY_LAYOUT */
	out(machine, port + 4, 4, 1u << 28 | 1u << 29);
	assert_int_equal(in(machine, port + 4, 4), 1u << 28 | 1u << 29);
	out(machine, port + 14, 2, 0);
	assert_int_equal(in(machine, port + 12, 2), 8);
	queue_driver_init(&queue, machine, 8, RINGS);
	out(machine, port + 8, 4, RINGS >> 12);
	assert_int_equal(in(machine, port + 8, 4), RINGS >> 12);
	out(machine, port + 18, 1, 7);
	queue_add(&queue, (struct buffer[]){{DATA, 16, true}}, 1);
	out(machine, port + 16, 2, 0);
	assert_true(queue_take(&queue, &head, &written));
	assert_int_equal(written, 16);
	assert_int_equal(in(machine, port + 19, 1), 1); /* ISR; reading clears it */
	assert_int_equal(in(machine, port + 19, 1), 0);
	out(machine, port + 18, 1, 0);
	assert_int_equal(in(machine, port + 8, 4), 0);
	queue_add(&queue, (struct buffer[]){{DATA, 16, true}}, 1);
	out(machine, port + 16, 2, 0);
	assert_false(queue_take(&queue, &head, &written));
}

static void isr_without_msix(void **state)
{
	start_modern(0);
	assert_int_equal(load(machine, driver.isr, 1), 0);
	ask(4);
	assert_true(pci_read(machine, driver.slot, 6, 2) & 8); /* Interrupt Status */
	assert_int_equal(load(machine, driver.isr, 1), 1);
	assert_false(pci_read(machine, driver.slot, 6, 2) & 8);
	assert_int_equal(load(machine, driver.isr, 1), 0);
}

static void msix(void **state)
{
	unsigned at = pci_read(machine, driver.slot, 0x34, 1);

	while (pci_read(machine, driver.slot, at, 1) != 0x11)
		at = pci_read(machine, driver.slot, at + 1, 1);
	assert_int_equal(pci_read(machine, driver.slot, at + 2, 2) & 0x7ff, 1); /* two vectors */
	for (unsigned i = 0; i < 2; i++) {
		store(machine, driver.msix_table + 16 * i, 4, 0xfee00000);
		store(machine, driver.msix_table + 16 * i + 8, 4, 0x50 + i);
		store(machine, driver.msix_table + 16 * i + 12, 4, 0);
	}
	pci_write(machine, driver.slot, at + 2, 2, 0x8000);
	assert_true(virtio_negotiate(&driver, FEATURE_VERSION_1));
	assert_int_equal(common(&driver, 0x10, 2), 0xffff);
	set_common(&driver, 0x10, 2, 0);
	assert_int_equal(common(&driver, 0x10, 2), 0);
	virtio_queue(&driver, &queue, 0, 8, RINGS);
	assert_int_equal(common(&driver, 0x1a, 2), 0xffff);
	set_common(&driver, 0x1a, 2, 2); /* there is no such vector */
	assert_int_equal(common(&driver, 0x1a, 2), 0xffff);
	set_common(&driver, 0x1a, 2, 1);
	assert_int_equal(common(&driver, 0x1a, 2), 1);
	virtio_start(&driver);
	fake_vm.msi_count = 0;
	ask(4);
	assert_int_equal(fake_vm.msi_count, 1);
	assert_int_equal(fake_vm.msi_data[0], 0x51);
	assert_int_equal(load(machine, driver.isr, 1), 0);
	/* A driver that breaks the rules is told by the configuration vector. */
	put16(machine, queue.avail + 2, 999);
	virtio_kick(&driver, 0);
	assert_int_equal(fake_vm.msi_count, 2);
	assert_int_equal(fake_vm.msi_data[1], 0x50);
}

static void a_broken_queue_needs_a_reset(void **state)
{
	start_modern(0);
	write_desc(machine, queue.desc, 0, UINT64_C(1) << 40, 4, 2, 0);
	queue_offer(&queue, 0);
	queue_publish(&queue);
	virtio_kick(&driver, 0);
	assert_int_equal(common(&driver, 0x14, 1), 15 | 0x40);
	assert_int_equal(load(machine, driver.isr, 1), 2);
	assert_int_equal(ask(4), UINT32_MAX);
	set_common(&driver, 0x14, 1, 15); /* the driver cannot take it back */
	assert_int_equal(common(&driver, 0x14, 1), 15 | 0x40);
	start_modern(0);
	assert_int_equal(ask(4), 4);
}

/* "PCI configuration access capability": for drivers that cannot map BARs. */
static void window_in_configuration_space(void **state)
{
	unsigned at = driver.pci_window;

	pci_write(machine, driver.slot, at + 4, 1, 4);
	pci_write(machine, driver.slot, at + 8, 4, 0x12);
	pci_write(machine, driver.slot, at + 12, 4, 2);
	assert_int_equal(pci_read(machine, driver.slot, at + 16, 2), 1); /* num_queues */
	pci_write(machine, driver.slot, at + 8, 4, 0x14);
	pci_write(machine, driver.slot, at + 12, 4, 1);
	pci_write(machine, driver.slot, at + 16, 1, 1);
	assert_int_equal(common(&driver, 0x14, 1), 1);
	pci_write(machine, driver.slot, at + 16, 1, 0);
	assert_int_equal(common(&driver, 0x14, 1), 0);
	/* Nonsense is no access at all. */
	pci_write(machine, driver.slot, at + 12, 4, 3);
	pci_write(machine, driver.slot, at + 16, 4, 7);
	pci_write(machine, driver.slot, at + 12, 4, 4);
	pci_write(machine, driver.slot, at + 8, 4, 0xfffffffc);
	pci_write(machine, driver.slot, at + 16, 4, 7);
	assert_int_equal(common(&driver, 0x14, 1), 0);
}

static void machine_reset_resets_the_device(void **state)
{
	start_modern(0);
	ask(4);
	machine_lock(machine);
	machine_reset_devices(machine);
	machine_unlock(machine);
	assert_int_equal(pci_read(machine, driver.slot, 4, 2), 0);
	assert_int_equal(pci_setup(machine), 0);
	assert_true(virtio_find(&driver, machine, 0x1005));
	assert_int_equal(common(&driver, 0x14, 1), 0);
	start_modern(0);
	assert_int_equal(ask(4), 4);
}

/* The same numbers in every run, also after a reset. */
static void deterministic_numbers(void **state)
{
	uint32_t first;

	start_modern(0);
	ask(64);
	first = get32(machine, DATA);
	ask(64);
	assert_int_not_equal(get32(machine, DATA), first);
	start_modern(0);
	ask(64);
	assert_int_equal(get32(machine, DATA), first);
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
	    TEST(identity),
	    TEST(features_must_be_those_offered),
	    TEST(queue_registers),
	    TEST(modern_driver_gets_its_answer),
	    TEST(nothing_is_used_before_the_driver_is_ready),
	    TEST(legacy_driver),
	    TEST(isr_without_msix),
	    TEST(msix),
	    TEST(a_broken_queue_needs_a_reset),
	    TEST(window_in_configuration_space),
	    TEST(machine_reset_resets_the_device),
	    TEST(deterministic_numbers),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

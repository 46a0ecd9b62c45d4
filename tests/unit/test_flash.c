/* The flash chip by Intel's command set, as UEFI firmware drives it, and the file that follows it. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include "device/firmware/flash.h"
#include "machine_fixture.h"

#define BASE UINT64_C(0xffc00000)
#define SIZE (4 * FLASH_BLOCK)

static struct machine *machine;
static uint8_t *contents;
static int file;

static int setup(void **state)
{
	char path[] = "/tmp/nestor-test-flash-XXXXXX";

	machine = fixture_create("null");
	contents = mmap(NULL, SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	memset(contents, 0xff, SIZE);
	contents[0x10] = 0x5a;
	file = mkstemp(path);
	unlink(path);
	assert_int_equal(ftruncate(file, SIZE), 0);
	assert_int_equal(flash_create(machine, BASE, contents, SIZE, dup(file)), 0);
	machine_lock(machine);
	machine_reset_devices(machine);
	machine_unlock(machine);
	return 0;
}

static int teardown(void **state)
{
	machine_destroy(machine);
	munmap(contents, SIZE);
	close(file);
	return 0;
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

static uint8_t get(uint32_t offset)
{
	return (uint8_t)load(machine, BASE + offset, 1);
}

static void put(uint32_t offset, uint8_t value)
{
	store(machine, BASE + offset, 1, value);
}

static uint8_t in_file(uint32_t offset)
{
	uint8_t value = 0;

	assert_int_equal(pread(file, &value, 1, offset), 1);
	return value;
}

/* Does the guest read the chip's memory without us? */
static bool is_mapped(void)
{
	return machine_memory(machine, GPA(BASE), SIZE) == contents;
}

static void the_array_is_memory_that_writes_do_not_change(void **state)
{
	assert_true(is_mapped());
	assert_true(guest_memory_slot_of(&machine->memory, GPA(BASE))->read_only);
	put(0x10, 0x00); /* no command */
	assert_int_equal(contents[0x10], 0x5a);
	assert_true(is_mapped());
}

/* OVMF's way of telling flash from RAM and ROM. */
static void a_driver_finds_it(void **state)
{
	put(0x10, 0x50); /* clear status: reads the array after it */
	assert_int_equal(get(0x10), 0x5a);
	put(0x10, 0x70);
	assert_int_equal(get(0x10), 0x00);
	put(0x10, 0xff);
	assert_int_equal(get(0x10), 0x5a);
}

static void programming_clears_bits_and_reaches_the_file(void **state)
{
	put(0x20, 0x10);
	put(0x20, 0x3c);
	assert_int_equal(get(0x20), 0x80); /* status: ready, no error */
	assert_false(is_mapped());
	put(0x20, 0x40);
	put(0x20, 0xf0);
	put(0x20, 0xff);
	assert_int_equal(get(0x20), 0x30);
	assert_int_equal(in_file(0x20), 0x30);
	assert_int_equal(get(0x21), 0xff);
}

static void erasing_sets_one_block(void **state)
{
	for (uint32_t at = 0; at < SIZE; at += FLASH_BLOCK) {
		put(at, 0x40);
		put(at, 0x00);
	}
	put(FLASH_BLOCK + 77, 0x20);
	put(FLASH_BLOCK + 77, 0xd0);
	assert_int_equal(get(0), 0x80);
	put(0, 0xff);
	assert_int_equal(get(0), 0x00);
	assert_int_equal(get(FLASH_BLOCK), 0xff);
	assert_int_equal(get(2 * FLASH_BLOCK), 0x00);
	assert_int_equal(in_file(FLASH_BLOCK), 0xff);
	assert_int_equal(in_file(2 * FLASH_BLOCK), 0x00);
}

static void an_erase_needs_its_confirmation(void **state)
{
	put(0, 0x20);
	put(0, 0x42);
	assert_int_equal(get(0), 0xb0); /* ready, command sequence error */
	put(0, 0xff);
	assert_int_equal(get(0x10), 0x5a);
}

static void a_buffer_is_programmed_at_once(void **state)
{
	put(0x100, 0xe8);
	assert_int_equal(get(0x100), 0x80);
	put(0x100, 3); /* four bytes */
	for (unsigned i = 0; i < 4; i++)
		put(0x104 + i, (uint8_t)(0x11 * (i + 1)));
	assert_int_equal(contents[0x104], 0xff);
	put(0x100, 0xd0);
	assert_int_equal(get(0), 0x80);
	assert_int_equal(contents[0x104], 0x11);
	assert_int_equal(in_file(0x107), 0x44);
	/* One that leaves its 256 bytes is refused. */
	put(0x100, 0xe8);
	put(0x100, 0);
	put(0x200, 0x00);
	assert_int_equal(get(0) & 0x30, 0x30);
	assert_int_equal(contents[0x200], 0xff);
}

static void it_describes_itself(void **state)
{
	put(0x55, 0x98);
	assert_int_equal(get(0x10), 'Q');
	assert_int_equal(get(0x11), 'R');
	assert_int_equal(get(0x12), 'Y');
	assert_int_equal(1u << get(0x27), SIZE);
	assert_int_equal((get(0x2d) | get(0x2e) << 8) + 1, SIZE / FLASH_BLOCK);
	assert_int_equal((get(0x2f) | get(0x30) << 8) * 256, FLASH_BLOCK);
	put(0, 0x90);
	assert_int_equal(get(0), 0x89);
}

static void memory_comes_back_when_it_is_read_much(void **state)
{
	put(0, 0x70);
	assert_false(is_mapped());
	put(0, 0xff);
	for (unsigned i = 0; i < 100; i++)
		assert_int_equal(get(0x10), 0x5a);
	assert_true(is_mapped());
}

static void a_file_that_takes_nothing_is_a_program_error(void **state)
{
	int full = open("/dev/full", O_RDWR);
	uint8_t *other = mmap(NULL, SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (full < 0)
		skip();
	assert_int_equal(flash_create(machine, BASE - SIZE, other, SIZE, full), 0);
	store(machine, BASE - SIZE, 1, 0x40);
	store(machine, BASE - SIZE, 1, 0x12);
	assert_int_equal(load(machine, BASE - SIZE, 1), 0x90);
}

static void a_reset_ends_every_command(void **state)
{
	put(0, 0x20);
	machine_lock(machine);
	machine_reset_devices(machine);
	machine_unlock(machine);
	assert_true(is_mapped());
	put(0, 0xd0);
	assert_int_equal(get(0x10), 0x5a);
	assert_int_equal(contents[0x10], 0x5a);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    TEST(the_array_is_memory_that_writes_do_not_change),
	    TEST(a_driver_finds_it),
	    TEST(programming_clears_bits_and_reaches_the_file),
	    TEST(erasing_sets_one_block),
	    TEST(an_erase_needs_its_confirmation),
	    TEST(a_buffer_is_programmed_at_once),
	    TEST(it_describes_itself),
	    TEST(memory_comes_back_when_it_is_read_much),
	    TEST(a_file_that_takes_nothing_is_a_program_error),
	    TEST(a_reset_ends_every_command),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

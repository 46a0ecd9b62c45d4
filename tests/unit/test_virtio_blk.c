/* virtio-blk (VIRTIO 1.2, "Block Device") on a raw image, seen by a driver on the machine's buses. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <unistd.h>

#include <cmocka.h>

#include "virtio_driver.h"

#define RINGS  0x100000u
#define HEADER 0x180000u
#define STATUS 0x181000u
#define DATA   0x200000u

#define SECTORS 2048u

#define T_IN           0
#define T_OUT          1
#define T_FLUSH        4
#define T_GET_ID       8
#define T_DISCARD      11
#define T_WRITE_ZEROES 13

#define F_RO    (1u << 5)
#define F_FLUSH (1u << 9)

static struct machine *machine;
static struct virtio_driver driver;
static struct queue_driver queue;
static char path[] = "/tmp/nestor-test-blk-XXXXXX";
static int image;

static void start(bool read_only, unsigned cpus)
{
	struct machine_config config = fixture_config("null");

	config.cpu_count = cpus;
	config.disk_count = 1;
	config.disk[0] = (struct disk_config){.file = path,
	                                      .format = "raw",
	                                      .read_only = read_only,
	                                      .serial = "a serial of 20 chars",
	                                      .boot_index = -1};
	machine = fixture_create_from(&config);
	assert_true(virtio_find(&driver, machine, 0x1001));
	assert_true(virtio_negotiate(&driver, virtio_split_features(&driver)));
	virtio_queue(&driver, &queue, 0, 64, RINGS);
	virtio_start(&driver);
}

static int setup(void **state)
{
	strcpy(path + strlen(path) - 6, "XXXXXX");
	image = mkstemp(path);
	assert_true(image >= 0);
	for (unsigned i = 0; i < SECTORS; i++) {
		uint32_t sector[128];

		for (unsigned j = 0; j < 128; j++)
			sector[j] = i << 8 | j;
		assert_int_equal(pwrite(image, sector, sizeof(sector), i * 512), 512);
	}
	start(false, 1);
	return 0;
}

static int teardown(void **state)
{
	machine_destroy(machine);
	close(image);
	unlink(path);
	return 0;
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

static void put_header(uint32_t type, uint64_t sector)
{
	uint32_t header[4] = {type, 0, (uint32_t)sector, (uint32_t)(sector >> 32)};

	memcpy(guest(machine, HEADER, 16), header, 16);
	*(uint8_t *)guest(machine, STATUS, 1) = 0xee;
}

/* Waits for the answer; returns the status. */
static unsigned finish(void)
{
	uint32_t head, written;

	for (unsigned i = 0; i < 1000 && queue_used_index(&queue) == queue.used_index; i++)
		pass(machine, 1000000);
	assert_true(queue_take(&queue, &head, &written));
	return *(uint8_t *)guest(machine, STATUS, 1);
}

static unsigned request(uint32_t type, uint64_t sector, uint32_t size)
{
	struct buffer buffer[] = {
	    {HEADER, 16, false}, {DATA, size, type == T_IN || type == T_GET_ID}, {STATUS, 1, true}};

	put_header(type, sector);
	queue_add(&queue, buffer, 3);
	virtio_kick(&driver, 0);
	return finish();
}

static void configuration(void **state)
{
	assert_int_equal(load(machine, driver.config, 4), SECTORS);
	assert_int_equal(load(machine, driver.config + 4, 4), 0);
	assert_int_equal(load(machine, driver.config + 12, 4), 254); /* seg_max */
	assert_int_equal(load(machine, driver.config + 20, 4), 512);
	assert_int_equal(load(machine, driver.config + 34, 2), 1);
}

static void reading(void **state)
{
	assert_int_equal(request(T_IN, 5, 1024), 0);
	assert_int_equal(get32(machine, DATA), 5 << 8);
	assert_int_equal(get32(machine, DATA + 1020), 6 << 8 | 127);
	assert_int_equal(request(T_IN, SECTORS - 1, 512), 0);
	assert_int_equal(get32(machine, DATA), (SECTORS - 1) << 8);
}

static void writing(void **state)
{
	char sector[512];

	memset(guest(machine, DATA, 512), 'w', 512);
	assert_int_equal(request(T_OUT, 7, 512), 0);
	assert_int_equal(request(T_FLUSH, 0, 0), 0);
	assert_int_equal(pread(image, sector, 512, 7 * 512), 512);
	for (unsigned i = 0; i < 512; i++)
		assert_int_equal(sector[i], 'w');
	assert_int_equal(pread(image, sector, 512, 8 * 512), 512);
	assert_int_not_equal(sector[0], 'w');
}

/* "Framing requirements": the driver may cut header, data and status as it likes. */
static void any_layout(void **state)
{
	struct buffer in[] = {{HEADER, 1, false},
	                      {HEADER + 1, 15, false},
	                      {DATA, 3, true},
	                      {DATA + 0x1003, 1000, true},
	                      {DATA + 0x3000, 21 + 1, true}};
	struct buffer out[] = {{HEADER, 16 + 512, false}, {STATUS, 1, true}};

	put_header(T_IN, 9);
	queue_add(&queue, in, 5);
	virtio_kick(&driver, 0);
	*(uint8_t *)guest(machine, DATA + 0x3000 + 21, 1) = 0xee;
	finish();
	assert_int_equal(*(uint8_t *)guest(machine, DATA + 0x3000 + 21, 1), 0);
	assert_int_equal(get32(machine, DATA) & 0xffffff, 9 << 8);
	assert_int_equal(get32(machine, DATA + 0x1004), 9 << 8 | 1);

	memset(guest(machine, HEADER + 16, 512), 'h', 512);
	put_header(T_OUT, 3);
	queue_add(&queue, out, 2);
	virtio_kick(&driver, 0);
	assert_int_equal(finish(), 0);
	assert_int_equal(request(T_IN, 3, 512), 0);
	assert_int_equal(get32(machine, DATA), 0x68686868);
}

static void what_cannot_be_done_is_an_error(void **state)
{
	static const struct {
		uint32_t type;
		uint64_t sector;
		uint32_t size;
		unsigned status;
	} bad[] = {
	    {T_IN, SECTORS, 512, 1},    {T_IN, SECTORS - 1, 1024, 1},
	    {T_IN, UINT64_MAX, 512, 1}, {T_IN, UINT64_MAX / 512, 512, 1},
	    {T_IN, 0, 511, 1},          {T_OUT, 0, 513, 1},
	    {T_OUT, SECTORS, 512, 1},   {2, 0, 512, 2},
	    {UINT32_MAX, 0, 512, 2},    {T_DISCARD, 0, 15, 1},
	    {T_DISCARD, 0, 0, 1},       {T_WRITE_ZEROES, 0, 17, 1},
	};

	memset(guest(machine, DATA, 4096), 0xff, 4096);
	for (unsigned i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
		if (request(bad[i].type, bad[i].sector, bad[i].size) != bad[i].status)
			fail_msg("case %u", i);
	assert_int_equal(common(&driver, 0x14, 1), 15);
	assert_int_equal(request(T_IN, 0, 512), 0);
}

static void a_request_without_status_breaks_the_device(void **state)
{
	put_header(T_IN, 0);
	queue_add(&queue, (struct buffer[]){{HEADER, 16, false}}, 1);
	virtio_kick(&driver, 0);
	assert_int_equal(common(&driver, 0x14, 1) & 0x40, 0x40);
	assert_true(virtio_negotiate(&driver, FEATURE_VERSION_1));
	virtio_queue(&driver, &queue, 0, 64, RINGS);
	virtio_start(&driver);
	queue_add(&queue, (struct buffer[]){{HEADER, 15, false}, {STATUS, 1, true}}, 2);
	virtio_kick(&driver, 0);
	assert_int_equal(common(&driver, 0x14, 1) & 0x40, 0x40);
}

static void serial_number(void **state)
{
	assert_int_equal(request(T_GET_ID, 0, 20), 0);
	assert_memory_equal(guest(machine, DATA, 20), "a serial of 20 chars", 20);
}

static void put_range(unsigned index, uint64_t sector, uint32_t count, uint32_t flags)
{
	uint8_t *at = guest(machine, DATA + 16 * index, 16);

	memcpy(at, &sector, 8);
	memcpy(at + 8, &count, 4);
	memcpy(at + 12, &flags, 4);
}

static uint32_t word_at(unsigned sector)
{
	uint32_t word;

	assert_int_equal(pread(image, &word, 4, sector * 512 + 4), 4);
	return word;
}

static void write_zeroes_and_discard(void **state)
{
	put_range(0, 100, 8, 0);
	put_range(1, 200, 8, 1);
	assert_int_equal(request(T_WRITE_ZEROES, 0, 32), 0);
	assert_int_equal(word_at(99), 99 << 8 | 1);
	assert_int_equal(word_at(100), 0);
	assert_int_equal(word_at(107), 0);
	assert_int_equal(word_at(108), 108 << 8 | 1);
	assert_int_equal(word_at(207), 0);
	put_range(0, 300, 8, 0);
	assert_int_equal(request(T_DISCARD, 0, 16), 0);
	put_range(0, 300, 8, 1); /* unmap means nothing there */
	assert_int_equal(request(T_DISCARD, 0, 16), 2);
	put_range(0, 300, 8, 2);
	assert_int_equal(request(T_WRITE_ZEROES, 0, 16), 2);
	put_range(0, SECTORS - 1, 2, 0);
	assert_int_equal(request(T_WRITE_ZEROES, 0, 16), 1);
	put_range(0, UINT64_MAX, 2, 0);
	assert_int_equal(request(T_WRITE_ZEROES, 0, 16), 1);
	assert_int_equal(word_at(SECTORS - 1), (SECTORS - 1) << 8 | 1);
}

static void read_only(void **state)
{
	machine_destroy(machine);
	start(true, 1);
	assert_true(virtio_features(&driver) & F_RO);
	assert_int_equal(request(T_IN, 1, 512), 0);
	assert_int_equal(request(T_OUT, 1, 512), 1);
	put_range(0, 1, 1, 0);
	assert_int_equal(request(T_WRITE_ZEROES, 0, 16), 1);
	assert_int_equal(word_at(1), 1 << 8 | 1);
}

static void a_queue_for_each_cpu(void **state)
{
	struct queue_driver last;
	struct buffer buffer[] = {{HEADER, 16, false}, {DATA, 512, true}, {STATUS, 1, true}};

	machine_destroy(machine);
	start(false, 3);
	assert_int_equal(common(&driver, 0x12, 2), 3);
	assert_int_equal(load(machine, driver.config + 34, 2), 3);
	assert_true(virtio_negotiate(&driver, virtio_split_features(&driver)));
	virtio_queue(&driver, &queue, 0, 64, RINGS);
	virtio_queue(&driver, &last, 2, 256, RINGS + 0x10000);
	virtio_start(&driver);
	put_header(T_IN, 11);
	queue_add(&last, buffer, 3);
	virtio_kick(&driver, 2);
	for (unsigned i = 0; i < 1000 && !queue_used_index(&last); i++)
		pass(machine, 1000000);
	assert_int_equal(queue_used_index(&last), 1);
	assert_int_equal(get32(machine, DATA), 11 << 8);
}

/* What is in flight at a reset must not be answered into the next driver's queue, nor stored into its memory.
 */
static void a_reset_ends_what_is_in_flight(void **state)
{
	struct buffer buffer[] = {{HEADER, 16, false}, {DATA, 4096, true}, {STATUS, 1, true}};

	for (unsigned i = 0; i < 20; i++) {
		put_header(T_IN, 0);
		queue_add(&queue, buffer, 3);
		virtio_kick(&driver, 0);
		assert_true(virtio_negotiate(&driver, FEATURE_VERSION_1));
		memset(guest(machine, DATA, 4096), 0x5a, 4096);
		virtio_queue(&driver, &queue, 0, 64, RINGS);
		virtio_start(&driver);
		pass(machine, 100000000);
		assert_int_equal(queue_used_index(&queue), 0);
		assert_int_equal(get32(machine, DATA + 2048), 0x5a5a5a5a);
	}
	assert_int_equal(request(T_IN, 0, 512), 0);
}

/* The machine ends with a request under way. */
static void an_end_in_flight(void **state)
{
	struct buffer buffer[] = {{HEADER, 16, false}, {DATA, 4096, true}, {STATUS, 1, true}};

	put_header(T_IN, 0);
	queue_add(&queue, buffer, 3);
	virtio_kick(&driver, 0);
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
	    TEST(configuration),
	    TEST(reading),
	    TEST(writing),
	    TEST(any_layout),
	    TEST(what_cannot_be_done_is_an_error),
	    TEST(a_request_without_status_breaks_the_device),
	    TEST(serial_number),
	    TEST(write_zeroes_and_discard),
	    TEST(read_only),
	    TEST(a_queue_for_each_cpu),
	    TEST(a_reset_ends_what_is_in_flight),
	    TEST(an_end_in_flight),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

/*
 * What every disk controller relies on (device/disk/disk.h), over an image that this test stands in for: it holds requests
 * back, lets them end in any order and from any thread.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <errno.h>
#include <unistd.h>

#include <cmocka.h>

#include "device/disk/disk.h"
#include "machine_fixture.h"

/* ---- the image ---- */

#define HELD 64

struct block {
	pthread_mutex_t lock;
	pthread_cond_t submitted;
	struct block_request *held[HELD]; /* in the order of submission */
	unsigned count, total, cancelled;
	unsigned ending; /* threads in done() */
	bool at_once; /* a request ends as soon as a thread can end it */
	uint8_t content[65536];
};

static struct block image;

/* Does what the request says and ends it, as an I/O thread. */
static void end_request(struct block_request *request, int result)
{
	uint64_t at = request->offset;

	for (unsigned i = 0; i < request->iov_count && !result; i++) {
		if (request->operation == BLOCK_READ)
			memcpy(request->iov[i].iov_base, image.content + at, request->iov[i].iov_len);
		else if (request->operation == BLOCK_WRITE)
			memcpy(image.content + at, request->iov[i].iov_base, request->iov[i].iov_len);
		at += request->iov[i].iov_len;
	}
	request->done(request, result);
}

static void *end_thread(void *request)
{
	end_request(request, 0);
	pthread_mutex_lock(&image.lock);
	image.ending--;
	pthread_cond_broadcast(&image.submitted);
	pthread_mutex_unlock(&image.lock);
	return NULL;
}

static void end_elsewhere(struct block_request *request)
{
	pthread_t thread;

	pthread_mutex_lock(&image.lock);
	image.ending++;
	pthread_mutex_unlock(&image.lock);
	assert_int_equal(pthread_create(&thread, NULL, end_thread, request), 0);
	pthread_detach(thread);
}

int block_open(struct block **block, const struct block_config *config)
{
	*block = &image;
	return 0;
}

uint64_t block_size(const struct block *block)
{
	return sizeof(image.content);
}

bool block_read_only(const struct block *block)
{
	return false;
}

const char *block_format(const struct block *block)
{
	return "test";
}

void block_submit(struct block *block, struct block_request *request)
{
	pthread_mutex_lock(&block->lock);
	block->total++;
	if (!block->at_once) {
		assert_true(block->count < HELD);
		block->held[block->count++] = request;
		pthread_cond_broadcast(&block->submitted);
	}
	pthread_mutex_unlock(&block->lock);
	if (block->at_once)
		end_elsewhere(request);
}

/* The n-th request that is held, when it is there. */
static struct block_request *take_held(unsigned n)
{
	struct block_request *request;

	pthread_mutex_lock(&image.lock);
	while (image.count <= n)
		pthread_cond_wait(&image.submitted, &image.lock);
	request = image.held[n];
	memmove(image.held + n, image.held + n + 1, (--image.count - n) * sizeof(image.held[0]));
	pthread_mutex_unlock(&image.lock);
	return request;
}

void block_drain(struct block *block)
{
}

void block_cancel(struct block *block)
{
	block->cancelled++;
	while (block->count)
		end_elsewhere(take_held(0));
}

void block_close(struct block *block)
{
	pthread_mutex_lock(&image.lock);
	while (image.ending)
		pthread_cond_wait(&image.submitted, &image.lock);
	pthread_mutex_unlock(&image.lock);
}

/* ---- a controller ---- */

static struct machine *machine;
static struct disk *disk;
static unsigned completed, order[64];
static int results[64];

static void set_up(enum engine_clock clock)
{
	struct machine_config config = fixture_config("null");
	struct disk_config drive = {.file = "image", .boot_index = -1};

	config.clock = clock;
	machine = fixture_create_from(&config);
	memset(&image, 0, sizeof(image));
	pthread_mutex_init(&image.lock, NULL);
	pthread_cond_init(&image.submitted, NULL);
	for (unsigned i = 0; i < sizeof(image.content); i++)
		image.content[i] = (uint8_t)(i / 512 + 1);
	completed = 0;
	assert_int_equal(disk_create(&disk, machine, &drive), 0);
}

static int set_up_real(void **state)
{
	set_up(ENGINE_CLOCK_REAL);
	return 0;
}

static int set_up_deterministic(void **state)
{
	set_up(ENGINE_CLOCK_DETERMINISTIC);
	return 0;
}

static int tear_down(void **state)
{
	disk_destroy(disk);
	machine_destroy(machine);
	return 0;
}

static void request_completed(struct disk_request *request, int result)
{
	unsigned number = (unsigned)(uintptr_t)request->context;

	assert_int_not_equal(pthread_mutex_trylock(&machine->lock), 0); /* somebody, that is we, holds it */
	order[completed] = number;
	results[completed++] = result;
}

static void start(struct disk_request *request, unsigned number, enum block_operation operation,
                  uint64_t offset, const struct disk_segment *segment, unsigned count)
{
	uint64_t size = 0;

	for (unsigned i = 0; i < count; i++)
		size += segment[i].size;
	*request = (struct disk_request){.operation = operation, .offset = offset, .size = size, .segment = segment,
		.segment_count = count, .completed = request_completed, .context = (void *)(uintptr_t)number};
	machine_lock(machine);
	disk_submit(disk, request);
	machine_unlock(machine);
}

static unsigned count_completed(void)
{
	unsigned count;

	machine_lock(machine);
	count = completed;
	machine_unlock(machine);
	return count;
}

static void wait_completed(unsigned count)
{
	for (unsigned i = 0; i < 5000 && count_completed() < count; i++)
		usleep(1000);
	assert_int_equal(count_completed(), count);
}

static uint8_t *memory(uint64_t gpa)
{
	return machine_memory(machine, GPA(gpa), 1);
}

/* ---- the real clock ---- */

static void moves_data_to_scattered_memory(void **state)
{
	const struct disk_segment segment[] = {{0x100000, 1}, {0x200000, 0}, {0x200001, 511}, {0x300000, 512}};
	struct disk_request request;

	image.at_once = true;
	start(&request, 0, BLOCK_READ, 1024, segment, 4);
	wait_completed(1);
	assert_int_equal(results[0], 0);
	assert_int_equal(memory(0x100000)[0], 3);
	assert_int_equal(memory(0x100001)[0], 0);
	assert_int_equal(memory(0x200001)[510], 3);
	assert_int_equal(memory(0x300000)[511], 4);
	memset(memory(0x200001), 0x99, 511);
	start(&request, 1, BLOCK_WRITE, 0, segment, 4);
	wait_completed(2);
	assert_int_equal(image.content[0], 3);
	assert_int_equal(image.content[1], 0x99);
	assert_int_equal(image.content[511], 0x99);
	assert_int_equal(image.content[512], 4);
}

/* A range over the end of a piece of memory goes through a buffer; what is no memory at all is an error. */
static void copies_where_memory_is_not_plain(void **state)
{
	const struct disk_segment no_memory[] = {{0x100000, 512}, {0xfffffff000, 512}};
	const struct disk_segment wraps[] = {{UINT64_MAX - 255, 512}};
	const struct disk_segment short_list[] = {{0x100000, 512}};
	struct disk_request request;

	image.at_once = true;
	start(&request, 0, BLOCK_READ, 0, no_memory, 2);
	wait_completed(1);
	assert_int_equal(results[0], -EFAULT);
	start(&request, 0, BLOCK_WRITE, 0, wraps, 1);
	wait_completed(2);
	assert_int_equal(results[1], -EFAULT);
	assert_int_equal(image.content[0], 1);
	request = (struct disk_request){.operation = BLOCK_READ, .size = 1024, .segment = short_list, .segment_count = 1,
		.completed = request_completed};
	machine_lock(machine);
	disk_submit(disk, &request);
	machine_unlock(machine);
	wait_completed(3);
	assert_int_equal(results[2], -EINVAL);
}

/* Completions come in the order in which the I/O ends, also while the machine lock is held. */
static void completes_under_the_lock(void **state)
{
	const struct disk_segment segment[] = {{0x100000, 512}};
	struct disk_request request[3];

	for (unsigned i = 0; i < 3; i++)
		start(&request[i], i, BLOCK_READ, 512 * i, segment, 1);
	assert_int_equal(disk_in_flight(disk), 3);
	machine_lock(machine);
	end_elsewhere(take_held(1));
	usleep(20000);
	assert_int_equal(completed, 0); /* never while another holds it */
	assert_int_equal(disk_in_flight(disk), 3);
	machine_unlock(machine);
	wait_completed(1);
	end_request(take_held(1), -EIO);
	wait_completed(2);
	end_request(take_held(0), 0);
	wait_completed(3);
	assert_int_equal(order[0], 1);
	assert_int_equal(order[1], 2);
	assert_int_equal(results[1], -EIO);
	assert_int_equal(order[2], 0);
	assert_int_equal(disk_in_flight(disk), 0);
}

static void *end_all_later(void *count)
{
	for (unsigned i = 0; i < (uintptr_t)count; i++) {
		usleep(5000);
		end_request(take_held(0), 0);
	}
	return NULL;
}

/* A reset waits for the I/O (memory is the guest's again), and no completion reaches the controller. */
static void a_reset_waits_and_forgets(void **state)
{
	const struct disk_segment segment[] = {{0x100000, 512}};
	struct disk_request request[8];
	pthread_t thread;

	for (unsigned i = 0; i < 8; i++)
		start(&request[i], i, BLOCK_READ, 512 * i, segment, 1);
	assert_int_equal(pthread_create(&thread, NULL, end_all_later, (void *)(uintptr_t)8), 0);
	machine_lock(machine);
	disk_reset(disk);
	memset(memory(0x100000), 0, 512);
	memset(request, 0xee, sizeof(request)); /* they are ours */
	assert_int_equal(disk_in_flight(disk), 0);
	machine_unlock(machine);
	pthread_join(thread, NULL);
	usleep(20000);
	assert_int_equal(count_completed(), 0);
	assert_int_equal(memory(0x100000)[0], 0);
	image.at_once = true;
	start(&request[0], 9, BLOCK_READ, 0, segment, 1);
	wait_completed(1);
	assert_int_equal(order[0], 9);
}

/* What does not end is given up after a while: the machine does not hang with its disk. */
static void a_reset_gives_up_what_hangs(void **state)
{
	const struct disk_segment segment[] = {{0x100000, 512}};
	struct disk_request request;

	start(&request, 0, BLOCK_READ, 0, segment, 1);
	machine_lock(machine);
	disk_reset(disk);
	machine_unlock(machine);
	assert_int_equal(image.cancelled, 1);
	assert_int_equal(completed, 0);
}

static struct disk_request again;
static unsigned turns;

static void submit_again(struct disk_request *request, int result)
{
	completed++;
	if (++turns < 100)
		disk_submit(disk, request);
}

static void a_completion_may_submit(void **state)
{
	static const struct disk_segment segment[] = {{0x100000, 512}};

	image.at_once = true;
	turns = 0;
	again = (struct disk_request){.operation = BLOCK_READ, .size = 512, .segment = segment, .segment_count = 1,
		.completed = submit_again};
	machine_lock(machine);
	disk_submit(disk, &again);
	assert_int_equal(turns, 0); /* never from inside */
	machine_unlock(machine);
	wait_completed(100);
}

/* ---- the deterministic clock ---- */

static void completes_at_its_time(void **state)
{
	const struct disk_segment first[] = {{0x100000, 512}}, second[] = {{0x100200, 512}};
	struct disk_request request[3];

	image.at_once = true;
	start(&request[0], 0, BLOCK_READ, 0, first, 1);
	pass(machine, 50000);
	start(&request[1], 1, BLOCK_READ, 512, second, 1);
	assert_int_equal(memory(0x100000)[0], 0);
	assert_int_equal(image.total, 0); /* its I/O is done when its time comes, whatever the host does */
	pass(machine, 49999);
	assert_int_equal(completed, 0);
	pass(machine, 1);
	assert_int_equal(completed, 1);
	assert_int_equal(memory(0x100000)[0], 1);
	assert_int_equal(memory(0x100200)[0], 0);
	pass(machine, 50000);
	assert_int_equal(completed, 2);
	assert_int_equal(order[1], 1);
	assert_int_equal(memory(0x100200)[0], 2);
	start(&request[2], 2, BLOCK_FLUSH, 0, NULL, 0);
	machine_lock(machine);
	disk_reset(disk);
	machine_unlock(machine);
	pass(machine, 1000000);
	assert_int_equal(completed, 2);
	assert_int_equal(image.total, 2);
}

int main(void)
{
#define REAL(name) cmocka_unit_test_setup_teardown(name, set_up_real, tear_down)
	const struct CMUnitTest tests[] = {
		REAL(moves_data_to_scattered_memory), REAL(copies_where_memory_is_not_plain), REAL(completes_under_the_lock),
		REAL(a_reset_waits_and_forgets), REAL(a_reset_gives_up_what_hangs), REAL(a_completion_may_submit),
		cmocka_unit_test_setup_teardown(completes_at_its_time, set_up_deterministic, tear_down),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

/* Split virtqueues (VIRTIO 1.2, "Split Virtqueues") against a driver of the test's own. */
#include "virtqueue_fixture.h"

static struct queue_driver driver;

/* ---- every store is announced before the used index moves ---- */

static uint64_t written_from[64], written_end[64];
static uint16_t index_when_written[64];
static unsigned written_count;

static void note_written(struct engine_vm *vm, gpa_t gpa, uint64_t size)
{
	if (written_count < 64) {
		index_when_written[written_count] = queue_used_index(&driver);
		written_from[written_count] = gpa.v;
		written_end[written_count++] = gpa.v + size;
	}
}

static bool was_written(uint64_t gpa, uint64_t size, uint16_t used_index)
{
	for (unsigned i = 0; i < written_count; i++)
		if (written_from[i] <= gpa && gpa + size <= written_end[i] &&
		    index_when_written[i] == used_index)
			return true;
	return false;
}

/* ---- */

static void use_queue(unsigned size)
{
	virtqueue_reset(queue);
	queue_driver_init(&driver, machine, size, RINGS);
	enable_queue(size, driver.desc, driver.avail, driver.used);
	written_count = 0;
}

static int setup(void **state)
{
	create_queue(VIRTIO_F_INDIRECT_DESC | VIRTIO_F_EVENT_IDX, note_written);
	use_queue(8);
	return 0;
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

static void use_one(void)
{
	struct virtio_chain *chain;

	queue_add(&driver, (struct buffer[]){{DATA, 4, true}}, 1);
	chain = virtqueue_pop(queue);
	assert_non_null(chain);
	virtqueue_push(chain, 4);
}

static void an_empty_queue_has_nothing(void **state)
{
	assert_false(virtqueue_has(queue));
	assert_null(virtqueue_pop(queue));
	virtqueue_notify(queue);
	assert_int_equal(interrupts, 0);
	queue->enabled = false;
	queue_add(&driver, (struct buffer[]){{DATA, 4, false}}, 1);
	assert_null(virtqueue_pop(queue));
	queue->enabled = true;
	running = false;
	assert_null(virtqueue_pop(queue));
	running = true;
	assert_true(virtqueue_has(queue));
}

static void a_chain_is_what_the_driver_wrote(void **state)
{
	struct buffer buffer[] = {{DATA, 16, false},
	                          {DATA + 0x1000, 3, false},
	                          {DATA + 0x2000, 512, true},
	                          {DATA + 0x3000, 1, true}};
	uint32_t head, written;
	uint16_t first = queue_add(&driver, buffer, 4);
	struct virtio_chain *chain = virtqueue_pop(queue);
	uint8_t bytes[32];

	assert_non_null(chain);
	assert_null(virtqueue_pop(queue));
	assert_int_equal(chain->readable_count, 2);
	assert_int_equal(chain->writable_count, 2);
	assert_int_equal(chain->readable_size, 19);
	assert_int_equal(chain->writable_size, 513);
	assert_ptr_equal(chain->readable[1].iov_base, guest(machine, DATA + 0x1000, 3));
	assert_int_equal(chain->readable_gpa[1], DATA + 0x1000);
	assert_int_equal(chain->writable_gpa[0], DATA + 0x2000);

	memcpy(guest(machine, DATA, 16), "0123456789abcdef", 16);
	memcpy(guest(machine, DATA + 0x1000, 3), "ghi", 3);
	assert_int_equal(virtio_chain_read(chain, 14, bytes, 32), 5);
	assert_memory_equal(bytes, "efghi", 5);
	assert_int_equal(virtio_chain_read(chain, 19, bytes, 1), 0);
	assert_int_equal(virtio_chain_write(chain, 511, "XY", 2), 2);
	assert_int_equal(*(char *)guest(machine, DATA + 0x3000, 1), 'Y');
	assert_int_equal(virtio_chain_write(chain, 512, "ZZ", 2), 1);

	virtqueue_push(chain, 513);
	assert_true(queue_take(&driver, &head, &written));
	assert_int_equal(head, first);
	assert_int_equal(written, 513);
	assert_true(was_written(DATA + 0x2000, 512, 0));
	assert_true(was_written(DATA + 0x3000, 1, 0));
	assert_true(was_written(driver.used + 4, 8, 0));
	assert_true(was_written(driver.used + 2, 2, 1));
	assert_int_equal(failures, 0);
}

static void slices_of_a_chain(void **state)
{
	struct iovec piece[4], from[3] = {{(void *)0x1000, 10}, {(void *)0x2000, 20}, {(void *)0x3000, 30}};
	size_t got;

	assert_int_equal(virtio_iov_slice(piece, from, 3, 5, 30, &got), 3);
	assert_int_equal(got, 30);
	assert_ptr_equal(piece[0].iov_base, (void *)0x1005);
	assert_int_equal(piece[0].iov_len, 5);
	assert_int_equal(piece[2].iov_len, 5);
	assert_int_equal(virtio_iov_slice(piece, from, 3, 10, 20, &got), 1);
	assert_ptr_equal(piece[0].iov_base, (void *)0x2000);
	assert_int_equal(virtio_iov_slice(piece, from, 3, 59, 20, &got), 1);
	assert_int_equal(got, 1);
	assert_int_equal(virtio_iov_slice(piece, from, 3, 60, 20, &got), 0);
	assert_int_equal(got, 0);
}

/* Both indices are free-running 16-bit counters. */
static void indices_wrap_around(void **state)
{
	for (unsigned i = 0; i < 70000; i++) {
		struct buffer buffer[] = {{DATA + i % 4096, 4, false}, {DATA + 0x10000, 4, true}};
		uint16_t first = queue_add(&driver, buffer, 2);
		struct virtio_chain *chain = virtqueue_pop(queue);
		uint32_t head, written;

		assert_non_null(chain);
		assert_int_equal(chain->readable_gpa[0], DATA + i % 4096);
		virtqueue_push(chain, i % 5);
		assert_true(queue_take(&driver, &head, &written));
		assert_int_equal(head, first);
		assert_int_equal(written, i % 5);
	}
	assert_int_equal(failures, 0);
}

static void chains_may_come_back_in_any_order(void **state)
{
	struct virtio_chain *chain[4];
	uint32_t head, written = 0;
	uint16_t first[4];

	for (unsigned i = 0; i < 4; i++)
		first[i] = queue_add(&driver, (struct buffer[]){{DATA, 4, false}, {DATA, 4, true}}, 2);
	for (unsigned i = 0; i < 4; i++)
		chain[i] = virtqueue_pop(queue);
	assert_null(virtqueue_pop(queue));
	virtqueue_push(chain[2], 2);
	virtqueue_push(chain[0], 0);
	virtqueue_push(chain[3], 3);
	virtqueue_push(chain[1], 1);
	for (unsigned i = 0; i < 4; i++) {
		assert_true(queue_take(&driver, &head, &written));
		assert_int_equal(head, first[written]);
	}
}

static void an_answer_of_several_chains_shows_at_once(void **state)
{
	struct virtio_chain *chain[3];

	for (unsigned i = 0; i < 3; i++)
		queue_add(&driver, (struct buffer[]){{DATA, 4, true}}, 1);
	for (unsigned i = 0; i < 3; i++)
		chain[i] = virtqueue_pop(queue);
	virtqueue_unpop(chain[2]);
	virtqueue_fill(chain[0], 4);
	virtqueue_fill(chain[1], 2);
	assert_int_equal(queue_used_index(&driver), 0);
	virtqueue_flush(queue);
	assert_int_equal(queue_used_index(&driver), 2);
	chain[2] = virtqueue_pop(queue);
	assert_non_null(chain[2]);
	assert_int_equal(chain[2]->head, 2);
	virtqueue_push(chain[2], 0);
	assert_int_equal(queue_used_index(&driver), 3);
}

static void indirect_tables(void **state)
{
	struct virtio_chain *chain;

	write_desc(machine, TABLE, 0, DATA, 8, DESC_NEXT, 2);
	write_desc(machine, TABLE, 2, DATA + 64, 8, DESC_NEXT | DESC_WRITE, 1);
	write_desc(machine, TABLE, 1, DATA + 128, 8, DESC_WRITE, 0);
	/* Direct descriptors may come first. */
	write_desc(machine, driver.desc, 5, DATA + 256, 8, DESC_NEXT, 6);
	write_desc(machine, driver.desc, 6, TABLE, 48, DESC_INDIRECT, 0);
	queue_offer(&driver, 5);
	queue_publish(&driver);
	chain = virtqueue_pop(queue);
	assert_non_null(chain);
	assert_int_equal(chain->readable_count, 2);
	assert_int_equal(chain->readable_gpa[0], DATA + 256);
	assert_int_equal(chain->writable_count, 2);
	assert_int_equal(chain->writable_gpa[1], DATA + 128);
	virtqueue_push(chain, 0);
	/* WRITE in the descriptor of the table itself says nothing. */
	write_desc(machine, driver.desc, 1, TABLE, 48, DESC_INDIRECT | DESC_WRITE, 0);
	queue_offer(&driver, 1);
	queue_publish(&driver);
	chain = virtqueue_pop(queue);
	assert_non_null(chain);
	assert_int_equal(chain->readable_count, 1);
	virtqueue_push(chain, 0);
}

static void a_buffer_may_cross_from_one_slot_to_the_next(void **state)
{
	uint64_t end = machine->memory.slot[1].gpa + machine->memory.slot[1].size;
	uint64_t middle = end - 0x8000;
	struct virtio_chain *chain;

	/* The last pages become a slot of their own, elsewhere in the host. */
	void *other = calloc(1, 0x8000);
	struct guest_memory_slot *slot = &machine->memory.slot[machine->memory.slot_count++];

	*slot = (struct guest_memory_slot){.gpa = middle, .size = 0x8000, .host = other};
	machine->memory.slot[1].size -= 0x8000;
	queue_add(&driver, (struct buffer[]){{middle - 16, 32, false}, {middle - 0x1800, 0x3800, true}}, 2);
	chain = virtqueue_pop(queue);
	assert_non_null(chain);
	assert_int_equal(chain->readable_count, 2);
	assert_int_equal(chain->readable[1].iov_len, 16);
	assert_ptr_equal(chain->readable[1].iov_base, other);
	assert_int_equal(chain->writable_count, 2);
	assert_int_equal(chain->writable_gpa[1], middle);
	assert_int_equal(chain->writable[0].iov_len, 0x1800);
	assert_int_equal(chain->writable[1].iov_len, 0x2000);
	virtqueue_push(chain, 0x3800);
	machine->memory.slot_count--;
	machine->memory.slot[1].size += 0x8000;
	free(other);
}

static void what_a_driver_must_not_do_breaks_the_queue(void **state)
{
	static const struct {
		uint64_t gpa;
		uint32_t size;
		uint16_t flags, next;
	} bad[][3] = {
	    {{DATA, 4, DESC_NEXT, 1}, {DATA, 4, DESC_NEXT, 0}},                  /* a loop */
	    {{DATA, 4, DESC_NEXT, 0}},                                           /* to itself */
	    {{DATA, 4, DESC_NEXT, 8}},                                           /* no such descriptor */
	    {{DATA, 4, DESC_NEXT, 0xffff}},                                      /* nor this */
	    {{DATA, 4, DESC_NEXT | DESC_WRITE, 1}, {DATA, 4, 0, 0}},             /* readable after writable */
	    {{UINT64_C(0x4000000000), 4, 0, 0}},                                 /* no memory */
	    {{UINT64_MAX - 2, 4, 0, 0}},                                         /* wraps around */
	    {{DATA, UINT32_MAX, DESC_WRITE, 0}},                                 /* more than there is */
	    {{0xa0000, 4, DESC_WRITE, 0}},                                       /* a device's memory */
	    {{TABLE, 15, DESC_INDIRECT, 0}},                                     /* not whole descriptors */
	    {{TABLE, 0, DESC_INDIRECT, 0}},                                      /* an empty table */
	    {{TABLE, 16, DESC_INDIRECT | DESC_NEXT, 1}, {DATA, 4, 0, 0}},        /* indirect and next */
	    {{TABLE, 0xfffffff0, DESC_INDIRECT, 0}},                             /* a table outside memory */
	    {{TABLE, 16, DESC_INDIRECT, 0}},                                     /* a table in a table */
	    {{DATA, 0x600000, DESC_NEXT, 1}, {DATA, 0xffa00000, DESC_WRITE, 0}}, /* 4 GiB */
	};

	for (unsigned i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		use_queue(8);
		write_desc(machine, TABLE, 0, TABLE, 16, DESC_INDIRECT, 0);
		for (unsigned j = 0; j < 3; j++)
			write_desc(machine, driver.desc, j, bad[i][j].gpa, bad[i][j].size, bad[i][j].flags,
			           bad[i][j].next);
		queue_offer(&driver, 0);
		queue_publish(&driver);
		assert_null(virtqueue_pop(queue));
		if (failures != 1)
			fail_msg("case %u was accepted", i);
		assert_null(virtqueue_pop(queue));
		assert_false(virtqueue_has(queue));
		assert_int_equal(queue_used_index(&driver), 0);
	}
}

static void bad_rings_break_the_queue(void **state)
{
	queue_offer(&driver, 8); /* a head that does not exist */
	queue_publish(&driver);
	assert_null(virtqueue_pop(queue));
	assert_int_equal(failures, 1);

	use_queue(8);
	put16(machine, driver.avail + 2, 9); /* more than the ring holds */
	assert_false(virtqueue_has(queue));
	assert_int_equal(failures, 1);

	for (unsigned i = 0; i < BAD_PLACES; i++) {
		use_queue(8);
		queue_add(&driver, (struct buffer[]){{DATA, 4, false}}, 1);
		misplace(i, 1);
		assert_null(virtqueue_pop(queue));
		assert_int_equal(failures, 1);
	}
}

/* A driver that offers buffers which the device still has cannot make it hold any number of them. */
static void in_flight_chains_are_bounded(void **state)
{
	struct virtio_chain *chain[8];

	for (unsigned i = 0; i < 8; i++) {
		write_desc(machine, driver.desc, 0, DATA, 4, 0, 0);
		queue_offer(&driver, 0);
		queue_publish(&driver);
		chain[i] = virtqueue_pop(queue);
		assert_non_null(chain[i]);
	}
	queue_offer(&driver, 0);
	queue_publish(&driver);
	assert_null(virtqueue_pop(queue));
	assert_int_equal(failures, 1);
	for (unsigned i = 0; i < 8; i++)
		virtqueue_push(chain[i], 0);
	assert_int_equal(queue_used_index(&driver), 0);
}

/* A driver that adds buffers as fast as the device takes them does not keep it from all else. */
static void one_notification_has_a_limit(void **state)
{
	queue->limited = true;
	queue->budget = 8;
	continued = 0;
	for (unsigned i = 0; i < 8; i++)
		use_one();
	queue_add(&driver, (struct buffer[]){{DATA, 4, true}}, 1);
	assert_null(virtqueue_pop(queue));
	assert_int_equal(continued, 1);
	assert_int_equal(failures, 0);
	queue->limited = false;
	virtqueue_push(virtqueue_pop(queue), 0);
	assert_int_equal(queue_used_index(&driver), 9);
}

static void longest_chain(void **state)
{
	struct buffer buffer[8];
	struct virtio_chain *chain;

	for (unsigned i = 0; i < 8; i++)
		buffer[i] = (struct buffer){DATA + 4096 * i, i == 3 ? 0 : 100, i > 4};
	queue_add(&driver, buffer, 8);
	chain = virtqueue_pop(queue);
	assert_non_null(chain);
	assert_int_equal(chain->readable_count, 4); /* one has no bytes */
	assert_int_equal(chain->writable_count, 3);
	assert_int_equal(chain->readable_size, 400);
	virtqueue_push(chain, 300);

	/* A table may have as many descriptors as the queue, and no more of them may be in the chain. */
	use_queue(8);
	for (unsigned i = 0; i < 9; i++)
		write_desc(machine, TABLE, i, DATA, 4, i < 8 ? DESC_NEXT : 0, (uint16_t)(i + 1));
	write_desc(machine, driver.desc, 0, TABLE, 9 * 16, DESC_INDIRECT, 0);
	queue_offer(&driver, 0);
	queue_publish(&driver);
	assert_null(virtqueue_pop(queue));
	assert_int_equal(failures, 1);
	use_queue(8);
	write_desc(machine, TABLE, 7, DATA, 4, 0, 0);
	write_desc(machine, driver.desc, 0, TABLE, 9 * 16, DESC_INDIRECT, 0);
	queue_offer(&driver, 0);
	queue_publish(&driver);
	chain = virtqueue_pop(queue);
	assert_non_null(chain);
	virtqueue_push(chain, 0);
}

static void indirect_needs_negotiation(void **state)
{
	negotiated = 0;
	write_desc(machine, TABLE, 0, DATA, 4, 0, 0);
	write_desc(machine, driver.desc, 0, TABLE, 16, DESC_INDIRECT, 0);
	queue_offer(&driver, 0);
	queue_publish(&driver);
	assert_null(virtqueue_pop(queue));
	assert_int_equal(failures, 1);
}

static void interrupts_by_flag(void **state)
{
	negotiated = 0;
	use_one();
	virtqueue_notify(queue);
	assert_int_equal(interrupts, 1);
	virtqueue_notify(queue); /* nothing new */
	assert_int_equal(interrupts, 1);
	put16(machine, driver.avail, 1); /* VIRTQ_AVAIL_F_NO_INTERRUPT */
	use_one();
	virtqueue_notify(queue);
	assert_int_equal(interrupts, 1);
	put16(machine, driver.avail, 0);
	use_one();
	virtqueue_notify(queue);
	assert_int_equal(interrupts, 2);
}

/* "Used Buffer Notification Suppression": an interrupt when the used index passes used_event. */
static void interrupts_by_event_index(void **state)
{
	queue_set_used_event(&driver, 0);
	use_one();
	virtqueue_notify(queue);
	assert_int_equal(interrupts, 1);
	queue_set_used_event(&driver, 2); /* after the third */
	use_one();
	virtqueue_notify(queue);
	assert_int_equal(interrupts, 1);
	use_one();
	virtqueue_notify(queue);
	assert_int_equal(interrupts, 2);
	queue_set_used_event(&driver, 4);
	use_one();
	use_one();
	use_one();
	virtqueue_notify(queue);
	assert_int_equal(interrupts, 3);
	use_one();
	virtqueue_notify(queue);
	assert_int_equal(interrupts, 3);
	queue_set_used_event(&driver, 6); /* passed with the one before */
	use_one();
	virtqueue_notify(queue);
	assert_int_equal(interrupts, 3);
	queue_set_used_event(&driver, 8); /* the one that comes */
	use_one();
	virtqueue_notify(queue);
	assert_int_equal(interrupts, 4);
	/* Around the wrap: every one is asked for, every one comes. */
	interrupts = 0;
	for (unsigned i = 0; i < 66000; i++) {
		queue_set_used_event(&driver, queue_used_index(&driver));
		use_one();
		virtqueue_notify(queue);
	}
	assert_int_equal(interrupts, 66000);
}

static void notifications_by_event_index(void **state)
{
	assert_false(virtqueue_has(queue));
	assert_int_equal(queue_avail_event(&driver), 0);
	use_one();
	use_one();
	assert_int_equal(queue_avail_event(&driver), 0); /* it was not found empty */
	assert_false(virtqueue_has(queue));
	assert_int_equal(queue_avail_event(&driver), 2);
	virtqueue_want_notifications(queue, false);
	use_one();
	assert_false(virtqueue_has(queue));
	assert_int_equal(queue_avail_event(&driver), 2);
	virtqueue_want_notifications(queue, true);
	assert_int_equal(queue_avail_event(&driver), 3);
}

static void notifications_by_flag(void **state)
{
	negotiated = 0;
	virtqueue_want_notifications(queue, false);
	assert_int_equal(get16(machine, driver.used), 1);
	virtqueue_want_notifications(queue, true);
	assert_int_equal(get16(machine, driver.used), 0);
}

/* What was popped before a reset must not show up in the queue that the next driver makes. */
static void chains_of_before_a_reset_go_nowhere(void **state)
{
	struct virtio_chain *old[3];

	for (unsigned i = 0; i < 3; i++) {
		queue_add(&driver, (struct buffer[]){{DATA, 4, true}}, 1);
		old[i] = virtqueue_pop(queue);
	}
	use_queue(8);
	virtqueue_push(old[0], 4);
	virtqueue_drop(old[1]);
	virtqueue_unpop(old[2]);
	virtqueue_notify(queue);
	assert_int_equal(queue_used_index(&driver), 0);
	assert_int_equal(queue->in_flight, 0);
	assert_int_equal(interrupts, 0);
	use_one();
	assert_int_equal(queue_used_index(&driver), 1);
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
	    TEST(an_empty_queue_has_nothing),
	    TEST(a_chain_is_what_the_driver_wrote),
	    TEST(slices_of_a_chain),
	    TEST(indices_wrap_around),
	    TEST(chains_may_come_back_in_any_order),
	    TEST(an_answer_of_several_chains_shows_at_once),
	    TEST(indirect_tables),
	    TEST(a_buffer_may_cross_from_one_slot_to_the_next),
	    TEST(what_a_driver_must_not_do_breaks_the_queue),
	    TEST(bad_rings_break_the_queue),
	    TEST(in_flight_chains_are_bounded),
	    TEST(one_notification_has_a_limit),
	    TEST(longest_chain),
	    TEST(indirect_needs_negotiation),
	    TEST(interrupts_by_flag),
	    TEST(interrupts_by_event_index),
	    TEST(notifications_by_event_index),
	    TEST(notifications_by_flag),
	    TEST(chains_of_before_a_reset_go_nowhere),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

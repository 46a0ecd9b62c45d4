/* Packed virtqueues (VIRTIO 1.2, "Packed Virtqueues") against a driver of the test's own. */
#include "packed_driver.h"
#include "virtqueue_fixture.h"

static struct packed_driver driver;

/* ---- what the engine is told of, and whether the driver could see the chain then ---- */

static struct {
	uint64_t from, end;
	uint16_t flags; /* of the slot that the driver looks at */
} written[64];
static unsigned written_count;

static void note_written(struct engine_vm *vm, gpa_t gpa, uint64_t size)
{
	if (written_count == 64)
		return;
	written[written_count].from = gpa.v;
	written[written_count].end = gpa.v + size;
	written[written_count++].flags = get16(machine, driver.ring + 16 * driver.next_used + 14);
}

static bool was_written(uint64_t gpa, uint64_t size, bool visible)
{
	for (unsigned i = 0; i < written_count; i++)
		if (written[i].from <= gpa && gpa + size <= written[i].end &&
		    !!(written[i].flags & PACKED_USED) == visible)
			return true;
	return false;
}

/* ---- */

static void use_queue(unsigned size)
{
	virtqueue_reset(queue);
	packed_init(&driver, machine, size, RINGS);
	enable_queue(size, driver.ring, driver.driver_event, driver.device_event);
	written_count = 0;
}

static int setup(void **state)
{
	create_queue(VIRTIO_F_RING_PACKED | VIRTIO_F_INDIRECT_DESC | VIRTIO_F_EVENT_IDX, note_written);
	use_queue(8);
	return 0;
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

/* What the device has told the driver of its wishes: slot and lap, then flags. */
static uint32_t device_event(void)
{
	return get32(machine, driver.device_event);
}

static void use_one(unsigned pieces)
{
	struct buffer buffer[4] = {{DATA, 4, true}, {DATA + 64, 4, true}, {DATA + 128, 4, true}, {DATA + 192, 4, true}};
	struct virtio_chain *chain;
	uint32_t size;
	uint16_t id, got;

	id = packed_add(&driver, buffer, pieces);
	chain = virtqueue_pop(queue);
	assert_non_null(chain);
	virtqueue_push(chain, 4);
	assert_true(packed_take(&driver, &got, &size));
	assert_int_equal(got, id);
	assert_int_equal(size, 4);
}

static void a_chain_is_what_the_driver_wrote(void **state)
{
	struct buffer buffer[] = {{DATA, 16, false}, {DATA + 0x1000, 3, false}, {DATA + 0x2000, 512, true}};
	struct virtio_chain *chain;
	uint16_t id, got;
	uint32_t size;

	assert_null(virtqueue_pop(queue)); /* zeroes are not available on the first lap */
	id = packed_add(&driver, buffer, 3);
	assert_true(virtqueue_has(queue));
	chain = virtqueue_pop(queue);
	assert_non_null(chain);
	assert_null(virtqueue_pop(queue));
	assert_int_equal(chain->readable_count, 2);
	assert_int_equal(chain->readable_size, 19);
	assert_int_equal(chain->readable_gpa[1], DATA + 0x1000);
	assert_int_equal(chain->writable_count, 1);
	assert_int_equal(chain->writable_size, 512);
	assert_false(packed_take(&driver, &got, &size));
	written_count = 0;
	virtqueue_push(chain, 512);
	assert_true(was_written(DATA + 0x2000, 512, false)); /* the data first, then what shows it */
	assert_true(was_written(driver.ring, 16, true));
	assert_true(packed_take(&driver, &got, &size));
	assert_int_equal(got, id);
	assert_int_equal(size, 512);
	assert_int_equal(driver.next_used, 3);
	assert_false(packed_take(&driver, &got, &size));
	virtqueue_notify(queue);
	assert_int_equal(interrupts, 1);
	virtqueue_notify(queue);
	assert_int_equal(interrupts, 1);
	assert_int_equal(failures, 0);
}

/* The wrap counters, with chains that stand over the ring's end, for sizes that are powers of two and that are not. */
static void laps(void **state)
{
	static const unsigned sizes[] = {8, 5, 7, 1, 256};

	for (unsigned i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
		use_queue(sizes[i]);
		for (unsigned j = 0; j < 3000; j++)
			use_one(sizes[i] == 1 ? 1 : 1 + j % 4);
		assert_int_equal(failures, 0);
	}
}

static void a_read_only_chain_has_no_length(void **state)
{
	uint32_t size;
	uint16_t id;

	packed_add(&driver, (struct buffer[]){{DATA, 16, false}}, 1);
	virtqueue_push(virtqueue_pop(queue), 0);
	assert_int_equal(get16(machine, driver.ring + 14), PACKED_AVAIL | PACKED_USED);
	assert_true(packed_take(&driver, &id, &size));
	assert_int_equal(size, 0);
}

static void chains_may_come_back_in_any_order(void **state)
{
	static const unsigned order[] = {2, 0, 3, 1};
	struct virtio_chain *chain[4];
	uint32_t size;
	uint16_t id[4], got;

	use_one(3); /* so that they stand over the end */
	for (unsigned i = 0; i < 4; i++)
		id[i] = packed_add(&driver, (struct buffer[]){{DATA, 4, false}, {DATA, 4, true}}, 2);
	for (unsigned i = 0; i < 4; i++)
		chain[i] = virtqueue_pop(queue);
	assert_null(virtqueue_pop(queue));
	for (unsigned i = 0; i < 4; i++)
		virtqueue_push(chain[order[i]], order[i]);
	for (unsigned i = 0; i < 4; i++) {
		assert_true(packed_take(&driver, &got, &size));
		assert_int_equal(got, id[order[i]]);
		assert_int_equal(size, order[i]);
	}
	use_one(2);
	assert_int_equal(failures, 0);
}

static void an_answer_of_several_chains_shows_at_once(void **state)
{
	struct virtio_chain *chain[4];
	uint32_t size;
	uint16_t id;

	for (unsigned i = 0; i < 3; i++)
		use_one(2);
	for (unsigned i = 0; i < 4; i++)
		packed_add(&driver, (struct buffer[]){{DATA, 4, true}, {DATA, 4, true}}, 2);
	for (unsigned i = 0; i < 4; i++)
		chain[i] = virtqueue_pop(queue);
	virtqueue_unpop(chain[3]);
	virtqueue_unpop(chain[2]); /* back over the end of the ring */
	virtqueue_unpop(chain[1]);
	for (unsigned i = 1; i < 4; i++) {
		chain[i] = virtqueue_pop(queue);
		assert_non_null(chain[i]);
	}
	virtqueue_unpop(chain[3]);
	for (unsigned i = 0; i < 3; i++) {
		virtqueue_fill(chain[i], i + 1);
		assert_false(packed_take(&driver, &id, &size));
	}
	virtqueue_flush(queue);
	for (unsigned i = 0; i < 3; i++) {
		assert_true(packed_take(&driver, &id, &size));
		assert_int_equal(size, i + 1);
	}
	assert_false(packed_take(&driver, &id, &size));
	chain[3] = virtqueue_pop(queue);
	assert_non_null(chain[3]);
	virtqueue_push(chain[3], 4);
	assert_true(packed_take(&driver, &id, &size));
	assert_int_equal(failures, 0);
}

static void offer_table(uint32_t size, uint16_t flags)
{
	packed_write(&driver, 0, TABLE, size, 77, (uint16_t)(PACKED_AVAIL | DESC_INDIRECT | flags));
	driver.slots[77] = 1;
}

static void indirect_tables(void **state)
{
	struct virtio_chain *chain;
	uint32_t size;
	uint16_t id;

	/* In order; of the flags only WRITE counts, and IDs are reserved. */
	write_desc(machine, TABLE, 0, DATA, 8, 0x1234, 0);
	write_desc(machine, TABLE, 1, DATA + 64, 8, 0, DESC_WRITE | DESC_NEXT);
	write_desc(machine, TABLE, 2, DATA + 128, 9, 0, DESC_WRITE | PACKED_USED);
	offer_table(48, DESC_WRITE);
	chain = virtqueue_pop(queue);
	assert_non_null(chain);
	assert_int_equal(chain->readable_count, 1);
	assert_int_equal(chain->writable_count, 2);
	assert_int_equal(chain->writable_gpa[1], DATA + 128);
	assert_int_equal(chain->writable_size, 17);
	virtqueue_push(chain, 17);
	assert_true(packed_take(&driver, &id, &size));
	assert_int_equal(id, 77);
	assert_int_equal(size, 17);
	assert_int_equal(driver.next_used, 1); /* it took one slot */
}

static void what_a_driver_must_not_do_breaks_the_queue(void **state)
{
	static const struct {
		uint64_t gpa;
		uint32_t size;
		uint16_t flags;
	} bad[][2] = {
	    {{DATA, 4, DESC_NEXT | DESC_WRITE}, {DATA, 4, 0}},             /* readable after writable */
	    {{UINT64_C(0x4000000000), 4, 0}},                              /* no memory */
	    {{UINT64_MAX - 2, 4, 0}},                                      /* wraps around */
	    {{DATA, UINT32_MAX, DESC_WRITE}},                              /* more than there is */
	    {{0xa0000, 4, DESC_WRITE}},                                    /* a device's memory */
	    {{TABLE, 15, DESC_INDIRECT}},                                  /* not whole descriptors */
	    {{TABLE, 0, DESC_INDIRECT}},                                   /* an empty table */
	    {{TABLE, 16, DESC_INDIRECT | DESC_NEXT}},                      /* indirect and next */
	    {{DATA, 4, DESC_NEXT}, {TABLE, 16, DESC_INDIRECT}},            /* a table in a chain */
	    {{TABLE, 0xfffffff0, DESC_INDIRECT}},                          /* a table outside memory */
	    {{TABLE, 16 * 9, DESC_INDIRECT}},                              /* with more descriptors than the queue */
	    {{DATA, 0x600000, DESC_NEXT}, {DATA, 0xffa00000, DESC_WRITE}}, /* 4 GiB */
	};

	for (unsigned i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		use_queue(8);
		write_desc(machine, TABLE, 0, DATA, 4, 0, 0);
		for (unsigned j = 0; j < 2; j++)
			packed_write(&driver, j, bad[i][j].gpa, bad[i][j].size, 1,
			             (uint16_t)(PACKED_AVAIL | bad[i][j].flags));
		assert_null(virtqueue_pop(queue));
		if (failures != 1)
			fail_msg("case %u was accepted", i);
		assert_null(virtqueue_pop(queue));
		assert_false(virtqueue_has(queue));
	}
	use_queue(8); /* a chain without an end */
	for (unsigned i = 0; i < 8; i++)
		packed_write(&driver, i, DATA, 4, 1, PACKED_AVAIL | DESC_NEXT);
	assert_null(virtqueue_pop(queue));
	assert_int_equal(failures, 1);
	use_queue(8);
	negotiated &= ~VIRTIO_F_INDIRECT_DESC;
	offer_table(16, 0);
	assert_null(virtqueue_pop(queue));
	assert_int_equal(failures, 1);
}

static void bad_places_break_the_queue(void **state)
{
	for (unsigned i = 0; i < BAD_PLACES; i++) {
		use_queue(8);
		packed_add(&driver, (struct buffer[]){{DATA, 4, false}}, 1);
		misplace(i, 2);
		assert_null(virtqueue_pop(queue));
		assert_int_equal(failures, 1);
	}
}

/* A driver that writes over what the device still has cannot make it hold any number of chains. */
static void in_flight_chains_are_bounded(void **state)
{
	struct virtio_chain *chain[4];

	for (unsigned i = 0; i < 4; i++) {
		packed_add(&driver, (struct buffer[]){{DATA, 4, false}, {DATA, 4, true}}, 2);
		chain[i] = virtqueue_pop(queue);
		assert_non_null(chain[i]);
	}
	packed_add(&driver, (struct buffer[]){{DATA, 4, false}}, 1); /* the next lap */
	assert_null(virtqueue_pop(queue));
	assert_int_equal(failures, 1);
	for (unsigned i = 0; i < 4; i++)
		virtqueue_push(chain[i], 0);
	assert_int_equal(get16(machine, driver.ring + 2 * 16 + 14) & PACKED_USED, 0);
}

static void a_reset_forgets_its_chains(void **state)
{
	struct virtio_chain *chain;

	use_one(3);
	packed_add(&driver, (struct buffer[]){{DATA, 4, true}}, 1);
	chain = virtqueue_pop(queue);
	use_queue(8);
	virtqueue_push(chain, 4);
	assert_int_equal(get16(machine, driver.ring + 14), 0);
	assert_int_equal(queue->in_flight, 0);
	use_one(2); /* from slot 0, on the first lap */
	assert_int_equal(failures, 0);
}

/* ---- "Driver and Device Event Suppression" ---- */

static void interrupts_by_flag(void **state)
{
	negotiated &= ~VIRTIO_F_EVENT_IDX;
	use_one(1);
	virtqueue_notify(queue);
	assert_int_equal(interrupts, 1);
	packed_set_event(&driver, 0, EVENT_DISABLE);
	use_one(1);
	virtqueue_notify(queue);
	assert_int_equal(interrupts, 1);
	packed_set_event(&driver, 0, EVENT_ENABLE);
	virtqueue_notify(queue); /* nothing new */
	assert_int_equal(interrupts, 1);
	use_one(1);
	virtqueue_notify(queue);
	assert_int_equal(interrupts, 2);
}

static void interrupts_by_slot(void **state)
{
	packed_set_event(&driver, 2 | EVENT_LAP, EVENT_DESC); /* when slot 2 of this lap is used */
	use_one(1);
	virtqueue_notify(queue);
	use_one(1);
	virtqueue_notify(queue);
	assert_int_equal(interrupts, 0);
	use_one(1);
	virtqueue_notify(queue);
	assert_int_equal(interrupts, 1);
	use_one(2);
	virtqueue_notify(queue); /* it is past */
	assert_int_equal(interrupts, 1);
	packed_set_event(&driver, 1, EVENT_DESC); /* slot 1 of the next lap: 5, 6 and 7, 0 are not it */
	use_one(2);
	use_one(1);
	virtqueue_notify(queue);
	use_one(1);
	virtqueue_notify(queue);
	assert_int_equal(interrupts, 1);
	use_one(3);
	virtqueue_notify(queue);
	assert_int_equal(interrupts, 2);
	packed_set_event(&driver, 6, EVENT_DESC); /* of the lap before, while the device goes over its end */
	use_one(3); /* 4, 5, 6 */
	use_one(3); /* 7, 0, 1 */
	virtqueue_notify(queue);
	assert_int_equal(interrupts, 3);
	packed_set_event(&driver, 6, EVENT_DESC); /* … and now it is past */
	use_one(2);
	virtqueue_notify(queue);
	assert_int_equal(interrupts, 3);
	packed_set_event(&driver, 0x7fff, EVENT_DESC); /* no such slot: never, but for a whole lap */
	for (unsigned i = 0; i < 8; i++)
		use_one(1);
	virtqueue_notify(queue);
	assert_int_equal(interrupts, 4);
	assert_int_equal(failures, 0);
}

static void notifications_by_slot(void **state)
{
	assert_false(virtqueue_has(queue));
	assert_int_equal(device_event(), EVENT_DESC << 16 | EVENT_LAP | 0);
	use_one(3);
	assert_int_equal(device_event(), EVENT_DESC << 16 | EVENT_LAP | 0); /* nobody looked for more */
	assert_null(virtqueue_pop(queue));
	assert_int_equal(device_event(), EVENT_DESC << 16 | EVENT_LAP | 3);
	virtqueue_want_notifications(queue, false);
	assert_int_equal(device_event() >> 16, EVENT_DISABLE);
	use_one(3);
	use_one(3);
	assert_null(virtqueue_pop(queue));
	assert_int_equal(device_event() >> 16, EVENT_DISABLE);
	virtqueue_want_notifications(queue, true);
	assert_int_equal(device_event(), EVENT_DESC << 16 | 1); /* the second lap */
}

static void notifications_by_flag(void **state)
{
	negotiated &= ~VIRTIO_F_EVENT_IDX;
	assert_false(virtqueue_has(queue));
	assert_int_equal(device_event() >> 16, EVENT_ENABLE);
	virtqueue_want_notifications(queue, false);
	assert_int_equal(device_event() >> 16, EVENT_DISABLE);
	virtqueue_want_notifications(queue, true);
	assert_int_equal(device_event() >> 16, EVENT_ENABLE);
}

/* Legacy drivers know split queues only, whatever has been written where modern ones negotiate. */
static void a_legacy_driver_has_split_queues(void **state)
{
	device.legacy = true;
	packed_add(&driver, (struct buffer[]){{DATA, 4, false}}, 1);
	queue->used_gpa = RINGS + 0x1000;
	assert_null(virtqueue_pop(queue)); /* the available index is 0 */
	assert_int_equal(failures, 0);
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
	    TEST(a_chain_is_what_the_driver_wrote),
	    TEST(laps),
	    TEST(a_read_only_chain_has_no_length),
	    TEST(chains_may_come_back_in_any_order),
	    TEST(an_answer_of_several_chains_shows_at_once),
	    TEST(indirect_tables),
	    TEST(what_a_driver_must_not_do_breaks_the_queue),
	    TEST(bad_places_break_the_queue),
	    TEST(in_flight_chains_are_bounded),
	    TEST(a_reset_forgets_its_chains),
	    TEST(interrupts_by_flag),
	    TEST(interrupts_by_slot),
	    TEST(notifications_by_slot),
	    TEST(notifications_by_flag),
	    TEST(a_legacy_driver_has_split_queues),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

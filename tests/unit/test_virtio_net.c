/* virtio-net against VIRTIO 1.2, "Network Device", through the legacy interface; Linux uses the other in
 * tests/system/net. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include "device/virtio/virtio.h"
#include "net_fixture.h"
#include "queue_driver.h"

#define PORTS         0xc000
#define RX_QUEUE      0x100000u
#define TX_QUEUE      0x110000u
#define CONTROL_QUEUE 0x120000u
#define RX_DATA       0x200000u
#define TX_DATA       0x300000u
#define CONTROL_DATA  0x380000u

#define F_CSUM       (1u << 0)
#define F_GUEST_CSUM (1u << 1)
#define F_MAC        (1u << 5)
#define F_HOST_TSO4  (1u << 11)
#define F_MRG_RXBUF  (1u << 15)
#define F_STATUS     (1u << 16)
#define F_CTRL       (1u << 17 | 1u << 18 | 1u << 20)
#define F_CTRL_VLAN  (1u << 19)

static struct machine *machine;
static struct queue_driver rx, tx, control;

static int setup(void **state)
{
	machine = net_fixture_create(NET_MODEL_VIRTIO);
	config_write(machine, 0x10, 4, PORTS);
	config_write(machine, 4, 2, 7);
	return 0;
}

static int teardown(void **state)
{
	net_fixture_destroy(machine);
	return 0;
}

/* ---- the driver's side ---- */

static void start_queue(struct queue_driver *queue, unsigned index, uint64_t gpa)
{
	out(machine, PORTS + 14, 2, index);
	queue_driver_init(queue, machine, in(machine, PORTS + 12, 2), gpa);
	out(machine, PORTS + 8, 4, (uint32_t)(gpa >> 12));
}

static void start(uint32_t features)
{
	out(machine, PORTS + 18, 1, 0);
	out(machine, PORTS + 18, 1, 3);
	assert_int_equal(in(machine, PORTS, 4) & features, features);
	out(machine, PORTS + 4, 4, features);
	start_queue(&rx, 0, RX_QUEUE);
	start_queue(&tx, 1, TX_QUEUE);
	start_queue(&control, 2, CONTROL_QUEUE);
	out(machine, PORTS + 18, 1, 7);
}

static void notify(unsigned queue)
{
	out(machine, PORTS + 16, 2, queue);
}

static void give_buffers(unsigned count, unsigned size)
{
	for (unsigned i = 0; i < count; i++)
		queue_add(&rx, &(struct buffer){RX_DATA + 0x4000 * rx.next_free, size, true}, 1);
	notify(0);
}

static void put_header(uint8_t *at, uint8_t flags, uint8_t gso, unsigned header, unsigned segment,
                       unsigned start_at, unsigned offset)
{
	memset(at, 0, 12);
	at[0] = flags;
	at[1] = gso;
	memcpy(at + 2,
	       (uint16_t[]){(uint16_t)header, (uint16_t)segment, (uint16_t)start_at, (uint16_t)offset}, 8);
}

static void transmit(size_t size, size_t first)
{
	struct buffer buffer[] = {{TX_DATA, (uint32_t)first, false},
	                          {TX_DATA + first, (uint32_t)(size - first), false}};

	queue_add(&tx, buffer, first == size ? 1 : 2);
	notify(1);
}

static uint8_t command(uint8_t class, uint8_t code, const void *data, size_t size)
{
	uint8_t *at = memory_at(machine, CONTROL_DATA);
	struct buffer buffer[] = {{CONTROL_DATA, 2, false},
	                          {CONTROL_DATA + 2, (uint32_t)size, false},
	                          {CONTROL_DATA + 0x1000, 1, true}};
	uint32_t head, written;

	at[0] = class;
	at[1] = code;
	memcpy(at + 2, data, size);
	at[0x1000] = 0x77;
	queue_add(&control, buffer, 3);
	notify(2);
	assert_true(queue_take(&control, &head, &written));
	assert_int_equal(written, 1);
	return at[0x1000];
}

/* ---- tests ---- */

static void identity_and_configuration(void **state)
{
	assert_int_equal(config_read(machine, 0, 4), 0x10001af4);
	for (unsigned i = 0; i < 6; i++)
		assert_int_equal(in(machine, (uint16_t)(PORTS + 20 + i), 1), card_mac[i]);
	assert_int_equal(in(machine, PORTS + 26, 2), 1); /* link */
	start(F_MAC | F_STATUS | F_CSUM | F_HOST_TSO4 | F_MRG_RXBUF | F_CTRL);
	close(wire);
	wire = -1;
	pass(machine, 5000000);
	assert_int_equal(in(machine, PORTS + 26, 2), 0);
	assert_int_equal(in(machine, PORTS + 19, 1) & 2, 2); /* the configuration changed */
}

static void frames_go_out(void **state)
{
	uint8_t frame[600], got[600];
	size_t size = make_ipv4(frame, false, 400);
	uint32_t head, written;

	start(F_MAC);
	put_header(memory_at(machine, TX_DATA), 0, 0, 0, 0, 0, 0);
	memcpy(memory_at(machine, TX_DATA + 10), frame, size);
	transmit(10 + size, 10);
	assert_true(queue_take(&tx, &head, &written));
	assert_int_equal(written, 0);
	assert_int_equal(wire_receive(machine, got, sizeof(got)), size);
	assert_memory_equal(got, frame, size);
	transmit(10 + size, 100); /* the header and the frame in one buffer */
	assert_int_equal(wire_receive(machine, got, sizeof(got)), size);
	assert_memory_equal(got, frame, size);
	transmit(10, 10); /* nothing but a header */
	transmit(5, 5);
	assert_true(queue_take(&tx, &head, &written));
	assert_true(queue_take(&tx, &head, &written));
	assert_true(queue_take(&tx, &head, &written));
	assert_int_equal(wire_receive(machine, got, sizeof(got)), -1);
}

static void checksums_and_segments(void **state)
{
	static uint8_t frame[5000], got[2000];
	size_t size = make_ipv4(frame, true, 3000);
	uint8_t *at = memory_at(machine, TX_DATA);

	start(F_MAC | F_CSUM | F_HOST_TSO4 | F_MRG_RXBUF);
	/* A checksum alone; the pseudo header is of a packet of this size. */
	size = make_ipv4(frame, true, 900);
	memcpy(at + 12, frame, size);
	put_be16(at + 12 + 50, (uint16_t)~plain_sum(NULL, 0, pseudo_header(frame + 14, size - 34)));
	put_header(at, 1, 0, 0, 0, 34, 16);
	transmit(12 + size, 12);
	assert_int_equal(wire_receive(machine, got, sizeof(got)), size);
	assert_memory_equal(got, frame, size);
	size = make_ipv4(frame, true, 3000);
	memcpy(at + 12, frame, size);
	put_header(at, 1, 1, 54, 1200, 34, 16);
	transmit(12 + size, 12);
	for (unsigned i = 0; i < 3; i++) {
		size_t payload = i < 2 ? 1200 : 600;

		assert_int_equal(wire_receive(machine, got, sizeof(got)), 54 + payload);
		assert_true(sums_right(got, 14));
		assert_memory_equal(got + 54, frame + 54 + 1200 * i, payload);
	}
	/* Senseless headers: the frame goes as it is. */
	put_header(at, 1, 1, 54, 1200, 60000, 16);
	transmit(12 + 1000, 12);
	assert_int_equal(wire_receive(machine, got, sizeof(got)), 1000);
	put_header(at, 1, 7, 54, 1200, 34, 16);
	transmit(12 + 1000, 12);
	assert_int_equal(wire_receive(machine, got, sizeof(got)), 1000);
	assert_memory_equal(got, at + 12, 1000);
}

static void frames_come_in(void **state)
{
	uint8_t frame[600];
	size_t size = make_ipv4(frame, false, 400);
	uint32_t head, written;

	start(F_MAC);
	wire_send(machine, frame, size); /* waits for buffers */
	give_buffers(2, 1526);
	pass(machine, 1000000);
	assert_true(queue_take(&rx, &head, &written));
	assert_int_equal(written, 10 + size);
	assert_memory_equal(memory_at(machine, RX_DATA + 10), frame, size);
	for (unsigned i = 0; i < 10; i++)
		assert_int_equal(memory_at(machine, RX_DATA)[i], 0);
	assert_int_equal(in(machine, PORTS + 19, 1) & 1, 1);
	wire_send(machine, frame, size);
	wire_send(machine, frame, size);
	assert_true(queue_take(&rx, &head, &written));
	assert_false(queue_take(&rx, &head, &written));
	give_buffers(1, 1526);
	pass(machine, 1000000);
	assert_true(queue_take(&rx, &head, &written));
	/* A buffer that is too small for a frame: the frame is lost, the buffer is not. */
	give_buffers(1, 200);
	wire_send(machine, frame, size);
	assert_false(queue_take(&rx, &head, &written));
	wire_send(machine, frame, 190);
	assert_true(queue_take(&rx, &head, &written));
	assert_int_equal(written, 200);
}

static void buffers_are_merged(void **state)
{
	uint8_t frame[1600];
	size_t size = make_ipv4(frame, false, 1000);
	uint32_t head, written;

	start(F_MAC | F_MRG_RXBUF);
	give_buffers(2, 400); /* not enough: nothing is used yet */
	wire_send(machine, frame, size);
	assert_false(queue_take(&rx, &head, &written));
	give_buffers(2, 400);
	pass(machine, 1000000);
	for (unsigned i = 0; i < 3; i++) {
		size_t skip = i ? 0 : 12, at = i ? 400 * i - 12 : 0, part = i < 2 ? 400 - skip : size - at;

		assert_true(queue_take(&rx, &head, &written));
		assert_int_equal(head, i);
		assert_int_equal(written, skip + part);
		assert_memory_equal(memory_at(machine, RX_DATA + 0x4000 * i + skip), frame + at, part);
	}
	assert_int_equal(memory_at(machine, RX_DATA)[10], 3); /* num_buffers */
	assert_false(queue_take(&rx, &head, &written));
	wire_send(machine, frame, 300);
	assert_true(queue_take(&rx, &head, &written));
	assert_int_equal(memory_at(machine, RX_DATA + 0x4000 * 3)[10], 1);
}

static bool accepts(const uint8_t *destination)
{
	uint8_t frame[200];
	size_t size = make_ipv4(frame, false, 50);
	uint32_t head, written;

	memcpy(frame, destination, 6);
	wire_send(machine, frame, size);
	return queue_take(&rx, &head, &written);
}

static void receive_modes_and_addresses(void **state)
{
	static const uint8_t broadcast[6] = {255, 255, 255, 255, 255, 255},
	                     other[6] = {0x52, 0x4e, 1, 2, 3, 4};
	static const uint8_t group[6] = {0x01, 0x00, 0x5e, 0, 0, 5}, on = 1, off = 0;
	uint8_t table[20] = {1}, huge[4] = {0xff, 0xff, 0xff, 0x7f};

	start(F_MAC | F_CTRL | 1u << 23);
	give_buffers(64, 1526);
	assert_true(accepts(other)); /* until the driver says otherwise */
	assert_int_equal(command(0, 0, &off, 1), 0);
	assert_false(accepts(other));
	assert_false(accepts(group));
	assert_true(accepts(card_mac));
	assert_true(accepts(broadcast));
	assert_int_equal(command(0, 5, &on, 1), 0); /* no broadcast */
	assert_false(accepts(broadcast));
	assert_int_equal(command(0, 1, &on, 1), 0); /* all multicast */
	assert_true(accepts(group));
	assert_int_equal(command(0, 3, &on, 1), 0); /* no multicast */
	assert_false(accepts(group));
	assert_int_equal(command(0, 3, &off, 1), 0);
	assert_int_equal(command(0, 1, &off, 1), 0);
	memcpy(table + 4, other, 6); /* one unicast, one multicast address */
	table[10] = 1;
	memcpy(table + 14, group, 6);
	assert_int_equal(command(1, 0, table, 20), 0);
	assert_true(accepts(other));
	assert_true(accepts(group));
	assert_int_equal(command(1, 0, huge, 4), 1);
	assert_int_equal(command(1, 0, table, 13), 1); /* cut short */
	assert_true(accepts(other));
	assert_int_equal(command(1, 1, other, 6), 0); /* a new address */
	assert_false(accepts(card_mac));
	assert_int_equal(in(machine, PORTS + 23, 1), 2);
	assert_int_equal(command(0, 9, &on, 1), 1);
	assert_int_equal(command(9, 0, &on, 1), 1);
	/* A reset brings all back. */
	start(F_MAC | F_CTRL);
	give_buffers(8, 1526);
	assert_true(accepts(card_mac));
	assert_int_equal(in(machine, PORTS + 23, 1), card_mac[3]);
}

static void vlans_are_filtered(void **state)
{
	uint8_t frame[200], vlan[2] = {5, 0}, bad[2] = {0, 0x10};
	size_t size = make_ipv4(frame, false, 50);
	uint32_t head, written;

	start(F_MAC | F_CTRL | F_CTRL_VLAN);
	give_buffers(8, 1526);
	put_be16(frame + 12, 0x8100);
	put_be16(frame + 14, 0x2005);
	wire_send(machine, frame, size);
	assert_false(queue_take(&rx, &head, &written));
	assert_int_equal(command(2, 0, vlan, 2), 0);
	wire_send(machine, frame, size);
	assert_true(queue_take(&rx, &head, &written));
	assert_int_equal(command(2, 1, vlan, 2), 0);
	wire_send(machine, frame, size);
	assert_false(queue_take(&rx, &head, &written));
	assert_int_equal(command(2, 0, bad, 2), 1);
}

/* More than are sent at once are sent later, without another notification. */
static void many_frames_are_all_sent(void **state)
{
	uint8_t frame[100], got[100];
	size_t size = make_ipv4(frame, false, 50);

	start(F_MAC);
	put_header(memory_at(machine, TX_DATA), 0, 0, 0, 0, 0, 0);
	memcpy(memory_at(machine, TX_DATA + 10), frame, size);
	for (unsigned round = 0; round < 2; round++) {
		for (unsigned i = 0; i < 200; i++)
			queue_add(&tx, &(struct buffer){TX_DATA, (uint32_t)(10 + size), false}, 1);
		notify(1);
		for (unsigned i = 0; i < 200; i++)
			assert_int_equal(wire_receive(machine, got, sizeof(got)), size);
	}
	assert_int_equal(queue_used_index(&tx), 400);
}

static void hostile_queues(void **state)
{
	uint8_t frame[200];
	size_t size = make_ipv4(frame, false, 50);

	start(F_MAC | F_MRG_RXBUF);
	for (unsigned i = 0; i < 100; i++)
		queue_add(&rx, &(struct buffer){RX_DATA, 1, true},
		          1); /* one byte each: no room for a header */
	notify(0);
	wire_send(machine, frame, size);
	queue_add(&rx, &(struct buffer){0xfffff000u, 4096, true}, 1);
	queue_add(&tx, &(struct buffer){UINT64_MAX, 4096, false}, 1);
	notify(0);
	notify(1);
	wire_send(machine, frame, size);
	start(F_MAC);
	give_buffers(1, 1526);
	wire_send(machine, frame, size);
	assert_int_equal(queue_used_index(&rx), 1);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
	const struct CMUnitTest tests[] = {
	    TEST(identity_and_configuration),
	    TEST(frames_go_out),
	    TEST(checksums_and_segments),
	    TEST(frames_come_in),
	    TEST(buffers_are_merged),
	    TEST(receive_modes_and_addresses),
	    TEST(vlans_are_filtered),
	    TEST(many_frames_are_all_sent),
	    TEST(hostile_queues),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

/* src/net: checksums and segmentation against RFC 1071's rules, user mode by a hand-made client, a tap by a
 * socket. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include <arpa/inet.h>
#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "net/net.h"
#include "util/error.h"

static const uint8_t guest_mac[6] = {0x52, 0x4e, 0x45, 0x53, 0x54, 0x01};

/* ---- a card that keeps what it gets ---- */

struct card {
	struct net *net;
	uint8_t frame[64][NET_FRAME_MAX];
	size_t size[64];
	unsigned count, room; /* takes no more than room frames */
	unsigned sendable, links;
	uint64_t now;
	pthread_mutex_t lock;
};

static struct card card;

static void card_received(void *context)
{
	const struct net_frame *frame;

	pthread_mutex_lock(&card.lock);
	while (card.count < card.room && (frame = net_first(card.net))) {
		memcpy(card.frame[card.count], frame->data, frame->size);
		card.size[card.count++] = frame->size;
		net_drop_first(card.net);
	}
	pthread_mutex_unlock(&card.lock);
}

static void card_sendable(void *context)
{
	pthread_mutex_lock(&card.lock);
	card.sendable++;
	pthread_mutex_unlock(&card.lock);
}

static void card_link(void *context)
{
	pthread_mutex_lock(&card.lock);
	card.links++;
	pthread_mutex_unlock(&card.lock);
}

static uint64_t card_now(void *context)
{
	return card.now;
}

static struct net_config user_config(void)
{
	return (struct net_config){
	    .kind = NET_USER, .ipv6 = true, .fd = -1, .network = 0x0a000200, .mask = 0xffffff00};
}

static void open_card(const struct net_config *config, bool threaded)
{
	struct net_receiver receiver = {.received = card_received,
	                                .sendable = card_sendable,
	                                .link_changed = card_link,
	                                .now_ns = threaded ? NULL : card_now};

	card.count = card.sendable = card.links = 0;
	card.room = 64;
	card.now = 1000000000;
	pthread_mutex_init(&card.lock, NULL);
	if (net_open(&card.net, config, &receiver, threaded))
		fail_msg("%s", error_text());
}

static bool send_frame(const void *frame, size_t size)
{
	struct iovec piece = {(void *)frame, size};

	return net_send(card.net, &piece, 1, NULL);
}

/* Waits up to 5 s of the host's time until the card has `count` frames. */
static bool wait_frames(unsigned count)
{
	for (unsigned i = 0; i < 5000; i++) {
		unsigned now;

		pthread_mutex_lock(&card.lock);
		now = card.count;
		pthread_mutex_unlock(&card.lock);
		if (now >= count)
			return true;
		usleep(1000);
	}
	return false;
}

/* ---- frames ---- */

static void put16(uint8_t *at, unsigned value)
{
	at[0] = (uint8_t)(value >> 8);
	at[1] = (uint8_t)value;
}

static unsigned get16(const uint8_t *at)
{
	return (unsigned)at[0] << 8 | at[1];
}

static uint32_t get32(const uint8_t *at)
{
	return (uint32_t)get16(at) << 16 | get16(at + 2);
}

/* The plainest form of RFC 1071's sum, to check the fast one by. */
static uint16_t slow_sum(const uint8_t *data, size_t size, uint32_t sum)
{
	for (size_t i = 0; i < size; i++)
		sum += i % 2 ? data[i] : (uint32_t)data[i] << 8;
	while (sum >> 16)
		sum = (sum & 0xffff) + (sum >> 16);
	return (uint16_t)~sum;
}

/* 0 where the TCP or UDP checksum of an IPv4 packet is right. */
static uint16_t check_ipv4(const uint8_t *ip)
{
	size_t header = 4u * (ip[0] & 15), size = get16(ip + 2);
	uint32_t pseudo = ip[9] + (uint32_t)(size - header);

	assert_int_equal(slow_sum(ip, header, 0), 0);
	for (unsigned i = 12; i < 20; i += 2)
		pseudo += get16(ip + i);
	return slow_sum(ip + header, size - header, pseudo);
}

/* Ethernet, IPv4, UDP around `size` bytes; returns the frame's size. */
static size_t make_udp(uint8_t *frame, const char *from, const char *to, unsigned source,
                       unsigned destination, const void *data, size_t size)
{
	uint8_t *ip = frame + 14, *udp = ip + 20;

	memset(frame, 0, 42);
	memset(frame, 0xff, 6);
	memcpy(frame + 6, guest_mac, 6);
	put16(frame + 12, 0x0800);
	ip[0] = 0x45;
	put16(ip + 2, (unsigned)(28 + size));
	ip[8] = 64;
	ip[9] = 17;
	inet_pton(AF_INET, from, ip + 12);
	inet_pton(AF_INET, to, ip + 16);
	put16(ip + 10, slow_sum(ip, 20, 0));
	put16(udp, source);
	put16(udp + 2, destination);
	put16(udp + 4, (unsigned)(8 + size));
	memcpy(udp + 8, data, size);
	return 42 + size;
}

static size_t make_arp(uint8_t *frame, const char *from, const char *to)
{
	static const uint8_t fixed[] = {0x08, 0x06, 0, 1, 8, 0, 6, 4, 0, 1};

	memset(frame, 0, 60);
	memset(frame, 0xff, 6);
	memcpy(frame + 6, guest_mac, 6);
	memcpy(frame + 12, fixed, sizeof(fixed));
	memcpy(frame + 22, guest_mac, 6);
	inet_pton(AF_INET, from, frame + 28);
	inet_pton(AF_INET, to, frame + 38);
	return 60;
}

/* ---- offload ---- */

static void sum_is_rfc_1071(void **state)
{
	/* RFC 1071, section 3: the sum of these bytes is ddf2. */
	static const uint8_t example[] = {0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7};
	uint8_t data[300];

	assert_int_equal(net_sum_finish(net_sum(example, sizeof(example), 0)), (uint16_t)~0xddf2);
	for (unsigned i = 0; i < sizeof(data); i++)
		data[i] = (uint8_t)(i * i + 201);
	for (unsigned size = 0; size < sizeof(data); size++)
		assert_int_equal(net_sum_finish(net_sum(data, size, 0)), slow_sum(data, size, 0));
}

struct emitted {
	uint8_t frame[80][1600];
	size_t size[80];
	unsigned count;
};

static struct emitted emitted;

static void emit(void *context, uint8_t *frame, size_t size)
{
	assert_true(emitted.count < 80);
	if (size <= sizeof(emitted.frame[0]))
		memcpy(emitted.frame[emitted.count], frame, size);
	emitted.size[emitted.count++] = size;
}

static void checksum_is_completed(void **state)
{
	uint8_t frame[200];
	size_t size = make_udp(frame, "10.0.2.15", "10.0.2.2", 1000, 2000, "odd", 3);
	struct net_offload offload = {.sum = {true, 34, 40, 0}};

	/* The driver leaves the pseudo header's sum. */
	put16(frame + 40, (uint16_t)~slow_sum(frame + 26, 8, 17 + 11));
	emitted.count = 0;
	net_offload_do(&offload, frame, size, 0, emit, NULL);
	assert_int_equal(emitted.count, 1);
	assert_int_equal(check_ipv4(emitted.frame[0] + 14), 0);
	/* Places outside of the frame are left alone. */
	offload.sum = (struct net_checksum){true, 34, (uint16_t)(size - 1), 0};
	net_offload_do(&offload, frame, size, 0, emit, NULL);
	offload.sum = (struct net_checksum){true, 5000, 40, 0};
	net_offload_do(&offload, frame, size, 0, emit, NULL);
	assert_memory_equal(emitted.frame[1], emitted.frame[0], size);
	assert_memory_equal(emitted.frame[2], emitted.frame[0], size);
}

static size_t make_large_tcp(uint8_t *frame, size_t payload)
{
	uint8_t *ip = frame + 14, *tcp = ip + 20;

	make_udp(frame, "10.0.2.15", "10.0.2.2", 1000, 2000, "", 0);
	ip[9] = 6;
	put16(ip + 2, 0); /* e1000e's driver leaves it to the card */
	put16(ip + 4, 0xfffe);
	memset(tcp + 4, 0, 16);
	put16(tcp + 4, 0xffff);
	put16(tcp + 6, 0xff00);
	tcp[12] = 0x50;
	tcp[13] = 0x80 | 0x10 | 0x08 | 0x01; /* CWR, ACK, PSH, FIN */
	for (size_t i = 0; i < payload; i++)
		tcp[20 + i] = (uint8_t)(i * 7 + i / 256);
	return 54 + payload;
}

static const struct net_offload segment_offload = {
    .segment = 1000, .ip_start = 14, .transport_start = 34, .header_size = 54};

static void tcp_is_segmented(void **state)
{
	static uint8_t frame[65536];
	size_t size = make_large_tcp(frame, 2500), at = 0;

	emitted.count = 0;
	net_offload_do(&segment_offload, frame, size, 0, emit, NULL);
	assert_int_equal(emitted.count, 3);
	for (unsigned i = 0; i < 3; i++) {
		const uint8_t *ip = emitted.frame[i] + 14, *tcp = ip + 20;
		size_t payload = i < 2 ? 1000 : 500;

		assert_int_equal(emitted.size[i], 54 + payload);
		assert_int_equal(get16(ip + 2), 40 + payload);
		assert_int_equal(get16(ip + 4), (0xfffe + i) & 0xffff);
		assert_int_equal(get32(tcp + 4), 0xffffff00u + (uint32_t)at);
		assert_int_equal(tcp[13], 0x10 | (i == 0 ? 0x80 : 0) | (i == 2 ? 0x09 : 0));
		assert_int_equal(check_ipv4(ip), 0);
		for (size_t j = 0; j < payload; j++, at++)
			assert_int_equal(tcp[20 + j], (uint8_t)(at * 7 + at / 256));
	}
}

static void tcp_stays_large_where_it_may(void **state)
{
	static uint8_t frame[70000];
	size_t size = make_large_tcp(frame, 65000);

	emitted.count = 0;
	net_offload_do(&segment_offload, frame, size, 61000, emit, NULL);
	assert_int_equal(emitted.count, 2);
	assert_int_equal(emitted.size[0], 54 + 61000);
	assert_int_equal(emitted.size[1], 54 + 4000);
	/* No IP packet becomes longer than its length field can say. */
	size = make_large_tcp(frame, 69000);
	emitted.count = 0;
	net_offload_do(&segment_offload, frame, size, 1000000, emit, NULL);
	assert_int_equal(emitted.count, 2);
	assert_int_equal(emitted.size[0], 14 + 65535);
}

static void ipv6_and_udp_are_segmented(void **state)
{
	static uint8_t frame[4000];
	const struct net_offload offload = {
	    .segment = 700, .ip_start = 18, .transport_start = 58, .header_size = 66, .udp = true};
	struct net_parsed parsed;

	memset(frame, 0, sizeof(frame));
	memcpy(frame + 6, guest_mac, 6);
	put16(frame + 12, 0x8100); /* a VLAN tag */
	put16(frame + 14, 5);
	put16(frame + 16, 0x86dd);
	frame[18] = 0x60;
	frame[24] = 17;
	frame[25] = 64;
	frame[26] = frame[42] = 0xfe;
	put16(frame + 58, 53);
	put16(frame + 60, 54);
	for (unsigned i = 66; i < 66 + 1000; i++)
		frame[i] = (uint8_t)(i * 3);
	emitted.count = 0;
	net_offload_do(&offload, frame, 66 + 1000, 60000, emit, NULL);
	assert_int_equal(emitted.count, 2);
	for (unsigned i = 0; i < 2; i++) {
		size_t payload = i ? 300 : 700;

		assert_int_equal(emitted.size[i], 66 + payload);
		assert_int_equal(get16(emitted.frame[i] + 22), 8 + payload);
		assert_int_equal(get16(emitted.frame[i] + 62), 8 + payload);
		net_parse(&parsed, emitted.frame[i], emitted.size[i], true);
		assert_int_equal(parsed.ip_version, 6);
		assert_int_equal(parsed.protocol, 17);
		assert_int_equal(parsed.header_size, 66);
		assert_true(parsed.transport_checked && parsed.transport_good);
		emitted.frame[i][66] ^= 1;
		net_parse(&parsed, emitted.frame[i], emitted.size[i], true);
		assert_true(parsed.transport_checked && !parsed.transport_good);
	}
}

static void senseless_offloads_change_nothing_else(void **state)
{
	static uint8_t frame[3000], copy[3000];
	uint64_t seed = 1;

	for (unsigned round = 0; round < 200000; round++) {
		struct net_offload offload;
		size_t size;

		for (unsigned i = 0; i < sizeof(offload); i++) {
			seed = seed * 6364136223846793005u + 1442695040888963407u;
			((uint8_t *)&offload)[i] = (uint8_t)(seed >> (seed >> 61 ? 40 : 60));
		}
		offload.ip.wanted = seed >> 33 & 1;
		offload.sum.wanted = seed >> 34 & 1;
		offload.udp = seed >> 35 & 1;
		size = 14 + (seed >> 40) % 1200;
		if (offload.segment && offload.segment < 40)
			offload.segment = 40;
		offload.ip_start %= 80;
		offload.transport_start %= 100;
		offload.header_size %= 200;
		memset(frame, 0x45, sizeof(frame));
		memcpy(copy, frame, sizeof(copy));
		emitted.count = 0;
		net_offload_do(&offload, frame, size, seed >> 36 & 1 ? 900 : 0, emit, NULL);
		assert_true(emitted.count >= 1);
		assert_memory_equal(frame + size, copy + size, sizeof(frame) - size);
	}
}

static void parse_survives_any_bytes(void **state)
{
	uint8_t data[200], *frame;
	uint64_t seed = 7;
	struct net_parsed parsed;

	for (unsigned round = 0; round < 300000; round++) {
		size_t size;

		for (unsigned i = 0; i < sizeof(data); i++) {
			seed = seed * 6364136223846793005u + 1442695040888963407u;
			data[i] = (uint8_t)(seed >> 56);
		}
		size = seed >> 33 & 127;
		put16(data + 12, seed & 1 << 20 ? 0x0800 : 0x86dd);
		data[14] = seed & 1 << 20 ? 0x45 : 0x60;
		put16(data + (seed & 1 << 20 ? 16 : 18), (unsigned)(seed >> 45 & 127));
		if (seed & 1 << 21)
			data[seed & 1 << 20 ? 23 : 20] = (uint8_t)(seed & 1 << 22   ? 6
			                                           : seed & 1 << 23 ? 17
			                                                            : 44);
		frame = malloc(size + 1); /* for AddressSanitizer */
		memcpy(frame, data, size);
		net_parse(&parsed, frame, size, true);
		assert_true(parsed.header_size <= size && parsed.end <= size);
		free(frame);
	}
}

/* ---- user mode ---- */

/* The DHCP option `code` of a reply's frame, or NULL. */
static const uint8_t *dhcp_option(const uint8_t *frame, size_t size, uint8_t code)
{
	for (size_t at = 42 + 240; at + 1 < size && frame[at] != 255; at += 2u + frame[at + 1])
		if (frame[at] == code)
			return frame + at + 2;
	return NULL;
}

static size_t make_dhcp(uint8_t *frame, uint8_t type)
{
	uint8_t message[300] = {1, 1, 6, 0, 0xca, 0xfe, 0xba, 0xbe};
	static const uint8_t cookie[] = {99, 130, 83, 99};

	memcpy(message + 28, guest_mac, 6);
	memcpy(message + 236, cookie, 4);
	message[240] = 53;
	message[241] = 1;
	message[242] = type;
	message[243] = 255;
	return make_udp(frame, "0.0.0.0", "255.255.255.255", 68, 67, message, sizeof(message));
}

static void dhcp_gives_an_address(void **state)
{
	struct net_config config = user_config();
	uint8_t frame[600];
	const uint8_t *reply;

	strcpy(config.boot_file, "pxe.0");
	open_card(&config, true);
	assert_true(net_link_up(card.net));
	assert_true(send_frame(frame, make_dhcp(frame, 1)));
	assert_true(wait_frames(1));
	reply = card.frame[0];
	assert_int_equal(*dhcp_option(reply, card.size[0], 53), 2); /* an offer */
	assert_true(send_frame(frame, make_dhcp(frame, 3)));
	assert_true(wait_frames(2));
	reply = card.frame[1];
	assert_int_equal(*dhcp_option(reply, card.size[1], 53), 5); /* acknowledged */
	assert_int_equal(get32(reply + 42 + 16), 0x0a00020f);
	assert_int_equal(get32(dhcp_option(reply, card.size[1], 3)), 0x0a000202);
	assert_int_equal(get32(dhcp_option(reply, card.size[1], 6)), 0x0a000203);
	assert_string_equal((const char *)reply + 42 + 108, "pxe.0");
	assert_int_equal(check_ipv4(reply + 14), 0);
	net_close(card.net);
}

static void polled_network_answers_at_once(void **state)
{
	struct net_config config = user_config();
	uint8_t frame[600];

	open_card(&config, false);
	assert_true(send_frame(frame, make_arp(frame, "10.0.2.15", "10.0.2.2")));
	assert_int_equal(card.count, 0);
	net_poll(card.net, 0);
	assert_int_equal(card.count, 1);
	assert_int_equal(get16(card.frame[0] + 12), 0x0806);
	assert_int_equal(get16(card.frame[0] + 20), 2);
	assert_int_equal(get32(card.frame[0] + 28), 0x0a000202);
	assert_memory_equal(card.frame[0], guest_mac, 6);
	net_close(card.net);
}

static void frames_wait_for_a_card_without_room(void **state)
{
	struct net_config config = user_config();
	uint8_t frame[600];

	open_card(&config, true);
	card.room = 1;
	for (unsigned i = 0; i < 3; i++)
		send_frame(frame, make_arp(frame, "10.0.2.15", "10.0.2.2"));
	assert_true(wait_frames(1));
	usleep(50000);
	assert_int_equal(card.count, 1);
	pthread_mutex_lock(&card.lock);
	card.room = 64;
	pthread_mutex_unlock(&card.lock);
	net_resume(card.net);
	assert_true(wait_frames(3));
	net_close(card.net);
}

static void full_queue_refuses_and_tells(void **state)
{
	struct net_config config = user_config();
	static uint8_t frame[60000];
	unsigned sent = 0;

	memcpy(frame + 6, guest_mac, 6);
	open_card(&config, false);
	while (send_frame(frame, sizeof(frame)) && sent < 1000)
		sent++;
	assert_in_range(sent, 10, 100);
	assert_int_equal(card.sendable, 0);
	net_poll(card.net, 0);
	assert_int_equal(card.sendable, 1);
	assert_true(send_frame(frame, sizeof(frame)));
	/* What cannot be a frame is taken and dropped. */
	assert_true(send_frame(frame, 13));
	assert_true(send_frame(frame, 0));
	net_close(card.net);
}

/* A datagram to a forwarded port reaches the guest, and its answer comes back. */
static void forwarded_datagram_and_answer(void **state)
{
	struct net_config config = user_config();
	int outside = socket(AF_INET, SOCK_DGRAM, 0), probe = socket(AF_INET, SOCK_DGRAM, 0);
	struct sockaddr_in to = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	socklen_t size = sizeof(to);
	uint8_t frame[600];
	char answer[16] = "";
	struct pollfd readable = {outside, POLLIN, 0};

	/* A port that is free now. */
	assert_int_equal(bind(probe, (struct sockaddr *)&to, sizeof(to)), 0);
	assert_int_equal(getsockname(probe, (struct sockaddr *)&to, &size), 0);
	close(probe);
	config.forward_count = 1;
	config.forward[0] = (struct net_forward){
	    .udp = true, .host_address = INADDR_LOOPBACK, .host_port = ntohs(to.sin_port), .guest_port = 7};
	open_card(&config, true);
	send_frame(frame, make_arp(frame, "10.0.2.15", "10.0.2.2")); /* now it knows the guest's MAC */
	assert_true(wait_frames(1));
	assert_int_equal(sendto(outside, "hello", 5, 0, (struct sockaddr *)&to, sizeof(to)), 5);
	assert_true(wait_frames(2));
	assert_int_equal(get16(card.frame[1] + 36), 7);
	assert_memory_equal(card.frame[1] + 42, "hello", 5);
	send_frame(frame,
	           make_udp(frame, "10.0.2.15", "10.0.2.2", 7, get16(card.frame[1] + 34), "welcome", 7));
	assert_int_equal(poll(&readable, 1, 5000), 1);
	assert_int_equal(recv(outside, answer, sizeof(answer), 0), 7);
	assert_string_equal(answer, "welcome");
	net_close(card.net);
	close(outside);
}

static void taken_port_is_an_error(void **state)
{
	struct net_config config = user_config();
	struct net_receiver receiver = {.received = card_received};
	int listener = socket(AF_INET, SOCK_STREAM, 0);
	struct sockaddr_in at = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	socklen_t size = sizeof(at);
	struct net *net = NULL;

	assert_int_equal(bind(listener, (struct sockaddr *)&at, sizeof(at)), 0);
	assert_int_equal(listen(listener, 1), 0);
	getsockname(listener, (struct sockaddr *)&at, &size);
	config.forward_count = 1;
	config.forward[0] = (struct net_forward){
	    .host_address = INADDR_LOOPBACK, .host_port = ntohs(at.sin_port), .guest_port = 22};
	assert_int_equal(net_open(&net, &config, &receiver, true), -EADDRINUSE);
	assert_null(net);
	assert_non_null(strstr(error_text(), "127.0.0.1"));
	close(listener);
}

/* ---- tap ---- */

static void socket_carries_frames_and_loses_the_link(void **state)
{
	int pair[2];
	struct net_config config = {.kind = NET_TAP};
	uint8_t frame[100], got[100];

	assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET, 0, pair), 0);
	config.fd = pair[0];
	open_card(&config, true);
	memset(frame, 0x5a, sizeof(frame));
	assert_true(send_frame(frame, sizeof(frame)));
	assert_int_equal(read(pair[1], got, sizeof(got)), sizeof(frame));
	assert_memory_equal(got, frame, sizeof(frame));
	assert_int_equal(write(pair[1], frame, 77), 77);
	assert_true(wait_frames(1));
	assert_int_equal(card.size[0], 77);
	close(pair[1]);
	for (unsigned i = 0; i < 5000 && net_link_up(card.net); i++)
		usleep(1000);
	assert_false(net_link_up(card.net));
	usleep(20000);
	assert_int_equal(card.links, 1);
	assert_true(send_frame(frame, sizeof(frame)));
	net_close(card.net);
}

static void bad_taps_are_errors(void **state)
{
	struct net_config config = {.kind = NET_TAP, .fd = 999};
	struct net_receiver receiver = {.received = card_received};
	struct net *net = NULL;
	int pipes[2];

	assert_int_equal(net_open(&net, &config, &receiver, true), -EBADF);
	assert_int_equal(pipe(pipes), 0);
	config.fd = pipes[0];
	assert_int_equal(net_open(&net, &config, &receiver, true), -EINVAL);
	assert_null(net);
	close(pipes[0]);
	close(pipes[1]);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(sum_is_rfc_1071),
	    cmocka_unit_test(checksum_is_completed),
	    cmocka_unit_test(tcp_is_segmented),
	    cmocka_unit_test(tcp_stays_large_where_it_may),
	    cmocka_unit_test(ipv6_and_udp_are_segmented),
	    cmocka_unit_test(senseless_offloads_change_nothing_else),
	    cmocka_unit_test(parse_survives_any_bytes),
#ifdef NESTOR_HAVE_SLIRP
	    cmocka_unit_test(dhcp_gives_an_address),
	    cmocka_unit_test(polled_network_answers_at_once),
	    cmocka_unit_test(frames_wait_for_a_card_without_room),
	    cmocka_unit_test(full_queue_refuses_and_tells),
	    cmocka_unit_test(forwarded_datagram_and_answer),
	    cmocka_unit_test(taken_port_is_an_error),
#endif
	    cmocka_unit_test(socket_carries_frames_and_loses_the_link),
	    cmocka_unit_test(bad_taps_are_errors),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

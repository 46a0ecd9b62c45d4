/*
 * A machine with one network card whose wire ends in the test: frames go in and out through a socket. The
 * clock is the fixture's, so the card's network is served by the machine's timers.
 */
#ifndef NESTOR_TESTS_NET_FIXTURE_H
#define NESTOR_TESTS_NET_FIXTURE_H

#include <fcntl.h>
#include <sys/socket.h>
#include <unistd.h>

#include "machine_fixture.h"

static const uint8_t card_mac[6] = {0x52, 0x4e, 0x45, 0x53, 0x54, 0x01};
static const uint8_t peer_mac[6] = {0x02, 0x00, 0x00, 0x00, 0x00, 0x02};

static int wire;               /* the test's end */
static unsigned card_function; /* bus 0: device << 3 | function */

static inline uint32_t config_read(struct machine *machine, unsigned offset, unsigned size)
{
	out(machine, 0xcf8, 4, 0x80000000u | card_function << 8 | (offset & 0xfc));
	return in(machine, (uint16_t)(0xcfc + (offset & 3)), size);
}

static inline void config_write(struct machine *machine, unsigned offset, unsigned size, uint32_t value)
{
	out(machine, 0xcf8, 4, 0x80000000u | card_function << 8 | (offset & 0xfc));
	out(machine, (uint16_t)(0xcfc + (offset & 3)), size, value);
}

static inline struct machine *net_fixture_create(enum net_model model)
{
	struct machine_config config = fixture_config("null");
	struct machine *machine;
	int pair[2], size = 1 << 20;

	if (socketpair(AF_UNIX, SOCK_SEQPACKET, 0, pair))
		abort();
	setsockopt(pair[0], SOL_SOCKET, SO_SNDBUF, &size, sizeof(size));
	wire = pair[1];
	fcntl(wire, F_SETFL, O_NONBLOCK);
	config.net_count = 1;
	config.net[0] = (struct net_config){.kind = NET_TAP, .model = model, .fd = pair[0], .boot_index = -1};
	memcpy(config.net[0].mac, card_mac, 6);
	machine = fixture_create_from(&config);
	for (card_function = 0; card_function < 256; card_function++)
		if (config_read(machine, 8, 4) >> 8 == 0x020000)
			return machine;
	abort();
}

static inline void net_fixture_destroy(struct machine *machine)
{
	machine_destroy(machine);
	if (wire >= 0)
		close(wire);
	wire = -1;
}

/* The capability's place in configuration space, or 0. */
static inline unsigned find_capability(struct machine *machine, uint8_t id)
{
	unsigned at = config_read(machine, 0x34, 1);

	while (at && config_read(machine, at, 1) != id)
		at = config_read(machine, at + 1, 1);
	return at;
}

/* A frame onto the wire, and time for it to arrive. */
static inline void wire_send(struct machine *machine, const void *frame, size_t size)
{
	if (send(wire, frame, size, 0) != (ssize_t)size)
		abort();
	pass(machine, 3000000);
}

/* The next frame from the card, or -1. */
static inline ssize_t wire_receive(struct machine *machine, void *frame, size_t size)
{
	pass(machine, 1000000);
	return recv(wire, frame, size, 0);
}

static inline uint8_t *memory_at(struct machine *machine, uint64_t gpa)
{
	return machine_memory(machine, GPA(gpa), 1);
}

/* ---- frames ---- */

static inline void put_be16(uint8_t *at, unsigned value)
{
	at[0] = (uint8_t)(value >> 8);
	at[1] = (uint8_t)value;
}

static inline unsigned get_be16(const uint8_t *at)
{
	return (unsigned)at[0] << 8 | at[1];
}

/* RFC 1071, in its plainest form. */
static inline uint16_t plain_sum(const uint8_t *data, size_t size, uint32_t sum)
{
	for (size_t i = 0; i < size; i++)
		sum += i % 2 ? data[i] : (uint32_t)data[i] << 8;
	while (sum >> 16)
		sum = (sum & 0xffff) + (sum >> 16);
	return (uint16_t)~sum;
}

static inline uint32_t pseudo_header(const uint8_t *ip, size_t size)
{
	uint32_t sum = ip[9] + (uint32_t)size;

	for (unsigned i = 12; i < 20; i += 2)
		sum += get_be16(ip + i);
	return sum;
}

/* Ethernet, IPv4 and TCP (20 bytes) or UDP (8) headers before `payload` bytes, all checksums right; the whole
 * size. */
static inline size_t make_ipv4(uint8_t *frame, bool tcp, size_t payload)
{
	uint8_t *ip = frame + 14, *transport = ip + 20;
	size_t size = (tcp ? 20 : 8) + payload;

	memcpy(frame, card_mac, 6);
	memcpy(frame + 6, peer_mac, 6);
	put_be16(frame + 12, 0x0800);
	memset(ip, 0, 20 + (tcp ? 20 : 8));
	ip[0] = 0x45;
	put_be16(ip + 2, (unsigned)(20 + size));
	put_be16(ip + 4, 0x1234);
	ip[8] = 64;
	ip[9] = tcp ? 6 : 17;
	memcpy(ip + 12, (uint8_t[]){66, 9, 149, 187, 161, 142, 100, 80}, 8);
	put_be16(ip + 10, plain_sum(ip, 20, 0));
	put_be16(transport, 2794);
	put_be16(transport + 2, 1766);
	for (size_t i = 0; i < payload; i++)
		transport[size - payload + i] = (uint8_t)(i * 5 + i / 256);
	if (tcp) {
		transport[12] = 0x50;
		transport[13] = 0x18;
		put_be16(transport + 16, plain_sum(transport, size, pseudo_header(ip, size)));
	} else {
		put_be16(transport + 4, (unsigned)size);
		put_be16(transport + 6, plain_sum(transport, size, pseudo_header(ip, size)));
	}
	return 34 + size;
}

/* Are the frame's IPv4 checksums right? head: of its link header. */
static inline bool sums_right(const uint8_t *frame, size_t head)
{
	const uint8_t *ip = frame + head;
	size_t size = get_be16(ip + 2) - 20u;

	return plain_sum(ip, 20, 0) == 0 && plain_sum(ip + 20, size, pseudo_header(ip, size)) == 0;
}

#endif

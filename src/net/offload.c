#include "net/offload.h"

#include <string.h>

#define ETHERNET_SIZE  14
#define TYPE_IPV4      0x0800
#define TYPE_IPV6      0x86dd
#define TYPE_VLAN      0x8100
#define TYPE_QINQ      0x88a8
#define PROTOCOL_TCP   6
#define PROTOCOL_UDP   17
#define HEADERS_MAX    1024 /* of a packet that is cut */
#define EXTENSIONS_MAX 8

#define TCP_FIN 0x01
#define TCP_PSH 0x08
#define TCP_CWR 0x80

static uint16_t get16(const uint8_t *at)
{
	return (uint16_t)(at[0] << 8 | at[1]);
}

static void put16(uint8_t *at, size_t value)
{
	at[0] = (uint8_t)(value >> 8);
	at[1] = (uint8_t)value;
}

static uint32_t get32(const uint8_t *at)
{
	return (uint32_t)get16(at) << 16 | get16(at + 2);
}

static void put32(uint8_t *at, uint32_t value)
{
	put16(at, value >> 16);
	put16(at + 2, value & 0xffff);
}

/* RFC 1071: the sum may be taken of wider words in the host's byte order, and be swapped and folded at the
 * end. */
uint64_t net_sum(const void *data, size_t size, uint64_t sum)
{
	const uint8_t *p = data;
	uint64_t other = 0;
	uint32_t word[4];
	uint16_t half = 0;

	for (; size >= sizeof(word); p += sizeof(word), size -= sizeof(word)) {
		memcpy(word, p, sizeof(word));
		sum += (uint64_t)word[0] + word[1];
		other += (uint64_t)word[2] + word[3];
	}
	for (; size >= 2; p += 2, size -= 2) {
		memcpy(&half, p, 2);
		sum += half;
	}
	return sum + other + (size ? *p : 0);
}

uint16_t net_sum_finish(uint64_t sum)
{
	while (sum >> 16)
		sum = (sum & 0xffff) + (sum >> 16);
	return (uint16_t)~__builtin_bswap16((uint16_t)sum);
}

/* The pseudo header's sum (RFC 793, RFC 8200 "Upper-Layer Checksums"); size: of the transport header and
 * payload. */
static uint64_t pseudo_sum(const uint8_t *ip, unsigned version, uint8_t protocol, size_t size)
{
	uint8_t rest[6] = {
	    0, protocol, (uint8_t)(size >> 24), (uint8_t)(size >> 16), (uint8_t)(size >> 8), (uint8_t)size};

	return net_sum(version == 4 ? ip + 12 : ip + 8, version == 4 ? 8 : 32,
	               net_sum(rest, sizeof(rest), 0));
}

/* Zero stands for "no checksum" in UDP; all ones is the same number and right for all protocols. */
static void put_sum(uint8_t *at, uint64_t sum)
{
	uint16_t value = net_sum_finish(sum);

	put16(at, value ? value : 0xffff);
}

static void do_checksum(const struct net_checksum *checksum, uint8_t *frame, size_t size)
{
	size_t end = checksum->end && checksum->end < size ? checksum->end : size;

	if (checksum->wanted && checksum->start < end && (size_t)checksum->place + 2 <= size)
		put_sum(frame + checksum->place, net_sum(frame + checksum->start, end - checksum->start, 0));
}

static bool can_segment(const struct net_offload *offload, const uint8_t *frame, size_t size)
{
	size_t ip_size = (size_t)offload->transport_start - offload->ip_start;
	unsigned version;

	if (!offload->segment || offload->header_size > size || offload->header_size > HEADERS_MAX ||
	    offload->ip_start < ETHERNET_SIZE || offload->transport_start < offload->ip_start ||
	    offload->header_size < offload->transport_start + (offload->udp ? 8 : 20))
		return false;
	version = frame[offload->ip_start] >> 4;
	return (version == 4 && ip_size >= 20 && ip_size <= 60) || (version == 6 && ip_size >= 40);
}

/* Segment number `number` of the packet whose headers are at frame: lengths, identification, sequence, flags,
 * sums. */
static void fix_headers(const struct net_offload *offload, uint8_t *frame, size_t size, unsigned number,
                        uint32_t at, bool last)
{
	uint8_t *ip = frame + offload->ip_start, *transport = frame + offload->transport_start;
	size_t ip_size = size - offload->ip_start, transport_size = size - offload->transport_start;
	unsigned version = ip[0] >> 4;
	uint8_t *sum = offload->udp ? transport + 6 : transport + 16;

	if (version == 4) {
		put16(ip + 2, ip_size);
		put16(ip + 4, get16(ip + 4) + number);
		put16(ip + 10, 0);
		put_sum(ip + 10, net_sum(ip, (size_t)(offload->transport_start - offload->ip_start), 0));
	} else {
		put16(ip + 4, ip_size - 40);
	}
	if (offload->udp) {
		put16(transport + 4, transport_size);
	} else {
		put32(transport + 4, get32(transport + 4) + at);
		if (!last)
			transport[13] &= (uint8_t) ~(TCP_FIN | TCP_PSH);
		if (number)
			transport[13] &= (uint8_t)~TCP_CWR;
	}
	put16(sum, 0);
	put_sum(sum,
	        net_sum(transport, transport_size,
	                pseudo_sum(ip, version, offload->udp ? PROTOCOL_UDP : PROTOCOL_TCP, transport_size)));
}

void net_offload_do(const struct net_offload *offload, uint8_t *frame, size_t size, size_t segment_max,
                    net_emit emit, void *context)
{
	uint8_t headers[HEADERS_MAX];
	size_t head = offload->header_size, step = offload->segment, done = 0, largest;
	unsigned number = 0;

	if (!can_segment(offload, frame, size)) {
		do_checksum(&offload->ip, frame, size);
		do_checksum(&offload->sum, frame, size);
		emit(context, frame, size);
		return;
	}
	/* An IP packet is at most 65535 bytes long. */
	largest = 65535 - (head - offload->ip_start);
	if (segment_max > step && !offload->udp)
		step = segment_max;
	if (step > largest)
		step = largest;
	memcpy(headers, frame, head);
	/* In place: headers go over the end of the segment before, which has been emitted. */
	do {
		size_t left = size - head - done, now = left < step ? left : step;

		if (number)
			memcpy(frame + done, headers, head);
		fix_headers(offload, frame + done, head + now, number, (uint32_t)done, now == left);
		emit(context, frame + done, head + now);
		done += now;
		number++;
	} while (head + done < size);
}

/* IPv6 "Extension Headers": steps over those before the transport header. Returns false where it is not in
 * sight. */
static bool skip_extensions(struct net_parsed *parsed, const uint8_t *frame, size_t *at, bool *routed)
{
	for (unsigned i = 0; i < EXTENSIONS_MAX; i++) {
		size_t length;

		switch (parsed->protocol) {
		case 0:  /* hop-by-hop options */
		case 43: /* routing */
		case 60: /* destination options */
			if (*at + 8 > parsed->end)
				return false;
			*routed |= parsed->protocol == 43;
			length = 8u * (frame[*at + 1] + 1u);
			break;
		case 44: /* fragment */
			if (*at + 8 > parsed->end)
				return false;
			parsed->fragment = true;
			length = 8;
			break;
		default:
			return true;
		}
		if (*at + length > parsed->end)
			return false;
		parsed->protocol = frame[*at];
		*at += length;
	}
	return false;
}

static bool parse_ip(struct net_parsed *parsed, const uint8_t *frame, size_t size, size_t at, uint16_t type,
                     bool *routed)
{
	const uint8_t *ip = frame + at;
	size_t length, after;

	if (type == TYPE_IPV4) {
		size_t header;

		if (at + 20 > size || ip[0] >> 4 != 4)
			return false;
		header = 4u * (ip[0] & 15);
		length = get16(ip + 2);
		if (header < 20 || length < header || at + length > size)
			return false;
		parsed->ip_good = net_sum_finish(net_sum(ip, header, 0)) == 0;
		parsed->protocol = ip[9];
		parsed->fragment = get16(ip + 6) & 0x3fff;
		after = at + header;
	} else {
		if (at + 40 > size || ip[0] >> 4 != 6)
			return false;
		length = 40u + get16(ip + 4);
		if (at + length > size)
			return false;
		parsed->ip_good = true;
		parsed->protocol = ip[6];
		after = at + 40;
	}
	parsed->ip_start = (uint16_t)at;
	parsed->ip_version = type == TYPE_IPV4 ? 4 : 6;
	parsed->end = (uint16_t)(at + length);
	parsed->header_size = (uint16_t)after;
	if (type == TYPE_IPV6 && !skip_extensions(parsed, frame, &after, routed))
		return false;
	if (parsed->fragment)
		return false;
	parsed->transport_start = parsed->header_size = (uint16_t)after;
	return true;
}

void net_parse(struct net_parsed *parsed, const uint8_t *frame, size_t size, bool sums)
{
	size_t at = 12, left;
	uint16_t type = 0;
	const uint8_t *transport;
	bool routed = false;

	memset(parsed, 0, sizeof(*parsed));
	if (size > 65535)
		return;
	for (unsigned tags = 0; tags < 3 && at + 2 <= size; tags++) {
		type = get16(frame + at);
		if (type != TYPE_VLAN && type != TYPE_QINQ)
			break;
		at += 4;
	}
	if ((type != TYPE_IPV4 && type != TYPE_IPV6) || !parse_ip(parsed, frame, size, at + 2, type, &routed))
		return;
	transport = frame + parsed->transport_start;
	left = (size_t)(parsed->end - parsed->transport_start);
	if (parsed->protocol == PROTOCOL_TCP && left >= 20 && (size_t)4 * (transport[12] >> 4) >= 20 &&
	    (size_t)4 * (transport[12] >> 4) <= left) {
		parsed->header_size = (uint16_t)(parsed->header_size + 4 * (transport[12] >> 4));
	} else if (parsed->protocol == PROTOCOL_UDP && left >= 8) {
		if (get16(transport + 4) < 8 || get16(transport + 4) > left)
			return;
		left = get16(transport + 4);
		parsed->header_size = (uint16_t)(parsed->header_size + 8);
		if (get16(transport + 6) == 0)
			return; /* RFC 768: there is none */
	} else {
		return;
	}
	/* A routing header changes the pseudo header's destination. */
	if (!sums || routed)
		return;
	parsed->transport_checked = true;
	parsed->transport_good =
	    net_sum_finish(net_sum(
	        transport, left,
	        pseudo_sum(frame + parsed->ip_start, parsed->ip_version, parsed->protocol, left))) == 0;
}

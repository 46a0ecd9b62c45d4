/*
 * What a card does for its driver: the checksums of a frame, and cutting a large TCP or UDP packet into
 * segments. Both cards describe it alike; backends without such hardware have it done here. Rules: RFC 791,
 * 793, 768, 8200, 1071.
 */
#ifndef NESTOR_NET_OFFLOAD_H
#define NESTOR_NET_OFFLOAD_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct net_offload {
	/* The sum of [start, end) goes to `place`, 16 bits; end 0: the frame's end; all from the frame's
	 * start. For `sum` the field at place already holds the pseudo header's sum. */
	struct net_checksum {
		bool wanted;
		uint16_t start, place, end;
	} ip, sum;
	/* Payload bytes of each segment, 0: no segmentation. Then: where the IP header and the TCP or UDP
	 * header are, and how many bytes precede the payload. The headers' lengths and checksums are made
	 * anew. */
	uint16_t segment;
	uint16_t ip_start, transport_start, header_size;
	bool udp; /* the transport header is UDP's */
};

typedef void (*net_emit)(void *context, uint8_t *frame, size_t size);

/*
 * Does the frame's offload (in place) and calls emit for the frame, or for each segment. segment_max:
 * segments may be as large as this many payload bytes (at least offload->segment), for backends that carry
 * large frames; 0: as the guest asked. A frame whose offload makes no sense is emitted as it is.
 */
void net_offload_do(const struct net_offload *offload, uint8_t *frame, size_t size, size_t segment_max,
                    net_emit emit, void *context);

/* What a receiver's hardware finds out about a frame. */
struct net_parsed {
	uint16_t ip_start;            /* 0: not IP */
	uint16_t transport_start;     /* 0: not known, or not the first fragment */
	uint16_t header_size;         /* up to the payload, as far as known */
	uint16_t end;                 /* of the IP packet: what follows is padding */
	uint8_t ip_version, protocol; /* protocol: 6 TCP, 17 UDP, else other */
	bool fragment;
	bool ip_good;                           /* IPv4's header checksum is right (IPv6 has none: true) */
	bool transport_checked, transport_good; /* TCP's or UDP's was there to check, and right */
};

/* Looks at headers; sums: verifies checksums too. Safe for any bytes. */
void net_parse(struct net_parsed *parsed, const uint8_t *frame, size_t size, bool sums);

/* The Internet checksum's sum of [data, data + size), added to `sum`, not folded. */
uint64_t net_sum(const void *data, size_t size, uint64_t sum);
/* Folded and complemented, in host order. */
uint16_t net_sum_finish(uint64_t sum);

#endif

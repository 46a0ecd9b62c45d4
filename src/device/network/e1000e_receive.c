/*
 * Filters, offloads and receive descriptors: legacy, extended, and split over several buffers. Rules:
 * "Receive Functionality". A frame that finds no descriptors waits for some: the network holds it back.
 */
#include "device/network/e1000e.h"

#include <string.h>

#include "machine/dma.h"
#include "machine/machine.h"

#define FCS_SIZE       4
#define TAG_SIZE       4
#define ADDRESSES      16
#define ADDRESS_VALID  0x80000000u /* RAH.AV */
#define UNIT           16
#define DESCRIPTOR_MAX 32
#define SPLIT_BUFFERS  4

/* Status and errors, as extended descriptors have them; legacy ones have the low bytes of each. */
#define S_DD    0x001u
#define S_EOP   0x002u
#define S_IXSM  0x004u
#define S_VP    0x008u
#define S_UDPCS 0x010u
#define S_TCPCS 0x020u
#define S_IPCS  0x040u
#define E_TCPE  0x20000000u
#define E_IPE   0x40000000u

/* MRQC's fields and the hash types that a descriptor tells. */
#define MRQC_ENABLE(value) (((value)&3) == 1)
#define MRQC_IPV4_TCP      0x00010000u
#define MRQC_IPV4          0x00020000u
#define MRQC_IPV6          0x00100000u
#define MRQC_IPV6_TCP      0x00200000u
#define MRQC_IPV6_TCP_EX   0x00040000u

/* What is known of a frame on its way into memory. */
struct reception {
	const uint8_t *data;
	size_t size; /* as stored */
	size_t header_size;
	uint32_t status; /* with errors */
	uint16_t tag, packet_sum, ip_id;
	uint32_t hash, hash_type;
	bool hashed; /* the hash stands where the packet checksum would */
	unsigned queue;
};

struct ring {
	uint32_t *reg;
	uint64_t base;
	uint32_t count; /* of units of 16 bytes: what the head and the tail count, also where descriptors are
	                   larger */
	uint32_t size;  /* bytes of a descriptor */
	bool extended, split;
	size_t buffer[SPLIT_BUFFERS]; /* sizes */
};

/* ---- filters ---- */

static bool matches_address(struct e1000e *card, const uint8_t *mac)
{
	for (unsigned i = 0; i < ADDRESSES; i++) {
		uint32_t low = *e1000e_reg(card, R_RA + 8 * i), high = *e1000e_reg(card, R_RA + 8 * i + 4);
		uint8_t own[NET_MAC_SIZE] = {(uint8_t)low,         (uint8_t)(low >> 8), (uint8_t)(low >> 16),
		                             (uint8_t)(low >> 24), (uint8_t)high,       (uint8_t)(high >> 8)};

		if (high & ADDRESS_VALID && !memcmp(own, mac, NET_MAC_SIZE))
			return true;
	}
	return false;
}

/* "Multicast Table Array": 12 bits of the address, which ones RCTL.MO says. */
static bool matches_multicast(struct e1000e *card, const uint8_t *mac)
{
	static const uint8_t shift[] = {4, 3, 2, 0};
	unsigned bits =
	    ((unsigned)mac[5] << 8 | mac[4]) >> shift[*e1000e_reg(card, R_RCTL) >> 12 & 3] & 0xfff;

	return *e1000e_reg(card, R_MTA + 4 * (bits >> 5)) >> (bits & 31) & 1;
}

static bool is_tagged(struct e1000e *card, const uint8_t *frame, size_t size)
{
	uint32_t type = *e1000e_reg(card, R_VET);

	return size >= NET_HEADER_SIZE + TAG_SIZE && frame[12] == (uint8_t)(type >> 8) &&
	       frame[13] == (uint8_t)type;
}

/* "Packet Address Filtering" */
static bool wanted(struct e1000e *card, const uint8_t *frame, size_t size)
{
	static const uint8_t broadcast[NET_MAC_SIZE] = {0xff, 0xff, 0xff, 0xff, 0xff, 0xff};
	uint32_t control = *e1000e_reg(card, R_RCTL);

	if (control & RCTL_VFE && is_tagged(card, frame, size)) {
		unsigned vlan = (frame[14] & 15u) << 8 | frame[15];

		if (!(*e1000e_reg(card, R_VFTA + 4 * (vlan >> 5)) >> (vlan & 31) & 1))
			return false;
	}
	if (!memcmp(frame, broadcast, NET_MAC_SIZE) && control & RCTL_BAM)
		return true;
	if (matches_address(card, frame))
		return true;
	if (frame[0] & 1)
		return control & RCTL_MPE || matches_multicast(card, frame);
	return control & RCTL_UPE;
}

static void count_received(struct e1000e *card, const uint8_t *frame, size_t size)
{
	static const uint8_t broadcast[NET_MAC_SIZE] = {0xff, 0xff, 0xff, 0xff, 0xff, 0xff};

	e1000e_count(card, 0x74, 1);                 /* GPRC */
	e1000e_count64(card, 0x88, size + FCS_SIZE); /* GORC */
	e1000e_count_size(card, 0x5c, size + FCS_SIZE);
	if (!memcmp(frame, broadcast, NET_MAC_SIZE))
		e1000e_count(card, 0x78, 1); /* BPRC */
	else if (frame[0] & 1)
		e1000e_count(card, 0x7c, 1); /* MPRC */
}

/* ---- what the hardware finds out ---- */

/* "RSS Hash Function": Toeplitz, with the key of RSSRK, whose bytes stand in memory order. */
static uint32_t rss_hash(struct e1000e *card, const uint8_t *input, unsigned size)
{
	const uint8_t *key = (const uint8_t *)e1000e_reg(card, R_RSSRK);
	uint64_t window = (uint64_t)key[0] << 24 | (uint64_t)key[1] << 16 | (uint64_t)key[2] << 8 | key[3];
	uint32_t hash = 0;

	for (unsigned i = 0; i < size; i++) {
		window = window << 8 | key[i + 4];
		for (unsigned bit = 0; bit < 8; bit++)
			if (input[i] >> (7 - bit) & 1)
				hash ^= (uint32_t)(window >> (8 - bit));
	}
	return hash;
}

static void find_hash(struct e1000e *card, const struct net_parsed *parsed, struct reception *reception)
{
	uint32_t fields = *e1000e_reg(card, R_MRQC);
	bool four = parsed->ip_version == 4, ports = parsed->protocol == 6 && parsed->transport_start;
	unsigned size = four ? 8 : 32;
	uint8_t input[36];

	if (!MRQC_ENABLE(fields) || !parsed->ip_start)
		return;
	ports = ports && fields & (four ? MRQC_IPV4_TCP : MRQC_IPV6_TCP | MRQC_IPV6_TCP_EX);
	if (!ports && !(fields & (four ? MRQC_IPV4 : MRQC_IPV6)))
		return;
	reception->hash_type = ports ? (four ? 1 : 3) : (four ? 2 : 5);
	memcpy(input, reception->data + parsed->ip_start + (four ? 12 : 8), size);
	if (ports) {
		memcpy(input + size, reception->data + parsed->transport_start, 4);
		size += 4;
	}
	reception->hash = rss_hash(card, input, size);
	reception->queue = ((const uint8_t *)e1000e_reg(card, R_RETA))[reception->hash & 127] >> 7;
}

/* "Receive Packet Checksum Offloading". good: they are known to be right. */
static void find_checksums(struct e1000e *card, const struct net_parsed *parsed, bool good,
                           struct reception *reception)
{
	uint32_t control = *e1000e_reg(card, R_RXCSUM);
	unsigned start = control & 0xff;

	if (control & RXCSUM_IPOFLD && parsed->ip_version == 4) {
		reception->status |= S_IPCS;
		if (!parsed->ip_good)
			reception->status |= E_IPE;
	}
	if (control & RXCSUM_TUOFLD && parsed->transport_start && (good || parsed->transport_checked) &&
	    (parsed->protocol == 6 || parsed->protocol == 17)) {
		reception->status |= S_TCPCS | (parsed->protocol == 17 ? S_UDPCS : 0);
		if (!good && !parsed->transport_good)
			reception->status |= E_TCPE;
	}
	if (!(reception->status & (S_IPCS | S_TCPCS)))
		reception->status |= S_IXSM;
	if (parsed->ip_version == 4)
		reception->ip_id = (uint16_t)(reception->data[parsed->ip_start + 4] << 8 |
		                              reception->data[parsed->ip_start + 5]);
	reception->hashed = control & RXCSUM_PCSD;
	if (!reception->hashed && start < reception->size)
		reception->packet_sum =
		    (uint16_t)~net_sum_finish(net_sum(reception->data + start, reception->size - start, 0));
}

static uint32_t frame_check(const uint8_t *data, size_t size)
{
	uint32_t crc = ~0u;

	for (size_t i = 0; i < size; i++) {
		crc ^= data[i];
		for (unsigned bit = 0; bit < 8; bit++)
			crc = crc >> 1 ^ (crc & 1 ? 0xedb88320u : 0);
	}
	return ~crc;
}

/* ---- descriptors ---- */

/* "Receive Control Register": BSIZE and BSEX, or FLXBUF in KiB. */
static size_t buffer_size(uint32_t control)
{
	unsigned flexible = control >> 27 & 15, choice = control >> 16 & 3;

	if (flexible)
		return flexible * 1024u;
	if (control & RCTL_BSEX)
		return choice ? (size_t)32768 >> choice : 2048;
	return (size_t)2048 >> choice;
}

static struct ring ring_of(struct e1000e *card, unsigned queue)
{
	uint32_t control = *e1000e_reg(card, R_RCTL), split = *e1000e_reg(card, R_PSRCTL);
	struct ring ring = {.reg = e1000e_reg(card, R_RX_RING + 0x100 * queue), .size = UNIT};

	ring.extended = *e1000e_reg(card, R_RFCTL) & RFCTL_EXTEN;
	ring.split = ring.extended && control & RCTL_DTYP_PS;
	ring.buffer[0] = buffer_size(control);
	if (ring.split) {
		ring.size = DESCRIPTOR_MAX;
		ring.buffer[0] = (split & 0x7f) * 128u;
		ring.buffer[1] = (split >> 8 & 0x3f) * 1024u;
		ring.buffer[2] = (split >> 16 & 0x3f) * 1024u;
		ring.buffer[3] = (split >> 24 & 0x3f) * 1024u;
	}
	ring.base = (uint64_t)ring.reg[RING_BAH / 4] << 32 | ring.reg[RING_BAL / 4];
	ring.count = ring.reg[RING_LEN / 4] / UNIT;
	return ring;
}

/* Descriptors that software has given. */
static uint32_t ring_free(const struct ring *ring)
{
	uint32_t head = ring->reg[RING_HEAD / 4], tail = ring->reg[RING_TAIL / 4];

	if (head >= ring->count || tail >= ring->count)
		return 0;
	return (head <= tail ? tail - head : ring->count - head + tail) / (ring->size / UNIT);
}

static size_t ring_room(const struct ring *ring)
{
	size_t room = 0;

	for (unsigned i = 0; i < SPLIT_BUFFERS; i++)
		room += ring->buffer[i];
	return room;
}

static void put16(uint8_t *at, size_t value)
{
	at[0] = (uint8_t)value;
	at[1] = (uint8_t)(value >> 8);
}

static void put32(uint8_t *at, uint32_t value)
{
	put16(at, value & 0xffff);
	put16(at + 2, value >> 16);
}

/* The written-back descriptor: "Receive Descriptor Format" and "Receive UDP Fragmentation Checksum" aside. */
static void write_back(const struct ring *ring, const struct reception *reception, uint8_t *descriptor,
                       const size_t *stored, bool last)
{
	uint32_t status = S_DD | (last ? S_EOP | reception->status : 0);
	size_t total = stored[1] + stored[2] + stored[3];

	if (!ring->extended) {
		put16(descriptor + 8, stored[0]);
		put16(descriptor + 10, reception->packet_sum);
		descriptor[12] = (uint8_t)status;
		descriptor[13] = (uint8_t)(status >> 24);
		put16(descriptor + 14, last ? reception->tag : 0);
		return;
	}
	memset(descriptor, 0, ring->size);
	put32(descriptor, reception->hash_type | reception->queue << 8);
	if (reception->hashed) {
		put32(descriptor + 4, reception->hash);
	} else {
		put16(descriptor + 4, reception->ip_id);
		put16(descriptor + 6, reception->packet_sum);
	}
	put32(descriptor + 8, status);
	put16(descriptor + 12, stored[0]);
	put16(descriptor + 14, last ? reception->tag : 0);
	if (!ring->split)
		return;
	/* HDRSP: the header is split off. */
	put16(descriptor + 16, (reception->header_size & 0x3ff) | (total ? 0x8000u : 0));
	for (unsigned i = 1; i < SPLIT_BUFFERS; i++)
		put16(descriptor + 16 + 2 * i, stored[i]);
}

/* Stores from *at on into the buffers of the next descriptor. */
static void fill(struct e1000e *card, const struct ring *ring, const struct reception *reception, size_t *at)
{
	uint32_t *head = &ring->reg[RING_HEAD / 4];
	uint64_t where = ring->base + (uint64_t)*head * UNIT;
	size_t stored[SPLIT_BUFFERS] = {0};
	uint8_t descriptor[DESCRIPTOR_MAX] = {0};

	dma_read(card->machine, where, descriptor, ring->size);
	for (unsigned i = 0; i < SPLIT_BUFFERS; i++) {
		size_t left = reception->size - *at, size = ring->buffer[i] < left ? ring->buffer[i] : left;
		uint64_t gpa;

		/* Headers alone go to the first buffer of a split descriptor, where they fit. */
		if (ring->split && i == 0 && *at == 0 && reception->header_size &&
		    reception->header_size < size)
			size = reception->header_size;
		memcpy(&gpa, descriptor + 8 * (i & (ring->split ? 3 : 0)), sizeof(gpa));
		if (size)
			dma_write(card->machine, gpa, reception->data + *at, size);
		stored[i] = size;
		*at += size;
	}
	write_back(ring, reception, descriptor, stored, *at == reception->size);
	dma_write(card->machine, where, descriptor, ring->size);
	*head = (*head + ring->size / UNIT) % ring->count;
}

/* Are fewer descriptors left than RCTL.RDMTS says: a half, a quarter, an eighth? */
static bool is_low(struct e1000e *card, const struct ring *ring)
{
	return ring_free(ring) <= ring->count / (ring->size / UNIT) >>
	       (1 + (*e1000e_reg(card, R_RCTL) >> 8 & 3));
}

/* The frame into memory. False where there are not enough descriptors. */
static bool store(struct e1000e *card, struct reception *reception)
{
	struct ring ring = ring_of(card, reception->queue);
	size_t room = ring_room(&ring), at = 0;
	bool low = is_low(card, &ring);

	if (!room || !ring.count)
		return true; /* set up wrong: lost */
	if ((uint64_t)ring_free(&ring) * room < reception->size + (ring.split ? ring.buffer[0] : 0)) {
		e1000e_count(card, 0xa0, !card->receive_waits); /* RNBC */
		card->receive_waits = true;
		return false;
	}
	while (at < reception->size)
		fill(card, &ring, reception, &at);
	card->received |=
	    CAUSE_RXT0 | CAUSE_RXQ0 << reception->queue | (!low && is_low(card, &ring) ? CAUSE_RXDMT0 : 0);
	return true;
}

/* ---- a frame ---- */

static bool receive(struct e1000e *card, const uint8_t *data, size_t size, bool good)
{
	uint8_t frame[E1000E_FRAME_MAX + 64];
	uint32_t control = *e1000e_reg(card, R_RCTL);
	bool tagged = is_tagged(card, data, size);
	struct reception reception = {.data = frame};
	struct net_parsed parsed;
	size_t most = control & RCTL_LPE ? E1000E_FRAME_MAX : 1518u + (tagged ? TAG_SIZE : 0);

	if (!(control & RCTL_EN) || !pci_is_master(&card->pci))
		return true;
	if (size + FCS_SIZE > most) {
		e1000e_count(card, 0xac, 1); /* ROC */
		return true;
	}
	if (!wanted(card, data, size))
		return true;
	memcpy(frame, data, size);
	for (; size < NET_FRAME_MIN; size++)
		frame[size] = 0;
	if (tagged && *e1000e_reg(card, R_CTRL) & CTRL_VME) {
		reception.status |= S_VP;
		reception.tag = (uint16_t)(frame[14] << 8 | frame[15]);
		size -= TAG_SIZE;
		memmove(frame + 12, frame + 12 + TAG_SIZE, size - 12);
	}
	net_parse(&parsed, frame, size, !good);
	reception.size = size;
	reception.header_size = parsed.header_size;
	find_hash(card, &parsed, &reception);
	find_checksums(card, &parsed, good, &reception);
	if (!(control & RCTL_SECRC)) {
		put32(frame + size, frame_check(frame, size));
		reception.size += FCS_SIZE;
	}
	if (!store(card, &reception))
		return false;
	count_received(card, data, size);
	return true;
}

bool e1000e_receive(void *context, const struct net_frame *frame)
{
	struct e1000e *card = context;

	if (!(*e1000e_reg(card, R_RCTL) & RCTL_EN) || *e1000e_reg(card, R_RCTL) & RCTL_LBM ||
	    !e1000e_link(card))
		return true;
	if (!receive(card, frame->data, frame->size, frame->good))
		return false;
	e1000e_count(card, 0xd0, 1);                        /* TPR */
	e1000e_count64(card, 0xc0, frame->size + FCS_SIZE); /* TOR */
	return true;
}

void e1000e_received(void *context)
{
	struct e1000e *card = context;
	uint32_t causes = card->received;

	card->received = 0;
	if (causes)
		e1000e_cause(card, causes);
}

void e1000e_receive_own(struct e1000e *card, const uint8_t *data, size_t size)
{
	if (!receive(card, data, size, false)) {
		card->receive_waits = false;
		e1000e_count(card, 0x10, 1); /* MPC */
	}
	e1000e_received(card);
}

/*
 * Transmit descriptors: legacy, context and data. A frame is put together from its descriptors' buffers and
 * goes to the network with what the hardware is to do for it: checksums, segmentation, a VLAN tag. Rules:
 * "Transmit Functionality".
 */
#include "device/network/e1000e.h"

#include <string.h>

#include "machine/dma.h"
#include "machine/machine.h"

#define DESCRIPTOR_SIZE     16
#define DESCRIPTORS_AT_ONCE 512 /* then other users of the machine lock get their turn */

/* The third doubleword, of all kinds. */
#define D_EOP        0x01000000u
#define D_IC         0x04000000u /* legacy */
#define D_TSE        0x04000000u /* data and context */
#define D_RS         0x08000000u
#define D_DEXT       0x20000000u
#define D_VLE        0x40000000u
#define D_TYPE(word) ((word) >> 20 & 15)
#define TYPE_DATA    1
/* In a context, in the same place. */
#define D_TCP 0x01000000u

#define OPTION_IXSM 1
#define OPTION_TXSM 2

#define STATUS_DD 1

#define TAG_SIZE  4
#define TAG_PLACE 12

struct descriptor {
	uint32_t word[4];
};

_Static_assert(sizeof(struct descriptor) == DESCRIPTOR_SIZE, "Transmit Descriptor");

static struct net_offload offload_of(const struct e1000e_transmit *transmit)
{
	struct net_offload offload = {0};
	const uint32_t *context = transmit->context;
	uint8_t ip_start = (uint8_t)context[0], sum_start = (uint8_t)context[1];
	uint16_t ip_end = (uint16_t)(context[0] >> 16), sum_end = (uint16_t)(context[1] >> 16);

	if (!(transmit->command & D_DEXT)) {
		/* Legacy: CSO and CSS; the frame's end. */
		if (transmit->command & D_IC)
			offload.sum = (struct net_checksum){true, transmit->options,
			                                    (uint8_t)(transmit->command >> 16), 0};
		return offload;
	}
	if (transmit->command & D_TSE) {
		offload.segment = (uint16_t)(context[3] >> 16);
		offload.ip_start = ip_start;
		offload.transport_start = sum_start;
		offload.header_size = (uint8_t)(context[3] >> 8);
		offload.udp = !(context[2] & D_TCP);
	}
	if (transmit->options & OPTION_IXSM)
		offload.ip = (struct net_checksum){true, ip_start, (uint8_t)(context[0] >> 8),
		                                   (uint16_t)(ip_end ? ip_end + 1 : 0)};
	if (transmit->options & OPTION_TXSM)
		offload.sum = (struct net_checksum){true, sum_start, (uint8_t)(context[1] >> 8),
		                                    (uint16_t)(sum_end ? sum_end + 1 : 0)};
	return offload;
}

static void shift(uint16_t *place, bool wanted)
{
	if (wanted)
		*place = (uint16_t)(*place + TAG_SIZE);
}

/* The tag goes in before all that the offload speaks of. */
static void shift_offload(struct net_offload *offload)
{
	struct net_checksum *checksum[] = {&offload->ip, &offload->sum};

	for (unsigned i = 0; i < 2; i++) {
		shift(&checksum[i]->start, checksum[i]->wanted);
		shift(&checksum[i]->place, checksum[i]->wanted);
		shift(&checksum[i]->end, checksum[i]->wanted && checksum[i]->end);
	}
	shift(&offload->ip_start, offload->segment);
	shift(&offload->transport_start, offload->segment);
	shift(&offload->header_size, offload->segment);
}

static void count_sent(struct e1000e *card, const uint8_t *frame, size_t size)
{
	static const uint8_t broadcast[NET_MAC_SIZE] = {0xff, 0xff, 0xff, 0xff, 0xff, 0xff};

	e1000e_count(card, 0x80, 1);          /* GPTC */
	e1000e_count64(card, 0x90, size + 4); /* GOTC */
	e1000e_count64(card, 0xc8, size + 4); /* TOT */
	e1000e_count(card, 0xd4, 1);          /* TPT */
	e1000e_count_size(card, 0xd8, size + 4);
	if (!memcmp(frame, broadcast, NET_MAC_SIZE))
		e1000e_count(card, 0xf4, 1); /* BPTC */
	else if (frame[0] & 1)
		e1000e_count(card, 0xf0, 1); /* MPTC */
}

static void receive_own(void *card, uint8_t *frame, size_t size)
{
	e1000e_receive_own(card, frame, size);
}

/* The tag is put into place here; the network does it while it copies. */
static void loop_back(struct e1000e *card, struct e1000e_transmit *transmit, const uint8_t *tag,
                      const struct net_offload *offload)
{
	if (tag && transmit->size + TAG_SIZE <= sizeof(transmit->frame)) {
		memmove(transmit->frame + TAG_PLACE + TAG_SIZE, transmit->frame + TAG_PLACE,
		        transmit->size - TAG_PLACE);
		memcpy(transmit->frame + TAG_PLACE, tag, TAG_SIZE);
		transmit->size += TAG_SIZE;
	}
	net_offload_do(offload, transmit->frame, transmit->size, 0, receive_own, card);
}

static bool is_looped(struct e1000e *card)
{
	return *e1000e_reg(card, R_RCTL) & RCTL_LBM || card->phy[0][PHY_BMCR] & BMCR_LOOPBACK;
}

/* Sends the frame that is together. False where the network has no room. */
static bool send_frame(struct e1000e *card, struct e1000e_transmit *transmit)
{
	struct net_offload offload = offload_of(transmit);
	uint16_t type = (uint16_t)*e1000e_reg(card, R_VET);
	uint8_t tag[TAG_SIZE] = {(uint8_t)(type >> 8), (uint8_t)type, (uint8_t)(transmit->special >> 8),
	                         (uint8_t)transmit->special};
	bool tagged = transmit->command & D_VLE && *e1000e_reg(card, R_CTRL) & CTRL_VME;
	struct iovec piece[3];

	if (transmit->bad || transmit->size < NET_HEADER_SIZE)
		return true;
	if (transmit->size < NET_FRAME_MIN) {
		memset(transmit->frame + transmit->size, 0, NET_FRAME_MIN - transmit->size);
		transmit->size = NET_FRAME_MIN;
	}
	if (tagged)
		shift_offload(&offload);
	piece[0] = (struct iovec){transmit->frame, TAG_PLACE};
	piece[1] = (struct iovec){tag, tagged ? TAG_SIZE : 0};
	piece[2] = (struct iovec){transmit->frame + TAG_PLACE, transmit->size - TAG_PLACE};
	if (!is_looped(card) && e1000e_link(card) && !net_port_send(card->port, piece, 3, &offload))
		return false;
	if (offload.segment)
		e1000e_count(card, 0xf8, 1); /* TSCTC */
	count_sent(card, transmit->frame, transmit->size + (tagged ? TAG_SIZE : 0));
	if (is_looped(card))
		loop_back(card, transmit, tagged ? tag : NULL, &offload);
	return true;
}

/* One descriptor. False where its frame cannot be sent now; nothing has changed then. */
static bool take(struct e1000e *card, struct e1000e_transmit *transmit, const struct descriptor *descriptor)
{
	uint64_t gpa = (uint64_t)descriptor->word[1] << 32 | descriptor->word[0];
	uint32_t command = descriptor->word[2];
	bool extended = command & D_DEXT;
	size_t size = extended ? command & 0xfffff : command & 0xffff, before = transmit->size;
	bool begun = transmit->begun, bad = transmit->bad;

	if (extended && D_TYPE(command) != TYPE_DATA) {
		memcpy(transmit->context, descriptor->word, sizeof(transmit->context));
		return true;
	}
	if (!begun) {
		transmit->begun = true;
		transmit->command = command;
		transmit->options = (uint8_t)(descriptor->word[3] >> 8);
	}
	transmit->special = (uint16_t)(descriptor->word[3] >> 16);
	if (size > sizeof(transmit->frame) - transmit->size ||
	    (size && dma_read(card->machine, gpa, transmit->frame + transmit->size, size)))
		transmit->bad = true;
	else
		transmit->size += size;
	if (!(command & D_EOP))
		return true;
	/* VLE counts in the last descriptor. */
	transmit->command = (transmit->command & ~D_VLE) | (command & D_VLE);
	if (!send_frame(card, transmit)) {
		transmit->size = before;
		transmit->begun = begun;
		transmit->bad = bad;
		transmit->refused = true;
		return false;
	}
	transmit->size = 0;
	transmit->begun = transmit->bad = false;
	return true;
}

/* One queue. Returns whether it stopped for DESCRIPTORS_AT_ONCE. */
static bool transmit_queue(struct e1000e *card, unsigned queue)
{
	uint32_t *ring = e1000e_reg(card, R_TX_RING + 0x100 * queue);
	uint64_t base = (uint64_t)ring[RING_BAH / 4] << 32 | ring[RING_BAL / 4];
	uint32_t count = ring[RING_LEN / 4] / DESCRIPTOR_SIZE, *head = &ring[RING_HEAD / 4],
	         tail = ring[RING_TAIL / 4];
	struct e1000e_transmit *transmit = &card->transmit[queue];
	uint32_t causes = 0;
	unsigned left = DESCRIPTORS_AT_ONCE;

	if (transmit->refused || tail >= count || *head >= count)
		return false;
	for (; *head != tail && left; left--) {
		uint64_t at = base + (uint64_t)*head * DESCRIPTOR_SIZE;
		struct descriptor descriptor;

		if (dma_read(card->machine, at, &descriptor, sizeof(descriptor)) ||
		    !take(card, transmit, &descriptor))
			break;
		if (descriptor.word[2] & D_RS) {
			uint32_t status = descriptor.word[3] | STATUS_DD;

			dma_write(card->machine, at + 12, &status, sizeof(status));
			causes |= CAUSE_TXDW | CAUSE_TXQ0 << queue;
		}
		*head = *head + 1 == count ? 0 : *head + 1;
	}
	if (*head == tail && left < DESCRIPTORS_AT_ONCE)
		causes |= CAUSE_TXQE;
	if (causes)
		e1000e_cause(card, causes);
	return !left && *head != tail;
}

void e1000e_transmit(struct e1000e *card)
{
	bool more = false;

	if (!(*e1000e_reg(card, R_TCTL) & TCTL_EN) || !pci_is_master(&card->pci))
		return;
	for (unsigned queue = 0; queue < E1000E_QUEUES; queue++)
		more |= transmit_queue(card, queue);
	if (more)
		timer_arm(&card->transmit_timer, machine_now(card->machine));
}

void e1000e_transmit_again(void *card)
{
	e1000e_transmit(card);
}

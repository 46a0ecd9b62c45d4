/*
 * virtio-net: one pair of queues and a control queue. What the driver leaves to the device (checksums,
 * segmentation) is done by the network (net/offload.h), so CSUM and HOST_TSO are offered for every network.
 * Rules: Virtual I/O Device (VIRTIO) Version 1.2, "Network Device".
 */
#include "device/virtio/virtio.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "device/network/net_cards.h"
#include "device/network/net_port.h"
#include "machine/machine.h"
#include "util/error.h"

#define PCI_VENDOR       0x1af4
#define PCI_TRANSITIONAL 0x1000

/* "Feature bits" */
#define F_CSUM          (UINT64_C(1) << 0)
#define F_GUEST_CSUM    (UINT64_C(1) << 1)
#define F_MAC           (UINT64_C(1) << 5)
#define F_HOST_TSO4     (UINT64_C(1) << 11)
#define F_HOST_TSO6     (UINT64_C(1) << 12)
#define F_HOST_ECN      (UINT64_C(1) << 13)
#define F_MRG_RXBUF     (UINT64_C(1) << 15)
#define F_STATUS        (UINT64_C(1) << 16)
#define F_CTRL_VQ       (UINT64_C(1) << 17)
#define F_CTRL_RX       (UINT64_C(1) << 18)
#define F_CTRL_VLAN     (UINT64_C(1) << 19)
#define F_CTRL_RX_EXTRA (UINT64_C(1) << 20)
#define F_CTRL_MAC_ADDR (UINT64_C(1) << 23)

/* "Device configuration layout" */
#define CONFIG_MAC    0
#define CONFIG_STATUS 6
#define CONFIG_SIZE   8
#define STATUS_LINK   1

/* "Device Operation" */
#define HEADER_NEEDS_CSUM 1
#define HEADER_DATA_VALID 2
#define GSO_NONE          0
#define GSO_TCPV4         1
#define GSO_TCPV6         4
#define GSO_ECN           0x80

struct header {
	uint8_t flags, gso_type;
	uint16_t header_size, gso_size, checksum_start, checksum_offset;
	uint16_t buffers; /* not in the legacy interface without MRG_RXBUF */
};

_Static_assert(sizeof(struct header) == 12, "struct virtio_net_hdr");
#define LEGACY_HEADER_SIZE 10

/* "Control Virtqueue" */
#define CONTROL_RX      0
#define CONTROL_MAC     1
#define CONTROL_VLAN    2
#define CONTROL_OK      0
#define CONTROL_ERROR   1
#define MAC_TABLE_SET   0
#define MAC_ADDRESS_SET 1

enum rx_mode {
	RX_PROMISCUOUS,
	RX_ALL_MULTICAST,
	RX_ALL_UNICAST,
	RX_NO_MULTICAST,
	RX_NO_UNICAST,
	RX_NO_BROADCAST,
	RX_MODES
};

#define QUEUE_SIZE         256
#define CONTROL_QUEUE_SIZE 64
#define MACS_MAX           64  /* more: all are let in */
#define SENDS_AT_ONCE      256 /* then other users of the machine lock get their turn */
#define BUFFERS_MAX        64  /* of one frame */

struct mac_table {
	uint8_t mac[MACS_MAX][NET_MAC_SIZE];
	unsigned count;
	bool overflow;
};

struct virtio_net {
	struct virtio_device virtio;
	struct net_port *port;
	void *rom;
	unsigned index; /* in machine_config.net */
	char name[24];
	uint8_t mac[NET_MAC_SIZE];
	struct virtqueue *receive_queue, *send_queue, *control_queue;
	struct machine_timer send_timer; /* goes on after SENDS_AT_ONCE */
	bool send_refused;               /* the network has no room now */
	bool receive_waits;              /* a frame waits for buffers */
	/* filters */
	bool mode[RX_MODES];
	struct mac_table unicast, multicast;
	uint32_t vlan[4096 / 32];
};

static size_t header_size(const struct virtio_net *net)
{
	return virtio_has(&net->virtio, VIRTIO_F_VERSION_1 | F_MRG_RXBUF) ? sizeof(struct header)
	                                                                  : LEGACY_HEADER_SIZE;
}

/* ---- sending ---- */

/* What the header asks for, as the network wants it. False where it makes no sense: the frame goes as it is.
 */
static bool offload_of(const struct header *header, const struct virtio_chain *chain, size_t at,
                       struct net_offload *offload)
{
	uint8_t gso = header->gso_type & (uint8_t)~GSO_ECN, byte;

	memset(offload, 0, sizeof(*offload));
	if (!(header->flags & HEADER_NEEDS_CSUM))
		return gso == GSO_NONE;
	if (header->checksum_start < NET_HEADER_SIZE || header->checksum_offset > 1024)
		return false;
	offload->sum = (struct net_checksum){true, header->checksum_start,
	                                     (uint16_t)(header->checksum_start + header->checksum_offset), 0};
	if (gso == GSO_NONE)
		return true;
	if ((gso != GSO_TCPV4 && gso != GSO_TCPV6) || !header->gso_size)
		return false;
	/* The data offset of the TCP header is what says where the payload begins; header_size is but a hint.
	 */
	if (virtio_chain_read(chain, at + header->checksum_start + 12, &byte, 1) != 1)
		return false;
	offload->segment = header->gso_size;
	offload->transport_start = header->checksum_start;
	offload->header_size = (uint16_t)(header->checksum_start + 4 * (byte >> 4));
	offload->ip_start = NET_HEADER_SIZE;
	for (unsigned tags = 0; tags < 2; tags++) {
		uint8_t type[2];

		if (virtio_chain_read(chain, at + offload->ip_start - 2u, type, 2) != 2)
			return false;
		if (!(type[0] == 0x81 && type[1] == 0x00) && !(type[0] == 0x88 && type[1] == 0xa8))
			break;
		offload->ip_start = (uint16_t)(offload->ip_start + 4);
	}
	return true;
}

/* Sends one chain's frame. False where the network has no room. */
static bool send_chain(struct virtio_net *net, const struct virtio_chain *chain)
{
	struct iovec piece[VIRTQUEUE_SIZE_MAX];
	struct net_offload offload;
	struct header header = {0};
	size_t at = header_size(net), size;
	unsigned count;

	if (chain->readable_size <= at || chain->readable_size - at > NET_FRAME_MAX ||
	    virtio_chain_read(chain, 0, &header, at) != at)
		return true;
	count = virtio_iov_slice(piece, chain->readable, chain->readable_count, at, chain->readable_size - at,
	                         &size);
	if (!offload_of(&header, chain, at, &offload))
		memset(&offload, 0, sizeof(offload));
	return net_port_send(net->port, piece, count, &offload);
}

static void send_some(struct virtio_net *net)
{
	unsigned left = SENDS_AT_ONCE;
	struct virtio_chain *chain;

	while (!net->send_refused && left && (chain = virtqueue_pop(net->send_queue))) {
		if (!send_chain(net, chain)) {
			virtqueue_unpop(chain);
			net->send_refused = true;
			break;
		}
		virtqueue_push(chain, 0);
		left--;
	}
	virtqueue_notify(net->send_queue);
	if (!left)
		timer_arm(&net->send_timer, machine_now(net->virtio.machine));
}

static void send_notified(void *device, struct virtqueue *queue)
{
	send_some(device);
}

static void send_timer_expired(void *device)
{
	send_some(device);
}

static void port_sendable(void *card)
{
	struct virtio_net *net = card;

	net->send_refused = false;
	send_some(net);
}

/* ---- receiving ---- */

static bool in_table(const struct mac_table *table, const uint8_t *mac)
{
	for (unsigned i = 0; i < table->count; i++)
		if (!memcmp(table->mac[i], mac, NET_MAC_SIZE))
			return true;
	return table->overflow;
}

/* "Packet Receive Filtering" and "VLAN Filtering" */
static bool wanted(const struct virtio_net *net, const uint8_t *frame, size_t size)
{
	static const uint8_t broadcast[NET_MAC_SIZE] = {0xff, 0xff, 0xff, 0xff, 0xff, 0xff};

	if (virtio_has(&net->virtio, F_CTRL_VLAN) && size >= 18 && frame[12] == 0x81 && frame[13] == 0x00) {
		unsigned vlan = (frame[14] & 15u) << 8 | frame[15];

		if (!(net->vlan[vlan / 32] >> vlan % 32 & 1))
			return false;
	}
	if (net->mode[RX_PROMISCUOUS])
		return true;
	if (!memcmp(frame, broadcast, NET_MAC_SIZE))
		return !net->mode[RX_NO_BROADCAST];
	if (frame[0] & 1)
		return !net->mode[RX_NO_MULTICAST] &&
		       (net->mode[RX_ALL_MULTICAST] || in_table(&net->multicast, frame));
	return !net->mode[RX_NO_UNICAST] &&
	       (net->mode[RX_ALL_UNICAST] || !memcmp(frame, net->mac, NET_MAC_SIZE) ||
	        in_table(&net->unicast, frame));
}

/* The next chain to receive into. Where there is none the driver is asked to notify of the next. */
static struct virtio_chain *receive_chain(struct virtio_net *net)
{
	struct virtqueue *queue = net->receive_queue;

	if (!virtqueue_has(queue)) {
		virtqueue_want_notifications(queue, true);
		if (!virtqueue_has(queue))
			return NULL;
		virtqueue_want_notifications(queue, false);
	}
	return virtqueue_pop(queue);
}

/* Takes chains for `size` bytes. Returns how many; 0 where there are not enough now, *never where there
 * cannot be. */
static unsigned gather(struct virtio_net *net, struct virtio_chain **chain, size_t size, bool *never)
{
	unsigned count = 0, most = virtio_has(&net->virtio, F_MRG_RXBUF) ? BUFFERS_MAX : 1;
	size_t room = 0;

	*never = false;
	while (room < size) {
		if (count == most) {
			*never = true;
			break;
		}
		chain[count] = receive_chain(net);
		if (!chain[count])
			break;
		room += chain[count]->writable_size;
		count++;
		if (count == 1 && chain[0]->writable_size < header_size(net)) {
			*never = true; /* no room for the header in one piece */
			break;
		}
	}
	if (room >= size && !*never)
		return count;
	while (count)
		virtqueue_unpop(chain[--count]);
	return 0;
}

static bool port_receive(void *card, const struct net_frame *frame)
{
	struct virtio_net *net = card;
	struct virtio_chain *chain[BUFFERS_MAX];
	struct header header = {0};
	size_t head = header_size(net), at = 0;
	unsigned count;
	bool never;

	if (!virtio_running(&net->virtio) || !net->receive_queue->enabled ||
	    !wanted(net, frame->data, frame->size))
		return true;
	count = gather(net, chain, head + frame->size, &never);
	if (!count) {
		net->receive_waits = !never;
		return never;
	}
	if (frame->good && virtio_has(&net->virtio, F_GUEST_CSUM))
		header.flags = HEADER_DATA_VALID;
	header.buffers = (uint16_t)count;
	virtio_chain_write(chain[0], 0, &header, head);
	for (unsigned i = 0; i < count; i++) {
		size_t skip = i ? 0 : head, size = chain[i]->writable_size - skip;

		size = size < frame->size - at ? size : frame->size - at;
		virtio_chain_write(chain[i], skip, frame->data + at, size);
		at += size;
		virtqueue_fill(chain[i], skip + size);
	}
	virtqueue_flush(net->receive_queue);
	return true;
}

static void port_received(void *card)
{
	struct virtio_net *net = card;

	virtqueue_notify(net->receive_queue);
}

static void receive_notified(void *device, struct virtqueue *queue)
{
	struct virtio_net *net = device;

	if (!net->receive_waits) {
		virtqueue_want_notifications(queue, false);
		return;
	}
	net->receive_waits = false;
	net_port_resume(net->port);
}

/* ---- control ---- */

static bool control_mode(struct virtio_net *net, uint8_t command, const uint8_t *data, size_t size)
{
	if (command >= RX_MODES || size < 1)
		return false;
	net->mode[command] = data[0] & 1;
	return true;
}

/* One list of the MAC table at *at: a count, then so many addresses. */
static bool read_table(struct mac_table *table, const struct virtio_chain *chain, size_t *at)
{
	uint32_t count;

	if (virtio_chain_read(chain, *at, &count, 4) != 4 ||
	    count > (chain->readable_size - *at - 4) / NET_MAC_SIZE)
		return false;
	*at += 4;
	table->overflow = count > MACS_MAX;
	table->count = count > MACS_MAX ? 0 : count;
	virtio_chain_read(chain, *at, table->mac, (size_t)table->count * NET_MAC_SIZE);
	*at += (size_t)count * NET_MAC_SIZE;
	return true;
}

static bool control_mac(struct virtio_net *net, uint8_t command, const struct virtio_chain *chain)
{
	struct mac_table unicast = {0}, multicast = {0};
	size_t at = 2;

	if (command == MAC_ADDRESS_SET) {
		if (virtio_chain_read(chain, at, net->mac, NET_MAC_SIZE) != NET_MAC_SIZE)
			return false;
		memcpy(net->virtio.config + CONFIG_MAC, net->mac, NET_MAC_SIZE);
		return true;
	}
	if (command != MAC_TABLE_SET || !read_table(&unicast, chain, &at) ||
	    !read_table(&multicast, chain, &at))
		return false;
	net->unicast = unicast;
	net->multicast = multicast;
	return true;
}

static bool control_vlan(struct virtio_net *net, uint8_t command, const uint8_t *data, size_t size)
{
	unsigned vlan = size < 2 ? 4096 : data[0] | (unsigned)data[1] << 8;

	if (vlan >= 4096 || command > 1)
		return false;
	if (command == 0)
		net->vlan[vlan / 32] |= 1u << vlan % 32;
	else
		net->vlan[vlan / 32] &= ~(1u << vlan % 32);
	return true;
}

static bool control_chain(struct virtio_net *net, const struct virtio_chain *chain)
{
	uint8_t data[16];
	size_t size = virtio_chain_read(chain, 0, data, sizeof(data));

	if (size < 2)
		return false;
	switch (data[0]) {
	case CONTROL_RX:
		return control_mode(net, data[1], data + 2, size - 2);
	case CONTROL_MAC:
		return control_mac(net, data[1], chain);
	case CONTROL_VLAN:
		return control_vlan(net, data[1], data + 2, size - 2);
	default:
		return false;
	}
}

static void control_notified(void *device, struct virtqueue *queue)
{
	struct virtio_net *net = device;
	struct virtio_chain *chain;

	for (unsigned left = CONTROL_QUEUE_SIZE; left && (chain = virtqueue_pop(queue)); left--) {
		uint8_t answer = control_chain(net, chain) ? CONTROL_OK : CONTROL_ERROR;

		virtqueue_push(chain, virtio_chain_write(chain, 0, &answer, 1));
	}
	virtqueue_notify(queue);
}

/* ---- life ---- */

static void put_status(struct virtio_net *net)
{
	virtio_put16(net->virtio.config + CONFIG_STATUS, net_port_link_up(net->port) ? STATUS_LINK : 0);
}

static void port_link_changed(void *card, bool up)
{
	struct virtio_net *net = card;

	put_status(net);
	virtio_config_changed(&net->virtio);
}

/* In the legacy interface the driver sets the address here. */
static void virtio_net_config_write(void *device, unsigned offset, unsigned size, uint32_t value)
{
	struct virtio_net *net = device;

	if (virtio_has(&net->virtio, VIRTIO_F_VERSION_1))
		return;
	for (unsigned i = 0; i < size && offset + i < CONFIG_STATUS; i++)
		net->virtio.config[offset + i] = net->mac[offset + i] = (uint8_t)(value >> (8 * i));
}

static void virtio_net_reset(void *device)
{
	struct virtio_net *net = device;
	const struct machine_config *config = &net->virtio.machine->config;

	timer_cancel(&net->send_timer);
	net->send_refused = net->receive_waits = false;
	memset(net->mode, 0, sizeof(net->mode));
	net->mode[RX_PROMISCUOUS] = true; /* until the driver says otherwise; some cannot */
	net->unicast = net->multicast = (struct mac_table){0};
	memset(net->vlan, 0, sizeof(net->vlan));
	memcpy(net->mac, config->net[net->index].mac, NET_MAC_SIZE);
	memcpy(net->virtio.config + CONFIG_MAC, net->mac, NET_MAC_SIZE);
	put_status(net);
	net_port_resume(net->port); /* frames that waited for this driver go */
}

static void virtio_net_destroy(void *device)
{
	struct virtio_net *net = device;

	net_port_close(net->port);
	free(net->rom);
	free(net);
}

static const struct virtio_ops virtio_net_ops = {
    .reset = virtio_net_reset,
    .config_write = virtio_net_config_write,
    .destroy = virtio_net_destroy,
};

static const struct net_port_ops port_ops = {port_receive, port_received, port_sendable, port_link_changed};

int virtio_net_create(struct machine *machine, unsigned index)
{
	const struct net_config *config = &machine->config.net[index];
	struct virtio_net *net = calloc(1, sizeof(*net));
	struct virtio_setup setup = {
	    .type = VIRTIO_ID_NET,
	    .class_code = 0x020000, /* an Ethernet controller */
	    .features = F_CSUM | F_GUEST_CSUM | F_MAC | F_HOST_TSO4 | F_HOST_TSO6 | F_HOST_ECN | F_MRG_RXBUF |
	                F_STATUS | F_CTRL_VQ | F_CTRL_RX | F_CTRL_VLAN | F_CTRL_RX_EXTRA | F_CTRL_MAC_ADDR,
	    .config_size = CONFIG_SIZE,
	    .ops = &virtio_net_ops,
	    .device = net,
	};
	int error;

	if (!net)
		return error_set(ENOMEM, "out of memory");
	net->index = index;
	snprintf(net->name, sizeof(net->name), "virtio-net%u", index);
	setup.name = net->name;
	setup.rom = net->rom =
	    config->rom ? net_port_rom("efi-virtio.rom", PCI_VENDOR, PCI_TRANSITIONAL, &setup.rom_size)
	                : NULL;
	error = timer_init(&net->send_timer, &machine->timers, send_timer_expired, net);
	virtio_create(&net->virtio, machine, &setup);
	net->receive_queue = virtio_add_queue(&net->virtio, QUEUE_SIZE, receive_notified);
	net->send_queue = virtio_add_queue(&net->virtio, QUEUE_SIZE, send_notified);
	net->control_queue = virtio_add_queue(&net->virtio, CONTROL_QUEUE_SIZE, control_notified);
	if (!error)
		error = net_port_open(&net->port, machine, config, &port_ops, net);
	if (!error)
		error = virtio_add(&net->virtio, PCI_SLOT_ANY);
	if (error) {
		virtio_net_destroy(net);
		return error;
	}
	return net_card_boot_path(machine, index, net->virtio.pci.slot);
}

/* What describes one network card and its host side: plain data, filled by config/ or a test. */
#ifndef NESTOR_NET_NET_CONFIG_H
#define NESTOR_NET_NET_CONFIG_H

#include <stdbool.h>
#include <stdint.h>

#define NET_CARDS_MAX    8
#define NET_FORWARDS_MAX 32
#define NET_MAC_SIZE     6
#define NET_IFNAME_SIZE  16 /* IFNAMSIZ */

enum net_kind {
	NET_USER, /* libslirp: a network of its own behind NAT, without privileges */
	NET_TAP,  /* a tap interface of the host */
};

enum net_model { NET_MODEL_VIRTIO, NET_MODEL_E1000E };

/* What arrives at a port of the host goes to a port of the guest. Addresses: in the host's byte order, 0: any
 * of the host's, or the guest's first DHCP address. */
struct net_forward {
	bool udp;
	uint32_t host_address, guest_address;
	uint16_t host_port, guest_port;
};

struct net_config {
	enum net_kind kind;
	enum net_model model;
	uint8_t mac[NET_MAC_SIZE]; /* the guest's */
	int boot_index;            /* the firmware's order, lowest first; -1: none */
	bool rom;                  /* offer iPXE's option ROM where it is installed */

	/* ---- NET_USER ---- */
	bool restricted; /* nothing but forwarded ports: neither the host nor what it reaches */
	bool ipv6;
	uint32_t network,
	    mask; /* byte order of the host: host is .2 in it, name server .3, the first DHCP address .15 */
	struct net_forward forward[NET_FORWARDS_MAX];
	unsigned forward_count;
	char host_name[33];  /* what DHCP calls the guest, or "" */
	char tftp[512];      /* folder served by TFTP at .2, or "" */
	char boot_file[128]; /* what DHCP tells a boot ROM to load, or "" */

	/* ---- NET_TAP ---- */
	char interface[NET_IFNAME_SIZE]; /* or "": fd */
	int fd;                          /* an open tap, taken over and closed with the network; -1: none */
};

#endif

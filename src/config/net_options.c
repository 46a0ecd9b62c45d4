#include "config/net_options.h"

#include <arpa/inet.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "util/error.h"
#include "util/properties.h"

#define KNOWN_USER                                                                                           \
	"user takes model, mac, rom, bootindex, hostfwd, restrict, net, ipv6, hostname, tftp and bootfile"
#define KNOWN_TAP "tap takes model, mac, rom, bootindex, ifname and fd"

#define BOOT_INDEX_MAX 255 /* as of disks */

static int bad(const struct properties *list, const char *key, const char *value, const char *must)
{
	return error_set(EINVAL, "%s %s: %s=%s must be %s", list->option, list->text, key, value, must);
}

/* A number of one to five digits up to 65535, ended by `end`; NULL where it is none, else what follows. */
static const char *port_of(const char *text, char end, uint16_t *port)
{
	unsigned value = 0, digits = 0;

	for (; *text >= '0' && *text <= '9' && digits < 6; text++, digits++)
		value = value * 10 + (unsigned)(*text - '0');
	if (!digits || value < 1 || value > 65535 || *text != end)
		return NULL;
	*port = (uint16_t)value;
	return text + (end != '\0');
}

/* An IPv4 address, or nothing, before a colon; NULL where it is none, else what follows. */
static const char *address_of(const char *text, uint32_t *address)
{
	struct in_addr value = {0};
	char copy[INET_ADDRSTRLEN];
	size_t length = strcspn(text, ":");

	if (text[length] != ':' || length >= sizeof(copy))
		return NULL;
	memcpy(copy, text, length);
	copy[length] = '\0';
	if (length && inet_pton(AF_INET, copy, &value) != 1)
		return NULL;
	*address = ntohl(value.s_addr);
	return text + length + 1;
}

/* PROTOCOL:[HOSTADDRESS]:PORT-[GUESTADDRESS]:PORT */
static int forward_of(const struct properties *list, const char *value, struct net_config *net)
{
	struct net_forward forward = {0};
	const char *at = NULL;

	if (net->forward_count == NET_FORWARDS_MAX)
		return error_set(EINVAL, "%s %s: at most %d hostfwd", list->option, list->text,
		                 NET_FORWARDS_MAX);
	if (!strncmp(value, "tcp:", 4) || !strncmp(value, "udp:", 4))
		at = address_of(value + 4, &forward.host_address);
	if (at)
		at = port_of(at, '-', &forward.host_port);
	if (at)
		at = address_of(at, &forward.guest_address);
	if (at)
		at = port_of(at, '\0', &forward.guest_port);
	if (!at)
		return bad(list, "hostfwd", value,
		           "tcp or udp, an address and a port of the host, and of the guest, such as "
		           "tcp::2222-:22");
	forward.udp = *value == 'u';
	net->forward[net->forward_count++] = forward;
	return 0;
}

static int forwards_of(struct properties *list, struct net_config *net)
{
	int error = 0;

	for (unsigned i = 0; i < list->count && !error; i++) {
		struct property *item = &list->item[i];

		if (strcmp(item->key, "hostfwd"))
			continue;
		item->used = true;
		error = forward_of(list, item->value ? item->value : "", net);
	}
	return error;
}

/* ADDRESS/LENGTH; .2, .3 and .15 onwards must fit in. */
static int network_of(struct properties *list, struct net_config *net)
{
	const char *value = properties_get(list, "net"), *slash = value ? strchr(value, '/') : NULL;
	char address[INET_ADDRSTRLEN];
	struct in_addr network;
	unsigned length = 0;
	int after = 0;

	if (!value)
		return 0;
	if (!slash || (size_t)(slash - value) >= sizeof(address) ||
	    sscanf(slash, "/%2u%n", &length, &after) != 1 || slash[after] || length < 8 || length > 27)
		return bad(list, "net", value, "a network such as 10.0.2.0/24, its length from 8 to 27");
	memcpy(address, value, (size_t)(slash - value));
	address[slash - value] = '\0';
	net->mask = ~0u << (32 - length);
	if (inet_pton(AF_INET, address, &network) != 1 || ntohl(network.s_addr) & ~net->mask)
		return bad(list, "net", value,
		           "a network such as 10.0.2.0/24, with no address bits beyond its length");
	net->network = ntohl(network.s_addr);
	return 0;
}

static int text_of(struct properties *list, const char *key, char *to, size_t size)
{
	const char *value = properties_get(list, key);

	if (!value)
		return 0;
	if (!*value || strlen(value) >= size)
		return error_set(EINVAL, "%s %s: %s needs a value of at most %zu characters", list->option,
		                 list->text, key, size - 1);
	strcpy(to, value);
	return 0;
}

static int mac_of(struct properties *list, struct net_config *net)
{
	const char *value = properties_get(list, "mac");
	unsigned byte[NET_MAC_SIZE];
	int after = 0;

	if (!value)
		return 0;
	if (strlen(value) != 17 ||
	    sscanf(value, "%2x:%2x:%2x:%2x:%2x:%2x%n", &byte[0], &byte[1], &byte[2], &byte[3], &byte[4],
	           &byte[5], &after) != NET_MAC_SIZE ||
	    after != 17)
		return bad(list, "mac", value, "six bytes such as 52:4e:45:53:54:01");
	if (byte[0] & 1)
		return bad(list, "mac", value, "an address of one card: the first byte is even");
	for (unsigned i = 0; i < NET_MAC_SIZE; i++)
		net->mac[i] = (uint8_t)byte[i];
	return 0;
}

static int model_of(struct properties *list, struct net_config *net)
{
	const char *value = properties_get(list, "model");

	if (!value || !strcmp(value, "virtio"))
		return 0;
	if (strcmp(value, "e1000e"))
		return bad(list, "model", value, "virtio or e1000e");
	net->model = NET_MODEL_E1000E;
	return 0;
}

static int user_of(struct properties *list, struct net_config *net)
{
	int error = forwards_of(list, net);

	if (!error)
		error = properties_switch(list, "restrict", false, &net->restricted);
	if (!error)
		error = properties_switch(list, "ipv6", true, &net->ipv6);
	if (!error)
		error = network_of(list, net);
	if (!error)
		error = text_of(list, "hostname", net->host_name, sizeof(net->host_name));
	if (!error)
		error = text_of(list, "tftp", net->tftp, sizeof(net->tftp));
	if (!error)
		error = text_of(list, "bootfile", net->boot_file, sizeof(net->boot_file));
	return error ? error : properties_check_used(list, KNOWN_USER);
}

static int tap_of(struct properties *list, struct net_config *net)
{
	uint64_t fd = UINT64_MAX;
	int error = text_of(list, "ifname", net->interface, sizeof(net->interface));

	net->kind = NET_TAP;
	if (!error)
		error = properties_number(list, "fd", 3, 1 << 20, &fd);
	if (!error)
		error = properties_check_used(list, KNOWN_TAP);
	if (!error && (fd != UINT64_MAX) == (*net->interface != '\0'))
		error = error_set(EINVAL, "%s %s: give ifname=NAME or fd=NUMBER", list->option, list->text);
	net->fd = fd == UINT64_MAX ? -1 : (int)fd;
	return error;
}

/* A card as it is where nothing else is said; the address is locally administered, and another for each. */
static void card_init(struct net_config *net, unsigned index)
{
	*net = (struct net_config){
	    .mac = {0x52, 0x4e, 0x45, 0x53, 0x54, (uint8_t)(index + 1)},
	    .rom = true,
	    .ipv6 = true,
	    .network = 0x0a000200,
	    .mask = 0xffffff00,
	    .fd = -1,
	    .boot_index = -1,
	};
}

static int card_of(struct properties *list, struct machine_config *machine, bool *none)
{
	const char *kind = properties_first(list);
	struct net_config *net = &machine->net[machine->net_count];
	uint64_t boot_index = UINT64_MAX;
	int error;

	if (kind && !strcmp(kind, "none")) {
		error = properties_check_used(list, "none stands alone");
		if (!error && machine->net_count)
			error = error_set(EINVAL, "--net none: excludes other networks");
		*none = true;
		return error;
	}
	if (!kind || (strcmp(kind, "user") && strcmp(kind, "tap")))
		return error_set(EINVAL, "--net %s: must begin with user, tap or none", list->text);
	if (*none)
		return error_set(EINVAL, "--net %s: --net none excludes other networks", list->text);
	if (machine->net_count == NET_CARDS_MAX)
		return error_set(EINVAL, "--net %s: at most %d networks", list->text, NET_CARDS_MAX);
	card_init(net, machine->net_count);
	error = mac_of(list, net);
	if (!error)
		error = model_of(list, net);
	if (!error)
		error = properties_switch(list, "rom", true, &net->rom);
	if (!error)
		error = properties_number(list, "bootindex", 0, BOOT_INDEX_MAX, &boot_index);
	if (boot_index != UINT64_MAX)
		net->boot_index = (int)boot_index;
	if (!error)
		error = *kind == 'u' ? user_of(list, net) : tap_of(list, net);
	for (unsigned i = 0; i < machine->net_count && !error; i++)
		if (!memcmp(machine->net[i].mac, net->mac, NET_MAC_SIZE))
			error = error_set(EINVAL, "--net %s: another card has this mac", list->text);
	machine->net_count += !error;
	return error;
}

int net_options_parse(struct machine_config *machine, const char *text, bool *none)
{
	struct properties list;
	int error = properties_parse(&list, "--net", text);

	if (!error)
		error = card_of(&list, machine, none);
	properties_free(&list);
	return error;
}

void net_options_default(struct machine_config *machine)
{
#ifdef NESTOR_HAVE_SLIRP
	card_init(&machine->net[0], 0);
	machine->net_count = 1;
#endif
}

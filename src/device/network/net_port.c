#include "device/network/net_port.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "machine/machine.h"
#include "util/error.h"

/* Under the deterministic clock: how long a frame takes to the network, and the longest wait of the host for
 * connections to outside when it is looked at. */
#define WIRE_NS    20000u
#define OUTSIDE_MS 1u
/* "PCI Expansion ROM Header Format", "PCI Data Structure" */
#define ROM_HEADER     0x1a
#define ROM_CHECKSUM   6 /* a byte of iPXE's header that is there for it */
#define DATA_STRUCTURE 0x18
#define CODE_BIOS      0
#define LAST_IMAGE     0x80
#define ROM_MAX        (1u << 20)
#define ROM_FOLDERS                                                                                          \
	{                                                                                                    \
		"/usr/lib/ipxe/qemu", "/usr/share/qemu", "/usr/share/ipxe/qemu"                              \
	}

struct net_port {
	struct machine *machine;
	const struct net_port_ops *ops;
	void *card;
	struct net *net;
	bool threaded;
	struct machine_timer timer; /* without a thread: the next net_poll */
	uint64_t timer_at;
	uint64_t sent, taken; /* frames, for nestor info */
};

/* ---- from the network ---- */

static void lock(struct net_port *port)
{
	if (port->threaded)
		machine_lock(port->machine);
}

static void unlock(struct net_port *port)
{
	if (port->threaded)
		machine_unlock(port->machine);
}

static void received(void *context)
{
	struct net_port *port = context;
	const struct net_frame *frame;
	bool any = false;

	lock(port);
	while ((frame = net_first(port->net)) && port->ops->receive(port->card, frame)) {
		net_drop_first(port->net);
		port->taken++;
		any = true;
	}
	if (any)
		port->ops->received(port->card);
	unlock(port);
}

static void sendable(void *context)
{
	struct net_port *port = context;

	lock(port);
	port->ops->sendable(port->card);
	unlock(port);
}

static void link_changed(void *context)
{
	struct net_port *port = context;

	lock(port);
	port->ops->link_changed(port->card, net_link_up(port->net));
	unlock(port);
}

/* ---- time ---- */

static uint64_t now_ns(void *context)
{
	struct net_port *port = context;

	return machine_now(port->machine);
}

static void poll_by(struct net_port *port, uint64_t at)
{
	if (at < port->timer_at) {
		port->timer_at = at;
		timer_arm(&port->timer, at);
	}
}

static void timer_expired(void *context)
{
	struct net_port *port = context;
	uint64_t wait, now = machine_now(port->machine);

	port->timer_at = TIMER_NEVER;
	wait = net_poll(port->net, OUTSIDE_MS);

	if (wait != UINT64_MAX)
		poll_by(port, now + wait + WIRE_NS);
}

/* ---- from the card ---- */

bool net_port_send(struct net_port *port, const struct iovec *piece, unsigned count,
                   const struct net_offload *offload)
{
	bool sent = net_send(port->net, piece, count, offload);

	if (!port->threaded) {
		poll_by(port, machine_now(port->machine) + WIRE_NS);
		sent = true;
	}
	port->sent += sent;
	return sent;
}

void net_port_resume(struct net_port *port)
{
	net_resume(port->net);
	if (!port->threaded)
		poll_by(port, machine_now(port->machine) + WIRE_NS);
}

bool net_port_link_up(const struct net_port *port)
{
	return net_link_up(port->net);
}

static void describe(void *context, FILE *out)
{
	struct net_port *port = context;

	fprintf(out, "  link %s, %llu frames sent, %llu taken from outside\n",
	        net_link_up(port->net) ? "up" : "down", (unsigned long long)port->sent,
	        (unsigned long long)port->taken);
}

int net_port_open(struct net_port **result, struct machine *machine, const struct net_config *config,
                  const struct net_port_ops *ops, void *card)
{
	static const char *const names[NET_CARDS_MAX] = {"net0", "net1", "net2", "net3",
	                                                 "net4", "net5", "net6", "net7"};
	struct net_port *port = calloc(1, sizeof(*port));
	struct net_receiver receiver = {received, sendable, link_changed, NULL, port};
	int error = 0;

	if (!port)
		return error_set(ENOMEM, "out of memory");
	*port = (struct net_port){.machine = machine, .ops = ops, .card = card, .timer_at = TIMER_NEVER};
	port->threaded = machine->config.clock == ENGINE_CLOCK_REAL;
	if (!port->threaded) {
		receiver.now_ns = now_ns;
		error = timer_init(&port->timer, &machine->timers, timer_expired, port);
	}
	/* The network's thread may call at once: it finds the card, and waits for the lock. */
	*result = port;
	machine_lock(machine);
	if (!error)
		error = net_open(&port->net, config, &receiver, port->threaded);
	machine_unlock(machine);
	if (error) {
		*result = NULL;
		free(port);
		return error;
	}
	if (!port->threaded)
		poll_by(port, WIRE_NS);
	machine_add_description(machine, "network", names[config - machine->config.net], describe, port);
	return 0;
}

void net_port_close(struct net_port *port)
{
	if (!port)
		return;
	net_close(port->net);
	free(port);
}

/* ---- option ROMs ---- */

static void *read_rom(int fd, size_t *size)
{
	struct stat file;
	void *rom = NULL;
	size_t whole = 4096;

	if (fstat(fd, &file) || !S_ISREG(file.st_mode) || file.st_size < 512 || file.st_size > ROM_MAX)
		return NULL;
	while (whole < (size_t)file.st_size)
		whole *= 2;
	if (posix_memalign(&rom, 4096, whole))
		return NULL;
	memset(rom, 0xff, whole);
	if (read(fd, rom, (size_t)file.st_size) != file.st_size) {
		free(rom);
		return NULL;
	}
	*size = whole;
	return rom;
}

/*
 * One ROM serves several devices; firmware runs it only where its data structure names the very one. PCI
 * Firmware Specification, "PCI Data Structure" and "PCI Expansion ROM Header Format": BIOS images sum to
 * zero.
 */
static void name_device(uint8_t *rom, size_t size, uint16_t vendor, uint16_t device)
{
	uint8_t ids[4] = {(uint8_t)vendor, (uint8_t)(vendor >> 8), (uint8_t)device, (uint8_t)(device >> 8)};

	for (size_t at = 0; size - at >= ROM_HEADER && rom[at] == 0x55 && rom[at + 1] == 0xaa;) {
		size_t data = at + rom[at + 0x18] + 256u * rom[at + 0x19], length;

		if (data > size - DATA_STRUCTURE || memcmp(rom + data, "PCIR", 4))
			return;
		length = (rom[data + 0x10] + 256u * rom[data + 0x11]) * 512;
		if (!length || length > size - at)
			return;
		for (unsigned i = 0; i < sizeof(ids); i++) {
			if (rom[data + 0x14] == CODE_BIOS)
				rom[at + ROM_CHECKSUM] =
				    (uint8_t)(rom[at + ROM_CHECKSUM] + rom[data + 4 + i] - ids[i]);
			rom[data + 4 + i] = ids[i];
		}
		if (rom[data + 0x15] & LAST_IMAGE)
			return;
		at += length;
	}
}

void *net_port_rom(const char *file, uint16_t vendor, uint16_t device, size_t *size)
{
	static const char *const folders[] = ROM_FOLDERS;
	void *rom = NULL;

	for (unsigned i = 0; i < sizeof(folders) / sizeof(folders[0]) && !rom; i++) {
		int folder = open(folders[i], O_PATH | O_DIRECTORY | O_CLOEXEC);
		int fd = folder < 0 ? -1 : openat(folder, file, O_RDONLY | O_CLOEXEC);

		if (fd >= 0) {
			rom = read_rom(fd, size);
			close(fd);
		}
		if (folder >= 0)
			close(folder);
	}
	if (rom)
		name_device(rom, *size, vendor, device);
	return rom;
}

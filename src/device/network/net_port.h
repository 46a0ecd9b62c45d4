/*
 * Between a network card and its network (net/net.h): the machine lock, and time. Under the real clock the
 * network's thread hands frames over; under the deterministic clock the network has no thread and is served
 * by a timer of the machine, so that what the guest and the user-mode network say to each other repeats
 * exactly.
 */
#ifndef NESTOR_DEVICE_NET_PORT_H
#define NESTOR_DEVICE_NET_PORT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "net/net.h"

struct machine;
struct net_port;

/* The card. All under the machine lock. */
struct net_port_ops {
	/* A frame from outside. False: no room now; the frame is kept, and net_port_resume asks for it again.
	 */
	bool (*receive)(void *card, const struct net_frame *frame);
	/* After the last of some frames: interrupts. */
	void (*received)(void *card);
	/* net_port_send refused a frame, and now there is room. */
	void (*sendable)(void *card);
	void (*link_changed)(void *card, bool up);
};

/* Opens the network; config: one of machine_config.net. Returns 0, or a negative errno with error_text(). */
int net_port_open(struct net_port **port, struct machine *machine, const struct net_config *config,
                  const struct net_port_ops *ops, void *card);
/* NULL: nothing. Not under lock, while no vCPU and no event loop run. */
void net_port_close(struct net_port *port);

/* As net_send; never refuses under the deterministic clock. Under lock, as what follows. */
bool net_port_send(struct net_port *port, const struct iovec *piece, unsigned count,
                   const struct net_offload *offload);
/* The card has room again, or drops what comes. */
void net_port_resume(struct net_port *port);
bool net_port_link_up(const struct net_port *port);

/*
 * The option ROM for a card (iPXE's, as Debian installs it), made out to its PCI identity: its contents with
 * *size a power of two, page-aligned, to be freed; NULL where it is not there.
 */
void *net_port_rom(const char *file, uint16_t vendor, uint16_t device, size_t *size);

#endif

/*
 * A network's host side: frames of a guest's card go out, frames from outside come in. A network either runs
 * a thread of its own (real clock) or is served by calls of net_poll (deterministic clock, tests); in both
 * cases all of the backend's work, checksums and segmentation included, happens there and never in net_send.
 *
 * Frames are Ethernet frames without FCS. They come from a guest: nothing in them is trusted.
 */
#ifndef NESTOR_NET_NET_H
#define NESTOR_NET_NET_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

#include "net/net_config.h"
#include "net/offload.h"

#define NET_FRAME_MAX   (65536 + 64) /* what net_send takes: the largest IP packet, with headers before it */
#define NET_FRAME_MIN   60           /* Ethernet's, without FCS */
#define NET_HEADER_SIZE 14

struct net;

/* A frame from outside. */
struct net_frame {
	struct net_frame *next;
	size_t size;
	bool good;                  /* its checksums are known to be right */
	struct net_offload offload; /* of a frame that goes out */
	uint8_t data[];
};

/*
 * The card. Called by the network's thread or from within net_poll, with no lock of the network held; they
 * may call any function below but net_close and net_poll.
 */
struct net_receiver {
	/* Frames have come: net_first and net_drop_first until there is none, or until the card cannot take
	 * more; it then calls net_resume later. */
	void (*received)(void *context);
	/* After net_send has refused a frame: there is room again. */
	void (*sendable)(void *context);
	/* net_link_up has changed. */
	void (*link_changed)(void *context);
	uint64_t (*now_ns)(void *context); /* net_poll's clock; NULL: the host's */
	void *context;
};

/*
 * Opens a network; threaded: it has a thread of its own. config and receiver are copied. Returns 0, or a
 * negative errno with error_text(): a port that is taken, an interface that is missing, a library that was
 * left out.
 */
int net_open(struct net **net, const struct net_config *config, const struct net_receiver *receiver,
             bool threaded);
/* NULL: nothing. No callback runs any more when it returns. */
void net_close(struct net *net);

/*
 * Queues a copy of a frame. offload: checksums and segmentation that the guest left to its card, or NULL.
 * Returns false where the queue is full: sendable will be called. A frame that is too short or too long is
 * dropped (true). [any thread]
 */
bool net_send(struct net *net, const struct iovec *piece, unsigned count, const struct net_offload *offload);

/* The oldest frame from outside, or NULL; and done with it. Only where struct net_receiver says. */
const struct net_frame *net_first(struct net *net);
void net_drop_first(struct net *net);
/* The card can take frames again that it left. [any thread] */
void net_resume(struct net *net);

/* Is the cable in? [any] */
bool net_link_up(const struct net *net);

/*
 * Without a thread: sends what is queued, lets frames in, calls the receiver. Returns when to call again at
 * the latest, in ns from now (UINT64_MAX: after the next net_send or net_resume only). Where connections to
 * outside exist it may wait for up to wait_ms for them.
 */
uint64_t net_poll(struct net *net, unsigned wait_ms);

#endif

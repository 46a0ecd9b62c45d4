/* What a kind of network offers net.c. Everything runs in the network's thread, or in net_open, net_poll,
 * net_close. */
#ifndef NESTOR_NET_BACKEND_H
#define NESTOR_NET_BACKEND_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "net/net.h"

struct net_backend {
	bool large; /* takes TCP packets of up to 64 KiB, whatever the MTU */
	bool good;  /* its frames' checksums are right */
	/* Opens; *state: the backend's. Returns 0 or a negative errno with error_text(). */
	int (*open)(void **state, struct net *net, const struct net_config *config);
	void (*close)(void *state);
	/* Sends a frame that needs nothing done to it. May call net_let_in. */
	void (*send)(void *state, uint8_t *frame, size_t size);
	/*
	 * One round: waits until there is something to do, wake_fd (-1: none) is readable, or timeout_ms have
	 * passed
	 * (-1: for ever), and does it; frames from outside go to net_let_in, and are left where they are
	 * unless `receiving`. outside_ms: wait that long, instead of timeout_ms, if connections to outside
	 * exist. Returns when to be called again at the latest, in ms (-1: when a frame is sent).
	 */
	int (*round)(void *state, int wake_fd, bool receiving, int timeout_ms, int outside_ms);
};

extern const struct net_backend net_backend_user, net_backend_tap;

/* A frame from outside: queues a copy for the card; dropped where far too many wait. */
void net_let_in(struct net *net, const uint8_t *frame, size_t size);
/* The cable was pulled or put in: tells the card after this round. */
void net_set_link(struct net *net, bool up);
/* ns, of net_poll's clock or the host's. */
uint64_t net_now(struct net *net);
bool net_is_threaded(const struct net *net);

#endif

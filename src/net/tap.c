/*
 * A tap interface of the host, by name or as an open descriptor; a datagram socket (one frame each) serves as
 * well. Rules: Linux, Documentation/networking/tuntap.rst.
 */
#include "net/backend.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/if_tun.h>
#include <net/if.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include "util/error.h"

#define FRAMES_PER_ROUND 64

static_assert(NET_IFNAME_SIZE == IFNAMSIZ, "an interface's name");

struct tap {
	struct net *net;
	int fd; /* -1: it is gone */
	uint8_t buffer[NET_FRAME_MAX];
};

/* The interface was removed, or the peer is gone: the guest sees its cable pulled. */
static void lose(struct tap *tap)
{
	close(tap->fd);
	tap->fd = -1;
	net_set_link(tap->net, false);
}

static void tap_send(void *state, uint8_t *frame, size_t size)
{
	struct tap *tap = state;

	/* What the host does not take now (queue full, interface down) is lost, as on a cable. */
	if (tap->fd >= 0 && write(tap->fd, frame, size) < 0 &&
	    (errno == EBADFD || errno == ECONNREFUSED || errno == EPIPE))
		lose(tap);
}

static void receive(struct tap *tap)
{
	for (unsigned i = 0; i < FRAMES_PER_ROUND; i++) {
		ssize_t size = read(tap->fd, tap->buffer, sizeof(tap->buffer));

		if (size < 0 && (errno == EAGAIN || errno == EINTR || errno == EIO))
			return;
		if (size <= 0) {
			lose(tap);
			return;
		}
		net_let_in(tap->net, tap->buffer, (size_t)size);
	}
}

static int tap_round(void *state, int wake_fd, bool receiving, int timeout_ms, int outside_ms)
{
	struct tap *tap = state;
	struct pollfd polled[] = {{wake_fd, POLLIN, 0}, {receiving ? tap->fd : -1, POLLIN, 0}};

	if (outside_ms >= 0)
		timeout_ms = polled[1].fd >= 0 ? outside_ms : 0;
	if (poll(polled, 2, timeout_ms) > 0 && polled[1].revents)
		receive(tap);
	return tap->fd >= 0 ? 1 : -1;
}

static void tap_close(void *state)
{
	struct tap *tap = state;

	if (tap->fd >= 0)
		close(tap->fd);
	free(tap);
}

static int open_by_name(struct tap *tap, const char *name)
{
	struct ifreq request = {.ifr_flags = IFF_TAP | IFF_NO_PI};

	tap->fd = open("/dev/net/tun", O_RDWR | O_NONBLOCK | O_CLOEXEC);
	if (tap->fd < 0)
		return error_set(
		    errno,
		    "--net tap,ifname=%s: cannot open /dev/net/tun: %s; --net user needs no privileges", name,
		    strerror(errno));
	memcpy(request.ifr_name, name, strlen(name)); /* shorter than IFNAMSIZ: net_config.interface */
	if (ioctl(tap->fd, TUNSETIFF, &request)) {
		int error = errno;

		return error_set(error, "--net tap,ifname=%s: %s%s", name, strerror(error),
		                 error == EPERM    ? "; as root: ip tuntap add dev NAME mode tap user USER"
		                 : error == EINVAL ? "; is it a tap interface, not another kind?"
		                 : error == EBUSY  ? "; another program has it"
		                                   : "");
	}
	return 0;
}

static int take_over(struct tap *tap, int fd)
{
	struct ifreq request = {0};
	int flags = fcntl(fd, F_GETFL), type = 0;
	socklen_t size = sizeof(type);

	if (flags < 0)
		return error_set(EBADF, "--net tap,fd=%d: this descriptor is not open", fd);
	if (ioctl(fd, TUNGETIFF, &request) == 0) {
		if (!(request.ifr_flags & IFF_TAP) || !(request.ifr_flags & IFF_NO_PI) ||
		    request.ifr_flags & IFF_VNET_HDR)
			return error_set(
			    EINVAL,
			    "--net tap,fd=%d: %s must be a tap with IFF_NO_PI and without IFF_VNET_HDR", fd,
			    request.ifr_name);
	} else if (getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &size) ||
	           (type != SOCK_DGRAM && type != SOCK_SEQPACKET)) {
		return error_set(EINVAL, "--net tap,fd=%d: neither a tap interface nor a datagram socket",
		                 fd);
	}
	if (fcntl(fd, F_SETFL, flags | O_NONBLOCK) || fcntl(fd, F_SETFD, FD_CLOEXEC))
		return error_set(errno, "--net tap,fd=%d: %s", fd, strerror(errno));
	tap->fd = fd;
	return 0;
}

static int tap_open(void **state, struct net *net, const struct net_config *config)
{
	struct tap *tap = calloc(1, sizeof(*tap));

	if (!tap)
		return error_set(ENOMEM, "out of memory for a network");
	*state = tap;
	tap->net = net;
	tap->fd = -1;
	return *config->interface ? open_by_name(tap, config->interface) : take_over(tap, config->fd);
}

const struct net_backend net_backend_tap = {
    .open = tap_open,
    .close = tap_close,
    .send = tap_send,
    .round = tap_round,
};

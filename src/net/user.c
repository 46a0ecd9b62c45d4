/*
 * User mode: libslirp plays a small network behind NAT (DHCP, DNS, TFTP, host at .2) on sockets of this
 * process, without privileges. All calls of the library are made by the network's thread, or in net_poll.
 */
#include "net/backend.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "util/error.h"

#ifdef NESTOR_HAVE_SLIRP
#include <slirp/libslirp.h>

/* Router advertisements come at random times (RFC 4861); at even ones where a run is to repeat. */
#define EVEN_TIMER_MS 10000

struct user_timer {
	struct user_timer *next;
	SlirpTimerCb expired;
	void *context;
	int64_t at_ms; /* -1: not armed */
	struct user *user;
};

struct user {
	struct net *net;
	Slirp *slirp;
	struct net_config config;
	struct user_timer *timers;
	struct pollfd *polled;
	unsigned count, room;
};

/* ---- what the library calls ---- */

static ssize_t send_packet(const void *frame, size_t size, void *opaque)
{
	struct user *user = opaque;

	net_let_in(user->net, frame, size);
	return (ssize_t)size;
}

static void guest_error(const char *message, void *opaque)
{
	/* The guest sent nonsense: its own affair. */
}

static int64_t clock_get_ns(void *opaque)
{
	struct user *user = opaque;

	return (int64_t)net_now(user->net);
}

static void *timer_new(SlirpTimerCb expired, void *context, void *opaque)
{
	struct user *user = opaque;
	struct user_timer *timer = calloc(1, sizeof(*timer));

	if (!timer)
		abort(); /* as the library itself does without memory */
	*timer = (struct user_timer){
	    .next = user->timers, .expired = expired, .context = context, .at_ms = -1, .user = user};
	user->timers = timer;
	return timer;
}

static void timer_free(void *timer, void *opaque)
{
	struct user *user = opaque;

	for (struct user_timer **at = &user->timers; *at; at = &(*at)->next) {
		if (*at == timer) {
			*at = (*at)->next;
			free(timer);
			return;
		}
	}
}

static void timer_mod(void *opaque_timer, int64_t at_ms, void *opaque)
{
	struct user_timer *timer = opaque_timer;
	struct user *user = opaque;

	if (!net_is_threaded(user->net))
		at_ms = clock_get_ns(user) / 1000000 + EVEN_TIMER_MS;
	timer->at_ms = at_ms;
}

static void poll_fd_known(int fd, void *opaque)
{
	/* They are told again by slirp_pollfds_fill before each poll. */
}

static void notify(void *opaque)
{
	/* For other threads that feed the library: there are none. */
}

static void init_completed(Slirp *slirp, void *opaque)
{
}

static const SlirpCb callbacks = {
    .send_packet = send_packet,
    .guest_error = guest_error,
    .clock_get_ns = clock_get_ns,
    .timer_new = timer_new,
    .timer_free = timer_free,
    .timer_mod = timer_mod,
    .register_poll_fd = poll_fd_known,
    .unregister_poll_fd = poll_fd_known,
    .notify = notify,
    .init_completed = init_completed,
};

/* ---- waiting ---- */

static int add_poll(int fd, int events, void *opaque)
{
	struct user *user = opaque;
	short wanted =
	    (short)((events & SLIRP_POLL_IN ? POLLIN : 0) | (events & SLIRP_POLL_OUT ? POLLOUT : 0) |
	            (events & SLIRP_POLL_PRI ? POLLPRI : 0));

	if (user->count == user->room) {
		unsigned room = user->room ? 2 * user->room : 16;
		struct pollfd *grown = realloc(user->polled, room * sizeof(*grown));

		if (!grown)
			return -1;
		user->polled = grown;
		user->room = room;
	}
	user->polled[user->count] = (struct pollfd){.fd = fd, .events = wanted};
	return (int)user->count++;
}

static int get_revents(int index, void *opaque)
{
	struct user *user = opaque;
	short got;

	if (index < 0 || (unsigned)index >= user->count)
		return 0;
	got = user->polled[index].revents;
	return (got & POLLIN ? SLIRP_POLL_IN : 0) | (got & POLLOUT ? SLIRP_POLL_OUT : 0) |
	       (got & POLLPRI ? SLIRP_POLL_PRI : 0) | (got & POLLERR ? SLIRP_POLL_ERR : 0) |
	       (got & POLLHUP ? SLIRP_POLL_HUP : 0);
}

/* ms until the earliest timer, -1: none. */
static int next_timer(struct user *user)
{
	int64_t now = clock_get_ns(user) / 1000000, next = -1;

	for (const struct user_timer *timer = user->timers; timer; timer = timer->next) {
		int64_t wait = timer->at_ms - now;

		if (timer->at_ms < 0)
			continue;
		if (wait < 0)
			wait = 0;
		if (next < 0 || wait < next)
			next = wait;
	}
	return next > 60000 ? 60000 : (int)next;
}

static void run_timers(struct user *user)
{
	int64_t now = clock_get_ns(user) / 1000000;

	for (struct user_timer *timer = user->timers, *next; timer; timer = next) {
		next = timer->next;
		if (timer->at_ms < 0 || timer->at_ms > now)
			continue;
		timer->at_ms = -1;
		timer->expired(timer->context);
	}
}

/* The shorter of two waits, where -1 is for ever. */
static int sooner(int a, int b)
{
	if (a < 0 || b < 0)
		return a < 0 ? b : a;
	return a < b ? a : b;
}

static int user_round(void *state, int wake_fd, bool receiving, int timeout_ms, int outside_ms)
{
	struct user *user = state;
	uint32_t wanted = UINT32_MAX;
	bool outside;
	int result, wait;

	user->count = 0;
	if (wake_fd >= 0)
		add_poll(wake_fd, SLIRP_POLL_IN, user);
	if (receiving)
		slirp_pollfds_fill(user->slirp, &wanted, add_poll, user);
	/* Its own listening sockets alone are no connections. */
	outside = user->count > user->config.forward_count + (wake_fd >= 0);
	wait = sooner(wanted > 60000 ? -1 : (int)wanted, next_timer(user));
	if (outside_ms >= 0)
		wait = outside ? outside_ms : 0;
	else
		wait = sooner(wait, timeout_ms);
	result = poll(user->polled, user->count, wait);
	if (receiving)
		slirp_pollfds_poll(user->slirp, result < 0, get_revents, user);
	run_timers(user);
	/* Sockets are looked at every millisecond of a clock that is not the host's. */
	return sooner(user->count > (wake_fd >= 0) ? 1 : -1, next_timer(user));
}

/* ---- opening ---- */

static struct in_addr inside(const struct net_config *config, uint32_t host)
{
	return (struct in_addr){htonl(config->network | host)};
}

static int forward(struct user *user, const struct net_forward *forward)
{
	struct in_addr host = {htonl(forward->host_address)}, guest = {htonl(forward->guest_address)};
	char address[INET_ADDRSTRLEN] = "";

	if (slirp_add_hostfwd(user->slirp, forward->udp, host, forward->host_port, guest,
	                      forward->guest_port) >= 0)
		return 0;

	int error = errno ? errno : EADDRINUSE;

	if (host.s_addr)
		inet_ntop(AF_INET, &host, address, sizeof(address));
	return error_set(error,
	                 "--net hostfwd=%s:%s:%u-…: cannot take this port of the host: %s; name another one",
	                 forward->udp ? "udp" : "tcp", address, forward->host_port, strerror(error));
}

static void user_close(void *state)
{
	struct user *user = state;

	if (user->slirp)
		slirp_cleanup(user->slirp);
	while (user->timers)
		timer_free(user->timers, user);
	free(user->polled);
	free(user);
}

static int user_open(void **state, struct net *net, const struct net_config *config)
{
	struct user *user = calloc(1, sizeof(*user));
	struct stat folder;
	int error = 0;

	if (!user)
		return error_set(ENOMEM, "out of memory for a network");
	*state = user;
	user->net = net;
	user->config = *config;
	if (*config->tftp && (stat(config->tftp, &folder) || !S_ISDIR(folder.st_mode)))
		return error_set(ENOTDIR, "--net tftp=%s: not a folder", config->tftp);

	SlirpConfig setup = {
	    .version = 1,
	    .restricted = config->restricted,
	    .in_enabled = true,
	    .vnetwork = inside(config, 0),
	    .vnetmask = {htonl(config->mask)},
	    .vhost = inside(config, 2),
	    .vnameserver = inside(config, 3),
	    .vdhcp_start = inside(config, 15),
	    .in6_enabled = config->ipv6,
	    .vprefix_len = 64,
	    .vhostname = *user->config.host_name ? user->config.host_name : NULL,
	    .tftp_path = *user->config.tftp ? user->config.tftp : NULL,
	    .bootfile = *user->config.boot_file ? user->config.boot_file : NULL,
	};

	inet_pton(AF_INET6, "fec0::", &setup.vprefix_addr6);
	inet_pton(AF_INET6, "fec0::2", &setup.vhost6);
	inet_pton(AF_INET6, "fec0::3", &setup.vnameserver6);
	user->slirp = slirp_new(&setup, &callbacks, user);
	if (!user->slirp)
		return error_set(EINVAL, "--net user: libslirp refuses this network");
	for (unsigned i = 0; i < config->forward_count && !error; i++)
		error = forward(user, &config->forward[i]);
	return error;
}

static void user_send(void *state, uint8_t *frame, size_t size)
{
	struct user *user = state;

	slirp_input(user->slirp, frame, (int)size);
}

#else

static int user_open(void **state, struct net *net, const struct net_config *config)
{
	return error_set(ENOTSUP,
	                 "--net user: this nestor was built without libslirp; install libslirp-dev and build "
	                 "it anew, or use --net tap");
}

static void user_close(void *state)
{
}

static void user_send(void *state, uint8_t *frame, size_t size)
{
}

static int user_round(void *state, int wake_fd, bool receiving, int timeout_ms, int outside_ms)
{
	return -1;
}

#endif

const struct net_backend net_backend_user = {
    .large = true,
    .good = true,
    .open = user_open,
    .close = user_close,
    .send = user_send,
    .round = user_round,
};

/*
 * libvncserver does the protocol; this is what is around it. All of it runs in one thread: poll waits for the listening
 * sockets, the viewers' and a wake-up, and while a viewer is there also for the time of the next refresh. The picture
 * that libvncserver sends is a copy of the display's surface, of which only what changed is copied and marked.
 *
 * A viewer sends keysyms, characters rather than keys. What its keyboard needed shift for, the guest's (a US one) may
 * not, and the other way round: then shift is pressed or let go around the key.
 */
#include "display/vnc.h"

#include <errno.h>
#include <stdlib.h>

#include "util/error.h"
#include "util/thread.h"

#ifdef NESTOR_HAVE_VNCSERVER
#include <linux/input-event-codes.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/select.h>
#include <time.h>
#include <unistd.h>

#include <rfb/rfb.h>

#include "display/display.h"
#include "display/keysym.h"
#include "display/vnc_listen.h"

#define REFRESH_MS  40
#define VIEWERS_MAX 16
#define STALLED_MS  5000 /* a viewer that takes nothing for so long is dropped: it holds up the others */
#define KEYS        256

struct vnc {
	struct display *display;
	struct vnc_handlers handlers;
	struct vnc_listen listen;
	char *passwords[2];
	rfbScreenInfoPtr screen;
	uint32_t *picture; /* libvncserver's frame buffer */
	uint64_t seen;     /* the surface's time of the last copy */
	unsigned viewers;
	int wake_fd;
	atomic_bool quit;
	pthread_t thread;
};

/* What one viewer holds down. */
struct viewer {
	struct vnc *vnc;
	bool down[KEYS];
	int buttons, x, y; /* the pointer, as RFB has it */
};

static uint64_t now_ms(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
}

/* ---- keyboard and pointer ---- */

static void press(struct viewer *viewer, unsigned key, bool down)
{
	struct vnc *vnc = viewer->vnc;

	viewer->down[key] = down;
	vnc->handlers.key(vnc->handlers.context, key, down);
}

/* Around a key that needs shift to be otherwise than it is; `invert` twice brings all back. */
static void invert_shift(struct viewer *viewer, bool have, bool back)
{
	static const unsigned shift[] = {KEY_LEFTSHIFT, KEY_RIGHTSHIFT};
	const struct vnc_handlers *handlers = &viewer->vnc->handlers;

	if (!have) {
		handlers->key(handlers->context, KEY_LEFTSHIFT, !back);
		return;
	}
	for (unsigned i = 0; i < 2; i++)
		if (viewer->down[shift[i]])
			handlers->key(handlers->context, shift[i], back);
}

static void on_key(rfbBool down, rfbKeySym keysym, rfbClientPtr client)
{
	struct viewer *viewer = client->clientData;
	const struct vnc_handlers *handlers = &viewer->vnc->handlers;
	bool have = viewer->down[KEY_LEFTSHIFT] || viewer->down[KEY_RIGHTSHIFT], want, invert;
	bool chord = viewer->down[KEY_LEFTCTRL] || viewer->down[KEY_RIGHTCTRL] || viewer->down[KEY_LEFTALT];
	struct keysym_key key;

	if (!keysym_find((uint32_t)keysym, &key))
		return;
	if (!down) {
		press(viewer, key.key, false);
		return;
	}
	want = key.shift == KEYSYM_SHIFTED;
	if (key.letter && handlers->caps_lock(handlers->context))
		want = !want;
	invert = key.shift != KEYSYM_ANY && !chord && want != have;
	if (invert)
		invert_shift(viewer, have, false);
	press(viewer, key.key, true);
	if (invert)
		invert_shift(viewer, have, true);
}

static void on_pointer(int mask, int x, int y, rfbClientPtr client)
{
	struct viewer *viewer = client->clientData;
	struct vnc *vnc = viewer->vnc;
	unsigned width = (unsigned)vnc->screen->width, height = (unsigned)vnc->screen->height;
	int pressed = mask & ~viewer->buttons;
	unsigned buttons = (mask & 1 ? 1u : 0) | (mask & 2 ? 4u : 0) | (mask & 4 ? 2u : 0);

	viewer->buttons = mask;
	viewer->x = x;
	viewer->y = y;
	vnc->handlers.pointer(vnc->handlers.context, x < 0 ? 0 : (unsigned)x, y < 0 ? 0 : (unsigned)y, width,
	                      height, buttons, (pressed & 8 ? 1 : 0) - (pressed & 16 ? 1 : 0));
}

static void on_gone(rfbClientPtr client)
{
	struct viewer *viewer = client->clientData;

	for (unsigned key = 0; key < KEYS; key++)
		if (viewer->down[key])
			press(viewer, key, false);
	if (viewer->buttons)
		on_pointer(0, viewer->x, viewer->y, client);
	viewer->vnc->viewers--;
	client->clientData = NULL;
	free(viewer);
}

static enum rfbNewClientAction on_new(rfbClientPtr client)
{
	struct vnc *vnc = client->screen->screenData;
	struct viewer *viewer = calloc(1, sizeof(*viewer));

	if (!viewer)
		return RFB_CLIENT_REFUSE;
	viewer->vnc = vnc;
	client->clientData = viewer;
	client->clientGoneHook = on_gone;
	vnc->viewers++;
	return RFB_CLIENT_ACCEPT;
}

/* ---- the picture ---- */

/* Blue in the low byte, as in a surface; libvncserver's own order is the other way round. */
static void set_format(rfbScreenInfoPtr screen)
{
	screen->serverFormat.redShift = 16;
	screen->serverFormat.greenShift = 8;
	screen->serverFormat.blueShift = 0;
}

static bool resize(struct vnc *vnc, unsigned width, unsigned height)
{
	uint32_t *old = vnc->picture, *picture;
	rfbClientIteratorPtr iterator;
	rfbClientPtr client;

	if (old && vnc->screen->width == (int)width && vnc->screen->height == (int)height)
		return true;
	picture = calloc((size_t)width * height, sizeof(*picture));
	if (!picture)
		return false;
	vnc->picture = picture;
	vnc->seen = 0;
	rfbNewFramebuffer(vnc->screen, (char *)picture, (int)width, (int)height, 8, 3, 4);
	set_format(vnc->screen);
	iterator = rfbGetClientIterator(vnc->screen);
	while ((client = rfbClientIteratorNext(iterator)))
		rfbSetTranslateFunction(client);
	rfbReleaseClientIterator(iterator);
	free(old);
	return true;
}

/* Copies what differs in one line; widens [*left, *right) to hold it. */
static bool copy_line(uint32_t *to, const uint32_t *from, unsigned width, unsigned *left, unsigned *right)
{
	unsigned first = 0, last = width;

	while (first < width && to[first] == from[first])
		first++;
	if (first == width)
		return false;
	while (to[last - 1] == from[last - 1])
		last--;
	memcpy(to + first, from + first, (last - first) * sizeof(*to));
	*left = first < *left ? first : *left;
	*right = last > *right ? last : *right;
	return true;
}

/* Each run of changed lines becomes one rectangle. */
static void copy_changes(struct vnc *vnc, const struct surface *surface)
{
	unsigned width = surface->width, left = width, right = 0, top = 0;
	bool open = false;

	for (unsigned y = 0; y <= surface->height; y++) {
		size_t at = (size_t)y * width;
		bool changed = y < surface->height && surface->changed[y] > vnc->seen &&
		               copy_line(vnc->picture + at, surface->pixels + at, width, &left, &right);

		if (changed && !open)
			top = y;
		if (!changed && open) {
			rfbMarkRectAsModified(vnc->screen, (int)left, (int)top, (int)right, (int)y);
			left = width;
			right = 0;
		}
		open = changed;
	}
	vnc->seen = surface->time;
}

static void refresh(struct vnc *vnc)
{
	const struct surface *surface = display_acquire(vnc->display);

	if (resize(vnc, surface->width, surface->height))
		copy_changes(vnc, surface);
	display_release(vnc->display);
}

/* ---- the thread ---- */

static void accept_viewer(struct vnc *vnc, int listener)
{
	int fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC);

	if (fd < 0)
		return;
	/* libvncserver waits with select. */
	if (fd >= FD_SETSIZE || vnc->viewers >= VIEWERS_MAX) {
		close(fd);
		return;
	}
	if (!vnc->viewers)
		refresh(vnc); /* what a viewer sees first is fresh */
	rfbNewClient(vnc->screen, fd);
}

/* Waits; returns after `timeout` ms (-1: never) or when there is something to do. */
static void wait_for_work(struct vnc *vnc, int timeout)
{
	struct pollfd polled[VNC_LISTENERS + 1 + VIEWERS_MAX];
	rfbClientIteratorPtr iterator;
	rfbClientPtr client;
	unsigned count = 0;
	uint64_t ignored;

	for (; count < vnc->listen.count; count++)
		polled[count] = (struct pollfd){vnc->listen.fd[count], POLLIN, 0};
	polled[count++] = (struct pollfd){vnc->wake_fd, POLLIN, 0};
	iterator = rfbGetClientIterator(vnc->screen);
	while ((client = rfbClientIteratorNext(iterator)))
		if (count < sizeof(polled) / sizeof(polled[0]) && client->sock >= 0)
			polled[count++] = (struct pollfd){client->sock, POLLIN, 0};
	rfbReleaseClientIterator(iterator);
	if (poll(polled, count, timeout) <= 0)
		return;
	for (unsigned i = 0; i < vnc->listen.count; i++)
		if (polled[i].revents)
			accept_viewer(vnc, polled[i].fd);
	if (polled[vnc->listen.count].revents && read(vnc->wake_fd, &ignored, sizeof(ignored)) < 0)
		return;
}

static void *vnc_thread(void *argument)
{
	struct vnc *vnc = argument;
	uint64_t next = 0;

	pthread_setname_np(pthread_self(), "nestor-vnc");
	while (!atomic_load(&vnc->quit)) {
		uint64_t now = now_ms();

		wait_for_work(vnc, !vnc->viewers ? -1 : next > now ? (int)(next - now) : 0);
		if (!vnc->viewers)
			continue;
		now = now_ms();
		if (now >= next) {
			refresh(vnc);
			next = now + REFRESH_MS;
		}
		rfbProcessEvents(vnc->screen, 0);
	}
	return NULL;
}

/* ---- start and stop ---- */

static void quiet(const char *format, ...)
{
}

static int create_screen(struct vnc *vnc)
{
	const struct surface *surface = display_acquire(vnc->display);
	unsigned width = surface->width, height = surface->height;
	rfbScreenInfoPtr screen;

	display_release(vnc->display);
	rfbLog = rfbErr = quiet;
	screen = rfbGetScreen(NULL, NULL, (int)width, (int)height, 8, 3, 4);
	if (!screen)
		return error_set(ENOMEM, "out of memory for VNC");
	vnc->screen = screen;
	if (!resize(vnc, width, height))
		return error_set(ENOMEM, "out of memory for VNC");
	screen->screenData = vnc;
	screen->desktopName = "Nestor";
	screen->port = screen->ipv6port = -1; /* we listen */
	screen->autoPort = FALSE;
	screen->alwaysShared = TRUE;
	screen->cursor = NULL;
	screen->deferUpdateTime = 0;
	screen->maxClientWait = STALLED_MS;
	screen->handleEventsEagerly = TRUE;
	screen->kbdAddEvent = on_key;
	screen->ptrAddEvent = on_pointer;
	screen->newClientHook = on_new;
	if (vnc->listen.password[0]) {
		vnc->passwords[0] = vnc->listen.password;
		screen->authPasswdData = vnc->passwords;
		screen->passwordCheck = rfbCheckPasswordByList;
	}
	rfbInitServer(screen);
	return 0;
}

static int start_thread(struct vnc *vnc)
{
	int error = thread_start(&vnc->thread, vnc_thread, vnc);

	return error ? error_set(error, "cannot start the VNC thread: %s", strerror(error)) : 0;
}

static void destroy(struct vnc *vnc)
{
	if (vnc->screen) {
		rfbShutdownServer(vnc->screen, TRUE);
		rfbScreenCleanup(vnc->screen);
	}
	if (vnc->wake_fd >= 0)
		close(vnc->wake_fd);
	free(vnc->picture);
	vnc_listen_close(&vnc->listen);
	free(vnc);
}

int vnc_start(struct vnc **result, struct display *display, const struct vnc_address *address,
              const struct vnc_handlers *handlers)
{
	struct vnc *vnc = calloc(1, sizeof(*vnc));
	int error;

	if (!vnc)
		return error_set(ENOMEM, "out of memory");
	vnc->display = display;
	vnc->handlers = *handlers;
	vnc->wake_fd = -1;
	error = vnc_listen_open(&vnc->listen, address);
	if (error) {
		free(vnc);
		return error;
	}
	vnc->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (vnc->wake_fd < 0)
		error = error_set(errno, "cannot start VNC: %s", strerror(errno));
	if (!error)
		error = create_screen(vnc);
	if (!error)
		error = start_thread(vnc);
	if (error) {
		destroy(vnc);
		return error;
	}
	*result = vnc;
	return 0;
}

void vnc_stop(struct vnc *vnc)
{
	uint64_t one = 1;

	if (!vnc)
		return;
	atomic_store(&vnc->quit, true);
	if (write(vnc->wake_fd, &one, sizeof(one)) < 0)
		abort(); /* a counter that is full would wake as well */
	pthread_join(vnc->thread, NULL);
	destroy(vnc);
}
#else
int vnc_start(struct vnc **vnc, struct display *display, const struct vnc_address *address,
              const struct vnc_handlers *handlers)
{
	return error_set(ENOTSUP, "--vnc: Nestor was built without libvncserver (libvncserver-dev)");
}

void vnc_stop(struct vnc *vnc)
{
}
#endif

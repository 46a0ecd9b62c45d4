/*
 * A VNC server (RFC 6143, The Remote Framebuffer Protocol) that shows a display, by libvncserver. It runs in a thread of
 * its own; while no viewer is there it sleeps. Viewers share the screen.
 */
#ifndef NESTOR_DISPLAY_VNC_H
#define NESTOR_DISPLAY_VNC_H

#include <stdbool.h>
#include <stdint.h>

struct display;
struct vnc;

/* Where it listens. Strings are borrowed and only looked at by vnc_start. */
struct vnc_address {
	const char *path;          /* a UNIX socket (only its owner may connect), or NULL: TCP */
	const char *host;          /* name or address; NULL with path NULL: no VNC at all */
	uint16_t port;
	const char *password_file; /* its first line, at most 8 characters; NULL: no password */
};

/* What viewers do. Called in the server's thread with no lock held. */
struct vnc_handlers {
	void *context;
	void (*key)(void *context, unsigned key, bool down); /* KEY_… */
	/* The pointer at a pixel of the picture, its buttons (1: left, 2: right, 4: middle), wheel clicks (up: positive). */
	void (*pointer)(void *context, unsigned x, unsigned y, unsigned width, unsigned height,
	                unsigned buttons, int wheel);
	bool (*caps_lock)(void *context); /* is it on in the guest? */
};

/*
 * Listens and starts the thread. TCP beyond this host without a password is refused. Returns 0, or a negative errno with
 * error_text() (-ENOTSUP: built without libvncserver).
 */
int vnc_start(struct vnc **vnc, struct display *display, const struct vnc_address *address,
              const struct vnc_handlers *handlers);
/* Ends the thread and all connections; NULL is fine. */
void vnc_stop(struct vnc *vnc);

#endif

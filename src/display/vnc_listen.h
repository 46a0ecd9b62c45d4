/* The sockets and the password of a VNC server: what its address says. Internal to vnc.c. */
#ifndef NESTOR_DISPLAY_VNC_LISTEN_H
#define NESTOR_DISPLAY_VNC_LISTEN_H

#include "display/vnc.h"

#define VNC_LISTENERS    4 /* addresses of one name */
#define VNC_PASSWORD_MAX 8 /* RFC 6143, VNC Authentication: a DES key */

struct vnc_listen {
	int fd[VNC_LISTENERS];
	unsigned count;
	char *path; /* of the UNIX socket, to remove it in the end; owned, or NULL */
	char password[VNC_PASSWORD_MAX + 1]; /* "": none */
};

/* Reads the password, then opens the sockets, which do not block. Returns 0, or a negative errno with error_text();
 * nothing is left open then. */
int vnc_listen_open(struct vnc_listen *listen, const struct vnc_address *address);
void vnc_listen_close(struct vnc_listen *listen);

#endif

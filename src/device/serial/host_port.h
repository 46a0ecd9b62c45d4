/*
 * The host side of a byte stream such as a serial port: the terminal, a file, a pseudo terminal, a socket, or
 * nothing. Output goes through a buffer and a thread of its own, so that a guest need not wait for the host's
 * write calls; input is read by the event loop only as fast as the device takes it.
 */
#ifndef NESTOR_DEVICE_HOST_PORT_H
#define NESTOR_DEVICE_HOST_PORT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct host_port;
struct machine;

/*
 * Opens what spec names: "stdio", "file:PATH", "pty", "unix:PATH", "null", or "console:PATH": a
 * socket as unix:, which begins by telling who connects what came last. name: the device's, for messages.
 * input(context) is called under the machine lock when bytes have come in; it fetches them with
 * host_port_get. Returns 0, or a negative errno with error_text(). Owned by the caller.
 */
int host_port_open(struct host_port **port, struct machine *machine, const char *spec, const char *name,
                   void (*input)(void *context), void *context);
/* Writes out what is buffered and closes. NULL is allowed. */
void host_port_close(struct host_port *port);

/* Under the machine lock: */
/* Sends a byte; waits only where 64 KiB are buffered already. */
void host_port_put(struct host_port *port, uint8_t byte);
/* Nothing is lost to a socket's slow reader: for those who send with host_port_write only. After opening. */
void host_port_be_patient(struct host_port *port);
/* Sends what there is room for of size bytes, without waiting. Returns how many that were. */
size_t host_port_write(struct host_port *port, const uint8_t *data, size_t size);
/* Takes the next byte that came in. False where there is none. */
bool host_port_get(struct host_port *port, uint8_t *byte);

#endif

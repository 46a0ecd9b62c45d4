/*
 * Port 402h, where SeaBIOS and OVMF write their logs: it reads as E9h, by which they find it, and is there only where
 * somebody wants to read them (--debug-port).
 */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "device/devices.h"
#include "machine/machine.h"
#include "util/error.h"

#define IDENTITY 0xe9
#define LINE_MAX_SIZE 512

struct debug_port {
	int fd;
	bool own_fd;
	unsigned used;
	char line[LINE_MAX_SIZE];
};

/* A log that cannot be written (a full disk, a closed pipe) is no reason to disturb the guest. */
static void flush(struct debug_port *port)
{
	const char *from = port->line;

	while (port->used) {
		ssize_t done = write(port->fd, from, port->used);

		if (done < 0 && errno == EINTR)
			continue;
		if (done <= 0)
			break;
		from += done;
		port->used -= (unsigned)done;
	}
	port->used = 0;
}

static uint64_t debug_port_read(void *state, uint64_t offset, unsigned size)
{
	return IDENTITY;
}

static void debug_port_write(void *state, uint64_t offset, unsigned size, uint64_t value)
{
	struct debug_port *port = state;

	port->line[port->used++] = (char)value;
	if (port->used == sizeof(port->line) || (char)value == '\n')
		flush(port);
}

static void debug_port_reset(void *state)
{
	flush(state);
}

static void debug_port_destroy(void *state)
{
	struct debug_port *port = state;

	flush(port);
	if (port->own_fd)
		close(port->fd);
	free(port);
}

static const struct bus_ops debug_port_ops = {1, debug_port_read, debug_port_write};

int debug_port_create(struct machine *machine)
{
	const char *where = machine->config.debug_port;
	struct debug_port *port;
	int error;

	if (!where)
		return 0;
	port = calloc(1, sizeof(*port));
	if (!port)
		return error_set(ENOMEM, "out of memory");
	port->fd = STDERR_FILENO;
	if (!strncmp(where, "file:", 5)) {
		port->fd = open(where + 5, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
		port->own_fd = true;
	}
	if (port->fd < 0) {
		error = error_set(errno, "--debug-port %s: cannot be opened: %s", where, strerror(errno));
		free(port);
		return error;
	}
	error = machine_add_device(machine, "debug-port", port, debug_port_reset, debug_port_destroy);
	if (error) {
		debug_port_destroy(port);
		return error;
	}
	return bus_add(&machine->pio, PLATFORM_DEBUG_PORT, 1, &debug_port_ops, port, "debug-port");
}

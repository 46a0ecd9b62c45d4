/*
 * virtio-console with one port, to a host_port. Rules: VIRTIO 1.2, "Console Device".
 *
 * A chain of output stays popped until all of its bytes have gone to the host: where the host is slow, the
 * rest is tried again a little later, and the guest goes on meanwhile. (Under the deterministic clock what
 * the host takes must not show in the guest's time, and the device waits for it.)
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "device/devices.h"
#include "device/serial/host_port.h"
#include "device/virtio/virtio.h"
#include "machine/machine.h"
#include "util/error.h"

#define CLASS_COMMUNICATION_OTHER 0x078000
#define QUEUE_SIZE                128
#define RETRY_NS                  1000000

#define F_SIZE        (1u << 0)
#define F_EMERG_WRITE (1u << 2)

#define CONFIG_COLUMNS     0
#define CONFIG_ROWS        2
#define CONFIG_EMERG_WRITE 8
#define CONFIG_SIZE        12

struct console {
	struct virtio_device virtio;
	struct host_port *host;
	struct virtqueue *receive, *transmit;
	struct virtio_chain *sending; /* not all of it has gone out yet */
	size_t sent;
	struct machine_timer retry;
};

/* ---- to the host ---- */

/* Sends on; false where bytes are left. */
static bool send_chain(struct console *console, struct virtio_chain *chain)
{
	bool wait = console->virtio.machine->config.clock == ENGINE_CLOCK_DETERMINISTIC;
	uint8_t bytes[4096];
	size_t size, taken;

	while ((size = virtio_chain_read(chain, console->sent, bytes, sizeof(bytes)))) {
		taken = host_port_write(console->host, bytes, size);
		console->sent += taken;
		if (taken == size)
			continue;
		if (!wait)
			return false;
		host_port_put(console->host, bytes[taken]);
		console->sent++;
	}
	return true;
}

static void transmit(void *context)
{
	struct console *console = context;

	for (;;) {
		if (!console->sending) {
			console->sending = virtqueue_pop(console->transmit);
			console->sent = 0;
		}
		if (!console->sending)
			break;
		if (!send_chain(console, console->sending)) {
			timer_arm(&console->retry, machine_now(console->virtio.machine) + RETRY_NS);
			break;
		}
		virtqueue_push(console->sending, 0);
		console->sending = NULL;
	}
	virtqueue_notify(console->transmit);
}

static void transmit_notified(void *device, struct virtqueue *queue)
{
	struct console *console = device;

	if (!console->sending)
		transmit(console);
}

/* ---- from the host ---- */

/* Fills the next chain with what has come in; false where nothing has, or nowhere to put it. */
static bool receive_chain(struct console *console)
{
	struct virtio_chain *chain = virtqueue_pop(console->receive);
	size_t size = 0, room;
	uint8_t bytes[256];

	if (!chain)
		return false;
	room = chain->writable_size < sizeof(bytes) ? chain->writable_size : sizeof(bytes);
	while (size < room && host_port_get(console->host, &bytes[size]))
		size++;
	if (size == 0 && room) {
		virtqueue_unpop(chain);
		return false;
	}
	virtqueue_push(chain, virtio_chain_write(chain, 0, bytes, size));
	return true;
}

static void receive(void *context)
{
	struct console *console = context;

	while (receive_chain(console))
		;
	virtqueue_notify(console->receive);
}

static void receive_notified(void *device, struct virtqueue *queue)
{
	receive(device);
}

/* ---- the device ---- */

static void reset(void *device)
{
	struct console *console = device;

	timer_cancel(&console->retry);
	if (console->sending)
		virtqueue_drop(console->sending);
	console->sending = NULL;
}

static void config_write(void *device, unsigned offset, unsigned size, uint32_t value)
{
	struct console *console = device;

	if (offset == CONFIG_EMERG_WRITE && virtio_has(&console->virtio, F_EMERG_WRITE))
		host_port_put(console->host, (uint8_t)value);
}

static void destroy(void *device)
{
	struct console *console = device;

	host_port_close(console->host);
	reset(console);
	free(console);
}

static const struct virtio_ops ops = {.reset = reset, .config_write = config_write, .destroy = destroy};

/* The terminal's size when the machine starts. Under the deterministic clock it must not matter. */
static bool find_size(struct console *console, const char *spec, enum engine_clock clock)
{
	struct winsize size;

	if (strcmp(spec, "stdio") != 0 || clock == ENGINE_CLOCK_DETERMINISTIC ||
	    ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) || !size.ws_col || !size.ws_row)
		return false;
	virtio_put16(console->virtio.config + CONFIG_COLUMNS, size.ws_col);
	virtio_put16(console->virtio.config + CONFIG_ROWS, size.ws_row);
	return true;
}

static int create(struct machine *machine, const char *spec)
{
	struct console *console = calloc(1, sizeof(*console));
	struct virtio_setup setup = {
	    .name = "virtio-console",
	    .type = VIRTIO_ID_CONSOLE,
	    .class_code = CLASS_COMMUNICATION_OTHER,
	    .features = F_EMERG_WRITE,
	    .config_size = CONFIG_SIZE,
	    .ops = &ops,
	    .device = console,
	};
	int error;

	if (!console)
		return error_set(ENOMEM, "out of memory");
	virtio_create(&console->virtio, machine, &setup);
	if (find_size(console, spec, machine->config.clock))
		console->virtio.setup.features |= F_SIZE;
	console->receive = virtio_add_queue(&console->virtio, QUEUE_SIZE, receive_notified);
	console->transmit = virtio_add_queue(&console->virtio, QUEUE_SIZE, transmit_notified);
	error = timer_init(&console->retry, &machine->timers, transmit, console);
	if (!error)
		error = host_port_open(&console->host, machine, spec, "console", receive, console);
	if (!error && machine->config.clock == ENGINE_CLOCK_REAL)
		host_port_be_patient(console->host);
	if (!error)
		error = virtio_add(&console->virtio, PCI_SLOT_ANY);
	if (error) {
		host_port_close(console->host);
		free(console);
	}
	return error;
}

int virtio_console_create(struct machine *machine)
{
	int error = 0;

	for (unsigned i = 0; i < MACHINE_CONSOLES && !error; i++)
		if (machine->config.console[i])
			error = create(machine, machine->config.console[i]);
	return error;
}

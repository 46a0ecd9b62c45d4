/* nestor console: the terminal becomes that of a machine's serial port. */
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <unistd.h>

#include "cli/vm.h"
#include "control/client.h"
#include "control/endpoint.h"
#include "device/serial/terminal.h"
#include "util/error.h"

#define ESCAPE 0x01 /* Ctrl-A */

const char help_console[] =
	"Usage: nestor console NAME [--port N]\n"
	"\n"
	"Connects the terminal to a serial port of the machine: the one that nestor run --serial console (the\n"
	"default with --detach) has made. What came last from the guest is shown first. Ctrl-A x detaches and\n"
	"leaves the machine running, Ctrl-A Ctrl-A sends a Ctrl-A, Ctrl-A h lists the keys. One terminal at a\n"
	"time. Where the input is no terminal it is sent as it is, and its end does not detach.\n"
	"\n"
	"  --port N  0 for COM1 (the default), 1 for COM2\n"
	"\n"
	"Examples:\n"
	"  nestor console web\n"
	"  nestor console web --port 1\n";

struct console {
	int socket;
	bool terminal, escape, detached;
};

static bool write_all(int fd, const char *data, size_t size)
{
	while (size) {
		ssize_t written = write(fd, data, size);

		if (written < 0 && errno == EINTR)
			continue;
		if (written < 0)
			return false;
		data += written;
		size -= (size_t)written;
	}
	return true;
}

static void say(const char *text)
{
	if (!write_all(STDOUT_FILENO, text, strlen(text)))
		return; /* then nobody reads */
}

/* Takes the terminal's commands out of data; returns what is left for the guest. out: twice the size. */
static size_t filter(struct console *console, const char *data, size_t size, char *out)
{
	size_t kept = 0;

	for (size_t i = 0; i < size; i++) {
		if (!console->escape) {
			console->escape = data[i] == ESCAPE;
			if (!console->escape)
				out[kept++] = data[i];
			continue;
		}
		console->escape = false;
		switch (data[i]) {
		case 'x':
		case 'X':
		case 'x' & 0x1f:
			console->detached = true;
			return kept;
		case 'h':
		case '?':
			say("\r\nnestor: Ctrl-A x  detach\r\n        Ctrl-A h  this help\r\n"
			    "        Ctrl-A Ctrl-A  send a Ctrl-A\r\n");
			break;
		case ESCAPE:
		case 'a':
			out[kept++] = ESCAPE;
			break;
		default:
			out[kept++] = ESCAPE;
			out[kept++] = data[i];
			break;
		}
	}
	return kept;
}

/* From the user to the guest. False at the end of the input. */
static bool forward_input(struct console *console)
{
	char data[1024], kept[2 * sizeof(data)];
	ssize_t size = read(STDIN_FILENO, data, sizeof(data));
	size_t count;

	if (size < 0 && errno == EINTR)
		return true;
	if (size <= 0)
		return false;
	if (!console->terminal)
		return write_all(console->socket, data, (size_t)size);
	count = filter(console, data, (size_t)size, kept);
	return write_all(console->socket, kept, count);
}

/* Both ways until the user detaches or the machine ends. */
static void connect_both(struct console *console)
{
	struct pollfd fd[2] = {{.fd = STDIN_FILENO, .events = POLLIN},
	                       {.fd = console->socket, .events = POLLIN}};
	char data[4096];

	while (!console->detached) {
		if (poll(fd, 2, -1) < 0)
			continue;
		if (fd[0].revents && !forward_input(console)) {
			if (console->terminal)
				return;
			fd[0].fd = -1;
		}
		if (fd[1].revents) {
			ssize_t size = read(console->socket, data, sizeof(data));

			if (size < 0 && errno == EINTR)
				continue;
			if (size <= 0 || !write_all(STDOUT_FILENO, data, (size_t)size))
				return;
		}
	}
}

static int attach(const char *name, long port)
{
	struct console console = {.socket = -1};
	char suffix[16];
	int terminal;

	snprintf(suffix, sizeof(suffix), ".serial%ld", port);
	console.socket = endpoint_connect(name, suffix);
	if (console.socket == -ENOENT)
		return usage_error("console", "%s: its serial port %ld is no console: start it with --detach or --serial console",
				   name, port);
	if (console.socket < 0)
		return vm_refused("console", name);
	signal(SIGPIPE, SIG_IGN);
	terminal = terminal_raw(false);
	if (terminal < 0) {
		close(console.socket);
		return usage_error("console", "%s", error_text());
	}
	console.terminal = terminal > 0;
	if (console.terminal)
		say("nestor: Ctrl-A x detaches\r\n");
	connect_both(&console);
	terminal_restore();
	close(console.socket);
	if (console.terminal)
		say(console.detached ? "\nnestor: detached\n"
		                     : "\nnestor: the machine has ended the connection\n");
	return STATUS_OK;
}

int command_console(int argc, char **argv)
{
	struct vm_arguments arguments = {.option = {{.name = "--port", .takes_value = true}}};
	int status = vm_parse(&arguments, "console", help_console, argc, argv, "the NAME of a machine", 1, 1);
	struct control_client *client;
	long port = 0;

	if (status >= 0)
		return status;
	if (arguments.option[0].value) {
		status = vm_number("console", "--port", arguments.option[0].value, 0, 3, &port);
		if (status >= 0)
			return status;
	}
	client = vm_connect("console", arguments.word[0], 5000); /* says what runs where this does not */
	if (!client)
		return STATUS_USAGE;
	client_close(client);
	return attach(arguments.word[0], port);
}

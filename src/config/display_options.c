#include "config/display_options.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "machine/machine_config.h"
#include "util/error.h"
#include "util/properties.h"

#define VNC_FIRST_PORT 5900
#define VNC_DISPLAYS   100 /* numbers below are displays, from VNC_FIRST_PORT on; others are ports */
#define KNOWN          "--vnc takes password-file"
#define MUST           "must be [HOST]:N, a port, or unix:PATH, such as :0, 5901, 192.0.2.1:0 or unix:screen.sock"

int display_options_vga(struct display_options *options, struct machine_config *machine, const char *text)
{
	if (!strcmp(text, "std"))
		machine->vga = MACHINE_VGA_STD;
	else if (!strcmp(text, "none"))
		machine->vga = MACHINE_VGA_NONE;
	else
		return error_set(EINVAL, "--vga %s: must be std or none", text);
	options->vga_given = true;
	return 0;
}

/* The number of a display or a port; false where it is none. */
static bool port_of(const char *text, uint16_t *port)
{
	unsigned number = 0;
	const char *p = text;

	for (; *p >= '0' && *p <= '9' && number <= UINT16_MAX; p++)
		number = number * 10 + (unsigned)(*p - '0');
	if (p == text || *p || number > UINT16_MAX)
		return false;
	*port = (uint16_t)(number < VNC_DISPLAYS ? VNC_FIRST_PORT + number : number);
	return true;
}

/* "[HOST]:N", "N", where HOST may be an IPv6 address in brackets. text is cut up. */
static bool tcp_of(char *text, struct vnc_address *address)
{
	char *colon = strrchr(text, ':'), *host = text, *end = colon;

	address->host = "127.0.0.1";
	if (!colon)
		return port_of(text, &address->port);
	if (*host == '[' && end > host + 2 && end[-1] == ']') {
		host++;
		*--end = '\0';
	} else if (strchr(host, ':') != colon) {
		return false; /* an IPv6 address without brackets */
	}
	*end = '\0';
	if (*host)
		address->host = host;
	return port_of(colon + 1, &address->port);
}

int display_options_vnc(struct display_options *options, struct machine_config *machine, const char *text)
{
	struct vnc_address address = {0};
	const char *place;
	int result;

	if (options->vnc)
		return error_set(EINVAL, "--vnc %s: given twice", text);
	options->vnc = calloc(1, sizeof(*options->vnc));
	if (!options->vnc)
		return error_set(ENOMEM, "out of memory");
	result = properties_parse(options->vnc, "--vnc", text);
	if (result)
		return result;
	place = properties_name(options->vnc);
	if (!strncmp(place, "unix:", 5) && place[5])
		address.path = place + 5;
	else if (!tcp_of((char *)place, &address)) /* a word of our own copy */
		return error_set(EINVAL, "--vnc %s: " MUST, text);
	address.password_file = properties_get(options->vnc, "password-file");
	if (address.password_file && !*address.password_file)
		return error_set(EINVAL, "--vnc %s: password-file needs a file name", text);
	machine->vnc = address;
	return properties_check_used(options->vnc, KNOWN);
}

int display_options_finish(const struct display_options *options, struct machine_config *machine)
{
	bool vnc = machine->vnc.host || machine->vnc.path;

	if (!options->vga_given)
		machine->vga = machine->firmware || vnc ? MACHINE_VGA_STD : MACHINE_VGA_NONE;
	if (vnc && machine->vga == MACHINE_VGA_NONE)
		return error_set(EINVAL, "--vnc has nothing to show: leave out --vga none");
	return 0;
}

void display_options_free(struct display_options *options)
{
	if (options->vnc)
		properties_free(options->vnc);
	free(options->vnc);
	options->vnc = NULL;
}

/*
 * The screen as a part of the machine: the display that the VGA draws and, where it is asked for, the VNC server that
 * shows it and brings keys and pointer back. The server is created last and so destroyed first.
 */
#include <errno.h>
#include <stdlib.h>

#include "device/devices.h"
#include "device/input/input.h"
#include "display/display.h"
#include "display/vnc.h"
#include "machine/machine.h"
#include "util/error.h"

static void screen_destroy(void *state)
{
	display_destroy(state);
}

int screen_create(struct machine *machine)
{
	struct display *display;
	int error;

	if (machine->config.vga == MACHINE_VGA_NONE)
		return 0;
	error = display_create(&display);
	if (error)
		return error;
	error = machine_add_device(machine, "screen", display, NULL, screen_destroy);
	if (error) {
		display_destroy(display);
		return error;
	}
	machine->display = display;
	return 0;
}

/* ---- VNC ---- */

static void on_key(void *context, unsigned key, bool down)
{
	struct machine *machine = context;

	machine_lock(machine);
	input_key(machine->input, key, down);
	machine_unlock(machine);
}

static void on_pointer(void *context, unsigned x, unsigned y, unsigned width, unsigned height,
                       unsigned buttons, int wheel)
{
	struct machine *machine = context;

	machine_lock(machine);
	input_pointer(machine->input, x, y, width, height, buttons, wheel); /* the same bits as INPUT_BUTTON_… */
	machine_unlock(machine);
}

static bool caps_lock(void *context)
{
	struct machine *machine = context;
	bool on;

	machine_lock(machine);
	on = input_leds(machine->input) & INPUT_LED_CAPS;
	machine_unlock(machine);
	return on;
}

static void vnc_destroy(void *state)
{
	vnc_stop(state);
}

int vnc_create(struct machine *machine)
{
	const struct vnc_address *address = &machine->config.vnc;
	struct vnc_handlers handlers = {machine, on_key, on_pointer, caps_lock};
	struct vnc *vnc = NULL;
	int error;

	if (!address->host && !address->path)
		return 0;
	if (!machine->display)
		return error_set(EINVAL, "--vnc needs a display: leave out --vga none");
	error = vnc_start(&vnc, machine->display, address, &handlers);
	if (error)
		return error;
	error = machine_add_device(machine, "vnc", vnc, NULL, vnc_destroy);
	if (error)
		vnc_stop(vnc);
	return error;
}

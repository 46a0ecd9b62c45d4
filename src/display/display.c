#include "display/display.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>

#include "display/png.h"
#include "util/error.h"

#define EMPTY_WIDTH  640
#define EMPTY_HEIGHT 480

struct display {
	display_draw draw; /* constant once the machine runs, as is device */
	void *device;
	pthread_mutex_t lock;
	struct surface surface; /* under lock */
};

int display_create(struct display **result)
{
	struct display *display = calloc(1, sizeof(*display));

	if (!display)
		return error_set(ENOMEM, "out of memory for the display");
	surface_init(&display->surface);
	if (surface_resize(&display->surface, EMPTY_WIDTH, EMPTY_HEIGHT)) {
		free(display);
		return -ENOMEM;
	}
	pthread_mutex_init(&display->lock, NULL);
	*result = display;
	return 0;
}

void display_destroy(struct display *display)
{
	if (!display)
		return;
	surface_free(&display->surface);
	pthread_mutex_destroy(&display->lock);
	free(display);
}

void display_set_source(struct display *display, display_draw draw, void *device)
{
	display->draw = draw;
	display->device = device;
}

bool display_has_source(const struct display *display)
{
	return display->draw;
}

const struct surface *display_acquire(struct display *display)
{
	pthread_mutex_lock(&display->lock);
	surface_begin(&display->surface);
	if (display->draw)
		display->draw(display->device, &display->surface);
	return &display->surface;
}

void display_release(struct display *display)
{
	pthread_mutex_unlock(&display->lock);
}

int display_screenshot(struct display *display, const char *path)
{
	int result;

	if (!display || !display_has_source(display))
		return error_set(ENODEV,
		                 "screenshot %s: this machine has no display; start it with --vga std", path);
	result = png_write_surface(path, display_acquire(display));
	display_release(display);
	return result;
}

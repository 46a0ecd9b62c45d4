/*
 * A picture of 32-bit pixels (blue, green, red, unused: a byte each, in this order in memory) that a display
 * device fills line by line. Each line knows when it last changed, so that any number of viewers can tell what is
 * new to them. Nothing here locks: see display.h.
 */
#ifndef NESTOR_DISPLAY_SURFACE_H
#define NESTOR_DISPLAY_SURFACE_H

#include <stdbool.h>
#include <stdint.h>

#define SURFACE_WIDTH_MAX  4096
#define SURFACE_HEIGHT_MAX 4096

struct surface {
	uint32_t *pixels; /* height * width, owned */
	unsigned width, height;
	uint64_t time;         /* counts refreshes; a change carries the number of its refresh */
	uint64_t size_changed; /* when width and height last changed */
	uint64_t *changed;     /* when each line last did; owned */
};

void surface_init(struct surface *surface);
void surface_free(struct surface *surface);

/* A refresh begins: changes from now on are newer than all before. */
void surface_begin(struct surface *surface);

/*
 * Sets the size in pixels, 1 … SURFACE_…_MAX. Where it differs from the present one the picture becomes black and
 * everything counts as changed. Returns 0, or -EINVAL or -ENOMEM with error_text(): the surface is as it was.
 */
int surface_resize(struct surface *surface, unsigned width, unsigned height);

/* Stores line y (`width` pixels, which may change meanwhile); it counts as changed where it differs. */
void surface_put_line(struct surface *surface, unsigned y, const uint32_t *pixels);

#endif

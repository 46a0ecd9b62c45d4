/*
 * The machine's screen: a surface, the device that fills it, and whoever looks at it. Nothing is drawn but while
 * somebody looks: each viewer asks for a refresh when it wants a new picture.
 *
 * Lock order: a display's lock comes before the machine lock. Never call display_acquire or display_screenshot with
 * the machine lock held.
 */
#ifndef NESTOR_DISPLAY_DISPLAY_H
#define NESTOR_DISPLAY_DISPLAY_H

#include <stddef.h>

#include "display/surface.h"

struct display;

/* Draws the present picture into surface (surface_resize, surface_put_line). The display's lock is held, the machine
 * lock is not. */
typedef void (*display_draw)(void *device, struct surface *surface);

/* Returns 0, or -ENOMEM with error_text(). */
int display_create(struct display **display);
void display_destroy(struct display *display);

/* The device that draws; none at first. Before the machine runs. */
void display_set_source(struct display *display, display_draw draw, void *device);
bool display_has_source(const struct display *display);

/*
 * Brings the picture up to date and returns it, locked until display_release. Without a source it is a black 640 x
 * 480. [any thread, machine lock not held]
 */
const struct surface *display_acquire(struct display *display);
void display_release(struct display *display);

/*
 * Writes the present picture to `path` as a PNG (8 bits each of red, green, blue); the file appears whole or not at
 * all. display may be NULL (a machine without a screen). Returns 0, or a negative errno with error_text(): one line
 * that names the file. [any thread, machine lock not held]
 */
int display_screenshot(struct display *display, const char *path);

#endif

/* Pictures as PNG files (ISO/IEC 15948), by libpng. */
#ifndef NESTOR_DISPLAY_PNG_H
#define NESTOR_DISPLAY_PNG_H

#include "display/surface.h"

/*
 * Writes the picture to the file `path`, 8 bits each of red, green and blue: to a new file beside it, which then
 * takes its place. Returns 0, or a negative errno with error_text() that names the file (-ENOTSUP: built without
 * libpng).
 */
int png_write_surface(const char *path, const struct surface *surface);

#endif

#include "display/surface.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "util/error.h"

void surface_init(struct surface *surface)
{
	memset(surface, 0, sizeof(*surface));
}

void surface_free(struct surface *surface)
{
	free(surface->pixels);
	free(surface->changed);
	surface_init(surface);
}

void surface_begin(struct surface *surface)
{
	surface->time++;
}

int surface_resize(struct surface *surface, unsigned width, unsigned height)
{
	uint32_t *pixels;
	uint64_t *changed;

	if (width == surface->width && height == surface->height)
		return 0;
	if (!width || !height || width > SURFACE_WIDTH_MAX || height > SURFACE_HEIGHT_MAX)
		return error_set(EINVAL, "a picture of %u x %u pixels", width, height);
	pixels = calloc((size_t)width * height, sizeof(*pixels));
	changed = calloc(height, sizeof(*changed));
	if (!pixels || !changed) {
		free(pixels);
		free(changed);
		return error_set(ENOMEM, "out of memory for a picture of %u x %u pixels", width, height);
	}
	free(surface->pixels);
	free(surface->changed);
	surface->pixels = pixels;
	surface->changed = changed;
	surface->width = width;
	surface->height = height;
	surface->size_changed = surface->time;
	for (unsigned y = 0; y < height; y++)
		changed[y] = surface->time;
	return 0;
}

void surface_put_line(struct surface *surface, unsigned y, const uint32_t *pixels)
{
	size_t bytes = (size_t)surface->width * sizeof(*pixels);
	uint32_t *line = surface->pixels + (size_t)y * surface->width;

	if (y >= surface->height || !memcmp(line, pixels, bytes))
		return;
	memcpy(line, pixels, bytes);
	surface->changed[y] = surface->time;
}

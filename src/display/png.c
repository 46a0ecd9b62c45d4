#include "display/png.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "util/error.h"

#ifdef NESTOR_HAVE_PNG
#include <png.h>

/* What survives a longjmp out of libpng: all of it is reached through a pointer. */
struct writer {
	FILE *file;
	png_structp png;
	png_infop info;
	char message[128];
};

static void on_error(png_structp png, png_const_charp message)
{
	struct writer *writer = png_get_error_ptr(png);

	snprintf(writer->message, sizeof(writer->message), "%s", message);
	longjmp(png_jmpbuf(png), 1);
}

static void on_warning(png_structp png, png_const_charp message)
{
}

/* Returns 0, or -1 with writer->message. */
static int encode(struct writer *writer, const struct surface *surface)
{
	png_structp png = writer->png;

	if (setjmp(png_jmpbuf(png)))
		return -1;
	png_init_io(png, writer->file);
	png_set_IHDR(png, writer->info, surface->width, surface->height, 8, PNG_COLOR_TYPE_RGB,
	             PNG_INTERLACE_NONE, PNG_COMPRESSION_TYPE_DEFAULT, PNG_FILTER_TYPE_DEFAULT);
	png_set_compression_level(png, 3); /* the machine's screen waits */
	png_write_info(png, writer->info);
	png_set_bgr(png);
	png_set_filler(png, 0, PNG_FILLER_AFTER);
	for (unsigned y = 0; y < surface->height; y++)
		png_write_row(png, (png_const_bytep)(surface->pixels + (size_t)y * surface->width));
	png_write_end(png, NULL);
	return 0;
}

static int write_file(FILE *file, const char *path, const struct surface *surface)
{
	struct writer writer = {.file = file};
	int result = -1;

	writer.png = png_create_write_struct(PNG_LIBPNG_VER_STRING, &writer, on_error, on_warning);
	writer.info = writer.png ? png_create_info_struct(writer.png) : NULL;
	if (writer.info)
		result = encode(&writer, surface);
	else
		snprintf(writer.message, sizeof(writer.message), "out of memory");
	png_destroy_write_struct(&writer.png, &writer.info);
	if (result)
		return error_set(EIO, "cannot write %s: %s", path, writer.message);
	if (fflush(file))
		return error_set(errno, "cannot write %s: %s", path, strerror(errno));
	return 0;
}

/* The rights that a file opened for writing would get: mkstemp's are narrower. */
static void set_usual_mode(int fd)
{
	mode_t mask = umask(0);

	umask(mask);
	fchmod(fd, 0666 & ~mask);
}

int png_write_surface(const char *path, const struct surface *surface)
{
	char *temporary = NULL;
	FILE *file = NULL;
	int fd = -1, result;

	if (asprintf(&temporary, "%s.XXXXXX", path) < 0)
		return error_set(ENOMEM, "out of memory");
	fd = mkstemp(temporary);
	if (fd >= 0)
		file = fdopen(fd, "wb");
	if (!file) {
		result = error_set(errno, "cannot write %s: %s", path, strerror(errno));
		if (fd >= 0) {
			close(fd);
			unlink(temporary);
		}
		free(temporary);
		return result;
	}
	set_usual_mode(fd);
	result = write_file(file, path, surface);
	if (fclose(file) && !result)
		result = error_set(errno, "cannot write %s: %s", path, strerror(errno));
	if (!result && rename(temporary, path))
		result = error_set(errno, "cannot write %s: %s", path, strerror(errno));
	if (result)
		unlink(temporary);
	free(temporary);
	return result;
}
#else
int png_write_surface(const char *path, const struct surface *surface)
{
	return error_set(ENOTSUP, "cannot write %s: Nestor was built without libpng (libpng-dev)", path);
}
#endif

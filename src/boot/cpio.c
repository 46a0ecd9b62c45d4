#include "boot/cpio.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "util/error.h"

#define HEADER_SIZE 110

static void add(struct cpio *cpio, const void *data, size_t size)
{
	size_t padded = (size + 3) & ~(size_t)3;

	if (cpio->failed)
		return;
	if (cpio->room - cpio->size < padded) {
		size_t room = (cpio->size + padded) * 2;
		uint8_t *grown = realloc(cpio->data, room);

		if (!grown) {
			cpio->failed = true;
			return;
		}
		cpio->data = grown;
		cpio->room = room;
	}
	memcpy(cpio->data + cpio->size, data, size);
	memset(cpio->data + cpio->size + size, 0, padded - size);
	cpio->size += padded;
}

/* The name follows the header without a gap; both together, and the contents, end on a multiple of four. */
static void entry(struct cpio *cpio, const char *path, unsigned mode, const void *data, size_t size,
                  unsigned major, unsigned minor)
{
	char head[HEADER_SIZE + 256];
	int length =
	    snprintf(head, sizeof(head), "070701%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%s",
	             ++cpio->entries, mode, 0u, 0u, 1u, 0u, (unsigned)size, 0u, 0u, major, minor,
	             (unsigned)strlen(path) + 1, 0u, path);

	if (length < 0 || (size_t)length >= sizeof(head) || size > UINT32_MAX) {
		cpio->failed = true;
		return;
	}
	add(cpio, head, (size_t)length + 1);
	if (size)
		add(cpio, data, size);
}

void cpio_folder(struct cpio *cpio, const char *path)
{
	entry(cpio, path, S_IFDIR | 0755, NULL, 0, 0, 0);
}

void cpio_file(struct cpio *cpio, const char *path, const void *data, size_t size, bool executable)
{
	entry(cpio, path, S_IFREG | (executable ? 0755 : 0644), data, size, 0, 0);
}

void cpio_device(struct cpio *cpio, const char *path, unsigned major, unsigned minor)
{
	entry(cpio, path, S_IFCHR | 0600, NULL, 0, major, minor);
}

int cpio_end(struct cpio *cpio)
{
	entry(cpio, "TRAILER!!!", 0, NULL, 0, 0, 0);
	return cpio->failed ? error_set(ENOMEM, "out of memory for an initramfs") : 0;
}

void cpio_free(struct cpio *cpio)
{
	free(cpio->data);
	*cpio = (struct cpio){0};
}

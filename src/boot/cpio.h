/* Writing an initramfs: a cpio archive in the format "newc" (kernel documentation, "initramfs buffer
 * format"). */
#ifndef NESTOR_BOOT_CPIO_H
#define NESTOR_BOOT_CPIO_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct cpio {
	uint8_t *data; /* owned */
	size_t size, room;
	unsigned entries;
	bool failed; /* out of memory */
};

/* Each adds an entry; path without a leading slash, parents first. What fails is told by cpio_end. */
void cpio_folder(struct cpio *cpio, const char *path);
void cpio_file(struct cpio *cpio, const char *path, const void *data, size_t size, bool executable);
/* A character device's node. */
void cpio_device(struct cpio *cpio, const char *path, unsigned major, unsigned minor);
/* Ends the archive. Returns 0, or -ENOMEM with error_text(). Free with cpio_free in either case. */
int cpio_end(struct cpio *cpio);
void cpio_free(struct cpio *cpio);

#endif

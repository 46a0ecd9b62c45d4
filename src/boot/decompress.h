/* The formats that kernels and boot images come compressed in. */
#ifndef NESTOR_BOOT_DECOMPRESS_H
#define NESTOR_BOOT_DECOMPRESS_H

#include "boot/file.h"

/* The format's name by its first bytes ("gzip", "xz", …), or NULL where they are none of a known format. */
const char *decompress_format(const uint8_t *data, size_t size);

/*
 * Unpacks [data, data + size) into *out, which gets the name `name`. expected: the exact size that must come
 * out, or 0 where it is unknown. max: a bound on it. Bytes after the end of the compressed stream are
 * ignored. Returns 0, or a negative errno with error_text(): unknown format, corrupt or truncated data, a
 * library that this build lacks. The caller frees *out with boot_file_free.
 */
int decompress(struct boot_file *out, const char *name, const uint8_t *data, size_t size, uint64_t expected,
               uint64_t max);

#endif

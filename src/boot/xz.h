/* The xz files that Linux kernels carry as their payload: see xz.c. Internal to boot/. */
#ifndef NESTOR_BOOT_XZ_H
#define NESTOR_BOOT_XZ_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Bytes that xz_unpack may write behind the end of its output. */
#define XZ_SLACK 32

/*
 * Unpacks the xz file at the start of [data, data + size) to [out, out + expected); the buffer behind `out`
 * has room for XZ_SLACK bytes more. Returns true where the file is sound and has exactly `expected` bytes in
 * it. False for a broken one, and for a sound one of a kind that kernels do not use (several blocks, other
 * filters, other checks): ask liblzma then. The output is void where it is false.
 */
bool xz_unpack(uint8_t *out, size_t expected, const uint8_t *data, size_t size);

#endif

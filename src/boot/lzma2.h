/* The LZMA2 decoder for data that lies in memory as a whole: see lzma2.c. Internal to boot/. */
#ifndef NESTOR_BOOT_LZMA2_H
#define NESTOR_BOOT_LZMA2_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Bytes that lzma2_decode may write behind the end of its output. */
#define LZMA2_SLACK 32

/*
 * Decodes the LZMA2 data at the start of [in, in + in_size) to [out, out + out_size); the buffer behind `out`
 * has room for LZMA2_SLACK bytes more. Returns true with *in_used, where the data has its end mark and fills
 * the output exactly. False for anything else, also for the lack of memory; the output's contents are then
 * void.
 */
bool lzma2_decode(uint8_t *out, size_t out_size, const uint8_t *in, size_t in_size, size_t *in_used);

#endif

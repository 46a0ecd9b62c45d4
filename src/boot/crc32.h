/* CRC32 with the reflected polynomial of IEEE 802.3, as xz, gzip and others take it. Internal to boot/. */
#ifndef NESTOR_BOOT_CRC32_H
#define NESTOR_BOOT_CRC32_H

#include <stddef.h>
#include <stdint.h>

/* Goes on with a CRC that began as UINT32_MAX; the result is the complement of the last one. */
uint32_t crc32_go_on(uint32_t crc, const uint8_t *data, size_t size);

static inline uint32_t crc32(const uint8_t *data, size_t size)
{
	return ~crc32_go_on(UINT32_MAX, data, size);
}

#endif

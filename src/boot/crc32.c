#include "boot/crc32.h"

#include <immintrin.h>

#define CRC32_POLYNOMIAL 0xedb88320u

/* Without the complements at both ends. */
static uint32_t crc32_bytes(uint32_t crc, const uint8_t *data, size_t size)
{
	static uint32_t table[256];

	if (!table[1])
		for (uint32_t i = 256; i-- > 0;) {
			uint32_t value = i;

			for (unsigned bit = 0; bit < 8; bit++)
				value = value >> 1 ^ (value & 1 ? CRC32_POLYNOMIAL : 0);
			table[i] = value;
		}
	while (size--)
		crc = crc >> 8 ^ table[(uint8_t)crc ^ *data++];
	return crc;
}

/* x to the power `exponent` modulo the polynomial, as a factor for CLMUL: reflected, and a product is one bit
 * short. */
static long long crc32_power(unsigned exponent)
{
	uint32_t value = 0x80000000;

	while (exponent--)
		value = value >> 1 ^ (value & 1 ? CRC32_POLYNOMIAL : 0);
	return (long long)((uint64_t)value << 1);
}

/* What 16 bytes add to the CRC of what lies `power`'s distance behind them. */
__attribute__((target("pclmul,sse4.1"))) static inline __m128i crc32_fold(__m128i bytes, __m128i power)
{
	return _mm_xor_si128(_mm_clmulepi64_si128(bytes, power, 0x00),
	                     _mm_clmulepi64_si128(bytes, power, 0x11));
}

__attribute__((target("pclmul,sse4.1"))) static uint32_t crc32_folding(uint32_t crc, const uint8_t *data,
                                                                       size_t size)
{
	const __m128i by_64 = _mm_set_epi64x(crc32_power(512 - 32), crc32_power(512 + 32));
	const __m128i by_16 = _mm_set_epi64x(crc32_power(128 - 32), crc32_power(128 + 32));
	const __m128i *from = (const __m128i *)data;
	__m128i sum[4];
	uint8_t rest[16];

	for (unsigned i = 0; i < 4; i++)
		sum[i] = _mm_loadu_si128(from + i);
	sum[0] = _mm_xor_si128(sum[0], _mm_cvtsi32_si128((int)crc));
	for (from += 4, size -= 64; size >= 64; from += 4, size -= 64)
		for (unsigned i = 0; i < 4; i++)
			sum[i] = _mm_xor_si128(crc32_fold(sum[i], by_64), _mm_loadu_si128(from + i));
	for (unsigned i = 1; i < 4; i++)
		sum[0] = _mm_xor_si128(crc32_fold(sum[0], by_16), sum[i]);
	_mm_storeu_si128((__m128i *)rest, sum[0]);
	return crc32_bytes(crc32_bytes(0, rest, sizeof(rest)), (const uint8_t *)from, size);
}

uint32_t crc32_go_on(uint32_t crc, const uint8_t *data, size_t size)
{
	if (size >= 256 && __builtin_cpu_supports("pclmul") && __builtin_cpu_supports("sse4.1"))
		return crc32_folding(crc, data, size);
	return crc32_bytes(crc, data, size);
}

/*
 * A 64-bit hash of a stream of bytes, for telling whether two runs came to the same state. Not for adversaries.
 * The constants are SplitMix64's (public domain).
 */
#ifndef NESTOR_UTIL_HASH_H
#define NESTOR_UTIL_HASH_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

struct hash {
	uint64_t value;
};

static inline uint64_t hash_mix(uint64_t z)
{
	z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
	z = (z ^ z >> 27) * 0x94d049bb133111ebu;
	return z ^ z >> 31;
}

static inline void hash_u64(struct hash *hash, uint64_t word)
{
	hash->value = hash_mix((hash->value + 0x9e3779b97f4a7c15u) ^ word);
}

/* Bytes, in words of 8 and then one by one. Four lanes keep the multiplier busy: RAM is large. */
static inline void hash_bytes(struct hash *hash, const void *bytes, size_t size)
{
	const uint8_t *p = bytes;
	uint64_t lane[4] = {1, 2, 3, 4}, word[4];

	hash_u64(hash, size);
	for (; size >= sizeof(word); size -= sizeof(word), p += sizeof(word)) {
		memcpy(word, p, sizeof(word));
		for (unsigned i = 0; i < 4; i++) {
			lane[i] = (lane[i] ^ word[i]) * 0x9e3779b97f4a7c15u;
			lane[i] ^= lane[i] >> 32;
		}
	}
	for (unsigned i = 0; i < 4; i++)
		hash_u64(hash, lane[i]);
	for (; size; size--)
		hash_u64(hash, *p++);
}

#endif

/* Walking and copying lists of buffers. */
#ifndef NESTOR_BLOCK_IOV_H
#define NESTOR_BLOCK_IOV_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/uio.h>

/*
 * The pieces of iov[0 … count) that make up [skip, skip + size), at most `room` of them, into `to`. Returns how many;
 * *taken: bytes that they have.
 */
static inline unsigned iov_slice(const struct iovec *iov, unsigned count, uint64_t skip, uint64_t size,
                                 struct iovec *to, unsigned room, uint64_t *taken)
{
	unsigned used = 0;

	*taken = 0;
	for (unsigned i = 0; i < count && used < room && *taken < size; i++) {
		uint64_t length = iov[i].iov_len;

		if (skip >= length) {
			skip -= length;
			continue;
		}
		length -= skip;
		if (length > size - *taken)
			length = size - *taken;
		to[used++] = (struct iovec){(char *)iov[i].iov_base + skip, (size_t)length};
		*taken += length;
		skip = 0;
	}
	return used;
}

enum iov_copy { IOV_GATHER, IOV_SCATTER };

/* Copies [skip, skip + size) of the list to (IOV_GATHER) or from (IOV_SCATTER) a flat buffer. */
static inline void iov_copy(enum iov_copy direction, const struct iovec *iov, unsigned count, uint64_t skip,
                            void *flat, uint64_t size)
{
	for (unsigned i = 0; i < count && size; i++) {
		uint64_t length = iov[i].iov_len;
		char *piece;

		if (skip >= length) {
			skip -= length;
			continue;
		}
		length -= skip;
		if (length > size)
			length = size;
		piece = (char *)iov[i].iov_base + skip;
		if (direction == IOV_GATHER)
			memcpy(flat, piece, length);
		else
			memcpy(piece, flat, length);
		flat = (char *)flat + length;
		size -= length;
		skip = 0;
	}
}

static inline uint64_t iov_size(const struct iovec *iov, unsigned count)
{
	uint64_t size = 0;

	for (unsigned i = 0; i < count; i++)
		size += iov[i].iov_len;
	return size;
}

#endif

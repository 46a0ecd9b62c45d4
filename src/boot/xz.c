/*
 * The xz container as a kernel's build writes it: one stream with one block of LZMA2, for x86 under the
 * filter that makes branch displacements absolute, checked by a CRC32. ("The .xz File Format",
 * version 1.1.0.)
 *
 * LZMA2 refers back to its output as it was before the filter, so the filter is undone in a second pass, and
 * the CRC is taken on the way, while the bytes are in the cache. Both go by 16 bytes where nothing is to be
 * done.
 */
#include "boot/xz.h"

#include <immintrin.h>
#include <string.h>

#include "boot/crc32.h"
#include "boot/lzma2.h"

_Static_assert(XZ_SLACK >= LZMA2_SLACK && XZ_SLACK >= 16, "what the passes write and read behind the end");

#define HEADER_SIZE  12 /* stream header and footer alike */
#define CHECK_NONE   0
#define CHECK_CRC32  1
#define FILTER_X86   0x04
#define FILTER_LZMA2 0x21
#define PIECE        (128u << 10)

struct xz_reader {
	const uint8_t *data;
	size_t size, at;
	bool bad;
};

static uint32_t u32_at(const uint8_t *data)
{
	uint32_t value;

	memcpy(&value, data, sizeof(value));
	return value;
}

static unsigned byte(struct xz_reader *reader)
{
	if (reader->at < reader->size)
		return reader->data[reader->at++];
	reader->bad = true;
	return 0;
}

/* Zeros up to a multiple of four bytes after `start`. */
static bool skip_padding(struct xz_reader *reader, size_t start)
{
	while ((reader->at - start) % 4 && !reader->bad)
		if (byte(reader))
			return false;
	return !reader->bad;
}

/* "Multibyte Integers": seven bits a byte, the lowest first. */
static uint64_t number(struct xz_reader *reader)
{
	uint64_t value = 0;

	for (unsigned shift = 0; shift < 63; shift += 7) {
		unsigned next = byte(reader);

		value |= (uint64_t)(next & 0x7f) << shift;
		if (!(next & 0x80))
			return value;
	}
	reader->bad = true;
	return 0;
}

/* ---- the filter for x86 ---- */

/* The next E8 (CALL) or E9 (JMP) in [at, end), or `end`; reads 16 bytes behind it. */
static size_t next_branch(const uint8_t *data, size_t at, size_t end)
{
	const __m128i but_last = _mm_set1_epi8((char)0xfe), call = _mm_set1_epi8((char)0xe8);

	for (; at < end; at += 16) {
		__m128i bytes = _mm_and_si128(_mm_loadu_si128((const __m128i *)(data + at)), but_last);
		unsigned found = (unsigned)_mm_movemask_epi8(_mm_cmpeq_epi8(bytes, call));

		if (found) {
			at += (unsigned)__builtin_ctz(found);
			return at < end ? at : end;
		}
	}
	return end;
}

/* The highest byte of a displacement that the filter takes for one. */
static bool is_sign(unsigned value)
{
	return value == 0x00 || value == 0xff;
}

/*
 * Opcodes that were left alone in the four bytes before the present one make its displacement doubtful: it
 * would overlap theirs. `near` has a bit for each, 0x02 for the byte before …, and 0x20 … where that one's
 * last byte looks like a sign. These are the cases in which a displacement is converted all the same.
 */
static bool is_convertible(unsigned near, unsigned top)
{
	static const bool allowed[8] = {true, true, true, false, true, false, false, false};

	return is_sign(top) && near >> 1 < 0x10 && allowed[near >> 1 & 7];
}

/* From a target back to a displacement for the branch that ends at `next`. */
static uint32_t displacement(uint32_t target, uint32_t next, unsigned near)
{
	/* Which of the target's bytes the nearest opcode in doubt would end with. */
	static const uint8_t bytes_above[8] = {0, 1, 2, 2, 3, 3, 3, 3};

	for (;;) {
		uint32_t value = target - next;
		unsigned above = 8 * bytes_above[near >> 1 & 7];

		if (!near || !is_sign(value >> (24 - above) & 0xff))
			return value;
		target = value ^ (uint32_t)((1ull << (32 - above)) - 1);
	}
}

/* Undoes the filter where `filtered`, and returns the CRC32 of the result. */
static uint32_t finish(uint8_t *data, size_t size, bool filtered)
{
	size_t end = filtered && size >= 5 ? size - 4 : 0, at = 0, last = 0, summed = 0;
	unsigned near = 0;
	uint32_t crc = UINT32_MAX;

	while (at < end) {
		size_t piece_end = end - at > PIECE ? at + PIECE : end;

		while (at < piece_end && (at = next_branch(data, at, piece_end)) < piece_end) {
			unsigned top = data[at + 4];

			near = at - last > 5 ? 0 : near;
			for (size_t i = last; near && i < at; i++)
				near = (near & 0x77) << 1;
			last = at;
			if (is_convertible(near, top)) {
				uint32_t value = displacement(u32_at(data + at + 1), (uint32_t)at + 5, near);

				/* Bit 24 is the sign; the byte above it came from it. */
				value = (value & 0x1ffffff) | (value >> 24 & 1 ? 0xff000000 : 0);
				memcpy(data + at + 1, &value, sizeof(value));
				at += 5;
				near = 0;
			} else {
				near |= 0x01 | (is_sign(top) ? 0x10 : 0);
				at++;
			}
		}
		/* The last conversion may have gone beyond the piece. */
		crc = crc32_go_on(crc, data + summed, at - summed);
		summed = at;
	}
	return ~crc32_go_on(crc, data + summed, size - summed);
}

/* ---- the container ---- */

static bool read_stream_header(struct xz_reader *reader, unsigned *check)
{
	static const uint8_t magic[6] = {0xfd, '7', 'z', 'X', 'Z', 0};
	const uint8_t *header = reader->data;

	if (reader->size < HEADER_SIZE || memcmp(header, magic, sizeof(magic)) || header[6] ||
	    crc32(header + 6, 2) != u32_at(header + 8))
		return false;
	*check = header[7];
	reader->at = HEADER_SIZE;
	return *check == CHECK_NONE || *check == CHECK_CRC32;
}

static bool read_block_header(struct xz_reader *reader, bool *filtered)
{
	const uint8_t *header = reader->data + reader->at;
	size_t size = reader->at < reader->size ? ((size_t)header[0] + 1) * 4 : 0;
	unsigned flags, filters;

	if (size < 8 || size > reader->size - reader->at ||
	    crc32(header, size - 4) != u32_at(header + size - 4))
		return false;
	reader->at++;
	flags = byte(reader);
	if (flags & 0x40)
		number(reader); /* the sizes are in the index too */
	if (flags & 0x80)
		number(reader);
	filters = (flags & 3) + 1;
	*filtered = filters == 2;
	/* The x86 filter without its optional start offset. */
	if (flags & 0x3c || filters > 2 ||
	    (*filtered && (number(reader) != FILTER_X86 || number(reader) != 0)))
		return false;
	if (number(reader) != FILTER_LZMA2 || number(reader) != 1)
		return false;
	byte(reader); /* the dictionary's size: all output is at hand */
	while (!reader->bad && reader->data + reader->at < header + size - 4)
		if (byte(reader))
			return false;
	return !reader->bad && reader->data + reader->at == header + size - 4 && (reader->at += 4);
}

/* Index and footer. unpadded: the block's size without its padding. */
static bool read_index(struct xz_reader *reader, uint64_t unpadded, uint64_t unpacked, unsigned check)
{
	size_t start = reader->at, size;
	const uint8_t *footer;

	if (byte(reader) != 0 || number(reader) != 1 || number(reader) != unpadded ||
	    number(reader) != unpacked)
		return false;
	if (!skip_padding(reader, start))
		return false;
	size = reader->at - start;
	if (reader->size - reader->at < 4 + HEADER_SIZE ||
	    crc32(reader->data + start, size) != u32_at(reader->data + reader->at))
		return false;
	footer = reader->data + reader->at + 4;
	return crc32(footer + 4, 6) == u32_at(footer) && u32_at(footer + 4) == size / 4 && footer[8] == 0 &&
	       footer[9] == check && footer[10] == 'Y' && footer[11] == 'Z';
}

bool xz_unpack(uint8_t *out, size_t expected, const uint8_t *data, size_t size)
{
	struct xz_reader reader = {.data = data, .size = size};
	size_t block = HEADER_SIZE, used;
	unsigned check;
	bool filtered;
	uint32_t crc;

	if (!read_stream_header(&reader, &check) || !read_block_header(&reader, &filtered) ||
	    !lzma2_decode(out, expected, data + reader.at, size - reader.at, &used))
		return false;
	crc = finish(out, expected, filtered);
	reader.at += used;
	used = reader.at - block; /* the check counts, the padding before it does not */
	if (!skip_padding(&reader, block))
		return false;
	if (check == CHECK_CRC32) {
		if (size - reader.at < 4 || u32_at(data + reader.at) != crc)
			return false;
		reader.at += 4;
		used += 4;
	}
	return read_index(&reader, used, expected, check);
}

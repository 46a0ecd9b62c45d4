/*
 * One function per format. Each gets a sink that is either exactly as large as the announced output, or
 * grows; it writes through sink_room() and reports only whether the stream was good. Every library checks the
 * stream's own checksums; nothing here trusts a length from the stream.
 */
#include "boot/decompress.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#ifdef NESTOR_HAVE_ZLIB
#include <zlib.h>
#endif
#ifdef NESTOR_HAVE_LZMA
#include <lzma.h>
#endif
#ifdef NESTOR_HAVE_ZSTD
#include <zstd.h>
#endif
#ifdef NESTOR_HAVE_LZ4
#include <lz4.h>
#endif
#ifdef NESTOR_HAVE_BZIP2
#include <bzlib.h>
#endif
#ifdef NESTOR_HAVE_LZO
#include <lzo/lzo1x.h>
#endif

#include "util/error.h"

enum outcome { GOOD, CORRUPT, TRUNCATED, TOO_LARGE, NO_MEMORY, MISSING };

struct sink {
	uint8_t *data;
	size_t size, room, max;
};

/* Makes room for at least `want` more bytes; false at the bound or without memory. */
static enum outcome sink_room(struct sink *sink, size_t want)
{
	size_t room = sink->room ? sink->room : 1 << 20;
	uint8_t *larger;

	if (room > sink->max)
		room = sink->max;
	if (want > sink->max - sink->size)
		return TOO_LARGE;
	while (room < sink->size + want)
		room = room * 2 < sink->max ? room * 2 : sink->max;
	if (room == sink->room)
		return GOOD;
	larger = sink->data ? realloc(sink->data, room) : boot_file_buffer(room);
	if (!larger)
		return NO_MEMORY;
	if (sink->data)
		boot_file_expect(larger, room);
	sink->data = larger;
	sink->room = room;
	return GOOD;
}

#ifdef NESTOR_HAVE_ZLIB
static enum outcome unpack_gzip(struct sink *sink, const uint8_t *data, size_t size)
{
	z_stream stream = {.next_in = (uint8_t *)data};
	enum outcome outcome = GOOD;
	int status = Z_OK;

	if (inflateInit2(&stream, 15 + 16) != Z_OK)
		return NO_MEMORY;
	while (status == Z_OK) {
		size_t chunk;

		if (sink->size == sink->room && sink->size < sink->max) {
			outcome = sink_room(sink, 1);
			if (outcome != GOOD)
				break;
		}
		chunk = sink->room - sink->size;
		if (chunk > 1u << 30)
			chunk = 1u << 30;
		stream.next_out = sink->data + sink->size;
		stream.avail_out = (uInt)chunk;
		stream.avail_in = size > 1u << 30 ? 1u << 30 : (uInt)size;
		size -= stream.avail_in;
		status = inflate(&stream, Z_NO_FLUSH);
		size += stream.avail_in;
		sink->size += chunk - stream.avail_out;
		if (status == Z_BUF_ERROR)
			outcome = size ? TOO_LARGE : TRUNCATED;
		else if (status != Z_OK && status != Z_STREAM_END)
			outcome = status == Z_MEM_ERROR ? NO_MEMORY : CORRUPT;
	}
	inflateEnd(&stream);
	return outcome;
}
#else
#define unpack_gzip unpack_missing
#endif

#ifdef NESTOR_HAVE_LZMA
/* Debian's kernels have a dictionary of 32 MB. */
static void *lzma_buffer(void *opaque, size_t count, size_t size)
{
	return boot_file_buffer(count * size);
}

static void free_lzma_buffer(void *opaque, void *buffer)
{
	free(buffer);
}

static enum outcome unpack_lzma_family(struct sink *sink, const uint8_t *data, size_t size, bool alone)
{
	static const lzma_allocator allocator = {.alloc = lzma_buffer, .free = free_lzma_buffer};
	lzma_stream stream = LZMA_STREAM_INIT;
	const uint64_t dictionary_limit = 512u << 20;
	enum outcome outcome = GOOD;
	lzma_ret status;

	stream.allocator = &allocator;
	status = alone ? lzma_alone_decoder(&stream, dictionary_limit)
	               : lzma_stream_decoder(&stream, dictionary_limit, 0);
	if (status != LZMA_OK)
		return NO_MEMORY;
	stream.next_in = data;
	stream.avail_in = size;
	while (status == LZMA_OK) {
		if (sink->size == sink->room && sink->size < sink->max) {
			outcome = sink_room(sink, 1);
			if (outcome != GOOD)
				break;
		}
		stream.next_out = sink->data + sink->size;
		stream.avail_out = sink->room - sink->size;
		status = lzma_code(&stream, LZMA_FINISH);
		sink->size = (size_t)(stream.next_out - sink->data);
	}
	if (outcome == GOOD && status == LZMA_BUF_ERROR)
		outcome = stream.avail_in ? TOO_LARGE : TRUNCATED;
	else if (outcome == GOOD && status != LZMA_STREAM_END)
		outcome = status == LZMA_MEM_ERROR || status == LZMA_MEMLIMIT_ERROR ? NO_MEMORY : CORRUPT;
	lzma_end(&stream);
	return outcome;
}

static enum outcome unpack_xz(struct sink *sink, const uint8_t *data, size_t size)
{
	return unpack_lzma_family(sink, data, size, false);
}

static enum outcome unpack_lzma(struct sink *sink, const uint8_t *data, size_t size)
{
	return unpack_lzma_family(sink, data, size, true);
}
#else
#define unpack_xz   unpack_missing
#define unpack_lzma unpack_missing
#endif

#ifdef NESTOR_HAVE_ZSTD
static enum outcome unpack_zstd(struct sink *sink, const uint8_t *data, size_t size)
{
	ZSTD_DCtx *context = ZSTD_createDCtx();
	ZSTD_inBuffer in = {.src = data, .size = size};
	enum outcome outcome = GOOD;
	size_t left = 1;

	if (!context)
		return NO_MEMORY;
	ZSTD_DCtx_setParameter(context, ZSTD_d_windowLogMax, 30);
	while (left) {
		ZSTD_outBuffer out;
		size_t before = in.pos;

		if (sink->size == sink->room && sink->size < sink->max) {
			outcome = sink_room(sink, 1);
			if (outcome != GOOD)
				break;
		}
		out = (ZSTD_outBuffer){.dst = sink->data, .size = sink->room, .pos = sink->size};
		left = ZSTD_decompressStream(context, &out, &in);
		if (ZSTD_isError(left)) {
			outcome = CORRUPT;
			break;
		}
		if (left && out.pos == sink->size && in.pos == before) {
			outcome = in.pos == in.size ? TRUNCATED : TOO_LARGE;
			break;
		}
		sink->size = out.pos;
	}
	ZSTD_freeDCtx(context);
	return outcome;
}
#else
#define unpack_zstd unpack_missing
#endif

#ifdef NESTOR_HAVE_BZIP2
static enum outcome unpack_bzip2(struct sink *sink, const uint8_t *data, size_t size)
{
	bz_stream stream = {.next_in = (char *)data};
	enum outcome outcome = GOOD;
	int status = BZ_OK;

	if (BZ2_bzDecompressInit(&stream, 0, 0) != BZ_OK)
		return NO_MEMORY;
	while (status == BZ_OK) {
		size_t chunk, in_before;

		if (sink->size == sink->room && sink->size < sink->max) {
			outcome = sink_room(sink, 1);
			if (outcome != GOOD)
				break;
		}
		chunk = sink->room - sink->size;
		if (chunk > 1u << 30)
			chunk = 1u << 30;
		stream.next_out = (char *)sink->data + sink->size;
		stream.avail_out = (unsigned)chunk;
		stream.avail_in = size > 1u << 30 ? 1u << 30 : (unsigned)size;
		in_before = stream.avail_in;
		status = BZ2_bzDecompress(&stream);
		size -= in_before - stream.avail_in;
		sink->size += chunk - stream.avail_out;
		if (status == BZ_OK && chunk == stream.avail_out && in_before == stream.avail_in)
			outcome = size ? TOO_LARGE : TRUNCATED;
		else if (status != BZ_OK && status != BZ_STREAM_END)
			outcome = status == BZ_MEM_ERROR ? NO_MEMORY : CORRUPT;
		if (outcome != GOOD)
			break;
	}
	BZ2_bzDecompressEnd(&stream);
	return outcome;
}
#else
#define unpack_bzip2 unpack_missing
#endif

#ifdef NESTOR_HAVE_LZ4
#define LZ4_LEGACY_MAGIC 0x184c2102u
#define LZ4_LEGACY_BLOCK (8u << 20)

static uint32_t le32(const uint8_t *from)
{
	uint32_t value;

	memcpy(&value, from, sizeof(value));
	return value;
}

/*
 * The legacy frame: a magic word, then blocks of (compressed size, data) that unpack to 8 MiB each except the
 * last. It has no end mark, so an exact announced size ends it too.
 */
static enum outcome unpack_lz4(struct sink *sink, const uint8_t *data, size_t size)
{
	size_t at = 4;

	while (size - at >= 4) {
		uint32_t block = le32(data + at);
		size_t room;
		int got;
		enum outcome outcome;

		if (block == LZ4_LEGACY_MAGIC) {
			at += 4;
			continue;
		}
		if (sink->size && sink->size == sink->max)
			return GOOD;
		if (!block || block > LZ4_LEGACY_BLOCK + LZ4_LEGACY_BLOCK / 128)
			return CORRUPT;
		if (block > size - at - 4)
			return TRUNCATED;
		room = sink->max - sink->size < LZ4_LEGACY_BLOCK ? sink->max - sink->size : LZ4_LEGACY_BLOCK;
		outcome = sink_room(sink, room);
		if (outcome != GOOD)
			return outcome;
		got = LZ4_decompress_safe((const char *)data + at + 4, (char *)sink->data + sink->size,
		                          (int)block, (int)room);
		if (got < 0)
			return CORRUPT;
		sink->size += (size_t)got;
		at += 4 + (size_t)block;
	}
	return GOOD;
}
#else
#define unpack_lz4 unpack_missing
#endif

#ifdef NESTOR_HAVE_LZO
/* The lzop container; its integers are big-endian. Flag bits that change its layout: */
#define LZOP_ADLER32_D   0x00000001u
#define LZOP_ADLER32_C   0x00000002u
#define LZOP_EXTRA_FIELD 0x00000040u
#define LZOP_CRC32_D     0x00000100u
#define LZOP_CRC32_C     0x00000200u
#define LZOP_FILTER      0x00000800u

struct lzop_reader {
	const uint8_t *data;
	size_t size, at;
	bool short_read;
};

static uint32_t lzop_number(struct lzop_reader *reader, unsigned bytes)
{
	uint32_t value = 0;

	if (bytes > reader->size - reader->at) {
		reader->short_read = true;
		return 0;
	}
	while (bytes--)
		value = value << 8 | reader->data[reader->at++];
	return value;
}

static void lzop_skip(struct lzop_reader *reader, size_t bytes)
{
	if (bytes > reader->size - reader->at)
		reader->short_read = true;
	else
		reader->at += bytes;
}

static uint32_t lzop_header(struct lzop_reader *reader)
{
	uint32_t version, flags;

	version = lzop_number(reader, 2);
	lzop_number(reader, 2); /* library version */
	if (version >= 0x940)
		lzop_number(reader, 2); /* version needed to extract */
	lzop_number(reader, 1);         /* method */
	if (version >= 0x940)
		lzop_number(reader, 1); /* level */
	flags = lzop_number(reader, 4);
	if (flags & LZOP_FILTER)
		lzop_number(reader, 4);
	lzop_number(reader, 4); /* mode */
	lzop_number(reader, 4); /* time, low */
	if (version >= 0x940)
		lzop_number(reader, 4);            /* time, high */
	lzop_skip(reader, lzop_number(reader, 1)); /* name */
	lzop_number(reader, 4);                    /* header checksum */
	if (flags & LZOP_EXTRA_FIELD) {
		lzop_skip(reader, lzop_number(reader, 4));
		lzop_number(reader, 4);
	}
	return flags;
}

static enum outcome unpack_lzo(struct sink *sink, const uint8_t *data, size_t size)
{
	const uint32_t largest_block = 64u << 20;
	struct lzop_reader reader = {.data = data, .size = size, .at = 9};
	uint32_t flags;

	if (size < 9)
		return TRUNCATED;
	flags = lzop_header(&reader);
	if (flags & LZOP_FILTER)
		return CORRUPT;
	while (!reader.short_read) {
		uint32_t unpacked = lzop_number(&reader, 4), packed, sum = 0;
		lzo_uint got;
		enum outcome outcome;

		if (reader.short_read || !unpacked)
			break;
		packed = lzop_number(&reader, 4);
		if (flags & LZOP_ADLER32_D)
			sum = lzop_number(&reader, 4);
		if (flags & LZOP_CRC32_D)
			lzop_number(&reader, 4);
		if (packed < unpacked && flags & LZOP_ADLER32_C)
			lzop_number(&reader, 4);
		if (packed < unpacked && flags & LZOP_CRC32_C)
			lzop_number(&reader, 4);
		if (unpacked > largest_block || packed > unpacked)
			return CORRUPT;
		if (reader.short_read || packed > size - reader.at)
			return TRUNCATED;
		outcome = sink_room(sink, unpacked);
		if (outcome != GOOD)
			return outcome;
		got = unpacked;
		if (packed == unpacked)
			memcpy(sink->data + sink->size, data + reader.at, packed);
		else if (lzo1x_decompress_safe(data + reader.at, packed, sink->data + sink->size, &got,
		                               NULL) != LZO_E_OK)
			return CORRUPT;
		if (got != unpacked)
			return CORRUPT;
		if (flags & LZOP_ADLER32_D && lzo_adler32(1, sink->data + sink->size, unpacked) != sum)
			return CORRUPT;
		sink->size += unpacked;
		reader.at += packed;
	}
	return reader.short_read ? TRUNCATED : GOOD;
}
#else
#define unpack_lzo unpack_missing
#endif

static enum outcome __attribute__((unused))
unpack_missing(struct sink *sink, const uint8_t *data, size_t size)
{
	return MISSING;
}

static const struct format {
	const char *name, *package;
	uint8_t magic_size, magic[9];
	enum outcome (*unpack)(struct sink *sink, const uint8_t *data, size_t size);
} formats[] = {
    {"gzip", "zlib1g-dev", 2, {0x1f, 0x8b}, unpack_gzip},
    {"xz", "liblzma-dev", 6, {0xfd, '7', 'z', 'X', 'Z', 0}, unpack_xz},
    {"zstd", "libzstd-dev", 4, {0x28, 0xb5, 0x2f, 0xfd}, unpack_zstd},
    {"lz4", "liblz4-dev", 4, {0x02, 0x21, 0x4c, 0x18}, unpack_lz4},
    {"lzo", "liblzo2-dev", 9, {0x89, 'L', 'Z', 'O', 0, 0x0d, 0x0a, 0x1a, 0x0a}, unpack_lzo},
    {"bzip2", "libbz2-dev", 3, {'B', 'Z', 'h'}, unpack_bzip2},
    {"lzma", "liblzma-dev", 3, {0x5d, 0, 0}, unpack_lzma},
};

static const struct format *format_of(const uint8_t *data, size_t size)
{
	for (size_t i = 0; i < sizeof(formats) / sizeof(formats[0]); i++)
		if (size >= formats[i].magic_size && !memcmp(data, formats[i].magic, formats[i].magic_size))
			return &formats[i];
	return NULL;
}

const char *decompress_format(const uint8_t *data, size_t size)
{
	const struct format *format = format_of(data, size);

	return format ? format->name : NULL;
}

static int explain(enum outcome outcome, const char *name, const struct format *format, uint64_t max)
{
	switch (outcome) {
	case CORRUPT:
		return error_set(EILSEQ, "%s: its %s payload is corrupt; fetch or build the file again", name,
		                 format->name);
	case TRUNCATED:
		return error_set(ENODATA,
		                 "%s: its %s payload ends too early, the file is truncated; fetch it again",
		                 name, format->name);
	case TOO_LARGE:
		return error_set(
		    EFBIG,
		    "%s: its %s payload unpacks to more than the %llu bytes announced or possible; "
		    "the file is corrupt or no kernel",
		    name, format->name, (unsigned long long)max);
	case NO_MEMORY:
		return error_set(ENOMEM, "%s: the host has no memory to unpack its %s payload", name,
		                 format->name);
	case MISSING:
		return error_set(
		    ENOTSUP,
		    "%s: this build of nestor cannot unpack %s; install %s and build again, or use "
		    "--boot=setup",
		    name, format->name, format->package);
	case GOOD:
		break;
	}
	return 0;
}

int decompress(struct boot_file *out, const char *name, const uint8_t *data, size_t size, uint64_t expected,
               uint64_t max)
{
	const struct format *format = format_of(data, size);
	struct sink sink = {.max = expected ? expected : max};
	enum outcome outcome;
	int status;

	*out = (struct boot_file){.name = name};
	if (!format)
		return error_set(EINVAL,
		                 "%s: its payload is in no known compression format (first bytes "
		                 "%02x %02x %02x %02x)",
		                 name, size > 0 ? data[0] : 0, size > 1 ? data[1] : 0, size > 2 ? data[2] : 0,
		                 size > 3 ? data[3] : 0);
	if (expected > max)
		return error_set(EFBIG,
		                 "%s: its header announces %llu bytes unpacked, more than the %llu possible; "
		                 "the file is corrupt",
		                 name, (unsigned long long)expected, (unsigned long long)max);
	outcome = expected ? sink_room(&sink, expected) : GOOD;
	if (outcome == GOOD)
		outcome = format->unpack(&sink, data, size);
	status = explain(outcome, name, format, sink.max);
	if (!status && expected && sink.size != expected)
		status = error_set(
		    EILSEQ, "%s: its %s payload unpacks to %zu bytes instead of %llu; the file is corrupt",
		    name, format->name, sink.size, (unsigned long long)expected);
	if (!status && !sink.size)
		status = error_set(ENODATA, "%s: its %s payload is empty", name, format->name);
	if (status) {
		free(sink.data);
		return status;
	}
	out->data = sink.data;
	out->size = sink.size;
	return 0;
}

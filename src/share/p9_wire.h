/* 9P's encoding: little-endian integers, strings with a length. Reading and writing beyond the end is
 * remembered. */
#ifndef NESTOR_SHARE_P9_WIRE_H
#define NESTOR_SHARE_P9_WIRE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#define P9_HEADER 7 /* size, type, tag */

enum p9_type {
	P9_RLERROR = 7,
	P9_TSTATFS = 8,
	P9_TLOPEN = 12,
	P9_TLCREATE = 14,
	P9_TSYMLINK = 16,
	P9_TMKNOD = 18,
	P9_TRENAME = 20,
	P9_TREADLINK = 22,
	P9_TGETATTR = 24,
	P9_TSETATTR = 26,
	P9_TXATTRWALK = 30,
	P9_TXATTRCREATE = 32,
	P9_TREADDIR = 40,
	P9_TFSYNC = 50,
	P9_TLOCK = 52,
	P9_TGETLOCK = 54,
	P9_TLINK = 70,
	P9_TMKDIR = 72,
	P9_TRENAMEAT = 74,
	P9_TUNLINKAT = 76,
	P9_TVERSION = 100,
	P9_TAUTH = 102,
	P9_TATTACH = 104,
	P9_TFLUSH = 108,
	P9_TWALK = 110,
	P9_TREAD = 116,
	P9_TWRITE = 118,
	P9_TCLUNK = 120,
	P9_TREMOVE = 122, /* an answer's type is its request's plus one */
};

struct p9_reader {
	const uint8_t *at;
	size_t left;
	bool bad; /* the message ended too early */
};

struct p9_writer {
	uint8_t *start;
	size_t size, room;
	bool full; /* the answer did not fit */
};

static inline uint64_t p9_get(struct p9_reader *reader, unsigned size)
{
	uint64_t value = 0;

	if (reader->left < size) {
		reader->bad = true;
		reader->left = 0;
		return 0;
	}
	for (unsigned i = 0; i < size; i++)
		value |= (uint64_t)reader->at[i] << (8 * i);
	reader->at += size;
	reader->left -= size;
	return value;
}

static inline uint8_t p9_get8(struct p9_reader *reader)
{
	return (uint8_t)p9_get(reader, 1);
}

static inline uint16_t p9_get16(struct p9_reader *reader)
{
	return (uint16_t)p9_get(reader, 2);
}

static inline uint32_t p9_get32(struct p9_reader *reader)
{
	return (uint32_t)p9_get(reader, 4);
}

static inline uint64_t p9_get64(struct p9_reader *reader)
{
	return p9_get(reader, 8);
}

static inline void p9_put(struct p9_writer *writer, uint64_t value, unsigned size)
{
	if (writer->room - writer->size < size) {
		writer->full = true;
		return;
	}
	for (unsigned i = 0; i < size; i++)
		writer->start[writer->size++] = (uint8_t)(value >> (8 * i));
}

static inline void p9_put_bytes(struct p9_writer *writer, const void *bytes, size_t size)
{
	if (writer->room - writer->size < size) {
		writer->full = true;
		return;
	}
	memcpy(writer->start + writer->size, bytes, size);
	writer->size += size;
}

static inline void p9_put_string(struct p9_writer *writer, const char *text)
{
	size_t size = strlen(text);

	p9_put(writer, size, 2);
	p9_put_bytes(writer, text, size);
}

#endif

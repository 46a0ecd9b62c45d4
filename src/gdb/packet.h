/*
 * Packets of GDB's remote serial protocol ("Overview" of GDB's manual, Remote Protocol): $DATA#CHECKSUM, with
 * acknowledgements in between, and the interrupt byte. Bounded: what is longer than PACKET_MAX is refused.
 */
#ifndef NESTOR_GDB_PACKET_H
#define NESTOR_GDB_PACKET_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define PACKET_MAX 16384 /* bytes of data, unescaped; announced as PacketSize */

enum packet_event {
	PACKET_NOTHING,
	PACKET_WHOLE,     /* reader.data, reader.size: unescaped, a zero byte behind it */
	PACKET_BROKEN,    /* a wrong checksum, or too long: ask for it again */
	PACKET_ACCEPTED,  /* "+" */
	PACKET_REFUSED,   /* "-": send the last one again */
	PACKET_INTERRUPT, /* Ctrl-C */
};

struct packet_reader {
	enum { PACKET_OUTSIDE, PACKET_DATA, PACKET_ESCAPED, PACKET_SUM_HIGH, PACKET_SUM_LOW } place;
	uint8_t sum, high;
	bool too_long, bad_sum;
	size_t size;
	char data[PACKET_MAX + 1];
};

/* Takes one byte. */
enum packet_event packet_read(struct packet_reader *reader, uint8_t byte);

/* Writes data as a packet, escaped, into out, which has room for packet_room(size) bytes; returns its length. */
size_t packet_write(const char *data, size_t size, char *out);
static inline size_t packet_room(size_t size)
{
	return 2 * size + 4;
}

/* A hexadecimal number at *text, which moves behind it. False where there is none, or it has more than 16 digits. */
bool packet_number(const char **text, uint64_t *value);
/* The value of a hexadecimal digit, or -1. */
int packet_digit(char c);
/* size bytes to and from pairs of hexadecimal digits. from: false where text has other characters or too few. */
void packet_to_hex(const void *bytes, size_t size, char *text); /* and a zero byte */
bool packet_from_hex(const char *text, void *bytes, size_t size);

#endif

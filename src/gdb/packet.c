#include "gdb/packet.h"

#define ESCAPE     '}'
#define ESCAPE_XOR 0x20

int packet_digit(char c)
{
	if (c >= '0' && c <= '9')
		return c - '0';
	if (c >= 'a' && c <= 'f')
		return c - 'a' + 10;
	return c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
}

static void put(struct packet_reader *reader, uint8_t byte)
{
	if (reader->size == PACKET_MAX)
		reader->too_long = true;
	else
		reader->data[reader->size++] = (char)byte;
}

static void begin(struct packet_reader *reader)
{
	reader->place = PACKET_DATA;
	reader->size = 0;
	reader->sum = 0;
	reader->too_long = reader->bad_sum = false;
}

static enum packet_event outside(struct packet_reader *reader, uint8_t byte)
{
	switch (byte) {
	case '$':
		begin(reader);
		return PACKET_NOTHING;
	case '+':
		return PACKET_ACCEPTED;
	case '-':
		return PACKET_REFUSED;
	case 0x03:
		return PACKET_INTERRUPT;
	default:
		return PACKET_NOTHING;
	}
}

static void inside(struct packet_reader *reader, uint8_t byte)
{
	switch (byte) {
	case '$': /* a packet that was broken off */
		begin(reader);
		return;
	case '#':
		reader->place = PACKET_SUM_HIGH;
		return;
	case ESCAPE:
		reader->place = PACKET_ESCAPED;
		break;
	default:
		put(reader, byte);
		break;
	}
	reader->sum += byte;
}

enum packet_event packet_read(struct packet_reader *reader, uint8_t byte)
{
	int digit = packet_digit((char)byte);

	switch (reader->place) {
	case PACKET_OUTSIDE:
		return outside(reader, byte);
	case PACKET_DATA:
		inside(reader, byte);
		return PACKET_NOTHING;
	case PACKET_ESCAPED:
		put(reader, byte ^ ESCAPE_XOR);
		reader->sum += byte;
		reader->place = PACKET_DATA;
		return PACKET_NOTHING;
	case PACKET_SUM_HIGH:
		reader->bad_sum = digit < 0;
		reader->high = (uint8_t)((unsigned)digit << 4);
		reader->place = PACKET_SUM_LOW;
		return PACKET_NOTHING;
	case PACKET_SUM_LOW:
		break;
	}
	reader->place = PACKET_OUTSIDE;
	reader->data[reader->size] = '\0';
	if (digit < 0 || reader->bad_sum || reader->too_long || (reader->high | digit) != reader->sum)
		return PACKET_BROKEN;
	return PACKET_WHOLE;
}

size_t packet_write(const char *data, size_t size, char *out)
{
	static const char digits[] = "0123456789abcdef";
	uint8_t sum = 0;
	char *p = out;

	*p++ = '$';
	for (size_t i = 0; i < size; i++) {
		if (data[i] == '$' || data[i] == '#' || data[i] == ESCAPE || data[i] == '*') {
			*p++ = ESCAPE;
			*p++ = (char)(data[i] ^ ESCAPE_XOR);
		} else {
			*p++ = data[i];
		}
	}
	for (const char *q = out + 1; q < p; q++)
		sum += (uint8_t)*q;
	*p++ = '#';
	*p++ = digits[sum >> 4];
	*p++ = digits[sum & 15];
	return (size_t)(p - out);
}

bool packet_number(const char **text, uint64_t *value)
{
	const char *p = *text;

	*value = 0;
	for (; packet_digit(*p) >= 0; p++) {
		if (p - *text == 16)
			return false;
		*value = *value << 4 | (unsigned)packet_digit(*p);
	}
	if (p == *text)
		return false;
	*text = p;
	return true;
}

void packet_to_hex(const void *bytes, size_t size, char *text)
{
	static const char digits[] = "0123456789abcdef";
	const uint8_t *from = bytes;

	for (size_t i = 0; i < size; i++) {
		*text++ = digits[from[i] >> 4];
		*text++ = digits[from[i] & 15];
	}
	*text = '\0';
}

bool packet_from_hex(const char *text, void *bytes, size_t size)
{
	uint8_t *to = bytes;

	for (size_t i = 0; i < size; i++) {
		int high = packet_digit(text[2 * i]), low = high < 0 ? -1 : packet_digit(text[2 * i + 1]);

		if (low < 0)
			return false;
		to[i] = (uint8_t)(high << 4 | low);
	}
	return true;
}

#include "boot/aml.h"

#include <stdlib.h>
#include <string.h>

#include "boot/file.h"

enum {
	AML_ZERO = 0x00,
	AML_ONE = 0x01,
	AML_NAME = 0x08,
	AML_BYTE = 0x0a,
	AML_WORD = 0x0b,
	AML_DWORD = 0x0c,
	AML_STRING = 0x0d,
	AML_QWORD = 0x0e,
	AML_SCOPE = 0x10,
	AML_BUFFER = 0x11,
	AML_PACKAGE = 0x12,
	AML_METHOD = 0x14,
	AML_DUAL_NAME = 0x2e,
	AML_MULTI_NAME = 0x2f,
	AML_EXTENDED = 0x5b,
	AML_EXTENDED_REGION = 0x80,
	AML_EXTENDED_FIELD = 0x81,
	AML_EXTENDED_DEVICE = 0x82,
	AML_IF = 0xa0,
};

static void append(struct aml *aml, const void *data, size_t size)
{
	if (aml->failed)
		return;
	if (size > aml->room - aml->size) {
		size_t room = (aml->room ? aml->room * 2 : 4096) + size;
		uint8_t *larger = realloc(aml->data, room);

		if (!larger) {
			aml->failed = true;
			return;
		}
		aml->data = larger;
		aml->room = room;
	}
	memcpy(aml->data + aml->size, data, size);
	aml->size += size;
}

static void append_byte(struct aml *aml, uint8_t value)
{
	append(aml, &value, 1);
}

static void open_body(struct aml *aml)
{
	if (aml->depth == AML_DEPTH)
		aml->failed = true;
	if (!aml->failed)
		aml->open[aml->depth++] = aml->size;
}

/*
 * PkgLength counts itself: up to 63 in one byte, else the low four bits in the first byte, whose top two bits
 * say how many follow.
 */
void aml_end(struct aml *aml)
{
	uint8_t length[4];
	size_t start, body, bytes = 1;

	if (!aml->depth)
		aml->failed = true;
	if (aml->failed)
		return;
	start = aml->open[--aml->depth];
	body = aml->size - start;
	if (body + 1 > 63)
		for (bytes = 2; bytes < 4 && body + bytes >= 1ull << (8 * bytes - 4); bytes++)
			continue;
	body += bytes;
	if (bytes == 1) {
		length[0] = (uint8_t)body;
	} else {
		length[0] = (uint8_t)((bytes - 1) << 6 | (body & 0xf));
		for (size_t i = 1; i < bytes; i++)
			length[i] = (uint8_t)(body >> (8 * i - 4));
	}
	append(aml, length, bytes);
	if (aml->failed)
		return;
	memmove(aml->data + start + bytes, aml->data + start, aml->size - bytes - start);
	memcpy(aml->data + start, length, bytes);
}

static void append_path(struct aml *aml, const char *path)
{
	unsigned segments = 1;

	if (*path == '\\')
		append_byte(aml, (uint8_t)*path++);
	for (const char *letter = path; *letter; letter++)
		segments += *letter == '.';
	if (segments == 2)
		append_byte(aml, AML_DUAL_NAME);
	if (segments > 2) {
		append_byte(aml, AML_MULTI_NAME);
		append_byte(aml, (uint8_t)segments);
	}
	while (segments--) {
		size_t letters = strcspn(path, ".");

		append(aml, path, letters < 4 ? letters : 4);
		append(aml, "____", letters < 4 ? 4 - letters : 0);
		path += letters + (path[letters] == '.');
	}
}

void aml_scope(struct aml *aml, const char *path)
{
	append_byte(aml, AML_SCOPE);
	open_body(aml);
	append_path(aml, path);
}

void aml_device(struct aml *aml, const char *path)
{
	append_byte(aml, AML_EXTENDED);
	append_byte(aml, AML_EXTENDED_DEVICE);
	open_body(aml);
	append_path(aml, path);
}

void aml_method(struct aml *aml, const char *path, uint8_t flags)
{
	append_byte(aml, AML_METHOD);
	open_body(aml);
	append_path(aml, path);
	append_byte(aml, flags);
}

void aml_if(struct aml *aml)
{
	append_byte(aml, AML_IF);
	open_body(aml);
}

void aml_field(struct aml *aml, const char *region)
{
	append_byte(aml, AML_EXTENDED);
	append_byte(aml, AML_EXTENDED_FIELD);
	open_body(aml);
	append_path(aml, region);
	append_byte(aml, 1); /* byte accesses, no lock, preserve */
}

/* PkgLength alone, as fields use it for their widths: it does not count itself. */
static void field_bits(struct aml *aml, uint8_t bits)
{
	if (bits > 63)
		aml->failed = true;
	append_byte(aml, bits);
}

void aml_field_unit(struct aml *aml, const char *name, uint8_t bits)
{
	append_path(aml, name);
	field_bits(aml, bits);
}

void aml_field_skip(struct aml *aml, uint8_t bits)
{
	append_byte(aml, 0);
	field_bits(aml, bits);
}

void aml_region(struct aml *aml, const char *path, uint8_t space, uint64_t offset, uint64_t size)
{
	append_byte(aml, AML_EXTENDED);
	append_byte(aml, AML_EXTENDED_REGION);
	append_path(aml, path);
	append_byte(aml, space);
	aml_integer(aml, offset);
	aml_integer(aml, size);
}

void aml_op(struct aml *aml, enum aml_opcode opcode)
{
	append_byte(aml, (uint8_t)opcode);
}

void aml_path(struct aml *aml, const char *path)
{
	append_path(aml, path);
}

void aml_package(struct aml *aml, uint8_t count)
{
	append_byte(aml, AML_PACKAGE);
	open_body(aml);
	append_byte(aml, count);
}

void aml_name(struct aml *aml, const char *path)
{
	append_byte(aml, AML_NAME);
	append_path(aml, path);
}

void aml_integer(struct aml *aml, uint64_t value)
{
	static const struct {
		uint8_t opcode, size;
	} form[] = {{AML_BYTE, 1}, {AML_WORD, 2}, {AML_DWORD, 4}, {AML_QWORD, 8}};
	unsigned i = value > UINT32_MAX ? 3 : value > UINT16_MAX ? 2 : value > UINT8_MAX ? 1 : 0;

	if (value <= 1) {
		append_byte(aml, value ? AML_ONE : AML_ZERO);
		return;
	}
	append_byte(aml, form[i].opcode);
	append(aml, &value, form[i].size);
}

void aml_string(struct aml *aml, const char *text)
{
	append_byte(aml, AML_STRING);
	append(aml, text, strlen(text) + 1);
}

static uint32_t hex_digit(char digit)
{
	return (uint32_t)(digit <= '9' ? digit - '0' : (digit | 0x20) - 'a' + 10) & 0xf;
}

/* Three letters of five bits each and four hexadecimal digits, in big-endian order. */
void aml_eisa_id(struct aml *aml, const char *id)
{
	uint32_t value = 0;

	if (strlen(id) != 7) {
		aml->failed = true;
		return;
	}
	for (unsigned i = 0; i < 3; i++)
		value = value << 5 | (uint32_t)(id[i] - 0x40);
	for (unsigned i = 3; i < 7; i++)
		value = value << 4 | hex_digit(id[i]);
	append_byte(aml, AML_DWORD);
	value = __builtin_bswap32(value);
	append(aml, &value, 4);
}

void aml_buffer(struct aml *aml, const uint8_t *data, uint8_t size)
{
	append_byte(aml, AML_BUFFER);
	open_body(aml);
	aml_integer(aml, size);
	append(aml, data, size);
	aml_end(aml);
}

/* The buffer's size precedes its bytes and is known last: room for a word constant is kept for it. */
void aml_resources(struct aml *aml)
{
	const uint8_t size[] = {AML_WORD, 0, 0};

	append_byte(aml, AML_BUFFER);
	open_body(aml);
	append(aml, size, sizeof(size));
}

void aml_resources_end(struct aml *aml)
{
	const uint8_t end[] = {0x79, 0};
	uint8_t *constant;
	size_t size;

	append(aml, end, sizeof(end));
	if (aml->failed || !aml->depth) {
		aml->failed = true;
		return;
	}
	constant = aml->data + aml->open[aml->depth - 1];
	size = (size_t)(aml->data + aml->size - constant) - 3;
	if (size > UINT8_MAX) {
		put_u16(constant + 1, (uint16_t)size);
	} else {
		constant[0] = AML_BYTE;
		constant[1] = (uint8_t)size;
		memmove(constant + 2, constant + 3, size);
		aml->size--;
	}
	aml_end(aml);
}

void aml_io(struct aml *aml, uint16_t port, uint8_t count)
{
	uint8_t descriptor[8] = {0x47, 1 /* 16-bit decode */};

	put_u16(descriptor + 2, port);
	put_u16(descriptor + 4, port);
	descriptor[6] = 1;
	descriptor[7] = count;
	append(aml, descriptor, sizeof(descriptor));
}

void aml_irq(struct aml *aml, uint8_t irq)
{
	uint8_t descriptor[3] = {0x22};

	put_u16(descriptor + 1, (uint16_t)(1u << (irq & 15)));
	append(aml, descriptor, sizeof(descriptor));
}

void aml_irq_level(struct aml *aml, uint16_t irqs)
{
	uint8_t descriptor[4] = {0x23, 0, 0, 0x18 /* level, active low, shared */};

	put_u16(descriptor + 1, irqs);
	append(aml, descriptor, sizeof(descriptor));
}

void aml_memory32(struct aml *aml, uint32_t gpa, uint32_t size)
{
	uint8_t descriptor[12] = {0x86, 9, 0, 1 /* read and write */};

	put_u32(descriptor + 4, gpa);
	put_u32(descriptor + 8, size);
	append(aml, descriptor, sizeof(descriptor));
}

/* Word address space; both ends are fixed. type: 1 I/O, 2 bus numbers. */
static void word_range(struct aml *aml, uint8_t type, uint8_t type_flags, uint16_t first, uint16_t last)
{
	uint8_t descriptor[16] = {0x88, 0x0d, 0, type, 0x0c, type_flags};

	put_u16(descriptor + 8, first);
	put_u16(descriptor + 10, last);
	put_u16(descriptor + 14, (uint16_t)(last - first + 1));
	append(aml, descriptor, sizeof(descriptor));
}

void aml_bus_range(struct aml *aml, uint16_t first, uint16_t last)
{
	word_range(aml, 2, 0, first, last);
}

void aml_io_window(struct aml *aml, uint16_t first, uint16_t last)
{
	word_range(aml, 1, 3 /* the entire range */, first, last);
}

void aml_memory_window(struct aml *aml, uint32_t first, uint32_t last)
{
	uint8_t descriptor[26] = {0x87, 0x17, 0, 0, 0x0c, 1 /* read and write */};

	put_u32(descriptor + 10, first);
	put_u32(descriptor + 14, last);
	put_u32(descriptor + 22, last - first + 1);
	append(aml, descriptor, sizeof(descriptor));
}

void aml_memory_window64(struct aml *aml, uint64_t first, uint64_t last)
{
	uint8_t descriptor[46] = {0x8a, 0x2b, 0, 0, 0x0c, 3 /* read and write, cacheable */};

	put_u64(descriptor + 14, first);
	put_u64(descriptor + 22, last);
	put_u64(descriptor + 38, last - first + 1);
	append(aml, descriptor, sizeof(descriptor));
}

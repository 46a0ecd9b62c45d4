/* A guest's file in host memory, and bounded reading from it. */
#ifndef NESTOR_BOOT_FILE_H
#define NESTOR_BOOT_FILE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct boot_file {
	const char *name; /* for messages; borrowed */
	uint8_t *data;    /* owned */
	size_t size;
};

/*
 * Reads path whole. what: "kernel", "initrd" … for messages. An empty file, a directory and one larger than
 * max bytes are errors. Returns 0, or a negative errno with error_text(); *file is then empty. Pipes work.
 */
int boot_file_read(struct boot_file *file, const char *path, const char *what, uint64_t max);
void boot_file_free(struct boot_file *file);

/* Tells the host that a large buffer of ours is about to be filled, so that it takes huge pages for it. */
void boot_file_expect(uint8_t *data, size_t size);
/* malloc() of a buffer that is about to be filled, which such pages can hold whole. NULL: no memory. */
void *boot_file_buffer(size_t size);

/* True where [offset, offset + size) lies inside the file. */
static inline bool boot_file_has(const struct boot_file *file, uint64_t offset, uint64_t size)
{
	return offset <= file->size && size <= file->size - offset;
}

/* Little-endian integers at offset; 0 where the file ends before them. */
uint16_t boot_file_u16(const struct boot_file *file, uint64_t offset);
uint32_t boot_file_u32(const struct boot_file *file, uint64_t offset);
uint64_t boot_file_u64(const struct boot_file *file, uint64_t offset);

/* Little-endian integers into a buffer that has room for them. */
void put_u16(void *to, uint16_t value);
void put_u32(void *to, uint32_t value);
void put_u64(void *to, uint64_t value);

#endif

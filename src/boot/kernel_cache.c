/* The file: a header page, the payload, and from the next page on the image, whose zero pages are holes. */
#include "boot/kernel_cache.h"

#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#ifdef NESTOR_HAVE_LZMA
#include <lzma.h>
#endif

#include "util/address.h"

#define MAGIC        "nestor unpacked 1"
#define SUFFIX       ".kernel"
#define NEW          ".new-" /* a file that is being written: PREFIX and what mkstemp makes of six X */
#define NEW_LIFETIME 3600    /* seconds; an older one was left behind */

struct cache_header {
	char magic[24];
	uint64_t payload_size, image_size;
	uint32_t image_crc, header_crc; /* the latter of what stands before it */
};

#ifdef NESTOR_HAVE_LZMA
#define CAN_CHECK true

static uint32_t crc32(const uint8_t *data, size_t size)
{
	return lzma_crc32(data, size, 0);
}
#else
#define CAN_CHECK false /* and nothing is kept */
#define crc32(data, size) 0
#endif

static uint64_t image_offset(uint64_t payload_size)
{
	return (PAGE_SIZE + payload_size + PAGE_SIZE - 1) & ~(uint64_t)(PAGE_SIZE - 1);
}

static struct cache_header header_of(const struct boot_file *payload, uint64_t image_size, uint32_t image_crc)
{
	struct cache_header header = {MAGIC, payload->size, image_size, image_crc, 0};

	header.header_crc = crc32((const uint8_t *)&header, offsetof(struct cache_header, header_crc));
	return header;
}

static void path_of(char *path, size_t room, const char *folder, const struct boot_file *payload)
{
	snprintf(path, room, "%s/%08x-%zx" SUFFIX, folder, crc32(payload->data, payload->size),
	         payload->size);
}

static bool read_at(int fd, uint8_t *to, uint64_t size, uint64_t offset)
{
	while (size) {
		ssize_t got = pread(fd, to, size, (off_t)offset);

		if (got <= 0)
			return false;
		to += got;
		offset += (uint64_t)got;
		size -= (uint64_t)got;
	}
	return true;
}

static bool write_at(int fd, const uint8_t *from, uint64_t size, uint64_t offset)
{
	while (size) {
		ssize_t put = pwrite(fd, from, size, (off_t)offset);

		if (put <= 0)
			return false;
		from += put;
		offset += (uint64_t)put;
		size -= (uint64_t)put;
	}
	return true;
}

/* ---- finding ---- */

/* Only what this user has written, and nobody else may write. */
static int open_own(const char *path)
{
	int fd = open(path, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
	struct stat status;

	if (fd >= 0 && (fstat(fd, &status) || !S_ISREG(status.st_mode) || status.st_uid != geteuid() ||
	                status.st_mode & (S_IWGRP | S_IWOTH))) {
		close(fd);
		return -1;
	}
	return fd;
}

static bool has_payload(int fd, const struct boot_file *payload)
{
	uint8_t kept[64 << 10];

	for (uint64_t at = 0; at < payload->size; at += sizeof(kept)) {
		uint64_t size = payload->size - at < sizeof(kept) ? payload->size - at : sizeof(kept);

		if (!read_at(fd, kept, size, PAGE_SIZE + at) || memcmp(kept, payload->data + at, size))
			return false;
	}
	return true;
}

/* What is no hole; the rest of `to` is zero. */
static bool read_image(int fd, uint8_t *to, uint64_t size, uint64_t start)
{
	for (off_t at = (off_t)start, end = (off_t)(start + size); at < end;) {
		off_t data = lseek(fd, at, SEEK_DATA), hole = data < 0 ? -1 : lseek(fd, data, SEEK_HOLE);

		if (data < 0 || data >= end)
			return true; /* zeros up to the end; the CRC says whether that is right */
		if (hole < 0 || hole > end)
			hole = end;
		if (!read_at(fd, to + (data - (off_t)start), (uint64_t)(hole - data), (uint64_t)data))
			return false;
		at = hole;
	}
	return true;
}

static bool read_kept(struct boot_file *out, int fd, const struct boot_file *payload, uint64_t expected)
{
	struct cache_header header, right;

	if (!read_at(fd, (uint8_t *)&header, sizeof(header), 0))
		return false;
	right = header_of(payload, expected, header.image_crc);
	if (memcmp(&header, &right, sizeof(header)) || !has_payload(fd, payload))
		return false;
	out->data = calloc(1, expected);
	if (!out->data)
		return false;
	boot_file_expect(out->data, expected);
	out->size = expected;
	return read_image(fd, out->data, expected, image_offset(payload->size)) &&
	       crc32(out->data, expected) == header.image_crc;
}

bool kernel_cache_find(struct boot_file *out, const char *folder, const struct boot_file *payload,
                       uint64_t expected)
{
	char path[4096];
	bool found;
	int fd;

	*out = (struct boot_file){.name = payload->name};
	if (!CAN_CHECK)
		return false;
	path_of(path, sizeof(path), folder, payload);
	fd = open_own(path);
	if (fd < 0)
		return false;
	found = read_kept(out, fd, payload, expected);
	if (found)
		futimens(fd, NULL); /* the last use, for remove_oldest; a refusal does no harm */
	else
		boot_file_free(out);
	close(fd);
	return found;
}

/* ---- keeping ---- */

static bool is_kept(const char *name)
{
	size_t length = strlen(name);

	return length > strlen(SUFFIX) && !strcmp(name + length - strlen(SUFFIX), SUFFIX);
}

/* Removes one file too many, and what other runs have left half done. Returns whether it should look again.
 */
static bool remove_oldest(int folder)
{
	DIR *list = fdopendir(dup(folder));
	char oldest[256] = "";
	struct timespec oldest_time = {0};
	unsigned count = 0;
	time_t now = time(NULL);
	const struct dirent *entry;

	if (!list)
		return false;
	rewinddir(list);
	while ((entry = readdir(list))) {
		const char *name = entry->d_name;
		struct stat status;

		if (fstatat(folder, name, &status, AT_SYMLINK_NOFOLLOW) || !S_ISREG(status.st_mode))
			continue;
		if (!strncmp(name, NEW, strlen(NEW)) && now - status.st_mtime > NEW_LIFETIME)
			unlinkat(folder, name, 0);
		if (!is_kept(name))
			continue;
		count++;
		if (!*oldest || status.st_mtim.tv_sec < oldest_time.tv_sec ||
		    (status.st_mtim.tv_sec == oldest_time.tv_sec &&
		     status.st_mtim.tv_nsec < oldest_time.tv_nsec)) {
			oldest_time = status.st_mtim;
			snprintf(oldest, sizeof(oldest), "%s", name);
		}
	}
	closedir(list);
	return count > KERNEL_CACHE_FILES && !unlinkat(folder, oldest, 0);
}

static bool write_image(int fd, const struct boot_file *image, uint64_t start)
{
	for (uint64_t at = 0; at < image->size;) {
		uint64_t piece = image->size - at < PAGE_SIZE ? image->size - at : PAGE_SIZE, count = 0;
		const uint8_t *data = image->data + at;

		while (count < image->size - at &&
		       (data[count] || memcmp(data + count, data + count + 1, piece - 1))) {
			count += piece;
			piece = image->size - at - count < PAGE_SIZE ? image->size - at - count : PAGE_SIZE;
		}
		if (count && !write_at(fd, data, count, start + at))
			return false;
		at += count ? count : piece;
	}
	return true;
}

static bool write_kept(int fd, const struct boot_file *payload, const struct boot_file *image)
{
	struct cache_header header = header_of(payload, image->size, crc32(image->data, image->size));
	uint64_t start = image_offset(payload->size);

	return !ftruncate(fd, (off_t)(start + image->size)) &&
	       write_at(fd, payload->data, payload->size, PAGE_SIZE) && write_image(fd, image, start) &&
	       write_at(fd, (const uint8_t *)&header, sizeof(header), 0);
}

/* The folder, made where it is missing; -1 where it is not this user's. */
static int open_folder(const char *path)
{
	char parent[4096];
	char *slash;
	struct stat status;
	int fd;

	snprintf(parent, sizeof(parent), "%s", path);
	slash = strrchr(parent, '/');
	if (slash && slash != parent) {
		*slash = 0;
		mkdir(parent, 0700);
	}
	mkdir(path, 0700);
	fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (fd >= 0 &&
	    (fstat(fd, &status) || status.st_uid != geteuid() || status.st_mode & (S_IWGRP | S_IWOTH))) {
		close(fd);
		return -1;
	}
	return fd;
}

void kernel_cache_keep(const char *folder, const struct boot_file *payload, const struct boot_file *image)
{
	char path[4096], new[4096];
	int list, fd;

	if (!CAN_CHECK)
		return;
	path_of(path, sizeof(path), folder, payload);
	if ((size_t)snprintf(new, sizeof(new), "%s/" NEW "XXXXXX", folder) >= sizeof(new))
		return;
	list = open_folder(folder);
	fd = list < 0 ? -1 : mkostemp(new, O_CLOEXEC); /* mode 0600 */
	if (fd >= 0) {
		bool written = write_kept(fd, payload, image);

		if (close(fd) || !written || rename(new, path))
			unlink(new);
		while (remove_oldest(list))
			;
	}
	if (list >= 0)
		close(list);
}

#include "boot/file.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "util/error.h"

#define HUGE_PAGE ((uintptr_t)2 << 20)

static int read_all(struct boot_file *file, int fd, const char *what, uint64_t expected, uint64_t max)
{
	size_t room = expected && expected <= max ? expected + 1 : 65536;

	file->data = boot_file_buffer(room);
	if (!file->data)
		return error_set(ENOMEM, "%s %s: the host has no memory to read it", what, file->name);
	for (;;) {
		ssize_t got;

		if (file->size == room) {
			uint8_t *larger = realloc(file->data, room * 2);

			if (!larger)
				return error_set(ENOMEM, "%s %s: the host has no memory to read it", what,
				                 file->name);
			file->data = larger;
			room *= 2;
		}
		got = read(fd, file->data + file->size, room - file->size);
		if (got < 0 && errno == EINTR)
			continue;
		if (got < 0) {
			int cause = errno;

			return error_set(cause, "%s %s: cannot be read: %s", what, file->name,
			                 strerror(cause));
		}
		if (!got)
			break;
		file->size += (size_t)got;
		if (file->size > max)
			return error_set(EFBIG,
			                 "%s %s: larger than the %llu MiB that can be used; give a smaller "
			                 "file or the VM more --memory",
			                 what, file->name, (unsigned long long)(max >> 20));
	}
	if (!file->size)
		return error_set(ENODATA, "%s %s: the file is empty; was its download or build cut short?",
		                 what, file->name);
	return 0;
}

int boot_file_read(struct boot_file *file, const char *path, const char *what, uint64_t max)
{
	struct stat info;
	int fd, status;

	*file = (struct boot_file){.name = path};
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0) {
		int cause = errno;

		return error_set(cause, "%s %s: cannot be opened: %s; check the path and its permissions",
		                 what, path, strerror(cause));
	}
	if (fstat(fd, &info) < 0) {
		int cause = errno;

		status = error_set(cause, "%s %s: %s", what, path, strerror(cause));
	} else if (S_ISDIR(info.st_mode)) {
		status = error_set(EISDIR, "%s %s: is a directory; name a file in it", what, path);
	} else {
		status = read_all(file, fd, what, S_ISREG(info.st_mode) ? (uint64_t)info.st_size : 0, max);
	}
	close(fd);
	if (status)
		boot_file_free(file);
	return status;
}

/* 60 MB of a kernel by pages of 4 KiB would be a tenth of the time to unpack it, in a nested VMM a quarter.
 */
void boot_file_expect(uint8_t *data, size_t size)
{
	uintptr_t start = ((uintptr_t)data + HUGE_PAGE - 1) & ~(HUGE_PAGE - 1);
	uintptr_t end = ((uintptr_t)data + size) & ~(HUGE_PAGE - 1);

	if (end > start)
		madvise((void *)start, end - start, MADV_HUGEPAGE); /* a refusal costs speed only */
}

void *boot_file_buffer(size_t size)
{
	size_t whole = (size + HUGE_PAGE - 1) & ~(HUGE_PAGE - 1);
	void *data;

	if (size < HUGE_PAGE || whole < size)
		return malloc(size);
	if (posix_memalign(&data, HUGE_PAGE, whole))
		return NULL;
	boot_file_expect(data, whole);
	return data;
}

void boot_file_free(struct boot_file *file)
{
	free(file->data);
	file->data = NULL;
	file->size = 0;
}

static uint64_t little_endian(const struct boot_file *file, uint64_t offset, unsigned size)
{
	uint64_t value = 0;

	if (!boot_file_has(file, offset, size))
		return 0;
	memcpy(&value, file->data + offset, size);
	return value;
}

uint16_t boot_file_u16(const struct boot_file *file, uint64_t offset)
{
	return (uint16_t)little_endian(file, offset, 2);
}

uint32_t boot_file_u32(const struct boot_file *file, uint64_t offset)
{
	return (uint32_t)little_endian(file, offset, 4);
}

uint64_t boot_file_u64(const struct boot_file *file, uint64_t offset)
{
	return little_endian(file, offset, 8);
}

void put_u16(void *to, uint16_t value)
{
	memcpy(to, &value, sizeof(value));
}

void put_u32(void *to, uint32_t value)
{
	memcpy(to, &value, sizeof(value));
}

void put_u64(void *to, uint64_t value)
{
	memcpy(to, &value, sizeof(value));
}

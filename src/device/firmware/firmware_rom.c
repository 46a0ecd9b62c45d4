/*
 * The firmware's ROM, which ends at 4 GiB, where the CPU's first instruction is; its copy below 1 MiB (shadow.h); and,
 * below the ROM, a flash chip with UEFI variables.
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "device/devices.h"
#include "device/firmware/flash.h"
#include "device/firmware/shadow.h"
#include "machine/machine.h"
#include "util/error.h"

#define TOP      UINT64_C(0x100000000)
#define ROOM     (16u << 20) /* for ROM and flash: below are the local APIC, the HPET and the I/O APIC */
#define ROM_STEP 4096u

struct firmware {
	uint8_t *rom, *variables; /* mappings of our own */
	uint32_t rom_size, variables_size;
};

static int cannot_read(const char *what, const char *path, int error)
{
	return error_set(error, "%s %s: cannot read it: %s", what, path, strerror(error));
}

static int read_whole(int fd, const char *what, const char *path, uint8_t *to, uint32_t size)
{
	while (size) {
		ssize_t done = read(fd, to, size);

		if (done < 0 && errno == EINTR)
			continue;
		if (done <= 0)
			return cannot_read(what, path, done ? errno : EIO);
		to += done;
		size -= (uint32_t)done;
	}
	return 0;
}

/* A file's contents in memory of their own. room: what it may have at most. Keeps fd open. */
static int load(int fd, const char *what, const char *path, uint32_t room, uint8_t **data, uint32_t *size)
{
	struct stat stat;

	if (fstat(fd, &stat))
		return cannot_read(what, path, errno);
	if (!S_ISREG(stat.st_mode))
		return error_set(EINVAL, "%s %s: not a file", what, path);
	if (stat.st_size == 0 || stat.st_size % ROM_STEP || stat.st_size > room)
		return error_set(EINVAL, "%s %s: %lld bytes; must be a multiple of 4096 up to %u", what, path,
		                 (long long)stat.st_size, room);
	*size = (uint32_t)stat.st_size;
	*data = mmap(NULL, *size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (*data == MAP_FAILED) {
		*data = NULL;
		return error_set(ENOMEM, "out of memory for %s", path);
	}
	return read_whole(fd, what, path, *data, *size);
}

static int load_path(const char *what, const char *path, uint32_t room, uint8_t **data, uint32_t *size)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC), error;

	if (fd < 0)
		return cannot_read(what, path, errno);
	error = load(fd, what, path, room, data, size);
	close(fd);
	return error;
}

static int write_whole(int fd, const uint8_t *from, uint32_t size)
{
	while (size) {
		ssize_t done = write(fd, from, size);

		if (done < 0 && errno == EINTR)
			continue;
		if (done <= 0)
			return done ? -errno : -EIO;
		from += done;
		size -= (uint32_t)done;
	}
	return fsync(fd) ? -errno : 0;
}

/* The file appears whole or not at all, and one that somebody else has made meanwhile stays. */
static int make_variables(const char *path, const char *template)
{
	uint8_t *data = NULL;
	uint32_t size = 0;
	char *temporary = NULL;
	int error = load_path("firmware variables' template", template, ROOM, &data, &size), fd = -1;

	if (!error && asprintf(&temporary, "%s.XXXXXX", path) < 0) {
		temporary = NULL;
		error = error_set(ENOMEM, "out of memory");
	}
	if (!error) {
		fd = mkostemp(temporary, O_CLOEXEC);
		error = fd < 0 ? -errno : write_whole(fd, data, size);
		if (!error && fchmod(fd, 0644))
			error = -errno;
		if (!error && link(temporary, path) && errno != EEXIST)
			error = -errno;
		if (fd >= 0) {
			unlink(temporary);
			close(fd);
		}
		if (error)
			error_set(-error, "--firmware-vars %s: cannot be created: %s", path,
			          strerror(-error));
	}
	if (data)
		munmap(data, size);
	free(temporary);
	return error;
}

/* Two machines that write the same variables would each destroy what the other has stored. */
static int open_variables(const char *path, const char *template)
{
	int fd = open(path, O_RDWR | O_CLOEXEC);

	if (fd < 0 && errno == ENOENT && template) {
		int error = make_variables(path, template);

		if (error)
			return error;
		fd = open(path, O_RDWR | O_CLOEXEC);
	}
	if (fd < 0)
		return error_set(errno, "--firmware-vars %s: cannot be opened for writing: %s", path,
		                 strerror(errno));
	if (flock(fd, LOCK_EX | LOCK_NB)) {
		close(fd);
		return error_set(EBUSY, "--firmware-vars %s: another machine uses it; give each a file of its own", path);
	}
	return fd;
}

/* Variables in the user's file; or, without one, in memory and new in every run. */
static int create_flash(struct machine *machine, struct firmware *firmware)
{
	const char *path = machine->config.firmware_vars, *template = machine->config.firmware_vars_template;
	uint32_t room = ROOM - firmware->rom_size;
	int fd = -1, error;

	if (path) {
		fd = open_variables(path, template);
		if (fd < 0)
			return fd;
		error = load(fd, "--firmware-vars", path, room, &firmware->variables, &firmware->variables_size);
	} else {
		error = load_path("firmware variables' template", template, room, &firmware->variables,
		                  &firmware->variables_size);
	}
	if (error) {
		if (fd >= 0)
			close(fd);
		return error;
	}
	return flash_create(machine, TOP - firmware->rom_size - firmware->variables_size, firmware->variables,
	                    firmware->variables_size, fd);
}

static void firmware_destroy(void *state)
{
	struct firmware *firmware = state;

	if (firmware->rom)
		munmap(firmware->rom, firmware->rom_size);
	if (firmware->variables)
		munmap(firmware->variables, firmware->variables_size);
	free(firmware);
}

int firmware_rom_create(struct machine *machine)
{
	const struct machine_config *config = &machine->config;
	struct firmware *firmware;
	int error;

	if (!config->firmware)
		return 0;
	firmware = calloc(1, sizeof(*firmware));
	if (!firmware)
		return error_set(ENOMEM, "out of memory");
	error = machine_add_device(machine, "firmware", firmware, NULL, firmware_destroy);
	if (error) {
		free(firmware);
		return error;
	}
	error = load_path("--firmware", config->firmware, ROOM / 2, &firmware->rom, &firmware->rom_size);
	if (!error)
		error = machine_map_memory(machine, GPA(TOP - firmware->rom_size), firmware->rom_size,
		                           firmware->rom, true);
	if (!error)
		shadow_set_rom(machine, firmware->rom, firmware->rom_size);
	if (!error && (config->firmware_vars || config->firmware_vars_template))
		error = create_flash(machine, firmware);
	return error;
}

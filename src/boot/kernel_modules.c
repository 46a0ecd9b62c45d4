#include "boot/kernel_modules.h"

#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "boot/decompress.h"
#include "util/error.h"

#define MODULE_MAX     (64u << 20)
#define WANTED_MAX     KERNEL_MODULES_MAX
#define SETUP_SIZE     (64u << 10) /* the real-mode part, which has the version */
#define HDR_MAGIC      0x202
#define HDR_VERSION_AT 0x20e /* where the text is, from 0x200 on */

/* ---- finding files ---- */

/* nftw has no argument for its callback. */
static _Thread_local struct {
	const char *name; /* wanted, with underscores */
	char *path;       /* found */
} search;

static bool same_name(const char *file, const char *name)
{
	for (; *name; file++, name++)
		if ((*file == '-' ? '_' : *file) != *name)
			return false;
	return !strcmp(file, ".ko") || !strcmp(file, ".ko.xz") || !strcmp(file, ".ko.zst") ||
	       !strcmp(file, ".ko.gz");
}

static int visit(const char *path, const struct stat *status, int kind, struct FTW *place)
{
	if (kind != FTW_F || !same_name(path + place->base, search.name))
		return 0;
	search.path = strdup(path);
	return 1;
}

/* The path of a module, which the caller frees, or NULL. */
static char *find_file(const char *folder, const char *name)
{
	search.name = name;
	search.path = NULL;
	nftw(folder, visit, 16, FTW_PHYS);
	return search.path;
}

static int read_module(struct boot_file *file, const char *path)
{
	struct boot_file packed;
	int error = boot_file_read(&packed, path, "module", MODULE_MAX);

	if (error)
		return error;
	if (!decompress_format(packed.data, packed.size)) {
		*file = packed;
		return 0;
	}
	error = decompress(file, path, packed.data, packed.size, 0, MODULE_MAX);
	boot_file_free(&packed);
	return error;
}

/* ---- dependencies ---- */

/* The list behind "depends=" in the module's .modinfo, or "" where there is none: "a,b-c". */
static const char *depends_of(const struct boot_file *file)
{
	static const char key[] = "\0depends=";
	const uint8_t *found = memmem(file->data, file->size, key, sizeof(key) - 1);
	const char *list = (const char *)found + sizeof(key) - 1;

	if (!found || !memchr(list, 0, file->size - (size_t)((const uint8_t *)list - file->data)))
		return "";
	return list;
}

static bool is_known(const struct kernel_modules *modules, const char *name)
{
	for (unsigned i = 0; i < modules->count; i++)
		if (!strcmp(modules->module[i].name, name))
			return true;
	return false;
}

static int add(struct kernel_modules *modules, const char *folder, const char *name, unsigned depth);

static int add_dependencies(struct kernel_modules *modules, const char *folder, const char *list,
                            unsigned depth)
{
	int error = 0;

	while (*list && !error) {
		size_t length = strcspn(list, ",");
		char name[64];

		if (length >= sizeof(name))
			return error_set(EINVAL, "%s: a module depends on one with a very long name", folder);
		for (size_t i = 0; i < length; i++)
			name[i] = list[i] == '-' ? '_' : list[i];
		name[length] = 0;
		error = add(modules, folder, name, depth + 1);
		list += length + (list[length] == ',');
	}
	return error;
}

static int add(struct kernel_modules *modules, const char *folder, const char *name, unsigned depth)
{
	struct boot_file file;
	char *path, *copy;
	int error;

	if (is_known(modules, name))
		return 0;
	if (depth > 16)
		return error_set(EINVAL, "%s: modules depend on each other in a circle", folder);
	path = find_file(folder, name);
	if (!path)
		return 0; /* built in */
	error = read_module(&file, path);
	free(path);
	if (error)
		return error;
	error = add_dependencies(modules, folder, depends_of(&file), depth);
	copy = strdup(name);
	if (!error && (modules->count == KERNEL_MODULES_MAX || !copy))
		error = error_set(ENOSPC, "%s: too many modules are needed", folder);
	if (error) {
		boot_file_free(&file);
		free(copy);
		return error;
	}
	file.name = copy;
	modules->module[modules->count].name = copy;
	modules->module[modules->count++].file = file;
	return 0;
}

int kernel_modules_find(struct kernel_modules *modules, const char *folder, const char *const *names)
{
	int error = 0;

	for (; *names && !error; names++)
		error = add(modules, folder, *names, 0);
	return error;
}

void kernel_modules_free(struct kernel_modules *modules)
{
	for (unsigned i = 0; i < modules->count; i++) {
		boot_file_free(&modules->module[i].file);
		free(modules->module[i].name);
	}
	modules->count = 0;
}

/* ---- the kernel's version ---- */

int kernel_version(const char *path, char *version, size_t size)
{
	uint8_t setup[SETUP_SIZE];
	struct boot_file head = {.data = setup};
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	ssize_t got;
	size_t at, length = 0;

	*version = 0;
	if (fd < 0)
		return error_set(errno, "%s: cannot open the kernel: %s", path, strerror(errno));
	got = read(fd, setup, sizeof(setup));
	close(fd);
	if (got < 0)
		return error_set(errno, "%s: cannot read the kernel: %s", path, strerror(errno));
	head.size = (size_t)got;
	if (head.size < 0x210 || memcmp(setup + HDR_MAGIC, "HdrS", 4) ||
	    !boot_file_u16(&head, HDR_VERSION_AT))
		return 0;
	at = 0x200u + boot_file_u16(&head, HDR_VERSION_AT);
	/* "6.1.0-13-amd64 (builder) #1 …": up to the space; no path. */
	while (at + length < head.size && length + 1 < size && setup[at + length] > ' ' &&
	       setup[at + length] < 0x7f && setup[at + length] != '/') {
		version[length] = (char)setup[at + length];
		length++;
	}
	version[*version == '.' ? 0 : length] = 0;
	return 0;
}

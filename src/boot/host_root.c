#include "boot/host_root.h"

#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "boot/cpio.h"
#include "boot/kernel_modules.h"
#include "util/error.h"

#define COMMAND_MAX 16000 /* the init has no more room */

/* guest/host_root_init.c as a program, from the build. */
extern const uint8_t host_root_init[], host_root_init_end[];

static const char *const needed[] = {"virtio_pci", "virtio_console", "9p", "9pnet_virtio", "overlay", NULL};

/* ---- where the modules are ---- */

static bool is_tree(const char *folder)
{
	char path[PATH_MAX];

	return (size_t)snprintf(path, sizeof(path), "%s/kernel", folder) < sizeof(path) &&
	       access(path, X_OK) == 0;
}

/*
 * The folder of the kernel's modules: DIR itself, DIR/VERSION, DIR/lib/modules/VERSION (what `make
 * INSTALL_MOD_PATH=DIR modules_install` leaves), and without a DIR /lib/modules/VERSION; empty where there is
 * none and none was asked for.
 */
static int find_tree(const struct host_root *root, const char *version, char folder[PATH_MAX])
{
	const char *base = root->modules ? root->modules : "/lib/modules";
	char path[3][PATH_MAX];

	snprintf(path[0], sizeof(path[0]), "%s/lib/modules/%s", base, version);
	snprintf(path[1], sizeof(path[1]), "%s/%s", base, version);
	snprintf(path[2], sizeof(path[2]), "%s", base);
	for (unsigned i = *version ? 0 : 2; i < (root->modules ? 3 : 2); i++)
		if (is_tree(path[i]) && realpath(path[i], folder))
			return 0;
	*folder = 0;
	if (!root->modules)
		return 0; /* all that is needed may be built in */
	return error_set(ENOENT,
	                 "--modules %s: no modules of %s there: give a folder with lib/modules/%s, or the "
	                 "one that has the "
	                 "folder kernel in it",
	                 root->modules, root->kernel, *version ? version : "VERSION");
}

/* ---- what the init reads ---- */

static int add_settings(struct cpio *cpio, const struct host_root *root, const char *tree,
                        const char *version)
{
	char text[3 * PATH_MAX], folder[PATH_MAX], standard[256], usual[PATH_MAX];
	const char *term = getenv("TERM");
	int length;

	if (!getcwd(folder, sizeof(folder)) || strchr(folder, '\n'))
		strcpy(folder, "/");
	/* modprobe finds them where the host has them in the usual place. */
	snprintf(standard, sizeof(standard), "/lib/modules/%s", version);
	if (!*tree || !*version || (realpath(standard, usual) && strcmp(usual, tree) == 0))
		tree = "";
	length =
	    snprintf(text, sizeof(text), "mode=%s\nfolder=%s\nterm=%s\nterminal=%d\nversion=%s\nmodules=%s\n",
	             root->copy_on_write ? "cow" : "ro", folder,
	             root->terminal && term && !strchr(term, '\n') ? term : "dumb", root->terminal, version,
	             strchr(tree, '\n') ? "" : tree);
	if (length < 0 || (size_t)length >= sizeof(text))
		return error_set(ENAMETOOLONG,
		                 "--host-root: the names of the current folder or of --modules are too long");
	cpio_file(cpio, "nestor/settings", text, (size_t)length, false);
	return 0;
}

static int add_command(struct cpio *cpio, const struct host_root *root)
{
	char text[COMMAND_MAX];
	size_t size = 0;

	for (unsigned i = 0; i < root->command_words; i++) {
		size_t length = strlen(root->command[i]) + 1;

		if (length > sizeof(text) - size || i == 500)
			return error_set(E2BIG, "--host-root: the command is too long");
		memcpy(text + size, root->command[i], length);
		size += length;
	}
	cpio_file(cpio, "nestor/command", text, size, false);
	return 0;
}

static void add_modules(struct cpio *cpio, const struct kernel_modules *modules)
{
	char order[KERNEL_MODULES_MAX * 72], path[96];
	size_t length = 0;

	for (unsigned i = 0; i < modules->count; i++) {
		const struct boot_file *file = &modules->module[i].file;

		length +=
		    (size_t)snprintf(order + length, sizeof(order) - length, "%s\n", modules->module[i].name);
		snprintf(path, sizeof(path), "nestor/%s.ko", modules->module[i].name);
		cpio_file(cpio, path, file->data, file->size, false);
	}
	cpio_file(cpio, "nestor/modules", order, length, false);
}

static int fill(struct cpio *cpio, const struct host_root *root)
{
	static const char *const folders[] = {"dev", "nestor", "host", "changes", "new"};
	struct kernel_modules modules = {.count = 0};
	char version[128], tree[PATH_MAX];
	int error = kernel_version(root->kernel, version, sizeof(version));

	if (!error)
		error = find_tree(root, version, tree);
	if (error)
		return error;
	for (unsigned i = 0; i < sizeof(folders) / sizeof(folders[0]); i++)
		cpio_folder(cpio, folders[i]);
	cpio_device(cpio, "dev/console", 5, 1);
	cpio_file(cpio, "init", host_root_init, (size_t)(host_root_init_end - host_root_init), true);
	error = add_settings(cpio, root, tree, version);
	if (!error)
		error = add_command(cpio, root);
	if (!error && *tree)
		error = kernel_modules_find(&modules, tree, needed);
	if (!error)
		add_modules(cpio, &modules);
	kernel_modules_free(&modules);
	return error ? error : cpio_end(cpio);
}

static int write_all(int fd, const uint8_t *data, size_t size)
{
	while (size) {
		ssize_t written = write(fd, data, size);

		if (written < 0 && errno == EINTR)
			continue;
		if (written <= 0)
			return error_set(errno, "--host-root: cannot write the initramfs: %s",
			                 strerror(errno));
		data += written;
		size -= (size_t)written;
	}
	return 0;
}

int host_root_make(const struct host_root *root)
{
	struct cpio cpio = {0};
	int error = fill(&cpio, root), fd = -1;

	if (!error) {
		fd = memfd_create("nestor-host-root", MFD_CLOEXEC);
		error =
		    fd < 0 ? error_set(errno, "--host-root: no memory for the initramfs: %s", strerror(errno))
		           : write_all(fd, cpio.data, cpio.size);
	}
	cpio_free(&cpio);
	if (error && fd >= 0)
		close(fd);
	return error ? error : fd;
}

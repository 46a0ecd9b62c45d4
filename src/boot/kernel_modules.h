/*
 * A kernel's modules as a package or `make modules_install` leaves them, found by name with what they depend
 * on, so that an initramfs can load them. No depmod is needed: a module itself says what it depends on.
 */
#ifndef NESTOR_BOOT_KERNEL_MODULES_H
#define NESTOR_BOOT_KERNEL_MODULES_H

#include "boot/file.h"

#define KERNEL_MODULES_MAX 64

struct kernel_modules {
	/* In the order of loading. name: with underscores; owned. */
	struct {
		char *name;
		struct boot_file file; /* uncompressed */
	} module[KERNEL_MODULES_MAX];
	unsigned count;
};

/*
 * Adds the modules `names` (NULL at the end) of the tree `folder` (the one that has the folder "kernel" in
 * it), each after what it depends on. What is not in the tree is taken to be built into the kernel. Returns
 * 0, or a negative errno with error_text(). Free with kernel_modules_free in either case.
 */
int kernel_modules_find(struct kernel_modules *modules, const char *folder, const char *const *names);
void kernel_modules_free(struct kernel_modules *modules);

/*
 * The version that a bzImage says it has ("6.1.0-13-amd64"), by which its modules' folder is named; empty
 * where it is no bzImage. Returns 0, or a negative errno with error_text() where the file cannot be read.
 */
int kernel_version(const char *path, char *version, size_t size);

#endif

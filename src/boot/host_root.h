/* The initramfs of `nestor run --host-root`: an init of ours, and the modules that it needs to mount the
 * host's root. */
#ifndef NESTOR_BOOT_HOST_ROOT_H
#define NESTOR_BOOT_HOST_ROOT_H

#include <stdbool.h>

#define HOST_ROOT_TAG "nestor-root" /* of the share with the host's root file system */

struct host_root {
	const char *kernel;
	const char *modules;    /* where its modules are, or NULL: where the host has them */
	bool copy_on_write;     /* the guest sees a root that it may change; else a read-only one */
	bool terminal;          /* somebody types */
	char *const *command;   /* its words */
	unsigned command_words; /* 0: a shell */
};

/* Returns a descriptor of the initramfs in memory, or a negative errno with error_text(). */
int host_root_make(const struct host_root *root);

#endif

/* --host-root and --modules: a kernel on the host's own root file system. */
#ifndef NESTOR_CONFIG_HOST_ROOT_OPTIONS_H
#define NESTOR_CONFIG_HOST_ROOT_OPTIONS_H

#include <stdbool.h>

#include "machine/machine_config.h"

struct host_root_options {
	bool wanted, copy_on_write;
	const char *modules;  /* --modules, or NULL */
	char *const *command; /* the words behind the options */
	unsigned command_words;
	/* ---- host_root_prepare's ---- */
	bool prepared;
	int initrd; /* descriptor */
	char initrd_path[32];
	char *append;
};

/* --host-root[=ro|cow]: value may be NULL. Returns 0, or -EINVAL with error_text(). */
int host_root_option(struct host_root_options *options, const char *value);

/* What the option means for the other ones, after all were read. Returns 0, or -EINVAL with error_text(). */
int host_root_complete(const struct host_root_options *options, struct machine_config *machine,
                       bool serial_given);

/*
 * Makes the initramfs and completes the configuration, which borrows from *options. Returns 0, or a negative
 * errno with error_text(). host_root_options_free at the end in either case.
 */
int host_root_prepare(struct host_root_options *options, struct machine_config *machine);
void host_root_options_free(struct host_root_options *options);

#endif

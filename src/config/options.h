/* The options of `nestor run`: the command line in, one struct that describes a VM out. */
#ifndef NESTOR_CONFIG_OPTIONS_H
#define NESTOR_CONFIG_OPTIONS_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#include "config/disk_options.h"
#include "config/display_options.h"
#include "config/host_root_options.h"
#include "config/virtio_options.h"
#include "machine/machine_config.h"

struct options {
	struct machine_config machine; /* borrows argv's strings and the one below */
	bool state_hash;               /* --state-hash: print machine_state_hash at the end */
	const char *name;              /* --name: borrowed from argv, or NULL */
	const char *gdb;               /* --gdb: borrowed, or NULL */
	bool detach;                   /* --detach */
	bool on_reset_given;           /* --on-reset was given */
	bool help;                     /* --help was given; nothing else was checked */
	bool tune_list;                /* --tune list was given; nothing behind it was checked */
	struct display_options display;
	bool device_list;              /* --device list, the same */
	bool no_network;               /* --net none */
	bool no_kernel_cache;          /* --kernel-cache off */
	struct host_root_options host_root;
	struct share_options share;    /* of --share */
	struct disk_options disk;      /* the texts of --disk and --cdrom */
	char *kernel_cache;            /* owned: the default folder for unpacked kernels, or NULL */
	char *cpu_model;               /* owned: the MODEL of --cpu MODEL,+feature,… */
};

/*
 * Fills *options from the words after "run". argv[0] is not looked at; argv must outlive *options.
 * Features and files are only named here: whether they exist is found by who uses them.
 *
 * Returns 0, or -EINVAL or -ENOMEM with error_text(); the caller calls options_free in either case.
 */
int options_parse(struct options *options, int argc, char **argv);
void options_free(struct options *options);

/* What --tune knows, one line each: the name, then what it switches. Returns 0, or EOF where it cannot be written. */
int options_tune_list(FILE *out);

/*
 * A size with a unit: 64K, 512M, 1G, 2T (powers of 1024), also with a trailing "iB" or "B".
 * Returns 0, or -EINVAL with error_text() that begins with `what`.
 */
int options_size(const char *what, const char *text, uint64_t *bytes);

#endif

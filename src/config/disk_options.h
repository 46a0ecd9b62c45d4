/* --disk and --cdrom. */
#ifndef NESTOR_CONFIG_DISK_OPTIONS_H
#define NESTOR_CONFIG_DISK_OPTIONS_H

#include "machine/machine_config.h"
#include "util/properties.h"

struct disk_options {
	struct properties text[MACHINE_DISKS]; /* what the disks' strings point into */
	unsigned count;
};

/*
 * One "FILE[,format=…][,readonly][,snapshot][,if=virtio|ahci][,serial=…][,bootindex=N]", or for a CD "FILE[,…]", added
 * to machine->disk. Returns 0, or -EINVAL or -ENOMEM with error_text(). disk_options_free at the end in either case.
 */
int disk_options_add(struct disk_options *options, struct machine_config *machine, const char *text,
                     bool cdrom);
void disk_options_free(struct disk_options *options);

#endif

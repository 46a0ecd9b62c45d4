/* The options of virtio devices that are no disks and no network: --console, --share. */
#ifndef NESTOR_CONFIG_VIRTIO_OPTIONS_H
#define NESTOR_CONFIG_VIRTIO_OPTIONS_H

#include "machine/machine_config.h"
#include "util/properties.h"

struct share_options {
	struct properties text[MACHINE_SHARES]; /* what the shares' strings point into */
	unsigned count;
};

/* One --console WHERE more; text is borrowed. Returns 0, or -EINVAL with error_text(). */
int console_option(const char *text, struct machine_config *machine);

/*
 * One "DIR[,tag=NAME][,readonly][,copy-on-write]" more, added to machine->share. Returns 0, or -EINVAL or -ENOMEM with
 * error_text(). share_options_free at the end in either case.
 */
int share_options_add(struct share_options *options, struct machine_config *machine, const char *text);
void share_options_free(struct share_options *options);

#endif

/* The options of virtio devices that are no disks and no network: --console, --share. */
#ifndef NESTOR_CONFIG_VIRTIO_OPTIONS_H
#define NESTOR_CONFIG_VIRTIO_OPTIONS_H

struct machine_config;

/* One --console WHERE more; text is borrowed. Returns 0, or -EINVAL with error_text(). */
int console_option(const char *text, struct machine_config *machine);

#endif

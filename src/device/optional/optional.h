/*
 * Devices that a machine has only where --device asks for them. Each is a file with one create function and a row in
 * optional.c; docs/adding-a-device.md shows the way with edu.c.
 */
#ifndef NESTOR_DEVICE_OPTIONAL_H
#define NESTOR_DEVICE_OPTIONAL_H

#include <stdio.h>

struct machine;
struct properties;

/* What --device knows, one line each. Returns 0, or EOF where it cannot be written. */
int optional_devices_list(FILE *out);

/* Creates what config.device[] asks for. Returns 0, or a negative errno with error_text(). */
int optional_devices_create(struct machine *machine);

/*
 * Each creates its device from its options (the words after its name; it takes those it knows with properties_get and
 * its like), claims its addresses and registers it. Return 0, or a negative errno with error_text().
 */
int edu_create(struct machine *machine, struct properties *options);
int pc_testdev_create(struct machine *machine, struct properties *options);
int pvpanic_create(struct machine *machine, struct properties *options);
int pvpanic_pci_create(struct machine *machine, struct properties *options);

#endif

/* The options of firmware: --firmware, --firmware-vars, --fw-cfg, --debug-port, --uuid. Internal to config/. */
#ifndef NESTOR_CONFIG_FIRMWARE_OPTIONS_H
#define NESTOR_CONFIG_FIRMWARE_OPTIONS_H

#include "config/options.h"

/* Each takes its option's value into *options. Return 0, or a negative errno with error_text(). */
int firmware_option(struct options *options, const char *value);
int firmware_vars_option(struct options *options, const char *value);
int fw_cfg_option(struct options *options, const char *value);
int debug_port_option(struct options *options, const char *value);
int uuid_option(struct options *options, const char *value);

/*
 * After all options: a machine with disks and no kernel starts by the BIOS; names become the files of Debian's
 * packages. Returns 0, or a negative errno with error_text().
 */
int firmware_options_finish(struct options *options);
void firmware_options_free(struct options *options);

#endif

/* The options of the screen: --vga and --vnc. Internal to config/. */
#ifndef NESTOR_CONFIG_DISPLAY_OPTIONS_H
#define NESTOR_CONFIG_DISPLAY_OPTIONS_H

#include <stdbool.h>

struct machine_config;

struct display_options {
	bool vga_given;
	struct properties *vnc; /* owned: what machine_config's strings point into, or NULL */
};

/* Each takes its option's value. Return 0, or a negative errno with error_text(). */
int display_options_vga(struct display_options *options, struct machine_config *machine, const char *text);
int display_options_vnc(struct display_options *options, struct machine_config *machine, const char *text);

/* After all options: who boots firmware or wants VNC has a VGA. Returns 0, or -EINVAL with error_text(). */
int display_options_finish(const struct display_options *options, struct machine_config *machine);
void display_options_free(struct display_options *options);

#endif

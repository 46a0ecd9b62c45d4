/* --net. */
#ifndef NESTOR_CONFIG_NET_OPTIONS_H
#define NESTOR_CONFIG_NET_OPTIONS_H

#include "machine/machine_config.h"

/*
 * One --net: adds a card to machine, or takes all away ("none", which sets *none; it excludes other cards).
 * Returns 0, or a negative errno with error_text().
 */
int net_options_parse(struct machine_config *machine, const char *text, bool *none);

/* The card of a machine that was given none: user mode; nothing where this build has no library for it. */
void net_options_default(struct machine_config *machine);

#endif

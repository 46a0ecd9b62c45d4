/* The usual loader: what machine_config names, put into memory by boot/. */
#ifndef NESTOR_MACHINE_LOAD_H
#define NESTOR_MACHINE_LOAD_H

struct machine;

/*
 * A machine_loader (context unused): loads config.kernel, initrd and modules, fills the tables and fw_cfg,
 * and sets vCPU 0's state. Returns 0, or a negative errno with error_text().
 */
int machine_load_guest(struct machine *machine, void *context);

#endif

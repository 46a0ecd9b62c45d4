/* The usual loader: what machine_config names, put into memory by boot/. */
#ifndef NESTOR_MACHINE_LOAD_H
#define NESTOR_MACHINE_LOAD_H

struct machine;

struct boot_fw_cfg;
struct boot_request;

/*
 * A machine_loader (context unused): loads config.kernel, initrd and modules, fills the tables and fw_cfg,
 * and sets vCPU 0's state. Returns 0, or a negative errno with error_text().
 */
int machine_load_guest(struct machine *machine, void *context);

/* For load.c: firmware starts the guest. Returns 0, or a negative errno with error_text(). */
int machine_load_firmware(struct machine *machine, const struct boot_request *request);
/* Puts the list's items, and the user's own, into fw_cfg. Returns 0, or a negative errno with error_text(). */
int machine_fill_fw_cfg(struct machine *machine, const struct boot_fw_cfg *list);

#endif

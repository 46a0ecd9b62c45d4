/*
 * The memory from C0000h to FFFFFh, where a PC's chipset chooses for each part whether reads and writes go to RAM or to
 * the firmware's ROM: the programmable attribute map (PAM) of the host bridge. All under the machine lock.
 */
#ifndef NESTOR_DEVICE_SHADOW_H
#define NESTOR_DEVICE_SHADOW_H

#include <stdint.h>

struct machine;

#define SHADOW_REGISTERS 7 /* PAM0 … PAM6 */

/*
 * The host bridge's registers are now pam[0] … pam[6] (Intel 3 Series Chipset Family data sheet, "PAM0" and on). Nothing
 * where no firmware is loaded: then all is RAM.
 */
void shadow_set(struct machine *machine, const uint8_t pam[SHADOW_REGISTERS]);

/* The firmware's ROM ends at 1 MiB, too: its last 128 KiB at most. For firmware_rom.c; host: page aligned. */
void shadow_set_rom(struct machine *machine, uint8_t *host, uint32_t size);

#endif

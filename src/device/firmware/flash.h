/*
 * A NOR flash chip by Intel's command set (Common Flash Interface, command set 1), as UEFI firmware keeps its
 * variables in. The chip's contents are also in a file, if there is one. All under the machine lock.
 */
#ifndef NESTOR_DEVICE_FLASH_H
#define NESTOR_DEVICE_FLASH_H

#include <stdint.h>

struct machine;

#define FLASH_BLOCK 4096u /* what one command erases */

/*
 * A chip at gpa. contents: page-aligned memory of size bytes, a multiple of FLASH_BLOCK, which must live as long as the
 * machine; fd: the file that follows it, owned by the flash from now on (also where creation fails), or -1. Returns 0,
 * or a negative errno with error_text().
 */
int flash_create(struct machine *machine, uint64_t gpa, uint8_t *contents, uint32_t size, int fd);

#endif

/* The discs of CD drives, as somebody in front of the machine changes them. */
#ifndef NESTOR_DEVICE_CDROM_H
#define NESTOR_DEVICE_CDROM_H

#include <stdbool.h>
#include <stdint.h>

struct machine;

/*
 * Changes the disc of the drive machine_config.disk[index], or of the only CD drive where index is CDROM_ONLY. file:
 * the new disc's, or NULL: the drive is left open and empty. format: NULL to find out. Where the guest has locked the
 * drive it is asked to let go of the disc, and the error is -EBUSY, unless `force` is set. The old disc stays where there
 * is an error. Waits for commands under way. No lock held; one thread at a time. Returns 0, or a negative errno with
 * error_text().
 */
#define CDROM_ONLY UINT32_MAX
int cdrom_change(struct machine *machine, unsigned index, const char *file, const char *format, bool force);

struct cdrom_status {
	const char *file, *format; /* of the disc; file NULL: none. Valid until the next cdrom_change */
	bool open, locked;
};

/* False where machine_config.disk[index] is no CD drive. No lock held. */
bool cdrom_status(struct machine *machine, unsigned index, struct cdrom_status *status);

/* Returns 0, or -EINVAL with error_text() where a file of `size` bytes is no disc. */
int cdrom_check_size(const char *file, uint64_t size);

#endif

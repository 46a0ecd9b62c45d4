/* Who has which part of guest RAM while a guest is put there. Nothing is written before its place is claimed.
 */
#ifndef NESTOR_BOOT_LAYOUT_H
#define NESTOR_BOOT_LAYOUT_H

#include "util/guest_memory.h"

#define LAYOUT_CLAIMS 192

struct boot_layout {
	const struct guest_memory *memory; /* borrowed */
	struct {
		uint64_t start, end;
		const char *what;
	} claim[LAYOUT_CLAIMS];
	unsigned count;
};

/*
 * Claims [gpa, gpa + size) for `what` (a phrase for messages, borrowed) of the file `name`. Returns 0,
 * -ENOMEM where it is not all RAM, or -EINVAL where it overlaps an earlier claim; error_text() says with
 * which.
 */
int layout_claim(struct boot_layout *layout, const char *name, const char *what, uint64_t gpa, uint64_t size);

/*
 * Finds and claims size bytes in [min, max), aligned (a power of two): the highest place where `high`, else
 * the lowest. Returns 0 with *gpa, or -ENOMEM with error_text().
 */
int layout_find(struct boot_layout *layout, const char *name, const char *what, uint64_t size, uint64_t align,
                uint64_t min, uint64_t max, bool high, uint64_t *gpa);

/* Host address of a claimed range; never NULL for one that was claimed. */
static inline uint8_t *layout_host(const struct boot_layout *layout, uint64_t gpa, uint64_t size)
{
	return guest_memory_host(layout->memory, GPA(gpa), size);
}

#endif

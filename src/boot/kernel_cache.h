/*
 * Unpacked kernels, kept between runs: unpacking one is nearly all of the time to a guest's first line.
 *
 * A folder holds a few files, one per kernel, named by the packed payload's CRC32 and size. A file has the
 * payload itself in it, and is taken only where that is the same byte by byte and the unpacked image has the
 * CRC32 that it was kept with. Files appear whole (by renaming), so that any number of processes may use one
 * folder; what is damaged or foreign in it is passed over, and nothing that goes wrong here is an error of
 * the run.
 */
#ifndef NESTOR_BOOT_KERNEL_CACHE_H
#define NESTOR_BOOT_KERNEL_CACHE_H

#include <stdbool.h>

#include "boot/file.h"

#define KERNEL_CACHE_FILES 4

/* Looks for the image of `expected` bytes that payload unpacks to. Returns true with *out, which the caller
 * frees. */
bool kernel_cache_find(struct boot_file *out, const char *folder, const struct boot_file *payload,
                       uint64_t expected);

/* Keeps it; the folder, and the one that it is in, are made where they are missing. More files than fit: the
 * one unused for longest goes. */
void kernel_cache_keep(const char *folder, const struct boot_file *payload, const struct boot_file *image);

#endif

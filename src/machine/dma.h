/*
 * How devices reach guest RAM. Addresses and sizes come from guests: every function bounds them. A device must
 * tell of what it stores (dma_write does; after storing through dma_host it calls dma_written) BEFORE it lets
 * the guest see that the transfer is complete, because the range may hold code that the engine has translated.
 */
#ifndef NESTOR_MACHINE_DMA_H
#define NESTOR_MACHINE_DMA_H

#include <stddef.h>
#include <stdint.h>

struct machine;

/*
 * Copy between a device's buffer and guest-physical memory at gpa; size: bytes. Return 0, or -EFAULT where not
 * all of [gpa, gpa + size) is RAM (or, for dma_write, where some is ROM); nothing is copied then. [any thread,
 * machine lock held or not]
 */
int dma_read(struct machine *machine, uint64_t gpa, void *to, size_t size);
int dma_write(struct machine *machine, uint64_t gpa, const void *from, size_t size);

/*
 * Host address of [gpa, gpa + size), for transfers without a copy; NULL where it is not all writable RAM of one
 * slot. It stays valid until the machine is destroyed. [any]
 */
void *dma_host(struct machine *machine, uint64_t gpa, size_t size);

/* The device has stored into [gpa, gpa + size). [any, machine lock held or not] */
void dma_written(struct machine *machine, uint64_t gpa, size_t size);

#endif

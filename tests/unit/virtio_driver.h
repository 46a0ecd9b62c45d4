/*
 * A driver of virtio devices on PCI for tests, written from the specification ("Virtio Over PCI Bus"): finds
 * the device by its IDs, its structures by its capabilities, and goes through "Device Initialization". Queues
 * are queue_driver.h's.
 */
#ifndef NESTOR_TESTS_VIRTIO_DRIVER_H
#define NESTOR_TESTS_VIRTIO_DRIVER_H

#include "machine_fixture.h"
#include "packed_driver.h"

#define FEATURE_INDIRECT  (UINT64_C(1) << 28)
#define FEATURE_EVENT_IDX (UINT64_C(1) << 29)
#define FEATURE_VERSION_1 (UINT64_C(1) << 32)

struct virtio_driver {
	struct machine *machine;
	unsigned slot;
	uint64_t common, notify, isr, config; /* guest-physical; config 0: none */
	unsigned notify_multiplier,
	    pci_window;  /* pci_window: the capability's place in configuration space */
	uint16_t legacy; /* port, 0: none */
	uint64_t msix_table;
};

static inline uint32_t pci_read(struct machine *machine, unsigned slot, unsigned offset, unsigned size)
{
	out(machine, 0xcf8, 4, 0x80000000u | slot << 11 | (offset & 0xfc));
	return in(machine, (uint16_t)(0xcfc + (offset & 3)), size);
}

static inline void pci_write(struct machine *machine, unsigned slot, unsigned offset, unsigned size,
                             uint32_t value)
{
	out(machine, 0xcf8, 4, 0x80000000u | slot << 11 | (offset & 0xfc));
	out(machine, (uint16_t)(0xcfc + (offset & 3)), size, value);
}

static inline uint64_t bar_address(struct machine *machine, unsigned slot, unsigned bar)
{
	uint32_t low = pci_read(machine, slot, 0x10 + 4 * bar, 4);

	if (low & 1)
		return low & ~3u;
	return (low & ~15u) | (low & 4 ? (uint64_t)pci_read(machine, slot, 0x14 + 4 * bar, 4) << 32 : 0);
}

static inline void read_capability(struct virtio_driver *v, unsigned at)
{
	unsigned id = pci_read(v->machine, v->slot, at, 1), type = pci_read(v->machine, v->slot, at + 3, 1);
	unsigned bar = pci_read(v->machine, v->slot, at + 4, 1);
	uint64_t address;

	if (id == 0x11)
		v->msix_table =
		    bar_address(v->machine, v->slot, pci_read(v->machine, v->slot, at + 4, 4) & 7) +
		    (pci_read(v->machine, v->slot, at + 4, 4) & ~7u);
	if (id != 0x09)
		return;
	address = bar_address(v->machine, v->slot, bar) + pci_read(v->machine, v->slot, at + 8, 4);
	if (type == 1)
		v->common = address;
	else if (type == 2) {
		v->notify = address;
		v->notify_multiplier = pci_read(v->machine, v->slot, at + 16, 4);
	} else if (type == 3)
		v->isr = address;
	else if (type == 4)
		v->config = address;
	else if (type == 5)
		v->pci_window = at;
}

/* Finds the first device with this PCI device ID from a slot on; false where there is none. */
static inline bool virtio_find_from(struct virtio_driver *v, struct machine *machine, uint16_t device,
                                    unsigned slot)
{
	*v = (struct virtio_driver){.machine = machine};
	for (v->slot = slot; v->slot < 32; v->slot++)
		if (pci_read(machine, v->slot, 0, 4) == (0x1af4u | (uint32_t)device << 16))
			break;
	if (v->slot == 32)
		return false;
	for (unsigned at = pci_read(machine, v->slot, 0x34, 1); at;
	     at = pci_read(machine, v->slot, at + 1, 1))
		read_capability(v, at);
	if (pci_read(machine, v->slot, 0x10, 4) & 1)
		v->legacy = (uint16_t)bar_address(machine, v->slot, 0);
	pci_write(machine, v->slot, 4, 2, 7);
	return true;
}

static inline bool virtio_find(struct virtio_driver *v, struct machine *machine, uint16_t device)
{
	return virtio_find_from(v, machine, device, 0);
}

static inline uint32_t common(struct virtio_driver *v, unsigned offset, unsigned size)
{
	return (uint32_t)load(v->machine, v->common + offset, size);
}

static inline void set_common(struct virtio_driver *v, unsigned offset, unsigned size, uint32_t value)
{
	store(v->machine, v->common + offset, size, value);
}

static inline uint64_t virtio_features(struct virtio_driver *v)
{
	uint64_t low;

	set_common(v, 0, 4, 0);
	low = common(v, 4, 4);
	set_common(v, 0, 4, 1);
	return low | (uint64_t)common(v, 4, 4) << 32;
}

/* What a driver that knows split queues only takes of them. */
static inline uint64_t virtio_split_features(struct virtio_driver *v)
{
	return virtio_features(v) & ~FEATURE_PACKED;
}

/* Reset, ACKNOWLEDGE, DRIVER, features, FEATURES_OK. Returns whether the device took them. */
static inline bool virtio_negotiate(struct virtio_driver *v, uint64_t features)
{
	set_common(v, 0x14, 1, 0);
	assert(common(v, 0x14, 1) == 0);
	set_common(v, 0x14, 1, 1);
	set_common(v, 0x14, 1, 3);
	for (unsigned i = 0; i < 2; i++) {
		set_common(v, 8, 4, i);
		set_common(v, 12, 4, (uint32_t)(features >> (32 * i)));
	}
	set_common(v, 0x14, 1, 11);
	return common(v, 0x14, 1) == 11;
}

static inline void virtio_enable_queue(struct virtio_driver *v, unsigned index, unsigned size, uint64_t desc,
                                       uint64_t driver_area, uint64_t device_area)
{
	set_common(v, 0x16, 2, index);
	set_common(v, 0x18, 2, size);
	assert(common(v, 0x18, 2) == size);
	for (unsigned i = 0; i < 2; i++) {
		set_common(v, 0x20 + 4 * i, 4, (uint32_t)(desc >> (32 * i)));
		set_common(v, 0x28 + 4 * i, 4, (uint32_t)(driver_area >> (32 * i)));
		set_common(v, 0x30 + 4 * i, 4, (uint32_t)(device_area >> (32 * i)));
	}
	set_common(v, 0x1c, 2, 1);
}

/* Sets up queue `index` with `size` entries at gpa. */
static inline void virtio_queue(struct virtio_driver *v, struct queue_driver *q, unsigned index,
                                unsigned size, uint64_t gpa)
{
	queue_driver_init(q, v->machine, size, gpa);
	virtio_enable_queue(v, index, size, q->desc, q->avail, q->used);
}

/* The same where packed queues were negotiated. */
static inline void virtio_packed_queue(struct virtio_driver *v, struct packed_driver *q, unsigned index,
                                       unsigned size, uint64_t gpa)
{
	packed_init(q, v->machine, size, gpa);
	virtio_enable_queue(v, index, size, q->ring, q->driver_event, q->device_event);
}

static inline void virtio_start(struct virtio_driver *v)
{
	set_common(v, 0x14, 1, 15);
}

static inline void virtio_kick(struct virtio_driver *v, unsigned index)
{
	set_common(v, 0x16, 2, index);
	store(v->machine, v->notify + common(v, 0x1e, 2) * v->notify_multiplier, 2, index);
}

#endif

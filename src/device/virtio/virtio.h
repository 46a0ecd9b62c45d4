/*
 * Virtio devices on PCI. A device fills a struct virtio_setup, calls virtio_create with a struct
 * virtio_device inside its own state, adds its queues, and ends with virtio_add; transport (modern and
 * legacy), feature negotiation, interrupts and resets are done here. Everything runs under the machine lock.
 * Rules: Virtual I/O Device (VIRTIO) Version 1.2, "Virtio Over PCI Bus" with its legacy interface.
 */
#ifndef NESTOR_DEVICE_VIRTIO_H
#define NESTOR_DEVICE_VIRTIO_H

#include <stdbool.h>
#include <stdint.h>

#include "device/pci/pci.h"
#include "device/virtio/virtqueue.h"
#include "machine/timer.h"

#define VIRTIO_QUEUES_MAX 32
#define VIRTIO_CONFIG_MAX 256

/* Device types ("Device Types"). */
#define VIRTIO_ID_NET     1
#define VIRTIO_ID_BLOCK   2
#define VIRTIO_ID_CONSOLE 3
#define VIRTIO_ID_RNG     4
#define VIRTIO_ID_9P      9
#define VIRTIO_ID_INPUT   18

/* Feature bits of all devices; all are virtio.c's to offer. */
#define VIRTIO_F_INDIRECT_DESC (UINT64_C(1) << 28)
#define VIRTIO_F_EVENT_IDX     (UINT64_C(1) << 29)
#define VIRTIO_F_VERSION_1     (UINT64_C(1) << 32)
#define VIRTIO_F_ANY_LAYOUT    (UINT64_C(1) << 27)
#define VIRTIO_F_RING_PACKED   (UINT64_C(1) << 34)

/* Device status ("Device Status Field"). */
#define VIRTIO_STATUS_ACKNOWLEDGE 0x01
#define VIRTIO_STATUS_DRIVER      0x02
#define VIRTIO_STATUS_DRIVER_OK   0x04
#define VIRTIO_STATUS_FEATURES_OK 0x08
#define VIRTIO_STATUS_NEEDS_RESET 0x40
#define VIRTIO_STATUS_FAILED      0x80

#define VIRTIO_NO_VECTOR 0xffff

struct machine;

/* Callbacks of a device, all under the machine lock. Any may be NULL. */
struct virtio_ops {
	/* The driver is ready (DRIVER_OK): virtio_has says what was negotiated. Then every queue's notified
	 * is called. */
	void (*start)(void *device);
	/*
	 * A reset by the driver or the machine, before the queues are reset: what is under way must not touch
	 * guest memory any more when it returns. (Chains that were popped may still be pushed later; that has
	 * no effect.)
	 */
	void (*reset)(void *device);
	/* The driver wrote [offset, offset + size) of the configuration; the device changes virtio->config as
	 * it sees fit. NULL: read-only. */
	void (*config_write)(void *device, unsigned offset, unsigned size, uint32_t value);
	/* Frees the device; no thread of a vCPU or of the event loop runs any more. */
	void (*destroy)(void *device);
};

struct virtio_setup {
	const char *name;    /* of this instance, for messages; borrowed */
	unsigned type;       /* VIRTIO_ID_* */
	uint32_t class_code; /* PCI's: base class << 16 | subclass << 8 */
	bool modern_only;  /* no legacy interface; else transitional, where the type has a transitional ID */
	uint64_t features; /* the device's own bits that it offers */
	void *rom;         /* the expansion ROM, page-aligned, or NULL; owned by the device */
	size_t rom_size;   /* a power of two */
	unsigned config_size; /* bytes of virtio->config, at most VIRTIO_CONFIG_MAX */
	const struct virtio_ops *ops;
	void *device; /* first argument of all callbacks */
};

struct virtio_device {
	struct pci_function pci;
	struct machine *machine;
	struct virtio_setup setup;
	/* What the driver reads as device-specific configuration, little-endian: the device fills it. */
	uint8_t config[VIRTIO_CONFIG_MAX];
	struct virtqueue queue[VIRTIO_QUEUES_MAX];
	unsigned queue_count;

	/* ---- virtio's own ---- */
	uint8_t status, isr, config_generation;
	uint16_t config_vector;
	bool legacy; /* the driver uses the legacy interface (until the next reset) */
	bool failed_told;
	uint64_t driver_features;
	uint32_t feature_select, driver_feature_select;
	uint16_t queue_select;
	unsigned config_capability; /* VIRTIO_PCI_CAP_PCI_CFG's place in configuration space */
	struct machine_timer again; /* virtio_continue */
};

/* Fills *virtio. machine, setup's pointers: borrowed. Then come the queues. */
void virtio_create(struct virtio_device *virtio, struct machine *machine, const struct virtio_setup *setup);

/*
 * Adds the next queue. size: the most that it can have, a power of two up to VIRTQUEUE_SIZE_MAX. notified:
 * see struct virtqueue. At most VIRTIO_QUEUES_MAX.
 */
struct virtqueue *virtio_add_queue(struct virtio_device *virtio, unsigned size,
                                   void (*notified)(void *device, struct virtqueue *queue));

/*
 * Puts the device on the PCI bus and registers it with the machine, which from then on calls ops->reset and
 * ops->destroy. slot: as pci_add. Returns 0, or a negative errno with error_text(); the caller then frees its
 * state.
 */
int virtio_add(struct virtio_device *virtio, uint8_t slot);

/* Was the feature (a VIRTIO_F_* or the device's own bit, as a mask) negotiated? */
bool virtio_has(const struct virtio_device *virtio, uint64_t feature);

/* Does the driver let the device work (DRIVER_OK, or a legacy driver that has set up its queues; no failure)?
 */
bool virtio_running(const struct virtio_device *virtio);

/* The device has changed virtio->config: tells the driver. */
void virtio_config_changed(struct virtio_device *virtio);

/* The driver broke the rules: the device stops and asks for a reset. why: for the trace. */
void virtio_fail(struct virtio_device *virtio, const char *why);

/* Calls notified of all queues again, soon, in another hold of the lock: virtqueue_pop's. */
void virtio_continue(struct virtio_device *virtio);

/* Interrupts the driver for a queue: virtqueue_notify's. */
void virtio_interrupt(struct virtio_device *virtio, uint16_t vector);

/* Little-endian fields of virtio->config. */
void virtio_put16(uint8_t *at, uint16_t value);
void virtio_put32(uint8_t *at, uint32_t value);
void virtio_put64(uint8_t *at, uint64_t value);

#endif

/* What virtio.c offers the transport, virtio_pci.c. All under the machine lock. */
#ifndef NESTOR_DEVICE_VIRTIO_TRANSPORT_H
#define NESTOR_DEVICE_VIRTIO_TRANSPORT_H

#include "device/virtio/virtio.h"

#define VIRTIO_ISR_QUEUE  1
#define VIRTIO_ISR_CONFIG 2

/* The features that the device offers through its modern or legacy interface. */
uint64_t virtio_offered(const struct virtio_device *virtio, bool legacy);

/* The driver writes its features (a mask of those that it takes), the status (0: a reset), the configuration.
 */
void virtio_set_features(struct virtio_device *virtio, uint64_t features);
void virtio_set_status(struct virtio_device *virtio, uint8_t status);
uint32_t virtio_config_read(const struct virtio_device *virtio, unsigned offset, unsigned size);
void virtio_config_write(struct virtio_device *virtio, unsigned offset, unsigned size, uint32_t value);

/* The queue that queue_select chooses, or NULL. */
struct virtqueue *virtio_selected(struct virtio_device *virtio);
/* The driver has notified queue `index`. */
void virtio_notified(struct virtio_device *virtio, unsigned index);
/* The interrupt vector as the driver may set it: VIRTIO_NO_VECTOR where there is no such one. */
uint16_t virtio_vector(const struct virtio_device *virtio, uint16_t vector);

/* Reads and clears the ISR status; lowers the interrupt line. */
uint8_t virtio_take_isr(struct virtio_device *virtio);

/* virtio_pci.c: the PCI function with its BARs and capabilities. Returns as pci_add. */
int virtio_pci_add(struct virtio_device *virtio, uint8_t slot);

#endif

#include "device/virtio/virtio.h"

#include <assert.h>
#include <endian.h>
#include <stdio.h>
#include <string.h>

#include "device/virtio/virtio_transport.h"
#include "machine/machine.h"

void virtio_put16(uint8_t *at, uint16_t value)
{
	value = htole16(value);
	memcpy(at, &value, sizeof(value));
}

void virtio_put32(uint8_t *at, uint32_t value)
{
	value = htole32(value);
	memcpy(at, &value, sizeof(value));
}

void virtio_put64(uint8_t *at, uint64_t value)
{
	value = htole64(value);
	memcpy(at, &value, sizeof(value));
}

/* ---- features and status ---- */

uint64_t virtio_offered(const struct virtio_device *virtio, bool legacy)
{
	uint64_t features = virtio->setup.features | VIRTIO_F_INDIRECT_DESC | VIRTIO_F_EVENT_IDX;

	if (legacy)
		return (features | VIRTIO_F_ANY_LAYOUT) & UINT32_MAX;
	if (!(virtio->machine->config.tune_off & ENGINE_TUNE_PACKED_RINGS))
		features |= VIRTIO_F_RING_PACKED;
	return features | VIRTIO_F_VERSION_1;
}

bool virtio_has(const struct virtio_device *virtio, uint64_t feature)
{
	return virtio->driver_features & feature;
}

void virtio_set_features(struct virtio_device *virtio, uint64_t features)
{
	if (!(virtio->status & (VIRTIO_STATUS_FEATURES_OK | VIRTIO_STATUS_DRIVER_OK)))
		virtio->driver_features = features;
}

/* "Device Initialization": would the device work with what the driver chose? */
static bool features_fit(const struct virtio_device *virtio)
{
	return !(virtio->driver_features & ~virtio_offered(virtio, virtio->legacy)) &&
	       (virtio->legacy || virtio_has(virtio, VIRTIO_F_VERSION_1));
}

bool virtio_running(const struct virtio_device *virtio)
{
	if (virtio->status & VIRTIO_STATUS_NEEDS_RESET)
		return false;
	/* Legacy drivers use their queues before DRIVER_OK, and some do not make the device a bus master. */
	return virtio->legacy || (virtio->status & VIRTIO_STATUS_DRIVER_OK && pci_is_master(&virtio->pci));
}

static void reset(struct virtio_device *virtio)
{
	if (virtio->setup.ops->reset)
		virtio->setup.ops->reset(virtio->setup.device);
	for (unsigned i = 0; i < virtio->queue_count; i++)
		virtqueue_reset(&virtio->queue[i]);
	virtio->status = virtio->isr = 0;
	virtio->config_vector = VIRTIO_NO_VECTOR;
	virtio->legacy = virtio->failed_told = false;
	virtio->driver_features = 0;
	virtio->feature_select = virtio->driver_feature_select = 0;
	virtio->queue_select = 0;
	timer_cancel(&virtio->again);
	pci_set_intx(&virtio->pci, false);
}

/* Not more than a queue holds at once: a guest that adds while the device works waits for the next time. */
static void notify_device(struct virtio_device *virtio, struct virtqueue *queue)
{
	if (!queue->enabled || !queue->notified || !virtio_running(virtio))
		return;
	queue->limited = true;
	queue->budget = queue->size;
	queue->notified(virtio->setup.device, queue);
	queue->limited = false;
}

static void notify_all(void *context)
{
	struct virtio_device *virtio = context;

	for (unsigned i = 0; i < virtio->queue_count; i++)
		notify_device(virtio, &virtio->queue[i]);
}

void virtio_continue(struct virtio_device *virtio)
{
	timer_arm(&virtio->again, machine_now(virtio->machine));
}

void virtio_set_status(struct virtio_device *virtio, uint8_t status)
{
	uint8_t old = virtio->status, added;

	if (status == 0) {
		reset(virtio);
		return;
	}
	/* Bits go with a reset only; the device alone asks for one. */
	added = status & ~old & ~VIRTIO_STATUS_NEEDS_RESET;
	if (added & VIRTIO_STATUS_FEATURES_OK && !features_fit(virtio))
		added &= ~VIRTIO_STATUS_FEATURES_OK;
	virtio->status |= added;
	if (added & VIRTIO_STATUS_DRIVER_OK && !virtio->legacy &&
	    !(virtio->status & VIRTIO_STATUS_FEATURES_OK)) {
		virtio->status &= ~VIRTIO_STATUS_DRIVER_OK;
		return;
	}
	if (!(added & VIRTIO_STATUS_DRIVER_OK))
		return;
	if (virtio->setup.ops->start)
		virtio->setup.ops->start(virtio->setup.device);
	notify_all(virtio);
}

/* ---- configuration ---- */

uint32_t virtio_config_read(const struct virtio_device *virtio, unsigned offset, unsigned size)
{
	uint32_t value = 0;

	for (unsigned i = 0; i < size; i++)
		if (offset + i < virtio->setup.config_size)
			value |= (uint32_t)virtio->config[offset + i] << (8 * i);
	return value;
}

void virtio_config_write(struct virtio_device *virtio, unsigned offset, unsigned size, uint32_t value)
{
	if (virtio->setup.ops->config_write && offset + size <= virtio->setup.config_size)
		virtio->setup.ops->config_write(virtio->setup.device, offset, size, value);
}

/* ---- interrupts ---- */

uint16_t virtio_vector(const struct virtio_device *virtio, uint16_t vector)
{
	return vector < virtio->pci.msix_count ? vector : VIRTIO_NO_VECTOR;
}

static void interrupt(struct virtio_device *virtio, uint16_t vector, uint8_t isr)
{
	if (pci_msix_enabled(&virtio->pci)) {
		if (vector != VIRTIO_NO_VECTOR)
			pci_send_msix(&virtio->pci, vector);
		return;
	}
	virtio->isr |= isr;
	pci_set_intx(&virtio->pci, true);
}

void virtio_interrupt(struct virtio_device *virtio, uint16_t vector)
{
	interrupt(virtio, vector, VIRTIO_ISR_QUEUE);
}

void virtio_config_changed(struct virtio_device *virtio)
{
	virtio->config_generation++;
	if (virtio->status & VIRTIO_STATUS_DRIVER_OK)
		interrupt(virtio, virtio->config_vector, VIRTIO_ISR_CONFIG);
}

uint8_t virtio_take_isr(struct virtio_device *virtio)
{
	uint8_t isr = virtio->isr;

	virtio->isr = 0;
	pci_set_intx(&virtio->pci, false);
	return isr;
}

void virtio_fail(struct virtio_device *virtio, const char *why)
{
	if (virtio->machine->config.trace && !virtio->failed_told)
		fprintf(stderr, "%s: %s; it waits for a reset\n", virtio->setup.name, why);
	virtio->failed_told = true;
	if (virtio->status & VIRTIO_STATUS_NEEDS_RESET)
		return;
	virtio->status |= VIRTIO_STATUS_NEEDS_RESET;
	virtio_config_changed(virtio);
}

/* ---- queues ---- */

struct virtqueue *virtio_selected(struct virtio_device *virtio)
{
	return virtio->queue_select < virtio->queue_count ? &virtio->queue[virtio->queue_select] : NULL;
}

void virtio_notified(struct virtio_device *virtio, unsigned index)
{
	if (index < virtio->queue_count)
		notify_device(virtio, &virtio->queue[index]);
}

/* ---- creation ---- */

void virtio_create(struct virtio_device *virtio, struct machine *machine, const struct virtio_setup *setup)
{
	assert(setup->config_size <= VIRTIO_CONFIG_MAX);
	memset(virtio, 0, sizeof(*virtio));
	virtio->machine = machine;
	virtio->setup = *setup;
	virtio->config_vector = VIRTIO_NO_VECTOR;
}

struct virtqueue *virtio_add_queue(struct virtio_device *virtio, unsigned size,
                                   void (*notified)(void *device, struct virtqueue *queue))
{
	struct virtqueue *queue = &virtio->queue[virtio->queue_count];

	assert(virtio->queue_count < VIRTIO_QUEUES_MAX && size <= VIRTQUEUE_SIZE_MAX && !(size & (size - 1)));
	queue->virtio = virtio;
	queue->index = virtio->queue_count++;
	queue->notified = notified;
	queue->size_max = (uint16_t)size;
	virtqueue_reset(queue);
	return queue;
}

static void machine_reset(void *state)
{
	struct virtio_device *virtio = state;

	reset(virtio);
	pci_reset(&virtio->pci);
}

static void machine_destroyed(void *state)
{
	struct virtio_device *virtio = state;

	if (virtio->setup.ops->destroy)
		virtio->setup.ops->destroy(virtio->setup.device);
}

int virtio_add(struct virtio_device *virtio, uint8_t slot)
{
	struct machine *machine = virtio->machine;
	int error = timer_init(&virtio->again, &machine->timers, notify_all, virtio);

	if (!error)
		error =
		    machine_add_device(machine, virtio->setup.name, virtio, machine_reset, machine_destroyed);
	if (error)
		return error;
	error = virtio_pci_add(virtio, slot);
	if (error)
		machine->device_count--; /* the caller frees it */
	return error;
}

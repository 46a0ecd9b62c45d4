/*
 * Virtio's PCI transport. BAR 4 is the modern interface: common configuration, ISR status, device
 * configuration and notifications, each in a page; BAR 0 is the legacy one in ports; BAR 1 is MSI-X's. Rules:
 * VIRTIO 1.2, "PCI Device Layout" and "Legacy Interfaces: A Note on PCI Device Layout".
 */
#include <string.h>

#include "device/virtio/virtio_transport.h"
#include "machine/machine.h"

#define VENDOR            0x1af4
#define DEVICE_MODERN     0x1040 /* plus the type */
#define REVISION_MODERN   1
#define CAPABILITY_VENDOR 0x09

#define BAR_LEGACY  0
#define BAR_MSIX    1
#define BAR_MODERN  4
#define MODERN_SIZE 0x4000

/* "Virtio Structure PCI Capabilities" */
#define CAP_COMMON 1
#define CAP_NOTIFY 2
#define CAP_ISR    3
#define CAP_DEVICE 4
#define CAP_PCI    5
#define CAP_TYPE   3 /* offsets in a capability */
#define CAP_BAR    4
#define CAP_OFFSET 8
#define CAP_LENGTH 12
#define CAP_EXTRA  16 /* notify: multiplier; PCI access: data */
#define CAP_SIZE   16

#define PAGE_COMMON       0
#define PAGE_ISR          1
#define PAGE_DEVICE       2
#define PAGE_NOTIFY       3
#define NOTIFY_MULTIPLIER 4

/* "Common configuration structure layout" */
#define COMMON_DEVICE_FEATURE_SELECT 0x00
#define COMMON_DEVICE_FEATURE        0x04
#define COMMON_DRIVER_FEATURE_SELECT 0x08
#define COMMON_DRIVER_FEATURE        0x0c
#define COMMON_CONFIG_VECTOR         0x10 /* and num_queues */
#define COMMON_STATUS                0x14 /* config_generation, queue_select */
#define COMMON_CONFIG_GENERATION     0x15
#define COMMON_QUEUE_SELECT          0x16
#define COMMON_QUEUE_SIZE            0x18 /* and queue_msix_vector */
#define COMMON_QUEUE_VECTOR          0x1a
#define COMMON_QUEUE_ENABLE          0x1c /* and queue_notify_off */
#define COMMON_QUEUE_DESCRIPTOR      0x20
#define COMMON_QUEUE_DRIVER          0x28
#define COMMON_QUEUE_DEVICE          0x30
#define COMMON_SIZE                  0x38

/* "Legacy Interfaces: A Note on PCI Device Layout" */
#define LEGACY_DEVICE_FEATURES 0
#define LEGACY_DRIVER_FEATURES 4
#define LEGACY_QUEUE_PAGE      8
#define LEGACY_QUEUE_SIZE      12
#define LEGACY_QUEUE_SELECT    14
#define LEGACY_QUEUE_NOTIFY    16
#define LEGACY_STATUS          18
#define LEGACY_ISR             19
#define LEGACY_CONFIG_VECTOR                                                                                 \
	20 /* the vectors only while MSI-X is enabled: else the device's configuration                       \
	    */
#define LEGACY_QUEUE_VECTOR 22
#define LEGACY_HEADER       20
#define LEGACY_HEADER_MSIX  24
#define LEGACY_ALIGN        4096u

/* ---- the common configuration ---- */

static uint32_t queue_address(const struct virtqueue *queue, unsigned field)
{
	const uint64_t *gpa = field < COMMON_QUEUE_DRIVER   ? &queue->descriptor_gpa
	                      : field < COMMON_QUEUE_DEVICE ? &queue->available_gpa
	                                                    : &queue->used_gpa;

	return (uint32_t)(field & 4 ? *gpa >> 32 : *gpa);
}

/* A doubleword of the structure; reads have no side effects. A queue that does not exist reads as zeros. */
static uint32_t common_dword(struct virtio_device *virtio, unsigned field)
{
	static const struct virtqueue absent = {.vector = VIRTIO_NO_VECTOR};
	const struct virtqueue *queue = virtio_selected(virtio);

	if (!queue)
		queue = &absent;
	switch (field) {
	case COMMON_DEVICE_FEATURE_SELECT:
		return virtio->feature_select;
	case COMMON_DEVICE_FEATURE:
		return virtio->feature_select > 1
		           ? 0
		           : (uint32_t)(virtio_offered(virtio, false) >> (32 * virtio->feature_select));
	case COMMON_DRIVER_FEATURE_SELECT:
		return virtio->driver_feature_select;
	case COMMON_DRIVER_FEATURE:
		return virtio->driver_feature_select > 1
		           ? 0
		           : (uint32_t)(virtio->driver_features >> (32 * virtio->driver_feature_select));
	case COMMON_CONFIG_VECTOR:
		return virtio->config_vector | virtio->queue_count << 16;
	case COMMON_STATUS:
		return virtio->status | (uint32_t)virtio->config_generation << 8 |
		       (uint32_t)virtio->queue_select << 16;
	case COMMON_QUEUE_SIZE:
		return queue->size | (uint32_t)queue->vector << 16;
	case COMMON_QUEUE_ENABLE:
		return queue->enabled | queue->index << 16; /* queue_notify_off is the index */
	case COMMON_QUEUE_DESCRIPTOR ... COMMON_SIZE - 4:
		return queue_address(queue, field);
	default:
		return 0;
	}
}

static uint32_t common_read(struct virtio_device *virtio, unsigned offset)
{
	return common_dword(virtio, offset & ~3u) >> (8 * (offset & 3));
}

static void write_driver_feature(struct virtio_device *virtio, uint32_t value)
{
	unsigned shift = 32 * virtio->driver_feature_select;

	if (virtio->driver_feature_select > 1)
		return;
	virtio_set_features(virtio, (virtio->driver_features & ~((uint64_t)UINT32_MAX << shift)) |
	                                (uint64_t)value << shift);
}

static void write_queue_address(struct virtqueue *queue, unsigned field, uint32_t value)
{
	uint64_t *gpa = field < COMMON_QUEUE_DRIVER   ? &queue->descriptor_gpa
	                : field < COMMON_QUEUE_DEVICE ? &queue->available_gpa
	                                              : &queue->used_gpa;

	if (field & 4)
		*gpa = (*gpa & UINT32_MAX) | (uint64_t)value << 32;
	else
		*gpa = (*gpa & ~(uint64_t)UINT32_MAX) | value;
}

/* A queue's fields are the driver's until it enables the queue; its vector always is. */
static void write_queue(struct virtio_device *virtio, unsigned offset, unsigned size, uint32_t value)
{
	struct virtqueue *queue = virtio_selected(virtio);

	if (!queue)
		return;
	if (offset == COMMON_QUEUE_VECTOR && size == 2)
		queue->vector = virtio_vector(virtio, (uint16_t)value);
	if (queue->enabled)
		return;
	if (offset == COMMON_QUEUE_SIZE && size == 2) {
		/* Only a packed queue may have any size. */
		if (value && value <= queue->size_max &&
		    (!(value & (value - 1)) || virtio_has(virtio, VIRTIO_F_RING_PACKED)))
			queue->size = (uint16_t)value;
	} else if (offset == COMMON_QUEUE_ENABLE && size == 2) {
		queue->enabled = value == 1;
	} else if (offset >= COMMON_QUEUE_DESCRIPTOR && size == 4) {
		write_queue_address(queue, offset, value);
	}
}

static void common_write(struct virtio_device *virtio, unsigned offset, unsigned size, uint32_t value)
{
	switch (offset << 4 | size) {
	case COMMON_DEVICE_FEATURE_SELECT << 4 | 4:
		virtio->feature_select = value;
		break;
	case COMMON_DRIVER_FEATURE_SELECT << 4 | 4:
		virtio->driver_feature_select = value;
		break;
	case COMMON_DRIVER_FEATURE << 4 | 4:
		write_driver_feature(virtio, value);
		break;
	case COMMON_CONFIG_VECTOR << 4 | 2:
		virtio->config_vector = virtio_vector(virtio, (uint16_t)value);
		break;
	case COMMON_STATUS << 4 | 1:
		virtio_set_status(virtio, (uint8_t)value);
		break;
	case COMMON_QUEUE_SELECT << 4 | 2:
		virtio->queue_select = (uint16_t)value;
		break;
	default:
		if (offset >= COMMON_QUEUE_SIZE)
			write_queue(virtio, offset, size, value);
		break;
	}
}

/* ---- the modern BAR ---- */

static uint64_t modern_read(void *device, uint64_t offset, unsigned size)
{
	struct virtio_device *virtio = device;
	unsigned place = offset % PAGE_SIZE;
	uint32_t value = 0;

	switch (offset / PAGE_SIZE) {
	case PAGE_COMMON:
		value = place < COMMON_SIZE ? common_read(virtio, place) : 0;
		break;
	case PAGE_ISR:
		value = place == 0 ? virtio_take_isr(virtio) : 0;
		break;
	case PAGE_DEVICE:
		value = virtio_config_read(virtio, place, size);
		break;
	}
	return value & bus_ones(size);
}

static void modern_write(void *device, uint64_t offset, unsigned size, uint64_t value)
{
	struct virtio_device *virtio = device;
	unsigned place = offset % PAGE_SIZE;

	switch (offset / PAGE_SIZE) {
	case PAGE_COMMON:
		if (place < COMMON_SIZE)
			common_write(virtio, place, size, (uint32_t)value);
		break;
	case PAGE_DEVICE:
		virtio_config_write(virtio, place, size, (uint32_t)value);
		break;
	case PAGE_NOTIFY:
		virtio_notified(virtio, place / NOTIFY_MULTIPLIER);
		break;
	}
}

static const struct bus_ops modern_ops = {4, modern_read, modern_write};

/* ---- the legacy BAR ---- */

/* Legacy queues are one piece of memory, "Legacy Interfaces: A Note on Virtqueue Layout". */
static void set_queue_page(struct virtio_device *virtio, uint32_t page)
{
	struct virtqueue *queue = virtio_selected(virtio);
	uint64_t end;

	if (!queue)
		return;
	if (page == 0) {
		uint16_t vector = queue->vector;

		virtqueue_reset(queue);
		queue->vector = vector;
		return;
	}
	if (queue->enabled)
		return;
	queue->descriptor_gpa = (uint64_t)page * LEGACY_ALIGN;
	queue->available_gpa = queue->descriptor_gpa + 16 * (uint64_t)queue->size;
	end = queue->available_gpa + 6 + 2 * (uint64_t)queue->size;
	queue->used_gpa = (end + LEGACY_ALIGN - 1) & ~(uint64_t)(LEGACY_ALIGN - 1);
	queue->enabled = true;
}

static unsigned legacy_header(const struct virtio_device *virtio)
{
	return pci_msix_enabled(&virtio->pci) ? LEGACY_HEADER_MSIX : LEGACY_HEADER;
}

static uint32_t legacy_field(struct virtio_device *virtio, unsigned offset)
{
	const struct virtqueue *queue = virtio_selected(virtio);

	switch (offset) {
	case LEGACY_DEVICE_FEATURES:
		return (uint32_t)virtio_offered(virtio, true);
	case LEGACY_DRIVER_FEATURES:
		return (uint32_t)virtio->driver_features;
	case LEGACY_QUEUE_PAGE:
		return queue && queue->enabled ? (uint32_t)(queue->descriptor_gpa / LEGACY_ALIGN) : 0;
	case LEGACY_QUEUE_SIZE:
		return queue ? queue->size_max : 0;
	case LEGACY_QUEUE_SELECT:
		return virtio->queue_select;
	case LEGACY_STATUS:
		return virtio->status;
	case LEGACY_ISR:
		return virtio_take_isr(virtio);
	case LEGACY_CONFIG_VECTOR:
		return virtio->config_vector;
	case LEGACY_QUEUE_VECTOR:
		return queue ? queue->vector : VIRTIO_NO_VECTOR;
	default:
		return 0;
	}
}

static uint64_t legacy_read(void *device, uint64_t offset, unsigned size)
{
	struct virtio_device *virtio = device;
	unsigned header = legacy_header(virtio);

	if (offset >= header)
		return virtio_config_read(virtio, (unsigned)offset - header, size);
	return legacy_field(virtio, (unsigned)offset) & bus_ones(size);
}

/* A legacy driver is one that writes here; it cannot say that it is done with the features. */
static void legacy_status(struct virtio_device *virtio, uint8_t status)
{
	if (status)
		virtio->legacy = true;
	virtio_set_status(virtio, status);
}

static void legacy_write(void *device, uint64_t offset, unsigned size, uint64_t value)
{
	struct virtio_device *virtio = device;
	struct virtqueue *queue = virtio_selected(virtio);
	unsigned header = legacy_header(virtio);

	if (offset >= header) {
		virtio_config_write(virtio, (unsigned)offset - header, size, (uint32_t)value);
		return;
	}
	switch (offset << 4 | size) {
	case LEGACY_DRIVER_FEATURES << 4 | 4:
		virtio->legacy = true;
		virtio_set_features(virtio, value & virtio_offered(virtio, true));
		break;
	case LEGACY_QUEUE_PAGE << 4 | 4:
		virtio->legacy = true;
		set_queue_page(virtio, (uint32_t)value);
		break;
	case LEGACY_QUEUE_SELECT << 4 | 2:
		virtio->queue_select = (uint16_t)value;
		break;
	case LEGACY_QUEUE_NOTIFY << 4 | 2:
		virtio_notified(virtio, (unsigned)value);
		break;
	case LEGACY_STATUS << 4 | 1:
		legacy_status(virtio, (uint8_t)value);
		break;
	case LEGACY_CONFIG_VECTOR << 4 | 2:
		virtio->config_vector = virtio_vector(virtio, (uint16_t)value);
		break;
	case LEGACY_QUEUE_VECTOR << 4 | 2:
		if (queue)
			queue->vector = virtio_vector(virtio, (uint16_t)value);
		break;
	}
}

static const struct bus_ops legacy_ops = {4, legacy_read, legacy_write};

/* ---- the window in configuration space ---- */

static uint32_t get32(const uint8_t *at)
{
	return at[0] | (uint32_t)at[1] << 8 | (uint32_t)at[2] << 16 | (uint32_t)at[3] << 24;
}

/* "PCI configuration access capability": where in the modern BAR the window is, and its size; 0: nowhere. */
static unsigned window(const struct virtio_device *virtio, uint32_t *place)
{
	const uint8_t *capability = virtio->pci.config + virtio->config_capability;
	uint32_t length = get32(capability + CAP_LENGTH);

	*place = get32(capability + CAP_OFFSET);
	if (capability[CAP_BAR] != BAR_MODERN || (length != 1 && length != 2 && length != 4) ||
	    *place % length || *place >= MODERN_SIZE)
		return 0;
	return length;
}

static bool touches_window(const struct virtio_device *virtio, unsigned offset, unsigned size)
{
	unsigned data = virtio->config_capability + CAP_EXTRA;

	return offset < data + 4 && data < offset + size;
}

static void config_reading(void *device, unsigned offset, unsigned size)
{
	struct virtio_device *virtio = device;
	uint32_t place;
	unsigned length;

	if (!touches_window(virtio, offset, size))
		return;
	length = window(virtio, &place);
	if (length)
		virtio_put32(virtio->pci.config + virtio->config_capability + CAP_EXTRA,
		             (uint32_t)modern_read(virtio, place, length));
}

static void config_written(void *device, unsigned offset, unsigned size)
{
	struct virtio_device *virtio = device;
	uint32_t place;
	unsigned length;

	if (!touches_window(virtio, offset, size))
		return;
	length = window(virtio, &place);
	if (length)
		modern_write(virtio, place, length,
		             get32(virtio->pci.config + virtio->config_capability + CAP_EXTRA) &
		                 bus_ones(length));
}

/* ---- PCI ---- */

static uint8_t transitional_id(unsigned type)
{
	switch (type) {
	case VIRTIO_ID_NET:
		return 0x00;
	case VIRTIO_ID_BLOCK:
		return 0x01;
	case VIRTIO_ID_CONSOLE:
		return 0x03;
	case VIRTIO_ID_RNG:
		return 0x05;
	case VIRTIO_ID_9P:
		return 0x09;
	default:
		return 0xff;
	}
}

static unsigned add_capability(struct virtio_device *virtio, unsigned type, unsigned bar, uint32_t offset,
                               uint32_t length, unsigned extra)
{
	unsigned at = pci_add_capability(&virtio->pci, CAPABILITY_VENDOR, CAP_SIZE + extra);
	uint8_t *capability = virtio->pci.config + at;

	capability[2] = (uint8_t)(CAP_SIZE + extra);
	capability[CAP_TYPE] = (uint8_t)type;
	capability[CAP_BAR] = (uint8_t)bar;
	virtio_put32(capability + CAP_OFFSET, offset);
	virtio_put32(capability + CAP_LENGTH, length);
	return at;
}

static void add_capabilities(struct virtio_device *virtio)
{
	unsigned at, notify_size = NOTIFY_MULTIPLIER * virtio->queue_count;

	add_capability(virtio, CAP_COMMON, BAR_MODERN, PAGE_COMMON * PAGE_SIZE, COMMON_SIZE, 0);
	add_capability(virtio, CAP_ISR, BAR_MODERN, PAGE_ISR * PAGE_SIZE, 1, 0);
	if (virtio->setup.config_size)
		add_capability(virtio, CAP_DEVICE, BAR_MODERN, PAGE_DEVICE * PAGE_SIZE,
		               virtio->setup.config_size, 0);
	at = add_capability(virtio, CAP_NOTIFY, BAR_MODERN, PAGE_NOTIFY * PAGE_SIZE, notify_size, 4);
	virtio_put32(virtio->pci.config + at + CAP_EXTRA, NOTIFY_MULTIPLIER);
	at = add_capability(virtio, CAP_PCI, 0, 0, 0, 4);
	virtio->config_capability = at;
	virtio->pci.writable[at + CAP_BAR] = 0xff;
	memset(virtio->pci.writable + at + CAP_OFFSET, 0xff, 12);
}

int virtio_pci_add(struct virtio_device *virtio, uint8_t slot)
{
	unsigned type = virtio->setup.type, id = transitional_id(type), legacy_size = 32;
	bool transitional = !virtio->setup.modern_only && id != 0xff;
	struct pci_identity identity = {
	    .vendor = VENDOR,
	    .device = (uint16_t)(transitional ? 0x1000 + id : DEVICE_MODERN + type),
	    .subsystem_vendor = VENDOR,
	    .subsystem = (uint16_t)(transitional ? type : DEVICE_MODERN + type),
	    .class_code = virtio->setup.class_code,
	    .revision = transitional ? 0 : REVISION_MODERN,
	    .interrupt_pin = 1,
	};

	pci_init(&virtio->pci, virtio->setup.name, virtio, &identity);
	while (legacy_size < LEGACY_HEADER_MSIX + virtio->setup.config_size)
		legacy_size *= 2;
	if (transitional)
		pci_bar_io(&virtio->pci, BAR_LEGACY, legacy_size, &legacy_ops);
	pci_bar_memory(&virtio->pci, BAR_MODERN, MODERN_SIZE, true, &modern_ops);
	if (virtio->setup.rom)
		pci_bar_ram(&virtio->pci, PCI_BARS, virtio->setup.rom_size, virtio->setup.rom, true);
	pci_add_msix(&virtio->pci, virtio->queue_count + 1, BAR_MSIX);
	add_capabilities(virtio);
	virtio->pci.config_reading = config_reading;
	virtio->pci.config_written = config_written;
	return pci_add(virtio->machine, &virtio->pci, slot, 0);
}

/*
 * virtio-blk on device/disk/disk.h. A request's chain is turned into the disk's segments and stays popped until
 * the disk completes it; discard and write-zeroes may carry several ranges, which are done one after the
 * other. Rules: VIRTIO 1.2, "Block Device".
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "device/devices.h"
#include "device/disk/disk.h"
#include "device/firmware/fw_cfg.h"
#include "device/virtio/virtio.h"
#include "machine/machine.h"
#include "util/error.h"

#define CLASS_SCSI_STORAGE 0x010000
#define QUEUE_SIZE         256
#define QUEUES_MAX         8
#define RANGES_MAX         32
#define RANGE_SECTORS_MAX  (1u << 22) /* 2 GiB */

/* Features */
#define F_SEG_MAX      (1u << 2)
#define F_GEOMETRY     (1u << 4)
#define F_RO           (1u << 5)
#define F_BLK_SIZE     (1u << 6)
#define F_FLUSH        (1u << 9)
#define F_TOPOLOGY     (1u << 10)
#define F_CONFIG_WCE   (1u << 11)
#define F_MQ           (1u << 12)
#define F_DISCARD      (1u << 13)
#define F_WRITE_ZEROES (1u << 14)

/* Device configuration layout */
#define CONFIG_CAPACITY             0
#define CONFIG_SEG_MAX              12
#define CONFIG_CYLINDERS            16
#define CONFIG_HEADS                18
#define CONFIG_SECTORS              19
#define CONFIG_BLK_SIZE             20
#define CONFIG_MIN_IO_SIZE          26
#define CONFIG_WRITEBACK            32
#define CONFIG_NUM_QUEUES           34
#define CONFIG_DISCARD_SECTORS      36
#define CONFIG_DISCARD_SEG          40
#define CONFIG_DISCARD_ALIGNMENT    44
#define CONFIG_WRITE_ZEROES_SECTORS 48
#define CONFIG_WRITE_ZEROES_SEG     52
#define CONFIG_WRITE_ZEROES_UNMAP   56
#define CONFIG_SIZE                 60

/* Request types, and status */
#define T_IN           0
#define T_OUT          1
#define T_FLUSH        4
#define T_GET_ID       8
#define T_DISCARD      11
#define T_WRITE_ZEROES 13
#define S_OK           0
#define S_IOERR        1
#define S_UNSUPP       2
#define ID_SIZE        20

struct header {
	uint32_t type, reserved;
	uint64_t sector;
};

struct range {
	uint64_t sector;
	uint32_t count, flags;
};

#define RANGE_UNMAP 1

_Static_assert(sizeof(struct header) == 16 && sizeof(struct range) == 16, "Block Device, Device Operation");

struct blk {
	struct virtio_device virtio;
	struct disk *disk;
	struct blk_request *first; /* in flight */
};

struct blk_request {
	struct blk *blk;
	struct virtio_chain *chain;
	struct blk_request *next, **link; /* link: what points here */
	struct disk_request disk;
	unsigned range, range_count; /* discard and write-zeroes: the next one */
	struct disk_segment segment[];
};

/* ---- the end of a request ---- */

/* The status is the last byte of the chain, wherever the driver cut it. */
static void answer(struct virtio_chain *chain, uint8_t status)
{
	struct virtqueue *queue = chain->queue;

	virtio_chain_write(chain, chain->writable_size - 1, &status, 1);
	virtqueue_push(chain, chain->writable_size);
	virtqueue_notify(queue);
}

static void unlink_request(struct blk_request *request)
{
	*request->link = request->next;
	if (request->next)
		request->next->link = request->link;
	free(request);
}

static void finish(struct blk_request *request, uint8_t status)
{
	answer(request->chain, status);
	unlink_request(request);
}

/* ---- discard and write-zeroes ---- */

/* The next of the driver's ranges. The driver may change them while we read: each is looked at once. */
static uint8_t load_range(struct blk_request *request)
{
	struct blk *blk = request->blk;
	uint64_t sectors = disk_size(blk->disk) / BLOCK_SECTOR;
	bool discard = request->disk.operation == BLOCK_DISCARD;
	struct range range;

	virtio_chain_read(request->chain, sizeof(struct header) + request->range++ * sizeof(range), &range,
	                  sizeof(range));
	if (range.flags & ~(discard ? 0u : RANGE_UNMAP))
		return S_UNSUPP;
	if (range.sector > sectors || range.count > sectors - range.sector || range.count > RANGE_SECTORS_MAX)
		return S_IOERR;
	request->disk.offset = range.sector * BLOCK_SECTOR;
	request->disk.size = (uint64_t)range.count * BLOCK_SECTOR;
	request->disk.keep_room = !discard && !(range.flags & RANGE_UNMAP);
	return S_OK;
}

static void completed(struct disk_request *disk, int result)
{
	struct blk_request *request = disk->context;
	uint8_t status = result ? S_IOERR : S_OK;

	if (status == S_OK && request->range < request->range_count) {
		status = load_range(request);
		if (status == S_OK) {
			disk_submit(request->blk->disk, disk);
			return;
		}
	}
	finish(request, status);
}

/* ---- the start of a request ---- */

/* [offset, offset + size) of a part of the chain as the disk's segments. Returns how many. */
static unsigned add_segments(struct disk_segment *segment, const struct iovec *iov, const uint64_t *gpa,
                             unsigned iov_count, size_t offset, size_t size)
{
	unsigned count = 0;

	for (unsigned i = 0; i < iov_count && size; i++) {
		size_t room = iov[i].iov_len;

		if (offset >= room) {
			offset -= room;
			continue;
		}
		room -= offset;
		room = room < size ? room : size;
		segment[count++] = (struct disk_segment){gpa[i] + offset, (uint32_t)room};
		offset = 0;
		size -= room;
	}
	return count;
}

/* Writes are safe when they complete unless the driver knows of a cache: "writeback" and the flush feature.
 */
static bool is_write_through(const struct blk *blk)
{
	if (virtio_has(&blk->virtio, F_CONFIG_WCE))
		return !blk->virtio.config[CONFIG_WRITEBACK];
	return !virtio_has(&blk->virtio, F_FLUSH);
}

static uint8_t prepare_transfer(struct blk_request *request, uint64_t sector, bool write)
{
	struct virtio_chain *chain = request->chain;
	struct disk_request *disk = &request->disk;
	uint64_t sectors = disk_size(request->blk->disk) / BLOCK_SECTOR;

	disk->operation = write ? BLOCK_WRITE : BLOCK_READ;
	disk->size = write ? chain->readable_size - sizeof(struct header) : chain->writable_size - 1;
	if (disk->size % BLOCK_SECTOR || disk->size > INT32_MAX || sector > sectors ||
	    disk->size / BLOCK_SECTOR > sectors - sector)
		return S_IOERR;
	disk->offset = sector * BLOCK_SECTOR;
	disk->durable = write && is_write_through(request->blk);
	disk->segment = request->segment;
	disk->segment_count = write ? add_segments(request->segment, chain->readable, chain->readable_gpa,
	                                           chain->readable_count, sizeof(struct header), disk->size)
	                            : add_segments(request->segment, chain->writable, chain->writable_gpa,
	                                           chain->writable_count, 0, disk->size);
	return S_OK;
}

static uint8_t prepare_ranges(struct blk_request *request, enum block_operation operation)
{
	size_t size = request->chain->readable_size - sizeof(struct header);

	if (size == 0 || size % sizeof(struct range) || size / sizeof(struct range) > RANGES_MAX)
		return S_IOERR;
	request->disk.operation = operation;
	request->disk.durable = operation == BLOCK_WRITE_ZEROES && is_write_through(request->blk);
	request->range_count = (unsigned)(size / sizeof(struct range));
	return load_range(request);
}

static uint8_t prepare(struct blk_request *request, const struct header *header)
{
	bool writes = header->type == T_OUT || header->type == T_DISCARD || header->type == T_WRITE_ZEROES;

	if (writes && disk_read_only(request->blk->disk))
		return S_IOERR;
	switch (header->type) {
	case T_IN:
	case T_OUT:
		return prepare_transfer(request, header->sector, writes);
	case T_FLUSH:
		request->disk.operation = BLOCK_FLUSH;
		return S_OK;
	case T_DISCARD:
		return prepare_ranges(request, BLOCK_DISCARD);
	case T_WRITE_ZEROES:
		return prepare_ranges(request, BLOCK_WRITE_ZEROES);
	default:
		return S_UNSUPP;
	}
}

/* The serial number, without an end mark where it fills its 20 bytes. */
static void answer_id(struct blk *blk, struct virtio_chain *chain)
{
	char id[ID_SIZE] = {0};
	const char *serial = disk_serial(blk->disk);
	size_t room = chain->writable_size - 1;

	memcpy(id, serial, strnlen(serial, sizeof(id)));
	virtio_chain_write(chain, 0, id, room < sizeof(id) ? room : sizeof(id));
	answer(chain, S_OK);
}

/* False where the driver broke the rules. */
static bool start_request(struct blk *blk, struct virtio_chain *chain)
{
	size_t segments = chain->readable_count + chain->writable_count;
	struct blk_request *request;
	struct header header;
	uint8_t status;

	if (virtio_chain_read(chain, 0, &header, sizeof(header)) < sizeof(header) ||
	    chain->writable_size == 0) {
		virtqueue_drop(chain);
		virtio_fail(&blk->virtio, "a request without header or status");
		return false;
	}
	if (header.type == T_GET_ID) {
		answer_id(blk, chain);
		return true;
	}
	request = calloc(1, sizeof(*request) + segments * sizeof(request->segment[0]));
	if (!request) {
		answer(chain, S_IOERR);
		return true;
	}
	request->blk = blk;
	request->chain = chain;
	request->disk.context = request;
	request->disk.completed = completed;
	status = prepare(request, &header);
	if (status != S_OK || (request->disk.size == 0 && request->disk.operation != BLOCK_FLUSH)) {
		free(request);
		answer(chain, status);
		return true;
	}
	request->next = blk->first;
	request->link = &blk->first;
	if (blk->first)
		blk->first->link = &request->next;
	blk->first = request;
	disk_submit(blk->disk, &request->disk);
	return true;
}

static void notified(void *device, struct virtqueue *queue)
{
	struct blk *blk = device;
	struct virtio_chain *chain;

	while ((chain = virtqueue_pop(queue)))
		if (!start_request(blk, chain))
			return;
}

/* ---- the device ---- */

static void reset(void *device)
{
	struct blk *blk = device;

	disk_reset(blk->disk);
	while (blk->first) {
		virtqueue_drop(blk->first->chain);
		unlink_request(blk->first);
	}
	blk->virtio.config[CONFIG_WRITEBACK] = 1;
}

static void config_write(void *device, unsigned offset, unsigned size, uint32_t value)
{
	struct blk *blk = device;

	if (offset == CONFIG_WRITEBACK && size == 1 && virtio_has(&blk->virtio, F_CONFIG_WCE))
		blk->virtio.config[CONFIG_WRITEBACK] = value & 1;
}

static void destroy(void *device)
{
	struct blk *blk = device;

	disk_destroy(blk->disk);
	while (blk->first) {
		virtqueue_drop(blk->first->chain);
		unlink_request(blk->first);
	}
	free(blk);
}

static const struct virtio_ops ops = {.reset = reset, .config_write = config_write, .destroy = destroy};

static void fill_config(struct blk *blk, unsigned queues)
{
	uint64_t sectors = disk_size(blk->disk) / BLOCK_SECTOR;
	uint64_t cylinders = sectors / (16 * 63);
	uint8_t *config = blk->virtio.config;

	virtio_put64(config + CONFIG_CAPACITY, sectors);
	virtio_put32(config + CONFIG_SEG_MAX, QUEUE_SIZE - 2);
	virtio_put16(config + CONFIG_CYLINDERS, (uint16_t)(cylinders > 16383 ? 16383 : cylinders));
	config[CONFIG_HEADS] = 16;
	config[CONFIG_SECTORS] = 63;
	virtio_put32(config + CONFIG_BLK_SIZE, BLOCK_SECTOR);
	virtio_put16(config + CONFIG_MIN_IO_SIZE, 1);
	config[CONFIG_WRITEBACK] = 1;
	virtio_put16(config + CONFIG_NUM_QUEUES, (uint16_t)queues);
	virtio_put32(config + CONFIG_DISCARD_SECTORS, RANGE_SECTORS_MAX);
	virtio_put32(config + CONFIG_DISCARD_SEG, RANGES_MAX);
	virtio_put32(config + CONFIG_DISCARD_ALIGNMENT, PAGE_SIZE / BLOCK_SECTOR);
	virtio_put32(config + CONFIG_WRITE_ZEROES_SECTORS, RANGE_SECTORS_MAX);
	virtio_put32(config + CONFIG_WRITE_ZEROES_SEG, RANGES_MAX);
	config[CONFIG_WRITE_ZEROES_UNMAP] = 1;
}

static int create(struct machine *machine, const struct disk_config *config)
{
	unsigned queues = machine->config.cpu_count < QUEUES_MAX ? machine->config.cpu_count : QUEUES_MAX;
	struct blk *blk = calloc(1, sizeof(*blk));
	struct virtio_setup setup = {
	    .name = "virtio-blk",
	    .type = VIRTIO_ID_BLOCK,
	    .class_code = CLASS_SCSI_STORAGE,
	    .features = F_SEG_MAX | F_GEOMETRY | F_BLK_SIZE | F_FLUSH | F_TOPOLOGY | F_CONFIG_WCE |
	                (queues > 1 ? F_MQ : 0),
	    .config_size = CONFIG_SIZE,
	    .ops = &ops,
	    .device = blk,
	};
	int error;

	if (!blk)
		return error_set(ENOMEM, "out of memory");
	error = disk_create(&blk->disk, machine, config);
	if (error) {
		free(blk);
		return error;
	}
	setup.features |= disk_read_only(blk->disk) ? F_RO : F_DISCARD | F_WRITE_ZEROES;
	virtio_create(&blk->virtio, machine, &setup);
	fill_config(blk, queues);
	for (unsigned i = 0; i < queues; i++)
		virtio_add_queue(&blk->virtio, QUEUE_SIZE, notified);
	error = virtio_add(&blk->virtio, PCI_SLOT_ANY);
	if (error) {
		destroy(blk);
		return error;
	}
	return fw_cfg_add_boot_path(machine->fw_cfg, config->boot_index, "/pci@i0cf8/scsi@%x/disk@0,0",
	                            blk->virtio.pci.slot);
}

int virtio_blk_create(struct machine *machine)
{
	int error = 0;

	for (unsigned i = 0; i < machine->config.disk_count && !error; i++)
		if (machine->config.disk[i].interface == DISK_VIRTIO)
			error = create(machine, &machine->config.disk[i]);
	return error;
}

#include "device/fw_cfg.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "device/devices.h"
#include "machine/machine.h"
#include "util/error.h"

#define FILES     32
#define KEYS      (FW_CFG_FILE_FIRST + FILES)
#define NAME_SIZE 56

#define KEY_MASK  0x3fff /* bits 15 and 14: architecture-local, write */
#define KEY_LOCAL 0x8000

#define ID_TRADITIONAL 1u
#define ID_DMA         2u

/* The DMA control word's bits. */
#define DMA_ERROR     0x01u
#define DMA_READ      0x02u
#define DMA_SKIP      0x04u
#define DMA_SELECT    0x08u
#define DMA_WRITE     0x10u
#define DMA_SIGNATURE UINT64_C(0x51454d5520434647) /* "QEMU CFG": what the DMA port reads as */

/* In guest memory, big-endian. */
struct dma_command {
	uint32_t control, length;
	uint64_t address;
};

struct directory_entry {
	uint32_t size;
	uint16_t key, reserved;
	char name[NAME_SIZE];
};

_Static_assert(sizeof(struct directory_entry) == 64, "the file directory's layout");

struct item {
	uint8_t *data; /* owned */
	size_t size;
};

struct fw_cfg {
	struct machine *machine;
	struct item item[KEYS];
	struct directory_entry file[FILES];
	unsigned file_count;
	uint16_t key;
	size_t position;
	uint64_t dma_address;
};

int fw_cfg_set(struct fw_cfg *fw_cfg, uint16_t key, const void *data, size_t size)
{
	uint8_t *copy;

	if (key >= KEYS)
		return error_set(EINVAL, "fw_cfg has no item %#x", key);
	copy = malloc(size ? size : 1);
	if (!copy)
		return error_set(ENOMEM, "out of memory for fw_cfg item %#x", key);
	if (size)
		memcpy(copy, data, size);
	free(fw_cfg->item[key].data);
	fw_cfg->item[key] = (struct item){copy, size};
	return 0;
}

int fw_cfg_set_u16(struct fw_cfg *fw_cfg, uint16_t key, uint16_t value)
{
	return fw_cfg_set(fw_cfg, key, &value, sizeof(value));
}

int fw_cfg_set_u32(struct fw_cfg *fw_cfg, uint16_t key, uint32_t value)
{
	return fw_cfg_set(fw_cfg, key, &value, sizeof(value));
}

int fw_cfg_set_u64(struct fw_cfg *fw_cfg, uint16_t key, uint64_t value)
{
	return fw_cfg_set(fw_cfg, key, &value, sizeof(value));
}

/* The directory: the count, then the entries, in big-endian order. */
static int publish_directory(struct fw_cfg *fw_cfg)
{
	uint8_t directory[4 + sizeof(fw_cfg->file)];
	uint32_t count = __builtin_bswap32(fw_cfg->file_count);

	memcpy(directory, &count, 4);
	memcpy(directory + 4, fw_cfg->file, fw_cfg->file_count * sizeof(fw_cfg->file[0]));
	return fw_cfg_set(fw_cfg, FW_CFG_FILE_DIR, directory,
	                  4 + fw_cfg->file_count * sizeof(fw_cfg->file[0]));
}

int fw_cfg_add_file(struct fw_cfg *fw_cfg, const char *name, const void *data, size_t size)
{
	unsigned place = 0;
	int error;

	if (strlen(name) >= NAME_SIZE || size > UINT32_MAX)
		return error_set(EINVAL, "fw_cfg file %s: name or contents too long", name);
	while (place < fw_cfg->file_count && strcmp(fw_cfg->file[place].name, name) != 0)
		place++;
	if (place == FILES)
		return error_set(ENOSPC, "fw_cfg file %s: too many files", name);
	error = fw_cfg_set(fw_cfg, (uint16_t)(FW_CFG_FILE_FIRST + place), data, size);
	if (error)
		return error;
	if (place == fw_cfg->file_count)
		fw_cfg->file_count++;
	memset(&fw_cfg->file[place], 0, sizeof(fw_cfg->file[place]));
	fw_cfg->file[place].size = __builtin_bswap32((uint32_t)size);
	fw_cfg->file[place].key = __builtin_bswap16((uint16_t)(FW_CFG_FILE_FIRST + place));
	memcpy(fw_cfg->file[place].name, name, strlen(name));
	return publish_directory(fw_cfg);
}

/* ---- the guest's side ---- */

static const struct item *selected(const struct fw_cfg *fw_cfg)
{
	static const struct item none;
	unsigned key = fw_cfg->key & KEY_MASK;

	return key < KEYS && !(fw_cfg->key & KEY_LOCAL) ? &fw_cfg->item[key] : &none;
}

static void select_item(struct fw_cfg *fw_cfg, uint16_t key)
{
	fw_cfg->key = key;
	fw_cfg->position = 0;
}

static uint8_t next_byte(struct fw_cfg *fw_cfg)
{
	const struct item *item = selected(fw_cfg);

	return fw_cfg->position < item->size ? item->data[fw_cfg->position++] : 0;
}

/* The selector's two bytes (little-endian) and the data port overlap at 511h. */
static uint64_t port_read(void *state, uint64_t offset, unsigned size)
{
	struct fw_cfg *fw_cfg = state;

	if (offset == 1 && size == 1)
		return next_byte(fw_cfg);
	return 0;
}

static void port_write(void *state, uint64_t offset, unsigned size, uint64_t value)
{
	if (offset == 0 && size == 2)
		select_item(state, (uint16_t)value);
	/* Items are read-only: writes to the data port are ignored. */
}

/* Copies to guest memory what is left of the item, zeros after its end. False where the range is not RAM. */
static bool dma_transfer(struct fw_cfg *fw_cfg, uint32_t control, uint64_t address, uint32_t length)
{
	const struct item *item = selected(fw_cfg);
	size_t left = item->size - (fw_cfg->position < item->size ? fw_cfg->position : item->size);
	size_t take = left < length ? left : length;

	if (control & DMA_READ) {
		const struct guest_memory_slot *slot =
		    guest_memory_slot_of(&fw_cfg->machine->memory, GPA(address));
		uint8_t *to = guest_memory_host(&fw_cfg->machine->memory, GPA(address), length);

		if (length && (!to || slot->read_only))
			return false;
		if (take)
			memcpy(to, item->data + fw_cfg->position, take);
		if (length > take)
			memset(to + take, 0, length - take);
	} else if (control & DMA_WRITE) {
		return false;
	}
	fw_cfg->position += take;
	return true;
}

static void dma_run(struct fw_cfg *fw_cfg)
{
	uint8_t *place =
	    guest_memory_host(&fw_cfg->machine->memory, GPA(fw_cfg->dma_address), sizeof(struct dma_command));
	struct dma_command command;
	uint32_t control, result = 0;

	fw_cfg->dma_address = 0;
	if (!place)
		return;
	memcpy(&command, place, sizeof(command));
	control = __builtin_bswap32(command.control);
	if (control & DMA_SELECT)
		select_item(fw_cfg, (uint16_t)(control >> 16));
	if (control & (DMA_READ | DMA_WRITE | DMA_SKIP) &&
	    !dma_transfer(fw_cfg, control, __builtin_bswap64(command.address),
	                  __builtin_bswap32(command.length)))
		result = __builtin_bswap32(DMA_ERROR);
	memcpy(place, &result, sizeof(result));
}

/* Two big-endian halves; the low one starts the operation. */
static uint64_t dma_read(void *state, uint64_t offset, unsigned size)
{
	uint64_t value = 0;

	for (unsigned i = 0; i < size; i++)
		value |= (DMA_SIGNATURE >> (8 * (7 - (offset + i))) & 0xff) << (8 * i);
	return value;
}

static void dma_write(void *state, uint64_t offset, unsigned size, uint64_t value)
{
	struct fw_cfg *fw_cfg = state;
	uint32_t half = __builtin_bswap32((uint32_t)value);

	if (size != 4)
		return;
	if (offset == 0) {
		fw_cfg->dma_address = (uint64_t)half << 32;
	} else if (offset == 4) {
		fw_cfg->dma_address |= half;
		dma_run(fw_cfg);
	}
}

static void fw_cfg_reset(void *state)
{
	struct fw_cfg *fw_cfg = state;

	select_item(fw_cfg, 0);
	fw_cfg->dma_address = 0;
}

static void fw_cfg_destroy(void *state)
{
	struct fw_cfg *fw_cfg = state;

	for (unsigned i = 0; i < KEYS; i++)
		free(fw_cfg->item[i].data);
	free(fw_cfg);
}

static int set_defaults(struct fw_cfg *fw_cfg)
{
	const struct machine_config *config = &fw_cfg->machine->config;
	int error = fw_cfg_set(fw_cfg, FW_CFG_SIGNATURE, "QEMU", 4);

	if (!error)
		error = fw_cfg_set_u32(fw_cfg, FW_CFG_ID, ID_TRADITIONAL | ID_DMA);
	if (!error)
		error = fw_cfg_set_u64(fw_cfg, FW_CFG_RAM_SIZE, config->memory_size);
	if (!error)
		error = fw_cfg_set_u16(fw_cfg, FW_CFG_NB_CPUS, (uint16_t)config->cpu_count);
	if (!error)
		error = fw_cfg_set_u16(fw_cfg, FW_CFG_MAX_CPUS, (uint16_t)config->cpu_count);
	return error ? error : publish_directory(fw_cfg);
}

static const struct bus_ops port_ops = {2, port_read, port_write};
static const struct bus_ops dma_ops = {4, dma_read, dma_write};

int fw_cfg_create(struct machine *machine)
{
	struct fw_cfg *fw_cfg = calloc(1, sizeof(*fw_cfg));
	int error;

	if (!fw_cfg)
		return error_set(ENOMEM, "out of memory");
	fw_cfg->machine = machine;
	error = machine_add_device(machine, "fw_cfg", fw_cfg, fw_cfg_reset, fw_cfg_destroy);
	if (error) {
		free(fw_cfg);
		return error;
	}
	machine->fw_cfg = fw_cfg;
	error = set_defaults(fw_cfg);
	if (!error)
		error = bus_add(&machine->pio, PLATFORM_FW_CFG, 2, &port_ops, fw_cfg, "fw_cfg");
	if (!error)
		error = bus_add(&machine->pio, PLATFORM_FW_CFG + 4, 8, &dma_ops, fw_cfg, "fw_cfg-dma");
	return error;
}

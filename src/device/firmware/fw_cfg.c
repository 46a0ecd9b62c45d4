#include "device/firmware/fw_cfg.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "device/devices.h"
#include "machine/dma.h"
#include "machine/machine.h"
#include "util/error.h"

#define FILES     64
#define KEYS      (FW_CFG_FILE_FIRST + FILES)
#define NAME_SIZE 56

#define BOOT_PATHS     32
#define BOOT_PATH_SIZE 128

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
	void (*written)(void *context, const uint8_t *data, size_t size); /* NULL: read-only */
	void *context;
};

struct fw_cfg {
	struct machine *machine;
	struct item item[KEYS];
	struct directory_entry file[FILES];
	unsigned file_count;
	uint16_t key;
	size_t position;
	uint64_t dma_address;
	char boot_path[BOOT_PATHS][BOOT_PATH_SIZE];
	int boot_index[BOOT_PATHS]; /* ascending */
	unsigned boot_paths;
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
	fw_cfg->item[key].data = copy;
	fw_cfg->item[key].size = size;
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

int fw_cfg_add_writable(struct fw_cfg *fw_cfg, const char *name, const void *data, size_t size,
                        void (*written)(void *context, const uint8_t *data, size_t size), void *context)
{
	int error = fw_cfg_add_file(fw_cfg, name, data, size);

	for (unsigned i = 0; i < fw_cfg->file_count && !error; i++)
		if (!strcmp(fw_cfg->file[i].name, name)) {
			fw_cfg->item[FW_CFG_FILE_FIRST + i].written = written;
			fw_cfg->item[FW_CFG_FILE_FIRST + i].context = context;
		}
	return error;
}

/* ---- the boot order ---- */

int fw_cfg_add_boot_path(struct fw_cfg *fw_cfg, int boot_index, const char *format, ...)
{
	char text[sizeof(fw_cfg->boot_path)] = "", path[BOOT_PATH_SIZE];
	unsigned place = 0;
	size_t length;
	va_list arguments;

	if (boot_index < 0)
		return 0;
	va_start(arguments, format);
	length = (size_t)vsnprintf(path, sizeof(path), format, arguments);
	va_end(arguments);
	if (fw_cfg->boot_paths == BOOT_PATHS || length >= sizeof(path))
		return error_set(ENOSPC, "%s: too much for the boot order", path);
	length = 0;
	while (place < fw_cfg->boot_paths && fw_cfg->boot_index[place] <= boot_index)
		place++;
	for (unsigned i = fw_cfg->boot_paths++; i > place; i--) {
		fw_cfg->boot_index[i] = fw_cfg->boot_index[i - 1];
		strcpy(fw_cfg->boot_path[i], fw_cfg->boot_path[i - 1]);
	}
	fw_cfg->boot_index[place] = boot_index;
	strcpy(fw_cfg->boot_path[place], path);
	for (unsigned i = 0; i < fw_cfg->boot_paths; i++)
		length += (size_t)snprintf(text + length, sizeof(text) - length, "%s%s", i ? "\n" : "",
		                           fw_cfg->boot_path[i]);
	return fw_cfg_add_file(fw_cfg, "bootorder", text, length + 1);
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
static bool dma_to_guest(struct fw_cfg *fw_cfg, uint64_t address, uint32_t length)
{
	static const uint8_t zeros[4096];
	const struct item *item = selected(fw_cfg);
	size_t left = item->size - (fw_cfg->position < item->size ? fw_cfg->position : item->size);
	size_t take = left < length ? left : length;

	if (dma_write(fw_cfg->machine, address, item->data + fw_cfg->position, take))
		return false;
	fw_cfg->position += take;
	for (uint64_t at = take; at < length;) {
		size_t part = length - at < sizeof(zeros) ? length - at : sizeof(zeros);

		if (dma_write(fw_cfg->machine, address + at, zeros, part))
			return false;
		at += part;
	}
	return true;
}

/* Only what the item holds already can be written, and only items that somebody waits for. */
static bool dma_from_guest(struct fw_cfg *fw_cfg, uint64_t address, uint32_t length)
{
	unsigned key = fw_cfg->key & KEY_MASK;
	const struct item *item = selected(fw_cfg);

	if (!item->written || fw_cfg->position > item->size || length > item->size - fw_cfg->position ||
	    dma_read(fw_cfg->machine, address, fw_cfg->item[key].data + fw_cfg->position, length))
		return false;
	fw_cfg->position += length;
	item->written(item->context, item->data, item->size);
	return true;
}

static bool dma_transfer(struct fw_cfg *fw_cfg, uint32_t control, uint64_t address, uint32_t length)
{
	if (control & DMA_READ)
		return dma_to_guest(fw_cfg, address, length);
	if (control & DMA_WRITE)
		return dma_from_guest(fw_cfg, address, length);
	size_t size = selected(fw_cfg)->size,
	       left = size - (fw_cfg->position < size ? fw_cfg->position : size);

	fw_cfg->position += left < length ? left : length;
	return true;
}

static void dma_run(struct fw_cfg *fw_cfg)
{
	struct dma_command command;
	uint64_t place = fw_cfg->dma_address;
	uint32_t control, result = 0;

	fw_cfg->dma_address = 0;
	if (dma_read(fw_cfg->machine, place, &command, sizeof(command)))
		return;
	control = __builtin_bswap32(command.control);
	if (control & DMA_SELECT)
		select_item(fw_cfg, (uint16_t)(control >> 16));
	if (control & (DMA_READ | DMA_WRITE | DMA_SKIP) &&
	    !dma_transfer(fw_cfg, control, __builtin_bswap64(command.address),
	                  __builtin_bswap32(command.length)))
		result = __builtin_bswap32(DMA_ERROR);
	dma_write(fw_cfg->machine, place, &result, sizeof(result));
}

/* Two big-endian halves; the low one starts the operation. */
static uint64_t dma_port_read(void *state, uint64_t offset, unsigned size)
{
	uint64_t value = 0;

	for (unsigned i = 0; i < size; i++)
		value |= (DMA_SIGNATURE >> (8 * (7 - (offset + i))) & 0xff) << (8 * i);
	return value;
}

static void dma_port_write(void *state, uint64_t offset, unsigned size, uint64_t value)
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
static const struct bus_ops dma_ops = {4, dma_port_read, dma_port_write};

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

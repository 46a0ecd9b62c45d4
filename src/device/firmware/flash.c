/*
 * The chip is one byte wide. In read-array mode the guest reads its memory directly; every write is a command or
 * its operand, which comes here through the bus and, for as long as reads have another meaning, takes the memory out
 * of the guest's map. Firmware that stores a variable changes modes for every few bytes: the memory goes back into
 * the map only once enough is read from it again.
 *
 * Commands as in Intel's StrataFlash data sheets ("Command Definitions", "Status Register"), with two habits of
 * the emulated chips that firmware knows: Clear Status Register leaves 00h, by which OVMF tells a flash from a ROM, and
 * an operation is complete at once.
 */
#include "device/firmware/flash.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "machine/machine.h"
#include "util/error.h"

#define STATUS_READY         0x80
#define STATUS_ERASE_ERROR   0x20
#define STATUS_PROGRAM_ERROR 0x10
#define STATUS_SEQUENCE      (STATUS_ERASE_ERROR | STATUS_PROGRAM_ERROR)

#define BUFFER_SIZE 256u
#define READS_TO_MAP 32

enum {
	READ_ARRAY = 0xff,
	READ_ID = 0x90,
	READ_QUERY = 0x98,
	READ_STATUS = 0x70,
	CLEAR_STATUS = 0x50,
	PROGRAM = 0x40,
	PROGRAM_OLD = 0x10,
	ERASE = 0x20,
	LOCK = 0x60,
	WRITE_BUFFER = 0xe8,
	CONFIRM = 0xd0,
};

/* What the next write means. */
enum step { COMMAND, PROGRAM_DATA, ERASE_CONFIRM, LOCK_CONFIRM, BUFFER_COUNT, BUFFER_DATA, BUFFER_CONFIRM };

struct flash {
	struct machine *machine;
	uint64_t gpa;
	uint8_t *contents; /* borrowed */
	uint32_t size;
	int fd;
	bool mapped;
	uint8_t mode; /* READ_* */
	unsigned reads; /* of the array, since it was left last */
	enum step step;
	uint8_t status;
	uint8_t buffer[BUFFER_SIZE];
	bool filled[BUFFER_SIZE];
	unsigned buffer_left;
	uint32_t buffer_block; /* every address of a buffered write must lie in its BUFFER_SIZE bytes */
};

static void map(struct flash *flash, bool mapped)
{
	if (mapped && !flash->mapped)
		flash->mapped =
		    !machine_map_memory(flash->machine, GPA(flash->gpa), flash->size, flash->contents, true);
	else if (!mapped && flash->mapped) {
		machine_unmap_memory(flash->machine, GPA(flash->gpa));
		flash->mapped = false;
	}
}

/* What the file cannot take is the guest's error; its memory keeps what it has programmed. */
static bool save(const struct flash *flash, uint32_t start, uint32_t size)
{
	while (flash->fd >= 0 && size) {
		ssize_t done = pwrite(flash->fd, flash->contents + start, size, start);

		if (done < 0 && errno == EINTR)
			continue;
		if (done <= 0)
			return false;
		start += (uint32_t)done;
		size -= (uint32_t)done;
	}
	return true;
}

static void finish(struct flash *flash, bool good, uint8_t error)
{
	flash->status |= STATUS_READY | (good ? 0 : error);
	flash->mode = READ_STATUS;
	flash->step = COMMAND;
}

/* Programming turns ones into zeros; only erasing turns them back. */
static void program(struct flash *flash, uint32_t offset, unsigned size, uint64_t value)
{
	for (unsigned i = 0; i < size; i++)
		flash->contents[offset + i] &= (uint8_t)(value >> (8 * i));
	finish(flash, save(flash, offset, size), STATUS_PROGRAM_ERROR);
}

static void erase(struct flash *flash, uint32_t offset)
{
	uint32_t start = offset & ~(FLASH_BLOCK - 1);

	memset(flash->contents + start, 0xff, FLASH_BLOCK);
	finish(flash, save(flash, start, FLASH_BLOCK), STATUS_ERASE_ERROR);
}

static void command(struct flash *flash, uint32_t offset, uint8_t value)
{
	switch (value) {
	case READ_ARRAY:
	case READ_ID:
	case READ_QUERY:
	case READ_STATUS:
		flash->mode = value;
		flash->reads = 0;
		break;
	case CLEAR_STATUS:
		flash->status = 0;
		flash->mode = READ_ARRAY;
		flash->reads = 0;
		break;
	case PROGRAM:
	case PROGRAM_OLD:
		flash->step = PROGRAM_DATA;
		flash->mode = READ_STATUS;
		break;
	case ERASE:
		flash->step = ERASE_CONFIRM;
		flash->mode = READ_STATUS;
		break;
	case LOCK:
		flash->step = LOCK_CONFIRM;
		flash->mode = READ_STATUS;
		break;
	case WRITE_BUFFER:
		flash->step = BUFFER_COUNT;
		flash->status |= STATUS_READY; /* a buffer is available */
		flash->mode = READ_STATUS;
		flash->buffer_block = offset & ~(BUFFER_SIZE - 1);
		memset(flash->filled, 0, sizeof(flash->filled));
		break;
	default:
		flash->mode = READ_ARRAY; /* an unknown command */
		break;
	}
}

static void buffer_data(struct flash *flash, uint32_t offset, unsigned size, uint64_t value)
{
	if (offset < flash->buffer_block || offset + size > flash->buffer_block + BUFFER_SIZE) {
		finish(flash, false, STATUS_SEQUENCE);
		return;
	}
	for (unsigned i = 0; i < size; i++) {
		flash->buffer[offset + i - flash->buffer_block] = (uint8_t)(value >> (8 * i));
		flash->filled[offset + i - flash->buffer_block] = true;
	}
	flash->buffer_left -= size < flash->buffer_left ? size : flash->buffer_left;
	if (!flash->buffer_left)
		flash->step = BUFFER_CONFIRM;
}

static void program_buffer(struct flash *flash)
{
	uint8_t *to = flash->contents + flash->buffer_block;

	for (unsigned i = 0; i < BUFFER_SIZE; i++)
		if (flash->filled[i])
			to[i] &= flash->buffer[i];
	finish(flash, save(flash, flash->buffer_block, BUFFER_SIZE), STATUS_PROGRAM_ERROR);
}

static void flash_write(void *state, uint64_t offset, unsigned size, uint64_t value)
{
	struct flash *flash = state;
	uint32_t at = (uint32_t)offset;

	switch (flash->step) {
	case COMMAND:
		command(flash, at, (uint8_t)value);
		break;
	case PROGRAM_DATA:
		program(flash, at, size, value);
		break;
	case ERASE_CONFIRM:
		if ((uint8_t)value == CONFIRM)
			erase(flash, at);
		else
			finish(flash, false, STATUS_SEQUENCE);
		break;
	case LOCK_CONFIRM: /* lock 01h, unlock D0h, lock down 2Fh: no block is ever locked */
		finish(flash, (uint8_t)value == 0x01 || (uint8_t)value == CONFIRM || (uint8_t)value == 0x2f,
		       STATUS_SEQUENCE);
		break;
	case BUFFER_COUNT: /* one less than there will be */
		flash->buffer_left = (uint8_t)value + 1u;
		flash->step = BUFFER_DATA;
		break;
	case BUFFER_DATA:
		buffer_data(flash, at, size, value);
		break;
	case BUFFER_CONFIRM:
		if ((uint8_t)value == CONFIRM)
			program_buffer(flash);
		else
			finish(flash, false, STATUS_SEQUENCE);
		break;
	}
	if (flash->mode != READ_ARRAY)
		map(flash, false);
}

/* Common Flash Interface, "Query Structure": what a driver needs to know of this chip. */
static uint8_t query(const struct flash *flash, uint32_t index)
{
	uint32_t blocks = flash->size / FLASH_BLOCK - 1, log2_size = 0;

	while (1u << log2_size < flash->size)
		log2_size++;
	switch (index) {
	case 0x10:
		return 'Q';
	case 0x11:
		return 'R';
	case 0x12:
		return 'Y';
	case 0x13: /* Intel/Sharp extended command set */
		return 0x01;
	case 0x15: /* its table */
		return 0x31;
	case 0x1b: /* Vcc 4.5 to 5.5 V */
		return 0x45;
	case 0x1c:
		return 0x55;
	case 0x1f: /* typical time-outs: 128 us a byte, 1 ms an erase */
	case 0x20:
		return 0x07;
	case 0x21:
		return 0x0a;
	case 0x23 ... 0x25: /* at most 16 times as long */
		return 0x04;
	case 0x27:
		return (uint8_t)log2_size;
	case 0x2a: /* log2 of the write buffer */
		return 8;
	case 0x2c: /* erase regions */
		return 1;
	case 0x2d:
		return (uint8_t)blocks;
	case 0x2e:
		return (uint8_t)(blocks >> 8);
	case 0x2f: /* their block size in units of 256 bytes */
		return (uint8_t)(FLASH_BLOCK >> 8);
	case 0x30:
		return (uint8_t)(FLASH_BLOCK >> 16);
	case 0x31:
		return 'P';
	case 0x32:
		return 'R';
	case 0x33:
		return 'I';
	case 0x34:
		return '1';
	case 0x35:
		return '0';
	default:
		return 0;
	}
}

static uint8_t identifier(uint32_t offset)
{
	switch (offset & 0xff) {
	case 0: /* manufacturer Intel, its 8 Mbit chip's device code */
		return 0x89;
	case 1:
		return 0x18;
	default: /* 02h: not locked */
		return 0;
	}
}

static uint8_t read_byte(struct flash *flash, uint32_t offset)
{
	switch (flash->mode) {
	case READ_STATUS:
		return flash->status;
	case READ_QUERY:
		return query(flash, offset & 0xff);
	case READ_ID:
		return identifier(offset);
	default:
		return flash->contents[offset];
	}
}

static uint64_t flash_read(void *state, uint64_t offset, unsigned size)
{
	struct flash *flash = state;
	uint64_t value = 0;

	for (unsigned i = 0; i < size; i++)
		value |= (uint64_t)read_byte(flash, (uint32_t)offset + i) << (8 * i);
	if (flash->mode == READ_ARRAY && flash->step == COMMAND && ++flash->reads == READS_TO_MAP)
		map(flash, true);
	return value;
}

static void flash_reset(void *state)
{
	struct flash *flash = state;

	flash->mode = READ_ARRAY;
	flash->step = COMMAND;
	flash->status = 0;
	flash->reads = 0;
	flash->buffer_left = 0;
	map(flash, true);
}

static void flash_destroy(void *state)
{
	struct flash *flash = state;

	if (flash->fd >= 0) {
		fdatasync(flash->fd);
		close(flash->fd);
	}
	free(flash);
}

static const struct bus_ops flash_ops = {8, flash_read, flash_write};

int flash_create(struct machine *machine, uint64_t gpa, uint8_t *contents, uint32_t size, int fd)
{
	struct flash *flash = calloc(1, sizeof(*flash));
	int error = flash ? 0 : error_set(ENOMEM, "out of memory");

	if (!error) {
		*flash = (struct flash){
		    .machine = machine, .gpa = gpa, .contents = contents, .size = size, .fd = fd, .mode = READ_ARRAY};
		error = machine_add_device(machine, "flash", flash, flash_reset, flash_destroy);
	}
	if (error) {
		free(flash);
		if (fd >= 0)
			close(fd);
		return error;
	}
	return bus_add(&machine->mmio, gpa, size, &flash_ops, flash, "flash");
}

/*
 * Commands on their way from guest memory to a drive and back. Rules: Serial ATA AHCI 1.3.1, "System Memory Structures",
 * "Command List Operation" and "Error Reporting and Recovery"; Serial ATA 2.6, "FIS types".
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "device/disk/ahci.h"
#include "machine/dma.h"
#include "machine/machine.h"

/* "Received FIS Structure" */
#define RFIS_PIO_SETUP  0x20
#define RFIS_D2H        0x40
#define RFIS_SET_BITS   0x58
#define FIS_H2D         0x27
#define FIS_D2H         0x34
#define FIS_SET_BITS    0xa1
#define FIS_PIO_SETUP   0x5f
#define FIS_INTERRUPT   0x40
#define FIS_TO_HOST     0x20
#define FIS_COMMAND     0x80 /* H2D: the command register was written, not the control register */
#define CONTROL_SRST    0x04

/* "Command Header", "Command Table" */
#define HEADER_SIZE     32
#define HEADER_CFL      0x1fu
#define HEADER_PRDBC    4
#define TABLE_PACKET    0x40
#define TABLE_PRDT      0x80
#define PRD_SIZE        16
#define PRD_BYTES       0x3fffffu
#define PRD_CHUNK       64 /* entries that are read together */

#define CMD_CCS_SHIFT 8

static void put16(uint8_t *to, uint16_t value)
{
	to[0] = (uint8_t)value;
	to[1] = (uint8_t)(value >> 8);
}

static uint32_t get32(const uint8_t *from)
{
	return from[0] | from[1] << 8 | from[2] << 16 | (uint32_t)from[3] << 24;
}

static uint64_t get64(const uint8_t *from)
{
	return get32(from) | (uint64_t)get32(from + 4) << 32;
}

/* ---- FISes to the guest ---- */

static void post_fis(struct ahci_port *port, unsigned place, const uint8_t *fis, size_t size)
{
	if (!(port->cmd & AHCI_CMD_FRE) || !pci_is_master(&port->ahci->function))
		return;
	if (dma_write(port->ahci->machine, port->fb + place, fis, size))
		ahci_raise(port, AHCI_IS_HBF);
}

static void fill_registers(uint8_t fis[20], const struct ata_result *result)
{
	fis[2] = result->status;
	fis[3] = result->error;
	for (unsigned i = 0; i < 3; i++) {
		fis[4 + i] = (uint8_t)(result->lba >> (8 * i));
		fis[8 + i] = (uint8_t)(result->lba >> (8 * (i + 3)));
	}
	fis[7] = result->device;
	put16(fis + 12, result->count);
}

static void set_task_file(struct ahci_port *port, uint8_t status, uint8_t error)
{
	port->tfd = (uint32_t)error << 8 | status;
}

static void post_d2h(struct ahci_port *port, const struct ata_result *result, bool interrupt)
{
	uint8_t fis[20] = {FIS_D2H, interrupt ? FIS_INTERRUPT : 0};

	fill_registers(fis, result);
	post_fis(port, RFIS_D2H, fis, sizeof(fis));
	set_task_file(port, result->status, result->error);
}

/* One stands for all DRQ blocks of the command. */
static void post_pio_setup(struct ahci_port *port, const struct ata_result *result, uint64_t size,
                           bool to_host, bool interrupt)
{
	uint8_t fis[20] = {FIS_PIO_SETUP, (to_host ? FIS_TO_HOST : 0) | (interrupt ? FIS_INTERRUPT : 0)};

	fill_registers(fis, result);
	fis[2] = (uint8_t)(result->status | ATA_DRQ);
	fis[15] = result->status;
	put16(fis + 16, size > 0xfffe ? 0xfffe : (uint16_t)size);
	post_fis(port, RFIS_PIO_SETUP, fis, sizeof(fis));
}

static void post_set_bits(struct ahci_port *port, uint8_t status, uint8_t error, uint32_t done)
{
	uint8_t fis[8] = {FIS_SET_BITS,  FIS_INTERRUPT,        status & 0x77,         error,
	                  (uint8_t)done, (uint8_t)(done >> 8), (uint8_t)(done >> 16), (uint8_t)(done >> 24)};

	post_fis(port, RFIS_SET_BITS, fis, sizeof(fis));
	set_task_file(port, (uint8_t)((port->tfd & (ATA_BSY | ATA_DRQ)) | (status & 0x77)), error);
	port->sact &= ~done;
}

/* "Device Signature": PxSIG and the task file take it also while FISes are not received. */
void ahci_send_signature(struct ahci_port *port)
{
	struct ata_result result = {.status = port->cdrom ? 0 : ATA_GOOD, .error = 1, .count = 1,
		.lba = port->cdrom ? 0xeb1401 : 0x000001};

	port->sig = port->cdrom ? 0xeb140101 : 0x00000101;
	post_d2h(port, &result, false);
}

/* ---- the end of a command ---- */

static void release(struct ahci_command *command)
{
	free(command->segment);
	free(command->ranges);
	command->segment = NULL;
	command->ranges = NULL;
	command->active = false;
}

/* An error: the slot's bit stays, and nothing more is fetched until the guest clears ST. */
static void halt(struct ahci_port *port, uint32_t bits)
{
	port->halted = true;
	ahci_raise(port, bits);
}

static void write_byte_count(struct ahci_command *command)
{
	uint8_t count[4] = {(uint8_t)command->moved, (uint8_t)(command->moved >> 8),
	                    (uint8_t)(command->moved >> 16), (uint8_t)(command->moved >> 24)};

	if (dma_write(command->port->ahci->machine, command->header + HEADER_PRDBC, count, sizeof(count)))
		ahci_raise(command->port, AHCI_IS_HBF);
}

static void finish_queued(struct ahci_command *command, const struct ata_result *result)
{
	struct ahci_port *port = command->port;
	uint32_t bit = 1u << command->slot;

	port->queued &= ~bit;
	if (port->halted)
		return; /* aborted with the command that failed; the guest issues it again */
	if (result->status & ATA_ERR) {
		port->ata.ncq_failed = true;
		port->ata.ncq_tag = command->slot;
		port->ata.ncq_result = *result;
		post_set_bits(port, result->status, result->error, 0);
		halt(port, AHCI_IS_TFE | AHCI_IS_SDB);
		return;
	}
	post_set_bits(port, result->status, result->error, bit);
	ahci_raise(port, AHCI_IS_SDB);
}

static void finish_single(struct ahci_command *command, const struct ata_result *result)
{
	struct ahci_port *port = command->port;
	bool good = !(result->status & (ATA_ERR | ATA_DF));
	bool by_pio = command->protocol == ATA_PIO_IN && good;

	port->busy = false;
	write_byte_count(command);
	if (by_pio) {
		post_pio_setup(port, result, command->moved, true, true);
		set_task_file(port, result->status, result->error);
	} else {
		if (command->protocol == ATA_PACKET && command->moved)
			post_pio_setup(port, result, command->moved, true, false);
		post_d2h(port, result, true);
	}
	if (good)
		port->ci &= ~(1u << command->slot);
	if (good)
		ahci_raise(port, by_pio ? AHCI_IS_PS : AHCI_IS_DHR);
	else
		halt(port, AHCI_IS_TFE | AHCI_IS_DHR);
}

void ahci_finish(struct ahci_command *command, const struct ata_result *result)
{
	struct ahci_port *port = command->port;

	release(command);
	port->issued &= ~(1u << command->slot);
	if (command->protocol == ATA_NCQ)
		finish_queued(command, result);
	else
		finish_single(command, result);
	ahci_run(port);
}

void ahci_accept_queued(struct ahci_command *command)
{
	struct ahci_port *port = command->port;
	struct ata_result result = ata_result_of(command, ATA_DRDY, 0);

	command->protocol = ATA_NCQ;
	port->queued |= 1u << command->slot;
	port->busy = false;
	port->ci &= ~(1u << command->slot);
	post_d2h(port, &result, false);
}

void ahci_fail_host(struct ahci_command *command)
{
	struct ahci_port *port = command->port;

	release(command);
	port->issued &= ~(1u << command->slot);
	port->queued &= ~(1u << command->slot);
	port->busy = false;
	set_task_file(port, ATA_DRDY, 0);
	halt(port, AHCI_IS_HBF);
}

void ahci_fail_overflow(struct ahci_command *command)
{
	ahci_raise(command->port, AHCI_IS_OF);
	ata_end(command, ATA_GOOD | ATA_ERR, ATA_ERROR_ABRT);
}

void ahci_abandon(struct ahci_port *port)
{
	if (port->disk)
		disk_reset(port->disk);
	for (unsigned i = 0; i < AHCI_SLOTS; i++)
		if (port->command[i].active)
			release(&port->command[i]);
	port->issued = port->queued = 0;
	port->busy = false;
	/* The drive has lost its command: it is not busy for ever. */
	if (port->tfd & ATA_BSY && port->disk)
		set_task_file(port, ATA_GOOD, 0);
}

void ahci_release_commands(struct ahci_port *port)
{
	for (unsigned i = 0; i < AHCI_SLOTS; i++)
		release(&port->command[i]);
}

/* ---- the guest's buffer ---- */

/*
 * "Physical Region Descriptor Table": the pieces that make up the first `size` bytes. Returns 0, -EFAULT where the table
 * is no memory, -ENOSPC where it describes less, -ENOMEM.
 */
static int read_prdt(struct ahci_command *command, uint64_t size)
{
	uint8_t chunk[PRD_CHUNK * PRD_SIZE];
	uint64_t found = 0;

	/* An entry has at least one byte. */
	uint64_t most = command->prd_count < size ? command->prd_count : size;

	free(command->segment);
	command->segment_count = 0;
	command->segment = malloc((most + 1) * sizeof(command->segment[0]));
	if (!command->segment)
		return -ENOMEM;
	for (unsigned i = 0; i < command->prd_count && found < size; i++) {
		unsigned place = i % PRD_CHUNK, left = command->prd_count - i;
		const uint8_t *entry = chunk + place * PRD_SIZE;
		uint32_t bytes;

		if (place == 0 &&
		    dma_read(command->port->ahci->machine, command->table + TABLE_PRDT + i * PRD_SIZE, chunk,
		             (left < PRD_CHUNK ? left : PRD_CHUNK) * PRD_SIZE))
			return -EFAULT;
		bytes = (get32(entry + 12) & PRD_BYTES) + 1;
		if (bytes > size - found)
			bytes = (uint32_t)(size - found);
		command->segment[command->segment_count++] = (struct disk_segment){get64(entry) & ~UINT64_C(1), bytes};
		found += bytes;
	}
	return found == size ? 0 : -ENOSPC;
}

/* Ends the command where the buffer was wrong. */
static int buffer_result(struct ahci_command *command, int error)
{
	if (error == -ENOSPC)
		ahci_fail_overflow(command);
	else if (error)
		ahci_fail_host(command);
	return error;
}

int ahci_data_in(struct ahci_command *command, const void *data, uint32_t size)
{
	const uint8_t *from = data;
	int error = read_prdt(command, size);

	for (unsigned i = 0; i < command->segment_count && !error; i++) {
		const struct disk_segment *segment = &command->segment[i];

		error = dma_write(command->port->ahci->machine, segment->gpa, from, segment->size);
		from += segment->size;
	}
	if (!error)
		command->moved = size;
	return buffer_result(command, error);
}

int ahci_data_out(struct ahci_command *command, void *data, uint32_t size)
{
	uint8_t *to = data;
	int error = read_prdt(command, size);

	for (unsigned i = 0; i < command->segment_count && !error; i++) {
		const struct disk_segment *segment = &command->segment[i];

		error = dma_read(command->port->ahci->machine, segment->gpa, to, segment->size);
		to += segment->size;
	}
	if (!error)
		command->moved = size;
	return buffer_result(command, error);
}

void ahci_start_io(struct ahci_command *command, enum block_operation operation, uint64_t offset,
                   uint64_t size, bool durable, void (*completed)(struct disk_request *request, int result))
{
	struct disk_request *request = &command->request;

	request->operation = operation;
	request->offset = offset;
	request->size = size;
	request->durable = durable;
	request->keep_room = false;
	request->completed = completed;
	request->context = command;
	request->segment_count = 0;
	if (operation <= BLOCK_WRITE) {
		if (buffer_result(command, read_prdt(command, size)))
			return;
		request->segment = command->segment;
		request->segment_count = command->segment_count;
		command->moved = size;
		if (command->protocol == ATA_PIO_OUT) {
			struct ata_result ready = ata_result_of(command, ATA_GOOD, 0);

			post_pio_setup(command->port, &ready, size, false, false);
		}
	}
	disk_submit(command->port->disk, request);
}

/* ---- the start of a command ---- */

/* The control register: a software reset begins with SRST set and ends, with the signature, when it is cleared. */
static void write_control(struct ahci_command *command)
{
	struct ahci_port *port = command->port;
	bool reset = command->fis[15] & CONTROL_SRST;
	uint32_t bit = 1u << command->slot;

	release(command);
	port->issued &= ~bit;
	if (reset) {
		ahci_abandon(port);
		port->in_reset = true;
		set_task_file(port, ATA_GOOD, 0); /* not busy: the second half has to be fetched ("Clear Busy upon R_OK") */
	} else if (port->in_reset) {
		port->in_reset = false;
		if (port->cdrom)
			atapi_reset(port, false);
		else
			ata_reset(port, false);
		ahci_send_signature(port);
	}
	port->ci &= ~bit;
}

static void dispatch(struct ahci_command *command, uint32_t flags)
{
	struct ahci_port *port = command->port;
	const uint8_t *fis = command->fis;

	if (fis[0] != FIS_H2D || (flags & HEADER_CFL) < 2) {
		release(command);
		port->issued &= ~(1u << command->slot);
		halt(port, AHCI_IS_IF);
		return;
	}
	if (!(fis[1] & FIS_COMMAND)) {
		write_control(command);
		return;
	}
	port->busy = true; /* until a queued command is accepted */
	set_task_file(port, ATA_GOOD | ATA_BSY, 0);
	if (port->cdrom)
		atapi_execute(command);
	else
		ata_execute(command);
}

/* "Command fetch": header, FIS and packet as they are now; the guest may change its memory afterwards. */
static void start(struct ahci_port *port, unsigned slot)
{
	struct ahci_command *command = &port->command[slot];
	struct machine *machine = port->ahci->machine;
	uint8_t header[HEADER_SIZE], table[TABLE_PRDT];
	uint32_t flags;

	command->active = true;
	command->protocol = ATA_NO_DATA;
	command->moved = 0;
	command->header = port->clb + slot * HEADER_SIZE;
	port->issued |= 1u << slot;
	port->cmd = (port->cmd & ~0x1f00u) | slot << CMD_CCS_SHIFT;
	if (dma_read(machine, command->header, header, sizeof(header))) {
		ahci_fail_host(command);
		return;
	}
	flags = get32(header);
	command->prd_count = flags >> 16;
	command->table = get64(header + 8) & ~UINT64_C(0x7f);
	if (dma_read(machine, command->table, table, sizeof(table))) {
		ahci_fail_host(command);
		return;
	}
	memcpy(command->fis, table, sizeof(command->fis));
	memcpy(command->packet, table + TABLE_PACKET, sizeof(command->packet));
	dispatch(command, flags);
}

static bool can_take(const struct ahci_port *port)
{
	return port->disk && port->cmd & AHCI_CMD_ST && !port->halted && !port->busy &&
	       !(port->tfd & (ATA_BSY | ATA_DRQ)) && pci_is_master(&port->ahci->function);
}

void ahci_run(struct ahci_port *port)
{
	if (port->running)
		return;
	port->running = true;
	/* A turn starts one of the guest's slots, and no new one is issued meanwhile: at most 32 turns. */
	for (uint32_t waiting; can_take(port) && (waiting = port->ci & ~port->issued);) {
		uint32_t behind = waiting & (UINT32_MAX << port->next_slot);
		unsigned slot = (unsigned)__builtin_ctz(behind ? behind : waiting);

		port->next_slot = (uint8_t)((slot + 1) % AHCI_SLOTS);
		start(port, slot);
	}
	port->running = false;
}

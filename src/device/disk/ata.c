/* An ATA disk: the commands of ATA8-ACS (the general feature set, 48-bit addresses, NCQ, TRIM, SMART's and the logs'
 * beginnings), executed on a drive of disk.h. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "device/disk/ahci.h"

#define MULTIPLE_MAX    16
#define TRIM_BLOCKS_MAX 8 /* IDENTIFY word 105 */
#define TRIM_PER_BLOCK  64
#define HEADS           16
#define TRACK           63
#define SMART_LBA       0xc24f /* LBA high and mid of every SMART command */
#define SMART_BAD       0x2cf4

struct ata_op {
	uint8_t code;
	void (*execute)(struct ahci_command *command, const struct ata_op *op);
	enum ata_protocol protocol;
	enum block_operation operation;
	bool ext, durable;
};

/* ---- registers ---- */

static uint64_t lba48_of(const uint8_t fis[64])
{
	return fis[4] | (uint64_t)fis[5] << 8 | (uint64_t)fis[6] << 16 | (uint64_t)fis[8] << 24 |
	       (uint64_t)fis[9] << 32 | (uint64_t)fis[10] << 40;
}

struct ata_result ata_result_of(const struct ahci_command *command, uint8_t status, uint8_t error)
{
	const uint8_t *fis = command->fis;

	return (struct ata_result){.status = status, .error = error, .device = fis[7], .count = (uint16_t)(fis[12] | fis[13] << 8),
		.lba = lba48_of(fis)};
}

void ata_end(struct ahci_command *command, uint8_t status, uint8_t error)
{
	struct ata_result result = ata_result_of(command, status, error);

	ahci_finish(command, &result);
}

static void good(struct ahci_command *command)
{
	ata_end(command, ATA_GOOD, 0);
}

static void aborted(struct ahci_command *command)
{
	ata_end(command, ATA_GOOD | ATA_ERR, ATA_ERROR_ABRT);
}

static struct ata_drive *drive_of(struct ahci_command *command)
{
	return &command->port->ata;
}

static uint64_t sectors_of(const struct ahci_port *port)
{
	return disk_size(port->disk) / BLOCK_SECTOR;
}

/* The first sector: by number, or by cylinder, head and sector in the default translation. UINT64_MAX: no such. */
static uint64_t first_sector(const struct ahci_command *command, bool ext)
{
	const uint8_t *fis = command->fis;
	uint32_t cylinder = fis[5] | fis[6] << 8, head = fis[7] & 15;

	if (ext)
		return lba48_of(fis);
	if (fis[7] & 0x40)
		return fis[4] | fis[5] << 8 | fis[6] << 16 | head << 24;
	return fis[4] ? (cylinder * HEADS + head) * TRACK + fis[4] - 1 : UINT64_MAX;
}

/* 0 stands for the largest number. */
static uint32_t sector_count(const struct ahci_command *command, bool ext)
{
	const uint8_t *fis = command->fis;
	uint32_t count = fis[12] | (ext ? fis[13] << 8 : 0);

	return count ? count : ext ? 65536 : 256;
}

static bool in_range(const struct ahci_command *command, uint64_t first, uint32_t count)
{
	uint64_t sectors = sectors_of(command->port);

	return first <= sectors && count <= sectors - first;
}

/* ---- reads and writes ---- */

/* The error register of a failed transfer. What memory cannot be reached is the controller's error. */
static void transfer_done(struct disk_request *request, int result)
{
	struct ahci_command *command = ahci_command_of(request);

	if (result == -EFAULT)
		ahci_fail_host(command);
	else if (result)
		ata_end(command, ATA_GOOD | ATA_ERR,
		        request->operation == BLOCK_READ ? ATA_ERROR_UNC : ATA_ERROR_ABRT);
	else
		good(command);
}

static void transfer(struct ahci_command *command, enum block_operation operation, uint64_t first,
                     uint32_t count, bool durable)
{
	bool write = operation == BLOCK_WRITE;

	if (!in_range(command, first, count)) {
		ata_end(command, ATA_GOOD | ATA_ERR, ATA_ERROR_IDNF);
		return;
	}
	if (write && disk_read_only(command->port->disk)) {
		aborted(command);
		return;
	}
	ahci_start_io(command, operation, first * BLOCK_SECTOR, (uint64_t)count * BLOCK_SECTOR,
		      write && (durable || !drive_of(command)->write_cache), transfer_done);
}

static void read_write(struct ahci_command *command, const struct ata_op *op)
{
	command->protocol = op->protocol;
	transfer(command, op->operation, first_sector(command, op->ext), sector_count(command, op->ext),
	         op->durable);
}

static void read_write_multiple(struct ahci_command *command, const struct ata_op *op)
{
	if (!drive_of(command)->multiple)
		aborted(command);
	else
		read_write(command, op);
}

/* READ, WRITE FPDMA QUEUED: the count is in the features registers, the tag (the slot's number) in the count. */
static void read_write_queued(struct ahci_command *command, const struct ata_op *op)
{
	const uint8_t *fis = command->fis;
	uint32_t count = fis[3] | fis[11] << 8;

	if (fis[12] >> 3 != command->slot || drive_of(command)->ncq_failed) {
		aborted(command);
		return;
	}
	ahci_accept_queued(command);
	transfer(command, op->operation, lba48_of(fis), count ? count : 65536, fis[7] & 0x80);
}

static void verify(struct ahci_command *command, const struct ata_op *op)
{
	bool fits = in_range(command, first_sector(command, op->ext), sector_count(command, op->ext));

	ata_end(command, ATA_GOOD | (fits ? 0 : ATA_ERR), fits ? 0 : ATA_ERROR_IDNF);
}

static void flush_done(struct disk_request *request, int result)
{
	if (result)
		aborted(ahci_command_of(request));
	else
		good(ahci_command_of(request));
}

static void flush(struct ahci_command *command, const struct ata_op *op)
{
	ahci_start_io(command, BLOCK_FLUSH, 0, 0, false, flush_done);
}

/* ---- DATA SET MANAGEMENT ---- */

static void trim_next(struct ahci_command *command);

static void trim_done(struct disk_request *request, int result)
{
	struct ahci_command *command = ahci_command_of(request);

	if (result)
		aborted(command);
	else
		trim_next(command);
}

/* An entry: LBA in 48 bits, count in 16; no count: nothing. */
static void trim_next(struct ahci_command *command)
{
	while (command->range_next < command->range_count) {
		const uint8_t *entry = command->ranges + 8 * command->range_next++;
		uint64_t first = 0;
		uint32_t count = entry[6] | entry[7] << 8;

		for (unsigned i = 0; i < 6; i++)
			first |= (uint64_t)entry[i] << (8 * i);
		if (!count)
			continue;
		if (!in_range(command, first, count)) {
			ata_end(command, ATA_GOOD | ATA_ERR, ATA_ERROR_IDNF | ATA_ERROR_ABRT);
			return;
		}
		ahci_start_io(command, BLOCK_DISCARD, first * BLOCK_SECTOR, (uint64_t)count * BLOCK_SECTOR,
		              false, trim_done);
		return;
	}
	good(command);
}

static void data_set_management(struct ahci_command *command, const struct ata_op *op)
{
	uint32_t blocks = command->fis[12] | command->fis[13] << 8;

	command->protocol = ATA_DMA;
	if (!(command->fis[3] & 1) || !blocks || blocks > TRIM_BLOCKS_MAX ||
	    disk_read_only(command->port->disk)) {
		aborted(command);
		return;
	}
	command->ranges = malloc(blocks * BLOCK_SECTOR);
	if (!command->ranges) {
		aborted(command);
		return;
	}
	if (ahci_data_out(command, command->ranges, blocks * BLOCK_SECTOR))
		return;
	command->range_count = blocks * TRIM_PER_BLOCK;
	command->range_next = 0;
	trim_next(command);
}

/* ---- what the drive tells of itself ---- */

static void identify(struct ahci_command *command, const struct ata_op *op)
{
	uint16_t word[256];

	command->protocol = ATA_PIO_IN;
	ata_identify(command->port, word);
	if (!ahci_data_in(command, word, sizeof(word)))
		good(command);
}

/* Byte 511 makes the sum of all 0. */
static void add_checksum(uint8_t page[512])
{
	uint8_t sum = 0;

	for (unsigned i = 0; i < 511; i++)
		sum = (uint8_t)(sum + page[i]);
	page[511] = (uint8_t)-sum;
}

/* "NCQ Error log (Log Address 10h)"; reading it lets the drive take queued commands again. */
static void fill_ncq_log(struct ahci_port *port, uint8_t page[512])
{
	struct ata_drive *drive = &port->ata;
	const struct ata_result *result = &drive->ncq_result;

	page[0] = drive->ncq_failed ? drive->ncq_tag : 0x80; /* NQ: the last error was of no queued command */
	if (drive->ncq_failed) {
		page[2] = result->status;
		page[3] = result->error;
		for (unsigned i = 0; i < 3; i++) {
			page[4 + i] = (uint8_t)(result->lba >> (8 * i));
			page[8 + i] = (uint8_t)(result->lba >> (8 * (i + 3)));
		}
		page[7] = result->device;
		page[12] = (uint8_t)result->count;
		page[13] = (uint8_t)(result->count >> 8);
	}
	add_checksum(page);
	drive->ncq_failed = false;
}

/* "READ LOG EXT": the directory, the NCQ error log and the empty error and self-test logs. */
static void read_log(struct ahci_command *command, const struct ata_op *op)
{
	static const uint8_t pages_of[] = {[0x00] = 1, [0x03] = 1, [0x07] = 1, [0x10] = 1};
	uint8_t page[512] = {0}, log = command->fis[4];
	uint32_t first = command->fis[5] | command->fis[9] << 8,
	         count = command->fis[12] | command->fis[13] << 8;

	command->protocol = op->protocol;
	if (log >= sizeof(pages_of) || !pages_of[log] || first || count != 1) {
		aborted(command);
		return;
	}
	if (log == 0x00) {
		page[0] = 1; /* version */
		for (unsigned i = 1; i < sizeof(pages_of); i++)
			page[2 * i] = pages_of[i];
	} else if (log == 0x10) {
		fill_ncq_log(command->port, page);
	} else {
		page[0] = 1;
		add_checksum(page);
	}
	if (!ahci_data_in(command, page, sizeof(page)))
		good(command);
}

static void smart_page(struct ahci_command *command)
{
	uint8_t page[512] = {0};

	command->protocol = ATA_PIO_IN;
	switch (command->fis[3]) {
	case 0xd0: /* READ DATA: no attributes; no self-test or collection was ever started */
		page[0] = 1;
		page[368] = 2; /* error logging */
		page[369] = 0;
		break;
	case 0xd1: /* READ THRESHOLDS */
		page[0] = 1;
		break;
	default: /* READ LOG: directory, summary error log, self-test log */
		if (command->fis[4] != 0x00 && command->fis[4] != 0x01 && command->fis[4] != 0x06) {
			aborted(command);
			return;
		}
		page[0] = 1;
	}
	add_checksum(page);
	if (!ahci_data_in(command, page, sizeof(page)))
		good(command);
}

static void smart(struct ahci_command *command, const struct ata_op *op)
{
	struct ata_drive *drive = drive_of(command);
	uint8_t what = command->fis[3];
	struct ata_result result;

	if ((command->fis[5] | command->fis[6] << 8) != SMART_LBA || (!drive->smart && what != 0xd8)) {
		aborted(command);
		return;
	}
	switch (what) {
	case 0xd0:
	case 0xd1:
	case 0xd5:
		smart_page(command);
		return;
	case 0xd2: /* attribute autosave, offline tests: nothing to do */
	case 0xd4:
		good(command);
		return;
	case 0xd8:
	case 0xd9:
		drive->smart = what == 0xd8;
		good(command);
		return;
	case 0xda: /* RETURN STATUS: no threshold was exceeded */
		result = ata_result_of(command, ATA_GOOD, 0);
		ahci_finish(command, &result);
		return;
	default:
		aborted(command);
	}
}

/* ---- settings ---- */

static void set_features(struct ahci_command *command, const struct ata_op *op)
{
	struct ata_drive *drive = drive_of(command);
	uint8_t value = command->fis[12];

	switch (command->fis[3]) {
	case 0x02:
		drive->write_cache = true;
		break;
	case 0x82: /* what the cache holds must be written before */
		drive->write_cache = false;
		flush(command, op);
		return;
	case 0xaa:
	case 0x55:
		drive->look_ahead = command->fis[3] == 0xaa;
		break;
	case 0x03: /* PIO default, PIO, multiword and Ultra DMA modes */
		if (value > 0x0c && (value < 0x20 || value > 0x22) && (value < 0x40 || value > 0x46)) {
			aborted(command);
			return;
		}
		drive->transfer_mode = value;
		break;
	case 0x66: /* keep settings over a software reset: they are kept */
	case 0xcc:
		break;
	default:
		aborted(command);
		return;
	}
	good(command);
}

static void set_multiple(struct ahci_command *command, const struct ata_op *op)
{
	uint8_t count = command->fis[12];

	if (count > MULTIPLE_MAX || count & (count - 1)) {
		aborted(command);
		return;
	}
	drive_of(command)->multiple = count;
	good(command);
}

static void check_power(struct ahci_command *command, const struct ata_op *op)
{
	struct ata_result result = ata_result_of(command, ATA_GOOD, 0);

	result.count = 0xff; /* active or idle */
	ahci_finish(command, &result);
}

/* The drive is ready at once for what comes next; nothing is to be saved but the cache. */
static void standby(struct ahci_command *command, const struct ata_op *op)
{
	flush(command, op);
}

static void do_nothing(struct ahci_command *command, const struct ata_op *op)
{
	good(command);
}

/* EXECUTE DEVICE DIAGNOSTIC: the signature, and error 1: no error was found. */
static void diagnose(struct ahci_command *command, const struct ata_op *op)
{
	struct ata_result result = {.status = ATA_GOOD, .error = 1, .count = 1, .lba = 1};

	ahci_finish(command, &result);
}

/* ---- the table ---- */

static const struct ata_op ops[] = {
	{.code = 0x06, .execute = data_set_management},
	{.code = 0x10, .execute = do_nothing}, /* RECALIBRATE */
	{0x20, read_write, ATA_PIO_IN, BLOCK_READ, false, false},           /* READ SECTORS */
	{0x21, read_write, ATA_PIO_IN, BLOCK_READ, false, false},           /* … without retries */
	{0x24, read_write, ATA_PIO_IN, BLOCK_READ, true, false},            /* READ SECTORS EXT */
	{0x25, read_write, ATA_DMA, BLOCK_READ, true, false},               /* READ DMA EXT */
	{0x29, read_write_multiple, ATA_PIO_IN, BLOCK_READ, true, false},   /* READ MULTIPLE EXT */
	{.code = 0x2f, .execute = read_log, .protocol = ATA_PIO_IN},
	{0x30, read_write, ATA_PIO_OUT, BLOCK_WRITE, false, false},         /* WRITE SECTORS */
	{0x31, read_write, ATA_PIO_OUT, BLOCK_WRITE, false, false},
	{0x34, read_write, ATA_PIO_OUT, BLOCK_WRITE, true, false},          /* WRITE SECTORS EXT */
	{0x35, read_write, ATA_DMA, BLOCK_WRITE, true, false},              /* WRITE DMA EXT */
	{0x39, read_write_multiple, ATA_PIO_OUT, BLOCK_WRITE, true, false}, /* WRITE MULTIPLE EXT */
	{0x3d, read_write, ATA_DMA, BLOCK_WRITE, true, true},               /* WRITE DMA FUA EXT */
	{.code = 0x40, .execute = verify},                                  /* READ VERIFY SECTORS */
	{.code = 0x41, .execute = verify},
	{.code = 0x42, .execute = verify, .ext = true},
	{.code = 0x47, .execute = read_log, .protocol = ATA_DMA},           /* READ LOG DMA EXT */
	{0x60, read_write_queued, ATA_NCQ, BLOCK_READ, true, false},
	{0x61, read_write_queued, ATA_NCQ, BLOCK_WRITE, true, false},
	{.code = 0x70, .execute = do_nothing},                              /* SEEK */
	{.code = 0x90, .execute = diagnose},
	{.code = 0x91, .execute = do_nothing},                              /* INITIALIZE DEVICE PARAMETERS */
	{.code = 0xb0, .execute = smart},
	{0xc4, read_write_multiple, ATA_PIO_IN, BLOCK_READ, false, false},
	{0xc5, read_write_multiple, ATA_PIO_OUT, BLOCK_WRITE, false, false},
	{.code = 0xc6, .execute = set_multiple},
	{0xc8, read_write, ATA_DMA, BLOCK_READ, false, false},
	{0xc9, read_write, ATA_DMA, BLOCK_READ, false, false},
	{0xca, read_write, ATA_DMA, BLOCK_WRITE, false, false},
	{0xcb, read_write, ATA_DMA, BLOCK_WRITE, false, false},
	{0xce, read_write_multiple, ATA_PIO_OUT, BLOCK_WRITE, true, true},  /* WRITE MULTIPLE FUA EXT */
	{.code = 0xe0, .execute = standby},                                 /* STANDBY IMMEDIATE */
	{.code = 0xe1, .execute = do_nothing},                              /* IDLE IMMEDIATE */
	{.code = 0xe2, .execute = standby},                                 /* STANDBY */
	{.code = 0xe3, .execute = do_nothing},                              /* IDLE */
	{.code = 0xe5, .execute = check_power},
	{.code = 0xe6, .execute = standby},                                 /* SLEEP */
	{.code = 0xe7, .execute = flush},
	{.code = 0xea, .execute = flush},                                   /* FLUSH CACHE EXT */
	{.code = 0xec, .execute = identify},
	{.code = 0xef, .execute = set_features},
};

void ata_execute(struct ahci_command *command)
{
	uint8_t code = command->fis[2];

	/* Only queued commands go together: "the device shall return command aborted" for another one meanwhile. */
	if (command->port->queued && code != 0x60 && code != 0x61) {
		aborted(command);
		return;
	}
	for (size_t i = 0; i < sizeof(ops) / sizeof(ops[0]); i++) {
		if (ops[i].code == code) {
			ops[i].execute(command, &ops[i]);
			return;
		}
	}
	aborted(command);
}

void ata_reset(struct ahci_port *port, bool hard)
{
	if (hard)
		port->ata = (struct ata_drive){.write_cache = true, .look_ahead = true, .smart = true, .multiple = MULTIPLE_MAX,
			.transfer_mode = 0x45};
	port->ata.ncq_failed = false;
}

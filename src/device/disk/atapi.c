/*
 * A CD or DVD drive: the packet commands of SPC-3 and MMC-5 that drivers, firmware and boot loaders send to read a disc
 * with one data track, and its few ATA commands.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "device/disk/ahci.h"
#include "machine/machine.h"

#define SECTOR      2048u
#define CD_SECTORS  405000u /* 90 minutes; a larger disc is a DVD */
#define BLOCKS_MAX  0x3ffffu /* of one command, 512 MiB */
#define DATA_TRACK  0x14    /* ADR 1, control 4: a data track */
#define LEAD_OUT    0xaa
#define PROFILE_CD  0x0008
#define PROFILE_DVD 0x0010

#define NOT_READY       0x2
#define MEDIUM_ERROR    0x3
#define ILLEGAL_REQUEST 0x5
#define UNIT_ATTENTION  0x6

/* Additional sense codes. */
#define ASC_READ_ERROR    0x11
#define ASC_BAD_OPCODE    0x20
#define ASC_BAD_ADDRESS   0x21
#define ASC_BAD_FIELD     0x24
#define ASC_NEW_MEDIUM    0x28
#define ASC_RESET         0x29
#define ASC_NO_MEDIUM     0x3a
#define ASC_TRAY_CLOSED   0x01 /* qualifiers of ASC_NO_MEDIUM */
#define ASC_TRAY_OPEN     0x02
#define ASC_NOT_REMOVABLE 0x53
#define ASC_PREVENTED     0x02 /* qualifier of ASC_NOT_REMOVABLE */

struct packet_op {
	uint8_t code;
	void (*execute)(struct ahci_command *command);
	bool needs_medium;
	bool always; /* also while a unit attention is pending */
};

/* ---- helpers ---- */

static uint16_t get16(const uint8_t *p)
{
	return (uint16_t)(p[0] << 8 | p[1]);
}

static uint32_t get32(const uint8_t *p)
{
	return (uint32_t)get16(p) << 16 | get16(p + 2);
}

static void put16(uint8_t *p, uint32_t value)
{
	p[0] = (uint8_t)(value >> 8);
	p[1] = (uint8_t)value;
}

static void put32(uint8_t *p, uint32_t value)
{
	put16(p, value >> 16);
	put16(p + 2, value);
}

static struct atapi_drive *drive_of(struct ahci_command *command)
{
	return &command->port->atapi;
}

static uint32_t blocks_of(const struct ahci_port *port)
{
	uint64_t blocks = disk_size(port->disk) / SECTOR;

	return blocks > UINT32_MAX ? UINT32_MAX : (uint32_t)blocks;
}

static bool has_medium(const struct ahci_port *port)
{
	return !port->atapi.ejected && disk_size(port->disk);
}

static bool is_dvd(const struct ahci_port *port)
{
	return blocks_of(port) > CD_SECTORS;
}

/* The end of a packet command: "Interrupt Reason" says completion; the byte count is what was moved last. */
static void end(struct ahci_command *command, uint8_t status, uint8_t error)
{
	struct ata_result result = ata_result_of(command, status, error);

	result.count = (result.count & ~7) | 3;
	if (command->moved)
		result.lba = (result.lba & ~UINT64_C(0xffff00)) |
		             (command->moved > 0xfffe ? 0xfffe : command->moved) << 8;
	ahci_finish(command, &result);
}

static void good(struct ahci_command *command)
{
	struct atapi_drive *drive = drive_of(command);

	drive->sense_key = drive->asc = drive->ascq = 0;
	end(command, ATA_GOOD, 0);
}

static void check_condition(struct ahci_command *command, uint8_t key, uint8_t asc, uint8_t ascq)
{
	struct atapi_drive *drive = drive_of(command);

	drive->sense_key = key;
	drive->asc = asc;
	drive->ascq = ascq;
	end(command, ATA_GOOD | ATA_ERR, (uint8_t)(key << 4 | (key == ILLEGAL_REQUEST ? ATA_ERROR_ABRT : 0)));
}

static void bad_field(struct ahci_command *command)
{
	check_condition(command, ILLEGAL_REQUEST, ASC_BAD_FIELD, 0);
}

/* Sends what of the answer the allocation length has room for. */
static void answer(struct ahci_command *command, const uint8_t *data, uint32_t size, uint32_t allocation)
{
	uint32_t sent = size < allocation ? size : allocation;

	if (!ahci_data_in(command, data, sent))
		good(command);
}

/* ---- what the drive is ---- */

static void test_unit_ready(struct ahci_command *command)
{
	good(command);
}

static void request_sense(struct ahci_command *command)
{
	struct atapi_drive *drive = drive_of(command);
	uint8_t sense[18] = {[0] = 0x70, [2] = drive->sense_key, [7] = 10, [12] = drive->asc, [13] = drive->ascq};

	if (!drive->sense_key && drive->attention) {
		sense[2] = UNIT_ATTENTION;
		sense[12] = drive->attention;
		drive->attention = 0;
	}
	answer(command, sense, sizeof(sense), command->packet[4]);
}

static void inquiry(struct ahci_command *command)
{
	uint8_t data[36] = {0x05, 0x80, 0x05, 0x32, sizeof(data) - 5}; /* CD/DVD, removable, SPC-3, ATAPI */

	if (command->packet[1] & 1 || command->packet[2]) { /* no vital product data */
		bad_field(command);
		return;
	}
	memcpy(data + 8, "Nestor  CD-ROM          1.0 ", 28);
	answer(command, data, sizeof(data), get16(command->packet + 3));
}

/* MMC, "Feature" descriptors: number, whether current, and their data; the profile list stands before them. */
struct feature {
	uint16_t number;
	uint8_t flags; /* version << 2 | persistent << 1; current is found out */
	uint8_t size;
	uint8_t data[8];
	enum { ALWAYS, WITH_MEDIUM, WITH_CD, WITH_DVD } current;
};

static const struct feature features[] = {
	{0x0001, 0x0b, 8, {0, 0, 0, 2, 1, 0, 0, 0}, ALWAYS},      /* core: ATAPI */
	{0x0003, 0x0b, 4, {0x29, 0, 0, 0}, ALWAYS},               /* removable: tray, ejects, locks */
	{0x0010, 0x00, 8, {0, 0, 8, 0, 0, 1, 0, 0}, WITH_MEDIUM}, /* random readable: blocks of 2048 */
	{0x001e, 0x08, 4, {0, 0, 0, 0}, WITH_CD},                 /* CD read */
	{0x001f, 0x00, 0, {0}, WITH_DVD},                         /* DVD read */
};

static bool is_current(const struct ahci_port *port, const struct feature *feature)
{
	bool medium = has_medium(port);

	return feature->current == ALWAYS || (medium && (feature->current == WITH_MEDIUM ||
							 (feature->current == WITH_DVD) == is_dvd(port)));
}

static void get_configuration(struct ahci_command *command)
{
	const struct ahci_port *port = command->port;
	uint8_t data[96] = {0}, how = command->packet[1] & 3;
	uint16_t from = get16(command->packet + 2);
	uint16_t profile = !has_medium(port) ? 0 : is_dvd(port) ? PROFILE_DVD : PROFILE_CD;
	uint32_t size = 8;

	put16(data + 6, profile);
	if (from == 0) {
		uint8_t list[12] = {0, 0, 0x03, 8, 0, PROFILE_DVD, profile == PROFILE_DVD, 0, 0, PROFILE_CD, profile == PROFILE_CD, 0};

		memcpy(data + size, list, sizeof(list));
		size += sizeof(list);
	}
	for (size_t i = 0; i < sizeof(features) / sizeof(features[0]); i++) {
		const struct feature *feature = &features[i];
		bool current = is_current(port, feature);

		if (feature->number < from || (how == 1 && !current) || (how == 2 && feature->number != from))
			continue;
		put16(data + size, feature->number);
		data[size + 2] = (uint8_t)((feature->flags & ~1) | current);
		data[size + 3] = feature->size;
		memcpy(data + size + 4, feature->data, feature->size);
		size += 4u + feature->size;
	}
	put32(data, size - 4);
	answer(command, data, size, get16(command->packet + 7));
}

/* ---- mode pages ---- */

static const uint8_t page_errors[] = {0x01, 0x06, 0, 5, 0, 0, 0, 0};
/* "CD/DVD Capabilities": reads CD-R and DVD; locks, ejects, a tray; speeds in kB/s. */
static const uint8_t page_capabilities[] = {0x2a, 0x12, 0x0b, 0, 0,    0,    0x29, 0, 0x15, 0x9f,
                                            0,    0,    0x02, 0, 0x15, 0x9f, 0,    0, 0,    0};

static void mode_sense_pages(struct ahci_command *command, unsigned header, uint32_t allocation)
{
	uint8_t data[8 + sizeof(page_errors) + sizeof(page_capabilities)] = {0};
	uint8_t page = command->packet[2] & 0x3f, control = command->packet[2] >> 6;
	uint32_t size = header;

	if (control == 3) { /* saved values */
		check_condition(command, ILLEGAL_REQUEST, 0x39, 0);
		return;
	}
	if (page == 0x01 || page == 0x3f) {
		memcpy(data + size, page_errors, sizeof(page_errors));
		size += sizeof(page_errors);
	}
	if (page == 0x2a || page == 0x3f) {
		memcpy(data + size, page_capabilities, sizeof(page_capabilities));
		data[size + 6] |= drive_of(command)->locked ? 2 : 0;
		size += sizeof(page_capabilities);
	}
	if (size == header) {
		bad_field(command);
		return;
	}
	if (control == 1) /* what can be changed: nothing */
		for (uint32_t at = header; at < size; at += data[at + 1] + 2u)
			memset(data + at + 2, 0, data[at + 1]);
	if (header == 4)
		data[0] = (uint8_t)(size - 1);
	else
		put16(data, size - 2);
	answer(command, data, size, allocation);
}

static void mode_sense_6(struct ahci_command *command)
{
	mode_sense_pages(command, 4, command->packet[4]);
}

static void mode_sense_10(struct ahci_command *command)
{
	mode_sense_pages(command, 8, get16(command->packet + 7));
}

/* ---- the tray ---- */

static void prevent_removal(struct ahci_command *command)
{
	drive_of(command)->locked = command->packet[4] & 1;
	good(command);
}

static void tell_tray(const struct ahci_port *port)
{
	char text[32];

	snprintf(text, sizeof(text), "disk%u %s", port->drive, port->atapi.ejected ? "open" : "closed");
	machine_notify(port->ahci->machine, MACHINE_EVENT_TRAY, text);
}

/* The guest finds another disc, or none, from now on. */
static void disc_appeared(struct atapi_drive *drive)
{
	drive->events |= ATAPI_EVENT_NEW_MEDIUM;
	drive->attention = ASC_NEW_MEDIUM;
}

static void disc_disappeared(struct atapi_drive *drive)
{
	drive->events = (drive->events & ~(ATAPI_EVENT_NEW_MEDIUM | ATAPI_EVENT_EJECT_REQUEST)) | ATAPI_EVENT_REMOVAL;
	if (drive->attention == ASC_NEW_MEDIUM)
		drive->attention = 0;
}

static void move_tray(struct ahci_port *port, bool out)
{
	bool had = has_medium(port);

	port->atapi.ejected = out;
	if (had && !has_medium(port))
		disc_disappeared(&port->atapi);
	else if (!had && has_medium(port))
		disc_appeared(&port->atapi);
	tell_tray(port);
}

static void start_stop(struct ahci_command *command)
{
	struct atapi_drive *drive = drive_of(command);
	bool load_eject = command->packet[4] & 2, start = command->packet[4] & 1;

	if (load_eject && !start && drive->locked && !drive->ejected) {
		check_condition(command, ILLEGAL_REQUEST, ASC_NOT_REMOVABLE, ASC_PREVENTED);
		return;
	}
	if (load_eject && drive->ejected == start)
		move_tray(command->port, !start);
	good(command);
}

/* "Media Event Codes" */
static uint8_t next_media_event(struct atapi_drive *drive)
{
	static const uint8_t code[][2] = {{ATAPI_EVENT_EJECT_REQUEST, 1}, {ATAPI_EVENT_REMOVAL, 3}, {ATAPI_EVENT_NEW_MEDIUM, 2}};

	for (size_t i = 0; i < sizeof(code) / sizeof(code[0]); i++)
		if (drive->events & code[i][0]) {
			drive->events &= (uint8_t)~code[i][0];
			return code[i][1];
		}
	return 0;
}

static void event_status(struct ahci_command *command)
{
	struct atapi_drive *drive = drive_of(command);
	uint8_t data[8] = {0, 0, 0x80, 0x10}; /* no event of the classes asked for; there are media events */
	uint32_t size = 4;

	if (!(command->packet[1] & 1)) { /* asynchronous */
		bad_field(command);
		return;
	}
	if (command->packet[4] & 0x10) {
		data[2] = 0x04;
		data[4] = next_media_event(drive);
		data[5] = (drive->ejected ? 1 : 0) | (has_medium(command->port) ? 2 : 0);
		size = 8;
	}
	put16(data, size - 2);
	answer(command, data, size, get16(command->packet + 7));
}

static void mechanism_status(struct ahci_command *command)
{
	uint8_t data[8] = {0, drive_of(command)->ejected ? 0x10 : 0};

	answer(command, data, sizeof(data), get16(command->packet + 8));
}

/* ---- the disc ---- */

static void read_capacity(struct ahci_command *command)
{
	uint8_t data[8];

	put32(data, blocks_of(command->port) - 1);
	put32(data + 4, SECTOR);
	answer(command, data, sizeof(data), sizeof(data));
}

/* An address as a block or as minute, second, frame. */
static void put_address(uint8_t *to, uint32_t block, bool msf)
{
	uint32_t frames = block + 150;

	if (!msf) {
		put32(to, block);
		return;
	}
	to[0] = 0;
	to[1] = (uint8_t)(frames / (75 * 60) > 255 ? 255 : frames / (75 * 60));
	to[2] = (uint8_t)(frames / 75 % 60);
	to[3] = (uint8_t)(frames % 75);
}

/* "READ TOC/PMA/ATIP", format 2: the lead-in's entries A0, A1, A2 and the track. */
static uint32_t full_toc(struct ahci_command *command, uint8_t *data)
{
	static const uint8_t point[] = {0xa0, 0xa1, 0xa2, 1};
	uint8_t address[4];
	uint32_t size = 4;

	for (unsigned i = 0; i < sizeof(point); i++, size += 11) {
		uint8_t *entry = data + size;

		memset(entry, 0, 11);
		entry[0] = 1; /* session */
		entry[1] = DATA_TRACK;
		entry[3] = point[i];
		if (point[i] == 0xa0 || point[i] == 0xa1) {
			entry[8] = 1; /* first and last track */
		} else {
			put_address(address, point[i] == 0xa2 ? blocks_of(command->port) : 0, true);
			memcpy(entry + 8, address + 1, 3);
		}
	}
	return size;
}

static void read_toc(struct ahci_command *command)
{
	uint8_t data[64] = {0, 0, 1, 1}; /* first and last track, or session */
	uint8_t format = command->packet[2] & 15, from = command->packet[6];
	bool msf = command->packet[1] & 2;
	uint32_t size = 4;

	if (!format)
		format = command->packet[9] >> 6; /* where older drivers have it */
	if ((format == 0 && from > 1 && from != LEAD_OUT) || format > 2) {
		bad_field(command);
		return;
	}
	if (format == 2) {
		size = full_toc(command, data);
	} else {
		for (unsigned track = 1; track <= LEAD_OUT; track += LEAD_OUT - 1) {
			if (format == 0 ? track < from : track == LEAD_OUT)
				continue;
			data[size + 1] = DATA_TRACK;
			data[size + 2] = (uint8_t)track;
			put_address(data + size + 4, track == 1 ? 0 : blocks_of(command->port), msf);
			size += 8;
		}
	}
	put16(data, size - 2);
	answer(command, data, size, get16(command->packet + 7));
}

static void disc_information(struct ahci_command *command)
{
	uint8_t data[34] = {0, sizeof(data) - 2, 0x0e, 1, 1, 1, 1, 0x20}; /* complete; one session, one track */

	if (command->packet[1] & 7) {
		bad_field(command);
		return;
	}
	memset(data + 16, 0xff, 8); /* no lead-in or lead-out to write at */
	answer(command, data, sizeof(data), get16(command->packet + 7));
}

static void track_information(struct ahci_command *command)
{
	uint8_t data[36] = {0, sizeof(data) - 2, 1, 1, 0, 4, 1};

	put32(data + 24, blocks_of(command->port));
	answer(command, data, sizeof(data), get16(command->packet + 7));
}

/* "READ DISC STRUCTURE": a DVD's physical format and copyright layers. */
static void disc_structure(struct ahci_command *command)
{
	uint8_t data[2052] = {0}, format = command->packet[7];
	uint32_t size = format == 0 ? 2052 : 8;

	if (!is_dvd(command->port) || format > 1 || command->packet[6]) {
		bad_field(command);
		return;
	}
	put16(data, size - 2);
	if (format == 0) {
		data[4] = 0x01; /* DVD-ROM, version 1 */
		data[5] = 0x0f; /* 120 mm, no largest rate */
		data[6] = 0x01; /* one layer, embossed */
		put32(data + 8, 0x30000);
		put32(data + 12, 0x30000 + blocks_of(command->port) - 1);
	}
	answer(command, data, size, get16(command->packet + 8));
}

static void sub_channel(struct ahci_command *command)
{
	uint8_t data[24] = {0, 0x15}, format = command->packet[3];
	bool wanted = command->packet[2] & 0x40;
	uint32_t size = wanted ? format == 1 ? 16 : 24 : 4;

	if (wanted && (format < 1 || format > 3)) {
		bad_field(command);
		return;
	}
	put16(data + 2, size - 4);
	data[4] = wanted ? format : 0;
	data[5] = wanted ? DATA_TRACK : 0;
	data[6] = wanted && format != 2 ? 1 : 0;
	answer(command, data, size, get16(command->packet + 7));
}

/* ---- reading ---- */

static void read_done(struct disk_request *request, int result)
{
	struct ahci_command *command = ahci_command_of(request);

	if (result == -EFAULT) {
		ahci_fail_host(command);
	} else if (result) {
		command->moved = 0;
		check_condition(command, MEDIUM_ERROR, ASC_READ_ERROR, 0);
	} else {
		good(command);
	}
}

static void read_blocks(struct ahci_command *command, uint32_t first, uint32_t count)
{
	uint32_t blocks = blocks_of(command->port);

	if (first > blocks || count > blocks - first) {
		check_condition(command, ILLEGAL_REQUEST, ASC_BAD_ADDRESS, 0);
	} else if (count > BLOCKS_MAX) {
		bad_field(command);
	} else if (!count) {
		good(command);
	} else {
		ahci_start_io(command, BLOCK_READ, (uint64_t)first * SECTOR, (uint64_t)count * SECTOR, false,
		              read_done);
	}
}

static void read_10(struct ahci_command *command)
{
	read_blocks(command, get32(command->packet + 2), get16(command->packet + 7));
}

static void read_12(struct ahci_command *command)
{
	read_blocks(command, get32(command->packet + 2), get32(command->packet + 6));
}

/* "READ CD": user data of mode 1 sectors only; or nothing at all. */
static void read_cd(struct ahci_command *command)
{
	uint32_t count = (uint32_t)command->packet[6] << 16 | get16(command->packet + 7);
	uint8_t type = command->packet[1] >> 2 & 7, fields = command->packet[9] & 0xfe;

	if ((type != 0 && type != 2) || command->packet[10] & 7 || (fields && fields != 0x10))
		bad_field(command);
	else
		read_blocks(command, get32(command->packet + 2), fields ? count : 0);
}

static void seek(struct ahci_command *command)
{
	if (get32(command->packet + 2) >= blocks_of(command->port))
		check_condition(command, ILLEGAL_REQUEST, ASC_BAD_ADDRESS, 0);
	else
		good(command);
}

static void set_speed(struct ahci_command *command)
{
	good(command);
}

/* ---- packets ---- */

static const struct packet_op ops[] = {
	{0x00, test_unit_ready, true, false},
	{0x03, request_sense, false, true},
	{0x12, inquiry, false, true},
	{0x1a, mode_sense_6, false, false},
	{0x1b, start_stop, false, false},
	{0x1e, prevent_removal, false, false},
	{0x25, read_capacity, true, false},
	{0x28, read_10, true, false},
	{0x2b, seek, true, false},
	{0x42, sub_channel, true, false},
	{0x43, read_toc, true, false},
	{0x46, get_configuration, false, true},
	{0x4a, event_status, false, true},
	{0x51, disc_information, true, false},
	{0x52, track_information, true, false},
	{0x5a, mode_sense_10, false, false},
	{0xa8, read_12, true, false},
	{0xad, disc_structure, true, false},
	{0xbb, set_speed, false, false},
	{0xbd, mechanism_status, false, false},
	{0xbe, read_cd, true, false},
};

static void packet(struct ahci_command *command)
{
	struct atapi_drive *drive = drive_of(command);
	const struct packet_op *op = NULL;

	for (size_t i = 0; i < sizeof(ops) / sizeof(ops[0]); i++)
		if (ops[i].code == command->packet[0])
			op = &ops[i];
	if (drive->attention && !(op && op->always)) {
		uint8_t asc = drive->attention;

		drive->attention = 0;
		check_condition(command, UNIT_ATTENTION, asc, 0);
	} else if (!op) {
		check_condition(command, ILLEGAL_REQUEST, ASC_BAD_OPCODE, 0);
	} else if (op->needs_medium && !has_medium(command->port)) {
		check_condition(command, NOT_READY, ASC_NO_MEDIUM,
		                drive->ejected ? ASC_TRAY_OPEN : ASC_TRAY_CLOSED);
	} else {
		op->execute(command);
	}
}

/* ---- ATA commands ---- */

static void identify(struct ahci_command *command)
{
	uint16_t word[256];

	command->protocol = ATA_PIO_IN;
	atapi_identify(command->port, word);
	if (!ahci_data_in(command, word, sizeof(word)))
		ata_end(command, ATA_GOOD, 0);
}

static void set_features(struct ahci_command *command)
{
	bool mode = command->fis[3] == 0x03;

	if (mode)
		command->port->ata.transfer_mode = command->fis[12];
	ata_end(command, ATA_GOOD | (mode ? 0 : ATA_ERR), mode ? 0 : ATA_ERROR_ABRT);
}

/* IDENTIFY DEVICE and READ SECTORS are aborted with the signature, by which old drivers know a packet device. */
static void abort_with_signature(struct ahci_command *command)
{
	struct ata_result result = {.status = ATA_GOOD | ATA_ERR, .error = ATA_ERROR_ABRT, .count = 1, .lba = 0xeb1401};

	ahci_finish(command, &result);
}

static void device_reset(struct ahci_command *command)
{
	struct ata_result result = {.status = 0, .error = 1, .count = 1, .lba = 0xeb1401};

	atapi_reset(command->port, false);
	ahci_finish(command, &result);
}

static void check_power(struct ahci_command *command)
{
	struct ata_result result = ata_result_of(command, ATA_GOOD, 0);

	result.count = 0xff;
	ahci_finish(command, &result);
}

void atapi_execute(struct ahci_command *command)
{
	switch (command->fis[2]) {
	case 0xa0:
		command->protocol = ATA_PACKET;
		packet(command);
		break;
	case 0xa1:
		identify(command);
		break;
	case 0xef:
		set_features(command);
		break;
	case 0x08:
	case 0x90:
		device_reset(command);
		break;
	case 0xe5:
		check_power(command);
		break;
	case 0xe0 ... 0xe3: /* power management: nothing to do */
	case 0xe6 ... 0xe7:
		ata_end(command, ATA_GOOD, 0);
		break;
	case 0xec:
	case 0x20:
		abort_with_signature(command);
		break;
	default:
		ata_end(command, ATA_GOOD | ATA_ERR, ATA_ERROR_ABRT);
	}
}

/* A medium stays where it is; only a reset of the hardware unlocks it, and closes the tray as after power-up. */
void atapi_reset(struct ahci_port *port, bool hard)
{
	struct atapi_drive *drive = &port->atapi;
	bool ejected = drive->ejected;
	uint8_t events = drive->events;

	if (!hard) {
		drive->sense_key = drive->asc = drive->ascq = 0;
		return;
	}
	*drive = (struct atapi_drive){.attention = ASC_RESET, .ejected = ejected, .events = events};
	port->ata.transfer_mode = 0x45;
}

/* ---- from outside ---- */

bool atapi_holds_disc(const struct ahci_port *port)
{
	return port->atapi.locked && has_medium(port);
}

void atapi_request_eject(struct ahci_port *port)
{
	port->atapi.events |= ATAPI_EVENT_EJECT_REQUEST;
}

/* As by hand: the tray comes out, and goes in again where there is another disc. */
void atapi_exchange(struct ahci_port *port, struct disk_medium *medium)
{
	if (!port->atapi.ejected)
		move_tray(port, true);
	disk_exchange(port->disk, medium);
	if (disk_size(port->disk))
		move_tray(port, false);
}

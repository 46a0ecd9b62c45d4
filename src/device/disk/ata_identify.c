/* ATA8-ACS, "IDENTIFY DEVICE" and "IDENTIFY PACKET DEVICE": the 256 words in which a drive describes itself. */
#include <stdio.h>
#include <string.h>

#include "device/disk/ahci.h"

#define MODEL_DISK "Nestor disk"
#define MODEL_CD   "Nestor CD-ROM"
#define FIRMWARE   "1.0"

/* Text of ATA: two characters a word, the first in the high byte, padded with spaces. */
static void put_text(uint16_t *word, unsigned words, const char *text)
{
	size_t length = strlen(text);

	for (unsigned i = 0; i < words; i++) {
		uint8_t first = 2 * i < length ? (uint8_t)text[2 * i] : ' ';
		uint8_t second = 2 * i + 1 < length ? (uint8_t)text[2 * i + 1] : ' ';

		word[i] = (uint16_t)(first << 8 | second);
	}
}

static void put_number(uint16_t *word, unsigned words, uint64_t number)
{
	for (unsigned i = 0; i < words; i++)
		word[i] = (uint16_t)(number >> (16 * i));
}

/* "World wide name": NAA 5 and a number made from the serial (FNV-1a), so that it stays from run to run. */
static void put_world_wide_name(uint16_t word[4], const char *serial)
{
	uint64_t hash = 0xcbf29ce484222325u;

	for (const char *p = serial; *p; p++)
		hash = (hash ^ (uint8_t)*p) * 0x100000001b3u;
	hash = UINT64_C(5) << 60 | (hash & ((UINT64_C(1) << 60) - 1));
	for (unsigned i = 0; i < 4; i++)
		word[i] = (uint16_t)(hash >> (48 - 16 * i));
}

static void add_checksum(uint16_t word[256])
{
	uint8_t sum = 0xa5;

	word[255] = 0xa5;
	for (unsigned i = 0; i < 255; i++)
		sum = (uint8_t)(sum + word[i] + (word[i] >> 8));
	word[255] |= (uint16_t)((uint8_t)-sum << 8);
}

/* What both kinds have: names, transfer modes, the SATA link. */
static void fill_common(const struct ahci_port *port, uint16_t word[256], const char *model)
{
	uint8_t mode = port->ata.transfer_mode;

	memset(word, 0, 512);
	put_text(word + 10, 10, disk_serial(port->disk));
	put_text(word + 23, 4, FIRMWARE);
	put_text(word + 27, 20, model);
	word[49] = 0x0f00; /* IORDY, LBA, DMA */
	word[53] = 0x0006; /* words 64 … 70 and 88 count */
	word[63] = 0x0007 | ((mode & 0xf8) == 0x20 ? 1 << (8 + (mode & 7)) : 0);
	word[64] = 0x0003;
	for (unsigned i = 65; i <= 68; i++)
		word[i] = 120; /* ns a cycle */
	word[76] = 0x0006; /* SATA generations 1 and 2 */
	word[80] = 0x01f0; /* ATA/ATAPI-4 … ATA8-ACS */
	word[88] = 0x007f | ((mode & 0xf8) == 0x40 ? 1 << (8 + (mode & 7)) : 0);
	word[222] = 0x101f; /* serial transport, SATA 1.0a … 2.6 */
}

void ata_identify(const struct ahci_port *port, uint16_t word[256])
{
	uint64_t sectors = disk_size(port->disk) / BLOCK_SECTOR, cylinders = sectors / (16 * 63);
	bool trim = !disk_read_only(port->disk);
	const struct ata_drive *drive = &port->ata;

	fill_common(port, word, MODEL_DISK);
	word[0] = 0x0040;
	word[1] = cylinders > 16383 ? 16383 : (uint16_t)cylinders;
	word[3] = 16;
	word[6] = 63;
	word[47] = 0x8010; /* READ MULTIPLE: up to 16 sectors */
	word[48] = 0x4000;
	word[50] = 0x4000;
	word[59] = drive->multiple ? 0x0100 | drive->multiple : 0;
	put_number(word + 60, 2, sectors > 0x0fffffff ? 0x0fffffff : sectors);
	word[69] = 0;
	word[75] = AHCI_SLOTS - 1;
	word[76] |= 0x0100; /* NCQ */
	word[82] = 0x0061;  /* look-ahead, write cache, SMART */
	word[83] = 0x7400;  /* FLUSH CACHE EXT, FLUSH CACHE, 48-bit addresses */
	word[84] = 0x4160;  /* world wide name, WRITE DMA FUA EXT, general purpose logs */
	word[85] = (uint16_t)(drive->look_ahead << 6 | drive->write_cache << 5 | drive->smart);
	word[86] = 0x3400;
	word[87] = 0x4160;
	put_number(word + 100, 4, sectors);
	word[105] = trim ? 8 : 0;
	word[106] = 0x4000;
	put_world_wide_name(word + 108, disk_serial(port->disk));
	word[119] = word[120] = 0x4000;
	word[169] = trim;
	word[217] = 1; /* does not rotate */
	add_checksum(word);
}

void atapi_identify(const struct ahci_port *port, uint16_t word[256])
{
	fill_common(port, word, MODEL_CD);
	word[0] = 0x85c0; /* ATAPI, CD/DVD, removable, DRQ within 50 µs, packets of 12 bytes */
	word[82] = 0x0210; /* DEVICE RESET, PACKET */
	word[83] = 0x4000;
	word[84] = 0x4000;
	word[85] = 0x0210;
	word[87] = 0x4000;
	add_checksum(word);
}

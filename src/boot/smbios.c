/*
 * SMBIOS tables (DMTF DSP0134, "System Management BIOS Reference Specification", 2.8 entry point): what
 * dmidecode shows and guests use to recognise a machine.
 */
#include <errno.h>
#include <string.h>

#include "boot/loader.h"
#include "util/error.h"

#define ENTRY_POINT_SIZE SMBIOS_ENTRY_POINT_SIZE

struct writer {
	uint8_t *host;
	size_t room, at;
	bool full;
	unsigned count, largest;
};

static void append(struct writer *writer, const void *data, size_t size)
{
	if (size > writer->room - writer->at) {
		writer->full = true;
		return;
	}
	memcpy(writer->host + writer->at, data, size);
	writer->at += size;
}

/* One structure: its formatted part (type and length included), then its strings, separated by zeros. */
static void add(struct writer *writer, uint16_t handle, uint8_t *part, uint8_t size,
                const char *const *string)
{
	size_t start = writer->at;

	part[1] = size;
	put_u16(part + 2, handle);
	append(writer, part, size);
	for (unsigned i = 0; string && string[i]; i++)
		append(writer, string[i], strlen(string[i]) + 1);
	append(writer, "\0", string && string[0] ? 1 : 2);
	if (writer->at - start > writer->largest)
		writer->largest = (unsigned)(writer->at - start);
	writer->count++;
}

static void add_firmware(struct writer *writer)
{
	static const char *const text[] = {"Nestor", "0.1", "01/01/2026", NULL};
	uint8_t part[24] = {0 /* BIOS Information */};

	part[4] = 1, part[5] = 2;
	put_u16(part + 6, 0xf000);
	part[8] = 3;
	put_u64(part + 10, 1 << 3); /* characteristics not supported */
	part[19] = 0x10;            /* the machine is virtual */
	part[20] = 0, part[21] = 1; /* BIOS 0.1 */
	part[22] = 0xff, part[23] = 0xff;
	add(writer, 0, part, sizeof(part), text);
}

static void add_system(struct writer *writer, const struct boot_request *request)
{
	static const char *const text[] = {"Nestor", "Virtual Machine", "1", NULL};
	uint8_t part[27] = {1 /* System Information */};

	part[4] = 1, part[5] = 2, part[6] = 3;
	memcpy(part + 8, request->uuid, sizeof(request->uuid));
	part[24] = 6; /* wake-up: power switch */
	add(writer, 0x100, part, sizeof(part), text);
}

static void add_chassis(struct writer *writer)
{
	static const char *const text[] = {"Nestor", "1", NULL};
	uint8_t part[22] = {3 /* System Enclosure or Chassis */};

	part[4] = 1, part[5] = 1; /* type: other */
	part[6] = 2;
	part[9] = part[10] = part[11] = 3; /* boot, power and thermal state: safe */
	part[12] = 2;                      /* security: unknown */
	add(writer, 0x300, part, sizeof(part), text);
}

static void add_processor(struct writer *writer, unsigned index)
{
	static const char *const text[] = {"CPU", "Nestor", NULL};
	uint8_t part[42] = {4 /* Processor Information */};

	part[4] = 1;
	part[5] = 3;    /* central processor */
	part[6] = 0xfe; /* family in the second field */
	part[7] = 2;
	part[24] = 0x41; /* populated, enabled */
	part[25] = 1;    /* upgrade: other */
	put_u16(part + 26, 0xffff), put_u16(part + 28, 0xffff),
	    put_u16(part + 30, 0xffff);     /* no cache structures */
	part[35] = part[36] = part[37] = 1; /* cores, enabled, threads */
	put_u16(part + 38, 4);              /* 64-bit capable */
	put_u16(part + 40, 1);              /* family: other */
	add(writer, (uint16_t)(0x400 + index), part, sizeof(part), text);
}

static void add_memory(struct writer *writer, uint64_t bytes)
{
	static const char *const text[] = {"DIMM 0", "Nestor", NULL};
	uint64_t mib = bytes >> 20;
	uint8_t array[23] = {16 /* Physical Memory Array */}, device[40] = {17 /* Memory Device */};

	array[4] = 1; /* other location */
	array[5] = 3; /* system memory */
	array[6] = 6; /* multi-bit ECC */
	put_u32(array + 7, bytes >> 10 < 0x80000000u ? (uint32_t)(bytes >> 10) : 0x80000000u);
	put_u16(array + 11, 0xfffe); /* no error information */
	put_u16(array + 13, 1);
	if (bytes >> 10 >= 0x80000000u)
		put_u64(array + 15, bytes);
	add(writer, 0x1000, array, sizeof(array), NULL);

	put_u16(device + 4, 0x1000);
	put_u16(device + 6, 0xfffe);
	put_u16(device + 8, 64), put_u16(device + 10, 64);
	put_u16(device + 12, mib < 0x7fff ? (uint16_t)mib : 0x7fff);
	device[14] = 9; /* DIMM */
	device[16] = 1;
	device[18] = 7; /* RAM */
	put_u16(device + 19, 2);
	device[23] = 2;
	if (mib >= 0x7fff)
		put_u32(device + 28, (uint32_t)mib);
	add(writer, 0x1100, device, sizeof(device), text);
}

/* Memory Array Mapped Address: where the guest finds [start, end). */
static void add_mapped(struct writer *writer, unsigned index, uint64_t start, uint64_t end)
{
	uint8_t part[31] = {19};

	if (start >> 10 < UINT32_MAX && (end - 1) >> 10 < UINT32_MAX) {
		put_u32(part + 4, (uint32_t)(start >> 10));
		put_u32(part + 8, (uint32_t)((end - 1) >> 10));
	} else {
		put_u32(part + 4, UINT32_MAX), put_u32(part + 8, UINT32_MAX);
		put_u64(part + 15, start), put_u64(part + 23, end - 1);
	}
	put_u16(part + 12, 0x1000);
	part[14] = 1; /* one device wide */
	add(writer, (uint16_t)(0x1300 + index), part, sizeof(part), NULL);
}

/* What lies below 4 GiB counts as one piece: the hole for the VGA is memory that firmware gets back nowhere. */
static void add_ranges(struct writer *writer, const struct guest_memory *memory)
{
	uint64_t low_end = boot_low_ram_end(memory);
	unsigned index = 0;

	if (low_end)
		add_mapped(writer, index++, 0, low_end);
	for (unsigned i = 0; i < memory->slot_count; i++)
		if (!memory->slot[i].read_only && memory->slot[i].gpa >= 1ull << 32)
			add_mapped(writer, index++, memory->slot[i].gpa,
			           memory->slot[i].gpa + memory->slot[i].size);
}

static void add_boot_status(struct writer *writer)
{
	uint8_t part[11] = {32 /* System Boot Information */}; /* status 0: no errors detected */

	add(writer, 0x2000, part, sizeof(part), NULL);
}

static uint8_t checksum(const uint8_t *data, size_t size)
{
	uint8_t sum = 0;

	while (size--)
		sum = (uint8_t)(sum + *data++);
	return (uint8_t)-sum;
}

static void write_entry_point(uint8_t *entry, const struct writer *writer, uint64_t gpa)
{
	memset(entry, 0, ENTRY_POINT_SIZE);
	memcpy(entry, "_SM_", 4);
	entry[5] = ENTRY_POINT_SIZE;
	entry[6] = 2, entry[7] = 8;
	put_u16(entry + 8, (uint16_t)writer->largest);
	memcpy(entry + 16, "_DMI_", 5);
	put_u16(entry + 22, (uint16_t)(writer->at - SMBIOS_STRUCTURES_AT));
	put_u32(entry + 24, (uint32_t)gpa + SMBIOS_STRUCTURES_AT);
	put_u16(entry + 28, (uint16_t)writer->count);
	entry[30] = 0x28;
	entry[21] = checksum(entry + 16, 15);
	entry[4] = checksum(entry, ENTRY_POINT_SIZE);
}

int smbios_write(const struct boot_request *request, const struct guest_memory *memory, uint8_t *host,
                 uint64_t gpa, uint64_t room, bool with_firmware)
{
	struct writer writer = {.host = host, .room = room, .at = SMBIOS_STRUCTURES_AT};
	uint8_t end[4] = {127 /* End-of-Table */};

	if (with_firmware)
		add_firmware(&writer);
	add_system(&writer, request);
	add_chassis(&writer);
	for (unsigned i = 0; i < request->cpu_count; i++)
		add_processor(&writer, i);
	add_memory(&writer, boot_ram_size(memory));
	add_ranges(&writer, memory);
	add_boot_status(&writer);
	add(&writer, 0x7f00, end, sizeof(end), NULL);
	if (writer.full)
		return error_set(ENOSPC, "the SMBIOS tables for %u CPUs do not fit; give fewer --cpus",
		                 request->cpu_count);
	write_entry_point(host, &writer, gpa);
	return (int)writer.at;
}

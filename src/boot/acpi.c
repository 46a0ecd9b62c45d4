/*
 * ACPI tables (ACPI Specification, "ACPI Software Programming Model"): RSDP, RSDT, XSDT, FADT, FACS, DSDT,
 * MADT, HPET, and MCFG where there is a PCIe configuration space. The machine is always in ACPI mode; its
 * fixed hardware is the PM1 block and the PM timer.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "boot/loader.h"
#include "util/error.h"

#define TABLE_HEADER 36
#define TABLES_MAX   8

/* Where the next table goes. */
struct writer {
	uint8_t *host;
	uint64_t gpa, room, at;
	bool full;
	uint32_t table[TABLES_MAX]; /* what RSDT and XSDT list */
	unsigned table_count;
	struct acpi_fixups *fixups; /* or NULL */
};

static void note(struct writer *writer, struct acpi_fixup fixup)
{
	struct acpi_fixups *fixups = writer->fixups;

	if (!fixups)
		return;
	if (fixups->count == ACPI_FIXUPS_MAX)
		writer->full = true;
	else
		fixups->item[fixups->count++] = fixup;
}

/* The `size` bytes at `at` hold an address within the tables. */
static void note_pointer(struct writer *writer, bool in_rsdp, uint32_t at, uint8_t size)
{
	note(writer, (struct acpi_fixup){.in_rsdp = in_rsdp, .at = at, .size = size});
}

/* The byte at `at` makes [start, start + length) add up to 0. */
static void note_checksum(struct writer *writer, bool in_rsdp, uint32_t at, uint32_t start, uint32_t length)
{
	note(writer, (struct acpi_fixup){
	                 .in_rsdp = in_rsdp, .at = at, .is_checksum = true, .start = start, .length = length});
}

/* Room for size bytes at a multiple of align; a scratch page where there is none. */
static uint8_t *take(struct writer *writer, uint64_t size, uint64_t align, uint32_t *gpa)
{
	uint64_t at = (writer->at + align - 1) & ~(align - 1);

	if (at > writer->room || size > writer->room - at) {
		writer->full = true;
		return NULL;
	}
	writer->at = at + size;
	*gpa = (uint32_t)(writer->gpa + at);
	return writer->host + at;
}

static uint8_t checksum(const uint8_t *data, size_t size)
{
	uint8_t sum = 0;

	while (size--)
		sum = (uint8_t)(sum + *data++);
	return (uint8_t)-sum;
}

/* Fills the common header and the checksum of a finished table, and copies it out. Returns its address. */
static uint32_t finish(struct writer *writer, const char *signature, uint8_t revision, uint8_t *table,
                       uint32_t size)
{
	uint32_t gpa = 0;
	uint8_t *host;

	memcpy(table, signature, 4);
	put_u32(table + 4, size);
	table[8] = revision;
	table[9] = 0;
	memcpy(table + 10, "NESTOR", 6);
	memcpy(table + 16, "NESTORPC", 8);
	put_u32(table + 24, 1);
	memcpy(table + 28, "NSTR", 4);
	put_u32(table + 32, 1);
	table[9] = checksum(table, size);
	host = take(writer, size, 16, &gpa);
	if (host)
		memcpy(host, table, size);
	note_checksum(writer, false, gpa + 9, gpa, size);
	return gpa;
}

static uint32_t finish_listed(struct writer *writer, const char *signature, uint8_t revision, uint8_t *table,
                              uint32_t size)
{
	uint32_t gpa = finish(writer, signature, revision, table, size);

	if (writer->table_count < TABLES_MAX)
		writer->table[writer->table_count++] = gpa;
	else
		writer->full = true;
	return gpa;
}

/* Generic Address Structure for a port. access: 1 byte, 2 word, 3 dword. */
static void put_port(uint8_t *to, uint16_t port, uint8_t bits, uint8_t access)
{
	to[0] = 1;
	to[1] = bits;
	to[2] = 0;
	to[3] = access;
	put_u64(to + 4, port);
}

/* --- DSDT --- */

/* A device of ISA's time: up to two port ranges and an interrupt. */
struct legacy_device {
	const char *name, *hid;
	uint16_t port, count, port2, count2;
	int irq; /* -1: none */
};

static void add_legacy(struct aml *aml, const struct legacy_device *device, unsigned uid)
{
	aml_device(aml, device->name);
	aml_name(aml, "_HID"), aml_eisa_id(aml, device->hid);
	aml_name(aml, "_UID"), aml_integer(aml, uid);
	aml_name(aml, "_STA"), aml_integer(aml, 0xf);
	aml_name(aml, "_CRS");
	aml_resources(aml);
	if (device->count)
		aml_io(aml, device->port, (uint8_t)device->count);
	if (device->count2)
		aml_io(aml, device->port2, (uint8_t)device->count2);
	if (device->irq >= 0)
		aml_irq(aml, (uint8_t)device->irq);
	aml_resources_end(aml);
	aml_end(aml);
}

static void add_legacy_devices(struct aml *aml, const struct boot_platform *platform)
{
	static const struct legacy_device timer = {"TIMR", "PNP0100", 0x40, 4, 0, 0, -1};
	static const struct legacy_device rtc = {"RTC", "PNP0B00", 0x70, 2, 0, 0, 8};
	static const struct legacy_device keyboard = {"KBD", "PNP0303", 0x60, 1, 0x64, 1, 1};
	static const struct legacy_device mouse = {"MOU", "PNP0F13", 0, 0, 0, 0, 12};

	add_legacy(aml, &timer, 0);
	if (platform->rtc)
		add_legacy(aml, &rtc, 0);
	if (platform->i8042) {
		add_legacy(aml, &keyboard, 0);
		add_legacy(aml, &mouse, 0);
	}
	for (unsigned i = 0; i < BOOT_SERIAL_PORTS; i++) {
		char name[] = {'C', 'O', 'M', (char)('1' + i), 0};
		struct legacy_device serial = {name, "PNP0501", platform->serial[i].port, 8,
		                               0,    0,         platform->serial[i].irq};

		if (serial.port)
			add_legacy(aml, &serial, i + 1);
	}
}

/* Ports and memory that belong to the board, so that nobody puts a device there. */
static void add_board(struct aml *aml, const struct boot_platform *platform)
{
	aml_device(aml, "MBRD");
	aml_name(aml, "_HID"), aml_eisa_id(aml, "PNP0C02");
	aml_name(aml, "_UID"), aml_integer(aml, 0);
	aml_name(aml, "_CRS");
	aml_resources(aml);
	aml_io(aml, platform->pm_base, 0x80);
	if (platform->debug_exit_port)
		aml_io(aml, platform->debug_exit_port, 4);
	if (platform->ecam && platform->ecam <= (1ull << 32) - (256u << 20))
		aml_memory32(aml, (uint32_t)platform->ecam, 256u << 20);
	aml_resources_end(aml);
	aml_end(aml);
	if (!platform->hpet || platform->hpet > UINT32_MAX)
		return;
	aml_device(aml, "HPET");
	aml_name(aml, "_HID"), aml_eisa_id(aml, "PNP0103");
	aml_name(aml, "_UID"), aml_integer(aml, 0);
	aml_name(aml, "_CRS");
	aml_resources(aml);
	aml_memory32(aml, (uint32_t)platform->hpet, 0x400);
	aml_resources_end(aml);
	aml_end(aml);
}

/* QEMU's specification, "PVPANIC DEVICE", "ACPI Interface". */
static void add_pvpanic(struct aml *aml, uint16_t port)
{
	aml_device(aml, "PEVT");
	aml_name(aml, "_HID"), aml_string(aml, "QEMU0001");
	aml_name(aml, "_STA"), aml_integer(aml, 0xf);
	aml_name(aml, "_CRS");
	aml_resources(aml);
	aml_io(aml, port, 1);
	aml_resources_end(aml);
	aml_end(aml);
}

static void add_processors(struct aml *aml, unsigned count)
{
	for (unsigned i = 0; i < count; i++) {
		char name[5];

		snprintf(name, sizeof(name), "C%03X", i & 0xfff);
		aml_device(aml, name);
		aml_name(aml, "_HID"), aml_string(aml, "ACPI0007");
		aml_name(aml, "_UID"), aml_integer(aml, i);
		aml_end(aml);
	}
}

static void add_sleep_state(struct aml *aml, const char *name, uint8_t type)
{
	aml_name(aml, name);
	aml_package(aml, 4);
	aml_integer(aml, type);
	aml_integer(aml, type);
	aml_integer(aml, 0);
	aml_integer(aml, 0);
	aml_end(aml);
}

static int write_dsdt(struct writer *writer, const struct boot_request *request, uint32_t *gpa)
{
	const struct boot_platform *platform = &request->platform;
	struct aml aml = {0};
	int status = 0;

	/* The table's header first, to be filled in by finish. */
	aml.data = calloc(1, TABLE_HEADER);
	aml.size = aml.room = aml.data ? TABLE_HEADER : 0;
	aml.failed = !aml.data;
	aml_scope(&aml, "\\_SB");
	add_processors(&aml, request->cpu_count);
	if (platform->pci)
		acpi_add_pci(&aml, platform);
	add_legacy_devices(&aml, platform);
	add_board(&aml, platform);
	if (platform->pvpanic_port)
		add_pvpanic(&aml, platform->pvpanic_port);
	aml_end(&aml);
	if (platform->sleep_type_s3)
		add_sleep_state(&aml, "\\_S3", platform->sleep_type_s3);
	add_sleep_state(&aml, "\\_S5", platform->sleep_type_s5);
	if (aml.failed || aml.depth)
		status = error_set(ENOMEM, "the host has no memory for the ACPI tables");
	else
		*gpa = finish(writer, "DSDT", 2, aml.data, (uint32_t)aml.size);
	free(aml.data);
	return status;
}

/* --- the tables of fixed layout --- */

#define FADT_SIZE 244

/* FADT Boot Architecture Flags and Fixed Feature Flags. */
#define BOOT_LEGACY_DEVICES     (1u << 0)
#define BOOT_8042               (1u << 1)
#define BOOT_NO_VGA             (1u << 2)
#define BOOT_NO_CMOS_RTC        (1u << 5)
#define FEATURE_WBINVD          (1u << 0)
#define FEATURE_PROC_C1         (1u << 2)
#define FEATURE_NO_SLEEP_BUTTON (1u << 5)
#define FEATURE_TIMER_32        (1u << 8)
#define FEATURE_RESET           (1u << 10)

static void write_fadt(struct writer *writer, const struct boot_platform *platform, uint32_t dsdt,
                       uint32_t facs)
{
	uint8_t table[FADT_SIZE] = {0};
	uint32_t features = FEATURE_WBINVD | FEATURE_PROC_C1 |
	                    FEATURE_NO_SLEEP_BUTTON | FEATURE_TIMER_32;
	uint16_t event = platform->pm_base, control = (uint16_t)(platform->pm_base + 4),
	         timer = (uint16_t)(platform->pm_base + 8);
	/* FIRMWARE_CTRL, DSDT and their extended forms */
	static const struct {
		uint8_t at, size;
	} pointer[] = {{36, 4}, {40, 4}, {132, 8}, {140, 8}};
	uint32_t gpa;

	put_u32(table + 36, facs);
	put_u32(table + 40, dsdt);
	table[45] = 1; /* desktop */
	put_u16(table + 46, platform->sci_irq);
	put_u32(table + 48, platform->smi_port);
	put_u32(table + 56, event);
	put_u32(table + 64, control);
	put_u32(table + 76, timer);
	put_u32(table + 80, platform->gpe0_length ? platform->gpe0_base : 0);
	table[88] = 4; /* PM1_EVT_LEN */
	table[89] = 2; /* PM1_CNT_LEN */
	table[91] = 4; /* PM_TMR_LEN */
	table[92] = platform->gpe0_length;
	put_u16(table + 96, 0xfff); /* above 100 us: no C2 */
	put_u16(table + 98, 0xfff); /* above 1000 us: no C3 */
	table[108] = platform->rtc_century;
	put_u16(table + 109,
	        (uint16_t)(BOOT_LEGACY_DEVICES | (platform->i8042 ? BOOT_8042 : 0) |
	                   (platform->vga_text ? 0 : BOOT_NO_VGA) | (platform->rtc ? 0 : BOOT_NO_CMOS_RTC)));
	if (platform->reset_port) {
		features |= FEATURE_RESET;
		put_port(table + 116, platform->reset_port, 8, 1);
		table[128] = platform->reset_value;
	}
	put_u32(table + 112, features);
	put_u64(table + 132, facs);
	put_u64(table + 140, dsdt);
	put_port(table + 148, event, 32, 2);
	put_port(table + 172, control, 16, 2);
	put_port(table + 208, timer, 32, 3);
	if (platform->gpe0_length)
		put_port(table + 220, platform->gpe0_base, (uint8_t)(platform->gpe0_length * 8), 1);
	gpa = finish_listed(writer, "FACP", 3, table, sizeof(table));
	for (size_t i = 0; i < sizeof(pointer) / sizeof(pointer[0]); i++)
		note_pointer(writer, false, gpa + pointer[i].at, pointer[i].size);
}

static uint32_t write_facs(struct writer *writer)
{
	uint32_t gpa = 0;
	uint8_t *table = take(writer, 64, 64, &gpa);

	if (!table)
		return 0;
	memset(table, 0, 64);
	memcpy(table, "FACS", 4);
	put_u32(table + 4, 64);
	table[32] = 1; /* version */
	return gpa;
}

#define MADT_PER_CPU 16
#define MADT_REST    64

static int write_madt(struct writer *writer, const struct boot_request *request)
{
	const struct boot_platform *platform = &request->platform;
	const uint16_t level_active_high = 3 << 2 | 1;
	uint32_t at = TABLE_HEADER + 8;
	uint8_t *table = calloc(1, at + (size_t)request->cpu_count * MADT_PER_CPU + MADT_REST);

	if (!table)
		return error_set(ENOMEM, "the host has no memory for the ACPI tables");
	put_u32(table + 36, (uint32_t)platform->local_apic);
	put_u32(table + 40, 1); /* there are 8259s besides */
	for (unsigned i = 0; i < request->cpu_count; i++) {
		uint8_t *entry = table + at;

		if (i < 255) { /* Processor Local APIC */
			entry[0] = 0, entry[1] = 8;
			entry[2] = (uint8_t)i, entry[3] = (uint8_t)i;
			put_u32(entry + 4, 1);
		} else { /* Processor Local x2APIC */
			entry[0] = 9, entry[1] = 16;
			put_u32(entry + 4, i);
			put_u32(entry + 8, 1);
			put_u32(entry + 12, i);
		}
		at += entry[1];
	}
	table[at] = 1, table[at + 1] = 12; /* I/O APIC */
	table[at + 2] = platform->io_apic_id;
	put_u32(table + at + 4, (uint32_t)platform->io_apic);
	at += 12;
	table[at] = 2, table[at + 1] = 10; /* Interrupt Source Override: the 8254 is on pin 2 */
	put_u32(table + at + 4, 2);
	at += 10;
	table[at] = 2, table[at + 1] = 10, table[at + 3] = platform->sci_irq;
	put_u32(table + at + 4, platform->sci_irq);
	put_u16(table + at + 8, level_active_high);
	at += 10;
	table[at] = 4, table[at + 1] = 6, table[at + 2] = 0xff, table[at + 5] = 1; /* NMI on every LINT1 */
	at += 6;
	finish_listed(writer, "APIC", 3, table, at);
	free(table);
	return 0;
}

static void write_hpet(struct writer *writer, const struct boot_platform *platform)
{
	uint8_t table[56] = {0};

	if (!platform->hpet)
		return;
	put_u32(table + 36, 0x8086a201); /* the low half of its capability register */
	table[41] = 64;                  /* register bits, in system memory */
	put_u64(table + 44, platform->hpet);
	put_u16(table + 53, 100); /* fewest ticks between periodic interrupts */
	finish_listed(writer, "HPET", 1, table, sizeof(table));
}

static void write_mcfg(struct writer *writer, const struct boot_platform *platform)
{
	uint8_t table[60] = {0};

	if (!platform->ecam)
		return;
	put_u64(table + 44, platform->ecam);
	table[55] = 255; /* last bus */
	finish_listed(writer, "MCFG", 1, table, sizeof(table));
}

static void write_roots(struct writer *writer, uint8_t *rsdp)
{
	uint8_t rsdt[TABLE_HEADER + 4 * TABLES_MAX] = {0}, xsdt[TABLE_HEADER + 8 * TABLES_MAX] = {0};
	uint32_t rsdt_gpa, xsdt_gpa;

	for (unsigned i = 0; i < writer->table_count; i++) {
		put_u32(rsdt + TABLE_HEADER + 4 * i, writer->table[i]);
		put_u64(xsdt + TABLE_HEADER + 8 * i, writer->table[i]);
	}
	rsdt_gpa = finish(writer, "RSDT", 1, rsdt, TABLE_HEADER + 4 * writer->table_count);
	xsdt_gpa = finish(writer, "XSDT", 1, xsdt, TABLE_HEADER + 8 * writer->table_count);
	for (unsigned i = 0; i < writer->table_count; i++) {
		note_pointer(writer, false, rsdt_gpa + TABLE_HEADER + 4 * i, 4);
		note_pointer(writer, false, xsdt_gpa + TABLE_HEADER + 8 * i, 8);
	}
	memcpy(rsdp, "RSD PTR ", 8);
	memcpy(rsdp + 9, "NESTOR", 6);
	rsdp[15] = 2; /* revision */
	put_u32(rsdp + 16, rsdt_gpa);
	put_u32(rsdp + 20, 36);
	put_u64(rsdp + 24, xsdt_gpa);
	rsdp[8] = checksum(rsdp, 20);
	rsdp[32] = checksum(rsdp, ACPI_RSDP_SIZE);
	note_pointer(writer, true, 16, 4);
	note_pointer(writer, true, 24, 8);
	note_checksum(writer, true, 8, 0, 20);
	note_checksum(writer, true, 32, 0, ACPI_RSDP_SIZE);
}

int acpi_write(const struct boot_request *request, const struct guest_memory *memory, uint8_t *host,
               uint64_t gpa, uint64_t room, struct acpi_fixups *fixups)
{
	struct writer writer = {.host = host, .gpa = gpa, .room = room, .fixups = fixups};
	uint32_t rsdp_gpa, dsdt = 0, facs;
	uint8_t *rsdp = take(&writer, ACPI_RSDP_SIZE, 16, &rsdp_gpa);
	int status;

	facs = write_facs(&writer);
	status = write_dsdt(&writer, request, &dsdt);
	if (status)
		return status;
	write_fadt(&writer, &request->platform, dsdt, facs);
	status = write_madt(&writer, request);
	if (status)
		return status;
	write_hpet(&writer, &request->platform);
	write_mcfg(&writer, &request->platform);
	if (rsdp)
		write_roots(&writer, rsdp);
	if (writer.full)
		return error_set(ENOSPC,
		                 "the ACPI tables for %u CPUs do not fit into %llu KiB; give fewer --cpus",
		                 request->cpu_count, (unsigned long long)(room >> 10));
	if (fixups)
		fixups->size = (uint32_t)writer.at;
	return 0;
}

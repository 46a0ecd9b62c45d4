/*
 * ACPI and SMBIOS tables for firmware that puts them into memory itself: the tables as fw_cfg files that are full of
 * offsets, and a script (etc/table-loader) that says which file goes where, which fields become addresses and which
 * bytes become checksums then. The script's format is that of QEMU's "BIOS linker loader": entries of 128 bytes.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "boot/loader.h"
#include "util/error.h"

#define ENTRY_SIZE 128
#define NAME_SIZE  56
#define BLOB_ROOM  (64u << 10)

enum { ALLOCATE = 1, ADD_POINTER = 2, ADD_CHECKSUM = 3 };
enum { ZONE_HIGH = 1, ZONE_FSEG = 2 };

static const char tables_file[NAME_SIZE] = "etc/acpi/tables";
static const char rsdp_file[NAME_SIZE] = "etc/acpi/rsdp";

static void put_allocate(uint8_t *entry, const char *file, uint32_t align, uint8_t zone)
{
	put_u32(entry, ALLOCATE);
	memcpy(entry + 4, file, NAME_SIZE);
	put_u32(entry + 60, align);
	entry[64] = zone;
}

static void put_fixup(uint8_t *entry, const struct acpi_fixup *fixup)
{
	const char *file = fixup->in_rsdp ? rsdp_file : tables_file;

	put_u32(entry, fixup->is_checksum ? ADD_CHECKSUM : ADD_POINTER);
	memcpy(entry + 4, file, NAME_SIZE);
	if (fixup->is_checksum) {
		put_u32(entry + 60, fixup->at);
		put_u32(entry + 64, fixup->start);
		put_u32(entry + 68, fixup->length);
	} else {
		memcpy(entry + 60, tables_file, NAME_SIZE);
		put_u32(entry + 116, fixup->at);
		entry[120] = fixup->size;
	}
}

/* A checksum comes after all pointers, and starts from 0: firmware adds the byte that is there. */
static int add_script(struct boot_fw_cfg *list, const struct acpi_fixups *fixups)
{
	size_t size = (2 + fixups->count) * (size_t)ENTRY_SIZE;
	uint8_t *script = calloc(1, size), *entry = script;
	int status;

	if (!script)
		return error_set(ENOMEM, "the host has no memory for the ACPI tables");
	put_allocate(entry, rsdp_file, 16, ZONE_FSEG), entry += ENTRY_SIZE;
	put_allocate(entry, tables_file, ACPI_TABLES_AT, ZONE_HIGH), entry += ENTRY_SIZE;
	for (unsigned pass = 0; pass < 2; pass++)
		for (unsigned i = 0; i < fixups->count; i++)
			if (fixups->item[i].is_checksum == (pass == 1))
				put_fixup(entry, &fixups->item[i]), entry += ENTRY_SIZE;
	status = fw_cfg_list_add(list, BOOT_FW_CFG_FILE, "etc/table-loader", script, size);
	free(script);
	return status;
}

static void clear_checksums(uint8_t *blob, const struct acpi_fixups *fixups)
{
	for (unsigned i = 0; i < fixups->count; i++)
		if (fixups->item[i].is_checksum)
			blob[(fixups->item[i].in_rsdp ? 0 : ACPI_TABLES_AT) + fixups->item[i].at] = 0;
}

static int add_acpi(struct boot_fw_cfg *list, const struct boot_request *request,
                    const struct guest_memory *memory, uint8_t *blob)
{
	struct acpi_fixups *fixups = calloc(1, sizeof(*fixups));
	int status;

	if (!fixups)
		return error_set(ENOMEM, "the host has no memory for the ACPI tables");
	/* An address that makes the first table's 0, so that all pointers are offsets in its file. */
	status = acpi_write(request, memory, blob, (uint64_t)0 - ACPI_TABLES_AT, BLOB_ROOM, fixups);
	if (!status) {
		clear_checksums(blob, fixups);
		status = fw_cfg_list_add(list, BOOT_FW_CFG_FILE, rsdp_file, blob, ACPI_RSDP_SIZE);
	}
	if (!status)
		status = fw_cfg_list_add(list, BOOT_FW_CFG_FILE, tables_file, blob + ACPI_TABLES_AT,
		                         fixups->size - ACPI_TABLES_AT);
	if (!status)
		status = add_script(list, fixups);
	free(fixups);
	return status;
}

/* The firmware fills in the structures' address and the entry point's checksums. */
static int add_smbios(struct boot_fw_cfg *list, const struct boot_request *request,
                      const struct guest_memory *memory, uint8_t *blob)
{
	int size = smbios_write(request, memory, blob, 0, BLOB_ROOM, false);
	int status;

	if (size < 0)
		return size;
	status = fw_cfg_list_add(list, BOOT_FW_CFG_FILE, "etc/smbios/smbios-anchor", blob,
	                         SMBIOS_ENTRY_POINT_SIZE);
	if (!status)
		status = fw_cfg_list_add(list, BOOT_FW_CFG_FILE, "etc/smbios/smbios-tables",
		                         blob + SMBIOS_STRUCTURES_AT, (size_t)size - SMBIOS_STRUCTURES_AT);
	return status;
}

int tables_add(struct boot_fw_cfg *list, const struct boot_request *request,
               const struct guest_memory *memory)
{
	uint8_t *blob = calloc(1, BLOB_ROOM);
	int status;

	if (!blob)
		return error_set(ENOMEM, "the host has no memory for the ACPI tables");
	status = add_acpi(list, request, memory, blob);
	if (!status) {
		memset(blob, 0, BLOB_ROOM);
		status = add_smbios(list, request, memory, blob);
	}
	free(blob);
	return status;
}

/* Shared by the loaders of one kind of kernel each. Internal to boot/. */
#ifndef NESTOR_BOOT_LOADER_H
#define NESTOR_BOOT_LOADER_H

#include "boot/aml.h"
#include "boot/boot.h"
#include "boot/file.h"
#include "boot/layout.h"
#include "engine/vcpu_state.h"

/* Low memory that every guest finds: real-mode vectors and BIOS data, a GDT, EBDA, ACPI and SMBIOS tables. */
#define LOW_BIOS_DATA      0x0u
#define LOW_BIOS_DATA_SIZE 0x1000u
#define LOW_GDT            0x800u /* in the BIOS data page */
#define LOW_EBDA           0x9fc00u
#define LOW_EBDA_SIZE      0x400u
#define LOW_ACPI           0xe0000u /* the RSDP is its first byte */
#define LOW_ACPI_SIZE      0x10000u
#define LOW_SMBIOS         0xf0000u
#define LOW_SMBIOS_SIZE    0x10000u
#define LOW_FREE           0x10000u /* where loaders put small things: from here up to the EBDA */

#define E820_ENTRIES 32

enum { E820_RAM = 1, E820_RESERVED = 2 };

struct e820_entry {
	uint64_t start, size;
	uint32_t type;
};

/* The platform's and the request's values that stand for a default become that. */
void request_fill_defaults(struct boot_request *request);

/* Fills entry[] in ascending order; returns how many (at most E820_ENTRIES). */
unsigned e820_make(const struct boot_request *request, const struct guest_memory *memory,
                   struct e820_entry entry[E820_ENTRIES]);
/* KiB of RAM from 1 MiB up to the first hole. */
uint32_t e820_extended_kib(const struct e820_entry *entry, unsigned count);
/* First address after the RAM below 4 GiB. */
uint64_t e820_low_end(const struct e820_entry *entry, unsigned count);

#define BOOT_MODULES 32

/* Everything that one boot_load works on. */
struct loader {
	const struct boot_request *request; /* borrowed; its defaults filled in */
	struct boot_layout layout;
	struct boot_file kernel; /* unpacked, where it was compressed as a whole */
	struct boot_file initrd; /* size 0: none */
	struct boot_file module[BOOT_MODULES];
	unsigned module_count;
	struct e820_entry e820[E820_ENTRIES];
	unsigned e820_count;
	struct vcpu_state start;
};

/* The loaders. Each checks everything it can, then fills RAM and loader->start. 0, or -errno with
 * error_text(). */
bool linux_is(const struct boot_file *kernel);
int linux_load(struct loader *loader);
bool multiboot_is(const struct boot_file *kernel);
int multiboot_load(struct loader *loader);
int pvh_load(struct loader *loader);

/* Claims LOW_* for the firmware's tables. */
int firmware_claim(struct loader *loader);
/* Writes the BIOS data area, interrupt vectors, ACPI and SMBIOS tables. 0, or -errno with error_text(). */
int firmware_write(struct loader *loader);

#define ACPI_RSDP_SIZE   36
#define ACPI_TABLES_AT   64 /* where the first table (the FACS) follows the RSDP in what acpi_write writes */
#define ACPI_FIXUPS_MAX  96

/* What firmware that puts the tables elsewhere must do over: pointers first, then checksums, in this order. */
struct acpi_fixups {
	struct acpi_fixup {
		bool in_rsdp;           /* `at` and `start` are offsets in the RSDP, else guest-physical addresses */
		bool is_checksum;       /* else a pointer to a guest-physical address */
		uint8_t size;           /* of a pointer, bytes */
		uint32_t at;            /* the pointer or the checksum byte */
		uint32_t start, length; /* what the checksum covers */
	} item[ACPI_FIXUPS_MAX];
	unsigned count;
	uint32_t size; /* of everything, the RSDP included */
};

/*
 * Writes the RSDP to host, where the guest sees gpa, and the tables after it; room: bytes. fixups: filled in, or NULL.
 * Returns 0, or a negative errno with error_text().
 */
int acpi_write(const struct boot_request *request, const struct guest_memory *memory, uint8_t *host,
               uint64_t gpa, uint64_t room, struct acpi_fixups *fixups);
/* The PCI root bridge, inside \_SB of the DSDT. */
void acpi_add_pci(struct aml *aml, const struct boot_platform *platform);

#define SMBIOS_ENTRY_POINT_SIZE 31
#define SMBIOS_STRUCTURES_AT    32 /* after the entry point */
/*
 * Writes the SMBIOS structures and their entry point. with_firmware: also type 0, BIOS Information, which firmware
 * adds by itself. Returns the bytes written, or a negative errno with error_text().
 */
int smbios_write(const struct boot_request *request, const struct guest_memory *memory, uint8_t *host,
                 uint64_t gpa, uint64_t room, bool with_firmware);

/* Appends an item with a copy of data. name: of a BOOT_FW_CFG_FILE, or NULL. Returns 0, or -ENOMEM with error_text(). */
int fw_cfg_list_add(struct boot_fw_cfg *list, uint16_t key, const char *name, const void *data, size_t size);
/* Adds the files of ACPI and SMBIOS tables. Returns 0, or a negative errno with error_text(). */
int tables_add(struct boot_fw_cfg *list, const struct boot_request *request,
               const struct guest_memory *memory);

/*
 * Start states. Both write a flat GDT (code 0x10, data 0x18) at LOW_GDT. Interrupts are off; the caller adds
 * the protocol's registers.
 */
void start_protected(struct loader *loader, uint64_t entry);
/* Also finds room for and writes page tables that map the first 4 GiB to themselves. */
int start_long(struct loader *loader, uint64_t entry);

/* Finds room in low memory for size bytes and copies data there (clears it where data is NULL). */
int loader_place_low(struct loader *loader, const char *what, const void *data, uint64_t size, uint64_t align,
                     uint64_t *gpa);
/* Puts a whole file at the highest place below max, page aligned. */
int loader_place_file(struct loader *loader, const struct boot_file *file, const char *what, uint64_t max,
                      uint64_t *gpa);

#endif

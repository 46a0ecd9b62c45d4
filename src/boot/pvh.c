/*
 * ELF kernels with a PVH entry (Xen, "x86/HVM direct boot ABI"): 32-bit protected mode, paging off, EBX
 * points to hvm_start_info. Linux, Xen, FreeBSD and small test guests have it.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "boot/elf.h"
#include "boot/loader.h"
#include "util/error.h"

struct hvm_start_info {
	uint32_t magic, version, flags, module_count;
	uint64_t modules, command_line, rsdp, memory_map;
	uint32_t memory_map_entries, reserved;
};

struct hvm_module {
	uint64_t gpa, size, command_line, reserved;
};

struct hvm_memory {
	uint64_t start, size;
	uint32_t type, reserved;
};

_Static_assert(sizeof(struct hvm_start_info) == 56, "hvm_start_info");

#define HVM_START_MAGIC 0x336ec578u

static int place_text(struct loader *loader, const char *text, uint64_t *gpa)
{
	return loader_place_low(loader, "command line", text, strlen(text) + 1, 16, gpa);
}

/* The initrd comes last: alone it is module 0, which Linux takes; behind a kernel it is what Xen hands to it.
 */
static int place_modules(struct loader *loader, struct hvm_start_info *info)
{
	struct hvm_module module[BOOT_MODULES + 1] = {0};
	uint64_t low_end = e820_low_end(loader->e820, loader->e820_count);
	unsigned count = 0;
	int status = 0;

	for (unsigned i = 0; i < loader->module_count && !status; i++) {
		const char *text = loader->request->module[i].command_line;

		status = loader_place_file(loader, &loader->module[i], "module", low_end, &module[count].gpa);
		if (!status && text)
			status = place_text(loader, text, &module[count].command_line);
		module[count++].size = loader->module[i].size;
	}
	if (loader->initrd.size && !status) {
		status = loader_place_file(loader, &loader->initrd, "initrd", low_end, &module[count].gpa);
		module[count++].size = loader->initrd.size;
	}
	info->module_count = count;
	if (!status && count)
		status = loader_place_low(loader, "module list", module, count * sizeof(module[0]), 16,
		                          &info->modules);
	return status;
}

static int place_memory_map(struct loader *loader, struct hvm_start_info *info)
{
	struct hvm_memory map[E820_ENTRIES];

	for (unsigned i = 0; i < loader->e820_count; i++)
		map[i] = (struct hvm_memory){
		    .start = loader->e820[i].start,
		    .size = loader->e820[i].size,
		    .type = loader->e820[i].type,
		};
	info->memory_map_entries = loader->e820_count;
	return loader_place_low(loader, "memory map", map, loader->e820_count * sizeof(map[0]), 16,
	                        &info->memory_map);
}

int pvh_load(struct loader *loader)
{
	const char *text = loader->request->command_line ? loader->request->command_line : "";
	struct hvm_start_info info = {.magic = HVM_START_MAGIC, .version = 1, .rsdp = LOW_ACPI};
	struct elf_image elf;
	uint64_t info_gpa;
	int status = elf_parse(&elf, &loader->kernel);

	if (status)
		return status;
	if (!elf.has_pvh_entry)
		return error_set(
		    EINVAL,
		    "%s: an ELF file without a PVH entry note or Multiboot header, so there is no "
		    "protocol to start it by; give a bzImage, or build it with one of them",
		    loader->kernel.name);
	if (elf.pvh_entry - elf.low >= elf.high - elf.low)
		return error_set(EINVAL, "%s: its PVH entry %#x is outside its segments; the file is corrupt",
		                 loader->kernel.name, elf.pvh_entry);
	status = elf_claim(&elf, &loader->kernel, &loader->layout);
	if (!status)
		status = place_modules(loader, &info);
	if (!status)
		status = place_memory_map(loader, &info);
	if (!status)
		status = place_text(loader, text, &info.command_line);
	if (!status)
		status = loader_place_low(loader, "start information", &info, sizeof(info), 16, &info_gpa);
	if (!status)
		status = firmware_write(loader);
	if (status)
		return status;
	elf_load(&elf, &loader->kernel, &loader->layout);
	start_protected(loader, elf.pvh_entry);
	loader->start.gpr[REG_RBX] = info_gpa;
	/* The ABI's TR: a 32-bit TSS with base 0 and limit 67H. */
	loader->start.seg[SEG_TR].limit = 0x67;
	return 0;
}

/*
 * Multiboot 1 (the "Multiboot Specification version 0.6.96"): Xen, many teaching kernels, the freestanding
 * test guests. The image is an ELF file, or any format with load addresses in the header itself (the "a.out
 * kludge").
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "boot/elf.h"
#include "boot/loader.h"
#include "util/error.h"

#define HEADER_MAGIC       0x1badb002u
#define HEADER_SEARCH      8192
#define HEADER_PAGE_ALIGN  (1u << 0)
#define HEADER_MEMORY_INFO (1u << 1)
#define HEADER_VIDEO_MODE  (1u << 2)
#define HEADER_ADDRESSES   (1u << 16)
#define HEADER_REQUIRED    0x0000ffffu /* a loader that does not know one of these bits must fail */

#define BOOTLOADER_MAGIC 0x2badb002u

#define INFO_MEMORY      (1u << 0)
#define INFO_COMMAND     (1u << 2)
#define INFO_MODULES     (1u << 3)
#define INFO_MEMORY_MAP  (1u << 6)
#define INFO_LOADER_NAME (1u << 9)

struct multiboot_info {
	uint32_t flags, memory_lower, memory_upper, boot_device, command_line, module_count, modules,
	    symbols[4], memory_map_length, memory_map, drives_length, drives, configuration, loader_name, apm,
	    vbe[4];
	uint8_t framebuffer[28];
};

struct multiboot_module {
	uint32_t start, end, text, reserved;
};

struct __attribute__((packed)) multiboot_memory {
	uint32_t entry_size; /* of what follows */
	uint64_t start, size;
	uint32_t type;
};

_Static_assert(sizeof(struct multiboot_info) == 116, "multiboot_info");
_Static_assert(sizeof(struct multiboot_memory) == 24, "multiboot_memory");

struct header {
	uint32_t offset, flags;
	uint32_t header_address, load_address, load_end, bss_end, entry; /* with HEADER_ADDRESSES */
};

/* An image's memory: what to copy from where, for the kludge; ELF has its own. */
struct raw_image {
	uint64_t offset, file_size, gpa, memory_size, entry;
};

static bool find_header(struct header *header, const struct boot_file *kernel)
{
	for (uint32_t offset = 0; offset < HEADER_SEARCH && boot_file_has(kernel, offset, 12); offset += 4) {
		uint32_t flags = boot_file_u32(kernel, offset + 4);

		if (boot_file_u32(kernel, offset) != HEADER_MAGIC ||
		    (uint32_t)(HEADER_MAGIC + flags + boot_file_u32(kernel, offset + 8)))
			continue;
		*header = (struct header){.offset = offset, .flags = flags};
		if (flags & HEADER_ADDRESSES) {
			header->header_address = boot_file_u32(kernel, offset + 12);
			header->load_address = boot_file_u32(kernel, offset + 16);
			header->load_end = boot_file_u32(kernel, offset + 20);
			header->bss_end = boot_file_u32(kernel, offset + 24);
			header->entry = boot_file_u32(kernel, offset + 28);
		}
		return true;
	}
	return false;
}

bool multiboot_is(const struct boot_file *kernel)
{
	struct header header;

	return find_header(&header, kernel);
}

/* Multiboot Specification, "The address fields of Multiboot header". */
static int parse_kludge(struct raw_image *image, const struct header *header, const struct boot_file *kernel)
{
	uint64_t before = (uint64_t)header->header_address - header->load_address;

	if (!boot_file_has(kernel, header->offset, 32))
		return error_set(
		    ENODATA,
		    "%s: the file ends inside its Multiboot header, it is truncated; fetch or build "
		    "it again",
		    kernel->name);
	if (header->header_address < header->load_address || before > header->offset)
		return error_set(
		    EINVAL,
		    "%s: its Multiboot header's address fields contradict each other; the file is "
		    "corrupt",
		    kernel->name);
	image->offset = header->offset - before;
	image->gpa = header->load_address;
	image->file_size = header->load_end ? (uint64_t)header->load_end - header->load_address
	                                    : kernel->size - image->offset;
	if (header->load_end && header->load_end < header->load_address)
		return error_set(
		    EINVAL, "%s: its Multiboot header's load end is before its start; the file is corrupt",
		    kernel->name);
	if (!boot_file_has(kernel, image->offset, image->file_size))
		return error_set(
		    ENODATA,
		    "%s: the file ends before the load end of its Multiboot header, it is truncated; "
		    "fetch or build it again",
		    kernel->name);
	image->memory_size = image->file_size;
	if (header->bss_end && header->bss_end < image->gpa + image->file_size)
		return error_set(
		    EINVAL, "%s: its Multiboot header's BSS end is before its data's; the file is corrupt",
		    kernel->name);
	if (header->bss_end)
		image->memory_size = header->bss_end - image->gpa;
	image->entry = header->entry;
	if (image->entry - image->gpa >= image->memory_size)
		return error_set(EINVAL,
		                 "%s: its Multiboot entry %#x is outside what it loads; the file is corrupt",
		                 kernel->name, header->entry);
	return 0;
}

/*
 * Puts "name text" into low memory, as boot loaders of this protocol do: Xen drops the first word. A name's
 * own blanks would end that word too soon.
 */
static int place_text(struct loader *loader, const char *name, const char *text, uint32_t *gpa)
{
	uint64_t place;
	char *line;
	int status;

	if (asprintf(&line, "%s%s%s", name, text && *text ? " " : "", text ? text : "") < 0)
		return error_set(ENOMEM, "%s: the host has no memory for its command line", name);
	for (size_t i = 0; i < strlen(name); i++)
		if (line[i] == ' ' || line[i] == '\t')
			line[i] = '_';
	status = loader_place_low(loader, "command line", line, strlen(line) + 1, 16, &place);
	free(line);
	if (!status)
		*gpa = (uint32_t)place;
	return status;
}

static int place_modules(struct loader *loader, struct multiboot_info *info)
{
	struct multiboot_module module[BOOT_MODULES + 1] = {0};
	uint64_t low_end = e820_low_end(loader->e820, loader->e820_count), list;
	unsigned count = 0, has_initrd = loader->initrd.size ? 1 : 0;

	for (unsigned i = 0; i < loader->module_count + has_initrd; i++) {
		bool is_initrd = has_initrd && i == loader->module_count;
		const struct boot_file *file = is_initrd ? &loader->initrd : &loader->module[i];
		uint64_t gpa;
		int status = loader_place_file(loader, file, is_initrd ? "initrd" : "module", low_end, &gpa);

		if (!status)
			status = place_text(loader, file->name,
			                    is_initrd ? NULL : loader->request->module[i].command_line,
			                    &module[count].text);
		if (status)
			return status;
		module[count].start = (uint32_t)gpa;
		module[count].end = (uint32_t)(gpa + file->size);
		count++;
	}
	info->module_count = count;
	info->flags |= INFO_MODULES;
	if (count) {
		int status =
		    loader_place_low(loader, "module list", module, count * sizeof(module[0]), 16, &list);

		if (status)
			return status;
		info->modules = (uint32_t)list;
	}
	return 0;
}

static int place_memory_map(struct loader *loader, struct multiboot_info *info)
{
	struct multiboot_memory map[E820_ENTRIES];
	uint64_t gpa;
	int status;

	for (unsigned i = 0; i < loader->e820_count; i++)
		map[i] = (struct multiboot_memory){
		    .entry_size = sizeof(map[0]) - 4,
		    .start = loader->e820[i].start,
		    .size = loader->e820[i].size,
		    .type = loader->e820[i].type,
		};
	status = loader_place_low(loader, "memory map", map, loader->e820_count * sizeof(map[0]), 16, &gpa);
	info->flags |= INFO_MEMORY | INFO_MEMORY_MAP;
	info->memory_lower = LOW_EBDA >> 10;
	info->memory_upper = e820_extended_kib(loader->e820, loader->e820_count);
	info->memory_map_length = loader->e820_count * (uint32_t)sizeof(map[0]);
	info->memory_map = (uint32_t)gpa;
	return status;
}

static int place_info(struct loader *loader, uint64_t *gpa)
{
	struct multiboot_info info = {.flags = INFO_COMMAND | INFO_LOADER_NAME};
	uint64_t name;
	int status = place_modules(loader, &info);

	if (!status)
		status = place_memory_map(loader, &info);
	if (!status)
		status = place_text(loader, loader->kernel.name, loader->request->command_line,
		                    &info.command_line);
	if (!status)
		status = loader_place_low(loader, "boot loader's name", "nestor", 7, 16, &name);
	if (status)
		return status;
	info.loader_name = (uint32_t)name;
	return loader_place_low(loader, "boot information", &info, sizeof(info), 16, gpa);
}

int multiboot_load(struct loader *loader)
{
	const struct boot_file *kernel = &loader->kernel;
	struct header header;
	struct raw_image raw = {0};
	struct elf_image elf;
	uint64_t entry, info;
	bool is_raw;
	int status;

	if (!find_header(&header, kernel))
		return error_set(EINVAL, "%s: no Multiboot header in its first %d bytes", kernel->name,
		                 HEADER_SEARCH);
	if (header.flags & HEADER_REQUIRED & ~(HEADER_PAGE_ALIGN | HEADER_MEMORY_INFO | HEADER_VIDEO_MODE))
		return error_set(ENOTSUP,
		                 "%s: its Multiboot header asks for features that do not exist (flags %#x)",
		                 kernel->name, header.flags);
	is_raw = header.flags & HEADER_ADDRESSES;
	if (is_raw) {
		status = parse_kludge(&raw, &header, kernel);
		if (!status)
			status =
			    layout_claim(&loader->layout, kernel->name, "image", raw.gpa, raw.memory_size);
		entry = raw.entry;
	} else {
		if (!elf_is(kernel))
			return error_set(
			    EINVAL,
			    "%s: a Multiboot image that is neither ELF nor gives its load addresses; "
			    "the file is corrupt",
			    kernel->name);
		status = elf_parse(&elf, kernel);
		if (!status)
			status = elf_claim(&elf, kernel, &loader->layout);
		entry = elf.entry;
		if (!status && (entry > UINT32_MAX || entry - elf.low >= elf.high - elf.low))
			status =
			    error_set(EINVAL,
			              "%s: its entry %#llx is outside its segments; link it at its physical "
			              "address",
			              kernel->name, (unsigned long long)entry);
	}
	if (!status)
		status = place_info(loader, &info);
	if (!status)
		status = firmware_write(loader);
	if (status)
		return status;
	if (is_raw) {
		uint8_t *host = layout_host(&loader->layout, raw.gpa, raw.memory_size);

		memcpy(host, kernel->data + raw.offset, raw.file_size);
		memset(host + raw.file_size, 0, raw.memory_size - raw.file_size);
	} else {
		elf_load(&elf, kernel, &loader->layout);
	}
	start_protected(loader, entry);
	loader->start.gpr[REG_RAX] = BOOTLOADER_MAGIC;
	loader->start.gpr[REG_RBX] = info;
	return 0;
}

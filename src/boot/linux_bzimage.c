/*
 * Linux bzImage (Documentation/x86/boot.rst of the kernel: "The Linux/x86 Boot Protocol").
 *
 * A bzImage is a real-mode part (boot sector, setup header, setup code) and a protected-mode part, which is a
 * decompressor with the compressed vmlinux, an ELF file, inside. Directly booted, neither of them runs: the
 * payload is unpacked here, its segments go to their own physical addresses, and the kernel starts at the
 * ELF's entry (startup_64 or startup_32), which expects what the decompressor would have left: boot_params in
 * RSI, and for 64 bits long mode with an identity mapping. No KASLR: the kernel runs where it was linked, so
 * that its relocations need not be applied.
 *
 * With BOOT_MODE_SETUP the protected-mode part is put at the kernel's preferred address and entered by the
 * 64-bit or 32-bit boot protocol; the setup code is skipped either way, for it only asks a BIOS.
 */
#include <errno.h>
#include <string.h>

#include "boot/decompress.h"
#include "boot/elf.h"
#include "boot/kernel_cache.h"
#include "boot/loader.h"
#include "util/error.h"

/* The setup header, offsets into the file and into boot_params alike. */
#define HDR_SETUP_SECTORS  0x1f1
#define HDR_SYSTEM_SIZE    0x1f4 /* of the protected-mode part, in 16-byte units */
#define HDR_VIDEO_MODE     0x1fa
#define HDR_BOOT_FLAG      0x1fe
#define HDR_JUMP           0x200 /* its second byte is the header's length from 0x202 on */
#define HDR_MAGIC          0x202
#define HDR_VERSION        0x206
#define HDR_LOADER_TYPE    0x210
#define HDR_LOAD_FLAGS     0x211
#define HDR_CODE32_START   0x214
#define HDR_RAMDISK_IMAGE  0x218
#define HDR_RAMDISK_SIZE   0x21c
#define HDR_COMMAND_LINE   0x228
#define HDR_INITRD_MAX     0x22c
#define HDR_RELOCATABLE    0x234
#define HDR_XLOAD_FLAGS    0x236
#define HDR_COMMAND_MAX    0x238
#define HDR_PAYLOAD_OFFSET 0x248
#define HDR_PAYLOAD_LENGTH 0x24c
#define HDR_PREFERRED      0x258
#define HDR_INIT_SIZE      0x260
#define HDR_LAST           0x290 /* where boot_params continues */

/* boot_params outside the header. */
#define PARAMS_SCREEN       0x000
#define PARAMS_RSDP         0x070
#define PARAMS_EXTENDED_KIB 0x1e0
#define PARAMS_E820_COUNT   0x1e8
#define PARAMS_E820         0x2d0
#define PARAMS_E820_ENTRY   20

#define LOADED_HIGH    0x01
#define XLF_KERNEL_64  0x01
#define LOADER_UNKNOWN 0xff

#define PAYLOAD_MAX   (1ull << 30)
#define WORTH_KEEPING (1u << 20) /* a payload of this size takes a while to unpack */

/* What the header says, checked. */
struct linux_image {
	unsigned version;
	uint64_t system_offset, system_size; /* the protected-mode part within the file */
	bool relocatable, kernel_64;
	uint64_t preferred, init_size;
	uint64_t initrd_end; /* exclusive */
	uint64_t command_max;
};

bool linux_is(const struct boot_file *kernel)
{
	return kernel->size >= HDR_VERSION + 2 && boot_file_u16(kernel, HDR_BOOT_FLAG) == 0xaa55 &&
	       !memcmp(kernel->data + HDR_MAGIC, "HdrS", 4);
}

static int parse_header(struct linux_image *image, const struct boot_file *kernel)
{
	unsigned sectors = boot_file_has(kernel, HDR_SETUP_SECTORS, 1) ? kernel->data[HDR_SETUP_SECTORS] : 0;

	*image = (struct linux_image){.version = boot_file_u16(kernel, HDR_VERSION)};
	image->system_offset = ((sectors ? sectors : 4) + 1) * 512;
	image->system_size = (uint64_t)boot_file_u32(kernel, HDR_SYSTEM_SIZE) * 16;
	if (image->version < 0x206)
		return error_set(
		    EINVAL,
		    "%s: a Linux kernel of boot protocol %u.%02u; 2.06 (Linux 2.6.22) or later is "
		    "needed",
		    kernel->name, image->version >> 8, image->version & 0xff);
	if (!boot_file_has(kernel, 0, HDR_LAST) || !boot_file_has(kernel, image->system_offset, 1024))
		return error_set(
		    ENODATA,
		    "%s: a Linux kernel that ends inside its setup part, it is truncated; fetch or "
		    "build it again",
		    kernel->name);
	if (!(kernel->data[HDR_LOAD_FLAGS] & LOADED_HIGH))
		return error_set(EINVAL, "%s: a Linux zImage; build a bzImage", kernel->name);
	if (image->system_size < 1024)
		return error_set(
		    EINVAL, "%s: a Linux kernel with an impossible size in its header; the file is corrupt",
		    kernel->name);
	if (!boot_file_has(kernel, image->system_offset, image->system_size))
		return error_set(
		    ENODATA,
		    "%s: a Linux kernel that should have %llu bytes but has %zu, it is truncated; "
		    "fetch or build it again",
		    kernel->name, (unsigned long long)(image->system_offset + image->system_size),
		    kernel->size);
	image->initrd_end = (uint64_t)boot_file_u32(kernel, HDR_INITRD_MAX) + 1;
	image->command_max = boot_file_u32(kernel, HDR_COMMAND_MAX);
	image->relocatable = kernel->data[HDR_RELOCATABLE];
	image->preferred = 0x100000;
	image->init_size = image->system_size;
	if (image->version >= 0x20a) {
		uint64_t init_size = boot_file_u32(kernel, HDR_INIT_SIZE);

		if (image->relocatable)
			image->preferred = boot_file_u64(kernel, HDR_PREFERRED);
		if (init_size > image->init_size)
			image->init_size = init_size;
	}
	if (image->version >= 0x20c)
		image->kernel_64 = boot_file_u16(kernel, HDR_XLOAD_FLAGS) & XLF_KERNEL_64;
	return 0;
}

/* Fills boot_params, the "zero page". `load` is where the protected-mode part is, or would be. */
static void write_params(struct loader *loader, uint64_t load, uint64_t params, uint64_t command_line,
                         uint64_t initrd)
{
	const struct boot_file *kernel = &loader->kernel;
	uint8_t *page = layout_host(&loader->layout, params, PAGE_SIZE);
	unsigned end = HDR_MAGIC + kernel->data[HDR_JUMP + 1];

	if (end > HDR_LAST)
		end = HDR_LAST;
	memset(page, 0, PAGE_SIZE);
	memcpy(page + HDR_SETUP_SECTORS, kernel->data + HDR_SETUP_SECTORS, end - HDR_SETUP_SECTORS);
	page[HDR_LOADER_TYPE] = LOADER_UNKNOWN;
	page[HDR_LOAD_FLAGS] = LOADED_HIGH;
	put_u16(page + HDR_VIDEO_MODE, 0xffff); /* the mode that the screen is in */
	put_u32(page + HDR_CODE32_START, (uint32_t)load);
	put_u32(page + HDR_RAMDISK_IMAGE, (uint32_t)initrd);
	put_u32(page + HDR_RAMDISK_SIZE, (uint32_t)loader->initrd.size);
	put_u32(page + HDR_COMMAND_LINE, (uint32_t)command_line);
	put_u64(page + PARAMS_RSDP, LOW_ACPI);
	put_u32(page + PARAMS_EXTENDED_KIB, e820_extended_kib(loader->e820, loader->e820_count));
	page[PARAMS_E820_COUNT] = (uint8_t)loader->e820_count;
	for (unsigned i = 0; i < loader->e820_count; i++) {
		uint8_t *entry = page + PARAMS_E820 + PARAMS_E820_ENTRY * i;

		put_u64(entry, loader->e820[i].start);
		put_u64(entry + 8, loader->e820[i].size);
		put_u32(entry + 16, loader->e820[i].type);
	}
	if (loader->request->platform.vga_text) {
		page[PARAMS_SCREEN + 0x06] = 3;  /* orig_video_mode */
		page[PARAMS_SCREEN + 0x07] = 80; /* orig_video_cols */
		page[PARAMS_SCREEN + 0x0e] = 25; /* orig_video_lines */
		page[PARAMS_SCREEN + 0x0f] = 1;  /* orig_video_isVGA */
		page[PARAMS_SCREEN + 0x10] = 16; /* orig_video_points */
	}
}

/* Places what both ways of booting need besides the kernel. Returns 0 with *params. */
static int place_rest(struct loader *loader, const struct linux_image *image, uint64_t load, uint64_t *params)
{
	const char *text = loader->request->command_line ? loader->request->command_line : "";
	uint64_t command_line, initrd = 0, low_end = e820_low_end(loader->e820, loader->e820_count);
	int status;

	if (strlen(text) > image->command_max)
		return error_set(
		    E2BIG,
		    "%s: the command line has %zu bytes, this kernel takes at most %llu; shorten "
		    "--append",
		    loader->kernel.name, strlen(text), (unsigned long long)image->command_max);
	if (loader->initrd.size) {
		status =
		    loader_place_file(loader, &loader->initrd, "initrd",
		                      image->initrd_end < low_end ? image->initrd_end : low_end, &initrd);
		if (status)
			return status;
	}
	status = loader_place_low(loader, "command line", text, strlen(text) + 1, 16, &command_line);
	if (!status)
		status = loader_place_low(loader, "boot parameters", NULL, PAGE_SIZE, PAGE_SIZE, params);
	if (status)
		return status;
	write_params(loader, load, *params, command_line, initrd);
	return firmware_write(loader);
}

static int enter(struct loader *loader, bool long_mode, uint64_t entry, uint64_t params)
{
	int status = 0;

	if (long_mode)
		status = start_long(loader, entry);
	else
		start_protected(loader, entry);
	loader->start.gpr[REG_RSI] = params;
	return status;
}

/* Unpacks the payload, an ELF file, into *vmlinux, or takes what an earlier run has unpacked. */
static int unpack(struct boot_file *vmlinux, const struct linux_image *image, const struct loader *loader)
{
	const struct boot_file *kernel = &loader->kernel;
	uint64_t offset = boot_file_u32(kernel, HDR_PAYLOAD_OFFSET),
	         size = boot_file_u32(kernel, HDR_PAYLOAD_LENGTH);
	uint64_t unpacked;
	const uint8_t *payload;
	int status;

	if (size < 16 || offset > image->system_size || size > image->system_size - offset)
		return error_set(EINVAL,
		                 "%s: its header puts the payload outside the file; the file is corrupt",
		                 kernel->name);
	payload = kernel->data + image->system_offset + offset;
	/* The last four bytes are the unpacked size; of gzip they are also its own trailer. */
	unpacked = boot_file_u32(kernel, image->system_offset + offset + size - 4);
	if (!unpacked)
		return error_set(EINVAL, "%s: its payload announces no size; the file is corrupt",
		                 kernel->name);
	if (!decompress_format(payload, size) && size >= 4 && !memcmp(payload, "\177ELF", 4))
		return error_set(ENOTSUP, "%s: its payload is not compressed; use --boot=setup",
		                 kernel->name);
	const struct boot_file packed = {.name = kernel->name, .data = (uint8_t *)payload, .size = size};
	const char *cache = size >= WORTH_KEEPING ? loader->request->kernel_cache : NULL;

	if (cache && unpacked <= PAYLOAD_MAX && kernel_cache_find(vmlinux, cache, &packed, unpacked))
		return 0;
	status = decompress(vmlinux, kernel->name, payload, size, unpacked, PAYLOAD_MAX);
	if (!status && cache)
		kernel_cache_keep(cache, &packed, vmlinux);
	return status;
}

static int load_direct(struct loader *loader, const struct linux_image *image)
{
	struct boot_file vmlinux;
	struct elf_image elf;
	uint64_t params, entry;
	int status = unpack(&vmlinux, image, loader);

	if (status)
		return status;
	if (!elf_is(&vmlinux))
		status = error_set(EINVAL, "%s: its payload is no ELF file; use --boot=setup",
		                   loader->kernel.name);
	if (!status)
		status = elf_parse(&elf, &vmlinux);
	if (!status)
		status = elf_claim(&elf, &vmlinux, &loader->layout);
	/* A vmlinux taken apart by hand may have the virtual entry; it then differs by the kernel map's base.
	 */
	entry = status ? 0 : elf.entry & (elf.is_x86_64 ? 0x7fffffff : 0x3fffffff);
	if (!status && entry - elf.low >= elf.high - elf.low)
		status = error_set(EINVAL,
		                   "%s: its payload's entry %#llx is outside its segments; use --boot=setup",
		                   loader->kernel.name, (unsigned long long)elf.entry);
	if (!status)
		status = place_rest(loader, image, elf.low, &params);
	if (!status) {
		elf_load(&elf, &vmlinux, &loader->layout);
		status = enter(loader, elf.is64 && elf.is_x86_64, entry, params);
	}
	boot_file_free(&vmlinux);
	return status;
}

static int load_setup(struct loader *loader, const struct linux_image *image)
{
	const struct boot_file *kernel = &loader->kernel;
	uint64_t params;
	int status;

	status = layout_claim(&loader->layout, kernel->name, "kernel and its room to unpack",
	                      image->preferred, image->init_size);
	if (!status && image->preferred + image->init_size > 1ull << 32)
		status =
		    error_set(EINVAL, "%s: a Linux kernel that wants to be above 4 GiB; the file is corrupt",
		              kernel->name);
	if (!status)
		status = place_rest(loader, image, image->preferred, &params);
	if (status)
		return status;
	memcpy(layout_host(&loader->layout, image->preferred, image->init_size),
	       kernel->data + image->system_offset, image->system_size);
	return enter(loader, image->kernel_64, image->preferred + (image->kernel_64 ? 0x200 : 0), params);
}

int linux_load(struct loader *loader)
{
	struct linux_image image;
	int status = parse_header(&image, &loader->kernel);

	if (status)
		return status;
	if (loader->module_count)
		return error_set(
		    EINVAL,
		    "%s: modules are for Multiboot and PVH kernels, this is a Linux bzImage; use "
		    "--initrd",
		    loader->kernel.name);
	/* Before protocol 2.08 the header does not say where the payload is. */
	if (loader->request->mode == BOOT_MODE_SETUP || image.version < 0x208)
		return load_setup(loader, &image);
	return load_direct(loader, &image);
}

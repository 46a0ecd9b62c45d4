#include "boot/boot.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "boot/decompress.h"
#include "boot/elf.h"
#include "boot/loader.h"
#include "util/error.h"

#define KERNEL_MAX (1ull << 30)

int loader_place_low(struct loader *loader, const char *what, const void *data, uint64_t size, uint64_t align,
                     uint64_t *gpa)
{
	int status = layout_find(&loader->layout, loader->kernel.name, what, size, align, LOW_FREE, LOW_EBDA,
	                         false, gpa);
	uint8_t *host;

	/* A guest that loads itself all over low memory leaves the room above it. */
	if (status)
		status = layout_find(&loader->layout, loader->kernel.name, what, size, align, LOW_FREE,
		                     1ull << 30, true, gpa);
	if (status)
		return status;
	host = layout_host(&loader->layout, *gpa, size);
	if (data)
		memcpy(host, data, size);
	else
		memset(host, 0, size);
	return 0;
}

int loader_place_file(struct loader *loader, const struct boot_file *file, const char *what, uint64_t max,
                      uint64_t *gpa)
{
	int status =
	    layout_find(&loader->layout, file->name, what, file->size, PAGE_SIZE, 0x100000, max, true, gpa);

	if (!status)
		memcpy(layout_host(&loader->layout, *gpa, file->size), file->data, file->size);
	return status;
}

static int read_files(struct loader *loader)
{
	const struct boot_request *request = loader->request;
	uint64_t ram = boot_ram_size(loader->layout.memory);
	int status = boot_file_read(&loader->kernel, request->kernel, "kernel", KERNEL_MAX);

	if (!status && request->initrd && *request->initrd)
		status = boot_file_read(&loader->initrd, request->initrd, "initrd", ram);
	for (unsigned i = 0; i < request->module_count && !status; i++) {
		status = boot_file_read(&loader->module[i], request->module[i].path, "module", ram);
		loader->module_count++;
	}
	return status;
}

/* ELF and Multiboot images come compressed as a whole (GRUB unpacks them, Debian's Xen relies on it). */
static int unpack_kernel(struct loader *loader)
{
	struct boot_file unpacked;
	int status;

	if (!decompress_format(loader->kernel.data, loader->kernel.size))
		return 0;
	status = decompress(&unpacked, loader->kernel.name, loader->kernel.data, loader->kernel.size, 0,
	                    KERNEL_MAX);
	if (status)
		return status;
	boot_file_free(&loader->kernel);
	loader->kernel = unpacked;
	return 0;
}

static int load_kernel(struct loader *loader)
{
	const struct boot_file *kernel = &loader->kernel;

	if (linux_is(kernel))
		return linux_load(loader);
	if (multiboot_is(kernel))
		return multiboot_load(loader);
	if (elf_is(kernel))
		return pvh_load(loader);
	return error_set(
	    EINVAL,
	    "%s: no kernel in a known format (its first bytes are %02x %02x %02x %02x); give a Linux "
	    "bzImage, an ELF file with a PVH note or a Multiboot image",
	    kernel->name, kernel->data[0], kernel->size > 1 ? kernel->data[1] : 0,
	    kernel->size > 2 ? kernel->data[2] : 0, kernel->size > 3 ? kernel->data[3] : 0);
}

void request_fill_defaults(struct boot_request *request)
{
	struct boot_platform *platform = &request->platform;

	if (!request->cpu_count)
		request->cpu_count = 1;
	if (!platform->local_apic)
		platform->local_apic = 0xfee00000;
	if (!platform->io_apic)
		platform->io_apic = 0xfec00000;
	if (!platform->io_apic_pins)
		platform->io_apic_pins = 24;
	if (!platform->pm_base)
		platform->pm_base = 0x600;
	if (!platform->sci_irq)
		platform->sci_irq = 9;
	if (!platform->pci_hole_end)
		platform->pci_hole_end = 0xfec00000;
}

static int load(struct loader *loader)
{
	int status = firmware_claim(loader);

	if (!status)
		status = read_files(loader);
	if (!status)
		status = unpack_kernel(loader);
	if (!status)
		status = load_kernel(loader);
	return status;
}

int boot_load(const struct boot_request *request, const struct guest_memory *memory, struct vcpu_state *start)
{
	struct boot_request filled = *request;
	struct loader *loader;
	int status;

	if (!request->kernel || !*request->kernel)
		return error_set(EINVAL, "no kernel to start; give --kernel FILE");
	if (request->module_count > BOOT_MODULES)
		return error_set(E2BIG, "%u modules; at most %d can be given", request->module_count,
		                 BOOT_MODULES);
	request_fill_defaults(&filled);
	loader = calloc(1, sizeof(*loader));
	if (!loader)
		return error_set(ENOMEM, "the host has no memory to load %s", request->kernel);
	loader->request = &filled;
	loader->layout.memory = memory;
	loader->e820_count = e820_make(&filled, memory, loader->e820);
	if (!filled.platform.pci_hole)
		filled.platform.pci_hole = e820_low_end(loader->e820, loader->e820_count);
	status = load(loader);
	if (!status)
		*start = loader->start;
	boot_file_free(&loader->kernel);
	boot_file_free(&loader->initrd);
	for (unsigned i = 0; i < loader->module_count; i++)
		boot_file_free(&loader->module[i]);
	free(loader);
	return status;
}

#include "boot/elf.h"

#include <elf.h>
#include <errno.h>
#include <string.h>

#include "util/error.h"

#define XEN_ELFNOTE_PHYS32_ENTRY 18

bool elf_is(const struct boot_file *file)
{
	return file->size >= EI_NIDENT && !memcmp(file->data, ELFMAG, SELFMAG);
}

/* One program header in either class's format. */
static Elf64_Phdr program_header(const struct boot_file *file, bool is64, uint64_t offset)
{
	Elf64_Phdr header;
	Elf32_Phdr narrow;

	if (is64) {
		memcpy(&header, file->data + offset, sizeof(header));
		return header;
	}
	memcpy(&narrow, file->data + offset, sizeof(narrow));
	header = (Elf64_Phdr){
	    .p_type = narrow.p_type,
	    .p_flags = narrow.p_flags,
	    .p_offset = narrow.p_offset,
	    .p_vaddr = narrow.p_vaddr,
	    .p_paddr = narrow.p_paddr,
	    .p_filesz = narrow.p_filesz,
	    .p_memsz = narrow.p_memsz,
	    .p_align = narrow.p_align,
	};
	return header;
}

static int add_segment(struct elf_image *image, const struct boot_file *file, const Elf64_Phdr *header)
{
	if (!header->p_memsz)
		return 0;
	if (image->segment_count == ELF_SEGMENTS)
		return error_set(EINVAL, "%s: more than %d ELF segments; the file is corrupt or no kernel",
		                 file->name, ELF_SEGMENTS);
	if (!boot_file_has(file, header->p_offset, header->p_filesz))
		return error_set(
		    ENODATA,
		    "%s: the file ends inside its ELF segment %u, it is truncated; fetch or build "
		    "it again",
		    file->name, image->segment_count);
	if (header->p_filesz > header->p_memsz || header->p_paddr + header->p_memsz < header->p_paddr)
		return error_set(EINVAL, "%s: ELF segment %u has impossible sizes; the file is corrupt",
		                 file->name, image->segment_count);
	image->segment[image->segment_count++] = (struct elf_segment){
	    .offset = header->p_offset,
	    .file_size = header->p_filesz,
	    .gpa = header->p_paddr,
	    .memory_size = header->p_memsz,
	};
	if (header->p_paddr < image->low)
		image->low = header->p_paddr;
	if (header->p_paddr + header->p_memsz > image->high)
		image->high = header->p_paddr + header->p_memsz;
	return 0;
}

/* Looks for the PVH entry among the notes of one PT_NOTE segment; a malformed list just ends. */
static void scan_notes(struct elf_image *image, const struct boot_file *file, const Elf64_Phdr *header)
{
	uint64_t align = header->p_align == 8 ? 8 : 4, at = header->p_offset, end;

	if (!boot_file_has(file, header->p_offset, header->p_filesz))
		return;
	end = header->p_offset + header->p_filesz;
	while (end - at >= 12) {
		uint64_t name_size = boot_file_u32(file, at), size = boot_file_u32(file, at + 4);
		uint32_t type = boot_file_u32(file, at + 8);
		uint64_t name = at + 12, data = name + ((name_size + align - 1) & ~(align - 1));

		if (data > end || size > end - data)
			return;
		if (type == XEN_ELFNOTE_PHYS32_ENTRY && name_size == 4 &&
		    !memcmp(file->data + name, "Xen", 4) && (size == 4 || size == 8)) {
			image->has_pvh_entry = true;
			image->pvh_entry = boot_file_u32(file, data);
		}
		at = data + ((size + align - 1) & ~(align - 1));
		if (at > end)
			return;
	}
}

static int check_header(struct elf_image *image, const struct boot_file *file)
{
	uint16_t type, machine;

	image->is64 = file->data[EI_CLASS] == ELFCLASS64;
	if (!boot_file_has(file, 0, image->is64 ? sizeof(Elf64_Ehdr) : sizeof(Elf32_Ehdr)))
		return error_set(
		    ENODATA,
		    "%s: the file ends inside its ELF header, it is truncated; fetch or build it "
		    "again",
		    file->name);
	if ((!image->is64 && file->data[EI_CLASS] != ELFCLASS32) || file->data[EI_DATA] != ELFDATA2LSB)
		return error_set(EINVAL,
		                 "%s: an ELF file, but not of a little-endian 32- or 64-bit machine; give a "
		                 "kernel for x86",
		                 file->name);
	type = boot_file_u16(file, offsetof(Elf64_Ehdr, e_type));
	machine = boot_file_u16(file, offsetof(Elf64_Ehdr, e_machine));
	if (machine != EM_386 && machine != EM_X86_64)
		return error_set(EINVAL, "%s: an ELF file for machine type %u; give a kernel for x86",
		                 file->name, machine);
	if (type != ET_EXEC && type != ET_DYN)
		return error_set(EINVAL,
		                 "%s: an ELF file, but not an executable (type %u); give a linked kernel",
		                 file->name, type);
	image->is_x86_64 = machine == EM_X86_64;
	return 0;
}

int elf_parse(struct elf_image *image, const struct boot_file *file)
{
	uint64_t headers;
	unsigned count, entry_size;
	int status;

	*image = (struct elf_image){.low = UINT64_MAX};
	status = check_header(image, file);
	if (status)
		return status;
	if (image->is64) {
		image->entry = boot_file_u64(file, offsetof(Elf64_Ehdr, e_entry));
		headers = boot_file_u64(file, offsetof(Elf64_Ehdr, e_phoff));
		entry_size = boot_file_u16(file, offsetof(Elf64_Ehdr, e_phentsize));
		count = boot_file_u16(file, offsetof(Elf64_Ehdr, e_phnum));
	} else {
		image->entry = boot_file_u32(file, offsetof(Elf32_Ehdr, e_entry));
		headers = boot_file_u32(file, offsetof(Elf32_Ehdr, e_phoff));
		entry_size = boot_file_u16(file, offsetof(Elf32_Ehdr, e_phentsize));
		count = boot_file_u16(file, offsetof(Elf32_Ehdr, e_phnum));
	}
	if (count && entry_size != (image->is64 ? sizeof(Elf64_Phdr) : sizeof(Elf32_Phdr)))
		return error_set(EINVAL, "%s: ELF program headers of %u bytes; the file is corrupt",
		                 file->name, entry_size);
	if (!boot_file_has(file, headers, (uint64_t)count * entry_size))
		return error_set(
		    ENODATA,
		    "%s: the file ends inside its ELF program headers, it is truncated; fetch or "
		    "build it again",
		    file->name);
	for (unsigned i = 0; i < count; i++) {
		Elf64_Phdr header = program_header(file, image->is64, headers + (uint64_t)i * entry_size);

		if (header.p_type == PT_LOAD)
			status = add_segment(image, file, &header);
		else if (header.p_type == PT_NOTE)
			scan_notes(image, file, &header);
		if (status)
			return status;
	}
	if (!image->segment_count)
		return error_set(EINVAL, "%s: an ELF file without loadable segments; give a linked kernel",
		                 file->name);
	return 0;
}

int elf_claim(const struct elf_image *image, const struct boot_file *file, struct boot_layout *layout)
{
	for (unsigned i = 0; i < image->segment_count; i++) {
		int status = layout_claim(layout, file->name, "kernel segment", image->segment[i].gpa,
		                          image->segment[i].memory_size);
		if (status)
			return status;
	}
	return 0;
}

static bool is_zero(const uint8_t *data, size_t size)
{
	return !data[0] && !memcmp(data, data + 1, size - 1);
}

/*
 * RAM is almost always zero before a guest is loaded, and half a kernel is zeros: where nothing is written, the host
 * need not find a page. from: NULL for zeros.
 */
static void copy_but_zeros(uint8_t *to, const uint8_t *from, uint64_t size)
{
	while (size) {
		size_t piece = size < PAGE_SIZE ? size : PAGE_SIZE;

		if (from && !is_zero(from, piece))
			memcpy(to, from, piece);
		else if (!is_zero(to, piece))
			memset(to, 0, piece);
		to += piece;
		from += from ? piece : 0;
		size -= piece;
	}
}

void elf_load(const struct elf_image *image, const struct boot_file *file, const struct boot_layout *layout)
{
	for (unsigned i = 0; i < image->segment_count; i++) {
		const struct elf_segment *segment = &image->segment[i];
		uint8_t *host = layout_host(layout, segment->gpa, segment->memory_size);

		copy_but_zeros(host, file->data + segment->offset, segment->file_size);
		copy_but_zeros(host + segment->file_size, NULL, segment->memory_size - segment->file_size);
	}
}

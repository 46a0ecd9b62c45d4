/* Reading ELF executables, 32 and 64 bits, as boot loaders need them: physical addresses and notes. */
#ifndef NESTOR_BOOT_ELF_H
#define NESTOR_BOOT_ELF_H

#include "boot/file.h"
#include "boot/layout.h"

#define ELF_SEGMENTS 64

struct elf_image {
	bool is64;      /* ELFCLASS64 */
	bool is_x86_64; /* e_machine is EM_X86_64, else EM_386 */
	uint64_t entry; /* as the header has it */
	struct elf_segment {
		uint64_t offset, file_size, gpa, memory_size;
	} segment[ELF_SEGMENTS];
	unsigned segment_count;
	uint64_t low, high; /* physical extent of all segments */
	bool has_pvh_entry;
	uint32_t pvh_entry; /* XEN_ELFNOTE_PHYS32_ENTRY */
};

bool elf_is(const struct boot_file *file);

/* Parses and checks the headers. Returns 0, or -EINVAL or -ENODATA with error_text(). */
int elf_parse(struct elf_image *image, const struct boot_file *file);

/* Claims room for all segments. Returns 0 or what layout_claim returns. */
int elf_claim(const struct elf_image *image, const struct boot_file *file, struct boot_layout *layout);

/* Copies the segments to the places claimed and clears what the file does not hold. */
void elf_load(const struct elf_image *image, const struct boot_file *file, const struct boot_layout *layout);

#endif

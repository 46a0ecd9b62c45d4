/*
 * The loaders, on small fabricated images and on broken ones; the firmware tables.
 *
 * gcc -std=gnu17 -g -fsanitize=address,undefined -D_GNU_SOURCE -DNESTOR_HAVE_{ZLIB,LZMA,ZSTD,LZ4,BZIP2,LZO}=1
 *-Isrc tests/unit/test_boot.c src/boot/[a-z]*.c src/util/error.c -lcmocka -lz -llzma -lzstd -llz4 -lbz2
 *-llzo2
 */
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>

#include <elf.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#ifdef NESTOR_HAVE_ZLIB
#include <zlib.h>
#endif
#ifdef NESTOR_HAVE_LZMA
#include <lzma.h>
#endif
#ifdef NESTOR_HAVE_ZSTD
#include <zstd.h>
#endif
#ifdef NESTOR_HAVE_LZ4
#include <lz4.h>
#endif
#ifdef NESTOR_HAVE_BZIP2
#include <bzlib.h>
#endif
#ifdef NESTOR_HAVE_LZO
#include <lzo/lzo1x.h>
#endif

#include "boot/aml.h"
#include "boot/boot.h"
#include "boot/decompress.h"
#include "boot/loader.h"
#include "engine/vcpu_state.h"
#include "util/error.h"

#define RAM_SIZE    (32u << 20)
#define KERNEL_GPA  0x1000000u
#define KERNEL_DATA 20000u
#define KERNEL_BSS  5000u

static char folder[] = "/tmp/nestor-test-boot-XXXXXX";
static char kernel_path[64], initrd_path[64], module_path[64];
static uint8_t *ram;
static struct guest_memory memory;
static struct vcpu_state start;

struct buffer {
	uint8_t data[1 << 17];
	size_t size;
};

static void write_file(const char *path, const void *data, size_t size)
{
	FILE *file = fopen(path, "wb");

	assert_non_null(file);
	assert_int_equal(fwrite(data, 1, size, file), size);
	fclose(file);
}

static void fresh_ram(void)
{
	if (ram)
		munmap(ram, RAM_SIZE);
	ram = mmap(NULL, RAM_SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	memory = (struct guest_memory){
	    .slot = {{.gpa = 0, .size = 0xa0000, .host = ram},
	             {.gpa = 0xc0000, .size = RAM_SIZE - 0xc0000, .host = ram + 0xc0000}},
	    .slot_count = 2,
	};
}

static bool ram_is_untouched(void)
{
	for (size_t i = 0; i < RAM_SIZE; i += 8)
		if (*(uint64_t *)(ram + i))
			return false;
	return true;
}

static uint32_t get32(const void *from)
{
	uint32_t value;

	memcpy(&value, from, 4);
	return value;
}

static uint64_t get64(const void *from)
{
	uint64_t value;

	memcpy(&value, from, 8);
	return value;
}

static struct boot_request request_for(const char *kernel)
{
	return (struct boot_request){
	    .kernel = kernel,
	    .command_line = "console=ttyS0",
	    .cpu_count = 3,
	    .platform = {.hpet = 0xfed00000,
	                 .rtc = true,
	                 .rtc_century = 0x32,
	                 .i8042 = true,
	                 .pci = true,
	                 .ecam = 0xb0000000,
	                 .pci_hole = 0xc0000000,
	                 .reset_port = 0xcf9,
	                 .reset_value = 6,
	                 .sleep_type_s5 = 5,
	                 .gpe0_base = 0x620,
	                 .gpe0_length = 4,
	                 .debug_exit_port = 0xf4,
	                 .serial = {{0x3f8, 4}, {0x2f8, 3}}},
	};
}

/* An error must be one line that names the file. */
static void assert_refused(int status, const char *name)
{
	assert_true(status < 0);
	assert_non_null(strstr(error_text(), name));
	assert_null(strchr(error_text(), '\n'));
	assert_true(strlen(error_text()) > strlen(name) + 10);
}

/* --- fabricated images --- */

static uint8_t pattern(size_t i)
{
	return (uint8_t)(i * 7 ^ i >> 8);
}

/* One segment of KERNEL_DATA bytes and some BSS at KERNEL_GPA, and a PVH note where asked. */
static void make_elf64(struct buffer *out, bool with_note)
{
	Elf64_Ehdr header = {.e_ident = {0x7f, 'E', 'L', 'F', ELFCLASS64, ELFDATA2LSB, EV_CURRENT},
	                     .e_type = ET_EXEC,
	                     .e_machine = EM_X86_64,
	                     .e_version = 1,
	                     .e_entry = KERNEL_GPA + 0x40,
	                     .e_phoff = sizeof(header),
	                     .e_ehsize = sizeof(header),
	                     .e_phentsize = sizeof(Elf64_Phdr),
	                     .e_phnum = with_note ? 2 : 1};
	const uint32_t note[] = {4, 8, 18, 0x006e6558, KERNEL_GPA + 0x80, 0};
	Elf64_Phdr program[2] = {
	    {.p_type = PT_LOAD,
	     .p_offset = 0x1000,
	     .p_vaddr = 0xffffffff81000000,
	     .p_paddr = KERNEL_GPA,
	     .p_filesz = KERNEL_DATA,
	     .p_memsz = KERNEL_DATA + KERNEL_BSS},
	    {.p_type = PT_NOTE,
	     .p_offset = 0x800,
	     .p_filesz = sizeof(note),
	     .p_memsz = sizeof(note),
	     .p_align = 4},
	};

	memset(out->data, 0, 0x1000);
	memcpy(out->data, &header, sizeof(header));
	memcpy(out->data + sizeof(header), program, sizeof(program));
	memcpy(out->data + 0x800, note, sizeof(note));
	for (size_t i = 0; i < KERNEL_DATA; i++)
		out->data[0x1000 + i] = pattern(i);
	out->size = 0x1000 + KERNEL_DATA;
}

static void make_elf32(struct buffer *out)
{
	Elf32_Ehdr header = {.e_ident = {0x7f, 'E', 'L', 'F', ELFCLASS32, ELFDATA2LSB, EV_CURRENT},
	                     .e_type = ET_EXEC,
	                     .e_machine = EM_386,
	                     .e_version = 1,
	                     .e_entry = 0x100020,
	                     .e_phoff = sizeof(header),
	                     .e_ehsize = sizeof(header),
	                     .e_phentsize = sizeof(Elf32_Phdr),
	                     .e_phnum = 1};
	Elf32_Phdr program = {.p_type = PT_LOAD,
	                      .p_offset = 0x1000,
	                      .p_vaddr = 0x100000,
	                      .p_paddr = 0x100000,
	                      .p_filesz = KERNEL_DATA,
	                      .p_memsz = KERNEL_DATA + KERNEL_BSS};

	memset(out->data, 0, 0x1000);
	memcpy(out->data, &header, sizeof(header));
	memcpy(out->data + sizeof(header), &program, sizeof(program));
	for (size_t i = 0; i < KERNEL_DATA; i++)
		out->data[0x1000 + i] = pattern(i);
	out->size = 0x1000 + KERNEL_DATA;
}

static void put_multiboot(struct buffer *out, size_t at, uint32_t flags)
{
	put_u32(out->data + at, 0x1badb002);
	put_u32(out->data + at + 4, flags);
	put_u32(out->data + at + 8, -(0x1badb002 + flags));
}

static void append32(struct buffer *out, uint32_t value)
{
	put_u32(out->data + out->size, value);
	out->size += 4;
}

static void append32_big(struct buffer *out, uint32_t value)
{
	append32(out, __builtin_bswap32(value));
}

/* Packs in as the kernel's build does it; false where this build has no such library. */
static bool pack(const char *format, struct buffer *out, const struct buffer *in)
{
	size_t room = sizeof(out->data) - 64;

	out->size = 0;
	memset(out->data, 0, sizeof(out->data));
#ifdef NESTOR_HAVE_ZLIB
	if (!strcmp(format, "gzip")) {
		z_stream stream = {.next_in = (uint8_t *)in->data,
		                   .avail_in = (uInt)in->size,
		                   .next_out = out->data,
		                   .avail_out = (uInt)room};

		assert_int_equal(deflateInit2(&stream, 9, Z_DEFLATED, 31, 9, Z_DEFAULT_STRATEGY), Z_OK);
		assert_int_equal(deflate(&stream, Z_FINISH), Z_STREAM_END);
		out->size = stream.total_out;
		deflateEnd(&stream);
		return true;
	}
#endif
#ifdef NESTOR_HAVE_LZMA
	if (!strcmp(format, "xz")) {
		lzma_options_lzma options;
		lzma_filter filter[] = {
		    {LZMA_FILTER_X86, NULL}, {LZMA_FILTER_LZMA2, &options}, {LZMA_VLI_UNKNOWN, NULL}};

		lzma_lzma_preset(&options, 6);
		assert_int_equal(lzma_stream_buffer_encode(filter, LZMA_CHECK_CRC32, NULL, in->data, in->size,
		                                           out->data, &out->size, room),
		                 LZMA_OK);
		append32(out, (uint32_t)in->size);
		return true;
	}
	if (!strcmp(format, "lzma")) {
		lzma_options_lzma options;
		lzma_stream stream = LZMA_STREAM_INIT;

		lzma_lzma_preset(&options, 6);
		assert_int_equal(lzma_alone_encoder(&stream, &options), LZMA_OK);
		stream.next_in = in->data, stream.avail_in = in->size;
		stream.next_out = out->data, stream.avail_out = room;
		assert_int_equal(lzma_code(&stream, LZMA_FINISH), LZMA_STREAM_END);
		out->size = stream.total_out;
		lzma_end(&stream);
		append32(out, (uint32_t)in->size);
		return true;
	}
#endif
#ifdef NESTOR_HAVE_ZSTD
	if (!strcmp(format, "zstd")) {
		ZSTD_CCtx *context = ZSTD_createCCtx();

		ZSTD_CCtx_setParameter(context, ZSTD_c_checksumFlag, 1);
		out->size = ZSTD_compress2(context, out->data, room, in->data, in->size);
		assert_false(ZSTD_isError(out->size));
		ZSTD_freeCCtx(context);
		append32(out, (uint32_t)in->size);
		return true;
	}
#endif
#ifdef NESTOR_HAVE_LZ4
	if (!strcmp(format, "lz4")) {
		int got;

		append32(out, 0x184c2102);
		got = LZ4_compress_default((const char *)in->data, (char *)out->data + 8, (int)in->size,
		                           (int)room);
		append32(out, (uint32_t)got);
		out->size += (size_t)got;
		append32(out, (uint32_t)in->size);
		return true;
	}
#endif
#ifdef NESTOR_HAVE_BZIP2
	if (!strcmp(format, "bzip2")) {
		unsigned got = (unsigned)room;

		assert_int_equal(BZ2_bzBuffToBuffCompress((char *)out->data, &got, (char *)in->data,
		                                          (unsigned)in->size, 9, 0, 0),
		                 BZ_OK);
		out->size = got;
		append32(out, (uint32_t)in->size);
		return true;
	}
#endif
#ifdef NESTOR_HAVE_LZO
	if (!strcmp(format, "lzo")) {
		static const uint8_t head[] = {0x89, 'L',  'Z',  'O',  0,    0x0d, 0x0a, 0x1a, 0x0a, 0x10,
		                               0x30, 0x20, 0x80, 0x09, 0x40, 1,    5,    0,    0,    0,
		                               1,    0,    0,    0x81, 0xa4, 0,    0,    0,    0,    0,
		                               0,    0,    0,    0,    0,    0,    0,    0};
		static uint8_t work[LZO1X_1_MEM_COMPRESS];
		lzo_uint got;

		memcpy(out->data, head, sizeof(head));
		assert_int_equal(
		    lzo1x_1_compress(in->data, in->size, out->data + sizeof(head) + 12, &got, work),
		    LZO_E_OK);
		out->size = sizeof(head);
		append32_big(out, (uint32_t)in->size);
		append32_big(out, (uint32_t)got);
		append32_big(out, lzo_adler32(1, in->data, in->size));
		out->size += got;
		append32_big(out, 0);
		append32(out, (uint32_t)in->size);
		return true;
	}
#endif
	(void)room;
	(void)append32_big;
	return false;
}

/* A bzImage of protocol 2.15 around a payload. */
static void make_bzimage(struct buffer *out, const struct buffer *payload)
{
	const size_t setup = 5 * 512, offset = 0x400;
	size_t system = (offset + payload->size + 15) & ~15ull;

	memset(out->data, 0, setup + system);
	out->data[0x1f1] = 4;
	put_u32(out->data + 0x1f4, (uint32_t)(system / 16));
	put_u16(out->data + 0x1fe, 0xaa55);
	out->data[0x200] = 0xeb;
	out->data[0x201] = 0x6a;
	memcpy(out->data + 0x202, "HdrS", 4);
	put_u16(out->data + 0x206, 0x20f);
	out->data[0x211] = 1;
	put_u32(out->data + 0x22c, 0x7fffffff);
	put_u32(out->data + 0x230, 0x200000);
	out->data[0x234] = 1;
	put_u16(out->data + 0x236, 0x3);
	put_u32(out->data + 0x238, 2047);
	put_u32(out->data + 0x248, offset);
	put_u32(out->data + 0x24c, (uint32_t)payload->size);
	put_u64(out->data + 0x258, KERNEL_GPA);
	put_u32(out->data + 0x260, 0x100000);
	memcpy(out->data + setup + offset, payload->data, payload->size);
	out->size = setup + system;
}

static struct buffer elf, packed, image;

static const char *const all_formats[] = {"gzip", "xz", "zstd", "lz4", "lzo", "bzip2", "lzma"};

/* A format that this build has, for tests of something else. */
static const char *some_format(void)
{
	for (size_t i = 0; i < sizeof(all_formats) / sizeof(all_formats[0]); i++)
		if (pack(all_formats[i], &packed, &elf))
			return all_formats[i];
	return NULL;
}

static bool make_linux(void)
{
	make_elf64(&elf, true);
	if (!some_format())
		return false;
	make_bzimage(&image, &packed);
	write_file(kernel_path, image.data, image.size);
	return true;
}

static void assert_kernel_at(uint64_t gpa)
{
	for (size_t i = 0; i < KERNEL_DATA; i++)
		assert_int_equal(ram[gpa + i], pattern(i));
	for (size_t i = 0; i < KERNEL_BSS; i++)
		assert_int_equal(ram[gpa + KERNEL_DATA + i], 0);
}

/* --- Linux --- */

static void linux_payload_of_every_format(void **state)
{
	struct boot_request request = request_for(kernel_path);

	make_elf64(&elf, false);
	for (size_t i = 0; i < sizeof(all_formats) / sizeof(all_formats[0]); i++) {
		if (!pack(all_formats[i], &packed, &elf))
			continue;
		assert_string_equal(decompress_format(packed.data, packed.size), all_formats[i]);
		make_bzimage(&image, &packed);
		write_file(kernel_path, image.data, image.size);
		fresh_ram();
		memset(ram + KERNEL_GPA + KERNEL_DATA, 0xee, KERNEL_BSS);
		if (boot_load(&request, &memory, &start))
			fail_msg("%s: %s", all_formats[i], error_text());
		assert_kernel_at(KERNEL_GPA);
		assert_int_equal(start.rip, KERNEL_GPA + 0x40);
	}
}

static void linux_boot_parameters(void **state)
{
	struct boot_request request = request_for(kernel_path);
	static const char initrd[] = "the initial RAM disk";
	const uint8_t *params, *entry;
	uint32_t place;

	if (!make_linux())
		skip();
	write_file(initrd_path, initrd, sizeof(initrd));
	request.initrd = initrd_path;
	fresh_ram();
	assert_int_equal(boot_load(&request, &memory, &start), 0);
	params = ram + start.gpr[REG_RSI];
	assert_memory_equal(params + 0x202, "HdrS", 4);
	assert_int_equal(params[0x210], 0xff);
	assert_int_equal(get64(params + 0x70), LOW_ACPI);
	assert_string_equal((const char *)ram + get32(params + 0x228), "console=ttyS0");
	place = get32(params + 0x218);
	assert_int_equal(get32(params + 0x21c), sizeof(initrd));
	assert_int_equal(place % PAGE_SIZE, 0);
	assert_memory_equal(ram + place, initrd, sizeof(initrd));
	assert_int_equal(params[0x1e8], 5);
	entry = params + 0x2d0;
	assert_int_equal(get64(entry), 0);
	assert_int_equal(get64(entry + 8), LOW_EBDA);
	assert_int_equal(get32(entry + 16), 1);
	assert_int_equal(get64(entry + 60), 0x100000);
	assert_int_equal(get64(entry + 68), RAM_SIZE - 0x100000);
	assert_int_equal(get64(entry + 80), 0xb0000000);
	assert_int_equal(get32(entry + 96), 2);
	/* 64-bit boot protocol: long mode, flat code in 10H, identity mapping */
	assert_int_equal(start.efer, 0x500);
	assert_int_equal(start.cr0, 0x80000011);
	assert_int_equal(start.cr4, 0x20);
	assert_int_equal(start.seg[SEG_CS].selector, 0x10);
	assert_int_equal(start.seg[SEG_DS].selector, 0x18);
	assert_true(start.seg[SEG_CS].rights & RIGHTS_L);
	assert_int_equal(start.rflags & 0x200, 0);
	for (uint64_t gla = 0; gla < 1ull << 32; gla += 0x1234567) {
		uint64_t pdpt = get64(ram + start.cr3) & PAGE_MASK;
		uint64_t directory = get64(ram + pdpt + 8 * (gla >> 30)) & PAGE_MASK;
		uint64_t page = get64(ram + directory + 8 * (gla >> 21 & 511));

		assert_int_equal(page & ~0x1fffffull, gla & ~0x1fffffull);
		assert_int_equal(page & 0x83, 0x83);
	}
}

static void linux_setup_enters_the_decompressor(void **state)
{
	struct boot_request request = request_for(kernel_path);

	if (!make_linux())
		skip();
	request.mode = BOOT_MODE_SETUP;
	fresh_ram();
	assert_int_equal(boot_load(&request, &memory, &start), 0);
	assert_int_equal(start.rip, KERNEL_GPA + 0x200);
	assert_memory_equal(ram + KERNEL_GPA, image.data + 5 * 512, image.size - 5 * 512);
	/* without XLF_KERNEL_64 the 32-bit entry */
	put_u16(image.data + 0x236, 0);
	write_file(kernel_path, image.data, image.size);
	fresh_ram();
	assert_int_equal(boot_load(&request, &memory, &start), 0);
	assert_int_equal(start.rip, KERNEL_GPA);
	assert_int_equal(start.cr0, 0x11);
	assert_int_equal(start.efer, 0);
}

static void linux_of_32_bits_starts_in_protected_mode(void **state)
{
	struct boot_request request = request_for(kernel_path);

	make_elf32(&elf);
	if (!some_format())
		skip();
	make_bzimage(&image, &packed);
	write_file(kernel_path, image.data, image.size);
	fresh_ram();
	assert_int_equal(boot_load(&request, &memory, &start), 0);
	assert_int_equal(start.rip, 0x100020);
	assert_int_equal(start.cr0, 0x11);
	assert_true(start.seg[SEG_CS].rights & RIGHTS_DB);
	assert_kernel_at(0x100000);
}

static void linux_truncated_anywhere_is_refused_before_ram_is_touched(void **state)
{
	struct boot_request request = request_for(kernel_path);
	size_t whole;

	if (!make_linux())
		skip();
	fresh_ram();
	whole = image.size;
	for (size_t size = 0; size < whole; size += size < 0x300 ? 13 : 499) {
		write_file(kernel_path, image.data, size);
		assert_refused(boot_load(&request, &memory, &start), kernel_path);
	}
	assert_true(ram_is_untouched());
}

static void linux_corrupt_payload_is_refused_before_ram_is_touched(void **state)
{
	struct boot_request request = request_for(kernel_path);

	make_elf64(&elf, false);
	for (size_t i = 0; i < sizeof(all_formats) / sizeof(all_formats[0]); i++) {
		if (!strcmp(all_formats[i], "lz4") || !strcmp(all_formats[i], "lzma"))
			continue; /* these have no checksum */
		if (!pack(all_formats[i], &packed, &elf))
			continue;
		make_bzimage(&image, &packed);
		image.data[5 * 512 + 0x400 + packed.size / 2] ^= 0x10;
		write_file(kernel_path, image.data, image.size);
		fresh_ram();
		assert_refused(boot_load(&request, &memory, &start), kernel_path);
		assert_true(ram_is_untouched());
	}
}

static void linux_header_lies_are_refused(void **state)
{
	static const struct {
		unsigned offset, size;
		uint64_t value;
	} lie[] = {
	    {0x206, 2, 0x205},      {0x211, 1, 0},          {0x1f4, 4, 0xffffffff}, {0x1f4, 4, 0},
	    {0x248, 4, 0xfffffff0}, {0x24c, 4, 0xfffffff0}, {0x24c, 4, 4},
	};
	struct boot_request request = request_for(kernel_path);

	if (!make_linux())
		skip();
	fresh_ram();
	for (size_t i = 0; i < sizeof(lie) / sizeof(lie[0]); i++) {
		static struct buffer broken;

		broken = image;
		memcpy(broken.data + lie[i].offset, &lie[i].value, lie[i].size);
		write_file(kernel_path, broken.data, broken.size);
		assert_refused(boot_load(&request, &memory, &start), kernel_path);
	}
	assert_true(ram_is_untouched());
}

static void command_line_longer_than_the_kernel_takes_is_refused(void **state)
{
	struct boot_request request = request_for(kernel_path);
	static char text[2049];

	if (!make_linux())
		skip();
	memset(text, 'x', 2048);
	request.command_line = text;
	fresh_ram();
	assert_refused(boot_load(&request, &memory, &start), kernel_path);
	text[2047] = 0;
	assert_int_equal(boot_load(&request, &memory, &start), 0);
}

static void too_little_memory_is_refused(void **state)
{
	struct boot_request request = request_for(kernel_path);
	static uint8_t initrd[1 << 20];

	if (!make_linux())
		skip();
	fresh_ram();
	memory.slot[1].size = KERNEL_GPA - 0xc0000 + PAGE_SIZE;
	assert_refused(boot_load(&request, &memory, &start), kernel_path);
	assert_non_null(strstr(error_text(), "--memory"));
	/* the kernel fits, the initrd below it does not */
	fresh_ram();
	request.initrd = initrd_path;
	memset(initrd, 1, sizeof(initrd));
	write_file(initrd_path, initrd, sizeof(initrd));
	memory.slot[1].size = KERNEL_GPA - 0xc0000 + 0x8000;
	assert_int_equal(boot_load(&request, &memory, &start), 0);
	assert_int_equal(truncate(initrd_path, 16 << 20), 0);
	assert_refused(boot_load(&request, &memory, &start), initrd_path);
	assert_non_null(strstr(error_text(), "--memory"));
	assert_int_equal(truncate(initrd_path, 64 << 20), 0);
	assert_refused(boot_load(&request, &memory, &start), initrd_path);
}

static void missing_empty_and_foreign_files_are_refused(void **state)
{
	static const char *const foreign[] = {"#!/bin/sh\necho no kernel\n",
	                                      "x",
	                                      "MZ",
	                                      "\x7f"
	                                      "ELF",
	                                      "\x1f\x8b",
	                                      "\xfd"
	                                      "7zXZ"};
	struct boot_request request = request_for("/nonexistent/kernel");

	fresh_ram();
	assert_int_equal(boot_load(&request, &memory, &start), -ENOENT);
	assert_refused(-1, "/nonexistent/kernel");
	request.kernel = folder;
	assert_int_equal(boot_load(&request, &memory, &start), -EISDIR);
	request.kernel = NULL;
	assert_refused(boot_load(&request, &memory, &start), "--kernel");
	request.kernel = kernel_path;
	write_file(kernel_path, "", 0);
	assert_refused(boot_load(&request, &memory, &start), kernel_path);
	assert_non_null(strstr(error_text(), "empty"));
	for (size_t i = 0; i < sizeof(foreign) / sizeof(foreign[0]); i++) {
		write_file(kernel_path, foreign[i], strlen(foreign[i]));
		assert_refused(boot_load(&request, &memory, &start), kernel_path);
	}
	if (make_linux()) {
		request.initrd = "/nonexistent/initrd";
		assert_int_equal(boot_load(&request, &memory, &start), -ENOENT);
		assert_refused(-1, "/nonexistent/initrd");
	}
	assert_true(ram_is_untouched());
}

/* --- PVH --- */

static void pvh_start_information(void **state)
{
	struct boot_request request = request_for(kernel_path);
	struct boot_module module = {.path = module_path, .command_line = "for the module"};
	const uint8_t *info, *list;

	make_elf64(&elf, true);
	write_file(kernel_path, elf.data, elf.size);
	write_file(initrd_path, "initrd", 6);
	write_file(module_path, "module", 6);
	request.initrd = initrd_path;
	request.module = &module;
	request.module_count = 1;
	fresh_ram();
	assert_int_equal(boot_load(&request, &memory, &start), 0);
	assert_int_equal(start.rip, KERNEL_GPA + 0x80);
	assert_int_equal(start.cr0, 0x11);
	assert_kernel_at(KERNEL_GPA);
	info = ram + start.gpr[REG_RBX];
	assert_int_equal(get32(info), 0x336ec578);
	assert_int_equal(get32(info + 4), 1);
	assert_int_equal(get32(info + 12), 2);
	assert_string_equal((const char *)ram + get64(info + 24), "console=ttyS0");
	assert_int_equal(get64(info + 32), LOW_ACPI);
	assert_int_equal(get32(info + 48), 5);
	list = ram + get64(info + 16);
	assert_memory_equal(ram + get64(list), "module", 6);
	assert_string_equal((const char *)ram + get64(list + 16), "for the module");
	assert_memory_equal(ram + get64(list + 32), "initrd", 6);
	assert_int_equal(get64(list + 40), 6);
}

static void elf_without_a_protocol_is_refused(void **state)
{
	struct boot_request request = request_for(kernel_path);

	make_elf64(&elf, false);
	write_file(kernel_path, elf.data, elf.size);
	fresh_ram();
	assert_refused(boot_load(&request, &memory, &start), kernel_path);
	make_elf64(&elf, true);
	for (size_t size = 4; size < elf.size; size += 37) {
		write_file(kernel_path, elf.data, size);
		assert_refused(boot_load(&request, &memory, &start), kernel_path);
	}
	assert_true(ram_is_untouched());
}

/* --- Multiboot --- */

static void multiboot_elf_gets_its_information(void **state)
{
	struct boot_request request = request_for(kernel_path);
	struct boot_module module = {.path = module_path, .command_line = "root=/dev/sda"};
	const uint8_t *info, *list;
	char expected[128];

	make_elf32(&elf);
	put_multiboot(&elf, 0x1000, 3);
	write_file(kernel_path, elf.data, elf.size);
	write_file(module_path, "module", 6);
	request.module = &module;
	request.module_count = 1;
	fresh_ram();
	assert_int_equal(boot_load(&request, &memory, &start), 0);
	assert_int_equal(start.rip, 0x100020);
	assert_int_equal(start.gpr[REG_RAX], 0x2badb002);
	assert_memory_equal(ram + 0x100000, elf.data + 0x1000, KERNEL_DATA);
	info = ram + start.gpr[REG_RBX];
	assert_int_equal(get32(info) & 0x24d, 0x24d);
	assert_int_equal(get32(info + 4), 639);
	assert_int_equal(get32(info + 8), (RAM_SIZE >> 10) - 1024);
	snprintf(expected, sizeof(expected), "%s console=ttyS0", kernel_path);
	assert_string_equal((const char *)ram + get32(info + 16), expected);
	assert_int_equal(get32(info + 20), 1);
	list = ram + get32(info + 24);
	assert_memory_equal(ram + get32(list), "module", 6);
	assert_int_equal(get32(list + 4) - get32(list), 6);
	assert_int_equal(get32(list) % PAGE_SIZE, 0);
	snprintf(expected, sizeof(expected), "%s root=/dev/sda", module_path);
	assert_string_equal((const char *)ram + get32(list + 8), expected);
	assert_int_equal(get32(info + 44), 5 * 24);
	assert_int_equal(get32(ram + get32(info + 48)), 20);
	assert_string_equal((const char *)ram + get32(info + 64), "nestor");
	/* BIOS data area: EBDA, base memory, serial ports */
	assert_int_equal(get32(ram + 0x400), 0x02f803f8);
	assert_int_equal(get32(ram + 0x40e) & 0xffff, LOW_EBDA >> 4);
	assert_int_equal(get32(ram + 0x413) & 0xffff, 639);
}

static void multiboot_address_fields(void **state)
{
	struct boot_request request = request_for(kernel_path);

	make_elf32(&elf); /* its contents serve as a flat binary */
	put_multiboot(&elf, 0x1000, 0x10003);
	put_u32(elf.data + 0x1000 + 12, 0x200000);
	put_u32(elf.data + 0x1000 + 16, 0x1ffff0);
	put_u32(elf.data + 0x1000 + 20, 0x201000);
	put_u32(elf.data + 0x1000 + 24, 0x204000);
	put_u32(elf.data + 0x1000 + 28, 0x200040);
	write_file(kernel_path, elf.data, elf.size);
	fresh_ram();
	memset(ram + 0x201000, 0xee, 0x3000);
	assert_int_equal(boot_load(&request, &memory, &start), 0);
	assert_int_equal(start.rip, 0x200040);
	assert_memory_equal(ram + 0x1ffff0, elf.data + 0xff0, 0x1010);
	for (unsigned i = 0x201000; i < 0x204000; i++)
		assert_int_equal(ram[i], 0);
	/* load end 0: the whole file */
	put_u32(elf.data + 0x1000 + 20, 0);
	put_u32(elf.data + 0x1000 + 24, 0);
	write_file(kernel_path, elf.data, elf.size);
	assert_int_equal(boot_load(&request, &memory, &start), 0);
	assert_memory_equal(ram + 0x1ffff0, elf.data + 0xff0, elf.size - 0xff0);
	fresh_ram();
	put_u32(elf.data + 0x1000 + 20, 0x300000);
	write_file(kernel_path, elf.data, elf.size);
	assert_refused(boot_load(&request, &memory, &start), kernel_path);
	put_u32(elf.data + 0x1000 + 20, 0);
	put_u32(elf.data + 0x1000 + 16, 0x1f0000);
	write_file(kernel_path, elf.data, elf.size);
	assert_refused(boot_load(&request, &memory, &start), kernel_path);
	assert_true(ram_is_untouched());
}

static void compressed_multiboot_is_unpacked_first(void **state)
{
	struct boot_request request = request_for(kernel_path);

	make_elf32(&elf);
	put_multiboot(&elf, 0x1000, 3);
	if (!pack("gzip", &packed, &elf))
		skip();
	write_file(kernel_path, packed.data, packed.size);
	fresh_ram();
	assert_int_equal(boot_load(&request, &memory, &start), 0);
	assert_memory_equal(ram + 0x100000, elf.data + 0x1000, KERNEL_DATA);
	fresh_ram();
	for (size_t size = 1; size < packed.size; size += 29) {
		write_file(kernel_path, packed.data, size);
		assert_refused(boot_load(&request, &memory, &start), kernel_path);
	}
	assert_true(ram_is_untouched());
}

static void image_over_the_firmware_is_refused(void **state)
{
	struct boot_request request = request_for(kernel_path);

	make_elf32(&elf);
	put_multiboot(&elf, 0x1000, 3);
	put_u32(elf.data + sizeof(Elf32_Ehdr) + offsetof(Elf32_Phdr, p_paddr), 0xf0000);
	put_u32(elf.data + offsetof(Elf32_Ehdr, e_entry), 0xf0000);
	write_file(kernel_path, elf.data, elf.size);
	fresh_ram();
	assert_refused(boot_load(&request, &memory, &start), kernel_path);
	assert_non_null(strstr(error_text(), "SMBIOS"));
}

/* --- the tables --- */

static uint8_t sum_of(const uint8_t *data, size_t size)
{
	uint8_t sum = 0;

	while (size--)
		sum = (uint8_t)(sum + *data++);
	return sum;
}

static void load_any(struct boot_request *request)
{
	make_elf64(&elf, true);
	write_file(kernel_path, elf.data, elf.size);
	fresh_ram();
	assert_int_equal(boot_load(request, &memory, &start), 0);
}

static const uint8_t *acpi_table(const char *signature)
{
	const uint8_t *xsdt = ram + get64(ram + LOW_ACPI + 24);

	for (unsigned at = 36; at < get32(xsdt + 4); at += 8) {
		const uint8_t *table = ram + get64(xsdt + at);

		if (!memcmp(table, signature, 4))
			return table;
	}
	return NULL;
}

static void acpi_tables_add_up(void **state)
{
	static const char *const names[] = {"FACP", "APIC", "HPET", "MCFG"};
	struct boot_request request = request_for(kernel_path);
	const uint8_t *rsdp = ram + LOW_ACPI, *fadt, *madt, *dsdt, *rsdt;
	unsigned cpus = 0, overrides = 0;

	load_any(&request);
	rsdp = ram + LOW_ACPI;
	assert_memory_equal(rsdp, "RSD PTR ", 8);
	assert_int_equal(sum_of(rsdp, 20), 0);
	assert_int_equal(sum_of(rsdp, 36), 0);
	rsdt = ram + get32(rsdp + 16);
	assert_int_equal(sum_of(rsdt, get32(rsdt + 4)), 0);
	assert_int_equal(sum_of(ram + get64(rsdp + 24), get32(ram + get64(rsdp + 24) + 4)), 0);
	for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
		const uint8_t *table = acpi_table(names[i]);

		assert_non_null(table);
		assert_int_equal(sum_of(table, get32(table + 4)), 0);
		assert_int_equal(get32(rsdt + 36 + 4 * i), table - ram);
	}
	fadt = acpi_table("FACP");
	dsdt = ram + get32(fadt + 40);
	assert_int_equal(get64(fadt + 140), get32(fadt + 40));
	assert_memory_equal(dsdt, "DSDT", 4);
	assert_int_equal(sum_of(dsdt, get32(dsdt + 4)), 0);
	assert_memory_equal(ram + get32(fadt + 36), "FACS", 4);
	assert_int_equal(get32(fadt + 36) % 64, 0);
	assert_int_equal(get32(fadt + 76), 0x608);
	assert_int_equal(get32(fadt + 112) & 1 << 20, 0); /* not hardware reduced */
	assert_int_equal(get32(fadt + 112) & 1 << 10, 1 << 10);
	assert_int_equal(get64(fadt + 120), 0xcf9);
	assert_int_equal(fadt[128], 6);
	madt = acpi_table("APIC");
	for (unsigned at = 44; at < get32(madt + 4); at += madt[at + 1]) {
		assert_true(madt[at + 1] >= 6);
		cpus += madt[at] == 0;
		overrides += madt[at] == 2;
	}
	assert_int_equal(cpus, 3);
	assert_int_equal(overrides, 2);
}

static void acpi_tables_hold_many_cpus(void **state)
{
	struct boot_request request = request_for(kernel_path);
	const uint8_t *madt;

	request.cpu_count = 255 + 40;
	load_any(&request);
	madt = acpi_table("APIC");
	assert_int_equal(get32(madt + 4), 44 + 255 * 8 + 40 * 16 + 12 + 10 + 10 + 6);
	assert_int_equal(sum_of(madt, get32(madt + 4)), 0);
	request.cpu_count = 60000;
	assert_true(boot_load(&request, &memory, &start) < 0);
	assert_non_null(strstr(error_text(), "--cpus"));
}

/* The reference disassembler must read the AML without complaint. */
static void acpi_tables_satisfy_iasl(void **state)
{
	struct boot_request request = request_for(kernel_path);
	static const char *const names[] = {"DSDT", "FACP", "APIC", "HPET", "MCFG"};
	char command[512];

	if (system("command -v iasl >/dev/null 2>&1"))
		skip();
	request.cpu_count = 20;
	load_any(&request);
	for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
		const uint8_t *table = i ? acpi_table(names[i]) : ram + get32(acpi_table("FACP") + 40);
		char path[96];

		snprintf(path, sizeof(path), "%s/%s.aml", folder, names[i]);
		write_file(path, table, get32(table + 4));
		snprintf(command, sizeof(command),
		         "cd %s && iasl -d %s >log 2>&1 && ! grep -iE 'error|invalid|exception|checksum' log",
		         folder, path);
		if (system(command))
			fail_msg("iasl refuses %s", names[i]);
	}
	/* compiled again, the DSDT must come out as it went in */
	snprintf(command, sizeof(command),
	         "cd %s && cp DSDT.aml ours && iasl -oa -p theirs DSDT.dsl >log 2>&1 && grep -q ' 0 Errors' "
	         "log && "
	         "tail -c +37 ours >a && tail -c +37 theirs.aml >b && cmp a b",
	         folder);
	if (system(command))
		fail_msg("the DSDT compiles differently");
	snprintf(command, sizeof(command), "grep -q 'PNP0501' %s/DSDT.dsl && grep -q _S5 %s/DSDT.dsl", folder,
	         folder);
	assert_int_equal(system(command), 0);
}

/* PkgLength: one byte up to 63, counting itself; then two, three, four. */
static void aml_package_lengths(void **state)
{
	static const struct {
		size_t string;
		uint8_t length[4];
		unsigned bytes;
	} row[] = {
	    /* the body is the 4 bytes of the name, a string opcode, the letters, a zero */
	    {63 - 1 - 6, {63}, 1},
	    {64 - 1 - 6, {0x40 | 1, 4}, 2},
	    {0xfff - 2 - 6, {0x4f, 0xff}, 2},
	    {0x1000 - 2 - 6, {0x81, 0x00, 0x01}, 3},
	};

	for (size_t i = 0; i < sizeof(row) / sizeof(row[0]); i++) {
		struct aml aml = {0};
		char *text = calloc(1, row[i].string + 1);

		memset(text, 'a', row[i].string);
		aml_scope(&aml, "_SB");
		aml_string(&aml, text);
		aml_end(&aml);
		assert_false(aml.failed);
		assert_int_equal(aml.data[0], 0x10);
		assert_memory_equal(aml.data + 1, row[i].length, row[i].bytes);
		assert_memory_equal(aml.data + 1 + row[i].bytes, "_SB_", 4);
		assert_int_equal(aml.size, 1 + row[i].bytes + 6 + row[i].string);
		free(aml.data);
		free(text);
	}
}

static void smbios_adds_up(void **state)
{
	struct boot_request request = request_for(kernel_path);
	const uint8_t *entry, *at, *end;
	unsigned count = 0, largest = 0;
	uint64_t seen_types = 0, expected = 0;
	static const uint8_t types[] = {0, 1, 3, 4, 16, 17, 19, 32};

	for (size_t i = 0; i < sizeof(types); i++)
		expected |= 1ull << types[i];
	memcpy(request.uuid, "0123456789abcdef", 16);
	load_any(&request);
	entry = ram + LOW_SMBIOS;
	assert_memory_equal(entry, "_SM_", 4);
	assert_int_equal(sum_of(entry, entry[5]), 0);
	assert_memory_equal(entry + 16, "_DMI_", 5);
	assert_int_equal(sum_of(entry + 16, 15), 0);
	at = ram + get32(entry + 24);
	end = at + (get32(entry + 22) & 0xffff);
	while (at < end) {
		const uint8_t *begin = at;

		seen_types |= at[0] == 127 ? 1ull << 63 : 1ull << at[0];
		if (at[0] == 1)
			assert_memory_equal(at + 8, request.uuid, 16);
		if (at[0] == 19) {
			assert_int_equal(get32(at + 4), 0);
			assert_int_equal(get32(at + 8), (RAM_SIZE >> 10) - 1);
		}
		at += at[1];
		while (at[0] || at[1])
			at++;
		at += 2;
		count++;
		if (at - begin > largest)
			largest = (unsigned)(at - begin);
	}
	assert_ptr_equal(at, end);
	assert_int_equal(count, get32(entry + 28) & 0xffff);
	assert_int_equal(largest, get32(entry + 8) & 0xffff);
	assert_int_equal(seen_types, expected | 1ull << 63);
}

static void fw_cfg_answers(void **state)
{
	struct boot_request request = request_for(kernel_path);
	struct boot_fw_cfg list;
	unsigned seen = 0;

	fresh_ram();
	assert_int_equal(boot_fw_cfg_make(&request, &memory, 5, &list), 0);
	for (unsigned i = 0; i < list.count; i++) {
		const struct boot_fw_cfg_item *item = &list.item[i];

		if (item->key == BOOT_FW_CFG_CPU_COUNT && item->size == 2 && item->data[0] == 3)
			seen |= 1;
		if (item->key == BOOT_FW_CFG_RAM_SIZE && item->size == 8)
			seen |= get64(item->data) == RAM_SIZE - 0x20000 ? 2 : 0;
		if (item->key == BOOT_FW_CFG_COMMAND_LINE &&
		    !strcmp((const char *)item->data, "console=ttyS0"))
			seen |= 4;
		if (!strcmp(item->name, "etc/msr_feature_control") && item->size == 8 && item->data[0] == 5)
			seen |= 8;
		/* one entry from 0, the hole for the VGA included */
		if (!strcmp(item->name, "etc/e820") && item->size == 20 && !get64(item->data) &&
		    get64(item->data + 8) == RAM_SIZE)
			seen |= 16;
	}
	assert_int_equal(seen, 31);
	boot_fw_cfg_free(&list);
}

static int set_up(void **state)
{
	if (!mkdtemp(folder))
		return -1;
	snprintf(kernel_path, sizeof(kernel_path), "%s/kernel", folder);
	snprintf(initrd_path, sizeof(initrd_path), "%s/initrd", folder);
	snprintf(module_path, sizeof(module_path), "%s/module", folder);
	return 0;
}

static int tear_down(void **state)
{
	char command[64];

	snprintf(command, sizeof(command), "rm -rf %s", folder);
	return system(command);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(linux_payload_of_every_format),
	    cmocka_unit_test(linux_boot_parameters),
	    cmocka_unit_test(linux_setup_enters_the_decompressor),
	    cmocka_unit_test(linux_of_32_bits_starts_in_protected_mode),
	    cmocka_unit_test(linux_truncated_anywhere_is_refused_before_ram_is_touched),
	    cmocka_unit_test(linux_corrupt_payload_is_refused_before_ram_is_touched),
	    cmocka_unit_test(linux_header_lies_are_refused),
	    cmocka_unit_test(command_line_longer_than_the_kernel_takes_is_refused),
	    cmocka_unit_test(too_little_memory_is_refused),
	    cmocka_unit_test(missing_empty_and_foreign_files_are_refused),
	    cmocka_unit_test(pvh_start_information),
	    cmocka_unit_test(elf_without_a_protocol_is_refused),
	    cmocka_unit_test(multiboot_elf_gets_its_information),
	    cmocka_unit_test(multiboot_address_fields),
	    cmocka_unit_test(compressed_multiboot_is_unpacked_first),
	    cmocka_unit_test(image_over_the_firmware_is_refused),
	    cmocka_unit_test(acpi_tables_add_up),
	    cmocka_unit_test(acpi_tables_hold_many_cpus),
	    cmocka_unit_test(acpi_tables_satisfy_iasl),
	    cmocka_unit_test(aml_package_lengths),
	    cmocka_unit_test(smbios_adds_up),
	    cmocka_unit_test(fw_cfg_answers),
	};

	return cmocka_run_group_tests(tests, set_up, tear_down);
}

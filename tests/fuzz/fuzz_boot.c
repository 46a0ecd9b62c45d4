/*
 * Feeds mutated kernels to boot_load. Without libFuzzer: fuzz_boot ROUNDS SEED FILE…, each round mutates one
 *of the files (a real bzImage, Xen, an ELF, the images of test_boot.c) and loads it directly and by
 *--boot=setup. A crash or a sanitizer's report is the failure.
 *
 * gcc -std=gnu17 -g -O1 -fsanitize=address,undefined -D_GNU_SOURCE
 *-DNESTOR_HAVE_{ZLIB,LZMA,ZSTD,LZ4,BZIP2,LZO}=1 -Isrc tests/fuzz/fuzz_boot.c src/boot/[a-z]*.c
 *src/util/error.c -lz -llzma -lzstd -llz4 -lbz2 -llzo2
 */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "boot/boot.h"
#include "boot/file.h"
#include "engine/vcpu_state.h"
#include "util/error.h"

#define RAM_SIZE (64u << 20)

static uint64_t random_state;

static uint32_t random_below(uint64_t bound)
{
	random_state ^= random_state << 13;
	random_state ^= random_state >> 7;
	random_state ^= random_state << 17;
	return (uint32_t)(random_state % bound);
}

static uint8_t *ram;
static char path[64];

/* One file through both ways of booting, with a small random RAM size. */
static int load_both(const uint8_t *data, size_t size)
{
	struct vcpu_state start;
	int loaded = 0;
	FILE *file = fopen(path, "wb");

	if (!file || fwrite(data, 1, size, file) != size || fclose(file))
		return 0;
	for (int mode = BOOT_MODE_DIRECT; mode <= BOOT_MODE_SETUP; mode++) {
		uint64_t ram_size = (random_below(4) ? 62 : 1 + random_below(62)) * (1ull << 20);
		const struct guest_memory memory = {
		    .slot = {{.gpa = 0, .size = 0xa0000, .host = ram},
		             {.gpa = 0xc0000, .size = ram_size - 0xc0000, .host = ram + 0xc0000}},
		    .slot_count = 2,
		};
		const struct boot_request request = {
		    .kernel = path,
		    .initrd = random_below(2) ? path : NULL,
		    .command_line = "quiet",
		    .mode = (enum boot_mode)mode,
		    .cpu_count = 1,
		};
		int status = boot_load(&request, &memory, &start);

		if (status && (!*error_text() || strchr(error_text(), '\n')))
			abort();
		loaded += !status;
	}
	return loaded;
}

/* Mostly where the headers are: what lies behind them is data to the loaders. */
static void mutate(uint8_t *data, size_t *size)
{
	static const uint64_t edge[] = {0,          1,          0x7fffffff, 0x80000000,
	                                0xffffffff, UINT64_MAX, 0x1000,     0xfffffff0};
	unsigned changes = 1 + random_below(6);

	while (changes--) {
		size_t area = random_below(8) ? 0x300 : *size;
		size_t at = random_below(area < *size ? area : *size);
		uint64_t value = random_below(2) ? edge[random_below(8)] : random_below(1ull << 32);
		size_t bytes = 1ull << random_below(4);

		if (bytes > *size - at)
			bytes = *size - at;
		if (random_below(2))
			memcpy(data + at, &value, bytes);
		else
			data[at] ^= (uint8_t)(1u << random_below(8));
	}
	if (!random_below(8))
		*size = 1 + random_below(*size);
}

static void set_up(void)
{
	int fd;

	strcpy(path, "/tmp/nestor-fuzz-boot-XXXXXX");
	fd = mkstemp(path);
	ram =
	    mmap(NULL, RAM_SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (fd < 0 || ram == MAP_FAILED)
		exit(2);
	close(fd);
}

#ifdef NESTOR_LIBFUZZER
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	if (!ram)
		set_up();
	random_state = size + 1;
	if (size)
		load_both(data, size);
	return 0;
}
#else
int main(int argc, char **argv)
{
	unsigned long rounds, loaded = 0;

	if (argc < 4) {
		fprintf(stderr, "usage: fuzz_boot ROUNDS SEED FILE...\n");
		return 2;
	}
	rounds = strtoul(argv[1], NULL, 0);
	random_state = strtoull(argv[2], NULL, 0) * 0x9e3779b97f4a7c15ull + 1;
	set_up();
	for (unsigned long round = 0; round < rounds; round++) {
		struct boot_file file;
		size_t size;

		if (boot_file_read(&file, argv[3 + random_below((uint64_t)argc - 3)], "seed", 1ull << 28)) {
			fprintf(stderr, "fuzz_boot: %s\n", error_text());
			return 2;
		}
		size = file.size;
		mutate(file.data, &size);
		loaded += (unsigned long)load_both(file.data, size);
		boot_file_free(&file);
	}
	unlink(path);
	printf("%lu rounds, %lu loads accepted\n", rounds, loaded);
	return 0;
}
#endif

/*
 * What only a machine with firmware has: hostile accesses to the flash chip, the PAM registers and the memory that they
 * switch, and fw_cfg with its DMA. Build with the sanitizers. The program itself checks that the memory map stays one
 * (no two pieces overlap, reads see what PAM says), that only erasing sets a bit of the flash, and that the file has what
 * the chip has.
 * Arguments: iterations (default 200000), seed (default 1). The same arguments give the same run.
 */
#include <fcntl.h>
#include <unistd.h>

#include "device/firmware/fw_cfg.h"
#include "machine_fixture.h"
#include "random_source.h"

#define ROM_SIZE   (256u << 10)
#define FLASH_SIZE (32u << 10)
#define FLASH_GPA  (UINT64_C(0x100000000) - ROM_SIZE - FLASH_SIZE)
#define PAM0       0x90

static char rom_path[] = "/tmp/nestor-fuzz-rom-XXXXXX", flash_path[] = "/tmp/nestor-fuzz-flash-XXXXXX";
static uint8_t before[FLASH_SIZE];

static void fail(const char *what)
{
	fprintf(stderr, "%s\n", what);
	abort();
}

static void make_file(char *path, uint32_t size, uint8_t fill)
{
	int fd = mkstemp(path);
	uint8_t *data = malloc(size);

	memset(data, fill, size);
	if (fd < 0 || write(fd, data, size) != (ssize_t)size)
		fail("cannot write a file");
	free(data);
	close(fd);
}

/* What a guest reads: memory where there is some, else the bus. */
static uint8_t guest_byte(struct machine *machine, uint64_t gpa)
{
	const uint8_t *host = machine_memory(machine, GPA(gpa), 1);

	return host ? *host : (uint8_t)load(machine, gpa, 1);
}

static void guest_store(struct machine *machine, uint64_t gpa, unsigned size, uint64_t value)
{
	const struct guest_memory_slot *slot = guest_memory_slot_of(&machine->memory, GPA(gpa));

	if (slot && !slot->read_only && gpa - slot->gpa + size <= slot->size)
		memcpy(slot->host + (gpa - slot->gpa), &value, size);
	else
		store(machine, gpa, size, value);
}

static void set_pam(struct machine *machine)
{
	out(machine, 0xcf8, 4, 0x80000000 | (PAM0 + (below(8) & ~3u)));
	out(machine, (uint16_t)(0xcfc + below(4)), 1, (uint32_t)any());
}

static void touch_flash(struct machine *machine)
{
	static const uint8_t commands[] = {0xff, 0x70, 0x50, 0x40, 0x10, 0x20,
	                                   0xd0, 0xe8, 0x60, 0x90, 0x98, 0x01};
	uint64_t gpa = FLASH_GPA + (below(4) ? below(600) : below(FLASH_SIZE)), value = any();
	unsigned size = 1u << below(4);

	if (below(3))
		value = commands[below(sizeof(commands))];
	if (below(4) == 0)
		load(machine, gpa & ~UINT64_C(7), 8);
	else
		guest_store(machine, gpa, below(2) ? 1 : size, value);
}

static void do_dma(struct machine *machine)
{
	uint64_t command = below(4) ? 0x1000 + below(64) : any(),
	         address = below(3) ? below(9u << 20) : any();
	uint32_t control = (uint32_t)(below(72) << 16 | (any() & 0x1f)),
	         length = (uint32_t)(below(3) ? below(70000) : any());
	uint8_t *at = machine_memory(machine, GPA(command), 16);
	uint32_t big[2] = {__builtin_bswap32(control), __builtin_bswap32(length)};

	address = __builtin_bswap64(address);
	if (at && !guest_memory_slot_of(&machine->memory, GPA(command))->read_only) {
		memcpy(at, big, 8);
		memcpy(at + 8, &address, 8);
	}
	out(machine, 0x514, 4, __builtin_bswap32((uint32_t)(command >> 32)));
	out(machine, 0x518, 4, __builtin_bswap32((uint32_t)command));
}

static void check_map(const struct machine *machine)
{
	const struct guest_memory *memory = &machine->memory;

	for (unsigned i = 0; i < memory->slot_count; i++)
		for (unsigned k = 0; k < i; k++)
			if (memory->slot[i].gpa < memory->slot[k].gpa + memory->slot[k].size &&
			    memory->slot[k].gpa < memory->slot[i].gpa + memory->slot[i].size)
				fail("two pieces of memory overlap");
}

/* The last byte below 1 MiB is the ROM's where PAM0 says so, and can be written only where it says so. */
static void check_shadow(struct machine *machine)
{
	uint8_t mode, seen = guest_byte(machine, 0xfffff);

	out(machine, 0xcf8, 4, 0x80000000 | PAM0);
	mode = (uint8_t)in(machine, 0xcfc, 1) >> 4 & 3;
	guest_store(machine, 0xfffff, 1, seen ^ 0xff);
	if (!(mode & 1) && guest_byte(machine, 0xfffff) != 0xea)
		fail("the ROM is not where RAM is off");
	if (mode == 1 && guest_byte(machine, 0xfffff) != seen)
		fail("write-protected RAM was written");
	if (mode == 3 && guest_byte(machine, 0xfffff) == seen)
		fail("RAM was not written");
}

static void check_flash(struct machine *machine)
{
	uint8_t now[FLASH_SIZE], saved[FLASH_SIZE];
	int fd = open(flash_path, O_RDONLY);

	/* Array mode, whatever command it was in the middle of. */
	machine_lock(machine);
	machine_reset_devices(machine);
	machine_unlock(machine);
	for (uint32_t i = 0; i < FLASH_SIZE; i++)
		now[i] = guest_byte(machine, FLASH_GPA + i);
	if (fd < 0 || read(fd, saved, FLASH_SIZE) != FLASH_SIZE || memcmp(saved, now, FLASH_SIZE) != 0)
		fail("the file is not what the chip holds");
	close(fd);
	for (uint32_t block = 0; block < FLASH_SIZE; block += 4096) {
		bool set = false, erased = false;

		for (uint32_t i = block; i < block + 4096; i++) {
			set |= now[i] & ~before[i];
			erased |= now[i] == 0xff;
		}
		if (set && !erased)
			fail("bits of a block that was not erased are set");
	}
	memcpy(before, now, FLASH_SIZE);
}

int main(int argc, char **argv)
{
	uint64_t iterations = argc > 1 ? strtoull(argv[1], NULL, 0) : 200000;
	struct machine_config config = fixture_config("null");
	struct machine *machine;

	seed_from(argc, argv, 2);
	make_file(rom_path, ROM_SIZE, 0xea);
	make_file(flash_path, FLASH_SIZE, 0xff);
	memset(before, 0xff, sizeof(before));
	config.firmware = rom_path;
	config.firmware_vars = flash_path;
	machine = fixture_create_from(&config);
	fw_cfg_add_file(machine->fw_cfg, "opt/large", before, sizeof(before));
	for (uint64_t i = 0; i < iterations; i++) {
		switch (below(8)) {
		case 0:
			set_pam(machine);
			break;
		case 1:
			guest_store(machine, 0xc0000 + below(0x40000 - 8), 1u << below(4), any());
			break;
		case 2 ... 5:
			touch_flash(machine);
			break;
		default:
			do_dma(machine);
			break;
		}
		if (i % 16 == 0)
			check_map(machine);
		if (i % 64 == 0)
			check_shadow(machine);
		if (i % 4096 == 4095)
			check_flash(machine);
	}
	check_flash(machine);
	machine_destroy(machine);
	unlink(rom_path);
	unlink(flash_path);
	printf("%llu accesses\n", (unsigned long long)iterations);
	return 0;
}

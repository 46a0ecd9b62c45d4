/*
 * fw_cfg by its specification, through ports and DMA.
 * gcc -std=gnu17 -g -fsanitize=address,undefined -D_GNU_SOURCE -Isrc -o /tmp/test_fw_cfg \
 *   tests/unit/test_fw_cfg.c src/device/[a-z]*.c src/util/error.c -lcmocka -pthread \
 *   $(ls src/machine/[a-z]*.c | grep -v -e load -e engine_select) && /tmp/test_fw_cfg
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "device_fixture.h"

#include "device/firmware/fw_cfg.h"

#define COMMAND UINT64_C(0x1000) /* guest-physical address of the DMA command */

static uint64_t item(uint16_t key, unsigned size)
{
	uint64_t value = 0;

	out(machine, 0x510, 2, key);
	for (unsigned i = 0; i < size; i++)
		value |= (uint64_t)in(machine, 0x511, 1) << (8 * i);
	return value;
}

static uint32_t dma(uint32_t control, uint32_t length, uint64_t address)
{
	uint32_t *command = machine_memory(machine, GPA(COMMAND), 16);
	uint64_t big = __builtin_bswap64(address);

	command[0] = __builtin_bswap32(control);
	command[1] = __builtin_bswap32(length);
	memcpy(&command[2], &big, 8);
	out(machine, 0x514, 4, 0);
	out(machine, 0x518, 4, __builtin_bswap32((uint32_t)COMMAND));
	return __builtin_bswap32(command[0]);
}

static void remember(void *context, const uint8_t *data, size_t size)
{
	memcpy(context, data, size < 4 ? size : 4);
}

static void signature_and_features(void **state)
{
	assert_int_equal(item(0, 4), 0x554d4551); /* "QEMU" */
	assert_int_equal(item(1, 4), 3);
	assert_int_equal(in(machine, 0x514, 4), 0x554d4551);
	assert_int_equal(in(machine, 0x518, 4), 0x47464320);
}

static void machine_facts(void **state)
{
	assert_int_equal(item(3, 8), 8 << 20);
	assert_int_equal(item(5, 2), 1);
	assert_int_equal(item(15, 2), 1);
}

static void zeros_after_the_end(void **state)
{
	assert_int_equal(item(5, 8), 1);
	assert_int_equal(item(0x3fff, 8), 0);
	assert_int_equal(item(0x8000, 8), 0);
}

static void files(void **state)
{
	char name[56];

	assert_int_equal(fw_cfg_add_file(machine->fw_cfg, "opt/one", "1", 1), 0);
	assert_int_equal(fw_cfg_add_file(machine->fw_cfg, "opt/two", "22", 2), 0);
	assert_int_equal(fw_cfg_add_file(machine->fw_cfg, "opt/one", "111", 3), 0); /* replaces */
	assert_int_equal(item(0x19, 4), 0x02000000);
	assert_int_equal(in(machine, 0x511, 1), 0);
	assert_int_equal(in(machine, 0x511, 1), 0);
	assert_int_equal(in(machine, 0x511, 1), 0);
	assert_int_equal(in(machine, 0x511, 1), 3);
	uint32_t key = in(machine, 0x511, 1) << 8;

	key |= in(machine, 0x511, 1);
	in(machine, 0x511, 1);
	in(machine, 0x511, 1);
	for (unsigned i = 0; i < 56; i++)
		name[i] = (char)in(machine, 0x511, 1);
	assert_string_equal(name, "opt/one");
	assert_int_equal(item((uint16_t)key, 4), 0x00313131);
	assert_true(fw_cfg_add_file(machine->fw_cfg,
	                            "a/name/that/is/longer/than/the/fifty-five/bytes/that/fit/in", "",
	                            0) < 0);
}

static void dma_reads_and_skips(void **state)
{
	char *memory = machine_memory(machine, GPA(0x2000), 8);

	fw_cfg_set(machine->fw_cfg, FW_CFG_CMDLINE_DATA, "console", 7);
	memset(memory, 'x', 8);
	assert_int_equal(dma(FW_CFG_CMDLINE_DATA << 16 | 8 | 2, 3, 0x2000), 0);
	assert_memory_equal(memory, "conxxxxx", 8);
	assert_int_equal(dma(4, 1, 0), 0);
	assert_int_equal(dma(2, 5, 0x2000), 0);
	assert_memory_equal(memory, "ole\0\0xxx", 8);
}

static void dma_refuses_what_is_not_ram(void **state)
{
	assert_int_equal(dma(8 | 2, 4, UINT64_C(0xfffffffffffffffe)), 1);
	assert_int_equal(dma(8 | 2, 4, (8 << 20) - 2), 1);
	assert_int_equal(dma(8 | 2, 0xffffffff, 0x2000), 1);
	assert_int_equal(dma(8 | 0x10, 4, 0x2000), 1); /* items are read-only */
	out(machine, 0x514, 4, 0xffffffff);
	out(machine, 0x518, 4, 0xffffffff); /* the command itself is nowhere */
}

/* A command and its data may lie across what the memory map is made of, but not beyond RAM. */
static void dma_writes_what_may_be_written(void **state)
{
	static uint8_t seen[4];
	char *memory = machine_memory(machine, GPA(0x2000), 8);

	memcpy(memory, "abcdefgh", 8);
	assert_int_equal(fw_cfg_add_writable(machine->fw_cfg, "etc/place", "\0\0\0\0", 4, remember, seen), 0);
	assert_int_equal(dma(FW_CFG_FILE_FIRST << 16 | 8 | 0x10, 2, 0x2000), 0);
	assert_memory_equal(seen, "ab\0", 4);
	assert_int_equal(dma(0x10, 2, 0x2004), 0);
	assert_memory_equal(seen, "abef", 4);
	assert_int_equal(dma(0x10, 1, 0x2000), 1); /* behind the end */
	assert_int_equal(dma(FW_CFG_FILE_FIRST << 16 | 8 | 0x10, 5, 0x2000), 1);
	assert_int_equal(dma(FW_CFG_FILE_FIRST << 16 | 8 | 0x10, 4, (8 << 20) - 2), 1);
	assert_memory_equal(seen, "abef", 4);
}

static void dma_fills_with_zeros_after_the_end(void **state)
{
	uint8_t *memory = machine_memory(machine, GPA(0x100000), 0x10000);

	memset(memory, 0xaa, 0x10000);
	assert_int_equal(dma(FW_CFG_SIGNATURE << 16 | 8 | 2, 0xffff, 0x100000), 0);
	assert_memory_equal(memory, "QEMU", 4);
	for (unsigned i = 4; i < 0xffff; i++)
		assert_int_equal(memory[i], 0);
	assert_int_equal(memory[0xffff], 0xaa);
}

static void boot_paths_are_in_order(void **state)
{
	static const char expected[] = "/second\n/first of two\n/last of two\n/ninth";

	assert_int_equal(fw_cfg_add_boot_path(machine->fw_cfg, 9, "/ninth"), 0);
	assert_int_equal(fw_cfg_add_boot_path(machine->fw_cfg, -1, "/never"), 0);
	assert_int_equal(fw_cfg_add_boot_path(machine->fw_cfg, 3, "/first of two"), 0);
	assert_int_equal(fw_cfg_add_boot_path(machine->fw_cfg, 3, "/last of two"), 0);
	assert_int_equal(fw_cfg_add_boot_path(machine->fw_cfg, 2, "/second"), 0);
	out(machine, 0x510, 2, FW_CFG_FILE_FIRST);
	for (unsigned i = 0; i < sizeof(expected); i++)
		assert_int_equal(in(machine, 0x511, 1), expected[i]);
	for (unsigned i = 0; i < 28; i++)
		assert_int_equal(fw_cfg_add_boot_path(machine->fw_cfg, 10, "/more"), 0);
	assert_true(fw_cfg_add_boot_path(machine->fw_cfg, 10, "/too many") < 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    TEST(signature_and_features), TEST(machine_facts),
	    TEST(zeros_after_the_end),    TEST(files),
	    TEST(dma_reads_and_skips),    TEST(dma_refuses_what_is_not_ram),
	    TEST(dma_writes_what_may_be_written), TEST(dma_fills_with_zeros_after_the_end),
	    TEST(boot_paths_are_in_order),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

/*
 * The tables for firmware: this test is the firmware. It runs etc/table-loader over the files into a memory of its own
 * and looks at what came out as an operating system would.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "boot/boot.h"
#include "util/error.h"

#define MEMORY   (4u << 20)
#define ENTRY    128
#define FSEG     0xf0000u
#define HIGH     0x200000u
#define FILE_MAX 8

static uint8_t memory[MEMORY];
static struct boot_fw_cfg list;
static struct {
	char name[56];
	uint32_t gpa, size;
} placed[FILE_MAX];
static unsigned placed_count;

static uint32_t get32(const uint8_t *p)
{
	uint32_t value;

	memcpy(&value, p, 4);
	return value;
}

static uint64_t get64(const uint8_t *p)
{
	uint64_t value;

	memcpy(&value, p, 8);
	return value;
}

static const struct boot_fw_cfg_item *file(const char *name)
{
	for (unsigned i = 0; i < list.count; i++)
		if (!strcmp(list.item[i].name, name))
			return &list.item[i];
	fail_msg("there is no %s", name);
	return NULL;
}

static uint32_t place_of(const uint8_t *name, uint32_t *size)
{
	for (unsigned i = 0; i < placed_count; i++)
		if (!strcmp(placed[i].name, (const char *)name)) {
			*size = placed[i].size;
			return placed[i].gpa;
		}
	fail_msg("%s is used before it is allocated", name);
	return 0;
}

static void allocate(const uint8_t *entry)
{
	const struct boot_fw_cfg_item *item = file((const char *)entry + 4);
	uint32_t align = get32(entry + 60), gpa = entry[64] == 2 ? FSEG : HIGH;

	assert_true(entry[64] == 1 || entry[64] == 2);
	assert_true(align && !(align & (align - 1)));
	assert_true(placed_count < FILE_MAX);
	gpa += align * 3; /* no address is what the files were made for */
	memcpy(memory + gpa, item->data, item->size);
	strcpy(placed[placed_count].name, item->name);
	placed[placed_count].gpa = gpa;
	placed[placed_count++].size = item->size;
}

static void add_pointer(const uint8_t *entry)
{
	uint32_t to_size, from_size, at = get32(entry + 116), to = place_of(entry + 4, &to_size);
	uint32_t from = place_of(entry + 60, &from_size);
	unsigned size = entry[120];
	uint64_t value = 0;

	assert_true(size == 1 || size == 2 || size == 4 || size == 8);
	assert_true(at + size <= to_size);
	memcpy(&value, memory + to + at, size);
	assert_true(value < from_size);
	value += from;
	memcpy(memory + to + at, &value, size);
}

static void add_checksum(const uint8_t *entry)
{
	uint32_t size = 0, gpa = place_of(entry + 4, &size), at = get32(entry + 60), start = get32(entry + 64),
	               length = get32(entry + 68);
	uint8_t sum = 0;

	assert_true(at < size && start + length <= size && at - start < length);
	for (uint32_t i = 0; i < length; i++)
		sum = (uint8_t)(sum + memory[gpa + start + i]);
	memory[gpa + at] = (uint8_t)(memory[gpa + at] - sum);
}

static void run_script(void)
{
	const struct boot_fw_cfg_item *script = file("etc/table-loader");

	assert_int_equal(script->size % ENTRY, 0);
	for (uint32_t at = 0; at < script->size; at += ENTRY) {
		const uint8_t *entry = script->data + at;

		switch (get32(entry)) {
		case 1:
			allocate(entry);
			break;
		case 2:
			add_pointer(entry);
			break;
		case 3:
			add_checksum(entry);
			break;
		default:
			fail_msg("unknown command %u", get32(entry));
		}
	}
}

static int setup(void **state)
{
	struct boot_request request = {
	    .cpu_count = 3,
	    .platform = {.hpet = 0xfed00000, .ecam = 0xb0000000, .pci = true, .reset_port = 0xcf9, .rtc = true,
	                 .sleep_type_s5 = 5},
	};
	struct guest_memory ram = {.slot = {{.gpa = 0, .size = 0xa0000, .host = memory},
	                                    {.gpa = 0xc0000, .size = 0x7ff40000, .host = memory},
	                                    {.gpa = 1ull << 32, .size = 1ull << 30, .host = memory}},
	                           .slot_count = 3};

	memset(memory, 0, sizeof(memory));
	placed_count = 0;
	return boot_firmware_items(&request, &ram, 5, 0x3f8, &list);
}

static int teardown(void **state)
{
	boot_fw_cfg_free(&list);
	return 0;
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

static unsigned sum_of(const uint8_t *p, size_t size)
{
	uint8_t sum = 0;

	while (size--)
		sum = (uint8_t)(sum + *p++);
	return sum;
}

static const uint8_t *table(uint64_t gpa, const char *signature)
{
	const uint8_t *at = memory + gpa;

	assert_true(gpa >= HIGH && gpa < MEMORY - 64);
	assert_memory_equal(at, signature, 4);
	assert_true(get32(at + 4) < MEMORY - gpa);
	if (strcmp(signature, "FACS"))
		assert_int_equal(sum_of(at, get32(at + 4)), 0);
	else
		assert_int_equal(gpa % 64, 0);
	return at;
}

static void the_script_makes_good_tables(void **state)
{
	const uint8_t *rsdp = memory + FSEG + 3 * 16, *rsdt, *xsdt, *fadt;
	unsigned count;

	run_script();
	assert_memory_equal(rsdp, "RSD PTR ", 8);
	assert_int_equal(sum_of(rsdp, 20), 0);
	assert_int_equal(sum_of(rsdp, 36), 0);
	rsdt = table(get32(rsdp + 16), "RSDT");
	xsdt = table(get64(rsdp + 24), "XSDT");
	count = (get32(rsdt + 4) - 36) / 4;
	assert_int_equal(count, (get32(xsdt + 4) - 36) / 8);
	assert_true(count >= 4); /* FADT, MADT, HPET, MCFG */
	for (unsigned i = 0; i < count; i++) {
		uint64_t gpa = get64(xsdt + 36 + 8 * i);
		char signature[5] = {0};

		assert_int_equal(get32(rsdt + 36 + 4 * i), gpa);
		memcpy(signature, memory + gpa, 4);
		table(gpa, signature);
	}
	fadt = table(get64(xsdt + 36), "FACP");
	table(get32(fadt + 36), "FACS");
	table(get32(fadt + 40), "DSDT");
	assert_int_equal(get64(fadt + 132), get32(fadt + 36));
	assert_int_equal(get64(fadt + 140), get32(fadt + 40));
}

/* Checksums are made from 0, so firmware may add to or subtract from what it finds. */
static void checksums_come_empty(void **state)
{
	assert_int_equal(file("etc/acpi/rsdp")->data[8], 0);
	assert_int_equal(file("etc/acpi/rsdp")->data[32], 0);
	assert_int_equal(file("etc/acpi/rsdp")->size, 36);
}

static void smbios_is_in_two_files(void **state)
{
	const struct boot_fw_cfg_item *anchor = file("etc/smbios/smbios-anchor"),
				      *tables = file("etc/smbios/smbios-tables");
	unsigned mapped = 0;

	assert_memory_equal(anchor->data, "_SM_", 4);
	assert_int_equal(anchor->size, anchor->data[5]);
	assert_int_equal(anchor->data[22] | anchor->data[23] << 8, tables->size);
	for (uint32_t at = 0; at < tables->size;) {
		const uint8_t *part = tables->data + at;

		assert_int_not_equal(part[0], 0); /* BIOS Information is the firmware's own */
		mapped += part[0] == 19;
		at += part[1];
		while (tables->data[at] || tables->data[at + 1])
			at++;
		at += 2;
	}
	assert_int_equal(mapped, 2); /* below and above 4 GiB */
}

static void other_files(void **state)
{
	const struct boot_fw_cfg_item *e820 = file("etc/e820");

	assert_int_equal(e820->size, 40);
	assert_int_equal(get64(e820->data), 0);
	assert_int_equal(get64(e820->data + 8), 0x80000000);
	assert_int_equal(get64(e820->data + 20), 1ull << 32);
	assert_int_equal(get64(e820->data + 28), 1ull << 30);
	assert_int_equal(get64(file("etc/msr_feature_control")->data), 5);
	assert_int_equal(get64(file("etc/sercon-port")->data), 0x3f8);
	assert_int_equal(file("etc/system-states")->size, 6);
	assert_int_equal(file("etc/system-states")->data[3] & 0x80, 0x80); /* S3 */
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    TEST(the_script_makes_good_tables),
	    TEST(checksums_come_empty),
	    TEST(smbios_is_in_two_files),
	    TEST(other_files),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

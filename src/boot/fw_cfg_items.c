/* What firmware and guests may ask through fw_cfg, in the layout of QEMU's "fw_cfg" specification. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "boot/loader.h"
#include "util/error.h"

#define KERNEL_MAX  (1ull << 30)
#define SETUP_SECTS 0x1f1 /* Linux boot protocol: sectors of setup code after the first; 0 means 4 */
#define SETUP_MAGIC 0x202
#define SECTOR      512u

int fw_cfg_list_add(struct boot_fw_cfg *list, uint16_t key, const char *name, const void *data, size_t size)
{
	struct boot_fw_cfg_item *larger = realloc(list->item, (list->count + 1) * sizeof(*list->item)), *item;

	if (!larger)
		return error_set(ENOMEM, "the host has no memory for fw_cfg");
	list->item = larger;
	item = &list->item[list->count];
	*item = (struct boot_fw_cfg_item){.key = key, .size = (uint32_t)size};
	item->data = malloc(size ? size : 1);
	if (!item->data)
		return error_set(ENOMEM, "the host has no memory for fw_cfg");
	memcpy(item->data, data, size);
	if (name)
		strncpy(item->name, name, sizeof(item->name) - 1);
	list->count++;
	return 0;
}

static int add_number(struct boot_fw_cfg *list, uint16_t key, uint64_t value, size_t size)
{
	return fw_cfg_list_add(list, key, NULL, &value, size);
}

static int add_file_number(struct boot_fw_cfg *list, const char *name, uint64_t value, size_t size)
{
	return fw_cfg_list_add(list, BOOT_FW_CFG_FILE, name, &value, size);
}

static size_t put_e820(uint8_t *to, uint64_t start, uint64_t size)
{
	put_u64(to, start);
	put_u64(to + 8, size);
	put_u32(to + 16, E820_RAM);
	return 20;
}

/*
 * etc/e820: entries of 20 bytes, as BIOS function E820H gives them; RAM only, the firmware knows its own. What lies
 * below 4 GiB is one entry from 0: firmware cuts the holes of a PC into it by itself.
 */
static int add_e820(struct boot_fw_cfg *list, const struct guest_memory *memory)
{
	uint8_t data[(GUEST_MEMORY_SLOTS + 1) * 20];
	size_t size = put_e820(data, 0, boot_low_ram_end(memory));

	for (unsigned i = 0; i < memory->slot_count; i++)
		if (!memory->slot[i].read_only && memory->slot[i].gpa >= 1ull << 32)
			size += put_e820(data + size, memory->slot[i].gpa, memory->slot[i].size);
	return fw_cfg_list_add(list, BOOT_FW_CFG_FILE, "etc/e820", data, size);
}

int boot_fw_cfg_make(const struct boot_request *request, const struct guest_memory *memory,
                     uint64_t feature_control, struct boot_fw_cfg *list)
{
	const char *text = request->command_line ? request->command_line : "";
	unsigned cpus = request->cpu_count ? request->cpu_count : 1;
	int status;

	*list = (struct boot_fw_cfg){0};
	status = add_number(list, BOOT_FW_CFG_RAM_SIZE, boot_ram_size(memory), 8);
	if (!status)
		status = add_number(list, BOOT_FW_CFG_CPU_COUNT, cpus, 2);
	if (!status)
		status = add_number(list, BOOT_FW_CFG_MAX_CPUS, cpus, 2);
	if (!status)
		status = add_number(list, BOOT_FW_CFG_COMMAND_LINE_SIZE, strlen(text) + 1, 4);
	if (!status)
		status = fw_cfg_list_add(list, BOOT_FW_CFG_COMMAND_LINE, NULL, text, strlen(text) + 1);
	if (!status)
		status = add_e820(list, memory);
	if (!status && feature_control)
		status = add_file_number(list, "etc/msr_feature_control", feature_control, 8);
	if (status)
		boot_fw_cfg_free(list);
	return status;
}

/* --- a kernel that the firmware starts --- */

static int add_sized(struct boot_fw_cfg *list, uint16_t size_key, uint16_t data_key, const uint8_t *data,
                     size_t size)
{
	int status = add_number(list, size_key, size, 4);

	return status ? status : fw_cfg_list_add(list, data_key, NULL, data, size);
}

/* A bzImage in two parts, its setup code and the rest; anything else (an EFI program) is all "rest". */
static int add_kernel(struct boot_fw_cfg *list, const struct boot_file *kernel)
{
	size_t setup = 0;
	int status;

	if (boot_file_u32(kernel, SETUP_MAGIC) == 0x53726448 /* "HdrS" */) {
		setup = ((kernel->data[SETUP_SECTS] ? kernel->data[SETUP_SECTS] : 4) + 1u) * SECTOR;
		if (setup > kernel->size)
			return error_set(EINVAL,
			                 "%s: its setup code of %zu bytes is cut off; the file is corrupt",
			                 kernel->name, setup);
	}
	status = add_sized(list, BOOT_FW_CFG_SETUP_SIZE, BOOT_FW_CFG_SETUP, kernel->data, setup);
	if (!status)
		status = add_sized(list, BOOT_FW_CFG_KERNEL_SIZE, BOOT_FW_CFG_KERNEL, kernel->data + setup,
		                   kernel->size - setup);
	return status;
}

static int add_kernel_files(struct boot_fw_cfg *list, const struct boot_request *request,
                            const struct guest_memory *memory)
{
	struct boot_file kernel = {0}, initrd = {0};
	int status = boot_file_read(&kernel, request->kernel, "kernel", KERNEL_MAX);

	if (!status && request->initrd)
		status = boot_file_read(&initrd, request->initrd, "initrd", boot_ram_size(memory));
	if (!status)
		status = add_kernel(list, &kernel);
	if (!status && initrd.size)
		status = add_sized(list, BOOT_FW_CFG_INITRD_SIZE, BOOT_FW_CFG_INITRD, initrd.data, initrd.size);
	boot_file_free(&kernel);
	boot_file_free(&initrd);
	return status;
}

/* etc/system-states: a byte for each sleep state, bit 7 where it exists, and the SLP_TYP of S4. */
static int add_sleep_states(struct boot_fw_cfg *list)
{
	static const uint8_t states[6] = {0x80, 0, 0, 0x80 | 1, 0, 0x80};

	return fw_cfg_list_add(list, BOOT_FW_CFG_FILE, "etc/system-states", states, sizeof(states));
}

int boot_firmware_items(const struct boot_request *request, const struct guest_memory *memory,
                        uint64_t feature_control, uint16_t console_port, struct boot_fw_cfg *list)
{
	struct boot_request filled = *request;
	int status = boot_fw_cfg_make(request, memory, feature_control, list);

	request_fill_defaults(&filled);
	if (!status)
		status = tables_add(list, &filled, memory);
	if (!status)
		status = add_sleep_states(list);
	if (!status && console_port)
		status = add_file_number(list, "etc/sercon-port", console_port, 8);
	if (!status && request->kernel)
		status = add_kernel_files(list, request, memory);
	if (status)
		boot_fw_cfg_free(list);
	return status;
}

void boot_fw_cfg_free(struct boot_fw_cfg *list)
{
	for (unsigned i = 0; i < list->count; i++)
		free(list->item[i].data);
	free(list->item);
	*list = (struct boot_fw_cfg){0};
}

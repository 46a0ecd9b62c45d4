/* What firmware and guests may ask through fw_cfg, in the layout of QEMU's "fw_cfg" specification. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "boot/loader.h"
#include "util/error.h"

#define ITEMS 8

static int add(struct boot_fw_cfg *list, uint16_t key, const char *name, const void *data, size_t size)
{
	struct boot_fw_cfg_item *item = &list->item[list->count];

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
	return add(list, key, NULL, &value, size);
}

/* etc/e820: entries of 20 bytes, as BIOS function E820H gives them; RAM only, the firmware knows its own. */
static int add_e820(struct boot_fw_cfg *list, uint16_t key, const struct guest_memory *memory)
{
	uint8_t data[GUEST_MEMORY_SLOTS * 20];
	size_t size = 0;

	for (unsigned i = 0; i < memory->slot_count; i++) {
		if (memory->slot[i].read_only)
			continue;
		put_u64(data + size, memory->slot[i].gpa);
		put_u64(data + size + 8, memory->slot[i].size);
		put_u32(data + size + 16, E820_RAM);
		size += 20;
	}
	return add(list, key, "etc/e820", data, size);
}

int boot_fw_cfg_make(const struct boot_request *request, const struct guest_memory *memory,
                     uint64_t feature_control, struct boot_fw_cfg *list)
{
	const char *text = request->command_line ? request->command_line : "";
	uint16_t file = BOOT_FW_CFG_FIRST_FILE;
	unsigned cpus = request->cpu_count ? request->cpu_count : 1;
	int status;

	list->count = 0;
	list->item = calloc(ITEMS, sizeof(*list->item));
	if (!list->item)
		return error_set(ENOMEM, "the host has no memory for fw_cfg");
	status = add_number(list, BOOT_FW_CFG_RAM_SIZE, boot_ram_size(memory), 8);
	if (!status)
		status = add_number(list, BOOT_FW_CFG_CPU_COUNT, cpus, 2);
	if (!status)
		status = add_number(list, BOOT_FW_CFG_MAX_CPUS, cpus, 2);
	if (!status)
		status = add_number(list, BOOT_FW_CFG_COMMAND_LINE_SIZE, strlen(text) + 1, 4);
	if (!status)
		status = add(list, BOOT_FW_CFG_COMMAND_LINE, NULL, text, strlen(text) + 1);
	if (!status)
		status = add_e820(list, file++, memory);
	if (!status && feature_control)
		status = add(list, file++, "etc/msr_feature_control", &feature_control, 8);
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

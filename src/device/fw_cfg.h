/*
 * fw_cfg: how firmware and guests ask what the machine is made of. Ports 510h (selector), 511h (data), 514h
 * (DMA); layout of the items as in QEMU's "QEMU Firmware Configuration (fw_cfg) Device" specification.
 */
#ifndef NESTOR_DEVICE_FW_CFG_H
#define NESTOR_DEVICE_FW_CFG_H

#include <stddef.h>
#include <stdint.h>

struct fw_cfg;

enum fw_cfg_key {
	FW_CFG_SIGNATURE = 0x00,
	FW_CFG_ID = 0x01,
	FW_CFG_RAM_SIZE = 0x03,
	FW_CFG_NB_CPUS = 0x05,
	FW_CFG_KERNEL_ADDR = 0x07,
	FW_CFG_KERNEL_SIZE = 0x08,
	FW_CFG_INITRD_ADDR = 0x0a,
	FW_CFG_INITRD_SIZE = 0x0b,
	FW_CFG_BOOT_MENU = 0x0e,
	FW_CFG_MAX_CPUS = 0x0f,
	FW_CFG_KERNEL_ENTRY = 0x10,
	FW_CFG_KERNEL_DATA = 0x11,
	FW_CFG_INITRD_DATA = 0x12,
	FW_CFG_CMDLINE_ADDR = 0x13,
	FW_CFG_CMDLINE_SIZE = 0x14,
	FW_CFG_CMDLINE_DATA = 0x15,
	FW_CFG_SETUP_ADDR = 0x16,
	FW_CFG_SETUP_SIZE = 0x17,
	FW_CFG_SETUP_DATA = 0x18,
	FW_CFG_FILE_DIR = 0x19,
	FW_CFG_FILE_FIRST = 0x20,
};

/* Sets an item's contents (copied). key: below FW_CFG_FILE_FIRST. Returns 0, or a negative errno,
 * error_text(). Call these before the machine runs. */
int fw_cfg_set(struct fw_cfg *fw_cfg, uint16_t key, const void *data, size_t size);
int fw_cfg_set_u16(struct fw_cfg *fw_cfg, uint16_t key, uint16_t value);
int fw_cfg_set_u32(struct fw_cfg *fw_cfg, uint16_t key, uint32_t value);
int fw_cfg_set_u64(struct fw_cfg *fw_cfg, uint16_t key, uint64_t value);

/* Adds, or replaces, a named file (data copied). name: at most 55 bytes. Returns 0, or a negative errno,
 * error_text(). */
int fw_cfg_add_file(struct fw_cfg *fw_cfg, const char *name, const void *data, size_t size);

#endif

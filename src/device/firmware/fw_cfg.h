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

/*
 * Names a device in the firmware's boot order. boot_index: lowest first, -1: not at all. format: the path in Open Firmware's
 * manner as SeaBIOS and OVMF know it, "/pci@i0cf8/scsi@4/disk@0,0" for a virtio-blk function in slot 4,
 * "/pci@i0cf8/pci8086,2922@1f,2/drive@0/disk@0" for a drive of the AHCI controller in 1f.2,
 * "/pci@i0cf8/ethernet@3/ethernet-phy@0". Returns 0, or a negative errno with error_text().
 */
int fw_cfg_add_boot_path(struct fw_cfg *fw_cfg, int boot_index, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

/*
 * Like fw_cfg_add_file, and the guest may write the file by DMA, within its size: written(context, data, size) is
 * called after each write, under the machine lock.
 */
int fw_cfg_add_writable(struct fw_cfg *fw_cfg, const char *name, const void *data, size_t size,
                        void (*written)(void *context, const uint8_t *data, size_t size), void *context);

/* Adds, or replaces, a named file (data copied). name: at most 55 bytes. Returns 0, or a negative errno,
 * error_text(). */
int fw_cfg_add_file(struct fw_cfg *fw_cfg, const char *name, const void *data, size_t size);

#endif

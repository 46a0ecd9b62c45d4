/* What describes a VM: plain data, filled by config/ (or a test), read by machine/ and boot/. */
#ifndef NESTOR_MACHINE_MACHINE_CONFIG_H
#define NESTOR_MACHINE_MACHINE_CONFIG_H

#include <stdbool.h>
#include <stdint.h>

#include "display/vnc.h"
#include "engine/cpu_model.h"
#include "engine/engine.h"
#include "net/net_config.h"

enum machine_engine { MACHINE_ENGINE_AUTO, MACHINE_ENGINE_SOFT, MACHINE_ENGINE_KVM };

/* How the kernel file is put into memory. */
enum machine_boot {
	MACHINE_BOOT_AUTO,  /* by the file: bzImage with its payload unpacked by the host, PVH, Multiboot */
	MACHINE_BOOT_SETUP, /* bzImage: run the guest's own decompressor */
};

/* What a guest reset (CF9h, i8042, ACPI, triple fault) does. */
enum machine_on_reset {
	MACHINE_ON_RESET_STOP,    /* stop, status 0 (a triple fault: 1) */
	MACHINE_ON_RESET_RESTART, /* reset the devices, run the loader again, start over */
};

#define MACHINE_SERIAL_PORTS 2
#define MACHINE_BOOT_MODULES 16
#define MACHINE_DISKS        16
#define MACHINE_CONSOLES     4
#define MACHINE_SHARES       8
#define SHARE_TAG_MAX        32
#define MACHINE_FW_CFG_ITEMS 16
#define MACHINE_OPTIONAL_DEVICES 16

enum disk_interface { DISK_VIRTIO, DISK_AHCI };

/* --disk and --cdrom: one drive. */
struct disk_config {
	const char *file;   /* a path or an NBD URI; NULL: a CD drive without a disc */
	const char *format; /* "raw", "qcow2" …; NULL: by the file's first bytes */
	bool read_only, snapshot;
	bool cdrom; /* an ATAPI drive; read_only, DISK_AHCI */
	enum disk_interface interface;
	const char *serial; /* at most 20 printable characters, or NULL */
	int boot_index;     /* the firmware's order, lowest first; -1: none */
};

/* --fw-cfg: an item of the user's own. */
struct machine_fw_cfg {
	char name[56];
	const char *file, *text; /* one of them; the other is NULL */
};

enum machine_vga {
	MACHINE_VGA_NONE,
	MACHINE_VGA_STD, /* a VGA with the Bochs display interface */
};

/* --share: a folder of the host, by virtio-9p. */
struct share_config {
	const char *directory;
	const char *tag; /* what the guest mounts it by: 1 to SHARE_TAG_MAX characters */
	bool read_only;
	bool copy_on_write; /* what the guest writes is gone with the machine */
};

/* All strings are borrowed and must live as long as the machine. */
struct machine_config {
	uint64_t memory_size; /* bytes, a multiple of 4 KiB, at least 1 MiB */
	unsigned cpu_count;   /* 1-64 */
	enum machine_engine engine;
	struct cpu_model_request cpu;
	enum engine_clock clock;
	int64_t
	    rtc_start;  /* s since 1970 UTC at the start; INT64_MIN: the host's (deterministic: 2026-01-01) */
	unsigned trace; /* ENGINE_TRACE_* */
	unsigned tune_off; /* ENGINE_TUNE_* */
	uint64_t code_memory; /* bytes, or 0: see engine_config */
	enum machine_on_reset on_reset;

	/* Host side of COM1 and COM2: "stdio", "file:PATH", "pty", "unix:PATH", "null"; NULL: no such port.
	 */
	const char *serial[MACHINE_SERIAL_PORTS];

	const char *console[MACHINE_CONSOLES]; /* virtio consoles, as serial; unused ones NULL */
	bool rng;                              /* virtio-rng */
	bool exact_exit; /* isa-debug-exit: the value itself is the status */
	struct share_config share[MACHINE_SHARES];
	unsigned share_count;

	enum machine_vga vga;
	struct vnc_address vnc; /* host and path NULL: no VNC */
	const char *device[MACHINE_OPTIONAL_DEVICES]; /* --device: "NAME,key=value,…" */
	unsigned device_count;

	/* boot/ */
	enum machine_boot boot;
	const char *kernel, *initrd, *append;     /* NULL: none */
	const char *kernel_cache;                 /* folder where unpacked kernels are kept, or NULL */
	const char *firmware;                     /* a ROM image that starts the guest, or NULL: direct boot */
	const char *firmware_vars;                /* a file with its flash chip's contents, or NULL */
	const char *firmware_vars_template;       /* what the chip holds when new, or NULL: no chip without a file */
	const char *debug_port;                   /* where the firmware's log goes: "stderr", "file:PATH"; NULL: no port */
	struct machine_fw_cfg fw_cfg[MACHINE_FW_CFG_ITEMS];
	unsigned fw_cfg_count;
	uint8_t uuid[16];                         /* the system's, in SMBIOS order */
	const char *module[MACHINE_BOOT_MODULES]; /* Multiboot: "PATH arguments" */
	unsigned module_count;

	struct disk_config disk[MACHINE_DISKS]; /* in the command line's order, as guests number them */
	unsigned disk_count;

	struct net_config net[NET_CARDS_MAX]; /* the same */
	unsigned net_count;
};

#endif

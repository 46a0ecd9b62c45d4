/*
 * Putting a guest into memory. One call reads the files, checks them, fills RAM (kernel, initrd, modules,
 * ACPI, SMBIOS, the BIOS data area) and says in which state the first vCPU starts. Nothing else comes out;
 * the files are only read, and a bad one is found before RAM is touched wherever its format allows.
 */
#ifndef NESTOR_BOOT_BOOT_H
#define NESTOR_BOOT_BOOT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "util/guest_memory.h"

struct vcpu_state; /* engine/vcpu_state.h */

enum boot_mode {
	BOOT_MODE_DIRECT, /* the host unpacks a bzImage's payload and enters the kernel itself */
	BOOT_MODE_SETUP,  /* a bzImage's own decompressor runs in the guest */
};

#define BOOT_SERIAL_PORTS 4

/* Where the machine has its devices: what the tables tell the guest. All addresses are guest-physical. */
struct boot_platform {
	uint64_t local_apic; /* 0: 0xFEE00000 */
	uint64_t io_apic;    /* 0: 0xFEC00000 */
	uint8_t io_apic_id;
	uint8_t io_apic_pins;  /* 0: 24 */
	uint64_t hpet;         /* 0: none */
	uint16_t pm_base;      /* ACPI PM1 event block; PM1 control at +4, PM timer at +8. 0: 0x600 */
	uint16_t gpe0_base;    /* ACPI general-purpose events. 0: none */
	uint8_t gpe0_length;   /* bytes of status and enable together */
	uint16_t smi_port;     /* 0: none, the machine is always in ACPI mode */
	uint8_t sci_irq;       /* 0: 9. Level triggered, active high */
	uint8_t sleep_type_s5; /* SLP_TYPa that powers off */
	uint8_t sleep_type_s3; /* SLP_TYPa that suspends to RAM, 0: none */
	uint16_t reset_port;   /* 0: none. A byte port */
	uint8_t reset_value;
	uint16_t debug_exit_port; /* isa-debug-exit, reserved in the DSDT. 0: none */
	uint16_t pvpanic_port;    /* 0: none */
	struct {
		uint16_t port; /* 0: none */
		uint8_t irq;
	} serial[BOOT_SERIAL_PORTS];
	bool rtc;              /* CMOS clock at 0x70, IRQ 8 */
	uint8_t rtc_century;   /* CMOS index of the century, 0: none */
	bool i8042;            /* keyboard controller at 0x60/0x64 */
	bool vga_text;         /* a VGA in text mode 3 */
	bool pci;              /* configuration mechanism 1 answers at 0xCF8 */
	uint64_t ecam;         /* PCIe configuration space, 256 buses. 0: none */
	uint64_t pci_hole;     /* the 32-bit window for BARs: start (0: end of low RAM) … */
	uint64_t pci_hole_end; /* … and end, exclusive (0: 0xFEC00000) */
	uint64_t pci_high;     /* the window above 4 GiB, [pci_high, pci_high_end); equal: none */
	uint64_t pci_high_end;
};

struct boot_module {
	const char *path;
	const char *command_line; /* or NULL */
};

struct boot_request {
	const char *kernel;               /* path */
	const char *initrd;               /* path, or NULL */
	const char *command_line;         /* or NULL */
	const struct boot_module *module; /* Multiboot and PVH; the initrd comes after them */
	unsigned module_count;
	enum boot_mode mode;
	const char *kernel_cache; /* folder for unpacked kernels (kernel_cache.h), or NULL */
	unsigned cpu_count;       /* APIC IDs 0 … cpu_count - 1; 0 counts as 1 */
	uint8_t uuid[16];         /* the system's, as SMBIOS type 1 stores it; zeros: none */
	struct boot_platform platform;
};

/*
 * Loads request->kernel and what belongs to it into memory and fills *start, the state of vCPU 0 at the
 * guest's first instruction. The other vCPUs wait for SIPI. memory is the RAM map; its contents are expected
 * to be zero. Accepted kernels: Linux bzImage (boot protocol 2.06 or later, 64 and 32 bits), ELF with a PVH
 * note, Multiboot 1 (ELF or a.out kludge); ELF and Multiboot images may be compressed (gzip, xz, zstd …).
 *
 * Returns 0, or a negative errno with error_text(): one line that names the file, what is wrong and how to
 * mend it. RAM may then be partly filled; *start is untouched.
 */
int boot_load(const struct boot_request *request, const struct guest_memory *memory,
              struct vcpu_state *start);

/*
 * The state of vCPU 0 when a guest that boot_load has started, and that is suspended to RAM, wakes: at the waking vector
 * in the FACS (ACPI Specification, "Firmware ACPI Control Structure"), in real mode. Returns 0, or -EINVAL with
 * error_text() where the guest has left none.
 */
int boot_wake(const struct guest_memory *memory, uint64_t local_apic, struct vcpu_state *start);

/* --- fw_cfg ------------------------------------------------------------------------------------------- */

enum {
	BOOT_FW_CFG_RAM_SIZE = 0x03,          /* u64 */
	BOOT_FW_CFG_CPU_COUNT = 0x05,         /* u16 */
	BOOT_FW_CFG_KERNEL_SIZE = 0x08,       /* u32, as all sizes that follow; for firmware that starts a kernel */
	BOOT_FW_CFG_INITRD_SIZE = 0x0b,
	BOOT_FW_CFG_MAX_CPUS = 0x0f,          /* u16 */
	BOOT_FW_CFG_KERNEL = 0x11,
	BOOT_FW_CFG_INITRD = 0x12,
	BOOT_FW_CFG_COMMAND_LINE_SIZE = 0x14, /* with the terminating zero */
	BOOT_FW_CFG_COMMAND_LINE = 0x15,
	BOOT_FW_CFG_SETUP_SIZE = 0x17,
	BOOT_FW_CFG_SETUP = 0x18,
	BOOT_FW_CFG_FILE = 0x20, /* of every named file; the device gives it its own key */
};

struct boot_fw_cfg_item {
	uint16_t key;  /* BOOT_FW_CFG_* */
	char name[56]; /* of a BOOT_FW_CFG_FILE, else empty */
	uint32_t size;
	uint8_t *data; /* owned by the list; integers in little-endian order */
};

struct boot_fw_cfg {
	struct boot_fw_cfg_item *item;
	unsigned count;
};

/*
 * Fills *list with the items that the machine registers with its fw_cfg device besides the device's own
 * signature, ID and file directory. feature_control: IA32_FEATURE_CONTROL for etc/msr_feature_control, or 0
 * for no such file. Returns 0, or -ENOMEM with error_text(). The caller frees with boot_fw_cfg_free.
 */
int boot_fw_cfg_make(const struct boot_request *request, const struct guest_memory *memory,
                     uint64_t feature_control, struct boot_fw_cfg *list);
/*
 * The same for firmware that boots by itself: also the ACPI and SMBIOS tables, the sleep states, and request->kernel,
 * where there is one, for firmware that starts it. console_port: of the serial port that a BIOS without display is to
 * use as its console, or 0. Returns 0, or a negative errno with error_text().
 */
int boot_firmware_items(const struct boot_request *request, const struct guest_memory *memory,
                        uint64_t feature_control, uint16_t console_port, struct boot_fw_cfg *list);
void boot_fw_cfg_free(struct boot_fw_cfg *list);

/* RAM that the guest may use, in bytes; and where what lies below 4 GiB ends. */
uint64_t boot_ram_size(const struct guest_memory *memory);
uint64_t boot_low_ram_end(const struct guest_memory *memory);

#endif

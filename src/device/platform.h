/*
 * Where the platform's devices sit: ports, addresses, interrupt numbers. Shared by the devices and by whoever
 * describes them to the guest (ACPI tables, the boot protocols).
 */
#ifndef NESTOR_DEVICE_PLATFORM_H
#define NESTOR_DEVICE_PLATFORM_H

/* RAM: [0, A0000), [C0000, PLATFORM_LOW_RAM_END) and what does not fit from 4 GiB upward. */
#define PLATFORM_VGA_HOLE     0xa0000u
#define PLATFORM_VGA_HOLE_END 0xc0000u
#define PLATFORM_LOW_RAM_END  0xb0000000u /* 2816 MiB: the most RAM below 4 GiB */
#define PLATFORM_HIGH_RAM     0x100000000ull
#define PLATFORM_ECAM         0xb0000000u /* PCIe configuration space, 256 buses; firmware may put it elsewhere */
#define PLATFORM_PCI_HOLE     0xc0000000u /* free for PCI memory up to PLATFORM_PCI_HOLE_END */
#define PLATFORM_PCI_HOLE_END 0xfec00000u
#define PLATFORM_RCBA         0xfed1c000u /* chipset configuration registers, 16 KiB */

/* Interrupts: ISA numbers. In the IOAPIC, IRQ 0 is on pin 2 (MADT override), the others on their own pins. */
#define PLATFORM_IRQ_PIT      0
#define PLATFORM_IRQ_KEYBOARD 1
#define PLATFORM_IRQ_COM2     3
#define PLATFORM_IRQ_COM1     4
#define PLATFORM_IRQ_RTC      8
#define PLATFORM_IRQ_SCI      9 /* level-triggered, active high (MADT override) */
#define PLATFORM_IRQ_MOUSE    12
#define PLATFORM_IRQ_COUNT    24
#define PLATFORM_PIT_GSI      2

#define PLATFORM_IOAPIC_BASE    0xfec00000u
#define PLATFORM_IOAPIC_ID      0
#define PLATFORM_IOAPIC_PINS    24
#define PLATFORM_HPET_BASE      0xfed00000u
#define PLATFORM_HPET_PERIOD_FS 10000000u /* 100 MHz */
/* Low half of the HPET's capability register: revision 1, 3 timers, 64-bit counter, legacy replacement. */
#define PLATFORM_HPET_ID        0x8086a201u
#define PLATFORM_LAPIC_BASE     0xfee00000u

#define PLATFORM_PIC_MASTER    0x20
#define PLATFORM_PIC_SLAVE     0xa0
#define PLATFORM_ELCR          0x4d0
#define PLATFORM_PIT           0x40
#define PLATFORM_SPEAKER       0x61
#define PLATFORM_I8042_DATA    0x60
#define PLATFORM_I8042_COMMAND 0x64
#define PLATFORM_RTC           0x70
#define PLATFORM_PORT92        0x92
#define PLATFORM_PORT80        0x80 /* delay and POST codes */
#define PLATFORM_COM1          0x3f8
#define PLATFORM_COM2          0x2f8
#define PLATFORM_DEBUG_EXIT    0xf4
#define PLATFORM_DEBUG_PORT    0x402 /* firmware logs */
#define PLATFORM_PVPANIC       0x505
#define PLATFORM_FW_CFG        0x510 /* selector; data at +1; DMA address at +4 and +8 */
#define PLATFORM_PCI_ADDRESS   0xcf8
#define PLATFORM_PCI_DATA      0xcfc
#define PLATFORM_RESET_CONTROL 0xcf9
#define PLATFORM_RESET_VALUE   0x06 /* FADT RESET_VALUE for RESET_REG = port CF9h */

/* ACPI fixed hardware, where firmware is to put it and direct boot does. */
#define PLATFORM_PM_BASE        0x600
#define PLATFORM_PM_LENGTH      0x80
#define PLATFORM_PM1A_EVENT     0x600 /* 4 bytes: status, enable */
#define PLATFORM_PM1A_CONTROL   0x604 /* 2 bytes */
#define PLATFORM_PM_TIMER       0x608 /* 4 bytes, 32-bit (FADT TMR_VAL_EXT) */
#define PLATFORM_PM_GPE0        0x620 /* 16 bytes: status 8, enable 8; all reserved */
#define PLATFORM_PM_GPE0_LENGTH 16
#define PLATFORM_SMI_COMMAND    0    /* none: ACPI mode is always on (SCI_EN set), FADT SMI_CMD = 0 */
#define PLATFORM_S3_TYPE        1    /* SLP_TYPa of \_S3 */
#define PLATFORM_S5_TYPE        5    /* SLP_TYPa of \_S5 */
#define PLATFORM_S5_TYPE_FIRMWARE 0  /* what SeaBIOS and OVMF write to power off, without a look into \_S5 */
#define PLATFORM_RTC_CENTURY    0x32 /* CMOS index, FADT CENTURY */

#define PLATFORM_CPUS_MAX 64

#endif

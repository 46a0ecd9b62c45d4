/*
 * The root bus as those see it that make it up: functions (pci.c), their interrupts (pci_msi.c), the host bridge
 * (pci_host.c), the LPC bridge with the interrupt router (ich9_lpc.c), and what firmware does (pci_setup.c). Devices
 * need pci.h only. Everything runs under the machine lock.
 */
#ifndef NESTOR_DEVICE_PCI_BUS_H
#define NESTOR_DEVICE_PCI_BUS_H

#include "device/pci/pci.h"

#define PCI_SLOTS     32
#define PCI_FUNCTIONS 8
#define PCI_PIRQS     8
#define PCI_NOWHERE   UINT64_MAX /* pci_bar.mapped */

/* PCI Local Bus Specification, "Configuration Space Organization". */
#define PCI_VENDOR           0x00
#define PCI_COMMAND          0x04
#define PCI_STATUS           0x06
#define PCI_REVISION         0x08
#define PCI_CLASS            0x09
#define PCI_CACHE_LINE       0x0c
#define PCI_LATENCY          0x0d
#define PCI_HEADER_TYPE      0x0e
#define PCI_BAR(index)       (0x10 + 4 * (index))
#define PCI_SUBSYSTEM_VENDOR 0x2c
#define PCI_ROM              0x30
#define PCI_CAPABILITIES     0x34
#define PCI_INTERRUPT_LINE   0x3c
#define PCI_INTERRUPT_PIN    0x3d

#define PCI_COMMAND_IO           0x0001
#define PCI_COMMAND_MEMORY       0x0002
#define PCI_COMMAND_MASTER       0x0004
#define PCI_COMMAND_INTX_DISABLE 0x0400
#define PCI_COMMAND_BITS         0x0547 /* and parity response, SERR enable */
#define PCI_STATUS_INTERRUPT     0x0008
#define PCI_STATUS_CAPABILITIES  0x0010
#define PCI_HEADER_MULTIFUNCTION 0x80

struct pci_host {
	struct machine *machine;
	uint32_t address; /* CF8h */
	bool by_ecam;   /* a configuration write through ECAM is being done */
	bool ecam_ends; /* … has switched ECAM off */
	uint64_t ecam;    /* where configuration space is in memory now, or PCI_NOWHERE */
	uint64_t ecam_size;
	struct pci_function *function[PCI_SLOTS][PCI_FUNCTIONS]; /* owned by their devices */
	struct irq_line pirq[PCI_PIRQS];                         /* what functions drive; the LPC bridge listens */
	bool contended; /* some BAR could not be decoded where it is, because another was there first */
	struct pci_function bridge;
};

/* A guest's access to [offset, offset + size) of configuration space; size: 1, 2 or 4; what lies beyond is ones. */
uint32_t pci_config_read(const struct pci_function *function, unsigned offset, unsigned size);
void pci_config_write(struct pci_function *function, unsigned offset, unsigned size, uint32_t value);

/* Something left the buses: BARs that found no place before get another chance. */
void pci_retry_bars(struct pci_host *host);
/* Where BAR `index` is decoded by what registers say, or PCI_NOWHERE. */
uint64_t pci_bar_address(const struct pci_function *function, unsigned index);

/* pci_msi.c: the parts of configuration space that matter to interrupts may have changed; after power-up. */
void pci_interrupts_written(struct pci_function *function);
void pci_interrupts_reset(struct pci_function *function);
/* The ops of the BAR that pci_add_msix made: their device is the function itself. */
extern const struct bus_ops pci_msix_ops;

/* The PIRQ (0: A … 7: H) that interrupt pin `pin` (1 … 4) of a slot of the root bus is wired to. */
unsigned pci_pirq(unsigned slot, unsigned pin);

/*
 * Where 64-bit BARs may go above RAM, as the ACPI tables tell: [*start, *end); equal where the CPU has too few physical
 * address bits for any.
 */
void pci_high_window(const struct machine *machine, uint64_t *start, uint64_t *end);

/*
 * What firmware does before it starts a kernel, for guests that start without: the bridges' registers as the ACPI
 * tables tell them, addresses for all BARs, decoding and bus mastering on, interrupt lines. Takes the lock. Returns 0,
 * or -ENOSPC with error_text() where a BAR finds no room.
 */
int pci_setup(struct machine *machine);

#endif

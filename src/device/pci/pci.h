/*
 * PCI functions and the one PCIe root bus they sit on (pci_host.c). A device fills a struct pci_function that
 * lives inside its own state, gives it BARs and capabilities, and adds it; configuration space, BAR decoding, INTx
 * routing, MSI and MSI-X are done here. Everything runs under the machine lock. Rules: PCI Local Bus
 * Specification 3.0, PCI Express Base Specification.
 */
#ifndef NESTOR_DEVICE_PCI_H
#define NESTOR_DEVICE_PCI_H

#include <stdbool.h>
#include <stdint.h>

#include "machine/bus.h"
#include "machine/irq.h"

#define PCI_CONFIG_SIZE 4096
#define PCI_BARS        6
#define PCI_MSIX_MAX    64 /* vectors of one function */
#define PCI_SLOT_ANY    0xff

struct machine;
struct pci_function;

struct pci_identity {
	uint16_t vendor, device, subsystem_vendor, subsystem;
	uint32_t class_code; /* base class << 16 | subclass << 8 | programming interface */
	uint8_t revision;
	uint8_t interrupt_pin; /* 1 … 4: INTA … INTD; 0: none */
};

struct pci_bar {
	const struct bus_ops *ops; /* NULL with host NULL: no such BAR */
	uint8_t *host;             /* RAM-backed (frame buffer, option ROM); owned by the device */
	uint64_t size;             /* a power of two */
	bool io, wide, prefetchable, read_only;
	uint64_t mapped; /* where it is decoded now; UINT64_MAX: nowhere */
};

struct pci_msix_entry {
	uint64_t address;
	uint32_t data, control;
};

struct pci_function {
	/* ---- the device's own, set before pci_add ---- */
	const char *name;
	void *device; /* first argument of all callbacks and of the BARs' bus_ops */
	/* After a guest's configuration write was stored: bytes [offset, offset + size) may have changed. May be
	 * NULL. */
	void (*config_written)(void *device, unsigned offset, unsigned size);
	/* Before a guest reads [offset, offset + size) of `config`. May be NULL. */
	void (*config_reading)(void *device, unsigned offset, unsigned size);

	/* ---- pci.c's; a device may read and, beyond the header, write `config` ---- */
	struct machine *machine;
	uint8_t slot, number;
	uint8_t config[PCI_CONFIG_SIZE];
	uint8_t writable[PCI_CONFIG_SIZE]; /* bits that a guest's write changes */
	uint8_t clears[PCI_CONFIG_SIZE];   /* bits that writing 1 clears */
	uint8_t reset[PCI_CONFIG_SIZE];    /* what a reset restores: `config` when it was added */
	struct pci_bar bar[PCI_BARS + 1];  /* the last: expansion ROM */
	uint16_t next_capability;          /* where the next one goes */
	uint8_t last_capability;
	uint8_t msi, msix;                 /* their offsets in config, 0: none */
	unsigned msix_count, msix_bar;
	struct pci_msix_entry msix_entry[PCI_MSIX_MAX];
	uint64_t msix_pending;
	bool intx;
	struct irq_pin pin;
};

/* Clears *function and fills its header. Then come BARs and capabilities, then pci_add. */
void pci_init(struct pci_function *function, const char *name, void *device,
              const struct pci_identity *identity);

/*
 * Gives the function a BAR. index: 0 … 5 (a 64-bit one also takes index + 1), PCI_BARS: the expansion ROM (pci_bar_ram
 * only). size: a power of two; at least 4 for ports, 16 for memory, 4096 for RAM. ops see offsets from the BAR's start,
 * their device is function->device. pci_bar_ram: host is page-aligned memory of `size` bytes that the guest accesses
 * directly.
 */
void pci_bar_io(struct pci_function *function, unsigned index, uint64_t size, const struct bus_ops *ops);
void pci_bar_memory(struct pci_function *function, unsigned index, uint64_t size, bool wide,
                    const struct bus_ops *ops);
void pci_bar_ram(struct pci_function *function, unsigned index, uint64_t size, void *host, bool read_only);

/* Adds a capability of `size` bytes (its ID and link included) and returns its offset in config. */
unsigned pci_add_capability(struct pci_function *function, uint8_t id, unsigned size);
/* The PCI Express capability: a root-complex integrated endpoint. */
void pci_add_express(struct pci_function *function);
/* MSI with 64-bit addresses and one vector. */
void pci_add_msi(struct pci_function *function);
/*
 * MSI-X with `vectors` (1 … PCI_MSIX_MAX) in a memory BAR of its own (index bar, 4 KiB): table at 0, pending bits at
 * 2048.
 */
void pci_add_msix(struct pci_function *function, unsigned vectors, unsigned bar);

/*
 * Puts the function on bus 0. slot: 0 … 31 or PCI_SLOT_ANY for the next free one (from 2 on); number: 0 … 7. The
 * function must live until the machine is destroyed. Returns 0, -EEXIST or -ENOSPC with error_text().
 */
int pci_add(struct machine *machine, struct pci_function *function, uint8_t slot, uint8_t number);

/* Called by the device's own reset: configuration space, BARs, MSI and INTx as after power-up. */
void pci_reset(struct pci_function *function);

/* May the function access memory (command register's bus master bit)? */
bool pci_is_master(const struct pci_function *function);
/* Which kind of interrupt the guest has switched on. */
bool pci_msi_enabled(const struct pci_function *function);
bool pci_msix_enabled(const struct pci_function *function);

/* Sends MSI-X vector `vector` (pending while masked), or the MSI. Nothing where neither is enabled. */
void pci_send_msix(struct pci_function *function, unsigned vector);
void pci_send_msi(struct pci_function *function);
/* The level of the function's INTx pin; driven only while neither MSI nor MSI-X is enabled and INTx is not disabled. */
void pci_set_intx(struct pci_function *function, bool asserted);

#endif

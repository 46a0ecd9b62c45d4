/*
 * The SATA controller of an ICH9 in AHCI mode, 00:1f.2, with six ports: registers, resets and interrupts. Rules: Serial
 * ATA AHCI 1.3.1, "HBA Memory Registers"; Intel I/O Controller Hub 9 data sheet, "SATA Controller Registers (D31:F2)".
 */
#include "device/disk/ahci.h"
#include "device/disk/cdrom.h"

#include <errno.h>
#include <stdlib.h>

#include "device/devices.h"
#include "device/firmware/fw_cfg.h"
#include "machine/machine.h"
#include "util/error.h"

#define ABAR       5
#define ABAR_SIZE  4096
#define PORT_BASE  0x100
#define PORT_SIZE  0x80

/* "Generic Host Control" */
#define REG_CAP  0x00
#define REG_GHC  0x04
#define REG_IS   0x08
#define REG_PI   0x0c
#define REG_VS   0x10
#define REG_CAP2 0x24

#define CAP_S64A   (1u << 31)
#define CAP_SNCQ   (1u << 30)
#define CAP_SCLO   (1u << 24)
#define CAP_GEN2   (2u << 20)
#define CAP_SAM    (1u << 18) /* AHCI only: GHC.AE is always set */
#define CAPABILITY                                                                                           \
	(CAP_S64A | CAP_SNCQ | CAP_SCLO | CAP_GEN2 | CAP_SAM | (AHCI_SLOTS - 1) << 8 | (AHCI_PORTS - 1))
#define VERSION    0x00010300u

#define GHC_HR (1u << 0)
#define GHC_IE (1u << 1)
#define GHC_AE (1u << 31)

/* "Port Registers" */
#define PORT_CLB  0x00
#define PORT_CLBU 0x04
#define PORT_FB   0x08
#define PORT_FBU  0x0c
#define PORT_IS   0x10
#define PORT_IE   0x14
#define PORT_CMD  0x18
#define PORT_TFD  0x20
#define PORT_SIG  0x24
#define PORT_SSTS 0x28
#define PORT_SCTL 0x2c
#define PORT_SERR 0x30
#define PORT_SACT 0x34
#define PORT_CI   0x38

#define IS_WRITABLE  0xfd80002fu /* all that clear by writing 1; PCS and PRCS follow PxSERR */
#define IE_WRITABLE  0xfd8000ffu
#define CMD_WRITABLE (AHCI_CMD_ST | AHCI_CMD_FRE | AHCI_CMD_ATAPI | AHCI_CMD_DLAE)
#define SERR_X       (1u << 26) /* "Exchanged": COMINIT was received */
#define SERR_N       (1u << 16) /* "PhyRdy Change" */
#define SSTS_UP      0x123u     /* DET 3: device and communication; SPD 2: 3 Gb/s; IPM 1: active */
#define SCTL_DET     0xfu
#define DET_NONE     0u
#define DET_RESET    1u
#define DET_OFF      4u
#define TFD_NONE     0x7fu
#define SIG_NONE     0xffffffffu

#define CONFIG_MAP  0x90 /* ICH9: "Address Map": AHCI mode */
#define CONFIG_PCS  0x92 /* ICH9: "Port Control and Status" */

/* ---- interrupts ---- */

/*
 * IS.IPS is set while an enabled bit of the port's status is; it clears only where that is gone. A message is sent for
 * every change that leaves something to serve, so that none is lost between the guest's look and its acknowledgement.
 */
static void update_interrupt(struct ahci *ahci, bool changed)
{
	bool wanted;

	for (unsigned i = 0; i < AHCI_PORTS; i++)
		if (ahci->port[i].is & ahci->port[i].ie)
			ahci->is |= 1u << i;
	wanted = ahci->ghc & GHC_IE && ahci->is;
	pci_set_intx(&ahci->function, wanted);
	if (wanted && changed)
		pci_send_msi(&ahci->function);
}

void ahci_raise(struct ahci_port *port, uint32_t bits)
{
	port->is |= bits;
	update_interrupt(port->ahci, bits & port->ie);
}

/* ---- a port's link ---- */

static void link_down(struct ahci_port *port)
{
	ahci_abandon(port);
	port->tfd = TFD_NONE;
	port->sig = SIG_NONE;
	port->ssts = 0;
	port->in_reset = false;
	port->halted = false;
	port->ci = port->sact = 0;
}

/* COMINIT, then the drive's signature. */
static void link_up(struct ahci_port *port)
{
	if (!port->disk)
		return;
	port->ssts = SSTS_UP;
	if (port->cdrom)
		atapi_reset(port, true);
	else
		ata_reset(port, true);
	port->serr |= SERR_X | SERR_N;
	ahci_send_signature(port);
	ahci_raise(port, AHCI_IS_PC | AHCI_IS_PRC);
}

static void reset_port(struct ahci_port *port)
{
	link_down(port);
	port->is = port->ie = 0;
	port->cmd = AHCI_CMD_SUD | AHCI_CMD_POD;
	port->sctl = port->serr = 0;
	port->next_slot = 0;
	link_up(port);
}

/* "HBA Reset": CLB and FB stay. */
static void reset_hba(struct ahci *ahci)
{
	ahci->ghc = GHC_AE;
	for (unsigned i = 0; i < AHCI_PORTS; i++)
		reset_port(&ahci->port[i]);
	ahci->is = 0;
	update_interrupt(ahci, false);
}

/* ---- a port's registers ---- */

static uint32_t port_read(const struct ahci_port *port, unsigned reg)
{
	uint32_t running = 0;

	switch (reg) {
	case PORT_CLB:
		return (uint32_t)port->clb;
	case PORT_CLBU:
		return (uint32_t)(port->clb >> 32);
	case PORT_FB:
		return (uint32_t)port->fb;
	case PORT_FBU:
		return (uint32_t)(port->fb >> 32);
	case PORT_IS:
		return port->is;
	case PORT_IE:
		return port->ie;
	case PORT_CMD:
		if (port->cmd & AHCI_CMD_ST)
			running |= AHCI_CMD_CR;
		if (port->cmd & AHCI_CMD_FRE)
			running |= AHCI_CMD_FR;
		return port->cmd | running;
	case PORT_TFD:
		return port->tfd;
	case PORT_SIG:
		return port->sig;
	case PORT_SSTS:
		return port->ssts;
	case PORT_SCTL:
		return port->sctl;
	case PORT_SERR:
		return port->serr;
	case PORT_SACT:
		return port->sact;
	case PORT_CI:
		return port->ci;
	default:
		return 0;
	}
}

static void write_cmd(struct ahci_port *port, uint32_t value)
{
	uint32_t old = port->cmd;

	port->cmd = (old & ~(CMD_WRITABLE | 0x1f00u)) | (value & CMD_WRITABLE) | (old & 0x1f00u);
	if (value & AHCI_CMD_CLO && !(old & AHCI_CMD_ST))
		port->tfd &= ~(uint32_t)(ATA_BSY | ATA_DRQ);
	if (old & AHCI_CMD_ST && !(value & AHCI_CMD_ST)) {
		/* "When this bit is cleared PxCI and PxSACT are cleared": what was under way is abandoned. */
		ahci_abandon(port);
		port->ci = port->sact = 0;
		port->halted = false;
		port->cmd &= ~0x1f00u;
	}
	if (value & AHCI_CMD_ST)
		ahci_run(port);
}

/* "Port x Serial ATA Control": DET 1 holds the link in COMRESET, 4 switches it off, 0 brings it up. */
static void write_sctl(struct ahci_port *port, uint32_t value)
{
	uint32_t old = port->sctl & SCTL_DET, new = value & SCTL_DET;

	port->sctl = value & 0xfff;
	if (old == new)
		return;
	if (new == DET_RESET || new == DET_OFF)
		link_down(port);
	if (new == DET_OFF)
		port->ssts = port->disk ? 4 : 0;
	if (new == DET_NONE && (old == DET_RESET || old == DET_OFF)) {
		port->ssts = 0;
		link_up(port);
	}
}

static void write_serr(struct ahci_port *port, uint32_t value)
{
	port->serr &= ~value;
	if (!(port->serr & SERR_X))
		port->is &= ~AHCI_IS_PC;
	if (!(port->serr & SERR_N))
		port->is &= ~AHCI_IS_PRC;
}

static void port_write(struct ahci_port *port, unsigned reg, uint32_t value)
{
	switch (reg) {
	case PORT_CLB:
		port->clb = (port->clb & ~UINT64_C(0xffffffff)) | (value & ~0x3ffu);
		break;
	case PORT_CLBU:
		port->clb = (uint32_t)port->clb | (uint64_t)value << 32;
		break;
	case PORT_FB:
		port->fb = (port->fb & ~UINT64_C(0xffffffff)) | (value & ~0xffu);
		break;
	case PORT_FBU:
		port->fb = (uint32_t)port->fb | (uint64_t)value << 32;
		break;
	case PORT_IS:
		port->is &= ~(value & IS_WRITABLE);
		break;
	case PORT_IE:
		port->ie = value & IE_WRITABLE;
		update_interrupt(port->ahci, true);
		return;
	case PORT_CMD:
		write_cmd(port, value);
		break;
	case PORT_SCTL:
		write_sctl(port, value);
		break;
	case PORT_SERR:
		write_serr(port, value);
		break;
	case PORT_SACT:
		if (port->cmd & AHCI_CMD_ST)
			port->sact |= value;
		break;
	case PORT_CI:
		if (port->cmd & AHCI_CMD_ST) {
			port->ci |= value;
			ahci_run(port);
		}
		break;
	}
	update_interrupt(port->ahci, false);
}

/* ---- the controller's registers ---- */

static uint32_t read_register(struct ahci *ahci, unsigned offset)
{
	unsigned number = (offset - PORT_BASE) / PORT_SIZE;

	if (offset >= PORT_BASE)
		return number < AHCI_PORTS ? port_read(&ahci->port[number], offset % PORT_SIZE) : 0;
	switch (offset) {
	case REG_CAP:
		return CAPABILITY;
	case REG_GHC:
		return ahci->ghc;
	case REG_IS:
		return ahci->is;
	case REG_PI:
		return (1u << AHCI_PORTS) - 1;
	case REG_VS:
		return VERSION;
	default:
		return 0;
	}
}

static void write_register(struct ahci *ahci, unsigned offset, uint32_t value)
{
	unsigned number = (offset - PORT_BASE) / PORT_SIZE;

	if (offset >= PORT_BASE) {
		if (number < AHCI_PORTS)
			port_write(&ahci->port[number], offset % PORT_SIZE, value);
	} else if (offset == REG_GHC) {
		if (value & GHC_HR) {
			reset_hba(ahci);
			return;
		}
		ahci->ghc = GHC_AE | (value & GHC_IE);
		update_interrupt(ahci, true);
	} else if (offset == REG_IS) {
		ahci->is &= ~value;
		update_interrupt(ahci, true);
	}
}

/* Reads of any size within a doubleword; the bus splits what is larger. */
static uint64_t ahci_read(void *state, uint64_t offset, unsigned size)
{
	return read_register(state, (unsigned)offset & ~3u) >> (offset % 4 * 8);
}

/*
 * "Locked accesses and accesses of other sizes than 32 bits … are not supported" where they would have effects: a narrow
 * write gives the doubleword zeros elsewhere in registers whose ones act, and keeps the others' bits.
 */
static void ahci_write(void *state, uint64_t offset, unsigned size, uint64_t value)
{
	unsigned reg = (unsigned)offset & ~3u, port_reg = reg % PORT_SIZE;
	unsigned shift = (unsigned)offset % 4 * 8;
	uint32_t mask = (uint32_t)bus_ones(size) << shift, written = (uint32_t)value << shift & mask;
	bool ones_act = reg == REG_IS || (reg >= PORT_BASE && (port_reg == PORT_IS || port_reg == PORT_SERR ||
	                                                       port_reg == PORT_SACT || port_reg == PORT_CI));

	if (size < 4 && !ones_act)
		written |= read_register(state, reg) & ~mask;
	write_register(state, reg, written);
}

static const struct bus_ops abar_ops = {4, ahci_read, ahci_write};

/* ---- creation ---- */

static void ahci_reset(void *state)
{
	struct ahci *ahci = state;

	pci_reset(&ahci->function);
	for (unsigned i = 0; i < AHCI_PORTS; i++)
		ahci->port[i].clb = ahci->port[i].fb = 0;
	reset_hba(ahci);
}

static void ahci_destroy(void *state)
{
	struct ahci *ahci = state;

	for (unsigned i = 0; i < AHCI_PORTS; i++) {
		disk_destroy(ahci->port[i].disk);
		ahci_release_commands(&ahci->port[i]);
	}
	free(ahci);
}

/* Commands that wait for the bus master bit go on. */
static void config_written(void *state, unsigned offset, unsigned size)
{
	struct ahci *ahci = state;

	if (offset > 4 || offset + size <= 4)
		return;
	for (unsigned i = 0; i < AHCI_PORTS; i++)
		ahci_run(&ahci->port[i]);
	update_interrupt(ahci, false);
}

static int connect_drives(struct ahci *ahci)
{
	struct machine *machine = ahci->machine;
	unsigned port = 0;
	int error = 0;

	for (unsigned i = 0; i < machine->config.disk_count && !error; i++) {
		const struct disk_config *config = &machine->config.disk[i];

		if (config->interface != DISK_AHCI)
			continue;
		if (port == AHCI_PORTS)
			return error_set(ENOSPC, "%s: the AHCI controller has only %d ports", config->file,
			                 AHCI_PORTS);
		ahci->port[port].cdrom = config->cdrom;
		ahci->port[port].drive = i;
		error = disk_create(&ahci->port[port].disk, machine, config);
		if (!error && config->cdrom && config->file)
			error = cdrom_check_size(config->file, disk_size(ahci->port[port].disk));
		if (!error)
			error = fw_cfg_add_boot_path(machine->fw_cfg, config->boot_index,
			                             "/pci@i0cf8/pci8086,2922@1f,2/drive@%x/disk@0", port);
		port++;
	}
	return error;
}

static void init_config(struct ahci *ahci)
{
	static const struct pci_identity identity = {0x8086, 0x2922, 0x8086, 0x2922, 0x010601, 2, 1};
	struct pci_function *function = &ahci->function;

	pci_init(function, "ahci", ahci, &identity);
	function->config_written = config_written;
	function->config[CONFIG_MAP] = 0x40;
	function->config[CONFIG_PCS] = (1u << AHCI_PORTS) - 1;
	function->writable[CONFIG_PCS] = (1u << AHCI_PORTS) - 1;
	for (unsigned i = 0; i < AHCI_PORTS; i++)
		if (ahci->port[i].disk)
			function->config[CONFIG_PCS + 1] |= (uint8_t)(1u << i);
	pci_bar_memory(function, ABAR, ABAR_SIZE, false, &abar_ops);
	pci_add_msi(function);
}

static bool has_drives(const struct machine *machine)
{
	for (unsigned i = 0; i < machine->config.disk_count; i++)
		if (machine->config.disk[i].interface == DISK_AHCI)
			return true;
	return false;
}

int ahci_create(struct machine *machine)
{
	/* A guest's driver waits a third of a second for ports to prove empty. */
	if (!has_drives(machine))
		return 0;
	struct ahci *ahci = calloc(1, sizeof(*ahci));
	int error;

	if (!ahci)
		return error_set(ENOMEM, "out of memory");
	ahci->machine = machine;
	for (unsigned i = 0; i < AHCI_PORTS; i++) {
		ahci->port[i].ahci = ahci;
		ahci->port[i].number = (uint8_t)i;
		for (unsigned slot = 0; slot < AHCI_SLOTS; slot++) {
			ahci->port[i].command[slot].port = &ahci->port[i];
			ahci->port[i].command[slot].slot = (uint8_t)slot;
		}
	}
	error = machine_add_device(machine, "ahci", ahci, ahci_reset, ahci_destroy);
	if (error) {
		free(ahci);
		return error;
	}
	error = connect_drives(ahci);
	if (error)
		return error;
	init_config(ahci);
	machine->ahci = ahci;
	return pci_add(machine, &ahci->function, 0x1f, 2);
}

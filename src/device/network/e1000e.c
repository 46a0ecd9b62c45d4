/*
 * Intel 82574L gigabit Ethernet: its registers, and its life. A table says for each register what a reset
 * leaves in it, which bits software can write, and what else an access does. Left out: the flash BAR,
 * bit-banging of the NVM (EERD reads it), interrupt delay timers (they expire at once; the throttle registers
 * work), wake-up, time stamps.
 */
#include "device/network/e1000e.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "device/network/net_cards.h"
#include "machine/machine.h"
#include "util/error.h"

#define VENDOR_INTEL  0x8086
#define DEVICE_82574L 0x10d3

#define BAR_MEMORY 0
#define BAR_IO     2
#define BAR_MSIX   3
#define IO_SIZE    32
#define IO_ADDRESS 0
#define IO_DATA    4

#define CAPABILITY_PM 1
#define PM_SIZE       8
#define PM_VERSION    0x0003 /* 1.2, D0 and D3 only, no PME */
#define PM_CONTROL    4

#define EECD_GRANT   0x00000080u
#define EECD_REQUEST 0x00000040u
#define EECD_FIXED   0x00000b00u /* present, auto read done, 128 words */

#define SWSM_SMBI 1u

#define CLOCK_MHZ 25 /* of SYSTIM */

struct register_row {
	uint32_t first, last; /* offsets */
	uint32_t reset, writable;
	uint32_t (*read)(struct e1000e *card, unsigned offset);
	void (*write)(struct e1000e *card, unsigned offset, uint32_t value);
};

#define ALL 0xffffffffu

/* ---- registers that do something ---- */

static void reset_mac(struct e1000e *card);

static void write_ctrl(struct e1000e *card, unsigned offset, uint32_t value)
{
	uint32_t old = *e1000e_reg(card, R_CTRL);

	if (value & CTRL_RST) {
		reset_mac(card);
		return;
	}
	*e1000e_reg(card, R_CTRL) = value;
	if (value & CTRL_PHY_RST && !(old & CTRL_PHY_RST)) {
		e1000e_phy_reset(card);
		*e1000e_reg(card, R_STATUS) |= STATUS_PHYRA;
		e1000e_cause(card, CAUSE_LSC);
	} else if (value & ~old & CTRL_SLU) {
		e1000e_cause(card, CAUSE_LSC);
	}
}

static uint32_t read_status(struct e1000e *card, unsigned offset)
{
	uint32_t control = *e1000e_reg(card, R_CTRL);

	return STATUS_FD | STATUS_SPEED_1000 | STATUS_ASDV_1000 |
	       (*e1000e_reg(card, R_STATUS) & STATUS_PHYRA) | (e1000e_link(card) ? STATUS_LU : 0) |
	       (control & CTRL_GIO_MASTER_DISABLE ? 0 : STATUS_GIO_MASTER_ENABLE);
}

static void write_status(struct e1000e *card, unsigned offset, uint32_t value)
{
	*e1000e_reg(card, R_STATUS) &= value; /* PHYRA is cleared by a zero */
}

static uint32_t read_eecd(struct e1000e *card, unsigned offset)
{
	uint32_t value = *e1000e_reg(card, R_EECD);

	return value | EECD_FIXED | (value & EECD_REQUEST ? EECD_GRANT : 0);
}

static void write_eerd(struct e1000e *card, unsigned offset, uint32_t value)
{
	*e1000e_reg(card, R_EERD) = e1000e_eerd(card, value);
}

static void write_eewr(struct e1000e *card, unsigned offset, uint32_t value)
{
	e1000e_eewr(card, value);
}

static void write_ctrl_ext(struct e1000e *card, unsigned offset, uint32_t value)
{
	*e1000e_reg(card, R_CTRL_EXT) = value & ~CTRL_EXT_EE_RST; /* what is read anew is as it was */
}

static void write_mdic(struct e1000e *card, unsigned offset, uint32_t value)
{
	*e1000e_reg(card, R_MDIC) = e1000e_mdic(card, value);
}

static uint32_t read_icr(struct e1000e *card, unsigned offset)
{
	return e1000e_read_icr(card);
}

static void write_icr(struct e1000e *card, unsigned offset, uint32_t value)
{
	e1000e_write_icr(card, value);
}

static void write_ics(struct e1000e *card, unsigned offset, uint32_t value)
{
	e1000e_cause(card, value);
}

static void write_ims(struct e1000e *card, unsigned offset, uint32_t value)
{
	*e1000e_reg(card, R_IMS) |= value & CAUSES;
	e1000e_interrupt_update(card);
}

static void write_imc(struct e1000e *card, unsigned offset, uint32_t value)
{
	*e1000e_reg(card, R_IMS) &= ~value;
	e1000e_interrupt_update(card);
}

static void write_ivar(struct e1000e *card, unsigned offset, uint32_t value)
{
	*e1000e_reg(card, R_IVAR) = value;
	e1000e_interrupt_update(card);
}

/* Frames that waited for descriptors can be looked at again, or must be thrown away. */
static void receive_again(struct e1000e *card)
{
	if (!card->receive_waits)
		return;
	card->receive_waits = false;
	net_port_resume(card->port);
}

static void write_rctl(struct e1000e *card, unsigned offset, uint32_t value)
{
	*e1000e_reg(card, R_RCTL) = value;
	receive_again(card);
}

static void write_rdt(struct e1000e *card, unsigned offset, uint32_t value)
{
	*e1000e_reg(card, offset) = value & 0xffff;
	receive_again(card);
}

static void write_tctl(struct e1000e *card, unsigned offset, uint32_t value)
{
	*e1000e_reg(card, R_TCTL) = value;
	e1000e_transmit(card);
}

static void write_tdt(struct e1000e *card, unsigned offset, uint32_t value)
{
	*e1000e_reg(card, offset) = value & 0xffff;
	e1000e_transmit(card);
}

static uint32_t read_counter(struct e1000e *card, unsigned offset)
{
	uint32_t value = *e1000e_reg(card, offset);

	*e1000e_reg(card, offset) = 0;
	return value;
}

/* "Software Semaphore Register": who reads SMBI as 0 has it. */
static uint32_t read_swsm(struct e1000e *card, unsigned offset)
{
	uint32_t value = *e1000e_reg(card, R_SWSM);

	*e1000e_reg(card, R_SWSM) |= SWSM_SMBI;
	return value;
}

/* ---- time ---- */

/* SYSTIM grows by TIMINCA's value each period of a 25 MHz clock. */
static uint64_t systim(struct e1000e *card)
{
	uint32_t increment = *e1000e_reg(card, R_TIMINCA), period = increment >> 24;
	uint64_t clocks = (machine_now(card->machine) - card->systim_since) * CLOCK_MHZ / 1000;

	return card->systim_base + (period ? clocks / period * (increment & 0xffffff) : 0);
}

static void set_systim(struct e1000e *card, uint64_t value)
{
	card->systim_base = value;
	card->systim_since = machine_now(card->machine);
}

/* Reading the low half keeps the high one. */
static uint32_t read_systim(struct e1000e *card, unsigned offset)
{
	uint64_t now;

	if (offset == R_SYSTIMH)
		return card->systim_high;
	now = systim(card);
	card->systim_high = (uint32_t)(now >> 32);
	return (uint32_t)now;
}

static void write_systim(struct e1000e *card, unsigned offset, uint32_t value)
{
	uint64_t now = systim(card);

	if (offset == R_SYSTIMH)
		set_systim(card, (uint64_t)value << 32 | (uint32_t)now);
	else
		set_systim(card, (now & ~(uint64_t)ALL) | value);
}

static void write_timinca(struct e1000e *card, unsigned offset, uint32_t value)
{
	set_systim(card, systim(card));
	*e1000e_reg(card, R_TIMINCA) = value;
}

/* ---- the table, by offset ---- */

/* clang-format off */
#define RING(base, control, write_tail) \
	{(base) + RING_BAL, (base) + RING_BAL, 0, 0xfffffff0u, NULL, NULL}, \
	{(base) + RING_BAH, (base) + RING_BAH, 0, ALL, NULL, NULL}, \
	{(base) + RING_LEN, (base) + RING_LEN, 0, 0x000fff80u, NULL, NULL}, \
	{(base) + RING_HEAD, (base) + RING_HEAD, 0, 0xffff, NULL, NULL}, \
	{(base) + RING_TAIL, (base) + RING_TAIL, 0, 0xffff, NULL, write_tail}, \
	{(base) + RING_RDTR, (base) + RING_RDTR, 0, 0xffff, NULL, NULL}, \
	{(base) + RING_DCTL, (base) + RING_DCTL, control, ALL, NULL, NULL}, \
	{(base) + RING_RADV, (base) + RING_RADV, 0, 0xffff, NULL, NULL}, \
	{(base) + RING_TARC, (base) + RING_TARC, 0x00000403, ALL, NULL, NULL}
/* clang-format on */

static const struct register_row rows[] = {
    {R_CTRL, R_CTRL, CTRL_FD | 0x00100200u, ALL, NULL, write_ctrl},
    {R_STATUS, R_STATUS, 0, 0, read_status, write_status},
    {R_EECD, R_EECD, 0, 0x0010004fu, read_eecd, NULL},
    {R_EERD, R_EERD, 0, ALL, NULL, write_eerd},
    {R_CTRL_EXT, R_CTRL_EXT, 0, ALL, NULL, write_ctrl_ext},
    {R_FLA, R_FLA, 0, ALL, NULL, NULL},
    {R_MDIC, R_MDIC, 0, ALL, NULL, write_mdic},
    {R_FCAL, R_FCT, 0, ALL, NULL, NULL},
    {R_VET, R_VET, 0x8100, 0xffff, NULL, NULL},
    {R_ICR, R_ICR, 0, 0, read_icr, write_icr},
    {R_ITR, R_ITR, 0, 0xffff, NULL, NULL},
    {R_ICS, R_ICS, 0, 0, NULL, write_ics},
    {R_IMS, R_IMS, 0, 0, NULL, write_ims},
    {R_IMC, R_IMC, 0, 0, NULL, write_imc},
    {R_EIAC, R_EIAC, 0, 0x01f00000u, NULL, NULL},
    {R_IAM, R_IAM, 0, ALL, NULL, NULL},
    {R_IVAR, R_IVAR, 0, 0x800fffffu, NULL, write_ivar},
    {R_EITR, R_EITR + 4 * (E1000E_VECTORS - 1), 0, 0xffff, NULL, NULL},
    {R_RCTL, R_RCTL, 0, 0x7effffffu, NULL, write_rctl},
    {R_FCTTV, R_FCTTV, 0, 0xffff, NULL, NULL},
    {R_TCTL, R_TCTL, 0x00000008, ALL, NULL, write_tctl},
    {R_TCTL_EXT, R_TCTL_EXT, 0, ALL, NULL, NULL},
    {R_TIPG, R_TIPG, 0x00602008, ALL, NULL, NULL},
    {R_AIT, R_AIT, 0, 0xffff, NULL, NULL},
    {R_LEDCTL, R_LEDCTL, 0x07061302, ALL, NULL, NULL},
    {R_EXTCNF_CTRL, R_PHY_CTRL, 0, ALL, NULL, NULL},
    {R_PBA, R_PBA, 0x00140014, ALL, NULL, NULL},
    {R_PBS, R_PBS, 0x28, ALL, NULL, NULL},
    {R_EEMNGCTL, R_EEMNGCTL, 0x00040000, 0, NULL, NULL}, /* configuration is done */
    {R_EEWR, R_EEWR, 2, ALL, NULL, write_eewr},
    {R_FLOP, R_FLOP, 0, ALL, NULL, NULL},
    {R_PBA_ECC, R_PBA_ECC, 0, ALL, NULL, NULL},
    {R_ERT, R_ERT, 0, ALL, NULL, NULL},
    {R_FCRTL, R_FCRTL, 0, ALL, NULL, NULL},
    {R_FCRTH, R_FCRTH, 0, ALL, NULL, NULL},
    {R_PSRCTL, R_PSRCTL, 0x00040402, 0x3f3f3f7f, NULL, NULL},
    {R_RDFH, R_RDFH + 0x20, 0, ALL, NULL, NULL},
    RING(R_RX_RING, 0x00010000, write_rdt),
    RING(R_RX_RING + 0x100, 0x00010000, write_rdt),
    {R_RSRPD, R_RSRPD, 0, 0xfff, NULL, NULL},
    {R_RAID, R_RAID, 0, 0xffff, NULL, NULL},
    {R_TDFH, R_TDFH + 0x20, 0, ALL, NULL, NULL},
    RING(R_TX_RING, 0, write_tdt),
    RING(R_TX_RING + 0x100, 0, write_tdt),
    {R_STATISTICS, R_STATISTICS + 4 * (E1000E_STATISTICS - 1), 0, 0, read_counter, NULL},
    {R_RXCSUM, R_RXCSUM, 0, 0x37ff, NULL, NULL},
    {R_RFCTL, R_RFCTL, 0, ALL, NULL, NULL},
    {R_MTA, R_MTA + 4 * 127, 0, ALL, NULL, NULL},
    {R_RA, R_RA + 4 * 31, 0, ALL, NULL, NULL},
    {R_VFTA, R_VFTA + 4 * 127, 0, ALL, NULL, NULL},
    {R_WUC, R_WUC + 8, 0, ALL, NULL, NULL},
    {R_MRQC, R_MRQC, 0, ALL, NULL, NULL},
    {R_MANC, 0x5bfc - 0x100, 0, ALL, NULL, NULL}, /* manageability and wake-up patterns */
    {R_GCR, R_FACTPS - 4, 0, ALL, NULL, NULL},
    {R_FACTPS, R_FACTPS, 0, 0, NULL, NULL},
    {R_SWSM, R_SWSM, 0, 3, read_swsm, NULL},
    {R_FWSM, R_FWSM, 0, 0, NULL, NULL},
    {R_FWSM + 4, 0x5bfc, 0, ALL, NULL, NULL}, /* SWSM2, SW_FW_SYNC, GCR2 */
    {R_RETA, R_RETA + 4 * 31, 0, ALL, NULL, NULL},
    {R_RSSRK, R_RSSRK + 4 * 9, 0, ALL, NULL, NULL},
    {0x5f00, 0x5f50, 0, ALL, NULL, NULL}, /* flexible filters' lengths, CRC offset */
    {0x9000, 0x9bfc, 0, ALL, NULL, NULL}, /* flexible filters */
    {R_SYSTIML, R_SYSTIMH, 0, 0, read_systim, write_systim},
    {R_TIMINCA, R_TIMINCA, 0, ALL, NULL, write_timinca},
    {R_TSYNC, 0xb63c, 0, ALL, NULL, NULL},
};

#define ROWS (sizeof(rows) / sizeof(rows[0]))

static const struct register_row *find(unsigned offset)
{
	unsigned low = 0, high = ROWS;

	while (low < high) {
		unsigned middle = (low + high) / 2;

		if (rows[middle].first <= offset)
			low = middle + 1;
		else
			high = middle;
	}
	return low && offset <= rows[low - 1].last ? &rows[low - 1] : NULL;
}

uint32_t e1000e_read(struct e1000e *card, unsigned offset)
{
	const struct register_row *row = find(offset & ~3u);

	if (!row)
		return 0;
	return row->read ? row->read(card, offset & ~3u) : *e1000e_reg(card, offset);
}

void e1000e_write(struct e1000e *card, unsigned offset, uint32_t value)
{
	const struct register_row *row = find(offset);

	if (!row)
		return;
	if (row->write)
		row->write(card, offset, row->writable ? value & row->writable : value);
	else if (row->writable)
		*e1000e_reg(card, offset) =
		    (*e1000e_reg(card, offset) & ~row->writable) | (value & row->writable);
}

/* ---- counters ---- */

void e1000e_count(struct e1000e *card, unsigned counter, uint32_t by)
{
	uint32_t *at = e1000e_reg(card, R_STATISTICS + counter);

	*at = *at > ALL - by ? ALL : *at + by;
}

void e1000e_count64(struct e1000e *card, unsigned counter, uint64_t by)
{
	uint32_t *low = e1000e_reg(card, R_STATISTICS + counter);
	uint64_t sum = ((uint64_t)low[1] << 32 | low[0]) + by;

	low[0] = (uint32_t)sum;
	low[1] = (uint32_t)(sum >> 32);
}

void e1000e_count_size(struct e1000e *card, unsigned first, size_t size)
{
	static const uint16_t limits[] = {64, 127, 255, 511, 1023};
	unsigned place = 0;

	while (place < 5 && size > limits[place])
		place++;
	e1000e_count(card, first + 4 * place, 1);
}

/* ---- the bus ---- */

static uint64_t memory_read(void *device, uint64_t offset, unsigned size)
{
	return e1000e_read(device, (unsigned)offset) >> (8 * (offset & 3));
}

/* "All register accesses are 32 bits wide." */
static void memory_write(void *device, uint64_t offset, unsigned size, uint64_t value)
{
	if (size == 4 && !(offset & 3))
		e1000e_write(device, (unsigned)offset, (uint32_t)value);
}

/* "I/O-Mapped Access": IOADDR names a register, IODATA is it. */
static uint64_t io_read(void *device, uint64_t offset, unsigned size)
{
	struct e1000e *card = device;

	if (size != 4)
		return 0;
	if (offset == IO_ADDRESS)
		return card->io_address;
	return offset == IO_DATA && card->io_address < E1000E_REGISTERS ? e1000e_read(card, card->io_address)
	                                                                : 0;
}

static void io_write(void *device, uint64_t offset, unsigned size, uint64_t value)
{
	struct e1000e *card = device;

	if (size != 4)
		return;
	if (offset == IO_ADDRESS)
		card->io_address = (uint32_t)value & ~3u;
	else if (offset == IO_DATA && card->io_address < E1000E_REGISTERS)
		e1000e_write(card, card->io_address, (uint32_t)value);
}

static const struct bus_ops memory_ops = {4, memory_read, memory_write};
static const struct bus_ops io_ops = {4, io_read, io_write};

/* Message interrupts were switched on or off, or bus mastering. */
static void config_written(void *device, unsigned offset, unsigned size)
{
	struct e1000e *card = device;

	e1000e_interrupt_update(card);
	if (offset <= 4 && offset + size > 4) {
		receive_again(card);
		e1000e_transmit(card);
	}
}

/* ---- the network ---- */

static void port_sendable(void *context)
{
	struct e1000e *card = context;

	for (unsigned queue = 0; queue < E1000E_QUEUES; queue++)
		card->transmit[queue].refused = false;
	e1000e_transmit(card);
}

static void port_link_changed(void *context, bool up)
{
	e1000e_cause(context, CAUSE_LSC);
}

static const struct net_port_ops port_ops = {e1000e_receive, e1000e_received, port_sendable,
                                             port_link_changed};

/* ---- life ---- */

/* "Initialization of Statistics" and "Software Reset": all but the PHY; the address comes from the NVM again.
 */
static void reset_mac(struct e1000e *card)
{
	uint32_t *ra = e1000e_reg(card, R_RA);

	memset(card->reg, 0, sizeof(card->reg));
	for (unsigned i = 0; i < ROWS; i++)
		for (unsigned offset = rows[i].first; offset <= rows[i].last; offset += 4)
			*e1000e_reg(card, offset) = rows[i].reset;
	ra[0] = card->nvm[0] | (uint32_t)card->nvm[1] << 16;
	ra[1] = card->nvm[2] | 0x80000000u;
	for (unsigned queue = 0; queue < E1000E_QUEUES; queue++) {
		struct e1000e_transmit *transmit = &card->transmit[queue];

		transmit->size = 0;
		transmit->begun = transmit->bad = transmit->refused = false;
		memset(transmit->context, 0, sizeof(transmit->context));
	}
	card->told = card->received = 0;
	memset(card->quiet_until, 0, sizeof(card->quiet_until));
	timer_cancel(&card->throttle_timer);
	timer_cancel(&card->transmit_timer);
	card->throttle_at = TIMER_NEVER;
	set_systim(card, 0);
	card->receive_waits = true; /* what the network holds is thrown away */
	receive_again(card);
	e1000e_interrupt_update(card);
}

static void e1000e_reset(void *state)
{
	struct e1000e *card = state;

	e1000e_nvm_init(card, card->machine->config.net[card->index].mac);
	e1000e_phy_reset(card);
	card->io_address = 0;
	pci_reset(&card->pci);
	reset_mac(card);
}

static void e1000e_destroy(void *state)
{
	struct e1000e *card = state;

	net_port_close(card->port);
	free(card->rom);
	free(card);
}

static void setup_pci(struct e1000e *card, bool rom)
{
	static const struct pci_identity identity = {
	    .vendor = VENDOR_INTEL,
	    .device = DEVICE_82574L,
	    .subsystem_vendor = VENDOR_INTEL,
	    .class_code = 0x020000, /* an Ethernet controller */
	    .interrupt_pin = 1,
	};
	size_t rom_size;
	unsigned pm;

	pci_init(&card->pci, card->name, card, &identity);
	card->pci.config_written = config_written;
	pci_bar_memory(&card->pci, BAR_MEMORY, E1000E_REGISTERS, false, &memory_ops);
	pci_bar_io(&card->pci, BAR_IO, IO_SIZE, &io_ops);
	card->rom = rom ? net_port_rom("efi-e1000e.rom", VENDOR_INTEL, DEVICE_82574L, &rom_size) : NULL;
	if (card->rom)
		pci_bar_ram(&card->pci, PCI_BARS, rom_size, card->rom, true);
	pm = pci_add_capability(&card->pci, CAPABILITY_PM, PM_SIZE);
	card->pci.config[pm + 2] = PM_VERSION;
	card->pci.writable[pm + PM_CONTROL] = 3; /* the power state */
	pci_add_msi(&card->pci);
	pci_add_express(&card->pci);
	pci_add_msix(&card->pci, E1000E_VECTORS, BAR_MSIX);
}

int e1000e_create(struct machine *machine, unsigned index)
{
	const struct net_config *config = &machine->config.net[index];
	struct e1000e *card = calloc(1, sizeof(*card));
	int error;

	if (!card)
		return error_set(ENOMEM, "out of memory");
	card->machine = machine;
	card->index = index;
	snprintf(card->name, sizeof(card->name), "e1000e%u", index);
	setup_pci(card, config->rom);
	error = timer_init(&card->throttle_timer, &machine->timers, e1000e_throttle_expired, card);
	if (!error)
		error = timer_init(&card->transmit_timer, &machine->timers, e1000e_transmit_again, card);
	if (!error)
		error = net_port_open(&card->port, machine, config, &port_ops, card);
	if (!error)
		error = machine_add_device(machine, card->name, card, e1000e_reset, e1000e_destroy);
	if (error) {
		e1000e_destroy(card);
		return error;
	}
	error = pci_add(machine, &card->pci, PCI_SLOT_ANY, 0);
	return error ? error : net_card_boot_path(machine, index, card->pci.slot);
}

/*
 * Intel 82574L, the parts that share one card: registers (e1000e.c), PHY and NVM (e1000e_phy.c), interrupts
 * (e1000e_interrupt.c), transmit and receive. All under the machine lock. Rules: Intel 82574 GbE Controller
 * Family Datasheet; section titles in comments are its own. Register names are the datasheet's.
 */
#ifndef NESTOR_DEVICE_E1000E_H
#define NESTOR_DEVICE_E1000E_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "device/network/net_port.h"
#include "device/pci/pci.h"
#include "machine/timer.h"

#define E1000E_REGISTERS  0x20000 /* bytes of BAR 0 */
#define E1000E_QUEUES     2
#define E1000E_VECTORS    5
#define E1000E_NVM_WORDS  128
#define E1000E_PHY_PAGES  8
#define E1000E_FRAME_MAX  9234 /* "Long Packet Enable": of received frames, with FCS */
#define E1000E_STATISTICS 74   /* registers from CRCERRS to ICRXOC */

/* ---- registers, by offset ---- */

#define R_CTRL        0x0000
#define R_STATUS      0x0008
#define R_EECD        0x0010
#define R_EERD        0x0014
#define R_CTRL_EXT    0x0018
#define R_FLA         0x001c
#define R_MDIC        0x0020
#define R_FCAL        0x0028
#define R_FCAH        0x002c
#define R_FCT         0x0030
#define R_VET         0x0038
#define R_ICR         0x00c0
#define R_ITR         0x00c4
#define R_ICS         0x00c8
#define R_IMS         0x00d0
#define R_IMC         0x00d8
#define R_EIAC        0x00dc
#define R_IAM         0x00e0
#define R_IVAR        0x00e4
#define R_EITR        0x00e8 /* five */
#define R_RCTL        0x0100
#define R_FCTTV       0x0170
#define R_TCTL        0x0400
#define R_TCTL_EXT    0x0404
#define R_TIPG        0x0410
#define R_AIT         0x0458
#define R_LEDCTL      0x0e00
#define R_EXTCNF_CTRL 0x0f00
#define R_PHY_CTRL    0x0f10
#define R_PBA         0x1000
#define R_PBS         0x1008
#define R_EEMNGCTL    0x1010
#define R_EEWR        0x102c
#define R_FLOP        0x103c
#define R_PBA_ECC     0x1100
#define R_ERT         0x2008
#define R_FCRTL       0x2160
#define R_FCRTH       0x2168
#define R_PSRCTL      0x2170
#define R_RDFH        0x2410 /* to RDFPC */
#define R_RX_RING     0x2800 /* of queue 0; +100h: queue 1 */
#define R_RSRPD       0x2c00
#define R_RAID        0x2c08
#define R_TDFH        0x3410 /* to TDFPC */
#define R_TX_RING     0x3800
#define R_STATISTICS  0x4000
#define R_RXCSUM      0x5000
#define R_RFCTL       0x5008
#define R_MTA         0x5200
#define R_RA          0x5400
#define R_VFTA        0x5600
#define R_WUC         0x5800
#define R_MRQC        0x5818
#define R_MANC        0x5820
#define R_RETA        0x5c00
#define R_RSSRK       0x5c80
#define R_GCR         0x5b00
#define R_FACTPS      0x5b30
#define R_SWSM        0x5b50
#define R_FWSM        0x5b54
#define R_SYSTIML     0xb600
#define R_SYSTIMH     0xb604
#define R_TIMINCA     0xb608
#define R_TSYNC       0xb60c

/* In a ring, from its first register. */
#define RING_BAL  0x00
#define RING_BAH  0x04
#define RING_LEN  0x08
#define RING_HEAD 0x10
#define RING_TAIL 0x18
#define RING_RDTR 0x20 /* TIDV */
#define RING_DCTL 0x28
#define RING_RADV 0x2c /* TADV */
#define RING_TARC 0x40

/* ---- bits ---- */

#define CTRL_FD                 0x00000001u
#define CTRL_GIO_MASTER_DISABLE 0x00000004u
#define CTRL_SLU                0x00000040u
#define CTRL_RST                0x04000000u
#define CTRL_VME                0x40000000u
#define CTRL_PHY_RST            0x80000000u

#define STATUS_FD                0x00000001u
#define STATUS_LU                0x00000002u
#define STATUS_SPEED_1000        0x00000080u
#define STATUS_ASDV_1000         0x00000200u
#define STATUS_PHYRA             0x00000400u
#define STATUS_GIO_MASTER_ENABLE 0x00080000u

#define CTRL_EXT_EE_RST 0x00002000u
#define CTRL_EXT_EIAME  0x01000000u
#define CTRL_EXT_IAME   0x08000000u

#define CAUSE_TXDW     0x00000001u
#define CAUSE_TXQE     0x00000002u
#define CAUSE_LSC      0x00000004u
#define CAUSE_RXDMT0   0x00000010u
#define CAUSE_RXO      0x00000040u
#define CAUSE_RXT0     0x00000080u
#define CAUSE_MDAC     0x00000200u
#define CAUSE_SRPD     0x00010000u
#define CAUSE_ACK      0x00020000u
#define CAUSE_MNG      0x00040000u
#define CAUSE_RXQ0     0x00100000u
#define CAUSE_TXQ0     0x00400000u
#define CAUSE_OTHER    0x01000000u
#define CAUSE_ASSERTED 0x80000000u
#define CAUSES_OTHER   (CAUSE_LSC | CAUSE_RXO | CAUSE_MDAC | CAUSE_SRPD | CAUSE_ACK | CAUSE_MNG)
#define CAUSES         0x01f783f7u

#define RCTL_EN      0x00000002u
#define RCTL_UPE     0x00000008u
#define RCTL_MPE     0x00000010u
#define RCTL_LPE     0x00000020u
#define RCTL_LBM     0x00000040u
#define RCTL_DTYP_PS 0x00000400u
#define RCTL_BAM     0x00008000u
#define RCTL_VFE     0x00040000u
#define RCTL_BSEX    0x02000000u
#define RCTL_SECRC   0x04000000u

#define RFCTL_EXTEN 0x00008000u

#define RXCSUM_IPOFLD 0x00000100u
#define RXCSUM_TUOFLD 0x00000200u
#define RXCSUM_PCSD   0x00002000u

#define TCTL_EN 0x00000002u

/* ---- PHY ---- */

#define PHY_BMCR      0
#define PHY_BMSR      1
#define BMCR_RESET    0x8000u
#define BMCR_LOOPBACK 0x4000u
#define BMCR_DOWN     0x0800u
#define BMCR_RESTART  0x0200u

/* What a transmit queue has of the frame that it puts together. */
struct e1000e_transmit {
	uint8_t frame[NET_FRAME_MAX];
	size_t size;
	bool begun, bad;  /* bad: too long, dropped at its end */
	uint32_t command; /* of its first descriptor: what counts for the frame */
	uint8_t options;  /* POPTS of its first data descriptor, CSS of a legacy one */
	uint16_t special;
	uint32_t context[4]; /* the last context descriptor */
	bool refused;        /* the network has no room now */
};

struct e1000e {
	struct pci_function pci;
	struct machine *machine;
	struct net_port *port;
	void *rom;
	char name[16];
	unsigned index; /* in machine_config.net */
	uint32_t reg[E1000E_REGISTERS / 4];
	uint16_t nvm[E1000E_NVM_WORDS];
	uint16_t phy[E1000E_PHY_PAGES][32];
	unsigned phy_page;
	uint32_t told;                        /* causes that an interrupt has told of */
	uint64_t quiet_until[E1000E_VECTORS]; /* ITR, EITR: no interrupt before, ns */
	struct machine_timer throttle_timer, transmit_timer;
	uint64_t throttle_at; /* what throttle_timer is armed for */
	struct e1000e_transmit transmit[E1000E_QUEUES];
	bool receive_waits; /* a frame waits for descriptors */
	uint32_t received;  /* causes of the frames since the last interrupt */
	uint64_t systim_base, systim_since;
	uint32_t systim_high;
	uint32_t io_address; /* IOADDR */
};

static inline uint32_t *e1000e_reg(struct e1000e *card, unsigned offset)
{
	return &card->reg[offset / 4];
}

/* e1000e.c */
uint32_t e1000e_read(struct e1000e *card, unsigned offset);
void e1000e_write(struct e1000e *card, unsigned offset, uint32_t value);
/* The counters' offsets, from R_STATISTICS. Counters stop at their highest value. */
void e1000e_count(struct e1000e *card, unsigned counter, uint32_t by);
void e1000e_count64(struct e1000e *card, unsigned counter, uint64_t by);
/* Counts of a good frame by its size (with FCS): first: PRC64 or PTC64. */
void e1000e_count_size(struct e1000e *card, unsigned first, size_t size);

/* e1000e_phy.c */
void e1000e_nvm_init(struct e1000e *card, const uint8_t *mac);
void e1000e_phy_reset(struct e1000e *card);
uint32_t e1000e_mdic(struct e1000e *card, uint32_t value);
uint32_t e1000e_eerd(struct e1000e *card, uint32_t value);
void e1000e_eewr(struct e1000e *card, uint32_t value);
bool e1000e_link(struct e1000e *card);

/* e1000e_interrupt.c */
void e1000e_cause(struct e1000e *card, uint32_t causes);
void e1000e_interrupt_update(struct e1000e *card);
uint32_t e1000e_read_icr(struct e1000e *card);
void e1000e_write_icr(struct e1000e *card, uint32_t value);
void e1000e_throttle_expired(void *card);

/* e1000e_transmit.c */
void e1000e_transmit(struct e1000e *card);
void e1000e_transmit_again(void *card);

/* e1000e_receive.c: as struct net_port_ops says. */
bool e1000e_receive(void *card, const struct net_frame *frame);
void e1000e_received(void *card);
/* One of our own frames, in loopback: lost where there is no room. */
void e1000e_receive_own(struct e1000e *card, const uint8_t *data, size_t size);

#endif

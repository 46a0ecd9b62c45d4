/*
 * The internal PHY behind MDIC, and the NVM behind EERD and EEWR. The PHY's registers 0-15 are those of IEEE
 * 802.3 clause 22, the others are paged; link comes up at once, at 1000 Mb/s full duplex. The NVM holds what
 * drivers look at, with its checksum; what they write to it is forgotten at the end.
 */
#include "device/network/e1000e.h"

#include <string.h>

#define MDIC_REGISTER(value) ((value) >> 16 & 31)
#define MDIC_PHY(value)      ((value) >> 21 & 31)
#define MDIC_WRITE           0x04000000u
#define MDIC_READ            0x08000000u
#define MDIC_READY           0x10000000u
#define MDIC_INTERRUPT       0x20000000u
#define MDIC_ERROR           0x40000000u

#define PHY_ADDRESS 1
#define PHY_ID1     2
#define PHY_ID2     3
#define PHY_PAGE    22
#define PHY_PAGED   16 /* the first paged register */

#define BMSR_COMPLETE 0x0020u
#define BMSR_LINK     0x0004u

#define STATUS1000_LINK 0x3c00u /* both receivers work; the partner does 1000BASE-T */
#define SPECIFIC_LINK   0xac00u /* 1000 Mb/s, full duplex, resolved, link */
#define PHY_STATUS1000  10
#define PHY_SPECIFIC    17

#define NVM_START    0x1u
#define NVM_DONE     0x2u
#define NVM_CHECKSUM 0x3f
#define NVM_SUM      0xbaba

/* ---- NVM ---- */

/* "Non-Volatile Memory Map" */
void e1000e_nvm_init(struct e1000e *card, const uint8_t *mac)
{
	static const struct {
		uint8_t word;
		uint16_t value;
	} words[] = {
	    {0x03, 0x0420},                 /* compatibility */
	    {0x05, 0x2010},                 /* image version 2.1.0 */
	    {0x0a, 0x4b08},                 /* initialization control 1 */
	    {0x0b, 0x0000},                 /* subsystem ID */
	    {0x0c, 0x8086},                 /* subsystem vendor ID */
	    {0x0d, 0x10d3},                 /* device ID */
	    {0x0e, 0x8086}, {0x0f, 0x1064}, /* initialization control 2: no manageability */
	    {0x10, 0xffff},                 /* software defined pins */
	    {0x37, 0xffff},                 /* no alternate address */
	    {0x38, 0xffff},
	};
	uint16_t sum = 0;

	memset(card->nvm, 0, sizeof(card->nvm));
	for (unsigned i = 0; i < sizeof(words) / sizeof(words[0]); i++)
		card->nvm[words[i].word] = words[i].value;
	for (unsigned i = 0; i < NET_MAC_SIZE / 2; i++)
		card->nvm[i] = (uint16_t)(mac[2 * i] | mac[2 * i + 1] << 8);
	/* "Checksum Word Calculation" */
	for (unsigned i = 0; i < NVM_CHECKSUM; i++)
		sum = (uint16_t)(sum + card->nvm[i]);
	card->nvm[NVM_CHECKSUM] = (uint16_t)(NVM_SUM - sum);
}

uint32_t e1000e_eerd(struct e1000e *card, uint32_t value)
{
	unsigned word = value >> 2 & 0x3fff;

	if (!(value & NVM_START))
		return value & ~NVM_DONE;
	return (uint32_t)(word < E1000E_NVM_WORDS ? card->nvm[word] : 0xffff) << 16 | word << 2 | NVM_DONE;
}

void e1000e_eewr(struct e1000e *card, uint32_t value)
{
	unsigned word = value >> 2 & 0x3fff;

	if (value & NVM_START && word < E1000E_NVM_WORDS)
		card->nvm[word] = (uint16_t)(value >> 16);
	*e1000e_reg(card, R_EEWR) = NVM_DONE;
}

/* ---- PHY ---- */

void e1000e_phy_reset(struct e1000e *card)
{
	static const uint16_t first[] = {
	    [PHY_BMCR] = 0x1140, [PHY_BMSR] = 0x7949, [PHY_ID1] = 0x0141, [PHY_ID2] = 0x0cb1,
	    [4] = 0x0de1, /* advertised: 10 and 100, pause */
	    [5] = 0xcde1, /* what the partner does: the same */
	    [6] = 0x000d,        [7] = 0x2001,        [9] = 0x0e00,       [15] = 0x3000,
	    [16] = 0x0068,       [20] = 0x0d60,       [26] = 0x0080,      [31] = 0,
	};

	memset(card->phy, 0, sizeof(card->phy));
	memcpy(card->phy[0], first, sizeof(first));
	card->phy_page = 0;
}

bool e1000e_link(struct e1000e *card)
{
	return net_port_link_up(card->port) && !(card->phy[0][PHY_BMCR] & BMCR_DOWN);
}

static uint16_t phy_read(struct e1000e *card, unsigned number)
{
	bool link = e1000e_link(card);

	if (number == PHY_PAGE)
		return (uint16_t)card->phy_page;
	if (number >= PHY_PAGED && card->phy_page)
		return card->phy_page < E1000E_PHY_PAGES ? card->phy[card->phy_page][number] : 0;
	switch (number) {
	case PHY_BMSR:
		return card->phy[0][PHY_BMSR] | (link ? BMSR_COMPLETE | BMSR_LINK : 0);
	case PHY_STATUS1000:
		return link ? STATUS1000_LINK : 0;
	case PHY_SPECIFIC:
		return link ? SPECIFIC_LINK : 0;
	default:
		return card->phy[0][number];
	}
}

static void write_control(struct e1000e *card, uint16_t value)
{
	bool was_up = e1000e_link(card);

	if (value & BMCR_RESET)
		e1000e_phy_reset(card);
	else
		card->phy[0][PHY_BMCR] = value & (uint16_t)~BMCR_RESTART;
	/* Negotiation takes the link down and up. */
	if (value & (BMCR_RESET | BMCR_RESTART) || was_up != e1000e_link(card))
		e1000e_cause(card, CAUSE_LSC);
}

static void phy_write(struct e1000e *card, unsigned number, uint16_t value)
{
	if (number == PHY_PAGE) {
		card->phy_page = value;
	} else if (number >= PHY_PAGED) {
		if (card->phy_page < E1000E_PHY_PAGES)
			card->phy[card->phy_page][number] = value;
	} else if (number == PHY_BMCR) {
		write_control(card, value);
	} else if (number != PHY_BMSR && number != PHY_ID1 && number != PHY_ID2 && number != 5 &&
	           number != 6) {
		card->phy[0][number] = value;
	}
}

/* "MDI Control Register": the new contents. */
uint32_t e1000e_mdic(struct e1000e *card, uint32_t value)
{
	unsigned number = MDIC_REGISTER(value);

	value &= ~(MDIC_READY | MDIC_ERROR);
	if (MDIC_PHY(value) != PHY_ADDRESS)
		value |= MDIC_ERROR;
	else if (value & MDIC_READ)
		value = (value & ~0xffffu) | phy_read(card, number);
	else if (value & MDIC_WRITE)
		phy_write(card, number, (uint16_t)value);
	if (value & MDIC_INTERRUPT)
		e1000e_cause(card, CAUSE_MDAC);
	return value | MDIC_READY;
}

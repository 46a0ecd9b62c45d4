/*
 * Causes, masks, and what is told of them: by INTx as a level, by MSI and MSI-X as messages, one for each
 * cause that becomes visible, and none sooner after the last than the throttle registers allow. Rules:
 * "Interrupts".
 */
#include "device/network/e1000e.h"

#include "machine/machine.h"

#define THROTTLE_NS  256 /* unit of ITR and EITR */
#define QUEUE_CAUSES 5   /* RXQ0, RXQ1, TXQ0, TXQ1, other: bits 20 to 24, INT_Alloc 0 to 4 */
#define FIRST_CAUSE  20
#define IVAR_VALID   8

static uint32_t visible(struct e1000e *card)
{
	return *e1000e_reg(card, R_ICR) & *e1000e_reg(card, R_IMS);
}

/* May `vector` tell now? Else the timer will see to it. throttle: ITR's or EITR's contents. */
static bool may_tell(struct e1000e *card, unsigned vector, uint32_t throttle)
{
	uint64_t now = machine_now(card->machine);

	if (now < card->quiet_until[vector]) {
		if (card->quiet_until[vector] < card->throttle_at) {
			card->throttle_at = card->quiet_until[vector];
			timer_arm(&card->throttle_timer, card->throttle_at);
		}
		return false;
	}
	card->quiet_until[vector] = now + (uint64_t)(throttle & 0xffff) * THROTTLE_NS;
	return true;
}

/* "MSI-X and Vectors": IVAR says which vector a cause has. */
static void update_msix(struct e1000e *card)
{
	for (unsigned i = 0; i < QUEUE_CAUSES; i++) {
		uint32_t cause = 1u << (FIRST_CAUSE + i), own = *e1000e_reg(card, R_EIAC) & cause;
		unsigned allocated = *e1000e_reg(card, R_IVAR) >> (4 * i) & 15, vector = allocated & 7;

		if (!(visible(card) & cause & ~card->told) || !(allocated & IVAR_VALID) ||
		    vector >= E1000E_VECTORS ||
		    !may_tell(card, vector, *e1000e_reg(card, R_EITR + 4 * vector)))
			continue;
		pci_send_msix(&card->pci, vector);
		card->told |= cause;
		/* "Interrupt Auto Clear Register", and auto mask */
		*e1000e_reg(card, R_ICR) &= ~own;
		if (*e1000e_reg(card, R_CTRL_EXT) & CTRL_EXT_EIAME)
			*e1000e_reg(card, R_IMS) &= ~own;
	}
}

void e1000e_interrupt_update(struct e1000e *card)
{
	card->told &= visible(card);
	if (pci_msix_enabled(&card->pci)) {
		update_msix(card);
	} else if (visible(card) & ~card->told && may_tell(card, 0, *e1000e_reg(card, R_ITR))) {
		pci_send_msi(&card->pci);
		card->told = visible(card);
	}
	card->told &= visible(card);
	if (!pci_msix_enabled(&card->pci))
		pci_set_intx(&card->pci, card->told != 0);
}

void e1000e_throttle_expired(void *context)
{
	struct e1000e *card = context;

	card->throttle_at = TIMER_NEVER;
	e1000e_interrupt_update(card);
}

void e1000e_cause(struct e1000e *card, uint32_t causes)
{
	causes &= CAUSES;
	if (causes & CAUSES_OTHER && pci_msix_enabled(&card->pci))
		causes |= CAUSE_OTHER;
	/* A message tells of every event, also where the cause is still there. */
	if (pci_msix_enabled(&card->pci))
		card->told &= ~(causes & ~CAUSE_OTHER);
	*e1000e_reg(card, R_ICR) |= causes;
	e1000e_interrupt_update(card);
}

/* "Interrupt Cause Read Register": cleared where nothing is masked in, or an interrupt was asserted. */
uint32_t e1000e_read_icr(struct e1000e *card)
{
	uint32_t value = *e1000e_reg(card, R_ICR);
	bool asserted = visible(card) != 0;

	if (asserted)
		value |= CAUSE_ASSERTED;
	if (asserted && *e1000e_reg(card, R_CTRL_EXT) & CTRL_EXT_IAME)
		*e1000e_reg(card, R_IMS) &= ~*e1000e_reg(card, R_IAM);
	if (asserted || !*e1000e_reg(card, R_IMS))
		*e1000e_reg(card, R_ICR) = 0;
	e1000e_interrupt_update(card);
	return value;
}

void e1000e_write_icr(struct e1000e *card, uint32_t value)
{
	if (*e1000e_reg(card, R_CTRL_EXT) & CTRL_EXT_IAME && visible(card))
		*e1000e_reg(card, R_IMS) &= ~*e1000e_reg(card, R_IAM);
	*e1000e_reg(card, R_ICR) &= ~value;
	e1000e_interrupt_update(card);
}

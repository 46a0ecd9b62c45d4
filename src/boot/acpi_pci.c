/*
 * The PCI root bridge in the DSDT: its windows, the interrupts of its slots for both interrupt models, the router's
 * links, and _OSC (ACPI Specification, "_PRT (PCI Routing Table)", "_PIC Method", "PCI Interrupt Link Devices"; PCI
 * Firmware Specification, "_OSC Interface for PCI Host Bridge Devices").
 *
 * With 8259s a slot's pin goes to one of eight links, LNKA … LNKH, which are the router's registers in the
 * configuration space of the LPC bridge; with an IOAPIC it is an input from 16 on, and no link is involved.
 */
#include <stdio.h>

#include "boot/loader.h"

#define SLOTS         32
#define PINS          4
#define LINKS         8
#define FIRST_GSI     16
#define LPC_ADDRESS   0x001f0000 /* device 1Fh, function 0 */
#define ROUTER_AT     0x60       /* PIRQA_ROUT … PIRQD_ROUT, and PIRQE_ROUT … 8 bytes on */
#define ROUTER_SIZE   12
#define ROUTE_OFF     0x80
#define LINK_IRQS     (1u << 5 | 1u << 10 | 1u << 11) /* ISA interrupts that nothing else has */
#define OSC_CONTROL   0x1c       /* what an operating system may have: PME, AER, the PCIe capability */
#define OSC_MASKED    0x10
#define OSC_REVISION  0x08
#define OSC_UUID      0x04

/* The link of a slot's pin (0: INTA): as the machine wires them, see pci_pirq(). */
static unsigned link_of(unsigned slot, unsigned pin)
{
	return slot <= 24 ? 4 + ((slot + pin) & 3) : pin & 3;
}

static void link_name(char name[5], const char *prefix, unsigned link)
{
	snprintf(name, 5, "%.3s%c", prefix, 'A' + (int)(link % LINKS));
}

/* Package { address, pin, source, index }: source is a link, or 0 where index is the IOAPIC's input. */
static void add_routes(struct aml *aml, const char *path, bool links)
{
	aml_name(aml, path);
	aml_package(aml, SLOTS * PINS);
	for (unsigned i = 0; i < SLOTS * PINS; i++) {
		unsigned slot = i / PINS, pin = i % PINS, link = link_of(slot, pin);
		char name[5];

		link_name(name, "LNK", link);
		aml_package(aml, 4);
		aml_integer(aml, (uint64_t)slot << 16 | 0xffff);
		aml_integer(aml, pin);
		if (links)
			aml_path(aml, name);
		else
			aml_integer(aml, 0);
		aml_integer(aml, links ? 0 : FIRST_GSI + link);
		aml_end(aml);
	}
	aml_end(aml);
}

static void add_routing(struct aml *aml)
{
	aml_name(aml, "\\PICF"), aml_integer(aml, 0);
	aml_method(aml, "\\_PIC", 1);
	aml_op(aml, AML_STORE), aml_op(aml, AML_ARG0), aml_path(aml, "\\PICF");
	aml_end(aml);
	add_routes(aml, "PRTP", true);
	add_routes(aml, "PRTA", false);
	aml_method(aml, "_PRT", 0);
	aml_if(aml), aml_path(aml, "\\PICF");
	aml_op(aml, AML_RETURN), aml_path(aml, "PRTA");
	aml_end(aml);
	aml_op(aml, AML_RETURN), aml_path(aml, "PRTP");
	aml_end(aml);
}

/* The router's registers, PRQA … PRQH, as a field of the LPC bridge's configuration space. */
static void add_router(struct aml *aml)
{
	char name[5];

	aml_device(aml, "LPC");
	aml_name(aml, "_ADR"), aml_integer(aml, LPC_ADDRESS);
	aml_region(aml, "ROUT", AML_REGION_PCI_CONFIG, ROUTER_AT, ROUTER_SIZE);
	aml_field(aml, "ROUT");
	for (unsigned link = 0; link < LINKS; link++) {
		link_name(name, "PRQ", link);
		if (link == 4)
			aml_field_skip(aml, 32);
		aml_field_unit(aml, name, 8);
	}
	aml_end(aml);
	aml_end(aml);
}

/* PCRS (route): a resource template with the interrupt that a router's register names. */
static void add_current_resources(struct aml *aml)
{
	aml_method(aml, "PCRS", 1 | AML_SERIALIZED);
	aml_name(aml, "BUFR");
	aml_resources(aml);
	aml_irq_level(aml, 0);
	aml_resources_end(aml);
	aml_op(aml, AML_CREATE_WORD_FIELD), aml_path(aml, "BUFR"), aml_integer(aml, 1), aml_path(aml, "IRQW");
	aml_op(aml, AML_STORE), aml_integer(aml, 0), aml_path(aml, "IRQW");
	aml_if(aml), aml_op(aml, AML_NOT), aml_op(aml, AML_AND), aml_op(aml, AML_ARG0);
	aml_integer(aml, ROUTE_OFF), aml_op(aml, AML_NO_TARGET);
	aml_op(aml, AML_SHIFT_LEFT), aml_integer(aml, 1);
	aml_op(aml, AML_AND), aml_op(aml, AML_ARG0), aml_integer(aml, 0xf), aml_op(aml, AML_NO_TARGET);
	aml_path(aml, "IRQW");
	aml_end(aml);
	aml_op(aml, AML_RETURN), aml_path(aml, "BUFR");
	aml_end(aml);
}

static void add_link(struct aml *aml, unsigned link)
{
	char name[5], path[20];

	link_name(name, "LNK", link);
	snprintf(path, sizeof(path), "\\_SB.PCI0.LPC.PRQ%c", 'A' + (int)(link % LINKS));
	aml_device(aml, name);
	aml_name(aml, "_HID"), aml_eisa_id(aml, "PNP0C0F");
	aml_name(aml, "_UID"), aml_integer(aml, link);
	aml_name(aml, "_PRS");
	aml_resources(aml);
	aml_irq_level(aml, LINK_IRQS);
	aml_resources_end(aml);
	aml_method(aml, "_STA", 0);
	aml_if(aml), aml_op(aml, AML_AND), aml_path(aml, path), aml_integer(aml, ROUTE_OFF);
	aml_op(aml, AML_NO_TARGET);
	aml_op(aml, AML_RETURN), aml_integer(aml, 0x9);
	aml_end(aml);
	aml_op(aml, AML_RETURN), aml_integer(aml, 0xb);
	aml_end(aml);
	aml_method(aml, "_DIS", 0);
	aml_op(aml, AML_OR), aml_path(aml, path), aml_integer(aml, ROUTE_OFF), aml_path(aml, path);
	aml_end(aml);
	aml_method(aml, "_CRS", 0);
	aml_op(aml, AML_RETURN), aml_path(aml, "PCRS"), aml_path(aml, path);
	aml_end(aml);
	aml_method(aml, "_SRS", 1);
	aml_op(aml, AML_CREATE_WORD_FIELD), aml_op(aml, AML_ARG0), aml_integer(aml, 1), aml_path(aml, "IRQW");
	aml_op(aml, AML_FIND_SET_RIGHT_BIT), aml_path(aml, "IRQW"), aml_op(aml, AML_LOCAL0);
	aml_op(aml, AML_SUBTRACT), aml_op(aml, AML_LOCAL0), aml_integer(aml, 1), aml_path(aml, path);
	aml_end(aml);
	aml_end(aml);
}

/* The operating system asks for control of PCIe features and gets what there is to control. */
static void add_osc(struct aml *aml)
{
	static const uint8_t uuid[16] = {0x5b, 0x4d, 0xdb, 0x33, 0xf7, 0x1f, 0x1c, 0x40,
	                                 0x96, 0x57, 0x74, 0x41, 0xc0, 0x3d, 0xd7, 0x66};

	aml_method(aml, "_OSC", 4);
	aml_op(aml, AML_CREATE_DWORD_FIELD), aml_op(aml, AML_ARG0 + 3), aml_integer(aml, 0);
	aml_path(aml, "CDW1");
	aml_if(aml), aml_op(aml, AML_EQUAL), aml_op(aml, AML_ARG0), aml_buffer(aml, uuid, sizeof(uuid));
	aml_op(aml, AML_CREATE_DWORD_FIELD), aml_op(aml, AML_ARG0 + 3), aml_integer(aml, 8);
	aml_path(aml, "CDW3");
	aml_op(aml, AML_AND), aml_path(aml, "CDW3"), aml_integer(aml, OSC_CONTROL), aml_op(aml, AML_LOCAL0);
	aml_if(aml), aml_op(aml, AML_NOT), aml_op(aml, AML_EQUAL), aml_op(aml, AML_LOCAL0);
	aml_path(aml, "CDW3");
	aml_op(aml, AML_OR), aml_path(aml, "CDW1"), aml_integer(aml, OSC_MASKED), aml_path(aml, "CDW1");
	aml_end(aml);
	aml_op(aml, AML_STORE), aml_op(aml, AML_LOCAL0), aml_path(aml, "CDW3");
	aml_if(aml), aml_op(aml, AML_NOT), aml_op(aml, AML_EQUAL), aml_op(aml, AML_ARG0 + 1), aml_integer(aml, 1);
	aml_op(aml, AML_OR), aml_path(aml, "CDW1"), aml_integer(aml, OSC_REVISION), aml_path(aml, "CDW1");
	aml_end(aml);
	aml_op(aml, AML_RETURN), aml_op(aml, AML_ARG0 + 3);
	aml_end(aml);
	aml_op(aml, AML_OR), aml_path(aml, "CDW1"), aml_integer(aml, OSC_UUID), aml_path(aml, "CDW1");
	aml_op(aml, AML_RETURN), aml_op(aml, AML_ARG0 + 3);
	aml_end(aml);
}

static void add_windows(struct aml *aml, const struct boot_platform *platform)
{
	aml_name(aml, "_CRS");
	aml_resources(aml);
	aml_bus_range(aml, 0, 0xff);
	aml_io(aml, 0xcf8, 8);
	aml_io_window(aml, 0, 0xcf7);
	aml_io_window(aml, 0xd00, 0xffff);
	aml_memory_window(aml, 0xa0000, 0xbffff);
	if (platform->pci_hole < platform->pci_hole_end && platform->pci_hole_end <= 1ull << 32)
		aml_memory_window(aml, (uint32_t)platform->pci_hole, (uint32_t)(platform->pci_hole_end - 1));
	if (platform->pci_high < platform->pci_high_end)
		aml_memory_window64(aml, platform->pci_high, platform->pci_high_end - 1);
	aml_resources_end(aml);
}

void acpi_add_pci(struct aml *aml, const struct boot_platform *platform)
{
	aml_device(aml, "PCI0");
	aml_name(aml, "_HID"), aml_eisa_id(aml, platform->ecam ? "PNP0A08" : "PNP0A03");
	if (platform->ecam)
		aml_name(aml, "_CID"), aml_eisa_id(aml, "PNP0A03");
	aml_name(aml, "_UID"), aml_integer(aml, 0);
	aml_name(aml, "_BBN"), aml_integer(aml, 0);
	add_windows(aml, platform);
	if (platform->ecam)
		add_osc(aml);
	add_router(aml);
	add_current_resources(aml);
	for (unsigned link = 0; link < LINKS; link++)
		add_link(aml, link);
	add_routing(aml);
	aml_end(aml);
}

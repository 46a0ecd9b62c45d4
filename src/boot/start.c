/* The states in which the boot protocols start the first vCPU. */
#include <errno.h>
#include <string.h>

#include "boot/loader.h"
#include "util/error.h"

#define CODE_SELECTOR 0x10
#define DATA_SELECTOR 0x18

#define CR0_PE   (1u << 0)
#define CR0_ET   (1u << 4)
#define CR0_PG   (1u << 31)
#define CR4_PAE  (1u << 5)
#define EFER_LME (1u << 8)
#define EFER_LMA (1u << 10)

#define APIC_BASE_BSP    (1u << 8)
#define APIC_BASE_ENABLE (1u << 11)

/* Flat 4 GiB segments, accessed: SDM, Segment Descriptors. */
#define DESCRIPTOR_DATA   0x00cf93000000ffffull
#define DESCRIPTOR_CODE32 0x00cf9b000000ffffull
#define DESCRIPTOR_CODE64 0x00af9b000000ffffull

static struct segment flat(uint16_t selector, uint32_t rights)
{
	return (struct segment){.selector = selector, .limit = 0xffffffff, .rights = rights};
}

static void start_common(struct loader *loader, uint64_t code, uint32_t code_rights, uint64_t entry)
{
	const uint64_t gdt[] = {0, 0, code, DESCRIPTOR_DATA};
	const uint32_t data_rights = 0x3 | RIGHTS_S | RIGHTS_P | RIGHTS_DB | RIGHTS_G;
	struct vcpu_state *start = &loader->start;

	memcpy(layout_host(&loader->layout, LOW_GDT, sizeof(gdt)), gdt, sizeof(gdt));
	*start = (struct vcpu_state){
	    .rip = entry,
	    .rflags = 2,
	    .gdtr = {.base = LOW_GDT, .limit = sizeof(gdt) - 1},
	    .apic_base = loader->request->platform.local_apic | APIC_BASE_ENABLE | APIC_BASE_BSP,
	};
	start->dr[6] = 0xffff0ff0;
	start->dr[7] = 0x400;
	for (unsigned i = SEG_ES; i <= SEG_GS; i++)
		start->seg[i] = flat(DATA_SELECTOR, data_rights);
	start->seg[SEG_CS] = flat(CODE_SELECTOR, code_rights);
	start->seg[SEG_LDTR] = (struct segment){.limit = 0xffff, .rights = 0x2 | RIGHTS_P};
	start->seg[SEG_TR] = (struct segment){.limit = 0xffff, .rights = 0xb | RIGHTS_P};
}

void start_protected(struct loader *loader, uint64_t entry)
{
	start_common(loader, DESCRIPTOR_CODE32, 0xb | RIGHTS_S | RIGHTS_P | RIGHTS_DB | RIGHTS_G, entry);
	/* As a loader that came from the BIOS leaves it. */
	loader->start.idtr.limit = 0x3ff;
	loader->start.cr0 = CR0_PE | CR0_ET;
}

int start_long(struct loader *loader, uint64_t entry)
{
	const uint64_t present_writable = 3, large = 0x80;
	uint64_t tables, *entry_host;
	int status = loader_place_low(loader, "page tables", NULL, 6 * PAGE_SIZE, PAGE_SIZE, &tables);

	if (status)
		return status;
	entry_host = (uint64_t *)layout_host(&loader->layout, tables, 6 * PAGE_SIZE);
	entry_host[0] = (tables + PAGE_SIZE) | present_writable;
	for (unsigned i = 0; i < 4; i++)
		entry_host[512 + i] = (tables + (2 + i) * PAGE_SIZE) | present_writable;
	for (unsigned i = 0; i < 4 * 512; i++)
		entry_host[2 * 512 + i] = (uint64_t)i << 21 | large | present_writable;
	start_common(loader, DESCRIPTOR_CODE64, 0xb | RIGHTS_S | RIGHTS_P | RIGHTS_L | RIGHTS_G, entry);
	loader->start.cr0 = CR0_PG | CR0_PE | CR0_ET;
	loader->start.cr3 = tables;
	loader->start.cr4 = CR4_PAE;
	loader->start.efer = EFER_LME | EFER_LMA;
	return 0;
}

#define FACS         (LOW_ACPI + ACPI_TABLES_AT)
#define FACS_SIZE    64
#define FACS_WAKING  12 /* Firmware_Waking_Vector: a real-mode address */
#define REAL_MODE_MB (1u << 20)

int boot_wake(const struct guest_memory *memory, uint64_t local_apic, struct vcpu_state *start)
{
	const uint8_t *facs = guest_memory_host(memory, GPA(FACS), FACS_SIZE);
	uint32_t vector = 0;

	if (facs && !memcmp(facs, "FACS", 4))
		memcpy(&vector, facs + FACS_WAKING, sizeof(vector));
	if (!vector || vector >= REAL_MODE_MB)
		return error_set(EINVAL, "the guest went to sleep without a waking vector below 1 MiB");
	*start = (struct vcpu_state){
	    .rip = vector & 0xf,
	    .rflags = 2,
	    .cr0 = CR0_ET,
	    .idtr = {.limit = 0x3ff},
	    .apic_base = local_apic | APIC_BASE_ENABLE | APIC_BASE_BSP,
	};
	start->dr[6] = 0xffff0ff0;
	start->dr[7] = 0x400;
	for (unsigned i = SEG_ES; i <= SEG_GS; i++)
		start->seg[i] = (struct segment){.limit = 0xffff, .rights = 0x3 | RIGHTS_S | RIGHTS_P};
	start->seg[SEG_CS].selector = (uint16_t)(vector >> 4);
	start->seg[SEG_CS].base = vector & ~0xfu;
	start->seg[SEG_LDTR] = (struct segment){.limit = 0xffff, .rights = 0x2 | RIGHTS_P};
	start->seg[SEG_TR] = (struct segment){.limit = 0xffff, .rights = 0xb | RIGHTS_P};
	return 0;
}

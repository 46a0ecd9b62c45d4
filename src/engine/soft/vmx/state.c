/* What VM entry and VM exit have in common: the MSR areas (SDM, Loading MSRs; Saving MSRs). */
#include "engine/soft/cpu/msr.h"
#include "engine/soft/vmx/vmx_local.h"

#define MSR_FS_BASE      0xc0000100
#define MSR_GS_BASE      0xc0000101
#define MSR_BIOS_UPDATE  0x79
#define MSR_SMM_MONITOR  0x9b
#define MSR_SMBASE       0x9e
#define MSR_X2APIC_GROUP 8 /* index[31:8] of the x2APIC's MSRs */

struct msr_entry {
	uint32_t index, reserved;
	uint64_t value;
};
_Static_assert(sizeof(struct msr_entry) == 16, "SDM, Format of an MSR Entry");

static struct msr_entry read_entry(struct cpu *cpu, uint64_t address)
{
	struct msr_entry entry;

	phys_read_block(cpu, GPA(address), &entry, sizeof entry);
	return entry;
}

/* Beyond what WRMSR refuses (SDM, Loading MSRs): base registers, which the segment fields load, x2APIC
 * registers, the microcode update, and what belongs to SMM. */
static bool may_load(const struct msr_entry *entry)
{
	return !entry->reserved && entry->index != MSR_FS_BASE && entry->index != MSR_GS_BASE &&
	       entry->index >> 8 != MSR_X2APIC_GROUP && entry->index != MSR_SMM_MONITOR &&
	       entry->index != MSR_BIOS_UPDATE;
}

static bool may_store(const struct msr_entry *entry)
{
	return !entry->reserved && entry->index >> 8 != MSR_X2APIC_GROUP && entry->index != MSR_SMBASE;
}

uint32_t vmx_load_msrs(struct cpu *cpu, uint64_t address, uint64_t count)
{
	for (uint64_t i = 0; i < count; i++) {
		struct msr_entry entry;

		/* Beyond the recommended maximum the SDM promises nothing; a guest must not keep us here. */
		if (i == VMX_MSR_LIST_MAXIMUM)
			return i + 1;
		entry = read_entry(cpu, address + i * sizeof entry);
		if (!may_load(&entry) || !msr_write(cpu, entry.index, entry.value))
			return i + 1;
	}
	return 0;
}

bool vmx_store_msrs(struct cpu *cpu, uint64_t address, uint64_t count)
{
	for (uint64_t i = 0; i < count; i++) {
		uint64_t at = address + i * sizeof(struct msr_entry);
		struct msr_entry entry;
		uint64_t value;

		if (i == VMX_MSR_LIST_MAXIMUM)
			return false;
		entry = read_entry(cpu, at);
		if (!may_store(&entry) || !msr_read(cpu, entry.index, &value))
			return false;
		phys_write(cpu, GPA(at + 8), 8, value);
	}
	return true;
}

/* The mode key, reset, and loading of control registers whose values were found legal. */
#include "engine/soft/cpu/apic.h"
#include "engine/soft/cpu/descriptor.h"

/* Base 0, limit 4G, and usable for whatever the segment register is for. */
static bool is_flat(const struct segment *segment, bool code)
{
	uint32_t must = RIGHTS_P | RIGHTS_S | TYPE_WRITABLE;
	uint32_t mask = must | RIGHTS_UNUSABLE | (code ? 0 : TYPE_CODE | TYPE_DOWN);

	return segment->base == 0 && segment->limit == UINT32_MAX && (segment->rights & mask) == must;
}

static bool is_mode_flat(const struct cpu *cpu)
{
	return is_flat(&cpu->seg[SEG_SS], false) && is_flat(&cpu->seg[SEG_DS], false) &&
	       is_flat(&cpu->seg[SEG_ES], false) && is_flat(&cpu->seg[SEG_CS], true);
}

void cpu_update_mode(struct cpu *cpu)
{
	uint64_t cr0 = cpu->cr0, cr4 = cpu->cr4, flags = cpu->rflags_system;
	uint32_t cs = cpu->seg[SEG_CS].rights;
	unsigned cpl = cpu->cpl;
	bool long_mode = cpu->efer & EFER_LMA, protected = (cr0 & CR0_PE) && !(flags & FLAG_VM);
	uint32_t mode;

	if (long_mode && (cs & RIGHTS_L)) {
		mode = MODE_CODE64 | MODE_STACK32 | MODE_FLAT;
	} else {
		mode = cs & RIGHTS_DB ? MODE_CODE32 : 0;
		if (cpu->seg[SEG_SS].rights & RIGHTS_DB)
			mode |= MODE_STACK32;
		if (is_mode_flat(cpu))
			mode |= MODE_FLAT;
	}
	if (cpl == 3)
		mode |= TLB_USER << MODE_CLASS_SHIFT;
	else if ((cr4 & CR4_SMAP) && (flags & FLAG_AC))
		mode |= TLB_SUPER_AC << MODE_CLASS_SHIFT;
	else
		mode |= TLB_SUPER << MODE_CLASS_SHIFT;
	if (cpl != 3 && (cr4 & CR4_SMAP))
		mode |= MODE_SMAP;
	if (!(cr0 & (CR0_EM | CR0_TS))) {
		mode |= MODE_FPU;
		if (cr4 & CR4_OSFXSR)
			mode |= MODE_SSE;
	}
	if (!(cr0 & CR0_TS) && (cr4 & CR4_OSXSAVE) && (cpu->xcr0 & 6) == 6 && protected)
		mode |= MODE_AVX;
	if (cpu->virt)
		mode |= MODE_NONROOT;
	if ((flags & FLAG_TF) || (cpu->dr7 & 0xff) || cpu->monitor_trap)
		mode |= MODE_STEP;
	if (protected)
		mode |= MODE_PROTECTED;
	else if (cr0 & CR0_PE)
		mode |= MODE_V86;
	if (long_mode)
		mode |= MODE_LONG;
	if (cpl == 0)
		mode |= MODE_CPL0;
	if (cr0 & CR0_PG)
		mode |= MODE_PAGING;
	if (cr4 & CR4_FSGSBASE)
		mode |= MODE_FSGSBASE;
	if (cpl == 3 && (cr0 & CR0_AM) && (flags & FLAG_AC))
		mode |= MODE_ALIGN;
	if ((cr0 & (CR0_MP | CR0_TS)) == (CR0_MP | CR0_TS))
		mode |= MODE_WAIT_TS;
	/* In non-root operation the TSC may be intercepted or scaled: that is left to op_rdtsc. */
	if ((!cpu->virt || cpu->virt_tsc_direct) && (cpl == 0 || !(cr4 & CR4_TSD)))
		mode |= MODE_TSC_DIRECT;
	if (cpl <= ((flags >> 12) & 3))
		mode |= MODE_IOPL_OK;
	cpu->mode = mode;
	tlb_jump_mode(cpu);
}

/* ---- what the model announces ---- */

/* Register `reg` (0 EAX … 3 EDX) of a leaf's first subleaf. cpu_model_cpuid is cold code: not to be called
 * here. */
static uint32_t model_register(const struct cpu_model *model, uint32_t leaf, unsigned reg)
{
	for (unsigned i = 0; i < model->leaf_count && i < CPU_MODEL_LEAVES; i++) {
		const struct cpuid_leaf *entry = &model->leaf[i];

		if (entry->leaf != leaf || (entry->subleaf_matters && entry->subleaf != 0))
			continue;
		switch (reg) {
		case 0:
			return entry->eax;
		case 1:
			return entry->ebx;
		case 2:
			return entry->ecx;
		default:
			return entry->edx;
		}
	}
	return 0;
}

struct feature_bit {
	uint32_t leaf;
	uint8_t reg, bit;
	uint32_t allows;
};

static uint64_t allowed_bits(const struct cpu_model *model, const struct feature_bit *table, unsigned count)
{
	uint64_t allowed = 0;
	uint32_t leaf = UINT32_MAX, value = 0;
	unsigned reg = 0;

	for (unsigned i = 0; i < count; i++) {
		if (table[i].leaf != leaf || table[i].reg != reg) {
			leaf = table[i].leaf;
			reg = table[i].reg;
			value = model_register(model, leaf, reg);
		}
		if (value >> table[i].bit & 1)
			allowed |= table[i].allows;
	}
	return allowed;
}

uint64_t cpu_cr4_allowed(const struct cpu *cpu)
{
	static const struct feature_bit table[] = {
	    {1, 3, 1, CR4_VME | CR4_PVI}, {1, 3, 2, CR4_DE},       {1, 3, 3, CR4_PSE},
	    {1, 3, 4, CR4_TSD},           {1, 3, 6, CR4_PAE},      {1, 3, 7, CR4_MCE},
	    {1, 3, 13, CR4_PGE},          {1, 3, 24, CR4_OSFXSR},  {1, 3, 25, CR4_OSXMMEXCPT},
	    {1, 2, 17, CR4_PCIDE},        {1, 2, 26, CR4_OSXSAVE}, {7, 1, 0, CR4_FSGSBASE},
	    {7, 1, 7, CR4_SMEP},          {7, 1, 20, CR4_SMAP},    {7, 2, 2, CR4_UMIP},
	};
	uint64_t allowed = CR4_PCE | allowed_bits(cpu->model, table, sizeof(table) / sizeof(table[0]));

	return cpu->model->vmx ? allowed | CR4_VMXE : allowed;
}

uint64_t cpu_efer_allowed(const struct cpu *cpu)
{
	static const struct feature_bit table[] = {
	    {0x80000001, 3, 11, EFER_SCE},
	    {0x80000001, 3, 20, EFER_NXE},
	    {0x80000001, 3, 29, EFER_LME | EFER_LMA | EFER_SCE},
	};

	return allowed_bits(cpu->model, table, sizeof(table) / sizeof(table[0]));
}

/* ---- control registers ---- */

bool cpu_read_pdptes(struct cpu *cpu, uint64_t cr3, uint64_t pdpte[4])
{
	uint64_t table = cr3 & 0xffffffe0;
	uint64_t reserved = 0x1e6 | ~0ull << cpu->model->physical_address_bits;

	if (cpu->nested_paging && cpu->virt) {
		struct nested_access access = {.access = ACCESS_READ, .is_walk = true};
		struct nested_mapping mapping;

		cpu->virt->translate(cpu, GPA(table), &access, &mapping);
		table = (mapping.l1_gpa.v & PAGE_MASK) | (table & ~PAGE_MASK);
	}
	for (unsigned i = 0; i < 4; i++) {
		pdpte[i] = phys_read(cpu, GPA(table + i * 8), 8);
		if ((pdpte[i] & 1) && (pdpte[i] & reserved))
			return false;
	}
	return true;
}

static bool uses_pdptes(const struct cpu *cpu)
{
	return (cpu->cr0 & CR0_PG) && (cpu->cr4 & CR4_PAE) && !(cpu->efer & EFER_LMA);
}

/* Reads the PDPTEs anew; the instruction has found them legal. Under EPT the instruction stores those that it
 * read, because VM entry, which takes them from the VMCS, loads control registers through here too. */
static void reload_pdptes(struct cpu *cpu)
{
	uint64_t pdpte[4];

	if (uses_pdptes(cpu) && !cpu->nested_paging && cpu_read_pdptes(cpu, cpu->cr3, pdpte))
		for (unsigned i = 0; i < 4; i++)
			cpu->pdpte[i] = pdpte[i];
}

static void update_lma(struct cpu *cpu)
{
	if ((cpu->cr0 & CR0_PG) && (cpu->efer & EFER_LME))
		cpu->efer |= EFER_LMA;
	else
		cpu->efer &= ~(uint64_t)EFER_LMA;
}

void cpu_load_cr0(struct cpu *cpu, uint64_t value)
{
	uint64_t changed = cpu->cr0 ^ value;

	cpu->cr0 = value | CR0_ET;
	if (changed & CR0_PG)
		update_lma(cpu);
	if (changed & (CR0_PG | CR0_CD | CR0_NW))
		reload_pdptes(cpu);
	/* PE alone changes while there is no paging, and no mapping by it. */
	if (changed & CR0_PG || (changed & CR0_WP && cpu->cr0 & CR0_PG)) {
		tlb_flush_all(cpu);
		tlb_select_context(cpu);
	}
	cpu_update_mode(cpu);
}

void cpu_load_cr3(struct cpu *cpu, uint64_t value, bool keep_translations)
{
	cpu->cr3 = value & ~(1ull << 63);
	reload_pdptes(cpu);
	tlb_select_context(cpu);
	if (!keep_translations)
		tlb_flush_current(cpu, cpu->cr4 & CR4_PGE);
	/* The other context's jump caches may be of another mode. */
	tlb_jump_mode(cpu);
}

void cpu_load_cr4(struct cpu *cpu, uint64_t value)
{
	uint64_t changed = cpu->cr4 ^ value;

	cpu->cr4 = value;
	if (changed & (CR4_PSE | CR4_PAE | CR4_PGE | CR4_SMEP))
		reload_pdptes(cpu);
	if (changed & (CR4_PSE | CR4_PAE | CR4_PGE | CR4_PCIDE | CR4_SMEP | CR4_SMAP)) {
		tlb_flush_all(cpu);
		tlb_select_context(cpu);
	}
	cpu_update_mode(cpu);
}

void cpu_load_efer(struct cpu *cpu, uint64_t value)
{
	uint64_t changed = cpu->efer ^ value;

	cpu->efer = value;
	update_lma(cpu);
	if (changed & EFER_NXE)
		tlb_flush_all(cpu);
	cpu_update_mode(cpu);
}

/* ---- reset ---- */

static void reset_segments(struct cpu *cpu)
{
	for (unsigned i = 0; i < SEG_COUNT; i++)
		cpu->seg[i] = (struct segment){.limit = 0xffff,
		                               .rights = RIGHTS_P | RIGHTS_S | TYPE_WRITABLE | TYPE_ACCESSED};
	cpu->seg[SEG_CS].selector = 0xf000;
	cpu->seg[SEG_CS].base = 0xffff0000;
	cpu->seg[SEG_LDTR].rights = RIGHTS_P | TYPE_LDT;
	cpu->seg[SEG_TR].rights = RIGHTS_P | TYPE_TSS_BUSY;
	cpu->gdtr = cpu->idtr = (struct descriptor_table){.limit = 0xffff};
}

static void reset_msrs(struct cpu *cpu)
{
	static const uint64_t feature_control[] = {
	    [VMX_FIRMWARE_ON] = 5,
	    [VMX_FIRMWARE_OFF] = 1,
	    [VMX_FIRMWARE_UNLOCKED] = 0,
	};

	cpu->msr = (struct cpu_msrs){
	    .pat = 0x0007040600070406,
	    .misc_enable = 1, /* fast strings */
	    .feature_control = cpu->model->vmx ? feature_control[cpu->model->vmx_firmware] : 1,
	    .apic_base = 0xfee00000 | 1u << 11 | (cpu->index == 0 ? 1u << 8 : 0),
	    .microcode = 1ull << 32,
	};
}

/* SDM, Processor State After Reset: x87 as after power-up, MXCSR 1F80H. */
static void reset_fpu(struct cpu *cpu)
{
	for (unsigned i = 0; i < FPU_AREA_SIZE; i++)
		cpu->fpu_area[i] = 0;
	cpu->fpu_area[0] = 0x40;  /* FCW */
	cpu->fpu_area[4] = 0xff;  /* abridged FTW: all in use, +0 */
	cpu->fpu_area[24] = 0x80; /* MXCSR */
	cpu->fpu_area[25] = 0x1f;
	cpu->fpu_area[512] = 3; /* XSTATE_BV: x87 and SSE */
	cpu->fpu_stashed = true;
}

void cpu_reset(struct cpu *cpu, bool init)
{
	for (unsigned i = 0; i < 16; i++)
		cpu->gpr[i] = 0;
	cpu->gpr[REG_RDX] = model_register(cpu->model, 1, 0);
	cpu->rip = cpu->next_rip = 0xfff0;
	cpu_set_rflags(cpu, 2);
	cpu->cpl = 0;
	reset_segments(cpu);
	cpu->cr0 = (init ? cpu->cr0 & (CR0_CD | CR0_NW) : CR0_CD | CR0_NW) | CR0_ET;
	cpu->cr2 = cpu->cr3 = cpu->cr4 = cpu->efer = 0;
	for (unsigned i = 0; i < 4; i++)
		cpu->dr[i] = cpu->pdpte[i] = 0;
	cpu->dr6 = 0xffff0ff0;
	cpu->dr7 = 0x400;

	cpu->shadow = 0;
	cpu->activity = ACTIVITY_ACTIVE;
	cpu->event.valid = cpu->delivering.valid = false;
	cpu->nmi_pending = cpu->nmi_blocked = cpu->debug_trap_pending = false;
	cpu->dr6_pending = 0;
	cpu->monitor_address = 0;
	if (!init) {
		cpu->xcr0 = 1;
		reset_msrs(cpu);
		reset_fpu(cpu);
		/* Application processors wait for their start-up message. */
		if (cpu->index != 0)
			cpu->activity = ACTIVITY_WAIT_SIPI;
	} else if (!(cpu->msr.apic_base & 1u << 8)) {
		cpu->activity = ACTIVITY_WAIT_SIPI;
	}
	apic_reset(cpu);
	tlb_select_context(cpu);
	tlb_flush_all(cpu);
	tlb_watch_changed(cpu);
	cpu_update_mode(cpu);
	cpu_poll_soon(cpu);
}

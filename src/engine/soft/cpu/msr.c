/*
 * The MSRs, as a table. A row covers `count` consecutive MSRs; most are storage in struct cpu, guarded by a
 * mask of reserved bits. What has rules of its own has functions. Whatever is in no row does not exist and
 * raises #GP(0), which is how operating systems find out.
 */
#include "engine/soft/cpu/msr.h"

#include "engine/soft/cpu/apic.h"
#include "engine/soft/cpu/descriptor.h"
#include "engine/soft/cpu/hot.h"
#include "engine/soft/cpu/time.h"

/* Provided by vmx/ (vmx.h): the capability MSRs, 480H-491H. False where there is no such MSR. */
bool vmx_read_capability(const struct cpu_model *model, uint32_t msr, uint64_t *value);

enum msr_flags {
	READ_ONLY = 1 << 0, /* WRMSR faults */
	CONSTANT = 1 << 1,  /* reads as `value`; writes, where allowed, have no effect */
	ADDRESS = 1 << 2,   /* must be canonical */
	LOW_HALF = 1 << 3,  /* bits 63:32 are ignored */
	ZERO_ONLY = 1 << 4, /* only 0 may be written */
	WRITE_ONLY = 1 << 5,
};

struct msr_row {
	uint32_t first;
	uint16_t count;
	uint16_t flags;    /* enum msr_flags */
	uint32_t field;    /* offset of the first MSR's uint64_t in struct cpu; the others follow it */
	uint64_t reserved; /* bits that WRMSR must leave 0 */
	uint64_t value;    /* of CONSTANT */
	bool (*exists)(const struct cpu *cpu);
	bool (*read)(struct cpu *cpu, uint32_t msr, uint64_t *value);
	bool (*write)(struct cpu *cpu, uint32_t msr, uint64_t value);
};

#define FIELD(name) ((uint32_t)offsetof(struct cpu, name))

#define BANKS                    4u /* of machine-check registers */
#define VARIABLE_MTRRS           8u
#define MISC_ENABLE_FIXED        (1u << 11 | 1u << 12 | 1u << 18) /* no BTS, no PEBS; MONITOR is there */
#define MISC_ENABLE_FAST_STRINGS 1u

_Static_assert(BANKS <= 8 && VARIABLE_MTRRS <= 8, "struct cpu_msrs has room for eight of each");

static bool has(const struct cpu *cpu, uint32_t leaf, uint32_t subleaf, unsigned reg, unsigned bit)
{
	return cpu_model_has(cpu->model, leaf, subleaf, reg, bit);
}

static uint64_t beyond_physical(const struct cpu *cpu)
{
	return ~0ull << cpu->model->physical_address_bits;
}

/* ---- conditions ---- */

static bool has_tsc_adjust(const struct cpu *cpu)
{
	return has(cpu, 7, 0, 1, 1);
}
static bool has_ibrs(const struct cpu *cpu)
{
	return has(cpu, 7, 0, 3, 26);
}
static bool has_flush_cmd(const struct cpu *cpu)
{
	return has(cpu, 7, 0, 3, 28);
}
static bool has_arch_capabilities(const struct cpu *cpu)
{
	return has(cpu, 7, 0, 3, 29);
}
static bool has_mca(const struct cpu *cpu)
{
	return has(cpu, 1, 0, 3, 14);
}
static bool has_mtrr(const struct cpu *cpu)
{
	return has(cpu, 1, 0, 3, 12);
}
static bool has_pat(const struct cpu *cpu)
{
	return has(cpu, 1, 0, 3, 16);
}
static bool has_xsaves(const struct cpu *cpu)
{
	return has(cpu, 0xd, 1, 0, 3);
}

static bool has_tsc_aux(const struct cpu *cpu)
{
	return has(cpu, 0x80000001, 0, 3, 27) || has(cpu, 7, 0, 2, 22);
}

/* ---- time ---- */

static bool read_tsc(struct cpu *cpu, uint32_t msr, uint64_t *value)
{
	*value = cpu_tsc(cpu);
	return true;
}

/* SDM, Time-Stamp Counter Adjustment: writing the TSC adds to IA32_TSC_ADJUST what it adds to the TSC. */
static bool write_tsc(struct cpu *cpu, uint32_t msr, uint64_t value)
{
	cpu->msr.tsc_adjust = value - time_ticks(cpu);
	apic_tsc_changed(cpu);
	return true;
}

static bool write_tsc_adjust(struct cpu *cpu, uint32_t msr, uint64_t value)
{
	cpu->msr.tsc_adjust = value;
	apic_tsc_changed(cpu);
	return true;
}

/* ---- modes and segments ---- */

static bool write_efer(struct cpu *cpu, uint32_t msr, uint64_t value)
{
	/* LMA follows LME and CR0.PG; what is written there is ignored. */
	value = (value & ~(uint64_t)EFER_LMA) | (cpu->efer & EFER_LMA);
	if (value & ~(cpu_efer_allowed(cpu) | EFER_LMA))
		return false;
	if ((value ^ cpu->efer) & EFER_LME && cpu->cr0 & CR0_PG)
		return false;
	cpu_load_efer(cpu, value);
	return true;
}

static bool write_misc_enable(struct cpu *cpu, uint32_t msr, uint64_t value)
{
	/* The rest tells of hardware that is not there, or would take announced features away. */
	cpu->msr.misc_enable = value & MISC_ENABLE_FAST_STRINGS;
	return true;
}

static bool read_misc_enable(struct cpu *cpu, uint32_t msr, uint64_t *value)
{
	*value = cpu->msr.misc_enable | MISC_ENABLE_FIXED;
	return true;
}

/* SDM, IA32_FEATURE_CONTROL: bit 0 locks it until reset. There is no SMX, so bit 1 stays reserved. */
static bool write_feature_control(struct cpu *cpu, uint32_t msr, uint64_t value)
{
	uint64_t allowed = cpu->model->vmx ? 5 : 1;

	if (cpu->msr.feature_control & 1 || value & ~allowed)
		return false;
	cpu->msr.feature_control = value;
	return true;
}

/* ---- speculation ---- */

static bool write_spec_ctrl(struct cpu *cpu, uint32_t msr, uint64_t value)
{
	uint64_t allowed = 3; /* IBRS; STIBP, which is ignored where it is not announced */

	if (has(cpu, 7, 0, 3, 31))
		allowed |= 1u << 2; /* SSBD */
	if (has(cpu, 7, 2, 3, 4))
		allowed |= 1u << 10; /* BHI_DIS_S */
	if (value & ~allowed)
		return false;
	cpu->msr.spec_ctrl = value;
	return true;
}

static bool read_arch_capabilities(struct cpu *cpu, uint32_t msr, uint64_t *value)
{
	*value = cpu->model->arch_capabilities;
	return true;
}

/* ---- memory types ---- */

static bool valid_types(uint64_t value, unsigned allowed)
{
	for (; value; value >>= 8)
		if ((value & 0xff) > 7 || !(allowed >> (value & 7) & 1))
			return false;
	return allowed & 1;
}

#define MTRR_TYPES 0x73u /* UC, WC, WT, WP, WB */
#define PAT_TYPES  0xf3u /* and UC- */

static bool write_pat(struct cpu *cpu, uint32_t msr, uint64_t value)
{
	if (!valid_types(value, PAT_TYPES))
		return false;
	cpu->msr.pat = value;
	return true;
}

static bool read_variable_mtrr(struct cpu *cpu, uint32_t msr, uint64_t *value)
{
	unsigned i = (msr - MSR_MTRR_PHYSBASE0) / 2;

	*value = msr & 1 ? cpu->msr.mtrr_mask[i] : cpu->msr.mtrr_base[i];
	return true;
}

/* SDM, Variable Range MTRRs */
static bool write_variable_mtrr(struct cpu *cpu, uint32_t msr, uint64_t value)
{
	unsigned i = (msr - MSR_MTRR_PHYSBASE0) / 2;

	if (msr & 1) {
		if (value & (beyond_physical(cpu) | 0x7ff))
			return false;
		cpu->msr.mtrr_mask[i] = value;
	} else {
		if (value & (beyond_physical(cpu) | 0xf00) || !valid_types(value & 0xff, MTRR_TYPES))
			return false;
		cpu->msr.mtrr_base[i] = value;
	}
	return true;
}

/* The eleven fixed-range MTRRs in the order of their addresses. */
static uint64_t *fixed_mtrr(struct cpu *cpu, uint32_t msr)
{
	if (msr == MSR_MTRR_FIX64K)
		return &cpu->msr.mtrr_fixed[0];
	if (msr < MSR_MTRR_FIX4K)
		return &cpu->msr.mtrr_fixed[1 + (msr - MSR_MTRR_FIX16K)];
	return &cpu->msr.mtrr_fixed[3 + (msr - MSR_MTRR_FIX4K)];
}

static bool read_fixed_mtrr(struct cpu *cpu, uint32_t msr, uint64_t *value)
{
	*value = *fixed_mtrr(cpu, msr);
	return true;
}

static bool write_fixed_mtrr(struct cpu *cpu, uint32_t msr, uint64_t value)
{
	if (!valid_types(value, MTRR_TYPES))
		return false;
	*fixed_mtrr(cpu, msr) = value;
	return true;
}

static bool write_mtrr_def_type(struct cpu *cpu, uint32_t msr, uint64_t value)
{
	if (value & ~0xcffull || !valid_types(value & 0xff, MTRR_TYPES))
		return false;
	cpu->msr.mtrr_def_type = value;
	return true;
}

void msr_set_firmware_mtrrs(struct cpu *cpu)
{
	struct cpu_msrs *msr = &cpu->msr;

	msr->mtrr_fixed[0] = msr->mtrr_fixed[1] = 0x0606060606060606; /* below A0000H: WB */
	msr->mtrr_fixed[2] = 0;                                       /* video memory: UC */
	for (unsigned i = 3; i < 11; i++)
		msr->mtrr_fixed[i] = 0x0505050505050505; /* ROMs: WP */
	/* Devices from where RAM ends at the latest (PLATFORM_LOW_RAM_END) to 4 GiB: UC, as two powers of two. */
	msr->mtrr_base[0] = 0xc0000000;
	msr->mtrr_mask[0] = (~beyond_physical(cpu) & ~0x3fffffffull) | 1u << 11;
	msr->mtrr_base[1] = 0xb0000000;
	msr->mtrr_mask[1] = (~beyond_physical(cpu) & ~0x0fffffffull) | 1u << 11;
	msr->mtrr_def_type = 0xc06; /* enabled, fixed ranges too, WB */
}

/* ---- machine check ---- */

/* SDM, Error-Reporting Register Banks: CTL, STATUS, ADDR, MISC of each bank. */
static uint64_t *bank_register(struct cpu *cpu, uint32_t msr)
{
	unsigned bank = (msr - MSR_MC0_CTL) / 4;

	switch (msr & 3) {
	case 0:
		return &cpu->msr.mc_ctl[bank];
	case 1:
		return &cpu->msr.mc_status[bank];
	case 2:
		return &cpu->msr.mc_addr[bank];
	default:
		return &cpu->msr.mc_misc[bank];
	}
}

static bool read_bank(struct cpu *cpu, uint32_t msr, uint64_t *value)
{
	*value = *bank_register(cpu, msr);
	return true;
}

static bool write_bank(struct cpu *cpu, uint32_t msr, uint64_t value)
{
	/* Status, address and miscellaneous registers can only be cleared. */
	if (msr & 3 && value)
		return false;
	*bank_register(cpu, msr) = value;
	return true;
}

static bool read_platform_info(struct cpu *cpu, uint32_t msr, uint64_t *value)
{
	/* Maximum non-turbo ratio in units of 100 MHz; no CPUID faulting. */
	*value = (cpu->model->tsc_hz / 100000000 & 0xff) << 8;
	return true;
}

static bool read_vmx(struct cpu *cpu, uint32_t msr, uint64_t *value)
{
	return cpu->model->vmx && vmx_read_capability(cpu->model, msr, value);
}

/* ---- the table, in ascending order ---- */

static const struct msr_row rows[] = {
    {.first = MSR_P5_MC_ADDR, .count = 2, .flags = CONSTANT},
    {.first = MSR_TSC, .count = 1, .read = read_tsc, .write = write_tsc},
    {.first = MSR_PLATFORM_ID, .count = 1, .flags = CONSTANT | READ_ONLY},
    {.first = MSR_APIC_BASE, .count = 1, .read = apic_read_msr, .write = apic_write_msr},
    {.first = MSR_EBL_CR_POWERON, .count = 1, .flags = CONSTANT},
    {.first = MSR_FEATURE_CONTROL,
     .count = 1,
     .field = FIELD(msr.feature_control),
     .write = write_feature_control},
    {.first = MSR_TSC_ADJUST,
     .count = 1,
     .exists = has_tsc_adjust,
     .field = FIELD(msr.tsc_adjust),
     .write = write_tsc_adjust},
    {.first = MSR_SPEC_CTRL,
     .count = 1,
     .exists = has_ibrs,
     .field = FIELD(msr.spec_ctrl),
     .write = write_spec_ctrl},
    {.first = MSR_PRED_CMD,
     .count = 1,
     .exists = has_ibrs,
     .flags = CONSTANT | WRITE_ONLY,
     .reserved = ~1ull},
    {.first = MSR_BIOS_UPDT_TRIG, .count = 1, .flags = CONSTANT | WRITE_ONLY},
    /* SDM, Microcode Update Resources: 0 is written, CPUID executed, then the revision is in bits 63:32. */
    {.first = MSR_BIOS_SIGN_ID, .count = 1, .flags = CONSTANT, .value = 1ull << 32},
    {.first = MSR_PLATFORM_INFO, .count = 1, .flags = READ_ONLY, .read = read_platform_info},
    {.first = MSR_MTRRCAP,
     .count = 1,
     .exists = has_mtrr,
     .flags = CONSTANT | READ_ONLY,
     .value = 1u << 10 /* WC */ | 1u << 8 /* fixed */ | VARIABLE_MTRRS},
    {.first = MSR_ARCH_CAPABILITIES,
     .count = 1,
     .exists = has_arch_capabilities,
     .flags = READ_ONLY,
     .read = read_arch_capabilities},
    {.first = MSR_FLUSH_CMD,
     .count = 1,
     .exists = has_flush_cmd,
     .flags = CONSTANT | WRITE_ONLY,
     .reserved = ~1ull},
    {.first = MSR_SYSENTER_CS, .count = 1, .flags = LOW_HALF, .field = FIELD(msr.sysenter_cs)},
    {.first = MSR_SYSENTER_ESP, .count = 1, .flags = ADDRESS, .field = FIELD(msr.sysenter_esp)},
    {.first = MSR_SYSENTER_EIP, .count = 1, .flags = ADDRESS, .field = FIELD(msr.sysenter_eip)},
    {.first = MSR_MCG_CAP, .count = 1, .exists = has_mca, .flags = CONSTANT | READ_ONLY, .value = BANKS},
    {.first = MSR_MCG_STATUS,
     .count = 1,
     .exists = has_mca,
     .field = FIELD(msr.mcg_status),
     .reserved = ~7ull},
    {.first = MSR_PERF_STATUS, .count = 1, .flags = CONSTANT | READ_ONLY},
    {.first = MSR_MISC_ENABLE, .count = 1, .read = read_misc_enable, .write = write_misc_enable},
    /* LBR is accepted and records nothing. */
    {.first = MSR_DEBUGCTL, .count = 1, .field = FIELD(msr.debugctl), .reserved = ~3ull},
    {.first = MSR_LASTBRANCH_FROM, .count = 4, .flags = CONSTANT | READ_ONLY},
    {.first = MSR_MTRR_PHYSBASE0,
     .count = 2 * VARIABLE_MTRRS,
     .exists = has_mtrr,
     .read = read_variable_mtrr,
     .write = write_variable_mtrr},
    {.first = MSR_MTRR_FIX64K,
     .count = 1,
     .exists = has_mtrr,
     .read = read_fixed_mtrr,
     .write = write_fixed_mtrr},
    {.first = MSR_MTRR_FIX16K,
     .count = 2,
     .exists = has_mtrr,
     .read = read_fixed_mtrr,
     .write = write_fixed_mtrr},
    {.first = MSR_MTRR_FIX4K,
     .count = 8,
     .exists = has_mtrr,
     .read = read_fixed_mtrr,
     .write = write_fixed_mtrr},
    {.first = MSR_PAT, .count = 1, .exists = has_pat, .field = FIELD(msr.pat), .write = write_pat},
    {.first = MSR_MTRR_DEF_TYPE,
     .count = 1,
     .exists = has_mtrr,
     .field = FIELD(msr.mtrr_def_type),
     .write = write_mtrr_def_type},
    {.first = MSR_MC0_CTL, .count = 4 * BANKS, .exists = has_mca, .read = read_bank, .write = write_bank},
    {.first = MSR_VMX_FIRST, .count = 0x12, .flags = READ_ONLY, .read = read_vmx},
    {.first = MSR_TSC_DEADLINE, .count = 1, .read = apic_read_msr, .write = apic_write_msr},
    {.first = MSR_X2APIC_FIRST, .count = 0x100, .read = apic_read_msr, .write = apic_write_msr},
    {.first = MSR_XSS, .count = 1, .exists = has_xsaves, .flags = ZERO_ONLY, .field = FIELD(msr.xss)},
    {.first = MSR_EFER, .count = 1, .field = FIELD(efer), .write = write_efer},
    {.first = MSR_STAR, .count = 1, .field = FIELD(msr.star)},
    {.first = MSR_LSTAR, .count = 1, .flags = ADDRESS, .field = FIELD(msr.lstar)},
    {.first = MSR_CSTAR, .count = 1, .flags = ADDRESS, .field = FIELD(msr.cstar)},
    {.first = MSR_SFMASK, .count = 1, .field = FIELD(msr.sfmask), .reserved = 0xffffffff00000000},
    {.first = MSR_FS_BASE, .count = 1, .flags = ADDRESS, .field = FIELD(seg[SEG_FS].base)},
    {.first = MSR_GS_BASE, .count = 1, .flags = ADDRESS, .field = FIELD(seg[SEG_GS].base)},
    {.first = MSR_KERNEL_GS_BASE, .count = 1, .flags = ADDRESS, .field = FIELD(msr.kernel_gs_base)},
    {.first = MSR_TSC_AUX,
     .count = 1,
     .exists = has_tsc_aux,
     .field = FIELD(msr.tsc_aux),
     .reserved = 0xffffffff00000000},
};

static const struct msr_row *find(const struct cpu *cpu, uint32_t msr)
{
	unsigned low = 0, high = sizeof(rows) / sizeof(rows[0]);

	while (low < high) {
		unsigned middle = (low + high) / 2;

		if (msr < rows[middle].first)
			high = middle;
		else if (msr - rows[middle].first >= rows[middle].count)
			low = middle + 1;
		else
			return rows[middle].exists && !rows[middle].exists(cpu) ? NULL : &rows[middle];
	}
	return NULL;
}

static uint64_t *storage(struct cpu *cpu, const struct msr_row *row, uint32_t msr)
{
	return (uint64_t *)((char *)cpu + row->field) + (msr - row->first);
}

bool msr_read(struct cpu *cpu, uint32_t msr, uint64_t *value)
{
	const struct msr_row *row = find(cpu, msr);

	if (!row || row->flags & WRITE_ONLY)
		return false;
	if (row->flags & CONSTANT)
		*value = row->value;
	else if (row->read)
		return row->read(cpu, msr, value);
	else
		*value = *storage(cpu, row, msr);
	return true;
}

bool msr_write(struct cpu *cpu, uint32_t msr, uint64_t value)
{
	const struct msr_row *row = find(cpu, msr);

	if (!row || row->flags & READ_ONLY || value & row->reserved)
		return false;
	if (row->flags & ADDRESS && !is_canonical(value))
		return false;
	if (row->flags & ZERO_ONLY && value)
		return false;
	if (row->flags & LOW_HALF)
		value = (uint32_t)value;
	if (row->flags & CONSTANT)
		return true;
	if (row->write)
		return row->write(cpu, msr, value);
	*storage(cpu, row, msr) = value;
	return true;
}

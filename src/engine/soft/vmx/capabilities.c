/*
 * What the virtual processor announces about VMX: the capability MSRs (SDM, Appendix "VMX Capability
 * Reporting Facility"). Everything else asks struct vmx_capabilities, never a constant of its own, so that a
 * feature is offered, checked and usable in one place.
 *
 * A function of the CPU model alone: identical on all vCPUs, as hypervisors verify.
 */
#include "engine/soft/vmx/vmcs.h"
#include "engine/soft/vmx/vmx.h"

/*
 * Reserved control bits that are 1 (default1 classes). Those of the plain MSRs must all be 1; the TRUE MSRs
 * let software clear CR3-load and CR3-store exiting and load and save debug controls.
 */
#define PIN_DEFAULT1         0x00000016u
#define PRIMARY_DEFAULT1     0x0401e172u
#define EXIT_DEFAULT1        0x00036dffu
#define ENTRY_DEFAULT1       0x000011ffu
#define PRIMARY_TRUE_CLEARED (CPU_CR3_LOAD_EXITING | CPU_CR3_STORE_EXITING)
#define EXIT_TRUE_CLEARED    EXIT_SAVE_DEBUG_CONTROLS
#define ENTRY_TRUE_CLEARED   ENTRY_LOAD_DEBUG_CONTROLS

/* What is offered besides the default1 bits. Whatever stands here, VM entry and exit implement. */
#define PIN_OFFERED                                                                                          \
	(PIN_EXTERNAL_INTERRUPT_EXITING | PIN_NMI_EXITING | PIN_VIRTUAL_NMIS | PIN_ACTIVATE_PREEMPTION_TIMER)
#define PRIMARY_OFFERED                                                                                      \
	(CPU_INTERRUPT_WINDOW_EXITING | CPU_USE_TSC_OFFSETTING | CPU_HLT_EXITING | CPU_INVLPG_EXITING |      \
	 CPU_MWAIT_EXITING | CPU_RDPMC_EXITING | CPU_RDTSC_EXITING | CPU_CR3_LOAD_EXITING |                  \
	 CPU_CR3_STORE_EXITING | CPU_CR8_LOAD_EXITING | CPU_CR8_STORE_EXITING | CPU_USE_TPR_SHADOW |         \
	 CPU_NMI_WINDOW_EXITING | CPU_MOV_DR_EXITING | CPU_UNCONDITIONAL_IO_EXITING | CPU_USE_IO_BITMAPS |   \
	 CPU_MONITOR_TRAP_FLAG | CPU_USE_MSR_BITMAPS | CPU_MONITOR_EXITING | CPU_PAUSE_EXITING |             \
	 CPU_ACTIVATE_SECONDARY_CONTROLS)
#define SECONDARY_OFFERED                                                                                    \
	(CPU2_VIRTUALIZE_APIC_ACCESSES | CPU2_ENABLE_EPT | CPU2_DESCRIPTOR_TABLE_EXITING |                   \
	 CPU2_VIRTUALIZE_X2APIC_MODE | CPU2_ENABLE_VPID | CPU2_WBINVD_EXITING | CPU2_UNRESTRICTED_GUEST |    \
	 CPU2_PAUSE_LOOP_EXITING | CPU2_VMCS_SHADOWING)
/* PERF_GLOBAL_CTRL and BNDCFGS are offered in neither direction: hypervisors reject one without the other. */
#define EXIT_OFFERED                                                                                         \
	(EXIT_SAVE_DEBUG_CONTROLS | EXIT_HOST_ADDRESS_SPACE_SIZE | EXIT_ACKNOWLEDGE_INTERRUPT |              \
	 EXIT_SAVE_IA32_PAT | EXIT_LOAD_IA32_PAT | EXIT_SAVE_IA32_EFER | EXIT_LOAD_IA32_EFER |               \
	 EXIT_SAVE_PREEMPTION_TIMER)
#define ENTRY_OFFERED                                                                                        \
	(ENTRY_LOAD_DEBUG_CONTROLS | ENTRY_IA32E_MODE_GUEST | ENTRY_LOAD_IA32_PAT | ENTRY_LOAD_IA32_EFER)

#define EPT_VPID_OFFERED                                                                                     \
	(EPT_VPID_CAP_EXECUTE_ONLY | EPT_VPID_CAP_WALK_4 | EPT_VPID_CAP_UC | EPT_VPID_CAP_WB |               \
	 EPT_VPID_CAP_2M | EPT_VPID_CAP_1G | EPT_VPID_CAP_INVEPT | EPT_VPID_CAP_ACCESSED_DIRTY |             \
	 EPT_VPID_CAP_INVEPT_SINGLE | EPT_VPID_CAP_INVEPT_ALL | EPT_VPID_CAP_INVVPID |                       \
	 EPT_VPID_CAP_INVVPID_ADDRESS | EPT_VPID_CAP_INVVPID_SINGLE | EPT_VPID_CAP_INVVPID_ALL |             \
	 EPT_VPID_CAP_INVVPID_SINGLE_GLOBAL)

#define MISC_OFFERED                                                                                         \
	(VMX_MISC_PREEMPTION_SHIFT | VMX_MISC_STORES_LMA | VMX_MISC_ACTIVITY_HLT |                           \
	 VMX_MISC_ACTIVITY_SHUTDOWN | VMX_MISC_ACTIVITY_WAIT_SIPI | VMX_MISC_CR3_TARGETS << 16 |             \
	 VMX_MISC_VMWRITE_ANY | VMX_MISC_ZERO_LENGTH_INJECTION)

enum cpuid_register { EAX, EBX, ECX, EDX };

/* One CPUID bit of the model. (cpu_model_has is not compiled for use while guest vectors are live.) */
static bool has(const struct cpu_model *model, uint32_t leaf, uint32_t subleaf, enum cpuid_register reg,
                unsigned bit)
{
	for (unsigned i = 0; i < model->leaf_count && i < CPU_MODEL_LEAVES; i++) {
		const struct cpuid_leaf *l = &model->leaf[i];

		if (l->leaf != leaf || (l->subleaf_matters && l->subleaf != subleaf))
			continue;
		uint32_t value = reg == EAX ? l->eax : reg == EBX ? l->ebx : reg == ECX ? l->ecx : l->edx;
		return value >> bit & 1;
	}
	return false;
}

/* CR4 bits by the CPUID bit that brings them (SDM, Control Registers); the same as cpu_cr4_allowed's. */
static const struct {
	uint8_t cr4_bit;
	uint32_t leaf;
	uint8_t reg, bit;
} cr4_features[] = {
    {0, 1, EDX, 1},   /* VME */
    {1, 1, EDX, 1},   /* PVI */
    {2, 1, EDX, 4},   /* TSD: TSC */
    {3, 1, EDX, 2},   /* DE */
    {4, 1, EDX, 3},   /* PSE */
    {5, 1, EDX, 6},   /* PAE */
    {6, 1, EDX, 7},   /* MCE */
    {7, 1, EDX, 13},  /* PGE */
    {9, 1, EDX, 24},  /* OSFXSR: FXSR */
    {10, 1, EDX, 25}, /* OSXMMEXCPT: SSE */
    {11, 7, ECX, 2},  /* UMIP */
    {16, 7, EBX, 0},  /* FSGSBASE */
    {17, 1, ECX, 17}, /* PCIDE */
    {18, 1, ECX, 26}, /* OSXSAVE */
    {20, 7, EBX, 7},  /* SMEP */
    {21, 7, EBX, 20}, /* SMAP */
};

static uint64_t cr4_fixed1(const struct cpu_model *model)
{
	uint64_t allowed = CR4_PCE | CR4_VMXE;

	for (unsigned i = 0; i < sizeof(cr4_features) / sizeof(cr4_features[0]); i++)
		if (has(model, cr4_features[i].leaf, 0, cr4_features[i].reg, cr4_features[i].bit))
			allowed |= 1ull << cr4_features[i].cr4_bit;
	return allowed;
}

/* Controls over instructions exist where the instruction does. */
static uint32_t secondary_offered(const struct cpu_model *model)
{
	uint32_t offered = SECONDARY_OFFERED;

	if (has(model, 0x80000001, 0, EDX, 27) || has(model, 7, 0, ECX, 22))
		offered |= CPU2_ENABLE_RDTSCP;
	if (has(model, 7, 0, EBX, 10))
		offered |= CPU2_ENABLE_INVPCID;
	if (has(model, 1, 0, ECX, 30))
		offered |= CPU2_RDRAND_EXITING;
	if (has(model, 7, 0, EBX, 18))
		offered |= CPU2_RDSEED_EXITING;
	if (has(model, 0xd, 1, EAX, 3))
		offered |= CPU2_ENABLE_XSAVES;
	return offered;
}

static uint64_t capability(uint32_t allowed0, uint32_t allowed1)
{
	return allowed0 | (uint64_t)(allowed0 | allowed1) << 32;
}

/* A control's allowed-1 setting (plain and TRUE MSRs agree on it). */
static bool word_allows(const struct vmx_capabilities *cap, enum vmcs_word word, uint32_t bit)
{
	switch (word) {
	case VMCS_WORD_ALWAYS:
		return true;
	case VMCS_WORD_PIN:
		return cap->pin >> 32 & bit;
	case VMCS_WORD_PRIMARY:
		return cap->primary >> 32 & bit;
	case VMCS_WORD_SECONDARY:
		return cap->secondary >> 32 & bit;
	case VMCS_WORD_EXIT:
		return cap->exit >> 32 & bit;
	case VMCS_WORD_ENTRY:
		return cap->entry >> 32 & bit;
	}
	return false;
}

bool vmx_field_supported(const struct vmx_capabilities *cap, enum vmcs_field field)
{
	const struct vmcs_field_info *info = &vmcs_field_info[field];

	return field != VMCS_NONE && word_allows(cap, info->word, info->bit);
}

void vmx_capabilities_make(struct vmx_capabilities *cap, const struct cpu_model *model)
{
	uint64_t highest_index = 0;
	unsigned bits = model->physical_address_bits;

	*cap = (struct vmx_capabilities){
	    .basic = VMCS_REVISION | (uint64_t)VMCS_REGION_SIZE << 32 | 6ull << 50 /* write-back */ |
	             VMX_BASIC_INS_OUTS_INFORMATION | VMX_BASIC_TRUE_CONTROLS,
	    .pin = capability(PIN_DEFAULT1, PIN_OFFERED),
	    .primary = capability(PRIMARY_DEFAULT1, PRIMARY_OFFERED),
	    .exit = capability(EXIT_DEFAULT1, EXIT_OFFERED),
	    .entry = capability(ENTRY_DEFAULT1, ENTRY_OFFERED),
	    .misc = MISC_OFFERED,
	    .cr0_fixed0 = CR0_PE | CR0_NE | CR0_PG,
	    .cr0_fixed1 = 0xffffffff,
	    .cr4_fixed0 = CR4_VMXE,
	    .cr4_fixed1 = cr4_fixed1(model),
	    .secondary = capability(0, secondary_offered(model)),
	    .ept_vpid = EPT_VPID_OFFERED,
	};
	cap->true_pin = cap->pin;
	cap->true_primary = cap->primary & ~(uint64_t)PRIMARY_TRUE_CLEARED;
	cap->true_exit = cap->exit & ~(uint64_t)EXIT_TRUE_CLEARED;
	cap->true_entry = cap->entry & ~(uint64_t)ENTRY_TRUE_CLEARED;

	if (has(model, 0x80000001, 0, EDX, 11))
		cap->efer_allowed |= EFER_SCE;
	if (has(model, 0x80000001, 0, EDX, 29))
		cap->efer_allowed |= EFER_SCE | EFER_LME | EFER_LMA;
	if (has(model, 0x80000001, 0, EDX, 20))
		cap->efer_allowed |= EFER_NXE;
	if (bits < 32 || bits > 52)
		bits = 36;
	cap->address_mask = ~((1ull << bits) - 1);

	for (unsigned i = VMCS_NONE + 1; i < VMCS_FIELD_COUNT; i++) {
		uint64_t index = vmcs_field_info[i].encoding >> 1 & 0x1ff;

		if (vmx_field_supported(cap, (enum vmcs_field)i) && index > highest_index)
			highest_index = index;
	}
	cap->vmcs_enum = highest_index << 1;
}

/* SDM, IA32_FEATURE_CONTROL: as firmware leaves it. */
static uint64_t feature_control(const struct cpu_model *model)
{
	switch (model->vmx_firmware) {
	case VMX_FIRMWARE_ON:
		return FEATURE_CONTROL_LOCK | FEATURE_CONTROL_VMX_OUTSIDE;
	case VMX_FIRMWARE_OFF:
		return FEATURE_CONTROL_LOCK;
	case VMX_FIRMWARE_UNLOCKED:
		return 0;
	}
	return FEATURE_CONTROL_LOCK;
}

bool vmx_read_capability(const struct cpu_model *model, uint32_t msr, uint64_t *value)
{
	struct vmx_capabilities cap;

	if (!model->vmx)
		return false;
	if (msr == 0x3a) {
		*value = feature_control(model);
		return true;
	}
	if (msr < MSR_IA32_VMX_BASIC || msr > MSR_IA32_VMX_VMFUNC)
		return false;
	vmx_capabilities_make(&cap, model);
	switch (msr) {
	case MSR_IA32_VMX_BASIC:
		*value = cap.basic;
		return true;
	case MSR_IA32_VMX_PINBASED_CTLS:
		*value = cap.pin;
		return true;
	case MSR_IA32_VMX_PROCBASED_CTLS:
		*value = cap.primary;
		return true;
	case MSR_IA32_VMX_EXIT_CTLS:
		*value = cap.exit;
		return true;
	case MSR_IA32_VMX_ENTRY_CTLS:
		*value = cap.entry;
		return true;
	case MSR_IA32_VMX_MISC:
		*value = cap.misc;
		return true;
	case MSR_IA32_VMX_CR0_FIXED0:
		*value = cap.cr0_fixed0;
		return true;
	case MSR_IA32_VMX_CR0_FIXED1:
		*value = cap.cr0_fixed1;
		return true;
	case MSR_IA32_VMX_CR4_FIXED0:
		*value = cap.cr4_fixed0;
		return true;
	case MSR_IA32_VMX_CR4_FIXED1:
		*value = cap.cr4_fixed1;
		return true;
	case MSR_IA32_VMX_VMCS_ENUM:
		*value = cap.vmcs_enum;
		return true;
	case MSR_IA32_VMX_PROCBASED_CTLS2:
		*value = cap.secondary;
		return true;
	case MSR_IA32_VMX_EPT_VPID_CAP:
		*value = cap.ept_vpid;
		return true;
	case MSR_IA32_VMX_TRUE_PINBASED_CTLS:
		*value = cap.true_pin;
		return true;
	case MSR_IA32_VMX_TRUE_PROCBASED_CTLS:
		*value = cap.true_primary;
		return true;
	case MSR_IA32_VMX_TRUE_EXIT_CTLS:
		*value = cap.true_exit;
		return true;
	case MSR_IA32_VMX_TRUE_ENTRY_CTLS:
		*value = cap.true_entry;
		return true;
	default:
		return false; /* IA32_VMX_VMFUNC exists only with VM functions */
	}
}

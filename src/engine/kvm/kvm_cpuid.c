/*
 * The CPU model as KVM takes it: a list of CPUID leaves, each feature bit of which KVM must also support, and
 * the MSRs that say what firmware has set up.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "engine/kvm/kvm_private.h"
#include "util/error.h"

#define MSR_FEATURE_CONTROL   0x3au
#define MSR_ARCH_CAPABILITIES 0x10au
#define MSR_MISC_ENABLE       0x1a0u

#define MISC_ENABLE_FAST_STRINGS 1u

#define FEATURE_CONTROL_LOCKED 1u
#define FEATURE_CONTROL_VMX    4u /* outside SMX operation */

enum { EAX, EBX, ECX, EDX };

/* The registers that hold feature bits, and which of these KVM carries although it does not list them. */
static const struct {
	uint32_t leaf, subleaf;
	unsigned reg;
	uint32_t always;
} feature_register[] = {
    /* X2APIC, TSC-deadline (by capability, below), the hypervisor bit */
    {0x1, 0, ECX, 1u << 21 | 1u << 24 | 1u << 31},
    {0x1, 0, EDX, 1u << 28}, /* HTT describes topology */
    {0x6, 0, EAX, 1u << 2},  /* ARAT */
    {0x7, 0, EBX, 0},
    {0x7, 0, ECX, 0},
    {0x7, 0, EDX, 0},
    {0x7, 1, EAX, 0},
    {0xd, 0, EAX, 0},
    {0xd, 0, EDX, 0},
    {0xd, 1, EAX, 0},
    {0x80000001, 0, ECX, 0},
    {0x80000001, 0, EDX, 0},
    {0x80000007, 0, EDX, 1u << 8}, /* invariant TSC */
    {0x80000008, 0, EBX, 0},
};

static uint32_t *register_of(struct kvm_cpuid_entry2 *entry, unsigned reg)
{
	switch (reg) {
	case EAX:
		return &entry->eax;
	case EBX:
		return &entry->ebx;
	case ECX:
		return &entry->ecx;
	default:
		return &entry->edx;
	}
}

static struct kvm_cpuid_entry2 *find(struct cpuid_list *cpuid, uint32_t leaf, uint32_t subleaf)
{
	for (unsigned i = 0; i < cpuid->head.nent; i++) {
		struct kvm_cpuid_entry2 *entry = &cpuid->entry[i];

		if (entry->function == leaf &&
		    (!(entry->flags & KVM_CPUID_FLAG_SIGNIFCANT_INDEX) || entry->index == subleaf))
			return entry;
	}
	return NULL;
}

static void add(struct cpuid_list *cpuid, const struct cpu_model *model, uint32_t leaf, uint32_t subleaf,
                bool matters)
{
	uint32_t value[4];

	if (cpuid->head.nent == KVM_CPUID_MAX)
		return;
	cpu_model_cpuid(model, leaf, subleaf, value);
	cpuid->entry[cpuid->head.nent++] = (struct kvm_cpuid_entry2){
	    .function = leaf,
	    .index = subleaf,
	    .flags = matters ? KVM_CPUID_FLAG_SIGNIFCANT_INDEX : 0,
	    .eax = value[EAX],
	    .ebx = value[EBX],
	    .ecx = value[ECX],
	    .edx = value[EDX],
	};
}

static void mask_features(struct cpuid_list *cpuid, struct cpuid_list *supported, int kvm_fd)
{
	for (size_t i = 0; i < sizeof(feature_register) / sizeof(feature_register[0]); i++) {
		struct kvm_cpuid_entry2 *ours =
		    find(cpuid, feature_register[i].leaf, feature_register[i].subleaf);
		struct kvm_cpuid_entry2 *theirs =
		    find(supported, feature_register[i].leaf, feature_register[i].subleaf);
		uint32_t carried = theirs ? *register_of(theirs, feature_register[i].reg) : 0;

		if (ours)
			*register_of(ours, feature_register[i].reg) &= carried | feature_register[i].always;
	}
	if (!kvm_capability(kvm_fd, KVM_CAP_TSC_DEADLINE_TIMER)) {
		struct kvm_cpuid_entry2 *features = find(cpuid, 1, 0);

		if (features)
			features->ecx &= ~(1u << 24);
	}
}

/*
 * What differs from CPU to CPU. SDM, CPUID: the initial APIC ID in 01H:EBX[31:24] and 0BH:EDX. OSXSAVE, OSPKE
 * and the XSAVE size in use follow control registers; KVM keeps them current.
 */
static void set_identity(struct cpuid_list *cpuid, unsigned index)
{
	for (unsigned i = 0; i < cpuid->head.nent; i++) {
		struct kvm_cpuid_entry2 *entry = &cpuid->entry[i];

		if (entry->function == 1) {
			entry->ebx = (entry->ebx & 0x00ffffff) | index << 24;
			entry->ecx &= ~(1u << 27);
		}
		if (entry->function == 7 && !entry->index)
			entry->ecx &= ~(1u << 4);
		if (entry->function == 0xb || entry->function == 0x1f)
			entry->edx = index;
	}
}

static int set_cpuid(struct engine_vcpu *vcpu)
{
	const struct cpu_model *model = vcpu->vm->config->cpu_model;
	struct cpuid_list *cpuid = calloc(1, sizeof(*cpuid));
	int status;

	if (!cpuid)
		return error_set(ENOMEM, "no memory for the CPUID of CPU %u", vcpu->index);
	for (unsigned i = 0; i < model->leaf_count && i < CPU_MODEL_LEAVES; i++)
		add(cpuid, model, model->leaf[i].leaf, model->leaf[i].subleaf,
		    model->leaf[i].subleaf_matters);
	mask_features(cpuid, vcpu->vm->supported, vcpu->vm->kvm_fd);
	set_identity(cpuid, vcpu->index);
	status = kvm_ioctl(vcpu->fd, KVM_SET_CPUID2, cpuid);
	free(cpuid);
	if (status < 0)
		return error_set(-status, "KVM refuses the CPU model: %s; try another --cpu",
		                 strerror(-status));
	return 0;
}

/* A frequency other than KVM's own takes hardware that scales the TSC; KVM itself ignores less than 250 ppm.
 */
static int set_tsc_frequency(struct engine_vcpu *vcpu)
{
	uint64_t khz = vcpu->vm->config->cpu_model->tsc_hz / 1000, host, difference;
	int host_khz, status;

	host_khz = kvm_ioctl_value(vcpu->fd, KVM_GET_TSC_KHZ, 0);
	if (!khz || host_khz <= 0)
		return 0;
	host = (uint64_t)host_khz;
	difference = khz > host ? khz - host : host - khz;
	if (difference * 1000000 <= host * 250)
		return 0;
	status = kvm_ioctl_value(vcpu->fd, KVM_SET_TSC_KHZ, khz);
	/* The host's measurement and KVM's may be this far apart on a host without a stable TSC. */
	if (status < 0 && difference * 100 > host)
		return error_set(
		    -status,
		    "KVM cannot run a TSC at %llu MHz on this host (%llu MHz); leave the frequency "
		    "to the host",
		    (unsigned long long)(khz / 1000), (unsigned long long)(host / 1000));
	return 0;
}

bool kvm_set_msr(struct engine_vcpu *vcpu, uint32_t index, uint64_t value)
{
	struct {
		struct kvm_msrs head;
		struct kvm_msr_entry entry;
	} msr = {.head.nmsrs = 1, .entry = {.index = index, .data = value}};

	return kvm_ioctl(vcpu->fd, KVM_SET_MSRS, &msr) == 1;
}

static bool get_msr(struct engine_vcpu *vcpu, uint32_t index, uint64_t *value)
{
	struct {
		struct kvm_msrs head;
		struct kvm_msr_entry entry;
	} msr = {.head.nmsrs = 1, .entry = {.index = index}};

	if (kvm_ioctl(vcpu->fd, KVM_GET_MSRS, &msr) != 1)
		return false;
	*value = msr.entry.data;
	return true;
}

/* What KVM can carry of a feature MSR; 0 where it has none. */
static uint64_t feature_msr(int kvm_fd, uint32_t index)
{
	struct {
		struct kvm_msrs head;
		struct kvm_msr_entry entry;
	} msr = {.head.nmsrs = 1, .entry = {.index = index}};

	return kvm_ioctl(kvm_fd, KVM_GET_MSRS, &msr) == 1 ? msr.entry.data : 0;
}

static int set_msrs(struct engine_vcpu *vcpu)
{
	const struct cpu_model *model = vcpu->vm->config->cpu_model;
	uint64_t capabilities =
	    model->arch_capabilities & feature_msr(vcpu->vm->kvm_fd, MSR_ARCH_CAPABILITIES);
	uint64_t misc_enable;

	kvm_set_msr(vcpu, MSR_ARCH_CAPABILITIES, capabilities);
	/* After reset fast strings are on; without them Linux copies by the word. */
	if (get_msr(vcpu, MSR_MISC_ENABLE, &misc_enable))
		kvm_set_msr(vcpu, MSR_MISC_ENABLE, misc_enable | MISC_ENABLE_FAST_STRINGS);
	if (!model->vmx || model->vmx_firmware == VMX_FIRMWARE_UNLOCKED)
		return 0;
	if (!kvm_set_msr(vcpu, MSR_FEATURE_CONTROL,
	                 FEATURE_CONTROL_LOCKED |
	                     (model->vmx_firmware == VMX_FIRMWARE_ON ? FEATURE_CONTROL_VMX : 0)))
		return error_set(EIO, "KVM refuses to switch the guest's VT-x on (IA32_FEATURE_CONTROL)");
	return 0;
}

int kvm_set_cpu_model(struct engine_vcpu *vcpu)
{
	int status = set_cpuid(vcpu);

	if (!status)
		status = set_tsc_frequency(vcpu);
	return status ? status : set_msrs(vcpu);
}

/*
 * What the guest CPU announces: CPUID leaves and capability MSRs, made from a named model, the user's
 * +feature/-feature list and what the host can carry. Both engines take it as their source.
 */
#ifndef NESTOR_ENGINE_CPU_MODEL_H
#define NESTOR_ENGINE_CPU_MODEL_H

#include <stdbool.h>
#include <stdint.h>

enum vmx_firmware { VMX_FIRMWARE_ON, VMX_FIRMWARE_OFF, VMX_FIRMWARE_UNLOCKED };

struct cpuid_leaf {
	uint32_t leaf, subleaf;
	bool subleaf_matters;
	uint32_t eax, ebx, ecx, edx;
};

#define CPU_MODEL_LEAVES 64

struct cpu_model {
	struct cpuid_leaf leaf[CPU_MODEL_LEAVES];
	unsigned leaf_count;
	bool vmx;                       /* CPUID.01H:ECX.VMX */
	enum vmx_firmware vmx_firmware; /* IA32_FEATURE_CONTROL after reset */
	bool hypervisor_leaf;           /* CPUID.01H:ECX[31] and leaf 40000000H */
	uint64_t arch_capabilities;     /* IA32_ARCH_CAPABILITIES */
	uint64_t xcr0_supported;        /* bits that XSETBV accepts */
	unsigned physical_address_bits;
	uint64_t tsc_hz;
	unsigned cpu_count;
};

struct cpu_model_request {
	const char *model;   /* "x86-64-v2", "x86-64-v3", or NULL for the best the host can carry */
	const char *changes; /* "+feature,-feature" or NULL */
	bool nested_vmx;
	enum vmx_firmware vmx_firmware;
	bool hypervisor_leaf;
	uint64_t tsc_hz; /* of the guest's TSC; 0: the host's */
	unsigned cpu_count;
};

/*
 * Fills *model. Returns 0, or -EINVAL with error_text() for an unknown model or feature or one that the host
 * cannot carry.
 */
int cpu_model_make(struct cpu_model *model, const struct cpu_model_request *request);

/*
 * The static part of CPUID for (leaf, subleaf), by the rules of the SDM's CPUID instruction (out-of-range
 * leaves included). The engine adds what depends on the vCPU's state (OSXSAVE, OSPKE, APIC ID, XSAVE sizes).
 */
void cpu_model_cpuid(const struct cpu_model *model, uint32_t leaf, uint32_t subleaf, uint32_t out[4]);

/* True where the model announces the CPUID bit. reg: 0 EAX, 1 EBX, 2 ECX, 3 EDX. */
bool cpu_model_has(const struct cpu_model *model, uint32_t leaf, uint32_t subleaf, unsigned reg, unsigned bit);

#endif

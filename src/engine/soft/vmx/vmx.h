/* Virtual VT-x as the rest of the software engine sees it. */
#ifndef NESTOR_VMX_VMX_H
#define NESTOR_VMX_VMX_H

#include "engine/soft/cpu/cpu.h"
#include "engine/soft/cpu/ops.h"
#include "util/hash.h"

/* Allocates cpu->vmx where the model announces VMX. Returns 0 or a negative errno. */
int vmx_create(struct cpu *cpu);
void vmx_destroy(struct cpu *cpu);
/* Power-up reset or INIT: leaves VMX operation. */
void vmx_reset(struct cpu *cpu);
/* Adds the state of VMX operation and the current VMCS. Cold. */
void vmx_state_hash(const struct cpu *cpu, struct hash *hash);

/* instructions.c. #UD where CR4.VMXE or the mode demands it; in non-root operation they exit. */
op_function op_vmxon, op_vmxoff, op_vmclear, op_vmptrld, op_vmptrst, op_vmread, op_vmwrite;
op_function op_vmlaunch, op_vmresume, op_vmcall, op_vmfunc, op_invept, op_invvpid;

/* Capability MSRs (480H-491H) and IA32_FEATURE_CONTROL are read here by cpu/'s MSR code through this. */
bool vmx_read_capability(const struct cpu_model *model, uint32_t msr, uint64_t *value);

#endif

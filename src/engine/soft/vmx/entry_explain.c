/*
 * A failed VM entry in words: the rule it violated and the values that it looked at. Uses the trace stream
 * only, so it may run whenever hot C may.
 */
#include "engine/soft/vmx/vmcs.h"

void vmx_explain_rule(struct cpu *cpu, const struct vmcs *vmcs, const struct vmx_rule *rule)
{
	cpu_trace(cpu, "VM entry refused: %s (SDM, %s)", rule->sentence, rule->section);
	for (unsigned i = 0; i < VMX_RULE_FIELDS && rule->field[i] != VMCS_NONE; i++) {
		const struct vmcs_field_info *info = &vmcs_field_info[rule->field[i]];

		cpu_trace(cpu, "  %s = %llx", info->name,
		          (unsigned long long)vmcs_get(vmcs, (enum vmcs_field)rule->field[i]));
	}
}

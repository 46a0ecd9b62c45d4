/*
 * Reading a CPU model. Compiled as hot C (soft/cpu/hot.h), because the software engine asks while the guest's
 * vector registers are live.
 */
#include "engine/cpu_model.h"

static const struct cpuid_leaf *find(const struct cpu_model *model, uint32_t leaf, uint32_t subleaf)
{
	for (unsigned i = 0; i < model->leaf_count && i < CPU_MODEL_LEAVES; i++)
		if (model->leaf[i].leaf == leaf &&
		    (!model->leaf[i].subleaf_matters || model->leaf[i].subleaf == subleaf))
			return &model->leaf[i];
	return 0;
}

/* The highest leaf of a class: what its first leaf says in EAX. */
static uint32_t highest(const struct cpu_model *model, uint32_t class)
{
	const struct cpuid_leaf *first = find(model, class, 0);

	return first ? first->eax : 0;
}

void cpu_model_cpuid(const struct cpu_model *model, uint32_t leaf, uint32_t subleaf, uint32_t out[4])
{
	uint32_t class = leaf & 0xf0000000u;
	const struct cpuid_leaf *found;

	/* SDM, CPUID: beyond the highest leaf of its class, the data of the highest basic leaf. */
	if ((class != 0x40000000u || !model->hypervisor_leaf) && leaf > highest(model, class & 0x80000000u))
		leaf = highest(model, 0);
	found = find(model, leaf, subleaf);
	out[0] = found ? found->eax : 0;
	out[1] = found ? found->ebx : 0;
	out[2] = found ? found->ecx : 0;
	out[3] = found ? found->edx : 0;
	/* SDM, Extended Topology Enumeration: the input's low byte comes back, beyond the last level too. */
	if (leaf == 0xb)
		out[2] = (out[2] & ~0xffu) | (subleaf & 0xff);
}

bool cpu_model_has(const struct cpu_model *model, uint32_t leaf, uint32_t subleaf, unsigned reg, unsigned bit)
{
	const struct cpuid_leaf *found = find(model, leaf, subleaf);

	if (!found)
		return false;

	uint32_t value = reg == 0 ? found->eax : reg == 1 ? found->ebx : reg == 2 ? found->ecx : found->edx;

	return value >> bit & 1;
}

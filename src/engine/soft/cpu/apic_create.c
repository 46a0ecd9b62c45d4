/* Allocation of a local APIC; the rest is in apic.c. */
#include <stdlib.h>
#include <string.h>

#include "engine/soft/cpu/apic_state.h"

struct apic *apic_create(struct cpu *cpu)
{
	struct apic *apic = aligned_alloc(64, (sizeof(*apic) + 63) / 64 * 64);
	uint32_t crystal[4];

	if (!apic)
		return NULL;
	memset(apic, 0, sizeof(*apic));
	cpu_model_cpuid(cpu->model, 0x15, 0, crystal);
	apic->clock_ticks = crystal[0] && crystal[1] ? crystal[1] : 1;
	apic->clock_parts = crystal[0] && crystal[1] ? crystal[0] : 1;
	apic->x2apic_offered = cpu_model_has(cpu->model, 1, 0, 2, 21);
	apic->deadline_offered = cpu_model_has(cpu->model, 1, 0, 2, 24);
	cpu->apic = apic;
	apic_reset(cpu);
	return apic;
}

void apic_destroy(struct apic *apic)
{
	free(apic);
}

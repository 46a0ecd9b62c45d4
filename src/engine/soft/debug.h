/* engine_ops.vcpu_set_debug and vcpu_debug_stop of the software engine. Cold; while the vCPU does not run. */
#ifndef NESTOR_SOFT_DEBUG_H
#define NESTOR_SOFT_DEBUG_H

#include "engine/soft/cpu/cpu.h"

int soft_set_debug(struct cpu *cpu, const struct engine_debug *debug);
void soft_debug_stop(struct cpu *cpu, struct engine_debug_stop *stop);
/* Between cpu->fpu_area and a state. */
void soft_get_vectors(const struct cpu *cpu, struct vcpu_state *state);
/* vcpu_set_registers */
void soft_set_registers(struct cpu *cpu, const struct vcpu_state *state);
/* When the vCPU is destroyed. */
void soft_debug_free(struct cpu *cpu);

#endif

/* engine_ops.vcpu_translate and vcpu_describe of the software engine. Cold; while the vCPU does not run. */
#ifndef NESTOR_SOFT_DESCRIBE_H
#define NESTOR_SOFT_DESCRIBE_H

#include <stdio.h>

#include "engine/soft/cpu/cpu.h"

int soft_translate(struct cpu *cpu, gla_t gla, gpa_t *gpa);
int soft_describe(struct cpu *cpu, const char *what, FILE *out);

#endif

#ifndef NESTOR_SOFT_STATE_HASH_H
#define NESTOR_SOFT_STATE_HASH_H

#include "engine/soft/cpu/cpu.h"
#include "util/hash.h"

/* Adds the architectural state of a vCPU that does not run, nested state and time included. Cold. */
void soft_state_hash(struct cpu *cpu, struct hash *hash);

#endif

/* Whether the translator's records fit together: what its fuzzers look at besides what guests compute. */
#ifndef NESTOR_TESTS_AUDIT_H
#define NESTOR_TESTS_AUDIT_H

struct cpu;

/* NULL, or which rule does not hold. Of the TLB's tables only those of the current context are looked at. */
const char *audit_code_cache(struct cpu *cpu);

#endif

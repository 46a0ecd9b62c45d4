/*
 * Looking into the guest's memory from outside, without any effect on it: for the control socket and debuggers. While
 * no vCPU runs (machine_pause).
 */
#ifndef NESTOR_MACHINE_INSPECT_H
#define NESTOR_MACHINE_INSPECT_H

#include <stddef.h>
#include <stdint.h>

struct machine;

/*
 * Bytes at guest-linear addresses through the paging (and, in L2, EPT) that vCPU `vcpu` has at present; no rights are
 * checked, no accessed or dirty flags set. Only RAM and ROM: a device's registers are not touched. *_physical: by
 * address of the machine (L1-physical). Return 0, or -EFAULT with error_text() that names the first address.
 */
int machine_peek(struct machine *machine, unsigned vcpu, uint64_t gla, void *to, size_t size);
int machine_poke(struct machine *machine, unsigned vcpu, uint64_t gla, const void *from, size_t size);
int machine_peek_physical(struct machine *machine, uint64_t gpa, void *to, size_t size);
int machine_poke_physical(struct machine *machine, uint64_t gpa, const void *from, size_t size);

/* What a debugger may change of a vCPU (engine_ops.vcpu_set_registers). Returns 0, or a negative errno with error_text(). */
struct vcpu_state;
int machine_set_registers(struct machine *machine, unsigned vcpu, const struct vcpu_state *state);

/* The address of the machine that gla is mapped to. Returns 0 or -EFAULT with error_text(). */
int machine_translate(struct machine *machine, unsigned vcpu, uint64_t gla, uint64_t *gpa);

#endif

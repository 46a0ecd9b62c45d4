/* Whether the hardware engine can work here. */
#ifndef NESTOR_ENGINE_KVM_PROBE_H
#define NESTOR_ENGINE_KVM_PROBE_H

#include <stdbool.h>

/*
 * Opens /dev/kvm and runs trial VMs on it: a few instructions in real mode and in 64-bit mode, port I/O, HLT.
 * need_vmx: the guest shall have VT-x itself. Returns 0, or a negative errno with *why_not (may be NULL) set
 * to one line, valid until the thread's next error, that says what is missing and what would mend it.
 */
int engine_kvm_probe(bool need_vmx, const char **why_not);

#endif

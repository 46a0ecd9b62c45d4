/* The local APIC of one vCPU: xAPIC and x2APIC, with its timer (one-shot, periodic, TSC deadline). */
#ifndef NESTOR_CPU_APIC_H
#define NESTOR_CPU_APIC_H

#include "engine/soft/cpu/cpu.h"

struct apic *apic_create(struct cpu *cpu);
void apic_destroy(struct apic *apic);
void apic_reset(struct cpu *cpu);

/* True where gpa is inside the APIC page in xAPIC mode. */
bool apic_owns(const struct cpu *cpu, gpa_t gpa);
uint64_t apic_mmio_read(struct cpu *cpu, gpa_t gpa, unsigned size);
void apic_mmio_write(struct cpu *cpu, gpa_t gpa, unsigned size, uint64_t value);
/* MSRs 800H-8FFH and IA32_APIC_BASE, IA32_TSC_DEADLINE. False: raise #GP(0). */
bool apic_read_msr(struct cpu *cpu, uint32_t msr, uint64_t *value);
bool apic_write_msr(struct cpu *cpu, uint32_t msr, uint64_t value);

/* The vector that would be delivered now (above PPR), or -1. Includes an enabled ExtINT as 256. */
int apic_pending_vector(struct cpu *cpu);
/* Moves it to in-service (or acknowledges the 8259) and returns it; -1 where it vanished. */
int apic_acknowledge(struct cpu *cpu);

/* The TSC was written or adjusted: the deadline in IA32_TSC_DEADLINE now falls at another time. */
void apic_tsc_changed(struct cpu *cpu);

/* TPR as CR8 (bits 7:4 of TPR). */
uint64_t apic_cr8(const struct cpu *cpu);
void apic_set_cr8(struct cpu *cpu, uint64_t value);

/* Takes in messages left by other threads and an expired timer. Called by cpu_poll_events. */
void apic_collect(struct cpu *cpu);

/* Any thread: leaves a message for this vCPU and kicks it. delivery_mode: MSI's (0 fixed, 2 SMI, 4 NMI, 5 INIT,
 * 6 SIPI, 7 ExtINT). */
void apic_post(struct cpu *cpu, uint8_t delivery_mode, uint8_t vector, bool level);
/* Any thread: does the message's destination field name this vCPU? */
bool apic_matches(const struct cpu *cpu, uint32_t destination, bool logical, bool x2apic_format);

/* Sends an IPI or MSI to whichever vCPUs it names; provided by soft.c, which knows them all. */
void soft_deliver(struct cpu *source, uint32_t destination, bool logical, bool x2apic_format,
		  uint8_t delivery_mode, uint8_t vector, bool level, unsigned shorthand);

#endif

/* The I/O APIC. All under the machine lock. */
#ifndef NESTOR_DEVICE_IOAPIC_H
#define NESTOR_DEVICE_IOAPIC_H

#include <stdint.h>

struct ioapic;

/* A local APIC's EOI for a level-triggered vector. */
void ioapic_eoi(struct ioapic *ioapic, uint8_t vector);

#endif

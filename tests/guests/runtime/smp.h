/*
 * Several CPUs in a freestanding guest: application processors are started into 64-bit mode on the boot processor's
 * tables, and then wait for work. CPU numbers are APIC IDs; the run is given `--cpus SMP_CPUS`.
 */
#ifndef GUESTS_RUNTIME_SMP_H
#define GUESTS_RUNTIME_SMP_H

#include "guest.h"

#define SMP_CPUS 4

/* SDM, Interrupt Command Register. */
#define ICR_FIXED    0x00000u
#define ICR_LOWEST   0x00100u
#define ICR_NMI      0x00400u
#define ICR_INIT     0x00500u
#define ICR_SIPI     0x00600u
#define ICR_LOGICAL  0x00800u
#define ICR_ASSERT   0x04000u
#define ICR_LEVEL    0x08000u
#define ICR_SELF     0x40000u
#define ICR_ALL      0x80000u
#define ICR_OTHERS   0xc0000u

/* A word of its own for each CPU. */
struct smp_word {
	volatile uint64_t value;
	uint8_t pad[56];
} __attribute__((aligned(64)));

extern struct smp_word smp_up[SMP_CPUS]; /* how often the CPU has been started */

unsigned smp_self(void);
/* In xAPIC or x2APIC mode, whichever this CPU is in. destination: an APIC ID or a logical destination. */
void smp_send(unsigned destination, uint32_t command);
void smp_end_of_interrupt(void);
/* INIT and SIPI with the trampoline's vector. The CPU is up afterwards; false where it did not come within a second. */
bool smp_start(unsigned cpu);
void smp_init(unsigned cpu);

/* Has CPU `cpu` call work(argument); does not wait. */
void smp_call(unsigned cpu, void (*work)(uint64_t argument), uint64_t argument);
/* Until it has returned. False where it has not within some seconds. */
bool smp_wait(unsigned cpu);
/* On all CPUs, this one included, with their numbers; waits for all. */
bool smp_call_all(void (*work)(uint64_t argument));

/* Waits until *word is at least value; false after some seconds. */
bool smp_until(const volatile uint64_t *word, uint64_t value);

static inline void pause(void)
{
	__asm__ volatile("pause" : : : "memory");
}

#endif

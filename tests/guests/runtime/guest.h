/*
 * Run time of freestanding test guests: 64-bit mode at CPL 0, memory mapped to itself, text on COM1, an IDT whose
 * exceptions a test can expect. A guest defines guest_main() and checks with CHECK and CHECK_EQ; its exit status
 * through isa-debug-exit is 0 (the run's: 1) where all held.
 */
#ifndef GUESTS_RUNTIME_GUEST_H
#define GUESTS_RUNTIME_GUEST_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "runtime/report.h"

void guest_main(void);

/* As pushed by start.S. */
struct frame {
	uint64_t r15, r14, r13, r12, r11, r10, r9, r8, rdi, rsi, rbp, rbx, rdx, rcx, rax;
	uint64_t vector, error, rip, cs, rflags, rsp, ss;
};

/* The last exception or interrupt; vector is NO_FAULT before. */
struct fault {
	uint64_t vector, error, rip, cr2, rflags, count;
};
#define NO_FAULT 256
extern volatile struct fault fault;

/* Where an exception under TRY goes on; 0: it is unexpected. */
extern volatile uint64_t recover_rip;

/*
 * Runs one or more instructions that may fault; evaluates to the vector, or NO_FAULT. Operands as in extended
 * asm, named only. The code must leave RSP as it was.
 */
#define TRY(code, outputs, inputs, ...)                                                                      \
	({                                                                                                   \
		fault.vector = NO_FAULT;                                                                     \
		__asm__ volatile("movq $771f, recover_rip\n\t" code "\n771:\n\tmovq $0, recover_rip"         \
		                 : outputs                                                                   \
		                 : inputs                                                                    \
		                 : "memory", "cc", ##__VA_ARGS__);                                           \
		fault.vector;                                                                                \
	})
#define OPERANDS(...) __VA_ARGS__

/* Interrupts (vectors 32 up) are counted here; the handler sends EOI to the local APIC. */
extern volatile unsigned interrupts[256];
/* Called for every exception and interrupt where set; true: handled. */
extern bool (*volatile on_exception)(struct frame *frame);

extern uint64_t runtime_idt[512];
extern uint64_t runtime_pml4[512], runtime_pdpt[512], runtime_pd[2048], runtime_gdt[];
extern uint8_t runtime_tss[104];
extern const uint8_t runtime_vectors[]; /* 16 bytes each */

#define CODE64   0x08
#define DATA     0x10
#define CODE32   0x18
#define USER64   0x23
#define USERDATA 0x2b
#define USER32   0x33
#define TSS      0x38
#define CODE16   0x48
#define DATA16   0x50
#define OWN      0x58 /* four descriptors for tests */

static inline uint64_t rdmsr(uint32_t msr)
{
	uint32_t low, high;

	__asm__ volatile("rdmsr" : "=a"(low), "=d"(high) : "c"(msr));
	return low | (uint64_t)high << 32;
}

static inline void wrmsr(uint32_t msr, uint64_t value)
{
	__asm__ volatile("wrmsr" : : "c"(msr), "a"((uint32_t)value), "d"((uint32_t)(value >> 32)) : "memory");
}

static inline uint8_t inb(uint16_t port)
{
	uint8_t value;

	__asm__ volatile("inb %1, %0" : "=a"(value) : "Nd"(port));
	return value;
}

static inline void cpuid(uint32_t leaf, uint32_t subleaf, uint32_t out[4])
{
	__asm__ volatile("cpuid"
	                 : "=a"(out[0]), "=b"(out[1]), "=c"(out[2]), "=d"(out[3])
	                 : "a"(leaf), "c"(subleaf));
}

#define READ_CR(n)                                                                                           \
	static inline uint64_t read_cr##n(void)                                                              \
	{                                                                                                    \
		uint64_t value;                                                                              \
                                                                                                             \
		__asm__ volatile("mov %%cr" #n ", %0" : "=r"(value) : : "memory");                           \
		return value;                                                                                \
	}                                                                                                    \
	static inline void write_cr##n(uint64_t value)                                                       \
	{                                                                                                    \
		__asm__ volatile("mov %0, %%cr" #n : : "r"(value) : "memory");                               \
	}
READ_CR(0)
READ_CR(2)
READ_CR(3)
READ_CR(4)

static inline uint64_t rdtsc(void)
{
	uint32_t low, high;

	__asm__ volatile("rdtsc" : "=a"(low), "=d"(high));
	return low | (uint64_t)high << 32;
}

static inline void invlpg(uint64_t linear)
{
	__asm__ volatile("invlpg (%0)" : : "r"(linear) : "memory");
}

static inline void apic_write(unsigned offset, uint32_t value)
{
	*(volatile uint32_t *)(0xfee00000ul + offset) = value;
}

static inline uint32_t apic_read(unsigned offset)
{
	return *(volatile uint32_t *)(0xfee00000ul + offset);
}

#endif

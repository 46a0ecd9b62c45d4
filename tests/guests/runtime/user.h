/*
 * Code at CPL 3, and what the tests of faults have in common.
 */
#ifndef GUESTS_RUNTIME_USER_H
#define GUESTS_RUNTIME_USER_H

#include "runtime/guest.h"

#define USER_RETURN 0x80 /* the software interrupt by which user code comes back */
#define FLAGS_USER  2

/*
 * Goes to cs:rip with that RSP and RFLAGS, SS = USERDATA, RDI and RSI as given. Comes back with INT 80H, or with
 * an exception that no TRY expects: `fault` tells which. Returns RAX.
 */
uint64_t user_run(uint64_t rip, uint64_t rsp, uint64_t cs, uint64_t rflags, uint64_t rdi, uint64_t rsi);
extern const uint8_t user_back[];
extern uint64_t user_kernel_rsp;

/* The stack that user_call gives, and the one that TSS.RSP0 names. */
extern uint8_t user_stack[8192], kernel_stack[16384];
#define USER_STACK_TOP   ((uint64_t)(user_stack + sizeof(user_stack) - 64))
#define KERNEL_STACK_TOP ((uint64_t)(kernel_stack + sizeof(kernel_stack)))

/* Before anything else: RSP0, the gate for INT 80H, the handler. */
void user_setup(void);
/* Runs a C function at CPL 3 in 64-bit mode, with `flags` besides RFLAGS' bit 1. */
void user_call(void (*function)(void), uint64_t flags);

/* Sees every exception and interrupt first (in place of on_exception, which user_setup takes). */
extern bool (*volatile test_hook)(struct frame *frame);
/* The last frame as pushed, and where it was; SS and RFLAGS in the handler. */
extern struct frame last_frame;
extern uint64_t last_frame_address, handler_ss, handler_rflags;

/* Address of the instruction that FAULTS expects the exception at. */
extern volatile uint64_t expected_rip;
#define AT(code)    "movq $773f, expected_rip\n773:\t" code
#define AFTER(code) "movq $774f, expected_rip\n\t" code "\n774:"

/* RSP after the next exception that a TRY expects; 0: as it was. */
extern volatile uint64_t restore_rsp;

/* As TRY; where it faults RSP is as before; the code may change RAX, RCX and RDX besides. Operands in registers only. */
#define TRY_SAVED(code, ...)                                                                                 \
	do {                                                                                                 \
		fault.vector = NO_FAULT;                                                                     \
		__asm__ volatile("push %%rax\n\tpush %%rcx\n\tpush %%rdx\n\tmovq $775f, recover_rip\n\t"         \
		                 "mov %%rsp, restore_rsp\n\t" code                                           \
		                 "\n775:\n\tmovq $0, recover_rip\n\tmovq $0, restore_rsp\n\tpop %%rdx\n\tpop %%rcx\n\tpop %%rax"           \
		                 :                                                                           \
		                 : __VA_ARGS__                                                               \
		                 : "memory", "cc");                                                          \
	} while (0)
/* One rule: the code, wrapped in AT or AFTER, raises the vector with the error code and that return address. */
#define RAISES(name, vector_, error_, code, ...)                                                             \
	do {                                                                                                 \
		rule(name);                                                                                  \
		TRY_SAVED(code, __VA_ARGS__);                                                                \
		CHECK_EQ(fault.vector, vector_);                                                             \
		if (fault.vector != NO_FAULT) {                                                              \
			CHECK_EQ(fault.error, error_);                                                       \
			CHECK_EQ(fault.rip, expected_rip);                                                   \
		}                                                                                            \
	} while (0)
#define NO_RAISE(name, code, ...)                                                                            \
	do {                                                                                                 \
		rule(name);                                                                                  \
		TRY_SAVED(code, __VA_ARGS__);                                                                \
		CHECK_EQ(fault.vector, NO_FAULT);                                                            \
	} while (0)

/* IDT gates: type 0xe interrupt, 0xf trap. */
void gate_set(unsigned vector, unsigned type, unsigned dpl, unsigned ist, bool present);
/* IST pointer 1-7 of the TSS. */
void ist_set(unsigned ist, uint64_t rsp);

#define CR0_MP (1u << 1)
#define CR0_EM (1u << 2)
#define CR0_TS (1u << 3)
#define CR0_NE (1u << 5)
#define CR0_WP (1u << 16)
#define CR0_AM (1u << 18)
#define CR4_PGE        (1u << 7)
#define CR4_DE         (1u << 3)
#define CR4_TSD        (1u << 2)
#define CR4_OSFXSR     (1u << 9)
#define CR4_OSXMMEXCPT (1u << 10)
#define CR4_UMIP       (1u << 11)
#define CR4_FSGSBASE   (1u << 16)
#define CR4_PCIDE      (1u << 17)
#define CR4_OSXSAVE    (1u << 18)
#define CR4_SMEP       (1u << 20)
#define CR4_SMAP       (1u << 21)
#define FLAG_CF (1u << 0)
#define FLAG_ZF (1u << 6)
#define FLAG_TF (1u << 8)
#define FLAG_IF (1u << 9)
#define FLAG_DF (1u << 10)
#define FLAG_NT (1u << 14)
#define FLAG_RF (1u << 16)
#define FLAG_AC (1u << 18)
#define FLAG_ID (1u << 21)

static inline uint64_t read_flags(void)
{
	uint64_t flags;

	__asm__ volatile("pushfq\n\tpop %0" : "=r"(flags));
	return flags;
}

static inline bool has_feature(uint32_t leaf, unsigned reg, unsigned bit)
{
	uint32_t r[4];

	cpuid(leaf, 0, r);
	return r[reg] >> bit & 1;
}

#endif

/* Run time of 32-bit freestanding guests: flat protected mode at CPL 0 without paging. As guest.h otherwise. */
#ifndef GUESTS_RUNTIME_GUEST32_H
#define GUESTS_RUNTIME_GUEST32_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "runtime/report.h"

void guest_main(void);
/* As pushed by start32.S; esp and ss only from an outer level, the others only from virtual-8086 mode. */
struct frame {
	uint32_t es, ds, edi, esi, ebp, esp_pushed, ebx, edx, ecx, eax, vector, error, eip, cs, eflags, esp, ss;
	uint32_t v86_es, v86_ds, v86_fs, v86_gs;
};
#define NO_FAULT 256
extern volatile struct fault {
	uint32_t vector, error, eip, cr2, eflags, cs;
} fault;
extern volatile uint32_t recover_eip, restore_esp, expected_eip;
extern bool (*volatile on_exception)(struct frame *frame);
extern struct frame last_frame;

/*
 * The code may fault: evaluates to the vector, or NO_FAULT. ESP and the segment registers ES and DS are restored.
 * EBX holds ESP, and is not the code's.
 */
#define TRY(code, outputs, inputs)                                                                           \
	({                                                                                                   \
		fault.vector = NO_FAULT;                                                                     \
		__asm__ volatile("mov %%esp, restore_esp\n\tmovl $771f, recover_eip\n\t" code                \
		                 "\n771:\n\tmov %%cs:restore_esp, %%esp\n\tmovl $0, %%ss:recover_eip\n\t"             \
		                 "push %%ss\n\tpop %%ds\n\tpush %%ss\n\tpop %%es"                                    \
		                 : outputs                                                                   \
		                 : inputs                                                                    \
		                 : "memory", "cc");                                                          \
		fault.vector;                                                                                \
	})
#define OPERANDS(...) __VA_ARGS__
#define AT(code)      "movl $773f, %%ss:expected_eip\n773:\t" code
#define RAISES(name, vector_, error_, code, ...)                                                             \
	do {                                                                                                 \
		rule(name);                                                                                  \
		CHECK_EQ(TRY(code, , OPERANDS(__VA_ARGS__)), vector_);                                       \
		if (fault.vector != NO_FAULT) {                                                              \
			CHECK_EQ(fault.error, error_);                                                       \
			CHECK_EQ(fault.eip, expected_eip);                                                   \
		}                                                                                            \
	} while (0)

#define CODE   0x08
#define DATA   0x10
#define CODE16 0x18
#define DATA16 0x20
#define UCODE  0x2b
#define UDATA  0x33
#define OWN    0x38

extern uint64_t gdt[], idt[256];
extern const uint8_t vectors[], user_back[];
extern uint32_t user_kernel_esp;
/* Goes to cs:eip by IRET; back with INT 80H or an exception that no TRY expects. VM in flags: virtual-8086. */
void user_run(uint32_t eip, uint32_t esp, uint32_t cs, uint32_t flags, uint32_t ss);

#define CONTROL(n)                                                                                           \
	static inline uint32_t read_cr##n(void)                                                              \
	{                                                                                                    \
		uint32_t value;                                                                              \
                                                                                                             \
		__asm__ volatile("mov %%cr" #n ", %0" : "=r"(value) : : "memory");                           \
		return value;                                                                                \
	}                                                                                                    \
	static inline void write_cr##n(uint32_t value)                                                       \
	{                                                                                                    \
		__asm__ volatile("mov %0, %%cr" #n : : "r"(value) : "memory");                               \
	}
CONTROL(0)
CONTROL(2)
CONTROL(3)
CONTROL(4)

#endif

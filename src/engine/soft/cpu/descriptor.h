/*
 * Descriptors and segment registers: reading the GDT and LDT, the checks of each kind of load, the TSS's
 * stacks, and the stack frames that events and far transfers push. Every function that raises does so before
 * it has changed a register; descriptors' accessed bits are all that may have been set.
 */
#ifndef NESTOR_CPU_DESCRIPTOR_H
#define NESTOR_CPU_DESCRIPTOR_H

#include "engine/soft/cpu/cpu.h"
#include "engine/soft/cpu/memory.h"

/* Descriptor types with S = 0 (SDM, System-Segment and Gate-Descriptor Types). */
enum system_type {
	TYPE_TSS16 = 1,
	TYPE_LDT = 2,
	TYPE_TSS16_BUSY = 3,
	TYPE_CALL_GATE16 = 4,
	TYPE_TASK_GATE = 5,
	TYPE_INTERRUPT_GATE16 = 6,
	TYPE_TRAP_GATE16 = 7,
	TYPE_TSS = 9,
	TYPE_TSS_BUSY = 11,
	TYPE_CALL_GATE = 12,
	TYPE_INTERRUPT_GATE = 14,
	TYPE_TRAP_GATE = 15,
};

#define TYPE_ACCESSED 1u
#define TYPE_WRITABLE 2u /* data; of code: readable */
#define TYPE_DOWN     4u /* data: expand-down; of code: conforming */
#define TYPE_CODE     8u

/* Rights of the flat segments that SYSCALL and its like load without looking at a descriptor. */
#define RIGHTS_FLAT_CODE64(dpl) (RIGHTS_G | RIGHTS_L | RIGHTS_P | (uint32_t)(dpl) << 5 | RIGHTS_S | 0xbu)
#define RIGHTS_FLAT_CODE32(dpl) (RIGHTS_G | RIGHTS_DB | RIGHTS_P | (uint32_t)(dpl) << 5 | RIGHTS_S | 0xbu)
#define RIGHTS_FLAT_DATA32(dpl) (RIGHTS_G | RIGHTS_DB | RIGHTS_P | (uint32_t)(dpl) << 5 | RIGHTS_S | 0x3u)

/* A descriptor as it was read: 8 bytes, or 16 (high) for system descriptors in IA-32e mode. */
struct descriptor {
	uint64_t raw, high;
	gla_t address;
};

static inline uint32_t descriptor_rights(const struct descriptor *d)
{
	return (d->raw >> 40) & 0xf0ff;
}

static inline bool rights_is_code(uint32_t rights)
{
	return (rights & (RIGHTS_S | TYPE_CODE)) == (RIGHTS_S | TYPE_CODE);
}

static inline bool rights_is_writable_data(uint32_t rights)
{
	return (rights & (RIGHTS_S | TYPE_CODE | TYPE_WRITABLE)) == (RIGHTS_S | TYPE_WRITABLE);
}

static inline bool selector_is_null(uint16_t selector)
{
	return !(selector & 0xfffc);
}

static inline bool cpu_is_long(const struct cpu *cpu)
{
	return cpu->mode & MODE_LONG;
}

/* A linear address as the mode has it: outside IA-32e mode 32 bits. */
static inline gla_t cpu_linear(const struct cpu *cpu, uint64_t address)
{
	return GLA(cpu_is_long(cpu) ? address : (uint32_t)address);
}

/* The error code that names a selector; EXT is added by cpu_raise_error. */
static inline uint32_t selector_error(uint16_t selector)
{
	return selector & 0xfffc;
}

/*
 * 64-bit accesses that hit the software TLB without a call: descriptors and stacks of the long-mode fast
 * paths. An entry is there only where the access is permitted and goes to plain RAM.
 */
static inline uint64_t quick_read64(struct cpu *cpu, gla_t gla, enum tlb_class class)
{
	const void *host = tlb_look_up(&cpu->region->tables.read[class], gla.v, 8);
	uint64_t value;

	if (!host)
		return mem_read_linear(cpu, gla, 8, class);
	__builtin_memcpy(&value, host, 8);
	return value;
}

/* Host address of [gla, gla + size), or NULL where the write has to take the long way. */
static inline void *quick_write(struct cpu *cpu, gla_t gla, unsigned size, enum tlb_class class)
{
	return tlb_look_up(&cpu->region->tables.write[class], gla.v, size);
}

static inline const void *quick_read(struct cpu *cpu, gla_t gla, unsigned size, enum tlb_class class)
{
	return tlb_look_up(&cpu->region->tables.read[class], gla.v, size);
}

/*
 * Reads the descriptor that a selector names. False where it lies outside its table, or there is no LDT.
 * The null selector is the caller's business. Raises page faults only.
 */
bool descriptor_read(struct cpu *cpu, uint16_t selector, struct descriptor *d);
/* The same for a call gate, LDT or TSS, which take 16 bytes in IA-32e mode. */
bool descriptor_read_system(struct cpu *cpu, uint16_t selector, struct descriptor *d);

/* Fills a segment register's value from a code or data descriptor, or a system one (with its upper half). */
void descriptor_parse(const struct cpu *cpu, const struct descriptor *d, uint16_t selector,
                      struct segment *segment);

/* Sets the accessed bit of a code or data descriptor, in memory and in *d, where it is clear. */
void descriptor_set_accessed(struct cpu *cpu, struct descriptor *d);
/* Writes the type's busy bit of a TSS descriptor in memory. */
void descriptor_set_busy(struct cpu *cpu, const struct descriptor *d, bool busy);

/* The register with a null selector. dpl: kept in the rights, as SS's DPL is the CPL for VM exits. */
static inline void segment_set_null(struct segment *segment, uint16_t selector, unsigned dpl)
{
	*segment = (struct segment){.selector = selector, .rights = RIGHTS_UNUSABLE | dpl << 5};
}

/* Real-address mode and virtual-8086 mode: selector and base; the latter sets limit and rights as well. */
void segment_load_real(struct cpu *cpu, unsigned index, uint16_t selector);
void segment_load_v86(struct cpu *cpu, unsigned index, uint16_t selector);

/* MOV to, POP to and Lxx of ES, SS, DS, FS, GS in the present mode, with all checks. Does not update the mode
 * key. */
void segment_load(struct cpu *cpu, unsigned index, uint16_t selector);

/*
 * Checks a stack segment for code at `cpl` and returns its descriptor, accessed bit set. vector: VECTOR_GP
 * for loads and returns, VECTOR_TS for stacks out of a TSS; a segment that is not present is #SS in either
 * case. A null selector is raised as vector(0): the caller lets through the null ones of 64-bit mode.
 */
void stack_segment_check(struct cpu *cpu, uint16_t selector, unsigned cpl, enum vector vector,
                         struct descriptor *d);

/* After a return to an outer privilege level: clears data segments that its code must not have. */
void segments_drop_privileged(struct cpu *cpu);

/* A code segment's descriptor after its checks, ready to be put into CS. */
void segment_set_cs(struct cpu *cpu, const struct descriptor *d, uint16_t selector, unsigned cpl);

/* True where [offset, offset + size) is within the limit of a usable segment outside 64-bit mode. */
bool segment_within_limit(const struct segment *segment, uint64_t offset, unsigned size);

/* ---- stacks ---- */

/* The TSS's stack for privilege level cpl: 16- and 32-bit TSS. Raises #TS. */
void tss_stack(struct cpu *cpu, unsigned cpl, uint16_t *selector, uint32_t *pointer);
/* The 64-bit TSS's RSPn, or ISTn where ist is not 0. Raises #TS; a non-canonical pointer is #SS(0). */
uint64_t tss_stack64(struct cpu *cpu, unsigned cpl, unsigned ist);

/* A stack that is going to be pushed on: the present one (stack_present) or a new one. */
struct stack {
	struct segment ss;
	uint64_t mask; /* of the stack pointer */
	uint64_t sp;
	enum tlb_class class;
	uint16_t error; /* selector for #SS; 0 for the present stack */
	bool flat64;    /* 64-bit mode: canonical check in place of the segment's */
};

void stack_present(const struct cpu *cpu, struct stack *stack);
/* In the segment just read from d; 16-, 32-bit and compatibility-mode stacks. */
void stack_new(struct cpu *cpu, struct stack *stack, const struct descriptor *d, uint16_t selector,
               uint64_t sp, unsigned cpl);
/* Raises what pushing `bytes` bytes in pieces of `size` would raise. */
void stack_check(struct cpu *cpu, const struct stack *stack, unsigned bytes, unsigned size);
/* Checks all, then pushes values[0], values[1] … in this order and moves stack->sp. */
void stack_push_frame(struct cpu *cpu, struct stack *stack, const uint64_t *values, unsigned count,
                      unsigned size);
/* Commits stack->sp to RSP, of which a narrow stack leaves the upper part alone. */
void stack_commit(struct cpu *cpu, const struct stack *stack);

static inline uint64_t stack_pointer_mask(const struct cpu *cpu)
{
	if (cpu->mode & MODE_CODE64)
		return UINT64_MAX;
	return cpu->mode & MODE_STACK32 ? UINT32_MAX : UINT16_MAX;
}

/* The item `offset` bytes above the top of the stack. */
static inline uint64_t stack_peek(struct cpu *cpu, uint64_t offset, unsigned size)
{
	return mem_read(cpu, SEG_SS, stack_offset(cpu, offset), size);
}

/* Sets SP, ESP or RSP. mask: stack_pointer_mask of the mode that the pointer is of. */
static inline void stack_set_masked(struct cpu *cpu, uint64_t mask, uint64_t value)
{
	if (mask == UINT16_MAX)
		cpu->gpr[REG_RSP] = (cpu->gpr[REG_RSP] & ~mask) | (value & mask);
	else
		cpu->gpr[REG_RSP] = value & mask;
}

/* Raises #GP(0) where offset is no valid instruction pointer for the code segment. */
void code_offset_check(struct cpu *cpu, const struct descriptor *d, uint64_t offset);

/* ---- task switches (task_switch.c) ---- */

enum task_source { TASK_CALL, TASK_IRET, TASK_JMP, TASK_GATE /* in the IDT */ };

/*
 * Switches to the task whose TSS `selector` names. return_rip: what the old TSS gets as EIP, old_flags as
 * EFLAGS. has_error: pushes `error` on the new task's stack (exceptions). Exits first in non-root operation.
 * Sets rip and next_rip.
 */
void task_switch(struct cpu *cpu, uint16_t selector, enum task_source source, const struct insn *insn,
                 uint64_t return_rip, uint64_t old_flags, bool has_error, uint32_t error);

/* ---- events (exception.c) ---- */

/* INT n in virtual-8086 mode goes to the program's own vector table: CR4.VME and a clear bit in the TSS's
 * redirection bitmap. Raises #GP(0) where the TSS has no such bitmap. */
bool vme_redirects(struct cpu *cpu, uint8_t vector);

#endif

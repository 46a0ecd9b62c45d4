/*
 * Guest memory for C code. "Guest" functions take a segment and offset or a linear address, check everything
 * that the instruction would check, and raise the fault (they do not return then). Sizes are in bytes; values
 * are little-endian integers. Accesses may cross pages, touch MMIO and code: all of that is handled here.
 */
#ifndef NESTOR_CPU_MEMORY_H
#define NESTOR_CPU_MEMORY_H

#include "engine/soft/cpu/cpu.h"

/*
 * Linear address of `size` bytes at seg:offset, after the segment's own checks (64-bit: canonical; else limit,
 * type, null) for `access`; raises #GP(0) or #SS(0). The offset is not truncated here.
 */
gla_t mem_linear(struct cpu *cpu, unsigned seg, uint64_t offset, unsigned size, enum mem_access access);

/* size: 1, 2, 4, 8. At the present CPL. */
uint64_t mem_read(struct cpu *cpu, unsigned seg, uint64_t offset, unsigned size);
void mem_write(struct cpu *cpu, unsigned seg, uint64_t offset, unsigned size, uint64_t value);

/* By linear address. class: of the access; TLB_SUPER with implicit = descriptor tables, TSS, … (SMAP ignores AC). */
uint64_t mem_read_linear(struct cpu *cpu, gla_t gla, unsigned size, enum tlb_class class);
void mem_write_linear(struct cpu *cpu, gla_t gla, unsigned size, uint64_t value, enum tlb_class class);
/* Any size up to 4096; checks every page before it copies. */
void mem_read_block(struct cpu *cpu, gla_t gla, void *to, unsigned size, enum tlb_class class);
void mem_write_block(struct cpu *cpu, gla_t gla, const void *from, unsigned size, enum tlb_class class);
/* Raises the fault that a write of [gla, gla + size) would raise; changes nothing but A/D bits. */
void mem_check_write(struct cpu *cpu, gla_t gla, unsigned size, enum tlb_class class);
/* Implicit supervisor access (GDT, LDT, IDT, TSS): the class to pass for those. */
static inline enum tlb_class mem_class_system(const struct cpu *cpu)
{
	(void)cpu;
	return TLB_SUPER;
}
/* The class of an ordinary data access by the present code. */
static inline enum tlb_class mem_class(const struct cpu *cpu)
{
	return MODE_CLASS(cpu->mode);
}

/* L1-physical memory. RAM, else MMIO; never fault. Writes notify the translator. */
uint64_t phys_read(struct cpu *cpu, gpa_t gpa, unsigned size);
void phys_write(struct cpu *cpu, gpa_t gpa, unsigned size, uint64_t value);
void phys_read_block(struct cpu *cpu, gpa_t gpa, void *to, unsigned size);
void phys_write_block(struct cpu *cpu, gpa_t gpa, const void *from, unsigned size);

/*
 * Translates by the guest's tables (and EPT) without raising, setting A/D bits or filling the TLB: for gdb,
 * traces and look-ahead. False where not mapped.
 */
bool mem_probe(struct cpu *cpu, gla_t gla, gpa_t *gpa);

/* ---- operands of an instruction (operand.c) ---- */

/* Offset of the memory operand, truncated to the address size. RIP-relative uses cpu->next_rip. */
uint64_t operand_offset(struct cpu *cpu, const struct insn *insn);
/* Register number -> value of `size` bytes; size 1 heeds AH…BH where there is no REX prefix. */
uint64_t operand_register(struct cpu *cpu, const struct insn *insn, unsigned number, unsigned size);
/* size 4 zero-extends to 64 bits; 1 and 2 keep the rest. */
void operand_set_register(struct cpu *cpu, const struct insn *insn, unsigned number, unsigned size, uint64_t value);
/* The ModRM operand, register or memory. */
uint64_t operand_rm(struct cpu *cpu, const struct insn *insn, unsigned size);
void operand_set_rm(struct cpu *cpu, const struct insn *insn, unsigned size, uint64_t value);

/* ---- stack (operand.c): with SS's size and checks; size 2, 4 or 8 ---- */
void stack_push(struct cpu *cpu, unsigned size, uint64_t value); /* changes RSP after the write succeeded */
uint64_t stack_pop(struct cpu *cpu, unsigned size);              /* changes RSP after the read succeeded */
/* Bytes of the stack pointer in use: 8 in 64-bit mode, else 4 or 2 by SS.B. */
unsigned stack_address_size(const struct cpu *cpu);
/* The stack pointer plus `change` bytes, wrapped at its size: an offset in SS. */
uint64_t stack_offset(const struct cpu *cpu, int64_t change);
/* Sets as much of RSP as is in use. */
void stack_set_pointer(struct cpu *cpu, uint64_t offset);

#endif

/*
 * The registers as GDB numbers them: the standard features core, sse, avx and segments, and one of Nestor's own with
 * the control registers. A target description (target.xml) says so to GDB. GDB cannot change between 64-bit code and
 * 16- or 32-bit code within a session, so there is one description for x86-64, and one for the
 * others.
 */
#ifndef NESTOR_GDB_REGISTERS_H
#define NESTOR_GDB_REGISTERS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct vcpu_state; /* engine/vcpu_state.h */

#define REGISTERS_SIZE_MAX 2048 /* bytes of all registers together */
#define REGISTER_SIZE_MAX  16

struct register_row;

struct registers {
	const struct register_row *row;
	unsigned row_count;
	char xml[16384]; /* target.xml */
	size_t xml_size;
	unsigned count;
};

/* The kind of code that GDB is to suppose. */
enum registers_kind { REGISTERS_X86_64, REGISTERS_I386, REGISTERS_I8086 };

/* avx: the CPU has it. */
void registers_init(struct registers *registers, bool avx, enum registers_kind kind);

/* Bytes of register number `number`, 0: there is no such. */
unsigned registers_size(const struct registers *registers, unsigned number);
/* Its value, as many bytes, to or from the state. */
void registers_get(const struct registers *registers, unsigned number, const struct vcpu_state *state,
                   void *value);
void registers_set(const struct registers *registers, unsigned number, struct vcpu_state *state,
                   const void *value);

/* The linear address of the next instruction: what GDB sees as rip or eip. */
uint64_t registers_pc(const struct vcpu_state *state);

#endif

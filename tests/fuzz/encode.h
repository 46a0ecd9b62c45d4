/* What the generators of fuzz_translator share: random numbers, the sequence's bytes, operands and encodings. */
#ifndef NESTOR_TESTS_ENCODE_H
#define NESTOR_TESTS_ENCODE_H

#include <stdbool.h>
#include <stdint.h>

/* The same linear addresses natively and in the guest. */
#define CODE	   0x40000000ul
#define CODE_SIZE  0x8000u
#define DATA	   0x50000000ul
#define DATA_PAGES 4u
#define DATA_SIZE  (DATA_PAGES * 4096u)
#define STACK	   0x50100000ul /* of sequences that call; within DATA's page table */
#define STACK_SIZE 0x80000u

extern uint64_t random_state;
uint64_t next_random(void);
/* 0 … n - 1 */
unsigned pick(unsigned n);

extern uint8_t code[CODE_SIZE]; /* to be run at CODE */
extern unsigned code_length;
void put(uint8_t byte);
void put_bytes(uint64_t value, unsigned size);

extern unsigned reserved_registers; /* bit r: pick_register does not choose r */
extern bool exact_flags;	    /* those that nothing needs, too */
extern bool calm;		    /* faults are rare, and nothing is stored above rsp */

/* General registers by their hardware numbers; never rsp, which points to the stack. */
unsigned pick_register(void);
/* Random operand size: returns bytes; *prefix and *w encode it. */
unsigned pick_size(unsigned *prefix, bool *w);

struct operand {
	bool memory;
	unsigned reg;		     /* where !memory */
	unsigned base, index, scale; /* index 16: none; base 17: RIP */
	int32_t disp;
};

struct operand reg_operand(unsigned reg);
/* Chooses a memory operand and emits the MOVs that make it point into DATA. inside: it surely does not fault. */
struct operand pick_memory_of(unsigned size, bool aligned, bool inside);
struct operand pick_memory(unsigned size, bool aligned);
/* REX's R, X and B. */
unsigned operand_rex(unsigned reg, const struct operand *rm);

void put_mov_imm(unsigned reg, uint64_t value);
/* prefix: 0, 66, F2, F3; map 0..3 */
void put_legacy(unsigned prefix, bool lock, bool w, bool byte_rex, unsigned map, uint8_t opcode, unsigned reg,
		struct operand rm, unsigned imm_size, uint64_t imm);
void put_vex(unsigned map, unsigned pp, bool w, bool l, unsigned vvvv, uint8_t opcode, unsigned reg,
	     struct operand rm, unsigned imm_size, uint64_t imm);

#endif

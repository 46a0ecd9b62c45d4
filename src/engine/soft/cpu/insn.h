/*
 * One decoded guest instruction: plain data, made by the decoder, read by the C functions that execute
 * system instructions (cpu/, vmx/) and by the translator.
 */
#ifndef NESTOR_CPU_INSN_H
#define NESTOR_CPU_INSN_H

#include <stdbool.h>
#include <stdint.h>

#define INSN_NO_REG   0xff /* no base, or no index */
#define INSN_BASE_RIP 0xfe /* RIP-relative: the displacement is added to the next instruction's address */

enum insn_prefix {
	PREFIX_REP = 1 << 0,    /* F3 */
	PREFIX_REPNE = 1 << 1,  /* F2 */
	PREFIX_LOCK = 1 << 2,
	PREFIX_OPSIZE = 1 << 3, /* 66 */
	PREFIX_ADDRSIZE = 1 << 4,
	PREFIX_SEGMENT = 1 << 5, /* an override that counts in this mode */
	PREFIX_REX = 1 << 6,
	PREFIX_VEX = 1 << 7,
};

struct insn {
	uint8_t length;       /* bytes, 1..15 */
	uint8_t operand_size; /* 2, 4 or 8 bytes: the effective operand size (byte forms are told by opcode) */
	uint8_t address_size; /* 2, 4 or 8 bytes */
	uint8_t prefixes;     /* enum insn_prefix */
	uint8_t map;          /* 0: one byte, 1: 0F, 2: 0F38, 3: 0F3A */
	uint8_t opcode;
	uint8_t modrm;        /* raw byte; 0 where there is none */
	bool has_modrm;
	uint8_t reg;          /* ModRM.reg with REX.R / VEX.R: 0..15 (/digit is reg & 7) */
	uint8_t rm;           /* register number with REX.B where is_memory is false */
	bool is_memory;       /* ModRM names memory */
	uint8_t base, index;  /* register numbers, INSN_NO_REG, INSN_BASE_RIP */
	uint8_t scale;        /* log2 */
	uint8_t segment;      /* SEG_*: effective segment of the memory operand, override heeded */
	uint8_t rex;          /* REX byte (or its equivalent from VEX), 0 where there is none */
	uint8_t vex_vvvv;     /* register number, already inverted */
	uint8_t vex_l;        /* 0: 128, 1: 256 */
	uint8_t vex_pp;       /* 0 none, 1 66, 2 F3, 3 F2 */
	uint8_t imm_size;     /* bytes of imm; 0 where there is none */
	int64_t displacement; /* sign-extended */
	int64_t imm;          /* sign-extended immediate, relative branch distance or far pointer's offset */
	uint16_t imm2;        /* far pointer's selector, ENTER's nesting level */
	uint16_t op;          /* enum bt_op: what the translator does with it */
};

#endif

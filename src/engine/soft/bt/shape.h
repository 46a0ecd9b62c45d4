/*
 * The shape of a computing instruction: all that the translator must know to run it on the host with its
 * registers renamed and its memory operand redirected. Shapes depend on an encoding's opcode, not on its
 * registers, so each is asked of Zydis once and remembered.
 */
#ifndef NESTOR_BT_SHAPE_H
#define NESTOR_BT_SHAPE_H

#include <stdbool.h>
#include <stdint.h>

#include "engine/cpu_model.h"
#include "engine/soft/cpu/insn.h"

/* The arithmetic flags as shapes and liveness see them: their bits in RFLAGS, OF moved to bit 1. */
#define SHAPE_CF 0x01
#define SHAPE_OF 0x02
#define SHAPE_PF 0x04
#define SHAPE_AF 0x10
#define SHAPE_ZF 0x40
#define SHAPE_SF 0x80
#define SHAPE_ALL (SHAPE_CF | SHAPE_OF | SHAPE_PF | SHAPE_AF | SHAPE_ZF | SHAPE_SF)

enum shape_unit { UNIT_INTEGER, UNIT_X87, UNIT_MMX, UNIT_SSE, UNIT_AVX };

#define USE_READ  1
#define USE_WRITE 2

struct shape {
	uint64_t key;            /* of the memo table; 0 where empty */
	bool valid;              /* the instruction exists and the guest CPU announces it */
	uint8_t unit;            /* enum shape_unit */
	uint16_t memory_size;    /* bytes accessed through ModRM's memory operand, 0: address only */
	uint8_t memory_use;      /* USE_* */
	uint8_t reg_use, rm_use, vvvv_use; /* USE_*: where the field names a general register */
	bool reg_is_byte, rm_is_byte;
	/* SHAPE_*. flags_killed: written whatever happens; a flag in flags_written alone may also stay as it was. */
	uint8_t flags_read, flags_written, flags_killed;
	uint16_t implicit;       /* general registers used without being named */
	bool may_fault;          /* natively: #DE, #MF, #XM, or #GP for alignment */
};

struct shape_cache;

/* cold (shape.c) */
struct shape_cache *shape_cache_create(const struct cpu_model *model);
void shape_cache_destroy(struct shape_cache *cache);
/* Asks Zydis. The guest's FPU state must be stashed. bytes: the whole instruction. */
const struct shape *shape_make(struct shape_cache *cache, uint64_t key, const struct insn *insn,
			       const uint8_t *bytes, unsigned length, unsigned code_size);

#define SHAPE_SLOTS 4096
struct shape_cache {
	struct shape slot[SHAPE_SLOTS];
	const struct cpu_model *model;
};

/* The memo's key: everything of the encoding that a shape depends on. Never 0. */
static inline uint64_t shape_key(const struct insn *insn, unsigned code_size)
{
	uint64_t key = 1 | (uint64_t)code_size << 1 | (uint64_t)insn->map << 5 | (uint64_t)insn->opcode << 8;

	key |= (uint64_t)(insn->prefixes & (PREFIX_REP | PREFIX_REPNE | PREFIX_OPSIZE | PREFIX_VEX | PREFIX_LOCK)) << 16;
	key |= (uint64_t)(insn->rex >> 3 & 1) << 24 | (uint64_t)insn->vex_l << 25 | (uint64_t)insn->vex_pp << 26;
	key |= (uint64_t)insn->is_memory << 28 | (uint64_t)(insn->reg & 7) << 29;
	key |= (uint64_t)(insn->operand_size & 15) << 32;
	if (insn->map == 0 && insn->opcode >= 0xd8 && insn->opcode <= 0xdf)
		key |= (uint64_t)(insn->rm & 7) << 36;
	if (insn->prefixes & PREFIX_REX)
		key |= 1ull << 40;
	if ((insn->prefixes & PREFIX_VEX) && insn->vex_vvvv)
		key |= 1ull << 41;
	return key;
}

/* The remembered shape or NULL. */
static inline const struct shape *shape_find(const struct shape_cache *cache, uint64_t key)
{
	const struct shape *shape = &cache->slot[(key * 0x9e3779b97f4a7c15ull) >> 52];

	return shape->key == key ? shape : 0;
}

#endif

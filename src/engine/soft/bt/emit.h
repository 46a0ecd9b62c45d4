/*
 * Host code emission. Bytes are written through the writable mapping of the code memory; displacements are
 * computed for its executable mapping (W^X: no page is both).
 */
#ifndef NESTOR_BT_EMIT_H
#define NESTOR_BT_EMIT_H

#include <stdbool.h>
#include <stdint.h>
#include <string.h>

/* Host registers, hardware numbering. */
enum { H_RAX, H_RCX, H_RDX, H_RBX, H_RSP, H_RBP, H_RSI, H_RDI, H_R8, H_R9, H_R10, H_R11, H_R12, H_R13, H_R14, H_R15 };
#define H_NONE 0xff

struct emitter {
	uint8_t *p, *end;     /* in the writable mapping */
	intptr_t exec_offset; /* executable address minus writable address */
	bool overflow;        /* the buffer was too small: what was emitted is useless */
};

/* A ModRM operand: a register, or memory at [base + index << scale + disp]. */
struct place {
	bool memory;
	uint8_t reg;
	uint8_t base, index, scale;
	int32_t disp;
};

static inline struct place in_reg(unsigned reg)
{
	return (struct place){ .reg = reg };
}

static inline struct place at(unsigned base, int32_t disp)
{
	return (struct place){ .memory = true, .base = base, .index = H_NONE, .disp = disp };
}

static inline struct place at_indexed(unsigned base, unsigned index, unsigned scale, int32_t disp)
{
	return (struct place){ .memory = true, .base = base, .index = index, .scale = scale, .disp = disp };
}

static inline void emit8(struct emitter *e, uint8_t byte)
{
	if (e->p < e->end)
		*e->p++ = byte;
	else
		e->overflow = true;
}

/*
 * Whether there is room for a whole instruction: looked at once for each. Its bytes then go through a pointer of one's own,
 * because a store of a byte could change e->p for all that the compiler knows.
 */
#define INSN_ROOM 24

static inline bool emit_has_room(struct emitter *e)
{
	if (__builtin_expect(e->end - e->p >= INSN_ROOM, 1))
		return true;
	e->overflow = true;
	return false;
}

static inline uint8_t *put32(uint8_t *p, uint32_t value)
{
	memcpy(p, &value, 4);
	return p + 4;
}

/* size: 0, 1, 2, 4 or 8 */
static inline void emit_bytes(struct emitter *e, uint64_t value, unsigned size)
{
	if (!size || !emit_has_room(e))
		return;
	memcpy(e->p, &value, 8); /* what follows overwrites the rest */
	e->p += size;
}

static inline void emit32(struct emitter *e, uint32_t value)
{
	if (emit_has_room(e))
		e->p = put32(e->p, value);
}

static inline uint8_t *emit_exec(const struct emitter *e)
{
	return e->p + e->exec_offset;
}

/* An instruction's fixed part. */
struct form {
	uint8_t prefix;   /* 66, F2 or F3; 0 none */
	uint8_t prefix2;  /* a second one (66 with F2 of CRC32), 0 none */
	uint8_t map;      /* 0..3 */
	uint8_t opcode;
	bool w;           /* REX.W */
	bool lock;
	bool force_rex;   /* SPL, BPL, SIL, DIL */
};

static inline uint8_t *put_modrm(uint8_t *p, unsigned reg, const struct place *rm)
{
	reg = (reg & 7) << 3;
	if (!rm->memory) {
		*p++ = 0xc0 | reg | (rm->reg & 7);
		return p;
	}
	if (rm->base == H_NONE) {
		/* absolute or index only: SIB without base */
		*p++ = reg | 4;
		*p++ = rm->scale << 6 | (rm->index == H_NONE ? 4 : rm->index & 7) << 3 | 5;
		return put32(p, rm->disp);
	}
	unsigned mod = rm->disp == 0 && (rm->base & 7) != 5 ? 0 : rm->disp == (int8_t)rm->disp ? 1 : 2;

	if (rm->index != H_NONE || (rm->base & 7) == 4) {
		*p++ = mod << 6 | reg | 4;
		*p++ = rm->scale << 6 | (rm->index == H_NONE ? 4 : rm->index & 7) << 3 | (rm->base & 7);
	} else {
		*p++ = mod << 6 | reg | (rm->base & 7);
	}
	put32(p, rm->disp); /* what follows overwrites what is not of it */
	return p + (mod == 1 ? 1 : mod == 2 ? 4 : 0);
}

static inline unsigned emit_rex_bits(unsigned reg, const struct place *rm)
{
	unsigned rex = reg & 8 ? 4 : 0;

	if (!rm->memory)
		return rex | (rm->reg & 8 ? 1 : 0);
	if (rm->index != H_NONE && rm->index & 8)
		rex |= 2;
	if (rm->base != H_NONE && rm->base & 8)
		rex |= 1;
	return rex;
}

static inline uint8_t *put_opcode_map(uint8_t *p, unsigned map)
{
	if (map)
		*p++ = 0x0f;
	if (map == 2)
		*p++ = 0x38;
	else if (map == 3)
		*p++ = 0x3a;
	return p;
}

static inline void emit_opcode_map(struct emitter *e, unsigned map)
{
	if (emit_has_room(e))
		e->p = put_opcode_map(e->p, map);
}

/* One instruction with a ModRM operand; an immediate follows by emit_bytes. */
static inline void emit_form(struct emitter *e, const struct form *f, unsigned reg, const struct place *rm)
{
	unsigned rex = emit_rex_bits(reg, rm) | (f->w ? 8 : 0);
	uint8_t *p = e->p;

	if (!emit_has_room(e))
		return;
	if (f->lock)
		*p++ = 0xf0;
	if (f->prefix)
		*p++ = f->prefix;
	if (f->prefix2)
		*p++ = f->prefix2;
	if (rex || f->force_rex)
		*p++ = 0x40 | rex;
	p = put_opcode_map(p, f->map);
	*p++ = f->opcode;
	e->p = put_modrm(p, reg, rm);
}

static inline void emit_insn(struct emitter *e, struct form f, unsigned reg, struct place rm)
{
	emit_form(e, &f, reg, &rm);
}

/* pp: 0 none, 1 66, 2 F3, 3 F2. */
static inline void emit_vex(struct emitter *e, unsigned map, unsigned pp, bool w, bool l, unsigned vvvv,
			    uint8_t opcode, unsigned reg, struct place rm)
{
	unsigned rex = emit_rex_bits(reg, &rm);
	uint8_t *p = e->p;

	if (!emit_has_room(e))
		return;
	if (map == 1 && !w && !(rex & 3)) {
		*p++ = 0xc5;
		*p++ = (~rex & 4) << 5 | (~vvvv & 15) << 3 | l << 2 | pp;
	} else {
		*p++ = 0xc4;
		*p++ = (~rex & 7) << 5 | map;
		*p++ = w << 7 | (~vvvv & 15) << 3 | l << 2 | pp;
	}
	*p++ = opcode;
	e->p = put_modrm(p, reg, &rm);
}

static inline void emit_op(struct emitter *e, bool w, uint8_t opcode, unsigned reg, struct place rm)
{
	emit_insn(e, (struct form){ .opcode = opcode, .w = w }, reg, rm);
}

static inline void emit_load(struct emitter *e, unsigned reg, struct place from)
{
	emit_op(e, true, 0x8b, reg, from);
}

static inline void emit_load32(struct emitter *e, unsigned reg, struct place from)
{
	emit_op(e, false, 0x8b, reg, from);
}

static inline void emit_store(struct emitter *e, struct place to, unsigned reg)
{
	emit_op(e, true, 0x89, reg, to);
}

static inline void emit_lea(struct emitter *e, unsigned reg, struct place from)
{
	if (from.base != H_NONE && from.index == H_NONE && from.disp == 0) {
		emit_op(e, true, 0x8b, reg, in_reg(from.base)); /* which costs no execution unit */
		return;
	}
	emit_op(e, true, 0x8d, reg, from);
}

static inline void emit_lea32(struct emitter *e, unsigned reg, struct place from)
{
	emit_op(e, false, 0x8d, reg, from);
}

/* mov reg, value in the shortest form */
static inline void emit_mov_imm(struct emitter *e, unsigned reg, uint64_t value)
{
	uint8_t *p = e->p;

	if (value <= UINT32_MAX) {
		if (!emit_has_room(e))
			return;
		if (reg & 8)
			*p++ = 0x41;
		*p++ = 0xb8 | (reg & 7);
		e->p = put32(p, value);
	} else if ((int64_t)value == (int32_t)value) {
		emit_op(e, true, 0xc7, 0, in_reg(reg));
		emit32(e, value);
	} else {
		emit8(e, 0x48 | (reg & 8 ? 1 : 0));
		emit8(e, 0xb8 | (reg & 7));
		emit_bytes(e, value, 8);
	}
}

/* An opcode of one or two bytes (0F first) and the 32 bits behind it. */
static inline void emit_with32(struct emitter *e, unsigned opcode, uint32_t value)
{
	uint8_t *p = e->p;

	if (!emit_has_room(e))
		return;
	if (opcode > 0xff)
		*p++ = opcode >> 8;
	*p++ = opcode;
	e->p = put32(p, value);
}

/* What the 32 bits are for a target at an executable address, where the whole branch takes `length` bytes. */
static inline uint32_t relative_to(const struct emitter *e, const void *target, unsigned length)
{
	return (const uint8_t *)target - (emit_exec(e) + length);
}

/* target: an executable address */
static inline void emit_jmp(struct emitter *e, const void *target)
{
	emit_with32(e, 0xe9, relative_to(e, target, 5));
}

static inline void emit_jmp_reg(struct emitter *e, unsigned reg)
{
	emit_op(e, false, 0xff, 4, in_reg(reg));
}

static inline void emit_call(struct emitter *e, const void *target)
{
	emit_with32(e, 0xe8, relative_to(e, target, 5));
}

static inline void emit_jcc(struct emitter *e, unsigned condition, const void *target)
{
	emit_with32(e, 0x0f80 | condition, relative_to(e, target, 6));
}

/* A jcc or jmp whose rel32 is filled in later: returns where. condition 16: jmp. */
static inline uint8_t *emit_branch_later(struct emitter *e, unsigned condition)
{
	emit_with32(e, condition == 16 ? 0xe9 : 0x0f80 | condition, 0);
	return e->p - 4;
}

static inline uint8_t *emit_call_later(struct emitter *e)
{
	emit_with32(e, 0xe8, 0);
	return e->p - 4;
}

/* Points the rel32 at `at_rw` (writable address) to the executable address `target`. One aligned-enough store. */
/* An opcode whose lowest three bits are the register. */
static inline void emit_opcode_of_reg(struct emitter *e, uint8_t opcode, unsigned reg)
{
	if (reg & 8)
		emit8(e, 0x41);
	emit8(e, opcode | (reg & 7));
}

static inline void emit_push_reg(struct emitter *e, unsigned reg)
{
	emit_opcode_of_reg(e, 0x50, reg);
}

static inline void emit_pop_reg(struct emitter *e, unsigned reg)
{
	emit_opcode_of_reg(e, 0x58, reg);
}

static inline void emit_patch(const struct emitter *e, uint8_t *at_rw, const void *target)
{
	int32_t rel = (const uint8_t *)target - (at_rw + e->exec_offset + 4);

	memcpy(at_rw, &rel, 4);
}

static inline void emit_patch_here(struct emitter *e, uint8_t *at_rw)
{
	if (!e->overflow)
		emit_patch(e, at_rw, emit_exec(e));
}

enum { CC_O, CC_NO, CC_B, CC_AE, CC_E, CC_NE, CC_BE, CC_A, CC_S, CC_NS, CC_P, CC_NP, CC_L, CC_GE, CC_LE, CC_G, CC_ALWAYS };

#endif

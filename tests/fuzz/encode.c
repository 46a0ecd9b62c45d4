/* Random operands and their encodings. */
#include "encode.h"

uint64_t random_state;

uint64_t next_random(void)
{
	uint64_t z = random_state += 0x9e3779b97f4a7c15u;

	z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
	z = (z ^ z >> 27) * 0x94d049bb133111ebu;
	return z ^ z >> 31;
}

unsigned pick(unsigned n)
{
	return next_random() % n;
}

uint8_t code[CODE_SIZE];
unsigned code_length;
unsigned reserved_registers;
bool exact_flags;
bool calm;

void put(uint8_t byte)
{
	code[code_length++] = byte;
}

void put_bytes(uint64_t value, unsigned size)
{
	for (unsigned i = 0; i < size; i++)
		put(value >> (8 * i));
}

unsigned pick_register(void)
{
	unsigned reg;

	do
		reg = pick(4) ? pick(16) : (const uint8_t[]){ 10, 11, 15, 0 }[pick(4)];
	while (reg == 4 || reserved_registers >> reg & 1);
	return reg;
}

void put_mov_imm(unsigned reg, uint64_t value)
{
	put(0x48 | (reg >> 3));
	put(0xb8 | (reg & 7));
	put_bytes(value, 8);
}

/* An address within DATA; sometimes near a page's end, rarely outside. */
static uint64_t pick_address(unsigned size)
{
	if (calm && pick(40))
		return DATA + (pick(4) ? pick(DATA_SIZE - 128) : 4096 * (1 + pick(DATA_PAGES - 1)) - pick(size + 1));
	switch (pick(24)) {
	case 0:
		return DATA + DATA_SIZE - pick(2 * size + 1); /* may run out of the mapping */
	case 1 ... 4:
		return DATA + 4096 * (1 + pick(DATA_PAGES - 1)) - pick(size + 1); /* may cross */
	default:
		return DATA + (pick(DATA_SIZE - 128) & ~(pick(3) ? 15ull : 0ull));
	}
}

struct operand pick_memory_of(unsigned size, bool aligned, bool inside)
{
	struct operand o = { .memory = true, .index = 16 };
	uint64_t address = pick_address(size);

	/* A faulting store of 80 bits may leave a part of it on the host: keep those inside. So too
	 * operands that must be aligned (whether #GP or #PF comes first is not modelled) and MMX's (a host may
	 * have left x87 mode when the access faults). */
	if (size == 10 || inside)
		address = DATA + 4096 - pick(2 * size);
	if (aligned)
		address &= ~(uint64_t)(size - 1);
	switch (pick(8)) {
	case 0:
		o.base = 17;
		o.disp = address; /* fixed up when encoded */
		return o;
	case 1:
		o.base = 4; /* rsp-relative: rsp points to DATA's middle, or into STACK */
		o.disp = calm ? -4096 - (int)(pick(1024) & ~15u) : (int)(pick(1024) & ~15u);
		return o;
	case 2 ... 3: {
		uint64_t index = (int8_t)next_random();

		o.base = pick_register();
		do
			o.index = pick_register();
		while (o.index == o.base);
		o.scale = pick(4);
		o.disp = pick(2) ? (int8_t)next_random() : (int32_t)(next_random() & 0xffffff);
		put_mov_imm(o.index, index);
		put_mov_imm(o.base, address - (index << o.scale) - (int64_t)o.disp);
		return o;
	}
	default:
		o.base = pick_register();
		o.disp = pick(3) == 0 ? 0 : pick(2) ? (int8_t)next_random() : (int32_t)next_random();
		put_mov_imm(o.base, address - (int64_t)o.disp);
		return o;
	}
}

struct operand pick_memory(unsigned size, bool aligned)
{
	return pick_memory_of(size, aligned, false);
}

struct operand reg_operand(unsigned reg)
{
	return (struct operand){ .reg = reg };
}

unsigned operand_rex(unsigned reg, const struct operand *rm)
{
	unsigned rex = reg & 8 ? 4 : 0;

	if (!rm->memory)
		return rex | (rm->reg & 8 ? 1 : 0);
	if (rm->base < 16 && rm->base & 8)
		rex |= 1;
	if (rm->index < 16 && rm->index & 8)
		rex |= 2;
	return rex;
}

/* imm_left: bytes that follow, for RIP-relative operands */
static void put_operand(unsigned reg, const struct operand *rm, unsigned imm_left)
{
	reg = (reg & 7) << 3;
	if (!rm->memory) {
		put(0xc0 | reg | (rm->reg & 7));
		return;
	}
	if (rm->base == 17) {
		put(reg | 5);
		put_bytes((uint32_t)rm->disp - (uint32_t)(CODE + code_length + 4 + imm_left), 4);
		return;
	}
	bool wide = rm->disp != (int8_t)rm->disp || pick(4) == 0;
	unsigned mod = rm->disp == 0 && (rm->base & 7) != 5 && pick(2) ? 0 : wide ? 0x80 : 0x40;

	if (rm->index != 16 || (rm->base & 7) == 4) {
		put(mod | reg | 4);
		put(rm->scale << 6 | (rm->index == 16 ? 4 : rm->index & 7) << 3 | (rm->base & 7));
	} else {
		put(mod | reg | (rm->base & 7));
	}
	if (mod)
		put_bytes(rm->disp, mod == 0x80 ? 4 : 1);
}

void put_legacy(unsigned prefix, bool lock, bool w, bool byte_rex, unsigned map, uint8_t opcode, unsigned reg,
		       struct operand rm, unsigned imm_size, uint64_t imm)
{
	unsigned rex = operand_rex(reg, &rm);

	if (lock)
		put(0xf0);
	if (prefix)
		put(prefix);
	if (rex || w || byte_rex)
		put(0x40 | (w ? 8 : 0) | rex);
	if (map)
		put(0x0f);
	if (map >= 2)
		put(map == 2 ? 0x38 : 0x3a);
	put(opcode);
	put_operand(reg, &rm, imm_size);
	put_bytes(imm, imm_size);
}

void put_vex(unsigned map, unsigned pp, bool w, bool l, unsigned vvvv, uint8_t opcode, unsigned reg,
		    struct operand rm, unsigned imm_size, uint64_t imm)
{
	unsigned rex = operand_rex(reg, &rm);

	put(0xc4);
	put((~rex & 7) << 5 | map);
	put(w << 7 | (~vvvv & 15) << 3 | l << 2 | pp);
	put(opcode);
	put_operand(reg, &rm, imm_size);
	put_bytes(imm, imm_size);
}

unsigned pick_size(unsigned *prefix, bool *w)
{
	unsigned size = (const unsigned[]){ 2, 4, 4, 8, 8 }[pick(5)];

	*prefix = size == 2 ? 0x66 : 0;
	*w = size == 8;
	return size;
}

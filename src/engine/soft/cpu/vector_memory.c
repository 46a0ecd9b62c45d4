/*
 * Vector instructions whose memory operands ModRM does not name alone: gathers, and the byte-masked stores through
 * rDI. The translator runs all others natively; these would reach the host's memory.
 */
#include "engine/soft/cpu/memory.h"
#include "engine/soft/cpu/ops.h"

/* Offsets in the standard XSAVE area (SDM, XSAVE-Managed State). */
#define AREA_FSW   2
#define AREA_FTW   4
#define AREA_ST    32
#define AREA_XMM   160
#define AREA_BV    512
#define AREA_YMM_H 576

static uint8_t *vector_half(struct cpu *cpu, unsigned number, unsigned half)
{
	return cpu->fpu_area + (half ? AREA_YMM_H : AREA_XMM) + 16 * number;
}

static uint64_t element(struct cpu *cpu, unsigned number, unsigned index, unsigned size)
{
	uint64_t value = 0;

	memcpy(&value, vector_half(cpu, number, index * size / 16) + index * size % 16, size);
	return value;
}

static void set_element(struct cpu *cpu, unsigned number, unsigned index, unsigned size, uint64_t value)
{
	memcpy(vector_half(cpu, number, index * size / 16) + index * size % 16, &value, size);
}

/* The state is edited in its area: XRSTOR must load it, whatever was in its initial configuration before. */
static void mark_in_use(struct cpu *cpu, uint64_t components)
{
	uint64_t in_use;

	memcpy(&in_use, cpu->fpu_area + AREA_BV, 8);
	in_use |= components;
	memcpy(cpu->fpu_area + AREA_BV, &in_use, 8);
}

/* Sign-extended: sizes 4 and 8. */
static uint64_t index_element(struct cpu *cpu, unsigned number, unsigned index, unsigned size)
{
	uint64_t value = element(cpu, number, index, size);

	return size == 4 ? (uint64_t)(int32_t)value : value;
}

/* SDM, VPGATHERDD/VPGATHERQD, VPGATHERDQ/VPGATHERQQ, VGATHERDPS … */
void op_gather(struct cpu *cpu, const struct insn *insn)
{
	unsigned size = insn->rex & 8 ? 8 : 4, index_size = insn->opcode & 1 ? 8 : 4;
	unsigned wider = size > index_size ? size : index_size, count = (insn->vex_l ? 32 : 16) / wider;
	unsigned index = insn->index == INSN_NO_REG ? REG_RSP : insn->index; /* no index means vector register 4 */
	unsigned destination = insn->reg, mask = insn->vex_vvvv;
	uint64_t base = insn->base == INSN_NO_REG ? 0 : cpu->gpr[insn->base & 15];

	if (!insn->is_memory || destination == mask || destination == index || mask == index)
		cpu_raise(cpu, VECTOR_UD);
	fpu_stash(cpu);
	mark_in_use(cpu, 6);
	/* A fault finds the elements before it done and their mask bits clear, so that the instruction goes on there. */
	for (unsigned i = 0; i < count; i++)
		set_element(cpu, mask, i, size, element(cpu, mask, i, size) >> (8 * size - 1) ? ~0ull : 0);
	for (unsigned i = insn->vex_l ? 8 : 4; i < 8; i++)
		set_element(cpu, mask, i, 4, 0);
	for (unsigned i = 0; i < count; i++) {
		uint64_t offset = base + (index_element(cpu, index, i, index_size) << insn->scale) + insn->displacement;

		if (insn->address_size == 4)
			offset = (uint32_t)offset;
		if (element(cpu, mask, i, size))
			set_element(cpu, destination, i, size, mem_read(cpu, insn->segment, offset, size));
		set_element(cpu, mask, i, size, 0);
		for (unsigned above = count * size; i == 0 && above < 32; above += 4)
			set_element(cpu, destination, above / 4, 4, 0);
	}
	for (unsigned i = 0; i < 8; i++)
		set_element(cpu, mask, i, 4, 0);
}

static void store_masked(struct cpu *cpu, const struct insn *insn, const uint8_t *data, const uint8_t *mask,
			 unsigned size)
{
	uint64_t offset = cpu->gpr[REG_RDI];

	if (insn->address_size < 8)
		offset &= insn->address_size == 4 ? 0xffffffffu : 0xffffu;
	for (unsigned pass = 0; pass < 2; pass++)
		for (unsigned i = 0; i < size; i++) {
			if (!(mask[i] & 0x80))
				continue;
			if (pass == 0)
				mem_check_write(cpu, mem_linear(cpu, insn->segment, offset + i, 1, ACCESS_WRITE), 1,
						mem_class(cpu));
			else
				mem_write(cpu, insn->segment, offset + i, 1, data[i]);
		}
}

/* MM register n as its 8 bytes: physical register n, kept in stack order in the area. */
static const uint8_t *mmx_register(const struct cpu *cpu, unsigned n)
{
	unsigned top = (cpu->fpu_area[AREA_FSW + 1] >> 3) & 7;

	return cpu->fpu_area + AREA_ST + 16 * ((n - top) & 7);
}

/* MMX instructions set the top of stack to 0 and mark every register valid. */
static void enter_mmx_state(struct cpu *cpu)
{
	uint8_t physical[8][16];

	for (unsigned i = 0; i < 8; i++)
		memcpy(physical[i], mmx_register(cpu, i), 16);
	memcpy(cpu->fpu_area + AREA_ST, physical, sizeof(physical));
	cpu->fpu_area[AREA_FSW + 1] &= ~0x38;
	cpu->fpu_area[AREA_FTW] = 0xff;
	mark_in_use(cpu, 1);
}

/* SDM, MASKMOVDQU and MASKMOVQ */
void op_maskmov(struct cpu *cpu, const struct insn *insn)
{
	bool sse = insn->prefixes & (PREFIX_OPSIZE | PREFIX_VEX);
	uint8_t data[16], mask[16];

	if (insn->is_memory || insn->vex_l || insn->vex_vvvv || (insn->prefixes & PREFIX_VEX && insn->vex_pp != 1))
		cpu_raise(cpu, VECTOR_UD);
	fpu_stash(cpu);
	memcpy(data, sse ? vector_half(cpu, insn->reg, 0) : mmx_register(cpu, insn->reg & 7), sse ? 16 : 8);
	memcpy(mask, sse ? vector_half(cpu, insn->rm, 0) : mmx_register(cpu, insn->rm & 7), sse ? 16 : 8);
	store_masked(cpu, insn, data, mask, sse ? 16 : 8);
	if (!sse) {
		fpu_stash(cpu);
		enter_mmx_state(cpu);
	}
}

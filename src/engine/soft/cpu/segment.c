/* Instructions on segment registers, descriptors and descriptor tables. */
#include "engine/soft/cpu/descriptor.h"
#include "engine/soft/cpu/ops.h"

/* In 64-bit mode no segment that these instructions load is part of the mode key. */
static void update_mode_after_load(struct cpu *cpu)
{
	if (!cpu_is_64bit(cpu))
		cpu_update_mode(cpu);
}

void op_mov_to_segment(struct cpu *cpu, const struct insn *insn)
{
	unsigned index = insn->reg & 7;

	if (index == SEG_CS || index > SEG_GS)
		cpu_raise(cpu, VECTOR_UD);
	segment_load(cpu, index, operand_rm(cpu, insn, 2));
	if (index == SEG_SS)
		cpu->shadow |= SHADOW_MOVSS;
	update_mode_after_load(cpu);
}

void op_mov_from_segment(struct cpu *cpu, const struct insn *insn)
{
	unsigned index = insn->reg & 7;

	if (index > SEG_GS)
		cpu_raise(cpu, VECTOR_UD);
	operand_set_rm(cpu, insn, insn->is_memory ? 2 : insn->operand_size, cpu->seg[index].selector);
}

void op_pop_segment(struct cpu *cpu, const struct insn *insn)
{
	uint64_t rsp = stack_offset(cpu, insn->operand_size), mask = stack_pointer_mask(cpu);
	unsigned index = (insn->opcode >> 3) & 7; /* 07 17 1F, 0F A1, 0F A9 */
	uint16_t selector;

	if (insn->map == 0 && cpu_is_64bit(cpu))
		cpu_raise(cpu, VECTOR_UD);
	selector = stack_peek(cpu, 0, insn->operand_size);
	segment_load(cpu, index, selector);
	stack_set_masked(cpu, mask, rsp);
	if (index == SEG_SS)
		cpu->shadow |= SHADOW_MOVSS;
	update_mode_after_load(cpu);
}

void op_load_far_pointer(struct cpu *cpu, const struct insn *insn)
{
	uint64_t offset, pointer,
	    mask = insn->address_size == 8 ? UINT64_MAX : (1ull << insn->address_size * 8) - 1;
	unsigned index;
	uint16_t selector;

	if (!insn->is_memory)
		cpu_raise(cpu, VECTOR_UD);
	if (insn->map == 0) /* C4 LES, C5 LDS; 0F B2 LSS, B4 LFS, B5 LGS */
		index = insn->opcode == 0xc4 ? SEG_ES : SEG_DS;
	else
		index = insn->opcode & 7;
	offset = operand_offset(cpu, insn);
	pointer = mem_read(cpu, insn->segment, offset, insn->operand_size);
	selector = mem_read(cpu, insn->segment, (offset + insn->operand_size) & mask, 2);
	segment_load(cpu, index, selector);
	operand_set_register(cpu, insn, insn->reg, insn->operand_size, pointer);
	update_mode_after_load(cpu);
}

/* ---- looking at descriptors ---- */

static void set_zf(struct cpu *cpu, bool value)
{
	cpu_set_arithmetic(cpu, FLAG_ZF, value ? FLAG_ZF : 0);
}

/* LAR, LSL, VERR, VERW and ARPL are not recognized in real-address and virtual-8086 mode. */
static void require_protected(struct cpu *cpu)
{
	if (!(cpu->mode & MODE_PROTECTED))
		cpu_raise(cpu, VECTOR_UD);
}

/* The descriptor, where the selector names one that CPL and RPL may see. */
static bool visible_descriptor(struct cpu *cpu, uint16_t selector, struct descriptor *d)
{
	uint32_t rights;

	if (selector_is_null(selector) || !descriptor_read(cpu, selector, d))
		return false;
	rights = descriptor_rights(d);
	if (rights_is_code(rights) && (rights & TYPE_DOWN /* conforming */))
		return true;
	return RIGHTS_DPL(rights) >= cpu->cpl && RIGHTS_DPL(rights) >= (selector & 3);
}

void op_lar(struct cpu *cpu, const struct insn *insn)
{
	/* System types that LAR accepts (SDM, LAR: Segment and Gate Types), outside and in IA-32e mode. */
	const uint32_t types = cpu_is_long(cpu) ? 0x1a04 : 0x1a3e;
	uint16_t selector;
	struct descriptor d;
	bool valid;

	require_protected(cpu);
	selector = operand_rm(cpu, insn, 2);
	valid = visible_descriptor(cpu, selector, &d) &&
	        (descriptor_rights(&d) & RIGHTS_S || types >> RIGHTS_TYPE(descriptor_rights(&d)) & 1);
	if (valid)
		operand_set_register(cpu, insn, insn->reg, insn->operand_size,
		                     (d.raw >> 32) & (insn->operand_size == 2 ? 0xff00 : 0xf0ff00));
	set_zf(cpu, valid);
}

void op_lsl(struct cpu *cpu, const struct insn *insn)
{
	const uint32_t types = cpu_is_long(cpu) ? 0x0a04 : 0x0a0e;
	uint16_t selector;
	struct descriptor d;
	struct segment segment;
	bool valid;

	require_protected(cpu);
	selector = operand_rm(cpu, insn, 2);
	valid = visible_descriptor(cpu, selector, &d) &&
	        (descriptor_rights(&d) & RIGHTS_S || types >> RIGHTS_TYPE(descriptor_rights(&d)) & 1);
	if (valid) {
		descriptor_parse(cpu, &d, selector, &segment);
		operand_set_register(cpu, insn, insn->reg, insn->operand_size, segment.limit);
	}
	set_zf(cpu, valid);
}

static void verify(struct cpu *cpu, const struct insn *insn, bool write)
{
	uint16_t selector;
	struct descriptor d;
	bool valid;

	require_protected(cpu);
	selector = operand_rm(cpu, insn, 2);
	valid = visible_descriptor(cpu, selector, &d) && (descriptor_rights(&d) & RIGHTS_S);
	if (valid && write)
		valid = rights_is_writable_data(descriptor_rights(&d));
	else if (valid)
		valid = !rights_is_code(descriptor_rights(&d)) || (descriptor_rights(&d) & TYPE_WRITABLE);
	set_zf(cpu, valid);
}

void op_verr(struct cpu *cpu, const struct insn *insn)
{
	verify(cpu, insn, false);
}

void op_verw(struct cpu *cpu, const struct insn *insn)
{
	verify(cpu, insn, true);
}

void op_arpl(struct cpu *cpu, const struct insn *insn)
{
	uint16_t destination, rpl;
	bool lower;

	require_protected(cpu);
	destination = operand_rm(cpu, insn, 2);
	rpl = operand_register(cpu, insn, insn->reg, 2) & 3;
	lower = (destination & 3) < rpl;
	if (lower)
		operand_set_rm(cpu, insn, 2, (destination & ~3u) | rpl);
	set_zf(cpu, lower);
}

void op_bound(struct cpu *cpu, const struct insn *insn)
{
	unsigned size = insn->operand_size;
	uint64_t offset, mask = (1ull << insn->address_size * 8) - 1;
	int32_t index, lower, upper;

	if (!insn->is_memory || cpu_is_64bit(cpu))
		cpu_raise(cpu, VECTOR_UD);
	offset = operand_offset(cpu, insn);
	lower = mem_read(cpu, insn->segment, offset, size);
	upper = mem_read(cpu, insn->segment, (offset + size) & mask, size);
	index = operand_register(cpu, insn, insn->reg, size);
	if (size == 2) {
		index = (int16_t)index;
		lower = (int16_t)lower;
		upper = (int16_t)upper;
	}
	if (index < lower || index > upper)
		cpu_raise(cpu, VECTOR_BR);
}

/* ---- descriptor tables ---- */

/* SDM, Basic VM-Exit Information: these instructions' exit qualification is their displacement. */
static void intercept(struct cpu *cpu, const struct insn *insn, enum intercept what)
{
	uint64_t displacement = 0;

	if (!cpu->virt)
		return;
	if (insn->is_memory)
		displacement = insn->displacement + (insn->base == INSN_BASE_RIP ? cpu->next_rip : 0);
	cpu->virt->instruction(cpu, what, displacement, insn);
}

static void require_cpl0(struct cpu *cpu)
{
	if (cpu->cpl != 0)
		cpu_raise_error(cpu, VECTOR_GP, 0);
}

static void check_umip(struct cpu *cpu)
{
	if ((cpu->cr4 & CR4_UMIP) && cpu->cpl > 0)
		cpu_raise_error(cpu, VECTOR_GP, 0);
}

static unsigned table_bytes(const struct cpu *cpu)
{
	return cpu_is_64bit(cpu) ? 10 : 6;
}

static void load_table(struct cpu *cpu, const struct insn *insn, struct descriptor_table *table,
                       enum intercept what)
{
	unsigned size = table_bytes(cpu);
	uint8_t bytes[10];
	uint64_t base = 0;

	if (!insn->is_memory)
		cpu_raise(cpu, VECTOR_UD);
	require_cpl0(cpu);
	intercept(cpu, insn, what);
	mem_read_block(cpu, mem_linear(cpu, insn->segment, operand_offset(cpu, insn), size, ACCESS_READ),
	               bytes, size, mem_class(cpu));
	for (unsigned i = size; i-- > 2;)
		base = base << 8 | bytes[i];
	if (size == 6 && insn->operand_size == 2)
		base &= 0xffffff;
	if (size == 10 && !is_canonical(base))
		cpu_raise_error(cpu, VECTOR_GP, 0);
	*table = (struct descriptor_table){.base = base, .limit = bytes[0] | bytes[1] << 8};
}

static void store_table(struct cpu *cpu, const struct insn *insn, const struct descriptor_table *table,
                        enum intercept what)
{
	unsigned size = table_bytes(cpu);
	uint8_t bytes[10] = {table->limit & 0xff, table->limit >> 8};

	if (!insn->is_memory)
		cpu_raise(cpu, VECTOR_UD);
	check_umip(cpu);
	intercept(cpu, insn, what);
	for (unsigned i = 2; i < size; i++)
		bytes[i] = table->base >> (i - 2) * 8;
	mem_write_block(cpu, mem_linear(cpu, insn->segment, operand_offset(cpu, insn), size, ACCESS_WRITE),
	                bytes, size, mem_class(cpu));
}

void op_lgdt(struct cpu *cpu, const struct insn *insn)
{
	load_table(cpu, insn, &cpu->gdtr, INTERCEPT_LGDT);
}

void op_lidt(struct cpu *cpu, const struct insn *insn)
{
	load_table(cpu, insn, &cpu->idtr, INTERCEPT_LIDT);
}

void op_sgdt(struct cpu *cpu, const struct insn *insn)
{
	store_table(cpu, insn, &cpu->gdtr, INTERCEPT_SGDT);
}

void op_sidt(struct cpu *cpu, const struct insn *insn)
{
	store_table(cpu, insn, &cpu->idtr, INTERCEPT_SIDT);
}

/* In IA-32e mode: a 64-bit base, and zeros where the second half's type would be. */
static void check_wide_descriptor(struct cpu *cpu, const struct descriptor *d, uint16_t selector)
{
	struct segment segment;

	if (!cpu_is_long(cpu))
		return;
	descriptor_parse(cpu, d, selector, &segment);
	if (((d->high >> 40) & 0x1f) || !is_canonical(segment.base))
		cpu_raise_error(cpu, VECTOR_GP, selector_error(selector));
}

void op_lldt(struct cpu *cpu, const struct insn *insn)
{
	struct descriptor d;
	uint16_t selector;

	require_protected(cpu);
	require_cpl0(cpu);
	intercept(cpu, insn, INTERCEPT_LLDT);
	selector = operand_rm(cpu, insn, 2);
	if (selector_is_null(selector)) {
		segment_set_null(&cpu->seg[SEG_LDTR], selector, 0);
		return;
	}
	if ((selector & 4) || !descriptor_read_system(cpu, selector, &d))
		cpu_raise_error(cpu, VECTOR_GP, selector_error(selector));
	if ((descriptor_rights(&d) & (RIGHTS_S | 0xf)) != TYPE_LDT)
		cpu_raise_error(cpu, VECTOR_GP, selector_error(selector));
	if (!(descriptor_rights(&d) & RIGHTS_P))
		cpu_raise_error(cpu, VECTOR_NP, selector_error(selector));
	check_wide_descriptor(cpu, &d, selector);
	descriptor_parse(cpu, &d, selector, &cpu->seg[SEG_LDTR]);
}

void op_ltr(struct cpu *cpu, const struct insn *insn)
{
	struct descriptor d;
	uint16_t selector;
	uint32_t type;

	require_protected(cpu);
	require_cpl0(cpu);
	intercept(cpu, insn, INTERCEPT_LTR);
	selector = operand_rm(cpu, insn, 2);
	if (selector_is_null(selector))
		cpu_raise_error(cpu, VECTOR_GP, 0);
	if ((selector & 4) || !descriptor_read_system(cpu, selector, &d))
		cpu_raise_error(cpu, VECTOR_GP, selector_error(selector));
	type = descriptor_rights(&d) & (RIGHTS_S | 0xf);
	if (type != TYPE_TSS && (cpu_is_long(cpu) || type != TYPE_TSS16))
		cpu_raise_error(cpu, VECTOR_GP, selector_error(selector));
	if (!(descriptor_rights(&d) & RIGHTS_P))
		cpu_raise_error(cpu, VECTOR_NP, selector_error(selector));
	check_wide_descriptor(cpu, &d, selector);
	descriptor_set_busy(cpu, &d, true);
	descriptor_parse(cpu, &d, selector, &cpu->seg[SEG_TR]);
	cpu->seg[SEG_TR].rights |= 2;
}

static void store_selector(struct cpu *cpu, const struct insn *insn, unsigned index, enum intercept what)
{
	require_protected(cpu);
	check_umip(cpu);
	intercept(cpu, insn, what);
	operand_set_rm(cpu, insn, insn->is_memory ? 2 : insn->operand_size, cpu->seg[index].selector);
}

void op_sldt(struct cpu *cpu, const struct insn *insn)
{
	store_selector(cpu, insn, SEG_LDTR, INTERCEPT_SLDT);
}

void op_str(struct cpu *cpu, const struct insn *insn)
{
	store_selector(cpu, insn, SEG_TR, INTERCEPT_STR);
}

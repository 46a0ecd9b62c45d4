/*
 * Far JMP and CALL, and the instructions that enter the IDT. Returns are in far_return.c.
 */
#include "engine/soft/cpu/descriptor.h"
#include "engine/soft/cpu/ops.h"

struct far_pointer {
	uint16_t selector;
	uint64_t offset;
};

static uint64_t truncate(uint64_t value, unsigned size)
{
	return size == 8 ? value : value & ((1ull << size * 8) - 1);
}

static struct far_pointer far_operand(struct cpu *cpu, const struct insn *insn)
{
	struct far_pointer target;
	uint64_t offset;

	if (!insn->has_modrm) {
		if (cpu_is_64bit(cpu))
			cpu_raise(cpu, VECTOR_UD);
		return (struct far_pointer){insn->imm2, truncate(insn->imm, insn->operand_size)};
	}
	if (!insn->is_memory)
		cpu_raise(cpu, VECTOR_UD);
	offset = operand_offset(cpu, insn);
	target.offset = mem_read(cpu, insn->segment, offset, insn->operand_size);
	offset = truncate(offset + insn->operand_size, insn->address_size);
	target.selector = mem_read(cpu, insn->segment, offset, 2);
	return target;
}

/* Pushes the return address on the present stack. */
static void push_return(struct cpu *cpu, unsigned size)
{
	uint64_t values[] = {cpu->seg[SEG_CS].selector, cpu->next_rip};
	struct stack stack;

	stack_present(cpu, &stack);
	stack_push_frame(cpu, &stack, values, 2, size);
	stack_commit(cpu, &stack);
}

static void transfer_8086(struct cpu *cpu, struct far_pointer target, unsigned size, bool call)
{
	if (target.offset > cpu->seg[SEG_CS].limit)
		cpu_raise_error(cpu, VECTOR_GP, 0);
	if (call)
		push_return(cpu, size);
	segment_load(cpu, SEG_CS, target.selector);
	cpu->next_rip = target.offset;
	cpu_update_mode(cpu);
}

/* SDM, Direct Calls or Jumps to Code Segments. */
static void transfer_to_code(struct cpu *cpu, struct far_pointer target, struct descriptor *d, unsigned size,
                             bool call)
{
	uint32_t rights = descriptor_rights(d), error = selector_error(target.selector);
	bool allowed;

	if (rights & TYPE_DOWN /* conforming */)
		allowed = RIGHTS_DPL(rights) <= cpu->cpl;
	else
		allowed = (target.selector & 3) <= cpu->cpl && RIGHTS_DPL(rights) == cpu->cpl;
	if (!allowed || (cpu_is_long(cpu) && (rights & (RIGHTS_L | RIGHTS_DB)) == (RIGHTS_L | RIGHTS_DB)))
		cpu_raise_error(cpu, VECTOR_GP, error);
	if (!(rights & RIGHTS_P))
		cpu_raise_error(cpu, VECTOR_NP, error);
	code_offset_check(cpu, d, target.offset);
	descriptor_set_accessed(cpu, d);
	if (call)
		push_return(cpu, size);
	segment_set_cs(cpu, d, target.selector, cpu->cpl);
	cpu->next_rip = target.offset;
	cpu_update_mode(cpu);
}

/* A call gate into a more privileged segment: the stack of the TSS, with parameters copied. */
static void call_inner(struct cpu *cpu, uint64_t gate, unsigned cpl, unsigned size)
{
	uint64_t values[35];
	unsigned count = 0, parameters = (gate >> 32) & 31;
	uint16_t selector;
	uint32_t pointer;
	struct descriptor d;
	struct stack stack;

	tss_stack(cpu, cpl, &selector, &pointer);
	stack_segment_check(cpu, selector, cpl, VECTOR_TS, &d);
	stack_new(cpu, &stack, &d, selector, pointer, cpl);
	values[count++] = cpu->seg[SEG_SS].selector;
	values[count++] = cpu->gpr[REG_RSP];
	while (parameters-- > 0)
		values[count++] = stack_peek(cpu, parameters * size, size);
	values[count++] = cpu->seg[SEG_CS].selector;
	values[count++] = cpu->next_rip;
	stack_push_frame(cpu, &stack, values, count, size);
	cpu->seg[SEG_SS] = stack.ss;
	stack_commit(cpu, &stack);
}

static void call_long(struct cpu *cpu, unsigned cpl)
{
	uint64_t values[4];
	unsigned count = 0;
	struct stack stack = {
	    .mask = UINT64_MAX, .flat64 = true, .sp = cpu->gpr[REG_RSP], .class = mem_class(cpu)};

	if (cpl != cpu->cpl) {
		stack.sp = tss_stack64(cpu, cpl, 0);
		stack.class = TLB_SUPER;
		values[count++] = cpu->seg[SEG_SS].selector;
		values[count++] = cpu->gpr[REG_RSP];
	}
	values[count++] = cpu->seg[SEG_CS].selector;
	values[count++] = cpu->next_rip;
	stack_push_frame(cpu, &stack, values, count, 8);
	stack_commit(cpu, &stack);
	if (cpl != cpu->cpl)
		segment_set_null(&cpu->seg[SEG_SS], cpl, cpl);
}

/* SDM, Accessing a Code Segment Through a Call Gate. */
static void transfer_through_gate(struct cpu *cpu, uint16_t gate_selector, const struct descriptor *gate,
                                  bool call)
{
	uint32_t gate_rights = descriptor_rights(gate), gate_error = selector_error(gate_selector), rights;
	unsigned cpl = cpu->cpl, size = RIGHTS_TYPE(gate_rights) == TYPE_CALL_GATE ? 4 : 2;
	uint16_t selector = gate->raw >> 16;
	uint64_t offset = gate->raw & 0xffff;
	bool conforming;
	struct descriptor d;

	if (RIGHTS_DPL(gate_rights) < cpu->cpl || RIGHTS_DPL(gate_rights) < (gate_selector & 3))
		cpu_raise_error(cpu, VECTOR_GP, gate_error);
	if (cpu_is_long(cpu)) {
		if ((gate->high >> 40) & 0x1f)
			cpu_raise_error(cpu, VECTOR_GP, gate_error);
		size = 8;
	}
	if (!(gate_rights & RIGHTS_P))
		cpu_raise_error(cpu, VECTOR_NP, gate_error);
	if (size >= 4)
		offset |= gate->raw >> 32 & 0xffff0000;
	if (size == 8)
		offset |= gate->high << 32;

	if (selector_is_null(selector))
		cpu_raise_error(cpu, VECTOR_GP, 0);
	if (!descriptor_read(cpu, selector, &d))
		cpu_raise_error(cpu, VECTOR_GP, selector_error(selector));
	rights = descriptor_rights(&d);
	conforming = rights & TYPE_DOWN;
	if (!rights_is_code(rights) || RIGHTS_DPL(rights) > cpu->cpl)
		cpu_raise_error(cpu, VECTOR_GP, selector_error(selector));
	if (size == 8 && (rights & (RIGHTS_L | RIGHTS_DB)) != RIGHTS_L)
		cpu_raise_error(cpu, VECTOR_GP, selector_error(selector));
	if (!call && !conforming && RIGHTS_DPL(rights) != cpu->cpl)
		cpu_raise_error(cpu, VECTOR_GP, selector_error(selector));
	if (!(rights & RIGHTS_P))
		cpu_raise_error(cpu, VECTOR_NP, selector_error(selector));
	if (call && !conforming)
		cpl = RIGHTS_DPL(rights);
	code_offset_check(cpu, &d, offset);
	descriptor_set_accessed(cpu, &d);

	if (call && size == 8)
		call_long(cpu, cpl);
	else if (call && cpl != cpu->cpl)
		call_inner(cpu, gate->raw, cpl, size);
	else if (call)
		push_return(cpu, size);
	segment_set_cs(cpu, &d, selector, cpl);
	cpu->next_rip = offset;
	cpu_update_mode(cpu);
}

/* A TSS or task gate named by JMP or CALL; not in IA-32e mode. */
static void transfer_to_task(struct cpu *cpu, uint16_t selector, const struct descriptor *d, bool call,
                             const struct insn *insn)
{
	uint32_t rights = descriptor_rights(d), error = selector_error(selector);

	if (RIGHTS_DPL(rights) < cpu->cpl || RIGHTS_DPL(rights) < (selector & 3))
		cpu_raise_error(cpu, VECTOR_GP, error);
	if (RIGHTS_TYPE(rights) == TYPE_TASK_GATE) {
		if (!(rights & RIGHTS_P))
			cpu_raise_error(cpu, VECTOR_NP, error);
		selector = d->raw >> 16;
	}
	task_switch(cpu, selector, call ? TASK_CALL : TASK_JMP, insn, cpu->next_rip, cpu_rflags(cpu), false,
	            0);
}

static void transfer_protected(struct cpu *cpu, struct far_pointer target, const struct insn *insn, bool call)
{
	uint32_t error = selector_error(target.selector), rights;
	struct descriptor d;

	if (selector_is_null(target.selector))
		cpu_raise_error(cpu, VECTOR_GP, 0);
	if (!descriptor_read(cpu, target.selector, &d))
		cpu_raise_error(cpu, VECTOR_GP, error);
	rights = descriptor_rights(&d);
	if (rights & RIGHTS_S) {
		if (!(rights & TYPE_CODE))
			cpu_raise_error(cpu, VECTOR_GP, error);
		transfer_to_code(cpu, target, &d, insn->operand_size, call);
		return;
	}
	switch (RIGHTS_TYPE(rights)) {
	case TYPE_CALL_GATE:
		if (!descriptor_read_system(cpu, target.selector, &d))
			cpu_raise_error(cpu, VECTOR_GP, error);
		transfer_through_gate(cpu, target.selector, &d, call);
		return;
	case TYPE_CALL_GATE16:
		if (cpu_is_long(cpu))
			break;
		transfer_through_gate(cpu, target.selector, &d, call);
		return;
	case TYPE_TASK_GATE:
	case TYPE_TSS16:
	case TYPE_TSS:
		if (cpu_is_long(cpu))
			break;
		transfer_to_task(cpu, target.selector, &d, call, insn);
		return;
	default:
		break;
	}
	cpu_raise_error(cpu, VECTOR_GP, error);
}

static void far_transfer(struct cpu *cpu, const struct insn *insn, bool call)
{
	struct far_pointer target = far_operand(cpu, insn);

	if (cpu->mode & MODE_PROTECTED)
		transfer_protected(cpu, target, insn, call);
	else
		transfer_8086(cpu, target, insn->operand_size, call);
}

void op_jmp_far(struct cpu *cpu, const struct insn *insn)
{
	far_transfer(cpu, insn, false);
}

void op_call_far(struct cpu *cpu, const struct insn *insn)
{
	far_transfer(cpu, insn, true);
}

/* ---- through the IDT: delivered like any event, with a return address after the instruction ---- */

_Noreturn static void software_event(struct cpu *cpu, const struct insn *insn, enum event_type type,
                                     uint8_t vector)
{
	cpu->event =
	    (struct event){.valid = true, .type = type, .vector = vector, .insn_length = insn->length};
	cpu_leave(cpu);
}

void op_int(struct cpu *cpu, const struct insn *insn)
{
	uint8_t vector = insn->imm;

	/* SDM, Software Interrupt Handling Methods: below IOPL 3 only redirected ones pass. */
	if ((cpu->mode & MODE_V86) && !(cpu->mode & MODE_IOPL_OK) && !vme_redirects(cpu, vector))
		cpu_raise_error(cpu, VECTOR_GP, 0);
	software_event(cpu, insn, EVENT_SOFT_INT, vector);
}

void op_int3(struct cpu *cpu, const struct insn *insn)
{
	software_event(cpu, insn, EVENT_SOFT_EXCEPTION, VECTOR_BP);
}

void op_into(struct cpu *cpu, const struct insn *insn)
{
	if (cpu_is_64bit(cpu))
		cpu_raise(cpu, VECTOR_UD);
	if (cpu->cc_of)
		software_event(cpu, insn, EVENT_SOFT_EXCEPTION, VECTOR_OF);
}

void op_int1(struct cpu *cpu, const struct insn *insn)
{
	software_event(cpu, insn, EVENT_PRIV_SOFT, VECTOR_DB);
}

/* IRET in every mode, and far RET. */
#include "engine/soft/cpu/descriptor.h"
#include "engine/soft/cpu/ops.h"

/* SDM, IRET: the flags that real-address and virtual-8086 mode load; the others keep their values. */
#define FLAGS_REAL                                                                                           \
	(FLAGS_ARITHMETIC | FLAG_TF | FLAG_IF | FLAG_DF | FLAG_IOPL | FLAG_NT | FLAG_RF | FLAG_AC | FLAG_ID)

struct return_frame {
	uint64_t rip, flags, rsp;
	uint16_t cs, ss;
};

static void merge_flags(struct cpu *cpu, uint64_t popped, uint64_t mask, unsigned size)
{
	if (size == 2)
		mask &= 0xffff;
	cpu_set_rflags(cpu, (cpu_rflags(cpu) & ~mask) | (popped & mask));
}

/* The flags that code at the present CPL may load by IRET in protected mode. */
static uint64_t loadable_flags(const struct cpu *cpu)
{
	uint64_t mask = FLAGS_ARITHMETIC | FLAG_TF | FLAG_DF | FLAG_NT | FLAG_RF | FLAG_AC | FLAG_ID;

	if (cpu->mode & MODE_IOPL_OK)
		mask |= FLAG_IF;
	if (cpu->cpl == 0)
		mask |= FLAG_IOPL | FLAG_VIF | FLAG_VIP;
	return mask;
}

/* The end of every IRET: NMIs are open again, and interrupts may be. */
static void iret_done(struct cpu *cpu)
{
	if (cpu->virt)
		cpu->virt->iret(cpu);
	else
		cpu->nmi_blocked = false;
	if (cpu->nmi_pending && !cpu->nmi_blocked)
		cpu_poll_soon(cpu);
	cpu_interrupts_enabled(cpu);
}

/* ---- checks that IRET and RET share ---- */

static void check_code_segment(struct cpu *cpu, uint16_t selector, struct descriptor *d)
{
	uint32_t error = selector_error(selector), rights;
	unsigned rpl = selector & 3;

	if (selector_is_null(selector) || !descriptor_read(cpu, selector, d))
		cpu_raise_error(cpu, VECTOR_GP, error);
	rights = descriptor_rights(d);
	if (!rights_is_code(rights) || rpl < cpu->cpl)
		cpu_raise_error(cpu, VECTOR_GP, error);
	if (rights & TYPE_DOWN /* conforming */ ? RIGHTS_DPL(rights) > rpl : RIGHTS_DPL(rights) != rpl)
		cpu_raise_error(cpu, VECTOR_GP, error);
	if (cpu_is_long(cpu) && (rights & (RIGHTS_L | RIGHTS_DB)) == (RIGHTS_L | RIGHTS_DB))
		cpu_raise_error(cpu, VECTOR_GP, error);
	if (!(rights & RIGHTS_P))
		cpu_raise_error(cpu, VECTOR_NP, error);
	descriptor_set_accessed(cpu, d);
}

/* The SS that a return loads. cs: the code segment returned to. */
static void check_stack_segment(struct cpu *cpu, uint16_t selector, unsigned cpl, const struct descriptor *cs,
                                struct segment *ss)
{
	struct descriptor d;

	/* 64-bit code outside privilege level 3 may have a null SS. */
	if (selector_is_null(selector) && cpu_is_long(cpu) && (descriptor_rights(cs) & RIGHTS_L) &&
	    cpl != 3 && (selector & 3u) == cpl) {
		segment_set_null(ss, selector, cpl);
		return;
	}
	stack_segment_check(cpu, selector, cpl, VECTOR_GP, &d);
	descriptor_parse(cpu, &d, selector, ss);
}

/* The width of the stack pointer that a return loads with SS. */
static uint64_t returned_stack_mask(const struct cpu *cpu, const struct descriptor *cs,
                                    const struct segment *ss)
{
	if (cpu_is_long(cpu) && (descriptor_rights(cs) & RIGHTS_L))
		return UINT64_MAX;
	return ss->rights & RIGHTS_DB ? UINT32_MAX : UINT16_MAX;
}

/* ---- IRET ---- */

static void read_frame(struct cpu *cpu, unsigned size, struct return_frame *frame)
{
	frame->rip = stack_peek(cpu, 0, size);
	frame->cs = stack_peek(cpu, size, size);
	frame->flags = stack_peek(cpu, 2 * size, size);
}

/* The pointer first: where both are wrong the lower address's fault is raised. */
static void read_outer_stack(struct cpu *cpu, unsigned offset, unsigned size, struct return_frame *frame)
{
	frame->rsp = stack_peek(cpu, offset, size);
	frame->ss = stack_peek(cpu, offset + size, size);
}

/* Real-address mode, and virtual-8086 mode with IOPL 3. */
static void iret_8086(struct cpu *cpu, unsigned size, uint64_t mask)
{
	struct return_frame frame;
	uint64_t stack_mask = stack_pointer_mask(cpu), rsp = stack_offset(cpu, 3 * size);

	read_frame(cpu, size, &frame);
	if (frame.rip > cpu->seg[SEG_CS].limit)
		cpu_raise_error(cpu, VECTOR_GP, 0);
	stack_set_masked(cpu, stack_mask, rsp);
	segment_load(cpu, SEG_CS, frame.cs);
	cpu->next_rip = frame.rip;
	merge_flags(cpu, frame.flags, mask, size);
	cpu_update_mode(cpu);
	iret_done(cpu);
}

/* SDM, IRET: virtual-8086 mode with IOPL below 3 and CR4.VME; the popped IF goes to VIF. */
static void iret_vme(struct cpu *cpu)
{
	uint16_t flags = stack_peek(cpu, 4, 2);

	if ((flags & FLAG_TF) || ((flags & FLAG_IF) && (cpu->rflags_system & FLAG_VIP)))
		cpu_raise_error(cpu, VECTOR_GP, 0);
	iret_8086(cpu, 2, FLAGS_REAL & ~(uint64_t)(FLAG_IOPL | FLAG_IF));
	if (flags & FLAG_IF)
		cpu->rflags_system |= FLAG_VIF;
	else
		cpu->rflags_system &= ~(uint64_t)FLAG_VIF;
}

static void iret_v86(struct cpu *cpu, unsigned size)
{
	if (cpu->mode & MODE_IOPL_OK)
		iret_8086(cpu, size, FLAGS_REAL & ~(uint64_t)FLAG_IOPL);
	else if ((cpu->cr4 & CR4_VME) && size == 2)
		iret_vme(cpu);
	else
		cpu_raise_error(cpu, VECTOR_GP, 0);
}

/* SDM, Entering Virtual-8086 Mode: ring 0 returns with VM set in the popped flags. */
static void iret_to_v86(struct cpu *cpu, const struct return_frame *frame)
{
	static const uint8_t order[] = {SEG_ES, SEG_DS, SEG_FS, SEG_GS};
	uint16_t selector[4];
	uint32_t rsp = stack_peek(cpu, 12, 4);
	uint16_t ss = stack_peek(cpu, 16, 4);

	for (unsigned i = 0; i < 4; i++)
		selector[i] = stack_peek(cpu, 20 + 4 * i, 4);
	if (frame->rip > 0xffff)
		cpu_raise_error(cpu, VECTOR_GP, 0);
	merge_flags(cpu, frame->flags, loadable_flags(cpu) | FLAG_VM, 4);
	segment_load_v86(cpu, SEG_CS, frame->cs);
	segment_load_v86(cpu, SEG_SS, ss);
	for (unsigned i = 0; i < 4; i++)
		segment_load_v86(cpu, order[i], selector[i]);
	cpu->gpr[REG_RSP] = rsp;
	cpu->next_rip = frame->rip;
	cpu->cpl = 3;
	cpu_update_mode(cpu);
	iret_done(cpu);
}

/* Protected mode and compatibility mode; in 64-bit mode SS:RSP are popped in any case (outer). */
static void finish_return(struct cpu *cpu, const struct return_frame *frame, const struct descriptor *cs,
                          bool pops_stack, unsigned size)
{
	unsigned cpl = frame->cs & 3;
	bool outer = cpl > cpu->cpl;
	struct segment ss;

	code_offset_check(cpu, cs, frame->rip);
	if (pops_stack)
		check_stack_segment(cpu, frame->ss, cpl, cs, &ss);

	merge_flags(cpu, frame->flags, loadable_flags(cpu), size);
	if (pops_stack) {
		stack_set_masked(cpu, returned_stack_mask(cpu, cs, &ss), frame->rsp);
		cpu->seg[SEG_SS] = ss;
	} else {
		stack_set_masked(cpu, stack_pointer_mask(cpu), cpu->gpr[REG_RSP] + 3 * size);
	}
	segment_set_cs(cpu, cs, frame->cs, cpl);
	cpu->next_rip = frame->rip;
	if (outer)
		segments_drop_privileged(cpu);
	cpu_update_mode(cpu);
	iret_done(cpu);
}

static void iret_protected(struct cpu *cpu, const struct insn *insn)
{
	struct return_frame frame;
	struct descriptor cs;
	unsigned size = insn->operand_size;
	bool pops_stack;

	if (cpu->rflags_system & FLAG_NT) {
		if (cpu_is_long(cpu))
			cpu_raise_error(cpu, VECTOR_GP, 0);
		uint16_t link =
		    mem_read_linear(cpu, cpu_linear(cpu, cpu->seg[SEG_TR].base), 2, mem_class_system(cpu));

		task_switch(cpu, link, TASK_IRET, insn, cpu->next_rip, cpu_rflags(cpu), false, 0);
		iret_done(cpu);
		return;
	}
	read_frame(cpu, size, &frame);
	if (size == 4 && (frame.flags & FLAG_VM) && cpu->cpl == 0 && !cpu_is_long(cpu)) {
		iret_to_v86(cpu, &frame);
		return;
	}
	check_code_segment(cpu, frame.cs, &cs);
	pops_stack = cpu_is_64bit(cpu) || (frame.cs & 3) > cpu->cpl;
	if (pops_stack)
		read_outer_stack(cpu, 3 * size, size, &frame);
	finish_return(cpu, &frame, &cs, pops_stack, size);
}

/* The ordinary IRETQ: its whole frame lies in one page that the TLB knows. False: go the long way. */
static bool iret_quick(struct cpu *cpu)
{
	const uint64_t *stack;
	struct return_frame frame;
	struct descriptor cs;

	if (cpu->mode & MODE_ALIGN || cpu->rflags_system & FLAG_NT)
		return false;
	stack = quick_read(cpu, GLA(cpu->gpr[REG_RSP]), 40, mem_class(cpu));
	if (!stack)
		return false;
	frame = (struct return_frame){
	    .rip = stack[0], .cs = stack[1], .flags = stack[2], .rsp = stack[3], .ss = stack[4]};
	check_code_segment(cpu, frame.cs, &cs);
	finish_return(cpu, &frame, &cs, true, 8);
	return true;
}

void op_iret(struct cpu *cpu, const struct insn *insn)
{
	if (cpu->serves_interrupt)
		bt_interrupt_served(cpu);
	if (insn->operand_size == 8 && cpu_is_64bit(cpu) && iret_quick(cpu))
		return;
	if (!(cpu->cr0 & CR0_PE))
		iret_8086(cpu, insn->operand_size, FLAGS_REAL);
	else if (cpu->mode & MODE_V86)
		iret_v86(cpu, insn->operand_size);
	else
		iret_protected(cpu, insn);
}

/* ---- RET ---- */

static void ret_8086(struct cpu *cpu, unsigned size, unsigned release)
{
	uint64_t mask = stack_pointer_mask(cpu), rsp = cpu->gpr[REG_RSP] + 2 * size + release;
	uint64_t rip = stack_peek(cpu, 0, size);
	uint16_t cs = stack_peek(cpu, size, size);

	if (rip > cpu->seg[SEG_CS].limit)
		cpu_raise_error(cpu, VECTOR_GP, 0);
	stack_set_masked(cpu, mask, rsp);
	segment_load(cpu, SEG_CS, cs);
	cpu->next_rip = rip;
	cpu_update_mode(cpu);
}

static void ret_protected(struct cpu *cpu, unsigned size, unsigned release)
{
	struct return_frame frame;
	struct descriptor cs;
	struct segment ss;
	unsigned cpl;

	frame.rip = stack_peek(cpu, 0, size);
	frame.cs = stack_peek(cpu, size, size);
	check_code_segment(cpu, frame.cs, &cs);
	cpl = frame.cs & 3;
	if (cpl == cpu->cpl) {
		code_offset_check(cpu, &cs, frame.rip);
		stack_set_masked(cpu, stack_pointer_mask(cpu), cpu->gpr[REG_RSP] + 2 * size + release);
		segment_set_cs(cpu, &cs, frame.cs, cpl);
	} else {
		read_outer_stack(cpu, 2 * size + release, size, &frame);
		check_stack_segment(cpu, frame.ss, cpl, &cs, &ss);
		code_offset_check(cpu, &cs, frame.rip);
		stack_set_masked(cpu, returned_stack_mask(cpu, &cs, &ss), frame.rsp + release);
		cpu->seg[SEG_SS] = ss;
		segment_set_cs(cpu, &cs, frame.cs, cpl);
		segments_drop_privileged(cpu);
	}
	cpu->next_rip = frame.rip;
	cpu_update_mode(cpu);
}

void op_ret_far(struct cpu *cpu, const struct insn *insn)
{
	unsigned release = insn->imm_size ? insn->imm & 0xffff : 0;

	if (cpu->mode & MODE_PROTECTED)
		ret_protected(cpu, insn->operand_size, release);
	else
		ret_8086(cpu, insn->operand_size, release);
}

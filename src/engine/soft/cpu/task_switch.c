/*
 * Hardware task switches (SDM, Task Switching), by JMP, CALL, IRET, and task gates in the IDT. Everything
 * that can fault in the old task is checked first; from the commit on, faults belong to the new task, whose
 * registers are loaded by then. In non-root operation a task switch always exits, after the checks of the new
 * TSS descriptor.
 */
#include "engine/soft/cpu/descriptor.h"

#define TSS16_BYTES 44
#define TSS32_BYTES 104
#define DR6_BT      (1u << 15)
#define DR7_LOCAL   0x55u

/* The segment registers in the TSS's order. */
static const uint8_t tss_segments[] = {SEG_ES, SEG_CS, SEG_SS, SEG_DS, SEG_FS, SEG_GS};

/* The dynamic fields of a TSS; 16-bit ones have no FS, GS, CR3, and no T flag. */
struct task_state {
	uint32_t eip, eflags, gpr[8], cr3;
	uint16_t selector[6], ldt;
	bool trap;
};

static uint32_t field(const uint8_t *tss, unsigned offset, unsigned size)
{
	uint32_t value = 0;

	for (unsigned i = size; i-- > 0;)
		value = value << 8 | tss[offset + i];
	return value;
}

static void read_task(struct cpu *cpu, const struct segment *tss, bool is32, struct task_state *task)
{
	uint8_t bytes[TSS32_BYTES];
	gla_t base = cpu_linear(cpu, tss->base);

	mem_read_block(cpu, base, bytes, is32 ? TSS32_BYTES : TSS16_BYTES, mem_class_system(cpu));
	if (is32) {
		task->cr3 = field(bytes, 0x1c, 4);
		task->eip = field(bytes, 0x20, 4);
		task->eflags = field(bytes, 0x24, 4);
		for (unsigned i = 0; i < 8; i++)
			task->gpr[i] = field(bytes, 0x28 + 4 * i, 4);
		for (unsigned i = 0; i < 6; i++)
			task->selector[i] = field(bytes, 0x48 + 4 * i, 2);
		task->ldt = field(bytes, 0x60, 2);
		task->trap = bytes[0x64] & 1;
	} else {
		task->eip = field(bytes, 0x0e, 2);
		task->eflags = field(bytes, 0x10, 2);
		for (unsigned i = 0; i < 8; i++)
			task->gpr[i] = field(bytes, 0x12 + 2 * i, 2) | 0xffff0000;
		for (unsigned i = 0; i < 4; i++)
			task->selector[i] = field(bytes, 0x22 + 2 * i, 2);
		task->selector[4] = task->selector[5] = 0;
		task->ldt = field(bytes, 0x2a, 2);
		task->trap = false;
	}
}

static void write_field(struct cpu *cpu, uint64_t base, unsigned offset, unsigned size, uint32_t value)
{
	mem_write_linear(cpu, cpu_linear(cpu, base + offset), size, value, mem_class_system(cpu));
}

/* The old task's state into its TSS, whose pages were checked. */
static void save_task(struct cpu *cpu, bool is32, uint32_t eip, uint32_t eflags)
{
	uint64_t base = cpu->seg[SEG_TR].base;
	unsigned size = is32 ? 4 : 2;

	write_field(cpu, base, is32 ? 0x20 : 0x0e, size, eip);
	write_field(cpu, base, is32 ? 0x24 : 0x10, size, eflags);
	for (unsigned i = 0; i < 8; i++)
		write_field(cpu, base, (is32 ? 0x28 : 0x12) + size * i, size, cpu->gpr[i]);
	for (unsigned i = 0; i < (is32 ? 6 : 4); i++)
		write_field(cpu, base, (is32 ? 0x48 : 0x22) + size * i, 2,
		            cpu->seg[tss_segments[i]].selector);
}

/* ---- the new task's segments: faults are #TS unless the segment is not present ---- */

static void load_ldtr(struct cpu *cpu, uint16_t selector)
{
	struct descriptor d;

	if (selector_is_null(selector))
		return;
	if ((selector & 4) || !descriptor_read(cpu, selector, &d) ||
	    (descriptor_rights(&d) & (RIGHTS_S | RIGHTS_P | 0xf)) != (RIGHTS_P | TYPE_LDT))
		cpu_raise_error(cpu, VECTOR_TS, selector_error(selector));
	descriptor_parse(cpu, &d, selector, &cpu->seg[SEG_LDTR]);
}

static void load_code(struct cpu *cpu, uint16_t selector)
{
	uint32_t error = selector_error(selector), rights;
	unsigned rpl = selector & 3;
	struct descriptor d;

	if (selector_is_null(selector) || !descriptor_read(cpu, selector, &d))
		cpu_raise_error(cpu, VECTOR_TS, error);
	rights = descriptor_rights(&d);
	if (!rights_is_code(rights) ||
	    (rights & TYPE_DOWN ? RIGHTS_DPL(rights) > rpl : RIGHTS_DPL(rights) != rpl))
		cpu_raise_error(cpu, VECTOR_TS, error);
	if (!(rights & RIGHTS_P))
		cpu_raise_error(cpu, VECTOR_NP, error);
	descriptor_set_accessed(cpu, &d);
	segment_set_cs(cpu, &d, selector, rpl);
}

static void load_stack(struct cpu *cpu, uint16_t selector)
{
	struct descriptor d;

	stack_segment_check(cpu, selector, cpu->cpl, VECTOR_TS, &d);
	descriptor_parse(cpu, &d, selector, &cpu->seg[SEG_SS]);
}

static void load_data(struct cpu *cpu, unsigned index, uint16_t selector)
{
	uint32_t error = selector_error(selector), rights;
	struct descriptor d;

	if (selector_is_null(selector))
		return;
	if (!descriptor_read(cpu, selector, &d))
		cpu_raise_error(cpu, VECTOR_TS, error);
	rights = descriptor_rights(&d);
	if (!(rights & RIGHTS_S) || (rights_is_code(rights) && !(rights & TYPE_WRITABLE /* readable */)))
		cpu_raise_error(cpu, VECTOR_TS, error);
	if (!(rights_is_code(rights) && (rights & TYPE_DOWN)) &&
	    (RIGHTS_DPL(rights) < cpu->cpl || RIGHTS_DPL(rights) < (selector & 3u)))
		cpu_raise_error(cpu, VECTOR_TS, error);
	if (!(rights & RIGHTS_P))
		cpu_raise_error(cpu, VECTOR_NP, error);
	descriptor_set_accessed(cpu, &d);
	descriptor_parse(cpu, &d, selector, &cpu->seg[index]);
}

static void load_segments(struct cpu *cpu, const struct task_state *task)
{
	load_ldtr(cpu, task->ldt);
	if (cpu->rflags_system & FLAG_VM) {
		for (unsigned i = 0; i < 6; i++)
			segment_load_v86(cpu, tss_segments[i], task->selector[i]);
		cpu->cpl = 3;
		return;
	}
	load_code(cpu, task->selector[1]);
	load_stack(cpu, task->selector[2]);
	load_data(cpu, SEG_ES, task->selector[0]);
	load_data(cpu, SEG_DS, task->selector[3]);
	load_data(cpu, SEG_FS, task->selector[4]);
	load_data(cpu, SEG_GS, task->selector[5]);
}

/* Registers that need no check, and selectors whose descriptors are still to be loaded. */
static void load_registers(struct cpu *cpu, const struct task_state *task, bool is32, uint32_t eflags)
{
	if (is32 && (cpu->cr0 & CR0_PG))
		cpu_load_cr3(cpu, task->cr3, false);
	for (unsigned i = 0; i < 8; i++)
		cpu->gpr[i] = task->gpr[i];
	cpu_set_rflags(cpu, (eflags & 0x3f7fd5) | 2);
	cpu->rip = cpu->next_rip = task->eip;
	for (unsigned i = 0; i < 6; i++)
		segment_set_null(&cpu->seg[tss_segments[i]], task->selector[i], 0);
	segment_set_null(&cpu->seg[SEG_LDTR], task->ldt, 0);
	cpu->cpl = task->selector[1] & 3;
	cpu->cr0 |= CR0_TS;
	cpu->dr7 &= ~(uint64_t)DR7_LOCAL;
}

static void push_error(struct cpu *cpu, bool is32, uint32_t error)
{
	uint64_t value = error;
	struct stack stack;

	stack_present(cpu, &stack);
	stack_push_frame(cpu, &stack, &value, 1, is32 ? 4 : 2);
	stack_commit(cpu, &stack);
}

/* SDM, Task Switching, steps 1 to 6 for the new TSS. Returns whether it is a 32-bit one. */
static bool check_tss(struct cpu *cpu, uint16_t selector, enum task_source source, struct descriptor *d,
                      struct segment *tss)
{
	enum vector vector = source == TASK_IRET ? VECTOR_TS : VECTOR_GP;
	uint32_t error = selector_error(selector), type;
	bool is32;

	if (selector_is_null(selector) || (selector & 4) || !descriptor_read(cpu, selector, d))
		cpu_raise_error(cpu, vector, error);
	type = descriptor_rights(d) & (RIGHTS_S | 0xf);
	is32 = type & 8;
	if ((type & ~8u) != (source == TASK_IRET ? TYPE_TSS16_BUSY : TYPE_TSS16))
		cpu_raise_error(cpu, vector, error);
	if (!(descriptor_rights(d) & RIGHTS_P))
		cpu_raise_error(cpu, VECTOR_NP, error);
	descriptor_parse(cpu, d, selector, tss);
	if (tss->limit < (is32 ? TSS32_BYTES - 1 : TSS16_BYTES - 1))
		cpu_raise_error(cpu, VECTOR_TS, error);
	return is32;
}

/* The PDPTEs of the new task's CR3 must be legal before it is loaded. */
static void check_cr3(struct cpu *cpu, const struct task_state *task, bool is32, uint16_t selector)
{
	uint64_t pdpte[4];

	if (is32 && (cpu->cr0 & CR0_PG) && (cpu->cr4 & CR4_PAE) && !cpu_read_pdptes(cpu, task->cr3, pdpte))
		cpu_raise_error(cpu, VECTOR_TS, selector_error(selector));
}

void task_switch(struct cpu *cpu, uint16_t selector, enum task_source source, const struct insn *insn,
                 uint64_t return_rip, uint64_t old_flags, bool has_error, uint32_t error)
{
	static const uint8_t qualification[] = {
	    [TASK_CALL] = 0,
	    [TASK_IRET] = 1,
	    [TASK_JMP] = 2,
	    [TASK_GATE] = 3,
	};
	bool nests = source == TASK_CALL || source == TASK_GATE;
	struct segment new_tss, old_tss = cpu->seg[SEG_TR];
	bool is32, old_is32 = old_tss.rights & 8;
	struct descriptor new_d, old_d;
	struct task_state task = {0};

	is32 = check_tss(cpu, selector, source, &new_d, &new_tss);
	if (cpu->virt)
		cpu->virt->instruction(cpu, INTERCEPT_TASK_SWITCH,
		                       selector | (uint64_t)qualification[source] << 30, insn);

	/* All pages that the commit writes. */
	if (old_tss.rights & RIGHTS_UNUSABLE ||
	    old_tss.limit < (old_is32 ? TSS32_BYTES - 1 : TSS16_BYTES - 1))
		cpu_raise_error(cpu, VECTOR_TS, selector_error(old_tss.selector));
	read_task(cpu, &new_tss, is32, &task);
	check_cr3(cpu, &task, is32, selector);
	mem_check_write(cpu, cpu_linear(cpu, old_tss.base), old_is32 ? TSS32_BYTES : TSS16_BYTES,
	                mem_class_system(cpu));
	if (nests)
		mem_check_write(cpu, cpu_linear(cpu, new_tss.base), 2, mem_class_system(cpu));
	mem_check_write(cpu, GLA(new_d.address.v + 5), 1, mem_class_system(cpu));
	bool has_old = !nests && descriptor_read(cpu, old_tss.selector, &old_d);

	if (has_old)
		mem_check_write(cpu, GLA(old_d.address.v + 5), 1, mem_class_system(cpu));

	/* The commit. */
	if (has_old)
		descriptor_set_busy(cpu, &old_d, false);
	if (source == TASK_IRET)
		old_flags &= ~(uint64_t)FLAG_NT;
	save_task(cpu, old_is32, return_rip, old_flags);
	if (nests) {
		write_field(cpu, new_tss.base, 0, 2, old_tss.selector);
		task.eflags |= FLAG_NT;
	}
	if (source != TASK_IRET)
		descriptor_set_busy(cpu, &new_d, true);
	cpu->seg[SEG_TR] = new_tss;
	cpu->seg[SEG_TR].rights |= 2;
	load_registers(cpu, &task, is32, task.eflags);
	cpu_update_mode(cpu);

	/* From here on in the new task. */
	load_segments(cpu, &task);
	cpu_update_mode(cpu);
	if (task.eip > cpu->seg[SEG_CS].limit)
		cpu_raise_error(cpu, VECTOR_GP, 0);
	if (has_error)
		push_error(cpu, is32, error);
	if (task.trap) {
		cpu->debug_trap_pending = true;
		cpu->dr6_pending |= DR6_BT;
	}
	cpu_poll_soon(cpu);
}

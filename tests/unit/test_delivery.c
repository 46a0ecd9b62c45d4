/*
 * Delivery of events and far transfers against the SDM's rules, over a flat memory without paging.
 * Stand-alone: gcc -std=gnu17 -g -D_GNU_SOURCE -fno-strict-aliasing -Isrc tests/unit/test_delivery.c
 * src/engine/soft/cpu/{descriptor,events,exception,far_return,far_transfer,flag_ops,mode,segment,syscall,task_switch}.c
 * -lcmocka -o /tmp/test_delivery && /tmp/test_delivery
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <string.h>

#include "engine/soft/cpu/apic.h"
#include "engine/soft/cpu/descriptor.h"
#include "engine/soft/cpu/ops.h"

#define RAM_SIZE 0x100000u

static struct cpu cpu __attribute__((aligned(64)));
static struct tlb_region region;
static struct cpu_model model;
static uint8_t ram[RAM_SIZE];
static bool page_absent[RAM_SIZE / PAGE_SIZE];
static bool fill_tlb; /* a page once reached is found by the quick paths */
static jmp_buf leave_target;
static int pending_vector;

/* ---- neighbours ---- */

_Noreturn void cpu_leave(struct cpu *c)
{
	longjmp(leave_target, 1);
}

static uint8_t *byte_at(struct cpu *c, uint64_t address, enum tlb_class class)
{
	uint64_t page = address / PAGE_SIZE;

	if (address >= RAM_SIZE || page_absent[page])
		cpu_raise_page_fault(c, GLA(address), class == TLB_USER ? 4 : 0);
	if (fill_tlb) {
		struct tlb_entries *entries[] = {&region.tables.read[class], &region.tables.write[class]};

		for (unsigned i = 0; i < 2; i++) {
			entries[i]->page[tlb_slot(address)] = address & PAGE_MASK;
			entries[i]->addend[tlb_slot(address)] = (uint64_t)(uintptr_t)ram;
		}
	}
	return &ram[address];
}

void mem_check_write(struct cpu *c, gla_t gla, unsigned size, enum tlb_class class)
{
	for (unsigned i = 0; i < size; i++)
		byte_at(c, gla.v + i, class);
}

void mem_read_block(struct cpu *c, gla_t gla, void *to, unsigned size, enum tlb_class class)
{
	mem_check_write(c, gla, size, class);
	memcpy(to, &ram[gla.v], size);
}

void mem_write_block(struct cpu *c, gla_t gla, const void *from, unsigned size, enum tlb_class class)
{
	mem_check_write(c, gla, size, class);
	memcpy(&ram[gla.v], from, size);
}

uint64_t mem_read_linear(struct cpu *c, gla_t gla, unsigned size, enum tlb_class class)
{
	uint64_t value = 0;

	mem_read_block(c, gla, &value, size, class);
	return value;
}

void mem_write_linear(struct cpu *c, gla_t gla, unsigned size, uint64_t value, enum tlb_class class)
{
	mem_write_block(c, gla, &value, size, class);
}

gla_t mem_linear(struct cpu *c, unsigned seg, uint64_t offset, unsigned size, enum mem_access access)
{
	if (cpu_is_64bit(c)) {
		if (!is_canonical(offset))
			cpu_raise_error(c, seg == SEG_SS ? VECTOR_SS : VECTOR_GP, 0);
		return GLA(offset);
	}
	if (!segment_within_limit(&c->seg[seg], offset, size))
		cpu_raise_error(c, seg == SEG_SS ? VECTOR_SS : VECTOR_GP, 0);
	return GLA((uint32_t)(c->seg[seg].base + offset));
}

uint64_t mem_read(struct cpu *c, unsigned seg, uint64_t offset, unsigned size)
{
	return mem_read_linear(c, mem_linear(c, seg, offset, size, ACCESS_READ), size, mem_class(c));
}

uint64_t stack_offset(const struct cpu *c, int64_t change)
{
	return (c->gpr[REG_RSP] + change) & stack_pointer_mask(c);
}

uint64_t operand_offset(struct cpu *c, const struct insn *insn)
{
	return insn->displacement;
}

uint64_t operand_register(struct cpu *c, const struct insn *insn, unsigned number, unsigned size)
{
	return size == 8 ? c->gpr[number] : c->gpr[number] & ((1ull << size * 8) - 1);
}

void operand_set_register(struct cpu *c, const struct insn *insn, unsigned number, unsigned size,
                          uint64_t value)
{
	c->gpr[number] = value;
}

uint64_t operand_rm(struct cpu *c, const struct insn *insn, unsigned size)
{
	return operand_register(c, insn, insn->rm, size);
}

void operand_set_rm(struct cpu *c, const struct insn *insn, unsigned size, uint64_t value)
{
	c->gpr[insn->rm] = value;
}

uint64_t phys_read(struct cpu *c, gpa_t gpa, unsigned size)
{
	return 0;
}

void cpu_host_timer_arm(struct cpu *c, uint64_t deadline_ns)
{
}

void cpu_trace(struct cpu *c, const char *format, ...)
{
}

void tlb_select_context(struct cpu *c)
{
}

void tlb_flush_all(struct cpu *c)
{
}

void tlb_flush_current(struct cpu *c, bool keep_global)
{
}

void tlb_jump_mode(struct cpu *c)
{
}

void tlb_watch_changed(struct cpu *c)
{
}

void apic_reset(struct cpu *c)
{
}

void apic_collect(struct cpu *c)
{
}

int apic_pending_vector(struct cpu *c)
{
	return pending_vector;
}

int apic_acknowledge(struct cpu *c)
{
	int vector = pending_vector;

	pending_vector = -1;
	return vector;
}

/* ---- set-up ---- */

enum {
	GDT = 0x1000,
	IDT = 0x2000,
	LDT = 0x3000,
	TSS = 0x4000,
	TSS_B = 0x4800,
	STACK0 = 0x8000,
	STACK3 = 0xa000,
	IST1 = 0xc000,
	HANDLER = 0x20000,
	CODE = 0x10000
};

/* Selectors. In the long-mode GDT the TSS takes 30H and 38H, the call gate 40H and 48H. */
enum {
	KCODE = 0x08,
	KDATA = 0x10,
	UCODE32 = 0x18 | 3,
	UDATA = 0x20 | 3,
	UCODE = 0x28 | 3,
	TR = 0x30,
	GATE = 0x40,
	KCODE16 = 0x50,
	TR_B = 0x58
};

static void put(uint64_t address, unsigned size, uint64_t value)
{
	memcpy(&ram[address], &value, size);
}

static uint64_t get(uint64_t address, unsigned size)
{
	uint64_t value = 0;

	memcpy(&value, &ram[address], size);
	return value;
}

static uint64_t flat_descriptor(uint32_t rights)
{
	return 0x000f00000000ffffull | (uint64_t)rights << 40;
}

static void put_gate(unsigned vector, unsigned type, unsigned dpl, uint16_t selector, uint64_t target,
                     unsigned ist)
{
	unsigned size = cpu.efer & EFER_LMA ? 16 : 8;

	put(IDT + vector * size, 8,
	    (target & 0xffff) | (uint64_t)selector << 16 | (uint64_t)ist << 32 |
	        (uint64_t)(0x80 | dpl << 5 | type) << 40 | (target >> 16 & 0xffff) << 48);
	if (size == 16)
		put(IDT + vector * size + 8, 8, target >> 32);
}

static void load_segments(unsigned cpl, uint16_t cs, uint16_t ss)
{
	struct descriptor d;

	cpu.cpl = cpl;
	cpu_update_mode(&cpu);
	descriptor_read(&cpu, cs, &d);
	descriptor_parse(&cpu, &d, cs, &cpu.seg[SEG_CS]);
	descriptor_read(&cpu, ss, &d);
	for (unsigned i = SEG_ES; i <= SEG_GS; i++)
		if (i != SEG_CS)
			descriptor_parse(&cpu, &d, ss, &cpu.seg[i]);
	cpu_update_mode(&cpu);
}

static void set_up_machine(void)
{
	memset(&cpu, 0, sizeof(cpu));
	memset(ram, 0, sizeof(ram));
	memset(page_absent, 0, sizeof(page_absent));
	for (unsigned class = 0; class < TLB_CLASSES; class ++)
		for (unsigned i = 0; i < TLB_SLOTS; i++) {
			tlb_empty_slot(&region.tables.read[class], i);
			tlb_empty_slot(&region.tables.write[class], i);
		}
	pending_vector = -1;
	cpu.self = &cpu;
	cpu.region = &region;
	cpu.model = &model;
	model.physical_address_bits = 40;
	cpu.cr0 = CR0_PE | CR0_ET;
	cpu.gdtr = (struct descriptor_table){GDT, 0xfff};
	cpu.idtr = (struct descriptor_table){IDT, 0xfff};
	cpu_set_rflags(&cpu, 2);
	cpu.rip = CODE;
	put(GDT + KDATA, 8, flat_descriptor(0xc093));
	put(GDT + (UDATA & ~3), 8, flat_descriptor(0xc0f3));
	put(GDT + (UCODE32 & ~3), 8, flat_descriptor(0xc0fb));
}

static void set_up_long(unsigned cpl)
{
	set_up_machine();
	cpu.cr0 |= CR0_PG;
	cpu.cr4 = CR4_PAE | CR4_FSGSBASE;
	cpu.efer = EFER_LME | EFER_LMA | EFER_SCE;
	put(GDT + KCODE, 8, flat_descriptor(0xa09b));
	put(GDT + (UCODE & ~3), 8, flat_descriptor(0xa0fb));
	cpu.seg[SEG_TR] = (struct segment){.base = TSS, .limit = 0x67, .rights = 0x8b, .selector = TR};
	put(TSS + 4, 8, STACK0);
	put(TSS + 0x24, 8, IST1);
	load_segments(cpl, cpl ? UCODE : KCODE, cpl ? UDATA : KDATA);
	cpu.gpr[REG_RSP] = cpl ? STACK3 : STACK0 - 0x100;
}

static void set_up_protected(unsigned cpl)
{
	set_up_machine();
	put(GDT + KCODE, 8, flat_descriptor(0xc09b));
	put(GDT + KCODE16, 8, flat_descriptor(0x809b));
	put(GDT + TR, 8, 0x67 | (uint64_t)TSS << 16 | 0x8bull << 40);
	put(GDT + TR_B, 8, 0x67 | (uint64_t)TSS_B << 16 | 0x89ull << 40);
	cpu.seg[SEG_TR] = (struct segment){.base = TSS, .limit = 0x1067, .rights = 0x8b, .selector = TR};
	cpu.seg[SEG_LDTR].rights = RIGHTS_UNUSABLE;
	put(TSS + 4, 4, STACK0);
	put(TSS + 8, 2, KDATA);
	load_segments(cpl, cpl ? UCODE32 : KCODE, cpl ? UDATA : KDATA);
	cpu.gpr[REG_RSP] = cpl ? STACK3 : STACK0 - 0x100;
}

static void set_up_v86(unsigned iopl)
{
	set_up_protected(3);
	cpu_set_rflags(&cpu, 2 | FLAG_VM | FLAG_IF | iopl << 12);
	for (unsigned i = SEG_ES; i <= SEG_GS; i++)
		segment_load_v86(&cpu, i, 0x100 * i + 0x700);
	segment_load_v86(&cpu, SEG_SS, STACK3 >> 4);
	cpu.gpr[REG_RSP] = 0x100;
	cpu.rip = 0x50;
	cpu_update_mode(&cpu);
}

static void set_up_real(void)
{
	set_up_machine();
	cpu.cr0 = CR0_ET;
	for (unsigned i = SEG_ES; i <= SEG_GS; i++) {
		cpu.seg[i] = (struct segment){.limit = 0xffff, .rights = 0x93};
		segment_load_real(&cpu, i, 0x1000);
	}
	cpu.idtr = (struct descriptor_table){0, 0x3ff};
	cpu.gpr[REG_RSP] = 0x800;
	cpu.rip = 0x50;
	cpu_update_mode(&cpu);
}

/* Delivers until nothing is left to deliver, as the dispatcher does. */
static void deliver(void)
{
	volatile unsigned turns = 0;

	setjmp(leave_target);
	while (cpu.event.valid && turns < 5) {
		turns++;
		cpu_deliver_event(&cpu);
	}
	assert_true(turns < 5);
}

static void deliver_event(enum event_type type, uint8_t vector, bool has_error, uint32_t error)
{
	cpu.event = (struct event){
	    .valid = true, .type = type, .vector = vector, .has_error = has_error, .error = error};
	deliver();
}

/* Runs an op. False where it left, with cpu.event for whoever wants to deliver it. */
static bool run(op_function *op, const struct insn *insn)
{
	cpu.next_rip = cpu.rip + insn->length;
	if (setjmp(leave_target))
		return false;
	op(&cpu, insn);
	cpu.rip = cpu.next_rip;
	return true;
}

static void assert_segments_equal(const struct cpu *before)
{
	for (unsigned i = 0; i < SEG_COUNT; i++) {
		assert_int_equal(cpu.seg[i].selector, before->seg[i].selector);
		assert_int_equal(cpu.seg[i].base, before->seg[i].base);
		assert_int_equal(cpu.seg[i].limit, before->seg[i].limit);
		assert_int_equal(cpu.seg[i].rights, before->seg[i].rights);
	}
}

static void assert_fault(uint8_t vector, uint32_t error)
{
	assert_true(cpu.event.valid);
	assert_int_equal(cpu.event.type, EVENT_EXCEPTION);
	assert_int_equal(cpu.event.vector, vector);
	assert_int_equal(cpu.event.error, error);
}

/* ---- exceptions while delivering ---- */

enum outcome { SERIAL, DOUBLE, SHUTDOWN };

static enum outcome outcome_of(struct event first, uint8_t second)
{
	set_up_protected(0);
	cpu.delivering = first;
	if (!setjmp(leave_target)) {
		if (second == VECTOR_PF)
			cpu_raise_page_fault(&cpu, GLA(0x1234), 2);
		cpu_raise(&cpu, second);
	}
	if (!cpu.event.valid) {
		assert_int_equal(cpu.activity, ACTIVITY_SHUTDOWN);
		return SHUTDOWN;
	}
	if (cpu.event.vector == VECTOR_DF && second != VECTOR_DF) {
		assert_true(cpu.event.has_error);
		assert_false(cpu.delivering.valid);
		return DOUBLE;
	}
	assert_int_equal(cpu.event.vector, second);
	return SERIAL;
}

static void conditions_for_a_double_fault(void **state)
{
	static const uint8_t benign[] = {VECTOR_DB, VECTOR_BR, VECTOR_UD, VECTOR_NM,
	                                 VECTOR_MF, VECTOR_AC, VECTOR_XM};
	static const uint8_t contributory[] = {VECTOR_DE, VECTOR_TS, VECTOR_NP, VECTOR_SS, VECTOR_GP};
	struct event first = {.valid = true, .type = EVENT_EXCEPTION};

	for (unsigned i = 0; i < sizeof(benign); i++) {
		first.vector = benign[i];
		assert_int_equal(outcome_of(first, VECTOR_GP), SERIAL);
		assert_int_equal(outcome_of(first, VECTOR_PF), SERIAL);
	}
	for (unsigned i = 0; i < sizeof(contributory); i++) {
		first.vector = contributory[i];
		assert_int_equal(outcome_of(first, VECTOR_UD), SERIAL);
		assert_int_equal(outcome_of(first, VECTOR_PF), SERIAL);
		for (unsigned j = 0; j < sizeof(contributory); j++)
			assert_int_equal(outcome_of(first, contributory[j]), DOUBLE);
		first.vector = VECTOR_PF;
		assert_int_equal(outcome_of(first, contributory[i]), DOUBLE);
		first.vector = VECTOR_DF;
		assert_int_equal(outcome_of(first, contributory[i]), SHUTDOWN);
	}
	first.vector = VECTOR_PF;
	assert_int_equal(outcome_of(first, VECTOR_PF), DOUBLE);
	assert_int_equal(cpu.cr2, 0x1234);
	assert_int_equal(outcome_of(first, VECTOR_NM), SERIAL);
	first.vector = VECTOR_DF;
	assert_int_equal(outcome_of(first, VECTOR_PF), SHUTDOWN);
	assert_int_equal(outcome_of(first, VECTOR_UD), SERIAL);
	/* INT 13 and external interrupt 13 are no exceptions. */
	first = (struct event){.valid = true, .type = EVENT_SOFT_INT, .vector = VECTOR_GP};
	assert_int_equal(outcome_of(first, VECTOR_GP), SERIAL);
	first.type = EVENT_EXTERNAL;
	assert_int_equal(outcome_of(first, VECTOR_GP), SERIAL);
}

static void error_codes_tell_external_events(void **state)
{
	struct insn insn = {.length = 2, .imm = 0x40};

	set_up_long(3);
	put_gate(VECTOR_GP, TYPE_INTERRUPT_GATE, 0, KCODE, HANDLER, 0);
	deliver_event(EVENT_EXTERNAL, 0x40, false, 0); /* no gate there */
	assert_int_equal(cpu.rip, HANDLER);
	assert_int_equal(get(STACK0 - 48, 8), 0x40 * 8 + 3);
	set_up_long(3);
	put_gate(VECTOR_GP, TYPE_INTERRUPT_GATE, 0, KCODE, HANDLER, 0);
	put_gate(0x40, TYPE_INTERRUPT_GATE, 0, KCODE, HANDLER, 0); /* DPL 0: not for INT n of CPL 3 */
	assert_false(run(op_int, &insn));
	deliver();
	assert_int_equal(get(STACK0 - 48, 8), 0x40 * 8 + 2);
	assert_int_equal(get(STACK0 - 40, 8), CODE); /* the fault is at INT n itself */
}

/* ---- long mode ---- */

static void long_mode_switches_to_rsp0(void **state)
{
	set_up_long(3);
	cpu_set_rflags(&cpu, 2 | FLAG_IF | FLAG_ZF | FLAG_TF);
	cpu_update_mode(&cpu);
	cpu.gpr[REG_RSP] = STACK3 - 3;
	cpu.shadow = SHADOW_STI;
	put_gate(VECTOR_PF, TYPE_INTERRUPT_GATE, 0, KCODE, 0xffff800000001000, 0);
	cpu.event = (struct event){.valid = true,
	                           .type = EVENT_EXCEPTION,
	                           .vector = VECTOR_PF,
	                           .has_error = true,
	                           .error = 6,
	                           .payload = 0xdead000};
	deliver();
	assert_int_equal(cpu.rip, 0xffff800000001000);
	assert_int_equal(cpu.cr2, 0xdead000);
	assert_int_equal(cpu.cpl, 0);
	assert_int_equal(cpu.seg[SEG_CS].selector, KCODE);
	assert_int_equal(cpu.seg[SEG_SS].selector, 0);
	assert_true(cpu.seg[SEG_SS].rights & RIGHTS_UNUSABLE);
	assert_int_equal(cpu.gpr[REG_RSP], STACK0 - 48);
	assert_int_equal(get(STACK0 - 8, 8), UDATA);
	assert_int_equal(get(STACK0 - 16, 8), STACK3 - 3);
	assert_int_equal(get(STACK0 - 24, 8), 2 | FLAG_IF | FLAG_ZF | FLAG_TF | FLAG_RF);
	assert_int_equal(get(STACK0 - 32, 8), UCODE);
	assert_int_equal(get(STACK0 - 40, 8), CODE);
	assert_int_equal(get(STACK0 - 48, 8), 6);
	assert_int_equal(cpu_rflags(&cpu), 2 | FLAG_ZF);
	assert_int_equal(cpu.shadow, 0);
	assert_false(cpu.delivering.valid);
	assert_true(cpu.mode & MODE_CPL0);
	assert_false(cpu.mode & MODE_STEP);
}

static void long_mode_uses_ist_and_aligns(void **state)
{
	set_up_long(0);
	put_gate(VECTOR_NMI, TYPE_INTERRUPT_GATE, 0, KCODE, HANDLER, 1);
	deliver_event(EVENT_NMI, VECTOR_NMI, false, 0);
	assert_int_equal(cpu.gpr[REG_RSP], IST1 - 40);
	assert_int_equal(get(IST1 - 8, 8), KDATA);
	assert_int_equal(cpu.seg[SEG_SS].selector, KDATA); /* no change of CPL, no new SS */
	assert_true(cpu.nmi_blocked);
	/* Without IST and without change of CPL the stack is the present one, aligned to 16 bytes. */
	set_up_long(0);
	cpu.gpr[REG_RSP] = STACK0 - 0x103;
	put_gate(0x40, TYPE_TRAP_GATE, 0, KCODE, HANDLER, 0);
	cpu_set_rflags(&cpu, 2 | FLAG_IF);
	deliver_event(EVENT_EXTERNAL, 0x40, false, 0);
	assert_int_equal(cpu.gpr[REG_RSP], STACK0 - 0x110 - 40);
	assert_int_equal(get(STACK0 - 0x110 - 16, 8), STACK0 - 0x103);
	assert_true(cpu.rflags_system & FLAG_IF); /* a trap gate */
}

static void a_fault_in_delivery_rolls_back(void **state)
{
	set_up_long(3);
	put(TSS + 4, 8, 0x9010); /* the frame crosses into an absent page */
	page_absent[8] = true;
	put_gate(0x40, TYPE_INTERRUPT_GATE, 0, KCODE, HANDLER, 0);
	put_gate(VECTOR_PF, TYPE_INTERRUPT_GATE, 0, KCODE, HANDLER + 8, 1);
	deliver_event(EVENT_EXTERNAL, 0x40, false, 0);
	assert_int_equal(cpu.rip, HANDLER + 8);
	assert_int_equal(cpu.cr2 / PAGE_SIZE, 8);
	assert_int_equal(get(IST1 - 16, 8), STACK3);
	assert_int_equal(get(IST1 - 40, 8), CODE);
	assert_int_equal(get(0x9000, 8), 0); /* nothing was pushed by the interrupt */
	/* A stack that is bad for #DF as well. */
	set_up_long(3);
	put(TSS + 4, 8, 0x9010);
	page_absent[8] = true;
	put_gate(VECTOR_PF, TYPE_INTERRUPT_GATE, 0, KCODE, HANDLER, 0);
	put_gate(VECTOR_DF, TYPE_INTERRUPT_GATE, 0, KCODE, HANDLER, 0);
	deliver_event(EVENT_EXCEPTION, VECTOR_PF, true, 0);
	assert_int_equal(cpu.activity, ACTIVITY_SHUTDOWN);
	assert_int_equal(cpu.gpr[REG_RSP], STACK3);
}

static void long_mode_refuses_bad_gates(void **state)
{
	struct insn insn = {.length = 2, .imm = 0x40};

	set_up_long(0);
	put_gate(VECTOR_GP, TYPE_INTERRUPT_GATE, 0, KCODE, HANDLER, 0);
	put_gate(VECTOR_NP, TYPE_INTERRUPT_GATE, 0, KCODE, HANDLER, 0);
	put_gate(0x40, TYPE_INTERRUPT_GATE, 3, UCODE32 & ~3, HANDLER,
	         0); /* less privileged, and not 64-bit */
	assert_false(run(op_int, &insn));
	deliver();
	assert_int_equal(get(cpu.gpr[REG_RSP], 8), UCODE32 & ~3);
	set_up_long(0);
	put_gate(VECTOR_NP, TYPE_INTERRUPT_GATE, 0, KCODE, HANDLER, 0);
	put_gate(0x40, TYPE_INTERRUPT_GATE, 3, KCODE, HANDLER, 0);
	ram[IDT + 0x40 * 16 + 5] &= 0x7f;
	assert_false(run(op_int, &insn));
	deliver();
	assert_int_equal(get(cpu.gpr[REG_RSP], 8), 0x40 * 8 + 2);
	assert_int_equal(get(cpu.gpr[REG_RSP] + 8, 8), CODE);
}

static void iretq_undoes_delivery(void **state)
{
	struct insn iretq = {.length = 2, .operand_size = 8};

	set_up_long(3);
	cpu_set_rflags(&cpu, 2 | FLAG_IF | FLAG_CF | FLAG_AC);
	cpu_update_mode(&cpu);
	struct cpu before = cpu;

	put_gate(0x40, TYPE_INTERRUPT_GATE, 0, KCODE, HANDLER, 0);
	deliver_event(EVENT_EXTERNAL, 0x40, false, 0);
	cpu.nmi_blocked = true;
	assert_true(run(op_iret, &iretq));
	assert_int_equal(cpu.rip, CODE);
	assert_int_equal(cpu.gpr[REG_RSP], STACK3);
	assert_int_equal(cpu_rflags(&cpu), 2 | FLAG_IF | FLAG_CF | FLAG_AC);
	assert_segments_equal(&before);
	assert_int_equal(cpu.mode, before.mode);
	assert_false(cpu.nmi_blocked);
	/* From CPL 3 IF and IOPL stay. */
	put(STACK3, 8, CODE);
	put(STACK3 + 8, 8, UCODE);
	put(STACK3 + 16, 8, FLAG_IOPL);
	put(STACK3 + 24, 8, STACK3 + 0x100);
	put(STACK3 + 32, 8, UDATA);
	assert_true(run(op_iret, &iretq));
	assert_int_equal(cpu_rflags(&cpu), 2 | FLAG_IF);
	assert_int_equal(cpu.gpr[REG_RSP], STACK3 + 0x100);
}

static void iretq_checks_its_frame(void **state)
{
	static const struct {
		uint64_t rip, cs, ss, flags;
		uint8_t vector;
		uint32_t error;
	} bad[] = {
	    {CODE, 0, KDATA, 2, VECTOR_GP, 0},
	    {CODE, 0xff00 + KCODE, KDATA, 2, VECTOR_GP, 0xff08},
	    {CODE, KDATA, KDATA, 2, VECTOR_GP, KDATA},
	    {CODE, UCODE, KDATA, 2, VECTOR_GP, KDATA},     /* SS for CPL 0 */
	    {CODE, UCODE, 0, 2, VECTOR_GP, 0},             /* null SS for CPL 3 */
	    {1ull << 47, UCODE, UDATA, 2, VECTOR_GP, 0},   /* not canonical */
	    {1ull << 32, UCODE32, UDATA, 2, VECTOR_GP, 0}, /* beyond the limit */
	};
	struct insn iretq = {.length = 2, .operand_size = 8};

	for (unsigned i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		set_up_long(0);
		uint64_t rsp = cpu.gpr[REG_RSP];

		put(rsp, 8, bad[i].rip);
		put(rsp + 8, 8, bad[i].cs);
		put(rsp + 16, 8, bad[i].flags);
		put(rsp + 24, 8, STACK3);
		put(rsp + 32, 8, bad[i].ss);
		assert_false(run(op_iret, &iretq));
		assert_fault(bad[i].vector, bad[i].error);
		assert_int_equal(cpu.gpr[REG_RSP], rsp);
		assert_int_equal(cpu.seg[SEG_CS].selector, KCODE);
	}
	/* A null SS does for 64-bit code at CPL 0; NT never does. */
	set_up_long(0);
	put(cpu.gpr[REG_RSP], 8, CODE + 4);
	put(cpu.gpr[REG_RSP] + 8, 8, KCODE);
	put(cpu.gpr[REG_RSP] + 16, 8, 2);
	put(cpu.gpr[REG_RSP] + 24, 8, STACK0);
	assert_true(run(op_iret, &iretq));
	assert_true(cpu.seg[SEG_SS].rights & RIGHTS_UNUSABLE);
	assert_int_equal(cpu.gpr[REG_RSP], STACK0);
	cpu.rflags_system |= FLAG_NT;
	assert_false(run(op_iret, &iretq));
	assert_fault(VECTOR_GP, 0);
}

static void iretq_to_compatibility_mode(void **state)
{
	struct insn iretq = {.length = 2, .operand_size = 8};

	set_up_long(0);
	put(cpu.gpr[REG_RSP], 8, CODE);
	put(cpu.gpr[REG_RSP] + 8, 8, UCODE32);
	put(cpu.gpr[REG_RSP] + 16, 8, FLAG_IF);
	put(cpu.gpr[REG_RSP] + 24, 8, 0xffffffff00000000 | STACK3);
	put(cpu.gpr[REG_RSP] + 32, 8, UDATA);
	assert_true(run(op_iret, &iretq));
	assert_int_equal(cpu.mode & (MODE_CODE64 | MODE_CODE32 | MODE_FLAT), MODE_CODE32);
	assert_int_equal(cpu.gpr[REG_RSP], STACK3);
	/* DS and ES of DPL 0 are not left to it. */
	assert_int_equal(cpu.seg[SEG_DS].selector, 0);
	assert_true(cpu.seg[SEG_DS].rights & RIGHTS_UNUSABLE);
}

static void syscall_and_sysret(void **state)
{
	struct insn insn = {.length = 2, .operand_size = 8};

	set_up_long(3);
	cpu.msr.star = (uint64_t)KCODE << 32 | (uint64_t)UCODE32 << 48;
	cpu.msr.lstar = 0xffff800000002000;
	cpu.msr.sfmask = FLAG_IF | FLAG_TF | FLAG_AC;
	cpu_set_rflags(&cpu, 2 | FLAG_IF | FLAG_AC | FLAG_OF);
	cpu_update_mode(&cpu);
	struct cpu before = cpu;

	assert_true(run(op_syscall, &insn));
	assert_int_equal(cpu.rip, 0xffff800000002000);
	assert_int_equal(cpu.gpr[REG_RCX], CODE + 2);
	assert_int_equal(cpu.gpr[REG_R11], 2 | FLAG_IF | FLAG_AC | FLAG_OF);
	assert_int_equal(cpu_rflags(&cpu), 2 | FLAG_OF);
	assert_int_equal(cpu.seg[SEG_CS].selector, KCODE);
	assert_int_equal(cpu.seg[SEG_CS].rights, 0xa09b);
	assert_int_equal(cpu.seg[SEG_SS].selector, KDATA);
	assert_int_equal(cpu.seg[SEG_SS].rights, 0xc093);
	assert_int_equal(cpu.cpl, 0);
	assert_int_equal(cpu.gpr[REG_RSP], STACK3);

	assert_true(run(op_sysret, &insn));
	assert_int_equal(cpu.rip, CODE + 2);
	assert_int_equal(cpu_rflags(&cpu), 2 | FLAG_IF | FLAG_AC | FLAG_OF);
	assert_int_equal(cpu.seg[SEG_CS].selector, UCODE);
	assert_int_equal(cpu.seg[SEG_CS].rights, 0xa0fb);
	assert_int_equal(cpu.seg[SEG_SS].selector, UDATA);
	assert_int_equal(cpu.mode, before.mode);
	/* Now at CPL 3. */
	assert_false(run(op_sysret, &insn));
	assert_fault(VECTOR_GP, 0);

	set_up_long(0);
	cpu.msr.star = (uint64_t)UCODE32 << 48;
	cpu.gpr[REG_RCX] = 1ull << 47;
	assert_false(run(op_sysret, &insn));
	assert_fault(VECTOR_GP, 0);
	assert_int_equal(cpu.cpl, 0);
	insn.operand_size = 4;
	cpu.gpr[REG_RCX] = 0x500001234;
	cpu.event.valid = false;
	assert_true(run(op_sysret, &insn));
	assert_int_equal(cpu.rip, 0x1234);
	assert_int_equal(cpu.seg[SEG_CS].selector, UCODE32);
	assert_true(cpu.mode & MODE_CODE32);
	assert_false(run(op_syscall, &insn)); /* not in compatibility mode */
	assert_fault(VECTOR_UD, 0);
}

static void sysenter_and_sysexit(void **state)
{
	struct insn insn = {.length = 2, .operand_size = 4};

	set_up_protected(3);
	assert_false(run(op_sysenter, &insn));
	assert_fault(VECTOR_GP, 0);
	cpu.msr.sysenter_cs = KCODE;
	cpu.msr.sysenter_esp = STACK0;
	cpu.msr.sysenter_eip = HANDLER;
	cpu.rflags_system |= FLAG_IF;
	assert_true(run(op_sysenter, &insn));
	assert_int_equal(cpu.rip, HANDLER);
	assert_int_equal(cpu.gpr[REG_RSP], STACK0);
	assert_false(cpu.rflags_system & FLAG_IF);
	assert_int_equal(cpu.cpl, 0);
	cpu.gpr[REG_RDX] = CODE;
	cpu.gpr[REG_RCX] = STACK3;
	assert_true(run(op_sysexit, &insn));
	assert_int_equal(cpu.rip, CODE);
	assert_int_equal(cpu.seg[SEG_CS].selector, UCODE32);
	assert_int_equal(cpu.seg[SEG_SS].selector, UDATA);
	assert_int_equal(cpu.cpl, 3);
}

static void call_gate_of_long_mode(void **state)
{
	struct insn call = {.length = 6,
	                    .operand_size = 4,
	                    .address_size = 8,
	                    .has_modrm = true,
	                    .is_memory = true,
	                    .segment = SEG_DS,
	                    .displacement = 0x6000};
	struct insn retq = {.length = 2, .operand_size = 8};
	uint64_t target = 0xffff800000003000;

	set_up_long(3);
	put(0x6004, 2, GATE | 3);
	put(GDT + GATE, 8,
	    (target & 0xffff) | (uint64_t)KCODE << 16 | 0xecull << 40 | (target >> 16 & 0xffff) << 48);
	put(GDT + GATE + 8, 8, target >> 32);
	assert_true(run(op_call_far, &call));
	assert_int_equal(cpu.rip, target);
	assert_int_equal(cpu.cpl, 0);
	assert_int_equal(cpu.gpr[REG_RSP], STACK0 - 32);
	assert_int_equal(get(STACK0 - 8, 8), UDATA);
	assert_int_equal(get(STACK0 - 16, 8), STACK3);
	assert_int_equal(get(STACK0 - 24, 8), UCODE);
	assert_int_equal(get(STACK0 - 32, 8), CODE + 6);
	assert_true(run(op_ret_far, &retq));
	assert_int_equal(cpu.rip, CODE + 6);
	assert_int_equal(cpu.cpl, 3);
	assert_int_equal(cpu.gpr[REG_RSP], STACK3);
}

/* ---- protected mode ---- */

static void protected_mode_delivery_and_iret(void **state)
{
	struct insn iret = {.length = 1, .operand_size = 4};

	set_up_protected(3);
	cpu_set_rflags(&cpu, 2 | FLAG_IF | FLAG_NT);
	struct cpu before = cpu;

	put_gate(VECTOR_GP, TYPE_INTERRUPT_GATE, 0, KCODE, HANDLER, 0);
	deliver_event(EVENT_EXCEPTION, VECTOR_GP, true, 0x18);
	assert_int_equal(cpu.rip, HANDLER);
	assert_int_equal(cpu.gpr[REG_RSP], STACK0 - 24);
	assert_int_equal(get(STACK0 - 24, 4), 0x18);
	assert_int_equal(get(STACK0 - 20, 4), CODE);
	assert_int_equal(get(STACK0 - 16, 4), UCODE32);
	assert_int_equal(get(STACK0 - 12, 4), 2 | FLAG_IF | FLAG_NT | FLAG_RF);
	assert_int_equal(get(STACK0 - 8, 4), STACK3);
	assert_int_equal(get(STACK0 - 4, 4), UDATA);
	assert_int_equal(cpu.seg[SEG_SS].selector, KDATA);
	assert_int_equal(cpu_rflags(&cpu), 2);
	cpu.gpr[REG_RSP] += 4;
	assert_true(run(op_iret, &iret));
	assert_int_equal(cpu.gpr[REG_RSP], STACK3);
	assert_int_equal(cpu_rflags(&cpu), 2 | FLAG_IF | FLAG_NT | FLAG_RF);
	assert_segments_equal(&before);
	assert_int_equal(cpu.mode, before.mode);
}

static void bad_stack_of_the_tss_is_ts(void **state)
{
	set_up_protected(3);
	put_gate(0x40, TYPE_INTERRUPT_GATE, 0, KCODE, HANDLER, 0);
	put_gate(VECTOR_TS, TYPE_INTERRUPT_GATE, 0, KCODE, HANDLER, 0);
	put(TSS + 8, 2, UDATA);
	cpu.event = (struct event){.valid = true, .type = EVENT_EXTERNAL, .vector = 0x40};
	if (!setjmp(leave_target))
		cpu_deliver_event(&cpu);
	assert_fault(VECTOR_TS, (UDATA & ~3) | 1);
	assert_int_equal(cpu.cpl, 3);
	assert_int_equal(cpu.gpr[REG_RSP], STACK3);
}

static void call_gate_copies_parameters(void **state)
{
	struct insn call = {.length = 7, .operand_size = 4, .imm2 = GATE | 3};
	struct insn ret = {.length = 3, .operand_size = 4, .imm = 8, .imm_size = 2};

	set_up_protected(3);
	cpu.gpr[REG_RSP] = STACK3 - 8;
	put(STACK3 - 8, 4, 0x11111111);
	put(STACK3 - 4, 4, 0x22222222);
	put(GDT + GATE, 8,
	    (HANDLER & 0xffff) | (uint64_t)KCODE << 16 | 2ull << 32 | 0xecull << 40 |
	        (uint64_t)(HANDLER >> 16) << 48);
	assert_true(run(op_call_far, &call));
	assert_int_equal(cpu.rip, HANDLER);
	assert_int_equal(cpu.cpl, 0);
	assert_int_equal(cpu.gpr[REG_RSP], STACK0 - 24);
	assert_int_equal(get(STACK0 - 24, 4), CODE + 7);
	assert_int_equal(get(STACK0 - 20, 4), UCODE32);
	assert_int_equal(get(STACK0 - 16, 4), 0x11111111);
	assert_int_equal(get(STACK0 - 12, 4), 0x22222222);
	assert_int_equal(get(STACK0 - 8, 4), STACK3 - 8);
	assert_int_equal(get(STACK0 - 4, 4), UDATA);
	assert_true(run(op_ret_far, &ret));
	assert_int_equal(cpu.rip, CODE + 7);
	assert_int_equal(cpu.cpl, 3);
	assert_int_equal(cpu.gpr[REG_RSP], STACK3); /* the parameters are released on both stacks */
	assert_int_equal(cpu.seg[SEG_SS].selector, UDATA);
	/* A gate that is not for this privilege level. */
	ram[GDT + GATE + 5] = 0x8c;
	assert_false(run(op_call_far, &call));
	assert_fault(VECTOR_GP, GATE);
}

static void far_jump_checks_privilege(void **state)
{
	struct insn jump = {.length = 7, .operand_size = 4, .imm = HANDLER, .imm2 = KCODE};

	set_up_protected(3);
	assert_false(run(op_jmp_far, &jump));
	assert_fault(VECTOR_GP, KCODE);
	set_up_protected(0);
	ram[GDT + KCODE + 5] &= ~1; /* not accessed yet */
	assert_true(run(op_jmp_far, &jump));
	assert_int_equal(cpu.rip, HANDLER);
	assert_true(ram[GDT + KCODE + 5] & 1);
	jump.imm2 = KCODE16;
	jump.imm = 0x1234;
	assert_true(run(op_jmp_far, &jump));
	assert_false(cpu.mode & MODE_CODE32);
	jump.imm2 = 0;
	assert_false(run(op_jmp_far, &jump));
	assert_fault(VECTOR_GP, 0);
}

static void task_switch_and_nested_return(void **state)
{
	struct insn call = {.length = 7, .operand_size = 4, .imm2 = TR_B};
	struct insn iret = {.length = 1, .operand_size = 4};

	set_up_protected(0);
	cpu.gpr[REG_RBX] = 0x1234;
	put(TSS_B + 0x20, 4, HANDLER);
	put(TSS_B + 0x24, 4, 2 | FLAG_CF);
	put(TSS_B + 0x28 + 4 * REG_RSP, 4, IST1);
	put(TSS_B + 0x28 + 4 * REG_RBX, 4, 0x5678);
	put(TSS_B + 0x4c, 2, KCODE);
	put(TSS_B + 0x50, 2, KDATA);
	put(TSS_B + 0x54, 2, KDATA);
	assert_true(run(op_call_far, &call));
	assert_int_equal(cpu.rip, HANDLER);
	assert_int_equal(cpu.gpr[REG_RBX], 0x5678);
	assert_int_equal(cpu.seg[SEG_TR].selector, TR_B);
	assert_int_equal(cpu_rflags(&cpu), 2 | FLAG_CF | FLAG_NT);
	assert_int_equal(get(TSS_B, 2), TR);
	assert_int_equal(get(TSS + 0x20, 4), CODE + 7);
	assert_int_equal(ram[GDT + TR_B + 5], 0x8b);
	assert_true(cpu.cr0 & CR0_TS);
	assert_int_equal(cpu.seg[SEG_ES].selector, 0);
	assert_true(run(op_iret, &iret));
	assert_int_equal(cpu.rip, CODE + 7);
	assert_int_equal(cpu.gpr[REG_RBX], 0x1234);
	assert_int_equal(cpu.seg[SEG_TR].selector, TR);
	assert_int_equal(ram[GDT + TR_B + 5], 0x89);
	assert_false(get(TSS_B + 0x24, 4) & FLAG_NT);
}

/* ---- real-address and virtual-8086 mode ---- */

static void real_mode_round_trip(void **state)
{
	struct insn insn = {.length = 2, .imm = 0x21};
	struct insn iret = {.length = 1, .operand_size = 2};

	set_up_real();
	cpu_set_rflags(&cpu, 2 | FLAG_IF | FLAG_CF | FLAG_TF);
	put(0x21 * 4, 4, 0x20000100);
	assert_false(run(op_int, &insn));
	deliver();
	assert_int_equal(cpu.rip, 0x100);
	assert_int_equal(cpu.seg[SEG_CS].selector, 0x2000);
	assert_int_equal(cpu.seg[SEG_CS].base, 0x20000);
	assert_int_equal(cpu.gpr[REG_RSP], 0x800 - 6);
	assert_int_equal(get(0x10800 - 6, 2), 0x52);
	assert_int_equal(get(0x10800 - 4, 2), 0x1000);
	assert_int_equal(get(0x10800 - 2, 2), 2 | FLAG_IF | FLAG_CF | FLAG_TF);
	assert_int_equal(cpu_rflags(&cpu), 2 | FLAG_CF);
	assert_true(run(op_iret, &iret));
	assert_int_equal(cpu.rip, 0x52);
	assert_int_equal(cpu.seg[SEG_CS].base, 0x10000);
	assert_int_equal(cpu_rflags(&cpu), 2 | FLAG_IF | FLAG_CF | FLAG_TF);
	assert_int_equal(cpu.gpr[REG_RSP], 0x800);
	/* Exceptions push no error code here. */
	put(VECTOR_GP * 4, 4, 0x20000200);
	if (!setjmp(leave_target))
		cpu_raise_error(&cpu, VECTOR_GP, 0);
	deliver();
	assert_int_equal(cpu.rip, 0x200);
	assert_int_equal(cpu.gpr[REG_RSP], 0x800 - 6);
	/* Vectors beyond the table end in a shutdown. */
	cpu.idtr.limit = 3;
	deliver_event(EVENT_EXTERNAL, 0x21, false, 0);
	assert_int_equal(cpu.activity, ACTIVITY_SHUTDOWN);
}

static void v86_interrupt_and_return(void **state)
{
	struct insn iret = {.length = 1, .operand_size = 4};

	set_up_v86(0);
	struct cpu before = cpu;

	put_gate(0x40, TYPE_INTERRUPT_GATE, 0, KCODE, HANDLER, 0);
	deliver_event(EVENT_EXTERNAL, 0x40, false, 0);
	assert_int_equal(cpu.rip, HANDLER);
	assert_int_equal(cpu.cpl, 0);
	assert_int_equal(cpu.gpr[REG_RSP], STACK0 - 36);
	assert_int_equal(get(STACK0 - 4, 4), before.seg[SEG_GS].selector);
	assert_int_equal(get(STACK0 - 8, 4), before.seg[SEG_FS].selector);
	assert_int_equal(get(STACK0 - 12, 4), before.seg[SEG_DS].selector);
	assert_int_equal(get(STACK0 - 16, 4), before.seg[SEG_ES].selector);
	assert_int_equal(get(STACK0 - 20, 4), before.seg[SEG_SS].selector);
	assert_int_equal(get(STACK0 - 24, 4), 0x100);
	assert_int_equal(get(STACK0 - 28, 4), 2 | FLAG_VM | FLAG_IF);
	assert_int_equal(cpu.seg[SEG_DS].selector, 0);
	assert_true(cpu.seg[SEG_DS].rights & RIGHTS_UNUSABLE);
	assert_true(run(op_iret, &iret));
	assert_segments_equal(&before);
	assert_int_equal(cpu.rip, 0x50);
	assert_int_equal(cpu.gpr[REG_RSP], 0x100);
	assert_int_equal(cpu_rflags(&cpu), cpu_rflags(&before));
	assert_int_equal(cpu.mode, before.mode);
}

static void v86_software_interrupts(void **state)
{
	struct insn insn = {.length = 2, .imm = 0x21};
	uint64_t stack = STACK3 + 0x100;

	/* Methods 1 and 2: without VME IOPL decides. */
	set_up_v86(0);
	assert_false(run(op_int, &insn));
	assert_fault(VECTOR_GP, 0);
	set_up_v86(3);
	put_gate(0x21, TYPE_INTERRUPT_GATE, 3, KCODE, HANDLER, 0);
	assert_false(run(op_int, &insn));
	deliver();
	assert_int_equal(cpu.rip, HANDLER);
	assert_int_equal(get(STACK0 - 36, 4), 0x52);

	/* Method 5: redirected with IOPL 3, which uses IF itself. */
	set_up_v86(3);
	cpu.cr4 |= CR4_VME;
	put(TSS + 102, 2, 0x100);
	put(0x21 * 4, 4, 0x30000123);
	assert_false(run(op_int, &insn));
	deliver();
	assert_int_equal(cpu.rip, 0x123);
	assert_int_equal(cpu.seg[SEG_CS].base, 0x30000);
	assert_int_equal(cpu.cpl, 3);
	assert_int_equal(get(stack - 2, 2), 2 | FLAG_IF | FLAG_IOPL);
	assert_int_equal(get(stack - 6, 2), 0x52);
	assert_false(cpu.rflags_system & FLAG_IF);
	assert_true(cpu.mode & MODE_V86);

	/* Method 6: redirected with IOPL 0; VIF takes the place of IF. */
	set_up_v86(0);
	cpu.cr4 |= CR4_VME;
	cpu.rflags_system |= FLAG_VIF;
	put(TSS + 102, 2, 0x100);
	put(0x21 * 4, 4, 0x30000123);
	assert_false(run(op_int, &insn));
	deliver();
	assert_int_equal(cpu.rip, 0x123);
	assert_int_equal(get(stack - 2, 2), 2 | FLAG_IF | FLAG_IOPL);
	assert_true(cpu.rflags_system & FLAG_IF);
	assert_false(cpu.rflags_system & FLAG_VIF);

	/* Methods 3 and 4: the bit is set. */
	set_up_v86(0);
	cpu.cr4 |= CR4_VME;
	put(TSS + 102, 2, 0x100);
	ram[TSS + 0x100 - 32 + (0x21 >> 3)] = 1 << (0x21 & 7);
	assert_false(run(op_int, &insn));
	assert_fault(VECTOR_GP, 0);
}

static void v86_iret_with_vme(void **state)
{
	struct insn iret = {.length = 1, .operand_size = 2};
	uint64_t stack = STACK3 + 0x100;

	set_up_v86(0);
	put(stack, 2, 0x60);
	put(stack + 2, 2, 0x700);
	put(stack + 4, 2, FLAG_IF | FLAG_CF);
	assert_false(run(op_iret, &iret));
	assert_fault(VECTOR_GP, 0);
	cpu.cr4 |= CR4_VME;
	cpu.event.valid = false;
	assert_true(run(op_iret, &iret));
	assert_int_equal(cpu.rip, 0x60);
	assert_int_equal(cpu_rflags(&cpu), 2 | FLAG_VM | FLAG_IF | FLAG_VIF | FLAG_CF);
	cpu.gpr[REG_RSP] = 0x100;
	cpu.rflags_system |= FLAG_VIP;
	assert_false(run(op_iret, &iret));
	assert_fault(VECTOR_GP, 0);
}

/* ---- between instructions ---- */

static void sti_blocks_for_one_instruction(void **state)
{
	struct insn insn = {.length = 1};

	set_up_long(0);
	pending_vector = 0x55;
	cpu_poll_events(&cpu);
	assert_false(cpu.event.valid);
	assert_true(cpu.interrupt_blocked);
	assert_int_equal(cpu.kick, 0);
	assert_true(run(op_sti, &insn));
	assert_int_equal(cpu.shadow, SHADOW_STI);
	assert_int_equal(cpu.kick, 1);
	cpu_poll_events(&cpu);
	assert_false(cpu.event.valid);
	assert_int_equal(cpu.kick, 1); /* to be looked at again */
	cpu.shadow = 0;
	cpu_poll_events(&cpu);
	assert_true(cpu.event.valid);
	assert_int_equal(cpu.event.type, EVENT_EXTERNAL);
	assert_int_equal(cpu.event.vector, 0x55);
	/* STI while interrupts are on blocks nothing; CLI closes. */
	assert_true(run(op_sti, &insn));
	assert_int_equal(cpu.shadow, 0);
	assert_true(run(op_cli, &insn));
	assert_false(cpu.rflags_system & FLAG_IF);
}

static void sti_and_cli_by_privilege(void **state)
{
	struct insn insn = {.length = 1};

	set_up_protected(3);
	assert_false(run(op_sti, &insn));
	assert_fault(VECTOR_GP, 0);
	cpu.cr4 |= CR4_PVI;
	assert_true(run(op_sti, &insn));
	assert_true(cpu.rflags_system & FLAG_VIF);
	assert_false(cpu.rflags_system & FLAG_IF);
	assert_true(run(op_cli, &insn));
	assert_false(cpu.rflags_system & FLAG_VIF);
	cpu.rflags_system |= FLAG_VIP;
	assert_false(run(op_sti, &insn));
	assert_fault(VECTOR_GP, 0);
	cpu.rflags_system |= FLAG_IOPL;
	cpu_update_mode(&cpu);
	assert_true(run(op_sti, &insn));
	assert_true(cpu.rflags_system & FLAG_IF);
}

static void priority_among_concurrent_events(void **state)
{
	set_up_long(0);
	cpu.rflags_system |= FLAG_IF;
	pending_vector = 0x55;
	cpu.pending_async = ASYNC_NMI;
	cpu.debug_trap_pending = true;
	cpu.dr6_pending = 1 << 14;
	cpu.activity = ACTIVITY_HLT;
	assert_true(cpu_has_wakeup(&cpu));
	cpu_poll_events(&cpu);
	assert_fault(VECTOR_DB, 0);
	assert_int_equal(cpu.event.payload, 1 << 14);
	cpu.event.valid = false;
	cpu_poll_events(&cpu);
	assert_int_equal(cpu.event.type, EVENT_NMI);
	cpu.event.valid = false;
	cpu_poll_events(&cpu);
	assert_int_equal(cpu.event.type, EVENT_EXTERNAL);
	put_gate(0x55, TYPE_INTERRUPT_GATE, 0, KCODE, HANDLER, 0);
	deliver();
	assert_int_equal(cpu.activity, ACTIVITY_ACTIVE);
	/* MOV SS holds back all three; NMIs wait for IRET. */
	set_up_long(0);
	cpu.rflags_system |= FLAG_IF;
	cpu.shadow = SHADOW_MOVSS;
	cpu.nmi_pending = cpu.debug_trap_pending = true;
	pending_vector = 0x55;
	cpu_poll_events(&cpu);
	assert_false(cpu.event.valid);
	assert_int_equal(cpu.kick, 1);
	set_up_long(0);
	cpu.nmi_pending = cpu.nmi_blocked = true;
	cpu_poll_events(&cpu);
	assert_false(cpu.event.valid);
	assert_false(cpu_has_wakeup(&cpu));
}

static void init_and_start_up(void **state)
{
	set_up_long(0);
	cpu.index = 1;
	cpu.pending_async = ASYNC_INIT;
	cpu_poll_events(&cpu);
	assert_int_equal(cpu.activity, ACTIVITY_WAIT_SIPI);
	assert_int_equal(cpu.rip, 0xfff0);
	assert_false(cpu.mode & MODE_LONG);
	cpu.sipi_vector = 0x9a;
	cpu.pending_async = ASYNC_SIPI;
	assert_true(cpu_has_wakeup(&cpu));
	cpu_poll_events(&cpu);
	assert_int_equal(cpu.activity, ACTIVITY_ACTIVE);
	assert_int_equal(cpu.seg[SEG_CS].base, 0x9a000);
	assert_int_equal(cpu.rip, 0);
	/* Blocked in VMX root operation. */
	set_up_long(0);
	cpu.init_blocked = true;
	cpu.pending_async = ASYNC_INIT;
	cpu_poll_events(&cpu);
	assert_int_equal(cpu.rip, CODE);
	assert_int_equal(cpu.pending_async, ASYNC_INIT);
}

static int slow_paths(void **state)
{
	fill_tlb = false;
	return 0;
}

static int quick_paths(void **state)
{
	fill_tlb = true;
	return 0;
}

#define BOTH(test) cmocka_unit_test_setup(test, slow_paths), cmocka_unit_test_setup(test, quick_paths)

int main(void)
{
	const struct CMUnitTest tests[] = {
	    BOTH(conditions_for_a_double_fault),
	    BOTH(error_codes_tell_external_events),
	    BOTH(long_mode_switches_to_rsp0),
	    BOTH(long_mode_uses_ist_and_aligns),
	    BOTH(a_fault_in_delivery_rolls_back),
	    BOTH(long_mode_refuses_bad_gates),
	    BOTH(iretq_undoes_delivery),
	    BOTH(iretq_checks_its_frame),
	    BOTH(iretq_to_compatibility_mode),
	    BOTH(syscall_and_sysret),
	    BOTH(sysenter_and_sysexit),
	    BOTH(call_gate_of_long_mode),
	    BOTH(protected_mode_delivery_and_iret),
	    BOTH(bad_stack_of_the_tss_is_ts),
	    BOTH(call_gate_copies_parameters),
	    BOTH(far_jump_checks_privilege),
	    BOTH(task_switch_and_nested_return),
	    BOTH(real_mode_round_trip),
	    BOTH(v86_interrupt_and_return),
	    BOTH(v86_software_interrupts),
	    BOTH(v86_iret_with_vme),
	    BOTH(sti_blocks_for_one_instruction),
	    BOTH(sti_and_cli_by_privilege),
	    BOTH(priority_among_concurrent_events),
	    BOTH(init_and_start_up),
	};

	return cmocka_run_group_tests_name("delivery", tests, NULL, NULL);
}

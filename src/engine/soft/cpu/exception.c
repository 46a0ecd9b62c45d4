/*
 * Exceptions and the delivery of every event.
 *
 * A fault does not deliver itself: cpu_raise… records it in cpu->event and leaves; the dispatcher then calls
 * cpu_deliver_event with cpu->rip at the interrupted instruction. While an event is on its way through the
 * IDT, cpu->delivering holds it. A fault met there is raised in the same way, so it unwinds the delivery;
 * that is harmless because delivery changes no register before all its checks and pushes are done. cpu_raise
 * then combines the two (SDM, Conditions for Generating a Double Fault), and the next call delivers the
 * result.
 *
 * Interception (cpu->virt->event) looks at the event before CR2 or DR6 take its payload, and at a nested
 * fault before it is made a double fault: a hypervisor that shadows page tables depends on seeing the page
 * fault.
 */
#include "engine/soft/cpu/descriptor.h"

#define DR6_BD       (1u << 13)
#define DR7_GD       (1u << 13)
#define DEBUGCTL_LBR 1u
#define DEBUGCTL_BTF 2u

enum fault_class { BENIGN, CONTRIBUTORY, PAGE_FAULT, DOUBLE_FAULT };

static enum fault_class fault_class(uint8_t vector)
{
	switch (vector) {
	case VECTOR_DE:
	case VECTOR_TS:
	case VECTOR_NP:
	case VECTOR_SS:
	case VECTOR_GP:
		return CONTRIBUTORY;
	case VECTOR_PF:
		return PAGE_FAULT;
	case VECTOR_DF:
		return DOUBLE_FAULT;
	default:
		return BENIGN;
	}
}

/* INT n, INT3 and INTO; INT1 counts as an event external to the program (SDM, INT n). */
static bool is_software(const struct event *event)
{
	return event->type == EVENT_SOFT_INT || event->type == EVENT_SOFT_EXCEPTION;
}

_Noreturn static void triple_fault(struct cpu *cpu)
{
	cpu->delivering.valid = false;
	cpu->event.valid = false;
	if (cpu->virt)
		cpu->virt->triple_fault(cpu);
	cpu->activity = ACTIVITY_SHUTDOWN;
	if (cpu->trace & ENGINE_TRACE_EXCEPTION)
		cpu_trace(cpu, "triple fault at %llx", (unsigned long long)cpu->rip);
	cpu_leave(cpu);
}

_Noreturn static void raise_event(struct cpu *cpu, struct event event)
{
	event.valid = true;
	event.type = EVENT_EXCEPTION;
	/* An instruction that faults has hit no data breakpoint. What MOV SS before it held back stays. */
	if (!cpu->delivering.valid && !(cpu->shadow & SHADOW_MOVSS)) {
		cpu->debug_trap_pending = false;
		cpu->dr6_pending = 0;
	}
	if (cpu->delivering.valid) {
		enum fault_class first = BENIGN, second = fault_class(event.vector);
		bool combine;

		if (cpu->delivering.type == EVENT_EXCEPTION)
			first = fault_class(cpu->delivering.vector);
		combine = second != BENIGN &&
		          (first >= PAGE_FAULT || (first == CONTRIBUTORY && second == CONTRIBUTORY));
		if (combine) {
			if (cpu->virt)
				cpu->virt->event(cpu, &event);
			if (event.vector == VECTOR_PF)
				cpu->cr2 = event.payload;
			/* Exits by a double or triple fault are not "during event delivery" (SDM, Information
			 * for VM Exits That Occur During Event Delivery). */
			cpu->delivering.valid = false;
			if (first == DOUBLE_FAULT)
				triple_fault(cpu);
			event = (struct event){
			    .valid = true,
			    .type = EVENT_EXCEPTION,
			    .vector = VECTOR_DF,
			    .has_error = cpu->cr0 & CR0_PE,
			};
		}
	}
	cpu->event = event;
	cpu_leave(cpu);
}

_Noreturn void cpu_raise(struct cpu *cpu, enum vector vector)
{
	raise_event(cpu, (struct event){.vector = vector});
}

_Noreturn void cpu_raise_debug(struct cpu *cpu, uint64_t dr6)
{
	raise_event(cpu, (struct event){.vector = VECTOR_DB, .payload = dr6});
}

_Noreturn void cpu_raise_error(struct cpu *cpu, enum vector vector, uint32_t error)
{
	bool has_ext = (vector >= VECTOR_TS && vector <= VECTOR_GP) || vector == VECTOR_AC;

	/* SDM, Error Code: EXT tells that the fault was met while delivering what the program did not ask
	 * for. */
	if (has_ext && cpu->delivering.valid && !is_software(&cpu->delivering))
		error |= 1;
	/* There are no error codes in real-address mode. */
	raise_event(cpu, (struct event){.vector = vector, .has_error = cpu->cr0 & CR0_PE, .error = error});
}

_Noreturn void cpu_raise_page_fault(struct cpu *cpu, gla_t address, uint32_t error)
{
	raise_event(cpu, (struct event){
	                     .vector = VECTOR_PF, .has_error = true, .error = error, .payload = address.v});
}

/* RFLAGS as pushed (SDM, Instruction-Breakpoint Exception Condition): RF is set for faults, but not for #DB
 * on an instruction breakpoint; an injected event's RF is its VMM's choice. */
static uint64_t pushed_flags(const struct cpu *cpu, const struct event *event)
{
	uint64_t flags = cpu_rflags(cpu);

	if (event->type != EVENT_EXCEPTION || event->injected)
		return flags;
	switch (event->vector) {
	case VECTOR_DB:
		return event->payload & DR6_BD ? flags | FLAG_RF : flags;
	case VECTOR_DF:
	case VECTOR_MC:
		return flags;
	default:
		return flags | FLAG_RF;
	}
}

/* Through an interrupt gate IF is cleared as well. */
static void clear_flags(struct cpu *cpu, bool interrupt_gate)
{
	cpu->rflags_system &= ~(uint64_t)(FLAG_TF | FLAG_NT | FLAG_RF | FLAG_VM);
	if (interrupt_gate)
		cpu->rflags_system &= ~(uint64_t)FLAG_IF;
}

/* Pushes FLAGS, CS, IP and goes through the vector table at linear address `table`. Clears IF (or VIF where
 * virtual_if), TF, RF and, in real-address mode, AC. */
static void deliver_8086(struct cpu *cpu, uint8_t vector, uint64_t return_rip, uint64_t table, uint64_t flags,
                         bool virtual_if)
{
	gla_t entry = cpu_linear(cpu, table + vector * 4u);
	/* In virtual-8086 mode the table is ordinary memory of the program. */
	enum tlb_class class = cpu->mode & MODE_V86 ? TLB_USER : mem_class_system(cpu);
	uint32_t pointer = mem_read_linear(cpu, entry, 4, class);
	uint64_t values[] = {flags & 0xffff, cpu->seg[SEG_CS].selector, return_rip & 0xffff};
	struct stack stack;

	stack_present(cpu, &stack);
	if ((pointer & 0xffff) > cpu->seg[SEG_CS].limit)
		cpu_raise_error(cpu, VECTOR_GP, 0);
	stack_push_frame(cpu, &stack, values, 3, 2);
	stack_commit(cpu, &stack);
	cpu->rflags_system &= ~(uint64_t)(FLAG_TF | FLAG_RF | (virtual_if ? FLAG_VIF : FLAG_IF));
	if (cpu->mode & MODE_V86) {
		segment_load_v86(cpu, SEG_CS, pointer >> 16);
	} else {
		cpu->rflags_system &= ~(uint64_t)FLAG_AC;
		segment_load_real(cpu, SEG_CS, pointer >> 16);
	}
	cpu->rip = pointer & 0xffff;
	cpu_update_mode(cpu);
}

static void deliver_real(struct cpu *cpu, const struct event *event, uint64_t return_rip)
{
	if (event->vector * 4u + 3 > cpu->idtr.limit)
		cpu_raise_error(cpu, VECTOR_GP, event->vector * 8u + 2);
	deliver_8086(cpu, event->vector, return_rip, cpu->idtr.base, pushed_flags(cpu, event), false);
}

/* SDM, Software Interrupt Handling Methods While in Virtual-8086 Mode. */
bool vme_redirects(struct cpu *cpu, uint8_t vector)
{
	const struct segment *tr = &cpu->seg[SEG_TR];
	uint32_t io_map, byte;

	if (!(cpu->cr4 & CR4_VME))
		return false;
	if (tr->rights & RIGHTS_UNUSABLE || tr->limit < 103)
		cpu_raise_error(cpu, VECTOR_GP, 0);
	io_map = mem_read_linear(cpu, cpu_linear(cpu, tr->base + 102), 2, mem_class_system(cpu));
	byte = io_map - 32 + (vector >> 3);
	if (io_map < 32 || byte > tr->limit)
		cpu_raise_error(cpu, VECTOR_GP, 0);
	return !(mem_read_linear(cpu, cpu_linear(cpu, tr->base + byte), 1, mem_class_system(cpu)) >>
	             (vector & 7) &
	         1);
}

/* Methods 5 and 6: the program's own vector table, with the virtual interrupt flag where IOPL is below 3. */
static void deliver_redirected(struct cpu *cpu, const struct event *event, uint64_t return_rip)
{
	uint64_t flags = cpu_rflags(cpu);
	bool virtual_if = (flags & FLAG_IOPL) != FLAG_IOPL;

	if (virtual_if) {
		flags = (flags & ~(uint64_t)FLAG_IF) | FLAG_IOPL;
		if (flags & FLAG_VIF)
			flags |= FLAG_IF;
	}
	deliver_8086(cpu, event->vector, return_rip, 0, flags, virtual_if);
}

/* Type and DPL checks that all gates share; error is the IDT error code. */
static void check_gate(struct cpu *cpu, const struct event *event, uint64_t gate, uint32_t error)
{
	if (is_software(event) && ((gate >> 45) & 3) < cpu->cpl)
		cpu_raise_error(cpu, VECTOR_GP, error);
	if (!(gate >> 47 & 1))
		cpu_raise_error(cpu, VECTOR_NP, error);
}

/* The handler's code segment, by the rules for IDT gates. Returns the privilege level it will run at. */
static unsigned check_handler_segment(struct cpu *cpu, uint16_t selector, struct descriptor *d)
{
	uint32_t rights;

	if (selector_is_null(selector))
		cpu_raise_error(cpu, VECTOR_GP, 0);
	if (!descriptor_read(cpu, selector, d))
		cpu_raise_error(cpu, VECTOR_GP, selector_error(selector));
	rights = descriptor_rights(d);
	if (!rights_is_code(rights) || RIGHTS_DPL(rights) > cpu->cpl)
		cpu_raise_error(cpu, VECTOR_GP, selector_error(selector));
	if (cpu_is_long(cpu) && (rights & (RIGHTS_L | RIGHTS_DB)) != RIGHTS_L)
		cpu_raise_error(cpu, VECTOR_GP, selector_error(selector));
	if (!(rights & RIGHTS_P))
		cpu_raise_error(cpu, VECTOR_NP, selector_error(selector));
	return rights & TYPE_DOWN /* conforming */ ? cpu->cpl : RIGHTS_DPL(rights);
}

/* SDM, 64-Bit Mode Stack Frame and Stack Switching in IA-32e Mode. */
static void deliver_long(struct cpu *cpu, const struct event *event, uint64_t return_rip)
{
	uint32_t error = event->vector * 8u | 2;
	uint64_t low, high, target, sp;
	unsigned ist, cpl, count = event->has_error ? 6 : 5, type;
	uint16_t selector;
	struct descriptor d;
	enum tlb_class class;
	uint64_t *frame;

	if (event->vector * 16u + 15 > cpu->idtr.limit)
		cpu_raise_error(cpu, VECTOR_GP, error);
	low = quick_read64(cpu, GLA(cpu->idtr.base + event->vector * 16u), mem_class_system(cpu));
	high = quick_read64(cpu, GLA(cpu->idtr.base + event->vector * 16u + 8), mem_class_system(cpu));
	type = (low >> 40) & 0x1f;
	if (type != TYPE_INTERRUPT_GATE && type != TYPE_TRAP_GATE)
		cpu_raise_error(cpu, VECTOR_GP, error);
	check_gate(cpu, event, low, error);
	selector = low >> 16;
	cpl = check_handler_segment(cpu, selector, &d);

	ist = (low >> 32) & 7;
	class = cpl == cpu->cpl ? mem_class(cpu) : TLB_SUPER;
	sp = ist || cpl != cpu->cpl ? tss_stack64(cpu, cpl, ist) : cpu->gpr[REG_RSP];
	sp &= ~15ull;
	target = (low & 0xffff) | (low >> 32 & 0xffff0000) | high << 32;
	if (!is_canonical(target))
		cpu_raise_error(cpu, VECTOR_GP, 0);
	descriptor_set_accessed(cpu, &d);

	uint64_t values[6] = {
	    cpu->seg[SEG_SS].selector, cpu->gpr[REG_RSP], pushed_flags(cpu, event),
	    cpu->seg[SEG_CS].selector, return_rip,        event->error,
	};
	/* A TLB entry exists for canonical pages only, so a hit needs no further check. */
	frame = quick_write(cpu, GLA(sp - count * 8), count * 8, class);
	if (__builtin_expect(frame != NULL, 1)) {
		for (unsigned i = 0; i < count; i++)
			frame[count - 1 - i] = values[i];
	} else {
		struct stack stack = {.mask = UINT64_MAX, .sp = sp, .class = class, .flat64 = true};

		stack_push_frame(cpu, &stack, values, count, 8);
	}

	if (cpl != cpu->cpl)
		segment_set_null(&cpu->seg[SEG_SS], cpl, cpl);
	cpu->gpr[REG_RSP] = sp - count * 8;
	segment_set_cs(cpu, &d, selector, cpl);
	cpu->rip = target;
	clear_flags(cpu, type == TYPE_INTERRUPT_GATE);
	cpu_update_mode(cpu);
}

/* A more privileged handler (also out of virtual-8086 mode): the stack comes from the TSS. */
static unsigned push_inner(struct cpu *cpu, const struct event *event, uint64_t return_rip, unsigned cpl,
                           unsigned size, struct stack *stack)
{
	uint64_t values[10];
	unsigned count = 0;
	uint16_t selector;
	uint32_t pointer;
	struct descriptor d;

	tss_stack(cpu, cpl, &selector, &pointer);
	stack_segment_check(cpu, selector, cpl, VECTOR_TS, &d);
	stack_new(cpu, stack, &d, selector, pointer, cpl);
	if (cpu->mode & MODE_V86) {
		values[count++] = cpu->seg[SEG_GS].selector;
		values[count++] = cpu->seg[SEG_FS].selector;
		values[count++] = cpu->seg[SEG_DS].selector;
		values[count++] = cpu->seg[SEG_ES].selector;
	}
	values[count++] = cpu->seg[SEG_SS].selector;
	values[count++] = cpu->gpr[REG_RSP];
	values[count++] = pushed_flags(cpu, event);
	values[count++] = cpu->seg[SEG_CS].selector;
	values[count++] = return_rip;
	if (event->has_error)
		values[count++] = event->error;
	stack_push_frame(cpu, stack, values, count, size);
	return count;
}

static void push_same(struct cpu *cpu, const struct event *event, uint64_t return_rip, unsigned size,
                      struct stack *stack)
{
	uint64_t values[] = {pushed_flags(cpu, event), cpu->seg[SEG_CS].selector, return_rip, event->error};

	stack_present(cpu, stack);
	stack_push_frame(cpu, stack, values, event->has_error ? 4 : 3, size);
}

static void deliver_protected(struct cpu *cpu, const struct event *event, uint64_t return_rip)
{
	uint32_t error = event->vector * 8u | 2;
	uint64_t gate;
	uint32_t target;
	unsigned type, cpl, size;
	uint16_t selector;
	struct descriptor d;
	struct stack stack;

	if (event->vector * 8u + 7 > cpu->idtr.limit)
		cpu_raise_error(cpu, VECTOR_GP, error);
	gate = mem_read_linear(cpu, cpu_linear(cpu, cpu->idtr.base + event->vector * 8u), 8,
	                       mem_class_system(cpu));
	type = (gate >> 40) & 0x1f;
	if (type != TYPE_TASK_GATE && (type & ~9u) != TYPE_INTERRUPT_GATE16)
		cpu_raise_error(cpu, VECTOR_GP, error);
	check_gate(cpu, event, gate, error);
	selector = gate >> 16;
	if (type == TYPE_TASK_GATE) {
		task_switch(cpu, selector, TASK_GATE, NULL, return_rip, pushed_flags(cpu, event),
		            event->has_error, event->error);
		return;
	}
	cpl = check_handler_segment(cpu, selector, &d);
	/* Virtual-8086 code is interrupted into privilege level 0 or not at all. */
	if ((cpu->mode & MODE_V86) && cpl != 0)
		cpu_raise_error(cpu, VECTOR_GP, selector_error(selector));
	size = type & 8 ? 4 : 2;
	target = size == 4 ? (gate & 0xffff) | (gate >> 32 & 0xffff0000) : gate & 0xffff;
	code_offset_check(cpu, &d, target);
	descriptor_set_accessed(cpu, &d);

	if (cpl == cpu->cpl) {
		push_same(cpu, event, return_rip, size, &stack);
	} else {
		push_inner(cpu, event, return_rip, cpl, size, &stack);
		cpu->seg[SEG_SS] = stack.ss;
		if (cpu->mode & MODE_V86) {
			segment_set_null(&cpu->seg[SEG_ES], 0, 0);
			segment_set_null(&cpu->seg[SEG_DS], 0, 0);
			segment_set_null(&cpu->seg[SEG_FS], 0, 0);
			segment_set_null(&cpu->seg[SEG_GS], 0, 0);
		}
	}
	stack_commit(cpu, &stack);
	segment_set_cs(cpu, &d, selector, cpl);
	cpu->rip = target;
	clear_flags(cpu, !(type & 1));
	cpu_update_mode(cpu);
}

/* What an exception does to registers once nothing intercepts it, whether or not its delivery succeeds. */
static void take_payload(struct cpu *cpu, const struct event *event)
{
	if (event->type == EVENT_EXCEPTION && event->vector == VECTOR_PF) {
		cpu->cr2 = event->payload;
	} else if (event->type == EVENT_EXCEPTION && event->vector == VECTOR_DB) {
		cpu->dr6 = (cpu->dr6 & ~0xfull) | event->payload;
		cpu->dr7 &= ~(uint64_t)DR7_GD;
		cpu->msr.debugctl &= ~(uint64_t)(DEBUGCTL_LBR | DEBUGCTL_BTF);
	}
}

void cpu_deliver_event(struct cpu *cpu)
{
	struct event event = cpu->event;
	uint64_t return_rip = cpu->rip;

	if (cpu->virt && !event.injected && event.type != EVENT_SOFT_INT)
		cpu->virt->event(cpu, &event);
	cpu->event.valid = false;
	cpu->delivering = event;
	cpu->activity = ACTIVITY_ACTIVE;
	if (event.type == EVENT_NMI)
		cpu->nmi_blocked = true;
	/* VM entry has its own rules for these (SDM, Event Injection): injection changes none of them. */
	if (!event.injected)
		take_payload(cpu, &event);
	if (cpu->trace & ENGINE_TRACE_EXCEPTION)
		cpu_trace(cpu, "event type %u vector %u error %x payload %llx at %x:%llx cpl %u", event.type,
		          event.vector, event.error, (unsigned long long)event.payload,
		          cpu->seg[SEG_CS].selector, (unsigned long long)cpu->rip, cpu->cpl);

	if (event.type >= EVENT_SOFT_INT) {
		return_rip += event.insn_length;
		if (!cpu_is_64bit(cpu))
			return_rip = (uint32_t)return_rip;
	}
	if (cpu->mode & MODE_LONG)
		deliver_long(cpu, &event, return_rip);
	else if (!(cpu->cr0 & CR0_PE))
		deliver_real(cpu, &event, return_rip);
	else if (event.type == EVENT_SOFT_INT && (cpu->mode & MODE_V86) && vme_redirects(cpu, event.vector))
		deliver_redirected(cpu, &event, return_rip);
	else
		deliver_protected(cpu, &event, return_rip);
	cpu->delivering.valid = false;
	cpu->shadow = 0;
}

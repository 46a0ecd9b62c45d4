/*
 * Events in VMX non-root operation: which of them exit, and the exits that nothing but a control causes at an
 * instruction boundary (windows, monitor trap flag, TPR threshold, preemption timer).
 *
 * NMIs. With virtual NMIs, cpu->nmi_blocked is virtual-NMI blocking: IRET ends it, and physical NMIs exit
 * whether or not it is in effect. Without them it is blocking of physical NMIs, which IRET ends only where
 * NMIs do not exit.
 *
 * The preemption timer is not counted but compared: it ends when the TSC reaches rt->timer_end. Something
 * must look then: the machine's one-shot timer is armed for it, unless it is armed for an earlier time
 * anyway.
 */
#include "engine/soft/vmx/vmx_local.h"

static uint32_t interruption(unsigned type, unsigned vector)
{
	return INTERRUPTION_VALID | type << INTERRUPTION_TYPE_SHIFT | vector;
}

/* ---- the preemption timer (SDM, VMX-Preemption Timer) ---- */

static uint64_t timer_now(struct cpu *cpu)
{
	return cpu_tsc(cpu) >> VMX_TIMER_SHIFT;
}

static bool timer_expired(struct cpu *cpu)
{
	const struct vmx_runtime *rt = vmx_runtime(cpu);

	return (rt->pin & PIN_ACTIVATE_PREEMPTION_TIMER) && cpu->activity != ACTIVITY_WAIT_SIPI &&
	       timer_now(cpu) >= rt->timer_end;
}

/* Sees to it that the vCPU polls at virt_deadline_ns. A timer armed for an earlier time comes early, and then
 * we arm again. */
static void timer_arm(struct cpu *cpu)
{
	if (cpu->timer_armed_ns <= cpu->virt_deadline_ns && cpu->timer_armed_ns > cpu_now_ns(cpu))
		return;
	cpu_host_timer_arm(cpu, cpu->apic_deadline_ns ? cpu->apic_deadline_ns : UINT64_MAX);
}

static void timer_start(struct cpu *cpu, uint32_t value)
{
	struct vmx_runtime *rt = vmx_runtime(cpu);

	rt->timer_end = timer_now(cpu) + value;
	if (value == 0)
		return; /* the poll that follows every entry finds it */
	cpu->virt_deadline_ns = cpu_tsc_to_ns(cpu, rt->timer_end << VMX_TIMER_SHIFT);
	timer_arm(cpu);
}

void vmx_poll_timer(struct cpu *cpu)
{
	if (cpu->event.valid || !(vmx_runtime(cpu)->pin & PIN_ACTIVATE_PREEMPTION_TIMER))
		return;
	if (timer_expired(cpu))
		vmx_exit(cpu, EXIT_REASON_PREEMPTION_TIMER, 0);
	if (cpu->virt_deadline_ns)
		timer_arm(cpu);
}

/* ---- entry and exit ---- */

void vmx_events_entered(struct cpu *cpu)
{
	struct vmx_runtime *rt = vmx_runtime(cpu);

	/* Without an injected event the first boundary is before any instruction: MTF waits for the next. */
	rt->mtf_skip = !cpu->event.valid;
	cpu->monitor_trap = rt->primary & CPU_MONITOR_TRAP_FLAG;
	rt->ple_first = rt->ple_last = 0;
	/* SDM, VM Exits Induced by the TPR Threshold: right after an entry that virtualizes APIC accesses. */
	rt->tpr_exit = (rt->primary & CPU_USE_TPR_SHADOW) &&
	               (rt->secondary & CPU2_VIRTUALIZE_APIC_ACCESSES) && vmx_tpr_below_threshold(cpu);
	cpu->virt_deadline_ns = 0;
	if (rt->pin & PIN_ACTIVATE_PREEMPTION_TIMER)
		timer_start(cpu, running(cpu, VMCS_VMX_PREEMPTION_TIMER_VALUE));
	/* What root operation held back (interrupts, with IF = 0) may exit now. */
	cpu_poll_soon(cpu);
}

uint32_t vmx_events_left(struct cpu *cpu)
{
	struct vmx_runtime *rt = vmx_runtime(cpu);
	uint64_t now;

	rt->mtf_now = rt->tpr_exit = false;
	cpu->monitor_trap = false;
	cpu->virt_deadline_ns = 0;
	if (!(rt->pin & PIN_ACTIVATE_PREEMPTION_TIMER))
		return rt->vmcs->f[VMCS_VMX_PREEMPTION_TIMER_VALUE];
	now = timer_now(cpu);
	return rt->timer_end > now ? rt->timer_end - now : 0;
}

/* ---- exceptions and NMIs ---- */

bool vmx_iret_unblocks(struct cpu *cpu)
{
	uint32_t pin = vmx_runtime(cpu)->pin;

	if (!cpu->nmi_blocked || cpu->delivering.valid ||
	    ((pin & PIN_NMI_EXITING) && !(pin & PIN_VIRTUAL_NMIS)))
		return false;
	if (!insn_is_iret_at_rip(cpu))
		return false;
	cpu->nmi_blocked = false;
	return true;
}

void vmx_iret(struct cpu *cpu)
{
	struct vmx_runtime *rt = vmx_runtime(cpu);

	if ((rt->pin & PIN_NMI_EXITING) && !(rt->pin & PIN_VIRTUAL_NMIS))
		return;
	if (!cpu->nmi_blocked)
		return;
	cpu->nmi_blocked = false;
	if (cpu->nmi_pending || (rt->primary & CPU_NMI_WINDOW_EXITING))
		cpu_poll_soon(cpu);
}

static _Noreturn void exit_nmi(struct cpu *cpu)
{
	cpu->nmi_pending = false;
	vmx_exit_full(cpu, &(struct vmx_exit_record){
	                       .reason = EXIT_REASON_EXCEPTION_OR_NMI,
	                       .interruption_info = interruption(EVENT_NMI, VECTOR_NMI),
	                   });
}

/* SDM, Exceptions (Other Causes of VM Exits): the bitmap, and for page faults the error code's mask and
 * match. */
static bool exception_exits(struct cpu *cpu, const struct event *event)
{
	bool bit = (running(cpu, VMCS_EXCEPTION_BITMAP) >> (event->vector & 31)) & 1;

	if (event->vector == VECTOR_PF && (event->error & running(cpu, VMCS_PAGE_FAULT_ERROR_CODE_MASK)) !=
	                                      running(cpu, VMCS_PAGE_FAULT_ERROR_CODE_MATCH))
		return !bit;
	return bit;
}

static _Noreturn void exit_exception(struct cpu *cpu, const struct event *event, bool unblocked)
{
	bool debug = event->vector == VECTOR_DB && event->type != EVENT_SOFT_EXCEPTION;
	struct vmx_exit_record record = {
	    .reason = EXIT_REASON_EXCEPTION_OR_NMI,
	    .interruption_info = interruption(event->type, event->vector),
	    .caused_by_db = debug,
	};

	if (event->has_error) {
		record.interruption_info |= INTERRUPTION_ERROR_CODE;
		record.interruption_error = event->error;
	}
	if (unblocked)
		record.interruption_info |= INTERRUPTION_NMI_UNBLOCKING;
	if (event->vector == VECTOR_PF || debug)
		record.qualification = event->payload;
	if (event->type >= EVENT_SOFT_INT)
		record.instruction_length = event->insn_length;
	vmx_exit_full(cpu, &record);
}

void vmx_event(struct cpu *cpu, const struct event *event)
{
	bool unblocked;

	if (event->injected)
		return;
	switch (event->type) {
	case EVENT_NMI:
		if (vmx_runtime(cpu)->pin & PIN_NMI_EXITING)
			exit_nmi(cpu);
		return;
	case EVENT_EXCEPTION:
	case EVENT_PRIV_SOFT:
	case EVENT_SOFT_EXCEPTION:
		/* A debug trap is reported behind its instruction, so what stands at rip is not to blame. */
		unblocked = event->type == EVENT_EXCEPTION && event->vector != VECTOR_DB &&
		            event->vector != VECTOR_DF && vmx_iret_unblocks(cpu);
		if (exception_exits(cpu, event))
			exit_exception(cpu, event, unblocked);
		return;
	}
}

/* ---- interrupts ---- */

/* External-interrupt exiting heeds neither RFLAGS.IF nor blocking by STI and MOV SS; the caller heeds
 * neither. */
static bool interrupt_exits(struct cpu *cpu)
{
	return (vmx_runtime(cpu)->pin & PIN_EXTERNAL_INTERRUPT_EXITING) &&
	       (cpu->activity == ACTIVITY_ACTIVE || cpu->activity == ACTIVITY_HLT) &&
	       apic_pending_vector(cpu) >= 0;
}

static void exit_interrupt(struct cpu *cpu)
{
	struct vmx_exit_record record = {.reason = EXIT_REASON_EXTERNAL_INTERRUPT};

	if (vmx_runtime(cpu)->exit & EXIT_ACKNOWLEDGE_INTERRUPT) {
		int vector = apic_acknowledge(cpu);

		if (vector < 0)
			return; /* withdrawn meanwhile */
		record.interruption_info = interruption(EVENT_EXTERNAL, vector);
	}
	vmx_exit_full(cpu, &record);
}

bool vmx_external_interrupt(struct cpu *cpu)
{
	if (!(vmx_runtime(cpu)->pin & PIN_EXTERNAL_INTERRUPT_EXITING))
		return true;
	exit_interrupt(cpu);
	return false;
}

_Noreturn void vmx_triple_fault(struct cpu *cpu)
{
	vmx_exit_full(cpu,
	              &(struct vmx_exit_record){.reason = EXIT_REASON_TRIPLE_FAULT, .clear_vectoring = true});
}

_Noreturn void vmx_init_signal(struct cpu *cpu)
{
	vmx_exit(cpu, EXIT_REASON_INIT, 0);
}

_Noreturn void vmx_sipi(struct cpu *cpu, uint8_t vector)
{
	vmx_exit(cpu, EXIT_REASON_SIPI, vector);
}

/* ---- instruction boundaries ---- */

/* SDM, Interrupt-Window Exiting and Virtual-Interrupt Delivery; NMI-Window Exiting. */
static bool interrupt_window_open(struct cpu *cpu)
{
	return (vmx_runtime(cpu)->primary & CPU_INTERRUPT_WINDOW_EXITING) && (cpu->rflags_system & FLAG_IF) &&
	       !cpu->shadow && (cpu->activity == ACTIVITY_ACTIVE || cpu->activity == ACTIVITY_HLT);
}

static bool nmi_window_open(struct cpu *cpu)
{
	return (vmx_runtime(cpu)->primary & CPU_NMI_WINDOW_EXITING) && !cpu->nmi_blocked &&
	       !(cpu->shadow & SHADOW_MOVSS) && cpu->activity != ACTIVITY_WAIT_SIPI;
}

/* A physical NMI under virtual-NMI blocking, which cpu/ takes for blocked. */
static bool nmi_exits_although_blocked(struct cpu *cpu)
{
	return (vmx_runtime(cpu)->pin & PIN_VIRTUAL_NMIS) && cpu->nmi_blocked && cpu->nmi_pending &&
	       !(cpu->shadow & SHADOW_MOVSS) && cpu->activity != ACTIVITY_WAIT_SIPI;
}

static bool mtf_due(struct cpu *cpu)
{
	const struct vmx_runtime *rt = vmx_runtime(cpu);

	return rt->mtf_now || (cpu->monitor_trap && !rt->mtf_skip);
}

void vmx_poll_high(struct cpu *cpu)
{
	struct vmx_runtime *rt = vmx_runtime(cpu);

	if (cpu->event.valid)
		return; /* its delivery comes first, and ends at the next boundary */
	if (mtf_due(cpu))
		vmx_exit(cpu, EXIT_REASON_MONITOR_TRAP_FLAG, 0);
	rt->mtf_skip = false;
	if (rt->tpr_exit)
		vmx_exit(cpu, EXIT_REASON_TPR_BELOW_THRESHOLD, 0);
	if (nmi_exits_although_blocked(cpu))
		exit_nmi(cpu);
}

void vmx_poll_nmi_window(struct cpu *cpu)
{
	if (!cpu->event.valid && nmi_window_open(cpu))
		vmx_exit(cpu, EXIT_REASON_NMI_WINDOW, 0);
}

void vmx_poll_interrupt_window(struct cpu *cpu)
{
	if (!cpu->event.valid && interrupt_window_open(cpu))
		vmx_exit(cpu, EXIT_REASON_INTERRUPT_WINDOW, 0);
}

bool vmx_wakeup(struct cpu *cpu)
{
	return mtf_due(cpu) || vmx_runtime(cpu)->tpr_exit || timer_expired(cpu) ||
	       nmi_exits_although_blocked(cpu) || nmi_window_open(cpu) || interrupt_window_open(cpu) ||
	       interrupt_exits(cpu);
}

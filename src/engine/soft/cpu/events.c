/*
 * What is looked at between instructions. The order is the SDM's "Priority Among Concurrent Events", with the
 * VM exits of non-root operation where its chapters on VMX put them. A call takes at most one thing; whoever
 * finds more left than it may take asks to be called again (cpu_poll_soon).
 */
#include "engine/soft/cpu/apic.h"
#include "engine/soft/cpu/debugger.h"
#include "engine/soft/cpu/descriptor.h"

static uint32_t take_async(struct cpu *cpu, uint32_t bits)
{
	if (!(__atomic_load_n(&cpu->pending_async, __ATOMIC_ACQUIRE) & bits))
		return 0;
	return __atomic_fetch_and(&cpu->pending_async, ~bits, __ATOMIC_ACQ_REL) & bits;
}

static void return_async(struct cpu *cpu, uint32_t bits)
{
	__atomic_fetch_or(&cpu->pending_async, bits, __ATOMIC_RELEASE);
}

/* Takes in what other threads left. The bits go before the messages, so that a late message is seen again. */
static void collect(struct cpu *cpu)
{
	bool rang = take_async(cpu, ASYNC_APIC | ASYNC_TIMER) & ASYNC_TIMER;
	uint64_t armed = cpu->timer_armed_ns;

	/* A level, and the machine's: it stays. So does ASYNC_STOP, which is vcpu_run's. */
	cpu->extint_line = __atomic_load_n(&cpu->pending_async, __ATOMIC_ACQUIRE) & ASYNC_EXTINT;
	apic_collect(cpu);
	/* The alarm may have been virt_deadline_ns's, perhaps of a guest that has exited since, while the APIC counts
	 * on its own later one still standing. */
	if (rang && cpu->timer_armed_ns == armed && cpu->apic_deadline_ns && cpu->apic_deadline_ns != UINT64_MAX)
		cpu_host_timer_arm(cpu, cpu->apic_deadline_ns);
	if (take_async(cpu, ASYNC_NMI))
		cpu->nmi_pending = true;
	if (take_async(cpu, ASYNC_CODE))
		bt_serve_others(cpu);
}

static void start_up(struct cpu *cpu, uint8_t vector)
{
	cpu->seg[SEG_CS].selector = vector << 8;
	cpu->seg[SEG_CS].base = (uint64_t)vector << 12;
	cpu->rip = 0;
	cpu->activity = ACTIVITY_ACTIVE;
	cpu_update_mode(cpu);
}

/* INIT and SIPI. True where one was taken. */
static bool poll_processor_signals(struct cpu *cpu)
{
	if (take_async(cpu, ASYNC_INIT)) {
		if (cpu->virt) {
			cpu->virt->init_signal(cpu);
		} else if (cpu->init_blocked) {
			return_async(cpu, ASYNC_INIT); /* blocked until VMXOFF or a VM entry */
		} else {
			cpu_reset(cpu, true);
			return true;
		}
	}
	if (take_async(cpu, ASYNC_SIPI) && cpu->activity == ACTIVITY_WAIT_SIPI) {
		uint8_t vector = __atomic_load_n(&cpu->sipi_vector, __ATOMIC_ACQUIRE);

		if (cpu->virt)
			cpu->virt->sipi(cpu, vector);
		else
			start_up(cpu, vector);
		return true;
	}
	return false;
}

static void set_event(struct cpu *cpu, enum event_type type, uint8_t vector, uint64_t payload)
{
	cpu->event = (struct event){.valid = true, .type = type, .vector = vector, .payload = payload};
}

/* Traps of the previous instruction. MOV SS and POP SS hold them back for one more. */
static bool poll_debug_trap(struct cpu *cpu)
{
	if (!cpu->debug_trap_pending)
		return false;
	if (cpu->shadow & SHADOW_MOVSS) {
		cpu_poll_soon(cpu);
		return false;
	}
	set_event(cpu, EVENT_EXCEPTION, VECTOR_DB, cpu->dr6_pending);
	cpu->debug_trap_pending = false;
	cpu->dr6_pending = 0;
	return true;
}

static bool poll_nmi(struct cpu *cpu)
{
	if (cpu->virt)
		cpu->virt->poll_nmi_window(cpu);
	if (!cpu->nmi_pending || cpu->nmi_blocked)
		return false;
	/* Blocking by STI also holds NMIs back, as processors may: the instruction after STI may be HLT. */
	if (cpu->shadow) {
		cpu_poll_soon(cpu);
		return false;
	}
	cpu->nmi_pending = false;
	set_event(cpu, EVENT_NMI, VECTOR_NMI, 0);
	return true;
}

static void poll_interrupt(struct cpu *cpu)
{
	bool open = (cpu->rflags_system & FLAG_IF) && !cpu->shadow;
	int vector;

	if (debugger_is_stepping(cpu) && cpu->activity == ACTIVITY_ACTIVE) {
		cpu->interrupt_blocked = true;
		return;
	}
	if (cpu->virt) {
		cpu->virt->poll_interrupt_window(cpu);
		if (open)
			cpu->interrupt_blocked = false;
		if (cpu->shadow)
			cpu_poll_soon(cpu);
	}
	if (apic_pending_vector(cpu) < 0)
		return;
	/* With external-interrupt exiting RFLAGS.IF blocks nothing; after the exit the interrupt may wait for it. */
	cpu->interrupt_blocked = true;
	if (cpu->virt && !cpu->virt->external_interrupt(cpu))
		return;
	if (!open) {
		if (cpu->shadow)
			cpu_poll_soon(cpu);
		return;
	}
	cpu->interrupt_blocked = false;
	vector = apic_acknowledge(cpu);
	if (vector < 0)
		return;
	set_event(cpu, EVENT_EXTERNAL, vector, 0);
	cpu->serves_interrupt = true;
}

void cpu_poll_events(struct cpu *cpu)
{
	__atomic_store_n(&cpu->kick, 0, __ATOMIC_RELAXED);
	/* Order: the kick goes before the bits and messages are read, or a kick that comes now would be lost.
	 */
	__atomic_thread_fence(__ATOMIC_SEQ_CST);
	collect(cpu);
	/* A hook that leaves non-root operation before interrupts are looked at must not make them forgotten. */
	cpu->interrupt_blocked = cpu->virt != NULL;
	if (cpu->event.valid) {
		cpu_poll_soon(cpu);
		return;
	}
	if (__builtin_expect(
	        __atomic_load_n(&cpu->pending_async, __ATOMIC_RELAXED) & (ASYNC_INIT | ASYNC_SIPI), 0) &&
	    poll_processor_signals(cpu))
		return;
	if (cpu->activity == ACTIVITY_WAIT_SIPI)
		return;
	if (cpu->virt)
		cpu->virt->poll_high(cpu);
	if (poll_debug_trap(cpu))
		goto taken;
	if (cpu->virt)
		cpu->virt->poll_timer(cpu);
	if (poll_nmi(cpu))
		goto taken;
	if (cpu->activity != ACTIVITY_SHUTDOWN)
		poll_interrupt(cpu);
	if (!cpu->event.valid)
		return;
taken:
	/* Whatever is still pending is looked at again before the handler's first instruction. */
	cpu_poll_soon(cpu);
}

bool cpu_has_wakeup(struct cpu *cpu)
{
	uint32_t async = __atomic_load_n(&cpu->pending_async, __ATOMIC_ACQUIRE);

	/* A kick has a reason that only cpu_poll_events finds; if it does not wake, the next call says so. */
	if (__atomic_load_n(&cpu->kick, __ATOMIC_ACQUIRE))
		return true;
	if (async & (ASYNC_APIC | ASYNC_TIMER | ASYNC_STOP | ASYNC_NMI | ASYNC_SIPI))
		return true;
	if ((async & ASYNC_INIT) && (cpu->virt || !cpu->init_blocked))
		return true;
	if (cpu->event.valid)
		return true;
	if (cpu->activity == ACTIVITY_WAIT_SIPI)
		return false;
	if (cpu->debug_trap_pending || (cpu->nmi_pending && !cpu->nmi_blocked))
		return true;
	if (cpu->virt && cpu->virt->wakeup(cpu))
		return true;
	cpu->extint_line = async & ASYNC_EXTINT;
	return cpu->activity != ACTIVITY_SHUTDOWN && (cpu->virt || (cpu->rflags_system & FLAG_IF)) &&
	       apic_pending_vector(cpu) >= 0;
}

/*
 * The way out of hot C: every function stashes the guest's FPU state before anything that the compiler may
 * have used vector registers for. So this file is hot itself, and only what it calls is not.
 */
#include "engine/soft/cpu/host_call.h"

#include "engine/soft/cpu/time.h"

/*
 * Deterministic clock: a device sees the time of the instruction that reaches it, and may arm timers and raise
 * interrupts, which the dispatcher looks at right after that instruction.
 */
static void enter_machine(struct cpu *cpu)
{
	fpu_stash(cpu);
	if (cpu->clock != ENGINE_CLOCK_DETERMINISTIC)
		return;
	cpu->host->clock_advance(cpu->host->context, cpu_now_ns(cpu));
	cpu->deadline_changed = true;
	cpu_poll_soon(cpu);
}

uint32_t cpu_host_pio_read(struct cpu *cpu, uint16_t port, unsigned size)
{
	enter_machine(cpu);

	uint32_t value = cpu->host->pio_read(cpu->host->context, port, size);

	if (cpu->trace & ENGINE_TRACE_IO)
		cpu_trace(cpu, "in  port %04x size %u = %x", port, size, value);
	return value;
}

void cpu_host_pio_write(struct cpu *cpu, uint16_t port, unsigned size, uint32_t value)
{
	enter_machine(cpu);
	if (cpu->trace & ENGINE_TRACE_IO)
		cpu_trace(cpu, "out port %04x size %u = %x", port, size, value);
	cpu->host->pio_write(cpu->host->context, port, size, value);
}

uint64_t cpu_host_mmio_read(struct cpu *cpu, gpa_t gpa, unsigned size)
{
	enter_machine(cpu);

	uint64_t value = cpu->host->mmio_read(cpu->host->context, gpa, size);

	if (cpu->trace & ENGINE_TRACE_IO)
		cpu_trace(cpu, "read  %012llx size %u = %llx", (unsigned long long)gpa.v, size,
		          (unsigned long long)value);
	return value;
}

void cpu_host_mmio_write(struct cpu *cpu, gpa_t gpa, unsigned size, uint64_t value)
{
	enter_machine(cpu);
	if (cpu->trace & ENGINE_TRACE_IO)
		cpu_trace(cpu, "write %012llx size %u = %llx", (unsigned long long)gpa.v, size,
		          (unsigned long long)value);
	cpu->host->mmio_write(cpu->host->context, gpa, size, value);
}

int cpu_host_interrupt_acknowledge(struct cpu *cpu)
{
	fpu_stash(cpu);
	return cpu->host->interrupt_acknowledge(cpu->host->context);
}

void cpu_host_eoi(struct cpu *cpu, uint8_t vector)
{
	enter_machine(cpu);
	cpu->host->eoi(cpu->host->context, vector);
}

/*
 * The deadline is by cpu_now_ns, which follows the host's TSC; the machine's clock may run some parts per
 * million faster or slower. So the time left is what counts, and each arming sets our clock right again.
 */
void cpu_host_timer_arm(struct cpu *cpu, uint64_t deadline_ns)
{
	uint64_t deadline = deadline_ns;

	fpu_stash(cpu);
	cpu->apic_deadline_ns = deadline_ns;
	if (cpu->virt_deadline_ns && cpu->virt_deadline_ns < deadline)
		deadline = cpu->virt_deadline_ns;
	cpu->timer_armed_ns = deadline;
	cpu->deadline_changed = true;
	if (cpu->clock == ENGINE_CLOCK_DETERMINISTIC)
		cpu_poll_soon(cpu);
	if (cpu->clock == ENGINE_CLOCK_REAL && deadline != UINT64_MAX) {
		uint64_t now = cpu_now_ns(cpu), host_now = cpu->host->clock_ns(cpu->host->context);
		uint64_t left = deadline > now ? deadline - now : 0;

		deadline = left > UINT64_MAX - 1 - host_now ? UINT64_MAX : host_now + left;
		time_anchor(cpu, host_now);
	}
	cpu->host->timer_arm(cpu->host->context, cpu->index, deadline);
}

void cpu_trace(struct cpu *cpu, const char *format, ...)
{
	va_list arguments;

	fpu_stash(cpu);
	va_start(arguments, format);
	trace_line(cpu->index, cpu->virt != NULL, format, arguments);
	va_end(arguments);
}

/* SplitMix64's constants (public domain) mix a counter; quality matters little, repeatability does. */
static uint64_t next_deterministic(struct cpu *cpu)
{
	uint64_t z = cpu->random_state += 0x9e3779b97f4a7c15u;

	z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
	z = (z ^ z >> 27) * 0x94d049bb133111ebu;
	return z ^ z >> 31;
}

bool cpu_host_random(struct cpu *cpu, uint64_t *value)
{
	if (cpu->clock == ENGINE_CLOCK_DETERMINISTIC) {
		*value = next_deterministic(cpu);
		return true;
	}
	fpu_stash(cpu);
	return random_from_host(value);
}

void cpu_host_nap(struct cpu *cpu, const void *watched, uint64_t armed_value)
{
	if (cpu->clock == ENGINE_CLOCK_DETERMINISTIC) {
		cpu->napping = true;
		return;
	}
	fpu_stash(cpu);
	nap(&cpu->kick, watched, armed_value);
}

void cpu_host_yield(struct cpu *cpu)
{
	fpu_stash(cpu);
	yield();
}

#include "smp.h"

#define TRAMPOLINE 0x8000u
#define STACK_SIZE 16384
#define PATIENCE   (60ull << 30) /* ticks */

struct smp_word smp_up[SMP_CPUS];
static struct smp_word busy[SMP_CPUS];
static void (*volatile work_of[SMP_CPUS])(uint64_t argument);
static volatile uint64_t argument_of[SMP_CPUS];
uint8_t smp_stack[SMP_CPUS][STACK_SIZE] __attribute__((aligned(16)));

extern const uint8_t smp_trampoline[], smp_trampoline_end[];

static bool in_x2apic(void)
{
	return rdmsr(0x1b) >> 10 & 1;
}

unsigned smp_self(void)
{
	return in_x2apic() ? (unsigned)rdmsr(0x802) : apic_read(0x20) >> 24;
}

void smp_end_of_interrupt(void)
{
	if (in_x2apic())
		wrmsr(0x80b, 0);
	else
		apic_write(0xb0, 0);
}

void smp_send(unsigned destination, uint32_t command)
{
	if (in_x2apic()) {
		wrmsr(0x830, (uint64_t)destination << 32 | command);
		return;
	}
	apic_write(0x310, destination << 24);
	apic_write(0x300, command);
	while (apic_read(0x300) & 1u << 12)
		pause();
}

bool smp_until(const volatile uint64_t *word, uint64_t value)
{
	uint64_t start = rdtsc();

	while (*word < value) {
		if (rdtsc() - start > PATIENCE)
			return false;
		pause();
	}
	return true;
}

/* An application processor, from smp_trampoline. */
void smp_main(void)
{
	struct __attribute__((packed)) {
		uint16_t limit;
		uint64_t base;
	} pointer = {sizeof(runtime_idt) - 1, (uint64_t)runtime_idt};
	unsigned self = smp_self();

	__asm__ volatile("lidt %0" : : "m"(pointer));
	apic_write(0xf0, 0x1ff);
	busy[self].value = 0;
	smp_up[self].value++;
	for (;;) {
		while (!busy[self].value)
			pause();
		work_of[self](argument_of[self]);
		busy[self].value = 0;
	}
}

void smp_init(unsigned cpu)
{
	smp_send(cpu, ICR_INIT | ICR_ASSERT);
}

bool smp_start(unsigned cpu)
{
	uint64_t before = smp_up[cpu].value;

	memcpy((void *)(uint64_t)TRAMPOLINE, smp_trampoline, (size_t)(smp_trampoline_end - smp_trampoline));
	smp_init(cpu);
	smp_send(cpu, ICR_SIPI | ICR_ASSERT | TRAMPOLINE >> 12);
	return smp_until(&smp_up[cpu].value, before + 1);
}

void smp_call(unsigned cpu, void (*work)(uint64_t argument), uint64_t argument)
{
	work_of[cpu] = work;
	argument_of[cpu] = argument;
	busy[cpu].value = 1;
}

bool smp_wait(unsigned cpu)
{
	uint64_t start = rdtsc();

	while (busy[cpu].value) {
		if (rdtsc() - start > PATIENCE)
			return false;
		pause();
	}
	return true;
}

bool smp_call_all(void (*work)(uint64_t argument))
{
	bool all = true;

	for (unsigned cpu = 1; cpu < SMP_CPUS; cpu++)
		smp_call(cpu, work, cpu);
	work(0);
	for (unsigned cpu = 1; cpu < SMP_CPUS; cpu++)
		all = smp_wait(cpu) && all;
	return all;
}

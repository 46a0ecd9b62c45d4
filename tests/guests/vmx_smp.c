/*
 * VMX operation on several processors: a VMCS that moves from one to another by VMCLEAR (SDM, Software Use of
 * Virtual-Machine Control Structures), and the events that only another processor sends: INIT and SIPI (SDM, Virtual-
 * Machine Monitor Extensions: Other Causes of VM Exits).
 */
#include "runtime/smp.h"
#include "vmx.h"

static uint8_t own_vmxon[SMP_CPUS][4096] __attribute__((aligned(4096)));
static volatile uint64_t ran[SMP_CPUS], reason[SMP_CPUS], qualification[SMP_CPUS], entered[SMP_CPUS];

L2(count_and_exit, "1: inc %rbx\n\tvmcall\n\tjmp 1b");
L2(spin, "1: incq (%rsi)\n\tjmp 1b");

static void vmx_on(uint64_t self)
{
	uint32_t revision = (uint32_t)rdmsr(MSR_IA32_VMX_BASIC);

	memcpy(own_vmxon[self], &revision, 4);
	write_cr0((read_cr0() | rdmsr(MSR_IA32_VMX_CR0_FIXED0)) & rdmsr(MSR_IA32_VMX_CR0_FIXED1));
	write_cr4((read_cr4() | rdmsr(MSR_IA32_VMX_CR4_FIXED0)) & rdmsr(MSR_IA32_VMX_CR4_FIXED1));
	ran[self] = vmxon((uint64_t)own_vmxon[self]) == VM_SUCCEED;
}

static void vmx_off(uint64_t argument)
{
	(void)argument;
	vmxoff();
}

/* ---- a VMCS on one processor after another ---- */

static void run_here(uint64_t self)
{
	vmptrld((uint64_t)vmcs_region);
	reason[self] = vmx_run_first();
	vmwrite(GUEST_RIP, vmread(GUEST_RIP) + vmread(VM_EXIT_INSTRUCTION_LENGTH));
	ran[self] = vmclear((uint64_t)vmcs_region) == VM_SUCCEED;
}

static void moving(void)
{
	rule("a VMCS goes on on another processor after VMCLEAR");
	vmx_fresh(count_and_exit);
	l2[RBX] = 0;
	CHECK_EQ(vmclear((uint64_t)vmcs_region), VM_SUCCEED);
	for (unsigned i = 1; i <= 40; i++) {
		unsigned cpu = i % SMP_CPUS;

		ran[cpu] = reason[cpu] = 0;
		if (cpu) {
			smp_call(cpu, run_here, cpu);
			CHECK(smp_wait(cpu));
		} else {
			run_here(0);
		}
		CHECK_EQ(reason[cpu], EXIT_REASON_VMCALL);
		CHECK_EQ(ran[cpu], 1);
		CHECK_EQ(l2[RBX], i);
	}
	rule("VMLAUNCH of a VMCS that is current nowhere fails without one");
	CHECK_EQ(vmx_run_first(), RUN_INVALID);
}

/* ---- SIPI and INIT ---- */

static void enter(uint64_t self)
{
	vmptrld((uint64_t)vmcs_region);
	entered[self] = 1;
	reason[self] = vmx_run_first();
	qualification[self] = vmread(EXIT_QUALIFICATION);
	vmclear((uint64_t)vmcs_region);
}

static void start_entering(const void *code, uint64_t activity)
{
	vmx_fresh(code);
	vmwrite(GUEST_ACTIVITY_STATE, activity);
	l2[RSI] = (uint64_t)l2_page[3];
	vmclear((uint64_t)vmcs_region);
	entered[1] = 0;
	reason[1] = ~0ull;
	smp_call(1, enter, 1);
	CHECK(smp_until(&entered[1], 1));
}

/* The host may not let processor 1 run for many milliseconds: there is no hurry to give up. */
#define SIPIS_MAX 100000

static void send_sipi_and_wait(unsigned vector)
{
	smp_send(1, ICR_SIPI | ICR_ASSERT | vector);
	for (unsigned i = 0; i < 1000; i++)
		pause();
}

static void signals(void)
{
	uint64_t before;

	if (rdmsr(MSR_IA32_VMX_MISC) & VMX_MISC_ACTIVITY_WAIT_SIPI) {
		rule("SIPI exits from the wait-for-SIPI state, its vector in the qualification");
		start_entering(spin, VMCS_ACTIVITY_WAIT_SIPI);
		/* One that comes before the entry is lost. */
		for (unsigned i = 0; i < SIPIS_MAX && reason[1] == ~0ull; i++)
			send_sipi_and_wait(0x9a);
		CHECK(smp_wait(1));
		CHECK_EQ(reason[1], EXIT_REASON_SIPI);
		CHECK_EQ(qualification[1], 0x9a);
	}
	rule("INIT exits from a running guest; SIPI does nothing to it");
	*(volatile uint64_t *)l2_page[3] = 0;
	start_entering(spin, VMCS_ACTIVITY_ACTIVE);
	CHECK(smp_until((volatile uint64_t *)l2_page[3], 1000));
	before = *(volatile uint64_t *)l2_page[3];
	smp_send(1, ICR_SIPI | ICR_ASSERT | 0x9a);
	CHECK(smp_until((volatile uint64_t *)l2_page[3], before + 1000));
	smp_send(1, ICR_INIT | ICR_ASSERT);
	CHECK(smp_wait(1));
	CHECK_EQ(reason[1], EXIT_REASON_INIT);
	rule("INIT is blocked in VMX root operation, and taken after VMXOFF");
	before = smp_up[1].value;
	smp_send(1, ICR_INIT | ICR_ASSERT);
	smp_call(1, vmx_on, 1); /* fails: it is on already; but the processor answers */
	CHECK(smp_wait(1));
	CHECK_EQ(ran[1], 0);
	CHECK_EQ(smp_up[1].value, before);
	smp_call(1, vmx_off, 0);
	/* Without an INIT of its own: SIPI finds the processor waiting only where the blocked one was taken. */
	for (unsigned i = 0; i < SIPIS_MAX && smp_up[1].value == before; i++)
		send_sipi_and_wait(8);
	CHECK(smp_until(&smp_up[1].value, before + 1));
	CHECK_EQ(smp_up[1].value, before + 1);
	rule("a processor that was reset by INIT is not in VMX operation");
	smp_call(1, vmx_on, 1);
	CHECK(smp_wait(1));
	CHECK_EQ(ran[1], 1);
}

void guest_main(void)
{
	apic_write(0xf0, 0x1ff);
	for (unsigned cpu = 1; cpu < SMP_CPUS; cpu++)
		CHECK(smp_start(cpu));
	rule("VMXON on every processor");
	vmx_start();
	for (unsigned cpu = 1; cpu < SMP_CPUS; cpu++) {
		smp_call(cpu, vmx_on, cpu);
		CHECK(smp_wait(cpu));
		CHECK_EQ(ran[cpu], 1);
	}
	moving();
	signals();
}

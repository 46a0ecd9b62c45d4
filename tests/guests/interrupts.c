/*
 * Interrupts: the local APIC in both modes, the 8259s, the 8254 and the I/O APIC on their way to the CPU, and
 * what STI and MOV SS hold back (SDM volume 3, Advanced Programmable Interrupt Controller).
 */
#include "runtime/user.h"

#define APIC_ID    0x20
#define APIC_TPR   0x80
#define APIC_PPR   0xa0
#define APIC_EOI   0xb0
#define APIC_SVR   0xf0
#define APIC_ISR   0x100
#define APIC_TMR   0x180
#define APIC_IRR   0x200
#define APIC_ESR   0x280
#define APIC_ICR   0x300
#define APIC_ICR2  0x310
#define APIC_TIMER 0x320
#define APIC_LINT0 0x350
#define APIC_INIT  0x380
#define APIC_COUNT 0x390
#define APIC_DIV   0x3e0
#define APIC_SELF  0x3f0

#define ONE_SHOT 0u
#define PERIODIC (1u << 17)
#define DEADLINE (2u << 17)
#define MASKED   (1u << 16)

#define MSR_APIC_BASE 0x1b
#define MSR_DEADLINE  0x6e0

static bool x2apic;
static volatile unsigned order_count;
static volatile uint8_t order[64];
static volatile uint64_t order_rip[64];
static bool no_eoi;
static uint64_t leave_to; /* where an interrupt's handler returns to; 0: to where it came from */

static uint32_t get(unsigned offset)
{
	return x2apic ? (uint32_t)rdmsr(0x800 + (offset >> 4)) : apic_read(offset);
}

static void set(unsigned offset, uint32_t value)
{
	if (x2apic)
		wrmsr(0x800 + (offset >> 4), value);
	else
		apic_write(offset, value);
}

static void send_self(unsigned vector)
{
	if (x2apic) {
		wrmsr(0x830, 0x40000 | vector);
	} else {
		apic_write(APIC_ICR2, 0);
		apic_write(APIC_ICR, 0x40000 | vector);
	}
}

static bool bit_of(unsigned registers, unsigned vector)
{
	return get(registers + (vector >> 5) * 16) >> (vector & 31) & 1;
}

static bool hook(struct frame *frame)
{
	if (frame->vector < 32)
		return false;
	order[order_count & 63] = frame->vector;
	order_rip[order_count++ & 63] = frame->rip;
	last_frame = *frame;
	if (leave_to)
		frame->rip = leave_to;
	if (!no_eoi && frame->vector < 0xf0)
		set(APIC_EOI, 0);
	return true;
}

static void start(const char *name)
{
	rule(name);
	order_count = 0;
	no_eoi = false;
}

/* Waits with interrupts on for the n-th interrupt, at most some seconds. */
static void wait(unsigned n)
{
	uint64_t from = rdtsc();

	__asm__ volatile("sti");
	while (order_count < n && rdtsc() - from < 10000000000)
		__asm__ volatile("pause");
	__asm__ volatile("cli");
}

static void open_window(void)
{
	__asm__ volatile("sti\n\tnop\n\tnop\n\tcli" : : : "memory");
}

static void local_apic(void)
{
	start("self-IPI: pending in IRR, delivered with IF");
	send_self(0x40);
	CHECK(bit_of(APIC_IRR, 0x40));
	CHECK_EQ(order_count, 0);
	open_window();
	CHECK_EQ(order_count, 1);
	CHECK_EQ(order[0], 0x40);
	CHECK(!bit_of(APIC_IRR, 0x40));
	CHECK(!bit_of(APIC_ISR, 0x40));

	start("the highest vector first, and each after the other's EOI");
	send_self(0x51);
	send_self(0x71);
	send_self(0x61);
	send_self(0x72);
	open_window();
	CHECK_EQ(order_count, 4);
	CHECK_EQ(order[0], 0x72);
	CHECK_EQ(order[1], 0x71);
	CHECK_EQ(order[2], 0x61);
	CHECK_EQ(order[3], 0x51);

	start("without EOI: ISR blocks its class and below, not those above");
	no_eoi = true;
	send_self(0x55);
	open_window();
	CHECK(bit_of(APIC_ISR, 0x55));
	CHECK_EQ(get(APIC_PPR) & 0xf0, 0x50);
	send_self(0x5f);
	send_self(0x45);
	open_window();
	CHECK_EQ(order_count, 1);
	send_self(0x60);
	open_window();
	CHECK_EQ(order_count, 2);
	CHECK_EQ(order[1], 0x60);
	no_eoi = false;
	set(APIC_EOI, 0); /* of 60H */
	CHECK(!bit_of(APIC_ISR, 0x60));
	CHECK(bit_of(APIC_ISR, 0x55));
	set(APIC_EOI, 0); /* of 55H */
	open_window();
	CHECK_EQ(order_count, 4);
	CHECK_EQ(order[2], 0x5f);
	CHECK_EQ(order[3], 0x45);

	start("TPR and CR8 are one; they hold back their class and below");
	set(APIC_TPR, 0x70);
	uint64_t cr8;
	__asm__ volatile("mov %%cr8, %0" : "=r"(cr8));
	CHECK_EQ(cr8, 7);
	CHECK_EQ(get(APIC_PPR), 0x70);
	send_self(0x7f);
	open_window();
	CHECK_EQ(order_count, 0);
	send_self(0x80);
	open_window();
	CHECK_EQ(order_count, 1);
	__asm__ volatile("mov %0, %%cr8" : : "r"(3ul));
	CHECK_EQ(get(APIC_TPR), 0x30);
	open_window();
	CHECK_EQ(order_count, 2);
	CHECK_EQ(order[1], 0x7f);
	start("lowering CR8 with interrupts on delivers at once");
	__asm__ volatile("mov %0, %%cr8" : : "r"(15ul));
	send_self(0x90);
	extern const uint8_t after_cr8[];
	__asm__ volatile("sti\n\tnop\n\tmov %0, %%cr8\n\t.globl after_cr8\nafter_cr8:\tnop\n\tcli"
	                 :
	                 : "r"(0ul)
	                 : "memory");
	CHECK_EQ(order_count, 1);
	CHECK_EQ(order_rip[0], (uint64_t)after_cr8);

	start("one-shot timer: one interrupt; the count stops at 0");
	set(APIC_DIV, 0xb);
	set(APIC_TIMER, ONE_SHOT | 0x41);
	set(APIC_INIT, 100000);
	wait(1);
	CHECK_EQ(order_count, 1);
	CHECK_EQ(order[0], 0x41);
	CHECK_EQ(get(APIC_COUNT), 0);
	start("periodic timer");
	set(APIC_TIMER, PERIODIC | 0x42);
	set(APIC_INIT, 100000);
	wait(5);
	CHECK(order_count >= 5);
	set(APIC_INIT, 0);
	start("an initial count of 0 stops the timer; a masked one stays silent");
	CHECK_EQ(get(APIC_COUNT), 0);
	set(APIC_TIMER, MASKED | 0x42);
	open_window(); /* one may have come before it was stopped */
	order_count = 0;
	set(APIC_INIT, 1000);
	uint64_t from = rdtsc();
	while (get(APIC_COUNT) && rdtsc() - from < 1000000000)
		;
	open_window();
	CHECK_EQ(order_count, 0);
	start("the current count goes down");
	set(APIC_TIMER, MASKED | 0x42);
	set(APIC_INIT, 0xffffffff);
	uint32_t first = get(APIC_COUNT);
	for (volatile unsigned i = 0; i < 1000; i++)
		;
	CHECK(get(APIC_COUNT) < first);
	set(APIC_INIT, 0);
	if (has_feature(1, 2, 24)) {
		start("TSC-deadline timer: fires after the deadline, the MSR becomes 0");
		set(APIC_TIMER, DEADLINE | 0x43);
		uint64_t deadline = rdtsc() + 3000000;
		wrmsr(MSR_DEADLINE, deadline);
		CHECK_EQ(rdmsr(MSR_DEADLINE), deadline);
		wait(1);
		CHECK(rdtsc() >= deadline);
		CHECK_EQ(order[0], 0x43);
		CHECK_EQ(rdmsr(MSR_DEADLINE), 0);
		start("TSC-deadline timer: a deadline in the past fires at once, 0 disarms");
		wrmsr(MSR_DEADLINE, 1);
		open_window();
		CHECK_EQ(order_count, 1);
		wrmsr(MSR_DEADLINE, rdtsc() + 3000000);
		wrmsr(MSR_DEADLINE, 0);
		from = rdtsc();
		while (rdtsc() - from < 6000000)
			;
		open_window();
		CHECK_EQ(order_count, 1);
		start("HLT is woken by the deadline");
		wrmsr(MSR_DEADLINE, rdtsc() + 3000000);
		__asm__ volatile("sti\n\thlt\n\tcli" : : : "memory");
		CHECK_EQ(order_count, 1);
		start("the initial count is ignored in deadline mode, the MSR outside it");
		set(APIC_TIMER, MASKED | 0x42);
		wrmsr(MSR_DEADLINE, rdtsc() + 1000);
		CHECK_EQ(rdmsr(MSR_DEADLINE), 0);
	}
}

/* SDM, x2APIC Register Availability; State Transitions. */
static void modes(void)
{
	rule("#GP: x2APIC MSRs in xAPIC mode");
	CHECK_EQ(TRY("rdmsr", , "c"(0x802), "rax", "rdx"), 13);
	wrmsr(MSR_APIC_BASE, rdmsr(MSR_APIC_BASE) | 0xc00);
	x2apic = true;
	rule("x2APIC mode keeps the registers");
	CHECK_EQ(rdmsr(0x80f) & 0x1ff, 0x1ff);
	RAISES("#GP: from x2APIC mode back to xAPIC mode", 13, 0, AT("wrmsr"), "c"(MSR_APIC_BASE),
	       "a"(0xfee00900), "d"(0));
	RAISES("#GP: a write of the APIC's ID", 13, 0, AT("wrmsr"), "c"(0x802), "a"(0), "d"(0));
	RAISES("#GP: reserved bits of the SVR", 13, 0, AT("wrmsr"), "c"(0x80f), "a"(0x10000), "d"(0));
	RAISES("#GP: an EOI other than 0", 13, 0, AT("wrmsr"), "c"(0x80b), "a"(1), "d"(0));
	RAISES("#GP: EOI is write-only", 13, 0, AT("rdmsr"), "c"(0x80b));
	RAISES("#GP: an x2APIC register that is not there", 13, 0, AT("rdmsr"), "c"(0x831));
	RAISES("#GP: TPR above 8 bits", 13, 0, AT("wrmsr"), "c"(0x808), "a"(0x100), "d"(0));
	start("SELF IPI register");
	wrmsr(0x83f, 0x44);
	open_window();
	CHECK_EQ(order[0], 0x44);
	local_apic();
	rule("off and on again: xAPIC mode");
	wrmsr(MSR_APIC_BASE, rdmsr(MSR_APIC_BASE) & ~0xc00ul);
	wrmsr(MSR_APIC_BASE, rdmsr(MSR_APIC_BASE) | 0x800);
	x2apic = false;
	set(APIC_SVR, 0x1ff);
	CHECK_EQ(get(APIC_SVR), 0x1ff);
	/* Logical destinations; errors. */
	start("logical self-IPI, flat model");
	set(0xe0, 0xffffffff);
	set(0xd0, 0x01000000);
	set(APIC_ICR2, 0x01000000);
	set(APIC_ICR, 0x4845);
	open_window();
	CHECK_EQ(order[0], 0x45);
	start("ESR: a vector below 16");
	set(APIC_ESR, 0);
	send_self(5);
	set(APIC_ESR, 0);
	CHECK(get(APIC_ESR) & 0x60);
	start("a disabled APIC sends and takes nothing");
	set(APIC_SVR, 0xff);
	CHECK_EQ(get(APIC_TIMER) & MASKED, MASKED);
	set(APIC_SVR, 0x1ff);
}

/* SDM, STI; MOV SS; Masking Exceptions and Interrupts When Switching Stacks. */
static void shadows(void)
{
	extern const uint8_t sti_next[], sti_pop[], ss_next[];

	start("STI: the interrupt comes after the next instruction");
	send_self(0x46);
	__asm__ volatile("sti\n\tnop\n\t.globl sti_next\nsti_next:\tnop\n\tcli" : : : "memory");
	CHECK_EQ(order_rip[0], (uint64_t)sti_next);
	start("STI; CLI: no interrupt in between");
	send_self(0x46);
	__asm__ volatile("sti\n\tcli" : : : "memory");
	CHECK_EQ(order_count, 0);
	open_window();
	start("STI with IF set already holds nothing back; POPF neither");
	send_self(0x46);
	__asm__ volatile("pushq $0x202\n\tpopfq\n\t.globl sti_pop\nsti_pop:\tnop\n\tcli"
	                 :
	                 :
	                 : "memory", "cc");
	CHECK_EQ(order_rip[0], (uint64_t)sti_pop);
	start("STI; HLT: woken by what is pending, return address after HLT");
	send_self(0x46);
	extern const uint8_t after_hlt[];
	__asm__ volatile("sti\n\thlt\n\t.globl after_hlt\nafter_hlt:\tcli" : : : "memory");
	CHECK_EQ(order_rip[0], (uint64_t)after_hlt);
	start("MOV SS: the interrupt comes after the next instruction");
	__asm__ volatile("mov %0, %%cr8" : : "r"(15ul));
	send_self(0x46);
	/* CR8 0 makes it deliverable; MOV SS right before IF is set by POPF. */
	__asm__ volatile("mov %0, %%cr8\n\tmov %%ss, %%eax\n\tpushq $0x202\n\tmov %%eax, %%ss\n\tpopfq\n\t"
	                 ".globl ss_next\nss_next:\tnop\n\tcli"
	                 :
	                 : "r"(0ul)
	                 : "rax", "memory", "cc");
	CHECK_EQ(order_count, 1);
	CHECK_EQ(order_rip[0], (uint64_t)ss_next);
	start("IRET that sets IF: at its target");
	extern const uint8_t iret_target[];
	send_self(0x46);
	__asm__ volatile("mov %%rsp, %%rax\n\tpushq $0x10\n\tpush %%rax\n\tpushq $0x202\n\tpushq $8\n\tpushq "
	                 "$iret_target\n\tiretq\n\t"
	                 ".globl iret_target\niret_target:\tnop\n\tcli"
	                 :
	                 :
	                 : "rax", "memory", "cc");
	CHECK_EQ(order_rip[0], (uint64_t)iret_target);
}

#define PIC1 0x20
#define PIC2 0xa0

static void pic_init(void)
{
	outb(PIC1, 0x11);
	outb(PIC1 + 1, 0xf0);
	outb(PIC1 + 1, 4);
	outb(PIC1 + 1, 1);
	outb(PIC2, 0x11);
	outb(PIC2 + 1, 0xf8);
	outb(PIC2 + 1, 2);
	outb(PIC2 + 1, 1);
}

static void io_apic_write(unsigned index, uint32_t value)
{
	*(volatile uint32_t *)0xfec00000 = index;
	*(volatile uint32_t *)0xfec00010 = value;
}

static void io_apic_route(unsigned pin, uint32_t low)
{
	io_apic_write(0x10 + 2 * pin + 1, 0);
	io_apic_write(0x10 + 2 * pin, low);
}

static void pit(unsigned count, unsigned mode)
{
	outb(0x43, 0x30 | mode << 1);
	outb(0x40, count & 0xff);
	outb(0x40, count >> 8);
}

static void external(void)
{
	pic_init();
	start("8254 through the 8259 and LINT0 as ExtINT");
	set(APIC_LINT0, 0x700);
	outb(PIC1 + 1, 0xfe);
	pit(1193, 0);
	wait(1);
	CHECK_EQ(order_count, 1);
	CHECK_EQ(order[0], 0xf0);
	outb(PIC1, 0x20);
	start("8254 periodic (mode 2) through the 8259");
	pit(1193, 2);
	for (unsigned i = 1; i <= 4; i++) {
		wait(i);
		outb(PIC1, 0x20);
	}
	CHECK(order_count >= 4);
	outb(PIC1 + 1, 0xff);
	start("the 8259's mask holds it back");
	order_count = 0;
	uint64_t from = rdtsc();
	__asm__ volatile("sti");
	while (rdtsc() - from < 10000000)
		;
	__asm__ volatile("cli");
	CHECK_EQ(order_count, 0);
	set(APIC_LINT0, MASKED);
	start("8254 through the I/O APIC, edge");
	io_apic_route(2, 0x48);
	pit(1193, 0);
	wait(1);
	CHECK_EQ(order[0], 0x48);
	CHECK(!bit_of(APIC_TMR, 0x48));
	io_apic_route(2, MASKED);
	start("HLT is woken by the I/O APIC");
	io_apic_route(2, 0x49);
	pit(5000, 0);
	__asm__ volatile("sti\n\thlt\n\tcli" : : : "memory");
	CHECK_EQ(order[0], 0x49);
	io_apic_route(2, MASKED);
	start("a loop of nothing but jumps through fixed pointers is interrupted");
	io_apic_route(2, 0x4b);
	pit(5000, 0);
	__asm__ volatile("leaq 5f(%%rip), %%rax\n\tmovq %%rax, %0\n\tsti\n"
	                 "1:\tjmp *3f(%%rip)\n2:\tjmp *4f(%%rip)\n3:\t.quad 2b\n4:\t.quad 1b\n5:\tcli"
	                 : "=m"(leave_to)
	                 :
	                 : "rax", "memory");
	leave_to = 0;
	CHECK_EQ(order_count, 1);
	CHECK_EQ(order[0], 0x4b);
	io_apic_route(2, MASKED);
	start("MWAIT ends with an interrupt");
	if (has_feature(1, 2, 3)) {
		static uint64_t line;

		io_apic_route(2, 0x4a);
		pit(5000, 0);
		__asm__ volatile("monitor" : : "a"(&line), "c"(0), "d"(0));
		__asm__ volatile("sti\n\tmwait\n\tnop\n\tcli" : : "a"(0), "c"(0) : "memory");
		wait(1);
		CHECK_EQ(order[0], 0x4a);
		io_apic_route(2, MASKED);
		start("MWAIT ends at once where the line was written since MONITOR");
		__asm__ volatile("monitor\n\tmovq $1, (%%rax)\n\tmwait"
		                 :
		                 : "a"(&line), "c"(0), "d"(0)
		                 : "memory");
		CHECK_EQ(line, 1);
		RAISES("#GP: MONITOR with RCX", 13, 0, AT("monitor"), "a"(&line), "c"(1), "d"(0));
		RAISES("#GP: MWAIT with a reserved extension", 13, 0, AT("mwait"), "a"(0), "c"(2));
	}
	start("NMI by the ICR to itself, without IF");
	set(APIC_ICR2, 0);
	interrupts[2] = 0;
	recover_rip = 0;
	TRY("movl $0x400, 0x300(%%rdi)\n\tnop\n\tnop", , "D"(0xfee00000ul));
	CHECK_EQ(interrupts[2], 1);
}

void guest_main(void)
{
	user_setup();
	test_hook = hook;
	set(APIC_SVR, 0x1ff);
	local_apic();
	shadows();
	external();
	modes();
}

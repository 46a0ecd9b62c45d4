/*
 * The deterministic clock: one tick of the TSC for each retired instruction, timers at their exact tick. The second
 * half only has effects on memory: under fire of timer interrupts, each of which leaves what it saw, it modifies its
 * own code, faults, branches between pages and reaches devices. Whoever runs it compares the state hashes of runs
 * whose blocks, chains and TLB differ (tests/system/deterministic).
 */
#include "runtime/guest.h"

#define TIMER_VECTOR 0x30
#define TSC_DEADLINE 0x6e0
#define UNMAPPED     0x7000000000ul

/* What an interrupt or exception saw, mixed into one number and kept in a ring. */
static uint64_t seen[4096], seen_mixed;
static unsigned seen_count;
static uint32_t dice = 12345;
static bool firing;
static volatile uint64_t last_vector, last_rflags; /* of an exception: `fault` may be a later interrupt's */

static uint32_t roll(void)
{
	dice = dice * 1664525 + 1013904223;
	return dice >> 8;
}

static void mix(uint64_t value)
{
	seen_mixed = (seen_mixed ^ value) * 0x9e3779b97f4a7c15ul;
	seen_mixed ^= seen_mixed >> 29;
}

static bool observe(struct frame *frame)
{
	mix(frame->vector);
	mix(frame->rip);
	mix(frame->rflags);
	mix(frame->rax);
	mix(frame->rcx);
	mix(rdtsc());
	seen[seen_count++ % 4096] = seen_mixed;
	if (frame->vector != TIMER_VECTOR) {
		last_vector = frame->vector;
		last_rflags = frame->rflags;
		return false;
	}
	apic_write(0xb0, 0);
	if (firing)
		wrmsr(TSC_DEADLINE, rdtsc() + 50 + roll() % 700);
	return true;
}

static void start_firing(void)
{
	on_exception = observe;
	firing = true;
	apic_write(0x320, 2u << 17 | TIMER_VECTOR);
	wrmsr(TSC_DEADLINE, rdtsc() + 1000);
	__asm__ volatile("sti");
}

static void stop_firing(void)
{
	firing = false;
	__asm__ volatile("cli");
	wrmsr(TSC_DEADLINE, 0);
}

/* ---- exact counts ---- */

/* Ticks from the first RDTSC to the second, with `code` and one MOV between them. */
#define TICKS(code, ...)                                                                                     \
	({                                                                                                   \
		uint64_t first_, second_;                                                                    \
		__asm__ volatile("rdtsc\n\tmov %%rax, %%r8\n\t" code "\n\trdtsc"                             \
		                 : "=a"(second_)                                                             \
		                 :                                                                           \
		                 : "rdx", "r8", "memory", "cc", ##__VA_ARGS__);                              \
		__asm__ volatile("mov %%r8, %0" : "=r"(first_));                                             \
		(uint32_t)second_ - (uint32_t)first_;                                                        \
	})

uint8_t buffer[16384] __attribute__((aligned(4096)));

static bool skip_two(struct frame *frame)
{
	frame->rip += 2;
	return true;
}

static void counts(void)
{
	rule("An instruction is one tick");
	CHECK_EQ(TICKS(""), 2);
	CHECK_EQ(TICKS("nop; nop; nop; nop; nop"), 7);
	CHECK_EQ(TICKS(".rept 200; inc %%r9; .endr", "r9"), 202);
	rule("Branches, taken or not, are one tick each");
	CHECK_EQ(TICKS("mov $1000, %%ecx; 1: dec %%ecx; jnz 1b", "rcx"), 2 + 1 + 2000);
	CHECK_EQ(TICKS("mov $100, %%ecx; 1: call 2f; loop 1b; jmp 3f; 2: ret; 3:", "rcx"), 2 + 1 + 301);
	rule("A repeated string instruction is one tick, however long");
	CHECK_EQ(TICKS("mov $buffer, %%edi; mov $16000, %%ecx; rep stosb", "rcx", "rdi"), 5);
	CHECK_EQ(TICKS("mov $buffer, %%edi; mov %%edi, %%esi; mov $0, %%ecx; rep movsb", "rcx", "rsi", "rdi"), 6);
	rule("Instructions that C code does are one tick");
	CHECK_EQ(TICKS("cpuid; pushfq; pop %%r9; cld; swapgs; swapgs; pause", "rbx", "rcx", "r9"), 9);
	rule("Accesses to devices are one tick");
	CHECK_EQ(TICKS("mov $0xfee00080, %%esi; mov (%%rsi), %%r9d; in $0x61, %%al; mov %%r9d, (%%rsi)", "rsi", "r9"), 6);
	rule("Accesses over a page's end are one tick");
	CHECK_EQ(TICKS("mov %%r9, buffer + 4092; addl $1, buffer + 4094; mov buffer + 4093, %%r9", "r9"), 5);
	rule("An instruction that faults is none");
	on_exception = skip_two;
	uint64_t ud = TICKS("ud2; nop; nop"), nops = TICKS("nop; nop");

	/* What the handler takes is the same each time. */
	CHECK_EQ(TICKS("ud2; ud2; nop; nop") - ud, ud - nops);
	CHECK_EQ(TICKS("nop; nop; nop; nop; ud2; nop") - ud, 3);
	on_exception = NULL;
}

static volatile uint64_t fired_at;

static bool note_time(struct frame *frame)
{
	fired_at = frame->rcx;
	apic_write(0xb0, 0);
	return true;
}

/* RCX counts the instructions since the deadline was armed: the interrupt comes at the same one wherever blocks end. */
static void deadlines(void)
{
	rule("The TSC deadline fires at its instruction");
	on_exception = note_time;
	apic_write(0x320, 2u << 17 | TIMER_VECTOR);
	__asm__ volatile("sti");
	for (unsigned distance = 40; distance < 400; distance += 7) {
		uint64_t at = 0;

		fired_at = 0;
		/* 10 instructions from RDTSC to the first of the loop; each INC is one. */
		__asm__ volatile("rdtsc\n\t"
		                 "add %1, %%eax\n\t"
		                 "adc $0, %%edx\n\t"
		                 "mov $0x6e0, %%ecx\n\t"
		                 "wrmsr\n\t"
		                 "xor %%ecx, %%ecx\n\t"
		                 ".rept 500; inc %%rcx; .endr"
		                 : "=&c"(at)
		                 : "r"(distance)
		                 : "rax", "rdx", "memory", "cc");
		CHECK_EQ(fired_at, distance - 6);
	}
	__asm__ volatile("cli");
	rule("HLT skips to the deadline");
	__asm__ volatile("cli");
	uint64_t start = rdtsc();

	wrmsr(TSC_DEADLINE, start + 50000000);
	__asm__ volatile("sti\n\thlt\n\tcli");
	uint64_t waited = rdtsc() - start;

	CHECK(waited >= 50000000 && waited < 50001000);
	on_exception = NULL;
}

/* ---- under fire ---- */

/* MOV EAX, imm32; RET in memory, and code that changes the instruction behind the one that writes. */
static uint8_t patched[64] __attribute__((aligned(64)));

static uint64_t self_modifying(unsigned rounds)
{
	uint32_t (*function)(void) = (uint32_t (*)(void))(uintptr_t)patched;
	uint64_t sum = 0;

	patched[0] = 0xb8;
	patched[5] = 0xc3;
	for (unsigned i = 0; i < rounds; i++) {
		*(volatile uint32_t *)(patched + 1) = roll();
		sum = sum * 31 + function();
		/* the operand of the ADD behind the MOV that writes it */
		__asm__ volatile("mov %b1, 1f + 3\n\t"
		                 "nop\n"
		                 "1: add $0x11, %0\n\t"
		                 : "+r"(sum)
		                 : "q"(i & 0x7f)
		                 : "memory", "cc");
	}
	return sum;
}

static uint64_t faulting(unsigned rounds)
{
	uint64_t sum = 0;

	for (unsigned i = 0; i < rounds; i++) {
		/* The flags of ADD are dead, and pushed all the same. */
		TRY("add %[a], %[b]\n\tmov %[b], (%[to])\n\txor %[b], %[b]", [b] "+r"(sum),
		    OPERANDS([a] "r"((uint64_t)roll() << 40), [to] "r"(UNMAPPED)), "cc");
		CHECK_EQ(last_vector, 14);
		sum += last_rflags & 0xcd5;
		TRY("sub %[a], %[b]\n\tdivl %[zero]", [b] "+r"(sum),
		    OPERANDS([a] "r"((uint64_t)roll()), [zero] "r"(0)), "rax", "rdx");
		CHECK_EQ(last_vector, 0);
		sum += last_rflags & 0xcd5;
	}
	return sum;
}

#define OWN_PAGE __attribute__((aligned(4096), noinline))

static OWN_PAGE uint64_t far_c(uint64_t a, unsigned n)
{
	for (unsigned i = 0; i < n; i++)
		a = (a << 7 | a >> 57) ^ (buffer[(a >> 3) % sizeof(buffer)] += a);
	return a;
}

static OWN_PAGE uint64_t far_b(uint64_t a, unsigned n)
{
	return n & 1 ? far_c(a, n) : far_c(a + 1, n / 2) * 3;
}

static OWN_PAGE uint64_t far_a(uint64_t (*by)(uint64_t, unsigned), unsigned rounds)
{
	uint64_t a = 1;

	for (unsigned i = 0; i < rounds; i++) {
		a = far_b(a, roll() % 64);
		a += by(a, i % 32);
	}
	return a;
}

static uint64_t devices(unsigned rounds)
{
	uint64_t sum = 0;

	for (unsigned i = 0; i < rounds; i++) {
		outb(0x43, 0x00); /* latch the PIT's first counter */
		sum = sum * 5 + inb(0x40);
		sum = sum * 5 + inb(0x40);
		sum += apic_read(0x390);
		sum += *(volatile uint32_t *)0xfed000f0ul; /* HPET main counter */
		memcpy(buffer + roll() % 4096, buffer + 8192 + roll() % 4096, roll() % 4000);
		if (i % 16 == 0)
			__asm__ volatile("hlt");
	}
	return sum;
}

void guest_main(void)
{
	uint64_t result = 0;

	apic_write(0xf0, 0x1ff);
	counts();
	deadlines();
	rule("Code under timer interrupts");
	outb(0x43, 0x34); /* PIT and HPET count on */
	outb(0x40, 0);
	outb(0x40, 0);
	*(volatile uint32_t *)0xfed00010ul = 1;
	start_firing();
	for (unsigned i = 0; i < 20; i++) {
		result = result * 7 + self_modifying(100);
		result = result * 7 + faulting(50);
		result = result * 7 + far_a(i & 1 ? far_b : far_c, 500);
		result = result * 7 + devices(32);
	}
	stop_firing();
	CHECK(seen_count > 2000);
	print("%u events, %016lx, %016lx\n", seen_count, seen_mixed, result);
}

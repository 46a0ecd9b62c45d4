/*
 * Several CPUs: how they start, what they send one another, and how they see one another's memory, code and page
 * tables (SDM volume 3, Multiple-Processor Management and Advanced Programmable Interrupt Controller).
 */
#include "runtime/smp.h"

#define VECTOR 0x40

static struct smp_word received[SMP_CPUS], nmis[SMP_CPUS];
static volatile uint64_t shared_page[512] __attribute__((aligned(4096)));

static bool hook(struct frame *frame)
{
	unsigned self = smp_self();

	if (frame->vector == 2) {
		nmis[self].value++;
		return true;
	}
	if (frame->vector < 32)
		return false;
	received[self].value++;
	smp_end_of_interrupt();
	return true;
}

static void clear(void)
{
	for (unsigned cpu = 0; cpu < SMP_CPUS; cpu++)
		received[cpu].value = nmis[cpu].value = 0;
}

static void open_interrupts(uint64_t argument)
{
	(void)argument;
	__asm__ volatile("sti");
}

static void close_interrupts(uint64_t argument)
{
	(void)argument;
	__asm__ volatile("cli");
}

/* ---- starting ---- */

static void starting(void)
{
	uint64_t before;

	rule("INIT and SIPI start a processor at the vector's page");
	for (unsigned cpu = 1; cpu < SMP_CPUS; cpu++)
		CHECK(smp_start(cpu));
	rule("a processor that runs ignores SIPI");
	before = smp_up[1].value;
	smp_send(1, ICR_SIPI | ICR_ASSERT | 8);
	smp_call(1, open_interrupts, 0);
	CHECK(smp_wait(1));
	CHECK_EQ(smp_up[1].value, before);
	rule("INIT stops it, SIPI starts it anew");
	CHECK(smp_start(1));
	CHECK_EQ(smp_up[1].value, before + 1);
	rule("INIT with level de-assert does nothing");
	smp_send(1, ICR_INIT | ICR_LEVEL);
	smp_call(1, open_interrupts, 0);
	CHECK(smp_wait(1));
}

/* ---- time ---- */

static volatile uint64_t last_tsc, tsc_turn, tsc_backward;

/* By turns; a handed-over TSC is never ahead of the own one. */
static void read_tsc(uint64_t self)
{
	for (unsigned round = 0; round < 40; round++) {
		uint64_t now;

		if (!smp_until(&tsc_turn, round * SMP_CPUS + self))
			return;
		now = rdtsc();
		tsc_backward += now < last_tsc;
		last_tsc = now;
		tsc_turn++;
	}
}

static void clocks(void)
{
	rule("the TSCs of all processors are in step");
	CHECK(smp_call_all(read_tsc));
	CHECK_EQ(tsc_turn, 40 * SMP_CPUS);
	CHECK_EQ(tsc_backward, 0);
}

/* ---- atomic operations ---- */

#define TURNS 8000

static volatile uint64_t counter __attribute__((aligned(64)));
static volatile uint8_t split_area[2 * 4096 + 64] __attribute__((aligned(4096)));
static volatile uint64_t pair[2] __attribute__((aligned(16)));

static void count_inc(uint64_t self)
{
	(void)self;
	for (unsigned i = 0; i < TURNS; i++)
		__asm__ volatile("lock incq %0" : "+m"(counter));
}

static void count_cmpxchg(uint64_t self)
{
	(void)self;
	for (unsigned i = 0; i < TURNS; i++) {
		uint64_t old = counter;

		while (!__atomic_compare_exchange_n(&counter, &old, old + 1, false, __ATOMIC_SEQ_CST, __ATOMIC_RELAXED))
			;
	}
}

static void count_xchg(uint64_t self)
{
	static volatile uint32_t lock;

	(void)self;
	for (unsigned i = 0; i < TURNS; i++) {
		while (__atomic_exchange_n(&lock, 1, __ATOMIC_ACQUIRE))
			pause();
		counter++;
		__atomic_store_n(&lock, 0, __ATOMIC_RELEASE);
	}
}

static void count_16(uint64_t self)
{
	(void)self;
	for (unsigned i = 0; i < TURNS; i++) {
		uint64_t low = pair[0], high = pair[1];
		uint8_t done = 0;

		while (!done)
			__asm__ volatile("lock cmpxchg16b %0\n\tsete %1"
			                 : "+m"(*(volatile __uint128_t *)pair), "=q"(done), "+a"(low), "+d"(high)
			                 : "b"(low + 1), "c"(high - 1)
			                 : "memory", "cc");
	}
}

static volatile uint64_t *split;

#define SPLIT_TURNS 8 /* hosts make each one over two cache lines take milliseconds */

static void count_split(uint64_t self)
{
	(void)self;
	for (unsigned i = 0; i < SPLIT_TURNS; i++)
		__asm__ volatile("lock incq %0" : "+m"(*split));
}

static void atomics(void)
{
	rule("LOCK INC");
	counter = 0;
	CHECK(smp_call_all(count_inc));
	CHECK_EQ(counter, SMP_CPUS * TURNS);
	rule("LOCK CMPXCHG");
	counter = 0;
	CHECK(smp_call_all(count_cmpxchg));
	CHECK_EQ(counter, SMP_CPUS * TURNS);
	rule("XCHG as a lock");
	counter = 0;
	CHECK(smp_call_all(count_xchg));
	CHECK_EQ(counter, SMP_CPUS * TURNS);
	rule("LOCK CMPXCHG16B");
	CHECK(smp_call_all(count_16));
	CHECK_EQ(pair[0], SMP_CPUS * TURNS);
	CHECK_EQ(pair[1], -(uint64_t)(SMP_CPUS * TURNS));
	rule("LOCK over two cache lines");
	split = (volatile uint64_t *)(split_area + 60);
	CHECK(smp_call_all(count_split));
	CHECK_EQ(*split, SMP_CPUS * SPLIT_TURNS);
	rule("LOCK over two pages");
	split = (volatile uint64_t *)(split_area + 4092);
	CHECK(smp_call_all(count_split));
	CHECK_EQ(*split, SMP_CPUS * SPLIT_TURNS);
}

/* ---- interrupts between processors ---- */

/* Everybody in `who` got `count`, the others nothing. */
static void check_received(unsigned who, uint64_t count)
{
	for (unsigned cpu = 0; cpu < SMP_CPUS; cpu++)
		if (who >> cpu & 1)
			CHECK(smp_until(&received[cpu].value, count));
	for (volatile unsigned i = 0; i < 1000; i++)
		;
	for (unsigned cpu = 0; cpu < SMP_CPUS; cpu++)
		CHECK_EQ(received[cpu].value, who >> cpu & 1 ? count : 0);
	clear();
}

static void lowest_priority(unsigned destination)
{
	uint64_t sum = 0, start = rdtsc();

	for (unsigned i = 0; i < 10; i++)
		smp_send(destination, ICR_LOWEST | ICR_LOGICAL | ICR_ASSERT | (VECTOR + i));
	while (sum < 10 && rdtsc() - start < 60ull << 30)
		for (unsigned cpu = sum = 0; cpu < SMP_CPUS; cpu++)
			sum += received[cpu].value;
	CHECK_EQ(sum, 10);
	clear();
}

static void destinations(void)
{
	rule("physical destination");
	for (unsigned cpu = 0; cpu < SMP_CPUS; cpu++) {
		smp_send(cpu, ICR_ASSERT | VECTOR);
		check_received(1u << cpu, 1);
	}
	rule("shorthands");
	smp_send(0, ICR_SELF | ICR_ASSERT | VECTOR);
	check_received(1, 1);
	smp_send(0, ICR_ALL | ICR_ASSERT | VECTOR);
	check_received(15, 1);
	smp_send(0, ICR_OTHERS | ICR_ASSERT | VECTOR);
	check_received(14, 1);
}

static void set_flat(uint64_t self)
{
	apic_write(0xe0, 0xffffffff);
	apic_write(0xd0, 1u << self << 24);
}

/* CPUs 0 and 1 in cluster 2, 2 and 3 in cluster 5. */
static void set_cluster(uint64_t self)
{
	apic_write(0xe0, 0x0fffffff);
	apic_write(0xd0, ((self < 2 ? 2u : 5u) << 4 | 1u << (self & 1)) << 24);
}

static void set_x2apic(uint64_t self)
{
	(void)self;
	wrmsr(0x1b, rdmsr(0x1b) | 1u << 10);
}

static void interrupts_between(void)
{
	clear();
	CHECK(smp_call_all(open_interrupts));
	destinations();
	smp_send(0xff, ICR_ASSERT | VECTOR);
	check_received(15, 1);
	rule("logical destination, flat model");
	CHECK(smp_call_all(set_flat));
	smp_send(0x0a, ICR_LOGICAL | ICR_ASSERT | VECTOR);
	check_received(0x0a, 1);
	smp_send(0xff, ICR_LOGICAL | ICR_ASSERT | VECTOR);
	check_received(15, 1);
	lowest_priority(0x0e);
	rule("logical destination, cluster model");
	CHECK(smp_call_all(set_cluster));
	smp_send(0x21, ICR_LOGICAL | ICR_ASSERT | VECTOR);
	check_received(1, 1);
	smp_send(0x53, ICR_LOGICAL | ICR_ASSERT | VECTOR);
	check_received(12, 1);
	lowest_priority(0x53);
	rule("NMI");
	smp_send(2, ICR_NMI | ICR_ASSERT);
	CHECK(smp_until(&nmis[2].value, 1));
	smp_send(0, ICR_NMI | ICR_OTHERS | ICR_ASSERT);
	CHECK(smp_until(&nmis[3].value, 1));
	CHECK(smp_until(&nmis[2].value, 2));
	CHECK_EQ(nmis[0].value, 0);
	clear();
}

static void x2apic(void)
{
	uint32_t id[4];

	cpuid(1, 0, id);
	if (!(id[2] >> 21 & 1))
		return;
	CHECK(smp_call_all(set_x2apic));
	destinations();
	rule("x2APIC: broadcast and logical destinations");
	smp_send(0xffffffff, ICR_ASSERT | VECTOR);
	check_received(15, 1);
	smp_send(0x5, ICR_LOGICAL | ICR_ASSERT | VECTOR);
	check_received(5, 1);
	smp_send(0x10005, ICR_LOGICAL | ICR_ASSERT | VECTOR);
	check_received(0, 1);
	lowest_priority(0xc);
}

/* ---- waiting ---- */

static struct smp_word woken[SMP_CPUS];

static void halt_often(uint64_t self)
{
	for (unsigned i = 0; i < 50; i++) {
		uint64_t before;

		__asm__ volatile("cli");
		before = received[self].value;
		woken[self].value = i + 1; /* the next interrupt comes after this */
		if (received[self].value == before)
			__asm__ volatile("sti\n\thlt");
		__asm__ volatile("sti");
		smp_until(&received[self].value, before + 1);
	}
}

static void halting(void)
{
	rule("an interrupt wakes a processor from HLT");
	clear();
	for (unsigned cpu = 1; cpu < SMP_CPUS; cpu++)
		smp_call(cpu, halt_often, cpu);
	for (unsigned i = 0; i < 50; i++) {
		for (unsigned cpu = 1; cpu < SMP_CPUS; cpu++) {
			CHECK(smp_until(&woken[cpu].value, i + 1));
			smp_send(cpu, ICR_ASSERT | VECTOR);
		}
	}
	for (unsigned cpu = 1; cpu < SMP_CPUS; cpu++)
		CHECK(smp_wait(cpu));
	clear();
}

/* ---- code ---- */

/* mov $0, %eax; ret: at offset 8, so that an aligned store replaces the immediate. */
static uint8_t code_page[2][4096] __attribute__((aligned(4096)));

static void make_function(uint8_t *code, uint32_t value)
{
	code[7] = 0xb8;
	*(volatile uint32_t *)(code + 8) = value;
	code[12] = 0xc3;
}

static uint32_t call_function(uint8_t *code)
{
	uint32_t value;

	__asm__ volatile("call *%1" : "=&a"(value) : "r"(code + 7) : "memory");
	return value;
}

static volatile uint64_t code_stop, code_wrong;
static struct smp_word acknowledged[SMP_CPUS];
static volatile uint64_t announced;

/* Executes the function all the time; what it gives is never older than what was announced before. */
static void execute(uint64_t self)
{
	while (!code_stop) {
		uint64_t floor = announced;
		uint32_t ignored[4];

		cpuid(0, 0, ignored); /* SDM, Handling Self- and Cross-Modifying Code */
		code_wrong += call_function(code_page[0]) < floor;
		acknowledged[self].value = floor;
	}
}

/* The same without a serializing instruction, by way of the interrupt that says so. */
static void execute_interrupted(uint64_t self)
{
	while (!code_stop) {
		uint64_t floor = received[self].value;

		code_wrong += call_function(code_page[0]) < floor;
	}
}

static void cross_modifying(void)
{
	rule("cross-modifying code: who serializes executes the new bytes");
	code_stop = code_wrong = announced = 0;
	make_function(code_page[0], 0);
	for (unsigned cpu = 1; cpu < SMP_CPUS; cpu++)
		smp_call(cpu, execute, cpu);
	for (uint32_t i = 1; i <= 100; i++) {
		*(volatile uint32_t *)(code_page[0] + 8) = i;
		announced = i;
		if (i % 16 == 0)
			for (unsigned cpu = 1; cpu < SMP_CPUS; cpu++)
				CHECK(smp_until(&acknowledged[cpu].value, i));
	}
	code_stop = 1;
	for (unsigned cpu = 1; cpu < SMP_CPUS; cpu++)
		CHECK(smp_wait(cpu));
	CHECK_EQ(code_wrong, 0);

	rule("cross-modifying code: an interrupt serializes");
	code_stop = code_wrong = 0;
	clear();
	make_function(code_page[0], 0);
	for (unsigned cpu = 1; cpu < SMP_CPUS; cpu++)
		smp_call(cpu, execute_interrupted, cpu);
	for (uint32_t i = 1; i <= 100; i++) {
		*(volatile uint32_t *)(code_page[0] + 8) = i;
		smp_send(0, ICR_OTHERS | ICR_ASSERT | VECTOR);
		for (unsigned cpu = 1; cpu < SMP_CPUS; cpu++)
			CHECK(smp_until(&received[cpu].value, i));
	}
	code_stop = 1;
	for (unsigned cpu = 1; cpu < SMP_CPUS; cpu++)
		CHECK(smp_wait(cpu));
	CHECK_EQ(code_wrong, 0);
	clear();
}

/* Every CPU writes and executes code in pages that others execute from, and write data into. */
static void mix_code_and_data(uint64_t self)
{
	uint8_t *mine = code_page[self & 1] + 256 * (self + 1);

	for (uint32_t i = 0; i < 300; i++) {
		make_function(mine, i);
		code_wrong += call_function(mine) != i;
		__asm__ volatile("lock incq %0" : "+m"(*(volatile uint64_t *)(code_page[i & 1] + 2048)));
	}
}

static void mixed_pages(void)
{
	rule("code and data of several processors in one page");
	code_wrong = 0;
	*(volatile uint64_t *)(code_page[0] + 2048) = *(volatile uint64_t *)(code_page[1] + 2048) = 0;
	CHECK(smp_call_all(mix_code_and_data));
	CHECK_EQ(code_wrong, 0);
	CHECK_EQ(*(volatile uint64_t *)(code_page[0] + 2048), SMP_CPUS * 150);
	CHECK_EQ(*(volatile uint64_t *)(code_page[1] + 2048), SMP_CPUS * 150);
}

/* ---- page tables ---- */

#define WINDOW 0x40000000ul /* remapped by 4 KiB pages */

static uint64_t window_table[512] __attribute__((aligned(4096)));
static volatile uint64_t backing[2][512] __attribute__((aligned(4096)));

static bool shoot_down(struct frame *frame)
{
	if (frame->vector >= 32)
		invlpg(WINDOW);
	return hook(frame);
}

static void watch_window(uint64_t self)
{
	while (!code_stop) {
		uint64_t epoch = received[self].value;
		uint64_t seen = *(volatile uint64_t *)WINDOW;

		/* Which page it is must follow the interrupts: even epochs the first, odd ones the second. */
		if (received[self].value == epoch)
			code_wrong += seen != (epoch & 1);
	}
}

static void shootdown(void)
{
	uint64_t saved = runtime_pd[WINDOW >> 21];

	rule("INVLPG on another processor, asked for by an interrupt");
	backing[0][0] = 0;
	backing[1][0] = 1;
	window_table[0] = (uint64_t)backing[0] | 3;
	runtime_pd[WINDOW >> 21] = (uint64_t)window_table | 3;
	invlpg(WINDOW);
	code_stop = code_wrong = 0;
	clear();
	on_exception = shoot_down;
	for (unsigned cpu = 1; cpu < SMP_CPUS; cpu++)
		smp_call(cpu, watch_window, cpu);
	for (unsigned i = 1; i <= 100; i++) {
		/* While the others look they may see either page; the epochs differ then. */
		window_table[0] = (uint64_t)backing[i & 1] | 3;
		smp_send(0, ICR_OTHERS | ICR_ASSERT | VECTOR);
		for (unsigned cpu = 1; cpu < SMP_CPUS; cpu++)
			CHECK(smp_until(&received[cpu].value, i));
	}
	code_stop = 1;
	for (unsigned cpu = 1; cpu < SMP_CPUS; cpu++)
		CHECK(smp_wait(cpu));
	on_exception = hook;
	runtime_pd[WINDOW >> 21] = saved;
	clear();
}

/* Bits 9 … 11 of an entry are software's: each CPU flips its own while accesses set A and D. */
static void flip_and_touch(uint64_t self)
{
	for (unsigned i = 0; i < 2000; i++) {
		__asm__ volatile("lock xorq %1, %0" : "+m"(window_table[1]) : "r"((uint64_t)(self ? 1 : 0) << (8 + self)));
		invlpg(WINDOW + 4096);
		*(volatile uint64_t *)(WINDOW + 4096 + 8 * self) = i;
		if (!(i & 15))
			__asm__ volatile("lock andq %1, %0" : "+m"(window_table[1]) : "r"(~0x60ul));
	}
}

static void accessed_and_dirty(void)
{
	uint64_t saved = runtime_pd[WINDOW >> 21];

	rule("setting A and D loses no other processor's change of the entry");
	window_table[1] = (uint64_t)shared_page | 3;
	runtime_pd[WINDOW >> 21] = (uint64_t)window_table | 3;
	CHECK(smp_call_all(flip_and_touch));
	CHECK_EQ(window_table[1] & ~0x60ul, (uint64_t)shared_page | 3);
	for (unsigned cpu = 0; cpu < SMP_CPUS; cpu++)
		CHECK_EQ(shared_page[cpu], 1999);
	runtime_pd[WINDOW >> 21] = saved;
	invlpg(WINDOW);
}

void guest_main(void)
{
	on_exception = hook;
	apic_write(0xf0, 0x1ff);
	starting();
	clocks();
	atomics();
	interrupts_between();
	halting();
	cross_modifying();
	mixed_pages();
	shootdown();
	accessed_and_dirty();
	x2apic();
	CHECK(smp_call_all(close_interrupts));
}

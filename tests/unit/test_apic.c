/*
 * The local APIC, with the machine and the other vCPUs replaced by recorders.
 *
 * gcc -D_GNU_SOURCE -Isrc tests/unit/test_apic.c src/engine/soft/cpu/{apic,apic_create,time}.c
 * src/engine/cpu_model_query.c -lcmocka -o /tmp/test_apic
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>
#include <pthread.h>

#include "engine/soft/cpu/apic.h"

#include "engine/soft/cpu/time.h"

#define TSC_HZ  1000000000u /* one tick is one nanosecond */
#define CRYSTAL 25000000u   /* so one count at divide-by-1 is 40 ticks */

#define NEVER UINT64_MAX

/* ---- the recorders ---- */

static struct {
	uint64_t armed_ns;
	unsigned arms;
	unsigned eoi_count;
	uint8_t eoi_vector;
	int intr_vector;
	unsigned acknowledges;
	unsigned deliveries;
	uint32_t destination;
	bool logical, x2apic_format;
	uint8_t mode, vector;
	unsigned shorthand;
} seen;

void fpu_stash(struct cpu *cpu)
{
}

void tlb_flush_all(struct cpu *cpu)
{
}

void cpu_host_timer_arm(struct cpu *cpu, uint64_t deadline_ns)
{
	cpu->apic_deadline_ns = deadline_ns;
	seen.armed_ns = deadline_ns;
	seen.arms++;
}

void cpu_host_eoi(struct cpu *cpu, uint8_t vector)
{
	seen.eoi_count++;
	seen.eoi_vector = vector;
}

int cpu_host_interrupt_acknowledge(struct cpu *cpu)
{
	seen.acknowledges++;
	return seen.intr_vector;
}

void soft_deliver(struct cpu *source, uint32_t destination, bool logical, bool x2apic_format,
                  uint8_t delivery_mode, uint8_t vector, bool level, unsigned shorthand)
{
	seen.deliveries++;
	seen.destination = destination;
	seen.logical = logical;
	seen.x2apic_format = x2apic_format;
	seen.mode = delivery_mode;
	seen.vector = vector;
	seen.shorthand = shorthand;
}

/* ---- set-up ---- */

static const struct cpu_model model = {
    .leaf = {{.leaf = 0, .eax = 0x16},
             {.leaf = 1, .ecx = 1u << 21 | 1u << 24},
             {.leaf = 0x15, .eax = 1, .ebx = TSC_HZ / CRYSTAL, .ecx = CRYSTAL}},
    .leaf_count = 3,
    .physical_address_bits = 40,
    .tsc_hz = TSC_HZ,
    .cpu_count = 2,
};

static struct cpu *new_cpu(unsigned index)
{
	struct cpu *cpu = aligned_alloc(64, (sizeof(*cpu) + 63) / 64 * 64);

	assert_non_null(cpu);
	memset(cpu, 0, sizeof(*cpu));
	cpu->index = index;
	cpu->model = &model;
	cpu->clock = ENGINE_CLOCK_DETERMINISTIC;
	cpu->retired = 1000000;
	assert_non_null(apic_create(cpu));
	return cpu;
}

static int set_up(void **state)
{
	memset(&seen, 0, sizeof(seen));
	seen.armed_ns = NEVER;
	seen.intr_vector = -1;
	*state = new_cpu(0);
	return 0;
}

static int tear_down(void **state)
{
	struct cpu *cpu = *state;

	apic_destroy(cpu->apic);
	free(cpu);
	return 0;
}

enum {
	ID = 0x20,
	VERSION = 0x30,
	TPR = 0x80,
	PPR = 0xa0,
	EOI = 0xb0,
	LDR = 0xd0,
	DFR = 0xe0,
	SVR = 0xf0,
	ISR = 0x100,
	TMR = 0x180,
	IRR = 0x200,
	ESR = 0x280,
	ICR = 0x300,
	ICR_HIGH = 0x310,
	LVT_TIMER = 0x320,
	LVT_LINT0 = 0x350,
	LVT_ERROR = 0x370,
	TMICT = 0x380,
	TMCCT = 0x390,
	TDCR = 0x3e0,
};

static uint32_t get(struct cpu *cpu, unsigned offset)
{
	return (uint32_t)apic_mmio_read(cpu, GPA(0xfee00000 + offset), 4);
}

static void put(struct cpu *cpu, unsigned offset, uint32_t value)
{
	apic_mmio_write(cpu, GPA(0xfee00000 + offset), 4, value);
}

static void enable(struct cpu *cpu)
{
	put(cpu, SVR, 0x1ff);
	put(cpu, LVT_LINT0, 0x10000);
}

static void enable_x2apic(struct cpu *cpu)
{
	assert_true(apic_write_msr(cpu, 0x1b, 0xfee00000 | 0xd00));
	assert_true(apic_write_msr(cpu, 0x80f, 0x1ff));
	assert_true(apic_write_msr(cpu, 0x835, 0x10000));
}

static void post(struct cpu *cpu, uint8_t vector, bool level)
{
	apic_post(cpu, 0, vector, level);
	apic_collect(cpu);
}

/* ---- accepting and serving interrupts ---- */

static void higher_vectors_are_taken_first(void **state)
{
	struct cpu *cpu = *state;

	enable(cpu);
	post(cpu, 0x31, false);
	post(cpu, 0x82, false);
	assert_int_equal(get(cpu, IRR + 0x10), 1u << 0x11);
	assert_int_equal(apic_pending_vector(cpu), 0x82);
	assert_int_equal(apic_acknowledge(cpu), 0x82);
	assert_int_equal(get(cpu, PPR), 0x80);
	assert_int_equal(get(cpu, ISR + 0x40), 1u << 2);
	assert_int_equal(apic_pending_vector(cpu), -1); /* 31H waits below priority 8 */
	post(cpu, 0x8f, false);
	assert_int_equal(apic_pending_vector(cpu), -1); /* same class */
	post(cpu, 0x90, false);
	assert_int_equal(apic_acknowledge(cpu), 0x90);
	put(cpu, EOI, 0);
	assert_int_equal(get(cpu, PPR), 0x80);
	put(cpu, EOI, 0);
	assert_int_equal(apic_acknowledge(cpu), 0x8f);
	put(cpu, EOI, 0);
	assert_int_equal(apic_acknowledge(cpu), 0x31);
	put(cpu, EOI, 0);
	assert_int_equal(apic_pending_vector(cpu), -1);
	assert_int_equal(get(cpu, PPR), 0);
	put(cpu, EOI, 0); /* one too many does nothing */
}

static void task_priority_holds_interrupts_back(void **state)
{
	struct cpu *cpu = *state;

	enable(cpu);
	put(cpu, TPR, 0x45);
	assert_int_equal(get(cpu, PPR), 0x45);
	assert_int_equal(apic_cr8(cpu), 4);
	post(cpu, 0x4f, false);
	assert_int_equal(apic_pending_vector(cpu), -1);
	cpu->kick = 0;
	apic_set_cr8(cpu, 3);
	assert_int_equal(get(cpu, TPR), 0x30);
	assert_int_equal(cpu->kick, 1);
	assert_int_equal(apic_acknowledge(cpu), 0x4f);
}

static void eoi_is_broadcast_for_level_only(void **state)
{
	struct cpu *cpu = *state;

	enable(cpu);
	post(cpu, 0x50, true);
	assert_int_equal(get(cpu, TMR + 0x20), 1u << 0x10);
	assert_int_equal(apic_acknowledge(cpu), 0x50);
	put(cpu, EOI, 0);
	assert_int_equal(seen.eoi_count, 1);
	assert_int_equal(seen.eoi_vector, 0x50);
	post(cpu, 0x50, false);
	assert_int_equal(get(cpu, TMR + 0x20), 0);
	assert_int_equal(apic_acknowledge(cpu), 0x50);
	put(cpu, EOI, 0);
	assert_int_equal(seen.eoi_count, 1);
}

static void software_disabled_takes_no_messages(void **state)
{
	struct cpu *cpu = *state;

	post(cpu, 0x50, false); /* after reset it is disabled */
	enable(cpu);
	assert_int_equal(apic_pending_vector(cpu), -1);
	put(cpu, LVT_TIMER, 0x40);
	put(cpu, SVR, 0xff);
	assert_int_equal(get(cpu, LVT_TIMER), 0x10040);
	put(cpu, LVT_TIMER, 0x40); /* the mask cannot be cleared now */
	assert_int_equal(get(cpu, LVT_TIMER), 0x10040);
}

static void illegal_vectors_are_reported(void **state)
{
	struct cpu *cpu = *state;

	enable(cpu);
	put(cpu, LVT_ERROR, 0xfe);
	post(cpu, 0x0f, false);
	assert_int_equal(apic_acknowledge(cpu), 0xfe);
	put(cpu, EOI, 0);
	assert_int_equal(get(cpu, ESR), 0); /* until it is written */
	put(cpu, ESR, 0);
	assert_int_equal(get(cpu, ESR), 1u << 6);
	put(cpu, ICR, 0x40005); /* self, vector 5 */
	put(cpu, ESR, 0);
	assert_int_equal(get(cpu, ESR), 1u << 5);
	assert_int_equal(seen.deliveries, 0);
}

static void other_delivery_modes_become_signals(void **state)
{
	struct cpu *cpu = *state;

	apic_post(cpu, 4, 0, false);
	assert_int_equal(cpu->pending_async, ASYNC_NMI);
	apic_post(cpu, 5, 0, false);
	apic_post(cpu, 6, 0x9a, false);
	assert_int_equal(cpu->pending_async, ASYNC_NMI | ASYNC_INIT | ASYNC_SIPI);
	assert_int_equal(cpu->sipi_vector, 0x9a);
	assert_int_equal(cpu->kick, 1);
}

static void extint_passes_lint0_in_virtual_wire_mode(void **state)
{
	struct cpu *cpu = *state;

	seen.intr_vector = 0x08;
	cpu->extint_line = true;
	assert_int_equal(apic_pending_vector(cpu), 256); /* as left for the boot processor */
	assert_int_equal(apic_acknowledge(cpu), 8);
	put(cpu, SVR, 0x1ff);
	put(cpu, LVT_LINT0, 0x10700);
	assert_int_equal(apic_pending_vector(cpu), -1);
	put(cpu, LVT_LINT0, 0x700);
	assert_int_equal(apic_pending_vector(cpu), 256);
	seen.intr_vector = -1; /* the 8259 withdraws */
	post(cpu, 0x61, false);
	assert_int_equal(apic_acknowledge(cpu), 0x61);
	assert_true(apic_write_msr(cpu, 0x1b, 0xfee00100)); /* globally disabled: LINT0 is INTR */
	assert_int_equal(apic_pending_vector(cpu), 256);
	cpu->extint_line = false;
	assert_int_equal(apic_pending_vector(cpu), -1);
}

/* ---- sending ---- */

static void ipis_go_where_icr_says(void **state)
{
	struct cpu *cpu = *state;

	enable(cpu);
	put(cpu, ICR_HIGH, 0x03000000);
	put(cpu, ICR, 0x000008f1); /* logical */
	assert_int_equal(seen.deliveries, 1);
	assert_int_equal(seen.destination, 3);
	assert_true(seen.logical);
	assert_false(seen.x2apic_format);
	assert_int_equal(seen.vector, 0xf1);
	put(cpu, ICR, 0x000c4500); /* INIT to all others */
	assert_int_equal(seen.mode, 5);
	assert_int_equal(seen.shorthand, 3);
	put(cpu, ICR, 0x00008500); /* its de-assert */
	assert_int_equal(seen.deliveries, 2);
	put(cpu, ICR, 0x00040044); /* self */
	assert_int_equal(seen.deliveries, 2);
	assert_int_equal(apic_acknowledge(cpu), 0x44);
	assert_int_equal(get(cpu, ICR), 0x00040044);
}

static void destinations_match_by_the_manual(void **state)
{
	struct cpu *cpu = new_cpu(3);
	static const struct {
		uint32_t ldr, dfr, destination;
		bool logical, matches;
	} rows[] = {
	    {0x08000000, 0xffffffff, 3, false, true},    {0x08000000, 0xffffffff, 2, false, false},
	    {0x08000000, 0xffffffff, 0xff, false, true}, {0x08000000, 0xffffffff, 0x0c, true, true},
	    {0x08000000, 0xffffffff, 0x04, true, false}, {0x28000000, 0x0fffffff, 0x29, true, true},
	    {0x28000000, 0x0fffffff, 0x18, true, false}, {0x28000000, 0x0fffffff, 0x21, true, false},
	};

	for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		put(cpu, LDR, rows[i].ldr);
		put(cpu, DFR, rows[i].dfr);
		assert_int_equal(apic_matches(cpu, rows[i].destination, rows[i].logical, false),
		                 rows[i].matches);
	}
	assert_false(apic_matches(cpu, 0xff, false, true));
	assert_true(apic_matches(cpu, 0xffffffff, false, true));
	assert_true(apic_write_msr(cpu, 0x1b, 0xfee00c00));
	assert_true(apic_matches(cpu, 0x00000008, true, true));
	assert_false(apic_matches(cpu, 0x00010008, true, true));
	assert_false(apic_matches(cpu, 0x00000004, true, true));
	assert_true(apic_matches(cpu, 3, false, true));
	tear_down((void **)&cpu);
}

static void *post_many(void *argument)
{
	for (unsigned vector = 32; vector < 256; vector++)
		apic_post(argument, 0, (uint8_t)vector, vector & 1);
	return NULL;
}

static void messages_of_other_threads_all_arrive(void **state)
{
	struct cpu *cpu = *state;
	pthread_t thread;
	unsigned count = 0;
	bool joined = false;

	enable(cpu);
	assert_int_equal(pthread_create(&thread, NULL, post_many, cpu), 0);
	for (;;) {
		apic_collect(cpu);
		while (apic_pending_vector(cpu) >= 0) {
			assert_true(apic_acknowledge(cpu) >= 32);
			put(cpu, EOI, 0);
			count++;
		}
		if (joined)
			break;
		if (count) {
			pthread_join(thread, NULL);
			joined = true;
		}
	}
	assert_int_equal(count, 224);
	assert_int_equal(seen.eoi_count, 112);
}

/* ---- the register pages ---- */

static void odd_accesses_do_no_harm(void **state)
{
	struct cpu *cpu = *state;

	enable(cpu);
	assert_int_equal(get(cpu, VERSION), 0x50014);
	assert_int_equal(apic_mmio_read(cpu, GPA(0xfee00032), 1), 5);
	assert_int_equal(apic_mmio_read(cpu, GPA(0xfee00034), 4), 0);
	apic_mmio_write(cpu, GPA(0xfee00081), 1, 0xff);
	apic_mmio_write(cpu, GPA(0xfee00084), 4, 0xff);
	assert_int_equal(get(cpu, TPR), 0);
	for (unsigned offset = 0; offset < 0x1000; offset += 4) {
		apic_mmio_read(cpu, GPA(0xfee00000 + offset), 4);
		apic_mmio_write(cpu, GPA(0xfee00000 + offset), 4, 0xffffffff);
	}
	put(cpu, ESR, 0);
	assert_true(get(cpu, ESR) & 1u << 7);
}

static void x2apic_mode_moves_the_registers(void **state)
{
	struct cpu *cpu = *state;
	uint64_t value;

	assert_true(apic_owns(cpu, GPA(0xfee00fff)));
	assert_false(apic_read_msr(cpu, 0x802, &value)); /* still xAPIC mode */
	enable_x2apic(cpu);
	assert_false(apic_owns(cpu, GPA(0xfee00000)));
	assert_true(apic_read_msr(cpu, 0x80d, &value));
	assert_int_equal(value, 1);
	assert_true(apic_write_msr(cpu, 0x83f, 0x77));
	assert_int_equal(apic_acknowledge(cpu), 0x77);
	assert_false(apic_write_msr(cpu, 0x80b, 1)); /* EOI takes only 0 */
	assert_true(apic_write_msr(cpu, 0x80b, 0));
	assert_false(apic_read_msr(cpu, 0x80b, &value));
	assert_false(apic_read_msr(cpu, 0x80e, &value)); /* no DFR */
	assert_false(apic_read_msr(cpu, 0x831, &value)); /* no second half of ICR */
	assert_false(apic_read_msr(cpu, 0x8ff, &value));
	assert_false(apic_write_msr(cpu, 0x802, 0)); /* read-only */
	assert_false(apic_write_msr(cpu, 0x80d, 0));
	assert_false(apic_write_msr(cpu, 0x808, 0x100));
	assert_true(apic_write_msr(cpu, 0x830, 0x00000007000000e1));
	assert_int_equal(seen.destination, 7);
	assert_true(seen.x2apic_format);
	assert_true(apic_read_msr(cpu, 0x830, &value));
	assert_true(value == 0x00000007000000e1);
}

static void apic_base_follows_the_state_diagram(void **state)
{
	struct cpu *cpu = *state;

	assert_false(apic_write_msr(cpu, 0x1b, 0xfee00500)); /* EXTD without EN */
	assert_false(apic_write_msr(cpu, 0x1b, 0xfee00801)); /* reserved bit */
	assert_false(apic_write_msr(cpu, 0x1b, 1ull << 40 | 0x800));
	assert_true(apic_write_msr(cpu, 0x1b, 0xfee00d00));
	assert_false(apic_write_msr(cpu, 0x1b, 0xfee00900)); /* x2APIC to xAPIC */
	assert_true(apic_write_msr(cpu, 0x1b, 0xfee00100));
	assert_false(apic_write_msr(cpu, 0x1b, 0xfee00d00)); /* disabled to x2APIC */
	assert_true(apic_write_msr(cpu, 0x1b, 0xfec00900));
	assert_true(apic_owns(cpu, GPA(0xfec00000)));
}

/* ---- the timer ---- */

static void one_shot_counts_down_once(void **state)
{
	struct cpu *cpu = *state;

	enable(cpu);
	put(cpu, LVT_TIMER, 0x40);
	put(cpu, TDCR, 0xb); /* divide by 1 */
	put(cpu, TMICT, 1000);
	assert_int_equal(seen.armed_ns, 1000000 + 40000);
	cpu->retired += 10000;
	assert_int_equal(get(cpu, TMCCT), 750);
	apic_collect(cpu);
	assert_int_equal(apic_pending_vector(cpu), -1);
	cpu->retired += 30000;
	apic_collect(cpu);
	assert_int_equal(apic_acknowledge(cpu), 0x40);
	put(cpu, EOI, 0);
	assert_int_equal(get(cpu, TMCCT), 0);
	cpu->retired += 1000000;
	apic_collect(cpu);
	assert_int_equal(apic_pending_vector(cpu), -1);
	assert_int_equal(seen.arms, 1);
}

/* 2.7 ticks of the TSC per count, as where the crystal has 1 GHz and the TSC 2.7. */
static void a_count_may_be_a_fraction_of_ticks(void **state)
{
	struct cpu_model fraction = model;
	struct cpu *cpu = *state;

	fraction.leaf[2].eax = 10;
	fraction.leaf[2].ebx = 27;
	apic_destroy(cpu->apic);
	cpu->model = &fraction;
	assert_non_null(apic_create(cpu));
	cpu->model = &model;
	enable(cpu);
	put(cpu, LVT_TIMER, 0x40);
	put(cpu, TDCR, 0xb);
	put(cpu, TMICT, 1000000);
	cpu->retired += 2699;
	assert_int_equal(get(cpu, TMCCT), 1000000 - 999 - 1);
	cpu->retired += 2700000 - 2699 - 1;
	apic_collect(cpu);
	assert_int_equal(apic_pending_vector(cpu), -1);
	cpu->retired += 1;
	apic_collect(cpu);
	assert_int_equal(apic_acknowledge(cpu), 0x40);
}

static void periodic_keeps_its_phase(void **state)
{
	struct cpu *cpu = *state;

	enable(cpu);
	put(cpu, TDCR, 0x3); /* divide by 16 */
	put(cpu, LVT_TIMER, 0x20041);
	put(cpu, TMICT, 100); /* 64000 ticks */
	for (int i = 0; i < 3; i++) {
		cpu->retired += 64000;
		apic_collect(cpu);
		assert_int_equal(apic_acknowledge(cpu), 0x41);
		put(cpu, EOI, 0);
	}
	cpu->retired += 5 * 64000 + 6400; /* missed periods are one interrupt */
	apic_collect(cpu);
	assert_int_equal(apic_acknowledge(cpu), 0x41);
	put(cpu, EOI, 0);
	assert_int_equal(apic_pending_vector(cpu), -1);
	assert_int_equal(get(cpu, TMCCT), 90);
	put(cpu, TMICT, 0); /* stops it */
	cpu->retired += 1000000;
	apic_collect(cpu);
	assert_int_equal(apic_pending_vector(cpu), -1);
}

static void deadline_fires_when_the_tsc_reaches_it(void **state)
{
	struct cpu *cpu = *state;
	uint64_t value;

	enable_x2apic(cpu);
	assert_true(apic_write_msr(cpu, 0x6e0, 2000000)); /* ignored in other modes */
	assert_true(apic_read_msr(cpu, 0x6e0, &value));
	assert_int_equal(value, 0);
	assert_true(apic_write_msr(cpu, 0x832, 0x400ec));
	assert_true(apic_write_msr(cpu, 0x6e0, 2000000));
	assert_int_equal(seen.armed_ns, 2000000);
	cpu->retired = 1999999;
	apic_collect(cpu);
	assert_int_equal(apic_pending_vector(cpu), -1);
	assert_true(apic_read_msr(cpu, 0x6e0, &value));
	assert_int_equal(value, 2000000);
	cpu->retired = 2000000;
	apic_collect(cpu);
	assert_int_equal(apic_acknowledge(cpu), 0xec);
	assert_true(apic_read_msr(cpu, 0x6e0, &value));
	assert_int_equal(value, 0);
	assert_true(apic_write_msr(cpu, 0x80b, 0));

	cpu->kick = 0;
	assert_true(apic_write_msr(cpu, 0x6e0, 1)); /* in the past: at once */
	assert_int_equal(cpu->kick, 1);
	apic_collect(cpu);
	assert_int_equal(apic_acknowledge(cpu), 0xec);
}

static void a_later_deadline_leaves_the_alarm_standing(void **state)
{
	struct cpu *cpu = *state;

	enable_x2apic(cpu);
	apic_write_msr(cpu, 0x832, 0x400ec);
	apic_write_msr(cpu, 0x6e0, 2000000);
	apic_write_msr(cpu, 0x6e0, 3000000);
	assert_int_equal(seen.arms, 1);
	cpu->retired = 2000000;
	apic_collect(cpu); /* it rings early and is set again */
	assert_int_equal(apic_pending_vector(cpu), -1);
	assert_int_equal(seen.arms, 2);
	assert_int_equal(seen.armed_ns, 3000000);
	apic_write_msr(cpu, 0x6e0, 2500000); /* an earlier one must be heard of */
	assert_int_equal(seen.armed_ns, 2500000);
	apic_write_msr(cpu, 0x6e0, 0);
	cpu->retired = 4000000;
	apic_collect(cpu);
	assert_int_equal(apic_pending_vector(cpu), -1);
}

static void changing_the_tsc_moves_the_deadline(void **state)
{
	struct cpu *cpu = *state;

	enable_x2apic(cpu);
	apic_write_msr(cpu, 0x832, 0x400ec);
	apic_write_msr(cpu, 0x6e0, 2000000);
	cpu->msr.tsc_adjust = 500000;
	apic_tsc_changed(cpu);
	assert_int_equal(seen.armed_ns, 1500000);
	cpu->retired = 1500000;
	apic_collect(cpu);
	assert_int_equal(apic_acknowledge(cpu), 0xec);
}

static void a_masked_timer_only_stops(void **state)
{
	struct cpu *cpu = *state;

	enable_x2apic(cpu);
	apic_write_msr(cpu, 0x832, 0x500ec);
	apic_write_msr(cpu, 0x6e0, 1500000);
	cpu->retired = 1600000;
	apic_collect(cpu);
	assert_int_equal(apic_pending_vector(cpu), -1);
	assert_int_equal(cpu->msr.tsc_deadline, 0);
}

static void deadlines_out_of_reach_do_not_overflow(void **state)
{
	struct cpu *cpu = *state;

	enable_x2apic(cpu);
	apic_write_msr(cpu, 0x832, 0x400ec);
	apic_write_msr(cpu, 0x6e0, UINT64_MAX);
	apic_collect(cpu);
	assert_int_equal(apic_pending_vector(cpu), -1);
	assert_int_equal(seen.arms, 0);
	assert_true(time_mul_div(UINT64_MAX, UINT64_MAX, 1) == UINT64_MAX);
	assert_true(time_mul_div(UINT64_MAX, 1000, 1000) == UINT64_MAX);
	assert_true(time_mul_div(7, 3, 0) == UINT64_MAX);
	assert_int_equal(time_mul_div(7, 3, 4), 5);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

int main(void)
{
	const struct CMUnitTest tests[] = {
	    TEST(higher_vectors_are_taken_first),
	    TEST(task_priority_holds_interrupts_back),
	    TEST(eoi_is_broadcast_for_level_only),
	    TEST(software_disabled_takes_no_messages),
	    TEST(illegal_vectors_are_reported),
	    TEST(other_delivery_modes_become_signals),
	    TEST(extint_passes_lint0_in_virtual_wire_mode),
	    TEST(ipis_go_where_icr_says),
	    TEST(destinations_match_by_the_manual),
	    TEST(messages_of_other_threads_all_arrive),
	    TEST(odd_accesses_do_no_harm),
	    TEST(x2apic_mode_moves_the_registers),
	    TEST(apic_base_follows_the_state_diagram),
	    TEST(one_shot_counts_down_once),
	    TEST(a_count_may_be_a_fraction_of_ticks),
	    TEST(periodic_keeps_its_phase),
	    TEST(deadline_fires_when_the_tsc_reaches_it),
	    TEST(a_later_deadline_leaves_the_alarm_standing),
	    TEST(changing_the_tsc_moves_the_deadline),
	    TEST(a_masked_timer_only_stops),
	    TEST(deadlines_out_of_reach_do_not_overflow),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

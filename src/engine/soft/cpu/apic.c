/*
 * The local APIC (SDM, Advanced Programmable Interrupt Controller).
 *
 * Everything here runs on the vCPU's own thread, except apic_post and apic_matches. Other threads leave
 * messages in a lock-free inbox: one bit per vector and trigger mode, set with atomic OR, exactly what IRR
 * would do with several messages of one vector. The vCPU empties it in apic_collect, before it looks for an
 * interrupt to take.
 *
 * The timer counts TSC ticks (time.h), never wall-clock time: an expiry is a tick number, and the machine's
 * timer is only an alarm clock that makes the vCPU look. Guests move deadlines all the time, mostly later; so
 * an alarm that would come too early is left standing, found early when it comes, and set again then.
 */
#include "engine/soft/cpu/apic_state.h"
#include "engine/soft/cpu/hot.h"
#include "engine/soft/cpu/time.h"

#define APIC_VERSION 0x00050014u /* integrated APIC, six local vectors, no suppression of EOI broadcasts */

#define BASE_BSP     (1u << 8)
#define BASE_EXTD    (1u << 10)
#define BASE_EN      (1u << 11)
#define BASE_DEFAULT 0xfee00000u

#define SVR_ENABLED (1u << 8)

#define LVT_MASKED      (1u << 16)
#define LVT_MODE(lvt)   ((lvt) >> 8 & 7u)
#define MODE_FIXED      0u
#define MODE_LOWEST     1u
#define MODE_SMI        2u
#define MODE_NMI        4u
#define MODE_INIT       5u
#define MODE_SIPI       6u
#define MODE_EXTINT     7u
#define TIMER_MODE(lvt) ((lvt) >> 17 & 3u)
#define TIMER_ONE_SHOT  0u
#define TIMER_PERIODIC  1u
#define TIMER_DEADLINE  2u

#define ESR_SEND_ILLEGAL    (1u << 5)
#define ESR_RECEIVE_ILLEGAL (1u << 6)
#define ESR_REGISTER        (1u << 7)

/* Register numbers: the MMIO offset / 16, which is the x2APIC MSR number - 800H. */
enum {
	R_ID = 0x02,
	R_VERSION = 0x03,
	R_TPR = 0x08,
	R_APR = 0x09,
	R_PPR = 0x0a,
	R_EOI = 0x0b,
	R_RRD = 0x0c,
	R_LDR = 0x0d,
	R_DFR = 0x0e,
	R_SVR = 0x0f,
	R_ISR = 0x10,
	R_TMR = 0x18,
	R_IRR = 0x20,
	R_ESR = 0x28,
	R_ICR_LOW = 0x30,
	R_ICR_HIGH = 0x31,
	R_LVT_TIMER = 0x32,
	R_LVT_ERROR = 0x37,
	R_TMICT = 0x38,
	R_TMCCT = 0x39,
	R_TDCR = 0x3e,
	R_SELF_IPI = 0x3f,
};

/* Bits that software can write (SDM, Local Vector Table). */
static const uint32_t lvt_writable[LVT_COUNT] = {
    [LVT_TIMER] = 0x000700ff, [LVT_THERMAL] = 0x000107ff, [LVT_PERFORMANCE] = 0x000107ff,
    [LVT_LINT0] = 0x0001a7ff, [LVT_LINT1] = 0x0001a7ff,   [LVT_ERROR] = 0x000100ff,
};

static void set_bit(uint32_t *words, unsigned bit)
{
	words[bit / 32] |= 1u << bit % 32;
}

static void clear_bit(uint32_t *words, unsigned bit)
{
	words[bit / 32] &= ~(1u << bit % 32);
}

static bool test_bit(const uint32_t *words, unsigned bit)
{
	return words[bit / 32] >> bit % 32 & 1;
}

static int highest_bit(const uint32_t *words)
{
	for (int i = 7; i >= 0; i--)
		if (words[i])
			return i * 32 + 31 - __builtin_clz(words[i]);
	return -1;
}

/* ---- accepting interrupts ---- */

static bool software_enabled(const struct apic *apic)
{
	return apic->enabled && apic->svr & SVR_ENABLED;
}

static uint32_t processor_priority(const struct apic *apic)
{
	int in_service = highest_bit(apic->isr);
	uint32_t class = in_service < 0 ? 0 : (uint32_t)in_service & 0xf0;

	/* SDM, Task and Processor Priorities */
	return (apic->tpr & 0xf0) >= class ? apic->tpr : class;
}

static void accept_fixed(struct cpu *cpu, unsigned vector, bool level);

static void report_error(struct cpu *cpu, uint32_t bit)
{
	struct apic *apic = cpu->apic;
	uint32_t lvt = apic->lvt[LVT_ERROR];

	if (apic->esr & bit)
		return;
	apic->esr |= bit;
	if (!(lvt & LVT_MASKED) && (lvt & 0xff) >= 16)
		accept_fixed(cpu, lvt & 0xff, false);
}

static void accept_fixed(struct cpu *cpu, unsigned vector, bool level)
{
	struct apic *apic = cpu->apic;

	if (!software_enabled(apic))
		return;
	if (vector < 16) {
		report_error(cpu, ESR_RECEIVE_ILLEGAL);
		return;
	}
	set_bit(apic->irr, vector);
	if (level)
		set_bit(apic->tmr, vector);
	else
		clear_bit(apic->tmr, vector);
	cpu_poll_soon(cpu);
}

/* A local interrupt source fires: SDM, Local Vector Table. */
static void fire_lvt(struct cpu *cpu, enum lvt which)
{
	uint32_t lvt = cpu->apic->lvt[which];

	if (lvt & LVT_MASKED)
		return;
	if (which == LVT_TIMER || which == LVT_ERROR || LVT_MODE(lvt) == MODE_FIXED)
		accept_fixed(cpu, lvt & 0xff, false);
	else if (LVT_MODE(lvt) == MODE_NMI)
		apic_post(cpu, MODE_NMI, 0, false);
}

/* Does the 8259's INTR, wired to LINT0, reach the core? */
static bool lint0_is_extint(const struct apic *apic)
{
	uint32_t lvt = apic->lvt[LVT_LINT0];

	/* With the APIC globally disabled LINT0 is the plain INTR pin (SDM, Enabling or Disabling the Local
	 * APIC). */
	return !apic->enabled || (!(lvt & LVT_MASKED) && LVT_MODE(lvt) == MODE_EXTINT);
}

static bool extint_pending(const struct cpu *cpu)
{
	return (cpu->extint_line && lint0_is_extint(cpu->apic)) || cpu->apic->extint_message;
}

static int deliverable(const struct apic *apic)
{
	int vector = highest_bit(apic->irr);

	if (vector < 0 || !apic->enabled || ((uint32_t)vector & 0xf0) <= (processor_priority(apic) & 0xf0))
		return -1;
	return vector;
}

int apic_pending_vector(struct cpu *cpu)
{
	if (extint_pending(cpu))
		return 256;
	return deliverable(cpu->apic);
}

int apic_acknowledge(struct cpu *cpu)
{
	struct apic *apic = cpu->apic;
	int vector;

	if (extint_pending(cpu)) {
		apic->extint_message = false;
		vector = cpu_host_interrupt_acknowledge(cpu);
		if (vector >= 0)
			return vector;
	}
	vector = deliverable(apic);
	if (vector >= 0) {
		clear_bit(apic->irr, (unsigned)vector);
		set_bit(apic->isr, (unsigned)vector);
	}
	return vector;
}

/* SDM, Signaling Interrupt Servicing Completion */
static void end_of_interrupt(struct cpu *cpu)
{
	struct apic *apic = cpu->apic;
	int vector = highest_bit(apic->isr);

	if (vector < 0)
		return;
	clear_bit(apic->isr, (unsigned)vector);
	if (test_bit(apic->tmr, (unsigned)vector))
		cpu_host_eoi(cpu, (uint8_t)vector);
	if (deliverable(apic) >= 0)
		cpu_poll_soon(cpu);
}

static void set_tpr(struct cpu *cpu, uint32_t value)
{
	cpu->apic->tpr = value & 0xff;
	if (deliverable(cpu->apic) >= 0)
		cpu_poll_soon(cpu);
}

uint64_t apic_cr8(const struct cpu *cpu)
{
	return cpu->apic->tpr >> 4;
}

void apic_set_cr8(struct cpu *cpu, uint64_t value)
{
	set_tpr(cpu, (uint32_t)(value & 0xf) << 4);
}

/* ---- messages from other threads ---- */

void apic_post(struct cpu *cpu, uint8_t delivery_mode, uint8_t vector, bool level)
{
	struct apic *apic = cpu->apic;
	uint32_t async;

	switch (delivery_mode) {
	case MODE_FIXED:
	case MODE_LOWEST:
		__atomic_fetch_or(level ? &apic->inbox_level[vector / 32] : &apic->inbox_edge[vector / 32],
		                  1u << vector % 32, __ATOMIC_RELAXED);
		__atomic_store_n(&apic->inbox_any, 1, __ATOMIC_RELEASE);
		async = ASYNC_APIC;
		break;
	case MODE_EXTINT:
		__atomic_store_n(&apic->inbox_extint, 1, __ATOMIC_RELAXED);
		__atomic_store_n(&apic->inbox_any, 1, __ATOMIC_RELEASE);
		async = ASYNC_APIC;
		break;
	case MODE_NMI:
		async = ASYNC_NMI;
		break;
	case MODE_INIT:
		async = ASYNC_INIT;
		break;
	case MODE_SIPI:
		__atomic_store_n(&cpu->sipi_vector, vector, __ATOMIC_RELAXED);
		async = ASYNC_SIPI;
		break;
	default: /* SMI: there is no system-management mode */
		return;
	}
	__atomic_fetch_or(&cpu->pending_async, async, __ATOMIC_RELEASE);
	__atomic_store_n(&cpu->kick, 1, __ATOMIC_RELEASE);
}

/* SDM, Determining IPI Destination; Logical Destination Mode in x2APIC Mode */
bool apic_matches(const struct cpu *cpu, uint32_t destination, bool logical, bool x2apic_format)
{
	const struct apic *apic = cpu->apic;
	uint32_t id = __atomic_load_n(&apic->id, __ATOMIC_RELAXED);
	uint32_t ldr = __atomic_load_n(&apic->ldr, __ATOMIC_RELAXED);
	uint32_t dfr = __atomic_load_n(&apic->dfr, __ATOMIC_RELAXED);

	if (!__atomic_load_n(&apic->enabled, __ATOMIC_RELAXED))
		return false;
	if (destination == (x2apic_format ? 0xffffffffu : 0xffu))
		return true;
	if (!logical)
		return destination == id;
	if (__atomic_load_n(&apic->x2apic, __ATOMIC_RELAXED))
		return destination >> 16 == ldr >> 16 && destination & ldr & 0xffff;
	destination &= 0xff;
	ldr >>= 24;
	if (dfr >> 28 == 0xf)
		return destination & ldr;
	return destination >> 4 == ldr >> 4 && destination & ldr & 0xf;
}

static void collect_inbox(struct cpu *cpu)
{
	struct apic *apic = cpu->apic;

	/* Cleared before the words are read: a message that comes meanwhile is either read now or sets it
	 * again. */
	if (!__atomic_exchange_n(&apic->inbox_any, 0, __ATOMIC_ACQUIRE))
		return;
	for (unsigned word = 0; word < 8; word++) {
		uint32_t edge = 0, level = 0;

		if (__atomic_load_n(&apic->inbox_edge[word], __ATOMIC_RELAXED))
			edge = __atomic_exchange_n(&apic->inbox_edge[word], 0, __ATOMIC_ACQUIRE);
		if (__atomic_load_n(&apic->inbox_level[word], __ATOMIC_RELAXED))
			level = __atomic_exchange_n(&apic->inbox_level[word], 0, __ATOMIC_ACQUIRE);
		for (; edge; edge &= edge - 1)
			accept_fixed(cpu, word * 32 + (unsigned)__builtin_ctz(edge), false);
		for (; level; level &= level - 1)
			accept_fixed(cpu, word * 32 + (unsigned)__builtin_ctz(level), true);
	}
	if (__atomic_exchange_n(&apic->inbox_extint, 0, __ATOMIC_ACQUIRE) && software_enabled(apic))
		apic->extint_message = true;
}

/* ---- the timer ---- */

/* TSC ticks for that many counts: the divide configuration register applied to the crystal clock. */
static uint64_t ticks_of_counts(const struct apic *apic, uint32_t counts)
{
	unsigned code = (apic->divide & 3) | (apic->divide >> 1 & 4);
	uint64_t ticks = (((uint64_t)counts * apic->clock_ticks) << ((code + 1) & 7)) / apic->clock_parts;

	return ticks ? ticks : 1;
}

/* The counts that pass in that many TSC ticks. */
static uint64_t counts_of_ticks(const struct apic *apic, uint64_t ticks)
{
	unsigned code = (apic->divide & 3) | (apic->divide >> 1 & 4);
	uint64_t per_part = (uint64_t)apic->clock_ticks << ((code + 1) & 7);

	return ticks / per_part * apic->clock_parts + ticks % per_part * apic->clock_parts / per_part;
}

static bool deadline_mode(const struct apic *apic)
{
	return TIMER_MODE(apic->lvt[LVT_TIMER]) == TIMER_DEADLINE;
}

/* Makes the machine wake us no later than the timer expires. */
static void arm(struct cpu *cpu)
{
	struct apic *apic = cpu->apic;
	uint64_t now, left;

	if (apic->expiry_tick == TICK_NEVER || apic->armed_tick <= apic->expiry_tick)
		return;
	now = time_ticks(cpu);
	if (apic->expiry_tick <= now) {
		cpu_poll_soon(cpu); /* apic_collect finds it expired */
		return;
	}
	left = apic->expiry_tick - now;
	apic->armed_tick = apic->expiry_tick;
	/* The machine's clock may be a little faster than ours; under the deterministic clock they are one.
	 */
	apic->armed_slack = 0;
	if (cpu->clock == ENGINE_CLOCK_REAL)
		apic->armed_slack = left / 1024 + (cpu->model->tsc_hz >> 18);
	cpu_host_timer_arm(cpu, time_ticks_to_ns(cpu, apic->expiry_tick));
}

static void timer_expired(struct cpu *cpu, uint64_t now)
{
	struct apic *apic = cpu->apic;

	if (TIMER_MODE(apic->lvt[LVT_TIMER]) == TIMER_PERIODIC) {
		uint64_t period = ticks_of_counts(apic, apic->initial_count);

		/* Periods that passed while the host let us sleep are one interrupt. */
		apic->start_tick = now - (now - apic->expiry_tick) % period;
		apic->expiry_tick = apic->start_tick + period;
	} else {
		apic->expiry_tick = TICK_NEVER;
		cpu->msr.tsc_deadline = 0;
	}
	fire_lvt(cpu, LVT_TIMER);
}

static void start_count(struct cpu *cpu)
{
	struct apic *apic = cpu->apic;

	apic->expiry_tick = TICK_NEVER;
	if (deadline_mode(apic) || !apic->initial_count)
		return;
	apic->start_tick = time_ticks(cpu);
	apic->expiry_tick = apic->start_tick + ticks_of_counts(apic, apic->initial_count);
	arm(cpu);
}

static void set_deadline(struct cpu *cpu, uint64_t tsc)
{
	struct apic *apic = cpu->apic;
	uint64_t ticks = time_ticks(cpu), now = ticks + cpu->msr.tsc_adjust;

	cpu->msr.tsc_deadline = tsc;
	apic->expiry_tick = TICK_NEVER;
	if (!tsc)
		return;
	if (tsc <= now)
		apic->expiry_tick = ticks;
	else if (tsc - now < INT64_MAX - ticks)
		apic->expiry_tick = ticks + (tsc - now);
	else
		return; /* centuries away */
	arm(cpu);
}

void apic_tsc_changed(struct cpu *cpu)
{
	if (deadline_mode(cpu->apic) && cpu->msr.tsc_deadline)
		set_deadline(cpu, cpu->msr.tsc_deadline);
}

static uint32_t current_count(const struct cpu *cpu)
{
	const struct apic *apic = cpu->apic;
	uint64_t now, left;

	if (apic->expiry_tick == TICK_NEVER || deadline_mode(apic))
		return 0;
	now = time_ticks(cpu);
	if (now < apic->expiry_tick) {
		left = counts_of_ticks(apic, apic->expiry_tick - now);
		return left < apic->initial_count ? (uint32_t)left : apic->initial_count;
	}
	if (TIMER_MODE(apic->lvt[LVT_TIMER]) != TIMER_PERIODIC)
		return 0;
	left = counts_of_ticks(apic, now - apic->expiry_tick) % apic->initial_count;
	return apic->initial_count - (uint32_t)left;
}

void apic_collect(struct cpu *cpu)
{
	struct apic *apic = cpu->apic;
	uint64_t now;

	collect_inbox(cpu);
	if (apic->expiry_tick == TICK_NEVER && apic->armed_tick == TICK_NEVER)
		return;
	now = time_ticks(cpu);
	if (apic->armed_tick != TICK_NEVER && now + apic->armed_slack >= apic->armed_tick) {
		/* The alarm has rung, or is about to: either way it no longer counts. */
		apic->armed_tick = TICK_NEVER;
		cpu->apic_deadline_ns = UINT64_MAX;
	}
	if (now >= apic->expiry_tick)
		timer_expired(cpu, now);
	arm(cpu);
}

/* ---- sending ---- */

static void send_ipi(struct cpu *cpu)
{
	struct apic *apic = cpu->apic;
	uint32_t command = apic->icr_low;
	uint8_t mode = command >> 8 & 7, vector = command & 0xff;
	bool logical = command >> 11 & 1;
	unsigned shorthand = command >> 18 & 3;
	uint32_t destination = apic->x2apic ? apic->icr_high : apic->icr_high >> 24;

	if (mode == 3 || mode == MODE_EXTINT || mode == MODE_SMI)
		return;
	/* INIT level de-assert: nothing since the Pentium 4. */
	if (mode == MODE_INIT && command >> 15 & 1 && !(command >> 14 & 1))
		return;
	if (mode <= MODE_LOWEST && vector < 16) {
		report_error(cpu, ESR_SEND_ILLEGAL);
		return;
	}
	if (mode == MODE_FIXED && (shorthand == 1 || (!shorthand && !logical && destination == apic->id))) {
		accept_fixed(cpu, vector, false);
		return;
	}
	fpu_stash(cpu);
	soft_deliver(cpu, destination, logical, apic->x2apic, mode, vector, false, shorthand);
}

/* ---- registers ---- */

/* False where there is no such register in the present mode, or it cannot be read. */
static bool read_register(struct cpu *cpu, unsigned number, uint32_t *value)
{
	struct apic *apic = cpu->apic;

	switch (number) {
	case R_ID:
		*value = apic->x2apic ? apic->id : apic->id << 24;
		return true;
	case R_VERSION:
		*value = APIC_VERSION;
		return true;
	case R_TPR:
		*value = apic->tpr;
		return true;
	case R_APR:
		*value = 0;
		return !apic->x2apic;
	case R_PPR:
		*value = processor_priority(apic);
		return true;
	case R_EOI:
		*value = 0;
		return !apic->x2apic;
	case R_RRD:
		*value = 0;
		return !apic->x2apic;
	case R_LDR:
		*value = apic->ldr;
		return true;
	case R_DFR:
		*value = apic->dfr;
		return !apic->x2apic;
	case R_SVR:
		*value = apic->svr;
		return true;
	case R_ISR ... R_ISR + 7:
		*value = apic->isr[number - R_ISR];
		return true;
	case R_TMR ... R_TMR + 7:
		*value = apic->tmr[number - R_TMR];
		return true;
	case R_IRR ... R_IRR + 7:
		collect_inbox(cpu);
		*value = apic->irr[number - R_IRR];
		return true;
	case R_ESR:
		*value = apic->esr_latched;
		return true;
	case R_ICR_LOW:
		*value = apic->icr_low;
		return true;
	case R_ICR_HIGH:
		*value = apic->icr_high;
		return !apic->x2apic;
	case R_LVT_TIMER ... R_LVT_ERROR:
		*value = apic->lvt[number - R_LVT_TIMER];
		return true;
	case R_TMICT:
		*value = apic->initial_count;
		return true;
	case R_TMCCT:
		*value = current_count(cpu);
		return true;
	case R_TDCR:
		*value = apic->divide;
		return true;
	default:
		return false;
	}
}

static void write_svr(struct cpu *cpu, uint32_t value)
{
	struct apic *apic = cpu->apic;

	apic->svr = value & 0x1ff;
	/* SDM, Local APIC State After It Has Been Software Disabled */
	if (!(value & SVR_ENABLED))
		for (unsigned i = 0; i < LVT_COUNT; i++)
			apic->lvt[i] |= LVT_MASKED;
}

static void write_lvt(struct cpu *cpu, enum lvt which, uint32_t value)
{
	struct apic *apic = cpu->apic;
	uint32_t old = apic->lvt[which];

	value &= lvt_writable[which];
	if (which == LVT_TIMER && !apic->deadline_offered)
		value &= ~(1u << 18);
	if (!(apic->svr & SVR_ENABLED))
		value |= LVT_MASKED;
	apic->lvt[which] = value;
	if (which == LVT_LINT0)
		cpu_poll_soon(cpu);
	if (which == LVT_TIMER && TIMER_MODE(old) != TIMER_MODE(value)) {
		/* SDM, TSC-Deadline Mode: a change to or from that mode disarms the timer. */
		if (TIMER_MODE(old) == TIMER_DEADLINE || TIMER_MODE(value) == TIMER_DEADLINE) {
			cpu->msr.tsc_deadline = 0;
			apic->initial_count = 0;
			apic->expiry_tick = TICK_NEVER;
		}
	}
}

/* False where there is no such register in the present mode, or it cannot be written. */
static bool write_register(struct cpu *cpu, unsigned number, uint32_t value)
{
	struct apic *apic = cpu->apic;

	switch (number) {
	case R_TPR:
		set_tpr(cpu, value);
		return true;
	case R_EOI:
		end_of_interrupt(cpu);
		return true;
	case R_LDR:
		if (apic->x2apic)
			return false;
		__atomic_store_n(&apic->ldr, value & 0xff000000u, __ATOMIC_RELAXED);
		return true;
	case R_DFR:
		if (apic->x2apic)
			return false;
		__atomic_store_n(&apic->dfr, value | 0x0fffffffu, __ATOMIC_RELAXED);
		return true;
	case R_SVR:
		write_svr(cpu, value);
		return true;
	case R_ESR:
		apic->esr_latched = apic->esr;
		apic->esr = 0;
		return true;
	case R_ICR_LOW:
		apic->icr_low = value & 0x000ccfffu;
		send_ipi(cpu);
		return true;
	case R_ICR_HIGH:
		if (apic->x2apic)
			return false;
		apic->icr_high = value & 0xff000000u;
		return true;
	case R_LVT_TIMER ... R_LVT_ERROR:
		write_lvt(cpu, number - R_LVT_TIMER, value);
		return true;
	case R_TMICT:
		if (deadline_mode(apic))
			return true;
		apic->initial_count = value;
		start_count(cpu);
		return true;
	case R_TDCR: {
		/* The rest of a running count goes on at the new rate. */
		uint32_t left = current_count(cpu);

		apic->divide = value & 0xb;
		if (left) {
			apic->expiry_tick = time_ticks(cpu) + ticks_of_counts(apic, left);
			arm(cpu);
		}
		return true;
	}
	case R_SELF_IPI:
		if (!apic->x2apic)
			return false;
		accept_fixed(cpu, value & 0xff, false);
		return true;
	default:
		return false;
	}
}

/* ---- xAPIC: memory-mapped ---- */

bool apic_owns(const struct cpu *cpu, gpa_t gpa)
{
	const struct apic *apic = cpu->apic;

	return apic->enabled && !apic->x2apic && (gpa.v & PAGE_MASK) == (cpu->msr.apic_base & PAGE_MASK);
}

/*
 * SDM, Local APIC Block Diagram: registers are 32 bits wide on 128-bit boundaries, to be accessed as such.
 * What else a guest may try must only do no harm.
 */
uint64_t apic_mmio_read(struct cpu *cpu, gpa_t gpa, unsigned size)
{
	unsigned offset = gpa.v & 0xfff;
	uint32_t value = 0;

	if ((offset & 0xf) >= 4)
		return 0;
	if (!read_register(cpu, offset >> 4, &value)) {
		report_error(cpu, ESR_REGISTER);
		return 0;
	}
	value >>= (offset & 3) * 8;
	return size < 4 ? value & ((1u << size * 8) - 1) : value;
}

void apic_mmio_write(struct cpu *cpu, gpa_t gpa, unsigned size, uint64_t value)
{
	unsigned offset = gpa.v & 0xfff;

	if (offset & 0xf || size < 4)
		return;
	if (offset >> 4 == R_ID) /* writable on old processors only */
		return;
	if (!write_register(cpu, offset >> 4, (uint32_t)value))
		report_error(cpu, ESR_REGISTER);
}

/* ---- x2APIC: MSRs ---- */

/* Bits of each register's 64 that a write must leave clear (SDM, x2APIC Register Address Space). */
static uint64_t x2apic_reserved(unsigned number)
{
	switch (number) {
	case R_TPR:
		return ~0xffull;
	case R_EOI:
		return ~0ull;
	case R_SVR:
		return ~0x1ffull;
	case R_ESR:
		return ~0ull;
	case R_ICR_LOW:
		return 0xfff32000ull; /* 31:20, 17:16, 13 */
	case R_LVT_TIMER ... R_LVT_ERROR:
		/* Delivery status and remote IRR are read-only, not reserved. */
		return ~(uint64_t)(lvt_writable[number - R_LVT_TIMER] | 0x5000);
	case R_TMICT:
		return ~0xffffffffull;
	case R_TDCR:
		return ~0xbull;
	case R_SELF_IPI:
		return ~0xffull;
	default:
		return 0;
	}
}

static bool x2apic_read(struct cpu *cpu, unsigned number, uint64_t *value)
{
	uint32_t low;

	if (!cpu->apic->x2apic || !read_register(cpu, number, &low))
		return false;
	*value = low;
	if (number == R_ICR_LOW)
		*value |= (uint64_t)cpu->apic->icr_high << 32;
	return true;
}

static bool x2apic_write(struct cpu *cpu, unsigned number, uint64_t value)
{
	if (!cpu->apic->x2apic || number == R_LDR || value & x2apic_reserved(number))
		return false;
	if (number == R_ICR_LOW)
		cpu->apic->icr_high = (uint32_t)(value >> 32);
	return write_register(cpu, number, (uint32_t)value);
}

/* ---- IA32_APIC_BASE ---- */

static void take_mode(struct cpu *cpu)
{
	struct apic *apic = cpu->apic;
	uint32_t x2apic = (cpu->msr.apic_base & (BASE_EN | BASE_EXTD)) == (BASE_EN | BASE_EXTD);

	__atomic_store_n(&apic->enabled, !!(cpu->msr.apic_base & BASE_EN), __ATOMIC_RELAXED);
	if (x2apic)
		/* SDM, Deriving Logical x2APIC ID from the Local x2APIC ID */
		__atomic_store_n(&apic->ldr, (cpu->index >> 4) << 16 | 1u << (cpu->index & 0xf),
		                 __ATOMIC_RELAXED);
	else if (apic->x2apic)
		__atomic_store_n(&apic->ldr, 0, __ATOMIC_RELAXED);
	__atomic_store_n(&apic->x2apic, x2apic, __ATOMIC_RELAXED);
}

/* SDM, x2APIC State Transitions */
static bool write_base(struct cpu *cpu, uint64_t value)
{
	uint64_t old = cpu->msr.apic_base;
	uint64_t address = ((1ull << cpu->model->physical_address_bits) - 1) & PAGE_MASK;
	uint64_t allowed = address | BASE_EN | BASE_BSP | (cpu->apic->x2apic_offered ? BASE_EXTD : 0);
	bool was_x2apic = old & BASE_EXTD, wants_x2apic = value & BASE_EXTD;

	if (value & ~allowed)
		return false;
	if (wants_x2apic && !(value & BASE_EN))
		return false;
	if (was_x2apic && !wants_x2apic && value & BASE_EN)
		return false;
	if (!(old & BASE_EN) && wants_x2apic)
		return false;
	cpu->msr.apic_base = value;
	if (old == value)
		return true;
	if (!(value & BASE_EN))
		apic_reset(cpu);
	else
		take_mode(cpu);
	/* RAM under the page appears or vanishes. */
	if ((old ^ value) & ~(uint64_t)BASE_BSP)
		tlb_flush_all(cpu);
	return true;
}

bool apic_read_msr(struct cpu *cpu, uint32_t msr, uint64_t *value)
{
	switch (msr) {
	case 0x1b:
		*value = cpu->msr.apic_base;
		return true;
	case 0x6e0:
		if (!cpu->apic->deadline_offered)
			return false;
		apic_collect(cpu); /* a deadline that has passed reads as 0 */
		*value = deadline_mode(cpu->apic) ? cpu->msr.tsc_deadline : 0;
		return true;
	case 0x800 ... 0x8ff:
		return x2apic_read(cpu, msr - 0x800, value);
	default:
		return false;
	}
}

bool apic_write_msr(struct cpu *cpu, uint32_t msr, uint64_t value)
{
	switch (msr) {
	case 0x1b:
		return write_base(cpu, value);
	case 0x6e0:
		if (!cpu->apic->deadline_offered)
			return false;
		if (deadline_mode(cpu->apic))
			set_deadline(cpu, value);
		return true;
	case 0x800 ... 0x8ff:
		return x2apic_write(cpu, msr - 0x800, value);
	default:
		return false;
	}
}

/*
 * SDM, Local APIC State After Power-Up or Reset; after INIT the same but for the APIC ID and IA32_APIC_BASE,
 * which are not touched here (a fresh one gets the default). One liberty: the boot processor's LINT0 is left
 * as firmware leaves it for virtual wire mode, ExtINT and unmasked, since a kernel that is booted directly
 * gets no firmware.
 */
void apic_reset(struct cpu *cpu)
{
	struct apic *apic = cpu->apic;

	if (!(cpu->msr.apic_base & PAGE_MASK))
		cpu->msr.apic_base = BASE_DEFAULT | BASE_EN | (cpu->index ? 0 : BASE_BSP);
	for (unsigned i = 0; i < 8; i++) {
		apic->irr[i] = apic->isr[i] = apic->tmr[i] = 0;
		__atomic_store_n(&apic->inbox_edge[i], 0, __ATOMIC_RELAXED);
		__atomic_store_n(&apic->inbox_level[i], 0, __ATOMIC_RELAXED);
	}
	__atomic_store_n(&apic->inbox_extint, 0, __ATOMIC_RELAXED);
	apic->extint_message = false;
	__atomic_store_n(&apic->id, cpu->index, __ATOMIC_RELAXED);
	__atomic_store_n(&apic->ldr, 0, __ATOMIC_RELAXED);
	__atomic_store_n(&apic->dfr, 0xffffffffu, __ATOMIC_RELAXED);
	apic->tpr = apic->esr = apic->esr_latched = apic->icr_low = apic->icr_high = 0;
	apic->svr = 0xff;
	for (unsigned i = 0; i < LVT_COUNT; i++)
		apic->lvt[i] = LVT_MASKED;
	if (cpu->msr.apic_base & BASE_BSP)
		apic->lvt[LVT_LINT0] = MODE_EXTINT << 8;
	apic->divide = apic->initial_count = 0;
	apic->start_tick = 0;
	apic->expiry_tick = apic->armed_tick = TICK_NEVER;
	apic->armed_slack = 0;
	cpu->msr.tsc_deadline = 0;
	cpu->apic_deadline_ns = UINT64_MAX;
	take_mode(cpu);
}

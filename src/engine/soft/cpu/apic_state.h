/* The local APIC's insides, for apic.c and apic_create.c. */
#ifndef NESTOR_CPU_APIC_STATE_H
#define NESTOR_CPU_APIC_STATE_H

#include "engine/soft/cpu/apic.h"

/* The local vector table, in the order of its registers. */
enum lvt { LVT_TIMER, LVT_THERMAL, LVT_PERFORMANCE, LVT_LINT0, LVT_LINT1, LVT_ERROR, LVT_COUNT };

#define TICK_NEVER UINT64_MAX

struct apic {
	/* ---- other threads: atomic access only ---- */
	uint32_t inbox_edge[8]; /* vectors that came since the last apic_collect, by trigger mode */
	uint32_t inbox_level[8];
	uint32_t inbox_extint; /* a message of delivery mode ExtINT came */
	uint32_t inbox_any;    /* something is in the above; set last, cleared first */
	/* What apic_matches reads; written by the vCPU's thread. */
	uint32_t id, ldr, dfr;
	uint32_t x2apic;  /* 1 in x2APIC mode */
	uint32_t enabled; /* IA32_APIC_BASE.EN */

	/* ---- the vCPU's thread ---- */
	uint32_t irr[8] __attribute__((aligned(64))), isr[8], tmr[8];
	uint32_t tpr, svr, esr,
	    esr_latched; /* esr collects; a write of the register moves it to esr_latched */
	uint32_t icr_low, icr_high;
	uint32_t lvt[LVT_COUNT];
	bool extint_message; /* an ExtINT message waits for its acknowledge */

	uint32_t divide; /* divide configuration register */
	uint32_t initial_count;
	uint64_t start_tick;  /* when the running count started (one-shot and periodic) */
	uint64_t expiry_tick; /* when the count reaches zero; TICK_NEVER: not running */
	uint64_t armed_tick;  /* what cpu_host_timer_arm was last told; TICK_NEVER: nothing */
	uint64_t armed_slack; /* how much earlier than armed_tick by our clock the machine's timer may fire */

	bool x2apic_offered, deadline_offered; /* by CPUID. Constant */
	/* TSC ticks per tick of the core crystal clock, as a fraction of small numbers (CPUID.15H). Constant */
	uint32_t clock_ticks, clock_parts;
};

#endif

/*
 * A debugger from outside (engine_ops.vcpu_set_debug): breakpoints, watchpoints and steps that the guest cannot find.
 *
 * Breakpoints change no guest memory. Translated blocks end in front of every byte whose offset within its page is
 * that of some breakpoint, and what begins at such an offset is never linked to nor entered into a cache of jumps: so
 * every arrival at a breakpoint passes the dispatcher, which compares the linear address. That needs no knowledge of
 * which address space or mode a page's code is used in, and what goes slower is one instruction in 4096.
 *
 * Watched pages are never entered into the TLB, as those that the guest's own DR0-DR3 watch; accesses to them are
 * done carefully, one instruction at a time, so that the vCPU stops right behind the one that hits.
 *
 * A step is a translated block of one instruction. What abandons an instruction (a fault, a VM entry or exit) counts
 * as one: the vCPU then stops at the handler's, the guest's or the hypervisor's next instruction. External interrupts
 * are held back meanwhile, or every step would end in the timer's handler. Where a VM exit goes to a level at which
 * the vCPU does not stop, and that comes back to the same instruction (an EPT violation), it is done over.
 */
#ifndef NESTOR_CPU_DEBUGGER_H
#define NESTOR_CPU_DEBUGGER_H

#include "engine/soft/cpu/cpu.h"

struct debugger {
	struct engine_debug wish;
	unsigned watch_count;           /* of wish.point: those that are not for execution */
	bool pass;                      /* the breakpoint at the present address does not count */
	bool stepped;                   /* since the last vcpu_set_debug: an instruction was executed or abandoned */
	uint64_t step_from;             /* linear address of the instruction that is stepped over */
	bool left;                      /* … and since then the vCPU was at a level where it does not stop */
	bool hit;                       /* a watched address was accessed: `stop` says which */
	struct engine_debug_stop stop;  /* the last one */
	uint64_t cut[PAGE_SIZE / 64];   /* a bit per offset where blocks end; some may belong to breakpoints of the past */
	unsigned cut_count;
};

/* Do blocks end in front of this offset in a page? */
static inline bool debugger_cuts(const struct cpu *cpu, unsigned offset)
{
	return __builtin_expect(cpu->debugger != NULL, 0) && cpu->debugger->cut[offset >> 6] >> (offset & 63) & 1;
}

static inline bool debugger_watches(const struct cpu *cpu)
{
	return __builtin_expect(cpu->debugger != NULL, 0) && cpu->debugger->watch_count;
}

/* Is the vCPU at a level (root or non-root operation) where it may stop? */
static inline bool debugger_at_level(const struct cpu *cpu)
{
	return cpu->debugger->wish.levels & (cpu->virt ? ENGINE_LEVEL_NONROOT : ENGINE_LEVEL_ROOT);
}

/* The next instruction is the one to be stepped over. */
static inline bool debugger_is_stepping(const struct cpu *cpu)
{
	return __builtin_expect(cpu->debugger != NULL, 0) && cpu->debugger->wish.step && !cpu->debugger->stepped &&
	       debugger_at_level(cpu);
}

/* Between two instructions, of which the next is at `linear`: must the vCPU stop? Fills debugger->stop. */
bool debugger_stops(struct cpu *cpu, uint64_t linear);

/* 0: no watched address in gla's page; 1: in the page; 2: in [gla, gla + size). */
unsigned debugger_watched(const struct cpu *cpu, uint64_t gla, unsigned size);
/* An access has been done: notes a hit. */
void debugger_note_access(struct cpu *cpu, uint64_t gla, unsigned size, enum mem_access access);

#endif

/*
 * Translated code and the stores of other vCPUs and of devices.
 *
 * Every vCPU has a code cache and a TLB of its own, so that none ever waits for a lock of another's to find, chain or
 * drop a block. What they share are two words per guest-physical page, one bit for each vCPU:
 *
 *	holders   it has translated code of the page, or is about to
 *	writers   it may have a TLB entry through which it stores into the page directly
 *
 * A vCPU that wants a write entry sets its bit in `writers` and then looks at `holders`; where there is any, it gets
 * no entry and its stores take the slow path, which tells the holders what changed. A vCPU that translates from a
 * page sets its bit in `holders` and then looks at `writers`; each one there is asked to give its entry up, and
 * waited for, before the first byte is read. Whichever comes first, one sees the other.
 *
 * Requests lie in the other's inbox and are served at its next look at the kick word, which precedes the delivery
 * of an interrupt, so that a guest that synchronizes as the SDM demands (Handling Self- and Cross-Modifying Code)
 * never runs what was there before. A vCPU that sleeps cannot answer: who waits for it serves its inbox in its place
 * (`custody`). Whoever waits counts as asleep, so that no circle of vCPUs that wait for one another can form.
 */
#ifndef NESTOR_BT_COHERENCE_H
#define NESTOR_BT_COHERENCE_H

#include <stddef.h>

#include "engine/soft/cpu/cpu.h"

#define COHERENCE_CPUS    64
#define COHERENCE_CHANGES 4096 /* pages: a device may store a large file at once */
#define COHERENCE_REVOKES 128
#define COHERENCE_SAID    1024 /* pages: one string instruction may store into many */

/* Of a VM. */
struct coherence {
	unsigned count; /* vCPUs */
	uint32_t alone; /* number + 1 of the one that executes while all others stand still, 0: none; atomic access */
	uint64_t spinning; /* spin.c: a bit for each vCPU that sleeps, or is about to, in a loop of PAUSEs; atomic access */
	struct cpu *cpu[COHERENCE_CPUS];
	uint64_t page_count;
	uint64_t *holders, *writers; /* by guest-physical page; atomic access. writers: only where there are several vCPUs */
};

/* 64-byte granules of a page whose bytes have changed. */
struct code_change {
	uint64_t page, granules;
};

/* Who may touch a vCPU's TLB. */
enum custody { CUSTODY_RUNS, CUSTODY_SLEEPS, CUSTODY_SERVED };

/* Of a vCPU. */
struct code_inbox {
	uint32_t lock;
	uint32_t custody; /* enum custody; atomic access */

	/* ---- under lock ---- */
	uint32_t change_count, revoke_count;
	bool change_all, revoke_all; /* more than fit */
	unsigned filling;            /* which of the two lists is being filled; the other one is the vCPU's own */
	struct code_change change[2][COHERENCE_CHANGES];
	uint64_t revoke[COHERENCE_REVOKES];
	uint64_t revokes_asked;

	uint64_t revokes_done; /* atomic access: of revokes_asked, how many were served */

	/* ---- the vCPU's own ---- */
	struct code_change said[COHERENCE_SAID]; /* changes told to others before the store itself: they are told again after it */
	uint32_t said_count;
	bool said_all;
};

/* Cold. Pages from page_count on hold no code that is kept. Return NULL, or a negative errno, with error_text(). */
struct coherence *coherence_create(uint64_t page_count, unsigned cpu_count);
void coherence_destroy(struct coherence *coherence);
int coherence_add(struct coherence *coherence, struct cpu *cpu);
void coherence_remove(struct cpu *cpu);

/* Before bytes of the page are read for translation: nobody stores into it any more without telling. May wait. */
void coherence_hold(struct cpu *cpu, uint64_t page);
/* This vCPU has no translation of the page any more. */
void coherence_release(struct cpu *cpu, uint64_t page);

/* This vCPU may get a write entry for the page. Before it looks at the page's code map. */
static inline void coherence_will_write(struct cpu *cpu, uint64_t page)
{
	uint64_t *writers = &cpu->coherence->writers[page], bit = 1ull << cpu->index;

	if (!(__atomic_load_n(writers, __ATOMIC_RELAXED) & bit))
		__atomic_fetch_or(writers, bit, __ATOMIC_SEQ_CST);
	else
		__atomic_thread_fence(__ATOMIC_SEQ_CST);
}

/* Granules of the page that any vCPU has translated. */
uint64_t coherence_code_map(struct cpu *cpu, uint64_t page);

/* The vCPU is about to store into these granules: tells the other holders. */
void coherence_tell(struct cpu *cpu, uint64_t page, uint64_t granules);
/* The granules have changed: tells every holder. [any thread] */
void coherence_tell_all(struct coherence *coherence, uint64_t page, uint64_t granules);
/* A device has stored into [gpa, gpa + size). [any thread] Cold. */
void coherence_told(struct coherence *coherence, uint64_t gpa, uint64_t size);

/*
 * Serves what others wait for. On its thread, or by who has its custody. (All of the inbox: bt_serve_others, at an
 * instruction boundary.)
 */
void coherence_serve_revokes(struct cpu *cpu);

/*
 * Around what only looks like one access when nobody else runs: a locked instruction whose operand lies in two pages
 * or goes through C. coherence_end_alone does nothing where the vCPU is not alone. At an instruction boundary, or in C
 * code that holds no pointer into the TLB. Only where there are several vCPUs.
 */
void coherence_be_alone(struct cpu *cpu);
void coherence_end_alone(struct cpu *cpu);

/* Around waiting and outside of vcpu_run. On the vCPU's thread. */
void coherence_sleep(struct cpu *cpu);
void coherence_wake(struct cpu *cpu);

#endif

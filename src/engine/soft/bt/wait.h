/* Waiting for an event while the vCPU is not active (HLT, MWAIT, wait-for-SIPI). */
#ifndef NESTOR_BT_WAIT_H
#define NESTOR_BT_WAIT_H

struct cpu;

/* Sleeps until somebody sets cpu->kick. Under the deterministic clock lets virtual time pass instead. */
void bt_wait(struct cpu *cpu);
/* After setting cpu->kick from another thread: wakes the vCPU where it sleeps. */
void bt_wake(struct cpu *cpu);

#endif

/* Waiting for an event while the vCPU is not active (HLT, MWAIT, wait-for-SIPI). */
#ifndef NESTOR_BT_WAIT_H
#define NESTOR_BT_WAIT_H

#include <stdint.h>

struct cpu;

/* Sleeps until somebody sets cpu->kick. Under the deterministic clock lets virtual time pass instead. */
void bt_wait(struct cpu *cpu);
/* Sleeps until that, or for so long. Real clock only. */
void bt_wait_briefly(struct cpu *cpu, uint64_t ns);
/* For something that nobody wakes for. */
void bt_sleep(uint32_t ns);
/* After setting cpu->kick from another thread: wakes the vCPU where it sleeps. */
void bt_wake(struct cpu *cpu);

#endif

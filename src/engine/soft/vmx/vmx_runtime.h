/*
 * The running half of virtual VT-x: VM entry, VM exit and what happens in between, in VMX non-root operation.
 * The other half (VMX instructions, VMCS cache, capabilities, entry rules) calls vmx_enter and vmx_exit_….
 *
 * Nothing here flushes the TLB because of an entry or exit as such: translations are tagged by root or
 * non-root operation, EPTP, VPID and PCID, so a transition selects another context (tlb_select_context).
 */
#ifndef NESTOR_VMX_VMX_RUNTIME_H
#define NESTOR_VMX_VMX_RUNTIME_H

#include <stdbool.h>
#include <stdint.h>

#include "engine/soft/cpu/cpu.h"

struct vmcs;

/* Guest-physical translations that this vCPU used lately, for page walks under EPT (ept.c). */
#define EPT_CACHE_SLOTS 512

struct ept_cache_entry {
	uint64_t tag;    /* l2_gpa of the page, or of the 2 MiB | TAG_* and rights (ept.c) */
	uint64_t l1_gpa; /* likewise */
	uint64_t eptp;   /* the whole EPTP */
};

/* Paging-related register bits with which an address-space tag was last used (entry.c). */
#define PAGING_TAGS 16

struct paging_tag {
	uint64_t eptp;
	uint32_t vpid;
	uint32_t bits; /* 0 where empty */
};

/* Per-vCPU state of non-root operation; a member of struct vmx. Belongs to the vCPU's thread. */
struct vmx_runtime {
	/* The running VMCS's controls, fixed from entry to exit. Secondary ones read 0 where not activated.
	 */
	struct vmcs *vmcs; /* borrowed from the VMCS cache; NULL in root operation */
	uint32_t pin, primary, secondary, entry, exit;
	bool ept_dirty; /* EPTP bit 6: accessed and dirty flags */
	bool mtf_skip;  /* the boundary before the first instruction does not count for MTF */
	bool mtf_now;   /* a pending MTF VM exit was injected */
	bool tpr_exit;  /* TPR virtualization found the TPR below its threshold */
	uint8_t
	    *virtual_apic; /* host address of the virtual-APIC page, NULL without TPR shadow or outside RAM */
	uint64_t timer_end; /* preemption timer: cpu_tsc() >> VMX_TIMER_SHIFT at which it reaches 0 */
	uint64_t tsc_offset, tsc_multiplier; /* multiplier 0: no scaling */
	uint64_t ple_first, ple_last;        /* PAUSE-loop exiting: TSC of the loop's first and last PAUSE */
	uint32_t root_paging;                /* paging bits of root operation when it was left */
	uint32_t guest_paging;               /* paging bits with which non-root operation was entered */
	bool root_nmi_blocked; /* blocking by NMI when root operation was left, for a failed entry */
	struct paging_tag paging_tag[PAGING_TAGS];
	struct ept_cache_entry ept_cache[EPT_CACHE_SLOTS], ept_large_cache[EPT_CACHE_SLOTS];
};

/* TSC ticks per tick of the preemption timer, as a shift: IA32_VMX_MISC[4:0]. */
#define VMX_TIMER_SHIFT 5

/*
 * VM entry from the current VMCS, after the VMX instruction's own checks (CPL, current VMCS, MOV SS, launch
 * state): checks controls and host state (VMfailValid: flags and error number set, goes on at cpu->next_rip),
 * then guest state (failed entry: exit reason 33 in root operation), loads it, loads MSRs, injects. Sets the
 * launch state to launched where `launch` and the entry succeeded. Leaves in every case.
 */
_Noreturn void vmx_enter(struct cpu *cpu, bool launch);

/* Everything that a VM exit may report; members not named are 0 (SDM, Recording VM-Exit Information). */
struct vmx_exit_record {
	uint32_t reason;
	uint64_t qualification;
	uint32_t interruption_info, interruption_error;
	uint32_t instruction_length, instruction_info;
	uint64_t guest_linear, guest_physical;
	bool clear_vectoring; /* the exit is not "during event delivery" although one is in progress */
	bool caused_by_db;    /* pending debug exceptions are in the qualification, not saved */
};

/*
 * VM exits at cpu->rip; only in non-root operation. Guest state is saved from cpu, IDT-vectoring information
 * made from cpu->delivering. The first is for causes without further information.
 */
_Noreturn void vmx_exit(struct cpu *cpu, uint32_t reason, uint64_t qualification);
_Noreturn void vmx_exit_full(struct cpu *cpu, const struct vmx_exit_record *record);
/* Of the instruction at cpu->rip, whose length is next_rip - rip. information: the VM-exit instruction
 * information, 0 where undefined. */
_Noreturn void vmx_exit_instruction(struct cpu *cpu, uint32_t reason, uint64_t qualification,
                                    uint32_t information);

/* INVEPT was executed: forgets cached guest-physical translations (tlb_flush_ept does the combined ones). */
void vmx_ept_cache_flush(struct cpu *cpu);

/* Power-up, INIT, VMXOFF: forgets non-root state and timers. */
void vmx_runtime_reset(struct cpu *cpu);

#endif

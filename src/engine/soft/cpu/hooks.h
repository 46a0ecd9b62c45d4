/*
 * What cpu/ asks a virtualization extension. vmx/ and svm/ each fill one table; cpu/ never includes them.
 * In ordinary operation (and in VMX root operation) cpu->virt is NULL and nothing is intercepted.
 * "May leave" means: performs a VM exit, after which it does not return to its caller (cpu_leave).
 */
#ifndef NESTOR_CPU_HOOKS_H
#define NESTOR_CPU_HOOKS_H

#include <stdbool.h>
#include <stdint.h>

#include "engine/soft/cpu/tlb.h"
#include "util/address.h"

struct cpu;
struct insn;
struct event;

/* Instructions whose interception depends on nothing but a control bit. */
enum intercept {
	INTERCEPT_HLT, INTERCEPT_INVLPG /* info: linear address */, INTERCEPT_INVPCID, INTERCEPT_MWAIT,
	INTERCEPT_MONITOR, INTERCEPT_PAUSE, INTERCEPT_RDPMC, INTERCEPT_RDTSC, INTERCEPT_RDTSCP,
	INTERCEPT_CPUID, INTERCEPT_INVD, INTERCEPT_WBINVD, INTERCEPT_XSETBV, INTERCEPT_RDRAND,
	INTERCEPT_RDSEED, INTERCEPT_XSAVES, INTERCEPT_XRSTORS, INTERCEPT_GETSEC, INTERCEPT_RSM,
	INTERCEPT_SGDT, INTERCEPT_SIDT, INTERCEPT_LGDT, INTERCEPT_LIDT, /* info: address displacement */
	INTERCEPT_SLDT, INTERCEPT_STR, INTERCEPT_LLDT, INTERCEPT_LTR,   /* info: address displacement */
	INTERCEPT_RDMSR, INTERCEPT_WRMSR,                               /* info: MSR number */
	INTERCEPT_MOV_FROM_DR, INTERCEPT_MOV_TO_DR,                     /* info: debug register number */
	INTERCEPT_IO,         /* info: SDM's Exit Qualification for I/O Instructions, port in 31:16 */
	INTERCEPT_TASK_SWITCH /* info: SDM's Exit Qualification for Task Switches */
};

/* A translation step that nested paging refused. */
struct nested_fault {
	bool misconfiguration;
	uint64_t qualification;
};

/* What a nested walk is for. */
struct nested_access {
	uint8_t access;        /* enum mem_access of the step itself */
	bool linear_valid;     /* gla below is that of the access */
	bool is_walk;          /* the step reads or updates a guest paging-structure entry */
	gla_t gla;
	/* SDM's advanced information (bits 9-11 of the qualification), where linear_valid && !is_walk */
	bool user_page, writable_page, nx_page;
};

struct nested_mapping {
	gpa_t l1_gpa;        /* page-aligned result */
	bool writable;       /* a write needs no further nested walk (EPT dirty bit set as well) */
	bool executable;
	bool apic_access;    /* never cache: every access is a slow one */
};

struct virt_hooks {
	/* May leave. insn may be NULL where the instruction information is not defined for `what`. */
	void (*instruction)(struct cpu *cpu, enum intercept what, uint64_t info, const struct insn *insn);

	/*
	 * MOV to CRn / LMSW / CLTS in non-root operation: may leave; returns the value that the register takes
	 * (bits owned by the host keep their real value). cr: 0, 3, 4, 8.
	 * access: 0 MOV, 2 CLTS, 3 LMSW; insn gives the GPR or memory operand.
	 * value: for LMSW the 16-bit source operand, for CLTS 0; the result is the whole register all the same.
	 * control.c has checked privilege before, and checks the result's legality after. For CR8 under TPR
	 * shadow the hook keeps the value itself and returns apic_cr8().
	 */
	uint64_t (*write_cr)(struct cpu *cpu, unsigned cr, unsigned access, uint64_t value, const struct insn *insn);
	/* MOV from CRn / SMSW: may leave; returns what the guest sees (read shadows). */
	uint64_t (*read_cr)(struct cpu *cpu, unsigned cr, const struct insn *insn);

	/*
	 * Before the event is delivered through the IDT: may leave (exception bitmap, page-fault error code mask
	 * and match, NMI exiting, external-interrupt exiting). Called for exceptions, NMIs and hardware
	 * interrupts; not for INT n. cpu->delivering tells the IDT-vectoring event, if any.
	 */
	void (*event)(struct cpu *cpu, const struct event *event);
	/* An external interrupt is pending and would be taken. Returns true where it must be
	 * acknowledged and delivered through the IDT; may leave. Called before the acknowledge. */
	bool (*external_interrupt)(struct cpu *cpu);
	/* A triple fault. Leaves. */
	void (*triple_fault)(struct cpu *cpu);
	/* INIT and SIPI arriving in non-root operation. Leave. */
	void (*init_signal)(struct cpu *cpu);
	void (*sipi)(struct cpu *cpu, uint8_t vector);

	/*
	 * Called before each instruction boundary where anything is pending (cpu_poll_events), in the SDM's
	 * order: monitor trap flag and pending VM-exit causes that come before debug traps and NMIs …
	 */
	void (*poll_high)(struct cpu *cpu);   /* MTF, TPR-below-threshold; above NMI */
	void (*poll_timer)(struct cpu *cpu);  /* VMX-preemption timer; below debug traps, above NMI window */
	void (*poll_nmi_window)(struct cpu *cpu);
	void (*poll_interrupt_window)(struct cpu *cpu);
	/* True where one of the poll_ functions would leave now: cpu_has_wakeup asks while the vCPU is halted. */
	bool (*wakeup)(struct cpu *cpu);

	/*
	 * Second-level translation. Returns true and fills *mapping, or leaves with the EPT violation or
	 * misconfiguration as VM exit. Only called where cpu->nested_paging.
	 */
	void (*translate)(struct cpu *cpu, gpa_t l2_gpa, const struct nested_access *access,
			  struct nested_mapping *mapping);

	/* The same as far as it is remembered, for a page's own address: without effect, never leaves; false where it
	 * is not. May be NULL. */
	bool (*peek)(struct cpu *cpu, gpa_t l2_gpa, enum mem_access access, struct nested_mapping *mapping);

	/* The same for mem_probe: no A/D updates, never leaves; false where not mapped. May be NULL. */
	bool (*probe)(struct cpu *cpu, gpa_t l2_gpa, gpa_t *l1_gpa);

	/* An access to a page whose mapping said apic_access. May leave, or emulates it (virtual TPR …):
	 * returns true when emulated (value read or written through *value). */
	bool (*apic_access)(struct cpu *cpu, gpa_t l2_gpa, unsigned size, enum mem_access access, uint64_t *value);

	/* RDMSR/WRMSR that were not intercepted but are virtualized (x2APIC mode, TSC). Returns true when done. */
	bool (*read_msr)(struct cpu *cpu, uint32_t msr, uint64_t *value);
	bool (*write_msr)(struct cpu *cpu, uint32_t msr, uint64_t value);

	/* TSC offset (and scaling) of non-root operation applied to a raw value. */
	uint64_t (*guest_tsc)(struct cpu *cpu, uint64_t tsc);

	/* IRET completed under virtual NMIs or NMI exiting: which blocking it clears. */
	void (*iret)(struct cpu *cpu);
};

#endif

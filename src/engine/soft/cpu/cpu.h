/*
 * struct cpu: the architectural state of one software vCPU and what its rules need. Everything here belongs
 * to the vCPU's thread, except the fields under "other threads".
 *
 * The C code that runs between translated blocks ("hot C": cpu/, vmx/, the run-time half of bt/) is compiled
 * with -mgeneral-regs-only, because the guest's x87, SSE and AVX state stays in the host's registers while the
 * vCPU runs. It must not call libc (see hot.h); whoever must, goes through fpu_stash/fpu_unstash or cpu_call_cold().
 *
 * How an instruction is executed in C (an "op"): `void op_x(struct cpu *cpu, const struct insn *insn)`.
 * On entry cpu->rip is the instruction's own address (the offset in CS) and cpu->next_rip the following one;
 * gpr[], the flags and everything else are exact. An op that transfers control sets cpu->next_rip. When the
 * op returns, its caller sets rip = next_rip. An op that faults calls cpu_raise… before it has changed any
 * architectural state; that does not return.
 */
#ifndef NESTOR_CPU_CPU_H
#define NESTOR_CPU_CPU_H

#include <stdbool.h>
#include <stdint.h>

#include "engine/cpu_model.h"
#include "engine/engine.h"
#include "engine/soft/cpu/hooks.h"
#include "engine/soft/cpu/insn.h"
#include "engine/soft/cpu/tlb.h"
#include "engine/vcpu_state.h"
#include "util/address.h"
#include "util/guest_memory.h"

/* RFLAGS */
#define FLAG_CF   (1u << 0)
#define FLAG_PF   (1u << 2)
#define FLAG_AF   (1u << 4)
#define FLAG_ZF   (1u << 6)
#define FLAG_SF   (1u << 7)
#define FLAG_TF   (1u << 8)
#define FLAG_IF   (1u << 9)
#define FLAG_DF   (1u << 10)
#define FLAG_OF   (1u << 11)
#define FLAG_IOPL (3u << 12)
#define FLAG_NT   (1u << 14)
#define FLAG_RF   (1u << 16)
#define FLAG_VM   (1u << 17)
#define FLAG_AC   (1u << 18)
#define FLAG_VIF  (1u << 19)
#define FLAG_VIP  (1u << 20)
#define FLAG_ID   (1u << 21)
#define FLAGS_ARITHMETIC (FLAG_CF | FLAG_PF | FLAG_AF | FLAG_ZF | FLAG_SF | FLAG_OF)

#define CR0_PE (1u << 0)
#define CR0_MP (1u << 1)
#define CR0_EM (1u << 2)
#define CR0_TS (1u << 3)
#define CR0_ET (1u << 4)
#define CR0_NE (1u << 5)
#define CR0_WP (1u << 16)
#define CR0_AM (1u << 18)
#define CR0_NW (1u << 29)
#define CR0_CD (1u << 30)
#define CR0_PG (1u << 31)

#define CR4_VME        (1u << 0)
#define CR4_PVI        (1u << 1)
#define CR4_TSD        (1u << 2)
#define CR4_DE         (1u << 3)
#define CR4_PSE        (1u << 4)
#define CR4_PAE        (1u << 5)
#define CR4_MCE        (1u << 6)
#define CR4_PGE        (1u << 7)
#define CR4_PCE        (1u << 8)
#define CR4_OSFXSR     (1u << 9)
#define CR4_OSXMMEXCPT (1u << 10)
#define CR4_UMIP       (1u << 11)
#define CR4_VMXE       (1u << 13)
#define CR4_FSGSBASE   (1u << 16)
#define CR4_PCIDE      (1u << 17)
#define CR4_OSXSAVE    (1u << 18)
#define CR4_SMEP       (1u << 20)
#define CR4_SMAP       (1u << 21)

#define EFER_SCE (1u << 0)
#define EFER_LME (1u << 8)
#define EFER_LMA (1u << 10)
#define EFER_NXE (1u << 11)

enum vector {
	VECTOR_DE = 0, VECTOR_DB = 1, VECTOR_NMI = 2, VECTOR_BP = 3, VECTOR_OF = 4, VECTOR_BR = 5, VECTOR_UD = 6,
	VECTOR_NM = 7, VECTOR_DF = 8, VECTOR_TS = 10, VECTOR_NP = 11, VECTOR_SS = 12, VECTOR_GP = 13,
	VECTOR_PF = 14, VECTOR_MF = 16, VECTOR_AC = 17, VECTOR_MC = 18, VECTOR_XM = 19,
};

/* An event on its way through the IDT. type: the SDM's interruption types. */
enum event_type {
	EVENT_EXTERNAL = 0, EVENT_NMI = 2, EVENT_EXCEPTION = 3, EVENT_SOFT_INT = 4 /* INT n */,
	EVENT_PRIV_SOFT = 5 /* INT1 */, EVENT_SOFT_EXCEPTION = 6 /* INT3, INTO */, EVENT_OTHER = 7 /* MTF */,
};

struct event {
	bool valid;
	uint8_t type;
	uint8_t vector;
	bool has_error;
	uint32_t error;
	uint8_t insn_length; /* of a software event: return address = rip + insn_length */
	uint64_t payload;    /* #PF: the new CR2. #DB: bits to set in DR6 */
	bool injected;       /* by VM entry: interception does not apply to it (to faults met on its way, it does) */
};

enum activity { ACTIVITY_ACTIVE, ACTIVITY_HLT, ACTIVITY_SHUTDOWN, ACTIVITY_WAIT_SIPI };

#define SHADOW_STI   1u /* interrupts blocked for one instruction after STI */
#define SHADOW_MOVSS 2u /* … after MOV SS or POP SS: NMIs and debug traps too */

/*
 * The mode key: everything besides the bytes that the meaning of translated code depends on. Computed by
 * cpu_update_mode(); bt/ keys blocks by it.
 */
#define MODE_CODE64     (1u << 0)  /* CS.L in IA-32e mode */
#define MODE_CODE32     (1u << 1)  /* CS.D; with neither: 16-bit code */
#define MODE_CLASS_SHIFT 2         /* enum tlb_class, 2 bits */
#define MODE_CLASS(key) ((enum tlb_class)(((key) >> MODE_CLASS_SHIFT) & 3))
#define MODE_FLAT       (1u << 4)  /* ES, CS, SS, DS: base 0, limit 4G, usable, writable (always in 64-bit code) */
#define MODE_FPU        (1u << 5)  /* x87 usable: CR0.EM = CR0.TS = 0 */
#define MODE_SSE        (1u << 6)  /* SSE usable: CR0.EM = CR0.TS = 0, CR4.OSFXSR */
#define MODE_AVX        (1u << 7)  /* AVX usable: OSXSAVE, XCR0[2:1] = 3, CR0.TS = 0, protected mode */
#define MODE_NONROOT    (1u << 8)  /* VMX non-root operation (or SVM guest mode) */
#define MODE_STEP       (1u << 9)  /* TF, or a breakpoint in DR7, or MTF: one instruction per block */
#define MODE_PROTECTED  (1u << 10) /* CR0.PE and not virtual-8086 */
#define MODE_V86        (1u << 11)
#define MODE_STACK32    (1u << 12) /* SS.B; in 64-bit code always set */
#define MODE_LONG       (1u << 13) /* EFER.LMA */
#define MODE_CPL0       (1u << 14)
#define MODE_PAGING     (1u << 15)
#define MODE_FSGSBASE   (1u << 16) /* CR4.FSGSBASE */
#define MODE_ALIGN      (1u << 17) /* CR0.AM and AC and CPL 3: accesses go the careful way, alignment-checked */
#define MODE_WAIT_TS    (1u << 18) /* CR0.MP and CR0.TS: WAIT raises #NM */
#define MODE_TSC_DIRECT (1u << 19) /* RDTSC needs no check: not intercepted or scaled, CR4.TSD clear or CPL 0 */
#define MODE_SMAP       (1u << 21) /* CR4.SMAP at CPL 0-2: STAC and CLAC change the class */
#define MODE_IOPL_OK    (1u << 20) /* CPL <= IOPL: CLI and STI need no check (protected mode) */

/* 32-bit code on a stack of 32 bits, its segments without bases and ends. */
static inline bool mode_is_flat32(uint32_t mode)
{
	const uint32_t flat32 = MODE_FLAT | MODE_CODE32 | MODE_STACK32;

	return (mode & flat32) == flat32;
}

/*
 * Are jump caches of use in the mode? Elsewhere rip does not name the code: a segment has a base or an end. Nor
 * in 32-bit code on a stack of 16 bits, which is on its way between two modes and would empty them twice.
 */
static inline bool mode_has_jump_cache(uint32_t mode)
{
	return mode & MODE_CODE64 || mode_is_flat32(mode);
}

struct apic;
struct debugger;
struct vmx;
struct bt;

struct cpu_msrs {
	uint64_t star, lstar, cstar, sfmask, kernel_gs_base;
	uint64_t sysenter_cs, sysenter_esp, sysenter_eip;
	uint64_t tsc_aux, tsc_adjust, tsc_deadline;
	uint64_t pat, misc_enable, feature_control, debugctl, spec_ctrl, xss;
	uint64_t mtrr_def_type, mtrr_fixed[11], mtrr_base[8], mtrr_mask[8];
	uint64_t mcg_status, mc_ctl[8], mc_status[8], mc_addr[8], mc_misc[8];
	uint64_t perf_global_ctrl;
	uint64_t apic_base;
	uint64_t microcode;
};

#define SITE_TARGETS 4096

/* The standard-format XSAVE area for x87, SSE and AVX: 512 + 64 + 256 bytes. */
#define FPU_AREA_SIZE 832

/*
 * Where translated code's register points to. What it uses most lies up to 128 bytes before and behind; and as its low 16
 * bits the register names the bits of an address that are the TLB slot, as BEXTR wants them named: the first one, and how many
 * (SDM, BEXTR). Regions begin at multiples of 64 KiB.
 */
#define CPU_CENTER (TLB_SLOT_BITS << 8 | PAGE_SHIFT)

struct cpu {
	uint8_t unused[(CPU_CENTER - 128 + 7) / 8 * 8 - 8 * sizeof(uint64_t)]; /* gpr[8] is within reach of CPU_CENTER */
	/* ---- reached by translated code all the time ---- */
	uint64_t gpr[16]; /* those in the middle from translated code's short displacements on (CPU_CENTER) */
	struct stack_window stack[TLB_CLASSES]; /* of the current context */
	uint64_t group_addend[8]; /* bt/group.h */
	uint64_t rip_page; /* bt/: linear page of the running block */
	uint32_t kick;     /* nonzero: leave translated code and poll. Other threads set it, with release order */
	/*
	 * The arithmetic flags, in LAHF/SETO form: cc_of is 0 or 1, cc_low has SF ZF AF PF CF at their
	 * places in the low byte of RFLAGS. Exact whenever C code runs.
	 */
	uint8_t cc_of, cc_low;
	uint8_t shadow;    /* SHADOW_*: blocking that ends after the present instruction */
	uint8_t activity;  /* enum activity */
	uint64_t scratch[4]; /* bt/: temporaries of translated code */
	/* ---- up to here at short displacements, but for scratch[2] and [3] ---- */
	struct cpu *self;  /* the canonical mapping: C code always uses this address */
	uint64_t rip;      /* offset in CS (in 64-bit mode: linear) */
	uint64_t next_rip; /* while an op runs */
	uint32_t branch;   /* bt/: the last indirect branch, where it left translated code; 0: none */
	uint32_t mode;     /* the mode key */
	int64_t budget;    /* deterministic clock: instructions left until the vCPU must look up */
	uint64_t retired;  /* deterministic clock: instructions retired up to the last budget refill */
	uint64_t rflags_system; /* RFLAGS without the arithmetic flags, bit 1 set */
	struct segment seg[SEG_COUNT];
	struct tlb_region *region; /* the current context's */
	void *c_stack;       /* bt/: C's stack pointer while translated code runs */
	void *return_sp;     /* bt/return_stack.h: translated code's stack pointer while C runs */
	void *user_return_sp; /* bt/system_calls.c: … as it was at SYSCALL */
	void *return_bottom; /* … where that stack is empty */
	void *code_table;    /* bt/code_table.h */
	void *records;       /* bt/: what bt_alloc allocates from */
	void *code;          /* bt/: the code memory, executable */
	void *site_empty;    /* bt/: code that goes to SITE_EMPTY */
	uint8_t bounce[128] __attribute__((aligned(64))); /* bt/: memory operands that cannot be direct */

	/* ---- other threads: atomic access only ---- */
	uint32_t pending_async __attribute__((aligned(64))); /* ASYNC_* */
	uint8_t sipi_vector;

	/* ---- registers ---- */
	struct descriptor_table gdtr __attribute__((aligned(64))), idtr;
	uint64_t cr0, cr2, cr3, cr4;
	uint64_t efer, xcr0;
	uint64_t dr[4], dr6, dr7;
	uint64_t pdpte[4]; /* PAE paging: registers, loaded by MOV CR3 and VM entry */
	uint8_t cpl;
	struct cpu_msrs msr;

	/* ---- events ---- */
	struct event event;      /* to be delivered before the next instruction */
	struct event delivering; /* being delivered: what a nested fault or VM exit calls IDT-vectoring */
	bool nmi_pending, nmi_blocked;
	bool debug_trap_pending; /* single-step or data breakpoint after the last instruction; bits in dr6_pending */
	uint64_t dr6_pending;
	bool step_recheck; /* SYSCALL and SYSRET: TF as they left it decides on the single-step trap after them */
	bool interrupt_blocked;  /* the last cpu_poll_events found an interrupt, or in non-root operation possibly a
				  * window, that RFLAGS.IF held back: see cpu_interrupts_enabled */
	bool extint_line;        /* the 8259's INTR, copied from pending_async by the vCPU */
	uint64_t monitor_address; /* armed by MONITOR, 0 when not */
	uint32_t pauses;          /* PAUSE instructions executed */
	bool serves_interrupt;    /* an interrupt was taken, and there was no IRET since */
	uint64_t spin_looked, spin_began; /* bt/spin.c: ticks */
	uint64_t monitor_value;   /* the aligned 8 bytes there when it was armed */

	/* ---- virtualization ---- */
	const struct virt_hooks *virt; /* non-NULL exactly in VMX non-root operation (SVM guest mode) */
	struct vmx *vmx;               /* owned by vmx/; NULL where the model has no VMX */
	bool nested_paging;            /* EPT or NPT is on */
	uint64_t eptp;                 /* tag of combined mappings: EPTP[51:12], 0 without EPT */
	uint16_t vpid;                 /* tag of linear mappings: 0 in root operation and without VPID */
	uint64_t cr0_must_set, cr4_must_set; /* fixed bits of VMX operation, 0 outside: MOV CR, LMSW and CLTS that would
					* clear one raise #GP(0) (in non-root operation virt->write_cr decides) */
	bool init_blocked;             /* VMX root operation: INIT stays pending */
	bool monitor_trap;             /* MTF: MODE_STEP, and cpu_poll_events after each instruction */
	uint64_t apic_access_page;     /* L1-physical page whose accesses go through virt->apic_access, also without
					* nested paging; never entered into the TLB. 0: none */
	bool virt_tsc_direct;          /* non-root: RDTSC and RDTSCP give the TSC plus virt_tsc_offset, without a check */
	uint64_t virt_tsc_offset;
	uint64_t virt_deadline_ns;     /* VMX-preemption timer's deadline, 0: none. cpu_host_timer_arm arms the earlier
					* of this and its argument; ASYNC_TIMER may therefore come early for the APIC */
	uint64_t apic_deadline_ns;     /* the argument of the last cpu_host_timer_arm: pass it again after changing
					* virt_deadline_ns */
	uint64_t timer_armed_ns;       /* what cpu_host_timer_arm armed last */

	/* ---- owned by other files ---- */
	struct debugger *debugger; /* debugger.h; NULL: nobody debugs. Owned as debugger_memory */
	struct debugger *debugger_memory;
	struct apic *apic;
	struct bt *bt;
	struct engine_vm *vm; /* soft.c: all vCPUs */
	struct coherence *coherence; /* bt/coherence.h: the VM's; NULL: there is no other vCPU and no device */
	struct code_inbox *inbox;
	struct turns *turns; /* bt/turns.h: of several vCPUs under the deterministic clock; else NULL */
	bool turn_taken;     /* bt/turns.h */
	uint64_t turn_end;   /* bt/turns.h: the tick; 0: as soon as the present instruction is done */
	uint32_t has_turn;   /* bt/turns.h; atomic access */
	void *tlb; /* struct tlb_state, private to tlb.c */
	void *leave_buffer[5]; /* __builtin_setjmp's */
	bool fpu_stashed;      /* the guest's FPU state is in fpu_area, not in the host's registers */

	/* ---- constant after creation ---- */
	unsigned index;
	const struct engine_host *host;
	const struct guest_memory *memory;
	const struct cpu_model *model;
	enum engine_clock clock;
	unsigned trace;
	unsigned tune_off;
	int64_t tsc_offset; /* real clock: added to the host's TSC */
	uint64_t tsc_ratio; /* real clock: guest ticks per host tick, 48 fractional bits; 0: one to one (time.c) */
	uint64_t clock_anchor_ticks, clock_anchor_ns; /* real clock: a pair of time_ticks and machine-clock time */
	uint64_t random_state; /* deterministic clock: what RDRAND and RDSEED draw from */

	/* ---- deterministic clock (bt/virtual_clock.h) ---- */
	bool deadline_changed; /* the machine was called and may have other deadlines now */
	bool napping;          /* MWAIT: nothing happens before the next timer */
	uint64_t idle_ticks;   /* of `retired`: skipped, not retired */

	uint8_t fpu_area[FPU_AREA_SIZE] __attribute__((aligned(64)));

	uint8_t site_targets[SITE_TARGETS]; /* bt/: by a hash of their code, blocks that entries of site[] may lead to */

	/*
	 * bt/: as tlb_tables.link, for branches between global pages: one table for all contexts of root operation, one
	 * for those of the guest (VPID and EPTP) that ran last.
	 */
	void *global_link[GLOBAL_LINKS], *guest_link[GLOBAL_LINKS];
};

_Static_assert(sizeof(struct cpu) <= CPU_AREA_SIZE, "struct cpu must fit its alias");

_Static_assert(offsetof(struct cpu, gpr[8]) >= CPU_CENTER - 128 && offsetof(struct cpu, scratch[1]) < CPU_CENTER + 128,
	       "one byte of displacement for what translated code uses most");

/* cpu->pending_async */
#define ASYNC_NMI    (1u << 0)
#define ASYNC_INIT   (1u << 1)
#define ASYNC_SIPI   (1u << 2)
#define ASYNC_TIMER  (1u << 3) /* the deadline given to timer_arm has passed */
#define ASYNC_EXTINT (1u << 4) /* level of the 8259's INTR */
#define ASYNC_APIC   (1u << 5) /* messages wait in the local APIC's inbox */
#define ASYNC_STOP   (1u << 6) /* vcpu_kick */
#define ASYNC_CODE   (1u << 7) /* bt/coherence.h */

/* ---- flags: cpu/flags inline ---- */
static inline uint64_t cpu_rflags(const struct cpu *cpu)
{
	return cpu->rflags_system | (cpu->cc_low & (FLAGS_ARITHMETIC & 0xff)) | (uint64_t)cpu->cc_of << 11;
}

/* Sets all of RFLAGS. Does not recompute the mode key: callers that change TF, AC, VM or IOPL call cpu_update_mode. */
static inline void cpu_set_rflags(struct cpu *cpu, uint64_t value)
{
	cpu->rflags_system = (value & ~(uint64_t)FLAGS_ARITHMETIC) | 2;
	cpu->cc_low = (value & (FLAGS_ARITHMETIC & 0xff)) | 2;
	cpu->cc_of = (value >> 11) & 1;
}

/* Replaces the flags in `mask` (arithmetic only) by those in `value`. */
static inline void cpu_set_arithmetic(struct cpu *cpu, uint64_t mask, uint64_t value)
{
	cpu_set_rflags(cpu, (cpu_rflags(cpu) & ~mask) | (value & mask));
}

static inline bool cpu_is_64bit(const struct cpu *cpu)
{
	return cpu->mode & MODE_CODE64;
}

/* ---- leaving (leave.c) ---- */

/* Abandons the present instruction and returns to the dispatcher, which looks at cpu->event and cpu->rip. */
_Noreturn void cpu_leave(struct cpu *cpu);

/* Makes the dispatcher call cpu_poll_events before the next instruction. Own thread. */
static inline void cpu_poll_soon(struct cpu *cpu)
{
	__atomic_store_n(&cpu->kick, 1, __ATOMIC_RELAXED);
}

/* After an instruction that may have set RFLAGS.IF (STI, POPF, IRET, SYSRET …): whatever became pending earlier
 * was found blocked by a poll, so only then is there something to look for. Own thread. */
static inline void cpu_interrupts_enabled(struct cpu *cpu)
{
	if (cpu->interrupt_blocked)
		cpu_poll_soon(cpu);
}

/* ---- exceptions (exception.c) ---- */

/* Raises an exception at cpu->rip: records it in cpu->event (by the SDM's "Conditions for Generating a
 * Double Fault" where one is being delivered) and leaves. */
_Noreturn void cpu_raise(struct cpu *cpu, enum vector vector);
_Noreturn void cpu_raise_error(struct cpu *cpu, enum vector vector, uint32_t error);
_Noreturn void cpu_raise_page_fault(struct cpu *cpu, gla_t address, uint32_t error);
/* #DB as a fault (instruction breakpoint, general detect); dr6: the bits that DR6 gets when it is delivered. */
_Noreturn void cpu_raise_debug(struct cpu *cpu, uint64_t dr6);

/*
 * Delivers cpu->event: through cpu->virt->event (which may leave), then the IVT or IDT of the present mode.
 * Changes no state before all checks and pushes have passed. Faults met on the way are raised (and leave).
 */
void cpu_deliver_event(struct cpu *cpu);

/*
 * At an instruction boundary: takes what is pending in the SDM's order ("Priority Among Concurrent Events"),
 * at most making one cpu->event valid or leaving by VM exit. Clears cpu->kick first. Consumes pending_async.
 */
void cpu_poll_events(struct cpu *cpu);

/* True where cpu_poll_events would find something that wakes the vCPU from its activity state. */
bool cpu_has_wakeup(struct cpu *cpu);

/* ---- modes (mode.c) ---- */

/* Recomputes cpu->mode, and empties jump caches where a bit other than the class changed. After every
 * change of CR0, CR4, EFER, XCR0, CS, SS, other segments outside 64-bit mode, CPL, TF, AC, IOPL, VM, DR7, virt. */
void cpu_update_mode(struct cpu *cpu);

/* The state after power-up, RESET or INIT (SDM, Processor State After Reset). init keeps what INIT keeps. */
void cpu_reset(struct cpu *cpu, bool init);

/*
 * Load control registers after their instruction's checks (or VM entry/exit) decided the value is legal:
 * updates LMA, flushes, PDPTEs (not for CR3 under EPT), mode and context as the change demands.
 */
void cpu_load_cr0(struct cpu *cpu, uint64_t value);
void cpu_load_cr3(struct cpu *cpu, uint64_t value, bool keep_translations);
void cpu_load_cr4(struct cpu *cpu, uint64_t value);
void cpu_load_efer(struct cpu *cpu, uint64_t value);

/* PAE PDPTE load from CR3 (L1-physical, or L2-physical under EPT). False where a reserved bit is set. */
bool cpu_read_pdptes(struct cpu *cpu, uint64_t cr3, uint64_t pdpte[4]);

/* Bits of CR4 and EFER that the model allows to be set; the others fault. */
uint64_t cpu_cr4_allowed(const struct cpu *cpu);
uint64_t cpu_efer_allowed(const struct cpu *cpu);

/* ---- time (time.c) ---- */

/* The TSC without a non-root TSC offset (tsc_adjust included). */
uint64_t cpu_tsc(const struct cpu *cpu);
/* Machine-clock nanoseconds at which cpu_tsc reaches `tsc`; UINT64_MAX where out of range. */
uint64_t cpu_tsc_to_ns(const struct cpu *cpu, uint64_t tsc);
/* The machine's clock now, ns: virtual under the deterministic clock. */
uint64_t cpu_now_ns(const struct cpu *cpu);

/* ---- the guest's FPU state (fpu.c) ---- */

/* Moves the guest's x87/SSE/AVX state from the host's registers to fpu_area and gives C code a default
 * environment; and back. Both are no-ops when already so. */
void fpu_stash(struct cpu *cpu);
void fpu_unstash(struct cpu *cpu);

/* ---- calls to the machine: stash the FPU, call, keep stashed until translated code needs it (host_call.c) ---- */
uint32_t cpu_host_pio_read(struct cpu *cpu, uint16_t port, unsigned size);
void cpu_host_pio_write(struct cpu *cpu, uint16_t port, unsigned size, uint32_t value);
uint64_t cpu_host_mmio_read(struct cpu *cpu, gpa_t gpa, unsigned size);
void cpu_host_mmio_write(struct cpu *cpu, gpa_t gpa, unsigned size, uint64_t value);
int cpu_host_interrupt_acknowledge(struct cpu *cpu);
void cpu_host_eoi(struct cpu *cpu, uint8_t vector);
void cpu_host_timer_arm(struct cpu *cpu, uint64_t deadline_ns);
/* printf to the trace stream (standard error), one line, prefixed with the vCPU and its level. */
void cpu_trace(struct cpu *cpu, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* ---- called by cpu/, provided by bt/ (weak coupling through these functions only) ---- */

/* The guest (or DMA, a page walk …) is about to change bytes [gpa, gpa + size) within one page, which has
 * code granules: drops the translations that cover them. */
void bt_code_written(struct cpu *cpu, gpa_t gpa, unsigned size);
/* The executable mappings of a context may have changed: its links lead to the dispatcher again. */
void bt_reset_links(struct cpu *cpu, struct tlb_tables *tables);
/* The same of the global ones of root or non-root operation; and of those of the 2 MiB around gla. */
void bt_reset_global_links(struct cpu *cpu, bool nonroot);
void bt_reset_global_links_to(struct cpu *cpu, uint64_t gla, bool nonroot);
/*
 * Context number `context` maps the page at `linear`, lower half or not, to gpa for fetches of `class` (TLB_USER or
 * TLB_SUPER). generation: changes when nothing of what the context has fetched in that class is remembered any more.
 */
void bt_note_fetch(struct cpu *cpu, unsigned context, unsigned class, uint32_t generation, gpa_t gpa, uint64_t linear);
/* 64 bits for the page of gpa, one per 64-byte granule that holds translated code of any vCPU. */
uint64_t bt_code_map(struct cpu *cpu, gpa_t gpa);
/* The same, for who enters the page into the TLB for writing where there is none. */
uint64_t bt_code_map_for_writing(struct cpu *cpu, gpa_t gpa);
/* The vCPU spins: every so many PAUSEs, real clock. Yields, or sleeps in a loop that is long. */
void bt_spin(struct cpu *cpu);
/* IRET from an interrupt: who spins may go on now. */
void bt_interrupt_served(struct cpu *cpu);
/* ASYNC_CODE: other vCPUs or devices have stored into code, or want to translate what this one may write. */
void bt_serve_others(struct cpu *cpu);

#endif

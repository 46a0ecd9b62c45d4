/*
 * What every engine offers a machine, and what a machine offers its engine. An engine never sees a device,
 * a device never sees an engine; they meet here.
 *
 * Threads: each vCPU is run by one thread of its own (the thread that calls vcpu_run). The functions marked
 * [any] may be called from every thread; all others only from the vCPU's thread or while it does not run.
 */
#ifndef NESTOR_ENGINE_ENGINE_H
#define NESTOR_ENGINE_ENGINE_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#include "util/address.h"
#include "util/guest_memory.h"

struct engine_vm;
struct engine_vcpu;
struct vcpu_state;
struct hash;      /* util/hash.h */
struct cpu_model; /* engine/cpu_model.h: what CPUID and the capability MSRs announce */

enum engine_clock { ENGINE_CLOCK_REAL, ENGINE_CLOCK_DETERMINISTIC };

/* Trace categories, a bit mask (--trace). */
enum {
	ENGINE_TRACE_VMX = 1 << 0,       /* VM entries and exits, in words */
	ENGINE_TRACE_EXCEPTION = 1 << 1, /* exceptions and interrupts delivered */
	ENGINE_TRACE_BLOCK = 1 << 2,     /* every block entered */
	ENGINE_TRACE_MSR = 1 << 3,       /* RDMSR and WRMSR */
	ENGINE_TRACE_IO = 1 << 4,        /* port and MMIO accesses that reach the machine */
	ENGINE_TRACE_PERF = 1 << 5,      /* no trace: at the end, translated code's names for perf in /tmp/perf-PID.map */
};

/*
 * The machine's side. Called on a vCPU's thread with no lock held; the machine takes its own lock.
 * The engine has put every guest register away before it calls, so these may use any CPU state.
 */
struct engine_host {
	void *context; /* borrowed; first argument of every function below */
	const struct guest_memory *memory;

	/* Port I/O. size: 1, 2 or 4 bytes. An unclaimed port reads as all ones. */
	uint32_t (*pio_read)(void *context, uint16_t port, unsigned size);
	void (*pio_write)(void *context, uint16_t port, unsigned size, uint32_t value);

	/* An access outside RAM. size: 1, 2, 4 or 8 bytes. Unclaimed addresses read as all ones. */
	uint64_t (*mmio_read)(void *context, gpa_t gpa, unsigned size);
	void (*mmio_write)(void *context, gpa_t gpa, unsigned size, uint64_t value);

	/* Interrupt acknowledge to the 8259 pair: its vector, or -1 when it withdrew the request. */
	int (*interrupt_acknowledge)(void *context);

	/* A local APIC sent EOI for a level-triggered vector; broadcast to the I/O APICs. */
	void (*eoi)(void *context, uint8_t vector);

	/*
	 * Arms this vCPU's one-shot timer: at deadline_ns of the machine's clock the machine calls the engine's
	 * vcpu_timer_expired from any thread. UINT64_MAX disarms. Re-arming replaces. [any]
	 */
	void (*timer_arm)(void *context, unsigned vcpu_index, uint64_t deadline_ns);

	/* The machine's clock in nanoseconds since the VM started. [any] */
	uint64_t (*clock_ns)(void *context);

	/*
	 * Deterministic clock only, where the vCPU moves time: clock_advance says that it is now now_ns and runs
	 * the device and vCPU timers that are due (it may call vcpu_timer_expired, deliver_msi, set_extint). The
	 * engine calls it at its budget's end, before each access to a device, and to skip idle time.
	 * next_deadline: when the earliest timer is due, UINT64_MAX for none.
	 */
	void (*clock_advance)(void *context, uint64_t now_ns);
	uint64_t (*next_deadline)(void *context);
};

struct engine_config {
	const struct engine_host *host;    /* borrowed for the VM's life */
	const struct cpu_model *cpu_model; /* borrowed for the VM's life */
	enum engine_clock clock;
	unsigned trace;      /* ENGINE_TRACE_* */
	unsigned cpu_count;
	unsigned tune_off;   /* ENGINE_TUNE_* switched off, for bisecting a wrong result */
	size_t code_memory;  /* bytes for translated code of each vCPU, from ENGINE_CODE_MEMORY_MIN; 0: the default */
};

#define ENGINE_CODE_MEMORY_MIN (64u << 10)
#define ENGINE_CODE_MEMORY_MAX (1u << 30)

/* ENGINE_TUNE_*: one bit for each row of tune.def. */
enum {
#define TUNE(name, word, text) ENGINE_TUNE_INDEX_##name,
#include "engine/tune.def"
#undef TUNE
	ENGINE_TUNE_COUNT,
};
enum {
#define TUNE(name, word, text) ENGINE_TUNE_##name = 1 << ENGINE_TUNE_INDEX_##name,
#include "engine/tune.def"
#undef TUNE
};

/* Why vcpu_run returned. */
enum engine_exit {
	ENGINE_EXIT_KICKED,   /* vcpu_kick was called; run again when convenient */
	ENGINE_EXIT_SHUTDOWN, /* triple fault: the machine resets or stops */
	ENGINE_EXIT_ERROR,    /* the engine failed; error_text() says why */
	ENGINE_EXIT_DEBUG,    /* what vcpu_set_debug asked for; vcpu_debug_stop says what */
};

/* ---- for a debugger outside ---- */

#define ENGINE_DEBUG_POINTS 64

/* What an engine_debug_point waits for: bits. */
enum { ENGINE_POINT_WRITE = 1, ENGINE_POINT_READ = 2, ENGINE_POINT_EXECUTE = 4 };

/* Where a vCPU may stop: VMX root operation (or none at all), non-root operation. */
enum { ENGINE_LEVEL_ROOT = 1, ENGINE_LEVEL_NONROOT = 2, ENGINE_LEVEL_ANY = 3 };

struct engine_debug_point {
	uint64_t gla;
	uint32_t size;  /* bytes; of no meaning for EXECUTE */
	uint8_t access; /* WRITE, READ or both; or EXECUTE */
};

struct engine_debug {
	unsigned count;
	struct engine_debug_point point[ENGINE_DEBUG_POINTS];
	uint8_t levels; /* ENGINE_LEVEL_*: at others nothing of this stops it */
	bool step;      /* stop after one instruction */
	bool halt;      /* stop as soon as it is at one of the levels */
	bool pass;      /* an EXECUTE point at the present address has been reported: it does not count this time */
};

struct engine_debug_stop {
	enum { ENGINE_STOP_ASKED /* halt */, ENGINE_STOP_STEP, ENGINE_STOP_BREAKPOINT, ENGINE_STOP_WATCHPOINT } reason;
	uint64_t gla;   /* of the breakpoint or watchpoint */
	uint8_t access; /* the watchpoint's */
};

/* How a vCPU starts, before its first vcpu_run. */
struct vcpu_start;

struct engine_ops {
	const char *name; /* "soft", "kvm" */

	/* Creates a VM. Returns 0, or a negative errno with error_text(). *vm is owned by the caller. */
	int (*vm_create)(struct engine_vm **vm, const struct engine_config *config);
	void (*vm_destroy)(struct engine_vm *vm);

	/* Creates vCPU number `index` (its initial APIC ID) in the state after reset. Owned by the VM. */
	int (*vcpu_create)(struct engine_vm *vm, unsigned index, struct engine_vcpu **vcpu);

	/* Runs guest code until there is a reason to return; HLT waits inside. */
	enum engine_exit (*vcpu_run)(struct engine_vcpu *vcpu);

	/* Makes vcpu_run return ENGINE_EXIT_KICKED soon. [any] */
	void (*vcpu_kick)(struct engine_vcpu *vcpu);

	/* Copies the architectural state out of, or into, a vCPU that does not run. */
	int (*vcpu_get_state)(struct engine_vcpu *vcpu, struct vcpu_state *state);
	int (*vcpu_set_state)(struct engine_vcpu *vcpu, const struct vcpu_state *state);

	/*
	 * What firmware does to each CPU, for a guest that starts without: its memory type ranges. While it does not run.
	 * May be NULL.
	 */
	void (*vcpu_set_up)(struct engine_vcpu *vcpu);

	/* Back to the state after power-up reset. */
	void (*vcpu_reset)(struct engine_vcpu *vcpu);

	/*
	 * Delivers one interrupt message, in the format of a message-signalled interrupt: address 0xFEExxxxx
	 * (SDM, Message Address Register Format) and data (Message Data Register Format). [any]
	 */
	void (*deliver_msi)(struct engine_vm *vm, uint64_t address, uint32_t data);

	/* The 8259 pair's INTR line, wired to LINT0 of vCPU 0. [any] */
	void (*set_extint)(struct engine_vm *vm, bool asserted);

	/*
	 * A device has stored into guest memory: what was translated of [gpa, gpa + size) is dropped before any vCPU
	 * handles its next event or comes back from its next access to a device. NULL where the engine needs no word.
	 * [any, with the machine lock held or not]
	 */
	void (*memory_written)(struct engine_vm *vm, gpa_t gpa, uint64_t size);

	/*
	 * The host's guest_memory has other slots now; no vCPU runs. Returns 0, or a negative errno with error_text().
	 */
	int (*memory_changed)(struct engine_vm *vm);

	/* NMI to vCPU `index`. [any] */
	void (*inject_nmi)(struct engine_vm *vm, unsigned index);

	/* The deadline given to timer_arm has passed. [any] */
	void (*vcpu_timer_expired)(struct engine_vcpu *vcpu);

	/*
	 * Where the vCPU's present paging (in L2 with EPT) maps gla to, in the machine's memory map: 0, or -EFAULT. No
	 * rights are checked, nothing is changed. While it does not run. NULL where the engine cannot.
	 */
	int (*vcpu_translate)(struct engine_vcpu *vcpu, gla_t gla, gpa_t *gpa);

	/*
	 * Sets what a debugger may change: the general registers, RIP, RFLAGS, CR2, the bases of FS and GS and, where
	 * state->xsave_size is not 0, x87, SSE and AVX. While the vCPU does not run. Returns 0, or a negative errno with
	 * error_text(). NULL where the engine cannot.
	 */
	int (*vcpu_set_registers)(struct engine_vcpu *vcpu, const struct vcpu_state *state);

	/*
	 * What the next vcpu_run stops for, with ENGINE_EXIT_DEBUG, besides its own reasons; the guest cannot find it. debug
	 * is copied; NULL: nothing. Stays until the next call, but for `step`, `halt` and `pass`, which are once. While the
	 * vCPU does not run. Returns 0, or a negative errno with error_text(). NULL where the engine cannot.
	 */
	int (*vcpu_set_debug)(struct engine_vcpu *vcpu, const struct engine_debug *debug);
	/* Why the last ENGINE_EXIT_DEBUG was. */
	void (*vcpu_debug_stop)(struct engine_vcpu *vcpu, struct engine_debug_stop *stop);

	/*
	 * Prints a vCPU that does not run, for people: what is "tlb", "vmcs" or "apic". Returns 0, or a negative errno with
	 * error_text(). NULL where the engine has nothing to tell.
	 */
	int (*vcpu_describe)(struct engine_vcpu *vcpu, const char *what, FILE *out);

	/*
	 * Adds all that a guest could find in a vCPU that does not run: registers, local APIC, nested state, time.
	 * *instructions: how many have retired, 0 where they are not counted. NULL where the engine cannot.
	 */
	void (*vcpu_state_hash)(struct engine_vcpu *vcpu, struct hash *hash, uint64_t *instructions);
};

extern const struct engine_ops engine_soft;
extern const struct engine_ops engine_kvm;

#endif

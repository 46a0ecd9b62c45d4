/*
 * A VM: RAM, buses, clock, devices, an engine with its vCPU threads, and their lifecycle.
 *
 * Order of use: machine_create, then either machine_set_loader or direct filling of memory and
 * machine_set_state, then machine_run (which returns the exit status), then machine_destroy.
 *
 * Locks, outermost first: delivery_lock (messages on their way to the engine), lock (devices), the timer
 * queue's own. Device callbacks run with `lock` held. Engine functions are never called with `lock` held:
 * what a device sends (MSIs, INTR, kicks) collects in an outbox that machine_unlock empties.
 */
#ifndef NESTOR_MACHINE_MACHINE_H
#define NESTOR_MACHINE_MACHINE_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "device/platform.h"
#include "engine/cpu_model.h"
#include "engine/engine.h"
#include "machine/bus.h"
#include "machine/clock.h"
#include "machine/irq.h"
#include "machine/machine_config.h"
#include "machine/notify.h"
#include "machine/sleep.h"
#include "machine/memory_map.h"
#include "machine/timer.h"
#include "util/guest_memory.h"

struct acpi_pm;
struct ahci;
struct cf9;
struct display;
struct event_loop;
struct vcpu_state; /* engine/vcpu_state.h */
struct fw_cfg;
struct input;
struct ioapic;
struct pci_host;
struct pic;
struct rtc;
struct shadow;

#define MACHINE_OUTBOX  64
#define MACHINE_DEVICES 96

/* One device instance; see device/devices.h. All callbacks run under the machine lock. Any may be NULL. */
struct device {
	const char *name;
	void *state;
	void (*reset)(void *state);   /* to the state after power-up */
	void (*destroy)(void *state); /* frees state; no thread runs any more */
};

struct machine_vcpu {
	struct machine *machine;
	unsigned index;
	struct engine_vcpu *engine_vcpu; /* owned by the engine's VM */
	pthread_t thread;
	bool thread_started;
	atomic_bool frozen;   /* a debugger keeps it standing while others run */
	atomic_int thread_id; /* the host's, 0 before it has run */
	struct machine_timer timer; /* engine_host.timer_arm */
};

struct machine_msi {
	uint64_t address;
	uint32_t data;
};

typedef int (*machine_loader)(struct machine *machine, void *context);

struct machine {
	/* ---- constant after creation ---- */
	struct machine_config config;
	struct cpu_model cpu_model;
	const struct engine_ops *engine;
	struct engine_host host;
	bool quiet; /* a trial: do not tell why the guest failed */
	struct engine_vm *vm;
	struct machine_vcpu vcpu[PLATFORM_CPUS_MAX];
	struct event_loop *loop;
	struct clock clock;
	struct timer_queue timers;
	machine_loader loader;
	void *loader_context;

	/* ---- under lock ---- */
	pthread_mutex_t lock;
	struct bus pio, mmio;
	struct irq_line irq[PLATFORM_IRQ_COUNT]; /* by ISA number, above 15 by IOAPIC pin */
	struct device device[MACHINE_DEVICES];
	unsigned device_count;
	struct acpi_pm *acpi_pm;
	struct ahci *ahci;
	struct cf9 *cf9;
	struct fw_cfg *fw_cfg; /* devices that others must find; owned by their device entry */
	struct display *display; /* NULL: no screen; it has a lock of its own */
	struct input *input;
	struct ioapic *ioapic;
	struct pci_host *pci;
	bool pvpanic; /* there is one on its port, for the ACPI tables */
	struct pic *pic;
	struct rtc *rtc;
	struct shadow *shadow; /* NULL: no firmware */
	struct irq_pin *pit_pin, *rtc_pin; /* the HPET's legacy replacement cuts these */
	bool a20;                          /* kept for reading back; A20 is never masked */
	struct machine_msi outbox[MACHINE_OUTBOX];
	unsigned outbox_count;
	bool extint, extint_sent; /* the 8259 pair's INTR: wanted, and as the engine knows it */
	bool stop_kick;           /* kick every vCPU at the next unlock */
	bool sleeping;            /* devices are reset for, or start again after, suspend to RAM */
	struct machine_description description[MACHINE_DESCRIPTIONS];
	unsigned description_count;

	/* ---- other ---- */
	struct guest_memory memory; /* what the guest has now: changes only while no vCPU runs, under dma_lock */
	struct memory_map map;      /* what it is to be: under lock */
	pthread_rwlock_t dma_lock;  /* held while memory is read on other threads than the vCPUs' */
	pthread_mutex_t delivery_lock;
	pthread_mutex_t run_lock; /* the fields below */
	pthread_cond_t run_changed;
	unsigned running;        /* vCPU threads that live */
	unsigned standing;       /* of those: the ones that wait for `pauses` and a new memory map */
	atomic_uint pauses;      /* machine_pause calls that are not undone; read anywhere */
	atomic_bool map_changed; /* read anywhere; set under lock */
	void (*debug_stopped)(void *context, unsigned vcpu);
	void *debug_context;
	bool restart;     /* the stop is a reset that starts over */
	bool suspend;     /* … and that waits for `wake` first (sleep.h) */
	bool wake;
	bool waking; /* the loader starts a guest that was suspended */
	int exit_status;
	const char *stop_reason; /* STOP_* */
	atomic_bool stop_requested; /* written under run_lock, read anywhere */
	pthread_mutex_t listener_lock;
	struct machine_listener listener[MACHINE_LISTENERS]; /* under listener_lock */
};

/*
 * Creates a machine with its RAM, devices, engine VM and vCPUs (in the state after reset). config and model
 * are copied; engine is one that engine_select returned. Returns 0, or a negative errno with error_text();
 * *machine is then untouched.
 */
int machine_create(struct machine **machine, const struct machine_config *config,
                   const struct cpu_model *model, const struct engine_ops *engine);
void machine_destroy(struct machine *machine);

/*
 * Called by machine_run with all devices and vCPUs in the state after reset, at the start and after each
 * reset that restarts: loads the guest and sets vCPU 0's state. Returns 0 or a negative errno with
 * error_text().
 */
void machine_set_loader(struct machine *machine, machine_loader loader, void *context);

/* Architectural state of a vCPU that does not run. Return 0 or a negative errno with error_text(). */
int machine_get_state(struct machine *machine, unsigned vcpu, struct vcpu_state *state);
int machine_set_state(struct machine *machine, unsigned vcpu, const struct vcpu_state *state);

/*
 * Host address of guest memory, while no vCPU runs or under lock; or NULL where [gpa, gpa + size) is not all
 * RAM of one slot.
 */
void *machine_memory(struct machine *machine, gpa_t gpa, uint64_t size);

/*
 * All vCPUs stand still after machine_pause returned (0; -EBUSY where the machine ends), until as many calls
 * of machine_resume. Not from a vCPU's thread, not under lock; from the event loop's thread it is fine. The
 * guest's clock goes on.
 */
int machine_pause(struct machine *machine);
void machine_resume(struct machine *machine);

/*
 * For a debugger. stopped(context, vcpu) is told, on the vCPU's thread, of each ENGINE_EXIT_DEBUG; all vCPUs then come to
 * stand still as after machine_pause, and each call takes one machine_resume. Before machine_run or while all stand
 * still; NULL: a vCPU simply goes on.
 */
void machine_set_debugger(struct machine *machine, void (*stopped)(void *context, unsigned vcpu),
                          void *context);
/* Keeps a vCPU standing, or lets it run with the others. While all stand still. */
void machine_freeze(struct machine *machine, unsigned vcpu, bool frozen);

/* Runs the guest until it stops; returns Nestor's exit status. Prints one line where the guest failed. */
int machine_run(struct machine *machine);

/* Ends machine_run with `status`; the first caller's counts. [any, lock held or not] */
void machine_stop(struct machine *machine, int status);
/* The same with a reason for listeners: STOP_*, a string that lives on. */
void machine_stop_because(struct machine *machine, int status, const char *reason);
/* Starts the machine over, whatever a guest's own reset does. Does nothing where it ends already. [any] */
void machine_restart(struct machine *machine, const char *reason);

/* A guest reset (`cause` for the trace): stops or restarts as configured. Under lock. */
void machine_reset_request(struct machine *machine, const char *cause);
/* The guest powered off: stop with status 0. Under lock. */
void machine_power_off(struct machine *machine);
/* The guest told of its own end (pvpanic). Under lock. */
void machine_guest_panicked(struct machine *machine, int status);
/* The guest asked for the exit status itself (isa-debug-exit). Under lock. */
void machine_device_exit(struct machine *machine, int status);

/* Around every use of a device from outside a device callback. Unlocking sends what the devices left to send.
 */
void machine_lock(struct machine *machine);
bool machine_trylock(struct machine *machine);
void machine_unlock(struct machine *machine);

/* For devices, under lock: an interrupt message to the local APICs; the level of the 8259 pair's INTR. */
void machine_send_msi(struct machine *machine, uint64_t address, uint32_t data);
void machine_set_extint(struct machine *machine, bool asserted);

/* Registers a device instance. Returns 0, or -ENOSPC with error_text(). */
int machine_add_device(struct machine *machine, const char *name, void *state, void (*reset)(void *state),
                       void (*destroy)(void *state));

/*
 * One number for RAM and the state of all vCPUs, and the instructions that they have retired (0 where nobody
 * counted). While no vCPU runs. Returns 0, or -ENOTSUP with error_text() where the engine cannot.
 */
int machine_state_hash(struct machine *machine, uint64_t *hash, uint64_t *instructions);

/* Machine-clock time, ns since the start. [any] */
uint64_t machine_now(struct machine *machine);

/*
 * Deterministic clock: the earliest deadline of any timer (UINT64_MAX: none), and: virtual time is now
 * `now_ns`, run what is due. From the vCPU's thread, no lock held; also reached through engine_host.
 */
uint64_t machine_next_deadline(struct machine *machine);
void machine_run_timers(struct machine *machine, uint64_t now_ns);

/* Every device back to the state after power-up. Under lock, while no vCPU runs. */
void machine_reset_devices(struct machine *machine);

/*
 * The engine for the configuration: KVM under AUTO only where a trial works. Returns NULL with error_text()
 * where the engine asked for is not usable here.
 */
const struct engine_ops *engine_select(const struct machine_config *config);

#endif

/*
 * What others are told of a machine's life (control, gdb), and what devices tell of themselves (`nestor info`).
 */
#ifndef NESTOR_MACHINE_NOTIFY_H
#define NESTOR_MACHINE_NOTIFY_H

#include <stdbool.h>
#include <stdio.h>

#define MACHINE_LISTENERS    4
#define MACHINE_DESCRIPTIONS 64

struct machine;

enum machine_event {
	MACHINE_EVENT_STARTED,   /* the guest is loaded, its vCPUs are about to run */
	MACHINE_EVENT_RESET,     /* the machine starts over; detail: why */
	MACHINE_EVENT_SHUTDOWN,  /* machine_run is about to return; detail: why */
	MACHINE_EVENT_POWERDOWN, /* the power button was pressed */
	MACHINE_EVENT_SUSPEND,   /* the guest sleeps (S3) */
	MACHINE_EVENT_WAKEUP,
	MACHINE_EVENT_PANICKED,    /* the guest says so (pvpanic), or a triple fault; detail: "panicked" or "crashloaded" */
	MACHINE_EVENT_STOPPED,     /* a client or debugger has stopped the vCPUs */
	MACHINE_EVENT_RESUMED,
	MACHINE_EVENT_BLOCK_ERROR, /* detail: the disk and what failed */
	MACHINE_EVENT_TRAY,        /* a CD drive's; detail: "disk1 open" or "disk1 closed" */
	MACHINE_EVENTS
};

/* One row of machine_add_description. */
struct machine_description {
	const char *topic, *name;
	void (*describe)(void *context, FILE *out);
	void *context;
};

struct machine_listener {
	/* Must neither block nor call the machine: it is called from any thread, under lock or not. */
	void (*notify)(void *context, enum machine_event event, const char *detail);
	void *context;
};

/* Why a machine stopped, as QMP's ShutdownCause spells it. */
#define STOP_GUEST_SHUTDOWN "guest-shutdown"
#define STOP_GUEST_RESET    "guest-reset"
#define STOP_GUEST_PANIC    "guest-panic"
#define STOP_GUEST_EXIT     "guest-exit" /* isa-debug-exit */
#define STOP_HOST_SIGNAL    "host-signal"
#define STOP_HOST_UI        "host-ui"
#define STOP_HOST_QUIT      "host-qmp-quit"
#define STOP_HOST_RESET     "host-qmp-system-reset"
#define STOP_HOST_ERROR     "host-error"

/* Before machine_run, or while it waits. Returns 0, or -ENOSPC with error_text(). */
int machine_add_listener(struct machine *machine, void (*notify)(void *, enum machine_event, const char *),
                         void *context);
/* After it returns notify() is not called any more. Not from notify(). */
void machine_remove_listener(struct machine *machine, void *context);

/* Tells all listeners. detail: borrowed for the call, or NULL. [any, lock held or not] */
void machine_notify(struct machine *machine, enum machine_event event, const char *detail);

/*
 * A paragraph for `nestor info TOPIC`: describe(context, out) prints lines, under lock. topic: "pci", "block",
 * "network", "irq", "display" … ; topic and name: borrowed for the machine's life. What does not fit is left out.
 */
void machine_add_description(struct machine *machine, const char *topic, const char *name,
                             void (*describe)(void *context, FILE *out), void *context);

/* Prints all descriptions of a topic; false where there is none. Takes the lock. */
bool machine_describe(struct machine *machine, const char *topic, FILE *out);

#endif

/*
 * What GDB asks, and the machine's answers: packets in, packets out, with no knowledge of sockets. Belongs to one
 * thread. All-stop mode: while GDB may ask, all vCPUs stand still.
 */
#ifndef NESTOR_GDB_STUB_H
#define NESTOR_GDB_STUB_H

#include <stdbool.h>
#include <stdint.h>

#include "device/platform.h"
#include "engine/engine.h"
#include "gdb/packet.h"
#include "gdb/registers.h"

struct machine;

/* What GDB inserted. type: that of its Z packet, 0 to 4. */
struct stub_point {
	uint64_t address;
	uint32_t size;
	uint8_t type;
};

enum stub_stop { STUB_STOP_SIGNAL, STUB_STOP_STEP, STUB_STOP_BREAKPOINT, STUB_STOP_WATCHPOINT };

/* Why a vCPU stopped. */
struct stub_reason {
	enum stub_stop stop;
	unsigned signal;
	uint64_t address;
	uint8_t access;
};

struct stub {
	struct machine *machine;
	struct registers registers;
	/* Sends an answer or a stop reply. */
	void (*send)(void *context, const char *data, size_t size);
	void *context;

	bool attached, running; /* attached and not running: one machine_pause is ours */
	bool no_ack;            /* QStartNoAckMode was agreed on */
	bool closing;           /* the connection is to end once what was sent has left */
	bool physical;          /* memory packets have addresses of the machine */
	uint8_t levels;         /* ENGINE_LEVEL_*: where vCPUs stop */
	unsigned current;       /* the vCPU that registers and memory are those of */
	struct stub_point point[ENGINE_DEBUG_POINTS];
	unsigned point_count;
	struct stub_reason last; /* what "?" repeats, of vCPU `current` as it was */
	unsigned last_vcpu;
	bool reported[PLATFORM_CPUS_MAX];           /* its stop at a breakpoint: it may pass it */
	bool pending[PLATFORM_CPUS_MAX];            /* stopped together with another one, not reported yet */
	struct stub_reason reason[PLATFORM_CPUS_MAX]; /* of those */
	char answer[2 * PACKET_MAX + 64];           /* being made */
};

/* kind: of code, for the description of registers. */
void stub_init(struct stub *stub, struct machine *machine, enum registers_kind kind,
               void (*send)(void *context, const char *data, size_t size), void *context);

/* A debugger is there: the machine stops. already_paused: it stands still for us already. Returns 0, or -EBUSY. */
int stub_attach(struct stub *stub, bool already_paused);
/* It is gone, or has detached: the machine goes on without it. */
void stub_detach(struct stub *stub);

/* A packet's data, a zero byte behind it (size: without). Answers through send. */
void stub_packet(struct stub *stub, const char *data, size_t size);
/* Ctrl-C. */
void stub_interrupt(struct stub *stub);

/*
 * vCPUs have stopped with ENGINE_EXIT_DEBUG: a bit each in mask. All stand still, and one machine_pause is ours.
 * Sends the stop reply, or lets them go on where none is to be told of.
 */
void stub_stopped(struct stub *stub, uint64_t mask);
/* The machine ends with this status. */
void stub_exited(struct stub *stub, int status);

/* monitor.c: a line of `monitor`; fills out (at most size bytes, a zero byte included). */
void stub_monitor(struct stub *stub, const char *line, char *out, size_t size);

#endif

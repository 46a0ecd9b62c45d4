/*
 * The machine's life: one thread per vCPU calls the engine until somebody asks for a stop; then all are
 * kicked and joined, and the machine ends or, after a reset that is to restart, loads its guest again.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "device/serial/terminal.h"
#include "engine/vcpu_state.h"
#include "machine/event_loop.h"
#include "machine/machine.h"
#include "util/error.h"

#define STOP_PATIENCE_S 5

static void request_stop(struct machine *machine, int status, bool restart, const char *reason)
{
	pthread_mutex_lock(&machine->run_lock);
	if (!atomic_load(&machine->stop_requested)) {
		machine->exit_status = status;
		machine->restart = restart;
		machine->stop_reason = reason;
		atomic_store(&machine->stop_requested, true);
	} else if (!restart && machine->restart) {
		machine->exit_status = status; /* an end beats a restart that is under way */
		machine->restart = false;
		machine->stop_reason = reason;
	} else if (restart && machine->suspend) {
		machine->stop_reason = reason;
		machine->suspend = false; /* nothing of what sleeps is kept */
	}
	pthread_cond_broadcast(&machine->run_changed); /* machine_run kicks the vCPUs */
	pthread_mutex_unlock(&machine->run_lock);
}

void machine_stop(struct machine *machine, int status)
{
	request_stop(machine, status, false, STOP_HOST_ERROR);
}

void machine_stop_because(struct machine *machine, int status, const char *reason)
{
	request_stop(machine, status, false, reason);
}

void machine_restart(struct machine *machine, const char *reason)
{
	request_stop(machine, 0, true, reason);
}

/*
 * From a device: stop_kick makes the unlock after the present access kick the vCPU before it returns to its
 * guest, so that it runs not one instruction more than it must.
 */
static void device_stop(struct machine *machine, int status, bool restart, const char *reason)
{
	machine->stop_kick = true;
	request_stop(machine, status, restart, reason);
}

void machine_device_exit(struct machine *machine, int status)
{
	device_stop(machine, status, false, STOP_GUEST_EXIT);
}

void machine_guest_panicked(struct machine *machine, int status)
{
	device_stop(machine, status, false, STOP_GUEST_PANIC);
}

void machine_reset_request(struct machine *machine, const char *cause)
{
	if (machine->config.trace)
		fprintf(stderr, "guest reset through %s\n", cause);
	device_stop(machine, 0, machine->config.on_reset == MACHINE_ON_RESET_RESTART, STOP_GUEST_RESET);
}

void machine_power_off(struct machine *machine)
{
	device_stop(machine, 0, false, STOP_GUEST_SHUTDOWN);
}

void machine_set_loader(struct machine *machine, machine_loader loader, void *context)
{
	machine->loader = loader;
	machine->loader_context = context;
}

int machine_get_state(struct machine *machine, unsigned vcpu, struct vcpu_state *state)
{
	if (vcpu >= machine->config.cpu_count)
		return error_set(EINVAL, "there is no CPU %u", vcpu);
	return machine->engine->vcpu_get_state(machine->vcpu[vcpu].engine_vcpu, state);
}

int machine_set_state(struct machine *machine, unsigned vcpu, const struct vcpu_state *state)
{
	if (vcpu >= machine->config.cpu_count)
		return error_set(EINVAL, "there is no CPU %u", vcpu);
	return machine->engine->vcpu_set_state(machine->vcpu[vcpu].engine_vcpu, state);
}

/* ---- vCPU threads ---- */

static void report_triple_fault(struct machine_vcpu *vcpu)
{
	struct vcpu_state state;

	memset(&state, 0, sizeof(state));
	if (machine_get_state(vcpu->machine, vcpu->index, &state)) {
		fprintf(stderr, "nestor: triple fault on CPU %u%s", vcpu->index, terminal_newline());
		return;
	}
	fprintf(stderr,
	        "nestor: triple fault on CPU %u at %04x:%016" PRIx64 ", CR0 %#" PRIx64 " CR2 %#" PRIx64
	        " CR3 %#" PRIx64 " CR4 %#" PRIx64 " EFER %#" PRIx64 " RSP %#" PRIx64 "%s",
	        vcpu->index, state.seg[SEG_CS].selector, state.rip, state.cr0, state.cr2, state.cr3,
	        state.cr4, state.efer, state.gpr[REG_RSP], terminal_newline());
}

static bool must_stand(struct machine_vcpu *vcpu)
{
	struct machine *machine = vcpu->machine;

	return atomic_load(&machine->pauses) || atomic_load(&vcpu->frozen) ||
	       atomic_load(&machine->map_changed);
}

/* Waits until nobody wants the vCPUs to stand still. The last to come makes a new memory map true. */
static void stand_still(struct machine_vcpu *vcpu)
{
	struct machine *machine = vcpu->machine;

	pthread_mutex_lock(&machine->run_lock);
	machine->standing++;
	pthread_cond_broadcast(&machine->run_changed);
	while (must_stand(vcpu) && !atomic_load(&machine->stop_requested)) {
		if (atomic_load(&machine->map_changed) && machine->standing == machine->running) {
			/* The others cannot go on meanwhile: map_changed keeps them. */
			pthread_mutex_unlock(&machine->run_lock);
			machine_lock(machine);
			if (atomic_load(&machine->map_changed))
				memory_map_apply(machine);
			machine_unlock(machine);
			pthread_mutex_lock(&machine->run_lock);
			pthread_cond_broadcast(&machine->run_changed);
			continue;
		}
		pthread_cond_wait(&machine->run_changed, &machine->run_lock);
	}
	machine->standing--;
	pthread_mutex_unlock(&machine->run_lock);
}

static void kick_all(struct machine *machine)
{
	for (unsigned i = 0; i < machine->config.cpu_count; i++)
		if (machine->vcpu[i].thread_started)
			machine->engine->vcpu_kick(machine->vcpu[i].engine_vcpu);
}

void machine_set_debugger(struct machine *machine, void (*stopped)(void *context, unsigned vcpu),
                          void *context)
{
	pthread_mutex_lock(&machine->run_lock);
	machine->debug_stopped = stopped;
	machine->debug_context = context;
	pthread_mutex_unlock(&machine->run_lock);
}

void machine_freeze(struct machine *machine, unsigned vcpu, bool frozen)
{
	atomic_store(&machine->vcpu[vcpu].frozen, frozen);
}

/* Nobody waits here: who is told of it does. */
static void stop_for_debugger(struct machine_vcpu *vcpu)
{
	struct machine *machine = vcpu->machine;

	pthread_mutex_lock(&machine->run_lock);
	if (machine->debug_stopped) {
		atomic_fetch_add(&machine->pauses, 1);
		kick_all(machine);
		machine->debug_stopped(machine->debug_context, vcpu->index);
	}
	pthread_mutex_unlock(&machine->run_lock);
}

static void *vcpu_thread(void *argument)
{
	struct machine_vcpu *vcpu = argument;
	struct machine *machine = vcpu->machine;
	char name[16];

	snprintf(name, sizeof(name), "nestor-cpu%u", vcpu->index % 1000);
	pthread_setname_np(pthread_self(), name);
	atomic_store(&vcpu->thread_id, gettid());
	while (!atomic_load(&machine->stop_requested)) {
		if (must_stand(vcpu)) {
			stand_still(vcpu);
			continue;
		}
		switch (machine->engine->vcpu_run(vcpu->engine_vcpu)) {
		case ENGINE_EXIT_KICKED:
			break;
		case ENGINE_EXIT_SHUTDOWN:
			if (machine->config.on_reset == MACHINE_ON_RESET_RESTART) {
				request_stop(machine, 0, true, STOP_GUEST_RESET);
				break;
			}
			if (!machine->quiet)
				report_triple_fault(vcpu);
			machine_stop_because(machine, 1, STOP_GUEST_PANIC);
			break;
		case ENGINE_EXIT_ERROR:
			if (!machine->quiet)
				fprintf(stderr, "nestor: CPU %u: %s%s", vcpu->index, error_text(),
				        terminal_newline());
			machine_stop(machine, 1);
			break;
		case ENGINE_EXIT_DEBUG:
			stop_for_debugger(vcpu);
			break;
		}
	}
	pthread_mutex_lock(&machine->run_lock);
	machine->running--;
	pthread_cond_broadcast(&machine->run_changed);
	pthread_mutex_unlock(&machine->run_lock);
	return NULL;
}

int machine_pause(struct machine *machine)
{
	bool ends;

	pthread_mutex_lock(&machine->run_lock);
	atomic_fetch_add(&machine->pauses, 1);
	kick_all(machine);
	while (machine->standing < machine->running && !atomic_load(&machine->stop_requested))
		pthread_cond_wait(&machine->run_changed, &machine->run_lock);
	ends = atomic_load(&machine->stop_requested);
	if (ends)
		atomic_fetch_sub(&machine->pauses, 1);
	pthread_mutex_unlock(&machine->run_lock);
	return ends ? -EBUSY : 0;
}

void machine_resume(struct machine *machine)
{
	pthread_mutex_lock(&machine->run_lock);
	atomic_fetch_sub(&machine->pauses, 1);
	pthread_cond_broadcast(&machine->run_changed);
	pthread_mutex_unlock(&machine->run_lock);
}

static int start_vcpus(struct machine *machine)
{
	int result = 0;

	for (unsigned i = 0; i < machine->config.cpu_count && !result; i++) {
		struct machine_vcpu *vcpu = &machine->vcpu[i];

		pthread_mutex_lock(&machine->run_lock);
		machine->running++;
		pthread_mutex_unlock(&machine->run_lock);
		result = pthread_create(&vcpu->thread, NULL, vcpu_thread, vcpu);
		vcpu->thread_started = result == 0;
		if (result) {
			pthread_mutex_lock(&machine->run_lock);
			machine->running--;
			pthread_mutex_unlock(&machine->run_lock);
			machine_stop(machine, 1);
			error_set(result, "cannot start a CPU thread: %s", strerror(result));
		}
	}
	return -result;
}

/* A vCPU that does not come back from its engine must not keep the user from leaving. */
static void give_up(struct machine *machine)
{
	terminal_restore();
	fprintf(stderr, "nestor: a CPU thread does not stop; leaving without it\n");
	_exit(machine->exit_status ? machine->exit_status : 1);
}

/* Waits for a stop request, then for all vCPU threads, kicking them now and then. */
static void wait_for_vcpus(struct machine *machine)
{
	struct timespec until;
	unsigned attempts = 0;

	pthread_mutex_lock(&machine->run_lock);
	while (!atomic_load(&machine->stop_requested))
		pthread_cond_wait(&machine->run_changed, &machine->run_lock);
	while (machine->running) {
		pthread_mutex_unlock(&machine->run_lock);
		if (attempts++ > STOP_PATIENCE_S * 10)
			give_up(machine);
		kick_all(machine);
		pthread_mutex_lock(&machine->run_lock);
		if (!machine->running)
			break;
		clock_gettime(CLOCK_REALTIME, &until);
		until.tv_nsec += 100000000;
		if (until.tv_nsec >= 1000000000) {
			until.tv_nsec -= 1000000000;
			until.tv_sec++;
		}
		pthread_cond_timedwait(&machine->run_changed, &machine->run_lock, &until);
	}
	pthread_mutex_unlock(&machine->run_lock);
	for (unsigned i = 0; i < machine->config.cpu_count; i++) {
		if (machine->vcpu[i].thread_started)
			pthread_join(machine->vcpu[i].thread, NULL);
		machine->vcpu[i].thread_started = false;
	}
}

/*
 * Power-up state of everything; RAM is zero again, as the loader expects it. For suspend to RAM that stays, and so do
 * the parts of devices that remain under power.
 */
static void reset_machine(struct machine *machine, bool suspend)
{
	machine_lock(machine);
	machine->sleeping = suspend;
	machine_reset_devices(machine);
	machine_unlock(machine);
	if (!suspend)
		memory_map_clear_ram(machine); /* no device stores into it any more */
	if (atomic_load(&machine->map_changed)) {
		machine_lock(machine);
		memory_map_apply(machine);
		machine_unlock(machine);
	}
	for (unsigned i = 0; i < machine->config.cpu_count; i++) {
		timer_cancel(&machine->vcpu[i].timer);
		machine->engine->vcpu_reset(machine->vcpu[i].engine_vcpu);
	}
}

/* False where the machine ends in its sleep. */
static bool reset_or_sleep(struct machine *machine)
{
	bool suspend = machine->suspend;

	machine->waking = false;
	reset_machine(machine, suspend);
	if (!suspend)
		return true;
	machine->waking = machine_sleep_through(machine);
	if (machine->waking)
		return true;
	if (!machine->restart)
		return false;
	reset_machine(machine, false);
	return true;
}

int machine_run(struct machine *machine)
{
	int status = 1;

	if (machine->loader && machine->loader(machine, machine->loader_context)) {
		fprintf(stderr, "nestor: %s%s", error_text(), terminal_newline());
		return 2;
	}
	if (event_loop_start(machine->loop)) {
		fprintf(stderr, "nestor: %s%s", error_text(), terminal_newline());
		return 1;
	}
	machine_notify(machine, MACHINE_EVENT_STARTED, NULL);
	for (;;) {
		if (start_vcpus(machine))
			fprintf(stderr, "nestor: %s%s", error_text(), terminal_newline());
		wait_for_vcpus(machine);
		status = machine->exit_status;
		if (!machine->restart || !machine->loader)
			break;
		if (!reset_or_sleep(machine)) {
			status = machine->exit_status;
			break;
		}
		if (machine->loader(machine, machine->loader_context)) {
			fprintf(stderr, "nestor: %s%s", error_text(), terminal_newline());
			status = 2;
			break;
		}
		if (!machine->waking)
			machine_notify(machine, MACHINE_EVENT_RESET, machine->stop_reason);
		pthread_mutex_lock(&machine->run_lock);
		/* A request to end that came meanwhile has taken the restart back. */
		bool ended = !machine->restart;

		status = machine->exit_status;
		machine->restart = false;
		if (!ended)
			atomic_store(&machine->stop_requested, false);
		pthread_mutex_unlock(&machine->run_lock);
		if (ended)
			break;
	}
	machine_notify(machine, MACHINE_EVENT_SHUTDOWN, machine->stop_reason);
	event_loop_stop(machine->loop);
	return status;
}

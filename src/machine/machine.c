/* Putting a machine together: RAM, buses, engine, and what the engine may ask of it. Lifecycle is in run.c.
 */
#include "machine/machine.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "device/devices.h"
#include "device/chipset/ioapic.h"
#include "device/chipset/pic.h"
#include "machine/event_loop.h"
#include "util/error.h"

/* ---- lock and outbox ---- */

void machine_lock(struct machine *machine)
{
	pthread_mutex_lock(&machine->lock);
}

bool machine_trylock(struct machine *machine)
{
	return pthread_mutex_trylock(&machine->lock) == 0;
}

static void kick_all(struct machine *machine)
{
	for (unsigned i = 0; i < machine->config.cpu_count; i++)
		if (machine->vcpu[i].engine_vcpu)
			machine->engine->vcpu_kick(machine->vcpu[i].engine_vcpu);
}

/*
 * Takes the outbox's contents and hands them to the engine. delivery_lock keeps batches in order: without it
 * a thread could deliver an older level of INTR after a newer one.
 */
static void deliver(struct machine *machine)
{
	struct machine_msi batch[MACHINE_OUTBOX];
	unsigned count;
	bool extint, extint_changed, stop;

	pthread_mutex_lock(&machine->delivery_lock);
	pthread_mutex_lock(&machine->lock);
	count = machine->outbox_count;
	memcpy(batch, machine->outbox, count * sizeof(batch[0]));
	machine->outbox_count = 0;
	extint = machine->extint;
	extint_changed = extint != machine->extint_sent;
	machine->extint_sent = extint;
	stop = machine->stop_kick;
	machine->stop_kick = false;
	pthread_mutex_unlock(&machine->lock);
	for (unsigned i = 0; i < count; i++)
		machine->engine->deliver_msi(machine->vm, batch[i].address, batch[i].data);
	if (extint_changed)
		machine->engine->set_extint(machine->vm, extint);
	pthread_mutex_unlock(&machine->delivery_lock);
	if (stop)
		kick_all(machine);
}

void machine_unlock(struct machine *machine)
{
	bool work = machine->vm &&
	            (machine->outbox_count || machine->extint != machine->extint_sent || machine->stop_kick);

	pthread_mutex_unlock(&machine->lock);
	if (work)
		deliver(machine);
}

void machine_send_msi(struct machine *machine, uint64_t address, uint32_t data)
{
	/*
	 * A full outbox takes a guest that makes one access cause this many messages; what is lost then is
	 * an edge that an identical one before it very likely carried.
	 */
	if (machine->outbox_count < MACHINE_OUTBOX)
		machine->outbox[machine->outbox_count++] = (struct machine_msi){address, data};
}

void machine_set_extint(struct machine *machine, bool asserted)
{
	machine->extint = asserted;
}

/* ---- what the engine calls ---- */

static void trace_io(const char *what, struct bus *bus, uint64_t address, unsigned size, uint64_t value)
{
	const struct bus_range *range = bus_find(bus, address);

	fprintf(stderr, "%s %#" PRIx64 " size %u value %#" PRIx64 " (%s)\n", what, address, size, value,
	        range ? range->name : "unclaimed");
}

static uint32_t host_pio_read(void *context, uint16_t port, unsigned size)
{
	struct machine *machine = context;
	uint32_t value;

	machine_lock(machine);
	value = (uint32_t)bus_read(&machine->pio, port, size);
	if (machine->config.trace & ENGINE_TRACE_IO)
		trace_io("in  port", &machine->pio, port, size, value);
	machine_unlock(machine);
	return value;
}

static void host_pio_write(void *context, uint16_t port, unsigned size, uint32_t value)
{
	struct machine *machine = context;

	machine_lock(machine);
	if (machine->config.trace & ENGINE_TRACE_IO)
		trace_io("out port", &machine->pio, port, size, value);
	bus_write(&machine->pio, port, size, value);
	machine_unlock(machine);
}

static uint64_t host_mmio_read(void *context, gpa_t gpa, unsigned size)
{
	struct machine *machine = context;
	uint64_t value;

	machine_lock(machine);
	value = bus_read(&machine->mmio, gpa.v, size);
	if (machine->config.trace & ENGINE_TRACE_IO)
		trace_io("read", &machine->mmio, gpa.v, size, value);
	machine_unlock(machine);
	return value;
}

static void host_mmio_write(void *context, gpa_t gpa, unsigned size, uint64_t value)
{
	struct machine *machine = context;

	machine_lock(machine);
	if (machine->config.trace & ENGINE_TRACE_IO)
		trace_io("write", &machine->mmio, gpa.v, size, value);
	bus_write(&machine->mmio, gpa.v, size, value);
	machine_unlock(machine);
}

static int host_interrupt_acknowledge(void *context)
{
	struct machine *machine = context;
	int vector;

	machine_lock(machine);
	vector = machine->pic ? pic_acknowledge(machine->pic) : -1;
	machine_unlock(machine);
	return vector;
}

static void host_eoi(void *context, uint8_t vector)
{
	struct machine *machine = context;

	machine_lock(machine);
	if (machine->ioapic)
		ioapic_eoi(machine->ioapic, vector);
	machine_unlock(machine);
}

static void host_timer_arm(void *context, unsigned vcpu_index, uint64_t deadline_ns)
{
	struct machine *machine = context;

	if (vcpu_index < machine->config.cpu_count)
		timer_arm(&machine->vcpu[vcpu_index].timer, deadline_ns);
}

static uint64_t host_clock_ns(void *context)
{
	return machine_now(context);
}

static void host_clock_advance(void *context, uint64_t now_ns)
{
	machine_run_timers(context, now_ns);
}

static uint64_t host_next_deadline(void *context)
{
	return machine_next_deadline(context);
}

/* ---- time ---- */

uint64_t machine_now(struct machine *machine)
{
	return clock_now(&machine->clock);
}

uint64_t machine_next_deadline(struct machine *machine)
{
	return timer_queue_next(&machine->timers);
}

/*
 * A locked timer is taken from the queue with the machine lock held, so that who cancels it under that lock
 * knows that it will not fire. Every callback gets its own hold of the lock, which lets vCPUs in between.
 */
void machine_run_timers(struct machine *machine, uint64_t now_ns)
{
	clock_advance(&machine->clock, now_ns);
	for (;;) {
		struct machine_timer *timer;

		/* Most calls under the deterministic clock find nothing due: no need for the lock then. */
		if (timer_queue_next(&machine->timers) > now_ns)
			return;
		machine_lock(machine);
		timer = timer_queue_take(&machine->timers, now_ns);
		if (timer && !timer->unlocked)
			timer->expired(timer->context);
		machine_unlock(machine);
		if (!timer)
			return;
		if (timer->unlocked)
			timer->expired(timer->context);
	}
}

static void vcpu_timer_expired(void *context)
{
	struct machine_vcpu *vcpu = context;

	if (vcpu->engine_vcpu)
		vcpu->machine->engine->vcpu_timer_expired(vcpu->engine_vcpu);
}

/* ---- creation ---- */

int machine_add_device(struct machine *machine, const char *name, void *state, void (*reset)(void *state),
                       void (*destroy)(void *state))
{
	if (machine->device_count == MACHINE_DEVICES)
		return error_set(ENOSPC, "%s: too many devices", name);
	machine->device[machine->device_count++] = (struct device){name, state, reset, destroy};
	return 0;
}

void machine_reset_devices(struct machine *machine)
{
	for (unsigned i = 0; i < machine->device_count; i++)
		if (machine->device[i].reset)
			machine->device[i].reset(machine->device[i].state);
}

static int create_engine(struct machine *machine)
{
	struct engine_config config = {
	    .host = &machine->host,
	    .cpu_model = &machine->cpu_model,
	    .clock = machine->config.clock,
	    .trace = machine->config.trace,
	    .cpu_count = machine->config.cpu_count,
	    .tune_off = machine->config.tune_off,
	    .code_memory = machine->config.code_memory,
	};
	int error = machine->engine->vm_create(&machine->vm, &config);

	for (unsigned i = 0; i < machine->config.cpu_count && !error; i++)
		error = machine->engine->vcpu_create(machine->vm, i, &machine->vcpu[i].engine_vcpu);
	return error;
}

static int create_parts(struct machine *machine)
{
	int error = memory_map_create(machine);

	for (unsigned i = 0; i < machine->config.cpu_count && !error; i++) {
		struct machine_vcpu *vcpu = &machine->vcpu[i];

		vcpu->machine = machine;
		vcpu->index = i;
		error = timer_init(&vcpu->timer, &machine->timers, vcpu_timer_expired, vcpu);
		vcpu->timer.unlocked = true;
	}
	if (!error)
		error = event_loop_create(&machine->loop, machine);
	if (!error)
		error = devices_create(machine);
	if (!error)
		machine_reset_devices(machine);
	if (!error)
		error = create_engine(machine);
	return error;
}

int machine_create(struct machine **result, const struct machine_config *config,
                   const struct cpu_model *model, const struct engine_ops *engine)
{
	struct machine *machine;
	int error;

	if (config->cpu_count < 1 || config->cpu_count > PLATFORM_CPUS_MAX)
		return error_set(EINVAL, "%u CPUs: give 1 to %u", config->cpu_count, PLATFORM_CPUS_MAX);
	machine = calloc(1, sizeof(*machine));
	if (!machine)
		return error_set(ENOMEM, "out of memory for the machine");
	machine->config = *config;
	machine->cpu_model = *model;
	machine->engine = engine;
	machine->host = (struct engine_host){
	    .context = machine,
	    .memory = &machine->memory,
	    .pio_read = host_pio_read,
	    .pio_write = host_pio_write,
	    .mmio_read = host_mmio_read,
	    .mmio_write = host_mmio_write,
	    .interrupt_acknowledge = host_interrupt_acknowledge,
	    .eoi = host_eoi,
	    .timer_arm = host_timer_arm,
	    .clock_ns = host_clock_ns,
	    .clock_advance = host_clock_advance,
	    .next_deadline = host_next_deadline,
	};
	pthread_mutex_init(&machine->lock, NULL);
	pthread_mutex_init(&machine->delivery_lock, NULL);
	pthread_mutex_init(&machine->run_lock, NULL);
	pthread_mutex_init(&machine->listener_lock, NULL);
	pthread_rwlock_init(&machine->dma_lock, NULL);
	pthread_cond_init(&machine->run_changed, NULL);
	clock_init(&machine->clock, config->clock);
	timer_queue_init(&machine->timers);
	error = create_parts(machine);
	if (error) {
		machine_destroy(machine);
		return error;
	}
	*result = machine;
	return 0;
}

void machine_destroy(struct machine *machine)
{
	if (!machine)
		return;
	if (machine->loop)
		event_loop_stop(machine->loop);
	if (machine->vm)
		machine->engine->vm_destroy(machine->vm);
	machine->vm = NULL;
	for (unsigned i = machine->device_count; i-- > 0;)
		if (machine->device[i].destroy)
			machine->device[i].destroy(machine->device[i].state);
	event_loop_destroy(machine->loop);
	memory_map_destroy(machine);
	pthread_mutex_destroy(&machine->timers.lock);
	pthread_mutex_destroy(&machine->lock);
	pthread_mutex_destroy(&machine->delivery_lock);
	pthread_mutex_destroy(&machine->run_lock);
	pthread_mutex_destroy(&machine->listener_lock);
	pthread_rwlock_destroy(&machine->dma_lock);
	pthread_cond_destroy(&machine->run_changed);
	free(machine);
}

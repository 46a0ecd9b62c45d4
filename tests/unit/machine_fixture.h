/*
 * A machine without guest code for device tests: deterministic clock, and an engine that only records what
 * reaches it. Include after cmocka.h's prerequisites.
 */
#ifndef NESTOR_TESTS_MACHINE_FIXTURE_H
#define NESTOR_TESTS_MACHINE_FIXTURE_H

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "device/pci/pci_bus.h"
#include "machine/machine.h"
#include "util/error.h"

struct engine_vm {
	uint64_t msi_address[256];
	uint32_t msi_data[256];
	unsigned msi_count, kicks;
	bool extint;
};

static struct engine_vm fake_vm;

static int fake_vm_create(struct engine_vm **vm, const struct engine_config *config)
{
	memset(&fake_vm, 0, sizeof(fake_vm));
	*vm = &fake_vm;
	return 0;
}

static void fake_vm_destroy(struct engine_vm *vm)
{
}

static int fake_vcpu_create(struct engine_vm *vm, unsigned index, struct engine_vcpu **vcpu)
{
	*vcpu = (struct engine_vcpu *)vm;
	return 0;
}

static void fake_kick(struct engine_vcpu *vcpu)
{
	fake_vm.kicks++;
}

static void fake_msi(struct engine_vm *vm, uint64_t address, uint32_t data)
{
	if (vm->msi_count < 256) {
		vm->msi_address[vm->msi_count] = address;
		vm->msi_data[vm->msi_count++] = data;
	}
}

static void fake_extint(struct engine_vm *vm, bool asserted)
{
	vm->extint = asserted;
}

static void fake_timer_expired(struct engine_vcpu *vcpu)
{
}

static const struct engine_ops fake_engine = {
    .name = "fake",
    .vm_create = fake_vm_create,
    .vm_destroy = fake_vm_destroy,
    .vcpu_create = fake_vcpu_create,
    .vcpu_kick = fake_kick,
    .deliver_msi = fake_msi,
    .set_extint = fake_extint,
    .vcpu_timer_expired = fake_timer_expired,
};

static inline struct machine_config fixture_config(const char *serial)
{
	return (struct machine_config){
	    .memory_size = 8u << 20,
	    .cpu_count = 1,
	    .clock = ENGINE_CLOCK_DETERMINISTIC,
	    .rtc_start = 1767225600, /* 2026-01-01 00:00:00 UTC, a Thursday */
	    .serial = {serial},
	};
}

static inline struct machine *fixture_create_from(const struct machine_config *config)
{
	struct cpu_model model = {.cpu_count = 1};
	struct machine *machine = NULL;

	/* Set up as for a kernel that starts without firmware. */
	if (machine_create(&machine, config, &model, &fake_engine) || pci_setup(machine)) {
		fprintf(stderr, "%s\n", error_text());
		abort();
	}
	return machine;
}

static inline struct machine *fixture_create(const char *serial)
{
	struct machine_config config = fixture_config(serial);

	return fixture_create_from(&config);
}

/* device: what --device would say. */
static inline struct machine *fixture_create_with(const char *serial, const char *device)
{
	struct machine_config config = fixture_config(serial);

	config.device[config.device_count++] = device;
	return fixture_create_from(&config);
}

static inline uint32_t in(struct machine *machine, uint16_t port, unsigned size)
{
	return machine->host.pio_read(machine, port, size);
}

static inline void out(struct machine *machine, uint16_t port, unsigned size, uint32_t value)
{
	machine->host.pio_write(machine, port, size, value);
}

static inline uint64_t load(struct machine *machine, uint64_t address, unsigned size)
{
	return machine->host.mmio_read(machine, GPA(address), size);
}

static inline void store(struct machine *machine, uint64_t address, unsigned size, uint64_t value)
{
	machine->host.mmio_write(machine, GPA(address), size, value);
}

static inline void set_irq(struct machine *machine, struct irq_pin *pin, bool level)
{
	machine_lock(machine);
	irq_pin_set(pin, level);
	machine_unlock(machine);
}

/* Lets virtual time pass, stopping at each deadline as the vCPU would. */
static inline void pass(struct machine *machine, uint64_t ns)
{
	uint64_t end = machine_now(machine) + ns;

	for (;;) {
		uint64_t next = machine_next_deadline(machine);

		if (next > end)
			break;
		machine_run_timers(machine, next);
	}
	machine_run_timers(machine, end);
}

static inline int acknowledge(struct machine *machine)
{
	return machine->host.interrupt_acknowledge(machine);
}

/* Both 8259 as a PC's firmware does: vectors 20h and 28h, nothing masked. */
static inline void init_pics(struct machine *machine, uint8_t icw4_master, uint8_t icw4_slave)
{
	out(machine, 0x20, 1, 0x11);
	out(machine, 0x21, 1, 0x20);
	out(machine, 0x21, 1, 0x04);
	out(machine, 0x21, 1, icw4_master);
	out(machine, 0xa0, 1, 0x11);
	out(machine, 0xa1, 1, 0x28);
	out(machine, 0xa1, 1, 0x02);
	out(machine, 0xa1, 1, icw4_slave);
}

#endif

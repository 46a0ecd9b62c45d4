/*
 * Which engine runs a machine. That /dev/kvm opens says little: nested KVM that fails at its first VM entry,
 * a hypervisor that holds VT-x, missing features. So the choice rests on a trial: a machine of one page of
 * real-mode code that leaves through the debug-exit port.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "engine/kvm_probe.h"
#include "engine/vcpu_state.h"
#include "machine/machine.h"
#include "util/error.h"

#define TRIAL_ADDRESS 0x1000
#define TRIAL_STATUS  ((0x2a << 1) | 1)
#define TRIAL_NS      UINT64_C(3000000000)

static int load_trial(struct machine *machine, void *context)
{
	static const uint8_t code[] = {
	    0xb0, 0x2a,                /* mov $0x2a, %al */
	    0xe6, PLATFORM_DEBUG_EXIT, /* out %al, $0xf4 */
	    0xf4,                      /* hlt */
	    0xeb, 0xfd,                /* jmp to the hlt */
	};
	struct vcpu_state state;
	void *memory = machine_memory(machine, GPA(TRIAL_ADDRESS), sizeof(code));
	int error = machine_get_state(machine, 0, &state);

	if (error || !memory)
		return error ? error : error_set(ENOMEM, "no memory for the trial");
	memcpy(memory, code, sizeof(code));
	state.seg[SEG_CS].selector = 0;
	state.seg[SEG_CS].base = 0;
	state.rip = TRIAL_ADDRESS;
	return machine_set_state(machine, 0, &state);
}

static void trial_timed_out(void *context)
{
	machine_stop(context, 1);
}

/* Runs the trial on `engine` with the CPU that the configuration asks for. */
static int try_engine(const struct machine_config *config, const struct engine_ops *engine)
{
	struct machine_config trial = {
	    .memory_size = 2u << 20,
	    .cpu_count = 1,
	    .cpu = config->cpu,
	    .clock = ENGINE_CLOCK_REAL,
	    .rtc_start = INT64_MIN,
	};
	struct machine_timer timer;
	struct cpu_model model;
	struct machine *machine;
	int status, error;

	trial.cpu.cpu_count = 1;
	error = cpu_model_make(&model, &trial.cpu);
	if (!error)
		error = machine_create(&machine, &trial, &model, engine);
	if (error)
		return error;
	machine->quiet = true;
	machine_set_loader(machine, load_trial, NULL);
	error = timer_init(&timer, &machine->timers, trial_timed_out, machine);
	if (!error) {
		timer_arm(&timer, machine_now(machine) + TRIAL_NS);
		status = machine_run(machine);
		if (status != TRIAL_STATUS)
			error =
			    error_set(EIO, "%s: a trial VM does not run (status %d)", engine->name, status);
		timer_cancel(&timer);
	}
	machine_destroy(machine);
	return error;
}

/* The engine's own probe tells best what is wrong with /dev/kvm; our trial adds the CPU model and our devices. */
static const struct engine_ops *select_kvm(const struct machine_config *config)
{
	const char *why_not;
	char reason[256];

	if (engine_kvm_probe(config->cpu.nested_vmx, &why_not)) {
		/* why_not may live where error_set writes */
		snprintf(reason, sizeof(reason), "%s", why_not);
		error_set(ENODEV, "engine kvm: %s", reason);
		return NULL;
	}
	return try_engine(config, &engine_kvm) ? NULL : &engine_kvm;
}

static const struct engine_ops *select_soft(void)
{
#ifdef NESTOR_HAVE_ZYDIS
	return &engine_soft;
#else
	error_set(ENOSYS, "this build has no software engine: it was made without Zydis");
	return NULL;
#endif
}

const struct engine_ops *engine_select(const struct machine_config *config)
{
	const struct engine_ops *engine;

	switch (config->engine) {
	case MACHINE_ENGINE_SOFT:
		return select_soft();
	case MACHINE_ENGINE_KVM:
		return select_kvm(config);
	default:
		engine = config->clock == ENGINE_CLOCK_REAL ? select_kvm(config) : NULL;
		return engine ? engine : select_soft();
	}
}

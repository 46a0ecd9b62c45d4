/* nestor run: one virtual machine from its options to its exit status. */
#include "cli/cli.h"

#include <inttypes.h>
#include <string.h>

#include "cli/session.h"
#include "config/options.h"
#include "device/optional/optional.h"
#include "engine/cpu_model.h"
#include "machine/load.h"
#include "machine/machine.h"
#include "machine/notify.h"
#include "util/error.h"

static void print_state_hash(struct machine *machine)
{
	uint64_t hash, instructions;

	if (machine_state_hash(machine, &hash, &instructions))
		fprintf(stderr, "nestor: %s\n", error_text());
	else
		fprintf(stderr, "nestor: state hash %016" PRIx64 " after %" PRIu64 " instructions\n", hash,
		        instructions);
}

static int run_machine(struct session *session, const struct options *options,
                       const struct machine_config *config)
{
	const struct engine_ops *engine;
	struct cpu_model model;
	struct machine *machine;
	int status;

	if (cpu_model_make(&model, &config->cpu))
		return usage_error("run", "%s", error_text());
	if (config->firmware)
		model.vmx_firmware = VMX_FIRMWARE_UNLOCKED; /* until firmware does as fw_cfg tells it */
	engine = engine_select(config);
	if (!engine)
		return usage_error("run", "%s", error_text());
	if (machine_create(&machine, config, &model, engine))
		return usage_error("run", "%s", error_text());
	machine_set_loader(machine, machine_load_guest, NULL);
	if (session_start(session, machine)) {
		status = usage_error("run", "%s", error_text());
		session_stop(session, status);
		machine_destroy(machine);
		return status;
	}
	status = machine_run(machine);
	/* A command's status must not be taken from a kernel that never came to it. */
	if (options->host_root.wanted && status == 0 && machine->stop_reason &&
	    strcmp(machine->stop_reason, STOP_GUEST_RESET) == 0) {
		usage_error("run", "the guest was reset before its command ended, as after a kernel panic; "
				   "--append loglevel=7 shows more");
		status = STATUS_REFUSED;
	}
	session_stop(session, status);
	if (options->state_hash)
		print_state_hash(machine);
	machine_destroy(machine);
	return status;
}

static int run(struct options *options)
{
	struct machine_config config = options->machine;
	struct session session;
	int status;

	if (host_root_prepare(&options->host_root, &config))
		return usage_error("run", "%s", error_text());
	if (session_begin(&session, options, &config))
		status = usage_error("run", "%s", error_text());
	else
		status = run_machine(&session, options, &config);
	session_end(&session);
	return status;
}

int command_run(int argc, char **argv)
{
	struct options options;
	int status;

	if (options_parse(&options, argc, argv))
		status = usage_error("run", "%s", error_text());
	else if (options.help)
		status = fputs(help_run, stdout) < 0 ? STATUS_USAGE : STATUS_OK;
	else if (options.tune_list)
		status = options_tune_list(stdout) < 0 ? STATUS_USAGE : STATUS_OK;
	else if (options.device_list)
		status = optional_devices_list(stdout) < 0 ? STATUS_USAGE : STATUS_OK;
	else
		status = run(&options);
	options_free(&options);
	return status;
}

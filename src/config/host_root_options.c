#include "config/host_root_options.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "boot/host_root.h"
#include "util/error.h"

int host_root_option(struct host_root_options *options, const char *value)
{
	if (options->wanted)
		return error_set(EINVAL, "--host-root: given twice");
	if (value && strcmp(value, "ro") != 0 && strcmp(value, "cow") != 0)
		return error_set(EINVAL, "--host-root=%s: must be ro or cow", value);
	options->wanted = true;
	options->copy_on_write = !value || *value == 'c';
	return 0;
}

int host_root_complete(const struct host_root_options *options, struct machine_config *machine,
                       bool serial_given)
{
	struct share_config *share;

	if (!options->wanted)
		return options->modules ? error_set(EINVAL, "--modules needs --host-root") : 0;
	if (!machine->kernel)
		return error_set(EINVAL, "--host-root needs --kernel FILE");
	if (machine->initrd)
		return error_set(EINVAL, "--host-root makes its own initrd: leave --initrd %s out",
		                 machine->initrd);
	if (machine->share_count == MACHINE_SHARES)
		return error_set(EINVAL, "--host-root: at most %d shared folders with it",
		                 MACHINE_SHARES - 1);
	share = &machine->share[machine->share_count++];
	/* Changes stay in the guest's memory: the share itself is never written. */
	*share = (struct share_config){.directory = "/", .tag = HOST_ROOT_TAG, .read_only = true};
	/* The command has the terminal; what the kernel complains about goes beside it. */
	if (!machine->console[0]) {
		machine->console[0] = "stdio";
		if (!serial_given)
			machine->serial[0] = "stderr";
	}
	machine->exact_exit = true;
	return 0;
}

int host_root_prepare(struct host_root_options *options, struct machine_config *machine)
{
	struct host_root root = {
	    .kernel = machine->kernel,
	    .modules = options->modules,
	    .copy_on_write = options->copy_on_write,
	    .terminal = isatty(STDIN_FILENO),
	    .command = options->command,
	    .command_words = options->command_words,
	};

	if (!options->wanted)
		return 0;
	options->initrd = host_root_make(&root);
	if (options->initrd < 0)
		return options->initrd;
	options->prepared = true;
	snprintf(options->initrd_path, sizeof(options->initrd_path), "/proc/self/fd/%d", options->initrd);
	machine->initrd = options->initrd_path;
	/* The user's own words come last and win. */
	if (asprintf(&options->append, "console=ttyS0 quiet panic=-1%s%s", machine->append ? " " : "",
	             machine->append ? machine->append : "") < 0) {
		options->append = NULL;
		return error_set(ENOMEM, "out of memory");
	}
	machine->append = options->append;
	return 0;
}

void host_root_options_free(struct host_root_options *options)
{
	if (options->prepared)
		close(options->initrd);
	free(options->append);
	options->prepared = false;
	options->append = NULL;
}

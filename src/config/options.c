#include "config/options.h"

#include <errno.h>
#include <getopt.h>
#include <stdlib.h>
#include <string.h>

#include "config/net_options.h"
#include "config/virtio_options.h"
#include "config/firmware_options.h"
#include "util/error.h"

#define MEMORY_MIN (1ull << 20)
#define MEMORY_MAX (1ull << 40)
#define CPUS_MAX   64
#define DETERMINISTIC_TSC_HZ 1000000000u

enum option_code {
	OPTION_KERNEL = 256, OPTION_INITRD, OPTION_APPEND, OPTION_MODULE, OPTION_FIRMWARE, OPTION_BOOT, OPTION_KERNEL_CACHE, OPTION_MEMORY,
	OPTION_CPUS, OPTION_CPU, OPTION_NESTED, OPTION_VMX_FIRMWARE, OPTION_HYPERVISOR_LEAF, OPTION_ENGINE,
	OPTION_SERIAL, OPTION_CLOCK, OPTION_TSC, OPTION_ON_RESET, OPTION_TRACE, OPTION_TUNE, OPTION_STATE_HASH,
	OPTION_NET, OPTION_DEVICE,
	OPTION_DISK, OPTION_CDROM,
	OPTION_VGA, OPTION_VNC,
	OPTION_FIRMWARE_VARS, OPTION_FW_CFG, OPTION_DEBUG_PORT, OPTION_UUID,
	OPTION_NAME, OPTION_DETACH, OPTION_GDB,
	OPTION_HELP,
	OPTION_CONSOLE, OPTION_RNG, OPTION_SHARE, OPTION_HOST_ROOT, OPTION_MODULES,
};

static const struct option long_options[] = {
	{"kernel", required_argument, NULL, OPTION_KERNEL},
	{"initrd", required_argument, NULL, OPTION_INITRD},
	{"append", required_argument, NULL, OPTION_APPEND},
	{"module", required_argument, NULL, OPTION_MODULE},
	{"firmware", required_argument, NULL, OPTION_FIRMWARE},
	{"firmware-vars", required_argument, NULL, OPTION_FIRMWARE_VARS},
	{"fw-cfg", required_argument, NULL, OPTION_FW_CFG},
	{"debug-port", required_argument, NULL, OPTION_DEBUG_PORT},
	{"uuid", required_argument, NULL, OPTION_UUID},
	{"boot", required_argument, NULL, OPTION_BOOT},
	{"kernel-cache", required_argument, NULL, OPTION_KERNEL_CACHE},
	{"memory", required_argument, NULL, OPTION_MEMORY},
	{"cpus", required_argument, NULL, OPTION_CPUS},
	{"cpu", required_argument, NULL, OPTION_CPU},
	{"nested", required_argument, NULL, OPTION_NESTED},
	{"vmx-firmware", required_argument, NULL, OPTION_VMX_FIRMWARE},
	{"hypervisor-leaf", required_argument, NULL, OPTION_HYPERVISOR_LEAF},
	{"engine", required_argument, NULL, OPTION_ENGINE},
	{"serial", required_argument, NULL, OPTION_SERIAL},
	{"console", required_argument, NULL, OPTION_CONSOLE},
	{"host-root", optional_argument, NULL, OPTION_HOST_ROOT},
	{"modules", required_argument, NULL, OPTION_MODULES},
	{"share", required_argument, NULL, OPTION_SHARE},
	{"rng", no_argument, NULL, OPTION_RNG},
	{"clock", required_argument, NULL, OPTION_CLOCK},
	{"tsc", required_argument, NULL, OPTION_TSC},
	{"on-reset", required_argument, NULL, OPTION_ON_RESET},
	{"trace", required_argument, NULL, OPTION_TRACE},
	{"tune", required_argument, NULL, OPTION_TUNE},
	{"state-hash", no_argument, NULL, OPTION_STATE_HASH},
	{"net", required_argument, NULL, OPTION_NET},
	{"vga", required_argument, NULL, OPTION_VGA},
	{"vnc", required_argument, NULL, OPTION_VNC},
	{"device", required_argument, NULL, OPTION_DEVICE},
	{"disk", required_argument, NULL, OPTION_DISK},
	{"cdrom", required_argument, NULL, OPTION_CDROM},
	{"name", required_argument, NULL, OPTION_NAME},
	{"gdb", required_argument, NULL, OPTION_GDB},
	{"detach", no_argument, NULL, OPTION_DETACH},
	{"help", no_argument, NULL, OPTION_HELP},
	{NULL, 0, NULL, 0},
};

/* A word and what it stands for; the last row of a table has no word. */
struct choice {
	const char *word;
	unsigned value;
};

static const struct choice boot_choices[] = {
	{"auto", MACHINE_BOOT_AUTO}, {"setup", MACHINE_BOOT_SETUP}, {NULL, 0}};
static const struct choice nested_choices[] = {{"vmx", true}, {"off", false}, {NULL, 0}};
static const struct choice switch_choices[] = {{"on", true}, {"off", false}, {NULL, 0}};
static const struct choice vmx_firmware_choices[] = {{"on", VMX_FIRMWARE_ON}, {"off", VMX_FIRMWARE_OFF},
	{"unlocked", VMX_FIRMWARE_UNLOCKED}, {NULL, 0}};
static const struct choice engine_choices[] = {{"auto", MACHINE_ENGINE_AUTO}, {"soft", MACHINE_ENGINE_SOFT},
	{"kvm", MACHINE_ENGINE_KVM}, {NULL, 0}};
static const struct choice clock_choices[] = {
	{"real", ENGINE_CLOCK_REAL}, {"deterministic", ENGINE_CLOCK_DETERMINISTIC}, {NULL, 0}};
static const struct choice reset_choices[] = {
	{"stop", MACHINE_ON_RESET_STOP}, {"restart", MACHINE_ON_RESET_RESTART}, {NULL, 0}};
static const struct choice trace_choices[] = {{"vmx", ENGINE_TRACE_VMX}, {"exception", ENGINE_TRACE_EXCEPTION},
	{"block", ENGINE_TRACE_BLOCK}, {"msr", ENGINE_TRACE_MSR}, {"io", ENGINE_TRACE_IO},
	{"perf", ENGINE_TRACE_PERF}, {NULL, 0}};
static const struct choice tune_choices[] = {
#define TUNE(name, word, text) {word, ENGINE_TUNE_##name},
#include "engine/tune.def"
#undef TUNE
	{NULL, 0}};

/* "a, b or c" of a table's words, for messages. */
static const char *choices_text(const struct choice *table)
{
	static _Thread_local char text[320];
	size_t length = 0;

	text[0] = '\0';
	for (const struct choice *row = table; row->word; row++) {
		const char *between = row == table ? "" : row[1].word ? ", " : " or ";

		for (const char *part[] = {between, row->word, NULL}, **p = part; *p; p++) {
			size_t size = strlen(*p);

			if (length + size < sizeof(text)) {
				memcpy(text + length, *p, size + 1);
				length += size;
			}
		}
	}
	return text;
}

static const struct choice *choice_find(const struct choice *table, const char *word, size_t length)
{
	for (; table->word; table++)
		if (strlen(table->word) == length && !memcmp(table->word, word, length))
			return table;
	return NULL;
}

static int choice_of(const char *option, const struct choice *table, const char *word, unsigned *value)
{
	const struct choice *row = choice_find(table, word, strlen(word));

	if (!row)
		return error_set(EINVAL, "--%s %s: must be %s", option, word, choices_text(table));
	*value = row->value;
	return 0;
}

/* A comma-separated list of a table's words, or-ed into *mask. */
static int choices_of(const char *option, const struct choice *table, const char *list, unsigned *mask)
{
	for (const char *word = list;;) {
		size_t length = strcspn(word, ",");
		const struct choice *row = choice_find(table, word, length);

		if (!row)
			return error_set(EINVAL,
			                 "--%s %s: '%.*s' is not known; a list of %s, separated by commas",
			                 option, list, (int)length, word, choices_text(table));
		*mask |= row->value;
		if (!word[length])
			return 0;
		word += length + 1;
	}
}

/* A plain decimal number within [low, high]. */
static int number_of(const char *option, const char *text, uint64_t low, uint64_t high, uint64_t *value)
{
	uint64_t number = 0;
	const char *p = text;

	for (; *p >= '0' && *p <= '9'; p++)
		if (__builtin_mul_overflow(number, 10, &number) ||
		    __builtin_add_overflow(number, (uint64_t)(*p - '0'), &number))
			break;
	if (p == text || *p || number < low || number > high)
		return error_set(EINVAL, "--%s %s: must be a number from %llu to %llu", option, text,
				 (unsigned long long)low, (unsigned long long)high);
	*value = number;
	return 0;
}

int options_size(const char *what, const char *text, uint64_t *bytes)
{
	static const char units[] = "KMGT";
	uint64_t number = 0;
	const char *p = text, *unit;
	unsigned shift;

	for (; *p >= '0' && *p <= '9'; p++)
		if (__builtin_mul_overflow(number, 10, &number) ||
		    __builtin_add_overflow(number, (uint64_t)(*p - '0'), &number))
			return error_set(EINVAL, "%s %s: this number is too large", what, text);
	if (p == text)
		return error_set(EINVAL, "%s %s: must be a size such as 512M or 1G", what, text);
	unit = *p ? strchr(units, *p & ~0x20) : NULL;
	if (!unit)
		return error_set(EINVAL, "%s %s: a size needs a unit K, M, G or T, such as 512M or 1G", what,
		                 text);
	if (strcmp(p + 1, "") && strcmp(p + 1, "B") && strcmp(p + 1, "iB"))
		return error_set(EINVAL, "%s %s: '%s' after the unit; must be a size such as 512M or 1G",
		                 what, text, p + 1);
	shift = 10 * (unsigned)(unit - units + 1);
	if (number > UINT64_MAX >> shift)
		return error_set(EINVAL, "%s %s: this size is too large", what, text);
	*bytes = number << shift;
	return 0;
}

static int memory_of(const char *text, uint64_t *bytes)
{
	int result = options_size("--memory", text, bytes);

	if (result)
		return result;
	if (*bytes < MEMORY_MIN || *bytes > MEMORY_MAX)
		return error_set(EINVAL, "--memory %s: must be from 1M to 1T", text);
	if (*bytes % 4096)
		return error_set(EINVAL, "--memory %s: must be a multiple of 4K", text);
	return 0;
}

/* "MODEL", "MODEL,+a,-b" or "+a,-b". The list's shape is checked here, its names by cpu_model_make. */
static int cpu_of(const char *text, struct options *options)
{
	const char *changes = text;

	if (*text != '+' && *text != '-') {
		size_t length = strcspn(text, ",");

		if (!length)
			return error_set(EINVAL, "--cpu %s: names no model; see nestor cpu-models", text);
		free(options->cpu_model);
		options->cpu_model = strndup(text, length);
		if (!options->cpu_model)
			return error_set(ENOMEM, "out of memory");
		changes = text[length] ? text + length + 1 : NULL;
	}
	for (const char *word = changes; word;) {
		size_t length = strcspn(word, ",");

		if (length < 2 || (*word != '+' && *word != '-'))
			return error_set(EINVAL, "--cpu %s: '%.*s' must be +feature or -feature", text,
			                 (int)length, word);
		word = word[length] ? word + length + 1 : NULL;
	}
	options->machine.cpu.model = options->cpu_model;
	options->machine.cpu.changes = changes;
	return 0;
}

static int serial_of(const char *text, struct machine_config *machine, unsigned *count)
{
	static const char *const kinds[] = {"stdio", "pty", "null", "console", "file:", "unix:", NULL};
	bool known = false;

	for (const char *const *kind = kinds; *kind && !known; kind++) {
		size_t length = strlen(*kind);

		known = (*kind)[length - 1] == ':' ? !strncmp(text, *kind, length) && text[length]
						   : !strcmp(text, *kind);
	}
	if (!known)
		return error_set(EINVAL, "--serial %s: must be stdio, pty, null, console, file:PATH or unix:PATH", text);
	if (*count == MACHINE_SERIAL_PORTS)
		return error_set(EINVAL, "--serial %s: there are only %d serial ports", text,
		                 MACHINE_SERIAL_PORTS);
	for (unsigned i = 0; i < *count; i++)
		if (!strcmp(text, "stdio") && !strcmp(machine->serial[i], "stdio"))
			return error_set(EINVAL,
			                 "--serial stdio: only one serial port can have the terminal");
	machine->serial[(*count)++] = text;
	return 0;
}

#define TUNE_CODE_MEMORY "code-memory="

int options_tune_list(FILE *out)
{
#define TUNE(name, word, text) fprintf(out, "%-16s %s\n", word, text);
#include "engine/tune.def"
#undef TUNE
	fprintf(out, "%-16s %s\n", TUNE_CODE_MEMORY "SIZE",
	        "after so much translated code, such as 1M, all is translated anew");
	return fflush(out);
}

/* --tune code-memory=SIZE */
static int code_memory_of(const char *word, size_t length, uint64_t *bytes)
{
	char text[32] = "";
	size_t start = strlen(TUNE_CODE_MEMORY), size = length - start;
	int result;

	memcpy(text, word + start, size < sizeof(text) ? size : sizeof(text) - 1);
	result = options_size("--tune code-memory", text, bytes);
	if (result)
		return result;
	if (*bytes < ENGINE_CODE_MEMORY_MIN || *bytes > ENGINE_CODE_MEMORY_MAX || *bytes % 4096)
		return error_set(EINVAL, "--tune %s%s: must be from %uK to %uM, a multiple of 4K",
		                 TUNE_CODE_MEMORY, text, ENGINE_CODE_MEMORY_MIN >> 10,
		                 ENGINE_CODE_MEMORY_MAX >> 20);
	return 0;
}

/* One "name=value" of --tune. */
static int tune_one(const char *list, const char *word, size_t length, struct machine_config *machine)
{
	const char *equals = memchr(word, '=', length), *value = equals ? equals + 1 : word + length;
	size_t name_length = (size_t)((equals ? equals : value) - word),
	       value_length = length - (size_t)(value - word);
	const struct choice *row = choice_find(tune_choices, word, name_length);
	const struct choice *set = choice_find(switch_choices, value, value_length);

	if (!strncmp(word, TUNE_CODE_MEMORY, strlen(TUNE_CODE_MEMORY)))
		return code_memory_of(word, length, &machine->code_memory);
	if (!row)
		return error_set(EINVAL, "--tune %s: '%.*s' is not known; must be list, code-memory=SIZE, or =off or =on after %s", list,
				 (int)name_length, word, choices_text(tune_choices));
	if (!set)
		return error_set(EINVAL, "--tune %s: '%.*s' must be %s=off or %s=on", list, (int)length, word,
		                 row->word, row->word);
	machine->tune_off = set->value ? machine->tune_off & ~row->value : machine->tune_off | row->value;
	return 0;
}

/* "name=off,name=on,…" or "list". */
static int tune_of(const char *list, struct options *options)
{
	if (!strcmp(list, "list")) {
		options->tune_list = true;
		return 0;
	}
	for (const char *word = list;;) {
		size_t length = strcspn(word, ",");
		int result = tune_one(list, word, length, &options->machine);

		if (result || !word[length])
			return result;
		word += length + 1;
	}
}

/* "NAME,key=value,…" or "list". What they mean is the devices' to say. */
static int device_of(const char *text, struct options *options)
{
	struct machine_config *machine = &options->machine;

	if (!strcmp(text, "list"))
		options->device_list = true;
	else if (machine->device_count == MACHINE_OPTIONAL_DEVICES)
		return error_set(EINVAL, "--device %s: at most %d such devices", text,
		                 MACHINE_OPTIONAL_DEVICES);
	else
		machine->device[machine->device_count++] = text;
	return 0;
}

/* A file name is checked no further than this; who opens it says what is wrong with the file. */
static int path_of(const char *option, const char *text, const char **path)
{
	if (!*text)
		return error_set(EINVAL, "--%s: the file name is empty", option);
	if (*path)
		return error_set(EINVAL, "--%s %s: given twice", option, text);
	*path = text;
	return 0;
}

static int apply(struct options *options, int code, const char *value, unsigned *serial_count)
{
	struct machine_config *machine = &options->machine;
	uint64_t number = 0;
	unsigned choice = 0;
	int result;

	switch (code) {
	case OPTION_KERNEL:
		return path_of("kernel", value, &machine->kernel);
	case OPTION_INITRD:
		return path_of("initrd", value, &machine->initrd);
	case OPTION_FIRMWARE:
		return firmware_option(options, value);
	case OPTION_FIRMWARE_VARS:
		return firmware_vars_option(options, value);
	case OPTION_FW_CFG:
		return fw_cfg_option(options, value);
	case OPTION_DEBUG_PORT:
		return debug_port_option(options, value);
	case OPTION_UUID:
		return uuid_option(options, value);
	case OPTION_APPEND:
		if (machine->append)
			return error_set(EINVAL, "--append: given twice; write one string");
		machine->append = value;
		return 0;
	case OPTION_MODULE:
		if (!*value || *value == ' ')
			return error_set(EINVAL, "--module: must be \"FILE [ARGUMENTS]\"");
		if (machine->module_count == MACHINE_BOOT_MODULES)
			return error_set(EINVAL, "--module %s: at most %d modules", value,
			                 MACHINE_BOOT_MODULES);
		machine->module[machine->module_count++] = value;
		return 0;
	case OPTION_BOOT:
		result = choice_of("boot", boot_choices, value, &choice);
		machine->boot = choice;
		return result;
	case OPTION_KERNEL_CACHE:
		if (!*value)
			return error_set(EINVAL, "--kernel-cache: give a folder, or off");
		options->no_kernel_cache = !strcmp(value, "off");
		machine->kernel_cache = options->no_kernel_cache ? NULL : value;
		return 0;
	case OPTION_MEMORY:
		return memory_of(value, &machine->memory_size);
	case OPTION_CPUS:
		result = number_of("cpus", value, 1, CPUS_MAX, &number);
		machine->cpu_count = machine->cpu.cpu_count = (unsigned)number;
		return result;
	case OPTION_CPU:
		return cpu_of(value, options);
	case OPTION_NESTED:
		result = choice_of("nested", nested_choices, value, &choice);
		machine->cpu.nested_vmx = choice;
		return result;
	case OPTION_VMX_FIRMWARE:
		result = choice_of("vmx-firmware", vmx_firmware_choices, value, &choice);
		machine->cpu.vmx_firmware = choice;
		return result;
	case OPTION_HYPERVISOR_LEAF:
		result = choice_of("hypervisor-leaf", switch_choices, value, &choice);
		machine->cpu.hypervisor_leaf = choice;
		return result;
	case OPTION_ENGINE:
		result = choice_of("engine", engine_choices, value, &choice);
		machine->engine = choice;
		return result;
	case OPTION_SERIAL:
		return serial_of(value, machine, serial_count);
	case OPTION_CONSOLE:
		return console_option(value, machine);
	case OPTION_HOST_ROOT:
		return host_root_option(&options->host_root, value);
	case OPTION_MODULES:
		return path_of("modules", value, &options->host_root.modules);
	case OPTION_SHARE:
		return share_options_add(&options->share, machine, value);
	case OPTION_RNG:
		machine->rng = true;
		return 0;
	case OPTION_CLOCK:
		result = choice_of("clock", clock_choices, value, &choice);
		machine->clock = choice;
		return result;
	case OPTION_TSC:
		return number_of("tsc", value, 100000000, 10000000000, &machine->cpu.tsc_hz);
	case OPTION_ON_RESET:
		result = choice_of("on-reset", reset_choices, value, &choice);
		machine->on_reset = choice;
		options->on_reset_given = true;
		return result;
	case OPTION_TRACE:
		return choices_of("trace", trace_choices, value, &machine->trace);
	case OPTION_TUNE:
		return tune_of(value, options);
	case OPTION_NET:
		return net_options_parse(machine, value, &options->no_network);
	case OPTION_DEVICE:
		return device_of(value, options);
	case OPTION_DISK:
	case OPTION_CDROM:
		return disk_options_add(&options->disk, machine, value, code == OPTION_CDROM);
	case OPTION_VGA:
		return display_options_vga(&options->display, machine, value);
	case OPTION_VNC:
		return display_options_vnc(&options->display, machine, value);
	case OPTION_STATE_HASH:
		options->state_hash = true;
		return 0;
	case OPTION_NAME:
		if (options->name)
			return error_set(EINVAL, "--name %s: given twice", value);
		options->name = value;
		return 0;
	case OPTION_GDB:
		options->gdb = value;
		return 0;
	case OPTION_DETACH:
		options->detach = true;
		return 0;
	default:
		return error_set(EINVAL, "internal: option %d has no meaning", code);
	}
}

static bool has_terminal(const char *const console[MACHINE_CONSOLES])
{
	for (unsigned i = 0; i < MACHINE_CONSOLES; i++)
		if (console[i] && !strcmp(console[i], "stdio"))
			return true;
	return false;
}

/* Disks among themselves have been looked at (disk_options.c); cards have the same order. */
static int check_boot_order(const struct machine_config *machine)
{
	for (unsigned i = 0; i < machine->net_count; i++) {
		int place = machine->net[i].boot_index;

		for (unsigned j = 0; j < machine->disk_count && place >= 0; j++)
			if (machine->disk[j].boot_index == place)
				return error_set(EINVAL, "--net …,bootindex=%d: %s has bootindex=%d already", place,
						 machine->disk[j].file ? machine->disk[j].file : "an empty drive", place);
		for (unsigned j = 0; j < i && place >= 0; j++)
			if (machine->net[j].boot_index == place)
				return error_set(EINVAL, "--net …,bootindex=%d: another card has bootindex=%d already", place,
						 place);
	}
	return 0;
}

/* What single options cannot know. */
static int check_together(const struct machine_config *machine)
{
	for (unsigned i = 0; i < MACHINE_SERIAL_PORTS; i++)
		if (machine->serial[i] && !strcmp(machine->serial[i], "stdio") &&
		    has_terminal(machine->console))
			return error_set(EINVAL, "--serial stdio and --console stdio: only one can have the terminal");
	if (!machine->kernel && !machine->firmware)
		return error_set(EINVAL, "nothing to run: give --kernel FILE, --disk FILE or --firmware uefi "
		                         "(see nestor run --help)");
	if (!machine->kernel && (machine->initrd || machine->append || machine->module_count))
		return error_set(EINVAL, "--initrd, --append and --module need --kernel");
	if (machine->firmware && machine->module_count)
		return error_set(EINVAL, "--module: firmware loads no modules; leave --firmware out");
	if (machine->clock == ENGINE_CLOCK_DETERMINISTIC && machine->engine == MACHINE_ENGINE_KVM)
		return error_set(EINVAL,
		                 "--clock deterministic needs --engine soft: hardware does not count alike");
	if (machine->clock == ENGINE_CLOCK_DETERMINISTIC && machine->cpu.tsc_hz > DETERMINISTIC_TSC_HZ)
		return error_set(EINVAL,
		                 "--tsc %llu: at most %u under --clock deterministic, one instruction per ns",
		                 (unsigned long long)machine->cpu.tsc_hz, DETERMINISTIC_TSC_HZ);
	return check_boot_order(machine);
}

/* What a machine in the background, or one without a name, cannot have. */
static int check_control(const struct options *options)
{
	if (options->detach && has_terminal(options->machine.console))
		return error_set(EINVAL, "--detach leaves the terminal: --console stdio needs it");
	for (unsigned i = 0; i < MACHINE_SERIAL_PORTS; i++) {
		const char *serial = options->machine.serial[i];

		if (serial && !strcmp(serial, "stdio") && options->detach)
			return error_set(EINVAL, "--detach leaves the terminal: --serial stdio needs it; "
			                         "--serial console does not");
		if (serial && !strcmp(serial, "console") && !options->name && !options->detach)
			return error_set(EINVAL, "--serial console needs --name NAME, by which nestor console finds it");
	}
	return 0;
}

/* XDG Base Directory Specification: $XDG_CACHE_HOME, else $HOME/.cache. An init process has / for a home, and no cache. */
static int default_kernel_cache(struct options *options)
{
	const char *cache = getenv("XDG_CACHE_HOME"), *home = getenv("HOME");
	int length = 0;

	if (options->machine.kernel_cache || options->no_kernel_cache)
		return 0;
	if (cache && *cache == '/')
		length = asprintf(&options->kernel_cache, "%s/nestor", cache);
	else if (home && *home == '/' && home[1])
		length = asprintf(&options->kernel_cache, "%s/.cache/nestor", home);
	if (length < 0) {
		options->kernel_cache = NULL;
		return error_set(ENOMEM, "out of memory");
	}
	options->machine.kernel_cache = options->kernel_cache;
	return 0;
}

int options_parse(struct options *options, int argc, char **argv)
{
	unsigned serial_count = 0;
	int code, result;

	*options = (struct options){
		.machine = {
			.memory_size = 1ull << 30,
			.cpu_count = 1,
			.engine = MACHINE_ENGINE_AUTO,
			.cpu = {.nested_vmx = true, .vmx_firmware = VMX_FIRMWARE_ON, .hypervisor_leaf = true,
				.cpu_count = 1},
			.rtc_start = INT64_MIN,
		},
	};

	optind = 0; /* glibc: start afresh, also after an earlier parse */
	opterr = 0;
	for (;;) {
		int at = optind ? optind : 1;

		code = getopt_long(argc, argv, "+:d", long_options, NULL);
		if (code == -1)
			break;
		if (code == OPTION_HELP) {
			options->help = true;
			return 0;
		}
		if (code == 'd')
			code = OPTION_DETACH;
		if (code == ':')
			return error_set(EINVAL, "%s needs a value (see nestor run --help)",
			                 argv[optind - 1]);
		if (code == '?') {
			/* optopt: the code of an option that takes no value; else the word is at `at`. */
			const char *word = argv[optind > at ? optind - 1 : at];

			if (optopt >= OPTION_KERNEL)
				return error_set(EINVAL, "%s: takes no value", word);
			return error_set(EINVAL, "unknown or ambiguous option %s (see nestor run --help)",
			                 word);
		}
		result = apply(options, code, optarg, &serial_count);
		if (result || options->tune_list || options->device_list)
			return result;
	}
	if (options->host_root.wanted) {
		options->host_root.command = argv + optind;
		options->host_root.command_words = (unsigned)(argc - optind);
		optind = argc;
	}
	if (optind < argc)
		return error_set(EINVAL, "%s: not an option; did you mean --kernel %s?", argv[optind],
		                 argv[optind]);
	if (!serial_count)
		options->machine.serial[0] = options->detach                          ? "console"
		                             : has_terminal(options->machine.console) ? "null"
		                                                                      : "stdio";
	result = host_root_complete(&options->host_root, &options->machine, serial_count > 0);
	if (result)
		return result;
	/* A machine that boots a disk or firmware has a network; a kernel by itself gets what is asked for. */
	if (!options->no_network && !options->machine.net_count && !options->machine.kernel)
		net_options_default(&options->machine);
	/* A deterministic run counts guest instructions, which only the software engine can. */
	if (options->machine.clock == ENGINE_CLOCK_DETERMINISTIC &&
	    options->machine.engine == MACHINE_ENGINE_AUTO)
		options->machine.engine = MACHINE_ENGINE_SOFT;
	/* One tick per instruction, and not the host's rate: the guest is told of it. */
	if (options->machine.clock == ENGINE_CLOCK_DETERMINISTIC && !options->machine.cpu.tsc_hz)
		options->machine.cpu.tsc_hz = DETERMINISTIC_TSC_HZ;
	result = default_kernel_cache(options);
	if (!result)
		result = firmware_options_finish(options);
	/* A system on a disk restarts at times of its own; a kernel from the command line has mostly come to grief. */
	if (options->machine.firmware && !options->machine.kernel && !options->on_reset_given)
		options->machine.on_reset = MACHINE_ON_RESET_RESTART;
	if (!result)
		result = display_options_finish(&options->display, &options->machine);
	if (!result)
		result = check_control(options);
	return result ? result : check_together(&options->machine);
}

void options_free(struct options *options)
{
	host_root_options_free(&options->host_root);
	share_options_free(&options->share);
	disk_options_free(&options->disk);
	display_options_free(&options->display);
	free(options->kernel_cache);
	options->kernel_cache = NULL;
	firmware_options_free(options);
	free(options->cpu_model);
	options->cpu_model = NULL;
	options->machine.cpu.model = NULL;
}

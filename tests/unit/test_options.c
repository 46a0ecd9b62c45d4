/* The options of `nestor run`: what each means, and that every bad input is refused with a line that names it. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <string.h>

#include "config/options.h"
#include "util/error.h"

#define WORDS_MAX 80

static struct options options;
static char *words[WORDS_MAX + 1];

/* Parses "run" and the given words, ended by NULL. */
static int parse_list(const char *const *list)
{
	int count = 0;

	words[count++] = (char *)"run";
	for (; *list; list++)
		words[count++] = (char *)*list;
	words[count] = NULL;
	options_free(&options);
	return options_parse(&options, count, words);
}

#define PARSE(...) parse_list((const char *const[]){__VA_ARGS__, NULL})

static void refused(int result, const char *part)
{
	assert_int_equal(result, -EINVAL);
	if (!strstr(error_text(), part))
		fail_msg("\"%s\" does not contain \"%s\"", error_text(), part);
	assert_null(strchr(error_text(), '\n'));
}

static void a_kernel_alone_is_enough(void **state)
{
	const struct machine_config *machine = &options.machine;

	assert_int_equal(PARSE("--kernel", "vmlinuz"), 0);
	assert_string_equal(machine->kernel, "vmlinuz");
	assert_null(machine->initrd);
	assert_null(machine->append);
	assert_int_equal(machine->memory_size, 1ull << 30);
	assert_int_equal(machine->cpu_count, 1);
	assert_int_equal(machine->cpu.cpu_count, 1);
	assert_int_equal(machine->engine, MACHINE_ENGINE_AUTO);
	assert_int_equal(machine->boot, MACHINE_BOOT_AUTO);
	assert_int_equal(machine->on_reset, MACHINE_ON_RESET_STOP);
	assert_int_equal(machine->clock, ENGINE_CLOCK_REAL);
	assert_true(machine->cpu.nested_vmx);
	assert_true(machine->cpu.hypervisor_leaf);
	assert_int_equal(machine->cpu.vmx_firmware, VMX_FIRMWARE_ON);
	assert_null(machine->cpu.model);
	assert_null(machine->cpu.changes);
	assert_string_equal(machine->serial[0], "stdio");
	assert_null(machine->serial[1]);
	assert_false(options.help);
}

static void every_option_reaches_its_field(void **state)
{
	const struct machine_config *machine = &options.machine;

	assert_int_equal(PARSE("--kernel=k", "--initrd", "i", "--append", "a b", "--memory", "512M", "--cpus", "4",
			       "--cpu", "x86-64-v2,+aes,-popcnt", "--nested", "off", "--vmx-firmware", "unlocked",
			       "--hypervisor-leaf", "off", "--engine", "soft", "--serial", "file:out", "--serial",
			       "null", "--clock", "real", "--tsc", "2000000000", "--state-hash", "--on-reset", "restart",
			       "--trace", "vmx,io", "--tune", "chain=off,groups=off,fast-tlb=off", "--tune", "code-memory=2M,groups=on", "--boot", "setup", "--module",
			       "m one two"),
			 0);
	assert_string_equal(machine->kernel, "k");
	assert_string_equal(machine->initrd, "i");
	assert_string_equal(machine->append, "a b");
	assert_int_equal(machine->memory_size, 512 << 20);
	assert_int_equal(machine->cpu_count, 4);
	assert_int_equal(machine->cpu.cpu_count, 4);
	assert_string_equal(machine->cpu.model, "x86-64-v2");
	assert_string_equal(machine->cpu.changes, "+aes,-popcnt");
	assert_false(machine->cpu.nested_vmx);
	assert_int_equal(machine->cpu.vmx_firmware, VMX_FIRMWARE_UNLOCKED);
	assert_false(machine->cpu.hypervisor_leaf);
	assert_int_equal(machine->engine, MACHINE_ENGINE_SOFT);
	assert_string_equal(machine->serial[0], "file:out");
	assert_string_equal(machine->serial[1], "null");
	assert_int_equal(machine->clock, ENGINE_CLOCK_REAL);
	assert_true(options.state_hash);
	assert_int_equal(machine->cpu.tsc_hz, 2000000000);
	assert_int_equal(machine->on_reset, MACHINE_ON_RESET_RESTART);
	assert_int_equal(machine->trace, ENGINE_TRACE_VMX | ENGINE_TRACE_IO);
	assert_int_equal(machine->tune_off, ENGINE_TUNE_CHAIN | ENGINE_TUNE_FAST_TLB);
	assert_int_equal(machine->code_memory, 2 << 20);
	assert_int_equal(machine->boot, MACHINE_BOOT_SETUP);
	assert_int_equal(machine->module_count, 1);
	assert_string_equal(machine->module[0], "m one two");
}

static void features_need_no_model(void **state)
{
	assert_int_equal(PARSE("--kernel", "k", "--cpu", "+aes,-avx"), 0);
	assert_null(options.machine.cpu.model);
	assert_string_equal(options.machine.cpu.changes, "+aes,-avx");
	assert_int_equal(PARSE("--kernel", "k", "--cpu", "x86-64-v3"), 0);
	assert_string_equal(options.machine.cpu.model, "x86-64-v3");
	assert_null(options.machine.cpu.changes);
}

static void firmware_is_found_by_its_name(void **state)
{
	assert_int_equal(PARSE("--firmware", "some.fd", "--firmware-vars", "v", "--debug-port", "stderr"), 0);
	assert_string_equal(options.machine.firmware, "some.fd");
	assert_string_equal(options.machine.firmware_vars, "v");
	assert_null(options.machine.firmware_vars_template);
	assert_string_equal(options.machine.debug_port, "stderr");
	/* What is on a disk restarts by itself; not where one says otherwise, or a kernel is given. */
	assert_int_equal(options.machine.on_reset, MACHINE_ON_RESET_RESTART);
	assert_int_equal(PARSE("--firmware", "some.fd", "--on-reset", "stop"), 0);
	assert_int_equal(options.machine.on_reset, MACHINE_ON_RESET_STOP);
	assert_int_equal(PARSE("--firmware", "some.fd", "--kernel", "vmlinuz"), 0);
	assert_int_equal(options.machine.on_reset, MACHINE_ON_RESET_STOP);
	if (!PARSE("--firmware", "uefi")) {
		assert_non_null(strstr(options.machine.firmware, "OVMF_CODE"));
		assert_non_null(strstr(options.machine.firmware_vars_template, "OVMF_VARS"));
	} else {
		assert_non_null(strstr(error_text(), "apt install ovmf"));
	}
	if (!PARSE("--firmware", "bios"))
		assert_non_null(strstr(options.machine.firmware, "/seabios/"));
	else
		assert_non_null(strstr(error_text(), "apt install seabios"));
}

static void fw_cfg_items_and_uuid(void **state)
{
	/* SMBIOS, "System — UUID": the first three fields are little-endian. */
	static const uint8_t uuid[16] = {0xa4, 0xd7, 0x9a, 0x2f, 0x0c, 0x5f, 0x52, 0x4a,
					 0x9c, 0xf1, 0x0a, 0x4c, 0x2c, 0x5b, 0xe1, 0xc4};

	assert_int_equal(PARSE("--kernel", "k", "--fw-cfg", "opt/a,file=x,,y", "--fw-cfg", "opt/b,string=a=b",
			       "--uuid", "2F9AD7A4-5f0c-4a52-9cf1-0a4c2c5be1c4"), 0);
	assert_int_equal(options.machine.fw_cfg_count, 2);
	assert_string_equal(options.machine.fw_cfg[0].name, "opt/a");
	assert_string_equal(options.machine.fw_cfg[0].file, "x,y");
	assert_null(options.machine.fw_cfg[0].text);
	assert_string_equal(options.machine.fw_cfg[1].text, "a=b");
	assert_memory_equal(options.machine.uuid, uuid, 16);
}

static void a_deterministic_run_takes_the_software_engine(void **state)
{
	assert_int_equal(PARSE("--kernel", "k", "--clock", "deterministic"), 0);
	assert_int_equal(options.machine.engine, MACHINE_ENGINE_SOFT);
	assert_int_equal(options.machine.clock, ENGINE_CLOCK_DETERMINISTIC);
	assert_false(options.state_hash);
	refused(PARSE("--kernel", "k", "--clock", "deterministic", "--engine", "kvm"), "--engine soft");
}

/* Its TSC counts instructions, at a rate that is not the host's: at most one per ns, so that ns and ticks convert
 * without loss. */
static void a_deterministic_run_has_its_own_rate(void **state)
{
	assert_int_equal(PARSE("--kernel", "k", "--clock", "deterministic"), 0);
	assert_int_equal(options.machine.cpu.tsc_hz, 1000000000);
	assert_int_equal(PARSE("--kernel", "k", "--clock", "deterministic", "--tsc", "250000000"), 0);
	assert_int_equal(options.machine.cpu.tsc_hz, 250000000);
	refused(PARSE("--kernel", "k", "--clock", "deterministic", "--tsc", "2000000000"),
	        "at most 1000000000");
	assert_int_equal(PARSE("--kernel", "k", "--clock", "deterministic", "--cpus", "2"), 0);
}

static void help_needs_nothing_else(void **state)
{
	assert_int_equal(PARSE("--help"), 0);
	assert_true(options.help);
}

static void sizes_have_units(void **state)
{
	static const struct {
		const char *text;
		uint64_t bytes;
	} good[] = {{"4K", 4096},         {"1M", 1 << 20},    {"512m", 512 << 20}, {"1G", 1ull << 30},
	            {"3GiB", 3ull << 30}, {"2T", 2ull << 40}, {"16MB", 16 << 20},  {"0G", 0}};
	static const char *const bad[] = {"", "G", "512", "1.5G", "-1G", "+1G", "1X", "1GX", "1G ", " 1G", "0x1G",
					  "99999999999999999999G", "18446744073709551615K", NULL};
	uint64_t bytes;

	for (size_t i = 0; i < sizeof(good) / sizeof(good[0]); i++) {
		assert_int_equal(options_size("size", good[i].text, &bytes), 0);
		assert_int_equal(bytes, good[i].bytes);
	}
	for (const char *const *text = bad; *text; text++)
		refused(options_size("size", *text, &bytes), "size");
}

static void bad_values_are_named(void **state)
{
	static const struct {
		const char *option, *value, *part;
	} bad[] = {
		{"--memory", "lots", "such as 512M"}, {"--memory", "512", "needs a unit"},
		{"--memory", "512K", "from 1M to 1T"}, {"--memory", "2T", "from 1M to 1T"},
		{"--memory", "1025K", "multiple of 4K"}, {"--memory", "", "--memory"},
		{"--cpus", "0", "from 1 to 64"}, {"--cpus", "65", "from 1 to 64"}, {"--cpus", "two", "from 1 to 64"},
		{"--cpus", "-1", "from 1 to 64"}, {"--cpus", "99999999999999999999999", "from 1 to 64"},
		{"--cpus", "", "from 1 to 64"}, {"--cpus", "1 ", "from 1 to 64"},
		{"--cpu", "", "names no model"}, {"--cpu", ",+aes", "names no model"},
		{"--cpu", "x86-64-v2,aes", "'aes' must be"}, {"--cpu", "+aes,", "'' must be"},
		{"--cpu", "x86-64-v2,", "'' must be"}, {"--cpu", "+", "'+' must be"},
		{"--nested", "svm", "vmx or off"}, {"--nested", "", "vmx or off"},
		{"--vmx-firmware", "locked", "on, off or unlocked"}, {"--hypervisor-leaf", "yes", "on or off"},
		{"--engine", "tcg", "auto, soft or kvm"}, {"--engine", "KVM", "auto, soft or kvm"},
		{"--serial", "tty", "stdio, pty"}, {"--serial", "file:", "stdio, pty"},
		{"--serial", "unix:", "stdio, pty"}, {"--serial", "", "stdio, pty"}, {"--serial", "stdio2", "stdio"},
		{"--clock", "fast", "real or deterministic"}, {"--tsc", "3GHz", "must be a number"},
		{"--tsc", "1", "must be a number"}, {"--on-reset", "off", "stop or restart"},
		{"--trace", "", "'' is not known"}, {"--trace", "vmx,", "'' is not known"},
		{"--trace", "vmx,all", "'all' is not known"}, {"--tune", "tlb=off", "'tlb' is not known; must be list, code-memory=SIZE, or =off or =on after chain, jump-cache"},
		{"--tune", "chain", "must be chain=off or chain=on"}, {"--tune", "chain=of", "must be chain=off or"},
		{"--tune", "chain=off,", "'' is not known"}, {"--tune", "", "'' is not known"}, {"--tune", "list,chain=off", "'list' is not known"},
		{"--tune", "cha=off", "'cha' is not known"}, {"--tune", "code-memory", "'code-memory' is not known"}, {"--tune", "code-memory=", "such as 512M"},
		{"--tune", "code-memory=60K", "from 64K"}, {"--tune", "code-memory=2G,chain=off", "to 1024M"},
		{"--tune", "code-memory=1234567890123456789012345678901234567890M", "too large"}, {"--tune", "=off", "'' is not known"},
		{"--boot", "uefi", "auto or setup"}, {"--module", "", "--module"}, {"--module", " a", "--module"},
		{"--kernel", "", "empty"}, {"--initrd", "", "empty"}, {"--firmware", "", "empty"},
		{"--fw-cfg", "opt/a", "NAME,file=PATH or NAME,string=TEXT"},
		{"--fw-cfg", "opt/a,file=f,string=s", "NAME,file=PATH or NAME,string=TEXT"},
		{"--fw-cfg", "opt/a,text=f", "text"}, {"--fw-cfg", "opt/a,file=", "must be"},
		{"--fw-cfg", "opt/0123456789012345678901234567890123456789012345678901,string=", "shorter than 56"},
		{"--debug-port", "stdout", "stderr or file:PATH"}, {"--debug-port", "file:", "stderr or file:PATH"},
		{"--uuid", "1234", "must be like"}, {"--uuid", "2f9ad7a4-5f0c-4a52-9cf1-0a4c2c5be1cg", "must be like"},

	};

	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		int result = PARSE(bad[i].option, bad[i].value);

		refused(result, bad[i].part);
		assert_non_null(strstr(error_text(), bad[i].option));
	}
}

static void bad_lines_are_refused(void **state)
{
	refused(PARSE("--memory", "1G"), "give --kernel");
	refused(parse_list((const char *const[]){NULL}), "give --kernel");
	refused(PARSE("vmlinuz"), "did you mean --kernel vmlinuz");
	refused(PARSE("--kernel", "k", "extra"), "extra");
	refused(PARSE("--kernel", "k", "--", "extra"), "extra");
	refused(PARSE("--kernel"), "--kernel needs a value");
	refused(PARSE("--kernel", "k", "--memory"), "--memory needs a value");
	refused(PARSE("--kernel", "k", "--frobnicate"), "--frobnicate");
	refused(PARSE("--kernel", "k", "--frobnicate=1"), "--frobnicate");
	refused(PARSE("--kernel", "k", "-m", "1G"), "-m");
	refused(PARSE("--help=all"), "--help=all");
	refused(PARSE("--kernel", "k", "--kernel", "l"), "given twice");
	refused(PARSE("--kernel", "k", "--append", "a", "--append", "b"), "given twice");
	refused(PARSE("--kernel", "k", "--firmware", "bios"), "a BIOS starts kernels from disks only");
	refused(PARSE("--kernel", "k", "--firmware", "f", "--module", "m"), "firmware loads no modules");
	refused(PARSE("--kernel", "k", "--firmware-vars", "f"), "needs --firmware uefi");
	refused(PARSE("--kernel", "k", "--debug-port", "stderr"), "needs --firmware");
	refused(PARSE("--firmware", "f", "--firmware", "g"), "twice");
	refused(PARSE("--firmware", "f", "--initrd", "i"), "need --kernel");
	refused(PARSE("--kernel", "k", "--serial", "stdio", "--serial", "stdio"), "only one");
	refused(PARSE("--kernel", "k", "--serial", "null", "--serial", "null", "--serial", "pty"), "only 2");
}

static void at_most_sixteen_modules(void **state)
{
	const char *list[WORDS_MAX] = {"--kernel", "k"};
	unsigned count = 2;

	for (unsigned i = 0; i < MACHINE_BOOT_MODULES; i++) {
		list[count++] = "--module";
		list[count++] = "m";
	}
	assert_int_equal(parse_list(list), 0);
	assert_int_equal(options.machine.module_count, MACHINE_BOOT_MODULES);
	list[count++] = "--module";
	list[count++] = "m";
	refused(parse_list(list), "at most");
}

static int teardown(void **state)
{
	options_free(&options);
	return 0;
}

static void screens(void **state)
{
	assert_int_equal(PARSE("--kernel", "k"), 0);
	assert_int_equal(options.machine.vga, MACHINE_VGA_NONE);
	assert_null(options.machine.vnc.host);
	assert_null(options.machine.vnc.path);
	assert_int_equal(PARSE("--kernel", "k", "--vga", "std"), 0);
	assert_int_equal(options.machine.vga, MACHINE_VGA_STD);
	assert_int_equal(PARSE("--kernel", "k", "--vnc", ":1"), 0);
	assert_int_equal(options.machine.vga, MACHINE_VGA_STD);
	assert_string_equal(options.machine.vnc.host, "127.0.0.1");
	assert_int_equal(options.machine.vnc.port, 5901);
	assert_null(options.machine.vnc.password_file);
	assert_int_equal(PARSE("--kernel", "k", "--vnc", "5999"), 0);
	assert_string_equal(options.machine.vnc.host, "127.0.0.1");
	assert_int_equal(options.machine.vnc.port, 5999);
	assert_int_equal(PARSE("--kernel", "k", "--vnc", "host.example:100,password-file=a,,b"), 0);
	assert_string_equal(options.machine.vnc.host, "host.example");
	assert_int_equal(options.machine.vnc.port, 100);
	assert_string_equal(options.machine.vnc.password_file, "a,b");
	assert_int_equal(PARSE("--kernel", "k", "--vnc", "[::1]:0"), 0);
	assert_string_equal(options.machine.vnc.host, "::1");
	assert_int_equal(options.machine.vnc.port, 5900);
	assert_int_equal(PARSE("--kernel", "k", "--vnc", "unix:/tmp/a=b"), 0);
	assert_string_equal(options.machine.vnc.path, "/tmp/a=b");
	refused(PARSE("--kernel", "k", "--vga", "none", "--vnc", ":0"), "--vga none");
	refused(PARSE("--kernel", "k", "--vga", "qxl"), "std or none");
	refused(PARSE("--kernel", "k", "--vnc", "::1:0"), "must be [HOST]:N");
	refused(PARSE("--kernel", "k", "--vnc", ":"), "must be [HOST]:N");
	refused(PARSE("--kernel", "k", "--vnc", ":65536"), "must be [HOST]:N");
	refused(PARSE("--kernel", "k", "--vnc", ":0,password-file="), "needs a file name");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_kernel_alone_is_enough),
		cmocka_unit_test(every_option_reaches_its_field),
		cmocka_unit_test(features_need_no_model),
		cmocka_unit_test(firmware_is_found_by_its_name),
		cmocka_unit_test(fw_cfg_items_and_uuid),
		cmocka_unit_test(a_deterministic_run_takes_the_software_engine),
		cmocka_unit_test(a_deterministic_run_has_its_own_rate),
		cmocka_unit_test(help_needs_nothing_else),
		cmocka_unit_test(sizes_have_units),
		cmocka_unit_test(bad_values_are_named),
		cmocka_unit_test(bad_lines_are_refused),
		cmocka_unit_test(at_most_sixteen_modules),
		cmocka_unit_test(screens),
	};

	return cmocka_run_group_tests(tests, NULL, teardown);
}

/* nestor check: facts from fabricated file trees, and what the report concludes from them. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "cli/cli.h"
#include "config/host_facts.h"

static char root[] = "/tmp/nestor-facts-XXXXXX";
static int kvm_answer;
static const char *hypervisor_signature;
static struct host_facts facts;
static struct check_result result;
static char report[8192];

static void fake_cpuid(uint32_t leaf, uint32_t out[4])
{
	assert_int_equal(leaf, 0x40000000);
	memset(out, 0, 16);
	memcpy(&out[1], hypervisor_signature, strlen(hypervisor_signature));
}

static int fake_kvm(const char *path)
{
	assert_non_null(strstr(path, "/dev/kvm"));
	return kvm_answer;
}

static const struct host_probe fake_probe = {fake_cpuid, fake_kvm};

/* Writes a file below root, with the folders that it needs. */
static void put(const char *name, const char *text)
{
	char path[256];
	FILE *file;

	snprintf(path, sizeof(path), "%s%s", root, name);
	for (char *p = path + sizeof(root); (p = strchr(p, '/')); p++) {
		*p = '\0';
		mkdir(path, 0700);
		*p = '/';
	}
	file = fopen(path, "w");
	assert_non_null(file);
	fputs(text, file);
	fclose(file);
}

static int fresh_root(void **state)
{
	strcpy(root + sizeof(root) - 7, "XXXXXX");
	if (!mkdtemp(root))
		return -1;
	kvm_answer = 12;
	hypervisor_signature = "";
	result = (struct check_result){.soft_usable = true};
	return 0;
}

static int remove_root(void **state)
{
	char line[64];

	snprintf(line, sizeof(line), "rm -r %s", root);
	return system(line);
}

/* Gathers the facts and makes the report. */
static void look(void)
{
	FILE *out = fmemopen(report, sizeof(report), "w");

	host_facts_gather(&facts, root, &fake_probe);
	check_report(out, &facts, &result);
	fclose(out);
}

static void says(const char *part)
{
	if (!strstr(report, part))
		fail_msg("the report does not say \"%s\":\n%s", part, report);
}

static void is_silent_about(const char *part)
{
	if (strstr(report, part))
		fail_msg("the report says \"%s\":\n%s", part, report);
}

#define INTEL(flags)                                                                                         \
	"processor\t: 0\nvendor_id\t: GenuineIntel\nmodel name\t: Intel(R) Test CPU\nflags\t\t: fpu " flags  \
	" sse2\n\n"                                                                                          \
	"processor\t: 1\nvendor_id\t: GenuineIntel\nmodel name\t: second\nflags\t\t: fpu\n"

static void an_empty_host_yields_unknowns(void **state)
{
	look();
	assert_int_equal(facts.kvm, KVM_DEVICE_ABSENT);
	assert_int_equal(facts.intel_nested, FACT_UNKNOWN);
	assert_false(facts.vmx || facts.svm || facts.hypervisor);
	says("unknown (vendor unknown)");
	says("the software engine");
}

static void hardware_that_works_is_used(void **state)
{
	put("/proc/cpuinfo", INTEL("vmx"));
	put("/proc/modules", "kvm_intel 1 2 - Live 0x0\nkvm 1 1 kvm_intel, Live 0x0\n");
	put("/sys/module/kvm_intel/parameters/nested", "Y\n");
	put("/sys/module/kvm_intel/parameters/ept", "1\n");
	put("/sys/module/kvm_intel/parameters/enable_shadow_vmcs", "N\n");
	put("/dev/kvm", "");
	result.kvm_usable = true;
	look();
	assert_true(facts.vmx);
	assert_false(facts.svm);
	assert_string_equal(facts.cpu_name, "Intel(R) Test CPU");
	assert_string_equal(facts.cpu_vendor, "GenuineIntel");
	assert_int_equal(facts.kvm, KVM_DEVICE_ANSWERS);
	assert_int_equal(facts.intel_nested, FACT_ON);
	assert_int_equal(facts.intel_ept, FACT_ON);
	assert_int_equal(facts.intel_shadow_vmcs, FACT_OFF);
	assert_int_equal(facts.intel_unrestricted_guest, FACT_UNKNOWN);
	assert_int_equal(facts.kvm_users, 2);
	says("nested on, ept on, unrestricted_guest unknown, enable_shadow_vmcs off");
	says("works: a trial machine ran");
	says("KVM (--engine soft");
	says("has 2 users now");
	is_silent_about("To enable more");
}

static void flags_are_whole_words(void **state)
{
	put("/proc/cpuinfo", INTEL("vmx_not xvmx svm_lock"));
	look();
	assert_false(facts.vmx);
	assert_false(facts.svm);
}

static void a_device_that_answers_is_not_enough(void **state)
{
	put("/dev/kvm", "");
	result.kvm_problem = "cannot create a vCPU";
	look();
	says("answers, but a trial machine does not run: cannot create a vCPU");
	says("the software engine");
}

static void a_forbidden_device_names_the_group(void **state)
{
	put("/proc/cpuinfo", INTEL("vmx"));
	put("/dev/kvm", "");
	put("/sys/module/kvm_intel/parameters/nested", "N\n");
	kvm_answer = -EACCES;
	look();
	assert_int_equal(facts.kvm, KVM_DEVICE_FORBIDDEN);
	assert_true(facts.kvm_intel_loaded);
	says("this user may not open it");
	says("sudo adduser $USER kvm");
	says("sudo modprobe kvm_intel nested=1");
}

static void a_broken_device_says_how(void **state)
{
	put("/dev/kvm", "");
	kvm_answer = -ENODEV;
	look();
	says("does not work: No such device");
	kvm_answer = 11;
	look();
	says("its API version is 11, not 12");
}

static void missing_modules_are_to_be_loaded(void **state)
{
	put("/proc/cpuinfo", INTEL("vmx"));
	look();
	says("sudo modprobe kvm_intel\n");
	is_silent_about("modprobe kvm_amd");
}

static void amd_hosts_speak_of_amd(void **state)
{
	put("/proc/cpuinfo", "vendor_id\t: AuthenticAMD\nmodel name\t: AMD Test\nflags\t\t: fpu svm\n");
	put("/proc/modules", "kvm_amd 1 0 - Live 0x0\n");
	put("/sys/module/kvm_amd/parameters/nested", "0\n");
	put("/sys/module/kvm_amd/parameters/npt", "Y\n");
	look();
	says("no: AMD's is called AMD-V");
	says("nested off, npt on");
	says("sudo modprobe kvm_amd nested=1");
}

static void each_outer_hypervisor_has_its_command(void **state)
{
	static const struct {
		const char *signature, *name, *command;
	} outer[] = {
		{"KVMKVMKVM", "under KVM", "nested=1"},
		{"Microsoft Hv", "under Hyper-V", "-ExposeVirtualizationExtensions"},
		{"VMwareVMware", "under VMware", "vhv.enable"},
		{"VBoxVBoxVBox", "under VirtualBox", "--nested-hw-virt on"},
		{"XenVMMXenVMM", "under Xen", "nestedhvm=1"},
		{"SomethingNew", "under SomethingNew", "the software engine"},
		{"", "an unnamed hypervisor", "the software engine"},
	};

	put("/proc/cpuinfo", INTEL("hypervisor"));
	for (size_t i = 0; i < sizeof(outer) / sizeof(outer[0]); i++) {
		hypervisor_signature = outer[i].signature;
		look();
		says(outer[i].name);
		says(outer[i].command);
		is_silent_about("firmware-setup");
	}
}

static void bare_metal_without_flags_points_at_the_firmware(void **state)
{
	put("/proc/cpuinfo", INTEL(""));
	look();
	says("systemctl reboot --firmware-setup");
}

static void other_hypervisors_are_found(void **state)
{
	put("/proc/modules", "vmmon 1 0 - Live 0x0\n");
	put("/dev/vboxdrv", "");
	put("/sys/hypervisor/type", "xen\n");
	look();
	assert_true(facts.vmmon && facts.vboxdrv && facts.xen);
	says("VMware holds");
	says("vboxdrv is loaded");
	says("runs under Xen");
	says("sudo /etc/init.d/vmware stop");
	is_silent_about("no other hypervisor");
}

static void without_any_engine_it_says_so(void **state)
{
	result.soft_usable = false;
	result.soft_problem = "the host CPU lacks SSE4.2";
	look();
	says("nothing: the host CPU lacks SSE4.2");
}

static void hostile_files_are_survived(void **state)
{
	char long_line[2000];

	memset(long_line, 'x', sizeof(long_line) - 1);
	long_line[sizeof(long_line) - 1] = '\0';
	put("/proc/cpuinfo", long_line);
	put("/proc/modules", long_line);
	put("/sys/module/kvm_intel/parameters/nested", "");
	put("/sys/hypervisor/type", long_line);
	look();
	assert_int_equal(facts.intel_nested, FACT_UNKNOWN);
	memcpy(long_line, "model name:", 11);
	put("/proc/cpuinfo", long_line);
	look();
	assert_int_equal(strlen(facts.cpu_name), sizeof(facts.cpu_name) - 1);
}

#define CASE(name) cmocka_unit_test_setup_teardown(name, fresh_root, remove_root)

int main(void)
{
	const struct CMUnitTest tests[] = {
		CASE(an_empty_host_yields_unknowns),
		CASE(hardware_that_works_is_used),
		CASE(flags_are_whole_words),
		CASE(a_device_that_answers_is_not_enough),
		CASE(a_forbidden_device_names_the_group),
		CASE(a_broken_device_says_how),
		CASE(missing_modules_are_to_be_loaded),
		CASE(amd_hosts_speak_of_amd),
		CASE(each_outer_hypervisor_has_its_command),
		CASE(bare_metal_without_flags_points_at_the_firmware),
		CASE(other_hypervisors_are_found),
		CASE(without_any_engine_it_says_so),
		CASE(hostile_files_are_survived),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

/* nestor check: what this host offers, what Nestor makes of it, and how to get more. */
#include "cli/cli.h"

#include <stdarg.h>
#include <string.h>

#include "config/host_facts.h"
#include "engine/cpu_model.h"
#include "machine/machine.h"
#include "util/error.h"

#define LABEL_WIDTH 16

const char help_check[] =
	"Usage: nestor check\n"
	"\n"
	"Says in plain words whether this host has VT-x or AMD-V, whether KVM works, what another\n"
	"hypervisor holds, which engine Nestor will therefore use, and the commands that would enable\n"
	"more. Changes nothing and needs no privileges.\n"
	"\n"
	"Example:\n"
	"  nestor check\n";

static void line(FILE *out, const char *label, const char *format, ...) __attribute__((format(printf, 3, 4)));

static void line(FILE *out, const char *label, const char *format, ...)
{
	va_list args;

	fprintf(out, "%-*s", LABEL_WIDTH, label);
	va_start(args, format);
	vfprintf(out, format, args);
	va_end(args);
	fputc('\n', out);
}

static const char *switch_text(enum fact_switch value)
{
	return value == FACT_ON ? "on" : value == FACT_OFF ? "off" : "unknown";
}

/* CPUID.40000000H's signatures, in words. */
static const char *hypervisor_name(const char *vendor)
{
	static const struct {
		const char *signature, *name;
	} known[] = {
		{"KVMKVMKVM", "KVM"}, {"Microsoft Hv", "Hyper-V"}, {"VMwareVMware", "VMware"},
		{"VBoxVBoxVBox", "VirtualBox"}, {"XenVMMXenVMM", "Xen"}, {"TCGTCGTCGTCG", "QEMU without KVM"},
		{"bhyve bhyve ", "bhyve"},
	};

	for (size_t i = 0; i < sizeof(known) / sizeof(known[0]); i++)
		if (!strcmp(vendor, known[i].signature))
			return known[i].name;
	return *vendor ? vendor : "an unnamed hypervisor";
}

static void report_cpu(FILE *out, const struct host_facts *facts)
{
	const char *absent = facts->hypervisor ? "no: the hypervisor around this machine does not pass it on"
					       : "no: the CPU has none, or its firmware has switched it off";
	bool intel = !strcmp(facts->cpu_vendor, "GenuineIntel"),
	     amd = !strcmp(facts->cpu_vendor, "AuthenticAMD");

	line(out, "CPU", "%s (%s)", *facts->cpu_name ? facts->cpu_name : "unknown",
	     *facts->cpu_vendor ? facts->cpu_vendor : "vendor unknown");
	line(out, "VT-x (vmx)", "%s", facts->vmx ? "yes" : amd ? "no: AMD's is called AMD-V" : absent);
	line(out, "AMD-V (svm)", "%s", facts->svm ? "yes" : intel ? "no: Intel's is called VT-x" : absent);
	if (facts->hypervisor)
		line(out, "This machine", "is itself a virtual machine, under %s",
		     hypervisor_name(facts->hypervisor_vendor));
	else
		line(out, "This machine", "is not a virtual machine as far as it can tell");
}

static void report_kvm(FILE *out, const struct host_facts *facts, const struct check_result *result)
{
	switch (facts->kvm) {
	case KVM_DEVICE_ABSENT:
		line(out, "/dev/kvm", "is not there");
		break;
	case KVM_DEVICE_FORBIDDEN:
		line(out, "/dev/kvm", "is there, but this user may not open it");
		break;
	case KVM_DEVICE_BROKEN:
		line(out, "/dev/kvm", "is there, but does not work: %s", facts->kvm_problem);
		break;
	case KVM_DEVICE_ANSWERS:
		if (result->kvm_usable)
			line(out, "/dev/kvm", "works: a trial machine ran");
		else
			line(out, "/dev/kvm", "answers, but a trial machine does not run: %s",
			     result->kvm_problem ? result->kvm_problem : "reason unknown");
		break;
	}
	if (facts->kvm_intel_loaded)
		line(out, "kvm_intel", "nested %s, ept %s, unrestricted_guest %s, enable_shadow_vmcs %s",
		     switch_text(facts->intel_nested), switch_text(facts->intel_ept),
		     switch_text(facts->intel_unrestricted_guest), switch_text(facts->intel_shadow_vmcs));
	if (facts->kvm_amd_loaded)
		line(out, "kvm_amd", "nested %s, npt %s", switch_text(facts->amd_nested),
		     switch_text(facts->amd_npt));
	if (!facts->kvm_intel_loaded && !facts->kvm_amd_loaded)
		line(out, "KVM modules", "%s",
		     facts->kvm_loaded ? "kvm is loaded, kvm_intel and kvm_amd are not" : "not loaded");
}

/* One line where `holds`; returns it. */
static bool other(FILE *out, bool holds, const char *name, const char *text)
{
	if (holds)
		line(out, name, "%s", text);
	return holds;
}

static void report_others(FILE *out, const struct host_facts *facts)
{
	bool hyperv = facts->hypervisor && !strcmp(facts->hypervisor_vendor, "Microsoft Hv");
	bool any = facts->kvm_users != 0;

	any |= other(out, facts->vmmon, "VMware",
		     "vmmon is loaded; while its machines run, VMware holds VT-x or AMD-V");
	any |= other(out, facts->vboxdrv, "VirtualBox",
		     "vboxdrv is loaded; while its machines run, it holds VT-x or AMD-V");
	any |= other(out, facts->xen, "Xen", "this system runs under Xen, which holds VT-x or AMD-V itself");
	any |= other(out, hyperv, "Hyper-V",
	             "holds VT-x or AMD-V; a guest gets it only where Hyper-V exposes it");
	if (facts->kvm_users)
		line(out, "KVM", "has %u user%s now", facts->kvm_users, facts->kvm_users == 1 ? "" : "s");
	if (!any)
		line(out, "Others", "no other hypervisor found");
}

static void command(FILE *out, bool *first, const char *reason, const char *text)
{
	line(out, *first ? "To enable more" : "", "%s:", reason);
	line(out, "", "    %s", text);
	*first = false;
}

static void report_commands(FILE *out, const struct host_facts *facts)
{
	static const struct {
		const char *vendor, *reason, *text;
	} outer[] = {
		{"KVMKVMKVM", "on the machine around this one, which must let this one nest",
		 "echo 'options kvm_intel nested=1' | sudo tee /etc/modprobe.d/nested.conf   # or kvm_amd\n"
		 "                    virt-xml NAME --edit --cpu host-passthrough   # libvirt; with QEMU: -cpu host"},
		{"Microsoft Hv", "on the Hyper-V host, in PowerShell, with this machine off",
		 "Set-VMProcessor -VMName NAME -ExposeVirtualizationExtensions $true"},
		{"VMwareVMware", "in this machine's .vmx file on the VMware host, with this machine off",
		 "vhv.enable = \"TRUE\""},
		{"VBoxVBoxVBox", "on the VirtualBox host, with this machine off",
		 "VBoxManage modifyvm NAME --nested-hw-virt on"},
		{"XenVMMXenVMM", "in this machine's configuration on the Xen host", "nestedhvm=1"},
	};
	bool first = true;

	if (facts->vboxdrv)
		command(out, &first, "stop VirtualBox's machines, then release VT-x or AMD-V",
			"sudo modprobe -r vboxnetadp vboxnetflt vboxdrv");
	if (facts->vmmon)
		command(out, &first, "stop VMware's machines, then release VT-x or AMD-V",
			"sudo /etc/init.d/vmware stop");
	if (facts->vmx && !facts->kvm_intel_loaded)
		command(out, &first, "load KVM", "sudo modprobe kvm_intel");
	if (facts->svm && !facts->kvm_amd_loaded)
		command(out, &first, "load KVM", "sudo modprobe kvm_amd");
	if (facts->kvm == KVM_DEVICE_FORBIDDEN)
		command(out, &first, "let this user open /dev/kvm (then log in again)",
		        "sudo adduser $USER kvm");
	if (facts->kvm_intel_loaded && facts->intel_nested == FACT_OFF)
		command(out, &first, "give guests of KVM VT-x (no virtual machine may run)",
			"sudo modprobe -r kvm_intel && sudo modprobe kvm_intel nested=1");
	if (facts->kvm_intel_loaded && facts->intel_ept == FACT_OFF)
		command(out, &first, "let KVM use EPT, without which it is slow (no virtual machine may run)",
			"sudo modprobe -r kvm_intel && sudo modprobe kvm_intel ept=1");
	if (facts->kvm_amd_loaded && facts->amd_nested == FACT_OFF)
		command(out, &first, "give guests of KVM AMD-V (no virtual machine may run)",
			"sudo modprobe -r kvm_amd && sudo modprobe kvm_amd nested=1");
	if (!facts->vmx && !facts->svm && facts->hypervisor)
		for (size_t i = 0; i < sizeof(outer) / sizeof(outer[0]); i++)
			if (!strcmp(facts->hypervisor_vendor, outer[i].vendor))
				command(out, &first, outer[i].reason, outer[i].text);
	if (!facts->vmx && !facts->svm && !facts->hypervisor)
		command(out, &first, "VT-x or AMD-V may be off in the firmware's setup, which this opens",
			"sudo systemctl reboot --firmware-setup");
}

void check_report(FILE *out, const struct host_facts *facts, const struct check_result *result)
{
	report_cpu(out, facts);
	report_kvm(out, facts, result);
	report_others(out, facts);
	if (result->kvm_usable && facts->kvm == KVM_DEVICE_ANSWERS)
		line(out, "Nestor will use", "KVM (--engine soft forces the software engine)");
	else if (result->soft_usable)
		line(out, "Nestor will use", "the software engine, which needs nothing of the above");
	else
		line(out, "Nestor will use", "nothing: %s",
		     result->soft_problem ? result->soft_problem : "no engine");
	report_commands(out, facts);
}

int command_check(int argc, char **argv)
{
	struct check_result result = {0};
	struct host_facts facts;
	char kvm_problem[512] = "", soft_problem[512] = "";
	/* What `nestor run` asks for when it is told nothing. */
	struct machine_config config = {
		.memory_size = 16 << 20, .cpu_count = 1, .rtc_start = INT64_MIN,
		.cpu = {.nested_vmx = true, .hypervisor_leaf = true, .cpu_count = 1},
	};
	struct cpu_model model;

	if (argc > 1) {
		if (!strcmp(argv[1], "--help")) {
			fputs(help_check, stdout);
			return STATUS_OK;
		}
		return usage_error("check", "%s: takes no options (see nestor check --help)", argv[1]);
	}
	host_facts_gather(&facts, "", &host_probe_real);
	config.engine = MACHINE_ENGINE_KVM;
	result.kvm_usable = engine_select(&config) != NULL;
	if (!result.kvm_usable)
		snprintf(kvm_problem, sizeof(kvm_problem), "%s", error_text());
	config.engine = MACHINE_ENGINE_SOFT;
	result.soft_usable = engine_select(&config) && cpu_model_make(&model, &config.cpu) == 0;
	if (!result.soft_usable)
		snprintf(soft_problem, sizeof(soft_problem), "%s", error_text());
	result.kvm_problem = kvm_problem;
	result.soft_problem = soft_problem;
	check_report(stdout, &facts, &result);
	return STATUS_OK;
}

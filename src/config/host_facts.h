/* What this host offers to a hypervisor: facts only; what follows from them is said by `nestor check`. */
#ifndef NESTOR_CONFIG_HOST_FACTS_H
#define NESTOR_CONFIG_HOST_FACTS_H

#include <stdbool.h>
#include <stdint.h>

/* A module parameter that is a switch. */
enum fact_switch { FACT_UNKNOWN, FACT_OFF, FACT_ON };

enum kvm_device {
	KVM_DEVICE_ABSENT,
	KVM_DEVICE_FORBIDDEN, /* it is there, this user may not open it */
	KVM_DEVICE_BROKEN,    /* it is there, but does not open or answer as KVM does: kvm_problem */
	KVM_DEVICE_ANSWERS,
};

struct host_facts {
	char cpu_vendor[16];  /* "GenuineIntel"; empty where unknown */
	char cpu_name[64];
	bool vmx, svm;        /* flags of /proc/cpuinfo, which firmware's or a hypervisor's veto clears */
	bool hypervisor;      /* this host is itself a guest */
	char hypervisor_vendor[13]; /* CPUID.40000000H's signature, "KVMKVMKVM" */
	enum kvm_device kvm;
	char kvm_problem[96];
	bool kvm_loaded, kvm_intel_loaded, kvm_amd_loaded; /* as modules or built in */
	enum fact_switch intel_nested, intel_ept, intel_unrestricted_guest, intel_shadow_vmcs;
	enum fact_switch amd_nested, amd_npt;
	unsigned kvm_users; /* the reference count of kvm_intel or kvm_amd: virtual machines that run now */
	bool vmmon, vboxdrv, xen; /* hypervisors that may hold VT-x or AMD-V */
};

/* How the facts are reached that are not files. */
struct host_probe {
	/* CPUID of the host. */
	void (*cpuid)(uint32_t leaf, uint32_t out[4]);
	/*
	 * Opens the device at path and asks for its API version. Returns it (12 for every KVM since 2007), or a
	 * negative errno.
	 */
	int (*kvm_api_version)(const char *path);
};

extern const struct host_probe host_probe_real;

/*
 * Fills *facts from the files below root ("" for this host; a test gives a fabricated tree) and the probe.
 * What cannot be read is left unknown; nothing is an error.
 */
void host_facts_gather(struct host_facts *facts, const char *root, const struct host_probe *probe);

#endif

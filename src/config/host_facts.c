#include "config/host_facts.h"

#include <cpuid.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/kvm.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

static void real_cpuid(uint32_t leaf, uint32_t out[4])
{
	__cpuid(leaf, out[0], out[1], out[2], out[3]);
}

static int real_kvm_api_version(const char *path)
{
	int fd = open(path, O_RDWR | O_CLOEXEC), version;

	if (fd < 0)
		return -errno;
	version = ioctl(fd, KVM_GET_API_VERSION, 0);
	if (version < 0)
		version = -errno;
	close(fd);
	return version;
}

const struct host_probe host_probe_real = {real_cpuid, real_kvm_api_version};

static void path_make(char path[512], const char *root, const char *name)
{
	snprintf(path, 512, "%s%s", root, name);
}

static bool exists(const char *root, const char *name)
{
	char path[512];

	path_make(path, root, name);
	return access(path, F_OK) == 0;
}

/* The first line of a file without its newline. Returns false where there is none. */
static bool first_line(const char *root, const char *name, char *text, int size)
{
	char path[512];
	FILE *file;
	bool read;

	path_make(path, root, name);
	file = fopen(path, "re");
	if (!file)
		return false;
	read = fgets(text, size, file) != NULL;
	fclose(file);
	if (read)
		text[strcspn(text, "\n")] = '\0';
	return read;
}

static enum fact_switch module_switch(const char *root, const char *module, const char *parameter)
{
	char name[160], text[16];

	snprintf(name, sizeof(name), "/sys/module/%s/parameters/%s", module, parameter);
	if (!first_line(root, name, text, sizeof(text)))
		return FACT_UNKNOWN;
	return *text == 'Y' || *text == 'y' || (*text >= '1' && *text <= '9') ? FACT_ON : FACT_OFF;
}

static bool has_word(const char *line, const char *word)
{
	size_t length = strlen(word);

	for (const char *p = line; (p = strstr(p, word)); p += length)
		if ((p == line || p[-1] == ' ' || p[-1] == '\t') &&
		    (!p[length] || strchr(" \t\n", p[length])))
			return true;
	return false;
}

static void copy_text(char *to, size_t size, const char *from)
{
	size_t length = strcspn(from, "\n");

	if (length >= size)
		length = size - 1;
	memcpy(to, from, length);
	to[length] = '\0';
}

/* The first processor's entry; all processors of a PC offer the same. */
static void read_cpuinfo(struct host_facts *facts, const char *root)
{
	char path[512], *line = NULL;
	size_t size = 0;
	FILE *file;

	path_make(path, root, "/proc/cpuinfo");
	file = fopen(path, "re");
	if (!file)
		return;
	while (getline(&line, &size, file) > 1) {
		char *value = strchr(line, ':');

		if (!value)
			continue;
		value += value[1] == ' ' ? 2 : 1;
		if (!strncmp(line, "vendor_id", 9))
			copy_text(facts->cpu_vendor, sizeof(facts->cpu_vendor), value);
		else if (!strncmp(line, "model name", 10))
			copy_text(facts->cpu_name, sizeof(facts->cpu_name), value);
		else if (!strncmp(line, "flags", 5)) {
			facts->vmx = has_word(value, "vmx");
			facts->svm = has_word(value, "svm");
			facts->hypervisor = has_word(value, "hypervisor");
		}
	}
	free(line);
	fclose(file);
}

/* /proc/modules: "name size references users state address". */
static void read_modules(struct host_facts *facts, const char *root)
{
	char path[512], *line = NULL;
	size_t size = 0;
	FILE *file;

	path_make(path, root, "/proc/modules");
	file = fopen(path, "re");
	if (!file)
		return;
	while (getline(&line, &size, file) > 0) {
		char name[64];
		unsigned references;

		if (sscanf(line, "%63s %*s %u", name, &references) != 2)
			continue;
		if (!strcmp(name, "kvm"))
			facts->kvm_loaded = true;
		else if (!strcmp(name, "kvm_intel")) {
			facts->kvm_intel_loaded = true;
			facts->kvm_users += references;
		} else if (!strcmp(name, "kvm_amd")) {
			facts->kvm_amd_loaded = true;
			facts->kvm_users += references;
		} else if (!strcmp(name, "vmmon"))
			facts->vmmon = true;
		else if (!strcmp(name, "vboxdrv"))
			facts->vboxdrv = true;
	}
	free(line);
	fclose(file);
}

static void probe_kvm(struct host_facts *facts, const char *root, const struct host_probe *probe)
{
	char path[512];
	int version;

	if (!exists(root, "/dev/kvm"))
		return;
	path_make(path, root, "/dev/kvm");
	version = probe->kvm_api_version(path);
	if (version == KVM_API_VERSION) {
		facts->kvm = KVM_DEVICE_ANSWERS;
	} else if (version == -EACCES || version == -EPERM) {
		facts->kvm = KVM_DEVICE_FORBIDDEN;
	} else {
		facts->kvm = KVM_DEVICE_BROKEN;
		if (version < 0)
			snprintf(facts->kvm_problem, sizeof(facts->kvm_problem), "%s", strerror(-version));
		else
			snprintf(facts->kvm_problem, sizeof(facts->kvm_problem),
			         "its API version is %d, not %d", version, KVM_API_VERSION);
	}
}

void host_facts_gather(struct host_facts *facts, const char *root, const struct host_probe *probe)
{
	char text[32];

	*facts = (struct host_facts){0};
	read_cpuinfo(facts, root);
	read_modules(facts, root);
	if (facts->hypervisor) {
		uint32_t out[4];

		probe->cpuid(0x40000000, out);
		memcpy(facts->hypervisor_vendor, &out[1], 12);
		facts->hypervisor_vendor[12] = '\0';
	}

	/* Built into the kernel, they are in /sys/module only. */
	facts->kvm_loaded |= exists(root, "/sys/module/kvm");
	facts->kvm_intel_loaded |= exists(root, "/sys/module/kvm_intel");
	facts->kvm_amd_loaded |= exists(root, "/sys/module/kvm_amd");
	facts->intel_nested = module_switch(root, "kvm_intel", "nested");
	facts->intel_ept = module_switch(root, "kvm_intel", "ept");
	facts->intel_unrestricted_guest = module_switch(root, "kvm_intel", "unrestricted_guest");
	facts->intel_shadow_vmcs = module_switch(root, "kvm_intel", "enable_shadow_vmcs");
	facts->amd_nested = module_switch(root, "kvm_amd", "nested");
	facts->amd_npt = module_switch(root, "kvm_amd", "npt");

	facts->vmmon |= exists(root, "/dev/vmmon");
	facts->vboxdrv |= exists(root, "/dev/vboxdrv");
	facts->xen = first_line(root, "/sys/hypervisor/type", text, sizeof(text)) && !strcmp(text, "xen");
	probe_kvm(facts, root, probe);
}

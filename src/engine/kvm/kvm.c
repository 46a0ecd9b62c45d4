/*
 * The hardware engine: a VM of Linux's KVM. The local APICs are KVM's, the 8259 pair, I/O APIC and 8254 are
 * the machine's ("split irqchip"), so that all engines share their devices.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#include "engine/kvm/kvm_private.h"
#include "util/error.h"

int kvm_ioctl(int fd, unsigned long request, void *argument)
{
	int result;

	do
		result = ioctl(fd, request, argument);
	while (result < 0 && errno == EINTR);
	return result < 0 ? -errno : result;
}

int kvm_ioctl_value(int fd, unsigned long request, unsigned long value)
{
	return kvm_ioctl(fd, request, (void *)value);
}

int kvm_capability(int fd, unsigned capability)
{
	int result = kvm_ioctl_value(fd, KVM_CHECK_EXTENSION, capability);

	return result < 0 ? 0 : result;
}

int kvm_open(void)
{
	int fd = open("/dev/kvm", O_RDWR | O_CLOEXEC), version;

	if (fd < 0) {
		int cause = errno;

		if (cause == ENOENT)
			return error_set(
			    cause, "/dev/kvm does not exist; load kvm_intel or kvm_amd (modprobe), or use "
			           "--engine soft");
		if (cause == EACCES)
			return error_set(
			    cause,
			    "/dev/kvm may not be opened by this user; join the group kvm (usermod -aG kvm "
			    "USER), or use --engine soft");
		return error_set(cause, "/dev/kvm cannot be opened: %s; use --engine soft", strerror(cause));
	}
	version = kvm_ioctl_value(fd, KVM_GET_API_VERSION, 0);
	if (version != KVM_API) {
		close(fd);
		return error_set(ENOTSUP,
		                 "/dev/kvm speaks version %d of its interface, not %d; use --engine soft",
		                 version, KVM_API);
	}
	return fd;
}

int kvm_create_vm(int kvm_fd)
{
	int fd = kvm_ioctl_value(kvm_fd, KVM_CREATE_VM, 0);

	if (fd == -EBUSY || fd == -EIO)
		return error_set(
		    -fd,
		    "KVM cannot start a VM: another hypervisor (VirtualBox, VMware) holds VT-x; stop it, "
		    "or use --engine soft");
	if (fd < 0)
		return error_set(-fd, "KVM cannot create a VM: %s; use --engine soft", strerror(-fd));
	return fd;
}

struct cpuid_list *kvm_supported_cpuid(int kvm_fd)
{
	struct cpuid_list *cpuid = calloc(1, sizeof(*cpuid));
	int status;

	if (!cpuid) {
		error_set(ENOMEM, "no memory for KVM's CPUID");
		return NULL;
	}
	cpuid->head.nent = KVM_CPUID_MAX;
	status = kvm_ioctl(kvm_fd, KVM_GET_SUPPORTED_CPUID, cpuid);
	if (status < 0) {
		error_set(-status, "KVM does not tell which CPUID it supports: %s", strerror(-status));
		free(cpuid);
		return NULL;
	}
	return cpuid;
}

bool kvm_supports_vmx(const struct cpuid_list *supported)
{
	for (unsigned i = 0; i < supported->head.nent; i++)
		if (supported->entry[i].function == 1)
			return supported->entry[i].ecx >> 5 & 1;
	return false;
}

static int check_capabilities(int kvm_fd)
{
	static const struct {
		unsigned number;
		const char *name;
	} needed[] = {
	    {KVM_CAP_USER_MEMORY, "KVM_CAP_USER_MEMORY"},
	    {KVM_CAP_SPLIT_IRQCHIP, "KVM_CAP_SPLIT_IRQCHIP"},
	    {KVM_CAP_SIGNAL_MSI, "KVM_CAP_SIGNAL_MSI"},
	    {KVM_CAP_IRQ_ROUTING, "KVM_CAP_IRQ_ROUTING"},
	    {KVM_CAP_IMMEDIATE_EXIT, "KVM_CAP_IMMEDIATE_EXIT"},
	    {KVM_CAP_MP_STATE, "KVM_CAP_MP_STATE"},
	    {KVM_CAP_SET_IDENTITY_MAP_ADDR, "KVM_CAP_SET_IDENTITY_MAP_ADDR"},
	};

	for (size_t i = 0; i < sizeof(needed) / sizeof(needed[0]); i++)
		if (!kvm_capability(kvm_fd, needed[i].number))
			return error_set(ENOTSUP,
			                 "this host's KVM lacks %s; use a newer kernel or --engine soft",
			                 needed[i].name);
	return 0;
}

/* The MSRs that belong to a vCPU's state. */
static int read_msr_list(struct engine_vm *vm)
{
	struct kvm_msr_list *list = calloc(1, sizeof(*list) + KVM_MSRS_MAX * sizeof(list->indices[0]));
	int status;

	if (!list)
		return error_set(ENOMEM, "no memory for KVM's MSRs");
	vm->msr_list = list;
	list->nmsrs = KVM_MSRS_MAX;
	status = kvm_ioctl(vm->kvm_fd, KVM_GET_MSR_INDEX_LIST, list);
	return status < 0 ? error_set(-status, "KVM does not list its MSRs: %s", strerror(-status)) : 0;
}

static int set_up_vm(struct engine_vm *vm)
{
	uint64_t identity_map = KVM_IDENTITY_MAP_GPA;
	struct kvm_enable_cap split = {.cap = KVM_CAP_SPLIT_IRQCHIP, .args = {KVM_IOAPIC_PINS}};
	int status;

	/* The order is KVM's: addresses and interrupt chip before the first vCPU. */
	status = kvm_ioctl(vm->fd, KVM_SET_IDENTITY_MAP_ADDR, &identity_map);
	if (status >= 0)
		status = kvm_ioctl_value(vm->fd, KVM_SET_TSS_ADDR, KVM_TSS_GPA);
	if (status < 0)
		return error_set(-status, "KVM refuses addresses for its own pages: %s", strerror(-status));
	status = kvm_ioctl(vm->fd, KVM_ENABLE_CAP, &split);
	if (status < 0)
		return error_set(-status, "KVM refuses a split interrupt chip: %s", strerror(-status));
	return kvm_memory_changed(vm);
}

static int open_vm(struct engine_vm *vm)
{
	int status;

	vm->kvm_fd = kvm_open();
	if (vm->kvm_fd < 0)
		return vm->kvm_fd;
	status = check_capabilities(vm->kvm_fd);
	if (status)
		return status;
	vm->supported = kvm_supported_cpuid(vm->kvm_fd);
	if (!vm->supported)
		return -EIO;
	if (vm->config->cpu_model->vmx && !kvm_supports_vmx(vm->supported))
		return error_set(
		    ENOTSUP,
		    "this host's KVM offers its guests no VT-x; load kvm_intel with nested=1, or use "
		    "--nested off or --engine soft");
	status = read_msr_list(vm);
	if (status)
		return status;
	vm->fd = kvm_create_vm(vm->kvm_fd);
	return vm->fd < 0 ? vm->fd : set_up_vm(vm);
}

static void destroy_vcpu(struct engine_vcpu *vcpu)
{
	if (!vcpu)
		return;
	if (vcpu->run)
		munmap(vcpu->run, vcpu->run_size);
	if (vcpu->fd >= 0)
		close(vcpu->fd);
	pthread_mutex_destroy(&vcpu->thread_lock);
	free(vcpu->reset_state);
	free(vcpu);
}

static void vm_destroy(struct engine_vm *vm)
{
	if (!vm)
		return;
	for (unsigned i = 0; i < KVM_CPUS_MAX; i++)
		destroy_vcpu(vm->vcpu[i]);
	if (vm->fd >= 0)
		close(vm->fd);
	if (vm->kvm_fd >= 0)
		close(vm->kvm_fd);
	pthread_mutex_destroy(&vm->route_lock);
	free(vm->supported);
	free(vm->msr_list);
	free(vm);
}

static int vm_create(struct engine_vm **created, const struct engine_config *config)
{
	struct engine_vm *vm;
	int status;

	if (config->clock == ENGINE_CLOCK_DETERMINISTIC)
		return error_set(ENOTSUP,
		                 "KVM has no deterministic clock; use --engine soft or --clock real");
	if (config->cpu_count > KVM_CPUS_MAX)
		return error_set(EINVAL, "%u CPUs; KVM VMs get at most %d", config->cpu_count, KVM_CPUS_MAX);
	status = kvm_install_kick_signal();
	if (status)
		return status;
	vm = calloc(1, sizeof(*vm));
	if (!vm)
		return error_set(ENOMEM, "no memory for a VM");
	vm->kvm_fd = vm->fd = -1;
	vm->config_copy = *config;
	vm->config = &vm->config_copy;
	pthread_mutex_init(&vm->route_lock, NULL);
	status = open_vm(vm);
	if (status) {
		vm_destroy(vm);
		return status;
	}
	*created = vm;
	return 0;
}

static bool same_slot(const struct guest_memory_slot *a, const struct guest_memory_slot *b)
{
	return a->gpa == b->gpa && a->size == b->size && a->host == b->host && a->read_only == b->read_only;
}

/* Slot number `i` of KVM becomes *slot; size 0 removes it. */
static int set_slot(struct engine_vm *vm, unsigned i, const struct guest_memory_slot *slot)
{
	struct kvm_userspace_memory_region region = {
	    .slot = i,
	    .flags = slot->read_only && kvm_capability(vm->kvm_fd, KVM_CAP_READONLY_MEM) ? KVM_MEM_READONLY : 0,
	    .guest_phys_addr = slot->gpa,
	    .memory_size = slot->size,
	    .userspace_addr = (uintptr_t)slot->host,
	};
	int status = kvm_ioctl(vm->fd, KVM_SET_USER_MEMORY_REGION, &region);

	if (status < 0)
		return error_set(-status, "KVM refuses guest memory at %#llx: %s", (unsigned long long)slot->gpa,
		                 strerror(-status));
	vm->memory.slot[i] = *slot;
	return 0;
}

static bool has_slot(const struct guest_memory *memory, const struct guest_memory_slot *slot)
{
	for (unsigned i = 0; i < memory->slot_count; i++)
		if (same_slot(&memory->slot[i], slot))
			return true;
	return false;
}

/* KVM's slots never overlap and do not change their shape: what is gone is removed first, the new gets free numbers. */
int kvm_memory_changed(struct engine_vm *vm)
{
	const struct guest_memory *wanted = vm->config->host->memory;
	struct guest_memory_slot none = {0};
	unsigned number = 0;
	int status = 0;

	vm->memory.slot_count = GUEST_MEMORY_SLOTS;
	for (unsigned i = 0; i < GUEST_MEMORY_SLOTS && !status; i++) {
		none.gpa = vm->memory.slot[i].gpa;
		if (vm->memory.slot[i].size && !has_slot(wanted, &vm->memory.slot[i]))
			status = set_slot(vm, i, &none);
	}
	for (unsigned i = 0; i < wanted->slot_count && !status; i++) {
		if (has_slot(&vm->memory, &wanted->slot[i]))
			continue;
		while (number < GUEST_MEMORY_SLOTS && vm->memory.slot[number].size)
			number++;
		status = set_slot(vm, number, &wanted->slot[i]);
	}
	return status;
}

static int open_vcpu(struct engine_vcpu *vcpu)
{
	struct engine_vm *vm = vcpu->vm;
	int size;

	vcpu->fd = kvm_ioctl_value(vm->fd, KVM_CREATE_VCPU, vcpu->index);
	if (vcpu->fd < 0)
		return error_set(-vcpu->fd, "KVM cannot create CPU %u: %s", vcpu->index, strerror(-vcpu->fd));
	size = kvm_ioctl_value(vm->kvm_fd, KVM_GET_VCPU_MMAP_SIZE, 0);
	if (size < (int)sizeof(struct kvm_run))
		return error_set(EIO, "KVM gives no room to talk about CPU %u", vcpu->index);
	vcpu->run_size = (size_t)size;
	vcpu->run = mmap(NULL, vcpu->run_size, PROT_READ | PROT_WRITE, MAP_SHARED, vcpu->fd, 0);
	if (vcpu->run == MAP_FAILED) {
		vcpu->run = NULL;
		return error_set(ENOMEM, "KVM's view of CPU %u cannot be mapped", vcpu->index);
	}
	return 0;
}

static int vcpu_create(struct engine_vm *vm, unsigned index, struct engine_vcpu **created)
{
	struct engine_vcpu *vcpu;
	int status;

	if (index >= KVM_CPUS_MAX || vm->vcpu[index])
		return error_set(EINVAL, "there is no room for CPU %u", index);
	vcpu = calloc(1, sizeof(*vcpu));
	if (!vcpu)
		return error_set(ENOMEM, "no memory for CPU %u", index);
	vcpu->vm = vm;
	vcpu->index = index;
	vcpu->fd = -1;
	vcpu->held_vector = -1;
	pthread_mutex_init(&vcpu->thread_lock, NULL);
	status = open_vcpu(vcpu);
	if (!status)
		status = kvm_set_cpu_model(vcpu);
	if (!status)
		status = kvm_remember_reset_state(vcpu);
	if (status) {
		destroy_vcpu(vcpu);
		return status;
	}
	vm->vcpu[index] = vcpu;
	*created = vcpu;
	return 0;
}

static void vcpu_kick(struct engine_vcpu *vcpu)
{
	atomic_store(&vcpu->kicked, true);
	kvm_interrupt_run(vcpu);
}

/*
 * KVM tells of an EOI only for vectors that its routing table has as level-triggered messages of an I/O APIC
 * pin (Documentation/virt/kvm/api.rst, KVM_CAP_SPLIT_IRQCHIP). The table is built from what the I/O APIC
 * really sends.
 */
static void route_level_message(struct engine_vm *vm, uint64_t address, uint32_t data)
{
	struct {
		struct kvm_irq_routing head;
		struct kvm_irq_routing_entry entry[KVM_IOAPIC_PINS];
	} table = {0};

	pthread_mutex_lock(&vm->route_lock);
	for (unsigned i = 0; i < KVM_IOAPIC_PINS; i++) {
		if (vm->route[i].used && vm->route[i].address == address && vm->route[i].data == data) {
			pthread_mutex_unlock(&vm->route_lock);
			return;
		}
	}
	vm->route[vm->route_next].used = true;
	vm->route[vm->route_next].address = address;
	vm->route[vm->route_next].data = data;
	vm->route_next = (vm->route_next + 1) % KVM_IOAPIC_PINS;
	for (unsigned i = 0; i < KVM_IOAPIC_PINS; i++) {
		if (!vm->route[i].used)
			continue;
		table.entry[table.head.nr++] = (struct kvm_irq_routing_entry){
		    .gsi = i,
		    .type = KVM_IRQ_ROUTING_MSI,
		    .u.msi = {.address_lo = (uint32_t)vm->route[i].address,
		              .address_hi = (uint32_t)(vm->route[i].address >> 32),
		              .data = vm->route[i].data},
		};
	}
	kvm_ioctl(vm->fd, KVM_SET_GSI_ROUTING, &table);
	pthread_mutex_unlock(&vm->route_lock);
}

/* SDM, Message Data Register Format. */
#define MSI_DATA_LEVEL  (1u << 15)
#define MSI_DATA_ASSERT (1u << 14)
#define MSI_DATA_NMI    (4u << 8)
#define MSI_ADDRESS     0xfee00000u

static void deliver_msi(struct engine_vm *vm, uint64_t address, uint32_t data)
{
	struct kvm_msi message = {
	    .address_lo = (uint32_t)address,
	    .address_hi = (uint32_t)(address >> 32),
	    .data = data,
	};

	if (data & MSI_DATA_LEVEL)
		route_level_message(vm, address, data);
	/* A message that no local APIC takes is lost, as on the bus. */
	kvm_ioctl(vm->fd, KVM_SIGNAL_MSI, &message);
}

static void set_extint(struct engine_vm *vm, bool asserted)
{
	bool before = atomic_exchange(&vm->extint, asserted);

	if (asserted && !before && vm->vcpu[0])
		kvm_interrupt_run(vm->vcpu[0]);
}

/* As a message, because KVM_NMI would wait for the vCPU to leave KVM_RUN. */
static void inject_nmi(struct engine_vm *vm, unsigned index)
{
	deliver_msi(vm, MSI_ADDRESS | (uint64_t)(index & 0xff) << 12, MSI_DATA_ASSERT | MSI_DATA_NMI);
}

static void vcpu_timer_expired(struct engine_vcpu *vcpu)
{
	/* The local APIC's timer is KVM's own; no timer is ever armed. */
}

const struct engine_ops engine_kvm = {
    .name = "kvm",
    .vm_create = vm_create,
    .vm_destroy = vm_destroy,
    .vcpu_create = vcpu_create,
    .vcpu_run = kvm_run_vcpu,
    .vcpu_kick = vcpu_kick,
    .vcpu_get_state = kvm_get_state,
    .vcpu_set_state = kvm_set_state,
    .vcpu_set_up = kvm_set_up,
    .vcpu_reset = kvm_reset,
    .deliver_msi = deliver_msi,
    .set_extint = set_extint,
    .memory_changed = kvm_memory_changed,
    .inject_nmi = inject_nmi,
    .vcpu_timer_expired = vcpu_timer_expired,
    .vcpu_translate = kvm_translate,
    .vcpu_describe = kvm_describe,
    .vcpu_set_registers = kvm_set_registers,
    .vcpu_set_debug = kvm_set_debug,
    .vcpu_debug_stop = kvm_debug_stop,
};

/*
 * The trial that decides whether the hardware engine can be used. That /dev/kvm opens proves little: the CPU
 * may be held by another hypervisor, or VM entry may fail at the first try under an unfinished nested VT-x.
 * So two tiny VMs run, one in real mode and one in 64-bit mode; each writes to a port, reads one, and halts.
 */
#include "engine/kvm_probe.h"

#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "engine/kvm/kvm_private.h"
#include "util/error.h"

#define TRIAL_MEMORY  0x10000u
#define TRIAL_CODE    0x1000u
#define TRIAL_TABLES  0x2000u /* PML4, PDPT, page directory */
#define TRIAL_PORT    0xf4
#define TRIAL_EXITS   64
#define TRIAL_TICK_NS 200000000
#define TRIAL_TICKS   15

struct trial {
	int vm, vcpu;
	struct kvm_run *run;
	size_t run_size;
	uint8_t *memory;
};

/* mov al,2Ah; out F4h,al; in al,F4h; inc al; out F4h,al; hlt: the same bytes in 16- and 64-bit code. */
static const uint8_t trial_code[] = {0xb0, 0x2a, 0xe6, TRIAL_PORT, 0xe4, TRIAL_PORT,
                                     0xfe, 0xc0, 0xe6, TRIAL_PORT, 0xf4};

static int open_trial(struct trial *trial, int kvm_fd)
{
	struct kvm_userspace_memory_region region = {.memory_size = TRIAL_MEMORY};
	uint64_t identity_map = KVM_IDENTITY_MAP_GPA;
	int size;

	trial->vm = kvm_create_vm(kvm_fd);
	if (trial->vm < 0)
		return trial->vm;
	trial->memory = mmap(NULL, TRIAL_MEMORY, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (trial->memory == MAP_FAILED) {
		trial->memory = NULL;
		return error_set(ENOMEM, "no memory for KVM's trial VM");
	}
	region.userspace_addr = (uintptr_t)trial->memory;
	kvm_ioctl(trial->vm, KVM_SET_IDENTITY_MAP_ADDR, &identity_map);
	kvm_ioctl_value(trial->vm, KVM_SET_TSS_ADDR, KVM_TSS_GPA);
	if (kvm_ioctl(trial->vm, KVM_SET_USER_MEMORY_REGION, &region) < 0)
		return error_set(EIO, "KVM gives its trial VM no memory; use --engine soft");
	trial->vcpu = kvm_ioctl_value(trial->vm, KVM_CREATE_VCPU, 0);
	if (trial->vcpu < 0)
		return error_set(-trial->vcpu, "KVM cannot create a CPU: %s; use --engine soft",
		                 strerror(-trial->vcpu));
	size = kvm_ioctl_value(kvm_fd, KVM_GET_VCPU_MMAP_SIZE, 0);
	if (size < (int)sizeof(struct kvm_run))
		return error_set(EIO, "KVM gives no room to talk about a CPU; use --engine soft");
	trial->run_size = (size_t)size;
	trial->run = mmap(NULL, trial->run_size, PROT_READ | PROT_WRITE, MAP_SHARED, trial->vcpu, 0);
	if (trial->run == MAP_FAILED) {
		trial->run = NULL;
		return error_set(ENOMEM, "KVM's view of a CPU cannot be mapped");
	}
	memcpy(trial->memory + TRIAL_CODE, trial_code, sizeof(trial_code));
	return 0;
}

static void close_trial(struct trial *trial)
{
	if (trial->run)
		munmap(trial->run, trial->run_size);
	if (trial->vcpu >= 0)
		close(trial->vcpu);
	if (trial->vm >= 0)
		close(trial->vm);
	if (trial->memory)
		munmap(trial->memory, TRIAL_MEMORY);
}

static void make_long_mode(struct trial *trial, struct kvm_sregs *sregs)
{
	uint64_t *tables = (uint64_t *)(trial->memory + TRIAL_TABLES);
	const struct kvm_segment data = {
	    .limit = 0xffffffff, .selector = 0x18, .type = 3, .s = 1, .present = 1, .db = 1, .g = 1};
	struct kvm_segment code = data;

	tables[0] = (TRIAL_TABLES + 0x1000) | 3;
	tables[512] = (TRIAL_TABLES + 0x2000) | 3;
	tables[1024] = 0x83; /* 2 MiB at 0 */
	code.selector = 0x10;
	code.type = 0xb;
	code.db = 0;
	code.l = 1;
	sregs->cs = code;
	sregs->ds = sregs->es = sregs->ss = sregs->fs = sregs->gs = data;
	sregs->cr3 = TRIAL_TABLES;
	sregs->cr4 = 1 << 5;                /* PAE */
	sregs->efer = 1 << 8 | 1 << 10;     /* LME, LMA */
	sregs->cr0 = 1u << 31 | 1 << 4 | 1; /* PG, ET, PE */
}

static int prepare(struct trial *trial, bool long_mode)
{
	struct kvm_regs regs = {.rip = TRIAL_CODE, .rflags = 2, .rsp = 0x8000};
	struct kvm_sregs sregs;

	if (kvm_ioctl(trial->vcpu, KVM_GET_SREGS, &sregs) < 0)
		return error_set(EIO, "KVM does not show its trial CPU's state; use --engine soft");
	sregs.cs.base = 0;
	sregs.cs.selector = 0;
	if (long_mode)
		make_long_mode(trial, &sregs);
	if (kvm_ioctl(trial->vcpu, KVM_SET_SREGS, &sregs) < 0 ||
	    kvm_ioctl(trial->vcpu, KVM_SET_REGS, &regs) < 0)
		return error_set(EIO, "KVM refuses its trial CPU's state; use --engine soft");
	return 0;
}

/* Wakes this thread every now and then, so that a KVM_RUN that never exits is found out. */
static bool start_ticks(timer_t *timer)
{
	struct sigevent event = {.sigev_notify = SIGEV_THREAD_ID, .sigev_signo = KVM_KICK_SIGNAL};
	const struct itimerspec tick = {{0, TRIAL_TICK_NS}, {0, TRIAL_TICK_NS}};

	event._sigev_un._tid = (int)syscall(SYS_gettid);
	if (kvm_install_kick_signal() || timer_create(CLOCK_MONOTONIC, &event, timer))
		return false;
	timer_settime(*timer, 0, &tick, NULL);
	return true;
}

/* Runs the code to its HLT; true where it wrote what it had to. */
static bool run_to_halt(struct trial *trial)
{
	unsigned interruptions = 0, writes = 0;
	uint8_t expected[] = {0x2a, 0x56};

	for (unsigned exits = 0; exits < TRIAL_EXITS;) {
		uint8_t *data;

		if (ioctl(trial->vcpu, KVM_RUN, NULL) < 0) {
			if (errno != EINTR || interruptions++ == TRIAL_TICKS)
				return false;
			continue;
		}
		exits++;
		data = (uint8_t *)trial->run + trial->run->io.data_offset;
		if (trial->run->exit_reason == KVM_EXIT_HLT)
			return writes == 2;
		if (trial->run->exit_reason != KVM_EXIT_IO || trial->run->io.port != TRIAL_PORT ||
		    trial->run->io.size != 1)
			return false;
		if (trial->run->io.direction == KVM_EXIT_IO_IN)
			*data = 0x55;
		else if (writes == 2 || *data != expected[writes++])
			return false;
	}
	return false;
}

static int run_trial(int kvm_fd, bool long_mode)
{
	struct trial trial = {.vm = -1, .vcpu = -1};
	int status = open_trial(&trial, kvm_fd);
	timer_t timer;

	if (!status)
		status = prepare(&trial, long_mode);
	if (!status) {
		bool ticking = start_ticks(&timer);

		if (!run_to_halt(&trial))
			status = error_set(
			    EIO,
			    "KVM opens, but a trial VM in %s mode does not run (exit reason %u); the "
			    "host's own hypervisor may offer an unfinished nested VT-x; use --engine soft",
			    long_mode ? "64-bit" : "real", trial.run->exit_reason);
		if (ticking)
			timer_delete(timer);
	}
	close_trial(&trial);
	return status;
}

/* The interrupt controllers as the engine will want them. */
static int try_split_irqchip(int kvm_fd)
{
	struct kvm_enable_cap split = {.cap = KVM_CAP_SPLIT_IRQCHIP, .args = {KVM_IOAPIC_PINS}};
	int fd = kvm_create_vm(kvm_fd), status;

	if (fd < 0)
		return fd;
	status = kvm_ioctl(fd, KVM_ENABLE_CAP, &split);
	close(fd);
	if (status < 0)
		return error_set(-status,
		                 "KVM has no split interrupt chip: %s; use a newer kernel or --engine soft",
		                 strerror(-status));
	return 0;
}

static int probe(int kvm_fd, bool need_vmx)
{
	struct cpuid_list *supported = kvm_supported_cpuid(kvm_fd);
	int status = 0;

	if (!supported)
		return -EIO;
	if (need_vmx && !kvm_supports_vmx(supported))
		status = error_set(
		    ENOTSUP, "KVM works, but offers its guests no VT-x; reload kvm_intel with nested=1 "
		             "(modprobe -r kvm_intel; modprobe kvm_intel nested=1), or use --nested off");
	free(supported);
	if (!status)
		status = try_split_irqchip(kvm_fd);
	if (!status)
		status = run_trial(kvm_fd, false);
	if (!status)
		status = run_trial(kvm_fd, true);
	return status;
}

int engine_kvm_probe(bool need_vmx, const char **why_not)
{
	int kvm_fd = kvm_open();
	int status = kvm_fd < 0 ? kvm_fd : probe(kvm_fd, need_vmx);

	if (kvm_fd >= 0)
		close(kvm_fd);
	if (why_not)
		*why_not = status ? error_text() : NULL;
	return status;
}

/*
 * Shared by the files of the KVM engine. A file includes <signal.h> or engine/vcpu_state.h, never both: the C
 * library has REG_RAX and its kin too.
 */
#ifndef NESTOR_ENGINE_KVM_PRIVATE_H
#define NESTOR_ENGINE_KVM_PRIVATE_H

#include <linux/kvm.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "engine/cpu_model.h"
#include "engine/engine.h"

#define KVM_API         12
#define KVM_IOAPIC_PINS 24
#define KVM_CPUS_MAX    256
#define KVM_CPUID_MAX   256
#define KVM_MSRS_MAX    512

/*
 * Two things that KVM keeps in guest-physical space where a CPU without unrestricted guest needs them: below
 * the local APIC, where no PC has RAM, ROM or PCI windows.
 */
#define KVM_IDENTITY_MAP_GPA 0xfeffc000u
#define KVM_TSS_GPA          0xfeffd000u

/* Wakes a vCPU thread out of KVM_RUN; its handler does nothing. Needs <signal.h>. */
#define KVM_KICK_SIGNAL (SIGRTMIN + 3)

struct cpuid_list {
	struct kvm_cpuid2 head;
	struct kvm_cpuid_entry2 entry[KVM_CPUID_MAX];
};

struct kvm_msr_set {
	struct kvm_msrs head;
	struct kvm_msr_entry entry[KVM_MSRS_MAX];
};

/* All of a vCPU that KVM lets out, to bring it back to the state after reset. */
struct kvm_snapshot {
	struct kvm_regs regs;
	struct kvm_sregs sregs;
	struct kvm_debugregs debug;
	struct kvm_xcrs xcrs;
	struct kvm_lapic_state lapic;
	struct kvm_mp_state mp;
	struct kvm_vcpu_events events;
	struct kvm_fpu fpu;
	struct kvm_msr_set msrs;
};

struct engine_vcpu {
	struct engine_vm *vm;
	unsigned index;
	int fd;
	struct kvm_run *run; /* shared with the kernel */
	size_t run_size;
	atomic_bool kicked;
	bool completion_due;  /* the last exit was I/O that the next KVM_RUN completes */
	bool interrupt_given; /* KVM_INTERRUPT since the last exit from the guest */
	int held_vector;      /* acknowledged at the 8259, but KVM still had one before it; -1: none */
	pthread_mutex_t thread_lock;
	bool thread_runs;                 /* under thread_lock: `thread` is inside vcpu_run */
	pthread_t thread;                 /* under thread_lock */
	struct kvm_snapshot *reset_state; /* owned */
	struct engine_debug debug;        /* kvm_debug.c: what was asked for last */
	struct engine_debug_stop debug_stop;
};

struct engine_vm {
	const struct engine_config *config; /* points at the copy below */
	struct engine_config config_copy;
	int kvm_fd, fd;
	struct cpuid_list *supported;           /* owned: KVM_GET_SUPPORTED_CPUID */
	struct kvm_msr_list *msr_list;          /* owned */
	struct engine_vcpu *vcpu[KVM_CPUS_MAX]; /* owned */
	atomic_bool extint;
	struct guest_memory memory; /* as KVM knows it: each slot under its number here; size 0: unused */
	pthread_mutex_t route_lock;
	struct {
		uint64_t address;
		uint32_t data;
		bool used;
	} route[KVM_IOAPIC_PINS]; /* under route_lock: level-triggered messages whose EOI we are told of */
	unsigned route_next;
};

/* ioctl that is repeated after EINTR; a negative errno on failure. */
int kvm_ioctl(int fd, unsigned long request, void *argument);
int kvm_ioctl_value(int fd, unsigned long request, unsigned long value);
/* The value of a capability, 0 where absent. */
int kvm_capability(int fd, unsigned capability);

/* Opens /dev/kvm and checks its version. Returns the descriptor, or a negative errno with error_text(). */
int kvm_open(void);
/* KVM_CREATE_VM. Returns the descriptor, or a negative errno with error_text(). */
int kvm_create_vm(int kvm_fd);
/* KVM_GET_SUPPORTED_CPUID. NULL with error_text() on failure; the caller frees. */
struct cpuid_list *kvm_supported_cpuid(int kvm_fd);
bool kvm_supports_vmx(const struct cpuid_list *supported);

/* Gives KVM the slots of guest memory that it does not have yet. 0, or a negative errno with error_text(). */
int kvm_memory_changed(struct engine_vm *vm);

/* CPUID and the MSRs that go with the model. 0, or a negative errno with error_text(). */
int kvm_set_cpu_model(struct engine_vcpu *vcpu);

/* Sets one MSR; false where KVM does not have it or refuses the value. */
bool kvm_set_msr(struct engine_vcpu *vcpu, uint32_t index, uint64_t value);

/* Finishes I/O whose result the kernel has not taken yet. */
void kvm_complete_io(struct engine_vcpu *vcpu);

int kvm_get_state(struct engine_vcpu *vcpu, struct vcpu_state *state);
/* "at CS:RIP, …" for a message of one line. */
void kvm_describe_registers(struct engine_vcpu *vcpu, char *text, size_t size);
/* Where vcpu_state's gpr[number] is. */
__u64 *kvm_register_of(struct kvm_regs *regs, unsigned number);

/* kvm_debug.c: engine_ops.vcpu_set_debug, vcpu_debug_stop, vcpu_set_registers. */
int kvm_set_debug(struct engine_vcpu *vcpu, const struct engine_debug *debug);
void kvm_debug_stop(struct engine_vcpu *vcpu, struct engine_debug_stop *stop);
int kvm_set_registers(struct engine_vcpu *vcpu, const struct vcpu_state *state);
/* KVM_EXIT_DEBUG: notes why. False where it was none of ours. */
bool kvm_exit_debug(struct engine_vcpu *vcpu);
/* Fill xsave and level of a state; leave them as they are where KVM does not tell. */
void kvm_get_vectors(struct engine_vcpu *vcpu, struct vcpu_state *state);
void kvm_get_level(struct engine_vcpu *vcpu, struct vcpu_state *state);

/* kvm_inspect.c: engine_ops.vcpu_translate and vcpu_describe. */
int kvm_translate(struct engine_vcpu *vcpu, gla_t gla, gpa_t *gpa);
int kvm_describe(struct engine_vcpu *vcpu, const char *what, FILE *out);
void kvm_set_up(struct engine_vcpu *vcpu);
int kvm_set_state(struct engine_vcpu *vcpu, const struct vcpu_state *state);
/* Remembers the present state as the one that kvm_reset goes back to. */
int kvm_remember_reset_state(struct engine_vcpu *vcpu);
void kvm_reset(struct engine_vcpu *vcpu);

enum engine_exit kvm_run_vcpu(struct engine_vcpu *vcpu);
/* Gets a vCPU out of KVM_RUN so that it looks at its flags again. [any] */
void kvm_interrupt_run(struct engine_vcpu *vcpu);
int kvm_install_kick_signal(void);

#endif

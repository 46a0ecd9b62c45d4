/*
 * Running a vCPU: KVM_RUN until somebody kicks, one function per reason to exit.
 *
 * Leaving KVM_RUN from another thread has to win against every interleaving: the flag (kicked, or the VM's
 * extint) is set first, then run->immediate_exit, then the signal is sent. The loop clears immediate_exit
 * first and looks at the flags after that, so whatever it misses makes the next KVM_RUN return at once.
 */
#include <errno.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>

#include "engine/kvm/kvm_private.h"
#include "util/error.h"

static void on_kick(int signal_number)
{
}

int kvm_install_kick_signal(void)
{
	struct sigaction action = {.sa_handler = on_kick};

	sigemptyset(&action.sa_mask);
	if (sigaction(KVM_KICK_SIGNAL, &action, NULL) < 0)
		return error_set(errno, "no signal to wake CPUs with: %s", strerror(errno));
	return 0;
}

void kvm_interrupt_run(struct engine_vcpu *vcpu)
{
	__atomic_store_n(&vcpu->run->immediate_exit, 1, __ATOMIC_SEQ_CST);
	pthread_mutex_lock(&vcpu->thread_lock);
	if (vcpu->thread_runs)
		pthread_kill(vcpu->thread, KVM_KICK_SIGNAL);
	pthread_mutex_unlock(&vcpu->thread_lock);
}

static void enter_thread(struct engine_vcpu *vcpu)
{
	sigset_t kick;

	sigemptyset(&kick);
	sigaddset(&kick, KVM_KICK_SIGNAL);
	pthread_sigmask(SIG_UNBLOCK, &kick, NULL);
	pthread_mutex_lock(&vcpu->thread_lock);
	vcpu->thread = pthread_self();
	vcpu->thread_runs = true;
	pthread_mutex_unlock(&vcpu->thread_lock);
}

static void leave_thread(struct engine_vcpu *vcpu)
{
	pthread_mutex_lock(&vcpu->thread_lock);
	vcpu->thread_runs = false;
	pthread_mutex_unlock(&vcpu->thread_lock);
}

/* --- exits --- */

static void exit_io(struct engine_vcpu *vcpu)
{
	const struct engine_host *host = vcpu->vm->config->host;
	struct kvm_run *run = vcpu->run;
	uint64_t offset = run->io.data_offset;
	unsigned size = run->io.size;

	vcpu->completion_due = true;
	for (uint32_t i = 0; i < run->io.count; i++, offset += size) {
		uint8_t *data = (uint8_t *)run + offset;
		uint32_t value = 0;

		if (size > 4 || offset + size > vcpu->run_size)
			return;
		if (run->io.direction == KVM_EXIT_IO_OUT) {
			memcpy(&value, data, size);
			host->pio_write(host->context, run->io.port, size, value);
		} else {
			value = host->pio_read(host->context, run->io.port, size);
			memcpy(data, &value, size);
		}
		if (vcpu->vm->config->trace & ENGINE_TRACE_IO)
			fprintf(stderr, "cpu %u: %s port %#x size %u value %#x\n", vcpu->index,
			        run->io.direction == KVM_EXIT_IO_OUT ? "out" : "in", run->io.port, size,
			        value);
	}
}

/* An access that crosses a page comes in parts of any length; the machine takes powers of two. */
static void exit_mmio(struct engine_vcpu *vcpu)
{
	const struct engine_host *host = vcpu->vm->config->host;
	struct kvm_run *run = vcpu->run;
	bool is_write = run->mmio.is_write;
	uint64_t gpa = run->mmio.phys_addr;
	unsigned length = run->mmio.len <= 8 ? run->mmio.len : 8;

	vcpu->completion_due = true;
	for (unsigned at = 0; at < length;) {
		unsigned left = length - at, size = left >= 8 ? 8 : left >= 4 ? 4 : left >= 2 ? 2 : 1;
		uint64_t value = 0;

		if (is_write) {
			memcpy(&value, run->mmio.data + at, size);
			host->mmio_write(host->context, GPA(gpa + at), size, value);
		} else {
			value = host->mmio_read(host->context, GPA(gpa + at), size);
			memcpy(run->mmio.data + at, &value, size);
		}
		if (vcpu->vm->config->trace & ENGINE_TRACE_IO)
			fprintf(stderr, "cpu %u: %s %#" PRIx64 " size %u value %#" PRIx64 "\n", vcpu->index,
			        is_write ? "write" : "read", gpa + at, size, value);
		at += size;
	}
}

/* I/O is complete once a KVM_RUN has taken its result; one that crosses a page may ask for another part
 * first. */
void kvm_complete_io(struct engine_vcpu *vcpu)
{
	for (unsigned part = 0; vcpu->completion_due && part < 64; part++) {
		int result;

		__atomic_store_n(&vcpu->run->immediate_exit, 1, __ATOMIC_SEQ_CST);
		result = ioctl(vcpu->fd, KVM_RUN, NULL);
		vcpu->completion_due = false;
		if (result >= 0 && vcpu->run->exit_reason == KVM_EXIT_IO)
			exit_io(vcpu);
		else if (result >= 0 && vcpu->run->exit_reason == KVM_EXIT_MMIO)
			exit_mmio(vcpu);
	}
	__atomic_store_n(&vcpu->run->immediate_exit, 0, __ATOMIC_SEQ_CST);
}

static enum engine_exit exit_internal_error(struct engine_vcpu *vcpu)
{
	static const char *const reason[] = {"an unknown error", "an instruction that it cannot emulate",
	                                     "exceptions at the same time", "an event that it cannot deliver",
	                                     "an exit that it does not know"};
	const struct kvm_run *run = vcpu->run;
	unsigned number = run->internal.suberror;
	char registers[300], bytes[64] = "";
	size_t at = 0;

	kvm_describe_registers(vcpu, registers, sizeof(registers));
#ifdef KVM_INTERNAL_ERROR_EMULATION_FLAG_INSTRUCTION_BYTES
	if (number == KVM_INTERNAL_ERROR_EMULATION && run->internal.ndata >= 4 &&
	    run->emulation_failure.flags & KVM_INTERNAL_ERROR_EMULATION_FLAG_INSTRUCTION_BYTES) {
		at = (size_t)snprintf(bytes, sizeof(bytes), ", bytes");
		for (unsigned i = 0; i < run->emulation_failure.insn_size && i < 15; i++)
			at += (size_t)snprintf(bytes + at, sizeof(bytes) - at, " %02x",
			                       run->emulation_failure.insn_bytes[i]);
	}
#endif
	(void)at;
	error_set(EIO, "KVM stopped on %s %s%s", number < 5 ? reason[number] : reason[0], registers, bytes);
	return ENGINE_EXIT_ERROR;
}

static enum engine_exit exit_fail_entry(struct engine_vcpu *vcpu)
{
	char registers[300];

	kvm_describe_registers(vcpu, registers, sizeof(registers));
	error_set(EIO, "KVM's VM entry failed, hardware reason %#llx, %s",
	          (unsigned long long)vcpu->run->fail_entry.hardware_entry_failure_reason, registers);
	return ENGINE_EXIT_ERROR;
}

static enum engine_exit exit_unknown(struct engine_vcpu *vcpu)
{
	char registers[300];

	kvm_describe_registers(vcpu, registers, sizeof(registers));
	error_set(EIO, "KVM left the guest for reason %u, which nestor does not know, %s",
	          vcpu->run->exit_reason, registers);
	return ENGINE_EXIT_ERROR;
}

/* --- the loop --- */

/* Gives KVM a vector of the 8259. It keeps one at a time, the next waits here. */
static int give_interrupt(struct engine_vcpu *vcpu, int vector)
{
	struct kvm_interrupt interrupt = {.irq = (uint32_t)vector};
	int status = kvm_ioctl(vcpu->fd, KVM_INTERRUPT, &interrupt);

	vcpu->held_vector = status == -EEXIST ? vector : -1;
	vcpu->interrupt_given = true;
	if (status < 0 && status != -EEXIST)
		return error_set(-status, "KVM refuses interrupt %d of the 8259: %s", vector,
		                 strerror(-status));
	return 0;
}

/*
 * The 8259 pair's interrupt, on vCPU 0: KVM takes it when the CPU can (RFLAGS.IF, LINT0 as ExtINT), and exits
 * at that moment where asked to.
 */
static int offer_extint(struct engine_vcpu *vcpu)
{
	const struct engine_host *host = vcpu->vm->config->host;
	struct kvm_run *run = vcpu->run;
	int vector = vcpu->held_vector, status = 0;

	if (vcpu->index)
		return 0;
	if (run->ready_for_interrupt_injection && !vcpu->interrupt_given) {
		if (vector < 0 && atomic_load(&vcpu->vm->extint))
			vector = host->interrupt_acknowledge(host->context);
		if (vector >= 0)
			status = give_interrupt(vcpu, vector);
	}
	run->request_interrupt_window = atomic_load(&vcpu->vm->extint) || vcpu->held_vector >= 0;
	return status;
}

/* One exit; true where vcpu_run returns *result. */
static bool handle_exit(struct engine_vcpu *vcpu, enum engine_exit *result)
{
	const struct engine_host *host = vcpu->vm->config->host;

	switch (vcpu->run->exit_reason) {
	case KVM_EXIT_IO:
		exit_io(vcpu);
		return false;
	case KVM_EXIT_MMIO:
		exit_mmio(vcpu);
		return false;
	case KVM_EXIT_IOAPIC_EOI:
		host->eoi(host->context, vcpu->run->eoi.vector);
		return false;
	case KVM_EXIT_IRQ_WINDOW_OPEN:
	case KVM_EXIT_INTR:
	case KVM_EXIT_HLT:
	case KVM_EXIT_SET_TPR:
		return false;
	case KVM_EXIT_SHUTDOWN:
	case KVM_EXIT_SYSTEM_EVENT:
		*result = ENGINE_EXIT_SHUTDOWN;
		return true;
	case KVM_EXIT_DEBUG:
		*result = ENGINE_EXIT_DEBUG;
		return kvm_exit_debug(vcpu);
	case KVM_EXIT_FAIL_ENTRY:
		*result = exit_fail_entry(vcpu);
		return true;
	case KVM_EXIT_INTERNAL_ERROR:
		*result = exit_internal_error(vcpu);
		return true;
	default:
		*result = exit_unknown(vcpu);
		return true;
	}
}

/* KVM_RUN once. 0: look at the exit reason; 1: nothing to look at; negative: error_text(). */
static int run_once(struct engine_vcpu *vcpu)
{
	int result = ioctl(vcpu->fd, KVM_RUN, NULL);

	if (result >= 0) {
		vcpu->completion_due = false;
		vcpu->interrupt_given = false;
		return 0;
	}
	if (errno == EINTR || errno == EAGAIN) {
		/*
		 * The kernel has taken the result of I/O first. Whether it got as far as the interrupt given
		 * is open: it counts as given until an exit from the guest proves it.
		 */
		vcpu->completion_due = false;
		return 1;
	}
	return error_set(errno, "KVM_RUN on CPU %u: %s", vcpu->index, strerror(errno));
}

static enum engine_exit run_loop(struct engine_vcpu *vcpu)
{
	enum engine_exit result = ENGINE_EXIT_ERROR;

	for (;;) {
		int status;

		__atomic_store_n(&vcpu->run->immediate_exit, 0, __ATOMIC_SEQ_CST);
		if (atomic_exchange(&vcpu->kicked, false))
			return ENGINE_EXIT_KICKED;
		if (offer_extint(vcpu))
			return ENGINE_EXIT_ERROR;
		status = run_once(vcpu);
		if (status < 0)
			return ENGINE_EXIT_ERROR;
		if (status == 0 && handle_exit(vcpu, &result))
			return result;
	}
}

enum engine_exit kvm_run_vcpu(struct engine_vcpu *vcpu)
{
	enum engine_exit result;

	enter_thread(vcpu);
	result = run_loop(vcpu);
	leave_thread(vcpu);
	return result;
}

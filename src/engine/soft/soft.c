/* The software engine behind engine.h: creation, messages between vCPUs, and the way in from other threads. */
#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "engine/engine.h"
#include "engine/soft/bt/bt.h"
#include "engine/soft/bt/coherence.h"
#include "engine/soft/bt/native_signal.h"
#include "engine/soft/bt/turns.h"
#include "engine/soft/bt/wait.h"
#include "engine/soft/cpu/apic.h"
#include "engine/soft/cpu/msr.h"
#include "engine/soft/cpu/time.h"
#include "engine/soft/debug.h"
#include "engine/soft/describe.h"
#include "engine/soft/state_hash.h"
#include "engine/soft/vmx/vmx.h"
#include "engine/vcpu_state.h"
#include "util/error.h"

#define SOFT_CPUS_MAX	64

struct engine_vcpu {
	struct engine_vm *vm;
	struct cpu *cpu;
	atomic_bool running; /* inside vcpu_run */
	pid_t thread_id;     /* of the thread that runs it; written before running is */
	bool kick_seen;      /* the watchdog's */
};

struct engine_vm {
	struct engine_config config;
	struct guest_memory memory; /* as the vCPUs know it */
	pthread_t watchdog;
	bool has_watchdog;
	atomic_bool ending;
	struct coherence *coherence;
	struct turns *turns; /* NULL: every vCPU runs when it can */
	unsigned count;
	struct engine_vcpu vcpu[SOFT_CPUS_MAX];
};

/* From any thread: makes the vCPU look at its pending_async. */
static void kick(struct cpu *cpu, uint32_t async)
{
	__atomic_fetch_or(&cpu->pending_async, async, __ATOMIC_RELEASE);
	__atomic_store_n(&cpu->kick, 1, __ATOMIC_RELEASE);
	bt_wake(cpu);
}

/*
 * Translated code looks at the kick word in every loop of an honest address space. One that maps a page at many
 * linear addresses can run on through links that only ever lead forward: a vCPU that has not looked for two ticks
 * gets a signal, whose handler (native_rescue) disconnects its links.
 */
#define WATCHDOG_TICK_NS 20000000

static void *watchdog(void *context)
{
	struct engine_vm *vm = context;
	const struct timespec tick = { .tv_nsec = WATCHDOG_TICK_NS };

	while (!atomic_load(&vm->ending)) {
		nanosleep(&tick, NULL);
		for (unsigned i = 0; i < vm->count; i++) {
			struct engine_vcpu *vcpu = &vm->vcpu[i];
			bool kicked = atomic_load(&vcpu->running) && __atomic_load_n(&vcpu->cpu->kick, __ATOMIC_ACQUIRE);

			if (kicked && vcpu->kick_seen)
				syscall(SYS_tgkill, getpid(), vcpu->thread_id, native_rescue_signal());
			vcpu->kick_seen = kicked;
		}
	}
	return NULL;
}

static int soft_vm_create(struct engine_vm **vm, const struct engine_config *config)
{
	struct engine_vm *new = calloc(1, sizeof(*new));

	if (!new)
		return error_set(ENOMEM, "not enough memory for a VM");
	new->config = *config;
	new->memory = *config->host->memory;
	new->coherence = coherence_create(bt_page_count(&new->memory), config->cpu_count);
	if (config->clock == ENGINE_CLOCK_DETERMINISTIC && config->cpu_count > 1)
		new->turns = turns_create();
	if (!new->coherence || (config->clock == ENGINE_CLOCK_DETERMINISTIC && config->cpu_count > 1 && !new->turns)) {
		coherence_destroy(new->coherence);
		free(new);
		return -ENOMEM;
	}
	*vm = new;
	return 0;
}

static void destroy_cpu(struct cpu *cpu)
{
	if (!cpu)
		return;
	soft_debug_free(cpu);
	vmx_destroy(cpu);
	if (cpu->apic)
		apic_destroy(cpu->apic);
	bt_destroy(cpu);
	coherence_remove(cpu);
	tlb_cpu_destroy(cpu);
}

static void soft_vm_destroy(struct engine_vm *vm)
{
	if (!vm)
		return;
	if (vm->has_watchdog) {
		atomic_store(&vm->ending, true);
		pthread_join(vm->watchdog, NULL);
	}
	for (unsigned i = 0; i < vm->count; i++)
		destroy_cpu(vm->vcpu[i].cpu);
	coherence_destroy(vm->coherence);
	turns_destroy(vm->turns);
	free(vm);
}

static int soft_vcpu_create(struct engine_vm *vm, unsigned index, struct engine_vcpu **vcpu)
{
	struct cpu *cpu;

	if (index != vm->count || index >= SOFT_CPUS_MAX)
		return error_set(EINVAL, "vCPU %u cannot be created: at most %u, in order", index, SOFT_CPUS_MAX);
	cpu = tlb_cpu_create(TLB_CONTEXTS / vm->config.cpu_count); /* in all no more than one vCPU has */
	if (!cpu)
		return -ENOMEM;
	cpu->index = index;
	cpu->host = vm->config.host;
	cpu->memory = vm->config.host->memory;
	cpu->model = vm->config.cpu_model;
	cpu->clock = vm->config.clock;
	cpu->trace = vm->config.trace;
	cpu->tune_off = vm->config.tune_off;
	cpu->fpu_stashed = true;
	cpu->vm = vm;
	time_init(cpu);
	cpu->apic = apic_create(cpu);
	if (!cpu->apic || bt_create(cpu, vm->config.code_memory) < 0 || vmx_create(cpu) < 0 ||
	    coherence_add(vm->coherence, cpu) < 0) {
		destroy_cpu(cpu);
		return error_set(ENOMEM, "not enough memory for vCPU %u", index);
	}
	if (vm->turns)
		turns_add(vm->turns, cpu);
	cpu_reset(cpu, false);
	vm->vcpu[index].vm = vm;
	vm->vcpu[index].cpu = cpu;
	vm->count++;
	*vcpu = &vm->vcpu[index];
	return 0;
}

static enum engine_exit soft_vcpu_run(struct engine_vcpu *vcpu)
{
	if (vcpu->thread_id != gettid()) { /* a machine that starts over has new threads */
		if (bt_thread_init(vcpu->cpu) < 0)
			return ENGINE_EXIT_ERROR;
		vcpu->thread_id = gettid();
		if (vcpu->cpu->index == 0 && !vcpu->vm->has_watchdog)
			vcpu->vm->has_watchdog = !pthread_create(&vcpu->vm->watchdog, NULL, watchdog, vcpu->vm);
	}
	enum engine_exit exit;

	coherence_wake(vcpu->cpu);
	atomic_store(&vcpu->running, true);
	exit = bt_run(vcpu->cpu);
	atomic_store(&vcpu->running, false);
	coherence_sleep(vcpu->cpu);
	return exit;
}

static void soft_vcpu_kick(struct engine_vcpu *vcpu)
{
	kick(vcpu->cpu, ASYNC_STOP);
}

static int soft_vcpu_get_state(struct engine_vcpu *vcpu, struct vcpu_state *state)
{
	const struct cpu *cpu = vcpu->cpu;

	*state = (struct vcpu_state){ .rip = cpu->rip, .rflags = cpu_rflags(cpu), .gdtr = cpu->gdtr, .idtr = cpu->idtr,
				      .cr0 = cpu->cr0, .cr2 = cpu->cr2, .cr3 = cpu->cr3, .cr4 = cpu->cr4,
				      .cr8 = apic_cr8(cpu), .efer = cpu->efer, .apic_base = cpu->msr.apic_base };
	for (unsigned i = 0; i < 16; i++)
		state->gpr[i] = cpu->gpr[i];
	for (unsigned i = 0; i < SEG_COUNT; i++)
		state->seg[i] = cpu->seg[i];
	for (unsigned i = 0; i < 4; i++)
		state->dr[i] = cpu->dr[i];
	state->dr[6] = cpu->dr6;
	state->dr[7] = cpu->dr7;
	state->level = cpu->virt != NULL;
	soft_get_vectors(cpu, state);
	return 0;
}

static int soft_vcpu_set_state(struct engine_vcpu *vcpu, const struct vcpu_state *state)
{
	struct cpu *cpu = vcpu->cpu;

	for (unsigned i = 0; i < 16; i++)
		cpu->gpr[i] = state->gpr[i];
	for (unsigned i = 0; i < SEG_COUNT; i++)
		cpu->seg[i] = state->seg[i];
	for (unsigned i = 0; i < 4; i++)
		cpu->dr[i] = state->dr[i];
	cpu->dr6 = state->dr[6];
	cpu->dr7 = state->dr[7];
	cpu->rip = state->rip;
	cpu_set_rflags(cpu, state->rflags);
	cpu->gdtr = state->gdtr;
	cpu->idtr = state->idtr;
	cpu->cr0 = state->cr0;
	cpu->cr2 = state->cr2;
	cpu->cr3 = state->cr3;
	cpu->cr4 = state->cr4;
	cpu->efer = state->efer;
	cpu->cpl = state->cr0 & CR0_PE ? RIGHTS_DPL(state->seg[SEG_SS].rights) : 0;
	apic_set_cr8(cpu, state->cr8);
	if (state->apic_base)
		msr_write(cpu, MSR_APIC_BASE, state->apic_base);
	if (cpu->cr0 & CR0_PG && cpu->cr4 & CR4_PAE && !(cpu->efer & EFER_LMA))
		cpu_read_pdptes(cpu, cpu->cr3, cpu->pdpte);
	tlb_flush_all(cpu);
	tlb_select_context(cpu);
	cpu_update_mode(cpu);
	cpu_poll_soon(cpu);
	return 0;
}

static void soft_vcpu_set_up(struct engine_vcpu *vcpu)
{
	msr_set_firmware_mtrrs(vcpu->cpu);
}

static void soft_vcpu_reset(struct engine_vcpu *vcpu)
{
	vmx_reset(vcpu->cpu);
	apic_reset(vcpu->cpu);
	cpu_reset(vcpu->cpu, false);
	bt_flush(vcpu->cpu->bt);
}

void soft_deliver(struct cpu *source, uint32_t destination, bool logical, bool x2apic_format, uint8_t delivery_mode,
		  uint8_t vector, bool level, unsigned shorthand)
{
	struct engine_vm *vm = source->vm;
	bool lowest_priority = delivery_mode == 1;

	for (unsigned i = 0; i < vm->count; i++) {
		struct cpu *cpu = vm->vcpu[i].cpu;
		bool named = shorthand == 1   ? cpu == source
			     : shorthand == 2 ? true
			     : shorthand == 3 ? cpu != source
					      : apic_matches(cpu, destination, logical, x2apic_format);

		if (!named)
			continue;
		apic_post(cpu, lowest_priority ? 0 : delivery_mode, vector, level);
		bt_wake(cpu);
		if (lowest_priority)
			return;
	}
}

/* SDM, Message Address Register Format and Message Data Register Format */
static void soft_deliver_msi(struct engine_vm *vm, uint64_t address, uint32_t data)
{
	uint32_t destination = (address >> 12) & 0xff;
	bool level = data & 1u << 15;

	if (vm->count)
		soft_deliver(vm->vcpu[0].cpu, destination, address & 4, false, (data >> 8) & 7, data & 0xff, level, 0);
}

static void soft_set_extint(struct engine_vm *vm, bool asserted)
{
	struct cpu *cpu = vm->count ? vm->vcpu[0].cpu : NULL;

	if (!cpu)
		return;
	if (asserted)
		kick(cpu, ASYNC_EXTINT);
	else
		__atomic_fetch_and(&cpu->pending_async, ~ASYNC_EXTINT, __ATOMIC_ACQ_REL);
}

static void soft_memory_written(struct engine_vm *vm, gpa_t gpa, uint64_t size)
{
	coherence_told(vm->coherence, gpa.v, size);
}

/* Is every byte of the slot at the same host address, with the same rights, in `memory`? */
static bool is_unchanged(const struct guest_memory_slot *slot, const struct guest_memory *memory)
{
	uint64_t gpa = slot->gpa, end = slot->gpa + slot->size;

	while (gpa < end) {
		const struct guest_memory_slot *other = guest_memory_slot_of(memory, GPA(gpa));

		if (!other || other->read_only != slot->read_only ||
		    other->host - other->gpa != slot->host - slot->gpa)
			return false;
		gpa = other->gpa + other->size;
	}
	return true;
}

/* What was there before and is not so any more: code translated from it is forgotten. */
static int soft_memory_changed(struct engine_vm *vm)
{
	const struct guest_memory *now = vm->config.host->memory;

	for (unsigned i = 0; i < vm->count; i++) {
		struct cpu *cpu = vm->vcpu[i].cpu;

		for (unsigned k = 0; k < vm->memory.slot_count; k++)
			if (!is_unchanged(&vm->memory.slot[k], now))
				bt_memory_gone(cpu, GPA(vm->memory.slot[k].gpa), vm->memory.slot[k].size);
		tlb_flush_all(cpu);
	}
	vm->memory = *now;
	return 0;
}

static void soft_inject_nmi(struct engine_vm *vm, unsigned index)
{
	if (index < vm->count)
		kick(vm->vcpu[index].cpu, ASYNC_NMI);
}

static void soft_timer_expired(struct engine_vcpu *vcpu)
{
	kick(vcpu->cpu, ASYNC_TIMER);
}

static void soft_vcpu_state_hash(struct engine_vcpu *vcpu, struct hash *hash, uint64_t *instructions)
{
	soft_state_hash(vcpu->cpu, hash);
	*instructions = 0;
	if (vcpu->cpu->clock == ENGINE_CLOCK_DETERMINISTIC)
		*instructions = time_ticks(vcpu->cpu) - vcpu->cpu->idle_ticks;
}

static int soft_vcpu_translate(struct engine_vcpu *vcpu, gla_t gla, gpa_t *gpa)
{
	return soft_translate(vcpu->cpu, gla, gpa);
}

static int soft_vcpu_set_registers(struct engine_vcpu *vcpu, const struct vcpu_state *state)
{
	soft_set_registers(vcpu->cpu, state);
	return 0;
}

static int soft_vcpu_set_debug(struct engine_vcpu *vcpu, const struct engine_debug *debug)
{
	return soft_set_debug(vcpu->cpu, debug);
}

static void soft_vcpu_debug_stop(struct engine_vcpu *vcpu, struct engine_debug_stop *stop)
{
	soft_debug_stop(vcpu->cpu, stop);
}

static int soft_vcpu_describe(struct engine_vcpu *vcpu, const char *what, FILE *out)
{
	return soft_describe(vcpu->cpu, what, out);
}

const struct engine_ops engine_soft = {
	.name = "soft",
	.vm_create = soft_vm_create,
	.vm_destroy = soft_vm_destroy,
	.vcpu_create = soft_vcpu_create,
	.vcpu_run = soft_vcpu_run,
	.vcpu_kick = soft_vcpu_kick,
	.vcpu_get_state = soft_vcpu_get_state,
	.vcpu_set_state = soft_vcpu_set_state,
	.vcpu_set_up = soft_vcpu_set_up,
	.vcpu_reset = soft_vcpu_reset,
	.deliver_msi = soft_deliver_msi,
	.set_extint = soft_set_extint,
	.memory_written = soft_memory_written,
	.memory_changed = soft_memory_changed,
	.inject_nmi = soft_inject_nmi,
	.vcpu_timer_expired = soft_timer_expired,
	.vcpu_translate = soft_vcpu_translate,
	.vcpu_describe = soft_vcpu_describe,
	.vcpu_set_registers = soft_vcpu_set_registers,
	.vcpu_set_debug = soft_vcpu_set_debug,
	.vcpu_debug_stop = soft_vcpu_debug_stop,
	.vcpu_state_hash = soft_vcpu_state_hash,
};

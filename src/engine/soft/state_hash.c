/*
 * One number for all that a guest could find in a vCPU. What two equal runs may differ in stays out: the TLB, the
 * code cache, what other threads are about to send, addresses of the host.
 */
#include "engine/soft/state_hash.h"

#include "engine/soft/cpu/apic_state.h"
#include "engine/soft/cpu/fpu.h"
#include "engine/soft/cpu/time.h"
#include "engine/soft/vmx/vmx.h"

static void hash_segment(struct hash *hash, const struct segment *segment)
{
	hash_u64(hash, segment->base);
	hash_u64(hash, (uint64_t)segment->limit << 32 | segment->rights);
	hash_u64(hash, segment->selector);
}

static void hash_event(struct hash *hash, const struct event *event)
{
	hash_u64(hash, event->valid);
	if (!event->valid)
		return;
	hash_u64(hash, event->type | event->vector << 8 | event->has_error << 16 | (uint64_t)event->error << 32);
	hash_u64(hash, event->payload);
}

static void hash_system(struct hash *hash, const struct cpu *cpu)
{
	hash_u64(hash, cpu->gdtr.base);
	hash_u64(hash, cpu->gdtr.limit);
	hash_u64(hash, cpu->idtr.base);
	hash_u64(hash, cpu->idtr.limit);
	hash_u64(hash, cpu->cr0);
	hash_u64(hash, cpu->cr2);
	hash_u64(hash, cpu->cr3);
	hash_u64(hash, cpu->cr4);
	hash_u64(hash, cpu->efer);
	hash_u64(hash, cpu->xcr0);
	for (unsigned i = 0; i < 4; i++) {
		hash_u64(hash, cpu->dr[i]);
		hash_u64(hash, cpu->pdpte[i]);
	}
	hash_u64(hash, cpu->dr6);
	hash_u64(hash, cpu->dr7);
	hash_u64(hash, cpu->cpl);
	_Static_assert(sizeof(cpu->msr) % 8 == 0, "struct cpu_msrs is words without gaps");
	hash_bytes(hash, &cpu->msr, sizeof(cpu->msr));
}

static void hash_events(struct hash *hash, const struct cpu *cpu)
{
	hash_u64(hash, cpu->shadow | cpu->activity << 8 | cpu->nmi_pending << 16 | cpu->nmi_blocked << 17 |
		       cpu->debug_trap_pending << 18 | cpu->init_blocked << 19 | cpu->monitor_trap << 20 |
		       cpu->extint_line << 21);
	hash_u64(hash, cpu->dr6_pending);
	hash_event(hash, &cpu->event);
	hash_event(hash, &cpu->delivering);
	hash_u64(hash, cpu->monitor_address);
	hash_u64(hash, cpu->random_state);
}

static void hash_apic(struct hash *hash, const struct apic *apic)
{
	hash_u64(hash, (uint64_t)apic->id << 32 | apic->ldr);
	hash_u64(hash, (uint64_t)apic->dfr << 32 | apic->x2apic << 1 | apic->enabled);
	hash_bytes(hash, apic->irr, sizeof(apic->irr));
	hash_bytes(hash, apic->isr, sizeof(apic->isr));
	hash_bytes(hash, apic->tmr, sizeof(apic->tmr));
	hash_u64(hash, (uint64_t)apic->tpr << 32 | apic->svr);
	hash_u64(hash, (uint64_t)apic->esr << 32 | apic->esr_latched);
	hash_u64(hash, (uint64_t)apic->icr_high << 32 | apic->icr_low);
	hash_bytes(hash, apic->lvt, sizeof(apic->lvt));
	hash_u64(hash, (uint64_t)apic->divide << 32 | apic->initial_count);
	hash_u64(hash, apic->expiry_tick);
}

static void hash_fpu(struct hash *hash, const struct cpu *cpu)
{
	/* Without the area's reserved parts and its header. */
	hash_bytes(hash, cpu->fpu_area, 416);
	if (cpu->model->xcr0_supported & XSTATE_AVX)
		hash_bytes(hash, cpu->fpu_area + 576, 256);
}

void soft_state_hash(struct cpu *cpu, struct hash *hash)
{
	fpu_stash(cpu);
	for (unsigned i = 0; i < 16; i++)
		hash_u64(hash, cpu->gpr[i]);
	hash_u64(hash, cpu->rip);
	hash_u64(hash, cpu_rflags(cpu));
	for (unsigned i = 0; i < SEG_COUNT; i++)
		hash_segment(hash, &cpu->seg[i]);
	hash_system(hash, cpu);
	hash_events(hash, cpu);
	hash_apic(hash, cpu->apic);
	hash_fpu(hash, cpu);
	vmx_state_hash(cpu, hash);
	hash_u64(hash, time_ticks(cpu));
}

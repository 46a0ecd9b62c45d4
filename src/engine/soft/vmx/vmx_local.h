/* What the files of the running half (entry, exit, intercepts, events, EPT, APIC) share among themselves. */
#ifndef NESTOR_VMX_VMX_LOCAL_H
#define NESTOR_VMX_VMX_LOCAL_H

#include "engine/soft/cpu/apic.h"
#include "engine/soft/cpu/cpu.h"
#include "engine/soft/cpu/memory.h"
#include "engine/soft/vmx/vmcs.h"

#define unlikely(x) __builtin_expect(!!(x), 0)

static inline struct vmx_runtime *vmx_runtime(struct cpu *cpu)
{
	return &cpu->vmx->runtime;
}

/* The running VMCS's field; only in non-root operation. */
static inline uint64_t running(struct cpu *cpu, enum vmcs_field field)
{
	return vmcs_get(vmx_runtime(cpu)->vmcs, field);
}

/* intercept.c: what non-root operation hooks. */
extern const struct virt_hooks vmx_hooks;

/* ---- state.c: what entry and exit have in common ---- */

/* The register bits that decide how cached translations were made, with bit 31 always set. */
static inline uint32_t vmx_paging_bits(uint64_t cr0, uint64_t cr4, uint64_t efer)
{
	return 1u << 31 | (cr0 & CR0_WP) | (cr0 & CR0_PG ? 1 : 0) | (efer & (EFER_NXE | EFER_LMA)) |
	       (cr4 & (CR4_PSE | CR4_PAE | CR4_PGE | CR4_PCIDE | CR4_SMEP | CR4_SMAP | 1u << 22 /* PKE */));
}

/* True where CR0, CR4 and EFER select PAE paging, whose PDPTEs are registers. */
static inline bool vmx_pae_paging(uint64_t cr0, uint64_t cr4, uint64_t efer)
{
	return (cr0 & CR0_PG) && (cr4 & CR4_PAE) && !(efer & EFER_LMA);
}

/* Where the tag of (EPTP, VPID) is kept; it may be another's. */
static inline struct paging_tag *vmx_paging_tag(struct vmx_runtime *rt, uint64_t eptp, uint32_t vpid)
{
	return &rt->paging_tag[((eptp >> PAGE_SHIFT) ^ vpid) % PAGING_TAGS];
}

/* What MOV CR0 would leave alone and VM entry and exit do too: ET, CD, NW and the reserved bits. */
#define VMX_CR0_KEPT (~(uint64_t)(CR0_PE | CR0_MP | CR0_EM | CR0_TS | CR0_NE | CR0_WP | CR0_AM | CR0_PG))

/*
 * Loads the MSR-load area at `address` (SDM, Loading MSRs). Returns 0, or the 1-based index of the entry that
 * failed.
 */
uint32_t vmx_load_msrs(struct cpu *cpu, uint64_t address, uint64_t count);
/* Stores the VM-exit MSR-store area (SDM, Saving MSRs). False where an entry failed. */
bool vmx_store_msrs(struct cpu *cpu, uint64_t address, uint64_t count);

/* ---- exit.c ---- */

/*
 * A VM-entry failure during or after loading guest state: only reason (with bit 31) and qualification are
 * recorded, then host state is loaded.
 */
_Noreturn void vmx_fail_entry(struct cpu *cpu, uint32_t reason, uint64_t qualification);

/* ---- insn_info.c: SDM's tables "Format of the VM-Exit Instruction-Information Field as Used for …" ---- */
uint32_t insn_info_string_io(const struct insn *insn);
uint32_t insn_info_register_memory(const struct insn *insn); /* INVEPT, INVPCID, INVVPID, VMREAD, VMWRITE */
uint32_t insn_info_memory(const struct insn *insn);          /* VMPTRLD …, XSAVES, XRSTORS */
uint32_t insn_info_gdtr_idtr(const struct cpu *cpu, const struct insn *insn);
uint32_t insn_info_ldtr_tr(const struct insn *insn);
uint32_t insn_info_random(const struct insn *insn);
/* The length of the instruction at cpu->rip, read without faulting; 0 where it cannot be told. */
unsigned insn_length_at_rip(struct cpu *cpu);
/* True where the instruction at cpu->rip is IRET. */
bool insn_is_iret_at_rip(struct cpu *cpu);

/* ---- vmx_events.c ---- */

/* VM entry has loaded the guest: arms the preemption timer and notes what exits at the first boundary. */
void vmx_events_entered(struct cpu *cpu);
/* VM exit: the preemption timer's value to save; disarms it. */
uint32_t vmx_events_left(struct cpu *cpu);
void vmx_event(struct cpu *cpu, const struct event *event);
bool vmx_external_interrupt(struct cpu *cpu);
_Noreturn void vmx_triple_fault(struct cpu *cpu);
_Noreturn void vmx_init_signal(struct cpu *cpu);
_Noreturn void vmx_sipi(struct cpu *cpu, uint8_t vector);
void vmx_poll_high(struct cpu *cpu);
void vmx_poll_timer(struct cpu *cpu);
void vmx_poll_nmi_window(struct cpu *cpu);
void vmx_poll_interrupt_window(struct cpu *cpu);
bool vmx_wakeup(struct cpu *cpu);
void vmx_iret(struct cpu *cpu);
/* SDM, "NMI unblocking due to IRET": true (and the blocking is gone) where the fault about to be reported is
 * that of an IRET that would have ended the blocking. */
bool vmx_iret_unblocks(struct cpu *cpu);

/* ---- ept.c ---- */
void vmx_translate(struct cpu *cpu, gpa_t l2_gpa, const struct nested_access *access,
                   struct nested_mapping *mapping);
bool vmx_peek(struct cpu *cpu, gpa_t l2_gpa, enum mem_access access, struct nested_mapping *mapping);
bool vmx_probe(struct cpu *cpu, gpa_t l2_gpa, gpa_t *l1_gpa);

/* ---- apic_virtual.c ---- */
bool vmx_apic_access(struct cpu *cpu, gpa_t l2_gpa, unsigned size, enum mem_access access, uint64_t *value);
bool vmx_virtual_read_msr(struct cpu *cpu, uint32_t msr, uint64_t *value);
bool vmx_virtual_write_msr(struct cpu *cpu, uint32_t msr, uint64_t value);
/* VTPR[7:0]; needs "use TPR shadow". */
uint8_t vmx_virtual_tpr(struct cpu *cpu);
/* Writes VTPR and does TPR virtualization (SDM): below the threshold the next boundary exits. */
void vmx_set_virtual_tpr(struct cpu *cpu, uint32_t value);
/* Does the virtual TPR lie below the threshold? */
bool vmx_tpr_below_threshold(struct cpu *cpu);

/* ---- trace.c (cold: call after fpu_stash) ---- */
void vmx_trace_entry(struct cpu *cpu, bool launch);
void vmx_trace_exit(struct cpu *cpu);
/* Exit reason in words, of the basic reason; never NULL. */
const char *vmx_exit_reason_name(uint32_t reason);

#endif

/* Architectural state in and out of KVM, and back to reset. */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/kvm/kvm_private.h"
#include "engine/vcpu_state.h"
#include "util/error.h"

#define MSR_TSC           0x10u
#define MSR_MTRR_BASE0    0x200u
#define MSR_MTRR_MASK0    0x201u
#define MSR_MTRR_DEF_TYPE 0x2ffu

#define MTRR_ENABLE_WRITE_BACK 0x806u /* E, default type WB */
#define MTRR_VALID             0x800u

static int failed(const struct engine_vcpu *vcpu, const char *what, int status)
{
	return error_set(-status, "KVM: %s of CPU %u: %s", what, vcpu->index, strerror(-status));
}

static struct segment segment_from_kvm(const struct kvm_segment *from)
{
	return (struct segment){
	    .base = from->base,
	    .limit = from->limit,
	    .selector = from->selector,
	    .rights = (uint32_t)(from->type & 0xf) | (from->s ? RIGHTS_S : 0) |
	              (uint32_t)(from->dpl & 3) << 5 | (from->present ? RIGHTS_P : 0) |
	              (from->avl ? RIGHTS_AVL : 0) | (from->l ? RIGHTS_L : 0) | (from->db ? RIGHTS_DB : 0) |
	              (from->g ? RIGHTS_G : 0) | (from->unusable ? RIGHTS_UNUSABLE : 0),
	};
}

static struct kvm_segment segment_to_kvm(const struct segment *from)
{
	return (struct kvm_segment){
	    .base = from->base,
	    .limit = from->limit,
	    .selector = from->selector,
	    .type = RIGHTS_TYPE(from->rights),
	    .s = !!(from->rights & RIGHTS_S),
	    .dpl = RIGHTS_DPL(from->rights),
	    .present = !!(from->rights & RIGHTS_P),
	    .avl = !!(from->rights & RIGHTS_AVL),
	    .l = !!(from->rights & RIGHTS_L),
	    .db = !!(from->rights & RIGHTS_DB),
	    .g = !!(from->rights & RIGHTS_G),
	    .unusable = !!(from->rights & RIGHTS_UNUSABLE),
	};
}

/* Where KVM keeps the segment with our number. */
static struct kvm_segment *kvm_segment_of(struct kvm_sregs *sregs, unsigned number)
{
	struct kvm_segment *const place[SEG_COUNT] = {
	    [SEG_ES] = &sregs->es, [SEG_CS] = &sregs->cs, [SEG_SS] = &sregs->ss,    [SEG_DS] = &sregs->ds,
	    [SEG_FS] = &sregs->fs, [SEG_GS] = &sregs->gs, [SEG_LDTR] = &sregs->ldt, [SEG_TR] = &sregs->tr,
	};

	return place[number];
}

/* Where KVM keeps the general register with the hardware's number; its own order differs in the first eight.
 */
__u64 *kvm_register_of(struct kvm_regs *regs, unsigned number)
{
	__u64 *const place[16] = {
	    &regs->rax, &regs->rcx, &regs->rdx, &regs->rbx, &regs->rsp, &regs->rbp, &regs->rsi, &regs->rdi,
	    &regs->r8,  &regs->r9,  &regs->r10, &regs->r11, &regs->r12, &regs->r13, &regs->r14, &regs->r15,
	};

	return place[number];
}

int kvm_get_state(struct engine_vcpu *vcpu, struct vcpu_state *state)
{
	struct kvm_regs regs;
	struct kvm_sregs sregs;
	struct kvm_debugregs debug;
	int status;

	kvm_complete_io(vcpu);
	status = kvm_ioctl(vcpu->fd, KVM_GET_REGS, &regs);
	if (status >= 0)
		status = kvm_ioctl(vcpu->fd, KVM_GET_SREGS, &sregs);
	if (status >= 0)
		status = kvm_ioctl(vcpu->fd, KVM_GET_DEBUGREGS, &debug);
	if (status < 0)
		return failed(vcpu, "reading the state", status);
	for (unsigned i = 0; i < 16; i++)
		state->gpr[i] = *kvm_register_of(&regs, i);
	state->rip = regs.rip;
	state->rflags = regs.rflags;
	for (unsigned i = 0; i < SEG_COUNT; i++)
		state->seg[i] = segment_from_kvm(kvm_segment_of(&sregs, i));
	state->gdtr = (struct descriptor_table){.base = sregs.gdt.base, .limit = sregs.gdt.limit};
	state->idtr = (struct descriptor_table){.base = sregs.idt.base, .limit = sregs.idt.limit};
	state->cr0 = sregs.cr0;
	state->cr2 = sregs.cr2;
	state->cr3 = sregs.cr3;
	state->cr4 = sregs.cr4;
	state->cr8 = sregs.cr8;
	state->efer = sregs.efer;
	state->apic_base = sregs.apic_base;
	for (unsigned i = 0; i < 4; i++)
		state->dr[i] = debug.db[i];
	state->dr[6] = debug.dr6;
	state->dr[7] = debug.dr7;
	kvm_get_vectors(vcpu, state);
	kvm_get_level(vcpu, state);
	return 0;
}

void kvm_describe_registers(struct engine_vcpu *vcpu, char *text, size_t size)
{
	struct vcpu_state state = {0};

	if (kvm_get_state(vcpu, &state))
		snprintf(text, size, "registers unknown");
	else
		snprintf(text, size,
		         "at %x:%#" PRIx64 ", RFLAGS %#" PRIx64 " RSP %#" PRIx64 " RAX %#" PRIx64
		         " CR0 %#" PRIx64 " CR2 %#" PRIx64 " CR3 %#" PRIx64 " CR4 %#" PRIx64
		         " EFER %#" PRIx64,
		         state.seg[SEG_CS].selector, state.rip, state.rflags, state.gpr[REG_RSP],
		         state.gpr[REG_RAX], state.cr0, state.cr2, state.cr3, state.cr4, state.efer);
}

/* Out of HLT, for the new state may be elsewhere; a CPU that waits for SIPI goes on waiting. */
static int make_runnable(struct engine_vcpu *vcpu)
{
	struct kvm_mp_state mp;
	int status = kvm_ioctl(vcpu->fd, KVM_GET_MP_STATE, &mp);

	if (status < 0 || mp.mp_state != KVM_MP_STATE_HALTED)
		return status;
	mp.mp_state = KVM_MP_STATE_RUNNABLE;
	return kvm_ioctl(vcpu->fd, KVM_SET_MP_STATE, &mp);
}

/* The MTRRs as firmware leaves them; where they are off, Linux does not set up the PAT either. */
void kvm_set_up(struct engine_vcpu *vcpu)
{
	uint64_t addresses = (1ull << vcpu->vm->config->cpu_model->physical_address_bits) - 1;

	/* Devices from where RAM ends at the latest to 4 GiB: UC, as two powers of two. */
	kvm_set_msr(vcpu, MSR_MTRR_BASE0, 0xc0000000);
	kvm_set_msr(vcpu, MSR_MTRR_MASK0, (addresses & ~0x3fffffffull) | MTRR_VALID);
	kvm_set_msr(vcpu, MSR_MTRR_BASE0 + 2, 0xb0000000);
	kvm_set_msr(vcpu, MSR_MTRR_MASK0 + 2, (addresses & ~0x0fffffffull) | MTRR_VALID);
	kvm_set_msr(vcpu, MSR_MTRR_DEF_TYPE, MTRR_ENABLE_WRITE_BACK);
}

int kvm_set_state(struct engine_vcpu *vcpu, const struct vcpu_state *state)
{
	struct kvm_regs regs = {0};
	struct kvm_sregs sregs;
	struct kvm_debugregs debug = {0};
	int status;

	kvm_complete_io(vcpu);
	status = kvm_ioctl(vcpu->fd, KVM_GET_SREGS, &sregs);
	if (status < 0)
		return failed(vcpu, "reading the state", status);
	for (unsigned i = 0; i < 16; i++)
		*kvm_register_of(&regs, i) = state->gpr[i];
	regs.rip = state->rip;
	regs.rflags = state->rflags | 2;
	for (unsigned i = 0; i < SEG_COUNT; i++)
		*kvm_segment_of(&sregs, i) = segment_to_kvm(&state->seg[i]);
	sregs.gdt = (struct kvm_dtable){.base = state->gdtr.base, .limit = state->gdtr.limit};
	sregs.idt = (struct kvm_dtable){.base = state->idtr.base, .limit = state->idtr.limit};
	sregs.cr0 = state->cr0;
	sregs.cr2 = state->cr2;
	sregs.cr3 = state->cr3;
	sregs.cr4 = state->cr4;
	sregs.cr8 = state->cr8;
	sregs.efer = state->efer;
	sregs.apic_base = state->apic_base;
	memset(sregs.interrupt_bitmap, 0, sizeof(sregs.interrupt_bitmap));
	for (unsigned i = 0; i < 4; i++)
		debug.db[i] = state->dr[i];
	debug.dr6 = state->dr[6];
	debug.dr7 = state->dr[7];
	status = kvm_ioctl(vcpu->fd, KVM_SET_SREGS, &sregs);
	if (status >= 0)
		status = kvm_ioctl(vcpu->fd, KVM_SET_REGS, &regs);
	if (status >= 0)
		status = kvm_ioctl(vcpu->fd, KVM_SET_DEBUGREGS, &debug);
	if (status >= 0)
		status = make_runnable(vcpu);
	return status < 0 ? failed(vcpu, "setting the state", status) : 0;
}

/* --- reset --- */

/* Reads all MSRs that KVM lists and has; those that this CPU model lacks are left out. */
static void read_msrs(struct engine_vcpu *vcpu, struct kvm_msr_set *set)
{
	const struct kvm_msr_list *list = vcpu->vm->msr_list;

	set->head.nmsrs = 0;
	for (unsigned i = 0; i < list->nmsrs && set->head.nmsrs < KVM_MSRS_MAX; i++) {
		struct {
			struct kvm_msrs head;
			struct kvm_msr_entry entry;
		} one = {.head.nmsrs = 1, .entry = {.index = list->indices[i]}};

		if (kvm_ioctl(vcpu->fd, KVM_GET_MSRS, &one) == 1)
			set->entry[set->head.nmsrs++] = one.entry;
	}
}

/* KVM stops at the first that it refuses (a read-only one): go on behind it. */
static void write_msrs(struct engine_vcpu *vcpu, const struct kvm_msr_set *set)
{
	struct kvm_msr_set *rest = malloc(sizeof(*rest));
	unsigned done = 0;

	if (!rest)
		return;
	while (done < set->head.nmsrs) {
		int written;

		rest->head.nmsrs = set->head.nmsrs - done;
		memcpy(rest->entry, set->entry + done, rest->head.nmsrs * sizeof(rest->entry[0]));
		for (unsigned i = 0; i < rest->head.nmsrs; i++)
			if (rest->entry[i].index == MSR_TSC)
				rest->entry[i].data = 0;
		written = kvm_ioctl(vcpu->fd, KVM_SET_MSRS, rest);
		if (written < 0)
			break;
		done += (unsigned)written + 1;
	}
	free(rest);
}

int kvm_remember_reset_state(struct engine_vcpu *vcpu)
{
	struct kvm_snapshot *snapshot = calloc(1, sizeof(*snapshot));
	const struct {
		unsigned long request;
		void *part;
	} part[] = {
	    {KVM_GET_REGS, &snapshot->regs},          {KVM_GET_SREGS, &snapshot->sregs},
	    {KVM_GET_DEBUGREGS, &snapshot->debug},    {KVM_GET_XCRS, &snapshot->xcrs},
	    {KVM_GET_LAPIC, &snapshot->lapic},        {KVM_GET_MP_STATE, &snapshot->mp},
	    {KVM_GET_VCPU_EVENTS, &snapshot->events}, {KVM_GET_FPU, &snapshot->fpu},
	};

	if (!snapshot)
		return error_set(ENOMEM, "no memory for the reset state of CPU %u", vcpu->index);
	free(vcpu->reset_state);
	vcpu->reset_state = snapshot;
	for (size_t i = 0; i < sizeof(part) / sizeof(part[0]); i++) {
		int status = kvm_ioctl(vcpu->fd, part[i].request, part[i].part);

		if (status < 0 && part[i].request != KVM_GET_XCRS)
			return failed(vcpu, "reading the reset state", status);
	}
	read_msrs(vcpu, &snapshot->msrs);
	return 0;
}

/* Out of VMX operation, before control registers that contradict it come back. */
static void leave_nested(struct engine_vcpu *vcpu)
{
	union {
		struct kvm_nested_state state;
		uint8_t room[sizeof(struct kvm_nested_state)];
	} nested;

	if (!vcpu->vm->config->cpu_model->vmx || !kvm_capability(vcpu->vm->kvm_fd, KVM_CAP_NESTED_STATE))
		return;
	memset(&nested, 0, sizeof(nested));
	nested.state.format = KVM_STATE_NESTED_FORMAT_VMX;
	nested.state.size = sizeof(nested.state);
	nested.state.hdr.vmx.vmxon_pa = UINT64_MAX;
	nested.state.hdr.vmx.vmcs12_pa = UINT64_MAX;
	kvm_ioctl(vcpu->fd, KVM_SET_NESTED_STATE, &nested);
}

/* The x87, SSE and AVX state after reset: everything in its initial configuration. */
static void reset_fpu(struct engine_vcpu *vcpu)
{
	struct kvm_xsave *xsave;

	kvm_ioctl(vcpu->fd, KVM_SET_FPU, &vcpu->reset_state->fpu);
	xsave = calloc(1, sizeof(*xsave));
	if (!xsave)
		return;
	/* XSTATE_BV 0 says "initial" for every component; the legacy area's FCW and MXCSR count all the same.
	 */
	xsave->region[0] = 0x37f;
	xsave->region[6] = 0x1f80;
	kvm_ioctl(vcpu->fd, KVM_SET_XSAVE, xsave);
	free(xsave);
}

void kvm_reset(struct engine_vcpu *vcpu)
{
	struct kvm_snapshot *snapshot = vcpu->reset_state;

	kvm_complete_io(vcpu);
	vcpu->interrupt_given = false;
	vcpu->held_vector = -1;
	atomic_store(&vcpu->kicked, false);
	leave_nested(vcpu);
	kvm_ioctl(vcpu->fd, KVM_SET_MP_STATE, &snapshot->mp);
	kvm_ioctl(vcpu->fd, KVM_SET_VCPU_EVENTS, &snapshot->events);
	kvm_ioctl(vcpu->fd, KVM_SET_SREGS, &snapshot->sregs);
	kvm_ioctl(vcpu->fd, KVM_SET_REGS, &snapshot->regs);
	kvm_ioctl(vcpu->fd, KVM_SET_XCRS, &snapshot->xcrs);
	reset_fpu(vcpu);
	kvm_ioctl(vcpu->fd, KVM_SET_DEBUGREGS, &snapshot->debug);
	write_msrs(vcpu, &snapshot->msrs);
	kvm_ioctl(vcpu->fd, KVM_SET_LAPIC, &snapshot->lapic);
}

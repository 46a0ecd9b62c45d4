/*
 * A debugger outside, by KVM_SET_GUEST_DEBUG: the hardware's four debug registers are lent to it, so that there are no
 * more points than those, and the guest's own do nothing meanwhile. Levels cannot be told apart.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "engine/kvm/kvm_private.h"
#include "engine/vcpu_state.h"
#include "util/error.h"

#define POINTS       4
#define DR6_BS       (1u << 14)
#define DR7_G0       0x002u
#define DR7_FIXED    0x600u /* GE, and a bit that is always 1 */
#define RFLAGS_RF    (1u << 16)
#define XSAVE_HEADER 512

/* SDM, Debug Control Register (DR7): R/W and LEN of a point, or -1 where the hardware has no such. */
static int control_of(const struct engine_debug_point *point)
{
	unsigned length, kind;

	if (point->access == ENGINE_POINT_EXECUTE)
		return 0;
	kind = point->access & ENGINE_POINT_READ ? 3 : 1;
	switch (point->size) {
	case 1:
		length = 0;
		break;
	case 2:
		length = 1;
		break;
	case 4:
		length = 3;
		break;
	case 8:
		length = 2;
		break;
	default:
		return -1;
	}
	return point->gla & (point->size - 1) ? -1 : (int)(length << 2 | kind);
}

/* Lets an instruction breakpoint at RIP be passed once (SDM, Instruction-Breakpoint Exception Condition). */
static int set_resume_flag(struct engine_vcpu *vcpu)
{
	struct kvm_regs regs;
	int status = kvm_ioctl(vcpu->fd, KVM_GET_REGS, &regs);

	regs.rflags |= RFLAGS_RF;
	return status < 0 ? status : kvm_ioctl(vcpu->fd, KVM_SET_REGS, &regs);
}

int kvm_set_debug(struct engine_vcpu *vcpu, const struct engine_debug *debug)
{
	static const struct engine_debug none = {.levels = ENGINE_LEVEL_ANY};
	struct kvm_guest_debug request = {0};
	int status;

	debug = debug ? debug : &none;
	if (debug->levels != ENGINE_LEVEL_ANY)
		return error_set(ENOTSUP, "KVM stops a CPU at any level; --engine soft knows levels");
	if (debug->count > POINTS)
		return error_set(ENOSPC, "KVM has %d breakpoints and watchpoints; --engine soft has more", POINTS);
	for (unsigned i = 0; i < debug->count; i++) {
		int control = control_of(&debug->point[i]);

		if (control < 0)
			return error_set(EINVAL, "KVM watches 1, 2, 4 or 8 aligned bytes");
		request.control |= KVM_GUESTDBG_ENABLE | KVM_GUESTDBG_USE_HW_BP;
		request.arch.debugreg[i] = debug->point[i].gla;
		request.arch.debugreg[7] |= DR7_FIXED | DR7_G0 << (2 * i) | (uint64_t)control << (16 + 4 * i);
	}
	if (debug->step)
		request.control |= KVM_GUESTDBG_ENABLE | KVM_GUESTDBG_SINGLESTEP;
#ifdef KVM_GUESTDBG_BLOCKIRQ
	if (debug->step && kvm_capability(vcpu->vm->kvm_fd, KVM_CAP_SET_GUEST_DEBUG2) & KVM_GUESTDBG_BLOCKIRQ)
		request.control |= KVM_GUESTDBG_BLOCKIRQ;
#endif
	kvm_complete_io(vcpu);
	status = kvm_ioctl(vcpu->fd, KVM_SET_GUEST_DEBUG, &request);
	if (status >= 0 && debug->pass)
		status = set_resume_flag(vcpu);
	if (status < 0)
		return error_set(-status, "KVM does not take breakpoints: %s", strerror(-status));
	vcpu->debug = *debug;
	return 0;
}

/* KVM_EXIT_DEBUG. False where it was none of ours. */
bool kvm_exit_debug(struct engine_vcpu *vcpu)
{
	const struct kvm_debug_exit_arch *exit = &vcpu->run->debug.arch;
	const struct engine_debug *debug = &vcpu->debug;

	for (unsigned i = 0; i < debug->count; i++) {
		const struct engine_debug_point *point = &debug->point[i];

		if (!(exit->dr6 >> i & 1))
			continue;
		vcpu->debug_stop = (struct engine_debug_stop){
		    .reason = point->access == ENGINE_POINT_EXECUTE ? ENGINE_STOP_BREAKPOINT : ENGINE_STOP_WATCHPOINT,
		    .gla = point->gla, .access = point->access};
		return true;
	}
	vcpu->debug_stop = (struct engine_debug_stop){.reason = ENGINE_STOP_STEP, .gla = exit->pc};
	return debug->step || exit->dr6 & DR6_BS;
}

void kvm_debug_stop(struct engine_vcpu *vcpu, struct engine_debug_stop *stop)
{
	*stop = vcpu->debug_stop;
}

void kvm_get_vectors(struct engine_vcpu *vcpu, struct vcpu_state *state)
{
	struct kvm_xsave area;

	_Static_assert(sizeof(area.region) >= VCPU_XSAVE_SIZE, "KVM gives a page");
	if (kvm_ioctl(vcpu->fd, KVM_GET_XSAVE, &area) < 0)
		return;
	memcpy(state->xsave, area.region, VCPU_XSAVE_SIZE);
	state->xsave_size = VCPU_XSAVE_SIZE;
}

static int set_vectors(struct engine_vcpu *vcpu, const struct vcpu_state *state)
{
	struct kvm_xsave area;
	int status = kvm_ioctl(vcpu->fd, KVM_GET_XSAVE, &area);
	uint64_t components;

	if (status < 0)
		return status;
	/* The components of state are all there; others stay as they are. */
	memcpy(&components, (uint8_t *)area.region + XSAVE_HEADER, sizeof(components));
	memcpy(area.region, state->xsave, VCPU_XSAVE_SIZE);
	components |= 3 | (state->xsave[XSAVE_HEADER] & 4);
	memcpy((uint8_t *)area.region + XSAVE_HEADER, &components, sizeof(components));
	return kvm_ioctl(vcpu->fd, KVM_SET_XSAVE, &area);
}

/* KVM_GET_NESTED_STATE's header says whether it is the guest's guest that runs. */
void kvm_get_level(struct engine_vcpu *vcpu, struct vcpu_state *state)
{
	union {
		struct kvm_nested_state state;
		uint8_t room[sizeof(struct kvm_nested_state) + 2 * KVM_STATE_NESTED_VMX_VMCS_SIZE];
	} *nested;

	if (!vcpu->vm->config->cpu_model->vmx || !kvm_capability(vcpu->vm->kvm_fd, KVM_CAP_NESTED_STATE))
		return;
	nested = calloc(1, sizeof(*nested));
	if (!nested)
		return;
	nested->state.size = sizeof(*nested);
	if (kvm_ioctl(vcpu->fd, KVM_GET_NESTED_STATE, nested) >= 0)
		state->level = (nested->state.flags & KVM_STATE_NESTED_GUEST_MODE) != 0;
	free(nested);
}

int kvm_set_registers(struct engine_vcpu *vcpu, const struct vcpu_state *state)
{
	struct kvm_regs regs = {.rip = state->rip, .rflags = state->rflags | 2};
	struct kvm_sregs sregs;
	int status;

	kvm_complete_io(vcpu);
	for (unsigned i = 0; i < 16; i++)
		*kvm_register_of(&regs, i) = state->gpr[i];
	status = kvm_ioctl(vcpu->fd, KVM_GET_SREGS, &sregs);
	sregs.cr2 = state->cr2;
	sregs.fs.base = state->seg[SEG_FS].base;
	sregs.gs.base = state->seg[SEG_GS].base;
	if (status >= 0)
		status = kvm_ioctl(vcpu->fd, KVM_SET_SREGS, &sregs);
	if (status >= 0)
		status = kvm_ioctl(vcpu->fd, KVM_SET_REGS, &regs);
	if (status >= 0 && state->xsave_size)
		status = set_vectors(vcpu, state);
	return status < 0 ? error_set(-status, "KVM does not take the registers: %s", strerror(-status)) : 0;
}

/*
 * The VMX instructions (SDM, VMX Instruction Reference). Each function follows its instruction's pseudocode
 * from top to bottom: #UD, VM exit from non-root operation, #GP, VMfailInvalid, VMfailValid, effect.
 *
 * VMREAD and VMWRITE are what hypervisors do most, so both open with a path for the register form in 64-bit
 * code at CPL 0 in root operation, where every check but the field's existence is one comparison.
 */
#include "engine/soft/cpu/memory.h"
#include "engine/soft/vmx/vmcs.h"
#include "engine/soft/vmx/vmx.h"
#include "engine/soft/vmx/vmx_local.h"

/* ---- SDM, Conventions ---- */

void vmx_succeed(struct cpu *cpu)
{
	cpu->cc_low = 2;
	cpu->cc_of = 0;
}

void vmx_fail_invalid(struct cpu *cpu)
{
	cpu->cc_low = 2 | FLAG_CF;
	cpu->cc_of = 0;
}

static void fail_valid_in(struct cpu *cpu, struct vmcs *vmcs, enum vm_instruction_error error)
{
	cpu->cc_low = 2 | FLAG_ZF;
	cpu->cc_of = 0;
	vmcs_set(vmcs, VMCS_VM_INSTRUCTION_ERROR, error);
}

void vmx_fail_valid(struct cpu *cpu, enum vm_instruction_error error)
{
	fail_valid_in(cpu, cpu->vmx->current, error);
}

void vmx_fail(struct cpu *cpu, enum vm_instruction_error error)
{
	if (cpu->vmx->current)
		vmx_fail_valid(cpu, error);
	else
		vmx_fail_invalid(cpu);
}

/* ---- what the pseudocodes have in common ---- */

#define PREFIXES_UD (PREFIX_REP | PREFIX_REPNE | PREFIX_OPSIZE | PREFIX_LOCK)

/* CR0.PE = 0, RFLAGS.VM = 1, or compatibility mode. */
static bool mode_forbids(const struct cpu *cpu)
{
	return !(cpu->mode & MODE_PROTECTED) || (cpu->mode & (MODE_LONG | MODE_CODE64)) == MODE_LONG;
}

/* VM exit of a VMX instruction: the qualification is the memory operand's displacement (SDM, Exit
 * Qualification). */
static _Noreturn void exit_vmx_instruction(struct cpu *cpu, uint32_t reason, const struct insn *insn)
{
	uint64_t displacement = 0;
	uint32_t information = 0;

	switch (reason) {
	case EXIT_REASON_VMREAD:
	case EXIT_REASON_VMWRITE:
	case EXIT_REASON_INVEPT:
	case EXIT_REASON_INVVPID:
		information = insn_info_register_memory(insn);
		break;
	case EXIT_REASON_VMCLEAR:
	case EXIT_REASON_VMPTRLD:
	case EXIT_REASON_VMPTRST:
	case EXIT_REASON_VMXON:
		information = insn_info_memory(insn);
		break;
	}
	if (insn->is_memory)
		displacement = insn->displacement + (insn->base == INSN_BASE_RIP ? cpu->next_rip : 0);
	vmx_exit_instruction(cpu, reason, displacement, information);
}

/* The opening of every VMX instruction but VMXON and VMCALL. */
static struct vmx *begin(struct cpu *cpu, const struct insn *insn, uint32_t exit_reason)
{
	struct vmx *vmx = cpu->vmx;

	if (!vmx || !vmx->in_vmx_operation || mode_forbids(cpu) || insn->prefixes & PREFIX_LOCK)
		cpu_raise(cpu, VECTOR_UD);
	if (vmx->in_nonroot)
		exit_vmx_instruction(cpu, exit_reason, insn);
	if (cpu->cpl > 0)
		cpu_raise_error(cpu, VECTOR_GP, 0);
	return vmx;
}

static void needs_memory_operand(struct cpu *cpu, const struct insn *insn)
{
	if (!insn->is_memory)
		cpu_raise(cpu, VECTOR_UD);
}

static unsigned operand_size(const struct cpu *cpu)
{
	return cpu_is_64bit(cpu) ? 8 : 4;
}

static uint64_t register_operand(const struct cpu *cpu, unsigned number)
{
	return cpu_is_64bit(cpu) ? cpu->gpr[number & 15] : (uint32_t)cpu->gpr[number & 15];
}

/* The 64-bit physical address in the memory operand of VMXON, VMCLEAR and VMPTRLD. */
static gpa_t pointer_operand(struct cpu *cpu, const struct insn *insn)
{
	return GPA(mem_read(cpu, insn->segment, operand_offset(cpu, insn), 8));
}

static bool region_address_valid(const struct vmx *vmx, gpa_t address)
{
	return !(address.v & ((PAGE_SIZE - 1) | vmx->cap.address_mask));
}

bool vmx_eptp_valid(const struct vmx_capabilities *cap, uint64_t eptp)
{
	uint64_t type = EPTP_MEMORY_TYPE(eptp);

	if (!(type == 6 && cap->ept_vpid & EPT_VPID_CAP_WB) &&
	    !(type == 0 && cap->ept_vpid & EPT_VPID_CAP_UC))
		return false;
	if (EPTP_WALK_LENGTH(eptp) != 3)
		return false;
	if (eptp & EPTP_ACCESSED_DIRTY && !(cap->ept_vpid & EPT_VPID_CAP_ACCESSED_DIRTY))
		return false;
	return !(eptp & (0xf80 | cap->address_mask));
}

/* ---- entering and leaving VMX operation ---- */

void op_vmxon(struct cpu *cpu, const struct insn *insn)
{
	struct vmx *vmx = cpu->vmx;
	const struct vmx_capabilities *cap;
	gpa_t address;

	if (!vmx || !insn->is_memory || !(cpu->cr4 & CR4_VMXE) || mode_forbids(cpu) ||
	    insn->prefixes & PREFIX_LOCK)
		cpu_raise(cpu, VECTOR_UD);
	if (vmx->in_vmx_operation) {
		if (vmx->in_nonroot)
			exit_vmx_instruction(cpu, EXIT_REASON_VMXON, insn);
		if (cpu->cpl > 0)
			cpu_raise_error(cpu, VECTOR_GP, 0);
		vmx_fail(cpu, VMERROR_VMXON_IN_ROOT);
		return;
	}
	cap = &vmx->cap;
	if (cpu->cpl > 0 || cap->cr0_fixed0 & ~cpu->cr0 || cpu->cr0 & ~cap->cr0_fixed1 ||
	    cap->cr4_fixed0 & ~cpu->cr4 || cpu->cr4 & ~cap->cr4_fixed1 ||
	    (cpu->msr.feature_control & (FEATURE_CONTROL_LOCK | FEATURE_CONTROL_VMX_OUTSIDE)) !=
	        (FEATURE_CONTROL_LOCK | FEATURE_CONTROL_VMX_OUTSIDE))
		cpu_raise_error(cpu, VECTOR_GP, 0);
	address = pointer_operand(cpu, insn);
	/* A shadow-VMCS indicator is a mismatch too. */
	if (!region_address_valid(vmx, address) || phys_read(cpu, address, 4) != VMCS_REVISION) {
		vmx_fail_invalid(cpu);
		return;
	}
	vmx->vmxon = address;
	vmx->current = NULL;
	vmx->in_vmx_operation = true;
	cpu->cr0_must_set = cap->cr0_fixed0;
	cpu->cr4_must_set = cap->cr4_fixed0;
	cpu->init_blocked = true;
	vmx_succeed(cpu);
}

void vmx_leave_operation(struct cpu *cpu)
{
	struct vmx *vmx = cpu->vmx;

	vmx->in_vmx_operation = false;
	vmx->in_nonroot = false;
	vmx->current = NULL;
	vmx->shadow = NULL;
	vmx->vmxon = GPA(VMCS_NO_POINTER);
	cpu->cr0_must_set = 0;
	cpu->cr4_must_set = 0;
	cpu->init_blocked = false;
}

void op_vmxoff(struct cpu *cpu, const struct insn *insn)
{
	begin(cpu, insn, EXIT_REASON_VMXOFF);
	/* VMCSs that software left active are written back, so that a later VMXON finds them as they were. */
	vmcs_cache_write_back(cpu, true);
	vmx_leave_operation(cpu);
	vmx_runtime_reset(cpu);
	if (cpu->pending_async & ASYNC_INIT)
		cpu_poll_soon(cpu);
	vmx_succeed(cpu);
}

void vmx_reset(struct cpu *cpu)
{
	if (!cpu->vmx)
		return;
	vmx_leave_operation(cpu);
	vmcs_cache_reset(cpu->vmx);
	vmx_runtime_reset(cpu);
}

/* ---- the current VMCS ---- */

void op_vmclear(struct cpu *cpu, const struct insn *insn)
{
	struct vmx *vmx;
	gpa_t address;

	needs_memory_operand(cpu, insn);
	vmx = begin(cpu, insn, EXIT_REASON_VMCLEAR);
	address = pointer_operand(cpu, insn);
	if (!region_address_valid(vmx, address)) {
		vmx_fail(cpu, VMERROR_VMCLEAR_ADDRESS);
		return;
	}
	if (address.v == vmx->vmxon.v) {
		vmx_fail(cpu, VMERROR_VMCLEAR_VMXON_POINTER);
		return;
	}
	if (vmx->current && vmx->current->gpa.v == address.v)
		vmx->current = NULL;
	vmcs_cache_clear(cpu, address);
	vmx_succeed(cpu);
}

void op_vmptrld(struct cpu *cpu, const struct insn *insn)
{
	struct vmx *vmx;
	gpa_t address;
	uint32_t revision;

	needs_memory_operand(cpu, insn);
	vmx = begin(cpu, insn, EXIT_REASON_VMPTRLD);
	address = pointer_operand(cpu, insn);
	if (!region_address_valid(vmx, address)) {
		vmx_fail(cpu, VMERROR_VMPTRLD_ADDRESS);
		return;
	}
	if (address.v == vmx->vmxon.v) {
		vmx_fail(cpu, VMERROR_VMPTRLD_VMXON_POINTER);
		return;
	}
	revision = phys_read(cpu, address, 4);
	if ((revision & ~VMCS_SHADOW) != VMCS_REVISION ||
	    (revision & VMCS_SHADOW && !(vmx->cap.secondary >> 32 & CPU2_VMCS_SHADOWING))) {
		vmx_fail(cpu, VMERROR_VMPTRLD_REVISION);
		return;
	}
	vmx->current = vmcs_cache_load(cpu, address);
	vmx->current->shadow = revision & VMCS_SHADOW;
	vmx_succeed(cpu);
}

void op_vmptrst(struct cpu *cpu, const struct insn *insn)
{
	struct vmx *vmx;

	needs_memory_operand(cpu, insn);
	vmx = begin(cpu, insn, EXIT_REASON_VMPTRST);
	mem_write(cpu, insn->segment, operand_offset(cpu, insn), 8,
	          vmx->current ? vmx->current->gpa.v : VMCS_NO_POINTER);
	vmx_succeed(cpu);
}

/* ---- VMREAD and VMWRITE ---- */

/* SDM, VMCS Shadowing: does the bitmap make this access exit? */
static bool shadow_access_exits(struct cpu *cpu, enum vmcs_field bitmap, uint64_t encoding)
{
	struct vmx *vmx = cpu->vmx;

	if (!(vmx->runtime.secondary & CPU2_VMCS_SHADOWING) || encoding >> 15)
		return true;
	return phys_read(cpu, GPA(vmcs_get(vmx->current, bitmap) + (encoding >> 3)), 1) >> (encoding & 7) & 1;
}

/* The VMCS of the link pointer, which entry has checked; guest software in non-root operation accesses it. */
static struct vmcs *shadow_vmcs(struct cpu *cpu)
{
	struct vmx *vmx = cpu->vmx;
	uint64_t link = vmcs_get(vmx->current, VMCS_VMCS_LINK_POINTER);

	if (link == VMCS_NO_POINTER || !region_address_valid(vmx, GPA(link)))
		return NULL;
	if (!vmx->shadow || vmx->shadow->gpa.v != link)
		vmx->shadow = vmcs_cache_load(cpu, GPA(link));
	return vmx->shadow;
}

/*
 * The checks that VMREAD and VMWRITE share up to the VMCS pointer. Returns the VMCS to access, or NULL after
 * VMfailInvalid.
 */
static struct vmcs *begin_access(struct cpu *cpu, const struct insn *insn, uint64_t encoding, bool write)
{
	struct vmx *vmx = cpu->vmx;
	struct vmcs *vmcs;

	if (!vmx || !vmx->in_vmx_operation || mode_forbids(cpu) || insn->prefixes & PREFIXES_UD)
		cpu_raise(cpu, VECTOR_UD);
	if (vmx->in_nonroot &&
	    shadow_access_exits(cpu, write ? VMCS_VMWRITE_BITMAP_ADDRESS : VMCS_VMREAD_BITMAP_ADDRESS,
	                        encoding))
		exit_vmx_instruction(cpu, write ? EXIT_REASON_VMWRITE : EXIT_REASON_VMREAD, insn);
	if (cpu->cpl > 0)
		cpu_raise_error(cpu, VECTOR_GP, 0);
	vmcs = vmx->in_nonroot ? shadow_vmcs(cpu) : vmx->current;
	if (!vmcs)
		vmx_fail_invalid(cpu);
	return vmcs;
}

/* 64-bit code at CPL 0 in root operation, register form, a current VMCS. (A current VMCS implies VMX
 * operation.) */
static inline bool fast_access(const struct cpu *cpu, const struct insn *insn)
{
	return (cpu->mode & (MODE_CODE64 | MODE_CPL0 | MODE_NONROOT)) == (MODE_CODE64 | MODE_CPL0) &&
	       !insn->is_memory && !(insn->prefixes & PREFIXES_UD) && cpu->vmx && cpu->vmx->current;
}

static inline uint64_t read_field(const struct vmcs *vmcs, enum vmcs_field field, bool high)
{
	return high ? vmcs_get(vmcs, field) >> 32 : vmcs_get(vmcs, field);
}

static inline void write_field(struct vmcs *vmcs, enum vmcs_field field, bool high, uint64_t value)
{
	if (high)
		value = (uint32_t)vmcs_get(vmcs, field) | value << 32;
	vmcs_set(vmcs, field, value & vmcs_field_info[field].mask);
}

static __attribute__((noinline)) void vmread_slow(struct cpu *cpu, const struct insn *insn)
{
	uint64_t encoding = register_operand(cpu, insn->reg);
	struct vmcs *vmcs = begin_access(cpu, insn, encoding, false);
	enum vmcs_field field;
	bool high = false;

	if (!vmcs)
		return;
	field = vmcs_lookup(cpu->vmx, encoding, &high);
	if (field == VMCS_NONE) {
		fail_valid_in(cpu, vmcs, VMERROR_UNSUPPORTED_FIELD);
		return;
	}
	operand_set_rm(cpu, insn, operand_size(cpu), read_field(vmcs, field, high));
	vmx_succeed(cpu);
}

void op_vmread(struct cpu *cpu, const struct insn *insn)
{
	if (__builtin_expect(fast_access(cpu, insn), 1)) {
		bool high = false;
		enum vmcs_field field = vmcs_lookup(cpu->vmx, cpu->gpr[insn->reg & 15], &high);

		if (__builtin_expect(field != VMCS_NONE, 1)) {
			cpu->gpr[insn->rm & 15] = read_field(cpu->vmx->current, field, high);
			vmx_succeed(cpu);
			return;
		}
	}
	vmread_slow(cpu, insn);
}

static __attribute__((noinline)) void vmwrite_slow(struct cpu *cpu, const struct insn *insn)
{
	uint64_t encoding = register_operand(cpu, insn->reg);
	struct vmcs *vmcs = begin_access(cpu, insn, encoding, true);
	enum vmcs_field field;
	bool high = false;
	uint64_t value;

	if (!vmcs)
		return;
	value = operand_rm(cpu, insn, operand_size(cpu));
	field = vmcs_lookup(cpu->vmx, encoding, &high);
	if (field == VMCS_NONE) {
		fail_valid_in(cpu, vmcs, VMERROR_UNSUPPORTED_FIELD);
		return;
	}
	/* VM-exit information fields are writable: IA32_VMX_MISC[29] says so. */
	if (vmcs_field_info[field].type == VMCS_TYPE_READ_ONLY &&
	    !(cpu->vmx->cap.misc & VMX_MISC_VMWRITE_ANY)) {
		fail_valid_in(cpu, vmcs, VMERROR_READ_ONLY_FIELD);
		return;
	}
	write_field(vmcs, field, high, value);
	vmx_succeed(cpu);
}

void op_vmwrite(struct cpu *cpu, const struct insn *insn)
{
	if (__builtin_expect(fast_access(cpu, insn), 1)) {
		bool high = false;
		enum vmcs_field field = vmcs_lookup(cpu->vmx, cpu->gpr[insn->reg & 15], &high);

		if (__builtin_expect(field != VMCS_NONE, 1) &&
		    (vmcs_field_info[field].type != VMCS_TYPE_READ_ONLY ||
		     cpu->vmx->cap.misc & VMX_MISC_VMWRITE_ANY)) {
			write_field(cpu->vmx->current, field, high, cpu->gpr[insn->rm & 15]);
			vmx_succeed(cpu);
			return;
		}
	}
	vmwrite_slow(cpu, insn);
}

/* ---- VM entry and calls ---- */

static void launch_or_resume(struct cpu *cpu, const struct insn *insn, bool launch)
{
	struct vmx *vmx = begin(cpu, insn, launch ? EXIT_REASON_VMLAUNCH : EXIT_REASON_VMRESUME);

	if (!vmx->current || vmx->current->shadow)
		vmx_fail_invalid(cpu);
	else if (cpu->shadow & SHADOW_MOVSS)
		vmx_fail_valid(cpu, VMERROR_ENTRY_MOV_SS);
	else if (launch && vmx->current->launch_state != VMCS_CLEAR)
		vmx_fail_valid(cpu, VMERROR_VMLAUNCH_NOT_CLEAR);
	else if (!launch && vmx->current->launch_state != VMCS_LAUNCHED)
		vmx_fail_valid(cpu, VMERROR_VMRESUME_NOT_LAUNCHED);
	else
		vmx_enter(cpu, launch);
}

void op_vmlaunch(struct cpu *cpu, const struct insn *insn)
{
	launch_or_resume(cpu, insn, true);
}

void op_vmresume(struct cpu *cpu, const struct insn *insn)
{
	launch_or_resume(cpu, insn, false);
}

void op_vmcall(struct cpu *cpu, const struct insn *insn)
{
	struct vmx *vmx = cpu->vmx;

	if (!vmx || !vmx->in_vmx_operation || insn->prefixes & PREFIX_LOCK)
		cpu_raise(cpu, VECTOR_UD);
	/* In every mode, whatever the CPL. */
	if (vmx->in_nonroot)
		vmx_exit_instruction(cpu, EXIT_REASON_VMCALL, 0, 0);
	if (mode_forbids(cpu))
		cpu_raise(cpu, VECTOR_UD);
	if (cpu->cpl > 0)
		cpu_raise_error(cpu, VECTOR_GP, 0);
	/* The dual-monitor treatment of SMM is not offered. */
	vmx_fail(cpu, VMERROR_VMCALL_IN_ROOT);
}

/* "Enable VM functions" is not offered. */
void op_vmfunc(struct cpu *cpu, const struct insn *insn)
{
	cpu_raise(cpu, VECTOR_UD);
}

/* ---- invalidation ---- */

/* Reads the 128-bit descriptor as two halves. */
static void descriptor_operand(struct cpu *cpu, const struct insn *insn, uint64_t descriptor[2])
{
	gla_t gla = mem_linear(cpu, insn->segment, operand_offset(cpu, insn), 16, ACCESS_READ);

	mem_read_block(cpu, gla, descriptor, 16, mem_class(cpu));
}

void op_invept(struct cpu *cpu, const struct insn *insn)
{
	struct vmx *vmx;
	uint64_t type, descriptor[2];
	uint64_t supported;

	needs_memory_operand(cpu, insn);
	vmx = begin(cpu, insn, EXIT_REASON_INVEPT);
	type = register_operand(cpu, insn->reg);
	supported = vmx->cap.ept_vpid;
	if (!(type == 1 && supported & EPT_VPID_CAP_INVEPT_SINGLE) &&
	    !(type == 2 && supported & EPT_VPID_CAP_INVEPT_ALL)) {
		vmx_fail(cpu, VMERROR_INVALID_OPERAND);
		return;
	}
	descriptor_operand(cpu, insn, descriptor);
	if (type == 1 && !vmx_eptp_valid(&vmx->cap, descriptor[0])) {
		vmx_fail(cpu, VMERROR_INVALID_OPERAND);
		return;
	}
	vmx_ept_cache_flush(cpu);
	tlb_flush_ept(cpu, type, descriptor[0]);
	vmx_succeed(cpu);
}

void op_invvpid(struct cpu *cpu, const struct insn *insn)
{
	struct vmx *vmx;
	uint64_t type, descriptor[2];

	needs_memory_operand(cpu, insn);
	vmx = begin(cpu, insn, EXIT_REASON_INVVPID);
	type = register_operand(cpu, insn->reg);
	if (type > 3 || !(vmx->cap.ept_vpid & EPT_VPID_CAP_INVVPID_ADDRESS << type)) {
		vmx_fail(cpu, VMERROR_INVALID_OPERAND);
		return;
	}
	descriptor_operand(cpu, insn, descriptor);
	if (descriptor[0] >> 16 || (type != 2 && descriptor[0] == 0) ||
	    (type == 0 && !is_canonical(descriptor[1]))) {
		vmx_fail(cpu, VMERROR_INVALID_OPERAND);
		return;
	}
	tlb_flush_vpid(cpu, type, descriptor[0], GLA(descriptor[1]));
	vmx_succeed(cpu);
}

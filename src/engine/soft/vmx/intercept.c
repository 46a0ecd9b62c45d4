/*
 * Instructions in VMX non-root operation (SDM, Instructions That Cause VM Exits; Changes to Instruction
 * Behavior in VMX Non-Root Operation): which exit, with what qualification and information, and how control
 * registers look through guest/host masks and read shadows. The table at the end is all that cpu/ sees of
 * vmx/.
 *
 * The caller has made the checks that come before a VM exit (SDM, Relative Priority of Faults and VM Exits):
 * #UD by mode, and privilege.
 */
#include "engine/soft/vmx/vmx_local.h"

/* Exit qualification for control-register accesses. */
#define CR_MOV_FROM    1u
#define CR_LMSW_MEMORY (1u << 6)

static unsigned length_of(const struct cpu *cpu, const struct insn *insn)
{
	if (insn)
		return insn->length;
	/* A task gate met in event delivery: no instruction, or a software event whose length is recorded
	 * with it. */
	return cpu->delivering.valid ? 0 : (cpu->next_rip - cpu->rip) & 0xf;
}

static _Noreturn void leave(struct cpu *cpu, uint32_t reason, uint64_t qualification, uint32_t information,
                            const struct insn *insn)
{
	vmx_exit_full(cpu, &(struct vmx_exit_record){
	                       .reason = reason,
	                       .qualification = qualification,
	                       .instruction_length = length_of(cpu, insn),
	                       .instruction_info = information,
	                   });
}

static void leave_if(struct cpu *cpu, uint32_t control, uint32_t reason, uint64_t qualification,
                     const struct insn *insn)
{
	if (control)
		leave(cpu, reason, qualification, 0, insn);
}

/* Linear address of seg:offset as the exit records it: computed, whatever the segment's checks would say. */
static uint64_t linear(const struct cpu *cpu, unsigned seg, uint64_t offset)
{
	if (!cpu_is_64bit(cpu))
		return (uint32_t)(cpu->seg[seg].base + offset);
	return offset + (seg == SEG_FS || seg == SEG_GS ? cpu->seg[seg].base : 0);
}

static uint64_t displacement(const struct cpu *cpu, const struct insn *insn)
{
	return insn->displacement + (insn->base == INSN_BASE_RIP ? cpu->next_rip : 0);
}

/* ---- PAUSE (SDM, PAUSE-Loop Exiting) ---- */

static void pause_loop(struct cpu *cpu, const struct insn *insn)
{
	struct vmx_runtime *rt = vmx_runtime(cpu);
	uint64_t now;

	leave_if(cpu, rt->primary & CPU_PAUSE_EXITING, EXIT_REASON_PAUSE, 0, insn);
	if (!(rt->secondary & CPU2_PAUSE_LOOP_EXITING) || cpu->cpl != 0)
		return;
	now = cpu_tsc(cpu);
	if (!rt->ple_last || now - rt->ple_last > running(cpu, VMCS_PLE_GAP))
		rt->ple_first = now;
	else
		leave_if(cpu, now - rt->ple_first > running(cpu, VMCS_PLE_WINDOW), EXIT_REASON_PAUSE, 0,
		         insn);
	rt->ple_last = now;
}

/* ---- bitmaps ---- */

static bool bitmap_bit(struct cpu *cpu, uint64_t address, unsigned bit)
{
	const uint8_t *host = guest_memory_host(cpu->memory, GPA(address), PAGE_SIZE);
	uint8_t byte = host ? host[bit >> 3] : phys_read(cpu, GPA(address + (bit >> 3)), 1);

	return byte >> (bit & 7) & 1;
}

/* SDM, I/O-Bitmap Addresses: any of the ports accessed; an access that wraps around exits. */
static bool io_exits(struct cpu *cpu, unsigned port, unsigned size)
{
	uint32_t primary = vmx_runtime(cpu)->primary;

	if (!(primary & CPU_USE_IO_BITMAPS))
		return primary & CPU_UNCONDITIONAL_IO_EXITING;
	if (port + size > 0x10000)
		return true;
	for (unsigned i = 0; i < size; i++) {
		enum vmcs_field field =
		    port + i < 0x8000 ? VMCS_IO_BITMAP_A_ADDRESS : VMCS_IO_BITMAP_B_ADDRESS;

		if (bitmap_bit(cpu, running(cpu, field), (port + i) & 0x7fff))
			return true;
	}
	return false;
}

static void io(struct cpu *cpu, uint64_t qualification, const struct insn *insn)
{
	struct vmx_exit_record record = {.reason = EXIT_REASON_IO_INSTRUCTION,
	                                 .qualification = qualification};

	if (!io_exits(cpu, qualification >> 16 & 0xffff, (qualification & 7) + 1))
		return;
	record.instruction_length = length_of(cpu, insn);
	if ((qualification & 1u << 4) && insn) {
		bool in = qualification & 1u << 3;
		uint64_t offset = cpu->gpr[in ? REG_RDI : REG_RSI];

		if (insn->address_size < 8)
			offset &= insn->address_size == 4 ? 0xffffffff : 0xffff;
		record.guest_linear = linear(cpu, in ? SEG_ES : insn->segment, offset);
		record.instruction_info = insn_info_string_io(insn);
	}
	vmx_exit_full(cpu, &record);
}

/* SDM, MSR-Bitmap Address: four parts of 1 KiB, reads before writes, low MSRs before high ones. */
static bool msr_exits(struct cpu *cpu, uint32_t msr, bool write)
{
	unsigned part = write ? 2 : 0;

	if (!(vmx_runtime(cpu)->primary & CPU_USE_MSR_BITMAPS))
		return true;
	if (msr - 0xc0000000 < 0x2000)
		part++;
	else if (msr >= 0x2000)
		return true;
	return bitmap_bit(cpu, running(cpu, VMCS_MSR_BITMAP_ADDRESS), part * 8192 + (msr & 0x1fff));
}

/* ---- instructions that depend on a control bit ---- */

static void descriptor_table(struct cpu *cpu, uint64_t info, bool ldtr_tr, const struct insn *insn)
{
	if (!(vmx_runtime(cpu)->secondary & CPU2_DESCRIPTOR_TABLE_EXITING))
		return;
	if (ldtr_tr)
		leave(cpu, EXIT_REASON_LDTR_TR, info, insn ? insn_info_ldtr_tr(insn) : 0, insn);
	leave(cpu, EXIT_REASON_GDTR_IDTR, info, insn ? insn_info_gdtr_idtr(cpu, insn) : 0, insn);
}

static void xsaves(struct cpu *cpu, uint32_t reason, const struct insn *insn)
{
	uint64_t mask = (cpu->gpr[REG_RAX] & 0xffffffff) | cpu->gpr[REG_RDX] << 32;

	if (!(vmx_runtime(cpu)->secondary & CPU2_ENABLE_XSAVES))
		cpu_raise(cpu, VECTOR_UD);
	if (mask & cpu->msr.xss & running(cpu, VMCS_XSS_EXITING_BITMAP))
		leave(cpu, reason, insn ? displacement(cpu, insn) : 0, insn ? insn_info_memory(insn) : 0,
		      insn);
}

static void invpcid(struct cpu *cpu, const struct insn *insn)
{
	const struct vmx_runtime *rt = vmx_runtime(cpu);

	if (!(rt->secondary & CPU2_ENABLE_INVPCID))
		cpu_raise(cpu, VECTOR_UD);
	if (rt->primary & CPU_INVLPG_EXITING)
		leave(cpu, EXIT_REASON_INVPCID, insn ? displacement(cpu, insn) : 0,
		      insn ? insn_info_register_memory(insn) : 0, insn);
}

static void random_number(struct cpu *cpu, uint32_t control, uint32_t reason, const struct insn *insn)
{
	if (control)
		leave(cpu, reason, 0, insn ? insn_info_random(insn) : 0, insn);
}

static uint64_t dr_qualification(uint64_t dr, bool from, const struct insn *insn)
{
	return dr | (from ? 1u << 4 : 0) | (insn ? (uint64_t)insn->rm << 8 : 0);
}

static void instruction(struct cpu *cpu, enum intercept what, uint64_t info, const struct insn *insn)
{
	const struct vmx_runtime *rt = vmx_runtime(cpu);
	uint32_t primary = rt->primary, secondary = rt->secondary;

	switch (what) {
	case INTERCEPT_CPUID:
		leave(cpu, EXIT_REASON_CPUID, 0, 0, insn);
	case INTERCEPT_INVD:
		leave(cpu, EXIT_REASON_INVD, 0, 0, insn);
	case INTERCEPT_XSETBV:
		leave(cpu, EXIT_REASON_XSETBV, 0, 0, insn);
	case INTERCEPT_GETSEC:
		leave(cpu, EXIT_REASON_GETSEC, 0, 0, insn);
	case INTERCEPT_TASK_SWITCH:
		leave(cpu, EXIT_REASON_TASK_SWITCH, info, 0, insn);
	case INTERCEPT_HLT:
		leave_if(cpu, primary & CPU_HLT_EXITING, EXIT_REASON_HLT, 0, insn);
		return;
	case INTERCEPT_INVLPG:
		leave_if(cpu, primary & CPU_INVLPG_EXITING, EXIT_REASON_INVLPG, info, insn);
		return;
	case INTERCEPT_INVPCID:
		invpcid(cpu, insn);
		return;
	case INTERCEPT_MWAIT:
		leave_if(cpu, primary & CPU_MWAIT_EXITING, EXIT_REASON_MWAIT, cpu->monitor_address != 0,
		         insn);
		return;
	case INTERCEPT_MONITOR:
		leave_if(cpu, primary & CPU_MONITOR_EXITING, EXIT_REASON_MONITOR, 0, insn);
		return;
	case INTERCEPT_PAUSE:
		pause_loop(cpu, insn);
		return;
	case INTERCEPT_RDPMC:
		leave_if(cpu, primary & CPU_RDPMC_EXITING, EXIT_REASON_RDPMC, 0, insn);
		return;
	case INTERCEPT_RDTSC:
		leave_if(cpu, primary & CPU_RDTSC_EXITING, EXIT_REASON_RDTSC, 0, insn);
		return;
	case INTERCEPT_RDTSCP:
		if (!(secondary & CPU2_ENABLE_RDTSCP))
			cpu_raise(cpu, VECTOR_UD);
		leave_if(cpu, primary & CPU_RDTSC_EXITING, EXIT_REASON_RDTSCP, 0, insn);
		return;
	case INTERCEPT_WBINVD:
		leave_if(cpu, secondary & CPU2_WBINVD_EXITING, EXIT_REASON_WBINVD, 0, insn);
		return;
	case INTERCEPT_RDRAND:
		random_number(cpu, secondary & CPU2_RDRAND_EXITING, EXIT_REASON_RDRAND, insn);
		return;
	case INTERCEPT_RDSEED:
		random_number(cpu, secondary & CPU2_RDSEED_EXITING, EXIT_REASON_RDSEED, insn);
		return;
	case INTERCEPT_XSAVES:
		xsaves(cpu, EXIT_REASON_XSAVES, insn);
		return;
	case INTERCEPT_XRSTORS:
		xsaves(cpu, EXIT_REASON_XRSTORS, insn);
		return;
	case INTERCEPT_SGDT:
	case INTERCEPT_SIDT:
	case INTERCEPT_LGDT:
	case INTERCEPT_LIDT:
		descriptor_table(cpu, info, false, insn);
		return;
	case INTERCEPT_SLDT:
	case INTERCEPT_STR:
	case INTERCEPT_LLDT:
	case INTERCEPT_LTR:
		descriptor_table(cpu, info, true, insn);
		return;
	case INTERCEPT_RDMSR:
		leave_if(cpu, msr_exits(cpu, info, false), EXIT_REASON_RDMSR, 0, insn);
		return;
	case INTERCEPT_WRMSR:
		leave_if(cpu, msr_exits(cpu, info, true), EXIT_REASON_WRMSR, 0, insn);
		return;
	case INTERCEPT_MOV_FROM_DR:
		leave_if(cpu, primary & CPU_MOV_DR_EXITING, EXIT_REASON_MOV_DR,
		         dr_qualification(info, true, insn), insn);
		return;
	case INTERCEPT_MOV_TO_DR:
		leave_if(cpu, primary & CPU_MOV_DR_EXITING, EXIT_REASON_MOV_DR,
		         dr_qualification(info, false, insn), insn);
		return;
	case INTERCEPT_IO:
		io(cpu, info, insn);
		return;
	case INTERCEPT_RSM: /* #UD outside SMM, as everywhere */
		return;
	}
}

/* ---- control registers (SDM, Guest/Host Masks and Read Shadows for CR0 and CR4) ---- */

static _Noreturn void leave_cr(struct cpu *cpu, unsigned cr, unsigned access, uint64_t source,
                               const struct insn *insn)
{
	struct vmx_exit_record record = {
	    .reason = EXIT_REASON_CR_ACCESS,
	    .qualification = cr | access << 4,
	    .instruction_length = length_of(cpu, insn),
	};

	if (access <= CR_MOV_FROM && insn)
		record.qualification |= (uint64_t)insn->rm << 8;
	if (access == 3) {
		record.qualification |= (source & 0xffff) << 16;
		if (insn && insn->is_memory) {
			record.qualification |= CR_LMSW_MEMORY;
			record.guest_linear = linear(cpu, insn->segment, operand_offset(cpu, insn));
		}
	}
	vmx_exit_full(cpu, &record);
}

/* Bits that VMX operation fixes to 1 in CR0; an unrestricted guest may clear PE and PG. */
static uint64_t cr0_fixed(struct cpu *cpu)
{
	uint64_t fixed = cpu->cr0_must_set;

	if (vmx_runtime(cpu)->secondary & CPU2_UNRESTRICTED_GUEST)
		fixed &= ~(uint64_t)(CR0_PE | CR0_PG);
	return fixed;
}

static uint64_t write_cr0(struct cpu *cpu, unsigned access, uint64_t value, const struct insn *insn)
{
	uint64_t mask = running(cpu, VMCS_CR0_GUEST_HOST_MASK), shadow = running(cpu, VMCS_CR0_READ_SHADOW);
	uint64_t changed, result;

	switch (access) {
	case 2: /* CLTS: exits where the mask owns TS and the guest sees it set */
		if (mask & shadow & CR0_TS)
			leave_cr(cpu, 0, access, 0, insn);
		value = cpu->cr0 & ~(uint64_t)CR0_TS;
		break;
	case 3: /* LMSW: PE can only be set */
		changed = (value ^ shadow) & mask & (CR0_MP | CR0_EM | CR0_TS);
		changed |= value & ~shadow & mask & CR0_PE;
		if (changed)
			leave_cr(cpu, 0, access, value, insn);
		value = (cpu->cr0 & ~0xeull) | (value & 0xf);
		break;
	default:
		if ((value ^ shadow) & mask)
			leave_cr(cpu, 0, access, 0, insn);
		break;
	}
	result = (value & ~mask) | (cpu->cr0 & mask);
	if (~result & cr0_fixed(cpu))
		cpu_raise_error(cpu, VECTOR_GP, 0);
	return result;
}

static uint64_t write_cr4(struct cpu *cpu, uint64_t value, const struct insn *insn)
{
	uint64_t mask = running(cpu, VMCS_CR4_GUEST_HOST_MASK), result;

	if ((value ^ running(cpu, VMCS_CR4_READ_SHADOW)) & mask)
		leave_cr(cpu, 4, 0, 0, insn);
	result = (value & ~mask) | (cpu->cr4 & mask);
	if (~result & cpu->cr4_must_set)
		cpu_raise_error(cpu, VECTOR_GP, 0);
	return result;
}

static bool is_cr3_target(struct cpu *cpu, uint64_t value)
{
	uint64_t count = running(cpu, VMCS_CR3_TARGET_COUNT);

	for (unsigned i = 0; i < count && i < VMX_MISC_CR3_TARGETS; i++)
		if (running(cpu, VMCS_CR3_TARGET_VALUE_0 + i) == value)
			return true;
	return false;
}

static uint64_t write_cr(struct cpu *cpu, unsigned cr, unsigned access, uint64_t value,
                         const struct insn *insn)
{
	uint32_t primary = vmx_runtime(cpu)->primary;

	switch (cr) {
	case 0:
		return write_cr0(cpu, access, value, insn);
	case 3:
		if ((primary & CPU_CR3_LOAD_EXITING) && !is_cr3_target(cpu, value))
			leave_cr(cpu, 3, access, 0, insn);
		return value;
	case 4:
		return write_cr4(cpu, value, insn);
	default:
		if (primary & CPU_CR8_LOAD_EXITING)
			leave_cr(cpu, 8, access, 0, insn);
		if (!(primary & CPU_USE_TPR_SHADOW))
			return value;
		if (value >> 4) /* reserved bits fault before anything is written */
			cpu_raise_error(cpu, VECTOR_GP, 0);
		vmx_set_virtual_tpr(cpu, value << 4);
		return apic_cr8(cpu);
	}
}

static uint64_t through_shadow(uint64_t real, uint64_t mask, uint64_t shadow)
{
	return (real & ~mask) | (shadow & mask);
}

static uint64_t read_cr(struct cpu *cpu, unsigned cr, const struct insn *insn)
{
	uint32_t primary = vmx_runtime(cpu)->primary;

	switch (cr) {
	case 0:
		return through_shadow(cpu->cr0, running(cpu, VMCS_CR0_GUEST_HOST_MASK),
		                      running(cpu, VMCS_CR0_READ_SHADOW));
	case 3:
		if (primary & CPU_CR3_STORE_EXITING)
			leave_cr(cpu, 3, CR_MOV_FROM, 0, insn);
		return cpu->cr3;
	case 4:
		return through_shadow(cpu->cr4, running(cpu, VMCS_CR4_GUEST_HOST_MASK),
		                      running(cpu, VMCS_CR4_READ_SHADOW));
	default:
		if (primary & CPU_CR8_STORE_EXITING)
			leave_cr(cpu, 8, CR_MOV_FROM, 0, insn);
		return primary & CPU_USE_TPR_SHADOW ? vmx_virtual_tpr(cpu) >> 4 : apic_cr8(cpu);
	}
}

/* ---- time ---- */

/* SDM, Timestamp Counter (scaling by a 48-bit fraction, then the offset). */
static uint64_t guest_tsc(struct cpu *cpu, uint64_t tsc)
{
	const struct vmx_runtime *rt = vmx_runtime(cpu);

	if (rt->tsc_multiplier)
		tsc = (uint64_t)((unsigned __int128)tsc * rt->tsc_multiplier >> 48);
	return tsc + rt->tsc_offset;
}

const struct virt_hooks vmx_hooks = {
    .instruction = instruction,
    .write_cr = write_cr,
    .read_cr = read_cr,
    .event = vmx_event,
    .external_interrupt = vmx_external_interrupt,
    .triple_fault = vmx_triple_fault,
    .init_signal = vmx_init_signal,
    .sipi = vmx_sipi,
    .poll_high = vmx_poll_high,
    .poll_timer = vmx_poll_timer,
    .poll_nmi_window = vmx_poll_nmi_window,
    .poll_interrupt_window = vmx_poll_interrupt_window,
    .wakeup = vmx_wakeup,
    .translate = vmx_translate,
    .peek = vmx_peek,
    .probe = vmx_probe,
    .apic_access = vmx_apic_access,
    .read_msr = vmx_virtual_read_msr,
    .write_msr = vmx_virtual_write_msr,
    .guest_tsc = guest_tsc,
    .iret = vmx_iret,
};

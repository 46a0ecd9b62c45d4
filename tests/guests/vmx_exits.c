/*
 * Every exit reason that an instruction can cause, once: reason, qualification, instruction length and
 * information, guest-linear address (SDM, Instructions That Cause VM Exits; Exit Qualification; VM-Exit
 * Instruction Information); and that the same instruction does not exit where its control is 0.
 */
#include "runtime/guest.h"
#include "vmx.h"

#define STUB(name, text) L2(name, text "\n\tvmcall")

STUB(s_cpuid, "cpuid");
STUB(s_hlt, "hlt");
STUB(s_invd, "invd");
STUB(s_invlpg, "invlpg 0x1000(%rbx)");
STUB(s_invpcid, "invpcid (%rbx), %rax");
STUB(s_rdpmc, "rdpmc");
STUB(s_rdtsc, "rdtsc");
STUB(s_rdtscp, "rdtscp");
STUB(s_vmcall, "vmcall");
STUB(s_vmclear, "vmclear 8(%rbx, %rcx, 4)");
STUB(s_vmlaunch, "vmlaunch");
STUB(s_vmptrld, "vmptrld -16(%rsp)");
STUB(s_vmptrst, "vmptrst s_vmptrst + 0x400");
STUB(s_vmread_r, "vmread %rax, %r11");
STUB(s_vmread_m, "vmread %rdx, %fs:0x10(%rbx)");
STUB(s_vmresume, "vmresume");
STUB(s_vmwrite_r, "vmwrite %r9, %rsi");
STUB(s_vmwrite_m, "vmwrite (%r8, %r15, 8), %rax");
STUB(s_vmxoff, "vmxoff");
STUB(s_vmxon, "vmxon (%rbx)");
STUB(s_invept, "invept (%rdi), %r10");
STUB(s_invvpid, "invvpid 0x20(%ebx), %rcx");
STUB(s_mwait, "mwait");
STUB(s_monitor, "monitor");
STUB(s_pause, "pause");
STUB(s_wbinvd, "wbinvd");
STUB(s_xsetbv, "xsetbv");
STUB(s_rdrand, "rdrand %r12");
STUB(s_rdrand16, "rdrand %bx");
STUB(s_rdseed, "rdseed %ecx");
STUB(s_sgdt, "sgdt 0x30(%rbx)");
STUB(s_sidt, "sidt (%rbx)");
STUB(s_lgdt, "lgdt (%rbx)");
STUB(s_lidt, "lidt %gs:(%rbx)");
STUB(s_sldt_r, "sldt %eax");
STUB(s_str_m, "str 4(%rbx)");
STUB(s_lldt_m, "lldt (%rbx)");
STUB(s_ltr_r, "ltr %cx");
STUB(s_rdmsr, "rdmsr");
STUB(s_wrmsr, "wrmsr");
STUB(s_to_dr3, "mov %rax, %db3");
STUB(s_from_dr7, "mov %db7, %rcx");
STUB(s_to_dr6_r9, "mov %r9, %db6");
STUB(s_in_imm, "in $0x60, %al");
STUB(s_out_dx, "out %eax, %dx");
STUB(s_rep_insb, "rep insb");
STUB(s_outsw, "outsw");
STUB(s_outsb_fs, "outsb %fs:(%rsi), %dx");
STUB(s_rep_outsl_32, "rep outsl %ds:(%esi), %dx");

/* The fields of the memory operand (SDM's tables for VMCLEAR, INVEPT … agree on them). */
#define MEMORY(scale, index, base, segment, reg2)                                                            \
	((scale) | 2u << 7 | (segment) << 15 | ((index) == NO ? 1u << 22 : (index) << 18) |                  \
	 ((base) == NO ? 1u << 27 : (base) << 23) | (uint32_t)(reg2) << 28)
#define NO                 16u
#define REGISTER(rm, reg2) ((rm) << 3 | 1u << 10 | (uint32_t)(reg2) << 28)
/* Fields that the form defines: not scale and index where there is no index, nor a memory operand's
 * register 1. */
#define MASK_NO_INDEX 0xffc38780u
#define MASK_INDEX    0xffff8783u
#define MASK_REGISTER 0xf0000478u
#define DS            3u
#define SS            2u

struct row {
	const char *name;
	const uint8_t *code;
	uint32_t primary, secondary, reason, length;
	uint64_t qualification;
	uint32_t information, mask;
	bool always;               /* exits without any control */
	uint32_t secondary_needed; /* also where it shall not exit */
	uint64_t rax, rcx, rdx;
};

#define P(bit)                 .primary = CPU_##bit
#define S(bit)                 .secondary = CPU2_##bit
#define R(reason_, length_)    .reason = EXIT_REASON_##reason_, .length = (length_)
#define I(information_, mask_) .information = (information_), .mask = (mask_)

static const struct row rows[] = {
    {"CPUID", s_cpuid, R(CPUID, 2), .always = true},
    {"HLT", s_hlt, P(HLT_EXITING), R(HLT, 1), .always = false},
    {"INVD", s_invd, R(INVD, 2), .always = true},
    {"INVLPG", s_invlpg, P(INVLPG_EXITING), R(INVLPG, 7), .qualification = 0x1000},
    {"INVPCID", s_invpcid, P(INVLPG_EXITING), S(ENABLE_INVPCID), R(INVPCID, 5),
     .secondary_needed = CPU2_ENABLE_INVPCID, I(MEMORY(0, NO, RBX, DS, RAX), MASK_NO_INDEX), .rax = 2},
    {"RDPMC", s_rdpmc, P(RDPMC_EXITING), R(RDPMC, 2)},
    {"RDTSC", s_rdtsc, P(RDTSC_EXITING), R(RDTSC, 2)},
    {"RDTSCP", s_rdtscp, P(RDTSC_EXITING), S(ENABLE_RDTSCP), R(RDTSCP, 3),
     .secondary_needed = CPU2_ENABLE_RDTSCP},
    {"VMCALL", s_vmcall, R(VMCALL, 3), .always = true},
    {"VMCLEAR", s_vmclear, R(VMCLEAR, 6), .qualification = 8,
     I(MEMORY(2, RCX, RBX, DS, 0), MASK_INDEX & 0xfffffffu), .always = true},
    {"VMLAUNCH", s_vmlaunch, R(VMLAUNCH, 3), .always = true},
    {"VMPTRLD", s_vmptrld, R(VMPTRLD, 5), .qualification = -16ull,
     I(MEMORY(0, NO, RSP, SS, 0), MASK_NO_INDEX & 0xfffffffu), .always = true},
    {"VMPTRST absolute", s_vmptrst, R(VMPTRST, 8), I(MEMORY(0, NO, NO, DS, 0), 0x08438780u), .always = true,
     .qualification = 1 /* filled in at run time */},
    {"VMREAD to a register", s_vmread_r, R(VMREAD, 4), I(REGISTER(R11, RAX), MASK_REGISTER), .always = true},
    {"VMREAD to memory", s_vmread_m, R(VMREAD, 5), .qualification = 0x10,
     I(MEMORY(0, NO, RBX, 4u, RDX), MASK_NO_INDEX), .always = true},
    {"VMRESUME", s_vmresume, R(VMRESUME, 3), .always = true},
    {"VMWRITE from a register", s_vmwrite_r, R(VMWRITE, 4), I(REGISTER(R9, RSI), MASK_REGISTER),
     .always = true},
    {"VMWRITE from memory", s_vmwrite_m, R(VMWRITE, 5), I(MEMORY(3, R15, R8, DS, RAX), MASK_INDEX),
     .always = true},
    {"VMXOFF", s_vmxoff, R(VMXOFF, 3), .always = true},
    {"VMXON", s_vmxon, R(VMXON, 4), I(MEMORY(0, NO, RBX, DS, 0), MASK_NO_INDEX & 0xfffffffu), .always = true},
    {"INVEPT", s_invept, R(INVEPT, 6), I(MEMORY(0, NO, RDI, DS, R10), MASK_NO_INDEX), .always = true},
    {"INVVPID, 32-bit address", s_invvpid, R(INVVPID, 7), .qualification = 0x20,
     I((MEMORY(0, NO, RBX, DS, RCX) & ~(7u << 7)) | 1u << 7, MASK_NO_INDEX), .always = true},
    {"MWAIT", s_mwait, P(MWAIT_EXITING), R(MWAIT, 3)},
    {"MONITOR", s_monitor, P(MONITOR_EXITING), R(MONITOR, 3)},
    {"PAUSE", s_pause, P(PAUSE_EXITING), R(PAUSE, 2)},
    {"WBINVD", s_wbinvd, S(WBINVD_EXITING), R(WBINVD, 2)},
    {"XSETBV", s_xsetbv, R(XSETBV, 3), .always = true},
    {"RDRAND", s_rdrand, S(RDRAND_EXITING), R(RDRAND, 4), I(R12 << 3 | 2 << 11, 0x1878)},
    {"RDRAND, 16 bits", s_rdrand16, S(RDRAND_EXITING), R(RDRAND, 4), I(RBX << 3, 0x1878)},
    {"RDSEED", s_rdseed, S(RDSEED_EXITING), R(RDSEED, 3), I(RCX << 3 | 1 << 11, 0x1878)},
    {"SGDT", s_sgdt, S(DESCRIPTOR_TABLE_EXITING), R(GDTR_IDTR, 4), .qualification = 0x30,
     I(MEMORY(0, NO, RBX, DS, 0), (MASK_NO_INDEX & 0x3fffffffu))},
    {"SIDT", s_sidt, S(DESCRIPTOR_TABLE_EXITING), R(GDTR_IDTR, 3),
     I(MEMORY(0, NO, RBX, DS, 1), MASK_NO_INDEX & 0x3fffffffu)},
    {"LGDT", s_lgdt, S(DESCRIPTOR_TABLE_EXITING), R(GDTR_IDTR, 3),
     I(MEMORY(0, NO, RBX, DS, 2), MASK_NO_INDEX & 0x3fffffffu)},
    {"LIDT", s_lidt, S(DESCRIPTOR_TABLE_EXITING), R(GDTR_IDTR, 4),
     I(MEMORY(0, NO, RBX, 5u, 3), MASK_NO_INDEX & 0x3fffffffu)},
    {"SLDT to a register", s_sldt_r, S(DESCRIPTOR_TABLE_EXITING), R(LDTR_TR, 3),
     I(REGISTER(RAX, 0), 0x30000478)},
    {"STR to memory", s_str_m, S(DESCRIPTOR_TABLE_EXITING), R(LDTR_TR, 4), .qualification = 4,
     I(MEMORY(0, NO, RBX, DS, 1), MASK_NO_INDEX & 0x3fffffffu)},
    {"LLDT from memory", s_lldt_m, S(DESCRIPTOR_TABLE_EXITING), R(LDTR_TR, 3),
     I(MEMORY(0, NO, RBX, DS, 2), MASK_NO_INDEX & 0x3fffffffu)},
    {"LTR from a register", s_ltr_r, S(DESCRIPTOR_TABLE_EXITING), R(LDTR_TR, 3),
     I(REGISTER(RCX, 3), 0x30000478), .rcx = OWN},
    {"MOV to DR3", s_to_dr3, P(MOV_DR_EXITING), R(MOV_DR, 3), .qualification = 3},
    {"MOV from DR7", s_from_dr7, P(MOV_DR_EXITING), R(MOV_DR, 3), .qualification = 7 | 1 << 4 | RCX << 8},
    {"MOV to DR6 from R9", s_to_dr6_r9, P(MOV_DR_EXITING), R(MOV_DR, 4), .qualification = 6 | R9 << 8},
    {"IN imm8", s_in_imm, P(UNCONDITIONAL_IO_EXITING), R(IO_INSTRUCTION, 2),
     .qualification = 1 << 3 | 1 << 6 | 0x60 << 16},
    {"OUT DX", s_out_dx, P(UNCONDITIONAL_IO_EXITING), R(IO_INSTRUCTION, 1),
     .qualification = 3 | 0x1234ull << 16, .rdx = 0x1234},
    {"REP INSB", s_rep_insb, P(UNCONDITIONAL_IO_EXITING), R(IO_INSTRUCTION, 2),
     .qualification = 1 << 3 | 1 << 4 | 1 << 5 | 0x81ull << 16, I(2 << 7, 7 << 7), .rdx = 0x81, .rcx = 3},
    {"OUTSW", s_outsw, P(UNCONDITIONAL_IO_EXITING), R(IO_INSTRUCTION, 2),
     .qualification = 1 | 1 << 4 | 0x80ull << 16, I(2 << 7 | DS << 15, 0x38380), .rdx = 0x80},
    {"OUTSB FS", s_outsb_fs, P(UNCONDITIONAL_IO_EXITING), R(IO_INSTRUCTION, 2),
     .qualification = 1 << 4 | 0x80ull << 16, I(2 << 7 | 4 << 15, 0x38380), .rdx = 0x80},
    {"REP OUTSD, 32-bit address", s_rep_outsl_32, P(UNCONDITIONAL_IO_EXITING), R(IO_INSTRUCTION, 3),
     .qualification = 3 | 1 << 4 | 1 << 5 | 0x80ull << 16, I(1 << 7 | DS << 15, 0x38380), .rdx = 0x80,
     .rcx = 1},
};

static void load_registers(const struct row *row)
{
	vmwrite(GUEST_CR4, read_cr4() | 1 << 18);
	vmwrite(CR4_READ_SHADOW, read_cr4() | 1 << 18);
	l2[RAX] = row->rax;
	l2[RCX] = row->rcx;
	l2[RDX] = row->rdx;
	l2[RBX] = (uint64_t)l2_page[0];
	l2[RSI] = (uint64_t)l2_page[1];
	l2[RDI] = (uint64_t)l2_page[2];
	vmwrite(GUEST_FS_BASE, 0x100);
}

static uint32_t run_row(const struct row *row, uint32_t primary, uint32_t secondary)
{
	vmx_fresh(row->code);
	load_registers(row);
	if (primary & CPU_UNCONDITIONAL_IO_EXITING)
		vmx_clear(PRIMARY_PROCESSOR_CONTROLS, CPU_USE_IO_BITMAPS);
	vmx_set(PRIMARY_PROCESSOR_CONTROLS, primary);
	if (secondary)
		vmx_secondary(secondary);
	return vmx_run();
}

static uint64_t expected_linear(const struct row *row)
{
	if (row->code == s_rep_insb)
		return (uint64_t)l2_page[2];
	if (row->code == s_outsw || row->code == s_rep_outsl_32)
		return (uint64_t)l2_page[1];
	return (uint64_t)l2_page[1] + 0x100;
}

static void check_row(const struct row *row)
{
	uint64_t qualification = row->qualification;

	rule(row->name);
	if (!vmx_offers(MSR_IA32_VMX_TRUE_PROCBASED_CTLS, row->primary) ||
	    !vmx_offers(MSR_IA32_VMX_PROCBASED_CTLS2, row->secondary | row->secondary_needed)) {
		print("%s: control not offered\n", row->name);
		return;
	}
	if (row->code == s_invlpg)
		qualification += (uint64_t)l2_page[0];
	if (row->code == s_vmptrst)
		qualification = (uint64_t)s_vmptrst + 0x400;
	CHECK_EQ(run_row(row, row->primary, row->secondary), row->reason);
	CHECK_EQ(vmread(GUEST_RIP), (uint64_t)row->code);
	CHECK_EQ(vmread(VM_EXIT_INSTRUCTION_LENGTH), row->length);
	CHECK_EQ(vmread(EXIT_QUALIFICATION), qualification);
	CHECK_EQ(vmread(IDT_VECTORING_INFORMATION) >> 31, 0);
	if (row->mask)
		CHECK_EQ(vmread(VM_EXIT_INSTRUCTION_INFORMATION) & row->mask, row->information & row->mask);
	if (row->reason == EXIT_REASON_IO_INSTRUCTION && qualification & 1 << 4)
		CHECK_EQ(vmread(GUEST_LINEAR_ADDRESS), expected_linear(row));
	if (!row->always && row->code != s_hlt && row->code != s_rdpmc && row->code != s_ltr_r &&
	    row->code != s_lgdt && row->code != s_lidt) {
		CHECK_EQ(run_row(row, 0, row->secondary_needed), EXIT_REASON_VMCALL);
		CHECK_EQ(vmread(GUEST_RIP), (uint64_t)row->code + row->length);
	}
}

/* ---- what is #UD rather than an exit ---- */

L2(ud_rdtscp, "rdtscp\n\tvmcall");
L2(ud_invpcid, "invpcid (%rbx), %rax\n\tvmcall");
L2(ud_xsaves, "xsaves (%rbx)\n\tvmcall");
L2(ud_xrstors, "xrstors (%rbx)\n\tvmcall");
L2(ud_vmfunc, "vmfunc\n\tvmcall");
L2(ud_rsm, "rsm\n\tvmcall");
L2(ud_getsec, ".byte 0x0f, 0x37\n\tvmcall");
L2(ud_vmxon_r, ".byte 0xf3, 0x0f, 0xc7, 0xf0\n\tvmcall");

static void undefined_instructions(void)
{
	static const struct {
		const char *name;
		const uint8_t *code;
	} stub[] = {
	    {"RDTSCP without its control", ud_rdtscp}, {"INVPCID without its control", ud_invpcid},
	    {"XSAVES without its control", ud_xsaves}, {"XRSTORS without its control", ud_xrstors},
	    {"VMFUNC without its control", ud_vmfunc}, {"RSM outside SMM", ud_rsm},
	    {"GETSEC without CR4.SMXE", ud_getsec},
	};

	for (unsigned i = 0; i < sizeof(stub) / sizeof(stub[0]); i++) {
		rule(stub[i].name);
		vmx_fresh(stub[i].code);
		vmwrite(GUEST_CR4, read_cr4() | 1 << 18);
		l2[RBX] = (uint64_t)l2_page[0];
		/* INVLPG and RDTSC exiting do not come before the #UD. */
		vmx_set(PRIMARY_PROCESSOR_CONTROLS, CPU_RDTSC_EXITING | CPU_INVLPG_EXITING);
		CHECK(l2_took(vmx_run(), 6));
	}
}

/* SDM, Relative Priority of Faults and VM Exits: privilege comes before the exit, but not for VMX
 * instructions. */
L2(user_cpuid, "cpuid\n\tvmcall");
L2(user_hlt, "hlt\n\tvmcall");
L2(user_vmread, "vmread %rax, %rcx\n\tvmcall");
L2(user_vmxon, "vmxon (%rbx)\n\tvmcall");
L2(user_xsetbv, "xsetbv\n\tvmcall");
L2(user_invd, "invd\n\tvmcall");
L2(user_rdmsr, "rdmsr\n\tvmcall");
L2(user_in, "in %dx, %al\n\tvmcall");
L2(user_cr3, "mov %cr3, %rax\n\tvmcall");

static void priorities(void)
{
	static const struct {
		const char *name;
		const uint8_t *code;
		uint32_t reason;
	} stub[] = {
	    {"CPUID at CPL 3 exits", user_cpuid, EXIT_REASON_CPUID},
	    {"HLT at CPL 3 is #GP", user_hlt, 0},
	    {"VMREAD at CPL 3 exits", user_vmread, EXIT_REASON_VMREAD},
	    {"VMXON at CPL 3 exits", user_vmxon, EXIT_REASON_VMXON},
	    {"XSETBV at CPL 3 is #GP", user_xsetbv, 0},
	    {"INVD at CPL 3 is #GP", user_invd, 0},
	    {"RDMSR at CPL 3 is #GP", user_rdmsr, 0},
	    {"IN at CPL 3 is #GP", user_in, 0},
	    {"MOV from CR3 at CPL 3 is #GP", user_cr3, 0},
	};

	for (unsigned i = 0; i < sizeof(stub) / sizeof(stub[0]); i++) {
		uint32_t reason;

		rule(stub[i].name);
		vmx_fresh(stub[i].code);
		vmx_user();
		vmwrite(GUEST_CR4, read_cr4() | 1 << 18);
		vmx_clear(PRIMARY_PROCESSOR_CONTROLS, CPU_USE_IO_BITMAPS | CPU_USE_MSR_BITMAPS);
		vmx_set(PRIMARY_PROCESSOR_CONTROLS,
		        CPU_HLT_EXITING | CPU_UNCONDITIONAL_IO_EXITING | CPU_CR3_STORE_EXITING);
		reason = vmx_run();
		if (stub[i].reason)
			CHECK_EQ(reason, stub[i].reason);
		else
			CHECK(l2_took(reason, 13));
	}
}

/* ---- control registers ---- */

L2(cr0_write, "mov %rax, %cr0\n\tmov %cr0, %rbx\n\tvmcall");
L2(cr4_write, "mov %r13, %cr4\n\tmov %cr4, %rbx\n\tvmcall");
L2(cr3_write, "mov %rcx, %cr3\n\tvmcall");
L2(cr3_read, "mov %cr3, %rdx\n\tvmcall");
L2(cr8_write, "mov %r9, %cr8\n\tvmcall");
L2(cr8_read, "mov %cr8, %r10\n\tvmcall");
L2(clts_stub, "clts\n\tmov %cr0, %rbx\n\tvmcall");
L2(lmsw_r, "lmsw %ax\n\tmov %cr0, %rbx\n\tvmcall");
L2(lmsw_m, "lmsw 6(%rcx)\n\tmov %cr0, %rbx\n\tvmcall");
L2(smsw_r, "smsw %rbx\n\tvmcall");

#define CR0_MP_ 2ull
#define CR0_TS_ 8ull

static void cr_exit(uint64_t qualification, unsigned length)
{
	CHECK_EQ(vmx_run(), EXIT_REASON_CR_ACCESS);
	CHECK_EQ(vmread(EXIT_QUALIFICATION), qualification);
	CHECK_EQ(vmread(VM_EXIT_INSTRUCTION_LENGTH), length);
}

static void control_registers(void)
{
	uint64_t cr0 = read_cr0(), cr4 = read_cr4();

	rule("MOV to CR0: a masked bit that differs from the shadow exits");
	vmx_fresh(cr0_write);
	vmwrite(CR0_GUEST_HOST_MASK, CR0_TS_);
	l2[RAX] = cr0 ^ CR0_TS_;
	cr_exit(0, 3);
	CHECK_EQ(vmread(GUEST_CR0), cr0);

	rule("MOV to CR0: unmasked bits are the guest's; masked ones read from the shadow");
	vmx_fresh(cr0_write);
	vmwrite(CR0_GUEST_HOST_MASK, CR0_TS_);
	vmwrite(CR0_READ_SHADOW, cr0 | CR0_TS_);
	l2[RAX] = (cr0 | CR0_TS_) ^ CR0_MP_;
	CHECK_EQ(vmx_run(), EXIT_REASON_VMCALL);
	CHECK_EQ(l2[RBX], (cr0 | CR0_TS_) ^ CR0_MP_);
	CHECK_EQ(vmread(GUEST_CR0), cr0 ^ CR0_MP_);

	rule("MOV to CR0 that clears a fixed bit is #GP");
	vmx_fresh(cr0_write);
	l2[RAX] = cr0 & ~0x20ull; /* NE */
	CHECK(l2_took(vmx_run(), 13));

	rule("MOV to CR4: masked bit");
	vmx_fresh(cr4_write);
	vmwrite(CR4_GUEST_HOST_MASK, 1 << 13);
	vmwrite(CR4_READ_SHADOW, cr4 & ~(1ull << 13));
	l2[R13] = cr4;
	cr_exit(4 | R13 << 8, 4);

	rule("MOV to CR4: VMXE is the host's, the shadow shows it clear");
	vmx_fresh(cr4_write);
	vmwrite(CR4_GUEST_HOST_MASK, 1 << 13);
	vmwrite(CR4_READ_SHADOW, cr4 & ~(1ull << 13));
	l2[R13] = (cr4 & ~(1ull << 13)) | 4;
	CHECK_EQ(vmx_run(), EXIT_REASON_VMCALL);
	CHECK_EQ(l2[RBX], (cr4 & ~(1ull << 13)) | 4);
	CHECK_EQ(vmread(GUEST_CR4), cr4 | 4);

	rule("MOV to CR4 that clears VMXE itself is #GP");
	vmx_fresh(cr4_write);
	l2[R13] = cr4 & ~(1ull << 13);
	CHECK(l2_took(vmx_run(), 13));

	rule("CR3-load exiting");
	vmx_fresh(cr3_write);
	vmx_set(PRIMARY_PROCESSOR_CONTROLS, CPU_CR3_LOAD_EXITING);
	l2[RCX] = (uint64_t)l2_pml4;
	cr_exit(3 | RCX << 8, 3);

	rule("CR3-target values do not exit, as many as the count says");
	for (unsigned target = 0; target < 4; target++) {
		vmx_fresh(cr3_write);
		vmx_set(PRIMARY_PROCESSOR_CONTROLS, CPU_CR3_LOAD_EXITING);
		l2[RCX] = (uint64_t)l2_pml4;
		vmwrite(CR3_TARGET_VALUE_0 + 2 * target, (uint64_t)l2_pml4);
		vmwrite(CR3_TARGET_COUNT, target + 1);
		CHECK_EQ(vmx_run(), EXIT_REASON_VMCALL);
		vmwrite(GUEST_RIP, (uint64_t)cr3_write);
		vmwrite(CR3_TARGET_COUNT, target);
		cr_exit(3 | RCX << 8, 3);
	}

	rule("CR3-store exiting");
	vmx_fresh(cr3_read);
	vmx_set(PRIMARY_PROCESSOR_CONTROLS, CPU_CR3_STORE_EXITING);
	cr_exit(3 | 1 << 4 | RDX << 8, 3);

	rule("CR8-load and CR8-store exiting");
	vmx_fresh(cr8_write);
	vmx_set(PRIMARY_PROCESSOR_CONTROLS, CPU_CR8_LOAD_EXITING);
	cr_exit(8 | R9 << 8, 4);
	vmx_fresh(cr8_read);
	vmx_set(PRIMARY_PROCESSOR_CONTROLS, CPU_CR8_STORE_EXITING);
	cr_exit(8 | 1 << 4 | R10 << 8, 4);

	rule("CLTS exits where mask and shadow have TS");
	vmx_fresh(clts_stub);
	vmwrite(CR0_GUEST_HOST_MASK, CR0_TS_);
	vmwrite(CR0_READ_SHADOW, cr0 | CR0_TS_);
	cr_exit(2 << 4, 2);

	rule("CLTS with TS clear in the shadow leaves the host's TS alone");
	vmx_fresh(clts_stub);
	vmwrite(CR0_GUEST_HOST_MASK, CR0_TS_);
	vmwrite(GUEST_CR0, cr0 | CR0_TS_);
	CHECK_EQ(vmx_run(), EXIT_REASON_VMCALL);
	CHECK_EQ(vmread(GUEST_CR0), cr0 | CR0_TS_);
	CHECK_EQ(l2[RBX], cr0);

	rule("CLTS with TS the guest's clears it");
	vmx_fresh(clts_stub);
	vmwrite(GUEST_CR0, cr0 | CR0_TS_);
	CHECK_EQ(vmx_run(), EXIT_REASON_VMCALL);
	CHECK_EQ(vmread(GUEST_CR0), cr0);

	rule("LMSW from a register exits with its source");
	vmx_fresh(lmsw_r);
	vmwrite(CR0_GUEST_HOST_MASK, CR0_TS_);
	l2[RAX] = 0xabcb;
	cr_exit(3 << 4 | 0xabcbull << 16, 3);

	rule("LMSW from memory exits with its operand's address");
	vmx_fresh(lmsw_m);
	vmwrite(CR0_GUEST_HOST_MASK, CR0_MP_);
	l2[RCX] = (uint64_t)l2_page[0];
	l2_page[0][6] = 1;
	cr_exit(3 << 4 | 1 << 6 | 1ull << 16, 4);
	CHECK_EQ(vmread(GUEST_LINEAR_ADDRESS), (uint64_t)l2_page[0] + 6);

	rule("LMSW heeds only PE, MP, EM and TS; PE only when it is set");
	vmx_fresh(lmsw_r);
	vmwrite(CR0_GUEST_HOST_MASK, ~0xeull);
	l2[RAX] = 0xffc2;
	CHECK_EQ(vmx_run(), EXIT_REASON_VMCALL);
	CHECK_EQ(l2[RBX], cr0);

	rule("SMSW reads through the shadow");
	vmx_fresh(smsw_r);
	vmwrite(CR0_GUEST_HOST_MASK, CR0_TS_);
	vmwrite(CR0_READ_SHADOW, CR0_TS_);
	CHECK_EQ(vmx_run(), EXIT_REASON_VMCALL);
	CHECK_EQ(l2[RBX], cr0 | CR0_TS_);
}

/* ---- bitmaps ---- */

L2(out_byte, "out %al, %dx\n\tvmcall");
L2(out_long, "out %eax, %dx\n\tvmcall");
L2(rdmsr_stub, "rdmsr\n\tvmcall");
L2(wrmsr_stub, "wrmsr\n\tvmcall");

static uint32_t io_try(const uint8_t *code, unsigned port, unsigned bit)
{
	vmx_fresh(code);
	l2[RDX] = port;
	if (bit < 0x8000)
		io_bitmap_a[bit / 8] |= 1 << bit % 8;
	else if (bit < 0x10000)
		io_bitmap_b[(bit - 0x8000) / 8] |= 1 << bit % 8;
	return vmx_run();
}

static uint32_t msr_try(const uint8_t *code, uint32_t msr, unsigned part, uint64_t value)
{
	vmx_fresh(code);
	l2[RCX] = msr;
	l2[RAX] = (uint32_t)value;
	l2[RDX] = value >> 32;
	if (part < 4)
		msr_bitmap[part * 1024 + (msr & 0x1fff) / 8] |= 1 << (msr & 7);
	return vmx_run();
}

static void bitmaps(void)
{
	rule("I/O bitmaps: a set bit exits, a clear one does not");
	CHECK_EQ(io_try(out_byte, 0x80, 0x80), EXIT_REASON_IO_INSTRUCTION);
	CHECK_EQ(io_try(out_byte, 0x80, 0x81), EXIT_REASON_VMCALL);
	CHECK_EQ(io_try(out_byte, 0x8080, 0x8080), EXIT_REASON_IO_INSTRUCTION);
	CHECK_EQ(io_try(out_byte, 0x8080, 0x80), EXIT_REASON_VMCALL);
	CHECK_EQ(io_try(out_byte, 0x7fff, 0x7fff), EXIT_REASON_IO_INSTRUCTION);
	rule("I/O bitmaps: any of the ports accessed");
	CHECK_EQ(io_try(out_long, 0xe0, 0xe3), EXIT_REASON_IO_INSTRUCTION);
	CHECK_EQ(io_try(out_long, 0xe0, 0xe4), EXIT_REASON_VMCALL);
	CHECK_EQ(io_try(out_long, 0x7ffe, 0x8001), EXIT_REASON_IO_INSTRUCTION);
	rule("I/O bitmaps: an access that wraps around exits");
	CHECK_EQ(io_try(out_long, 0xfffe, 0x10000), EXIT_REASON_IO_INSTRUCTION);
	CHECK_EQ(vmread(EXIT_QUALIFICATION), 3 | 0xfffeull << 16);
	rule("I/O bitmaps rule over unconditional I/O exiting");
	vmx_fresh(out_byte);
	l2[RDX] = 0x80;
	vmx_set(PRIMARY_PROCESSOR_CONTROLS, CPU_UNCONDITIONAL_IO_EXITING);
	CHECK_EQ(vmx_run(), EXIT_REASON_VMCALL);

	rule("MSR bitmaps: reads and writes, low and high");
	CHECK_EQ(msr_try(rdmsr_stub, 0x174, 0, 0), EXIT_REASON_RDMSR);
	CHECK_EQ(vmread(VM_EXIT_INSTRUCTION_LENGTH), 2);
	CHECK_EQ(vmread(EXIT_QUALIFICATION), 0);
	CHECK_EQ(msr_try(rdmsr_stub, 0x174, 2, 0), EXIT_REASON_VMCALL);
	CHECK_EQ(msr_try(wrmsr_stub, 0x174, 2, 8), EXIT_REASON_WRMSR);
	CHECK_EQ(msr_try(wrmsr_stub, 0x174, 0, 8), EXIT_REASON_VMCALL);
	CHECK_EQ(vmread(GUEST_IA32_SYSENTER_CS), 8);
	CHECK_EQ(msr_try(rdmsr_stub, 0xc0000081, 1, 0), EXIT_REASON_RDMSR);
	CHECK_EQ(msr_try(rdmsr_stub, 0xc0000081, 0, 0), EXIT_REASON_VMCALL);
	CHECK_EQ(msr_try(wrmsr_stub, 0xc0000082, 3, 8), EXIT_REASON_WRMSR);
	CHECK_EQ(msr_try(wrmsr_stub, 0xc0000082, 1, 8), EXIT_REASON_VMCALL);
	rule("MSRs outside both ranges exit");
	CHECK_EQ(msr_try(rdmsr_stub, 0x2000, 4, 0), EXIT_REASON_RDMSR);
	CHECK_EQ(msr_try(rdmsr_stub, 0xc0002000, 4, 0), EXIT_REASON_RDMSR);
	CHECK_EQ(msr_try(wrmsr_stub, 0x40000000, 4, 0), EXIT_REASON_WRMSR);
	rule("an MSR that does not exist and is not intercepted is #GP");
	CHECK(l2_took(msr_try(rdmsr_stub, 0x1ffe, 4, 0), 13));
	rule("without MSR bitmaps every RDMSR and WRMSR exits");
	vmx_fresh(rdmsr_stub);
	vmx_clear(PRIMARY_PROCESSOR_CONTROLS, CPU_USE_MSR_BITMAPS);
	l2[RCX] = 0x10;
	CHECK_EQ(vmx_run(), EXIT_REASON_RDMSR);
	vmx_fresh(wrmsr_stub);
	vmx_clear(PRIMARY_PROCESSOR_CONTROLS, CPU_USE_MSR_BITMAPS);
	l2[RCX] = 0x174;
	CHECK_EQ(vmx_run(), EXIT_REASON_WRMSR);
}

/* ---- MWAIT's qualification, PAUSE loops, TSC ---- */

L2(monitored_mwait, "xor %ecx, %ecx\n\txor %edx, %edx\n\tmonitor\n\txor %eax, %eax\n\tmwait\n\tvmcall");
L2(pause_loop, "1:\tpause\n\tjmp 1b");
L2(pause_apart, "mov $20, %ecx\n1:\tpause\n\tmov $4000, %edx\n2:\tdec %edx\n\tjnz 2b\n\tloop 1b\n\tvmcall");
L2(tsc_stub, "rdtsc\n\tshl $32, %rdx\n\tor %rdx, %rax\n\tmov %rax, %rbx\n\tmov $0x10, %ecx\n\trdmsr\n\tshl "
             "$32, %rdx\n\t"
             "or %rdx, %rax\n\tmov %rax, %rsi\n\trdtscp\n\tshl $32, %rdx\n\tor %rdx, %rax\n\tvmcall");

static void timing(void)
{
	uint64_t before, after;

	rule("MWAIT exit: bit 0 says whether the monitor is armed");
	vmx_fresh(monitored_mwait);
	l2[RAX] = (uint64_t)l2_page[0];
	vmx_set(PRIMARY_PROCESSOR_CONTROLS, CPU_MWAIT_EXITING);
	CHECK_EQ(vmx_run(), EXIT_REASON_MWAIT);
	CHECK_EQ(vmread(EXIT_QUALIFICATION), 1);
	CHECK_EQ(vmread(VM_EXIT_INSTRUCTION_LENGTH), 3);

	rule("PAUSE-loop exiting: a tight loop longer than the window exits");
	vmx_fresh(pause_loop);
	vmx_secondary(CPU2_PAUSE_LOOP_EXITING);
	vmwrite(PLE_GAP, 100000000);
	vmwrite(PLE_WINDOW, 100000);
	CHECK_EQ(vmx_run(), EXIT_REASON_PAUSE);
	CHECK_EQ(vmread(VM_EXIT_INSTRUCTION_LENGTH), 2);
	rule("PAUSE-loop exiting: PAUSEs further apart than the gap are no loop");
	vmx_fresh(pause_apart);
	vmx_secondary(CPU2_PAUSE_LOOP_EXITING);
	vmwrite(PLE_GAP, 1);
	vmwrite(PLE_WINDOW, 1);
	CHECK_EQ(vmx_run(), EXIT_REASON_VMCALL);
	rule("PAUSE-loop exiting is for CPL 0 only");
	vmx_fresh(pause_apart);
	vmx_user();
	vmx_secondary(CPU2_PAUSE_LOOP_EXITING);
	vmwrite(PLE_GAP, 0xffffffff);
	vmwrite(PLE_WINDOW, 1);
	CHECK_EQ(vmx_run(), EXIT_REASON_VMCALL);

	rule("TSC offset: RDTSC, RDTSCP and RDMSR of IA32_TIME_STAMP_COUNTER");
	vmx_fresh(tsc_stub);
	vmx_set(PRIMARY_PROCESSOR_CONTROLS, CPU_USE_TSC_OFFSETTING);
	vmx_secondary(CPU2_ENABLE_RDTSCP);
	vmwrite(TSC_OFFSET, 1ull << 60);
	before = rdtsc();
	CHECK_EQ(vmx_run(), EXIT_REASON_VMCALL);
	after = rdtsc();
	CHECK(l2[RBX] - (1ull << 60) >= before && l2[RBX] - (1ull << 60) <= after);
	CHECK(l2[RSI] - (1ull << 60) >= before && l2[RSI] - (1ull << 60) <= after);
	CHECK(l2[RAX] - (1ull << 60) >= before && l2[RAX] - (1ull << 60) <= after);
	rule("TSC offset counts only with its control");
	vmx_clear(PRIMARY_PROCESSOR_CONTROLS, CPU_USE_TSC_OFFSETTING);
	vmwrite(GUEST_RIP, (uint64_t)tsc_stub);
	CHECK_EQ(vmx_run(), EXIT_REASON_VMCALL);
	CHECK(l2[RBX] >= after && l2[RBX] <= rdtsc());
}

/* ---- what a VM exit leaves in L1 ---- */

L2(host_stub, "mov %rax, %cr2\n\tvmcall");

static void host_state(void)
{
	struct __attribute__((packed)) {
		uint16_t limit;
		uint64_t base;
	} gdtr, idtr;
	uint64_t dr7, limit;

	rule("VM exit fixes limits of GDTR, IDTR and TR, DR7, RFLAGS and DEBUGCTL");
	__asm__ volatile("mov %0, %%db7" : : "r"(0x401ull));
	vmx_fresh(host_stub);
	vmwrite(GUEST_RFLAGS, 0x8d7);
	CHECK_EQ(vmx_run(), EXIT_REASON_VMCALL);
	__asm__ volatile("sgdt %0\n\tsidt %1\n\tmov %%db7, %2\n\tlsl %w4, %k3"
	                 : "=m"(gdtr), "=m"(idtr), "=r"(dr7), "=r"(limit)
	                 : "r"(TSS));
	CHECK_EQ(gdtr.limit, 0xffff);
	CHECK_EQ(idtr.limit, 0xffff);
	CHECK_EQ(dr7, 0x400);
	CHECK_EQ(limit, 0x67);
	CHECK_EQ(vmread(GUEST_RFLAGS), 0x8d7);
	CHECK_EQ(rdmsr(0x1d9), 0);
	rule("a real exit clears the valid bit of the VM-entry interruption information only");
	vmx_fresh(host_stub);
	vmwrite(VM_ENTRY_INTERRUPTION_INFORMATION, 0x80000306);
	CHECK(l2_took(vmx_run(), 6));
	CHECK_EQ(vmread(VM_ENTRY_INTERRUPTION_INFORMATION), 0x306);
}

void guest_main(void)
{
	vmx_start();
	for (unsigned i = 0; i < sizeof(rows) / sizeof(rows[0]); i++)
		check_row(&rows[i]);
	undefined_instructions();
	priorities();
	control_registers();
	bitmaps();
	timing();
	host_state();
}

/*
 * The VMX instructions' own results, the capability MSRs that hypervisors look at, VMCS currency and launch
 * state, more VMCSs than the processor caches, VMCS shadowing, and the MSR areas (SDM, VMX Instruction
 * Reference; VMX Capability Reporting Facility; Loading MSRs; Saving MSRs).
 */
#include "runtime/guest.h"
#include "vmx.h"

#define BEYOND          (1ull << 51)
#define FEATURE_CONTROL 0x3a

L2(leave, "vmcall");
L2(spin_rdmsr, "mov $0x174, %ecx\n\trdmsr\n\tmov $0x99, %eax\n\twrmsr\n\tvmcall");

static uint8_t regions[300][4096] __attribute__((aligned(4096)));

static void fails(enum vmx_result result, unsigned error)
{
	CHECK_EQ(result, VM_FAIL_VALID);
	CHECK_EQ(vmread(VM_INSTRUCTION_ERROR), error);
}

static void set_revision(uint8_t *region, uint32_t change)
{
	uint32_t revision = (uint32_t)rdmsr(MSR_IA32_VMX_BASIC) ^ change;

	memcpy(region, &revision, 4);
}

/* ---- capabilities ---- */

static void capabilities(void)
{
	uint64_t basic = rdmsr(MSR_IA32_VMX_BASIC), misc = rdmsr(MSR_IA32_VMX_MISC),
	         ept = rdmsr(MSR_IA32_VMX_EPT_VPID_CAP);
	uint32_t leaf[4];
	static const uint8_t ept_bits[] = {0, 6, 14, 16, 17, 20, 21, 25, 26, 32, 40, 41, 42, 43};
	static const struct {
		const char *name;
		uint32_t msr, bits;
	} needed[] = {
	    {"pin", MSR_IA32_VMX_TRUE_PINBASED_CTLS,
	     PIN_EXTERNAL_INTERRUPT_EXITING | PIN_NMI_EXITING | PIN_VIRTUAL_NMIS |
	         PIN_ACTIVATE_PREEMPTION_TIMER},
	    {"primary", MSR_IA32_VMX_TRUE_PROCBASED_CTLS,
	     CPU_HLT_EXITING | CPU_CR3_LOAD_EXITING | CPU_CR3_STORE_EXITING | CPU_CR8_LOAD_EXITING |
	         CPU_CR8_STORE_EXITING | CPU_UNCONDITIONAL_IO_EXITING | CPU_MOV_DR_EXITING |
	         CPU_MWAIT_EXITING | CPU_MONITOR_EXITING | CPU_INVLPG_EXITING | CPU_RDPMC_EXITING |
	         CPU_INTERRUPT_WINDOW_EXITING | CPU_USE_TSC_OFFSETTING | CPU_MONITOR_TRAP_FLAG |
	         CPU_USE_IO_BITMAPS | CPU_RDTSC_EXITING | CPU_USE_MSR_BITMAPS | CPU_USE_TPR_SHADOW |
	         CPU_NMI_WINDOW_EXITING | CPU_PAUSE_EXITING | CPU_ACTIVATE_SECONDARY_CONTROLS},
	    {"secondary", MSR_IA32_VMX_PROCBASED_CTLS2,
	     CPU2_VIRTUALIZE_X2APIC_MODE | CPU2_ENABLE_EPT | CPU2_ENABLE_VPID | CPU2_UNRESTRICTED_GUEST |
	         CPU2_VIRTUALIZE_APIC_ACCESSES | CPU2_DESCRIPTOR_TABLE_EXITING | CPU2_WBINVD_EXITING |
	         CPU2_PAUSE_LOOP_EXITING},
	    {"exit", MSR_IA32_VMX_TRUE_EXIT_CTLS,
	     EXIT_SAVE_DEBUG_CONTROLS | EXIT_HOST_ADDRESS_SPACE_SIZE | EXIT_ACKNOWLEDGE_INTERRUPT |
	         EXIT_SAVE_PREEMPTION_TIMER},
	    {"entry", MSR_IA32_VMX_TRUE_ENTRY_CTLS, ENTRY_LOAD_DEBUG_CONTROLS | ENTRY_IA32E_MODE_GUEST},
	};
	static const uint32_t pairs[][2] = {
	    {EXIT_LOAD_IA32_PAT, ENTRY_LOAD_IA32_PAT},
	    {EXIT_LOAD_IA32_EFER, ENTRY_LOAD_IA32_EFER},
	    {EXIT_LOAD_IA32_PERF_GLOBAL_CTRL, ENTRY_LOAD_IA32_PERF_GLOBAL_CTRL},
	    {EXIT_CLEAR_IA32_BNDCFGS, ENTRY_LOAD_IA32_BNDCFGS},
	};

	rule("what hypervisors need is allowed-1");
	for (unsigned i = 0; i < sizeof(needed) / sizeof(needed[0]); i++)
		CHECK_EQ(rdmsr(needed[i].msr) >> 32 & needed[i].bits, needed[i].bits);
	rule("CR3 and INVLPG exiting may be 0 by the TRUE controls");
	CHECK_EQ((uint32_t)rdmsr(MSR_IA32_VMX_TRUE_PROCBASED_CTLS) &
	             (CPU_CR3_LOAD_EXITING | CPU_CR3_STORE_EXITING | CPU_INVLPG_EXITING),
	         0);
	rule("PAT, EFER, PERF_GLOBAL_CTRL and BNDCFGS come in pairs");
	for (unsigned i = 0; i < 4; i++)
		CHECK_EQ(vmx_offers(MSR_IA32_VMX_TRUE_EXIT_CTLS, pairs[i][0]),
		         vmx_offers(MSR_IA32_VMX_TRUE_ENTRY_CTLS, pairs[i][1]));
	rule("plain and TRUE MSRs agree on allowed-1, and the plain ones require default1");
	for (unsigned i = 0; i < 4; i++) {
		uint64_t plain = rdmsr(MSR_IA32_VMX_PINBASED_CTLS + i),
		         exact = rdmsr(MSR_IA32_VMX_TRUE_PINBASED_CTLS + i);

		CHECK_EQ(plain >> 32, exact >> 32);
		CHECK_EQ((uint32_t)exact & ~(uint32_t)plain, 0);
		CHECK_EQ((uint32_t)plain & ~(uint32_t)(plain >> 32), 0);
	}
	rule("IA32_VMX_BASIC");
	CHECK((basic >> 32 & 0x1fff) <= 4096 && (basic >> 32 & 0x1fff) > 0);
	CHECK_EQ(basic >> 48 & 1, 0);
	CHECK_EQ(basic >> 49 & 1, 0); /* no dual-monitor treatment */
	CHECK_EQ(basic >> 50 & 15, 6);
	CHECK_EQ(basic >> 54 & 3, 3);
	CHECK_EQ(basic >> 31 & 1, 0);
	rule("IA32_VMX_EPT_VPID_CAP");
	for (unsigned i = 0; i < sizeof(ept_bits); i++)
		CHECK_EQ(ept >> ept_bits[i] & 1, 1);
	rule("IA32_VMX_MISC");
	CHECK_EQ(misc & 31, 5);
	CHECK_EQ(misc >> 5 & 3, 3);
	CHECK_EQ(misc >> 16 & 0x1ff, 4);
	CHECK_EQ(misc >> 30 & 1, 1);
	if (vmx_offers(MSR_IA32_VMX_PROCBASED_CTLS2, CPU2_VMCS_SHADOWING))
		CHECK_EQ(misc >> 29 & 1, 1);
	rule("fixed bits of CR0 and CR4");
	CHECK_EQ(rdmsr(MSR_IA32_VMX_CR0_FIXED0), 0x80000021);
	CHECK_EQ(rdmsr(MSR_IA32_VMX_CR0_FIXED1), 0xffffffff);
	CHECK_EQ(rdmsr(MSR_IA32_VMX_CR4_FIXED0), 0x2000);
	CHECK_EQ(read_cr4() & ~rdmsr(MSR_IA32_VMX_CR4_FIXED1), 0);
	rule("PAT's first entry is WB");
	CHECK_EQ(rdmsr(0x277) & 7, 6);
	rule("CPUID announces VMX");
	cpuid(1, 0, leaf);
	CHECK_EQ(leaf[2] >> 5 & 1, 1);
	rule("IA32_FEATURE_CONTROL: VMX outside SMX, and locked");
	CHECK_EQ(rdmsr(FEATURE_CONTROL) & 5, 5);
	CHECK_EQ(TRY("wrmsr", , OPERANDS("c"(FEATURE_CONTROL), "a"(0), "d"(0))), 13);
	rule("capability MSRs cannot be written");
	for (uint32_t msr = MSR_IA32_VMX_BASIC; msr <= MSR_IA32_VMX_TRUE_ENTRY_CTLS; msr++)
		CHECK_EQ(TRY("wrmsr", , OPERANDS("c"(msr), "a"(0), "d"(0))), 13);
}

/* ---- VMXON and VMXOFF ---- */

static void entering(void)
{
	uint64_t region = (uint64_t)vmxon_region, cr4 = read_cr4(), cr0 = read_cr0();
	uint64_t misaligned = region + 8, beyond = region | BEYOND;

	rule("outside VMX operation every VMX instruction is #UD");
	CHECK_EQ(TRY("vmxoff", , ), 6);
	CHECK_EQ(TRY("vmcall", , ), 6);
	CHECK_EQ(TRY("vmlaunch", , ), 6);
	CHECK_EQ(TRY("vmresume", , ), 6);
	CHECK_EQ(TRY("vmclear %[p]", , OPERANDS([p] "m"(region))), 6);
	CHECK_EQ(TRY("vmptrld %[p]", , OPERANDS([p] "m"(region))), 6);
	CHECK_EQ(TRY("vmread %[p], %%rcx", , OPERANDS([p] "r"(region)), "rcx"), 6);
	CHECK_EQ(TRY("vmwrite %[p], %%rcx", , OPERANDS([p] "r"(region)), "rcx"), 6);
	CHECK_EQ(TRY("invept %[p], %%rcx", , OPERANDS([p] "m"(*vmxon_region)), "rcx"), 6);
	CHECK_EQ(TRY("invvpid %[p], %%rcx", , OPERANDS([p] "m"(*vmxon_region)), "rcx"), 6);
	rule("VMXON without CR4.VMXE is #UD");
	CHECK_EQ(TRY("vmxon %[p]", , OPERANDS([p] "m"(region))), 6);
	write_cr4(cr4 | 0x2000);
	rule("VMXON with a fixed bit of CR0 clear is #GP");
	write_cr0(cr0 & ~0x20ull);
	CHECK_EQ(TRY("vmxon %[p]", , OPERANDS([p] "m"(region))), 13);
	write_cr0(cr0);
	rule("VMXON's pointer: VMfailInvalid");
	set_revision(vmxon_region, 0);
	CHECK_EQ(vmxon(misaligned), VM_FAIL_INVALID);
	CHECK_EQ(vmxon(beyond), VM_FAIL_INVALID);
	set_revision(vmxon_region, 1);
	CHECK_EQ(vmxon(region), VM_FAIL_INVALID);
	set_revision(vmxon_region, 1u << 31);
	CHECK_EQ(vmxon(region), VM_FAIL_INVALID);
	set_revision(vmxon_region, 0);
	CHECK_EQ(vmxon(region), VM_SUCCEED);
	rule("VMX operation fixes bits of CR0 and CR4");
	CHECK_EQ(TRY("mov %[v], %%cr4", , OPERANDS([v] "r"(cr4))), 13);
	CHECK_EQ(TRY("mov %[v], %%cr0", , OPERANDS([v] "r"(cr0 & ~0x20ull))), 13);
	CHECK_EQ(read_cr0(), cr0);
	rule("without a current VMCS: VMfailInvalid");
	CHECK_EQ(vmptrst(), ~0ull);
	CHECK_EQ(vmlaunch(), VM_FAIL_INVALID);
	CHECK_EQ(vmresume(), VM_FAIL_INVALID);
	CHECK_EQ(vmcall(), VM_FAIL_INVALID);
	CHECK_EQ(vmwrite(GUEST_RIP, 0), VM_FAIL_INVALID);
	CHECK_EQ(vmptrld(misaligned), VM_FAIL_INVALID);
	CHECK_EQ(vmclear(region), VM_FAIL_INVALID);
	CHECK_EQ(vmxon(region), VM_FAIL_INVALID);
	CHECK_EQ(invept(0, 0, 0), VM_FAIL_INVALID);
	rule("VMXOFF, and VMXON again");
	CHECK_EQ(vmxoff(), VM_SUCCEED);
	CHECK_EQ(TRY("vmxoff", , ), 6);
	write_cr4(cr4);
	write_cr4(cr4 | 0x2000);
	CHECK_EQ(vmxon(region), VM_SUCCEED);
}

/* ---- pointers and fields ---- */

static void pointers(void)
{
	uint64_t region = (uint64_t)regions[0];

	vmx_fresh(leave);
	rule("VMXON in root operation: error 15");
	fails(vmxon((uint64_t)vmxon_region), VMERROR_VMXON_IN_ROOT);
	rule("VMCALL in root operation: error 1");
	fails(vmcall(), VMERROR_VMCALL_IN_ROOT);
	rule("VMCLEAR's errors");
	fails(vmclear(region + 0x10), VMERROR_VMCLEAR_ADDRESS);
	fails(vmclear(region | BEYOND), VMERROR_VMCLEAR_ADDRESS);
	fails(vmclear((uint64_t)vmxon_region), VMERROR_VMCLEAR_VMXON_POINTER);
	rule("VMPTRLD's errors leave the current VMCS");
	fails(vmptrld(region + 1), VMERROR_VMPTRLD_ADDRESS);
	fails(vmptrld(region | BEYOND), VMERROR_VMPTRLD_ADDRESS);
	fails(vmptrld((uint64_t)vmxon_region), VMERROR_VMPTRLD_VMXON_POINTER);
	set_revision(regions[0], 2);
	fails(vmptrld(region), VMERROR_VMPTRLD_REVISION);
	CHECK_EQ(vmptrst(), (uint64_t)vmcs_region);
	rule("VMPTRST; VMCLEAR of the current VMCS leaves none");
	set_revision(regions[0], 0);
	CHECK_EQ(vmptrld(region), VM_SUCCEED);
	CHECK_EQ(vmptrst(), region);
	CHECK_EQ(vmclear(region), VM_SUCCEED);
	CHECK_EQ(vmptrst(), ~0ull);
	rule("VMCLEAR of another VMCS leaves the current one");
	CHECK_EQ(vmptrld((uint64_t)vmcs_region), VM_SUCCEED);
	CHECK_EQ(vmclear(region), VM_SUCCEED);
	CHECK_EQ(vmptrst(), (uint64_t)vmcs_region);
	rule("a #PF of the operand comes before anything");
	CHECK_EQ(TRY("vmptrld (%[p])", , OPERANDS([p] "r"(5ull << 32))), 14);
	CHECK_EQ(TRY("vmptrst (%[p])", , OPERANDS([p] "r"(5ull << 32))), 14);
	CHECK_EQ(TRY("vmptrld (%[p])", , OPERANDS([p] "r"(1ull << 63))), 13);
	CHECK_EQ(TRY("invept (%[p]), %[t]", , OPERANDS([p] "r"(5ull << 32), [t] "r"(1ull))), 14);
}

static void fields(void)
{
	static const uint64_t none[] = {0x6820 | 1,          0x7fff,         0x8000, 0x10000,
	                                1ull << 32 | 0x681e, 0x6822 + 0x100, 0x4836, 0x0806 + 0x1000};
	uint64_t value = 0;

	vmx_fresh(leave);
	rule("VMREAD and VMWRITE of a field that does not exist: error 12");
	for (unsigned i = 0; i < sizeof(none) / sizeof(none[0]); i++) {
		uint64_t before = 0x5555;

		value = before;
		fails(vmread_status(none[i], &value), VMERROR_UNSUPPORTED_FIELD);
		fails(vmwrite(none[i], 1), VMERROR_UNSUPPORTED_FIELD);
	}
	rule("values are cut to the field's width");
	CHECK_EQ(vmwrite(GUEST_ES_SELECTOR, 0x123456789), VM_SUCCEED);
	CHECK_EQ(vmread(GUEST_ES_SELECTOR), 0x6789);
	CHECK_EQ(vmwrite(GUEST_ES_LIMIT, 0x123456789), VM_SUCCEED);
	CHECK_EQ(vmread(GUEST_ES_LIMIT), 0x23456789);
	CHECK_EQ(vmwrite(TSC_OFFSET, 0x123456789abcdef0), VM_SUCCEED);
	CHECK_EQ(vmread(TSC_OFFSET), 0x123456789abcdef0);
	rule("the high half of a 64-bit field");
	CHECK_EQ(vmread(TSC_OFFSET + 1), 0x12345678);
	CHECK_EQ(vmwrite(TSC_OFFSET + 1, 0xfffffffffull), VM_SUCCEED);
	CHECK_EQ(vmread(TSC_OFFSET), 0xffffffff9abcdef0);
	rule("VM-exit information may be written where IA32_VMX_MISC[29] says so");
	if (rdmsr(MSR_IA32_VMX_MISC) >> 29 & 1) {
		CHECK_EQ(vmwrite(EXIT_QUALIFICATION, 0x77), VM_SUCCEED);
		CHECK_EQ(vmread(EXIT_QUALIFICATION), 0x77);
	} else {
		fails(vmwrite(EXIT_QUALIFICATION, 0x77), VMERROR_READ_ONLY_FIELD);
	}
	rule("memory operands");
	value = 0x4455;
	__asm__ volatile("vmwrite %0, %1" : : "m"(value), "r"((uint64_t)GUEST_RSP) : "cc");
	value = 0;
	__asm__ volatile("vmread %1, %0" : "=m"(value) : "r"((uint64_t)GUEST_RSP) : "cc");
	CHECK_EQ(value, 0x4455);
	CHECK_EQ(TRY("vmread %[e], (%[p])", , OPERANDS([e] "r"((uint64_t)GUEST_RSP), [p] "r"(5ull << 32))),
	         14);
	CHECK_EQ(TRY("vmwrite (%[p]), %[e]", , OPERANDS([e] "r"((uint64_t)GUEST_RSP), [p] "r"(5ull << 32))),
	         14);
	rule("success clears the arithmetic flags and leaves the error field");
	fails(vmcall(), VMERROR_VMCALL_IN_ROOT);
	CHECK_EQ(vmwrite(GUEST_RSP, 1), VM_SUCCEED);
	CHECK_EQ(vmread(VM_INSTRUCTION_ERROR), VMERROR_VMCALL_IN_ROOT);
	rule("every announced field keeps all ones of its width");
	for (uint64_t e = 0; e < 0x6c18; e += e % 0x400 == 0x3e ? 0x400 - 0x3e : 2) {
		unsigned width = e >> 13;
		uint64_t mask = width == 0 ? 0xffff : width == 2 ? 0xffffffff : ~0ull;

		if (vmwrite(e, ~0ull) == VM_SUCCEED && e != VM_INSTRUCTION_ERROR)
			CHECK_EQ(vmread(e), mask);
	}
}

/* ---- entry instructions, launch state ---- */

static void launching(void)
{
	uint64_t flags;

	rule("VMRESUME of a clear VMCS: error 5; VMLAUNCH of a launched one: error 4");
	vmx_fresh(leave);
	fails(vmresume(), VMERROR_VMRESUME_NOT_LAUNCHED);
	CHECK_EQ(vmx_run(), EXIT_REASON_VMCALL);
	fails(vmlaunch(), VMERROR_VMLAUNCH_NOT_CLEAR);
	rule("VMCLEAR makes it clear again, and keeps its fields");
	CHECK_EQ(vmclear((uint64_t)vmcs_region), VM_SUCCEED);
	CHECK_EQ(vmptrld((uint64_t)vmcs_region), VM_SUCCEED);
	CHECK_EQ(vmread(GUEST_RIP), (uint64_t)leave);
	CHECK_EQ(vmread(EXIT_REASON), EXIT_REASON_VMCALL);
	fails(vmresume(), VMERROR_VMRESUME_NOT_LAUNCHED);
	rule("VMLAUNCH under blocking by MOV SS: error 26, before the launch state is looked at");
	vmx_fresh(leave);
	__asm__ volatile("mov %%ss, %%eax\n\tmov %%eax, %%ss\n\tvmlaunch\n\tpushfq\n\tpop %0"
	                 : "=r"(flags)
	                 :
	                 : "rax", "cc", "memory");
	fails(VMX_FLAGS(flags), VMERROR_ENTRY_MOV_SS);
	__asm__ volatile("mov %%ss, %%eax\n\tmov %%eax, %%ss\n\tvmresume\n\tpushfq\n\tpop %0"
	                 : "=r"(flags)
	                 :
	                 : "rax", "cc", "memory");
	fails(VMX_FLAGS(flags), VMERROR_ENTRY_MOV_SS);
	CHECK_EQ(vmx_run(), EXIT_REASON_VMCALL);
	rule("error 26 comes before the controls");
	vmx_fresh(leave);
	vmwrite(CR3_TARGET_COUNT, 99);
	__asm__ volatile("mov %%ss, %%eax\n\tmov %%eax, %%ss\n\tvmlaunch\n\tpushfq\n\tpop %0"
	                 : "=r"(flags)
	                 :
	                 : "rax", "cc", "memory");
	fails(VMX_FLAGS(flags), VMERROR_ENTRY_MOV_SS);
}

/* ---- INVEPT, INVVPID ---- */

static void invalidate(void)
{
	vmx_fresh(leave);
	rule("INVEPT: types 1 and 2 only; a valid EPTP for type 1");
	CHECK_EQ(invept(1, ept_pointer(0), 0), VM_SUCCEED);
	CHECK_EQ(invept(2, 0, 0), VM_SUCCEED);
	fails(invept(0, ept_pointer(0), 0), VMERROR_INVALID_OPERAND);
	fails(invept(3, ept_pointer(0), 0), VMERROR_INVALID_OPERAND);
	fails(invept(1ull << 32 | 1, ept_pointer(0), 0), VMERROR_INVALID_OPERAND);
	fails(invept(1, 0, 0), VMERROR_INVALID_OPERAND);
	fails(invept(1, ept_pointer(0) | BEYOND, 0), VMERROR_INVALID_OPERAND);
	CHECK_EQ(invept(2, ~0ull, 0), VM_SUCCEED);
	rule("INVVPID: types 0-3, VPID not 0 but for type 2, canonical address for type 0");
	for (unsigned type = 0; type < 4; type++)
		CHECK_EQ(invvpid(type, 3, 0x1000), VM_SUCCEED);
	fails(invvpid(4, 3, 0), VMERROR_INVALID_OPERAND);
	fails(invvpid(~0ull, 3, 0), VMERROR_INVALID_OPERAND);
	fails(invvpid(0, 0, 0), VMERROR_INVALID_OPERAND);
	fails(invvpid(1, 0, 0), VMERROR_INVALID_OPERAND);
	CHECK_EQ(invvpid(2, 0, 0), VM_SUCCEED);
	fails(invvpid(3, 0, 0), VMERROR_INVALID_OPERAND);
	fails(invvpid(1, 0x10003, 0), VMERROR_INVALID_OPERAND);
	fails(invvpid(0, 3, 1ull << 63), VMERROR_INVALID_OPERAND);
	CHECK_EQ(invvpid(1, 3, 1ull << 63), VM_SUCCEED);
}

/* ---- many VMCSs ---- */

static void many(void)
{
	unsigned count = sizeof(regions) / sizeof(regions[0]);

	rule("more active VMCSs than the processor caches keep their fields");
	for (unsigned i = 0; i < count; i++) {
		set_revision(regions[i], 0);
		CHECK_EQ(vmclear((uint64_t)regions[i]), VM_SUCCEED);
		CHECK_EQ(vmptrld((uint64_t)regions[i]), VM_SUCCEED);
		CHECK_EQ(vmwrite(GUEST_RIP, 0x1000 + i), VM_SUCCEED);
		CHECK_EQ(vmwrite(GUEST_TR_SELECTOR, i), VM_SUCCEED);
	}
	for (unsigned i = 0; i < count; i++) {
		unsigned j = i * 7 % count;

		CHECK_EQ(vmptrld((uint64_t)regions[j]), VM_SUCCEED);
		CHECK_EQ(vmread(GUEST_RIP), 0x1000 + j);
		CHECK_EQ(vmread(GUEST_TR_SELECTOR), j);
	}
	rule("a launched VMCS that left the cache is launched still");
	vmx_fresh(leave);
	CHECK_EQ(vmx_run(), EXIT_REASON_VMCALL);
	for (unsigned i = 0; i < count; i++)
		vmptrld((uint64_t)regions[i]);
	CHECK_EQ(vmptrld((uint64_t)vmcs_region), VM_SUCCEED);
	CHECK_EQ(vmx_run(), EXIT_REASON_VMCALL);
	rule("VMXOFF with active VMCSs: they are as they were after VMXON");
	CHECK_EQ(vmxoff(), VM_SUCCEED);
	CHECK_EQ(vmxon((uint64_t)vmxon_region), VM_SUCCEED);
	CHECK_EQ(vmptrst(), ~0ull);
	for (unsigned i = 0; i < count; i += 11) {
		CHECK_EQ(vmptrld((uint64_t)regions[i]), VM_SUCCEED);
		CHECK_EQ(vmread(GUEST_RIP), 0x1000 + i);
	}
	rule("writes into an active VMCS region harm nobody else");
	CHECK_EQ(vmptrld((uint64_t)regions[3]), VM_SUCCEED);
	memset(regions[3] + 8, 0xff, 4088);
	CHECK_EQ(vmread(GUEST_TR_SELECTOR) >> 16, 0);
	CHECK_EQ(vmptrld((uint64_t)regions[4]), VM_SUCCEED);
	CHECK_EQ(vmread(GUEST_RIP), 0x1004);
	CHECK_EQ(vmclear((uint64_t)regions[3]), VM_SUCCEED);
	memset(regions[3] + 8, 0xff, 4088);
	CHECK_EQ(vmptrld((uint64_t)regions[3]), VM_SUCCEED);
	CHECK_EQ(vmread(GUEST_TR_SELECTOR) >> 16, 0);
	CHECK((vmlaunch() | vmresume()) & VM_FAIL_VALID);
	CHECK_EQ(vmclear((uint64_t)regions[3]), VM_SUCCEED);
	rule("the region's last page of memory, and a region that is not memory");
	CHECK_EQ(vmclear(0xfd000000), VM_SUCCEED);
	fails((vmptrld((uint64_t)regions[4]), vmptrld(0xfd000000)), VMERROR_VMPTRLD_REVISION);
}

/* ---- VMCS shadowing ---- */

L2(shadow_stub, "vmread %rax, %rbx\n\tpushfq\n\tvmwrite %rcx, %rdx\n\tvmread %rdx, %rsi\n\tvmcall");

static void shadowing(void)
{
	uint64_t shadow = (uint64_t)regions[0];

	if (!vmx_offers(MSR_IA32_VMX_PROCBASED_CTLS2, CPU2_VMCS_SHADOWING))
		return;
	rule("a shadow VMCS cannot be entered");
	set_revision(regions[0], 0);
	vmclear(shadow);
	set_revision(regions[0], 1u << 31);
	CHECK_EQ(vmptrld(shadow), VM_SUCCEED);
	vmwrite(GUEST_RIP, 0xabcdef);
	CHECK_EQ(vmlaunch(), VM_FAIL_INVALID);
	vmclear(shadow);
	rule("VMREAD and VMWRITE of L2 go to the shadow VMCS where the bitmaps allow");
	vmx_fresh(shadow_stub);
	vmx_secondary(CPU2_VMCS_SHADOWING);
	memset(l2_page[0], 0, 4096);
	vmwrite(VMREAD_BITMAP_ADDRESS, (uint64_t)l2_page[0]);
	vmwrite(VMWRITE_BITMAP_ADDRESS, (uint64_t)l2_page[1]);
	vmwrite(VMCS_LINK_POINTER, shadow);
	l2[RAX] = GUEST_RIP;
	l2[RCX] = 0x4321;
	l2[RDX] = GUEST_RSP;
	CHECK_EQ(vmx_run(), EXIT_REASON_VMCALL);
	CHECK_EQ(l2[RBX], 0xabcdef);
	CHECK_EQ(l2[RSI], 0x4321);
	rule("a set bit of the bitmaps, or a wide encoding, exits");
	l2_page[0][GUEST_RIP >> 3] |= 1 << (GUEST_RIP & 7);
	vmwrite(GUEST_RIP, (uint64_t)shadow_stub);
	l2[RAX] = GUEST_RIP;
	CHECK_EQ(vmx_run(), EXIT_REASON_VMREAD);
	l2[RAX] = 0x10000;
	CHECK_EQ(vmx_run(), EXIT_REASON_VMREAD);
	vmclear(shadow);
	set_revision(regions[0], 0);
}

/* ---- MSR areas ---- */

static void msr_entry(unsigned area, unsigned i, uint64_t index, uint64_t value)
{
	msr_area[area][2 * i] = index;
	msr_area[area][2 * i + 1] = value;
}

enum { STORE, LOAD, ENTRY };

static void msr_areas(void)
{
	static const struct {
		const char *name;
		uint64_t index, value;
	} bad[] = {
	    {"an MSR that does not exist", 0x1fff, 0},
	    {"reserved bits of the entry", 0x100000174ull, 8},
	    {"FS base", 0xc0000100, 0},
	    {"GS base", 0xc0000101, 0},
	    {"an x2APIC register", 0x808, 0},
	    {"a value that WRMSR refuses", 0x175, 1ull << 63},
	    {"a read-only MSR", MSR_IA32_VMX_BASIC, 0},
	};

	rule("MSRs are loaded at entry, stored and loaded at exit");
	vmx_fresh(spin_rdmsr);
	wrmsr(0x174, 0x11);
	msr_entry(ENTRY, 0, 0xc0000082, 0x1234);
	msr_entry(ENTRY, 1, 0xc0000084, 0x200);
	msr_entry(STORE, 0, 0xc0000082, 0);
	msr_entry(STORE, 1, 0x10, 0);
	msr_entry(LOAD, 0, 0xc0000082, 0x5678);
	vmwrite(VM_ENTRY_MSR_LOAD_COUNT, 2);
	vmwrite(VM_EXIT_MSR_STORE_COUNT, 2);
	vmwrite(VM_EXIT_MSR_LOAD_COUNT, 1);
	vmwrite(GUEST_IA32_SYSENTER_CS, 0x22);
	vmwrite(HOST_IA32_SYSENTER_CS, 0x33);
	CHECK_EQ(vmx_run(), EXIT_REASON_VMCALL);
	CHECK_EQ(msr_area[STORE][1], 0x1234);
	CHECK(msr_area[STORE][3] != 0);
	CHECK_EQ(rdmsr(0xc0000082), 0x5678);
	CHECK_EQ(rdmsr(0xc0000084), 0x200);
	CHECK_EQ(vmread(GUEST_IA32_SYSENTER_CS), 0x99);
	CHECK_EQ(rdmsr(0x174), 0x33);
	rule("KERNEL_GS_BASE and others without fields are the guest's own");
	CHECK_EQ(l2[RAX], 0x99);

	for (unsigned i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		rule(bad[i].name);
		vmx_fresh(leave);
		msr_entry(ENTRY, 0, 0xc0000082, 0x1111);
		msr_entry(ENTRY, 1, bad[i].index, bad[i].value);
		msr_entry(ENTRY, 2, 0xc0000082, 0x2222);
		msr_entry(STORE, 0, 0xc0000082, 0x77);
		vmwrite(VM_ENTRY_MSR_LOAD_COUNT, 3);
		vmwrite(VM_EXIT_MSR_STORE_COUNT, 1);
		vmwrite(VM_ENTRY_INTERRUPTION_INFORMATION, 0x80000306);
		CHECK_EQ(vmx_run(), EXIT_REASON_ENTRY_MSR_LOADING | EXIT_REASON_ENTRY_FAILURE);
		CHECK_EQ(vmread(EXIT_QUALIFICATION), 2); /* 1-based */
		CHECK_EQ(msr_area[STORE][1], 0x77);      /* nothing is stored */
		CHECK_EQ(rdmsr(0xc0000082), 0x1111);     /* what was loaded stays */
		CHECK_EQ(vmread(VM_ENTRY_INTERRUPTION_INFORMATION), 0x80000306);
		fails(vmresume(), VMERROR_VMRESUME_NOT_LAUNCHED);
	}
	rule("the exit MSR-load area is processed after a failed entry too");
	vmx_fresh(leave);
	msr_entry(LOAD, 0, 0xc0000082, 0x4444);
	vmwrite(VM_EXIT_MSR_LOAD_COUNT, 1);
	vmwrite(GUEST_RFLAGS, 0);
	CHECK_EQ(vmx_run(), EXIT_REASON_ENTRY_INVALID_GUEST_STATE | EXIT_REASON_ENTRY_FAILURE);
	CHECK_EQ(rdmsr(0xc0000082), 0x4444);
	CHECK_EQ(vmread(EXIT_QUALIFICATION), 0);
}

void guest_main(void)
{
	capabilities();
	entering();
	pointers();
	fields();
	launching();
	invalidate();
	many();
	shadowing();
	msr_areas();
}

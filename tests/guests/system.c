/*
 * System instructions in 64-bit mode: fast system calls, FS and GS bases, UMIP, XSAVE, CPUID, MSRs, and the
 * forms of instructions that are not (SDM volumes 2 and 3).
 */
#include "runtime/user.h"

#define MSR_EFER           0xc0000080
#define MSR_STAR           0xc0000081
#define MSR_LSTAR          0xc0000082
#define MSR_SFMASK         0xc0000084
#define MSR_FS_BASE        0xc0000100
#define MSR_GS_BASE        0xc0000101
#define MSR_KERNEL_GS_BASE 0xc0000102
#define MSR_TSC_AUX        0xc0000103

#define USER_BASE (OWN | 3) /* 32-bit code, data, 64-bit code of CPL 3, as SYSRET wants them */
/* As SYSENTER and SYSEXIT want them: code, data, 32-bit user code, data, 64-bit user code, data: CS = 08. */

static struct frame at_return;

static bool return_hook(struct frame *frame)
{
	if (frame->vector != USER_RETURN)
		return false;
	at_return = *frame;
	return false;
}

uint64_t entry_cs, entry_ss, entry_flags, entry_rcx, entry_r11, entry_rsp, user_rsp;

/* SDM, SYSCALL; SYSRET. */
static void fast_system_calls(void)
{
	runtime_gdt[OWN >> 3] = 0x00cffb000000ffff;
	runtime_gdt[(OWN >> 3) + 1] = 0x00cff3000000ffff;
	runtime_gdt[(OWN >> 3) + 2] = 0x00affb000000ffff;
	wrmsr(MSR_STAR, (uint64_t)CODE64 << 32 | (uint64_t)USER_BASE << 48);
	wrmsr(MSR_SFMASK, FLAG_IF | FLAG_DF | FLAG_AC);
	rule("SYSRETQ and SYSCALL: RCX, R11, CS, SS, RFLAGS by IA32_FMASK");
	__asm__ volatile(
	    "mov %%rsp, user_rsp\n\t"
	    "mov $0xc0000082, %%ecx\n\tmov $2f, %%eax\n\txor %%edx, %%edx\n\twrmsr\n\t"
	    "mov $1f, %%ecx\n\tmov $0x243ed7, %%r11d\n\tsysretq\n"
	    "1:\tpushfq\n\tpop %%rax\n\tmov %%cs, %%ebx\n\tmov %%ss, %%edx\n\tstc\n\tsyscall\n"
	    "3:\tud2\n"
	    "2:\tmov %%rcx, entry_rcx\n\tmov %%r11, entry_r11\n\tpushfq\n\tpopq entry_flags\n\t"
	    "movq $3b, expected_rip\n\tmov %%cs, entry_cs\n\tmov %%ss, entry_ss\n\tmov %%rsp, entry_rsp\n\t"
	    "pushfq\n\tandq $~0x3400, (%%rsp)\n\tpopfq\n\tpushq $2\n\tpopfq\n\t"
	    "mov %%rax, %0\n\tmov %%rbx, %1"
	    : "=m"(at_return.rflags), "=m"(at_return.cs)
	    :
	    : "rax", "rbx", "rcx", "rdx", "r11", "memory", "cc");
	CHECK_EQ(at_return.rflags, 0x243ed7);
	CHECK_EQ(at_return.cs, (uint64_t)OWN + 16 + 3);
	CHECK_EQ(entry_rcx, expected_rip);
	CHECK_EQ(entry_r11, 0x243ed7);
	CHECK_EQ(entry_flags, 0x243ed7 & ~(FLAG_IF | FLAG_DF | FLAG_AC));
	CHECK_EQ(entry_cs, CODE64);
	CHECK_EQ(entry_ss, CODE64 + 8);
	CHECK_EQ(entry_rsp, user_rsp);
	wrmsr(MSR_EFER, rdmsr(MSR_EFER) & ~1ul);
	RAISES("#UD: SYSCALL with EFER.SCE clear", 6, 0, AT("syscall"));
	RAISES("#UD: SYSRET with EFER.SCE clear", 6, 0, AT("sysretq"));
	wrmsr(MSR_EFER, rdmsr(MSR_EFER) | 1);
	RAISES("#GP: SYSRETQ to a non-canonical RCX, still in the kernel", 13, 0, AT("sysretq"),
	       "c"(1ul << 47));
	CHECK_EQ(last_frame.cs, CODE64);
	RAISES("#GP: IA32_LSTAR takes a canonical address", 13, 0, AT("wrmsr"), "c"(MSR_LSTAR), "a"(0),
	       "d"(0x8000));
}

/* SDM, SYSENTER; SYSEXIT. */
static void sysenter(void)
{
	static uint64_t rows[4];

	wrmsr(0x174, CODE64);
	RAISES("#GP: IA32_SYSENTER_EIP takes a canonical address", 13, 0, AT("wrmsr"), "c"(0x176), "a"(0),
	       "d"(0x8000));
	rule("SYSEXIT to 64-bit code and SYSENTER");
	/* SYSEXITQ: CS = 08 + 32 = 28H, SS = 30H: selectors only, no descriptor is read. */
	__asm__ volatile(
	    "mov %%rsp, user_rsp\n\t"
	    "mov $0x176, %%ecx\n\tmov $2f, %%eax\n\txor %%edx, %%edx\n\twrmsr\n\t"
	    "mov $0x175, %%ecx\n\tmov %%rsp, %%rax\n\tsub $64, %%eax\n\twrmsr\n\t"
	    "mov $1f, %%edx\n\tlea -128(%%rsp), %%rcx\n\tsti\n\tpushq $0x202\n\tpopfq\n\trex.w sysexit\n"
	    "1:\tmov %%cs, %%rax\n\tmov %%rax, (%0)\n\tmov %%ss, %%rax\n\tmov %%rax, 8(%0)\n\tmov %%rsp, "
	    "16(%0)\n\t"
	    "pushfq\n\tpopq 24(%0)\n\tsysenter\n\tud2\n"
	    "2:\tmov %%cs, entry_cs\n\tmov %%ss, entry_ss\n\tmov %%rsp, entry_rsp\n\tpushfq\n\tpopq "
	    "entry_flags\n\t"
	    "mov user_rsp, %%rsp"
	    :
	    : "r"(rows)
	    : "rax", "rcx", "rdx", "memory", "cc");
	CHECK_EQ(rows[0], 0x2b);
	CHECK_EQ(rows[1], 0x33);
	CHECK_EQ(rows[2], user_rsp - 128);
	CHECK_EQ(rows[3] & FLAG_IF, FLAG_IF);
	CHECK_EQ(entry_cs, CODE64);
	CHECK_EQ(entry_ss, DATA);
	CHECK_EQ(entry_rsp, user_rsp - 64);
	CHECK_EQ(entry_flags & FLAG_IF, 0);
	RAISES("#GP: SYSEXITQ to a non-canonical RDX", 13, 0, AT("rex.w sysexit"), "c"(0ul), "d"(1ul << 47));
	RAISES("#GP: SYSEXITQ to a non-canonical RCX", 13, 0, AT("rex.w sysexit"), "c"(1ul << 47), "d"(0ul));
	wrmsr(0x174, 0);
	RAISES("#GP: SYSENTER with a null IA32_SYSENTER_CS", 13, 0, AT("sysenter"));
	RAISES("#GP: SYSEXIT with a null IA32_SYSENTER_CS", 13, 0, AT("rex.w sysexit"), "c"(0ul), "d"(0ul));
}

/* SDM, RDFSBASE/RDGSBASE; SWAPGS; Segment Loading Instructions in IA-32e Mode. */
static void bases(void)
{
	uint64_t cr4 = read_cr4(), value;
	static uint64_t cell[2] = {0x1111, 0x2222};

	write_cr4(cr4 & ~(uint64_t)CR4_FSGSBASE);
	RAISES("#UD: RDFSBASE without CR4.FSGSBASE", 6, 0, AT("rdfsbase %%rax"));
	RAISES("#UD: WRGSBASE without CR4.FSGSBASE", 6, 0, AT("wrgsbase %%rax"));
	write_cr4(cr4 | CR4_FSGSBASE);
	rule("FS and GS bases: instructions, MSRs and accesses agree");
	__asm__ volatile("wrfsbase %0" : : "r"(&cell[0]));
	__asm__ volatile("wrgsbase %0" : : "r"(&cell[1]));
	CHECK_EQ(rdmsr(MSR_FS_BASE), (uint64_t)&cell[0]);
	CHECK_EQ(rdmsr(MSR_GS_BASE), (uint64_t)&cell[1]);
	__asm__ volatile("mov %%fs:0, %0" : "=r"(value));
	CHECK_EQ(value, 0x1111);
	__asm__ volatile("mov %%gs:0, %0" : "=r"(value));
	CHECK_EQ(value, 0x2222);
	wrmsr(MSR_FS_BASE, (uint64_t)&cell[1]);
	__asm__ volatile("mov %%fs:0, %0" : "=r"(value));
	CHECK_EQ(value, 0x2222);
	__asm__ volatile("rdfsbase %0" : "=r"(value));
	CHECK_EQ(value, (uint64_t)&cell[1]);
	rule("32-bit forms of RDFSBASE and WRFSBASE zero-extend");
	wrmsr(MSR_FS_BASE, 0xffff800012345678);
	__asm__ volatile("mov $-1, %0\n\trdfsbase %k0" : "=r"(value));
	CHECK_EQ(value, 0x12345678);
	__asm__ volatile("wrfsbase %k0" : : "r"(-1l));
	CHECK_EQ(rdmsr(MSR_FS_BASE), 0xffffffff);
	RAISES("#GP: WRFSBASE takes a canonical address", 13, 0, AT("wrfsbase %%rax"), "a"(1ul << 47));
	RAISES("#GP: IA32_FS_BASE takes a canonical address", 13, 0, AT("wrmsr"), "c"(MSR_FS_BASE), "a"(0),
	       "d"(0x8000));
	rule("SWAPGS exchanges with IA32_KERNEL_GS_BASE");
	wrmsr(MSR_GS_BASE, (uint64_t)&cell[0]);
	wrmsr(MSR_KERNEL_GS_BASE, (uint64_t)&cell[1]);
	__asm__ volatile("swapgs\n\tmov %%gs:0, %0" : "=r"(value));
	CHECK_EQ(value, 0x2222);
	CHECK_EQ(rdmsr(MSR_KERNEL_GS_BASE), (uint64_t)&cell[0]);
	__asm__ volatile("swapgs");
	CHECK_EQ(rdmsr(MSR_GS_BASE), (uint64_t)&cell[0]);
	rule("loading a selector sets the base from the descriptor");
	__asm__ volatile("mov %0, %%gs" : : "r"(DATA));
	CHECK_EQ(rdmsr(MSR_GS_BASE), 0);
	rule("an address-size prefix truncates before the base is added");
	wrmsr(MSR_FS_BASE, (uint64_t)&cell[0] - 0xfffffff0);
	__asm__ volatile("mov %1, %%rcx\n\tmov %%fs:(%%ecx), %0" : "=r"(value) : "r"(0xaafffffff0) : "rcx");
	CHECK_EQ(value, 0x1111);
	wrmsr(MSR_FS_BASE, 0);
	wrmsr(MSR_GS_BASE, 0);
	write_cr4(cr4);
}

static void user_sgdt(void)
{
	TRY(AT("sgdt -16(%%rsp)"), , );
}
static void user_sidt(void)
{
	TRY(AT("sidt -16(%%rsp)"), , );
}
static void user_sldt(void)
{
	TRY(AT("sldt %%eax"), , , "rax");
}
static void user_str(void)
{
	TRY(AT("str %%eax"), , , "rax");
}
static void user_smsw(void)
{
	TRY(AT("smsw %%eax"), , , "rax");
}
static void user_rdtsc(void)
{
	TRY(AT("rdtsc"), , , "rax", "rdx");
}
static void user_swapgs(void)
{
	TRY(AT("swapgs"), , );
}
static void user_rdmsr(void)
{
	TRY(AT("rdmsr"), , , "rax", "rdx");
}
static void user_lgdt(void)
{
	TRY(AT("lgdt (%%rsp)"), , );
}
static void user_mov_cr(void)
{
	TRY(AT("mov %%cr0, %%rax"), , , "rax");
}
static void user_mov_dr(void)
{
	TRY(AT("mov %%db0, %%rax"), , , "rax");
}
static void user_invlpg(void)
{
	TRY(AT("invlpg (%%rsp)"), , );
}
static void user_clts(void)
{
	TRY(AT("clts"), , );
}
static void user_wbinvd(void)
{
	TRY(AT("wbinvd"), , );
}
static void user_sysret(void)
{
	TRY(AT("sysretq"), , );
}
static void user_sysexit(void)
{
	TRY(AT("sysexitl"), , );
}
static void user_xsetbv(void)
{
	TRY(AT("xsetbv"), , );
}
static void user_lmsw(void)
{
	TRY(AT("lmsw %%ax"), , );
}
static void user_mwait(void)
{
	TRY(AT("mwait"), , );
}
static void user_rdpmc(void)
{
	TRY(AT("rdpmc"), , "c"(0), "rax", "rdx");
}
static void user_popf(void)
{
	TRY("pushq $0x3202\n\tpopfq\n\tpushfq\n\tpopq entry_flags", , );
}

/* The vector that a function at CPL 3 met at the instruction, NO_FAULT for none. */
static unsigned from_user(void (*function)(void), uint64_t flags)
{
	unsigned before[32], vector = NO_FAULT;

	for (unsigned i = 0; i < 32; i++)
		before[i] = interrupts[i];
	user_call(function, flags);
	for (unsigned i = 0; i < 32; i++)
		if (interrupts[i] != before[i])
			vector = i;
	return vector;
}

/* SDM, UMIP; Privileged Instructions. */
static void privileged(void)
{
	uint64_t cr4 = read_cr4();
	static const struct {
		const char *name;
		void (*function)(void);
	} umip[] = {{"SGDT", user_sgdt},
	            {"SIDT", user_sidt},
	            {"SLDT", user_sldt},
	            {"STR", user_str},
	            {"SMSW", user_smsw}},
	  gp[] = {{"SWAPGS", user_swapgs},       {"RDMSR", user_rdmsr},
	          {"LGDT", user_lgdt},           {"MOV from CR0", user_mov_cr},
	          {"MOV from DR0", user_mov_dr}, {"INVLPG", user_invlpg},
	          {"CLTS", user_clts},           {"WBINVD", user_wbinvd},
	          {"SYSRET", user_sysret},       {"SYSEXIT", user_sysexit},
	          {"LMSW", user_lmsw},           {"RDPMC without CR4.PCE", user_rdpmc}};

	for (unsigned i = 0; i < 5; i++) {
		rule("UMIP: with it #GP at CPL 3, without it none");
		write_cr4(cr4 | CR4_UMIP);
		CHECK_EQ(from_user(umip[i].function, 0), 13);
		write_cr4(cr4 & ~(uint64_t)CR4_UMIP);
		CHECK_EQ(from_user(umip[i].function, 0), NO_FAULT);
	}
	write_cr4(cr4 | CR4_UMIP);
	NO_RAISE("UMIP: nothing changes at CPL 0",
	         "sgdt -16(%%rsp)\n\tsidt -16(%%rsp)\n\tsldt %%eax\n\tstr %%eax\n\tsmsw %%eax");
	write_cr4(cr4);
	for (unsigned i = 0; i < sizeof(gp) / sizeof(gp[0]); i++) {
		rule(gp[i].name);
		CHECK_EQ(from_user(gp[i].function, 0), 13);
	}
	rule("#UD: MWAIT at CPL 3");
	CHECK_EQ(from_user(user_mwait, 0), 6);
	write_cr4(cr4 | CR4_OSXSAVE);
	rule("#GP: XSETBV at CPL 3");
	CHECK_EQ(from_user(user_xsetbv, 0), 13);
	write_cr4(cr4 | CR4_TSD);
	rule("CR4.TSD: RDTSC is #GP at CPL 3 only");
	CHECK_EQ(from_user(user_rdtsc, 0), 13);
	CHECK_EQ(TRY("rdtsc", , , "rax", "rdx"), NO_FAULT);
	write_cr4(cr4);
	CHECK_EQ(from_user(user_rdtsc, 0), NO_FAULT);
	rule("POPF at CPL 3 changes neither IOPL nor IF");
	CHECK_EQ(from_user(user_popf, 0), NO_FAULT);
	CHECK_EQ(entry_flags & 0x3200, 0);
	rule("POPF at CPL 3 with IOPL 3 changes IF");
	CHECK_EQ(from_user(user_popf, 0x3000), NO_FAULT);
	CHECK_EQ(entry_flags & 0x3200, 0x3200);
}

/* SDM, MOV-Move to/from Control Registers; WRMSR. */
static void control_registers(void)
{
	uint64_t cr0 = read_cr0(), cr4 = read_cr4();

	RAISES("#GP: CR0.PG without PE", 13, 0, AT("mov %%rax, %%cr0"), "a"(cr0 & ~1ul));
	RAISES("#GP: CR0.NW without CD", 13, 0, AT("mov %%rax, %%cr0"), "a"(cr0 | 1ul << 29));
	RAISES("#GP: CR0 above 32 bits", 13, 0, AT("mov %%rax, %%cr0"), "a"(cr0 | 1ul << 32));
	NO_RAISE("CR0: reserved bits below 32 are ignored", "mov %%rax, %%cr0", "a"(cr0 | 1ul << 28));
	CHECK_EQ(read_cr0(), cr0);
	NO_RAISE("CR0.ET is fixed", "mov %%rax, %%cr0", "a"(cr0 & ~0x10ul));
	CHECK_EQ(read_cr0(), cr0);
	RAISES("#GP: CR4 reserved bit", 13, 0, AT("mov %%rax, %%cr4"), "a"(cr4 | 1ul << 31));
	RAISES("#GP: CR4.PAE cleared in 64-bit mode", 13, 0, AT("mov %%rax, %%cr4"), "a"(cr4 & ~0x20ul));
	RAISES("#GP: CR4.LA57 changed in 64-bit mode", 13, 0, AT("mov %%rax, %%cr4"), "a"(cr4 | 1ul << 12));
	RAISES("#GP: CR3 above the physical addresses", 13, 0, AT("mov %%rax, %%cr3"),
	       "a"(read_cr3() | 1ul << 60));
	RAISES("#GP: CR8 above 15", 13, 0, AT("mov %%rax, %%cr8"), "a"(16ul));
	RAISES("#UD: MOV of CR1", 6, 0, AT(".byte 0x0f, 0x20, 0xc8"));
	RAISES("#UD: MOV of CR5", 6, 0, AT(".byte 0x0f, 0x22, 0xe8"));
	RAISES("#UD: MOV of CR9", 6, 0, AT(".byte 0x44, 0x0f, 0x20, 0xc8"));
	NO_RAISE("MOV of a control register ignores ModRM.mod", ".byte 0x0f, 0x20, 0x00");
	rule("LMSW sets PE, MP, EM, TS but clears no PE; SMSW reads");
	uint64_t value;
	__asm__ volatile("smsw %0" : "=r"(value));
	CHECK_EQ(value, cr0);
	__asm__ volatile("lmsw %w0" : : "r"(CR0_TS));
	CHECK_EQ(read_cr0(), (cr0 & ~(uint64_t)(CR0_MP | CR0_EM)) | CR0_TS);
	write_cr0(cr0);

	RAISES("#GP: RDMSR of an MSR that is not there", 13, 0, AT("rdmsr"), "c"(0x12345678));
	RAISES("#GP: WRMSR of an MSR that is not there", 13, 0, AT("wrmsr"), "c"(0x12345678), "a"(0), "d"(0));
	RAISES("#GP: EFER reserved bit", 13, 0, AT("wrmsr"), "c"(MSR_EFER), "a"(0xd01 | 2), "d"(0));
	RAISES("#GP: EFER.LME cleared while paging", 13, 0, AT("wrmsr"), "c"(MSR_EFER), "a"(0x801), "d"(0));
	rule("EFER.LMA is read-only");
	wrmsr(MSR_EFER, rdmsr(MSR_EFER) & ~0x400ul);
	CHECK_EQ(rdmsr(MSR_EFER) & 0x400, 0x400);
	RAISES("#GP: IA32_PAT with a reserved type", 13, 0, AT("wrmsr"), "c"(0x277), "a"(2), "d"(0));
	RAISES("#GP: IA32_MTRRCAP is read-only", 13, 0, AT("wrmsr"), "c"(0xfe), "a"(0), "d"(0));
	RAISES("#GP: an MTRR with a reserved type", 13, 0, AT("wrmsr"), "c"(0x2ff), "a"(2), "d"(0));
	RAISES("#GP: IA32_SYSENTER_ESP takes a canonical address", 13, 0, AT("wrmsr"), "c"(0x175), "a"(0),
	       "d"(0x8000));
	RAISES("#GP: IA32_APIC_BASE reserved bit", 13, 0, AT("wrmsr"), "c"(0x1b), "a"(0xfee00901), "d"(0));
	RAISES("#GP: IA32_TSC_AUX above 32 bits", 13, 0, AT("wrmsr"), "c"(MSR_TSC_AUX), "a"(0), "d"(1));
	rule("IA32_TSC_AUX is what RDTSCP and RDPID return");
	uint32_t aux;
	wrmsr(MSR_TSC_AUX, 0x1234);
	__asm__ volatile("rdtscp" : "=c"(aux) : : "rax", "rdx");
	CHECK_EQ(aux, 0x1234);
	if (has_feature(7, 2, 22)) {
		__asm__ volatile("rdpid %0" : "=r"(value));
		CHECK_EQ(value, 0x1234);
	}
	rule("IA32_TSC and IA32_TSC_ADJUST move together");
	uint64_t adjust = rdmsr(0x3b), tsc = rdtsc();
	wrmsr(0x3b, adjust + 0x100000000000);
	CHECK(rdtsc() - tsc >= 0x100000000000 && rdtsc() - tsc < 0x100000000000 + 0x100000000);
	wrmsr(0x10, rdtsc() - 0x100000000000);
	CHECK(adjust - rdmsr(0x3b) < 0x1000000000);
	rule("the TSC never goes back");
	uint64_t last = rdtsc();
	bool back = false;
	for (unsigned i = 0; i < 10000; i++) {
		uint64_t now = rdtsc();

		back |= now <= last;
		last = now;
	}
	CHECK(!back);
}

/* SDM, XSAVE-Supported Features and State-Component Bitmaps. */
static void xsave(void)
{
	static uint8_t area[4096] __attribute__((aligned(64))), copy[4096] __attribute__((aligned(64)));
	uint64_t cr4 = read_cr4();
	uint32_t r[4];
	uint64_t all = has_feature(1, 2, 28) ? 7 : 3;

	if (!has_feature(1, 2, 26))
		return;
	rule("CPUID.OSXSAVE follows CR4.OSXSAVE");
	CHECK(!has_feature(1, 2, 27));
	write_cr4(cr4 | CR4_OSXSAVE);
	CHECK(has_feature(1, 2, 27));
	RAISES("#GP: XSETBV without x87", 13, 0, AT("xsetbv"), "c"(0), "a"(2), "d"(0));
	RAISES("#GP: XSETBV of AVX without SSE", 13, 0, AT("xsetbv"), "c"(0), "a"(5), "d"(0));
	RAISES("#GP: XSETBV of what is not there", 13, 0, AT("xsetbv"), "c"(0), "a"(7), "d"(0x40000000));
	RAISES("#GP: XSETBV of XCR1", 13, 0, AT("xsetbv"), "c"(1), "a"(7), "d"(0));
	__asm__ volatile("xsetbv" : : "c"(0), "a"((uint32_t)all), "d"(0));
	rule("XGETBV reads XCR0");
	uint32_t low;
	__asm__ volatile("xgetbv" : "=a"(low) : "c"(0) : "rdx");
	CHECK_EQ(low, all);
	rule("CPUID leaf DH: size of what XCR0 enables");
	cpuid(0xd, 0, r);
	CHECK_EQ(r[0] & 7, all);
	CHECK_EQ(r[1], all == 7 ? 832 : 576);
	CHECK_EQ(r[2], r[1]);
	RAISES("#GP: XSAVE to an address not aligned by 64", 13, 0, AT("xsave (%%rdi)"), "D"(area + 16),
	       "a"(7), "d"(0));
	RAISES("#GP: FXSAVE to an address not aligned by 16", 13, 0, AT("fxsave (%%rdi)"), "D"(area + 8));

	static const char *names[] = {"XSAVE", "XSAVEOPT", "XSAVEC", "XSAVES"};
	cpuid(0xd, 1, r);
	for (unsigned how = 0; how < 4; how++) {
		uint64_t pattern[4] = {0x1122334455667788 + how, 2, 3, 4}, out[4] = {0};
		double one = 0;

		if (how && !(r[0] >> (how == 1 ? 0 : how == 2 ? 1 : 3) & 1))
			continue;
		rule(names[how]);
		memset(area, 0, sizeof(area));
		__asm__ volatile("fninit\n\tfld1\n\tmovdqu (%0), %%xmm5" : : "r"(pattern) : "memory");
		if (all == 7)
			__asm__ volatile("vmovdqu (%0), %%ymm6" : : "r"(pattern) : "memory");
		if (how == 0)
			__asm__ volatile("xsave (%0)" : : "r"(area), "a"(-1), "d"(-1) : "memory");
		else if (how == 1)
			__asm__ volatile("xsaveopt (%0)" : : "r"(area), "a"(-1), "d"(-1) : "memory");
		else if (how == 2)
			__asm__ volatile("xsavec (%0)" : : "r"(area), "a"(-1), "d"(-1) : "memory");
		else
			__asm__ volatile("xsaves (%0)" : : "r"(area), "a"(-1), "d"(-1) : "memory");
		CHECK_EQ(*(uint64_t *)(area + 512), all);
		CHECK_EQ(*(uint64_t *)(area + 520), how < 2 ? 0 : 1ul << 63 | all);
		CHECK_EQ(*(uint64_t *)(area + 160 + 5 * 16), pattern[0]);
		if (all == 7)
			CHECK_EQ(*(uint64_t *)(area + 576 + 6 * 16), 3);
		__asm__ volatile("fninit\n\tpxor %%xmm5, %%xmm5\n\tpxor %%xmm6, %%xmm6" : : : "memory");
		if (all == 7)
			__asm__ volatile("vzeroall");
		if (how == 3)
			__asm__ volatile("xrstors (%0)" : : "r"(area), "a"(-1), "d"(-1) : "memory");
		else
			__asm__ volatile("xrstor (%0)" : : "r"(area), "a"(-1), "d"(-1) : "memory");
		__asm__ volatile("movdqu %%xmm5, (%0)\n\tfstpl %1" : : "r"(out), "m"(one) : "memory");
		CHECK_EQ(out[0], pattern[0]);
		CHECK_EQ(*(uint64_t *)&one, 0x3ff0000000000000);
		if (all == 7) {
			__asm__ volatile("vmovdqu %%ymm6, (%0)" : : "r"(out) : "memory");
			CHECK_EQ(out[3], 4);
		}
	}
	rule("XRSTOR: a component whose XSTATE_BV bit is clear becomes its initial state");
	__asm__ volatile("xsave (%0)" : : "r"(area), "a"(-1), "d"(-1) : "memory");
	*(uint64_t *)(area + 512) = 1;
	uint64_t out[2] = {1, 1};
	__asm__ volatile("pcmpeqd %%xmm3, %%xmm3\n\txrstor (%0)\n\tmovdqu %%xmm3, (%1)"
	                 :
	                 : "r"(area), "r"(out), "a"(-1), "d"(-1)
	                 : "memory");
	CHECK_EQ(out[0], 0);
	rule("XRSTOR: a component that is not asked for stays");
	*(uint64_t *)(area + 512) = 1;
	__asm__ volatile("pcmpeqd %%xmm3, %%xmm3\n\txrstor (%0)\n\tmovdqu %%xmm3, (%1)"
	                 :
	                 : "r"(area), "r"(out), "a"(1), "d"(0)
	                 : "memory");
	CHECK_EQ(out[0], -1ul);
	memcpy(copy, area, 1024);
	*(uint64_t *)(copy + 512) = 1ul << 9;
	RAISES("#GP: XRSTOR of a component that XCR0 does not enable", 13, 0, AT("xrstor (%%rdi)"), "D"(copy),
	       "a"(-1), "d"(-1));
	memcpy(copy, area, 1024);
	*(uint64_t *)(copy + 528) = 1;
	RAISES("#GP: XRSTOR with a header that is not 0", 13, 0, AT("xrstor (%%rdi)"), "D"(copy), "a"(-1),
	       "d"(-1));
	memcpy(copy, area, 1024);
	*(uint64_t *)(copy + 512) = 2;
	*(uint32_t *)(copy + 24) = 0x10000;
	RAISES("#GP: XRSTOR of a reserved MXCSR bit", 13, 0, AT("xrstor (%%rdi)"), "D"(copy), "a"(2), "d"(0));
	__asm__ volatile("xsetbv" : : "c"(0), "a"(3), "d"(0));
	cpuid(0xd, 0, r);
	rule("CPUID leaf DH: EBX follows XCR0");
	CHECK_EQ(r[1], 576);
	write_cr4(cr4);
}

/* SDM, CPUID. */
static void cpuid_rules(void)
{
	uint32_t r[4], s[4];

	rule("CPUID: GenuineIntel; leaves above the highest are the highest's");
	cpuid(0, 0, r);
	CHECK_EQ(r[1], 0x756e6547);
	CHECK(r[0] >= 0xd);
	cpuid(r[0], 0, s);
	uint32_t above[4];
	cpuid(0x3fffffff, 0, above);
	CHECK_EQ(above[0], s[0]);
	rule("CPUID: upper halves of the registers are cleared");
	uint64_t rax, rbx;
	__asm__ volatile("mov $-1, %%rax\n\tmov %%rax, %%rbx\n\tmov $0, %%eax\n\tcpuid"
	                 : "=a"(rax), "=b"(rbx)
	                 : "c"(0)
	                 : "rdx");
	CHECK_EQ(rax >> 32 | rbx >> 32, 0);
	rule("CPUID: the APIC bit follows IA32_APIC_BASE");
	CHECK(has_feature(1, 3, 9));
	wrmsr(0x1b, rdmsr(0x1b) & ~0x800ul);
	CHECK(!has_feature(1, 3, 9));
	wrmsr(0x1b, rdmsr(0x1b) | 0x800);
	CHECK(has_feature(1, 3, 9));
	rule("CPUID: address widths; features of the extended leaf");
	cpuid(0x80000008, 0, r);
	CHECK((r[0] & 0xff) >= 36 && (r[0] & 0xff) <= 52);
	CHECK_EQ(r[0] >> 8 & 0xff, 48);
	cpuid(0x80000001, 0, r);
	CHECK((r[3] & (1u << 29 | 1u << 20 | 1u << 11)) == (1u << 29 | 1u << 20 | 1u << 11));
	rule("what CPUID does not announce is #UD");
	if (!has_feature(7, 1, 16)) /* AVX-512F */
		CHECK_EQ(TRY(".byte 0x62, 0xf1, 0x7c, 0x48, 0x58, 0xc0", , ), 6);
	if (!has_feature(0x80000001, 2, 6)) /* SSE4A: EXTRQ */
		CHECK_EQ(TRY(".byte 0x66, 0x0f, 0x79, 0xc0", , ), 6);
	if (!has_feature(0x80000001, 2, 16)) /* FMA4 */
		CHECK_EQ(TRY(".byte 0xc4, 0xe3, 0xf9, 0x68, 0xc0, 0x00", , ), 6);
	if (!has_feature(0x80000001, 2, 2)) /* SVM */
		CHECK_EQ(TRY("vmrun", , "a"(0)), 6);
	if (!has_feature(1, 2, 5)) /* VMX */
		CHECK_EQ(TRY(".byte 0x0f, 0x01, 0xc1", , ), 6);
	if (!has_feature(0x80000001, 3, 31)) /* 3DNow! */
		CHECK_EQ(TRY(".byte 0x0f, 0x0f, 0xc0, 0x9e", , ), 6);
	if (!has_feature(7, 1, 11)) /* RTM */
		CHECK_EQ(TRY(".byte 0xc7, 0xf8, 0, 0, 0, 0", , ), 6);
}

#define UD(bytes)                                                                                            \
	do {                                                                                                 \
		CHECK_EQ(TRY(AT(".byte " bytes), , , "rax"), 6);                                             \
		CHECK_EQ(fault.rip, expected_rip);                                                           \
	} while (0)

/* SDM volume 2, Instruction Prefixes; LOCK; Instruction length. */
static void encodings(void)
{
	static __attribute__((aligned(16))) uint64_t cell[4];

	rule("#UD: LOCK on what cannot be locked");
	UD("0xf0, 0x90");                         /* NOP */
	UD("0xf0, 0x01, 0xc0");                   /* ADD of registers */
	UD("0xf0, 0x8b, 0x04, 0x24");             /* MOV */
	UD("0xf0, 0x03, 0x04, 0x24");             /* ADD to a register */
	UD("0xf0, 0x83, 0x3c, 0x24, 0x00");       /* CMP */
	UD("0xf0, 0x85, 0x04, 0x24");             /* TEST */
	UD("0xf0, 0xff, 0x34, 0x24");             /* PUSH */
	UD("0xf0, 0x0f, 0xba, 0x24, 0x24, 0x00"); /* BT */
	UD("0xf0, 0xd1, 0x24, 0x24");             /* SHL */
	UD("0xf0, 0xa4");                         /* MOVSB */
	UD("0xf0, 0xeb, 0x00");                   /* JMP */
	UD("0xf0, 0x0f, 0xa2");                   /* CPUID */
	UD("0xf0, 0x0f, 0x01, 0xf8");             /* SWAPGS */
	UD("0xf0, 0x0f, 0xc0, 0xc0");             /* XADD of registers */
	UD("0xf0, 0x0f, 0xb1, 0xc0");             /* CMPXCHG of registers */
	UD("0xf0, 0x0f, 0x58, 0xc0");             /* ADDPS */
	UD("0xf0, 0xcc");                         /* INT3 */
	NO_RAISE("LOCK on what can be locked",
	         "lock addl $1, (%%rdi)\n\tlock adc %%eax, (%%rdi)\n\tlock btsl $1, (%%rdi)\n\tlock negl "
	         "(%%rdi)\n\t"
	         "lock notl (%%rdi)\n\tlock incl (%%rdi)\n\tlock xadd %%eax, (%%rdi)\n\tlock xchg %%eax, "
	         "(%%rdi)\n\t"
	         "lock cmpxchg8b (%%rdi)\n\tlock sbbb $1, (%%rdi)\n\tlock xorw $1, (%%rdi)",
	         "D"(cell));
	rule("#GP: an instruction of more than 15 bytes");
	CHECK_EQ(TRY(AT(".fill 14, 1, 0x66; nop"), , ), NO_FAULT);
	CHECK_EQ(TRY(AT(".fill 15, 1, 0x66; nop"), , ), 13);
	CHECK_EQ(fault.error, 0);
	CHECK_EQ(fault.rip, expected_rip);
	CHECK_EQ(
	    TRY(AT(".fill 4, 1, 0x2e; .byte 0x48, 0xc7, 0x84, 0x24, 0, 0xff, 0xff, 0xff, 0, 0, 0, 0"), , ),
	    13);
	CHECK_EQ(
	    TRY(AT(".fill 3, 1, 0x2e; .byte 0x48, 0xc7, 0x84, 0x24, 0, 0xff, 0xff, 0xff, 0, 0, 0, 0"), , ),
	    NO_FAULT);

	uint64_t value, other;
	rule("REX must be the last prefix");
	/* REX.W, 66H, MOV: 16-bit. */
	__asm__ volatile("mov $-1, %%rax\n\t.byte 0x48, 0x66, 0xb8, 0x34, 0x12" : "=a"(value));
	CHECK_EQ(value, 0xffffffffffff1234);
	rule("REX.W wins over 66H");
	__asm__ volatile("mov $-1, %%rax\n\tmov $5, %%ecx\n\t.byte 0x66, 0x48, 0x89, 0xc8"
	                 : "=a"(value)
	                 :
	                 : "rcx");
	CHECK_EQ(value, 5);
	rule("with any REX byte registers 4-7 are SPL-DIL");
	__asm__ volatile("mov $0x1234, %%eax\n\tmov $0x56, %%esi\n\t.byte 0x40, 0x88, 0xf0"
	                 : "=a"(value)
	                 :
	                 : "rsi");
	CHECK_EQ(value, 0x1256);
	__asm__ volatile("mov $0x1234, %%eax\n\tmov $0x5678, %%edx\n\t.byte 0x88, 0xf0"
	                 : "=a"(value)
	                 :
	                 : "rdx");
	CHECK_EQ(value, 0x1256);
	rule("NOP is no XCHG with REX.B: XCHG R8");
	__asm__ volatile("mov $1, %%eax\n\tmov $2, %%r8d\n\t.byte 0x41, 0x90\n\tmov %%r8, %1"
	                 : "=a"(value), "=r"(other)
	                 :
	                 : "r8");
	CHECK_EQ(value, 2);
	CHECK_EQ(other, 1);
	rule("REX.B on R12 and R13 as a base: SIB and displacement stay");
	cell[0] = 0xabcd;
	__asm__ volatile("mov %1, %%r12\n\tmov (%%r12), %0" : "=r"(value) : "r"(cell) : "r12", "memory");
	CHECK_EQ(value, 0xabcd);
	__asm__ volatile("mov %1, %%r13\n\tmov (%%r13), %0" : "=r"(value) : "r"(cell) : "r13", "memory");
	CHECK_EQ(value, 0xabcd);
	__asm__ volatile("mov %1, %%r12\n\txor %%eax, %%eax\n\tmov (%%rax,%%r12), %0"
	                 : "=&r"(value)
	                 : "r"(cell)
	                 : "r12", "rax", "memory");
	CHECK_EQ(value, 0xabcd);
	rule("32-bit results clear the upper half, 16- and 8-bit ones keep it");
	__asm__ volatile("mov $-1, %0\n\tmov $1, %k0" : "=r"(value));
	CHECK_EQ(value, 1);
	__asm__ volatile("mov $-1, %0\n\txor %w0, %w0" : "=r"(value));
	CHECK_EQ(value, 0xffffffffffff0000);
	__asm__ volatile("mov $-1, %%rax\n\tcmp %%eax, %%ecx\n\tcmovne %%ecx, %%eax" : "=a"(value) : "c"(-1));
	CHECK_EQ(value, 0xffffffff);
	rule("MOVSXD, MOV moffs64, PUSH imm, ENTER, LEAVE, XLAT");
	__asm__ volatile("movslq %1, %0" : "=r"(value) : "r"(0x80000000));
	CHECK_EQ(value, 0xffffffff80000000);
	__asm__ volatile("movabs cell_absolute, %%rax" : "=a"(value));
	CHECK_EQ(value, 0x77);
	__asm__ volatile("push $-2\n\tpop %0" : "=r"(value));
	CHECK_EQ(value, -2ul);
	__asm__ volatile("mov %%rsp, %%rbx\n\tpush %%rbp\n\tmov %%rsp, %%rbp\n\tenter $32, "
	                 "$3\n\tleave\n\tpop %%rbp\n\tsub %%rsp, %%rbx"
	                 : "=b"(value)
	                 :
	                 : "memory");
	CHECK_EQ(value, 0);
	cell[0] = 0x5500;
	__asm__ volatile("xlat" : "=a"(value) : "a"(1), "b"(cell));
	CHECK_EQ(value, 0x55);

	rule("CMPXCHG16B");
	uint64_t low, high;
	uint8_t zero;
	cell[0] = 1;
	cell[1] = 2;
	__asm__ volatile("lock cmpxchg16b (%4)\n\tsetz %2"
	                 : "=a"(low), "=d"(high), "=q"(zero)
	                 : "0"(1ul), "r"(cell), "1"(2ul), "b"(3ul), "c"(4ul)
	                 : "memory", "cc");
	CHECK_EQ(zero, 1);
	CHECK_EQ(cell[0], 3);
	CHECK_EQ(cell[1], 4);
	__asm__ volatile("cmpxchg16b (%4)\n\tsetz %2"
	                 : "=a"(low), "=d"(high), "=q"(zero)
	                 : "0"(1ul), "r"(cell), "1"(2ul), "b"(5ul), "c"(6ul)
	                 : "memory", "cc");
	CHECK_EQ(zero, 0);
	CHECK_EQ(low, 3);
	CHECK_EQ(high, 4);
	CHECK_EQ(cell[0], 3);
	RAISES("#GP: CMPXCHG16B not aligned by 16", 13, 0, AT("cmpxchg16b 8(%%rdi)"), "D"(cell));
	RAISES("#UD: CMPXCHG8B of a register", 6, 0, AT(".byte 0x0f, 0xc7, 0xc8"));
	RAISES("#UD: LEA of a register", 6, 0, AT(".byte 0x8d, 0xc0"));
	RAISES("#UD: INVLPG of a register", 6, 0, AT(".byte 0x0f, 0x01, 0xfe"));
	RAISES("#UD: group 1A /1", 6, 0, AT(".byte 0x8f, 0x0c, 0x24"));
	RAISES("#UD: FEH /2", 6, 0, AT(".byte 0xfe, 0xd0"));
	RAISES("#UD: FFH /7", 6, 0, AT(".byte 0xff, 0xff"));
	RAISES("#UD: C6H /1", 6, 0, AT(".byte 0xc6, 0xc8, 0x00"));
	RAISES("#UD: far JMP of a register", 6, 0, AT(".byte 0xff, 0xe8"));
	NO_RAISE("NOPs of many kinds", ".byte 0xf3, 0x90, 0x0f, 0x1f, 0x00, 0x0f, 0x19, 0xc0, 0x0f, 0x18, "
	                               "0xe0, 0x66, 0x90, 0xf3, 0x0f, 0x1e, 0xfa");
}
uint64_t cell_absolute = 0x77;

void guest_main(void)
{
	user_setup();
	test_hook = return_hook;
	__asm__ volatile("lldt %w0" : : "r"(0));
	memset(runtime_tss + 102, 0xff, 2);
	fast_system_calls();
	sysenter();
	bases();
	privileged();
	control_registers();
	xsave();
	cpuid_rules();
	encodings();
}

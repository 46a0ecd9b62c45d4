/*
 * Exceptions in 64-bit mode: vector, error code, return address, flags and stack of each (SDM volume 3,
 * Interrupt and Exception Handling; Interrupt and Exception Reference).
 */
#include "runtime/user.h"

#define GDT_OWN(n) runtime_gdt[(OWN >> 3) + (n)]

/* SDM, Interrupt 0-Divide Error; 3-Breakpoint; 6-Invalid Opcode. */
uint64_t saved_rsp; /* of a branch under test; written by its assembly */

static void computing(void)
{
	RAISES("#DE: DIV by zero is a fault", 0, 0, AT("divl %%ecx"), "a"(1), "d"(0), "c"(0));
	RAISES("#DE: IDIV of the least number by -1", 0, 0, AT("idivl %%ecx"), "a"(0x80000000), "d"(-1),
	       "c"(-1));
	RAISES("#DE: 8-bit quotient too large", 0, 0, AT("divb %%cl"), "a"(0x1000), "c"(1));
	RAISES("#DE: 64-bit quotient too large", 0, 0, AT("divq %%rcx"), "a"(0), "d"(5), "c"(5));
	RAISES("#DB: INT1 is a trap", 1, 0, AFTER(".byte 0xf1"));
	RAISES("#BP: INT3 is a trap", 3, 0, AFTER("int3"));
	RAISES("#BP: INT 3 in two bytes", 3, 0, AFTER(".byte 0xcd, 3"));
	RAISES("#UD: UD2", 6, 0, AT("ud2"));
	RAISES("#UD: UD1", 6, 0, AT(".byte 0x0f, 0xb9, 0xc0"));
	RAISES("#UD: UD0", 6, 0, AT(".byte 0x0f, 0xff, 0xc0"));
	RAISES("INT n pushes no error code, also for vector 13", 0x21, 0, AFTER("int $0x21"));
}

/* SDM, 64-Bit Mode Instructions that are invalid. */
static void invalid_in_64bit(void)
{
#define INVALID(byte)                                                                                        \
	TRY(AT(".byte " #byte ", 0xc0, 0, 0, 0, 0, 0"), , , "rax");                                          \
	CHECK_EQ(fault.vector, 6);                                                                           \
	CHECK_EQ(fault.rip, expected_rip)
	rule("#UD: opcodes that 64-bit mode does not have");
	INVALID(0x06);
	INVALID(0x07);
	INVALID(0x0e);
	INVALID(0x16);
	INVALID(0x17);
	INVALID(0x1e);
	INVALID(0x1f);
	INVALID(0x27);
	INVALID(0x2f);
	INVALID(0x37);
	INVALID(0x3f);
	INVALID(0x60);
	INVALID(0x61);
	INVALID(0x82);
	INVALID(0x9a);
	INVALID(0xce);
	INVALID(0xd4);
	INVALID(0xd5);
	INVALID(0xd6);
	INVALID(0xea);
}

/* SDM, Interrupt 7-Device Not Available; Effects of EM, MP and TS; System Programming for SSE. */
static void device_not_available(void)
{
	uint64_t cr0 = read_cr0(), cr4 = read_cr4();

	write_cr0(cr0 | CR0_TS);
	RAISES("#NM: x87 with CR0.TS", 7, 0, AT("fld1"));
	RAISES("#NM: WAIT with CR0.TS and MP", 7, 0, AT("fwait"));
	RAISES("#NM: SSE with CR0.TS", 7, 0, AT("movaps %%xmm0, %%xmm1"));
	RAISES("#NM: MMX with CR0.TS", 7, 0, AT("movq %%mm0, %%mm1"));
	RAISES("#NM: FXSAVE with CR0.TS", 7, 0, AT("fxsave (%%rax)"), "a"(user_stack));
	NO_RAISE("PREFETCH and PAUSE ignore CR0.TS", "prefetcht0 (%%rax)\n\tpause", "a"(user_stack));
	write_cr0((cr0 | CR0_TS) & ~(uint64_t)CR0_MP);
	NO_RAISE("WAIT with CR0.TS alone", "fwait");
	write_cr0(cr0 | CR0_EM);
	RAISES("#NM: x87 with CR0.EM", 7, 0, AT("fnop"));
	RAISES("#UD: SSE with CR0.EM", 6, 0, AT("movaps %%xmm0, %%xmm1"));
	RAISES("#UD: MMX with CR0.EM", 6, 0, AT("movq %%mm0, %%mm1"));
	write_cr0(cr0);
	NO_RAISE("CLTS clears CR0.TS", "clts\n\tfnop");
	write_cr4(cr4 & ~(uint64_t)CR4_OSFXSR);
	RAISES("#UD: SSE without CR4.OSFXSR", 6, 0, AT("movaps %%xmm0, %%xmm1"));
	NO_RAISE("MMX needs no CR4.OSFXSR", "movq %%mm0, %%mm1\n\temms");
	write_cr4(cr4 & ~(uint64_t)CR4_OSXSAVE);
	RAISES("#UD: XGETBV without CR4.OSXSAVE", 6, 0, AT("xgetbv"), "c"(0));
	RAISES("#UD: XSAVE without CR4.OSXSAVE", 6, 0, AT("xsave (%%rdi)"), "D"(user_stack));
	RAISES("#UD: AVX without CR4.OSXSAVE", 6, 0, AT("vxorps %%ymm0, %%ymm0, %%ymm0"));
	write_cr4(cr4);
	if (has_feature(1, 2, 28)) {
		write_cr4(cr4 | CR4_OSXSAVE);
		__asm__ volatile("xsetbv" : : "c"(0), "a"(7), "d"(0));
		NO_RAISE("AVX where XCR0 has it", "vxorps %%ymm0, %%ymm0, %%ymm0");
		write_cr0(cr0 | CR0_TS);
		RAISES("#NM: AVX with CR0.TS", 7, 0, AT("vxorps %%ymm0, %%ymm0, %%ymm0"));
		write_cr0(cr0);
		__asm__ volatile("xsetbv" : : "c"(0), "a"(3), "d"(0));
		RAISES("#UD: AVX without XCR0.AVX", 6, 0, AT("vxorps %%ymm0, %%ymm0, %%ymm0"));
		RAISES("#UD: VEX-coded BMI needs no XCR0 but LOCK is bad", 6, 0,
		       AT(".byte 0xf0; andn %%eax, %%eax, %%eax"));
		write_cr4(cr4);
	}
}

/* SDM, Interrupt 16-x87 FPU Floating-Point Error; 19-SIMD Floating-Point Exception. */
static void floating_point(void)
{
	static const uint32_t masked = 0x1f80, unmasked = 0x1f80 & ~(1u << 9);
	static const uint16_t control = 0x37f & ~4;
	uint64_t cr4 = read_cr4();
	uint16_t status;

	__asm__ volatile("fninit\n\tfldcw %0" : : "m"(control));
	RAISES("#MF: at the next waiting x87 instruction", 16, 0,
	       "fld1\n\tfldz\n\tfdivrp %%st, %%st(1)\n\tnop\n\tnop\n\tfnstsw %%ax\n\t" AT("fld1"));
	__asm__ volatile("fnstsw %0" : "=m"(status));
	CHECK(status & 4 && status & 0x80);
	RAISES("#MF: WAIT raises it", 16, 0, AT("fwait"));
	NO_RAISE("#MF: FNCLEX ends it", "fnclex\n\tfwait\n\tfninit");
	__asm__ volatile("ldmxcsr %0" : : "m"(unmasked));
	RAISES("#XM: DIVSS by zero is a fault", 19, 0,
	       "xorps %%xmm1, %%xmm1\n\tpcmpeqd %%xmm0, %%xmm0\n\tpsrld $31, %%xmm0\n\tcvtdq2ps %%xmm0, "
	       "%%xmm0\n\t" AT("divss %%xmm1, %%xmm0"));
	write_cr4(cr4 & ~(uint64_t)CR4_OSXMMEXCPT);
	RAISES("#UD: in place of #XM without CR4.OSXMMEXCPT", 6, 0,
	       "xorps %%xmm1, %%xmm1\n\tpcmpeqd %%xmm0, %%xmm0\n\tpsrld $31, %%xmm0\n\tcvtdq2ps %%xmm0, "
	       "%%xmm0\n\t" AT("divss %%xmm1, %%xmm0"));
	write_cr4(cr4);
	__asm__ volatile("ldmxcsr %0" : : "m"(masked));
	RAISES("#GP: LDMXCSR of a reserved bit", 13, 0, AT("ldmxcsr (%%rdi)"), "D"(&(uint32_t){0x10000}));
	RAISES("#GP: MOVAPS at an unaligned address", 13, 0, AT("movaps 1(%%rdi), %%xmm0"), "D"(user_stack));
	RAISES("#GP: PADDD at an unaligned address", 13, 0, AT("paddd 4(%%rdi), %%xmm0"), "D"(user_stack));
	NO_RAISE("MOVUPS at an unaligned address", "movups 1(%%rdi), %%xmm0", "D"(user_stack));
}

/* SDM, Interrupt 11-Segment Not Present; 12-Stack-Segment Fault; 13-General Protection. */
static void segment_faults(void)
{
	GDT_OWN(0) = 0x00cf13000000ffff; /* data, not present */
	GDT_OWN(1) = 0x00cf99000000ffff; /* code, execute-only */
	RAISES("#NP: DS from a descriptor that is not present", 11, OWN, AT("mov %%eax, %%ds"), "a"(OWN));
	RAISES("#SS: SS from a descriptor that is not present", 12, OWN, AT("mov %%eax, %%ss"), "a"(OWN));
	RAISES("#GP: DS from execute-only code", 13, OWN + 8, AT("mov %%eax, %%ds"), "a"(OWN + 8));
	RAISES("#GP: SS from code", 13, CODE64, AT("mov %%eax, %%ss"), "a"(CODE64));
	RAISES("#GP: SS with an RPL other than the CPL", 13, DATA, AT("mov %%eax, %%ss"), "a"(DATA | 1));
	RAISES("#GP: a selector beyond the GDT, RPL not in the error code", 13, 0x1000, AT("mov %%eax, %%es"),
	       "a"(0x1003));
	RAISES("#GP: a selector of no LDT, TI in the error code", 13, 0x14, AT("mov %%eax, %%fs"), "a"(0x14));
	RAISES("#UD: MOV to CS", 6, 0, AT(".byte 0x8e, 0xc8"));
	RAISES("#UD: MOV to segment register 6", 6, 0, AT(".byte 0x8e, 0xf0"));
	RAISES("#GP: a non-canonical address", 13, 0, AT("mov (%%rdi), %%eax"), "D"(1ul << 47));
	RAISES("#GP: a non-canonical address written", 13, 0, AT("mov %%eax, (%%rdi)"), "D"(~(1ul << 47)));
	RAISES("#SS: a non-canonical address off RBP", 12, 0,
	       "mov %%rbp, %%rdx\n\tmov %%rdi, %%rbp\n\t" AT("mov (%%rbp), %%eax"), "D"(1ul << 47));
	RAISES("#GP: an access that runs into the hole", 13, 0, AT("mov -4(%%rdi), %%rax"), "D"(1ul << 47));
	RAISES("#GP: a jump to a non-canonical address faults at the jump", 13, 0, AT("jmp *%%rdi"), "D"(1ul << 47));
	RAISES("#GP: so does a call, RSP unchanged", 13, 0, "mov %%rsp, saved_rsp\n\t" AT("call *%%rdi"), "D"(1ul << 47));
	CHECK_EQ(last_frame.rsp, saved_rsp);
	RAISES("#GP: so does RET, RSP unchanged", 13, 0, "push %%rdi\n\tmov %%rsp, saved_rsp\n\t" AT("ret"), "D"(1ul << 47));
	CHECK_EQ(last_frame.rsp, saved_rsp);
	NO_RAISE("INVLPG of a non-canonical address does nothing", "invlpg (%%rdi)", "D"(1ul << 47));
}

/* SDM, Interrupt Stack Table: a #SS by RSP needs a handler with a stack of its own. */
static void stack_fault(void)
{
	ist_set(1, KERNEL_STACK_TOP);
	gate_set(12, 0xe, 0, 1, true);
	RAISES("#SS: PUSH to a non-canonical address; RSP stays", 12, 0,
	       "mov %%rdi, %%rsp\n\t" AT("push %%rax"), "D"(1ul << 63));
	CHECK_EQ(last_frame.rsp, 1ul << 63);
	RAISES("#SS: POP from a non-canonical address", 12, 0, "mov %%rdi, %%rsp\n\t" AT("pop %%rax"),
	       "D"(1ul << 63));
	CHECK_EQ(last_frame.rsp, 1ul << 63);
	RAISES("#SS: CALL with a non-canonical stack", 12, 0, "mov %%rdi, %%rsp\n\t" AT("call user_run"),
	       "D"(1ul << 63));
	CHECK_EQ(last_frame.rsp, 1ul << 63);
	gate_set(12, 0xe, 0, 0, true);
}

/* SDM, Error Code; IDT vector as error code. */
static void gates(void)
{
	RAISES("#GP: INT n through an empty gate: its vector and IDT bit", 13, 0x90 * 8 + 2,
	       "movq $0, runtime_idt + 0x900\n\t" AT("int $0x90"));
	gate_set(0x91, 0xe, 0, 0, false);
	RAISES("#NP: INT n through a gate that is not present", 11, 0x91 * 8 + 2, AT("int $0x91"));
	gate_set(0x91, 0x5, 0, 0, true);
	RAISES("#GP: a task gate in IA-32e mode", 13, 0x91 * 8 + 2, AT("int $0x91"));
	gate_set(0x91, 0x6, 0, 0, true);
	RAISES("#GP: a 16-bit interrupt gate in IA-32e mode", 13, 0x91 * 8 + 2, AT("int $0x91"));
	runtime_idt[2 * 0x92] = (runtime_idt[2 * 0x92] & ~0xffff0000ul) | (uint64_t)CODE32 << 16;
	RAISES("#GP: a gate to 32-bit code in IA-32e mode", 13, CODE32, AT("int $0x92"));
	runtime_idt[2 * 0x92] = (runtime_idt[2 * 0x92] & ~0xffff0000ul) | (uint64_t)DATA << 16;
	RAISES("#GP: a gate to data", 13, DATA, AT("int $0x92"));
	runtime_idt[2 * 0x92] = (runtime_idt[2 * 0x92] & ~0xffff0000ul);
	RAISES("#GP: a gate with a null selector", 13, 0, AT("int $0x92"));
	gate_set(6, 0xe, 0, 0, false);
	RAISES("#NP: while delivering #UD, with EXT", 11, 6 * 8 + 3, AT("ud2"));
	gate_set(6, 0xe, 0, 0, true);
	gate_set(3, 0xe, 0, 0, false);
	RAISES("#NP: while delivering #BP, without EXT, at INT3", 11, 3 * 8 + 2, AT("int3"));
	gate_set(3, 0xe, 0, 0, true);
	gate_set(1, 0xe, 0, 0, false);
	RAISES("#NP: while delivering INT1, with EXT", 11, 1 * 8 + 3, AT(".byte 0xf1"));
	gate_set(1, 0xe, 0, 0, true);

	struct __attribute__((packed)) {
		uint16_t limit;
		uint64_t base;
	} small = {16 * 0x21 - 1, (uint64_t)runtime_idt}, whole = {4095, (uint64_t)runtime_idt},
	  bad_pointer = {4095, 1ul << 47};

	__asm__ volatile("lidt %0" : : "m"(small));
	RAISES("#GP: INT n beyond the IDT's limit", 13, 0x21 * 8 + 2, AT("int $0x21"));
	__asm__ volatile("lidt %0" : : "m"(whole));
	RAISES("#GP: LIDT of a non-canonical base", 13, 0, AT("lidt (%%rdi)"), "D"(&bad_pointer));
}

/* SDM, Interrupt 8-Double Fault. */
static void double_fault(void)
{
	gate_set(13, 0xe, 0, 0, false);
	RAISES("#DF: #NP while delivering #GP", 8, 0, AT("mov (%%rdi), %%eax"), "D"(1ul << 47));
	gate_set(13, 0xe, 0, 0, true);
	gate_set(0, 0xe, 0, 0, false);
	RAISES("#DF: #NP while delivering #DE", 8, 0, AT("div %%ecx"), "c"(0));
	gate_set(0, 0xe, 0, 0, true);

	uint64_t unmapped = 1ul << 40;

	ist_set(2, unmapped + 4096);
	gate_set(14, 0xe, 0, 2, true);
	RAISES("#DF: #PF while delivering #PF", 8, 0, AT("mov (%%rdi), %%eax"), "D"(unmapped + 0x10000));
	CHECK_EQ(fault.cr2, unmapped + 4096 - 8);
	gate_set(14, 0xe, 0, 0, true);
	gate_set(14, 0xe, 0, 0, false);
	RAISES("#DF: #NP while delivering #PF", 8, 0, AT("mov (%%rdi), %%eax"), "D"(unmapped + 0x20000));
	CHECK_EQ(fault.cr2, unmapped + 0x20000);
	gate_set(14, 0xe, 0, 0, true);
	gate_set(13, 0xe, 0, 2, true);
	RAISES("#PF while delivering #GP is a #PF", 14, 2, AT("mov (%%rdi), %%eax"), "D"(1ul << 47));
	CHECK_EQ(fault.cr2, unmapped + 4096 - 8);
	gate_set(13, 0xe, 0, 0, true);
	gate_set(6, 0xe, 0, 2, true);
	RAISES("#PF while delivering #UD is a #PF", 14, 2, AT("ud2"));
	gate_set(6, 0xe, 0, 0, true);
	ist_set(2, 1ul << 47);
	gate_set(6, 0xe, 0, 2, true);
	RAISES("#SS: a non-canonical IST pointer, with EXT", 12, 1, AT("ud2"));
	gate_set(6, 0xe, 0, 0, true);
}

/* SDM, 64-Bit Mode Stack Frame; Flag Usage by Exception- or Interrupt-Handler Procedure; Interrupt Stack
 * Table. */
static void frames(void)
{
	rule("RF is pushed set by faults, clear by traps");
	TRY("ud2", , );
	CHECK_EQ(fault.rflags & FLAG_RF, FLAG_RF);
	TRY("mov (%%rdi), %%eax", , "D"(1ul << 40), "rax");
	CHECK_EQ(fault.rflags & FLAG_RF, FLAG_RF);
	TRY("int3", , );
	CHECK_EQ(fault.rflags & FLAG_RF, 0);
	TRY("int $0x21", , );
	CHECK_EQ(fault.rflags & FLAG_RF, 0);

	rule("a handler's frame is aligned by 16");
	for (unsigned i = 0; i < 16; i += 4) {
		uint64_t before;

		TRY("mov %%rsp, %%rbx\n\tlea -256(%%rsp), %%rsp\n\tsub %1, %%rsp\n\tmov %%rsp, %0\n\tint "
		    "$0x21\n\tmov %%rbx, %%rsp",
		    "=&r"(before), "r"((uint64_t)i), "rbx");
		CHECK_EQ(last_frame.rsp, before);
		CHECK_EQ(last_frame_address, (before & ~15ul) - sizeof(struct frame));
	}
	rule("IST changes the stack, also without a change of CPL; SS stays");
	ist_set(3, KERNEL_STACK_TOP - 8);
	gate_set(0x93, 0xe, 0, 3, true);
	TRY("int $0x93", , );
	CHECK_EQ(last_frame_address, KERNEL_STACK_TOP - 16 - sizeof(struct frame));
	CHECK_EQ(handler_ss, DATA);
	CHECK_EQ(last_frame.ss, DATA);

	rule("an interrupt gate clears IF, TF and NT; a trap gate keeps IF");
	TRY("pushfq\n\torq $0x4200, (%%rsp)\n\tpopfq\n\tint $0x21\n\tpushfq\n\tandq $~0x4200, "
	    "(%%rsp)\n\tpopfq",
	    , );
	CHECK_EQ(last_frame.rflags & (FLAG_IF | FLAG_NT), FLAG_IF | FLAG_NT);
	CHECK_EQ(handler_rflags & (FLAG_IF | FLAG_TF | FLAG_NT), 0);
	gate_set(0x22, 0xf, 0, 0, true);
	TRY("sti\n\tint $0x22\n\tcli", , );
	CHECK_EQ(handler_rflags & FLAG_IF, FLAG_IF);
	gate_set(0x22, 0xe, 0, 0, true);
	rule("AC, DF and ID stay as they are in the handler");
	TRY("pushfq\n\torq $0x240000, (%%rsp)\n\tpopfq\n\tint $0x21\n\tpushfq\n\tandq $~0x240000, "
	    "(%%rsp)\n\tpopfq",
	    , );
	CHECK_EQ(handler_rflags & (FLAG_AC | FLAG_ID), FLAG_AC | FLAG_ID);
	CHECK_EQ(last_frame.rflags & (FLAG_AC | FLAG_ID), FLAG_AC | FLAG_ID);
	rule("arithmetic flags in the frame and after IRET");
	for (unsigned flags = 0; flags < 0x100; flags += 5) {
		uint64_t want = (flags & 0xd5) | (flags & 2 ? 0x800 : 0), after;

		TRY("pushfq\n\tandq $~0x8d5, (%%rsp)\n\torq %1, (%%rsp)\n\tpopfq\n\tud2\n\t", ,
		    OPERANDS("r"(0ul), "r"(want)));
		CHECK_EQ(fault.rflags & 0x8d5, want);
		TRY("pushfq\n\tandq $~0x8d5, (%%rsp)\n\torq %1, (%%rsp)\n\tpopfq\n\tint3\n\tpushfq\n\tpopq "
		    "%0",
		    "=r"(after), "r"(want));
		CHECK_EQ(after & 0x8d5, want);
	}
}

static void misaligned(void)
{
	TRY("mov 1(%%rdi), %%eax", , "D"(user_stack), "rax");
}

static void misaligned_string(void)
{
	uint8_t *to = user_stack, *from = user_stack + 2;

	TRY("movsl", OPERANDS("+D"(to), "+S"(from)), );
}

static void aligned(void)
{
	TRY("mov 2(%%rdi), %%ax\n\tmovb 3(%%rdi), %%al\n\tmov 8(%%rdi), %%rax", , "D"(user_stack), "rax");
}

static void user_int_0(void)
{
	TRY(AT("int $0x21"), , );
}

static void user_cli(void)
{
	TRY(AT("cli"), , );
}

static void user_hlt(void)
{
	TRY(AT("hlt"), , );
}

static void user_int3(void)
{
	TRY(AFTER("int3"), , );
}

static void user_ud(void)
{
	TRY(AT("ud2"), , );
}

static void user_io(void)
{
	TRY(AT("in $0x60, %%al"), , , "rax");
}

/* SDM, Interrupt 17-Alignment Check; Protection of Exception- and Interrupt-Handler Procedures. */
static void from_user(void)
{
	uint64_t cr0 = read_cr0();

	rule("#AC: at CPL 3 with AM and AC; error code 0");
	write_cr0(cr0 | CR0_AM);
	user_call(misaligned, FLAG_AC);
	CHECK_EQ(fault.vector, 0x80);
	CHECK_EQ(interrupts[17], 1);
	rule("#AC: string instructions");
	user_call(misaligned_string, FLAG_AC);
	CHECK_EQ(interrupts[17], 2);
	rule("#AC: not where aligned");
	user_call(aligned, FLAG_AC);
	CHECK_EQ(interrupts[17], 2);
	rule("#AC: not with AC clear");
	user_call(misaligned, 0);
	CHECK_EQ(interrupts[17], 2);
	rule("#AC: not at CPL 0");
	TRY("pushfq\n\torq $0x40000, (%%rsp)\n\tpopfq\n\tmov 1(%%rdi), %%eax\n\tpushfq\n\tandq $~0x40000, "
	    "(%%rsp)\n\tpopfq",
	    , "D"(user_stack), "rax");
	CHECK_EQ(fault.vector, NO_FAULT);
	write_cr0(cr0);
	rule("#AC: not with AM clear");
	user_call(misaligned, FLAG_AC);
	CHECK_EQ(interrupts[17], 2);

	static const struct {
		const char *name;
		void (*function)(void);
		unsigned vector, error;
	} rows[] = {
	    {"#GP: INT n at CPL 3 through a gate of DPL 0", user_int_0, 13, 0x21 * 8 + 2},
	    {"#GP: CLI at CPL 3", user_cli, 13, 0},
	    {"#GP: HLT at CPL 3", user_hlt, 13, 0},
	    {"#GP: IN at CPL 3 without an I/O map", user_io, 13, 0},
	    {"#UD at CPL 3 ignores its gate's DPL", user_ud, 6, 0},
	    {"#GP: INT3 at CPL 3 through a gate of DPL 0", user_int3, 13, 3 * 8 + 2},
	};

	for (unsigned i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		unsigned count = interrupts[rows[i].vector];

		rule(rows[i].name);
		test_hook = NULL;
		fault.count = 0;
		user_call(rows[i].function, 0);
		CHECK_EQ(fault.count, 2);
		CHECK_EQ(interrupts[rows[i].vector], count + 1);
	}
	rule("from CPL 3: the stack is TSS.RSP0, SS is null");
	user_call(user_ud, 0);
	CHECK_EQ(last_frame.vector, 0x80);
	CHECK_EQ(last_frame_address, KERNEL_STACK_TOP - sizeof(struct frame));
	CHECK_EQ(handler_ss, 0);
	CHECK_EQ(last_frame.cs, USER64);
	CHECK_EQ(last_frame.ss, USERDATA);
}

void guest_main(void)
{
	user_setup();
	memset(runtime_tss + 102, 0xff, 2);
	__asm__ volatile("lldt %w0" : : "r"(0));
	computing();
	invalid_in_64bit();
	device_not_available();
	floating_point();
	segment_faults();
	stack_fault();
	gates();
	double_fault();
	frames();
	from_user();
}

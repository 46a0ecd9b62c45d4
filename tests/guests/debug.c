/*
 * Debug exceptions (SDM volume 3, Debug, Branch Profile, TSC …: Debug Exceptions): single-step over
 * instructions of every kind, breakpoints, general detect, RF, and what MOV SS holds back.
 */
#include "runtime/user.h"

#define DR6_FIXED 0xffff0ff0u
#define DR6_BD    (1u << 13)
#define DR6_BS    (1u << 14)

static struct {
	uint64_t rip, dr6;
} seen[64];
static unsigned seen_count;
static bool set_rf;
static uint64_t other_vector, other_flags; /* the last exception but #DB */

#define DR(n)                                                                                                \
	static inline uint64_t read_dr##n(void)                                                              \
	{                                                                                                    \
		uint64_t value;                                                                              \
                                                                                                             \
		__asm__ volatile("mov %%db" #n ", %0" : "=r"(value));                                        \
		return value;                                                                                \
	}                                                                                                    \
	static inline void write_dr##n(uint64_t value)                                                       \
	{                                                                                                    \
		__asm__ volatile("mov %0, %%db" #n : : "r"(value));                                          \
	}
DR(0)
DR(1)
DR(6)
DR(7)

static bool debug_hook(struct frame *frame)
{
	if (frame->vector != 1) {
		other_vector = frame->vector;
		other_flags = frame->rflags;
		return false;
	}
	last_frame = *frame;
	if (seen_count < 64) {
		seen[seen_count].rip = frame->rip;
		seen[seen_count].dr6 = read_dr6();
	}
	seen_count++;
	write_dr6(DR6_FIXED);
	if (set_rf || seen_count > 64)
		frame->rflags |= FLAG_RF;
	return true;
}

static void start(const char *name)
{
	rule(name);
	seen_count = 0;
	set_rf = false;
	write_dr6(DR6_FIXED);
}

/* One instruction, and the address after it as the next one expected. */
#define S(insn)    insn "\n\t.pushsection .data.steps\n\t.quad 1f\n\t.popsection\n1:\n\t"
#define JUMP(insn) insn " 1f\n\tnop\n\tnop\n\t.pushsection .data.steps\n\t.quad 1f\n\t.popsection\n1:\n\t"
/* As S, for REP with this many iterations. */
#define REP3(insn)   "2:\t" insn "\n\t.pushsection .data.steps\n\t.quad 2b, 2b, 1f\n\t.popsection\n1:\n\t"
#define SILENT(insn) insn "\n\t"
#define STEPS(name, code)                                                                                    \
	extern const uint64_t name##_expected[];                                                             \
	void name(void);                                                                                     \
	__asm__(".pushsection .data.steps, \"aw\"\n" #name                                                   \
	        "_expected:\n\t.popsection\n\t.text\n\t.globl " #name "\n" #name                             \
	        ":\n\tpush %rbx\n\tmov $scratch, %edi\n\tmov $scratch + 64, %esi\n\tpushfq\n\torq $0x100, "  \
	        "(%rsp)\n\tpopfq\n\t" code S("pushfq") S("andq $~0x100, (%rsp)")                             \
	            S("popfq") "pop %rbx\n\tret\n\t"                                                         \
	                       ".pushsection .data.steps\n\t.quad 0\n\t.popsection\n")
uint8_t scratch[4096] __attribute__((aligned(64)));

STEPS(step_alu,
      S("nop") S("mov $5, %eax") S("add %eax, %eax") S("imul $3, %eax, %ecx") S("shl $3, %rax")
          S("lea 4(%rax), %rdx") S("xchg %al, %ah") S("cmp %eax, %ecx") S("cmovz %ecx, %eax") S("setz %al")
              S("bswap %eax") S("cltq") S("std") S("cld") S("lahf") S("sahf") S("cmc"));
STEPS(step_memory,
      S("mov %eax, (%rdi)") S("mov (%rdi), %eax") S("addl $1, (%rdi)") S("lock incl (%rdi)")
          S("xchg %eax, (%rdi)") S("lock cmpxchg %ecx, (%rdi)") S("push %rax") S("pop %rax") S("pushq (%rdi)")
              S("popq (%rdi)") S("movsb") S("lodsb") S("stosb") S("cmpsb") S("scasb"));
STEPS(
    step_jumps,
    JUMP("jmp") S("xor %eax, %eax") JUMP("jz") S("jnz 1f") JUMP("call") S("pop %rax")
        S("mov $2, %ecx") "4:\tloop 4b\n\t.pushsection .data.steps\n\t.quad 4b, 1f\n\t.popsection\n1:\n\t" S(
            "xor %ecx, %ecx") JUMP("jrcxz") S("nop"));
STEPS(
    step_indirect,
    S("lea 5f(%rip), %rax") "jmp *%rax\n\tnop\n\t.pushsection .data.steps\n\t.quad "
                            "5f\n\t.popsection\n5:\n\t" S(
                                "lea 6f(%rip), %rax") "call *%rax\n\tnop\n\t.pushsection "
                                                      ".data.steps\n\t.quad 6f\n\t.popsection\n6:\n\t" S("lea"
                                                                                                         " 7f"
                                                                                                         "(%"
                                                                                                         "rip"
                                                                                                         "), "
                                                                                                         "%ra"
                                                                                                         "x")
                                                          S("mov %rax, (%rsp)") "ret\n\tnop\n\t.pushsection "
                                                                                ".data.steps\n\t.quad "
                                                                                "7f\n\t.popsection\n7:\n\t");
STEPS(step_strings, S("mov $3, %ecx") REP3("rep movsb") S("mov $3, %ecx") REP3("rep stosl") S("mov $3, %ecx")
                        REP3("rep lodsb") S("xor %ecx, %ecx") S("rep movsb"));
STEPS(step_system,
      S("xor %eax, %eax") S("cpuid") S("mov $0xc0000080, %ecx") S("rdmsr") S("wrmsr") S("rdtsc")
          S("in $0x61, %al") S("out %al, $0x80") S("mov %cr0, %rax") S("mov %rax, %cr0") S("mov %cr3, %rax")
              S("mov %rax, %cr3") S("invlpg (%rsp)") S("clts") S("cli") S("mov %ds, %eax") S("mov %eax, %ds")
                  S("lar %eax, %ecx") S("sgdt scratch") S("lgdt scratch") S("pause") S("wbinvd")
                      S("mov %db6, %rax") S("swapgs") S("swapgs"));
STEPS(step_fpu, S("fninit") S("fld1") S("fstpl (%rdi)") S("movaps %xmm0, %xmm1") S("movdqu (%rdi), %xmm0")
                    S("fxsave (%rdi)") S("fxrstor (%rdi)") S("ldmxcsr scratch + 24") S("fwait") S("emms"));
/* No trap after POPFQ that set TF, one after MOV SS and what follows it. */
STEPS(step_ss, S("mov %ss, %eax") SILENT("mov %eax, %ss") S("nop") SILENT("mov %eax, %ss") S("pushfq")
                   S("pop %rax") S("nop"));
/* A far return and IRET in between. */
STEPS(
    step_far,
    S("push $8") S("lea 5f(%rip), %rax")
        S("push %rax") "lretq\n\t.pushsection .data.steps\n\t.quad 5f\n\t.popsection\n5:\n\t" S(
            "mov %rsp, %rcx") S("push $0x10") S("push %rcx") S("pushfq") S("push $8") S("lea 6f(%rip), %rax")
            S("push %rax") "iretq\n\t.pushsection .data.steps\n\t.quad 6f\n\t.popsection\n6:\n\t" S("nop"));

static void check_steps(const char *name, void (*function)(void), const uint64_t *expected)
{
	unsigned n = 0;

	start(name);
	function();
	for (; expected[n]; n++)
		if (seen[n].rip != expected[n] || seen[n].dr6 != (DR6_FIXED | DR6_BS)) {
			CHECK_EQ(seen[n].rip, expected[n]);
			CHECK_EQ(seen[n].dr6, DR6_FIXED | DR6_BS);
			print("step %u of %u\n", n, seen_count);
			return;
		}
	CHECK_EQ(seen_count, n);
}

#define STEP_OVER(name, function) check_steps("single-step: " name, function, function##_expected)

/* SDM, Single-Step Exception Condition. */
static void single_step(void)
{
	STEP_OVER("registers", step_alu);
	STEP_OVER("memory", step_memory);
	STEP_OVER("jumps", step_jumps);
	STEP_OVER("indirect jumps, CALL and RET", step_indirect);
	STEP_OVER("string instructions, each iteration", step_strings);
	STEP_OVER("system instructions", step_system);
	STEP_OVER("x87 and SSE", step_fpu);
	STEP_OVER("MOV SS holds the trap back", step_ss);
	STEP_OVER("far return and IRET", step_far);

	start("single-step: a fault takes the place of the trap");
	TRY("pushfq\n\torq $0x100, (%%rsp)\n\tpopfq\n\tud2", , );
	__asm__ volatile("pushfq\n\tandq $~0x100, (%%rsp)\n\tpopfq" : : : "memory", "cc");
	CHECK_EQ(other_vector, 6);
	CHECK_EQ(other_flags & FLAG_TF, FLAG_TF);

	start("single-step: INT n saves TF and clears it, no trap in the handler");
	other_vector = NO_FAULT;
	__asm__ volatile("pushfq\n\torq $0x100, (%%rsp)\n\tpopfq\n\tint $0x21\n\tnop\n72:\tpushfq\n\tandq "
	                 "$~0x100, (%%rsp)\n\tpopfq\n\t"
	                 "movq $72b, expected_rip"
	                 :
	                 :
	                 : "memory", "cc");
	CHECK_EQ(other_vector, 0x21);
	CHECK_EQ(other_flags & FLAG_TF, FLAG_TF);
	CHECK_EQ(seen[0].rip, expected_rip);
	CHECK_EQ(seen_count, 4);

	start("single-step: HLT ends at once");
	__asm__ volatile(
	    "pushfq\n\torq $0x100, (%%rsp)\n\tpopfq\n\thlt\n72:\tpushfq\n\tandq $~0x100, (%%rsp)\n\tpopfq\n\t"
	    "movq $72b, expected_rip"
	    :
	    :
	    : "memory", "cc");
	CHECK_EQ(seen[0].rip, expected_rip);
	CHECK_EQ(seen_count, 4);
}

/* SYSCALL and SYSRET: TF as it is after the instruction. */
static void step_syscall(void)
{
	uint64_t flags;

	wrmsr(0xc0000081, (uint64_t)CODE64 << 32 | (uint64_t)(OWN | 3) << 48);
	runtime_gdt[OWN >> 3] = 0x00cffb000000ffff;
	runtime_gdt[(OWN >> 3) + 1] = 0x00cff3000000ffff;
	runtime_gdt[(OWN >> 3) + 2] = 0x00affb000000ffff;
	start("single-step: SYSCALL that masks TF does not trap");
	wrmsr(0xc0000084, FLAG_TF);
	__asm__ volatile("mov $0xc0000082, %%ecx\n\tmov $72f, %%eax\n\txor %%edx, %%edx\n\twrmsr\n\t"
	                 "pushfq\n\torq $0x100, (%%rsp)\n\tpopfq\n\tsyscall\n72:\tmov %%r11, %0"
	                 : "=r"(flags)
	                 :
	                 : "rax", "rcx", "rdx", "r11", "memory", "cc");
	CHECK_EQ(seen_count, 0);
	CHECK_EQ(flags & FLAG_TF, FLAG_TF);
	start("single-step: SYSCALL that keeps TF traps at its target");
	wrmsr(0xc0000084, 0);
	__asm__ volatile("mov $0xc0000082, %%ecx\n\tmov $72f, %%eax\n\txor %%edx, %%edx\n\twrmsr\n\t"
	                 "pushfq\n\torq $0x100, (%%rsp)\n\tpopfq\n\tsyscall\n72:\tpushfq\n\tandq $~0x100, "
	                 "(%%rsp)\n\tpopfq\n\t"
	                 "movq $72b, expected_rip"
	                 :
	                 :
	                 : "rax", "rcx", "rdx", "r11", "memory", "cc");
	CHECK_EQ(seen_count, 4);
	CHECK_EQ(seen[0].rip, expected_rip);
	start("single-step: SYSRET that sets TF traps before the first instruction");
	__asm__ volatile("mov %%rsp, %%rbx\n\tmov $72f, %%ecx\n\tmov $0x102, "
	                 "%%r11d\n\tsysretq\n72:\tnop\n\tint $0x80\n\tnop\n\t"
	                 "movq $72b, expected_rip"
	                 :
	                 :
	                 : "rax", "rcx", "rbx", "r11", "memory", "cc");
	CHECK(seen_count >= 2);
	CHECK_EQ(seen[0].rip, expected_rip);
	CHECK_EQ(seen[1].rip, expected_rip + 1);
}

/* Comes back from CPL 3 to the instruction after INT 80H. */
static bool back_hook(struct frame *frame)
{
	if (frame->vector == 0x80) {
		frame->cs = CODE64;
		frame->ss = DATA;
		frame->rflags = 2;
		return true;
	}
	return debug_hook(frame);
}

/* DR7: enabled (G) breakpoint n of this type and length. */
#define BREAK(n, type, length) (2u << 2 * (n) | (uint64_t)((type) | ((length)-1) << 2) << (16 + 4 * (n)))
#define EXECUTE                0
#define WRITES                 1
#define IO                     2
#define ACCESS                 3

#define WATCHED(code, ...)                                                                                   \
	do {                                                                                                 \
		seen_count = 0;                                                                              \
		__asm__ volatile("movq $774f, expected_rip\n\tmov %%rdi, %%r8\n\tmov %%rsi, %%r9\n\t" code   \
		                 "\n774:\tnop\n\tmov %%r8, %%rdi\n\tmov %%r9, %%rsi"                         \
		                 :                                                                           \
		                 : __VA_ARGS__                                                               \
		                 : "memory", "rax", "rcx", "r8", "r9", "cc");                                \
	} while (0)
#define HIT(bits)                                                                                            \
	do {                                                                                                 \
		CHECK_EQ(seen_count, 1);                                                                     \
		CHECK_EQ(seen[0].rip, expected_rip);                                                         \
		CHECK_EQ(seen[0].dr6, DR6_FIXED | (bits));                                                   \
	} while (0)

/* SDM, Data Memory and I/O Breakpoint Exception Conditions; Breakpoint Field Recognition. */
static void data_breakpoints(void)
{
	uint8_t *at = scratch + 128;

	start("data breakpoint: a write traps after the instruction");
	write_dr0((uint64_t)at);
	write_dr7(0x400 | BREAK(0, WRITES, 4));
	WATCHED("movl $1, (%%rdi)", "D"(at));
	HIT(1);
	CHECK_EQ(last_frame.rflags & FLAG_RF, 0);
	WATCHED("movb $1, 3(%%rdi)", "D"(at));
	HIT(1);
	WATCHED("movl $1, -3(%%rdi)", "D"(at));
	HIT(1);
	WATCHED("movl $1, -4(%%rdi)\n\tmovl $1, 4(%%rdi)", "D"(at));
	CHECK_EQ(seen_count, 0);
	WATCHED("addl $1, (%%rdi)", "D"(at));
	HIT(1);
	WATCHED("lock xadd %%rax, -4(%%rdi)", "D"(at));
	HIT(1);
	WATCHED("movups %%xmm0, -12(%%rdi)", "D"(at));
	HIT(1);
	WATCHED("fstpl (%%rdi)", "D"(at));
	HIT(1);
	WATCHED("stosl", "D"(at));
	HIT(1);
	start("data breakpoint: reads do not hit a write breakpoint");
	WATCHED("movl (%%rdi), %%eax\n\tcmpl $1, (%%rdi)", "D"(at));
	CHECK_EQ(seen_count, 0);
	start("data breakpoint: reads and writes");
	write_dr7(0x400 | BREAK(0, ACCESS, 4));
	WATCHED("movl (%%rdi), %%eax", "D"(at));
	HIT(1);
	WATCHED("movl %%eax, (%%rdi)", "D"(at));
	HIT(1);
	WATCHED("lodsl", "S"(at));
	HIT(1);
	start("data breakpoint: PUSH and POP");
	write_dr0((uint64_t)at);
	WATCHED("mov %%rsp, %%rcx\n\tlea 4(%%rdi), %%rsp\n\tpush %%rax\n\tmov %%rcx, %%rsp", "D"(at));
	CHECK_EQ(seen_count, 1);
	WATCHED("mov %%rsp, %%rcx\n\tmov %%rdi, %%rsp\n\tpop %%rax\n\tmov %%rcx, %%rsp", "D"(at));
	CHECK_EQ(seen_count, 1);
	start("data breakpoint: 1 and 2 bytes, two at once");
	write_dr1((uint64_t)at + 2);
	write_dr7(0x400 | BREAK(0, WRITES, 1) | BREAK(1, WRITES, 2));
	WATCHED("movb $1, (%%rdi)", "D"(at));
	HIT(1);
	WATCHED("movb $1, 1(%%rdi)", "D"(at));
	CHECK_EQ(seen_count, 0);
	WATCHED("movb $1, 3(%%rdi)", "D"(at));
	HIT(2);
	WATCHED("movl $1, (%%rdi)", "D"(at));
	HIT(3);
	start("data breakpoint: 8 bytes (length 10B)");
	write_dr7(0x400 | BREAK(0, WRITES, 3));
	WATCHED("movb $1, 7(%%rdi)", "D"(at));
	HIT(1);
	WATCHED("movb $1, 8(%%rdi)", "D"(at));
	CHECK_EQ(seen_count, 0);
	start("data breakpoint: REP traps after the iteration");
	write_dr0((uint64_t)at + 2);
	write_dr7(0x400 | BREAK(0, WRITES, 1));
	uint64_t count = 6;
	uint8_t *to = at;
	__asm__ volatile("movq $774f, expected_rip\n774:\trep stosb"
	                 : "+c"(count), "+D"(to)
	                 : "a"(0)
	                 : "memory");
	CHECK_EQ(seen_count, 1);
	CHECK_EQ(seen[0].rip, expected_rip);
	CHECK_EQ(last_frame.rcx, 3);
	CHECK_EQ(count, 0);
	start("data breakpoint: MOV SS holds the trap back by one instruction");
	write_dr0((uint64_t)at);
	*(uint16_t *)at = DATA;
	write_dr7(0x400 | BREAK(0, ACCESS, 2));
	seen_count = 0;
	__asm__ volatile("movq $774f, expected_rip\n\tmov (%0), %%ss\n\tnop\n774:\tnop"
	                 :
	                 : "r"(at)
	                 : "memory");
	HIT(1);
	start("data breakpoint: none by an instruction that faults");
	uint8_t *missing = (uint8_t *)(1ul << 40);
	CHECK_EQ(TRY("movsb", OPERANDS("+D"(missing)), "S"(at)), 14);
	CHECK_EQ(seen_count, 0);
	start("data breakpoint: none where DR7 does not enable it");
	write_dr7(0x400 | (BREAK(0, WRITES, 4) & ~3ul));
	WATCHED("movl $1, (%%rdi)", "D"(at));
	CHECK_EQ(seen_count, 0);
	start("I/O breakpoint, with CR4.DE");
	write_cr4(read_cr4() | CR4_DE);
	write_dr0(0x80);
	write_dr7(0x400 | BREAK(0, IO, 1));
	WATCHED("out %%al, $0x80", "D"(0));
	write_cr4(read_cr4() & ~(uint64_t)CR4_DE);
	CHECK_EQ(seen_count, 1);
	CHECK_EQ(seen[0].rip, expected_rip);
	write_dr7(0x400);
}

/* SDM, Instruction-Breakpoint Exception Condition; Resume flag. */
static void code_breakpoints(void)
{
	extern const uint8_t code_at[];

	start("code breakpoint: a fault, before the instruction; RF in the frame passes it");
	set_rf = true;
	write_dr0((uint64_t)code_at);
	write_dr7(0x400 | BREAK(0, EXECUTE, 1));
	uint64_t value = 0;
	for (unsigned i = 0; i < 3; i++) {
		seen_count = 0;
		__asm__ volatile(".globl code_at\ncode_at:\tadd $1, %0" : "+r"(value) : : "memory");
		CHECK_EQ(seen_count, 1);
		CHECK_EQ(seen[0].rip, (uint64_t)code_at);
		CHECK_EQ(seen[0].dr6, DR6_FIXED | 1);
		CHECK_EQ(value, i + 1);
	}
	start("code breakpoint: none on data accesses");
	WATCHED("mov code_at, %%eax", "D"(0));
	CHECK_EQ(seen_count, 0);
	start("code breakpoint: MOV SS before it suppresses it");
	extern const uint8_t code_ss[];
	write_dr0((uint64_t)code_ss);
	seen_count = 0;
	__asm__ volatile("mov %%ss, %%eax\n\tmov %%eax, %%ss\n\t.globl code_ss\ncode_ss:\tnop\n\tnop"
	                 :
	                 :
	                 : "rax");
	CHECK_EQ(seen_count, 0);
	start("code breakpoint: RF lasts for one instruction");
	extern const uint8_t code_loop[];
	write_dr0((uint64_t)code_loop);
	set_rf = true;
	__asm__ volatile("mov $4, %%ecx\n\t.globl code_loop\ncode_loop:\tnop\n\tloop code_loop"
	                 :
	                 :
	                 : "rcx", "memory");
	CHECK_EQ(seen_count, 4);
	start("code breakpoint and single-step together");
	extern const uint8_t code_both[];
	write_dr0((uint64_t)code_both);
	set_rf = true;
	__asm__ volatile("pushfq\n\torq $0x100, (%%rsp)\n\tpopfq\n\tnop\n\t.globl "
	                 "code_both\ncode_both:\tnop\n\tpushfq\n\tandq $~0x100, (%%rsp)\n\tpopfq"
	                 :
	                 :
	                 : "memory", "cc");
	/* After the first NOP: BS. At the second: B0, on its own or with that. */
	CHECK_EQ(seen[0].rip, (uint64_t)code_both);
	CHECK(seen[0].dr6 & DR6_BS);
	write_dr7(0x400);
}

/* SDM, Debug Registers. */
static void registers(void)
{
	uint64_t cr4 = read_cr4();

	start("general detect: MOV of a debug register faults, GD is cleared");
	write_dr7(0x400 | 1u << 13);
	seen_count = 0;
	__asm__ volatile("movq $774f, expected_rip\n774:\tmov %%db0, %%rax" : : : "rax", "memory");
	CHECK_EQ(seen_count, 1);
	CHECK_EQ(seen[0].rip, expected_rip);
	CHECK_EQ(seen[0].dr6, DR6_FIXED | DR6_BD);
	CHECK_EQ(read_dr7(), 0x400);
	rule("DR6 and DR7: fixed bits");
	write_dr6(0);
	CHECK_EQ(read_dr6(), DR6_FIXED);
	write_dr6(0xffffffff);
	CHECK_EQ(read_dr6() & ~0x800ull, 0xffffefff & ~0x800ull);
	write_dr7(0);
	CHECK_EQ(read_dr7(), 0x400);
	write_dr7(0xd400);
	CHECK_EQ(read_dr7(), 0x400);
	write_dr6(DR6_FIXED);
	RAISES("#GP: DR6 above 32 bits", 13, 0, AT("mov %%rax, %%db6"), "a"(1ul << 32));
	RAISES("#GP: DR7 above 32 bits", 13, 0, AT("mov %%rax, %%db7"), "a"(1ul << 32));
	rule("DR4 and DR5 are DR6 and DR7 without CR4.DE");
	uint64_t value;
	__asm__ volatile("mov %%db4, %0" : "=r"(value));
	CHECK_EQ(value, DR6_FIXED);
	write_cr4(cr4 | CR4_DE);
	RAISES("#UD: DR4 with CR4.DE", 6, 0, AT("mov %%db4, %%rax"));
	RAISES("#UD: DR5 with CR4.DE", 6, 0, AT("mov %%rax, %%db5"));
	write_cr4(cr4);
	start("INT1 sets no bit of DR6");
	__asm__ volatile(".byte 0xf1");
	CHECK_EQ(seen_count, 1);
	CHECK_EQ(seen[0].dr6, DR6_FIXED);
}

void guest_main(void)
{
	user_setup();
	test_hook = debug_hook;
	__asm__ volatile("sgdt scratch");
	__asm__ volatile("fninit");
	single_step();
	__asm__ volatile("fninit");
	test_hook = back_hook;
	step_syscall();
	test_hook = debug_hook;
	data_breakpoints();
	code_breakpoints();
	registers();
}

/*
 * Segments and control transfers of IA-32e mode: compatibility mode, far transfers, IRET in all directions,
 * 64-bit call gates (SDM volume 3, Protection; volume 2, IRET, JMP, CALL, RET).
 */
#include "runtime/user.h"

#define OWN_GDT(n) runtime_gdt[(OWN >> 3) + (n)]

extern const uint8_t compat_code[], compat_user[], gate_entry64[], user_gate64[], back_to_64[];
uint64_t kept_rsp, gate_frame[4], gate_cs, gate_ss;
uint32_t compat_result[8];
__asm__(".text\n.code32\n.globl compat_code\ncompat_code:\n\t"
        /* 40H is INC EAX here; addresses are 32 bits, DS counts. */
        "mov $0x10, %eax\n\tmov %eax, %ds\n\tmov $5, %eax\n\t.byte 0x40\n\tmov %eax, compat_result\n\t"
        "mov $0xffffffff, %eax\n\tmov compat_result-1(,%eax,1), %eax\n\tpush $0x1234\n\tpop "
        "compat_result+4\n\tpusha\n\tpopa\n\t"
        "mov %esp, compat_result+8\n\tpushf\n\tpop compat_result+12\n\tmov $0x27, %al\n\tdaa\n\tmov %al, "
        "compat_result+16\n\t"
        "lcall $0x08, $compat_back\n\tljmp $0x08, $back_to_64\n"
        ".globl compat_user\ncompat_user:\n\tmov $0x2b, %eax\n\tmov %eax, %ds\n\tmov %cs, %eax\n\tmov %eax, "
        "compat_result\n\tmov %esp, compat_result+4\n\tint $0x80\n"
        ".code64\ncompat_back:\n\tmov $7, %eax\n\tmov %eax, compat_result+20\n\tlretl\n"
        ".globl gate_entry64\ngate_entry64:\n\tmov %cs, gate_cs\n\tmov %ss, gate_ss\n\tmov (%rsp), "
        "%rax\n\tmov %rax, gate_frame\n\t"
        "mov 8(%rsp), %rax\n\tmov %rax, gate_frame+8\n\tmov 16(%rsp), %rax\n\tmov %rax, gate_frame+16\n\tmov "
        "24(%rsp), %rax\n\t"
        "mov %rax, gate_frame+24\n\tlretq\n"
        ".globl user_gate64\nuser_gate64:\n\tlcall *gate_pointer(%rip)\n\tmov %rsp, kept_rsp\n\tint $0x80\n"
        ".data\ngate_pointer:\t.long 0\n\t.word 0x5b\n.text\n");

/* SDM, Compatibility Mode. */
static void compatibility(void)
{
	rule("compatibility mode: far call there, 32-bit semantics, far transfers back");
	__asm__ volatile(
	    "push %%rbx\n\tpush %%rbp\n\tmov %%rsp, kept_rsp\n\tpushq $0x18\n\tpushq $compat_code\n\tlretq\n"
	    ".globl back_to_64\nback_to_64:\n\tmov kept_rsp, %%rsp\n\tpop %%rbp\n\tpop %%rbx"
	    :
	    :
	    : "rax", "rcx", "rdx", "rsi", "rdi", "r8", "r9", "r10", "r11", "memory", "cc");
	CHECK_EQ(compat_result[0], 6);
	CHECK_EQ(compat_result[1], 0x1234);
	CHECK_EQ(compat_result[2], (uint32_t)kept_rsp);
	CHECK_EQ(compat_result[4], 0x27);
	CHECK_EQ(compat_result[5], 7);
	rule("IRET to compatibility mode at CPL 3, INT back: 64-bit frame");
	user_run((uint64_t)compat_user, USER_STACK_TOP, USER32, FLAGS_USER, 0, 0);
	CHECK_EQ(fault.vector, USER_RETURN);
	CHECK_EQ(compat_result[0], USER32);
	CHECK_EQ(compat_result[1], USER_STACK_TOP);
	CHECK_EQ(last_frame.cs, USER32);
	CHECK_EQ(last_frame.ss, USERDATA);
	CHECK_EQ(last_frame.rsp, USER_STACK_TOP);
}

/* SDM, IA-32e Mode Call Gates. */
static void call_gate(void)
{
	uint64_t entry = (uint64_t)gate_entry64;

	OWN_GDT(0) = (entry & 0xffff) | CODE64 << 16 | 0xecull << 40 | (entry >> 16 & 0xffff) << 48;
	OWN_GDT(1) = entry >> 32;
	rule("64-bit call gate: RSP0, null SS, frame of 8-byte slots; RET back");
	gate_ss = 1;
	user_run((uint64_t)user_gate64, USER_STACK_TOP, USER64, FLAGS_USER, 0, 0);
	CHECK_EQ(fault.vector, USER_RETURN);
	CHECK_EQ(gate_cs & 0xffff, CODE64);
	CHECK_EQ(gate_ss & 0xffff, 0);
	CHECK_EQ(gate_frame[0], (uint64_t)user_gate64 + 6);
	CHECK_EQ(gate_frame[1], USER64);
	CHECK_EQ(gate_frame[2], USER_STACK_TOP);
	CHECK_EQ(gate_frame[3], USERDATA);
	CHECK_EQ(kept_rsp, USER_STACK_TOP);
	rule("#GP: a 64-bit call gate's second half with a type");
	OWN_GDT(1) |= 1ull << 40;
	user_run((uint64_t)user_gate64, USER_STACK_TOP, USER64, FLAGS_USER, 0, 0);
	CHECK_EQ(fault.vector, 13);
	CHECK_EQ(fault.error, OWN);
	rule("#GP: a call gate to 32-bit code in IA-32e mode");
	OWN_GDT(0) = (OWN_GDT(0) & ~0xffff0000ull) | CODE32 << 16;
	OWN_GDT(1) = 0;
	user_run((uint64_t)user_gate64, USER_STACK_TOP, USER64, FLAGS_USER, 0, 0);
	CHECK_EQ(fault.vector, 13);
	CHECK_EQ(fault.error, CODE32);
}

#define IRET_FRAME(ss, rsp, flags, cs, rip)                                                                  \
	"pushq $" #ss "\n\tpushq " rsp "\n\tpushq $" #flags "\n\tpushq $" #cs "\n\tpushq " rip "\n\t"

/* SDM, IRET. */
static void iret(void)
{
	static uint64_t values[4];

	rule("IRETQ at the same level loads RSP and SS");
	__asm__ volatile("mov %%rsp, %%rbx\n\t" IRET_FRAME(
	                     0x10, "$0x7770", 0x2, 8, "$1f") "iretq\n1:\tmov %%rsp, %0\n\tmov %%rbx, %%rsp"
	                 : "=&r"(values[0])
	                 :
	                 : "rbx", "memory", "cc");
	CHECK_EQ(values[0], 0x7770);
	rule("IRETQ to a null SS at CPL 0 is allowed in 64-bit mode");
	CHECK_EQ(TRY("mov %%rsp, %%rbx\n\t" IRET_FRAME(
	                 0, "%%rbx", 0x2, 8, "$1f") "iretq\n1:\tmov $0x10, %%ecx\n\tmov %%ecx, %%ss",
	             , , "rbx", "rcx"),
	         NO_FAULT);
	RAISES("#GP: IRETQ with NT in IA-32e mode", 13, 0,
	       "pushfq\n\torq $0x4000, (%%rsp)\n\tpopfq\n\t" AT("iretq"), "a"(0));
	__asm__ volatile("pushfq\n\tandq $~0x4000, (%%rsp)\n\tpopfq" : : : "memory", "cc");
	RAISES("#GP: IRETQ to a non-canonical RIP, at the IRET", 13, 0,
	       "mov %%rsp, %%rdx\n\t" IRET_FRAME(0x10, "%%rdx", 2, 8, "%%rdi") AT("iretq"), "D"(1ul << 47));
	RAISES("#GP: IRETQ to a null CS", 13, 0,
	       "mov %%rsp, %%rdx\n\t" IRET_FRAME(0x10, "%%rdx", 2, 0, "$1f") AT("iretq\n1:"), "a"(0));
	RAISES("#GP: IRETQ to data", 13, DATA,
	       "mov %%rsp, %%rdx\n\t" IRET_FRAME(0x10, "%%rdx", 2, 0x10, "$1f") AT("iretq\n1:"), "a"(0));
	RAISES("#GP: IRETQ to CPL 3 with SS of DPL 0", 13, DATA,
	       "mov %%rsp, %%rdx\n\t" IRET_FRAME(0x13, "%%rdx", 2, 0x23, "$1f") AT("iretq\n1:"), "a"(0));
	OWN_GDT(2) = 0x00af1b000000ffff;
	RAISES("#NP: IRETQ to code that is not present", 11, OWN + 16,
	       "mov %%rsp, %%rdx\n\t" IRET_FRAME(0x10, "%%rdx", 2, 0x68, "$1f") AT("iretq\n1:"), "a"(0));
	OWN_GDT(2) = 0x00ef9b000000ffff;
	RAISES("#GP: code with L and D", 13, OWN + 16,
	       "mov %%rsp, %%rdx\n\t" IRET_FRAME(0x10, "%%rdx", 2, 0x68, "$1f") AT("iretq\n1:"), "a"(0));
	rule("IRET to CPL 3 nulls data segments of DPL 0, keeps those of DPL 3");
	static uint64_t selectors[2];
	__asm__ volatile("mov %0, %%ds\n\tmov %1, %%es" : : "r"(DATA), "r"(USERDATA));
	extern const uint8_t read_segments[];
	user_run((uint64_t)read_segments, USER_STACK_TOP, USER64, FLAGS_USER, (uint64_t)selectors, 0);
	CHECK_EQ(selectors[0], 0);
	CHECK_EQ(selectors[1], USERDATA);
	rule("a far return by 64-bit operands; LJMP through memory to 64-bit code");
	static struct {
		uint64_t offset;
		uint16_t selector;
	} __attribute__((packed)) target;
	uint32_t reached;
	__asm__ volatile(
	    "movq $1f, %1\n\tmovw $8, 8+%1\n\txor %0, %0\n\trex.w ljmp *%1\n\tnop\n\tmov $2, %0\n1:\tinc %0"
	    : "=&r"(reached), "+m"(target)
	    :
	    : "memory", "cc");
	CHECK_EQ(reached, 1);
	RAISES("#GP: LTR of a busy TSS", 13, TSS, AT("ltr %%ax"), "a"(TSS));
	RAISES("#GP: LTR of a null selector", 13, 0, AT("ltr %%ax"), "a"(0));
	RAISES("#GP: LLDT of data", 13, DATA, AT("lldt %%ax"), "a"(DATA));
	rule("LAR and LSL of a 64-bit TSS; none of a 16-bit one in IA-32e mode");
	uint32_t rights;
	uint8_t zf;
	__asm__ volatile("lar %2, %0\n\tsetz %1" : "=r"(rights), "=q"(zf) : "r"(TSS));
	CHECK_EQ(zf, 1);
	CHECK_EQ(rights, 0x8b00);
	OWN_GDT(3) = 0x0000810000000067;
	__asm__ volatile("lar %2, %0\n\tsetz %1" : "=r"(rights), "=q"(zf) : "r"(OWN + 24));
	CHECK_EQ(zf, 0);
}
__asm__(".globl read_segments\nread_segments:\n\tmov %ds, %eax\n\tmov %rax, (%rdi)\n\tmov %es, %eax\n\tmov "
        "%rax, 8(%rdi)\n\tint $0x80\n");

void guest_main(void)
{
	user_setup();
	__asm__ volatile("lldt %w0" : : "r"(0));
	compatibility();
	call_gate();
	iret();
}

/*
 * Code outside RAM: the comparators of the HPET's timers hold eight bytes each that can be written, read and thus
 * executed. A fault that the host raises in the translation of such code is the guest's exception, as anywhere.
 */
#include "runtime/user.h"

#define HPET	      0xfed00000ul
#define COMPARATOR(n) (HPET + 0x108 + 0x20 * (n))

static void place(unsigned timer, uint64_t code)
{
	*(volatile uint64_t *)COMPARATOR(timer) = code;
}

static uint64_t call_there(unsigned timer, uint64_t rax, uint64_t rcx)
{
	uint64_t rdx = 0;

	__asm__ volatile("call *%2" : "+a"(rax), "+d"(rdx) : "r"(COMPARATOR(timer)), "c"(rcx) : "memory", "cc");
	return rax;
}

void guest_main(void)
{
	static uint8_t aligned[32] __attribute__((aligned(16)));
	uint32_t mxcsr;

	user_setup();
	write_cr4(read_cr4() | CR4_OSFXSR | CR4_OSXMMEXCPT);
	write_cr0((read_cr0() | CR0_MP) & ~(uint64_t)CR0_EM);

	rule("code in a device's registers runs");
	for (unsigned i = 0; i < 5; i++) {
		place(0, 0xc3f1f7); /* div ecx; ret */
		CHECK_EQ(call_there(0, 100 + i, 10), (100 + i) / 10);
		place(0, 0xc3c801 | (uint64_t)i << 56); /* add eax, ecx; ret */
		CHECK_EQ(call_there(0, 100, i), 100 + i);
	}
	rule("#DE of a division in a device's registers");
	place(0, 0xc3f1f7);
	for (unsigned i = 0; i < 3; i++) {
		TRY_SAVED("xor %%ecx, %%ecx\n\tmov $7, %%eax\n\txor %%edx, %%edx\n\tcall *%0", "S"(COMPARATOR(0)));
		CHECK_EQ(fault.vector, 0);
		CHECK_EQ(fault.rip, COMPARATOR(0));
	}
	rule("#GP of a misaligned SSE operand in a device's registers");
	place(1, 0xc300280f90ull); /* nop; movaps xmm0, [rax]; ret */
	TRY_SAVED("mov %1, %%rax\n\tcall *%0", "S"(COMPARATOR(1)), "D"(aligned));
	CHECK_EQ(fault.vector, NO_FAULT);
	TRY_SAVED("mov %1, %%rax\n\tcall *%0", "S"(COMPARATOR(1)), "D"(aligned + 4));
	CHECK_EQ(fault.vector, 13);
	CHECK_EQ(fault.error, 0);
	CHECK_EQ(fault.rip, COMPARATOR(1) + 1);
	rule("#XM of a division in a device's registers");
	place(2, 0xc3c15e0f); /* divps xmm0, xmm1; ret */
	mxcsr = 0x1f80 & ~(1u << 9); /* divide by zero is not masked */
	__asm__ volatile("ldmxcsr %0\n\txorps %%xmm1, %%xmm1\n\tmov $0x3f800000, %%eax\n\tmovd %%eax, %%xmm0"
	                 :
	                 : "m"(mxcsr)
	                 : "eax");
	TRY_SAVED("call *%0", "S"(COMPARATOR(2)));
	CHECK_EQ(fault.vector, 19);
	CHECK_EQ(fault.rip, COMPARATOR(2));
	mxcsr = 0x1f80;
	__asm__ volatile("ldmxcsr %0" : : "m"(mxcsr));
	rule("a page fault of such code names its operand");
	place(0, 0xc3008b); /* mov eax, [rax]; ret */
	TRY_SAVED("mov %1, %%rax\n\tcall *%0", "S"(COMPARATOR(0)), "D"(0x7000000000ul));
	CHECK_EQ(fault.vector, 14);
	CHECK_EQ(fault.cr2, 0x7000000000ul);
	CHECK_EQ(fault.rip, COMPARATOR(0));
}

/*
 * Self-modifying and cross-modifying code (SDM volume 3, Handling Self- and Cross-Modifying Code: the
 * processor sees its own stores to code at once), and string instructions that fault in the middle.
 */
#include "runtime/user.h"

#define P 1ul
#define W 2ul
#define U 4ul

#define WINDOW 0x10000000000ul

#define TABLE __attribute__((aligned(4096)))
static uint64_t w_pdpt[512] TABLE, w_pd[512] TABLE, w_pt[512] TABLE;
static uint8_t page[4][4096] TABLE;

static void setup(void)
{
	runtime_pml4[2] = (uint64_t)w_pdpt | P | W | U;
	w_pdpt[0] = (uint64_t)w_pd | P | W | U;
	w_pd[0] = (uint64_t)w_pt | P | W | U;
	for (unsigned i = 0; i < 4; i++)
		w_pt[i] = (uint64_t)page[i] | P | W | U;
}

static uint32_t call(const void *code)
{
	uint32_t result;

	__asm__ volatile("call *%1" : "=a"(result) : "r"(code) : "memory", "rcx", "rdx", "rdi", "rsi");
	return result;
}

/* MOV EAX, imm32; RET */
static void emit_return(volatile uint8_t *at, uint32_t value)
{
	at[0] = 0xb8;
	for (unsigned i = 0; i < 4; i++)
		at[1 + i] = value >> 8 * i;
	at[5] = 0xc3;
}

static void modified(void)
{
	rule("code written after it ran");
	for (unsigned i = 0; i < 20; i++) {
		emit_return(page[0], i);
		CHECK_EQ(call(page[0]), i);
	}
	rule("code patched in place, one byte of an immediate");
	for (unsigned i = 0; i < 200; i++) {
		*(volatile uint8_t *)&page[0][1] = (uint8_t)i;
		CHECK_EQ(call(page[0]), (uint8_t)i);
	}
	rule("code patched through another mapping");
	volatile uint8_t *alias = (volatile uint8_t *)WINDOW;
	for (unsigned i = 0; i < 20; i++) {
		emit_return(alias, 1000 + i);
		CHECK_EQ(call(page[0]), 1000 + i);
		CHECK_EQ(call((const void *)WINDOW), 1000 + i);
		emit_return(page[0], 2000 + i);
		CHECK_EQ(call((const void *)WINDOW), 2000 + i);
	}
	rule("code patched by string, locked, SSE and stack writes");
	static uint8_t source[16];
	for (unsigned i = 0; i < 4; i++) {
		void *to = page[0], *from = source;
		uint64_t count = 6;

		emit_return(source, 3000 + i);
		__asm__ volatile("rep movsb" : "+D"(to), "+S"(from), "+c"(count) : : "memory");
		CHECK_EQ(call(page[0]), 3000 + i);
		__asm__ volatile("lock incl (%0)" : : "r"(page[0] + 1) : "memory");
		CHECK_EQ(call(page[0]), 3001 + i);
		emit_return(source, 4000 + i);
		__asm__ volatile("movdqu (%0), %%xmm0\n\tmovdqu %%xmm0, (%1)"
		                 :
		                 : "r"(source), "r"(page[0])
		                 : "memory");
		CHECK_EQ(call(page[0]), 4000 + i);
		__asm__ volatile("mov %%rsp, %%rbx\n\tlea 8(%0), %%rsp\n\tpush %1\n\tmov %%rbx, %%rsp"
		                 :
		                 : "r"(page[0]), "r"(0x0000c300001388b8ul | i << 8)
		                 : "memory", "rbx");
		CHECK_EQ(call(page[0]), 5000 | i);
	}
	rule("the next instruction patched by the one before it");
	for (unsigned i = 0; i < 8; i++) {
		uint32_t got;

		__asm__ volatile("movb %b1, 2f+1(%%rip)\n2:\tmov $0x55, %%eax"
		                 : "=a"(got)
		                 : "q"(i)
		                 : "memory");
		CHECK_EQ(got, i);
	}
	rule("a later instruction of the same block, and an earlier one of a loop");
	uint32_t sum;
	__asm__ volatile("xor %%eax, %%eax\n\tmov $5, %%ecx\n\tmovb $1, 3f+2(%%rip)\n"
	                 "3:\tadd $1, %%eax\n\tincb 3b+2(%%rip)\n\tloop 3b"
	                 : "=a"(sum)
	                 :
	                 : "rcx", "memory");
	CHECK_EQ(sum, 1 + 2 + 3 + 4 + 5);
	rule("an instruction replaced by one of another length in the same block");
	for (unsigned i = 0; i < 6; i++) {
		uint32_t got;

		/* NOPs, or INC EAX in their place. */
		__asm__ volatile("xor %%eax, %%eax\n\tmov %w1, 4f(%%rip)\n\tnop\n4:\tnop\n\tnop\n\tnop"
		                 : "=&a"(got)
		                 : "r"(i & 1 ? 0xc0ff : 0x9090)
		                 : "memory");
		CHECK_EQ(got, i & 1);
	}
	rule("REP STOS over its own following code");
	static const uint8_t over[] = {
	    0xb9, 3,    0,    0,    0, 0xb0, 0x90,
	    0x48, 0x8d, 0x3d, 6,    0, 0,    0, /* mov ecx,3; mov al,90h; lea rdi,[rip+6] */
	    0x31, 0xc0, 0xb0, 0x90,             /* xor eax,eax; mov al,90h */
	    0xf3, 0xaa,                         /* rep stosb */
	    0xff, 0xc0, 0xf4,                   /* inc eax; hlt: overwritten */
	    0xc3};
	memcpy(page[1], over, sizeof(over));
	CHECK_EQ(call(page[1]), 0x90);
	rule("code that crosses pages, patched in its second page");
	w_pt[0] = (uint64_t)page[0] | P | W | U;
	w_pt[1] = (uint64_t)page[1] | P | W | U;
	for (unsigned i = 0; i < 8; i++) {
		emit_return((uint8_t *)WINDOW + 4096 - 3, 0x01010100 * i);
		CHECK_EQ(call((const void *)(WINDOW + 4096 - 3)), 0x01010100 * i);
		*(volatile uint8_t *)(page[1]) = 7;
		CHECK_EQ(call((const void *)(WINDOW + 4096 - 3)), (0x01010100 * i & 0xff00ffff) | 0x070000);
	}
	rule("code behind a structure that lies on two pages, patched");
	/* The accesses are looked up together, or one by one where pages part them: by a block that reaches further. */
	w_pt[2] = (uint64_t)page[3] | P | W | U;
	w_pt[3] = (uint64_t)page[2] | P | W | U;
	uint32_t *first = (uint32_t *)(WINDOW + 3 * 4096 - 4), *second = first + 2;
	uint8_t *behind = page[0] + 44 + 5 + 10;
	memset(page[0], 0x90, 4096);
	memcpy(page[0] + 44, (const uint8_t[]){0x8b, 0x07, 0x03, 0x47, 0x08}, 5); /* mov eax,[rdi]; add eax,[rdi+8] */
	memcpy(behind, (const uint8_t[]){0x05, 0, 0, 0, 0, 0xc3}, 6);             /* add eax, imm32; ret */
	*first = 100;
	*second = 20;
	for (unsigned i = 0; i < 40; i++) {
		uint32_t got;

		behind[1] = i / 4;
		__asm__ volatile("call *%1" : "=a"(got) : "r"(page[0]), "D"(first) : "memory");
		CHECK_EQ(got, 120 + i / 4);
	}
	w_pt[2] = (uint64_t)page[2] | P | W | U;
	w_pt[3] = (uint64_t)page[3] | P | W | U;
	__asm__ volatile("mov %%cr3, %%rax\n\tmov %%rax, %%cr3" : : : "rax", "memory");
	rule("data beside code is written without harm");
	emit_return(page[2], 77);
	for (unsigned i = 0; i < 2000; i++) {
		page[2][64 + i] = i;
		if (i % 100 == 0)
			CHECK_EQ(call(page[2]), 77);
	}
	CHECK_EQ(page[2][64 + 1999], (uint8_t)1999);
	rule("a chained successor in the same page is patched");
	/* jmp +8 -> mov eax, imm; ret */
	page[3][0] = 0xeb;
	page[3][1] = 0x7e;
	for (unsigned i = 0; i < 50; i++) {
		emit_return(page[3] + 0x80, i);
		CHECK_EQ(call(page[3]), i);
		CHECK_EQ(call(page[3]), i);
	}
}

/* SDM, REP: registers tell how far it came; the instruction starts over after the fault. */
static void strings(void)
{
	uint8_t *low = (uint8_t *)WINDOW, *next = low + 4096;
	static uint8_t source[8192];

	for (unsigned i = 0; i < sizeof(source); i++)
		source[i] = i * 7;
	w_pt[0] = (uint64_t)page[0] | P | W | U;
	w_pt[1] = 0;
	invlpg((uint64_t)next);

#define STRING_FAULT(name, code, to, from, n, left, cr2_)                                                    \
	do {                                                                                                 \
		const void *d = (to), *s = (from);                                                           \
		uint64_t c = (n);                                                                            \
                                                                                                             \
		rule(name);                                                                                  \
		uint64_t accumulator = 0x5a5a5a5a;                                                           \
		CHECK_EQ(TRY(AT(code), OPERANDS("+D"(d), "+S"(s), "+c"(c), "+a"(accumulator)), ), 14);       \
		CHECK_EQ(fault.rip, expected_rip);                                                           \
		CHECK_EQ(fault.cr2, (uint64_t)(cr2_));                                                       \
		CHECK_EQ(c, left);                                                                           \
		CHECK_EQ(last_frame.rcx, left);                                                              \
		moved_to = d;                                                                                \
		moved_from = s;                                                                              \
	} while (0)
	const uint8_t *moved_to, *moved_from;

	STRING_FAULT("REP MOVSB into a missing page", "rep movsb", next - 100, source, 300, 200, next);
	CHECK_EQ((uint64_t)moved_to, (uint64_t)next);
	CHECK_EQ((uint64_t)moved_from, (uint64_t)source + 100);
	CHECK_EQ(page[0][4095], source[99]);
	CHECK_EQ(page[0][3996], source[0]);
	STRING_FAULT("REP MOVSQ into a missing page", "rep movsq", next - 80, source, 30, 20, next);
	CHECK_EQ((uint64_t)moved_to, (uint64_t)next);
	STRING_FAULT("REP MOVSQ over the border, unaligned", "rep movsq", next - 84, source, 30, 20, next);
	CHECK_EQ((uint64_t)moved_to, (uint64_t)next - 4);
	STRING_FAULT("REP MOVSB from a missing page", "rep movsb", source, next - 50, 100, 50, next);
	CHECK_EQ((uint64_t)moved_from, (uint64_t)next);
	STRING_FAULT("REP STOSL into a missing page", "rep stosl", next - 40, source, 30, 20, next);
	CHECK_EQ((uint64_t)moved_to, (uint64_t)next);
	CHECK_EQ(*(uint32_t *)(page[0] + 4092), 0x5a5a5a5a);
	STRING_FAULT("REP LODSB from a missing page", "rep lodsb", source, next - 10, 30, 20, next);
	memset(page[0] + 4000, 0x5a, 96);
	STRING_FAULT("REPE SCASB into a missing page", "repe scasb", next - 96, source, 200, 104, next);
	memset(source, 0x5a, 200);
	STRING_FAULT("REPE CMPSB into a missing page", "repe cmpsb", next - 96, source, 200, 104, next);
	rule("backwards REP STOSB");
	w_pt[1] = (uint64_t)page[1] | P | W | U;
	w_pt[0] = 0;
	invlpg((uint64_t)low);
	CHECK_EQ(TRY("std\n\tmov %1, %%rdi\n\tmov $30, %%ecx\n\trep stosb\n\tcld", ,
	             OPERANDS("a"(0), "b"(next + 9)), "rcx", "rdi"),
	         14);
	__asm__ volatile("cld");
	CHECK_EQ(last_frame.rcx, 20);
	CHECK_EQ(last_frame.rdi, (uint64_t)next - 1);
	rule("REP with RCX 0 touches nothing");
	CHECK_EQ(TRY("rep movsb\n\trep stosb\n\trepe cmpsb\n\trep lodsb", ,
	             OPERANDS("D"(low), "S"(low), "c"(0ul))),
	         NO_FAULT);
	rule("REP with a 32-bit address size uses ECX and zero-extends");
	uint64_t rcx = 0xffffffff00000000, rsi = (uint64_t)source, rdi = (uint64_t)source;
	__asm__ volatile("addr32 rep movsb" : "+c"(rcx), "+S"(rsi), "+D"(rdi) : : "memory");
	CHECK_EQ((uint32_t)rcx, 0);
	rcx = 0xffffffff00000004;
	__asm__ volatile("addr32 rep movsb" : "+c"(rcx), "+S"(rsi), "+D"(rdi) : : "memory");
	CHECK_EQ(rcx, 0);
	CHECK_EQ(rdi, (uint64_t)source + 4);
	rule("overlapping REP MOVSB goes byte by byte");
	source[0] = 0xab;
	rcx = 100;
	rsi = (uint64_t)source;
	rdi = (uint64_t)source + 1;
	__asm__ volatile("rep movsb" : "+c"(rcx), "+S"(rsi), "+D"(rdi) : : "memory");
	CHECK_EQ(source[100], 0xab);
	rule("overlapping REP MOVSQ at a distance of 4 goes element by element");
	for (unsigned i = 0; i < 200; i++)
		source[i] = i;
	rcx = 10;
	rsi = (uint64_t)source;
	rdi = (uint64_t)source + 4;
	__asm__ volatile("rep movsq" : "+c"(rcx), "+S"(rsi), "+D"(rdi) : : "memory");
	CHECK_EQ(*(uint32_t *)(source + 4), 0x03020100);
	CHECK_EQ(*(uint32_t *)(source + 8), 0x07060504);
	CHECK_EQ(*(uint32_t *)(source + 80), 0x4f4e4d4c);
	rule("REPNE SCASB finds, flags and registers");
	for (unsigned i = 0; i < 200; i++)
		source[i] = i;
	rcx = -1;
	rdi = (uint64_t)source;
	uint8_t zero;
	__asm__ volatile("repne scasb\n\tsetz %2"
	                 : "+c"(rcx), "+D"(rdi), "=q"(zero)
	                 : "a"(37)
	                 : "memory", "cc");
	CHECK_EQ(zero, 1);
	CHECK_EQ(rdi, (uint64_t)source + 38);
	CHECK_EQ(rcx, -1ul - 38);
	rule("REPE CMPSB stops at the first difference");
	static uint8_t other[200];
	memcpy(other, source, 200);
	other[50]++;
	rcx = 200;
	rsi = (uint64_t)source;
	rdi = (uint64_t)other;
	__asm__ volatile("repe cmpsb\n\tsetb %3"
	                 : "+c"(rcx), "+S"(rsi), "+D"(rdi), "=q"(zero)
	                 :
	                 : "memory", "cc");
	CHECK_EQ(rcx, 149);
	CHECK_EQ(zero, 1);
	rule("REP STOSB of many pages");
	w_pt[0] = (uint64_t)page[0] | P | W | U;
	rcx = 16384;
	rdi = WINDOW;
	__asm__ volatile("rep stosb" : "+c"(rcx), "+D"(rdi) : "a"(0x33) : "memory");
	CHECK_EQ(page[3][4095], 0x33);
	CHECK_EQ(page[0][0], 0x33);
}

void guest_main(void)
{
	user_setup();
	setup();
	modified();
	strings();
}

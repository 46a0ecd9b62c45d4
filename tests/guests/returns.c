/*
 * Returns go where the stack says, to the code that is there at that moment (SDM, RET; Caching Translation
 * Information; Handling Self- and Cross-Modifying Code): between a call and its return the address space, the mapping
 * of the return address, the code there, the privilege level, EFLAGS.AC or the mode change.
 */
#include "runtime/user.h"

#define P	     1ul
#define W	     2ul
#define U	     4ul
#define GLOBAL	     (1ul << 8)
#define NO_EXECUTE   (1ul << 63)
#define FRAME(entry) ((entry)&0x000ffffffffff000ul)

#define MSR_STAR  0xc0000081
#define MSR_LSTAR 0xc0000082
#define MSR_FMASK 0xc0000084

/* Pages at this linear address: below 4 GiB, so that 32-bit code runs there too. */
#define WINDOW 0xc0000000ul
#define TABLE __attribute__((aligned(4096)))
static uint64_t window[512] TABLE, other_window[512] TABLE;
static uint64_t other_pml4[512] TABLE, other_pdpt[512] TABLE, other_pd[512] TABLE;
static uint8_t page[6][4096] TABLE;
static uint32_t user_word[1024] TABLE;

/* What the callee does, and how often it is called in one chain. */
static void (*between)(void);
static unsigned turn;

static void setup(void)
{
	runtime_pd[WINDOW >> 21] = (uint64_t)window | P | W | U;
	memcpy(other_pml4, runtime_pml4, 4096);
	memcpy(other_pdpt, runtime_pdpt, 4096);
	memcpy(other_pd, (uint8_t *)runtime_pd + 3 * 4096, 4096);
	other_pml4[0] = (uint64_t)other_pdpt | P | W | U;
	other_pdpt[3] = (uint64_t)other_pd | P | W | U;
	other_pd[WINDOW >> 21 & 511] = (uint64_t)other_window | P | W | U;
}

static void fresh(void)
{
	for (unsigned i = 0; i < 6; i++) {
		window[i] = (uint64_t)page[i] | P | W | U;
		other_window[i] = (uint64_t)page[i] | P | W | U;
	}
	write_cr3((uint64_t)runtime_pml4);
	for (unsigned i = 0; i < 6; i++)
		invlpg(WINDOW + 4096 * i);
}

/* ---- code of the pages ---- */

static uint8_t *put(uint8_t *at, uint64_t value, unsigned size)
{
	for (unsigned i = 0; i < size; i++)
		*at++ = value >> 8 * i;
	return at;
}

/* call rdi, `depth` times nested by pages' offsets 0, 64, 128 …; behind each call: add eax, value; ret */
static void chain(uint8_t *to, unsigned depth, uint32_t value)
{
	for (unsigned i = 0; i < depth; i++) {
		uint8_t *at = to + 64 * i;

		if (i + 1 < depth) {
			at = put(at, 0xe8, 1);
			at = put(at, 64 - 5, 4);
		} else {
			at = put(at, 0xd7ff, 2);
		}
		at = put(at, 0x05, 1);
		at = put(at, value, 4);
		put(at, 0xc3, 1);
	}
}

__attribute__((used)) static void callee_body(void)
{
	turn++;
	between();
}

/* Saves all registers, so that EAX is the callers' sum. */
extern const uint8_t callee[];
__asm__(".pushsection .text\n"
	"callee:\tpush %rax\n\tpush %rcx\n\tpush %rdx\n\tpush %rsi\n\tpush %rdi\n\tpush %r8\n\tpush %r9\n\t"
	"push %r10\n\tpush %r11\n\tcall callee_body\n\tpop %r11\n\tpop %r10\n\tpop %r9\n\tpop %r8\n\tpop %rdi\n\t"
	"pop %rsi\n\tpop %rdx\n\tpop %rcx\n\tpop %rax\n\tret\n\t.popsection");

static uint32_t call_window(unsigned offset)
{
	uint32_t sum = 0;

	__asm__ volatile("call *%1" : "+a"(sum) : "r"(WINDOW + offset), "D"(callee) : "memory", "cc");
	return sum;
}

static void nothing(void)
{
}

/* The same chain in a page of each kind: ones in page[0], hundreds in page[1]. */
static void two_pages(unsigned depth)
{
	fresh();
	chain(page[0], depth, 1);
	chain(page[1], depth, 100);
	between = nothing;
	for (unsigned i = 0; i < 4; i++) {
		CHECK_EQ(call_window(0), depth);
		CHECK_EQ(call_window(4096), 100 * depth);
	}
}

/* add eax, value; ret */
static void adder(uint8_t *to, uint32_t value)
{
	to = put(to, 0x05, 1);
	to = put(to, value, 4);
	put(to, 0xc3, 1);
}

/*
 * One page at two addresses, each with another page behind it: a branch into the page behind goes by the address that it
 * is executed at, whoever was there before.
 */
static void same_page_twice(void)
{
	rule("a page at two addresses: branches into the page behind it");
	fresh();
	window[2] = window[0];
	window[3] = (uint64_t)page[2] | P | W | U;
	invlpg(WINDOW + 4096 * 2);
	invlpg(WINDOW + 4096 * 3);
	put(put(page[0], 0xe9, 1), 4096 - 5, 4);	    /* jmp */
	put(put(page[0] + 64, 0x840fc039, 4), 4096 - 64 - 8, 4); /* cmp eax, eax; je */
	put(put(put(page[0] + 128, 0xe8, 1), 4096 - 128 - 5, 4), 0xc3, 1); /* call; ret */
	adder(page[1], 1);
	adder(page[2], 100);
	for (unsigned i = 0; i < 3; i++) {
		for (unsigned offset = 0; offset < 192; offset += 64) {
			CHECK_EQ(call_window(offset), 1);
			CHECK_EQ(call_window(4096 * 2 + offset), 100);
			CHECK_EQ(call_window(4096 * 2 + offset), 100);
			CHECK_EQ(call_window(offset), 1);
		}
	}
}

static void remap(void)
{
	window[0] = (uint64_t)page[turn & 1] | P | W | U;
	invlpg(WINDOW);
}

static void remap_by_cr3(void)
{
	window[0] = (uint64_t)page[turn & 1] | P | W | U;
	write_cr3(read_cr3());
}

static void remap_global(void)
{
	window[0] = (uint64_t)page[turn & 1] | P | W | U | GLOBAL;
	write_cr4(read_cr4() ^ CR4_PGE);
	write_cr4(read_cr4() ^ CR4_PGE);
}

static void remap_large(void)
{
	/* the directory entry leads to another table */
	other_window[0] = (uint64_t)page[1] | P | W | U;
	runtime_pd[WINDOW >> 21] = (uint64_t)(turn & 1 ? other_window : window) | P | W | U;
	invlpg(WINDOW);
}

static void switch_space(void)
{
	other_window[0] = (uint64_t)page[1] | P | W | U;
	write_cr3((uint64_t)(turn & 1 ? other_pml4 : runtime_pml4));
}

static void switch_space_and_back(void)
{
	write_cr3((uint64_t)other_pml4);
	call_window(512);
	write_cr3((uint64_t)runtime_pml4);
}

static void switch_pcid(void)
{
	other_window[0] = (uint64_t)page[1] | P | W | U;
	__asm__ volatile("mov %0, %%cr3"
			 :
			 : "r"((turn & 1 ? (uint64_t)other_pml4 | 2 : (uint64_t)runtime_pml4 | 1) | 1ull << 63)
			 : "memory");
}

static void rewrite(void)
{
	chain(page[0], 3, turn & 1 ? 100 : 1);
}

static void rewrite_by_string(void)
{
	void *to = page[0], *from = page[turn & 1 ? 1 : 2];
	uint64_t count = 256;

	__asm__ volatile("rep movsb" : "+D"(to), "+S"(from), "+c"(count) : : "memory");
}

static void rewrite_through_window(void)
{
	chain((uint8_t *)WINDOW + 4096 * 3, 3, turn & 1 ? 100 : 1);
}

/* After an odd turn all code is the hundreds', after an even one the ones'. */
static void alternates(const char *name, void (*what)(void), unsigned depth)
{
	rule(name);
	two_pages(depth);
	chain(page[2], depth, 1);
	window[3] = (uint64_t)page[0] | P | W | U;
	invlpg(WINDOW + 4096 * 3);
	turn = 0;
	for (unsigned i = 0; i < 12; i++) {
		between = what;
		CHECK_EQ(call_window(0), depth * (i & 1 ? 1 : 100));
		if (i % 3 == 2) { /* and without a change between */
			between = nothing;
			CHECK_EQ(call_window(0), depth * (i & 1 ? 1 : 100));
			turn--;
		}
	}
	fresh();
	runtime_pd[WINDOW >> 21] = (uint64_t)window | P | W | U;
	write_cr3(read_cr3());
}

static void spaces(void)
{
	alternates("the callee remaps the page of the return address: INVLPG", remap, 1);
	alternates("three returns to a page that is remapped: INVLPG", remap, 3);
	alternates("the callee remaps the page: MOV to CR3", remap_by_cr3, 3);
	alternates("the callee remaps a global page: CR4.PGE", remap_global, 3);
	alternates("the callee changes the page-directory entry", remap_large, 3);
	alternates("the callee changes the address space", switch_space, 3);
	rule("the callee runs in another address space and comes back");
	two_pages(3);
	other_window[0] = (uint64_t)page[1] | P | W | U;
	page[1][512] = 0xc3;
	between = switch_space_and_back;
	for (unsigned i = 0; i < 6; i++)
		CHECK_EQ(call_window(0), 3);
	fresh();
	if (has_feature(1, 2, 17)) {
		write_cr4(read_cr4() | CR4_PCIDE);
		alternates("the callee changes the PCID without a flush", switch_pcid, 3);
		write_cr3((uint64_t)runtime_pml4);
		write_cr4(read_cr4() & ~(uint64_t)CR4_PCIDE);
	}
}

static void rewritten(void)
{
	alternates("the callee rewrites the code behind the calls", rewrite, 3);
	alternates("the callee rewrites the code behind the calls by REP MOVSB", rewrite_by_string, 3);
	alternates("the callee rewrites the code behind the calls through another mapping", rewrite_through_window, 3);
}

/* ---- rights ---- */

static void take_execute(void)
{
	window[0] |= NO_EXECUTE;
	invlpg(WINDOW);
}

static void take_present(void)
{
	window[0] &= ~P;
	invlpg(WINDOW);
}

static void fault_at_return(const char *name, void (*what)(void), uint64_t error)
{
	rule(name);
	for (unsigned i = 0; i < 3; i++) {
		two_pages(2);
		between = what;
		TRY_SAVED("call *%0", "S"(WINDOW), "D"(callee));
		CHECK_EQ(fault.vector, 14);
		CHECK_EQ(fault.error, error);
		CHECK_EQ(fault.cr2, WINDOW + 64 + 2);
		CHECK_EQ(fault.rip, WINDOW + 64 + 2);
	}
	fresh();
}

static void set_ac(void)
{
	__asm__ volatile("stac" : : : "cc");
}

static void clear_ac(void)
{
	__asm__ volatile("clac" : : : "cc");
}

static void pop_ac(void)
{
	__asm__ volatile("pushfq\n\torl $0x40000, (%%rsp)\n\tpopfq" : : : "cc", "memory");
}

static void access_rights(void)
{
	fault_at_return("the page of the return address loses its right to execute", take_execute, 0x11);
	fault_at_return("the page of the return address is not present any more", take_present, 0x10);
	if (!has_feature(7, 1, 20))
		return;
	/* All of RAM is the supervisor's, but the word in the window. */
	fresh();
	for (unsigned i = 0; i < 32; i++)
		runtime_pd[i] &= ~U;
	window[0] &= ~U;
	window[4] = (uint64_t)user_word | P | W | U;
	user_word[0] = 5;
	write_cr3(read_cr3());
	write_cr4(read_cr4() | CR4_SMAP);
	put(put(put(page[0], 0xd7ff, 2), 0x068b, 2), 0xc3, 1); /* call rdi; mov eax, [rsi]; ret */
	rule("EFLAGS.AC that the callee sets or clears counts behind the call");
	for (unsigned i = 0; i < 6; i++) {
		between = i & 1 ? pop_ac : set_ac;
		clear_ac();
		uint32_t got = 0;
		fault.vector = NO_FAULT;
		__asm__ volatile("call *%1"
				 : "=a"(got)
				 : "r"(WINDOW), "D"(callee), "S"(WINDOW + 4096 * 4)
				 : "memory", "cc");
		CHECK_EQ(got, 5);
		between = clear_ac;
		set_ac();
		TRY_SAVED("call *%0", "r"(WINDOW), "D"(callee), "S"(WINDOW + 4096 * 4));
		CHECK_EQ(fault.vector, 14);
		CHECK_EQ(fault.rip, WINDOW + 2);
		clear_ac();
	}
	write_cr4(read_cr4() & ~(uint64_t)CR4_SMAP);
	for (unsigned i = 0; i < 32; i++)
		runtime_pd[i] |= U;
	fresh();
}

/* ---- system calls, interrupts, other modes ---- */

static uint64_t system_call_rsp __attribute__((used));
static uint8_t system_call_stack[8192] __attribute__((aligned(16), used));
extern const uint8_t system_call_entry[];
__asm__(".pushsection .text\n"
	"system_call_entry:\n\t"
	"mov %rsp, system_call_rsp\n\tmov $system_call_stack + 8192, %rsp\n\t"
	"push %rcx\n\tpush %r11\n\tcall callee\n\tpop %r11\n\tpop %rcx\n\t"
	"mov system_call_rsp, %rsp\n\tsysretq\n\t.popsection");

static bool on_interrupt(struct frame *frame)
{
	if (frame->vector != 0x81)
		return false;
	turn++;
	between();
	return true;
}

/* Runs the window's code at CPL 3 from `offset`; it ends with INT 80H. */
static uint32_t run_user(unsigned offset, uint64_t cs)
{
	return (uint32_t)user_run(WINDOW + offset, USER_STACK_TOP, cs, FLAGS_USER, 0, 0);
}

/*
 * xor eax, eax; call 64; add eax, value; int 80H … 64: call 128; add eax, value; ret … 128: `leave`; add eax, value;
 * ret: the same bytes for 64-bit and 32-bit code.
 */
static void user_chain(uint8_t *to, uint32_t value, uint32_t leave)
{
	for (unsigned i = 0; i < 3; i++) {
		uint8_t *at = to + 64 * i;

		if (i == 0)
			at = put(at, 0xc031, 2);
		if (i < 2) {
			at = put(at, 0xe8, 1);
			at = put(at, (uint64_t)(to + 64 * (i + 1) - (at + 4)), 4);
		} else {
			at = put(at, leave, 2);
		}
		at = put(at, 0x05, 1);
		at = put(at, value, 4);
		put(at, i == 0 ? 0x80cd : 0xc3, i == 0 ? 2 : 1);
	}
}

static void user_alternates(const char *name, void (*what)(void), uint32_t leave, uint64_t cs)
{
	rule(name);
	fresh();
	user_chain(page[0], 1, leave);
	user_chain(page[1], 100, leave);
	between = nothing;
	for (unsigned i = 0; i < 4; i++) {
		CHECK_EQ(run_user(0, cs), 3);
		CHECK_EQ(run_user(4096, cs), 300);
	}
	turn = 0;
	for (unsigned i = 0; i < 8; i++) {
		between = what;
		CHECK_EQ(run_user(0, cs), i & 1 ? 3 : 300);
	}
	fresh();
}

static void user_rewrite(void)
{
	user_chain(page[0], turn & 1 ? 100 : 1, page[0][128] | page[0][129] << 8);
}

static void levels(void)
{
	wrmsr(MSR_STAR, (uint64_t)0x13 << 48 | (uint64_t)CODE64 << 32);
	wrmsr(MSR_LSTAR, (uint64_t)system_call_entry);
	wrmsr(MSR_FMASK, FLAG_IF | FLAG_TF | FLAG_DF);
	gate_set(0x81, 0xe, 3, 0, true);
	test_hook = on_interrupt;
	user_alternates("SYSCALL between call and return: the kernel remaps the caller", remap, 0x050f, USER64);
	user_alternates("SYSCALL between call and return: the kernel changes the address space", switch_space, 0x050f, USER64);
	user_alternates("SYSCALL between call and return: the kernel rewrites the caller", user_rewrite, 0x050f, USER64);
	user_alternates("an interrupt between call and return: its handler remaps the caller", remap, 0x81cd, USER64);
	user_alternates("an interrupt between call and return: another address space", switch_space, 0x81cd, USER64);
	user_alternates("an interrupt between call and return: the caller is rewritten", user_rewrite, 0x81cd, USER64);
	user_alternates("32-bit code: the handler remaps the caller", remap, 0x81cd, USER32);
	user_alternates("32-bit code: another address space", switch_space, 0x81cd, USER32);
	user_alternates("32-bit code: the caller is rewritten", user_rewrite, 0x81cd, USER32);
}

/* The handler returns over the rest of the callee, and to somewhere else entirely. */
static bool skip_frame(struct frame *frame)
{
	if (frame->vector != 0x81)
		return false;
	frame->rip = *(uint64_t *)frame->rsp;
	frame->rsp += 8;
	return true;
}

static void unbalanced(void)
{
	rule("IRET to the caller's caller: the returns below it go on rightly");
	fresh();
	user_chain(page[0], 1, 0x81cd);
	between = nothing;
	for (unsigned i = 0; i < 4; i++) {
		test_hook = on_interrupt;
		CHECK_EQ(run_user(0, USER64), 3);
		test_hook = skip_frame;
		CHECK_EQ(run_user(0, USER64), 2);
	}
	test_hook = NULL;
}

/*
 * 64-bit code calls; the callee goes to 32-bit code by a far return, and that returns with the low half of the
 * address: behind the call, 48 FF C0 is INC RAX, or DEC EAX and INC EAX.
 */
static void modes(void)
{
	uint8_t *at;

	rule("a return in another mode than the call's: the bytes mean something else");
	fresh();
	at = put(page[0], 0xc031, 2);	      /* xor eax, eax */
	at = put(at, 0xe8, 1);		      /* call 64 */
	at = put(at, 64 - 7, 4);
	at = put(at, 0xc0ff48, 3);	      /* inc rax */
	put(at, 0x80cd, 2);		      /* int 80H */
	at = put(page[0] + 64, 0xff85, 2);    /* test edi, edi: stay in 64-bit mode? */
	at = put(at, 0x0174, 2);	      /* jz over the ret */
	at = put(at, 0xc3, 1);
	at = put(at, 0x6a, 1);		      /* push USER32 */
	at = put(at, USER32, 1);
	at = put(at, 0x68, 1);		      /* push the address of the 32-bit ret: sign-extended, so made whole */
	at = put(at, WINDOW + 128, 4);
	at = put(at, 0x042444c7, 4);	      /* mov dword [rsp+4], 0 */
	at = put(at, 0, 4);
	put(at, 0xcb48, 2);		      /* lretq */
	put(page[0] + 128, 0xc3, 1);
	for (unsigned i = 0; i < 8; i++) {
		uint64_t in_64 = i % 3 != 2;

		CHECK_EQ((uint32_t)user_run(WINDOW, USER_STACK_TOP, USER64, FLAGS_USER, in_64, 0), in_64);
	}
}

void guest_main(void)
{
	user_setup();
	setup();
	spaces();
	rewritten();
	access_rights();
	levels();
	unbalanced();
	modes();
	same_page_twice();
}

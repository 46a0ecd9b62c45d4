/*
 * Segmentation, gates and tasks in protected mode, 16-bit code, virtual-8086 mode and real-address mode (SDM
 * volume 3, Protection; Task Management; 8086 Emulation).
 */
#include "runtime/guest32.h"

#define FLAG_ZF  (1u << 6)
#define FLAG_IF  (1u << 9)
#define FLAG_NT  (1u << 14)
#define FLAG_VM  (1u << 17)
#define FLAG_VIF (1u << 19)
#define FLAG_VIP (1u << 20)
#define IOPL3    (3u << 12)

#define OWN_GDT(n)  gdt[(OWN >> 3) + (n)]
#define SELECTOR(n) (OWN + 8 * (n))
#define SEGMENT(base, limit, rights)                                                                         \
	(((limit)&0xffff) | (uint64_t)((base)&0xffffff) << 16 | (uint64_t)(rights) << 40 |                   \
	 (uint64_t)((limit) >> 16 & 15) << 48 | (uint64_t)((uint32_t)(base) >> 24) << 56)
#define BIG  0x4000u /* D/B, in `rights` */
#define GRAN 0x8000u

struct tss {
	uint32_t link, esp0, ss0, esp1, ss1, esp2, ss2, cr3, eip, eflags, eax, ecx, edx, ebx, esp, ebp, esi,
	    edi, es, cs, ss, ds, fs, gs, ldt;
	uint16_t trap, io_map;
	uint8_t interrupts[32]; /* redirection bitmap */
	uint8_t io[8194];
};
static struct tss main_tss, other_tss;
static uint8_t stack0[8192] __attribute__((aligned(16))), user_stack[8192] __attribute__((aligned(16))),
    other_stack[4096] __attribute__((aligned(16)));
static uint8_t data[4096] __attribute__((aligned(4096)));

enum {
	S_TSS,
	S_OTHER,
	S_SMALL,
	S_DOWN,
	S_GATE,
	S_CONFORMING,
	S_TASK_GATE,
	S_FREE,
	S_FREE2,
	S_LOW16,
	S_LOWDATA
};

static void setup(void)
{
	main_tss.esp0 = (uint32_t)(stack0 + sizeof(stack0));
	main_tss.ss0 = DATA;
	main_tss.io_map = offsetof(struct tss, io);
	memset(main_tss.io, 0xff, sizeof(main_tss.io));
	OWN_GDT(S_TSS) = SEGMENT((uint32_t)&main_tss, sizeof(main_tss) - 1, 0x89);
	__asm__ volatile("ltr %w0" : : "r"(SELECTOR(S_TSS)));
	__asm__ volatile("lldt %w0" : : "r"(0));
}

static void limits(void)
{
	OWN_GDT(S_SMALL) = SEGMENT((uint32_t)data, 99, 0x93 | BIG);
	OWN_GDT(S_DOWN) = SEGMENT((uint32_t)data, 99, 0x97 | BIG);
	uint32_t small = SELECTOR(S_SMALL), down = SELECTOR(S_DOWN), value;

	__asm__ volatile("mov %0, %%fs\n\tmov %1, %%gs" : : "r"(small), "r"(down));
	data[96] = 1, data[97] = 2, data[98] = 3, data[99] = 4;
	rule("limit: the last byte of an access counts");
	__asm__ volatile("mov %%fs:96, %0" : "=r"(value));
	CHECK_EQ(value, 0x04030201);
	RAISES("#GP: an access beyond the limit", 13, 0, AT("mov %%fs:97, %%eax"), "a"(0));
	RAISES("#GP: a byte beyond the limit", 13, 0, AT("movb $1, %%fs:100"), "a"(0));
	RAISES("#GP: an access that wraps", 13, 0, AT("mov %%fs:-2, %%eax"), "a"(0));
	rule("expand-down: valid above the limit");
	data[100] = 5;
	uint8_t byte;
	__asm__ volatile("movb %%gs:100, %0" : "=q"(byte));
	CHECK_EQ(byte, 5);
	RAISES("#GP: expand-down below the limit", 13, 0, AT("movb %%gs:99, %%al"), "a"(0));
	rule("#GP: any access through a null selector");
	CHECK_EQ(TRY("mov %0, %%fs\n\tmov %%fs:0, %%eax", , "a"(0)), 13);
	CHECK_EQ(fault.error, 0);
	OWN_GDT(S_FREE) = SEGMENT(0, 0xfffff, 0x91 | BIG | GRAN);
	OWN_GDT(S_FREE2) = SEGMENT(0, 0xfffff, 0x99 | BIG | GRAN);
	rule("#GP: a write to a read-only segment, a read of execute-only code");
	CHECK_EQ(TRY("mov %0, %%fs\n\tmov %%fs:0, %%ecx\n\tmovb $0, %%fs:0", , "a"(SELECTOR(S_FREE))), 13);
	CHECK_EQ(TRY("mov %0, %%fs", , "a"(SELECTOR(S_FREE2))), 13);
	CHECK_EQ(fault.error, SELECTOR(S_FREE2));
	RAISES("#GP: a write to code", 13, 0, AT("movl $0, %%cs:data_word"), "a"(0));
	rule("#GP: a null selector for SS");
	CHECK_EQ(TRY("mov %0, %%ss", , "a"(0)), 13);
	CHECK_EQ(fault.error, 0);

	rule("LAR and LSL: rights, limit in bytes, ZF");
	uint32_t rights, limit;
	uint8_t zf;
	__asm__ volatile("lar %3, %0\n\tsetz %2\n\tlsl %3, %1"
	                 : "=&r"(rights), "=&r"(limit), "=&q"(zf)
	                 : "r"(small));
	CHECK_EQ(zf, 1);
	CHECK_EQ(rights, 0x409300);
	CHECK_EQ(limit, 99);
	__asm__ volatile("lsl %1, %0" : "=r"(limit) : "r"(DATA));
	CHECK_EQ(limit, 0xffffffff);
	__asm__ volatile("mov $7, %0\n\tlar %2, %0\n\tsetz %1" : "=&r"(rights), "=&q"(zf) : "r"(0));
	CHECK_EQ(zf, 0);
	CHECK_EQ(rights, 7);
	rule("VERR and VERW");
	__asm__ volatile("verw %w1\n\tsetz %0" : "=q"(zf) : "r"(small));
	CHECK_EQ(zf, 1);
	__asm__ volatile("verw %w1\n\tsetz %0" : "=q"(zf) : "r"(SELECTOR(S_FREE)));
	CHECK_EQ(zf, 0);
	__asm__ volatile("verr %w1\n\tsetz %0" : "=q"(zf) : "r"(SELECTOR(S_FREE)));
	CHECK_EQ(zf, 1);
	__asm__ volatile("verr %w1\n\tsetz %0" : "=q"(zf) : "r"(SELECTOR(S_FREE2)));
	CHECK_EQ(zf, 0);
	rule("ARPL");
	uint32_t selector = 0x10;
	__asm__ volatile("arpl %w2, %w0\n\tsetz %1" : "+r"(selector), "=q"(zf) : "r"(3));
	CHECK_EQ(selector, 0x13);
	CHECK_EQ(zf, 1);
	rule("#BR, #OF, and decimal adjustment");
	static int32_t bounds[2] = {-5, 5};
	CHECK_EQ(TRY(AT("bound %0, (%1)"), , OPERANDS("r"(6), "r"(bounds))), 5);
	CHECK_EQ(fault.eip, expected_eip);
	CHECK_EQ(TRY("bound %0, (%1)", , OPERANDS("r"(-5), "r"(bounds))), NO_FAULT);
	CHECK_EQ(TRY("movb $0x7f, %%al\n\taddb $1, %%al\n\tinto", , "a"(0)), 4);
	CHECK_EQ(TRY("xor %%eax, %%eax\n\tinto", , "a"(0)), NO_FAULT);
	CHECK_EQ(TRY("aam $0", , "a"(0)), 0);
	uint32_t eax;
	__asm__("mov $0x15, %%al\n\tadd $0x27, %%al\n\tdaa\n\tmovzx %%al, %0" : "=a"(eax));
	CHECK_EQ(eax, 0x42);
	__asm__("mov $123, %%ax\n\taam" : "=a"(eax));
	CHECK_EQ(eax & 0xffff, 0x0c03);
	rule("PUSHA, POPA, LES");
	static struct {
		uint32_t offset;
		uint16_t selector;
	} __attribute__((packed)) far = {0x1234, DATA};
	__asm__("mov $5, %%eax\n\tpusha\n\tmov $6, %%eax\n\tpopa\n\tles %1, %%ecx\n\tmov %%ecx, %%edx"
	        : "=a"(eax), "+m"(far), "=d"(value)
	        :
	        : "ecx");
	CHECK_EQ(eax, 5);
	CHECK_EQ(value, 0x1234);
	__asm__ volatile("mov %0, %%fs\n\tmov %0, %%gs" : : "r"(DATA));
}
uint32_t data_word;

/* SDM, MOVS; STOS: 32-bit code with flat segments. */
static uint8_t area[3 * 4096] __attribute__((aligned(4096)));

static void fill_area(void)
{
	for (unsigned i = 0; i < sizeof(area); i++)
		area[i] = (uint8_t)(i * 7 + i / 256);
}

/* The sum of what [start, start + count) holds, by place, as fill_area() left it `shift` bytes before. */
static unsigned misplaced(unsigned start, unsigned count, int shift)
{
	unsigned wrong = 0;

	for (unsigned i = start; i < start + count; i++)
		wrong += area[i] != (uint8_t)((i - shift) * 7 + (i - shift) / 256);
	return wrong;
}

static void strings(void)
{
	uint32_t esi, edi, ecx;

	rule("MOVSB one by one, up and down over a page's end");
	fill_area();
	esi = (uint32_t)area + 4000, edi = (uint32_t)area + 3996, ecx = 200;
	__asm__ volatile("1:\tmovsb\n\tdec %%ecx\n\tjne 1b" : "+S"(esi), "+D"(edi), "+c"(ecx) : : "memory", "cc");
	CHECK_EQ(esi, (uint32_t)area + 4200);
	CHECK_EQ(edi, (uint32_t)area + 4196);
	CHECK_EQ(misplaced(3996, 200, -4), 0);
	fill_area();
	esi = (uint32_t)area + 4199, edi = (uint32_t)area + 4206, ecx = 200;
	__asm__ volatile("std\n1:\tmovsb\n\tloop 1b\n\tcld" : "+S"(esi), "+D"(edi), "+c"(ecx) : : "memory", "cc");
	CHECK_EQ(esi, (uint32_t)area + 3999);
	CHECK_EQ(edi, (uint32_t)area + 4006);
	CHECK_EQ(misplaced(4007, 200, 7), 0);
	rule("MOVSL and STOSW one by one: an element over a page's end");
	fill_area();
	esi = (uint32_t)area + 4090, edi = (uint32_t)area + 8190;
	__asm__ volatile("movsl\n\tmovsl\n\tstosw" : "+S"(esi), "+D"(edi) : "a"(0xbeef) : "memory");
	CHECK_EQ(esi, (uint32_t)area + 4098);
	CHECK_EQ(edi, (uint32_t)area + 8200);
	CHECK_EQ(misplaced(8190, 8, 4100), 0);
	CHECK_EQ(area[8198] | area[8199] << 8, 0xbeef);
	rule("REP MOVSB: a target one byte on spreads the first byte; three pages; ECX = 0");
	fill_area();
	area[10] = 0x5a;
	esi = (uint32_t)area + 10, edi = esi + 1, ecx = 9000;
	__asm__ volatile("rep movsb" : "+S"(esi), "+D"(edi), "+c"(ecx) : : "memory");
	CHECK_EQ(ecx, 0);
	CHECK_EQ(edi, (uint32_t)area + 9011);
	CHECK_EQ(area[9010], 0x5a);
	CHECK_EQ(misplaced(9011, 100, 0), 0);
	__asm__ volatile("rep movsb" : "+S"(esi), "+D"(edi), "+c"(ecx) : : "memory");
	CHECK_EQ(edi, (uint32_t)area + 9011);
	rule("REP STOSB and MOVSB at the end of the address space: the indices come to 0");
	uint8_t was = *(volatile uint8_t *)0xfffffff0;
	edi = 0xfffffff0, ecx = 16; /* ROM, or nothing: the stores are lost */
	__asm__ volatile("rep stosb" : "+D"(edi), "+c"(ecx) : "a"(was) : "memory");
	CHECK_EQ(edi, 0);
	CHECK_EQ(ecx, 0);
	esi = 0xfffffff0, edi = (uint32_t)area, ecx = 16;
	__asm__ volatile("rep movsb" : "+S"(esi), "+D"(edi), "+c"(ecx) : : "memory");
	CHECK_EQ(esi, 0);
	CHECK_EQ(edi, (uint32_t)area + 16);
	CHECK_EQ(area[0], was);
	rule("MOVS through a segment that ends: #GP at the element, what came before is done");
	OWN_GDT(S_SMALL) = SEGMENT((uint32_t)area, 99, 0x93 | BIG);
	__asm__ volatile("mov %0, %%fs" : : "r"(SELECTOR(S_SMALL)));
	edi = (uint32_t)area + 4096, esi = 90, ecx = 30;
	CHECK_EQ(TRY("rep movsb %%fs:(%%esi), %%es:(%%edi)", OPERANDS("+S"(esi), "+D"(edi), "+c"(ecx)), ), 13);
	__asm__ volatile("mov %0, %%fs" : : "r"(DATA));
}

/* Words that lie between instructions, as in loaders that go to and fro between modes: stores there change no code. */
extern uint32_t beside[];
uint32_t count_beside(uint32_t rounds);
__asm__(".text\n\t.p2align 6\n"
        "count_beside:\n\tmov 4(%esp), %ecx\n\tjmp 1f\n"
        ".globl beside\nbeside:\t.long 0, 0\n"
        "1:\tincl beside\n\tmov beside, %eax\n\tmov %eax, beside + 4\n\tdec %ecx\n\tjne 1b\n\t"
        ".globl beside_code\nbeside_code:\tadd $0, %eax\n\tret\n");
extern uint8_t beside_code[];

static void data_beside_code(void)
{
	rule("stores beside code, and into it");
	for (uint32_t i = 1; i <= 20; i++) {
		beside_code[2] = (uint8_t)i; /* the constant of ADD */
		CHECK_EQ(count_beside(50), 50 * i + i);
		CHECK_EQ(beside[1], 50 * i);
		*(volatile uint16_t *)(beside_code + 2) = 0xc300 | (i + 1); /* the constant and RET, which stays */
		CHECK_EQ(count_beside(0x10), 50 * i + 16 + i + 1);
		beside[0] -= 16;
	}
}

extern const uint8_t gate_entry[], conforming_entry[], user_gate_code[], user_conforming_code[];
uint32_t gate_cs, gate_ss, gate_esp, gate_parameters[2];
__asm__(
    ".text\n"
    ".globl gate_entry\ngate_entry:\n\tmov %cs, %eax\n\tmov %eax, %ss:gate_cs\n\tmov %ss, %eax\n\tmov %eax, "
    "%ss:gate_ss\n\t"
    "mov %esp, %ss:gate_esp\n\tmov 8(%esp), %eax\n\tmov %eax, %ss:gate_parameters\n\tmov 12(%esp), %eax\n\t"
    "mov %eax, %ss:gate_parameters+4\n\tlret $8\n"
    ".globl user_gate_code\nuser_gate_code:\n\tmov $0x33, %eax\n\tmov %eax, %ds\n\tpush $22\n\tpush "
    "$11\n\tmov %esp, %ebx\n\tlcall $0x58 + 3, $0\n\t"
    "mov %esp, gate_return_esp\n\tmov %ebx, gate_return_esp+4\n\tint $0x80\n"
    ".globl conforming_entry\nconforming_entry:\n\tmov %cs, %eax\n\tmov %eax, gate_cs\n\tlret\n"
    ".globl user_conforming_code\nuser_conforming_code:\n\tmov $0x33, %eax\n\tmov %eax, %ds\n\tlcall $0x60, "
    "$conforming_entry\n\tint $0x80\n"
    ".data\n.globl gate_return_esp\ngate_return_esp: .long 0, 0\n.text\n");
extern uint32_t gate_return_esp[];

#define USER(code, flags)                                                                                    \
	user_run((uint32_t)(code), (uint32_t)(user_stack + sizeof(user_stack)), UCODE, (flags) | 2, UDATA)

static void gates(void)
{
	OWN_GDT(S_GATE) = ((uint32_t)gate_entry & 0xffff) | CODE << 16 | (uint64_t)2 << 32 |
	                  (uint64_t)0xec << 40 | (uint64_t)((uint32_t)gate_entry & 0xffff0000) << 32;
	rule("call gate to a more privileged level: stack from the TSS, parameters copied, RET n on both "
	     "stacks");
	fault.vector = 0;
	USER(user_gate_code, 0);
	CHECK_EQ(fault.vector, 0x80);
	CHECK_EQ(gate_cs, CODE);
	CHECK_EQ(gate_ss, DATA);
	CHECK_EQ(gate_esp, main_tss.esp0 - 24);
	CHECK_EQ(gate_parameters[0], 11);
	CHECK_EQ(gate_parameters[1], 22);
	CHECK_EQ(gate_return_esp[0], gate_return_esp[1] + 8);
	rule("#GP: a call gate whose DPL is below the CPL");
	OWN_GDT(S_GATE) &= ~(3ull << 45);
	USER(user_gate_code, 0);
	CHECK_EQ(fault.vector, 13);
	CHECK_EQ(fault.error, SELECTOR(S_GATE));
	rule("#NP: a call gate that is not present");
	OWN_GDT(S_GATE) = (OWN_GDT(S_GATE) | 3ull << 45) & ~(1ull << 47);
	USER(user_gate_code, 0);
	CHECK_EQ(fault.vector, 11);
	CHECK_EQ(fault.error, SELECTOR(S_GATE));
	rule("conforming code keeps the CPL");
	OWN_GDT(S_CONFORMING) = SEGMENT(0, 0xfffff, 0x9f | BIG | GRAN);
	USER(user_conforming_code, 0);
	CHECK_EQ(fault.vector, 0x80);
	CHECK_EQ(gate_cs, SELECTOR(S_CONFORMING) | 3);
	CHECK_EQ(last_frame.cs, UCODE);
	rule("interrupt from CPL 3: SS:ESP of the TSS, the old ones pushed");
	CHECK_EQ(last_frame.ss, UDATA);
	CHECK_EQ(last_frame.esp, (uint32_t)(user_stack + sizeof(user_stack)));
	RAISES("#GP: a far jump to a data segment", 13, DATA, AT("ljmp $0x10, $0"), "a"(0));
	RAISES("#GP: a far jump to CPL 3 code", 13, UCODE & ~3, AT("ljmp $0x28, $0"), "a"(0));
	RAISES("#GP: a far jump to a null selector", 13, 0, AT("ljmp $0, $0"), "a"(0));
}

static uint32_t task_runs, task_cr0;
extern const uint8_t task_entry[], task_entry_again[];
void task_body(void);
void task_body(void)
{
	uint32_t selector;

	task_runs++;
	task_cr0 = read_cr0();
	__asm__("str %0" : "=r"(selector));
	task_runs += selector << 16;
}
__asm__(".text\n.globl task_entry\ntask_entry:\n\tcall task_body\n\tiret\n.globl "
        "task_entry_again\ntask_entry_again:\n\tjmp task_entry\n");

/* SDM, Task Switching; Task Linking. */
static void tasks(void)
{
	uint32_t value;

	other_tss = (struct tss){.eip = (uint32_t)task_entry,
	                         .eflags = 2,
	                         .esp = (uint32_t)(other_stack + sizeof(other_stack)),
	                         .es = DATA,
	                         .cs = CODE,
	                         .ss = DATA,
	                         .ds = DATA,
	                         .fs = DATA,
	                         .gs = DATA,
	                         .cr3 = read_cr3()};
	OWN_GDT(S_OTHER) = SEGMENT((uint32_t)&other_tss, 103, 0x89);
	rule("task switch by CALL: link, NT, busy bits, CR0.TS; back by IRET");
	task_runs = 0;
	__asm__ volatile("mov $0x1234, %%esi\n\tlcall $0x40, $0\n\tmov %%esi, %0"
	                 : "=r"(value)
	                 :
	                 : "esi", "memory");
	CHECK_EQ(value, 0x1234);
	CHECK_EQ(task_runs, 1 + (SELECTOR(S_OTHER) << 16));
	CHECK_EQ(other_tss.link & 0xffff, SELECTOR(S_TSS));
	CHECK_EQ(task_cr0 & 8, 8);
	CHECK_EQ(OWN_GDT(S_OTHER) >> 40 & 0xff, 0x89);
	CHECK_EQ(OWN_GDT(S_TSS) >> 40 & 0xff, 0x8b);
	CHECK_EQ(other_tss.eflags & FLAG_NT, 0);
	CHECK_EQ(other_tss.eip, (uint32_t)task_entry_again);
	__asm__ volatile("clts");
	rule("task switch by CALL again: goes on after its IRET");
	__asm__ volatile("lcall $0x40, $0" : : : "memory");
	CHECK_EQ(task_runs, 2 + (SELECTOR(S_OTHER) << 17));
	__asm__ volatile("clts");
	rule("task switch through a task gate in the IDT");
	idt[0x90] = (uint64_t)SELECTOR(S_OTHER) << 16 | 0xe500ull << 32;
	__asm__ volatile("int $0x90" : : : "memory");
	CHECK_EQ(task_runs & 0xff, 3);
	__asm__ volatile("clts");
	rule("#GP: a CALL to a busy task");
	CHECK_EQ(TRY("lcall %0, $0", , "i"(SELECTOR(S_TSS))), 13);
	CHECK_EQ(fault.error, SELECTOR(S_TSS));
	rule("#TS: a TSS that is too small");
	OWN_GDT(S_OTHER) = SEGMENT((uint32_t)&other_tss, 102, 0x89);
	CHECK_EQ(TRY("lcall %0, $0", , "i"(SELECTOR(S_OTHER))), 10);
	CHECK_EQ(fault.error, SELECTOR(S_OTHER));
	OWN_GDT(S_OTHER) = SEGMENT((uint32_t)&other_tss, 103, 0x89);
	rule("#NP: a TSS that is not present");
	OWN_GDT(S_OTHER) &= ~(1ull << 47);
	CHECK_EQ(TRY("lcall %0, $0", , "i"(SELECTOR(S_OTHER))), 11);
	OWN_GDT(S_OTHER) |= 1ull << 47;
	rule("#TS: IRET with NT set and a bad link");
	main_tss.link = DATA;
	CHECK_EQ(TRY("pushfl\n\torl $0x4000, (%%esp)\n\tpopfl\n\tiret", , "a"(0)), 10);
	CHECK_EQ(fault.error, DATA);
	__asm__ volatile("pushfl\n\tandl $~0x4000, (%%esp)\n\tpopfl" : : : "memory", "cc");
}

/* Code below 1 MiB for real-address mode, virtual-8086 mode and 16-bit protected mode. */
#define LOW      0x8000u /* segment 0800H */
#define LOW_DATA 0x9000u
extern const uint8_t low_start[], low_end[], low_real[], low_v86[], low_16[], low_real_irq[], low_real_gp[],
    low_v86_irq[], low_v86_cli[], low_v86_pushf[], low_v86_hlt[];
#define LOW_OFFSET(symbol) ((uint32_t)(symbol) - (uint32_t)low_start)
uint32_t low_esp;
__asm__(
    ".text\n.globl low_start, low_end, low_real, low_v86, low_16, low_real_irq, low_real_gp, low_v86_irq, "
    "low_v86_cli, low_v86_pushf, low_v86_hlt\n"
    ".code16\nlow_start:\n"
    /* Real-address mode: DS = 0900H, results there; back to 32-bit code through 08H. */
    "low_real:\n\tmov %cr0, %eax\n\tand $~1, %al\n\tmov %eax, %cr0\n\tljmp $0x800, $(1f - low_start)\n"
    "1:\tmov $0x900, %ax\n\tmov %ax, %ds\n\tmov %ax, %ss\n\tmov $0x800, %sp\n\t"
    "movw $0x1111, 0\n\tint $0x60\n\t"
    "mov 0xffff, %ax\n\t" /* #GP: a word over the segment's end */
    "movw $0x2222, 4\n\t"
    "mov $0xffff, %bx\n\tmov 1(%bx), %ax\n\tmov %ax, 6\n\t" /* the address wraps to 0 */
    "mov $0xf000, %ax\n\tmov %ax, %es\n\tmov $0xffff, %ax\n\tmov %ax, %es\n\tmov 16, %bx\n\tmov %es:(%bx), %al\n\tmov %al, "
    "8\n\t" /* FFFF:BX */
    "mov %sp, %ax\n\tpusha\n\tpopa\n\tsub %sp, %ax\n\tmov %ax, 10\n\t"
    "mov $0x8000, %ax\n\tmov $0x10, %cx\n\tmul %cx\n\tmov %dx, 12\n\t"
    "mov %cr0, %eax\n\tor $1, %al\n\tmov %eax, %cr0\n\tljmpl *%cs:(low_back - low_start)\n"
    "low_back:\t.long real_back\n\t.word 8\n"
    "low_real_irq:\tmovw $0x3333, 2\n\tiret\n"
    /* #GP handler: skips the 3 bytes of the MOV */
    "low_real_gp:\tpush %bp\n\tmov %sp, %bp\n\taddw $3, 2(%bp)\n\tincw 14\n\tpop %bp\n\tiret\n"
    /* 16-bit protected-mode code, base LOW: far call from 32-bit code with a 32-bit operand size. */
    "low_16:\tmov $0x12345678, %eax\n\tmov $0x9abc, %ax\n\tpush %ax\n\tpop %cx\n\tmovzwl %cx, %ecx\n\t"
    "xor %ebx, %ebx\n\tmov $0xffff, %bx\n\tinc %bx\n\tsetz %dl\n\tlretl\n"
    /* Virtual-8086 mode. */
    "low_v86:\tmov $0x900, %ax\n\tmov %ax, %ds\n\tmovw $0x4444, 0\n\tint $0x61\n\tmov %sp, %ax\n\tint $0x80\n"
    "low_v86_irq:\tmovw $0x5555, 2\n\tiret\n"
    "low_v86_cli:\tcli\n\tpushf\n\tpop %ax\n\tsti\n\tpushf\n\tpop %bx\n\tint $0x80\n"
    "low_v86_pushf:\tpushf\n\tpop %ax\n\tint $0x80\n"
    "low_v86_hlt:\thlt\n"
    "low_end:\n.code32\n");
extern const uint8_t real_back[];

static void sixteen_bit(void)
{
	uint32_t eax, ecx, ebx, edx = 0;

	memcpy((void *)LOW, low_start, low_end - low_start);
	OWN_GDT(S_LOW16) = SEGMENT(LOW, 0xffff, 0x9b);
	OWN_GDT(S_LOWDATA) = SEGMENT(LOW_DATA, 0xffff, 0x93);
	rule("16-bit protected mode: operand sizes, far call and return");
	static struct {
		uint32_t offset;
		uint16_t selector;
	} __attribute__((packed)) target;
	target.offset = LOW_OFFSET(low_16);
	target.selector = SELECTOR(S_LOW16);
	__asm__ volatile("lcall *%4"
	                 : "=a"(eax), "=b"(ebx), "=c"(ecx), "+d"(edx)
	                 : "m"(target)
	                 : "memory", "cc");
	CHECK_EQ(eax, 0x12349abc);
	CHECK_EQ(ecx, 0x9abc);
	CHECK_EQ(ebx, 0);
	CHECK_EQ(edx & 1, 1);
	rule("16-bit stack: SP wraps, the upper half of ESP stays");
	*(volatile uint16_t *)(LOW_DATA + 0xfffe) = 0;
	__asm__ volatile("mov %%esp, %%ebx\n\tmov %%ss, %%ecx\n\tmov %2, %%ss\n\tmov $0x12340000, "
	                 "%%esp\n\tpushw $0x7777\n\t"
	                 "mov %%esp, %0\n\tmov %%ecx, %%ss\n\tmov %%ebx, %%esp"
	                 : "=&r"(eax), "=m"(*(volatile uint16_t *)(LOW_DATA + 0xfffe))
	                 : "r"(SELECTOR(S_LOWDATA))
	                 : "ebx", "ecx", "memory");
	CHECK_EQ(eax, 0x1234fffe);
	CHECK_EQ(*(volatile uint16_t *)(LOW_DATA + 0xfffe), 0x7777);
}

/*
 * Sixteen-bit code in a segment of 4 GiB, as UEFI firmware passes through on its way to a waking vector: EIP is cut to
 * 16 bits by branches with that operand size, and by nothing else.
 */
static void sixteen_bit_beyond_64k(void)
{
	extern const uint8_t cut_jmp[], cut_jcc[];
	uint32_t eax, ebx, ecx;

	OWN_GDT(S_FREE) = SEGMENT(0, 0xfffff, 0x9b | GRAN);
	rule("16-bit code above 64 KiB goes on above 64 KiB");
	__asm__ volatile("ljmp %[code16], $1f\n.code16\n"
	                 "1:\tmov $0x1234, %%ax\n\tmovl %%cr0, %%ecx\n\tadd $1, %%ax\n\t"
	                 "sidtl -16(%%esp)\n\tmovl %%ecx, %%cr0\n\tmovl %%ecx, %%ebx\n\tljmpl %[code], $2f\n.code32\n"
	                 "2:"
	                 : "=a"(eax), "=b"(ebx), "=c"(ecx)
	                 : [code16] "i"(SELECTOR(S_FREE)), [code] "i"(CODE)
	                 : "memory", "cc");
	CHECK_EQ(eax & 0xffff, 0x1235);
	CHECK_EQ(ebx, read_cr0());
	rule("JMP and Jcc with a 16-bit operand size cut EIP");
	for (unsigned taken = 0; taken < 2; taken++) {
		uint32_t target = (uint32_t)(taken ? cut_jcc : cut_jmp) & 0xffff, vector;
		volatile uint16_t *place = (volatile uint16_t *)target;
		uint16_t before = *place;

		*place = 0x0b0f; /* ud2 */
		if (taken)
			vector = TRY("xor %%eax, %%eax\n\t.byte 0x66\n\tje cut_jcc\n.globl cut_jcc\ncut_jcc:", , "a"(0));
		else
			vector = TRY(".byte 0x66\n\tjmp cut_jmp\n.globl cut_jmp\ncut_jmp:", , "a"(0));
		*place = before;
		CHECK_EQ(vector, 6);
		CHECK_EQ(fault.eip, target);
	}
}

__attribute__((noinline)) static void go_real(void)
{
	static struct __attribute__((packed)) {
		uint16_t limit;
		uint32_t base;
	} real_idt = {0x3ff, 0}, idt_pointer;
	uint32_t target = LOW_OFFSET(low_real);

	__asm__ volatile("sidt %0" : "=m"(idt_pointer));
	__asm__ volatile(
	    "pusha\n\tmov %%esp, low_esp\n\tlidt %0\n\tmov %3, %%ds\n\tmov %3, %%es\n\tmov %3, %%ss\n\t"
	    "pushw %w2\n\tmov %%ds, %%eax\n\tljmp *%%cs:real_target\n\t"
	    ".globl real_back\nreal_back:\tmov $16, %%eax\n\tmov %%eax, %%ds\n\tmov %%eax, %%es\n\tmov "
	    "%%eax, %%ss\n\t"
	    "mov low_esp, %%esp\n\tlidt %1\n\tpopa"
	    :
	    : "m"(real_idt), "m"(idt_pointer), "r"(target), "r"(DATA16)
	    : "memory", "cc");
}
struct {
	uint32_t offset;
	uint16_t selector;
} __attribute__((packed)) real_target = {0, OWN + 8 * S_LOW16};

static volatile uint8_t above_1m = 0x99; /* among the initialized data, within 64 KiB */

/* SDM, 8086 Emulation: Real-Address Mode. */
static void real_mode(void)
{
	volatile uint16_t *result = (volatile uint16_t *)LOW_DATA;
	uint32_t *table = NULL;

	memset((void *)LOW_DATA, 0, 32);
	__asm__ volatile("" : "+r"(table));
	table[0x60] = 0x800 << 16 | LOW_OFFSET(low_real_irq);
	table[13] = 0x800 << 16 | LOW_OFFSET(low_real_gp);
	result[8] = (uint32_t)&above_1m - 0xffff0;
	rule("real-address mode and back");
	go_real();
	CHECK_EQ(result[0], 0x1111);
	rule("real-address mode: INT through the vector table");
	CHECK_EQ(result[1], 0x3333);
	rule("#GP in real-address mode: a word over offset FFFFH");
	CHECK_EQ(result[7], 1);
	CHECK_EQ(result[2], 0x2222);
	rule("real-address mode: effective addresses wrap at 64 KiB");
	CHECK_EQ(result[3], 0x1111);
	rule("real-address mode: addresses above 1 MiB with A20");
	CHECK_EQ(result[4] & 0xff, 0x99);
	rule("real-address mode: PUSHA, POPA, MUL");
	CHECK_EQ(result[5], 0);
	CHECK_EQ(result[6], 8);
}

/* Code that stands at the same EIP as other code in a segment with a base of 64. */
uint32_t same_eip(void);
uint32_t same_eip_far(uint32_t selector);
__asm__(".text\n\t.p2align 7\n"
        "same_eip_code:\n\tmov $1f, %edx\n\tjmp *%edx\n\tud2\n1:\tmov $1, %eax\n\tlret\n\t"
        ".org same_eip_code + 64\n\tmov $1b, %edx\n\tjmp *%edx\n\tud2\n\tmov $2, %eax\n\tlret\n\t"
        ".org same_eip_code + 128\n"
        "same_eip_far:\n\tpush 4(%esp)\n\tpush $same_eip_code\n\tlcall *(%esp)\n\tadd $8, %esp\n\tret\n");

static void mode_changes(void)
{
	uint32_t (*volatile low)(void) = (uint32_t (*)(void))(LOW_DATA + 64);

	OWN_GDT(S_FREE) = SEGMENT(64, 0xfffff, 0x9b | BIG | GRAN);
	rule("one EIP in two segments, by turns");
	for (unsigned i = 0; i < 8; i++) {
		CHECK_EQ(same_eip_far(CODE), 1);
		CHECK_EQ(same_eip_far(SELECTOR(S_FREE)), 2);
	}
	rule("code of before real-address mode is there behind it, and changes");
	for (unsigned i = 0; i < 8; i++) {
		*(volatile uint16_t *)(LOW_DATA + 64) = 0xb8 | i << 8; /* mov eax, i */
		*(volatile uint32_t *)(LOW_DATA + 66) = 0xc3000000;
		CHECK_EQ(low(), i);
		go_real();
		CHECK_EQ(low(), i);
	}
}

static uint32_t v86_ax, v86_bx, v86_eflags;
static bool v86_hook(struct frame *frame)
{
	v86_ax = frame->eax;
	v86_bx = frame->ebx;
	v86_eflags = frame->eflags;
	return false;
}

#define V86(entry, flags) user_run(LOW_OFFSET(entry), 0x700, 0x800, FLAG_VM | 2 | (flags), 0x900)

/* SDM, Virtual-8086 Mode; Interrupt and Exception Handling in Virtual-8086 Mode (VME). */
static void virtual_8086(void)
{
	volatile uint16_t *result = (volatile uint16_t *)LOW_DATA;
	uint32_t *table = NULL;

	__asm__ volatile("" : "+r"(table));
	table[0x61] = 0x800 << 16 | LOW_OFFSET(low_v86_irq);
	on_exception = v86_hook;
	memset((void *)LOW_DATA, 0, 32);
	memset(main_tss.interrupts, 0xff, 32);
	rule("virtual-8086 mode: IRET there, INT 80H back; data segments saved and null in the handler");
	idt[0x61] = idt[0x80];
	V86(low_v86_pushf, IOPL3);
	CHECK_EQ(fault.vector, 0x80);
	CHECK_EQ(fault.cs, 0x800);
	CHECK_EQ(v86_eflags & FLAG_VM, FLAG_VM);
	CHECK_EQ(last_frame.ss, 0x900);
	CHECK_EQ(last_frame.v86_ds, 0x900);
	CHECK_EQ(v86_ax & 0x3000, 0x3000);
	rule("virtual-8086 mode, IOPL 3: INT goes to the protected-mode handler");
	V86(low_v86, IOPL3);
	CHECK_EQ(fault.vector, 0x80);
	CHECK_EQ(result[0], 0x4444);
	CHECK_EQ(result[1], 0);
	rule("#GP: virtual-8086 mode, IOPL 0: INT n, CLI, PUSHF");
	V86(low_v86, 0);
	CHECK_EQ(fault.vector, 13);
	CHECK_EQ(fault.error, 0);
	V86(low_v86_cli, 0);
	CHECK_EQ(fault.vector, 13);
	V86(low_v86_pushf, 0);
	CHECK_EQ(fault.vector, 13);
	rule("#GP: HLT in virtual-8086 mode, also at IOPL 3");
	V86(low_v86_hlt, IOPL3);
	CHECK_EQ(fault.vector, 13);
	CHECK_EQ(fault.error, 0);
	write_cr4(read_cr4() | 1);
	rule("VME: CLI, STI and PUSHF use VIF");
	/* INT 80H at IOPL 0 goes to the handler where its bit in the TSS is 1: #GP instead (method 4). */
	V86(low_v86_cli, 0);
	CHECK_EQ(fault.vector, 13);
	CHECK_EQ(v86_ax & 0x3200, 0x3000);
	CHECK_EQ(v86_bx & 0x3200, 0x3200);
	CHECK_EQ(v86_eflags & FLAG_VIF, FLAG_VIF);
	rule("#GP: VME: STI with VIP set");
	V86(low_v86_cli, FLAG_VIP);
	CHECK_EQ(fault.vector, 13);
	CHECK_EQ(v86_ax & 0x3200, 0x3000);
	CHECK_EQ(last_frame.eip, LOW_OFFSET(low_v86_cli) + 3);
	rule("VME: INT n redirected through the 8086 vector table, IRET from it");
	main_tss.interrupts[0x61 / 8] &= ~(1 << (0x61 & 7));
	result[1] = 0;
	V86(low_v86, IOPL3);
	CHECK_EQ(fault.vector, 0x80);
	CHECK_EQ(result[1], 0x5555);
	CHECK_EQ(v86_ax & 0xffff, 0x700);
	result[1] = 0;
	V86(low_v86, 0);
	CHECK_EQ(fault.vector, 13); /* at INT 80H */
	CHECK_EQ(result[1], 0x5555);
	write_cr4(read_cr4() & ~1u);
	on_exception = NULL;
}

void guest_main(void)
{
	setup();
	limits();
	strings();
	data_beside_code();
	gates();
	tasks();
	sixteen_bit();
	sixteen_bit_beyond_64k();
	real_mode();
	mode_changes();
	virtual_8086();
}

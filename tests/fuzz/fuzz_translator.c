/*
 * The host CPU as the oracle of the translator: random instruction sequences run natively and translated, from
 * the same state, and must leave the same registers, flags, vector registers, x87 stack and memory, or the same
 * fault at the same instruction.
 *
 *	fuzz_translator [--seed N] [--count N] [--length N] [--group NAME | --flow | --flat32] [--plant] [--verbose]
 *		[--deterministic] [--code-memory KIB] [--off MASK]
 *
 * A third of the sequences call, return, repeat and rewrite themselves (flow.c); --flow: all. A quarter is translated a
 * second time with parts of the translator off. --code-memory: with so little that it is renewed in the middle (by parts where
 * it is 128 or more), and the translator's records are looked at now and then (audit.h). --off: ENGINE_TUNE_*.
 *
 * --flat32: sequences of 32-bit code in flat segments instead (flat32.c), natively in the host's compatibility mode. Where
 * the host does not offer that, the translator with all its parts off stands in for the host.
 *
 * --plant puts a known defect into the translator (it believes that INC overwrites CF, and that ADC does not
 * read it) and succeeds only when the fuzzer finds it. A failure prints the seed, the bytes and what differs;
 * `--seed N --count 1` repeats it alone.
 *
 * --deterministic runs each sequence under the deterministic clock, three times: as it is, cut into pieces by timers with
 * parts of the translator off, and one instruction at a time. All must agree with the host, also in the flags at a
 * fault, and on the number of instructions.
 *
 * The same linear addresses are used on both sides: CODE and DATA are mapped at fixed places of this process,
 * and by the guest's page tables. A sequence ends with UD2, so that both sides stop by #UD; another fault stops
 * them earlier, and must be the same one.
 */
#include <setjmp.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/ucontext.h>
#include <unistd.h>

#include "audit.h"
#include "differential_guest.h"
#include "encode.h"
#include "engine/engine.h"
#include "flat32.h"
#include "flow.h"

#define AUDIT_EVERY 16

/* ---- the native side ---- */

static struct differential_state native_in __attribute__((used)), native_out;
static uint64_t native_target __attribute__((used)) = CODE;
static sigjmp_buf native_return;
static volatile bool native_running;
static struct sigaction previous[65];
static bool deterministic;
static bool flat32;
static bool no_native; /* … and the host has no such code */
static bool audited; /* the translator's records are looked at after each AUDIT_EVERY runs */
static unsigned runs;
static unsigned tune_off; /* ENGINE_TUNE_*: in the first run of each sequence */

static void on_signal(int number, siginfo_t *info, void *context)
{
	/* ucontext's order of the hardware's register numbers */
	static const int greg_of[16] = { REG_RAX, REG_RCX, REG_RDX, REG_RBX, REG_RSP, REG_RBP, REG_RSI, REG_RDI,
					 REG_R8,  REG_R9,  REG_R10, REG_R11, REG_R12, REG_R13, REG_R14, REG_R15 };
	ucontext_t *uc = context;

	if (!native_running) {
		/* the translated side's */
		if (previous[number].sa_flags & SA_SIGINFO)
			previous[number].sa_sigaction(number, info, context);
		else
			signal(number, SIG_DFL);
		return;
	}
	native_running = false;
	for (int i = 0; i < 16; i++)
		native_out.gpr[i] = uc->uc_mcontext.gregs[greg_of[i]];
	native_out.rip = uc->uc_mcontext.gregs[REG_RIP];
	native_out.rflags = uc->uc_mcontext.gregs[REG_EFL];
	native_out.vector = uc->uc_mcontext.gregs[REG_TRAPNO];
	memcpy(native_out.fpu, uc->uc_mcontext.fpregs, DIFFERENTIAL_FPU_SIZE);
	siglongjmp(native_return, 1);
}

/* What 32-bit and 64-bit code share, from native_in in r15: vector state, RFLAGS, RAX to RDI. */
#define LOAD_SHARED_STATE \
	"	mov $7, %eax\n" \
	"	xor %edx, %edx\n" \
	"	xrstor64 " DIFFERENTIAL_FPU_OFFSET "(%r15)\n" \
	"	mov 128(%r15), %rax\n" \
	"	push %rax\n" \
	"	popfq\n" \
	"	mov 0(%r15), %rax\n" \
	"	mov 8(%r15), %rcx\n" \
	"	mov 16(%r15), %rdx\n" \
	"	mov 24(%r15), %rbx\n" \
	"	mov 32(%r15), %rsp\n" \
	"	mov 40(%r15), %rbp\n" \
	"	mov 48(%r15), %rsi\n" \
	"	mov 56(%r15), %rdi\n"

/* Loads native_in and jumps to native_target. */
__asm__(".text\n"
	"enter_native:\n"
	"	lea native_in(%rip), %r15\n"
	LOAD_SHARED_STATE
	"	mov 64(%r15), %r8\n"
	"	mov 72(%r15), %r9\n"
	"	mov 80(%r15), %r10\n"
	"	mov 88(%r15), %r11\n"
	"	mov 96(%r15), %r12\n"
	"	mov 104(%r15), %r13\n"
	"	mov 112(%r15), %r14\n"
	"	mov 120(%r15), %r15\n"
	"	jmp *native_target(%rip)\n");
void enter_native(void);

/* The same in 32-bit code. It leaves flat data segments behind, which 64-bit code does not look at. */
static struct __attribute__((packed)) {
	uint32_t offset;
	uint16_t selector;
} native_target32 __attribute__((used)) = { CODE, 0x23 }; /* Linux's selector of 32-bit code for all programs */
__asm__(".text\n"
	"enter_native32:\n"
	"	lea native_in(%rip), %r15\n"
	"	mov $0x2b, %eax\n"
	"	mov %eax, %ds\n"
	"	mov %eax, %es\n"
	LOAD_SHARED_STATE
	"	mov $0, %r8d\n"
	"	mov $0, %r9d\n"
	"	mov $0, %r10d\n"
	"	mov $0, %r11d\n"
	"	mov $0, %r12d\n"
	"	mov $0, %r13d\n"
	"	mov $0, %r14d\n"
	"	mov $0, %r15d\n"
	"	ljmp *native_target32(%rip)\n");
void enter_native32(void);

static void run_native(void)
{
	if (sigsetjmp(native_return, 1) == 0) {
		native_running = true;
		if (flat32)
			enter_native32();
		else
			enter_native();
	}
	__asm__ volatile("cld; vzeroupper; fninit");
}

/* Some virtual machines do not. */
static bool host_runs_32bit(void)
{
	memcpy((void *)CODE, "\x0f\x0b", 2); /* ud2 */
	run_native();
	return native_out.rip == CODE;
}

/* ---- generation ---- */

static struct operand pick_rm(unsigned size)
{
	return pick(2) ? pick_memory(size, false) : reg_operand(pick_register());
}

/* A byte register operand; without REX 4 to 7 are AH…BH. Returns whether an empty REX is wanted. */
static unsigned pick_byte_register(bool rex)
{
	unsigned reg = rex ? pick_register() : pick(8);

	return reg;
}

static void gen_alu(void)
{
	unsigned op = pick(8), prefix, size;
	bool w;

	switch (pick(6)) {
	case 0: { /* byte */
		bool rex = pick(2);
		struct operand rm = pick(2) ? pick_memory(1, false) : reg_operand(pick_byte_register(rex));
		unsigned reg = pick_byte_register(rex);

		if (!rex && rm.memory && (operand_rex(0, &rm) || reg >= 8))
			reg &= 3;
		put_legacy(0, false, false, rex, 0, op << 3 | (pick(2) ? 2 : 0), reg, rm, 0, 0);
		break;
	}
	case 1:
		size = pick_size(&prefix, &w);
		put_legacy(prefix, false, w, false, 0, 0x83, op, pick_rm(size), 1, next_random());
		break;
	case 2:
		size = pick_size(&prefix, &w);
		put_legacy(prefix, false, w, false, 0, 0x81, op, pick_rm(size), size == 2 ? 2 : 4, next_random());
		break;
	case 3: /* accumulator */
		if (pick(2)) {
			put(op << 3 | 4);
			put(next_random());
		} else {
			put(0x48);
			put(op << 3 | 5);
			put_bytes(next_random(), 4);
		}
		break;
	default: {
		size = pick_size(&prefix, &w);
		struct operand rm = pick_rm(size);
		bool to_memory = pick(2);

		put_legacy(prefix, rm.memory && to_memory && op != 7 && pick(4) == 0, w, false, 0,
			   op << 3 | (to_memory ? 1 : 3), pick_register(), rm, 0, 0);
	}
	}
}


/*
 * What an encoding takes. Registers named by reg, rm and vvvv are general (G) or vector (V, also MMX's by their low
 * three bits); memory is `memory` bytes, or the operand size where 0.
 */
enum {
	SIZED = 1 << 0,	   /* 16, 32 or 64 bits by 66 and REX.W */
	SIZED32 = 1 << 1,  /* 32 or 64 bits by REX.W */
	BYTE = 1 << 2,
	RM_ONLY_REG = 1 << 3,
	RM_ONLY_MEMORY = 1 << 4,
	LOCKABLE = 1 << 5,
	REG_G = 1 << 6,
	RM_G = 1 << 7,
	VVVV_G = 1 << 8,
	VVVV_V = 1 << 9,
	VEX = 1 << 10,
	L256 = 1 << 11,	   /* may be 256 bits wide; memory doubles */
	ALIGNED = 1 << 12, /* legacy SSE: faults when misaligned; mostly aligned here */
	MMX = 1 << 13,
	NO_MODRM = 1 << 14,
	CL = 1 << 15,	   /* count in CL */
	DIVIDE = 1 << 16,  /* keep the quotient in range most of the time */
	W1 = 1 << 17,
	X87 = 1 << 18,
};

struct template {
	const char *group;
	unsigned flags;
	uint8_t prefix, map, opcode, last; /* opcode … last: any of them */
	int8_t digit;			   /* -1: reg is a register */
	uint8_t imm;			   /* bytes */
	uint8_t memory;
};

#define INT (SIZED | REG_G | RM_G)

static const struct template templates[] = {
	/* integer */
	{ "integer", BYTE | REG_G | RM_G | LOCKABLE, 0, 0, 0xf6, 0xf6, 2, 0, 1 },
	{ "integer", BYTE | RM_G | LOCKABLE, 0, 0, 0xf6, 0xf6, 3, 0, 1 },
	{ "integer", BYTE | RM_G, 0, 0, 0xf6, 0xf6, 4, 0, 1 },
	{ "integer", BYTE | RM_G, 0, 0, 0xf6, 0xf6, 5, 0, 1 },
	{ "integer", BYTE | RM_G | DIVIDE, 0, 0, 0xf6, 0xf6, 6, 0, 1 },
	{ "integer", BYTE | RM_G | DIVIDE, 0, 0, 0xf6, 0xf6, 7, 0, 1 },
	{ "integer", BYTE | RM_G, 0, 0, 0xf6, 0xf6, 0, 1, 1 },
	{ "integer", SIZED | RM_G | LOCKABLE, 0, 0, 0xf7, 0xf7, 2, 0, 0 },
	{ "integer", SIZED | RM_G | LOCKABLE, 0, 0, 0xf7, 0xf7, 3, 0, 0 },
	{ "integer", SIZED | RM_G, 0, 0, 0xf7, 0xf7, 4, 0, 0 },
	{ "integer", SIZED | RM_G, 0, 0, 0xf7, 0xf7, 5, 0, 0 },
	{ "integer", SIZED | RM_G | DIVIDE, 0, 0, 0xf7, 0xf7, 6, 0, 0 },
	{ "integer", SIZED | RM_G | DIVIDE, 0, 0, 0xf7, 0xf7, 7, 0, 0 },
	{ "integer", SIZED | RM_G, 0, 0, 0xf7, 0xf7, 0, 4, 0 },
	{ "integer", SIZED | RM_G | LOCKABLE, 0, 0, 0xff, 0xff, 0, 0, 0 },
	{ "integer", SIZED | RM_G | LOCKABLE, 0, 0, 0xff, 0xff, 1, 0, 0 },
	{ "integer", BYTE | RM_G | LOCKABLE, 0, 0, 0xfe, 0xfe, 0, 0, 1 },
	{ "integer", BYTE | RM_G | LOCKABLE, 0, 0, 0xfe, 0xfe, 1, 0, 1 },
	{ "integer", INT, 0, 0, 0x85, 0x85, -1, 0, 0 },
	{ "integer", INT | LOCKABLE, 0, 0, 0x87, 0x87, -1, 0, 0 },
	{ "integer", INT, 0, 0, 0x89, 0x89, -1, 0, 0 },
	{ "integer", INT, 0, 0, 0x8b, 0x8b, -1, 0, 0 },
	{ "integer", INT, 0, 0, 0x8b, 0x8b, -1, 0, 0 },
	{ "integer", BYTE | REG_G | RM_G, 0, 0, 0x84, 0x84, -1, 0, 1 },
	{ "integer", BYTE | REG_G | RM_G | LOCKABLE, 0, 0, 0x86, 0x86, -1, 0, 1 },
	{ "integer", BYTE | REG_G | RM_G, 0, 0, 0x88, 0x88, -1, 0, 1 },
	{ "integer", BYTE | REG_G | RM_G, 0, 0, 0x8a, 0x8a, -1, 0, 1 },
	{ "integer", SIZED | REG_G | RM_ONLY_MEMORY, 0, 0, 0x8d, 0x8d, -1, 0, 0 },
	{ "integer", SIZED | RM_G, 0, 0, 0xc7, 0xc7, 0, 4, 0 },
	{ "integer", BYTE | RM_G, 0, 0, 0xc6, 0xc6, 0, 1, 1 },
	{ "integer", INT, 0, 0, 0x69, 0x69, -1, 4, 0 },
	{ "integer", INT, 0, 0, 0x6b, 0x6b, -1, 1, 0 },
	{ "integer", INT, 0, 1, 0xaf, 0xaf, -1, 0, 0 },
	{ "integer", INT | W1, 0, 0, 0x63, 0x63, -1, 0, 4 },
	{ "integer", INT, 0, 1, 0x40, 0x4f, -1, 0, 0 },
	{ "integer", BYTE | RM_G, 0, 1, 0x90, 0x9f, 0, 0, 1 },
	{ "integer", INT, 0, 1, 0xb6, 0xb6, -1, 0, 1 },
	{ "integer", INT, 0, 1, 0xbe, 0xbe, -1, 0, 1 },
	{ "integer", INT, 0, 1, 0xb7, 0xb7, -1, 0, 2 },
	{ "integer", INT, 0, 1, 0xbf, 0xbf, -1, 0, 2 },
	{ "integer", INT | LOCKABLE, 0, 1, 0xc1, 0xc1, -1, 0, 0 },
	{ "integer", BYTE | REG_G | RM_G | LOCKABLE, 0, 1, 0xc0, 0xc0, -1, 0, 1 },
	{ "integer", INT | LOCKABLE, 0, 1, 0xb1, 0xb1, -1, 0, 0 },
	{ "integer", BYTE | REG_G | RM_G | LOCKABLE, 0, 1, 0xb0, 0xb0, -1, 0, 1 },
	{ "integer", INT, 0, 1, 0xbc, 0xbd, -1, 0, 0 },
	{ "integer", NO_MODRM, 0, 0, 0x98, 0x99, 0, 0, 0 },
	{ "integer", NO_MODRM, 0, 0, 0x9e, 0x9f, 0, 0, 0 },
	{ "integer", NO_MODRM, 0, 0, 0xf5, 0xf5, 0, 0, 0 },
	{ "integer", NO_MODRM, 0, 0, 0xf8, 0xf9, 0, 0, 0 },
	{ "integer", NO_MODRM, 0, 0, 0x90, 0x90, 0, 0, 0 },
	/* shifts */
	{ "shift", SIZED | RM_G, 0, 0, 0xc1, 0xc1, -2, 1, 0 },
	{ "shift", BYTE | RM_G, 0, 0, 0xc0, 0xc0, -2, 1, 1 },
	{ "shift", SIZED | RM_G, 0, 0, 0xd1, 0xd1, -2, 0, 0 },
	{ "shift", BYTE | RM_G, 0, 0, 0xd0, 0xd0, -2, 0, 1 },
	{ "shift", SIZED | RM_G, 0, 0, 0xd3, 0xd3, -2, 0, 0 },
	{ "shift", BYTE | RM_G, 0, 0, 0xd2, 0xd2, -2, 0, 1 },
	{ "shift", INT | CL, 0, 1, 0xa4, 0xa4, -1, 1, 0 },
	{ "shift", INT | CL, 0, 1, 0xac, 0xac, -1, 1, 0 },
	/* bits */
	{ "bits", SIZED | RM_G, 0, 1, 0xba, 0xba, 4, 1, 0 },
	{ "bits", SIZED | RM_G | LOCKABLE, 0, 1, 0xba, 0xba, 5, 1, 0 },
	{ "bits", SIZED | RM_G | LOCKABLE, 0, 1, 0xba, 0xba, 6, 1, 0 },
	{ "bits", SIZED | RM_G | LOCKABLE, 0, 1, 0xba, 0xba, 7, 1, 0 },
	{ "bits", INT | RM_ONLY_REG, 0, 1, 0xa3, 0xa3, -1, 0, 0 },
	{ "bits", INT | RM_ONLY_REG, 0, 1, 0xab, 0xab, -1, 0, 0 },
	{ "bits", INT | RM_ONLY_REG, 0, 1, 0xb3, 0xb3, -1, 0, 0 },
	{ "bits", INT | RM_ONLY_REG, 0, 1, 0xbb, 0xbb, -1, 0, 0 },
	{ "bits", SIZED32 | REG_G | RM_G, 0xf3, 1, 0xb8, 0xb8, -1, 0, 0 },
	{ "bits", SIZED32 | REG_G | RM_G, 0xf3, 1, 0xbc, 0xbd, -1, 0, 0 },
	{ "bits", SIZED32 | REG_G | RM_G, 0xf2, 2, 0xf1, 0xf1, -1, 0, 0 },
	{ "bits", SIZED32 | REG_G | RM_G | BYTE, 0xf2, 2, 0xf0, 0xf0, -1, 0, 1 },
	{ "bits", SIZED32 | REG_G | RM_ONLY_MEMORY, 0, 2, 0xf0, 0xf1, -1, 0, 0 },
	{ "bits", SIZED32 | REG_G | RM_G, 0x66, 2, 0xf6, 0xf6, -1, 0, 0 },
	{ "bits", SIZED32 | REG_G | RM_G, 0xf3, 2, 0xf6, 0xf6, -1, 0, 0 },
	{ "bmi", VEX | SIZED32 | REG_G | RM_G | VVVV_G, 0, 2, 0xf2, 0xf2, -1, 0, 0 },	 /* ANDN */
	{ "bmi", VEX | SIZED32 | RM_G | VVVV_G, 0, 2, 0xf3, 0xf3, 1, 0, 0 },		 /* BLSR */
	{ "bmi", VEX | SIZED32 | RM_G | VVVV_G, 0, 2, 0xf3, 0xf3, 2, 0, 0 },
	{ "bmi", VEX | SIZED32 | RM_G | VVVV_G, 0, 2, 0xf3, 0xf3, 3, 0, 0 },
	{ "bmi", VEX | SIZED32 | REG_G | RM_G | VVVV_G, 0, 2, 0xf5, 0xf5, -1, 0, 0 },	 /* BZHI */
	{ "bmi", VEX | SIZED32 | REG_G | RM_G | VVVV_G, 0xf3, 2, 0xf5, 0xf5, -1, 0, 0 }, /* PEXT */
	{ "bmi", VEX | SIZED32 | REG_G | RM_G | VVVV_G, 0xf2, 2, 0xf5, 0xf6, -1, 0, 0 }, /* PDEP, MULX */
	{ "bmi", VEX | SIZED32 | REG_G | RM_G | VVVV_G, 0, 2, 0xf7, 0xf7, -1, 0, 0 },	 /* BEXTR */
	{ "bmi", VEX | SIZED32 | REG_G | RM_G | VVVV_G, 0x66, 2, 0xf7, 0xf7, -1, 0, 0 }, /* SHLX … */
	{ "bmi", VEX | SIZED32 | REG_G | RM_G | VVVV_G, 0xf2, 2, 0xf7, 0xf7, -1, 0, 0 },
	{ "bmi", VEX | SIZED32 | REG_G | RM_G, 0xf2, 3, 0xf0, 0xf0, -1, 1, 0 },		 /* RORX */
	/* SSE, SSE2 */
	{ "sse", ALIGNED, 0, 1, 0x51, 0x51, -1, 0, 16 },
	{ "sse", ALIGNED, 0, 1, 0x54, 0x59, -1, 0, 16 },
	{ "sse", ALIGNED, 0, 1, 0x5c, 0x5f, -1, 0, 16 },
	{ "sse", ALIGNED, 0x66, 1, 0x51, 0x51, -1, 0, 16 },
	{ "sse", ALIGNED, 0x66, 1, 0x54, 0x59, -1, 0, 16 },
	{ "sse", ALIGNED, 0x66, 1, 0x5b, 0x6d, -1, 0, 16 },
	{ "sse", 0, 0xf3, 1, 0x51, 0x53, -1, 0, 4 },
	{ "sse", 0, 0xf3, 1, 0x58, 0x5a, -1, 0, 4 },
	{ "sse", 0, 0xf3, 1, 0x5c, 0x5f, -1, 0, 4 },
	{ "sse", 0, 0xf2, 1, 0x51, 0x51, -1, 0, 8 },
	{ "sse", 0, 0xf2, 1, 0x58, 0x5a, -1, 0, 8 },
	{ "sse", 0, 0xf2, 1, 0x5c, 0x5f, -1, 0, 8 },
	{ "sse", 0, 0, 1, 0x10, 0x11, -1, 0, 16 },
	{ "sse", 0, 0x66, 1, 0x10, 0x11, -1, 0, 16 },
	{ "sse", 0, 0xf3, 1, 0x10, 0x11, -1, 0, 4 },
	{ "sse", 0, 0xf2, 1, 0x10, 0x11, -1, 0, 8 },
	{ "sse", RM_ONLY_MEMORY, 0, 1, 0x12, 0x13, -1, 0, 8 },
	{ "sse", RM_ONLY_MEMORY, 0x66, 1, 0x16, 0x17, -1, 0, 8 },
	{ "sse", ALIGNED, 0, 1, 0x14, 0x15, -1, 0, 16 },
	{ "sse", ALIGNED, 0, 1, 0x28, 0x29, -1, 0, 16 },
	{ "sse", ALIGNED, 0x66, 1, 0x6f, 0x6f, -1, 0, 16 },
	{ "sse", 0, 0xf3, 1, 0x6f, 0x6f, -1, 0, 16 },
	{ "sse", ALIGNED, 0x66, 1, 0x7f, 0x7f, -1, 0, 16 },
	{ "sse", 0, 0xf3, 1, 0x7f, 0x7f, -1, 0, 16 },
	{ "sse", 0, 0, 1, 0x2e, 0x2f, -1, 0, 4 },
	{ "sse", 0, 0x66, 1, 0x2e, 0x2f, -1, 0, 8 },
	{ "sse", SIZED32 | RM_G, 0x66, 1, 0x6e, 0x6e, -1, 0, 0 },
	{ "sse", SIZED32 | RM_G, 0x66, 1, 0x7e, 0x7e, -1, 0, 0 },
	{ "sse", SIZED32 | RM_G, 0xf3, 1, 0x2a, 0x2a, -1, 0, 0 },
	{ "sse", SIZED32 | RM_G, 0xf2, 1, 0x2a, 0x2a, -1, 0, 0 },
	{ "sse", SIZED32 | REG_G, 0xf3, 1, 0x2c, 0x2d, -1, 0, 4 },
	{ "sse", SIZED32 | REG_G, 0xf2, 1, 0x2c, 0x2d, -1, 0, 8 },
	{ "sse", RM_ONLY_REG | REG_G, 0x66, 1, 0xd7, 0xd7, -1, 0, 16 },
	{ "sse", RM_ONLY_REG | REG_G, 0, 1, 0x50, 0x50, -1, 0, 16 },
	{ "sse", ALIGNED, 0x66, 1, 0x70, 0x70, -1, 1, 16 },
	{ "sse", ALIGNED, 0x66, 1, 0xc6, 0xc6, -1, 1, 16 },
	{ "sse", ALIGNED, 0x66, 1, 0xc2, 0xc2, -1, 1, 16 },
	{ "sse", ALIGNED, 0x66, 1, 0x74, 0x76, -1, 0, 16 },
	{ "sse", ALIGNED, 0x66, 1, 0xd1, 0xd5, -1, 0, 16 },
	{ "sse", ALIGNED, 0x66, 1, 0xd8, 0xe5, -1, 0, 16 },
	{ "sse", ALIGNED, 0x66, 1, 0xe8, 0xef, -1, 0, 16 },
	{ "sse", ALIGNED, 0x66, 1, 0xf1, 0xf6, -1, 0, 16 },
	{ "sse", ALIGNED, 0x66, 1, 0xf8, 0xfe, -1, 0, 16 },
	{ "sse", RM_ONLY_MEMORY | REG_G | SIZED32, 0, 1, 0xc3, 0xc3, -1, 0, 0 },
	/* SSSE3, SSE4, AES, PCLMUL, SHA */
	{ "sse4", ALIGNED, 0x66, 2, 0x00, 0x0b, -1, 0, 16 },
	{ "sse4", ALIGNED, 0x66, 2, 0x17, 0x17, -1, 0, 16 },
	{ "sse4", ALIGNED, 0x66, 2, 0x1c, 0x1e, -1, 0, 16 },
	{ "sse4", ALIGNED, 0x66, 2, 0x28, 0x29, -1, 0, 16 },
	{ "sse4", ALIGNED, 0x66, 2, 0x37, 0x41, -1, 0, 16 },
	{ "sse4", ALIGNED, 0x66, 3, 0x08, 0x09, -1, 1, 16 },
	{ "sse4", ALIGNED, 0x66, 3, 0x0c, 0x0f, -1, 1, 16 },
	{ "sse4", ALIGNED, 0x66, 3, 0x60, 0x63, -1, 1, 16 },
	{ "sse4", SIZED32 | RM_G, 0x66, 3, 0x16, 0x16, -1, 1, 0 },
	{ "sse4", SIZED32 | RM_G, 0x66, 3, 0x22, 0x22, -1, 1, 0 },
	{ "aes", ALIGNED, 0x66, 2, 0xdb, 0xdf, -1, 0, 16 },
	{ "aes", ALIGNED, 0x66, 3, 0x44, 0x44, -1, 1, 16 },
	{ "aes", ALIGNED, 0x66, 3, 0xdf, 0xdf, -1, 1, 16 },
	{ "sha", ALIGNED, 0, 2, 0xc8, 0xcd, -1, 0, 16 },
	{ "sha", ALIGNED, 0, 3, 0xcc, 0xcc, -1, 1, 16 },
	/* AVX, AVX2, FMA, F16C */
	{ "avx", VEX | L256, 0, 1, 0x10, 0x11, -1, 0, 16 },
	{ "avx", VEX | L256, 0xf3, 1, 0x6f, 0x6f, -1, 0, 16 },
	{ "avx", VEX | L256, 0xf3, 1, 0x7f, 0x7f, -1, 0, 16 },
	{ "avx", VEX | L256 | VVVV_V, 0, 1, 0x54, 0x59, -1, 0, 16 },
	{ "avx", VEX | L256 | VVVV_V, 0x66, 1, 0x5c, 0x5f, -1, 0, 16 },
	{ "avx", VEX | VVVV_V, 0xf2, 1, 0x58, 0x59, -1, 0, 8 },
	{ "avx", VEX | L256 | VVVV_V, 0x66, 1, 0x60, 0x6d, -1, 0, 16 },
	{ "avx", VEX | L256 | VVVV_V, 0x66, 1, 0xd8, 0xe0, -1, 0, 16 },
	{ "avx", VEX | L256 | VVVV_V, 0x66, 1, 0xf8, 0xfe, -1, 0, 16 },
	{ "avx", VEX | L256 | VVVV_V, 0x66, 2, 0x00, 0x0b, -1, 0, 16 },
	{ "avx", VEX | L256 | VVVV_V, 0x66, 2, 0x45, 0x45, -1, 0, 16 },
	{ "avx", VEX | L256, 0x66, 2, 0x1c, 0x1e, -1, 0, 16 },
	{ "avx", VEX | L256, 0x66, 2, 0x58, 0x58, -1, 0, 4 },
	{ "avx", VEX | L256 | REG_G | RM_ONLY_REG, 0x66, 1, 0xd7, 0xd7, -1, 0, 16 },
	{ "avx", VEX | L256 | VVVV_V, 0x66, 3, 0x0c, 0x0f, -1, 1, 16 },
	{ "avx", VEX | L256 | VVVV_V, 0x66, 2, 0x98, 0x98, -1, 0, 16 },
	{ "avx", VEX | L256 | VVVV_V, 0x66, 2, 0xa8, 0xa8, -1, 0, 16 },
	{ "avx", VEX | L256 | VVVV_V, 0x66, 2, 0xb8, 0xb8, -1, 0, 16 },
	{ "avx", VEX | SIZED32 | RM_G, 0x66, 1, 0x6e, 0x6e, -1, 0, 0 },
	{ "avx", VEX | SIZED32 | RM_G, 0x66, 1, 0x7e, 0x7e, -1, 0, 0 },
	{ "avx", VEX | L256 | NO_MODRM, 0, 1, 0x77, 0x77, 0, 0, 0 },
	/* x87 and MMX */
	{ "x87", X87 | RM_ONLY_MEMORY, 0, 0, 0xd8, 0xd8, -2, 0, 4 },
	{ "x87", X87 | RM_ONLY_MEMORY, 0, 0, 0xdc, 0xdc, -2, 0, 8 },
	{ "x87", X87 | RM_ONLY_MEMORY, 0, 0, 0xd9, 0xd9, 0, 0, 4 },
	{ "x87", X87 | RM_ONLY_MEMORY, 0, 0, 0xd9, 0xd9, 3, 0, 4 },
	{ "x87", X87 | RM_ONLY_MEMORY, 0, 0, 0xdd, 0xdd, 0, 0, 8 },
	{ "x87", X87 | RM_ONLY_MEMORY, 0, 0, 0xdb, 0xdb, 5, 0, 10 },
	{ "x87", X87 | RM_ONLY_MEMORY, 0, 0, 0xdb, 0xdb, 7, 0, 10 },
	{ "x87", X87 | RM_ONLY_MEMORY, 0, 0, 0xdf, 0xdf, 5, 0, 8 },
	{ "x87", X87 | RM_ONLY_REG, 0, 0, 0xd8, 0xd8, -2, 0, 0 },
	{ "x87", X87 | RM_ONLY_REG, 0, 0, 0xd9, 0xd9, 0, 0, 0 },
	{ "x87", X87 | RM_ONLY_REG, 0, 0, 0xda, 0xda, 1, 0, 0 },
	{ "x87", X87 | RM_ONLY_REG, 0, 0, 0xdb, 0xdb, 5, 0, 0 },
	{ "mmx", MMX, 0, 1, 0x60, 0x6b, -1, 0, 8 },
	{ "mmx", MMX, 0, 1, 0x6f, 0x6f, -1, 0, 8 },
	{ "mmx", MMX, 0, 1, 0x7f, 0x7f, -1, 0, 8 },
	{ "mmx", MMX, 0, 1, 0xf8, 0xfe, -1, 0, 8 },
	{ "mmx", NO_MODRM, 0, 1, 0x77, 0x77, 0, 0, 0 },
};

#define TEMPLATES (sizeof(templates) / sizeof(templates[0]))

static void gen_template(const struct template *t)
{
	unsigned flags = t->flags, prefix = t->prefix, size = 0, memory = t->memory, imm = t->imm, digit = 0;
	uint8_t opcode = t->opcode + pick(t->last - t->opcode + 1);
	bool w = flags & W1, l = flags & L256 && pick(2), byte_rex = false;
	struct operand rm;
	unsigned reg;

	if (flags & SIZED) {
		size = flags & W1 ? 8 : pick_size(&prefix, &w);
		w |= flags & W1;
	} else if (flags & SIZED32) {
		w = pick(2);
		size = w ? 8 : 4;
	}
	if (flags & BYTE && !size)
		byte_rex = pick(2);
	if (!memory)
		memory = size ? size : 8;
	if (l && memory > 4)
		memory *= 2;
	if (imm == 4 && size == 2)
		imm = 2;
	if (flags & NO_MODRM) {
		if (flags & VEX) {
			put(0xc5);
			put(0xf8 | l << 2);
		} else {
			if (pick(2) && t->map == 0 && opcode < 0x9a)
				put(0x48);
			if (t->map)
				put(0x0f);
		}
		put(opcode);
		return;
	}
	if (flags & DIVIDE && pick(8)) {
		/* mov edx, 0 (or ah): quotients that fit are common then */
		put(0x31);
		put(0xd2);
		if (flags & BYTE) {
			put(0x30);
			put(0xe4);
		}
	}
	bool memory_form = flags & RM_ONLY_MEMORY || (!(flags & RM_ONLY_REG) && pick(2));

	if (memory_form) {
		rm = pick_memory_of(memory, flags & ALIGNED && pick(32), flags & (ALIGNED | MMX));
	} else if (flags & RM_G) {
		rm = reg_operand(byte_rex || size ? pick_register() : pick(8));
	} else {
		rm = reg_operand(pick(flags & (MMX | X87) ? 8 : 16));
	}
	digit = t->digit == -2 ? pick(8) : t->digit < 0 ? 0 : (unsigned)t->digit;
	if (t->group[0] == 's' && t->group[1] == 'h' && t->group[2] == 'i' && digit == 6)
		digit = 4;
	if (t->digit != -1)
		reg = digit;
	else if (flags & REG_G)
		reg = flags & BYTE && !size && !byte_rex ? pick(4) : pick_register();
	else
		reg = pick(flags & MMX ? 8 : 16);
	/* Without REX, 4 to 7 are AH…BH: not beside registers that need REX. */
	if (flags & BYTE && !size && !byte_rex && !rm.memory && reg < 4 && t->digit == -1 && pick(2))
		reg += 4;
	if (flags & BYTE && !size && !rm.memory && rm.reg >= 8)
		byte_rex = true;
	uint64_t imm_value = next_random();

	if (flags & VEX) {
		unsigned pp = prefix == 0x66 ? 1 : prefix == 0xf3 ? 2 : prefix == 0xf2 ? 3 : 0;
		unsigned vvvv = flags & VVVV_G ? pick_register() : flags & VVVV_V ? pick(16) : 0;
		/* MULX into one register twice is undefined enough: avoid it */
		while (flags & VVVV_G && flags & REG_G && vvvv == reg)
			vvvv = pick_register();
		if (!rm.memory && rm.reg == 4 && flags & RM_G)
			rm.reg = 0;
		put_vex(t->map, pp, w, l, vvvv, opcode, reg, rm, imm, imm_value);
		return;
	}
	bool lock = flags & LOCKABLE && rm.memory && pick(4) == 0;

	put_legacy(prefix, lock, w, byte_rex, t->map, opcode, reg, rm, imm, imm_value);
}

static void gen_stack(void)
{
	unsigned reg = pick_register();

	switch (pick(5)) {
	case 0:
		if (reg & 8)
			put(0x41);
		put(0x50 | (reg & 7));
		break;
	case 1:
		if (reg & 8)
			put(0x41);
		put(0x58 | (reg & 7));
		break;
	case 2:
		put(0x6a);
		put(next_random());
		break;
	case 3: { /* push m64 */
		struct operand rm = pick_memory(8, false);

		put_legacy(0, false, false, false, 0, 0xff, 6, rm, 0, 0);
		break;
	}
	default: /* call over a few bytes, and drop the return address; PUSHF is not compared: IF differs */
		put(0xe8);
		put_bytes(0, 4);
		put(0x8f); /* pop r/m64 */
		put(0xc0 | (reg & 7 & 3));
	}
}

static void gen_branch(void)
{
	/* a forward jump over one instruction */
	unsigned at = code_length;

	put(0x70 | pick(16));
	put(0);
	put_mov_imm(pick_register(), next_random());
	code[at + 1] = code_length - at - 2;
}

/* A loop that names most registers, so that those which it keeps r10, r11 and r15 in are few, and a high byte. */
static void gen_crowded_loop(void)
{
	static const uint8_t may_be_named[] = { 5, 6, 7, 8, 9, 12, 13, 14 };
	unsigned top;

	put_mov_imm(1, 1 + pick(20));
	put_mov_imm(2, DATA + pick(DATA_SIZE - 64));
	top = code_length;
	put_legacy(0, false, true, false, 0, 0x11, 10, reg_operand(11), 0, 0); /* adc r11, r10 */
	put_legacy(0, false, true, false, 0, 0x11, 11, reg_operand(15), 0, 0);
	for (unsigned i = 0; i < sizeof(may_be_named); i++)
		if (pick(4))
			put_legacy(0, false, true, false, 0, 0x11, 15, reg_operand(may_be_named[i]), 0, 0);
	put(pick(2) ? 0x12 : 0x10); /* adc with AH or BH and memory at rdx */
	put((pick(2) ? 4 : 7) << 3 | 2);
	put(0xff); /* dec ecx */
	put(0xc9);
	put(0x75);
	put(top - code_length - 1);
}

static void gen_loop(void)
{
	/* mov ecx, n; top: alu; dec ecx / loop; jnz */
	unsigned top, reg = 3;

	if (pick(3) == 0) {
		gen_crowded_loop();
		return;
	}
	put_mov_imm(1, 1 + pick(20));
	top = code_length;
	put_legacy(0, false, true, false, 0, pick(8) << 3 | 1, reg, reg_operand(12), 0, 0);
	put_legacy(0, false, true, false, 0, 0x11, 13, reg_operand(reg), 0, 0); /* adc: CF across iterations */
	if (pick(2)) {
		put(0xe2);
	} else {
		put(0xff);
		put(0xc9);
		put(0x75);
	}
	put(top - code_length - 1);
}

static void gen_bit_string(void)
{
	struct operand rm = { .memory = true, .base = 3, .index = 16 };
	unsigned op = (const unsigned[]){ 0xa3, 0xab, 0xb3, 0xbb }[pick(4)], prefix, size;
	bool w;

	size = pick_size(&prefix, &w);
	(void)size;
	put_mov_imm(3, DATA + 4096 + (pick(4096) & ~7u));
	put_mov_imm(11, (int16_t)next_random() / 4);
	put_legacy(prefix, pick(2) && op != 0xa3, w, false, 1, op, 11, rm, 0, 0);
}

static void gen_bswap_imm(void)
{
	unsigned reg = pick_register();

	switch (pick(4)) {
	case 0:
		put(0x48 | reg >> 3);
		put(0x0f);
		put(0xc8 | (reg & 7));
		break;
	case 1: /* mov r32, imm32 */
		if (reg & 8)
			put(0x41);
		put(0xb8 | (reg & 7));
		put_bytes(next_random(), 4);
		break;
	case 2: /* mov r8, imm8 */
		put(0xb0 | pick(8));
		put(next_random());
		break;
	default: /* xchg rax, r */
		put(0x48 | reg >> 3);
		put(0x90 | (reg & 7));
	}
}

static void gen_string(void)
{
	/* one or a few repetitions within DATA, DF clear */
	static const uint8_t ops[] = { 0xa4, 0xa5, 0xaa, 0xab, 0xac, 0xad, 0xa6, 0xa7, 0xae, 0xaf };

	put_mov_imm(7, DATA + pick(DATA_SIZE - 1024));
	put_mov_imm(6, DATA + pick(DATA_SIZE - 1024));
	put_mov_imm(1, pick(100));
	put(pick(2) ? 0xf3 : 0xf2);
	if (pick(2))
		put(0x48);
	put(ops[pick(sizeof(ops))]);
}

/* A gather around a pointer into DATA, and a masked store through rdi. */
static void gen_vector_memory(void)
{
	unsigned base = (const unsigned[]){ 3, 9, 11, 15 }[pick(4)], scale = pick(4);
	bool w = pick(2), l = pick(2);

	if (pick(2)) {
		put_mov_imm(7, DATA + pick(DATA_SIZE - 64));
		put_legacy(pick(2) ? 0x66 : 0, false, false, false, 1, 0xf7, pick(8), reg_operand(pick(8)), 0, 0);
		return;
	}
	/* Indices that stay within DATA: what a gather has done before it faults differs between hosts. */
	put_vex(1, 1, false, true, 5, 0x72, 2, reg_operand(6), 1, 22);	/* vpsrld ymm5, ymm6, 22 */
	if (pick(2))
		put_vex(1, 1, false, true, 5, 0x73, 2, reg_operand(6), 1, 54); /* vpsrlq: for 64-bit indices */
	put_mov_imm(base, DATA + 64);
	put_vex(2, 1, w, l, 7, 0x90 + pick(2) * 2, 8,
		(struct operand){ .memory = true, .base = base, .index = 5, .scale = scale, .disp = 8 }, 0, 0);
}

/* Whether a pointer to anywhere may hit memory of this process: a sanitizer's. */
#ifdef NESTOR_SANITIZED
#define WILD_IS_MAPPED true
#else
#define WILD_IS_MAPPED false
#endif

static unsigned pick_other(unsigned than, unsigned and_than)
{
	unsigned reg;

	do
		reg = pick_register();
	while (reg == than || reg == and_than);
	return reg;
}

/*
 * Several accesses around one pointer, or one element of an array, in one page or over two: what the translator looks up
 * together.
 */
static void gen_structure(void)
{
	unsigned base = pick_register(), count = 2 + pick(6), index = pick(3) ? 16 : pick_other(base, base), scale = pick(4);

	if (index != 16) {
		put_mov_imm(base, DATA + 2048 + pick(DATA_SIZE - 6144));
		put_mov_imm(index, pick(16));
	} else {
		put_mov_imm(base, pick(4) ? DATA + 64 + pick(DATA_SIZE - 256) : DATA + 4096 * (1 + pick(DATA_PAGES)) - pick(64));
	}
	for (unsigned i = 0; i < count; i++) {
		struct operand rm = { .memory = true, .base = base, .index = index, .scale = scale, .disp = (int)pick(96) - 32 };
		unsigned prefix, reg;
		bool w;

		do
			reg = pick_register();
		while ((reg == base || reg == index) && (WILD_IS_MAPPED || pick(8)));
		pick_size(&prefix, &w);
		if (pick(6) == 0) /* the pointer moves by a constant, or the index */
			put_legacy(0, false, true, false, 0, 0x83, pick(2) ? 0 : 5,
				   reg_operand(index != 16 && pick(2) ? index : base), 1, pick(32));
		else if (index != 16 && pick(6) == 0) /* … or anywhere */
			put_mov_imm(index, pick(64));
		else
			put_legacy(prefix, false, w, false, 0, (const uint8_t[]){ 0x89, 0x8b, 0x01, 0x13, 0x3b }[pick(5)],
				   reg, rm, 0, 0);
	}
}

/* Flags of registers, then what may change these and looks memory up, then somebody who wants the flags. */
static void gen_late_flags(void)
{
	static const uint8_t of_registers[] = { 0x39, 0x3b, 0x85, 0x21, 0x09, 0x31, 0x01, 0x29, 0x11 };
	static const uint8_t of_rax[] = { 0x3d, 0xa9, 0x25, 0x0d, 0x35, 0x05, 0x2d };
	unsigned base = pick_other(0, 0), reg = pick_other(base, base), prefix, size;
	bool w;

	size = pick_size(&prefix, &w);
	put_mov_imm(base, DATA + 64 + pick(DATA_SIZE - 256));
	switch (pick(5)) {
	case 0:
	case 1:
		put_legacy(prefix, false, w, false, 0, of_registers[pick(sizeof(of_registers))], pick_other(base, base),
			   reg_operand(reg), 0, 0);
		break;
	case 2:
		put_legacy(prefix, false, w, false, 0, 0x83, pick(8), reg_operand(reg), 1, next_random());
		break;
	case 3:
		put_legacy(0, false, false, true, 0, 0x80, pick(8), reg_operand(reg), 1, next_random());
		break;
	default:
		if (prefix)
			put(prefix);
		if (w)
			put(0x48);
		put(of_rax[pick(sizeof(of_rax))]);
		put_bytes(next_random(), size == 2 ? 2 : 4);
	}
	for (unsigned i = pick(4); i > 0; i--) {
		struct operand rm = { .memory = true, .base = base, .index = 16, .disp = (int)pick(96) - 32 };
		unsigned other = pick(3) ? pick_other(base, reg) : pick_other(base, base);

		if (pick(4) == 0)
			put_mov_imm(other, next_random());
		else
			put_legacy(0, false, pick(2), false, 0, pick(3) ? 0x8b : 0x89, other, rm, 0, 0);
	}
	switch (pick(3)) {
	case 0: /* setcc */
		put_legacy(0, false, false, true, 1, 0x90 | pick(16), 0, reg_operand(pick_register()), 0, 0);
		break;
	case 1: /* cmovcc */
		put_legacy(0, false, true, false, 1, 0x40 | pick(16), pick_register(), reg_operand(pick_register()), 0, 0);
		break;
	default:
		gen_branch();
	}
}

static const char *only_group;

static void gen_instruction(void)
{
	if (only_group) {
		const struct template *t;

		do
			t = &templates[pick(TEMPLATES)];
		while (strcmp(t->group, only_group));
		gen_template(t);
		return;
	}
	switch (pick(28)) {
	case 0 ... 4:
		gen_alu();
		break;
	case 5:
		if (!calm)
			gen_stack();
		break;
	case 26:
		flow_piece();
		break;
	case 6:
		gen_branch();
		break;
	case 7:
		gen_loop();
		break;
	case 8:
		gen_bit_string();
		break;
	case 9:
		gen_bswap_imm();
		break;
	case 10:
		gen_string();
		break;
	case 13:
		if (differential_has_avx())
			gen_vector_memory();
		break;
	case 11 ... 12:
		gen_structure();
		break;
	case 14:
		gen_late_flags();
		break;
	default:
		gen_template(&templates[pick(TEMPLATES)]);
	}
}

static bool only_flow;
static bool flow; /* the present sequence has STACK, and its own rsp */

static void gen_sequence(unsigned length)
{
	flow = !flat32 && (only_flow || (!only_group && pick(3) == 0));
	if (flat32) {
		native_in.gpr[4] = flat32_sequence(length);
		return;
	}
	if (flow) {
		native_in.gpr[4] = flow_sequence(length, gen_instruction);
		return;
	}
	code_length = 0;
	for (unsigned i = 0; i < length && code_length < CODE_SIZE - 256; i++)
		gen_instruction();
	put(0x0f); /* ud2 */
	put(0x0b);
}

/* ---- comparison ---- */

static uint8_t data_before[DATA_SIZE], data_native[DATA_SIZE], top_before[TOP_SIZE];

static void gen_state(void)
{
	memset(&native_in, 0, sizeof(native_in));
	for (unsigned i = 0; i < 16; i++)
		native_in.gpr[i] = pick(3) ? next_random() : next_random() & 0xff;
	for (unsigned i = 0; flat32 && i < 16; i++)
		native_in.gpr[i] = i < 8 ? (uint32_t)native_in.gpr[i] : 0;
	native_in.gpr[4] = DATA + DATA_SIZE / 2;
	native_in.rip = CODE;
	native_in.rflags = 0x202 | (next_random() & 0x8d5); /* IF as natively: PUSHF stores it */
	differential_fpu_init(native_in.fpu, next_random);
	for (unsigned i = 0; i < DATA_SIZE; i++)
		data_before[i] = next_random();
	for (unsigned i = 0; flat32 && i < TOP_SIZE; i++)
		top_before[i] = next_random();
}

static bool differ(const char *what, uint64_t native, uint64_t translated)
{
	if (native == translated)
		return false;
	printf("  %-8s native %016lx  translated %016lx\n", what, (unsigned long)native, (unsigned long)translated);
	return true;
}

static bool compare(const struct differential_state *native, const struct differential_state *translated,
		    const uint8_t *data_translated)
{
	static const char *const names[16] = { "rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi",
					       "r8",  "r9",  "r10", "r11", "r12", "r13", "r14", "r15" };
	bool bad = false;
	char name[16];

	bad |= differ("vector", native->vector, translated->vector);
	bad |= differ("rip", native->rip, translated->rip);
	for (unsigned i = 0; i < 16; i++)
		bad |= differ(names[i], native->gpr[i], translated->gpr[i]);
	/* Flags that nothing reads any more are not kept for a fault in mid-sequence under the real clock. */
	if (native->vector == 6 || deterministic)
		bad |= differ("rflags", native->rflags & 0xcd5, translated->rflags & 0xcd5);
	bad |= differ("mxcsr", *(uint32_t *)(native->fpu + 24), *(uint32_t *)(translated->fpu + 24));
	bad |= differ("fcw", *(uint16_t *)native->fpu, *(uint16_t *)translated->fpu);
	bad |= differ("fsw", *(uint16_t *)(native->fpu + 2), *(uint16_t *)(translated->fpu + 2));
	bad |= differ("ftw", native->fpu[4], translated->fpu[4]);
	for (unsigned i = 0; i < 8; i++) {
		snprintf(name, sizeof(name), "st%u", i);
		bad |= differ(name, *(uint64_t *)(native->fpu + 32 + 16 * i), *(uint64_t *)(translated->fpu + 32 + 16 * i));
	}
	for (unsigned i = 0; i < 32; i++) {
		snprintf(name, sizeof(name), "xmm%u.%u", i / 2, i % 2);
		bad |= differ(name, *(uint64_t *)(native->fpu + 160 + 8 * i), *(uint64_t *)(translated->fpu + 160 + 8 * i));
	}
	for (unsigned i = 0; differential_has_avx() && i < 32; i++) {
		snprintf(name, sizeof(name), "ymmh%u.%u", i / 2, i % 2);
		bad |= differ(name, differential_ymm_high(native->fpu, i), differential_ymm_high(translated->fpu, i));
	}
	for (unsigned i = 0; i < DATA_SIZE; i += 8)
		if (memcmp(data_native + i, data_translated + i, 8)) {
			snprintf(name, sizeof(name), "[+%x]", i);
			bad |= differ(name, *(uint64_t *)(data_native + i), *(uint64_t *)(data_translated + i));
		}
	for (unsigned i = 0; flow && i < STACK_SIZE; i += 8)
		if (memcmp((uint8_t *)STACK + i, differential_stack() + i, 8)) {
			snprintf(name, sizeof(name), "s+%x", i);
			bad |= differ(name, *(uint64_t *)(STACK + i), *(uint64_t *)(differential_stack() + i));
			break;
		}
	if (flat32 && TOP_IS_FREE && memcmp((uint8_t *)TOP, differential_top(), TOP_SIZE)) {
		printf("  the last pages differ\n");
		bad = true;
	}
	return bad;
}

static void *map_fixed(unsigned long address, size_t size, int protection)
{
	void *p = mmap((void *)address, size, protection, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);

	if (p == MAP_FAILED) {
		perror("mmap");
		exit(2);
	}
	return p;
}

/* In place of the host: every access through C, no block knows another. */
static void run_plainest(void)
{
	differential_tune((1u << ENGINE_TUNE_COUNT) - 1);
	memcpy(differential_top(), top_before, TOP_SIZE);
	memcpy(data_native, differential_run(&native_in, &native_out, code, code_length, data_before, DATA_SIZE), DATA_SIZE);
	if (TOP_IS_FREE)
		memcpy((void *)TOP, differential_top(), TOP_SIZE);
}

/* Translates and runs the sequence, and compares. */
static bool run_translated(void)
{
	struct differential_state translated;
	const uint8_t *data_translated;

	if (flow)
		memset(differential_stack(), 0, STACK_SIZE);
	if (flat32)
		memcpy(differential_top(), top_before, TOP_SIZE);
	data_translated = differential_run(&native_in, &translated, code, code_length, data_before, DATA_SIZE);
	if (audited && !(runs++ % AUDIT_EVERY)) {
		const char *wrong = audit_code_cache(differential_cpu());

		if (wrong) {
			printf("  the translator's records: %s\n", wrong);
			return true;
		}
	}
	return compare(&native_out, &translated, data_translated);
}

static void print_code(void)
{
	unsigned length = code_length;

	while (length && code[length - 1] == FLOW_FILLER)
		length--;
	for (unsigned i = 0; i < length; i++)
		printf(" %02x", code[i]);
	printf("\n");
	fflush(stdout);
}

/* One sequence; returns true where the two sides differ. */
static bool try_seed(uint64_t seed, unsigned length, bool verbose)
{
	uint8_t *data = (uint8_t *)DATA;
	bool bad;

	random_state = seed * 0x2545f4914f6cdd1du;
	gen_state();
	gen_sequence(1 + pick(length));
	if (verbose) {
		printf("seed %lu:", (unsigned long)seed);
		print_code();
	}
	memcpy((void *)CODE, code, code_length);
	memcpy(data, data_before, DATA_SIZE);
	if (flow)
		memset((void *)STACK, 0, STACK_SIZE);
	if (flat32 && TOP_IS_FREE)
		memcpy((void *)TOP, top_before, TOP_SIZE);
	if (no_native) {
		run_plainest();
	} else {
		run_native();
		memcpy(data_native, data, DATA_SIZE);
	}
	if (verbose)
		printf("ends natively by vector %lu at %lx\n", (unsigned long)native_out.vector, (unsigned long)native_out.rip);
	differential_tune(tune_off ^ (pick(2) ? ENGINE_TUNE_FIXED_PROGRAMS : 0));
	differential_room(pick(8) ? 0 : 16 + pick(20000));
	bad = run_translated();
	differential_room(0);
	if (deterministic) {
		uint64_t instructions = differential_instructions();

		for (unsigned i = 0; i < 2; i++) {
			differential_cut(i ? 1 : 1 + pick(9));
			differential_tune(i ? 0 : pick(1u << ENGINE_TUNE_COUNT));
			bad |= run_translated();
			if (instructions != differential_instructions()) {
				printf("  %lu instructions, and cut %lu\n", (unsigned long)instructions,
				       (unsigned long)differential_instructions());
				bad = true;
			}
		}
	} else if (pick(4) == 0) {
		differential_tune(pick(1u << ENGINE_TUNE_COUNT));
		bad |= run_translated();
	}
	differential_cut(0);
	return bad;
}

/*
 * An instruction over two pages takes a block record before it is known to run on, and another one afterwards: it must
 * come through wherever the memory is full.
 */
static bool try_two_pages(void)
{
	bool bad = false;

	alarm(60); /* a vCPU that gave up waits */
	for (size_t room = 16; room <= 4096 && !bad; room += 16) {
		random_state = room;
		gen_state();
		flow = false;
		code_length = 0;
		put(0xe9); /* jmp to the page's end */
		put_bytes(4096 - 5 - 1 - room / 16 % 9, 4);
		while (code_length < 4096 - 1 - room / 16 % 9)
			put(FLOW_FILLER);
		put_mov_imm(0, next_random());
		put(0x0f); /* ud2 */
		put(0x0b);
		memcpy((void *)CODE, code, code_length);
		memcpy((void *)DATA, data_before, DATA_SIZE);
		run_native();
		memcpy(data_native, (void *)DATA, DATA_SIZE);
		differential_tune(0);
		differential_room(room);
		bad = run_translated();
		if (bad)
			printf("with %zu bytes left\n", room);
	}
	differential_room(0);
	alarm(0);
	return bad;
}

int main(int argc, char **argv)
{
	uint64_t seed = 1, count = 2000, failures = 0;
	unsigned length = 40;
	bool verbose = false;
	struct differential_setup setup = { .code = CODE, .code_size = CODE_SIZE, .data = DATA, .data_size = DATA_SIZE,
					    .stack = STACK, .stack_size = STACK_SIZE };
	struct sigaction action = { .sa_sigaction = on_signal, .sa_flags = SA_SIGINFO | SA_ONSTACK | SA_NODEFER };
	static uint8_t stack[65536];
	stack_t alternate = { .ss_sp = stack, .ss_size = sizeof(stack) };

	for (int i = 1; i < argc; i++) {
		if (!strcmp(argv[i], "--seed") && i + 1 < argc)
			seed = strtoull(argv[++i], NULL, 0);
		else if (!strcmp(argv[i], "--count") && i + 1 < argc)
			count = strtoull(argv[++i], NULL, 0);
		else if (!strcmp(argv[i], "--length") && i + 1 < argc)
			length = strtoul(argv[++i], NULL, 0);
		else if (!strcmp(argv[i], "--group") && i + 1 < argc)
			only_group = argv[++i];
		else if (!strcmp(argv[i], "--plant"))
			setup.plant = true;
		else if (!strcmp(argv[i], "--deterministic"))
			deterministic = exact_flags = setup.counted = true;
		else if (!strcmp(argv[i], "--flow"))
			only_flow = true;
		else if (!strcmp(argv[i], "--flat32"))
			flat32 = setup.code32 = true;
		else if (!strcmp(argv[i], "--off") && i + 1 < argc)
			tune_off = strtoul(argv[++i], NULL, 0);
		else if (!strcmp(argv[i], "--code-memory") && i + 1 < argc)
			audited = (setup.code_memory = strtoul(argv[++i], NULL, 0) << 10);
		else if (!strcmp(argv[i], "--verbose"))
			verbose = true;
		else {
			fprintf(stderr, "fuzz_translator: unknown option %s\n", argv[i]);
			return 2;
		}
	}
	map_fixed(CODE, CODE_SIZE, PROT_READ | PROT_WRITE | PROT_EXEC);
	map_fixed(DATA, DATA_SIZE, PROT_READ | PROT_WRITE);
	map_fixed(STACK, STACK_SIZE, PROT_READ | PROT_WRITE);
	if (flat32 && TOP_IS_FREE)
		map_fixed(TOP, TOP_SIZE, PROT_READ | PROT_WRITE);
	if (!differential_create(&setup))
		return 2;
	sigaltstack(&alternate, NULL);
	for (unsigned i = 0; i < 5; i++) {
		int number = (const int[]){ SIGILL, SIGSEGV, SIGFPE, SIGBUS, SIGTRAP }[i];

		sigaction(number, &action, &previous[number]);
	}
	no_native = flat32 && !host_runs_32bit();
	if (no_native)
		printf("this host has no 32-bit code for programs: compared with the translator's plainest code instead\n");
	if (!setup.plant && !flat32 && try_two_pages())
		return 1;
	for (uint64_t s = seed; s < seed + count; s++) {
		if (!try_seed(s, length, verbose))
			continue;
		failures++;
		if (setup.plant)
			break;
		printf("seed %lu differs:", (unsigned long)s);
		print_code();
		if (failures >= 5)
			break;
	}
	if (setup.plant) {
		printf(failures ? "the planted defect was found\n" : "the planted defect was NOT found\n");
		return failures ? 0 : 1;
	}
	printf("%lu sequences, %lu differ\n", (unsigned long)count, (unsigned long)failures);
	return failures != 0;
}

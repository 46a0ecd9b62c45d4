/*
 * Calls and returns of all kinds, loops over all registers, string instructions, and code that changes itself.
 *
 * A sequence is a main part and up to six functions, each of which calls later ones only, so that every sequence
 * ends. Registers hold anything at any time: what must survive lies in counters at the bottom of STACK, which nothing
 * else writes to.
 */
#include "flow.h"

#include <stdlib.h>
#include <string.h>

#include "encode.h"

#define FUNCTIONS  6
#define CODE_LIMIT 0x5c00u /* of main part and functions; behind it, code that was copied, and a stack at times */
#define COPY	   (CODE + 0x6000u)
#define FIXUPS	   512
#define COUNTERS   64
#define SAVED_RSP  (STACK + 8 * COUNTERS)
#define SLOTS	   (SAVED_RSP + 64) /* addresses to call through */
#define PLT_SLOT   (SLOTS + 8 * 16) /* what the PLT's only entry goes through */
#define OTHER_STACK (STACK + 0x8000u)

struct function {
	unsigned at;
	unsigned arguments; /* quadwords that RET n drops */
	unsigned skips;	    /* bytes behind the call that it returns over */
	bool escapes;	    /* returns to its caller's caller */
};

static struct function functions[FUNCTIONS];
static unsigned function_count, current; /* current: the function being made, or -1u in the main part */
static struct {
	unsigned at, function;
	bool absolute;
} fixups[FIXUPS];
static unsigned fixup_count, counter_count;
static unsigned plt; /* where in the code its entry is */
static void (*any_instruction)(void);

/* ---- one instruction, registers only or with one memory operand that does not fault ---- */

static void put_op(unsigned opcode, unsigned map, unsigned reg, unsigned rm)
{
	unsigned prefix;
	bool w;

	pick_size(&prefix, &w);
	put_legacy(prefix, false, w, false, map, opcode, reg, reg_operand(rm), 0, 0);
}

static void put_plain(void)
{
	unsigned reg = pick_register(), rm = pick_register(), prefix, size;
	bool w;

	switch (pick(16)) {
	case 0 ... 1:
		put_op(pick(8) << 3 | (pick(2) ? 1 : 3), 0, reg, rm);
		break;
	case 2: /* bytes, all with REX */
		put_legacy(0, false, false, true, 0, pick(8) << 3 | (pick(2) ? 0 : 2), reg, reg_operand(rm), 0, 0);
		break;
	case 3:
		if (pick(2))
			put_legacy(0, false, pick(2), false, 0, 0x81, pick(8), reg_operand(rm), 4, next_random());
		else
			put_legacy(0, false, pick(2), false, 0, 0x69, reg, reg_operand(rm), 4, next_random()); /* imul */
		break;
	case 4 ... 5:
		put_op(pick(2) ? 0x11 : 0x1b, 0, reg, rm); /* adc, sbb */
		break;
	case 6: {
		struct operand o = { .memory = true, .base = pick(4) ? rm : 4, .index = pick_register(), .scale = pick(4),
				     .disp = next_random() };

		put_legacy(0, false, true, false, 0, 0x8d, reg, o, 0, 0);
		break;
	}
	case 7 ... 8:
		put_op(0x40 | pick(16), 1, reg, rm); /* cmov */
		break;
	case 9:
		put_legacy(0, false, false, true, 1, 0x90 | pick(16), 0, reg_operand(rm), 0, 0); /* setcc */
		break;
	case 10:
		pick_size(&prefix, &w);
		put_legacy(prefix, false, w, false, 0, 0xc1, (const uint8_t[]){ 0, 1, 2, 3, 4, 5, 7 }[pick(7)],
			   reg_operand(rm), 1, pick(64));
		break;
	case 11:
		put_op(pick(2) ? 0x87 : 0x8b, 0, reg, rm); /* xchg, mov */
		break;
	case 12:
		put_op(0xff, 0, pick(2), rm); /* inc, dec: CF lives on */
		break;
	case 13:
		put_op(0xf7, 0, 2 + pick(2), rm); /* not, neg */
		break;
	default: {
		size = pick_size(&prefix, &w);
		struct operand o = pick_memory(size, false);

		put_legacy(prefix, false, w, false, 0,
			   (const uint8_t[]){ 0x8b, 0x89, 0x01, 0x03, 0x11, 0x13, 0x3b, 0x33 }[pick(8)], reg, o, 0, 0);
	}
	}
}

/* ---- flags ---- */

static void put_write_flags(void)
{
	unsigned reg = pick_register();

	switch (pick(6)) {
	case 0:
		put((const uint8_t[]){ 0xf8, 0xf9, 0xf5 }[pick(3)]); /* clc, stc, cmc */
		break;
	case 1:
		put_op(0x39, 0, reg, pick_register()); /* cmp */
		break;
	case 2:
		put_op(0xff, 0, pick(2), reg);
		break;
	case 3: /* push imm32; popfq */
		put(0x68);
		put_bytes((next_random() & 0x8d5) | 0x202, 4);
		put(0x9d);
		break;
	case 4: /* bt r, imm8 */
		put_legacy(0, false, true, false, 1, 0xba, 4, reg_operand(reg), 1, pick(64));
		break;
	default:
		put_op((pick(4) << 4) | 1, 0, reg, pick_register()); /* add, adc, and, xor */
	}
}

static void put_read_flags(void)
{
	unsigned reg = pick_register();

	switch (pick(6)) {
	case 0:
		put_legacy(0, false, false, true, 1, 0x90 | pick(16), 0, reg_operand(reg), 0, 0);
		break;
	case 1:
		put_op(0x40 | pick(16), 1, reg, pick_register());
		break;
	case 2:
		put_op(pick(2) ? 0x11 : 0x19, 0, reg, pick_register());
		break;
	case 3: /* pushfq; pop r */
		put(0x9c);
		if (reg & 8)
			put(0x41);
		put(0x58 | (reg & 7));
		break;
	case 4: /* jcc over one instruction */
		put(0x70 | pick(16));
		put(10);
		put_mov_imm(reg, next_random());
		break;
	default: /* rcl r, 1 */
		put_legacy(0, false, true, false, 0, 0xd1, 2, reg_operand(reg), 0, 0);
	}
}

/* pushfq … popfq, with the image changed on the stack at times. */
static void put_saved_flags(void)
{
	put(0x9c);
	for (unsigned i = pick(4); i; i--)
		put_plain();
	if (pick(2)) { /* xor dword [rsp], arithmetic flags */
		put(0x81);
		put(0x34);
		put(0x24);
		put_bytes(next_random() & 0x8d5, 4);
	}
	put(0x9d);
	put_read_flags();
}

/* ---- loops ---- */

static void put_absolute(unsigned reg, uint64_t address)
{
	put(reg << 3 | 4);
	put(0x25);
	put_bytes(address, 4);
}

/* A counter in memory: mov dword [counter], n. Returns it for put_counted_jump. */
static uint64_t put_counter(unsigned n)
{
	uint64_t counter = STACK + 8 * (counter_count++ % COUNTERS);

	put(0xc7);
	put_absolute(0, counter);
	put_bytes(n, 4);
	return counter;
}

/* dec dword [counter]; jnz top */
static void put_counted_jump(uint64_t counter, unsigned top)
{
	put(0xff);
	put_absolute(1, counter);
	put(0x0f);
	put(0x85);
	put_bytes(top - (code_length + 4), 4);
}

/* A loop over all registers, its counter among them. */
static void put_register_loop(unsigned depth)
{
	unsigned counter, was = reserved_registers, top;

	do
		counter = pick_register();
	while (counter == 0);
	put_mov_imm(counter, 1 + pick(depth ? 6 : 24));
	reserved_registers |= 1u << counter;
	top = code_length;
	for (unsigned i = 2 + pick(12); i; i--)
		put_plain();
	if (depth == 0 && pick(5) == 0)
		put_register_loop(1);
	if (pick(2))
		put_read_flags();
	switch (pick(3)) {
	case 0: /* dec r64 */
		put_legacy(0, false, true, false, 0, 0xff, 1, reg_operand(counter), 0, 0);
		break;
	case 1: /* sub r32, 1 */
		put_legacy(0, false, false, false, 0, 0x83, 5, reg_operand(counter), 1, 1);
		break;
	default: /* lea r, [r-1]; test r, r */
		put_legacy(0, false, true, false, 0, 0x8d, counter,
			   (struct operand){ .memory = true, .base = counter, .index = 16, .disp = -1 }, 0, 0);
		put_legacy(0, false, true, false, 0, 0x85, counter, reg_operand(counter), 0, 0);
	}
	put(0x0f);
	put(0x85);
	put_bytes(top - (code_length + 4), 4);
	reserved_registers = was;
}

/* ---- strings ---- */

static void put_one_string(uint8_t op, unsigned size, unsigned repeat, bool backward, bool short_address)
{
	if (backward)
		put(0xfd);
	if (short_address)
		put(0x67);
	if (repeat)
		put(repeat);
	if (size == 2)
		put(0x66);
	if (size == 8)
		put(0x48);
	put(op | (size > 1));
	if (backward)
		put(0xfc);
}

static void put_string(void)
{
	static const uint8_t ops[] = { 0xa4, 0xa4, 0xaa, 0xaa, 0xa6, 0xae, 0xac };
	uint8_t op = ops[pick(sizeof(ops))];
	unsigned size = 1u << pick(4), repeat = (const unsigned[]){ 0xf3, 0xf3, 0xf3, 0xf2, 0 }[pick(5)];
	unsigned count = pick(4) ? pick(70) : pick(3) ? pick(1100) : pick(DATA_SIZE / size + (pick(8) ? 0 : 20));
	bool backward = pick(3) == 0, short_address = pick(8) == 0;
	unsigned span = count * size, room = span < DATA_SIZE ? DATA_SIZE - span : 0;
	uint64_t to = DATA + pick(room + 1), from = DATA + pick(room + 1);

	if (pick(3) == 0) /* overlapping */
		from = to + pick(2 * size + 20) - size - 8;
	if (pick(2)) {
		to &= ~7ull;
		from &= ~7ull;
	}
	bool inside = count && span <= DATA_SIZE && from >= DATA && from + span <= DATA + DATA_SIZE;

	if (backward) {
		to += span - (span ? size : 0);
		from += span - (span ? size : 0);
	}
	if (op == 0xa6 || op == 0xae) {
		/* Equal for a while, so that it goes on. */
		put_mov_imm(7, DATA);
		put_mov_imm(0, (next_random() & 0xff) * 0x0101010101010101u);
		put_mov_imm(1, DATA_SIZE / 8);
		put_one_string(0xaa, 8, 0xf3, false, false);
		put_mov_imm(3, DATA + pick(DATA_SIZE));
		put(0xfe); /* inc byte [rbx] */
		put(0x03);
	}
	/* Upper halves where ECX is 0 or the first element faults are the processor's choice. */
	if (short_address && inside && repeat && pick(2)) {
		to |= next_random() << 32;
		from |= next_random() << 32;
	}
	put_mov_imm(7, to);
	put_mov_imm(6, from);
	put_mov_imm(1, short_address && inside && pick(2) ? count | (next_random() << 32) : count);
	reserved_registers |= short_address || pick(8) ? 0xc2 : 0; /* rcx, rsi, rdi */
	if (op == 0xa6 || op == 0xae || pick(2))
		put_write_flags();
	reserved_registers &= ~0xc2u;
	put_one_string(op, size, repeat, backward, short_address);
	if (op == 0xa6 || op == 0xae || pick(2))
		put_read_flags();
}

/* ---- code that changes itself ---- */

/* Eight bytes of whole instructions. */
static uint64_t eight_bytes(void)
{
	static const uint64_t forms[] = {
		0x9090000000000548, /* add rax, imm32 */
		0x9090000000003548, /* xor rax, imm32 */
		0x90909000000000b9, /* mov ecx, imm32 */
		0x9090c81148c81148, /* adc rax, rcx; adc rax, rcx */
		0x00d28348f9c3ff48, /* inc rbx; stc; adc rdx, 0 */
		0x90909090909006eb, /* jmp over the rest */
		0x90da014dc1920ff8, /* clc; setc cl; add r10, r11 */
		0x9090909090909090,
	};
	unsigned form = pick(8);
	uint64_t bytes = forms[form];

	if (form < 2)
		bytes |= (next_random() & 0xffffffff) << 16;
	if (form == 2)
		bytes |= (next_random() & 0xffffffff) << 8;
	return bytes;
}

/* Emits a jump to `gap` bytes before the page's end where that is near: what follows lies over two pages. */
static void put_page_end(void)
{
	unsigned left = 4096 - (code_length & 4095), gap = pick(14);

	if (left > 400 || left < 20 + gap)
		return;
	put(0xe9);
	put_bytes(left - gap - 5, 4);
	for (unsigned i = left - gap - 5; i; i--)
		put(FLOW_FILLER);
}

/* Writes or toggles eight bytes of code at `at`, in one or more pieces. rax is used. */
static void put_rewrite(uint64_t at, uint64_t before, uint64_t after)
{
	bool toggle = pick(2);
	uint64_t value = toggle ? before ^ after : after;

	switch (pick(4)) {
	case 0 ... 1: /* mov or xor [at], rax */
		put_mov_imm(0, value);
		put(0x48);
		put(toggle ? 0x31 : 0x89);
		put_absolute(0, at);
		break;
	case 2: /* by two doublewords, the second one first */
		for (unsigned i = 2; i-- > 0;) {
			put(toggle ? 0x81 : 0xc7);
			put_absolute(toggle ? 6 : 0, at + 4 * i);
			put_bytes(value >> 32 * i, 4);
		}
		break;
	default: { /* rep movs from beside; not a toggle */
		bool bytewise = pick(2);
		unsigned from = code_length + 2;

		put(0xeb);
		put(8);
		put_bytes(after, 8);
		put_mov_imm(6, CODE + from);
		put_mov_imm(7, at);
		put_mov_imm(1, bytewise ? 8 : 1);
		put_one_string(0xa4, bytewise ? 1 : 8, 0xf3, false, false);
	}
	}
}

/* Words between the instructions, which are added to and read: the code beside them stays what it is. */
static void put_beside(void)
{
	static const uint8_t ops[] = { 0x01, 0x03, 0x11, 0x31, 0x33, 0x89 };
	unsigned size = 8 * (1 + pick(4)), data = code_length + 2;

	put(0xeb); /* jmp */
	put(size);
	put_bytes(next_random(), 8);
	for (unsigned i = 8; i < size; i++)
		put(next_random());
	for (unsigned n = 1 + pick(4); n; n--) {
		unsigned reg = pick_register();

		put(0x48 | (reg >> 3) << 2);
		put(ops[pick(sizeof(ops))]);
		put((reg & 7) << 3 | 5);
		put_bytes(data + pick(size - 7) - (code_length + 4), 4);
		if (pick(3) == 0)
			put_plain();
	}
}

/*
 * A loop in which one byte of an instruction changes that another block leads to: ADD or ADC, which needs a flag of the
 * block before, or their constant, which may lie in the next page.
 */
static void put_rewrite_byte(void)
{
	unsigned counter = 3, was = reserved_registers, top, at, byte;

	put_mov_imm(counter, 2 + pick(3));
	reserved_registers |= 1u << counter | 1;
	top = code_length;
	put_write_flags();
	if (pick(2)) {
		put_page_end();
	} else {
		unsigned apart = pick(100);

		put(0xe9); /* jmp */
		put_bytes(apart, 4);
		while (apart--)
			put(FLOW_FILLER);
	}
	at = code_length;
	byte = pick(2) ? 1 : 2 + pick(4);
	put(0x48);
	put(pick(2) ? 0x05 : 0x15);
	put_bytes(next_random() & 0x7fffffff, 4);
	if (pick(2))
		put_read_flags();
	put(0x80); /* xor byte [rip+disp32], imm8 */
	put(0x35);
	put_bytes(at + byte - (code_length + 5), 4);
	put(byte == 1 ? 0x10 : 1 + pick(100));
	put(0x48); /* dec rbx */
	put(0xff);
	put(0xcb);
	put(0x0f); /* jne */
	put(0x85);
	put_bytes(top - (code_length + 4), 4);
	reserved_registers = was;
}

/* The instructions right behind it. */
static void put_rewrite_next(void)
{
	uint64_t after = eight_bytes();
	bool later = pick(2);

	put_page_end();
	put_mov_imm(0, after);
	reserved_registers |= 1; /* rax */
	if (pick(2))
		put_plain();
	reserved_registers &= ~1u;
	put(0x48); /* mov [rip + later], rax */
	put(0x89);
	put(0x05);
	put_bytes(later + (exact_flags ? 0 : 3), 4);
	/* Under the real clock flags are lost that nothing needed before the code was rewritten: write them anew. */
	if (!exact_flags)
		put_legacy(0, false, true, false, 0, 0x39, 0, reg_operand(pick(4)), 0, 0);
	if (later)
		put(0x90);
	put_bytes(eight_bytes(), 8);
}

static void put_store_near_code(void)
{
	switch (pick(4)) {
	case 0:
		put_beside();
		break;
	case 1:
		put_rewrite_byte();
		break;
	default:
		put_rewrite_next();
	}
}

/* A loop whose body the loop changes. */
static void put_rewrite_loop(void)
{
	uint64_t counter = put_counter(1 + pick(12));
	unsigned top = code_length;

	put(0x48); /* add rax, imm32 */
	put(0x05);
	put_bytes(next_random(), 4);
	if (pick(2))
		put_plain();
	/* add byte or dword [its immediate], n */
	if (pick(2)) {
		put(0x80);
		put_absolute(0, CODE + top + 2 + pick(4));
		put(next_random());
	} else {
		put(0x81);
		put_absolute(0, CODE + top + 2);
		put_bytes(next_random(), 4);
	}
	put_counted_jump(counter, top);
}

/* A jump to an address that is known later; put_here makes it lead to what follows. */
static unsigned put_forward(uint8_t opcode)
{
	put(opcode);
	put_bytes(0, 4);
	return code_length;
}

static void put_here(unsigned forward)
{
	uint32_t distance = code_length - forward;

	memcpy(code + forward - 4, &distance, 4);
}

/* A function that rewrites what stands behind the call to it, called a few times. */
static void put_rewriting_call(void)
{
	uint64_t before = eight_bytes(), after = eight_bytes(), counter = put_counter(1 + pick(5));
	unsigned top, call, site, over;

	put_page_end();
	top = code_length;
	call = put_forward(0xe8);
	site = code_length;
	put_bytes(before, 8);
	if (pick(2))
		put_read_flags();
	put_counted_jump(counter, top);
	over = put_forward(0xe9);
	put_here(call);
	if (pick(2))
		put_plain();
	put_rewrite(CODE + site, before, after);
	if (pick(2))
		put_write_flags();
	put(0xc3);
	put_here(over);
}

/* jmp (4) or call (2) through the quadword at an address, relative to RIP */
static void put_through(unsigned digit, uint64_t address)
{
	put(0xff);
	put(digit << 3 | 5);
	put_bytes(address - (CODE + code_length + 4), 4);
}

static void put_plt(void)
{
	put(0xeb);
	put(6);
	plt = code_length;
	put_through(4, PLT_SLOT);
}

/* Calls the address in reg, some times, by way of the PLT, or as code without one does. */
static void put_plt_call(unsigned reg, unsigned times)
{
	put_legacy(0, false, true, false, 0, 0x89, reg,
		   (struct operand){ .memory = true, .base = 17, .index = 16, .disp = PLT_SLOT }, 0, 0);
	for (bool through = pick(3) == 0; times; times--) {
		if (through) {
			put_through(2, PLT_SLOT);
		} else {
			put(0xe8);
			put_bytes(plt - (code_length + 4), 4);
		}
	}
}

/* Copies two functions in turn to one place, and calls them there. */
static void put_copied_functions(void)
{
	uint64_t copy = COPY + pick(16), counter = put_counter(1 + pick(4));
	unsigned top = code_length, over, from, n;

	for (unsigned i = 0; i < 2; i++) {
		over = put_forward(0xe9);
		from = code_length;
		for (unsigned j = 1 + pick(6); j; j--) { /* nothing that is relative to RIP */
			unsigned reg = pick_register();

			put_op((pick(8) << 3) | 1, 0, reg, pick_register());
		}
		put(0xc3);
		n = code_length - from;
		put_here(over);
		if (pick(4) == 0) { /* an instruction before it, by stos */
			put_mov_imm(7, copy);
			put_mov_imm(0, 0x9090909090909090);
			put_mov_imm(1, 4);
			put_one_string(0xaa, 8, 0xf3, false, false);
		}
		put_mov_imm(6, CODE + from);
		put_mov_imm(7, copy);
		put_mov_imm(1, n);
		put_one_string(0xa4, 1, 0xf3, false, false);
		put_mov_imm(0, copy);
		reserved_registers |= 1; /* rax */
		put_write_flags();
		reserved_registers &= ~1u;
		if (pick(3) == 0) {
			put_plt_call(0, 1 + pick(3));
		} else if (pick(2)) { /* call rax */
			put(0xff);
			put(0xd0);
		} else { /* call [slot] */
			put(0x48);
			put(0x89);
			put_absolute(0, SLOTS);
			put(0xff);
			put_absolute(2, SLOTS);
		}
		put_read_flags();
	}
	put_counted_jump(counter, top);
}

/* ---- calls and returns ---- */

/* A field of `size` bytes at `at` becomes the function's address, or its distance. */
static void note_fixup(unsigned at, unsigned function, bool absolute)
{
	if (fixup_count < FIXUPS) {
		fixups[fixup_count].at = at;
		fixups[fixup_count].function = function;
		fixups[fixup_count++].absolute = absolute;
	}
}

static void resolve_fixups(void)
{
	for (unsigned i = 0; i < fixup_count; i++) {
		unsigned at = fixups[i].at;
		uint64_t address = CODE + functions[fixups[i].function].at;
		uint32_t distance = address - (CODE + at + 4);

		if (fixups[i].absolute)
			memcpy(code + at, &address, 8);
		else
			memcpy(code + at, &distance, 4);
	}
}

static void put_push(unsigned reg)
{
	if (reg & 8)
		put(0x41);
	put(0x50 | (reg & 7));
}

static void put_pop(unsigned reg)
{
	if (reg & 8)
		put(0x41);
	put(0x58 | (reg & 7));
}

/* mov r, the function's address */
static void put_function_address(unsigned reg, unsigned function)
{
	put_mov_imm(reg, 0);
	note_fixup(code_length - 8, function, true);
}

/* call r (2) or jmp r (4) */
static void put_indirect(unsigned digit, unsigned reg)
{
	put_legacy(0, false, false, false, 0, 0xff, digit, reg_operand(reg), 0, 0);
}

static void put_call_of(unsigned function)
{
	const struct function *f = &functions[function];
	unsigned reg = pick_register();

	for (unsigned i = 0; i < f->arguments; i++) {
		if (pick(2)) {
			put(0x6a);
			put(next_random());
		} else {
			put_push(pick_register());
		}
	}
	if (pick(4) == 0)
		put_page_end();
	if (pick(2))
		put_write_flags();
	switch (f->skips ? pick(7) : pick(8)) {
	case 0 ... 1:
		put(0xe8);
		put_bytes(0, 4);
		note_fixup(code_length - 4, function, false);
		break;
	case 2:
		put_function_address(reg, function);
		put_indirect(2, reg);
		break;
	case 3: { /* through memory: absolute, or off a register */
		uint64_t slot = SLOTS + 8 * pick(16);
		struct operand o = { .memory = true, .base = reg, .index = 16, .disp = (int8_t)next_random() };

		put_function_address(reg, function);
		put_legacy(0, false, true, false, 0, 0x89, reg,
			   (struct operand){ .memory = true, .base = 17, .index = 16, .disp = slot }, 0, 0);
		put_mov_imm(reg, slot - (int64_t)o.disp);
		put_legacy(0, false, false, false, 0, 0xff, 2, o, 0, 0);
		break;
	}
	case 4: { /* lea r, [rip+…]; push r; jmp function */
		put(0x48 | reg >> 3 << 2);
		put(0x8d);
		put((reg & 7) << 3 | 5);
		put_bytes((reg & 8 ? 2 : 1) + 5, 4);
		put_push(reg);
		put(0xe9);
		put_bytes(0, 4);
		note_fixup(code_length - 4, function, false);
		break;
	}
	case 5 ... 6: /* as shared libraries call, but the PLT's entry leads elsewhere each time */
		put_function_address(reg, function);
		put_plt_call(reg, 1);
		break;
	default: /* the address is pushed, and a RET in a call goes there */
		put_function_address(reg, function);
		put(0xe8); /* call over the jump: pushes the return address */
		put_bytes(5, 4);
		put(0xe9); /* jmp behind all of it: 1 or 2 bytes of push, one of ret */
		put_bytes((reg & 8 ? 2 : 1) + 1, 4);
		put_push(reg);
		put(0xc3);
	}
	for (unsigned i = 0; i < f->skips; i++)
		put(next_random());
	if (pick(2))
		put_read_flags();
}

/* Returns that match no call, and calls that no return matches. */
static void put_unbalanced(void)
{
	unsigned reg = pick_register(), delta = pick(6), over;

	switch (pick(5)) {
	case 0: /* lea r, [rip+…]; push r; ret; (nothing gets here) */
		put(0x48 | reg >> 3 << 2);
		put(0x8d);
		put((reg & 7) << 3 | 5);
		put_bytes((reg & 8 ? 2 : 1) + 1 + delta, 4);
		put_push(reg);
		put(0xc3);
		for (unsigned i = 0; i < delta; i++)
			put(next_random());
		break;
	case 1: /* call the next instruction, drop the address */
		put(0xe8);
		put_bytes(0, 4);
		if (pick(2)) {
			put_pop(reg);
		} else { /* lea rsp, [rsp+8]: keeps the flags */
			put(0x48);
			put(0x8d);
			put(0x64);
			put(0x24);
			put(8);
		}
		break;
	case 2: /* call the next instruction; add qword [rsp], …; ret */
		put(0xe8);
		put_bytes(0, 4);
		put(0x48);
		put(0x83);
		put(0x04);
		put(0x24);
		put(6 + delta);
		put(0xc3);
		for (unsigned i = 0; i < delta; i++)
			put(next_random());
		break;
	case 3: { /* call over data; pop; go on behind the data by jmp or by push and ret */
		unsigned call = put_forward(0xe8);
		uint64_t target;

		over = code_length;
		put_bytes(next_random(), 8);
		put_here(call);
		put_pop(reg);
		put_legacy(0, false, true, false, 0, 0x81, 0, reg_operand(reg), 4, 0);
		target = code_length;
		if (pick(2)) {
			put_indirect(4, reg);
		} else {
			put_push(reg);
			put(0xc3);
		}
		uint32_t distance = code_length - over;

		memcpy(code + target - 4, &distance, 4);
		break;
	}
	default: { /* to another stack, where two returns wait, and back */
		uint64_t top = OTHER_STACK - 8 * pick(64) - pick(4);
		unsigned first, second;

		put(0x48); /* mov [saved], rsp */
		put(0x89);
		put_absolute(4, SAVED_RSP);
		put_mov_imm(reg, top);
		put(0x48 | reg >> 3 << 2); /* mov rsp, reg */
		put(0x89);
		put(0xc4 | (reg & 7) << 3);
		put_mov_imm(reg, 0);
		second = code_length;
		put_push(reg);
		put_mov_imm(reg, 0);
		first = code_length;
		put_push(reg);
		put(0xc3);
		for (unsigned i = 0; i < 2; i++) {
			uint64_t address = CODE + code_length;

			memcpy(code + (i ? second : first) - 8, &address, 8);
			put_plain();
			if (i == 0)
				put(0xc3);
		}
		put(0x48); /* mov rsp, [saved] */
		put(0x8b);
		put_absolute(4, SAVED_RSP);
	}
	}
}

/* f: dec counter; jz end; call f; end: ret. It may end by forgetting all frames. */
static void put_recursion(bool shallow)
{
	unsigned n = shallow ? 1 + pick(40) : pick(30) ? 1 + pick(300) : 10500 + pick(3000);
	bool forget = pick(4) == 0, indirect = pick(3) == 0, keeps = pick(2);
	uint64_t counter = put_counter(n);
	unsigned call, over, function, end, again, out, reg = pick_register();

	put(0x48); /* mov [saved], rsp */
	put(0x89);
	put_absolute(4, SAVED_RSP);
	put_write_flags();
	call = put_forward(0xe8);
	out = code_length;
	put_read_flags();
	over = put_forward(0xe9);
	put_here(call);
	function = code_length;
	if (keeps)
		put_push(pick_register());
	put(0xff); /* dec dword [counter] */
	put_absolute(1, counter);
	put(0x0f);
	end = put_forward(0x84);
	if (indirect) {
		put_mov_imm(reg, CODE + function);
		put_indirect(2, reg);
	} else {
		again = put_forward(0xe8);
		uint32_t distance = function - again;

		memcpy(code + again - 4, &distance, 4);
	}
	if (pick(2))
		put_op(0x11, 0, pick_register(), pick_register()); /* adc: flags live across the return */
	if (pick(2))
		put_op(0xff, 0, 0, pick_register());
	if (keeps)
		put_pop(pick_register());
	put(0xc3);
	put_here(end);
	if (forget) {
		put(0x48); /* mov rsp, [saved] */
		put(0x8b);
		put_absolute(4, SAVED_RSP);
		put(0xe9);
		put_bytes(out - (code_length + 4), 4);
	} else {
		if (keeps)
			put_pop(pick_register());
		put(0xc3);
	}
	put_here(over);
}

/* Calls a later function that suits the caller. */
static void put_some_call(bool at_frame)
{
	unsigned function = current + 1;

	if (function >= function_count)
		return;
	function += pick(function_count - function);
	/* Who returns to its caller's caller needs one that a plain RET leaves. */
	if (functions[function].escapes && (!at_frame || current == -1u || functions[current].arguments ||
					    functions[current].skips || functions[current].escapes))
		return;
	put_call_of(function);
}

static void put_calling_loop(bool at_frame)
{
	uint64_t counter = put_counter(1 + pick(current == -1u ? 12 : 3));
	unsigned top = code_length;

	put_some_call(at_frame);
	if (pick(2))
		put_plain();
	put_counted_jump(counter, top);
}

static void put_epilogue(const struct function *f)
{
	unsigned reg = pick_register();

	if (f->skips) { /* add qword [rsp], skips: writes the flags */
		put(0x48);
		put(0x83);
		put(0x04);
		put(0x24);
		put(f->skips);
	}
	if (f->escapes) { /* lea rsp, [rsp+8] */
		put(0x48);
		put(0x8d);
		put(0x64);
		put(0x24);
		put(8);
	}
	if (pick(2))
		put_write_flags();
	if (f->arguments) {
		put(0xc2);
		put_bytes(8 * f->arguments, 2);
		return;
	}
	switch (pick(8)) {
	case 0: /* pop r; jmp r */
		put_pop(reg);
		put_indirect(4, reg);
		break;
	case 1: /* pop r; push r; ret */
		put_pop(reg);
		put_push(reg);
		put(0xc3);
		break;
	case 2: /* rep ret */
		put(0xf3);
		put(0xc3);
		break;
	case 3: /* ret 0 */
		put(0xc2);
		put_bytes(0, 2);
		break;
	default:
		put(0xc3);
	}
}

static void put_function(unsigned index, unsigned calls)
{
	struct function *f = &functions[index];

	current = index;
	f->at = code_length;
	if (pick(2))
		put_read_flags();
	for (unsigned i = pick(5); i && code_length < CODE_LIMIT - 0x300; i--) {
		unsigned reg;

		switch (pick(10)) {
		case 0 ... 2:
			put_plain();
			break;
		case 3:
			put_saved_flags();
			break;
		case 4: /* push …; pop */
			put_push(pick_register());
			if (calls && pick(2))
				put_some_call(false), calls--;
			else
				put_plain();
			reg = pick_register();
			put_pop(reg);
			break;
		case 5 ... 6:
			if (calls && pick(3) == 0)
				put_calling_loop(true), calls--;
			else if (calls)
				put_some_call(true), calls--;
			break;
		case 7:
			put_unbalanced();
			break;
		case 8:
			put_store_near_code();
			break;
		default:
			any_instruction();
		}
	}
	put_epilogue(f);
}

void flow_piece(void)
{
	switch (pick(8)) {
	case 0 ... 3:
		put_register_loop(0);
		break;
	case 4 ... 6:
		put_string();
		break;
	default:
		put_page_end(); /* over two pages */
		put_write_flags();
		put_plain();
		put_read_flags();
	}
}

uint64_t flow_sequence(unsigned length, void (*instruction)(void))
{
	bool in_code = pick(12) == 0; /* the stack lies in a page with code */
	uint64_t rsp = in_code ? CODE + CODE_SIZE - 0x100 : STACK + STACK_SIZE - 0x1000;

	if (pick(4) == 0)
		rsp -= pick(16);
	any_instruction = instruction;
	calm = true;
	code_length = fixup_count = counter_count = 0;
	put_plt();
	current = -1u;
	function_count = 1 + pick(FUNCTIONS);
	for (unsigned i = 0; i < function_count; i++) {
		bool escapes = pick(6) == 0;

		functions[i] = (struct function){ .escapes = escapes, .arguments = escapes || pick(4) ? 0 : 1 + pick(4),
						  .skips = escapes || pick(4) ? 0 : 1 + pick(10) };
	}
	for (unsigned i = 0; i < length / 3 + 1 && code_length < CODE_LIMIT - 0x2800; i++) {
		switch (pick(20)) {
		case 0 ... 5:
			put_some_call(false);
			break;
		case 6 ... 7:
			put_calling_loop(false);
			break;
		case 8 ... 9:
			put_unbalanced();
			break;
		case 10:
			put_recursion(in_code);
			break;
		case 11:
			put_saved_flags();
			break;
		case 12:
			put_store_near_code();
			break;
		case 13:
			put_rewrite_loop();
			break;
		case 14:
			put_rewriting_call();
			break;
		case 15:
			put_copied_functions();
			break;
		case 16 ... 17:
			flow_piece();
			break;
		default:
			any_instruction();
		}
	}
	put(0x0f); /* ud2 */
	put(0x0b);
	for (unsigned i = 0; i < function_count; i++) {
		if (pick(3) == 0)
			put_page_end();
		else if (pick(4) == 0)
			for (unsigned n = pick(3000); n && code_length + (function_count - i) * 0x500 < CODE_LIMIT; n--)
				put(FLOW_FILLER);
		put_function(i, 2);
	}
	resolve_fixups();
	if (code_length > COPY - CODE)
		abort();
	/* What earlier sequences copied or pushed behind it is not there any more. */
	while (code_length < CODE_SIZE)
		put(FLOW_FILLER);
	calm = false;
	return rsp;
}

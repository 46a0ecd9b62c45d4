#include "guest32.h"

uint64_t idt[256];
volatile struct fault fault;
volatile uint32_t recover_eip, restore_esp, expected_eip;
bool (*volatile on_exception)(struct frame *frame);
struct frame last_frame;
static const char *rule_name;
static unsigned made, failed, rule_made, rule_failed;

void outb(uint16_t port, uint8_t value)
{
	__asm__ volatile("outb %0, %1" : : "a"(value), "Nd"(port));
}

void *memcpy(void *to, const void *from, size_t size)
{
	void *start = to;

	__asm__ volatile("rep movsb" : "+D"(to), "+S"(from), "+c"(size) : : "memory");
	return start;
}

void *memset(void *to, int value, size_t size)
{
	void *start = to;

	__asm__ volatile("rep stosb" : "+D"(to), "+c"(size) : "a"(value) : "memory");
	return start;
}

static void text(const char *s)
{
	for (; *s; s++)
		outb(0x3f8, *s);
}

static void number(uint32_t value)
{
	for (int shift = 28; shift >= 0; shift -= 4)
		outb(0x3f8, "0123456789abcdef"[value >> shift & 15]);
}

static void end_rule(void)
{
	if (rule_name && made != rule_made && failed == rule_failed) {
		text("ok ");
		text(rule_name);
		text("\r\n");
	}
	rule_made = made;
	rule_failed = failed;
}

void rule(const char *name)
{
	end_rule();
	rule_name = name;
}

void check_equal(const char *file, int line, const char *what, uint32_t actual, uint32_t expected)
{
	made++;
	if (actual == expected)
		return;
	failed++;
	text("FAIL ");
	text(rule_name);
	text(": ");
	text(what);
	text(" is ");
	number(actual);
	text(", not ");
	number(expected);
	text(" (line ");
	for (int divisor = 1000; divisor; divisor /= 10)
		outb(0x3f8, '0' + line / divisor % 10);
	text(")\r\n");
}

static void die(const struct frame *frame)
{
	text("FAIL ");
	text(rule_name);
	text(": unexpected vector ");
	number(frame->vector);
	text(" error ");
	number(frame->error);
	text(" at ");
	number(frame->cs);
	text(":");
	number(frame->eip);
	text("\r\n");
	for (;;)
		__asm__ volatile("outl %0, %1\n\tcli\n\thlt" : : "a"(2), "Nd"((uint16_t)0xf4));
}

void runtime_exception(struct frame *frame)
{
	fault.vector = frame->vector;
	fault.error = frame->error;
	fault.eip = frame->eip;
	fault.eflags = frame->eflags;
	fault.cs = frame->cs;
	fault.cr2 = read_cr2();
	memcpy(&last_frame, frame, sizeof(last_frame));
	if (on_exception && on_exception(frame))
		return;
	if (recover_eip && !(frame->cs & 3)) {
		frame->eip = recover_eip;
		frame->cs = CODE;
		recover_eip = 0;
		return;
	}
	if (frame->cs & 3 || frame->eflags & 1u << 17) {
		__asm__ volatile("jmp user_back");
	}
	die(frame);
}

unsigned runtime_main(void)
{
	struct __attribute__((packed)) {
		uint16_t limit;
		uint32_t base;
	} pointer = {sizeof(idt) - 1, (uint32_t)idt};

	for (unsigned i = 0; i < 256; i++) {
		uint32_t at = (uint32_t)vectors + 16 * i;

		idt[i] = (at & 0xffff) | CODE << 16 | (uint64_t)(at & 0xffff0000) << 32 |
		         (i >= 0x80 ? 0xeeull : 0x8eull) << 40;
	}
	__asm__ volatile("lidt %0" : : "m"(pointer));
	outb(0x21, 0xff);
	outb(0xa1, 0xff);
	guest_main();
	end_rule();
	return failed ? 1 : 0;
}

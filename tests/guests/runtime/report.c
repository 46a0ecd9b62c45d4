#include "runtime/report.h"

#include <stdarg.h>

#define COM1 0x3f8

unsigned checks_failed, checks_made;
const char *rule_name;
static unsigned rule_checks, rule_failures;

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

static void put(char c)
{
	if (c == '\n')
		outb(COM1, '\r');
	outb(COM1, (uint8_t)c);
}

static void put_number(unsigned long value, unsigned base, unsigned width)
{
	char digits[20];
	unsigned count = 0;

	do {
		digits[count++] = "0123456789abcdef"[value % base];
		value /= base;
	} while (value);
	while (count < width && count < sizeof(digits))
		digits[count++] = '0';
	while (count)
		put(digits[--count]);
}

void print(const char *format, ...)
{
	va_list list;

	va_start(list, format);
	for (; *format; format++) {
		unsigned width = 0, longs = 0;

		if (*format != '%') {
			put(*format);
			continue;
		}
		while (*++format >= '0' && *format <= '9')
			width = width * 10 + (unsigned)(*format - '0');
		for (; *format == 'l'; format++)
			longs++;
		switch (*format) {
		case 's':
			for (const char *s = va_arg(list, const char *); *s; s++)
				put(*s);
			break;
		case 'c':
			put((char)va_arg(list, int));
			break;
		case 'd':
		case 'u':
		case 'x':
			put_number(longs ? va_arg(list, unsigned long) : va_arg(list, unsigned),
			           *format == 'x' ? 16 : 10, width);
			break;
		case '%':
			put('%');
			break;
		}
	}
	va_end(list);
}

_Noreturn void finish(unsigned value)
{
	for (;;)
		__asm__ volatile("outl %0, %1\n\tcli\n\thlt" : : "a"(value), "Nd"((uint16_t)0xf4));
}

/* A line for each rule that held; check_failed has named the others. */
static void rule_end(void)
{
	if (rule_name && checks_made != rule_checks && checks_failed == rule_failures)
		print("ok %s\n", rule_name);
	rule_checks = checks_made;
	rule_failures = checks_failed;
}

void rule(const char *name)
{
	rule_end();
	rule_name = name;
}

void check_failed(const char *file, int line, const char *text, unsigned long actual,
                  unsigned long expected)
{
	checks_failed++;
	print("FAIL %s: %s is %lx, not %lx (%s:%d)\n", rule_name, text, actual, expected, file, line);
}

unsigned report_end(void)
{
	rule_end();
	print("%u checks, %u failed\n", checks_made, checks_failed);
	return checks_failed ? 1 : 0;
}

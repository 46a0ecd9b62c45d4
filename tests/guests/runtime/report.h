/* What guests of 64 and of 32 bits have in common: text on COM1, rules and their checks, the end. */
#ifndef GUESTS_RUNTIME_REPORT_H
#define GUESTS_RUNTIME_REPORT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* %s, %c, %d, %u, %x with l or ll, and a width for %x ("%016lx"). */
void print(const char *format, ...) __attribute__((format(printf, 1, 2)));
/* Ends the run with this value at port F4H. */
_Noreturn void finish(unsigned value);

/* Names the rule that the following checks are about; "ok NAME" is printed where they hold, "FAIL NAME: …" else. */
void rule(const char *name);
extern const char *rule_name;
void check_failed(const char *file, int line, const char *text, unsigned long actual,
                  unsigned long expected);
extern unsigned checks_failed, checks_made;

#define CHECK(condition)                                                                                     \
	do {                                                                                                 \
		checks_made++;                                                                               \
		if (!(condition))                                                                            \
			check_failed(__FILE_NAME__, __LINE__, #condition, 0, 1);                             \
	} while (0)
#define CHECK_EQ(actual, expected)                                                                           \
	do {                                                                                                 \
		unsigned long actual_ = (unsigned long)(actual), expected_ = (unsigned long)(expected);      \
		checks_made++;                                                                               \
		if (actual_ != expected_)                                                                    \
			check_failed(__FILE_NAME__, __LINE__, #actual, actual_, expected_);                  \
	} while (0)
#ifndef __FILE_NAME__
#define __FILE_NAME__ __FILE__
#endif

/* After the last rule: how many checks there were. Returns what the guest ends with, 0 where all held. */
unsigned report_end(void);

static inline void outb(uint16_t port, uint8_t value)
{
	__asm__ volatile("outb %0, %1" : : "a"(value), "Nd"(port));
}

void *memcpy(void *to, const void *from, size_t size);
void *memset(void *to, int value, size_t size);

#endif

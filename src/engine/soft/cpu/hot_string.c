/*
 * memcpy and its kin for hot C (see hot.h): integer registers only. The compiler must not recognise the loops
 * below as the very functions they implement.
 */
#include <stdint.h>

#define NO_LOOP_PATTERNS __attribute__((optimize("no-tree-loop-distribute-patterns"), used))

/* Where the start-up cost of the host's string instructions is won back. */
#define STRING_MINIMUM 512

typedef uint64_t __attribute__((may_alias, aligned(1))) word;

static inline void rep_movsb(uint8_t *to, const uint8_t *from, size_t size)
{
	__asm__ volatile("rep movsb" : "+D"(to), "+S"(from), "+c"(size) : : "memory");
}

NO_LOOP_PATTERNS void *(memcpy)(void *to, const void *from, size_t size)
{
	uint8_t *t = to;
	const uint8_t *f = from;

	if (size >= STRING_MINIMUM) {
		rep_movsb(t, f, size);
		return to;
	}
	for (; size >= 32; size -= 32, t += 32, f += 32) {
		uint64_t a = ((const word *)f)[0], b = ((const word *)f)[1];
		uint64_t c = ((const word *)f)[2], d = ((const word *)f)[3];

		((word *)t)[0] = a;
		((word *)t)[1] = b;
		((word *)t)[2] = c;
		((word *)t)[3] = d;
	}
	for (; size >= 8; size -= 8, t += 8, f += 8)
		*(word *)t = *(const word *)f;
	for (; size; size--)
		*t++ = *f++;
	return to;
}

NO_LOOP_PATTERNS void *memmove(void *to, const void *from, size_t size)
{
	uint8_t *t = to;
	const uint8_t *f = from;

	if ((uintptr_t)t - (uintptr_t)f >= size) {
		/* Ascending order never overwrites what is still to be read. */
		if (size >= STRING_MINIMUM && (uintptr_t)f - (uintptr_t)t >= 64) {
			rep_movsb(t, f, size);
			return to;
		}
		for (; size >= 8; size -= 8, t += 8, f += 8)
			*(word *)t = *(const word *)f;
		for (; size; size--)
			*t++ = *f++;
		return to;
	}
	for (t += size, f += size; size >= 8; size -= 8) {
		t -= 8;
		f -= 8;
		*(word *)t = *(const word *)f;
	}
	for (; size; size--)
		*--t = *--f;
	return to;
}

NO_LOOP_PATTERNS void *(memset)(void *to, int value, size_t size)
{
	uint8_t *t = to;

	if (size >= STRING_MINIMUM) {
		__asm__ volatile("rep stosb" : "+D"(t), "+c"(size) : "a"(value) : "memory");
		return to;
	}
	const uint64_t pattern = (uint8_t)value * 0x0101010101010101ull;

	for (; size >= 32; size -= 32, t += 32)
		((word *)t)[0] = ((word *)t)[1] = ((word *)t)[2] = ((word *)t)[3] = pattern;
	for (; size >= 8; size -= 8, t += 8)
		*(word *)t = pattern;
	for (; size; size--)
		*t++ = (uint8_t)value;
	return to;
}

NO_LOOP_PATTERNS int memcmp(const void *a, const void *b, size_t size)
{
	const uint8_t *x = a, *y = b;

	for (; size >= 8 && *(const word *)x == *(const word *)y; size -= 8, x += 8, y += 8)
		;
	for (; size; size--, x++, y++)
		if (*x != *y)
			return *x - *y;
	return 0;
}

#include "flat32.h"

#include <stdbool.h>

#include "encode.h"

enum { EAX, ECX, EDX, EBX, ESP, EBP, ESI, EDI };

static void put_mov32(unsigned reg, uint32_t value)
{
	put(0xb8 | reg);
	put_bytes(value, 4);
}

/* Not esp, and not the string instructions' where they are at work. */
static unsigned pick_register32(bool indices)
{
	static const uint8_t free[] = { EAX, EDX, EBX, EBP, ECX, ESI, EDI };

	return free[pick(indices ? 7 : 4)];
}

/* Arithmetic between registers, INC, DEC, ADC: flags are made and read. */
static void put_plain32(bool indices)
{
	static const uint8_t ops[] = { 0x01, 0x11, 0x19, 0x29, 0x31, 0x39, 0x85, 0x89, 0x87 };
	unsigned reg = pick_register32(indices), other = pick_register32(indices);

	switch (pick(4)) {
	case 0:
		put((pick(2) ? 0x40 : 0x48) | reg);
		break;
	case 1: /* setcc on al … bl */
		put(0x0f);
		put(0x90 | pick(16));
		put(0xc0 | (const uint8_t[]){ EAX, EDX, EBX }[pick(3)]);
		break;
	default:
		put(ops[pick(sizeof(ops))]);
		put(0xc0 | reg << 3 | other);
	}
}

struct string32 {
	uint8_t op, repeat;
	unsigned size;
	bool backward;
};

static void put_string32(const struct string32 *s)
{
	static const uint8_t segments[] = { 0x26, 0x2e, 0x36, 0x3e };

	if (pick(12) == 0)
		put(segments[pick(sizeof(segments))]);
	if (pick(200) == 0)
		put(0x67); /* SI, DI, CX: what they lead to is not mapped */
	if (s->repeat)
		put(s->repeat);
	if (s->size == 2)
		put(0x66);
	put(s->op | (s->size > 1));
}

/* Somewhere for `span` bytes: in DATA, seldom at either end of it or of the address space. */
static uint32_t pick_place(unsigned span)
{
	unsigned room = span < DATA_SIZE ? DATA_SIZE - span : 0, kind = pick(64);

	switch (kind < 4 && !TOP_IS_FREE ? 2 : kind) {
	case 0 ... 1: /* an index comes to 4G, or wraps */
		return 0u - (span < TOP_SIZE ? span : TOP_SIZE) + (pick(4) ? 0 : pick(8));
	case 2:
		return DATA + DATA_SIZE - span + pick(9);
	case 3:
		return pick(2) ? DATA - pick(9) : (uint32_t)next_random();
	case 4 ... 15: /* up to a page's end */
		return DATA + 4096 * (1 + pick(DATA_PAGES - 1)) - (span < 4096 ? span : 4096);
	default:
		return DATA + pick(room + 1);
	}
}

static void put_pointers(const struct string32 *s, unsigned count)
{
	unsigned span = count * s->size;
	uint32_t to = pick_place(span), from = pick(3) ? pick_place(span) : to + pick(2 * s->size + 20) - s->size - 8;

	if (s->backward) {
		to += span - s->size;
		from += span - s->size;
	}
	put_mov32(EDI, to);
	put_mov32(ESI, from);
}

static struct string32 pick_string(void)
{
	static const uint8_t ops[] = { 0xa4, 0xa4, 0xa4, 0xaa, 0xaa, 0xa6, 0xae, 0xac };

	return (struct string32){ .op = ops[pick(sizeof(ops))], .size = 1u << pick(3), .backward = pick(3) == 0 };
}

static void put_direction(const struct string32 *s)
{
	if (s->backward)
		put(0xfd);
}

static void put_repeated(void)
{
	struct string32 s = pick_string();
	unsigned count = pick(4) ? pick(70) : pick(3) ? pick(1100) : pick(DATA_SIZE / s.size + (pick(8) ? 0 : 20));

	s.repeat = pick(5) ? 0xf3 : 0xf2;
	put_pointers(&s, count);
	put_mov32(ECX, pick(100) ? count : (uint32_t)next_random());
	if (pick(2))
		put_plain32(false);
	put_direction(&s);
	put_string32(&s);
	put(0xfc);
	if (pick(2))
		put_plain32(true);
}

/* A loop of single ones, as memcpy is written where size counts. */
static void put_singles(void)
{
	struct string32 s = pick_string();
	unsigned count = 1 + pick(pick(4) ? 30 : DATA_SIZE / 4), top;

	put_pointers(&s, count);
	put_mov32(ECX, count);
	put_direction(&s);
	top = code_length;
	put_string32(&s);
	for (unsigned n = pick(3); n; n--)
		put_plain32(false);
	if (pick(2)) {
		put(0xe2); /* loop */
	} else {
		put(0x49); /* dec ecx */
		put(0x75);
	}
	put(top - code_length - 1);
	put(0xfc);
}

static void put_stack32(void)
{
	if (pick(3) == 0) { /* flags over other arithmetic, sometimes with DF */
		put(0x9c);
		put_plain32(true);
		if (pick(8) == 0)
			put(0xfd);
		put(0x9d);
		return;
	}
	put(0x50 | pick_register32(true));
	put_plain32(true);
	put(0x58 | pick_register32(true));
}

uint64_t flat32_sequence(unsigned length)
{
	code_length = 0;
	for (unsigned i = 0; i < length && code_length < CODE_SIZE - 256; i++) {
		switch (pick(8)) {
		case 0 ... 2:
			put_repeated();
			break;
		case 3 ... 5:
			put_singles();
			break;
		case 6:
			put_stack32();
			break;
		default:
			put_mov32(pick_register32(true), next_random());
			put_plain32(true);
		}
	}
	put(0x0f); /* ud2 */
	put(0x0b);
	return DATA + DATA_SIZE / 2 + pick(64);
}

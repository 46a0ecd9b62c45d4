/*
 * LZMA2 for the payloads of Linux kernels.
 *
 * Unpacking the kernel is most of the time to a guest's first line, and on each level of nesting again.
 * liblzma decodes any stream in pieces of any size; here the input and the output lie in memory as a whole,
 * which spares the dictionary's copy, and all that could stop in the middle of a symbol.
 *
 * The range decoder is a chain of dependent steps: every bit needs the range and code that the bit before it
 * left, and the probability that the bits before it select. Two things make it short. A bit's value never
 * steers a branch where it only selects (literals, trees): it is a mask, made from the borrow of a
 * subtraction. And in a tree both possible next probabilities are loaded, as one word, before the bit that
 * selects between them is known.
 *
 * LZMA in short. Symbols are literals, matches (length, distance) and repeats of one of the last four
 * distances. Which, is coded by bits whose probabilities depend on `state` (what the last few symbols were)
 * and on the position. A literal is a tree of eight bits selected by the byte before it; a length, a tree of
 * three or eight bits; a distance, a six-bit slot that says how many bits follow, coded with probabilities
 * (low ones) or without.
 */
#include "boot/lzma2.h"

#include <stdlib.h>
#include <string.h>

typedef uint16_t probability; /* of a zero, in 2048ths */

#define PROBABILITY_BITS 11
#define EVEN_CHANCE      (1u << (PROBABILITY_BITS - 1))
#define MOVE_BITS        5
#define RANGE_TOP        (1u << 24) /* below it the range takes in another byte */

#define STATES         12
#define LITERAL_STATES 7 /* states below this follow a literal */
#define POSITIONS      16
#define LITERAL_CODERS 16 /* LZMA2: lc + lp <= 4 */
#define MATCH_MIN      2
#define LENGTH_STATES  4  /* a distance's slot has trees for lengths 2, 3, 4 and more */
#define SLOT_MODELLED  4  /* slots from here on are followed by bits … */
#define SLOT_DIRECT    14 /* … and from here on, by bits without probabilities */
#define ALIGN_BITS     4

/*
 * A symbol reads no more than this: 22 bits with probabilities, each of which stays above 31/2048 and so
 * shifts in 6.1 bits at most, and 26 bits without.
 */
#define SYMBOL_INPUT 32
#define CHUNK_INPUT  65536

struct length_coder {
	probability choice, choice2;
	probability low[POSITIONS][8], middle[POSITIONS][8], high[256];
};

struct lzma2 {
	/* Trees start at multiples of four bytes: their probabilities are loaded in pairs. */
	probability literal[LITERAL_CODERS][0x300] __attribute__((aligned(64)));
	probability slot[LENGTH_STATES][64];
	probability align[1 << ALIGN_BITS];
	probability special[SLOT_DIRECT - SLOT_MODELLED][1 << 5]; /* one tree for each slot */
	struct length_coder match_length, repeat_length;
	probability is_match[STATES][POSITIONS], is_long_repeat[STATES][POSITIONS];
	probability is_repeat[STATES], is_repeat0[STATES], is_repeat1[STATES], is_repeat2[STATES];

	/* Between chunks. */
	unsigned state, repeat[4];
	unsigned context_bits, position_mask, literal_position_mask; /* lc, pb, lp */
};

/* The range decoder; while symbols are decoded it lives in registers. */
struct range_decoder {
	uint32_t range, code;
	const uint8_t *in;
};

static inline __attribute__((always_inline)) void normalize(struct range_decoder *rc)
{
	if (__builtin_expect(rc->range < RANGE_TOP, 0)) {
		rc->range <<= 8;
		rc->code = rc->code << 8 | *rc->in++;
	}
}

/* One step for a bit with probability `p` of being 0: all ones where the bit is 0, else 0. */
static inline __attribute__((always_inline)) uint32_t step(struct range_decoder *rc, uint32_t p)
{
	uint32_t bound, rest, mask;

	normalize(rc);
	bound = (rc->range >> PROBABILITY_BITS) * p;
	rest = rc->code;
	/* range = bit ? range - bound : bound; code = bit ? code - bound : code. Compilers like to branch
	 * here. */
	__asm__("sub %[bound], %[range]\n\t"
	        "sub %[bound], %[code]\n\t"
	        "cmovb %[bound], %[range]\n\t"
	        "cmovb %[rest], %[code]\n\t"
	        "sbb %[mask], %[mask]"
	        : [range] "+&r"(rc->range), [code] "+&r"(rc->code), [mask] "=r"(mask)
	        : [bound] "r"(bound), [rest] "r"(rest)
	        : "cc");
	return mask;
}

/* The probability after a bit: a 32nd nearer to what the bit was. */
static inline __attribute__((always_inline)) probability moved(uint32_t p, uint32_t zero)
{
	return (probability)(p - (uint32_t)((int32_t)(p - (zero & ((1u << PROBABILITY_BITS) - 31))) >>
	                                    MOVE_BITS));
}

/* A bit that decides what comes next. */
static inline __attribute__((always_inline)) bool decide(struct range_decoder *rc, probability *at)
{
	uint32_t p = *at, bound;

	normalize(rc);
	bound = (rc->range >> PROBABILITY_BITS) * p;
	if (rc->code < bound) {
		rc->range = bound;
		*at = (probability)(p + (((1u << PROBABILITY_BITS) - p) >> MOVE_BITS));
		return false;
	}
	rc->range -= bound;
	rc->code -= bound;
	*at = (probability)(p - (p >> MOVE_BITS));
	return true;
}

/* The two probabilities below a tree's node, in one word. */
static inline __attribute__((always_inline)) uint32_t pair(const probability *tree, uint32_t node)
{
	uint32_t both;

	memcpy(&both, tree + 2 * node, sizeof(both));
	return both;
}

/* A tree's value with its leading 1: `bits` bits, the highest first. */
static inline __attribute__((always_inline)) uint32_t tree(struct range_decoder *rc, probability *tree,
                                                           unsigned bits)
{
	uint32_t node = 1, p = tree[1];

#pragma GCC unroll 8
	for (unsigned i = 0; i < bits; i++) {
		uint32_t next = i + 1 < bits ? pair(tree, node) : 0, zero = step(rc, p);

		tree[node] = moved(p, zero);
		node = 2 * node + 1 + zero;
		p = zero ? next & 0xffff : next >> 16;
	}
	return node;
}

/* The same, the lowest bit first. */
static inline __attribute__((always_inline)) uint32_t reverse_tree(struct range_decoder *rc,
                                                                   probability *tree, unsigned bits)
{
	uint32_t node = 1, value = 0;

	for (unsigned i = 0; i < bits; i++) {
		uint32_t p = tree[node], zero = step(rc, p);

		tree[node] = moved(p, zero);
		node = 2 * node + 1 + zero;
		value |= (1 + zero) << i;
	}
	return value;
}

static inline __attribute__((always_inline)) uint32_t direct(struct range_decoder *rc, unsigned bits)
{
	uint32_t value = 0;

	while (bits--) {
		uint32_t zero;

		normalize(rc);
		rc->range >>= 1;
		rc->code -= rc->range;
		zero = 0 - (rc->code >> 31);
		rc->code += rc->range & zero;
		value = 2 * value + 1 + zero;
	}
	return value;
}

/* A literal after a match: as long as its bits are those of the byte at the last distance, they select the
 * tree. */
static inline __attribute__((always_inline)) uint8_t matched_literal(struct range_decoder *rc,
                                                                     probability *coder, uint32_t match)
{
	uint32_t node = 1, offset = 0x100;

#pragma GCC unroll 8
	for (unsigned i = 0; i < 8; i++) {
		uint32_t match_bit, at, p, zero;

		match <<= 1;
		match_bit = match & offset;
		at = offset + match_bit + node;
		p = coder[at];
		zero = step(rc, p);
		coder[at] = moved(p, zero);
		node = 2 * node + 1 + zero;
		offset = zero ? offset & ~match_bit : match_bit;
	}
	return (uint8_t)node;
}

static inline __attribute__((always_inline)) unsigned length(struct range_decoder *rc,
                                                             struct length_coder *coder, unsigned position)
{
	if (!decide(rc, &coder->choice))
		return MATCH_MIN - 8 + tree(rc, coder->low[position], 3);
	if (!decide(rc, &coder->choice2))
		return MATCH_MIN + tree(rc, coder->middle[position], 3);
	return MATCH_MIN + 16 - 256 + tree(rc, coder->high, 8);
}

/* Distances count from 0, the byte before. */
static inline __attribute__((always_inline)) uint32_t distance(struct range_decoder *rc, struct lzma2 *lzma,
                                                               unsigned match_length)
{
	unsigned state = match_length - MATCH_MIN;
	uint32_t slot = tree(rc, lzma->slot[state < LENGTH_STATES ? state : LENGTH_STATES - 1], 6) - 64,
	         value;
	unsigned bits;

	if (slot < SLOT_MODELLED)
		return slot;
	bits = (slot >> 1) - 1;
	value = (2 | (slot & 1)) << bits;
	if (slot < SLOT_DIRECT)
		return value + reverse_tree(rc, lzma->special[slot - SLOT_MODELLED], bits);
	value += direct(rc, bits - ALIGN_BITS) << ALIGN_BITS;
	return value + reverse_tree(rc, lzma->align, ALIGN_BITS);
}

/* Repeats `count` bytes from `back` bytes ago; writes up to LZMA2_SLACK bytes more. */
static inline __attribute__((always_inline)) void repeat(uint8_t *out, size_t back, size_t count)
{
	uint8_t *end = out + count;

	/* A short pattern: what is good of each 16 bytes copied makes it twice as long. */
	while (__builtin_expect(back < 16, 0)) {
		__builtin_memcpy(out, out - back, 16);
		out += back;
		back *= 2;
		if (out >= end)
			return;
	}
	do {
		__builtin_memcpy(out, out - back, 16);
		out += 16;
	} while (out < end);
}

/*
 * The symbols of one chunk, from [in, …) into [out + at, out + end). SYMBOL_INPUT bytes behind the chunk's
 * input may be read. Returns where the input ended, or NULL.
 */
static const uint8_t *decode_symbols(struct lzma2 *lzma, uint8_t *out, size_t at, size_t end,
                                     const uint8_t *in, const uint8_t *in_end)
{
	struct range_decoder rc = {.range = UINT32_MAX};
	uint32_t repeat0 = lzma->repeat[0], repeat1 = lzma->repeat[1], repeat2 = lzma->repeat[2],
	         repeat3 = lzma->repeat[3];
	unsigned state = lzma->state;
	const unsigned position_mask = lzma->position_mask,
	               literal_position_mask = lzma->literal_position_mask, context_bits = lzma->context_bits;

	/* The first byte is always 0. */
	rc.code = (uint32_t)in[1] << 24 | (uint32_t)in[2] << 16 | (uint32_t)in[3] << 8 | in[4];
	rc.in = in + 5;
	while (at < end) {
		unsigned position = (unsigned)at & position_mask, count;
		uint32_t last;

		if (rc.in > in_end)
			return NULL;
		if (!decide(&rc, &lzma->is_match[state][position])) {
			unsigned before = at ? out[at - 1] : 0;
			probability *coder =
			    lzma->literal[(((unsigned)at & literal_position_mask) << context_bits) +
			                  (before >> (8 - context_bits))];

			if (state < LITERAL_STATES)
				out[at] = (uint8_t)tree(&rc, coder, 8);
			else
				out[at] = matched_literal(&rc, coder, out[at - repeat0 - 1]);
			at++;
			state = state < 4 ? 0 : state < 10 ? state - 3 : state - 6;
			continue;
		}
		if (!decide(&rc, &lzma->is_repeat[state])) {
			repeat3 = repeat2;
			repeat2 = repeat1;
			repeat1 = repeat0;
			count = length(&rc, &lzma->match_length, position);
			repeat0 = distance(&rc, lzma, count);
			state = state < LITERAL_STATES ? 7 : 10;
		} else {
			if (at == 0)
				return NULL; /* nothing to repeat */
			if (!decide(&rc, &lzma->is_repeat0[state])) {
				if (!decide(&rc, &lzma->is_long_repeat[state][position])) {
					if (repeat0 >= at)
						return NULL;
					out[at] = out[at - repeat0 - 1];
					at++;
					state = state < LITERAL_STATES ? 9 : 11;
					continue;
				}
			} else {
				if (!decide(&rc, &lzma->is_repeat1[state])) {
					last = repeat1;
				} else {
					if (!decide(&rc, &lzma->is_repeat2[state])) {
						last = repeat2;
					} else {
						last = repeat3;
						repeat3 = repeat2;
					}
					repeat2 = repeat1;
				}
				repeat1 = repeat0;
				repeat0 = last;
			}
			count = length(&rc, &lzma->repeat_length, position);
			state = state < LITERAL_STATES ? 8 : 11;
		}
		/* LZMA2 has no end mark among the symbols, and no symbol goes beyond its chunk. */
		if (repeat0 >= at || count > end - at)
			return NULL;
		repeat(out + at, (size_t)repeat0 + 1, count);
		at += count;
	}
	normalize(&rc);
	lzma->repeat[0] = repeat0;
	lzma->repeat[1] = repeat1;
	lzma->repeat[2] = repeat2;
	lzma->repeat[3] = repeat3;
	lzma->state = state;
	return rc.code ? NULL : rc.in;
}

static void reset_state(struct lzma2 *lzma)
{
	probability *at = &lzma->literal[0][0];
	const probability *end = (probability *)&lzma->state;

	while (at < end)
		*at++ = EVEN_CHANCE;
	lzma->state = 0;
	memset(lzma->repeat, 0, sizeof(lzma->repeat));
}

static bool set_properties(struct lzma2 *lzma, unsigned byte)
{
	unsigned context = byte % 9, literal_position = byte / 9 % 5, position = byte / 45;

	if (position > 4 || context + literal_position > 4)
		return false;
	lzma->context_bits = context;
	lzma->literal_position_mask = (1u << literal_position) - 1;
	lzma->position_mask = (1u << position) - 1;
	return true;
}

/* Chunks, each with a control byte that says what of the state starts anew. */
#define CONTROL_END      0x00
#define CONTROL_COPY_NEW 0x01 /* uncompressed, after a dictionary reset */
#define CONTROL_COPY     0x02
#define CONTROL_LZMA     0x80
#define LZMA_RESET_STATE 1
#define LZMA_RESET_ALL   3 /* properties and dictionary too */

static bool decode_chunks(struct lzma2 *lzma, uint8_t *padded, uint8_t *out, size_t out_size,
                          const uint8_t *in, size_t in_size, size_t *in_used)
{
	size_t at = 0, from = 0;
	bool has_dictionary = false, has_properties = false, has_state = false;

	for (;;) {
		unsigned control, reset;
		size_t unpacked, packed, header;
		const uint8_t *chunk, *end;

		if (from == in_size)
			return false;
		control = in[from];
		/* Distances count from the last dictionary reset. One in the middle is for data made in
		 * parts. */
		if (at &&
		    (control == CONTROL_COPY_NEW || control >> 5 == (CONTROL_LZMA >> 5 | LZMA_RESET_ALL)))
			return false;
		if (control == CONTROL_END) {
			*in_used = from + 1;
			return at == out_size;
		}
		if (control < CONTROL_LZMA) {
			if (control > CONTROL_COPY || in_size - from < 3)
				return false;
			unpacked = ((size_t)in[from + 1] << 8 | in[from + 2]) + 1;
			has_dictionary |= control == CONTROL_COPY_NEW;
			from += 3;
			if (!has_dictionary || unpacked > in_size - from || unpacked > out_size - at)
				return false;
			memcpy(out + at, in + from, unpacked);
			at += unpacked;
			from += unpacked;
			continue;
		}
		reset = control >> 5 & 3;
		header = reset > LZMA_RESET_STATE ? 6 : 5;
		if (in_size - from < header)
			return false;
		unpacked = ((size_t)(control & 0x1f) << 16 | (size_t)in[from + 1] << 8 | in[from + 2]) + 1;
		packed = ((size_t)in[from + 3] << 8 | in[from + 4]) + 1;
		has_dictionary |= reset == LZMA_RESET_ALL;
		if (reset > LZMA_RESET_STATE) {
			if (!set_properties(lzma, in[from + 5]))
				return false;
			has_properties = true;
		}
		if (reset) {
			reset_state(lzma);
			has_state = true;
		}
		from += header;
		if (!has_dictionary || !has_properties || !has_state || packed < 5 ||
		    packed > in_size - from || unpacked > out_size - at || in[from])
			return false;
		chunk = in + from;
		if (in_size - from - packed < SYMBOL_INPUT)
			chunk = memcpy(padded, chunk, packed);
		end = decode_symbols(lzma, out, at, at + unpacked, chunk, chunk + packed);
		if (end != chunk + packed)
			return false;
		at += unpacked;
		from += packed;
	}
}

bool lzma2_decode(uint8_t *out, size_t out_size, const uint8_t *in, size_t in_size, size_t *in_used)
{
	struct lzma2 *lzma = aligned_alloc(64, (sizeof(*lzma) + 63) & ~(size_t)63);
	uint8_t *padded = calloc(1, CHUNK_INPUT + SYMBOL_INPUT);
	bool good = lzma && padded && decode_chunks(lzma, padded, out, out_size, in, in_size, in_used);

	free(padded);
	free(lzma);
	return good;
}

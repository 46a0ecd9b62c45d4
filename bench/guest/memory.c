/* Memory: streaming over arrays larger than any cache, and a chain of dependent loads over many pages. */
#include "micro.h"

#include <emmintrin.h>
#include <stdlib.h>

/* Doubles in each array: 16 MB. */
#define LENGTH (2ul << 20)

/* The four loops of the STREAM benchmark's kind: copy, scale, add, triad: 160 MB. */
uint64_t micro_stream(unsigned long passes)
{
	double *a = aligned_alloc(4096, LENGTH * sizeof *a);
	double *b = aligned_alloc(4096, LENGTH * sizeof *b);
	double *c = aligned_alloc(4096, LENGTH * sizeof *c);
	/* Keeps the values as they are: b = a / 2, c = a + b, a = (b + c) / 2. */
	__m128d factor = _mm_set1_pd(0.5);
	double sum = 0;

	if (!a || !b || !c)
		micro_fail("memory");
	for (unsigned long i = 0; i < LENGTH; i++) {
		a[i] = (double)(i & 1023);
		b[i] = c[i] = 1;
	}
	for (; passes; passes--) {
		for (unsigned long i = 0; i < LENGTH; i += 2)
			_mm_store_pd(c + i, _mm_load_pd(a + i));
		for (unsigned long i = 0; i < LENGTH; i += 2)
			_mm_store_pd(b + i, _mm_mul_pd(factor, _mm_load_pd(c + i)));
		for (unsigned long i = 0; i < LENGTH; i += 2)
			_mm_store_pd(c + i, _mm_add_pd(_mm_load_pd(a + i), _mm_load_pd(b + i)));
		for (unsigned long i = 0; i < LENGTH; i += 2)
			_mm_store_pd(a + i, _mm_mul_pd(factor, _mm_add_pd(_mm_load_pd(b + i), _mm_load_pd(c + i))));
	}
	for (unsigned long i = 0; i < LENGTH; i++)
		sum += a[i];
	return (uint64_t)(sum * 1024);
}

/* Nodes of a cache line each, 16 MB in all, in one random cycle: nearly every step is in another page. */
#define NODES (256ul << 10)

struct node {
	struct node *next;
	uint64_t number;
	char rest[48];
};

uint64_t micro_chase(unsigned long million_steps)
{
	struct node *node = aligned_alloc(4096, NODES * sizeof *node);
	uint32_t *order = malloc(NODES * sizeof *order);
	uint64_t state = 0x2545f4914f6cdd1d, sum = 0;

	if (!node || !order)
		micro_fail("memory");
	for (unsigned long i = 0; i < NODES; i++)
		order[i] = i;
	for (unsigned long i = NODES - 1; i > 0; i--) {
		unsigned long j = next_random(&state) % (i + 1);
		uint32_t other = order[j];

		order[j] = order[i];
		order[i] = other;
	}
	for (unsigned long i = 0; i < NODES; i++) {
		node[order[i]].next = &node[order[(i + 1) % NODES]];
		node[order[i]].number = i;
	}
	const struct node *at = &node[order[0]];
	for (unsigned long step = 0; step < million_steps * 1000000; step++) {
		sum += at->number;
		at = at->next;
	}
	return sum;
}

/* The translated side of fuzz_translator: a guest of the software engine in IA-32e mode, run until it faults. */
#ifndef NESTOR_TESTS_DIFFERENTIAL_GUEST_H
#define NESTOR_TESTS_DIFFERENTIAL_GUEST_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define DIFFERENTIAL_FPU_SIZE	832
#define DIFFERENTIAL_FPU_OFFSET "192"

struct differential_state {
	uint64_t gpr[16]; /* hardware numbering; offsets are known to assembly */
	uint64_t rflags;
	uint64_t rip;
	uint64_t vector;
	uint64_t reserved[5];
	uint8_t fpu[DIFFERENTIAL_FPU_SIZE] __attribute__((aligned(64))); /* XSAVE, standard format */
};

_Static_assert(offsetof(struct differential_state, fpu) == 192, "known to assembly");

/* Linear addresses and sizes of what the guest has; code and data are written anew for each run. */
struct differential_setup {
	uint64_t code, data, stack;
	size_t code_size, data_size, stack_size;
	size_t code_memory; /* 0: every run begins with a flush; else so little that flushes happen in the middle */
	bool plant;	    /* with a known defect */
	bool counted;	    /* under the deterministic clock */
	bool code32;	    /* compatibility mode, and the last pages below 4G are there (flat32.h) */
};

/* False with a message on standard error where it cannot be created. */
bool differential_create(const struct differential_setup *setup);
/* Its vCPU, for who measures the translator itself. */
struct cpu *differential_cpu(void);
/* The guest's stack, which runs leave as they find it but for the guest's own writes. */
uint8_t *differential_stack(void);
/* Its last pages below 4G, likewise. */
uint8_t *differential_top(void);
/* tune_off: ENGINE_TUNE_* for the next runs. */
void differential_tune(unsigned tune_off);
/* The next runs begin with so many bytes left for block records: the memory is full somewhere in the middle. */
void differential_room(size_t bytes);
/* Deterministic clock: in the next runs a timer is due every `cut` instructions at most (0: never). */
void differential_cut(unsigned cut);
/* Deterministic clock: instructions that the last run retired. */
uint64_t differential_instructions(void);
/* Runs the bytes from `in`; returns the guest's data afterwards. */
const uint8_t *differential_run(const struct differential_state *in, struct differential_state *out,
				const uint8_t *code, size_t code_size, const uint8_t *data, size_t data_size);
void differential_fpu_init(uint8_t *fpu, uint64_t (*random)(void));
bool differential_has_avx(void);
uint64_t differential_ymm_high(const uint8_t *fpu, unsigned index);

#endif

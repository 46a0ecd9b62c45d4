/* The translated side of fuzz_translator: a 64-bit guest of the software engine, run until it faults. */
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

/* False with a message on standard error where it cannot be created. plant: with a known defect. counted: under the
 * deterministic clock. */
bool differential_create(uint64_t code, size_t code_size, uint64_t data, size_t data_size, bool plant, bool counted);
/*
 * Deterministic clock: how the next runs are cut and translated. Every `cut` instructions at most a timer is due
 * (0: never); tune_off: ENGINE_TUNE_*.
 */
void differential_vary(unsigned cut, unsigned tune_off);
/* Deterministic clock: instructions that the last run retired. */
uint64_t differential_instructions(void);
/* Runs the bytes from `in`; returns the guest's data afterwards. */
const uint8_t *differential_run(const struct differential_state *in, struct differential_state *out,
				const uint8_t *code, size_t code_size, const uint8_t *data, size_t data_size);
void differential_fpu_init(uint8_t *fpu, uint64_t (*random)(void));
bool differential_has_avx(void);
uint64_t differential_ymm_high(const uint8_t *fpu, unsigned index);

#endif

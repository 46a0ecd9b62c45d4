/*
 * Saving and restoring x87, SSE and AVX state. The host's own instructions are the oracle for the images; only
 * instruction and operand addresses, which Nestor gives as zero, are left out of the comparison.
 *
 * gcc -O1 -D_GNU_SOURCE -Isrc -include engine/soft/cpu/hot.h tests/unit/test_xsave.c
 * src/engine/soft/cpu/{xsave,fpu,hot_string}.c src/engine/{cpu_model,cpu_model_query,host_tsc}.c
 * src/util/error.c -lcmocka -o /tmp/test_xsave
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "engine/soft/cpu/fpu.h"
#include "engine/soft/cpu/memory.h"
#include "engine/soft/cpu/ops.h"

/* ---- guest memory: one buffer at linear address 0; faults come back through a jump ---- */

static uint8_t guest[4096] __attribute__((aligned(4096)));
static jmp_buf fault;
static unsigned fault_vector;

gla_t mem_linear(struct cpu *cpu, unsigned seg, uint64_t offset, unsigned size, enum mem_access access)
{
	return GLA(offset);
}

uint64_t operand_offset(struct cpu *cpu, const struct insn *insn)
{
	return (uint64_t)insn->displacement;
}

void mem_read_block(struct cpu *cpu, gla_t gla, void *to, unsigned size, enum tlb_class class)
{
	assert_true(gla.v + size <= sizeof(guest));
	memcpy(to, guest + gla.v, size);
}

void mem_write_block(struct cpu *cpu, gla_t gla, const void *from, unsigned size, enum tlb_class class)
{
	assert_true(gla.v + size <= sizeof(guest));
	memcpy(guest + gla.v, from, size);
}

void cpu_update_mode(struct cpu *cpu)
{
}

void cpu_raise(struct cpu *cpu, enum vector vector)
{
	fault_vector = vector;
	longjmp(fault, 1);
}

void cpu_raise_error(struct cpu *cpu, enum vector vector, uint32_t error)
{
	cpu_raise(cpu, vector);
}

static unsigned vector_of(op_function *op, struct cpu *cpu, const struct insn *insn)
{
	fault_vector = 0;
	if (!setjmp(fault))
		op(cpu, insn);
	return fault_vector;
}

/* ---- set-up ---- */

static struct cpu_model model;
static struct insn at; /* the operand: displacement is its address */

static int set_up(void **state)
{
	struct cpu_model_request request = {.cpu_count = 1};
	struct cpu *cpu = aligned_alloc(64, (sizeof(*cpu) + 63) / 64 * 64);

	assert_non_null(cpu);
	assert_int_equal(cpu_model_make(&model, &request), 0);
	memset(cpu, 0, sizeof(*cpu));
	cpu->model = &model;
	cpu->mode = MODE_CODE64;
	cpu->cr4 = CR4_OSXSAVE | CR4_OSFXSR;
	cpu->xcr0 = model.xcr0_supported;
	cpu->fpu_stashed = true;
	cpu->gpr[REG_RAX] = 7;
	at = (struct insn){.is_memory = true, .operand_size = 4, .displacement = 1024, .segment = SEG_DS};
	memset(guest, 0xa5, sizeof(guest));
	*state = cpu;
	return 0;
}

static int tear_down(void **state)
{
	free(*state);
	return 0;
}

static uint8_t *image(void)
{
	return guest + at.displacement;
}

static uint64_t word(unsigned offset)
{
	uint64_t value;

	memcpy(&value, image() + offset, 8);
	return value;
}

static void set_word(unsigned offset, uint64_t value)
{
	memcpy(image() + offset, &value, 8);
}

/* Random, but such that x87 registers are of every kind. */
static void random_state(struct cpu *cpu)
{
	static const uint16_t exponents[] = {0, 1, 0x3fff, 0x7ffe, 0x7fff};

	for (unsigned i = FPU_ST0; i < FPU_LEGACY_END; i++)
		cpu->fpu_area[i] = (uint8_t)rand();
	for (unsigned i = XSAVE_YMM; i < FPU_AREA_SIZE; i++)
		cpu->fpu_area[i] = cpu->xcr0 & XSTATE_AVX ? (uint8_t)rand() : 0;
	for (unsigned i = 0; i < 8; i++) {
		uint8_t *st = cpu->fpu_area + FPU_ST0 + 16 * i;

		if (rand() & 1)
			memset(st, 0, 8);
		memcpy(st + 8, &exponents[rand() % 5], 2);
		memset(st + 10, 0, 6);
	}
	const uint16_t control = 0x0340 | (rand() & 0x0c3f), status = rand() & 0x7f00;
	const uint32_t mxcsr = 0x1f80 | (rand() & 0xe03f);

	memset(cpu->fpu_area, 0, FPU_ST0);
	memcpy(cpu->fpu_area + FPU_FCW, &control, 2);
	memcpy(cpu->fpu_area + FPU_FSW, &status, 2);
	cpu->fpu_area[FPU_FTW] = (uint8_t)rand();
	memcpy(cpu->fpu_area + FPU_MXCSR, &mxcsr, 4);
	memset(cpu->fpu_area + XSAVE_HEADER, 0, 64);
	cpu->fpu_area[XSAVE_HEADER] = (uint8_t)cpu->xcr0;
}

/* Runs one native instruction with the stashed state loaded, and takes the state back afterwards. */
#define NATIVELY(cpu, text, operand)                                                                                 \
	do {                                                                                                         \
		uint32_t clean = MXCSR_RESET;                                                                        \
		__asm__ volatile("fxrstor64 %0\n\t" text "\n\tfxsave64 %0\n\tfninit\n\tldmxcsr %2"                  \
				 : "+m"((cpu)->fpu_area), "+m"(operand)                                              \
				 : "m"(clean)                                                                        \
				 : "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8", "xmm9",  \
				   "xmm10", "xmm11", "xmm12", "xmm13", "xmm14", "xmm15", "memory");                  \
		memset((cpu)->fpu_area + FPU_FOP, 0, FPU_MXCSR - FPU_FOP);                                           \
	} while (0)

typedef uint8_t buffer[112];

/* Instruction and operand addresses of a 28- or 14-byte environment. */
static void forget_addresses(uint8_t *environment, unsigned size)
{
	if (size == 14) {
		memset(environment + 6, 0, 8);
	} else {
		memset(environment + 12, 0, 12);
		memset(environment + 24, 0, 2);
	}
}

/* ---- x87 formats ---- */

static void fnsave_and_fnstenv_agree_with_the_host(void **state)
{
	struct cpu *cpu = *state, *native;

	native = aligned_alloc(64, (sizeof(*native) + 63) / 64 * 64);
	for (unsigned i = 0; i < 2000; i++) {
		buffer theirs = {0};

		random_state(cpu);
		memcpy(native, cpu, sizeof(*cpu));
		at.operand_size = i & 1 ? 4 : 2;
		unsigned size = i & 1 ? 28 : 14;

		if (i & 2) {
			op_fnstenv(cpu, &at);
			if (i & 1)
				NATIVELY(native, "fnstenv %1", theirs);
			else
				NATIVELY(native, "data16 fnstenv %1", theirs);
			forget_addresses(theirs, size);
			assert_memory_equal(image(), theirs, size);
		} else {
			op_fnsave(cpu, &at);
			if (i & 1)
				NATIVELY(native, "fnsave %1", theirs);
			else
				NATIVELY(native, "data16 fnsave %1", theirs);
			forget_addresses(theirs, size);
			assert_memory_equal(image(), theirs, size + 80);
		}
		assert_memory_equal(cpu->fpu_area, native->fpu_area, FPU_MXCSR);
		assert_memory_equal(cpu->fpu_area + FPU_ST0, native->fpu_area + FPU_ST0, 128);
	}
	free(native);
}

static void frstor_and_fldenv_agree_with_the_host(void **state)
{
	struct cpu *cpu = *state, *native;

	native = aligned_alloc(64, (sizeof(*native) + 63) / 64 * 64);
	for (unsigned i = 0; i < 2000; i++) {
		buffer theirs;

		random_state(cpu);
		memcpy(native, cpu, sizeof(*cpu));
		for (unsigned j = 0; j < sizeof(theirs); j++)
			theirs[j] = (uint8_t)rand();
		memcpy(image(), theirs, sizeof(theirs));
		at.operand_size = i & 1 ? 4 : 2;
		if (i & 2) {
			op_fldenv(cpu, &at);
			if (i & 1)
				NATIVELY(native, "fldenv %1", theirs);
			else
				NATIVELY(native, "data16 fldenv %1", theirs);
		} else {
			op_frstor(cpu, &at);
			if (i & 1)
				NATIVELY(native, "frstor %1", theirs);
			else
				NATIVELY(native, "data16 frstor %1", theirs);
		}
		assert_memory_equal(cpu->fpu_area, native->fpu_area, FPU_MXCSR);
		assert_memory_equal(cpu->fpu_area + FPU_ST0, native->fpu_area + FPU_ST0, 128);
	}
	free(native);
}

/* ---- round trips and formats ---- */

static void every_pair_gives_the_state_back(void **state)
{
	struct cpu *cpu = *state;
	static op_function *const pairs[][2] = {{op_xsave, op_xrstor},   {op_xsaveopt, op_xrstor},
						{op_xsavec, op_xrstor},  {op_xsaves, op_xrstors},
						{op_fxsave, op_fxrstor}};
	uint8_t saved[FPU_AREA_SIZE];

	for (unsigned i = 0; i < 5; i++) {
		bool legacy = i == 4;

		random_state(cpu);
		memcpy(saved, cpu->fpu_area, sizeof(saved));
		memset(image(), 0, 832);
		pairs[i][0](cpu, &at);
		random_state(cpu);
		pairs[i][1](cpu, &at);
		assert_memory_equal(cpu->fpu_area, saved, FPU_MXCSR_MASK);
		assert_memory_equal(cpu->fpu_area + FPU_ST0, saved + FPU_ST0, FPU_LEGACY_END - FPU_ST0);
		if (!legacy)
			assert_memory_equal(cpu->fpu_area + XSAVE_YMM, saved + XSAVE_YMM, 256);
	}
}

static void the_initial_state_is_not_in_use(void **state)
{
	struct cpu *cpu = *state;
	const uint16_t control = FCW_RESET;
	const uint32_t mxcsr = MXCSR_RESET;

	memset(cpu->fpu_area, 0, sizeof(cpu->fpu_area));
	memcpy(cpu->fpu_area, &control, 2);
	memcpy(cpu->fpu_area + FPU_MXCSR, &mxcsr, 4);
	set_word(XSAVE_HEADER, 0xf0);
	op_xsave(cpu, &at);
	assert_int_equal(word(XSAVE_HEADER), 0xf0); /* bits outside the mask stay */
	assert_int_equal(image()[FPU_XMM0], 0);     /* but the data is written */
	memset(image(), 0xa5, 832);
	op_xsavec(cpu, &at);
	assert_int_equal(word(XSAVE_HEADER), 0);
	assert_true(word(XSAVE_HEADER + 8) == (cpu->xcr0 | 1ull << 63));
	assert_int_equal(image()[FPU_XMM0], 0xa5);
	cpu->gpr[REG_RCX] = 1;
	op_xgetbv(cpu, &at);
	assert_int_equal(cpu->gpr[REG_RAX], 0);
}

static void no_address_of_the_host_leaks(void **state)
{
	struct cpu *cpu = *state;
	double one = 1;

	cpu->fpu_stashed = false;
	__asm__ volatile("fldl %0\n\tfstpl %0" : "+m"(one)); /* leaves instruction and operand addresses behind */
	op_xsave(cpu, &at);
	assert_int_equal(word(FPU_FIP), 0);
	assert_int_equal(word(FPU_FDP), 0);
	assert_int_equal(word(0) >> 48, 0); /* FOP */
}

static void only_eight_registers_outside_64_bit_mode(void **state)
{
	struct cpu *cpu = *state;

	random_state(cpu);
	cpu->mode = MODE_CODE32;
	op_fxsave(cpu, &at);
	assert_memory_equal(image() + FPU_XMM0, cpu->fpu_area + FPU_XMM0, 128);
	for (unsigned i = FPU_XMM0 + 128; i < 512; i++)
		assert_int_equal(image()[i], 0xa5);
}

static void bad_headers_fault(void **state)
{
	struct cpu *cpu = *state;
	static const struct {
		unsigned offset;
		uint64_t value;
		bool compact;
	} rows[] = {{0, 8, false},  {8, 1, false}, {16, 1, false}, {0, 8, true},
		    {16, 1, true}, {56, 1, true}, {8, 1ull << 63 | 1, true}};

	random_state(cpu);
	for (unsigned i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		memset(image(), 0, 832);
		set_word(XSAVE_HEADER, 3);
		if (rows[i].compact)
			set_word(XSAVE_HEADER + 8, 1ull << 63 | 3);
		assert_int_equal(vector_of(op_xrstor, cpu, &at), 0);
		set_word(XSAVE_HEADER + rows[i].offset, rows[i].value);
		assert_int_equal(vector_of(op_xrstor, cpu, &at), VECTOR_GP);
	}
	memset(image(), 0, 832);
	assert_int_equal(vector_of(op_xrstors, cpu, &at), VECTOR_GP); /* only the compacted form */
	set_word(XSAVE_HEADER + 56, 1);
	assert_int_equal(vector_of(op_xrstor, cpu, &at), 0); /* the standard form does not look there */
}

static void reserved_mxcsr_bits_fault(void **state)
{
	struct cpu *cpu = *state;

	random_state(cpu);
	memset(image(), 0, 832);
	set_word(FPU_MXCSR, 0x10000);
	assert_int_equal(vector_of(op_fxrstor, cpu, &at), VECTOR_GP);
	assert_int_equal(vector_of(op_xrstor, cpu, &at), VECTOR_GP); /* although SSE is not in XSTATE_BV */
	cpu->gpr[REG_RAX] = 1;
	assert_int_equal(vector_of(op_xrstor, cpu, &at), 0);
}

static void preconditions_fault_in_order(void **state)
{
	struct cpu *cpu = *state;

	random_state(cpu);
	memset(image(), 0, 832);
	at.displacement += 16;
	assert_int_equal(vector_of(op_xsave, cpu, &at), VECTOR_GP);
	assert_int_equal(vector_of(op_fxsave, cpu, &at), 0);
	at.displacement += 4;
	assert_int_equal(vector_of(op_fxsave, cpu, &at), VECTOR_GP);
	cpu->cr0 = CR0_TS;
	assert_int_equal(vector_of(op_xsave, cpu, &at), VECTOR_NM);
	assert_int_equal(vector_of(op_fxsave, cpu, &at), VECTOR_NM);
	assert_int_equal(vector_of(op_fnsave, cpu, &at), VECTOR_NM);
	cpu->cr4 = 0;
	assert_int_equal(vector_of(op_xsave, cpu, &at), VECTOR_UD);
	assert_int_equal(vector_of(op_xgetbv, cpu, &at), VECTOR_UD);
	cpu->cr4 = CR4_OSXSAVE;
	cpu->cr0 = 0;
	cpu->cpl = 3;
	assert_int_equal(vector_of(op_xsaves, cpu, &at), VECTOR_GP);
	assert_int_equal(vector_of(op_xsetbv, cpu, &at), VECTOR_GP);
}

static void xcr0_takes_only_what_is_announced(void **state)
{
	struct cpu *cpu = *state;
	static const uint64_t bad[] = {0, 2, 5, 8 | 3, 1ull << 32 | 3};

	for (unsigned i = 0; i < 5; i++) {
		cpu->gpr[REG_RAX] = (uint32_t)bad[i];
		cpu->gpr[REG_RDX] = bad[i] >> 32;
		assert_int_equal(vector_of(op_xsetbv, cpu, &at), VECTOR_GP);
	}
	cpu->gpr[REG_RAX] = 3;
	cpu->gpr[REG_RDX] = 0;
	assert_int_equal(vector_of(op_xsetbv, cpu, &at), 0);
	assert_int_equal(cpu->xcr0, 3);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(fnsave_and_fnstenv_agree_with_the_host),
		TEST(frstor_and_fldenv_agree_with_the_host),
		TEST(every_pair_gives_the_state_back),
		TEST(the_initial_state_is_not_in_use),
		TEST(no_address_of_the_host_leaks),
		TEST(only_eight_registers_outside_64_bit_mode),
		TEST(bad_headers_fault),
		TEST(reserved_mxcsr_bits_fault),
		TEST(preconditions_fault_in_order),
		TEST(xcr0_takes_only_what_is_announced),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

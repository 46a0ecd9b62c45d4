/*
 * Memory access by C code, string and stack instructions, compare-exchange.
 *
 * gcc -std=gnu17 -O1 -g -Wall -Wextra -Wno-unused-parameter -D_GNU_SOURCE -fno-strict-aliasing -Isrc -include
 * engine/soft/cpu/hot.h tests/unit/test_memory.c
 * src/engine/soft/cpu/{paging,tlb,tlb_regions,memory,operand,string,stack,integer,hot_string}.c
 * src/util/error.c -lcmocka -o /tmp/test_memory && /tmp/test_memory
 */
#include "memory_fixture.h"

/* ---- memory access ---- */

static void accesses_that_cross_a_page_are_whole_or_not_at_all(void **state)
{
	long_mode();
	map_page(1, 0x5000 | P | W);
	map_page(2, 0x9000 | P | W);
	mem_write_linear(cpu, GLA(0x1ffd), 8, 0x1122334455667788, TLB_SUPER);
	assert_int_equal(ram[0x5ffd], 0x88);
	assert_int_equal(ram[0x9004], 0x11);
	assert_int_equal(mem_read_linear(cpu, GLA(0x1ffd), 8, TLB_SUPER), 0x1122334455667788);
	map_page(2, 0x9000 | P);
	tlb_flush_page(cpu, GLA(0x2000));
	assert_page_fault(mem_write_linear(cpu, GLA(0x1ffd), 8, 0, TLB_SUPER), 3, 0x2000);
	assert_int_equal(ram[0x5ffd], 0x88);
	map_page(2, MMIO | P | W);
	tlb_flush_page(cpu, GLA(0x2000));
	mem_write_linear(cpu, GLA(0x1ffe), 4, 0xaabbccdd, TLB_SUPER);
	assert_int_equal(ram[0x5fff], 0xcc);
	assert_int_equal(mmio.writes, 1);
	assert_int_equal(mmio.size, 2);
	assert_int_equal(mmio.value, 0xaabb);
	/* ROM drops writes. */
	map_page(3, ROM_BASE | P | W);
	mem_write_linear(cpu, GLA(0x3000), 4, 0xffffffff, TLB_SUPER);
	assert_int_equal(mem_read_linear(cpu, GLA(0x3000), 4, TLB_SUPER), 0);
}

static void segments_are_checked(void **state)
{
	struct segment *ds = &cpu->seg[SEG_DS];

	cpu->cr0 = CR0_PE;
	cpu->mode = MODE_PROTECTED | MODE_CODE32 | TLB_SUPER << MODE_CLASS_SHIFT;
	tlb_select_context(cpu);
	*ds = (struct segment){0x1000, 0xfff, 0x93 | RIGHTS_DB, 8};
	cpu->seg[SEG_SS] = (struct segment){0x1000, 0xfff, 0x97 | RIGHTS_DB, 8}; /* expand-down */
	cpu->seg[SEG_CS] = (struct segment){0, 0xffffffff, 0x99 | RIGHTS_DB, 8}; /* execute-only */
	assert_int_equal(mem_linear(cpu, SEG_DS, 0xffc, 4, ACCESS_READ).v, 0x1ffc);
	assert_true(RAISES(mem_linear(cpu, SEG_DS, 0xffd, 4, ACCESS_READ)));
	assert_int_equal(raised.vector, VECTOR_GP);
	assert_true(RAISES(mem_linear(cpu, SEG_SS, 0xfff, 1, ACCESS_READ)));
	assert_int_equal(raised.vector, VECTOR_SS);
	assert_int_equal(mem_linear(cpu, SEG_SS, 0x1000, 4, ACCESS_WRITE).v, 0x2000);
	assert_int_equal(mem_linear(cpu, SEG_SS, 0xfffffffc, 4, ACCESS_WRITE).v, 0xffc);
	assert_true(RAISES(mem_linear(cpu, SEG_SS, 0xfffffffd, 4, ACCESS_WRITE)));
	assert_true(RAISES(mem_linear(cpu, SEG_CS, 0, 4, ACCESS_READ)));
	assert_true(RAISES(mem_linear(cpu, SEG_CS, 0, 4, ACCESS_WRITE)));
	ds->rights |= RIGHTS_UNUSABLE;
	assert_true(RAISES(mem_linear(cpu, SEG_DS, 0, 4, ACCESS_READ)));
	ds->rights = 0x91; /* read-only */
	assert_false(RAISES(mem_linear(cpu, SEG_DS, 0, 4, ACCESS_READ)));
	assert_true(RAISES(mem_linear(cpu, SEG_DS, 0, 4, ACCESS_WRITE)));
	cpu->mode = MODE_CODE64 | MODE_PROTECTED | MODE_LONG;
	assert_true(RAISES(mem_linear(cpu, SEG_SS, 0x7ffffffffffc, 8, ACCESS_READ)));
	assert_int_equal(raised.vector, VECTOR_SS);
	assert_true(RAISES(mem_linear(cpu, SEG_DS, 1ull << 63, 8, ACCESS_READ)));
	assert_int_equal(raised.vector, VECTOR_GP);
	cpu->seg[SEG_FS].base = 0x5000;
	assert_int_equal(mem_linear(cpu, SEG_FS, -8ull, 8, ACCESS_READ).v, 0x4ff8);
}

/* ---- string instructions ---- */

static struct insn string_insn(uint8_t opcode, unsigned size, unsigned prefixes)
{
	return (struct insn){.opcode = opcode | (size > 1),
	                     .operand_size = size > 1 ? size : 4,
	                     .address_size = 8,
	                     .prefixes = prefixes,
	                     .segment = SEG_DS,
	                     .length = 3};
}

static void string_setup(void)
{
	long_mode();
	for (unsigned page = 1; page < 32; page++)
		map_page(page, (0x100000 + page * 0x2000) | P | W); /* not contiguous */
}

static uint8_t *byte(uint64_t gla)
{
	return ram + 0x100000 + (gla >> PAGE_SHIFT) * 0x2000 + (gla & 0xfff);
}

/* Every size, direction and small distance against a model that goes byte by byte, across page ends. */
static void movs_overlaps_like_single_elements(void **state)
{
	string_setup();
	for (unsigned size = 1; size <= 8; size *= 2)
		for (int down = 0; down < 2; down++)
			for (int distance = -20; distance <= 20; distance++) {
				uint8_t expected[0x4000];
				uint64_t source = 0x2f80, target = source + distance, count = 300 / size;
				struct insn insn = string_insn(0xa4, size, PREFIX_REP);

				for (unsigned i = 0; i < sizeof(expected); i++)
					expected[i] = *byte(0x1000 + i) = i * 7 + (i >> 8);
				if (down) {
					source += count * size;
					target += count * size;
				}
				cpu->gpr[REG_RSI] = source;
				cpu->gpr[REG_RDI] = target;
				cpu->gpr[REG_RCX] = count;
				cpu_set_rflags(cpu, down ? FLAG_DF : 0);
				cpu->next_rip = cpu->rip + 3;
				op_movs(cpu, &insn);
				for (uint64_t k = 0; k < count; k++) {
					int64_t at = (down ? -(int64_t)k : (int64_t)k) * size - 0x1000;
					uint8_t value[8];

					for (unsigned i = 0; i < size; i++)
						value[i] = expected[source + at + i];
					for (unsigned i = 0; i < size; i++)
						expected[target + at + i] = value[i];
				}
				for (unsigned i = 0; i < sizeof(expected); i++)
					if (*byte(0x1000 + i) != expected[i])
						fail_msg("size %u down %d distance %d at %x", size, down,
						         distance, i);
				assert_int_equal(cpu->gpr[REG_RCX], 0);
				assert_int_equal(cpu->gpr[REG_RSI],
				                 source + (down ? -1 : 1) * (int64_t)(count * size));
				assert_int_equal(cpu->next_rip, cpu->rip + 3);
			}
	cpu_set_rflags(cpu, 2);
}

static void a_fault_leaves_what_was_done_before_it(void **state)
{
	struct insn insn;

	string_setup();
	map_page(6, 0);
	for (unsigned down = 0; down < 2; down++) {
		insn = string_insn(0xa4, 4, PREFIX_REP);
		cpu->gpr[REG_RSI] = down ? 0x8002 : 0x3002;
		cpu->gpr[REG_RDI] = down ? 0x7008 : 0x5ff0;
		cpu->gpr[REG_RCX] = 100;
		cpu_set_rflags(cpu, down ? FLAG_DF : 0);
		if (down) {
			/* 7008, 7004, 7000 are done; 6ffc faults. */
			assert_page_fault(op_movs(cpu, &insn), 2, 0x6ffc);
			assert_int_equal(cpu->gpr[REG_RCX], 97);
			assert_int_equal(cpu->gpr[REG_RDI], 0x6ffc);
			assert_int_equal(cpu->gpr[REG_RSI], 0x8002 - 12);
		} else {
			assert_page_fault(op_movs(cpu, &insn), 2, 0x6000);
			assert_int_equal(cpu->gpr[REG_RCX], 96);
			assert_int_equal(cpu->gpr[REG_RDI], 0x6000);
			assert_int_equal(cpu->gpr[REG_RSI], 0x3012);
		}
	}
	cpu_set_rflags(cpu, 2);
	/* An element across the boundary is not begun. */
	insn = string_insn(0xaa, 8, PREFIX_REP);
	cpu->gpr[REG_RAX] = ~0ull;
	cpu->gpr[REG_RDI] = 0x5ff4;
	cpu->gpr[REG_RCX] = 10;
	*byte(0x5ffc) = 7;
	assert_page_fault(op_stos(cpu, &insn), 2, 0x6000);
	assert_int_equal(cpu->gpr[REG_RCX], 9);
	assert_int_equal(cpu->gpr[REG_RDI], 0x5ffc);
	assert_int_equal(*byte(0x5ffb), 0xff);
	assert_int_equal(*byte(0x5ffc), 7);
	/* The read's fault comes before the write's. */
	insn = string_insn(0xa4, 1, 0);
	cpu->gpr[REG_RSI] = 0x6010;
	cpu->gpr[REG_RDI] = 0x6020;
	assert_page_fault(op_movs(cpu, &insn), 0, 0x6010);
}

static void long_repetitions_let_interrupts_in(void **state)
{
	struct insn insn = string_insn(0xaa, 1, PREFIX_REP);

	string_setup();
	for (unsigned page = 1; page < 512; page++)
		map_page(page, 0x200000 | P | W);
	cpu->gpr[REG_RDI] = 0x1000;
	cpu->gpr[REG_RCX] = 300000;
	cpu->kick = 1;
	op_stos(cpu, &insn);
	assert_int_equal(cpu->next_rip, cpu->rip);
	assert_int_equal(cpu->gpr[REG_RDI] - 0x1000 + cpu->gpr[REG_RCX], 300000);
	assert_in_range(cpu->gpr[REG_RCX], 100000, 300000 - 65536);
	cpu->kick = 0;
	cpu->next_rip = cpu->rip + 2;
	op_stos(cpu, &insn);
	assert_int_equal(cpu->next_rip, cpu->rip + 2);
	assert_int_equal(cpu->gpr[REG_RCX], 0);
	/* Single-step: one iteration. */
	cpu->mode |= MODE_STEP;
	cpu->gpr[REG_RCX] = 5;
	cpu->gpr[REG_RDI] = 0x1000;
	op_stos(cpu, &insn);
	assert_int_equal(cpu->gpr[REG_RCX], 4);
	assert_int_equal(cpu->next_rip, cpu->rip);
}

static uint64_t host_compare(unsigned size, uint64_t a, uint64_t b)
{
	uint64_t flags;

	switch (size) {
	case 1:
		__asm__("cmpb %b2, %b1; pushfq; popq %0" : "=r"(flags) : "q"(a), "q"(b) : "cc");
		break;
	case 2:
		__asm__("cmpw %w2, %w1; pushfq; popq %0" : "=r"(flags) : "r"(a), "r"(b) : "cc");
		break;
	case 4:
		__asm__("cmpl %k2, %k1; pushfq; popq %0" : "=r"(flags) : "r"(a), "r"(b) : "cc");
		break;
	default:
		__asm__("cmpq %2, %1; pushfq; popq %0" : "=r"(flags) : "r"(a), "r"(b) : "cc");
		break;
	}
	return flags & FLAGS_ARITHMETIC;
}

static void scas_and_cmps_compare_like_the_host(void **state)
{
	static const uint64_t sample[] = {
	    0,          1,      0xf,    0x10,       0x7f,       0x80,       0xff,
	    0x7fff,     0x8000, 0xffff, 0x7fffffff, 0x80000000, 0xffffffff, 0x7fffffffffffffff,
	    1ull << 63, ~0ull};
	struct insn insn;

	string_setup();
	for (unsigned size = 1; size <= 8; size *= 2)
		for (unsigned i = 0; i < 16; i++)
			for (unsigned k = 0; k < 16; k++) {
				memcpy(byte(0x1000), &sample[i], 8);
				memcpy(byte(0x2000), &sample[k], 8);
				cpu->gpr[REG_RSI] = 0x1000;
				cpu->gpr[REG_RDI] = 0x2000;
				insn = string_insn(0xa6, size, 0);
				op_cmps(cpu, &insn);
				assert_int_equal(cpu_rflags(cpu) & FLAGS_ARITHMETIC,
				                 host_compare(size, sample[i], sample[k]));
				assert_int_equal(cpu->gpr[REG_RDI], 0x2000 + size);
				cpu->gpr[REG_RAX] = sample[k];
				cpu->gpr[REG_RDI] = 0x1000;
				insn = string_insn(0xae, size, 0);
				op_scas(cpu, &insn);
				assert_int_equal(cpu_rflags(cpu) & FLAGS_ARITHMETIC,
				                 host_compare(size, sample[k], sample[i]));
			}

	/* strlen across pages: REPNE SCASB. */
	for (unsigned i = 0; i < 0x3000; i++)
		*byte(0x1000 + i) = 'x';
	*byte(0x3456) = 0;
	insn = string_insn(0xae, 1, PREFIX_REPNE);
	cpu->gpr[REG_RAX] = 0;
	cpu->gpr[REG_RDI] = 0x1001;
	cpu->gpr[REG_RCX] = ~0ull;
	op_scas(cpu, &insn);
	assert_int_equal(cpu->gpr[REG_RDI], 0x3457);
	assert_int_equal(cpu->gpr[REG_RCX], ~0ull - (0x3457 - 0x1001));
	assert_true(cpu_rflags(cpu) & FLAG_ZF);
	/* REPE CMPSB finds the difference. */
	insn = string_insn(0xa6, 1, PREFIX_REP);
	cpu->gpr[REG_RSI] = 0x1000;
	cpu->gpr[REG_RDI] = 0x2100;
	cpu->gpr[REG_RCX] = 0x2000;
	op_cmps(cpu, &insn);
	assert_int_equal(cpu->gpr[REG_RDI], 0x3457);
	assert_false(cpu_rflags(cpu) & FLAG_ZF);
	/* Nothing to do: flags stay. */
	cpu->gpr[REG_RCX] = 0;
	cpu_set_rflags(cpu, FLAG_CF | 2);
	op_cmps(cpu, &insn);
	assert_int_equal(cpu_rflags(cpu), FLAG_CF | 2);
}

static void sixteen_bit_indexes_wrap(void **state)
{
	struct insn insn = string_insn(0xa4, 1, PREFIX_REP);

	insn.address_size = 2;
	cpu->mode = TLB_SUPER << MODE_CLASS_SHIFT; /* real mode */
	tlb_select_context(cpu);
	for (unsigned seg = 0; seg < 6; seg++)
		cpu->seg[seg] = (struct segment){0x20000, 0xffff, 0x93, 0x2000};
	cpu->seg[SEG_ES].base = 0x40000;
	for (unsigned i = 0; i < 0x10000; i++)
		ram[0x20000 + i] = i ^ i >> 8;
	cpu->gpr[REG_RSI] = 0xabcd0000 | 0xfff0;
	cpu->gpr[REG_RDI] = 0x12340000 | 0x8000;
	cpu->gpr[REG_RCX] = 0x50020;
	op_movs(cpu, &insn);
	assert_int_equal(cpu->gpr[REG_RSI], 0xabcd0010);
	assert_int_equal(cpu->gpr[REG_RDI], 0x12348020);
	assert_int_equal(cpu->gpr[REG_RCX], 0x50000);
	for (unsigned i = 0; i < 0x20; i++) {
		uint16_t from = 0xfff0 + i;

		assert_int_equal(ram[0x48000 + i], ram[0x20000 + from]);
	}
	/* A word at FFFFH is beyond the limit. */
	insn = string_insn(0xaa, 2, 0);
	insn.address_size = 2;
	cpu->gpr[REG_RDI] = 0xffff;
	assert_true(RAISES(op_stos(cpu, &insn)));
	assert_int_equal(raised.vector, VECTOR_GP);
}

/* ---- stack and compare-exchange ---- */

static void stack_forms(void **state)
{
	struct insn insn = {.operand_size = 4,
	                    .address_size = 8,
	                    .base = REG_RSP,
	                    .index = INSN_NO_REG,
	                    .is_memory = true,
	                    .segment = SEG_SS,
	                    .displacement = 8};

	string_setup();
	cpu->gpr[REG_RSP] = 0x3000;
	stack_push(cpu, 8, 0x1111222233334444);
	assert_int_equal(cpu->gpr[REG_RSP], 0x2ff8);
	/* POP [rSP+8] addresses by the incremented pointer. */
	op_pop_rm(cpu, &insn);
	assert_int_equal(cpu->gpr[REG_RSP], 0x3000);
	assert_int_equal(mem_read_linear(cpu, GLA(0x3008), 8, TLB_SUPER), 0x1111222233334444);
	/* … and leaves it alone where the write faults. */
	insn.displacement = 0x40000;
	cpu->gpr[REG_RSP] = 0x2ff8;
	assert_page_fault(op_pop_rm(cpu, &insn), 2, 0x43000);
	assert_int_equal(cpu->gpr[REG_RSP], 0x2ff8);
	/* A 16-bit stack wraps. */
	cpu->mode = TLB_SUPER << MODE_CLASS_SHIFT;
	cpu->cr0 = 0;
	cpu->efer = 0;
	tlb_flush_all(cpu);
	cpu->seg[SEG_SS] = (struct segment){0x10000, 0xffff, 0x93, 0x1000};
	cpu->gpr[REG_RSP] = 0x77770000;
	stack_push(cpu, 2, 0xbeef);
	assert_int_equal(cpu->gpr[REG_RSP], 0x7777fffe);
	assert_int_equal(ram[0x1ffff], 0xbe);
	/* POPF at CPL 0 of real mode: IF comes, the vCPU looks up. */
	stack_push(cpu, 2, FLAG_IF | FLAG_CF | 2);
	insn.operand_size = 2;
	op_popf(cpu, &insn);
	assert_int_equal(cpu_rflags(cpu), FLAG_IF | FLAG_CF | 2);
	assert_int_equal(cpu->kick, 1);
	/* Virtual-8086 with VME below IOPL 3: IF is VIF. */
	cpu->mode |= MODE_V86;
	cpu->cr4 = CR4_VME;
	cpu_set_rflags(cpu, FLAG_VM | FLAG_VIF | 2);
	op_pushf(cpu, &insn);
	assert_int_equal(stack_pop(cpu, 2), FLAG_IOPL | FLAG_IF | 2);
	stack_push(cpu, 2, 2);
	op_popf(cpu, &insn);
	assert_int_equal(cpu_rflags(cpu), FLAG_VM | 2);
	cpu->cr4 = 0;
	assert_true(RAISES(op_pushf(cpu, &insn)));
	assert_int_equal(raised.vector, VECTOR_GP);
}

static void wide_compare_exchange(void **state)
{
	struct insn insn = {.operand_size = 8,
	                    .address_size = 8,
	                    .base = INSN_NO_REG,
	                    .index = INSN_NO_REG,
	                    .is_memory = true,
	                    .segment = SEG_DS,
	                    .displacement = 0x1ff8};

	string_setup();
	assert_true(RAISES(op_cmpxchg8b(cpu, &insn)));
	assert_int_equal(raised.vector, VECTOR_GP);
	insn.displacement = 0x1ff0;
	memset(byte(0x1ff0), 0x5a, 16);
	cpu->gpr[REG_RAX] = cpu->gpr[REG_RDX] = 0;
	op_cmpxchg8b(cpu, &insn);
	assert_false(cpu_rflags(cpu) & FLAG_ZF);
	assert_int_equal(cpu->gpr[REG_RDX], 0x5a5a5a5a5a5a5a5a);
	cpu->gpr[REG_RBX] = 1;
	cpu->gpr[REG_RCX] = 2;
	op_cmpxchg8b(cpu, &insn);
	assert_true(cpu_rflags(cpu) & FLAG_ZF);
	assert_int_equal(*byte(0x1ff8), 2);
	/* Eight bytes across two pages. */
	insn.operand_size = 4;
	insn.displacement = 0x1ffc;
	memset(byte(0x1ffc), 0x11, 4);
	memset(byte(0x2000), 0x22, 4);
	cpu->gpr[REG_RAX] = 0x11111111;
	cpu->gpr[REG_RDX] = 0x22222222;
	cpu->gpr[REG_RBX] = 0x33333333;
	cpu->gpr[REG_RCX] = 0x44444444;
	op_cmpxchg8b(cpu, &insn);
	assert_true(cpu_rflags(cpu) & FLAG_ZF);
	assert_int_equal(*byte(0x1fff), 0x33);
	assert_int_equal(*byte(0x2003), 0x44);
}

/* ---- the integer-only string functions ---- */

void *hot_memcpy(void *to, const void *from, size_t size);
void *hot_memmove(void *to, const void *from, size_t size);
void *hot_memset(void *to, int value, size_t size);
int hot_memcmp(const void *a, const void *b, size_t size);

static void memory_functions_of_hot_code(void **state)
{
	uint8_t a[600], b[600];

	for (unsigned size = 0; size < 300; size++)
		for (int distance = -80; distance <= 80; distance += 5) {
			for (unsigned i = 0; i < 600; i++)
				a[i] = b[i] = i * 13 + size;
			hot_memmove(a + 200 + distance, a + 200, size);
			if (distance <= 0)
				for (unsigned i = 0; i < size; i++)
					b[200 + distance + i] = b[200 + i];
			else
				for (unsigned i = size; i--;)
					b[200 + distance + i] = b[200 + i];
			assert_int_equal(hot_memcmp(a, b, 600), 0);
		}
	hot_memset(a, 0xab, 333);
	assert_int_equal(a[332], 0xab);
	assert_int_equal(a[333], b[333]);
	b[10] = a[10] + 1;
	hot_memcpy(b, a, 10);
	assert_true(hot_memcmp(a, b, 600) < 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    TEST(accesses_that_cross_a_page_are_whole_or_not_at_all),
	    TEST(segments_are_checked),
	    TEST(movs_overlaps_like_single_elements),
	    TEST(a_fault_leaves_what_was_done_before_it),
	    TEST(long_repetitions_let_interrupts_in),
	    TEST(scas_and_cmps_compare_like_the_host),
	    TEST(sixteen_bit_indexes_wrap),
	    TEST(stack_forms),
	    TEST(wide_compare_exchange),
	    TEST(memory_functions_of_hot_code),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

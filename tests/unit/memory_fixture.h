/*
 * A CPU with 64 MiB of RAM, and stubs for everything outside the memory side: they record or, where the real
 * one does not return, jump back. Included once, by a test that is its own program.
 */
#ifndef NESTOR_TESTS_MEMORY_FIXTURE_H
#define NESTOR_TESTS_MEMORY_FIXTURE_H

#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include <cmocka.h>

#include "engine/soft/cpu/apic.h"
#include "engine/soft/cpu/cpu.h"
#include "engine/soft/cpu/memory.h"
#include "engine/soft/cpu/ops.h"

#define RAM_SIZE (64u << 20)
#define ROM_BASE 0xfffc0000u
#define ROM_SIZE 0x40000u
#define MMIO     0xe0000000u

#define P  1ull
#define W  2ull
#define U  4ull
#define A  0x20ull
#define D  0x40ull
#define PS 0x80ull
#define G  0x100ull
#define NX (1ull << 63)

/* ---- stubs ---- */

static struct {
	jmp_buf jump;
	int vector; /* -1: a VM exit */
	uint32_t error;
	uint64_t address;
} raised;

static struct {
	uint64_t page, map; /* one page that holds code */
	unsigned written;   /* calls of bt_code_written */
	uint64_t gpa, old;  /* of the last: address, and what was there then */
} code;

static struct {
	unsigned reads, writes, size;
	uint64_t gpa, value;
} mmio;

static struct cpu *cpu;
static uint8_t *ram, *rom;
static struct guest_memory memory;
static struct cpu_model model;
static unsigned mode_updates;

_Noreturn void cpu_raise(struct cpu *c, enum vector vector)
{
	raised.vector = vector;
	raised.error = 0;
	longjmp(raised.jump, 1);
}

_Noreturn void cpu_raise_error(struct cpu *c, enum vector vector, uint32_t error)
{
	raised.vector = vector;
	raised.error = error;
	longjmp(raised.jump, 1);
}

_Noreturn void cpu_raise_page_fault(struct cpu *c, gla_t address, uint32_t error)
{
	raised.address = address.v;
	cpu_raise_error(c, VECTOR_PF, error);
}

void cpu_update_mode(struct cpu *c)
{
	mode_updates++;
}

uint64_t bt_code_map(struct cpu *c, gpa_t gpa)
{
	return gpa.v >> PAGE_SHIFT == code.page >> PAGE_SHIFT ? code.map : 0;
}

uint64_t bt_code_map_for_writing(struct cpu *c, gpa_t gpa)
{
	return bt_code_map(c, gpa);
}

void bt_code_written(struct cpu *c, gpa_t gpa, unsigned size)
{
	code.written++;
	code.gpa = gpa.v;
	code.old = ram[gpa.v];
	code.map = 0;
}

bool apic_owns(const struct cpu *c, gpa_t gpa)
{
	return false;
}

uint64_t apic_mmio_read(struct cpu *c, gpa_t gpa, unsigned size)
{
	return 0;
}

void apic_mmio_write(struct cpu *c, gpa_t gpa, unsigned size, uint64_t value)
{
}

uint64_t cpu_host_mmio_read(struct cpu *c, gpa_t gpa, unsigned size)
{
	mmio.reads++;
	mmio.size = size;
	mmio.gpa = gpa.v;
	return 0x1122334455667788ull;
}

void cpu_host_mmio_write(struct cpu *c, gpa_t gpa, unsigned size, uint64_t value)
{
	mmio.writes++;
	mmio.size = size;
	mmio.gpa = gpa.v;
	mmio.value = value;
}

/* True where the statement raises. */
#define RAISES(statement)                                                                                    \
	({                                                                                                   \
		volatile bool raises_ = true;                                                                \
		raised.vector = -2;                                                                          \
		if (!setjmp(raised.jump)) {                                                                  \
			statement;                                                                           \
			raises_ = false;                                                                     \
		}                                                                                            \
		raises_;                                                                                     \
	})

#define assert_page_fault(statement, code_, address_)                                                        \
	do {                                                                                                 \
		assert_true(RAISES(statement));                                                              \
		assert_int_equal(raised.vector, VECTOR_PF);                                                  \
		assert_int_equal(raised.error, code_);                                                       \
		assert_int_equal(raised.address, address_);                                                  \
	} while (0)

/* ---- the machine ---- */

static inline uint64_t get64(uint64_t gpa)
{
	uint64_t value;

	memcpy(&value, ram + gpa, 8);
	return value;
}

static inline void put64(uint64_t gpa, uint64_t value)
{
	memcpy(ram + gpa, &value, 8);
}

static inline void put32(uint64_t gpa, uint32_t value)
{
	memcpy(ram + gpa, &value, 4);
}

static inline uint32_t get32(uint64_t gpa)
{
	uint32_t value;

	memcpy(&value, ram + gpa, 4);
	return value;
}

static inline int setup(void **state)
{
	cpu = tlb_cpu_create(0);
	assert_non_null(cpu);
	ram = mmap(NULL, RAM_SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	rom = mmap(NULL, ROM_SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	memory.slot_count = 3;
	/* 32 MiB at 0, the rest at 4 GiB. */
	memory.slot[0] = (struct guest_memory_slot){0, RAM_SIZE / 2, ram, false};
	memory.slot[1] = (struct guest_memory_slot){ROM_BASE, ROM_SIZE, rom, true};
	memory.slot[2] = (struct guest_memory_slot){1ull << 32, RAM_SIZE / 2, ram + RAM_SIZE / 2, false};
	model.physical_address_bits = 40;
	cpu->memory = &memory;
	cpu->model = &model;
	cpu->rip = 0x1000;
	cpu->next_rip = 0x1003;
	cpu_set_rflags(cpu, 2);
	code.map = code.page = 0;
	code.written = 0;
	mmio.reads = mmio.writes = 0;
	return 0;
}

static inline int teardown(void **state)
{
	tlb_cpu_destroy(cpu);
	munmap(ram, RAM_SIZE);
	munmap(rom, ROM_SIZE);
	return 0;
}

#define PML4 0x1000u
#define PDPT 0x2000u
#define PD   0x3000u
#define PT   0x4000u

/* 4-level paging, supervisor: linear 0-2M through PT (empty), 2M-4M a large page, 1G-2G a 1 GiB page. */
static inline void long_mode(void)
{
	cpu->cr0 = CR0_PE | CR0_PG | CR0_WP;
	cpu->cr4 = CR4_PAE | CR4_PGE;
	cpu->efer = EFER_LME | EFER_LMA | EFER_NXE;
	cpu->cr3 = PML4;
	cpu->mode = MODE_CODE64 | MODE_LONG | MODE_PROTECTED | MODE_FLAT | MODE_PAGING | MODE_STACK32 |
	            TLB_SUPER << MODE_CLASS_SHIFT;
	cpu->cpl = 0;
	put64(PML4, PDPT | P | W | U);
	put64(PDPT, PD | P | W | U);
	put64(PDPT + 8, P | W | U | PS);
	put64(PD, PT | P | W | U);
	put64(PD + 8, 0x200000 | P | W | U | PS);
	tlb_flush_all(cpu);
	tlb_select_context(cpu);
}

static inline void map_page(unsigned page, uint64_t entry)
{
	put64(PT + 8 * page, entry);
}

static inline uint8_t *at(uint64_t gla, enum mem_access access, enum tlb_class class)
{
	gpa_t gpa;

	return tlb_access(cpu, GLA(gla), 1, access, class, &gpa);
}

/* What the inline lookup of translated code would find. */
static inline bool cached(uint64_t gla, enum mem_access access, enum tlb_class class)
{
	struct tlb_tables *tables = &cpu->region->tables;

	return tlb_look_up(access == ACCESS_WRITE ? &tables->write[class] : &tables->read[class], gla, 1);
}

#define READ(gla)  at(gla, ACCESS_READ, TLB_SUPER)
#define WRITE(gla) at(gla, ACCESS_WRITE, TLB_SUPER)

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

#endif

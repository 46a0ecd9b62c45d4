#include "differential_guest.h"

#include <cpuid.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "engine/cpu_model.h"
#include "engine/engine.h"
#include "engine/soft/bt/bt.h"
#include "engine/soft/cpu/apic.h"
#include "engine/soft/cpu/time.h"
#include "flat32.h"
#include "util/error.h"

#define RAM_SIZE  (4u << 20)
#define TABLES	  0x1000u /* PML4, PDPT, PD, then one page table for code and one for data */
#define CODE_GPA  0x100000u
#define DATA_GPA  0x200000u
#define STACK_GPA 0x300000u
#define TOP_TABLES 0x8000u /* PD and page table of the last gigabyte below 4G */
#define TOP_GPA	  0x3c0000u

static struct guest_memory memory;
static struct cpu_model model;
static struct cpu *cpu;
static uint8_t *ram;
static uint64_t vector_seen;
static struct differential_setup setup;
static size_t room; /* 0: all */
static bool stale; /* what was translated is by other tuning */
static unsigned cut_every;
static uint64_t start_ticks, end_ticks;

static uint32_t no_pio_read(void *context, uint16_t port, unsigned size)
{
	return UINT32_MAX;
}

static void no_pio_write(void *context, uint16_t port, unsigned size, uint32_t value)
{
}

static uint64_t no_mmio_read(void *context, gpa_t gpa, unsigned size)
{
	return UINT64_MAX;
}

static void no_mmio_write(void *context, gpa_t gpa, unsigned size, uint64_t value)
{
}

static int no_acknowledge(void *context)
{
	return -1;
}

static void no_eoi(void *context, uint8_t vector)
{
}

static void no_timer(void *context, unsigned vcpu_index, uint64_t deadline_ns)
{
}

static uint64_t no_clock(void *context)
{
	return 0;
}

static void no_advance(void *context, uint64_t now_ns)
{
}

static uint64_t next_cut(void *context)
{
	return cut_every ? cpu_now_ns(cpu) + cut_every : UINT64_MAX;
}

static const struct engine_host host = {
	.memory = &memory, .pio_read = no_pio_read, .pio_write = no_pio_write, .mmio_read = no_mmio_read,
	.mmio_write = no_mmio_write, .interrupt_acknowledge = no_acknowledge, .eoi = no_eoi, .timer_arm = no_timer,
	.clock_ns = no_clock, .clock_advance = no_advance, .next_deadline = next_cut,
};

/* The guest has no IDT. An exception ends its run here, before it would be delivered. */
static void on_event(struct cpu *c, const struct event *event)
{
	vector_seen = event->vector;
	c->event.valid = false;
	c->virt = NULL;
	c->activity = ACTIVITY_SHUTDOWN;
	cpu_leave(c);
}

static void nothing(struct cpu *c)
{
}

static bool no_wakeup(struct cpu *c)
{
	return false;
}

static void no_instruction(struct cpu *c, enum intercept what, uint64_t info, const struct insn *insn)
{
}

static const struct virt_hooks hooks = {
	.event = on_event, .poll_high = nothing, .poll_timer = nothing, .poll_nmi_window = nothing,
	.poll_interrupt_window = nothing, .wakeup = no_wakeup, .instruction = no_instruction,
};

static void map_pages(uint64_t linear, uint64_t gpa, size_t size, unsigned table)
{
	uint64_t *pml4 = (uint64_t *)(ram + TABLES), *pdpt = (uint64_t *)(ram + TABLES + 0x1000);
	uint64_t *pd = (uint64_t *)(ram + TABLES + 0x2000), *pt = (uint64_t *)(ram + TABLES + 0x1000 * (3 + table));

	/* All in one gigabyte: 0x40000000 … 0x7fffffff */
	pml4[linear >> 39 & 511] = (TABLES + 0x1000) | 3;
	pdpt[linear >> 30 & 511] = (TABLES + 0x2000) | 3;
	pd[linear >> 21 & 511] = (TABLES + 0x1000 * (3 + table)) | 3;
	for (size_t i = 0; i < size / PAGE_SIZE; i++)
		pt[(linear >> 12 & 511) + i] = (gpa + i * PAGE_SIZE) | 3;
}

static void map_top(void)
{
	uint64_t *pdpt = (uint64_t *)(ram + TABLES + 0x1000), *pd = (uint64_t *)(ram + TOP_TABLES);
	uint64_t *pt = (uint64_t *)(ram + TOP_TABLES + 0x1000);

	pdpt[3] = TOP_TABLES | 3;
	pd[511] = (TOP_TABLES + 0x1000) | 3;
	for (size_t i = 0; i < TOP_SIZE / PAGE_SIZE; i++)
		pt[(TOP >> 12 & 511) + i] = (TOP_GPA + i * PAGE_SIZE) | 3;
}

bool differential_create(const struct differential_setup *s)
{
	static struct engine_config config;
	struct cpu_model_request request = { .cpu_count = 1 };
	struct engine_vm *vm;
	struct engine_vcpu *vcpu;

	ram = mmap(NULL, RAM_SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	memory.slot[0] = (struct guest_memory_slot){ .gpa = 0, .size = RAM_SIZE, .host = ram };
	memory.slot_count = 1;
	setup = *s;
	config = (struct engine_config){ .host = &host, .cpu_model = &model, .cpu_count = 1,
					 .code_memory = s->code_memory };
	if (s->counted) {
		config.clock = ENGINE_CLOCK_DETERMINISTIC;
		request.tsc_hz = 1000000000;
	}
	if (cpu_model_make(&model, &request) < 0 || engine_soft.vm_create(&vm, &config) < 0 ||
	    engine_soft.vcpu_create(vm, 0, &vcpu) < 0) {
		fprintf(stderr, "fuzz_translator: %s\n", error_text());
		return false;
	}
	cpu = *(struct cpu **)((uint8_t *)vcpu + sizeof(void *)); /* struct engine_vcpu: { vm, cpu, … } */
	map_pages(s->code, CODE_GPA, s->code_size, 0);
	map_pages(s->data, DATA_GPA, s->data_size, 1);
	map_pages(s->stack, STACK_GPA, s->stack_size, 1);
	if (s->code32)
		map_top();
	return bt_thread_init(cpu) == 0;
}

struct cpu *differential_cpu(void)
{
	return cpu;
}

/* INC and DEC keep CF, ADC reads it: make the translator believe otherwise. */
static void plant_defect(void)
{
	for (unsigned i = 0; i < SHAPE_SLOTS; i++) {
		struct shape *shape = &cpu->bt->shapes->slot[i];

		if (shape->key && shape->flags_read == SHAPE_CF)
			shape->flags_read = 0;
		if (shape->key && shape->flags_written == (SHAPE_ALL & ~SHAPE_CF))
			shape->flags_written = shape->flags_killed = SHAPE_ALL;
	}
}

static void set_segment(unsigned index, uint32_t rights)
{
	cpu->seg[index] = (struct segment){ .base = 0, .limit = UINT32_MAX, .rights = rights, .selector = 8 * (index + 1) };
}

const uint8_t *differential_run(const struct differential_state *in, struct differential_state *out,
				const uint8_t *code, size_t code_size, const uint8_t *data, size_t data_size)
{
	if (setup.plant)
		plant_defect();
	if (!setup.code_memory || stale)
		bt_flush(cpu->bt);
	stale = false;
	if (room && (size_t)(cpu->bt->arena_limit - cpu->bt->arena) > room)
		cpu->bt->arena = cpu->bt->arena_limit - room / RECORD_UNIT * RECORD_UNIT;
	for (uint64_t page = 0; page < setup.code_size; page += PAGE_SIZE)
		bt_code_written(cpu, GPA(CODE_GPA + page), PAGE_SIZE);
	memcpy(ram + CODE_GPA, code, code_size);
	memcpy(ram + DATA_GPA, data, data_size);
	memcpy(cpu->gpr, in->gpr, sizeof(cpu->gpr));
	cpu->rip = in->rip;
	cpu_set_rflags(cpu, in->rflags);
	memcpy(cpu->fpu_area, in->fpu, sizeof(cpu->fpu_area));
	cpu->fpu_stashed = true;
	set_segment(SEG_CS, setup.code32 ? 0xc09b : 0xa09b);
	for (unsigned i = 0; i < 6; i++)
		if (i != SEG_CS)
			set_segment(i, 0xc093);
	cpu->cr0 = CR0_PE | CR0_MP | CR0_ET | CR0_NE | CR0_WP | CR0_PG;
	cpu->cr3 = TABLES;
	cpu->cr4 = CR4_PAE | CR4_OSFXSR | CR4_OSXMMEXCPT | CR4_OSXSAVE;
	cpu->xcr0 = differential_has_avx() ? 7 : 3;
	cpu->efer = EFER_LME | EFER_LMA | EFER_NXE | EFER_SCE;
	cpu->cpl = 0;
	cpu->activity = ACTIVITY_ACTIVE;
	cpu->event.valid = cpu->delivering.valid = false;
	cpu->virt = &hooks;
	tlb_flush_all(cpu);
	tlb_select_context(cpu);
	cpu_update_mode(cpu);
	vector_seen = ~0ull;
	if (cpu->clock == ENGINE_CLOCK_DETERMINISTIC) {
		/* a new budget, by the present cut_every */
		cpu->retired -= (uint64_t)cpu->budget;
		cpu->budget = 0;
	}
	start_ticks = time_ticks(cpu);
	bt_run(cpu);
	end_ticks = time_ticks(cpu);
	memcpy(out->gpr, cpu->gpr, sizeof(out->gpr));
	out->rip = cpu->rip;
	out->rflags = cpu_rflags(cpu);
	out->vector = vector_seen;
	memcpy(out->fpu, cpu->fpu_area, sizeof(out->fpu));
	return ram + DATA_GPA;
}

void differential_cut(unsigned cut)
{
	cut_every = cut;
}

void differential_room(size_t bytes)
{
	room = bytes;
}

void differential_tune(unsigned tune_off)
{
	stale |= cpu->tune_off != tune_off;
	cpu->tune_off = tune_off;
}

uint8_t *differential_stack(void)
{
	return ram + STACK_GPA;
}

uint8_t *differential_top(void)
{
	return ram + TOP_GPA;
}

uint64_t differential_instructions(void)
{
	return end_ticks - start_ticks;
}

bool differential_has_avx(void)
{
	return model.xcr0_supported & 4;
}

void differential_fpu_init(uint8_t *fpu, uint64_t (*random)(void))
{
	memset(fpu, 0, DIFFERENTIAL_FPU_SIZE);
	*(uint16_t *)fpu = 0x37f;
	*(uint32_t *)(fpu + 24) = 0x1f80;
	for (unsigned i = 160; i < 416; i += 8)
		*(uint64_t *)(fpu + i) = random();
	*(uint64_t *)(fpu + 512) = differential_has_avx() ? 7 : 3;
	for (unsigned i = 576; i < 832; i += 8)
		*(uint64_t *)(fpu + i) = random();
}

/* 0 where XSTATE_BV says that the component is in its initial state. */
uint64_t differential_ymm_high(const uint8_t *fpu, unsigned index)
{
	return *(const uint64_t *)(fpu + 512) & 4 ? *(const uint64_t *)(fpu + 576 + 8 * index) : 0;
}

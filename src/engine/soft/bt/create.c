/* Set-up of the translator: code memory (two mappings of one file, W^X), tables, and the thread's signals. */
#include <cpuid.h>
#include <asm/prctl.h>
#include <errno.h>
#include <stdlib.h>
#include <sys/auxv.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "engine/soft/bt/bt.h"
#include "engine/soft/bt/native_signal.h"
#include "engine/soft/bt/return_stack.h"
#include "util/error.h"

#define CODE_SIZE	(48u << 20)
#define ARENA_OF(code)	((code) / 3 * 4) /* bytes of block records beside so much code */
#define BLOCKS_OF(code) ((code) / 192)


/* The parts' shares are map_code's. */
_Static_assert(ENGINE_CODE_MEMORY_MIN / 16 * 9 >= BLOCK_BUFFER + (12u << 10) &&
	       ENGINE_CODE_MEMORY_MIN / 16 * 7 >= BLOCK_BUFFER + (4u << 10), "room for the thunks and a few blocks");

#ifndef HWCAP2_FSGSBASE
#define HWCAP2_FSGSBASE (1 << 1)
#endif

/* The vCPU that runs on this thread: what a native fault belongs to. */
static _Thread_local struct cpu *running;

static void *map_anonymous(size_t size)
{
	void *p = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	return p == MAP_FAILED ? NULL : p;
}

static int map_code(struct bt *bt)
{
	int fd = memfd_create("nestor-code", MFD_CLOEXEC);
	size_t size = bt->code_size;

	if (fd < 0 || ftruncate(fd, size) < 0) {
		if (fd >= 0)
			close(fd);
		return -errno;
	}
	bt->code_rw = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	bt->code_exec = mmap(NULL, size, PROT_READ | PROT_EXEC, MAP_SHARED, fd, 0);
	close(fd);
	if (bt->code_rw == MAP_FAILED || bt->code_exec == MAP_FAILED)
		return -ENOMEM;
	/* Main lines take somewhat more than what is seldom executed. */
	bt->cold_start = bt->code_rw + size / 16 * 9;
	bt->e = (struct emitter){ .p = bt->code_rw, .end = bt->cold_start, .exec_offset = bt->code_exec - bt->code_rw };
	bt->cold = (struct emitter){ .p = bt->cold_start, .end = bt->code_rw + size, .exec_offset = bt->e.exec_offset };
	return 0;
}

static uint64_t pages_of(const struct guest_memory *memory)
{
	uint64_t end = 0;

	for (unsigned i = 0; i < memory->slot_count; i++)
		if (memory->slot[i].gpa + memory->slot[i].size > end)
			end = memory->slot[i].gpa + memory->slot[i].size;
	return end >> PAGE_SHIFT;
}

int bt_create(struct cpu *cpu, size_t code_memory)
{
	size_t code_size = code_memory ? code_memory : CODE_SIZE;
	struct bt *bt = calloc(1, sizeof(*bt));
	unsigned a, b, c, d;

	if (!bt)
		return error_set(ENOMEM, "not enough memory for the translator");
	cpu->bt = bt;
	bt->cpu = cpu;
	bt->page_count = pages_of(cpu->memory);
	bt->code_size = code_size;
	bt->arena_start = bt->arena = map_anonymous(ARENA_OF(code_size));
	bt->in_order_max = BLOCKS_OF(code_size);
	bt->in_order = map_anonymous(bt->in_order_max * sizeof(*bt->in_order));
	bt->hash = map_anonymous(BLOCK_HASH_SLOTS * sizeof(*bt->hash));
	bt->pages = map_anonymous(bt->page_count * sizeof(*bt->pages));
	bt->shapes = shape_cache_create(cpu->model);
	for (unsigned table = LINK_CONTEXT; table <= LINK_GLOBAL; table++) {
		bt->stub[table] = map_anonymous(GLOBAL_LINKS * sizeof(void *));
		bt->slot_free[table] = map_anonymous(GLOBAL_LINKS * sizeof(uint16_t));
	}
	if (!bt->arena || !bt->in_order || !bt->hash || !bt->pages || !bt->shapes ||
	    !bt->stub[LINK_CONTEXT] || !bt->slot_free[LINK_CONTEXT] || !bt->stub[LINK_GLOBAL] || !bt->slot_free[LINK_GLOBAL] || map_code(bt) < 0 ||
	    return_stack_create(cpu) < 0) {
		bt_destroy(cpu);
		return error_set(ENOMEM, "not enough memory for the translator's tables");
	}
	bt->arena_end = bt->arena + ARENA_OF(code_size);
	bt->host_bmi2 = __get_cpuid_count(7, 0, &a, &b, &c, &d) && b & bit_BMI2;
	bt->host_fsgsbase = getauxval(AT_HWCAP2) & HWCAP2_FSGSBASE;
	bt_emit_thunks(bt);
	return_stack_set_bottom(cpu, bt->return_without_call);
	return 0;
}

static void unmap(void *p, size_t size)
{
	if (p && p != MAP_FAILED)
		munmap(p, size);
}

void bt_destroy(struct cpu *cpu)
{
	struct bt *bt = cpu->bt;

	if (!bt)
		return;
	if (cpu->trace & ENGINE_TRACE_PERF)
		bt_write_perf_map(bt);
	unmap(bt->arena_start, ARENA_OF(bt->code_size));
	unmap(bt->in_order, bt->in_order_max * sizeof(*bt->in_order));
	unmap(bt->hash, BLOCK_HASH_SLOTS * sizeof(*bt->hash));
	unmap(bt->pages, bt->page_count * sizeof(*bt->pages));
	for (unsigned table = LINK_CONTEXT; table <= LINK_GLOBAL; table++) {
		unmap(bt->stub[table], GLOBAL_LINKS * sizeof(void *));
		unmap(bt->slot_free[table], GLOBAL_LINKS * sizeof(uint16_t));
	}
	unmap(bt->code_rw, bt->code_size);
	unmap(bt->code_exec, bt->code_size);
	return_stack_destroy(cpu);
	shape_cache_destroy(bt->shapes);
	free(bt);
	cpu->bt = NULL;
}

void bt_set_gs_by_system_call(void *base)
{
	syscall(SYS_arch_prctl, ARCH_SET_GS, base);
}

/* ---- native faults ---- */

static const struct native_site *site_at(const struct block *block, const uint8_t *address)
{
	for (unsigned i = 0; i < block->site_count; i++)
		if (block->base + block->site[i].code_offset == address)
			return &block->site[i];
	return NULL;
}

bool native_fault_redirect(uint64_t host_rip, unsigned trap, uint64_t rflags, struct native_redirect *redirect)
{
	struct cpu *cpu = running;
	struct block *block = cpu ? block_at(cpu->bt, (const uint8_t *)host_rip) : NULL;
	const struct native_site *site = block ? site_at(block, (const uint8_t *)host_rip) : NULL;

	if (!site)
		return false;
	*redirect = (struct native_redirect){ .lent = { site->spilled, site->spilled2 },
					      .value = { cpu->scratch[0], cpu->scratch[1] },
					      .r10 = (uintptr_t)site,
					      .rip = (uintptr_t)cpu->bt->native_fault };
	cpu->scratch[2] = trap;
	if (site->flags_in_host)
		cpu_set_arithmetic(cpu, FLAGS_ARITHMETIC, rflags);
	return true;
}

/* Async-signal-safe: copies words. What the interrupted code is just connecting, the next tick disconnects. */
void native_rescue(uint64_t stack_pointer)
{
	struct cpu *cpu = running;

	if (!cpu || !cpu->bt || !cpu->bt->gs_base)
		return;
	bt_reset_links(cpu, &cpu->bt->gs_base->tables);
	return_stack_wipe(cpu, stack_pointer);
}

uint64_t native_stack_overflow(uint64_t address)
{
	if (!running || !return_stack_is_guard(running, address))
		return 0;
	return_stack_forget(running);
	return (uint64_t)running->return_bottom;
}

int bt_thread_init(struct cpu *cpu)
{
	if (native_signals_init() < 0)
		return error_set(ENOMEM, "no memory for a signal stack");
	running = cpu;
	cpu->bt->gs_base = NULL;
	return 0;
}

void bt_thread_end(struct cpu *cpu)
{
	running = NULL;
	native_signals_end();
}

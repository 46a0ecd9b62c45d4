/*
 * The host memory of struct cpu and of the TLB contexts.
 *
 * struct cpu lives in a memory file that is mapped once at its canonical address and once more at the start
 * of every region, all regions in one reserved range: translated code that has a pointer to one
 * reaches the registers and that context's tables alike, and a change of context moves nothing.
 */
#include <errno.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "engine/soft/cpu/cpu.h"
#include "engine/soft/cpu/tlb_state.h"
#include "util/error.h"

/*
 * A context's tables fill a huge page of the host, for translated code looks into them at random, and each look would
 * also miss the host's TLB of small pages. struct cpu's alias ends where they begin.
 */
#define REGION_ROOM  (2 * HUGE_PAGE)
#define REGIONS_SIZE ((TLB_CONTEXTS * REGION_ROOM) + HUGE_PAGE)
#define HINTS_SIZE   (HINT_PAGES * sizeof(uint32_t))

_Static_assert(sizeof(struct tlb_tables) <= HUGE_PAGE, "one huge page for each context");
_Static_assert(offsetof(struct tlb_region, tables) == CPU_AREA_SIZE && CPU_AREA_SIZE <= HUGE_PAGE,
               "the tables follow struct cpu's alias");
_Static_assert(CPU_AREA_SIZE % (64 << 10) == 0, "regions begin at multiples of that (cpu.h: CPU_CENTER)");

/* In the reserved range. */
static struct tlb_region *region_at(uint8_t *range, unsigned context)
{
	uintptr_t start = ((uintptr_t)range + HUGE_PAGE - 1) & ~(HUGE_PAGE - 1);

	return (struct tlb_region *)(start + context * REGION_ROOM + HUGE_PAGE - CPU_AREA_SIZE);
}

static void *map(size_t size)
{
	return mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
}

struct cpu *tlb_cpu_create(unsigned huge_contexts)
{
	struct cpu *cpu = MAP_FAILED;
	struct tlb_state *state = map(sizeof(*state));
	uint8_t *regions = map(REGIONS_SIZE);
	uint32_t *hints = map(HINTS_SIZE);
	int fd = memfd_create("nestor-cpu", MFD_CLOEXEC);

	if (state == MAP_FAILED || regions == MAP_FAILED || hints == MAP_FAILED || fd < 0)
		goto fail;
	if (ftruncate(fd, CPU_AREA_SIZE) < 0)
		goto fail;
	cpu = mmap(NULL, CPU_AREA_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (cpu == MAP_FAILED)
		goto fail;
	for (unsigned i = 0; i < TLB_CONTEXTS; i++) {
		struct tlb_region *region = region_at(regions, i);

		if (mmap(region, CPU_AREA_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, fd, 0) ==
		    MAP_FAILED)
			goto fail;
		if (i < huge_contexts)
			madvise(&region->tables, HUGE_PAGE, MADV_HUGEPAGE); /* a refusal costs speed only */
		tlb_context_init(&state->context[i], region);
	}
	close(fd);
	cpu->self = cpu;
	cpu->tlb = state;
	state->write_hint = hints;
	state->regions = regions;
	state->current = &state->context[0];
	tlb_context_begin(state->current);
	state->context[0].pending = PENDING_NONE;
	state->context[0].pending_jumps = false;
	tlb_flush_current(cpu, false);
	cpu->region = state->current->region;
	return cpu;

fail:
	error_set(errno, "cannot allocate a virtual CPU's memory: %s", strerror(errno));
	if (fd >= 0)
		close(fd);
	if (cpu != MAP_FAILED)
		munmap(cpu, CPU_AREA_SIZE);
	if (hints != MAP_FAILED)
		munmap(hints, HINTS_SIZE);
	if (regions != MAP_FAILED)
		munmap(regions, REGIONS_SIZE);
	if (state != MAP_FAILED)
		munmap(state, sizeof(*state));
	return NULL;
}

void tlb_cpu_destroy(struct cpu *cpu)
{
	struct tlb_state *state;

	if (!cpu)
		return;
	state = tlb_state_of(cpu);
	munmap(state->regions, REGIONS_SIZE);
	munmap(state->write_hint, HINTS_SIZE);
	munmap(state, sizeof(*state));
	munmap(cpu->self, CPU_AREA_SIZE);
}

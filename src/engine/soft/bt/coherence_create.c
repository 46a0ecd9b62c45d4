/* The part of coherence.h that allocates, or is called by other threads than the vCPUs'. */
#include <errno.h>
#include <stdlib.h>
#include <sys/mman.h>

#include "engine/soft/bt/bt.h"
#include "engine/soft/bt/coherence.h"
#include "util/error.h"

static uint64_t *map_words(uint64_t count)
{
	void *p = mmap(NULL, count * sizeof(uint64_t), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE,
		       -1, 0);

	return p == MAP_FAILED ? NULL : p;
}

struct coherence *coherence_create(uint64_t page_count, unsigned cpu_count)
{
	struct coherence *coherence = calloc(1, sizeof(*coherence));

	if (coherence) {
		coherence->page_count = page_count;
		coherence->holders = map_words(page_count);
		if (cpu_count > 1)
			coherence->writers = map_words(page_count);
	}
	if (!coherence || !coherence->holders || (cpu_count > 1 && !coherence->writers)) {
		coherence_destroy(coherence);
		error_set(ENOMEM, "not enough memory to watch translated code");
		return NULL;
	}
	return coherence;
}

void coherence_destroy(struct coherence *coherence)
{
	if (!coherence)
		return;
	if (coherence->holders)
		munmap(coherence->holders, coherence->page_count * sizeof(uint64_t));
	if (coherence->writers)
		munmap(coherence->writers, coherence->page_count * sizeof(uint64_t));
	free(coherence);
}

int coherence_add(struct coherence *coherence, struct cpu *cpu)
{
	if (coherence->count == COHERENCE_CPUS)
		return error_set(ENOSPC, "more than %d vCPUs", COHERENCE_CPUS);
	cpu->inbox = calloc(1, sizeof(*cpu->inbox));
	if (!cpu->inbox)
		return error_set(ENOMEM, "not enough memory for a virtual CPU's inbox");
	cpu->inbox->custody = CUSTODY_SLEEPS;
	cpu->coherence = coherence;
	coherence->cpu[coherence->count++] = cpu;
	return 0;
}

void coherence_remove(struct cpu *cpu)
{
	free(cpu->inbox);
	cpu->inbox = NULL;
	cpu->coherence = NULL;
}

static uint64_t granules_between(uint64_t first, uint64_t last)
{
	return (~0ull >> (63 - (last - first))) << first;
}

void coherence_told(struct coherence *coherence, uint64_t gpa, uint64_t size)
{
	uint64_t end = gpa + size;

	while (gpa < end && gpa >> PAGE_SHIFT < coherence->page_count) {
		uint64_t page = gpa >> PAGE_SHIFT, next = (page + 1) << PAGE_SHIFT;
		uint64_t last = (next < end ? next : end) - 1;

		if (__atomic_load_n(&coherence->holders[page], __ATOMIC_SEQ_CST))
			coherence_tell_all(coherence, page, granules_between(gpa >> 6 & 63, last >> 6 & 63));
		gpa = next;
	}
}

#include "engine/soft/debug.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "engine/soft/bt/bt.h"
#include "engine/soft/cpu/debugger.h"
#include "util/error.h"

#define CUTS_MAX 256 /* then those of the past are forgotten */

/* Blocks end where breakpoints are. Returns whether that is so of those translated already. */
static bool cut_at(struct debugger *debugger, uint64_t gla)
{
	unsigned offset = gla & (PAGE_SIZE - 1);
	uint64_t bit = 1ull << (offset & 63);

	if (debugger->cut[offset >> 6] & bit)
		return true;
	debugger->cut[offset >> 6] |= bit;
	debugger->cut_count++;
	return false;
}

static bool cut_blocks(struct debugger *debugger, bool fresh)
{
	bool good = true;

	if (fresh || debugger->cut_count > CUTS_MAX) {
		memset(debugger->cut, 0, sizeof(debugger->cut));
		debugger->cut_count = 0;
	}
	for (unsigned i = 0; i < debugger->wish.count; i++)
		if (debugger->wish.point[i].access == ENGINE_POINT_EXECUTE && !cut_at(debugger, debugger->wish.point[i].gla))
			good = false;
	return good;
}

int soft_set_debug(struct cpu *cpu, const struct engine_debug *debug)
{
	struct debugger *debugger = cpu->debugger_memory;
	bool fresh = cpu->debugger == NULL;

	if (!debug) {
		cpu->debugger = NULL;
		return 0;
	}
	if (!debugger) {
		debugger = cpu->debugger_memory = calloc(1, sizeof(*debugger));
		if (!debugger)
			return error_set(ENOMEM, "out of memory for breakpoints");
	}
	debugger->wish = *debug;
	debugger->pass = debug->pass;
	debugger->stepped = debugger->hit = false;
	debugger->watch_count = 0;
	for (unsigned i = 0; i < debug->count; i++)
		debugger->watch_count += debug->point[i].access != ENGINE_POINT_EXECUTE;
	cpu->debugger = debugger;
	if (!cut_blocks(debugger, fresh))
		bt_flush(cpu->bt);
	tlb_watch_changed(cpu);
	cpu_poll_soon(cpu); /* interrupts that a step has held back */
	return 0;
}

void soft_debug_stop(struct cpu *cpu, struct engine_debug_stop *stop)
{
	const struct debugger *debugger = cpu->debugger_memory;

	*stop = debugger ? debugger->stop : (struct engine_debug_stop){.reason = ENGINE_STOP_ASKED};
}

void soft_debug_free(struct cpu *cpu)
{
	free(cpu->debugger_memory);
	cpu->debugger = cpu->debugger_memory = NULL;
}

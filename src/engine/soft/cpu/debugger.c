#include "engine/soft/cpu/debugger.h"

bool debugger_stops(struct cpu *cpu, uint64_t linear)
{
	struct debugger *debugger = cpu->debugger;
	const struct engine_debug *wish = &debugger->wish;

	if (debugger->hit) {
		debugger->hit = false;
		return true;
	}
	if (!debugger_at_level(cpu)) {
		debugger->left = true;
		return false;
	}
	if (debugger->stepped && debugger->left && linear == debugger->step_from)
		debugger->stepped = false;
	debugger->left = false;
	if (!debugger->stepped)
		debugger->step_from = linear;
	debugger->stop = (struct engine_debug_stop){.reason = ENGINE_STOP_ASKED, .gla = linear};
	if (wish->halt) {
		debugger->wish.halt = false;
		return true;
	}
	if (wish->step && debugger->stepped) {
		debugger->stop.reason = ENGINE_STOP_STEP;
		return true;
	}
	if (debugger->pass || cpu->activity != ACTIVITY_ACTIVE)
		return false;
	for (unsigned i = 0; i < wish->count; i++) {
		if (wish->point[i].access != ENGINE_POINT_EXECUTE || wish->point[i].gla != linear)
			continue;
		debugger->stop.reason = ENGINE_STOP_BREAKPOINT;
		return true;
	}
	return false;
}

unsigned debugger_watched(const struct cpu *cpu, uint64_t gla, unsigned size)
{
	const struct engine_debug *wish = &cpu->debugger->wish;
	uint64_t page = gla & PAGE_MASK;
	unsigned result = 0;

	for (unsigned i = 0; i < wish->count; i++) {
		const struct engine_debug_point *point = &wish->point[i];

		if (point->access == ENGINE_POINT_EXECUTE)
			continue;
		if (point->gla < gla + size && gla < point->gla + point->size)
			return 2;
		if (point->gla < page + PAGE_SIZE && page < point->gla + point->size)
			result = 1;
	}
	return result;
}

void debugger_note_access(struct cpu *cpu, uint64_t gla, unsigned size, enum mem_access access)
{
	struct debugger *debugger = cpu->debugger;
	unsigned wanted = access == ACCESS_WRITE ? ENGINE_POINT_WRITE : ENGINE_POINT_READ;

	if (!debugger_at_level(cpu))
		return;
	for (unsigned i = 0; i < debugger->wish.count; i++) {
		const struct engine_debug_point *point = &debugger->wish.point[i];

		if (!(point->access & wanted) || point->gla >= gla + size || gla >= point->gla + point->size)
			continue;
		debugger->hit = true;
		debugger->stop = (struct engine_debug_stop){
		    .reason = ENGINE_STOP_WATCHPOINT, .gla = point->gla, .access = point->access};
		cpu_poll_soon(cpu);
	}
}

#include "engine/soft/debug.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "engine/soft/bt/bt.h"
#include "engine/soft/cpu/debugger.h"
#include "engine/soft/cpu/fpu.h"
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
	debugger->stepped = debugger->hit = debugger->left = false;
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

/* The area is whole whatever its header says (fpu.c). */
void soft_get_vectors(const struct cpu *cpu, struct vcpu_state *state)
{
	bool avx = cpu->model->xcr0_supported & XSTATE_AVX;

	if (!cpu->fpu_stashed)
		return;
	state->xsave_size = avx ? XSAVE_YMM + XSAVE_YMM_SIZE : XSAVE_EXTENDED;
	memcpy(state->xsave, cpu->fpu_area, state->xsave_size);
	memset(state->xsave + XSAVE_HEADER, 0, XSAVE_EXTENDED - XSAVE_HEADER);
	state->xsave[XSAVE_HEADER] = XSTATE_X87 | XSTATE_SSE | (avx ? XSTATE_AVX : 0);
}

static void set_vectors(struct cpu *cpu, const struct vcpu_state *state)
{
	bool avx = cpu->model->xcr0_supported & XSTATE_AVX;
	uint32_t mxcsr;

	if (!state->xsave_size || !cpu->fpu_stashed)
		return;
	memcpy(cpu->fpu_area, state->xsave, FPU_LEGACY_END);
	memcpy(&mxcsr, cpu->fpu_area + FPU_MXCSR, sizeof(mxcsr));
	mxcsr &= MXCSR_MASK; /* or loading it would fault */
	memcpy(cpu->fpu_area + FPU_MXCSR, &mxcsr, sizeof(mxcsr));
	if (avx && state->xsave_size >= XSAVE_YMM + XSAVE_YMM_SIZE)
		memcpy(cpu->fpu_area + XSAVE_YMM, state->xsave + XSAVE_YMM, XSAVE_YMM_SIZE);
	cpu->fpu_area[XSAVE_HEADER] = XSTATE_X87 | XSTATE_SSE | (avx ? XSTATE_AVX : 0);
}

void soft_set_registers(struct cpu *cpu, const struct vcpu_state *state)
{
	for (unsigned i = 0; i < 16; i++)
		cpu->gpr[i] = state->gpr[i];
	cpu->rip = state->rip;
	cpu_set_rflags(cpu, state->rflags);
	cpu->cr2 = state->cr2;
	cpu->seg[SEG_FS].base = state->seg[SEG_FS].base;
	cpu->seg[SEG_GS].base = state->seg[SEG_GS].base;
	set_vectors(cpu, state);
	cpu_update_mode(cpu);
	cpu_poll_soon(cpu);
}

void soft_debug_free(struct cpu *cpu)
{
	free(cpu->debugger_memory);
	cpu->debugger = cpu->debugger_memory = NULL;
}

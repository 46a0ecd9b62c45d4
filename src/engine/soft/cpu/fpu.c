/*
 * The guest's x87, SSE and AVX state between the host's registers and cpu->fpu_area.
 *
 * The area has the standard XSAVE layout. After a stash every byte of it that belongs to a component is
 * valid, in use or not, because XSAVE (unlike XSAVEOPT) writes the initial values too. XSTATE_BV in it is the
 * host's business and depends on accidents; what guests see is computed in xsave.c.
 *
 * A guest without AVX is kept by FXSAVE alone: the host's C code may then use the upper halves as it likes.
 */
#include "engine/soft/cpu/fpu.h"

static bool uses_avx(const struct cpu *cpu)
{
	return cpu->model->xcr0_supported & XSTATE_AVX;
}

void fpu_stash(struct cpu *cpu)
{
	static const uint32_t default_mxcsr = MXCSR_RESET;

	if (cpu->fpu_stashed)
		return;
	if (uses_avx(cpu))
		__asm__ volatile("xsave64 %0\n\tvzeroupper" : "+m"(cpu->fpu_area) : "a"(7), "d"(0));
	else
		__asm__ volatile("fxsave64 %0" : "+m"(cpu->fpu_area));
	__asm__ volatile("fninit\n\tldmxcsr %0" : : "m"(default_mxcsr));
	/* The last instruction's and operand's addresses are the host's own (CPUID announces FDP_EXCPTN_ONLY
	 * and deprecated selectors, so a guest expects little of them). */
	memset(cpu->fpu_area + FPU_FOP, 0, FPU_MXCSR - FPU_FOP);
	cpu->fpu_stashed = true;
}

void fpu_unstash(struct cpu *cpu)
{
	if (!cpu->fpu_stashed)
		return;
	if (uses_avx(cpu))
		__asm__ volatile("xrstor64 %0" : : "m"(cpu->fpu_area), "a"(7), "d"(0));
	else
		__asm__ volatile("fxrstor64 %0" : : "m"(cpu->fpu_area));
	cpu->fpu_stashed = false;
}

/* The layout of cpu->fpu_area (SDM, XSAVE Area, standard format) and what belongs to it. */
#ifndef NESTOR_CPU_FPU_H
#define NESTOR_CPU_FPU_H

#include "engine/soft/cpu/cpu.h"
#include "engine/soft/cpu/hot.h"

#define XSTATE_X87 1u
#define XSTATE_SSE 2u
#define XSTATE_AVX 4u

enum {
	FPU_FCW = 0,
	FPU_FSW = 2,
	FPU_FTW = 4 /* abridged */,
	FPU_FOP = 6,
	FPU_FIP = 8,
	FPU_FDP = 16,
	FPU_MXCSR = 24,
	FPU_MXCSR_MASK = 28,
	FPU_ST0 = 32 /* eight of 16 bytes each */,
	FPU_XMM0 = 160 /* sixteen of 16 bytes */,
	FPU_LEGACY_END = 416,
	FPU_LEGACY_SIZE = 512,
	XSAVE_HEADER = 512,
	XSAVE_EXTENDED = 576,
	XSAVE_YMM = 576,
	XSAVE_YMM_SIZE = 256,
};

#define FCW_RESET   0x037fu /* FNINIT's; power-up has 0040H (SDM, Processor State After Reset) */
#define MXCSR_RESET 0x1f80u
#define MXCSR_MASK  0xffffu /* MXCSR bits that may be set */

#endif

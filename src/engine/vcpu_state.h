/*
 * The architectural state of one vCPU, independent of the engine that runs it. Boot code fills one to start
 * a guest; save, restore and migration between engines go through it.
 */
#ifndef NESTOR_ENGINE_VCPU_STATE_H
#define NESTOR_ENGINE_VCPU_STATE_H

#include <stdint.h>

/* Index into gpr[]: the hardware's register numbers. */
enum {
	REG_RAX, REG_RCX, REG_RDX, REG_RBX, REG_RSP, REG_RBP, REG_RSI, REG_RDI,
	REG_R8, REG_R9, REG_R10, REG_R11, REG_R12, REG_R13, REG_R14, REG_R15,
};

/* Segment registers: the first six in the hardware's numbering. */
enum {
	SEG_ES, SEG_CS, SEG_SS, SEG_DS, SEG_FS, SEG_GS, SEG_LDTR, SEG_TR,
	SEG_COUNT
};

/*
 * A segment register with its hidden part. rights has the format of the SDM's "Segment access rights"
 * (Format of Access Rights): type 3:0, S 4, DPL 6:5, P 7, AVL 12, L 13, D/B 14, G 15, unusable 16.
 * limit is in bytes, already scaled by G.
 */
struct segment {
	uint64_t base;
	uint32_t limit;
	uint32_t rights;
	uint16_t selector;
};

#define RIGHTS_TYPE(r)  ((r) & 0xfu)
#define RIGHTS_S        0x10u
#define RIGHTS_DPL(r)   (((r) >> 5) & 3u)
#define RIGHTS_P        0x80u
#define RIGHTS_AVL      0x1000u
#define RIGHTS_L        0x2000u
#define RIGHTS_DB       0x4000u
#define RIGHTS_G        0x8000u
#define RIGHTS_UNUSABLE 0x10000u

#define VCPU_XSAVE_SIZE 832

struct descriptor_table {
	uint64_t base;
	uint16_t limit;
};

struct vcpu_state {
	uint64_t gpr[16];
	uint64_t rip, rflags;
	struct segment seg[SEG_COUNT];
	struct descriptor_table gdtr, idtr;
	uint64_t cr0, cr2, cr3, cr4, cr8;
	uint64_t efer;
	uint64_t dr[8]; /* 0-3, 6, 7 used */
	uint64_t apic_base;
	/*
	 * x87, SSE and AVX in XSAVE's standard format. Read with the rest; written by vcpu_set_registers only. size: bytes that
	 * hold something, 0: not known.
	 */
	uint32_t xsave_size;
	uint8_t xsave[VCPU_XSAVE_SIZE];
	uint8_t level; /* read only: 0 in VMX root operation or without VMX, 1 in non-root operation */
};

#endif

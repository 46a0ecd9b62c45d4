/*
 * The instructions that move x87, SSE and AVX state to and from memory as a whole. All of them work on
 * cpu->fpu_area (after fpu_stash), never natively on guest memory: the processor would store the host's
 * instruction and operand addresses, its accidental XSTATE_BV, and fault in the host's terms.
 *
 * What guests see is deterministic: instruction and operand addresses are zero, and a component is "in use"
 * (XINUSE) exactly when it differs from its initial state.
 */
#include "engine/soft/cpu/fpu.h"
#include "engine/soft/cpu/memory.h"
#include "engine/soft/cpu/ops.h"

#define XCOMP_COMPACT (1ull << 63)

struct xsave_header {
	uint64_t xstate_bv, xcomp_bv;
	uint64_t reserved[6];
};

_Static_assert(sizeof(struct xsave_header) == XSAVE_EXTENDED - XSAVE_HEADER, "SDM, XSAVE Header");

/* ---- the area ---- */

static bool is_zero(const uint8_t *bytes, unsigned size)
{
	uint64_t any = 0, word;

	for (unsigned i = 0; i < size; i += 8) {
		memcpy(&word, bytes + i, 8);
		any |= word;
	}
	return !any;
}

static uint16_t area16(const struct cpu *cpu, unsigned offset)
{
	return (uint16_t)(cpu->fpu_area[offset] | cpu->fpu_area[offset + 1] << 8);
}

static void set_area16(struct cpu *cpu, unsigned offset, uint16_t value)
{
	memcpy(cpu->fpu_area + offset, &value, 2);
}

static uint32_t mxcsr(const struct cpu *cpu)
{
	uint32_t value;

	memcpy(&value, cpu->fpu_area + FPU_MXCSR, 4);
	return value;
}

static void set_mxcsr(struct cpu *cpu, uint32_t value)
{
	memcpy(cpu->fpu_area + FPU_MXCSR, &value, 4);
}

static bool has_avx(const struct cpu *cpu)
{
	return cpu->model->xcr0_supported & XSTATE_AVX;
}

/* How many of the sixteen vector registers the present mode reaches. */
static unsigned vector_bytes(const struct cpu *cpu)
{
	return cpu_is_64bit(cpu) ? 256 : 128;
}

/* SDM, XINUSE: the components that are not in their initial state. MXCSR is no part of SSE state here. */
static uint64_t in_use(const struct cpu *cpu)
{
	const uint8_t *area = cpu->fpu_area;
	uint64_t bits = 0;

	if (area16(cpu, FPU_FCW) != FCW_RESET || area16(cpu, FPU_FSW) || area[FPU_FTW] ||
	    !is_zero(area + FPU_ST0, 128))
		bits |= XSTATE_X87;
	if (!is_zero(area + FPU_XMM0, 256))
		bits |= XSTATE_SSE;
	if (has_avx(cpu) && !is_zero(area + XSAVE_YMM, XSAVE_YMM_SIZE))
		bits |= XSTATE_AVX;
	return bits;
}

/* Tells fpu_unstash's XRSTOR to load everything; the upper halves only where they are not zero, because
 * loading them would slow SSE code that follows. */
static void changed(struct cpu *cpu)
{
	uint64_t bits = XSTATE_X87 | XSTATE_SSE | (in_use(cpu) & XSTATE_AVX);

	memset(cpu->fpu_area + XSAVE_HEADER, 0, sizeof(struct xsave_header));
	memcpy(cpu->fpu_area + XSAVE_HEADER, &bits, sizeof(bits));
}

static void init_x87(struct cpu *cpu, bool registers_too)
{
	set_area16(cpu, FPU_FCW, FCW_RESET);
	set_area16(cpu, FPU_FSW, 0);
	memset(cpu->fpu_area + FPU_FTW, 0, FPU_MXCSR - FPU_FTW);
	if (registers_too)
		memset(cpu->fpu_area + FPU_ST0, 0, 128);
}

/* ---- common checks ---- */

static void require_fpu(struct cpu *cpu)
{
	if (cpu->cr0 & (CR0_EM | CR0_TS))
		cpu_raise(cpu, VECTOR_NM);
}

static void require_xsave(struct cpu *cpu, const struct insn *insn, unsigned subleaf1_bit)
{
	if (!(cpu->cr4 & CR4_OSXSAVE) || !insn->is_memory)
		cpu_raise(cpu, VECTOR_UD);
	if (subleaf1_bit < 32 && !cpu_model_has(cpu->model, 0xd, 1, 0, subleaf1_bit))
		cpu_raise(cpu, VECTOR_UD);
	if (cpu->cr0 & CR0_TS)
		cpu_raise(cpu, VECTOR_NM);
}

/* The operand's linear address, which must be a multiple of `alignment`. */
static uint64_t operand(struct cpu *cpu, const struct insn *insn, unsigned size, unsigned alignment,
                        enum mem_access access)
{
	uint64_t address = mem_linear(cpu, insn->segment, operand_offset(cpu, insn), size, access).v;

	if (address & (alignment - 1))
		cpu_raise_error(cpu, VECTOR_GP, 0);
	return address;
}

static void to_guest(struct cpu *cpu, uint64_t address, const void *from, unsigned size)
{
	mem_write_block(cpu, GLA(address), from, size, mem_class(cpu));
}

static void from_guest(struct cpu *cpu, uint64_t address, void *to, unsigned size)
{
	mem_read_block(cpu, GLA(address), to, size, mem_class(cpu));
}

static uint64_t requested(const struct cpu *cpu, uint64_t enabled)
{
	return ((uint32_t)cpu->gpr[REG_RAX] | cpu->gpr[REG_RDX] << 32) & enabled;
}

/* ---- XCR0 ---- */

void op_xgetbv(struct cpu *cpu, const struct insn *insn)
{
	uint32_t index = (uint32_t)cpu->gpr[REG_RCX];
	uint64_t value = cpu->xcr0;

	if (!(cpu->cr4 & CR4_OSXSAVE))
		cpu_raise(cpu, VECTOR_UD);
	if (index == 1 && cpu_model_has(cpu->model, 0xd, 1, 0, 2)) {
		fpu_stash(cpu);
		value &= in_use(cpu) | (mxcsr(cpu) != MXCSR_RESET ? XSTATE_SSE : 0);
	} else if (index) {
		cpu_raise_error(cpu, VECTOR_GP, 0);
	}
	cpu->gpr[REG_RAX] = (uint32_t)value;
	cpu->gpr[REG_RDX] = value >> 32;
}

void op_xsetbv(struct cpu *cpu, const struct insn *insn)
{
	uint64_t value = (uint32_t)cpu->gpr[REG_RAX] | cpu->gpr[REG_RDX] << 32;

	if (!(cpu->cr4 & CR4_OSXSAVE))
		cpu_raise(cpu, VECTOR_UD);
	if (cpu->cpl)
		cpu_raise_error(cpu, VECTOR_GP, 0);
	if (cpu->virt)
		cpu->virt->instruction(cpu, INTERCEPT_XSETBV, 0, insn);
	if ((uint32_t)cpu->gpr[REG_RCX] || !(value & XSTATE_X87) || value & ~cpu->model->xcr0_supported)
		cpu_raise_error(cpu, VECTOR_GP, 0);
	if (value & XSTATE_AVX && !(value & XSTATE_SSE))
		cpu_raise_error(cpu, VECTOR_GP, 0);
	cpu->xcr0 = value;
	cpu_update_mode(cpu);
}

/* ---- XSAVE, XSAVEOPT, XSAVEC, XSAVES ---- */

static void write_x87(struct cpu *cpu, uint64_t address)
{
	to_guest(cpu, address, cpu->fpu_area, FPU_MXCSR);
	to_guest(cpu, address + FPU_ST0, cpu->fpu_area + FPU_ST0, 128);
}

static void write_mxcsr(struct cpu *cpu, uint64_t address)
{
	const uint32_t pair[2] = {mxcsr(cpu), MXCSR_MASK};

	to_guest(cpu, address + FPU_MXCSR, pair, sizeof(pair));
}

/* Standard format. `optimized`: components in their initial state are not written. */
static void xsave_standard(struct cpu *cpu, const struct insn *insn, bool optimized)
{
	uint64_t mask = requested(cpu, cpu->xcr0), address, old, used, write;

	address =
	    operand(cpu, insn, XSAVE_EXTENDED + (mask & XSTATE_AVX ? XSAVE_YMM_SIZE : 0), 64, ACCESS_WRITE);
	fpu_stash(cpu);
	used = in_use(cpu) & mask;
	write = optimized ? used : mask;
	from_guest(cpu, address + XSAVE_HEADER, &old, 8);
	if (write & XSTATE_X87)
		write_x87(cpu, address);
	if (mask & (XSTATE_SSE | XSTATE_AVX))
		write_mxcsr(cpu, address);
	if (write & XSTATE_SSE)
		to_guest(cpu, address + FPU_XMM0, cpu->fpu_area + FPU_XMM0, vector_bytes(cpu));
	if (write & XSTATE_AVX)
		to_guest(cpu, address + XSAVE_YMM, cpu->fpu_area + XSAVE_YMM, vector_bytes(cpu));
	old = (old & ~mask) | used;
	to_guest(cpu, address + XSAVE_HEADER, &old, 8);
}

/* SDM, Compacted Form of XSAVE: only what is in use is written; MXCSR belongs to SSE state. */
static void xsave_compact(struct cpu *cpu, const struct insn *insn, uint64_t mask)
{
	uint64_t address, header[2], used;

	address =
	    operand(cpu, insn, XSAVE_EXTENDED + (mask & XSTATE_AVX ? XSAVE_YMM_SIZE : 0), 64, ACCESS_WRITE);
	fpu_stash(cpu);
	used = in_use(cpu);
	if (mxcsr(cpu) != MXCSR_RESET)
		used |= XSTATE_SSE;
	used &= mask;
	if (used & XSTATE_X87)
		write_x87(cpu, address);
	if (used & XSTATE_SSE) {
		write_mxcsr(cpu, address);
		to_guest(cpu, address + FPU_XMM0, cpu->fpu_area + FPU_XMM0, vector_bytes(cpu));
	}
	if (used & XSTATE_AVX)
		to_guest(cpu, address + XSAVE_EXTENDED, cpu->fpu_area + XSAVE_YMM, vector_bytes(cpu));
	header[0] = used;
	header[1] = mask | XCOMP_COMPACT;
	to_guest(cpu, address + XSAVE_HEADER, header, sizeof(header));
}

void op_xsave(struct cpu *cpu, const struct insn *insn)
{
	require_xsave(cpu, insn, 32);
	xsave_standard(cpu, insn, false);
}

void op_xsaveopt(struct cpu *cpu, const struct insn *insn)
{
	require_xsave(cpu, insn, 0);
	xsave_standard(cpu, insn, true);
}

void op_xsavec(struct cpu *cpu, const struct insn *insn)
{
	require_xsave(cpu, insn, 1);
	xsave_compact(cpu, insn, requested(cpu, cpu->xcr0));
}

void op_xsaves(struct cpu *cpu, const struct insn *insn)
{
	require_xsave(cpu, insn, 3);
	if (cpu->cpl)
		cpu_raise_error(cpu, VECTOR_GP, 0);
	if (cpu->virt)
		cpu->virt->instruction(cpu, INTERCEPT_XSAVES, 0, insn);
	xsave_compact(cpu, insn, requested(cpu, cpu->xcr0 | cpu->msr.xss));
}

/* ---- XRSTOR, XRSTORS ---- */

/* SDM, Operation of XRSTOR and Operation of XRSTORS: the header's rules. The standard form looks at bytes
 * 23:8. */
static bool header_is_valid(const struct xsave_header *header, uint64_t enabled, bool compact)
{
	uint64_t reserved = 0;

	if (!compact)
		return !(header->xstate_bv & ~enabled) && !header->xcomp_bv && !header->reserved[0];
	for (unsigned i = 0; i < 6; i++)
		reserved |= header->reserved[i];
	return !reserved && !(header->xcomp_bv & ~(enabled | XCOMP_COMPACT)) &&
	       !(header->xstate_bv & ~header->xcomp_bv);
}

static void xrstor(struct cpu *cpu, const struct insn *insn, uint64_t enabled, bool supervisor)
{
	uint64_t mask = requested(cpu, enabled), address;
	struct xsave_header header;
	uint8_t image[FPU_AREA_SIZE];
	uint32_t control = MXCSR_RESET;
	unsigned vectors = vector_bytes(cpu);
	bool compact, loads_mxcsr, loads_avx;

	address = operand(cpu, insn, XSAVE_EXTENDED, 64, ACCESS_READ);
	from_guest(cpu, address, image, XSAVE_EXTENDED);
	memcpy(&header, image + XSAVE_HEADER, sizeof(header));
	compact = header.xcomp_bv & XCOMP_COMPACT && cpu_model_has(cpu->model, 0xd, 1, 0, 1);
	if ((supervisor && !compact) || !header_is_valid(&header, enabled, compact))
		cpu_raise_error(cpu, VECTOR_GP, 0);
	loads_avx = mask & header.xstate_bv & XSTATE_AVX;
	if (loads_avx) {
		operand(cpu, insn, FPU_AREA_SIZE, 64, ACCESS_READ);
		from_guest(cpu, address + XSAVE_YMM, image + XSAVE_YMM, vectors);
	}
	/* The standard form loads MXCSR with SSE or AVX state, in use or not; in the compacted one it is SSE
	 * state. */
	loads_mxcsr = compact ? mask & XSTATE_SSE : mask & (XSTATE_SSE | XSTATE_AVX);
	if (loads_mxcsr && (!compact || header.xstate_bv & XSTATE_SSE)) {
		memcpy(&control, image + FPU_MXCSR, 4);
		if (control & ~MXCSR_MASK)
			cpu_raise_error(cpu, VECTOR_GP, 0);
	}

	fpu_stash(cpu);
	if (mask & XSTATE_X87) {
		init_x87(cpu, true);
		if (header.xstate_bv & XSTATE_X87) {
			memcpy(cpu->fpu_area, image, FPU_FOP);
			cpu->fpu_area[FPU_FTW + 1] = 0;
			memcpy(cpu->fpu_area + FPU_ST0, image + FPU_ST0, 128);
		}
	}
	if (loads_mxcsr)
		set_mxcsr(cpu, control);
	if (mask & XSTATE_SSE) {
		if (header.xstate_bv & XSTATE_SSE)
			memcpy(cpu->fpu_area + FPU_XMM0, image + FPU_XMM0, vectors);
		else
			memset(cpu->fpu_area + FPU_XMM0, 0, vectors);
	}
	if (mask & XSTATE_AVX) {
		if (loads_avx)
			memcpy(cpu->fpu_area + XSAVE_YMM, image + XSAVE_YMM, vectors);
		else
			memset(cpu->fpu_area + XSAVE_YMM, 0, vectors);
	}
	changed(cpu);
}

void op_xrstor(struct cpu *cpu, const struct insn *insn)
{
	require_xsave(cpu, insn, 32);
	xrstor(cpu, insn, cpu->xcr0, false);
}

void op_xrstors(struct cpu *cpu, const struct insn *insn)
{
	require_xsave(cpu, insn, 3);
	if (cpu->cpl)
		cpu_raise_error(cpu, VECTOR_GP, 0);
	if (cpu->virt)
		cpu->virt->instruction(cpu, INTERCEPT_XRSTORS, 0, insn);
	xrstor(cpu, insn, cpu->xcr0 | cpu->msr.xss, true);
}

/* ---- FXSAVE, FXRSTOR ---- */

void op_fxsave(struct cpu *cpu, const struct insn *insn)
{
	uint64_t address;
	uint8_t image[FPU_LEGACY_END];

	require_fpu(cpu);
	address = operand(cpu, insn, FPU_LEGACY_SIZE, 16, ACCESS_WRITE);
	fpu_stash(cpu);
	memcpy(image, cpu->fpu_area, sizeof(image));
	memcpy(image + FPU_MXCSR_MASK, &(uint32_t){MXCSR_MASK}, 4);
	to_guest(cpu, address, image, FPU_XMM0 + vector_bytes(cpu));
}

void op_fxrstor(struct cpu *cpu, const struct insn *insn)
{
	uint64_t address;
	uint8_t image[FPU_LEGACY_SIZE];
	uint32_t control;

	require_fpu(cpu);
	address = operand(cpu, insn, FPU_LEGACY_SIZE, 16, ACCESS_READ);
	from_guest(cpu, address, image, sizeof(image));
	memcpy(&control, image + FPU_MXCSR, 4);
	if (control & ~MXCSR_MASK)
		cpu_raise_error(cpu, VECTOR_GP, 0);
	fpu_stash(cpu);
	init_x87(cpu, true);
	memcpy(cpu->fpu_area, image, FPU_FOP);
	cpu->fpu_area[FPU_FTW + 1] = 0;
	memcpy(cpu->fpu_area + FPU_ST0, image + FPU_ST0, 128);
	set_mxcsr(cpu, control);
	memcpy(cpu->fpu_area + FPU_XMM0, image + FPU_XMM0, vector_bytes(cpu));
	changed(cpu);
}

/* ---- FNSTENV, FLDENV, FNSAVE, FRSTOR: the 8087's own formats ---- */

#define ENV16     14u /* bytes of the environment with 16-bit operand size */
#define ENV32     28u
#define REGISTERS 80u /* eight of ten bytes, ST(0) first */

static unsigned env_size(const struct insn *insn)
{
	return insn->operand_size == 2 ? ENV16 : ENV32;
}

static unsigned top_of_stack(const struct cpu *cpu)
{
	return area16(cpu, FPU_FSW) >> 11 & 7;
}

/* SDM, x87 FPU Tag Word: 0 valid, 1 zero, 2 special, 3 empty, from the abridged tags and the registers. */
static unsigned full_tag(const struct cpu *cpu, unsigned physical)
{
	const uint8_t *st = cpu->fpu_area + FPU_ST0 + 16 * ((physical - top_of_stack(cpu)) & 7);
	uint64_t significand;
	unsigned exponent;

	if (!(cpu->fpu_area[FPU_FTW] >> physical & 1))
		return 3;
	memcpy(&significand, st, 8);
	exponent = (st[8] | st[9] << 8) & 0x7fff;
	if (!exponent && !significand)
		return 1;
	return !exponent || exponent == 0x7fff || !(significand >> 63) ? 2 : 0;
}

static uint16_t tag_word(const struct cpu *cpu)
{
	unsigned tags = 0;

	for (unsigned i = 0; i < 8; i++)
		tags |= full_tag(cpu, i) << 2 * i;
	return (uint16_t)tags;
}

/* Control, status and tag word; the addresses and the opcode are zero. */
static void make_environment(const struct cpu *cpu, uint8_t *to, unsigned size)
{
	const uint16_t words[3] = {area16(cpu, FPU_FCW), area16(cpu, FPU_FSW), tag_word(cpu)};

	memset(to, 0, size);
	for (unsigned i = 0; i < 3; i++) {
		memcpy(to + i * (size / 7), &words[i], 2);
		if (size == ENV32)
			memset(to + i * 4 + 2, 0xff, 2);
	}
	if (size == ENV32)
		memset(to + ENV32 - 2, 0xff, 2);
}

/* Moves the top of the stack. The area has the registers in stack order, but it is the physical ones that stay. */
static void rotate_to(struct cpu *cpu, unsigned top)
{
	uint8_t old[128];
	unsigned by = top - top_of_stack(cpu);

	memcpy(old, cpu->fpu_area + FPU_ST0, sizeof(old));
	for (unsigned i = 0; i < 8; i++)
		memcpy(cpu->fpu_area + FPU_ST0 + 16 * i, old + 16 * ((i + by) & 7), 16);
}

/* The error summary and busy flags follow from the exceptions that are flagged and not masked. */
static void set_control_and_status(struct cpu *cpu, uint16_t control, uint16_t status)
{
	status &= 0x7f7f;
	if (status & ~control & 0x3f)
		status |= 0x8080;
	set_area16(cpu, FPU_FCW, control);
	set_area16(cpu, FPU_FSW, status);
}

static void take_environment(struct cpu *cpu, const uint8_t *from, unsigned size)
{
	uint16_t words[3];
	uint8_t in_use_tags = 0;

	for (unsigned i = 0; i < 3; i++)
		memcpy(&words[i], from + i * (size / 7), 2);
	for (unsigned i = 0; i < 8; i++)
		if ((words[2] >> 2 * i & 3) != 3)
			in_use_tags |= 1u << i;
	rotate_to(cpu, words[1] >> 11 & 7);
	/* Bits 15:13 and 7:6 of the control word are reserved; bit 6 reads as 1. */
	set_control_and_status(cpu, (words[0] & 0x1f3f) | 0x40, words[1]);
	memset(cpu->fpu_area + FPU_FTW, 0, FPU_MXCSR - FPU_FTW);
	cpu->fpu_area[FPU_FTW] = in_use_tags;
}

void op_fnstenv(struct cpu *cpu, const struct insn *insn)
{
	unsigned size = env_size(insn);
	uint8_t image[ENV32];
	uint64_t address;

	require_fpu(cpu);
	address = operand(cpu, insn, size, 1, ACCESS_WRITE);
	fpu_stash(cpu);
	make_environment(cpu, image, size);
	to_guest(cpu, address, image, size);
	/* It masks all exceptions afterwards. */
	set_control_and_status(cpu, area16(cpu, FPU_FCW) | 0x3f, area16(cpu, FPU_FSW));
	changed(cpu);
}

void op_fldenv(struct cpu *cpu, const struct insn *insn)
{
	unsigned size = env_size(insn);
	uint8_t image[ENV32];
	uint64_t address;

	require_fpu(cpu);
	address = operand(cpu, insn, size, 1, ACCESS_READ);
	from_guest(cpu, address, image, size);
	fpu_stash(cpu);
	take_environment(cpu, image, size);
	changed(cpu);
}

void op_fnsave(struct cpu *cpu, const struct insn *insn)
{
	unsigned size = env_size(insn);
	uint8_t image[ENV32 + REGISTERS];
	uint64_t address;

	require_fpu(cpu);
	address = operand(cpu, insn, size + REGISTERS, 1, ACCESS_WRITE);
	fpu_stash(cpu);
	make_environment(cpu, image, size);
	for (unsigned i = 0; i < 8; i++)
		memcpy(image + size + 10 * i, cpu->fpu_area + FPU_ST0 + 16 * i, 10);
	to_guest(cpu, address, image, size + REGISTERS);
	/* And then it does FNINIT, which empties the registers but keeps their contents. */
	rotate_to(cpu, 0);
	init_x87(cpu, false);
	changed(cpu);
}

void op_frstor(struct cpu *cpu, const struct insn *insn)
{
	unsigned size = env_size(insn);
	uint8_t image[ENV32 + REGISTERS];
	uint64_t address;

	require_fpu(cpu);
	address = operand(cpu, insn, size + REGISTERS, 1, ACCESS_READ);
	from_guest(cpu, address, image, size + REGISTERS);
	fpu_stash(cpu);
	take_environment(cpu, image, size);
	for (unsigned i = 0; i < 8; i++) {
		memset(cpu->fpu_area + FPU_ST0 + 16 * i, 0, 16);
		memcpy(cpu->fpu_area + FPU_ST0 + 16 * i, image + size + 10 * i, 10);
	}
	changed(cpu);
}

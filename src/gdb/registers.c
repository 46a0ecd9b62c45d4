#include "gdb/registers.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "engine/vcpu_state.h"

#define EFER_LMA (1u << 10)

/* SDM, XSAVE Area: the legacy region as FXSAVE writes it, the header, the upper halves of YMM0-15. */
enum {
	AREA_FCW = 0, AREA_FSW = 2, AREA_FTW = 4, AREA_FOP = 6, AREA_FIP = 8, AREA_FDP = 16, AREA_MXCSR = 24,
	AREA_ST0 = 32, AREA_XMM0 = 160, AREA_XSTATE_BV = 512, AREA_YMM0 = 576,
};
#define XSTATE_X87 1u
#define XSTATE_SSE 2u
#define XSTATE_AVX 4u

enum kind { KIND_GPR, KIND_GPR32, KIND_PC, KIND_FLAGS, KIND_SELECTOR, KIND_ST, KIND_X87, KIND_XMM, KIND_MXCSR, KIND_YMMH, KIND_BASE,
            KIND_SYSTEM };

/* A run of registers of one kind. */
struct register_row {
	const char *names; /* separated by blanks */
	const char *type, *group;
	enum kind kind;
	uint8_t size, count;
};

static const uint8_t gpr_order[] = {REG_RAX, REG_RBX, REG_RCX, REG_RDX, REG_RSI, REG_RDI, REG_RBP, REG_RSP,
                                    REG_R8, REG_R9, REG_R10, REG_R11, REG_R12, REG_R13, REG_R14, REG_R15};
static const uint8_t gpr32_order[] = {REG_RAX, REG_RCX, REG_RDX, REG_RBX, REG_RSP, REG_RBP, REG_RSI, REG_RDI};
static const uint8_t selector_order[] = {SEG_CS, SEG_SS, SEG_DS, SEG_ES, SEG_FS, SEG_GS};
static const uint8_t base_order[] = {SEG_FS, SEG_GS};

static const struct register_row rows64[] = {
    {"rax rbx rcx rdx rsi rdi rbp rsp r8 r9 r10 r11 r12 r13 r14 r15", "int64", NULL, KIND_GPR, 8, 16},
    {"rip", "code_ptr", NULL, KIND_PC, 8, 1},
    {"eflags", "i386_eflags", NULL, KIND_FLAGS, 4, 1},
    {"cs ss ds es fs gs", "int32", NULL, KIND_SELECTOR, 4, 6},
    {"st0 st1 st2 st3 st4 st5 st6 st7", "i387_ext", NULL, KIND_ST, 10, 8},
    {"fctrl fstat ftag fiseg fioff foseg fooff fop", "int", "float", KIND_X87, 4, 8},
    {"xmm0 xmm1 xmm2 xmm3 xmm4 xmm5 xmm6 xmm7 xmm8 xmm9 xmm10 xmm11 xmm12 xmm13 xmm14 xmm15", "vec128", NULL, KIND_XMM,
     16, 16},
    {"mxcsr", "i386_mxcsr", "vector", KIND_MXCSR, 4, 1},
    {"fs_base gs_base", "int", NULL, KIND_BASE, 8, 2},
    {"cr0 cr2 cr3 cr4 cr8 efer", "int64", "system", KIND_SYSTEM, 8, 6},
    {"ymm0h ymm1h ymm2h ymm3h ymm4h ymm5h ymm6h ymm7h ymm8h ymm9h ymm10h ymm11h ymm12h ymm13h ymm14h ymm15h", "uint128",
     NULL, KIND_YMMH, 16, 16},
};

static const struct register_row rows32[] = {
    {"eax ecx edx ebx esp ebp esi edi", "int32", NULL, KIND_GPR32, 4, 8},
    {"eip", "code_ptr", NULL, KIND_PC, 4, 1},
    {"eflags", "i386_eflags", NULL, KIND_FLAGS, 4, 1},
    {"cs ss ds es fs gs", "int32", NULL, KIND_SELECTOR, 4, 6},
    {"st0 st1 st2 st3 st4 st5 st6 st7", "i387_ext", NULL, KIND_ST, 10, 8},
    {"fctrl fstat ftag fiseg fioff foseg fooff fop", "int", "float", KIND_X87, 4, 8},
    {"xmm0 xmm1 xmm2 xmm3 xmm4 xmm5 xmm6 xmm7", "vec128", NULL, KIND_XMM, 16, 8},
    {"mxcsr", "i386_mxcsr", "vector", KIND_MXCSR, 4, 1},
    {"cr0 cr2 cr3 cr4 cr8 efer", "int64", "system", KIND_SYSTEM, 8, 6},
    {"ymm0h ymm1h ymm2h ymm3h ymm4h ymm5h ymm6h ymm7h", "uint128", NULL, KIND_YMMH, 16, 8},
};

#define ROWS(table) (sizeof(table) / sizeof((table)[0]))

/* ---- target.xml ---- */

static void add(struct registers *registers, const char *format, ...) __attribute__((format(printf, 2, 3)));

static void add(struct registers *registers, const char *format, ...)
{
	va_list args;
	int written;

	va_start(args, format);
	written = vsnprintf(registers->xml + registers->xml_size,
	                    sizeof(registers->xml) - registers->xml_size, format, args);
	va_end(args);
	registers->xml_size += (size_t)written; /* test_gdb sees to it that there is room */
}

static void add_row(struct registers *registers, const struct register_row *row)
{
	const char *name = row->names;

	for (unsigned i = 0; i < row->count; i++) {
		size_t length = strcspn(name, " ");

		add(registers, "<reg name=\"%.*s\" bitsize=\"%u\" type=\"%s\"", (int)length, name,
		    row->size * 8u, row->type);
		if (row->group)
			add(registers, " group=\"%s\"", row->group);
		add(registers, " regnum=\"%u\"/>\n", registers->count++);
		name += length + (name[length] == ' ');
	}
}

/* The type that a feature's registers refer to. */
static const char types_core[] =
    "<flags id=\"i386_eflags\" size=\"4\">\n"
    "<field name=\"\" start=\"22\" end=\"31\"/><field name=\"ID\" start=\"21\" end=\"21\"/>"
    "<field name=\"VIP\" start=\"20\" end=\"20\"/><field name=\"VIF\" start=\"19\" end=\"19\"/>"
    "<field name=\"AC\" start=\"18\" end=\"18\"/><field name=\"VM\" start=\"17\" end=\"17\"/>"
    "<field name=\"RF\" start=\"16\" end=\"16\"/><field name=\"NT\" start=\"14\" end=\"14\"/>"
    "<field name=\"OF\" start=\"11\" end=\"11\"/><field name=\"DF\" start=\"10\" end=\"10\"/>"
    "<field name=\"IF\" start=\"9\" end=\"9\"/><field name=\"TF\" start=\"8\" end=\"8\"/>"
    "<field name=\"SF\" start=\"7\" end=\"7\"/><field name=\"ZF\" start=\"6\" end=\"6\"/>"
    "<field name=\"AF\" start=\"4\" end=\"4\"/><field name=\"PF\" start=\"2\" end=\"2\"/>"
    "<field name=\"CF\" start=\"0\" end=\"0\"/></flags>\n";
static const char types_sse[] =
    "<vector id=\"v8bf16\" type=\"bfloat16\" count=\"8\"/><vector id=\"v4f\" type=\"ieee_single\" count=\"4\"/>"
    "<vector id=\"v2d\" type=\"ieee_double\" count=\"2\"/><vector id=\"v16i8\" type=\"int8\" count=\"16\"/>"
    "<vector id=\"v8i16\" type=\"int16\" count=\"8\"/><vector id=\"v4i32\" type=\"int32\" count=\"4\"/>"
    "<vector id=\"v2i64\" type=\"int64\" count=\"2\"/>\n"
    "<union id=\"vec128\"><field name=\"v8_bfloat16\" type=\"v8bf16\"/><field name=\"v4_float\" type=\"v4f\"/>"
    "<field name=\"v2_double\" type=\"v2d\"/><field name=\"v16_int8\" type=\"v16i8\"/>"
    "<field name=\"v8_int16\" type=\"v8i16\"/><field name=\"v4_int32\" type=\"v4i32\"/>"
    "<field name=\"v2_int64\" type=\"v2i64\"/><field name=\"uint128\" type=\"uint128\"/></union>\n"
    "<flags id=\"i386_mxcsr\" size=\"4\"><field name=\"IE\" start=\"0\" end=\"0\"/>"
    "<field name=\"DE\" start=\"1\" end=\"1\"/><field name=\"ZE\" start=\"2\" end=\"2\"/>"
    "<field name=\"OE\" start=\"3\" end=\"3\"/><field name=\"UE\" start=\"4\" end=\"4\"/>"
    "<field name=\"PE\" start=\"5\" end=\"5\"/><field name=\"DAZ\" start=\"6\" end=\"6\"/>"
    "<field name=\"IM\" start=\"7\" end=\"7\"/><field name=\"DM\" start=\"8\" end=\"8\"/>"
    "<field name=\"ZM\" start=\"9\" end=\"9\"/><field name=\"OM\" start=\"10\" end=\"10\"/>"
    "<field name=\"UM\" start=\"11\" end=\"11\"/><field name=\"PM\" start=\"12\" end=\"12\"/>"
    "<field name=\"FZ\" start=\"15\" end=\"15\"/></flags>\n";

static void add_feature(struct registers *registers, const char *name, const char *types, size_t first,
                        size_t last)
{
	add(registers, "<feature name=\"%s\">\n%s", name, types);
	for (size_t i = first; i <= last; i++)
		add_row(registers, &registers->row[i]);
	add(registers, "</feature>\n");
}

void registers_init(struct registers *registers, bool avx, enum registers_kind kind)
{
	static const char *const architecture[] = {"i386:x86-64", "i386", "i8086"};
	bool i386 = kind != REGISTERS_X86_64;
	size_t last = 5; /* of core; the rows of both tables are alike up to mxcsr */

	*registers = (struct registers){.row = i386 ? rows32 : rows64};
	registers->row_count = (unsigned)(i386 ? ROWS(rows32) : ROWS(rows64)) - !avx;
	add(registers, "<?xml version=\"1.0\"?>\n<!DOCTYPE target SYSTEM \"gdb-target.dtd\">\n<target>\n"
	               "<architecture>%s</architecture>\n", architecture[kind]);
	add_feature(registers, "org.gnu.gdb.i386.core", types_core, 0, last);
	add_feature(registers, "org.gnu.gdb.i386.sse", types_sse, last + 1, last + 2);
	last += 2;
	if (!i386) {
		last++;
		add_feature(registers, "org.gnu.gdb.i386.segments", "", last, last);
	}
	last++;
	add_feature(registers, "org.nestor.i386.system", "", last, last);
	last++;
	if (avx)
		add_feature(registers, "org.gnu.gdb.i386.avx", "", last, last);
	add(registers, "</target>\n");
}

/* ---- values ---- */

/* The row of a number, and the number within it. NULL: none. */
static const struct register_row *find(const struct registers *registers, unsigned number, unsigned *index)
{
	if (number >= registers->count)
		return NULL;
	for (size_t i = 0; i < registers->row_count; i++) {
		*index = number;
		if (number < registers->row[i].count)
			return &registers->row[i];
		number -= registers->row[i].count;
	}
	return NULL;
}

unsigned registers_size(const struct registers *registers, unsigned number)
{
	unsigned index;
	const struct register_row *row = find(registers, number, &index);

	return row ? row->size : 0;
}

static bool is_64bit(const struct vcpu_state *state)
{
	return state->efer & EFER_LMA && state->seg[SEG_CS].rights & RIGHTS_L;
}

uint64_t registers_pc(const struct vcpu_state *state)
{
	return is_64bit(state) ? state->rip : (uint32_t)(state->seg[SEG_CS].base + state->rip);
}

static uint64_t *system_register(struct vcpu_state *state, unsigned index)
{
	uint64_t *const place[] = {&state->cr0, &state->cr2, &state->cr3,
	                           &state->cr4, &state->cr8, &state->efer};

	return place[index];
}

static unsigned component(enum kind kind)
{
	return kind == KIND_YMMH                        ? XSTATE_AVX
	       : kind == KIND_XMM || kind == KIND_MXCSR ? XSTATE_SSE
	                                                : XSTATE_X87;
}

static size_t area_offset(enum kind kind, unsigned index)
{
	return kind == KIND_ST ? AREA_ST0 + 16 * index : kind == KIND_XMM ? AREA_XMM0 + 16 * index
	     : kind == KIND_MXCSR                                         ? AREA_MXCSR
	                                                                  : AREA_YMM0 + 16 * index;
}

/* A component that is not marked is in its initial state, whatever the area holds (SDM, Operation of XSAVE). */
static void make_component_valid(struct vcpu_state *state, unsigned mask)
{
	uint8_t *area = state->xsave;

	if (area[AREA_XSTATE_BV] & mask)
		return;
	if (mask == XSTATE_X87) {
		memset(area, 0, AREA_MXCSR);
		memset(area + AREA_ST0, 0, AREA_XMM0 - AREA_ST0);
		area[AREA_FCW] = 0x7f;
		area[AREA_FCW + 1] = 0x03;
	} else if (mask == XSTATE_SSE) {
		memset(area + AREA_XMM0, 0, 256);
	} else {
		memset(area + AREA_YMM0, 0, 256);
	}
	area[AREA_XSTATE_BV] |= (uint8_t)mask;
}

/* The abridged tag word has a bit per physical register; GDB wants the full one (SDM, x87 FPU Tag Word). */
static uint32_t full_tag(const uint8_t *area)
{
	unsigned top = area[AREA_FSW + 1] >> 3 & 7;
	uint32_t tag = 0;

	for (unsigned physical = 0; physical < 8; physical++) {
		const uint8_t *st = area + AREA_ST0 + 16 * ((physical - top) & 7);
		uint64_t mantissa;
		uint16_t exponent;
		unsigned two = 0; /* valid */

		memcpy(&mantissa, st, 8);
		memcpy(&exponent, st + 8, 2);
		exponent &= 0x7fff;
		if (!(area[AREA_FTW] >> physical & 1))
			two = 3; /* empty */
		else if (!exponent && !mantissa)
			two = 1; /* zero */
		else if (exponent == 0x7fff || !(mantissa >> 63))
			two = 2; /* special */
		tag |= two << (2 * physical);
	}
	return tag;
}

static uint32_t get_x87(const uint8_t *area, unsigned index)
{
	static const uint8_t offset[] = {AREA_FCW, AREA_FSW,     AREA_FTW, AREA_FIP + 4,
	                                 AREA_FIP, AREA_FDP + 4, AREA_FDP, AREA_FOP};
	uint32_t value = 0;

	if (index == 2)
		return full_tag(area);
	memcpy(&value, area + offset[index], index == 4 || index == 6 ? 4 : 2);
	return value;
}

static void set_x87(uint8_t *area, unsigned index, uint32_t value)
{
	static const uint8_t offset[] = {AREA_FCW, AREA_FSW,     AREA_FTW, AREA_FIP + 4,
	                                 AREA_FIP, AREA_FDP + 4, AREA_FDP, AREA_FOP};

	if (index == 2) {
		area[AREA_FTW] = 0;
		for (unsigned physical = 0; physical < 8; physical++)
			area[AREA_FTW] |= (uint8_t)(((value >> (2 * physical) & 3) != 3) << physical);
		return;
	}
	memcpy(area + offset[index], &value, index == 4 || index == 6 ? 4 : 2);
}

static uint64_t get_integer(const struct register_row *row, unsigned index, const struct vcpu_state *state)
{
	switch (row->kind) {
	case KIND_GPR:
		return state->gpr[gpr_order[index]];
	case KIND_GPR32:
		return state->gpr[gpr32_order[index]];
	case KIND_PC:
		return registers_pc(state);
	case KIND_FLAGS:
		return state->rflags;
	case KIND_SELECTOR:
		return state->seg[selector_order[index]].selector;
	case KIND_BASE:
		return state->seg[base_order[index]].base;
	case KIND_SYSTEM:
		return *system_register((struct vcpu_state *)state, index);
	default:
		return 0;
	}
}

static void set_integer(const struct register_row *row, unsigned index, struct vcpu_state *state,
                        uint64_t value)
{
	switch (row->kind) {
	case KIND_GPR:
		state->gpr[gpr_order[index]] = value;
		break;
	case KIND_GPR32:
		state->gpr[gpr32_order[index]] = value; /* as an instruction with a 32-bit operand does */
		break;
	case KIND_PC:
		state->rip = is_64bit(state) ? value : (uint32_t)(value - state->seg[SEG_CS].base);
		break;
	case KIND_FLAGS:
		state->rflags = (state->rflags & ~UINT64_C(0x3f7fd5)) | (value & 0x3f7fd5) | 2;
		break;
	case KIND_BASE:
		state->seg[base_order[index]].base = value;
		break;
	case KIND_SYSTEM: /* CR2 only: what a change of the others entails is an instruction's work */
		if (index == 1)
			state->cr2 = value;
		break;
	default: /* selectors: a descriptor would have to be loaded */
		break;
	}
}

static bool is_in_area(enum kind kind)
{
	return kind == KIND_ST || kind == KIND_X87 || kind == KIND_XMM || kind == KIND_MXCSR ||
	       kind == KIND_YMMH;
}

void registers_get(const struct registers *registers, unsigned number, const struct vcpu_state *state,
                   void *value)
{
	unsigned index;
	const struct register_row *row = find(registers, number, &index);
	struct vcpu_state valid;
	uint64_t integer;

	memset(value, 0, row->size);
	if (is_in_area(row->kind)) {
		if (!state->xsave_size)
			return;
		valid = *state;
		make_component_valid(&valid, component(row->kind));
		if (row->kind == KIND_X87) {
			uint32_t word = get_x87(valid.xsave, index);

			memcpy(value, &word, 4);
		} else {
			memcpy(value, valid.xsave + area_offset(row->kind, index), row->size);
		}
		return;
	}
	integer = get_integer(row, index, state);
	memcpy(value, &integer, row->size);
}

void registers_set(const struct registers *registers, unsigned number, struct vcpu_state *state,
                   const void *value)
{
	unsigned index;
	const struct register_row *row = find(registers, number, &index);
	uint64_t integer = 0;

	if (!is_in_area(row->kind)) {
		memcpy(&integer, value, row->size);
		set_integer(row, index, state, integer);
		return;
	}
	if (!state->xsave_size)
		return;
	make_component_valid(state, component(row->kind));
	if (row->kind == KIND_X87) {
		memcpy(&integer, value, 4);
		set_x87(state->xsave, index, (uint32_t)integer);
	} else {
		if (row->kind == KIND_MXCSR) {
			memcpy(&integer, value, 4);
			integer &= 0xffff; /* others would fault when they are loaded */
			value = &integer;
		}
		memcpy(state->xsave + area_offset(row->kind, index), value, row->size);
	}
}

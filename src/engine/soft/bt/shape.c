#include "engine/soft/bt/shape.h"

#include <stdlib.h>
#include <string.h>

#include <Zydis/Zydis.h>

struct shape_cache *shape_cache_create(const struct cpu_model *model)
{
	struct shape_cache *cache = calloc(1, sizeof(*cache));

	if (cache)
		cache->model = model;
	return cache;
}

void shape_cache_destroy(struct shape_cache *cache)
{
	free(cache);
}

/* Does the guest CPU announce the extension that the instruction belongs to? */
static bool announced(const struct cpu_model *model, const ZydisDecodedInstruction *in, enum shape_unit *unit)
{
#define HAS(leaf, reg, bit) cpu_model_has(model, leaf, 0, reg, bit)
	switch (in->meta.isa_ext) {
	case ZYDIS_ISA_EXT_BASE:
		if (in->meta.isa_set == ZYDIS_ISA_SET_CMPXCHG16B)
			return HAS(1, 2, 13);
		if (in->meta.isa_set == ZYDIS_ISA_SET_POPCNT)
			return HAS(1, 2, 23);
		return true;
	case ZYDIS_ISA_EXT_LONGMODE:
		return true;
	case ZYDIS_ISA_EXT_X87:
		*unit = UNIT_X87;
		return true;
	case ZYDIS_ISA_EXT_MMX:
		*unit = UNIT_MMX;
		return true;
	case ZYDIS_ISA_EXT_SSE:
	case ZYDIS_ISA_EXT_SSE2:
		/* MOVNTI alone does not touch SSE state and so does not ask for CR4.OSFXSR: Xen clears pages with it before. */
		if (in->mnemonic != ZYDIS_MNEMONIC_MOVNTI)
			*unit = UNIT_SSE;
		return true;
	case ZYDIS_ISA_EXT_SSE3:
		*unit = in->meta.category == ZYDIS_CATEGORY_X87_ALU ? UNIT_X87 : UNIT_SSE;
		return HAS(1, 2, 0);
	case ZYDIS_ISA_EXT_SSSE3:
		*unit = UNIT_SSE;
		return HAS(1, 2, 9);
	case ZYDIS_ISA_EXT_SSE4:
		if (in->mnemonic == ZYDIS_MNEMONIC_POPCNT)
			return HAS(1, 2, 23);
		if (in->mnemonic == ZYDIS_MNEMONIC_CRC32)
			return HAS(1, 2, 20);
		*unit = UNIT_SSE;
		return HAS(1, 2, 19);
	case ZYDIS_ISA_EXT_AES:
		*unit = UNIT_SSE;
		return HAS(1, 2, 25);
	case ZYDIS_ISA_EXT_PCLMULQDQ:
		*unit = UNIT_SSE;
		return HAS(1, 2, 1);
	case ZYDIS_ISA_EXT_SHA:
		*unit = UNIT_SSE;
		return HAS(7, 1, 29);
	case ZYDIS_ISA_EXT_AVX:
		*unit = UNIT_AVX;
		return HAS(1, 2, 28);
	case ZYDIS_ISA_EXT_AVXAES:
		*unit = UNIT_AVX;
		return HAS(1, 2, 28) && HAS(1, 2, 25);
	case ZYDIS_ISA_EXT_AVX2:
	case ZYDIS_ISA_EXT_AVX2GATHER:
		*unit = UNIT_AVX;
		return HAS(7, 1, 5);
	case ZYDIS_ISA_EXT_FMA:
		*unit = UNIT_AVX;
		return HAS(1, 2, 12);
	case ZYDIS_ISA_EXT_F16C:
		*unit = UNIT_AVX;
		return HAS(1, 2, 29);
	case ZYDIS_ISA_EXT_BMI1:
		return HAS(7, 1, 3);
	case ZYDIS_ISA_EXT_BMI2:
		return HAS(7, 1, 8);
	case ZYDIS_ISA_EXT_LZCNT:
		return cpu_model_has(model, 0x80000001, 0, 2, 5);
	case ZYDIS_ISA_EXT_MOVBE:
		return HAS(1, 2, 22);
	case ZYDIS_ISA_EXT_ADOX_ADCX:
		return HAS(7, 1, 19);
	default:
		return false;
	}
#undef HAS
}

static uint8_t flags_from(ZyanU32 mask)
{
	uint8_t flags = mask & (SHAPE_CF | SHAPE_PF | SHAPE_AF | SHAPE_ZF | SHAPE_SF);

	return flags | (mask & ZYDIS_CPUFLAG_OF ? SHAPE_OF : 0);
}

static uint8_t use_of(const ZydisDecodedOperand *operand)
{
	uint8_t use = 0;

	if (operand->actions & ZYDIS_OPERAND_ACTION_MASK_READ)
		use |= USE_READ;
	if (operand->actions & ZYDIS_OPERAND_ACTION_MASK_WRITE)
		use |= USE_WRITE;
	/* A conditional write (CMOV) keeps the old value otherwise. */
	if (operand->actions & ZYDIS_OPERAND_ACTION_CONDWRITE)
		use |= USE_READ;
	return use;
}

/* Number of a general register of any width, or -1. *byte where it is 8 bits wide. */
static int general_register(ZydisRegister reg, bool *byte)
{
	ZydisRegisterClass class = ZydisRegisterGetClass(reg);

	*byte = class == ZYDIS_REGCLASS_GPR8;
	if (class == ZYDIS_REGCLASS_GPR8 && reg >= ZYDIS_REGISTER_AH && reg <= ZYDIS_REGISTER_BH)
		return reg - ZYDIS_REGISTER_AH;
	if (class == ZYDIS_REGCLASS_GPR8 || class == ZYDIS_REGCLASS_GPR16 || class == ZYDIS_REGCLASS_GPR32 ||
	    class == ZYDIS_REGCLASS_GPR64)
		return ZydisRegisterGetId(ZydisRegisterGetLargestEnclosing(ZYDIS_MACHINE_MODE_LONG_64, reg));
	return -1;
}

static void fill_operand(struct shape *shape, const ZydisDecodedOperand *operand)
{
	bool byte;

	if (operand->type == ZYDIS_OPERAND_TYPE_MEMORY) {
		/* Memory that ModRM does not name (MASKMOVQ), or names through a vector (gathers), would be
		 * the host's own: such an instruction must never run natively. */
		if (operand->encoding != ZYDIS_OPERAND_ENCODING_MODRM_RM || operand->mem.type != ZYDIS_MEMOP_TYPE_MEM) {
			shape->valid = false;
			return;
		}
		shape->memory_size = operand->size / 8;
		shape->memory_use = use_of(operand);
		return;
	}
	if (operand->type != ZYDIS_OPERAND_TYPE_REGISTER)
		return;
	int number = general_register(operand->reg.value, &byte);

	if (number < 0)
		return;
	switch (operand->encoding) {
	case ZYDIS_OPERAND_ENCODING_MODRM_REG:
		shape->reg_use |= use_of(operand);
		shape->reg_is_byte = byte;
		break;
	case ZYDIS_OPERAND_ENCODING_MODRM_RM:
		shape->rm_use |= use_of(operand);
		shape->rm_is_byte = byte;
		break;
	case ZYDIS_OPERAND_ENCODING_NDSNDD:
		shape->vvvv_use |= use_of(operand);
		break;
	default:
		shape->implicit |= 1u << number;
	}
}

/*
 * A shift or rotation by CL or by an immediate that may be zero leaves the flags alone for a count of 0; BSF, BSR
 * and divisions leave undefined ones, on many hosts unchanged.
 */
static bool writes_flags_conditionally(const struct insn *insn)
{
	if (insn->map == 0 && (insn->opcode == 0xf6 || insn->opcode == 0xf7))
		return (insn->reg & 7) >= 6;
	if (insn->map == 0)
		return insn->opcode == 0xc0 || insn->opcode == 0xc1 || insn->opcode == 0xd2 || insn->opcode == 0xd3;
	return insn->map == 1 && (insn->opcode == 0xa4 || insn->opcode == 0xa5 || insn->opcode == 0xac ||
				  insn->opcode == 0xad || insn->opcode == 0xbc || insn->opcode == 0xbd);
}

/*
 * An "undefined" flag may be one that the host leaves as it was. Logic computes AF on every host; about the rest
 * nothing is supposed.
 */
static bool leaves_undefined_flags(const ZydisDecodedInstruction *in)
{
	return in->meta.category != ZYDIS_CATEGORY_LOGICAL;
}

const struct shape *shape_make(struct shape_cache *cache, uint64_t key, const struct insn *insn,
			       const uint8_t *bytes, unsigned length, unsigned code_size)
{
	struct shape *shape = &cache->slot[(key * 0x9e3779b97f4a7c15ull) >> 52];
	ZydisDecodedOperand operands[ZYDIS_MAX_OPERAND_COUNT];
	ZydisDecodedInstruction in;
	ZydisDecoder decoder;
	enum shape_unit unit = UNIT_INTEGER;

	memset(shape, 0, sizeof(*shape));
	shape->key = key;
	if (code_size == 8)
		ZydisDecoderInit(&decoder, ZYDIS_MACHINE_MODE_LONG_64, ZYDIS_STACK_WIDTH_64);
	else if (code_size == 4)
		ZydisDecoderInit(&decoder, ZYDIS_MACHINE_MODE_LEGACY_32, ZYDIS_STACK_WIDTH_32);
	else
		ZydisDecoderInit(&decoder, ZYDIS_MACHINE_MODE_LEGACY_16, ZYDIS_STACK_WIDTH_16);
	if (!ZYAN_SUCCESS(ZydisDecoderDecodeFull(&decoder, bytes, length, &in, operands)) ||
	    in.length != length || !announced(cache->model, &in, &unit))
		return shape;
	shape->valid = true;
	for (unsigned i = 0; i < in.operand_count; i++)
		fill_operand(shape, &operands[i]);
	/* MMX registers are x87's; SSE instructions that touch them count as MMX only where they are MMX's own. */
	shape->unit = unit;
	if (unit == UNIT_INTEGER && in.cpu_flags) {
		const ZydisAccessedFlags *f = in.cpu_flags;

		shape->flags_read = flags_from(f->tested);
		shape->flags_written = flags_from(f->modified | f->set_0 | f->set_1 | f->undefined);
		shape->flags_killed = shape->flags_written;
		if (writes_flags_conditionally(insn))
			shape->flags_killed = 0;
		else if (leaves_undefined_flags(&in))
			shape->flags_killed &= ~flags_from(f->undefined);
	} else if (in.cpu_flags) {
		/* COMISS, PTEST, FCOMI, FCMOV … */
		shape->flags_read = flags_from(in.cpu_flags->tested);
		shape->flags_written = flags_from(in.cpu_flags->modified | in.cpu_flags->set_0 | in.cpu_flags->set_1);
		shape->flags_killed = shape->flags_written;
	}
	shape->may_fault = unit != UNIT_INTEGER || (insn->map == 1 && insn->opcode == 0xc7) ||
			   (insn->map == 0 && (insn->opcode == 0xf6 || insn->opcode == 0xf7) && (insn->reg & 7) >= 6);
	return shape;
}

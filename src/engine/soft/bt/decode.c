#include "engine/soft/bt/decode.h"

#include "engine/vcpu_state.h"

/*
 * What follows the opcode, one character per opcode:
 *   . nothing   m ModRM   b ModRM imm8   z ModRM imm16/32   i imm8   v imm16/32   V imm16/32/64   w imm16
 *   j rel8      J rel16/32   o moffs   F far pointer   E ENTER   g, G group 3   p prefix   ! undefined
 */
static const char form_one_byte[257] =
	"mmmmiv..mmmmiv.p" "mmmmiv..mmmmiv.." "mmmmivp.mmmmivp." "mmmmivp.mmmmivp."
	"................" "................" "..mmppppvzib...." "jjjjjjjjjjjjjjjj"
	"bzbbmmmmmmmmmmmm" "..........F....." "oooo....iv......" "iiiiiiiiVVVVVVVV"
	"bbw.mmbzE.w..i.." "mmmmii..mmmmmmmm" "jjjjiiiiJJFj...." "p.pp..gG......mm";

static const char form_0f[257] =
	"mmmm!...." /* 00-08 */ ".!.!m!!" /* 09-0F */
	"mmmmmmmmmmmmmmmm" "mmmm!!!!mmmmmmmm" "......!.p!p!!!!!"
	"mmmmmmmmmmmmmmmm" "mmmmmmmmmmmmmmmm" "mmmmmmmmmmmmmmmm" "bbbbmmm.mm!!mmmm"
	"JJJJJJJJJJJJJJJJ" "mmmmmmmmmmmmmmmm" "...mbm!!...mbmmm" "mmmmmmmmmmbmmmmm"
	"mmbmbbbm........" "mmmmmmmmmmmmmmmm" "mmmmmmmmmmmmmmmm" "mmmmmmmmmmmmmmmm";

struct reader {
	const uint8_t *bytes;
	unsigned position, available;
	bool exhausted;
};

static uint8_t next_byte(struct reader *r)
{
	if (r->position >= r->available) {
		r->exhausted = true;
		return 0;
	}
	return r->bytes[r->position++];
}

static int64_t next_signed(struct reader *r, unsigned size)
{
	uint64_t value = 0;

	for (unsigned i = 0; i < size; i++)
		value |= (uint64_t)next_byte(r) << (8 * i);
	switch (size) {
	case 1:
		return (int8_t)value;
	case 2:
		return (int16_t)value;
	case 4:
		return (int32_t)value;
	default:
		return (int64_t)value;
	}
}

/* SDM, 16-Bit Addressing Forms with the ModR/M Byte: {base, index} by r/m. */
static const uint8_t base16[8] = { REG_RBX, REG_RBX, REG_RBP, REG_RBP, REG_RSI, REG_RDI, REG_RBP, REG_RBX };
static const uint8_t index16[8] = { REG_RSI,     REG_RDI,     REG_RSI,     REG_RDI,
				    INSN_NO_REG, INSN_NO_REG, INSN_NO_REG, INSN_NO_REG };

static void read_modrm(struct insn *insn, struct reader *r, unsigned code_size, int segment_override)
{
	unsigned rex = insn->rex, mod, rm;
	bool stack_segment = false;

	insn->has_modrm = true;
	insn->modrm = next_byte(r);
	mod = insn->modrm >> 6;
	rm = insn->modrm & 7;
	insn->reg = ((insn->modrm >> 3) & 7) | (rex & 4) << 1;
	insn->rm = rm | (rex & 1) << 3;
	insn->base = insn->index = INSN_NO_REG;
	/* MOV to and from control and debug registers ignores mod. */
	if (mod == 3 || (insn->map == 1 && insn->opcode >= 0x20 && insn->opcode <= 0x23))
		return;
	insn->is_memory = true;
	if (insn->address_size == 2) {
		insn->base = base16[rm];
		insn->index = index16[rm];
		if (mod == 0 && rm == 6) {
			insn->base = INSN_NO_REG;
			insn->displacement = next_signed(r, 2);
		} else if (mod) {
			insn->displacement = next_signed(r, mod == 1 ? 1 : 2);
		}
		stack_segment = insn->base == REG_RBP;
	} else {
		insn->base = insn->rm;
		if (rm == 4) {
			uint8_t sib = next_byte(r);

			insn->scale = sib >> 6;
			insn->index = ((sib >> 3) & 7) | (rex & 2) << 2;
			if (insn->index == REG_RSP)
				insn->index = INSN_NO_REG;
			insn->base = (sib & 7) | (rex & 1) << 3;
			if ((sib & 7) == 5 && mod == 0) {
				insn->base = INSN_NO_REG;
				insn->displacement = next_signed(r, 4);
			}
		} else if (rm == 5 && mod == 0) {
			insn->base = code_size == 8 ? INSN_BASE_RIP : INSN_NO_REG;
			insn->displacement = next_signed(r, 4);
		}
		if (mod)
			insn->displacement = next_signed(r, mod == 1 ? 1 : 4);
		stack_segment = insn->base == REG_RSP || insn->base == REG_RBP;
	}
	if (segment_override >= 0)
		insn->segment = segment_override;
	else
		insn->segment = stack_segment ? SEG_SS : SEG_DS;
}

static void read_vex(struct insn *insn, struct reader *r, uint8_t first, unsigned code_size)
{
	uint8_t second = next_byte(r), last = second;
	unsigned rex = (~second >> 5) & 4; /* R */

	insn->prefixes |= PREFIX_VEX;
	insn->map = 1;
	if (first == 0xc4) {
		rex |= (~second >> 5) & 3; /* X, B */
		insn->map = second & 0x1f;
		last = next_byte(r);
		if (last & 0x80)
			rex |= 8;
	}
	if (code_size != 8)
		rex &= 8;
	insn->rex = rex;
	insn->vex_vvvv = (~last >> 3) & (code_size == 8 ? 15 : 7);
	insn->vex_l = (last >> 2) & 1;
	insn->vex_pp = last & 3;
}

static void read_immediate(struct insn *insn, struct reader *r, char form)
{
	unsigned z = insn->operand_size == 2 ? 2 : 4;

	switch (form) {
	case 'g':
	case 'G':
		if ((insn->reg & 7) < 2)
			insn->imm_size = form == 'g' ? 1 : z;
		break;
	case 'b':
	case 'i':
	case 'j':
		insn->imm_size = 1;
		break;
	case 'z':
	case 'v':
	case 'J':
		insn->imm_size = z;
		break;
	case 'V':
		insn->imm_size = insn->operand_size;
		break;
	case 'w':
		insn->imm_size = 2;
		break;
	case 'F':
		insn->imm_size = z;
		break;
	case 'E':
		insn->imm_size = 2;
		break;
	}
	if (insn->imm_size)
		insn->imm = next_signed(r, insn->imm_size);
	if (form == 'F')
		insn->imm2 = next_signed(r, 2);
	else if (form == 'E')
		insn->imm2 = next_byte(r);
}

/* In 64-bit mode. */
static bool is_prefix(uint8_t byte)
{
	switch (byte) {
	case 0x26:
	case 0x2e:
	case 0x36:
	case 0x3e:
	case 0x40 ... 0x4f:
	case 0x64 ... 0x67:
	case 0xf0:
	case 0xf2:
	case 0xf3:
		return true;
	default:
		return false;
	}
}

enum decode_result decode(struct insn *insn, const uint8_t *bytes, unsigned available, unsigned code_size,
			  bool vex)
{
	struct reader r = { bytes, 0, available > INSN_MAX_LENGTH ? INSN_MAX_LENGTH : available, false };
	int segment_override = -1;
	uint8_t byte;
	char form;

	*insn = (struct insn){ .base = INSN_NO_REG, .index = INSN_NO_REG, .segment = SEG_DS };
	for (;;) {
		byte = next_byte(&r);
		if (r.exhausted)
			goto exhausted;
		switch (byte) {
		case 0x26:
		case 0x2e:
		case 0x36:
		case 0x3e:
			if (code_size != 8) {
				segment_override = (byte >> 3) & 3;
				insn->prefixes |= PREFIX_SEGMENT;
			}
			break;
		case 0x64:
		case 0x65:
			segment_override = byte == 0x64 ? SEG_FS : SEG_GS;
			insn->prefixes |= PREFIX_SEGMENT;
			break;
		case 0x66:
			insn->prefixes |= PREFIX_OPSIZE;
			break;
		case 0x67:
			insn->prefixes |= PREFIX_ADDRSIZE;
			break;
		case 0xf0:
			insn->prefixes |= PREFIX_LOCK;
			break;
		case 0xf2:
			insn->prefixes = (insn->prefixes & ~PREFIX_REP) | PREFIX_REPNE;
			break;
		case 0xf3:
			insn->prefixes = (insn->prefixes & ~PREFIX_REPNE) | PREFIX_REP;
			break;
		default:
			/* A REX prefix counts only directly before the opcode; before another prefix it is void. */
			if (code_size == 8 && (byte & 0xf0) == 0x40 && r.position < r.available &&
			    is_prefix(bytes[r.position]))
				break;
			goto prefixes_done;
		}
	}
prefixes_done:
	if (code_size == 8 && (byte & 0xf0) == 0x40) {
		insn->rex = byte;
		insn->prefixes |= PREFIX_REX;
		byte = next_byte(&r);
	}
	if (insn->rex & 8)
		insn->operand_size = 8;
	else if (insn->prefixes & PREFIX_OPSIZE)
		insn->operand_size = code_size == 2 ? 4 : 2;
	else
		insn->operand_size = code_size == 2 ? 2 : 4;
	if (insn->prefixes & PREFIX_ADDRSIZE)
		insn->address_size = code_size == 4 ? 2 : 4;
	else
		insn->address_size = code_size;

	if ((byte == 0xc4 || byte == 0xc5) && vex && !r.exhausted &&
	    (code_size == 8 || (r.position < r.available && bytes[r.position] >= 0xc0))) {
		if (insn->prefixes & (PREFIX_REX | PREFIX_LOCK | PREFIX_OPSIZE | PREFIX_REP | PREFIX_REPNE)) {
			insn->length = r.position;
			return DECODE_INVALID;
		}
		read_vex(insn, &r, byte, code_size);
		insn->operand_size = insn->rex & 8 ? 8 : 4;
		insn->opcode = next_byte(&r);
		if (r.exhausted)
			goto exhausted;
		if (insn->map < 1 || insn->map > 3) {
			insn->length = r.position;
			return DECODE_INVALID;
		}
		form = insn->map == 1 ? form_0f[insn->opcode] : insn->map == 2 ? 'm' : 'b';
	} else if (byte == 0x0f) {
		insn->map = 1;
		insn->opcode = next_byte(&r);
		if (insn->opcode == 0x38 || insn->opcode == 0x3a) {
			insn->map = insn->opcode == 0x38 ? 2 : 3;
			insn->opcode = next_byte(&r);
			form = insn->map == 2 ? 'm' : 'b';
		} else {
			form = form_0f[insn->opcode];
		}
	} else {
		insn->opcode = byte;
		form = form_one_byte[byte];
		if (byte == 0x62 && (code_size == 8 || (r.position < r.available && bytes[r.position] >= 0xc0)))
			form = '!'; /* EVEX is not announced */
	}
	if (r.exhausted)
		goto exhausted;
	if (form == '!' || form == 'p') {
		insn->length = r.position;
		return DECODE_INVALID;
	}

	/* Near branches, PUSH, POP … are 64 bits wide in 64-bit mode; branches ignore 66H there. */
	if (code_size == 8 && (form == 'j' || form == 'J') && !(insn->prefixes & PREFIX_VEX))
		insn->operand_size = 8;
	if (form == 'm' || form == 'b' || form == 'z' || form == 'g' || form == 'G')
		read_modrm(insn, &r, code_size, segment_override);
	else if (segment_override >= 0)
		insn->segment = segment_override;
	if (form == 'o') {
		uint64_t offset = 0;

		for (unsigned i = 0; i < insn->address_size; i++)
			offset |= (uint64_t)next_byte(&r) << (8 * i);
		insn->displacement = offset;
		insn->is_memory = true;
	} else {
		read_immediate(insn, &r, form);
	}
	insn->length = r.position;
	if (!r.exhausted)
		return DECODE_OK;
exhausted:
	insn->length = r.position;
	return available >= INSN_MAX_LENGTH ? DECODE_LONG : DECODE_SHORT;
}

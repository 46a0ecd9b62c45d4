/*
 * The VM-exit instruction-information field (SDM, VM-Exit Instruction Identification), and what must be known
 * of the instruction at rip when the exit comes from the memory system: whether it is IRET, and how long it
 * is.
 */
#include "engine/soft/vmx/vmx_local.h"

/* 0: 16-bit, 1: 32-bit, 2: 64-bit. */
static uint32_t size_code(unsigned bytes)
{
	return bytes == 2 ? 0 : bytes == 4 ? 1 : 2;
}

static bool has_base(const struct insn *insn)
{
	return insn->base != INSN_NO_REG && insn->base != INSN_BASE_RIP;
}

/* Scaling, address size, segment, index and base, or register operand 1: the part that most tables share. */
uint32_t insn_info_memory(const struct insn *insn)
{
	uint32_t information;

	if (!insn->is_memory)
		return (uint32_t)insn->rm << 3 | 1u << 10;
	information = size_code(insn->address_size) << 7 | (uint32_t)insn->segment << 15;
	if (insn->index == INSN_NO_REG)
		information |= 1u << 22;
	else
		information |= insn->scale | (uint32_t)insn->index << 18;
	if (has_base(insn))
		information |= (uint32_t)insn->base << 23;
	else
		information |= 1u << 27;
	return information;
}

uint32_t insn_info_register_memory(const struct insn *insn)
{
	return insn_info_memory(insn) | (uint32_t)insn->reg << 28;
}

/* 0F 01 /0 SGDT, /1 SIDT, /2 LGDT, /3 LIDT. The operand size is undefined in 64-bit mode. */
uint32_t insn_info_gdtr_idtr(const struct cpu *cpu, const struct insn *insn)
{
	uint32_t wide = !cpu_is_64bit(cpu) && insn->operand_size == 4;

	return insn_info_memory(insn) | wide << 11 | (uint32_t)(insn->reg & 3) << 28;
}

/* 0F 00 /0 SLDT, /1 STR, /2 LLDT, /3 LTR. */
uint32_t insn_info_ldtr_tr(const struct insn *insn)
{
	return insn_info_memory(insn) | (uint32_t)(insn->reg & 3) << 28;
}

uint32_t insn_info_random(const struct insn *insn)
{
	return (uint32_t)insn->rm << 3 | size_code(insn->operand_size) << 11;
}

/* INS writes to ES by definition, so its segment is not reported. */
uint32_t insn_info_string_io(const struct insn *insn)
{
	bool ins = (insn->opcode & ~1u) == 0x6c;

	return size_code(insn->address_size) << 7 | (ins ? 0 : (uint32_t)insn->segment << 15);
}

/* ---- the instruction at rip ---- */

#define INSN_MAX 15

/* Up to INSN_MAX bytes at CS:RIP; returns how many could be read. */
static unsigned fetch_bytes(struct cpu *cpu, uint8_t *bytes)
{
	unsigned count = 0;

	while (count < INSN_MAX) {
		uint64_t linear = cpu->rip + count;
		unsigned chunk;
		gpa_t gpa;

		if (!cpu_is_64bit(cpu))
			linear = (uint32_t)(cpu->seg[SEG_CS].base + linear);
		if (!mem_probe(cpu, GLA(linear), &gpa))
			break;
		chunk = PAGE_SIZE - (linear & ~PAGE_MASK);
		if (chunk > INSN_MAX - count)
			chunk = INSN_MAX - count;
		/* RAM only: looking at a device's registers could change them. */
		if (!guest_memory_host(cpu->memory, gpa, chunk))
			break;
		phys_read_block(cpu, gpa, bytes + count, chunk);
		count += chunk;
	}
	return count;
}

struct cursor {
	const uint8_t *bytes;
	unsigned count, at;
	bool code64, operand16, address16, rex_w;
};

static int next_byte(struct cursor *c)
{
	return c->at < c->count ? c->bytes[c->at++] : -1;
}

/* Prefixes with their effect on sizes; returns the first byte of the opcode, or -1. */
static int skip_prefixes(struct cpu *cpu, struct cursor *c)
{
	int byte;

	c->code64 = cpu_is_64bit(cpu);
	c->operand16 = c->address16 = !(cpu->mode & (MODE_CODE32 | MODE_CODE64));
	while ((byte = next_byte(c)) >= 0) {
		switch (byte) {
		case 0x66:
			c->operand16 = c->code64 || (cpu->mode & MODE_CODE32);
			break;
		case 0x67:
			c->address16 = !c->code64 && (cpu->mode & MODE_CODE32);
			break;
		case 0x26:
		case 0x2e:
		case 0x36:
		case 0x3e:
		case 0x64:
		case 0x65:
		case 0xf0:
		case 0xf2:
		case 0xf3:
			break;
		default:
			if (c->code64 && (byte & 0xf0) == 0x40) {
				c->rex_w = byte & 8;
				return next_byte(c);
			}
			return byte;
		}
	}
	return -1;
}

bool insn_is_iret_at_rip(struct cpu *cpu)
{
	uint8_t bytes[INSN_MAX];
	struct cursor c = {.bytes = bytes, .count = fetch_bytes(cpu, bytes)};

	return skip_prefixes(cpu, &c) == 0xcf;
}

/* ModRM, SIB and displacement. Returns ModRM or -1. */
static int skip_modrm(struct cursor *c)
{
	int modrm = next_byte(c), mod = modrm >> 6, rm = modrm & 7, sib;

	if (modrm < 0 || mod == 3)
		return modrm;
	if (c->address16) {
		c->at += mod == 1 ? 1 : mod == 2 || rm == 6 ? 2 : 0;
		return modrm;
	}
	if (rm == 4) {
		sib = next_byte(c);
		if (sib < 0)
			return -1;
		rm = sib & 7;
	}
	c->at += mod == 1 ? 1 : mod == 2 || rm == 5 ? 4 : 0;
	return modrm;
}

static bool one_byte_has_modrm(unsigned op)
{
	if (op < 0x40)
		return (op & 7) < 4;
	switch (op) {
	case 0x63:
	case 0x69:
	case 0x6b:
	case 0xc0:
	case 0xc1:
	case 0xc4:
	case 0xc5:
	case 0xc6:
	case 0xc7:
	case 0xf6:
	case 0xf7:
	case 0xfe:
	case 0xff:
		return true;
	default:
		return (op >= 0x80 && op <= 0x8f) || (op >= 0xd0 && op <= 0xd3) || (op >= 0xd8 && op <= 0xdf);
	}
}

/* Bytes of immediate behind a one-byte opcode. Far pointers and far calls do not access memory operands that
 * could bring us here, but cost nothing to know. */
static unsigned one_byte_immediate(const struct cursor *c, unsigned op, unsigned modrm)
{
	unsigned z = c->operand16 && !c->rex_w ? 2 : 4;

	if (op < 0x40)
		return (op & 7) == 4 ? 1 : (op & 7) == 5 ? z : 0;
	switch (op) {
	case 0x68:
	case 0x69:
	case 0x81:
	case 0xa9:
	case 0xc7:
	case 0xe8:
	case 0xe9:
		return z;
	case 0x6a:
	case 0x6b:
	case 0x80:
	case 0x82:
	case 0x83:
	case 0xa8:
	case 0xc0:
	case 0xc1:
	case 0xc6:
	case 0xcd:
	case 0xd4:
	case 0xd5:
	case 0xeb:
		return 1;
	case 0x9a:
	case 0xea:
		return z + 2;
	case 0xa0:
	case 0xa1:
	case 0xa2:
	case 0xa3:
		return c->address16 ? 2 : c->code64 ? 8 : 4;
	case 0xc2:
	case 0xca:
		return 2;
	case 0xc8:
		return 3;
	case 0xf6:
		return (modrm & 0x38) < 0x10 ? 1 : 0;
	case 0xf7:
		return (modrm & 0x38) < 0x10 ? z : 0;
	default:
		if (op >= 0x70 && op <= 0x7f)
			return 1;
		if (op >= 0xb0 && op <= 0xb7)
			return 1;
		if (op >= 0xb8 && op <= 0xbf)
			return c->rex_w ? 8 : z;
		return op >= 0xe0 && op <= 0xe7 ? 1 : 0;
	}
}

static bool two_byte_has_modrm(unsigned op)
{
	return !((op >= 0x05 && op <= 0x09) || op == 0x0b || op == 0x0e || (op >= 0x30 && op <= 0x37) ||
	         op == 0x77 || (op >= 0x80 && op <= 0x8f) || (op >= 0xa0 && op <= 0xa2) ||
	         (op >= 0xa8 && op <= 0xaa) || (op >= 0xc8 && op <= 0xcf));
}

static unsigned two_byte_immediate(const struct cursor *c, unsigned op)
{
	if (op >= 0x80 && op <= 0x8f)
		return c->operand16 ? 2 : 4;
	return (op >= 0x70 && op <= 0x73) || op == 0xa4 || op == 0xac || op == 0xba || op == 0xc2 ||
	       (op >= 0xc4 && op <= 0xc6);
}

/* Map 1 (0F), 2 (0F 38), 3 (0F 3A), also behind VEX. */
static bool skip_map(struct cursor *c, unsigned map)
{
	int op = next_byte(c);

	if (op < 0)
		return false;
	if (map == 1 && !two_byte_has_modrm(op)) {
		c->at += two_byte_immediate(c, op);
		return true;
	}
	if (skip_modrm(c) < 0)
		return false;
	c->at += map == 3 ? 1 : map == 1 ? two_byte_immediate(c, op) : 0;
	return true;
}

/* C4 and C5: VEX, but LES and LDS outside 64-bit mode where the next byte is a memory ModRM. */
static bool is_vex(const struct cursor *c, int op)
{
	return (op == 0xc4 || op == 0xc5) && c->at < c->count && (c->code64 || c->bytes[c->at] >= 0xc0);
}

static bool skip_insn(struct cpu *cpu, struct cursor *c)
{
	int op = skip_prefixes(cpu, c), modrm = 0;

	if (op < 0)
		return false;
	if (is_vex(c, op)) {
		int byte = next_byte(c);

		if (op == 0xc4)
			c->at++;
		return skip_map(c, op == 0xc5 ? 1 : byte & 0x1f);
	}
	if (op == 0x0f) {
		int second = c->at < c->count ? c->bytes[c->at] : -1;

		if (second == 0x38 || second == 0x3a)
			c->at++;
		return skip_map(c, second == 0x38 ? 2 : second == 0x3a ? 3 : 1);
	}
	if (one_byte_has_modrm(op)) {
		modrm = skip_modrm(c);
		if (modrm < 0)
			return false;
	}
	c->at += one_byte_immediate(c, op, modrm);
	return true;
}

unsigned insn_length_at_rip(struct cpu *cpu)
{
	uint8_t bytes[INSN_MAX];
	struct cursor c = {.bytes = bytes, .count = fetch_bytes(cpu, bytes)};

	return skip_insn(cpu, &c) && c.at <= c.count ? c.at : 0;
}

/* IN, OUT, INS, OUTS (SDM, Input/Output). */
#include "engine/soft/cpu/descriptor.h"
#include "engine/soft/cpu/hot.h"
#include "engine/soft/cpu/memory.h"
#include "engine/soft/cpu/ops.h"

#define TSS_IO_MAP_BASE 102u /* offset of the I/O map base address */

#define ITERATIONS_MAX 1024u /* of a REP form, before the dispatcher may look up */

/* SDM, Exit Qualification for I/O Instructions */
#define IO_IN        (1u << 3)
#define IO_STRING    (1u << 4)
#define IO_REP       (1u << 5)
#define IO_IMMEDIATE (1u << 6)

static unsigned access_size(const struct insn *insn)
{
	if (!(insn->opcode & 1))
		return 1;
	return insn->operand_size == 2 ? 2 : 4;
}

/* SDM, I/O Permission Bit Map: every bit of the ports touched must be 0, and its byte within the TSS. */
static bool bitmap_permits(struct cpu *cpu, uint16_t port, unsigned size)
{
	const struct segment *tr = &cpu->seg[SEG_TR];
	unsigned type = RIGHTS_TYPE(tr->rights);
	uint64_t offset;
	uint32_t bits;

	if (!(tr->rights & RIGHTS_P) || (type != TYPE_TSS && type != TYPE_TSS_BUSY) ||
	    tr->limit < TSS_IO_MAP_BASE + 1)
		return false;
	offset = mem_read_linear(cpu, GLA(tr->base + TSS_IO_MAP_BASE), 2, mem_class_system(cpu)) + port / 8;
	/* The processor reads two bytes, so that an access across a byte's end needs no second look. */
	if (offset + 1 > tr->limit)
		return false;
	bits = (uint32_t)mem_read_linear(cpu, GLA(tr->base + offset), 2, mem_class_system(cpu));
	return !(bits >> port % 8 & ((1u << size) - 1));
}

static void check_permission(struct cpu *cpu, uint16_t port, unsigned size)
{
	bool v86 = cpu->rflags_system & FLAG_VM;

	if (!(cpu->cr0 & CR0_PE))
		return;
	if (!v86 && cpu->cpl <= (cpu->rflags_system >> 12 & 3))
		return;
	if (!bitmap_permits(cpu, port, size))
		cpu_raise_error(cpu, VECTOR_GP, 0);
}

/* SDM, Data Memory and I/O Breakpoint Exception Conditions: R/W = 10B with CR4.DE; a trap. */
static void note_io(struct cpu *cpu, uint16_t port, unsigned size)
{
	for (unsigned i = 0; i < 4; i++) {
		unsigned control = cpu->dr7 >> (16 + 4 * i);
		unsigned length = (control >> 2 & 3) + 1; /* 10B is undefined here */
		uint64_t first = cpu->dr[i] & ~(uint64_t)(length - 1);

		if (!(cpu->dr7 >> 2 * i & 3) || (control & 3) != 2)
			continue;
		if (first >= (uint64_t)port + size || port >= first + length)
			continue;
		cpu->dr6_pending |= 1u << i;
		cpu->debug_trap_pending = true;
	}
}

static void check(struct cpu *cpu, const struct insn *insn, uint16_t port, unsigned size, unsigned how)
{
	check_permission(cpu, port, size);
	if (cpu->virt)
		cpu->virt->instruction(cpu, INTERCEPT_IO, (uint32_t)port << 16 | how | (size - 1), insn);
	if (__builtin_expect(cpu->cr4 & CR4_DE && cpu->dr7 & 0xff, 0))
		note_io(cpu, port, size);
}

/* E4-E7: immediate port; EC-EF: DX. */
static uint16_t port_operand(const struct cpu *cpu, const struct insn *insn, unsigned *how)
{
	if (insn->opcode & 8)
		return (uint16_t)cpu->gpr[REG_RDX];
	*how |= IO_IMMEDIATE;
	return (uint8_t)insn->imm;
}

void op_in(struct cpu *cpu, const struct insn *insn)
{
	unsigned size = access_size(insn), how = IO_IN;
	uint16_t port = port_operand(cpu, insn, &how);

	check(cpu, insn, port, size, how);
	operand_set_register(cpu, insn, REG_RAX, size, cpu_host_pio_read(cpu, port, size));
}

void op_out(struct cpu *cpu, const struct insn *insn)
{
	unsigned size = access_size(insn), how = 0;
	uint16_t port = port_operand(cpu, insn, &how);

	check(cpu, insn, port, size, how);
	cpu_host_pio_write(cpu, port, size, (uint32_t)operand_register(cpu, insn, REG_RAX, size));
}

/* ---- string forms ---- */

static bool repeats(const struct insn *insn)
{
	return insn->prefixes & (PREFIX_REP | PREFIX_REPNE);
}

static void advance(struct cpu *cpu, const struct insn *insn, unsigned number, unsigned size)
{
	uint64_t step = cpu->rflags_system & FLAG_DF ? -(uint64_t)size : size;
	uint64_t value = operand_register(cpu, insn, number, insn->address_size) + step;

	operand_set_register(cpu, insn, number, insn->address_size, value);
}

/* The destination is checked before the port is read: reading may have effects that a fault must not repeat.
 */
static void ins_once(struct cpu *cpu, const struct insn *insn, uint16_t port, unsigned size)
{
	uint64_t offset = operand_register(cpu, insn, REG_RDI, insn->address_size);
	gla_t address = mem_linear(cpu, SEG_ES, offset, size, ACCESS_WRITE);

	mem_check_write(cpu, address, size, mem_class(cpu));
	mem_write(cpu, SEG_ES, offset, size, cpu_host_pio_read(cpu, port, size));
	advance(cpu, insn, REG_RDI, size);
}

static void outs_once(struct cpu *cpu, const struct insn *insn, uint16_t port, unsigned size)
{
	unsigned segment = insn->prefixes & PREFIX_SEGMENT ? insn->segment : SEG_DS;
	uint64_t offset = operand_register(cpu, insn, REG_RSI, insn->address_size);
	uint32_t value = (uint32_t)mem_read(cpu, segment, offset, size);

	cpu_host_pio_write(cpu, port, size, value);
	advance(cpu, insn, REG_RSI, size);
}

static void string_io(struct cpu *cpu, const struct insn *insn, unsigned how,
                      void (*once)(struct cpu *, const struct insn *, uint16_t, unsigned))
{
	uint16_t port = (uint16_t)cpu->gpr[REG_RDX];
	unsigned size = access_size(insn);
	uint64_t count;

	if (!repeats(insn)) {
		check(cpu, insn, port, size, how);
		once(cpu, insn, port, size);
		return;
	}
	count = operand_register(cpu, insn, REG_RCX, insn->address_size);
	if (!count)
		return;
	check(cpu, insn, port, size, how | IO_REP);
	for (unsigned done = 1;; done++) {
		once(cpu, insn, port, size);
		operand_set_register(cpu, insn, REG_RCX, insn->address_size, --count);
		if (!count)
			return;
		/* Between iterations an event may be taken; the instruction then starts over with the rest.
		 */
		if (done == ITERATIONS_MAX || cpu->mode & MODE_STEP ||
		    __atomic_load_n(&cpu->kick, __ATOMIC_RELAXED)) {
			cpu->next_rip = cpu->rip;
			return;
		}
	}
}

void op_ins(struct cpu *cpu, const struct insn *insn)
{
	string_io(cpu, insn, IO_IN | IO_STRING, ins_once);
}

void op_outs(struct cpu *cpu, const struct insn *insn)
{
	string_io(cpu, insn, IO_STRING, outs_once);
}

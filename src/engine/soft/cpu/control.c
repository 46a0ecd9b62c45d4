/*
 * Control and debug registers, invalidations, and the instructions that wait.
 *
 * Order of checks (SDM, Relative Priority of Faults and VM Exits): undefined opcodes and privilege come
 * before a VM exit, everything that depends on the value comes after it. MOV DR is the manual's own
 * exception.
 */
#include "engine/soft/cpu/apic.h"
#include "engine/soft/cpu/descriptor.h"
#include "engine/soft/cpu/host_call.h"
#include "engine/soft/cpu/hot.h"
#include "engine/soft/cpu/memory.h"
#include "engine/soft/cpu/ops.h"

#define CR0_DEFINED                                                                                          \
	(CR0_PE | CR0_MP | CR0_EM | CR0_TS | CR0_ET | CR0_NE | CR0_WP | CR0_AM | CR0_NW | CR0_CD | CR0_PG)

#define CR3_KEEP (1ull << 63) /* CR4.PCIDE: do not invalidate */

#define DR6_WRITABLE 0x0000e00fu
#define DR6_FIXED    0xffff0ff0u
#define DR6_BD       (1u << 13)
#define DR7_WRITABLE 0xffff23ffu
#define DR7_FIXED    0x00000400u
#define DR7_GD       (1u << 13)

enum cr_access { CR_MOV = 0, CR_CLTS = 2, CR_LMSW = 3 }; /* as virt->write_cr wants it */

static void intercept(struct cpu *cpu, enum intercept what, uint64_t info, const struct insn *insn)
{
	if (cpu->virt)
		cpu->virt->instruction(cpu, what, info, insn);
}

static void require_cpl0(struct cpu *cpu)
{
	if (cpu->cpl)
		cpu_raise_error(cpu, VECTOR_GP, 0);
}

static _Noreturn void general_protection(struct cpu *cpu)
{
	cpu_raise_error(cpu, VECTOR_GP, 0);
}

static unsigned register_size(const struct cpu *cpu)
{
	return cpu_is_64bit(cpu) ? 8 : 4;
}

/* ---- CR0, CR3, CR4: legality, then the load ---- */

/* Would these registers mean PAE paging, whose PDPTEs are loaded into registers? */
static bool pae_paging(const struct cpu *cpu, uint64_t cr0, uint64_t cr4)
{
	return cr0 & CR0_PG && cr4 & CR4_PAE && !(cpu->efer & EFER_LME);
}

static void load_pdptes(struct cpu *cpu, uint64_t cr3, uint64_t pdpte[4])
{
	if (!cpu_read_pdptes(cpu, cr3, pdpte))
		general_protection(cpu);
}

static void keep_pdptes(struct cpu *cpu, const uint64_t pdpte[4])
{
	for (unsigned i = 0; i < 4; i++)
		cpu->pdpte[i] = pdpte[i];
}

/* SDM, MOV—Move to/from Control Registers, and Control Registers */
static void load_cr0(struct cpu *cpu, uint64_t value)
{
	uint64_t changed, pdpte[4];
	bool reload;

	if (value >> 32)
		general_protection(cpu);
	if (!cpu->virt && ~value & cpu->cr0_must_set)
		general_protection(cpu);
	value = (value & CR0_DEFINED) | CR0_ET;
	if (value & CR0_PG && !(value & CR0_PE))
		general_protection(cpu);
	if (value & CR0_NW && !(value & CR0_CD))
		general_protection(cpu);
	changed = value ^ cpu->cr0;
	if (changed & CR0_PG) {
		bool code64 = cpu->seg[SEG_CS].rights & RIGHTS_L;

		if (value & CR0_PG) {
			if (cpu->efer & EFER_LME && (!(cpu->cr4 & CR4_PAE) || code64))
				general_protection(cpu);
		} else if (cpu_is_64bit(cpu) || cpu->cr4 & CR4_PCIDE) {
			general_protection(cpu);
		}
	}
	reload = changed & (CR0_PG | CR0_CD | CR0_NW) && pae_paging(cpu, value, cpu->cr4);
	if (reload)
		load_pdptes(cpu, cpu->cr3, pdpte);
	cpu_load_cr0(cpu, value);
	if (reload)
		keep_pdptes(cpu, pdpte);
}

static void load_cr3(struct cpu *cpu, uint64_t value)
{
	bool keep = cpu->cr4 & CR4_PCIDE && value & CR3_KEEP;
	uint64_t pdpte[4];

	if (keep)
		value &= ~CR3_KEEP;
	if (value >> cpu->model->physical_address_bits)
		general_protection(cpu);
	if (pae_paging(cpu, cpu->cr0, cpu->cr4)) {
		load_pdptes(cpu, value, pdpte);
		cpu_load_cr3(cpu, value, keep);
		keep_pdptes(cpu, pdpte);
		return;
	}
	cpu_load_cr3(cpu, value, keep);
}

static void load_cr4(struct cpu *cpu, uint64_t value)
{
	uint64_t changed = value ^ cpu->cr4, pdpte[4];
	bool long_mode = cpu->efer & EFER_LMA, reload;

	if (value & ~cpu_cr4_allowed(cpu))
		general_protection(cpu);
	if (!cpu->virt && ~value & cpu->cr4_must_set)
		general_protection(cpu);
	if (long_mode && !(value & CR4_PAE))
		general_protection(cpu);
	if (changed & value & CR4_PCIDE && (!long_mode || cpu->cr3 & 0xfff))
		general_protection(cpu);
	reload = changed & (CR4_PAE | CR4_PSE | CR4_PGE | CR4_SMEP) && pae_paging(cpu, cpu->cr0, value);
	if (reload)
		load_pdptes(cpu, cpu->cr3, pdpte);
	cpu_load_cr4(cpu, value);
	if (reload)
		keep_pdptes(cpu, pdpte);
}

static void load_cr8(struct cpu *cpu, uint64_t value, const struct insn *insn)
{
	if (value & ~0xfull)
		general_protection(cpu);
	if (cpu->virt)
		value = cpu->virt->write_cr(cpu, 8, CR_MOV, value, insn);
	apic_set_cr8(cpu, value);
}

/* ---- the instructions on control registers ---- */

/* CR0, CR2, CR3, CR4; in 64-bit mode CR8 as well. */
static void require_cr(struct cpu *cpu, unsigned number)
{
	if (number == 1 || (number > 4 && (number != 8 || !cpu_is_64bit(cpu))))
		cpu_raise(cpu, VECTOR_UD);
}

void op_mov_to_cr(struct cpu *cpu, const struct insn *insn)
{
	unsigned number = insn->reg;
	uint64_t value;

	require_cr(cpu, number);
	require_cpl0(cpu);
	value = operand_register(cpu, insn, insn->rm, register_size(cpu));
	if (number == 8) {
		load_cr8(cpu, value, insn);
		return;
	}
	if (cpu->virt && number != 2)
		value = cpu->virt->write_cr(cpu, number, CR_MOV, value, insn);
	switch (number) {
	case 0:
		load_cr0(cpu, value);
		break;
	case 2:
		cpu->cr2 = value;
		break;
	case 3:
		load_cr3(cpu, value);
		break;
	case 4:
		load_cr4(cpu, value);
		break;
	}
}

void op_mov_from_cr(struct cpu *cpu, const struct insn *insn)
{
	unsigned number = insn->reg;
	uint64_t value = 0;

	require_cr(cpu, number);
	require_cpl0(cpu);
	if (cpu->virt && number != 2) {
		value = cpu->virt->read_cr(cpu, number, insn);
	} else {
		switch (number) {
		case 0:
			value = cpu->cr0;
			break;
		case 2:
			value = cpu->cr2;
			break;
		case 3:
			value = cpu->cr3;
			break;
		case 4:
			value = cpu->cr4;
			break;
		case 8:
			value = apic_cr8(cpu);
			break;
		}
	}
	operand_set_register(cpu, insn, insn->rm, register_size(cpu), value);
}

void op_lmsw(struct cpu *cpu, const struct insn *insn)
{
	uint64_t source, value;

	require_cpl0(cpu);
	source = operand_rm(cpu, insn, 2);
	if (cpu->virt)
		value = cpu->virt->write_cr(cpu, 0, CR_LMSW, source, insn);
	else /* PE can be set but not cleared */
		value = (cpu->cr0 & ~(uint64_t)(CR0_MP | CR0_EM | CR0_TS)) | (source & 0xf);
	load_cr0(cpu, value);
}

void op_smsw(struct cpu *cpu, const struct insn *insn)
{
	uint64_t value;

	if (cpu->cr4 & CR4_UMIP && cpu->cpl)
		general_protection(cpu);
	value = cpu->virt ? cpu->virt->read_cr(cpu, 0, insn) : cpu->cr0;
	if (insn->is_memory)
		operand_set_rm(cpu, insn, 2, value & 0xffff);
	else
		operand_set_register(cpu, insn, insn->rm, insn->operand_size, value);
}

void op_clts(struct cpu *cpu, const struct insn *insn)
{
	uint64_t value;

	require_cpl0(cpu);
	if (cpu->virt)
		value = cpu->virt->write_cr(cpu, 0, CR_CLTS, 0, insn);
	else
		value = cpu->cr0 & ~(uint64_t)CR0_TS;
	load_cr0(cpu, value);
}

/* ---- debug registers ---- */

/* SDM, MOV DR: the VM exit comes before the privilege check and before #UD for DR4 and DR5. */
static unsigned debug_register(struct cpu *cpu, const struct insn *insn, enum intercept what)
{
	unsigned number = insn->reg;

	if (number > 7)
		cpu_raise(cpu, VECTOR_UD);
	intercept(cpu, what, number, insn);
	if (number == 4 || number == 5) {
		if (cpu->cr4 & CR4_DE)
			cpu_raise(cpu, VECTOR_UD);
		number += 2;
	}
	require_cpl0(cpu);
	if (cpu->dr7 & DR7_GD)
		cpu_raise_debug(cpu, DR6_BD);
	return number;
}

void op_mov_from_dr(struct cpu *cpu, const struct insn *insn)
{
	unsigned number = debug_register(cpu, insn, INTERCEPT_MOV_FROM_DR);
	uint64_t value = number < 4 ? cpu->dr[number] : number == 6 ? cpu->dr6 : cpu->dr7;

	operand_set_register(cpu, insn, insn->rm, register_size(cpu), value);
}

void op_mov_to_dr(struct cpu *cpu, const struct insn *insn)
{
	unsigned number = debug_register(cpu, insn, INTERCEPT_MOV_TO_DR);
	uint64_t value = operand_register(cpu, insn, insn->rm, register_size(cpu));

	if (number >= 6 && value >> 32)
		general_protection(cpu);
	if (number == 6) {
		cpu->dr6 = (value & DR6_WRITABLE) | DR6_FIXED;
		return;
	}
	if (number == 7)
		cpu->dr7 = (value & DR7_WRITABLE) | DR7_FIXED;
	else
		cpu->dr[number] = value;
	tlb_watch_changed(cpu);
	cpu_update_mode(cpu);
}

/* ---- invalidations ---- */

/* The linear address of an operand that is only named, not accessed. */
static uint64_t named_address(struct cpu *cpu, const struct insn *insn)
{
	uint64_t offset = operand_offset(cpu, insn);

	if (!cpu_is_64bit(cpu))
		return (uint32_t)(cpu->seg[insn->segment].base + offset);
	if (insn->segment == SEG_FS || insn->segment == SEG_GS)
		offset += cpu->seg[insn->segment].base;
	return offset;
}

void op_invlpg(struct cpu *cpu, const struct insn *insn)
{
	uint64_t address;

	if (!insn->is_memory)
		cpu_raise(cpu, VECTOR_UD);
	require_cpl0(cpu);
	address = named_address(cpu, insn);
	intercept(cpu, INTERCEPT_INVLPG, address, insn);
	if (is_canonical(address))
		tlb_flush_page(cpu, GLA(address));
}

void op_invpcid(struct cpu *cpu, const struct insn *insn)
{
	uint64_t type, descriptor[2];
	gla_t address;

	if (!insn->is_memory || !cpu_model_has(cpu->model, 7, 0, 1, 10))
		cpu_raise(cpu, VECTOR_UD);
	require_cpl0(cpu);
	intercept(cpu, INTERCEPT_INVPCID, 0, insn);
	type = operand_register(cpu, insn, insn->reg, register_size(cpu));
	if (type > 3)
		general_protection(cpu);
	address = mem_linear(cpu, insn->segment, operand_offset(cpu, insn), 16, ACCESS_READ);
	mem_read_block(cpu, address, descriptor, 16, mem_class(cpu));
	if (descriptor[0] >> 12)
		general_protection(cpu);
	if (type < 2 && descriptor[0] && !(cpu->cr4 & CR4_PCIDE))
		general_protection(cpu);
	if (type == 0 && !is_canonical(descriptor[1]))
		general_protection(cpu);
	tlb_flush_pcid(cpu, (unsigned)type, descriptor[0] & 0xfff, GLA(descriptor[1]));
}

/* Guest memory is coherent with everything that sees it: there is nothing to write back or lose. */
void op_invd(struct cpu *cpu, const struct insn *insn)
{
	require_cpl0(cpu);
	intercept(cpu, INTERCEPT_INVD, 0, insn);
}

void op_wbinvd(struct cpu *cpu, const struct insn *insn)
{
	require_cpl0(cpu);
	intercept(cpu, INTERCEPT_WBINVD, 0, insn);
}

/* ---- waiting ---- */

void op_hlt(struct cpu *cpu, const struct insn *insn)
{
	require_cpl0(cpu);
	intercept(cpu, INTERCEPT_HLT, 0, insn);
	cpu->activity = ACTIVITY_HLT;
}

static bool has_monitor(const struct cpu *cpu)
{
	return cpu_model_has(cpu->model, 1, 0, 2, 3);
}

/* Host address of the aligned 8 bytes around the monitored address, or NULL. */
static const uint64_t *monitored(struct cpu *cpu)
{
	gpa_t gpa;

	if (!mem_probe(cpu, GLA(cpu->monitor_address & ~7ull), &gpa))
		return NULL;
	return guest_memory_host(cpu->memory, gpa, 8);
}

void op_monitor(struct cpu *cpu, const struct insn *insn)
{
	unsigned segment = insn->prefixes & PREFIX_SEGMENT ? insn->segment : SEG_DS;
	uint64_t offset = operand_register(cpu, insn, REG_RAX, insn->address_size);
	const uint64_t *watched;

	if (!has_monitor(cpu) || cpu->cpl)
		cpu_raise(cpu, VECTOR_UD);
	intercept(cpu, INTERCEPT_MONITOR, 0, insn);
	if ((uint32_t)cpu->gpr[REG_RCX])
		general_protection(cpu);
	/* Subject to the checks of a byte load, whose value does not matter. */
	mem_read(cpu, segment, offset, 1);
	cpu->monitor_address = mem_linear(cpu, segment, offset, 1, ACCESS_READ).v;
	watched = monitored(cpu);
	cpu->monitor_value = watched ? __atomic_load_n(watched, __ATOMIC_RELAXED) : 0;
}

/*
 * A bounded nap: any interrupt, a change of the monitored bytes or a little time end it. SDM, MONITOR/MWAIT:
 * software must expect MWAIT to return for no reason that it can see.
 */
void op_mwait(struct cpu *cpu, const struct insn *insn)
{
	const uint64_t *watched;

	if (!has_monitor(cpu) || cpu->cpl)
		cpu_raise(cpu, VECTOR_UD);
	intercept(cpu, INTERCEPT_MWAIT, cpu->monitor_address != 0, insn);
	if ((uint32_t)cpu->gpr[REG_RCX] & ~1u)
		general_protection(cpu);
	if (!cpu->monitor_address)
		return;
	watched = monitored(cpu);
	if (watched)
		cpu_host_nap(cpu, watched, cpu->monitor_value);
	cpu->monitor_address = 0;
}

/* A host with fewer processors than vCPUs may have to run the one that is waited for. */
#define PAUSES_BEFORE_LOOK 16

void op_pause(struct cpu *cpu, const struct insn *insn)
{
	intercept(cpu, INTERCEPT_PAUSE, 0, insn);
	if (++cpu->pauses % PAUSES_BEFORE_LOOK) {
		__builtin_ia32_pause();
	} else if (cpu->clock != ENGINE_CLOCK_DETERMINISTIC) {
		bt_spin(cpu);
	} else if (cpu->turns) {
		cpu->turn_end = 0;
		cpu->deadline_changed = true;
		cpu_poll_soon(cpu);
	}
}

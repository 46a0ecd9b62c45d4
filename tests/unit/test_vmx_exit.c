/*
 * VM entry, VM exit and non-root operation, against the SDM's chapters of those names. The neighbours (TLB,
 * APIC, MSRs, entry rules) are stubs; what is linked is the running half of vmx/ (one command):
 *
 * gcc -std=gnu17 -g -D_GNU_SOURCE -include string.h -Wall -Wextra -Wno-unused-parameter -fno-strict-aliasing
 * \
 *   -fsanitize=address,undefined -Isrc -o /tmp/test_vmx_exit tests/unit/test_vmx_exit.c -lcmocka \
 *   src/engine/soft/vmx/{entry,exit,state,intercept,insn_info,vmx_events,ept,apic_virtual}.c &&
 * /tmp/test_vmx_exit
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "engine/soft/cpu/apic.h"
#include "engine/soft/cpu/memory.h"
#include "engine/soft/cpu/msr.h"
#include "engine/soft/vmx/vmx_local.h"

/* ---- the world around vmx/ ---- */

static struct cpu cpu_storage;
static struct vmx vmx_storage;
static struct cpu *const cpu = &cpu_storage;
static struct vmx *const vmx = &vmx_storage;
static struct vmcs *vmcs;
static uint8_t ram[256 * 1024] __attribute__((aligned(4096)));
static struct guest_memory memory;
static struct cpu_model model;

static jmp_buf left;
static const struct vmx_rule *control_rule, *guest_rule;
static struct vmx_rule some_rule;
static uint64_t tsc, armed_ns;
static int apic_vector, raised_vector;
static unsigned flushes, arms;
static uint64_t msrs[4]; /* MSRs 174H to 177H exist */
static uint64_t cr8;
static uint32_t abort_indicator;
static bool pdptes_good;

/* Nothing that lives across LEAVES changes inside it, so longjmp loses nothing. */
#pragma GCC diagnostic ignored "-Wclobbered"

/* Runs code that ends in cpu_leave (or a fault, then raised_vector tells). */
#define LEAVES(code)                                                                                         \
	do {                                                                                                 \
		raised_vector = -1;                                                                          \
		if (!setjmp(left)) {                                                                         \
			code;                                                                                \
			fail_msg("did not leave: %s", #code);                                                \
		}                                                                                            \
	} while (0)

_Noreturn void cpu_leave(struct cpu *c)
{
	longjmp(left, 1);
}

_Noreturn void cpu_raise(struct cpu *c, enum vector vector)
{
	raised_vector = vector;
	longjmp(left, 1);
}

_Noreturn void cpu_raise_error(struct cpu *c, enum vector vector, uint32_t error)
{
	raised_vector = vector;
	longjmp(left, 1);
}

void tlb_select_context(struct cpu *c)
{
}

void tlb_flush_vpid(struct cpu *c, unsigned type, uint16_t vpid, gla_t gla)
{
	flushes++;
}

void tlb_watch_changed(struct cpu *c)
{
}

void cpu_update_mode(struct cpu *c)
{
	c->mode = (c->efer & EFER_LMA) && (c->seg[SEG_CS].rights & RIGHTS_L) ? MODE_CODE64
	          : c->seg[SEG_CS].rights & RIGHTS_DB                        ? MODE_CODE32
	                                                                     : 0;
}

bool cpu_read_pdptes(struct cpu *c, uint64_t cr3, uint64_t pdpte[4])
{
	for (unsigned i = 0; i < 4; i++)
		pdpte[i] = 0x1001 + i;
	return pdptes_good;
}

uint64_t cpu_tsc(const struct cpu *c)
{
	return tsc;
}

uint64_t cpu_now_ns(const struct cpu *c)
{
	return tsc;
}

uint64_t cpu_tsc_to_ns(const struct cpu *c, uint64_t ticks)
{
	return ticks;
}

void cpu_host_timer_arm(struct cpu *c, uint64_t deadline_ns)
{
	arms++;
	armed_ns = deadline_ns;
	if (c->virt_deadline_ns && c->virt_deadline_ns < armed_ns)
		armed_ns = c->virt_deadline_ns;
	c->timer_armed_ns = armed_ns;
}

void fpu_stash(struct cpu *c)
{
}

void cpu_trace(struct cpu *c, const char *format, ...)
{
}

int apic_pending_vector(struct cpu *c)
{
	return apic_vector;
}

int apic_acknowledge(struct cpu *c)
{
	int vector = apic_vector;

	apic_vector = -1;
	return vector;
}

uint64_t apic_cr8(const struct cpu *c)
{
	return cr8;
}

bool msr_read(struct cpu *c, uint32_t msr, uint64_t *value)
{
	if (msr - 0x174 >= 4)
		return false;
	*value = msrs[msr - 0x174];
	return true;
}

bool msr_write(struct cpu *c, uint32_t msr, uint64_t value)
{
	if (msr - 0x174 >= 4)
		return false;
	msrs[msr - 0x174] = value;
	return true;
}

void phys_read_block(struct cpu *c, gpa_t gpa, void *to, unsigned size)
{
	memset(to, 0xff, size);
	if (gpa.v <= sizeof ram - size)
		memcpy(to, ram + gpa.v, size);
}

uint64_t phys_read(struct cpu *c, gpa_t gpa, unsigned size)
{
	uint64_t value = 0;

	phys_read_block(c, gpa, &value, size);
	return value;
}

void phys_write(struct cpu *c, gpa_t gpa, unsigned size, uint64_t value)
{
	if (gpa.v <= sizeof ram - size)
		memcpy(ram + gpa.v, &value, size);
}

bool mem_probe(struct cpu *c, gla_t gla, gpa_t *gpa)
{
	*gpa = GPA(gla.v);
	return gla.v < sizeof ram;
}

uint64_t operand_offset(struct cpu *c, const struct insn *insn)
{
	return c->gpr[insn->base & 15] + insn->displacement;
}

uint64_t bt_code_map_for_writing(struct cpu *c, gpa_t gpa)
{
	return bt_code_map(c, gpa);
}

void bt_code_written(struct cpu *c, gpa_t gpa, unsigned size)
{
}

uint64_t bt_code_map(struct cpu *c, gpa_t gpa)
{
	return 0;
}

const struct vmx_rule *vmx_check_controls_and_host(struct cpu *c, struct vmcs *v)
{
	return control_rule;
}

const struct vmx_rule *vmx_check_guest(struct cpu *c, struct vmcs *v)
{
	return guest_rule;
}

void vmx_explain_rule(struct cpu *c, const struct vmcs *v, const struct vmx_rule *rule)
{
}

void vmx_fail_valid(struct cpu *c, enum vm_instruction_error error)
{
	c->cc_low = 2 | FLAG_ZF;
	c->vmx->current->f[VMCS_VM_INSTRUCTION_ERROR] = error;
}

void vmcs_write_abort(struct cpu *c, struct vmcs *v, uint32_t indicator)
{
	abort_indicator = indicator;
}

void vmx_trace_entry(struct cpu *c, bool launch)
{
}

void vmx_trace_exit(struct cpu *c)
{
}

const char *vmx_exit_reason_name(uint32_t reason)
{
	return "";
}

/* ---- a 64-bit host and a 64-bit guest, every field with a value of its own ---- */

#define F(name) (vmcs->f[VMCS_##name])

static void set_guest(void)
{
	for (unsigned s = 0; s < SEG_COUNT; s++) {
		vmcs->f[VMCS_GUEST_ES_SELECTOR + s] = 0x10 + 8 * s;
		vmcs->f[VMCS_GUEST_ES_BASE + s] = 0x1000 * (s + 1);
		vmcs->f[VMCS_GUEST_ES_LIMIT + s] = 0xfff0 + s;
		vmcs->f[VMCS_GUEST_ES_ACCESS_RIGHTS + s] = 0xc093;
	}
	F(GUEST_CS_ACCESS_RIGHTS) = 0xa09b;
	F(GUEST_SS_ACCESS_RIGHTS) = 0xc093;
	F(GUEST_LDTR_ACCESS_RIGHTS) = RIGHTS_UNUSABLE;
	F(GUEST_TR_ACCESS_RIGHTS) = 0x8b;
	F(GUEST_FS_BASE) = 0xffff888000000000;
	F(GUEST_GDTR_BASE) = 0x111000;
	F(GUEST_GDTR_LIMIT) = 0x7f;
	F(GUEST_IDTR_BASE) = 0x222000;
	F(GUEST_IDTR_LIMIT) = 0xfff;
	F(GUEST_CR0) = CR0_PE | CR0_NE | CR0_PG | CR0_WP;
	F(GUEST_CR3) = 0x333000;
	F(GUEST_CR4) = CR4_PAE | CR4_VMXE;
	F(GUEST_DR7) = 0x400;
	F(GUEST_IA32_EFER) = EFER_LMA | EFER_LME | EFER_NXE;
	F(GUEST_IA32_PAT) = 0x0007040600070406;
	F(GUEST_IA32_SYSENTER_CS) = 0x10;
	F(GUEST_IA32_SYSENTER_ESP) = 0x4441;
	F(GUEST_IA32_SYSENTER_EIP) = 0x4442;
	F(GUEST_RSP) = 0x5550;
	F(GUEST_RIP) = 0x6660;
	F(GUEST_RFLAGS) = 2 | FLAG_IF | FLAG_CF | FLAG_OF;
	F(VMCS_LINK_POINTER) = UINT64_MAX;
}

static void set_host(void)
{
	F(HOST_CR0) = CR0_PE | CR0_NE | CR0_PG | CR0_WP;
	F(HOST_CR3) = 0x777000;
	F(HOST_CR4) = CR4_PAE | CR4_VMXE | CR4_PGE;
	F(HOST_CS_SELECTOR) = 0x10;
	F(HOST_SS_SELECTOR) = 0x18;
	F(HOST_ES_SELECTOR) = 0;
	F(HOST_DS_SELECTOR) = 0x18;
	F(HOST_FS_SELECTOR) = 0;
	F(HOST_TR_SELECTOR) = 0x40;
	F(HOST_FS_BASE) = 0xf500;
	F(HOST_GS_BASE) = 0xf600;
	F(HOST_TR_BASE) = 0xf700;
	F(HOST_GDTR_BASE) = 0xf800;
	F(HOST_IDTR_BASE) = 0xf900;
	F(HOST_IA32_SYSENTER_CS) = 0x20;
	F(HOST_IA32_SYSENTER_ESP) = 0xfa00;
	F(HOST_IA32_SYSENTER_EIP) = 0xfb00;
	F(HOST_RSP) = 0xfc00;
	F(HOST_RIP) = 0xfd00;
	F(HOST_IA32_EFER) = EFER_LMA | EFER_LME | EFER_SCE;
	F(HOST_IA32_PAT) = 6;
}

#define VIRTUAL_APIC 0x3000
#define APIC_PAGE    0x4000
#define BITMAP_A     0x5000
#define BITMAP_B     0x6000
#define MSR_BITMAP   0x7000
#define MSR_LIST     0x8000
#define EPT_ROOT     0x10000
#define CODE         0x9000

static int setup(void **state)
{
	memset(cpu, 0, sizeof *cpu);
	memset(vmx, 0, sizeof *vmx);
	memset(ram, 0, sizeof ram);
	memory =
	    (struct guest_memory){.slot = {{.gpa = 0, .size = sizeof ram, .host = ram}}, .slot_count = 1};
	model.physical_address_bits = 40;
	cpu->vmx = vmx;
	cpu->memory = &memory;
	cpu->model = &model;
	cpu->cr0_must_set = CR0_PE | CR0_NE | CR0_PG;
	cpu->cr4_must_set = CR4_VMXE;
	vmx->in_vmx_operation = true;
	vmx->cap.ept_vpid = EPT_VPID_CAP_EXECUTE_ONLY;
	vmx->cap.address_mask = ~0ull << 40;
	vmcs = vmx->current = &vmx->cache[0];
	control_rule = guest_rule = NULL;
	tsc = 32000;
	apic_vector = -1;
	flushes = arms = abort_indicator = 0;
	pdptes_good = true;
	cr8 = 0;
	memset(msrs, 0, sizeof msrs);

	set_guest();
	set_host();
	F(PRIMARY_PROCESSOR_CONTROLS) = CPU_ACTIVATE_SECONDARY_CONTROLS;
	F(SECONDARY_PROCESSOR_CONTROLS) = CPU2_ENABLE_VPID;
	F(VPID) = 5;
	F(VM_EXIT_CONTROLS) = EXIT_HOST_ADDRESS_SPACE_SIZE | EXIT_SAVE_DEBUG_CONTROLS | EXIT_SAVE_IA32_EFER |
	                      EXIT_LOAD_IA32_EFER | EXIT_SAVE_IA32_PAT | EXIT_LOAD_IA32_PAT;
	F(VM_ENTRY_CONTROLS) =
	    ENTRY_IA32E_MODE_GUEST | ENTRY_LOAD_DEBUG_CONTROLS | ENTRY_LOAD_IA32_EFER | ENTRY_LOAD_IA32_PAT;
	F(VIRTUAL_APIC_ADDRESS) = VIRTUAL_APIC;
	F(APIC_ACCESS_ADDRESS) = APIC_PAGE;
	F(IO_BITMAP_A_ADDRESS) = BITMAP_A;
	F(IO_BITMAP_B_ADDRESS) = BITMAP_B;
	F(MSR_BITMAP_ADDRESS) = MSR_BITMAP;
	F(EPT_POINTER) = EPT_ROOT | 3 << 3 | 6;

	/* Root operation, about to execute VMLAUNCH. */
	cpu->cr0 = F(HOST_CR0) | CR0_ET;
	cpu->cr4 = F(HOST_CR4);
	cpu->efer = F(HOST_IA32_EFER);
	cpu->rip = 0x100;
	cpu->next_rip = 0x103;
	cpu_set_rflags(cpu, 2);
	return 0;
}

static void enter(void)
{
	LEAVES(vmx_enter(cpu, true));
}

#define REASON        (F(EXIT_REASON))
#define QUALIFICATION (F(EXIT_QUALIFICATION))

static void assert_exit(uint32_t reason)
{
	assert_int_equal(raised_vector, -1);
	assert_null(cpu->virt);
	assert_false(vmx->in_nonroot);
	assert_int_equal(REASON, reason);
}

/* ---- round trip ---- */

static void entry_loads_guest_state(void **state)
{
	enter();
	assert_ptr_equal(cpu->virt, &vmx_hooks);
	assert_true(vmx->in_nonroot);
	assert_int_equal(vmcs->launch_state, VMCS_LAUNCHED);
	assert_int_equal(cpu->cr0, F(GUEST_CR0) | CR0_ET);
	assert_int_equal(cpu->cr3, 0x333000);
	assert_int_equal(cpu->cr4, CR4_PAE | CR4_VMXE);
	assert_int_equal(cpu->efer, EFER_LMA | EFER_LME | EFER_NXE);
	assert_int_equal(cpu->rip, 0x6660);
	assert_int_equal(cpu->gpr[REG_RSP], 0x5550);
	assert_int_equal(cpu_rflags(cpu), 2 | FLAG_IF | FLAG_CF | FLAG_OF);
	assert_int_equal(cpu->seg[SEG_FS].base, 0xffff888000000000);
	assert_int_equal(cpu->seg[SEG_DS].selector, 0x10 + 8 * SEG_DS);
	assert_int_equal(cpu->seg[SEG_DS].limit, 0xfff0 + SEG_DS);
	assert_int_equal(cpu->seg[SEG_LDTR].rights, RIGHTS_UNUSABLE);
	assert_int_equal(cpu->gdtr.base, 0x111000);
	assert_int_equal(cpu->idtr.limit, 0xfff);
	assert_int_equal(cpu->vpid, 5);
	assert_int_equal(cpu->eptp, 0);
	assert_true(cpu->kick);
}

static void exit_saves_guest_state_unchanged(void **state)
{
	uint64_t before[VMCS_FIELD_COUNT];

	memcpy(before, vmcs->f, sizeof before);
	enter();
	LEAVES(vmx_exit(cpu, EXIT_REASON_TRIPLE_FAULT, 0));
	assert_exit(EXIT_REASON_TRIPLE_FAULT);
	before[VMCS_GUEST_CR0] |= CR0_ET; /* fixed to 1 */
	for (unsigned i = VMCS_GUEST_ES_SELECTOR; i <= VMCS_GUEST_TR_SELECTOR; i++)
		assert_int_equal(vmcs->f[i], before[i]);
	for (unsigned i = VMCS_GUEST_ES_LIMIT; i <= VMCS_GUEST_IA32_SYSENTER_CS; i++)
		assert_int_equal(vmcs->f[i], before[i]);
	for (unsigned i = VMCS_GUEST_CR0; i <= VMCS_GUEST_IA32_SYSENTER_EIP; i++)
		if (i != VMCS_GUEST_CR0)
			assert_int_equal(vmcs->f[i], before[i]);
	assert_int_equal(F(GUEST_CR0), before[VMCS_GUEST_CR0]);
	assert_int_equal(F(GUEST_IA32_EFER), before[VMCS_GUEST_IA32_EFER]);
}

static void exit_saves_what_the_guest_changed(void **state)
{
	enter();
	cpu->rip = 0x7000;
	cpu->gpr[REG_RSP] = 0x7008;
	cpu_set_rflags(cpu, 2 | FLAG_ZF);
	cpu->cr3 = 0x8000;
	cpu->dr7 = 0x401;
	cpu->seg[SEG_GS].base = 0x1234;
	cpu->shadow = SHADOW_STI;
	cpu->nmi_blocked = true;
	cpu->activity = ACTIVITY_HLT;
	cpu->efer &= ~(uint64_t)(EFER_LMA | EFER_LME);
	LEAVES(vmx_exit(cpu, EXIT_REASON_CPUID, 9));
	assert_exit(EXIT_REASON_CPUID);
	assert_int_equal(QUALIFICATION, 9);
	assert_int_equal(F(GUEST_RIP), 0x7000);
	assert_int_equal(F(GUEST_RSP), 0x7008);
	assert_int_equal(F(GUEST_RFLAGS), 2 | FLAG_ZF);
	assert_int_equal(F(GUEST_CR3), 0x8000);
	assert_int_equal(F(GUEST_DR7), 0x401);
	assert_int_equal(F(GUEST_GS_BASE), 0x1234);
	assert_int_equal(F(GUEST_INTERRUPTIBILITY_STATE), INTERRUPTIBILITY_STI | INTERRUPTIBILITY_NMI);
	assert_int_equal(F(GUEST_ACTIVITY_STATE), VMCS_ACTIVITY_HLT);
	assert_false(F(VM_ENTRY_CONTROLS) & ENTRY_IA32E_MODE_GUEST);
}

static void exit_loads_host_state(void **state)
{
	enter();
	cpu->shadow = SHADOW_MOVSS;
	cpu->debug_trap_pending = true;
	cpu->dr7 = 0x4ff;
	LEAVES(vmx_exit(cpu, EXIT_REASON_HLT, 0));
	assert_int_equal(cpu->cr0, F(HOST_CR0) | CR0_ET);
	assert_int_equal(cpu->cr3, 0x777000);
	assert_int_equal(cpu->cr4, CR4_PAE | CR4_VMXE | CR4_PGE);
	assert_int_equal(cpu->efer, EFER_LMA | EFER_LME | EFER_SCE);
	assert_int_equal(cpu->dr7, 0x400);
	assert_int_equal(cpu_rflags(cpu), 2);
	assert_int_equal(cpu->rip, 0xfd00);
	assert_int_equal(cpu->gpr[REG_RSP], 0xfc00);
	assert_int_equal(cpu->gdtr.limit, 0xffff);
	assert_int_equal(cpu->idtr.limit, 0xffff);
	assert_int_equal(cpu->seg[SEG_TR].limit, 0x67);
	assert_int_equal(cpu->seg[SEG_TR].rights, 0x8b);
	assert_int_equal(cpu->seg[SEG_CS].rights, 0xa09b);
	assert_int_equal(cpu->seg[SEG_SS].rights, 0xc093);
	assert_true(cpu->seg[SEG_ES].rights & RIGHTS_UNUSABLE);
	assert_true(cpu->seg[SEG_LDTR].rights & RIGHTS_UNUSABLE);
	assert_int_equal(cpu->seg[SEG_FS].base, 0xf500);
	assert_int_equal(cpu->cpl, 0);
	assert_int_equal(cpu->shadow, 0);
	assert_false(cpu->debug_trap_pending);
	assert_int_equal(cpu->msr.pat, 6);
	assert_int_equal(cpu->msr.sysenter_eip, 0xfb00);
	assert_int_equal(cpu->vpid, 0);
}

static void entry_keeps_et_cd_nw(void **state)
{
	cpu->cr0 |= CR0_CD;
	F(GUEST_CR0) |= CR0_NW;
	enter();
	assert_true(cpu->cr0 & CR0_CD);
	assert_true(cpu->cr0 & CR0_ET);
	assert_false(cpu->cr0 & CR0_NW);
}

static void entry_fixes_dr7_and_derives_efer(void **state)
{
	F(GUEST_DR7) = 0xd000;
	F(VM_ENTRY_CONTROLS) &= ~(uint64_t)ENTRY_LOAD_IA32_EFER;
	cpu->efer = EFER_SCE;
	enter();
	assert_int_equal(cpu->dr7, 0x400);
	assert_int_equal(cpu->efer, EFER_SCE | EFER_LMA | EFER_LME);
}

static void flushes_only_where_due(void **state)
{
	enter();
	assert_int_equal(flushes, 1); /* a VPID never seen */
	LEAVES(vmx_exit(cpu, EXIT_REASON_CPUID, 0));
	flushes = 0;
	enter();
	LEAVES(vmx_exit(cpu, EXIT_REASON_CPUID, 0));
	assert_int_equal(flushes, 0);
	F(GUEST_CR0) &= ~(uint64_t)CR0_WP;
	enter();
	assert_int_equal(flushes, 1);
	LEAVES(vmx_exit(cpu, EXIT_REASON_CPUID, 0));
	flushes = 0;
	enter();
	cpu->cr0 |= CR0_WP; /* the guest sets WP, and its hypervisor clears it again */
	LEAVES(vmx_exit(cpu, EXIT_REASON_CPUID, 0));
	F(GUEST_CR0) &= ~(uint64_t)CR0_WP;
	enter();
	assert_int_equal(flushes, 1);
	LEAVES(vmx_exit(cpu, EXIT_REASON_CPUID, 0));
	flushes = 0;
	F(SECONDARY_PROCESSOR_CONTROLS) = 0; /* without VPID each transition flushes */
	enter();
	LEAVES(vmx_exit(cpu, EXIT_REASON_CPUID, 0));
	assert_int_equal(flushes, 2);
}

/* ---- failures ---- */

static void refused_entry_goes_on(void **state)
{
	some_rule.failure = VMERROR_ENTRY_HOST_STATE;
	control_rule = &some_rule;
	LEAVES(vmx_enter(cpu, true));
	assert_null(cpu->virt);
	assert_int_equal(cpu->rip, 0x103);
	assert_int_equal(F(VM_INSTRUCTION_ERROR), 8);
	assert_true(cpu->cc_low & FLAG_ZF);
	assert_int_equal(vmcs->launch_state, VMCS_CLEAR);
	assert_ptr_equal(vmx->failed_rule, &some_rule);
}

static void failed_entry_saves_nothing(void **state)
{
	some_rule.failure = ENTRY_FAILURE_LINK_POINTER;
	guest_rule = &some_rule;
	F(VM_ENTRY_INTERRUPTION_INFORMATION) = INTERRUPTION_VALID | 0x20;
	F(IDT_VECTORING_INFORMATION) = 77;
	F(VM_EXIT_MSR_STORE_COUNT) = 1; /* would abort */
	F(VM_EXIT_MSR_STORE_ADDRESS) = MSR_LIST;
	cpu->nmi_blocked = true;
	LEAVES(vmx_enter(cpu, true));
	assert_exit(EXIT_REASON_ENTRY_INVALID_GUEST_STATE | EXIT_REASON_ENTRY_FAILURE);
	assert_int_equal(QUALIFICATION, ENTRY_FAILURE_LINK_POINTER);
	assert_int_equal(F(VM_ENTRY_INTERRUPTION_INFORMATION), INTERRUPTION_VALID | 0x20);
	assert_int_equal(F(IDT_VECTORING_INFORMATION), 77);
	assert_int_equal(F(GUEST_RIP), 0x6660);
	assert_int_equal(vmcs->launch_state, VMCS_CLEAR);
	assert_int_equal(cpu->rip, 0xfd00);
	assert_int_equal(abort_indicator, 0);
	assert_true(cpu->nmi_blocked);
}

static void put_msr(unsigned i, uint32_t index, uint64_t value)
{
	memcpy(ram + MSR_LIST + 16 * i, &index, 4);
	memcpy(ram + MSR_LIST + 16 * i + 8, &value, 8);
}

static void msr_load_failure_reports_index(void **state)
{
	static const uint32_t forbidden[] = {0xc0000100, 0xc0000101, 0x808, 0x9b, 0x12345};

	F(VM_ENTRY_MSR_LOAD_ADDRESS) = MSR_LIST;
	F(VM_ENTRY_MSR_LOAD_COUNT) = 3;
	for (unsigned i = 0; i < sizeof forbidden / sizeof *forbidden; i++) {
		put_msr(0, 0x174, 0xaa);
		put_msr(1, forbidden[i], 1);
		LEAVES(vmx_enter(cpu, true));
		assert_exit(EXIT_REASON_ENTRY_MSR_LOADING | EXIT_REASON_ENTRY_FAILURE);
		assert_int_equal(QUALIFICATION, 2);
		assert_int_equal(msrs[0], 0xaa);
	}
	put_msr(1, 0x175, 0xbb);
	put_msr(2, 0x176, 0xcc);
	enter();
	assert_non_null(cpu->virt);
	assert_int_equal(msrs[2], 0xcc);
}

static void endless_msr_list_fails(void **state)
{
	F(VM_ENTRY_MSR_LOAD_ADDRESS) = MSR_LIST;
	F(VM_ENTRY_MSR_LOAD_COUNT) = UINT32_MAX;
	for (unsigned i = 0; i < 600; i++)
		put_msr(i, 0x174, i);
	LEAVES(vmx_enter(cpu, true));
	assert_exit(EXIT_REASON_ENTRY_MSR_LOADING | EXIT_REASON_ENTRY_FAILURE);
	assert_int_equal(QUALIFICATION, 513);
}

static void exit_stores_and_loads_msrs(void **state)
{
	F(VM_EXIT_MSR_STORE_ADDRESS) = MSR_LIST;
	F(VM_EXIT_MSR_STORE_COUNT) = 1;
	F(VM_EXIT_MSR_LOAD_ADDRESS) = MSR_LIST + 16;
	F(VM_EXIT_MSR_LOAD_COUNT) = 1;
	put_msr(0, 0x174, 0);
	put_msr(1, 0x175, 0x99);
	msrs[0] = 0x88;
	enter();
	LEAVES(vmx_exit(cpu, EXIT_REASON_CPUID, 0));
	assert_int_equal(phys_read(cpu, GPA(MSR_LIST + 8), 8), 0x88);
	assert_int_equal(msrs[1], 0x99);
}

static void msr_failure_at_exit_aborts(void **state)
{
	F(VM_EXIT_MSR_LOAD_ADDRESS) = MSR_LIST;
	F(VM_EXIT_MSR_LOAD_COUNT) = 1;
	put_msr(0, 0x12345, 0);
	enter();
	LEAVES(vmx_exit(cpu, EXIT_REASON_CPUID, 0));
	assert_int_equal(abort_indicator, 4);
	assert_int_equal(cpu->activity, ACTIVITY_SHUTDOWN);
	setup(NULL);
	F(VM_EXIT_MSR_STORE_ADDRESS) = MSR_LIST;
	F(VM_EXIT_MSR_STORE_COUNT) = 1;
	put_msr(0, 0x12345, 0);
	enter();
	LEAVES(vmx_exit(cpu, EXIT_REASON_CPUID, 0));
	assert_int_equal(abort_indicator, 1);
}

static void bad_host_pdptes_abort(void **state)
{
	enter();
	F(VM_EXIT_CONTROLS) &= ~(uint64_t)(EXIT_HOST_ADDRESS_SPACE_SIZE | EXIT_LOAD_IA32_EFER);
	vmx->runtime.exit = F(VM_EXIT_CONTROLS);
	pdptes_good = false;
	LEAVES(vmx_exit(cpu, EXIT_REASON_CPUID, 0));
	assert_int_equal(abort_indicator, 2);
}

/* ---- injection and vectoring ---- */

static void inject(uint32_t information, uint32_t error, uint32_t length)
{
	F(VM_ENTRY_INTERRUPTION_INFORMATION) = information | INTERRUPTION_VALID;
	F(VM_ENTRY_EXCEPTION_ERROR_CODE) = error;
	F(VM_ENTRY_INSTRUCTION_LENGTH) = length;
	enter();
}

static void injection_makes_the_event(void **state)
{
	inject(EVENT_EXCEPTION << 8 | INTERRUPTION_ERROR_CODE | VECTOR_PF, 6, 0);
	assert_true(cpu->event.valid && cpu->event.injected && cpu->event.has_error);
	assert_int_equal(cpu->event.vector, VECTOR_PF);
	assert_int_equal(cpu->event.error, 6);
	setup(NULL);
	inject(EVENT_SOFT_INT << 8 | 0x80, 0, 2);
	assert_int_equal(cpu->event.type, EVENT_SOFT_INT);
	assert_int_equal(cpu->event.insn_length, 2);
}

static void injection_ends_halt_and_blocking(void **state)
{
	F(GUEST_ACTIVITY_STATE) = VMCS_ACTIVITY_HLT;
	F(GUEST_INTERRUPTIBILITY_STATE) = INTERRUPTIBILITY_STI;
	F(GUEST_PENDING_DEBUG_EXCEPTIONS) = PENDING_DEBUG_BS;
	inject(EVENT_NMI << 8 | VECTOR_NMI, 0, 0);
	assert_int_equal(cpu->activity, ACTIVITY_ACTIVE);
	assert_int_equal(cpu->shadow, 0);
	assert_false(cpu->debug_trap_pending);
	setup(NULL);
	F(GUEST_ACTIVITY_STATE) = VMCS_ACTIVITY_HLT;
	F(GUEST_INTERRUPTIBILITY_STATE) = INTERRUPTIBILITY_STI;
	enter();
	assert_int_equal(cpu->activity, ACTIVITY_HLT);
	assert_int_equal(cpu->shadow, SHADOW_STI);
}

static void injected_event_is_not_intercepted(void **state)
{
	F(EXCEPTION_BITMAP) = UINT32_MAX;
	inject(EVENT_EXCEPTION << 8 | VECTOR_UD, 0, 0);
	cpu->virt->event(cpu, &cpu->event);
	assert_non_null(cpu->virt);
}

static void real_exit_clears_the_valid_bit(void **state)
{
	inject(EVENT_EXTERNAL << 8 | 0x30, 0, 0);
	LEAVES(vmx_exit(cpu, EXIT_REASON_CPUID, 0));
	assert_int_equal(F(VM_ENTRY_INTERRUPTION_INFORMATION), 0x30);
	assert_false(cpu->event.valid);
}

static void exit_during_delivery_reports_vectoring(void **state)
{
	inject(EVENT_SOFT_INT << 8 | 0x80, 0, 2);
	cpu->delivering = cpu->event;
	cpu->event.valid = false;
	F(EXCEPTION_BITMAP) = 1u << VECTOR_GP;
	LEAVES(cpu->virt->event(cpu, &(struct event){.valid = true,
	                                             .type = EVENT_EXCEPTION,
	                                             .vector = VECTOR_GP,
	                                             .has_error = true,
	                                             .error = 0x402}));
	assert_exit(EXIT_REASON_EXCEPTION_OR_NMI);
	assert_int_equal(F(IDT_VECTORING_INFORMATION), INTERRUPTION_VALID | EVENT_SOFT_INT << 8 | 0x80);
	assert_int_equal(F(VM_EXIT_INSTRUCTION_LENGTH), 2);
	assert_int_equal(F(VM_EXIT_INTERRUPTION_INFORMATION),
	                 INTERRUPTION_VALID | INTERRUPTION_ERROR_CODE | EVENT_EXCEPTION << 8 | VECTOR_GP);
	assert_int_equal(F(VM_EXIT_INTERRUPTION_ERROR_CODE), 0x402);
	assert_false(cpu->delivering.valid);
}

static void triple_fault_has_no_vectoring(void **state)
{
	enter();
	cpu->delivering = (struct event){.valid = true, .type = EVENT_EXCEPTION, .vector = VECTOR_DF};
	LEAVES(cpu->virt->triple_fault(cpu));
	assert_exit(EXIT_REASON_TRIPLE_FAULT);
	assert_int_equal(F(IDT_VECTORING_INFORMATION), 0);
}

/* ---- events ---- */

static struct event page_fault(uint32_t error)
{
	return (struct event){.valid = true,
	                      .type = EVENT_EXCEPTION,
	                      .vector = VECTOR_PF,
	                      .has_error = true,
	                      .error = error,
	                      .payload = 0xdead000};
}

static void page_fault_mask_and_match(void **state)
{
	struct event fault;

	/* {bitmap bit, mask, match, error code, exits} */
	static const uint32_t cases[][5] = {
	    {0, 0, 0, 2, 0}, {1, 0, 0, 2, 1}, {1, 1, 0, 1, 0},
	    {1, 1, 0, 2, 1}, {0, 1, 0, 1, 1}, {1, 0, 4, 4, 0},
	};
	for (unsigned i = 0; i < sizeof cases / sizeof *cases; i++) {
		setup(NULL);
		F(EXCEPTION_BITMAP) = cases[i][0] << VECTOR_PF;
		F(PAGE_FAULT_ERROR_CODE_MASK) = cases[i][1];
		F(PAGE_FAULT_ERROR_CODE_MATCH) = cases[i][2];
		enter();
		cpu->cr2 = 0x1111;
		fault = page_fault(cases[i][3]);
		if (!cases[i][4]) {
			cpu->virt->event(cpu, &fault);
			assert_non_null(cpu->virt);
			continue;
		}
		LEAVES(cpu->virt->event(cpu, &fault));
		assert_exit(EXIT_REASON_EXCEPTION_OR_NMI);
		assert_int_equal(QUALIFICATION, 0xdead000);
		assert_int_equal(cpu->cr2, 0x1111);
		assert_true(F(GUEST_RFLAGS) & FLAG_RF);
	}
}

static void debug_exception_leaves_dr6(void **state)
{
	F(EXCEPTION_BITMAP) = 1u << VECTOR_DB;
	enter();
	cpu->dr6 = 0xffff0ff0;
	LEAVES(cpu->virt->event(cpu, &(struct event){.valid = true,
	                                             .type = EVENT_EXCEPTION,
	                                             .vector = VECTOR_DB,
	                                             .payload = PENDING_DEBUG_BS}));
	assert_exit(EXIT_REASON_EXCEPTION_OR_NMI);
	assert_int_equal(QUALIFICATION, PENDING_DEBUG_BS);
	assert_int_equal(cpu->dr6, 0xffff0ff0);
	assert_int_equal(F(GUEST_PENDING_DEBUG_EXCEPTIONS), 0);
}

static void breakpoint_instruction_has_length(void **state)
{
	F(EXCEPTION_BITMAP) = 1u << VECTOR_BP;
	enter();
	LEAVES(cpu->virt->event(
	    cpu, &(struct event){
	             .valid = true, .type = EVENT_SOFT_EXCEPTION, .vector = VECTOR_BP, .insn_length = 1}));
	assert_int_equal(F(VM_EXIT_INSTRUCTION_LENGTH), 1);
	assert_int_equal(INTERRUPTION_TYPE(F(VM_EXIT_INTERRUPTION_INFORMATION)), EVENT_SOFT_EXCEPTION);
}

static void nmi_exits_and_blocks(void **state)
{
	F(PIN_BASED_CONTROLS) = PIN_NMI_EXITING;
	enter();
	LEAVES(
	    cpu->virt->event(cpu, &(struct event){.valid = true, .type = EVENT_NMI, .vector = VECTOR_NMI}));
	assert_exit(EXIT_REASON_EXCEPTION_OR_NMI);
	assert_int_equal(F(VM_EXIT_INTERRUPTION_INFORMATION),
	                 INTERRUPTION_VALID | EVENT_NMI << 8 | VECTOR_NMI);
	assert_true(cpu->nmi_blocked);
	assert_false(F(GUEST_INTERRUPTIBILITY_STATE) & INTERRUPTIBILITY_NMI);
}

static void virtual_nmi_blocking(void **state)
{
	F(PIN_BASED_CONTROLS) = PIN_NMI_EXITING | PIN_VIRTUAL_NMIS;
	F(PRIMARY_PROCESSOR_CONTROLS) |= CPU_NMI_WINDOW_EXITING;
	F(GUEST_INTERRUPTIBILITY_STATE) = INTERRUPTIBILITY_NMI;
	enter();
	cpu->virt->poll_nmi_window(cpu); /* closed */
	assert_non_null(cpu->virt);
	cpu->nmi_pending = true; /* a physical NMI exits all the same */
	assert_true(cpu->virt->wakeup(cpu));
	LEAVES(cpu->virt->poll_high(cpu));
	assert_exit(EXIT_REASON_EXCEPTION_OR_NMI);
	assert_true(F(GUEST_INTERRUPTIBILITY_STATE) & INTERRUPTIBILITY_NMI);
	cpu->nmi_blocked = false;
	enter();
	cpu->virt->iret(cpu);
	assert_false(cpu->nmi_blocked);
	LEAVES(cpu->virt->poll_nmi_window(cpu));
	assert_exit(EXIT_REASON_NMI_WINDOW);
	assert_false(cpu->nmi_blocked);
}

static void iret_without_virtual_nmis_changes_no_blocking(void **state)
{
	F(PIN_BASED_CONTROLS) = PIN_NMI_EXITING;
	F(GUEST_INTERRUPTIBILITY_STATE) = INTERRUPTIBILITY_NMI;
	enter();
	cpu->virt->iret(cpu);
	assert_true(cpu->nmi_blocked);
}

static void faulting_iret_reports_unblocking(void **state)
{
	F(PIN_BASED_CONTROLS) = PIN_NMI_EXITING | PIN_VIRTUAL_NMIS;
	F(GUEST_INTERRUPTIBILITY_STATE) = INTERRUPTIBILITY_NMI;
	F(EXCEPTION_BITMAP) = 1u << VECTOR_GP;
	F(GUEST_RIP) = CODE;
	memcpy(ram + CODE, "\x48\xcf", 2);
	enter();
	LEAVES(cpu->virt->event(
	    cpu,
	    &(struct event){.valid = true, .type = EVENT_EXCEPTION, .vector = VECTOR_GP, .has_error = true}));
	assert_true(F(VM_EXIT_INTERRUPTION_INFORMATION) & INTERRUPTION_NMI_UNBLOCKING);
	assert_false(F(GUEST_INTERRUPTIBILITY_STATE) & INTERRUPTIBILITY_NMI);
	F(GUEST_INTERRUPTIBILITY_STATE) = INTERRUPTIBILITY_NMI;
	memcpy(ram + CODE, "\x48\x8b", 2);
	enter();
	LEAVES(cpu->virt->event(
	    cpu,
	    &(struct event){.valid = true, .type = EVENT_EXCEPTION, .vector = VECTOR_GP, .has_error = true}));
	assert_false(F(VM_EXIT_INTERRUPTION_INFORMATION) & INTERRUPTION_NMI_UNBLOCKING);
	assert_true(F(GUEST_INTERRUPTIBILITY_STATE) & INTERRUPTIBILITY_NMI);
}

static void external_interrupt_acknowledged_on_exit(void **state)
{
	F(PIN_BASED_CONTROLS) = PIN_EXTERNAL_INTERRUPT_EXITING;
	F(GUEST_RFLAGS) = 2; /* IF does not matter */
	enter();
	apic_vector = 0x51;
	assert_true(cpu->virt->wakeup(cpu));
	LEAVES(cpu->virt->external_interrupt(cpu));
	assert_exit(EXIT_REASON_EXTERNAL_INTERRUPT);
	assert_int_equal(F(VM_EXIT_INTERRUPTION_INFORMATION), 0);
	assert_int_equal(apic_vector, 0x51);
	F(VM_EXIT_CONTROLS) |= EXIT_ACKNOWLEDGE_INTERRUPT;
	enter();
	LEAVES(cpu->virt->external_interrupt(cpu));
	assert_int_equal(F(VM_EXIT_INTERRUPTION_INFORMATION), INTERRUPTION_VALID | 0x51);
	assert_int_equal(apic_vector, -1);
	F(PIN_BASED_CONTROLS) = 0;
	enter();
	assert_true(cpu->virt->external_interrupt(cpu));
}

static void interrupt_window(void **state)
{
	F(PRIMARY_PROCESSOR_CONTROLS) |= CPU_INTERRUPT_WINDOW_EXITING;
	F(GUEST_RFLAGS) = 2;
	enter();
	cpu->virt->poll_interrupt_window(cpu);
	assert_false(cpu->virt->wakeup(cpu));
	cpu->rflags_system |= FLAG_IF;
	cpu->shadow = SHADOW_STI;
	cpu->virt->poll_interrupt_window(cpu);
	cpu->shadow = 0;
	cpu->activity = ACTIVITY_HLT;
	assert_true(cpu->virt->wakeup(cpu));
	LEAVES(cpu->virt->poll_interrupt_window(cpu));
	assert_exit(EXIT_REASON_INTERRUPT_WINDOW);
	assert_int_equal(F(GUEST_ACTIVITY_STATE), VMCS_ACTIVITY_HLT);
}

static void nmi_window_waits_for_mov_ss(void **state)
{
	F(PIN_BASED_CONTROLS) = PIN_NMI_EXITING | PIN_VIRTUAL_NMIS;
	F(PRIMARY_PROCESSOR_CONTROLS) |= CPU_NMI_WINDOW_EXITING;
	F(GUEST_INTERRUPTIBILITY_STATE) = INTERRUPTIBILITY_MOV_SS;
	enter();
	cpu->virt->poll_nmi_window(cpu);
	cpu->shadow = 0;
	LEAVES(cpu->virt->poll_nmi_window(cpu));
	assert_exit(EXIT_REASON_NMI_WINDOW);
}

static void zero_preemption_timer_exits_at_once(void **state)
{
	F(PIN_BASED_CONTROLS) = PIN_ACTIVATE_PREEMPTION_TIMER;
	F(GUEST_ACTIVITY_STATE) = VMCS_ACTIVITY_HLT;
	enter();
	assert_true(cpu->kick);
	assert_true(cpu->virt->wakeup(cpu));
	LEAVES(cpu->virt->poll_timer(cpu));
	assert_exit(EXIT_REASON_PREEMPTION_TIMER);
	assert_int_equal(F(GUEST_RIP), 0x6660);
	assert_int_equal(F(GUEST_ACTIVITY_STATE), VMCS_ACTIVITY_HLT);
}

static void preemption_timer_counts_and_is_saved(void **state)
{
	F(PIN_BASED_CONTROLS) = PIN_ACTIVATE_PREEMPTION_TIMER;
	F(VM_EXIT_CONTROLS) |= EXIT_SAVE_PREEMPTION_TIMER;
	F(VMX_PREEMPTION_TIMER_VALUE) = 100;
	enter();
	assert_int_equal(armed_ns, 32000 + 100 * 32);
	tsc += 60 * 32;
	cpu->virt->poll_timer(cpu);
	LEAVES(vmx_exit(cpu, EXIT_REASON_CPUID, 0));
	assert_int_equal(F(VMX_PREEMPTION_TIMER_VALUE), 40);
	assert_int_equal(cpu->virt_deadline_ns, 0);
	arms = 0;
	F(VMX_PREEMPTION_TIMER_VALUE) = 1000;
	enter(); /* an earlier alarm is still set: no call of the machine */
	assert_int_equal(arms, 0);
	tsc += 50 * 32; /* it came */
	cpu->virt->poll_timer(cpu);
	assert_int_equal(arms, 1);
	tsc += 1000 * 32;
	LEAVES(cpu->virt->poll_timer(cpu));
	assert_exit(EXIT_REASON_PREEMPTION_TIMER);
	assert_int_equal(F(VMX_PREEMPTION_TIMER_VALUE), 0);
}

static void monitor_trap_flag_after_one_instruction(void **state)
{
	F(PRIMARY_PROCESSOR_CONTROLS) |= CPU_MONITOR_TRAP_FLAG;
	enter();
	assert_true(cpu->monitor_trap);
	cpu->virt->poll_high(cpu); /* before the first instruction */
	LEAVES(cpu->virt->poll_high(cpu));
	assert_exit(EXIT_REASON_MONITOR_TRAP_FLAG);
	assert_false(cpu->monitor_trap);
	inject(EVENT_EXCEPTION << 8 | VECTOR_UD, 0, 0);
	cpu->virt->poll_high(cpu); /* not before the delivery */
	cpu->event.valid = false;
	LEAVES(cpu->virt->poll_high(cpu));
	assert_exit(EXIT_REASON_MONITOR_TRAP_FLAG);
}

static void injected_monitor_trap_exits_at_once(void **state)
{
	inject(EVENT_OTHER << 8, 0, 0);
	assert_false(cpu->event.valid);
	LEAVES(cpu->virt->poll_high(cpu));
	assert_exit(EXIT_REASON_MONITOR_TRAP_FLAG);
}

static void single_step_under_blocking_is_saved(void **state)
{
	F(GUEST_RFLAGS) = 2 | FLAG_TF;
	enter();
	cpu->shadow = SHADOW_MOVSS;
	LEAVES(vmx_exit(cpu, EXIT_REASON_CPUID, 0));
	assert_int_equal(F(GUEST_PENDING_DEBUG_EXCEPTIONS), PENDING_DEBUG_BS);
	F(GUEST_INTERRUPTIBILITY_STATE) = 0;
	F(GUEST_PENDING_DEBUG_EXCEPTIONS) = PENDING_DEBUG_ENABLED_BP | 1;
	enter();
	assert_true(cpu->debug_trap_pending);
	assert_int_equal(cpu->dr6_pending, 1);
	LEAVES(vmx_exit(cpu, EXIT_REASON_MONITOR_TRAP_FLAG, 0));
	assert_int_equal(F(GUEST_PENDING_DEBUG_EXCEPTIONS), PENDING_DEBUG_ENABLED_BP | 1);
}

/* ---- instruction information ---- */

static const struct insn memory_insn = {
    .length = 7,
    .operand_size = 4,
    .address_size = 8,
    .is_memory = true,
    .has_modrm = true,
    .reg = 9,
    .base = 3,
    .index = 6,
    .scale = 2,
    .segment = SEG_FS,
    .displacement = 0x20,
};
static const struct insn register_insn = {
    .length = 3,
    .operand_size = 8,
    .address_size = 8,
    .has_modrm = true,
    .reg = 4,
    .rm = 12,
    .base = INSN_NO_REG,
    .index = INSN_NO_REG,
};

static void instruction_information(void **state)
{
	struct insn insn = memory_insn;

	enter();
	assert_int_equal(insn_info_register_memory(&insn),
	                 2 | 2 << 7 | SEG_FS << 15 | 6 << 18 | 3 << 23 | 9u << 28);
	assert_int_equal(insn_info_memory(&insn), 2 | 2 << 7 | SEG_FS << 15 | 6 << 18 | 3 << 23);
	insn.index = INSN_NO_REG;
	insn.base = INSN_BASE_RIP;
	assert_int_equal(insn_info_memory(&insn), 2 << 7 | SEG_FS << 15 | 1 << 22 | 1 << 27);
	assert_int_equal(insn_info_register_memory(&register_insn), 12 << 3 | 1 << 10 | 4u << 28);

	insn = memory_insn;
	insn.reg = 2; /* LGDT */
	assert_int_equal(insn_info_gdtr_idtr(cpu, &insn), insn_info_memory(&memory_insn) | 2 << 28);
	cpu->mode = MODE_CODE32;
	assert_int_equal(insn_info_gdtr_idtr(cpu, &insn), insn_info_memory(&memory_insn) | 1 << 11 | 2 << 28);
	insn.reg = 3; /* LTR */
	assert_int_equal(insn_info_ldtr_tr(&insn), insn_info_memory(&memory_insn) | 3 << 28);
	assert_int_equal(insn_info_random(&register_insn), 12 << 3 | 2 << 11);
	insn.opcode = 0x6e; /* OUTS */
	assert_int_equal(insn_info_string_io(&insn), 2 << 7 | SEG_FS << 15);
	insn.opcode = 0x6d; /* INS */
	insn.address_size = 2;
	assert_int_equal(insn_info_string_io(&insn), 0);
}

static unsigned length_of(const char *bytes, unsigned size, uint32_t mode)
{
	memset(ram + CODE, 0x90, 32);
	memcpy(ram + CODE, bytes, size);
	cpu->rip = CODE;
	cpu->mode = mode;
	cpu->seg[SEG_CS].base = 0;
	return insn_length_at_rip(cpu);
}

#define LENGTH(mode, bytes) assert_int_equal(length_of(bytes, sizeof(bytes) - 1, mode), sizeof(bytes) - 1)

static void instruction_length_from_memory(void **state)
{
	enter();
	LENGTH(MODE_CODE64, "\x8b\x00");
	LENGTH(MODE_CODE64, "\x89\x87\xb0\x00\x00\x00");
	LENGTH(MODE_CODE64, "\xc7\x87\xb0\x00\x00\x00\x00\x00\x00\x00");
	LENGTH(MODE_CODE64, "\x66\xc7\x07\x01\x00");
	LENGTH(MODE_CODE64, "\x48\xc7\x04\x25\x00\x01\x02\x03\x01\x02\x03\x04");
	LENGTH(MODE_CODE64, "\x8b\x04\x25\x20\xb0\x5f\xff");
	LENGTH(MODE_CODE64, "\x0f\xb7\x44\x24\x08");
	LENGTH(MODE_CODE64, "\xf6\x05\x00\x00\x00\x00\x01");
	LENGTH(MODE_CODE64, "\xf7\x18");
	LENGTH(MODE_CODE64, "\xf0\x0f\xba\x2f\x03");
	LENGTH(MODE_CODE64, "\xc5\xfd\x6f\x07");
	LENGTH(MODE_CODE64, "\xc4\xe2\x7d\x18\x07");
	LENGTH(MODE_CODE64, "\xc4\xe3\x7d\x19\x07\x01");
	LENGTH(MODE_CODE64, "\x66\x0f\x3a\x16\x07\x01");
	LENGTH(MODE_CODE64, "\x48\xa1\x00\x00\x00\x00\x00\x00\x00\x00");
	LENGTH(MODE_CODE64, "\xf3\x48\xa5");
	LENGTH(MODE_CODE32, "\xa1\x00\x00\x00\x00");
	LENGTH(MODE_CODE32, "\x67\x8b\x46\x02");
	LENGTH(0, "\x8b\x06\x34\x12");
	LENGTH(0, "\x67\x8b\x05\x00\x00\x00\x00");
	LENGTH(0, "\xc7\x06\x34\x12\x01\x00");
}

/* ---- interception ---- */

static bool intercepted(enum intercept what, uint64_t info, const struct insn *insn)
{
	raised_vector = -1;
	if (!setjmp(left)) {
		vmx_hooks.instruction(cpu, what, info, insn);
		return false;
	}
	return cpu->virt == NULL;
}

static void control_bits_decide(void **state)
{
	static const struct {
		enum intercept what;
		uint32_t primary, secondary, reason;
	} cases[] = {
	    {INTERCEPT_HLT, CPU_HLT_EXITING, 0, EXIT_REASON_HLT},
	    {INTERCEPT_INVLPG, CPU_INVLPG_EXITING, 0, EXIT_REASON_INVLPG},
	    {INTERCEPT_INVPCID, CPU_INVLPG_EXITING, CPU2_ENABLE_INVPCID, EXIT_REASON_INVPCID},
	    {INTERCEPT_MWAIT, CPU_MWAIT_EXITING, 0, EXIT_REASON_MWAIT},
	    {INTERCEPT_MONITOR, CPU_MONITOR_EXITING, 0, EXIT_REASON_MONITOR},
	    {INTERCEPT_PAUSE, CPU_PAUSE_EXITING, 0, EXIT_REASON_PAUSE},
	    {INTERCEPT_RDPMC, CPU_RDPMC_EXITING, 0, EXIT_REASON_RDPMC},
	    {INTERCEPT_RDTSC, CPU_RDTSC_EXITING, 0, EXIT_REASON_RDTSC},
	    {INTERCEPT_RDTSCP, CPU_RDTSC_EXITING, CPU2_ENABLE_RDTSCP, EXIT_REASON_RDTSCP},
	    {INTERCEPT_WBINVD, 0, CPU2_WBINVD_EXITING, EXIT_REASON_WBINVD},
	    {INTERCEPT_RDRAND, 0, CPU2_RDRAND_EXITING, EXIT_REASON_RDRAND},
	    {INTERCEPT_RDSEED, 0, CPU2_RDSEED_EXITING, EXIT_REASON_RDSEED},
	    {INTERCEPT_SGDT, 0, CPU2_DESCRIPTOR_TABLE_EXITING, EXIT_REASON_GDTR_IDTR},
	    {INTERCEPT_LLDT, 0, CPU2_DESCRIPTOR_TABLE_EXITING, EXIT_REASON_LDTR_TR},
	    {INTERCEPT_MOV_TO_DR, CPU_MOV_DR_EXITING, 0, EXIT_REASON_MOV_DR},
	    {INTERCEPT_CPUID, 0, 0, EXIT_REASON_CPUID},
	    {INTERCEPT_INVD, 0, 0, EXIT_REASON_INVD},
	    {INTERCEPT_XSETBV, 0, 0, EXIT_REASON_XSETBV},
	    {INTERCEPT_GETSEC, 0, 0, EXIT_REASON_GETSEC},
	    {INTERCEPT_TASK_SWITCH, 0, 0, EXIT_REASON_TASK_SWITCH},
	};

	for (unsigned i = 0; i < sizeof cases / sizeof *cases; i++) {
		/* What the instruction needs to exist at all stays on. */
		uint32_t exists = cases[i].secondary & (CPU2_ENABLE_INVPCID | CPU2_ENABLE_RDTSCP);

		setup(NULL);
		F(SECONDARY_PROCESSOR_CONTROLS) |= exists;
		enter();
		if (cases[i].primary || cases[i].secondary)
			assert_false(intercepted(cases[i].what, 0, &register_insn));
		setup(NULL);
		F(PRIMARY_PROCESSOR_CONTROLS) |= cases[i].primary;
		F(SECONDARY_PROCESSOR_CONTROLS) |= cases[i].secondary;
		enter();
		assert_true(intercepted(cases[i].what, 0, &register_insn));
		assert_exit(cases[i].reason);
		assert_int_equal(F(VM_EXIT_INSTRUCTION_LENGTH), 3);
	}
}

static void absent_instructions_are_undefined(void **state)
{
	static const enum intercept what[] = {INTERCEPT_RDTSCP, INTERCEPT_INVPCID, INTERCEPT_XSAVES,
	                                      INTERCEPT_XRSTORS};

	for (unsigned i = 0; i < 4; i++) {
		setup(NULL);
		enter();
		assert_false(intercepted(what[i], 0, &memory_insn));
		assert_int_equal(raised_vector, VECTOR_UD);
	}
}

static void pause_loop(void **state)
{
	F(SECONDARY_PROCESSOR_CONTROLS) |= CPU2_PAUSE_LOOP_EXITING;
	F(PLE_GAP) = 100;
	F(PLE_WINDOW) = 1000;
	enter();
	for (unsigned i = 0; i < 11; i++, tsc += 100)
		assert_false(intercepted(INTERCEPT_PAUSE, 0, &register_insn));
	assert_true(intercepted(INTERCEPT_PAUSE, 0, &register_insn));
	assert_exit(EXIT_REASON_PAUSE);
	enter();
	for (unsigned i = 0; i < 50; i++, tsc += 101) /* too far apart to be a loop */
		assert_false(intercepted(INTERCEPT_PAUSE, 0, &register_insn));
}

#define IO(port, size, bits) ((uint64_t)(port) << 16 | (bits) | ((size)-1))

static void io_bitmaps(void **state)
{
	F(PRIMARY_PROCESSOR_CONTROLS) |= CPU_USE_IO_BITMAPS;
	ram[BITMAP_A + 0x3f8 / 8] = 1;
	ram[BITMAP_B + 0x7fff / 8] = 0x80;
	enter();
	assert_false(intercepted(INTERCEPT_IO, IO(0x3f7, 1, 0), &register_insn));
	assert_false(intercepted(INTERCEPT_IO, IO(0x3f9, 4, 0), &register_insn));
	assert_true(intercepted(INTERCEPT_IO, IO(0x3f7, 2, 8), &register_insn));
	assert_exit(EXIT_REASON_IO_INSTRUCTION);
	assert_int_equal(QUALIFICATION, IO(0x3f7, 2, 8));
	enter();
	assert_true(intercepted(INTERCEPT_IO, IO(0xffff, 1, 0), &register_insn));
	ram[BITMAP_B + 0x7fff / 8] = 0;
	enter();
	assert_false(intercepted(INTERCEPT_IO, IO(0xffff, 1, 0), &register_insn));
	assert_true(intercepted(INTERCEPT_IO, IO(0xffff, 2, 0), &register_insn)); /* wraps */
	ram[BITMAP_B] = 1;
	enter();
	assert_true(intercepted(INTERCEPT_IO, IO(0x7ffd, 4, 0), &register_insn)); /* spans both bitmaps */
	F(PRIMARY_PROCESSOR_CONTROLS) = CPU_UNCONDITIONAL_IO_EXITING;
	enter();
	assert_true(intercepted(INTERCEPT_IO, IO(0x80, 1, 0), &register_insn));
	F(PRIMARY_PROCESSOR_CONTROLS) = 0;
	enter();
	assert_false(intercepted(INTERCEPT_IO, IO(0x80, 1, 0), &register_insn));
}

static void string_io_reports_address(void **state)
{
	struct insn outs = memory_insn;

	F(PRIMARY_PROCESSOR_CONTROLS) |= CPU_UNCONDITIONAL_IO_EXITING;
	outs.opcode = 0x6f;
	enter();
	cpu->gpr[REG_RSI] = 0x100;
	assert_true(intercepted(INTERCEPT_IO, IO(0x70, 4, 1 << 4), &outs));
	assert_int_equal(F(GUEST_LINEAR_ADDRESS), 0xffff888000000100);
	assert_int_equal(F(VM_EXIT_INSTRUCTION_INFORMATION), 2 << 7 | SEG_FS << 15);
}

static void msr_bitmaps(void **state)
{
	enter();
	assert_true(intercepted(INTERCEPT_RDMSR, 0x10, &register_insn)); /* no bitmaps */
	F(PRIMARY_PROCESSOR_CONTROLS) |= CPU_USE_MSR_BITMAPS;
	ram[MSR_BITMAP + 0x174 / 8] = 1 << 4;
	ram[MSR_BITMAP + 1024 + 0x80 / 8] = 1;
	ram[MSR_BITMAP + 2048 + 0x1fff / 8] = 0x80;
	ram[MSR_BITMAP + 3072] = 1;
	enter();
	assert_false(intercepted(INTERCEPT_WRMSR, 0x174, &register_insn));
	assert_false(intercepted(INTERCEPT_RDMSR, 0x175, &register_insn));
	assert_false(intercepted(INTERCEPT_RDMSR, 0xc0000000, &register_insn));
	static const struct {
		enum intercept what;
		uint32_t msr, reason;
	} exits[] = {
	    {INTERCEPT_RDMSR, 0x174, EXIT_REASON_RDMSR},
	    {INTERCEPT_RDMSR, 0xc0000080, EXIT_REASON_RDMSR},
	    {INTERCEPT_WRMSR, 0x1fff, EXIT_REASON_WRMSR},
	    {INTERCEPT_WRMSR, 0xc0000000, EXIT_REASON_WRMSR},
	    {INTERCEPT_RDMSR, 0x2000, EXIT_REASON_RDMSR},
	    {INTERCEPT_RDMSR, 0x40000000, EXIT_REASON_RDMSR},
	    {INTERCEPT_WRMSR, 0xc0002000, EXIT_REASON_WRMSR},
	};
	for (unsigned i = 0; i < sizeof exits / sizeof *exits; i++) {
		assert_true(intercepted(exits[i].what, exits[i].msr, &register_insn));
		assert_exit(exits[i].reason);
		enter();
	}
}

/* ---- control registers ---- */

static void cr0_mask_and_shadow(void **state)
{
	uint64_t guest;

	F(CR0_GUEST_HOST_MASK) = CR0_NE | CR0_TS | CR0_PE;
	F(CR0_READ_SHADOW) = CR0_PE;
	enter();
	guest = cpu->cr0;
	assert_int_equal(vmx_hooks.read_cr(cpu, 0, &register_insn), (guest & ~(uint64_t)CR0_NE) | CR0_PE);
	/* The owned bits agree with the shadow: no exit, and they keep their real values. */
	assert_int_equal(vmx_hooks.write_cr(cpu, 0, 0, CR0_PE | CR0_PG | CR0_AM, &register_insn),
	                 CR0_PE | CR0_NE | CR0_PG | CR0_AM);
	LEAVES(vmx_hooks.write_cr(cpu, 0, 0, CR0_PE | CR0_PG | CR0_TS, &register_insn));
	assert_exit(EXIT_REASON_CR_ACCESS);
	assert_int_equal(QUALIFICATION, 12 << 8);
	enter();
	/* A bit that VMX operation fixes and the guest owns faults. */
	LEAVES(vmx_hooks.write_cr(cpu, 0, 0, CR0_PE, &register_insn));
	assert_int_equal(raised_vector, VECTOR_GP);
	F(SECONDARY_PROCESSOR_CONTROLS) |= CPU2_UNRESTRICTED_GUEST;
	vmx->runtime.secondary |= CPU2_UNRESTRICTED_GUEST;
	assert_int_equal(vmx_hooks.write_cr(cpu, 0, 0, CR0_PE, &register_insn), CR0_PE | CR0_NE);
}

static void clts_and_lmsw(void **state)
{
	F(CR0_GUEST_HOST_MASK) = CR0_TS | CR0_PE;
	F(CR0_READ_SHADOW) = CR0_PE;
	F(GUEST_CR0) |= CR0_TS | CR0_MP;
	enter();
	assert_true(vmx_hooks.write_cr(cpu, 0, 2, 0, &register_insn) & CR0_TS); /* the guest sees it clear */
	/* LMSW cannot clear PE, so a source without PE does not exit for it. */
	assert_int_equal(vmx_hooks.write_cr(cpu, 0, 3, 0, &register_insn), cpu->cr0 & ~(uint64_t)CR0_MP);
	LEAVES(vmx_hooks.write_cr(cpu, 0, 3, 0xabc0 | CR0_TS, &memory_insn));
	assert_exit(EXIT_REASON_CR_ACCESS);
	assert_int_equal(QUALIFICATION, 3 << 4 | 1 << 6 | (0xabc0ull | CR0_TS) << 16);
	assert_int_equal(F(GUEST_LINEAR_ADDRESS), 0xffff888000000000 + 0x20);
	F(CR0_READ_SHADOW) = CR0_PE | CR0_TS;
	enter();
	LEAVES(vmx_hooks.write_cr(cpu, 0, 2, 0, &register_insn));
	assert_exit(EXIT_REASON_CR_ACCESS);
	assert_int_equal(QUALIFICATION, 2 << 4);
}

static void cr4_mask_and_shadow(void **state)
{
	F(CR4_GUEST_HOST_MASK) = CR4_VMXE;
	enter();
	assert_int_equal(vmx_hooks.read_cr(cpu, 4, &register_insn), CR4_PAE);
	assert_int_equal(vmx_hooks.write_cr(cpu, 4, 0, CR4_PAE | CR4_PGE, &register_insn),
	                 CR4_PAE | CR4_PGE | CR4_VMXE);
	LEAVES(vmx_hooks.write_cr(cpu, 4, 0, CR4_PAE | CR4_VMXE, &register_insn));
	assert_exit(EXIT_REASON_CR_ACCESS);
	assert_int_equal(QUALIFICATION, 4 | 12 << 8);
}

static void cr3_targets(void **state)
{
	F(PRIMARY_PROCESSOR_CONTROLS) |= CPU_CR3_LOAD_EXITING | CPU_CR3_STORE_EXITING;
	F(CR3_TARGET_COUNT) = 1;
	F(CR3_TARGET_VALUE_0) = 0x5000;
	F(CR3_TARGET_VALUE_1) = 0x6000;
	enter();
	assert_int_equal(vmx_hooks.write_cr(cpu, 3, 0, 0x5000, &register_insn), 0x5000);
	LEAVES(vmx_hooks.write_cr(cpu, 3, 0, 0x6000, &register_insn));
	assert_exit(EXIT_REASON_CR_ACCESS);
	assert_int_equal(QUALIFICATION, 3 | 12 << 8);
	enter();
	LEAVES(vmx_hooks.read_cr(cpu, 3, &register_insn));
	assert_int_equal(QUALIFICATION, 3 | 1 << 4 | 12 << 8);
}

static void cr8_and_the_tpr_shadow(void **state)
{
	F(PRIMARY_PROCESSOR_CONTROLS) |= CPU_USE_TPR_SHADOW;
	F(TPR_THRESHOLD) = 4;
	enter();
	cr8 = 9;
	assert_int_equal(vmx_hooks.write_cr(cpu, 8, 0, 5, &register_insn), 9); /* the real one stays */
	assert_int_equal(ram[VIRTUAL_APIC + 0x80], 0x50);
	assert_int_equal(vmx_hooks.read_cr(cpu, 8, &register_insn), 5);
	cpu->virt->poll_high(cpu);
	cpu->kick = 0;
	vmx_hooks.write_cr(cpu, 8, 0, 3, &register_insn);
	assert_true(cpu->kick);
	LEAVES(cpu->virt->poll_high(cpu));
	assert_exit(EXIT_REASON_TPR_BELOW_THRESHOLD);
}

static void tpr_threshold_right_after_entry(void **state)
{
	F(PRIMARY_PROCESSOR_CONTROLS) |= CPU_USE_TPR_SHADOW;
	F(SECONDARY_PROCESSOR_CONTROLS) |= CPU2_VIRTUALIZE_APIC_ACCESSES;
	F(TPR_THRESHOLD) = 1;
	enter();
	LEAVES(cpu->virt->poll_high(cpu));
	assert_exit(EXIT_REASON_TPR_BELOW_THRESHOLD);
}

static void tsc_offset(void **state)
{
	F(PRIMARY_PROCESSOR_CONTROLS) |= CPU_USE_TSC_OFFSETTING;
	F(TSC_OFFSET) = (uint64_t)-1000;
	enter();
	assert_int_equal(vmx_hooks.guest_tsc(cpu, 5000), 4000);
}

/* ---- APIC ---- */

static void apic_access_page(void **state)
{
	uint64_t value = 0x61;

	F(PRIMARY_PROCESSOR_CONTROLS) |= CPU_USE_TPR_SHADOW;
	F(SECONDARY_PROCESSOR_CONTROLS) |= CPU2_VIRTUALIZE_APIC_ACCESSES;
	F(GUEST_RIP) = CODE;
	memcpy(ram + CODE, "\x89\x87\xb0\x00\x00\x00", 6);
	enter();
	assert_int_equal(cpu->apic_access_page, APIC_PAGE);
	assert_true(vmx_hooks.apic_access(cpu, GPA(0xfee00080), 4, ACCESS_WRITE, &value));
	value = 0;
	assert_true(vmx_hooks.apic_access(cpu, GPA(0xfee00080), 4, ACCESS_READ, &value));
	assert_int_equal(value, 0x61);
	LEAVES(vmx_hooks.apic_access(cpu, GPA(0xfee000b0), 4, ACCESS_WRITE, &value));
	assert_exit(EXIT_REASON_APIC_ACCESS);
	assert_int_equal(QUALIFICATION, 0x10b0);
	assert_int_equal(F(VM_EXIT_INSTRUCTION_LENGTH), 6);
	assert_int_equal(cpu->apic_access_page, 0);
	enter();
	cpu->delivering.valid = true;
	LEAVES(vmx_hooks.apic_access(cpu, GPA(0xfee00080), 4, ACCESS_READ, &value));
	assert_int_equal(QUALIFICATION, 0x3080);
}

static void x2apic_tpr(void **state)
{
	uint64_t value;

	F(PRIMARY_PROCESSOR_CONTROLS) |= CPU_USE_TPR_SHADOW;
	F(SECONDARY_PROCESSOR_CONTROLS) |= CPU2_VIRTUALIZE_X2APIC_MODE;
	enter();
	assert_true(vmx_hooks.write_msr(cpu, 0x808, 0x30));
	assert_true(vmx_hooks.read_msr(cpu, 0x808, &value));
	assert_int_equal(value, 0x30);
	assert_false(vmx_hooks.read_msr(cpu, 0x80b, &value));
	LEAVES(vmx_hooks.write_msr(cpu, 0x808, 0x100));
	assert_int_equal(raised_vector, VECTOR_GP);
}

/* ---- EPT ---- */

#define EPT_L3 0x11000
#define EPT_L2 0x12000
#define EPT_L1 0x13000

static void put_entry(uint64_t table, unsigned index, uint64_t entry)
{
	memcpy(ram + table + 8 * index, &entry, 8);
}

static uint64_t get_entry(uint64_t table, unsigned index)
{
	return phys_read(cpu, GPA(table + 8 * index), 8);
}

/* L2's first page maps to 20000H, by 4 KiB pages. */
static void make_ept(void)
{
	put_entry(EPT_ROOT, 0, EPT_L3 | 7);
	put_entry(EPT_L3, 0, EPT_L2 | 7);
	put_entry(EPT_L2, 0, EPT_L1 | 7);
	put_entry(EPT_L1, 0, 0x20000 | 6 << 3 | 7);
	F(SECONDARY_PROCESSOR_CONTROLS) |= CPU2_ENABLE_EPT;
}

static struct nested_mapping mapping;

static bool translates(uint64_t l2_gpa, enum mem_access access, bool is_walk)
{
	struct nested_access request = {
	    .access = access, .linear_valid = true, .is_walk = is_walk, .gla = GLA(0xabc123)};

	if (!cpu->virt)
		enter();
	raised_vector = -1;
	mapping = (struct nested_mapping){0};
	if (!setjmp(left)) {
		vmx_hooks.translate(cpu, GPA(l2_gpa), &request, &mapping);
		return true;
	}
	return false;
}

static void ept_maps_all_page_sizes(void **state)
{
	make_ept();
	assert_true(translates(0x123, ACCESS_WRITE, false));
	assert_int_equal(mapping.l1_gpa.v, 0x20000);
	assert_true(mapping.writable && mapping.executable && !mapping.apic_access);
	put_entry(EPT_L2, 1, 0x400000 | 6 << 3 | 0x80 | 7);
	assert_true(translates(0x2ab456, ACCESS_READ, false));
	assert_int_equal(mapping.l1_gpa.v, 0x4ab000);
	put_entry(EPT_L3, 1, 0x80000000 | 6 << 3 | 0x80 | 7);
	assert_true(translates(0x7abcd456, ACCESS_FETCH, false));
	assert_int_equal(mapping.l1_gpa.v, 0xbabcd000);
}

static void ept_violation_qualification(void **state)
{
	make_ept();
	put_entry(EPT_L1, 1, 0x21000 | 6 << 3 | 1);
	assert_true(translates(0x1000, ACCESS_READ, false));
	assert_false(translates(0x1234, ACCESS_WRITE, false));
	assert_exit(EXIT_REASON_EPT_VIOLATION);
	assert_int_equal(QUALIFICATION, 2 | 1 << 3 | 1 << 7 | 1 << 8);
	assert_int_equal(F(GUEST_PHYSICAL_ADDRESS), 0x1234);
	assert_int_equal(F(GUEST_LINEAR_ADDRESS), 0xabc123);
	assert_false(translates(0x1234, ACCESS_FETCH, false));
	assert_int_equal(QUALIFICATION, 4 | 1 << 3 | 1 << 7 | 1 << 8);
	assert_false(translates(0x2000, ACCESS_READ, true)); /* not present, walking */
	assert_int_equal(QUALIFICATION, 1 | 1 << 7);
	assert_false(translates(1ull << 39, ACCESS_READ, false));
	assert_int_equal(QUALIFICATION, 1 | 1 << 7 | 1 << 8);
}

static void ept_execute_only(void **state)
{
	make_ept();
	put_entry(EPT_L1, 1, 0x21000 | 6 << 3 | 4);
	assert_true(translates(0x1000, ACCESS_FETCH, false));
	assert_false(mapping.writable);
	assert_false(translates(0x1000, ACCESS_READ, false));
	assert_exit(EXIT_REASON_EPT_VIOLATION);
	assert_int_equal(QUALIFICATION, 1 | 4 << 3 | 1 << 7 | 1 << 8);
	vmx->cap.ept_vpid = 0;
	assert_false(translates(0x1000, ACCESS_FETCH, false));
	assert_exit(EXIT_REASON_EPT_MISCONFIGURATION);
}

static void ept_misconfigurations(void **state)
{
	static const struct {
		uint64_t table;
		uint64_t entry;
	} cases[] = {
	    {EPT_L1, 0x20000 | 6 << 3 | 2},         /* write-only */
	    {EPT_L1, 0x20000 | 6 << 3 | 6},         /* write and execute */
	    {EPT_L1, 0x20000 | 2 << 3 | 7},         /* memory type 2 */
	    {EPT_L1, 0x20000 | 3 << 3 | 7},         /* 3 */
	    {EPT_L1, 0x20000 | 7 << 3 | 7},         /* 7 */
	    {EPT_L1, 1ull << 40 | 6 << 3 | 7},      /* beyond the physical-address width */
	    {EPT_L2, EPT_L1 | 8 | 7},               /* reserved bit of a directory */
	    {EPT_L2, 0x201000 | 0x80 | 6 << 3 | 7}, /* address bit of a 2 MiB page */
	    {EPT_L3, 0x40200000 | 0x80 | 6 << 3 | 7},
	    {EPT_ROOT, EPT_L3 | 0x80 | 7}, /* no large pages at level 4 */
	};

	for (unsigned i = 0; i < sizeof cases / sizeof *cases; i++) {
		setup(NULL);
		make_ept();
		put_entry(cases[i].table, 0, cases[i].entry);
		F(GUEST_RIP) = CODE;
		memcpy(ram + CODE, "\x8b\x07", 2);
		assert_false(translates(0x456, ACCESS_READ, false));
		assert_exit(EXIT_REASON_EPT_MISCONFIGURATION);
		assert_int_equal(F(GUEST_PHYSICAL_ADDRESS), 0x456);
		assert_int_equal(F(VM_EXIT_INSTRUCTION_LENGTH), 2);
	}
}

static void ept_accessed_and_dirty(void **state)
{
	make_ept();
	F(EPT_POINTER) |= EPTP_ACCESSED_DIRTY;
	assert_true(translates(0, ACCESS_READ, false));
	assert_false(mapping.writable); /* the dirty flag is still to be set */
	assert_int_equal(get_entry(EPT_ROOT, 0), EPT_L3 | 0x107);
	assert_int_equal(get_entry(EPT_L1, 0), 0x20000 | 6 << 3 | 0x107);
	assert_true(translates(0, ACCESS_WRITE, false));
	assert_true(mapping.writable);
	assert_int_equal(get_entry(EPT_L1, 0), 0x20000 | 6 << 3 | 0x307);
	assert_int_equal(get_entry(EPT_L2, 0), EPT_L1 | 0x107);
	/* Page walks count as writes. */
	put_entry(EPT_L1, 1, 0x21000 | 6 << 3 | 5);
	assert_false(translates(0x1000, ACCESS_READ, true));
	assert_exit(EXIT_REASON_EPT_VIOLATION);
	assert_int_equal(QUALIFICATION, 3 | 5 << 3 | 1 << 7);
}

static void ept_cache_obeys_invept(void **state)
{
	make_ept();
	assert_true(translates(0, ACCESS_READ, false));
	put_entry(EPT_L1, 0, 0x22000 | 6 << 3 | 7);
	vmx_ept_cache_flush(cpu);
	assert_true(translates(0, ACCESS_READ, false));
	assert_int_equal(mapping.l1_gpa.v, 0x22000);
	/* More rights need no invalidation. */
	put_entry(EPT_L1, 2, 0x23000 | 6 << 3 | 1);
	assert_true(translates(0x2000, ACCESS_READ, false));
	put_entry(EPT_L1, 2, 0x23000 | 6 << 3 | 7);
	assert_true(translates(0x2000, ACCESS_WRITE, false));
}

static void ept_finds_the_apic_access_page(void **state)
{
	make_ept();
	F(SECONDARY_PROCESSOR_CONTROLS) |= CPU2_VIRTUALIZE_APIC_ACCESSES;
	put_entry(EPT_L1, 3, APIC_PAGE | 6 << 3 | 7);
	assert_true(translates(0x3000, ACCESS_READ, false));
	assert_true(mapping.apic_access);
	assert_true(translates(0x3000, ACCESS_READ, false)); /* from the cache too */
	assert_true(mapping.apic_access);
}

static void pdptes_come_from_fields_under_ept(void **state)
{
	make_ept();
	F(VM_ENTRY_CONTROLS) &= ~(uint64_t)ENTRY_IA32E_MODE_GUEST;
	F(GUEST_IA32_EFER) = 0;
	F(GUEST_CS_ACCESS_RIGHTS) = 0xc09b;
	F(GUEST_PDPTE0) = 0x9001;
	F(GUEST_PDPTE3) = 0xa001;
	enter();
	assert_int_equal(cpu->pdpte[0], 0x9001);
	cpu->pdpte[3] = 0xb001;
	LEAVES(vmx_exit(cpu, EXIT_REASON_CPUID, 0));
	assert_int_equal(F(GUEST_PDPTE3), 0xb001);
	F(SECONDARY_PROCESSOR_CONTROLS) &= ~(uint64_t)CPU2_ENABLE_EPT;
	pdptes_good = false;
	LEAVES(vmx_enter(cpu, false));
	assert_exit(EXIT_REASON_ENTRY_INVALID_GUEST_STATE | EXIT_REASON_ENTRY_FAILURE);
	assert_int_equal(QUALIFICATION, ENTRY_FAILURE_PDPTE);
}

#define TEST(f) cmocka_unit_test_setup(f, setup)

int main(void)
{
	const struct CMUnitTest tests[] = {
	    TEST(entry_loads_guest_state),
	    TEST(exit_saves_guest_state_unchanged),
	    TEST(exit_saves_what_the_guest_changed),
	    TEST(exit_loads_host_state),
	    TEST(entry_keeps_et_cd_nw),
	    TEST(entry_fixes_dr7_and_derives_efer),
	    TEST(flushes_only_where_due),
	    TEST(refused_entry_goes_on),
	    TEST(failed_entry_saves_nothing),
	    TEST(msr_load_failure_reports_index),
	    TEST(endless_msr_list_fails),
	    TEST(exit_stores_and_loads_msrs),
	    TEST(msr_failure_at_exit_aborts),
	    TEST(bad_host_pdptes_abort),
	    TEST(injection_makes_the_event),
	    TEST(injection_ends_halt_and_blocking),
	    TEST(injected_event_is_not_intercepted),
	    TEST(real_exit_clears_the_valid_bit),
	    TEST(exit_during_delivery_reports_vectoring),
	    TEST(triple_fault_has_no_vectoring),
	    TEST(page_fault_mask_and_match),
	    TEST(debug_exception_leaves_dr6),
	    TEST(breakpoint_instruction_has_length),
	    TEST(nmi_exits_and_blocks),
	    TEST(virtual_nmi_blocking),
	    TEST(iret_without_virtual_nmis_changes_no_blocking),
	    TEST(faulting_iret_reports_unblocking),
	    TEST(external_interrupt_acknowledged_on_exit),
	    TEST(interrupt_window),
	    TEST(nmi_window_waits_for_mov_ss),
	    TEST(zero_preemption_timer_exits_at_once),
	    TEST(preemption_timer_counts_and_is_saved),
	    TEST(monitor_trap_flag_after_one_instruction),
	    TEST(injected_monitor_trap_exits_at_once),
	    TEST(single_step_under_blocking_is_saved),
	    TEST(instruction_information),
	    TEST(instruction_length_from_memory),
	    TEST(control_bits_decide),
	    TEST(absent_instructions_are_undefined),
	    TEST(pause_loop),
	    TEST(io_bitmaps),
	    TEST(string_io_reports_address),
	    TEST(msr_bitmaps),
	    TEST(cr0_mask_and_shadow),
	    TEST(clts_and_lmsw),
	    TEST(cr4_mask_and_shadow),
	    TEST(cr3_targets),
	    TEST(cr8_and_the_tpr_shadow),
	    TEST(tpr_threshold_right_after_entry),
	    TEST(tsc_offset),
	    TEST(apic_access_page),
	    TEST(x2apic_tpr),
	    TEST(ept_maps_all_page_sizes),
	    TEST(ept_violation_qualification),
	    TEST(ept_execute_only),
	    TEST(ept_misconfigurations),
	    TEST(ept_accessed_and_dirty),
	    TEST(ept_cache_obeys_invept),
	    TEST(ept_finds_the_apic_access_page),
	    TEST(pdptes_come_from_fields_under_ept),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

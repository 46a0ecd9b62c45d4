/*
 * Virtual VT-x without guest code: field encodings, capability MSRs, VMCLEAR and VMPTRLD, VMX instructions'
 * errors, and every rule of VM entry, violated one at a time from a valid state. Alone: gcc -std=gnu17 -g
 * -D_GNU_SOURCE -fno-strict-aliasing -Isrc -o /tmp/test_vmcs tests/unit/test_vmcs.c
 * src/engine/soft/vmx/{capabilities,vmcs_cache,instructions,entry_checks,entry_checks_guest,entry_checks_segments,entry_explain,vmx_create}.c
 * src/util/error.c -lcmocka && /tmp/test_vmcs
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/soft/cpu/memory.h"
#include "engine/soft/vmx/entry_rules.h"
#include "engine/soft/vmx/vmcs.h"
#include "engine/soft/vmx/vmx.h"

/* ---- the neighbours, in place of the real ones ---- */

#define MEMORY_SIZE (1u << 20)
static uint8_t memory[MEMORY_SIZE];
static struct cpu_model model;
static struct cpu *cpu;
static jmp_buf left;
static int raised;      /* vector, or -1 */
static uint32_t exited; /* exit reason, or UINT32_MAX */
static int entered;     /* 1 VMLAUNCH, 2 VMRESUME */
static char explained[4096];

void phys_read_block(struct cpu *c, gpa_t gpa, void *to, unsigned size)
{
	if (gpa.v >= MEMORY_SIZE || size > MEMORY_SIZE - gpa.v)
		memset(to, 0xff, size);
	else
		memcpy(to, memory + gpa.v, size);
}

void phys_write_block(struct cpu *c, gpa_t gpa, const void *from, unsigned size)
{
	if (gpa.v < MEMORY_SIZE && size <= MEMORY_SIZE - gpa.v)
		memcpy(memory + gpa.v, from, size);
}

uint64_t phys_read(struct cpu *c, gpa_t gpa, unsigned size)
{
	uint64_t value = 0;

	phys_read_block(c, gpa, &value, size);
	return value;
}

void phys_write(struct cpu *c, gpa_t gpa, unsigned size, uint64_t value)
{
	phys_write_block(c, gpa, &value, size);
}

uint64_t mem_read(struct cpu *c, unsigned seg, uint64_t offset, unsigned size)
{
	return phys_read(c, GPA(offset), size);
}

void mem_write(struct cpu *c, unsigned seg, uint64_t offset, unsigned size, uint64_t value)
{
	phys_write(c, GPA(offset), size, value);
}

gla_t mem_linear(struct cpu *c, unsigned seg, uint64_t offset, unsigned size, enum mem_access access)
{
	return GLA(offset);
}

void mem_read_block(struct cpu *c, gla_t gla, void *to, unsigned size, enum tlb_class class)
{
	phys_read_block(c, GPA(gla.v), to, size);
}

uint64_t operand_offset(struct cpu *c, const struct insn *insn)
{
	return insn->displacement;
}

uint64_t operand_rm(struct cpu *c, const struct insn *insn, unsigned size)
{
	return insn->is_memory ? mem_read(c, 0, insn->displacement, size) : c->gpr[insn->rm];
}

void operand_set_rm(struct cpu *c, const struct insn *insn, unsigned size, uint64_t value)
{
	if (insn->is_memory)
		mem_write(c, 0, insn->displacement, size, value);
	else
		c->gpr[insn->rm] = size == 4 ? (uint32_t)value : value;
}

_Noreturn void cpu_raise(struct cpu *c, enum vector vector)
{
	raised = vector;
	longjmp(left, 1);
}

_Noreturn void cpu_raise_error(struct cpu *c, enum vector vector, uint32_t error)
{
	assert_int_equal(error, 0);
	cpu_raise(c, vector);
}

_Noreturn void vmx_exit_instruction(struct cpu *c, uint32_t reason, uint64_t qualification,
                                    uint32_t information)
{
	exited = reason;
	longjmp(left, 1);
}

_Noreturn void vmx_enter(struct cpu *c, bool launch)
{
	entered = launch ? 1 : 2;
	longjmp(left, 1);
}

void vmx_runtime_reset(struct cpu *c)
{
}

void vmx_ept_cache_flush(struct cpu *c)
{
}

void tlb_flush_ept(struct cpu *c, unsigned type, uint64_t eptp)
{
}

void tlb_flush_vpid(struct cpu *c, unsigned type, uint16_t vpid, gla_t gla)
{
}

uint32_t insn_info_memory(const struct insn *insn)
{
	return 0;
}

uint32_t insn_info_register_memory(const struct insn *insn)
{
	return 0;
}

void cpu_trace(struct cpu *c, const char *format, ...)
{
	size_t length = strlen(explained);
	va_list list;

	va_start(list, format);
	vsnprintf(explained + length, sizeof(explained) - length, format, list);
	va_end(list);
}

/* ---- set-up ---- */

#define VMXON_REGION 0x1000
#define REGION_A     0x2000
#define REGION_B     0x3000
#define OPERAND      0x8000
#define VIRTUAL_APIC 0x9000
#define PAGE_TABLE   0xa000

static void make_model(void)
{
	memset(&model, 0, sizeof(model));
	model.vmx = true;
	model.physical_address_bits = 40;
	model.leaf[0] = (struct cpuid_leaf){
	    .leaf = 1, .ecx = 1u << 5 | 1u << 17 | 1u << 26 | 1u << 30, .edx = 0x0f8bfbff};
	model.leaf[1] = (struct cpuid_leaf){
	    .leaf = 7, .subleaf_matters = true, .ebx = 1u << 0 | 1u << 7 | 1u << 10 | 1u << 18 | 1u << 20};
	model.leaf[2] = (struct cpuid_leaf){.leaf = 0xd, .subleaf = 1, .subleaf_matters = true, .eax = 15};
	model.leaf[3] =
	    (struct cpuid_leaf){.leaf = 0x80000001, .edx = 1u << 11 | 1u << 20 | 1u << 27 | 1u << 29};
	model.leaf_count = 4;
}

static int set_up(void **state)
{
	make_model();
	memset(memory, 0, sizeof(memory));
	cpu = aligned_alloc(64, (sizeof(*cpu) + 63) / 64 * 64);
	memset(cpu, 0, sizeof(*cpu));
	cpu->model = &model;
	assert_int_equal(vmx_create(cpu), 0);
	cpu->mode = MODE_CODE64 | MODE_LONG | MODE_CPL0 | MODE_PROTECTED | MODE_PAGING;
	cpu->cr0 = CR0_PE | CR0_NE | CR0_PG;
	cpu->cr4 = CR4_PAE | CR4_VMXE;
	cpu->efer = EFER_LME | EFER_LMA;
	for (unsigned i = 0; i < 3; i++)
		phys_write(cpu, GPA(VMXON_REGION + i * 0x1000), 4, VMCS_REVISION);
	return 0;
}

static int tear_down(void **state)
{
	vmx_destroy(cpu);
	free(cpu);
	return 0;
}

enum outcome { SUCCEEDED, FAIL_INVALID, FAIL_VALID, FAULTED, EXITED, ENTERED };

static enum outcome execute(op_function *op, const struct insn *insn)
{
	raised = -1;
	exited = UINT32_MAX;
	entered = 0;
	cpu_set_rflags(cpu, 2 | FLAGS_ARITHMETIC);
	if (setjmp(left))
		return raised >= 0 ? FAULTED : exited != UINT32_MAX ? EXITED : ENTERED;
	op(cpu, insn);
	switch (cpu_rflags(cpu) & FLAGS_ARITHMETIC) {
	case 0:
		return SUCCEEDED;
	case FLAG_CF:
		return FAIL_INVALID;
	case FLAG_ZF:
		return FAIL_VALID;
	default:
		fail();
		return FAULTED;
	}
}

/* An instruction with a memory operand that holds `value`. */
static enum outcome with_pointer(op_function *op, uint64_t value)
{
	struct insn insn = {.is_memory = true, .displacement = OPERAND};

	phys_write(cpu, GPA(OPERAND), 8, value);
	return execute(op, &insn);
}

static enum outcome plain(op_function *op)
{
	struct insn insn = {0};

	return execute(op, &insn);
}

static enum outcome vmread(uint64_t encoding, uint64_t *value)
{
	struct insn insn = {.reg = REG_RAX, .rm = REG_RCX};
	enum outcome outcome;

	cpu->gpr[REG_RAX] = encoding;
	outcome = execute(op_vmread, &insn);
	*value = cpu->gpr[REG_RCX];
	return outcome;
}

static enum outcome vmwrite(uint64_t encoding, uint64_t value)
{
	struct insn insn = {.reg = REG_RAX, .rm = REG_RCX};

	cpu->gpr[REG_RAX] = encoding;
	cpu->gpr[REG_RCX] = value;
	return execute(op_vmwrite, &insn);
}

static uint64_t error_number(void)
{
	return vmcs_get(cpu->vmx->current, VMCS_VM_INSTRUCTION_ERROR);
}

static void enter_vmx_operation(void)
{
	assert_int_equal(with_pointer(op_vmxon, VMXON_REGION), SUCCEEDED);
}

static void make_current(uint64_t region)
{
	assert_int_equal(with_pointer(op_vmclear, region), SUCCEEDED);
	assert_int_equal(with_pointer(op_vmptrld, region), SUCCEEDED);
}

/* ---- encodings ---- */

static void every_encoding_finds_its_field(void **state)
{
	for (unsigned i = VMCS_NONE + 1; i < VMCS_FIELD_COUNT; i++) {
		const struct vmcs_field_info *info = &vmcs_field_info[i];
		bool high, supported = vmx_field_supported(&cpu->vmx->cap, i);

		assert_int_equal(info->encoding >> 13, info->width);
		assert_int_equal(info->encoding >> 10 & 3, info->type);
		assert_int_equal(vmcs_lookup(cpu->vmx, info->encoding, &high), supported ? i : VMCS_NONE);
		assert_false(high);
		if (info->width == VMCS_WIDTH_64 && supported) {
			assert_int_equal(vmcs_lookup(cpu->vmx, info->encoding | 1, &high), i);
			assert_true(high);
		} else {
			assert_int_equal(vmcs_lookup(cpu->vmx, info->encoding | 1, &high), VMCS_NONE);
		}
		for (unsigned j = i + 1; j < VMCS_FIELD_COUNT; j++)
			assert_int_not_equal(info->encoding, vmcs_field_info[j].encoding);
	}
}

static void no_other_encoding_finds_a_field(void **state)
{
	bool high;

	for (uint64_t encoding = 0; encoding < 0x10000; encoding++) {
		enum vmcs_field field = vmcs_lookup(cpu->vmx, encoding, &high);

		if (field != VMCS_NONE)
			assert_int_equal(vmcs_field_info[field].encoding, encoding & ~1ull);
	}
	assert_int_equal(vmcs_lookup(cpu->vmx, 0x100006800, &high), VMCS_NONE);
	assert_int_equal(vmcs_lookup(cpu->vmx, 0x80006800, &high), VMCS_NONE);
}

/* ---- capabilities ---- */

static uint64_t capability_msr(uint32_t msr)
{
	uint64_t value;

	assert_true(vmx_read_capability(&model, msr, &value));
	return value;
}

static void allowed_0_is_a_subset_of_allowed_1(void **state)
{
	static const uint32_t msrs[] = {0x481, 0x482, 0x483, 0x484, 0x48b, 0x48d, 0x48e, 0x48f, 0x490};

	for (unsigned i = 0; i < sizeof(msrs) / sizeof(msrs[0]); i++) {
		uint64_t value = capability_msr(msrs[i]);

		assert_int_equal((uint32_t)value & ~(value >> 32), 0);
	}
	assert_int_equal((uint32_t)capability_msr(0x48b), 0);
}

static void true_controls_only_relax_the_plain_ones(void **state)
{
	for (unsigned i = 0; i < 4; i++) {
		uint64_t plain_value = capability_msr(0x481 + i), true_value = capability_msr(0x48d + i);

		assert_int_equal(plain_value >> 32, true_value >> 32);
		assert_int_equal((uint32_t)true_value & ~(uint32_t)plain_value, 0);
	}
	assert_int_equal((uint32_t)(capability_msr(0x482) & ~capability_msr(0x48e)),
	                 CPU_CR3_LOAD_EXITING | CPU_CR3_STORE_EXITING);
}

static void what_hypervisors_demand_is_offered(void **state)
{
	uint64_t basic = capability_msr(0x480), ept = capability_msr(0x48c), misc = capability_msr(0x485);
	uint64_t primary = capability_msr(0x48e) >> 32, highest = 0;
	uint32_t exit = capability_msr(0x483) >> 32, entry = capability_msr(0x484) >> 32;
	static const uint8_t ept_bits[] = {0, 6, 14, 16, 17, 20, 21, 25, 26, 32, 40, 41, 42, 43};
	uint64_t value;

	assert_true((basic >> 32 & 0x1fff) <= 4096);
	assert_int_equal(basic & (1u << 31 | 1ull << 48), 0);
	assert_int_equal(basic >> 50 & 15, 6);
	assert_int_equal(basic >> 54 & 3, 3);
	for (unsigned i = 0; i < sizeof(ept_bits); i++)
		assert_true(ept >> ept_bits[i] & 1);
	assert_int_equal(misc & 31, 5);
	assert_true(misc & 1u << 5 && misc & 1u << 6 && misc & 1u << 29 && misc & 1u << 30);
	assert_int_equal(misc >> 16 & 0x1ff, 4);
	assert_int_equal(
	    primary & (CPU_HLT_EXITING | CPU_CR3_LOAD_EXITING | CPU_CR3_STORE_EXITING | CPU_CR8_LOAD_EXITING |
	               CPU_CR8_STORE_EXITING | CPU_UNCONDITIONAL_IO_EXITING | CPU_MOV_DR_EXITING |
	               CPU_USE_TSC_OFFSETTING | CPU_MWAIT_EXITING | CPU_MONITOR_EXITING | CPU_INVLPG_EXITING |
	               CPU_RDPMC_EXITING | CPU_INTERRUPT_WINDOW_EXITING),
	    CPU_HLT_EXITING | CPU_CR3_LOAD_EXITING | CPU_CR3_STORE_EXITING | CPU_CR8_LOAD_EXITING |
	        CPU_CR8_STORE_EXITING | CPU_UNCONDITIONAL_IO_EXITING | CPU_MOV_DR_EXITING |
	        CPU_USE_TSC_OFFSETTING | CPU_MWAIT_EXITING | CPU_MONITOR_EXITING | CPU_INVLPG_EXITING |
	        CPU_RDPMC_EXITING | CPU_INTERRUPT_WINDOW_EXITING);
	/* Entry and exit controls that Linux requires in pairs. */
	assert_int_equal(!!(exit & EXIT_LOAD_IA32_PAT), !!(entry & ENTRY_LOAD_IA32_PAT));
	assert_int_equal(!!(exit & EXIT_LOAD_IA32_EFER), !!(entry & ENTRY_LOAD_IA32_EFER));
	assert_int_equal(!!(exit & EXIT_LOAD_IA32_PERF_GLOBAL_CTRL),
	                 !!(entry & ENTRY_LOAD_IA32_PERF_GLOBAL_CTRL));
	assert_int_equal(!!(exit & EXIT_CLEAR_IA32_BNDCFGS), !!(entry & ENTRY_LOAD_IA32_BNDCFGS));
	for (unsigned i = 1; i < VMCS_FIELD_COUNT; i++)
		if (vmx_field_supported(&cpu->vmx->cap, i) &&
		    (vmcs_field_info[i].encoding >> 1 & 0x1ff) > highest)
			highest = vmcs_field_info[i].encoding >> 1 & 0x1ff;
	assert_int_equal(capability_msr(0x48a), highest << 1);
	assert_false(vmx_read_capability(&model, 0x491, &value));
	assert_false(vmx_read_capability(&model, 0x492, &value));
	assert_int_equal(capability_msr(0x3a), 5);
}

static void controls_follow_the_cpu_model(void **state)
{
	assert_true(capability_msr(0x48b) >> 32 & CPU2_ENABLE_INVPCID);
	assert_true(capability_msr(0x48b) >> 32 & CPU2_ENABLE_XSAVES);
	model.leaf_count = 1;
	assert_false(capability_msr(0x48b) >> 32 & CPU2_ENABLE_INVPCID);
	assert_false(capability_msr(0x48b) >> 32 & CPU2_ENABLE_XSAVES);
	assert_false(capability_msr(0x489) & CR4_SMEP);
	model.vmx = false;
	uint64_t value;
	assert_false(vmx_read_capability(&model, 0x480, &value));
}

/* ---- instructions ---- */

static void vmxon_checks(void **state)
{
	assert_int_equal(plain(op_vmlaunch), FAULTED);
	assert_int_equal(raised, VECTOR_UD);
	assert_int_equal(with_pointer(op_vmxon, VMXON_REGION + 8), FAIL_INVALID);
	assert_int_equal(with_pointer(op_vmxon, 1ull << 41), FAIL_INVALID);
	assert_int_equal(with_pointer(op_vmxon, 0x10000), FAIL_INVALID); /* no revision identifier */
	cpu->msr.feature_control = 0;
	assert_int_equal(with_pointer(op_vmxon, VMXON_REGION), FAULTED);
	assert_int_equal(raised, VECTOR_GP);
	cpu->msr.feature_control = 5;
	cpu->cr4 &= ~CR4_VMXE;
	assert_int_equal(with_pointer(op_vmxon, VMXON_REGION), FAULTED);
	assert_int_equal(raised, VECTOR_UD);
	cpu->cr4 |= CR4_VMXE;
	enter_vmx_operation();
	assert_true(cpu->init_blocked);
	assert_int_equal(cpu->cr4_must_set, CR4_VMXE);
	assert_int_equal(with_pointer(op_vmxon, VMXON_REGION),
	                 FAIL_INVALID); /* no current VMCS for the number */
	make_current(REGION_A);
	assert_int_equal(with_pointer(op_vmxon, VMXON_REGION), FAIL_VALID);
	assert_int_equal(error_number(), VMERROR_VMXON_IN_ROOT);
	cpu->cpl = 3;
	assert_int_equal(plain(op_vmxoff), FAULTED);
	assert_int_equal(raised, VECTOR_GP);
	cpu->cpl = 0;
	assert_int_equal(plain(op_vmxoff), SUCCEEDED);
	assert_false(cpu->vmx->in_vmx_operation);
	assert_false(cpu->init_blocked);
}

static void pointer_errors(void **state)
{
	enter_vmx_operation();
	assert_int_equal(plain(op_vmlaunch), FAIL_INVALID);
	assert_int_equal(with_pointer(op_vmclear, 1), FAIL_INVALID);
	make_current(REGION_A);
	assert_int_equal(with_pointer(op_vmclear, 1), FAIL_VALID);
	assert_int_equal(error_number(), VMERROR_VMCLEAR_ADDRESS);
	assert_int_equal(with_pointer(op_vmclear, VMXON_REGION), FAIL_VALID);
	assert_int_equal(error_number(), VMERROR_VMCLEAR_VMXON_POINTER);
	assert_int_equal(with_pointer(op_vmptrld, 1ull << 40), FAIL_VALID);
	assert_int_equal(error_number(), VMERROR_VMPTRLD_ADDRESS);
	assert_int_equal(with_pointer(op_vmptrld, VMXON_REGION), FAIL_VALID);
	assert_int_equal(error_number(), VMERROR_VMPTRLD_VMXON_POINTER);
	assert_int_equal(with_pointer(op_vmptrld, 0x20000), FAIL_VALID);
	assert_int_equal(error_number(), VMERROR_VMPTRLD_REVISION);
	assert_int_equal(plain(op_vmcall), FAIL_VALID);
	assert_int_equal(error_number(), VMERROR_VMCALL_IN_ROOT);
	with_pointer(op_vmptrst, 0);
	assert_int_equal(phys_read(cpu, GPA(OPERAND), 8), REGION_A);
	assert_int_equal(with_pointer(op_vmclear, REGION_A), SUCCEEDED);
	with_pointer(op_vmptrst, 0);
	assert_true(phys_read(cpu, GPA(OPERAND), 8) == UINT64_MAX);
}

static void launch_state(void **state)
{
	enter_vmx_operation();
	make_current(REGION_A);
	assert_int_equal(plain(op_vmresume), FAIL_VALID);
	assert_int_equal(error_number(), VMERROR_VMRESUME_NOT_LAUNCHED);
	assert_int_equal(plain(op_vmlaunch), ENTERED);
	cpu->vmx->current->launch_state = VMCS_LAUNCHED; /* as a successful entry leaves it */
	assert_int_equal(plain(op_vmlaunch), FAIL_VALID);
	assert_int_equal(error_number(), VMERROR_VMLAUNCH_NOT_CLEAR);
	assert_int_equal(plain(op_vmresume), ENTERED);
	cpu->shadow = SHADOW_MOVSS;
	assert_int_equal(plain(op_vmresume), FAIL_VALID);
	assert_int_equal(error_number(), VMERROR_ENTRY_MOV_SS);
	cpu->shadow = 0;
	make_current(REGION_A);
	assert_int_equal(cpu->vmx->current->launch_state, VMCS_CLEAR);
}

static void vmread_and_vmwrite(void **state)
{
	uint64_t value;
	struct insn memory_form = {.reg = REG_RAX, .is_memory = true, .displacement = OPERAND};

	enter_vmx_operation();
	assert_int_equal(vmread(0x6800, &value), FAIL_INVALID);
	make_current(REGION_A);
	assert_int_equal(vmwrite(0x6800, 0x123456789abcdef0), SUCCEEDED);
	assert_int_equal(vmread(0x6800, &value), SUCCEEDED);
	assert_true(value == 0x123456789abcdef0);
	/* Narrow fields take the low bits; the high access type is the upper half. */
	assert_int_equal(vmwrite(0x4002, UINT64_MAX), SUCCEEDED);
	assert_int_equal(vmread(0x4002, &value), SUCCEEDED);
	assert_true(value == 0xffffffff);
	assert_int_equal(vmwrite(0x2010, 0x1111111122222222), SUCCEEDED);
	assert_int_equal(vmwrite(0x2011, 0x33333333), SUCCEEDED);
	assert_int_equal(vmread(0x2010, &value), SUCCEEDED);
	assert_true(value == 0x3333333322222222);
	assert_int_equal(vmread(0x2011, &value), SUCCEEDED);
	assert_true(value == 0x33333333);
	/* VMWRITE to a VM-exit information field is offered. */
	assert_int_equal(vmwrite(0x4402, 7), SUCCEEDED);
	assert_int_equal(vmread(0x7ffe, &value), FAIL_VALID);
	assert_int_equal(error_number(), VMERROR_UNSUPPORTED_FIELD);
	assert_int_equal(vmwrite(0x2808, 7), FAIL_VALID); /* PERF_GLOBAL_CTRL is not offered */
	cpu->gpr[REG_RAX] = 0x6800;
	assert_int_equal(execute(op_vmread, &memory_form), SUCCEEDED);
	assert_true(phys_read(cpu, GPA(OPERAND), 8) == 0x123456789abcdef0);
	cpu->cpl = 3;
	cpu->mode &= ~MODE_CPL0;
	assert_int_equal(vmread(0x6800, &value), FAULTED);
	assert_int_equal(raised, VECTOR_GP);
}

static void vmwrite_marks_only_changes(void **state)
{
	enter_vmx_operation();
	make_current(REGION_A);
	vmwrite(0x6820, 0x202);
	cpu->vmx->current->dirty_checks = 0;
	vmwrite(0x6820, 0x202);
	assert_int_equal(cpu->vmx->current->dirty_checks, 0);
	vmwrite(0x6820, 0x2);
	assert_int_equal(cpu->vmx->current->dirty_checks, VMCS_GROUP_RFLAGS);
}

static void non_root_operation_exits(void **state)
{
	uint64_t value;

	enter_vmx_operation();
	make_current(REGION_A);
	cpu->vmx->in_nonroot = true;
	cpu->mode |= MODE_NONROOT;
	assert_int_equal(vmread(0x6800, &value), EXITED);
	assert_int_equal(exited, EXIT_REASON_VMREAD);
	assert_int_equal(plain(op_vmlaunch), EXITED);
	assert_int_equal(exited, EXIT_REASON_VMLAUNCH);
	cpu->cpl = 3;
	assert_int_equal(plain(op_vmcall), EXITED);
	assert_int_equal(exited, EXIT_REASON_VMCALL);
}

static void vmcs_shadowing(void **state)
{
	uint64_t value;

	enter_vmx_operation();
	phys_write(cpu, GPA(REGION_B), 4, VMCS_REVISION | VMCS_SHADOW);
	make_current(REGION_B);
	assert_int_equal(plain(op_vmlaunch), FAIL_INVALID);
	vmwrite(0x6820, 0x77);
	make_current(REGION_A);
	vmwrite(0x2800, REGION_B);
	vmwrite(0x2026, 0xb000);
	vmwrite(0x2028, 0xb000);
	phys_write(cpu, GPA(0xb000 + 0x681e / 8), 1, 1 << (0x681e & 7)); /* RIP exits */
	cpu->vmx->in_nonroot = true;
	cpu->vmx->runtime.secondary = CPU2_VMCS_SHADOWING;
	cpu->mode |= MODE_NONROOT;
	assert_int_equal(vmread(0x6820, &value), SUCCEEDED);
	assert_int_equal(value, 0x77);
	assert_int_equal(vmread(0x681e, &value), EXITED);
	assert_int_equal(vmread(0x16820, &value), EXITED);
	assert_int_equal(vmwrite(0x6820, 0x88), SUCCEEDED);
	cpu->vmx->in_nonroot = false;
	cpu->mode &= ~MODE_NONROOT;
	assert_int_equal(with_pointer(op_vmptrld, REGION_B), SUCCEEDED);
	vmread(0x6820, &value);
	assert_int_equal(value, 0x88);
}

static void invalidations(void **state)
{
	struct insn insn = {.reg = REG_RAX, .is_memory = true, .displacement = OPERAND};
	static const struct {
		op_function *op;
		uint64_t type, low, high;
		enum outcome outcome;
	} rows[] = {
	    {op_invept, 0, 0x101e, 0, FAIL_VALID},   {op_invept, 3, 0x101e, 0, FAIL_VALID},
	    {op_invept, 1, 0x101e, 0, SUCCEEDED},    {op_invept, 1, 0x1018 | 1, 0, FAIL_VALID},
	    {op_invept, 2, 0, 0, SUCCEEDED},         {op_invvpid, 4, 1, 0, FAIL_VALID},
	    {op_invvpid, 0, 1, 0x1000, SUCCEEDED},   {op_invvpid, 0, 1, 1ull << 50, FAIL_VALID},
	    {op_invvpid, 0, 0, 0, FAIL_VALID},       {op_invvpid, 1, 0, 0, FAIL_VALID},
	    {op_invvpid, 1, 0x10001, 0, FAIL_VALID}, {op_invvpid, 2, 0, 0, SUCCEEDED},
	    {op_invvpid, 3, 5, 0, SUCCEEDED},        {op_invvpid, 3, 0, 0, FAIL_VALID},
	};

	enter_vmx_operation();
	make_current(REGION_A);
	for (unsigned i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		cpu->gpr[REG_RAX] = rows[i].type;
		phys_write(cpu, GPA(OPERAND), 8, rows[i].low);
		phys_write(cpu, GPA(OPERAND + 8), 8, rows[i].high);
		assert_int_equal(execute(rows[i].op, &insn), rows[i].outcome);
		if (rows[i].outcome == FAIL_VALID)
			assert_int_equal(error_number(), VMERROR_INVALID_OPERAND);
	}
}

/* ---- the cache ---- */

static void vmclear_and_vmptrld_keep_every_field(void **state)
{
	enter_vmx_operation();
	make_current(REGION_A);
	for (unsigned i = 1; i < VMCS_FIELD_COUNT; i++)
		cpu->vmx->current->f[i] = (0x0123456789abcdefull * i) & vmcs_field_info[i].mask;
	make_current(REGION_B);
	assert_int_equal(vmcs_get(cpu->vmx->current, VMCS_GUEST_RIP), 0);
	make_current(REGION_A);
	for (unsigned i = 1; i < VMCS_FIELD_COUNT; i++)
		assert_true(cpu->vmx->current->f[i] ==
		            ((0x0123456789abcdefull * i) & vmcs_field_info[i].mask));
}

static void more_vmcss_than_the_cache_holds(void **state)
{
	enum { COUNT = 3 * VMCS_CACHE_SIZE };
	uint64_t value;

	enter_vmx_operation();
	for (unsigned i = 0; i < COUNT; i++) {
		uint64_t region = 0x40000 + i * 0x1000;

		phys_write(cpu, GPA(region), 4, VMCS_REVISION);
		make_current(region);
		vmwrite(0x681e, i);
		cpu->vmx->current->launch_state = i % 2;
	}
	for (unsigned i = 0; i < COUNT; i++) {
		assert_int_equal(with_pointer(op_vmptrld, 0x40000 + i * 0x1000), SUCCEEDED);
		vmread(0x681e, &value);
		assert_int_equal(value, i);
		assert_int_equal(cpu->vmx->current->launch_state, i % 2);
	}
}

static void a_hostile_region_is_truncated(void **state)
{
	enter_vmx_operation();
	memset(memory + REGION_A, 0xff, 0x1000);
	phys_write(cpu, GPA(REGION_A), 4, VMCS_REVISION);
	make_current(REGION_A);
	for (unsigned i = 1; i < VMCS_FIELD_COUNT; i++)
		assert_int_equal(vmcs_get(cpu->vmx->current, i) & ~vmcs_field_info[i].mask, 0);
	assert_int_equal(cpu->vmx->current->launch_state, VMCS_CLEAR);
	assert_non_null(vmx_check_controls_and_host(cpu, cpu->vmx->current));
}

static void vmxoff_writes_active_vmcss_back(void **state)
{
	uint64_t value;

	enter_vmx_operation();
	make_current(REGION_A);
	vmwrite(0x681e, 0x1234);
	assert_int_equal(plain(op_vmxoff), SUCCEEDED);
	enter_vmx_operation();
	assert_int_equal(with_pointer(op_vmptrld, REGION_A), SUCCEEDED);
	vmread(0x681e, &value);
	assert_int_equal(value, 0x1234);
}

/* ---- entry rules ---- */

#define PIN64 (0x16u | PIN_EXTERNAL_INTERRUPT_EXITING | PIN_NMI_EXITING | PIN_VIRTUAL_NMIS)
#define PRIMARY64                                                                                            \
	(0x04006172u | CPU_USE_IO_BITMAPS | CPU_USE_MSR_BITMAPS | CPU_USE_TPR_SHADOW |                       \
	 CPU_ACTIVATE_SECONDARY_CONTROLS)
#define SECONDARY64 (CPU2_ENABLE_EPT | CPU2_ENABLE_VPID)
#define EXIT64                                                                                               \
	(0x36dfbu | EXIT_HOST_ADDRESS_SPACE_SIZE | EXIT_LOAD_IA32_EFER | EXIT_LOAD_IA32_PAT |                \
	 EXIT_ACKNOWLEDGE_INTERRUPT)
#define ENTRY64                                                                                              \
	(0x11fbu | ENTRY_IA32E_MODE_GUEST | ENTRY_LOAD_IA32_EFER | ENTRY_LOAD_IA32_PAT |                     \
	 ENTRY_LOAD_DEBUG_CONTROLS)

enum base_state {
	BASE_64,      /* 64-bit kernel */
	BASE_V86,     /* virtual-8086 task without paging structures to check */
	BASE_PAE,     /* 32-bit kernel with PAE paging */
	BASE_HOST_32, /* 32-bit hypervisor and guest */
};

static void set(struct vmcs *v, enum vmcs_field field, uint64_t value)
{
	vmcs_set(v, field, value & vmcs_field_info[field].mask);
}

static void make_valid(struct vmcs *v, enum base_state base)
{
	static const uint8_t host_selectors[] = {0x18, 0x10, 0x18, 0x18, 0, 0, 0x40};

	for (unsigned i = 1; i < VMCS_FIELD_COUNT; i++)
		set(v, i, 0);
	cpu->efer = EFER_LME | EFER_LMA;
	set(v, VMCS_PIN_BASED_CONTROLS, PIN64);
	set(v, VMCS_PRIMARY_PROCESSOR_CONTROLS, PRIMARY64);
	set(v, VMCS_SECONDARY_PROCESSOR_CONTROLS, SECONDARY64);
	set(v, VMCS_VM_EXIT_CONTROLS, EXIT64);
	set(v, VMCS_VM_ENTRY_CONTROLS, ENTRY64);
	set(v, VMCS_VPID, 1);
	set(v, VMCS_EPT_POINTER, 0x1005e);
	set(v, VMCS_VIRTUAL_APIC_ADDRESS, VIRTUAL_APIC);
	set(v, VMCS_VM_EXIT_MSR_STORE_COUNT, 1);
	set(v, VMCS_VM_EXIT_MSR_LOAD_COUNT, 1);
	set(v, VMCS_VM_ENTRY_MSR_LOAD_COUNT, 1);
	set(v, VMCS_VMCS_LINK_POINTER, UINT64_MAX);
	phys_write(cpu, GPA(VIRTUAL_APIC + 0x80), 1, 0x20);

	set(v, VMCS_HOST_CR0, CR0_PE | CR0_NE | CR0_PG);
	set(v, VMCS_HOST_CR4, CR4_VMXE | CR4_PAE);
	set(v, VMCS_HOST_IA32_EFER, EFER_LME | EFER_LMA);
	set(v, VMCS_HOST_IA32_PAT, 0x0007040600070406);
	for (unsigned i = 0; i < 7; i++)
		set(v, VMCS_HOST_ES_SELECTOR + i, host_selectors[i]);

	set(v, VMCS_GUEST_CR0, CR0_PE | CR0_NE | CR0_PG);
	set(v, VMCS_GUEST_CR4, CR4_VMXE | CR4_PAE);
	set(v, VMCS_GUEST_IA32_EFER, EFER_LME | EFER_LMA);
	set(v, VMCS_GUEST_IA32_PAT, 0x0007040600070406);
	set(v, VMCS_GUEST_DR7, 0x400);
	set(v, VMCS_GUEST_RFLAGS, 2);
	for (unsigned i = SEG_ES; i <= SEG_GS; i++) {
		set(v, VMCS_GUEST_ES_SELECTOR + i, 0x18);
		set(v, VMCS_GUEST_ES_LIMIT + i, 0xffffffff);
		set(v, VMCS_GUEST_ES_ACCESS_RIGHTS + i, 0xc093);
	}
	set(v, VMCS_GUEST_CS_SELECTOR, 0x10);
	set(v, VMCS_GUEST_CS_ACCESS_RIGHTS, 0xa09b);
	set(v, VMCS_GUEST_LDTR_SELECTOR, 0x48);
	set(v, VMCS_GUEST_LDTR_ACCESS_RIGHTS, 0x82);
	set(v, VMCS_GUEST_TR_SELECTOR, 0x40);
	set(v, VMCS_GUEST_TR_LIMIT, 0x67);
	set(v, VMCS_GUEST_TR_ACCESS_RIGHTS, 0x8b);

	if (base == BASE_64)
		return;
	set(v, VMCS_VM_ENTRY_CONTROLS, ENTRY64 & ~ENTRY_IA32E_MODE_GUEST);
	set(v, VMCS_GUEST_IA32_EFER, 0);
	set(v, VMCS_GUEST_CS_ACCESS_RIGHTS, 0xc09b);
	if (base == BASE_PAE)
		return;
	set(v, VMCS_GUEST_CR4, CR4_VMXE);
	if (base == BASE_HOST_32) {
		cpu->efer = 0;
		set(v, VMCS_VM_EXIT_CONTROLS, EXIT64 & ~EXIT_HOST_ADDRESS_SPACE_SIZE);
		set(v, VMCS_HOST_IA32_EFER, 0);
		return;
	}
	set(v, VMCS_GUEST_RFLAGS, 2 | FLAG_VM);
	for (unsigned i = SEG_ES; i <= SEG_GS; i++) {
		set(v, VMCS_GUEST_ES_SELECTOR + i, 0x123 + i);
		set(v, VMCS_GUEST_ES_BASE + i, (0x123 + i) << 4);
		set(v, VMCS_GUEST_ES_LIMIT + i, 0xffff);
		set(v, VMCS_GUEST_ES_ACCESS_RIGHTS + i, 0xf3);
	}
}

static const struct vmx_rule *check(struct vmcs *v)
{
	const struct vmx_rule *rule = vmx_check_controls_and_host(cpu, v);

	return rule ? rule : vmx_check_guest(cpu, v);
}

/* Every control is announced: for rules about features that are not. */
static void announce_everything(void)
{
	struct vmx_capabilities *cap = &cpu->vmx->cap;

	cap->true_pin |= 0xffffffffull << 32;
	cap->true_primary |= 0xffffffffull << 32;
	cap->true_exit |= 0xffffffffull << 32;
	cap->true_entry |= 0xffffffffull << 32;
	cap->secondary |= 0xffffffffull << 32;
	cap->ept_vpid &= ~EPT_VPID_CAP_ACCESSED_DIRTY;
}

struct violation {
	const char *sentence; /* part of the rule's */
	enum base_state base;
	bool everything;       /* announce_everything */
	uint64_t change[5][2]; /* field, value */
};

#define NON_CANONICAL (1ull << 47)
#define WIDE          (1ull << 40)
#define IA32E         ENTRY_IA32E_MODE_GUEST
#define SECOND(bits)                                                                                         \
	{                                                                                                    \
		VMCS_SECONDARY_PROCESSOR_CONTROLS, SECONDARY64 | (bits)                                      \
	}
#define INJECT(info)                                                                                         \
	{                                                                                                    \
		VMCS_VM_ENTRY_INTERRUPTION_INFORMATION, INTERRUPTION_VALID | (info)                          \
	}
#define RFLAGS(bits)                                                                                         \
	{                                                                                                    \
		VMCS_GUEST_RFLAGS, 2 | (bits)                                                                \
	}
#define POSTED                                                                                               \
	{                                                                                                    \
		VMCS_PIN_BASED_CONTROLS, PIN64 | PIN_PROCESS_POSTED_INTERRUPTS                               \
	}
#define BLOCKED(bits)                                                                                        \
	{                                                                                                    \
		VMCS_GUEST_INTERRUPTIBILITY_STATE, bits                                                      \
	}

static const struct violation violations[] = {
    /* VM-execution controls */
    {"pin-based controls must be", 0, 0, {{VMCS_PIN_BASED_CONTROLS, 0}}},
    {"reserved bits of the primary", 0, 0, {{VMCS_PRIMARY_PROCESSOR_CONTROLS, PRIMARY64 | 1 << 17}}},
    {"reserved bits of the secondary", 0, 0, {SECOND(1u << 31)}},
    {"CR3-target count", 0, 0, {{VMCS_CR3_TARGET_COUNT, 5}}},
    {"11:0 of both I/O-bitmap", 0, 0, {{VMCS_IO_BITMAP_B_ADDRESS, 8}}},
    {"neither I/O-bitmap", 0, 0, {{VMCS_IO_BITMAP_A_ADDRESS, WIDE}}},
    {"11:0 of the MSR-bitmap", 0, 0, {{VMCS_MSR_BITMAP_ADDRESS, 8}}},
    {"the MSR-bitmap address must not exceed", 0, 0, {{VMCS_MSR_BITMAP_ADDRESS, WIDE}}},
    {"11:0 of the virtual-APIC", 0, 0, {{VMCS_VIRTUAL_APIC_ADDRESS, 8}}},
    {"the virtual-APIC address must not exceed", 0, 0, {{VMCS_VIRTUAL_APIC_ADDRESS, WIDE}}},
    {"31:4 of the TPR threshold", 0, 0, {{VMCS_TPR_THRESHOLD, 0x11}}},
    {"without \"use TPR shadow\"",
     0,
     0,
     {{VMCS_PRIMARY_PROCESSOR_CONTROLS, PRIMARY64 & ~CPU_USE_TPR_SHADOW},
      SECOND(CPU2_VIRTUALIZE_X2APIC_MODE)}},
    {"without \"NMI exiting\"", 0, 0, {{VMCS_PIN_BASED_CONTROLS, PIN64 & ~PIN_NMI_EXITING}}},
    {"without \"virtual NMIs\"",
     0,
     0,
     {{VMCS_PIN_BASED_CONTROLS, PIN64 & ~PIN_VIRTUAL_NMIS},
      {VMCS_PRIMARY_PROCESSOR_CONTROLS, PRIMARY64 | CPU_NMI_WINDOW_EXITING}}},
    {"11:0 of the APIC-access", 0, 0, {SECOND(CPU2_VIRTUALIZE_APIC_ACCESSES), {VMCS_APIC_ACCESS_ADDRESS, 8}}},
    {"the APIC-access address must not exceed",
     0,
     0,
     {SECOND(CPU2_VIRTUALIZE_APIC_ACCESSES), {VMCS_APIC_ACCESS_ADDRESS, WIDE}}},
    {"with \"virtualize x2APIC mode\"",
     0,
     0,
     {SECOND(CPU2_VIRTUALIZE_APIC_ACCESSES | CPU2_VIRTUALIZE_X2APIC_MODE)}},
    {"with \"virtual-interrupt delivery\"",
     0,
     1,
     {SECOND(CPU2_VIRTUAL_INTERRUPT_DELIVERY),
      {VMCS_PIN_BASED_CONTROLS, PIN64 & ~PIN_EXTERNAL_INTERRUPT_EXITING}}},
    {"interrupts\", \"virtual-interrupt delivery\" must", 0, 1, {POSTED}},
    {"interrupts\", \"acknowledge interrupt",
     0,
     1,
     {POSTED,
      SECOND(CPU2_VIRTUAL_INTERRUPT_DELIVERY),
      {VMCS_VM_EXIT_CONTROLS, EXIT64 & ~EXIT_ACKNOWLEDGE_INTERRUPT}}},
    {"notification vector",
     0,
     1,
     {POSTED, SECOND(CPU2_VIRTUAL_INTERRUPT_DELIVERY), {VMCS_POSTED_INTERRUPT_NOTIFICATION_VECTOR, 256}}},
    {"5:0 of the descriptor",
     0,
     1,
     {POSTED, SECOND(CPU2_VIRTUAL_INTERRUPT_DELIVERY), {VMCS_POSTED_INTERRUPT_DESCRIPTOR_ADDRESS, 32}}},
    {"the descriptor address must not exceed",
     0,
     1,
     {POSTED, SECOND(CPU2_VIRTUAL_INTERRUPT_DELIVERY), {VMCS_POSTED_INTERRUPT_DESCRIPTOR_ADDRESS, WIDE}}},
    {"the VPID must not be 0000H", 0, 0, {{VMCS_VPID, 0}}},
    {"EPTP's memory type", 0, 0, {{VMCS_EPT_POINTER, 0x1005d}}},
    {"page-walk length", 0, 0, {{VMCS_EPT_POINTER, 0x10066}}},
    {"EPTP's bit 6", 0, 1, {{VMCS_EPT_POINTER, 0x1005e}}},
    {"EPTP's bits 11:7", 0, 0, {{VMCS_EPT_POINTER, 0x100de}}},
    {"with \"enable PML\", \"enable EPT\"", 0, 1, {{VMCS_SECONDARY_PROCESSOR_CONTROLS, CPU2_ENABLE_PML}}},
    {"11:0 of the PML", 0, 1, {SECOND(CPU2_ENABLE_PML), {VMCS_EPT_POINTER, 0x1001e}, {VMCS_PML_ADDRESS, 8}}},
    {"the PML address must not exceed",
     0,
     1,
     {SECOND(CPU2_ENABLE_PML), {VMCS_EPT_POINTER, 0x1001e}, {VMCS_PML_ADDRESS, WIDE}}},
    {"with \"unrestricted guest\", \"enable EPT\"",
     0,
     0,
     {{VMCS_SECONDARY_PROCESSOR_CONTROLS, CPU2_UNRESTRICTED_GUEST}}},
    {"with \"mode-based", 0, 1, {{VMCS_SECONDARY_PROCESSOR_CONTROLS, CPU2_MODE_BASED_EXECUTE}}},
    {"11:0 of the VMREAD-", 0, 0, {SECOND(CPU2_VMCS_SHADOWING), {VMCS_VMWRITE_BITMAP_ADDRESS, 8}}},
    {"neither bitmap address", 0, 0, {SECOND(CPU2_VMCS_SHADOWING), {VMCS_VMREAD_BITMAP_ADDRESS, WIDE}}},
    {"not be greater than VTPR", 0, 0, {{VMCS_TPR_THRESHOLD, 3}}},
    /* VM-exit controls */
    {"reserved bits of the VM-exit", 0, 0, {{VMCS_VM_EXIT_CONTROLS, EXIT64 & ~1u}}},
    {"save VMX-preemption timer", 0, 0, {{VMCS_VM_EXIT_CONTROLS, EXIT64 | EXIT_SAVE_PREEMPTION_TIMER}}},
    {"VM-exit MSR-store count", 0, 0, {{VMCS_VM_EXIT_MSR_STORE_ADDRESS, 8}}},
    {"VM-exit MSR-store area",
     0,
     0,
     {{VMCS_VM_EXIT_MSR_STORE_ADDRESS, WIDE - 16}, {VMCS_VM_EXIT_MSR_STORE_COUNT, 2}}},
    {"VM-exit MSR-load count", 0, 0, {{VMCS_VM_EXIT_MSR_LOAD_ADDRESS, 8}}},
    {"VM-exit MSR-load area",
     0,
     0,
     {{VMCS_VM_EXIT_MSR_LOAD_COUNT, UINT32_MAX}, {VMCS_VM_EXIT_MSR_LOAD_ADDRESS, WIDE - 16}}},
    /* VM-entry controls */
    {"reserved bits of the VM-entry", 0, 0, {{VMCS_VM_ENTRY_CONTROLS, ENTRY64 | ENTRY_TO_SMM}}},
    {"outside SMM, \"entry to SMM\"",
     0,
     1,
     {{VMCS_VM_ENTRY_CONTROLS, ENTRY64 | ENTRY_TO_SMM}, {VMCS_EPT_POINTER, 0x1001e}}},
    {"interruption type must not be 1", 0, 0, {INJECT(1 << 8)}},
    {"an injected NMI must have vector 2", 0, 0, {INJECT(EVENT_NMI << 8 | 3)}},
    {"vector of at most 31", 0, 0, {INJECT(EVENT_EXCEPTION << 8 | 32)}},
    {"must have vector 0", 0, 0, {INJECT(EVENT_OTHER << 8 | 1)}},
    {"deliver-error-code bit", 0, 0, {INJECT(EVENT_EXCEPTION << 8 | VECTOR_GP)}},
    {"deliver-error-code bit", 0, 0, {INJECT(EVENT_EXCEPTION << 8 | VECTOR_UD | INTERRUPTION_ERROR_CODE)}},
    {"bits 30:12", 0, 0, {INJECT(EVENT_EXCEPTION << 8 | VECTOR_UD | 1 << 12)}},
    {"31:16 of the VM-entry exception",
     0,
     0,
     {INJECT(EVENT_EXCEPTION << 8 | VECTOR_GP | INTERRUPTION_ERROR_CODE),
      {VMCS_VM_ENTRY_EXCEPTION_ERROR_CODE, 0x10000}}},
    {"instruction length of 0-15",
     0,
     0,
     {INJECT(EVENT_SOFT_INT << 8 | 0x80), {VMCS_VM_ENTRY_INSTRUCTION_LENGTH, 16}}},
    {"VM-entry MSR-load count", 0, 0, {{VMCS_VM_ENTRY_MSR_LOAD_ADDRESS, 8}}},
    {"VM-entry MSR-load area", 0, 0, {{VMCS_VM_ENTRY_MSR_LOAD_ADDRESS, WIDE}}},
    /* host state */
    {"host CR0 must", 0, 0, {{VMCS_HOST_CR0, CR0_PE | CR0_PG}}},
    {"host CR4 must have", 0, 0, {{VMCS_HOST_CR4, CR4_PAE}}},
    {"host CR3 must", 0, 0, {{VMCS_HOST_CR3, WIDE}}},
    {"host IA32_SYSENTER_ESP", 0, 0, {{VMCS_HOST_IA32_SYSENTER_ESP, NON_CANONICAL}}},
    {"host IA32_SYSENTER_EIP", 0, 0, {{VMCS_HOST_IA32_SYSENTER_EIP, NON_CANONICAL}}},
    {"of host IA32_PAT", 0, 0, {{VMCS_HOST_IA32_PAT, 0x02}}},
    {"reserved bits of host IA32_EFER", 0, 0, {{VMCS_HOST_IA32_EFER, EFER_LME | EFER_LMA | 2}}},
    {"LMA and LME of host IA32_EFER", 0, 0, {{VMCS_HOST_IA32_EFER, EFER_LMA}}},
    {"the host ES, CS, SS", 0, 0, {{VMCS_HOST_GS_SELECTOR, 3}}},
    {"TI of the host TR", 0, 0, {{VMCS_HOST_TR_SELECTOR, 0x44}}},
    {"host CS selector must", 0, 0, {{VMCS_HOST_CS_SELECTOR, 0}}},
    {"host TR selector must not", 0, 0, {{VMCS_HOST_TR_SELECTOR, 0}}},
    {"the host SS selector", BASE_HOST_32, 0, {{VMCS_HOST_SS_SELECTOR, 0}}},
    {"host FS and GS bases", 0, 0, {{VMCS_HOST_GS_BASE, NON_CANONICAL}}},
    {"host GDTR and IDTR bases", 0, 0, {{VMCS_HOST_IDTR_BASE, NON_CANONICAL}}},
    {"host TR base", 0, 0, {{VMCS_HOST_TR_BASE, NON_CANONICAL}}},
    {"outside IA-32e mode, \"IA", BASE_HOST_32, 0, {{VMCS_VM_ENTRY_CONTROLS, ENTRY64}}},
    {"in IA-32e mode, \"host",
     0,
     0,
     {{VMCS_VM_EXIT_CONTROLS, EXIT64 & ~(EXIT_HOST_ADDRESS_SPACE_SIZE | EXIT_LOAD_IA32_EFER)}}},
    {"host CR4.PCIDE", BASE_HOST_32, 0, {{VMCS_HOST_CR4, CR4_VMXE | CR4_PAE | CR4_PCIDE}}},
    {"63:32 of host RIP", BASE_HOST_32, 0, {{VMCS_HOST_RIP, 1ull << 32}}},
    {"host CR4.PAE", 0, 0, {{VMCS_HOST_CR4, CR4_VMXE}}},
    {"host RIP must be canonical", 0, 0, {{VMCS_HOST_RIP, NON_CANONICAL}}},
    /* guest control registers and MSRs */
    {"guest CR0 must have", 0, 0, {{VMCS_GUEST_CR0, CR0_PE | CR0_PG}}},
    {"guest CR0.PE must be 1", 0, 0, {SECOND(CPU2_UNRESTRICTED_GUEST), {VMCS_GUEST_CR0, CR0_NE | CR0_PG}}},
    {"guest CR4 must have", 0, 0, {{VMCS_GUEST_CR4, CR4_PAE}}},
    {"guest IA32_DEBUGCTL", 0, 0, {{VMCS_GUEST_IA32_DEBUGCTL, 4}}},
    {"guest CR0.PG and CR4.PAE", 0, 0, {{VMCS_GUEST_CR4, CR4_VMXE}}},
    {"guest CR4.PCIDE", BASE_PAE, 0, {{VMCS_GUEST_CR4, CR4_VMXE | CR4_PAE | CR4_PCIDE}}},
    {"guest CR3 must", 0, 0, {{VMCS_GUEST_CR3, WIDE}}},
    {"guest DR7", 0, 0, {{VMCS_GUEST_DR7, 1ull << 32}}},
    {"guest IA32_SYSENTER_ESP", 0, 0, {{VMCS_GUEST_IA32_SYSENTER_ESP, NON_CANONICAL}}},
    {"guest IA32_SYSENTER_EIP", 0, 0, {{VMCS_GUEST_IA32_SYSENTER_EIP, NON_CANONICAL}}},
    {"of guest IA32_PAT", 0, 0, {{VMCS_GUEST_IA32_PAT, 0x08}}},
    {"reserved bits of guest IA32_EFER", 0, 0, {{VMCS_GUEST_IA32_EFER, EFER_LME | EFER_LMA | 2}}},
    {"guest IA32_EFER.LMA must equal", 0, 0, {{VMCS_GUEST_IA32_EFER, EFER_LME}}},
    {"LMA and LME must be equal", 0, 0, {{VMCS_GUEST_IA32_EFER, EFER_LMA}}},
    /* guest segments that are special; the others are made below */
    {"TR: TI", 0, 0, {{VMCS_GUEST_TR_SELECTOR, 0x44}}},
    {"LDTR: TI", 0, 0, {{VMCS_GUEST_LDTR_SELECTOR, 0x4c}}},
    {"RPL must equal CS's", 0, 0, {{VMCS_GUEST_SS_SELECTOR, 0x1b}}},
    {"CS: the type", 0, 0, {{VMCS_GUEST_CS_ACCESS_RIGHTS, 0xa09a}}},
    {"CS: the type", 0, 0, {{VMCS_GUEST_CS_ACCESS_RIGHTS, 0xa093}}},
    {"SS: the type", 0, 0, {{VMCS_GUEST_SS_ACCESS_RIGHTS, 0xc09b}}},
    {"CS: DPL must be 0 for type 3", 0, 0, {{VMCS_GUEST_CS_ACCESS_RIGHTS, 0xa0fb}}},
    {"CS: DPL must be 0 for type 3",
     0,
     0,
     {SECOND(CPU2_UNRESTRICTED_GUEST), {VMCS_GUEST_CS_ACCESS_RIGHTS, 0xc0f3}}},
    {"SS: DPL must equal",
     0,
     0,
     {{VMCS_GUEST_CS_ACCESS_RIGHTS, 0xa09f}, {VMCS_GUEST_SS_ACCESS_RIGHTS, 0xc0f3}}},
    {"SS: DPL must be 0 where",
     0,
     0,
     {SECOND(CPU2_UNRESTRICTED_GUEST),
      {VMCS_GUEST_CS_ACCESS_RIGHTS, 0xc093},
      {VMCS_GUEST_SS_ACCESS_RIGHTS, 0xc0f3}}},
    {"CS: D/B must be 0", 0, 0, {{VMCS_GUEST_CS_ACCESS_RIGHTS, 0xe09b}}},
    {"TR: the type", 0, 0, {{VMCS_GUEST_TR_ACCESS_RIGHTS, 0x83}}},
    {"TR: S must be 0", 0, 0, {{VMCS_GUEST_TR_ACCESS_RIGHTS, 0x9b}}},
    {"TR: it must not be unusable", 0, 0, {{VMCS_GUEST_TR_ACCESS_RIGHTS, 0x1008b}}},
    {"guest TR: G must fit", 0, 0, {{VMCS_GUEST_TR_LIMIT, 0x100000}}},
    {"LDTR: the type", 0, 0, {{VMCS_GUEST_LDTR_ACCESS_RIGHTS, 0x83}}},
    {"LDTR: S must be 0", 0, 0, {{VMCS_GUEST_LDTR_ACCESS_RIGHTS, 0x92}}},
    {"LDTR: G must fit", 0, 0, {{VMCS_GUEST_LDTR_LIMIT, 0x100000}}},
    /* descriptor tables, RIP, RFLAGS */
    {"GDTR: the base", 0, 0, {{VMCS_GUEST_GDTR_BASE, NON_CANONICAL}}},
    {"IDTR: the base", 0, 0, {{VMCS_GUEST_IDTR_BASE, NON_CANONICAL}}},
    {"GDTR: bits 31:16", 0, 0, {{VMCS_GUEST_GDTR_LIMIT, 0x10000}}},
    {"IDTR: bits 31:16", 0, 0, {{VMCS_GUEST_IDTR_LIMIT, 0x10000}}},
    {"63:32 of guest RIP", 0, 0, {{VMCS_GUEST_CS_ACCESS_RIGHTS, 0xc09b}, {VMCS_GUEST_RIP, 1ull << 32}}},
    {"63:48 of guest RIP", 0, 0, {{VMCS_GUEST_RIP, 1ull << 48}}},
    {"63:22, 15, 5 and 3 of guest RFLAGS", 0, 0, {{VMCS_GUEST_RFLAGS, 0}}},
    {"63:22, 15, 5 and 3 of guest RFLAGS", 0, 0, {RFLAGS(1 << 15)}},
    {"guest RFLAGS.VM must be 0",
     BASE_V86,
     0,
     {{VMCS_VM_ENTRY_CONTROLS, ENTRY64},
      {VMCS_GUEST_CR4, CR4_VMXE | CR4_PAE},
      {VMCS_GUEST_IA32_EFER, EFER_LMA | EFER_LME}}},
    {"guest RFLAGS.IF must be 1", 0, 0, {INJECT(0x30)}},
    /* non-register state */
    {"activity state must be 0-3", 0, 0, {{VMCS_GUEST_ACTIVITY_STATE, 4}}},
    {"must not be HLT where SS",
     0,
     0,
     {{VMCS_GUEST_ACTIVITY_STATE, 1},
      {VMCS_GUEST_CS_ACCESS_RIGHTS, 0xa09f},
      SECOND(CPU2_UNRESTRICTED_GUEST),
      {VMCS_GUEST_SS_ACCESS_RIGHTS, 0xc0f3}}},
    {"must be active under blocking", 0, 0, {{VMCS_GUEST_ACTIVITY_STATE, 1}, BLOCKED(1), RFLAGS(FLAG_IF)}},
    {"that the activity state does not block",
     0,
     0,
     {{VMCS_GUEST_ACTIVITY_STATE, 1}, INJECT(EVENT_EXCEPTION << 8 | VECTOR_UD)}},
    {"that the activity state does not block",
     0,
     0,
     {{VMCS_GUEST_ACTIVITY_STATE, 2}, INJECT(0x30), RFLAGS(FLAG_IF)}},
    {"that the activity state does not block",
     0,
     0,
     {{VMCS_GUEST_ACTIVITY_STATE, 3}, INJECT(EVENT_NMI << 8 | 2)}},
    {"31:4 of the interruptibility", 0, 0, {BLOCKED(0x10)}},
    {"must not both be 1", 0, 0, {BLOCKED(3), RFLAGS(FLAG_IF)}},
    {"STI must be 0 where RFLAGS.IF", 0, 0, {BLOCKED(1)}},
    {"when an external interrupt is injected", 0, 0, {BLOCKED(2), RFLAGS(FLAG_IF), INJECT(0x30)}},
    {"MOV SS must be 0 when an NMI", 0, 0, {BLOCKED(2), INJECT(EVENT_NMI << 8 | 2)}},
    {"blocking by SMI", 0, 0, {BLOCKED(4)}},
    {"blocking by NMI must be 0", 0, 0, {BLOCKED(8), INJECT(EVENT_NMI << 8 | 2)}},
    {"63:15 of the pending debug", 0, 0, {{VMCS_GUEST_PENDING_DEBUG_EXCEPTIONS, 1 << 13}}},
    {"BS must be 1 under", 0, 0, {BLOCKED(2), RFLAGS(FLAG_TF)}},
    {"BS must be 0 under", 0, 0, {BLOCKED(2), {VMCS_GUEST_PENDING_DEBUG_EXCEPTIONS, PENDING_DEBUG_BS}}},
    {"link pointer must have bits 11:0", 0, 0, {{VMCS_VMCS_LINK_POINTER, REGION_B + 8}}},
    {"link pointer must not exceed", 0, 0, {{VMCS_VMCS_LINK_POINTER, WIDE}}},
    {"link pointer must point to", 0, 0, {{VMCS_VMCS_LINK_POINTER, VIRTUAL_APIC}}},
    {"link pointer must point to", 0, 0, {{VMCS_VMCS_LINK_POINTER, REGION_B}, SECOND(CPU2_VMCS_SHADOWING)}},
    {"link pointer must not be the current", 0, 0, {{VMCS_VMCS_LINK_POINTER, REGION_A}}},
    {"PDPTE fields", BASE_PAE, 0, {{VMCS_GUEST_PDPTE2, 3}}},
    {"PDPTEs that guest CR3 names",
     BASE_PAE,
     0,
     {{VMCS_SECONDARY_PROCESSOR_CONTROLS, CPU2_ENABLE_VPID}, {VMCS_GUEST_CR3, PAGE_TABLE}}},
};

#define RULES_MAX 256
static bool seen[RULES_MAX];

static void mark(const struct vmx_rule *rule)
{
	for (unsigned i = 0; vmx_rule_at(i); i++)
		if (vmx_rule_at(i) == rule)
			seen[i] = true;
}

static void prepare(enum base_state base)
{
	struct vmcs *v = cpu->vmx->current;
	const struct vmx_rule *rule;

	make_valid(v, base);
	rule = check(v);
	if (rule)
		fail_msg("a valid state (%d) violates: %s", base, rule->sentence);
	assert_int_equal(v->dirty_checks, 0);
}

/* Changes have been made: exactly the rule that has `sentence` fails, also when everything is checked. */
static void expect(const char *sentence)
{
	struct vmcs *v = cpu->vmx->current;
	const struct vmx_rule *rule = check(v);

	if (!rule)
		fail_msg("nothing failed, expected: %s", sentence);
	if (!strstr(rule->sentence, sentence))
		fail_msg("expected: %s\nfailed:   %s", sentence, rule->sentence);
	assert_ptr_equal(cpu->vmx->failed_rule, rule);
	assert_false(rule->holds(cpu, v));
	v->dirty_checks = VMCS_GROUP_ALL;
	assert_ptr_equal(check(v), rule);
	mark(rule);
}

static void expect_segment(enum base_state base, const char *name, const char *text, enum vmcs_field field,
                           uint64_t value)
{
	char sentence[160];

	snprintf(sentence, sizeof(sentence), "guest %s: %s", name, text);
	prepare(base);
	set(cpu->vmx->current, field, value);
	expect(sentence);
}

static const char *const segment_names[] = {"ES", "CS", "SS", "DS", "FS", "GS", "LDTR", "TR"};

static void segment_violations(void)
{
	struct vmcs *v = cpu->vmx->current;

	for (unsigned i = SEG_ES; i <= SEG_TR; i++) {
		const char *name = segment_names[i];
		enum vmcs_field rights_field = VMCS_GUEST_ES_ACCESS_RIGHTS + i,
		                base_field = VMCS_GUEST_ES_BASE + i;
		uint64_t valid;

		prepare(BASE_64);
		valid = vmcs_get(v, rights_field);
		if (i <= SEG_GS) {
			expect_segment(BASE_V86, name, "in virtual-8086 mode the base", base_field, 0x10);
			expect_segment(BASE_V86, name, "in virtual-8086 mode the limit",
			               VMCS_GUEST_ES_LIMIT + i, 0xfffff);
			expect_segment(BASE_V86, name, "in virtual-8086 mode the access", rights_field, 0x93);
			expect_segment(BASE_64, name, "S must be 1", rights_field, valid & ~RIGHTS_S);
			expect_segment(BASE_64, name, "G must fit", VMCS_GUEST_ES_LIMIT + i, 0xfffff000);
		}
		if (i == SEG_ES || i == SEG_DS || i == SEG_FS || i == SEG_GS) {
			expect_segment(BASE_64, name, "the type must be accessed", rights_field, 0xc092);
			expect_segment(BASE_64, name, "DPL must not be less", VMCS_GUEST_ES_SELECTOR + i,
			               0x1b);
		}
		if (i >= SEG_FS)
			expect_segment(BASE_64, name, "the base must be canonical", base_field,
			               NON_CANONICAL);
		else
			expect_segment(BASE_64, name, "bits 63:32 of the base", base_field, 1ull << 32);
		expect_segment(BASE_64, name, "P must be 1", rights_field, valid & ~RIGHTS_P);
		expect_segment(BASE_64, name, "bits 11:8", rights_field, valid | 0x100);
		expect_segment(BASE_64, name, "bits 31:17", rights_field, valid | 0x20000);
		if (i == SEG_CS || i == SEG_TR)
			continue;
		/* Unusable: anything but what is checked in any case goes. */
		prepare(BASE_64);
		set(v, rights_field, 0xffffffff & ~(3u << 5));
		set(v, VMCS_GUEST_ES_LIMIT + i, 0x12345678);
		if (check(v))
			fail_msg("unusable %s violates: %s", name, check(v)->sentence);
	}
}

static void every_entry_rule(void **state)
{
	unsigned rules = 0;

	enter_vmx_operation();
	make_current(REGION_A);
	phys_write(cpu, GPA(PAGE_TABLE + 8), 8, 3);
	memset(seen, 0, sizeof(seen));
	for (unsigned i = 0; i < sizeof(violations) / sizeof(violations[0]); i++) {
		const struct violation *violation = &violations[i];
		struct vmx_capabilities cap = cpu->vmx->cap;

		prepare(violation->base);
		if (violation->everything)
			announce_everything();
		for (unsigned j = 0; j < 5 && violation->change[j][0]; j++)
			set(cpu->vmx->current, violation->change[j][0], violation->change[j][1]);
		/* Without A/D flags the ordinary EPTP would be the first to fail. */
		if (violation->everything && !strstr(violation->sentence, "EPTP"))
			set(cpu->vmx->current, VMCS_EPT_POINTER, 0x1001e);
		else if (violation->everything)
			cpu->vmx->current->dirty_checks = VMCS_GROUP_ALL;
		expect(violation->sentence);
		cpu->vmx->cap = cap;
	}
	segment_violations();
	for (unsigned i = 0; vmx_rule_at(i); i++) {
		rules++;
		assert_true(rules < RULES_MAX);
		/* Implied by the two rules about the present mode, which come first. */
		if (strstr(vmx_rule_at(i)->sentence, "size\", \"IA-32e mode guest\" must be 0"))
			continue;
		if (!seen[i])
			fail_msg("no violation for: %s", vmx_rule_at(i)->sentence);
	}
	print_message("%u rules\n", rules);
}

static void failures_have_their_kinds(void **state)
{
	for (unsigned i = 0; vmx_rule_at(i); i++) {
		const struct vmx_rule *rule = vmx_rule_at(i);

		assert_true(rule->failure == VMERROR_ENTRY_CONTROLS ||
		            rule->failure == VMERROR_ENTRY_HOST_STATE ||
		            rule->failure == ENTRY_FAILURE_DEFAULT || rule->failure == ENTRY_FAILURE_PDPTE ||
		            rule->failure == ENTRY_FAILURE_LINK_POINTER);
		assert_true(rule->field[0] != VMCS_NONE);
		assert_true(strlen(rule->sentence) > 20);
	}
}

/* The shortcut for ordinary segments never accepts what the rules refuse. */
static void ordinary_segments_obey_the_rules(void **state)
{
	static const uint32_t interesting[] = {0xa09b, 0xc09b, 0xa0fb, 0xc093, 0xc0f3,  0x10000, 0x8b,
	                                       0x82,   0x93,   0xf3,   0x9b,   0x1c093, 0xc0b3,  0x80c093};
	unsigned accepted = 0, seed = 1;

	enter_vmx_operation();
	make_current(REGION_A);
	struct vmcs *v = cpu->vmx->current;
	for (unsigned n = 0; n < 200000; n++) {
		make_valid(v, n % 3);
		for (unsigned changes = 0; changes < 1 + n % 4; changes++) {
			seed = seed * 1103515245 + 12345;
			unsigned segment = seed >> 16 & 7, what = seed >> 20 & 3;

			seed = seed * 1103515245 + 12345;
			if (what == 0)
				set(v, VMCS_GUEST_ES_ACCESS_RIGHTS + segment, interesting[(seed >> 16) % 14]);
			else if (what == 1)
				set(v, VMCS_GUEST_ES_SELECTOR + segment, seed >> 16 & 0x7);
			else if (what == 2)
				set(v, VMCS_GUEST_ES_BASE + segment, 1ull << (seed >> 16 & 63));
			else
				set(v, VMCS_GUEST_ES_LIMIT + segment, seed >> (seed >> 27));
		}
		if (!vmx_segments_ordinary(cpu, v))
			continue;
		accepted++;
		for (unsigned i = 0; i < VMX_SEGMENT_RULES; i++)
			if (!vmx_segment_rules[i].holds(cpu, v))
				fail_msg("accepted against: %s", vmx_segment_rules[i].sentence);
	}
	assert_true(accepted > 1000);
}

static void a_failed_rule_is_explained_with_its_values(void **state)
{
	enter_vmx_operation();
	make_current(REGION_A);
	prepare(BASE_64);
	set(cpu->vmx->current, VMCS_VM_ENTRY_INTERRUPTION_INFORMATION, 0x80000030);
	explained[0] = 0;
	vmx_explain_rule(cpu, cpu->vmx->current, check(cpu->vmx->current));
	assert_non_null(strstr(explained, "RFLAGS.IF must be 1 when an external interrupt is injected"));
	assert_non_null(strstr(explained, "VM_ENTRY_INTERRUPTION_INFORMATION = 80000030"));
	assert_non_null(strstr(explained, "Checks on Guest RIP, RFLAGS, and SSP"));
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

int main(void)
{
	const struct CMUnitTest tests[] = {
	    TEST(every_encoding_finds_its_field),
	    TEST(no_other_encoding_finds_a_field),
	    TEST(allowed_0_is_a_subset_of_allowed_1),
	    TEST(true_controls_only_relax_the_plain_ones),
	    TEST(what_hypervisors_demand_is_offered),
	    TEST(controls_follow_the_cpu_model),
	    TEST(vmxon_checks),
	    TEST(pointer_errors),
	    TEST(launch_state),
	    TEST(vmread_and_vmwrite),
	    TEST(vmwrite_marks_only_changes),
	    TEST(non_root_operation_exits),
	    TEST(vmcs_shadowing),
	    TEST(invalidations),
	    TEST(vmclear_and_vmptrld_keep_every_field),
	    TEST(more_vmcss_than_the_cache_holds),
	    TEST(a_hostile_region_is_truncated),
	    TEST(vmxoff_writes_active_vmcss_back),
	    TEST(every_entry_rule),
	    TEST(failures_have_their_kinds),
	    TEST(ordinary_segments_obey_the_rules),
	    TEST(a_failed_rule_is_explained_with_its_values),
	};

	return cmocka_run_group_tests_name("virtual VT-x", tests, NULL, NULL);
}

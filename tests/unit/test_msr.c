/*
 * RDMSR and WRMSR: what exists, what is refused, what it does.
 *
 * gcc -D_GNU_SOURCE -Isrc tests/unit/test_msr.c src/engine/soft/cpu/{msr,apic,apic_create,time}.c
 * src/engine/{cpu_model,cpu_model_query,host_tsc}.c src/util/error.c -lcmocka -o /tmp/test_msr
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "engine/soft/cpu/apic.h"
#include "engine/soft/cpu/msr.h"

/* ---- neighbours ---- */

void fpu_stash(struct cpu *cpu)
{
}

void tlb_flush_all(struct cpu *cpu)
{
}

void cpu_host_timer_arm(struct cpu *cpu, uint64_t deadline_ns)
{
}

void cpu_host_eoi(struct cpu *cpu, uint8_t vector)
{
}

int cpu_host_interrupt_acknowledge(struct cpu *cpu)
{
	return -1;
}

void soft_deliver(struct cpu *source, uint32_t destination, bool logical, bool x2apic_format,
                  uint8_t delivery_mode, uint8_t vector, bool level, unsigned shorthand)
{
}

uint64_t cpu_efer_allowed(const struct cpu *cpu)
{
	return EFER_SCE | EFER_LME | EFER_LMA | EFER_NXE;
}

void cpu_load_efer(struct cpu *cpu, uint64_t value)
{
	cpu->efer = value;
}

bool vmx_read_capability(const struct cpu_model *model, uint32_t msr, uint64_t *value)
{
	if (msr > 0x490)
		return false;
	*value = msr;
	return true;
}

/* ---- set-up ---- */

static struct cpu_model model;

static struct cpu *new_cpu(const char *changes, bool vmx)
{
	struct cpu_model_request request = {
	    .model = "x86-64-v2", .changes = changes, .nested_vmx = vmx, .tsc_hz = 1000000000, .cpu_count = 1};
	struct cpu *cpu = aligned_alloc(64, (sizeof(*cpu) + 63) / 64 * 64);

	assert_non_null(cpu);
	assert_int_equal(cpu_model_make(&model, &request), 0);
	memset(cpu, 0, sizeof(*cpu));
	cpu->model = &model;
	cpu->clock = ENGINE_CLOCK_DETERMINISTIC;
	cpu->retired = 5000;
	assert_non_null(apic_create(cpu));
	return cpu;
}

static int set_up(void **state)
{
	*state = new_cpu(NULL, true);
	return 0;
}

static int tear_down(void **state)
{
	struct cpu *cpu = *state;

	apic_destroy(cpu->apic);
	free(cpu);
	return 0;
}

static uint64_t get(struct cpu *cpu, uint32_t msr)
{
	uint64_t value = 0;

	if (!msr_read(cpu, msr, &value))
		fail_msg("RDMSR %x faults", msr);
	return value;
}

static bool takes(struct cpu *cpu, uint32_t msr, uint64_t value)
{
	return msr_write(cpu, msr, value);
}

/* ---- the tests ---- */

static void unknown_msrs_do_not_exist(void **state)
{
	struct cpu *cpu = *state;
	static const uint32_t none[] = {0x2,   0x11,  0x33,       0x140,      0x17b, 0x210,
	                                0x251, 0x270, 0x38f,      0x410,      0x47f, 0x491,
	                                0x492, 0x900, 0xc0000085, 0xc0010015, ~0u};
	uint64_t value = 0x1234;

	for (unsigned i = 0; i < sizeof(none) / sizeof(none[0]); i++) {
		assert_false(msr_read(cpu, none[i], &value));
		assert_false(msr_write(cpu, none[i], 0));
	}
	assert_int_equal(value, 0x1234);
}

/* Every number below 2000H and in the two high ranges, with nasty values. */
static void no_access_does_harm(void **state)
{
	struct cpu *cpu = *state;
	static const uint64_t values[] = {0, 1, ~0ull, 1ull << 63, 0x00007fffffffffff, 0xff, 0xfee00d00};
	static const uint32_t bases[] = {0, 0x40000000, 0xc0000000, 0xc0010000};
	uint64_t value;

	for (unsigned b = 0; b < 4; b++)
		for (uint32_t msr = bases[b]; msr < bases[b] + 0x2000; msr++) {
			msr_read(cpu, msr, &value);
			for (unsigned i = 0; i < sizeof(values) / sizeof(values[0]); i++)
				msr_write(cpu, msr, values[i]);
			msr_read(cpu, msr, &value);
		}
	assert_ptr_equal(cpu->model, &model);
	assert_int_equal(cpu->cr0, 0);
}

static void addresses_must_be_canonical(void **state)
{
	struct cpu *cpu = *state;
	static const uint32_t addresses[] = {MSR_LSTAR,        MSR_CSTAR,   MSR_SYSENTER_ESP,
	                                     MSR_SYSENTER_EIP, MSR_FS_BASE, MSR_KERNEL_GS_BASE,
	                                     MSR_GS_BASE};

	for (unsigned i = 0; i < sizeof(addresses) / sizeof(addresses[0]); i++) {
		assert_true(takes(cpu, addresses[i], 0xffff800012345678));
		assert_false(takes(cpu, addresses[i], 0x0000800000000000));
		assert_true(get(cpu, addresses[i]) == 0xffff800012345678);
	}
	assert_true(cpu->seg[SEG_GS].base == 0xffff800012345678);
}

static void writing_the_tsc_shows_in_tsc_adjust(void **state)
{
	struct cpu *cpu = *state;

	assert_int_equal(get(cpu, MSR_TSC), 5000);
	assert_true(takes(cpu, MSR_TSC, 7000));
	assert_int_equal(get(cpu, MSR_TSC_ADJUST), 2000);
	cpu->retired += 10;
	assert_int_equal(get(cpu, MSR_TSC), 7010);
	assert_true(takes(cpu, MSR_TSC_ADJUST, (uint64_t)-10));
	assert_int_equal(get(cpu, MSR_TSC), 5000);
}

static void efer_keeps_lma_and_its_rules(void **state)
{
	struct cpu *cpu = *state;

	assert_false(takes(cpu, MSR_EFER, 2));
	assert_true(takes(cpu, MSR_EFER, EFER_LMA | EFER_SCE)); /* LMA is ignored */
	assert_int_equal(get(cpu, MSR_EFER), EFER_SCE);
	cpu->cr0 = CR0_PE | CR0_PG;
	cpu->efer = EFER_LME | EFER_LMA;
	assert_false(takes(cpu, MSR_EFER, EFER_SCE)); /* LME cannot change under paging */
	assert_true(takes(cpu, MSR_EFER, EFER_LME | EFER_NXE));
	assert_int_equal(get(cpu, MSR_EFER), EFER_LME | EFER_LMA | EFER_NXE);
}

static void feature_control_locks(void **state)
{
	struct cpu *cpu = *state;

	assert_true(takes(cpu, MSR_FEATURE_CONTROL, 4));
	assert_false(takes(cpu, MSR_FEATURE_CONTROL, 2)); /* no SMX */
	assert_true(takes(cpu, MSR_FEATURE_CONTROL, 5));
	assert_false(takes(cpu, MSR_FEATURE_CONTROL, 0));
	assert_int_equal(get(cpu, MSR_FEATURE_CONTROL), 5);
}

static void vmx_msrs_follow_the_model(void **state)
{
	struct cpu *cpu = new_cpu(NULL, false);
	uint64_t value;

	assert_false(msr_read(cpu, 0x480, &value));
	assert_false(takes(cpu, MSR_FEATURE_CONTROL, 5));
	assert_true(takes(cpu, MSR_FEATURE_CONTROL, 1)); /* but the register always exists */
	tear_down((void **)&cpu);
	assert_int_equal(set_up((void **)&cpu), 0);
	assert_int_equal(get(cpu, 0x480), 0x480);
	assert_false(takes(cpu, 0x480, 0));
	tear_down((void **)&cpu);
}

static void memory_types_are_checked(void **state)
{
	struct cpu *cpu = *state;

	assert_true(takes(cpu, MSR_PAT, 0x0007010600070106));
	assert_false(takes(cpu, MSR_PAT, 0x0007010600070102));
	assert_false(takes(cpu, MSR_PAT, 0x0807010600070106));
	assert_true(get(cpu, MSR_PAT) == 0x0007010600070106);
	assert_int_equal(get(cpu, MSR_MTRRCAP), 0x508);
	assert_true(takes(cpu, MSR_MTRR_DEF_TYPE, 0xc06));
	assert_false(takes(cpu, MSR_MTRR_DEF_TYPE, 0xc02));
	assert_false(takes(cpu, MSR_MTRR_DEF_TYPE, 0x1006));
	assert_true(takes(cpu, 0x200, 0xc0000000));
	assert_false(takes(cpu, 0x200, 0xc0000100));
	assert_true(takes(cpu, 0x201, 0xffc0000800));
	assert_false(takes(cpu, 0x201, 1ull << 52));
	assert_true(takes(cpu, 0x20f, 0x800));
	assert_false(takes(cpu, 0x250, 0x0606060606060603));
	for (unsigned i = 0; i < 8; i++)
		assert_true(takes(cpu, 0x268 + i, i & 1 ? 6 : 5));
	assert_int_equal(get(cpu, 0x26e), 5);
	assert_int_equal(get(cpu, 0x26f), 6);
	assert_int_equal(get(cpu, 0x201), 0xffc0000800);
}

static void speculation_controls_accept_what_is_announced(void **state)
{
	struct cpu *cpu = *state;
	uint64_t value;

	assert_true(takes(cpu, MSR_SPEC_CTRL, 1 | 1u << 10));
	assert_false(takes(cpu, MSR_SPEC_CTRL, 4)); /* SSBD */
	assert_int_equal(get(cpu, MSR_SPEC_CTRL), 1 | 1u << 10);
	assert_true(takes(cpu, MSR_PRED_CMD, 1));
	assert_false(takes(cpu, MSR_PRED_CMD, 2));
	assert_false(msr_read(cpu, MSR_PRED_CMD, &value));
	assert_false(takes(cpu, MSR_FLUSH_CMD, 1));
	assert_true(get(cpu, MSR_ARCH_CAPABILITIES) == model.arch_capabilities);
	assert_false(takes(cpu, MSR_ARCH_CAPABILITIES, 0));
}

static void machine_check_banks_can_only_be_cleared(void **state)
{
	struct cpu *cpu = *state;
	unsigned banks = get(cpu, MSR_MCG_CAP) & 0xff;
	uint64_t value;

	for (unsigned i = 0; i < banks; i++) {
		assert_true(takes(cpu, MSR_MC0_CTL + 4 * i, ~0ull));
		for (unsigned j = 1; j < 4; j++) {
			assert_false(takes(cpu, MSR_MC0_CTL + 4 * i + j, 1));
			assert_true(takes(cpu, MSR_MC0_CTL + 4 * i + j, 0));
		}
	}
	assert_false(msr_read(cpu, MSR_MC0_CTL + 4 * banks, &value));
}

/* What Linux insists on or is confused by. */
static void linux_finds_what_it_expects(void **state)
{
	struct cpu *cpu = *state;

	assert_true(takes(cpu, MSR_MISC_ENABLE, 1));
	assert_int_equal(get(cpu, MSR_MISC_ENABLE) & 1, 1);           /* or REP_GOOD and ERMS are dropped */
	assert_int_equal(get(cpu, MSR_MISC_ENABLE) & 3u << 11, 3u << 11); /* no BTS, no PEBS */
	assert_true(takes(cpu, MSR_BIOS_SIGN_ID, 0));
	assert_int_equal(get(cpu, MSR_BIOS_SIGN_ID) >> 32, 1);
	assert_int_equal(get(cpu, MSR_PLATFORM_INFO) >> 31 & 1, 0); /* no CPUID faulting */
	assert_true(takes(cpu, MSR_TSC_AUX, 0xffffffff));
	assert_false(takes(cpu, MSR_TSC_AUX, 1ull << 32));
	assert_true(takes(cpu, MSR_XSS, 0));
	assert_false(takes(cpu, MSR_XSS, 1u << 8));
	assert_true(takes(cpu, MSR_SYSENTER_CS, 0xffffffff00000010));
	assert_int_equal(get(cpu, MSR_SYSENTER_CS), 0x10);
	assert_true(takes(cpu, MSR_DEBUGCTL, 3));
	assert_false(takes(cpu, MSR_DEBUGCTL, 4));
}

static void firmware_mtrrs_are_legal(void **state)
{
	struct cpu *cpu = *state;

	msr_set_firmware_mtrrs(cpu);
	assert_true(takes(cpu, 0x200, get(cpu, 0x200)));
	assert_true(takes(cpu, 0x201, get(cpu, 0x201)));
	assert_true(get(cpu, 0x201) ==
	            (((1ull << model.physical_address_bits) - 1) & ~0x3fffffffull) + 0x800);
	assert_int_equal(get(cpu, 0x202), 0xb0000000);
	assert_true(takes(cpu, 0x203, get(cpu, 0x203)));
	assert_true(get(cpu, 0x203) ==
	            (((1ull << model.physical_address_bits) - 1) & ~0x0fffffffull) + 0x800);
	assert_int_equal(get(cpu, MSR_MTRR_DEF_TYPE), 0xc06);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

int main(void)
{
	const struct CMUnitTest tests[] = {
	    TEST(unknown_msrs_do_not_exist),
	    TEST(no_access_does_harm),
	    TEST(addresses_must_be_canonical),
	    TEST(writing_the_tsc_shows_in_tsc_adjust),
	    TEST(efer_keeps_lma_and_its_rules),
	    TEST(feature_control_locks),
	    cmocka_unit_test(vmx_msrs_follow_the_model),
	    TEST(memory_types_are_checked),
	    TEST(speculation_controls_accept_what_is_announced),
	    TEST(machine_check_banks_can_only_be_cleared),
	    TEST(linux_finds_what_it_expects),
	    TEST(firmware_mtrrs_are_legal),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

/*
 * What the guest CPU announces.
 *
 * gcc -D_GNU_SOURCE -Isrc tests/unit/test_cpu_model.c src/engine/{cpu_model,cpu_model_query,host_tsc}.c
 * src/util/error.c -lcmocka -o /tmp/test_cpu_model
 */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "engine/cpu_model.h"
#include "engine/host_tsc.h"
#include "util/error.h"

enum { EAX, EBX, ECX, EDX };

static struct cpu_model made(const char *name, const char *changes)
{
	struct cpu_model model;
	struct cpu_model_request request = {
	    .model = name,
	    .changes = changes,
	    .nested_vmx = true,
	    .hypervisor_leaf = true,
	    .cpu_count = 1,
	};

	if (cpu_model_make(&model, &request))
		fail_msg("%s", error_text());
	return model;
}

static void refused(const char *name, const char *changes, const char *named)
{
	struct cpu_model model;
	struct cpu_model_request request = {.model = name, .changes = changes, .cpu_count = 1};

	assert_int_equal(cpu_model_make(&model, &request), -EINVAL);
	if (!strstr(error_text(), named))
		fail_msg("'%s' does not name %s", error_text(), named);
}

static void names_itself(void **state)
{
	struct cpu_model model = made("x86-64-v2", NULL);
	uint32_t r[4], brand[12];

	cpu_model_cpuid(&model, 0, 0, r);
	assert_int_equal(r[EAX], 0x16);
	assert_memory_equal(&r[EBX], "Genu", 4);
	assert_memory_equal(&r[EDX], "ineI", 4);
	assert_memory_equal(&r[ECX], "ntel", 4);
	for (unsigned i = 0; i < 3; i++)
		cpu_model_cpuid(&model, 0x80000002 + i, 0, brand + 4 * i);
	assert_string_equal((const char *)brand, "Nestor Virtual CPU");
}

static void family_and_model_are_in_no_table(void **state)
{
	struct cpu_model model = made("x86-64-v2", NULL);
	uint32_t r[4];

	cpu_model_cpuid(&model, 1, 0, r);
	assert_int_equal(r[EAX] >> 8 & 0xf, 6);
	assert_int_equal((r[EAX] >> 12 & 0xf0) | (r[EAX] >> 4 & 0xf), 0xf5);
}

static void levels_hold_what_they_promise(void **state)
{
	static const struct {
		uint32_t leaf, subleaf;
		unsigned reg, bit;
	} v2[] = {{1, 0, ECX, 0},  {1, 0, ECX, 9},  {1, 0, ECX, 13},        {1, 0, ECX, 19},
	          {1, 0, ECX, 20}, {1, 0, ECX, 23}, {0x80000001, 0, ECX, 0}},
	  v3[] = {{1, 0, ECX, 12}, {1, 0, ECX, 22}, {1, 0, ECX, 28}, {1, 0, ECX, 29},
	          {7, 0, EBX, 3},  {7, 0, EBX, 5},  {7, 0, EBX, 8},  {0x80000001, 0, ECX, 5}};
	struct cpu_model model = made("x86-64-v2", NULL), best = made(NULL, NULL);
	struct cpu_model_request request = {.model = "x86-64-v3", .cpu_count = 1};
	struct cpu_model level3;

	for (size_t i = 0; i < sizeof(v2) / sizeof(v2[0]); i++)
		assert_true(cpu_model_has(&model, v2[i].leaf, v2[i].subleaf, v2[i].reg, v2[i].bit));
	for (size_t i = 0; i < sizeof(v3) / sizeof(v3[0]); i++)
		assert_false(cpu_model_has(&model, v3[i].leaf, v3[i].subleaf, v3[i].reg, v3[i].bit));
	assert_int_equal(model.xcr0_supported, 3);
	if (cpu_model_make(&level3, &request)) {
		assert_non_null(strstr(error_text(), "x86-64-v3 needs"));
		return;
	}
	for (size_t i = 0; i < sizeof(v3) / sizeof(v3[0]); i++) {
		assert_true(cpu_model_has(&level3, v3[i].leaf, v3[i].subleaf, v3[i].reg, v3[i].bit));
		assert_true(cpu_model_has(&best, v3[i].leaf, v3[i].subleaf, v3[i].reg, v3[i].bit));
	}
	assert_int_equal(level3.xcr0_supported, 7);
}

static void changes_apply(void **state)
{
	struct cpu_model model = made("x86-64-v2", "-pcid,-smap,-vmx");

	assert_false(cpu_model_has(&model, 1, 0, ECX, 17));
	assert_false(cpu_model_has(&model, 7, 0, EBX, 20));
	assert_false(cpu_model_has(&model, 1, 0, ECX, 5));
	assert_false(model.vmx);
	model = made("x86-64-v2", "-x2apic,+x2apic");
	assert_true(cpu_model_has(&model, 1, 0, ECX, 21));
	model = made("x86-64-v2", "-sse4_2");
	assert_false(cpu_model_has(&model, 1, 0, ECX, 20));
	model = made("x86-64-v2", "");
	assert_true(model.vmx);
}

static void what_rests_on_a_feature_goes_with_it(void **state)
{
	struct cpu_model model = made(NULL, "-xsave");

	assert_false(cpu_model_has(&model, 1, 0, ECX, 28)); /* AVX */
	assert_false(cpu_model_has(&model, 7, 0, EBX, 5));  /* AVX2 */
	assert_false(cpu_model_has(&model, 0xd, 1, EAX, 3));
	assert_int_equal(model.xcr0_supported, 0);
	refused("x86-64-v2", "-xsave,+xsavec", "xsavec");
}

static void bad_requests_are_named(void **state)
{
	refused("pentium", NULL, "pentium");
	refused("x86-64-v2", "+teleport", "teleport");
	refused("x86-64-v2", "pcid", "pcid");
	refused("x86-64-v2", "-lm", "lm");
	refused("x86-64-v2", "+aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa", "aaaa");
	refused("x86-64-v2", ",,+", "''");
}

static void leaves_out_of_range_give_the_highest_basic_one(void **state)
{
	struct cpu_model model = made("x86-64-v2", "-hypervisor");
	uint32_t last[4], r[4];

	cpu_model_cpuid(&model, 0x16, 0, last);
	static const uint32_t beyond[] = {0x17,       0x1f,       0x3fffffff, 0x40000000,
	                                  0x80000009, 0xc0000000, 0xffffffff};
	for (size_t i = 0; i < sizeof(beyond) / sizeof(beyond[0]); i++) {
		cpu_model_cpuid(&model, beyond[i], 0, r);
		assert_memory_equal(r, last, sizeof(r));
	}
	cpu_model_cpuid(&model, 7, 5, r); /* within range, but empty */
	assert_int_equal(r[EAX] | r[EBX] | r[ECX] | r[EDX], 0);
}

static void hypervisor_leaf_is_a_knob(void **state)
{
	struct cpu_model model = made("x86-64-v2", NULL);
	uint32_t r[4];

	assert_true(cpu_model_has(&model, 1, 0, ECX, 31));
	cpu_model_cpuid(&model, 0x40000000, 0, r);
	assert_memory_equal(&r[EBX], "KVMKVMKVM\0\0\0", 12);
	cpu_model_cpuid(&model, 0x40000001, 0, r);
	assert_int_equal(r[EAX] | r[EBX] | r[ECX] | r[EDX], 0);
	model = made("x86-64-v2", "-hypervisor");
	assert_false(cpu_model_has(&model, 1, 0, ECX, 31));
	assert_false(model.hypervisor_leaf);
}

/* Linux: crystal kHz * numerator / denominator, in 32 bits. */
static void tsc_frequency_is_exact(void **state)
{
	static const uint64_t frequencies[] = {1000000000, 2700000000, 2693837000, 3400123000,
	                                       25000000,   4294967000, 6000000000, 2600000001};

	for (size_t i = 0; i < sizeof(frequencies) / sizeof(frequencies[0]); i++) {
		struct cpu_model model;
		struct cpu_model_request request = {
		    .model = "x86-64-v2", .tsc_hz = frequencies[i], .cpu_count = 1};
		uint32_t r[4];

		assert_int_equal(cpu_model_make(&model, &request), 0);
		assert_true(model.tsc_hz == frequencies[i]);
		cpu_model_cpuid(&model, 0x15, 0, r);
		assert_true(r[EAX] && r[EBX] && r[ECX]);
		assert_true((uint64_t)r[ECX] * r[EBX] / r[EAX] == model.tsc_hz);
		assert_true((uint64_t)(r[ECX] / 1000) * r[EBX] <= UINT32_MAX);
		assert_true(r[ECX] / 1000 * r[EBX] / r[EAX] == model.tsc_hz / 1000);
		if (frequencies[i] % 100000000 == 0) /* what OVMF takes the APIC timer's clock for */
			assert_true(r[ECX] == 1000000000);
	}
}

static void host_frequency_is_plausible(void **state)
{
	struct cpu_model model = made("x86-64-v2", NULL);
	uint64_t hz = host_tsc_hz();

	assert_true(hz > 100000000 && hz < 10000000000);
	assert_true(host_tsc_hz() == hz);
	assert_true(model.tsc_hz % 1000 == 0 && model.tsc_hz + 1000 > hz && hz + 1000 > model.tsc_hz);
}

static void topology_counts_the_cpus(void **state)
{
	struct cpu_model model;
	struct cpu_model_request request = {.model = "x86-64-v2", .cpu_count = 6};
	uint32_t r[4];

	assert_int_equal(cpu_model_make(&model, &request), 0);
	cpu_model_cpuid(&model, 0xb, 1, r);
	assert_int_equal(r[EAX], 3);
	assert_int_equal(r[EBX], 6);
	assert_int_equal(r[ECX], 0x201);
	cpu_model_cpuid(&model, 0xb, 9, r);
	assert_int_equal(r[ECX], 9);
	assert_int_equal(r[EBX], 0);
	cpu_model_cpuid(&model, 4, 3, r);
	assert_int_equal(r[EAX] >> 26, 7);
	assert_int_equal(r[EAX] >> 14 & 0xfff, 7);
	assert_true(cpu_model_has(&model, 1, 0, EDX, 28));
}

static void speculation_flaws_are_denied(void **state)
{
	static const unsigned bits[] = {0, 1, 3, 4, 5, 6, 8, 13, 14, 15, 20, 24, 26, 27, 62};
	struct cpu_model model = made("x86-64-v2", NULL);

	assert_true(cpu_model_has(&model, 7, 0, EDX, 29));
	assert_true(cpu_model_has(&model, 7, 0, EDX, 26));
	assert_true(cpu_model_has(&model, 7, 2, EDX, 4));
	for (size_t i = 0; i < sizeof(bits) / sizeof(bits[0]); i++)
		assert_true(model.arch_capabilities >> bits[i] & 1);
	assert_false(model.arch_capabilities >> 2 & 1); /* RSBA would mean Retbleed */
}

/* Linux prefers MWAIT for idling unless the extensions are there without a C1 sub-state. */
static void linux_idles_by_hlt(void **state)
{
	struct cpu_model model = made("x86-64-v2", NULL);
	uint32_t r[4];

	assert_true(cpu_model_has(&model, 1, 0, ECX, 3));
	cpu_model_cpuid(&model, 5, 0, r);
	assert_int_equal(r[ECX] & 3, 3);
	assert_int_equal(r[EDX], 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(names_itself),
	    cmocka_unit_test(family_and_model_are_in_no_table),
	    cmocka_unit_test(levels_hold_what_they_promise),
	    cmocka_unit_test(changes_apply),
	    cmocka_unit_test(what_rests_on_a_feature_goes_with_it),
	    cmocka_unit_test(bad_requests_are_named),
	    cmocka_unit_test(leaves_out_of_range_give_the_highest_basic_one),
	    cmocka_unit_test(hypervisor_leaf_is_a_knob),
	    cmocka_unit_test(tsc_frequency_is_exact),
	    cmocka_unit_test(host_frequency_is_plausible),
	    cmocka_unit_test(topology_counts_the_cpus),
	    cmocka_unit_test(speculation_flaws_are_denied),
	    cmocka_unit_test(linux_idles_by_hlt),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

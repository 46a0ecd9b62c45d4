/*
 * Named CPU models, features and the CPUID leaves made from them.
 *
 * A feature is announced when the model has it, or the user adds it, and it can be carried: instructions that
 * the translator runs on the host as they are need the host's own CPUID bit, what the engine does itself
 * needs nothing.
 *
 * The processor announced is GenuineIntel, family 6, model F5H: no processor that Linux, Xen or Windows has a
 * table entry for. So none of their lists of flawed processors applies (speculation, VMX-preemption timer,
 * TSC deadline, C-states), while everything that is asked as "family 6 and model at least …" comes out as for
 * a recent one. IA32_ARCH_CAPABILITIES denies the remaining flaws one by one, which spares the guest
 * work-arounds (retpolines, branch-history clearing, buffer flushes) that cost much here and protect from
 * nothing.
 */
#include "engine/cpu_model.h"

#include <cpuid.h>
#include <errno.h>
#include <stddef.h>
#include <string.h>

#include "engine/host_tsc.h"
#include "util/error.h"

#define SIGNATURE 0x000f0651u /* stepping 1, model F5H, family 6 */
#define BRAND     "Nestor Virtual CPU"

enum { EAX, EBX, ECX, EDX };

enum feature_flags {
	CORE =
	    1 << 0, /* cannot be switched off: every 64-bit processor has it, and the engine counts on it */
	HOST = 1 << 1,  /* runs natively: the host must have the same bit */
	V2 = 1 << 2,    /* in x86-64-v2 and above */
	V3 = 1 << 3,    /* in x86-64-v3 */
	BEST = 1 << 4,  /* only where nothing was named and the host carries it */
	AVX_OS = 1 << 5 /* the host's system must have enabled AVX */
};

#define ALWAYS  (V2 | V3 | BEST)
#define FROM_V2 (V2 | V3 | BEST | HOST)
#define FROM_V3 (V3 | BEST | HOST)

struct feature {
	const char *name;
	uint32_t leaf, subleaf;
	uint8_t reg, bit, flags;
	const char *needs; /* another feature, without which this one makes no sense */
};

static const struct feature features[] = {
    {"fpu", 1, 0, EDX, 0, ALWAYS | CORE, NULL},
    {"vme", 1, 0, EDX, 1, ALWAYS, NULL},
    {"de", 1, 0, EDX, 2, ALWAYS, NULL},
    {"pse", 1, 0, EDX, 3, ALWAYS | CORE, NULL},
    {"tsc", 1, 0, EDX, 4, ALWAYS | CORE, NULL},
    {"msr", 1, 0, EDX, 5, ALWAYS | CORE, NULL},
    {"pae", 1, 0, EDX, 6, ALWAYS | CORE, NULL},
    {"mce", 1, 0, EDX, 7, ALWAYS, NULL},
    {"cx8", 1, 0, EDX, 8, ALWAYS | CORE, NULL},
    {"apic", 1, 0, EDX, 9, ALWAYS | CORE, NULL},
    {"sep", 1, 0, EDX, 11, ALWAYS | CORE, NULL},
    {"mtrr", 1, 0, EDX, 12, ALWAYS, NULL},
    {"pge", 1, 0, EDX, 13, ALWAYS, NULL},
    {"mca", 1, 0, EDX, 14, ALWAYS, "mce"},
    {"cmov", 1, 0, EDX, 15, ALWAYS | CORE, NULL},
    {"pat", 1, 0, EDX, 16, ALWAYS, NULL},
    {"pse36", 1, 0, EDX, 17, ALWAYS, NULL},
    {"clflush", 1, 0, EDX, 19, ALWAYS | CORE, NULL},
    {"mmx", 1, 0, EDX, 23, ALWAYS | CORE, NULL},
    {"fxsr", 1, 0, EDX, 24, ALWAYS | CORE, NULL},
    {"sse", 1, 0, EDX, 25, ALWAYS | CORE, NULL},
    {"sse2", 1, 0, EDX, 26, ALWAYS | CORE, NULL},
    {"ss", 1, 0, EDX, 27, ALWAYS, NULL},
    {"sse3", 1, 0, ECX, 0, FROM_V2, NULL},
    {"pclmulqdq", 1, 0, ECX, 1, FROM_V3, NULL},
    {"monitor", 1, 0, ECX, 3, ALWAYS, NULL},
    {"vmx", 1, 0, ECX, 5, 0, NULL},
    {"ssse3", 1, 0, ECX, 9, FROM_V2, "sse3"},
    {"fma", 1, 0, ECX, 12, FROM_V3 | AVX_OS, "avx"},
    {"cx16", 1, 0, ECX, 13, FROM_V2, NULL},
    {"pcid", 1, 0, ECX, 17, ALWAYS, NULL},
    {"sse4.1", 1, 0, ECX, 19, FROM_V2, "ssse3"},
    {"sse4.2", 1, 0, ECX, 20, FROM_V2, "sse4.1"},
    {"x2apic", 1, 0, ECX, 21, ALWAYS, NULL},
    {"movbe", 1, 0, ECX, 22, FROM_V3, NULL},
    {"popcnt", 1, 0, ECX, 23, FROM_V2, NULL},
    {"tsc-deadline", 1, 0, ECX, 24, ALWAYS, NULL},
    {"aes", 1, 0, ECX, 25, FROM_V3, NULL},
    {"xsave", 1, 0, ECX, 26, ALWAYS, NULL},
    {"avx", 1, 0, ECX, 28, FROM_V3 | AVX_OS, "xsave"},
    {"f16c", 1, 0, ECX, 29, FROM_V3 | AVX_OS, "avx"},
    {"rdrand", 1, 0, ECX, 30, V3 | BEST, NULL},
    {"hypervisor", 1, 0, ECX, 31, 0, NULL},
    {"arat", 6, 0, EAX, 2, ALWAYS, NULL},
    {"fsgsbase", 7, 0, EBX, 0, ALWAYS, NULL},
    {"tsc_adjust", 7, 0, EBX, 1, ALWAYS, NULL},
    {"bmi1", 7, 0, EBX, 3, FROM_V3, NULL},
    {"avx2", 7, 0, EBX, 5, FROM_V3 | AVX_OS, "avx"},
    {"fdp_excptn_only", 7, 0, EBX, 6, ALWAYS, NULL},
    {"smep", 7, 0, EBX, 7, ALWAYS, NULL},
    {"bmi2", 7, 0, EBX, 8, FROM_V3, NULL},
    {"erms", 7, 0, EBX, 9, ALWAYS, NULL},
    {"invpcid", 7, 0, EBX, 10, ALWAYS, NULL},
    {"zero_fcs_fds", 7, 0, EBX, 13, ALWAYS, NULL},
    {"rdseed", 7, 0, EBX, 18, V3 | BEST, NULL},
    {"adx", 7, 0, EBX, 19, BEST | HOST, NULL},
    {"smap", 7, 0, EBX, 20, ALWAYS, NULL},
    {"clflushopt", 7, 0, EBX, 23, BEST | HOST, NULL},
    {"clwb", 7, 0, EBX, 24, BEST | HOST, NULL},
    {"sha", 7, 0, EBX, 29, BEST | HOST, NULL},
    {"umip", 7, 0, ECX, 2, ALWAYS, NULL},
    {"rdpid", 7, 0, ECX, 22, ALWAYS, NULL},
    {"spec_ctrl", 7, 0, EDX, 26, ALWAYS, NULL},
    {"arch_capabilities", 7, 0, EDX, 29, ALWAYS, NULL},
    {"bhi_ctrl", 7, 2, EDX, 4, ALWAYS, "spec_ctrl"},
    {"mcdt_no", 7, 2, EDX, 5, ALWAYS, NULL},
    {"xsaveopt", 0xd, 1, EAX, 0, ALWAYS, "xsave"},
    {"xsavec", 0xd, 1, EAX, 1, ALWAYS, "xsave"},
    {"xgetbv1", 0xd, 1, EAX, 2, ALWAYS, "xsave"},
    {"xsaves", 0xd, 1, EAX, 3, ALWAYS, "xsavec"},
    {"lahf_lm", 0x80000001, 0, ECX, 0, FROM_V2, NULL},
    {"abm", 0x80000001, 0, ECX, 5, FROM_V3, NULL},
    {"prefetchw", 0x80000001, 0, ECX, 8, ALWAYS, NULL},
    {"syscall", 0x80000001, 0, EDX, 11, ALWAYS | CORE, NULL},
    {"nx", 0x80000001, 0, EDX, 20, ALWAYS, NULL},
    {"pdpe1gb", 0x80000001, 0, EDX, 26, ALWAYS, NULL},
    {"rdtscp", 0x80000001, 0, EDX, 27, ALWAYS, NULL},
    {"lm", 0x80000001, 0, EDX, 29, ALWAYS | CORE, NULL},
    {"invtsc", 0x80000007, 0, EDX, 8, ALWAYS, NULL},
};

#define FEATURES (sizeof(features) / sizeof(features[0]))

/* Other names under which features are known. */
static const struct {
	const char *alias, *name;
} aliases[] = {
    {"pni", "sse3"},
    {"sse4_1", "sse4.1"},
    {"sse4_2", "sse4.2"},
    {"sse4-1", "sse4.1"},
    {"sse4-2", "sse4.2"},
    {"pclmul", "pclmulqdq"},
    {"lzcnt", "abm"},
    {"tsc_deadline_timer", "tsc-deadline"},
    {"tsc-adjust", "tsc_adjust"},
    {"sha_ni", "sha"},
    {"sha-ni", "sha"},
    {"3dnowprefetch", "prefetchw"},
    {"lahf-lm", "lahf_lm"},
    {"nonstop_tsc", "invtsc"},
    {"arch-capabilities", "arch_capabilities"},
    {"spec-ctrl", "spec_ctrl"},
    {"ibrs", "spec_ctrl"},
    {"fxsave", "fxsr"},
    {"avx-2", "avx2"},
};

/* SDM, IA32_ARCH_CAPABILITIES; translator.md says why each matters. */
#define ARCH_CAPABILITIES                                                                                    \
	(1ull << 0 /* RDCL_NO */ | 1ull << 1 /* IBRS_ALL */ | 1ull << 3 /* SKIP_L1DFL_VMENTRY */ |           \
	 1ull << 4 /* SSB_NO */ | 1ull << 5 /* MDS_NO */ | 1ull << 6 /* IF_PSCHANGE_MC_NO */ |               \
	 1ull << 8 /* TAA_NO */ | 1ull << 13 /* SBDR_SSDP_NO */ | 1ull << 14 /* FBSDP_NO */ |                \
	 1ull << 15 /* PSDP_NO */ | 1ull << 20 /* BHI_NO */ | 1ull << 24 /* PBRSB_NO */ |                    \
	 1ull << 26 /* GDS_NO */ | 1ull << 27 /* RFDS_NO */ | 1ull << 62 /* ITS_NO */)

static bool host_has(const struct feature *feature)
{
	uint32_t reg[4];

	if (!__get_cpuid_count(feature->leaf, feature->subleaf, &reg[EAX], &reg[EBX], &reg[ECX], &reg[EDX]))
		return false;
	return reg[feature->reg] >> feature->bit & 1;
}

/* Has the host's system enabled x87, SSE and AVX state in XCR0? */
static bool host_enables_avx(void)
{
	uint32_t eax, ebx, ecx, edx;

	if (!__get_cpuid(1, &eax, &ebx, &ecx, &edx) || !(ecx >> 27 & 1))
		return false;
	__asm__ volatile("xgetbv" : "=a"(eax), "=d"(edx) : "c"(0));
	return (eax & 7) == 7;
}

/* Why the host cannot carry a feature, or NULL where it can. */
static const char *cannot_carry(const struct feature *feature)
{
	if (feature->flags & HOST && !host_has(feature))
		return "this host's CPU does not have it";
	if (feature->flags & AVX_OS && !host_enables_avx())
		return "this host's system has not enabled AVX";
	return NULL;
}

static int feature_index(const char *name)
{
	for (size_t i = 0; i < sizeof(aliases) / sizeof(aliases[0]); i++)
		if (!strcasecmp(name, aliases[i].alias))
			name = aliases[i].name;
	for (size_t i = 0; i < FEATURES; i++)
		if (!strcasecmp(name, features[i].name))
			return (int)i;
	return -1;
}

static bool offered(const bool on[FEATURES], const char *name)
{
	return on[feature_index(name)];
}

/* ---- which features ---- */

static int start_with_model(bool on[FEATURES], const struct cpu_model_request *request)
{
	unsigned level = BEST;

	if (request->model && !strcmp(request->model, "x86-64-v2"))
		level = V2;
	else if (request->model && !strcmp(request->model, "x86-64-v3"))
		level = V3;
	else if (request->model && strcmp(request->model, "best"))
		return error_set(EINVAL, "unknown CPU model '%s': there are x86-64-v2 and x86-64-v3",
		                 request->model);

	for (size_t i = 0; i < FEATURES; i++) {
		const char *why = cannot_carry(&features[i]);

		on[i] = features[i].flags & level && (!why || level != BEST);
		if (on[i] && why)
			return error_set(EINVAL, "CPU model %s needs %s, but %s%s", request->model,
			                 features[i].name, why, level == V3 ? "; try --cpu x86-64-v2" : "");
	}
	on[feature_index("vmx")] = request->nested_vmx;
	on[feature_index("hypervisor")] = request->hypervisor_leaf;
	return 0;
}

/* One item of "+feature,-feature". */
static int apply_change(bool on[FEATURES], const char *item)
{
	int i = feature_index(item + 1);
	const char *why;

	if (*item != '+' && *item != '-')
		return error_set(EINVAL, "CPU feature '%s' needs a + or - before it", item);
	if (i < 0)
		return error_set(EINVAL, "unknown CPU feature '%s'", item + 1);
	if (*item == '-') {
		if (features[i].flags & CORE)
			return error_set(EINVAL, "CPU feature '%s' cannot be switched off", features[i].name);
		on[i] = false;
		return 0;
	}
	why = cannot_carry(&features[i]);
	if (why)
		return error_set(EINVAL, "CPU feature '%s': %s", features[i].name, why);
	on[i] = true;
	return 0;
}

static int apply_changes(bool on[FEATURES], const char *changes)
{
	while (changes && *changes) {
		size_t length = strcspn(changes, ",");
		char item[40];
		int error;

		if (length >= sizeof(item))
			return error_set(EINVAL, "unknown CPU feature '%.*s'", (int)length, changes);
		memcpy(item, changes, length);
		item[length] = 0;
		changes += length + (changes[length] == ',');
		if (!length)
			continue;
		error = apply_change(on, item);
		if (error)
			return error;
	}
	return 0;
}

/* True where the user's own list adds the feature. */
static bool asked_for(const char *changes, const struct feature *feature)
{
	for (; changes && *changes; changes += strcspn(changes, ","), changes += *changes == ',') {
		char item[40] = {0};
		size_t length = strcspn(changes, ",");

		if (*changes != '+' || length >= sizeof(item))
			continue;
		memcpy(item, changes + 1, length - 1);
		int i = feature_index(item);
		if (i >= 0 && &features[i] == feature)
			return true;
	}
	return false;
}

/* What rests on a missing feature goes too, unless it was asked for by name. Repeats until nothing changes.
 */
static int close_under_needs(bool on[FEATURES], const char *changes)
{
	for (bool changed = true; changed;) {
		changed = false;
		for (size_t i = 0; i < FEATURES; i++) {
			if (!on[i] || !features[i].needs || offered(on, features[i].needs))
				continue;
			if (asked_for(changes, &features[i]))
				return error_set(EINVAL, "CPU feature '%s' needs '%s'", features[i].name,
				                 features[i].needs);
			on[i] = false;
			changed = true;
		}
	}
	return 0;
}

/* ---- the leaves ---- */

static struct cpuid_leaf *add(struct cpu_model *model, uint32_t leaf, int subleaf)
{
	struct cpuid_leaf *added = &model->leaf[model->leaf_count++];

	*added = (struct cpuid_leaf){.leaf = leaf};
	if (subleaf >= 0) {
		added->subleaf = (uint32_t)subleaf;
		added->subleaf_matters = true;
	}
	return added;
}

static void add_text(struct cpu_model *model, uint32_t leaf, const char text[16])
{
	struct cpuid_leaf *l = add(model, leaf, -1);

	memcpy(&l->eax, text, 4);
	memcpy(&l->ebx, text + 4, 4);
	memcpy(&l->ecx, text + 8, 4);
	memcpy(&l->edx, text + 12, 4);
}

static unsigned log2_up(unsigned n)
{
	return n <= 1 ? 0 : 32 - (unsigned)__builtin_clz(n - 1);
}

/* SDM, Deterministic Cache Parameters. type: 1 data, 2 instruction, 3 unified. */
static void add_cache(struct cpu_model *model, int subleaf, unsigned type, unsigned level, unsigned ways,
                      unsigned sets, unsigned sharing)
{
	struct cpuid_leaf *l = add(model, 4, subleaf);
	unsigned cores = 1u << log2_up(model->cpu_count);

	l->eax =
	    type | level << 5 | 1u << 8 /* self-initializing */ | (sharing - 1) << 14 | (cores - 1) << 26;
	l->ebx = (64 - 1) | (ways - 1) << 22;
	l->ecx = sets - 1;
	l->edx = level == 3 ? 1u << 2 /* complex indexing */ : 0;
}

static void add_caches(struct cpu_model *model)
{
	unsigned package = 1u << log2_up(model->cpu_count);

	add_cache(model, 0, 1, 1, 8, 64, 1);           /* 32 KiB */
	add_cache(model, 1, 2, 1, 8, 64, 1);           /* 32 KiB */
	add_cache(model, 2, 3, 2, 16, 1024, 1);        /* 1 MiB */
	add_cache(model, 3, 3, 3, 16, 16384, package); /* 16 MiB */
}

/*
 * MONITOR and MWAIT exist, for guests that want them, but a halted vCPU should be in HLT, which lets the
 * host's CPU sleep until there is an event, whereas MWAIT has to look at memory now and then. Linux idles by
 * HLT where the extensions are announced (ECX bit 0) without any C1 sub-state (EDX).
 */
static void add_monitor(struct cpu_model *model)
{
	struct cpuid_leaf *l = add(model, 5, -1);

	l->eax = l->ebx = 64;
	l->ecx = 3; /* extensions; interrupts end MWAIT even when masked */
}

/* SDM, Extended Topology Enumeration: one thread per core, all cores in one package. EDX is the vCPU's. */
static void add_topology(struct cpu_model *model)
{
	struct cpuid_leaf *l = add(model, 0xb, 0);

	l->ebx = 1;
	l->ecx = 1 << 8;
	l = add(model, 0xb, 1);
	l->eax = log2_up(model->cpu_count);
	l->ebx = model->cpu_count;
	l->ecx = 2 << 8;
}

/* EBX of subleaves 0 and 1 depends on XCR0: the engine's part. */
static void add_xsave(struct cpu_model *model)
{
	bool avx = model->xcr0_supported & 4;
	struct cpuid_leaf *l = add(model, 0xd, 0);

	l->eax = (uint32_t)model->xcr0_supported;
	l->ecx = avx ? 832 : 576;
	add(model, 0xd, 1);
	if (avx) {
		l = add(model, 0xd, 2);
		l->eax = 256;
		l->ebx = 576;
	}
}

/* Not above this, so that Linux's kHz of the crystal times the numerator stay within 32 bits. */
#define NUMERATOR_MAX 4000

/*
 * SDM, TSC and Nominal Core Crystal Clock. Linux computes in whole kilohertz of the crystal times the ratio, in 32 bits,
 * so the crystal is chosen such that both are exact. It is the APIC timer's clock, too, which is 1 GHz under KVM and
 * which OVMF takes for that without asking: of the exact ones the crystal is the nearest to it.
 */
static void add_tsc(struct cpu_model *model)
{
	struct cpuid_leaf *l = add(model, 0x15, -1);
	uint64_t khz = model->tsc_hz / 1000, wanted = 1000000, best = UINT64_MAX;

	l->eax = 1;
	l->ebx = model->tsc_hz > UINT32_MAX ? 2 + (uint32_t)(model->tsc_hz >> 33) : 1;
	model->tsc_hz -= model->tsc_hz % l->ebx;
	l->ecx = (uint32_t)(model->tsc_hz / l->ebx);
	for (uint64_t n = 1; n <= NUMERATOR_MAX && model->tsc_hz % 1000 == 0; n++) {
		uint64_t d = (wanted * n + khz / 2) / khz, crystal, off;

		d = d ? d : 1;
		if (khz * d % n)
			continue;
		crystal = khz * d / n;
		off = crystal > wanted ? crystal - wanted : wanted - crystal;
		if (off >= best || crystal * n > UINT32_MAX)
			continue;
		best = off;
		l->eax = (uint32_t)d;
		l->ebx = (uint32_t)n;
		l->ecx = (uint32_t)(crystal * 1000);
	}

	l = add(model, 0x16, -1);
	l->eax = l->ebx = (uint32_t)(model->tsc_hz / 1000000);
	l->ecx = 100;
}

/*
 * KVM's signature with no feature at all. Without interrupt remapping Linux uses x2APIC mode (whose registers
 * cost an MSR access instead of a memory access) only under a hypervisor that it knows; KVM's is the name
 * that every guest knows, and an empty feature leaf promises nothing. 40000010H is the timing leaf that
 * hypervisors share.
 */
static void add_hypervisor(struct cpu_model *model)
{
	uint32_t tsc[4];
	struct cpuid_leaf *l = add(model, 0x40000000, -1);

	l->eax = 0x40000010;
	memcpy(&l->ebx, "KVMK", 4);
	memcpy(&l->ecx, "VMKV", 4);
	memcpy(&l->edx, "M\0\0\0", 4);
	add(model, 0x40000001, -1);
	cpu_model_cpuid(model, 0x15, 0, tsc);
	l = add(model, 0x40000010, -1);
	l->eax = (uint32_t)(model->tsc_hz / 1000);
	l->ebx = tsc[ECX] / 1000;
}

static void add_brand(struct cpu_model *model)
{
	char brand[48] = BRAND;

	for (unsigned i = 0; i < 3; i++)
		add_text(model, 0x80000002 + i, brand + 16 * i);
}

static void make_leaves(struct cpu_model *model)
{
	struct cpuid_leaf *l = add(model, 0, -1);

	l->eax = 0x16;
	memcpy(&l->ebx, "Genu", 4);
	memcpy(&l->edx, "ineI", 4);
	memcpy(&l->ecx, "ntel", 4);
	l = add(model, 1, -1);
	l->eax = SIGNATURE;
	l->ebx = 8u << 8 /* CLFLUSH line: 64 bytes */ | (1u << log2_up(model->cpu_count)) << 16;
	if (model->cpu_count > 1)
		l->edx = 1u << 28; /* HTT: more than one logical processor in the package */
	l = add(model, 7, 0);
	l->eax = 2; /* subleaves */
	add(model, 7, 2);
	add_xsave(model);
	l = add(model, 0x80000000, -1);
	l->eax = 0x80000008;
	add(model, 0x80000001, -1);
	l = add(model, 2, -1);
	l->eax = 0x00f0ff01; /* caches: see leaf 4; 64-byte prefetch */
	add_caches(model);
	add(model, 6, -1);
	add(model, 0xa, -1); /* no performance monitoring */
	add_topology(model);
	add_tsc(model);
	add_brand(model);
	l = add(model, 0x80000006, -1);
	l->ecx = 1024u << 16 | 8u << 12 /* 16 ways */ | 64;
	add(model, 0x80000007, -1);
	l = add(model, 0x80000008, -1);
	l->eax = model->physical_address_bits | 48u << 8;
	if (model->hypervisor_leaf)
		add_hypervisor(model);
}

static void set_bit(struct cpu_model *model, const struct feature *feature)
{
	for (unsigned i = 0; i < model->leaf_count; i++) {
		struct cpuid_leaf *l = &model->leaf[i];
		uint32_t *reg[] = {&l->eax, &l->ebx, &l->ecx, &l->edx};

		if (l->leaf == feature->leaf && (!l->subleaf_matters || l->subleaf == feature->subleaf))
			*reg[feature->reg] |= 1u << feature->bit;
	}
}

/* 40 bits serve a terabyte; a KVM engine cannot offer more than its host has. */
static unsigned address_bits(void)
{
	uint32_t eax, ebx, ecx, edx;

	if (__get_cpuid(0x80000008, &eax, &ebx, &ecx, &edx) && (eax & 0xff) >= 36 && (eax & 0xff) < 40)
		return eax & 0xff;
	return 40;
}

int cpu_model_make(struct cpu_model *model, const struct cpu_model_request *request)
{
	bool on[FEATURES];
	int error = start_with_model(on, request);

	if (!error)
		error = apply_changes(on, request->changes);
	if (!error)
		error = close_under_needs(on, request->changes);
	if (error)
		return error;
	if (request->tsc_hz && (request->tsc_hz < 10000000 || request->tsc_hz > 100000000000))
		return error_set(EINVAL, "a TSC of %llu Hz is out of range: 10 MHz to 100 GHz",
		                 (unsigned long long)request->tsc_hz);

	memset(model, 0, sizeof(*model));
	model->vmx = offered(on, "vmx");
	model->vmx_firmware = request->vmx_firmware;
	model->hypervisor_leaf = offered(on, "hypervisor");
	model->cpu_count = request->cpu_count ? request->cpu_count : 1;
	model->physical_address_bits = address_bits();
	model->tsc_hz = request->tsc_hz ? request->tsc_hz : (host_tsc_hz() + 500) / 1000 * 1000;
	if (offered(on, "arch_capabilities"))
		model->arch_capabilities = ARCH_CAPABILITIES;
	if (offered(on, "xsave"))
		model->xcr0_supported = offered(on, "avx") ? 7 : 3;
	make_leaves(model);
	if (offered(on, "monitor"))
		add_monitor(model);
	for (size_t i = 0; i < FEATURES; i++)
		if (on[i])
			set_bit(model, &features[i]);
	return 0;
}

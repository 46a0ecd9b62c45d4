/*
 * SDM, Checks on Guest Segment Registers: one row per rule and register.
 *
 * The rules are the same sentence for several registers. Their functions are made per register by macros, so
 * that a failed rule names the register and its fields.
 */
#include "engine/soft/vmx/entry_rules.h"

#define SECTION_SEGMENTS "Checks on Guest Segment Registers"

/* CS and TR are checked even where marked unusable; TR and LDTR also in virtual-8086 mode. */
static bool rights_matter(const struct vmcs *v, unsigned segment)
{
	if (segment == SEG_TR)
		return true;
	if (segment == SEG_LDTR)
		return segment_usable(v, segment);
	return !virtual_8086(v) && (segment == SEG_CS || segment_usable(v, segment));
}

static bool base_v86(const struct vmcs *v, unsigned segment)
{
	return !virtual_8086(v) || segment_base(v, segment) == segment_selector(v, segment) << 4;
}

static bool limit_v86(const struct vmcs *v, unsigned segment)
{
	return !virtual_8086(v) || segment_limit(v, segment) == 0xffff;
}

static bool rights_v86(const struct vmcs *v, unsigned segment)
{
	return !virtual_8086(v) || segment_rights(v, segment) == 0xf3;
}

static bool base_canonical(const struct vmcs *v, unsigned segment)
{
	return (segment == SEG_LDTR && !segment_usable(v, segment)) || is_canonical(segment_base(v, segment));
}

static bool base_32(const struct vmcs *v, unsigned segment)
{
	return (segment != SEG_CS && !segment_usable(v, segment)) || !(segment_base(v, segment) >> 32);
}

/* DS, ES, FS, GS: accessed, and readable where code. */
static bool type_data(const struct vmcs *v, unsigned segment)
{
	unsigned type = RIGHTS_TYPE(segment_rights(v, segment));

	return !rights_matter(v, segment) || ((type & 1) && (!(type & 8) || type & 2));
}

static bool code_or_data(const struct vmcs *v, unsigned segment)
{
	return !rights_matter(v, segment) || segment_rights(v, segment) & RIGHTS_S;
}

static bool system(const struct vmcs *v, unsigned segment)
{
	return !rights_matter(v, segment) || !(segment_rights(v, segment) & RIGHTS_S);
}

static bool dpl_data(const struct vmcs *v, unsigned segment)
{
	return !rights_matter(v, segment) || unrestricted(v) ||
	       RIGHTS_TYPE(segment_rights(v, segment)) > 11 ||
	       RIGHTS_DPL(segment_rights(v, segment)) >= (segment_selector(v, segment) & 3);
}

static bool present(const struct vmcs *v, unsigned segment)
{
	return !rights_matter(v, segment) || segment_rights(v, segment) & RIGHTS_P;
}

static bool reserved_low(const struct vmcs *v, unsigned segment)
{
	return !rights_matter(v, segment) || !(segment_rights(v, segment) & 0xf00);
}

static bool reserved_high(const struct vmcs *v, unsigned segment)
{
	return !rights_matter(v, segment) || !(segment_rights(v, segment) >> 17);
}

static bool granularity(const struct vmcs *v, unsigned segment)
{
	uint64_t l = segment_limit(v, segment);

	if (!rights_matter(v, segment))
		return true;
	return segment_rights(v, segment) & RIGHTS_G ? (l & 0xfff) == 0xfff : !(l >> 20);
}

HOLDS(tr_selector_ti)
{
	return !(segment_selector(v, SEG_TR) & 4);
}

HOLDS(ldtr_selector_ti)
{
	return !segment_usable(v, SEG_LDTR) || !(segment_selector(v, SEG_LDTR) & 4);
}

HOLDS(ss_rpl)
{
	return virtual_8086(v) || unrestricted(v) ||
	       (segment_selector(v, SEG_SS) & 3) == (segment_selector(v, SEG_CS) & 3);
}

HOLDS(cs_type)
{
	unsigned type = RIGHTS_TYPE(segment_rights(v, SEG_CS));

	return virtual_8086(v) || (type & 9) == 9 || (type == 3 && unrestricted(v));
}

HOLDS(ss_type)
{
	unsigned type = RIGHTS_TYPE(segment_rights(v, SEG_SS));

	return !rights_matter(v, SEG_SS) || type == 3 || type == 7;
}

HOLDS(cs_dpl)
{
	unsigned dpl = RIGHTS_DPL(segment_rights(v, SEG_CS)), ss_dpl = RIGHTS_DPL(segment_rights(v, SEG_SS));

	if (virtual_8086(v))
		return true;
	switch (RIGHTS_TYPE(segment_rights(v, SEG_CS))) {
	case 3:
		return dpl == 0;
	case 9:
	case 11:
		return dpl == ss_dpl;
	case 13:
	case 15:
		return dpl <= ss_dpl;
	default:
		return true;
	}
}

HOLDS(ss_dpl_rpl)
{
	return virtual_8086(v) || unrestricted(v) ||
	       RIGHTS_DPL(segment_rights(v, SEG_SS)) == (segment_selector(v, SEG_SS) & 3);
}

HOLDS(ss_dpl_zero)
{
	return virtual_8086(v) || (RIGHTS_TYPE(segment_rights(v, SEG_CS)) != 3 && F(GUEST_CR0) & CR0_PE) ||
	       RIGHTS_DPL(segment_rights(v, SEG_SS)) == 0;
}

HOLDS(cs_l_db)
{
	return virtual_8086(v) || !ia32e_guest(v) ||
	       (segment_rights(v, SEG_CS) & (RIGHTS_L | RIGHTS_DB)) != (RIGHTS_L | RIGHTS_DB);
}

HOLDS(tr_type)
{
	unsigned type = RIGHTS_TYPE(segment_rights(v, SEG_TR));

	return type == 11 || (type == 3 && !ia32e_guest(v));
}

HOLDS(tr_usable)
{
	return segment_usable(v, SEG_TR);
}

HOLDS(ldtr_type)
{
	return !segment_usable(v, SEG_LDTR) || RIGHTS_TYPE(segment_rights(v, SEG_LDTR)) == 2;
}

/* One rule about one register: a function and, in the table, its row. */
#define EACH_SIX(X, check)   X(ES, check) X(CS, check) X(SS, check) X(DS, check) X(FS, check) X(GS, check)
#define EACH_DATA(X, check)  X(ES, check) X(DS, check) X(FS, check) X(GS, check)
#define EACH_EIGHT(X, check) EACH_SIX(X, check) X(LDTR, check) X(TR, check)

#define FUNCTION(register, check)                                                                            \
	HOLDS(register##_##check)                                                                            \
	{                                                                                                    \
		return check(v, SEG_##register);                                                             \
	}

EACH_SIX(FUNCTION, base_v86)
EACH_SIX(FUNCTION, limit_v86)
EACH_SIX(FUNCTION, rights_v86)
FUNCTION(FS, base_canonical)
FUNCTION(GS, base_canonical)
FUNCTION(LDTR, base_canonical)
FUNCTION(TR, base_canonical)
FUNCTION(ES, base_32)
FUNCTION(CS, base_32)
FUNCTION(SS, base_32)
FUNCTION(DS, base_32)
EACH_DATA(FUNCTION, type_data)
EACH_SIX(FUNCTION, code_or_data)
FUNCTION(LDTR, system)
FUNCTION(TR, system)
EACH_DATA(FUNCTION, dpl_data)
EACH_EIGHT(FUNCTION, present)
EACH_EIGHT(FUNCTION, reserved_low)
EACH_EIGHT(FUNCTION, granularity)
EACH_EIGHT(FUNCTION, reserved_high)

#define ROW(register, check, sentence, ...)                                                                  \
	GUEST(SECTION_SEGMENTS, "guest " #register ": " sentence, register##_##check, ##__VA_ARGS__)
#define ROW_RIGHTS(register, check, sentence)                                                                \
	ROW(register, check, sentence, VMCS_GUEST_##register##_ACCESS_RIGHTS)
#define ROW_base_v86(register, check)                                                                        \
	ROW(register, check, "in virtual-8086 mode the base must be the selector times 16",                  \
	    VMCS_GUEST_RFLAGS, VMCS_GUEST_##register##_SELECTOR, VMCS_GUEST_##register##_BASE),
#define ROW_limit_v86(register, check)                                                                       \
	ROW(register, check, "in virtual-8086 mode the limit must be FFFFH", VMCS_GUEST_RFLAGS,              \
	    VMCS_GUEST_##register##_LIMIT),
#define ROW_rights_v86(register, check)                                                                      \
	ROW(register, check, "in virtual-8086 mode the access rights must be F3H", VMCS_GUEST_RFLAGS,        \
	    VMCS_GUEST_##register##_ACCESS_RIGHTS),
#define ROW_base_canonical(register, check)                                                                  \
	ROW(register, check, "the base must be canonical", VMCS_GUEST_##register##_BASE),
#define ROW_base_32(register, check)                                                                         \
	ROW(register, check, "bits 63:32 of the base must be 0", VMCS_GUEST_##register##_BASE,               \
	    VMCS_GUEST_##register##_ACCESS_RIGHTS),
#define ROW_type_data(register, check)                                                                       \
	ROW_RIGHTS(register, check, "the type must be accessed, and readable where it is code"),
#define ROW_code_or_data(register, check) ROW_RIGHTS(register, check, "S must be 1 (code or data)"),
#define ROW_system(register, check)       ROW_RIGHTS(register, check, "S must be 0 (system)"),
#define ROW_dpl_data(register, check)                                                                        \
	ROW(register, check, "DPL must not be less than the selector's RPL (data or non-conforming code)",   \
	    VMCS_GUEST_##register##_ACCESS_RIGHTS, VMCS_GUEST_##register##_SELECTOR,                         \
	    VMCS_SECONDARY_PROCESSOR_CONTROLS),
#define ROW_present(register, check) ROW_RIGHTS(register, check, "P must be 1"),
#define ROW_reserved_low(register, check)                                                                    \
	ROW_RIGHTS(register, check, "bits 11:8 of the access rights must be 0"),
#define ROW_granularity(register, check)                                                                     \
	ROW(register, check,                                                                                 \
	    "G must fit the limit: 0 where a bit of 11:0 is 0, 1 where a bit of 31:20 is 1",                 \
	    VMCS_GUEST_##register##_ACCESS_RIGHTS, VMCS_GUEST_##register##_LIMIT),
#define ROW_reserved_high(register, check)                                                                   \
	ROW_RIGHTS(register, check, "bits 31:17 of the access rights must be 0"),

/* clang-format off */
const struct vmx_rule vmx_segment_rules[] = {
	GUEST(SECTION_SEGMENTS,
	      "guest TR: TI of the selector must be 0",
	      tr_selector_ti, VMCS_GUEST_TR_SELECTOR),
	GUEST(SECTION_SEGMENTS,
	      "guest LDTR: TI of the selector must be 0 where LDTR is usable",
	      ldtr_selector_ti, VMCS_GUEST_LDTR_SELECTOR, VMCS_GUEST_LDTR_ACCESS_RIGHTS),
	GUEST(SECTION_SEGMENTS,
	      "guest SS: the selector's RPL must equal CS's outside virtual-8086 mode, without \"unrestricted guest\"",
	      ss_rpl, VMCS_GUEST_SS_SELECTOR, VMCS_GUEST_CS_SELECTOR, VMCS_SECONDARY_PROCESSOR_CONTROLS),
	EACH_SIX(ROW_base_v86, base_v86)
	ROW_base_canonical(TR, base_canonical)
	ROW_base_canonical(FS, base_canonical)
	ROW_base_canonical(GS, base_canonical)
	ROW_base_canonical(LDTR, base_canonical)
	ROW_base_32(CS, base_32)
	ROW_base_32(SS, base_32)
	ROW_base_32(DS, base_32)
	ROW_base_32(ES, base_32)
	EACH_SIX(ROW_limit_v86, limit_v86)
	EACH_SIX(ROW_rights_v86, rights_v86)
	GUEST(SECTION_SEGMENTS,
	      "guest CS: the type must be 9, 11, 13 or 15, or 3 with \"unrestricted guest\"",
	      cs_type, VMCS_GUEST_CS_ACCESS_RIGHTS, VMCS_SECONDARY_PROCESSOR_CONTROLS),
	GUEST(SECTION_SEGMENTS,
	      "guest SS: the type must be 3 or 7 where SS is usable",
	      ss_type, VMCS_GUEST_SS_ACCESS_RIGHTS),
	EACH_DATA(ROW_type_data, type_data)
	EACH_SIX(ROW_code_or_data, code_or_data)
	GUEST(SECTION_SEGMENTS,
	      "guest CS: DPL must be 0 for type 3, equal SS's DPL for types 9 and 11, and not exceed it for 13 and 15",
	      cs_dpl, VMCS_GUEST_CS_ACCESS_RIGHTS, VMCS_GUEST_SS_ACCESS_RIGHTS),
	GUEST(SECTION_SEGMENTS,
	      "guest SS: DPL must equal the selector's RPL without \"unrestricted guest\"",
	      ss_dpl_rpl, VMCS_GUEST_SS_ACCESS_RIGHTS, VMCS_GUEST_SS_SELECTOR, VMCS_SECONDARY_PROCESSOR_CONTROLS),
	GUEST(SECTION_SEGMENTS,
	      "guest SS: DPL must be 0 where CS's type is 3 or CR0.PE is 0",
	      ss_dpl_zero, VMCS_GUEST_SS_ACCESS_RIGHTS, VMCS_GUEST_CS_ACCESS_RIGHTS, VMCS_GUEST_CR0),
	EACH_DATA(ROW_dpl_data, dpl_data)
	EACH_SIX(ROW_present, present)
	EACH_SIX(ROW_reserved_low, reserved_low)
	GUEST(SECTION_SEGMENTS,
	      "guest CS: D/B must be 0 where L is 1 in an IA-32e mode guest",
	      cs_l_db, VMCS_GUEST_CS_ACCESS_RIGHTS, VMCS_VM_ENTRY_CONTROLS),
	EACH_SIX(ROW_granularity, granularity)
	EACH_SIX(ROW_reserved_high, reserved_high)
	GUEST(SECTION_SEGMENTS,
	      "guest TR: the type must be 11, or 3 outside an IA-32e mode guest",
	      tr_type, VMCS_GUEST_TR_ACCESS_RIGHTS, VMCS_VM_ENTRY_CONTROLS),
	ROW_system(TR, system)
	ROW_present(TR, present)
	ROW_reserved_low(TR, reserved_low)
	ROW_granularity(TR, granularity)
	GUEST(SECTION_SEGMENTS, "guest TR: it must not be unusable", tr_usable, VMCS_GUEST_TR_ACCESS_RIGHTS),
	ROW_reserved_high(TR, reserved_high)
	GUEST(SECTION_SEGMENTS,
	      "guest LDTR: the type must be 2 where LDTR is usable",
	      ldtr_type, VMCS_GUEST_LDTR_ACCESS_RIGHTS),
	ROW_system(LDTR, system)
	ROW_present(LDTR, present)
	ROW_reserved_low(LDTR, reserved_low)
	ROW_granularity(LDTR, granularity)
	ROW_reserved_high(LDTR, reserved_high)
};
/* clang-format on */

_Static_assert(sizeof(vmx_segment_rules) / sizeof(vmx_segment_rules[0]) == VMX_SEGMENT_RULES,
               "count them again");

/* Flat, present, writable and accessed, or unusable; its DPL not below its RPL. */
static bool data_ordinary(const struct vmcs *v, unsigned segment)
{
	uint64_t r = segment_rights(v, segment);

	return !segment_usable(v, segment) ||
	       ((r == 0xc093 || r == 0xc0f3) && segment_limit(v, segment) == 0xffffffff &&
	        RIGHTS_DPL(r) >= (segment_selector(v, segment) & 3));
}

/* A protected-mode guest on flat segments, whose CPL, RPLs and DPLs of CS and SS agree, and a busy 32- or
 * 64-bit TSS. */
bool vmx_segments_ordinary(const struct cpu *cpu, const struct vmcs *v)
{
	uint64_t cs = segment_rights(v, SEG_CS), ss = segment_rights(v, SEG_SS),
	         ldtr = segment_rights(v, SEG_LDTR);
	unsigned cpl = RIGHTS_DPL(ss);

	return !virtual_8086(v) && F(GUEST_CR0) & CR0_PE &&
	       ((cs & ~(uint64_t)0x60) == 0xa09b || (cs & ~(uint64_t)0x60) == 0xc09b) &&
	       segment_limit(v, SEG_CS) == 0xffffffff && RIGHTS_DPL(cs) == cpl &&
	       (segment_selector(v, SEG_CS) & 3) == cpl && (segment_selector(v, SEG_SS) & 3) == cpl &&
	       data_ordinary(v, SEG_SS) && data_ordinary(v, SEG_DS) && data_ordinary(v, SEG_ES) &&
	       data_ordinary(v, SEG_FS) && data_ordinary(v, SEG_GS) &&
	       !((segment_base(v, SEG_CS) | segment_base(v, SEG_SS) | segment_base(v, SEG_DS) |
	          segment_base(v, SEG_ES)) >>
	         32) &&
	       is_canonical(segment_base(v, SEG_FS)) && is_canonical(segment_base(v, SEG_GS)) &&
	       segment_rights(v, SEG_TR) == 0x8b && !(segment_limit(v, SEG_TR) >> 20) &&
	       !(segment_selector(v, SEG_TR) & 4) && is_canonical(segment_base(v, SEG_TR)) &&
	       (ldtr & RIGHTS_UNUSABLE ||
	        (ldtr == 0x82 && !(segment_limit(v, SEG_LDTR) >> 20) &&
	         !(segment_selector(v, SEG_LDTR) & 4) && is_canonical(segment_base(v, SEG_LDTR))));
}

/*
 * A hostile L1: fuzz_vmx_guest [--little-code-memory] [ROUNDS [SEED [SECONDS [FIRST]]]]. Each round makes a VMCS that
 * enters, then changes a few of its fields, EPT and page-table entries, bitmaps, MSR areas, the VMCS region's bytes and
 * L2's code at random, lets L1 enter it and resume it a few times, with interrupts and NMIs from another thread.
 * Passes when the engine neither crashes nor hangs nor trips a sanitizer; the guests may do as they please. The last
 * line counts what happened, since a fuzzer that never enters L2 would prove nothing. With FIRST, rounds begin there
 * and entries and exits are traced. With little code memory all is translated anew again and again.
 */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include "engine/cpu_model.h"
#include "engine/engine.h"
#include "engine/soft/vmx/controls.h"
#include "engine/soft/vmx/vmx.h"
#include "engine/vcpu_state.h"
#include "util/error.h"

enum vmcs_encoding {
#define VMCS_FIELD(name, encoding, width, type, group, word, bit) name = encoding,
#include "engine/soft/vmx/vmcs_fields.def"
#undef VMCS_FIELD
};

static const uint16_t all_fields[] = {
#define VMCS_FIELD(name, encoding, width, type, group, word, bit) encoding,
#include "engine/soft/vmx/vmcs_fields.def"
#undef VMCS_FIELD
};
#define FIELDS (sizeof(all_fields) / sizeof(all_fields[0]))

/* ---- guest-physical memory ---- */

#define RAM_SIZE (8u << 20)
enum {
	L1_PML4 = 0x1000,
	L1_PDPT = 0x2000,
	L1_PD = 0x3000,
	GDT = 0x4000,
	L1_IDT = 0x5000,
	L1_CODE = 0x6000,
	WRITES = 0x7000,
	REGISTERS = 0x9e00,
	PARAMETERS = 0x9f00,
	VMXON = 0xa000,
	VMCS = 0xb000,
	L1_STACK = 0xd000,
	L2_PML4 = 0x10000,
	L2_PDPT = 0x11000,
	L2_PD = 0x12000,
	L2_PT = 0x13000,
	EPT_PML4 = 0x14000,
	EPT_PDPT = 0x15000,
	EPT_PD = 0x16000,
	EPT_PT = 0x17000,
	IO_A = 0x18000,
	IO_B = 0x19000,
	MSR_BITMAP = 0x1a000,
	VIRTUAL_APIC = 0x1b000,
	APIC_ACCESS = 0x1c000,
	MSR_STORE = 0x1d000,
	MSR_LOAD = 0x1e000,
	MSR_ENTRY = 0x1f000,
	L2_IDT = 0x20000,
	L2_TSS = 0x21000,
	L2_CODE = 0x22000,
	L2_STACK = 0x24000,
	SHADOW_BITMAPS = 0x25000,
	SHADOW_VMCS = 0x27000,
	LOW_END = 0x28000,
};
#define WRITES_MAX 240

struct parameters { /* at PARAMETERS; L1's code knows the offsets */
	uint64_t vmxon, vmcs, write_count, resumes, type, entries, exit_reason, unused, descriptor[2];
};

static uint8_t *ram;
static struct guest_memory memory;
static struct engine_vm *vm;
static struct engine_vcpu *vcpu;
static volatile bool done, over;
static volatile unsigned long round_number;

/* L1: copied to L1_CODE. Entered for each round, at L1_CODE + (l1_exit - l1_start) after each VM exit. */
extern const uint8_t l1_start[], l1_exit[], l1_trap[], l1_end[];
__asm__(".pushsection .rodata\n"
        "l1_start:\n\t"
        "vmxon 0x9f00\n\t"
        "vmclear 0x9f08\n\t"
        "vmptrld 0x9f08\n\t"
        "mov 0x9f10, %rcx\n\t"
        "mov $0x7000, %esi\n"
        "1:\tmov (%rsi), %rax\n\t"
        "mov 8(%rsi), %rdx\n\t"
        "vmwrite %rax, %rdx\n\t"
        "add $16, %rsi\n\t"
        "dec %rcx\n\t"
        "jnz 1b\n\t"
        "mov 0x9f20, %rax\n\t"
        "invept 0x9f40, %rax\n\t"
        "mov 0x9f20, %rax\n\t"
        "invvpid 0x9f40, %rax\n\t"
        "mov 0x9e00, %rax\n\tmov 0x9e08, %rcx\n\tmov 0x9e10, %rdx\n\tmov 0x9e18, %rbx\n\t"
        "mov 0x9e28, %rbp\n\tmov 0x9e30, %rsi\n\tmov 0x9e38, %rdi\n\tmov 0x9e40, %r8\n\tmov 0x9e48, %r9\n\t"
        "mov 0x9e50, %r10\n\tmov 0x9e58, %r11\n\tmov 0x9e60, %r12\n\tmov 0x9e68, %r13\n\tmov 0x9e70, %r14\n\t"
        "mov 0x9e78, %r15\n\t"
        "vmlaunch\n"
        "l1_trap:\n\t"       /* failed, or an exception of L1 */
        "vmclear 0x9f08\n\t" /* so that the next round's region is read */
        "out %eax, $0xf4\n"
        "2:\tjmp 2b\n"
        "l1_exit:\n\t"
        "incq 0x9f28\n\t"
        "mov $0x4402, %eax\n\t"
        "vmread %rax, %rcx\n\t"
        "mov %rcx, 0x9f30\n\t"
        "decq 0x9f18\n\t"
        "js 3f\n\t"
        "mov $0x440c, %eax\n\t" /* over the instruction, where there is one */
        "vmread %rax, %rcx\n\t"
        "mov $0x681e, %eax\n\t"
        "vmread %rax, %rdx\n\t"
        "add %rcx, %rdx\n\t"
        "vmwrite %rdx, %rax\n\t"
        "vmresume\n"
        "3:\tjmp l1_trap\n"
        "l1_end:\n"
        ".popsection");

/* ---- randomness ---- */

static uint64_t state;

static uint64_t random64(void)
{
	state ^= state << 13;
	state ^= state >> 7;
	state ^= state << 17;
	return state * 0x2545f4914f6cdd1dull;
}

static unsigned below(unsigned n)
{
	return (unsigned)((random64() >> 32) * n >> 32);
}

static bool one_in(unsigned n)
{
	return below(n) == 0;
}

static uint64_t some_value(uint64_t old)
{
	switch (below(8)) {
	case 0:
		return random64();
	case 1:
		return below(16);
	case 2:
		return old ^ 1ull << below(64);
	case 3:
		return old ^ 1ull << below(32) ^ 1ull << below(32);
	case 4:
		return ~0ull >> below(64);
	case 5:
		return (uint64_t)below(LOW_END >> 12) << 12;
	case 6:
		return RAM_SIZE - 8 + below(16);
	default:
		return old + below(64) - 32;
	}
}

static uint64_t *at(uint64_t gpa)
{
	return (uint64_t *)(ram + gpa);
}

/* ---- the state that enters ---- */

static uint64_t fields[0x8000]; /* by encoding */
static struct {
	uint64_t pin, primary, secondary, exit, entry;
} capability;

static void set(uint32_t encoding, uint64_t value)
{
	fields[encoding] = value;
}

static uint64_t allowed(uint64_t msr, uint64_t wanted)
{
	return (wanted | (uint32_t)msr) & msr >> 32;
}

static void template_tables(void)
{
	memset(ram, 0, LOW_END);
	*at(L1_PML4) = L1_PDPT | 3;
	*at(L1_PDPT) = L1_PD | 3;
	*at(L2_PML4) = L2_PDPT | 7;
	*at(L2_PDPT) = L2_PD | 7;
	*at(EPT_PML4) = EPT_PDPT | 7;
	*at(EPT_PDPT) = EPT_PD | 7;
	for (uint64_t i = 0; i < 512; i++) {
		at(L1_PD)[i] = i << 21 | 0x83;
		at(L2_PD)[i] = i << 21 | 0x87;
		at(L2_PT)[i] = i << 12 | 7;
		at(EPT_PD)[i] = i << 21 | 0xb7;
		at(EPT_PT)[i] = i << 12 | 0x37;
	}
	at(L2_PD)[0] = L2_PT | 7;
	at(EPT_PD)[0] = EPT_PT | 7;
	at(GDT)[1] = 0x00af9b000000ffff;
	at(GDT)[2] = 0x00cf93000000ffff;
	at(GDT)[3] = 0x00cf9b000000ffff;
	at(GDT)[4] = 0x00affb000000ffff;
	at(GDT)[5] = 0x00cff3000000ffff;
	at(GDT)[6] = 0x00008b0000000067 | (uint64_t)L2_TSS << 16;
	for (unsigned i = 0; i < 256; i++) {
		uint64_t trap = L1_CODE + (uint64_t)(l1_trap - l1_start), l2 = L2_CODE + 16 * i;

		at(L1_IDT)[2 * i] = trap | 8ull << 16 | 0x8eull << 40;
		at(L2_IDT)[2 * i] =
		    (l2 & 0xffff) | 8ull << 16 | (one_in(8) ? 0xeeull : 0x8eull) << 40 | (l2 >> 16) << 48;
	}
	memcpy(ram + L1_CODE, l1_start, (size_t)(l1_end - l1_start));
	*(uint64_t *)(ram + L2_TSS + 4) = L2_STACK + 0xf00;
	memcpy(ram + VMXON, &(uint32_t){0}, 4);
}

static void template_fields(void)
{
	memset(fields, 0, sizeof(fields));
	set(PIN_BASED_CONTROLS, allowed(capability.pin, random64() & random64()));
	set(PRIMARY_PROCESSOR_CONTROLS,
	    allowed(capability.primary, (random64() & random64()) | CPU_ACTIVATE_SECONDARY_CONTROLS));
	set(SECONDARY_PROCESSOR_CONTROLS, allowed(capability.secondary, random64() & random64()));
	if (!(fields[PIN_BASED_CONTROLS] & PIN_NMI_EXITING))
		fields[PIN_BASED_CONTROLS] &= ~(uint64_t)PIN_VIRTUAL_NMIS;
	if (!(fields[PIN_BASED_CONTROLS] & PIN_VIRTUAL_NMIS))
		fields[PRIMARY_PROCESSOR_CONTROLS] &= ~(uint64_t)CPU_NMI_WINDOW_EXITING;
	if (fields[SECONDARY_PROCESSOR_CONTROLS] & CPU2_UNRESTRICTED_GUEST)
		fields[SECONDARY_PROCESSOR_CONTROLS] |= CPU2_ENABLE_EPT;
	if (fields[SECONDARY_PROCESSOR_CONTROLS] & CPU2_VIRTUALIZE_APIC_ACCESSES)
		fields[SECONDARY_PROCESSOR_CONTROLS] &= ~(uint64_t)CPU2_VIRTUALIZE_X2APIC_MODE;
	if (!(fields[PRIMARY_PROCESSOR_CONTROLS] & CPU_USE_TPR_SHADOW))
		fields[SECONDARY_PROCESSOR_CONTROLS] &= ~(uint64_t)CPU2_VIRTUALIZE_X2APIC_MODE;
	set(VM_EXIT_CONTROLS,
	    allowed(capability.exit, (random64() & EXIT_ACKNOWLEDGE_INTERRUPT) |
	                                 EXIT_HOST_ADDRESS_SPACE_SIZE | EXIT_LOAD_IA32_EFER |
	                                 EXIT_SAVE_IA32_EFER | EXIT_LOAD_IA32_PAT));
	set(VM_ENTRY_CONTROLS, allowed(capability.entry, ENTRY_IA32E_MODE_GUEST | ENTRY_LOAD_IA32_EFER |
	                                                     ENTRY_LOAD_DEBUG_CONTROLS));
	set(EXCEPTION_BITMAP, random64() & random64() & 0xffffffff);
	set(VPID, 1 + below(3));
	set(EPT_POINTER, EPT_PML4 | 0x1e | (one_in(2) ? 0x40 : 0));
	set(IO_BITMAP_A_ADDRESS, IO_A);
	set(IO_BITMAP_B_ADDRESS, IO_B);
	set(MSR_BITMAP_ADDRESS, MSR_BITMAP);
	set(VIRTUAL_APIC_ADDRESS, VIRTUAL_APIC);
	set(APIC_ACCESS_ADDRESS, APIC_ACCESS);
	set(VM_EXIT_MSR_STORE_ADDRESS, MSR_STORE);
	set(VM_EXIT_MSR_LOAD_ADDRESS, MSR_LOAD);
	set(VM_ENTRY_MSR_LOAD_ADDRESS, MSR_ENTRY);
	set(VMREAD_BITMAP_ADDRESS, SHADOW_BITMAPS);
	set(VMWRITE_BITMAP_ADDRESS, SHADOW_BITMAPS + 0x1000);
	set(VMCS_LINK_POINTER,
	    fields[SECONDARY_PROCESSOR_CONTROLS] & CPU2_VMCS_SHADOWING && one_in(2) ? SHADOW_VMCS : ~0ull);
	set(VMX_PREEMPTION_TIMER_VALUE, below(2000));
	set(PLE_WINDOW, below(100000));
	set(PLE_GAP, below(10000));

	set(HOST_CR0, 0x80000033);
	set(HOST_CR3, L1_PML4);
	set(HOST_CR4, 0x2620);
	for (unsigned i = HOST_ES_SELECTOR; i <= HOST_GS_SELECTOR; i += 2)
		set(i, 16);
	set(HOST_CS_SELECTOR, 8);
	set(HOST_TR_SELECTOR, 0x30);
	set(HOST_GDTR_BASE, GDT);
	set(HOST_IDTR_BASE, L1_IDT);
	set(HOST_IA32_EFER, 0xd01);
	set(HOST_IA32_PAT, 0x0007040600070406);
	set(HOST_RSP, L1_STACK);
	set(HOST_RIP, L1_CODE + (uint64_t)(l1_exit - l1_start));

	set(GUEST_CR0, 0x80000033);
	set(GUEST_CR3, L2_PML4);
	set(GUEST_CR4, 0x2620);
	for (unsigned i = 0; i < 6; i++) {
		set(GUEST_ES_SELECTOR + 2 * i, i == 1 ? 8 : 16);
		set(GUEST_ES_LIMIT + 2 * i, 0xffffffff);
		set(GUEST_ES_ACCESS_RIGHTS + 2 * i, i == 1 ? 0xa09b : 0xc093);
	}
	set(GUEST_LDTR_ACCESS_RIGHTS, 0x10000);
	set(GUEST_TR_SELECTOR, 0x30);
	set(GUEST_TR_BASE, L2_TSS);
	set(GUEST_TR_LIMIT, 0x67);
	set(GUEST_TR_ACCESS_RIGHTS, 0x8b);
	set(GUEST_GDTR_BASE, GDT);
	set(GUEST_GDTR_LIMIT, 0x37);
	set(GUEST_IDTR_BASE, L2_IDT);
	set(GUEST_IDTR_LIMIT, 0xfff);
	set(GUEST_DR7, 0x400);
	set(GUEST_RSP, L2_STACK + 0x800);
	set(GUEST_RIP, L2_CODE);
	set(GUEST_RFLAGS, one_in(2) ? 0x202 : 2);
	set(GUEST_IA32_EFER, 0xd01);
	set(GUEST_IA32_PAT, 0x0007040600070406);
}

/* Real, virtual-8086 and 32-bit protected mode, as far as the rules allow without knowing them all. */
static void other_mode(void)
{
	unsigned mode = below(4);

	if (mode == 0)
		return;
	fields[SECONDARY_PROCESSOR_CONTROLS] |= CPU2_ENABLE_EPT | CPU2_UNRESTRICTED_GUEST;
	fields[VM_ENTRY_CONTROLS] &= ~(uint64_t)ENTRY_IA32E_MODE_GUEST;
	set(GUEST_IA32_EFER, 0);
	set(GUEST_CR4, 0x2000);
	set(GUEST_CR0, mode == 1 ? 0x32 : 0x33);
	if (mode == 3) {
		set(GUEST_CS_ACCESS_RIGHTS, 0xc09b);
		if (one_in(2)) { /* PAE paging */
			set(GUEST_CR0, 0x80000033);
			set(GUEST_CR4, 0x2020);
			set(GUEST_PDPTE0, L2_PD | 1);
		}
		return;
	}
	set(GUEST_RIP, 0);
	set(GUEST_RSP, 0x800);
	for (unsigned i = 0; i < 6; i++) {
		set(GUEST_ES_SELECTOR + 2 * i, L2_CODE >> 4);
		set(GUEST_ES_BASE + 2 * i, L2_CODE);
		set(GUEST_ES_LIMIT + 2 * i, 0xffff);
		set(GUEST_ES_ACCESS_RIGHTS + 2 * i, mode == 2 ? 0xf3 : i == 1 ? 0x9b : 0x93);
	}
	if (mode == 2)
		fields[GUEST_RFLAGS] |= 1 << 17;
}

/* ---- damage ---- */

static void damage_table(uint64_t gpa, unsigned entries)
{
	for (unsigned n = below(4); n; n--) {
		unsigned i = one_in(2) ? below(entries) : below(40) % entries;

		at(gpa)[i] = some_value(at(gpa)[i]);
	}
}

static void fill_random(uint64_t gpa, unsigned size, unsigned sparse)
{
	for (unsigned i = 0; i < size; i += 8) {
		uint64_t value = random64();

		for (unsigned s = 0; s < sparse; s++)
			value &= random64();
		*at(gpa + i) = value;
	}
}

/* Instructions that reach the engine's C code; random bytes stand between them. */
static const struct {
	uint8_t size, bytes[10];
} snippets[] = {
    {2, {0x0f, 0xa2}},
    {1, {0xf4}},
    {2, {0x0f, 0x08}},
    {2, {0x0f, 0x09}},
    {3, {0x0f, 0x01, 0xc1}},
    {3, {0x0f, 0x01, 0xc2}},
    {3, {0x0f, 0x01, 0xc3}},
    {3, {0x0f, 0x01, 0xc4}},
    {3, {0x0f, 0x01, 0xc8}},
    {3, {0x0f, 0x01, 0xc9}},
    {3, {0x0f, 0x01, 0xd1}},
    {3, {0x0f, 0x01, 0xd0}},
    {3, {0x0f, 0x01, 0xf9}},
    {3, {0x0f, 0x01, 0xf8}},
    {2, {0x0f, 0x31}},
    {2, {0x0f, 0x32}},
    {2, {0x0f, 0x30}},
    {2, {0x0f, 0x33}},
    {3, {0x0f, 0x20, 0xc0}},
    {3, {0x0f, 0x22, 0xc0}},
    {3, {0x0f, 0x20, 0xd8}},
    {3, {0x0f, 0x22, 0xd8}},
    {3, {0x0f, 0x22, 0xe0}},
    {3, {0x0f, 0x20, 0xe0}},
    {4, {0x44, 0x0f, 0x22, 0xc0}},
    {4, {0x44, 0x0f, 0x20, 0xc0}},
    {3, {0x0f, 0x23, 0xf8}},
    {3, {0x0f, 0x21, 0xf0}},
    {3, {0x0f, 0x01, 0x3b}},
    {3, {0x0f, 0x01, 0x13}},
    {3, {0x0f, 0x01, 0x1b}},
    {3, {0x0f, 0x01, 0x03}},
    {3, {0x0f, 0x01, 0x0b}},
    {3, {0x0f, 0x00, 0x13}},
    {3, {0x0f, 0x00, 0x1b}},
    {3, {0x0f, 0x00, 0xc0}},
    {3, {0x0f, 0x01, 0xf0}},
    {2, {0x0f, 0x06}},
    {2, {0xf3, 0x90}},
    {1, {0xfb}},
    {1, {0xfa}},
    {1, {0xcf}},
    {2, {0x48, 0xcf}},
    {1, {0xcc}},
    {1, {0xf1}},
    {2, {0xcd, 0x80}},
    {1, {0x9d}},
    {1, {0x9c}},
    {1, {0xcb}},
    {2, {0x8e, 0xd0}},
    {2, {0x8e, 0xd8}},
    {2, {0x8e, 0xe0}},
    {2, {0xe6, 0x80}},
    {2, {0xe4, 0x60}},
    {1, {0xef}},
    {1, {0xed}},
    {2, {0xf3, 0x6c}},
    {2, {0xf3, 0x6f}},
    {2, {0xf3, 0xa4}},
    {2, {0xf3, 0xab}},
    {3, {0xf3, 0x48, 0xa5}},
    {2, {0xf3, 0xae}},
    {3, {0x0f, 0x78, 0xc8}},
    {3, {0x0f, 0x79, 0xc8}},
    {3, {0x0f, 0x78, 0x0b}},
    {3, {0x0f, 0xc7, 0x33}},
    {4, {0x66, 0x0f, 0xc7, 0x33}},
    {4, {0xf3, 0x0f, 0xc7, 0x33}},
    {3, {0x0f, 0xc7, 0x3b}},
    {5, {0x66, 0x0f, 0x38, 0x80, 0x0b}},
    {5, {0x66, 0x0f, 0x38, 0x81, 0x0b}},
    {5, {0x66, 0x0f, 0x38, 0x82, 0x0b}},
    {3, {0x0f, 0xc7, 0xf0}},
    {3, {0x0f, 0xc7, 0xf8}},
    {3, {0x0f, 0xae, 0x03}},
    {3, {0x0f, 0xae, 0x0b}},
    {3, {0x0f, 0xae, 0x23}},
    {3, {0x0f, 0xae, 0x2b}},
    {3, {0x0f, 0xc7, 0x2b}},
    {3, {0x0f, 0xc7, 0x1b}},
    {2, {0x0f, 0x05}},
    {2, {0x0f, 0x34}},
    {2, {0x0f, 0x35}},
    {3, {0x48, 0x0f, 0x07}},
    {3, {0x48, 0x89, 0x03}},
    {3, {0x48, 0x8b, 0x03}},
    {4, {0xf0, 0x48, 0x01, 0x03}},
    {5, {0xf0, 0x48, 0x0f, 0xc7, 0x0b}},
    {2, {0xff, 0xe3}},
    {2, {0xff, 0xd3}},
    {2, {0xff, 0x2b}},
    {2, {0xff, 0x1b}},
    {1, {0xc3}},
    {2, {0xeb, 0xfe}},
    {2, {0xeb, 0x10}},
    {1, {0x50}},
    {1, {0x5c}},
    {3, {0x0f, 0xae, 0xf0}},
    {2, {0xd9, 0x03}},
    {3, {0x0f, 0x58, 0x03}},
    {2, {0x0f, 0x77}},
    {2, {0xdb, 0xe3}},
    {1, {0x9b}},
    {5, {0xb8, 0x00, 0x20, 0x02, 0x00}},
    {5, {0xb9, 0x10, 0x00, 0x00, 0x00}},
    {5, {0xb9, 0x80, 0x00, 0x00, 0xc0}},
    {5, {0xb9, 0x08, 0x08, 0x00, 0x00}},
};
#define SNIPPETS (sizeof(snippets) / sizeof(snippets[0]))

static void make_code(void)
{
	unsigned offset = 0;
	bool wild = one_in(4);

	while (offset < 0x1fe0) {
		if (wild && one_in(3)) {
			ram[L2_CODE + offset++] = (uint8_t)random64();
			continue;
		}
		unsigned i = below(SNIPPETS);

		memcpy(ram + L2_CODE + offset, snippets[i].bytes, snippets[i].size);
		offset += snippets[i].size;
	}
	memset(ram + L2_CODE + 0x1ff0, 0xf4, 16);
}

static void make_registers(void)
{
	for (unsigned i = 0; i < 16; i++)
		at(REGISTERS)[i] = one_in(3) ? some_value(0) : below(LOW_END);
	at(REGISTERS)[REG_RCX] = one_in(2) ? below(4096) : below(64) + 0x170;
	at(REGISTERS)[REG_RBX] = below(LOW_END);
}

static void make_msr_area(uint64_t gpa, uint32_t count_field)
{
	static const uint32_t known[] = {0x174,      0x175,      0x176,      0xc0000080, 0xc0000081,
	                                 0xc0000082, 0xc0000084, 0xc0000100, 0xc0000102, 0x277,
	                                 0x10,       0x3a,       0x1b,       0x808,      0x1d9,
	                                 0x38f,      0x6e0,      0xda0,      0x200,      0x2ff};

	if (!one_in(4))
		return;
	set(count_field, one_in(8) ? below(1000000) : below(6));
	for (unsigned i = 0; i < 8; i++) {
		at(gpa)[2 * i] = one_in(8) ? random64() : known[below(sizeof(known) / sizeof(known[0]))];
		at(gpa)[2 * i + 1] = one_in(3) ? random64() : below(256);
	}
}

static void damage_fields(void)
{
	static const unsigned counts[] = {0, 0, 0, 0, 0, 1, 1, 2, 5, 40};

	for (unsigned n = counts[below(10)]; n; n--) {
		unsigned encoding = all_fields[below(FIELDS)];

		/* A broken host state ends the round, so that is rare. */
		if ((encoding >> 10 & 3) == 3 && !one_in(8))
			continue;
		set(encoding, some_value(fields[encoding]));
	}
	if (one_in(16)) {
		set(VM_ENTRY_INTERRUPTION_INFORMATION,
		    0x80000000 | below(8) << 8 | below(one_in(2) ? 32 : 256) | (one_in(3) ? 1 << 11 : 0));
		set(VM_ENTRY_INSTRUCTION_LENGTH, below(17));
		set(VM_ENTRY_EXCEPTION_ERROR_CODE, below(0x10000));
	}
	if (one_in(24))
		set(GUEST_ACTIVITY_STATE, below(5));
	if (one_in(24))
		set(GUEST_INTERRUPTIBILITY_STATE, below(16));
	if (one_in(24))
		set(GUEST_PENDING_DEBUG_EXCEPTIONS, random64() & 0x500f);
	if (one_in(24))
		fields[GUEST_RFLAGS] ^= 0x100;
	if (one_in(24))
		set(CR0_GUEST_HOST_MASK, random64());
	if (one_in(24))
		set(CR4_GUEST_HOST_MASK, random64());
}

/* What L1 writes: each field of the template in random order of nothing in particular, then it enters. */
static void make_writes(void)
{
	uint64_t *list = at(WRITES);
	unsigned count = 0;

	for (unsigned i = 0; i < FIELDS && count < WRITES_MAX; i++) {
		if (one_in(2000))
			continue; /* what the region's bytes say */
		list[2 * count] = fields[all_fields[i]];
		list[2 * count + 1] = all_fields[i];
		count++;
	}
	while (count < WRITES_MAX && one_in(2)) {
		list[2 * count] = random64();
		list[2 * count + 1] = one_in(2) ? random64() : below(0x8000);
		if ((list[2 * count + 1] >> 10 & 3) == 3)
			continue;
		count++;
	}
	((struct parameters *)at(PARAMETERS))->write_count = count;
}

static void make_round(uint32_t revision)
{
	struct parameters *p = (struct parameters *)at(PARAMETERS);

	template_tables();
	template_fields();
	if (one_in(3))
		other_mode();
	damage_fields();
	make_msr_area(MSR_STORE, VM_EXIT_MSR_STORE_COUNT);
	make_msr_area(MSR_ENTRY, VM_ENTRY_MSR_LOAD_COUNT);
	if (one_in(8))
		make_msr_area(MSR_LOAD, VM_EXIT_MSR_LOAD_COUNT);
	damage_table(L2_PT, 512);
	damage_table(EPT_PT, 512);
	if (one_in(4)) {
		damage_table(EPT_PD, 512);
		damage_table(EPT_PDPT, 2);
		damage_table(L2_PD, 512);
		damage_table(L2_PDPT, 2);
	}
	if (one_in(8))
		damage_table(L2_IDT, 512);
	if (one_in(8))
		damage_table(GDT, 7);
	fill_random(IO_A, 8192, below(4));
	fill_random(MSR_BITMAP, 4096, below(4));
	fill_random(VIRTUAL_APIC, 4096, below(4));
	fill_random(SHADOW_BITMAPS, 8192, below(3));
	fill_random(VMCS, 4096, below(3));
	fill_random(SHADOW_VMCS, 4096, below(3));
	*(uint32_t *)(ram + VMXON) = revision;
	*(uint32_t *)(ram + VMCS) = revision;
	*(uint32_t *)(ram + SHADOW_VMCS) = revision | (one_in(8) ? 0 : 1u << 31);
	make_code();
	make_registers();
	*p = (struct parameters){.vmxon = VMXON,
	                         .vmcs = VMCS,
	                         .resumes = below(12),
	                         .type = below(5),
	                         .descriptor = {one_in(2) ? EPT_PML4 | 0x1e : some_value(1), some_value(0)}};
	if (one_in(50))
		p->vmcs = some_value(VMCS);
	make_writes();
}

/* ---- the machine around it ---- */

static uint32_t pio_read(void *context, uint16_t port, unsigned size)
{
	return UINT32_MAX;
}

static void pio_write(void *context, uint16_t port, unsigned size, uint32_t value)
{
	if (port != 0xf4)
		return;
	done = true;
	engine_soft.vcpu_kick(vcpu);
}

static uint64_t mmio_read(void *context, gpa_t gpa, unsigned size)
{
	return UINT64_MAX;
}

static void mmio_write(void *context, gpa_t gpa, unsigned size, uint64_t value)
{
}

static int acknowledge(void *context)
{
	return -1;
}

static void eoi(void *context, uint8_t vector)
{
}

static void timer_arm(void *context, unsigned vcpu_index, uint64_t deadline_ns)
{
}

static uint64_t clock_ns(void *context)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * 1000000000 + (uint64_t)now.tv_nsec;
}

static const struct engine_host host = {
    .memory = &memory,
    .pio_read = pio_read,
    .pio_write = pio_write,
    .mmio_read = mmio_read,
    .mmio_write = mmio_write,
    .interrupt_acknowledge = acknowledge,
    .eoi = eoi,
    .timer_arm = timer_arm,
    .clock_ns = clock_ns,
};

#define HANG_SECONDS 20

/* Ends rounds that run too long, and annoys them with interrupts meanwhile. */
static void *disturb(void *unused)
{
	unsigned long seen = 0, ticks = 0, total = 0;

	while (!over) {
		usleep(500);
		total++;
		if (round_number != seen) {
			seen = round_number;
			ticks = 0;
		}
		ticks++;
		engine_soft.vcpu_timer_expired(vcpu);
		if (total % 3 == 0)
			engine_soft.deliver_msi(vm, 0xfee00000, 0x40 + total % 64);
		if (total % 7 == 0)
			engine_soft.inject_nmi(vm, 0);
		if (ticks > 4)
			engine_soft.vcpu_kick(vcpu);
		if (ticks > HANG_SECONDS * 2000ul) {
			fprintf(stderr, "fuzz_vmx_guest: round %lu hangs\n", seen);
			abort();
		}
	}
	return NULL;
}

static void start_l1(void)
{
	struct vcpu_state s = {.rip = L1_CODE,
	                       .rflags = 2,
	                       .cr0 = 0x80000033,
	                       .cr3 = L1_PML4,
	                       .cr4 = 0x2620,
	                       .efer = 0xd01,
	                       .gdtr = {GDT, 0x37},
	                       .idtr = {L1_IDT, 0xfff}};

	for (unsigned i = 0; i < 6; i++)
		s.seg[i] = (struct segment){.limit = UINT32_MAX,
		                            .rights = i == SEG_CS ? 0xa09b : 0xc093,
		                            .selector = i == SEG_CS ? 8 : 16};
	s.seg[SEG_LDTR].rights = RIGHTS_UNUSABLE;
	s.seg[SEG_TR] = (struct segment){.base = L2_TSS, .limit = 0x67, .rights = 0x8b, .selector = 0x30};
	s.gpr[REG_RSP] = L1_STACK;
	s.dr[6] = 0xffff0ff0;
	s.dr[7] = 0x400;
	engine_soft.vcpu_set_state(vcpu, &s);
}

static struct cpu_model model;
static size_t code_memory; /* 0: the default */

static bool create(bool trace)
{
	static struct engine_config config = {
	    .host = &host, .cpu_model = &model, .clock = ENGINE_CLOCK_REAL, .cpu_count = 1};
	struct cpu_model_request request = {.cpu_count = 1, .nested_vmx = true};

	config.code_memory = code_memory;
	config.trace = trace ? ENGINE_TRACE_VMX : 0;
	ram = mmap(NULL, RAM_SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	memory.slot[0] = (struct guest_memory_slot){.gpa = 0, .size = RAM_SIZE, .host = ram};
	memory.slot_count = 1;
	if (ram == MAP_FAILED || cpu_model_make(&model, &request) < 0 ||
	    engine_soft.vm_create(&vm, &config) < 0 || engine_soft.vcpu_create(vm, 0, &vcpu) < 0) {
		fprintf(stderr, "fuzz_vmx_guest: %s\n", error_text());
		return false;
	}
	return true;
}

int main(int argc, char **argv)
{
	bool little = argc > 1 && !strcmp(argv[1], "--little-code-memory");

	argc -= little;
	argv += little;
	code_memory = little ? 2 * ENGINE_CODE_MEMORY_MIN : 0; /* in two parts */

	unsigned long rounds = argc > 1 ? strtoul(argv[1], NULL, 0) : 20000, entered = 0, exits = 0,
	              failed = 0, shutdowns = 0, cut = 0;
	uint64_t seed = argc > 2 ? strtoull(argv[2], NULL, 0) : 1, reasons = 0, basic;
	double seconds = argc > 3 ? strtod(argv[3], NULL) : 20;
	uint64_t end = clock_ns(NULL) + (uint64_t)(seconds * 1e9);
	pthread_t thread;

	if (!create(argc > 4))
		return 2;
	round_number = argc > 4 ? strtoul(argv[4], NULL, 0) : 0;
	vmx_read_capability(&model, MSR_IA32_VMX_BASIC, &basic);
	vmx_read_capability(&model, MSR_IA32_VMX_TRUE_PINBASED_CTLS, &capability.pin);
	vmx_read_capability(&model, MSR_IA32_VMX_TRUE_PROCBASED_CTLS, &capability.primary);
	vmx_read_capability(&model, MSR_IA32_VMX_PROCBASED_CTLS2, &capability.secondary);
	vmx_read_capability(&model, MSR_IA32_VMX_TRUE_EXIT_CTLS, &capability.exit);
	vmx_read_capability(&model, MSR_IA32_VMX_TRUE_ENTRY_CTLS, &capability.entry);
	pthread_create(&thread, NULL, disturb, NULL);
	done = false;
	for (; round_number < rounds && clock_ns(NULL) < end; round_number++) {
		const struct parameters *p = (const struct parameters *)at(PARAMETERS);
		enum engine_exit exit;

		/* Each round from its own number, so that one can be repeated alone. */
		state = (seed << 32) + round_number * 0x9e3779b97f4a7c15ull + 1;
		random64();
		make_round((uint32_t)basic);
		if (!done)
			engine_soft.vcpu_reset(vcpu);
		start_l1();
		done = false;
		exit = engine_soft.vcpu_run(vcpu);
		if (exit == ENGINE_EXIT_ERROR) {
			fprintf(stderr, "fuzz_vmx_guest: round %lu: %s\n", round_number, error_text());
			return 1;
		}
		shutdowns += exit == ENGINE_EXIT_SHUTDOWN;
		cut += exit == ENGINE_EXIT_KICKED && !done;
		if (p->entries && p->entries < 100 && !(p->exit_reason >> 31)) {
			entered++;
			exits += p->entries;
			reasons |= 1ull << (p->exit_reason & 63);
		} else {
			failed++;
		}
	}
	over = true;
	pthread_join(thread, NULL);
	printf(
	    "%lu rounds: %lu entered L2 (%lu exits, %d reasons), %lu did not, %lu shut down, %lu cut short\n",
	    round_number, entered, exits, __builtin_popcountll(reasons), failed, shutdowns, cut);
	engine_soft.vm_destroy(vm);
	return entered * 5 < round_number;
}

/*
 * A tiny hypervisor for freestanding test guests: VMXON, a VMCS from a template, EPT, and one L2 whose code
 * is a stub of the same program. The L2 of the template is a 64-bit guest at CPL 0 on tables of its own that
 * map the first gigabyte to itself, with an IDT whose handlers leave by VMCALL (l2_vector tells which).
 *
 * Field encodings and control bits are named by the headers of src/engine/soft/vmx/, whose numbers a unit
 * test compares with the SDM's.
 */
#ifndef GUESTS_VMX_H
#define GUESTS_VMX_H

#include <stdbool.h>
#include <stdint.h>

#include "engine/soft/vmx/controls.h"

enum vmcs_encoding {
#define VMCS_FIELD(name, encoding, width, type, group, word, bit) name = encoding,
#include "engine/soft/vmx/vmcs_fields.def"
#undef VMCS_FIELD
};

/* What a VMX instruction left in RFLAGS (SDM, Conventions). */
enum vmx_result { VM_SUCCEED = 0, VM_FAIL_INVALID = 1, VM_FAIL_VALID = 0x40 };

#define VMX_FLAGS(flags) ((enum vmx_result)((flags)&0x8d5))

#define VMX_MEMORY_INSTRUCTION(name)                                                                         \
	static inline enum vmx_result name(uint64_t address)                                                 \
	{                                                                                                    \
		uint64_t flags;                                                                              \
                                                                                                             \
		__asm__ volatile(#name " %1\n\tpushfq\n\tpopq %0"                                            \
		                 : "=r"(flags)                                                               \
		                 : "m"(address)                                                              \
		                 : "cc", "memory");                                                          \
		return VMX_FLAGS(flags);                                                                     \
	}

VMX_MEMORY_INSTRUCTION(vmxon)
VMX_MEMORY_INSTRUCTION(vmclear)
VMX_MEMORY_INSTRUCTION(vmptrld)

#define VMX_PLAIN_INSTRUCTION(name)                                                                          \
	static inline enum vmx_result name(void)                                                             \
	{                                                                                                    \
		uint64_t flags;                                                                              \
                                                                                                             \
		__asm__ volatile(#name "\n\tpushfq\n\tpopq %0" : "=r"(flags) : : "cc", "memory");            \
		return VMX_FLAGS(flags);                                                                     \
	}

VMX_PLAIN_INSTRUCTION(vmxoff)
VMX_PLAIN_INSTRUCTION(vmcall)
VMX_PLAIN_INSTRUCTION(vmlaunch)
VMX_PLAIN_INSTRUCTION(vmresume)

static inline uint64_t vmptrst(void)
{
	uint64_t address;

	__asm__ volatile("vmptrst %0" : "=m"(address) : : "cc");
	return address;
}

static inline enum vmx_result vmread_status(uint64_t encoding, uint64_t *value)
{
	uint64_t flags;

	__asm__ volatile("vmread %2, %1\n\tpushfq\n\tpopq %0"
	                 : "=r"(flags), "=r"(*value)
	                 : "r"(encoding)
	                 : "cc");
	return VMX_FLAGS(flags);
}

static inline uint64_t vmread(uint64_t encoding)
{
	uint64_t value = ~0ull;

	__asm__ volatile("vmread %1, %0" : "=r"(value) : "r"(encoding) : "cc");
	return value;
}

static inline enum vmx_result vmwrite(uint64_t encoding, uint64_t value)
{
	uint64_t flags;

	__asm__ volatile("vmwrite %1, %2\n\tpushfq\n\tpopq %0"
	                 : "=r"(flags)
	                 : "r"(value), "r"(encoding)
	                 : "cc", "memory");
	return VMX_FLAGS(flags);
}

struct vmx_descriptor {
	uint64_t low, high;
};

static inline enum vmx_result invept(uint64_t type, uint64_t eptp, uint64_t reserved)
{
	struct vmx_descriptor descriptor = {eptp, reserved};
	uint64_t flags;

	__asm__ volatile("invept %1, %2\n\tpushfq\n\tpopq %0"
	                 : "=r"(flags)
	                 : "m"(descriptor), "r"(type)
	                 : "cc", "memory");
	return VMX_FLAGS(flags);
}

static inline enum vmx_result invvpid(uint64_t type, uint64_t vpid, uint64_t linear)
{
	struct vmx_descriptor descriptor = {vpid, linear};
	uint64_t flags;

	__asm__ volatile("invvpid %1, %2\n\tpushfq\n\tpopq %0"
	                 : "=r"(flags)
	                 : "m"(descriptor), "r"(type)
	                 : "cc", "memory");
	return VMX_FLAGS(flags);
}

/* ---- one L2 ---- */

/* L2's registers, by the hardware's numbers; [4] (RSP) is the VMCS's. Loaded at entry, saved at exit. */
extern uint64_t l2[16];
enum { RAX, RCX, RDX, RBX, RSP, RBP, RSI, RDI, R8, R9, R10, R11, R12, R13, R14, R15 };

extern uint8_t vmcs_region[4096], vmxon_region[4096];
extern uint8_t io_bitmap_a[4096], io_bitmap_b[4096], msr_bitmap[4096];
extern uint8_t virtual_apic[4096], apic_access[4096];
extern uint64_t msr_area[3][512]; /* exit store, exit load, entry load */

/* Stubs of L2 code. One per use: the text stands in the program's own code. */
#define L2(name, text)                                                                                       \
	extern const uint8_t name[];                                                                         \
	__asm__(".pushsection .text\n\t.balign 16\n" #name ":\n\t" text "\n\t.popsection")

/* Enters VMX operation: CR4.VMXE, fixed bits, VMXON. */
void vmx_start(void);

/*
 * Makes a fresh VMCS current: cleared, with the template in every field, GUEST_RIP at `code`, nothing
 * intercepted but what always is, and 64-bit L2 state. The bitmaps are cleared, l2[] is zeroed, the L2's and
 * the EPT tables are as at the start.
 */
void vmx_fresh(const void *code);

/* What vmx_run returned where entry failed with VMfailValid: the VM-instruction error with this bit. */
#define RUN_FAILED  (1u << 30)
#define RUN_INVALID (RUN_FAILED | 0xffff)

/* VMLAUNCH (first) or VMRESUME. Returns the exit reason (bit 31 included), or RUN_FAILED | error. */
uint32_t vmx_run(void);
/* The same of a VMCS that is clear: always VMLAUNCH. */
uint32_t vmx_run_first(void);

/* vmx_fresh and vmx_run. */
uint32_t vmx_try(const void *code);

/* Moves RIP over the instruction that exited. */
void vmx_skip(void);

void vmx_set(uint64_t encoding, uint64_t bits);   /* or */
void vmx_clear(uint64_t encoding, uint64_t bits); /* and not */
void vmx_secondary(uint32_t bits);                /* activates the secondary controls and sets bits in them */

/* Are these bits allowed-1 in the capability MSR? */
bool vmx_offers(uint32_t msr, uint32_t bits);

/* L2's CPL 3, with the stack and TSS to come back. */
void vmx_user(void);
/* L2 in 32-bit protected mode without paging (needs unrestricted guest), real mode at 0000:1000H (the same),
 * or virtual-8086 mode there. `code` is copied to 1000H. */
void vmx_real(const void *code, unsigned size);
void vmx_virtual_8086(const void *code, unsigned size);
void vmx_protected_32(const void *code, unsigned size);

/* ---- L2's linear memory: 0-1 GiB to itself; L2_WINDOW: 512 pages, entries in l2_window ---- */
#define L2_WINDOW 0x40000000ull
extern uint64_t l2_window[512];
extern uint64_t l2_pml4[512], l2_pdpt[512], l2_pd[512];
extern uint8_t l2_stack[8192] __attribute__((aligned(4096)));
extern uint64_t l2_idt[512];
extern uint8_t l2_tss[104];

void l2_gate(unsigned vector, const void *handler, unsigned type);

/* The handlers of l2_idt: VMCALL with RAX = the vector and the frame at RSP (error code first, if any). */
bool l2_took(uint32_t reason, unsigned vector);
/* The frame's qword: 0 the first one pushed last. */
uint64_t l2_frame(unsigned index);

/* ---- EPT ---- */
#define EPT_R          1ull
#define EPT_W          2ull
#define EPT_X          4ull
#define EPT_WB         (6ull << 3)
#define EPT_RWX_WB     (EPT_R | EPT_W | EPT_X | EPT_WB)
#define EPT_LARGE_PAGE (1ull << 7)
#define EPT_ACCESSED   (1ull << 8)
#define EPT_DIRTY      (1ull << 9)
extern uint64_t ept_pml4[512], ept_pdpt[512], ept_pd[512];
/* Turns EPT on: the first gigabyte to itself by 2 MiB pages. */
void vmx_ept(uint64_t eptp_flags);
uint64_t ept_pointer(uint64_t eptp_flags);
/* The 4 KiB entry of guest-physical address gpa (its 2 MiB page is split). */
uint64_t *ept_entry(uint64_t gpa);

/* A page of memory for L2's tests, page-aligned, not used by anything else. */
extern uint8_t l2_page[4][4096];

#endif

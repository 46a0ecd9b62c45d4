#include "vmx.h"

#include "runtime/guest.h"

#define PAGE __attribute__((aligned(4096)))

uint64_t l2[16];
PAGE uint8_t vmcs_region[4096], vmxon_region[4096], io_bitmap_a[4096], io_bitmap_b[4096], msr_bitmap[4096];
PAGE uint8_t virtual_apic[4096], apic_access[4096], l2_page[4][4096], l2_stack[8192];
PAGE uint64_t l2_pml4[512], l2_pdpt[512], l2_pd[512], l2_window[512], l2_idt[512];
PAGE uint64_t ept_pml4[512], ept_pdpt[512], ept_pd[512];
PAGE uint64_t msr_area[3][512];
uint8_t l2_tss[104];

#define EPT_SPLITS 16
static PAGE uint64_t ept_pt[EPT_SPLITS][512];
static unsigned ept_splits;
static bool launched;

/* ---- entering ---- */

uint64_t vmx_switch(uint64_t is_resume);
/*
 * RDI: resume? L1's registers wait on its stack, which VM exit restores. Returns 0, or RFLAGS where the
 * instruction failed.
 */
__asm__(".pushsection .text\n"
        "vmx_switch:\n\t"
        "push %rbx\n\tpush %rbp\n\tpush %r12\n\tpush %r13\n\tpush %r14\n\tpush %r15\n\t"
        "mov $0x6c14, %eax\n\t" /* HOST_RSP */
        "vmwrite %rsp, %rax\n\t"
        "test %rdi, %rdi\n\t"
        "mov l2+0, %rax\n\tmov l2+8, %rcx\n\tmov l2+16, %rdx\n\tmov l2+24, %rbx\n\t"
        "mov l2+40, %rbp\n\tmov l2+48, %rsi\n\tmov l2+56, %rdi\n\t"
        "mov l2+64, %r8\n\tmov l2+72, %r9\n\tmov l2+80, %r10\n\tmov l2+88, %r11\n\t"
        "mov l2+96, %r12\n\tmov l2+104, %r13\n\tmov l2+112, %r14\n\tmov l2+120, %r15\n\t"
        "jnz 1f\n\t"
        "vmlaunch\n\t"
        "jmp 2f\n"
        "1:\tvmresume\n"
        "2:\tpushfq\n\tpop %rax\n\t"
        "jmp 3f\n"
        ".globl vmx_exit_point\n"
        "vmx_exit_point:\n\t"
        "mov %rax, l2+0\n\tmov %rcx, l2+8\n\tmov %rdx, l2+16\n\tmov %rbx, l2+24\n\t"
        "mov %rbp, l2+40\n\tmov %rsi, l2+48\n\tmov %rdi, l2+56\n\t"
        "mov %r8, l2+64\n\tmov %r9, l2+72\n\tmov %r10, l2+80\n\tmov %r11, l2+88\n\t"
        "mov %r12, l2+96\n\tmov %r13, l2+104\n\tmov %r14, l2+112\n\tmov %r15, l2+120\n\t"
        "xor %eax, %eax\n"
        "3:\tpop %r15\n\tpop %r14\n\tpop %r13\n\tpop %r12\n\tpop %rbp\n\tpop %rbx\n\t"
        "ret\n"
        ".popsection");
extern const uint8_t vmx_exit_point[];

uint32_t vmx_run(void)
{
	uint64_t flags = vmx_switch(launched);

	if (flags & VM_FAIL_INVALID)
		return RUN_INVALID;
	if (flags & VM_FAIL_VALID)
		return RUN_FAILED | (uint32_t)vmread(VM_INSTRUCTION_ERROR);
	if (!(vmread(EXIT_REASON) & EXIT_REASON_ENTRY_FAILURE))
		launched = true;
	return (uint32_t)vmread(EXIT_REASON);
}

uint32_t vmx_run_first(void)
{
	launched = false;
	return vmx_run();
}

void vmx_skip(void)
{
	vmwrite(GUEST_RIP, vmread(GUEST_RIP) + vmread(VM_EXIT_INSTRUCTION_LENGTH));
}

void vmx_set(uint64_t encoding, uint64_t bits)
{
	vmwrite(encoding, vmread(encoding) | bits);
}

void vmx_clear(uint64_t encoding, uint64_t bits)
{
	vmwrite(encoding, vmread(encoding) & ~bits);
}

void vmx_secondary(uint32_t bits)
{
	vmx_set(PRIMARY_PROCESSOR_CONTROLS, CPU_ACTIVATE_SECONDARY_CONTROLS);
	vmx_set(SECONDARY_PROCESSOR_CONTROLS, bits);
}

bool vmx_offers(uint32_t msr, uint32_t bits)
{
	return (rdmsr(msr) >> 32 & bits) == bits;
}

void vmx_start(void)
{
	uint32_t revision = (uint32_t)rdmsr(MSR_IA32_VMX_BASIC);

	memcpy(vmxon_region, &revision, 4);
	write_cr0((read_cr0() | rdmsr(MSR_IA32_VMX_CR0_FIXED0)) & rdmsr(MSR_IA32_VMX_CR0_FIXED1));
	write_cr4((read_cr4() | rdmsr(MSR_IA32_VMX_CR4_FIXED0)) & rdmsr(MSR_IA32_VMX_CR4_FIXED1));
	if (vmxon((uint64_t)vmxon_region) != VM_SUCCEED) {
		print("VMXON failed\n");
		finish(3);
	}
}

/* ---- L2's own tables ---- */

/* Handlers of l2_idt: RAX = the vector, then VMCALL with the frame at RSP. */
extern const uint8_t l2_handlers[];
__asm__(".pushsection .text\n"
        ".balign 16\n"
        "l2_handlers:\n"
        ".set vector, 0\n"
        ".rept 256\n"
        ".balign 16\n"
        "mov $vector, %eax\n\t"
        "vmcall\n\t"
        "hlt\n"
        ".set vector, vector + 1\n"
        ".endr\n"
        ".popsection");

void l2_gate(unsigned vector, const void *handler, unsigned type)
{
	uint64_t offset = (uint64_t)handler;

	l2_idt[2 * vector] =
	    (offset & 0xffff) | (uint64_t)CODE64 << 16 | (uint64_t)type << 40 | (offset >> 16 & 0xffff) << 48;
	l2_idt[2 * vector + 1] = offset >> 32;
}

bool l2_took(uint32_t reason, unsigned vector)
{
	uint64_t rip = vmread(GUEST_RIP);

	return reason == EXIT_REASON_VMCALL && (uint32_t)l2[RAX] == vector &&
	       rip - (uint64_t)l2_handlers - 16 * vector < 16;
}

uint64_t l2_frame(unsigned index)
{
	return ((uint64_t *)vmread(GUEST_RSP))[index];
}

static void make_tables(void)
{
	uint64_t stack = (uint64_t)l2_stack + sizeof(l2_stack);

	memset(l2_pml4, 0, 4096);
	memset(l2_pdpt, 0, 4096);
	memset(l2_window, 0, 4096);
	l2_pml4[0] = (uint64_t)l2_pdpt | 7;
	l2_pdpt[0] = (uint64_t)l2_pd | 7;
	l2_pdpt[1] = (uint64_t)(runtime_pd + 512) | 7; /* L1's tables: 1 GiB to itself, but for the window */
	l2_pdpt[3] = (uint64_t)(runtime_pd + 3 * 512) | 7;
	runtime_pd[512] = (uint64_t)l2_window | 7;
	for (uint64_t i = 0; i < 512; i++)
		l2_pd[i] = i << 21 | 0xe7;
	for (unsigned i = 0; i < 256; i++)
		l2_gate(i, l2_handlers + 16 * i, 0x8e);
	memset(l2_tss, 0, sizeof(l2_tss));
	memcpy(l2_tss + 4, &stack, 8);
	l2_tss[102] = 0x68; /* no I/O permission bitmap */
	memset(ept_pml4, 0, 4096);
	memset(ept_pdpt, 0, 4096);
	ept_pml4[0] = (uint64_t)ept_pdpt | EPT_R | EPT_W | EPT_X;
	ept_pdpt[0] = (uint64_t)ept_pd | EPT_R | EPT_W | EPT_X;
	ept_pdpt[3] = 3ull << 30 | EPT_RWX_WB | EPT_LARGE_PAGE;
	for (uint64_t i = 0; i < 512; i++)
		ept_pd[i] = i << 21 | EPT_RWX_WB | EPT_LARGE_PAGE;
	ept_splits = 0;
}

/* ---- the template ---- */

static uint32_t adjust(uint32_t msr, uint32_t wanted)
{
	uint64_t capability = rdmsr(msr);

	return (wanted | (uint32_t)capability) & (uint32_t)(capability >> 32);
}

static void template_controls(void)
{
	vmwrite(PIN_BASED_CONTROLS, adjust(MSR_IA32_VMX_TRUE_PINBASED_CTLS, 0));
	vmwrite(PRIMARY_PROCESSOR_CONTROLS,
	        adjust(MSR_IA32_VMX_TRUE_PROCBASED_CTLS,
	               CPU_USE_MSR_BITMAPS | CPU_USE_IO_BITMAPS | CPU_ACTIVATE_SECONDARY_CONTROLS));
	vmwrite(SECONDARY_PROCESSOR_CONTROLS, 0);
	vmwrite(VM_EXIT_CONTROLS,
	        adjust(MSR_IA32_VMX_TRUE_EXIT_CTLS, EXIT_HOST_ADDRESS_SPACE_SIZE | EXIT_SAVE_DEBUG_CONTROLS |
	                                                EXIT_SAVE_IA32_EFER | EXIT_LOAD_IA32_EFER |
	                                                EXIT_SAVE_IA32_PAT | EXIT_LOAD_IA32_PAT));
	vmwrite(VM_ENTRY_CONTROLS,
	        adjust(MSR_IA32_VMX_TRUE_ENTRY_CTLS, ENTRY_IA32E_MODE_GUEST | ENTRY_LOAD_DEBUG_CONTROLS |
	                                                 ENTRY_LOAD_IA32_EFER | ENTRY_LOAD_IA32_PAT));
	vmwrite(IO_BITMAP_A_ADDRESS, (uint64_t)io_bitmap_a);
	vmwrite(IO_BITMAP_B_ADDRESS, (uint64_t)io_bitmap_b);
	vmwrite(MSR_BITMAP_ADDRESS, (uint64_t)msr_bitmap);
	vmwrite(VM_EXIT_MSR_STORE_ADDRESS, (uint64_t)msr_area[0]);
	vmwrite(VM_EXIT_MSR_LOAD_ADDRESS, (uint64_t)msr_area[1]);
	vmwrite(VM_ENTRY_MSR_LOAD_ADDRESS, (uint64_t)msr_area[2]);
	vmwrite(VIRTUAL_APIC_ADDRESS, (uint64_t)virtual_apic);
	vmwrite(APIC_ACCESS_ADDRESS, (uint64_t)apic_access);
	vmwrite(EPT_POINTER, ept_pointer(0));
	vmwrite(VPID, 1);
	vmwrite(VMCS_LINK_POINTER, ~0ull);
}

static void template_host(void)
{
	struct __attribute__((packed)) {
		uint16_t limit;
		uint64_t base;
	} gdtr, idtr;

	__asm__ volatile("sgdt %0\n\tsidt %1" : "=m"(gdtr), "=m"(idtr));
	vmwrite(HOST_CR0, read_cr0());
	vmwrite(HOST_CR3, read_cr3());
	vmwrite(HOST_CR4, read_cr4());
	vmwrite(HOST_ES_SELECTOR, DATA);
	vmwrite(HOST_CS_SELECTOR, CODE64);
	vmwrite(HOST_SS_SELECTOR, DATA);
	vmwrite(HOST_DS_SELECTOR, DATA);
	vmwrite(HOST_FS_SELECTOR, DATA);
	vmwrite(HOST_GS_SELECTOR, DATA);
	vmwrite(HOST_TR_SELECTOR, TSS);
	vmwrite(HOST_TR_BASE, (uint64_t)runtime_tss);
	vmwrite(HOST_GDTR_BASE, gdtr.base);
	vmwrite(HOST_IDTR_BASE, idtr.base);
	vmwrite(HOST_FS_BASE, 0);
	vmwrite(HOST_GS_BASE, 0);
	vmwrite(HOST_IA32_EFER, rdmsr(0xc0000080));
	vmwrite(HOST_IA32_PAT, rdmsr(0x277));
	vmwrite(HOST_RIP, (uint64_t)vmx_exit_point);
}

static void segment(unsigned index, uint16_t selector, uint64_t base, uint32_t limit, uint32_t rights)
{
	vmwrite(GUEST_ES_SELECTOR + 2 * index, selector);
	vmwrite(GUEST_ES_BASE + 2 * index, base);
	vmwrite(GUEST_ES_LIMIT + 2 * index, limit);
	vmwrite(GUEST_ES_ACCESS_RIGHTS + 2 * index, rights);
}

static void template_guest(const void *code)
{
	vmwrite(GUEST_CR0, read_cr0());
	vmwrite(GUEST_CR3, (uint64_t)l2_pml4);
	vmwrite(GUEST_CR4, read_cr4());
	vmwrite(CR0_READ_SHADOW, read_cr0());
	vmwrite(CR4_READ_SHADOW, read_cr4());
	for (unsigned i = 0; i < 6; i++)
		segment(i, DATA, 0, 0xffffffff, 0xc093);
	segment(1, CODE64, 0, 0xffffffff, 0xa09b);
	segment(6, 0, 0, 0xffff, 0x10000);
	segment(7, TSS, (uint64_t)l2_tss, 0x67, 0x8b);
	vmwrite(GUEST_GDTR_BASE, (uint64_t)runtime_gdt);
	vmwrite(GUEST_GDTR_LIMIT, 0xff);
	vmwrite(GUEST_IDTR_BASE, (uint64_t)l2_idt);
	vmwrite(GUEST_IDTR_LIMIT, 0xfff);
	vmwrite(GUEST_DR7, 0x400);
	vmwrite(GUEST_RSP, (uint64_t)l2_stack + sizeof(l2_stack));
	vmwrite(GUEST_RIP, (uint64_t)code);
	vmwrite(GUEST_RFLAGS, 2);
	vmwrite(GUEST_IA32_EFER, rdmsr(0xc0000080));
	vmwrite(GUEST_IA32_PAT, rdmsr(0x277));
}

void vmx_fresh(const void *code)
{
	uint32_t revision = (uint32_t)rdmsr(MSR_IA32_VMX_BASIC);

	vmclear((uint64_t)vmcs_region);
	memset(vmcs_region, 0, sizeof(vmcs_region));
	memcpy(vmcs_region, &revision, 4);
	vmclear((uint64_t)vmcs_region);
	if (vmptrld((uint64_t)vmcs_region) != VM_SUCCEED) {
		print("VMPTRLD failed\n");
		finish(3);
	}
	for (uint64_t e = 0; e < 0x6c18; e += e % 0x400 == 0x3e ? 0x400 - 0x3e : 2)
		vmwrite(e, 0);
	memset(l2, 0, sizeof(l2));
	memset(io_bitmap_a, 0, 4096);
	memset(io_bitmap_b, 0, 4096);
	memset(msr_bitmap, 0, 4096);
	memset(virtual_apic, 0, 4096);
	memset(apic_access, 0, 4096);
	memset(msr_area, 0, sizeof(msr_area));
	memset(l2_page, 0, sizeof(l2_page));
	make_tables();
	template_controls();
	template_host();
	template_guest(code);
	launched = false;
	invept(2, 0, 0);
	invvpid(2, 0, 0);
}

uint32_t vmx_try(const void *code)
{
	vmx_fresh(code);
	return vmx_run();
}

/* ---- other modes ---- */

void vmx_user(void)
{
	for (unsigned i = 0; i < 6; i++)
		segment(i, USERDATA, 0, 0xffffffff, 0xc0f3);
	segment(1, USER64, 0, 0xffffffff, 0xa0fb);
	vmwrite(GUEST_RSP, (uint64_t)l2_page[3] + 4096);
}

static void outside_ia32e(void)
{
	vmx_clear(VM_ENTRY_CONTROLS, ENTRY_IA32E_MODE_GUEST);
	vmwrite(GUEST_IA32_EFER, 0);
	vmwrite(GUEST_RIP, 0x1000);
}

static void real_segments(uint32_t rights)
{
	for (unsigned i = 0; i < 6; i++)
		segment(i, 0, 0, 0xffff, rights);
	vmwrite(GUEST_RSP, 0x8000);
}

void vmx_real(const void *code, unsigned size)
{
	memcpy((void *)0x1000, code, size);
	vmx_ept(0);
	vmx_secondary(CPU2_UNRESTRICTED_GUEST);
	outside_ia32e();
	vmwrite(GUEST_CR0, read_cr0() & ~0x80000001ull);
	vmwrite(CR0_READ_SHADOW, read_cr0() & ~0x80000001ull);
	vmwrite(GUEST_CR4, 0x2000);
	real_segments(0x93);
	segment(1, 0, 0, 0xffff, 0x9b);
	vmwrite(GUEST_IDTR_BASE, 0);
	vmwrite(GUEST_IDTR_LIMIT, 0x3ff);
}

void vmx_virtual_8086(const void *code, unsigned size)
{
	memcpy((void *)0x1000, code, size);
	outside_ia32e();
	vmx_ept(0);
	vmx_secondary(CPU2_UNRESTRICTED_GUEST);
	vmwrite(GUEST_CR0, read_cr0() & ~0x80000000ull);
	vmwrite(GUEST_CR4, 0x2000);
	real_segments(0xf3);
	vmwrite(GUEST_RFLAGS, 0x20002);
}

void vmx_protected_32(const void *code, unsigned size)
{
	memcpy((void *)0x1000, code, size);
	vmx_ept(0);
	vmx_secondary(CPU2_UNRESTRICTED_GUEST);
	outside_ia32e();
	vmwrite(GUEST_CR0, read_cr0() & ~0x80000000ull);
	vmwrite(GUEST_CR4, 0x2000);
	segment(1, CODE32, 0, 0xffffffff, 0xc09b);
	vmwrite(GUEST_RSP, 0x8000);
}

/* ---- EPT ---- */

uint64_t ept_pointer(uint64_t eptp_flags)
{
	return (uint64_t)ept_pml4 | 6 | 3 << 3 | eptp_flags;
}

void vmx_ept(uint64_t eptp_flags)
{
	vmwrite(EPT_POINTER, ept_pointer(eptp_flags));
	vmx_secondary(CPU2_ENABLE_EPT);
}

uint64_t *ept_entry(uint64_t gpa)
{
	uint64_t *pde = &ept_pd[gpa >> 21 & 511];

	if (*pde & EPT_LARGE_PAGE) {
		uint64_t *table = ept_pt[ept_splits++ % EPT_SPLITS];

		for (uint64_t i = 0; i < 512; i++)
			table[i] = (gpa & ~0x1fffffull) | i << 12 | EPT_RWX_WB;
		*pde = (uint64_t)table | EPT_R | EPT_W | EPT_X;
	}
	return (uint64_t *)(*pde & ~0xfffull) + (gpa >> 12 & 511);
}

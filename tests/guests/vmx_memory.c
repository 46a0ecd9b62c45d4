/*
 * EPT, VPID, unrestricted guest, and the APIC-access and virtual-APIC pages (SDM, VMX Support for Address
 * Translation; APIC Virtualization and Virtual Interrupts).
 */
#include "runtime/guest.h"
#include "vmx.h"

#define READ         1ull
#define WRITE        2ull
#define FETCH        4ull
#define RIGHTS(r)    ((r) << 3)
#define LINEAR_VALID (1ull << 7)
#define LINEAR       (1ull << 8)
/* Advanced information (bits 11:9) where it is offered; NMI unblocking apart. */
#define QUALIFICATION_MASK 0x1bf

L2(load, "mov (%rbx), %rax\n\tvmcall");
L2(store, "mov %rax, (%rbx)\n\tvmcall");
L2(jump, "jmp *%rbx\n\tvmcall");
L2(load_store_load, "mov (%rbx), %rax\n\tmov %rcx, (%rbx)\n\tmov (%rbx), %rdx\n\tvmcall");
L2(modify, "lock addq $1, (%rbx)\n\tvmcall");
L2(load_twice, "mov (%rbx), %rax\n\tvmcall\n\tmov (%rbx), %rcx\n\tvmcall");

static const uint8_t vmcall_bytes[] = {0x0f, 0x01, 0xc1};

static void violation(uint64_t qualification, uint64_t physical, uint64_t linear)
{
	CHECK_EQ(vmx_run(), EXIT_REASON_EPT_VIOLATION);
	CHECK_EQ(vmread(EXIT_QUALIFICATION) & QUALIFICATION_MASK, qualification);
	CHECK_EQ(vmread(GUEST_PHYSICAL_ADDRESS), physical);
	CHECK_EQ(vmread(GUEST_LINEAR_ADDRESS), linear);
	CHECK_EQ(vmread(IDT_VECTORING_INFORMATION) >> 31, 0);
}

/* L2 at `code` with RBX at page 0 + 16, whose EPT entry has these rights. */
static uint64_t *setup(const uint8_t *code, uint64_t rights, uint64_t eptp_flags)
{
	uint64_t *entry;

	vmx_fresh(code);
	vmx_ept(eptp_flags);
	entry = ept_entry((uint64_t)l2_page[0]);
	*entry = (*entry & ~7ull) | rights;
	l2[RBX] = (uint64_t)l2_page[0] + 16;
	memcpy(l2_page[0] + 16, vmcall_bytes, 3);
	return entry;
}

static void violations(void)
{
	static const struct {
		const uint8_t *code;
		uint64_t access;
	} kind[] = {{load, READ}, {store, WRITE}, {jump, FETCH}};
	static const uint64_t rights[] = {
	    0, EPT_R, EPT_X, EPT_R | EPT_W, EPT_R | EPT_X, EPT_R | EPT_W | EPT_X};
	uint64_t address = (uint64_t)l2_page[0] + 16;

	rule("EPT violations: access, rights, addresses, for each access and each combination of rights");
	for (unsigned k = 0; k < 3; k++)
		for (unsigned r = 0; r < sizeof(rights) / sizeof(rights[0]); r++) {
			setup(kind[k].code, rights[r], 0);
			if (rights[r] & kind[k].access) {
				CHECK_EQ(vmx_run(), EXIT_REASON_VMCALL);
				continue;
			}
			violation(kind[k].access | RIGHTS(rights[r]) | LINEAR_VALID | LINEAR, address,
			          address);
			CHECK_EQ(vmread(GUEST_RIP),
			         kind[k].access == FETCH ? address : (uint64_t)kind[k].code);
			CHECK_EQ(vmread(GUEST_RFLAGS) & 0x10000, 0x10000);
		}

	rule("EPT violation of a read-modify-write");
	setup(modify, EPT_R, 0);
	CHECK_EQ(vmx_run(), EXIT_REASON_EPT_VIOLATION);
	CHECK_EQ(vmread(EXIT_QUALIFICATION) & WRITE, WRITE);
	CHECK_EQ(*(uint64_t *)(l2_page[0] + 24), 0);

	rule("EPT violation: the rights are those of the whole path");
	setup(store, EPT_R | EPT_W, 0);
	ept_pdpt[0] &= ~EPT_W;
	CHECK_EQ(vmx_run(), EXIT_REASON_EPT_VIOLATION);
	ept_pdpt[0] |= EPT_W;

	rule("EPT violation of a page walk: not bit 8; the entry's address, the access's linear address");
	vmx_fresh(load);
	vmx_ept(0);
	l2[RBX] = L2_WINDOW + 0x3008;
	l2_window[3] = (uint64_t)l2_page[0] | 7;
	*ept_entry((uint64_t)l2_window) = 0;
	violation(READ | LINEAR_VALID, (uint64_t)l2_window + 3 * 8, L2_WINDOW + 0x3008);

	rule("beyond what the tables map");
	vmx_fresh(load);
	vmx_ept(0);
	l2_window[3] = 0x7f0000000ull | 7;
	l2[RBX] = L2_WINDOW + 0x3000;
	violation(READ | LINEAR_VALID | LINEAR, 0x7f0000000ull, L2_WINDOW + 0x3000);

	rule("an access over two pages reports the page that lacks the right");
	vmx_fresh(load);
	vmx_ept(0);
	*ept_entry((uint64_t)l2_page[1]) = 0;
	l2[RBX] = (uint64_t)l2_page[1] - 3;
	violation(READ | LINEAR_VALID | LINEAR, (uint64_t)l2_page[1], (uint64_t)l2_page[1]);
	rule("a store over two pages whose second lacks the right writes nothing");
	vmx_fresh(store);
	vmx_ept(0);
	*ept_entry((uint64_t)l2_page[1]) &= ~EPT_W;
	l2[RBX] = (uint64_t)l2_page[1] - 3;
	l2[RAX] = ~0ull;
	CHECK_EQ(vmx_run(), EXIT_REASON_EPT_VIOLATION);
	CHECK_EQ(l2_page[0][4095], 0);

	rule("L2's own page fault comes before EPT");
	vmx_fresh(load);
	vmx_ept(0);
	l2[RBX] = L2_WINDOW + 0x5000;
	CHECK(l2_took(vmx_run(), 14));
}

static void misconfigurations(void)
{
	static const uint64_t bad[] = {
	    EPT_W | EPT_WB, EPT_W | EPT_X | EPT_WB, EPT_R | 2 << 3,
	    EPT_R | 3 << 3, EPT_R | 7 << 3,         EPT_RWX_WB | 1ull << 51,
	};
	uint64_t address = (uint64_t)l2_page[0] + 16, *entry;

	rule("EPT misconfigurations of a 4 KiB entry");
	for (unsigned i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		entry = setup(load, 0, 0);
		*entry = ((uint64_t)l2_page[0] & ~0xfffull) | bad[i];
		CHECK_EQ(vmx_run(), EXIT_REASON_EPT_MISCONFIGURATION);
		CHECK_EQ(vmread(GUEST_PHYSICAL_ADDRESS), address);
		CHECK_EQ(vmread(GUEST_RIP), (uint64_t)load);
		CHECK_EQ(vmread(VM_EXIT_INSTRUCTION_LENGTH), 3);
	}
	rule("an entry without rights is no misconfiguration, whatever else it has");
	entry = setup(load, 0, 0);
	*entry = ~7ull;
	CHECK_EQ(vmx_run(), EXIT_REASON_EPT_VIOLATION);
	rule("EPT misconfigurations of the upper levels");
	setup(load, 7, 0);
	ept_pml4[0] |= 1 << 7;
	CHECK_EQ(vmx_run(), EXIT_REASON_EPT_MISCONFIGURATION);
	setup(load, 7, 0);
	ept_pdpt[0] |= 1 << 3;
	CHECK_EQ(vmx_run(), EXIT_REASON_EPT_MISCONFIGURATION);
	setup(load, 7, 0);
	ept_pd[(uint64_t)l2_page >> 21] |= 1 << 6;
	CHECK_EQ(vmx_run(), EXIT_REASON_EPT_MISCONFIGURATION);
	rule("a 2 MiB page's low address bits");
	vmx_fresh(load);
	vmx_ept(0);
	l2[RBX] = 32 << 20;
	ept_pd[16] |= 0x1000;
	CHECK_EQ(vmx_run(), EXIT_REASON_EPT_MISCONFIGURATION);
	CHECK_EQ(vmread(GUEST_PHYSICAL_ADDRESS), 32 << 20);
	rule("a 1 GiB page's low address bits");
	vmx_fresh(load);
	vmx_ept(0);
	ept_pdpt[5] = EPT_RWX_WB | EPT_LARGE_PAGE | 1 << 21;
	l2_window[1] = 5ull << 30 | 7;
	l2[RBX] = L2_WINDOW + 0x1000;
	CHECK_EQ(vmx_run(), EXIT_REASON_EPT_MISCONFIGURATION);
	rule("a misconfiguration during event delivery");
	vmx_fresh(load);
	vmx_ept(0);
	*ept_entry((uint64_t)l2_idt) = EPT_W;
	vmwrite(VM_ENTRY_INTERRUPTION_INFORMATION, 0x80000306);
	CHECK_EQ(vmx_run(), EXIT_REASON_EPT_MISCONFIGURATION);
	CHECK_EQ(vmread(IDT_VECTORING_INFORMATION), 0x80000306);
}

static void page_sizes(void)
{
	rule("2 MiB and 1 GiB EPT pages");
	vmx_fresh(load);
	vmx_ept(0);
	*(uint64_t *)(40ul << 20) = 0x1122334455667788;
	l2[RBX] = 40 << 20;
	CHECK_EQ(vmx_run(), EXIT_REASON_VMCALL);
	CHECK_EQ(l2[RAX], 0x1122334455667788);
	vmx_fresh(load);
	vmx_ept(0);
	ept_pdpt[7] = EPT_RWX_WB | EPT_LARGE_PAGE;
	l2_window[9] = (7ull << 30) | (40 << 20) | 7;
	l2[RBX] = L2_WINDOW + 0x9000;
	CHECK_EQ(vmx_run(), EXIT_REASON_VMCALL);
	CHECK_EQ(l2[RAX], 0x1122334455667788);
	rule("execute-only code runs, and cannot be read");
	setup(jump, EPT_X, 0);
	CHECK_EQ(vmx_run(), EXIT_REASON_VMCALL);
	CHECK_EQ(vmread(GUEST_RIP), (uint64_t)l2_page[0] + 16);
	vmwrite(GUEST_RIP, (uint64_t)load);
	CHECK_EQ(vmx_run(), EXIT_REASON_EPT_VIOLATION);
}

static void accessed_dirty(void)
{
	uint64_t *entry;

	rule("EPT accessed and dirty flags: not where EPTP says so");
	entry = setup(load_store_load, 7, 0);
	CHECK_EQ(vmx_run(), EXIT_REASON_VMCALL);
	CHECK_EQ(*entry & (EPT_ACCESSED | EPT_DIRTY), 0);
	rule("EPT accessed flag: a read sets it in each entry");
	entry = setup(load_twice, 7, 1 << 6);
	CHECK_EQ(vmx_run(), EXIT_REASON_VMCALL);
	CHECK_EQ(*entry & (EPT_ACCESSED | EPT_DIRTY), EPT_ACCESSED);
	CHECK_EQ(ept_pml4[0] & EPT_ACCESSED, EPT_ACCESSED);
	CHECK_EQ(ept_pdpt[0] & EPT_ACCESSED, EPT_ACCESSED);
	CHECK_EQ(ept_pml4[0] & EPT_DIRTY, 0);
	rule("EPT dirty flag: a write after a cached read");
	entry = setup(load_store_load, 7, 1 << 6);
	l2[RCX] = 77;
	CHECK_EQ(vmx_run(), EXIT_REASON_VMCALL);
	CHECK_EQ(*entry & (EPT_ACCESSED | EPT_DIRTY), EPT_ACCESSED | EPT_DIRTY);
	CHECK_EQ(l2[RDX], 77);
	rule("EPT dirty flag cleared by L1 and INVEPT: set again by the next write");
	*entry &= ~EPT_DIRTY;
	invept(1, ept_pointer(1 << 6), 0);
	vmwrite(GUEST_RIP, (uint64_t)load_store_load);
	CHECK_EQ(vmx_run(), EXIT_REASON_VMCALL);
	CHECK_EQ(*entry & EPT_DIRTY, EPT_DIRTY);
	rule("with A/D on, the guest's page tables are written by the walk");
	setup(load, 7, 1 << 6);
	CHECK_EQ(vmx_run(), EXIT_REASON_VMCALL);
	CHECK_EQ(ept_pd[(uint64_t)l2_pml4 >> 21] & EPT_ACCESSED, EPT_ACCESSED);
	CHECK_EQ(*ept_entry((uint64_t)l2_pml4) & EPT_DIRTY, EPT_DIRTY);
	rule("with A/D on, a read-only page table is a violation: read and write");
	vmx_fresh(load);
	vmx_ept(1 << 6);
	l2_window[2] = (uint64_t)l2_page[0] | 0x67;
	*ept_entry((uint64_t)l2_window) &= ~EPT_W;
	l2[RBX] = L2_WINDOW + 0x2000;
	violation(READ | WRITE | RIGHTS(EPT_R | EPT_X) | LINEAR_VALID, (uint64_t)l2_window + 16,
	          L2_WINDOW + 0x2000);
	rule("with A/D off it can be read, where its own flags are set");
	vmx_fresh(load);
	vmx_ept(0);
	l2_window[2] = (uint64_t)l2_page[0] | 0x67;
	*ept_entry((uint64_t)l2_window) &= ~EPT_W;
	l2[RBX] = L2_WINDOW + 0x2000;
	CHECK_EQ(vmx_run(), EXIT_REASON_VMCALL);
	rule("setting the accessed flag of an L2 page-table entry needs EPT's write right");
	vmx_fresh(load);
	vmx_ept(0);
	l2_window[2] = (uint64_t)l2_page[0] | 7;
	*ept_entry((uint64_t)l2_window) &= ~EPT_W;
	l2[RBX] = L2_WINDOW + 0x2000;
	CHECK_EQ(vmx_run(), EXIT_REASON_EPT_VIOLATION);
	CHECK_EQ(vmread(EXIT_QUALIFICATION) & (WRITE | LINEAR), WRITE);
}

/* ---- what is cached, and what INVEPT and INVVPID drop ---- */

static uint64_t other_pml4[512] __attribute__((aligned(4096))),
    other_pdpt[512] __attribute__((aligned(4096)));
static uint64_t other_pd[512] __attribute__((aligned(4096))), other_pt[512] __attribute__((aligned(4096)));

static void invalidation(void)
{
	uint64_t *entry, base = (uint64_t)l2_page[0] & ~0x1fffffull;

	rule("a right that L1 adds is seen without INVEPT");
	entry = setup(load, 0, 0);
	CHECK_EQ(vmx_run(), EXIT_REASON_EPT_VIOLATION);
	*entry |= EPT_R;
	CHECK_EQ(vmx_run(), EXIT_REASON_VMCALL);
	vmwrite(GUEST_RIP, (uint64_t)store);
	CHECK_EQ(vmx_run(), EXIT_REASON_EPT_VIOLATION);
	*entry |= EPT_W;
	CHECK_EQ(vmx_run(), EXIT_REASON_VMCALL);
	for (unsigned type = 1; type <= 2; type++) {
		rule("a right that L1 takes is gone after INVEPT, with VPID too");
		entry = setup(load, 7, 0);
		vmx_secondary(CPU2_ENABLE_VPID);
		CHECK_EQ(vmx_run(), EXIT_REASON_VMCALL);
		*entry &= ~7ull;
		CHECK_EQ(invept(type, ept_pointer(0), 0), VM_SUCCEED);
		vmwrite(GUEST_RIP, (uint64_t)load);
		CHECK_EQ(vmx_run(), EXIT_REASON_EPT_VIOLATION);
	}
	rule("pages of one 2 MiB EPT page, and its rights after INVEPT");
	vmx_fresh(load);
	vmx_ept(0);
	vmx_secondary(CPU2_ENABLE_VPID);
	for (unsigned i = 0; i < 3; i++) {
		l2_window[9 + i] = (40 << 20) + i * 0x5000 + 7;
		*(uint64_t *)((40ul << 20) + i * 0x5000) = 0x1234 + i;
		l2[RBX] = L2_WINDOW + 0x9000 + i * 0x1000;
		vmwrite(GUEST_RIP, (uint64_t)load);
		CHECK_EQ(vmx_run(), EXIT_REASON_VMCALL);
		CHECK_EQ(l2[RAX], 0x1234 + i);
	}
	ept_pd[20] &= ~EPT_W;
	invept(1, ept_pointer(0), 0);
	for (unsigned i = 0; i < 2; i++) {
		vmwrite(GUEST_RIP, (uint64_t)(i ? load : store));
		CHECK_EQ(vmx_run(), i ? EXIT_REASON_VMCALL : EXIT_REASON_EPT_VIOLATION);
	}
	rule("a right that L1 adds to a 2 MiB page is seen without INVEPT, in its other pages too");
	ept_pd[20] |= EPT_W;
	vmwrite(GUEST_RIP, (uint64_t)store);
	CHECK_EQ(vmx_run(), EXIT_REASON_VMCALL);
	rule("4 KiB pages instead of a 2 MiB page, after INVEPT");
	for (unsigned i = 0; i < 512; i++)
		other_pt[i] = ((40ull << 20) + i * 4096) | EPT_RWX_WB;
	other_pt[5] = (uint64_t)l2_page[0] | EPT_RWX_WB;
	*(uint64_t *)l2_page[0] = 0x4321;
	ept_pd[20] = (uint64_t)other_pt | 7;
	invept(2, 0, 0);
	for (unsigned i = 0; i < 2; i++) {
		l2[RBX] = L2_WINDOW + 0x9000 + i * 0x1000;
		vmwrite(GUEST_RIP, (uint64_t)load);
		CHECK_EQ(vmx_run(), EXIT_REASON_VMCALL);
		CHECK_EQ(l2[RAX], i ? 0x4321 : 0x1234);
	}
	rule("another page behind the same address after INVEPT, also for code");
	entry = setup(jump, 7, 0);
	vmx_secondary(CPU2_ENABLE_VPID);
	CHECK_EQ(vmx_run(), EXIT_REASON_VMCALL);
	memcpy(l2_page[1] + 16, "\x0f\xa2", 2); /* CPUID */
	*entry = (uint64_t)l2_page[1] | EPT_RWX_WB;
	invept(1, ept_pointer(0), 0);
	vmwrite(GUEST_RIP, (uint64_t)jump);
	CHECK_EQ(vmx_run(), EXIT_REASON_CPUID);

	rule("two EPTPs under one VPID do not see each other's pages");
	setup(load, 7, 0);
	vmx_secondary(CPU2_ENABLE_VPID);
	memcpy(other_pml4, ept_pml4, 4096);
	memcpy(other_pdpt, ept_pdpt, 4096);
	memcpy(other_pd, ept_pd, 4096);
	for (uint64_t i = 0; i < 512; i++)
		other_pt[i] = base | i << 12 | EPT_RWX_WB;
	other_pt[(uint64_t)l2_page[0] >> 12 & 511] = (uint64_t)l2_page[2] | EPT_RWX_WB;
	other_pml4[0] = (uint64_t)other_pdpt | 7;
	other_pdpt[0] = (uint64_t)other_pd | 7;
	other_pd[base >> 21] = (uint64_t)other_pt | 7;
	*(uint64_t *)(l2_page[0] + 16) = 0xaaaa;
	*(uint64_t *)(l2_page[2] + 16) = 0xbbbb;
	for (unsigned i = 0; i < 4; i++) {
		vmwrite(EPT_POINTER, i & 1 ? (uint64_t)other_pml4 | 0x1e : ept_pointer(0));
		vmwrite(GUEST_RIP, (uint64_t)load);
		CHECK_EQ(vmx_run(), EXIT_REASON_VMCALL);
		CHECK_EQ(l2[RAX], i & 1 ? 0xbbbb : 0xaaaa);
	}
}

static uint64_t load_through_window(void)
{
	vmwrite(GUEST_RIP, (uint64_t)load);
	l2[RBX] = L2_WINDOW;
	CHECK_EQ(vmx_run(), EXIT_REASON_VMCALL);
	return l2[RAX];
}

static void vpids(void)
{
	for (unsigned ept = 0; ept < 2; ept++) {
		for (unsigned type = 0; type < 4; type++) {
			rule("INVVPID: each type drops the address's old translation");
			vmx_fresh(load);
			if (ept)
				vmx_ept(0);
			vmx_secondary(CPU2_ENABLE_VPID);
			vmwrite(VPID, 5);
			*(uint64_t *)l2_page[0] = 100;
			*(uint64_t *)l2_page[1] = 200;
			l2_window[0] = (uint64_t)l2_page[0] | 7;
			CHECK_EQ(load_through_window(), 100);
			l2_window[0] = (uint64_t)l2_page[1] | 7;
			CHECK_EQ(invvpid(type, type == 2 ? 0 : 5, L2_WINDOW), VM_SUCCEED);
			CHECK_EQ(load_through_window(), 200);
		}
		rule("without VPID every entry flushes");
		vmx_fresh(load);
		if (ept)
			vmx_ept(0);
		*(uint64_t *)l2_page[0] = 100;
		*(uint64_t *)l2_page[1] = 200;
		l2_window[0] = (uint64_t)l2_page[0] | 7;
		CHECK_EQ(load_through_window(), 100);
		l2_window[0] = (uint64_t)l2_page[1] | 7;
		CHECK_EQ(load_through_window(), 200);
		rule("two VPIDs with tables of their own");
		vmx_fresh(load);
		if (ept)
			vmx_ept(0);
		vmx_secondary(CPU2_ENABLE_VPID);
		*(uint64_t *)l2_page[0] = 100;
		*(uint64_t *)l2_page[1] = 200;
		for (unsigned i = 0; i < 4; i++) {
			vmwrite(VPID, 8 + (i & 1));
			l2_window[0] = (uint64_t)l2_page[i & 1] | 7;
			if (i < 2)
				invvpid(1, 8 + (i & 1), 0);
			CHECK_EQ(load_through_window(), i & 1 ? 200 : 100);
		}
	}
	rule("L1's own translations are not L2's");
	vmx_fresh(load);
	vmx_secondary(CPU2_ENABLE_VPID);
	*(uint64_t *)l2_page[0] = 100;
	*(uint64_t *)l2_page[1] = 200;
	l2_window[0] = (uint64_t)l2_page[0] | 7;
	CHECK_EQ(load_through_window(), 100);
	l2_window[0] = (uint64_t)l2_page[1] | 7;
	invlpg(L2_WINDOW);
	invvpid(0, 1, L2_WINDOW);
	CHECK_EQ(load_through_window(), 200);
}

/* ---- unrestricted guest ---- */

/* 16-bit code, assembled as such, run at 0000:1000. */
#define CODE16_STUB(name, text)                                                                              \
	extern const uint8_t name[], name##_end[];                                                           \
	__asm__(".pushsection .text\n\t.code16\n" #name ":\n\t" text "\n" #name "_end:\n\t.code64\n\t"       \
	        ".popsection")

CODE16_STUB(real_add,
            "mov $0x1234, %ax\n\tmov %ax, %ds\n\tmov 0x10, %bx\n\tadd %bx, %ax\n\tmov %ax, %es\n\tvmcall");
CODE16_STUB(real_int, "int $0x42\n\tvmcall");
CODE16_STUB(real_gp, "mov $0xffff, %bx\n\tmov (%bx), %eax\n\tvmcall");
CODE16_STUB(real_out, "mov $0x80, %dx\n\tout %al, %dx\n\tvmcall");
CODE16_STUB(real_to_protected,
            "lgdtl 0x1100\n\tmov %cr0, %eax\n\tor $1, %eax\n\tmov %eax, %cr0\n\tljmpl $0x18, $0x1040\n\t"
            ".org real_to_protected + 0x40\n\t.code32\n\tmov $0x10, %ecx\n\tmov %ecx, %ds\n\tmov %cr0, "
            "%eax\n\tvmcall\n\t.code16");
CODE16_STUB(real_hlt, "cli\n\thlt\n\tvmcall");

#define SIZE(name) (unsigned)(name##_end - name)

static void real_mode(void)
{
	rule("real mode: segment loads shift");
	vmx_fresh(load);
	vmx_real(real_add, SIZE(real_add));
	*(uint16_t *)0x12350 = 0x1111;
	CHECK_EQ(vmx_run(), EXIT_REASON_VMCALL);
	CHECK_EQ((uint16_t)l2[RAX], 0x2345);
	CHECK_EQ(vmread(GUEST_DS_BASE), 0x12340);
	CHECK_EQ(vmread(GUEST_DS_SELECTOR), 0x1234);
	CHECK_EQ(vmread(GUEST_ES_BASE), 0x23450);
	CHECK_EQ(vmread(GUEST_CR0) & 0x80000001, 0);
	rule("real mode: interrupts go through the vector table");
	vmx_fresh(load);
	vmx_real(real_int, SIZE(real_int));
	*(uint32_t *)(0x42ul * 4) = 0x10000200;
	memcpy((void *)0x10200, vmcall_bytes, 3);
	CHECK_EQ(vmx_run(), EXIT_REASON_VMCALL);
	CHECK_EQ(vmread(GUEST_RIP), 0x200);
	CHECK_EQ(vmread(GUEST_CS_SELECTOR), 0x1000);
	CHECK_EQ(vmread(GUEST_CS_BASE), 0x10000);
	CHECK_EQ(vmread(GUEST_RSP), 0x7ffa);
	CHECK_EQ(*(uint16_t *)0x7ffa, 0x1002);
	rule("real mode: an injected interrupt, and one injected into a soft one");
	vmx_fresh(load);
	vmx_real(real_int, SIZE(real_int));
	vmwrite(VM_ENTRY_INTERRUPTION_INFORMATION, 0x80000442);
	vmwrite(VM_ENTRY_INSTRUCTION_LENGTH, 2);
	CHECK_EQ(vmx_run(), EXIT_REASON_VMCALL);
	CHECK_EQ(vmread(GUEST_CS_SELECTOR), 0x1000);
	CHECK_EQ(*(uint16_t *)0x7ffa, 0x1002);
	rule("real mode: #GP pushes no error code, but exits report it as such");
	vmx_fresh(load);
	vmx_real(real_gp, SIZE(real_gp));
	vmwrite(EXCEPTION_BITMAP, 1 << 13);
	CHECK_EQ(vmx_run(), EXIT_REASON_EXCEPTION_OR_NMI);
	CHECK_EQ(vmread(VM_EXIT_INTERRUPTION_INFORMATION), 0x8000030d);
	rule("real mode: I/O exits");
	vmx_fresh(load);
	vmx_real(real_out, SIZE(real_out));
	io_bitmap_a[0x80 / 8] |= 1;
	CHECK_EQ(vmx_run(), EXIT_REASON_IO_INSTRUCTION);
	CHECK_EQ(vmread(GUEST_RIP), 0x1003);
	rule("real mode: HLT exits");
	vmx_fresh(load);
	vmx_real(real_hlt, SIZE(real_hlt));
	vmx_set(PRIMARY_PROCESSOR_CONTROLS, CPU_HLT_EXITING);
	CHECK_EQ(vmx_run(), EXIT_REASON_HLT);
	CHECK_EQ(vmread(VM_EXIT_INSTRUCTION_LENGTH), 1);
	rule("from real to protected mode");
	vmx_fresh(load);
	vmx_real(real_to_protected, SIZE(real_to_protected));
	*(uint16_t *)0x1100 = 0x37;
	*(uint32_t *)0x1102 = (uint32_t)(uint64_t)runtime_gdt;
	CHECK_EQ(vmx_run(), EXIT_REASON_VMCALL);
	CHECK_EQ(l2[RAX] & 0x80000001, 1);
	CHECK_EQ(vmread(GUEST_CS_SELECTOR), 0x18);
	CHECK_EQ(vmread(GUEST_CS_ACCESS_RIGHTS), 0xc09b);
	CHECK_EQ(vmread(GUEST_DS_LIMIT), 0xffffffff);
	CHECK_EQ(vmread(VM_ENTRY_CONTROLS) & ENTRY_IA32E_MODE_GUEST, 0);
	rule("an EPT violation without paging has the address as linear address");
	vmx_fresh(load);
	vmx_real(real_add, SIZE(real_add));
	*ept_entry(0x12350) = 0;
	violation(READ | LINEAR_VALID | LINEAR, 0x12350, 0x12350);
	rule("virtual-8086 mode");
	vmx_fresh(load);
	vmx_virtual_8086(real_add, SIZE(real_add));
	CHECK_EQ(vmx_run(), EXIT_REASON_VMCALL);
	CHECK_EQ((uint16_t)l2[RAX], 0x2345);
	CHECK_EQ(vmread(GUEST_DS_ACCESS_RIGHTS), 0xf3);
}

/* An L2 that turns IA-32e mode on by itself: LMA follows into the entry controls (IA32_VMX_MISC[5]). */
L2(to_long, ".code32\n\tmov $0xc0000080, %ecx\n\trdmsr\n\tor $0x100, %eax\n\twrmsr\n\tmov %cr4, %eax\n\tor "
            "$0x20, %eax\n\t"
            "mov %eax, %cr4\n\tmov %ebx, %cr3\n\tmov %cr0, %eax\n\tor $0x80000000, %eax\n\tmov %eax, "
            "%cr0\n\tvmcall\n\t.code64");

static void long_mode_by_itself(void)
{
	rule("L2 enters IA-32e mode by itself: exits store LMA into the entry controls");
	vmx_fresh(load);
	vmx_protected_32(to_long, 64);
	l2[RBX] = (uint64_t)l2_pml4;
	CHECK_EQ(vmx_run(), EXIT_REASON_VMCALL);
	CHECK_EQ(vmread(GUEST_IA32_EFER), 0x500);
	CHECK_EQ(vmread(VM_ENTRY_CONTROLS) & ENTRY_IA32E_MODE_GUEST, ENTRY_IA32E_MODE_GUEST);
	vmx_skip();
	vmwrite(GUEST_CS_ACCESS_RIGHTS, 0xa09b);
	vmwrite(GUEST_RIP, (uint64_t)load);
	l2[RBX] = (uint64_t)l2_page[0];
	CHECK_EQ(vmx_run(), EXIT_REASON_VMCALL);
}

/* ---- APIC-access page and TPR shadow ---- */

L2(apic_load, "mov (%rbx), %eax\n\tvmcall");
L2(apic_store, "mov %eax, (%rbx)\n\tnop\n\tvmcall");
L2(write_cr8, "mov %rax, %cr8\n\tnop\n\tvmcall");
L2(write_read_cr8, "mov %rax, %cr8\n\tmov %cr8, %rcx\n\tvmcall");
L2(tpr_msr,
   "mov $0x808, %ecx\n\trdmsr\n\tmov %eax, %ebx\n\tmov $0x40, %eax\n\txor %edx, %edx\n\twrmsr\n\tvmcall");

static void apic_setup(const uint8_t *code, unsigned offset, bool ept, uint32_t primary)
{
	vmx_fresh(code);
	if (ept)
		vmx_ept(0);
	vmx_set(PRIMARY_PROCESSOR_CONTROLS, primary);
	vmx_secondary(CPU2_VIRTUALIZE_APIC_ACCESSES);
	l2_window[0] = (uint64_t)apic_access | 7;
	l2[RBX] = L2_WINDOW + offset;
	virtual_apic[0x80] = 0x50;
}

static void apic_pages(void)
{
	for (unsigned ept = 0; ept < 2; ept++) {
		rule("APIC-access page: reads, writes and fetches exit with offset and type");
		apic_setup(apic_load, 0x30, ept, 0);
		CHECK_EQ(vmx_run(), EXIT_REASON_APIC_ACCESS);
		CHECK_EQ(vmread(EXIT_QUALIFICATION), 0x30);
		CHECK_EQ(vmread(GUEST_RIP), (uint64_t)apic_load);
		apic_setup(apic_store, 0xb0, ept, 0);
		CHECK_EQ(vmx_run(), EXIT_REASON_APIC_ACCESS);
		CHECK_EQ(vmread(EXIT_QUALIFICATION), 0xb0 | 1 << 12);
		CHECK_EQ(vmread(VM_EXIT_INSTRUCTION_LENGTH), 2);
		apic_setup(jump, 0x100, ept, 0);
		CHECK_EQ(vmx_run(), EXIT_REASON_APIC_ACCESS);
		CHECK_EQ(vmread(EXIT_QUALIFICATION), 0x100 | 2 << 12);
		rule("APIC-access page: during event delivery");
		apic_setup(load, 0, ept, 0);
		vmwrite(GUEST_IDTR_BASE, L2_WINDOW);
		vmwrite(VM_ENTRY_INTERRUPTION_INFORMATION, 0x80000306);
		CHECK_EQ(vmx_run(), EXIT_REASON_APIC_ACCESS);
		CHECK_EQ(vmread(EXIT_QUALIFICATION), 0x60 | 3 << 12);
		CHECK_EQ(vmread(IDT_VECTORING_INFORMATION), 0x80000306);
		rule("without its control the page is memory, even after it was the APIC-access page");
		vmx_clear(SECONDARY_PROCESSOR_CONTROLS, CPU2_VIRTUALIZE_APIC_ACCESSES);
		vmwrite(GUEST_RIP, (uint64_t)apic_load);
		vmwrite(GUEST_IDTR_BASE, (uint64_t)l2_idt);
		l2[RBX] = L2_WINDOW + 0x30;
		*(uint32_t *)(apic_access + 0x30) = 0x4321;
		CHECK_EQ(vmx_run(), EXIT_REASON_VMCALL);
		CHECK_EQ(l2[RAX], 0x4321);
		rule("and with it again it is not, though its translation is cached");
		vmx_secondary(CPU2_VIRTUALIZE_APIC_ACCESSES);
		invvpid(2, 0, 0);
		invept(2, 0, 0);
		vmwrite(GUEST_RIP, (uint64_t)apic_load);
		CHECK_EQ(vmx_run(), EXIT_REASON_APIC_ACCESS);
		rule("TPR shadow: the TPR is read from the virtual-APIC page");
		apic_setup(apic_load, 0x80, ept, CPU_USE_TPR_SHADOW);
		CHECK_EQ(vmx_run(), EXIT_REASON_VMCALL);
		CHECK_EQ(l2[RAX], 0x50);
		rule("TPR shadow: other registers exit");
		apic_setup(apic_load, 0x90, ept, CPU_USE_TPR_SHADOW);
		CHECK_EQ(vmx_run(), EXIT_REASON_APIC_ACCESS);
		rule("TPR shadow: writes go to the virtual-APIC page");
		apic_setup(apic_store, 0x80, ept, CPU_USE_TPR_SHADOW);
		l2[RAX] = 0x70;
		CHECK_EQ(vmx_run(), EXIT_REASON_VMCALL);
		CHECK_EQ(virtual_apic[0x80], 0x70);
		rule("TPR below threshold: behind the instruction");
		apic_setup(apic_store, 0x80, ept, CPU_USE_TPR_SHADOW);
		vmwrite(TPR_THRESHOLD, 4);
		l2[RAX] = 0x3f;
		CHECK_EQ(vmx_run(), EXIT_REASON_TPR_BELOW_THRESHOLD);
		CHECK_EQ(vmread(GUEST_RIP), (uint64_t)apic_store + 2);
		CHECK_EQ(vmread(EXIT_QUALIFICATION), 0);
		rule("TPR below threshold right after entry, with APIC accesses virtualized");
		vmwrite(GUEST_RIP, (uint64_t)apic_store + 2);
		CHECK_EQ(vmx_run(), EXIT_REASON_TPR_BELOW_THRESHOLD);
		CHECK_EQ(vmread(GUEST_RIP), (uint64_t)apic_store + 2);
	}
	rule("CR8 under TPR shadow");
	vmx_fresh(write_read_cr8);
	vmx_set(PRIMARY_PROCESSOR_CONTROLS, CPU_USE_TPR_SHADOW);
	l2[RAX] = 6;
	CHECK_EQ(vmx_run(), EXIT_REASON_VMCALL);
	CHECK_EQ(virtual_apic[0x80], 0x60);
	CHECK_EQ(l2[RCX], 6);
	CHECK_EQ(apic_read(0x80), 0);
	rule("CR8 below the threshold exits behind the instruction");
	vmx_fresh(write_cr8);
	vmx_set(PRIMARY_PROCESSOR_CONTROLS, CPU_USE_TPR_SHADOW);
	virtual_apic[0x80] = 0x50;
	vmwrite(TPR_THRESHOLD, 5);
	l2[RAX] = 4;
	CHECK_EQ(vmx_run(), EXIT_REASON_TPR_BELOW_THRESHOLD);
	CHECK_EQ(vmread(GUEST_RIP), (uint64_t)write_cr8 + 4);
	rule("CR8's reserved bits are #GP under TPR shadow");
	vmx_fresh(write_cr8);
	vmx_set(PRIMARY_PROCESSOR_CONTROLS, CPU_USE_TPR_SHADOW);
	l2[RAX] = 16;
	CHECK(l2_took(vmx_run(), 13));
	rule("virtualize x2APIC mode: MSR 808H is the virtual TPR");
	vmx_fresh(tpr_msr);
	vmx_set(PRIMARY_PROCESSOR_CONTROLS, CPU_USE_TPR_SHADOW);
	vmx_secondary(CPU2_VIRTUALIZE_X2APIC_MODE);
	virtual_apic[0x80] = 0x20;
	CHECK_EQ(vmx_run(), EXIT_REASON_VMCALL);
	CHECK_EQ(l2[RBX], 0x20);
	CHECK_EQ(virtual_apic[0x80], 0x40);
}

void guest_main(void)
{
	vmx_start();
	violations();
	misconfigurations();
	page_sizes();
	accessed_dirty();
	invalidation();
	vpids();
	real_mode();
	long_mode_by_itself();
	apic_pages();
}

/*
 * 4-level paging (SDM volume 3, Paging): every bit of the error code, access rights, A and D flags, TLB
 * invalidation and PCID, branches between pages, accesses and instructions that cross pages.
 *
 * The kernel runs supervisor-only at the identity; WINDOW is a region of 4 KiB pages for the tests, whose
 * tables are static arrays. User code is position-independent stubs copied into it.
 */
#include "runtime/user.h"

#define P   1ul
#define W   2ul
#define U   4ul
#define PWT 8ul
#define A   0x20ul
#define D   0x40ul
#define PS  0x80ul
#define G   0x100ul
#define NX  (1ul << 63)

#define ERROR_P    1u
#define ERROR_W    2u
#define ERROR_U    4u
#define ERROR_RSVD 8u
#define ERROR_I    16u

#define WINDOW 0x10000000000ul /* PML4[2] */

#define TABLE __attribute__((aligned(4096)))
static uint64_t pml4[512] TABLE, identity_pdpt[512] TABLE, identity_pd[4][512] TABLE;
static uint64_t w_pdpt[512] TABLE, w_pd[512] TABLE, w_pt[512] TABLE;
static uint64_t other_pml4[512] TABLE, o_pdpt[512] TABLE, o_pd[512] TABLE, o_pt[512] TABLE;
static uint8_t page[8][4096] TABLE;
#define PA(x)      ((uint64_t)(x))
#define AT_PAGE(n) (WINDOW + (n)*4096ul)

static void flush(void)
{
	uint64_t cr4 = read_cr4();

	write_cr4(cr4 ^ CR4_PGE);
	write_cr4(cr4);
}

/* All window pages: page[i] present, writable, user; upper levels permissive. */
static void reset(void)
{
	memset(w_pt, 0, 4096);
	memset(w_pd, 0, 4096);
	memset(w_pdpt, 0, 4096);
	pml4[2] = PA(w_pdpt) | P | W | U;
	w_pdpt[0] = PA(w_pd) | P | W | U;
	w_pd[0] = PA(w_pt) | P | W | U;
	for (unsigned i = 0; i < 8; i++)
		w_pt[i] = PA(page[i]) | P | W | U;
	flush();
}

static void setup(void)
{
	for (unsigned i = 0; i < 2048; i++)
		identity_pd[i / 512][i % 512] = ((uint64_t)i << 21) | P | W | PS;
	for (unsigned i = 0; i < 4; i++)
		identity_pdpt[i] = PA(identity_pd[i]) | P | W;
	pml4[0] = PA(identity_pdpt) | P | W;
	reset();
	write_cr3(PA(pml4));
}

/* ---- what is tried ---- */

static unsigned try_read(uint64_t at)
{
	return TRY("mov (%%rdi), %%eax", , "D"(at), "rax");
}

static unsigned try_write(uint64_t at)
{
	return TRY("movb $1, (%%rdi)", , "D"(at));
}

static unsigned try_add(uint64_t at)
{
	return TRY("lock addl $1, (%%rdi)", , "D"(at));
}

/* The page holds RET at the address. */
static unsigned try_fetch(uint64_t at)
{
	restore_rsp = 0;
	fault.vector = NO_FAULT;
	__asm__ volatile(
	    "movq $771f, recover_rip\n\tpush %%rdi\n\tmov %%rsp, restore_rsp\n\tcall *%%rdi\n771:\n\t"
	    "movq $0, restore_rsp\n\tmovq $0, recover_rip\n\tpop %%rdi"
	    :
	    : "D"(at)
	    : "memory", "rax");
	return fault.vector;
}

/* User stubs, at page 7: read, write, execute (%rdi), then INT 80H. */
__attribute__((naked, aligned(16))) static void user_stubs(void)
{
	__asm__("mov (%rdi), %eax\n\tint $0x80\n\t.balign 16\n\t"
	        "movb $1, (%rdi)\n\tint $0x80\n\t.balign 16\n\t"
	        "call *%rdi\n\tint $0x80\n\t.balign 16");
}
enum user_kind { USER_READ, USER_WRITE, USER_FETCH };

/* Runs on page 6 as stack. Returns the vector, NO_FAULT for none. */
static unsigned try_user(enum user_kind kind, uint64_t at)
{
	memcpy(page[7], (const void *)user_stubs, 64);
	fault.vector = NO_FAULT;
	user_run(AT_PAGE(7) + kind * 16, AT_PAGE(6) + 4096, USER64, FLAGS_USER, at, 0);
	return fault.vector == USER_RETURN ? NO_FAULT : fault.vector;
}

#define FAULTS_WITH(call, error_, address)                                                                   \
	do {                                                                                                 \
		CHECK_EQ(call, 14);                                                                          \
		CHECK_EQ(fault.error, error_);                                                               \
		CHECK_EQ(fault.cr2, address);                                                                \
	} while (0)
#define PASSES(call) CHECK_EQ(call, NO_FAULT)

/* SDM, Page-Fault Exceptions. */
static void error_codes(void)
{
	uint64_t at = AT_PAGE(1) + 8;

	page[1][8] = 0xc3;
	rule("#PF: not present: P clear, W and U as the access");
	reset();
	w_pt[1] = 0;
	invlpg(at);
	FAULTS_WITH(try_read(at), 0, at);
	FAULTS_WITH(try_write(at), ERROR_W, at);
	FAULTS_WITH(try_add(at), ERROR_W, at);
	FAULTS_WITH(try_user(USER_READ, at), ERROR_U, at);
	FAULTS_WITH(try_user(USER_WRITE, at), ERROR_U | ERROR_W, at);
	FAULTS_WITH(try_fetch(at), ERROR_I, at);
	FAULTS_WITH(try_user(USER_FETCH, at), ERROR_I | ERROR_U, at);

	rule("#PF: not present at each level");
	uint64_t *level[] = {&w_pd[0], &w_pdpt[0], &pml4[2]};
	for (unsigned i = 0; i < 3; i++) {
		reset();
		*level[i] &= ~P;
		flush();
		FAULTS_WITH(try_read(at), 0, at);
	}

	rule("#PF: user access to a supervisor page at each level");
	uint64_t *all[] = {&w_pt[1], &w_pd[0], &w_pdpt[0], &pml4[2]};
	reset();
	w_pt[1] &= ~U;
	flush();
	FAULTS_WITH(try_user(USER_READ, at), ERROR_P | ERROR_U, at);
	FAULTS_WITH(try_user(USER_WRITE, at), ERROR_P | ERROR_U | ERROR_W, at);
	FAULTS_WITH(try_user(USER_FETCH, at), ERROR_P | ERROR_U | ERROR_I, at);
	PASSES(try_read(at));
	PASSES(try_write(at));

	rule("#PF: writes to a read-only page at each level, CR0.WP");
	for (unsigned i = 0; i < 4; i++) {
		reset();
		*all[i] &= ~W;
		flush();
		FAULTS_WITH(try_write(at), ERROR_P | ERROR_W, at);
		FAULTS_WITH(try_add(at), ERROR_P | ERROR_W, at);
		PASSES(try_read(at));
		if (i == 0)
			FAULTS_WITH(try_user(USER_WRITE, at), ERROR_P | ERROR_W | ERROR_U, at);
		write_cr0(read_cr0() & ~(uint64_t)CR0_WP);
		PASSES(try_write(at));
		PASSES(try_add(at));
		if (i == 0)
			FAULTS_WITH(try_user(USER_WRITE, at), ERROR_P | ERROR_W | ERROR_U, at);
		write_cr0(read_cr0() | CR0_WP);
		FAULTS_WITH(try_write(at), ERROR_P | ERROR_W, at);
	}
	rule("a CMPXCHG that fails is a write all the same");
	reset();
	w_pt[1] &= ~W;
	flush();
	CHECK_EQ(TRY("lock cmpxchg %%ecx, (%%rdi)", , OPERANDS("D"(at), "a"(0x12345678), "c"(0)), "rbx"), 14);
	CHECK_EQ(fault.error, ERROR_P | ERROR_W);
	CHECK_EQ(TRY("cmpxchg %%ecx, (%%rdi)", , OPERANDS("D"(at), "a"(0x12345678), "c"(0)), "rbx"), 14);
	rule("a shift by 0 of a read-only page still writes; TEST and CMP do not");
	CHECK_EQ(TRY("shll %%cl, (%%rdi)", , OPERANDS("D"(at), "c"(0)), "rbx"), 14);
	PASSES(TRY("testl $1, (%%rdi)\n\tcmpl $1, (%%rdi)\n\tbtl $1, (%%rdi)", , "D"(at)));

	rule("#PF: fetch from an NX page at each level");
	for (unsigned i = 0; i < 4; i++) {
		reset();
		*all[i] |= NX;
		flush();
		FAULTS_WITH(try_fetch(at), ERROR_P | ERROR_I, at);
		PASSES(try_write(at));
		if (i == 0)
			FAULTS_WITH(try_user(USER_FETCH, at), ERROR_P | ERROR_I | ERROR_U, at);
	}
	rule("#PF: NX is reserved while EFER.NXE is clear, and fetches have no I flag then");
	wrmsr(0xc0000080, rdmsr(0xc0000080) & ~0x800ul);
	reset();
	w_pt[1] |= NX;
	flush();
	FAULTS_WITH(try_read(at), ERROR_P | ERROR_RSVD, at);
	FAULTS_WITH(try_fetch(at), ERROR_P | ERROR_RSVD, at);
	w_pt[1] = 0;
	flush();
	FAULTS_WITH(try_fetch(at), 0, at);
	wrmsr(0xc0000080, rdmsr(0xc0000080) | 0x800);
}

/* SDM, Reserved bits; Hierarchical Paging Structures. */
static void reserved_bits(void)
{
	uint64_t at = AT_PAGE(1);
	uint32_t r[4];

	cpuid(0x80000008, 0, r);
	rule("#PF: reserved bits, RSVD with P");
	uint64_t above = 1ul << (r[0] & 0xff);
	const struct {
		uint64_t *entry, bits;
	} rows[] = {
	    {&pml4[2], PS},    {&pml4[2], above}, {&w_pdpt[0], above},
	    {&w_pd[0], above}, {&w_pt[1], above}, {&w_pt[1], 1ul << 51},
	};

	for (unsigned i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		reset();
		*rows[i].entry |= rows[i].bits;
		flush();
		FAULTS_WITH(try_read(at), ERROR_P | ERROR_RSVD, at);
		FAULTS_WITH(try_write(at), ERROR_P | ERROR_RSVD | ERROR_W, at);
		FAULTS_WITH(try_user(USER_READ, at),
		            (rows[i].entry == &w_pt[1] ? ERROR_RSVD | ERROR_P | ERROR_U : fault.error),
		            fault.cr2);
	}
	rule("#PF: address bits below a large page's size are reserved");
	reset();
	w_pd[1] = 0x200000 | P | W | PS | 0x4000;
	flush();
	FAULTS_WITH(try_read(WINDOW + 0x200000), ERROR_P | ERROR_RSVD, WINDOW + 0x200000);
	w_pdpt[1] = 0 | P | W | PS | 0x200000;
	flush();
	FAULTS_WITH(try_read(WINDOW + 0x40000000), ERROR_P | ERROR_RSVD, WINDOW + 0x40000000);
	rule("an entry that is not present has no reserved bits");
	w_pt[1] = ~P;
	flush();
	FAULTS_WITH(try_read(at), 0, at);
	rule("2 MiB and 1 GiB pages, PAT bit 12 is none of the address");
	w_pd[1] = P | W | PS | 0x1000;
	w_pdpt[1] = P | W | PS | 0x1000;
	flush();
	page[3][0] = 0x5a;
	CHECK_EQ(*(volatile uint8_t *)(WINDOW + 0x200000 + PA(page[3])), 0x5a);
	CHECK_EQ(*(volatile uint8_t *)(WINDOW + 0x40000000 + PA(page[3])), 0x5a);
}

/* SDM, Access Rights: SMEP and SMAP. */
static void smep_smap(void)
{
	uint64_t at = AT_PAGE(1) + 8, cr4 = read_cr4();

	page[1][8] = 0xc3;
	reset();
	rule("SMEP: a supervisor fetch from a user page");
	PASSES(try_fetch(at));
	write_cr4(cr4 | CR4_SMEP);
	FAULTS_WITH(try_fetch(at), ERROR_P | ERROR_I, at);
	PASSES(try_read(at));
	PASSES(try_user(USER_FETCH, at));
	rule("SMEP: a page is a user page where all levels say so");
	w_pd[0] &= ~U;
	flush();
	PASSES(try_fetch(at));
	reset();
	rule("SMAP: a supervisor access to a user page, by RFLAGS.AC");
	write_cr4(cr4 | CR4_SMAP);
	FAULTS_WITH(try_read(at), ERROR_P, at);
	FAULTS_WITH(try_write(at), ERROR_P | ERROR_W, at);
	PASSES(TRY("stac\n\tmov (%%rdi), %%eax\n\tmovb $0xc3, (%%rdi)\n\tclac", , "D"(at), "rax"));
	FAULTS_WITH(TRY("stac\n\tmov (%%rdi), %%eax\n\tclac\n\tmov (%%rdi), %%eax", , "D"(at), "rax"),
	            ERROR_P, at);
	PASSES(try_fetch(at));
	PASSES(try_user(USER_READ, at));
	PASSES(try_user(USER_WRITE, at));
	rule("SMAP: AC by POPFQ");
	PASSES(TRY("pushfq\n\torq $0x40000, (%%rsp)\n\tpopfq\n\tmov (%%rdi), %%eax\n\tpushfq\n\tandq "
	           "$~0x40000, (%%rsp)\n\tpopfq",
	           , "D"(at), "rax"));
	FAULTS_WITH(try_read(at), ERROR_P, at);
	rule("SMAP: AC left over from before a fault in kernel mode is in the frame");
	CHECK_EQ(TRY("stac\n\tud2", , ), 6);
	CHECK_EQ(fault.rflags & FLAG_AC, FLAG_AC);
	__asm__ volatile("clac");
	rule("SMAP: implicit accesses ignore AC");
	/* An LDT in a user page. */
	uint64_t *own = &runtime_gdt[OWN >> 3];

	((uint64_t *)page[2])[1] = 0x00cf93000000ffff;
	own[0] = 0x0000820000000fff | (AT_PAGE(2) & 0xffffff) << 16 | (AT_PAGE(2) >> 24 & 0xff) << 56;
	own[1] = AT_PAGE(2) >> 32;
	__asm__ volatile("lldt %w0" : : "r"(OWN));
	CHECK_EQ(TRY("stac\n\tmov %%eax, %%es\n\tclac", , "a"(0xc)), 14);
	CHECK_EQ(fault.error, ERROR_P);
	CHECK_EQ(fault.cr2, AT_PAGE(2) + 8);
	__asm__ volatile("clac\n\tlldt %w0" : : "r"(0));
	rule("#UD: STAC and CLAC at CPL 3 (SDM, CLAC)");
	static const uint8_t stac[] = {0x0f, 0x01, 0xcb};
	write_cr4(cr4);
	memcpy(page[1] + 0x20, stac, 3);
	CHECK_EQ(try_user(USER_FETCH, AT_PAGE(1) + 0x20), 6);
	write_cr4(cr4);
}

/* SDM, Accessed and Dirty Flags. */
static void accessed_dirty(void)
{
	uint64_t at = AT_PAGE(1);

	rule("A by reads, D by writes only; A at every level");
	reset();
	PASSES(try_read(at));
	CHECK_EQ(w_pt[1] & (A | D), A);
	CHECK_EQ(w_pd[0] & (A | D), A);
	CHECK_EQ(w_pdpt[0] & (A | D), A);
	CHECK_EQ(pml4[2] & (A | D), A);
	PASSES(try_write(at));
	CHECK_EQ(w_pt[1] & (A | D), A | D);
	CHECK_EQ(w_pd[0] & (A | D), A);
	CHECK_EQ(w_pt[2] & (A | D), 0);
	rule("D again after it was cleared and the page invalidated");
	w_pt[1] &= ~D;
	invlpg(at);
	PASSES(try_read(at));
	CHECK_EQ(w_pt[1] & D, 0);
	PASSES(try_write(at));
	CHECK_EQ(w_pt[1] & D, D);
	rule("A by a fetch");
	reset();
	page[1][0] = 0xc3;
	PASSES(try_fetch(at));
	CHECK_EQ(w_pt[1] & (A | D), A);
	rule("a write that faults sets no D");
	reset();
	w_pt[1] &= ~W;
	flush();
	CHECK_EQ(try_write(at), 14);
	CHECK_EQ(w_pt[1] & D, 0);
	rule("D of 2 MiB and 1 GiB pages");
	reset();
	w_pd[1] = P | W | PS;
	w_pdpt[1] = P | W | PS;
	flush();
	page[3][0] = 0;
	PASSES(try_read(WINDOW + 0x200000 + PA(page[3])));
	CHECK_EQ(w_pd[1] & (A | D), A);
	PASSES(try_write(WINDOW + 0x200000 + PA(page[3])));
	CHECK_EQ(w_pd[1] & (A | D), A | D);
	PASSES(try_write(WINDOW + 0x40000000 + PA(page[3])));
	CHECK_EQ(w_pdpt[1] & (A | D), A | D);
	CHECK_EQ(page[3][0], 1);
}

/* SDM, Caching Translation Information: what must be invalidated, and what must never be stale. */
static void invalidation(void)
{
	uint64_t at = AT_PAGE(1), cr4 = read_cr4();

	page[1][0] = 1;
	page[2][0] = 2;
	rule("INVLPG makes a changed translation seen");
	reset();
	CHECK_EQ(*(volatile uint8_t *)at, 1);
	w_pt[1] = PA(page[2]) | P | W | U;
	invlpg(at);
	CHECK_EQ(*(volatile uint8_t *)at, 2);
	rule("INVLPG by any address of the page, also for a global one");
	w_pt[1] = PA(page[1]) | P | W | U | G;
	invlpg(at + 0xabc);
	CHECK_EQ(*(volatile uint8_t *)at, 1);
	w_pt[1] = PA(page[2]) | P | W | U | G;
	invlpg(at);
	CHECK_EQ(*(volatile uint8_t *)at, 2);
	rule("MOV to CR3 drops what is not global");
	w_pt[1] = PA(page[1]) | P | W | U;
	flush();
	CHECK_EQ(*(volatile uint8_t *)at, 1);
	w_pt[1] = PA(page[2]) | P | W | U;
	write_cr3(PA(pml4));
	CHECK_EQ(*(volatile uint8_t *)at, 2);
	rule("a change of CR4.PGE drops everything");
	w_pt[1] = PA(page[1]) | P | W | U | G;
	flush();
	CHECK_EQ(*(volatile uint8_t *)at, 1);
	w_pt[1] = PA(page[2]) | P | W | U | G;
	flush();
	CHECK_EQ(*(volatile uint8_t *)at, 2);
	rule("widening rights needs no invalidation");
	reset();
	w_pt[1] = 0;
	CHECK_EQ(try_read(at), 14);
	w_pt[1] = PA(page[1]) | P;
	PASSES(try_read(at));
	CHECK_EQ(try_write(at), 14);
	w_pt[1] |= W;
	PASSES(try_write(at));
	CHECK_EQ(try_user(USER_READ, at), 14);
	w_pt[1] |= U;
	PASSES(try_user(USER_READ, at));
	w_pt[1] |= NX;
	invlpg(at);
	page[1][0] = 0xc3;
	CHECK_EQ(try_fetch(at), 14);
	w_pt[1] &= ~NX;
	PASSES(try_fetch(at));
	rule("a fetch sees a page that was remapped and invalidated");
	page[1][0] = 0xc3; /* RET */
	memcpy(page[2], "\xb8\x02\x00\x00\x00\xc3", 6);
	memcpy(page[3], "\xb8\x03\x00\x00\x00\xc3", 6);
	for (unsigned i = 0; i < 6; i++) {
		uint32_t got;

		w_pt[4] = PA(page[2 + i % 2]) | P;
		invlpg(AT_PAGE(4));
		__asm__ volatile("call *%1" : "=a"(got) : "r"(AT_PAGE(4)) : "memory");
		CHECK_EQ(got, 2 + i % 2);
	}
	rule("page-structure entries: INVLPG drops the paging-structure caches too");
	reset();
	page[1][0] = 1;
	page[2][0] = 2;
	CHECK_EQ(*(volatile uint8_t *)at, 1);
	memset(o_pt, 0, 4096);
	o_pt[1] = PA(page[2]) | P | W | U;
	w_pd[0] = PA(o_pt) | P | W | U;
	invlpg(at);
	CHECK_EQ(*(volatile uint8_t *)at, 2);
	write_cr4(cr4);
}

static inline void invpcid(uint64_t type, uint64_t pcid, uint64_t address)
{
	struct {
		uint64_t pcid, address;
	} descriptor = {pcid, address};

	__asm__ volatile("invpcid %0, %1" : : "m"(descriptor), "r"(type) : "memory");
}

/* SDM, Process-Context Identifiers. */
static void pcid(void)
{
	uint64_t at = AT_PAGE(1), cr4 = read_cr4(), cr3 = PA(pml4);

	if (!has_feature(1, 2, 17))
		return;
	reset();
	memcpy(other_pml4, pml4, 4096);
	other_pml4[2] = PA(o_pdpt) | P | W | U;
	o_pdpt[0] = PA(o_pd) | P | W | U;
	o_pd[0] = PA(o_pt) | P | W | U;
	memset(o_pt, 0, 4096);
	page[1][0] = 1;
	page[2][0] = 2;
	o_pt[1] = PA(page[2]) | P | W | U;
	rule("#GP: CR4.PCIDE with a CR3 whose low 12 bits are not 0");
	write_cr3(cr3 | PWT);
	CHECK_EQ(TRY("mov %%rax, %%cr4", , "a"(cr4 | CR4_PCIDE)), 13);
	write_cr3(cr3);
	write_cr4(cr4 | CR4_PCIDE);
	rule("PCIDs: each address space its own translations");
	write_cr3(cr3 | 1);
	CHECK_EQ(*(volatile uint8_t *)at, 1);
	write_cr3(PA(other_pml4) | 2);
	CHECK_EQ(*(volatile uint8_t *)at, 2);
	write_cr3(cr3 | 1 | 1ul << 63);
	CHECK_EQ(*(volatile uint8_t *)at, 1);
	write_cr3(PA(other_pml4) | 2 | 1ul << 63);
	CHECK_EQ(*(volatile uint8_t *)at, 2);
	CHECK_EQ(read_cr3(), PA(other_pml4) | 2);
	rule("MOV to CR3 without bit 63 drops that PCID's translations");
	w_pt[1] = PA(page[2]) | P | W | U;
	write_cr3(cr3 | 1);
	CHECK_EQ(*(volatile uint8_t *)at, 2);
	rule("INVPCID type 0: one address in one PCID, from another");
	write_cr3(PA(other_pml4) | 2 | 1ul << 63);
	w_pt[1] = PA(page[1]) | P | W | U;
	invpcid(0, 1, at);
	write_cr3(cr3 | 1 | 1ul << 63);
	CHECK_EQ(*(volatile uint8_t *)at, 1);
	rule("INVPCID type 1: a whole PCID");
	write_cr3(PA(other_pml4) | 2 | 1ul << 63);
	w_pt[1] = PA(page[2]) | P | W | U;
	invpcid(1, 1, 0);
	write_cr3(cr3 | 1 | 1ul << 63);
	CHECK_EQ(*(volatile uint8_t *)at, 2);
	rule("INVPCID type 3: all PCIDs but global pages");
	write_cr3(PA(other_pml4) | 2 | 1ul << 63);
	w_pt[1] = PA(page[1]) | P | W | U;
	invpcid(3, 0, 0);
	write_cr3(cr3 | 1 | 1ul << 63);
	CHECK_EQ(*(volatile uint8_t *)at, 1);
	rule("INVPCID type 2: everything, global pages too");
	w_pt[1] = PA(page[1]) | P | W | U | G;
	invlpg(at);
	CHECK_EQ(*(volatile uint8_t *)at, 1);
	w_pt[1] = PA(page[2]) | P | W | U | G;
	invpcid(2, 0, 0);
	CHECK_EQ(*(volatile uint8_t *)at, 2);
	rule("INVLPG of a global page holds for all PCIDs");
	o_pt[1] = PA(page[1]) | P | W | U | G;
	w_pt[1] = PA(page[1]) | P | W | U | G;
	invlpg(at);
	CHECK_EQ(*(volatile uint8_t *)at, 1);
	write_cr3(PA(other_pml4) | 2 | 1ul << 63);
	o_pt[1] = w_pt[1] = PA(page[2]) | P | W | U | G;
	invlpg(at);
	write_cr3(cr3 | 1 | 1ul << 63);
	CHECK_EQ(*(volatile uint8_t *)at, 2);
	w_pt[1] = PA(page[2]) | P | W | U;
	invpcid(2, 0, 0);
	static struct {
		uint64_t pcid, address;
	} bad[] = {{0x1000, 0}, {1, 1ul << 47}, {0, 0}};
	RAISES("#GP: INVPCID with a reserved descriptor bit", 13, 0, AT("invpcid (%%rdi), %%rax"),
	       "D"(&bad[0]), "a"(1ul));
	RAISES("#GP: INVPCID type 0 with a non-canonical address", 13, 0, AT("invpcid (%%rdi), %%rax"),
	       "D"(&bad[1]), "a"(0ul));
	RAISES("#GP: INVPCID type 4", 13, 0, AT("invpcid (%%rdi), %%rax"), "D"(&bad[2]), "a"(4ul));
	RAISES("#GP: clearing CR0.PG while CR4.PCIDE or in 64-bit mode", 13, 0, AT("mov %%rax, %%cr0"),
	       "a"(read_cr0() & 0x7fffffff));
	write_cr3(cr3);
	write_cr4(cr4);
	RAISES("#GP: MOV to CR3 with bit 63 while CR4.PCIDE is clear", 13, 0, AT("mov %%rax, %%cr3"),
	       "a"(cr3 | 1ul << 63));
	NO_RAISE("INVPCID type 0 of PCID 0 without CR4.PCIDE", "invpcid (%%rdi), %%rax", "D"(&bad[2]),
	         "a"(0ul));
	bad[0].pcid = 1;
	RAISES("#GP: INVPCID type 1 of PCID 1 without CR4.PCIDE", 13, 0, AT("invpcid (%%rdi), %%rax"),
	       "D"(&bad[0]), "a"(1ul));
}

/* Accesses over two pages: which faults, and that nothing was done before. */
static void crossing(void)
{
	uint64_t at = AT_PAGE(2) - 4;

	rule("a read over two pages");
	reset();
	w_pt[1] = PA(page[5]) | P | W | U;
	w_pt[2] = PA(page[1]) | P | W | U;
	flush();
	*(uint32_t *)(page[5] + 4092) = 0x11223344;
	*(uint32_t *)page[1] = 0x55667788;
	CHECK_EQ(*(volatile uint64_t *)at, 0x5566778811223344);
	rule("a write over two pages");
	*(volatile uint64_t *)at = 0x0102030405060708;
	CHECK_EQ(*(uint32_t *)(page[5] + 4092), 0x05060708);
	CHECK_EQ(*(uint32_t *)page[1], 0x01020304);
	rule("LOCK over two pages");
	__asm__ volatile("lock addq %0, (%1)" : : "r"(0x0100000000000000), "r"(at) : "memory");
	CHECK_EQ(*(uint32_t *)page[1], 0x02020304);
	rule("SSE over two pages");
	uint64_t out[2] = {0};
	__asm__ volatile("movdqu (%0), %%xmm3\n\tmovdqu %%xmm3, (%1)" : : "r"(at), "r"(out) : "memory");
	CHECK_EQ(out[0], 0x0202030405060708);
	rule("#PF: the second page, CR2 is its first byte, nothing was written");
	w_pt[2] = 0;
	invlpg(AT_PAGE(2));
	CHECK_EQ(TRY("movq $-1, (%%rdi)", , "D"(at)), 14);
	CHECK_EQ(fault.cr2, AT_PAGE(2));
	CHECK_EQ(*(uint32_t *)(page[5] + 4092), 0x05060708);
	CHECK_EQ(TRY("mov (%%rdi), %%rax", , "D"(at), "rax"), 14);
	CHECK_EQ(fault.cr2, AT_PAGE(2));
	rule("#PF: the first page, CR2 is the access's first byte");
	w_pt[1] = 0;
	w_pt[2] = PA(page[1]) | P | W | U;
	flush();
	CHECK_EQ(TRY("movq $-1, (%%rdi)", , "D"(at)), 14);
	CHECK_EQ(fault.cr2, at);
	CHECK_EQ(*(uint32_t *)page[1], 0x02020304);
	rule("#PF: the first page read-only, the second not");
	w_pt[1] = PA(page[5]) | P;
	flush();
	CHECK_EQ(TRY("addq $1, (%%rdi)", , "D"(at)), 14);
	CHECK_EQ(fault.error, ERROR_P | ERROR_W);
	CHECK_EQ(fault.cr2, at);

	/* Instructions over two pages: mov $imm32, %eax; ret */
	static const uint8_t code[] = {0xb8, 0x78, 0x56, 0x34, 0x12, 0xc3};
	uint32_t got;

	for (unsigned split = 1; split < 6; split++) {
		rule("an instruction over two pages, any split");
		reset();
		w_pt[1] = PA(page[5]) | P;
		w_pt[2] = PA(page[1]) | P;
		memcpy(page[5] + 4096 - split, code, split);
		memcpy(page[1], code + split, 6 - split);
		flush();
		__asm__ volatile("call *%1" : "=a"(got) : "r"(AT_PAGE(2) - split) : "memory");
		CHECK_EQ(got, 0x12345678);
		if (split == 5)
			break;
		rule("#PF: an instruction whose second page is not there: CR2 that page, RIP its start");
		w_pt[2] = 0;
		invlpg(AT_PAGE(2));
		FAULTS_WITH(try_fetch(AT_PAGE(2) - split), ERROR_I, AT_PAGE(2));
		CHECK_EQ(fault.rip, AT_PAGE(2) - split);
		rule("an instruction over two pages, the second remapped");
		memcpy(page[3], code + split, 6 - split);
		memset(page[3], 0, 5 - split);
		w_pt[2] = PA(page[3]) | P;
		invlpg(AT_PAGE(2));
		__asm__ volatile("call *%1" : "=a"(got) : "r"(AT_PAGE(2) - split) : "memory");
		CHECK_EQ(got, 0x12345678 & ((1u << 8 * (split - 1)) - 1));
		w_pt[2] = PA(page[3]) | P | NX;
		invlpg(AT_PAGE(2));
		FAULTS_WITH(try_fetch(AT_PAGE(2) - split), ERROR_I | ERROR_P, AT_PAGE(2));
	}
}

/* ---- direct branches from several pages to one, at addresses below 2 GiB, in two address spaces ---- */

#define LOW	   0x40000000ul
#define LOW_AT(n)  (LOW + (n)*4096ul)
#define CALLERS	   3
#define TARGET	   CALLERS

static uint64_t low_pml4[2][512] TABLE, low_pdpt[2][512] TABLE, low_pd[2][512] TABLE, low_pt[2][512] TABLE;

static uint32_t call_at(uint64_t address)
{
	uint32_t got = 0;

	__asm__ volatile("call *%1" : "+a"(got) : "r"(address) : "memory", "cc");
	return got;
}

/* mov eax, value; ret */
static void place_answer(uint8_t *at, uint8_t value)
{
	memcpy(at, "\xb8\0\0\0\0\xc3", 6);
	at[1] = value;
}

/* Page `caller`: a call of the target's first byte at 0, a jump there at 64. */
static void place_caller(unsigned caller)
{
	uint32_t distance = (uint32_t)((TARGET - caller) * 4096 - 5);

	page[caller][0] = 0xe8;
	memcpy(&page[caller][1], &distance, 4);
	page[caller][5] = 0xc3;
	distance -= 64;
	page[caller][64] = 0xe9;
	memcpy(&page[caller][65], &distance, 4);
}

static void all_answer(uint32_t value)
{
	for (unsigned caller = 0; caller < CALLERS; caller++) {
		CHECK_EQ(call_at(LOW_AT(caller)), value);
		CHECK_EQ(call_at(LOW_AT(caller) + 64), value);
	}
}

static void low_branches(void)
{
	uint64_t cr4 = read_cr4(), no_flush = 0;

	for (unsigned space = 0; space < 2; space++) {
		memcpy(low_pml4[space], pml4, 4096);
		memcpy(low_pdpt[space], identity_pdpt, 4096);
		memcpy(low_pd[space], identity_pd[1], 4096);
		memset(low_pt[space], 0, 4096);
		low_pml4[space][0] = PA(low_pdpt[space]) | P | W;
		low_pdpt[space][1] = PA(low_pd[space]) | P | W;
		low_pd[space][0] = PA(low_pt[space]) | P | W;
		for (unsigned caller = 0; caller < CALLERS; caller++)
			low_pt[space][caller] = PA(page[caller]) | P | W;
		low_pt[space][TARGET] = PA(page[4 + space]) | P | W;
	}
	for (unsigned caller = 0; caller < CALLERS; caller++)
		place_caller(caller);
	place_answer(page[4], 4);
	place_answer(page[5], 5);
	write_cr3(PA(low_pml4[0]));

	rule("branches from several pages to one see it remapped and invalidated");
	for (unsigned i = 0; i < 6; i++) {
		low_pt[0][TARGET] = PA(page[4 + i % 2]) | P | W;
		invlpg(LOW_AT(TARGET));
		all_answer(4 + i % 2);
	}
	low_pt[0][TARGET] = PA(page[4]) | P | W;
	invlpg(LOW_AT(TARGET));
	rule("each address space has its own way of them");
	for (unsigned i = 0; i < 8; i++) {
		write_cr3(PA(low_pml4[i % 2]));
		all_answer(4 + i % 2);
	}
	if (has_feature(1, 2, 17)) {
		write_cr3(PA(low_pml4[0]));
		write_cr4(cr4 | CR4_PCIDE);
		for (unsigned i = 0; i < 12; i++) {
			write_cr3(PA(low_pml4[i % 2]) | (1 + i % 2) | no_flush);
			if (i)
				no_flush = 1ul << 63;
			all_answer(4 + i % 2);
			CHECK_EQ(call_at(LOW_AT(i % CALLERS)), 4 + i % 2);
		}
		write_cr3(PA(low_pml4[0]) | no_flush);
		write_cr4(cr4);
	}
	write_cr3(PA(low_pml4[0]));
	rule("one of them patched: the others lead where they led");
	for (unsigned caller = 0; caller < CALLERS; caller++) {
		all_answer(4);
		place_answer(page[caller], 9);
		CHECK_EQ(call_at(LOW_AT(caller)), 9);
		CHECK_EQ(call_at(LOW_AT((caller + 1) % CALLERS)), 4);
		CHECK_EQ(call_at(LOW_AT((caller + 2) % CALLERS) + 64), 4);
		place_caller(caller);
	}
	all_answer(4);
	rule("what they lead to patched");
	for (uint8_t value = 20; value < 24; value++) {
		place_answer(page[4], value);
		all_answer(value);
	}
	rule("#PF of each where the page is gone");
	low_pt[0][TARGET] = 0;
	invlpg(LOW_AT(TARGET));
	for (unsigned caller = 0; caller < CALLERS; caller++) {
		FAULTS_WITH(try_fetch(LOW_AT(caller)), ERROR_I, LOW_AT(TARGET));
		CHECK_EQ(fault.rip, LOW_AT(TARGET));
	}
	write_cr3(PA(pml4));
}

void guest_main(void)
{
	user_setup();
	setup();
	error_codes();
	reserved_bits();
	smep_smap();
	accessed_dirty();
	invalidation();
	pcid();
	low_branches();
	crossing();
}

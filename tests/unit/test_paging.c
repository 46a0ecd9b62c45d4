/*
 * Page walks in every paging mode, and what each flush of the TLB removes and leaves.
 *
 * gcc -std=gnu17 -O1 -g -Wall -Wextra -Wno-unused-parameter -D_GNU_SOURCE -fno-strict-aliasing -Isrc -include
 * engine/soft/cpu/hot.h tests/unit/test_paging.c
 * src/engine/soft/cpu/{paging,tlb,tlb_regions,memory,operand,string,stack,integer,hot_string}.c
 * src/util/error.c -lcmocka -o /tmp/test_paging && /tmp/test_paging
 */
#include "memory_fixture.h"

/* ---- walks ---- */

static void without_paging_linear_is_physical(void **state)
{
	cpu->cr0 = CR0_PE;
	tlb_select_context(cpu);
	assert_ptr_equal(READ(0x12345), ram + 0x12345);
	assert_ptr_equal(WRITE(0x12345), ram + 0x12345);
	assert_true(cached(0x12345, ACCESS_WRITE, TLB_SUPER));
	assert_ptr_equal(READ(ROM_BASE + 5), rom + 5);
	assert_null(WRITE(ROM_BASE + 5));
	assert_null(READ(MMIO));
	assert_false(cached(MMIO, ACCESS_READ, TLB_SUPER));
}

static void paging_32bit(void **state)
{
	cpu->cr0 = CR0_PE | CR0_PG | CR0_WP;
	cpu->cr3 = 0x1000;
	tlb_select_context(cpu);
	put32(0x1000, 0x2000 | P | W | U);
	put32(0x2000 + 4 * 5, 0x9000 | P | W);
	assert_ptr_equal(WRITE(0x5123), ram + 0x9123);
	assert_int_equal(get32(0x1000), 0x2000 | P | W | U | A);
	assert_int_equal(get32(0x2014), 0x9000 | P | W | A | D);
	assert_page_fault(READ(0x6000), 0, 0x6000);
	assert_page_fault(at(0x5000, ACCESS_WRITE, TLB_USER), 7, 0x5000);

	/* PS means nothing without CR4.PSE: the entry then names a page table. */
	put32(0x1004, 0x800000 | P | W | PS);
	put32(0x800000, 0xb000 | P);
	assert_ptr_equal(READ(0x400010), ram + 0xb010);
	cpu->cr4 = CR4_PSE;
	tlb_flush_all(cpu);
	put32(0x1004, 0x800000 | P | W | PS);
	assert_ptr_equal(WRITE(0x400010), ram + 0x800010);
	assert_ptr_equal(READ(0x7ff010), ram + 0xbff010);
	assert_int_equal(get32(0x1004), 0x800000 | P | W | PS | A | D);

	/* PSE-36: PDE bit 13 is address bit 32; bit 21 is reserved with 40 address bits. */
	put32(0x1008, 0x400000 | 1 << 13 | P | PS);
	assert_ptr_equal(READ(0x800004), ram + RAM_SIZE / 2 + 0x400004);
	put32(0x100c, 1 << 21 | P | PS);
	assert_page_fault(READ(0xc00000), 9, 0xc00000);
	/* The fetch bit needs SMEP or NX. */
	cpu->cpl = 0;
	assert_page_fault(tlb_fetch(cpu, GLA(0x1000000)), 0, 0x1000000);
	cpu->cr4 |= CR4_SMEP;
	assert_page_fault(tlb_fetch(cpu, GLA(0x1000000)), 0x10, 0x1000000);
}

static void paging_pae_uses_pdpte_registers(void **state)
{
	cpu->cr0 = CR0_PE | CR0_PG | CR0_WP;
	cpu->cr4 = CR4_PAE;
	cpu->cr3 = 0x1000;
	cpu->pdpte[1] = 0x3000 | P;
	tlb_select_context(cpu);
	put64(0x3000, 0x4000 | P | W | U);
	put64(0x4000 + 8 * 3, 0x7000 | P | W | U);
	put64(0x3008, 0x600000 | P | W | U | PS);
	assert_ptr_equal(at(0x40003008, ACCESS_WRITE, TLB_USER), ram + 0x7008);
	assert_ptr_equal(at(0x40212345, ACCESS_READ, TLB_USER), ram + 0x612345);
	assert_int_equal(get64(0x3008), 0x600000 | P | W | U | PS | A);
	assert_page_fault(READ(0x80000000), 0, 0x80000000);
	/* XD is reserved until EFER.NXE, and so are bits 62:40. */
	put64(0x4000 + 8 * 4, 0x7000 | P | NX);
	assert_page_fault(READ(0x40004000), 9, 0x40004000);
	put64(0x4000 + 8 * 4, 0x7000 | P | 1ull << 52);
	assert_page_fault(READ(0x40004000), 9, 0x40004000);
	put64(0x4000 + 8 * 4, 0x7000 | P | NX);
	cpu->efer |= EFER_NXE;
	tlb_flush_all(cpu);
	assert_ptr_equal(READ(0x40004000), ram + 0x7000);
	assert_page_fault(tlb_fetch(cpu, GLA(0x40004000)), 0x11, 0x40004000);
	/* 2 MiB pages reserve bits 20:13. */
	put64(0x3010, 0x602000 | P | PS);
	assert_page_fault(WRITE(0x40400000), 11, 0x40400000);
}

static void paging_4level(void **state)
{
	long_mode();
	map_page(1, (1ull << 32) | 0x5000 | P | W);
	assert_ptr_equal(READ(0x1fff), ram + RAM_SIZE / 2 + 0x5fff);
	assert_ptr_equal(READ(0x200000 + 0x123456), ram + 0x323456);
	assert_ptr_equal(READ(0x40000000 + 0x1234567), ram + 0x1234567);
	assert_ptr_equal(WRITE(0x40000000 + 0x1234567), ram + 0x1234567);
	assert_int_equal(get64(PDPT + 8), P | W | U | PS | A | D);
	assert_null(WRITE(0x40000000 + 0x2234567)); /* beyond RAM */

	map_page(2, 1ull << 40 | P);
	assert_page_fault(READ(0x2000), 9, 0x2000);
	put64(PML4 + 8, PDPT | P | W | U | PS);
	assert_page_fault(READ(1ull << 39), 9, 1ull << 39);
	put64(PDPT + 16, 1 << 13 | P | W | U | PS);
	assert_page_fault(READ(2ull << 30), 9, 2ull << 30);
	/* Bits 62:52 are ignored. */
	map_page(3, 0x7ffull << 52 | 0x6000 | P);
	assert_ptr_equal(READ(0x3000), ram + 0x6000);
	/* Without segment checks a non-canonical address is #GP. */
	assert_true(RAISES(READ(1ull << 47)));
	assert_int_equal(raised.vector, VECTOR_GP);
}

/* SDM, Determination of Access Rights, row by row. */
static void access_rights(void **state)
{
	static const struct {
		uint64_t page;
		enum mem_access access;
		enum tlb_class class;
		bool wp;
		uint64_t cr4;
		int error; /* -1: permitted */
	} row[] = {
	    {U, ACCESS_READ, TLB_USER, true, 0, -1},
	    {U, ACCESS_WRITE, TLB_USER, true, 0, 7},
	    {U, ACCESS_WRITE, TLB_USER, false, 0, 7},
	    {U | W, ACCESS_WRITE, TLB_USER, true, 0, -1},
	    {W, ACCESS_READ, TLB_USER, true, 0, 5},
	    {W, ACCESS_WRITE, TLB_USER, true, 0, 7},
	    {W, ACCESS_FETCH, TLB_USER, true, 0, 0x15},
	    {U, ACCESS_FETCH, TLB_USER, true, 0, -1},
	    {U | NX, ACCESS_FETCH, TLB_USER, true, 0, 0x15},
	    {0, ACCESS_WRITE, TLB_SUPER, true, 0, 3},
	    {0, ACCESS_WRITE, TLB_SUPER, false, 0, -1},
	    {U, ACCESS_WRITE, TLB_SUPER, false, 0, -1},
	    {U | W, ACCESS_WRITE, TLB_SUPER, true, 0, -1},
	    {U | W, ACCESS_READ, TLB_SUPER, true, CR4_SMAP, 1},
	    {U | W, ACCESS_WRITE, TLB_SUPER, true, CR4_SMAP, 3},
	    {U | W, ACCESS_WRITE, TLB_SUPER, false, CR4_SMAP, 3},
	    {U | W, ACCESS_WRITE, TLB_SUPER_AC, true, CR4_SMAP, -1},
	    {U, ACCESS_WRITE, TLB_SUPER_AC, true, CR4_SMAP, 3},
	    {W, ACCESS_WRITE, TLB_SUPER, true, CR4_SMAP, -1},
	    {U, ACCESS_FETCH, TLB_SUPER, true, 0, -1},
	    {U, ACCESS_FETCH, TLB_SUPER, true, CR4_SMEP, 0x11},
	    {U, ACCESS_FETCH, TLB_SUPER, true, CR4_SMAP, -1},
	    {0, ACCESS_FETCH, TLB_SUPER, true, CR4_SMEP, -1},
	    {NX, ACCESS_FETCH, TLB_SUPER, true, 0, 0x11},
	    {NX | U | W, ACCESS_READ, TLB_USER, true, 0, -1},
	};

	for (volatile unsigned level = 0; level < 2;
	     level++) /* the restriction in the PTE, then in the PDE */
		for (volatile unsigned i = 0; i < sizeof(row) / sizeof(row[0]); i++) {
			long_mode();
			cpu->cr4 |= row[i].cr4;
			cpu->cr0 = row[i].wp ? cpu->cr0 | CR0_WP : cpu->cr0 & ~(uint64_t)CR0_WP;
			cpu->cpl = row[i].class == TLB_USER ? 3 : 0;
			map_page(1, 0x5000 | P | (level ? U | W : row[i].page));
			map_page(2, 0x6000 | P | U | W);
			if (level)
				put64(PD, PT | P | row[i].page);
			/* Once cold, once with the page table in the paging-structure cache. */
			for (volatile unsigned warm = 0; warm < 2; warm++) {
				bool fault;

				if (row[i].access == ACCESS_FETCH)
					fault = RAISES(tlb_fetch(cpu, GLA(0x1000)));
				else
					fault = RAISES(at(0x1000, row[i].access, row[i].class));
				assert_int_equal(fault, row[i].error >= 0);
				if (fault) {
					assert_int_equal(raised.vector, VECTOR_PF);
					assert_int_equal(raised.error, row[i].error);
				}
				(void)RAISES(at(0x2000, ACCESS_READ, TLB_SUPER_AC));
				tlb_flush_page(cpu, GLA(0x1000));
				(void)RAISES(at(0x2000, ACCESS_READ, TLB_SUPER_AC));
			}
		}
}

static void accessed_and_dirty_flags(void **state)
{
	long_mode();
	map_page(1, 0x5000 | P | W);
	READ(0x1000);
	assert_int_equal(get64(PML4) & (A | D), A);
	assert_int_equal(get64(PDPT) & (A | D), A);
	assert_int_equal(get64(PD) & (A | D), A);
	assert_int_equal(get64(PT + 8) & (A | D), A);
	WRITE(0x1000);
	assert_int_equal(get64(PD) & (A | D), A);
	assert_int_equal(get64(PT + 8) & (A | D), A | D);

	/* A refused access sets none. */
	map_page(2, 0x6000 | P);
	put64(PD + 16, 0x400000 | P | PS);
	assert_page_fault(WRITE(0x2000), 3, 0x2000);
	assert_page_fault(WRITE(0x400000), 3, 0x400000);
	assert_int_equal(get64(PT + 16), 0x6000 | P);
	assert_int_equal(get64(PD + 16), 0x400000 | P | PS);

	/* Flags cleared by the guest come back after INVLPG. */
	map_page(1, 0x5000 | P | W);
	tlb_flush_page(cpu, GLA(0x1000));
	WRITE(0x1000);
	assert_int_equal(get64(PT + 8), 0x5000 | P | W | A | D);

	/* A read of a dirty page must not make a later write through a clean large page forget D. */
	READ(0x200000);
	assert_int_equal(get64(PD + 8) & D, 0);
	WRITE(0x200000);
	assert_int_equal(get64(PD + 8) & D, D);

	/* Page tables in ROM keep no flags and raise nothing. */
	uint64_t entry = 0x7000 | P | W;

	memcpy(rom, &entry, 8);
	put64(PD + 24, ROM_BASE | P | W);
	assert_ptr_equal(WRITE(0x600000), ram + 0x7000);
	memcpy(&entry, rom, 8);
	assert_int_equal(entry, 0x7000 | P | W);
}

static void flag_updates_notify_the_translator(void **state)
{
	long_mode();
	map_page(1, 0x5000 | P | W);
	code.page = PT;
	code.map = 1;
	READ(0x1000);
	assert_int_equal(code.written, 1);
	assert_int_equal(code.gpa, PT + 8);
}

static void permission_miss_walks_again_before_it_faults(void **state)
{
	long_mode();
	map_page(1, 0x5000 | P);
	READ(0x1000);
	assert_page_fault(WRITE(0x1000), 3, 0x1000);
	map_page(1, 0x5000 | P | W); /* widened without INVLPG */
	assert_ptr_equal(WRITE(0x1000), ram + 0x5000);

	/* The same one level up, behind the paging-structure cache. */
	put64(PD, PT | P);
	tlb_flush_current(cpu, true);
	READ(0x1000);
	put64(PD, PT | P | W);
	assert_ptr_equal(WRITE(0x1000), ram + 0x5000);
}

/*
 * SDM, Invalidation of TLBs and Paging-Structure Caches: a page table that was replaced without INVLPG may still cause a
 * fault, which forgets it.
 */
static void absent_pages_are_told_by_the_cache_once(void **state)
{
	long_mode();
	map_page(1, 0x5000 | P | W);
	READ(0x1000);
	put64(PML4, 0);
	assert_page_fault(WRITE(0x2000), 2, 0x2000);
	map_page(2, 0x6000 | P | W); /* the handler enters the page: the table is in use */
	assert_ptr_equal(WRITE(0x2000), ram + 0x6000);
	assert_page_fault(at(0x3000, ACCESS_READ, TLB_USER), 4, 0x3000);
	/* Nothing came of it. Which table counts is to be seen in the upper levels again. */
	put64(PML4, PDPT | P | W | U | 1ull << 51);
	assert_page_fault(READ(0x3000), 9, 0x3000);
	put64(PML4, PDPT | P | W | U);

	/* A fault, but for an address of its own, and the new table is found. */
	tlb_flush_current(cpu, true);
	READ(0x1000);
	put64(PD, 0x8000 | P | W | U);
	put64(0x8000 + 8 * 4, 0x9000 | P | W);
	put64(0x8000 + 8 * 5, 0xa000 | P | W);
	RAISES(READ(0x4000));
	assert_ptr_equal(READ(0x4000), ram + 0x9000);
	assert_ptr_equal(READ(0x5000), ram + 0xa000);
}

/* ---- flushes ---- */

static void cr3_load_keeps_global_pages(void **state)
{
	long_mode();
	map_page(1, 0x5000 | P | W);
	map_page(2, 0x6000 | P | W | G);
	WRITE(0x1000);
	WRITE(0x2000);
	tlb_flush_current(cpu, true);
	assert_false(cached(0x1000, ACCESS_READ, TLB_SUPER));
	assert_false(cached(0x1000, ACCESS_WRITE, TLB_SUPER));
	assert_true(cached(0x2000, ACCESS_READ, TLB_SUPER));
	assert_true(cached(0x2000, ACCESS_WRITE, TLB_SUPER));

	/* A slot that changed from local to global and back stays in order. */
	map_page(1, 0x5000 | P | W | G);
	WRITE(0x1000);
	tlb_flush_current(cpu, true);
	assert_true(cached(0x1000, ACCESS_WRITE, TLB_SUPER));
	tlb_flush_page(cpu, GLA(0x1000));
	map_page(1, 0x5000 | P | W);
	WRITE(0x1000);
	tlb_flush_current(cpu, true);
	assert_false(cached(0x1000, ACCESS_WRITE, TLB_SUPER));
	tlb_flush_current(cpu, false);
	assert_false(cached(0x2000, ACCESS_READ, TLB_SUPER));

	/* The new tables count, those remembered for the old ones do not. */
	READ(0x1000);
	memcpy(ram + 0x11000, ram + PML4, 0x4000);
	put64(0x11000, 0x12000 | P | W);
	put64(0x12000, 0x13000 | P | W);
	put64(0x13000, 0x14000 | P | W);
	put64(0x14008, 0x8000 | P | W);
	cpu->cr3 = 0x11000;
	tlb_flush_current(cpu, true);
	assert_ptr_equal(READ(0x1000), ram + 0x8000);
	cpu->cr3 = PML4;
	tlb_flush_current(cpu, true);

	/* G counts only under CR4.PGE. */
	cpu->cr4 &= ~(uint64_t)CR4_PGE;
	tlb_flush_all(cpu);
	READ(0x2000);
	tlb_flush_current(cpu, true);
	assert_false(cached(0x2000, ACCESS_READ, TLB_SUPER));
}

static void use_pcid(unsigned pcid)
{
	cpu->cr3 = PML4 | pcid;
	tlb_select_context(cpu);
}

static void pcids_have_contexts_of_their_own(void **state)
{
	struct tlb_region *first;

	long_mode();
	cpu->cr4 |= CR4_PCIDE;
	map_page(1, 0x5000 | P | W);
	use_pcid(1);
	first = cpu->region;
	READ(0x1000);
	use_pcid(2);
	assert_ptr_not_equal(cpu->region, first);
	assert_false(cached(0x1000, ACCESS_READ, TLB_SUPER));
	use_pcid(1);
	assert_ptr_equal(cpu->region, first);
	assert_true(cached(0x1000, ACCESS_READ, TLB_SUPER));
	/* The alias at the region's start is struct cpu itself. */
	assert_int_equal(((struct cpu *)cpu->region)->rip, cpu->rip);
	cpu->rip = 0x77;
	assert_int_equal(((struct cpu *)cpu->region)->rip, 0x77);

	/* More PCIDs than contexts: the one reused longest ago goes, and is empty when it comes back. */
	for (unsigned pcid = 2; pcid < 2 + TLB_CONTEXTS; pcid++) {
		use_pcid(pcid);
		assert_false(cached(0x1000, ACCESS_READ, TLB_SUPER));
		READ(0x1000);
	}
	use_pcid(1);
	assert_false(cached(0x1000, ACCESS_READ, TLB_SUPER));
	use_pcid(1 + TLB_CONTEXTS);
	assert_true(cached(0x1000, ACCESS_READ, TLB_SUPER));
}

static void fill_two_pcids(void)
{
	for (unsigned pcid = 1; pcid <= 2; pcid++) {
		use_pcid(pcid);
		READ(0x1000);
		READ(0x2000);
		READ(0x3000);
	}
}

static bool cached_in(unsigned pcid, uint64_t gla)
{
	use_pcid(pcid);
	return cached(gla, ACCESS_READ, TLB_SUPER);
}

static void invlpg_and_invpcid_reach_what_the_manual_says(void **state)
{
	long_mode();
	cpu->cr4 |= CR4_PCIDE;
	map_page(1, 0x5000 | P | W);
	map_page(2, 0x6000 | P | W | G);
	map_page(3, 0x7000 | P | W);

	fill_two_pcids(); /* INVLPG: this PCID; global ones in all */
	tlb_flush_page(cpu, GLA(0x1000));
	tlb_flush_page(cpu, GLA(0x2000));
	assert_false(cached_in(2, 0x1000));
	assert_false(cached_in(2, 0x2000));
	assert_true(cached_in(2, 0x3000));
	assert_true(cached_in(1, 0x1000));
	assert_false(cached_in(1, 0x2000));

	fill_two_pcids(); /* type 0: one address of one PCID */
	tlb_flush_pcid(cpu, 0, 1, GLA(0x1000));
	assert_true(cached_in(2, 0x1000));
	assert_false(cached_in(1, 0x1000));
	assert_true(cached_in(1, 0x3000));

	fill_two_pcids(); /* type 1: all of one PCID but global */
	tlb_flush_pcid(cpu, 1, 1, GLA(0));
	assert_true(cached_in(2, 0x1000));
	assert_false(cached_in(1, 0x1000));
	assert_true(cached_in(1, 0x2000));

	fill_two_pcids(); /* type 3: all PCIDs but global */
	tlb_flush_pcid(cpu, 3, 0, GLA(0));
	assert_false(cached_in(2, 0x1000));
	assert_true(cached_in(2, 0x2000));
	assert_false(cached_in(1, 0x1000));
	assert_true(cached_in(1, 0x2000));

	fill_two_pcids(); /* type 2: everything */
	tlb_flush_pcid(cpu, 2, 0, GLA(0));
	assert_false(cached_in(2, 0x2000));
	assert_false(cached_in(1, 0x2000));
}

static void invlpg_in_a_large_page_removes_every_piece(void **state)
{
	long_mode();
	map_page(1, 0x5000 | P | W);
	READ(0x1000);
	READ(0x200000);
	WRITE(0x3ff000);
	tlb_fetch(cpu, GLA(0x345000));
	put64(PD + 8, 0x400000 | P | W | U | PS);
	tlb_flush_page(cpu, GLA(0x280000));
	assert_false(cached(0x200000, ACCESS_READ, TLB_SUPER));
	assert_false(cached(0x3ff000, ACCESS_WRITE, TLB_SUPER));
	assert_ptr_equal(READ(0x200000), ram + 0x400000);
	assert_int_equal(tlb_fetch(cpu, GLA(0x345000))->gpa, 0x545000);

	READ(0x40000000);
	READ(0x41000000);
	tlb_flush_page(cpu, GLA(0x7fffffff));
	assert_false(cached(0x40000000, ACCESS_READ, TLB_SUPER));
	assert_false(cached(0x41000000, ACCESS_READ, TLB_SUPER));
}

/* ---- jump caches ---- */

static struct jump_entry *jump_fill(enum tlb_class class, uint64_t rip)
{
	tlb_fetch(cpu, GLA(rip));
	tlb_fill_jump(&cpu->region->tables, class, rip, NULL);
	return &cpu->region->tables.jump[class][jump_slot_of(rip)];
}

static void jump_caches_go_when_their_mapping_may_have_changed(void **state)
{
	struct jump_entry *kernel, *user;

	long_mode();
	map_page(1, 0x5000 | P | G);
	map_page(2, 0x6000 | P | U);
	map_page(3, 0x7000 | P | U);
	assert_int_equal(cpu->region->tables.jump[TLB_USER][77].rip, ~0ull);
	kernel = jump_fill(TLB_SUPER, 0x1010);
	cpu->cpl = 3;
	cpu->mode &= ~(3u << MODE_CLASS_SHIFT);
	user = jump_fill(TLB_USER, 0x2010);
	at(0x3000, ACCESS_READ, TLB_USER);

	tlb_flush_page(cpu, GLA(0x3000)); /* no code there */
	assert_int_equal(user->rip, 0x2010);
	tlb_flush_page(cpu, GLA(0x2000));
	assert_int_equal(user->rip, ~0ull);
	assert_int_equal(kernel->rip, 0x1010);

	user = jump_fill(TLB_USER, 0x2010);
	tlb_flush_current(cpu, true); /* the tables lead to the same code */
	assert_int_equal(user->rip, 0x2010);
	map_page(2, 0x9000 | P | U);
	tlb_flush_current(cpu, true); /* global code stays */
	assert_int_equal(user->rip, ~0ull);
	assert_int_equal(kernel->rip, 0x1010);

	/* Also where fetch[] has forgotten the page. */
	user = jump_fill(TLB_USER, 0x2010);
	put64(PD + 8 * (FETCH_SLOTS / 512), PT | P | W | U); /* the same pages again, at other addresses */
	tlb_fetch(cpu, GLA(0x2000 + FETCH_SLOTS * PAGE_SIZE));
	tlb_flush_page(cpu, GLA(0x2000));
	assert_int_equal(user->rip, ~0ull);

	/* Another mode key empties its class only, and going to and fro between classes nothing. */
	user = jump_fill(TLB_USER, 0x2010);
	tlb_jump_mode(cpu);
	user = jump_fill(TLB_USER, 0x2010);
	tlb_jump_mode(cpu);
	assert_int_equal(user->rip, 0x2010);
	cpu->mode ^= MODE_FPU;
	tlb_jump_mode(cpu);
	assert_int_equal(user->rip, ~0ull);
	assert_int_equal(kernel->rip, 0x1010);
	tlb_flush_jumps(cpu, true);
	assert_int_equal(kernel->rip, ~0ull);

	/* As many as are emptied one by one, and more. */
	for (unsigned count = TLB_LOG_MAX - 1; count <= TLB_LOG_MAX + 3; count++) {
		for (unsigned i = 0; i < count; i++)
			jump_fill(TLB_USER, 0x2000 + i);
		tlb_flush_jumps(cpu, false);
		for (unsigned slot = 0; slot < JUMP_CACHE_SLOTS; slot++)
			assert_int_equal(cpu->region->tables.jump[TLB_USER][slot].rip, jump_entry_empty(slot));
	}
}

/* As translated code fills it. */
static struct jump_entry *site_fill(unsigned site, uint64_t rip)
{
	struct tlb_tables *tables = &cpu->region->tables;

	tables->site[TLB_USER][site] = (struct jump_entry){ rip, tables };
	tables->jump_used[TLB_USER] = true;
	tlb_log_add(&tables->site_log[TLB_USER], site);
	return &tables->site[TLB_USER][site];
}

static void assert_site_empty(const struct jump_entry *site)
{
	assert_int_equal(site->rip, SITE_EMPTY);
	assert_ptr_equal(site->code, cpu->site_empty);
}

static void sites_go_with_the_jump_caches(void **state)
{
	struct jump_entry *first, *second;

	long_mode();
	cpu->cr4 |= CR4_PCIDE;
	use_pcid(1);
	cpu->site_empty = &first;
	tlb_empty_sites(cpu, true);
	for (unsigned i = 0; i < CALL_SITES; i++)
		assert_site_empty(&cpu->region->tables.site[TLB_USER][i]);
	first = site_fill(5, 0x2010);
	tlb_flush_jumps(cpu, false);
	assert_site_empty(first);
	first = site_fill(CALL_SITES - 1, 0x2010);
	use_pcid(2);
	second = site_fill(CALL_SITES - 1, 0x2010);
	assert_ptr_not_equal(first, second);
	tlb_empty_sites(cpu, false); /* a block is gone: in every context */
	assert_site_empty(first);
	assert_site_empty(second);
	/* More than the log holds. */
	for (unsigned i = 0; i < TLB_LOG_MAX + 2; i++)
		second = site_fill(i % CALL_SITES, 0x2010);
	tlb_empty_sites(cpu, false);
	for (unsigned i = 0; i < CALL_SITES; i++)
		assert_site_empty(&cpu->region->tables.site[TLB_USER][i]);
}

/* ---- links ---- */

static void *stub_of_link[4];

/* As bt/block.c does it, with all links. */
void bt_reset_links(struct cpu *c, struct tlb_tables *tables)
{
	memcpy(tables->link, stub_of_link, sizeof(stub_of_link));
	tables->link_log.count = 0;
}

/* The one in use from the start, those never used yet, and those that were emptied meanwhile. */
static void every_context_has_every_link(void **state)
{
	static uint8_t stub[3];

	long_mode();
	cpu->cr4 |= CR4_PCIDE;
	for (unsigned link = 0; link < 3; link++) {
		stub_of_link[link] = &stub[link];
		tlb_set_link(cpu, link, &stub[link]);
		use_pcid(1 + link);
		tlb_flush_all(cpu);
	}
	for (unsigned pcid = 0; pcid < TLB_CONTEXTS; pcid++) {
		use_pcid(pcid);
		for (unsigned link = 0; link < 3; link++)
			assert_ptr_equal(cpu->region->tables.link[link], &stub[link]);
	}
	memset(stub_of_link, 0, sizeof(stub_of_link));
}

/* ---- nested paging ---- */

#define NESTED_OFFSET 0x1000000u /* L2-physical 0 is here */

static struct {
	unsigned calls, walk_reads, walk_writes;
	struct nested_access last;
	uint64_t deny; /* this L2 page is refused */
	uint64_t apic; /* this one is the APIC-access page */
	bool clean;    /* nothing is writable without a further walk, unless asked for a write */
	bool forgets;  /* nothing is told without a walk */
} nested;

static void translate(struct cpu *c, gpa_t l2_gpa, const struct nested_access *access,
                      struct nested_mapping *mapping)
{
	nested.calls++;
	nested.last = *access;
	if (access->is_walk && access->access == ACCESS_WRITE)
		nested.walk_writes++;
	if (access->is_walk && access->access == ACCESS_READ)
		nested.walk_reads++;
	if (l2_gpa.v >> PAGE_SHIFT == nested.deny >> PAGE_SHIFT) {
		raised.vector = -1;
		longjmp(raised.jump, 1);
	}
	mapping->l1_gpa = GPA((l2_gpa.v & PAGE_MASK) + NESTED_OFFSET);
	mapping->writable = !nested.clean || access->access == ACCESS_WRITE;
	mapping->executable = true;
	mapping->apic_access = l2_gpa.v >> PAGE_SHIFT == nested.apic >> PAGE_SHIFT;
}

static bool peek(struct cpu *c, gpa_t l2_gpa, enum mem_access access, struct nested_mapping *mapping)
{
	mapping->l1_gpa = GPA((l2_gpa.v & PAGE_MASK) + NESTED_OFFSET);
	mapping->writable = access == ACCESS_WRITE;
	return !nested.forgets;
}

static bool apic_access(struct cpu *c, gpa_t l2_gpa, unsigned size, enum mem_access access, uint64_t *value)
{
	*value = 0x1234 + (l2_gpa.v & 0xfff);
	return true;
}

static const struct virt_hooks hooks = {.translate = translate, .peek = peek, .apic_access = apic_access};

static void nested_paging_combines_both_tables(void **state)
{
	memset(&nested, 0, sizeof(nested));
	nested.deny = nested.apic = ~0ull;
	long_mode();
	map_page(1, 0x5000 | P | W | U);
	map_page(2, 0x6000 | P | U | NX);
	map_page(3, 0x7000 | P | W);
	memcpy(ram + NESTED_OFFSET, ram, 0x10000);
	memset(ram, 0, 0x10000);
	cpu->virt = &hooks;
	cpu->nested_paging = true;
	cpu->eptp = 0x123000;
	cpu->vpid = 1;
	cpu->mode |= MODE_NONROOT;
	tlb_select_context(cpu);
	assert_ptr_equal(WRITE(0x1004), ram + NESTED_OFFSET + 0x5004);
	assert_int_equal(nested.calls, 5);
	assert_int_equal(nested.walk_reads, 4);
	assert_int_equal(nested.walk_writes, 0);
	assert_int_equal(get64(NESTED_OFFSET + PT + 8), 0x5000 | P | W | U | A | D);
	assert_false(nested.last.is_walk);
	assert_true(nested.last.linear_valid && nested.last.user_page && nested.last.writable_page);
	assert_int_equal(nested.last.gla.v, 0x1004);
	READ(0x2000); /* the page table is known */
	assert_int_equal(nested.calls, 6);
	assert_true(nested.last.nx_page && !nested.last.writable_page);

	/* Clean EPT entries: flag updates ask for a write, and no write entry without EPT's dirty flag. */
	nested.clean = true;
	tlb_flush_ept(cpu, 1, 0x123000);
	assert_false(cached(0x1000, ACCESS_READ, TLB_SUPER));
	put64(NESTED_OFFSET + PT + 8, 0x5000 | P | W | U);
	READ(0x1000);
	assert_int_equal(nested.walk_writes, 1);
	WRITE(0x1000); /* the table's page is dirty by now */
	assert_int_equal(nested.walk_writes, 1);
	assert_true(cached(0x1000, ACCESS_WRITE, TLB_SUPER));

	/* Violations leave, wherever they happen. */
	nested.deny = 0x7000;
	assert_true(RAISES(READ(0x3000)));
	assert_int_equal(raised.vector, -1);
	nested.deny = PT;
	tlb_flush_ept(cpu, 2, 0);
	assert_true(RAISES(READ(0x1000)));
	assert_int_equal(raised.vector, -1);
	assert_true(nested.last.is_walk);
	/* A guest #PF has priority over the final page's violation. */
	nested.deny = 0x6000;
	assert_page_fault(WRITE(0x2000), 3, 0x2000);

	/* The APIC-access page is never cached. */
	nested.deny = ~0ull;
	nested.apic = 0x5000;
	tlb_flush_ept(cpu, 2, 0);
	assert_int_equal(mem_read_linear(cpu, GLA(0x1008), 4, TLB_SUPER), 0x1234 + 8);
	assert_false(cached(0x1008, ACCESS_READ, TLB_SUPER));

	/* A look without effect asks for what is remembered. */
	nested.apic = ~0ull;
	WRITE(0x1000);
	WRITE(0x40001000); /* its slot of the TLB */
	READ(0x2000);      /* its page table */
	nested.calls = 0;
	nested.forgets = true;
	assert_false(tlb_peek(cpu, GLA(0x1000), ACCESS_WRITE, TLB_SUPER));
	nested.forgets = false;
	assert_true(tlb_peek(cpu, GLA(0x1000), ACCESS_WRITE, TLB_SUPER));
	assert_true(cached(0x1000, ACCESS_WRITE, TLB_SUPER));
	assert_ptr_equal(WRITE(0x1004), ram + NESTED_OFFSET + 0x5004);
	assert_int_equal(nested.calls, 0);

	/* INVVPID of another VPID and INVEPT of another EPTP leave it alone; root operation has its own. */
	READ(0x1000);
	tlb_flush_vpid(cpu, 1, 2, GLA(0));
	tlb_flush_ept(cpu, 1, 0x124000);
	assert_true(cached(0x1000, ACCESS_READ, TLB_SUPER));
	cpu->virt = NULL;
	cpu->nested_paging = false;
	cpu->vpid = 0;
	cpu->eptp = 0;
	cpu->mode &= ~MODE_NONROOT;
	tlb_select_context(cpu);
	assert_false(cached(0x1000, ACCESS_READ, TLB_SUPER));
	tlb_flush_vpid(cpu, 1, 1, GLA(0));
	cpu->virt = &hooks;
	cpu->nested_paging = true;
	cpu->eptp = 0x123000;
	cpu->vpid = 1;
	cpu->mode |= MODE_NONROOT;
	tlb_select_context(cpu);
	assert_false(cached(0x1000, ACCESS_READ, TLB_SUPER));
	/* Type 2 spares VPID 0. */
	READ(0x1000);
	tlb_flush_vpid(cpu, 2, 0, GLA(0));
	assert_false(cached(0x1000, ACCESS_READ, TLB_SUPER));
}

/* ---- code and watched pages ---- */

static void pages_that_hold_code_get_no_write_entry(void **state)
{
	long_mode();
	map_page(1, 0x5000 | P | W);
	map_page(2, 0x5000 | P | W);
	map_page(3, 0x5000 | P | W);
	WRITE(0x1000);
	WRITE(0x2000);
	code.page = 0x5000;
	code.map = 1ull << 2;
	tlb_revoke_write(cpu, GPA(0x5000));
	assert_false(cached(0x1000, ACCESS_WRITE, TLB_SUPER));
	assert_false(cached(0x2000, ACCESS_WRITE, TLB_SUPER));
	assert_true(cached(0x1000, ACCESS_READ, TLB_SUPER));
	assert_ptr_equal(WRITE(0x1000), ram + 0x5000); /* beside the code */
	assert_false(cached(0x1000, ACCESS_WRITE, TLB_SUPER));
	assert_null(WRITE(0x1080));
	ram[0x5080] = 0x55;
	mem_write_linear(cpu, GLA(0x107e), 4, 0xaaaaaaaa, TLB_SUPER);
	assert_int_equal(code.written, 1);
	assert_int_equal(code.old, ram[0x5000]);
	assert_int_equal(get32(0x507e), 0xaaaaaaaa);
	WRITE(0x1000);
	assert_true(cached(0x1000, ACCESS_WRITE, TLB_SUPER));

	/* More aliases than the hint holds, in two contexts. */
	WRITE(0x2000);
	WRITE(0x3000);
	cpu->cr4 |= CR4_PCIDE;
	use_pcid(1);
	WRITE(0x3000);
	code.map = 1;
	tlb_revoke_write(cpu, GPA(0x5000));
	assert_false(cached(0x3000, ACCESS_WRITE, TLB_SUPER));
	use_pcid(0);
	for (unsigned page = 1; page <= 3; page++)
		assert_false(cached(page * PAGE_SIZE, ACCESS_WRITE, TLB_SUPER));
}

/* As translated code does it: a copy of the entry that a write at gla has filled. */
static struct stack_window *open_window(uint64_t gla)
{
	struct stack_window *window = &cpu->stack[TLB_SUPER];

	WRITE(gla);
	*window = (struct stack_window){ .base = gla & PAGE_MASK,
					 .addend = cpu->region->tables.write[TLB_SUPER].addend[tlb_slot(gla)],
					 .positions = { PAGE_SIZE - STACK_REACH(0) + 1, PAGE_SIZE - STACK_REACH(1) + 1 } };
	return window;
}

static void assert_closed(const struct stack_window *window)
{
	for (unsigned i = 0; i < STACK_REACHES; i++)
		assert_int_equal(window->positions[i], 0);
}

static void the_stack_window_closes_with_its_entry(void **state)
{
	const uint64_t rival = 0x1000 + (uint64_t)TLB_SLOTS * PAGE_SIZE;
	struct stack_window *window;

	long_mode();
	map_page(1, 0x5000 | P | W);
	map_page(2, 0x6000 | P | W);
	window = open_window(0x1008);
	WRITE(0x2000);
	READ(0x1010);
	assert_int_not_equal(window->positions[0], 0); /* what replaces nothing leaves it */
	assert_int_not_equal(window->positions[1], 0);
	tlb_flush_page(cpu, GLA(0x1fff));
	assert_closed(window);

	window = open_window(0x1008);
	tlb_flush_current(cpu, true);
	assert_closed(window);
	window = open_window(0x1008);
	tlb_flush_all(cpu);
	assert_closed(window);
	window = open_window(0x1008);
	tlb_revoke_write(cpu, GPA(0x6000));
	assert_int_not_equal(window->positions[0], 0);
	tlb_revoke_write(cpu, GPA(0x5000));
	assert_closed(window);

	/* Another page takes the slot. */
	window = open_window(0x1008);
	put64(PD + 8 * (rival >> 21), 0 | P | W | PS);
	WRITE(rival);
	assert_closed(window);
	assert_int_equal(window->base, 0x1000); /* accesses that a look-up has permitted may still follow */
	tlb_lend_window(cpu, TLB_SUPER, 0x1234);
	assert_closed(window);
	assert_int_equal(window->addend, 0x1234);

	/* Another context's page. */
	window = open_window(0x1008);
	cpu->cr4 |= CR4_PCIDE;
	use_pcid(3);
	assert_closed(window);
}

static void watched_pages_are_not_cached(void **state)
{
	long_mode();
	map_page(1, 0x5000 | P | W);
	WRITE(0x1000);
	cpu->dr[0] = 0x1010;
	cpu->dr7 = 1 | 1u << 16 | 3u << 18; /* write, 4 bytes */
	tlb_watch_changed(cpu);
	assert_false(cached(0x1000, ACCESS_WRITE, TLB_SUPER));
	assert_ptr_equal(WRITE(0x1000), ram + 0x5000);
	assert_false(cached(0x1000, ACCESS_WRITE, TLB_SUPER));
	assert_null(WRITE(0x1013));
	mem_write_linear(cpu, GLA(0x1014), 4, 1, TLB_SUPER);
	(void)mem_read_linear(cpu, GLA(0x1010), 4, TLB_SUPER);
	assert_false(cpu->debug_trap_pending);
	mem_write_linear(cpu, GLA(0x100c), 8, 0x1122334455667788, TLB_SUPER);
	assert_true(cpu->debug_trap_pending);
	assert_int_equal(cpu->dr6_pending, 1);
	assert_int_equal(get64(0x500c), 0x1122334455667788);
}

/* ---- random tables against a plain walk ---- */

/* Returns the physical address, or minus the error code minus 1. */
static int64_t plain_walk(uint64_t gla, enum mem_access access, enum tlb_class class)
{
	uint64_t table = PML4, rights = W | U, entry = 0, error = 0, nx = 0;
	unsigned shift;

	error = (access == ACCESS_WRITE ? 2 : 0) | (class == TLB_USER ? 4 : 0) |
	        (access == ACCESS_FETCH ? 16 : 0);
	for (shift = 39;; shift -= 9) {
		entry = get64(table + 8 * (gla >> shift & 511));
		if (!(entry & P))
			return -(int64_t)error - 1;
		if (entry >> 40 & 0xfff)
			return -(int64_t)(error | 9) - 1;
		rights &= entry;
		nx |= entry & NX;
		table = entry & 0xfffffff000;
		if (shift == 12)
			break;
		if (entry & PS) {
			if (table & ((1ull << shift) - 1) & ~0x1fffull)
				return -(int64_t)(error | 9) - 1;
			break;
		}
	}
	error |= 1;
	if (class == TLB_USER ? !(rights & U) : class == TLB_SUPER && (rights & U) && access != ACCESS_FETCH)
		return -(int64_t)error - 1; /* SMAP is on */
	if (access == ACCESS_WRITE && !(rights & W))
		return -(int64_t)error - 1;
	if (access == ACCESS_FETCH && nx)
		return -(int64_t)error - 1;
	return (table & ~((1ull << shift) - 1)) | (gla & ((1ull << shift) - 1));
}

static uint32_t random_state = 12345;

static uint32_t random32(void)
{
	random_state ^= random_state << 13;
	random_state ^= random_state >> 17;
	random_state ^= random_state << 5;
	return random_state;
}

static void random_tables(void **state)
{
	long_mode();
	cpu->cr4 |= CR4_SMAP | CR4_PCIDE;
	put64(PDPT + 8, 0);
	for (unsigned i = 0; i < 8; i++) /* 8 page tables for the first 16 MiB */
		put64(PD + 8 * i, (0x10000 + i * 0x1000) | P | W | U);
	tlb_flush_all(cpu);
	for (unsigned turn = 0; turn < 400000; turn++) {
		uint32_t what = random32() % 64;
		uint64_t gla = (random32() % 8) << 21 | (random32() % 8) << 12 | (random32() & 0xfff);
		uint64_t flags = random32() & (P | W | U | G), entry;

		if (random32() % 4)
			flags |= P | W;
		if (random32() % 8 == 0)
			flags |= NX;
		if (random32() % 64 == 0)
			flags |= 1ull << 45;
		if (what < 4) {
			/* A PTE, seen after INVLPG. All PCIDs share the tables, so tell all of them. */
			entry = ((0x100000 + (random32() % 64) * 0x1000)) | flags;
			put64(0x10000 + (gla >> 12 & 0xfff) % 4096 * 8, entry);
			if (flags & G)
				tlb_flush_pcid(cpu, 2, 0, GLA(0));
			for (unsigned pcid = 0; pcid < 4; pcid++)
				tlb_flush_pcid(cpu, 0, pcid, GLA(gla));
			tlb_flush_page(cpu, GLA(gla));
		} else if (what == 4) {
			/* A PDE: a page table or a large page. */
			if (random32() % 2)
				entry = (0x200000ull * (1 + random32() % 4)) | flags | PS;
			else
				entry = (0x10000 + (gla >> 21) * 0x1000) | flags;
			put64(PD + 8 * (gla >> 21), entry);
			tlb_flush_pcid(cpu, 2, 0, GLA(0));
		} else if (what == 5) {
			/* A large page changed: INVLPG by any address in it. */
			if ((get64(PD + 8 * (gla >> 21)) & (PS | G)) != PS)
				continue;
			put64(PD + 8 * (gla >> 21), (0x200000ull * (1 + random32() % 4)) | (flags & ~G) | PS);
			for (unsigned pcid = 0; pcid < 4; pcid++)
				tlb_flush_pcid(cpu, 0, pcid,
				               GLA((gla & ~0x1fffffull) | (random32() & 0x1fffff)));
		} else if (what == 6) {
			use_pcid(random32() % 4);
		} else if (what == 7) {
			tlb_flush_current(cpu, true);
		} else {
			volatile enum mem_access access = random32() % 3;
			volatile enum tlb_class class = random32() % 3;
			volatile int64_t got = 0;
			volatile int64_t expected;

			if (access == ACCESS_FETCH && class == TLB_SUPER_AC)
				class = TLB_SUPER;
			expected = plain_walk(gla, access, class);
			cpu->cpl = class == TLB_USER ? 3 : 0;
			if (RAISES({
				    if (access == ACCESS_FETCH)
					    got = (int64_t)tlb_fetch(cpu, GLA(gla))->gpa | (gla & 0xfff);
				    else
					    got = at(gla, access, class) - ram;
			    }))
				got = -(int64_t)raised.error - 1;
			if (got != expected)
				fail_msg("turn %u: gla %lx access %d class %d: %lx instead of %lx", turn, gla,
				         access, class, got, expected);
		}
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    TEST(without_paging_linear_is_physical),
	    TEST(paging_32bit),
	    TEST(paging_pae_uses_pdpte_registers),
	    TEST(paging_4level),
	    TEST(access_rights),
	    TEST(accessed_and_dirty_flags),
	    TEST(flag_updates_notify_the_translator),
	    TEST(permission_miss_walks_again_before_it_faults),
	    TEST(absent_pages_are_told_by_the_cache_once),
	    TEST(cr3_load_keeps_global_pages),
	    TEST(pcids_have_contexts_of_their_own),
	    TEST(invlpg_and_invpcid_reach_what_the_manual_says),
	    TEST(invlpg_in_a_large_page_removes_every_piece),
	    TEST(jump_caches_go_when_their_mapping_may_have_changed),
	    TEST(sites_go_with_the_jump_caches),
	    TEST(every_context_has_every_link),
	    TEST(nested_paging_combines_both_tables),
	    TEST(pages_that_hold_code_get_no_write_entry),
	    TEST(the_stack_window_closes_with_its_entry),
	    TEST(watched_pages_are_not_cached),
	    TEST(random_tables),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

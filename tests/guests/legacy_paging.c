/* 32-bit and PAE paging (SDM volume 3, 32-Bit Paging; PAE Paging). */
#include "runtime/guest32.h"

#define P  1u
#define W  2u
#define U  4u
#define A  0x20u
#define D  0x40u
#define PS 0x80u

#define WINDOW 0x40000000u
#define TABLE  __attribute__((aligned(4096)))
static uint32_t directory[1024] TABLE, table[1024] TABLE;
static uint64_t pdpt[4] TABLE, other_pdpt[4] TABLE, pae_pd[512] TABLE, w_pd[512] TABLE, w_pt[512] TABLE,
    x_pd[512] TABLE;
static uint8_t page[4][4096] TABLE;

static void flush(void)
{
	write_cr3(read_cr3());
}

static uint32_t try_read(uint32_t at)
{
	uint32_t value;

	return TRY("mov (%1), %0", "=r"(value), "r"(at));
}

static uint32_t try_write(uint32_t at)
{
	return TRY("movb $1, (%0)", , "r"(at));
}

static void two_level(void)
{
	uint32_t at = WINDOW + 0x1008;

	for (unsigned i = 0; i < 4; i++)
		table[i] = (uint32_t)page[i] | P | W;
	for (unsigned i = 0; i < 64; i++)
		directory[i] = i << 22 | P | W | PS;
	directory[WINDOW >> 22] = (uint32_t)table | P | W;
	write_cr4(read_cr4() | 0x10);
	write_cr3((uint32_t)directory);
	write_cr0(read_cr0() | 0x80010000);
	rule("32-bit paging: 4 KiB and 4 MiB pages");
	page[1][8] = 0x5a;
	CHECK_EQ(*(volatile uint8_t *)at, 0x5a);
	CHECK_EQ(table[1] & (A | D), A);
	*(volatile uint8_t *)at = 0x5b;
	CHECK_EQ(table[1] & (A | D), A | D);
	CHECK_EQ(directory[WINDOW >> 22] & A, A);
	rule("32-bit paging: error codes");
	table[1] &= ~W;
	flush();
	CHECK_EQ(try_write(at), 14);
	CHECK_EQ(fault.error, 3);
	CHECK_EQ(fault.cr2, at);
	table[1] = 0;
	flush();
	CHECK_EQ(try_read(at), 14);
	CHECK_EQ(fault.error, 0);
	directory[WINDOW >> 22] = 0;
	flush();
	CHECK_EQ(try_write(at), 14);
	CHECK_EQ(fault.error, 2);
	rule("32-bit paging: reserved bits of a 4 MiB page");
	directory[WINDOW >> 22] = P | W | PS | 1u << 21;
	flush();
	CHECK_EQ(try_read(at), 14);
	CHECK_EQ(fault.error, 9);
	rule("32-bit paging: PS is ignored without CR4.PSE");
	directory[WINDOW >> 22] = (uint32_t)table | P | W | PS;
	table[1] = (uint32_t)page[1] | P | W;
	/* The code itself lies in a 4 MiB page: map it by 4 KiB for the time. */
	static uint32_t low[1024] TABLE;
	for (unsigned i = 0; i < 1024; i++)
		low[i] = i << 12 | P | W;
	directory[0] = (uint32_t)low | P | W;
	flush();
	write_cr4(read_cr4() & ~0x10u);
	CHECK_EQ(*(volatile uint8_t *)at, 0x5b);
	write_cr4(read_cr4() | 0x10);
	rule("32-bit paging: PSE-36 puts bits 39:32 into 20:13");
	directory[WINDOW >> 22] = P | W | PS | 1u << 13;
	flush();
	CHECK_EQ(*(volatile uint32_t *)(WINDOW + 0x100000), 0xffffffff); /* nothing is at 4 GiB */
	write_cr0(read_cr0() & 0x7fffffff);
}

static void pae(void)
{
	uint32_t at = WINDOW + 0x1008;

	for (unsigned i = 0; i < 512; i++)
		pae_pd[i] = (uint64_t)i << 21 | P | W | PS;
	for (unsigned i = 0; i < 4; i++)
		w_pt[i] = (uint32_t)page[i] | P | W;
	w_pd[0] = (uint32_t)w_pt | P | W;
	pdpt[0] = (uint32_t)pae_pd | P;
	pdpt[1] = (uint32_t)w_pd | P;
	write_cr4(read_cr4() | 0x20);
	write_cr3((uint32_t)pdpt);
	write_cr0(read_cr0() | 0x80010000);
	rule("PAE paging: 4 KiB and 2 MiB pages");
	CHECK_EQ(*(volatile uint8_t *)at, 0x5b);
	rule("PAE paging: PDPTEs are registers, loaded by MOV to CR3");
	x_pd[0] = (uint32_t)w_pt | P | W;
	w_pt[1] = (uint32_t)page[2] | P | W;
	page[2][8] = 0x77;
	pdpt[1] = 0;
	__asm__ volatile("invlpg (%0)" : : "r"(at) : "memory");
	CHECK_EQ(*(volatile uint8_t *)at, 0x77);
	flush();
	CHECK_EQ(try_read(at), 14);
	CHECK_EQ(fault.error, 0);
	pdpt[1] = (uint32_t)x_pd | P;
	CHECK_EQ(try_read(at), 14);
	flush();
	CHECK_EQ(*(volatile uint8_t *)at, 0x77);
	rule("#GP: MOV to CR3 with a reserved bit in a present PDPTE; CR3 stays");
	for (unsigned i = 0; i < 4; i++)
		other_pdpt[i] = pdpt[i];
	other_pdpt[2] = 0x1000 | P | W;
	CHECK_EQ(TRY("mov %0, %%cr3", , "r"(other_pdpt)), 13);
	CHECK_EQ(read_cr3(), (uint32_t)pdpt);
	other_pdpt[2] = 0x1e6;
	CHECK_EQ(TRY("mov %0, %%cr3", , "r"(other_pdpt)), NO_FAULT);
	write_cr3((uint32_t)pdpt);
	rule("PAE paging: bits above the physical addresses are reserved, bit 63 by EFER.NXE");
	w_pt[1] |= 1ull << 62;
	flush();
	CHECK_EQ(try_read(at), 14);
	CHECK_EQ(fault.error, 9);
	w_pt[1] = (uint32_t)page[2] | P | W | 1ull << 63;
	flush();
	CHECK_EQ(try_read(at), 14);
	CHECK_EQ(fault.error, 9);
	__asm__ volatile("rdmsr\n\tor $0x800, %%eax\n\twrmsr" : : "c"(0xc0000080) : "eax", "edx");
	CHECK_EQ(try_read(at), NO_FAULT);
	page[2][8] = 0xc3;
	CHECK_EQ(TRY("call *%0", , "r"(at)), 14);
	CHECK_EQ(fault.error, 0x11);
	CHECK_EQ(fault.eip, at);
	w_pt[1] = (uint32_t)page[2] | P | W;
	flush();
	CHECK_EQ(TRY("call *%0", , "r"(at)), NO_FAULT);
	rule("PAE paging: the linear address wraps at 4 GiB");
	pdpt[3] = (uint32_t)x_pd | P;
	x_pd[511] = (uint32_t)w_pt | P | W;
	w_pt[511] = (uint32_t)page[3] | P | W;
	flush();
	uint32_t saved = *(volatile uint32_t *)0;
	*(volatile uint32_t *)0 = 0x11223344;
	*(uint32_t *)(page[3] + 4092) = 0x55667788;
	uint32_t value;
	__asm__ volatile("mov -2(%1), %0" : "=r"(value) : "r"(0));
	CHECK_EQ(value, 0x33445566);
	*(volatile uint32_t *)0 = saved;
	rule("#GP: CR4.PCIDE outside IA-32e mode");
	CHECK_EQ(TRY("mov %0, %%cr4", , "r"(read_cr4() | 1u << 17)), 13);
	rule("#GP: EFER.LME while paging");
	CHECK_EQ(TRY("rdmsr\n\tor $0x100, %%eax\n\twrmsr", , OPERANDS("c"(0xc0000080), "a"(0), "d"(0))), 13);
}

void guest_main(void)
{
	two_level();
	pae();
}

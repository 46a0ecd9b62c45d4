/*
 * L2's and L1's returns where a VM exit lies between call and return: L1 rewrites L2's code or gives its page another
 * frame, and calls and returns itself meanwhile, at the same linear addresses.
 */
#include "runtime/guest.h"
#include "vmx.h"

/* The same layout in each page: xor eax, eax; call 64; add eax, value; vmcall … 64: vmcall; add eax, value; ret */
static void code_page(uint8_t *page, uint8_t value)
{
	static const uint8_t caller[] = {0x31, 0xc0, 0xe8, 64 - 7, 0, 0, 0, 0x83, 0xc0, 0, 0x0f, 0x01, 0xc1};
	static const uint8_t callee[] = {0x0f, 0x01, 0xc1, 0x83, 0xc0, 0, 0xc3};

	memcpy(page, caller, sizeof(caller));
	memcpy(page + 64, callee, sizeof(callee));
	page[9] = page[64 + 5] = value;
}

static void rewrite(void)
{
	code_page(l2_page[0], 100);
}

static void remap_in_ept(void)
{
	code_page(l2_page[1], 100);
	*ept_entry((uint64_t)l2_page[0]) = (uint64_t)l2_page[1] | EPT_RWX_WB;
	invept(1, ept_pointer(0), 0);
}

static void remap_in_tables(void)
{
	code_page(l2_page[1], 100);
	l2_window[0] = (uint64_t)l2_page[1] | 7;
	/* without VPIDs the entry flushes */
}

static void nothing(void)
{
}

/* L1 calls the same page: its returns are its own. */
static uint64_t call_as_l1(void)
{
	uint64_t result;

	__asm__ volatile("call *%1" : "=a"(result) : "r"(l2_page[2]) : "memory", "cc");
	return result;
}

static void across(const char *name, bool ept, bool windowed, void (*meanwhile)(void), uint64_t expected)
{
	rule(name);
	for (unsigned i = 0; i < 5; i++) {
		static const uint8_t own[] = {0xe8, 1, 0, 0, 0, 0xc3, 0xb8, 7, 0, 0, 0, 0xc3};

		vmx_fresh(windowed ? (const void *)L2_WINDOW : l2_page[0]); /* clears the pages */
		memcpy(l2_page[2], own, sizeof(own));
		code_page(l2_page[0], 1);
		if (windowed)
			l2_window[0] = (uint64_t)l2_page[0] | 7;
		if (ept) {
			vmx_ept(0);
			*ept_entry((uint64_t)l2_page[0]) = (uint64_t)l2_page[0] | EPT_RWX_WB;
		}
		/* VMCALL in the callee, with the call outstanding */
		CHECK_EQ(vmx_run(), EXIT_REASON_VMCALL);
		CHECK_EQ(l2[RAX], 0);
		meanwhile();
		CHECK_EQ(call_as_l1(), 7);
		vmx_skip();
		CHECK_EQ(vmx_run(), EXIT_REASON_VMCALL);
		CHECK_EQ(l2[RAX], expected);
	}
}

void guest_main(void)
{
	vmx_start();
	across("a VM exit between L2's call and return", false, false, nothing, 2);
	across("L1 rewrites L2's code between its call and return", false, false, rewrite, 200);
	across("L2's page table changes between its call and return", false, true, remap_in_tables, 200);
	if (!vmx_offers(MSR_IA32_VMX_PROCBASED_CTLS2, CPU2_ENABLE_EPT))
		return;
	across("with EPT: a VM exit between L2's call and return", true, false, nothing, 2);
	across("with EPT: L1 rewrites L2's code", true, false, rewrite, 200);
	across("with EPT: L1 gives L2's page another frame", true, false, remap_in_ept, 200);
}

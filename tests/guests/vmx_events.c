/*
 * Events in and around VMX non-root operation: exceptions, interrupts and NMIs that exit, injection,
 * IDT-vectoring information, windows, monitor trap flag, preemption timer, virtual NMIs, pending debug
 * exceptions, task switches, triple faults, INIT (SDM, VMX Non-Root Operation; VM Entries; VM Exits).
 */
#include "runtime/guest.h"
#include "vmx.h"

#define INFORMATION(type, vector) (0x80000000u | (type) << 8 | (vector))
#define HARDWARE                  3u
#define PRIVILEGED                5u
#define SOFTWARE                  6u
#define HAS_ERROR                 (1u << 11)
#define STI_BLOCKING              1u
#define MOV_SS_BLOCKING           2u
#define NMI_BLOCKING              8u
#define NMI_INFORMATION           INFORMATION(2u, 2u)

#define RFLAGS_IF 0x200ull
#define RFLAGS_TF 0x100ull
#define RFLAGS_RF 0x10000ull

/* ---- exceptions that exit ---- */

L2(e_ud, "ud2");
L2(e_de, "xor %ecx, %ecx\n\tdiv %ecx");
L2(e_bp, "int3");
L2(e_db, ".byte 0xf1");
L2(e_gp, "mov $0x1234, %eax\n\tmov %eax, %ds");
L2(e_np, "mov $0x58, %eax\n\tmov %eax, %gs");
L2(e_ss, "movabs $0x8000000000000000, %rbp\n\tmov (%rbp), %eax");
L2(e_pf, "mov %rax, (%rbx)");
L2(e_nm, "fld1");
L2(e_int, "int $0x80");
L2(e_nop, "nop\n\tnop\n\tvmcall");

static void intercept(const uint8_t *code, unsigned vector)
{
	vmx_fresh(code);
	vmwrite(EXCEPTION_BITMAP, 1u << vector);
}

static void exits_with(uint32_t information, uint64_t error, uint64_t rip, unsigned length)
{
	CHECK_EQ(vmx_run(), EXIT_REASON_EXCEPTION_OR_NMI);
	CHECK_EQ(vmread(VM_EXIT_INTERRUPTION_INFORMATION), information);
	if (information & HAS_ERROR)
		CHECK_EQ(vmread(VM_EXIT_INTERRUPTION_ERROR_CODE), error);
	CHECK_EQ(vmread(GUEST_RIP), rip);
	CHECK_EQ(vmread(IDT_VECTORING_INFORMATION) >> 31, 0);
	if (length)
		CHECK_EQ(vmread(VM_EXIT_INSTRUCTION_LENGTH), length);
}

static void exceptions(void)
{
	rule("#UD");
	intercept(e_ud, 6);
	exits_with(INFORMATION(HARDWARE, 6), 0, (uint64_t)e_ud, 0);
	rule("the saved RF is the one that delivery would have pushed");
	CHECK_EQ(vmread(GUEST_RFLAGS), 2 | RFLAGS_RF);
	rule("#DE");
	intercept(e_de, 0);
	exits_with(INFORMATION(HARDWARE, 0), 0, (uint64_t)e_de + 2, 0);
	rule("#GP with its error code");
	intercept(e_gp, 13);
	exits_with(INFORMATION(HARDWARE, 13) | HAS_ERROR, 0x1234, (uint64_t)e_gp + 5, 0);
	rule("#NP");
	intercept(e_np, 11);
	runtime_gdt[OWN / 8] = 0x00cf13000000ffff;
	exits_with(INFORMATION(HARDWARE, 11) | HAS_ERROR, OWN, (uint64_t)e_np + 5, 0);
	rule("#SS");
	intercept(e_ss, 12);
	exits_with(INFORMATION(HARDWARE, 12) | HAS_ERROR, 0, (uint64_t)e_ss + 10, 0);
	rule("#NM");
	intercept(e_nm, 7);
	vmx_set(GUEST_CR0, 8);
	exits_with(INFORMATION(HARDWARE, 7), 0, (uint64_t)e_nm, 0);
	rule("INT3: a software exception with its length");
	intercept(e_bp, 3);
	exits_with(INFORMATION(SOFTWARE, 3), 0, (uint64_t)e_bp, 1);
	CHECK_EQ(vmread(GUEST_RFLAGS), 2);
	rule("INT1: a privileged software exception; DR6 and DR7 are as they were");
	__asm__ volatile("mov %0, %%db6" : : "r"(0xffff0ff0ull));
	intercept(e_db, 1);
	vmwrite(GUEST_DR7, 0x2400);
	exits_with(INFORMATION(PRIVILEGED, 1), 0, (uint64_t)e_db, 1);
	CHECK_EQ(vmread(GUEST_DR7), 0x2400);
	rule("INT n does not heed the exception bitmap");
	intercept(e_int, 0);
	vmwrite(EXCEPTION_BITMAP, ~0u);
	CHECK(l2_took(vmx_run(), 0x80));
	rule("an exception that is not in the bitmap goes to L2's IDT");
	vmx_fresh(e_gp);
	CHECK(l2_took(vmx_run(), 13));
	CHECK_EQ(l2_frame(0), 0x1234);
	CHECK_EQ(l2_frame(1), (uint64_t)e_gp + 5);
}

static void page_faults(void)
{
	uint64_t cr2 = 0x123456;

	rule("an intercepted #PF: the address is the qualification, CR2 stays");
	intercept(e_pf, 14);
	l2[RBX] = L2_WINDOW + 0x2008;
	write_cr2(cr2);
	exits_with(INFORMATION(HARDWARE, 14) | HAS_ERROR, 2, (uint64_t)e_pf, 0);
	CHECK_EQ(vmread(EXIT_QUALIFICATION), L2_WINDOW + 0x2008);
	CHECK_EQ(read_cr2(), cr2);
	rule("a #PF that is not intercepted sets CR2");
	vmx_fresh(e_pf);
	l2[RBX] = L2_WINDOW + 0x2008;
	CHECK(l2_took(vmx_run(), 14));
	CHECK_EQ(l2_frame(0), 2);
	CHECK_EQ(read_cr2(), L2_WINDOW + 0x2008);

	rule("#PF error-code mask and match");
	for (unsigned bit = 0; bit < 2; bit++)
		for (unsigned match = 0; match < 2; match++) {
			uint32_t reason;

			vmx_fresh(e_pf);
			l2[RBX] = L2_WINDOW + 0x2008;
			vmwrite(EXCEPTION_BITMAP, bit << 14);
			vmwrite(PAGE_FAULT_ERROR_CODE_MASK, 3);
			vmwrite(PAGE_FAULT_ERROR_CODE_MATCH, match ? 2 : 3);
			reason = vmx_run();
			if (bit == match)
				CHECK_EQ(reason, EXIT_REASON_EXCEPTION_OR_NMI);
			else
				CHECK(l2_took(reason, 14));
		}
}

static void debug_exceptions(void)
{
	uint64_t dr6;

	rule("an intercepted #DB: causes in the qualification, DR6 stays");
	intercept(e_nop, 1);
	vmwrite(GUEST_RFLAGS, 2 | RFLAGS_TF);
	__asm__ volatile("mov %0, %%db6" : : "r"(0xffff0ff0ull));
	exits_with(INFORMATION(HARDWARE, 1), 0, (uint64_t)e_nop + 1, 0);
	CHECK_EQ(vmread(EXIT_QUALIFICATION), 0x4000);
	__asm__ volatile("mov %%db6, %0" : "=r"(dr6));
	CHECK_EQ(dr6, 0xffff0ff0);
	CHECK_EQ(vmread(GUEST_PENDING_DEBUG_EXCEPTIONS), 0);
	CHECK_EQ(vmread(GUEST_RFLAGS), 2 | RFLAGS_TF);

	rule("an instruction breakpoint");
	intercept(e_nop, 1);
	__asm__ volatile("mov %0, %%db2" : : "r"((uint64_t)e_nop + 1));
	vmwrite(GUEST_DR7, 0x420);
	exits_with(INFORMATION(HARDWARE, 1), 0, (uint64_t)e_nop + 1, 0);
	CHECK_EQ(vmread(EXIT_QUALIFICATION), 4);
	CHECK_EQ(vmread(GUEST_DR7), 0x420);

	rule("pending debug exceptions are delivered behind the entry, before any instruction");
	vmx_fresh(e_nop);
	vmwrite(EXCEPTION_BITMAP, 2);
	vmwrite(GUEST_PENDING_DEBUG_EXCEPTIONS, 0x1002);
	exits_with(INFORMATION(HARDWARE, 1), 0, (uint64_t)e_nop, 0);
	CHECK_EQ(vmread(EXIT_QUALIFICATION) & 0x400f, 2);
	rule("pending debug exceptions: B0-B3 without an enabled breakpoint are no exception");
	vmx_fresh(e_nop);
	vmwrite(EXCEPTION_BITMAP, 2);
	vmwrite(GUEST_PENDING_DEBUG_EXCEPTIONS, 2);
	CHECK_EQ(vmx_run(), EXIT_REASON_VMCALL);
	rule("pending debug exceptions under MOV SS wait for the next instruction");
	vmx_fresh(e_nop);
	vmwrite(EXCEPTION_BITMAP, 2);
	vmwrite(GUEST_RFLAGS, 2 | RFLAGS_TF);
	vmwrite(GUEST_INTERRUPTIBILITY_STATE, MOV_SS_BLOCKING);
	vmwrite(GUEST_PENDING_DEBUG_EXCEPTIONS, 0x4000);
	exits_with(INFORMATION(HARDWARE, 1), 0, (uint64_t)e_nop + 1, 0);
	rule("an injected event replaces pending debug exceptions");
	vmx_fresh(e_nop);
	vmwrite(GUEST_PENDING_DEBUG_EXCEPTIONS, 0x1002);
	vmwrite(VM_ENTRY_INTERRUPTION_INFORMATION, INFORMATION(HARDWARE, 6));
	CHECK(l2_took(vmx_run(), 6));
	CHECK_EQ(l2_frame(0), (uint64_t)e_nop);
}

L2(mov_ss_cpuid, "mov %ss, %eax\n\tmov %eax, %ss\n\tcpuid\n\tvmcall");
L2(sti_cpuid, "sti\n\tcpuid\n\tvmcall");
/* The first STI after an entry is a slow one, for a window may be open. */
L2(sti_load, "sti\n\tnop\n\tcli\n\tsti\n\tmov (%rbx), %rax\n\tvmcall");
L2(sti_nop_cpuid, "sti\n\tnop\n\tcli\n\tsti\n\tnop\n\tcpuid\n\tvmcall");
L2(sti_jump_cpuid, "sti\n\tnop\n\tcli\n\tsti\n\tjmp 1f\n\tnop\n1:\tcpuid\n\tvmcall");

static void shadows(void)
{
	rule("blocking by MOV SS and STI is saved by an exit");
	CHECK_EQ(vmx_try(mov_ss_cpuid), EXIT_REASON_CPUID);
	CHECK_EQ(vmread(GUEST_INTERRUPTIBILITY_STATE), MOV_SS_BLOCKING);
	CHECK_EQ(vmread(GUEST_PENDING_DEBUG_EXCEPTIONS), 0);
	CHECK_EQ(vmx_try(sti_cpuid), EXIT_REASON_CPUID);
	CHECK_EQ(vmread(GUEST_INTERRUPTIBILITY_STATE), STI_BLOCKING);
	vmx_fresh(sti_load);
	l2[RBX] = L2_WINDOW + 0x5000;
	vmwrite(EXCEPTION_BITMAP, 1 << 14);
	CHECK_EQ(vmx_run(), EXIT_REASON_EXCEPTION_OR_NMI);
	CHECK_EQ(vmread(GUEST_INTERRUPTIBILITY_STATE), STI_BLOCKING);
	rule("blocking by STI is over after one instruction");
	CHECK_EQ(vmx_try(sti_nop_cpuid), EXIT_REASON_CPUID);
	CHECK_EQ(vmread(GUEST_INTERRUPTIBILITY_STATE), 0);
	CHECK_EQ(vmread(GUEST_RFLAGS) & RFLAGS_IF, RFLAGS_IF);
	CHECK_EQ(vmx_try(sti_jump_cpuid), EXIT_REASON_CPUID);
	CHECK_EQ(vmread(GUEST_INTERRUPTIBILITY_STATE), 0);
	rule("the state saved under MOV SS with TF has BS, so that it enters again");
	vmx_fresh(mov_ss_cpuid + 2);
	l2[RAX] = DATA;
	vmwrite(GUEST_RFLAGS, 2 | RFLAGS_TF);
	CHECK_EQ(vmx_run(), EXIT_REASON_CPUID);
	CHECK_EQ(vmread(GUEST_PENDING_DEBUG_EXCEPTIONS), 0x4000);
	vmwrite(EXCEPTION_BITMAP, 2);
	CHECK_EQ(vmx_run(), EXIT_REASON_CPUID);
	vmx_skip();
	vmwrite(GUEST_INTERRUPTIBILITY_STATE, 0);
	CHECK_EQ(vmx_run(), EXIT_REASON_EXCEPTION_OR_NMI);
	CHECK_EQ(vmread(EXIT_QUALIFICATION), 0x4000);
}

/* ---- injection ---- */

static uint32_t inject(const uint8_t *code, uint32_t information, uint32_t error, unsigned length)
{
	vmx_fresh(code);
	vmwrite(VM_ENTRY_INTERRUPTION_INFORMATION, information);
	vmwrite(VM_ENTRY_EXCEPTION_ERROR_CODE, error);
	vmwrite(VM_ENTRY_INSTRUCTION_LENGTH, length);
	vmwrite(GUEST_RFLAGS, 2 | RFLAGS_IF);
	return vmx_run();
}

static void injection(void)
{
	uint64_t start = (uint64_t)e_nop;

	rule("an injected interrupt: the frame");
	CHECK(l2_took(inject(e_nop, INFORMATION(0u, 0x31), 0, 0), 0x31));
	CHECK_EQ(l2_frame(0), start);
	CHECK_EQ(l2_frame(1), CODE64);
	CHECK_EQ(l2_frame(2), 2 | RFLAGS_IF);
	CHECK_EQ(l2_frame(3), (uint64_t)l2_stack + sizeof(l2_stack));
	CHECK_EQ(vmread(GUEST_RFLAGS), 2);
	rule("an injected exception with error code");
	CHECK(l2_took(inject(e_nop, INFORMATION(HARDWARE, 13) | HAS_ERROR, 0xabc, 0), 13));
	CHECK_EQ(l2_frame(0), 0xabc);
	CHECK_EQ(l2_frame(1), start);
	rule("an injected exception is not intercepted, and pushes RF");
	vmx_fresh(e_nop);
	vmwrite(EXCEPTION_BITMAP, ~0u);
	vmwrite(VM_ENTRY_INTERRUPTION_INFORMATION, INFORMATION(HARDWARE, 6));
	CHECK(l2_took(vmx_run(), 6));
	rule("an injected #PF leaves CR2");
	vmx_fresh(e_nop);
	write_cr2(0x777);
	vmwrite(VM_ENTRY_INTERRUPTION_INFORMATION, INFORMATION(HARDWARE, 14) | HAS_ERROR);
	CHECK(l2_took(vmx_run(), 14));
	CHECK_EQ(read_cr2(), 0x777);
	rule("a software interrupt pushes RIP plus the length");
	CHECK(l2_took(inject(e_nop, INFORMATION(4u, 0x80), 0, 2), 0x80));
	CHECK_EQ(l2_frame(0), start + 2);
	CHECK(l2_took(inject(e_nop, INFORMATION(4u, 0x80), 0, 15), 0x80));
	CHECK_EQ(l2_frame(0), start + 15);
	rule("a software interrupt of length 0");
	CHECK(l2_took(inject(e_nop, INFORMATION(4u, 0x80), 0, 0), 0x80));
	CHECK_EQ(l2_frame(0), start);
	rule("software exceptions push RIP plus the length");
	CHECK(l2_took(inject(e_nop, INFORMATION(SOFTWARE, 3), 0, 1), 3));
	CHECK_EQ(l2_frame(0), start + 1);
	CHECK(l2_took(inject(e_nop, INFORMATION(PRIVILEGED, 1), 0, 1), 1));
	CHECK_EQ(l2_frame(0), start + 1);
	rule("an injected NMI blocks NMIs");
	CHECK(l2_took(inject(e_nop, NMI_INFORMATION, 0, 0), 2));
	CHECK_EQ(vmread(GUEST_INTERRUPTIBILITY_STATE) & NMI_BLOCKING, NMI_BLOCKING);
	rule("an injected event ends HLT and blocking");
	vmx_fresh(e_nop);
	vmwrite(GUEST_ACTIVITY_STATE, 1);
	vmwrite(GUEST_RFLAGS, 2 | RFLAGS_IF);
	vmwrite(VM_ENTRY_INTERRUPTION_INFORMATION, INFORMATION(0u, 0x40));
	CHECK(l2_took(vmx_run(), 0x40));
	CHECK_EQ(vmread(GUEST_ACTIVITY_STATE), 0);
	rule("a software interrupt from CPL 3 heeds the gate's DPL, an interrupt does not");
	vmx_fresh(e_nop);
	vmx_user();
	vmwrite(VM_ENTRY_INTERRUPTION_INFORMATION, INFORMATION(4u, 0x80));
	vmwrite(VM_ENTRY_INSTRUCTION_LENGTH, 2);
	CHECK(l2_took(vmx_run(), 13));
	CHECK_EQ(l2_frame(0), 0x80 * 8 + 2);
	CHECK_EQ(l2_frame(1), (uint64_t)e_nop);
	vmx_fresh(e_nop);
	vmx_user();
	vmwrite(GUEST_RFLAGS, 2 | RFLAGS_IF);
	vmwrite(VM_ENTRY_INTERRUPTION_INFORMATION, INFORMATION(0u, 0x80));
	CHECK(l2_took(vmx_run(), 0x80));
	CHECK_EQ(l2_frame(1), USER64);
}

/* ---- events during delivery ---- */

static void idt_vectoring(void)
{
	uint64_t stack = (uint64_t)l2_stack + sizeof(l2_stack);

	rule("a #PF during delivery of #UD: vectoring information, everything as before the delivery");
	vmx_fresh(e_ud);
	vmwrite(EXCEPTION_BITMAP, 1 << 14);
	vmwrite(GUEST_IDTR_BASE, L2_WINDOW);
	CHECK_EQ(vmx_run(), EXIT_REASON_EXCEPTION_OR_NMI);
	CHECK_EQ(vmread(VM_EXIT_INTERRUPTION_INFORMATION), INFORMATION(HARDWARE, 14) | HAS_ERROR);
	CHECK_EQ(vmread(VM_EXIT_INTERRUPTION_ERROR_CODE), 0);
	CHECK_EQ(vmread(EXIT_QUALIFICATION), L2_WINDOW + 6 * 16);
	CHECK_EQ(vmread(IDT_VECTORING_INFORMATION), INFORMATION(HARDWARE, 6));
	CHECK_EQ(vmread(GUEST_RIP), (uint64_t)e_ud);
	CHECK_EQ(vmread(GUEST_RSP), stack);

	rule("a #PF during INT n: vectoring information with its length, RIP at the instruction");
	vmx_fresh(e_int);
	vmwrite(EXCEPTION_BITMAP, 1 << 14);
	vmwrite(GUEST_IDTR_BASE, L2_WINDOW);
	CHECK_EQ(vmx_run(), EXIT_REASON_EXCEPTION_OR_NMI);
	CHECK_EQ(vmread(IDT_VECTORING_INFORMATION), INFORMATION(4u, 0x80));
	CHECK_EQ(vmread(VM_EXIT_INSTRUCTION_LENGTH), 2);
	CHECK_EQ(vmread(GUEST_RIP), (uint64_t)e_int);

	rule("a #PF on the stack during delivery of #GP keeps its error code");
	vmx_fresh(e_gp);
	vmwrite(EXCEPTION_BITMAP, 1 << 14);
	vmwrite(GUEST_RSP, L2_WINDOW + 0x4000);
	CHECK_EQ(vmx_run(), EXIT_REASON_EXCEPTION_OR_NMI);
	CHECK_EQ(vmread(VM_EXIT_INTERRUPTION_ERROR_CODE), 2);
	CHECK_EQ(vmread(IDT_VECTORING_INFORMATION), INFORMATION(HARDWARE, 13) | HAS_ERROR);
	CHECK_EQ(vmread(IDT_VECTORING_ERROR_CODE), 0x1234);
	CHECK_EQ(vmread(GUEST_RSP), L2_WINDOW + 0x4000);
	CHECK_EQ(vmread(GUEST_RFLAGS) & RFLAGS_RF, RFLAGS_RF);

	rule("an injected interrupt that meets a #PF");
	vmx_fresh(e_nop);
	vmwrite(EXCEPTION_BITMAP, 1 << 14);
	vmwrite(GUEST_IDTR_BASE, L2_WINDOW);
	vmwrite(GUEST_RFLAGS, 2 | RFLAGS_IF);
	vmwrite(VM_ENTRY_INTERRUPTION_INFORMATION, INFORMATION(0u, 0x31));
	CHECK_EQ(vmx_run(), EXIT_REASON_EXCEPTION_OR_NMI);
	CHECK_EQ(vmread(IDT_VECTORING_INFORMATION), INFORMATION(0u, 0x31));
	CHECK_EQ(vmread(GUEST_RFLAGS) & RFLAGS_IF, RFLAGS_IF);

	rule("an injected NMI that meets a #PF leaves NMIs unblocked");
	vmx_fresh(e_nop);
	vmwrite(EXCEPTION_BITMAP, 1 << 14);
	vmwrite(GUEST_IDTR_BASE, L2_WINDOW);
	vmwrite(VM_ENTRY_INTERRUPTION_INFORMATION, NMI_INFORMATION);
	CHECK_EQ(vmx_run(), EXIT_REASON_EXCEPTION_OR_NMI);
	CHECK_EQ(vmread(IDT_VECTORING_INFORMATION), NMI_INFORMATION);

	rule("a second fault makes #DF, whose exit does not count as one during event delivery");
	vmx_fresh(e_gp);
	vmwrite(EXCEPTION_BITMAP, 1 << 8);
	vmwrite(GUEST_IDTR_LIMIT, 16 * 13 - 1);
	CHECK_EQ(vmx_run(), EXIT_REASON_EXCEPTION_OR_NMI);
	CHECK_EQ(vmread(VM_EXIT_INTERRUPTION_INFORMATION), INFORMATION(HARDWARE, 8) | HAS_ERROR);
	CHECK_EQ(vmread(VM_EXIT_INTERRUPTION_ERROR_CODE), 0);
	CHECK_EQ(vmread(IDT_VECTORING_INFORMATION) >> 31, 0);

	rule("a triple fault exits");
	vmx_fresh(e_ud);
	vmwrite(GUEST_IDTR_LIMIT, 0);
	CHECK_EQ(vmx_run(), EXIT_REASON_TRIPLE_FAULT);
	CHECK_EQ(vmread(IDT_VECTORING_INFORMATION) >> 31, 0);
	CHECK_EQ(vmread(EXIT_QUALIFICATION), 0);

	rule("an EPT violation during delivery");
	vmx_fresh(e_ud);
	vmx_ept(0);
	*ept_entry((uint64_t)l2_idt) = 0;
	CHECK_EQ(vmx_run(), EXIT_REASON_EPT_VIOLATION);
	CHECK_EQ(vmread(IDT_VECTORING_INFORMATION), INFORMATION(HARDWARE, 6));
	CHECK_EQ(vmread(GUEST_PHYSICAL_ADDRESS), (uint64_t)l2_idt + 6 * 16);
	CHECK_EQ(vmread(GUEST_LINEAR_ADDRESS), (uint64_t)l2_idt + 6 * 16);
	CHECK_EQ(vmread(GUEST_RSP), stack);
	rule("the event that was being delivered is injected again");
	*ept_entry((uint64_t)l2_idt) = ((uint64_t)l2_idt & ~0xfffull) | EPT_RWX_WB;
	vmwrite(VM_ENTRY_INTERRUPTION_INFORMATION, vmread(IDT_VECTORING_INFORMATION));
	CHECK(l2_took(vmx_run(), 6));
	CHECK_EQ(l2_frame(0), (uint64_t)e_ud);
}

/* ---- interrupts ---- */

#define ICR_SELF 0x40000u
#define ICR_NMI  0x400u
#define ICR_INIT 0x4500u

static void self(uint32_t vector)
{
	apic_write(0x300, ICR_SELF | vector);
}

/* To the own APIC ID: INIT and NMI take no shorthand. */
static void self_by_id(uint32_t command)
{
	apic_write(0x310, apic_read(0x20));
	apic_write(0x300, command);
}

static void apic_on(void)
{
	apic_write(0xf0, 0x1ff);
	apic_write(0x80, 0);
}

static void apic_drain(void)
{
	__asm__ volatile("sti\n\tnop\n\tnop\n\tcli");
}

L2(spin, "1:\tjmp 1b");
L2(halt, "hlt\n\tvmcall");
L2(sti_halt, "sti\n\thlt\n\tvmcall");
L2(sti_nop, "sti\n\tnop\n\tnop\n\tvmcall");
L2(self_ipi, "mov $0xfee00300, %ebx\n\tmovl $0x40055, (%rbx)\n1:\tjmp 1b");

static void external_interrupts(void)
{
	rule("an external interrupt exits before the first instruction, whatever IF says");
	vmx_fresh(e_nop);
	vmx_set(PIN_BASED_CONTROLS, PIN_EXTERNAL_INTERRUPT_EXITING);
	self(0x51);
	CHECK_EQ(vmx_run(), EXIT_REASON_EXTERNAL_INTERRUPT);
	CHECK_EQ(vmread(GUEST_RIP), (uint64_t)e_nop);
	CHECK_EQ(vmread(VM_EXIT_INTERRUPTION_INFORMATION) >> 31, 0);
	rule("without acknowledge it stays pending: L1 takes it");
	interrupts[0x51] = 0;
	apic_drain();
	CHECK_EQ(interrupts[0x51], 1);
	CHECK_EQ(vmx_run(), EXIT_REASON_VMCALL);

	rule("acknowledge interrupt on exit");
	vmx_fresh(e_nop);
	vmx_set(PIN_BASED_CONTROLS, PIN_EXTERNAL_INTERRUPT_EXITING);
	vmx_set(VM_EXIT_CONTROLS, EXIT_ACKNOWLEDGE_INTERRUPT);
	self(0x52);
	CHECK_EQ(vmx_run(), EXIT_REASON_EXTERNAL_INTERRUPT);
	CHECK_EQ(vmread(VM_EXIT_INTERRUPTION_INFORMATION), INFORMATION(0u, 0x52));
	CHECK_EQ(apic_read(0x100 + 0x10 * (0x52 / 32)) >> 0x52 % 32 & 1, 1);
	apic_write(0xb0, 0);
	interrupts[0x52] = 0;
	apic_drain();
	CHECK_EQ(interrupts[0x52], 0);

	rule("an interrupt ends HLT by an exit; the activity state is saved");
	vmx_fresh(halt);
	vmx_set(PIN_BASED_CONTROLS, PIN_EXTERNAL_INTERRUPT_EXITING);
	vmwrite(GUEST_ACTIVITY_STATE, 1);
	self(0x53);
	CHECK_EQ(vmx_run(), EXIT_REASON_EXTERNAL_INTERRUPT);
	CHECK_EQ(vmread(GUEST_ACTIVITY_STATE), 1);
	CHECK_EQ(vmread(GUEST_RIP), (uint64_t)halt);
	apic_drain();

	rule("an interrupt sent by running L2");
	vmx_fresh(self_ipi);
	vmx_set(PIN_BASED_CONTROLS, PIN_EXTERNAL_INTERRUPT_EXITING);
	CHECK_EQ(vmx_run(), EXIT_REASON_EXTERNAL_INTERRUPT);
	apic_drain();

	rule("without external-interrupt exiting L2's IDT takes it, when IF lets it");
	vmx_fresh(sti_nop);
	self(0x54);
	CHECK(l2_took(vmx_run(), 0x54));
	CHECK_EQ(l2_frame(0), (uint64_t)sti_nop + 2);
	apic_write(0xb0, 0);
	vmx_fresh(e_nop);
	self(0x54);
	CHECK_EQ(vmx_run(), EXIT_REASON_VMCALL);
	interrupts[0x54] = 0;
	apic_drain();
	CHECK_EQ(interrupts[0x54], 1);

	rule("blocking by STI holds an interrupt back for one instruction, across entry");
	vmx_fresh(e_nop);
	vmwrite(GUEST_RFLAGS, 2 | RFLAGS_IF);
	vmwrite(GUEST_INTERRUPTIBILITY_STATE, STI_BLOCKING);
	self(0x54);
	CHECK(l2_took(vmx_run(), 0x54));
	CHECK_EQ(l2_frame(0), (uint64_t)e_nop + 1);
	apic_write(0xb0, 0);
	rule("blocking by MOV SS likewise");
	vmx_fresh(e_nop);
	vmwrite(GUEST_RFLAGS, 2 | RFLAGS_IF);
	vmwrite(GUEST_INTERRUPTIBILITY_STATE, MOV_SS_BLOCKING);
	self(0x54);
	CHECK(l2_took(vmx_run(), 0x54));
	CHECK_EQ(l2_frame(0), (uint64_t)e_nop + 1);
	apic_write(0xb0, 0);
	rule("blocking by STI does not hold back an exit for an external interrupt");
	vmx_fresh(e_nop);
	vmx_set(PIN_BASED_CONTROLS, PIN_EXTERNAL_INTERRUPT_EXITING);
	vmwrite(GUEST_RFLAGS, 2 | RFLAGS_IF);
	vmwrite(GUEST_INTERRUPTIBILITY_STATE, STI_BLOCKING);
	self(0x54);
	CHECK_EQ(vmx_run(), EXIT_REASON_EXTERNAL_INTERRUPT);
	apic_drain();
}

static void windows(void)
{
	rule("interrupt-window exiting: before the first instruction");
	vmx_fresh(e_nop);
	vmx_set(PRIMARY_PROCESSOR_CONTROLS, CPU_INTERRUPT_WINDOW_EXITING);
	vmwrite(GUEST_RFLAGS, 2 | RFLAGS_IF);
	CHECK_EQ(vmx_run(), EXIT_REASON_INTERRUPT_WINDOW);
	CHECK_EQ(vmread(GUEST_RIP), (uint64_t)e_nop);
	rule("interrupt-window exiting: also from HLT");
	vmx_fresh(e_nop);
	vmx_set(PRIMARY_PROCESSOR_CONTROLS, CPU_INTERRUPT_WINDOW_EXITING);
	vmwrite(GUEST_RFLAGS, 2 | RFLAGS_IF);
	vmwrite(GUEST_ACTIVITY_STATE, 1);
	CHECK_EQ(vmx_run(), EXIT_REASON_INTERRUPT_WINDOW);
	CHECK_EQ(vmread(GUEST_ACTIVITY_STATE), 1);
	rule("interrupt-window exiting: STI opens it one instruction later");
	vmx_fresh(sti_nop);
	vmx_set(PRIMARY_PROCESSOR_CONTROLS, CPU_INTERRUPT_WINDOW_EXITING);
	CHECK_EQ(vmx_run(), EXIT_REASON_INTERRUPT_WINDOW);
	CHECK_EQ(vmread(GUEST_RIP), (uint64_t)sti_nop + 2);
	rule("interrupt-window exiting: closed while IF is 0 or MOV SS blocks");
	vmx_fresh(e_nop);
	vmx_set(PRIMARY_PROCESSOR_CONTROLS, CPU_INTERRUPT_WINDOW_EXITING);
	CHECK_EQ(vmx_run(), EXIT_REASON_VMCALL);
	vmx_fresh(e_nop);
	vmx_set(PRIMARY_PROCESSOR_CONTROLS, CPU_INTERRUPT_WINDOW_EXITING);
	vmwrite(GUEST_RFLAGS, 2 | RFLAGS_IF);
	vmwrite(GUEST_INTERRUPTIBILITY_STATE, MOV_SS_BLOCKING);
	CHECK_EQ(vmx_run(), EXIT_REASON_INTERRUPT_WINDOW);
	CHECK_EQ(vmread(GUEST_RIP), (uint64_t)e_nop + 1);
	rule("interrupt window comes before a pending interrupt");
	vmx_fresh(e_nop);
	vmx_set(PRIMARY_PROCESSOR_CONTROLS, CPU_INTERRUPT_WINDOW_EXITING);
	vmx_set(PIN_BASED_CONTROLS, PIN_EXTERNAL_INTERRUPT_EXITING);
	vmwrite(GUEST_RFLAGS, 2 | RFLAGS_IF);
	self(0x55);
	CHECK_EQ(vmx_run(), EXIT_REASON_INTERRUPT_WINDOW);
	apic_drain();
}

/* ---- NMIs ---- */

L2(iret_stub,
   "mov %rsp, %rax\n\tpush $0x10\n\tpush %rax\n\tpushfq\n\tpush $8\n\tlea 1f(%rip), %rcx\n\tpush %rcx\n\t"
   "iretq\n1:\tnop\n\tvmcall");
L2(iret_fault, "lea 1f(%rip), %rcx\n\tmov $0x40001000, %rsp\n\tiretq\n1:\tvmcall");
static unsigned nmis;

static bool count_nmi(struct frame *frame)
{
	if (frame->vector != 2)
		return false;
	nmis++;
	return true;
}

/* L1 takes an NMI and IRET: NMIs are unblocked again. */
static void unblock(void)
{
	on_exception = count_nmi;
	self_by_id(ICR_NMI);
	__asm__ volatile("nop\n\tnop");
	on_exception = NULL;
}

static void unblock_by_iret(void)
{
	__asm__ volatile("mov %%rsp, %%rax\n\tpush $0x10\n\tpush %%rax\n\tpushfq\n\tpush $8\n\t"
	                 "lea 1f(%%rip), %%rax\n\tpush %%rax\n\tiretq\n1:"
	                 :
	                 :
	                 : "rax", "memory", "cc");
}

static void nmi(void)
{
	rule("NMI exiting: before the first instruction; NMIs are blocked after it");
	vmx_fresh(e_nop);
	vmx_set(PIN_BASED_CONTROLS, PIN_NMI_EXITING);
	/* L1 is in an NMI-blocked state while it sends one to itself: none must come before the entry. */
	vmwrite(VM_ENTRY_INTERRUPTION_INFORMATION, NMI_INFORMATION);
	CHECK(l2_took(vmx_run(), 2));
	nmis = 0;
	on_exception = count_nmi;
	self_by_id(ICR_NMI);
	__asm__ volatile("nop\n\tnop");
	if (!nmis) { /* still blocked, as the injected NMI left it */
		vmx_fresh(e_nop);
		vmx_set(PIN_BASED_CONTROLS, PIN_NMI_EXITING);
		CHECK_EQ(vmx_run(), EXIT_REASON_EXCEPTION_OR_NMI);
		CHECK_EQ(vmread(VM_EXIT_INTERRUPTION_INFORMATION), NMI_INFORMATION);
		CHECK_EQ(vmread(GUEST_RIP), (uint64_t)e_nop);
		self_by_id(ICR_NMI);
		__asm__ volatile("nop\n\tnop");
		CHECK_EQ(nmis, 0);
	} else {
		CHECK_EQ(nmis, 0);
	}
	unblock_by_iret();
	CHECK_EQ(nmis, 1);
	on_exception = NULL;

	rule("NMI-window exiting: before the first instruction where nothing blocks");
	vmx_fresh(e_nop);
	vmx_set(PIN_BASED_CONTROLS, PIN_NMI_EXITING | PIN_VIRTUAL_NMIS);
	vmx_set(PRIMARY_PROCESSOR_CONTROLS, CPU_NMI_WINDOW_EXITING);
	CHECK_EQ(vmx_run(), EXIT_REASON_NMI_WINDOW);
	CHECK_EQ(vmread(GUEST_RIP), (uint64_t)e_nop);
	rule("NMI-window exiting: from HLT");
	vmwrite(GUEST_ACTIVITY_STATE, 1);
	CHECK_EQ(vmx_run(), EXIT_REASON_NMI_WINDOW);
	CHECK_EQ(vmread(GUEST_ACTIVITY_STATE), 1);
	rule("NMI-window exiting: IRET ends virtual-NMI blocking");
	vmx_fresh(iret_stub);
	vmx_set(PIN_BASED_CONTROLS, PIN_NMI_EXITING | PIN_VIRTUAL_NMIS);
	vmx_set(PRIMARY_PROCESSOR_CONTROLS, CPU_NMI_WINDOW_EXITING);
	vmwrite(GUEST_INTERRUPTIBILITY_STATE, NMI_BLOCKING);
	CHECK_EQ(vmx_run(), EXIT_REASON_NMI_WINDOW);
	CHECK_EQ(vmread(GUEST_RIP), (uint64_t)iret_stub + 19);
	CHECK_EQ(vmread(GUEST_INTERRUPTIBILITY_STATE), 0);
	rule("virtual-NMI blocking is saved where no IRET comes");
	vmx_fresh(e_nop);
	vmx_set(PIN_BASED_CONTROLS, PIN_NMI_EXITING | PIN_VIRTUAL_NMIS);
	vmx_set(PRIMARY_PROCESSOR_CONTROLS, CPU_NMI_WINDOW_EXITING);
	vmwrite(GUEST_INTERRUPTIBILITY_STATE, NMI_BLOCKING);
	CHECK_EQ(vmx_run(), EXIT_REASON_VMCALL);
	CHECK_EQ(vmread(GUEST_INTERRUPTIBILITY_STATE), NMI_BLOCKING);
	rule("an injected virtual NMI blocks virtual NMIs, and not L1's");
	vmx_fresh(e_nop);
	vmx_set(PIN_BASED_CONTROLS, PIN_NMI_EXITING | PIN_VIRTUAL_NMIS);
	vmwrite(VM_ENTRY_INTERRUPTION_INFORMATION, NMI_INFORMATION);
	CHECK(l2_took(vmx_run(), 2));
	CHECK_EQ(vmread(GUEST_INTERRUPTIBILITY_STATE), NMI_BLOCKING);
	nmis = 0;
	unblock();
	CHECK_EQ(nmis, 1);

	rule("IRET that faults: NMI unblocking due to IRET in the interruption information");
	vmx_fresh(iret_fault);
	vmx_set(PIN_BASED_CONTROLS, PIN_NMI_EXITING | PIN_VIRTUAL_NMIS);
	vmwrite(GUEST_INTERRUPTIBILITY_STATE, NMI_BLOCKING);
	vmwrite(EXCEPTION_BITMAP, 1 << 14);
	CHECK_EQ(vmx_run(), EXIT_REASON_EXCEPTION_OR_NMI);
	CHECK_EQ(vmread(VM_EXIT_INTERRUPTION_INFORMATION), INFORMATION(HARDWARE, 14) | HAS_ERROR | 1 << 12);
	CHECK_EQ(vmread(GUEST_INTERRUPTIBILITY_STATE), 0);
	rule("IRET that meets an EPT violation: bit 12 of the qualification");
	vmx_fresh(iret_fault);
	vmx_ept(0);
	l2_window[1] = (uint64_t)l2_page[0] | 7;
	*ept_entry((uint64_t)l2_page[0]) = 0;
	vmx_set(PIN_BASED_CONTROLS, PIN_NMI_EXITING | PIN_VIRTUAL_NMIS);
	vmwrite(GUEST_INTERRUPTIBILITY_STATE, NMI_BLOCKING);
	CHECK_EQ(vmx_run(), EXIT_REASON_EPT_VIOLATION);
	CHECK_EQ(vmread(EXIT_QUALIFICATION) >> 12 & 1, 1);
	CHECK_EQ(vmread(GUEST_INTERRUPTIBILITY_STATE), 0);
	rule("a fault of another instruction does not unblock");
	vmx_fresh(e_pf);
	vmx_set(PIN_BASED_CONTROLS, PIN_NMI_EXITING | PIN_VIRTUAL_NMIS);
	vmwrite(GUEST_INTERRUPTIBILITY_STATE, NMI_BLOCKING);
	vmwrite(EXCEPTION_BITMAP, 1 << 14);
	l2[RBX] = L2_WINDOW;
	CHECK_EQ(vmx_run(), EXIT_REASON_EXCEPTION_OR_NMI);
	CHECK_EQ(vmread(VM_EXIT_INTERRUPTION_INFORMATION) >> 12 & 1, 0);
	CHECK_EQ(vmread(GUEST_INTERRUPTIBILITY_STATE), NMI_BLOCKING);
}

/* ---- monitor trap flag, preemption timer ---- */

L2(steps, "nop\n\txchg %ax, %ax\n\tjmp 1f\n\tud2\n1:\tcpuid\n\tvmcall");
L2(rep_movs, "rep movsb\n\tvmcall");

static void mtf(void)
{
	rule("monitor trap flag: one instruction at a time");
	vmx_fresh(steps);
	vmx_set(PRIMARY_PROCESSOR_CONTROLS, CPU_MONITOR_TRAP_FLAG);
	CHECK_EQ(vmx_run(), EXIT_REASON_MONITOR_TRAP_FLAG);
	CHECK_EQ(vmread(GUEST_RIP), (uint64_t)steps + 1);
	CHECK_EQ(vmread(EXIT_QUALIFICATION), 0);
	CHECK_EQ(vmx_run(), EXIT_REASON_MONITOR_TRAP_FLAG);
	CHECK_EQ(vmread(GUEST_RIP), (uint64_t)steps + 3);
	CHECK_EQ(vmx_run(), EXIT_REASON_MONITOR_TRAP_FLAG);
	CHECK_EQ(vmread(GUEST_RIP), (uint64_t)steps + 7);
	CHECK_EQ(vmx_run(), EXIT_REASON_CPUID);
	CHECK_EQ(vmread(GUEST_RIP), (uint64_t)steps + 7);
	rule("monitor trap flag: behind a delivered fault, at the handler");
	vmx_fresh(e_ud);
	vmx_set(PRIMARY_PROCESSOR_CONTROLS, CPU_MONITOR_TRAP_FLAG);
	CHECK_EQ(vmx_run(), EXIT_REASON_MONITOR_TRAP_FLAG);
	CHECK_EQ(l2_frame(0), (uint64_t)e_ud);
	rule("monitor trap flag: behind an injected event, before the handler's first instruction");
	vmx_fresh(e_nop);
	vmx_set(PRIMARY_PROCESSOR_CONTROLS, CPU_MONITOR_TRAP_FLAG);
	vmwrite(VM_ENTRY_INTERRUPTION_INFORMATION, INFORMATION(HARDWARE, 6));
	CHECK_EQ(vmx_run(), EXIT_REASON_MONITOR_TRAP_FLAG);
	CHECK_EQ(l2_frame(0), (uint64_t)e_nop);
	rule("an injected pending MTF VM exit: before the first instruction");
	vmx_fresh(e_nop);
	vmwrite(VM_ENTRY_INTERRUPTION_INFORMATION, INFORMATION(7u, 0u));
	CHECK_EQ(vmx_run(), EXIT_REASON_MONITOR_TRAP_FLAG);
	CHECK_EQ(vmread(GUEST_RIP), (uint64_t)e_nop);
	CHECK_EQ(vmx_run(), EXIT_REASON_VMCALL);
	rule("monitor trap flag: no later than the end of a REP instruction");
	vmx_fresh(rep_movs);
	vmx_set(PRIMARY_PROCESSOR_CONTROLS, CPU_MONITOR_TRAP_FLAG);
	l2[RSI] = (uint64_t)l2_page[0];
	l2[RDI] = (uint64_t)l2_page[1];
	l2[RCX] = 3;
	CHECK_EQ(vmx_run(), EXIT_REASON_MONITOR_TRAP_FLAG);
	CHECK(vmread(GUEST_RIP) == (uint64_t)rep_movs ? l2[RCX] == 2 : l2[RCX] == 0);
	rule("monitor trap flag: HLT completes first, and the exit ends it");
	vmx_fresh(halt);
	vmx_set(PRIMARY_PROCESSOR_CONTROLS, CPU_MONITOR_TRAP_FLAG);
	CHECK_EQ(vmx_run(), EXIT_REASON_MONITOR_TRAP_FLAG);
	CHECK_EQ(vmread(GUEST_RIP), (uint64_t)halt + 1);
	CHECK_EQ(vmread(GUEST_ACTIVITY_STATE), 1);
}

static void preemption_timer(void)
{
	unsigned rate = rdmsr(MSR_IA32_VMX_MISC) & 31;
	uint64_t before, ticks;

	rule("preemption timer 0: before the first instruction");
	vmx_fresh(e_nop);
	vmx_set(PIN_BASED_CONTROLS, PIN_ACTIVATE_PREEMPTION_TIMER);
	CHECK_EQ(vmx_run(), EXIT_REASON_PREEMPTION_TIMER);
	CHECK_EQ(vmread(GUEST_RIP), (uint64_t)e_nop);
	CHECK_EQ(vmread(EXIT_QUALIFICATION), 0);
	rule("preemption timer 0: from HLT, which the saved state still has");
	vmwrite(GUEST_ACTIVITY_STATE, 1);
	CHECK_EQ(vmx_run(), EXIT_REASON_PREEMPTION_TIMER);
	CHECK_EQ(vmread(GUEST_ACTIVITY_STATE), 1);
	rule("preemption timer 0 with an injected event: at the handler");
	vmx_fresh(e_nop);
	vmx_set(PIN_BASED_CONTROLS, PIN_ACTIVATE_PREEMPTION_TIMER);
	vmwrite(VM_ENTRY_INTERRUPTION_INFORMATION, INFORMATION(HARDWARE, 6));
	CHECK_EQ(vmx_run(), EXIT_REASON_PREEMPTION_TIMER);
	CHECK_EQ(l2_frame(0), (uint64_t)e_nop);
	rule("preemption timer: ends an endless loop after its time");
	vmx_fresh(spin);
	vmx_set(PIN_BASED_CONTROLS, PIN_ACTIVATE_PREEMPTION_TIMER);
	vmx_set(VM_EXIT_CONTROLS, EXIT_SAVE_PREEMPTION_TIMER);
	vmwrite(VMX_PREEMPTION_TIMER_VALUE, 1000000 >> rate);
	before = rdtsc();
	CHECK_EQ(vmx_run(), EXIT_REASON_PREEMPTION_TIMER);
	CHECK(rdtsc() - before >= 1000000u - (1u << rate));
	CHECK_EQ(vmread(VMX_PREEMPTION_TIMER_VALUE), 0);
	rule("preemption timer: ends HLT");
	/* On a busy host the time may be over before L2 gets to its HLT: then L2 gets more of it. */
	for (ticks = 1000000; ticks <= 1024000000; ticks *= 2) {
		vmx_fresh(sti_halt);
		vmx_set(PIN_BASED_CONTROLS, PIN_ACTIVATE_PREEMPTION_TIMER);
		vmwrite(VMX_PREEMPTION_TIMER_VALUE, ticks >> rate);
		CHECK_EQ(vmx_run(), EXIT_REASON_PREEMPTION_TIMER);
		CHECK_EQ(vmread(VMX_PREEMPTION_TIMER_VALUE), ticks >> rate);
		if (vmread(GUEST_ACTIVITY_STATE) == 1)
			break;
		CHECK(vmread(GUEST_RIP) <= (uint64_t)sti_halt + 1);
	}
	CHECK_EQ(vmread(GUEST_ACTIVITY_STATE), 1);
	rule("preemption timer: another exit saves what remains");
	vmx_fresh(e_nop);
	vmx_set(PIN_BASED_CONTROLS, PIN_ACTIVATE_PREEMPTION_TIMER);
	vmx_set(VM_EXIT_CONTROLS, EXIT_SAVE_PREEMPTION_TIMER);
	vmwrite(VMX_PREEMPTION_TIMER_VALUE, 0xffffffff);
	CHECK_EQ(vmx_run(), EXIT_REASON_VMCALL);
	CHECK(vmread(VMX_PREEMPTION_TIMER_VALUE) > 0xf0000000);
	rule("debug traps come before the timer's exit");
	vmx_fresh(e_nop);
	vmx_set(PIN_BASED_CONTROLS, PIN_ACTIVATE_PREEMPTION_TIMER);
	vmwrite(EXCEPTION_BITMAP, 2);
	vmwrite(GUEST_PENDING_DEBUG_EXCEPTIONS, 0x1001);
	CHECK_EQ(vmx_run(), EXIT_REASON_EXCEPTION_OR_NMI);
	rule("the timer's exit comes before an NMI window");
	vmx_fresh(e_nop);
	vmx_set(PIN_BASED_CONTROLS, PIN_ACTIVATE_PREEMPTION_TIMER | PIN_NMI_EXITING | PIN_VIRTUAL_NMIS);
	vmx_set(PRIMARY_PROCESSOR_CONTROLS, CPU_NMI_WINDOW_EXITING);
	CHECK_EQ(vmx_run(), EXIT_REASON_PREEMPTION_TIMER);
}

/* ---- task switches ---- */

static uint8_t task[104] __attribute__((aligned(16)));

/* L2 in 32-bit protected mode at 1000H; the new TSS is at OWN. */
static void make_task(void)
{
	uint64_t base = (uint64_t)task;

	runtime_gdt[OWN / 8] = 0x0000890000000067ull | (base & 0xffffff) << 16 | (base >> 24) << 56;
	*(uint32_t *)l2_page[0] = 0;
	*(uint16_t *)(l2_page[0] + 4) = OWN;
}

static void task_switches(void)
{
	static const uint8_t far_jump[] = {0xea, 0, 0, 0, 0, OWN, 0, 0x0f, 0x01, 0xc1};
	static const uint8_t far_call[] = {0x9a, 0, 0, 0, 0, OWN, 0, 0x0f, 0x01, 0xc1};
	static const uint8_t iret[] = {0xcf};
	static const uint8_t interrupt[] = {0xcd, 0x21};
	static uint32_t gates[2 * 64];

	make_task();
	rule("a far JMP to a TSS exits: source 2, selector, length");
	vmx_fresh(e_nop);
	vmx_protected_32(far_jump, sizeof(far_jump));
	CHECK_EQ(vmx_run(), EXIT_REASON_TASK_SWITCH);
	CHECK_EQ(vmread(EXIT_QUALIFICATION), OWN | 2ull << 30);
	CHECK_EQ(vmread(VM_EXIT_INSTRUCTION_LENGTH), 7);
	CHECK_EQ(vmread(GUEST_RIP), 0x1000);
	rule("a far CALL: source 0");
	vmx_fresh(e_nop);
	vmx_protected_32(far_call, sizeof(far_call));
	CHECK_EQ(vmx_run(), EXIT_REASON_TASK_SWITCH);
	CHECK_EQ(vmread(EXIT_QUALIFICATION), OWN);
	CHECK_EQ(vmread(VM_EXIT_INSTRUCTION_LENGTH), 7);
	rule("IRET with NT: source 1");
	vmx_fresh(e_nop);
	vmx_protected_32(iret, sizeof(iret));
	*(uint16_t *)l2_tss = OWN;
	((uint8_t *)&runtime_gdt[OWN / 8])[5] |= 2; /* busy */
	vmx_set(GUEST_RFLAGS, 0x4000);
	CHECK_EQ(vmx_run(), EXIT_REASON_TASK_SWITCH);
	CHECK_EQ(vmread(EXIT_QUALIFICATION), OWN | 1ull << 30);
	make_task();
	rule("a task gate in the IDT: source 3, vectoring information");
	vmx_fresh(e_nop);
	vmx_protected_32(interrupt, sizeof(interrupt));
	gates[2 * 0x21] = OWN << 16;
	gates[2 * 0x21 + 1] = 0x8500;
	vmwrite(GUEST_IDTR_BASE, (uint64_t)gates);
	CHECK_EQ(vmx_run(), EXIT_REASON_TASK_SWITCH);
	CHECK_EQ(vmread(EXIT_QUALIFICATION), OWN | 3ull << 30);
	CHECK_EQ(vmread(IDT_VECTORING_INFORMATION), INFORMATION(4u, 0x21));
	CHECK_EQ(vmread(VM_EXIT_INSTRUCTION_LENGTH), 2);
	CHECK_EQ(vmread(GUEST_RIP), 0x1000);
}

/* ---- INIT, activity states ---- */

static void init_and_activity(void)
{
	rule("INIT is blocked in root operation and exits from L2");
	vmx_fresh(e_nop);
	self_by_id(ICR_INIT);
	CHECK_EQ(vmx_run(), EXIT_REASON_INIT);
	CHECK_EQ(vmread(GUEST_RIP), (uint64_t)e_nop);
	CHECK_EQ(vmx_run(), EXIT_REASON_VMCALL);
	rule("the shutdown activity state waits for an NMI");
	vmx_fresh(e_nop);
	vmx_set(PIN_BASED_CONTROLS, PIN_NMI_EXITING | PIN_VIRTUAL_NMIS | PIN_ACTIVATE_PREEMPTION_TIMER);
	vmwrite(VMX_PREEMPTION_TIMER_VALUE, 10000);
	vmwrite(GUEST_ACTIVITY_STATE, 2);
	CHECK_EQ(vmx_run(), EXIT_REASON_PREEMPTION_TIMER);
	CHECK_EQ(vmread(GUEST_ACTIVITY_STATE), 2);
	vmx_set(PRIMARY_PROCESSOR_CONTROLS, CPU_NMI_WINDOW_EXITING);
	vmwrite(VMX_PREEMPTION_TIMER_VALUE, 0xffffffff);
	CHECK_EQ(vmx_run(), EXIT_REASON_NMI_WINDOW);
	rule("HLT exiting 0: HLT waits, an interrupt goes on behind it");
	vmx_fresh(sti_halt);
	self(0x56);
	CHECK(l2_took(vmx_run(), 0x56));
	CHECK_EQ(l2_frame(0), (uint64_t)sti_halt + 2);
	apic_write(0xb0, 0);
}

void guest_main(void)
{
	vmx_start();
	apic_on();
	exceptions();
	page_faults();
	debug_exceptions();
	shadows();
	injection();
	idt_vectoring();
	external_interrupts();
	windows();
	nmi();
	mtf();
	preemption_timer();
	task_switches();
	init_and_activity();
}

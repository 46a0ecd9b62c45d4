#include "guest.h"

volatile struct fault fault;
volatile uint64_t recover_rip;
volatile unsigned interrupts[256];
bool (*volatile on_exception)(struct frame *frame);
uint64_t runtime_idt[512];

void runtime_exception(struct frame *frame)
{
	fault.vector = frame->vector;
	fault.error = frame->error;
	fault.rip = frame->rip;
	fault.rflags = frame->rflags;
	fault.cr2 = read_cr2();
	fault.count++;
	interrupts[frame->vector]++;
	if (on_exception && on_exception(frame))
		return;
	if (frame->vector >= 32) {
		apic_write(0xb0, 0);
		return;
	}
	if (recover_rip) {
		frame->rip = recover_rip;
		recover_rip = 0;
		return;
	}
	print("FAIL %s: unexpected exception %lu, error %lx, rip %lx, cr2 %lx, rsp %lx\n", rule_name, frame->vector,
	      frame->error, frame->rip, read_cr2(), frame->rsp);
	finish(2);
}

unsigned runtime_main(void)
{
	struct __attribute__((packed)) {
		uint16_t limit;
		uint64_t base;
	} pointer = {sizeof(runtime_idt) - 1, (uint64_t)runtime_idt};

	for (unsigned i = 0; i < 256; i++) {
		uint64_t handler = (uint64_t)runtime_vectors + 16 * i;

		runtime_idt[2 * i] = (handler & 0xffff) | (uint64_t)CODE64 << 16 | 0x8eull << 40 |
		                     (handler >> 16 & 0xffff) << 48;
		runtime_idt[2 * i + 1] = handler >> 32;
	}
	__asm__ volatile("lidt %0" : : "m"(pointer));
	/* Both 8259s masked: interrupts are the local APIC's. */
	outb(0x21, 0xff);
	outb(0xa1, 0xff);
	guest_main();
	return report_end();
}

#include "guest32.h"

uint64_t idt[256];
volatile struct fault fault;
volatile uint32_t recover_eip, restore_esp, expected_eip;
bool (*volatile on_exception)(struct frame *frame);
struct frame last_frame;

void runtime_exception(struct frame *frame)
{
	fault.vector = frame->vector;
	fault.error = frame->error;
	fault.eip = frame->eip;
	fault.eflags = frame->eflags;
	fault.cs = frame->cs;
	fault.cr2 = read_cr2();
	memcpy(&last_frame, frame, sizeof(last_frame));
	if (on_exception && on_exception(frame))
		return;
	if (recover_eip && !(frame->cs & 3)) {
		frame->eip = recover_eip;
		frame->cs = CODE;
		recover_eip = 0;
		return;
	}
	if (frame->cs & 3 || frame->eflags & 1u << 17) {
		__asm__ volatile("jmp user_back");
	}
	print("FAIL %s: unexpected exception %u, error %x, at %x:%x\n", rule_name, frame->vector, frame->error, frame->cs,
	      frame->eip);
	finish(2);
}

unsigned runtime_main(void)
{
	struct __attribute__((packed)) {
		uint16_t limit;
		uint32_t base;
	} pointer = {sizeof(idt) - 1, (uint32_t)idt};

	for (unsigned i = 0; i < 256; i++) {
		uint32_t at = (uint32_t)vectors + 16 * i;

		idt[i] = (at & 0xffff) | CODE << 16 | (uint64_t)(at & 0xffff0000) << 32 |
		         (i >= 0x80 ? 0xeeull : 0x8eull) << 40;
	}
	__asm__ volatile("lidt %0" : : "m"(pointer));
	outb(0x21, 0xff);
	outb(0xa1, 0xff);
	guest_main();
	return report_end();
}

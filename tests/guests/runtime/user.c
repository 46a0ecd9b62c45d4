#include "runtime/user.h"

uint8_t user_stack[8192] __attribute__((aligned(4096)));
uint8_t kernel_stack[16384] __attribute__((aligned(4096)));
uint64_t user_kernel_rsp;
bool (*volatile test_hook)(struct frame *frame);
struct frame last_frame;
uint64_t last_frame_address, handler_ss, handler_rflags;
volatile uint64_t expected_rip, restore_rsp;

static bool user_hook(struct frame *frame)
{
	uint32_t ss;

	if (test_hook && test_hook(frame))
		return true;
	__asm__("mov %%ss, %0" : "=r"(ss));
	last_frame = *frame;
	last_frame_address = (uint64_t)frame;
	handler_ss = ss;
	handler_rflags = read_flags();
	if (restore_rsp && recover_rip) {
		frame->rsp = restore_rsp;
		restore_rsp = 0;
	}
	if (!(frame->cs & 3) || (recover_rip && frame->vector != USER_RETURN))
		return false;
	if (frame->vector >= 32 && frame->vector != USER_RETURN)
		return false;
	frame->rip = (uint64_t)user_back;
	frame->cs = CODE64;
	frame->ss = DATA;
	frame->rflags = 2;
	frame->rsp = user_kernel_rsp;
	return true;
}

void gate_set(unsigned vector, unsigned type, unsigned dpl, unsigned ist, bool present)
{
	uint64_t gate = runtime_idt[2 * vector] & 0xffff0000ffffffff;

	runtime_idt[2 * vector] =
	    gate | (uint64_t)(type | dpl << 5 | present << 7) << 40 | (uint64_t)ist << 32;
}

void ist_set(unsigned ist, uint64_t rsp)
{
	memcpy(runtime_tss + 36 + 8 * (ist - 1), &rsp, 8);
}

void user_setup(void)
{
	uint64_t rsp0 = KERNEL_STACK_TOP;

	memcpy(runtime_tss + 4, &rsp0, 8);
	gate_set(USER_RETURN, 0xe, 3, 0, true);
	on_exception = user_hook;
}

__attribute__((naked)) static void user_entry(void)
{
	__asm__("call *%rdi\n\tint $0x80");
}

void user_call(void (*function)(void), uint64_t flags)
{
	user_run((uint64_t)user_entry, USER_STACK_TOP, USER64, FLAGS_USER | flags, (uint64_t)function, 0);
}

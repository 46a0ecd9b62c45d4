/* A triple fault ends the run (SDM, Interrupt 8-Double Fault: shutdown): a fault on the way to the #DF
 * handler. */
#include "runtime/guest.h"

void guest_main(void)
{
	rule("a fault while #DF is delivered shuts the processor down");
	runtime_idt[2 * 8] = 0;
	runtime_idt[2 * 13] = 0;
	__asm__ volatile("mov (%0), %%eax" : : "r"(1ul << 47) : "rax");
	CHECK(false);
}

/* What makes a guest of a hypervisor exit. In L1 the same loops cost what they cost without a hypervisor below. */
#include "micro.h"

#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/io.h>
#include <sys/mman.h>
#include <sys/time.h>

/* CPUID always exits; KVM answers it in L1's kernel. */
uint64_t micro_cpuid(unsigned long exits)
{
	for (; exits; exits--) {
		unsigned a = 0, b, c = 0, d;

		__asm__ volatile("cpuid" : "+a"(a), "=b"(b), "+c"(c), "=d"(d));
	}
	return 0;
}

/* Port 0x80 is nobody's in the kernel: the exit goes on to the hypervisor's program in L1's user space. */
uint64_t micro_port(unsigned long exits)
{
	if (ioperm(0x80, 1, 1) != 0)
		micro_fail("ioperm");
	for (; exits; exits--)
		outb((unsigned char)exits, 0x80);
	return 0;
}

/* Pages that this guest never used are missing in the nested page tables (EPT), too: an exit for each page of 4 KB. */
uint64_t micro_touch(unsigned long megabytes)
{
	unsigned long size = megabytes << 20;
	char *region = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (region == MAP_FAILED)
		micro_fail("mmap");
	madvise(region, size, MADV_NOHUGEPAGE);
	for (unsigned long at = 0; at < size; at += 4096)
		region[at] = 1;
	return 0;
}

static volatile sig_atomic_t fired;

static void on_alarm(int signal)
{
	(void)signal;
	fired = 1;
}

/*
 * One-shot timers that expire at once, while the program waits in a loop and not in a halt: each is armed (an exit for
 * the local APIC's timer register), expires in L1, and its interrupt is injected.
 */
uint64_t micro_timer(unsigned long interrupts)
{
	struct itimerval soon = { .it_value = { .tv_usec = 1 } };
	struct sigaction action = { .sa_handler = on_alarm };

	sigaction(SIGALRM, &action, NULL);
	for (; interrupts; interrupts--) {
		fired = 0;
		if (setitimer(ITIMER_REAL, &soon, NULL) != 0)
			micro_fail("setitimer");
		while (!fired)
			;
	}
	return 0;
}

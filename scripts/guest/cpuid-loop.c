/*
 * Executes CPUID, which always leaves a VMX guest, 10,000 times: the cost of an L2 exit through L1's hypervisor.
 * No libc, so that the binary is a kilobyte.
 */
static void write_text(const char *text, unsigned long length)
{
	long result;

	__asm__ volatile("syscall" : "=a"(result) : "0"(1L), "D"(1L), "S"(text), "d"(length)
			 : "rcx", "r11", "memory");
}

__attribute__((noreturn)) void _start(void)
{
	for (unsigned turn = 0; turn < 10000; turn++) {
		unsigned a = 0, b, c = 0, d;

		__asm__ volatile("cpuid" : "+a"(a), "=b"(b), "+c"(c), "=d"(d));
	}
	write_text("10000 CPUID instructions\n", 25);
	__asm__ volatile("syscall" : : "a"(60L), "D"(0L) : "rcx", "r11", "memory");
	__builtin_unreachable();
}

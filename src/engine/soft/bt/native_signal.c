#include "engine/soft/bt/native_signal.h"

#include <pthread.h>
#include <signal.h>
#include <stddef.h>
#include <sys/mman.h>
#include <ucontext.h>

#define SIGNAL_STACK (64u * 1024)

/* ucontext's index of each hardware register number. */
static const uint8_t greg_of[16] = { REG_RAX, REG_RCX, REG_RDX, REG_RBX, REG_RSP, REG_RBP, REG_RSI, REG_RDI,
				     REG_R8,  REG_R9,  REG_R10, REG_R11, REG_R12, REG_R13, REG_R14, REG_R15 };

/*
 * Continues in the fault thunk, with the guest's registers in their places between blocks. Any
 * other fault is a defect of ours and takes its default course when the instruction is done again.
 */
static void on_native_fault(int number, siginfo_t *info, void *context)
{
	greg_t *gregs = ((ucontext_t *)context)->uc_mcontext.gregs;
	struct native_redirect redirect;

	uint64_t stack = native_stack_overflow((uint64_t)info->si_addr);

	if (number == SIGSEGV && stack) {
		gregs[REG_RSP] = stack;
		return;
	}
	if (!native_fault_redirect(gregs[REG_RIP], gregs[REG_TRAPNO], gregs[REG_EFL], &redirect)) {
		signal(number, SIG_DFL);
		return;
	}
	for (unsigned i = 0; i < NATIVE_EXCHANGES; i++) {
		const struct native_exchange *exchange = &redirect.exchange[i];

		if (exchange->host >= 16)
			continue;
		if (exchange->keep)
			*exchange->keep = gregs[greg_of[exchange->host]];
		gregs[greg_of[exchange->host]] = *exchange->value;
	}
	gregs[REG_R10] = redirect.r10;
	gregs[REG_RIP] = redirect.rip;
}

int native_rescue_signal(void)
{
	return SIGURG;
}

static void on_rescue(int number, siginfo_t *info, void *context)
{
	(void)number;
	(void)info;
	native_rescue(((ucontext_t *)context)->uc_mcontext.gregs[REG_RSP]);
}

/* When a thread that ran a vCPU ends: each start of a machine has threads of its own. */
static void free_stack(void *memory)
{
	stack_t none = { .ss_flags = SS_DISABLE };

	sigaltstack(&none, NULL);
	munmap(memory, SIGNAL_STACK);
}

static pthread_key_t stack_of_thread;

static void make_key(void)
{
	pthread_key_create(&stack_of_thread, free_stack);
}

int native_signals_init(void)
{
	static pthread_once_t once = PTHREAD_ONCE_INIT;
	static const int signals[] = { SIGFPE, SIGSEGV, SIGBUS };
	struct sigaction action = { .sa_sigaction = on_native_fault, .sa_flags = SA_SIGINFO | SA_ONSTACK };
	stack_t stack = { .ss_size = SIGNAL_STACK };

	stack.ss_sp = mmap(NULL, SIGNAL_STACK, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (stack.ss_sp == MAP_FAILED || sigaltstack(&stack, NULL) < 0)
		return -1;
	pthread_once(&once, make_key);
	pthread_setspecific(stack_of_thread, stack.ss_sp);
	sigemptyset(&action.sa_mask);
	for (size_t i = 0; i < sizeof(signals) / sizeof(signals[0]); i++)
		sigaction(signals[i], &action, NULL);
	struct sigaction rescue = { .sa_sigaction = on_rescue, .sa_flags = SA_SIGINFO | SA_RESTART | SA_ONSTACK };

	sigaction(native_rescue_signal(), &rescue, NULL);
	return 0;
}

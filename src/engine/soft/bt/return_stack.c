#include "engine/soft/bt/return_stack.h"

#include <sys/mman.h>

#define STACK_SIZE (128u * 1024)
#define NO_ADDRESS 0xffff800000000001ull /* seldom a return address; where it is one, the entry does no harm */

static uint8_t *stack_base(const struct cpu *cpu)
{
	return (uint8_t *)cpu->return_bottom + 2 * sizeof(struct return_entry) - STACK_SIZE;
}

int return_stack_create(struct cpu *cpu)
{
	uint8_t *base = mmap(NULL, STACK_SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (base == MAP_FAILED)
		return -1;
	/* Two entries at the bottom: a return looks at the top one and the one below it. */
	cpu->return_bottom = base + STACK_SIZE - 2 * sizeof(struct return_entry);
	if (mprotect(base, PAGE_SIZE, PROT_NONE) < 0) {
		return_stack_destroy(cpu);
		return -1;
	}
	return_stack_forget(cpu);
	return 0;
}

void return_stack_destroy(struct cpu *cpu)
{
	if (cpu->return_bottom)
		munmap(stack_base(cpu), STACK_SIZE);
	cpu->return_bottom = cpu->return_sp = NULL;
}

void return_stack_set_bottom(struct cpu *cpu, const void *unpaired)
{
	struct return_entry *entry = cpu->return_bottom;

	entry[0] = entry[1] = (struct return_entry){ .host = unpaired, .guest = NO_ADDRESS };
}

bool return_stack_is_guard(const struct cpu *cpu, uint64_t host_address)
{
	return cpu->return_bottom && host_address - (uintptr_t)stack_base(cpu) < PAGE_SIZE;
}

void return_stack_wipe(struct cpu *cpu, uint64_t stack_pointer)
{
	struct return_entry *bottom = cpu->return_bottom, *entry;

	if (!bottom)
		return;
	if (stack_pointer - (uintptr_t)stack_base(cpu) >= STACK_SIZE)
		stack_pointer = (uintptr_t)cpu->return_sp; /* C runs, on its own stack */
	/* A thunk's return address may be on top, half an entry. */
	entry = (void *)((stack_pointer + sizeof(*entry) - 1) & ~(sizeof(*entry) - 1));
	for (; entry < bottom; entry++)
		*entry = *bottom;
}

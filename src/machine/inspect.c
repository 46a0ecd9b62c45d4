#include "machine/inspect.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include "machine/dma.h"
#include "machine/machine.h"
#include "util/error.h"

int machine_translate(struct machine *machine, unsigned vcpu, uint64_t gla, uint64_t *gpa)
{
	gpa_t result;

	if (!machine->engine->vcpu_translate)
		return error_set(ENOTSUP, "the %s engine cannot translate addresses", machine->engine->name);
	if (vcpu >= machine->config.cpu_count)
		return error_set(EINVAL, "there is no CPU %u", vcpu);
	if (machine->engine->vcpu_translate(machine->vcpu[vcpu].engine_vcpu, GLA(gla), &result))
		return error_set(EFAULT, "the address %#" PRIx64 " is not mapped on CPU %u", gla, vcpu);
	*gpa = result.v;
	return 0;
}

int machine_set_registers(struct machine *machine, unsigned vcpu, const struct vcpu_state *state)
{
	if (!machine->engine->vcpu_set_registers)
		return error_set(ENOTSUP, "the %s engine cannot change registers", machine->engine->name);
	if (vcpu >= machine->config.cpu_count)
		return error_set(EINVAL, "there is no CPU %u", vcpu);
	return machine->engine->vcpu_set_registers(machine->vcpu[vcpu].engine_vcpu, state);
}

int machine_peek_physical(struct machine *machine, uint64_t gpa, void *to, size_t size)
{
	return dma_read(machine, gpa, to, size)
	           ? error_set(EFAULT, "no RAM or ROM at the physical address %#" PRIx64, gpa)
	           : 0;
}

/* A debugger may write to ROM too: its own breakpoints, or a patch to try. */
int machine_poke_physical(struct machine *machine, uint64_t gpa, const void *from, size_t size)
{
	void *host = guest_memory_host(&machine->memory, GPA(gpa), size);

	if (!host)
		return error_set(EFAULT, "no RAM or ROM at the physical address %#" PRIx64, gpa);
	memcpy(host, from, size);
	dma_written(machine, gpa, size);
	return 0;
}

/* Page by page. */
static int visit(struct machine *machine, unsigned vcpu, uint64_t gla, uint8_t *to, const uint8_t *from,
                 size_t size)
{
	while (size) {
		size_t room = PAGE_SIZE - (gla & (PAGE_SIZE - 1)), part = size < room ? size : room;
		uint64_t gpa = 0;
		int result = machine_translate(machine, vcpu, gla, &gpa);

		if (!result)
			result = to ? machine_peek_physical(machine, gpa, to, part)
			            : machine_poke_physical(machine, gpa, from, part);
		if (result)
			return result;
		gla += part;
		size -= part;
		to = to ? to + part : NULL;
		from = from ? from + part : NULL;
	}
	return 0;
}

int machine_peek(struct machine *machine, unsigned vcpu, uint64_t gla, void *to, size_t size)
{
	return visit(machine, vcpu, gla, to, NULL, size);
}

int machine_poke(struct machine *machine, unsigned vcpu, uint64_t gla, const void *from, size_t size)
{
	return visit(machine, vcpu, gla, NULL, from, size);
}

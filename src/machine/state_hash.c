#include <errno.h>

#include "machine/machine.h"
#include "util/error.h"
#include "util/hash.h"

int machine_state_hash(struct machine *machine, uint64_t *result, uint64_t *instructions)
{
	struct hash hash = {0};

	if (!machine->engine->vcpu_state_hash)
		return error_set(ENOTSUP, "the %s engine has no state hash; use --engine soft",
		                 machine->engine->name);
	*instructions = 0;
	for (unsigned i = 0; i < machine->config.cpu_count; i++) {
		uint64_t retired;

		machine->engine->vcpu_state_hash(machine->vcpu[i].engine_vcpu, &hash, &retired);
		*instructions += retired;
	}
	for (unsigned i = 0; i < machine->memory.slot_count; i++) {
		const struct guest_memory_slot *slot = &machine->memory.slot[i];

		hash_u64(&hash, slot->gpa);
		hash_bytes(&hash, slot->host, slot->size);
	}
	*result = hash.value;
	return 0;
}

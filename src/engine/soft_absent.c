/* Stands in for soft/ in a build without Zydis, which the translator needs. */
#include <errno.h>

#include "engine/engine.h"
#include "util/error.h"

static int absent_vm_create(struct engine_vm **vm, const struct engine_config *config)
{
	return error_set(ENOTSUP, "this build of nestor has no software engine (built without Zydis), only KVM");
}

const struct engine_ops engine_soft = {.name = "soft", .vm_create = absent_vm_create};

/* Birth and death of a vCPU's VMX state. Cold: uses libc. */
#include <errno.h>
#include <stdlib.h>

#include "engine/soft/vmx/vmcs.h"
#include "engine/soft/vmx/vmx.h"
#include "util/error.h"

int vmx_create(struct cpu *cpu)
{
	struct vmx *vmx;

	cpu->vmx = NULL;
	if (!cpu->model->vmx)
		return 0;
	vmx = aligned_alloc(64, (sizeof(*vmx) + 63) / 64 * 64);
	if (!vmx)
		return error_set(ENOMEM, "no memory for the VMX state of vCPU %u", cpu->index);
	*vmx = (struct vmx){0};
	vmx_capabilities_make(&vmx->cap, cpu->model);
	cpu->vmx = vmx;
	vmx_read_capability(cpu->model, 0x3a, &cpu->msr.feature_control);
	vmx_reset(cpu);
	return 0;
}

void vmx_destroy(struct cpu *cpu)
{
	free(cpu->vmx);
	cpu->vmx = NULL;
}

void vmx_state_hash(const struct cpu *cpu, struct hash *hash)
{
	const struct vmx *vmx = cpu->vmx;

	if (!vmx)
		return;
	hash_u64(hash, vmx->in_vmx_operation | vmx->in_nonroot << 1);
	hash_u64(hash, vmx->vmxon.v);
	hash_u64(hash, vmx->current ? vmx->current->gpa.v : UINT64_MAX);
	if (vmx->current) {
		hash_u64(hash, vmx->current->launch_state);
		hash_bytes(hash, vmx->current->f, sizeof(vmx->current->f));
	}
}

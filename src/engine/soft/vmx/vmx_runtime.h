/* What VM entry, VM exits and the intercept hooks keep per vCPU. Included by vmcs.h. */
#ifndef NESTOR_VMX_VMX_RUNTIME_H
#define NESTOR_VMX_VMX_RUNTIME_H

#include <stdint.h>

struct vmx_runtime {
	uint32_t placeholder;
};

#endif

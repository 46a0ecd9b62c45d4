/* What KVM lets out of a vCPU for people and debuggers. Its nested state (VMCS) is not among it. */
#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include "engine/kvm/kvm_private.h"
#include "util/error.h"

int kvm_translate(struct engine_vcpu *vcpu, gla_t gla, gpa_t *gpa)
{
	struct kvm_translation translation = {.linear_address = gla.v};

	if (kvm_ioctl(vcpu->fd, KVM_TRANSLATE, &translation) < 0 || !translation.valid)
		return -EFAULT;
	*gpa = GPA(translation.physical_address);
	return 0;
}

/* The registers that say what is pending, as KVM_GET_LAPIC gives them: at 16 times their number. */
static void print_vectors(const struct kvm_lapic_state *lapic, const char *name, unsigned first, FILE *out)
{
	fprintf(out, "  %s", name);
	for (unsigned vector = 0; vector < 256; vector++) {
		uint32_t word;

		memcpy(&word, lapic->regs + first + vector / 32 * 16, sizeof(word));
		if (word >> vector % 32 & 1)
			fprintf(out, " %02x", vector);
	}
	fputc('\n', out);
}

int kvm_describe(struct engine_vcpu *vcpu, const char *what, FILE *out)
{
	struct kvm_lapic_state lapic;

	if (strcmp(what, "apic") != 0)
		return error_set(ENOTSUP, "KVM does not tell of its %s: --engine soft does", what);
	if (kvm_ioctl(vcpu->fd, KVM_GET_LAPIC, &lapic) < 0)
		return error_set(EIO, "KVM does not give the local APIC");
	fprintf(out, "local APIC of CPU %u:\n", vcpu->index);
	print_vectors(&lapic, "requested (IRR):", 0x200, out);
	print_vectors(&lapic, "in service (ISR):", 0x100, out);
	return 0;
}

/* What the software engine tells people of a vCPU: its TLB, its current VMCS, its local APIC. Cold. */
#include "engine/soft/describe.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include "engine/soft/cpu/apic_state.h"
#include "engine/soft/cpu/paging.h"
#include "engine/soft/cpu/tlb_state.h"
#include "engine/soft/vmx/vmcs.h"
#include "util/error.h"

int soft_translate(struct cpu *cpu, gla_t gla, gpa_t *gpa)
{
	if (cpu->efer & EFER_LMA && !is_canonical(gla.v))
		return -EFAULT;
	return paging_probe(cpu, gla, gpa) ? 0 : -EFAULT;
}

static unsigned filled(const struct tlb_entries *entries)
{
	unsigned count = 0;

	for (unsigned slot = 0; slot < TLB_SLOTS; slot++)
		count += entries->page[slot] != tlb_entry_empty(slot);
	return count;
}

static void describe_context(const struct tlb_state *tlb, unsigned i, FILE *out)
{
	static const char *const class_name[TLB_CLASSES] = {"user", "supervisor", "supervisor with AC"};
	const struct tlb_key *key = &tlb->key[i];
	const struct tlb_context *context = &tlb->context[i];
	const struct tlb_tables *tables = &context->region->tables;

	fprintf(out, "context %u%s: %s", i, context == tlb->current ? " (current)" : "",
	        key->space & 1 ? "non-root" : "root");
	if (key->space & 2)
		fprintf(out, ", EPT %#" PRIx64, key->space & PAGE_MASK);
	fprintf(out, ", VPID %u, PCID %u%s\n", key->vpid, key->pcid,
	        context->pending == PENDING_ALL     ? ", to be flushed"
	        : context->pending == PENDING_LOCAL ? ", to be flushed but for global pages"
	                                            : "");
	for (unsigned class = 0; class < TLB_CLASSES; class++) {
		unsigned reads = filled(&tables->read[class]), writes = filled(&tables->write[class]), fetches = 0;

		for (unsigned slot = 0; slot < FETCH_SLOTS; slot++)
			fetches += tables->fetch[class][slot].page & 1;
		if (reads || writes || fetches)
			fprintf(out, "  %-18s %4u pages to read, %4u to write, %4u to fetch from\n", class_name[class], reads, writes,
			        fetches);
	}
}

static int describe_tlb(struct cpu *cpu, FILE *out)
{
	const struct tlb_state *tlb = tlb_state_of(cpu);

	for (unsigned i = 0; i < TLB_CONTEXTS; i++)
		if (tlb->key[i].space & 4)
			describe_context(tlb, i, out);
	fprintf(out, "page walks after misses: %" PRIu64 "\n", tlb->table_walks);
	return 0;
}

static int describe_vmcs(struct cpu *cpu, FILE *out)
{
	static const char *const title[] = {"controls", "exit information", "guest state", "host state"};
	const struct vmx *vmx = cpu->vmx;
	const struct vmcs *vmcs = vmx ? vmx->current : NULL;

	if (!vmx || !vmx->in_vmx_operation) {
		fprintf(out, "CPU %u is not in VMX operation\n", cpu->index);
		return 0;
	}
	fprintf(out, "CPU %u is in VMX %s operation; VMXON region at %#" PRIx64 "\n", cpu->index,
	        vmx->in_nonroot ? "non-root" : "root", vmx->vmxon.v);
	if (!vmcs) {
		fprintf(out, "no current VMCS\n");
		return 0;
	}
	fprintf(out, "current VMCS at %#" PRIx64 ", %s\n", vmcs->gpa.v,
	        vmcs->launch_state == VMCS_LAUNCHED ? "launched" : "clear");
	for (unsigned type = 0; type < 4; type++) {
		fprintf(out, "%s:\n", title[type]);
		for (unsigned i = 1; i < VMCS_FIELD_COUNT; i++)
			if (vmcs_field_info[i].type == type && vmx_field_supported(&vmx->cap, i))
				fprintf(out, "  %04x %-42s %0*" PRIx64 "\n", vmcs_field_info[i].encoding, vmcs_field_info[i].name,
				        vmcs_field_info[i].width == VMCS_WIDTH_16   ? 4
				        : vmcs_field_info[i].width == VMCS_WIDTH_32 ? 8
				                                                    : 16,
				        vmcs_get(vmcs, i));
	}
	return 0;
}

static void print_vectors(FILE *out, const char *name, const uint32_t word[8])
{
	fprintf(out, "  %s", name);
	for (unsigned vector = 0; vector < 256; vector++)
		if (word[vector / 32] >> vector % 32 & 1)
			fprintf(out, " %02x", vector);
	fputc('\n', out);
}

static int describe_apic(struct cpu *cpu, FILE *out)
{
	static const char *const lvt_name[LVT_COUNT] = {"timer", "thermal", "performance", "lint0", "lint1", "error"};
	const struct apic *apic = cpu->apic;

	fprintf(out, "local APIC of CPU %u: ID %#x, %s, TPR %02x, SVR %03x, LDR %08x, ESR %02x\n", cpu->index, apic->id,
	        !apic->enabled ? "disabled" : apic->x2apic ? "x2APIC" : "xAPIC", apic->tpr, apic->svr, apic->ldr, apic->esr);
	print_vectors(out, "requested (IRR):", apic->irr);
	print_vectors(out, "in service (ISR):", apic->isr);
	fprintf(out, "  LVT");
	for (unsigned i = 0; i < LVT_COUNT; i++)
		fprintf(out, "  %s %05x", lvt_name[i], apic->lvt[i]);
	fputc('\n', out);
	return 0;
}

int soft_describe(struct cpu *cpu, const char *what, FILE *out)
{
	if (!strcmp(what, "tlb"))
		return describe_tlb(cpu, out);
	if (!strcmp(what, "vmcs"))
		return describe_vmcs(cpu, out);
	if (!strcmp(what, "apic"))
		return describe_apic(cpu, out);
	return error_set(EINVAL, "the software engine knows nothing of '%s'", what);
}

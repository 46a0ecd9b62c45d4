/* The topics of `info`. Each stops the vCPUs for as long as it looks, where it looks at them. */
#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include "control/command.h"
#include "device/disk/cdrom.h"
#include "engine/vcpu_state.h"
#include "machine/machine.h"
#include "util/error.h"

static void print_segment(FILE *out, const char *name, const struct segment *segment)
{
	uint32_t r = segment->rights;

	fprintf(out, "%-3s %04x  base %016" PRIx64 "  limit %08x  ", name, segment->selector, segment->base,
	        segment->limit);
	if (r & RIGHTS_UNUSABLE)
		fprintf(out, "unusable\n");
	else
		fprintf(out, "type %x %s DPL %u%s%s%s%s\n", RIGHTS_TYPE(r),
		        r & RIGHTS_S ? "code/data" : "system", RIGHTS_DPL(r), r & RIGHTS_P ? " P" : "",
		        r & RIGHTS_L ? " L" : "", r & RIGHTS_DB ? " D/B" : "", r & RIGHTS_G ? " G" : "");
}

static void print_flags(FILE *out, uint64_t rflags)
{
	static const struct {
		unsigned bit;
		const char *name;
	} flag[] = {{0, "CF"},  {2, "PF"},   {4, "AF"},   {6, "ZF"},  {7, "SF"},  {8, "TF"},
	            {9, "IF"},  {10, "DF"},  {11, "OF"},  {14, "NT"}, {16, "RF"}, {17, "VM"},
	            {18, "AC"}, {19, "VIF"}, {20, "VIP"}, {21, "ID"}};

	fprintf(out, "rflags %08" PRIx64 " [", rflags);
	for (size_t i = 0, first = 1; i < sizeof(flag) / sizeof(flag[0]); i++)
		if (rflags >> flag[i].bit & 1) {
			fprintf(out, "%s%s", first ? "" : " ", flag[i].name);
			first = 0;
		}
	fprintf(out, "] IOPL %u\n", (unsigned)(rflags >> 12 & 3));
}

static int info_registers(struct control_state *state, unsigned cpu, FILE *out)
{
	static const char *const name[] = {"rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi",
	                                   "r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15"};
	static const char *const segment_name[] = {"es", "cs", "ss", "ds", "fs", "gs", "ldt", "tr"};
	static const uint8_t order[] = {REG_RAX, REG_RBX, REG_RCX, REG_RDX, REG_RSI, REG_RDI,
	                                REG_RBP, REG_RSP, REG_R8,  REG_R9,  REG_R10, REG_R11,
	                                REG_R12, REG_R13, REG_R14, REG_R15};
	struct vcpu_state s;
	int result;

	memset(&s, 0, sizeof(s));
	result = machine_get_state(state->machine, cpu, &s);
	if (result)
		return result;
	fprintf(out, "CPU %u, %s\n", cpu,
	        s.level ? "non-root operation (level 2)" : "root operation or no VMX (level 1)");
	for (unsigned i = 0; i < 16; i++)
		fprintf(out, "%-3s %016" PRIx64 "%s", name[order[i]], s.gpr[order[i]],
		        i % 4 == 3 ? "\n" : "  ");
	fprintf(out, "rip %016" PRIx64 "  ", s.rip);
	print_flags(out, s.rflags);
	for (unsigned i = 0; i < SEG_COUNT; i++)
		print_segment(out, segment_name[i], &s.seg[i]);
	fprintf(out, "gdt       base %016" PRIx64 "  limit %04x\n", s.gdtr.base, s.gdtr.limit);
	fprintf(out, "idt       base %016" PRIx64 "  limit %04x\n", s.idtr.base, s.idtr.limit);
	fprintf(out,
	        "cr0 %08" PRIx64 "  cr2 %016" PRIx64 "  cr3 %016" PRIx64 "  cr4 %08" PRIx64 "  cr8 %" PRIx64
	        "  efer %04" PRIx64 "\n",
	        s.cr0, s.cr2, s.cr3, s.cr4, s.cr8, s.efer);
	fprintf(out,
	        "dr0 %016" PRIx64 "  dr1 %016" PRIx64 "  dr2 %016" PRIx64 "  dr3 %016" PRIx64 "\n"
	        "dr6 %08" PRIx64 "  dr7 %08" PRIx64 "\n",
	        s.dr[0], s.dr[1], s.dr[2], s.dr[3], s.dr[6], s.dr[7]);
	return 0;
}

static int describe_vcpu(struct control_state *state, unsigned cpu, const char *what, FILE *out)
{
	const struct engine_ops *engine = state->machine->engine;

	if (!engine->vcpu_describe)
		return error_set(ENOTSUP, "the %s engine tells nothing of its %s", engine->name, what);
	return engine->vcpu_describe(state->machine->vcpu[cpu].engine_vcpu, what, out);
}

static int info_tlb(struct control_state *state, unsigned cpu, FILE *out)
{
	return describe_vcpu(state, cpu, "tlb", out);
}

static int info_vmcs(struct control_state *state, unsigned cpu, FILE *out)
{
	return describe_vcpu(state, cpu, "vmcs", out);
}

static int info_irq(struct control_state *state, unsigned cpu, FILE *out)
{
	struct machine *machine = state->machine;

	fprintf(out, "lines that are asserted, by ISA number or IOAPIC pin:");
	machine_lock(machine);
	for (unsigned i = 0; i < PLATFORM_IRQ_COUNT; i++)
		if (machine->irq[i].asserted)
			fprintf(out, " %u", i);
	fprintf(out, "\n8259 INTR %s\n", machine->extint ? "asserted" : "not asserted");
	machine_unlock(machine);
	machine_describe(machine, "irq", out);
	if (machine->engine->vcpu_describe)
		machine->engine->vcpu_describe(machine->vcpu[cpu].engine_vcpu, "apic", out);
	return 0;
}

static int info_devices(struct control_state *state, unsigned cpu, FILE *out)
{
	struct machine *machine = state->machine;

	machine_lock(machine);
	for (unsigned i = 0; i < machine->device_count; i++)
		fprintf(out, "%s\n", machine->device[i].name);
	machine_unlock(machine);
	return 0;
}

static void print_bus(FILE *out, const char *title, const struct bus *bus)
{
	fprintf(out, "%s\n", title);
	for (unsigned i = 0; i < bus->count; i++)
		fprintf(out, "  %016" PRIx64 "-%016" PRIx64 " %s\n", bus->range[i].start,
		        bus->range[i].start + (bus->range[i].size - 1), bus->range[i].name);
}

static int info_mtree(struct control_state *state, unsigned cpu, FILE *out)
{
	struct machine *machine = state->machine;

	fprintf(out, "memory\n");
	machine_lock(machine);
	for (unsigned i = 0; i < machine->memory.slot_count; i++) {
		const struct guest_memory_slot *slot = &machine->memory.slot[i];

		fprintf(out, "  %016" PRIx64 "-%016" PRIx64 " %s\n", slot->gpa, slot->gpa + slot->size - 1,
		        slot->read_only ? "rom" : "ram");
	}
	print_bus(out, "memory-mapped devices", &machine->mmio);
	print_bus(out, "ports", &machine->pio);
	machine_unlock(machine);
	return 0;
}

static int info_pci(struct control_state *state, unsigned cpu, FILE *out)
{
	if (!machine_describe(state->machine, "pci", out))
		fprintf(out, "no PCI functions\n");
	return 0;
}

static int info_block(struct control_state *state, unsigned cpu, FILE *out)
{
	const struct machine_config *config = &state->machine->config;

	for (unsigned i = 0; i < config->disk_count; i++) {
		const struct disk_config *disk = &config->disk[i];

		struct cdrom_status cd = {.file = disk->file};

		cdrom_status(state->machine, i, &cd);
		fprintf(out, "disk%u: %s, %s%s%s%s%s%s\n", i, cd.file ? cd.file : "no disc",
		        disk->interface == DISK_AHCI ? "AHCI" : "virtio", disk->cdrom ? " CD" : "",
		        disk->read_only && !disk->cdrom ? ", read only" : "",
		        disk->snapshot ? ", snapshot" : "", cd.open ? ", open" : "",
		        cd.locked ? ", locked by the guest" : "");
	}
	if (!machine_describe(state->machine, "block", out) && !config->disk_count)
		fprintf(out, "no disks\n");
	return 0;
}

static int info_network(struct control_state *state, unsigned cpu, FILE *out)
{
	const struct machine_config *config = &state->machine->config;

	for (unsigned i = 0; i < config->net_count; i++) {
		const struct net_config *net = &config->net[i];
		const uint8_t *mac = net->mac;

		fprintf(out, "net%u: %s, %02x:%02x:%02x:%02x:%02x:%02x, ", i,
		        net->model == NET_MODEL_E1000E ? "e1000e" : "virtio", mac[0], mac[1], mac[2], mac[3],
		        mac[4], mac[5]);
		if (net->kind == NET_TAP)
			fprintf(out, "tap %s\n", net->interface);
		else
			fprintf(out, "user%s\n", net->restricted ? ", restricted" : "");
		for (unsigned f = 0; f < net->forward_count; f++)
			fprintf(out, "  %s port %u of the host goes to port %u of the guest\n",
			        net->forward[f].udp ? "UDP" : "TCP", net->forward[f].host_port,
			        net->forward[f].guest_port);
	}
	if (!machine_describe(state->machine, "network", out) && !config->net_count)
		fprintf(out, "no network devices\n");
	return 0;
}

static int info_status(struct control_state *state, unsigned cpu, FILE *out)
{
	fprintf(out, "%s\n", control_status(state));
	return 0;
}

static int info_name(struct control_state *state, unsigned cpu, FILE *out)
{
	fprintf(out, "%s\n", state->name);
	return 0;
}

static int info_version(struct control_state *state, unsigned cpu, FILE *out)
{
	fprintf(out, "nestor %s, %s engine\n", NESTOR_VERSION, state->machine->engine->name);
	return 0;
}

static int info_cpus(struct control_state *state, unsigned cpu, FILE *out)
{
	struct machine *machine = state->machine;

	for (unsigned i = 0; i < machine->config.cpu_count; i++) {
		struct vcpu_state s;

		memset(&s, 0, sizeof(s));
		if (machine_get_state(machine, i, &s))
			return -EIO;
		fprintf(out, "CPU %u: level %u, %04x:%016" PRIx64 ", cr3 %016" PRIx64 ", thread %d\n", i,
		        s.level + 1u, s.seg[SEG_CS].selector, s.rip, s.cr3,
		        (int)atomic_load(&machine->vcpu[i].thread_id));
	}
	return 0;
}

static const struct {
	const char *topic, *meaning;
	int (*print)(struct control_state *state, unsigned cpu, FILE *out);
	bool stopped; /* needs the vCPUs to stand still */
} topics[] = {
    {"registers", "a CPU's registers", info_registers, true},
    {"cpus", "where each CPU is", info_cpus, true},
    {"tlb", "a CPU's TLB contexts and what they hold", info_tlb, true},
    {"vmcs", "a CPU's current VMCS by field names", info_vmcs, true},
    {"irq", "interrupt lines, local and I/O APIC", info_irq, true},
    {"devices", "the devices", info_devices, false},
    {"pci", "PCI functions", info_pci, false},
    {"mtree", "memory and ports, and who answers there", info_mtree, false},
    {"block", "disks", info_block, false},
    {"network", "network devices", info_network, false},
    {"status", "whether the machine runs", info_status, false},
    {"name", "the machine's name", info_name, false},
    {"version", "Nestor's version and engine", info_version, false},
};

int info_print(struct control_state *state, const char *topic, unsigned cpu, FILE *out)
{
	for (size_t i = 0; i < sizeof(topics) / sizeof(topics[0]); i++) {
		int result;

		if (strcmp(topics[i].topic, topic) != 0)
			continue;
		if (!topics[i].stopped)
			return topics[i].print(state, cpu, out);
		if (machine_pause(state->machine))
			return error_set(EBUSY, "the machine is about to end or to start over; try again");
		result = topics[i].print(state, cpu, out);
		machine_resume(state->machine);
		return result;
	}
	return error_set(EINVAL, "info %.60s: no such topic; info alone lists them", topic);
}

void info_list(FILE *out)
{
	for (size_t i = 0; i < sizeof(topics) / sizeof(topics[0]); i++)
		fprintf(out, "info %-10s %s\n", topics[i].topic, topics[i].meaning);
}

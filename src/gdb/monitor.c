/* The lines of GDB's `monitor` command. */
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/vcpu_state.h"
#include "gdb/stub.h"
#include "machine/inspect.h"
#include "machine/machine.h"
#include "util/error.h"

static const char help[] =
    "monitor physical [on|off]  memory by the machine's own addresses, or through the CPU's paging (off)\n"
    "monitor level [1|2|any]    the CPU's level; where CPUs stop: only in VMX root operation (1, a hypervisor and\n"
    "                           what is no guest of it), only in non-root operation (2, its guests), or in both\n"
    "monitor translate ADDRESS  the machine's address of a linear one\n"
    "monitor registers          control registers, segments with base, limit and rights\n"
    "monitor vmcs|tlb|apic      of the CPU\n"
    "monitor reset              start the machine over\n"
    "monitor quit               end the machine\n";

static void physical(struct stub *stub, const char *value, FILE *out)
{
	if (value && strcmp(value, "on") && strcmp(value, "off")) {
		fprintf(out, "physical: on or off\n");
		return;
	}
	if (value)
		stub->physical = !strcmp(value, "on");
	fprintf(out, "addresses of memory are %s\n",
	        stub->physical ? "physical" : "linear, through the CPU's paging");
}

static void level(struct stub *stub, const char *value, FILE *out)
{
	struct vcpu_state state;

	memset(&state, 0, sizeof(state));
	if (value && !strcmp(value, "1"))
		stub->levels = ENGINE_LEVEL_ROOT;
	else if (value && !strcmp(value, "2"))
		stub->levels = ENGINE_LEVEL_NONROOT;
	else if (value && !strcmp(value, "any"))
		stub->levels = ENGINE_LEVEL_ANY;
	else if (value)
		fprintf(out, "level: 1, 2 or any\n");
	if (!machine_get_state(stub->machine, stub->current, &state))
		fprintf(out, "CPU %u is at level %u; CPUs stop at %s\n", stub->current, state.level + 1u,
		        stub->levels == ENGINE_LEVEL_ANY    ? "any level"
		        : stub->levels == ENGINE_LEVEL_ROOT ? "level 1 only"
		                                            : "level 2 only");
}

static void translate(struct stub *stub, const char *value, FILE *out)
{
	uint64_t gpa, gla = value ? strtoull(value, NULL, 0) : 0;

	if (!value)
		fprintf(out, "translate: give an address\n");
	else if (machine_translate(stub->machine, stub->current, gla, &gpa))
		fprintf(out, "%s\n", error_text());
	else
		fprintf(out, "%#" PRIx64 " is at %#" PRIx64 "\n", gla, gpa);
}

static void registers(struct stub *stub, FILE *out)
{
	static const char *const name[] = {"es", "cs", "ss", "ds", "fs", "gs", "ldt", "tr"};
	struct vcpu_state s;

	memset(&s, 0, sizeof(s));
	if (machine_get_state(stub->machine, stub->current, &s))
		return;
	fprintf(out,
	        "cr0 %#" PRIx64 " cr2 %#" PRIx64 " cr3 %#" PRIx64 " cr4 %#" PRIx64 " efer %#" PRIx64 "\n",
	        s.cr0, s.cr2, s.cr3, s.cr4, s.efer);
	for (unsigned i = 0; i < SEG_COUNT; i++)
		fprintf(out, "%-3s %04x base %#" PRIx64 " limit %#x rights %#x\n", name[i], s.seg[i].selector,
		        s.seg[i].base, s.seg[i].limit, s.seg[i].rights);
	fprintf(out, "gdt base %#" PRIx64 " limit %#x\nidt base %#" PRIx64 " limit %#x\n", s.gdtr.base,
	        s.gdtr.limit, s.idtr.base, s.idtr.limit);
}

static void describe(struct stub *stub, const char *what, FILE *out)
{
	const struct engine_ops *engine = stub->machine->engine;

	if (!engine->vcpu_describe)
		fprintf(out, "the %s engine tells nothing of it\n", engine->name);
	else if (engine->vcpu_describe(stub->machine->vcpu[stub->current].engine_vcpu, what, out))
		fprintf(out, "%s\n", error_text());
}

static void execute(struct stub *stub, char *line, FILE *out)
{
	char *save, *word = strtok_r(line, " \t", &save), *value = word ? strtok_r(NULL, " \t", &save) : NULL;

	if (!word || !strcmp(word, "help"))
		fputs(help, out);
	else if (!strcmp(word, "physical"))
		physical(stub, value, out);
	else if (!strcmp(word, "level"))
		level(stub, value, out);
	else if (!strcmp(word, "translate"))
		translate(stub, value, out);
	else if (!strcmp(word, "registers"))
		registers(stub, out);
	else if (!strcmp(word, "vmcs") || !strcmp(word, "tlb") || !strcmp(word, "apic"))
		describe(stub, word, out);
	else if (!strcmp(word, "reset"))
		machine_restart(stub->machine, STOP_HOST_RESET);
	else if (!strcmp(word, "quit"))
		machine_stop_because(stub->machine, 0, STOP_HOST_UI);
	else
		fprintf(out, "'%s' is not known; monitor help lists the commands\n", word);
}

void stub_monitor(struct stub *stub, const char *text, char *out, size_t size)
{
	char line[256];
	FILE *file = fmemopen(out, size - 1, "w");

	*out = '\0';
	out[size - 1] = '\0';
	if (!file)
		return;
	setvbuf(file, NULL, _IONBF, 0);
	snprintf(line, sizeof(line), "%s", text);
	execute(stub, line, file);
	fclose(file);
}

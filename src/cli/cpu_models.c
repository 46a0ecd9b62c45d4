#include "cli/cli.h"

#include <string.h>

#include "engine/cpu_model.h"
#include "util/error.h"

const char help_cpu_models[] =
	"Usage: nestor cpu-models\n"
	"\n"
	"Lists the names that nestor run --cpu takes and whether this host can carry them.\n"
	"\n"
	"Examples:\n"
	"  nestor cpu-models\n"
	"  nestor run --cpu x86-64-v2,+aes --kernel vmlinuz\n";

static const struct {
	const char *name, *meaning;
} models[] = {
	{"x86-64-v3", "AVX2, BMI1, BMI2, FMA, F16C, MOVBE (Haswell and later)"},
	{"x86-64-v2", "SSE4.2, POPCNT, CMPXCHG16B (Nehalem and later)"},
};

int command_cpu_models(int argc, char **argv)
{
	bool best = true;

	if (argc > 1) {
		if (!strcmp(argv[1], "--help")) {
			fputs(help_cpu_models, stdout);
			return STATUS_OK;
		}
		return usage_error("cpu-models", "%s: takes no options (see nestor cpu-models --help)",
		                   argv[1]);
	}
	for (size_t i = 0; i < sizeof(models) / sizeof(models[0]); i++) {
		struct cpu_model_request request = {.model = models[i].name, .nested_vmx = true, .cpu_count = 1};
		struct cpu_model model;
		bool carried = cpu_model_make(&model, &request) == 0;

		printf("%-10s  %s%s\n", models[i].name, models[i].meaning,
		       carried && best ? "; the default here" : "");
		if (!carried)
			printf("            not on this host: %s\n", error_text());
		best = best && !carried;
	}
	return STATUS_OK;
}

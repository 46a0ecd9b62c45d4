/* micro NAME SIZE: runs one of the small workloads and prints its result. See micro.h. */
#include "micro.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const struct workload {
	const char *name;
	uint64_t (*run)(unsigned long size);
	int prints; /* its output is the result */
} workloads[] = {
	{ "text", micro_text, 1 },
	{ "lines", micro_lines, 1 },
	{ "sql", micro_sql, 1 },
	{ "stream", micro_stream, 0 },
	{ "chase", micro_chase, 0 },
	{ "matrix", micro_matrix_sse2, 0 },
	{ "matrix_avx2", micro_matrix_avx2, 0 },
	{ "nbody", micro_nbody, 0 },
	{ "faults", micro_faults, 0 },
	{ "pipes", micro_pipes, 0 },
	{ "cpuid", micro_cpuid, 0 },
	{ "port", micro_port, 0 },
	{ "touch", micro_touch, 0 },
	{ "timer", micro_timer, 0 },
};

void micro_fail(const char *what)
{
	perror(what);
	exit(1);
}

int main(int count, char **words)
{
	unsigned long size = count == 3 ? strtoul(words[2], NULL, 10) : 0;

	for (unsigned i = 0; size && i < sizeof workloads / sizeof workloads[0]; i++)
		if (strcmp(words[1], workloads[i].name) == 0) {
			uint64_t result = workloads[i].run(size);

			if (!workloads[i].prints)
				printf("%016" PRIx64 "\n", result);
			return fflush(stdout) == 0 ? 0 : 1;
		}
	fprintf(stderr, "usage: micro NAME SIZE\n");
	return 2;
}

/* The part of time.c that asks the host. */
#include <pthread.h>

#include "engine/host_tsc.h"
#include "engine/soft/cpu/time.h"

static uint64_t host_tsc(void)
{
	uint32_t low, high;

	__asm__ volatile("rdtsc" : "=a"(low), "=d"(high));
	return (uint64_t)high << 32 | low;
}

/* A moment at which both clocks were read. One per machine, so that the TSCs of its vCPUs are in step. */
struct origin {
	const void *context; /* the machine's */
	uint64_t tsc, ns;
};

static struct origin machine_origin(const struct engine_host *host)
{
	static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
	static struct origin last;
	struct origin origin;

	pthread_mutex_lock(&lock);
	origin = last;
	pthread_mutex_unlock(&lock);
	/* A new machine's clock starts again at 0, even where malloc gave it its predecessor's address. */
	if (origin.context == host->context && origin.context && host->clock_ns(host->context) >= origin.ns)
		return origin;

	uint64_t tightest = UINT64_MAX;
	for (int i = 0; i < 8; i++) {
		uint64_t before = host_tsc();
		uint64_t ns = host->clock_ns(host->context);
		uint64_t after = host_tsc();

		if (after - before < tightest) {
			tightest = after - before;
			origin = (struct origin){
			    .context = host->context, .tsc = before + (after - before) / 2, .ns = ns};
		}
	}
	pthread_mutex_lock(&lock);
	last = origin;
	pthread_mutex_unlock(&lock);
	return origin;
}

void time_init(struct cpu *cpu)
{
	uint64_t guest_hz = cpu->model->tsc_hz, host_hz, ticks;
	struct origin origin;

	cpu->random_state = 0x6e6573746f72u + cpu->index;
	if (cpu->clock == ENGINE_CLOCK_DETERMINISTIC) {
		cpu->tsc_offset = 0;
		return;
	}
	host_hz = host_tsc_hz();
	/* The model rounds to whole kilohertz; such a difference is no reason to scale. */
	uint64_t difference = guest_hz > host_hz ? guest_hz - host_hz : host_hz - guest_hz;
	cpu->tsc_ratio = 0;
	if (difference > host_hz / 500000)
		cpu->tsc_ratio = (uint64_t)(((unsigned __int128)guest_hz << 48) / host_hz);

	origin = machine_origin(cpu->host);
	ticks =
	    cpu->tsc_ratio ? (uint64_t)((unsigned __int128)origin.tsc * cpu->tsc_ratio >> 48) : origin.tsc;
	uint64_t at_origin = time_mul_div(origin.ns, guest_hz, 1000000000u);
	cpu->tsc_offset = (int64_t)(at_origin - ticks);
	cpu->clock_anchor_ticks = at_origin;
	cpu->clock_anchor_ns = origin.ns;
}

/*
 * virtio-rng: entropy from the host; under the deterministic clock numbers that are the same in every run.
 * Rules: VIRTIO 1.2, "Entropy Device".
 */
#include <errno.h>
#include <stdlib.h>
#include <sys/random.h>

#include "device/devices.h"
#include "device/virtio/virtio.h"
#include "machine/machine.h"
#include "util/error.h"
#include "util/hash.h"

#define CLASS_OTHER 0x00ff00
#define QUEUE_SIZE  8
#define ANSWER_MAX  4096 /* bytes for one buffer, however long it is */

struct rng {
	struct virtio_device virtio;
	bool deterministic;
	uint64_t seed;
};

/* Returns how many bytes there are. */
static size_t generate(struct rng *rng, uint8_t *bytes, size_t size)
{
	ssize_t got;

	if (!rng->deterministic) {
		got = getrandom(bytes, size, GRND_NONBLOCK);
		return got > 0 ? (size_t)got : 0;
	}
	for (size_t i = 0; i < size; i++) {
		rng->seed += 0x9e3779b97f4a7c15u;
		bytes[i] = (uint8_t)hash_mix(rng->seed);
	}
	return size;
}

static void notified(void *device, struct virtqueue *queue)
{
	struct rng *rng = device;
	struct virtio_chain *chain;
	uint8_t bytes[ANSWER_MAX];

	while ((chain = virtqueue_pop(queue))) {
		size_t size = chain->writable_size < sizeof(bytes) ? chain->writable_size : sizeof(bytes);

		size = generate(rng, bytes, size);
		virtqueue_push(chain, virtio_chain_write(chain, 0, bytes, size));
	}
	virtqueue_notify(queue);
}

static void reset(void *device)
{
	struct rng *rng = device;

	rng->seed = 1;
}

static const struct virtio_ops ops = {.reset = reset, .destroy = free};

int virtio_rng_create(struct machine *machine)
{
	struct virtio_setup setup = {
	    .name = "virtio-rng", .type = VIRTIO_ID_RNG, .class_code = CLASS_OTHER, .ops = &ops};
	struct rng *rng;
	int error;

	if (!machine->config.rng)
		return 0;
	rng = calloc(1, sizeof(*rng));
	if (!rng)
		return error_set(ENOMEM, "out of memory");
	rng->deterministic = machine->config.clock == ENGINE_CLOCK_DETERMINISTIC;
	setup.device = rng;
	virtio_create(&rng->virtio, machine, &setup);
	virtio_add_queue(&rng->virtio, QUEUE_SIZE, notified);
	error = virtio_add(&rng->virtio, PCI_SLOT_ANY);
	if (error)
		free(rng);
	return error;
}

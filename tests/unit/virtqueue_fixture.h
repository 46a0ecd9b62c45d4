/*
 * A virtqueue alone, of either format, for the tests of virtqueue.c and its formats. The device that the queue belongs to
 * is replaced: what was negotiated, interrupts and failures are variables here.
 */
#ifndef NESTOR_TESTS_VIRTQUEUE_FIXTURE_H
#define NESTOR_TESTS_VIRTQUEUE_FIXTURE_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "device/virtio/virtio.h"
#include "machine/dma.h"
#include "machine_fixture.h"
#include "queue_driver.h"

#define RINGS 0x100000u
#define DATA  0x200000u
#define TABLE 0x180000u

static struct machine *machine;
static struct virtio_device device;
static struct virtqueue *queue;
static uint64_t negotiated;
static bool running;
static unsigned interrupts, failures, continued;
static const char *failure;

bool virtio_has(const struct virtio_device *virtio, uint64_t feature)
{
	return negotiated & feature;
}

bool virtio_running(const struct virtio_device *virtio)
{
	return running && failures == 0;
}

void virtio_fail(struct virtio_device *virtio, const char *why)
{
	failure = why;
	failures++;
}

void virtio_continue(struct virtio_device *virtio)
{
	continued++;
}

void virtio_interrupt(struct virtio_device *virtio, uint16_t vector)
{
	interrupts++;
}

/* A driver has laid the queue out anew, with its parts at these places. */
static inline void enable_queue(unsigned size, uint64_t descriptors, uint64_t available, uint64_t used)
{
	queue->size = (uint16_t)size;
	queue->descriptor_gpa = descriptors;
	queue->available_gpa = available;
	queue->used_gpa = used;
	queue->enabled = true;
	interrupts = failures = 0;
	failure = NULL;
}

/* note_written: called for every store that the engine is told of. */
static inline void create_queue(uint64_t features, void (*note_written)(struct engine_vm *, gpa_t, uint64_t))
{
	static struct engine_ops recording;

	machine = fixture_create("null");
	recording = *machine->engine;
	recording.memory_written = note_written;
	machine->engine = &recording;
	memset(&device, 0, sizeof(device));
	device.machine = machine;
	queue = &device.queue[0];
	queue->virtio = &device;
	queue->size_max = 256;
	negotiated = features;
	running = true;
}

static inline int teardown(void **state)
{
	machine_destroy(machine);
	return 0;
}

#define BAD_PLACES 4

/* Puts a part of the queue, number `which`, where none can be. misplaced: off the available part's alignment. */
static inline void misplace(unsigned which, uint64_t misplaced)
{
	if (which == 0)
		queue->used_gpa = 0xfee00000;
	else if (which == 1)
		queue->available_gpa += misplaced;
	else if (which == 2)
		queue->descriptor_gpa = UINT64_MAX - 15;
	else
		queue->used_gpa += 2;
}

#endif

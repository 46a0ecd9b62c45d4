/*
 * A snapshot: what is written goes to a temporary file that has no name and is gone with the process; a map of one
 * bit per sector says which sectors are there. Since requests are whole sectors nothing is ever copied from the base,
 * which can be any image.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "block/driver.h"
#include "block/iov.h"
#include "util/error.h"

#define RUNS 16 /* of one request under way together */

struct overlay {
	struct block block;
	struct block *base, *top;
	_Atomic uint64_t *map; /* a set bit: the sector is in top */
	size_t map_size;
};

/* A request cut into runs of sectors that are all in top or all in base. */
struct split {
	struct overlay *overlay;
	struct block_request *request;
	uint64_t next; /* offset in the request of what has not been started */
	atomic_uint pending;
	atomic_int result;
	struct block_request run[RUNS];
	struct iovec iov[];
};

static bool in_top(const struct overlay *overlay, uint64_t sector)
{
	return atomic_load_explicit(&overlay->map[sector / 64], memory_order_acquire) >> sector % 64 & 1;
}

static void mark_written(struct overlay *overlay, uint64_t offset, uint64_t size)
{
	uint64_t sector = offset / BLOCK_SECTOR, end = (offset + size) / BLOCK_SECTOR;

	while (sector < end) {
		unsigned bit = sector % 64;
		uint64_t count = end - sector < 64 - bit ? end - sector : 64 - bit;
		uint64_t mask = (count == 64 ? UINT64_MAX : (UINT64_C(1) << count) - 1) << bit;

		atomic_fetch_or_explicit(&overlay->map[sector / 64], mask, memory_order_release);
		sector += count;
	}
}

/* How many bytes from offset on, at most size, are where the first sector is. */
static uint64_t run_length(const struct overlay *overlay, uint64_t offset, uint64_t size, bool *top)
{
	uint64_t sector = offset / BLOCK_SECTOR, end = sector + size / BLOCK_SECTOR, at = sector;

	*top = in_top(overlay, sector);
	while (at < end) {
		uint64_t word = atomic_load_explicit(&overlay->map[at / 64], memory_order_acquire);

		if (at % 64 == 0 && end - at >= 64 && word == (*top ? UINT64_MAX : 0))
			at += 64;
		else if ((word >> at % 64 & 1) == *top)
			at++;
		else
			break;
	}
	return (at - sector) * BLOCK_SECTOR;
}

static void start_runs(struct split *split);

static void run_done(struct block_request *run, int result)
{
	struct split *split = run->context;

	if (result)
		atomic_store(&split->result, result);
	if (atomic_fetch_sub(&split->pending, 1) != 1)
		return;
	result = atomic_load(&split->result);
	if (!result && split->next < split->request->length) {
		start_runs(split);
		return;
	}
	if (!result && split->request->operation != BLOCK_READ && split->request->operation != BLOCK_DISCARD)
		mark_written(split->overlay, split->request->offset, split->request->length);
	block_complete(split->request, result);
	free(split);
}

/* Starts the next RUNS of a split; the last that ends goes on from there. */
static void start_runs(struct split *split)
{
	struct overlay *overlay = split->overlay;
	struct block_request *request = split->request;
	struct block *to[RUNS];
	unsigned count = 0, pieces = 0;

	for (; count < RUNS && split->next < request->length; count++) {
		struct block_request *run = &split->run[count];
		uint64_t size = request->length - split->next, taken;
		bool top = true;

		if (request->operation == BLOCK_READ)
			size = run_length(overlay, request->offset + split->next, size, &top);
		to[count] = top ? overlay->top : overlay->base;
		*run = (struct block_request){.operation = request->operation, .offset = request->offset + split->next,
			.size = size, .done = run_done, .context = split, .iov = split->iov + pieces};
		/* The runs lie one after another: together they use no more pieces than the list has, and one more each. */
		run->iov_count = iov_slice(request->iov, request->iov_count, split->next, size,
		                           split->iov + pieces, request->iov_count, &taken);
		pieces += run->iov_count;
		split->next += size;
	}
	atomic_store(&split->pending, count);
	for (unsigned i = 0; i < count; i++)
		block_submit(to[i], &split->run[i]); /* when the last has been submitted *split may be gone */
}

static void overlay_submit(struct block *block, struct block_request *request)
{
	struct overlay *overlay = (struct overlay *)block;
	struct split *split;

	if (request->operation == BLOCK_FLUSH) {
		block_settle(request, 0); /* nothing here is to outlive the process */
		return;
	}
	split = malloc(sizeof(*split) + (request->iov_count + RUNS) * sizeof(struct iovec));
	if (!split) {
		block_settle(request, -ENOMEM);
		return;
	}
	split->overlay = overlay;
	split->request = request;
	split->next = 0;
	atomic_init(&split->result, 0);
	start_runs(split);
}

static int overlay_run(struct block *block, struct block_request *request)
{
	return -EINVAL; /* only settled requests come to the threads */
}

static void overlay_cancel(struct block *block)
{
	block_cancel(((struct overlay *)block)->base);
}

static void overlay_close(struct block *block)
{
	struct overlay *overlay = (struct overlay *)block;

	block_fini(block);
	block_close(overlay->base);
	block_close(overlay->top);
	if (overlay->map)
		munmap(overlay->map, overlay->map_size);
	free(overlay);
}

static const struct block_driver overlay_driver = {overlay_submit, overlay_run, overlay_cancel,
                                                   overlay_close};

/* A file without a name in $TMPDIR or /var/tmp, which unlike /tmp is seldom in memory. Returns it or -errno. */
static int temporary_file(const char *file)
{
	const char *folder = getenv("TMPDIR");
	char name[4096];
	int fd;

	if (!folder || !*folder)
		folder = "/var/tmp";
	fd = open(folder, O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
	if (fd < 0 && snprintf(name, sizeof(name), "%s/nestor-XXXXXX", folder) < (int)sizeof(name)) {
		fd = mkostemp(name, O_CLOEXEC);
		if (fd >= 0)
			unlink(name);
	}
	if (fd < 0)
		return error_set(errno, "%s: snapshot: no temporary file in %s: %s; set TMPDIR to a folder with room", file,
				 folder, strerror(errno));
	return fd;
}

/* The map is as large as disks are; pages that are never written take no memory. */
static int create_map(struct overlay *overlay)
{
	void *map;

	overlay->map_size = (block_size(overlay->base) / BLOCK_SECTOR + 63) / 64 * 8;
	map = mmap(NULL, overlay->map_size, PROT_READ | PROT_WRITE,
	           MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (map == MAP_FAILED)
		return error_set(ENOMEM, "%s: snapshot: too large for this host's memory",
		                 overlay->base->file);
	overlay->map = map;
	return 0;
}

static int create_top(struct overlay *overlay, const struct block_config *config)
{
	struct block_config top = {.file = config->file, .warn = config->warn};
	uint64_t size = block_size(overlay->base);
	int fd = temporary_file(config->file);

	if (fd < 0)
		return fd;
	if (ftruncate(fd, (off_t)size)) {
		int error = errno;

		close(fd);
		return error_set(error, "%s: snapshot: a temporary file cannot be as large as the disk: %s; set TMPDIR to "
					"another folder", config->file, strerror(error));
	}
	return raw_open_fd(&overlay->top, &top, fd, size);
}

int overlay_open(struct block **block, struct block *base, const struct block_config *config)
{
	struct overlay *overlay = calloc(1, sizeof(*overlay));
	int error = overlay ? block_init(&overlay->block, &overlay_driver, config, base->format, 1)
			    : error_set(ENOMEM, "out of memory");

	if (error) {
		free(overlay);
		block_close(base);
		return error;
	}
	overlay->base = base;
	overlay->block.exact_size = block_size(base);
	error = create_map(overlay);
	if (!error)
		error = create_top(overlay, config);
	if (error) {
		overlay_close(&overlay->block);
		return error;
	}
	*block = &overlay->block;
	return 0;
}

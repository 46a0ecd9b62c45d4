/* Raw images, holes, locks, the guard of guessed formats, flushes, and snapshots. */
#include <errno.h>
#include <fcntl.h>
#include <semaphore.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#include <cmocka.h>

#include "block/block.h"
#include "block/driver.h"
#include "block/iov.h"
#include "util/error.h"

#define KIB 1024u

/* ---- what the host is asked for: these stand before the C library's ---- */

static char trace[64]; /* w: a write, s: a synchronization */
static atomic_uint trace_size;
static atomic_int sync_failure;

static void trace_add(char what)
{
	unsigned at = atomic_fetch_add(&trace_size, 1);

	if (at < sizeof(trace) - 1)
		trace[at] = what;
}

int fdatasync(int fd)
{
	trace_add('s');
	if (atomic_load(&sync_failure)) {
		errno = atomic_exchange(&sync_failure, 0);
		return -1;
	}
	return (int)syscall(SYS_fdatasync, fd);
}

ssize_t pwritev64(int fd, const struct iovec *iov, int count, off64_t offset)
{
	trace_add('w');
	return syscall(SYS_pwritev, fd, iov, (long)count, (long)offset, (long)0);
}

static void trace_clear(void)
{
	memset(trace, 0, sizeof(trace));
	atomic_store(&trace_size, 0);
}

/* ---- helpers ---- */

static char folder[64], path[96], warning[512];

static void warn(const char *text)
{
	snprintf(warning, sizeof(warning), "%s", text);
}

static int set_up(void **state)
{
	strcpy(folder, "/tmp/nestor-test-XXXXXX");
	assert_non_null(mkdtemp(folder));
	snprintf(path, sizeof(path), "%s/image", folder);
	warning[0] = '\0';
	trace_clear();
	return 0;
}

static int tear_down(void **state)
{
	char command[128];

	snprintf(command, sizeof(command), "rm -rf %s", folder);
	return system(command) != 0;
}

static void make_file(uint64_t size)
{
	int fd = open(path, O_RDWR | O_CREAT | O_TRUNC, 0644);

	assert_true(fd >= 0);
	assert_int_equal(ftruncate(fd, (off_t)size), 0);
	close(fd);
}

static void fill_file(const void *data, size_t size)
{
	int fd = open(path, O_RDWR | O_CREAT | O_TRUNC, 0644);

	assert_true(fd >= 0);
	assert_int_equal(write(fd, data, size), size);
	close(fd);
}

static void read_file(void *data, size_t size)
{
	int fd = open(path, O_RDONLY);

	assert_true(fd >= 0);
	assert_int_equal(read(fd, data, size), size);
	close(fd);
}

static struct block_config config_of(const char *format)
{
	return (struct block_config){.file = path, .format = format, .warn = warn};
}

static struct block *open_config(const struct block_config *config)
{
	struct block *block;

	if (block_open(&block, config))
		fail_msg("%s", error_text());
	return block;
}

static struct block *open_raw(void)
{
	struct block_config config = config_of("raw");

	return open_config(&config);
}

struct waiter {
	struct block_request request;
	sem_t done;
	int result;
};

static void waiter_done(struct block_request *request, int result)
{
	struct waiter *waiter = request->context;

	waiter->result = result;
	sem_post(&waiter->done);
}

static void start(struct block *block, struct waiter *waiter)
{
	sem_init(&waiter->done, 0, 0);
	waiter->request.done = waiter_done;
	waiter->request.context = waiter;
	block_submit(block, &waiter->request);
}

static int finish(struct waiter *waiter)
{
	while (sem_wait(&waiter->done))
		;
	sem_destroy(&waiter->done);
	return waiter->result;
}

static int run(struct block *block, struct block_request request)
{
	struct waiter waiter = {.request = request};

	start(block, &waiter);
	return finish(&waiter);
}

static int transfer(struct block *block, enum block_operation operation, uint64_t offset, void *data,
                    uint64_t size)
{
	struct iovec iov = {data, size};

	return run(block, (struct block_request){.operation = operation, .offset = offset, .size = size, .iov = &iov,
						 .iov_count = 1});
}

static int plain(struct block *block, enum block_operation operation, uint64_t offset, uint64_t size)
{
	return run(block, (struct block_request){.operation = operation, .offset = offset, .size = size});
}

static uint64_t seed = 88172645463325252u;

static uint64_t any(uint64_t limit)
{
	seed ^= seed << 13;
	seed ^= seed >> 7;
	seed ^= seed << 17;
	return seed % limit;
}

static void fill(uint8_t *data, size_t size)
{
	for (size_t i = 0; i < size; i++)
		data[i] = (uint8_t)(any(255) + 1);
}

/* ---- raw ---- */

static void reads_what_was_written(void **state)
{
	uint8_t data[8 * KIB], back[8 * KIB], *file = malloc(64 * KIB);
	struct iovec out[] = {{data, 100}, {data + 100, 0}, {data + 100, 4000}, {data + 4100, sizeof(data) - 4100}};
	struct iovec in[] = {{back, 5000}, {back + 5000, sizeof(back) - 5000}};
	struct block *block;

	make_file(64 * KIB);
	block = open_raw();
	assert_int_equal(block_size(block), 64 * KIB);
	assert_string_equal(block_format(block), "raw");
	fill(data, sizeof(data));
	assert_int_equal(run(block, (struct block_request){.operation = BLOCK_WRITE, .offset = 4096, .size = sizeof(data),
							   .iov = out, .iov_count = 4}), 0);
	assert_int_equal(run(block, (struct block_request){.operation = BLOCK_READ, .offset = 4096, .size = sizeof(back),
							   .iov = in, .iov_count = 2}), 0);
	assert_memory_equal(data, back, sizeof(data));
	block_close(block);
	read_file(file, 64 * KIB);
	assert_memory_equal(file + 4096, data, sizeof(data));
	free(file);
}

/* More pieces than one system call takes. */
static void takes_many_pieces(void **state)
{
	uint8_t data[2048 * 16], back[2048 * 16] = {0};
	struct iovec iov[2048];
	struct block *block;

	make_file(64 * KIB);
	block = open_raw();
	fill(data, sizeof(data));
	for (unsigned i = 0; i < 2048; i++)
		iov[i] = (struct iovec){data + 16 * i, 16};
	assert_int_equal(run(block, (struct block_request){.operation = BLOCK_WRITE, .size = sizeof(data), .iov = iov,
							   .iov_count = 2048}), 0);
	assert_int_equal(transfer(block, BLOCK_READ, 0, back, sizeof(back)), 0);
	assert_memory_equal(data, back, sizeof(data));
	block_close(block);
}

static void refuses_bad_ranges(void **state)
{
	uint8_t data[1024];
	struct iovec iov = {data, 512};
	struct block *block;

	make_file(4096);
	block = open_raw();
	assert_int_equal(transfer(block, BLOCK_READ, 100, data, 512), -EINVAL);
	assert_int_equal(transfer(block, BLOCK_READ, 0, data, 100), -EINVAL);
	assert_int_equal(transfer(block, BLOCK_READ, 4096, data, 512), -EINVAL);
	assert_int_equal(transfer(block, BLOCK_WRITE, 3584, data, 1024), -EINVAL);
	assert_int_equal(plain(block, BLOCK_DISCARD, UINT64_MAX - 511, 1024), -EINVAL);
	assert_int_equal(run(block, (struct block_request){.operation = BLOCK_READ, .size = 1024, .iov = &iov,
							   .iov_count = 1}), -EINVAL);
	assert_int_equal(transfer(block, BLOCK_READ, 4096, data, 0), 0);
	assert_int_equal(plain(block, BLOCK_WRITE_ZEROES, 0, 4096), 0);
	block_close(block);
}

/* A file that ends within a sector: the rest of that sector reads as zeros, the file does not grow. */
static void keeps_an_odd_size(void **state)
{
	uint8_t data[1024], back[1024];
	struct block *block;
	struct stat status;

	fill(data, 1000);
	fill_file(data, 1000);
	block = open_raw();
	assert_int_equal(block_size(block), 1024);
	memset(back, 0xee, sizeof(back));
	assert_int_equal(transfer(block, BLOCK_READ, 0, back, 1024), 0);
	memset(data + 1000, 0, 24);
	assert_memory_equal(data, back, 1024);
	fill(data, 1000);
	assert_int_equal(transfer(block, BLOCK_WRITE, 512, data + 512, 512), 0);
	assert_int_equal(transfer(block, BLOCK_READ, 512, back + 512, 512), 0);
	assert_memory_equal(data + 512, back + 512, 512);
	data[1023] = 1;
	assert_int_equal(transfer(block, BLOCK_WRITE, 512, data + 512, 512), -ENOSPC);
	assert_int_equal(plain(block, BLOCK_WRITE_ZEROES, 512, 512), 0);
	assert_int_equal(plain(block, BLOCK_DISCARD, 0, 1024), 0);
	block_close(block);
	assert_int_equal(stat(path, &status), 0);
	assert_int_equal(status.st_size, 1000);
}

static void makes_holes(void **state)
{
	uint8_t *data = malloc(1024 * KIB);
	struct block *block;
	struct stat before, after;

	fill(data, 1024 * KIB);
	fill_file(data, 1024 * KIB);
	block = open_raw();
	assert_int_equal(plain(block, BLOCK_FLUSH, 0, 0), 0);
	assert_int_equal(stat(path, &before), 0);
	assert_int_equal(plain(block, BLOCK_DISCARD, 0, 256 * KIB), 0);
	assert_int_equal(plain(block, BLOCK_WRITE_ZEROES, 256 * KIB, 256 * KIB), 0);
	assert_int_equal(run(block, (struct block_request){.operation = BLOCK_WRITE_ZEROES, .offset = 768 * KIB,
							   .size = 256 * KIB, .keep_room = true}), 0);
	assert_int_equal(stat(path, &after), 0);
	assert_int_equal(after.st_size, 1024 * KIB);
	assert_true(after.st_blocks <= before.st_blocks - 900); /* two quarters are holes, not three */
	assert_true(after.st_blocks >= before.st_blocks - 1100);
	memset(data, 0, 512 * KIB);
	memset(data + 768 * KIB, 0, 256 * KIB);
	uint8_t *back = malloc(1024 * KIB);

	assert_int_equal(transfer(block, BLOCK_READ, 0, back, 1024 * KIB), 0);
	assert_memory_equal(data, back, 1024 * KIB);
	block_close(block);
	free(data);
	free(back);
}

static void read_only_writes_nothing(void **state)
{
	struct block_config config = config_of("raw");
	uint8_t data[512] = {1};
	struct block *block;

	make_file(4096);
	config.read_only = true;
	block = open_config(&config);
	assert_true(block_read_only(block));
	assert_int_equal(transfer(block, BLOCK_WRITE, 0, data, 512), -EROFS);
	assert_int_equal(plain(block, BLOCK_DISCARD, 0, 512), -EROFS);
	assert_int_equal(plain(block, BLOCK_WRITE_ZEROES, 0, 512), -EROFS);
	assert_int_equal(plain(block, BLOCK_FLUSH, 0, 0), 0);
	assert_int_equal(transfer(block, BLOCK_READ, 0, data, 512), 0);
	assert_int_equal(data[0], 0);
	block_close(block);
}

static void refused(const struct block_config *config, const char *part)
{
	struct block *block;

	assert_true(block_open(&block, config) < 0);
	if (!strstr(error_text(), part) || strchr(error_text(), '\n'))
		fail_msg("\"%s\" lacks \"%s\"", error_text(), part);
}

static void one_writer_or_many_readers(void **state)
{
	struct block_config writer = config_of("raw"), reader = writer, snapshot = writer;
	struct block *first, *second;

	reader.read_only = true;
	snapshot.snapshot = true;
	make_file(4096);
	first = open_config(&writer);
	refused(&writer, path);
	refused(&writer, "in use");
	refused(&reader, "is being written");
	refused(&snapshot, "is being written");
	block_close(first);
	first = open_config(&reader);
	second = open_config(&snapshot);
	refused(&writer, path);
	block_close(first);
	block_close(second);
	block_close(open_config(&writer));
}

static void names_bad_files(void **state)
{
	struct block_config config = config_of("raw");

	refused(&config, "No such file");
	make_file(0);
	refused(&config, "is empty");
	config.format = "iso";
	refused(&config, "format iso");
	config.format = NULL;
	config.file = folder;
	refused(&config, "is a folder");
	config.file = "/dev/null";
	refused(&config, "no ordinary file");
	config.file = "nbd://localhost/x";
	config.format = "qcow2";
	refused(&config, "raw");
}

/* ---- errors ---- */

/* Beyond a limit on the file's size (as on a full file system) writes fail; nothing else does, and nobody is killed. */
static void a_failing_write_is_alone(void **state)
{
	struct rlimit old, limit;
	uint8_t data[16 * KIB], back[16 * KIB];
	struct block *block;
	struct waiter waiter[8];
	struct iovec iov = {data, sizeof(data)};

	make_file(128 * KIB);
	fill(data, sizeof(data));
	block = open_raw();
	getrlimit(RLIMIT_FSIZE, &old);
	limit = (struct rlimit){64 * KIB, old.rlim_max};
	assert_int_equal(setrlimit(RLIMIT_FSIZE, &limit), 0);
	for (unsigned i = 0; i < 8; i++) {
		waiter[i].request = (struct block_request){.operation = BLOCK_WRITE, .offset = i * sizeof(data),
			.size = sizeof(data), .iov = &iov, .iov_count = 1};
		start(block, &waiter[i]);
	}
	for (unsigned i = 0; i < 8; i++)
		assert_int_equal(finish(&waiter[i]), i < 4 ? 0 : -EFBIG);
	setrlimit(RLIMIT_FSIZE, &old);
	for (unsigned i = 0; i < 4; i++) {
		assert_int_equal(transfer(block, BLOCK_READ, i * sizeof(back), back, sizeof(back)), 0);
		assert_memory_equal(back, data, sizeof(data));
	}
	assert_int_equal(transfer(block, BLOCK_WRITE, 7 * sizeof(data), data, sizeof(data)), 0);
	block_close(block);
}

static void a_shortened_file_is_an_error(void **state)
{
	uint8_t data[4096];
	struct block *block;

	make_file(64 * KIB);
	block = open_raw();
	assert_int_equal(truncate(path, 32 * KIB), 0);
	assert_int_equal(transfer(block, BLOCK_READ, 48 * KIB, data, sizeof(data)), -EIO);
	assert_int_equal(transfer(block, BLOCK_READ, 0, data, sizeof(data)), 0);
	block_close(block);
}

/* ---- flushes ---- */

static void a_flush_synchronizes(void **state)
{
	uint8_t data[512] = {1};
	struct iovec iov = {data, 512};
	struct block *block;

	make_file(4096);
	block = open_raw();
	assert_int_equal(transfer(block, BLOCK_WRITE, 0, data, 512), 0);
	assert_int_equal(transfer(block, BLOCK_WRITE, 512, data, 512), 0);
	assert_int_equal(plain(block, BLOCK_FLUSH, 0, 0), 0);
	assert_string_equal(trace, "wws");
	assert_int_equal(run(block, (struct block_request){.operation = BLOCK_WRITE, .size = 512, .iov = &iov, .iov_count = 1,
							   .durable = true}), 0);
	assert_string_equal(trace, "wwsws");
	assert_int_equal(run(block, (struct block_request){.operation = BLOCK_WRITE_ZEROES, .size = 512, .durable = true}), 0);
	assert_string_equal(trace, "wwswss");
	block_close(block);
}

static void a_failed_flush_stays_failed(void **state)
{
	uint8_t data[512] = {1};
	struct block *block;

	make_file(4096);
	block = open_raw();
	assert_int_equal(transfer(block, BLOCK_WRITE, 0, data, 512), 0);
	atomic_store(&sync_failure, EIO);
	assert_int_equal(plain(block, BLOCK_FLUSH, 0, 0), -EIO);
	assert_non_null(strstr(warning, path));
	assert_int_equal(plain(block, BLOCK_FLUSH, 0, 0), -EIO); /* the kernel would say 0 now */
	assert_int_equal(transfer(block, BLOCK_READ, 0, data, 512), 0);
	block_close(block);
}

/* ---- formats by content ---- */

static void probes_formats(void **state)
{
	static const struct {
		unsigned offset;
		const char *bytes;
		const char *format;
	} heads[] = {
		{0, "QFI\373", "qcow2"}, {0, "KDMV", "vmdk"}, {0, "# Disk DescriptorFile\n", "vmdk"}, {0, "vhdxfile", "vhdx"},
		{64, "\177\020\332\276", "vdi"}, {1, "QFI\373", NULL}, {0, "QFI", NULL}, {0, "", NULL},
	};

	for (size_t i = 0; i < sizeof(heads) / sizeof(heads[0]); i++) {
		uint8_t head[PROBE_SIZE] = {0};
		const char *format;

		memcpy(head + heads[i].offset, heads[i].bytes, strlen(heads[i].bytes));
		format = probe_format(head);
		if (heads[i].format)
			assert_string_equal(format, heads[i].format);
		else
			assert_null(format);
	}
}

/* A guest cannot make its guessed raw image be taken for another format at the next start. */
static void guards_a_guessed_format(void **state)
{
	struct block_config config = config_of(NULL);
	uint8_t data[1024] = "QFI\373", back[1024];
	struct iovec split[] = {{data, 2}, {data + 2, sizeof(data) - 2}};
	struct block *block;

	make_file(4096);
	block = open_config(&config);
	assert_string_equal(block_format(block), "raw");
	assert_int_equal(run(block, (struct block_request){.operation = BLOCK_WRITE, .size = sizeof(data), .iov = split,
							   .iov_count = 2}), -EPERM);
	assert_non_null(strstr(warning, "format=raw"));
	assert_int_equal(transfer(block, BLOCK_READ, 0, back, sizeof(back)), 0);
	for (unsigned i = 0; i < sizeof(back); i++)
		assert_int_equal(back[i], 0);
	assert_int_equal(transfer(block, BLOCK_WRITE, 512, data, 512), 0);
	data[0] = 'q';
	assert_int_equal(transfer(block, BLOCK_WRITE, 0, data, sizeof(data)), 0);
	assert_int_equal(transfer(block, BLOCK_READ, 0, back, sizeof(back)), 0);
	assert_memory_equal(data, back, sizeof(back));
	block_close(block);

	block = open_raw();
	data[0] = 'Q';
	assert_int_equal(transfer(block, BLOCK_WRITE, 0, data, 512), 0);
	block_close(block);
}

/* ---- snapshots ---- */

#define MODEL_SIZE (512 * KIB)

static void a_snapshot_behaves_like_a_disk(void **state)
{
	struct block_config config = config_of("raw");
	uint8_t *base = malloc(MODEL_SIZE), *model = malloc(MODEL_SIZE), *buffer = malloc(MODEL_SIZE);
	struct block *block;

	fill(base, MODEL_SIZE);
	fill_file(base, MODEL_SIZE);
	memcpy(model, base, MODEL_SIZE);
	config.snapshot = true;
	block = open_config(&config);
	assert_false(block_read_only(block));
	for (unsigned i = 0; i < 4000; i++) {
		uint64_t offset = any(MODEL_SIZE / 512) * 512, size = (any(i % 16 ? 8 : 256) + 1) * 512;
		uint64_t half = any(size);
		struct iovec iov[] = {{buffer, half}, {buffer + half, size - half}};

		if (size > MODEL_SIZE - offset)
			size = MODEL_SIZE - offset;
		iov[0].iov_len = half < size ? half : size;
		iov[1].iov_base = buffer + iov[0].iov_len;
		iov[1].iov_len = size - iov[0].iov_len;
		switch (any(5)) {
		case 0:
		case 1:
			fill(buffer, size);
			memcpy(model + offset, buffer, size);
			assert_int_equal(run(block, (struct block_request){.operation = BLOCK_WRITE, .offset = offset,
				.size = size, .iov = iov, .iov_count = 2, .durable = i & 1}), 0);
			break;
		case 2:
			memset(model + offset, 0, size);
			assert_int_equal(plain(block, BLOCK_WRITE_ZEROES, offset, size), 0);
			break;
		default:
			assert_int_equal(run(block, (struct block_request){.operation = BLOCK_READ, .offset = offset,
				.size = size, .iov = iov, .iov_count = 2}), 0);
			assert_memory_equal(buffer, model + offset, size);
			break;
		}
	}
	assert_int_equal(plain(block, BLOCK_FLUSH, 0, 0), 0);
	assert_int_equal(transfer(block, BLOCK_READ, 0, buffer, MODEL_SIZE), 0);
	assert_memory_equal(buffer, model, MODEL_SIZE);
	block_close(block);
	read_file(buffer, MODEL_SIZE);
	assert_memory_equal(buffer, base, MODEL_SIZE);
	free(base);
	free(model);
	free(buffer);
}

/* Every other sector written: one read has more runs than are under way together. */
static void a_snapshot_may_be_scattered(void **state)
{
	struct block_config config = config_of("raw");
	uint8_t data[512], *back = malloc(200 * 512);
	struct block *block;

	make_file(200 * 512);
	config.snapshot = true;
	block = open_config(&config);
	memset(data, 0xaa, sizeof(data));
	for (unsigned i = 0; i < 200; i += 2)
		assert_int_equal(transfer(block, BLOCK_WRITE, i * 512, data, 512), 0);
	assert_int_equal(transfer(block, BLOCK_READ, 0, back, 200 * 512), 0);
	for (unsigned i = 0; i < 200 * 512; i++)
		assert_int_equal(back[i], i / 512 % 2 ? 0 : 0xaa);
	assert_int_equal(plain(block, BLOCK_DISCARD, 0, 200 * 512), 0);
	assert_int_equal(transfer(block, BLOCK_WRITE, 200 * 512, data, 512), -EINVAL);
	block_close(block);
	free(back);
}

/* An error of the base reaches the request that needs it, and no other. */
static void a_snapshot_passes_errors_on(void **state)
{
	struct block_config config = config_of("raw");
	uint8_t data[4096] = {1};
	struct block *block;

	make_file(64 * KIB);
	config.snapshot = true;
	block = open_config(&config);
	assert_int_equal(truncate(path, 8 * KIB), 0);
	assert_int_equal(transfer(block, BLOCK_READ, 32 * KIB, data, sizeof(data)), -EIO);
	data[0] = 1;
	assert_int_equal(transfer(block, BLOCK_WRITE, 32 * KIB, data, sizeof(data)), 0);
	data[0] = 0;
	assert_int_equal(transfer(block, BLOCK_READ, 32 * KIB, data, sizeof(data)), 0);
	assert_int_equal(data[0], 1);
	block_close(block);
}

static void a_snapshot_needs_a_folder(void **state)
{
	struct block_config config = config_of("raw");

	make_file(4096);
	config.snapshot = true;
	setenv("TMPDIR", "/nowhere/at/all", 1);
	refused(&config, "TMPDIR");
	unsetenv("TMPDIR");
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)
	const struct CMUnitTest tests[] = {
		TEST(reads_what_was_written), TEST(takes_many_pieces), TEST(refuses_bad_ranges), TEST(keeps_an_odd_size),
		TEST(makes_holes), TEST(read_only_writes_nothing), TEST(one_writer_or_many_readers), TEST(names_bad_files),
		TEST(a_failing_write_is_alone), TEST(a_shortened_file_is_an_error), TEST(a_flush_synchronizes),
		TEST(a_failed_flush_stays_failed), TEST(probes_formats), TEST(guards_a_guessed_format),
		TEST(a_snapshot_behaves_like_a_disk), TEST(a_snapshot_may_be_scattered), TEST(a_snapshot_passes_errors_on),
		TEST(a_snapshot_needs_a_folder),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

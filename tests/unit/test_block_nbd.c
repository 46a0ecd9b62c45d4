/*
 * Images through NBD: qemu-nbd as a child for the formats that Nestor does not read itself, nbdkit as a server of
 * somebody else's. Tests whose program is not installed are skipped, and say so.
 */
#include <errno.h>
#include <fcntl.h>
#include <semaphore.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "block/block.h"
#include "util/error.h"

#define MIB (1u << 20)

static char folder[64], path[96], warning[512];
static atomic_bool warned;

static void warn(const char *text)
{
	snprintf(warning, sizeof(warning), "%s", text);
	atomic_store(&warned, true);
}

static int set_up(void **state)
{
	strcpy(folder, "/tmp/nestor-test-XXXXXX");
	assert_non_null(mkdtemp(folder));
	snprintf(path, sizeof(path), "%s/im,age", folder);
	warning[0] = '\0';
	atomic_store(&warned, false);
	return 0;
}

static int tear_down(void **state)
{
	char command[128];

	snprintf(command, sizeof(command), "rm -rf %s", folder);
	return system(command) != 0;
}

/* Runs a shell command; returns its status. */
static int shell(const char *format, ...)
{
	char command[1024];
	va_list arguments;
	int status;

	va_start(arguments, format);
	vsnprintf(command, sizeof(command), format, arguments);
	va_end(arguments);
	status = system(command);
	return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

static void need(const char *program)
{
#ifndef NESTOR_HAVE_LIBNBD
	print_message("skipped: this build has no libnbd\n");
	skip();
#endif
	if (shell("command -v %s >/dev/null", program)) {
		print_message("skipped: %s is not installed\n", program);
		skip();
	}
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

static void refused(const struct block_config *config, const char *part)
{
	struct block *block;

	assert_true(block_open(&block, config) < 0);
	if (!strstr(error_text(), part) || strchr(error_text(), '\n'))
		fail_msg("\"%s\" lacks \"%s\"", error_text(), part);
}

struct waiter {
	struct block_request request;
	struct iovec iov[2];
	sem_t done;
	int result;
};

static void waiter_done(struct block_request *request, int result)
{
	struct waiter *waiter = request->context;

	waiter->result = result;
	sem_post(&waiter->done);
}

/* In two pieces. */
static void start(struct block *block, struct waiter *waiter, enum block_operation operation, uint64_t offset,
                  void *data, uint64_t size)
{
	uint64_t first = data ? size / 3 : 0;

	*waiter = (struct waiter){.iov = {{data, first}, {(char *)data + first, size - first}}};
	sem_init(&waiter->done, 0, 0);
	waiter->request = (struct block_request){.operation = operation, .offset = offset, .size = size, .iov = waiter->iov,
		.iov_count = 2, .done = waiter_done, .context = waiter, .durable = size == 512};
	block_submit(block, &waiter->request);
}

static int finish(struct waiter *waiter)
{
	while (sem_wait(&waiter->done))
		;
	sem_destroy(&waiter->done);
	return waiter->result;
}

static int run(struct block *block, enum block_operation operation, uint64_t offset, void *data,
               uint64_t size)
{
	struct waiter waiter;

	start(block, &waiter, operation, offset, data, size);
	return finish(&waiter);
}

static void fill(uint8_t *data, size_t size, unsigned salt)
{
	for (size_t i = 0; i < size; i++)
		data[i] = (uint8_t)(i * 7 + i / 251 + salt) | 1;
}

/* What every image has to do; 16 MiB of it. */
static void exercise(struct block *block)
{
	size_t size = 5 * MIB + 512; /* several commands */
	uint8_t *data = malloc(size), *back = malloc(size);
	struct waiter waiter[16];

	assert_int_equal(block_size(block), 16 * MIB);
	fill(data, size, 1);
	assert_int_equal(run(block, BLOCK_WRITE, MIB - 512, data, size), 0);
	assert_int_equal(run(block, BLOCK_FLUSH, 0, NULL, 0), 0);
	memset(back, 0, size);
	assert_int_equal(run(block, BLOCK_READ, MIB - 512, back, size), 0);
	assert_memory_equal(data, back, size);
	assert_int_equal(run(block, BLOCK_WRITE, 0, data, 512), 0); /* durable */

	assert_int_equal(run(block, BLOCK_WRITE_ZEROES, 2 * MIB, NULL, MIB), 0);
	assert_int_equal(run(block, BLOCK_READ, 2 * MIB, back, MIB), 0);
	for (unsigned i = 0; i < MIB; i++)
		assert_int_equal(back[i], 0);
	assert_int_equal(run(block, BLOCK_DISCARD, 4 * MIB, NULL, MIB), 0);
	assert_int_equal(run(block, BLOCK_READ, 16 * MIB, back, 512), -EINVAL);

	for (unsigned i = 0; i < 16; i++)
		start(block, &waiter[i], BLOCK_WRITE, 8 * MIB + i * 4096, data + i * 4096, 4096);
	for (unsigned i = 0; i < 16; i++)
		assert_int_equal(finish(&waiter[i]), 0);
	assert_int_equal(run(block, BLOCK_READ, 8 * MIB, back, 16 * 4096), 0);
	assert_memory_equal(data, back, 16 * 4096);
	free(data);
	free(back);
}

static void check_format(const char *format)
{
	struct block_config config = config_of(NULL);
	uint8_t data[4096], back[4096];
	struct block *block;

	need("qemu-nbd");
	need("qemu-img");
	assert_int_equal(shell("qemu-img create -q -f %s '%s' 16M", format, path), 0);
	block = open_config(&config);
	assert_string_equal(block_format(block), format);
	exercise(block);
	block_close(block);
	/* A second start finds what the first has written; a snapshot changes nothing. */
	fill(data, sizeof(data), 1);
	config.snapshot = true;
	block = open_config(&config);
	assert_int_equal(run(block, BLOCK_READ, 8 * MIB, back, sizeof(back)), 0);
	assert_memory_equal(data, back, sizeof(back));
	assert_int_equal(run(block, BLOCK_WRITE_ZEROES, 8 * MIB, NULL, sizeof(back)), 0);
	block_close(block);
	config.snapshot = false;
	config.read_only = true;
	config.format = format;
	block = open_config(&config);
	assert_int_equal(run(block, BLOCK_READ, 8 * MIB, back, sizeof(back)), 0);
	assert_memory_equal(data, back, sizeof(back));
	assert_int_equal(run(block, BLOCK_WRITE, 0, data, 512), -EROFS);
	block_close(block);
	assert_string_equal(warning, "");
}

static void qcow2(void **state)
{
	check_format("qcow2");
	assert_int_equal(shell("qemu-img check -q '%s'", path), 0);
}

static void vmdk(void **state)
{
	check_format("vmdk");
}

static void vhdx(void **state)
{
	check_format("vhdx");
}

static void vdi(void **state)
{
	check_format("vdi");
}

/* ---- the helper ---- */

static void names_what_is_wrong(void **state)
{
	struct block_config config = config_of("qcow2");
	char *search = strdup(getenv("PATH"));

	need("qemu-nbd");
	refused(&config, "No such file");
	assert_int_equal(shell("head -c 100000 /dev/zero >'%s'", path), 0);
	refused(&config, "not in qcow2 format");
	refused(&config, path);
	setenv("PATH", folder, 1);
	refused(&config, "qemu-utils");
	setenv("PATH", search, 1);
	free(search);
}

static void one_writer(void **state)
{
	struct block_config config = config_of(NULL);
	struct block *block;

	need("qemu-nbd");
	assert_int_equal(shell("qemu-img create -q -f qcow2 '%s' 16M", path), 0);
	block = open_config(&config);
	refused(&config, "lock");
	block_close(block);
	block_close(open_config(&config));
}

/* How many qemu-nbd serve our image; a moment later again where that is more than `expected`. */
static unsigned helpers(unsigned expected)
{
	unsigned count = 0;

	for (unsigned i = 0; i < 200; i++) {
		char text[16] = "";
		FILE *pipe = popen("pgrep -f 'qemu-nbd .*im,,age' | wc -l", "r");

		/* pgrep's own shell has the pattern, too. */
		assert_non_null(pipe);
		assert_non_null(fgets(text, sizeof(text), pipe));
		pclose(pipe);
		count = (unsigned)atoi(text) - 1;
		if (count <= expected)
			break;
		usleep(20000);
	}
	return count;
}

static pid_t helper_of_this_process(void)
{
	char text[64] = "", command[64];
	FILE *pipe;

	snprintf(command, sizeof(command), "pgrep -P %d -x qemu-nbd", getpid());
	pipe = popen(command, "r");
	assert_non_null(pipe);
	if (!fgets(text, sizeof(text), pipe))
		text[0] = '\0';
	pclose(pipe);
	return atoi(text);
}

/* Its death is told, and fails requests: those under way and all later ones. */
static void a_dead_helper_fails_requests(void **state)
{
	struct block_config config = config_of(NULL);
	uint8_t data[4096] = {1};
	struct waiter waiter[8];
	struct block *block;
	pid_t helper;

	need("qemu-nbd");
	assert_int_equal(shell("qemu-img create -q -f qcow2 '%s' 16M", path), 0);
	block = open_config(&config);
	assert_int_equal(run(block, BLOCK_WRITE, 0, data, 4096), 0);
	helper = helper_of_this_process();
	assert_true(helper > 0);
	kill(helper, SIGSTOP);
	for (unsigned i = 0; i < 8; i++)
		start(block, &waiter[i], i & 1 ? BLOCK_READ : BLOCK_WRITE, i * 4096, data, 4096);
	kill(helper, SIGKILL);
	for (unsigned i = 0; i < 8; i++)
		assert_int_equal(finish(&waiter[i]), -EIO);
	assert_int_equal(run(block, BLOCK_READ, 0, data, 4096), -EIO);
	assert_int_equal(run(block, BLOCK_FLUSH, 0, NULL, 0), -EIO);
	assert_true(atomic_load(&warned));
	assert_non_null(strstr(warning, "is lost"));
	block_close(block);
}

/* A helper that hangs can be given up. */
static void cancel_ends_what_hangs(void **state)
{
	struct block_config config = config_of(NULL);
	uint8_t data[4096] = {1};
	struct waiter waiter;
	struct block *block;
	pid_t helper;

	need("qemu-nbd");
	assert_int_equal(shell("qemu-img create -q -f qcow2 '%s' 16M", path), 0);
	block = open_config(&config);
	helper = helper_of_this_process();
	kill(helper, SIGSTOP);
	start(block, &waiter, BLOCK_READ, 0, data, 4096);
	block_cancel(block);
	assert_int_equal(finish(&waiter), -EIO);
	kill(helper, SIGCONT);
	block_close(block);
}

/* Killed with SIGKILL we leave neither a process nor a file behind, and what was flushed is there. */
static void it_ends_with_us(void **state)
{
	struct block_config config = config_of(NULL);
	uint8_t data[4096], back[4096];
	struct block *block;
	int status;
	pid_t child;

	need("qemu-nbd");
	assert_int_equal(shell("qemu-img create -q -f qcow2 '%s' 16M", path), 0);
	fill(data, sizeof(data), 3);
	child = fork();
	if (!child) {
		block = open_config(&config);
		if (run(block, BLOCK_WRITE, 4096, data, 4096) || run(block, BLOCK_FLUSH, 0, NULL, 0))
			_exit(1);
		kill(getpid(), SIGKILL);
	}
	assert_int_equal(waitpid(child, &status, 0), child);
	assert_true(WIFSIGNALED(status));
	assert_int_equal(helpers(0), 0);
	assert_int_equal(shell("qemu-img check -q '%s'", path), 0);
	block = open_config(&config);
	assert_int_equal(run(block, BLOCK_READ, 4096, back, 4096), 0);
	assert_memory_equal(data, back, 4096);
	block_close(block);
}

/* ---- other servers ---- */

static pid_t server;
static char uri[160];

static void start_nbdkit(const char *arguments)
{
	char command[512], socket[128], ready[128];

	need("nbdkit");
	snprintf(socket, sizeof(socket), "%s/socket", folder);
	snprintf(uri, sizeof(uri), "nbd+unix:///?socket=%s", socket);
	snprintf(ready, sizeof(ready), "%s/pid", folder);
	snprintf(command, sizeof(command), "exec nbdkit -f -P %s -U %s %s", ready, socket, arguments);
	server = fork();
	if (!server) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		execl("/bin/sh", "sh", "-c", command, NULL);
		_exit(1);
	}
	/* It is written when the server listens, which the socket's own file is not. */
	for (unsigned i = 0; i < 1000 && access(ready, F_OK); i++)
		usleep(10000);
}

static void stop_nbdkit(void)
{
	kill(server, SIGKILL);
	waitpid(server, NULL, 0);
}

static void a_remote_disk(void **state)
{
	struct block_config config = {.file = uri, .warn = warn};
	struct block *block;

	start_nbdkit("memory 16M");
	block = open_config(&config);
	assert_string_equal(block_format(block), "nbd");
	exercise(block);
	block_close(block);
	stop_nbdkit();
}

/* Without trim, zero, FUA and with small requests only. */
static void a_simple_remote_disk(void **state)
{
	struct block_config config = {.file = uri, .warn = warn};
	struct block *block;

	start_nbdkit("--filter=nozero --filter=fua --filter=blocksize-policy memory 16M zeromode=none "
	             "blocksize-minimum=512 blocksize-preferred=4096 blocksize-maximum=65536 "
	             "blocksize-error-policy=error");
	block = open_config(&config);
	exercise(block);
	block_close(block);
	stop_nbdkit();
}

static void a_read_only_server(void **state)
{
	struct block_config config = {.file = uri, .warn = warn};
	struct block *block;

	start_nbdkit("-r memory 16M");
	refused(&config, "reading only");
	config.snapshot = true;
	block = open_config(&config);
	exercise(block);
	block_close(block);
	stop_nbdkit();
}

static void errors_of_a_server(void **state)
{
	struct block_config config = {.file = uri, .warn = warn};
	uint8_t data[4096] = {0};
	struct block *block;

	start_nbdkit("--filter=error memory 16M error-pwrite=ENOSPC error-pread=EIO error-pwrite-rate=100% "
	             "error-pread-rate=50%");
	block = open_config(&config);
	unsigned failed = 0;

	assert_int_equal(run(block, BLOCK_WRITE, 0, data, 4096), -ENOSPC);
	for (unsigned i = 0; i < 64; i++)
		failed += run(block, BLOCK_READ, 0, data, 4096) == -EIO;
	assert_in_range(failed, 1, 63);
	block_close(block);
	stop_nbdkit();
}

static void no_server(void **state)
{
	struct block_config config = {.file = "nbd+unix:///?socket=/nowhere", .warn = warn};

	need("true");
	refused(&config, "/nowhere");
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)
	const struct CMUnitTest tests[] = {
		TEST(qcow2), TEST(vmdk), TEST(vhdx), TEST(vdi), TEST(names_what_is_wrong), TEST(one_writer),
		TEST(a_dead_helper_fails_requests), TEST(cancel_ends_what_hangs), TEST(it_ends_with_us), TEST(a_remote_disk),
		TEST(a_simple_remote_disk), TEST(a_read_only_server), TEST(errors_of_a_server), TEST(no_server),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

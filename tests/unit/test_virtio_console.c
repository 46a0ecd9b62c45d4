/* virtio-console (VIRTIO 1.2, "Console Device"), seen by a driver; its host side is a file, or a socket. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <cmocka.h>

#include "machine/event_loop.h"
#include "virtio_driver.h"

#define RINGS 0x100000u
#define DATA  0x200000u

static struct machine *machine;
static struct virtio_driver driver;
static struct queue_driver receive, transmit;
static char folder[] = "/tmp/nestor-test-console-XXXXXX", path[64], spec[80];

static void start(const char *kind)
{
	struct machine_config config = fixture_config("null");

	strcpy(folder + strlen(folder) - 6, "XXXXXX");
	assert_non_null(mkdtemp(folder));
	snprintf(path, sizeof(path), "%s/host", folder);
	snprintf(spec, sizeof(spec), "%s:%s", kind, path);
	config.console[0] = spec;
	config.clock = ENGINE_CLOCK_REAL;
	machine = fixture_create_from(&config);
	assert_true(virtio_find(&driver, machine, 0x1003));
	assert_true(virtio_negotiate(&driver, virtio_split_features(&driver)));
	virtio_queue(&driver, &receive, 0, 64, RINGS);
	virtio_queue(&driver, &transmit, 1, 64, RINGS + 0x10000);
	virtio_start(&driver);
}

static int setup_file(void **state)
{
	start("file");
	return 0;
}

static int setup_socket(void **state)
{
	start("unix");
	assert_int_equal(event_loop_start(machine->loop), 0);
	return 0;
}

static int teardown(void **state)
{
	if (machine)
		machine_destroy(machine);
	machine = NULL;
	unlink(path);
	rmdir(folder);
	return 0;
}

static void output(void **state)
{
	char text[64] = {0};
	FILE *file;
	uint32_t head, written;

	memcpy(guest(machine, DATA, 8), "out of t", 8);
	memcpy(guest(machine, DATA + 100, 9), "he guest\n", 9);
	queue_add(&transmit, (struct buffer[]){{DATA, 8, false}, {DATA + 100, 9, false}}, 2);
	virtio_kick(&driver, 1);
	assert_true(queue_take(&transmit, &head, &written));
	assert_int_equal(written, 0);
	/* The emergency write goes without a queue. */
	store(machine, driver.config + 8, 4, '!');
	machine_destroy(machine);
	machine = NULL;
	file = fopen(path, "r");
	assert_non_null(file);
	assert_int_equal(fread(text, 1, sizeof(text), file), 18);
	fclose(file);
	assert_string_equal(text, "out of the guest\n!");
}

static int client(void)
{
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	int fd = socket(AF_UNIX, SOCK_STREAM, 0);
	struct timeval patience = {30, 0};

	setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience));

	strcpy(address.sun_path, path);
	assert_int_equal(connect(fd, (struct sockaddr *)&address, sizeof(address)), 0);
	return fd;
}

static void await(struct queue_driver *queue, uint16_t index)
{
	for (unsigned i = 0; i < 2000 && queue_used_index(queue) != index; i++)
		usleep(1000);
	assert_int_equal(queue_used_index(queue), index);
}

/* What comes in waits until the driver has buffers; a small one takes a part. */
static void input(void **state)
{
	int fd = client();
	uint32_t head, written;

	assert_int_equal(write(fd, "hello", 5), 5);
	usleep(50000);
	assert_int_equal(queue_used_index(&receive), 0);
	queue_add(&receive, (struct buffer[]){{DATA, 2, true}, {DATA + 16, 1, true}}, 2);
	virtio_kick(&driver, 0);
	await(&receive, 1);
	assert_true(queue_take(&receive, &head, &written));
	assert_int_equal(written, 3);
	assert_memory_equal(guest(machine, DATA, 2), "he", 2);
	assert_memory_equal(guest(machine, DATA + 16, 1), "l", 1);
	queue_add(&receive, (struct buffer[]){{DATA, 100, true}}, 1);
	virtio_kick(&driver, 0);
	await(&receive, 2);
	assert_true(queue_take(&receive, &head, &written));
	assert_int_equal(written, 2);
	queue_add(&receive, (struct buffer[]){{DATA, 100, true}}, 1);
	virtio_kick(&driver, 0);
	assert_int_equal(write(fd, "more", 4), 4);
	await(&receive, 3);
	assert_memory_equal(guest(machine, DATA, 4), "more", 4);
	close(fd);
}

/* A host that does not read stops the output, not the guest; when it reads again all of it comes. */
static void a_slow_host(void **state)
{
	int fd = client();
	size_t got = 0, total = 0;
	char bytes[65536];

	/* What is sent before anybody listens is not kept: the first byte says that it is so far. */
	queue_add(&receive, (struct buffer[]){{DATA, 1, true}}, 1);
	virtio_kick(&driver, 0);
	assert_int_equal(write(fd, "x", 1), 1);
	await(&receive, 1);
	for (unsigned i = 0; i < 60; i++) {
		memset(guest(machine, DATA + 0x10000 * (i % 8), 0x10000), 'a', 0x10000);
		queue_add(&transmit, (struct buffer[]){{DATA + 0x10000 * (i % 8), 0x10000, false}}, 1);
		virtio_kick(&driver, 1);
		total += 0x10000;
	}
	assert_true(queue_used_index(&transmit) < 60);
	usleep(1500000); /* longer than a serial port would wait */
	while (got < total) {
		ssize_t size = read(fd, bytes, sizeof(bytes));

		assert_true(size > 0);
		for (ssize_t i = 0; i < size; i++)
			assert_int_equal(bytes[i], 'a');
		got += (size_t)size;
	}
	await(&transmit, 60);
	close(fd);
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
	    cmocka_unit_test_setup_teardown(output, setup_file, teardown),
	    cmocka_unit_test_setup_teardown(input, setup_socket, teardown),
	    cmocka_unit_test_setup_teardown(a_slow_host, setup_socket, teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

/* Sockets that listen: whose place is taken, and whose is not. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <cmocka.h>

#include "util/listen.h"

static char path[64];

static int setup(void **state)
{
	snprintf(path, sizeof(path), "/tmp/nestor-listen-%d", (int)getpid());
	unlink(path);
	return 0;
}

static int teardown(void **state)
{
	unlink(path);
	return 0;
}

static bool has_visitor(int fd)
{
	struct pollfd wait = {.fd = fd, .events = POLLIN};

	return poll(&wait, 1, 0) == 1;
}

static void path_is_for_this_user_alone(void **state)
{
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	int fd = listen_at_path(path, 1), visitor = socket(AF_UNIX, SOCK_STREAM, 0);
	struct stat status;

	assert_true(fd >= 0);
	assert_int_equal(stat(path, &status), 0);
	assert_int_equal(status.st_mode & 0777, 0600);
	assert_int_equal(fcntl(fd, F_GETFD), FD_CLOEXEC);
	assert_true(fcntl(fd, F_GETFL) & O_NONBLOCK);
	strcpy(address.sun_path, path);
	assert_int_equal(connect(visitor, (struct sockaddr *)&address, sizeof(address)), 0);
	assert_true(has_visitor(fd));
	close(visitor);
	close(fd);
}

static void what_a_dead_server_left_is_replaced(void **state)
{
	int first = listen_at_path(path, 1), second;

	assert_true(first >= 0);
	close(first);
	assert_int_equal(access(path, F_OK), 0);
	second = listen_at_path(path, 1);
	assert_true(second >= 0);
	close(second);
}

static void a_live_server_keeps_its_place_undisturbed(void **state)
{
	int first = listen_at_path(path, 1);

	assert_true(first >= 0);
	assert_int_equal(listen_at_path(path, 1), -EADDRINUSE);
	assert_int_equal(access(path, F_OK), 0);
	assert_false(has_visitor(first));
	close(first);
}

static void a_file_is_not_replaced(void **state)
{
	struct stat status;

	close(open(path, O_CREAT | O_WRONLY, 0644));
	assert_int_equal(listen_at_path(path, 1), -EADDRINUSE);
	assert_int_equal(stat(path, &status), 0);
	assert_true(S_ISREG(status.st_mode));
}

static void a_path_may_be_too_long(void **state)
{
	char name[200];

	memset(name, 'a', sizeof(name) - 1);
	name[sizeof(name) - 1] = '\0';
	assert_int_equal(listen_at_path(name, 1), -ENAMETOOLONG);
}

static void an_address_is_taken_once(void **state)
{
	struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	socklen_t size = sizeof(address);
	int first = listen_at_address((struct sockaddr *)&address, sizeof(address), 1);

	assert_true(first >= 0);
	assert_int_equal(getsockname(first, (struct sockaddr *)&address, &size), 0);
	assert_int_equal(listen_at_address((struct sockaddr *)&address, sizeof(address), 1), -EADDRINUSE);
	close(first);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
	static const struct CMUnitTest tests[] = {
	    TEST(path_is_for_this_user_alone),
	    TEST(what_a_dead_server_left_is_replaced),
	    TEST(a_live_server_keeps_its_place_undisturbed),
	    TEST(a_file_is_not_replaced),
	    TEST(a_path_may_be_too_long),
	    TEST(an_address_is_taken_once),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

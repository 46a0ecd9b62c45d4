/*
 * The 16550A (PC16550D data sheet) and its host side.
 * gcc -std=gnu17 -g -fsanitize=address,undefined -D_GNU_SOURCE -Isrc -o /tmp/test_serial \
 *   tests/unit/test_serial.c src/device/[a-z]*.c src/util/error.c -lcmocka -pthread \
 *   $(ls src/machine/[a-z]*.c | grep -v -e load -e engine_select) && /tmp/test_serial
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <fcntl.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <cmocka.h>

#include "machine/event_loop.h"
#include "device_fixture.h"

#define COM1 0x3f8

static uint32_t get(unsigned reg)
{
	return in(machine, (uint16_t)(COM1 + reg), 1);
}

static void set(unsigned reg, uint32_t value)
{
	out(machine, (uint16_t)(COM1 + reg), 1, value);
}

static bool line(void)
{
	return machine->irq[4].asserted;
}

static void looks_like_a_16550a(void **state)
{
	set(1, 0xff);
	assert_int_equal(get(1), 0x0f);
	set(1, 0);
	assert_int_equal(get(2), 0x01);
	set(2, 0x01);
	assert_int_equal(get(2), 0xc1);
	set(7, 0x5a);
	assert_int_equal(get(7), 0x5a);
	assert_int_equal(get(5), 0x60);
	assert_int_equal(get(6), 0xb0);
}

static void divisor_latch(void **state)
{
	set(3, 0x83);
	set(0, 0x34);
	set(1, 0x12);
	assert_int_equal(get(0), 0x34);
	assert_int_equal(get(1), 0x12);
	set(3, 0x03);
	assert_int_equal(get(1), 0);
}

static void transmitter_empty_interrupt(void **state)
{
	set(4, 0x08);
	set(1, 0x02);
	assert_true(line());
	assert_int_equal(get(2), 0x02);
	assert_false(line()); /* reading IIR resets it */
	assert_int_equal(get(2), 0x01);
	set(0, 'a');
	assert_true(line());
	set(1, 0);
	assert_false(line());
	set(1, 2);
	assert_true(line());
}

static void out2_gates_the_interrupt(void **state)
{
	set(1, 0x02);
	assert_false(line());
	set(4, 0x08);
	assert_true(line());
}

static void loopback_data(void **state)
{
	set(4, 0x18);
	set(1, 0x01);
	assert_int_equal(get(5) & 1, 0);
	set(0, 'x');
	assert_true(line());
	assert_int_equal(get(2), 0x04);
	assert_int_equal(get(5) & 1, 1);
	assert_int_equal(get(0), 'x');
	assert_false(line());
}

static void loopback_modem_lines(void **state)
{
	set(4, 0x10);
	get(6);
	set(4, 0x1f);
	assert_int_equal(get(6), 0xf0 | 0x0b);
	assert_int_equal(get(6), 0xf0);
	set(4, 0x1b);
	assert_int_equal(get(6), 0xb0 | 0x04); /* the ring indicator's trailing edge */
}

static void fifo_trigger_timeout_and_overrun(void **state)
{
	set(2, 0x81); /* trigger at 8 */
	set(4, 0x18);
	set(1, 0x05);
	for (unsigned i = 0; i < 7; i++)
		set(0, i);
	assert_int_equal(get(2), 0xcc); /* character time-out */
	set(0, 7);
	assert_int_equal(get(2), 0xc4);
	for (unsigned i = 8; i < 17; i++)
		set(0, i);
	assert_int_equal(get(2), 0xc6); /* line status comes first */
	assert_int_equal(get(5) & 0x03, 0x03);
	assert_int_equal(get(5) & 0x02, 0);
	for (unsigned i = 0; i < 16; i++)
		assert_int_equal(get(0), i);
	assert_int_equal(get(5) & 1, 0);
	set(0, 1);
	set(2, 0x83); /* clear the receiver */
	assert_int_equal(get(5) & 1, 0);
}

static void output_reaches_the_file(void **state)
{
	char path[] = "/tmp/nestor-serial-XXXXXX", spec[64], text[200001];
	int fd = mkstemp(path);

	assert_true(fd >= 0);
	snprintf(spec, sizeof(spec), "file:%s", path);
	machine_destroy(machine);
	machine = fixture_create(spec);
	for (unsigned i = 0; i < sizeof(text) - 1; i++)
		set(0, 'a' + i % 26);
	machine_destroy(machine);
	machine = fixture_create("null");
	assert_int_equal(read(fd, text, sizeof(text)), sizeof(text) - 1);
	for (unsigned i = 0; i < sizeof(text) - 1; i++)
		assert_int_equal(text[i], 'a' + i % 26);
	close(fd);
	unlink(path);
}

static void wait_for_data(void)
{
	for (unsigned i = 0; i < 2000 && !(get(5) & 1); i++)
		usleep(1000);
}

static void input_from_a_socket(void **state)
{
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	char spec[128], sent[10000], answer;
	int fd = socket(AF_UNIX, SOCK_STREAM, 0);

	snprintf(address.sun_path, sizeof(address.sun_path), "/tmp/nestor-serial-%d", (int)getpid());
	unlink(address.sun_path);
	snprintf(spec, sizeof(spec), "unix:%s", address.sun_path);
	machine_destroy(machine);
	machine = fixture_create(spec);
	assert_int_equal(event_loop_start(machine->loop), 0);
	assert_int_equal(connect(fd, (struct sockaddr *)&address, sizeof(address)), 0);
	for (unsigned i = 0; i < sizeof(sent); i++)
		sent[i] = (char)(i * 7);
	set(2, 0x01);
	assert_int_equal(write(fd, sent, sizeof(sent)), sizeof(sent));
	for (unsigned i = 0; i < sizeof(sent); i++) { /* nothing is lost to a slow reader */
		wait_for_data();
		assert_int_equal(get(0), (uint8_t)sent[i]);
	}
	set(0, '!');
	assert_int_equal(read(fd, &answer, 1), 1);
	assert_int_equal(answer, '!');
	close(fd);
	event_loop_stop(machine->loop);
}

static void bad_targets_are_refused(void **state)
{
	static const char *const bad[] = {"", "file:", "file:/nonexistent/x", "unix:/nonexistent/x",
	                                  "telnet:1"};
	struct machine_config config = {.memory_size = 2 << 20, .cpu_count = 1};
	struct cpu_model model = {.cpu_count = 1};
	struct machine *other = NULL;

	for (unsigned i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		config.serial[0] = bad[i];
		assert_true(machine_create(&other, &config, &model, &fake_engine) < 0);
		assert_null(other);
		assert_non_null(strstr(error_text(), "COM1"));
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    TEST(looks_like_a_16550a),
	    TEST(divisor_latch),
	    TEST(transmitter_empty_interrupt),
	    TEST(out2_gates_the_interrupt),
	    TEST(loopback_data),
	    TEST(loopback_modem_lines),
	    TEST(fifo_trigger_timeout_and_overrun),
	    TEST(output_reaches_the_file),
	    TEST(input_from_a_socket),
	    TEST(bad_targets_are_refused),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

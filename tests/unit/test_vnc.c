/*
 * The VNC server with libvncclient on the other side, and with handshakes by hand where a viewer misbehaves; PNG files;
 * keysyms.
 */
#if !defined(NESTOR_HAVE_VNCSERVER) || !defined(NESTOR_HAVE_PNG)
int main(void)
{
	return 77; /* nothing to test */
}
#else
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <errno.h>
#include <linux/input-event-codes.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <cmocka.h>
#include <png.h>
#include <rfb/rfbclient.h>

#include "display/display.h"
#include "display/keysym.h"
#include "display/png.h"
#include "display/vnc.h"
#include "util/error.h"

#define EVENTS 256

/* ---- a display, and a machine that writes down what it is told ---- */

static struct display *display;
static struct vnc *server;
static char folder[] = "/tmp/nestor-vnc-XXXXXX", path[64];
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct {
	unsigned width, height;
	uint32_t colour; /* of all but a mark at (10, 20) */
	unsigned draws;
	char events[EVENTS][32];
	unsigned count;
	bool caps;
} machine;

static void draw(void *device, struct surface *surface)
{
	uint32_t line[SURFACE_WIDTH_MAX];

	pthread_mutex_lock(&lock);
	machine.draws++;
	if (!surface_resize(surface, machine.width, machine.height))
		for (unsigned y = 0; y < surface->height; y++) {
			for (unsigned x = 0; x < surface->width; x++)
				line[x] = x == 10 && y == 20 ? 0x112233 : machine.colour;
			surface_put_line(surface, y, line);
		}
	pthread_mutex_unlock(&lock);
}

static void note(const char *format, ...)
{
	va_list arguments;

	va_start(arguments, format);
	pthread_mutex_lock(&lock);
	if (machine.count < EVENTS)
		vsnprintf(machine.events[machine.count++], sizeof(machine.events[0]), format, arguments);
	pthread_mutex_unlock(&lock);
	va_end(arguments);
}

static void on_key(void *context, unsigned key, bool down)
{
	note("%u %s", key, down ? "down" : "up");
}

static void on_pointer(void *context, unsigned x, unsigned y, unsigned width, unsigned height,
                       unsigned buttons, int wheel)
{
	note("%u,%u of %ux%u %u %d", x, y, width, height, buttons, wheel);
}

static bool caps_lock(void *context)
{
	return machine.caps;
}

static const struct vnc_handlers handlers = {NULL, on_key, on_pointer, caps_lock};

static int setup(void **state)
{
	strcpy(folder, "/tmp/nestor-vnc-XXXXXX");
	if (!mkdtemp(folder) || display_create(&display))
		return -1;
	snprintf(path, sizeof(path), "%s/screen", folder);
	memset(&machine, 0, sizeof(machine));
	machine.width = 320;
	machine.height = 200;
	machine.colour = 0x445566;
	display_set_source(display, draw, NULL);
	return 0;
}

static int teardown(void **state)
{
	char command[128];

	vnc_stop(server);
	server = NULL;
	display_destroy(display);
	snprintf(command, sizeof(command), "rm -rf %s", folder);
	return system(command);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

static void start(void)
{
	struct vnc_address address = {.path = path};

	assert_int_equal(vnc_start(&server, display, &address, &handlers), 0);
}

/* Waits for the n-th event (0 …) and compares it. */
static void assert_event(unsigned n, const char *expected)
{
	char event[sizeof(machine.events[0])] = "";
	bool there = false;

	for (unsigned i = 0; i < 500 && !there; i++) {
		pthread_mutex_lock(&lock);
		there = machine.count > n;
		if (there)
			strcpy(event, machine.events[n]);
		pthread_mutex_unlock(&lock);
		if (!there)
			usleep(10000);
	}
	assert_true(there);
	assert_string_equal(event, expected);
}

static unsigned draws(void)
{
	unsigned count;

	pthread_mutex_lock(&lock);
	count = machine.draws;
	pthread_mutex_unlock(&lock);
	return count;
}

/* ---- a viewer ---- */

static const char *password;

static char *give_password(rfbClient *client)
{
	return strdup(password);
}

static void silent(const char *format, ...)
{
}

static rfbClient *viewer_at(const char *host, int port)
{
	rfbClient *client = rfbGetClient(8, 3, 4);

	rfbClientLog = rfbClientErr = silent;
	free(client->serverHost);
	client->serverHost = strdup(host);
	client->serverPort = port;
	client->GetPassword = give_password;
	client->canHandleNewFBSize = TRUE;
	return rfbInitClient(client, NULL, NULL) ? client : NULL; /* it frees the client itself where it fails */
}

static void leave(rfbClient *client)
{
	free(client->frameBuffer);
	client->frameBuffer = NULL;
	rfbClientCleanup(client);
}

/* What it shows at (x, y), as 0xRRGGBB. */
static uint32_t shows(const rfbClient *client, int x, int y)
{
	uint32_t value;

	memcpy(&value, client->frameBuffer + 4 * (y * client->width + x), 4);
	return (value >> client->format.redShift & 0xff) << 16 |
	       (value >> client->format.greenShift & 0xff) << 8 | (value >> client->format.blueShift & 0xff);
}

/* Handles what comes until (x, y) shows the colour. */
static void wait_for(rfbClient *client, int x, int y, uint32_t colour)
{
	for (unsigned i = 0; i < 250; i++) {
		if (client->width > x && client->height > y && shows(client, x, y) == colour)
			return;
		if (client->buffered || WaitForMessage(client, 20000) > 0) /* what it has read already it does not wait for */
			assert_true(HandleRFBServerMessage(client));
	}
	fail_msg("(%d, %d) shows %06x instead of %06x", x, y, shows(client, x, y), colour);
}

/* ---- tests ---- */

static void shows_the_picture_and_its_changes(void **state)
{
	rfbClient *client;

	start();
	client = viewer_at(path, 0);
	assert_non_null(client);
	assert_int_equal(client->width, 320);
	assert_int_equal(client->height, 200);
	wait_for(client, 0, 0, 0x445566);
	wait_for(client, 319, 199, 0x445566);
	wait_for(client, 10, 20, 0x112233);
	pthread_mutex_lock(&lock);
	machine.colour = 0xff8001;
	pthread_mutex_unlock(&lock);
	wait_for(client, 319, 199, 0xff8001);
	wait_for(client, 10, 20, 0x112233);
	leave(client);
}

static void follows_the_size(void **state)
{
	rfbClient *client;

	start();
	client = viewer_at(path, 0);
	assert_non_null(client);
	wait_for(client, 0, 0, 0x445566);
	for (unsigned i = 0; i < 10; i++) {
		pthread_mutex_lock(&lock);
		machine.width = i % 2 ? 101 : 800;
		machine.height = i % 2 ? 77 : 600;
		machine.colour = 0x010101 * (i + 1);
		pthread_mutex_unlock(&lock);
		wait_for(client, 100, 76, 0x010101 * (i + 1));
		assert_int_equal(client->width, i % 2 ? 101 : 800);
		assert_int_equal(client->height, i % 2 ? 77 : 600);
	}
	leave(client);
}

static void sleeps_without_viewers(void **state)
{
	rfbClient *client;
	unsigned before;

	start();
	before = draws();
	usleep(200000);
	assert_int_equal(draws(), before);
	client = viewer_at(path, 0);
	assert_non_null(client);
	wait_for(client, 0, 0, 0x445566);
	leave(client);
	usleep(200000);
	before = draws();
	usleep(200000);
	assert_int_equal(draws(), before);
}

static void viewers_come_and_go(void **state)
{
	rfbClient *client[3];

	start();
	for (unsigned round = 0; round < 5; round++) {
		for (unsigned i = 0; i < 3; i++) {
			client[i] = viewer_at(path, 0);
			assert_non_null(client[i]);
		}
		for (unsigned i = 0; i < 3; i++)
			wait_for(client[i], 10, 20, 0x112233);
		for (unsigned i = 0; i < 3; i++)
			leave(client[i]);
	}
	client[0] = viewer_at(path, 0); /* one is there when the server ends */
	assert_non_null(client[0]);
	vnc_stop(server);
	server = NULL;
	leave(client[0]);
}

static void keys(void **state)
{
	rfbClient *client;

	start();
	client = viewer_at(path, 0);
	assert_non_null(client);
	SendKeyEvent(client, 'a', TRUE);
	SendKeyEvent(client, 'a', FALSE);
	assert_event(0, "30 down");
	assert_event(1, "30 up");
	SendKeyEvent(client, 0xffe1, TRUE); /* as a US keyboard does */
	SendKeyEvent(client, '!', TRUE);
	SendKeyEvent(client, '!', FALSE);
	SendKeyEvent(client, 0xffe1, FALSE);
	assert_event(2, "42 down");
	assert_event(3, "2 down");
	assert_event(4, "2 up");
	assert_event(5, "42 up");
	SendKeyEvent(client, '"', TRUE); /* a keyboard where this needs no shift */
	SendKeyEvent(client, '"', FALSE);
	assert_event(6, "42 down");
	assert_event(7, "40 down");
	assert_event(8, "42 up");
	assert_event(9, "40 up");
	SendKeyEvent(client, 0xffe2, TRUE); /* one where this needs it */
	SendKeyEvent(client, '/', TRUE);
	assert_event(10, "54 down");
	assert_event(11, "54 up");
	assert_event(12, "53 down");
	assert_event(13, "54 down");
	leave(client); /* whoever goes lets go of all */
	assert_event(14, "53 up");
	assert_event(15, "54 up");
}

static void caps_lock_is_no_shift(void **state)
{
	rfbClient *client;

	machine.caps = true;
	start();
	client = viewer_at(path, 0);
	assert_non_null(client);
	SendKeyEvent(client, 'A', TRUE);
	SendKeyEvent(client, 'A', FALSE);
	SendKeyEvent(client, '1', TRUE);
	assert_event(0, "30 down");
	assert_event(1, "30 up");
	assert_event(2, "2 down");
	SendKeyEvent(client, 'b', TRUE);
	assert_event(3, "42 down");
	assert_event(4, "48 down");
	assert_event(5, "42 up");
	leave(client);
}

static void pointer(void **state)
{
	rfbClient *client;

	start();
	client = viewer_at(path, 0);
	assert_non_null(client);
	SendPointerEvent(client, 5, 6, 0);
	assert_event(0, "5,6 of 320x200 0 0");
	SendPointerEvent(client, 7, 8, rfbButton1Mask | rfbButton2Mask);
	assert_event(1, "7,8 of 320x200 5 0");
	SendPointerEvent(client, 7, 8, rfbButton3Mask);
	assert_event(2, "7,8 of 320x200 2 0");
	SendPointerEvent(client, 7, 8, rfbButton4Mask);
	assert_event(3, "7,8 of 320x200 0 1");
	SendPointerEvent(client, 7, 8, 0);
	SendPointerEvent(client, 7, 8, rfbButton5Mask);
	assert_event(5, "7,8 of 320x200 0 -1");
	SendPointerEvent(client, 9, 9, rfbButton1Mask);
	assert_event(6, "9,9 of 320x200 1 0");
	leave(client);
	assert_event(7, "9,9 of 320x200 0 0");
}

static void write_password(char *file, size_t size, const char *text)
{
	FILE *out;

	snprintf(file, size, "%s/password", folder);
	out = fopen(file, "w");
	assert_non_null(out);
	fputs(text, out);
	fclose(out);
}

static void passwords(void **state)
{
	char file[80];
	struct vnc_address address = {.path = path, .password_file = file};
	rfbClient *client;

	write_password(file, sizeof(file), "secret\n");
	assert_int_equal(vnc_start(&server, display, &address, &handlers), 0);
	password = "Secret";
	assert_null(viewer_at(path, 0));
	password = "s";
	assert_null(viewer_at(path, 0));
	password = "secret";
	client = viewer_at(path, 0);
	assert_non_null(client);
	wait_for(client, 10, 20, 0x112233);
	leave(client);
}

static int connect_by_hand(void)
{
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	int fd = socket(AF_UNIX, SOCK_STREAM, 0);

	strcpy(address.sun_path, path);
	assert_int_equal(connect(fd, (struct sockaddr *)&address, sizeof(address)), 0);
	return fd;
}

static void read_all(int fd, void *to, size_t size)
{
	for (size_t got = 0; got < size;) {
		ssize_t count = read(fd, (char *)to + got, size - got);

		assert_true(count > 0);
		got += (size_t)count;
	}
}

/* The handshake of RFC 6143 in bytes; and that without the password there is no way around it. */
static void handshake_by_hand(void **state)
{
	char file[80], version[12], byte[2];
	uint8_t init[24], result[4];
	struct vnc_address address = {.path = path, .password_file = file};
	int fd;

	start();
	fd = connect_by_hand();
	read_all(fd, version, 12);
	assert_memory_equal(version, "RFB 003.00", 10);
	assert_int_equal(write(fd, "RFB 003.008\n", 12), 12);
	read_all(fd, byte, 2);
	assert_memory_equal(byte, "\1\1", 2); /* one security type: none */
	assert_int_equal(write(fd, "\1", 1), 1);
	read_all(fd, result, 4);
	assert_memory_equal(result, "\0\0\0\0", 4);
	assert_int_equal(write(fd, "\1", 1), 1); /* shared */
	read_all(fd, init, 24);
	assert_int_equal(init[0] << 8 | init[1], 320);
	assert_int_equal(init[2] << 8 | init[3], 200);
	close(fd);
	vnc_stop(server);

	write_password(file, sizeof(file), "secret");
	assert_int_equal(vnc_start(&server, display, &address, &handlers), 0);
	fd = connect_by_hand();
	read_all(fd, version, 12);
	assert_int_equal(write(fd, "RFB 003.008\n", 12), 12);
	read_all(fd, byte, 2);
	assert_memory_equal(byte, "\1\2", 2); /* VNC authentication alone */
	assert_int_equal(write(fd, "\1\1", 2), 2); /* none, and on */
	assert_true(read(fd, init, 24) < 24);
	close(fd);
}

/* A viewer that says half a word, and one that hangs up in the middle: others are served. */
static void rude_viewers(void **state)
{
	static const char *const words[] = {"", "RFB", "GET / HTTP/1.0\r\n\r\n",
	                                    "RFB 003.008\n\1\1\3\0\0\0\377\377"};
	rfbClient *client;
	char version[12];

	start();
	for (unsigned i = 0; i < sizeof(words) / sizeof(words[0]); i++) {
		int fd = connect_by_hand();

		read_all(fd, version, 12);
		assert_int_equal(write(fd, words[i], strlen(words[i])), strlen(words[i]));
		close(fd);
	}
	client = viewer_at(path, 0);
	assert_non_null(client);
	wait_for(client, 10, 20, 0x112233);
	leave(client);
}

/* ---- where it listens ---- */

static void tcp_on_loopback(void **state)
{
	struct vnc_address address = {.host = "127.0.0.1", .port = 0};
	rfbClient *client = NULL;

	for (unsigned i = 0; i < 50 && !server; i++) {
		address.port = (uint16_t)(20000 + (getpid() * 7 + i * 131) % 30000);
		if (vnc_start(&server, display, &address, &handlers))
			server = NULL;
	}
	assert_non_null(server);
	client = viewer_at("127.0.0.1", address.port);
	assert_non_null(client);
	wait_for(client, 10, 20, 0x112233);
	leave(client);
	assert_true(vnc_start(&server, display, &address, &handlers) < 0);
	assert_non_null(strstr(error_text(), "another display"));
}

static void refusals(void **state)
{
	char file[80];
	struct vnc_address address = {.host = "0.0.0.0", .port = 5999};

	assert_int_equal(vnc_start(&server, display, &address, &handlers), -EACCES);
	address.host = "::";
	assert_true(vnc_start(&server, display, &address, &handlers) < 0);
	address = (struct vnc_address){.path = path, .password_file = file};
	write_password(file, sizeof(file), "\n");
	assert_true(vnc_start(&server, display, &address, &handlers) < 0);
	write_password(file, sizeof(file), "123456789\n");
	assert_true(vnc_start(&server, display, &address, &handlers) < 0);
	assert_int_not_equal(access(path, F_OK), 0);
}

static void socket_file(void **state)
{
	struct vnc_address address = {.path = path};
	struct vnc *second = NULL;
	struct stat status;
	struct sockaddr_un stale = {.sun_family = AF_UNIX};
	int fd = socket(AF_UNIX, SOCK_STREAM, 0);

	strcpy(stale.sun_path, path); /* what a killed server leaves behind */
	assert_int_equal(bind(fd, (struct sockaddr *)&stale, sizeof(stale)), 0);
	close(fd);
	start();
	assert_int_equal(stat(path, &status), 0);
	assert_int_equal(status.st_mode & 0777, 0600);
	assert_true(vnc_start(&second, display, &address, &handlers) < 0);
	assert_int_equal(stat(path, &status), 0); /* the first one's is still there */
	vnc_stop(server);
	server = NULL;
	assert_int_not_equal(stat(path, &status), 0);
}

/* ---- keysyms and pictures ---- */

static void keysyms(void **state)
{
	struct keysym_key key;

	assert_true(keysym_find('z', &key) && key.key == KEY_Z && key.shift == KEYSYM_PLAIN && key.letter);
	assert_true(keysym_find('~', &key) && key.key == KEY_GRAVE && key.shift == KEYSYM_SHIFTED &&
	            !key.letter);
	assert_true(keysym_find('|', &key) && key.key == KEY_BACKSLASH);
	assert_true(keysym_find('=', &key) && key.key == KEY_EQUAL);
	assert_true(keysym_find(']', &key) && key.key == KEY_RIGHTBRACE);
	assert_true(keysym_find(' ', &key) && key.key == KEY_SPACE && key.shift == KEYSYM_ANY);
	assert_true(keysym_find(0xff0d, &key) && key.key == KEY_ENTER);
	assert_false(keysym_find(0, &key));
	assert_false(keysym_find(0xe4, &key));
	for (uint32_t c = 0x20; c < 0x7f; c++) /* all of ASCII can be typed */
		assert_true(keysym_find(c, &key) && key.key > 0 && key.key < 128);
}

static void png_files(void **state)
{
	png_image image = {.version = PNG_IMAGE_VERSION};
	uint8_t *pixels;
	char file[80], nowhere[80];

	snprintf(file, sizeof(file), "%s/a.png", folder);
	assert_int_equal(display_screenshot(display, file), 0);
	assert_true(png_image_begin_read_from_file(&image, file));
	assert_int_equal(image.width, 320);
	assert_int_equal(image.height, 200);
	image.format = PNG_FORMAT_RGB;
	pixels = malloc(PNG_IMAGE_SIZE(image));
	assert_true(png_image_finish_read(&image, NULL, pixels, 0, NULL));
	assert_memory_equal(pixels, "\x44\x55\x66", 3);
	assert_memory_equal(pixels + 3 * (20 * 320 + 10), "\x11\x22\x33", 3);
	free(pixels);
	snprintf(nowhere, sizeof(nowhere), "%s/no/b.png", folder);
	assert_true(display_screenshot(display, nowhere) < 0);
	assert_non_null(strstr(error_text(), nowhere));
	assert_int_equal(display_screenshot(display, "/dev/full/x"), -ENOTDIR);
	display_set_source(display, NULL, NULL);
	assert_int_equal(display_screenshot(display, file), -ENODEV);
	assert_int_equal(display_screenshot(NULL, file), -ENODEV);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    TEST(shows_the_picture_and_its_changes),
	    TEST(follows_the_size),
	    TEST(sleeps_without_viewers),
	    TEST(viewers_come_and_go),
	    TEST(keys),
	    TEST(caps_lock_is_no_shift),
	    TEST(pointer),
	    TEST(passwords),
	    TEST(handshake_by_hand),
	    TEST(rude_viewers),
	    TEST(tcp_on_loopback),
	    TEST(refusals),
	    TEST(socket_file),
	    TEST(keysyms),
	    TEST(png_files),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
#endif

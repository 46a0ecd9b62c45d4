/* The control socket: texts cut from a stream, commands, IDs, errors, events, several clients, hostile ones. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include <errno.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "control/client.h"
#include "control/command.h"
#include "control/control.h"
#include "control/endpoint.h"
#include "control/events.h"
#include "control/framing.h"
#include "machine_fixture.h"

/* ---- texts ---- */

/* Feeds text in pieces of `piece` bytes; writes the texts found, each followed by '|', to found. */
static enum framing_result feed(const char *text, size_t piece, char *found)
{
	struct framing framing;
	enum framing_result result = FRAMING_MORE;
	size_t size = strlen(text);

	*found = '\0';
	assert_int_equal(framing_init(&framing), 0);
	for (size_t at = 0; at < size && result != FRAMING_LARGE;) {
		size_t part = size - at < piece ? size - at : piece, taken;

		result = framing_feed(&framing, text + at, part, &taken);
		assert_true(taken > 0 && taken <= part);
		at += taken;
		if (result == FRAMING_TEXT) {
			strncat(found, framing.text, framing.length);
			strcat(found, "|");
			framing_next(&framing);
		}
	}
	framing_free(&framing);
	return result;
}

static void test_texts_end_where_their_brackets_do(void **state)
{
	static const struct {
		const char *in, *out;
	} rows[] = {
	    {"{\"a\":1}", "{\"a\":1}|"},
	    {"{\"a\":1}{\"b\":2}\n", "{\"a\":1}|{\"b\":2}|"},
	    {" \r\n{\"a\":\n[1,{}]}\n\n{}", "{\"a\":\n[1,{}]}|{}|"},
	    {"{\"a\":\"}{\\\"\"}x\n{}", "{\"a\":\"}{\\\"\"}|x|{}|"},
	    {"{\"a\":\"\\\\\"}{}", "{\"a\":\"\\\\\"}|{}|"},
	    {"word\n12\n", "word|12|"},
	    {"{\"a\":", ""},
	    {"}{}", "}|{}|"},
	};
	char found[256];

	for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++)
		for (size_t piece = 1; piece < 40; piece += 3) {
			feed(rows[i].in, piece, found);
			assert_string_equal(found, rows[i].out);
		}
}

static void test_texts_are_bounded(void **state)
{
	size_t size = FRAMING_TEXT_MAX + 10;
	char *text = malloc(size + 1), *found = malloc(2 * size);

	memset(text, ' ', size);
	text[size] = '\0';
	assert_int_equal(feed(text, 4096, found), FRAMING_MORE); /* blanks between texts are free */
	text[0] = '{';
	assert_int_equal(feed(text, 4096, found), FRAMING_LARGE);
	memset(text, '[', FRAMING_DEPTH_MAX);
	text[FRAMING_DEPTH_MAX] = '\0';
	assert_int_equal(feed(text, 7, found), FRAMING_MORE);
	memset(text, '[', FRAMING_DEPTH_MAX + 1);
	text[FRAMING_DEPTH_MAX + 1] = '\0';
	assert_int_equal(feed(text, 7, found), FRAMING_LARGE);
	memset(text, '"', 1);
	memset(text + 1, 'x', size - 1);
	text[size] = '\0';
	assert_int_equal(feed(text, 4096, found), FRAMING_LARGE);
	free(text);
	free(found);
}

/* ---- commands ---- */

static struct control_state control_of(struct machine *machine)
{
	return (struct control_state){.machine = machine, .name = "test", .started_ns = 1};
}

/* Executes text after negotiation; the answer without blanks, in a static buffer. */
static const char *answer(struct control_state *state, const char *text)
{
	static char buffer[8192];
	bool negotiated = true;
	json_t *result = command_execute(state, text, strlen(text), &negotiated);
	char *dump = json_dumps(result, JSON_COMPACT);

	snprintf(buffer, sizeof(buffer), "%s", dump);
	free(dump);
	json_decref(result);
	return buffer;
}

static void test_nothing_before_negotiation(void **state)
{
	struct machine *machine = fixture_create(NULL);
	struct control_state control = control_of(machine);
	static const char text[] = "{\"execute\":\"query-name\"}",
	                  negotiate[] = "{\"execute\":\"qmp_capabilities\"}";
	bool negotiated = false;
	json_t *result = command_execute(&control, text, strlen(text), &negotiated);
	const char *class = json_string_value(json_object_get(json_object_get(result, "error"), "class"));

	assert_string_equal(class, "CommandNotFound");
	assert_false(negotiated);
	json_decref(result);
	result = command_execute(&control, negotiate, strlen(negotiate), &negotiated);
	assert_non_null(json_object_get(result, "return"));
	assert_true(negotiated);
	json_decref(result);
	result = command_execute(&control, negotiate, strlen(negotiate), &negotiated);
	assert_non_null(json_object_get(result, "error"));
	json_decref(result);
	machine_destroy(machine);
}

static void test_ids_come_back_whatever_they_are(void **state)
{
	struct machine *machine = fixture_create(NULL);
	struct control_state control = control_of(machine);

	assert_string_equal(answer(&control, "{\"execute\":\"query-name\",\"id\":7}"),
	                    "{\"return\":{\"name\":\"test\"},\"id\":7}");
	assert_string_equal(answer(&control, "{\"id\":{\"x\":[1,null]},\"execute\":\"query-name\"}"),
	                    "{\"return\":{\"name\":\"test\"},\"id\":{\"x\":[1,null]}}");
	assert_non_null(strstr(answer(&control, "{\"execute\":\"no\",\"id\":\"a\"}"), "\"id\":\"a\""));
	assert_null(strstr(answer(&control, "{\"execute\":\"query-name\"}"), "id"));
	machine_destroy(machine);
}

static void test_errors_have_class_and_words(void **state)
{
	static const struct {
		const char *text, *class, *words;
	} rows[] = {
	    {"{\"execute\":\"frob\"}", "CommandNotFound", "frob has not been found"},
	    {"{\"execute\":7}", "GenericError", "must be a string"},
	    {"{\"execute\":\"stop\",\"arguments\":[]}", "GenericError", "must be an object"},
	    {"{\"execute\":\"stop\",\"frob\":1}", "GenericError", "'frob' is unexpected"},
	    {"{\"execute\":\"stop\",\"arguments\":{\"a\":1}}", "GenericError", "Parameter 'a' is unexpected"},
	    {"{\"arguments\":{}}", "GenericError", "lacks member 'execute'"},
	    {"[]", "GenericError", "must be a JSON object"},
	    {"7", "GenericError", "must be a JSON object"},
	    {"{\"execute\":", "GenericError", "Invalid JSON syntax"},
	    {"{\"execute\":\"stop\",\"execute\":\"cont\"}", "GenericError", "Invalid JSON syntax"},
	    {"\xff\xfe", "GenericError", "Invalid JSON syntax"},
	    {"{\"execute\":\"human-monitor-command\"}", "GenericError", "'command-line' is missing"},
	    {"{\"execute\":\"human-monitor-command\",\"arguments\":{\"command-line\":1}}", "GenericError", "expected: string"},
	    {"{\"execute\":\"human-monitor-command\",\"arguments\":{\"command-line\":\"info\",\"cpu-index\":9}}", "GenericError",
	     "no CPU 9"},
	    {"{\"execute\":\"human-monitor-command\",\"arguments\":{\"command-line\":\"frob\"}}", "GenericError", "unknown command"},
	    {"{\"execute\":\"human-monitor-command\",\"arguments\":{\"command-line\":\"info frob\"}}", "GenericError", "no such topic"},
	    {"{\"execute\":\"human-monitor-command\",\"arguments\":{\"command-line\":\"xp/4096gx 0\"}}", "GenericError", "4096 bytes"},
	    {"{\"execute\":\"human-monitor-command\",\"arguments\":{\"command-line\":\"xp 0xfffffffffff\"}}", "GenericError", "no RAM"},
	    {"{\"execute\":\"pmemsave\",\"arguments\":{\"val\":0,\"size\":-1,\"filename\":\"/dev/null\"}}", "GenericError", "size"},
	    {"{\"execute\":\"pmemsave\",\"arguments\":{\"val\":0,\"size\":8,\"filename\":\"/dev/null\"}}", "GenericError", "ordinary"},
	    {"{\"execute\":\"send-key\",\"arguments\":{\"keys\":[]}}", "GenericError", "keys"},
	    {"{\"execute\":\"send-key\",\"arguments\":{\"keys\":[{\"type\":\"qcode\",\"data\":\"frob\"}]}}", "GenericError", "frob"},
	    {"{\"execute\":\"eject\"}", "GenericError", "no CD drive"},
	    {"{\"execute\":\"eject\",\"arguments\":{\"device\":\"disk0\"}}", "GenericError", "disk0 is no CD drive"},
	    {"{\"execute\":\"eject\",\"arguments\":{\"device\":\"disk99\"}}", "GenericError", "'disk99' not found"},
	    {"{\"execute\":\"eject\",\"arguments\":{\"id\":\"disk\"}}", "GenericError", "'disk' not found"},
	    {"{\"execute\":\"blockdev-change-medium\",\"arguments\":{\"id\":\"disk0\"}}", "GenericError", "'filename' is missing"},
	    {"{\"execute\":\"blockdev-change-medium\",\"arguments\":{\"filename\":\"x\",\"read-only-mode\":\"read-write\"}}",
	     "GenericError", "can only be read"},
	    {"{\"execute\":\"human-monitor-command\",\"arguments\":{\"command-line\":\"change disk0 x y\"}}", "GenericError",
	     "too many words"},
	    {"{\"execute\":\"human-monitor-command\",\"arguments\":{\"command-line\":\"change disk0\"}}", "GenericError",
	     "'filename' is missing"},
	    {"{\"execute\":\"qmp_capabilities\",\"arguments\":{\"enable\":[\"oob\"]}}", "CommandNotFound", "already complete"},
	};
	struct machine *machine = fixture_create(NULL);
	struct control_state control = control_of(machine);
	char class[64];

	for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		const char *got = answer(&control, rows[i].text);

		snprintf(class, sizeof(class), "\"class\":\"%s\"", rows[i].class);
		if (!strstr(got, class) || !strstr(got, rows[i].words))
			fail_msg("%s: %s, without \"%s\"", rows[i].text, got, rows[i].words);
	}
	machine_destroy(machine);
}

static void test_stop_and_cont_hold_the_machine_once(void **state)
{
	struct machine *machine = fixture_create(NULL);
	struct control_state control = control_of(machine);

	assert_non_null(strstr(answer(&control, "{\"execute\":\"query-status\"}"), "\"status\":\"running\""));
	for (int i = 0; i < 2; i++) {
		assert_string_equal(answer(&control, "{\"execute\":\"stop\"}"), "{\"return\":{}}");
		assert_int_equal(atomic_load(&machine->pauses), 1);
	}
	assert_non_null(strstr(answer(&control, "{\"execute\":\"query-status\"}"), "\"running\":false"));
	for (int i = 0; i < 2; i++) {
		assert_string_equal(answer(&control, "{\"execute\":\"cont\"}"), "{\"return\":{}}");
		assert_int_equal(atomic_load(&machine->pauses), 0);
	}
	machine_destroy(machine);
}

static void test_memory_is_shown_and_saved(void **state)
{
	struct machine *machine = fixture_create(NULL);
	struct control_state control = control_of(machine);
	char path[] = "/tmp/nestor-test-XXXXXX", text[256], data[5];
	int fd = mkstemp(path);

	memcpy(machine_memory(machine, GPA(0x1ffe), 5), "Hello", 5);
	assert_non_null(strstr(answer(&control, "{\"execute\":\"human-monitor-command\",\"arguments\":"
	                                        "{\"command-line\":\"xp/5c 0x1ffe\"}}"),
	                       "'H' 'e' 'l' 'l' 'o'"));
	assert_non_null(strstr(answer(&control, "{\"execute\":\"human-monitor-command\",\"arguments\":"
	                                        "{\"command-line\":\"xp/1wx 0x1ffe\"}}"),
	                       "0000000000001ffe: 0x6c6c6548"));
	snprintf(text, sizeof(text),
	         "{\"execute\":\"pmemsave\",\"arguments\":{\"val\":8190,\"size\":5,\"filename\":\"%s\"}}",
	         path);
	assert_string_equal(answer(&control, text), "{\"return\":{}}");
	assert_int_equal(read(fd, data, sizeof(data)), 5);
	assert_memory_equal(data, "Hello", 5);
	assert_int_equal(atomic_load(&machine->pauses), 0);
	close(fd);
	unlink(path);
	machine_destroy(machine);
}

static void test_power_button_and_reset(void **state)
{
	struct machine *machine = fixture_create(NULL);
	struct control_state control = control_of(machine);

	answer(&control, "{\"execute\":\"system_powerdown\"}");
	assert_int_equal(in(machine, PLATFORM_PM_BASE, 2) & 0x100, 0x100); /* PWRBTN_STS */
	assert_false(atomic_load(&machine->stop_requested));
	answer(&control, "{\"execute\":\"system_reset\"}");
	assert_true(atomic_load(&machine->stop_requested) && machine->restart);
	answer(&control, "{\"execute\":\"quit\"}"); /* an end beats a restart */
	assert_false(machine->restart);
	assert_string_equal(machine->stop_reason, STOP_HOST_QUIT);
	assert_non_null(strstr(answer(&control, "{\"execute\":\"stop\"}"), "about to end"));
	machine_destroy(machine);
}

static void test_every_topic_of_info_prints(void **state)
{
	static const char *const topics[] = {"irq",  "devices", "mtree", "status",
	                                     "name", "version", "block", "network"};
	struct machine *machine = fixture_create(NULL);
	struct control_state control = control_of(machine);
	char text[160];

	for (size_t i = 0; i < sizeof(topics) / sizeof(topics[0]); i++) {
		snprintf(text, sizeof(text), "{\"execute\":\"human-monitor-command\",\"arguments\":{\"command-line\":\"info %s\"}}",
		         topics[i]);
		assert_non_null(strstr(answer(&control, text), "\\n"));
	}
	assert_int_equal(atomic_load(&machine->pauses), 0);
	machine_destroy(machine);
}

/* ---- events ---- */

static void test_events_are_bounded_and_the_end_is_kept(void **state)
{
	struct event_ring ring;
	struct event_record record;
	unsigned count = 0;
	json_t *message;

	assert_int_equal(event_ring_init(&ring), 0);
	for (unsigned i = 0; i < 3 * EVENTS_MAX; i++)
		event_ring_put(&ring, MACHINE_EVENT_STOPPED, NULL);
	event_ring_put(&ring, MACHINE_EVENT_SHUTDOWN, STOP_GUEST_RESET);
	while (event_ring_take(&ring, &record))
		count++;
	assert_int_equal(count, EVENTS_MAX);
	assert_int_equal(record.event, MACHINE_EVENT_SHUTDOWN);
	message = event_message(&record);
	assert_string_equal(json_string_value(json_object_get(message, "event")), "SHUTDOWN");
	assert_true(json_is_true(json_object_get(json_object_get(message, "data"), "guest")));
	assert_string_equal(json_string_value(json_object_get(json_object_get(message, "data"), "reason")),
	                    STOP_GUEST_RESET);
	assert_true(json_integer_value(json_object_get(json_object_get(message, "timestamp"), "seconds")) >
	            1000000000);
	json_decref(message);
	record.event = MACHINE_EVENT_STARTED; /* none of QMP's */
	assert_null(event_message(&record));
	event_ring_free(&ring);
}

/* ---- names ---- */

static char folder[] = "/tmp/nestor-run-XXXXXX";

static int make_folder(void **state)
{
	if (!mkdtemp(folder))
		return -1;
	return setenv("XDG_RUNTIME_DIR", folder, 1);
}

static int remove_folder(void **state)
{
	char path[64];

	snprintf(path, sizeof(path), "%s/nestor", folder);
	rmdir(path);
	return rmdir(folder);
}

static void test_names_belong_to_one_live_process(void **state)
{
	struct endpoint first, second;
	char path[ENDPOINT_PATH_MAX];
	pid_t child;
	int status, fd;

	assert_int_equal(endpoint_claim(&first, "web"), 0);
	assert_int_equal(endpoint_owner("web"), getpid());
	child = fork();
	if (!child)
		_exit(endpoint_claim(&second, "web") == -EEXIST ? 0 : 1);
	waitpid(child, &status, 0);
	assert_int_equal(status, 0);
	assert_int_equal(endpoint_list(NULL, NULL), 1);
	endpoint_release(&first);
	assert_int_equal(endpoint_owner("web"), 0);
	/* A dead owner's files are in nobody's way. */
	child = fork();
	if (!child) {
		fd = endpoint_claim(&second, "web") ? -1 : endpoint_listen("web", ".sock");
		_exit(fd >= 0 ? 0 : 1);
	}
	waitpid(child, &status, 0);
	assert_int_equal(status, 0);
	assert_int_equal(endpoint_owner("web"), 0);
	assert_int_equal(endpoint_path("web", ".sock", path), 0);
	assert_int_equal(access(path, F_OK), 0);
	assert_int_equal(endpoint_list(NULL, NULL), 0);
	assert_int_equal(access(path, F_OK), -1);
	assert_int_equal(endpoint_claim(&first, "web"), 0);
	fd = endpoint_listen("web", ".sock");
	assert_true(fd >= 0);
	close(fd);
	endpoint_release(&first);
}

static void test_names_and_folders_are_checked(void **state)
{
	static const char *const bad[] = {"",    ".x",  "-x",
	                                  "a/b", "a b", "0123456789012345678901234567890123456789012345678"};
	struct endpoint endpoint;
	char path[64];

	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
		assert_int_equal(endpoint_claim(&endpoint, bad[i]), -EINVAL);
	snprintf(path, sizeof(path), "%s/nestor", folder);
	chmod(path, 0755);
	assert_int_equal(endpoint_claim(&endpoint, "web"), -EPERM);
	chmod(path, 0700);
	assert_int_equal(endpoint_claim(&endpoint, "web"), 0);
	endpoint_release(&endpoint);
}

/* ---- the server ---- */

static void test_clients_talk_to_the_machine(void **state)
{
	struct machine *machine = fixture_create(NULL);
	struct control_client *first, *second;
	struct control *control;
	struct endpoint endpoint;
	json_t *result;

	assert_int_equal(client_open(&first, "web", 1000), -ENOENT);
	assert_int_equal(endpoint_claim(&endpoint, "web"), 0);
	assert_int_equal(control_start(&control, machine, &endpoint), 0);
	assert_int_equal(client_open(&first, "web", 5000), 0);
	assert_int_equal(client_open(&second, "web", 5000), 0);
	assert_int_equal(client_open(&second, "frob", 5000), -ENOENT);
	assert_non_null(strstr(error_text(), "these do: web"));
	result = client_execute(first, "query-nestor", NULL);
	assert_string_equal(json_string_value(json_object_get(result, "status")), "prelaunch");
	json_decref(result);
	assert_null(client_execute(first, "frob", NULL));
	json_decref(client_execute(second, "stop", NULL));
	assert_int_equal(client_wait_event(first, "STOP", 5000), 1);
	assert_int_equal(client_wait_event(second, "STOP", 5000), 1);
	assert_int_equal(client_wait_event(first, "STOP", 50), -ETIMEDOUT);
	machine_notify(machine, MACHINE_EVENT_SHUTDOWN, STOP_HOST_QUIT);
	control_stop(control); /* what was said before is still sent */
	assert_int_equal(client_wait_event(first, "SHUTDOWN", 1000), 1);
	assert_int_equal(client_wait_event(first, "SHUTDOWN", 1000), 0);
	client_close(first);
	client_close(second);
	endpoint_release(&endpoint);
	machine_destroy(machine);
}

/* Whether the other side has ended the connection within a while; reads what comes. */
static bool is_closed(int fd)
{
	struct pollfd wait = {.fd = fd, .events = POLLIN};
	char data[65536];

	while (poll(&wait, 1, 3000) > 0)
		if (recv(fd, data, sizeof(data), 0) <= 0)
			return true;
	return false;
}

static void test_hostile_clients_hold_nobody_up(void **state)
{
	static const char command[] = "{\"execute\":\"qmp_capabilities\"}{\"execute\":\"query-commands\"}";
	struct machine *machine = fixture_create(NULL);
	struct control_client *client;
	struct control *control;
	struct endpoint endpoint;
	size_t pushed = 0;
	int mute, large, many[20];
	char *flood = malloc(FRAMING_TEXT_MAX + 100);

	assert_int_equal(endpoint_claim(&endpoint, "web"), 0);
	assert_int_equal(control_start(&control, machine, &endpoint), 0);
	/* One that asks without end and never reads: at some point nothing is taken from it any more. */
	mute = endpoint_connect("web", ".sock");
	for (unsigned i = 0; i < 200000; i++) {
		ssize_t sent = send(mute, command, sizeof(command) - 1, MSG_DONTWAIT | MSG_NOSIGNAL);
		struct pollfd wait = {.fd = mute, .events = POLLOUT};

		if (sent > 0)
			pushed += (size_t)sent;
		else if (poll(&wait, 1, 200) == 0)
			break;
	}
	assert_true(pushed < 8u << 20);
	/* One whose text does not end. */
	large = endpoint_connect("web", ".sock");
	memset(flood, '{', 1);
	memset(flood + 1, ' ', FRAMING_TEXT_MAX + 99);
	assert_true(send(large, flood, FRAMING_TEXT_MAX + 100, MSG_NOSIGNAL) > 0);
	assert_true(is_closed(large));
	/* More than there is room for. */
	for (unsigned i = 0; i < 20; i++)
		many[i] = endpoint_connect("web", ".sock");
	assert_true(is_closed(many[19]));
	for (unsigned i = 0; i < 20; i++)
		close(many[i]);
	for (unsigned i = 0; i < 50; i++) /* their places are free again before long */
		if (client_open(&client, "web", 2000) == 0)
			break;
		else
			usleep(20000);
	json_decref(client_execute(client, "query-name", NULL));
	client_close(client);
	control_stop(control);
	close(mute);
	close(large);
	free(flood);
	endpoint_release(&endpoint);
	machine_destroy(machine);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_texts_end_where_their_brackets_do),
	    cmocka_unit_test(test_texts_are_bounded),
	    cmocka_unit_test(test_nothing_before_negotiation),
	    cmocka_unit_test(test_ids_come_back_whatever_they_are),
	    cmocka_unit_test(test_errors_have_class_and_words),
	    cmocka_unit_test(test_stop_and_cont_hold_the_machine_once),
	    cmocka_unit_test(test_memory_is_shown_and_saved),
	    cmocka_unit_test(test_power_button_and_reset),
	    cmocka_unit_test(test_every_topic_of_info_prints),
	    cmocka_unit_test(test_events_are_bounded_and_the_end_is_kept),
	    cmocka_unit_test(test_names_belong_to_one_live_process),
	    cmocka_unit_test(test_names_and_folders_are_checked),
	    cmocka_unit_test(test_clients_talk_to_the_machine),
	    cmocka_unit_test(test_hostile_clients_hold_nobody_up),
	};

	return cmocka_run_group_tests(tests, make_folder, remove_folder);
}

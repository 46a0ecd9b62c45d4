/*
 * fuzz_control ROUNDS SEED: what others may send. JSON texts cut from a stream and executed, and GDB's packets; made by
 * changing sensible ones, from a fixed seed. Nothing may crash, answer without end, or leave the machine held.
 */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "control/command.h"
#include "control/framing.h"
#include "engine/vcpu_state.h"
#include "gdb/stub.h"
#include "machine_fixture.h"
#include "util/hash.h"

static uint64_t seed;

static uint64_t next(uint64_t below)
{
	seed = hash_mix(seed + 0x9e3779b97f4a7c15u);
	return seed % below;
}

/* Changes text in a few places; the result is not longer than room. Returns its size. */
static size_t mutate(const char *text, char *out, size_t room)
{
	static const char *const bits[] = {"{", "}", "[", "]", "\"", ":", ",", "null", "-1", "1e999", "\\u0000", "\\ud800",
	                                   "18446744073709551615", "#", "$", "*", "}", ";", "ffffffffffffffff", "\xff"};
	size_t size = strlen(text);

	memcpy(out, text, size);
	for (uint64_t i = next(4); i > 0; i--) {
		size_t at = next(size + 1), length;
		const char *bit = bits[next(sizeof(bits) / sizeof(bits[0]))];

		switch (next(4)) {
		case 0: /* another byte */
			if (at < size)
				out[at] = (char)next(256);
			break;
		case 1: /* the rest is missing */
			size = at;
			break;
		case 2: /* a piece is missing */
			length = next(size - at + 1);
			memmove(out + at, out + at + length, size - at - length);
			size -= length;
			break;
		default:
			length = strlen(bit);
			if (size + length > room)
				break;
			memmove(out + at + length, out + at, size - at);
			memcpy(out + at, bit, length);
			size += length;
			break;
		}
	}
	return size;
}

/* ---- an engine that does nothing ---- */

static int get_state(struct engine_vcpu *vcpu, struct vcpu_state *state)
{
	*state = (struct vcpu_state){.efer = 1u << 10, .xsave_size = VCPU_XSAVE_SIZE};
	return 0;
}

static int set_registers(struct engine_vcpu *vcpu, const struct vcpu_state *state)
{
	return 0;
}

static int set_debug(struct engine_vcpu *vcpu, const struct engine_debug *debug)
{
	if (debug && debug->count > ENGINE_DEBUG_POINTS)
		abort();
	return 0;
}

static void debug_stop(struct engine_vcpu *vcpu, struct engine_debug_stop *stop)
{
	*stop = (struct engine_debug_stop){.reason = next(4), .gla = seed, .access = 1 + next(3)};
}

static int translate(struct engine_vcpu *vcpu, gla_t gla, gpa_t *gpa)
{
	*gpa = GPA(gla.v & 0xffffff);
	return gla.v >> 63 ? 0 : -14;
}

static struct machine *make_machine(struct engine_ops *engine)
{
	struct machine *machine;

	*engine = fake_engine;
	engine->vcpu_get_state = get_state;
	engine->vcpu_set_registers = set_registers;
	engine->vcpu_set_debug = set_debug;
	engine->vcpu_debug_stop = debug_stop;
	engine->vcpu_translate = translate;
	machine = fixture_create(NULL);
	machine->engine = engine;
	return machine;
}

/* ---- the control socket ---- */

static const char *const texts[] = {
    "{\"execute\":\"qmp_capabilities\",\"arguments\":{\"enable\":[]}}",
    "{\"execute\":\"query-status\",\"id\":1}",
    "{\"execute\":\"query-commands\",\"id\":{\"a\":[1,2,{\"b\":null}]}}",
    "{\"execute\":\"stop\"}{\"execute\":\"cont\"}",
    "{\"execute\":\"system_powerdown\"}",
    "{\"execute\":\"inject-nmi\"}",
    "{\"execute\":\"send-key\",\"arguments\":{\"keys\":[{\"type\":\"qcode\",\"data\":\"ctrl\"}],\"hold-time\":10}}",
    "{\"execute\":\"human-monitor-command\",\"arguments\":{\"command-line\":\"x/4gx 0xffffffff81000000\",\"cpu-index\":0}}",
    "{\"execute\":\"human-monitor-command\",\"arguments\":{\"command-line\":\"xp/16bc 0x1000\"}}",
    "{\"execute\":\"human-monitor-command\",\"arguments\":{\"command-line\":\"info mtree\"}}",
    "{\"execute\":\"human-monitor-command\",\"arguments\":{\"command-line\":\"info registers\"}}",
    "{\"execute\":\"human-monitor-command\",\"arguments\":{\"command-line\":\"gva2gpa 0xffffffff00000000\"}}",
    "{\"execute\":\"screendump\",\"arguments\":{\"filename\":\"/\"}}",
    "{\"execute\":\"eject\",\"arguments\":{\"device\":\"disk0\",\"force\":true}}",
    "{\"execute\":\"blockdev-change-medium\",\"arguments\":{\"id\":\"disk0\",\"filename\":\"/\",\"format\":\"raw\"}}",
    "{\"execute\":\"human-monitor-command\",\"arguments\":{\"command-line\":\"change disk0 /\"}}",
    "{\"execute\":\"query-block\"}{\"execute\":\"query-nestor\"}",
};

static void fuzz_texts(struct machine *machine, unsigned rounds)
{
	struct control_state state = {.machine = machine, .name = "fuzz", .started_ns = 1};
	struct framing framing;
	bool negotiated = true;
	char bytes[4096];

	if (framing_init(&framing))
		abort();
	for (unsigned i = 0; i < rounds; i++) {
		size_t size = mutate(texts[next(sizeof(texts) / sizeof(texts[0]))], bytes, sizeof(bytes)),
		       at = 0, taken;

		while (at < size) {
			enum framing_result result = framing_feed(&framing, bytes + at, size - at, &taken);
			json_t *answer;
			char *text;

			at += taken;
			if (result == FRAMING_MORE)
				continue;
			if (result == FRAMING_LARGE) {
				framing_next(&framing);
				continue;
			}
			answer = command_execute(&state, framing.text, framing.length, &negotiated);
			text = json_dumps(answer, 0);
			if (!text ||
			    (!json_object_get(answer, "return") == !json_object_get(answer, "error")))
				abort(); /* neither an answer nor an error */
			free(text);
			json_decref(answer);
			framing_next(&framing);
		}
		if (atomic_load(&machine->pauses) != state.held)
			abort();
		atomic_store(&machine->stop_requested, false);
	}
	control_unhold(&state);
	framing_free(&framing);
}

/* ---- GDB ---- */

static const char *const packets[] = {
    "$qSupported:multiprocess+;swbreak+#00", "$?#3f", "$g#67", "$p10#00", "$P1=0100000000000000#00", "$m8000000000001000,40#00",
    "$M8000000000001000,2:abcd#00", "$X8000000000001000,2:ab#00", "$Z0,ffffffff81000000,1#00", "$z0,ffffffff81000000,1#00",
    "$Z2,8000000000001000,8#00", "$vCont;s:1;c#00", "$vCont?#00", "$c#63", "$Hg1#00", "$T1#00",
    "$qXfer:features:read:target.xml:0,ffb#00", "$qRcmd,6c6576656c2032#00", "$qRcmd,706879736963616c206f6e#00",
    "$qThreadExtraInfo,1#00", "$QStartNoAckMode#00", "\003", "+-", "$G00000000#00", "$qRcmd,7472616e736c61746520307831303030#00",
};

static size_t most_sent;

static void sent(void *context, const char *data, size_t size)
{
	most_sent = size > most_sent ? size : most_sent;
}

static struct stub stub;
static struct packet_reader reader;

/* The sum is right more often than not, or nothing would be reached. */
static void mend_sum(char *packet, size_t size)
{
	char *hash = memchr(packet, '#', size);
	uint8_t sum = 0;

	if (!hash || packet[0] != '$' || packet + size - hash < 3)
		return;
	for (const char *p = packet + 1; p < hash; p++)
		sum += (uint8_t)*p;
	packet_to_hex(&sum, 1, hash + 1); /* its zero byte is not sent */
}

static void fuzz_packets(struct machine *machine, unsigned rounds)
{
	char bytes[4096 + 1];

	stub_init(&stub, machine, seed % 3, sent, NULL);
	if (stub_attach(&stub, false))
		abort();
	for (unsigned i = 0; i < rounds; i++) {
		size_t size = mutate(packets[next(sizeof(packets) / sizeof(packets[0]))], bytes, sizeof(bytes) - 1);

		if (next(8))
			mend_sum(bytes, size);
		for (size_t at = 0; at < size && !stub.closing; at++) {
			enum packet_event event = packet_read(&reader, (uint8_t)bytes[at]);

			if (event == PACKET_WHOLE)
				stub_packet(&stub, reader.data, reader.size);
			else if (event == PACKET_INTERRUPT)
				stub_interrupt(&stub);
		}
		if (stub.running && next(2) && !machine_pause(machine))
			stub_stopped(&stub, 1);
		if (stub.closing) { /* detached, or killed */
			stub_detach(&stub);
			atomic_store(&machine->stop_requested, false);
			if (stub_attach(&stub, false))
				abort();
		}
		if (atomic_load(&machine->pauses) != (unsigned)!stub.running)
			abort();
	}
	if (most_sent > sizeof(stub.answer))
		abort();
	stub_detach(&stub);
	if (atomic_load(&machine->pauses))
		abort();
}

int main(int argc, char **argv)
{
	unsigned rounds = argc > 1 ? (unsigned)atoi(argv[1]) : 100000;
	struct engine_ops engine;
	struct machine *machine = make_machine(&engine);

	seed = argc > 2 ? strtoull(argv[2], NULL, 0) : 1;
	fuzz_texts(machine, rounds);
	machine_destroy(machine);
	machine = make_machine(&engine);
	fuzz_packets(machine, rounds);
	machine_destroy(machine);
	printf("%u texts and %u packets, the longest answer %zu bytes\n", rounds, rounds, most_sent);
	return 0;
}

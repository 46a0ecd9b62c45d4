/* GDB's remote protocol: packets, registers, and what the stub asks of machine and engine. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include <errno.h>

#include "engine/vcpu_state.h"
#include "gdb/stub.h"
#include "machine_fixture.h"

/* ---- packets ---- */

static struct packet_reader reader;

/* Feeds bytes; the last event but NOTHING, and how many those were. */
static enum packet_event feed(const char *bytes, size_t size, unsigned *count)
{
	enum packet_event last = PACKET_NOTHING;

	*count = 0;
	for (size_t i = 0; i < size; i++) {
		enum packet_event event = packet_read(&reader, (uint8_t)bytes[i]);

		if (event == PACKET_NOTHING)
			continue;
		last = event;
		(*count)++;
	}
	return last;
}

static void test_packets_come_back_as_they_were_sent(void **state)
{
	char data[256], out[600];
	unsigned count;
	size_t size;

	for (unsigned i = 0; i < sizeof(data); i++)
		data[i] = (char)i;
	memset(&reader, 0, sizeof(reader));
	size = packet_write(data, sizeof(data), out);
	assert_true(size <= packet_room(sizeof(data)));
	assert_int_equal(feed(out, size, &count), PACKET_WHOLE);
	assert_int_equal(count, 1);
	assert_int_equal(reader.size, sizeof(data));
	assert_memory_equal(reader.data, data, sizeof(data));
}

static void test_packets_are_checked(void **state)
{
	static const struct {
		const char *bytes;
		enum packet_event event;
	} rows[] = {
	    {"$g#67", PACKET_WHOLE},    {"$g#68", PACKET_BROKEN},    {"$g#6x", PACKET_BROKEN},
	    {"$g#xx", PACKET_BROKEN},   {"+", PACKET_ACCEPTED},      {"-", PACKET_REFUSED},
	    {"\003", PACKET_INTERRUPT}, {"xyz", PACKET_NOTHING},     {"$abc$g#67", PACKET_WHOLE},
	    {"$#00", PACKET_WHOLE},     {"$}\003#80", PACKET_WHOLE},
	};
	unsigned count;

	for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		memset(&reader, 0, sizeof(reader));
		assert_int_equal(feed(rows[i].bytes, strlen(rows[i].bytes), &count), rows[i].event);
	}
	assert_int_equal(reader.data[0], '#');
}

static void test_packets_are_bounded(void **state)
{
	unsigned count;

	memset(&reader, 0, sizeof(reader));
	assert_int_equal(packet_read(&reader, '$'), PACKET_NOTHING);
	for (unsigned i = 0; i < PACKET_MAX + 1000; i++)
		assert_int_equal(packet_read(&reader, 0x40), PACKET_NOTHING);
	assert_int_equal(feed("#00", 3, &count), PACKET_BROKEN);
	assert_int_equal(feed("$g#67", 5, &count), PACKET_WHOLE);
}

/* ---- registers ---- */

static const struct registers *registers(bool avx)
{
	static struct registers result;

	registers_init(&result, avx, REGISTERS_X86_64);
	return &result;
}

static void test_description_names_every_register_once(void **state)
{
	for (int kind = 0; kind < 6; kind++) {
		static struct registers made;
		const struct registers *r = &made;
		unsigned found = 0, size = 0, avx = kind & 1, i386 = kind >> 1 != REGISTERS_X86_64;

		registers_init(&made, avx, kind >> 1);

		assert_true(r->xml_size < sizeof(r->xml) - 1);
		assert_int_equal(strlen(r->xml), r->xml_size);
		for (const char *p = r->xml; (p = strstr(p, "<reg ")); p++)
			found++;
		assert_int_equal(found, r->count);
		for (unsigned i = 0; i < r->count; i++) {
			assert_in_range(registers_size(r, i), 1, REGISTER_SIZE_MAX);
			size += registers_size(r, i);
		}
		assert_true(size <= REGISTERS_SIZE_MAX);
		assert_int_equal(registers_size(r, r->count), 0);
		assert_int_equal(strstr(r->xml, i386 ? "ymm7h" : "ymm15h") != NULL, avx);
		assert_int_equal(strstr(r->xml, "\"rax\"") == NULL, i386);
	}
}

/* GDB's numbers of x86-64 (its manual, i386 Features): the first ones are fixed. */
static void test_registers_are_where_gdb_expects_them(void **state)
{
	const struct registers *r = registers(true);
	struct vcpu_state s = {.rip = 0x1234, .rflags = 0x246, .efer = 1u << 10, .xsave_size = VCPU_XSAVE_SIZE};
	uint8_t value[REGISTER_SIZE_MAX];
	uint64_t v = 0;

	for (unsigned i = 0; i < 16; i++)
		s.gpr[i] = 0x100 + i;
	s.seg[SEG_CS].rights = RIGHTS_L;
	s.seg[SEG_CS].selector = 0x10;
	registers_get(r, 0, &s, &v);
	assert_int_equal(v, 0x100 + REG_RAX);
	registers_get(r, 1, &s, &v);
	assert_int_equal(v, 0x100 + REG_RBX);
	registers_get(r, 6, &s, &v);
	assert_int_equal(v, 0x100 + REG_RBP);
	registers_get(r, 15, &s, &v);
	assert_int_equal(v, 0x100 + REG_R15);
	registers_get(r, 16, &s, &v);
	assert_int_equal(v, 0x1234);
	registers_get(r, 17, &s, value);
	assert_int_equal(value[0] | value[1] << 8, 0x246);
	registers_get(r, 18, &s, value);
	assert_int_equal(value[0], 0x10);
	/* A component that XSTATE_BV does not name is initial: FCW 37FH, everything empty. */
	memset(s.xsave, 0xee, 512);
	registers_get(r, 32, &s, value);
	assert_int_equal(value[0] | value[1] << 8, 0x37f);
	registers_get(r, 34, &s, value);
	assert_int_equal(value[0] | value[1] << 8, 0xffff);
}

static void test_registers_take_what_is_written(void **state)
{
	const struct registers *r = registers(true);
	struct vcpu_state s = {.efer = 1u << 10, .xsave_size = VCPU_XSAVE_SIZE};
	uint8_t in[REGISTER_SIZE_MAX], out[REGISTER_SIZE_MAX];

	s.seg[SEG_CS].rights = RIGHTS_L;
	for (unsigned i = 0; i < r->count; i++) {
		/* selectors, control registers and the unused upper halves of x87's words stay */
		if ((i >= 18 && i < 24) || (i >= 32 && i < 40) || (i >= 59 && i < 65))
			continue;
		for (unsigned k = 0; k < sizeof(in); k++)
			in[k] = (uint8_t)(i * 7 + k);
		if (i == 17 || i == 56) /* flags and MXCSR have bits that do not exist */
			memcpy(in, "\x82\x1f\0\0", 4);
		registers_set(r, i, &s, in);
		registers_get(r, i, &s, out);
		assert_memory_equal(in, out, registers_size(r, i));
	}
}

static void test_pc_is_linear_where_cs_has_a_base(void **state)
{
	const struct registers *r = registers(false);
	struct vcpu_state s = {.rip = 0xfff0};
	uint64_t pc = 0;

	s.seg[SEG_CS].base = 0xffff0000;
	registers_get(r, 16, &s, &pc);
	assert_int_equal(pc, 0xfffffff0);
	pc = 0xffff1234;
	registers_set(r, 16, &s, &pc);
	assert_int_equal(s.rip, 0x1234);
}

static void test_i386_registers_are_where_gdb_expects_them(void **state)
{
	struct vcpu_state s = {.rip = 0x1234, .rflags = 2};
	uint32_t v = 0;
	static struct registers r;

	registers_init(&r, true, REGISTERS_I386);
	for (unsigned i = 0; i < 16; i++)
		s.gpr[i] = 0x100 + i;
	s.seg[SEG_CS].base = 0xf0000;
	for (unsigned i = 0; i < 8; i++) { /* GDB's order is the hardware's */
		registers_get(&r, i, &s, &v);
		assert_int_equal(v, 0x100 + i);
	}
	registers_get(&r, 8, &s, &v);
	assert_int_equal(v, 0xf1234);
	registers_get(&r, 9, &s, &v);
	assert_int_equal(v, 2);
	v = 0xffffffff;
	registers_set(&r, 4, &s, &v);
	assert_int_equal(s.gpr[REG_RSP], 0xffffffff);
	assert_int_equal(registers_size(&r, 40), 4); /* mxcsr, behind 16 + 16 + 8 */
}

/* ---- the stub, with an engine that records ---- */

static struct {
	struct engine_debug debug;
	unsigned calls;
	bool cleared;
	struct engine_debug_stop stop;
	struct vcpu_state state;
	int refuse;
	char sent[40000];
	unsigned packets;
} fake;

static int fake_get_state(struct engine_vcpu *vcpu, struct vcpu_state *state)
{
	*state = fake.state;
	return 0;
}

static int fake_set_registers(struct engine_vcpu *vcpu, const struct vcpu_state *state)
{
	fake.state = *state;
	return 0;
}

static int fake_set_debug(struct engine_vcpu *vcpu, const struct engine_debug *debug)
{
	fake.calls++;
	fake.cleared = !debug;
	if (debug)
		fake.debug = *debug;
	return debug && debug->count ? fake.refuse : 0;
}

static void fake_debug_stop(struct engine_vcpu *vcpu, struct engine_debug_stop *stop)
{
	*stop = fake.stop;
}

/* Linear addresses of the upper half are RAM's. */
static int fake_translate(struct engine_vcpu *vcpu, gla_t gla, gpa_t *gpa)
{
	*gpa = GPA(gla.v & 0xffffff);
	return gla.v >> 63 ? 0 : -EFAULT;
}

static struct engine_ops debug_engine;

static void fake_send(void *context, const char *data, size_t size)
{
	assert_true(size < sizeof(fake.sent));
	memcpy(fake.sent, data, size);
	fake.sent[size] = '\0';
	fake.packets++;
}

static struct stub stub;

static struct machine *begin(unsigned cpus)
{
	struct machine *machine;

	memset(&fake, 0, sizeof(fake));
	debug_engine = fake_engine;
	debug_engine.vcpu_get_state = fake_get_state;
	debug_engine.vcpu_set_registers = fake_set_registers;
	debug_engine.vcpu_set_debug = fake_set_debug;
	debug_engine.vcpu_debug_stop = fake_debug_stop;
	debug_engine.vcpu_translate = fake_translate;
	machine = fixture_create(NULL);
	machine->config.cpu_count = cpus; /* all are the one engine's */
	for (unsigned i = 1; i < cpus; i++)
		machine->vcpu[i].engine_vcpu = machine->vcpu[0].engine_vcpu;
	machine->engine = &debug_engine;
	stub_init(&stub, machine, REGISTERS_X86_64, fake_send, NULL);
	assert_int_equal(stub_attach(&stub, false), 0);
	assert_int_equal(atomic_load(&machine->pauses), 1);
	return machine;
}

static void end(struct machine *machine)
{
	stub_detach(&stub);
	assert_int_equal(atomic_load(&machine->pauses), 0);
	assert_true(fake.cleared);
	machine->config.cpu_count = 1;
	machine_destroy(machine);
}

static const char *ask(const char *packet)
{
	fake.sent[0] = '\0';
	stub_packet(&stub, packet, strlen(packet));
	return fake.sent;
}

/* As server.c does where a vCPU has stopped: one pause is the stub's. */
static const char *stop(struct machine *machine, uint64_t mask, struct engine_debug_stop why)
{
	fake.stop = why;
	fake.sent[0] = '\0';
	assert_int_equal(machine_pause(machine), 0);
	stub_stopped(&stub, mask);
	return fake.sent;
}

static void test_memory_is_read_and_written(void **state)
{
	struct machine *machine = begin(1);

	memcpy(machine_memory(machine, GPA(0x1000), 5), "Hello", 5);
	assert_string_equal(ask("m8000000000001000,5"), "48656c6c6f");
	assert_string_equal(ask("M8000000000001001,2:3132"), "OK");
	assert_string_equal(ask("m8000000000001000,5"), "4831326c6f");
	stub_packet(&stub, "X8000000000001000,3:a\0b", 23);
	assert_string_equal(fake.sent, "OK");
	assert_string_equal(ask("m8000000000001000,3"), "610062");
	assert_int_equal(ask("m1000,5")[0], 'E');
	stub.physical = true;
	assert_string_equal(ask("m1000,3"), "610062");
	assert_int_equal(ask("mffffffffff,1")[0], 'E');
	/* Up to RAM's end, where more is asked for. */
	assert_int_equal(strlen(ask("m7ffff0,40")), 32);
	assert_int_equal(ask("m1000")[0], 'E');
	assert_int_equal(ask("M1000,4:31")[0], 'E');
	assert_true(strlen(ask("m0,ffffffff")) <= 2 * PACKET_MAX);
	end(machine);
}

static void test_registers_by_packets(void **state)
{
	struct machine *machine = begin(1);

	fake.state.gpr[REG_RBX] = 0x1122334455667788;
	assert_string_equal(ask("p1"), "8877665544332211");
	assert_memory_equal(ask("g") + 16, "8877665544332211", 16);
	assert_string_equal(ask("P1=0100000000000000"), "OK");
	assert_int_equal(fake.state.gpr[REG_RBX], 1);
	assert_int_equal(ask("pffff")[0], 'E');
	assert_int_equal(ask("P1=01")[0], 'E');
	assert_int_equal(ask("P1:01")[0], 'E');
	assert_int_equal(ask("G00")[0], 'E');
	end(machine);
}

static void test_breakpoints_reach_the_engine(void **state)
{
	struct machine *machine = begin(1);
	char text[64];

	assert_string_equal(ask("Z0,ffffffff81000000,1"), "OK");
	assert_int_equal(fake.debug.count, 1);
	assert_int_equal(fake.debug.point[0].gla, 0xffffffff81000000);
	assert_int_equal(fake.debug.point[0].access, ENGINE_POINT_EXECUTE);
	assert_string_equal(ask("Z0,ffffffff81000000,1"), "OK"); /* the same again is one */
	assert_int_equal(fake.debug.count, 1);
	assert_string_equal(ask("Z4,2000,8"), "OK");
	assert_int_equal(fake.debug.point[1].access, ENGINE_POINT_READ | ENGINE_POINT_WRITE);
	assert_string_equal(ask("z0,ffffffff81000000,1"), "OK");
	assert_int_equal(fake.debug.count, 1);
	assert_string_equal(ask("z0,ffffffff81000000,1"), "OK");
	assert_string_equal(ask("Z7,1,1"), "");
	assert_int_equal(ask("Z2,1,0")[0], 'E');
	assert_int_equal(ask("Z2,ffffffffffffffff,8")[0], 'E');
	assert_int_equal(ask("Z0,")[0], 'E');
	for (unsigned i = 0; i < ENGINE_DEBUG_POINTS - 1; i++) {
		snprintf(text, sizeof(text), "Z1,%x,1", i);
		assert_string_equal(ask(text), "OK");
	}
	assert_int_equal(ask("Z1,fff,1")[0], 'E');
	end(machine);
	/* An engine that has no room for it: it is as if it had not been asked for. */
	machine = begin(1);
	fake.refuse = -ENOSPC;
	assert_int_equal(ask("Z1,fff,1")[0], 'E');
	assert_int_equal(stub.point_count, 0);
	end(machine);
}

static void test_running_and_stopping(void **state)
{
	struct machine *machine = begin(2);

	assert_string_equal(ask("?"), "T05thread:1;");
	ask("Z0,1000,1");
	ask("vCont;c");
	assert_int_equal(atomic_load(&machine->pauses), 0);
	assert_int_equal(ask("m0,1")[0], 'E'); /* it runs */
	assert_string_equal(stop(machine, 2, (struct engine_debug_stop){.reason = ENGINE_STOP_BREAKPOINT, .gla = 0x1000}),
	                    "T05thread:2;swbreak:;");
	assert_int_equal(atomic_load(&machine->pauses), 1);
	assert_string_equal(ask("qC"), "QC2");
	/* Going on, the CPU that has told of the breakpoint may pass it; a step freezes nobody who is to run. */
	ask("vCont;s:2;c");
	assert_true(fake.debug.pass && fake.debug.step);
	assert_false(atomic_load(&machine->vcpu[0].frozen));
	assert_string_equal(stop(machine, 2, (struct engine_debug_stop){.reason = ENGINE_STOP_STEP}),
	                    "T05thread:2;");
	ask("vCont;s:2");
	assert_true(atomic_load(&machine->vcpu[0].frozen));
	assert_false(fake.debug.pass);
	assert_string_equal(stop(machine, 2,
	                         (struct engine_debug_stop){.reason = ENGINE_STOP_WATCHPOINT,
	                                                    .gla = 0x44,
	                                                    .access = ENGINE_POINT_WRITE}),
	                    "T05thread:2;watch:44;");
	assert_false(atomic_load(&machine->vcpu[0].frozen));
	/* Two at once: the second one's watchpoint is told of when the machine is to go on. */
	ask("c");
	stop(machine, 3, (struct engine_debug_stop){.reason = ENGINE_STOP_WATCHPOINT, .gla = 0x48, .access = ENGINE_POINT_READ});
	assert_string_equal(fake.sent, "T05thread:1;rwatch:48;");
	assert_string_equal(ask("c"), "T05thread:2;rwatch:48;");
	assert_int_equal(atomic_load(&machine->pauses), 1);
	ask("c");
	stub_interrupt(&stub);
	assert_string_equal(fake.sent, "T02thread:2;");
	assert_int_equal(ask("vCont;x")[0], 'E');
	assert_int_equal(ask("vCont;c:9")[0], 'E');
	end(machine);
}

static void test_levels_hold_an_interrupt_back(void **state)
{
	struct machine *machine = begin(1);
	char hex[64];

	packet_to_hex("monitor", 0, hex);
	stub_packet(&stub, "qRcmd,6c6576656c2032", 20); /* level 2 */
	assert_int_equal(stub.levels, ENGINE_LEVEL_NONROOT);
	ask("c");
	assert_int_equal(fake.debug.levels, ENGINE_LEVEL_NONROOT);
	fake.packets = 0;
	stub_interrupt(&stub); /* the CPU is at level 1 */
	assert_int_equal(fake.packets, 0);
	assert_true(fake.debug.halt);
	assert_int_equal(atomic_load(&machine->pauses), 0);
	fake.state.level = 1;
	assert_string_equal(stop(machine, 1, (struct engine_debug_stop){.reason = ENGINE_STOP_ASKED}),
	                    "T02thread:1;");
	end(machine);
}

static void test_queries(void **state)
{
	struct machine *machine = begin(3);

	assert_non_null(strstr(ask("qSupported:multiprocess+"), "qXfer:features:read+"));
	assert_string_equal(ask("qfThreadInfo"), "m1,2,3");
	assert_string_equal(ask("qsThreadInfo"), "l");
	assert_string_equal(ask("T3"), "OK");
	assert_int_equal(ask("T4")[0], 'E');
	assert_string_equal(ask("Hg2"), "OK");
	assert_int_equal(stub.current, 1);
	assert_int_equal(ask("Hg7")[0], 'E');
	assert_string_equal(ask("Hc-1"), "OK");
	assert_string_equal(ask("vMustReplyEmpty"), "");
	assert_string_equal(ask("!"), "");
	assert_string_equal(ask(""), "");
	assert_int_equal(ask("qXfer:features:read:target.xml:0,ff")[0], 'm');
	assert_int_equal(ask("qXfer:features:read:target.xml:ffff,ff")[0], 'E');
	assert_int_equal(ask("qXfer:features:read:other.xml:0,ff")[0], 'E');
	assert_string_equal(ask("QStartNoAckMode"), "OK");
	assert_true(stub.no_ack);
	assert_int_equal(ask("qRcmd,zz")[0], 'E');
	assert_string_equal(ask("D"), "OK");
	assert_true(stub.closing);
	end(machine);
}

static void test_the_end_is_told(void **state)
{
	struct machine *machine = begin(1);

	ask("c");
	stub_exited(&stub, 3);
	assert_string_equal(fake.sent, "W03");
	ask("vKill;1");
	end(machine);
	machine = begin(1);
	ask("k");
	assert_true(atomic_load(&machine->stop_requested));
	end(machine);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_packets_come_back_as_they_were_sent),
	    cmocka_unit_test(test_packets_are_checked),
	    cmocka_unit_test(test_packets_are_bounded),
	    cmocka_unit_test(test_description_names_every_register_once),
	    cmocka_unit_test(test_registers_are_where_gdb_expects_them),
	    cmocka_unit_test(test_registers_take_what_is_written),
	    cmocka_unit_test(test_i386_registers_are_where_gdb_expects_them),
	    cmocka_unit_test(test_pc_is_linear_where_cs_has_a_base),
	    cmocka_unit_test(test_memory_is_read_and_written),
	    cmocka_unit_test(test_registers_by_packets),
	    cmocka_unit_test(test_breakpoints_reach_the_engine),
	    cmocka_unit_test(test_running_and_stopping),
	    cmocka_unit_test(test_levels_hold_an_interrupt_back),
	    cmocka_unit_test(test_queries),
	    cmocka_unit_test(test_the_end_is_told),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

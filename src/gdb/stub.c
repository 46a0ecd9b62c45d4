/* Packets: the sections of GDB's manual, "Remote Protocol", are named where a packet's form is not plain. */
#include "gdb/stub.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "engine/vcpu_state.h"
#include "machine/inspect.h"
#include "machine/machine.h"
#include "util/error.h"

#define SIGNAL_INT  2
#define SIGNAL_TRAP 5

#define MEMORY_MAX (PACKET_MAX / 2) /* bytes of one memory packet */

static unsigned cpu_count(const struct stub *stub)
{
	return stub->machine->config.cpu_count;
}

static struct engine_vcpu *engine_vcpu(const struct stub *stub, unsigned vcpu)
{
	return stub->machine->vcpu[vcpu].engine_vcpu;
}

static void reply(struct stub *stub, const char *text)
{
	stub->send(stub->context, text, strlen(text));
}

static void reply_error(struct stub *stub, int error)
{
	char text[8];

	snprintf(text, sizeof(text), "E%02x", (unsigned)(error < 0 ? -error : error) & 0xff);
	reply(stub, text);
}

static void reply_status(struct stub *stub, int result)
{
	if (result)
		reply_error(stub, result);
	else
		reply(stub, "OK");
}

/* ---- stop replies ---- */

static bool is_hardware(const struct stub *stub, uint64_t address)
{
	for (unsigned i = 0; i < stub->point_count; i++)
		if (stub->point[i].type == 1 && stub->point[i].address == address)
			return true;
	return false;
}

/* "Stop Reply Packets" */
static void reply_stop(struct stub *stub)
{
	const struct stub_reason *reason = &stub->last;
	char text[128], why[64] = "";

	if (reason->stop == STUB_STOP_BREAKPOINT)
		snprintf(why, sizeof(why), "%s:;",
		         is_hardware(stub, reason->address) ? "hwbreak" : "swbreak");
	else if (reason->stop == STUB_STOP_WATCHPOINT)
		snprintf(why, sizeof(why), "%swatch:%" PRIx64 ";",
		         reason->access == ENGINE_POINT_WRITE  ? ""
		         : reason->access == ENGINE_POINT_READ ? "r"
		                                               : "a",
		         reason->address);
	snprintf(text, sizeof(text), "T%02xthread:%x;%s", reason->signal, stub->last_vcpu + 1, why);
	reply(stub, text);
}

static struct stub_reason reason_of(const struct stub *stub, unsigned vcpu)
{
	static const uint8_t stops[] = {[ENGINE_STOP_ASKED] = STUB_STOP_SIGNAL,
	                                [ENGINE_STOP_STEP] = STUB_STOP_STEP,
	                                [ENGINE_STOP_BREAKPOINT] = STUB_STOP_BREAKPOINT,
	                                [ENGINE_STOP_WATCHPOINT] = STUB_STOP_WATCHPOINT};
	struct engine_debug_stop stop = {.reason = ENGINE_STOP_ASKED};

	stub->machine->engine->vcpu_debug_stop(engine_vcpu(stub, vcpu), &stop);
	return (struct stub_reason){.stop = stops[stop.reason],
	                            .signal = stop.reason == ENGINE_STOP_ASKED ? SIGNAL_INT : SIGNAL_TRAP,
	                            .address = stop.gla, .access = stop.access};
}

/* The machine stands still and GDB is told why. */
static void report(struct stub *stub, unsigned vcpu, const struct stub_reason *reason)
{
	stub->running = false;
	stub->current = stub->last_vcpu = vcpu;
	stub->last = *reason;
	stub->reported[vcpu] = reason->stop == STUB_STOP_BREAKPOINT;
	machine_notify(stub->machine, MACHINE_EVENT_STOPPED, NULL);
	reply_stop(stub);
}

void stub_stopped(struct stub *stub, uint64_t mask)
{
	int first = -1;

	for (unsigned i = 0; i < cpu_count(stub); i++) {
		machine_freeze(stub->machine, i, false);
		if (!(mask >> i & 1))
			continue;
		stub->reason[i] = reason_of(stub, i);
		/* One at a breakpoint meets it again; what else has happened is kept. */
		stub->pending[i] = stub->reason[i].stop != STUB_STOP_BREAKPOINT;
		if (first < 0 || stub->reason[i].stop == STUB_STOP_STEP)
			first = (int)i;
	}
	if (!stub->attached) {
		memset(stub->pending, 0, sizeof(stub->pending));
		machine_resume(stub->machine);
		return;
	}
	if (!stub->running || first < 0)
		return; /* told already: a vCPU came late */
	stub->pending[first] = false;
	report(stub, (unsigned)first, &stub->reason[first]);
}

void stub_exited(struct stub *stub, int status)
{
	char text[8];

	if (!stub->attached)
		return;
	snprintf(text, sizeof(text), "W%02x", (unsigned)status & 0xff);
	if (stub->running)
		reply(stub, text);
	stub->closing = true;
}

/* ---- breakpoints and running ---- */

/* What a vCPU is to stop for. */
static void fill_wish(const struct stub *stub, unsigned vcpu, struct engine_debug *wish)
{
	*wish = (struct engine_debug){.levels = stub->levels, .pass = stub->reported[vcpu]};
	for (unsigned i = 0; i < stub->point_count; i++) {
		static const uint8_t access[] = {ENGINE_POINT_EXECUTE, ENGINE_POINT_EXECUTE,
		                                 ENGINE_POINT_WRITE, ENGINE_POINT_READ,
		                                 ENGINE_POINT_WRITE | ENGINE_POINT_READ};
		const struct stub_point *point = &stub->point[i];

		wish->point[wish->count++] =
		    (struct engine_debug_point){.gla = point->address, .size = point->size, .access = access[point->type]};
	}
}

static int set_debug(struct stub *stub, unsigned vcpu, bool step, bool halt)
{
	struct engine_debug wish;

	fill_wish(stub, vcpu, &wish);
	wish.step = step;
	wish.halt = halt;
	return stub->machine->engine->vcpu_set_debug(engine_vcpu(stub, vcpu), &wish);
}

static int apply_points(struct stub *stub)
{
	int result = 0;

	for (unsigned i = 0; i < cpu_count(stub) && !result; i++)
		result = set_debug(stub, i, false, false);
	return result;
}

enum action { ACTION_NONE, ACTION_GO, ACTION_STEP };

static void run(struct stub *stub, const enum action *action)
{
	for (unsigned i = 0; i < cpu_count(stub); i++) {
		if (!stub->pending[i])
			continue;
		stub->pending[i] = false;
		report(stub, i, &stub->reason[i]);
		return;
	}
	for (unsigned i = 0; i < cpu_count(stub); i++) {
		set_debug(stub, i, action[i] == ACTION_STEP, false);
		machine_freeze(stub->machine, i, action[i] == ACTION_NONE);
		if (action[i] != ACTION_NONE)
			stub->reported[i] = false;
	}
	stub->running = true;
	machine_notify(stub->machine, MACHINE_EVENT_RESUMED, NULL);
	machine_resume(stub->machine);
}

static bool at_wanted_level(struct stub *stub, unsigned vcpu)
{
	struct vcpu_state state;

	memset(&state, 0, sizeof(state));
	if (stub->levels == ENGINE_LEVEL_ANY || machine_get_state(stub->machine, vcpu, &state))
		return true;
	return stub->levels & (state.level ? ENGINE_LEVEL_NONROOT : ENGINE_LEVEL_ROOT);
}

void stub_interrupt(struct stub *stub)
{
	const struct stub_reason interrupted = {.stop = STUB_STOP_SIGNAL, .signal = SIGNAL_INT};

	if (!stub->attached || !stub->running || machine_pause(stub->machine))
		return;
	for (unsigned i = 0; i < cpu_count(stub); i++) {
		unsigned vcpu = (stub->current + i) % cpu_count(stub);

		if (!at_wanted_level(stub, vcpu))
			continue;
		for (unsigned k = 0; k < cpu_count(stub); k++)
			machine_freeze(stub->machine, k, false);
		report(stub, vcpu, &interrupted);
		return;
	}
	/* Whoever comes to the level first stops. */
	for (unsigned i = 0; i < cpu_count(stub); i++)
		set_debug(stub, i, false, true);
	machine_resume(stub->machine);
}

int stub_attach(struct stub *stub, bool already_paused)
{
	if (!already_paused && machine_pause(stub->machine))
		return -EBUSY;
	stub->attached = true;
	stub->running = stub->closing = stub->no_ack = stub->physical = false;
	stub->levels = ENGINE_LEVEL_ANY;
	stub->current = stub->last_vcpu = 0;
	stub->point_count = 0;
	stub->last = (struct stub_reason){.stop = STUB_STOP_SIGNAL, .signal = SIGNAL_TRAP};
	memset(stub->reported, 0, sizeof(stub->reported));
	memset(stub->pending, 0, sizeof(stub->pending));
	apply_points(stub);
	machine_notify(stub->machine, MACHINE_EVENT_STOPPED, NULL);
	return 0;
}

void stub_detach(struct stub *stub)
{
	if (!stub->attached)
		return;
	stub->attached = false;
	if (stub->running && machine_pause(stub->machine))
		return; /* it ends */
	stub->running = false;
	for (unsigned i = 0; i < cpu_count(stub); i++) {
		stub->machine->engine->vcpu_set_debug(engine_vcpu(stub, i), NULL);
		machine_freeze(stub->machine, i, false);
	}
	machine_notify(stub->machine, MACHINE_EVENT_RESUMED, NULL);
	machine_resume(stub->machine);
}

/* Z and z: TYPE,ADDRESS,KIND. KIND is a length for watchpoints. */
static void change_point(struct stub *stub, const char *text, bool insert)
{
	uint64_t type, address, size;
	unsigned found = 0;
	int result;

	if (!packet_number(&text, &type) || *text++ != ',' || !packet_number(&text, &address) ||
	    *text++ != ',' || !packet_number(&text, &size) ||
	    (type >= 2 && (size == 0 || size > PAGE_SIZE || address + size < address))) {
		reply_error(stub, EINVAL);
		return;
	}
	if (type > 4) {
		reply(stub, "");
		return;
	}
	while (found < stub->point_count &&
	       (stub->point[found].type != type || stub->point[found].address != address ||
	        stub->point[found].size != size))
		found++;
	if (insert && found == stub->point_count) {
		if (stub->point_count == ENGINE_DEBUG_POINTS) {
			reply_error(stub, ENOSPC);
			return;
		}
		stub->point[stub->point_count++] = (struct stub_point){address, (uint32_t)size, (uint8_t)type};
	} else if (!insert && found < stub->point_count) {
		stub->point[found] = stub->point[--stub->point_count];
	}
	result = apply_points(stub);
	if (result && insert && stub->point_count)
		stub->point_count--; /* the engine has no room for it */
	reply_status(stub, result);
}

/* A thread ID: 1 … for vCPU 0 …; 0: any, -1: all. False where there is no such vCPU. */
static bool thread_of(const struct stub *stub, const char **text, int *vcpu)
{
	uint64_t number;

	if (!strncmp(*text, "-1", 2)) {
		*text += 2;
		*vcpu = -1;
		return true;
	}
	if (!packet_number(text, &number) || number > cpu_count(stub))
		return false;
	*vcpu = number ? (int)number - 1 : (int)stub->current;
	return true;
}

/* vCont;ACTION[:THREAD]…: the leftmost action that names a thread counts. */
static void resume_threads(struct stub *stub, const char *text)
{
	enum action action[PLATFORM_CPUS_MAX] = {ACTION_NONE};

	while (*text == ';') {
		enum action wanted;
		int vcpu = -1;
		uint64_t signal;

		text++;
		wanted = *text == 's' || *text == 'S' ? ACTION_STEP : ACTION_GO;
		if (!*text || !strchr("csCS", *text)) {
			reply_error(stub, EINVAL);
			return;
		}
		if (*text == 'C' || *text == 'S') { /* a guest takes no signals */
			text++;
			if (!packet_number(&text, &signal)) {
				reply_error(stub, EINVAL);
				return;
			}
		} else {
			text++;
		}
		if (*text == ':') {
			text++;
			if (!thread_of(stub, &text, &vcpu)) {
				reply_error(stub, EINVAL);
				return;
			}
		}
		for (unsigned i = 0; i < cpu_count(stub); i++)
			if ((vcpu < 0 || i == (unsigned)vcpu) && action[i] == ACTION_NONE)
				action[i] = wanted;
	}
	run(stub, action);
}

/* c and s, of an old GDB: the current vCPU steps, all others run. */
static void resume_all(struct stub *stub, bool step)
{
	enum action action[PLATFORM_CPUS_MAX];

	for (unsigned i = 0; i < PLATFORM_CPUS_MAX; i++)
		action[i] = ACTION_GO;
	if (step)
		action[stub->current] = ACTION_STEP;
	run(stub, action);
}

/* ---- registers ---- */

static int get_state(struct stub *stub, struct vcpu_state *state)
{
	memset(state, 0, sizeof(*state));
	return machine_get_state(stub->machine, stub->current, state);
}

static void read_all_registers(struct stub *stub)
{
	struct vcpu_state state;
	uint8_t value[REGISTER_SIZE_MAX];
	char *out = stub->answer;

	if (get_state(stub, &state)) {
		reply_error(stub, EIO);
		return;
	}
	for (unsigned i = 0, size; (size = registers_size(&stub->registers, i)); i++) {
		registers_get(&stub->registers, i, &state, value);
		packet_to_hex(value, size, out);
		out += 2 * size;
	}
	reply(stub, stub->answer);
}

static void write_all_registers(struct stub *stub, const char *text)
{
	struct vcpu_state state;
	uint8_t value[REGISTER_SIZE_MAX];
	int result = get_state(stub, &state);

	for (unsigned i = 0, size; !result && (size = registers_size(&stub->registers, i)); i++) {
		if (!packet_from_hex(text, value, size)) {
			result = -EINVAL;
			break;
		}
		registers_set(&stub->registers, i, &state, value);
		text += 2 * size;
	}
	if (!result)
		result = machine_set_registers(stub->machine, stub->current, &state);
	reply_status(stub, result);
}

static void read_register(struct stub *stub, const char *text)
{
	struct vcpu_state state;
	uint8_t value[REGISTER_SIZE_MAX];
	uint64_t number;
	unsigned size;

	if (!packet_number(&text, &number) || number > UINT16_MAX ||
	    !(size = registers_size(&stub->registers, (unsigned)number)) || get_state(stub, &state)) {
		reply_error(stub, EINVAL);
		return;
	}
	registers_get(&stub->registers, (unsigned)number, &state, value);
	packet_to_hex(value, size, stub->answer);
	reply(stub, stub->answer);
}

static void write_register(struct stub *stub, const char *text)
{
	struct vcpu_state state;
	uint8_t value[REGISTER_SIZE_MAX];
	uint64_t number;
	unsigned size;

	if (!packet_number(&text, &number) || *text++ != '=' || number > UINT16_MAX ||
	    !(size = registers_size(&stub->registers, (unsigned)number)) ||
	    !packet_from_hex(text, value, size) || get_state(stub, &state)) {
		reply_error(stub, EINVAL);
		return;
	}
	registers_set(&stub->registers, (unsigned)number, &state, value);
	/* GDB has moved it: it did not arrive at a breakpoint there. */
	stub->reported[stub->current] = false;
	reply_status(stub, machine_set_registers(stub->machine, stub->current, &state));
}

/* ---- memory ---- */

static int peek(struct stub *stub, uint64_t address, void *data, size_t size)
{
	return stub->physical ? machine_peek_physical(stub->machine, address, data, size)
	                      : machine_peek(stub->machine, stub->current, address, data, size);
}

static int poke(struct stub *stub, uint64_t address, const void *data, size_t size)
{
	return stub->physical ? machine_poke_physical(stub->machine, address, data, size)
	                      : machine_poke(stub->machine, stub->current, address, data, size);
}

static bool range_of(const char **text, uint64_t *address, uint64_t *size)
{
	if (!packet_number(text, address) || *(*text)++ != ',' || !packet_number(text, size))
		return false;
	if (*size > MEMORY_MAX)
		*size = MEMORY_MAX;
	return true;
}

/* As much as there is from the address on. */
static void read_memory(struct stub *stub, const char *text)
{
	uint64_t address, size, first;
	uint8_t data[MEMORY_MAX];

	if (!range_of(&text, &address, &size)) {
		reply_error(stub, EINVAL);
		return;
	}
	first = PAGE_SIZE - (address & (PAGE_SIZE - 1));
	if (peek(stub, address, data, size)) {
		if (first >= size || peek(stub, address, data, first)) {
			reply_error(stub, EFAULT);
			return;
		}
		size = first;
	}
	packet_to_hex(data, size, stub->answer);
	reply(stub, stub->answer);
}

static void write_memory(struct stub *stub, const char *text, const char *end, bool binary)
{
	uint64_t address, size;
	uint8_t data[MEMORY_MAX];

	if (!range_of(&text, &address, &size) || *text++ != ':' ||
	    (binary ? (size_t)(end - text) != size : !packet_from_hex(text, data, size))) {
		reply_error(stub, EINVAL);
		return;
	}
	reply_status(stub, size ? poke(stub, address, binary ? (const void *)text : data, size) : 0);
}

/* ---- queries ---- */

/* qXfer:features:read:target.xml:OFFSET,LENGTH */
static void read_features(struct stub *stub, const char *text)
{
	const struct registers *registers = &stub->registers;
	uint64_t offset, length;

	if (strncmp(text, "target.xml:", 11) != 0) {
		reply_error(stub, ENOENT);
		return;
	}
	text += 11;
	if (!packet_number(&text, &offset) || *text++ != ',' || !packet_number(&text, &length) ||
	    offset > registers->xml_size) {
		reply_error(stub, EINVAL);
		return;
	}
	if (length > PACKET_MAX / 2)
		length = PACKET_MAX / 2;
	if (length > registers->xml_size - offset)
		length = registers->xml_size - offset;
	stub->answer[0] = offset + length == registers->xml_size ? 'l' : 'm';
	memcpy(stub->answer + 1, registers->xml + offset, length);
	stub->send(stub->context, stub->answer, length + 1);
}

static void list_threads(struct stub *stub)
{
	int length = snprintf(stub->answer, sizeof(stub->answer), "m");

	for (unsigned i = 0; i < cpu_count(stub); i++)
		length += snprintf(stub->answer + length, sizeof(stub->answer) - (size_t)length, "%s%x",
		                   i ? "," : "", i + 1);
	reply(stub, stub->answer);
}

static void describe_thread(struct stub *stub, const char *text)
{
	struct vcpu_state state;
	char line[64];
	int vcpu;

	memset(&state, 0, sizeof(state));
	if (!thread_of(stub, &text, &vcpu) || vcpu < 0 ||
	    machine_get_state(stub->machine, (unsigned)vcpu, &state)) {
		reply_error(stub, EINVAL);
		return;
	}
	snprintf(line, sizeof(line), "CPU %d, level %u", vcpu, state.level + 1u);
	packet_to_hex(line, strlen(line), stub->answer);
	reply(stub, stub->answer);
}

/* qRcmd,LINE in hexadecimal digits: `monitor LINE` */
static void execute_monitor(struct stub *stub, const char *text)
{
	char line[256] = "", out[PACKET_MAX / 2];
	size_t size = strlen(text) / 2;

	if (size >= sizeof(line) || !packet_from_hex(text, line, size)) {
		reply_error(stub, EINVAL);
		return;
	}
	stub_monitor(stub, line, out, sizeof(out));
	if (!*out) {
		reply(stub, "OK");
		return;
	}
	packet_to_hex(out, strlen(out), stub->answer);
	reply(stub, stub->answer);
}

static void query(struct stub *stub, const char *text)
{
	char line[160];

	if (!strncmp(text, "Supported", 9)) {
		snprintf(line, sizeof(line), "PacketSize=%x;qXfer:features:read+;QStartNoAckMode+;vContSupported+;swbreak+;hwbreak+",
		         PACKET_MAX);
		reply(stub, line);
	} else if (!strncmp(text, "Xfer:features:read:", 19)) {
		read_features(stub, text + 19);
	} else if (!strcmp(text, "fThreadInfo")) {
		list_threads(stub);
	} else if (!strcmp(text, "sThreadInfo")) {
		reply(stub, "l");
	} else if (!strncmp(text, "ThreadExtraInfo,", 16)) {
		describe_thread(stub, text + 16);
	} else if (!strcmp(text, "C")) {
		snprintf(line, sizeof(line), "QC%x", stub->current + 1);
		reply(stub, line);
	} else if (!strncmp(text, "Attached", 8)) {
		reply(stub, "1");
	} else if (!strncmp(text, "Rcmd,", 5)) {
		execute_monitor(stub, text + 5);
	} else {
		reply(stub, "");
	}
}

/* ---- all packets ---- */

static void select_thread(struct stub *stub, const char *text)
{
	char operation = *text;
	int vcpu;

	if (!operation || (text++, !thread_of(stub, &text, &vcpu))) {
		reply_error(stub, EINVAL);
		return;
	}
	if (operation == 'g' && vcpu >= 0)
		stub->current = (unsigned)vcpu;
	reply(stub, "OK");
}

static void verbose(struct stub *stub, const char *text)
{
	if (!strcmp(text, "Cont?")) {
		reply(stub, "vCont;c;C;s;S");
	} else if (!strncmp(text, "Cont", 4)) {
		resume_threads(stub, text + 4);
	} else if (!strncmp(text, "Kill", 4)) {
		reply(stub, "OK");
		machine_stop_because(stub->machine, 0, STOP_HOST_UI);
	} else {
		reply(stub, "");
	}
}

void stub_packet(struct stub *stub, const char *data, size_t size)
{
	int vcpu;

	if (stub->running) {
		reply_error(stub, EBUSY);
		return;
	}
	switch (*data) {
	case '?':
		reply_stop(stub);
		break;
	case 'g':
		read_all_registers(stub);
		break;
	case 'G':
		write_all_registers(stub, data + 1);
		break;
	case 'p':
		read_register(stub, data + 1);
		break;
	case 'P':
		write_register(stub, data + 1);
		break;
	case 'm':
		read_memory(stub, data + 1);
		break;
	case 'M':
	case 'X':
		write_memory(stub, data + 1, data + size, *data == 'X');
		break;
	case 'c':
	case 's':
		resume_all(stub, *data == 's');
		break;
	case 'Z':
	case 'z':
		change_point(stub, data + 1, *data == 'Z');
		break;
	case 'H':
		select_thread(stub, data + 1);
		break;
	case 'T':
		data++;
		reply_status(stub, thread_of(stub, &data, &vcpu) ? 0 : -ESRCH);
		break;
	case 'q':
		query(stub, data + 1);
		break;
	case 'Q':
		if (!strcmp(data, "QStartNoAckMode")) {
			stub->no_ack = true;
			reply(stub, "OK");
		} else {
			reply(stub, "");
		}
		break;
	case 'v':
		verbose(stub, data + 1);
		break;
	case 'D':
		reply(stub, "OK");
		stub_detach(stub);
		stub->closing = true;
		break;
	case 'k':
		if (size > 1) {
			reply(stub, "");
			break;
		}
		machine_stop_because(stub->machine, 0, STOP_HOST_UI);
		stub->closing = true;
		break;
	default:
		reply(stub, "");
		break;
	}
}

void stub_init(struct stub *stub, struct machine *machine, enum registers_kind kind,
               void (*send)(void *context, const char *data, size_t size), void *context)
{
	memset(stub, 0, sizeof(*stub));
	stub->machine = machine;
	stub->send = send;
	stub->context = context;
	stub->levels = ENGINE_LEVEL_ANY;
	registers_init(&stub->registers, cpu_model_has(&machine->cpu_model, 1, 0, 2, 28), kind);
}

/* Commands that ask. */
#include <inttypes.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "control/command.h"
#include "device/disk/cdrom.h"
#include "machine/machine.h"

static json_t *query_status(struct control_state *state, json_t *arguments, struct command_error *error)
{
	const char *status = control_status(state);

	return json_pack("{s:b,s:b,s:s}", "running",
	                 !strcmp(status, "running") || !strcmp(status, "guest-panicked"), "singlestep", 0,
	                 "status", status);
}

static json_t *query_name(struct control_state *state, json_t *arguments, struct command_error *error)
{
	return json_pack("{s:s}", "name", state->name);
}

static json_t *query_kvm(struct control_state *state, json_t *arguments, struct command_error *error)
{
	return json_pack("{s:b,s:b}", "enabled", !strcmp(state->machine->engine->name, "kvm"), "present",
	                 access("/dev/kvm", F_OK) == 0);
}

static json_t *query_target(struct control_state *state, json_t *arguments, struct command_error *error)
{
	return json_pack("{s:s}", "arch", "x86_64");
}

static json_t *query_cpus_fast(struct control_state *state, json_t *arguments, struct command_error *error)
{
	struct machine *machine = state->machine;
	json_t *list = json_array();
	char path[64];

	for (unsigned i = 0; i < machine->config.cpu_count; i++) {
		snprintf(path, sizeof(path), "/machine/unattached/device[%u]", i);
		json_array_append_new(
		    list, json_pack("{s:i,s:s,s:i,s:s,s:{s:i,s:i,s:i}}", "cpu-index", (int)i, "qom-path", path, "thread-id",
		                    (int)atomic_load(&machine->vcpu[i].thread_id), "target", "x86_64", "props", "socket-id",
		                    0, "core-id", (int)i, "thread-id", 0));
	}
	return list;
}

static json_t *query_memory(struct control_state *state, json_t *arguments, struct command_error *error)
{
	return json_pack("{s:I,s:I}", "base-memory", (json_int_t)state->machine->config.memory_size,
	                 "plugged-memory", (json_int_t)0);
}

/* A disk as QMP's BlockInfo, as far as it is known. NULL: the file's name is no UTF-8. */
static json_t *block_info(struct machine *machine, unsigned index)
{
	const struct disk_config *disk = &machine->config.disk[index];
	struct cdrom_status cd = {.file = disk->file, .format = disk->format};
	bool is_cd = cdrom_status(machine, index, &cd);
	char name[32];
	json_t *row;

	snprintf(name, sizeof(name), "disk%u", index);
	row = json_pack("{s:s,s:s,s:b,s:b,s:s}", "device", name, "qdev",
	                disk->interface == DISK_AHCI ? "ahci" : "virtio-blk", "removable", is_cd, "locked",
	                cd.locked, "type", "unknown");
	if (row && is_cd)
		json_object_set_new(row, "tray_open", json_boolean(cd.open));
	if (row && cd.file &&
	    json_object_set_new(row, "inserted",
	                        json_pack("{s:s,s:b,s:s,s:b}", "file", cd.file, "ro", disk->read_only, "drv",
	                                  cd.format ? cd.format : "auto", "encrypted", 0))) {
		json_decref(row);
		return NULL;
	}
	return row;
}

static json_t *query_block(struct control_state *state, json_t *arguments, struct command_error *error)
{
	const struct machine_config *config = &state->machine->config;
	json_t *list = json_array();

	for (unsigned i = 0; i < config->disk_count; i++) {
		json_t *row = block_info(state->machine, i);

		if (!row) { /* a file's name that is no UTF-8 */
			json_decref(list);
			return command_fail(error, "the name of disk %u is not UTF-8", i);
		}
		json_array_append_new(list, row);
	}
	return list;
}

/* What `nestor ps` shows of a machine, in one answer. */
static json_t *query_nestor(struct control_state *state, json_t *arguments, struct command_error *error)
{
	const struct machine_config *config = &state->machine->config;
	struct timespec now;
	uint64_t ns;

	clock_gettime(CLOCK_MONOTONIC, &now);
	ns = (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
	return json_pack("{s:s,s:i,s:s,s:i,s:I,s:s,s:I,s:s}", "name", state->name, "pid", (int)getpid(), "status",
	                 control_status(state), "cpus", (int)config->cpu_count, "memory", (json_int_t)config->memory_size,
	                 "engine", state->machine->engine->name, "uptime",
	                 (json_int_t)(state->started_ns ? (ns - state->started_ns) / 1000000000u : 0), "version",
	                 NESTOR_VERSION);
}

const struct control_command commands_query[] = {
    {"query-status", "", query_status},
    {"query-name", "", query_name},
    {"query-kvm", "", query_kvm},
    {"query-target", "", query_target},
    {"query-cpus-fast", "", query_cpus_fast},
    {"query-memory-size-summary", "", query_memory},
    {"query-block", "", query_block},
    {"query-nestor", "", query_nestor},
    {NULL, NULL, NULL},
};

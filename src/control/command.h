/* The commands of the control socket. All run in the control thread, with no lock held. */
#ifndef NESTOR_CONTROL_COMMAND_H
#define NESTOR_CONTROL_COMMAND_H

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

struct machine;

/* What commands know of the machine beside itself. Belongs to the control thread. */
struct control_state {
	struct machine *machine;
	const char *name;
	uint64_t started_ns; /* CLOCK_MONOTONIC, 0: the guest does not run yet */
	bool held;           /* stopped by a client: one machine_pause is ours */
	bool suspended, panicked, shut_down;
};

struct command_error {
	const char *class; /* QMP's: "GenericError", "CommandNotFound", … */
	char text[320];
};

struct control_command {
	const char *name;
	/* "name:type" separated by blanks; type: s, i, b, o (object), a (array), with a ? where it may be left out. */
	const char *arguments;
	/* Returns the value of "return" (owned by the caller), or NULL with *error filled. arguments: an object. */
	json_t *(*run)(struct control_state *state, json_t *arguments, struct command_error *error);
};

/* Fills *error with class GenericError; returns NULL, so that a command can end with it. */
json_t *command_fail(struct command_error *error, const char *format, ...)
    __attribute__((format(printf, 2, 3)));

/* Arguments that are optional. */
int64_t command_integer(json_t *arguments, const char *name, int64_t otherwise);
bool command_boolean(json_t *arguments, const char *name, bool otherwise);
const char *command_string(json_t *arguments, const char *name);

extern const struct control_command commands_run[], commands_query[], commands_input[], commands_media[],
    commands_debug[];

/*
 * Executes what a client sent (text: JSON, length bytes) and returns the whole answer, owned by the caller, or NULL
 * where memory is short. *negotiated: whether the client has left capabilities negotiation; set here.
 */
json_t *command_execute(struct control_state *state, const char *text, size_t length, bool *negotiated);

/* The greeting that a client finds. */
json_t *command_greeting(void);

/* ---- run.c ---- */
/* Stop and continue the vCPUs on behalf of clients. Return 0 or a negative errno with error_text(). */
int control_hold(struct control_state *state);
void control_unhold(struct control_state *state);
/* QMP's RunState in words. */
const char *control_status(const struct control_state *state);

/* ---- monitor.c: commands for people, a line of text in, lines of text out ---- */
/* Returns 0, or a negative errno with error_text(). What is said goes to out. */
int monitor_execute(struct control_state *state, unsigned cpu, const char *line, FILE *out);

/* ---- info.c ---- */
/* Prints a topic of `info`. Returns 0, or a negative errno with error_text(). */
int info_print(struct control_state *state, const char *topic, unsigned cpu, FILE *out);
/* Lists the topics, one line each. */
void info_list(FILE *out);

#endif

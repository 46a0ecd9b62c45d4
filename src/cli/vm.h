/* What the commands on running machines have in common. */
#ifndef NESTOR_CLI_VM_H
#define NESTOR_CLI_VM_H

#include <jansson.h>
#include <stdbool.h>

#include "cli/cli.h"

struct control_client;

#define VM_WORDS_MAX 64

/* The words of a command line, taken apart. */
struct vm_arguments {
	const char *word[VM_WORDS_MAX]; /* what is no option */
	unsigned count;
	struct {
		const char *name;  /* "--timeout" */
		bool takes_value;
		const char *value; /* out: NULL where not given; "" for one without a value */
	} option[5];               /* in: up to a name of NULL */
};

/*
 * Takes argv apart. usage: "NAME FILE.png", for messages; low … high: how many words. Returns -1 to go on, or the exit
 * status: --help was given and printed, or a message.
 */
int vm_parse(struct vm_arguments *arguments, const char *command, const char *help, int argc, char **argv,
             const char *usage, unsigned low, unsigned high);

/* A whole number of an option within [low, high]. Returns -1, or the exit status after a message. */
int vm_number(const char *command, const char *option, const char *text, long low, long high, long *value);

/*
 * A file that the machine is to open, which may have another working folder: its whole path; a URI as it is. Returns -1,
 * or the exit status after a message.
 */
int vm_path(const char *command, const char *file, char *path, size_t size);

/* Connects. Returns NULL after a message (status STATUS_USAGE). timeout_ms: of each answer. */
struct control_client *vm_connect(const char *command, const char *name, int timeout_ms);

/* "nestor COMMAND: NAME: reason" on standard error; returns STATUS_REFUSED. reason: error_text(). */
int vm_refused(const char *command, const char *name);

/* Connects, executes and forgets the result; returns the exit status, after a message where it is not 0. arguments:
 * taken over. */
int vm_execute(const char *command, const char *name, const char *execute, json_t *arguments);

/* A whole command that takes names of machines only and executes one QMP command on each. */
int vm_simple(const char *command, const char *help, int argc, char **argv, const char *execute);

/* Executes a line of the monitor and prints what it says. Returns the exit status, after a message where it is not 0. */
int vm_monitor(const char *command, const char *name, const char *line, long cpu);

#endif

/* The commands of `nestor`. Each gets the words after its name (argv[0] is the name) and returns the exit status. */
#ifndef NESTOR_CLI_CLI_H
#define NESTOR_CLI_CLI_H

#include <stdbool.h>
#include <stdio.h>

struct host_facts;

/* Exit statuses that are Nestor's own; a guest may choose others (isa-debug-exit). */
enum {
	STATUS_OK = 0,    /* a clean guest shutdown */
	STATUS_REFUSED = 1, /* a running machine did not do what a command asked; one line says why */
	STATUS_USAGE = 2, /* bad input: one line on standard error says which */
};

struct command {
	const char *name;
	const char *summary; /* one line for the list of commands */
	const char *help;    /* the text of `nestor NAME --help`, examples included */
	int (*run)(int argc, char **argv);
};

/* All commands, in the order of the help; the last has no name. */
extern const struct command commands[];

int command_run(int argc, char **argv);
int command_check(int argc, char **argv);
int command_cpu_models(int argc, char **argv);
int command_ps(int argc, char **argv);
int command_stop(int argc, char **argv);
int command_reset(int argc, char **argv);
int command_pause(int argc, char **argv);
int command_resume(int argc, char **argv);
int command_wakeup(int argc, char **argv);
int command_console(int argc, char **argv);
int command_screenshot(int argc, char **argv);
int command_send_key(int argc, char **argv);
int command_eject(int argc, char **argv);
int command_insert(int argc, char **argv);
int command_info(int argc, char **argv);
int command_monitor(int argc, char **argv);
int command_qmp(int argc, char **argv);
int command_nmi(int argc, char **argv);

extern const char help_run[], help_check[], help_cpu_models[], help_ps[], help_stop[], help_reset[],
    help_pause[], help_resume[], help_wakeup[], help_console[], help_screenshot[], help_send_key[],
    help_eject[], help_insert[], help_info[], help_monitor[], help_qmp[], help_nmi[];

/* nestor --help. Returns a negative number where it cannot be written. */
int print_main_help(FILE *out);

/* Prints "nestor COMMAND: message" on standard error and returns STATUS_USAGE. command may be NULL. */
int usage_error(const char *command, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* What `nestor check` found out besides the host's facts. */
struct check_result {
	bool kvm_usable;          /* a trial VM ran */
	const char *kvm_problem;  /* why not, one line, where it was tried */
	bool soft_usable;
	const char *soft_problem;
};

/* Prints the whole report of `nestor check`. Pure: everything comes from the arguments. */
void check_report(FILE *out, const struct host_facts *facts, const struct check_result *result);

#endif

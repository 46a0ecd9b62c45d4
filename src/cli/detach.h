/* nestor run --detach: into the background once the guest runs. */
#ifndef NESTOR_CLI_DETACH_H
#define NESTOR_CLI_DETACH_H

struct machine;

struct detach {
	int ready_fd; /* tells the foreground process that the guest runs */
	char log_path[108];
};

/*
 * Forks. In the foreground process it does not return: it waits until the machine runs or has failed, prints the name,
 * and exits with 0 or the status of the failure. Returns in the background process, whose standard streams stay the
 * user's until the machine runs. name: borrowed. Returns 0, or a negative errno with error_text() in the foreground.
 */
int detach_fork(struct detach *detach, const char *name, const char *log_path);

/* From now on the start of the machine lets the foreground process go. Returns 0 or a negative errno. */
int detach_watch(struct detach *detach, struct machine *machine);

#endif

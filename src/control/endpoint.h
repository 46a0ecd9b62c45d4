/*
 * Where running machines are found: a folder of the user's own with, for a machine NAME, NAME.lock (held while it
 * runs; contains its process ID), NAME.sock (the control socket), NAME.serial0 … (consoles) and NAME.log (what a
 * detached one says).
 */
#ifndef NESTOR_CONTROL_ENDPOINT_H
#define NESTOR_CONTROL_ENDPOINT_H

#include <stdbool.h>
#include <stddef.h>

#define ENDPOINT_NAME_MAX 48
#define ENDPOINT_PATH_MAX 108 /* as struct sockaddr_un has it */

struct endpoint {
	char name[ENDPOINT_NAME_MAX + 1];
	int lock_fd;
};

/* Letters, digits, '-', '_', '.', not beginning with '.' or '-'. Returns 0 or -EINVAL with error_text(). */
int endpoint_check_name(const char *name);

/*
 * The path of machine `name`'s file with this suffix (".sock"), in a buffer of ENDPOINT_PATH_MAX bytes. Makes the
 * folder. Returns 0, or a negative errno with error_text(): the folder is not ours, the path too long.
 */
int endpoint_path(const char *name, const char *suffix, char *path);

/*
 * Takes the name for this process and removes the files that a dead owner left. Returns 0, or a negative errno with
 * error_text(); -EEXIST where a live machine has it. The lock is kept over fork().
 */
int endpoint_claim(struct endpoint *endpoint, const char *name);
/* After fork(): the present process is the owner. */
void endpoint_set_owner(struct endpoint *endpoint);
/* Removes the machine's files (its log only where it is empty) and gives the name back. */
void endpoint_release(struct endpoint *endpoint);

/*
 * Calls found(context, name, pid) for every live machine, sorted by name, and removes what dead ones left.
 * Returns how many, or a negative errno with error_text(). found may be NULL.
 */
int endpoint_list(void (*found)(void *context, const char *name, int pid), void *context);

/* The process ID of a live machine of that name, or 0. */
int endpoint_owner(const char *name);

/* Connects to NAME<suffix>. Returns a blocking socket, or a negative errno with error_text(). */
int endpoint_connect(const char *name, const char *suffix);

/* Listens on NAME<suffix>; returns a non-blocking socket, or a negative errno with error_text(). */
int endpoint_listen(const char *name, const char *suffix);

#endif

/*
 * A folder of the host that may be changed without changing it: the host's overlayfs over a temporary folder,
 * in a mount namespace (for ordinary users also a user namespace) that nobody else sees.
 */
#ifndef NESTOR_SHARE_CHANGES_H
#define NESTOR_SHARE_CHANGES_H

struct changes {
	int fd;        /* O_PATH, the folder as it may be changed */
	char *scratch; /* where the changes are */
};

/* Returns 0, or a negative errno with error_text(). */
int changes_open(struct changes *changes, const char *directory);
/* Closes what changes_open made, and removes the changes. */
void changes_close(struct changes *changes);

#endif

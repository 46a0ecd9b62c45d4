/*
 * A folder of the host as a tree of nodes that a guest may walk. Nothing outside the folder can be reached:
 * every step opens one name, which is no path, below a folder that is held open, and follows no symbolic
 * link.
 *
 * A node is a file or folder that the guest knows; it keeps a descriptor (O_PATH) as long as there is room
 * for one, and finds its file again by the names from the root when it needs it. Used by one thread at a
 * time.
 */
#ifndef NESTOR_SHARE_HOST_TREE_H
#define NESTOR_SHARE_HOST_TREE_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/stat.h>

struct tree;

struct node {
	struct node *parent; /* held; NULL: the root, or detached */
	char *name;          /* in its parent */
	dev_t device;        /* what it was when it was found */
	ino_t inode;
	mode_t type; /* S_IFMT's bits */
	/* ---- host_tree.c's ---- */
	unsigned references;
	bool detached; /* its name is gone; what is open stays usable */
	int fd;        /* O_PATH, or -1 */
	struct node *next_in_table;
	struct node *newer, *older; /* in order of use, where fd is one that may be closed */
};

/*
 * The tree of a folder. fd: O_PATH, taken over also where it fails. descriptors: how many to keep open, at
 * least 16. Returns 0, or a negative errno with error_text().
 */
int tree_create(struct tree **tree, int fd, unsigned descriptors);
/* All nodes must have been released. NULL does nothing. */
void tree_destroy(struct tree *tree);

/* Held for the caller. */
struct node *tree_root(struct tree *tree);
void node_hold(struct node *node);
void node_release(struct tree *tree, struct node *node);

/*
 * The node's descriptor (O_PATH), which stays open during the next few calls at least; or -ESTALE where the
 * host has another file there now, or another negative errno.
 */
int node_fd(struct tree *tree, struct node *node);

/* As node_fd, and "/proc/self/fd/N" for calls that take no O_PATH descriptor. */
int node_path(struct tree *tree, struct node *node, char path[32]);

/* What the file is now. Returns 0 or a negative errno. */
int node_stat(struct tree *tree, struct node *node, struct stat *status);

/*
 * What is called `name` (which is no path, see tree_name_ok) in the folder `parent`, as it is now; held for
 * the caller. Returns 0, or a negative errno.
 */
int tree_lookup(struct tree *tree, struct node *parent, const char *name, struct node **node);

/* A name of one thing in a folder: not empty, no ".", no "..", no slash. */
bool tree_name_ok(const char *name);

/*
 * The host's name may go next, or mean another file: opens the node that is known by it, so that it stays
 * usable afterwards. Then, where it has happened: the name is gone; what it named has another name.
 */
void tree_prepare(struct tree *tree, struct node *parent, const char *name);
void tree_forget(struct tree *tree, struct node *parent, const char *name);
void tree_renamed(struct tree *tree, struct node *from, const char *name, struct node *to,
                  const char *new_name);

#endif

#include "share/host_tree.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "util/error.h"
#include "util/hash.h"

#define TABLE_SIZE 16384u
#define DEPTH_MAX  2048 /* names from the root; PATH_MAX has no room for more */

struct tree {
	struct node *root;
	struct node *newest, *oldest; /* nodes whose fd may be closed */
	unsigned open, open_max;
	unsigned kept, kept_max; /* detached nodes whose fd stays: nothing else leads to their files */
	struct node *table[TABLE_SIZE];
};

/* ---- the table of nodes by parent and name ---- */

static unsigned slot_of(const struct node *parent, const char *name)
{
	struct hash hash = {(uintptr_t)parent};

	hash_bytes(&hash, name, strlen(name));
	return (unsigned)(hash.value % TABLE_SIZE);
}

static struct node **find(struct tree *tree, const struct node *parent, const char *name)
{
	struct node **link = &tree->table[slot_of(parent, name)];

	while (*link && ((*link)->parent != parent || strcmp((*link)->name, name) != 0))
		link = &(*link)->next_in_table;
	return link;
}

static void insert(struct tree *tree, struct node *node)
{
	struct node **link = &tree->table[slot_of(node->parent, node->name)];

	node->next_in_table = *link;
	*link = node;
}

static void take_out(struct tree *tree, struct node *node)
{
	struct node **link = &tree->table[slot_of(node->parent, node->name)];

	while (*link != node)
		link = &(*link)->next_in_table;
	*link = node->next_in_table;
}

/* ---- descriptors ---- */

static void unlist(struct tree *tree, struct node *node)
{
	*(node->newer ? &node->newer->older : &tree->newest) = node->older;
	*(node->older ? &node->older->newer : &tree->oldest) = node->newer;
	node->newer = node->older = NULL;
	tree->open--;
}

static void list(struct tree *tree, struct node *node)
{
	node->newer = NULL;
	node->older = tree->newest;
	*(tree->newest ? &tree->newest->newer : &tree->oldest) = node;
	tree->newest = node;
	tree->open++;
}

static bool is_listed(const struct tree *tree, const struct node *node)
{
	return node->fd >= 0 && !node->detached && node != tree->root;
}

/* Gives the node a descriptor, which it owns from then on. */
static void set_fd(struct tree *tree, struct node *node, int fd)
{
	while (tree->open >= tree->open_max) {
		struct node *oldest = tree->oldest;

		unlist(tree, oldest);
		close(oldest->fd);
		oldest->fd = -1;
	}
	node->fd = fd;
	list(tree, node);
}

static void touch(struct tree *tree, struct node *node)
{
	if (is_listed(tree, node) && tree->newest != node) {
		unlist(tree, node);
		list(tree, node);
	}
}

static int open_name(int parent, const char *name, struct stat *status)
{
	int fd = openat(parent, name, O_PATH | O_NOFOLLOW | O_CLOEXEC);

	if (fd < 0)
		return -errno;
	if (fstat(fd, status)) {
		int error = errno;

		close(fd);
		return -error;
	}
	return fd;
}

static bool is_same(const struct node *node, const struct stat *status)
{
	return node->device == status->st_dev && node->inode == status->st_ino &&
	       node->type == (status->st_mode & S_IFMT);
}

/* Opens the node again below its parent, which has a descriptor. */
static int reopen(struct tree *tree, struct node *node)
{
	struct stat status;
	int fd = open_name(node->parent->fd, node->name, &status);

	if (fd < 0)
		return fd == -ENOENT ? -ESTALE : fd;
	if (!is_same(node, &status)) {
		close(fd);
		return -ESTALE;
	}
	touch(tree, node->parent);
	set_fd(tree, node, fd);
	return 0;
}

int node_fd(struct tree *tree, struct node *node)
{
	while (node->fd < 0) {
		struct node *first = node;
		unsigned depth = 0;
		int error;

		/* The nearest one to it whose parent is open; a step of it each time round. */
		while (!first->detached && first->parent->fd < 0 && depth++ < DEPTH_MAX)
			first = first->parent;
		if (first->detached)
			return -ESTALE;
		if (depth >= DEPTH_MAX)
			return -ENAMETOOLONG;
		error = reopen(tree, first);
		if (error)
			return error;
	}
	touch(tree, node);
	return node->fd;
}

int node_path(struct tree *tree, struct node *node, char path[32])
{
	int fd = node_fd(tree, node);

	if (fd < 0)
		return fd;
	snprintf(path, 32, "/proc/self/fd/%d", fd);
	return fd;
}

int node_stat(struct tree *tree, struct node *node, struct stat *status)
{
	int fd = node_fd(tree, node);

	if (fd < 0)
		return fd;
	return fstat(fd, status) ? -errno : 0;
}

/* ---- nodes ---- */

void node_hold(struct node *node)
{
	node->references++;
}

static void close_fd(struct tree *tree, struct node *node)
{
	if (node->fd < 0)
		return;
	if (is_listed(tree, node))
		unlist(tree, node);
	else if (node->detached)
		tree->kept--;
	close(node->fd);
	node->fd = -1;
}

void node_release(struct tree *tree, struct node *node)
{
	while (node && --node->references == 0) {
		struct node *parent = node->parent;

		close_fd(tree, node);
		if (parent)
			take_out(tree, node);
		if (node == tree->root)
			tree->root = NULL;
		free(node->name);
		free(node);
		node = parent;
	}
}

/* The node loses its name. Its descriptor is what is left of it, where it has one and not too many are kept.
 */
static void detach(struct tree *tree, struct node *node)
{
	struct node *parent = node->parent;

	take_out(tree, node);
	if (node->fd >= 0)
		unlist(tree, node);
	node->parent = NULL;
	node->detached = true;
	if (node->fd >= 0 && tree->kept < tree->kept_max) {
		tree->kept++;
	} else if (node->fd >= 0) {
		close(node->fd);
		node->fd = -1;
	}
	node_release(tree, parent);
}

void tree_prepare(struct tree *tree, struct node *parent, const char *name)
{
	struct node *node = *find(tree, parent, name);

	if (node)
		node_fd(tree, node);
}

void tree_forget(struct tree *tree, struct node *parent, const char *name)
{
	struct node *node = *find(tree, parent, name);

	if (node)
		detach(tree, node);
}

void tree_renamed(struct tree *tree, struct node *from, const char *name, struct node *to,
                  const char *new_name)
{
	struct node *node = *find(tree, from, name);
	char *copy;

	if (!node)
		return;
	copy = strdup(new_name);
	if (!copy) {
		detach(tree, node);
		return;
	}
	node_hold(to);
	take_out(tree, node);
	free(node->name);
	node->name = copy;
	node->parent = to;
	insert(tree, node);
	node_release(tree, from);
}

static struct node *make_node(struct node *parent, const char *name, const struct stat *status)
{
	struct node *node = calloc(1, sizeof(*node));

	if (!node)
		return NULL;
	node->name = strdup(name);
	if (!node->name) {
		free(node);
		return NULL;
	}
	node->parent = parent;
	node->device = status->st_dev;
	node->inode = status->st_ino;
	node->type = status->st_mode & S_IFMT;
	node->references = 1;
	node->fd = -1;
	return node;
}

bool tree_name_ok(const char *name)
{
	return *name && strcmp(name, ".") != 0 && strcmp(name, "..") != 0 && !strchr(name, '/');
}

int tree_lookup(struct tree *tree, struct node *parent, const char *name, struct node **result)
{
	int fd, parent_fd = node_fd(tree, parent);
	struct stat status;
	struct node *node;

	if (parent_fd < 0)
		return parent_fd;
	if (!tree_name_ok(name))
		return -EINVAL;
	fd = open_name(parent_fd, name, &status);
	if (fd < 0)
		return fd;
	node = *find(tree, parent, name);
	if (node && !is_same(node, &status)) {
		detach(tree, node); /* the host has put another file there */
		node = NULL;
	}
	if (node) {
		node_hold(node);
	} else {
		node = make_node(parent, name, &status);
		if (!node) {
			close(fd);
			return -ENOMEM;
		}
		node_hold(parent);
		insert(tree, node);
	}
	if (node->fd >= 0) {
		close(fd);
		touch(tree, node);
	} else {
		set_fd(tree, node, fd);
	}
	*result = node;
	return 0;
}

struct node *tree_root(struct tree *tree)
{
	node_hold(tree->root);
	return tree->root;
}

int tree_create(struct tree **result, int fd, unsigned descriptors)
{
	struct tree *tree = calloc(1, sizeof(*tree));
	struct stat status;

	if (tree && fstat(fd, &status) == 0)
		tree->root = make_node(NULL, "/", &status);
	if (!tree || !tree->root) {
		close(fd);
		free(tree);
		return error_set(ENOMEM, "out of memory");
	}
	tree->root->fd = fd;
	tree->open_max = descriptors < 16 ? 16 : descriptors;
	tree->kept_max = tree->open_max;
	*result = tree;
	return 0;
}

void tree_destroy(struct tree *tree)
{
	if (!tree)
		return;
	node_release(tree, tree->root);
	free(tree);
}

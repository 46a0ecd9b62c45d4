/* 9P's messages on names: making, linking, renaming and removing. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <unistd.h>

#include "share/p9_server.h"

#define REMOVE_FOLDER 0x200 /* Tunlinkat's flag */

/* A fid of a folder, and a name for a thing in it: the start of most messages here. Returns its descriptor.
 */
static int get_place(struct p9_call *call, struct p9_fid **folder, char name[NAME_MAX + 1])
{
	int error;

	*folder = p9_get_fid(call);
	error = p9_get_name(call, name);
	if (!*folder)
		return -EBADF;
	return error ? error : node_fd(call->server->tree, (*folder)->node);
}

/* What was just made gets its owner, and its mode whatever Nestor's own umask is; then its qid is the answer.
 */
static int made(struct p9_call *call, struct p9_fid *folder, const char *name, mode_t mode, uint32_t group)
{
	struct p9_server *server = call->server;
	struct node *node;
	struct stat status;
	char path[32];
	int error = tree_lookup(server->tree, folder->node, name, &node), fd;

	if (error)
		return error;
	fd = node_path(server->tree, node, path);
	error = fd < 0 ? fd : 0;
	if (!error && server->root &&
	    fchownat(fd, "", folder->user, group == UINT32_MAX ? (gid_t)-1 : group, AT_EMPTY_PATH))
		error = -errno;
	if (!error && !S_ISLNK(node->type) && chmod(path, mode))
		error = -errno;
	if (!error)
		error = node_stat(server->tree, node, &status);
	if (!error)
		p9_put_qid(call, &status);
	node_release(server->tree, node);
	return error;
}

int p9_symlink(struct p9_call *call)
{
	char name[NAME_MAX + 1], target[PATH_MAX];
	struct p9_fid *folder;
	int fd = get_place(call, &folder, name), error;

	if (fd < 0)
		return fd;
	error = p9_get_text(call, target, sizeof(target));
	if (!error && symlinkat(target, fd, name))
		error = -errno;
	return error ? error : made(call, folder, name, 0777, p9_get32(&call->in));
}

int p9_mknod(struct p9_call *call)
{
	char name[NAME_MAX + 1];
	struct p9_fid *folder;
	int fd = get_place(call, &folder, name);
	mode_t mode = p9_get32(&call->in);

	p9_get64(&call->in); /* major, minor */
	if (fd < 0)
		return fd;
	/* A device's node on the host would be a way out of the guest. */
	if (!S_ISFIFO(mode) && !S_ISSOCK(mode) && !S_ISREG(mode))
		return -EPERM;
	if (mknodat(fd, name, (mode & S_IFMT) | (mode & 0777), 0))
		return -errno;
	return made(call, folder, name, mode & 0777, p9_get32(&call->in));
}

int p9_mkdir(struct p9_call *call)
{
	char name[NAME_MAX + 1];
	struct p9_fid *folder;
	int fd = get_place(call, &folder, name);
	mode_t mode = p9_get32(&call->in) & 01777;

	if (fd < 0)
		return fd;
	if (mkdirat(fd, name, mode))
		return -errno;
	return made(call, folder, name, mode, p9_get32(&call->in));
}

int p9_link(struct p9_call *call)
{
	struct p9_fid *folder = p9_get_fid(call), *fid = p9_get_fid(call);
	char name[NAME_MAX + 1], path[32];
	int error = p9_get_name(call, name), fd;

	if (!folder || !fid)
		return -EBADF;
	if (error)
		return error;
	error = node_path(call->server->tree, fid->node, path);
	if (error < 0)
		return error;
	fd = node_fd(call->server->tree, folder->node);
	if (fd < 0)
		return fd;
	return linkat(AT_FDCWD, path, fd, name, AT_SYMLINK_FOLLOW) ? -errno : 0;
}

int p9_readlink(struct p9_call *call)
{
	struct p9_fid *fid = p9_get_fid(call);
	char target[PATH_MAX];
	ssize_t size;
	int fd;

	if (!fid)
		return -EBADF;
	fd = node_fd(call->server->tree, fid->node);
	if (fd < 0)
		return fd;
	if (!S_ISLNK(fid->node->type))
		return -EINVAL;
	size = readlinkat(fd, "", target, sizeof(target) - 1);
	if (size < 0)
		return -errno;
	target[size] = 0;
	p9_put_string(&call->out, target);
	return 0;
}

/* ---- renaming and removing ---- */

static int rename_node(struct tree *tree, struct node *from, const char *name, struct node *to,
                       const char *new_name)
{
	int from_fd, to_fd;

	tree_prepare(tree, to, new_name);
	from_fd = node_fd(tree, from);
	to_fd = from_fd < 0 ? from_fd : node_fd(tree, to);
	if (to_fd < 0)
		return to_fd;
	if (from == to && strcmp(name, new_name) == 0)
		return faccessat(from_fd, name, F_OK, AT_SYMLINK_NOFOLLOW) ? -errno : 0;
	if (renameat(from_fd, name, to_fd, new_name))
		return -errno;
	tree_forget(tree, to, new_name);
	tree_renamed(tree, from, name, to, new_name);
	return 0;
}

int p9_rename(struct p9_call *call)
{
	struct p9_fid *fid = p9_get_fid(call), *folder;
	char name[NAME_MAX + 1], old[NAME_MAX + 1];
	int fd = get_place(call, &folder, name);
	struct node *parent;

	if (!fid)
		return -EBADF;
	if (fd < 0)
		return fd;
	parent = fid->node->parent;
	if (!parent)
		return fid->node->detached ? -ESTALE : -EBUSY;
	snprintf(old, sizeof(old), "%s", fid->node->name);
	return rename_node(call->server->tree, parent, old, folder->node, name);
}

int p9_renameat(struct p9_call *call)
{
	char name[NAME_MAX + 1], new_name[NAME_MAX + 1];
	struct p9_fid *from, *to;
	int from_fd = get_place(call, &from, name), to_fd = get_place(call, &to, new_name);

	if (from_fd < 0 || to_fd < 0)
		return from_fd < 0 ? from_fd : to_fd;
	return rename_node(call->server->tree, from->node, name, to->node, new_name);
}

static int unlink_name(struct tree *tree, struct node *folder, const char *name, int flags)
{
	int fd;

	tree_prepare(tree, folder, name);
	fd = node_fd(tree, folder);
	if (fd < 0)
		return fd;
	if (unlinkat(fd, name, flags))
		return -errno;
	tree_forget(tree, folder, name);
	return 0;
}

int p9_unlinkat(struct p9_call *call)
{
	char name[NAME_MAX + 1];
	struct p9_fid *folder;
	int fd = get_place(call, &folder, name);
	uint32_t flags = p9_get32(&call->in);

	if (fd < 0)
		return fd;
	if (flags & ~REMOVE_FOLDER)
		return -EINVAL;
	return unlink_name(call->server->tree, folder->node, name, flags & REMOVE_FOLDER ? AT_REMOVEDIR : 0);
}

/* The fid is gone afterwards, whether or not the file is. */
int p9_remove(struct p9_call *call)
{
	struct p9_server *server = call->server;
	struct p9_fid *fid = p9_get_fid(call);
	char name[NAME_MAX + 1];
	struct node *parent;
	int error;

	if (!fid)
		return -EBADF;
	parent = fid->node->parent;
	if (server->read_only) {
		error = -EROFS;
	} else if (!parent) {
		error = fid->node->detached ? -ESTALE : -EBUSY;
	} else {
		snprintf(name, sizeof(name), "%s", fid->node->name);
		error = unlink_name(server->tree, parent, name, S_ISDIR(fid->node->type) ? AT_REMOVEDIR : 0);
	}
	p9_drop_fid(server, fid);
	return error;
}

/* 9P's messages on open files: opening, creating, reading, writing, folders' entries, locks. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <sys/uio.h>
#include <unistd.h>

#include "share/p9_server.h"
#include "util/hash.h"

#define READ_HEADER  (P9_HEADER + 4)         /* Rread, Rreaddir: count */
#define WRITE_HEADER (P9_HEADER + 4 + 8 + 4) /* Twrite: fid, offset, count */
#define ENTRIES_SIZE 8192
#define ENTRY_FIXED  (13 + 8 + 1 + 2)

#define P9_LOCK_SUCCESS 0
#define P9_LOCK_BLOCKED 1
#define P9_LOCK_READ    0
#define P9_LOCK_WRITE   1
#define P9_LOCK_NONE    2

/* What of open's flags, whose numbers are Linux's on x86, reaches the host. */
#define FLAGS_TAKEN  (O_ACCMODE | O_TRUNC | O_APPEND | O_DSYNC | O_SYNC)
#define FLAGS_ALWAYS (O_CLOEXEC | O_NONBLOCK | O_NOCTTY)

/* ---- opening ---- */

static int may_open(const struct p9_server *server, const struct p9_fid *fid)
{
	if (!fid)
		return -EBADF;
	if (fid->fd >= 0)
		return -EBUSY;
	return server->open_count < server->open_max ? 0 : -EMFILE;
}

static int opened(struct p9_call *call, struct p9_fid *fid, int fd)
{
	struct stat status;

	fid->fd = fd;
	call->server->open_count++;
	if (fstat(fd, &status))
		return -errno;
	p9_put_qid(call, &status);
	p9_put(&call->out, 0, 4); /* iounit: as large as messages allow */
	return 0;
}

int p9_lopen(struct p9_call *call)
{
	struct p9_server *server = call->server;
	struct p9_fid *fid = p9_get_fid(call);
	int flags = (int)p9_get32(&call->in) & FLAGS_TAKEN, error = may_open(server, fid);
	bool writes = (flags & O_ACCMODE) != O_RDONLY || flags & O_TRUNC;
	char path[32];
	int fd;

	if (error)
		return error;
	if ((flags & O_ACCMODE) == O_ACCMODE)
		return -EINVAL;
	if (server->read_only && writes)
		return -EROFS;
	/* Devices, pipes and sockets are the guest's own: it never asks for them. */
	if (!S_ISREG(fid->node->type) && !S_ISDIR(fid->node->type))
		return S_ISLNK(fid->node->type) ? -ELOOP : -ENXIO;
	if (S_ISDIR(fid->node->type) && writes)
		return -EISDIR;
	fd = node_path(server->tree, fid->node, path);
	if (fd < 0)
		return fd;
	fd = open(path, flags | FLAGS_ALWAYS);
	return fd < 0 ? -errno : opened(call, fid, fd);
}

/* A file that is made gets the mode and owner that the guest says; no set-user-ID bits get out of the guest.
 */
static int create(struct p9_call *call, struct p9_fid *fid, int parent, const char *name, int flags,
                  mode_t mode, uint32_t group)
{
	int fd = openat(parent, name, flags | O_CREAT | O_EXCL | O_NOFOLLOW | FLAGS_ALWAYS, mode & 0777);

	if (fd >= 0) {
		if (fchmod(fd, mode & 0777) ||
		    (call->server->root && fchown(fd, fid->user, group == UINT32_MAX ? (gid_t)-1 : group)))
			goto fail;
		return fd;
	}
	if (errno != EEXIST || flags & O_EXCL)
		return -errno;
	fd = openat(parent, name, (flags & ~O_EXCL) | O_NOFOLLOW | FLAGS_ALWAYS);
	return fd < 0 ? -errno : fd;
fail:
	parent = -errno;
	close(fd);
	return parent;
}

int p9_lcreate(struct p9_call *call)
{
	struct p9_server *server = call->server;
	struct p9_fid *fid = p9_get_fid(call);
	struct stat status = {0};
	char name[NAME_MAX + 1];
	uint32_t mode, group;
	struct node *node;
	int error = p9_get_name(call, name), flags, fd;

	flags = (int)p9_get32(&call->in) & (FLAGS_TAKEN | O_EXCL);
	mode = p9_get32(&call->in);
	group = p9_get32(&call->in);
	if (!error)
		error = may_open(server, fid);
	if (error || call->in.bad)
		return error ? error : -EBADMSG;
	if ((flags & O_ACCMODE) == O_ACCMODE)
		return -EINVAL;
	fd = node_fd(server->tree, fid->node);
	if (fd < 0)
		return fd;
	fd = create(call, fid, fd, name, flags, mode, group);
	if (fd < 0)
		return fd;
	error = fstat(fd, &status) ? -errno : S_ISREG(status.st_mode) ? 0 : -EEXIST;
	if (!error)
		error = tree_lookup(server->tree, fid->node, name, &node);
	if (!error && (node->inode != status.st_ino || node->device != status.st_dev)) {
		node_release(server->tree, node);
		error = -ESTALE;
	}
	if (error) {
		close(fd);
		return error;
	}
	node_release(server->tree, fid->node);
	fid->node = node;
	return opened(call, fid, fd);
}

/* ---- reading and writing ---- */

static struct p9_fid *get_open_fid(struct p9_call *call)
{
	struct p9_fid *fid = p9_get_fid(call);

	return fid && fid->fd >= 0 ? fid : NULL;
}

/* How many bytes of data an answer may have: what was asked, what the message size and the buffer allow. */
static size_t answer_room(const struct p9_call *call, uint32_t count, size_t limit)
{
	size_t room = call->request->out_size < limit ? call->request->out_size : limit;

	room = room < call->server->size_max ? room : call->server->size_max;
	room = room > READ_HEADER ? room - READ_HEADER : 0;
	return count < room ? count : room;
}

int p9_read(struct p9_call *call)
{
	struct p9_fid *fid = get_open_fid(call);
	uint64_t offset = p9_get64(&call->in);
	size_t count = answer_room(call, p9_get32(&call->in), SIZE_MAX);
	struct iovec iov[IOV_MAX];
	unsigned pieces;
	ssize_t got;

	if (!fid)
		return -EBADF;
	pieces = p9_slice(iov, call->request->out, call->request->out_count, READ_HEADER, count);
	got = preadv(fid->fd, iov, (int)pieces, (off_t)offset);
	if (got < 0)
		return -errno;
	p9_put(&call->out, (uint64_t)got, 4);
	call->data = (size_t)got;
	return 0;
}

int p9_write(struct p9_call *call)
{
	struct p9_fid *fid = get_open_fid(call);
	uint64_t offset = p9_get64(&call->in);
	uint32_t count = p9_get32(&call->in);
	struct iovec iov[IOV_MAX];
	unsigned pieces;
	ssize_t written;

	if (!fid)
		return -EBADF;
	if (call->in.bad || count > call->request->in_size - WRITE_HEADER)
		return -EBADMSG;
	pieces = p9_slice(iov, call->request->in, call->request->in_count, WRITE_HEADER, count);
	written = pwritev(fid->fd, iov, (int)pieces, (off_t)offset);
	if (written < 0)
		return -errno;
	p9_put(&call->out, (uint64_t)written, 4);
	return 0;
}

int p9_fsync(struct p9_call *call)
{
	struct p9_fid *fid = get_open_fid(call);
	bool data_only = call->in.left >= 4 && p9_get32(&call->in);

	if (!fid)
		return -EBADF;
	return (data_only ? fdatasync(fid->fd) : fsync(fid->fd)) ? -errno : 0;
}

/* ---- a folder's entries ---- */

static void put_entry(struct p9_call *call, const struct p9_fid *fid, const struct dirent64 *entry)
{
	struct stat status = {
	    .st_dev = fid->node->device, .st_ino = entry->d_ino, .st_mode = DTTOIF(entry->d_type)};

	/* What lies above the shared folder is nobody's business. */
	if (strcmp(entry->d_name, "..") == 0 && !fid->node->parent)
		status.st_ino = fid->node->inode;
	p9_put_qid(call, &status);
	p9_put(&call->out, (uint64_t)entry->d_off, 8);
	p9_put(&call->out, entry->d_type, 1);
	p9_put_string(&call->out, entry->d_name);
}

/* Puts entries from the folder's present position on while they fit into `room` bytes. */
static int put_entries(struct p9_call *call, const struct p9_fid *fid, size_t room)
{
	_Alignas(struct dirent64) char entries[ENTRIES_SIZE];
	size_t start = call->out.size;

	for (;;) {
		ssize_t size = getdents64(fid->fd, entries, sizeof(entries));

		if (size <= 0)
			return size < 0 ? -errno : 0;
		for (ssize_t at = 0; at < size;) {
			const struct dirent64 *entry = (const struct dirent64 *)(entries + at);

			if (call->out.size - start + ENTRY_FIXED + strlen(entry->d_name) > room)
				return call->out.size == start ? -EINVAL : 0;
			put_entry(call, fid, entry);
			at += entry->d_reclen;
		}
	}
}

int p9_readdir(struct p9_call *call)
{
	struct p9_fid *fid = get_open_fid(call);
	uint64_t offset = p9_get64(&call->in);
	size_t room = answer_room(call, p9_get32(&call->in), P9_MESSAGE_MAX), start;
	struct p9_writer count;
	int error;

	if (!fid)
		return -EBADF;
	if (!S_ISDIR(fid->node->type))
		return -ENOTDIR;
	if (lseek(fid->fd, (off_t)offset, SEEK_SET) < 0)
		return -errno;
	count = call->out;
	p9_put(&call->out, 0, 4);
	start = call->out.size;
	error = put_entries(call, fid, room);
	if (error)
		return error;
	p9_put(&count, call->out.size - start, 4);
	return 0;
}

/* ---- locks: the guest's are the host's, between all who share the folder ---- */

static int get_lock(struct p9_call *call, bool has_flags, struct flock *lock, char client[256])
{
	uint8_t type = p9_get8(&call->in);
	uint64_t start, length;
	int error;

	if (has_flags)
		p9_get32(&call->in); /* whether to wait: the client asks again */
	start = p9_get64(&call->in);
	length = p9_get64(&call->in);
	p9_get32(&call->in); /* the guest's process */
	error = p9_get_text(call, client, 256);
	if (error)
		return error;
	if (type > P9_LOCK_NONE || start > INT64_MAX || length > INT64_MAX)
		return -EINVAL;
	*lock = (struct flock){
	    .l_type = type == P9_LOCK_READ    ? F_RDLCK
	              : type == P9_LOCK_WRITE ? F_WRLCK
	                                      : F_UNLCK,
	    .l_whence = SEEK_SET,
	    .l_start = (off_t)start,
	    .l_len = (off_t)length,
	};
	return 0;
}

int p9_lock(struct p9_call *call)
{
	struct p9_fid *fid = get_open_fid(call);
	struct flock lock;
	char client[256];
	int error = get_lock(call, true, &lock, client);
	uint8_t result = P9_LOCK_SUCCESS;

	if (!fid || error)
		return fid ? error : -EBADF;
	if (fcntl(fid->fd, F_OFD_SETLK, &lock)) {
		if (errno != EAGAIN && errno != EACCES)
			return -errno;
		result = P9_LOCK_BLOCKED;
	}
	p9_put(&call->out, result, 1);
	return 0;
}

int p9_getlock(struct p9_call *call)
{
	struct p9_fid *fid = get_open_fid(call);
	struct flock lock;
	char client[256];
	int error = get_lock(call, false, &lock, client);

	if (!fid || error)
		return fid ? error : -EBADF;
	if (lock.l_type == F_UNLCK)
		return -EINVAL;
	if (fcntl(fid->fd, F_OFD_GETLK, &lock))
		return -errno;
	p9_put(&call->out,
	       lock.l_type == F_RDLCK   ? P9_LOCK_READ
	       : lock.l_type == F_WRLCK ? P9_LOCK_WRITE
	                                : P9_LOCK_NONE,
	       1);
	p9_put(&call->out, (uint64_t)lock.l_start, 8);
	p9_put(&call->out, (uint64_t)lock.l_len, 8);
	p9_put(&call->out, lock.l_pid > 0 ? (uint32_t)lock.l_pid : 0, 4);
	p9_put_string(&call->out, client);
	return 0;
}

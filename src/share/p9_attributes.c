/* 9P's messages on attributes of files and of the file system. */
#include <errno.h>
#include <fcntl.h>
#include <sys/statfs.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "share/p9_server.h"

#define FS_TYPE 0x01021997 /* V9FS_MAGIC */

#define GETATTR_BASIC 0x7ff /* all of struct stat */

#define SETATTR_MODE      0x001
#define SETATTR_UID       0x002
#define SETATTR_GID       0x004
#define SETATTR_SIZE      0x008
#define SETATTR_ATIME     0x010
#define SETATTR_MTIME     0x020
#define SETATTR_ATIME_SET 0x080
#define SETATTR_MTIME_SET 0x100

struct attributes {
	uint32_t valid, mode, uid, gid;
	uint64_t size;
	struct timespec times[2];
};

static void put_time(struct p9_call *call, const struct timespec *time)
{
	p9_put(&call->out, (uint64_t)time->tv_sec, 8);
	p9_put(&call->out, (uint64_t)time->tv_nsec, 8);
}

int p9_getattr(struct p9_call *call)
{
	struct p9_fid *fid = p9_get_fid(call);
	struct stat status;
	int error;

	if (!fid)
		return -EBADF;
	if (fid->fd >= 0)
		error = fstat(fid->fd, &status) ? -errno : 0;
	else
		error = node_stat(call->server->tree, fid->node, &status);
	if (error)
		return error;
	p9_put(&call->out, GETATTR_BASIC, 8);
	p9_put_qid(call, &status);
	p9_put(&call->out, status.st_mode, 4);
	p9_put(&call->out, status.st_uid, 4);
	p9_put(&call->out, status.st_gid, 4);
	p9_put(&call->out, status.st_nlink, 8);
	/* As Linux encodes a device number for user space. */
	p9_put(&call->out,
	       (minor(status.st_rdev) & 0xff) | major(status.st_rdev) << 8 |
	           (minor(status.st_rdev) & ~0xffu) << 12,
	       8);
	p9_put(&call->out, (uint64_t)status.st_size, 8);
	p9_put(&call->out, (uint64_t)status.st_blksize, 8);
	p9_put(&call->out, (uint64_t)status.st_blocks, 8);
	put_time(call, &status.st_atim);
	put_time(call, &status.st_mtim);
	put_time(call, &status.st_ctim);
	for (unsigned i = 0; i < 4; i++)
		p9_put(&call->out, 0, 8); /* birth time, generation, data version */
	return 0;
}

/* The owner: without the right to change it, it stays, as in an archive that a user unpacks. */
static int set_owner(const struct p9_server *server, int fd, const struct attributes *set)
{
	uid_t uid = set->valid & SETATTR_UID ? set->uid : (uid_t)-1;
	gid_t gid = set->valid & SETATTR_GID ? set->gid : (gid_t)-1;

	if (fchownat(fd, "", uid, gid, AT_EMPTY_PATH) == 0 || (errno == EPERM && !server->root))
		return 0;
	return -errno;
}

static void choose_time(struct timespec *time, uint32_t valid, uint32_t wanted, uint32_t given)
{
	if (!(valid & wanted))
		time->tv_nsec = UTIME_OMIT;
	else if (!(valid & given))
		time->tv_nsec = UTIME_NOW;
}

static int apply(struct p9_server *server, struct p9_fid *fid, struct attributes *set)
{
	char path[32];
	int fd = node_path(server->tree, fid->node, path), error = 0;

	if (fd < 0)
		return fd;
	if (set->valid & (SETATTR_UID | SETATTR_GID))
		error = set_owner(server, fd, set);
	/* Set-user-ID and set-group-ID files would be the host's, too. */
	if (!error && set->valid & SETATTR_MODE && chmod(path, set->mode & 01777))
		error = -errno;
	if (!error && set->valid & SETATTR_SIZE) {
		if (!S_ISREG(fid->node->type))
			error = S_ISDIR(fid->node->type) ? -EISDIR : -EINVAL;
		else if (fid->fd < 0 || ftruncate(fid->fd, (off_t)set->size))
			error = truncate(path, (off_t)set->size) ? -errno : 0;
	}
	choose_time(&set->times[0], set->valid, SETATTR_ATIME, SETATTR_ATIME_SET);
	choose_time(&set->times[1], set->valid, SETATTR_MTIME, SETATTR_MTIME_SET);
	if (!error && set->valid & (SETATTR_ATIME | SETATTR_MTIME) &&
	    utimensat(AT_FDCWD, path, set->times, 0))
		error = -errno;
	return error;
}

int p9_setattr(struct p9_call *call)
{
	struct p9_fid *fid = p9_get_fid(call);
	struct attributes set;

	set.valid = p9_get32(&call->in);
	set.mode = p9_get32(&call->in);
	set.uid = p9_get32(&call->in);
	set.gid = p9_get32(&call->in);
	set.size = p9_get64(&call->in);
	for (unsigned i = 0; i < 2; i++) {
		set.times[i].tv_sec = (time_t)p9_get64(&call->in);
		set.times[i].tv_nsec = (long)p9_get64(&call->in);
		if (set.times[i].tv_nsec < 0 || set.times[i].tv_nsec > 999999999)
			set.times[i].tv_nsec = 0;
	}
	if (call->in.bad)
		return -EBADMSG;
	return fid ? apply(call->server, fid, &set) : -EBADF;
}

int p9_statfs(struct p9_call *call)
{
	struct p9_fid *fid = p9_get_fid(call);
	struct statfs status;
	int fd;

	if (!fid)
		return -EBADF;
	fd = node_fd(call->server->tree, fid->node);
	if (fd < 0)
		return fd;
	if (fstatfs(fd, &status))
		return -errno;
	p9_put(&call->out, FS_TYPE, 4);
	p9_put(&call->out, (uint64_t)status.f_bsize, 4);
	p9_put(&call->out, status.f_blocks, 8);
	p9_put(&call->out, status.f_bfree, 8);
	p9_put(&call->out, status.f_bavail, 8);
	p9_put(&call->out, status.f_files, 8);
	p9_put(&call->out, status.f_ffree, 8);
	p9_put(&call->out, call->server->device, 8);
	p9_put(&call->out, NAME_MAX, 4);
	return 0;
}

/* Extended attributes (and access control lists and capabilities with them) are not shared. */
int p9_xattrwalk(struct p9_call *call)
{
	return p9_get_fid(call) ? -EOPNOTSUPP : -EBADF;
}

int p9_xattrcreate(struct p9_call *call)
{
	return p9_get_fid(call) ? -EOPNOTSUPP : -EBADF;
}

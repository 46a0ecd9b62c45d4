/*
 * Raw files and block devices, by ordinary positional reads and writes in a few threads: they work on every file
 * system and in every sandbox, and the page cache makes most of them short.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "block/driver.h"
#include "block/iov.h"
#include "util/error.h"

#define PIECES 64

struct raw {
	struct block block;
	int fd;
	bool device;
	bool guessed; /* nobody said that it is raw: see guarded_head */
	atomic_flag guard_told;
	/*
	 * After a failed fdatasync the kernel may have dropped the data and calls the next one a success; so the first
	 * failure holds for all that follow.
	 */
	atomic_int sync_error;
};

/* ---- transfers ---- */

/* Moves [done, request->length) of the request. */
static int transfer(struct raw *raw, const struct block_request *request, uint64_t done)
{
	while (done < request->length) {
		struct iovec piece[PIECES];
		uint64_t offset = request->offset + done, size;
		unsigned count = iov_slice(request->iov, request->iov_count, done, request->length - done,
		                           piece, PIECES, &size);
		ssize_t moved = request->operation == BLOCK_READ
		                    ? preadv(raw->fd, piece, (int)count, (off_t)offset)
		                    : pwritev(raw->fd, piece, (int)count, (off_t)offset);

		if (moved < 0 && errno == EINTR)
			continue;
		if (moved < 0)
			return -errno;
		if (moved == 0)
			return -EIO; /* somebody has cut the file short */
		done += (uint64_t)moved;
	}
	return 0;
}

/*
 * A guest must not turn its raw disk into another format by what it writes: opened again without format=, the image
 * would be read as, say, qcow2, and its header can name any of the host's files as backing file. Checked and written
 * from a copy, for the guest can change its memory meanwhile. Returns how much was written, or a negative errno.
 */
static int guarded_head(struct raw *raw, const struct block_request *request)
{
	uint8_t head[PROBE_SIZE] = {0};
	uint64_t size = request->length < sizeof(head) ? request->length : sizeof(head);
	struct iovec iov = {head, size};
	struct block_request copy = *request;
	const char *format;
	int error;

	iov_copy(IOV_GATHER, request->iov, request->iov_count, 0, head, size);
	format = probe_format(head);
	if (format) {
		if (!atomic_flag_test_and_set(&raw->guard_told))
			block_warn(&raw->block,
				   "%s: the guest may not write a %s header to the first sector of an image whose format was "
				   "guessed to be raw; say format=raw to allow it",
				   raw->block.file, format);
		return -EPERM;
	}
	copy.iov = &iov;
	copy.iov_count = 1;
	copy.length = size;
	error = transfer(raw, &copy, 0);
	return error ? error : (int)size;
}

static int sync_data(struct raw *raw)
{
	int error = atomic_load(&raw->sync_error);

	if (error)
		return -error;
	if (!fdatasync(raw->fd))
		return 0;
	error = errno;
	/* What cannot be synchronized (some special files) has nothing to lose. */
	if (error == EINVAL || error == EROFS)
		return 0;
	atomic_store(&raw->sync_error, error);
	block_warn(&raw->block,
	           "%s: data that the guest had written was lost: %s; all its flushes fail from now on",
	           raw->block.file, strerror(error));
	return -error;
}

static int write_data(struct raw *raw, const struct block_request *request)
{
	int done = 0;

	if (raw->guessed && request->offset == 0) {
		done = guarded_head(raw, request);
		if (done < 0)
			return done;
	}
	return transfer(raw, request, (uint64_t)done);
}

/* ---- holes and zeros ---- */

static int discard(struct raw *raw, const struct block_request *request)
{
	uint64_t range[2] = {request->offset, request->length};
	int result = raw->device ? ioctl(raw->fd, BLKDISCARD, range)
	                         : fallocate(raw->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
	                                     (off_t)request->offset, (off_t)request->length);

	return result < 0 && errno == EIO ? -EIO : 0; /* advice that cannot be followed is no error */
}

static int write_zeros_by_hand(struct raw *raw, const struct block_request *request)
{
	static const uint8_t zeros[64 << 10];
	uint64_t done = 0;

	while (done < request->length) {
		uint64_t left = request->length - done;
		ssize_t moved = pwrite(raw->fd, zeros, left < sizeof(zeros) ? left : sizeof(zeros),
		                       (off_t)(request->offset + done));

		if (moved < 0 && errno == EINTR)
			continue;
		if (moved <= 0)
			return moved < 0 ? -errno : -EIO;
		done += (uint64_t)moved;
	}
	return 0;
}

static int write_zeroes(struct raw *raw, const struct block_request *request)
{
	int how = request->keep_room ? FALLOC_FL_ZERO_RANGE : FALLOC_FL_PUNCH_HOLE;

	if (!fallocate(raw->fd, how | FALLOC_FL_KEEP_SIZE, (off_t)request->offset, (off_t)request->length))
		return 0;
	return errno == EIO || errno == ENOSPC ? -errno : write_zeros_by_hand(raw, request);
}

static int raw_run(struct block *block, struct block_request *request)
{
	struct raw *raw = (struct raw *)block;
	int result = 0;

	switch (request->operation) {
	case BLOCK_READ:
		return transfer(raw, request, 0);
	case BLOCK_FLUSH:
		return block->read_only ? 0 : sync_data(raw);
	case BLOCK_DISCARD:
		return discard(raw, request);
	case BLOCK_WRITE:
		result = write_data(raw, request);
		break;
	case BLOCK_WRITE_ZEROES:
		result = write_zeroes(raw, request);
		break;
	}
	if (!result && request->durable)
		result = sync_data(raw);
	return result;
}

static void raw_close(struct block *block)
{
	struct raw *raw = (struct raw *)block;

	block_fini(block);
	close(raw->fd);
	free(raw);
}

static const struct block_driver raw_driver = {.run = raw_run, .close = raw_close};

/* ---- opening ---- */

int raw_open_fd(struct block **block, const struct block_config *config, int fd, uint64_t size)
{
	struct raw *raw = calloc(1, sizeof(*raw));
	int error = raw ? block_init(&raw->block, &raw_driver, config, "raw", BLOCK_THREADS_MAX)
			: error_set(ENOMEM, "out of memory");

	if (error) {
		close(fd);
		free(raw);
		return error;
	}
	raw->fd = fd;
	raw->block.exact_size = size;
	*block = &raw->block;
	return 0;
}

/*
 * An open-file-description lock on the whole file: a writer excludes all others, readers only writers. QEMU's own
 * locks are of this kind too and exclude ours. A file system without locks goes without.
 */
static int lock_file(int fd, const struct block_config *config)
{
	struct flock lock = {.l_type = config->read_only ? F_RDLCK : F_WRLCK, .l_whence = SEEK_SET};

	if (!fcntl(fd, F_OFD_SETLK, &lock) || (errno != EAGAIN && errno != EACCES))
		return 0;
	if (config->read_only)
		return error_set(EBUSY, "%s is being written by another process (another virtual machine?); stop that first",
				 config->file);
	return error_set(EBUSY, "%s is in use by another process (another virtual machine?); stop that first, or give "
				"readonly or snapshot to both", config->file);
}

/* What was opened: its kind and size. */
static int examine(const struct block_config *config, int fd, uint64_t *size, bool *device)
{
	struct stat status;

	if (fstat(fd, &status))
		return error_set(errno, "cannot examine %s: %s", config->file, strerror(errno));
	*device = S_ISBLK(status.st_mode);
	if (!*device && !S_ISREG(status.st_mode))
		return error_set(EINVAL, "%s is %s; a disk must be a file or a block device", config->file,
				 S_ISDIR(status.st_mode) ? "a folder" : "no ordinary file");
	*size = (uint64_t)status.st_size;
	if (*device && ioctl(fd, BLKGETSIZE64, size))
		return error_set(errno, "cannot find the size of %s: %s", config->file, strerror(errno));
	return 0;
}

/* Opening a folder for writing fails before it can be named. */
static int open_error(const struct block_config *config, int error)
{
	if (error == EISDIR)
		return error_set(EISDIR, "%s is a folder; a disk must be a file or a block device",
		                 config->file);
	if (error == EBUSY)
		return error_set(EBUSY, "%s is in use by this host (mounted?); unmount it, or give readonly",
		                 config->file);
	if (!config->read_only && (error == EACCES || error == EROFS || error == EPERM) &&
	    !access(config->file, R_OK))
		return error_set(error, "cannot open %s for writing: %s; give readonly or snapshot, or change its permissions",
				 config->file, strerror(error));
	return error_set(error, "cannot open %s: %s", config->file, strerror(error));
}

int raw_open(struct block **block, const struct block_config *config, bool guessed)
{
	struct stat status;
	int flags = O_CLOEXEC | O_NONBLOCK | (config->read_only ? O_RDONLY : O_RDWR);
	uint64_t size = 0;
	bool device = false;
	int fd, error;

	/* On a block device O_EXCL asks whether the host uses it, as by a mount. */
	if (!config->read_only && !stat(config->file, &status) && S_ISBLK(status.st_mode))
		flags |= O_EXCL;
	fd = open(config->file, flags);
	if (fd < 0)
		return open_error(config, errno);
	error = examine(config, fd, &size, &device);
	if (!error)
		error = lock_file(fd, config);
	if (error) {
		close(fd);
		return error;
	}
	error = raw_open_fd(block, config, fd, size);
	if (error)
		return error;
	((struct raw *)*block)->device = device;
	((struct raw *)*block)->guessed = guessed;
	return 0;
}
